// The memory pool behind large output arrays and arenas: blocks are recycled, because touching fresh pages costs
// 2.7 GB/s where writing warm ones costs 14-28.
#pragma once
#include <cstddef>

namespace fastnn::runtime {

// 64-byte aligned (2 MB aligned, on huge pages where the system allows, from 2 MB on). nullptr when out of memory.
void* pool_allocate(size_t bytes);
[[noreturn]] void out_of_memory(size_t bytes);  // says so and ends the program: kernels cannot fail
void pool_free(void* block, size_t bytes);      // the bytes it was asked for
size_t pool_cached_bytes();                     // held for reuse
size_t pool_limit();                            // the most that is held: a quarter of memory, at most 4 GB
void pool_release();                            // gives all cached blocks back to the system

}  // namespace fastnn::runtime

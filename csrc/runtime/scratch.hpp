// Scratch memory for kernels: per thread, grown on demand, kept between calls, 64-byte aligned, contents undefined.
#pragma once
#include <cstddef>

namespace fastnn::runtime {

// Two slots, so that a driver that holds a buffer for all its tasks (kShared) can run tasks on its own thread that hold
// buffers of their own (kTask). A second call for the same slot on the same thread invalidates the first.
// Never nullptr: kernels cannot fail, so a system without memory for a few cache-sized buffers ends the program, in
// words.
enum class Slot { kShared, kTask };
void* scratch(Slot slot, size_t bytes);

// Gives back this thread's scratch memory.
void release_scratch();

}  // namespace fastnn::runtime

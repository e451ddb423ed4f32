// See pool.hpp.
#include "runtime/pool.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "runtime/cgroup.hpp"
#include "runtime/fork.hpp"
#if defined(__has_feature)  // clang
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace fastnn::runtime {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHuge = size_t{2} << 20;

// Sizes are rounded up to classes, four to a doubling, so that a block serves requests of its neighbourhood and at most
// a quarter of it lies idle: 64, 128, 192, 256, 320, 384, 448, 512, 640, ... and multiples of 2 MB from there on.
struct SizeClass {
  int index;
  size_t bytes;
};
constexpr SizeClass size_class(size_t bytes) {
  if (bytes <= 4 * kLine) {
    const size_t lines = bytes == 0 ? 1 : (bytes + kLine - 1) / kLine;
    return {static_cast<int>(lines) - 1, lines * kLine};
  }
  const int doubling = 63 - __builtin_clzll(bytes - 1);  // 2^doubling < bytes <= 2^(doubling + 1)
  const size_t step = size_t{1} << (doubling - 2);
  const size_t steps = (bytes + step - 1) / step;  // 5..8
  const size_t rounded = steps * step;
  return {4 * (doubling - 8) + 4 + static_cast<int>(steps) - 5,
          rounded < kHuge ? rounded : (rounded + kHuge - 1) / kHuge * kHuge};
}
constexpr size_t kLargest = size_t{1} << 46;  // half the address space; more is refused
constexpr int kClasses = size_class(kLargest).index + 1;

// A cached block describes itself, in its own first cache line: the list of its class (last freed, first reused, since
// it is the warmest) and the list of all, oldest last.
struct Block {
  Block *class_previous, *class_next, *older, *newer;
  size_t bytes;
  int index;
};

std::mutex g_mutex;
Block* g_class[kClasses];
Block *g_oldest, *g_newest;
size_t g_cached, g_limit;

static_assert(sizeof(Block) <= kLine);

// How much may lie idle: a quarter of the memory that the machine or the container has, at most 4 GB. A training step
// of a ResNet at batch 32 frees and takes again about 1 GB, which must fit; a process that has gone on to other things
// must not sit on the machine. The oldest blocks go first, so sizes that are no longer asked for leave. The lock is
// held.
size_t cache_limit() {
  if (g_limit == 0) {
    const uint64_t pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
    const uint64_t machine = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t memory = std::min(machine, cgroup_memory_limit());
    g_limit = static_cast<size_t>(std::min(memory / 4, uint64_t{4} << 30));
  }
  return g_limit;
}

void* take_from_system(size_t bytes) {
  if (bytes < kHuge) return std::aligned_alloc(kLine, bytes);
  void* mapped = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (begin + kHuge - 1) / kHuge * kHuge;
  if (aligned > begin) munmap(mapped, aligned - begin);
  if (begin + kHuge > aligned) munmap(reinterpret_cast<void*>(aligned + bytes), begin + kHuge - aligned);
  void* block = reinterpret_cast<void*>(aligned);
#if defined(MADV_HUGEPAGE)
  madvise(block, bytes, MADV_HUGEPAGE);  // advice: a system that cannot leaves small pages
#endif
  return block;
}

void give_to_system(void* block, size_t bytes) {
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
  if (bytes < kHuge)
    std::free(block);
  else
    munmap(block, bytes);
}

[[maybe_unused]] const bool g_fork_handlers = register_fork_handlers();

// Under the address sanitizer what was not asked for is out of bounds.
void guard_tail(void* block, size_t asked, size_t bytes) {
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block) + asked, bytes - asked);
}

void unlink(Block* block) {
  (block->class_previous ? block->class_previous->class_next : g_class[block->index]) = block->class_next;
  if (block->class_next) block->class_next->class_previous = block->class_previous;
  (block->older ? block->older->newer : g_oldest) = block->newer;
  (block->newer ? block->newer->older : g_newest) = block->older;
  g_cached -= block->bytes;
}

void link(Block* block) {
  block->class_previous = nullptr;
  block->class_next = g_class[block->index];
  if (block->class_next) block->class_next->class_previous = block;
  g_class[block->index] = block;
  block->newer = nullptr;
  block->older = g_newest;
  (g_newest ? g_newest->newer : g_oldest) = block;
  g_newest = block;
  g_cached += block->bytes;
}

}  // namespace

void* pool_allocate(size_t bytes) {
  if (bytes > kLargest) return nullptr;
  const SizeClass size = size_class(bytes);
  {
    const std::lock_guard<std::mutex> lock(g_mutex);
    Block* block = g_class[size.index];
    if (block != nullptr) {
      unlink(block);
      ASAN_UNPOISON_MEMORY_REGION(block, size.bytes);
      guard_tail(block, bytes, size.bytes);
      return block;
    }
  }
  void* block = take_from_system(size.bytes);
  if (block == nullptr && pool_cached_bytes() > 0) {
    pool_release();
    block = take_from_system(size.bytes);
  }
  if (block != nullptr) guard_tail(block, bytes, size.bytes);
  return block;
}

void out_of_memory(size_t bytes) {
  std::fprintf(stderr, "fastnn: out of memory: no %zu bytes for a kernel\n", bytes);
  std::abort();
}

void pool_free(void* pointer, size_t bytes) {
  if (pointer == nullptr) return;
  const SizeClass size = size_class(bytes);
  ASAN_UNPOISON_MEMORY_REGION(pointer, size.bytes);
  const std::lock_guard<std::mutex> lock(g_mutex);
  if (size.bytes > cache_limit()) return give_to_system(pointer, size.bytes);
  while (g_cached + size.bytes > cache_limit()) {
    Block* block = g_oldest;
    unlink(block);
    give_to_system(block, block->bytes);
  }
  Block* block = static_cast<Block*>(pointer);
  block->bytes = size.bytes;
  block->index = size.index;
  link(block);
  // The whole block but its own description is out of bounds until it is handed out again.
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(pointer) + sizeof(Block), size.bytes - sizeof(Block));
}

void pool_before_fork() { g_mutex.lock(); }
void pool_after_fork() { g_mutex.unlock(); }

size_t pool_limit() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  return cache_limit();
}

size_t pool_cached_bytes() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  return g_cached;
}

void pool_release() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  while (g_oldest != nullptr) {
    Block* block = g_oldest;
    unlink(block);
    give_to_system(block, block->bytes);
  }
}

}  // namespace fastnn::runtime

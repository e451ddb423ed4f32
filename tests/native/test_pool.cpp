// The memory pool: alignment, reuse, its bound, threads, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "runtime/pool.hpp"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

using namespace fastnn::runtime;
constexpr size_t kHuge = size_t{2} << 20;

bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % (bytes >= kHuge ? kHuge : size_t{64}) == 0;
}

void aligned_and_usable_to_the_last_byte() {
  std::vector<size_t> sizes = {0};
  for (int shift = 0; shift <= 24; ++shift)
    for (int64_t delta : {-1, 0, 1}) sizes.push_back((size_t{1} << shift) + delta);
  for (int i = 0; i < 100; ++i) sizes.push_back(static_cast<size_t>(test::random(1, 5 << 20)));
  for (size_t bytes : sizes) {
    auto* p = static_cast<unsigned char*>(pool_allocate(bytes));
    CHECK(p != nullptr && aligned(p, bytes), "%zu bytes at %p", bytes, static_cast<void*>(p));
    if (bytes > 0) p[0] = p[bytes / 2] = p[bytes - 1] = 1;
    pool_free(p, bytes);
  }
}

void live_blocks_do_not_overlap() {
  struct Live {
    unsigned char* data;
    size_t bytes;
    unsigned char mark;
  };
  std::vector<Live> live;
  for (int step = 0; step < 3000; ++step) {
    if (live.size() < 40 && test::random(0, 1) == 0) {
      const size_t bytes =
          static_cast<size_t>(test::random(0, 3) == 0 ? test::random(1, 3 << 20) : test::random(1, 5000));
      const auto mark = static_cast<unsigned char>(test::random());
      auto* data = static_cast<unsigned char*>(pool_allocate(bytes));
      std::memset(data, mark, bytes);
      live.push_back({data, bytes, mark});
    } else if (!live.empty()) {
      const size_t i = static_cast<size_t>(test::random(0, static_cast<int64_t>(live.size()) - 1));
      size_t intact = 0;
      while (intact < live[i].bytes && live[i].data[intact] == live[i].mark) ++intact;
      CHECK(intact == live[i].bytes, "byte %zu of %zu was overwritten", intact, live[i].bytes);
      pool_free(live[i].data, live[i].bytes);
      live[i] = live.back();
      live.pop_back();
    }
  }
  for (const Live& block : live) pool_free(block.data, block.bytes);
}

void freed_blocks_come_back() {
  pool_release();
  CHECK(pool_cached_bytes() == 0, "%zu bytes left after the release", pool_cached_bytes());
  for (size_t bytes : {size_t{100}, size_t{70000}, size_t{5} << 20}) {
    void* first = pool_allocate(bytes);
    pool_free(first, bytes);
    const size_t cached = pool_cached_bytes();
    CHECK(cached >= bytes && cached <= bytes + bytes / 3 + kHuge, "%zu bytes cached for %zu", cached, bytes);
    void* second = pool_allocate(bytes - bytes / 64);  // a neighbour of the same class
    CHECK(second == first, "a block of %zu bytes was not reused", bytes);
    CHECK(pool_cached_bytes() == 0, "%zu bytes cached while in use", pool_cached_bytes());
    pool_free(second, bytes - bytes / 64);
    pool_release();
    CHECK(pool_cached_bytes() == 0, "%zu bytes left after the release", pool_cached_bytes());
  }
}

void the_last_freed_is_the_first_reused() {
  void* a = pool_allocate(1 << 20);
  void* b = pool_allocate(1 << 20);
  pool_free(a, 1 << 20);
  pool_free(b, 1 << 20);
  void* c = pool_allocate(1 << 20);
  CHECK(c == b, "the colder of two blocks was handed out");
  pool_free(c, 1 << 20);
}

// Blocks are mostly untouched address space here: the limit is reached without using as much memory.
void bounded_and_the_oldest_leave_first() {
  pool_release();
  const size_t limit = pool_limit(), bytes = limit / 8 / kHuge * kHuge;
  CHECK(limit >= (size_t{64} << 20), "the limit is %zu", limit);
  std::vector<void*> blocks;
  void* small = pool_allocate(4096);
  pool_free(small, 4096);  // the oldest
  for (int i = 0; i < 12; ++i) blocks.push_back(pool_allocate(bytes));
  for (void* block : blocks) {
    CHECK(block != nullptr, "no %zu bytes", bytes);
    pool_free(block, bytes);
    CHECK(pool_cached_bytes() <= limit, "%zu cached, %zu allowed", pool_cached_bytes(), limit);
  }
  CHECK(pool_cached_bytes() > limit / 2, "only %zu of %zu are used", pool_cached_bytes(), limit);
  void* last = pool_allocate(bytes);
  CHECK(last == blocks.back(), "the newest block was given away");
  pool_free(last, bytes);
  const size_t before = pool_cached_bytes();
  void* again = pool_allocate(4096);
  CHECK(pool_cached_bytes() == before, "the oldest block was kept");
  pool_free(again, 4096);
  void* giant = pool_allocate(limit + kHuge);  // is never kept
  if (giant != nullptr) {
    const size_t cached = pool_cached_bytes();
    pool_free(giant, limit + kHuge);
    CHECK(pool_cached_bytes() == cached, "a block beyond the limit was kept");
  }
  pool_release();
}

void too_much_is_refused() {
  for (size_t bytes : {~size_t{0}, ~size_t{0} - 63, size_t{1} << 63, (size_t{1} << 46) + 1})
    CHECK(pool_allocate(bytes) == nullptr, "%zu bytes were granted", bytes);
}

void many_threads() {
  std::vector<std::thread> threads;
  std::atomic<int> broken{0};
  for (int id = 0; id < 4; ++id)
    threads.emplace_back([&, id] {
      uint32_t state = static_cast<uint32_t>(id) * 7919 + 1;
      for (int i = 0; i < 2000; ++i) {
        state = state * 1664525u + 1013904223u;
        const size_t bytes = 4096u << (state >> 29);
        auto* p = static_cast<unsigned char*>(pool_allocate(bytes));
        std::memset(p, id, 512);
        std::this_thread::yield();
        for (int k = 0; k < 512; ++k) broken += p[k] != id;
        pool_free(p, bytes);
        if (i % 500 == 0) pool_release();
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(broken == 0, "two threads had the same block");
}

void fork_while_another_thread_allocates() {
#if defined(__SANITIZE_THREAD__)
  std::printf("       not run: the thread sanitizer's own locks do not survive a fork from several threads\n");
#else
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) pool_free(pool_allocate(8192), 8192);
  });
  for (int i = 0; i < 100; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // a lock that was left shut ends the child
      void* p = pool_allocate(8192);
      pool_free(p, 8192);
      _exit(p != nullptr ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d ended with status %d", i, status);
  }
  stop = true;
  other.join();
#endif
}

void guarded_under_the_address_sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
  auto* p = static_cast<char*>(pool_allocate(70001));
  CHECK(!__asan_address_is_poisoned(p + 70000), "the last byte is out of bounds");
  CHECK(__asan_address_is_poisoned(p + 70001), "the byte after the end is in bounds");
  pool_free(p, 70001);
  CHECK(__asan_address_is_poisoned(p + 1000), "a freed block is in bounds");
#else
  std::printf("       not run: only under the address sanitizer\n");
#endif
}

}  // namespace

int main() {
  return test::run({{"aligned_and_usable_to_the_last_byte", aligned_and_usable_to_the_last_byte},
                    {"live_blocks_do_not_overlap", live_blocks_do_not_overlap},
                    {"freed_blocks_come_back", freed_blocks_come_back},
                    {"the_last_freed_is_the_first_reused", the_last_freed_is_the_first_reused},
                    {"bounded_and_the_oldest_leave_first", bounded_and_the_oldest_leave_first},
                    {"too_much_is_refused", too_much_is_refused},
                    {"many_threads", many_threads},
                    {"fork_while_another_thread_allocates", fork_while_another_thread_allocates},
                    {"guarded_under_the_address_sanitizer", guarded_under_the_address_sanitizer}});
}

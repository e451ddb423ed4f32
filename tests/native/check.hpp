// What the C++ tests share. A test file has functions `void name()` with CHECKs inside, and a main() that runs them:
//   int main() { return test::run({{"name", name}, ...}); }
// CHECK(condition, "printf-like words", ...) reports and goes on; any failure makes the program return 1.
// test::random() draws from one generator whose seed is printed when anything fails; FASTNN_TEST_SEED repeats it.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>

#if defined(__has_feature)  // clang
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

namespace test {

inline std::atomic<int> failures{0};

inline uint64_t seed() {
  static const uint64_t value = [] {
    const char* given = std::getenv("FASTNN_TEST_SEED");
    return given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  }();
  return value;
}

// Not for use from several threads at once.
inline uint64_t random() {
  static std::mt19937_64 generator(seed());
  return generator();
}
inline int64_t random(int64_t low, int64_t high) {  // both ends included
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

#define CHECK(condition, ...)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      ++test::failures;                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                           \
      std::fprintf(stderr, "\n");                                                  \
    }                                                                              \
  } while (0)

struct Case {
  const char* name;
  void (*run)();
};

inline int run(std::initializer_list<Case> cases) {
  for (const Case& test_case : cases) {
    const int before = failures;
    test_case.run();
    std::printf("%s %s\n", failures == before ? "ok    " : "FAILED", test_case.name);
    std::fflush(stdout);
  }
  if (failures > 0)
    std::fprintf(stderr, "%d failures; FASTNN_TEST_SEED=%llu repeats the draws\n", failures.load(),
                 static_cast<unsigned long long>(seed()));
  return failures == 0 ? 0 : 1;
}

}  // namespace test

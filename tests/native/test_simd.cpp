// Every function of csrc/simd/simd.hpp, on every instruction set that was compiled in and that this machine has.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>

#include "check.hpp"
#include "runtime/cpu.hpp"
#include "simd_probe.hpp"

uint64_t probe::random() { return test::random(); }

char* probe::readable_end() {
  static char* const end = [] {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* both = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (both == MAP_FAILED || mprotect(static_cast<char*>(both) + page, page, PROT_NONE) != 0) std::abort();
    return static_cast<char*>(both) + page;
  }();
  return end;
}

void probe::fail(const char* format, ...) {
  ++test::failures;
  va_list values;
  va_start(values, format);
  std::vfprintf(stderr, format, values);
  va_end(values);
  std::fputc('\n', stderr);
}

#define PROBE(isa)                                                                                 \
  void simd_probe_##isa();                                                                         \
  static void isa() {                                                                              \
    const char* lacks = fastnn::runtime::cpu_lacks(#isa);                                          \
    lacks ? static_cast<void>(std::printf("skipped: " #isa ": %s\n", lacks)) : simd_probe_##isa(); \
  }

PROBE(scalar)
#ifdef FASTNN_HAVE_AVX2
PROBE(avx2)
PROBE(avx512)
PROBE(amx)
#endif

int main() {
#ifdef FASTNN_HAVE_AVX2
  return test::run({{"scalar", scalar}, {"avx2", avx2}, {"avx512", avx512}, {"amx", amx}});
#else
  return test::run({{"scalar", scalar}});
#endif
}

// See cpu.hpp. Compiled for the baseline processor: runs before anything is known about the one at hand.
#include "runtime/cpu.hpp"

#include <cstdlib>
#include <cstring>
#include <iterator>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastnn::runtime {
namespace {

// One requirement of an instruction set: these bits of that word.
struct Need {
  uint64_t word, bits;
  const char* lacking;
};

const char* first_lacking(const Need* begin, const Need* end) {
  for (const Need* need = begin; need != end; ++need)
    if ((need->word & need->bits) != need->bits) return need->lacking;
  return nullptr;
}

constexpr uint64_t bit(int i) { return uint64_t{1} << i; }

// Asked once: the answer holds for the process and its children. A refusal is final too: it comes from a system without
// tiles, a policy (seccomp), or a thread whose alternate signal stack is too small for the 8 KB of tile registers.
bool request_tiles() {
  static const bool granted = [] {
    const char* refuse = std::getenv("FASTNN_TEST_REFUSE_TILES");
    if (refuse != nullptr && std::strcmp(refuse, "1") == 0) return false;
#if defined(__linux__) && defined(__x86_64__)
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
  }();
  return granted;
}

}  // namespace

CpuFacts cpu_facts() {
  CpuFacts facts = {};
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) facts.leaf1_ecx = ecx;
  unsigned subleaves = 0;
  if (__get_cpuid_count(7, 0, &subleaves, &ebx, &ecx, &edx)) facts.leaf7_ebx = ebx, facts.leaf7_edx = edx;
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) facts.leaf7_1_eax = eax;
  if (facts.leaf1_ecx & bit(27)) {  // OSXSAVE: the instruction xgetbv exists
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    facts.xcr0 = uint64_t{high} << 32 | low;
  }
#endif
  return facts;
}

const char* cpu_lacks(const char* isa, const CpuFacts& facts, bool (*request_tiles)()) {
  const bool avx2 = std::strcmp(isa, "avx2") == 0, avx512 = std::strcmp(isa, "avx512") == 0;
  const bool amx = std::strcmp(isa, "amx") == 0;
  if (std::strcmp(isa, "scalar") == 0) return nullptr;
  if (!avx2 && !avx512 && !amx) return "there is no instruction set of that name";

  // What the compiler may use under the flags that CMakeLists.txt gives to each set. Each set needs all of the former.
  const Need needs_avx2[] = {
      {facts.leaf1_ecx, bit(28), "the processor has no AVX"},
      {facts.leaf7_ebx, bit(5), "the processor has no AVX2"},
      {facts.leaf1_ecx, bit(12), "the processor has no fused multiply-add (FMA)"},
      {facts.leaf1_ecx, bit(29), "the processor has no half-precision conversion (F16C)"},
      {facts.leaf1_ecx, bit(23), "the processor has no POPCNT"},
      {facts.leaf7_ebx, bit(3) | bit(8), "the processor has no bit manipulation (BMI1, BMI2)"},
      {facts.xcr0, bit(1) | bit(2), "the operating system does not save the AVX registers"},
  };
  const Need needs_avx512[] = {
      {facts.leaf7_ebx, bit(16), "the processor has no AVX-512"},
      {facts.leaf7_ebx, bit(17) | bit(30) | bit(31), "the processor's AVX-512 has no DQ, BW or VL"},
      {facts.xcr0, bit(5) | bit(6) | bit(7), "the operating system does not save the AVX-512 registers"},
  };
  const Need needs_amx[] = {
      {facts.leaf7_1_eax, bit(5), "the processor's AVX-512 has no BF16"},
      {facts.leaf7_edx, bit(24), "the processor has no AMX tiles"},
      {facts.leaf7_edx, bit(22), "the processor's AMX has no BF16"},
      {facts.xcr0, bit(17) | bit(18), "the operating system does not save the AMX tiles"},
  };
  const char* lacking = first_lacking(needs_avx2, std::end(needs_avx2));
  if (lacking == nullptr && !avx2) lacking = first_lacking(needs_avx512, std::end(needs_avx512));
  if (lacking == nullptr && amx) lacking = first_lacking(needs_amx, std::end(needs_amx));
  if (lacking == nullptr && amx && !request_tiles())
    lacking = "the operating system refuses the permission for AMX tiles";
  return lacking;
}

const char* cpu_lacks(const char* isa) {
#if defined(__x86_64__)
  static const CpuFacts facts = cpu_facts();
  return cpu_lacks(isa, facts, request_tiles);
#else
  return std::strcmp(isa, "scalar") == 0 ? nullptr : "fastnn was compiled for a processor that is not an x86-64";
#endif
}

bool cpu_supports(const char* isa) { return cpu_lacks(isa) == nullptr; }

}  // namespace fastnn::runtime

// Which instruction sets this processor and operating system can run. Platform code lives in cpu.cpp.
#pragma once
#include <cstdint>

namespace fastnn::runtime {

// True when kernels compiled for `isa` ("scalar", "avx2", "avx512", "amx") may run here: the CPU has the
// instructions, the operating system saves the registers (XGETBV) and, for amx, grants the tile permission.
bool cpu_supports(const char* isa);

// Why not, in words, or nullptr when supported. The first question about "amx" on a processor that has tiles asks the
// system for the permission; later ones repeat the answer. FASTNN_TEST_REFUSE_TILES=1 in the environment at that moment
// stands for a system that refuses, so that the fallback can be tested where it does not.
const char* cpu_lacks(const char* isa);

// The same decision on stated facts, so that it can be tested for processors that are not at hand.
struct CpuFacts {
  uint32_t leaf1_ecx, leaf7_ebx, leaf7_edx, leaf7_1_eax;  // CPUID leaf 1, leaf 7 subleaf 0, leaf 7 subleaf 1
  uint64_t xcr0;                                          // register sets that the operating system saves
};
CpuFacts cpu_facts();  // of this processor; all zero where it is not an x86
const char* cpu_lacks(const char* isa, const CpuFacts& facts, bool (*request_tiles)());

}  // namespace fastnn::runtime

// Which instruction sets this processor and operating system can run. Platform code lives in cpu.cpp.
#pragma once

namespace fastnn::runtime {

// True when kernels compiled for `isa` ("scalar", "avx2", "avx512", "amx") may run here: the CPU has the
// instructions, the operating system saves the registers (XGETBV) and, for amx, grants the tile permission.
bool cpu_supports(const char* isa);

// Why not, in words, or nullptr when supported.
const char* cpu_lacks(const char* isa);

}  // namespace fastnn::runtime

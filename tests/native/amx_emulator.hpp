// Runs the amx set's machine code where there is no tile unit: a handler of the illegal-instruction signal decodes the
// instruction, does what Intel's manual says, and steps over it. For tests only; x86-64 Linux.
#pragma once
#include <cstdint>

namespace amx_emulator {

// From here on, for the whole process. Emulated: ldtilecfg sttilecfg tilerelease tilezero tileloadd tileloaddt1
// tilestored tdpbf16ps. Breaking a rule of theirs (a tile not configured, reserved bits, shapes that do not fit) prints
// which and aborts; any other illegal instruction ends the process as it would without the emulator.
void install();

// Instructions emulated since the last call of reset_counts, by all threads.
struct Counts {
  int64_t configure, release, zero, load, store, dot;
};
Counts counts();
void reset_counts();

// Whether the calling thread holds configured tiles.
bool configured();

}  // namespace amx_emulator

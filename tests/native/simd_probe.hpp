// What simd_probe.cpp, which is compiled for one instruction set, may call: compiled in test_simd.cpp for any
// processor. Inline functions of other headers would be weak symbols with this set's instructions (see
// check_objects.py), so that the probe uses no library but the C one.
#pragma once
#include <cstdint>

namespace probe {
uint64_t random();
char* readable_end();  // the end of memory that may be read and written; what follows may not
[[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);
}  // namespace probe

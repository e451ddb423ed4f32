// What check_objects.py must find: a weak symbol, a global one outside the set's namespace, a piece of the standard
// library, accumulators that do not fit the registers, a register tile that is none.
#include <algorithm>

typedef float Vector __attribute__((vector_size(32)));

inline __attribute__((noinline)) float weak(float x) { return x + 1; }

void global(float* x) { std::sort(x, x + static_cast<long>(weak(x[0]))); }

namespace fastnn::control {
namespace {

template <class T, int rows, int vectors>
__attribute__((noinline)) void tile(long k, const Vector* a, Vector* acc) {
#pragma GCC unroll 1
  for (int i = 0; i < rows * vectors; ++i)
#pragma GCC unroll 1
    for (long p = 0; p < k; ++p) acc[i] += a[p] * a[p + i];
}

}  // namespace

void array(long k, const Vector* a, Vector* y) { tile<float, 4, 4>(k, a, y); }

void too_many(long k, const Vector* a, Vector* y) {
  Vector acc[24] = {};
  for (long p = 0; p < k; ++p, a += 25)
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) acc[i] += a[i] * a[24];
  for (int i = 0; i < 24; ++i) y[i] = acc[i];
}

}  // namespace fastnn::control

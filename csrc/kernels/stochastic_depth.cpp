// stochastic_depth: whole rows of x (rows, cols) are dropped: y_i = x_i / (1 - p) where the mask bit of row i is 1,
// else 0 (also where x is NaN). Row i draws what dropout would draw for element i (runtime/philox.hpp). Saved for
// backward: the mask, bit i % 8 of byte i / 8; unused bits of the last byte are 0. y may be x and dx may be dy. The
// draws are few, one to a row, and taken one by one; the rows are walked in chunks of elements.
#include <cmath>

#include "kernels/elementwise.hpp"
#include "runtime/philox.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

FASTNN_INLINE bool keeps(const uint64_t* key, int64_t i, double p) {
  const uint64_t row = static_cast<uint64_t>(i);
  const double p16 = p * 65536.0;
  if (p16 == std::floor(p16)) {
    const uint32_t word = runtime::philox_block(key[0], key[1], row / 8).word[row % 8 / 2];
    return static_cast<double>(row % 2 ? word >> 16 : word & 0xffffu) >= p16;
  }
  const double p32 = std::nearbyint(p * 4294967296.0);
  return runtime::philox_block(key[0], key[1], row / 4).word[row % 4] >= (p32 < 4294967295.0 ? p32 : 4294967295.0);
}

// y = x * scale where the mask bit of the row is 1, else 0.
template <class T>
FASTNN_INLINE void scale_rows(const T* x, const uint8_t* mask, T* y, int64_t rows, int64_t cols, double p) {
  const Vec<T> scale = set1(static_cast<T>(p < 1 ? 1 / (1 - p) : 0));
  for_chunks(rows * cols, 500, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / cols, stop = (row + 1) * cols < end ? (row + 1) * cols : end;
      if (mask[row / 8] >> (row % 8) & 1)
        map_range(i, stop, false, y, [=](Vec<T> v) FASTNN_INLINED { return v * scale; }, x);
      else
        map_range(i, stop, false, y, []() FASTNN_INLINED { return zero<T>(); });
      i = stop;
    }
  });
}

template <class T>
void stochastic_depth_forward_of(const StochasticDepthArgs& a) {
  for (int64_t byte = 0; byte < (a.rows + 7) / 8; ++byte) a.mask[byte] = 0;
  for (int64_t i = 0; i < a.rows; ++i)
    a.mask[i / 8] = static_cast<uint8_t>(a.mask[i / 8] | keeps(a.key, i, a.p) << (i % 8));
  scale_rows(static_cast<const T*>(a.x), a.mask, static_cast<T*>(a.y), a.rows, a.cols, a.p);
}

template <class T>
void stochastic_depth_backward_of(const StochasticDepthBackwardArgs& a) {
  scale_rows(static_cast<const T*>(a.dy), a.mask, static_cast<T*>(a.dx), a.rows, a.cols, a.p);
}

}  // namespace

FASTNN_DEFINE(stochastic_depth_forward, StochasticDepthArgs)
FASTNN_DEFINE(stochastic_depth_backward, StochasticDepthBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

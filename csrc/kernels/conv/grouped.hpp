// Grouped convolution of channels-last arrays with as many channels as outputs in a group, and few: as products they
// would fill a part of each vector. A vector holds the outputs of several whole groups, which read the same lanes of x:
//   term t   lane l takes channel t of its own group, by one permutation that serves all taps of a kernel row; where a
//            group fills the vector, it is a broadcast from memory
// Weights are packed as (vector, tap, t, lane). A tile is 8 pixels of one vector. Taps outside the source are
// multiplied as zeros, like everywhere (0 * inf = NaN).
#pragma once
#include "kernels/conv/product.hpp"
#include "simd/permute.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
bool is_grouped(const ConvProduct<T>& q) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t c = q.columns.c;
  if (q.groups == 1 || c != q.m || c == 1 || c > 16) return false;
  return c % lanes == 0 || (sizeof(T) == 4 && lanes % c == 0);
}

// Term t of one pixel.
template <class T, bool permuted>
FASTNN_INLINE Vec<T> grouped_term(const T* x, int64_t t, [[maybe_unused]] U32 first, [[maybe_unused]] int lanes) {
  if constexpr (permuted)
    return permute(lanes == Vec<T>::lanes ? load(x) : load_partial(x, lanes),
                   first + set1_u32(static_cast<uint32_t>(t)));
  else
    return load1(x + t);
}

// One row of the output for one vector. taps, move: of a kernel row with neighbouring taps; 0: any, read one by one.
template <class T, bool permuted, int taps, int move>
struct GroupedRow {
  const Columns& q;
  const T *x, *w, *zeros;
  int64_t y_pixel, out_y;
  int lanes;  // of the vector that are used

  // Not inlined: gcc keeps the accumulators of several tiles in one function on the stack.
  template <int pixels, bool edge>
  __attribute__((noinline)) void tile(T* y, int64_t ox) const {
    constexpr int full = Vec<T>::lanes, reach = taps ? (pixels - 1) * move + taps : pixels;
    Vec<T> acc[pixels];
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) acc[p] = zero<T>();
    U32 first = set1_u32(0);
    if constexpr (permuted) {
      alignas(64) uint32_t begin[full];
      for (int l = 0; l < full; ++l) begin[l] = static_cast<uint32_t>(l / q.c * q.c);
      first = load_u32(begin);
    }
    const T* weight = w;
    const int64_t columns = taps ? 1 : q.tw;  // places that the taps of a row are read from
    for (int64_t i = 0; i < q.th; ++i) {
      const int64_t sy = out_y * q.move_h + q.first_h + i * q.step_h;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t sx = ox * q.move_w + q.first_w + j * q.step_w, step = taps ? 1 : q.move_w;
        const T* row = x + sy * q.stride_h + sx * q.stride_w;
        const T* at[reach];
        if (edge)
          for (int p = 0; p < reach; ++p) {
            const int64_t column = sx + p * step;
            at[p] = sy >= 0 && sy < q.h && column >= 0 && column < q.w ? row + p * step * q.stride_w : zeros;
          }
        const int64_t pitch = step * q.stride_w;
        for (int64_t t = 0; t < q.c; ++t, weight += full) {
          Vec<T> vw[taps ? taps : 1];
#pragma GCC unroll 8
          for (int k = 0; k < (taps ? taps : 1); ++k) vw[k] = load(weight + k * q.c * full);
#pragma GCC unroll 24
          for (int p = 0; p < reach; ++p) {
            const Vec<T> vx = grouped_term<T, permuted>(edge ? at[p] : row + p * pitch, t, first, lanes);
            if constexpr (taps == 0) {
              acc[p] = fma(vx, vw[0], acc[p]);
            } else {
#pragma GCC unroll 8
              for (int k = 0; k < taps; ++k)
                if (p >= k && (p - k) % move == 0 && (p - k) / move < pixels)
                  acc[(p - k) / move] = fma(vx, vw[k], acc[(p - k) / move]);
            }
          }
        }
        if (taps) weight += (taps - 1) * q.c * full;
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < pixels; ++p) {
      T* to = y + (ox + p) * y_pixel;
      lanes == full ? store(to, acc[p]) : store_partial(to, acc[p], lanes);
    }
  }

  template <int pixels>
  void tiles(T* y) const {
    const int64_t top = out_y * q.move_h + q.first_h;
    const bool rows_inside = top >= 0 && top + (q.th - 1) * q.step_h < q.h;
    for (int64_t p = 0; p < q.out_w; p += pixels) {
      const int64_t ox = smaller(p, q.out_w - pixels);  // the last tile may compute pixels again
      const int64_t left = ox * q.move_w + q.first_w;
      const bool inside = rows_inside && left >= 0 && left + (pixels - 1) * q.move_w + (q.tw - 1) * q.step_w < q.w;
      inside ? tile<pixels, false>(y, ox) : tile<pixels, true>(y, ox);
    }
  }

  // Partial vectors take more registers to read.
  void run(T* y) const {
    const int64_t most = lanes == Vec<T>::lanes ? q.out_w : smaller(4, q.out_w);
    most >= 8 ? tiles<8>(y) : most >= 4 ? tiles<4>(y) : tiles<1>(y);
  }
};

template <class T>
int64_t grouped_weights_size(const ConvProduct<T>& q) {
  return whole<T>(q.groups * q.m) * q.columns.rows();
}

template <class T>
void pack_grouped_weights(const ConvProduct<T>& q, T* dst) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t outputs = q.groups * q.m;
  for (int64_t o = 0; o < outputs; o += lanes)
    for (int64_t i = 0; i < q.columns.th; ++i)
      for (int64_t j = 0; j < q.columns.tw; ++j)
        for (int64_t t = 0; t < q.columns.c; ++t, dst += lanes)
          for (int64_t l = 0; l < lanes; ++l) {
            const int64_t group = (o + l) / q.m, out = (o + l) % q.m;
            dst[l] = o + l < outputs
                         ? q.weights.w[group * q.weights_group + out * q.weights.stride_out + t * q.weights.stride_c +
                                       i * q.weights.stride_th + j * q.weights.stride_tw]
                         : T(0);
          }
}

template <class T, bool permuted, int taps, int move, class Finish>
void grouped_rows(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const Columns& columns = q.columns;
  const int64_t outputs = q.groups * q.m, rows = columns.rows();
  alignas(64) const T zeros[16 > lanes ? 16 : lanes] = {};
  runtime::parallel_for(q.images * columns.out_h, q.images * columns.pixels() * outputs * rows / 16, [&](int64_t task) {
    const int64_t image = task / columns.out_h, out_y = task % columns.out_h;
    T* y = q.y + image * q.y_image + out_y * q.y_row;
    for (int64_t o = 0; o < outputs; o += lanes) {
      const int64_t n = smaller(lanes, outputs - o);
      const T* x = q.x + image * q.x_image + (permuted ? o : o / q.m * q.m);
      GroupedRow<T, permuted, taps, move>{columns, x, weights + o * rows, zeros, q.y_pixel, out_y, static_cast<int>(n)}
          .run(y + o);
      finish(y + o, q.y_pixel, o, columns.out_w, n);
    }
  });
}

// weights: from pack_grouped_weights. finish(y, ld, channel, pixels, channels) ends a vector of a row.
template <class T, class Finish>
void grouped_pixels(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  const Columns& columns = q.columns;
  const auto by_taps = [&]<bool permuted>() {
    const bool three = columns.tw == 3 && columns.step_w == 1;
    if (three && columns.move_w == 1)
      grouped_rows<T, permuted, 3, 1>(q, weights, finish);
    else if (three && columns.move_w == 2)
      grouped_rows<T, permuted, 3, 2>(q, weights, finish);
    else
      grouped_rows<T, permuted, 0, 1>(q, weights, finish);
  };
  if constexpr (sizeof(T) == 4)
    if (columns.c % Vec<T>::lanes != 0) return by_taps.template operator()<true>();
  by_taps.template operator()<false>();
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

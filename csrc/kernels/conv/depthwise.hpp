// Depthwise convolution of channels-last arrays (one channel and one output per group), all three passes: as products
// they would fill one lane in a vector. Vectors run along the channels; weights are packed as (tap, channel).
//   forward, dx   tiles of up to 14 pixels of a row: for each row of the kernel its weights and each vector of x are
//                 loaded once, 20 vectors of x for 98 products of 7 taps. The tiles at an edge are as long as the
//                 others.
//   dweight       sums of x times dy along a row of the output, up to 4 taps at a time
// Taps outside the source are multiplied as zeros, like everywhere (0 * inf = NaN).
#pragma once
#include "kernels/conv/product.hpp"
#include "simd/opaque.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
bool is_depthwise(const ConvProduct<T>& q) {
  return q.columns.c == 1 && q.m == 1;
}

template <class T>
alignas(64) constexpr T kZeros[Vec<T>::lanes] = {};

// A vector of channels, or a part of one.
template <class T, bool partial>
struct Channels {
  int count;  // where partial

  FASTNN_MEMBER_INLINE Vec<T> read(const T* p) const { return partial ? load_partial(p, count) : load(p); }
  FASTNN_MEMBER_INLINE void write(T* p, Vec<T> value) const {
    if (partial)
      store_partial(p, value, count);
    else
      store(p, value);
  }
};

// One row of the output for one vector of channels. x: the image; w: (tap, channel) with row stride ld. kernel: taps
// side by side in a row of the kernel, which pixels `move` columns apart read; 0 and 0 where they are known later.
template <class T, int kernel, int move, bool partial>
struct DepthwiseRow {
  const Columns& q;
  Channels<T, partial> channels;
  const T *x, *w;
  int64_t ld, y_pixel, out_y;

  // Sums, weights of a row of the kernel and one vector of x fit into 32 registers, or into 16.
  static constexpr int most = kernel == 0 ? 8 : Vec<T>::lanes == 16 ? 14 : kernel == 7 ? 6 : 8;

  // `pixels` pixels from ox on; edge: some tap lies outside the source
  template <int pixels, bool edge>
  __attribute__((noinline)) void tile(T* y, int64_t ox) const {
    Vec<T> acc[pixels];
#pragma GCC unroll 16
    for (int p = 0; p < pixels; ++p) acc[p] = zero<T>();
    const T* weight = w;
    const int64_t first_x = ox * q.move_w + q.first_w;
    for (int64_t i = 0; i < q.th; ++i) {
      const int64_t sy = out_y * q.move_h + q.first_h + i * q.step_h;
      const T* row = x + sy * q.stride_h + first_x * q.stride_w;
      const uint64_t width = !edge || (sy >= 0 && sy < q.h) ? static_cast<uint64_t>(q.w) : 0;
      const auto read = [&](int64_t column, const T* from) __attribute__((always_inline)) {
        if (edge) from = static_cast<uint64_t>(first_x + column) < width ? from : kZeros<T>;
        return opaque(channels.read(from));  // else gcc reads it anew for each product
      };
      if constexpr (kernel > 0) {
        Vec<T> weights[kernel];
#pragma GCC unroll 8
        for (int j = 0; j < kernel; ++j, weight += ld) weights[j] = opaque(channels.read(weight));
#pragma GCC unroll 64
        for (int s = 0; s < (pixels - 1) * move + kernel; ++s, row = opaque(row + q.stride_w)) {
          const Vec<T> v = read(s, row);
#pragma GCC unroll 8
          for (int j = s % move; j < kernel; j += move)
            if (s >= j && s - j < pixels * move) acc[(s - j) / move] = fma(v, weights[j], acc[(s - j) / move]);
        }
      } else {
        const auto read_at = [&](int64_t column) __attribute__((always_inline)) {
          return read(column, row + column * q.stride_w);
        };
        for (int64_t j = 0; j < q.tw; ++j, weight += ld) {
          const Vec<T> one = channels.read(weight);
#pragma GCC unroll 16
          for (int p = 0; p < pixels; ++p) acc[p] = fma(read_at(p * q.move_w + j * q.step_w), one, acc[p]);
        }
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < pixels; ++p) channels.write(y + (ox + p) * y_pixel, acc[p]);
  }

  // The last tile begins early enough to be whole: what it computes again are the same sums.
  void run(T* y) const {
    const int64_t first_y = out_y * q.move_h + q.first_h, reach = (q.tw - 1) * q.step_w;
    const bool rows_inside = first_y >= 0 && first_y + (q.th - 1) * q.step_h < q.h;
    for (int64_t ox = 0; ox < q.out_w;) {
      const int64_t left = q.out_w - ox;
      const auto tiles_of = [&](auto size, auto inner) {
        constexpr int pixels = size.value;
        const int64_t begin = smaller(ox, q.out_w - pixels), column = begin * q.move_w + q.first_w;
        if (inner.value && rows_inside && column >= 0 && column + (pixels - 1) * q.move_w + reach < q.w)
          tile<pixels, false>(y, begin);
        else
          tile<pixels, true>(y, begin);
        ox = begin + pixels;
      };
      if (left >= most || (left > 8 && q.out_w >= most))
        tiles_of(Size<most>{}, Size<1>{});
      else if (most > 8 && left > 4 && q.out_w >= 8)
        tiles_of(Size<(most > 8 ? 8 : 4)>{}, Size<0>{});
      else if (q.out_w >= 4)
        tiles_of(Size<4>{}, Size<0>{});
      else
        tiles_of(Size<1>{}, Size<0>{});
    }
  }

 private:
  template <int n>
  struct Size {
    static constexpr int value = n;
  };
};

template <class T>
int64_t depthwise_weights_size(const ConvProduct<T>& q) {
  return q.columns.taps() * q.groups;
}

template <class T>
void pack_depthwise_weights(const ConvProduct<T>& q, T* dst) {
  for (int64_t i = 0; i < q.columns.th; ++i)
    for (int64_t j = 0; j < q.columns.tw; ++j, dst += q.groups)
      for (int64_t c = 0; c < q.groups; ++c)
        dst[c] = q.weights.w[c * q.weights_group + i * q.weights.stride_th + j * q.weights.stride_tw];
}

// weights: from pack_depthwise_weights. finish(y, ld, channel, pixels, channels) ends a row.
template <class T, int kernel, int move, class Finish>
void depthwise_rows(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const Columns& columns = q.columns;
  // Rows of a task share most of the rows of x that they read, one vector of channels after the other.
  const int64_t rows = q.images * columns.out_h, parts = larger(smaller(rows, 16), rows / 8);
  runtime::parallel_for(parts, q.images * columns.pixels() * q.groups * columns.taps() / 8, [&](int64_t part) {
    const int64_t begin = part_begin(rows, parts, part), end = part_begin(rows, parts, part + 1);
    for (int64_t c = 0; c < q.groups; c += lanes) {
      const int64_t n = smaller(lanes, q.groups - c);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t image = row / columns.out_h, out_y = row % columns.out_h;
        const T *x = q.x + image * q.x_image + c, *w = weights + c;
        T* y = q.y + image * q.y_image + out_y * q.y_row + c;
        if (n == lanes)
          DepthwiseRow<T, kernel, move, false>{columns, {}, x, w, q.groups, q.y_pixel, out_y}.run(y);
        else
          DepthwiseRow<T, kernel, move, true>{columns, {static_cast<int>(n)}, x, w, q.groups, q.y_pixel, out_y}.run(y);
        finish(y, q.y_pixel, c, columns.out_w, n);
      }
    }
  });
}

template <class T, class Finish>
void depthwise_pixels(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const Columns& columns = q.columns;
    const bool one = columns.move_w == 1, two = columns.move_w == 2;
    if (columns.step_w == 1 && (one || two)) {
      if (columns.tw == 3)
        return one ? depthwise_rows<T, 3, 1>(q, weights, finish) : depthwise_rows<T, 3, 2>(q, weights, finish);
      if (columns.tw == 5)
        return one ? depthwise_rows<T, 5, 1>(q, weights, finish) : depthwise_rows<T, 5, 2>(q, weights, finish);
      if (columns.tw == 7)
        return one ? depthwise_rows<T, 7, 1>(q, weights, finish) : depthwise_rows<T, 7, 2>(q, weights, finish);
    }
  }
  depthwise_rows<T, 0, 0>(q, weights, finish);
}

// ---- dweight ----

// sums[t * ld] += sum over one row of the output of dy times the source at taps j .. j + taps of one kernel row; row is
// null where the kernel row lies outside.
template <class T, int taps, bool partial>
void depthwise_sums(const Columns& q, Channels<T, partial> channels, const T* row, const T* dy, int64_t dy_pixel,
                    int64_t j, T* sums, int64_t ld) {
  Vec<T> acc[taps];
#pragma GCC unroll 4
  for (int t = 0; t < taps; ++t) acc[t] = channels.read(sums + t * ld);
  for (int64_t ox = 0; ox < q.out_w; ++ox) {
    const Vec<T> v = channels.read(dy + ox * dy_pixel);
#pragma GCC unroll 4
    for (int t = 0; t < taps; ++t) {
      const int64_t sx = ox * q.move_w + q.first_w + (j + t) * q.step_w;
      acc[t] = fma(row && sx >= 0 && sx < q.w ? channels.read(row + sx * q.stride_w) : zero<T>(), v, acc[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < taps; ++t) channels.write(sums + t * ld, acc[t]);
}

template <class T, bool partial>
void depthwise_sums_row(const Columns& q, Channels<T, partial> channels, const T* x, const T* dy, int64_t dy_pixel,
                        int64_t out_y, T* sums, int64_t ld) {
  for (int64_t i = 0; i < q.th; ++i) {
    const int64_t sy = out_y * q.move_h + q.first_h + i * q.step_h;
    const T* row = sy >= 0 && sy < q.h ? x + sy * q.stride_h : nullptr;
    int64_t j = 0;
    for (; j + 4 <= q.tw; j += 4, sums += 4 * ld)
      depthwise_sums<T, 4, partial>(q, channels, row, dy, dy_pixel, j, sums, ld);
    const int64_t rest = q.tw - j;
    if (rest == 3)
      depthwise_sums<T, 3, partial>(q, channels, row, dy, dy_pixel, j, sums, ld);
    else if (rest == 2)
      depthwise_sums<T, 2, partial>(q, channels, row, dy, dy_pixel, j, sums, ld);
    else if (rest == 1)
      depthwise_sums<T, 1, partial>(q, channels, row, dy, dy_pixel, j, sums, ld);
    sums += rest * ld;
  }
}

// dw (channels, taps) = or += sum over images and pixels of columns times dy (pixels, channels).
template <class T>
void depthwise_weight(const Columns& q, int64_t images, int64_t channels, const T* x, const T* dy, T* dw,
                      bool accumulate) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t taps = q.taps(), all_rows = images * q.out_h, size = taps * channels;
  const int64_t chunks = larger(1, smaller(16, all_rows * q.out_w / 128));
  T* sums = static_cast<T*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(chunks * size) * sizeof(T)));
  runtime::parallel_for(chunks, images * q.pixels() * size / 8, [&](int64_t chunk) {
    T* sum = sums + chunk * size;
    zero_run(sum, size);
    for (int64_t r = part_begin(all_rows, chunks, chunk); r < part_begin(all_rows, chunks, chunk + 1); ++r) {
      const int64_t image = r / q.out_h, out_y = r % q.out_h;
      for (int64_t c = 0; c < channels; c += lanes) {
        const T *source = x + image * q.h * q.stride_h + c, *row = dy + r * q.out_w * channels + c;
        const int last = static_cast<int>(smaller(lanes, channels - c));
        if (last == lanes)
          depthwise_sums_row<T, false>(q, {last}, source, row, channels, out_y, sum + c, channels);
        else
          depthwise_sums_row<T, true>(q, {last}, source, row, channels, out_y, sum + c, channels);
      }
    }
  });
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < taps; ++t) {
      T total = accumulate ? dw[c * taps + t] : T(0);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * size + t * channels + c];
      dw[c * taps + t] = total;
    }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

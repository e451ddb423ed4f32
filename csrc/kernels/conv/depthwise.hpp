// Depthwise convolution of channels-last arrays (one channel and one output per group), all three passes: as products
// they would fill one lane in a vector. Vectors run along the channels; weights are packed as (tap, channel).
//   forward, dx   a tile of 4 pixels x 2 vectors: each weight is loaded once for four pixels
//   dweight       sums of x times dy along a row of the output, up to 4 taps at a time
// Taps outside the source are multiplied as zeros, like everywhere (0 * inf = NaN).
#pragma once
#include "kernels/conv/product.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
bool is_depthwise(const ConvProduct<T>& q) {
  return q.columns.c == 1 && q.m == 1;
}

// A stretch of `lanes` channels, 1 to 2 vectors.
template <class T, int vectors, bool partial>
struct Channels {
  static constexpr int full = Vec<T>::lanes;
  int last;  // lanes of the last vector, where partial

  FASTNN_MEMBER_INLINE Vec<T> read(const T* p, int v) const {
    return partial && v == vectors - 1 ? load_partial(p + v * full, last) : load(p + v * full);
  }
  FASTNN_MEMBER_INLINE void write(T* p, int v, Vec<T> value) const {
    if (partial && v == vectors - 1)
      store_partial(p + v * full, value, last);
    else
      store(p + v * full, value);
  }
};

// One row of the output for one stretch of channels. x: the image; w: (tap, channel) with row stride ld.
template <class T, int vectors, bool partial>
struct DepthwiseRow {
  const Columns& q;
  Channels<T, vectors, partial> channels;
  const T *x, *w;
  int64_t ld, y_pixel, out_y;

  // `pixels` pixels from ox on; edge: some tap lies outside the source
  template <int pixels, bool edge>
  FASTNN_MEMBER_INLINE void tile(T* y, int64_t ox) const {
    Vec<T> acc[pixels][vectors];
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) acc[p][v] = zero<T>();
    const T* weight = w;
    for (int64_t i = 0; i < q.th; ++i) {
      const int64_t sy = out_y * q.move_h + q.first_h + i * q.step_h;
      const T* row = x + sy * q.stride_h;
      for (int64_t j = 0; j < q.tw; ++j, weight += ld) {
        const int64_t sx = ox * q.move_w + q.first_w + j * q.step_w;
        Vec<T> vw[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) vw[v] = channels.read(weight, v);
        const bool inside = !edge || (sy >= 0 && sy < q.h && sx >= 0 && sx < q.w);
#pragma GCC unroll 4
        for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 2
          for (int v = 0; v < vectors; ++v) {
            const Vec<T> vx = inside ? channels.read(row + (sx + p * q.move_w) * q.stride_w, v) : zero<T>();
            acc[p][v] = fma(vx, vw[v], acc[p][v]);
          }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < pixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) channels.write(y + (ox + p) * y_pixel, v, acc[p][v]);
  }

  void run(T* y) const {
    // Pixels [low, high) meet no edge.
    const int64_t first_y = out_y * q.move_h + q.first_h, reach = q.w - q.first_w - (q.tw - 1) * q.step_w;
    const bool rows_inside = first_y >= 0 && first_y + (q.th - 1) * q.step_h < q.h;
    const int64_t low = rows_inside ? smaller(q.out_w, ceil_div(larger(0, -q.first_w), q.move_w)) : q.out_w;
    const int64_t high = larger(low, rows_inside && reach > 0 ? smaller(q.out_w, ceil_div(reach, q.move_w)) : 0);
    int64_t ox = 0;
    for (; ox < low; ++ox) tile<1, true>(y, ox);
    for (; ox + 4 <= high; ox += 4) tile<4, false>(y, ox);
    for (; ox < high; ++ox) tile<1, false>(y, ox);
    for (; ox < q.out_w; ++ox) tile<1, true>(y, ox);
  }
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
template <class T, class Finish>
void depthwise_pixels(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const Columns& columns = q.columns;
  runtime::parallel_for(q.images * columns.out_h, q.images * columns.pixels() * q.groups * columns.taps() / 8,
                        [&](int64_t task) {
                          const int64_t image = task / columns.out_h, out_y = task % columns.out_h;
                          for (int64_t c = 0; c < q.groups; c += 2 * lanes) {
                            const int64_t n = smaller(2 * lanes, q.groups - c);
                            const T *x = q.x + image * q.x_image + c, *w = weights + c;
                            T* y = q.y + image * q.y_image + out_y * q.y_row + c;
                            const int last = static_cast<int>((n - 1) % lanes + 1);
                            const auto run = [&](auto row) { row.run(y); };
                            if (n == 2 * lanes)
                              run(DepthwiseRow<T, 2, false>{columns, {last}, x, w, q.groups, q.y_pixel, out_y});
                            else if (n > lanes)
                              run(DepthwiseRow<T, 2, true>{columns, {last}, x, w, q.groups, q.y_pixel, out_y});
                            else if (n == lanes)
                              run(DepthwiseRow<T, 1, false>{columns, {last}, x, w, q.groups, q.y_pixel, out_y});
                            else
                              run(DepthwiseRow<T, 1, true>{columns, {last}, x, w, q.groups, q.y_pixel, out_y});
                            finish(y, q.y_pixel, c, columns.out_w, n);
                          }
                        });
}

// ---- dweight ----

// sums[t * ld] += sum over one row of the output of dy times the source at taps j .. j + taps of one kernel row; row is
// null where the kernel row lies outside.
template <class T, int taps, bool partial>
void depthwise_sums(const Columns& q, Channels<T, 1, partial> channels, const T* row, const T* dy, int64_t dy_pixel,
                    int64_t j, T* sums, int64_t ld) {
  Vec<T> acc[taps];
#pragma GCC unroll 4
  for (int t = 0; t < taps; ++t) acc[t] = channels.read(sums + t * ld, 0);
  for (int64_t ox = 0; ox < q.out_w; ++ox) {
    const Vec<T> v = channels.read(dy + ox * dy_pixel, 0);
#pragma GCC unroll 4
    for (int t = 0; t < taps; ++t) {
      const int64_t sx = ox * q.move_w + q.first_w + (j + t) * q.step_w;
      acc[t] = fma(row && sx >= 0 && sx < q.w ? channels.read(row + sx * q.stride_w, 0) : zero<T>(), v, acc[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < taps; ++t) channels.write(sums + t * ld, 0, acc[t]);
}

template <class T, bool partial>
void depthwise_sums_row(const Columns& q, Channels<T, 1, partial> channels, const T* x, const T* dy, int64_t dy_pixel,
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

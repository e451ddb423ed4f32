// Convolution as a product of weights and columns: the driver that the forward pass and backward-data share.
// NCHW: C rows are channels, columns are pixels: weights (as rows) times packed columns.
// Channels-last: C rows are pixels, columns are channels: packed columns times weights packed in panels.
#pragma once
#include "kernels/conv/columns.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct ConvProduct {
  Columns columns;  // of one group
  const T* x;
  Weights<T> weights;         // of group 0
  T* y;                       // output pixel (0, 0)
  int64_t images, groups, m;  // m: output channels of one group
  int64_t x_image, x_group, weights_group;
  int64_t y_image, y_channel, y_row, y_pixel;  // strides of y
};

// NCHW. a: weights as rows (groups * m, rows of the columns). finish(y, ld, channel, rows, pixels) ends a part of y.
template <class T, class Finish>
void product_rows(const ConvProduct<T>& q, const T* a, const Finish& finish) {
  constexpr int64_t lanes = Vec<T>::lanes, width = kMainVectors * lanes;
  const Columns& columns = q.columns;
  const int64_t pixels = columns.pixels(), rows = columns.rows(), panels = ceil_div(pixels, width);
  const int64_t m_parts = larger(1, smaller(ceil_div(q.m, 128), 16 / larger(1, panels * q.images * q.groups)));
  const int64_t blocks = larger(1, ceil_div(rows, kBlockK));
  const bool dense = q.y_pixel == 1 && q.y_row == columns.out_w;
  runtime::parallel_for(
      q.images * q.groups * panels * m_parts, q.images * q.groups * q.m * rows * pixels / 32, [&](int64_t task) {
        const int64_t part = task % m_parts, panel = task / m_parts % panels;
        const int64_t group = task / (m_parts * panels) % q.groups, image = task / (m_parts * panels * q.groups);
        const int64_t pixel = panel * width, n = smaller(width, pixels - pixel), ld = ceil_div(n, lanes) * lanes;
        const int64_t i = part_begin(q.m, m_parts, part), m = part_begin(q.m, m_parts, part + 1) - i;
        const int64_t channel = group * q.m + i;
        T* b = static_cast<T*>(
            runtime::scratch(runtime::Slot::kTask, static_cast<size_t>((kBlockK + (dense ? 0 : m)) * ld) * sizeof(T)));
        T* y = q.y + image * q.y_image + channel * q.y_channel;
        T* c = dense ? y + pixel : b + kBlockK * ld;
        const int64_t ldc = dense ? q.y_channel : ld;
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t p = part_begin(rows, blocks, block), k = part_begin(rows, blocks, block + 1) - p;
          pack_pixels_fast(b, ld, ld, columns, q.x + image * q.x_image + group * q.x_group, p, k, pixel, n);
          multiply(PanelProduct<T>{a + channel * rows + p, b, c, m, n, k, rows, ld, ldc, false, block > 0});
        }
        if (dense) {
          finish(c, ldc, channel, m, n);
        } else {
          for (int64_t r = 0; r < m; ++r)
            for (int64_t j = 0; j < n; ++j)
              y[r * q.y_channel + (pixel + j) / columns.out_w * q.y_row + (pixel + j) % columns.out_w * q.y_pixel] =
                  c[r * ldc + j];
        }
      });
}

// Channels-last. b: weights packed by pack_weights.
template <class T>
int64_t packed_weights_size(const ConvProduct<T>& q) {
  constexpr int64_t lanes = Vec<T>::lanes;
  return q.groups * q.columns.rows() * ceil_div(q.m, lanes) * lanes;
}

template <class T>
void pack_weights(const ConvProduct<T>& q, T* dst) {
  constexpr int64_t lanes = Vec<T>::lanes, width = kMainVectors * lanes;
  const Columns& columns = q.columns;
  const int64_t panels = ceil_div(q.m, width), group_size = columns.rows() * ceil_div(q.m, lanes) * lanes;
  runtime::parallel_for(q.groups * panels, q.groups * group_size, [&](int64_t task) {
    const int64_t group = task / panels, j = task % panels * width, n = smaller(width, q.m - j);
    const int64_t ld = ceil_div(n, lanes) * lanes;
    T* b = dst + group * group_size + j * columns.rows();
    Weights<T> weights = q.weights;
    weights.w += group * q.weights_group;
    for (int64_t tap = 0; tap < columns.taps(); ++tap)
      for (int64_t c = 0; c < columns.c; ++c, b += ld)
        for (int64_t i = 0; i < ld; ++i) b[i] = i < n ? weights.at(columns, j + i, c, tap) : T(0);
  });
}

template <class T, class Finish>
void product_columns(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  constexpr int64_t lanes = Vec<T>::lanes, width = kMainVectors * lanes, block_pixels = 48;
  const Columns& columns = q.columns;
  const int64_t pixels = q.images * columns.pixels(), rows = columns.rows(), panels = ceil_div(q.m, width);
  const int64_t parts = ceil_div(pixels, block_pixels), blocks = larger(1, ceil_div(rows, kBlockK));
  const int64_t group_size = rows * ceil_div(q.m, lanes) * lanes;
  const bool dense = q.y_row == columns.out_w * q.y_pixel && q.y_image == columns.out_h * q.y_row;
  runtime::parallel_for(parts * q.groups, q.groups * q.m * rows * pixels / 32, [&](int64_t task) {
    const int64_t group = task % q.groups, pixel = task / q.groups * block_pixels;
    const int64_t m = smaller(block_pixels, pixels - pixel), ldc = dense ? q.y_pixel : q.m;
    T* a = static_cast<T*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(block_pixels * (kBlockK + q.m)) * sizeof(T)));
    T* c = dense ? q.y + pixel * q.y_pixel + group * q.m : a + block_pixels * kBlockK;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t p = part_begin(rows, blocks, block), k = part_begin(rows, blocks, block + 1) - p;
      pack_rows_fast(a, k, columns, q.x + group * q.x_group, q.x_image, p, k, pixel, m);
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t j = panel * width, n = smaller(width, q.m - j), ld = ceil_div(n, lanes) * lanes;
        const T* b = weights + group * group_size + j * rows + p * ld;
        multiply(PanelProduct<T>{a, b, c + j, m, n, k, k, ld, ldc, false, block > 0});
      }
    }
    if (dense) {
      finish(c, ldc, group * q.m, m, q.m);
    } else {
      for (int64_t i = 0; i < m; ++i) {
        const int64_t image = (pixel + i) / columns.pixels(), at = (pixel + i) % columns.pixels();
        T* y = q.y + image * q.y_image + at / columns.out_w * q.y_row + at % columns.out_w * q.y_pixel + group * q.m;
        for (int64_t j = 0; j < q.m; ++j) y[j] = c[i * ldc + j];
      }
    }
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

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

// Tasks that cut `size` into parts of about `unit`, an even share for each of 2 or 4 threads.
FASTNN_INLINE int64_t even_parts(int64_t size, int64_t unit) {
  const int64_t parts = larger(1, ceil_div(size, unit));
  return parts < 3 || parts > 32 ? parts : ceil_div(parts, 4) * 4;
}

// One task's tile c (rows of `pixels` pixels from pixel0, row stride ld) to where dx keeps the pixels of this phase.
template <class T>
void scatter_rows(const ConvProduct<T>& q, T* y, const T* c, int64_t ld, int64_t m, int64_t pixel0, int64_t pixels) {
  for (int64_t p = 0; p < pixels;) {
    const int64_t at = pixel0 + p, x = at % q.columns.out_w, run = smaller(q.columns.out_w - x, pixels - p);
    for (int64_t r = 0; r < m; ++r) {
      T* to = y + r * q.y_channel + at / q.columns.out_w * q.y_row + x * q.y_pixel;
      for (int64_t j = 0; j < run; ++j) to[j * q.y_pixel] = c[r * ld + p + j];
    }
    p += run;
  }
}

// NCHW. a: weights as rows (groups * m, rows of the columns). finish(y, ld, channel, rows, pixels) ends a part of y,
// before it is scattered where dx keeps the pixels of a phase.
template <class T, class Finish>
void product_rows(const ConvProduct<T>& q, const T* a, const Finish& finish) {
  const Columns& columns = q.columns;
  const int64_t pixels = columns.pixels(), rows = columns.rows();
  const Panels<T> panels(pixels);
  // A task packs the same pixels of some groups, which share the plan. Each part of the rows packs the panel again:
  // 128 rows pay for that.
  const int64_t image_panels = larger(1, panels.count * q.images);
  const int64_t group_parts = smaller(q.groups, ceil_div(16, image_panels));
  const int64_t m_parts = larger(1, smaller(ceil_div(q.m, 128), 16 / (image_panels * group_parts)));
  const int64_t tasks = m_parts * group_parts;
  // Blocks of whole channels; without any tap (a phase that no output meets) one empty block, which writes zeros.
  const int64_t taps = columns.taps(), block_channels = taps ? larger(1, kBlockK / taps) : 1;
  const int64_t blocks = taps ? larger(1, ceil_div(columns.c, block_channels)) : 1;
  const int64_t block_rows = ceil_div(columns.c, blocks) * taps;
  const bool dense = q.y_pixel == 1 && q.y_row == columns.out_w;
  const int64_t work = q.groups * q.m * rows + 4 * q.groups * rows;  // multiplications, and packing
  runtime::parallel_for(q.images * panels.count * tasks, q.images * pixels * work / 32, [&](int64_t task) {
    const int64_t part = task % m_parts, group_part = task / m_parts % group_parts;
    const int64_t panel = task / tasks % panels.count, image = task / (tasks * panels.count);
    const int64_t pixel = panels.begin(panel), n = panels.size(panel), ld = whole<T>(n);
    const int64_t i = part_begin(q.m, m_parts, part), m = part_begin(q.m, m_parts, part + 1) - i;
    T* b = static_cast<T*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>((block_rows + (dense ? 0 : m)) * ld) * sizeof(T)));
    PixelPacker<T> packer(columns, pixel, n, ld, false);
    const int64_t end = part_begin(q.groups, group_parts, group_part + 1);
    for (int64_t group = part_begin(q.groups, group_parts, group_part); group < end; ++group) {
      const int64_t channel = group * q.m + i, ldc = dense ? q.y_channel : ld;
      T* y = q.y + image * q.y_image + channel * q.y_channel;
      T* c = dense ? y + pixel : b + block_rows * ld;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t c0 = part_begin(columns.c, blocks, block), c1 = part_begin(columns.c, blocks, block + 1);
        packer.pack(b, q.x + image * q.x_image + group * q.x_group, c0, c1 - c0);
        const PanelProduct<T> product = {
            a + channel * rows + c0 * taps, b, c, m, n, (c1 - c0) * taps, rows, ld, ldc, false, block > 0};
        if (block == blocks - 1)
          multiply_tiles(product,
                         [&](int64_t row, int64_t count) { finish(c + row * ldc, ldc, channel + row, count, n); });
        else
          multiply(product);
      }
      if (!dense) scatter_rows(q, y, c, ldc, m, pixel, n);
    }
  });
}

// Channels-last: all weights packed into panels, (groups, panels, rows, channels of the panel).
template <class T>
int64_t packed_weights_size(const ConvProduct<T>& q) {
  return q.groups * q.columns.rows() * whole<T>(q.m);
}

template <class T>
void pack_weights(const ConvProduct<T>& q, T* dst) {
  const Panels<T> panels(q.m);
  const int64_t rows = q.columns.rows();
  runtime::parallel_for(q.groups * panels.count, packed_weights_size(q) / 2, [&](int64_t task) {
    const int64_t group = task / panels.count, panel = task % panels.count, j = panels.begin(panel);
    Weights<T> weights = q.weights;
    weights.w += group * q.weights_group + j * weights.stride_out;
    pack_weights_panel(dst + group * rows * whole<T>(q.m) + j * rows, whole<T>(panels.size(panel)), q.columns, weights,
                       panels.size(panel));
  });
}

// Channels-last. weights: from pack_weights. finish as above, with pixels as rows.
template <class T, class Finish>
void product_columns(const ConvProduct<T>& q, const T* weights, const Finish& finish) {
  const Columns& columns = q.columns;
  const int64_t pixels = q.images * columns.pixels(), rows = columns.rows();
  const Panels<T> panels(q.m);
  // 56 pixels read each weight often enough to stream it from L2 or beyond.
  const int64_t parts = even_parts(pixels, 56);
  const int64_t panel_parts = smaller(panels.count, ceil_div(4, parts * q.groups));
  const int64_t blocks = larger(1, ceil_div(rows, kBlockK)), block_rows = ceil_div(rows, blocks);
  const bool dense = q.y_row == columns.out_w * q.y_pixel && q.y_image == columns.out_h * q.y_row;
  const bool direct = columns.is_source() && q.x_image == columns.h * columns.stride_h;
  // run(at, count, y): pixels first + at ... lie in y at the same distance from one another.
  const auto for_runs = [&](int64_t first, int64_t count, auto&& run) {
    if (dense) return run(int64_t{0}, count, q.y + first * q.y_pixel);
    for (int64_t at = 0; at < count;) {
      const int64_t image = (first + at) / columns.pixels(), place = (first + at) % columns.pixels();
      const int64_t x = place % columns.out_w, n = smaller(columns.out_w - x, count - at);
      run(at, n, q.y + image * q.y_image + place / columns.out_w * q.y_row + x * q.y_pixel);
      at += n;
    }
  };
  runtime::parallel_for(parts * q.groups * panel_parts, q.groups * q.m * rows * pixels / 32, [&](int64_t task) {
    const int64_t group = task / panel_parts % q.groups, part = task / (panel_parts * q.groups);
    const int64_t pixel = part_begin(pixels, parts, part), m = part_begin(pixels, parts, part + 1) - pixel;
    const int64_t panel0 = part_begin(panels.count, panel_parts, task % panel_parts);
    const int64_t panel1 = part_begin(panels.count, panel_parts, task % panel_parts + 1);
    T* packed = static_cast<T*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(m * block_rows + Vec<T>::lanes) * sizeof(T)));
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t p = part_begin(rows, blocks, block), k = part_begin(rows, blocks, block + 1) - p;
      const T* x = q.x + group * q.x_group;
      if (!direct) pack_channels(packed, k, columns, x, q.x_image, p, k, pixel, m);
      for (int64_t panel = panel0; panel < panel1; ++panel) {
        const int64_t j = panels.begin(panel), ld = whole<T>(panels.size(panel));
        const T* b = weights + group * rows * whole<T>(q.m) + j * rows + p * ld;
        for_runs(pixel, m, [&](int64_t at, int64_t count, T* y) {
          const int64_t lda = direct ? columns.stride_w : k;
          const T* from = direct ? x + (pixel + at) * columns.stride_w + p : packed + at * k;
          const PanelProduct<T> product = {from, b,  y + group * q.m + j, count, panels.size(panel), k,
                                           lda,  ld, q.y_pixel,           false, block > 0};
          if (block == blocks - 1)
            multiply_tiles(product, [&](int64_t row, int64_t rows_done) {
              finish(product.c + row * q.y_pixel, q.y_pixel, group * q.m + j, rows_done, product.n);
            });
          else
            multiply(product);
        });
      }
    }
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

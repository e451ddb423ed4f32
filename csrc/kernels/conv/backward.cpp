// conv2d backward: dx, dweight, dbias, each only where asked for; any stride, padding, dilation and groups.
//   dx       a convolution of dy with the flipped weights, one product per stride phase: the pixels (y, x) of dx with
//            equal (y mod stride, x mod stride) meet the same taps. Gathers only, so nothing is summed in memory.
//   dweight  transposed: columns(x) (rows = channel x tap, pixels) times dy (pixels, o). The pixels are cut into chunks
//            by shape; each chunk's sum is kept apart and the chunks are added in order.
//   dbias    dy summed over images and pixels
// NCHW keeps rows in the order (channel, tap), channels-last in the order (tap, channel).
#include "kernels/conv/product.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// First tap of phase r and how many there are: taps k with k * dilation = r + pad (mod stride).
struct Phase {
  int64_t first_tap, tap_step, taps, first, step;  // tap k + tap_step reads dy `step` further; tap k reads `first`
  int64_t size;                                    // pixels of dx in this phase
};
Phase phase_of(int64_t r, int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  Phase phase = {0, 1, 0, 0, 0, r < size ? (size - r - 1) / stride + 1 : 0};
  int64_t k = 0;
  while (k < kernel && k < stride && (r + pad - k * dilation) % stride != 0) ++k;
  if (k >= kernel || k >= stride) return phase;
  int64_t step = 1;
  while (step * dilation % stride != 0) ++step;
  phase.taps = (kernel - 1 - k) / step + 1;
  phase.first_tap = k + (phase.taps - 1) * step;  // from the last on, so that the source is read forwards
  phase.tap_step = -step;
  phase.first = (r + pad - phase.first_tap * dilation) / stride;
  phase.step = step * dilation / stride;
  return phase;
}

template <class T>
void backward_data(const Conv2dBackwardArgs& q) {
  const int64_t c = q.c / q.groups, m = q.o / q.groups, kernel_taps = q.kh * q.kw;
  const bool last = q.channels_last;
  for (int64_t rh = 0; rh < q.stride_h; ++rh) {
    for (int64_t rw = 0; rw < q.stride_w; ++rw) {
      const Phase ph = phase_of(rh, q.h, q.kh, q.stride_h, q.pad_h, q.dilation_h);
      const Phase pw = phase_of(rw, q.w, q.kw, q.stride_w, q.pad_w, q.dilation_w);
      if (ph.size == 0 || pw.size == 0) continue;
      const int64_t th = ph.taps && pw.taps ? ph.taps : 0, tw = th ? pw.taps : 0;
      ConvProduct<T> r;
      r.columns = {m,
                   q.oh,
                   q.ow,
                   last ? 1 : q.oh * q.ow,
                   last ? q.ow * q.o : q.ow,
                   last ? q.o : 1,
                   th,
                   tw,
                   ph.first,
                   pw.first,
                   ph.step,
                   pw.step,
                   1,
                   1,
                   ph.size,
                   pw.size};
      r.x = static_cast<const T*>(q.dy);
      r.weights = {static_cast<const T*>(q.weight) + ph.first_tap * q.kw + pw.first_tap, kernel_taps, c * kernel_taps,
                   ph.tap_step * q.kw, pw.tap_step};
      r.y_image = q.c * q.h * q.w, r.y_channel = last ? 1 : q.h * q.w;
      r.y_row = q.stride_h * (last ? q.w * q.c : q.w), r.y_pixel = q.stride_w * (last ? q.c : 1);
      r.y = static_cast<T*>(q.dx) + rh * (r.y_row / q.stride_h) + rw * (r.y_pixel / q.stride_w);
      r.images = q.n, r.groups = q.groups, r.m = c;
      r.x_image = q.o * q.oh * q.ow, r.x_group = last ? m : m * q.oh * q.ow, r.weights_group = m * c * kernel_taps;
      const auto finish = [](T*, int64_t, int64_t, int64_t, int64_t) {};
      if (last) {
        T* packed = static_cast<T*>(
            runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(packed_weights_size(r)) * sizeof(T)));
        pack_weights(r, packed);
        product_columns(r, packed, finish);
      } else {
        const Columns& columns = r.columns;
        const int64_t rows = columns.rows();
        T* packed =
            static_cast<T*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(q.c * rows) * sizeof(T)));
        const int64_t parts = ceil_div(c, 16);
        runtime::parallel_for(q.groups * parts, q.c * rows, [&](int64_t task) {
          const int64_t group = task / parts, j = task % parts * 16;
          Weights<T> weights = r.weights;
          weights.w += group * r.weights_group + j * weights.stride_out;
          pack_weights_rows(packed + (group * c + j) * rows, columns, weights, smaller(16, c - j));
        });
        product_rows(r, packed, finish);
      }
    }
  }
}

template <class T>
void backward_weight(const Conv2dBackwardArgs& q) {
  constexpr int64_t lanes = Vec<T>::lanes, width = kMainVectors * lanes, block_pixels = 256, block_rows = 144;
  const int64_t c = q.c / q.groups, m = q.o / q.groups, taps = q.kh * q.kw, rows = c * taps;
  const bool last = q.channels_last;
  const Columns columns = {
      c,    q.h,      q.w,      last ? 1 : q.h * q.w, last ? q.w * q.c : q.w, last ? q.c : 1, q.kh,
      q.kw, -q.pad_h, -q.pad_w, q.dilation_h,         q.dilation_w,           q.stride_h,     q.stride_w,
      q.oh, q.ow};
  const int64_t x_image = q.c * q.h * q.w, x_group = last ? c : c * q.h * q.w, out_image = q.o * q.oh * q.ow;
  const int64_t pixels = q.oh * q.ow, panels = ceil_div(m, width), row_parts = ceil_div(rows, block_rows);
  // Blocks of pixels never cross images, so that a block of an NCHW image is contiguous in each channel.
  const int64_t image_blocks = ceil_div(pixels, block_pixels), all_blocks = q.n * image_blocks;
  const int64_t chunks = larger(1, smaller(ceil_div(all_blocks, 8), ceil_div(16, row_parts * q.groups)));
  const T *x = static_cast<const T*>(q.x), *dy = static_cast<const T*>(q.dy);
  T* dw = static_cast<T*>(q.dweight);
  T* sums = static_cast<T*>(
      runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(chunks * q.groups * rows * m) * sizeof(T)));
  runtime::parallel_for(chunks * q.groups * row_parts, q.n * q.o * rows * pixels / 32, [&](int64_t task) {
    const int64_t part = task % row_parts, group = task / row_parts % q.groups, chunk = task / (row_parts * q.groups);
    const int64_t row = part_begin(rows, row_parts, part), n_rows = part_begin(rows, row_parts, part + 1) - row;
    T* sum = sums + (chunk * q.groups + group) * rows * m + row * m;
    T* a = static_cast<T*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(block_pixels * (n_rows + width)) * sizeof(T)));
    T* b = a + block_pixels * n_rows;
    const int64_t begin = part_begin(all_blocks, chunks, chunk), end = part_begin(all_blocks, chunks, chunk + 1);
    if (begin == end)
      for (int64_t i = 0; i < n_rows * m; ++i) sum[i] = T(0);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t image = block / image_blocks;
      const int64_t pixel = part_begin(pixels, image_blocks, block % image_blocks);
      const int64_t k = part_begin(pixels, image_blocks, block % image_blocks + 1) - pixel;
      const T* source = x + image * x_image + group * x_group;
      if (last)
        pack_channels(a, n_rows, columns, source, 0, row, n_rows, pixel, k);
      else
        pack_pixels(a, whole<T>(k), false, columns, source, row, n_rows, pixel, k);
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t j = panel * width, n = smaller(width, m - j), ld = ceil_div(n, lanes) * lanes;
        for (int64_t p = 0; p < k; ++p)
          for (int64_t i = 0; i < ld; ++i)
            b[p * ld + i] = i >= n ? T(0)
                            : last ? dy[image * out_image + (pixel + p) * q.o + group * m + j + i]
                                   : dy[image * out_image + (group * m + j + i) * pixels + pixel + p];
        multiply(PanelProduct<T>{a, b, sum + j, n_rows, n, k, last ? n_rows : whole<T>(k), ld, m, last, block > begin});
      }
    }
  });
  runtime::parallel_for(q.o, q.o * rows * chunks, [&](int64_t task) {
    const int64_t group = task / m, o = task % m;
    for (int64_t r = 0; r < rows; ++r) {
      T total = q.accumulate ? dw[task * rows + r] : T(0);
      const int64_t at = last ? r % taps * c + r / taps : r;
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        total += sums[(chunk * q.groups + group) * rows * m + at * m + o];
      dw[task * rows + r] = total;
    }
  });
}

template <class T>
void backward_bias(const Conv2dBackwardArgs& q) {
  const int64_t pixels = q.oh * q.ow, step = q.channels_last ? q.o : 1;
  const T* dy = static_cast<const T*>(q.dy);
  T* db = static_cast<T*>(q.dbias);
  runtime::parallel_for(q.o, q.n * q.o * pixels, [&](int64_t o) {
    double total = 0;
    for (int64_t image = 0; image < q.n; ++image) {
      const T* row = dy + image * q.o * pixels + (q.channels_last ? o : o * pixels);
      for (int64_t p = 0; p < pixels; ++p) total += static_cast<double>(row[p * step]);
    }
    db[o] = static_cast<T>(total + (q.accumulate ? static_cast<double>(db[o]) : 0.0));
  });
}

template <class T>
void conv2d_backward_of(const Conv2dBackwardArgs& q) {
  const runtime::FlushDenormals flush;
  if (q.dx) backward_data<T>(q);
  if (q.dweight) backward_weight<T>(q);
  if (q.dbias) backward_bias<T>(q);
}

}  // namespace

FASTNN_DEFINE(conv2d_backward, Conv2dBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

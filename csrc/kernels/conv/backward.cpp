// conv2d backward by columns: dx, dweight, dbias, each only where asked for; any stride, padding, dilation and groups.
// And the forward pass of conv_transpose2d, which is dx with a bias and an activation.
//   dx       a convolution of dy with the flipped weights, one product per stride phase: the pixels (y, x) of dx with
//            equal (y mod stride, x mod stride) meet the same taps. Gathers only, so nothing is summed in memory.
//   dweight  transposed: columns(x) (rows = channel x tap, pixels) times dy (pixels, o). The pixels are cut into chunks
//            by shape; each chunk's sum is kept apart and the chunks are added in order.
//   dbias    dy summed over images and pixels
// NCHW keeps rows in the order (channel, tap), channels-last in the order (tap, channel).
#include "kernels/conv/backward.hpp"

#include "kernels/conv/depthwise.hpp"
#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/product.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kBlockPixels = 256, kBlockRows = 288;  // of columns packed at a time for dweight: 288 KB of float

// The columns of x, as in the forward pass.
Columns forward_columns(const Conv2dBackwardArgs& q) {
  const bool last = q.channels_last;
  return {q.c / q.groups, q.h,      q.w,      last ? 1 : q.h * q.w, last ? q.w * q.c : q.w, last ? q.c : 1, q.kh,
          q.kw,           -q.pad_h, -q.pad_w, q.dilation_h,         q.dilation_w,           q.stride_h,     q.stride_w,
          q.oh,           q.ow};
}

// ---- dx ----

template <class T>
void backward_data(const Conv2dBackwardArgs& q, const Epilogue<T>& epilogue) {
  const int64_t c = q.c / q.groups, m = q.o / q.groups, kernel_taps = q.kh * q.kw;
  const bool last = q.channels_last;
  const auto finish = [&](T* y, int64_t ld, int64_t channel, int64_t rows, int64_t columns) {
    last ? finish_columns(epilogue, y, ld, channel, rows, columns)
         : finish_rows(epilogue, y, ld, channel, rows, columns);
  };
  for (int64_t rh = 0; rh < smaller(q.stride_h, q.h); ++rh) {  // the other phases have no pixel
    for (int64_t rw = 0; rw < smaller(q.stride_w, q.w); ++rw) {
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
      if (last && is_depthwise(r)) {
        T* packed = static_cast<T*>(
            runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(depthwise_weights_size(r)) * sizeof(T)));
        pack_depthwise_weights(r, packed);
        depthwise_pixels(r, packed, finish);
      } else if (last) {
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

// ---- dweight ----

// The sums of one part of dweight, transposed: row (channel, tap) or, channels-last, (tap, channel), columns o.
template <class T>
struct WeightSums {
  const T* sums;
  int64_t chunks, chunk_stride, ld;  // the chunks are added in order
  int64_t channels, taps, m;
  bool tap_first;
};

// dw[o * stride + (channel, tap)] = or += the sums, turned block by block in registers.
template <class T>
void write_weights(const WeightSums<T>& q, T* dw, int64_t stride, bool accumulate) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t rows = q.channels * q.taps;
  for (int64_t o = 0; o < q.m; o += lanes) {
    int64_t channel = 0, tap = 0;
    for (int64_t r = 0; r < rows; r += lanes) {
      const int64_t n = smaller(lanes, rows - r);
      alignas(64) T block[lanes * lanes], turned[lanes * lanes];
      for (int64_t i = 0; i < n; ++i) {
        const T* row = q.sums + (q.tap_first ? tap * q.channels + channel : r + i) * q.ld + o;
        Vec<T> v = load(row);
        for (int64_t chunk = 1; chunk < q.chunks; ++chunk) v += load(row + chunk * q.chunk_stride);
        store(block + i * lanes, v);
        if (++tap == q.taps) tap = 0, ++channel;
      }
      transpose(block, lanes, turned, lanes);
      for (int64_t j = 0; j < smaller(lanes, q.m - o); ++j) {
        T* to = dw + (o + j) * stride + r;
        Vec<T> v = load(turned + j * lanes);
        if (n == lanes) {
          store(to, accumulate ? load(to) + v : v);
        } else {
          const int part = static_cast<int>(n);
          store_partial(to, accumulate ? load_partial(to, part) + v : v, part);
        }
      }
    }
  }
}

template <class T>
void backward_weight(const Conv2dBackwardArgs& q) {
  const int64_t c = q.c / q.groups, m = q.o / q.groups, taps = q.kh * q.kw, rows = c * taps;
  const bool last = q.channels_last;
  const Columns columns = forward_columns(q);
  if (last && c == 1 && m == 1)
    return depthwise_weight(columns, q.n, q.c, static_cast<const T*>(q.x), static_cast<const T*>(q.dy),
                            static_cast<T*>(q.dweight), q.accumulate);
  const int64_t x_image = q.c * q.h * q.w, x_group = last ? c : c * q.h * q.w, out_image = q.o * q.oh * q.ow;
  // A block of pixels of an NCHW image lies together in each channel, so it stays in its image; channels-last counts
  // the pixels of all images as one row.
  const int64_t images = last ? 1 : q.n, pixels = q.oh * q.ow * (last ? q.n : 1);
  const int64_t block_pixels = q.groups > 1 && !last ? PixelPacker<T>::kPixels : kBlockPixels;
  const int64_t image_blocks = ceil_div(pixels, block_pixels), all_blocks = images * image_blocks;
  // A task holds all taps of some channels of some groups for one chunk of pixels. Groups share the plan of a packing.
  // Channels and groups are cut first; chunks, each of which costs a pass over dweight, have at least 1024 pixels.
  const int64_t parts = ceil_div(c, larger(1, smaller(c, kBlockRows / taps)));
  const int64_t group_parts = smaller(q.groups, ceil_div(16, parts)), tasks = group_parts * parts;
  const int64_t chunks = larger(1, smaller(q.n * q.oh * q.ow / 1024, ceil_div(16, tasks)));
  const Panels<T> panels(m);
  const int64_t ld = whole<T>(m), chunk_stride = q.groups * rows * ld;
  const T *x = static_cast<const T*>(q.x), *dy = static_cast<const T*>(q.dy);
  T* dw = static_cast<T*>(q.dweight);
  T* sums = chunks == 1 ? nullptr
                        : static_cast<T*>(runtime::scratch(runtime::Slot::kShared,
                                                           static_cast<size_t>(chunks * chunk_stride) * sizeof(T)));
  runtime::parallel_for(chunks * tasks, q.n * q.o * rows * q.oh * q.ow / 32, [&](int64_t task) {
    const int64_t part = task % parts, chunk = task / tasks;
    const int64_t c0 = part_begin(c, parts, part), channels = part_begin(c, parts, part + 1) - c0;
    const int64_t group0 = part_begin(q.groups, group_parts, task % tasks / parts);
    const int64_t group1 = part_begin(q.groups, group_parts, task % tasks / parts + 1);
    const int64_t n_rows = channels * taps, a_size = block_pixels * n_rows + Vec<T>::lanes;
    const int64_t b_size = block_pixels * kTileVectors * Vec<T>::lanes;
    const int64_t sum_size = sums ? 0 : (group1 - group0) * n_rows * ld;
    T* a = static_cast<T*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(a_size + b_size + sum_size) * sizeof(T)));
    T* b = a + a_size;
    const auto sum_of = [&](int64_t group) {
      return sums ? sums + chunk * chunk_stride + (group * rows + c0 * taps) * ld
                  : b + b_size + (group - group0) * n_rows * ld;
    };
    const int64_t begin = part_begin(all_blocks, chunks, chunk), end = part_begin(all_blocks, chunks, chunk + 1);
    if (begin == end)
      for (int64_t group = group0; group < group1; ++group) zero_run(sum_of(group), n_rows * ld);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t image = block / image_blocks;
      const int64_t pixel = part_begin(pixels, image_blocks, block % image_blocks);
      const int64_t k = part_begin(pixels, image_blocks, block % image_blocks + 1) - pixel;
      if (last) {
        for (int64_t group = group0; group < group1; ++group) {
          const T* source = x + group * x_group;
          if (channels == c)
            pack_channels(a, n_rows, columns, source, x_image, 0, n_rows, pixel, k);
          else
            for (int64_t tap = 0; tap < taps; ++tap)
              pack_channels(a + tap * channels, n_rows, columns, source, x_image, tap * c + c0, channels, pixel, k);
          for (int64_t panel = 0; panel < panels.count; ++panel) {
            const int64_t j = panels.begin(panel), n = panels.size(panel), ldb = whole<T>(n);
            pack_b(b, ldb, dy + pixel * q.o + group * m + j, q.o, false, k, n);
            multiply(PanelProduct<T>{a, b, sum_of(group) + j, n_rows, n, k, n_rows, ldb, ld, true, block > begin});
          }
        }
        continue;
      }
      PixelPacker<T> packer(columns, pixel, k, whole<T>(k), false);
      for (int64_t group = group0; group < group1; ++group) {
        packer.pack(a, x + image * x_image + group * x_group, c0, channels);
        const T* source = dy + image * out_image + group * m * pixels + pixel;
        if (m <= 4) {  // too few for a vector of outputs: dot products along the pixels
          multiply_dots(
              PanelProduct<T>{a, source, sum_of(group), n_rows, m, k, whole<T>(k), pixels, ld, false, block > begin});
          continue;
        }
        for (int64_t panel = 0; panel < panels.count; ++panel) {
          const int64_t j = panels.begin(panel), n = panels.size(panel), ldb = whole<T>(n);
          pack_b(b, ldb, source + j * pixels, pixels, true, k, n);
          multiply(PanelProduct<T>{a, b, sum_of(group) + j, n_rows, n, k, whole<T>(k), ldb, ld, false, block > begin});
        }
      }
    }
    if (!sums)
      for (int64_t group = group0; group < group1; ++group)
        write_weights(WeightSums<T>{sum_of(group), 1, 0, ld, channels, taps, m, last},
                      dw + group * m * rows + c0 * taps, rows, q.accumulate);
  });
  if (sums)
    runtime::parallel_for(q.groups * parts, chunks * chunk_stride / 4, [&](int64_t task) {
      const int64_t part = task % parts, group = task / parts;
      const int64_t c0 = part_begin(c, parts, part), channels = part_begin(c, parts, part + 1) - c0;
      write_weights(
          WeightSums<T>{sums + (group * rows + c0 * taps) * ld, chunks, chunk_stride, ld, channels, taps, m, last},
          dw + group * m * rows + c0 * taps, rows, q.accumulate);
    });
}

// ---- dbias ----

template <class T>
void backward_bias(const Conv2dBackwardArgs& q) {
  constexpr int64_t lanes = Vec<T>::lanes, block = 16 * lanes;  // sums of 16 values a lane, then double
  const int64_t pixels = q.oh * q.ow;
  const T* dy = static_cast<const T*>(q.dy);
  T* db = static_cast<T*>(q.dbias);
  if (q.channels_last) return column_sums(dy, q.n * pixels, q.o, db, q.accumulate);
  runtime::parallel_for(q.o, q.n * q.o * pixels / 8, [&](int64_t o) {
    double total = q.accumulate ? static_cast<double>(db[o]) : 0.0;
    for (int64_t image = 0; image < q.n; ++image) {
      const T* row = dy + (image * q.o + o) * pixels;
      for (int64_t p = 0; p < pixels; p += block) {
        const int64_t end = smaller(pixels, p + block);
        Vec<T> sum = zero<T>();
        int64_t i = p;
        for (; i + lanes <= end; i += lanes) sum += load(row + i);
        if (i < end) sum += load_partial(row + i, static_cast<int>(end - i));
        total += static_cast<double>(reduce_add(sum));
      }
    }
    db[o] = static_cast<T>(total);
  });
}

template <class T>
void conv2d_im2col_backward_of(const Conv2dBackwardArgs& q) {
  const runtime::FlushDenormals flush;
  if (q.dx) backward_data<T>(q, Epilogue<T>{});
  if (q.dweight) backward_weight<T>(q);
  if (q.dbias) backward_bias<T>(q);
}

template <class T>
void conv_transpose2d_forward_of(const ConvTranspose2dArgs& q) {
  const Conv2dBackwardArgs r = {q.x,
                                nullptr,
                                q.weight,
                                q.y,
                                nullptr,
                                nullptr,
                                q.n,
                                q.o,
                                q.oh,
                                q.ow,
                                q.c,
                                q.kh,
                                q.kw,
                                q.h,
                                q.w,
                                q.stride_h,
                                q.stride_w,
                                q.pad_h,
                                q.pad_w,
                                q.dilation_h,
                                q.dilation_w,
                                q.groups,
                                q.channels_last,
                                q.dtype,
                                0};
  if (tiles_chosen_for_data(r, q.bias != nullptr || q.then.activation != kIdentity))
    return backward_data_by_tiles(r, q.bias, q.then);
  const runtime::FlushDenormals flush;
  backward_data<T>(r, {nullptr, static_cast<const T*>(q.bias), nullptr, nullptr, q.then});
}

}  // namespace

FASTNN_DEFINE(conv2d_im2col_backward, Conv2dBackwardArgs)
FASTNN_DEFINE(conv_transpose2d_forward, ConvTranspose2dArgs)

}  // namespace fastnn::FASTNN_ISA

// Columns of a convolution: the matrix whose rows are (channel, tap) and whose columns are output pixels, never stored
// whole but packed part by part for the products in im2col.cpp and backward.cpp.
//   c, h, w    channels of one group, height and width of the source
//   taps       a grid th x tw; tap (i, j) of output pixel (y, x) reads source row y * move_h + first_h + i * step_h and
//              the column likewise; what lies outside the source is zero
//   pixels     a grid out_h x out_w, counted row by row
// The same description serves the forward pass (step = dilation, move = stride) and, with dy as the source and
// negative steps, each stride phase of backward-data.
#pragma once
#include "kernels/gemm.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Columns {
  int64_t c, h, w;
  int64_t stride_c, stride_h, stride_w;  // of the source, in elements
  int64_t th, tw, first_h, first_w, step_h, step_w, move_h, move_w;
  int64_t out_h, out_w;

  int64_t taps() const { return th * tw; }
  int64_t rows() const { return c * th * tw; }
  int64_t pixels() const { return out_h * out_w; }
};

// Channels-last order of the rows is (tap, channel), so that neighbours lie together; otherwise (channel, tap), the
// order of the weights.

// dst[r * ld + p] = column(row0 + r, pixel0 + p), r < rows, p < pixels; zero from pixels to `ld_used`.
template <class T>
void pack_pixels_fast(T* dst, int64_t ld, int64_t fill, const Columns& q, const T* x, int64_t row0, int64_t rows,
                      int64_t pixel0, int64_t pixels) {
  for (int64_t r = 0; r < rows; ++r, dst += ld) {
    const int64_t tap = (row0 + r) % q.taps();
    const T* source = x + (row0 + r) / q.taps() * q.stride_c;
    const int64_t dy = q.first_h + tap / q.tw * q.step_h, dx = q.first_w + tap % q.tw * q.step_w;
    int64_t y = pixel0 / q.out_w, xx = pixel0 % q.out_w;
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t sy = y * q.move_h + dy, sx = xx * q.move_w + dx;
      const bool inside = sy >= 0 && sy < q.h && sx >= 0 && sx < q.w;
      dst[p] = inside ? source[sy * q.stride_h + sx * q.stride_w] : T(0);
      if (++xx == q.out_w) xx = 0, ++y;
    }
    for (int64_t p = pixels; p < fill; ++p) dst[p] = T(0);
  }
}

// dst[p * ld + r] = column (tap, channel)-ordered row0 + r, pixel0 + p; pixels run over all images.
template <class T>
void pack_rows_fast(T* dst, int64_t ld, const Columns& q, const T* x, int64_t image_stride, int64_t row0, int64_t rows,
                    int64_t pixel0, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p, dst += ld) {
    const int64_t pixel = pixel0 + p, image = pixel / q.pixels(), at = pixel % q.pixels();
    const int64_t y = at / q.out_w * q.move_h + q.first_h, xx = at % q.out_w * q.move_w + q.first_w;
    int64_t tap = row0 / q.c, c = row0 % q.c;
    for (int64_t r = 0; r < rows;) {
      const int64_t run = smaller(q.c - c, rows - r);
      const int64_t sy = y + tap / q.tw * q.step_h, sx = xx + tap % q.tw * q.step_w;
      if (sy >= 0 && sy < q.h && sx >= 0 && sx < q.w) {
        const T* source = x + image * image_stride + sy * q.stride_h + sx * q.stride_w + c * q.stride_c;
        for (int64_t i = 0; i < run; ++i) dst[r + i] = source[i * q.stride_c];
      } else {
        for (int64_t i = 0; i < run; ++i) dst[r + i] = T(0);
      }
      r += run;
      c = 0;
      ++tap;
    }
  }
}

// Weights as a matrix (out, row of the columns) with any strides.
template <class T>
struct Weights {
  const T* w;  // tap (0, 0)
  int64_t stride_out, stride_c, stride_th, stride_tw;

  T at(const Columns& q, int64_t out, int64_t c, int64_t tap) const {
    return w[out * stride_out + c * stride_c + tap / q.tw * stride_th + tap % q.tw * stride_tw];
  }
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

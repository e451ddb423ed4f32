// im2col: y (n, c * kh * kw, oh * ow) = the columns of x (n, c, h, w), as ops of their own; col2im: its transpose,
// which sums the columns back into the image. Both gather: col2im adds to each input pixel its taps in the order of the
// kernel, so it is deterministic and needs no zeroed output. Exact but for the order of col2im's sum.
#include "kernels/conv/columns.hpp"

#include "runtime/fp_state.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
void im2col_forward_of(const Im2colArgs& q) {
  const Columns columns = {q.c,      q.h,      q.w,          q.h * q.w,    q.w,        1,          q.kh, q.kw,
                           -q.pad_h, -q.pad_w, q.dilation_h, q.dilation_w, q.stride_h, q.stride_w, q.oh, q.ow};
  const int64_t taps = q.kh * q.kw, pixels = q.oh * q.ow;
  const T* x = static_cast<const T*>(q.x);
  T* y = static_cast<T*>(q.y);
  runtime::parallel_for(q.n * q.c, q.n * q.c * taps * pixels / 4, [&](int64_t task) {
    PixelPacker<T>(columns, 0, pixels, pixels, true)
        .pack(y + task * taps * pixels, x + task / q.c * q.c * q.h * q.w, task % q.c, 1);
  });
}

template <class T>
void col2im_forward_of(const Im2colArgs& q) {
  const int64_t taps = q.kh * q.kw, pixels = q.oh * q.ow;
  const T* columns = static_cast<const T*>(q.x);
  T* out = static_cast<T*>(q.y);
  runtime::parallel_for(q.n * q.c, q.n * q.c * taps * pixels / 2, [&](int64_t task) {
    T* image = out + task * q.h * q.w;
    for (int64_t i = 0; i < q.h * q.w; ++i) image[i] = T(0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const T* column = columns + (task * taps + tap) * pixels;
      const int64_t dy = tap / q.kw * q.dilation_h - q.pad_h, dx = tap % q.kw * q.dilation_w - q.pad_w;
      for (int64_t y = 0; y < q.oh; ++y) {
        const int64_t sy = y * q.stride_h + dy;
        if (sy < 0 || sy >= q.h) continue;
        for (int64_t x = 0; x < q.ow; ++x) {
          const int64_t sx = x * q.stride_w + dx;
          if (sx >= 0 && sx < q.w) image[sy * q.w + sx] += column[y * q.ow + x];
        }
      }
    }
  });
}

}  // namespace

FASTNN_DEFINE(im2col_forward, Im2colArgs)
FASTNN_DEFINE(col2im_forward, Im2colArgs)

}  // namespace fastnn::FASTNN_ISA

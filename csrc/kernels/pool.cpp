// max_pool2d, avg_pool2d, global_avg_pool2d. Legend: (n, c, h, w) in, (oh, ow) out, (kh, kw) window; i j input row and
// column, oi oj output, ki kj position in the window. A NaN in a window is its maximum; of equals the first counts.
#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

FASTNN_INLINE int64_t at_of(int64_t channels_last, int64_t c, int64_t h, int64_t w, int64_t n, int64_t ch, int64_t i,
                            int64_t j) {
  return channels_last ? ((n * h + i) * w + j) * c + ch : ((n * c + ch) * h + i) * w + j;
}

struct Range {
  int64_t begin, end, divisor;  // inside the input; divisor counts padding too where asked
};
FASTNN_INLINE Range window(int64_t o, int64_t stride, int64_t pad, int64_t k, int64_t size, int64_t include_pad) {
  int64_t begin = o * stride - pad, end = begin + k < size + pad ? begin + k : size + pad;
  const int64_t padded = end - begin;
  begin = begin > 0 ? begin : 0;
  end = end < size ? end : size;
  end = end > begin ? end : begin;
  return {begin, end, include_pad ? padded : end - begin};
}

template <class T>
static void max_pool2d_forward_of(const Pool2dArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t oi = 0; oi < a.oh; ++oi)
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          T best = -static_cast<T>(__builtin_inf());
          int32_t arg = -1;
          for (int64_t ki = 0; ki < a.kh; ++ki)
            for (int64_t kj = 0; kj < a.kw; ++kj) {
              const int64_t i = oi * a.stride_h - a.pad_h + ki * a.dilation_h;
              const int64_t j = oj * a.stride_w - a.pad_w + kj * a.dilation_w;
              if (i < 0 || i >= a.h || j < 0 || j >= a.w) continue;
              const T v = x[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)];
              if (arg < 0 || (!(v <= best) && best == best)) {
                best = v;
                arg = static_cast<int32_t>(ki * a.kw + kj);
              }
            }
          const int64_t at = at_of(a.channels_last, a.c, a.oh, a.ow, n, c, oi, oj);
          y[at] = best;
          arg = arg < 0 ? 0 : arg;
          if (a.argmax && a.argmax_bytes == 1) static_cast<uint8_t*>(a.argmax)[at] = static_cast<uint8_t>(arg);
          if (a.argmax && a.argmax_bytes == 4) static_cast<int32_t*>(a.argmax)[at] = arg;
        }
}

template <class T>
static void max_pool2d_backward_of(const Pool2dBackwardArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  for (int64_t i = 0; i < a.n * a.c * a.h * a.w; ++i) dx[i] = T(0);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t oi = 0; oi < a.oh; ++oi)
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          const int64_t at = at_of(a.channels_last, a.c, a.oh, a.ow, n, c, oi, oj);
          const int64_t arg = a.argmax_bytes == 1 ? static_cast<const uint8_t*>(a.argmax)[at]
                                                  : static_cast<const int32_t*>(a.argmax)[at];
          const int64_t i = oi * a.stride_h - a.pad_h + arg / a.kw * a.dilation_h;
          const int64_t j = oj * a.stride_w - a.pad_w + arg % a.kw * a.dilation_w;
          if (i < 0 || i >= a.h || j < 0 || j >= a.w) continue;
          dx[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)] += dy[at];
        }
}

template <class T>
static void avg_pool2d_forward_of(const Pool2dArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t oi = 0; oi < a.oh; ++oi)
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          const Range rows = window(oi, a.stride_h, a.pad_h, a.kh, a.h, a.count_include_pad);
          const Range cols = window(oj, a.stride_w, a.pad_w, a.kw, a.w, a.count_include_pad);
          double sum = 0;
          for (int64_t i = rows.begin; i < rows.end; ++i)
            for (int64_t j = cols.begin; j < cols.end; ++j)
              sum += double(x[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)]);
          const double divisor = double(rows.divisor) * double(cols.divisor);
          y[at_of(a.channels_last, a.c, a.oh, a.ow, n, c, oi, oj)] = static_cast<T>(divisor > 0 ? sum / divisor : 0.0);
        }
}

template <class T>
static void avg_pool2d_backward_of(const Pool2dBackwardArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  for (int64_t i = 0; i < a.n * a.c * a.h * a.w; ++i) dx[i] = T(0);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t oi = 0; oi < a.oh; ++oi)
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          const Range rows = window(oi, a.stride_h, a.pad_h, a.kh, a.h, a.count_include_pad);
          const Range cols = window(oj, a.stride_w, a.pad_w, a.kw, a.w, a.count_include_pad);
          const T g = static_cast<T>(double(dy[at_of(a.channels_last, a.c, a.oh, a.ow, n, c, oi, oj)]) /
                                     (double(rows.divisor) * double(cols.divisor)));
          for (int64_t i = rows.begin; i < rows.end; ++i)
            for (int64_t j = cols.begin; j < cols.end; ++j) dx[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)] += g;
        }
}

template <class T>
static void global_avg_pool2d_forward_of(const GlobalPoolArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < a.h; ++i)
        for (int64_t j = 0; j < a.w; ++j) sum += double(x[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)]);
      y[n * a.c + c] = static_cast<T>(sum / double(a.h * a.w));
    }
}

template <class T>
static void global_avg_pool2d_backward_of(const GlobalPoolArgs& a) {
  const T* dy = static_cast<const T*>(a.x);
  T* dx = static_cast<T*>(a.y);
  for (int64_t n = 0; n < a.n; ++n)
    for (int64_t c = 0; c < a.c; ++c)
      for (int64_t i = 0; i < a.h; ++i)
        for (int64_t j = 0; j < a.w; ++j)
          dx[at_of(a.channels_last, a.c, a.h, a.w, n, c, i, j)] =
              static_cast<T>(double(dy[n * a.c + c]) / double(a.h * a.w));
}

}  // namespace

FASTNN_DEFINE(max_pool2d_forward, Pool2dArgs)
FASTNN_DEFINE(max_pool2d_backward, Pool2dBackwardArgs)
FASTNN_DEFINE(avg_pool2d_forward, Pool2dArgs)
FASTNN_DEFINE(avg_pool2d_backward, Pool2dBackwardArgs)
FASTNN_DEFINE(global_avg_pool2d_forward, GlobalPoolArgs)
FASTNN_DEFINE(global_avg_pool2d_backward, GlobalPoolArgs)

}  // namespace fastnn::FASTNN_ISA

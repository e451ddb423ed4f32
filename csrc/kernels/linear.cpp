// linear: y (rows, out) = activation(x (rows, in) weight^T + bias); backward dx = dy weight, dweight = dy^T x,
// dbias = dy summed over rows. All are products of gemm.cpp, which reads x and dy where they lie; where there are tiles
// y, and dx of many rows, are those of a convolution of one row of pixels.
#include "kernels/conv/epilogue.hpp"
#include "kernels/gemm.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct LinearEnd {
  Epilogue<T> epilogue;
  T* y;
  int64_t ld;

  static void finish(const void* context, int64_t row, int64_t column, int64_t rows, int64_t columns) {
    const LinearEnd& end = *static_cast<const LinearEnd*>(context);
    finish_columns(end.epilogue, end.y + row * end.ld + column, end.ld, column, rows, columns);
  }
};

#if defined(FASTNN_ISA_AMX)
bool by_tiles(const LinearArgs& q) { return q.dtype == kFloat32 && q.rows >= 16 && q.in >= 16 && q.out > 0; }
bool by_tiles(const LinearBackwardArgs& q) { return q.dtype == kFloat32 && q.rows >= 32 && q.in >= 16 && q.out >= 16; }
#else
constexpr bool by_tiles(const LinearArgs&) { return false; }
constexpr bool by_tiles(const LinearBackwardArgs&) { return false; }
#endif

Conv2dArgs as_convolution(const LinearArgs& q) {
  Conv2dArgs r = {};
  r.x = q.x, r.weight = q.weight, r.bias = q.bias, r.packed = q.packed, r.y = q.y;
  r.n = r.h = r.kh = r.kw = r.oh = 1, r.c = q.in, r.w = r.ow = q.rows, r.o = q.out;
  r.stride_h = r.stride_w = r.dilation_h = r.dilation_w = r.groups = 1;
  r.x_last = r.y_last = 1, r.dtype = q.dtype, r.parts = q.parts, r.then = q.then;
  return r;
}

template <class T>
void linear_forward_of(const LinearArgs& q) {
  if (by_tiles(q)) return conv2d_amx_forward(as_convolution(q));
  const runtime::FlushDenormals flush;
  const T *x = static_cast<const T*>(q.x), *weight = static_cast<const T*>(q.weight);
  T* y = static_cast<T*>(q.y);
  const LinearEnd<T> end = {{nullptr, static_cast<const T*>(q.bias), y, nullptr, q.then}, y, q.out};
  gemm(
      Product<T>{x, weight, y, q.rows, q.out, q.in, q.in, q.in, q.out, false, true, false, LinearEnd<T>::finish, &end});
}

Conv2dBackwardArgs dx_as_convolution(const LinearBackwardArgs& q) {
  Conv2dBackwardArgs r = {};
  r.dy = q.dy, r.x = q.x, r.weight = q.weight, r.dx = q.dx;
  r.n = r.h = r.kh = r.kw = r.oh = 1, r.c = q.in, r.w = r.ow = q.rows, r.o = q.out;
  r.stride_h = r.stride_w = r.dilation_h = r.dilation_w = r.groups = 1;
  r.channels_last = 1, r.dtype = q.dtype;
  return r;
}

template <class T>
void linear_backward_of(const LinearBackwardArgs& q) {
  const runtime::FlushDenormals flush;
  const T *dy = static_cast<const T*>(q.dy), *x = static_cast<const T*>(q.x);
  const T* weight = static_cast<const T*>(q.weight);
  const bool accumulate = q.accumulate;
  if (q.dx && by_tiles(q))
    conv2d_amx_backward(dx_as_convolution(q));
  else if (q.dx)
    gemm(Product<T>{dy, weight, static_cast<T*>(q.dx), q.rows, q.in, q.out, q.out, q.in, q.in, false, false, false,
                    nullptr, nullptr});
  if (q.dweight)
    gemm(Product<T>{dy, x, static_cast<T*>(q.dweight), q.out, q.in, q.rows, q.out, q.in, q.in, true, false, accumulate,
                    nullptr, nullptr});
  if (q.dbias) column_sums(dy, q.rows, q.out, static_cast<T*>(q.dbias), accumulate);
}

}  // namespace

int64_t linear_forward_pack(const LinearArgs& args, void* packed) {
  return by_tiles(args) ? conv2d_amx_forward_pack(as_convolution(args), packed) : 0;
}

const char* linear_forward_algorithm(const LinearArgs& args) {
  return by_tiles(args) ? conv2d_amx_forward_algorithm(as_convolution(args)) : "gemm";
}

FASTNN_DEFINE(linear_forward, LinearArgs)
FASTNN_DEFINE(linear_backward, LinearBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

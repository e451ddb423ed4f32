// linear: y (rows, out) = activation(x (rows, in) weight^T + bias); backward dx = dy weight, dweight = dy^T x,
// dbias = dy summed over rows. All are products of gemm.cpp; x and dy are read where they lie.
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

template <class T>
void linear_forward_of(const LinearArgs& q) {
  const runtime::FlushDenormals flush;
  const T *x = static_cast<const T*>(q.x), *weight = static_cast<const T*>(q.weight);
  T* y = static_cast<T*>(q.y);
  const LinearEnd<T> end = {{nullptr, static_cast<const T*>(q.bias), y, nullptr, q.then}, y, q.out};
  gemm(
      Product<T>{x, weight, y, q.rows, q.out, q.in, q.in, q.in, q.out, false, true, false, LinearEnd<T>::finish, &end});
}

template <class T>
void linear_backward_of(const LinearBackwardArgs& q) {
  const runtime::FlushDenormals flush;
  const T *dy = static_cast<const T*>(q.dy), *x = static_cast<const T*>(q.x);
  const T* weight = static_cast<const T*>(q.weight);
  const bool accumulate = q.accumulate;
  if (q.dx)
    gemm(Product<T>{dy, weight, static_cast<T*>(q.dx), q.rows, q.in, q.out, q.out, q.in, q.in, false, false, false,
                    nullptr, nullptr});
  if (q.dweight)
    gemm(Product<T>{dy, x, static_cast<T*>(q.dweight), q.out, q.in, q.rows, q.out, q.in, q.in, true, false, accumulate,
                    nullptr, nullptr});
  if (q.dbias) column_sums(dy, q.rows, q.out, static_cast<T*>(q.dbias), accumulate);
}

}  // namespace

FASTNN_DEFINE(linear_forward, LinearArgs)
FASTNN_DEFINE(linear_backward, LinearBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

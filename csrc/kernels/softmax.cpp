// softmax and log_softmax along rows: y = e^(x - max) / sum, y = x - max - log(sum); backward from the output y:
// dx = y (dy - sum(dy y)), dx = dy - e^y sum(dy). (rows, cols) dense.
// A row with a NaN or +inf, or of -inf alone, becomes NaN, as the formula gives. Denormals are flushed.
// One row is one vector loop; tasks are blocks of rows, so that sums do not depend on the number of threads.
#include <cmath>

#include "kernels/kernels.hpp"
#include "kernels/rows.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// A row of one vector.
template <class T>
struct ShortRow {
  Vec<T> below, e;  // x - max and its exponential
  T sum;
  FASTNN_MEMBER_INLINE ShortRow(const T* x, int n) {
    const Vec<T> v = pad_n(load_n(x, n), n, static_cast<T>(-__builtin_inf()));
    below = v - set1(reduce_max(v));
    e = exp(below);
    sum = reduce_add(e);  // the padding gave 0
  }
};

template <class T>
void softmax_row(const T* x, T* y, int64_t cols) {
  if (cols <= Vec<T>::lanes) {  // in registers: reading back what was just stored under a mask stalls
    const int n = static_cast<int>(cols);
    const ShortRow<T> row(x, n);
    return store_n(y, row.e * reciprocal(set1(row.sum)), n);
  }
  const Vec<T> top = set1(row_max(x, cols));
  double sum[1];
  row_sums<T>(cols, sum, [&](int64_t i, int n, Vec<T>* acc) FASTNN_INLINED {
    const Vec<T> e = exp(load_n(x + i, n) - top);
    store_n(y + i, e, n);
    *acc += pad_n(e, n, T(0));
  });
  const Vec<T> scale = set1(static_cast<T>(1 / sum[0]));
  for_vectors<T>(0, cols, [&](int64_t i, int n) FASTNN_INLINED { store_n(y + i, load_n(y + i, n) * scale, n); });
}

template <class T>
void log_softmax_row(const T* x, T* y, int64_t cols) {
  if (cols <= Vec<T>::lanes) {
    const int n = static_cast<int>(cols);
    const ShortRow<T> row(x, n);
    return store_n(y, row.below - set1(static_cast<T>(std::log(static_cast<double>(row.sum)))), n);
  }
  const Vec<T> top = set1(row_max(x, cols));
  double sum[1];
  row_sums<T>(cols, sum, [&](int64_t i, int n, Vec<T>* acc) FASTNN_INLINED {
    *acc += pad_n(exp(load_n(x + i, n) - top), n, T(0));
  });
  const Vec<T> log_sum = set1(static_cast<T>(std::log(sum[0])));
  for_vectors<T>(0, cols,
                 [&](int64_t i, int n) FASTNN_INLINED { store_n(y + i, load_n(x + i, n) - top - log_sum, n); });
}

template <class T>
void softmax_backward_row(const T* dy, const T* y, T* dx, int64_t cols) {
  const double sum =
      row_sum<T>(cols, [&](int64_t i, int n) FASTNN_INLINED { return load_n(dy + i, n) * load_n(y + i, n); });
  const Vec<T> mean = set1(static_cast<T>(sum));
  for_vectors<T>(0, cols, [&](int64_t i, int n) FASTNN_INLINED {
    store_n(dx + i, load_n(y + i, n) * (load_n(dy + i, n) - mean), n);
  });
}

template <class T>
void log_softmax_backward_row(const T* dy, const T* y, T* dx, int64_t cols) {
  const Vec<T> sum =
      set1(static_cast<T>(row_sum<T>(cols, [&](int64_t i, int n) FASTNN_INLINED { return load_n(dy + i, n); })));
  for_vectors<T>(0, cols, [&](int64_t i, int n) FASTNN_INLINED {
    store_n(dx + i, fnma(exp(load_n(y + i, n)), sum, load_n(dy + i, n)), n);
  });
}

template <class T, class Row>
FASTNN_INLINE void forward(const RowsArgs& a, Row&& row) {
  const runtime::FlushDenormals flush;
  for_row_blocks(a.rows, a.cols, a.rows * a.cols, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      row(static_cast<const T*>(a.x) + i * a.cols, static_cast<T*>(a.y) + i * a.cols, a.cols);
    }
  });
}
template <class T, class Row>
FASTNN_INLINE void backward(const RowsBackwardArgs& a, Row&& row) {
  const runtime::FlushDenormals flush;
  for_row_blocks(a.rows, a.cols, a.rows * a.cols, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      row(static_cast<const T*>(a.dy) + i * a.cols, static_cast<const T*>(a.y) + i * a.cols,
          static_cast<T*>(a.dx) + i * a.cols, a.cols);
    }
  });
}

template <class T>
void softmax_forward_of(const RowsArgs& a) {
  forward<T>(a, softmax_row<T>);
}
template <class T>
void log_softmax_forward_of(const RowsArgs& a) {
  forward<T>(a, log_softmax_row<T>);
}
template <class T>
void softmax_backward_of(const RowsBackwardArgs& a) {
  backward<T>(a, softmax_backward_row<T>);
}
template <class T>
void log_softmax_backward_of(const RowsBackwardArgs& a) {
  backward<T>(a, log_softmax_backward_row<T>);
}

}  // namespace

FASTNN_DEFINE(softmax_forward, RowsArgs)
FASTNN_DEFINE(softmax_backward, RowsBackwardArgs)
FASTNN_DEFINE(log_softmax_forward, RowsArgs)
FASTNN_DEFINE(log_softmax_backward, RowsBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

// Mean over all elements of a loss l(x, t) of score x and target t, and its gradient dscores, in one pass.
// scores, targets, dscores (rows, cols); a_i = sample weight, W = sum_i a_i, u_c = weight, p_c = pos_weight; or 1.
//
//   loss = sum_ic a_i u_c l(x, t) / (W cols);  dscores = a_i u_c l'(x, t) / (W cols);  d = x - t
//   mse     d^2                                           2 d
//   l1      |d|                                           sign(d), 0 at 0
//   huber   q (|d| - q / 2), q = min(|d|, delta)          d clamped to +-delta
//   binary_cross_entropy_with_logits                      no term cancels another:
//           (1 - t) softplus(x) + p t softplus(-x)        (1 - t) s(x) - p t s(-x), s = 1 / (1 + e^-x)
// NaN gives NaN. W = 0 gives NaN: 0 / 0. Terms are rounded to T, sums are double; the last flushes denormals.
// Tasks are chunks of elements, across rows; their partial losses are added in order.
#include "kernels/elementwise.hpp"
#include "kernels/rows.hpp"
#include "kernels/sum.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Term {
  Vec<T> loss, slope;
};

template <class T>
FASTNN_INLINE Term<T> mse_term(Vec<T> x, Vec<T> t) {
  const Vec<T> d = x - t;
  return {d * d, d + d};
}

template <class T>
FASTNN_INLINE Term<T> l1_term(Vec<T> x, Vec<T> t) {
  const Vec<T> d = x - t;
  return {abs(d), select(gt(d, zero<T>()), set1(T(1)), select(lt(d, zero<T>()), set1(T(-1)), d))};
}

template <class T>
FASTNN_INLINE Term<T> huber_term(Vec<T> x, Vec<T> t, Vec<T> delta) {
  const Vec<T> d = x - t, size = abs(d), q = min(delta, size);  // the second operand is returned where it is NaN
  return {q * fnma(set1(T(0.5)), q, size), max(-delta, min(delta, d))};
}

template <class T>
FASTNN_INLINE Term<T> binary_term(Vec<T> x, Vec<T> t, Vec<T> p) {
  const Vec<T> one = set1(T(1)), none = zero<T>(), e = exp(-abs(x)), rest = log1p(e);
  const Vec<T> large = reciprocal(one + e), small = e * large;  // s(|x|), s(-|x|)
  const Mask<T> positive = ge(x, none);
  const Vec<T> u = one - t, v = p * t;
  return {fma(u, max(none, x) + rest, v * (max(none, -x) + rest)),
          u * select(positive, large, small) - v * select(positive, small, large)};
}

// term(x, t, p): the function on one vector.
template <class T, class F>
FASTNN_INLINE void mean_loss(const LossArgs& a, int64_t picoseconds, F&& term) {
  const T *scores = static_cast<const T*>(a.scores), *targets = static_cast<const T*>(a.targets);
  const T *sample = static_cast<const T*>(a.sample_weight), *positive = static_cast<const T*>(a.pos_weight);
  const T* column = static_cast<const T*>(a.weight);
  T* dscores = static_cast<T*>(a.dscores);
  const int64_t size = a.rows * a.cols;
  const double total = (sample ? sum_of(sample, a.rows) : static_cast<double>(a.rows)) * static_cast<double>(a.cols);

  // Rows count only for what differs between them; a single column has a weight for each element.
  const bool each = sample && a.cols == 1;
  const int64_t cols = a.cols == 1 || !(sample || column || positive) ? size : a.cols;
  double* parts = static_cast<double*>(
      runtime::scratch(runtime::Slot::kShared, static_cast<size_t>((size + kChunk - 1) / kChunk) * sizeof(double)));
  for_chunks(size, picoseconds, [&](int64_t begin, int64_t end) {
    double part = 0;
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / cols, first = row * cols, stop = first + cols < end ? first + cols : end;
      const double weight = sample && !each ? static_cast<double>(sample[row]) : 1.0;
      const Vec<T> scale = set1(static_cast<T>(weight / total));
      Sum<T> sum;
      for_vectors<T>(i, stop, [&](int64_t k, int n) FASTNN_INLINED {
        const auto of_column = [&](const T* v) FASTNN_INLINED {
          return !v ? set1(T(1)) : a.cols == 1 ? set1(v[0]) : load_n(v + (k - first), n);
        };
        Term<T> r = term(load_n(scores + k, n), load_n(targets + k, n), of_column(positive));
        if (column) {
          const Vec<T> u = of_column(column);
          r.loss = r.loss * u;
          r.slope = r.slope * u;
        }
        Vec<T> to_gradient = scale;
        if (each) {
          const Vec<T> w = load_n(sample + k, n);
          r.loss = r.loss * w;
          to_gradient = to_gradient * w;
        }
        store_n(dscores + k, r.slope * to_gradient, n);
        sum.add(pad_n(r.loss, n, T(0)));
      });
      part += weight * sum.total();
      i = stop;
    }
    parts[begin / kChunk] = part;
  });
  double loss = 0;
  for (int64_t i = 0; i < (size + kChunk - 1) / kChunk; ++i) loss += parts[i];
  *a.loss = loss / total;
}

template <class T>
void mse_of(const LossArgs& a) {
  mean_loss<T>(a, 500, [](Vec<T> x, Vec<T> t, Vec<T>) FASTNN_INLINED { return mse_term(x, t); });
}
template <class T>
void l1_of(const LossArgs& a) {
  mean_loss<T>(a, 500, [](Vec<T> x, Vec<T> t, Vec<T>) FASTNN_INLINED { return l1_term(x, t); });
}
template <class T>
void huber_of(const LossArgs& a) {
  const Vec<T> delta = set1(static_cast<T>(a.delta));
  mean_loss<T>(a, 500, [=](Vec<T> x, Vec<T> t, Vec<T>) FASTNN_INLINED { return huber_term(x, t, delta); });
}
template <class T>
void binary_cross_entropy_with_logits_of(const LossArgs& a) {
  const runtime::FlushDenormals flush;
  mean_loss<T>(a, 1500, [](Vec<T> x, Vec<T> t, Vec<T> p) FASTNN_INLINED { return binary_term(x, t, p); });
}

}  // namespace

FASTNN_DEFINE(mse, LossArgs)
FASTNN_DEFINE(l1, LossArgs)
FASTNN_DEFINE(huber, LossArgs)
FASTNN_DEFINE(binary_cross_entropy_with_logits, LossArgs)

}  // namespace fastnn::FASTNN_ISA

// Mean cross-entropy of softmax(scores) and its gradient, in one pass over each row while it is in cache.
//
//   p = softmax(s); l_c = -log p_c; eps = label_smoothing; u_c = class weight (or 1); a_i = sample weight (or 1)
//   labels:  loss = sum_i a_i [(1 - eps) u_k l_k + eps / C sum_c u_c l_c] / W,   W = sum_i a_i u_k,   k = label of row
//   i
//            over the rows whose label is not ignore_index; the others have gradient 0
//   targets: loss = sum_i a_i sum_c q_c l_c / W,   q_c = u_c ((1 - eps) t_c + eps / C),   W = sum_i a_i
//   gradient, with q_c of a label = (1 - eps) u_k [c = k] + eps / C u_c:   a_i / W (p_c sum(q) - q_c)
// This is torch's definition, with sample weights. W = 0 (no row counts, or weights of 0) gives loss NaN and, where
// rows count, NaN gradients. Sums over rows and the loss are double; a row's logarithm is taken in double. Denormals
// are flushed. Tasks are blocks of rows; their partial losses are added in order.
#include <cmath>

#include "kernels/kernels.hpp"
#include "kernels/rows.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Problem {
  const T *scores, *targets, *weight, *sample_weight;
  const int64_t* labels;
  T* dscores;
  int64_t cols, ignore_index;
  double smoothing, total;
};

// q over the classes, without what a label adds: (keep t_c + spread) u_c with t and u possibly absent.
template <class T>
FASTNN_INLINE Vec<T> class_terms(const Problem<T>& p, const T* t, int64_t c, int n, Vec<T> keep, Vec<T> spread) {
  const Vec<T> q = t ? fma(keep, load_n(t + c, n), spread) : spread;
  return p.weight ? q * load_n(p.weight + c, n) : q;
}

// One row: writes its gradient, returns its part of the sum over rows.
template <class T>
FASTNN_INLINE double row_loss(const Problem<T>& p, int64_t row) {
  const T* s = p.scores + row * p.cols;
  const T* t = p.targets ? p.targets + row * p.cols : nullptr;
  T* ds = p.dscores + row * p.cols;
  const int64_t label = p.labels ? p.labels[row] : 0;
  if (p.labels && label == p.ignore_index) {
    for_vectors<T>(0, p.cols, [&](int64_t c, int n) FASTNN_INLINED { store_n(ds + c, zero<T>(), n); });
    return 0;
  }
  const double sample = p.sample_weight ? static_cast<double>(p.sample_weight[row]) : 1.0, scale = sample / p.total;
  const double spread = p.smoothing / static_cast<double>(p.cols), keep = 1.0 - p.smoothing;
  const bool dense = t || p.smoothing > 0;  // q is more than the label's
  const T top = row_max(s, p.cols);

  // e^(s - top) into ds; its sum, the sum of q and of q (top - s)
  double sums[3] = {0, 0, 0};
  if (dense) {
    const Vec<T> vkeep = set1(static_cast<T>(keep)), vspread = set1(static_cast<T>(spread));
    row_sums<T>(p.cols, sums, [&](int64_t c, int n, Vec<T>* acc) FASTNN_INLINED {
      const Vec<T> below = load_n(s + c, n) - set1(top), e = exp(below);
      const Vec<T> q = class_terms(p, t, c, n, vkeep, vspread);
      store_n(ds + c, e, n);
      acc[0] += pad_n(e, n, T(0));
      acc[1] += pad_n(q, n, T(0));
      acc[2] += pad_n(q * -below, n, T(0));
    });
  } else {
    double sum[1];
    row_sums<T>(p.cols, sum, [&](int64_t c, int n, Vec<T>* acc) FASTNN_INLINED {
      const Vec<T> e = exp(load_n(s + c, n) - set1(top));
      store_n(ds + c, e, n);
      acc[0] += pad_n(e, n, T(0));
    });
    sums[0] = sum[0];
  }
  // Floats may overflow where the sum does not, and infinity times a weight of 0 is NaN: then all of it in double.
  if (sizeof(T) == sizeof(float) && dense && !std::isfinite(sums[2])) {
    sums[2] = 0;
    for (int64_t c = 0; c < p.cols; ++c) {
      const double q = (t ? keep * static_cast<double>(t[c]) : 0.0) + spread;
      sums[2] += (p.weight ? q * static_cast<double>(p.weight[c]) : q) *
                 (static_cast<double>(top) - static_cast<double>(s[c]));
    }
  }
  double q_label = 0, e_label = 0;
  if (p.labels) {
    const double u = p.weight ? static_cast<double>(p.weight[label]) : 1.0;
    q_label = u * (keep + spread);
    e_label = static_cast<double>(ds[label]);
    sums[1] += u * keep;
    sums[2] += u * keep * (static_cast<double>(top) - static_cast<double>(s[label]));
  }
  const double sum = sums[0], q_sum = sums[1];

  const Vec<T> to_p = set1(static_cast<T>(scale * q_sum / sum));
  if (dense) {
    const Vec<T> vkeep = set1(static_cast<T>(scale * keep)), vspread = set1(static_cast<T>(scale * spread));
    for_vectors<T>(0, p.cols, [&](int64_t c, int n) FASTNN_INLINED {
      store_n(ds + c, fma(load_n(ds + c, n), to_p, -class_terms(p, t, c, n, vkeep, vspread)), n);
    });
  } else {
    for_vectors<T>(0, p.cols, [&](int64_t c, int n) FASTNN_INLINED { store_n(ds + c, load_n(ds + c, n) * to_p, n); });
  }
  // At the label two close numbers are subtracted: in double.
  if (p.labels) ds[label] = static_cast<T>(scale * (e_label / sum * q_sum - q_label));
  return sample * (sums[2] + q_sum * std::log(sum));
}

template <class T>
void cross_entropy_of(const CrossEntropyArgs& a) {
  const runtime::FlushDenormals flush;
  Problem<T> p{static_cast<const T*>(a.scores),
               static_cast<const T*>(a.targets),
               static_cast<const T*>(a.weight),
               static_cast<const T*>(a.sample_weight),
               a.labels,
               static_cast<T*>(a.dscores),
               a.cols,
               a.ignore_index,
               a.label_smoothing,
               0};
  for (int64_t i = 0; i < a.rows; ++i) {
    if (a.labels && a.labels[i] == a.ignore_index) continue;
    const double u = p.weight && a.labels ? static_cast<double>(p.weight[a.labels[i]]) : 1.0;
    p.total += u * (p.sample_weight ? static_cast<double>(p.sample_weight[i]) : 1.0);
  }
  if (p.total == 0) p.total = NAN;
  const int64_t tasks = row_tasks(a.rows, a.cols);
  double* parts = static_cast<double*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(tasks) * 8));
  for_row_blocks(a.rows, a.cols, a.rows * a.cols * 2, [&](int64_t task, int64_t begin, int64_t end) {
    double part = 0;
    for (int64_t row = begin; row < end; ++row) part += row_loss(p, row);
    parts[task] = part;
  });
  double loss = 0;
  for (int64_t i = 0; i < tasks; ++i) loss += parts[i];
  *a.loss = loss / p.total;
}

}  // namespace

FASTNN_DEFINE(cross_entropy, CrossEntropyArgs)

}  // namespace fastnn::FASTNN_ISA

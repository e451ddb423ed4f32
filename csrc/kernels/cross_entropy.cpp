// Mean cross-entropy of softmax(scores) and its gradient, in one pass over each row while it is in cache.
//
//   p = softmax(s); l_c = -log p_c; eps = label_smoothing; u_c = class weight (or 1); a_i = sample weight (or 1)
//   labels:  loss = sum_i a_i [(1 - eps) u_k l_k + eps / C sum_c u_c l_c] / W,   W = sum_i a_i u_k,   k = label of row
//   i
//            over the rows whose label is not ignore_index; the others have gradient 0
//   targets: loss = sum_i a_i sum_c q_c l_c / W,   q_c = u_c ((1 - eps) t_c + eps / C),   W = sum_i a_i
//   gradient, with q_c of a label = (1 - eps) u_k [c = k] + eps / C u_c:   a_i / W (p_c sum(q) - q_c)
// This is torch's definition, with sample weights. W = 0 (no row counts) gives loss NaN and, where rows count, NaN
// gradients: 0 / 0. Sums over rows and the loss are double; a row's logarithm is taken in double. Denormals are
// flushed. Tasks are blocks of rows; their partial losses are added in order.
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

// One row: writes its gradient, returns its part of the sum over rows.
template <class T>
FASTNN_INLINE double row_loss(const Problem<T>& p, int64_t row) {
  const T* s = p.scores + row * p.cols;
  T* ds = p.dscores + row * p.cols;
  const int64_t label = p.labels ? p.labels[row] : -1;
  if (p.labels && label == p.ignore_index) {
    for (int64_t c = 0; c < p.cols; ++c) ds[c] = 0;
    return 0;
  }
  const double sample = p.sample_weight ? static_cast<double>(p.sample_weight[row]) : 1.0;
  const T top = row_max(s, p.cols);
  const double sum = row_sum<T>(p.cols, [&](int64_t c, int n) {
    const Vec<T> e = exp(load_n(s + c, n) - set1(top));
    store_n(ds + c, e, n);
    return pad_n(e, n, T(0));
  });
  const double log_sum = std::log(sum);
  // -log p; the difference comes first, lest scores far from 0 cost digits
  const auto cost = [&](int64_t c) { return log_sum - (static_cast<double>(s[c]) - static_cast<double>(top)); };

  // loss and sum of q over the classes
  const double spread = p.smoothing / static_cast<double>(p.cols), keep = 1.0 - p.smoothing;
  double loss = 0, q_sum = 0;
  double q_label = 0, e_label = 0;
  if (p.labels) {
    const double u = p.weight ? static_cast<double>(p.weight[label]) : 1.0;
    e_label = static_cast<double>(ds[label]);
    q_label = u * (keep + spread);
    q_sum = u * keep;
    loss = q_sum * cost(label);
  }
  if (p.targets || p.smoothing > 0) {
    const T* t = p.targets ? p.targets + row * p.cols : nullptr;
    for (int64_t c = 0; c < p.cols; ++c) {
      const double u = p.weight ? static_cast<double>(p.weight[c]) : 1.0;
      const double q = u * (t ? keep * static_cast<double>(t[c]) + spread : spread);
      q_sum += q;
      loss += q * cost(c);
    }
  }

  const double scale = sample / p.total;
  const Vec<T> to_p = set1(static_cast<T>(scale * q_sum / sum));
  if (p.targets || p.smoothing > 0) {
    const Vec<T> vkeep = set1(static_cast<T>(scale * keep)), vspread = set1(static_cast<T>(scale * spread));
    const T* t = p.targets ? p.targets + row * p.cols : nullptr;
    for_vectors<T>(0, p.cols, [&](int64_t c, int n) {
      Vec<T> q = t ? fma(vkeep, load_n(t + c, n), vspread) : vspread;
      if (p.weight) q = q * load_n(p.weight + c, n);
      store_n(ds + c, fma(load_n(ds + c, n), to_p, -q), n);
    });
  } else {
    for_vectors<T>(0, p.cols, [&](int64_t c, int n) { store_n(ds + c, load_n(ds + c, n) * to_p, n); });
  }
  // At the label two close numbers are subtracted: in double.
  if (p.labels) ds[label] = static_cast<T>(scale * (e_label / sum * q_sum - q_label));
  return sample * loss;
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

// Multi-class SVM loss (Weston and Watkins) and its gradient, in one pass over each row while it is in cache.
//
//   z_ij = (s_ij - s_iy) + margin, y = label of row i; u_y = class weight (or 1); a_i = sample weight (or 1)
//   loss = sum_i a_i u_y sum_{j != y} max(0, z_ij) / W,  W = sum_i a_i, over the rows with y != ignore_index
//   dscores_ij = a_i u_y / W where z_ij > 0, j != y, else 0;  dscores_iy = -(their sum)
// Class weights do not count in W, as in torch's multi_margin_loss, which is this over cols. A NaN in z makes the loss
// NaN and has gradient 0. The label itself is left out, not subtracted: an infinite s_y costs nothing.
// Sums are double. Tasks are blocks of rows; their partial losses are added in order.
#include "kernels/rows.hpp"
#include "kernels/sum.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// One row: writes its gradient, returns the sum of its terms. scale: what the gradient of a violated margin is.
template <class T>
FASTNN_INLINE double hinge_row(const T* s, T* ds, int64_t cols, int64_t label, T margin, double scale) {
  const Vec<T> top = set1(s[label]), vmargin = set1(margin), vscale = set1(static_cast<T>(scale));
  Sum<T> sum, violated;
  const auto walk = [&](int64_t begin, int64_t end) FASTNN_INLINED {
    for_vectors<T>(begin, end, [&](int64_t c, int n) FASTNN_INLINED {
      const Vec<T> z = (load_n(s + c, n) - top) + vmargin;
      const Mask<T> on = gt(z, zero<T>());
      store_n(ds + c, select(on, vscale, zero<T>()), n);
      sum.add(pad_n(max(zero<T>(), z), n, T(0)));  // the second operand is returned where it is NaN
      violated.add(pad_n(select(on, set1(T(1)), zero<T>()), n, T(0)));
    });
  };
  walk(0, label);
  walk(label + 1, cols);
  const double count = violated.total();
  ds[label] = count == 0 ? T(0) : static_cast<T>(-scale * count);
  return sum.total();
}

template <class T>
void hinge_of(const HingeArgs& a) {
  const T *scores = static_cast<const T*>(a.scores), *weight = static_cast<const T*>(a.weight);
  const T* sample = static_cast<const T*>(a.sample_weight);
  T* dscores = static_cast<T*>(a.dscores);
  double total = 0;
  for (int64_t i = 0; i < a.rows; ++i)
    if (a.labels[i] != a.ignore_index) total += sample ? static_cast<double>(sample[i]) : 1.0;

  const int64_t tasks = row_tasks(a.rows, a.cols);
  double* parts =
      static_cast<double*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(tasks) * sizeof(double)));
  for_row_blocks(a.rows, a.cols, a.rows * a.cols, [&](int64_t task, int64_t begin, int64_t end) {
    double part = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (a.labels[i] == a.ignore_index) {
        __builtin_memset(dscores + i * a.cols, 0, static_cast<size_t>(a.cols) * sizeof(T));
        continue;
      }
      const double u =
          (sample ? static_cast<double>(sample[i]) : 1.0) * (weight ? static_cast<double>(weight[a.labels[i]]) : 1.0);
      part += u * hinge_row(scores + i * a.cols, dscores + i * a.cols, a.cols, a.labels[i], static_cast<T>(a.margin),
                            u / total);
    }
    parts[task] = part;
  });
  double loss = 0;
  for (int64_t i = 0; i < tasks; ++i) loss += parts[i];
  *a.loss = loss / total;
}

}  // namespace

FASTNN_DEFINE(hinge, HingeArgs)

}  // namespace fastnn::FASTNN_ISA

// What is done to the gradients and parameters of a flat buffer besides the optimizer's step; p parameter, g gradient.
//
//   penalty     loss += sum (l1 |p| + l2 / 2 p^2);  g += l1 sign(p) + l2 p, sign(0) = 0;  row: begin, end, l1, l2
//   square_sum  total += sum x^2, over the rows that are not frozen (begin, end, rate != 0, -)
//   clip_norm   x *= min(1, limit / (sqrt(total) + 1e-6)), as torch's clip_grad_norm_; total NaN makes x NaN
//   clip_value  x clamped to +-limit; NaN stays
//   max_norm    each unit longer than limit is scaled to it;  row: begin, end, outer, inner, limit; the row is an array
//               (outer, units, inner), of which a unit is [:, u, :]
// Sums are double: chunks of fixed size, added in order. Element by element otherwise; all in place.
#include <cmath>

#include "kernels/elementwise.hpp"
#include "kernels/rows.hpp"
#include "kernels/sum.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Row {
  int64_t begin, size;
  double third, fourth;
};
FASTNN_INLINE Row row_of(const double* segments, int64_t i) {
  const double* s = segments + 4 * i;
  return {static_cast<int64_t>(s[0]), static_cast<int64_t>(s[1]) - static_cast<int64_t>(s[0]), s[2], s[3]};
}

// The sum of what part(begin, end) returns for the chunks of [0, size), in their order.
template <class Part>
FASTNN_INLINE double sum_chunks(int64_t size, int64_t picoseconds, Part&& part) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  double* parts =
      static_cast<double*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(chunks) * sizeof(double)));
  for_chunks(size, picoseconds, [&](int64_t begin, int64_t end) { parts[begin / kChunk] = part(begin, end); });
  double sum = 0;
  for (int64_t i = 0; i < chunks; ++i) sum += parts[i];
  return sum;
}

template <class T>
FASTNN_INLINE double squares(const T* x, int64_t size) {
  Sum<T> sum;
  for_vectors<T>(0, size, [&](int64_t i, int n) FASTNN_INLINED { sum.add_square(load_n(x + i, n)); });
  return sum.total();
}

template <class T>
void penalty_of(const PenaltyArgs& a) {
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const Row row = row_of(a.segments, s);
    if (row.third == 0 && row.fourth == 0) continue;
    const T* param = static_cast<const T*>(a.param) + row.begin;
    T* grad = a.grad ? static_cast<T*>(a.grad) + row.begin : nullptr;
    const Vec<T> l1 = set1(static_cast<T>(row.third)), l2 = set1(static_cast<T>(row.fourth)), none = zero<T>();
    *a.loss += sum_chunks(row.size, 1000, [&](int64_t begin, int64_t end) FASTNN_INLINED {
      Sum<T> sizes, sum;
      for_vectors<T>(begin, end, [&](int64_t i, int n) FASTNN_INLINED {
        const Vec<T> p = load_n(param + i, n);
        const Vec<T> sign = select(gt(p, none), l1, select(lt(p, none), -l1, l1 * p));  // 0 at 0, NaN at NaN
        if (grad) store_n(grad + i, load_n(grad + i, n) + fma(l2, p, sign), n);
        sizes.add(abs(p));
        sum.add_square(p);
      });
      return row.third * sizes.total() + row.fourth / 2 * sum.total();
    });
  }
}

template <class T>
void square_sum_of(const SquareSumArgs& a) {
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const Row row = row_of(a.segments, s);
    const T* x = static_cast<const T*>(a.x) + row.begin;
    if (row.third == 0) continue;
    *a.total += sum_chunks(row.size, 300, [&](int64_t begin, int64_t end) { return squares(x + begin, end - begin); });
  }
}

template <class T>
void clip_norm_of(const ClipNormArgs& a) {
  const double ratio = *a.limit / (std::sqrt(*a.total) + 1e-6);
  if (ratio >= 1) return;
  const Vec<T> scale = set1(static_cast<T>(ratio));
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const Row row = row_of(a.segments, s);
    T* x = static_cast<T*>(a.x) + row.begin;
    if (row.third != 0)
      map_array(row.size, 400, x, [=](Vec<T> v) FASTNN_INLINED { return v * scale; }, static_cast<const T*>(x));
  }
}

template <class T>
void clip_value_of(const ClipValueArgs& a) {
  const Vec<T> limit = set1(static_cast<T>(*a.limit));
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const Row row = row_of(a.segments, s);
    T* x = static_cast<T*>(a.x) + row.begin;
    if (row.third != 0)  // min and max return their second operand where it is NaN
      map_array(
          row.size, 400, x, [=](Vec<T> v) FASTNN_INLINED { return max(-limit, min(limit, v)); },
          static_cast<const T*>(x));
  }
}

template <class T>
void max_norm_of(const MaxNormArgs& a) {
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const double* row = a.segments + 5 * s;
    T* param = static_cast<T*>(a.param) + static_cast<int64_t>(row[0]);
    const int64_t size = static_cast<int64_t>(row[1]) - static_cast<int64_t>(row[0]);
    const int64_t outer = static_cast<int64_t>(row[2]), inner = static_cast<int64_t>(row[3]);
    const double limit = row[4];
    if (size == 0) continue;
    const int64_t units = size / (outer * inner);
    for_row_blocks(units, outer * inner, size / 2, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        double sum = 0;
        for (int64_t o = 0; o < outer; ++o) sum += squares(param + (o * units + unit) * inner, inner);
        const double norm = std::sqrt(sum);
        if (!(norm > limit)) continue;
        const Vec<T> scale = set1(static_cast<T>(limit / norm));
        for (int64_t o = 0; o < outer; ++o) {
          T* p = param + (o * units + unit) * inner;
          for_vectors<T>(0, inner,
                         [&](int64_t i, int n) FASTNN_INLINED { store_n(p + i, load_n(p + i, n) * scale, n); });
        }
      }
    });
  }
}

}  // namespace

FASTNN_DEFINE(penalty, PenaltyArgs)
FASTNN_DEFINE(square_sum, SquareSumArgs)
FASTNN_DEFINE(clip_norm, ClipNormArgs)
FASTNN_DEFINE(clip_value, ClipValueArgs)
FASTNN_DEFINE(max_norm, MaxNormArgs)

}  // namespace fastnn::FASTNN_ISA

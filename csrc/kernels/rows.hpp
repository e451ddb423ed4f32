// What kernels along rows share (softmax, cross_entropy): rows cut into tasks, and the maximum and sums of a row.
#pragma once
#include "kernels/elementwise.hpp"
#include "kernels/kernels.hpp"
#include "runtime/team.hpp"
#include "simd/math.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kTask = 16384;    // elements of a task, in whole rows
constexpr int64_t kSegment = 4096;  // elements summed in T; segments are added in double, so long rows lose nothing

FASTNN_INLINE int64_t rows_per_task(int64_t cols) { return cols < 1 ? kTask : cols < kTask ? kTask / cols : 1; }
FASTNN_INLINE int64_t row_tasks(int64_t rows, int64_t cols) {
  return (rows + rows_per_task(cols) - 1) / rows_per_task(cols);
}

// body(task, first row, last row + 1), in parallel
template <class Body>
FASTNN_INLINE void for_row_blocks(int64_t rows, int64_t cols, int64_t nanoseconds, Body&& body) {
  const int64_t step = rows_per_task(cols);
  runtime::parallel_for(row_tasks(rows, cols), nanoseconds, [&](int64_t task) {
    body(task, task * step, (task + 1) * step < rows ? (task + 1) * step : rows);
  });
}

// f(i, n) for the vectors of [begin, end): n lanes from i on, fewer than all only in the last.
template <class T, class F>
FASTNN_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) f(i, lanes);
  if (i < end) f(i, static_cast<int>(end - i));
}

// The lanes from n on become value.
template <class T>
FASTNN_INLINE Vec<T> pad_n(Vec<T> v, int n, T value) {
  return n == Vec<T>::lanes ? v : select(mask_from_bits<T>((1u << n) - 1u), v, set1(value));
}

template <class T>
FASTNN_INLINE T row_max(const T* x, int64_t cols) {
  const T low = static_cast<T>(-__builtin_inf());
  Vec<T> m = set1(low);
  for_vectors<T>(0, cols, [&](int64_t i, int n) { m = max(m, pad_n(load_n(x + i, n), n, low)); });
  return reduce_max(m);
}

// The sum of f(i, n) over a row; lanes past the end must be 0.
template <class T, class F>
FASTNN_INLINE double row_sum(int64_t cols, F&& f) {
  double total = 0;
  for (int64_t begin = 0; begin < cols; begin += kSegment) {
    Vec<T> acc = zero<T>();
    for_vectors<T>(begin, begin + kSegment < cols ? begin + kSegment : cols, [&](int64_t i, int n) { acc += f(i, n); });
    total += static_cast<double>(reduce_add(acc));
  }
  return total;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

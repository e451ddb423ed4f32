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

// f(i, n, j) for the vectors of [begin, end), in fours with j = 0..3 while there are four: for chains that would
// otherwise wait on the one before.
template <class T, class F>
FASTNN_INLINE void for_vectors_by_4(int64_t begin, int64_t end, F&& f) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = begin;
  for (; i + 4 * lanes <= end; i += 4 * lanes)
    f(i, lanes, 0), f(i + lanes, lanes, 1), f(i + 2 * lanes, lanes, 2), f(i + 3 * lanes, lanes, 3);
  for_vectors<T>(i, end, [&](int64_t k, int n) FASTNN_INLINED { f(k, n, 0); });
}

template <class T>
FASTNN_INLINE T row_max(const T* x, int64_t cols) {
  const T low = static_cast<T>(-__builtin_inf());
  Vec<T> m[4] = {set1(low), set1(low), set1(low), set1(low)};
  for_vectors_by_4<T>(
      0, cols, [&](int64_t i, int n, int j) FASTNN_INLINED { m[j] = max(m[j], pad_n(load_n(x + i, n), n, low)); });
  return reduce_max(max(max(m[0], m[1]), max(m[2], m[3])));
}

// sums[k] = the sum over a row of what f(i, n, acc) adds to acc[k]; lanes past the end must be 0.
template <class T, int terms, class F>
FASTNN_INLINE void row_sums(int64_t cols, double (&sums)[terms], F&& f) {
  for (double& sum : sums) sum = 0;
  for (int64_t begin = 0; begin < cols; begin += kSegment) {
    Vec<T> acc[terms];
    for (Vec<T>& v : acc) v = zero<T>();
    for_vectors<T>(begin, begin + kSegment < cols ? begin + kSegment : cols,
                   [&](int64_t i, int n) FASTNN_INLINED { f(i, n, acc); });
    for (int k = 0; k < terms; ++k) sums[k] += static_cast<double>(reduce_add(acc[k]));
  }
}

// The sum of f(i, n) over a row; lanes past the end must be 0. For an f of few instructions: four chains.
template <class T, class F>
FASTNN_INLINE double row_sum(int64_t cols, F&& f) {
  double sum = 0;
  for (int64_t begin = 0; begin < cols; begin += kSegment) {
    Vec<T> acc[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
    for_vectors_by_4<T>(begin, begin + kSegment < cols ? begin + kSegment : cols,
                        [&](int64_t i, int n, int j) FASTNN_INLINED { acc[j] += f(i, n); });
    sum += static_cast<double>(reduce_add((acc[0] + acc[1]) + (acc[2] + acc[3])));
  }
  return sum;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

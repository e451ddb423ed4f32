// Sums in double of vectors of T, in one order whatever the threads: lane by lane, then over the lanes in a tree.
// A sum of n terms of float loses nothing that a float could show (n below 2^29).
#pragma once
#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Sum;
template <>
struct Sum<double> {
  Vec<double> acc = zero<double>();
  FASTNN_MEMBER_INLINE void add(Vec<double> v) { acc += v; }
  FASTNN_MEMBER_INLINE void add_square(Vec<double> v) { acc = fma(v, v, acc); }
  FASTNN_MEMBER_INLINE double total() const { return reduce_add(acc); }
};
template <>
struct Sum<float> {
  Vec<double> low = zero<double>(), high = zero<double>();
  FASTNN_MEMBER_INLINE void add(Vec<float> v) {
    low += widen_low(v);
    high += widen_high(v);
  }
  FASTNN_MEMBER_INLINE void add_square(Vec<float> v) {
    const Vec<double> a = widen_low(v), b = widen_high(v);
    low = fma(a, a, low);
    high = fma(b, b, high);
  }
  FASTNN_MEMBER_INLINE double total() const { return reduce_add(low + high); }
};

// The sum of an array, on the calling thread.
template <class T>
FASTNN_INLINE double sum_of(const T* x, int64_t size) {
  Sum<T> sum;
  int64_t i = 0;
  for (; i + Vec<T>::lanes <= size; i += Vec<T>::lanes) sum.add(load(x + i));
  if (i < size) sum.add(load_partial(x + i, static_cast<int>(size - i)));
  return sum.total();
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

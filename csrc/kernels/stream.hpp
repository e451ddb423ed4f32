// When an output goes past the caches: non-temporal stores save the read of each line that is about to be overwritten
// (23-28 GB/s instead of 14-16 a core), but inside L2 they take twice the time.
#pragma once
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kStreamBytes = int64_t{4} << 20;

template <class T>
FASTNN_INLINE bool streams(const T* y, int64_t size) {
  constexpr int64_t bytes = sizeof(T);
  return size * bytes >= kStreamBytes && reinterpret_cast<uintptr_t>(y) % sizeof(T) == 0;
}

// How many elements of y, at most n, come before the first whole vector.
template <class T>
FASTNN_INLINE int64_t before_aligned(const T* y, int64_t n) {
  const int64_t bytes = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(y) % sizeof(Vec<T>));
  const int64_t head = bytes / static_cast<int64_t>(sizeof(T));
  return head < n ? head : n;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// The loops over whole arrays that element-wise kernels share: cut into fixed chunks, full vectors, then the tail.
#pragma once
#include "kernels/kernels.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kChunk = 16384;  // elements: 64-128 KB an array, so that a chunk of each stays in L2

// body(begin, end) over [0, size) in chunks, in parallel. picoseconds: a rough estimate per element on one thread.
template <class Body>
FASTNN_INLINE void for_chunks(int64_t size, int64_t picoseconds, Body&& body) {
  runtime::parallel_for((size + kChunk - 1) / kChunk, size * picoseconds / 1000, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    body(begin, begin + kChunk < size ? begin + kChunk : size);
  });
}

// y[i] = f(x[i]...): f takes one vector per input.
template <class T, class F, class... Inputs>
FASTNN_INLINE void map_range(int64_t begin, int64_t end, T* y, F&& f, const Inputs*... x) {
  int64_t i = begin;
  for (; i + Vec<T>::lanes <= end; i += Vec<T>::lanes) store(y + i, f(load(x + i)...));
  const int rest = static_cast<int>(end - i);
  if (rest) store_partial(y + i, f(load_partial(x + i, rest)...), rest);
}

template <class T, class F, class... Inputs>
FASTNN_INLINE void map_array(int64_t size, int64_t picoseconds, T* y, F&& f, const Inputs*... x) {
  for_chunks(size, picoseconds, [&](int64_t begin, int64_t end) { map_range(begin, end, y, f, x...); });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

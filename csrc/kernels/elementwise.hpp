// The loops over whole arrays that element-wise kernels share: cut into fixed chunks, full vectors, then the tail.
#pragma once
#include "kernels/kernels.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kChunk = 8192;  // elements: 32-64 KB an array, so that a chunk of each stays in L2, and 64 KB are two
// From this size of the output on, non-temporal stores: neither array stays in any cache then, and a line that is
// written whole need not be read first. Below, a 32 MB L3 makes normal stores up to 1.7 times as fast.
constexpr int64_t kStreamBytes = int64_t{16} << 20;
// But not where the arithmetic takes longer than the memory (picoseconds an element): a core whose non-temporal stores
// are far apart stalls on them. GELU by 50 instructions a vector took 13 ms so on one thread, 4.2 with normal stores.
constexpr int64_t kSlow = 1000;

// body(begin, end) over [0, size) in chunks, in parallel. picoseconds: a rough estimate per element on one thread.
template <class Body>
FASTNN_INLINE void for_chunks(int64_t size, int64_t picoseconds, Body&& body) {
  runtime::parallel_for((size + kChunk - 1) / kChunk, size * picoseconds / 1000, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    body(begin, begin + kChunk < size ? begin + kChunk : size);
  });
}

// n lanes, where n is often all of them: a masked access can be slower, and a known n costs nothing.
template <class T>
FASTNN_INLINE Vec<T> load_n(const T* p, int n) {
  return n == Vec<T>::lanes ? load(p) : load_partial(p, n);
}
template <class T>
FASTNN_INLINE void store_n(T* p, Vec<T> v, int n) {
  n == Vec<T>::lanes ? store(p, v) : store_partial(p, v, n);
}
// y[i] = f(x[i]...) for i in [begin, end): f takes one vector per input. Stores of long ranges are aligned; a store
// across cache lines costs two. Whoever asks for non-temporal ones ends with a stream_fence.
template <class T, class F, class... Inputs>
FASTNN_INLINE void map_range(int64_t begin, int64_t end, bool non_temporal, T* y, F f, const Inputs*... x) {
  constexpr int lanes = Vec<T>::lanes;
  const auto part = [&](int64_t i, int n) FASTNN_INLINED { store_partial(y + i, f(load_partial(x + i, n)...), n); };
  int64_t i = begin;
  if (end - begin >= 8 * lanes) {
    const auto misaligned = reinterpret_cast<uintptr_t>(y + i) / sizeof(T) % lanes;
    if (misaligned) part(i, lanes - static_cast<int>(misaligned)), i += lanes - static_cast<int>(misaligned);
  }
  if (non_temporal) {
    for (; i + lanes <= end; i += lanes) stream(y + i, f(load(x + i)...));
  } else {
    for (; i + lanes <= end; i += lanes) store(y + i, f(load(x + i)...));
  }
  if (i < end) part(i, static_cast<int>(end - i));
}

template <class T, class F, class... Inputs>
FASTNN_INLINE void map_array(int64_t size, int64_t picoseconds, T* y, F f, const Inputs*... x) {
  const bool non_temporal =
      size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes && picoseconds < kSlow && (... && (x != y));
  for_chunks(size, picoseconds, [&](int64_t begin, int64_t end) {
    map_range(begin, end, non_temporal, y, f, x...);
    if (non_temporal) stream_fence();
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

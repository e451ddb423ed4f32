// What max_pool2d and avg_pool2d share in both directions: where windows lie, how work is cut, how a row is split.
// Legend: (n, c, h, w) in, (oh, ow) out, (kh, kw) taps of a window; i j input row and column, oi oj output, ki kj tap.
#pragma once
#include "kernels/kernels.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kTaskElements = 65536;
constexpr int64_t kMaxLanes = 16;  // buffers are padded to whole vectors of any set

FASTNN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
FASTNN_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
FASTNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0
FASTNN_INLINE int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
FASTNN_INLINE int64_t power_of_two_from(int64_t a) {
  int64_t r = 1;
  while (r < a) r *= 2;
  return r;
}
FASTNN_INLINE int64_t whole_vectors(int64_t a) { return ceil_div(a, kMaxLanes) * kMaxLanes; }

// Windows along one axis: tap k of window o lies at o * stride - pad + k * dilation.
struct Axis {
  int64_t in, out, taps, stride, pad, dilation;

  FASTNN_MEMBER_INLINE int64_t at(int64_t o, int64_t k) const { return o * stride - pad + k * dilation; }
  // The taps that lie inside the input: first <= k < last; none when they are equal.
  FASTNN_MEMBER_INLINE int64_t first(int64_t o) const {
    const int64_t below = pad - o * stride;
    return below <= 0 ? 0 : min_of(dilation == 1 ? below : ceil_div(below, dilation), taps);
  }
  FASTNN_MEMBER_INLINE int64_t last(int64_t o) const {
    const int64_t room = in - 1 - at(o, 0);
    return max_of(first(o), room < 0 ? 0 : min_of((dilation == 1 ? room : room / dilation) + 1, taps));
  }
  // What an average divides by: with padded, cells of the padding too, but not what hangs over its end (ceil_mode).
  FASTNN_MEMBER_INLINE int64_t divisor(int64_t o, bool padded) const {
    const int64_t begin = at(o, 0), end = min_of(begin + taps, in + pad);
    return max_of(1, padded ? end - begin : min_of(end, in) - max_of(begin, 0));
  }
};

template <class Args>
FASTNN_INLINE Axis rows_of(const Args& a) {
  return {a.h, a.oh, a.kh, a.stride_h, a.pad_h, a.dilation_h};
}
template <class Args>
FASTNN_INLINE Axis cols_of(const Args& a) {
  return {a.w, a.ow, a.kw, a.stride_w, a.pad_w, a.dilation_w};
}
// The divisor of an average is that of its row times that of its column.
template <class Args>
FASTNN_INLINE int64_t divisor_of_row(const Args& a, int64_t o) {
  return a.divisor != 0 ? a.divisor : rows_of(a).divisor(o, a.count_include_pad != 0);
}
template <class Args>
FASTNN_INLINE int64_t divisor_of_col(const Args& a, int64_t o) {
  return a.divisor != 0 ? 1 : cols_of(a).divisor(o, a.count_include_pad != 0);
}

// Images are what windows do not cross: planes of NCHW, or whole images of channels-last with c channels a pixel.
struct Images {
  int64_t count, c;
};
template <class Args>
FASTNN_INLINE Images images_of(const Args& a) {
  return a.channels_last && a.c != 1 ? Images{a.n, a.c} : Images{a.n * a.c, 1};
}

// body(first image, last image, first row, last row) in tasks of about kTaskElements; `rows` are those of the result.
template <class Body>
FASTNN_INLINE void for_bands(int64_t images, int64_t rows, int64_t elements, int64_t picoseconds, Body body) {
  const int64_t bands = max_of(1, min_of(rows, elements / kTaskElements)), band = ceil_div(rows, bands);
  const int64_t group = bands > 1 ? 1 : max_of(1, kTaskElements / max_of(1, elements));
  runtime::parallel_for(ceil_div(images, group) * bands, images * elements * picoseconds / 1000, [&](int64_t task) {
    const int64_t image = task / bands * group, row = task % bands * band;
    if (row < rows) body(image, min_of(image + group, images), row, min_of(row + band, rows));
  });
}

// Places arrays one after another, each at a cache line; from 0 it only measures.
struct Place {
  uintptr_t at;
  template <class U>
  FASTNN_MEMBER_INLINE U* take(int64_t count) {
    U* r = reinterpret_cast<U*>(at);
    at += (static_cast<size_t>(count) * sizeof(U) + 63) / 64 * 64;
    return r;
  }
};

// The scratch of one task: Buffers has a constructor from (Place&, shape...).
template <class Buffers, class... Shape>
FASTNN_INLINE Buffers buffers_of(const Shape&... shape) {
  Place measure{0};
  Buffers{measure, shape...};
  Place place{reinterpret_cast<uintptr_t>(runtime::scratch(runtime::Slot::kTask, measure.at))};
  return Buffers{place, shape...};
}

// The first n values of p, the rest of the vector `fill`; n may be anything.
template <class T>
FASTNN_INLINE Vec<T> load_filled(const T* p, int64_t n, Vec<T> fill) {
  if (n >= Vec<T>::lanes) return load(p);
  if (n <= 0) return fill;
  return select(mask_from_bits<T>((1u << n) - 1u), load_partial(p, static_cast<int>(n)), fill);
}
// The first n lanes; n may be more.
template <class T>
FASTNN_INLINE void store_first(T* p, Vec<T> v, int64_t n) {
  if (n >= Vec<T>::lanes)
    store(p, v);
  else if (n > 0)
    store_partial(p, v, static_cast<int>(n));
}

// The columns of a row dealt to `stride` phases, phase f holding columns f, f + stride, ..., so that a tap of
// neighbouring windows is a run: tap k of window o is entry o + shift(k) of phase(k).
FASTNN_INLINE int64_t shift_of(const Axis& a, int64_t k) { return floor_div(a.at(0, k), a.stride); }
FASTNN_INLINE int64_t phase_of(const Axis& a, int64_t k) { return a.at(0, k) - shift_of(a, k) * a.stride; }

}  // namespace
}  // namespace fastnn::FASTNN_ISA

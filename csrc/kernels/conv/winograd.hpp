// Winograd's transforms for 3x3 kernels, stride 1: an output tile of m x m pixels is
//   y = At ((G w Gt) * (Bt x B)) A,   x the (m + 2) x (m + 2) patch under it, * element by element
// so that a tile takes (m + 2)^2 products for each pair of channels where a plain convolution takes 9 m^2.
//   m = 2   points 0, 1, -1, infinity: 16 products for 36
//   m = 4   points 0, +-1/sqrt(2), +-sqrt(2), infinity: 36 products for 144. With 0, +-1, +-2 the error is twice as
//   large
// Here is one axis, then both for a vector of outputs or channels. The products, and where tiles lie, are in
// winograd.cpp (multiply-adds) and amx_winograd.hpp (the matrix unit's tiles).
#pragma once
#include "kernels/gemm.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr double kHalfRoot = 0.70710678118654752440, kRoot = 1.41421356237309504880;

template <int m>
struct Winograd;

template <>
struct Winograd<2> {
  static constexpr int size = 4;
  // G: one row of three for each point
  static constexpr double weights[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

  template <class T>
  static FASTNN_MEMBER_INLINE void input(const Vec<T> (&d)[4], Vec<T> (&v)[4]) {
    v[0] = d[0] - d[2];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  template <class T>
  static FASTNN_MEMBER_INLINE void output(const Vec<T> (&t)[4], Vec<T> (&y)[2]) {
    y[0] = t[0] + (t[1] + t[2]);
    y[1] = (t[1] - t[2]) + t[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr int size = 6;
  static constexpr double weights[6][3] = {{1, 0, 0},
                                           {-2.0 / 3, -2.0 / 3 * kHalfRoot, -1.0 / 3},
                                           {-2.0 / 3, 2.0 / 3 * kHalfRoot, -1.0 / 3},
                                           {1.0 / 6, kRoot / 6, 1.0 / 3},
                                           {1.0 / 6, -kRoot / 6, 1.0 / 3},
                                           {0, 0, 1}};

  template <class T>
  static FASTNN_MEMBER_INLINE void input(const Vec<T> (&d)[6], Vec<T> (&v)[6]) {
    const Vec<T> a = set1(static_cast<T>(kHalfRoot)), b = set1(static_cast<T>(kRoot));
    const Vec<T> two = set1(T(2)), half = set1(T(0.5)), both = set1(T(2.5));
    v[0] = fnma(both, d[2], d[0] + d[4]);
    const Vec<T> even1 = fnma(two, d[2], d[4]), odd1 = fnma(two, d[1], d[3]);
    v[1] = fma(a, odd1, even1);
    v[2] = fnma(a, odd1, even1);
    const Vec<T> even2 = fnma(half, d[2], d[4]), odd2 = fnma(half, d[1], d[3]);
    v[3] = fma(b, odd2, even2);
    v[4] = fnma(b, odd2, even2);
    v[5] = fnma(both, d[3], d[1] + d[5]);
  }
  template <class T>
  static FASTNN_MEMBER_INLINE void output(const Vec<T> (&t)[6], Vec<T> (&y)[4]) {
    const Vec<T> a = set1(static_cast<T>(kHalfRoot)), b = set1(static_cast<T>(kRoot));
    const Vec<T> two = set1(T(2)), half = set1(T(0.5));
    const Vec<T> sum1 = t[1] + t[2], sum2 = t[3] + t[4], odd1 = a * (t[1] - t[2]), odd2 = b * (t[3] - t[4]);
    y[0] = t[0] + (sum1 + sum2);
    y[1] = odd1 + odd2;
    y[2] = fma(half, sum1, two * sum2);
    y[3] = fma(half, odd1, fma(two, odd2, t[5]));
  }
};

using Lanes = Vec<float>;
constexpr int64_t kLanes = Lanes::lanes;

// The nine weights of a vector of outputs to all points, in double.
template <int m>
void transform_weights(const float* w, int64_t tap, float* to, int64_t point) {
  constexpr int size = Winograd<m>::size;
#pragma GCC unroll 1
  for (int a = 0; a < size; ++a) {
    Vec<double> low[3], high[3];
    for (int b = 0; b < 3; ++b) {
      low[b] = high[b] = zero<double>();
      for (int k = 0; k < 3; ++k) {
        const Vec<float> v = load(w + (k * 3 + b) * tap);
        const Vec<double> g = set1(Winograd<m>::weights[a][k]);
        low[b] = fma(widen_low(v), g, low[b]), high[b] = fma(widen_high(v), g, high[b]);
      }
    }
#pragma GCC unroll 1
    for (int b = 0; b < size; ++b) {
      Vec<double> sum_low = zero<double>(), sum_high = zero<double>();
      for (int k = 0; k < 3; ++k) {
        const Vec<double> g = set1(Winograd<m>::weights[b][k]);
        sum_low = fma(low[k], g, sum_low), sum_high = fma(high[k], g, sum_high);
      }
      store(to + (a * size + b) * point, narrow(sum_low, sum_high));
    }
  }
}

// ---- one vector of channels of one tile ----

// The patch under a tile. What lies outside the image is zero: such a row is a vector of zeros that is read again and
// again (step 0), such a column is not read.
template <int size>
struct Patch {
  const float* row[size];
  int64_t step[size];
  int column0, column1;  // inside
};

// Channels [c, c + lanes) of a patch to all points of v; temporary: as many vectors.
template <int m, bool partial>
void transform_input(const Patch<m + 2>& patch, int64_t c, int64_t pixel, int lanes, float* temporary, float* v,
                     int64_t v_point) {
  constexpr int size = m + 2;
  for (int j = 0; j < size; ++j) {
    Lanes d[size], t[size];
    const int64_t offset = j * pixel + c;
    const bool inside = j >= patch.column0 && j < patch.column1;
#pragma GCC unroll 6
    for (int i = 0; i < size; ++i) {
      const float* x = patch.row[i] + (inside ? patch.step[i] * offset : 0);
      d[i] = !inside ? zero<float>() : partial ? load_partial(x, lanes) : load(x);
    }
    Winograd<m>::input(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < size; ++i) store(temporary + (i * size + j) * kLanes, t[i]);
  }
  for (int i = 0; i < size; ++i) {
    Lanes d[size], t[size];
#pragma GCC unroll 6
    for (int j = 0; j < size; ++j) d[j] = load(temporary + (i * size + j) * kLanes);
    Winograd<m>::input(d, t);
#pragma GCC unroll 6
    for (int j = 0; j < size; ++j) store(v + (i * size + j) * v_point, t[j]);
  }
}

// to: m x m pixels with stride ld. Returns 0 or NaN: the latter where a result is not finite.
template <int m>
Lanes transform_output(const float* sums, int64_t sum_point, float* temporary, float* to, int64_t ld) {
  constexpr int size = Winograd<m>::size;
  for (int j = 0; j < size; ++j) {
    Lanes t[size], y[m];
#pragma GCC unroll 6
    for (int i = 0; i < size; ++i) t[i] = load(sums + (i * size + j) * sum_point);
    Winograd<m>::output(t, y);
#pragma GCC unroll 4
    for (int i = 0; i < m; ++i) store(temporary + (i * size + j) * kLanes, y[i]);
  }
  Lanes not_finite = zero<float>();
  for (int i = 0; i < m; ++i) {
    Lanes t[size], y[m];
#pragma GCC unroll 6
    for (int j = 0; j < size; ++j) t[j] = load(temporary + (i * size + j) * kLanes);
    Winograd<m>::output(t, y);
#pragma GCC unroll 4
    for (int j = 0; j < m; ++j) {
      store(to + (i * m + j) * ld, y[j]);
      not_finite = fma(y[j], zero<float>(), not_finite);
    }
  }
  return not_finite;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// Winograd's transforms for 3x3 kernels, stride 1: an output tile of m x m pixels is
//   y = At ((G w Gt) * (Bt x B)) A,   x the (m + 2) x (m + 2) patch under it, * element by element
// so that a tile takes (m + 2)^2 products for each pair of channels where a plain convolution takes 9 m^2.
//   m = 2   points 0, 1, -1, infinity: 16 products for 36
//   m = 4   points 0, +-1/sqrt(2), +-sqrt(2), infinity: 36 products for 144. With 0, +-1, +-2 the error is twice as
//   large
// Here is one axis; winograd.cpp applies it to columns, then to rows. The products, and where tiles lie, are there.
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

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// exp, log1p, sigmoid, tanh and the units built on them on one vector, float and double, for every instruction set.
//
// The algorithms name no instruction. Domain: every number. Largest errors seen, in units of the last place (ulp) of
// the result, of float and double alike, with fused multiply-add and (in brackets) without, as in the scalar set:
//   exp 1.0 (1.0)   sigmoid 1.6 (1.9)   tanh 1.6 (1.9)   expm1 for x <= 0 1.0 (1.0)   gelu 1.9 (2.6)
//   gelu_tanh 1.6 (2.4)   silu 1.8 (2.6)   mish 2.0 (3.1)   softplus 1.7 (1.7)
// over the whole range, tails included, where the result is a normal number (tests/test_ulp.py repeats the
// measurement); the slopes are made for gradients, whose error is absolute. Kernels that use these functions flush
// denormals (runtime/fp_state.hpp). NaN gives NaN; infinities give limits, or NaN where the formula has inf * 0.
// Polynomials are minimax (Remez) for the relative error.
#pragma once
#include "simd/simd.hpp"
#include "simd/tables.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// c[0] + c[1] x + ... by Horner's rule.
template <class T, size_t n>
FASTNN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  Vec<T> r = set1(c[n - 1]);
  for (size_t i = n - 1; i-- > 0;) r = fma(r, x, set1(c[i]));
  return r;
}

template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float magic = 12582912.0f;                       // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr float exp_low = -104.0f, exp_high = 89.0f;       // below 2^-150, above 2^128
  static constexpr float expm1_low = -20.0f;                        // -1 to half an ulp
  static constexpr float sigmoid_high = 88.0f;                      // 1 to half an ulp, or below 2^-126
  static constexpr float tanh_high = 10.0f;                         // 1 to half an ulp
  static constexpr float cdf_high = 15.0f, gelu_tanh_high = 11.5f;  // the tail is below 2^-150 even times x
  static constexpr float tail_high = 110.0f;                        // likewise e^-x
  // 2 sqrt(2 / pi) and 0.044715 times it, each in two parts
  static constexpr float gelu_c1 = 1.59576916695f, gelu_c1_low = -4.534068042e-08f;
  static constexpr float gelu_c3 = 0.0713548138738f, gelu_c3_low = 2.398832396e-09f;
  // (e^r - 1 - r) / r^2 on [-ln2 / 2, ln2 / 2]; relative error of e^r 2^-28.2
  static constexpr float exp[] = {0.49999994f, 0.16666517f, 0.041668102f, 0.0083691655f, 0.0013838336f};
  // (expm1(r) - r) / r^2 on [-ln2 / 2, ln2 / 2]; relative error of expm1 2^-31.8
  static constexpr float expm1[] = {0.5f, 0.16666667f, 0.04166632638f, 0.008333220f, 0.0013943252f, 0.000199621604f};
  // (2 atanh(s) - 2 s) / s^3 in s^2 for |s| <= 0.1716; relative error 2^-29
  static constexpr float atanh[] = {0.66666776413f, 0.39977537248f, 0.29871855057f};
  // t (1 - Phi(t)) exp(t^2 / 2) = a / (1 + tail_k a + t s(t)), a = t / 2 + t^2 / 2 p(t), for t in [0, 13.3]; relative
  // error 2^-26.9
  static constexpr float tail_k = 2.50659275f;
  static constexpr float tail_p[] = {0.87140286f, 0.36263606f, 0.07997598f, 0.008041518f};
  static constexpr float tail_s[] = {0.41599137f, 0.102404885f, 0.009919616f, 8.795336e-06f};
};
template <>
struct Constants<double> {
  static constexpr double log2_e = 1.4426950408889634, ln2_high = 6.93147180369123816490e-01,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr double magic = 6755399441055744.0;          // 1.5 * 2^52
  static constexpr double exp_low = -746.0, exp_high = 710.0;  // below 2^-1075, above 2^1024
  static constexpr double sigmoid_high = 709.0, expm1_low = -40.0, tanh_high = 20.0;
  static constexpr double cdf_high = 39.0, gelu_tanh_high = 22.0, tail_high = 755.0;
  static constexpr double gelu_c1 = 1.5957691216057308, gelu_c1_low = -9.96930880911092e-17;
  static constexpr double gelu_c3 = 0.07135481627260025, gelu_c3_low = -6.175149918155315e-19;
  // relative error 2^-56.3
  static constexpr double exp[] = {0.5000000000000011,    0.1666666666666641,     0.04166666666652974,
                                   0.008333333333494836,  0.001388888894375748,   0.00019841269506071696,
                                   2.480149295256983e-05, 2.7557586545913057e-06, 2.763030510790958e-07,
                                   2.5000097430334583e-08};
  // relative error 2^-56.2
  static constexpr double expm1[] = {0.5000000000000001,    0.1666666666666667,     0.041666666666652245,
                                     0.00833333333332613,   0.0013888888895613194,  0.0001984126987484516,
                                     2.480157451773088e-05, 2.7557255360320983e-06, 2.756793565128087e-07,
                                     2.510523644631019e-08, 1.7687732588220323e-09};
  // relative error 2^-58
  static constexpr double atanh[] = {0.6666666666666734,  0.39999999999414354, 0.28571428742468624, 0.22222198564045123,
                                     0.18183564840316718, 0.15314036467180506, 0.1479609934831412};
  // t in [0, 37.8]; relative error 2^-58.2
  static constexpr double tail_k = 2.506628274630345;
  static constexpr double tail_p[] = {1.6542594672382465,    1.3567420999113318,    0.7127830520236094,
                                      0.2631592847400445,    0.07101886859885047,   0.014168697495073492,
                                      0.0020659936211055055, 0.0002115194572439283, 1.3827040757009868e-05,
                                      4.4365151828335585e-07};
  static constexpr double tail_s[] = {1.1988298907259394,     0.7399631836731165,     0.2969131708143646,
                                      0.08400371683999858,    0.017233180983228923,   0.002554680071388809,
                                      0.00026398824697625417, 1.7329625879950022e-05, 5.560347165008881e-07,
                                      3.7775081409241624e-17};
};

// min and max that keep a NaN in x
template <class T>
FASTNN_INLINE Vec<T> at_most(T high, Vec<T> x) {
  return min(set1(high), x);
}
template <class T>
FASTNN_INLINE Vec<T> at_least(T low, Vec<T> x) {
  return max(set1(low), x);
}

// x = n ln2 + r, |r| <= ln2 / 2 (a little more after rounding); returns r. n * ln2_high is exact.
template <class T>
FASTNN_INLINE Vec<T> reduce_ln2(Vec<T> x, Vec<T>& n) {
  using C = Constants<T>;
  n = fma(x, set1(C::log2_e), set1(C::magic)) - set1(C::magic);
  return fnma(n, set1(C::ln2_low), fnma(n, set1(C::ln2_high), x));
}
// The same for x + low, |low| <= ulp(x).
template <class T>
FASTNN_INLINE Vec<T> reduce_ln2(Vec<T> x, Vec<T> low, Vec<T>& n) {
  using C = Constants<T>;
  n = fma(x, set1(C::log2_e), set1(C::magic)) - set1(C::magic);
  return fnma(n, set1(C::ln2_high), x) + fnma(n, set1(C::ln2_low), low);
}

// e^r - 1 for |r| <= ln2 / 2, with the error of e^r; expm1_reduced with an error relative to e^r - 1 itself.
template <class T>
FASTNN_INLINE Vec<T> exp_reduced(Vec<T> r) {
  return fma(r * r, polynomial(r, Constants<T>::exp), r);
}
template <class T>
FASTNN_INLINE Vec<T> expm1_reduced(Vec<T> r) {
  return fma(r * r, polynomial(r, Constants<T>::expm1), r);
}

// ---- by tables, where the set looks 32 floats up at once: a third of the instructions ----

// The function of the table at t in [0, limit]; NaN at NaN. The interval's number is in the last bits of k.
template <size_t n>
FASTNN_INLINE Vec<float> tabled(Vec<float> t, const Pieces<n>& table) {
  const Vec<float> k = fma(t, set1(table.inverse_width), set1(Constants<float>::magic));
  const Vec<float> u = t - lookup(table.centre, k);
  Vec<float> r = lookup(table.c[n - 1], k);
  for (size_t i = n - 1; i-- > 0;) r = fma(r, u, lookup(table.c[i], k));
  return r;
}

// fast(t), t = |x|, up to the table's limit; whole(x) elsewhere, which is rare, and called lest its constants take the
// registers that the table is in. A lane's bits do not depend on its neighbours.
template <size_t n, class Fast>
FASTNN_INLINE Vec<float> by_table(Vec<float> x, const Pieces<n>& table, Vec<float> (*whole)(Vec<float>), Fast fast) {
  const Vec<float> t = abs(x);
  const Mask<float> inside = lt(t, set1(table.limit));
  const Vec<float> y = fast(t);
  if (__builtin_expect(all(inside), true)) return y;
  return select(inside, y, whole(x));
}

// e^x for all x.
template <class T>
FASTNN_INLINE Vec<T> exp(Vec<T> x) {
  using C = Constants<T>;
  Vec<T> n;
  const Vec<T> r = reduce_ln2(at_most(C::exp_high, at_least(C::exp_low, x)), n);
  return scale2(set1(T(1)) + exp_reduced(r), n);
}

// e^x - 1 for x <= 0 (and up to 88, 709).
template <class T>
FASTNN_INLINE Vec<T> expm1(Vec<T> x) {
  x = at_least(Constants<T>::expm1_low, x);
  Vec<T> n;
  const Vec<T> p = expm1_reduced(reduce_ln2(x, n)), s = power2(n);
  return fma(s, p, s - set1(T(1)));
}

// log(1 + x) for x in [0, 1], 1.4 ulp: log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + ...)), s = f / (2 + f), plus log 2
// where 1 + x is above sqrt 2 and is halved. Both f are exact, so that nothing of a small x is lost.
template <class T>
FASTNN_INLINE Vec<T> log1p(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> half = set1(T(0.5));
  const Mask<T> upper = gt(x, set1(T(0.41421356)));
  const Vec<T> f = select(upper, half * x - half, x), n = select(upper, set1(T(1)), zero<T>());
  const Vec<T> s = divide(f, f + set1(T(2))), z = s * s, square = half * f * f;
  const Vec<T> rest = fma(s, fma(z, polynomial(z, C::atanh), square), n * set1(C::ln2_low));
  return fma(n, set1(C::ln2_high), f - (square - rest));
}

// q for x < 0, else 1 - q.
template <class T>
FASTNN_INLINE Vec<T> negative_or_rest(Vec<T> x, Vec<T> q) {
  return select(lt(x, zero<T>()), q, set1(T(1)) - q);
}

// 1 / (1 + e^-x).
template <class T>
FASTNN_INLINE Vec<T> sigmoid_whole(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> one = set1(T(1));
  Vec<T> n;
  const Vec<T> p = exp_reduced(reduce_ln2(at_most(C::sigmoid_high, at_least(-C::sigmoid_high, -x)), n));
  const Vec<T> s = power2(n), b = one + s;
  return divide(one, fma(s, p, b), one - (b - s));  // the last: what b = 1 + 2^24 (2^53) and a few more lose
}
template <class T>
[[maybe_unused, gnu::noinline]] static Vec<T> sigmoid_rare(Vec<T> x) {
  return sigmoid_whole(x);
}
template <class T>
FASTNN_INLINE Vec<T> sigmoid(Vec<T> x) {
  if constexpr (kHasLookup<T>) {
    return by_table(x, kLogisticTail, &sigmoid_rare<T>,
                    [x](Vec<T> t) FASTNN_INLINED { return negative_or_rest(x, tabled(t, kLogisticTail)); });
  } else {
    return sigmoid_whole(x);
  }
}

// (e^2t - 1) / (e^2t + 1), t = |x|, where the numerator comes from expm1 without cancellation.
template <class T>
FASTNN_INLINE Vec<T> tanh(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> sign = bit_and(x, set1(T(-0.0)));
  if constexpr (kHasLookup<T>) return bit_or(tabled(at_most(kTanh.limit, abs(x)), kTanh), sign);
  const Vec<T> t = at_most(C::tanh_high, abs(x));
  Vec<T> n;
  const Vec<T> p = expm1_reduced(reduce_ln2(t + t, n)), s = power2(n);
  const Vec<T> a = fma(s, p, s - set1(T(1))), b = a + set1(T(2));
  // What rounding b lost: without it small x, where a is exact, would err by 2.3 ulp.
  return bit_or(divide(a, b, a - (b - set1(T(2)))), sign);
}

// exp(-t^2 / 2) = (1 + p + p_low) 2^n, returns p. half = t / 2. The square is exact to twice the precision: its
// rounding alone would cost t^2 / 4 ulp.
template <class T>
FASTNN_INLINE Vec<T> normal_density(Vec<T> t, Vec<T> half, Vec<T>& n, Vec<T>& p_low) {
  const Vec<T> square = half * t, r = reduce_ln2(-square, -mul_error(half, t, square), n), r2 = r * r;
  const Vec<T> q = polynomial(r, Constants<T>::exp), p = fma(r2, q, r);
  p_low = fma(r2, q, r - p);
  return p;
}

// x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|)). NaN at -inf, as the first form gives.
template <class T>
FASTNN_INLINE Vec<T> gelu_whole(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> one = set1(T(1)), t = at_most(C::cdf_high, abs(x)), half = set1(T(0.5)) * t;
  Vec<T> n, p_low;
  const Vec<T> p = normal_density(t, half, n, p_low);
  // 1 - Phi(t) = density h / t, h = a / b. For large t errors of a cancel in the quotient; for small t, where both are
  // close to their first terms, they are rounded once.
  const Vec<T> a = fma(half * t, polynomial(t, C::tail_p), half);
  const Vec<T> k = set1(C::tail_k), c = t * polynomial(t, C::tail_s), b1 = fma(a, k, c), b = b1 + one;
  Vec<T> low;
  const Vec<T> high = divide_parts(a, b, (b1 - (b - one)) + fma(a, k, c - b1), low);
  // h (1 + p), rounded to a denormal once, at the end
  const Vec<T> small = scale2(high + fma(high, p, fma(low, p, fma(high, p_low, low))), n);
  return x * select(lt(x, zero<T>()), zero<T>(), one) - small;
}
template <class T>
[[maybe_unused, gnu::noinline]] static Vec<T> gelu_rare(Vec<T> x) {
  return gelu_whole(x);
}
template <class T>
FASTNN_INLINE Vec<T> gelu(Vec<T> x) {
  if constexpr (kHasLookup<T>) {
    return by_table(x, kNormalTail, &gelu_rare<T>,
                    [x](Vec<T> t) FASTNN_INLINED { return fnma(t, tabled(t, kNormalTail), max(zero<T>(), x)); });
  } else {
    return gelu_whole(x);
  }
}

// Phi(x) + x phi(x). NaN at +-inf, as the formula gives.
template <class T>
FASTNN_INLINE Vec<T> gelu_slope(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> one = set1(T(1)), t = at_most(C::cdf_high, abs(x));
  Vec<T> n, p_low;
  const Vec<T> half = set1(T(0.5)) * t, p = normal_density(t, half, n, p_low);
  const Vec<T> a = fma(half, polynomial(t, C::tail_p), set1(T(0.5)));  // tail = density a / b
  const Vec<T> b = one + t * fma(a, set1(C::tail_k), polynomial(t, C::tail_s));
  const Vec<T> q = fma(set1(T(0.398942280401432677940)), abs(x), -divide(a, b)) * scale2(one + p, n);
  return select(lt(x, zero<T>()), -q, one + q);
}

// e^-w = (1 + p) 2^n with the w of gelu_tanh, 2 sqrt(2 / pi) (t + 0.044715 t^3), t >= 0, to twice the precision, for
// the reason given at normal_density.
template <class T>
FASTNN_INLINE Vec<T> gelu_tanh_split(Vec<T> t, Vec<T>& n) {
  using C = Constants<T>;
  const Vec<T> c1 = set1(-C::gelu_c1), c1_low = set1(-C::gelu_c1_low);
  const Vec<T> c3 = set1(-C::gelu_c3), c3_low = set1(-C::gelu_c3_low);
  const Vec<T> square = t * t, square_low = mul_error(t, t, square);
  const Vec<T> a = c3 * square, a_low = fma(c3_low, square, fma(c3, square_low, mul_error(c3, square, a)));
  const Vec<T> b = a + c1, a_part = b - c1, b_low = ((a - a_part) + (c1 - (b - a_part))) + (a_low + c1_low);
  const Vec<T> w = b * t, w_low = fma(b_low, t, mul_error(b, t, w));
  return exp_reduced(reduce_ln2(w, w_low, n));
}

// x / (1 + e^-w) for a w of x's sign, from e^-|w| = (1 + p) 2^n; t is |x| but bounded where the product is 0. The tail
// is rounded to a denormal once, at the end. NaN at -inf, as the formula gives.
template <class T>
FASTNN_INLINE Vec<T> gated(Vec<T> x, Vec<T> t, Vec<T> p, Vec<T> n) {
  const Vec<T> one = set1(T(1)), e = scale2(one + p, n), b = one + e, h = divide(t, b, e - (b - one));
  return x * select(lt(x, zero<T>()), zero<T>(), one) - scale2(fma(h, p, h), n);
}
// Its slope, dw being that of w. NaN at +-inf, as the formula gives.
template <class T>
FASTNN_INLINE Vec<T> gated_slope(Vec<T> x, Vec<T> dw, Vec<T> p, Vec<T> n) {
  const Vec<T> one = set1(T(1)), e = scale2(one + p, n), d = reciprocal(one + e);
  const Vec<T> q = fma(abs(x) * d, dw, -one) * (e * d);
  return select(lt(x, zero<T>()), -q, one + q);
}

// 0.5 x (1 + tanh(w / 2)).
template <class T>
FASTNN_INLINE Vec<T> gelu_tanh_whole(Vec<T> x) {
  const Vec<T> t = at_most(Constants<T>::gelu_tanh_high, abs(x));
  Vec<T> n;
  const Vec<T> p = gelu_tanh_split(t, n);
  return gated(x, t, p, n);
}
template <class T>
[[maybe_unused, gnu::noinline]] static Vec<T> gelu_tanh_rare(Vec<T> x) {
  return gelu_tanh_whole(x);
}
template <class T>
FASTNN_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  if constexpr (kHasLookup<T>) {
    return by_table(x, kGeluTanhTail, &gelu_tanh_rare<T>,
                    [x](Vec<T> t) FASTNN_INLINED { return fnma(t, tabled(t, kGeluTanhTail), max(zero<T>(), x)); });
  } else {
    return gelu_tanh_whole(x);
  }
}
template <class T>
FASTNN_INLINE Vec<T> gelu_tanh_slope(Vec<T> x) {
  const Vec<T> t = at_most(Constants<T>::gelu_tanh_high, abs(x));
  Vec<T> n;
  const Vec<T> p = gelu_tanh_split(t, n);
  return gated_slope(x, fma(t * t, set1(3 * Constants<T>::gelu_c3), set1(Constants<T>::gelu_c1)), p, n);
}

// x / (1 + e^-x).
template <class T>
FASTNN_INLINE Vec<T> silu_whole(Vec<T> x) {
  const Vec<T> t = at_most(Constants<T>::tail_high, abs(x));
  Vec<T> n;
  const Vec<T> p = exp_reduced(reduce_ln2(-t, n));
  return gated(x, t, p, n);
}
template <class T>
[[maybe_unused, gnu::noinline]] static Vec<T> silu_rare(Vec<T> x) {
  return silu_whole(x);
}
template <class T>
FASTNN_INLINE Vec<T> silu(Vec<T> x) {
  if constexpr (kHasLookup<T>) {
    return by_table(x, kLogisticTail, &silu_rare<T>,
                    [x](Vec<T> t) FASTNN_INLINED { return fnma(t, tabled(t, kLogisticTail), max(zero<T>(), x)); });
  } else {
    return silu_whole(x);
  }
}
template <class T>
FASTNN_INLINE Vec<T> silu_slope(Vec<T> x) {
  const Vec<T> t = at_most(Constants<T>::tail_high, abs(x));
  Vec<T> n;
  const Vec<T> p = exp_reduced(reduce_ln2(-t, n));
  return gated_slope(x, set1(T(1)), p, n);
}

// x tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2). With e = e^-|x| it is x e a / d, a = 2 + e, d = 2 + e a for
// x < 0, else x a / d, a = 1 + 2 e, d = a + 2 e^2; a and d to twice the precision. NaN at -inf, as the formula gives.
template <class T>
FASTNN_INLINE Vec<T> mish(Vec<T> x) {
  const Vec<T> one = set1(T(1)), t = at_most(Constants<T>::tail_high, abs(x));
  const Mask<T> negative = lt(x, zero<T>());
  Vec<T> n;
  const Vec<T> p = exp_reduced(reduce_ln2(-t, n)), e = scale2(one + p, n);
  const Vec<T> u = select(negative, set1(T(2)), one), v = select(negative, e, e + e), a = u + v, a_low = v - (a - u);
  const Vec<T> f = select(negative, a, v), c = select(negative, u, a), d = fma(e, f, c);
  const Vec<T> d_low = fma(select(negative, e, one), a_low, fma(e, f, c - d));
  const Vec<T> r = reciprocal(d), q = a * r, low = (fnma(q, d_low, fnma(q, d, a)) + a_low) * r;
  const Vec<T> s = select(negative, p, zero<T>()), m = q + fma(q, s, fma(low, s, low));
  const Vec<T> y = scale2(at_least(-Constants<T>::tail_high, x) * m, select(negative, n, zero<T>()));
  return y - select(negative, x - x, zero<T>());
}

// The slope (n (n + 2) + 4 x e^x (1 + e^x)) / (n + 2)^2, in e likewise. NaN at +-inf, as the formula gives.
template <class T>
FASTNN_INLINE Vec<T> mish_slope(Vec<T> x) {
  const Vec<T> one = set1(T(1)), e = exp(-abs(x)), b = one + e, square = e * e;
  const Mask<T> negative = lt(x, zero<T>());
  const Vec<T> r = reciprocal(fma(b, b, select(negative, one, square)));
  const Vec<T> tail = set1(T(4)) * x * select(negative, e, square) * (b * r);
  return (select(negative, fma(e, set1(T(2)), square), b + e) + tail) * r;
}

// log(1 + e^(beta x)) / beta, and x where beta x > threshold; beta > 0.
template <class T>
FASTNN_INLINE Vec<T> softplus_whole(Vec<T> z) {
  return at_least(T(0), z) + log1p(exp(-abs(z)));
}
template <class T>
[[maybe_unused, gnu::noinline]] static Vec<T> softplus_rare(Vec<T> z) {
  return softplus_whole(z);
}
template <class T>
FASTNN_INLINE Vec<T> softplus(Vec<T> x, Vec<T> beta, Vec<T> threshold) {
  const Vec<T> z = beta * x;
  Vec<T> y;
  if constexpr (kHasLookup<T>) {
    y = by_table(z, kSoftplusTail, &softplus_rare<T>,
                 [z](Vec<T> t) FASTNN_INLINED { return at_least(T(0), z) + tabled(t, kSoftplusTail); });
  } else {
    y = softplus_whole(z);
  }
  return select(gt(z, threshold), x, y * (set1(T(1)) / beta));
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

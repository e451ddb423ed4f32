// Activations on one vector, forward and slope: the one place that defines them, for activation.cpp and for every
// kernel that ends in an activation (add, batch_norm, linear, conv).
//
//   kernel                     y                              dy/dx, from x
//   relu                       max(x, 0)                      1 for x > 0
//   hardtanh                   min(max(x, alpha), beta)       1 for alpha < x < beta
//   threshold                  beta for x <= alpha, else x    1 for x > alpha
//   hardsigmoid                min(max(x + 3, 0), 6) / 6      1/6 for -3 < x < 3
//   hardswish                  x hardsigmoid(x)               x / 3 + 1/2 for -3 < x < 3, 1 from there on
//   leaky_relu                 x for x > 0, else alpha x      1 for x > 0, else alpha
//   softsign                   x / (1 + |x|)                  1 / (1 + |x|)^2
//   sigmoid, tanh              1 / (1 + e^-x), tanh x         y (1 - y), 1 - y^2, without cancellation
//   elu                        x for x > 0, else alpha (e^x - 1)      1 for x > 0, else alpha e^x
//   selu                       1.0507 elu(x), alpha = 1.6733
//   celu                       x for x > 0, else alpha (e^(x / alpha) - 1)    1 for x > 0, else e^(x / alpha)
//   gelu, gelu_tanh            x Phi(x), exact and by tanh    Phi(x) + x phi(x)
//   silu                       x sigmoid(x)                   sigmoid(x) (1 + x sigmoid(-x))
//   mish                       x tanh(softplus(x))
//   softplus                   log(1 + e^(alpha x)) / alpha   sigmoid(alpha x); where alpha x > beta: x and 1
// NaN in x gives NaN in y. Errors in ulp are in simd/math.hpp; of those made here (without fused multiply-add):
//   hardsigmoid 1.0 (1.7)   hardswish 1.9 (2.5)   softsign 1.5 (1.5)   selu 1.8 (1.9)   celu with alpha = 1 1.0 (1.0)
#pragma once
#include "kernels/kernels.hpp"
#include "simd/math.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <Activation kind>
struct Tag {
  static constexpr Activation value = kind;
};

// Those that are constant somewhere: dx is 0 there, and at NaN, whatever dy is (infinity * 0 would be NaN).
constexpr bool has_flat_part(int64_t kind) { return kind >= k_relu && kind <= k_hardswish; }
static_assert(k_relu == 1 && k_hardswish == 5 && k_leaky_relu == 6, "has_flat_part counts on this order");
// Those built on exponentials: kernels that use them hold a runtime::FlushDenormals. The others keep denormals.
constexpr bool is_exponential(int64_t kind) { return kind >= k_sigmoid; }
static_assert(k_softsign == 7 && k_sigmoid == 8, "is_exponential counts on this order");

template <class T>
struct Parameters {
  Vec<T> alpha, beta;
};
template <class T, class Args>
FASTNN_INLINE Parameters<T> parameters_of(const Args& a) {
  return {set1(static_cast<T>(a.alpha)), set1(static_cast<T>(a.beta))};
}

constexpr double kSeluScale = 1.0507009873554804934193349852946, kSeluAlpha = 1.6732632423543772848170429916717;

template <class T>
FASTNN_INLINE Vec<T> hardsigmoid(Vec<T> x) {
  constexpr T sixth = T(1) / T(6), low = static_cast<T>(1.0L / 6 - static_cast<long double>(sixth));
  const Vec<T> u = at_most(T(6), at_least(T(0), x + set1(T(3))));
  return fma(u, set1(sixth), u * set1(low));
}

template <Activation kind, class T>
FASTNN_INLINE Vec<T> activate(Vec<T> x, [[maybe_unused]] Parameters<T> p) {
  if constexpr (kind == k_relu) return max(zero<T>(), x);
  if constexpr (kind == k_hardtanh) return min(p.beta, max(p.alpha, x));
  if constexpr (kind == k_threshold) return select(le(x, p.alpha), p.beta, x);
  if constexpr (kind == k_hardsigmoid) return hardsigmoid(x);
  if constexpr (kind == k_hardswish) return x * hardsigmoid(x);
  if constexpr (kind == k_leaky_relu) return select(gt(x, zero<T>()), x, p.alpha * x);
  if constexpr (kind == k_softsign) return x / (set1(T(1)) + abs(x));
  if constexpr (kind == k_sigmoid) return sigmoid(x);
  if constexpr (kind == k_tanh) return tanh(x);
  if constexpr (kind == k_elu) return select(gt(x, zero<T>()), x, p.alpha * expm1(x));
  if constexpr (kind == k_selu)
    return select(gt(x, zero<T>()), set1(T(kSeluScale)) * x, set1(T(kSeluScale * kSeluAlpha)) * expm1(x));
  if constexpr (kind == k_celu) return select(gt(x, zero<T>()), x, p.alpha * expm1(x / p.alpha));
  if constexpr (kind == k_gelu) return gelu(x);
  if constexpr (kind == k_gelu_tanh) return gelu_tanh(x);
  if constexpr (kind == k_silu) return silu(x);
  if constexpr (kind == k_mish) return mish(x);
  if constexpr (kind == k_softplus) return softplus(x, p.alpha, p.beta);
  return x;
}

// Where the slope of one that has a flat part is not 0.
template <Activation kind, class T>
FASTNN_INLINE Mask<T> is_sloped(Vec<T> x, [[maybe_unused]] Parameters<T> p) {
  if constexpr (kind == k_hardtanh) return gt(x, p.alpha) & lt(x, p.beta);
  if constexpr (kind == k_threshold) return gt(x, p.alpha);
  if constexpr (kind == k_hardsigmoid) return gt(x, set1(T(-3))) & lt(x, set1(T(3)));
  if constexpr (kind == k_hardswish) return gt(x, set1(T(-3)));
  return gt(x, zero<T>());
}

// The slope, of those with a flat part the slope beside it.
template <Activation kind, class T>
FASTNN_INLINE Vec<T> activation_slope(Vec<T> x, [[maybe_unused]] Parameters<T> p) {
  const Vec<T> one = set1(T(1));
  if constexpr (kind == k_hardsigmoid) return set1(T(1.0 / 6));
  if constexpr (kind == k_hardswish) return select(lt(x, set1(T(3))), fma(x, set1(T(1.0 / 3)), set1(T(0.5))), one);
  if constexpr (kind == k_leaky_relu) return select(gt(x, zero<T>()), one, p.alpha);
  if constexpr (kind == k_softsign) {
    const Vec<T> r = one / (one + abs(x));
    return r * r;
  }
  if constexpr (kind == k_sigmoid) {
    const Vec<T> e = exp(-abs(x)), d = reciprocal(one + e);
    return e * d * d;
  }
  if constexpr (kind == k_tanh) {
    const Vec<T> e = exp(set1(T(-2)) * abs(x)), d = reciprocal(one + e);
    return set1(T(4)) * e * d * d;
  }
  if constexpr (kind == k_elu) return select(gt(x, zero<T>()), one, p.alpha * exp(x));
  if constexpr (kind == k_selu)
    return select(gt(x, zero<T>()), set1(T(kSeluScale)), set1(T(kSeluScale * kSeluAlpha)) * exp(x));
  if constexpr (kind == k_celu) return select(gt(x, zero<T>()), one, exp(x / p.alpha));
  if constexpr (kind == k_gelu) return gelu_slope(x);
  if constexpr (kind == k_gelu_tanh) return gelu_tanh_slope(x);
  if constexpr (kind == k_silu) return silu_slope(x);
  if constexpr (kind == k_mish) return mish_slope(x);
  if constexpr (kind == k_softplus) {
    const Vec<T> z = p.alpha * x;
    return select(gt(z, p.beta), one, sigmoid(z));
  }
  return one;
}

// Calls f(Tag<kind>{}): one instance of the caller's loop per activation, none inside the loop.
template <class F>
FASTNN_INLINE void with_activation(int64_t kind, F&& f) {
  switch (kind) {
#define FASTNN_CASE(name, ...) \
  case k_##name:               \
    return f(Tag<k_##name>{});
    FASTNN_ACTIVATIONS(FASTNN_CASE)
#undef FASTNN_CASE
    default:
      return f(Tag<kIdentity>{});
  }
}

// The same for a large loop, which has an instance for the cheap activations of convolutional networks only: false,
// and no call, for the others.
template <class F>
FASTNN_INLINE bool with_cheap_activation(int64_t kind, F&& f) {
  if (kind == kIdentity) return f(Tag<kIdentity>{}), true;
  if (kind == k_relu) return f(Tag<k_relu>{}), true;
  if (kind == k_hardtanh) return f(Tag<k_hardtanh>{}), true;
  if (kind == k_hardswish) return f(Tag<k_hardswish>{}), true;
  if (kind == k_leaky_relu) return f(Tag<k_leaky_relu>{}), true;
  return false;
}

// The activation chosen at run time, for an epilogue that is not worth an instance per activation. Not inlined.
template <class T>
[[maybe_unused]] static __attribute__((noinline)) void activate_array(const Then& then, T* y, int64_t size) {
  with_activation(then.activation, [&](auto tag) {
    const Parameters<T> p = parameters_of<T>(then);
    int64_t i = 0;
    for (; i + Vec<T>::lanes <= size; i += Vec<T>::lanes) store(y + i, activate<tag.value>(load(y + i), p));
    const int rest = static_cast<int>(size - i);
    if (rest) store_partial(y + i, activate<tag.value>(load_partial(y + i, rest), p), rest);
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

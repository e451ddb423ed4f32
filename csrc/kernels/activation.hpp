// Activations on one vector, forward and slope: the one place that defines them, for activation.cpp and for every
// kernel that ends in an activation (add, batch_norm, linear, conv).
//
//   kernel                     y                              dy/dx, from x
//   relu                       max(x, 0); NaN stays           1 for x > 0, else 0 (also at NaN)
//   leaky_relu                 x for x > 0, else alpha x      1 for x > 0, else alpha
//   sigmoid, tanh              1 / (1 + e^-x), tanh x         y (1 - y), 1 - y^2, without cancellation
//   elu                        x for x > 0, else alpha (e^x - 1)      1 for x > 0, else alpha e^x
//   gelu, gelu_tanh            x Phi(x), exact and by tanh    Phi(x) + x phi(x)
// Errors in ulp: simd/math.hpp.
#pragma once
#include "kernels/kernels.hpp"
#include "simd/math.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <Activation kind>
struct Tag {
  static constexpr Activation value = kind;
};

// True for those built on exponentials: kernels that use them hold a runtime::FlushDenormals. The others keep
// denormals.
constexpr bool is_exponential(int64_t kind) { return kind >= k_sigmoid; }
static_assert(k_relu == 1 && k_leaky_relu == 2 && k_sigmoid == 3, "is_exponential counts on this order");

template <Activation kind, class T>
FASTNN_INLINE Vec<T> activate(Vec<T> x, Vec<T> alpha) {
  (void)alpha;
  if constexpr (kind == k_relu) return max(zero<T>(), x);
  if constexpr (kind == k_leaky_relu) return select(gt(x, zero<T>()), x, alpha * x);
  if constexpr (kind == k_sigmoid) return sigmoid(x);
  if constexpr (kind == k_tanh) return tanh(x);
  if constexpr (kind == k_elu) return select(gt(x, zero<T>()), x, alpha * expm1(x));
  if constexpr (kind == k_gelu) return gelu(x);
  if constexpr (kind == k_gelu_tanh) return gelu_tanh(x);
  return x;
}

template <Activation kind, class T>
FASTNN_INLINE Vec<T> activation_slope(Vec<T> x, Vec<T> alpha) {
  (void)alpha;
  const Vec<T> one = set1(T(1));
  if constexpr (kind == k_relu) return select(gt(x, zero<T>()), one, zero<T>());
  if constexpr (kind == k_leaky_relu) return select(gt(x, zero<T>()), one, alpha);
  if constexpr (kind == k_sigmoid) {
    const Vec<T> e = exp(-abs(x)), d = reciprocal(one + e);
    return e * d * d;
  }
  if constexpr (kind == k_tanh) {
    const Vec<T> e = exp(set1(T(-2)) * abs(x)), d = reciprocal(one + e);
    return set1(T(4)) * e * d * d;
  }
  if constexpr (kind == k_elu) return select(gt(x, zero<T>()), one, alpha * exp(x));
  if constexpr (kind == k_gelu) return gelu_slope(x);
  if constexpr (kind == k_gelu_tanh) return gelu_tanh_slope(x);
  return one;
}

// Calls f(Tag<kind>{}): one instance of the caller's loop per activation, none inside the loop.
template <class F>
FASTNN_INLINE void with_activation(int64_t kind, F&& f) {
  switch (kind) {
#define FASTNN_CASE(name) \
  case k_##name:          \
    return f(Tag<k_##name>{});
    FASTNN_ACTIVATIONS(FASTNN_CASE)
#undef FASTNN_CASE
    default:
      return f(Tag<kIdentity>{});
  }
}

// The activation chosen at run time, for an epilogue that is not worth an instance per activation. Not inlined.
template <class T>
[[maybe_unused]] static __attribute__((noinline)) void activate_array(int64_t kind, T* y, int64_t size, T alpha) {
  with_activation(kind, [&](auto tag) {
    const Vec<T> va = set1(alpha);
    int64_t i = 0;
    for (; i + Vec<T>::lanes <= size; i += Vec<T>::lanes) store(y + i, activate<tag.value>(load(y + i), va));
    const int rest = static_cast<int>(size - i);
    if (rest) store_partial(y + i, activate<tag.value>(load_partial(y + i, rest), va), rest);
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

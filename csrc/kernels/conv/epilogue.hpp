// The end of every convolution: y = activation(scale * acc + shift + residual), applied to a tile while it is hot.
//   scale, shift   per output channel, from bias and batch norm: scale = gamma / sqrt(var + eps),
//                  shift = (bias - mean) * scale + beta, computed in double and rounded once
// A strategy file makes one Epilogue per call (prepare_epilogue) and calls finish_rows on tiles whose rows are channels
// (NCHW) or finish_columns on tiles whose columns are channels (channels-last). In place; the residual lies as y does.
#pragma once
#include <cmath>

#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Epilogue {
  const T *scale, *shift;  // null: 1, 0
  const T *y, *residual;   // residual may be null; residual[i] belongs to y[i]
  int64_t activation;
  T alpha;
};

// Elements of T that prepare_epilogue needs.
FASTNN_INLINE int64_t epilogue_size(const Conv2dArgs& q) { return 2 * q.o; }

template <class T>
Epilogue<T> prepare_epilogue(const Conv2dArgs& q, T* memory) {
  const T *bias = static_cast<const T*>(q.bias), *gamma = static_cast<const T*>(q.gamma);
  const T *beta = static_cast<const T*>(q.beta), *mean = static_cast<const T*>(q.mean);
  const T* var = static_cast<const T*>(q.var);
  T *scale = memory, *shift = memory + q.o;
  for (int64_t i = 0; i < q.o; ++i) {
    double b = bias ? static_cast<double>(bias[i]) : 0.0;
    if (gamma || mean) {
      const double s = static_cast<double>(gamma[i]) / std::sqrt(static_cast<double>(var[i]) + q.eps);
      scale[i] = static_cast<T>(s);
      b = (b - static_cast<double>(mean[i])) * s + static_cast<double>(beta[i]);
    }
    shift[i] = static_cast<T>(b);
  }
  return {gamma || mean ? scale : nullptr,
          bias || gamma || mean ? shift : nullptr,
          static_cast<const T*>(q.y),
          static_cast<const T*>(q.residual),
          q.activation,
          static_cast<T>(q.alpha)};
}

template <class T>
bool is_trivial(const Epilogue<T>& e) {
  return !e.scale && !e.shift && !e.residual && e.activation == kIdentity;
}

// ---- one vector ----
template <class T>
struct Identity {
  FASTNN_MEMBER_INLINE Vec<T> operator()(Vec<T> v) const { return v; }
};
template <class T>
struct Relu {
  FASTNN_MEMBER_INLINE Vec<T> operator()(Vec<T> v) const { return max(zero<T>(), v); }
};
template <class T>
struct LeakyRelu {
  T alpha;
  FASTNN_MEMBER_INLINE Vec<T> operator()(Vec<T> v) const { return select(lt(v, zero<T>()), v * set1(alpha), v); }
};

// Calls body(f) with the activation as a function of one vector.
template <class T, class Body>
FASTNN_INLINE void with_activation(int64_t activation, T alpha, const Body& body) {
  switch (activation) {
    case k_relu:
      body(Relu<T>{});
      break;
    case k_leaky_relu:
      body(LeakyRelu<T>{alpha});
      break;
    default:
      body(Identity<T>{});
  }
}

// ---- tiles of y: m rows of n elements, row stride ld ----
template <class T, bool channels_are_rows, class F>
void finish_tile(const Epilogue<T>& e, T* y, int64_t ld, int64_t channel, int64_t m, int64_t n, F f) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t i = 0; i < m; ++i) {
    T* row = y + i * ld;
    const T* residual = e.residual ? e.residual + (row - e.y) : nullptr;
    const int64_t c = channel + (channels_are_rows ? i : 0);
    const Vec<T> row_scale = set1(channels_are_rows && e.scale ? e.scale[c] : T(1));
    const Vec<T> row_shift = set1(channels_are_rows && e.shift ? e.shift[c] : T(0));
    for (int64_t j = 0; j < n; j += lanes) {
      const int left = n - j < lanes ? static_cast<int>(n - j) : lanes;
      const bool whole = left == lanes;
      Vec<T> v = whole ? load(row + j) : load_partial(row + j, left);
      Vec<T> scale = row_scale, shift = row_shift;
      if (!channels_are_rows) {
        if (e.scale) scale = whole ? load(e.scale + c + j) : load_partial(e.scale + c + j, left);
        if (e.shift) shift = whole ? load(e.shift + c + j) : load_partial(e.shift + c + j, left);
      }
      if (e.scale)
        v = fma(v, scale, shift);
      else if (e.shift)
        v = v + shift;
      if (residual) v = v + (whole ? load(residual + j) : load_partial(residual + j, left));
      v = f(v);
      if (whole)
        store(row + j, v);
      else
        store_partial(row + j, v, left);
    }
  }
}

template <class T>
void finish_rows(const Epilogue<T>& e, T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
  if (is_trivial(e)) return;
  with_activation<T>(e.activation, e.alpha, [&](auto f) { finish_tile<T, true>(e, y, ld, channel, m, n, f); });
}
template <class T>
void finish_columns(const Epilogue<T>& e, T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
  if (is_trivial(e)) return;
  with_activation<T>(e.activation, e.alpha, [&](auto f) { finish_tile<T, false>(e, y, ld, channel, m, n, f); });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

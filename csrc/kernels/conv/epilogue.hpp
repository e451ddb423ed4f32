// The end of every convolution: y = activation(scale * acc + shift + residual), applied to a tile while it is hot.
//   scale, shift   per output channel, from bias and batch norm: scale = gamma / sqrt(var + eps),
//                  shift = (bias - mean) * scale + beta, computed in double and rounded once
// A strategy file makes one Epilogue per call (prepare_epilogue) and calls finish_rows on tiles whose rows are channels
// (NCHW) or finish_columns on tiles whose columns are channels (channels-last), in place or from other memory; the
// residual lies as y does.
#pragma once
#include <cmath>

#include "kernels/activation.hpp"
#include "kernels/conv/format.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Epilogue {
  const T *scale, *shift;  // null: 1, 0
  const T *y, *residual;   // residual may be null; residual[i] belongs to y[i]
  Then then;
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
    if (mean) {  // gamma and beta may be absent beside it
      const double g = gamma ? static_cast<double>(gamma[i]) : 1.0;
      const double s = g / std::sqrt(static_cast<double>(var[i]) + q.eps);
      scale[i] = static_cast<T>(s);
      b = (b - static_cast<double>(mean[i])) * s + (beta ? static_cast<double>(beta[i]) : 0.0);
    }
    shift[i] = static_cast<T>(b);
  }
  return {mean ? scale : nullptr, bias || mean ? shift : nullptr, static_cast<const T*>(q.y),
          static_cast<const T*>(q.residual), q.then};
}

// ---- one run of vectors: y[i * step] from the sums in from[i * from_step] for i < count ----
template <class T, Activation kind, bool has_residual>
FASTNN_INLINE void finish_run(const T* from, int64_t from_step, T* y, const T* residual, int64_t step, int64_t count,
                              int lanes, Vec<T> scale, Vec<T> shift, Parameters<T> p) {
  const bool partial = lanes < Vec<T>::lanes;
  for (int64_t i = 0; i < count; ++i) {
    T* at = y + i * step;
    const T* sum = from + i * from_step;
    Vec<T> v = fma(partial ? load_partial(sum, lanes) : load(sum), scale, shift);
    if (has_residual) v = v + (partial ? load_partial(residual + i * step, lanes) : load(residual + i * step));
    v = activate<kind>(v, p);
    if (partial)
      store_partial(at, v, lanes);
    else
      store(at, v);
  }
}

// ---- tiles of y: m rows of n elements, row stride ld, from sums with row stride ld_from ----

// Runs go along the rows, or where channels are columns down the columns, so that scale and shift stay in registers.
// Where they are missing, v * 1 + -0 is v, bit for bit.
template <class T, bool channels_are_rows, Activation kind, bool has_residual>
void finish_tile(const Epilogue<T>& e, const T* from, int64_t ld_from, T* y, int64_t ld, int64_t channel, int64_t m,
                 int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  const T* residual = has_residual ? e.residual + (y - e.y) : nullptr;
  const Parameters<T> p = parameters_of<T>(e.then);
  const int rest = static_cast<int>(n % lanes);
  const int64_t whole_n = n - rest;
  if (channels_are_rows) {
    for (int64_t i = 0; i < m; ++i, from += ld_from, y += ld, residual += has_residual ? ld : 0) {
      const Vec<T> scale = set1(e.scale ? e.scale[channel + i] : T(1));
      const Vec<T> shift = set1(e.shift ? e.shift[channel + i] : T(-0.0));
      finish_run<T, kind, has_residual>(from, lanes, y, residual, lanes, n / lanes, lanes, scale, shift, p);
      if (rest)
        finish_run<T, kind, has_residual>(from + whole_n, lanes, y + whole_n, residual + (has_residual ? whole_n : 0),
                                          lanes, 1, rest, scale, shift, p);
    }
    return;
  }
  const T *scales = e.scale ? e.scale + channel : nullptr, *shifts = e.shift ? e.shift + channel : nullptr;
  for (int64_t j = 0; j < whole_n; j += lanes)
    finish_run<T, kind, has_residual>(from + j, ld_from, y + j, residual + (has_residual ? j : 0), ld, m, lanes,
                                      scales ? load(scales + j) : set1(T(1)), shifts ? load(shifts + j) : set1(T(-0.0)),
                                      p);
  if (rest)
    finish_run<T, kind, has_residual>(from + whole_n, ld_from, y + whole_n, residual + (has_residual ? whole_n : 0), ld,
                                      m, rest, scales ? load_partial(scales + whole_n, rest) : set1(T(1)),
                                      shifts ? load_partial(shifts + whole_n, rest) : set1(T(-0.0)), p);
}

// The cheap activations are part of the pass; the others follow in a pass of their own over the tile.
template <class T, bool channels_are_rows>
void finish(const Epilogue<T>& e, const T* from, int64_t ld_from, T* y, int64_t ld, int64_t channel, int64_t m,
            int64_t n) {
  const auto pass = [&](auto tag) {
    e.residual ? finish_tile<T, channels_are_rows, tag.value, true>(e, from, ld_from, y, ld, channel, m, n)
               : finish_tile<T, channels_are_rows, tag.value, false>(e, from, ld_from, y, ld, channel, m, n);
  };
  const bool nothing = !e.scale && !e.shift && !e.residual && from == y;
  if (e.then.activation == kIdentity && nothing) return;
  if (with_cheap_activation(e.then.activation, pass)) return;
  if (!nothing) pass(Tag<kIdentity>{});
  for (int64_t i = 0; i < m; ++i) activate_array(e.then, y + i * ld, n);
}

template <class T>
void finish_rows(const Epilogue<T>& e, T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
  finish<T, true>(e, y, ld, y, ld, channel, m, n);
}
template <class T>
void finish_columns(const Epilogue<T>& e, T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
  finish<T, false>(e, y, ld, y, ld, channel, m, n);
}

// finish_columns from other memory where y or the residual is of bfloat16, by way of floats: `result` and `skip` hold m
// rows of ld. at: of y and of the residual
[[maybe_unused]] void finish_in_float32(const Conv2dArgs& q, const Epilogue<float>& e, const float* from,
                                        int64_t ld_from, int64_t at, int64_t channel, int64_t m, int64_t n,
                                        float* result, float* skip, int64_t ld) {
  if (!e.residual) skip = nullptr;
  for (int64_t i = 0; skip && i < m; ++i)
    q.residual_bf16 ? convert(static_cast<const uint16_t*>(q.residual) + at + i * q.o, skip + i * ld, n)
                    : convert(static_cast<const float*>(q.residual) + at + i * q.o, skip + i * ld, n);
  finish<float, false>({e.scale, e.shift, result, skip, e.then}, from, ld_from, result, ld, channel, m, n);
  for (int64_t i = 0; i < m; ++i)
    q.y_bf16 ? convert(result + i * ld, static_cast<uint16_t*>(q.y) + at + i * q.o, n)
             : convert(result + i * ld, static_cast<float*>(q.y) + at + i * q.o, n);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

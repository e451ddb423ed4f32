// batch_norm over n, h, w. Legend: m = n * h * w values a channel, s = h * w.
#include <cmath>

#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Shape {
  int64_t n, c, s, channels_last;
  int64_t at(int64_t i, int64_t channel, int64_t pixel) const {
    return channels_last ? (i * s + pixel) * c + channel : (i * c + channel) * s + pixel;
  }
};

template <class Args>
FASTNN_INLINE Shape shape_of(const Args& a) {
  return {a.n, a.c, a.h * a.w, a.channels_last};
}

FASTNN_INLINE double activate(int64_t activation, double v, double alpha) {
  switch (activation) {
    case k_relu:
      return v < 0 ? 0 : v;
    case k_leaky_relu:
      return v < 0 ? alpha * v : v;
    case k_sigmoid:
      return 1 / (1 + std::exp(-v));
    case k_tanh:
      return std::tanh(v);
    case k_elu:
      return v < 0 ? alpha * std::expm1(v) : v;
    case k_gelu:
      return 0.5 * v * std::erfc(-v * 0.70710678118654752440);
    case k_gelu_tanh:
      return 0.5 * v * (1 + std::tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
    default:
      return v;
  }
}

template <class T>
static void batch_norm_forward_of(const BatchNormArgs& a) {
  const T *x = static_cast<const T*>(a.x), *mean = static_cast<const T*>(a.mean), *var = static_cast<const T*>(a.var);
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  T* y = static_cast<T*>(a.y);
  const Shape shape = shape_of(a);
  for (int64_t c = 0; c < a.c; ++c) {
    const double scale = (weight ? double(weight[c]) : 1.0) / std::sqrt(double(var[c]) + a.eps);
    const double shift = bias ? double(bias[c]) : 0.0;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) {
        const int64_t at = shape.at(n, c, i);
        y[at] = static_cast<T>(activate(a.activation, (double(x[at]) - double(mean[c])) * scale + shift, a.alpha));
      }
  }
}

template <class T>
static void batch_norm_train_forward_of(const BatchNormTrainArgs& a) {
  const T *x = static_cast<const T*>(a.x), *weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  T *y = static_cast<T*>(a.y), *mean = static_cast<T*>(a.mean), *var = static_cast<T*>(a.var);
  const Shape shape = shape_of(a);
  const double m = double(a.n) * double(shape.s);
  for (int64_t c = 0; c < a.c; ++c) {
    double sum = 0, squares = 0;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) sum += double(x[shape.at(n, c, i)]);
    const double mu = sum / m;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) {
        const double d = double(x[shape.at(n, c, i)]) - mu;
        squares += d * d;
      }
    mean[c] = static_cast<T>(mu);
    var[c] = static_cast<T>(squares / m);
    const double scale = (weight ? double(weight[c]) : 1.0) / std::sqrt(squares / m + a.eps);
    const double shift = bias ? double(bias[c]) : 0.0;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) {
        const int64_t at = shape.at(n, c, i);
        y[at] = static_cast<T>((double(x[at]) - mu) * scale + shift);
      }
  }
}

template <class T>
static void batch_norm_backward_of(const BatchNormBackwardArgs& a) {
  const T *dy = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x), *mean = static_cast<const T*>(a.mean);
  const T *var = static_cast<const T*>(a.var), *weight = static_cast<const T*>(a.weight);
  T *dx = static_cast<T*>(a.dx), *dweight = static_cast<T*>(a.dweight), *dbias = static_cast<T*>(a.dbias);
  const Shape shape = shape_of(a);
  const double m = double(a.n) * double(shape.s);
  for (int64_t c = 0; c < a.c; ++c) {
    const double mu = double(mean[c]), inverse = 1.0 / std::sqrt(double(var[c]) + a.eps);
    double sum_dy = 0, sum_dy_xhat = 0;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) {
        const int64_t at = shape.at(n, c, i);
        sum_dy += double(dy[at]);
        sum_dy_xhat += double(dy[at]) * (double(x[at]) - mu) * inverse;
      }
    if (dweight) dweight[c] = static_cast<T>((a.accumulate ? double(dweight[c]) : 0.0) + sum_dy_xhat);
    if (dbias) dbias[c] = static_cast<T>((a.accumulate ? double(dbias[c]) : 0.0) + sum_dy);
    const double scale = (weight ? double(weight[c]) : 1.0) * inverse;
    const double mean_dy = a.frozen ? 0.0 : sum_dy / m, mean_dy_xhat = a.frozen ? 0.0 : sum_dy_xhat / m;
    for (int64_t n = 0; n < a.n; ++n)
      for (int64_t i = 0; i < shape.s; ++i) {
        const int64_t at = shape.at(n, c, i);
        const double xhat = (double(x[at]) - mu) * inverse;
        dx[at] = static_cast<T>(scale * (double(dy[at]) - mean_dy - xhat * mean_dy_xhat));
      }
  }
}

}  // namespace

FASTNN_DEFINE(batch_norm_forward, BatchNormArgs)
FASTNN_DEFINE(batch_norm_train_forward, BatchNormTrainArgs)
FASTNN_DEFINE(batch_norm_backward, BatchNormBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

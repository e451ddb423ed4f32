// sgd_step and adam_step over the segments of a flat buffer: g gradient, p parameter, v m slots, wd weight decay.
// Equal to torch.optim.SGD and torch.optim.Adam / AdamW (decoupled) step by step.
#include <cmath>

#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
static void sgd_step_of(const SgdArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *velocity = static_cast<T*>(a.velocity);
  const T momentum = static_cast<T>(a.hyper[1]);
  const bool nesterov = a.hyper[2] != 0;
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const double* segment = a.segments + 4 * s;
    const T rate = static_cast<T>(a.hyper[0] * segment[2]), decay = static_cast<T>(a.hyper[3] * segment[3]);
    if (segment[2] == 0) continue;
    for (int64_t i = static_cast<int64_t>(segment[0]); i < static_cast<int64_t>(segment[1]); ++i) {
      T d = grad[i] + decay * param[i];
      if (velocity) {
        const T v = velocity[i] = momentum * velocity[i] + d;
        d = nesterov ? d + momentum * v : v;
      }
      param[i] -= rate * d;
    }
  }
}

template <class T>
static void adam_step_of(const AdamArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *m = static_cast<T*>(a.m), *v = static_cast<T*>(a.v);
  const double beta1 = a.hyper[1], beta2 = a.hyper[2], eps = a.hyper[3], step = a.hyper[4];
  const bool decoupled = a.hyper[5] != 0;
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const double* segment = a.segments + 4 * s;
    const double rate = a.hyper[0] * segment[2], decay = segment[3];
    if (segment[2] == 0) continue;
    const T step_size = static_cast<T>(rate / (1 - std::pow(beta1, step)));
    const T root = static_cast<T>(std::sqrt(1 - std::pow(beta2, step)));
    for (int64_t i = static_cast<int64_t>(segment[0]); i < static_cast<int64_t>(segment[1]); ++i) {
      T p = param[i], g = grad[i];
      if (decoupled)
        p *= static_cast<T>(1 - rate * decay);
      else
        g += static_cast<T>(decay) * p;
      m[i] += (g - m[i]) * static_cast<T>(1 - beta1);
      v[i] = v[i] * static_cast<T>(beta2) + static_cast<T>(1 - beta2) * g * g;
      param[i] = p - step_size * m[i] / (std::sqrt(v[i]) / root + static_cast<T>(eps));
    }
  }
}

}  // namespace

FASTNN_DEFINE(sgd_step, SgdArgs)
FASTNN_DEFINE(adam_step, AdamArgs)

}  // namespace fastnn::FASTNN_ISA

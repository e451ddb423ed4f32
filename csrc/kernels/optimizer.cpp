// One step over the segments of a flat buffer: g gradient, p parameter, wd weight decay, rate = lr x rate factor.
// Equal to torch.optim's SGD, Adam and AdamW (decoupled), Adagrad and RMSprop step by step.
//
//   all but decoupled   g += wd p
//   sgd       v = momentum v + g;  p -= rate (nesterov ? g + momentum v : v)
//   adam      m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2
//             p -= rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps);  decoupled: first p *= 1 - rate wd
//   adagrad   s += g^2;  p -= rate g / (sqrt(s) + eps)
//   rmsprop   s = alpha s + (1 - alpha) g^2;  d = g / (sqrt(s) + eps);  v = momentum v + d;  p -= rate v (or d)
// One pass, element by element, in chunks: the same bits for any number of threads. Frozen segments are not touched.
#include <cmath>

#include "kernels/elementwise.hpp"
#include "kernels/rows.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// prepare(segment) -> update(i, n) on n lanes from element i on, for each segment that is not frozen.
template <class T, class Args, class Prepare>
FASTNN_INLINE void for_segments(const Args& a, int64_t picoseconds, Prepare&& prepare) {
  for (int64_t s = 0; s < a.n_segments; ++s) {
    const double* segment = a.segments + 4 * s;
    if (segment[2] == 0) continue;
    const int64_t first = static_cast<int64_t>(segment[0]), size = static_cast<int64_t>(segment[1]) - first;
    const auto update = prepare(segment);
    for_chunks(size, picoseconds,
               [&](int64_t begin, int64_t end) { for_vectors<T>(first + begin, first + end, update); });
  }
}

template <class T>
FASTNN_INLINE Vec<T> set(double value) {
  return set1(static_cast<T>(value));
}

template <class T>
void sgd_step_of(const SgdArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *velocity = static_cast<T*>(a.velocity);
  const Vec<T> momentum = set<T>(a.hyper[1]);
  const bool nesterov = a.hyper[2] != 0;
  for_segments<T>(a, 1000, [&](const double* segment) FASTNN_INLINED {
    const Vec<T> rate = set<T>(a.hyper[0] * segment[2]), decay = set<T>(a.hyper[3] * segment[3]);
    return [=](int64_t i, int n) FASTNN_INLINED {
      const Vec<T> p = load_n(param + i, n), g = fma(decay, p, load_n(grad + i, n));
      Vec<T> d = g;
      if (velocity) {
        const Vec<T> v = fma(momentum, load_n(velocity + i, n), g);
        store_n(velocity + i, v, n);
        d = nesterov ? fma(momentum, v, g) : v;
      }
      store_n(param + i, fnma(rate, d, p), n);
    };
  });
}

template <class T>
void adam_step_of(const AdamArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *m = static_cast<T*>(a.m), *v = static_cast<T*>(a.v);
  const double beta1 = a.hyper[1], beta2 = a.hyper[2], t = a.hyper[4];
  const bool decoupled = a.hyper[5] != 0;
  const double correction1 = 1 - std::pow(beta1, t), correction2 = 1 - std::pow(beta2, t);
  const Vec<T> new1 = set<T>(1 - beta1), old2 = set<T>(beta2), new2 = set<T>(1 - beta2), eps = set<T>(a.hyper[3]);
  const Vec<T> unbias = set<T>(1 / std::sqrt(correction2));
  for_segments<T>(a, 2000, [&](const double* segment) FASTNN_INLINED {
    const double rate = a.hyper[0] * segment[2];
    const Vec<T> step = set<T>(rate / correction1), decay = set<T>(segment[3]);
    const Vec<T> keep = set<T>(decoupled ? 1 - rate * segment[3] : 1);
    return [=](int64_t i, int n) FASTNN_INLINED {
      const Vec<T> p = load_n(param + i, n), plain = load_n(grad + i, n);
      const Vec<T> g = decoupled ? plain : fma(decay, p, plain);  // a NaN in p alone is none in the moments
      const Vec<T> m0 = load_n(m + i, n), mi = fma(g - m0, new1, m0);
      const Vec<T> vi = fma(old2, load_n(v + i, n), new2 * g * g);
      store_n(m + i, mi, n);
      store_n(v + i, vi, n);
      store_n(param + i, p * keep - step * mi / fma(sqrt(vi), unbias, eps), n);
    };
  });
}

template <class T>
void adagrad_step_of(const AdagradArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *sum = static_cast<T*>(a.sum);
  const Vec<T> eps = set<T>(a.hyper[1]);
  for_segments<T>(a, 1500, [&](const double* segment) FASTNN_INLINED {
    const Vec<T> rate = set<T>(a.hyper[0] * segment[2]), decay = set<T>(segment[3]);
    return [=](int64_t i, int n) FASTNN_INLINED {
      const Vec<T> p = load_n(param + i, n), g = fma(decay, p, load_n(grad + i, n));
      const Vec<T> s = fma(g, g, load_n(sum + i, n));
      store_n(sum + i, s, n);
      store_n(param + i, p - rate * g / (sqrt(s) + eps), n);
    };
  });
}

template <class T>
void rmsprop_step_of(const RmspropArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *square = static_cast<T*>(a.square), *velocity = static_cast<T*>(a.velocity);
  const Vec<T> old = set<T>(a.hyper[1]), fresh = set<T>(1 - a.hyper[1]), eps = set<T>(a.hyper[2]);
  const Vec<T> momentum = set<T>(a.hyper[3]);
  for_segments<T>(a, 2000, [&](const double* segment) FASTNN_INLINED {
    const Vec<T> rate = set<T>(a.hyper[0] * segment[2]), decay = set<T>(segment[3]);
    return [=](int64_t i, int n) FASTNN_INLINED {
      const Vec<T> p = load_n(param + i, n), g = fma(decay, p, load_n(grad + i, n));
      const Vec<T> s = fma(old, load_n(square + i, n), fresh * g * g);
      store_n(square + i, s, n);
      Vec<T> d = g / (sqrt(s) + eps);
      if (velocity) {
        d = fma(momentum, load_n(velocity + i, n), d);
        store_n(velocity + i, d, n);
      }
      store_n(param + i, fnma(rate, d, p), n);
    };
  });
}

}  // namespace

FASTNN_DEFINE(sgd_step, SgdArgs)
FASTNN_DEFINE(adam_step, AdamArgs)
FASTNN_DEFINE(adagrad_step, AdagradArgs)
FASTNN_DEFINE(rmsprop_step, RmspropArgs)

}  // namespace fastnn::FASTNN_ISA

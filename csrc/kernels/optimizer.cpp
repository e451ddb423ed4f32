// sgd_step, adam_step: one pass over a flat buffer, in place. g gradient, p parameter, v m slots, wd weight decay.
//   SGD    g += wd * p; v = momentum * v + g; p -= lr * rate * (v, nesterov: g + momentum * v; without velocity: g)
//   Adam   g += wd * p, or decoupled (AdamW) p -= lr * rate * wd * p;
//          m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
//          p -= lr * rate / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
// as torch.optim.SGD (without dampening), Adam and AdamW, step by step; within 3 ulp of the update, wherever chunks
// fall. Denormals are flushed: slots of parameters that no longer learn decay into them and would cost 150 cycles each.
#include <cmath>

#include "kernels/kernels.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kChunk = 32768;  // elements of a task

template <class T>
struct Sgd {
  Vec<T> rate, decay, momentum;

  template <bool has_velocity, bool nesterov>
  FASTNN_MEMBER_INLINE void step(Vec<T> g, Vec<T>& p, Vec<T>& v) const {
    g = fma(decay, p, g);
    if constexpr (has_velocity) v = fma(momentum, v, g);
    if constexpr (has_velocity) g = nesterov ? fma(momentum, v, g) : v;
    p = fnma(rate, g, p);
  }
};

template <class T>
struct Adam {
  Vec<T> rate, decay, keep, beta1, rest1, beta2, rest2, scale2, eps;

  // One of decay (into g) and keep (1 - lr * rate * wd, decoupled) is without effect.
  FASTNN_MEMBER_INLINE void step(Vec<T> g, Vec<T>& p, Vec<T>& m, Vec<T>& v) const {
    g = fma(decay, p, g);
    m = fma(beta1, m, rest1 * g);
    v = fma(beta2, v, rest2 * (g * g));
    p = fnma(rate, m / fma(sqrt(v), scale2, eps), p * keep);
  }
};

struct Segment {
  int64_t begin, end;
  double rate, decay;
};
FASTNN_INLINE Segment segment_at(const double* segments, int64_t i) {
  const double* s = segments + 4 * i;
  return {static_cast<int64_t>(s[0]), static_cast<int64_t>(s[1]), s[2], s[3]};
}

// body(segment, begin, end) for each part of a segment that is not frozen, in chunks of the whole buffer.
template <class Body>
FASTNN_INLINE void for_segments(const double* segments, int64_t count, int64_t picoseconds, Body body) {
  int64_t size = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Segment s = segment_at(segments, i);
    if (s.rate != 0.0 && s.end > size) size = s.end;
  }
  const runtime::FlushDenormals flush;
  runtime::parallel_for((size + kChunk - 1) / kChunk, size * picoseconds / 1000, [&](int64_t task) {
    for (int64_t i = 0; i < count; ++i) {
      const Segment s = segment_at(segments, i);
      const int64_t begin = s.begin > task * kChunk ? s.begin : task * kChunk;
      const int64_t end = s.end < (task + 1) * kChunk ? s.end : (task + 1) * kChunk;
      if (s.rate != 0.0 && begin < end) body(s, begin, end);
    }
  });
}

template <class T, bool has_velocity, bool nesterov>
static void sgd_segments(const SgdArgs& a) {
  constexpr int lanes = Vec<T>::lanes;
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *velocity = static_cast<T*>(a.velocity);
  for_segments(a.segments, a.n_segments, 250, [&](const Segment& s, int64_t i, int64_t end) {
    const Sgd<T> sgd{set1(static_cast<T>(a.hyper[0] * s.rate)), set1(static_cast<T>(a.hyper[3] * s.decay)),
                     set1(static_cast<T>(a.hyper[1]))};
    for (; i + lanes <= end; i += lanes) {
      Vec<T> p = load(param + i), v = has_velocity ? load(velocity + i) : p;
      sgd.template step<has_velocity, nesterov>(load(grad + i), p, v);
      if (has_velocity) store(velocity + i, v);
      store(param + i, p);
    }
    if (i < end) {
      const int n = static_cast<int>(end - i);
      Vec<T> p = load_partial(param + i, n), v = has_velocity ? load_partial(velocity + i, n) : p;
      sgd.template step<has_velocity, nesterov>(load_partial(grad + i, n), p, v);
      if (has_velocity) store_partial(velocity + i, v, n);
      store_partial(param + i, p, n);
    }
  });
}

template <class T>
static void sgd_step_of(const SgdArgs& a) {
  if (!a.velocity) return sgd_segments<T, false, false>(a);
  a.hyper[2] != 0.0 ? sgd_segments<T, true, true>(a) : sgd_segments<T, true, false>(a);
}

template <class T>
static void adam_step_of(const AdamArgs& a) {
  constexpr int lanes = Vec<T>::lanes;
  const T* grad = static_cast<const T*>(a.grad);
  T *param = static_cast<T*>(a.param), *slot_m = static_cast<T*>(a.m), *slot_v = static_cast<T*>(a.v);
  const double beta1 = a.hyper[1], beta2 = a.hyper[2];
  const double correction1 = 1.0 - std::pow(beta1, a.hyper[4]), correction2 = 1.0 - std::pow(beta2, a.hyper[4]);
  const bool decoupled = a.hyper[5] != 0.0;
  for_segments(a.segments, a.n_segments, 500, [&](const Segment& s, int64_t i, int64_t end) {
    const auto vec = [](double value) { return set1(static_cast<T>(value)); };
    const double rate = a.hyper[0] * s.rate;
    const Adam<T> adam{vec(rate / correction1),
                       vec(decoupled ? 0.0 : s.decay),
                       vec(decoupled ? 1.0 - rate * s.decay : 1.0),
                       vec(beta1),
                       vec(1.0 - beta1),
                       vec(beta2),
                       vec(1.0 - beta2),
                       vec(1.0 / std::sqrt(correction2)),
                       vec(a.hyper[3])};
    for (; i + lanes <= end; i += lanes) {
      Vec<T> p = load(param + i), m = load(slot_m + i), v = load(slot_v + i);
      adam.step(load(grad + i), p, m, v);
      store(slot_m + i, m);
      store(slot_v + i, v);
      store(param + i, p);
    }
    if (i < end) {
      const int n = static_cast<int>(end - i);
      Vec<T> p = load_partial(param + i, n), m = load_partial(slot_m + i, n), v = load_partial(slot_v + i, n);
      adam.step(load_partial(grad + i, n), p, m, v);
      store_partial(slot_m + i, m, n);
      store_partial(slot_v + i, v, n);
      store_partial(param + i, p, n);
    }
  });
}

}  // namespace

FASTNN_DEFINE(sgd_step, SgdArgs)
FASTNN_DEFINE(adam_step, AdamArgs)

}  // namespace fastnn::FASTNN_ISA

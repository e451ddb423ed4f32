// Sums in float64 of either type: kStep values of T as two vectors of doubles.
#pragma once
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kStep = 2 * Vec<double>::lanes;

FASTNN_INLINE void load2(const float* p, Vec<double>& low, Vec<double>& high) {
  const Vec<float> v = load(p);
  low = widen_low(v);
  high = widen_high(v);
}
FASTNN_INLINE void load2(const double* p, Vec<double>& low, Vec<double>& high) {
  low = load(p);
  high = load(p + Vec<double>::lanes);
}

// Zero where gate is not positive.
FASTNN_INLINE void load2_gated(const float* p, const float* gate, Vec<double>& low, Vec<double>& high) {
  const Vec<float> v = load_masked(p, gt(load(gate), zero<float>()));
  low = widen_low(v);
  high = widen_high(v);
}
FASTNN_INLINE void load2_gated(const double* p, const double* gate, Vec<double>& low, Vec<double>& high) {
  constexpr int lanes = Vec<double>::lanes;
  low = load_masked(p, gt(load(gate), zero<double>()));
  high = load_masked(p + lanes, gt(load(gate + lanes), zero<double>()));
}

// The first n, n < kStep; the others come from low and high.
FASTNN_INLINE void load2_partial(const float* p, int64_t n, Vec<double>& low, Vec<double>& high) {
  const Vec<float> v = load_partial(p, static_cast<int>(n));
  const uint32_t bits = (1u << n) - 1u;
  low = select(mask_from_bits<double>(bits & ((1u << kStep / 2) - 1u)), widen_low(v), low);
  high = select(mask_from_bits<double>(bits >> kStep / 2), widen_high(v), high);
}
FASTNN_INLINE void load2_partial(const double* p, int64_t n, Vec<double>& low, Vec<double>& high) {
  constexpr int lanes = Vec<double>::lanes;
  const uint32_t bits = (1u << n) - 1u;
  const int first = n < lanes ? static_cast<int>(n) : lanes;
  low = select(mask_from_bits<double>(bits & ((1u << lanes) - 1u)), load_partial(p, first), low);
  high = select(mask_from_bits<double>(bits >> lanes), load_partial(p + first, static_cast<int>(n) - first), high);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

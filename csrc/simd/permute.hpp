// Lanes by number: permute(v, lanes) has in lane i the lane lanes[i] of v; each number is below the count of lanes.
#pragma once
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

FASTNN_INLINE Vec<float> permute(Vec<float> a, U32 lane) {
#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
  return {_mm512_permutexvar_ps(lane.v, a.v)};
#elif defined(FASTNN_ISA_AVX2)
  return {_mm256_permutevar8x32_ps(a.v, lane.v)};
#else
  Vec<float> r;
  for (int i = 0; i < 4; ++i) r.v[i] = a.v[lane.v[i]];
  return r;
#endif
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// bfloat16 in memory, float32 in registers: an array of bfloat16 is one of uint16_t, the upper halves of floats.
//
//   load_float(p)                  Vec<float>::lanes floats or bfloat16 from p, by its type
//   store_float(p, v)              the same to p, rounded to nearest even; infinity beyond the largest bfloat16
//   load_float_partial(p, n) store_float_partial(p, v, n)    the first n of them
//   round_bf16(p, to)              32 floats or bfloat16 -> 32 bfloat16
//   store_twice(p, a, b)           store_float of a, then of b behind it
//
// Rounded as VCVTNEPS2BF16 does it: denormals are flushed whatever the thread's state says, a NaN becomes a quiet one.
#pragma once
#include <cstring>

#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

FASTNN_INLINE Vec<float> load_float(const float* p) { return load(p); }
FASTNN_INLINE void store_float(float* p, Vec<float> v) { store(p, v); }
FASTNN_INLINE Vec<float> load_float_partial(const float* p, int n) { return load_partial(p, n); }
FASTNN_INLINE void store_float_partial(float* p, Vec<float> v, int n) { store_partial(p, v, n); }

#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
FASTNN_INLINE Vec<float> load_float(const uint16_t* p) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16))};
}
#elif defined(FASTNN_ISA_AVX2)
FASTNN_INLINE Vec<float> load_float(const uint16_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16))};
}
#else
FASTNN_INLINE Vec<float> load_float(const uint16_t* p) {
  uint32_t wide[Vec<float>::lanes];
  for (int i = 0; i < Vec<float>::lanes; ++i) wide[i] = uint32_t{p[i]} << 16;
  return bit_cast_f32(load_u32(wide));
}
#endif

#if defined(FASTNN_ISA_AMX)
FASTNN_INLINE void store_float(uint16_t* p, Vec<float> v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v.v)));
}
FASTNN_INLINE void store_twice(uint16_t* p, Vec<float> a, Vec<float> b) {
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v)));
}
#else
// The upper halves are the rounded numbers.
FASTNN_INLINE U32 rounded_bf16(Vec<float> v) {
  const U32 bits = bit_cast_u32(v), odd = shift_right<16>(bits) & set1_u32(1);
  const Vec<float> quiet = bit_or(v, bit_cast_f32(set1_u32(0x00400000u)));
  const Vec<float> zeros = bit_and(v, bit_cast_f32(set1_u32(0x80000000u)));
  const Vec<float> rounded = bit_cast_f32(bits + set1_u32(0x7fffu) + odd);
  return bit_cast_u32(select(is_nan(v), quiet, select(lt(abs(v), set1(0x1p-126f)), zeros, rounded)));
}
FASTNN_INLINE void store_float(uint16_t* p, Vec<float> v) {
#if defined(FASTNN_ISA_AVX512)
  const __m512i upper = _mm512_srli_epi32(rounded_bf16(v).v, 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(upper));
#elif defined(FASTNN_ISA_AVX2)
  const __m256i upper = _mm256_srli_epi32(rounded_bf16(v).v, 16);
  const __m128i low = _mm256_castsi256_si128(upper), high = _mm256_extracti128_si256(upper, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
#else
  uint32_t wide[Vec<float>::lanes];
  store_u32(wide, rounded_bf16(v));
  for (int i = 0; i < Vec<float>::lanes; ++i) p[i] = static_cast<uint16_t>(wide[i] >> 16);
#endif
}
FASTNN_INLINE void store_twice(uint16_t* p, Vec<float> a, Vec<float> b) {
  store_float(p, a), store_float(p + Vec<float>::lanes, b);
}
#endif
FASTNN_INLINE void store_twice(float* p, Vec<float> a, Vec<float> b) { store(p, a), store(p + Vec<float>::lanes, b); }

FASTNN_INLINE Vec<float> load_float_partial(const uint16_t* p, int n) {
  uint16_t all[Vec<float>::lanes] = {};
  std::memcpy(all, p, static_cast<size_t>(n) * sizeof(uint16_t));
  return load_float(all);
}
FASTNN_INLINE void store_float_partial(uint16_t* p, Vec<float> v, int n) {
  uint16_t all[Vec<float>::lanes];
  store_float(all, v);
  std::memcpy(p, all, static_cast<size_t>(n) * sizeof(uint16_t));
}

FASTNN_INLINE void round_bf16(const float* from, uint16_t* to) {
  constexpr int lanes = Vec<float>::lanes;
  for (int i = 0; i < 32; i += 2 * lanes) store_twice(to + i, load(from + i), load(from + i + lanes));
}
FASTNN_INLINE void round_bf16(const uint16_t* from, uint16_t* to) {
  for (int i = 0; i < 16; i += U32::lanes)
    store_u32(reinterpret_cast<uint32_t*>(to) + i, load_u32(reinterpret_cast<const uint32_t*>(from) + i));
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

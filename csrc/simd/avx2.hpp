// AVX2 with FMA: 8 floats, 4 doubles. The interface is described in simd.hpp.
#pragma once
#include <immintrin.h>

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
struct Vec;
template <class T>
struct Mask;

template <>
struct Vec<float> {
  static constexpr int lanes = 8;
  __m256 v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 4;
  __m256d v;
};
template <>
struct Mask<float> {
  __m256 m;
};
template <>
struct Mask<double> {
  __m256d m;
};
struct U32 {
  static constexpr int lanes = 8;
  __m256i v;
};

// ---- float ----
FASTNN_INLINE Vec<float> load(const float* p) { return {_mm256_loadu_ps(p)}; }
FASTNN_INLINE void store(float* p, Vec<float> a) { _mm256_storeu_ps(p, a.v); }
FASTNN_INLINE __m256i first_lanes(const float*, int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FASTNN_INLINE Vec<float> load_partial(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes(p, n))}; }
// In halves, because a masked store takes 20-40 cycles on AMD.
FASTNN_INLINE void store_partial(float* p, Vec<float> a, int n) {
  if (n == 8) return store(p, a);
  __m128 part = _mm256_castps256_ps128(a.v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(a.v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
}
FASTNN_INLINE void stream(float* p, Vec<float> a) { _mm256_stream_ps(p, a.v); }
FASTNN_INLINE Vec<float> set1(float s) { return {_mm256_set1_ps(s)}; }
FASTNN_INLINE Vec<float> load1(const float* p) { return {_mm256_broadcast_ss(p)}; }
FASTNN_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm256_sub_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm256_div_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator-(Vec<float> a) { return {-a.v}; }  // the compiler folds it into a fused multiply-add
FASTNN_INLINE Vec<float>& operator+=(Vec<float>& a, Vec<float> b) {
  a = a + b;
  return a;
}
FASTNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm256_min_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> abs(Vec<float> a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
FASTNN_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm256_sqrt_ps(a.v)}; }
FASTNN_INLINE Vec<float> round(Vec<float> a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<float> floor(Vec<float> a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<float> bit_and(Vec<float> a, Vec<float> b) { return {_mm256_and_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_or(Vec<float> a, Vec<float> b) { return {_mm256_or_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_xor(Vec<float> a, Vec<float> b) { return {_mm256_xor_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_andnot(Vec<float> a, Vec<float> b) { return {_mm256_andnot_ps(a.v, b.v)}; }
FASTNN_INLINE Mask<float> lt(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FASTNN_INLINE Mask<float> le(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
FASTNN_INLINE Mask<float> gt(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
FASTNN_INLINE Mask<float> ge(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
FASTNN_INLINE Mask<float> eq(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
FASTNN_INLINE Mask<float> ne(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTNN_INLINE Mask<float> is_nan(Vec<float> a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
FASTNN_INLINE Mask<float> operator&(Mask<float> a, Mask<float> b) { return {_mm256_and_ps(a.m, b.m)}; }
FASTNN_INLINE Mask<float> operator|(Mask<float> a, Mask<float> b) { return {_mm256_or_ps(a.m, b.m)}; }
FASTNN_INLINE Mask<float> operator~(Mask<float> a) {
  return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
FASTNN_INLINE uint32_t bits(Mask<float> a) { return static_cast<uint32_t>(_mm256_movemask_ps(a.m)); }
FASTNN_INLINE bool any(Mask<float> a) { return bits(a) != 0; }
FASTNN_INLINE bool all(Mask<float> a) { return bits(a) == 0xff; }
FASTNN_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }

// ---- double ----
FASTNN_INLINE Vec<double> load(const double* p) { return {_mm256_loadu_pd(p)}; }
FASTNN_INLINE void store(double* p, Vec<double> a) { _mm256_storeu_pd(p, a.v); }
FASTNN_INLINE __m256i first_lanes(const double*, int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
FASTNN_INLINE Vec<double> load_partial(const double* p, int n) { return {_mm256_maskload_pd(p, first_lanes(p, n))}; }
FASTNN_INLINE void store_partial(double* p, Vec<double> a, int n) {
  if (n == 4) return store(p, a);
  __m128d part = _mm256_castpd256_pd128(a.v);
  if (n & 2) {
    _mm_storeu_pd(p, part);
    part = _mm256_extractf128_pd(a.v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, part);
}
FASTNN_INLINE void stream(double* p, Vec<double> a) { _mm256_stream_pd(p, a.v); }
FASTNN_INLINE Vec<double> set1(double s) { return {_mm256_set1_pd(s)}; }
FASTNN_INLINE Vec<double> load1(const double* p) { return {_mm256_broadcast_sd(p)}; }
FASTNN_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm256_add_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm256_sub_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm256_mul_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm256_div_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator-(Vec<double> a) {
  return {-a.v};
}  // the compiler folds it into a fused multiply-add
FASTNN_INLINE Vec<double>& operator+=(Vec<double>& a, Vec<double> b) {
  a = a + b;
  return a;
}
FASTNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm256_fnmadd_pd(a.v, b.v, c.v)};
}
FASTNN_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> abs(Vec<double> a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
FASTNN_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm256_sqrt_pd(a.v)}; }
FASTNN_INLINE Vec<double> round(Vec<double> a) {
  return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<double> floor(Vec<double> a) {
  return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<double> bit_and(Vec<double> a, Vec<double> b) { return {_mm256_and_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_or(Vec<double> a, Vec<double> b) { return {_mm256_or_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_xor(Vec<double> a, Vec<double> b) { return {_mm256_xor_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_andnot(Vec<double> a, Vec<double> b) { return {_mm256_andnot_pd(a.v, b.v)}; }
FASTNN_INLINE Mask<double> lt(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
FASTNN_INLINE Mask<double> le(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
FASTNN_INLINE Mask<double> gt(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
FASTNN_INLINE Mask<double> ge(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
FASTNN_INLINE Mask<double> eq(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
FASTNN_INLINE Mask<double> ne(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTNN_INLINE Mask<double> is_nan(Vec<double> a) { return {_mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q)}; }
FASTNN_INLINE Mask<double> operator&(Mask<double> a, Mask<double> b) { return {_mm256_and_pd(a.m, b.m)}; }
FASTNN_INLINE Mask<double> operator|(Mask<double> a, Mask<double> b) { return {_mm256_or_pd(a.m, b.m)}; }
FASTNN_INLINE Mask<double> operator~(Mask<double> a) {
  return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))};
}
FASTNN_INLINE uint32_t bits(Mask<double> a) { return static_cast<uint32_t>(_mm256_movemask_pd(a.m)); }
FASTNN_INLINE bool any(Mask<double> a) { return bits(a) != 0; }
FASTNN_INLINE bool all(Mask<double> a) { return bits(a) == 0xf; }
FASTNN_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {_mm256_blendv_pd(b.v, a.v, m.m)};
}

// ---- reductions: halves, then pairs ----
FASTNN_INLINE float reduce_add(Vec<float> a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FASTNN_INLINE float reduce_max(Vec<float> a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
FASTNN_INLINE float reduce_min(Vec<float> a) {
  __m128 s = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}
FASTNN_INLINE double reduce_add(Vec<double> a) {
  const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
FASTNN_INLINE double reduce_max(Vec<double> a) {
  const __m128d s = _mm_max_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_max_sd(s, _mm_unpackhi_pd(s, s)));
}
FASTNN_INLINE double reduce_min(Vec<double> a) {
  const __m128d s = _mm_min_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_min_sd(s, _mm_unpackhi_pd(s, s)));
}

// ---- exponents: v * 2^e in two steps, since one exponent field holds half the range of e ----
FASTNN_INLINE Vec<float> power2(__m256i e) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23))};
}
FASTNN_INLINE Vec<double> power2(__m128i e) {
  const __m256i wide = _mm256_cvtepi32_epi64(_mm_add_epi32(e, _mm_set1_epi32(1023)));
  return {_mm256_castsi256_pd(_mm256_slli_epi64(wide, 52))};
}
FASTNN_INLINE Vec<float> power2(Vec<float> e) { return power2(_mm256_cvtps_epi32(e.v)); }
FASTNN_INLINE Vec<double> power2(Vec<double> e) { return power2(_mm256_cvtpd_epi32(e.v)); }
FASTNN_INLINE Vec<float> scale2(Vec<float> a, Vec<float> e) {
  const __m256i n = _mm256_cvtps_epi32(e.v), half = _mm256_srai_epi32(n, 1);
  return a * power2(half) * power2(_mm256_sub_epi32(n, half));
}
FASTNN_INLINE Vec<double> scale2(Vec<double> a, Vec<double> e) {
  const __m128i n = _mm256_cvtpd_epi32(e.v), half = _mm_srai_epi32(n, 1);
  return a * power2(half) * power2(_mm_sub_epi32(n, half));
}

// ---- quotients: a division takes 5-8 cycles here, as fast as an estimate with enough Newton steps ----
template <class T>
FASTNN_INLINE Vec<T> reciprocal(Vec<T> a) {
  return set1(static_cast<T>(1)) / a;
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b) {
  return a / b;
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b, Vec<T> b_low) {
  const Vec<T> y = reciprocal(b), q = a * y;
  return fma(fnma(q, b_low, fnma(q, b, a)), y, q);
}
template <class T>
FASTNN_INLINE Vec<T> divide_parts(Vec<T> a, Vec<T> b, Vec<T> b_low, Vec<T>& low) {
  const Vec<T> y = reciprocal(b), q = a * y;
  low = fnma(q, b_low, fnma(q, b, a)) * y;
  return q;
}

template <class T>
constexpr bool kHasLookup = false;

// ---- by template, for code that is written once for both types ----
template <class T>
FASTNN_INLINE Vec<T> zero() {
  return set1(T(0));
}
template <class T>
FASTNN_INLINE Vec<T> mul_error(Vec<T> a, Vec<T> b, Vec<T> product) {
  return fma(a, b, -product);  // -fnma(a, b, product) would make -0 of an exact product
}
template <class T>
FASTNN_INLINE Mask<T> mask_from_bits(uint32_t bits);
template <>
[[maybe_unused]] inline __attribute__((always_inline)) Mask<float> mask_from_bits<float>(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i hit = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(hit, lane))};
}
template <>
[[maybe_unused]] inline __attribute__((always_inline)) Mask<double> mask_from_bits<double>(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
  const __m256i hit = _mm256_and_si256(_mm256_set1_epi64x(bits), lane);
  return {_mm256_castsi256_pd(_mm256_cmpeq_epi64(hit, lane))};
}

// v > best, or v is NaN and best is not: what a maximum that keeps its first NaN takes
FASTNN_INLINE Mask<float> beats(Vec<float> v, Vec<float> best) {
  return {_mm256_and_ps(_mm256_cmp_ps(v.v, best.v, _CMP_NLE_UQ), _mm256_cmp_ps(best.v, best.v, _CMP_ORD_Q))};
}
FASTNN_INLINE Mask<double> beats(Vec<double> v, Vec<double> best) {
  return {_mm256_and_pd(_mm256_cmp_pd(v.v, best.v, _CMP_NLE_UQ), _mm256_cmp_pd(best.v, best.v, _CMP_ORD_Q))};
}

// ---- unsigned 32-bit lanes ----
FASTNN_INLINE U32 set1_u32(uint32_t s) { return {_mm256_set1_epi32(static_cast<int>(s))}; }
FASTNN_INLINE U32 load_u32(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
FASTNN_INLINE void store_u32(uint32_t* p, U32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
FASTNN_INLINE U32 operator+(U32 a, U32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
FASTNN_INLINE U32 operator-(U32 a, U32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
FASTNN_INLINE U32 operator^(U32 a, U32 b) { return {_mm256_xor_si256(a.v, b.v)}; }
FASTNN_INLINE U32 operator&(U32 a, U32 b) { return {_mm256_and_si256(a.v, b.v)}; }
FASTNN_INLINE U32 operator|(U32 a, U32 b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int n>
FASTNN_INLINE U32 shift_left(U32 a) {
  return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
FASTNN_INLINE U32 shift_right(U32 a) {
  return {_mm256_srli_epi32(a.v, n)};
}
// low and high 32 bits of the 64-bit products
FASTNN_INLINE void mul_wide(U32 a, U32 b, U32& low, U32& high) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32));
  low.v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high.v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
// bit i is set when lane i of a is >= lane i of b, unsigned
FASTNN_INLINE uint32_t bits_ge(U32 a, U32 b) {
  const __m256i ge = _mm256_cmpeq_epi32(_mm256_max_epu32(a.v, b.v), a.v);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(ge)));
}
FASTNN_INLINE U32 bit_cast_u32(Vec<float> a) { return {_mm256_castps_si256(a.v)}; }
FASTNN_INLINE Vec<float> bit_cast_f32(U32 a) { return {_mm256_castsi256_ps(a.v)}; }
FASTNN_INLINE U32 to_u32(Vec<float> a) { return {_mm256_cvtps_epi32(a.v)}; }    // signed, to nearest
FASTNN_INLINE Vec<float> from_u32(U32 a) { return {_mm256_cvtepi32_ps(a.v)}; }  // signed

// 64-bit products of lanes 0, 2, 4 ...: the low half in that lane, the high half in the next
FASTNN_INLINE U32 mul_even(U32 a, U32 b) { return {_mm256_mul_epu32(a.v, b.v)}; }
FASTNN_INLINE U32 odd_to_even(U32 a) { return {_mm256_shuffle_epi32(a.v, 0xf5)}; }  // lane 2i is lane 2i + 1
FASTNN_INLINE U32 zip_even(U32 a, U32 b) {  // lane 2i is lane 2i of a, lane 2i + 1 is lane 2i of b
  return {_mm256_blend_epi32(a.v, _mm256_slli_epi64(b.v, 32), 0xaa)};
}
FASTNN_INLINE U32 xor3(U32 a, U32 b, U32 c) { return a ^ b ^ c; }
// acc | (a >= b ? bit : 0), unsigned, per 32-bit lane or per 16-bit half of a lane; bit is not yet set in acc
FASTNN_INLINE U32 or_where_ge(U32 acc, U32 a, U32 b, U32 bit) {
  return {_mm256_or_si256(acc.v, _mm256_and_si256(bit.v, _mm256_cmpeq_epi32(_mm256_max_epu32(a.v, b.v), a.v)))};
}
FASTNN_INLINE U32 or_where_ge16(U32 acc, U32 a, U32 b, U32 bit) {
  return {_mm256_or_si256(acc.v, _mm256_and_si256(bit.v, _mm256_cmpeq_epi16(_mm256_max_epu16(a.v, b.v), a.v)))};
}
FASTNN_INLINE void store_even(uint8_t* p, U32 a) {  // lanes 0, 2, 4 ... one after another
  const __m256i even = _mm256_permutevar8x32_epi32(a.v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(even));
}
FASTNN_INLINE U32 bit_cast_u32(Vec<double> a) { return {_mm256_castpd_si256(a.v)}; }
FASTNN_INLINE Vec<double> bit_cast_f64(U32 a) { return {_mm256_castsi256_pd(a.v)}; }

// ---- float <-> double ----
FASTNN_INLINE Vec<double> widen_low(Vec<float> a) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))}; }
FASTNN_INLINE Vec<double> widen_high(Vec<float> a) { return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))}; }
FASTNN_INLINE Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(high.v), _mm256_cvtpd_ps(low.v))};
}

// ---- moving lanes ----
FASTNN_INLINE Vec<float> load_masked(const float* p, Mask<float> m) {
  return {_mm256_maskload_ps(p, _mm256_castps_si256(m.m))};
}
FASTNN_INLINE Vec<double> load_masked(const double* p, Mask<double> m) {
  return {_mm256_maskload_pd(p, _mm256_castpd_si256(m.m))};
}
FASTNN_INLINE Vec<float> even_lanes(Vec<float> a, Vec<float> b) {
  const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8))};
}
FASTNN_INLINE Vec<double> even_lanes(Vec<double> a, Vec<double> b) {
  return {_mm256_permute4x64_pd(_mm256_unpacklo_pd(a.v, b.v), 0xd8)};
}
FASTNN_INLINE Vec<float> odd_lanes(Vec<float> a, Vec<float> b) {
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0xdd)), 0xd8))};
}
FASTNN_INLINE Vec<double> odd_lanes(Vec<double> a, Vec<double> b) {
  return {_mm256_permute4x64_pd(_mm256_unpackhi_pd(a.v, b.v), 0xd8)};
}
FASTNN_INLINE void interleave(Vec<float> even, Vec<float> odd, Vec<float>& a, Vec<float>& b) {
  const __m256 low = _mm256_unpacklo_ps(even.v, odd.v), high = _mm256_unpackhi_ps(even.v, odd.v);
  a = {_mm256_permute2f128_ps(low, high, 0x20)};
  b = {_mm256_permute2f128_ps(low, high, 0x31)};
}
FASTNN_INLINE void interleave(Vec<double> even, Vec<double> odd, Vec<double>& a, Vec<double>& b) {
  const __m256d low = _mm256_unpacklo_pd(even.v, odd.v), high = _mm256_unpackhi_pd(even.v, odd.v);
  a = {_mm256_permute2f128_pd(low, high, 0x20)};
  b = {_mm256_permute2f128_pd(low, high, 0x31)};
}
// one byte a lane; the lanes hold whole numbers in [0, 255]
FASTNN_INLINE void store_bytes(uint8_t* p, Vec<float> a) {
  const __m256i lanes = _mm256_cvtps_epi32(a.v);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
FASTNN_INLINE void store_bytes(uint8_t* p, Vec<double> a) {
  const __m128i lanes = _mm256_cvtpd_epi32(a.v);
  _mm_storeu_si32(p, _mm_shuffle_epi8(lanes, _mm_setr_epi8(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)));
}
template <class T>
FASTNN_INLINE Vec<T> load_bytes(const uint8_t* p) {
  if constexpr (sizeof(T) == 4)
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  else
    return {_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_loadu_si32(p)))};
}
// Halves of a register come from rows 4 (2 for double) apart, so that one exchange inside the halves is all.
FASTNN_INLINE __m256 load_halves(const float* p, int64_t ld) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + ld), 1);
}
FASTNN_INLINE __m256d load_halves(const double* p, int64_t ld) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(p + ld), 1);
}
FASTNN_INLINE __m256 load_halves(const float* const* rows, int64_t offset) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[0] + offset)), _mm_loadu_ps(rows[4] + offset),
                              1);
}
FASTNN_INLINE void turn_halves(__m256 r0, __m256 r1, __m256 r2, __m256 r3, Vec<float>* r) {
  const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));
  const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
  const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
  const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
  r[0] = {_mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23))};
  r[1] = {_mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23))};
  r[2] = {_mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23))};
  r[3] = {_mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23))};
}
FASTNN_INLINE void turn_four(const float* const* rows, int64_t offset, Vec<float>* r) {
  turn_halves(load_halves(rows, offset), load_halves(rows + 1, offset), load_halves(rows + 2, offset),
              load_halves(rows + 3, offset), r);
}
FASTNN_INLINE void transpose(const float* x, int64_t ldx, float* y, int64_t ldy) {
  for (int j = 0; j < 8; j += 4, x += 4) {
    Vec<float> r[4];
    turn_halves(load_halves(x, 4 * ldx), load_halves(x + ldx, 4 * ldx), load_halves(x + 2 * ldx, 4 * ldx),
                load_halves(x + 3 * ldx, 4 * ldx), r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store(y + (j + i) * ldy, r[i]);
  }
}
FASTNN_INLINE void transpose(const double* x, int64_t ldx, double* y, int64_t ldy) {
  for (int j = 0; j < 4; j += 2, x += 2, y += 2 * ldy) {
    const __m256d r0 = load_halves(x, 2 * ldx), r1 = load_halves(x + ldx, 2 * ldx);
    _mm256_storeu_pd(y, _mm256_unpacklo_pd(r0, r1));
    _mm256_storeu_pd(y + ldy, _mm256_unpackhi_pd(r0, r1));
  }
}
FASTNN_INLINE Vec<float> opaque(Vec<float> a) {
  __asm__("" : "+x"(a.v));
  return a;
}
FASTNN_INLINE Vec<double> opaque(Vec<double> a) {
  __asm__("" : "+x"(a.v));
  return a;
}

FASTNN_INLINE void stream_fence() { _mm_sfence(); }
FASTNN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
FASTNN_INLINE void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace fastnn::FASTNN_ISA

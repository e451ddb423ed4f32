// AVX-512 (F, BW, DQ, VL): 16 floats, 8 doubles. The interface is described in simd.hpp.
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
  static constexpr int lanes = 16;
  __m512 v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 8;
  __m512d v;
};
template <>
struct Mask<float> {
  __mmask16 m;
};
template <>
struct Mask<double> {
  __mmask8 m;
};
struct U32 {
  static constexpr int lanes = 16;
  __m512i v;
};

// ---- float ----
FASTNN_INLINE Vec<float> load(const float* p) { return {_mm512_loadu_ps(p)}; }
FASTNN_INLINE void store(float* p, Vec<float> a) { _mm512_storeu_ps(p, a.v); }
FASTNN_INLINE __mmask16 first_lanes(const float*, int n) { return static_cast<__mmask16>((1u << n) - 1u); }
FASTNN_INLINE Vec<float> load_partial(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(p, n), p)}; }
FASTNN_INLINE void store_partial(float* p, Vec<float> a, int n) { _mm512_mask_storeu_ps(p, first_lanes(p, n), a.v); }
FASTNN_INLINE void stream(float* p, Vec<float> a) { _mm512_stream_ps(p, a.v); }
FASTNN_INLINE Vec<float> set1(float s) { return {_mm512_set1_ps(s)}; }
FASTNN_INLINE Vec<float> load1(const float* p) { return {_mm512_set1_ps(*p)}; }
FASTNN_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm512_div_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> operator-(Vec<float> a) { return {-a.v}; }  // the compiler folds it into a fused multiply-add
FASTNN_INLINE Vec<float>& operator+=(Vec<float>& a, Vec<float> b) {
  a = a + b;
  return a;
}
FASTNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_max_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_min_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> abs(Vec<float> a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
FASTNN_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm512_sqrt_ps(a.v)}; }
FASTNN_INLINE Vec<float> round(Vec<float> a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<float> floor(Vec<float> a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<float> bit_and(Vec<float> a, Vec<float> b) { return {_mm512_and_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_or(Vec<float> a, Vec<float> b) { return {_mm512_or_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_xor(Vec<float> a, Vec<float> b) { return {_mm512_xor_ps(a.v, b.v)}; }
FASTNN_INLINE Vec<float> bit_andnot(Vec<float> a, Vec<float> b) { return {_mm512_andnot_ps(a.v, b.v)}; }
FASTNN_INLINE Mask<float> lt(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTNN_INLINE Mask<float> le(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
FASTNN_INLINE Mask<float> gt(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
FASTNN_INLINE Mask<float> ge(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
FASTNN_INLINE Mask<float> eq(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FASTNN_INLINE Mask<float> ne(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTNN_INLINE Mask<float> is_nan(Vec<float> a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FASTNN_INLINE Mask<float> operator&(Mask<float> a, Mask<float> b) { return {static_cast<__mmask16>(a.m & b.m)}; }
FASTNN_INLINE Mask<float> operator|(Mask<float> a, Mask<float> b) { return {static_cast<__mmask16>(a.m | b.m)}; }
FASTNN_INLINE Mask<float> operator~(Mask<float> a) { return {static_cast<__mmask16>(~a.m)}; }
FASTNN_INLINE bool any(Mask<float> a) { return a.m != 0; }
FASTNN_INLINE bool all(Mask<float> a) { return a.m == 0xffff; }
FASTNN_INLINE uint32_t bits(Mask<float> a) { return a.m; }
FASTNN_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) {
  return {_mm512_mask_blend_ps(m.m, b.v, a.v)};
}
FASTNN_INLINE float reduce_add(Vec<float> a) { return _mm512_reduce_add_ps(a.v); }
FASTNN_INLINE float reduce_max(Vec<float> a) { return _mm512_reduce_max_ps(a.v); }
FASTNN_INLINE float reduce_min(Vec<float> a) { return _mm512_reduce_min_ps(a.v); }

// ---- double ----
FASTNN_INLINE Vec<double> load(const double* p) { return {_mm512_loadu_pd(p)}; }
FASTNN_INLINE void store(double* p, Vec<double> a) { _mm512_storeu_pd(p, a.v); }
FASTNN_INLINE __mmask8 first_lanes(const double*, int n) { return static_cast<__mmask8>((1u << n) - 1u); }
FASTNN_INLINE Vec<double> load_partial(const double* p, int n) { return {_mm512_maskz_loadu_pd(first_lanes(p, n), p)}; }
FASTNN_INLINE void store_partial(double* p, Vec<double> a, int n) { _mm512_mask_storeu_pd(p, first_lanes(p, n), a.v); }
FASTNN_INLINE void stream(double* p, Vec<double> a) { _mm512_stream_pd(p, a.v); }
FASTNN_INLINE Vec<double> set1(double s) { return {_mm512_set1_pd(s)}; }
FASTNN_INLINE Vec<double> load1(const double* p) { return {_mm512_set1_pd(*p)}; }
FASTNN_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm512_div_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> operator-(Vec<double> a) {
  return {-a.v};
}  // the compiler folds it into a fused multiply-add
FASTNN_INLINE Vec<double>& operator+=(Vec<double>& a, Vec<double> b) {
  a = a + b;
  return a;
}
FASTNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
FASTNN_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fnmadd_pd(a.v, b.v, c.v)};
}
FASTNN_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> abs(Vec<double> a) { return {_mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v)}; }
FASTNN_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm512_sqrt_pd(a.v)}; }
FASTNN_INLINE Vec<double> round(Vec<double> a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<double> floor(Vec<double> a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
FASTNN_INLINE Vec<double> bit_and(Vec<double> a, Vec<double> b) { return {_mm512_and_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_or(Vec<double> a, Vec<double> b) { return {_mm512_or_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_xor(Vec<double> a, Vec<double> b) { return {_mm512_xor_pd(a.v, b.v)}; }
FASTNN_INLINE Vec<double> bit_andnot(Vec<double> a, Vec<double> b) { return {_mm512_andnot_pd(a.v, b.v)}; }
FASTNN_INLINE Mask<double> lt(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTNN_INLINE Mask<double> le(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
FASTNN_INLINE Mask<double> gt(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
FASTNN_INLINE Mask<double> ge(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
FASTNN_INLINE Mask<double> eq(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FASTNN_INLINE Mask<double> ne(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTNN_INLINE Mask<double> is_nan(Vec<double> a) { return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FASTNN_INLINE Mask<double> operator&(Mask<double> a, Mask<double> b) { return {static_cast<__mmask8>(a.m & b.m)}; }
FASTNN_INLINE Mask<double> operator|(Mask<double> a, Mask<double> b) { return {static_cast<__mmask8>(a.m | b.m)}; }
FASTNN_INLINE Mask<double> operator~(Mask<double> a) { return {static_cast<__mmask8>(~a.m)}; }
FASTNN_INLINE bool any(Mask<double> a) { return a.m != 0; }
FASTNN_INLINE bool all(Mask<double> a) { return a.m == 0xff; }
FASTNN_INLINE uint32_t bits(Mask<double> a) { return a.m; }
FASTNN_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {_mm512_mask_blend_pd(m.m, b.v, a.v)};
}
FASTNN_INLINE double reduce_add(Vec<double> a) { return _mm512_reduce_add_pd(a.v); }
FASTNN_INLINE double reduce_max(Vec<double> a) { return _mm512_reduce_max_pd(a.v); }
FASTNN_INLINE double reduce_min(Vec<double> a) { return _mm512_reduce_min_pd(a.v); }

// ---- exponents: the processor has instructions for them; range and domains are in simd.hpp ----
FASTNN_INLINE Vec<float> scale2(Vec<float> a, Vec<float> e) { return {_mm512_scalef_ps(a.v, e.v)}; }
FASTNN_INLINE Vec<double> scale2(Vec<double> a, Vec<double> e) { return {_mm512_scalef_pd(a.v, e.v)}; }
FASTNN_INLINE Vec<float> power2(Vec<float> e) { return {_mm512_scalef_ps(_mm512_set1_ps(1.0f), e.v)}; }
FASTNN_INLINE Vec<double> power2(Vec<double> e) { return {_mm512_scalef_pd(_mm512_set1_pd(1.0), e.v)}; }

// ---- quotients: an estimate of 14 bits and Newton steps, where a division takes 10-24 cycles ----
FASTNN_INLINE Vec<float> half_reciprocal(Vec<float> a) { return {_mm512_rcp14_ps(a.v)}; }  // to half the precision
FASTNN_INLINE Vec<double> half_reciprocal(Vec<double> a) {
  const Vec<double> y{_mm512_rcp14_pd(a.v)};
  return fma(y, min(fnma(a, y, set1(1.0)), set1(1.0)), y);
}
template <class T>
FASTNN_INLINE Vec<T> reciprocal(Vec<T> a) {
  const Vec<T> one = set1(static_cast<T>(1)), y = half_reciprocal(a);
  return fma(y, min(fnma(a, y, one), one), y);  // min: 0 and inf leave NaN there
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b) {
  const Vec<T> y = half_reciprocal(b), q = a * y;
  return fma(fnma(q, b, a), y, q);
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b, Vec<T> b_low) {
  const Vec<T> y = half_reciprocal(b), q = a * y;
  return fma(fnma(q, b_low, fnma(q, b, a)), y, q);
}
template <class T>
FASTNN_INLINE Vec<T> divide_parts(Vec<T> a, Vec<T> b, Vec<T> b_low, Vec<T>& low) {
  const Vec<T> y = half_reciprocal(b), q = a * y;
  low = fnma(q, b_low, fnma(q, b, a)) * y;
  return q;
}

// ---- tables of 32 floats, in two registers ----
template <class T>
constexpr bool kHasLookup = sizeof(T) == 4;
FASTNN_INLINE Vec<float> lookup(const float* table, Vec<float> k) {
  return {_mm512_permutex2var_ps(_mm512_loadu_ps(table), _mm512_castps_si512(k.v), _mm512_loadu_ps(table + 16))};
}

// ---- by template, for code that is written once for both types ----
template <class T>
FASTNN_INLINE Vec<T> mul_error(Vec<T> a, Vec<T> b, Vec<T> product) {
  return fma(a, b, -product);  // -fnma(a, b, product) would make -0 of an exact product
}
template <class T>
FASTNN_INLINE Vec<T> zero() {
  return set1(T(0));
}
template <class T>
FASTNN_INLINE Mask<T> mask_from_bits(uint32_t bits) {
  return {static_cast<decltype(Mask<T>::m)>(bits)};
}

// v > best, or v is NaN and best is not: what a maximum that keeps its first NaN takes
FASTNN_INLINE Mask<float> beats(Vec<float> v, Vec<float> best) {
  return {_mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(best.v, best.v, _CMP_ORD_Q), v.v, best.v, _CMP_NLE_UQ)};
}
FASTNN_INLINE Mask<double> beats(Vec<double> v, Vec<double> best) {
  return {_mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(best.v, best.v, _CMP_ORD_Q), v.v, best.v, _CMP_NLE_UQ)};
}

// ---- unsigned 32-bit lanes ----
FASTNN_INLINE U32 set1_u32(uint32_t s) { return {_mm512_set1_epi32(static_cast<int>(s))}; }
FASTNN_INLINE U32 load_u32(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
FASTNN_INLINE void store_u32(uint32_t* p, U32 a) { _mm512_storeu_si512(p, a.v); }
FASTNN_INLINE U32 operator+(U32 a, U32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
FASTNN_INLINE U32 operator-(U32 a, U32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
FASTNN_INLINE U32 operator^(U32 a, U32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
FASTNN_INLINE U32 operator&(U32 a, U32 b) { return {_mm512_and_si512(a.v, b.v)}; }
FASTNN_INLINE U32 operator|(U32 a, U32 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
FASTNN_INLINE U32 shift_left(U32 a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
FASTNN_INLINE U32 shift_right(U32 a) {
  return {_mm512_srli_epi32(a.v, n)};
}
// low and high 32 bits of the 64-bit products
FASTNN_INLINE void mul_wide(U32 a, U32 b, U32& low, U32& high) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  low.v = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  high.v = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
// bit i is set when lane i of a is >= lane i of b, unsigned
FASTNN_INLINE uint32_t bits_ge(U32 a, U32 b) { return _mm512_cmpge_epu32_mask(a.v, b.v); }
FASTNN_INLINE U32 bit_cast_u32(Vec<float> a) { return {_mm512_castps_si512(a.v)}; }
FASTNN_INLINE Vec<float> bit_cast_f32(U32 a) { return {_mm512_castsi512_ps(a.v)}; }
FASTNN_INLINE U32 to_u32(Vec<float> a) { return {_mm512_cvtps_epi32(a.v)}; }    // signed, to nearest
FASTNN_INLINE Vec<float> from_u32(U32 a) { return {_mm512_cvtepi32_ps(a.v)}; }  // signed

// 64-bit products of lanes 0, 2, 4 ...: the low half in that lane, the high half in the next
FASTNN_INLINE U32 mul_even(U32 a, U32 b) { return {_mm512_mul_epu32(a.v, b.v)}; }
FASTNN_INLINE U32 odd_to_even(U32 a) { return {_mm512_shuffle_epi32(a.v, _MM_PERM_DDBB)}; }  // lane 2i is lane 2i + 1
FASTNN_INLINE U32 zip_even(U32 a, U32 b) {  // lane 2i is lane 2i of a, lane 2i + 1 is lane 2i of b
  return {_mm512_mask_shuffle_epi32(a.v, 0xaaaa, b.v, _MM_PERM_CCAA)};
}
FASTNN_INLINE U32 xor3(U32 a, U32 b, U32 c) { return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96)}; }
// acc | (a >= b ? bit : 0), unsigned, per 32-bit lane or per 16-bit half of a lane; bit is not yet set in acc
FASTNN_INLINE U32 or_where_ge(U32 acc, U32 a, U32 b, U32 bit) {
  return {_mm512_mask_or_epi32(acc.v, _mm512_cmpge_epu32_mask(a.v, b.v), acc.v, bit.v)};
}
FASTNN_INLINE U32 or_where_ge16(U32 acc, U32 a, U32 b, U32 bit) {
  return {_mm512_mask_add_epi16(acc.v, _mm512_cmpge_epu16_mask(a.v, b.v), acc.v, bit.v)};
}
FASTNN_INLINE void store_even(uint8_t* p, U32 a) {  // lanes 0, 2, 4 ... one after another
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(a.v));
}
FASTNN_INLINE U32 bit_cast_u32(Vec<double> a) { return {_mm512_castpd_si512(a.v)}; }
FASTNN_INLINE Vec<double> bit_cast_f64(U32 a) { return {_mm512_castsi512_pd(a.v)}; }

// ---- float <-> double ----
FASTNN_INLINE Vec<double> widen_low(Vec<float> a) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}; }
FASTNN_INLINE Vec<double> widen_high(Vec<float> a) { return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))}; }
FASTNN_INLINE Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.v)), _mm512_cvtpd_ps(high.v), 1)};
}

// ---- moving lanes ----
FASTNN_INLINE Vec<float> load_masked(const float* p, Mask<float> m) { return {_mm512_maskz_loadu_ps(m.m, p)}; }
FASTNN_INLINE Vec<double> load_masked(const double* p, Mask<double> m) { return {_mm512_maskz_loadu_pd(m.m, p)}; }
FASTNN_INLINE Vec<float> even_lanes(Vec<float> a, Vec<float> b) {
  const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(a.v, index, b.v)};
}
FASTNN_INLINE Vec<double> even_lanes(Vec<double> a, Vec<double> b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b.v)};
}
FASTNN_INLINE Vec<float> odd_lanes(Vec<float> a, Vec<float> b) {
  const __m512i index = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(a.v, index, b.v)};
}
FASTNN_INLINE Vec<double> odd_lanes(Vec<double> a, Vec<double> b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), b.v)};
}
FASTNN_INLINE void interleave(Vec<float> even, Vec<float> odd, Vec<float>& a, Vec<float>& b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  a = {_mm512_permutex2var_ps(even.v, low, odd.v)};
  b = {_mm512_permutex2var_ps(even.v, high, odd.v)};
}
FASTNN_INLINE void interleave(Vec<double> even, Vec<double> odd, Vec<double>& a, Vec<double>& b) {
  a = {_mm512_permutex2var_pd(even.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), odd.v)};
  b = {_mm512_permutex2var_pd(even.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), odd.v)};
}
// one byte a lane; the lanes hold whole numbers in [0, 255]
FASTNN_INLINE void store_bytes(uint8_t* p, Vec<float> a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
FASTNN_INLINE void store_bytes(uint8_t* p, Vec<double> a) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_cvtepi32_epi8(_mm512_cvtpd_epi32(a.v)));
}
template <class T>
FASTNN_INLINE Vec<T> load_bytes(const uint8_t* p) {
  if constexpr (sizeof(T) == 4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
  } else {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(bytes))};
  }
}
// Quarters of a register come from rows 4 (2 for double) apart, so that one exchange inside the quarters is all.
FASTNN_INLINE __m512 load_quarters(const float* p, int64_t ld) {
  __m512 r = _mm512_castps128_ps512(_mm_loadu_ps(p));
  r = _mm512_insertf32x4(r, _mm_loadu_ps(p + ld), 1);
  r = _mm512_insertf32x4(r, _mm_loadu_ps(p + 2 * ld), 2);
  return _mm512_insertf32x4(r, _mm_loadu_ps(p + 3 * ld), 3);
}
FASTNN_INLINE __m512d load_quarters(const double* p, int64_t ld) {
  __m512d r = _mm512_castpd128_pd512(_mm_loadu_pd(p));
  r = _mm512_insertf64x2(r, _mm_loadu_pd(p + ld), 1);
  r = _mm512_insertf64x2(r, _mm_loadu_pd(p + 2 * ld), 2);
  return _mm512_insertf64x2(r, _mm_loadu_pd(p + 3 * ld), 3);
}
FASTNN_INLINE __m512 load_quarters(const float* const* rows, int64_t offset) {
  __m512 r = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + offset));
  r = _mm512_insertf32x4(r, _mm_loadu_ps(rows[4] + offset), 1);
  r = _mm512_insertf32x4(r, _mm_loadu_ps(rows[8] + offset), 2);
  return _mm512_insertf32x4(r, _mm_loadu_ps(rows[12] + offset), 3);
}
FASTNN_INLINE void turn_quarters(__m512 r0, __m512 r1, __m512 r2, __m512 r3, Vec<float>* r) {
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
  r[0] = {_mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23))};
  r[1] = {_mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23))};
  r[2] = {_mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23))};
  r[3] = {_mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23))};
}
FASTNN_INLINE void turn_four(const float* const* rows, int64_t offset, Vec<float>* r) {
  turn_quarters(load_quarters(rows, offset), load_quarters(rows + 1, offset), load_quarters(rows + 2, offset),
                load_quarters(rows + 3, offset), r);
}
FASTNN_INLINE void transpose(const float* x, int64_t ldx, float* y, int64_t ldy) {
  for (int j = 0; j < 16; j += 4, x += 4) {
    Vec<float> r[4];
    turn_quarters(load_quarters(x, 4 * ldx), load_quarters(x + ldx, 4 * ldx), load_quarters(x + 2 * ldx, 4 * ldx),
                  load_quarters(x + 3 * ldx, 4 * ldx), r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store(y + (j + i) * ldy, r[i]);
  }
}
FASTNN_INLINE void transpose(const double* x, int64_t ldx, double* y, int64_t ldy) {
  for (int j = 0; j < 8; j += 2, x += 2, y += 2 * ldy) {
    const __m512d r0 = load_quarters(x, 2 * ldx), r1 = load_quarters(x + ldx, 2 * ldx);
    _mm512_storeu_pd(y, _mm512_unpacklo_pd(r0, r1));
    _mm512_storeu_pd(y + ldy, _mm512_unpackhi_pd(r0, r1));
  }
}
FASTNN_INLINE Vec<float> opaque(Vec<float> a) {
  __asm__("" : "+v"(a.v));
  return a;
}
FASTNN_INLINE Vec<double> opaque(Vec<double> a) {
  __asm__("" : "+v"(a.v));
  return a;
}

FASTNN_INLINE void stream_fence() { _mm_sfence(); }
FASTNN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
FASTNN_INLINE void prefetch_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace fastnn::FASTNN_ISA

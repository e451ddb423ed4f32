// The portable set: vectors of 16 bytes in the compiler's own vector extension, which every target lowers to what it
// has (SSE2, NEON, or plain scalar code). The interface is described in simd.hpp. There is no fused multiply-add here.
#pragma once
#include <cmath>
#include <cstring>

namespace fastnn::FASTNN_ISA {
namespace {

typedef float f32x4 __attribute__((vector_size(16)));
typedef double f64x2 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int64_t i64x2 __attribute__((vector_size(16)));

template <class T>
struct Vec;
template <class T>
struct Mask;

template <>
struct Vec<float> {
  static constexpr int lanes = 4;
  using Int = i32x4;
  f32x4 v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 2;
  using Int = i64x2;
  f64x2 v;
};
template <>
struct Mask<float> {
  i32x4 m;
};
template <>
struct Mask<double> {
  i64x2 m;
};
struct U32 {
  static constexpr int lanes = 4;
  u32x4 v;
};

// ---- float and double, written once ----
FASTNN_INLINE Vec<float> set1(float s) { return {f32x4{s, s, s, s}}; }
FASTNN_INLINE Vec<double> set1(double s) { return {f64x2{s, s}}; }
template <class T>
FASTNN_INLINE Vec<T> zero() {
  return set1(T(0));
}
template <class T>
FASTNN_INLINE Vec<T> load(const T* p) {
  Vec<T> r;
  std::memcpy(&r.v, p, sizeof r.v);
  return r;
}
template <class T>
FASTNN_INLINE void store(T* p, Vec<T> a) {
  std::memcpy(p, &a.v, sizeof a.v);
}
template <class T>
FASTNN_INLINE Vec<T> load_partial(const T* p, int n) {
  Vec<T> r = zero<T>();
  for (int i = 0; i < n; ++i) r.v[i] = p[i];
  return r;
}
template <class T>
FASTNN_INLINE void store_partial(T* p, Vec<T> a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
template <class T>
FASTNN_INLINE void stream(T* p, Vec<T> a) {
  store(p, a);
}
template <class T>
FASTNN_INLINE Vec<T> load1(const T* p) {
  return set1(*p);
}
template <class T>
FASTNN_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
FASTNN_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
FASTNN_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
FASTNN_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
FASTNN_INLINE Vec<T> operator-(Vec<T> a) {
  return {-a.v};
}
template <class T>
FASTNN_INLINE Vec<T>& operator+=(Vec<T>& a, Vec<T> b) {
  return a = a + b;
}
template <class T>
FASTNN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {a.v * b.v + c.v};
}
template <class T>
FASTNN_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {c.v - a.v * b.v};
}
template <class T>
FASTNN_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  using Int = typename Vec<T>::Int;
  return {reinterpret_cast<decltype(a.v)>((m.m & reinterpret_cast<Int>(a.v)) | (~m.m & reinterpret_cast<Int>(b.v)))};
}
template <class T>
FASTNN_INLINE Mask<T> lt(Vec<T> a, Vec<T> b) {
  return {a.v < b.v};
}
template <class T>
FASTNN_INLINE Mask<T> le(Vec<T> a, Vec<T> b) {
  return {a.v <= b.v};
}
template <class T>
FASTNN_INLINE Mask<T> gt(Vec<T> a, Vec<T> b) {
  return {a.v > b.v};
}
template <class T>
FASTNN_INLINE Mask<T> ge(Vec<T> a, Vec<T> b) {
  return {a.v >= b.v};
}
template <class T>
FASTNN_INLINE Mask<T> eq(Vec<T> a, Vec<T> b) {
  return {a.v == b.v};
}
template <class T>
FASTNN_INLINE Mask<T> ne(Vec<T> a, Vec<T> b) {
  return {a.v != b.v};
}
template <class T>
FASTNN_INLINE Mask<T> is_nan(Vec<T> a) {
  return {a.v != a.v};
}
template <class T>
FASTNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {a.m & b.m};
}
template <class T>
FASTNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {a.m | b.m};
}
template <class T>
FASTNN_INLINE Mask<T> operator~(Mask<T> a) {
  return {~a.m};
}
template <class T>
FASTNN_INLINE uint32_t bits(Mask<T> a) {
  uint32_t r = 0;
  for (int i = 0; i < Vec<T>::lanes; ++i) r |= static_cast<uint32_t>(a.m[i] != 0) << i;
  return r;
}
template <class T>
FASTNN_INLINE bool any(Mask<T> a) {
  return bits(a) != 0;
}
template <class T>
FASTNN_INLINE bool all(Mask<T> a) {
  return bits(a) == (1u << Vec<T>::lanes) - 1u;
}
template <class T>
FASTNN_INLINE Mask<T> mask_from_bits(uint32_t bits) {
  Mask<T> r;
  for (int i = 0; i < Vec<T>::lanes; ++i) r.m[i] = (bits >> i & 1) ? -1 : 0;
  return r;
}
template <class T>
FASTNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return select(gt(a, b), a, b);
}
template <class T>
FASTNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return select(lt(a, b), a, b);
}
template <class T>
FASTNN_INLINE Vec<T> bit_and(Vec<T> a, Vec<T> b) {
  using Int = typename Vec<T>::Int;
  return {reinterpret_cast<decltype(a.v)>(reinterpret_cast<Int>(a.v) & reinterpret_cast<Int>(b.v))};
}
template <class T>
FASTNN_INLINE Vec<T> bit_or(Vec<T> a, Vec<T> b) {
  using Int = typename Vec<T>::Int;
  return {reinterpret_cast<decltype(a.v)>(reinterpret_cast<Int>(a.v) | reinterpret_cast<Int>(b.v))};
}
template <class T>
FASTNN_INLINE Vec<T> bit_xor(Vec<T> a, Vec<T> b) {
  using Int = typename Vec<T>::Int;
  return {reinterpret_cast<decltype(a.v)>(reinterpret_cast<Int>(a.v) ^ reinterpret_cast<Int>(b.v))};
}
template <class T>
FASTNN_INLINE Vec<T> bit_andnot(Vec<T> a, Vec<T> b) {
  using Int = typename Vec<T>::Int;
  return {reinterpret_cast<decltype(a.v)>(~reinterpret_cast<Int>(a.v) & reinterpret_cast<Int>(b.v))};
}
template <class T>
FASTNN_INLINE Vec<T> abs(Vec<T> a) {
  return bit_andnot(set1(T(-0.0)), a);
}
template <class T>
FASTNN_INLINE Vec<T> sqrt(Vec<T> a) {
  for (int i = 0; i < Vec<T>::lanes; ++i) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
// Adding and taking away 1.5 * 2^23 (2^52) rounds to the nearest even whole number; larger magnitudes are whole
// already.
FASTNN_INLINE Vec<float> round(Vec<float> a) {
  const Vec<float> magic = bit_or(set1(8388608.0f), bit_and(a, set1(-0.0f)));
  return select(lt(abs(a), set1(8388608.0f)), bit_or((a + magic) - magic, bit_and(a, set1(-0.0f))), a);
}
FASTNN_INLINE Vec<double> round(Vec<double> a) {
  const Vec<double> magic = bit_or(set1(4503599627370496.0), bit_and(a, set1(-0.0)));
  return select(lt(abs(a), set1(4503599627370496.0)), bit_or((a + magic) - magic, bit_and(a, set1(-0.0))), a);
}
template <class T>
FASTNN_INLINE Vec<T> floor(Vec<T> a) {
  const Vec<T> r = round(a);
  return select(gt(r, a), r - set1(T(1)), r);
}
template <class T>
FASTNN_INLINE T reduce_add(Vec<T> a) {
  if constexpr (Vec<T>::lanes == 4) return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return a.v[0] + a.v[1];
}
template <class T>
FASTNN_INLINE T reduce_max(Vec<T> a) {
  T r = a.v[0];
  for (int i = 1; i < Vec<T>::lanes; ++i) r = r > a.v[i] ? r : a.v[i];
  return r;
}
template <class T>
FASTNN_INLINE T reduce_min(Vec<T> a) {
  T r = a.v[0];
  for (int i = 1; i < Vec<T>::lanes; ++i) r = r < a.v[i] ? r : a.v[i];
  return r;
}

// ---- exponents: v * 2^e in two steps, since one exponent field holds half the range of e. Adding 1.5 * 2^23 (2^52)
// leaves a whole number in the low bits. ----
FASTNN_INLINE i32x4 whole(Vec<float> e) {
  return reinterpret_cast<i32x4>(e.v + set1(12582912.0f).v) - reinterpret_cast<i32x4>(set1(12582912.0f).v);
}
FASTNN_INLINE i64x2 whole(Vec<double> e) {
  return reinterpret_cast<i64x2>(e.v + set1(6755399441055744.0).v) -
         reinterpret_cast<i64x2>(set1(6755399441055744.0).v);
}
FASTNN_INLINE Vec<float> power2(i32x4 n) { return {reinterpret_cast<f32x4>((n + 127) << 23)}; }
FASTNN_INLINE Vec<double> power2(i64x2 n) { return {reinterpret_cast<f64x2>((n + 1023) << 52)}; }
template <class T>
FASTNN_INLINE Vec<T> power2(Vec<T> e) {
  return power2(whole(e));
}
template <class T>
FASTNN_INLINE Vec<T> scale2(Vec<T> a, Vec<T> e) {
  const auto n = whole(e), half = n >> 1;
  return a * power2(half) * power2(n - half);
}

template <class T>
constexpr bool kHasLookup = false;

// ---- products and quotients ----
template <class T>
FASTNN_INLINE Vec<T> reciprocal(Vec<T> a) {
  return set1(T(1)) / a;
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b) {
  return a / b;
}
template <class T>
FASTNN_INLINE Vec<T> divide(Vec<T> a, Vec<T> b, Vec<T> b_low) {
  const Vec<T> q = a / b;
  return q - q * b_low / b;
}
// Without fma: the product of two halves of a mantissa is exact (Veltkamp, Dekker).
template <class T>
FASTNN_INLINE Vec<T> high_half(Vec<T> a) {
  const Vec<T> c = set1(T(sizeof(T) == 4 ? 4097.0 : 134217729.0)) * a;
  return c - (c - a);
}
template <class T>
FASTNN_INLINE Vec<T> mul_error(Vec<T> a, Vec<T> b, Vec<T> product) {
  const Vec<T> a1 = high_half(a), b1 = high_half(b), a2 = a - a1, b2 = b - b1;
  return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
}
template <class T>
FASTNN_INLINE Vec<T> divide_parts(Vec<T> a, Vec<T> b, Vec<T> b_low, Vec<T>& low) {
  const Vec<T> q = a / b, product = q * b;
  low = ((a - product) - mul_error(q, b, product) - q * b_low) / b;
  return q;
}

// v > best, or v is NaN and best is not: what a maximum that keeps its first NaN takes
template <class T>
FASTNN_INLINE Mask<T> beats(Vec<T> v, Vec<T> best) {
  return ~le(v, best) & ~is_nan(best);
}

// ---- unsigned 32-bit lanes ----
FASTNN_INLINE U32 set1_u32(uint32_t s) { return {u32x4{s, s, s, s}}; }
FASTNN_INLINE U32 load_u32(const uint32_t* p) {
  U32 r;
  std::memcpy(&r.v, p, sizeof r.v);
  return r;
}
FASTNN_INLINE void store_u32(uint32_t* p, U32 a) { std::memcpy(p, &a.v, sizeof a.v); }
FASTNN_INLINE U32 operator+(U32 a, U32 b) { return {a.v + b.v}; }
FASTNN_INLINE U32 operator-(U32 a, U32 b) { return {a.v - b.v}; }
FASTNN_INLINE U32 operator^(U32 a, U32 b) { return {a.v ^ b.v}; }
FASTNN_INLINE U32 operator&(U32 a, U32 b) { return {a.v & b.v}; }
FASTNN_INLINE U32 operator|(U32 a, U32 b) { return {a.v | b.v}; }
template <int n>
FASTNN_INLINE U32 shift_left(U32 a) {
  return {a.v << n};
}
template <int n>
FASTNN_INLINE U32 shift_right(U32 a) {
  return {a.v >> n};
}
// low and high 32 bits of the 64-bit products
FASTNN_INLINE void mul_wide(U32 a, U32 b, U32& low, U32& high) {
  for (int i = 0; i < U32::lanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(a.v[i]) * b.v[i];
    low.v[i] = static_cast<uint32_t>(product);
    high.v[i] = static_cast<uint32_t>(product >> 32);
  }
}
// bit i is set when lane i of a is >= lane i of b, unsigned
FASTNN_INLINE uint32_t bits_ge(U32 a, U32 b) {
  uint32_t r = 0;
  for (int i = 0; i < U32::lanes; ++i) r |= static_cast<uint32_t>(a.v[i] >= b.v[i]) << i;
  return r;
}
FASTNN_INLINE U32 bit_cast_u32(Vec<float> a) { return {reinterpret_cast<u32x4>(a.v)}; }
FASTNN_INLINE Vec<float> bit_cast_f32(U32 a) { return {reinterpret_cast<f32x4>(a.v)}; }
FASTNN_INLINE U32 to_u32(Vec<float> a) {  // signed, to nearest
  return {reinterpret_cast<u32x4>(__builtin_convertvector(round(a).v, i32x4))};
}
FASTNN_INLINE Vec<float> from_u32(U32 a) {  // signed
  return {__builtin_convertvector(reinterpret_cast<i32x4>(a.v), f32x4)};
}

// 64-bit products of lanes 0, 2, 4 ...: the low half in that lane, the high half in the next
FASTNN_INLINE U32 mul_even(U32 a, U32 b) {
  const i64x2 product = {static_cast<int64_t>(static_cast<uint64_t>(a.v[0]) * b.v[0]),
                         static_cast<int64_t>(static_cast<uint64_t>(a.v[2]) * b.v[2])};
  U32 r;
  std::memcpy(&r.v, &product, sizeof r.v);
  if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) r.v = u32x4{r.v[1], r.v[0], r.v[3], r.v[2]};
  return r;
}
FASTNN_INLINE U32 odd_to_even(U32 a) { return {u32x4{a.v[1], a.v[1], a.v[3], a.v[3]}}; }  // lane 2i is lane 2i + 1
FASTNN_INLINE U32 zip_even(U32 a, U32 b) {  // lane 2i is lane 2i of a, lane 2i + 1 is lane 2i of b
  return {u32x4{a.v[0], b.v[0], a.v[2], b.v[2]}};
}
FASTNN_INLINE U32 xor3(U32 a, U32 b, U32 c) { return a ^ b ^ c; }
// acc | (a >= b ? bit : 0), unsigned, per 32-bit lane or per 16-bit half of a lane; bit is not yet set in acc
FASTNN_INLINE U32 or_where_ge(U32 acc, U32 a, U32 b, U32 bit) {
  return {acc.v | (bit.v & reinterpret_cast<u32x4>(a.v >= b.v))};
}
FASTNN_INLINE U32 or_where_ge16(U32 acc, U32 a, U32 b, U32 bit) {
  typedef uint16_t u16x8 __attribute__((vector_size(16)));
  return {acc.v | (bit.v & reinterpret_cast<u32x4>(reinterpret_cast<u16x8>(a.v) >= reinterpret_cast<u16x8>(b.v)))};
}
FASTNN_INLINE void store_even(uint8_t* p, U32 a) {  // lanes 0, 2, 4 ... one after another, the low byte first
  for (int i = 0; i < 2 * U32::lanes; ++i) p[i] = static_cast<uint8_t>(a.v[i / 4 * 2] >> (i % 4 * 8));
}
FASTNN_INLINE U32 bit_cast_u32(Vec<double> a) { return {reinterpret_cast<u32x4>(a.v)}; }
FASTNN_INLINE Vec<double> bit_cast_f64(U32 a) { return {reinterpret_cast<f64x2>(a.v)}; }

// ---- float <-> double ----
FASTNN_INLINE Vec<double> widen_low(Vec<float> a) { return {f64x2{a.v[0], a.v[1]}}; }
FASTNN_INLINE Vec<double> widen_high(Vec<float> a) { return {f64x2{a.v[2], a.v[3]}}; }
FASTNN_INLINE Vec<float> narrow(Vec<double> low, Vec<double> high) {
  return {f32x4{static_cast<float>(low.v[0]), static_cast<float>(low.v[1]), static_cast<float>(high.v[0]),
                static_cast<float>(high.v[1])}};
}

// ---- moving lanes ----
template <class T>
FASTNN_INLINE Vec<T> load_masked(const T* p, Mask<T> m) {
  if (all(m)) return load(p);
  Vec<T> r = zero<T>();
  for (int i = 0; i < Vec<T>::lanes; ++i)
    if (m.m[i]) r.v[i] = p[i];
  return r;
}
template <class T>
FASTNN_INLINE Vec<T> even_lanes(Vec<T> a, Vec<T> b) {
  constexpr int half = Vec<T>::lanes / 2;
  Vec<T> r;
  for (int i = 0; i < half; ++i) r.v[i] = a.v[2 * i], r.v[half + i] = b.v[2 * i];
  return r;
}
template <class T>
FASTNN_INLINE Vec<T> odd_lanes(Vec<T> a, Vec<T> b) {
  constexpr int half = Vec<T>::lanes / 2;
  Vec<T> r;
  for (int i = 0; i < half; ++i) r.v[i] = a.v[2 * i + 1], r.v[half + i] = b.v[2 * i + 1];
  return r;
}
FASTNN_INLINE void interleave(Vec<float> even, Vec<float> odd, Vec<float>& a, Vec<float>& b) {
  a = {__builtin_shufflevector(even.v, odd.v, 0, 4, 1, 5)};
  b = {__builtin_shufflevector(even.v, odd.v, 2, 6, 3, 7)};
}
FASTNN_INLINE void interleave(Vec<double> even, Vec<double> odd, Vec<double>& a, Vec<double>& b) {
  a = {__builtin_shufflevector(even.v, odd.v, 0, 2)};
  b = {__builtin_shufflevector(even.v, odd.v, 1, 3)};
}
// one byte a lane; the lanes hold whole numbers in [0, 255]
template <class T>
FASTNN_INLINE void store_bytes(uint8_t* p, Vec<T> a) {
  for (int i = 0; i < Vec<T>::lanes; ++i) p[i] = static_cast<uint8_t>(a.v[i]);
}
template <class T>
FASTNN_INLINE Vec<T> load_bytes(const uint8_t* p) {
  Vec<T> r;
  for (int i = 0; i < Vec<T>::lanes; ++i) r.v[i] = p[i];
  return r;
}
template <class T>
FASTNN_INLINE void transpose(const T* x, int64_t ldx, T* y, int64_t ldy) {
  for (int i = 0; i < Vec<T>::lanes; ++i)
    for (int j = 0; j < Vec<T>::lanes; ++j) y[j * ldy + i] = x[i * ldx + j];
}
FASTNN_INLINE void turn_four(const float* const* rows, int64_t offset, Vec<float>* r) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) r[j].v[i] = rows[i][offset + j];
}
template <class T>
FASTNN_INLINE Vec<T> opaque(Vec<T> a) {
  return a;
}

FASTNN_INLINE void stream_fence() {}
FASTNN_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
FASTNN_INLINE void prefetch_l2(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace fastnn::FASTNN_ISA

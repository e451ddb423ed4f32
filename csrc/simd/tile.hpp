// Tiles: eight registers of 16 rows x 64 bytes and products of bfloat16 tiles summed in float32. The amx set drives
// the tile unit; every other set has a twin with the same bits, so that packing, blocking and edges are tested
// anywhere. Include after simd.hpp; use inside runtime::FlushDenormals (the vector sets' twin takes its flush from it).
//
//   Tiles t;                        configures the unit for this thread; the destructor releases it
//   t.zero<i>()
//   t.load<i, bytes>(p, pitch)      16 rows of 64 bytes from p + bytes, `pitch` bytes apart
//   t.store<i>(p, pitch)
//   t.dot<c, a, b>()                c[m][n] += sum over k of a[m][k] * b[k][n]; c is 16 x 16 float32, a has 16 rows
//                                   of 32 bfloat16, row i of b holds the pairs b[2i][n], b[2i + 1][n]
//   split_bf16<n>(x, to, stride)             32 floats -> n rows of 32 bfloat16, `stride` apart: the sum of three is
//                                            the float to 24 bits, of two to 16; one is the float rounded
//   split_bf16_pairs<n>(x0, x1, to, stride)  the same of x0[0] x1[0] x0[1] x1[1] .. x0[15] x1[15]: a row of b
//
// The arithmetic is that of Intel's manual for TDPBF16PS: even and odd k are summed apart, each in a chain of fused
// multiply-adds from zero; the two sums are added, then c is. Every step rounds to nearest even, denormals count as
// zero going in and coming out. Conversion (VCVTNE2PS2BF16): nearest even, denormals to zero, NaN made quiet.
#pragma once
#include <cstdint>
#include <cstring>

#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

#if defined(FASTNN_ISA_AMX)

// Own asm: gcc 12's tile intrinsics do not tell the compiler that they touch memory, so stores that fill an operand
// sank below its load. Tile numbers and offsets are literals, as the encoding wants them.
class Tiles {
 public:
  FASTNN_MEMBER_INLINE Tiles() { asm volatile("ldtilecfg %0" ::"m"(kConfig)); }
  FASTNN_MEMBER_INLINE ~Tiles() { asm volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int tile>
  FASTNN_MEMBER_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile, int offset = 0>
  FASTNN_MEMBER_INLINE void load(const void* p, int64_t pitch) {
    asm volatile("tileloadd %c1(%2,%3,1), %%tmm%c0" ::"i"(tile), "i"(offset), "r"(p), "r"(pitch) : "memory");
  }
  template <int tile>
  FASTNN_MEMBER_INLINE void store(void* p, int64_t pitch) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(p), "r"(pitch) : "memory");
  }
  template <int c, int a, int b>
  FASTNN_MEMBER_INLINE void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }

 private:
  struct alignas(64) Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static constexpr Config kConfig = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
};

template <int n>
FASTNN_INLINE void split_bf16(const float* x, uint16_t* to, int64_t stride) {
  __m512 low = _mm512_loadu_ps(x), up = _mm512_loadu_ps(x + 16);
#pragma GCC unroll 3
  for (int part = 0; part < n; ++part, to += stride) {
    const __m512i bf16 = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(up, low));
    _mm512_storeu_si512(to, bf16);
    if (part == n - 1) return;
    const __m512i low32 = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(bf16));
    const __m512i up32 = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bf16, 1));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(low32, 16)));
    up = _mm512_sub_ps(up, _mm512_castsi512_ps(_mm512_slli_epi32(up32, 16)));
  }
}

template <int n>
FASTNN_INLINE void split_bf16_pairs(const float* x0, const float* x1, uint16_t* to, int64_t stride) {
  __m512 low = _mm512_loadu_ps(x0), up = _mm512_loadu_ps(x1);
  for (int part = 0; part < n; ++part, to += stride) {
    const __m512i low32 = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(low)));
    const __m512i up32 =
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(up))), 16);
    _mm512_storeu_si512(to, _mm512_or_si512(low32, up32));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(low32, 16)));
    up = _mm512_sub_ps(up, _mm512_castsi512_ps(up32));
  }
}

#else

FASTNN_INLINE uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}
FASTNN_INLINE float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

// The upper half of the result is the bfloat16.
FASTNN_INLINE uint32_t round_bf16(uint32_t u) {
  const uint32_t magnitude = u & 0x7fffffffu;
  const uint32_t rounded = u + 0x7fffu + (u >> 16 & 1u);
  const uint32_t number = magnitude < 0x00800000u ? u & 0x80000000u : rounded;
  return (magnitude > 0x7f800000u ? u | 0x00400000u : number) & 0xffff0000u;
}

template <int n>
FASTNN_INLINE void split_bf16(const float* x, uint16_t* to, int64_t stride) {
  float rest[32];
  std::memcpy(rest, x, sizeof rest);
  for (int part = 0; part < n; ++part, to += stride)
    for (int i = 0; i < 32; ++i) {
      const uint32_t bf16 = round_bf16(bits_of(rest[i]));
      to[i] = static_cast<uint16_t>(bf16 >> 16);
      rest[i] -= float_of(bf16);
    }
}

template <int n>
FASTNN_INLINE void split_bf16_pairs(const float* x0, const float* x1, uint16_t* to, int64_t stride) {
  float pairs[32];
  for (int i = 0; i < 16; ++i) pairs[2 * i] = x0[i], pairs[2 * i + 1] = x1[i];
  split_bf16<n>(pairs, to, stride);
}

#if defined(FASTNN_ISA_SCALAR)

// No fused instruction here, and none needed: the product of two bfloat16 is exact in double, and rounding its sum with
// a float first to 53 and then to 24 bits gives what one rounding gives (Figueroa: 53 >= 2 * 24 + 2). Tiny is judged
// after rounding, as x86 does; 2^-126 - 2^-151 still rounds up to the smallest normal number.
FASTNN_INLINE float round_flushed(double x) {
  const bool tiny = x > -0x1.ffffffp-127 && x < 0x1.ffffffp-127;
  return static_cast<float>(tiny ? x * 0.0 : x);
}
FASTNN_INLINE double daz(uint32_t u) { return float_of((u & 0x7f800000u) == 0 ? u & 0x80000000u : u); }

#endif

class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int tile>
  FASTNN_MEMBER_INLINE void zero() {
    std::memset(tile_[tile], 0, sizeof tile_[tile]);
  }
  template <int tile, int offset = 0>
  FASTNN_MEMBER_INLINE void load(const void* p, int64_t pitch) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(tile_[tile][row], static_cast<const char*>(p) + offset + row * pitch, 64);
  }
  template <int tile>
  FASTNN_MEMBER_INLINE void store(void* p, int64_t pitch) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(p) + row * pitch, tile_[tile][row], 64);
  }
  template <int c, int a, int b>
  FASTNN_MEMBER_INLINE void dot() {
    for (int m = 0; m < 16; ++m) dot_row(tile_[c][m], tile_[a][m], tile_[b]);
  }

 private:
  // Not inlined: 24 copies in one kernel would only slow the compiler down.
  static __attribute__((noinline)) void dot_row(uint32_t* c, const uint32_t* a, const uint32_t (*b)[16]) {
#if defined(FASTNN_ISA_SCALAR)
    for (int n = 0; n < 16; ++n) {
      float even = 0.0f, odd = 0.0f;
      for (int k = 0; k < 16; ++k) {
        even = round_flushed(daz(a[k] << 16) * daz(b[k][n] << 16) + even);
        odd = round_flushed(daz(a[k] & 0xffff0000u) * daz(b[k][n] & 0xffff0000u) + odd);
      }
      const float sum = round_flushed(static_cast<double>(even) + odd);
      c[n] = bits_of(round_flushed(daz(c[n]) + sum));
    }
#else
    const U32 high = set1_u32(0xffff0000u);
    for (int n = 0; n < 16; n += Vec<float>::lanes) {
      Vec<float> even = set1(0.0f), odd = set1(0.0f);
      for (int k = 0; k < 16; ++k) {
        const U32 va = set1_u32(a[k]), vb = load_u32(b[k] + n);
        even = fma(bit_cast_f32(shift_left<16>(va)), bit_cast_f32(shift_left<16>(vb)), even);
        odd = fma(bit_cast_f32(va & high), bit_cast_f32(vb & high), odd);
      }
      store_u32(c + n, bit_cast_u32(bit_cast_f32(load_u32(c + n)) + (even + odd)));
    }
#endif
  }

  alignas(64) uint32_t tile_[8][16][16];
};

#endif

}  // namespace
}  // namespace fastnn::FASTNN_ISA

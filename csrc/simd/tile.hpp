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
//   split_bf16<n>(low, high, to, stride)     16 and 16 floats -> n rows of 32 bfloat16, `stride` apart, in the order
//                                            low[0] high[0] low[1] high[1] ..; the sum of three is the float, of two
//                                            the float to 16 bits; one is the float rounded
//   split_bf16_in_order<n>(from, to, stride) the same of 32 floats in their order
//
// The arithmetic is that of Intel's manual for TDPBF16PS: even and odd k are summed apart, each in a chain of fused
// multiply-adds from zero; the two sums are added, then c is. Every step rounds to nearest even, denormals count as
// zero going in and coming out.
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

// Rounded to nearest, ties away from zero, by an addition to the bits: as near as ties to even, and half the work of
// the instruction that does that. What three parts leave over is nothing, so the third is cut off. A NaN stays one in
// the last part, whatever its payload makes of the others; infinity gives NaN in all parts but the first.
// emit(part, of a, of b): the part is the upper half of each lane, of a with something in the lower half.
template <int n, class Emit>
FASTNN_INLINE void split_parts(Vec<float> a, Vec<float> b, const Emit& emit) {
  const U32 half = set1_u32(0x8000u), upper = set1_u32(0xffff0000u);
#pragma GCC unroll 3
  for (int part = 0; part < n; ++part) {
    if (n < 3 && part == n - 1) a = select(is_nan(a), set1(__builtin_nanf("")), a);
    if (n < 3 && part == n - 1) b = select(is_nan(b), set1(__builtin_nanf("")), b);
    const U32 bits_a = bit_cast_u32(a), bits_b = bit_cast_u32(b);
    const U32 rounded_a = part == 2 ? bits_a : bits_a + half;
    const U32 rounded_b = (part == 2 ? bits_b : bits_b + half) & upper;
    emit(part, rounded_a, rounded_b);
    if (part == n - 1) break;
    a = a - bit_cast_f32(rounded_a & upper), b = b - bit_cast_f32(rounded_b);
  }
}
template <int n>
FASTNN_INLINE void split_pairs(Vec<float> a, Vec<float> b, uint16_t* to, int64_t stride) {
  split_parts<n>(a, b, [&](int part, U32 bits_a, U32 bits_b) FASTNN_INLINED {
    store_u32(reinterpret_cast<uint32_t*>(to + part * stride), shift_right<16>(bits_a) ^ bits_b);
  });
}
template <int n>
FASTNN_INLINE void split_bf16(const float* low, const float* high, uint16_t* to, int64_t stride) {
  for (int i = 0; i < 16; i += Vec<float>::lanes) split_pairs<n>(load(low + i), load(high + i), to + 2 * i, stride);
}
template <int n>
FASTNN_INLINE void split_bf16_in_order(const float* from, uint16_t* to, int64_t stride) {
  constexpr int lanes = Vec<float>::lanes;
  for (int i = 0; i < 32; i += 2 * lanes) {
    const Vec<float> a = load(from + i), b = load(from + i + lanes);
    split_pairs<n>(even_lanes(a, b), odd_lanes(a, b), to + i, stride);
  }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// One vector type per instruction set; csrc/simd is the only place with intrinsics.
//
// Everything here is inside namespace fastnn::<isa>::(unnamed), so that two instruction sets can be linked together
// and no inline function of one is ever used by another. The interface that every set's header provides:
//
//   Vec<T>, Mask<T>, U32           T is float or double; Vec<T>::lanes of them; U32: unsigned 32-bit lanes, as many as
//                                  Vec<float> has
//   load(p) store(p, v)            unaligned
//   load_partial(p, n) store_partial(p, v, n)    the first n lanes, 0 <= n <= lanes; the others load as 0
//   stream(p, v)                   non-temporal, p aligned to the vector; end a run of them with stream_fence()
//   set1(s) load1(p) zero<T>()     broadcast a value, a value in memory, 0
//   + - * / unary - +=
//   fma(a, b, c) = a * b + c       one rounding (scalar set: two)
//   fnma(a, b, c) = c - a * b      likewise
//   mul_error(a, b, a * b)         the rest a * b - product, exact on every set, |a|, |b| < 2^100 (2^900)
//   max(a, b) min(a, b)            as x86: the second operand when either is NaN or both are zeros
//   abs sqrt round floor           round: to nearest even
//   reciprocal(v)                  1 / v within 0.6 ulp
//   divide(a, b)                   a / b within 0.6 ulp where operator / is slow: b and a / b normal, or a 0 or NaN
//   divide(a, b, b_low)            a / (b + b_low) likewise, |b_low| <= ulp(b)
//   q = divide_parts(a, b, b_low, low)   the same quotient as q + low, within 0.1 ulp
//   kHasLookup<T>                  whether there is lookup(table, k): table[i] of 32 floats, i the last five bits of k
//   power2(e)                      2^e for whole e in [-126, 127] ([-1022, 1023]); one below, 0 or 2^e
//   scale2(v, e)                   v * 2^e, rounded once, for whole e in [-252, 252] ([-2044, 2044]), while v and
//                                  v * 2^(e / 2) are normal, 0, inf or NaN
//   lt le gt ge eq ne is_nan       -> Mask<T>; false for NaN, but ne is true
//   beats(v, best)                 -> Mask<T>; v > best, or v is NaN and best is not
//   & | ~ any(m) all(m) bits(m)    lane i is bit i of bits(m); mask_from_bits<T>(bits) is its inverse
//   select(m, a, b)                m ? a : b
//   bit_and bit_or bit_xor bit_andnot(a, b) = ~a & b
//   reduce_add reduce_max reduce_min             over lanes, in a fixed tree order
//   widen_low(v) widen_high(v) narrow(low, high) Vec<float> <-> two Vec<double>
//   U32: + - ^ & | shift_left<n> shift_right<n> set1_u32 load_u32 store_u32, mul_wide(a, b, low, high),
//        bits_ge(a, b), bit_cast_u32(Vec<float>) bit_cast_f32(U32), to_u32 (signed, nearest) from_u32 (signed)
//        mul_even(a, b): 64-bit products of lanes 0, 2, ..; odd_to_even(a): lane 2i from lane 2i + 1;
//        zip_even(a, b): lane 2i from lane 2i of a, lane 2i + 1 from lane 2i of b; store_even(p, a): lanes 0, 2, ..;
//        xor3, or_where_ge or_where_ge16 (acc | (a >= b ? bit : 0)), bit_cast_f64(U32)
//   prefetch(p) prefetch_l2(p)
//   load_masked(p, m)                          lane i is p[i] where m is true, else 0; reads no other p[i]
//   even_lanes(a, b) odd_lanes(a, b)           lanes 0, 2, 4, ... of a, then of b; lanes 1, 3, 5 ...
//   interleave(even, odd, a, b)                the inverse
//   store_bytes(p, v) load_bytes<T>(p)         one byte a lane
//   transpose(x, ldx, y, ldy)                  y[j * ldy + i] = x[i * ldx + j] for i, j < lanes
//   turn_four(rows, offset, r)                 lane i of r[j] is rows[i][offset + j], j < 4; float alone
//   opaque(v)                                  v, where the compiler must take it from a register, not from memory
//
// The file for one set says only how that set spells it; algorithms (math.hpp, kernels) name no instruction.
#pragma once
#include <cstddef>
#include <cstdint>

#define FASTNN_INLINE [[maybe_unused]] static inline __attribute__((always_inline))
#define FASTNN_MEMBER_INLINE inline __attribute__((always_inline))
#define FASTNN_INLINED __attribute__((always_inline))  // of a lambda, after its parameters

#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
#include "simd/avx512.hpp"
#elif defined(FASTNN_ISA_AVX2)
#include "simd/avx2.hpp"
#else
#include "simd/scalar.hpp"
#endif

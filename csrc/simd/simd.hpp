// One vector type per instruction set; csrc/simd is the only place with intrinsics.
//
// Everything here is inside namespace fastnn::<isa>::(unnamed), so that two instruction sets can be linked together
// and no inline function of one is ever used by another. The interface that every set's header provides:
//
//   Vec<T>               T is float or double: `lanes`, operators + - * / and unary -, +=
//   Mask<T>              result of lt le gt ge eq ne (false for NaN, ne is true) and is_nan; & | ~; any(m), all(m),
//   bits(m) load<T>(p) store(p, v)                     unaligned load_partial<T>(p, n) store_partial(p, v, n)   the
//   first n lanes, 0 <= n <= lanes; the other lanes load as 0 stream(p, v)                               non-temporal,
//   p aligned to the vector; end a run with stream_fence() set1<T>(s) zero<T>()                       broadcast
//   load1<T>(p)                                broadcast from memory
//   fma(a, b, c) = a * b + c, fnma(a, b, c) = c - a * b    one rounding (scalar set: two)
//   max(a, b), min(a, b)                       as x86: the second operand when either is NaN
//   abs sqrt round (to nearest even) floor     per lane
//   select(m, a, b)                            m ? a : b
//   scale2(v, e)                               v * 2^e for whole-number e in [-2100, 2100], result may be denormal or
//   inf bit_and bit_or bit_xor bit_andnot(a, b) = ~a & b reduce_add reduce_max reduce_min           over lanes, in a
//   fixed tree order U32                                        unsigned 32-bit lanes, as many as Vec<float>: + ^ & |
//   << >>, set1_u32,
//                                              load_u32 store_u32, mul_wide (low and high halves of 32 x 32 products)
//   bit_cast_u32(Vec<float>), bit_cast_f32(U32), mask_from_bits<T>(bits): lane i is true when bit i is set
//   convert<double>(half of a Vec<float>) ...  widen_low, widen_high, narrow(low, high)
//
// The file for one set says only how that set spells it; algorithms (math.hpp, kernels) name no instruction.
#pragma once
#include <cstddef>
#include <cstdint>

#define FASTNN_INLINE [[maybe_unused]] static inline __attribute__((always_inline))
#define FASTNN_MEMBER_INLINE inline __attribute__((always_inline))

#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
#include "simd/avx512.hpp"
#elif defined(FASTNN_ISA_AVX2)
#include "simd/avx2.hpp"
#else
#include "simd/scalar.hpp"
#endif

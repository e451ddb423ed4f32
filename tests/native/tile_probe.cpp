// simd/tile.hpp for test_amx, compiled once per instruction set as the kernels are.
#include "runtime/fp_state.hpp"
#include "simd/bf16.hpp"
#include "simd/tile.hpp"

#define TILE_PROBE_NAME_(name, isa) name##_##isa
#define TILE_PROBE_NAME(name, isa) TILE_PROBE_NAME_(name, isa)

namespace isa = fastnn::FASTNN_ISA;

// `size` floats, a multiple of 32, into three rows of `size` parts; the halves of each 32 take turns.
void TILE_PROBE_NAME(tile_split, FASTNN_ISA)(const float* x, uint16_t* parts, int64_t size) {
  const fastnn::runtime::FlushDenormals flush;
  for (int64_t i = 0; i < size; i += 32) isa::split_bf16<3>(x + i, x + i + 16, parts + i, size);
}

// `size` floats, a multiple of 32, to bfloat16, in three ways; and back to floats.
void TILE_PROBE_NAME(tile_round, FASTNN_ISA)(const float* x, uint16_t* all, uint16_t* by_vectors, uint16_t* by_parts,
                                             float* back, int64_t size) {
  constexpr int lanes = isa::Vec<float>::lanes;
  for (int64_t i = 0; i < size; i += 32) isa::round_bf16(x + i, all + i);
  for (int64_t i = 0; i < size; i += lanes) isa::store_float(by_vectors + i, isa::load_float(x + i));
  for (int64_t i = 0; i < size; i += 2) isa::store_float_partial(by_parts + i, isa::load_float_partial(x + i, 2), 2);
  for (int64_t i = 0; i < size; i += lanes) isa::store_float(back + i, isa::load_float(all + i));
}

// c (16 x 16) += a (16 x 32) b (16 pairs x 16). Into the left and right half of `spaced` (16 x 32), through other
// tiles: the product added up twice, and once.
void TILE_PROBE_NAME(tile_dot, FASTNN_ISA)(float* c, const uint16_t* a, const uint16_t* b, float* spaced) {
  const fastnn::runtime::FlushDenormals flush;
  isa::Tiles t;
  t.load<0>(c, 64);
  t.load<4>(a, 64);
  t.load<6>(b, 64);
  t.dot<0, 4, 6>();
  t.store<0>(c, 64);
  t.zero<1>();
  t.load<5>(a, 64);
  t.load<7>(b, 64);
  t.dot<1, 5, 7>();
  t.store<1>(spaced + 16, 128);
  t.load<3, 64>(spaced, 128);
  t.dot<3, 4, 7>();
  t.store<3>(spaced, 128);
}

#if defined(FASTNN_ISA_AMX)
// What tile_dot does to c, by an instruction that processors without tiles have too: VDPBF16PS adds to each float the
// product of a pair of odd, then of even elements, rounding and flushing as TDPBF16PS does. With one of the pair zero
// it is one link of the chain.
void tile_dot_by_vectors(float* c, const uint16_t* a, const uint16_t* b) {
  const fastnn::runtime::FlushDenormals flush;
  for (int m = 0; m < 16; ++m) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < 16; ++k) {
      const __m512bh row = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 32 * k));
      const int low = a[32 * m + 2 * k], high = static_cast<int>(static_cast<uint32_t>(a[32 * m + 2 * k + 1]) << 16);
      even = _mm512_dpbf16_ps(even, reinterpret_cast<__m512bh>(_mm512_set1_epi32(low)), row);
      odd = _mm512_dpbf16_ps(odd, reinterpret_cast<__m512bh>(_mm512_set1_epi32(high)), row);
    }
    _mm512_storeu_ps(c + 16 * m, _mm512_add_ps(_mm512_loadu_ps(c + 16 * m), _mm512_add_ps(even, odd)));
  }
}
#endif

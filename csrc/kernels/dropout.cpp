// dropout: y = x / (1 - p) where the mask bit is 1, else 0 (also where x is NaN). Saved for backward: the mask, bit
// i % 8 of byte i / 8 for element i. Which bits: runtime/philox.hpp; unused bits of the last byte are 0. dx may be dy.
// Vectorised over Philox blocks: one block a 64-bit lane, which multiplies, shifts and xors without a repack (6
// instructions a round for lanes / 2 blocks). A group is 32 mask bits in each such lane: 256 elements with AVX-512.
#include <cmath>

#include "kernels/kernels.hpp"
#include "kernels/stream.hpp"
#include "runtime/philox.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

using namespace runtime;

constexpr int kMaskBytes = 2 * U32::lanes;         // of a group
constexpr int kGroup = 8 * kMaskBytes;             // elements
constexpr int kChains = U32::lanes == 16 ? 4 : 2;  // Philox chains side by side; as many as the registers hold
constexpr int64_t kChunk = 32768;                  // elements of a task: whole groups of every set

struct Words {
  U32 w[4];
};

// The key of each round, and the halves of the counter that are the same for all blocks.
struct Key {
  uint32_t round[kPhiloxRounds][2];
  uint32_t stream[2];
};

FASTNN_INLINE Key key_of(const uint64_t* key) {
  Key r;
  r.round[0][0] = static_cast<uint32_t>(key[0]);
  r.round[0][1] = static_cast<uint32_t>(key[0] >> 32);
  for (int i = 1; i < kPhiloxRounds; ++i) {
    r.round[i][0] = r.round[i - 1][0] + kPhiloxKey0;
    r.round[i][1] = r.round[i - 1][1] + kPhiloxKey1;
  }
  r.stream[0] = static_cast<uint32_t>(key[1]);
  r.stream[1] = static_cast<uint32_t>(key[1] >> 32);
  return r;
}

// Blocks first + n + step * i in even lane 2i of result n; the odd lanes are undefined. Chains stand side by side, and
// shadow(round) is called after each round, because a chain alone waits for its multiplications. The blocks of a group
// start at a multiple of their number, a power of two, so the low word of the counter never carries among them.
template <int N, class Shadow>
FASTNN_INLINE void philox_even(const Key& key, uint64_t first, uint32_t step, Words (&r)[N], Shadow shadow) {
  const U32 m0 = set1_u32(kPhiloxMul0), m1 = set1_u32(kPhiloxMul1);
  uint32_t steps[U32::lanes];
  for (int i = 0; i < U32::lanes; ++i) steps[i] = static_cast<uint32_t>(i / 2) * step;
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    r[n].w[0] = set1_u32(static_cast<uint32_t>(first) + static_cast<uint32_t>(n)) + load_u32(steps);
    r[n].w[1] = set1_u32(static_cast<uint32_t>(first >> 32));
    r[n].w[2] = set1_u32(key.stream[0]);
    r[n].w[3] = set1_u32(key.stream[1]);
  }
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const U32 k0 = set1_u32(key.round[round][0]), k1 = set1_u32(key.round[round][1]);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const U32 p0 = mul_even(r[n].w[0], m0), p1 = mul_even(r[n].w[2], m1);
      r[n] = {{xor3(odd_to_even(p1), r[n].w[1], k0), p1, xor3(odd_to_even(p0), r[n].w[3], k1), p0}};
    }
    shadow(round);
  }
}

// What decides an element: nothing (p = 0, p = 1), 16 random bits, 32 random bits.
enum class Draw { kNone, k16, k32 };
struct Rule {
  Draw draw;
  uint32_t threshold;  // kept from here on
};

FASTNN_INLINE Rule rule_of(double p) {
  if (p <= 0.0 || p >= 1.0) return {Draw::kNone, 0};
  const double p16 = p * 65536.0, p32 = std::nearbyint(p * 4294967296.0);
  if (p16 == std::floor(p16)) return {Draw::k16, static_cast<uint32_t>(p16) * 0x10001u};
  return {Draw::k32, p32 < 4294967295.0 ? static_cast<uint32_t>(p32) : 0xffffffffu};
}

FASTNN_INLINE double scale_of(double p) { return p >= 1.0 ? 0.0 : 1.0 / (1.0 - p); }

// The mask bytes of one group, 32 bits to an even lane; `byte` is a multiple of their number. shadow(i, n) is called
// for i in 0 .. n - 1.
template <Draw draw, class Shadow>
FASTNN_INLINE void mask_group(const Key& key, U32 threshold, int64_t byte, uint8_t* mask, Shadow shadow) {
  constexpr int draws = draw == Draw::k16 ? 4 : 8;  // blocks to a lane: a byte is 8 half-words of one, or words of two
  U32 low = set1_u32(0), high = set1_u32(0);
#pragma GCC unroll 4
  for (int first = 0; first < draws; first += kChains) {
    Words r[kChains];
    philox_even(key, static_cast<uint64_t>(byte / 4 * draws + first), draws, r, [&](int round) FASTNN_INLINED {
      shadow(first / kChains * kPhiloxRounds + round, draws / kChains * kPhiloxRounds);
    });
#pragma GCC unroll 4
    for (int n = first; n < first + kChains; ++n)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const U32 word = r[n - first].w[k];
        if constexpr (draw == Draw::k16) {  // bits 2k and 2k + 1 of byte n, the second 16 places up until the end
          const U32 bit = set1_u32(0x20001u << (n % 2 * 8 + 2 * k));
          (n < 2 ? low : high) = or_where_ge16(n < 2 ? low : high, word, threshold, bit);
        } else {
          low = or_where_ge(low, word, threshold, set1_u32(1u << (4 * n + k)));
        }
      }
  }
  if constexpr (draw == Draw::k16) {
    low = (low | shift_right<16>(low)) & set1_u32(0xffff);
    low = low | shift_left<16>(high | shift_right<16>(high));
  }
  store_even(mask, low);
}

// The mask bits of vector v of a run that starts with a whole byte.
template <class T>
FASTNN_INLINE Mask<T> mask_at(const uint8_t* mask, int v) {
  constexpr int lanes = Vec<T>::lanes;
  if constexpr (lanes == 16)
    return mask_from_bits<T>(static_cast<uint32_t>(mask[2 * v] | mask[2 * v + 1] << 8));
  else
    return mask_from_bits<T>(static_cast<uint32_t>(mask[v * lanes / 8]) >> (v * lanes % 8) & ((1u << lanes) - 1u));
}

// Vectors begin .. end of a group.
template <class T, bool streaming>
FASTNN_INLINE void scale_vectors(const T* x, const uint8_t* mask, Vec<T> scale, T* y, int begin, int end) {
#pragma GCC unroll 4
  for (int v = begin; v < end; ++v) {
    const int i = v * Vec<T>::lanes;
    const Vec<T> r = select(mask_at<T>(mask, v), load(x + i) * scale, zero<T>());
    streaming ? stream(y + i, r) : store(y + i, r);
  }
}

template <class T>
FASTNN_INLINE void scale_tail(const T* x, const uint8_t* mask, T scale, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = (mask[i / 8] >> (i % 8) & 1) ? x[i] * scale : T(0);
}

// y = x * scale or 0 by a finished mask; n elements.
template <class T, bool streaming>
FASTNN_INLINE void scale_chunk(const T* x, const uint8_t* mask, T scale, T* y, int64_t n) {
  int64_t i = 0;
  for (; i + kGroup <= n; i += kGroup)
    scale_vectors<T, streaming>(x + i, mask + i / 8, set1(scale), y + i, 0, kGroup / Vec<T>::lanes);
  scale_tail(x + i, mask + i / 8, scale, y + i, n - i);
}

// Draws the mask and applies it, one group behind, in the shadow of the draws. n elements from mask byte `byte` on.
template <class T, Draw draw, bool streaming>
FASTNN_INLINE void draw_chunk(const Key& key, uint32_t threshold, int64_t byte, const T* x, uint8_t* mask, T scale,
                              T* y, int64_t n) {
  constexpr int vectors = kGroup / Vec<T>::lanes;
  const U32 vt = set1_u32(threshold);
  const Vec<T> vs = set1(scale);
  const auto nothing = [](int, int) {};
  int64_t i = 0;
  if (kGroup <= n) {
    mask_group<draw>(key, vt, byte, mask, nothing);
    for (; i + 2 * kGroup <= n; i += kGroup) {
      const int64_t next = (i + kGroup) / 8;
      mask_group<draw>(key, vt, byte + next, mask + next, [&](int part, int parts) FASTNN_INLINED {
        scale_vectors<T, streaming>(x + i, mask + i / 8, vs, y + i, part * vectors / parts,
                                    (part + 1) * vectors / parts);
      });
    }
    scale_vectors<T, streaming>(x + i, mask + i / 8, vs, y + i, 0, vectors);
    i += kGroup;
  }
  if (i < n) {
    uint8_t last[kMaskBytes];
    mask_group<draw>(key, vt, byte + i / 8, last, nothing);
    for (int64_t left = n - i, k = 0; k < kMaskBytes && left > 0; ++k, left -= 8)
      mask[i / 8 + k] = static_cast<uint8_t>(left < 8 ? last[k] & ((1u << left) - 1u) : last[k]);
    scale_tail(x + i, mask + i / 8, scale, y + i, n - i);
  }
}

// body(begin, n, streaming) over chunks.
template <class T, class Body>
FASTNN_INLINE void over_chunks(const T* x, const T* y, int64_t size, double nanoseconds, Body body) {
  const bool streaming = y != x && streams(y, size) && before_aligned(y, 1) == 0;
  parallel_for((size + kChunk - 1) / kChunk, static_cast<int64_t>(nanoseconds * static_cast<double>(size)),
               [&](int64_t task) {
                 const int64_t begin = task * kChunk, n = begin + kChunk < size ? kChunk : size - begin;
                 body(begin, n, streaming);
                 if (streaming) stream_fence();
               });
}

template <class T, Draw draw>
static void draw_all(const DropoutArgs& a, uint32_t threshold) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const T scale = static_cast<T>(scale_of(a.p));
  const Key key = key_of(a.key);
  over_chunks(x, y, a.size, draw == Draw::k16 ? 0.4 : 0.6, [&](int64_t i, int64_t n, bool streaming) {
    streaming ? draw_chunk<T, draw, true>(key, threshold, i / 8, x + i, a.mask + i / 8, scale, y + i, n)
              : draw_chunk<T, draw, false>(key, threshold, i / 8, x + i, a.mask + i / 8, scale, y + i, n);
  });
}

template <class T>
static void scale_all(const T* x, const uint8_t* mask, double p, T* y, int64_t size) {
  const T scale = static_cast<T>(scale_of(p));
  over_chunks(x, y, size, 0.2, [&](int64_t i, int64_t n, bool streaming) {
    streaming ? scale_chunk<T, true>(x + i, mask + i / 8, scale, y + i, n)
              : scale_chunk<T, false>(x + i, mask + i / 8, scale, y + i, n);
  });
}

template <class T>
static void dropout_forward_of(const DropoutArgs& a) {
  const Rule rule = rule_of(a.p);
  if (rule.draw == Draw::k16) return draw_all<T, Draw::k16>(a, rule.threshold);
  if (rule.draw == Draw::k32) return draw_all<T, Draw::k32>(a, rule.threshold);
  for (int64_t byte = 0; byte < a.size / 8; ++byte) a.mask[byte] = a.p <= 0.0 ? 0xff : 0;
  if (a.size % 8 != 0) a.mask[a.size / 8] = static_cast<uint8_t>(a.p <= 0.0 ? (1u << a.size % 8) - 1u : 0u);
  scale_all(static_cast<const T*>(a.x), a.mask, a.p, static_cast<T*>(a.y), a.size);
}

template <class T>
static void dropout_backward_of(const DropoutBackwardArgs& a) {
  scale_all(static_cast<const T*>(a.dy), a.mask, a.p, static_cast<T*>(a.dx), a.size);
}

}  // namespace

FASTNN_DEFINE(dropout_forward, DropoutArgs)
FASTNN_DEFINE(dropout_backward, DropoutBackwardArgs)

void random_bits(const RandomBitsArgs& a) {
  const Key key = key_of(a.key);
  constexpr int64_t words = 2 * U32::lanes;  // of lanes / 2 blocks
  parallel_for((a.size + kChunk - 1) / kChunk, a.size, [&](int64_t task) {
    const int64_t end = (task + 1) * kChunk < a.size ? (task + 1) * kChunk : a.size;
    for (int64_t i = task * kChunk; i < end; i += words) {
      Words r[1];
      philox_even(key, static_cast<uint64_t>(i / 4), 1, r, [](int) {});
      Vec<double> low, high;  // a pair of words to a lane
      interleave(bit_cast_f64(zip_even(r[0].w[0], r[0].w[1])), bit_cast_f64(zip_even(r[0].w[2], r[0].w[3])), low, high);
      if (i + words <= end) {
        store_u32(a.out + i, bit_cast_u32(low));
        store_u32(a.out + i + U32::lanes, bit_cast_u32(high));
      } else {
        uint32_t last[words];
        store_u32(last, bit_cast_u32(low));
        store_u32(last + U32::lanes, bit_cast_u32(high));
        for (int64_t k = i; k < end; ++k) a.out[k] = last[k - i];
      }
    }
  });
}

}  // namespace fastnn::FASTNN_ISA

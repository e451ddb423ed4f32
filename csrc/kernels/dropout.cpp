// dropout: y = x / (1 - p) where the mask bit is 1, else 0. Which bits: kernels.hpp, and runtime/philox.hpp.
// size elements; bit i % 8 of mask byte i / 8 belongs to element i.
#include <cmath>

#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Words {
  uint32_t w[4];
};

// Philox4x32-10 (Salmon et al., SC11).
FASTNN_INLINE Words philox(const uint64_t* key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(key[1]), c3 = static_cast<uint32_t>(key[1] >> 32);
  uint32_t k0 = static_cast<uint32_t>(key[0]), k1 = static_cast<uint32_t>(key[0] >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

FASTNN_INLINE double kept_scale(double p) { return p == 1.0 ? 0.0 : 1.0 / (1.0 - p); }

template <class T>
static void dropout_forward_of(const DropoutArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const T scale = static_cast<T>(kept_scale(a.p));
  const double p16 = a.p * 65536.0;
  const bool halves = p16 == std::floor(p16);
  const uint32_t threshold16 = static_cast<uint32_t>(halves ? p16 : 0.0);
  const double p32 = std::nearbyint(a.p * 4294967296.0);
  const uint32_t threshold32 = static_cast<uint32_t>(p32 < 4294967295.0 ? p32 : 4294967295.0);
  for (int64_t byte = 0; byte * 8 < a.size; ++byte) {
    uint32_t kept = 0;
    if (halves) {
      const Words r = philox(a.key, static_cast<uint64_t>(byte));
      for (int i = 0; i < 8; ++i) kept |= uint32_t{(r.w[i / 2] >> (i % 2 * 16) & 0xffffu) >= threshold16} << i;
    } else {
      for (int half = 0; half < 2; ++half) {
        const Words r = philox(a.key, static_cast<uint64_t>(byte * 2 + half));
        for (int i = 0; i < 4; ++i) kept |= uint32_t{r.w[i] >= threshold32} << (half * 4 + i);
      }
    }
    const int64_t n = a.size - byte * 8 < 8 ? a.size - byte * 8 : 8;
    kept &= (1u << n) - 1u;
    a.mask[byte] = static_cast<uint8_t>(kept);
    for (int64_t i = 0; i < n; ++i) y[byte * 8 + i] = (kept >> i & 1) ? x[byte * 8 + i] * scale : T(0);
  }
}

template <class T>
static void dropout_backward_of(const DropoutBackwardArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  const T scale = static_cast<T>(kept_scale(a.p));
  for (int64_t i = 0; i < a.size; ++i) dx[i] = (a.mask[i / 8] >> (i % 8) & 1) ? dy[i] * scale : T(0);
}

}  // namespace

FASTNN_DEFINE(dropout_forward, DropoutArgs)
FASTNN_DEFINE(dropout_backward, DropoutBackwardArgs)

void random_bits(const RandomBitsArgs& a) {
  for (int64_t i = 0; i < a.size; ++i) a.out[i] = philox(a.key, static_cast<uint64_t>(i / 4)).w[i % 4];
}

}  // namespace fastnn::FASTNN_ISA

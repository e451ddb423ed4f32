// Philox4x32-10, the counter-based random numbers of Salmon, Moraes, Dror and Shaw ("Parallel random numbers: as easy
// as 1, 2, 3", SC 2011): ten rounds that turn a 128-bit counter and a 64-bit key into four random 32-bit words.
//
// The convention of fastnn, the same on every backend:
//   key     = (low, high) 32 bits of the seed
//   counter = (block low, block high, stream low, stream high)
//   random_bits: word i is word i % 4 of block i / 4.
//   dropout, p * 65536 a whole number: element i draws half-word i % 8 of block i / 8 (half-word 2k is the low half of
//     word k, 2k + 1 the high half) and is kept when the draw is >= p * 65536;
//   dropout, any other p: element i draws word i % 4 of block i / 4 and is kept when it is >= p * 2^32, rounded half to
//     even and at most 2^32 - 1; p = 1 keeps nothing.
// This file is one block at a time, the plain form; kernels/dropout.cpp does as many blocks at once as a vector holds.
#pragma once
#include <cstdint>

namespace fastnn::runtime {

constexpr uint32_t kPhiloxMul0 = 0xD2511F53u, kPhiloxMul1 = 0xCD9E8D57u;  // multipliers of words 0 and 2
constexpr uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;  // what the key grows by each round
constexpr int kPhiloxRounds = 10;

struct PhiloxBlock {
  uint32_t word[4];
};

// The bijection itself. Static, so that no instruction set's copy can be linked into another's.
[[maybe_unused]] static constexpr PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMul0} * counter.word[0];
    const uint64_t product1 = uint64_t{kPhiloxMul1} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kPhiloxKey0;
    key1 += kPhiloxKey1;
  }
  return counter;
}

// Block number `block` of the random words that belong to (seed, stream).
[[maybe_unused]] static constexpr PhiloxBlock philox_block(uint64_t seed, uint64_t stream, uint64_t block) {
  const PhiloxBlock counter = {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}};
  return philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

}  // namespace fastnn::runtime

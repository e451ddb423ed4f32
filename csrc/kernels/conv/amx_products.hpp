// The products of a block on tiles, for every algorithm that cuts its work into steps of 32 channels: six of the nine
// products of three parts, three of two, one of one, summed smallest first.
//   wide   32 rows of x (pixels) x 32 outputs
//   tall   64 rows x 16 outputs
#pragma once
#include "kernels/conv/amx_plan.hpp"
#include "simd/tile.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kKeepAwake = 4;  // steps: a tile store that follows 2000 idle cycles costs 650-870

// One step of 32 pixels x 32 channels out, in an order that reloads least: 24 products and 14 tile loads of three
// parts. After each quartet `between` does something else, which costs next to nothing there.
template <int parts, class Between>
FASTNN_INLINE void multiply_step(Tiles& t, const uint16_t* x, int64_t part, int64_t pitch, const uint16_t* w,
                                 const Between& between) {
  const auto load_x = [&](int64_t i) __attribute__((always_inline)) {
    t.load<4>(x + i * part, pitch), t.load<5>(x + i * part + pitch * 8, pitch);
  };
  const auto products = [&]() __attribute__((always_inline)) {
    t.dot<0, 4, 6>(), t.dot<1, 4, 7>(), t.dot<2, 5, 6>(), t.dot<3, 5, 7>();
    between();
  };
  if constexpr (parts == 3) {
    load_x(2);
    t.load<6>(w, 64), t.load<7, 1024>(w, 64);
    products();  // x3 w1
    load_x(1);
    products();  // x2 w1
    t.load<6, 2048>(w, 64), t.load<7, 3072>(w, 64);
    products();  // x2 w2
    load_x(0);
    products();  // x1 w2
    t.load<6, 4096>(w, 64), t.load<7, 5120>(w, 64);
    products();  // x1 w3
  } else if constexpr (parts == 2) {
    load_x(1);
    t.load<6>(w, 64), t.load<7, 1024>(w, 64);
    products();  // x2 w1
    load_x(0);
    t.load<6, 2048>(w, 64), t.load<7, 3072>(w, 64);
    products();  // x1 w2
  } else {
    load_x(0);
  }
  t.load<6>(w, 64), t.load<7, 1024>(w, 64);
  products();  // x1 w1
}

// One step of 64 pixels x 16 channels out: 24 products and 19 loads, and each tile of weights is read once (one twice).
// Each quartet begins with the three tiles of pixels that the one before left in 5, 6 and 7, where both are of one
// part.
template <int parts, class Between>
FASTNN_INLINE void multiply_tall_step(Tiles& t, const uint16_t* x, int64_t part, int64_t pitch, const uint16_t* w,
                                      const Between& between) {
  const int64_t next = pitch * 8;  // elements from one tile of pixels to the next
  if constexpr (parts == 3) {
    const uint16_t *x3 = x + 2 * part, *x2 = x + part;
    t.load<4>(w, 64);
    t.load<5>(x3, pitch), t.load<6>(x3 + next, pitch), t.load<7>(x3 + 2 * next, pitch);
    t.dot<0, 5, 4>(), t.load<5>(x3 + 3 * next, pitch), t.dot<1, 6, 4>(), t.load<6>(x2, pitch);
    t.dot<2, 7, 4>(), t.load<7>(x2 + next, pitch), t.dot<3, 5, 4>(), t.load<5>(x2 + 2 * next, pitch);
    between();  // x3 w1
    t.dot<0, 6, 4>(), t.load<6>(x2 + 3 * next, pitch), t.dot<1, 7, 4>(), t.dot<2, 5, 4>(), t.dot<3, 6, 4>();
    between();  // x2 w1
    t.load<4, 1024>(w, 64);
    t.dot<1, 7, 4>(), t.load<7>(x2, pitch), t.dot<2, 5, 4>(), t.load<5>(x + next, pitch);
    t.dot<3, 6, 4>(), t.load<6>(x + 2 * next, pitch), t.dot<0, 7, 4>(), t.load<7>(x + 3 * next, pitch);
    between();  // x2 w2
    t.dot<1, 5, 4>(), t.load<5>(x, pitch), t.dot<2, 6, 4>(), t.dot<3, 7, 4>(), t.dot<0, 5, 4>();
    between();  // x1 w2
    t.load<4, 2048>(w, 64);
    t.dot<2, 6, 4>(), t.load<6>(x + next, pitch), t.dot<3, 7, 4>(), t.dot<0, 5, 4>(), t.dot<1, 6, 4>();
    between();  // x1 w3
    t.load<4>(w, 64);
    t.dot<3, 7, 4>(), t.load<7>(x + 2 * next, pitch), t.dot<0, 5, 4>(), t.dot<1, 6, 4>(), t.dot<2, 7, 4>();
    between();  // x1 w1
  } else if constexpr (parts == 2) {
    const uint16_t* x2 = x + part;
    t.load<4>(w, 64);
    t.load<5>(x2, pitch), t.load<6>(x2 + next, pitch), t.load<7>(x2 + 2 * next, pitch);
    t.dot<0, 5, 4>(), t.load<5>(x2 + 3 * next, pitch), t.dot<1, 6, 4>(), t.load<6>(x + next, pitch);
    t.dot<2, 7, 4>(), t.load<7>(x + 2 * next, pitch), t.dot<3, 5, 4>(), t.load<5>(x + 3 * next, pitch);
    between();  // x2 w1
    t.load<4, 1024>(w, 64);
    t.dot<1, 6, 4>(), t.load<6>(x, pitch), t.dot<2, 7, 4>(), t.dot<3, 5, 4>(), t.dot<0, 6, 4>();
    between();  // x1 w2
    t.load<4>(w, 64);
    t.dot<2, 7, 4>(), t.load<7>(x + next, pitch), t.dot<3, 5, 4>(), t.dot<0, 6, 4>(), t.dot<1, 7, 4>();
    between();  // x1 w1
  } else {
    t.load<4>(w, 64);
    t.load<5>(x, pitch), t.load<6>(x + next, pitch), t.load<7>(x + 2 * next, pitch);
    t.dot<0, 5, 4>(), t.load<5>(x + 3 * next, pitch), t.dot<1, 6, 4>(), t.dot<2, 7, 4>(), t.dot<3, 5, 4>();
    between();
  }
}

// Steps of one block, added to tiles 0..3: four accumulators, as a product takes 52 cycles and one can start every 16.
template <int parts, bool tall>
struct Steps {
  const uint16_t* x;    // planes, from the block's first pixel
  int64_t part, pitch;  // elements from part to part, bytes from pixel to pixel
  const int64_t* offsets;
  const uint16_t* w;
  int64_t count;
  void* unread;  // 1 KB

  template <class Between>
  FASTNN_MEMBER_INLINE void next(Tiles& t, int64_t step, const Between& between) {
    constexpr int64_t awake = kKeepAwake * 6 / (parts * (parts + 1) / 2);
    if constexpr (tall) {
      multiply_tall_step<parts>(t, x + offsets[step], part, pitch, w, between);
    } else {
      multiply_step<parts>(t, x + offsets[step], part, pitch, w, between);
    }
    w += parts * kBlock * (tall ? 16 : 32);
    if (step % awake == awake - 1) t.store<4>(unread, 64);
  }
};

// A function of its own, on a copy that stays in registers: a step has 24 products, 14 loads, 12 other instructions.
template <int parts, bool tall>
__attribute__((noinline)) void multiply_plain(Tiles& t, const Steps<parts, tall>& steps, int64_t step) {
  Steps<parts, tall> s = steps;
  for (; step < s.count; ++step) s.next(t, step, [] {});
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

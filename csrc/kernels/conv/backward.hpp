// What the algorithms of conv2d_backward share: the stride phases of dx.
#pragma once
#include "kernels/kernels.hpp"

namespace fastnn::FASTNN_ISA {

// dx of q with a bias (or null) and an activation by tiles, where these take it; ends: a bias or an activation follows.
bool tiles_take_data(const Conv2dBackwardArgs& q, bool ends);
bool tiles_chosen_for_data(const Conv2dBackwardArgs& q, bool ends);  // where it pays
void backward_data_by_tiles(const Conv2dBackwardArgs& q, const void* bias, Then then);

// Whether dweight by tiles takes a row of taps of a pixel, which lies in one piece, as its channels.
constexpr int64_t kLeastWindow = 8, kMostWindow = 48;  // elements
[[maybe_unused]] static bool weight_by_windows(const Conv2dBackwardArgs& q) {
  return q.channels_last && q.c < 16 && q.dilation_w == 1 && q.kw * q.c >= kLeastWindow && q.kw * q.c <= kMostWindow;
}

// Weights of the convolution that makes dx, where they lie as those of q do: tap (i, j) from channel `in` of its input
// to channel `out` of its output is weight[(in * outputs + out) * taps + first + i * step_h + j * step_w]. No taps:
// they lie as always.
struct Turned {
  int64_t taps, first, step_h, step_w;
};
constexpr int64_t kMostTurnedTaps = 64;
bool conv2d_amx_turns(const Conv2dArgs& q);  // whether it packs these directly, without a copy that is turned
// As conv2d_amx_forward and its pack do.
void conv2d_amx_forward_turned(const Conv2dArgs& q, const Turned& turned);
int64_t conv2d_amx_forward_turned_pack(const Conv2dArgs& q, const Turned& turned, void* packed);

namespace {

// The pixels r, r + stride, .. of one axis of dx meet the taps k with k * dilation = r + pad (mod stride): tap
// first_tap + i * tap_step reads dy at pixel + first + i * step. From the last on, so that dy is read forwards.
struct Phase {
  int64_t first_tap, tap_step, taps, first, step;
  int64_t size;  // pixels of dx in this phase
};
[[maybe_unused]] Phase phase_of(int64_t r, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                int64_t dilation) {
  Phase phase = {0, 1, 0, 0, 0, r < size ? (size - r - 1) / stride + 1 : 0};
  int64_t k = 0;
  while (k < kernel && k < stride && (r + pad - k * dilation) % stride != 0) ++k;
  if (k >= kernel || k >= stride) return phase;
  int64_t step = 1;
  while (step < kernel && step * dilation % stride != 0) ++step;
  phase.taps = (kernel - 1 - k) / step + 1;
  phase.first_tap = k + (phase.taps - 1) * step;
  phase.tap_step = -step;
  phase.first = (r + pad - phase.first_tap * dilation) / stride;
  phase.step = step * dilation / stride;
  return phase;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

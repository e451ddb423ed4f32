// conv2d: which algorithm computes a call, from its shape and the instruction set alone: the same at every run.
#include "kernels/conv/backward.hpp"
#include "kernels/conv/format.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

#if defined(FASTNN_ISA_AMX)
// Tiles work on 32 pixels at a time: for an image of fewer than half of them, the products that are wasted cost more
// than multiply-adds do. A 1x1 convolution has few products for each pixel that it splits into parts (30 cycles for 32
// channels, 47 where it must fill them up) and for each that it finishes (500 for a block), and multiply-adds read x
// where it lies; 30 of those fit into a cycle. What the tiles do not take at all (groups, float64, few channels)
// conv2d_amx hands on to im2col.
bool by_tiles(const Conv2dArgs& q) {
  if (q.oh * q.ow < 16) return false;
  const bool source = q.kh * q.kw == 1 && q.stride_h * q.stride_w == 1 && q.pad_h + q.pad_w == 0;
  if (!source || q.parts < 3) return true;
  const int64_t blocks = (q.c + 31) / 32, panels = (q.o + 31) / 32;
  const int64_t tiles = blocks * panels * 384 + 32 * blocks * (q.c % 32 == 0 ? 30 : 47) + panels * 500;
  return tiles < 32 * q.c * q.o / 30;
}
#else
constexpr bool by_tiles(const Conv2dArgs&) { return false; }
#endif

// Fewer products (winograd.cpp), where tiles of 2 x 2 pixels are many enough to pay for the larger weights, and most of
// their pixels are the image's: 1.3 (16 channels) to 2 times as fast. Below 16 channels its error is above that of
// multiply-adds.
bool by_winograd(const Conv2dArgs& q) {
  const int64_t tiles = q.n * ((q.oh + 1) / 2) * ((q.ow + 1) / 2);
  return q.kh == 3 && q.kw == 3 && q.stride_h * q.stride_w == 1 && q.dilation_h * q.dilation_w == 1 && q.groups == 1 &&
         q.dtype == kFloat32 && !has_bf16(q) && q.x_last && q.y_last && q.c >= 16 && q.o >= 8 && tiles >= 32 &&
         2 * q.n * q.oh * q.ow >= 5 * tiles;
}

}  // namespace

void conv2d_forward(const Conv2dArgs& args) {
  if (by_tiles(args)) return conv2d_amx_forward(args);
  by_winograd(args) ? conv2d_winograd_forward(args) : conv2d_im2col_forward(args);
}

int64_t conv2d_forward_pack(const Conv2dArgs& args, void* packed) {
  if (by_tiles(args)) return conv2d_amx_forward_pack(args, packed);
  return by_winograd(args) ? conv2d_winograd_forward_pack(args, packed) : conv2d_im2col_forward_pack(args, packed);
}

const char* conv2d_forward_algorithm(const Conv2dArgs& args) {
  if (by_tiles(args)) return conv2d_amx_forward_algorithm(args);
  return by_winograd(args) ? conv2d_winograd_forward_algorithm(args) : conv2d_im2col_forward_algorithm(args);
}

#if defined(FASTNN_ISA_AMX)
// dx is a forward pass, or one for each stride phase, of which the first stands for all; where these have as many taps
// they are one pass.
bool tiles_chosen_for_data(const Conv2dBackwardArgs& q, bool ends) {
  Conv2dArgs r = {};
  r.c = q.o, r.o = q.c, r.oh = (q.h - 1) / q.stride_h + 1, r.ow = (q.w - 1) / q.stride_w + 1;
  r.kh = (q.kh - 1) / q.stride_h + 1, r.kw = (q.kw - 1) / q.stride_w + 1;
  r.stride_h = r.stride_w = 1, r.x_last = r.y_last = q.channels_last, r.parts = 3;
  if (q.kh % q.stride_h == 0 && q.kw % q.stride_w == 0) r.o *= q.stride_h * q.stride_w;
  return tiles_take_data(q, ends) && (q.c >= 16 || q.channels_last) && by_tiles(r);
}

// Tiles of few channels are mostly zeros, unless whole rows of taps are taken (3->64 7x7s2 @224 b8: 7.7 ms, by columns
// 8.7; 11x11s4 @64 b16: 0.85, by columns 4.4).
bool tiles_chosen_for_weight(const Conv2dBackwardArgs& q) { return q.o >= 16 && (q.c >= 16 || weight_by_windows(q)); }

void conv2d_backward(const Conv2dBackwardArgs& args) {
  Conv2dBackwardArgs by_columns = args, tiles = args;
  (tiles_chosen_for_data(args, false) ? by_columns : tiles).dx = nullptr;
  (tiles_chosen_for_weight(args) ? by_columns : tiles).dweight = nullptr;
  tiles.dbias = nullptr;
  if (by_columns.dx || by_columns.dweight || by_columns.dbias) conv2d_im2col_backward(by_columns);
  if (tiles.dx || tiles.dweight) conv2d_amx_backward(tiles);
}
#else
bool tiles_chosen_for_data(const Conv2dBackwardArgs&, bool) { return false; }
void conv2d_backward(const Conv2dBackwardArgs& args) { conv2d_im2col_backward(args); }
#endif

}  // namespace fastnn::FASTNN_ISA

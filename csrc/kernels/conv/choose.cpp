// conv2d: which algorithm computes a call, from its shape and the instruction set alone: the same at every run.
#include "kernels/kernels.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

#if defined(FASTNN_ISA_AMX)
// Tiles work on 32 pixels at a time: for an image of fewer than half of them, the products that are wasted cost more
// than multiply-adds do. What the tiles do not take (groups, float64, few channels) conv2d_amx hands on to im2col.
bool by_tiles(const Conv2dArgs& q) { return q.oh * q.ow >= 16; }
#else
constexpr bool by_tiles(const Conv2dArgs&) { return false; }
#endif

}  // namespace

void conv2d_forward(const Conv2dArgs& args) { by_tiles(args) ? conv2d_amx_forward(args) : conv2d_im2col_forward(args); }

int64_t conv2d_forward_pack(const Conv2dArgs& args, void* packed) {
  return by_tiles(args) ? conv2d_amx_forward_pack(args, packed) : conv2d_im2col_forward_pack(args, packed);
}

const char* conv2d_forward_algorithm(const Conv2dArgs& args) {
  return by_tiles(args) ? conv2d_amx_forward_algorithm(args) : conv2d_im2col_forward_algorithm(args);
}

}  // namespace fastnn::FASTNN_ISA

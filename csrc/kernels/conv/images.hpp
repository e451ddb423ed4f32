// Convolutions that flag images: some images of a call at a time, and again by im2col those that have anything that is
// not finite among their results.
#pragma once
#include "kernels/kernels.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kImages = 1024;  // at a time: one flag each on the stack

// Images [first, first + count).
[[maybe_unused]] Conv2dArgs images_of(const Conv2dArgs& q, int64_t first, int64_t count) {
  const int64_t outputs = q.o * q.oh * q.ow;
  Conv2dArgs some = q;
  some.n = count;
  const auto moved = [](const void* p, int64_t elements, int64_t bf16) {
    return static_cast<const char*>(p) + elements * static_cast<int64_t>(bf16 ? sizeof(uint16_t) : sizeof(float));
  };
  some.x = moved(q.x, first * q.c * q.h * q.w, q.x_bf16);
  some.y = const_cast<char*>(moved(q.y, first * outputs, q.y_bf16));
  if (q.residual) some.residual = moved(q.residual, first * outputs, q.residual_bf16);
  return some;
}

template <class F>
[[maybe_unused]] void by_images(const Conv2dArgs& q, const F& run) {
  for (int64_t i = 0; i < q.n; i += kImages) run(images_of(q, i, q.n - i < kImages ? q.n - i : kImages));
}

[[maybe_unused]] void again_by_im2col(const Conv2dArgs& q, const uint8_t* not_finite) {
  for (int64_t i = 0; i < q.n; ++i) {
    if (!not_finite[i]) continue;
    Conv2dArgs again = images_of(q, i, 1);
    again.packed = nullptr;  // these are not for im2col
    conv2d_im2col_forward(again);
  }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

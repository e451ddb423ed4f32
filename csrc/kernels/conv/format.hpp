// Convolutions whose arrays lie in another memory format, or are of another type, than their algorithm takes: copies of
// these.
#pragma once
#include "kernels/block.hpp"
#include "kernels/kernels.hpp"
#include "simd/bf16.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// Memory for an array (n, c, h, w) in the other of the two formats; c == 0 means none.
class Reformatted {
 public:
  Reformatted(int64_t n, int64_t c, int64_t h, int64_t w, int64_t dtype)
      : n_(n), c_(c), h_(h), w_(w), dtype_(dtype), block_(n * c * h * w * (dtype == kFloat32 ? 4 : 8)) {}

  void* memory() const { return block_.data(); }

  // last: whether x (y) is channels-last, and what is here is not
  void read(const void* x, bool last) const { change(x, memory(), last); }
  void write(void* y, bool last) const { change(memory(), y, !last); }

 private:
  void change(const void* from, void* to, bool from_last) const {
    const int64_t image = c_ * h_ * w_, plane = h_ * w_;
    const CopyArgs planar = {from, to, {n_, c_, h_, w_}, {image, plane, w_, 1}, {image, 1, w_ * c_, c_}, dtype_, 0};
    const CopyArgs last = {from, to, {n_, c_, h_, w_}, {image, 1, w_ * c_, c_}, {image, plane, w_, 1}, dtype_, 0};
    copy(from_last ? last : planar);
  }

  int64_t n_, c_, h_, w_, dtype_;
  PoolBlock block_;
};

// run() with x, y and residual channels-last.
template <class F>
[[maybe_unused]] void in_channels_last(const Conv2dArgs& args, const F& run) {
  if (args.x_last && args.y_last) return run(args);
  Conv2dArgs q = args;
  const Reformatted x(q.n, args.x_last ? 0 : q.c, q.h, q.w, q.dtype);
  const Reformatted y(q.n, args.y_last ? 0 : q.o, q.oh, q.ow, q.dtype);
  const Reformatted residual(q.n, args.y_last || !q.residual ? 0 : q.o, q.oh, q.ow, q.dtype);
  q.x_last = q.y_last = true;
  if (x.memory()) x.read(args.x, false), q.x = x.memory();
  if (residual.memory()) residual.read(args.residual, false), q.residual = residual.memory();
  if (y.memory()) q.y = y.memory();
  run(q);
  if (y.memory()) y.write(args.y, false);
}

template <class X, class Y>
void convert(const X* x, Y* y, int64_t size) {
  constexpr int lanes = Vec<float>::lanes;
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) store_float(y + i, load_float(x + i));
  const int rest = static_cast<int>(size - i);
  if (rest) store_float_partial(y + i, load_float_partial(x + i, rest), rest);
}

[[maybe_unused]] bool has_bf16(const Conv2dArgs& q) { return q.x_bf16 || q.y_bf16 || (q.residual && q.residual_bf16); }

// run() with x, y and residual in float32; those of bfloat16 are channels-last.
template <class F>
[[maybe_unused]] void in_float32(const Conv2dArgs& args, const F& run) {
  constexpr int64_t bytes = sizeof(float);
  const int64_t inputs = args.n * args.c * args.h * args.w, outputs = args.n * args.o * args.oh * args.ow;
  const bool skip = args.residual && args.residual_bf16;
  const PoolBlock x(args.x_bf16 ? inputs * bytes : 0), residual(skip ? outputs * bytes : 0);
  const PoolBlock y(args.y_bf16 ? outputs * bytes : 0);
  Conv2dArgs q = args;
  q.x_bf16 = q.residual_bf16 = q.y_bf16 = 0;
  if (args.x_bf16) convert(static_cast<const uint16_t*>(args.x), x.floats(), inputs), q.x = x.data();
  if (skip)
    convert(static_cast<const uint16_t*>(args.residual), residual.floats(), outputs), q.residual = residual.data();
  if (args.y_bf16) q.y = y.data();
  run(q);
  if (args.y_bf16) convert(y.floats(), static_cast<uint16_t*>(args.y), outputs);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

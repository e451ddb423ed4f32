// Convolutions whose arrays lie in another memory format than their algorithm takes: copies of these.
#pragma once
#include "kernels/kernels.hpp"
#include "runtime/pool.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// Memory for an array (n, c, h, w) in the other of the two formats; c == 0 means none.
struct Reformatted {
  int64_t n, c, h, w, dtype;
  size_t bytes;
  void* memory;

  Reformatted(int64_t n_, int64_t c_, int64_t h_, int64_t w_, int64_t dtype_)
      : n(n_),
        c(c_),
        h(h_),
        w(w_),
        dtype(dtype_),
        bytes(static_cast<size_t>(n * c * h * w * (dtype == kFloat32 ? 4 : 8))),
        memory(bytes == 0 ? nullptr : runtime::pool_allocate(bytes)) {
    if (bytes != 0 && memory == nullptr) runtime::out_of_memory(bytes);
  }
  ~Reformatted() {
    if (memory != nullptr) runtime::pool_free(memory, bytes);
  }
  Reformatted(const Reformatted&) = delete;
  Reformatted& operator=(const Reformatted&) = delete;

  // last: whether x (y) is channels-last, and what is here is not
  void read(const void* x, bool last) const { change(x, memory, last); }
  void write(void* y, bool last) const { change(memory, y, !last); }

 private:
  void change(const void* from, void* to, bool from_last) const {
    const CopyArgs planar = {from, to, {n, c, h, w}, {c * h * w, h * w, w, 1}, {c * h * w, 1, w * c, c}, dtype, 0};
    const CopyArgs last = {from, to, {n, c, h, w}, {c * h * w, 1, w * c, c}, {c * h * w, h * w, w, 1}, dtype, 0};
    copy(from_last ? last : planar);
  }
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
  if (x.memory) x.read(args.x, false), q.x = x.memory;
  if (residual.memory) residual.read(args.residual, false), q.residual = residual.memory;
  if (y.memory) q.y = y.memory;
  run(q);
  if (y.memory) y.write(args.y, false);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// Element-wise kernels besides the activations: exp, sqrt, add (with an activation), mul, div, scale_add, fill.
// In place works. sqrt and div round once, as IEEE 754 says.
// exp flushes denormals, and so does add when its activation is an exponential; the others keep them.
#include "kernels/elementwise.hpp"

#include "kernels/activation.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
void exp_forward_of(const UnaryArgs& a) {
  const runtime::FlushDenormals flush;
  map_array(
      a.size, 800, static_cast<T*>(a.y), [](Vec<T> x) FASTNN_INLINED { return exp(x); }, static_cast<const T*>(a.x));
}

template <class T>
void sqrt_forward_of(const UnaryArgs& a) {
  map_array(
      a.size, 800, static_cast<T*>(a.y), [](Vec<T> x) FASTNN_INLINED { return sqrt(x); }, static_cast<const T*>(a.x));
}

template <class T>
void add_forward_of(const AddArgs& a) {
  const Parameters<T> p = parameters_of<T>(a.then);
  const auto run = [&](auto tag) {
    map_array(
        a.size, is_exponential(tag.value) ? 1000 : 500, static_cast<T*>(a.y),
        [=](Vec<T> va, Vec<T> vb) FASTNN_INLINED { return activate<tag.value>(va + vb, p); },
        static_cast<const T*>(a.a), static_cast<const T*>(a.b));
  };
  if (is_exponential(a.then.activation)) {
    const runtime::FlushDenormals flush;
    with_activation(a.then.activation, run);
  } else {
    with_activation(a.then.activation, run);
  }
}

template <class T>
void mul_forward_of(const MulArgs& a) {
  map_array(
      a.size, 500, static_cast<T*>(a.y), [](Vec<T> va, Vec<T> vb) FASTNN_INLINED { return va * vb; },
      static_cast<const T*>(a.a), static_cast<const T*>(a.b));
}

template <class T>
void div_forward_of(const MulArgs& a) {
  map_array(
      a.size, 800, static_cast<T*>(a.y), [](Vec<T> va, Vec<T> vb) FASTNN_INLINED { return va / vb; },
      static_cast<const T*>(a.a), static_cast<const T*>(a.b));
}

template <class T>
void scale_add_of(const ScaleAddArgs& a) {
  const Vec<T> sx = set1(static_cast<T>(a.scale_x)), sy = set1(static_cast<T>(a.scale_y));
  T* y = static_cast<T*>(a.y);
  const T* x = static_cast<const T*>(a.x);
  if (a.scale_y == 0) {
    map_array(a.size, 400, y, [=](Vec<T> vx) FASTNN_INLINED { return sx * vx; }, x);
  } else if (a.scale_y == 1) {
    map_array(
        a.size, 500, y, [=](Vec<T> vx, Vec<T> vy) FASTNN_INLINED { return fma(sx, vx, vy); }, x,
        static_cast<const T*>(y));
  } else {
    map_array(
        a.size, 500, y, [=](Vec<T> vx, Vec<T> vy) FASTNN_INLINED { return fma(sx, vx, sy * vy); }, x,
        static_cast<const T*>(y));
  }
}

template <class T>
void fill_of(const FillArgs& a) {
  const Vec<T> value = set1(static_cast<T>(a.value));
  map_array(a.size, 200, static_cast<T*>(a.y), [=]() FASTNN_INLINED { return value; });
}

}  // namespace

FASTNN_DEFINE(exp_forward, UnaryArgs)
FASTNN_DEFINE(sqrt_forward, UnaryArgs)
FASTNN_DEFINE(add_forward, AddArgs)
FASTNN_DEFINE(mul_forward, MulArgs)
FASTNN_DEFINE(div_forward, MulArgs)
FASTNN_DEFINE(scale_add, ScaleAddArgs)
FASTNN_DEFINE(fill, FillArgs)

}  // namespace fastnn::FASTNN_ISA

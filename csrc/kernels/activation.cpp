// Activations over arrays, forward and backward: y = f(x), dx = dy * f'(x). In place works. What each one computes is
// in activation.hpp, with what accuracy in simd/math.hpp. NaN in x stays NaN forward; backward it follows dy * f'(x)
// with the slopes of activation.hpp. Exponential ones flush denormals, the others keep them.
#include "kernels/activation.hpp"

#include "kernels/elementwise.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// Time per element and thread: memory traffic, or the arithmetic of an exponential; not where a table does most of it.
constexpr int64_t picoseconds_of(Activation kind) { return is_exponential(kind) ? 1000 : 400; }
template <class T>
constexpr int64_t forward_picoseconds_of(Activation kind) {
  return kHasLookup<T> && kind != k_mish ? 400 : picoseconds_of(kind);
}

template <Activation kind, class T>
void forward(const UnaryArgs& a) {
  const Parameters<T> p = parameters_of<T>(a);
  map_array(
      a.size, forward_picoseconds_of<T>(kind), static_cast<T*>(a.y),
      [=](Vec<T> x) FASTNN_INLINED { return activate<kind>(x, p); }, static_cast<const T*>(a.x));
}

template <Activation kind, class T>
void backward(const UnaryBackwardArgs& a) {
  const Parameters<T> p = parameters_of<T>(a);
  map_array(
      a.size, picoseconds_of(kind), static_cast<T*>(a.dx),
      [=](Vec<T> dy, Vec<T> x) FASTNN_INLINED {
        const Vec<T> dx = dy * activation_slope<kind>(x, p);
        if constexpr (has_flat_part(kind)) return select(is_sloped<kind>(x, p), dx, zero<T>());
        return dx;
      },
      static_cast<const T*>(a.dy), static_cast<const T*>(a.x));
}

template <Activation kind>
void forward_of(const UnaryArgs& a) {
  a.dtype == kFloat32 ? forward<kind, float>(a) : forward<kind, double>(a);
}
template <Activation kind>
void backward_of(const UnaryBackwardArgs& a) {
  a.dtype == kFloat32 ? backward<kind, float>(a) : backward<kind, double>(a);
}

}  // namespace

#define FASTNN_ACTIVATION(name, ...)                 \
  void name##_forward(const UnaryArgs& a) {          \
    if constexpr (is_exponential(k_##name)) {        \
      const runtime::FlushDenormals flush;           \
      forward_of<k_##name>(a);                       \
    } else {                                         \
      forward_of<k_##name>(a);                       \
    }                                                \
  }                                                  \
  void name##_backward(const UnaryBackwardArgs& a) { \
    if constexpr (is_exponential(k_##name)) {        \
      const runtime::FlushDenormals flush;           \
      backward_of<k_##name>(a);                      \
    } else {                                         \
      backward_of<k_##name>(a);                      \
    }                                                \
  }
FASTNN_ACTIVATIONS(FASTNN_ACTIVATION)
#undef FASTNN_ACTIVATION

}  // namespace fastnn::FASTNN_ISA

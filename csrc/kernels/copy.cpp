// copy: y = x or y += x over four axes with any strides (elements), also 0 and negative. Denormals and NaN bits of x
// are kept. x and y do not overlap.
#include "kernels/kernels.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
void copy_of(const CopyArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t *n = a.shape, *sx = a.x_strides, *sy = a.y_strides;
  const bool rows = sx[3] == 1 && sy[3] == 1;
  runtime::parallel_for(n[0] * n[1], n[0] * n[1] * n[2] * n[3], [&](int64_t task) {
    const int64_t i = task / n[1], j = task % n[1];
    for (int64_t k = 0; k < n[2]; ++k) {
      const T* px = x + i * sx[0] + j * sx[1] + k * sx[2];
      T* py = y + i * sy[0] + j * sy[1] + k * sy[2];
      int64_t l = 0;
      if (rows) {
        for (; l + Vec<T>::lanes <= n[3]; l += Vec<T>::lanes) {
          store(py + l, a.accumulate ? load(py + l) + load(px + l) : load(px + l));
        }
      }
      for (; l < n[3]; ++l) py[l * sy[3]] = a.accumulate ? py[l * sy[3]] + px[l * sx[3]] : px[l * sx[3]];
    }
  });
}

}  // namespace

FASTNN_DEFINE(copy, CopyArgs)

}  // namespace fastnn::FASTNN_ISA

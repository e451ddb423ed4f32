// opaque(p): a pointer of which the compiler knows nothing, so that it adds a step at a time instead of keeping the
// multiples of the step of an unrolled loop in registers, of which there are too few.
#pragma once
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
FASTNN_INLINE const T* opaque(const T* p) {
  __asm__("" : "+r"(p));
  return p;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// Floating-point state of the calling thread: flushing denormals for the length of a kernel.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastnn::runtime {

// Scoped: results and inputs that are denormal count as zero inside (convolution, GEMM, exponentials; a denormal costs
// ~150 cycles). The team passes the state on to its workers; the destructor restores what the caller had.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  __attribute__((always_inline)) FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }  // FTZ | DAZ
  __attribute__((always_inline)) ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace fastnn::runtime

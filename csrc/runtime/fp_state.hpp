// Floating-point state of the calling thread: flushing denormals for the length of a kernel, and passing the state on.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastnn::runtime {

// The control register (rounding, exceptions, denormals): what the team copies from the caller to its workers.
#if defined(__x86_64__)
[[maybe_unused]] static inline unsigned fp_control() { return _mm_getcsr(); }
[[maybe_unused]] static inline void set_fp_control(unsigned control) { _mm_setcsr(control); }
#else
[[maybe_unused]] static inline unsigned fp_control() { return 0; }
[[maybe_unused]] static inline void set_fp_control(unsigned) {}
#endif

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

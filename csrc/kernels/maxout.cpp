// maxout: y (n, s) = max over the pieces of x (n, pieces, s) (Goodfellow et al., ICML 2013); dx = dy where x is the
// first of the largest, else 0. Saved for backward: x. A NaN is larger than any number. Exact; denormals are kept. s
// runs along the vectors, so that pieces of many channels, in either memory format, are rows beside each other.
#include "kernels/elementwise.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// f(at, into, count) for vectors of y: `at` is the place in x of the first piece, `into` that in y.
template <class T, class F>
FASTNN_INLINE void for_vectors(int64_t n, int64_t pieces, int64_t s, int64_t picoseconds, F&& f) {
  constexpr int lanes = Vec<T>::lanes;
  for_chunks(n * s, picoseconds * pieces, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / s, stop = (row + 1) * s < end ? (row + 1) * s : end, shift = row * (pieces - 1) * s;
      for (; i + lanes <= stop; i += lanes) f(i + shift, i, lanes);
      if (i < stop) f(i + shift, i, static_cast<int>(stop - i));
      i = stop;
    }
  });
}

template <class T>
void maxout_forward_of(const MaxoutArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t pieces = a.pieces, s = a.s;
  for_vectors<T>(a.n, pieces, s, 250, [=](int64_t at, int64_t into, int count) FASTNN_INLINED {
    Vec<T> best = load_n(x + at, count);
    for (int64_t j = 1; j < pieces; ++j) {
      const Vec<T> v = load_n(x + at + j * s, count);
      best = select(beats(v, best), v, best);
    }
    store_n(y + into, best, count);
  });
}

template <class T>
void maxout_backward_of(const MaxoutBackwardArgs& a) {
  const T *dy = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x);
  T* dx = static_cast<T*>(a.dx);
  const int64_t pieces = a.pieces, s = a.s;
  for_vectors<T>(a.n, pieces, s, 450, [=](int64_t at, int64_t from, int count) FASTNN_INLINED {
    const Vec<T> g = load_n(dy + from, count);
    Vec<T> best = load_n(x + at, count), which = zero<T>();
    for (int64_t j = 1; j < pieces; ++j) {
      const Vec<T> v = load_n(x + at + j * s, count);
      const Mask<T> better = beats(v, best);
      best = select(better, v, best);
      which = select(better, set1(static_cast<T>(j)), which);
    }
    for (int64_t j = 0; j < pieces; ++j)
      store_n(dx + at + j * s, select(eq(which, set1(static_cast<T>(j))), g, zero<T>()), count);
  });
}

}  // namespace

FASTNN_DEFINE(maxout_forward, MaxoutArgs)
FASTNN_DEFINE(maxout_backward, MaxoutBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

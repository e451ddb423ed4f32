// global_avg_pool2d: y (n, c) = sum of x (n, c, h, w) over the s = h * w pixels / s; backward dx = dy / s, everywhere.
// Sums in float64, divided once. Planes: vectors along the pixels; channels-last: along the channels.
#include "kernels/kernels.hpp"
#include "kernels/wide.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

using runtime::parallel_for;

constexpr int64_t kTaskElements = 65536;
constexpr int64_t kBlock = 1024;  // values that are summed before they join the sum of blocks
constexpr int64_t kPixels = 64;   // the same for pixels

FASTNN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Sums of kStep neighbours; two chains, because one alone waits for its additions.
struct Sums {
  Vec<double> low[2], high[2];
};
FASTNN_INLINE Sums no_sums() { return {{zero<double>(), zero<double>()}, {zero<double>(), zero<double>()}}; }
template <class T>
FASTNN_INLINE void add_to(Sums& t, int chain, const T* x, int64_t n) {
  Vec<double> low = zero<double>(), high = low;
  n < kStep ? load2_partial(x, n, low, high) : load2(x, low, high);
  t.low[chain] += low;
  t.high[chain] += high;
}

template <class T>
FASTNN_INLINE T mean_of_plane(const T* x, int64_t s) {
  Vec<double> total = zero<double>();
  for (int64_t begin = 0; begin < s; begin += kBlock) {
    const int64_t end = min_of(begin + kBlock, s);
    Sums t = no_sums();
    int64_t i = begin;
    for (; i + 2 * kStep <= end; i += 2 * kStep) {
      add_to(t, 0, x + i, kStep);
      add_to(t, 1, x + i + kStep, kStep);
    }
    for (; i < end; i += kStep) add_to(t, 0, x + i, end - i);
    total += (t.low[0] + t.high[0]) + (t.low[1] + t.high[1]);
  }
  return static_cast<T>(reduce_add(total) / static_cast<double>(s));
}

// n <= kStep channels of one image of s pixels of c channels.
template <class T>
FASTNN_INLINE void mean_of_pixels(const T* x, int64_t s, int64_t c, int64_t n, T* y) {
  Vec<double> low = zero<double>(), high = low;
  for (int64_t begin = 0; begin < s; begin += kPixels) {
    const int64_t end = min_of(begin + kPixels, s);
    Sums t = no_sums();
    int64_t i = begin;
    for (; i + 2 <= end; i += 2) {
      add_to(t, 0, x + i * c, n);
      add_to(t, 1, x + (i + 1) * c, n);
    }
    if (i < end) add_to(t, 0, x + i * c, n);
    low += t.low[0] + t.low[1];
    high += t.high[0] + t.high[1];
  }
  double sums[kStep];
  store(sums, low);
  store(sums + kStep / 2, high);
  for (int64_t k = 0; k < n; ++k) y[k] = static_cast<T>(sums[k] / static_cast<double>(s));
}

template <class T>
static void global_avg_pool2d_forward_of(const GlobalPoolArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t s = a.h * a.w, planes = a.n * a.c;
  if (a.channels_last && a.c > 1 && s > 1) {
    // A task is some channels of an image: many of them, so that lines are read in order.
    const int64_t block = a.c * s > kTaskElements ? 512 : a.c, blocks = (a.c + block - 1) / block;
    parallel_for(a.n * blocks, planes * s / 8, [&](int64_t task) {
      const int64_t n = task / blocks, begin = task % blocks * block, end = min_of(begin + block, a.c);
      int64_t c = begin;
      for (; c + kStep <= end; c += kStep) mean_of_pixels(x + n * s * a.c + c, s, a.c, kStep, y + n * a.c + c);
      if (c < end) mean_of_pixels(x + n * s * a.c + c, s, a.c, end - c, y + n * a.c + c);
    });
    return;
  }
  const int64_t group = s > 0 ? (kTaskElements + s - 1) / s : planes;
  if (group == 0) return;
  parallel_for((planes + group - 1) / group, planes * s / 8, [&](int64_t task) {
    for (int64_t i = task * group; i < min_of((task + 1) * group, planes); ++i) y[i] = mean_of_plane(x + i * s, s);
  });
}

template <class T>
static void global_avg_pool2d_backward_of(const GlobalPoolArgs& a) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const T* dy = static_cast<const T*>(a.x);
  T* dx = static_cast<T*>(a.y);
  const int64_t s = a.h * a.w;
  if (a.n * a.c * s == 0) return;
  const double size = static_cast<double>(s);
  const bool pixels = a.channels_last && a.c > 1;
  // What repeats: a plane of one value, or the c values of a pixel of one image.
  const int64_t run = pixels ? a.c : s, runs = pixels ? a.n * s : a.n * a.c, group = (kTaskElements + run - 1) / run;
  parallel_for((runs + group - 1) / group, runs * run / 8, [&](int64_t task) {
    for (int64_t r = task * group; r < min_of((task + 1) * group, runs); ++r) {
      T* to = dx + r * run;
      if (pixels) {
        const T* from = dy + r / s * run;
        int64_t i = 0;
        for (; i + lanes <= run; i += lanes) store(to + i, load(from + i) / set1(static_cast<T>(s)));
        for (; i < run; ++i) to[i] = from[i] / static_cast<T>(s);
      } else {
        const T value = static_cast<T>(static_cast<double>(dy[r]) / size);
        int64_t i = 0;
        for (; i + lanes <= run; i += lanes) store(to + i, set1(value));
        for (; i < run; ++i) to[i] = value;
      }
    }
  });
}

}  // namespace

FASTNN_DEFINE(global_avg_pool2d_forward, GlobalPoolArgs)
FASTNN_DEFINE(global_avg_pool2d_backward, GlobalPoolArgs)

}  // namespace fastnn::FASTNN_ISA

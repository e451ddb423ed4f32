// global_avg_pool2d: y (n, c) = sum of x (n, c, h, w) over the s = h * w pixels / s; backward dx = dy / s, everywhere.
// Sums in float64, divided once. Planes: vectors along the pixels; channels-last: along the channels.
#include "kernels/kernels.hpp"
#include "kernels/wide.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

using runtime::parallel_for;

constexpr int64_t kTaskElements = 65536;
constexpr int64_t kBlock = 1024;    // values that are summed before they join the sum of blocks
constexpr int64_t kPixels = 64;     // the same for pixels
constexpr int64_t kChannels = 512;  // of a task

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

// n <= kChannels channels of one image of s pixels of c channels: some pixels of all of them at a time, so that lines
// are read in order.
template <class T>
FASTNN_INLINE void mean_of_pixels(const T* x, int64_t s, int64_t c, int64_t n, T* y) {
  alignas(64) double sums[kChannels];
  for (int64_t begin = 0; begin < s; begin += kPixels) {
    const int64_t end = min_of(begin + kPixels, s);
    const auto add_channels = [&](int64_t k, int64_t count) FASTNN_INLINED {
      Sums t = no_sums();
      int64_t i = begin;
      for (; i + 2 <= end; i += 2) {
        add_to(t, 0, x + i * c + k, count);
        add_to(t, 1, x + (i + 1) * c + k, count);
      }
      if (i < end) add_to(t, 0, x + i * c + k, count);
      double* at = sums + k;
      const Vec<double> none = zero<double>();
      store(at, (begin == 0 ? none : load(at)) + (t.low[0] + t.low[1]));
      store(at + kStep / 2, (begin == 0 ? none : load(at + kStep / 2)) + (t.high[0] + t.high[1]));
      if (end == s)
        for (i = 0; i < count; ++i) y[k + i] = static_cast<T>(at[i] / static_cast<double>(s));
    };
    int64_t k = 0;
    for (; k + kStep <= n; k += kStep) add_channels(k, kStep);
    if (k < n) add_channels(k, n - k);
  }
}

template <class T>
static void global_avg_pool2d_forward_of(const GlobalPoolArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t s = a.h * a.w, planes = a.n * a.c;
  if (a.channels_last && a.c > 1 && s > 1) {
    const int64_t block = min_of(a.c, kChannels), blocks = (a.c + block - 1) / block;
    parallel_for(a.n * blocks, planes * s / 8, [&](int64_t task) {
      const int64_t n = task / blocks, begin = task % blocks * block, end = min_of(begin + block, a.c);
      mean_of_pixels(x + n * s * a.c + begin, s, a.c, end - begin, y + n * a.c + begin);
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

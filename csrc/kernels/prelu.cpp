// prelu: y = x for x > 0, else w x, with one weight, or one for each channel; dx = dy for x > 0, else w dy;
// dw = sum of dy x over x <= 0 (He et al., ICCV 2015). Saved for backward: x. At NaN as for x <= 0.
//   n, c, s   x is (n, c, s): s is 1 where channels come last in memory; with one weight c is 1
// Planes (s >= kPlane, or one weight): a weight in a register. Rows: weights repeated in a table, which lies along x.
// dw is summed in double: by plane or table place, then by chunk, in one order. Denormals are kept; y may be x, dx dy.
#include "kernels/elementwise.hpp"
#include "kernels/sum.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kPlane = 32;   // elements from which a plane is worth a loop of its own
constexpr int64_t kTable = 256;  // elements that a table has at least

struct Shape {
  int64_t c, s, size, period;  // period: elements of the table, or 0 for planes
};
template <class Args>
Shape shape_of(const Args& a) {
  const int64_t row = a.c * a.s, size = a.n * row;
  if (a.c == 1) return {1, size, size, 0};
  if (a.s >= kPlane || row == 0) return {a.c, a.s, size, 0};
  return {a.c, a.s, size, (kTable + row - 1) / row * row};
}

template <class T>
void fill_table(const Shape& q, const T* weight, T* table) {
  for (int64_t j = 0; j < q.period; ++j) table[j] = weight[j / q.s % q.c];
}

// run(at, count, channel, place) for each piece of [begin, end) in one plane, or in one repetition of the table.
template <class Run>
FASTNN_INLINE void for_runs(const Shape& q, int64_t begin, int64_t end, Run&& run) {
  const int64_t length = q.period ? q.period : q.s;
  for (int64_t at = begin; at < end;) {
    const int64_t place = at % length, stop = at - place + length, count = (stop < end ? stop : end) - at;
    run(at, count, at / length % q.c, place);
    at += count;
  }
}

template <class T>
FASTNN_INLINE Vec<T> bent(Vec<T> x, Vec<T> v, Vec<T> w) {
  return select(gt(x, zero<T>()), v, w * v);
}

template <class T>
void prelu_forward_of(const PreluArgs& a) {
  const T *x = static_cast<const T*>(a.x), *weight = static_cast<const T*>(a.weight);
  T* y = static_cast<T*>(a.y);
  const Shape q = shape_of(a);
  T* table = static_cast<T*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(q.period) * sizeof(T)));
  fill_table(q, weight, table);
  const bool non_temporal = q.size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes && x != y;
  for_chunks(q.size, 450, [&](int64_t begin, int64_t end) {
    for_runs(q, begin, end, [&](int64_t at, int64_t count, int64_t channel, int64_t place) {
      if (q.period) {
        const auto f = [](Vec<T> vx, Vec<T> w) FASTNN_INLINED { return bent(vx, vx, w); };
        map_range(0, count, non_temporal, y + at, f, x + at, static_cast<const T*>(table + place));
      } else {
        const Vec<T> w = set1(weight[channel]);
        map_range(0, count, non_temporal, y + at, [=](Vec<T> vx) FASTNN_INLINED { return bent(vx, vx, w); }, x + at);
      }
    });
    if (non_temporal) stream_fence();
  });
}

// acc[i] += v[i]
FASTNN_INLINE void add_to(double* acc, Vec<float> v) {
  constexpr int half = Vec<double>::lanes;
  store(acc, load(acc) + widen_low(v));
  store(acc + half, load(acc + half) + widen_high(v));
}
FASTNN_INLINE void add_to(double* acc, Vec<double> v) { store(acc, load(acc) + v); }

template <class T>
void prelu_backward_of(const PreluBackwardArgs& a) {
  constexpr int lanes = Vec<T>::lanes;
  const T *dy = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x);
  const T* weight = static_cast<const T*>(a.weight);
  T *dx = static_cast<T*>(a.dx), *dweight = static_cast<T*>(a.dweight);
  const Shape q = shape_of(a);
  // Whole repetitions of the table, and several, so that folding what was summed costs little beside summing.
  const int64_t least = q.period ? 8 * q.period : 1, chunk = (kChunk + least - 1) / least * least;
  const int64_t chunks = (q.size + chunk - 1) / chunk;
  double* sums =
      static_cast<double*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(chunks * q.c) * sizeof(double) +
                                                                        static_cast<size_t>(q.period) * sizeof(T)));
  T* table = reinterpret_cast<T*>(sums + chunks * q.c);
  fill_table(q, weight, table);
  runtime::parallel_for(chunks, q.size / 2, [&](int64_t task) {
    const int64_t begin = task * chunk, end = begin + chunk < q.size ? begin + chunk : q.size;
    double* own = sums + task * q.c;
    for (int64_t c = 0; c < q.c; ++c) own[c] = 0;
    // One vector; returns what it adds to dw.
    const auto part = [&](int64_t at, int count, Vec<T> w) FASTNN_INLINED {
      const Vec<T> vx = load_n(x + at, count), vdy = load_n(dy + at, count);
      store_n(dx + at, bent(vx, vdy, w), count);
      return select(gt(vx, zero<T>()), zero<T>(), vdy * vx);
    };
    if (!q.period) {
      for_runs(q, begin, end, [&](int64_t at, int64_t count, int64_t channel, int64_t) {
        const Vec<T> w = set1(weight[channel]);
        Sum<T> sum;
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes) sum.add(part(at + i, lanes, w));
        if (i < count) sum.add(part(at + i, static_cast<int>(count - i), w));
        own[channel] += sum.total();
      });
      return;
    }
    const int64_t padded = q.period + lanes;
    double* acc =
        static_cast<double*>(runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(padded) * sizeof(double)));
    for (int64_t j = 0; j < padded; ++j) acc[j] = 0;
    for_runs(q, begin, end, [&](int64_t at, int64_t count, int64_t, int64_t) {
      int64_t j = 0;
      for (; j + lanes <= count; j += lanes) add_to(acc + j, part(at + j, lanes, load(table + j)));
      const int rest = static_cast<int>(count - j);
      if (rest) add_to(acc + j, part(at + j, rest, load_partial(table + j, rest)));
    });
    for (int64_t j = 0; j < q.period; ++j) own[j / q.s % q.c] += acc[j];
  });
  for (int64_t c = 0; c < q.c; ++c) {
    double sum = a.accumulate ? static_cast<double>(dweight[c]) : 0.0;
    for (int64_t task = 0; task < chunks; ++task) sum += sums[task * q.c + c];
    dweight[c] = static_cast<T>(sum);
  }
}

}  // namespace

FASTNN_DEFINE(prelu_forward, PreluArgs)
FASTNN_DEFINE(prelu_backward, PreluBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

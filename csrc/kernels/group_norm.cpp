// group_norm over the k = c / groups channels and s = h * w pixels of a group, m = k * s values (legend in norm.hpp).
//   y = (x - mean) / sqrt(var + eps) * weight + bias
//   dx = (g - sum(g) / m - xhat * sum(g * xhat) / m) / sqrt(var + eps), g = dy * weight
//   dweight = sum(dy * xhat), dbias = sum(dy) over n and s
// Saved for backward: x, and mean and var of each group in float64. y may be x.
// Sums are float64, of x less a value of its own group; x - mean is x less the rounded mean, and the rest of the mean
// goes into the shift: a mean of 1e4 costs neither var nor y anything. NaN and inf as NumPy.
// Three forms: vectors (s = 1; layer_norm) row by row in L1; planes, where a group is one run; pixels (channels-last),
// where an image is summed by channels. A group or image larger than a task is cut into tasks itself.
#include "kernels/norm.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kManyParts = 16;      // enough to give each part to one task
constexpr int64_t kTileValues = 32768;  // of rows between their write and their part of dweight

struct Moments {
  double mean, inverse;  // 1 / sqrt(var + eps)
};
FASTNN_INLINE Moments moments_of(const double* statistics, double eps) {
  return {statistics[0], 1.0 / std::sqrt(statistics[1] + eps)};
}

// From the sums of d = x - shift and of d * d over m values to mean and variance.
FASTNN_INLINE void set_statistics(double shift, double s, double q, double m, double* statistics) {
  const double excess = (q - s * (s / m)) / m;
  statistics[0] = shift + s / m;
  statistics[1] = excess < 0.0 ? 0.0 : excess;
}

// ---- planes and pixels: a part is a group, or an image of several groups ----

template <class T>
FASTNN_INLINE void forward_part(const GroupNormArgs& a, const Layout& l, int64_t groups, int64_t channel, const T* x,
                                T* y, double* statistics) {
  const int64_t k = l.c / groups;
  const Layout run = layout_of(1, 1, l.size, false), &summed = l.rows ? l : run;
  double* sums;
  const Table<T> table = table_of<T>(runtime::Slot::kTask, l, sums_of(summed) + 2 * groups, sums);
  double* total = sums + sums_of(summed);
  for (int64_t g = 0; g < groups; ++g) {
    total[2 * g] = total[2 * g + 1] = 0;
    const int64_t first = g * k, middle = first + k / 2, last = first + k - 1;
    const T shift =
        shift_of(x[offset_of(l, first, 0)], x[offset_of(l, middle, l.s / 2)], x[offset_of(l, last, l.s - 1)]);
    for (int64_t c = first; c <= last; ++c) table.mean[c] = shift;
  }
  repeat(l, table.mean);
  sum_all<false>(summed, x, x, table, sums, [&](int64_t c, double s, double q) {
    total[2 * (c / k)] += s;
    total[2 * (c / k) + 1] += q;
  });
  for (int64_t g = 0; g < groups; ++g) {
    double* of = statistics + 2 * g;
    set_statistics(static_cast<double>(table.mean[g * k]), total[2 * g], total[2 * g + 1], static_cast<double>(k * l.s),
                   of);
    const Moments to = moments_of(of, a.eps);
    for (int64_t c = g * k; c < (g + 1) * k; ++c)
      set_entry(table, c, to.mean, value_or<T>(a.weight, channel + c, 1.0) * to.inverse,
                value_or<T>(a.bias, channel + c, 0.0));
  }
  repeat_all(l, table);
  write_all<Pass::kForward, kIdentity>(l, x, x, y, table, Then{});
}

// Writes dx, and to `of_channel` the part's share of dbias and dweight, two values a channel.
template <class T>
FASTNN_INLINE void backward_part(const GroupNormBackwardArgs& a, const Layout& l, int64_t groups, int64_t channel,
                                 const T* dy, const T* x, T* dx, const double* statistics, double* of_channel) {
  const int64_t k = l.c / groups;
  double* sums;
  const Table<T> table = table_of<T>(runtime::Slot::kTask, l, sums_of(l) + 2 * groups, sums);
  double* total = sums + sums_of(l);
  for (int64_t g = 0; g < 2 * groups; ++g) total[g] = 0;
  for (int64_t c = 0; c < l.c; ++c) table.mean[c] = static_cast<T>(statistics[2 * (c / k)]);
  repeat(l, table.mean);
  sum_all<true>(l, x, dy, table, sums, [&](int64_t c, double s, double q) {
    const Moments of = moments_of(statistics + 2 * (c / k), a.eps);
    q -= s * (of.mean - static_cast<double>(table.mean[c]));
    of_channel[2 * c] = s;
    of_channel[2 * c + 1] = q * of.inverse;
    const double weight = value_or<T>(a.weight, channel + c, 1.0);
    total[2 * (c / k)] += weight * s;
    total[2 * (c / k) + 1] += weight * q;
  });
  const double m = static_cast<double>(k * l.s);
  for (int64_t c = 0; c < l.c; ++c) {
    const Moments of = moments_of(statistics + 2 * (c / k), a.eps);
    const double *sum = total + 2 * (c / k), scale = -of.inverse * of.inverse * of.inverse * (sum[1] / m);
    set_entry(table, c, of.mean, scale, -of.inverse * (sum[0] / m));
    table.gain[c] = static_cast<T>(value_or<T>(a.weight, channel + c, 1.0) * of.inverse);
  }
  repeat_all(l, table);
  write_all<Pass::kBackward, kIdentity>(l, x, dy, dx, table, Then{});
}

// body(layout, groups, first channel, offset in x, index of the first group, index of the first channel of n) for each.
template <class Args, class Body>
FASTNN_INLINE void for_parts(const Args& a, Body body) {
  const int64_t s = a.h * a.w, k = a.c / a.groups;
  const bool pixels = a.channels_last != 0 && a.c > 1;
  Layout l = layout_of(1, pixels ? a.c : k, s, pixels);
  l.whole = a.n * a.c * s;
  const int64_t parts = l.whole / l.size, groups = pixels ? a.groups : 1;
  const auto part = [&](int64_t i) { body(l, groups, i * l.c % a.c, i * l.size, i * groups, i * l.c); };
  if (l.size > kChunk && parts < kManyParts) {
    for (int64_t i = 0; i < parts; ++i) part(i);
    return;
  }
  const int64_t each = l.size < kChunk ? kChunk / l.size : 1;
  parallel_for((parts + each - 1) / each, l.whole / 2, [&](int64_t task) {
    for (int64_t i = task * each; i < min_of((task + 1) * each, parts); ++i) part(i);
  });
}

// ---- vectors: rows of k values of x (n, c), each a group ----

template <class T>
FASTNN_INLINE Vec<T> load_n(const T* p, int n) {
  return n == Vec<T>::lanes ? load(p) : load_partial(p, n);
}

// y = f(i, n) in vectors of n lanes from i on; fewer than all only in the last.
template <class T, class F>
FASTNN_INLINE void write_row(T* y, int64_t k, bool streaming, F f) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  if (streaming)
    for (; i + lanes <= k; i += lanes) stream(y + i, f(i, lanes));
  for (; i + lanes <= k; i += lanes) store(y + i, f(i, lanes));
  if (i < k) store_partial(y + i, f(i, static_cast<int>(k - i)), static_cast<int>(k - i));
}

// A stream needs every vector of every row aligned.
template <class T>
FASTNN_INLINE bool streams_rows(const T* x, const T* y, int64_t k, int64_t size) {
  return y != x && k % Vec<T>::lanes == 0 && streams(y, size) && before_aligned(y, Vec<T>::lanes) == 0;
}

// The sums of d = x - shift and d * d, or with dy of g = dy * weight and g * d; weight may be null.
template <bool backward, class T>
FASTNN_INLINE void sum_row(const T* x, const T* dy, const T* weight, T shift, int64_t k, double& s, double& q) {
  const Vec<double> vshift = set1(static_cast<double>(shift)), zeros = zero<double>();
  Sums total = no_sums(), t = no_sums();
  Vec<double> x0, x1, g0 = zeros, g1 = zeros, w0, w1;
  for (int64_t begin = 0; begin < k; begin += kBlock) {
    const int64_t end = min_of(begin + kBlock, k);
    int64_t i = begin;
    for (; i + kStep <= end; i += kStep) {
      load2(x + i, x0, x1);
      if (backward) load2(dy + i, g0, g1);
      if (backward && weight) {
        load2(weight + i, w0, w1);
        g0 = g0 * w0;
        g1 = g1 * w1;
      }
      add_to<backward>(t, x0, x1, g0, g1, vshift, vshift);
    }
    if (i < end) {
      x0 = x1 = vshift;
      g0 = g1 = w0 = w1 = zeros;
      load2_partial(x + i, end - i, x0, x1);
      if (backward) load2_partial(dy + i, end - i, g0, g1);
      if (backward && weight) {
        load2_partial(weight + i, end - i, w0, w1);
        g0 = g0 * w0;
        g1 = g1 * w1;
      }
      add_to<backward>(t, x0, x1, g0, g1, vshift, vshift);
    }
    join(total, t);
    t = no_sums();
  }
  s = reduce_add(total.s0 + total.s1);
  q = reduce_add(total.q0 + total.q1);
}

template <class T>
FASTNN_INLINE void forward_row(const T* x, const T* weight, const T* bias, T* y, int64_t k, double eps,
                               double* statistics, bool streaming) {
  const T shift = shift_of(x[0], x[k / 2], x[k - 1]);
  double s, q;
  sum_row<false, T>(x, x, nullptr, shift, k, s, q);
  set_statistics(static_cast<double>(shift), s, q, static_cast<double>(k), statistics);
  const Moments of = moments_of(statistics, eps);
  const T mean = static_cast<T>(of.mean);
  const Vec<T> vmean = set1(mean), scale = set1(static_cast<T>(of.inverse));
  const Vec<T> rest = set1(static_cast<T>((static_cast<double>(mean) - of.mean) * of.inverse));
  write_row(y, k, streaming, [&](int64_t i, int n) FASTNN_INLINED {
    Vec<T> v = fma(load_n(x + i, n) - vmean, scale, rest);
    if (weight) v = v * load_n(weight + i, n);
    return bias ? v + load_n(bias + i, n) : v;
  });
}

template <class T>
FASTNN_INLINE void backward_row(const T* dy, const T* x, const T* weight, T* dx, int64_t k, const Moments& of,
                                bool streaming) {
  const T mean = static_cast<T>(of.mean);
  const double rest = of.mean - static_cast<double>(mean), m = static_cast<double>(k);
  double s, q;
  sum_row<true, T>(x, dy, weight, mean, k, s, q);
  const double scale = -of.inverse * of.inverse * of.inverse * ((q - s * rest) / m);
  const Vec<T> vmean = set1(mean), gain = set1(static_cast<T>(of.inverse)), vscale = set1(static_cast<T>(scale));
  const Vec<T> shift = set1(static_cast<T>(-of.inverse * (s / m) - rest * scale));
  write_row(dx, k, streaming, [&](int64_t i, int n) FASTNN_INLINED {
    Vec<T> g = load_n(dy + i, n) * gain;
    if (weight) g = g * load_n(weight + i, n);
    return g + fma(load_n(x + i, n) - vmean, vscale, shift);
  });
}

// Adds the rows' sums of dy and dy * xhat, for columns begin .. end of them, to db and dw; `of` moves of_step a row.
template <class T>
FASTNN_INLINE void sum_columns(const T* dy, const T* x, const Moments* of, int64_t of_step, int64_t rows,
                               int64_t stride, int64_t begin, int64_t end, double* db, double* dw) {
  constexpr int half = Vec<double>::lanes;
  for (int64_t j = begin; j < end; j += kStep) {
    const int n = static_cast<int>(min_of(end - j, kStep)), low = n < half ? n : half;
    Vec<double> x0 = zero<double>(), x1 = x0, dy0 = x0, dy1 = x0;
    Sums t{load_partial(db + j, low), load_partial(db + j + low, n - low), load_partial(dw + j, low),
           load_partial(dw + j + low, n - low)};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * stride + j;
      n == kStep ? load2(x + at, x0, x1) : load2_partial(x + at, n, x0, x1);
      n == kStep ? load2(dy + at, dy0, dy1) : load2_partial(dy + at, n, dy0, dy1);
      const Vec<double> mean = set1(of[r * of_step].mean), inverse = set1(of[r * of_step].inverse);
      t.s0 += dy0;
      t.s1 += dy1;
      t.q0 = fma(dy0, (x0 - mean) * inverse, t.q0);
      t.q1 = fma(dy1, (x1 - mean) * inverse, t.q1);
    }
    store_partial(db + j, t.s0, low);
    store_partial(db + j + low, t.s1, n - low);
    store_partial(dw + j, t.q0, low);
    store_partial(dw + j + low, t.q1, n - low);
  }
}

template <class T>
static void forward_vectors(const GroupNormArgs& a) {
  const int64_t k = a.c / a.groups, rows = a.n * a.groups, each = (kChunk + k - 1) / k;
  const T *x = static_cast<const T*>(a.x), *weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  T* y = static_cast<T*>(a.y);
  const bool streaming = streams_rows(x, y, k, a.n * a.c);
  parallel_for((rows + each - 1) / each, a.n * a.c / 3, [&](int64_t task) {
    for (int64_t r = task * each; r < min_of((task + 1) * each, rows); ++r) {
      const int64_t c = r % a.groups * k;
      forward_row(x + r * k, weight ? weight + c : nullptr, bias ? bias + c : nullptr, y + r * k, k, a.eps,
                  a.statistics + 2 * r, streaming);
    }
    if (streaming) stream_fence();
  });
}

// sums: for each task c sums of dy, then c of dy * xhat. Blocks of rows are tasks; a tile of them is written, then
// summed down its columns while it is in L2. Of few rows each is a task, then blocks of columns are.
template <class T>
static void backward_vectors(const GroupNormBackwardArgs& a, Moments* of, double* sums, int64_t tasks) {
  const int64_t k = a.c / a.groups, each = (a.n + tasks - 1) / tasks;
  const T *dy = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x), *weight = static_cast<const T*>(a.weight);
  T* dx = static_cast<T*>(a.dx);
  const bool streaming = streams_rows(x, dx, k, a.n * a.c);
  for (int64_t r = 0; r < a.n * a.groups; ++r) of[r] = moments_of(a.statistics + 2 * r, a.eps);
  for (int64_t i = 0; i < 2 * tasks * a.c; ++i) sums[i] = 0;
  const auto write = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin * a.groups; r < end * a.groups; ++r)
      backward_row(dy + r * k, x + r * k, weight ? weight + r % a.groups * k : nullptr, dx + r * k, k, of[r],
                   streaming);
    if (streaming) stream_fence();
  };
  const auto sum = [&](int64_t begin, int64_t end, int64_t g, int64_t first, int64_t last, double* db) {
    sum_columns(dy + begin * a.c, x + begin * a.c, of + begin * a.groups + g, a.groups, end - begin, a.c, first, last,
                db, db + a.c);
  };
  if (tasks == 1 && a.n * a.c > kChunk) {
    parallel_for(a.n, a.n * a.c / 2, [&](int64_t n) { write(n, n + 1); });
    const int64_t blocks = (k + kChunk / 16 - 1) / (kChunk / 16), width = (k + blocks - 1) / blocks;
    parallel_for(a.groups * blocks, a.n * a.c / 3, [&](int64_t task) {
      const int64_t g = task / blocks, first = g * k + task % blocks * width;
      sum(0, a.n, g, min_of(first, (g + 1) * k), min_of(first + width, (g + 1) * k), sums);
    });
    return;
  }
  const int64_t tile = kTileValues / a.c < 4 ? 4 : min_of(kTileValues / a.c, 64);
  parallel_for(tasks, a.n * a.c, [&](int64_t task) {
    const int64_t end = min_of((task + 1) * each, a.n);
    for (int64_t n = task * each; n < end; n += tile) {
      write(n, min_of(n + tile, end));
      for (int64_t g = 0; g < a.groups; ++g)
        sum(n, min_of(n + tile, end), g, g * k, (g + 1) * k, sums + 2 * task * a.c);
    }
  });
}

// ---- exported ----

template <class T>
static void group_norm_forward_of(const GroupNormArgs& a) {
  if (a.n * a.c * a.h * a.w == 0) return;
  if (a.h * a.w == 1) return forward_vectors<T>(a);
  for_parts(a, [&](const Layout& l, int64_t groups, int64_t channel, int64_t at, int64_t group, int64_t) {
    forward_part<T>(a, l, groups, channel, static_cast<const T*>(a.x) + at, static_cast<T*>(a.y) + at,
                    a.statistics + 2 * group);
  });
}

template <class T>
static void group_norm_backward_of(const GroupNormBackwardArgs& a) {
  const int64_t size = a.n * a.c * a.h * a.w;
  if (size == 0) return;
  T *dweight = static_cast<T*>(a.dweight), *dbias = static_cast<T*>(a.dbias);
  // Shares of dweight and dbias: of each task of rows, or of each image; share i of channel c at i * 2 c + c * step.
  const bool vectors = a.h * a.w == 1;
  const int64_t most = a.n / kRowTile < 2 ? 1 : a.n / kRowTile;
  const int64_t shares = vectors ? (size < kChunk ? 1 : min_of(size / kChunk, most)) : a.n;
  const size_t moments = vectors ? static_cast<size_t>(a.n * a.groups) * sizeof(Moments) : 0;
  void* scratch =
      runtime::scratch(runtime::Slot::kShared, moments + static_cast<size_t>(2 * shares * a.c) * sizeof(double));
  double* sums = reinterpret_cast<double*>(static_cast<char*>(scratch) + moments);
  if (vectors) {
    backward_vectors<T>(a, static_cast<Moments*>(scratch), sums, shares);
  } else {
    for_parts(a, [&](const Layout& l, int64_t groups, int64_t channel, int64_t at, int64_t group, int64_t of_n) {
      backward_part<T>(a, l, groups, channel, static_cast<const T*>(a.dy) + at, static_cast<const T*>(a.x) + at,
                       static_cast<T*>(a.dx) + at, a.statistics + 2 * group, sums + 2 * of_n);
    });
  }
  if (!dweight && !dbias) return;
  const int64_t step = vectors ? 1 : 2, other = vectors ? a.c : 1;
  constexpr int64_t block = 64;
  parallel_for((a.c + block - 1) / block, 2 * shares * a.c, [&](int64_t task) {
    for (int64_t c = task * block; c < min_of((task + 1) * block, a.c); ++c) {
      double db = 0, dw = 0;
      for (const double* share = sums + c * step; share < sums + 2 * shares * a.c; share += 2 * a.c) {
        db += share[0];
        dw += share[other];
      }
      if (dbias) dbias[c] = static_cast<T>((a.accumulate ? static_cast<double>(dbias[c]) : 0.0) + db);
      if (dweight) dweight[c] = static_cast<T>((a.accumulate ? static_cast<double>(dweight[c]) : 0.0) + dw);
    }
  });
}

}  // namespace

FASTNN_DEFINE(group_norm_forward, GroupNormArgs)
FASTNN_DEFINE(group_norm_backward, GroupNormBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

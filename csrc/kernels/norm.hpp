// What batch_norm and group_norm share: float64 sums over channels, and the pass that writes.
// Legend: c channels, s = h * w pixels of a plane, n images, m = n * s values of a channel.
// Two forms: planes (NCHW), where values of a channel lie in runs, and rows (channels-last, s = 1), where vectors lie
// along the channels; few channels are joined to virtual ones, a row of theirs being g rows.
#pragma once
#include <cmath>

#include "kernels/activation.hpp"
#include "kernels/kernels.hpp"
#include "kernels/stream.hpp"
#include "kernels/wide.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

using runtime::parallel_for;

constexpr int64_t kPad = 16;          // tables are padded to this many channels
constexpr int64_t kChunk = 65536;     // elements of a task
constexpr int64_t kBlock = 1024;      // values that are summed before they join the sum of blocks
constexpr int64_t kRowTile = 16;      // the same for rows
constexpr int64_t kStreamRun = 2048;  // bytes of a plane from which streaming pays

struct Layout {
  bool rows;
  int64_t c, n, s, m, g, cv, size;  // cv = c * g virtual channels
  int64_t whole;                    // elements of the array that this is all or a part of
};

FASTNN_INLINE Layout layout_of(int64_t n, int64_t c, int64_t s, bool rows) {
  Layout l{rows, c, n, s, n * s, 1, c, n * c * s, n * c * s};
  if (c == 1) {
    l.rows = false;
    l.n = 1;
    l.s = l.m;
  } else if (l.s == 1) {
    l.rows = true;
  }
  if (l.rows)
    while (l.cv < 64 || (l.cv % kPad != 0 && l.cv < 512)) l.g *= 2, l.cv *= 2;
  return l;
}

// What the write pass needs of each channel: out = [dy * gain +] (x - mean) * scale + shift [+ residual].
template <class T>
struct Table {
  T *mean, *scale, *shift, *gain;
};

FASTNN_INLINE int64_t padded(int64_t c) { return (c + kPad - 1) / kPad * kPad; }
FASTNN_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Scratch: a table, and `count` doubles for sums.
template <class T>
FASTNN_INLINE Table<T> table_of(runtime::Slot slot, const Layout& l, int64_t count, double*& sums) {
  const int64_t c = padded(l.cv);
  const size_t bytes = static_cast<size_t>(count) * sizeof(double) + static_cast<size_t>(4 * c) * sizeof(T);
  sums = static_cast<double*>(runtime::scratch(slot, bytes));
  T* t = reinterpret_cast<T*>(sums + count);
  for (int64_t i = 0; i < 4 * c; ++i) t[i] = T(0);
  return {t, t + c, t + 2 * c, t + 3 * c};
}

// The virtual channels are copies of the first c.
template <class T>
FASTNN_INLINE void repeat(const Layout& l, T* entries) {
  for (int64_t i = l.c; i < l.cv; ++i) entries[i] = entries[i - l.c];
}
template <class T>
FASTNN_INLINE void repeat_all(const Layout& l, const Table<T>& t) {
  repeat(l, t.mean);
  repeat(l, t.scale);
  repeat(l, t.shift);
  repeat(l, t.gain);
}

// ---- sums, in float64: forward s = sum(d), q = sum(d * d); backward s = sum(dy), q = sum(dy * d); d = x - shift ----
// gated: dy counts as zero where gate, an array of its shape, is not positive: the gradient of a ReLU that gave `gate`.

struct Sums {
  Vec<double> s0, s1, q0, q1;
};
FASTNN_INLINE Sums no_sums() { return {zero<double>(), zero<double>(), zero<double>(), zero<double>()}; }
FASTNN_INLINE void join(Sums& t, const Sums& block) {
  t.s0 += block.s0;
  t.s1 += block.s1;
  t.q0 += block.q0;
  t.q1 += block.q1;
}

// The cache lines of kStep elements.
template <class T>
FASTNN_INLINE void prefetch_step(const T* p) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t i = 0; i < kStep; i += line) prefetch(p + i);
}

template <bool backward>
FASTNN_INLINE void add_to(Sums& t, Vec<double> x0, Vec<double> x1, Vec<double> dy0, Vec<double> dy1, Vec<double> shift0,
                          Vec<double> shift1) {
  const Vec<double> d0 = x0 - shift0, d1 = x1 - shift1;
  const Vec<double> g0 = backward ? dy0 : d0, g1 = backward ? dy1 : d1;
  t.s0 += g0;
  t.s1 += g1;
  t.q0 = fma(g0, d0, t.q0);
  t.q1 = fma(g1, d1, t.q1);
}

template <bool gated, class T>
FASTNN_INLINE void load_dy(const T* dy, const T* gate, Vec<double>& dy0, Vec<double>& dy1) {
  gated ? load2_gated(dy, gate, dy0, dy1) : load2(dy, dy0, dy1);
}
// The first n; the others are left as they are.
template <bool gated, class T>
FASTNN_INLINE void load_dy_partial(const T* dy, const T* gate, int64_t n, Vec<double>& dy0, Vec<double>& dy1) {
  load2_partial(dy, n, dy0, dy1);
  if (!gated) return;
  const Vec<double> zeros = zero<double>();
  Vec<double> gate0 = zeros, gate1 = zeros;
  load2_partial(gate, n, gate0, gate1);
  dy0 = select(gt(gate0, zeros), dy0, zeros);
  dy1 = select(gt(gate1, zeros), dy1, zeros);
}

// Part begin .. end of the m values of one channel of planes; x and dy point to its first plane. Pieces of planes of at
// most kBlock values; while one is summed, one that far ahead is prefetched, which no prefetcher of the processor does
// across planes (1.3x in all).
template <class T, bool backward, bool gated = false>
FASTNN_INLINE void sum_planes(const Layout& l, const T* x, const T* dy, T shift, int64_t begin, int64_t end, double* s,
                              double* q, const T* gate = nullptr) {
  const Vec<double> zeros = zero<double>(), vshift = set1(static_cast<double>(shift));
  Sums total = no_sums(), t = no_sums();
  Vec<double> x0, x1, dy0 = zeros, dy1 = zeros;
  // Divisions only where they are needed: they cost as much as a small plane.
  const int64_t pieces = (l.s + kBlock - 1) / kBlock, longest = pieces > 1 ? (l.s + pieces - 1) / pieces : l.s;
  const int64_t planes_ahead = l.n > 1 && l.s > 0 ? (kBlock + l.s - 1) / l.s : 1;
  int64_t plane = begin > 0 ? begin / l.s : 0, first = begin - plane * l.s, in_block = 0;
  for (int64_t left = end - begin; left > 0;) {
    const int64_t count = min_of(min_of(l.s - first, left), longest), offset = plane * l.c * l.s + first;
    int64_t ahead = first + count < l.s ? count : planes_ahead * l.c * l.s - first;
    if (ahead > count && plane + planes_ahead >= l.n) ahead = 0;
    int64_t i = offset;
    for (; i + kStep <= offset + count; i += kStep) {
      prefetch_step(x + i + ahead);
      load2(x + i, x0, x1);
      if (backward) {
        prefetch_step(dy + i + ahead);
        if (gated) prefetch_step(gate + i + ahead);
        load_dy<gated>(dy + i, gate + i, dy0, dy1);
      }
      add_to<backward>(t, x0, x1, dy0, dy1, vshift, vshift);
    }
    if (i < offset + count) {
      x0 = x1 = vshift;
      dy0 = dy1 = zeros;
      load2_partial(x + i, offset + count - i, x0, x1);
      if (backward) load_dy_partial<gated>(dy + i, gate + i, offset + count - i, dy0, dy1);
      add_to<backward>(t, x0, x1, dy0, dy1, vshift, vshift);
    }
    left -= count;
    first += count;
    if (first == l.s) {
      first = 0;
      ++plane;
    }
    in_block += count;
    if (in_block >= kBlock) {
      join(total, t);
      t = no_sums();
      in_block = 0;
    }
  }
  join(total, t);
  *s = reduce_add(total.s0 + total.s1);
  *q = reduce_add(total.q0 + total.q1);
}

// Adds `count` rows of `width` (virtual) channels to s and q. Prefetched is the next tile where it fits in L1 with this
// one, else a little ahead in each row (1.3-2x on these short strided walks).
template <class T, bool backward, bool gated = false>
FASTNN_INLINE void sum_rows(const T* x, const T* dy, int64_t stride, int64_t count, int64_t width, const T* shift,
                            double* s, double* q, const T* gate = nullptr) {
  Vec<double> x0, x1, dy0 = zero<double>(), dy1 = zero<double>(), shift0, shift1;
  constexpr int64_t half = Vec<double>::lanes, fits = 32768 / sizeof(T);
  const int64_t ahead = kRowTile * stride <= fits ? kRowTile * stride : 4 * kPad;
  for (int64_t j = 0; j < width; j += kStep) {
    Sums total{load(s + j), load(s + j + half), load(q + j), load(q + j + half)}, t = no_sums();
    load2(shift + j, shift0, shift1);
    if (j + kStep <= width) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * stride + j;
        prefetch_step(x + at + ahead);
        load2(x + at, x0, x1);
        if (backward) {
          prefetch_step(dy + at + ahead);
          if (gated) prefetch_step(gate + at + ahead);
          load_dy<gated>(dy + at, gate + at, dy0, dy1);
        }
        add_to<backward>(t, x0, x1, dy0, dy1, shift0, shift1);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        x0 = shift0;
        x1 = shift1;
        dy0 = dy1 = zero<double>();
        load2_partial(x + i * stride + j, width - j, x0, x1);
        if (backward) load_dy_partial<gated>(dy + i * stride + j, gate + i * stride + j, width - j, dy0, dy1);
        add_to<backward>(t, x0, x1, dy0, dy1, shift0, shift1);
      }
    }
    join(total, t);
    store(s + j, total.s0);
    store(s + j + half, total.s1);
    store(q + j, total.q0);
    store(q + j + half, total.q1);
  }
}

// ---- the write pass ----

// kForwardAdd: dy is a residual that is added.
enum class Pass { kForward, kForwardAdd, kBackward, kFrozen };
constexpr bool is_forward(Pass pass) { return pass == Pass::kForward || pass == Pass::kForwardAdd; }

template <class T>
FASTNN_INLINE bool writes_past_caches(const Layout& l, const T* x, const T* dy, const T* y) {
  constexpr int64_t bytes = sizeof(T);
  return y != x && y != dy && (l.rows || l.s * bytes >= kStreamRun) && streams(y, l.whole);
}

template <class T>
struct Entry {
  Vec<T> mean, scale, shift, gain;
};
template <class T>
FASTNN_INLINE Entry<T> entry_of(const Table<T>& t, int64_t channel) {
  return {set1(t.mean[channel]), set1(t.scale[channel]), set1(t.shift[channel]), set1(t.gain[channel])};
}
template <class T>
FASTNN_INLINE Entry<T> entries_of(const Table<T>& t, int64_t channel) {
  return {load(t.mean + channel), load(t.scale + channel), load(t.shift + channel), load(t.gain + channel)};
}

template <Pass pass, Activation kind, class T>
FASTNN_INLINE Vec<T> out_of(Vec<T> x, Vec<T> dy, const Entry<T>& e, Parameters<T> p) {
  if constexpr (pass == Pass::kFrozen) return dy * e.gain;
  const Vec<T> y = fma(x - e.mean, e.scale, e.shift);
  if constexpr (pass == Pass::kBackward) return fma(dy, e.gain, y);
  if constexpr (pass == Pass::kForwardAdd) return activate<kind>(y + dy, p);
  return activate<kind>(y, p);
}

// dy, or zero where gate is not positive.
template <bool gated, class T>
FASTNN_INLINE Vec<T> load_gradient(const T* dy, const T* gate) {
  if constexpr (gated) return load_masked(dy, gt(load(gate), zero<T>()));
  return load(dy);
}
template <bool gated, class T>
FASTNN_INLINE Vec<T> load_gradient_partial(const T* dy, const T* gate, int n) {
  const Vec<T> v = load_partial(dy, n);
  if constexpr (gated) return select(gt(load_partial(gate, n), zero<T>()), v, zero<T>());
  return v;
}

// A run of n pixels of one channel.
template <Pass pass, Activation kind, bool gated = false, class T>
FASTNN_INLINE void write_run(const T* x, const T* dy, T* y, int64_t n, const Entry<T>& e, Parameters<T> p,
                             bool streaming, const T* gate = nullptr) {
  constexpr int64_t lanes = Vec<T>::lanes;
  constexpr bool needs_x = pass != Pass::kFrozen, needs_dy = pass != Pass::kForward;
  const auto at = [&](int64_t i) FASTNN_INLINED {
    return out_of<pass, kind>(needs_x ? load(x + i) : e.mean,
                              needs_dy ? load_gradient<gated>(dy + i, gate + i) : e.mean, e, p);
  };
  const auto partial = [&](int64_t i, int64_t count) FASTNN_INLINED {
    const int k = static_cast<int>(count);
    const Vec<T> vx = needs_x ? load_partial(x + i, k) : e.mean;
    const Vec<T> vdy = needs_dy ? load_gradient_partial<gated>(dy + i, gate + i, k) : e.mean;
    store_partial(y + i, out_of<pass, kind>(vx, vdy, e, p), k);
  };
  int64_t i = 0;
  if (streaming) {
    i = before_aligned(y, n);
    if (i > 0) partial(0, i);
    for (; i + lanes <= n; i += lanes) stream(y + i, at(i));
  }
  for (; i + lanes <= n; i += lanes) store(y + i, at(i));
  if (i < n) partial(i, n - i);
}

// Elements begin .. end of the whole array of planes, in memory order.
template <Pass pass, Activation kind, bool gated, class T>
FASTNN_INLINE void write_planes(const Layout& l, const T* x, const T* dy, T* y, const Table<T>& table, const Then& then,
                                bool streaming, int64_t begin, int64_t end, const T* gate) {
  const Parameters<T> p = parameters_of<T>(then);
  int64_t channel = begin / l.s, left = (channel + 1) * l.s - begin;  // of the plane at `at`
  channel %= l.c;
  for (int64_t at = begin; at < end; at += left, left = l.s) {
    write_run<pass, kind, gated>(x + at, dy + at, y + at, min_of(left, end - at), entry_of(table, channel), p,
                                 streaming, gate + at);
    if (++channel == l.c) channel = 0;
  }
  if (streaming) stream_fence();
}

// Elements begin .. end of rows; begin is the start of a virtual row.
template <Pass pass, Activation kind, bool gated, class T>
FASTNN_INLINE void write_rows(const Layout& l, const T* x, const T* dy, T* y, const Table<T>& table, const Then& then,
                              bool streaming, int64_t begin, int64_t end, const T* gate) {
  constexpr int64_t lanes = Vec<T>::lanes;
  constexpr bool needs_x = pass != Pass::kFrozen, needs_dy = pass != Pass::kForward;
  const Parameters<T> p = parameters_of<T>(then);
  const Vec<T> nothing = zero<T>();
  // A stream needs every vector of every row aligned.
  streaming = streaming && l.cv % lanes == 0 && before_aligned(y, lanes) == 0;
  for (int64_t row = begin; row < end; row += l.cv) {
    const int64_t width = min_of(l.cv, end - row);
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes) {
      const Vec<T> vx = needs_x ? load(x + row + j) : nothing;
      const Vec<T> vdy = needs_dy ? load_gradient<gated>(dy + row + j, gate + row + j) : nothing;
      const Vec<T> v = out_of<pass, kind>(vx, vdy, entries_of(table, j), p);
      streaming ? stream(y + row + j, v) : store(y + row + j, v);
    }
    if (j < width) {
      const int k = static_cast<int>(width - j);
      const Vec<T> vx = needs_x ? load_partial(x + row + j, k) : nothing;
      const Vec<T> vdy = needs_dy ? load_gradient_partial<gated>(dy + row + j, gate + row + j, k) : nothing;
      store_partial(y + row + j, out_of<pass, kind>(vx, vdy, entries_of(table, j), p), k);
    }
  }
  if (streaming) stream_fence();
}

// The write pass over everything. An activation other than `kind` follows on what is written, while it is in the cache.
template <Pass pass, Activation kind, bool gated = false, class T>
static void write_all(const Layout& l, const T* x, const T* dy, T* y, const Table<T>& table, const Then& then,
                      const T* gate = nullptr) {
  if (!gated) gate = x;  // not read
  const int64_t rows = l.rows ? (kChunk + l.cv - 1) / l.cv : 0, chunk = l.rows ? rows * l.cv : kChunk;
  const bool after = then.activation != kind, streaming = !after && writes_past_caches(l, x, dy, y);
  const int64_t chunks = (l.size + chunk - 1) / chunk;
  parallel_for(chunks, l.size / 4 + (after ? l.size : 0), [&](int64_t task) {
    // Backwards: what a pass of sums before this one read last is still in the cache.
    const int64_t begin = (chunks - 1 - task) * chunk, end = min_of(begin + chunk, l.size);
    l.rows ? write_rows<pass, kind, gated>(l, x, dy, y, table, then, streaming, begin, end, gate)
           : write_planes<pass, kind, gated>(l, x, dy, y, table, then, streaming, begin, end, gate);
    if (after) activate_array(then, y + begin, end - begin);
  });
}

// Elements of rows that one task sums: whole tiles, and enough of them to be worth a table of sums.
FASTNN_INLINE int64_t sum_chunk(const Layout& l) {
  const int64_t least = 4 * kRowTile * l.cv;
  return (kChunk + least - 1) / least * least;
}

// How many doubles sum_all wants.
FASTNN_INLINE int64_t sums_of(const Layout& l) {
  if (!l.rows) return 2 * l.c * ((l.m + kChunk - 1) / kChunk);
  return 2 * padded(l.cv) * ((l.size + sum_chunk(l) - 1) / sum_chunk(l));
}

// The sums of every channel about its table.mean, in parts that are added in order; then finish(channel, s, q) for each
// channel in turn.
template <bool backward, bool gated = false, class T, class Finish>
FASTNN_INLINE void sum_all(const Layout& l, const T* x, const T* dy, const Table<T>& table, double* sums, Finish finish,
                           const T* gate = nullptr) {
  if (!gated) gate = x;  // not read
  if (l.rows) {
    const int64_t cv = padded(l.cv), chunk = sum_chunk(l), chunks = (l.size + chunk - 1) / chunk;
    parallel_for(chunks, l.size / (backward ? 2 : 4), [&](int64_t task) {
      double *s = sums + 2 * task * cv, *q = s + cv;
      for (int64_t j = 0; j < 2 * cv; ++j) s[j] = 0;
      int64_t at = task * chunk;
      for (const int64_t end = min_of(at + chunk, l.size); at < end;) {
        const int64_t count = min_of((end - at) / l.cv, kRowTile);
        if (count > 0)
          sum_rows<T, backward, gated>(x + at, dy + at, l.cv, count, l.cv, table.mean, s, q, gate + at);
        else
          sum_rows<T, backward, gated>(x + at, dy + at, l.cv, 1, end - at, table.mean, s, q, gate + at);
        at += count > 0 ? count * l.cv : end - at;
      }
    });
    for (int64_t i = 2 * cv; i < 2 * chunks * cv; i += 2 * cv)
      for (int64_t j = 0; j < 2 * cv; ++j) sums[j] += sums[i + j];
    for (int64_t c = 0; c < l.c; ++c) {
      double s = 0, q = 0;
      for (int64_t j = c; j < (chunks > 0 ? l.cv : 0); j += l.c) {
        s += sums[j];
        q += sums[cv + j];
      }
      finish(c, s, q);
    }
  } else {
    const int64_t chunks = (l.m + kChunk - 1) / kChunk;                            // of a channel
    const int64_t group = l.m > 0 && chunks == 1 ? min_of(kChunk / l.m, l.c) : 1;  // channels of a task
    parallel_for((l.c + group - 1) / group * chunks, l.size / (backward ? 2 : 4), [&](int64_t task) {
      const int64_t first = task / chunks * group, begin = task % chunks * kChunk;
      for (int64_t c = first; c < min_of(first + group, l.c); ++c) {
        double* sum = sums + 2 * (c * chunks + task % chunks);
        sum_planes<T, backward, gated>(l, x + c * l.s, dy + c * l.s, table.mean[c], begin, min_of(begin + kChunk, l.m),
                                       sum, sum + 1, gate + c * l.s);
      }
    });
    for (int64_t c = 0; c < l.c; ++c) {
      double s = 0, q = 0;
      for (int64_t k = c * chunks; k < (c + 1) * chunks; ++k) {
        s += sums[2 * k];
        q += sums[2 * k + 1];
      }
      finish(c, s, q);
    }
  }
}

template <class T>
FASTNN_INLINE void set_entry(const Table<T>& table, int64_t c, double mean, double scale, double bias) {
  table.mean[c] = static_cast<T>(mean);
  table.scale[c] = static_cast<T>(scale);
  table.shift[c] = static_cast<T>(bias - (mean - static_cast<double>(table.mean[c])) * scale);
}

template <class T>
FASTNN_INLINE double value_or(const void* p, int64_t i, double otherwise) {
  return p ? static_cast<double>(static_cast<const T*>(p)[i]) : otherwise;
}

// Place of value i of channel c.
FASTNN_INLINE int64_t offset_of(const Layout& l, int64_t c, int64_t i) {
  return l.rows ? i * l.c + c : (i / l.s * l.c + c) * l.s + i % l.s;
}

// A value from among those of the channel: the middle of three, so that one outlier does not spoil the sums. An
// infinite shift would make NaN of an infinite mean.
template <class T>
FASTNN_INLINE T shift_of(T a, T b, T c) {
  const T low = a < b ? a : b, high = a < b ? b : a, middle = c < low ? low : c < high ? c : high;
  return middle - middle == T(0) ? middle : T(0);
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// resample: a sparse matrix for each of two axes, applied one after the other: what interpolate and pad do, forward
// and, with the transposed matrices, backward. x (outer, h, w, inner) -> y (outer, oh, ow, inner).
//
//   rows      u[i] = sum of weight * x[index] over the taps of i, whole rows at a time: vectors run along w and inner
//   columns   y[j] = sum of weight * u[index] over the taps of j. Channels-last (inner > 1): vectors run along inner.
//             Else `lanes` rows are turned, so that vectors run along the rows, and turned back.
//   copied    columns first .. last read neighbours with weight 1 (the inside of a padded image): whole runs are copied
// A row or a column without taps is `value`; one tap of weight 1 is a copy. Gathers only, products added in the order
// of the taps: nothing is summed in memory, and an infinity touches what its taps touch and no more. Each axis errs by
// its chain of multiply-adds. Tasks are blocks of rows and columns.
#include "kernels/elementwise.hpp"
#include "runtime/scratch.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kColumns = 1024;  // elements of a block of columns: 16 turned rows of them are 64 KB of float

constexpr int64_t at_most(int64_t limit, int64_t n) { return n < limit ? n : limit; }
constexpr int64_t at_least(int64_t limit, int64_t n) { return n > limit ? n : limit; }

template <class T>
constexpr T kOne = T(1);

// The taps of one row or column.
template <class T>
struct Taps {
  const int64_t* index;
  const T* weight;
  int64_t count;

  bool is_copy() const { return count == 1 && *weight == T(1); }
};

template <class T>
struct Table {
  const int64_t *begin, *index;  // null: the identity
  const T* weight;

  FASTNN_MEMBER_INLINE Taps<T> taps(int64_t i) const {
    return {index + begin[i], weight + begin[i], begin[i + 1] - begin[i]};
  }
};

template <class T>
struct Resample {
  const T* x;
  T* y;
  Table<T> rows, columns;
  int64_t w, inner, ow, first, last;  // columns first .. last are copied
  T value;
  bool bypass;   // the output is larger than the caches
  bool repeats;  // a row may be a copy of that before it: the nearest neighbour, enlarging
};

// ---- one run of elements ----

template <class T>
void fill_run(T* y, int64_t n, T value) {
  map_range(0, n, false, y, [v = set1(value)]() FASTNN_INLINED { return v; });
}

// y[k] = sum over the taps of weight * x[index * stride + k], k < n
template <class T>
void weigh_run(Taps<T> taps, const T* x, int64_t stride, int64_t n, T* y) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const T* x0 = x + taps.index[0] * stride;
  const Vec<T> w0 = set1(taps.weight[0]);
  int64_t k = 0;
  for (; k + 4 * lanes <= n; k += 4 * lanes) {
    Vec<T> acc0 = w0 * load(x0 + k), acc1 = w0 * load(x0 + k + lanes);
    Vec<T> acc2 = w0 * load(x0 + k + 2 * lanes), acc3 = w0 * load(x0 + k + 3 * lanes);
    for (int64_t t = 1; t < taps.count; ++t) {
      const T* p = x + taps.index[t] * stride + k;
      const Vec<T> w = load1(taps.weight + t);
      acc0 = fma(w, load(p), acc0), acc1 = fma(w, load(p + lanes), acc1);
      acc2 = fma(w, load(p + 2 * lanes), acc2), acc3 = fma(w, load(p + 3 * lanes), acc3);
    }
    store(y + k, acc0), store(y + k + lanes, acc1);
    store(y + k + 2 * lanes, acc2), store(y + k + 3 * lanes, acc3);
  }
  for (; k < n; k += lanes) {
    const int part = static_cast<int>(at_most(lanes, n - k));
    Vec<T> acc = w0 * load_n(x0 + k, part);
    for (int64_t t = 1; t < taps.count; ++t)
      acc = fma(load1(taps.weight + t), load_n(x + taps.index[t] * stride + k, part), acc);
    store_n(y + k, acc, part);
  }
}

// y[k] = x[k], k < n. The last vector may lie over the one before: a masked one costs more.
template <class T>
FASTNN_INLINE void copy_run(const T* x, int64_t n, T* y, bool bypass) {
  constexpr int64_t lanes = Vec<T>::lanes;
  if (bypass && n >= kColumns / 2) return map_range(0, n, true, y, [](Vec<T> v) FASTNN_INLINED { return v; }, x);
  if (n < lanes) return store_partial(y, load_partial(x, static_cast<int>(n)), static_cast<int>(n));
  for (int64_t k = 0; k + lanes <= n; k += lanes) store(y + k, load(x + k));
  store(y + n - lanes, load(x + n - lanes));
}

template <class T>
void apply_run(Taps<T> taps, const T* x, int64_t stride, int64_t n, T* y, T value, bool bypass) {
  if (taps.count == 0)
    fill_run(y, n, value);
  else if (taps.is_copy())
    copy_run(x + taps.index[0] * stride, n, y, bypass);
  else
    weigh_run(taps, x, stride, n, y);
}

// ---- one row: columns begin .. end of y from u, whose element 0 is column `low` of x ----

template <class T>
FASTNN_INLINE void apply_edge(const Resample<T>& q, const T* u, int64_t low, int64_t begin, int64_t end, T* y) {
  constexpr int64_t lanes = Vec<T>::lanes;
  for (int64_t j = begin; j < end; ++j) {
    const Taps<T> taps = q.columns.taps(j);
    if (q.inner > 1 && taps.count) {
      const T* x = u - low * q.inner;
      const Vec<T> w0 = load1(taps.weight);
      for (int64_t k = 0; k < q.inner; k += lanes) {
        const int part = static_cast<int>(at_most(lanes, q.inner - k));
        Vec<T> acc = w0 * load_n(x + taps.index[0] * q.inner + k, part);
        for (int64_t t = 1; t < taps.count; ++t)
          acc = fma(load1(taps.weight + t), load_n(x + taps.index[t] * q.inner + k, part), acc);
        store_n(y + j * q.inner + k, acc, part);
      }
    } else if (q.inner > 1) {
      fill_run(y + j * q.inner, q.inner, q.value);
    } else {
      T sum = taps.count ? taps.weight[0] * u[taps.index[0] - low] : q.value;
      for (int64_t t = 1; t < taps.count; ++t) sum += taps.weight[t] * u[taps.index[t] - low];
      y[j] = sum;
    }
  }
}

template <class T>
FASTNN_INLINE void apply_columns(const Resample<T>& q, const T* u, int64_t low, int64_t begin, int64_t end, T* y) {
  const int64_t first = at_least(begin, at_most(end, q.first)), last = at_least(first, at_most(end, q.last));
  apply_edge(q, u, low, begin, first, y);
  if (first < last)
    copy_run(u + (q.columns.index[q.columns.begin[first]] - low) * q.inner, (last - first) * q.inner,
             y + first * q.inner, q.bypass);
  apply_edge(q, u, low, last, end, y);
}

// ---- a block of turned rows: as many as lanes ----

// y[j * lanes + r] = column j of row r, from u[c * lanes + r]; written back as `rows` rows of y with row stride ld.
template <class T>
void apply_turned(const Resample<T>& q, const T* u, int64_t low, int64_t begin, int64_t end, int64_t rows, T* y,
                  int64_t ld) {
  constexpr int64_t lanes = Vec<T>::lanes;
  alignas(64) T turned[lanes * lanes], back[lanes * lanes];
  const bool bypass = q.bypass && reinterpret_cast<uintptr_t>(y + begin) % sizeof(Vec<T>) == 0 && ld % lanes == 0;
  for (int64_t j = begin; j < end; j += lanes) {
    const int64_t n = at_most(lanes, end - j);
    for (int64_t i = 0; i < n; ++i) {
      const Taps<T> taps = q.columns.taps(j + i);
      Vec<T> acc = set1(q.value);
      if (taps.count) acc = load1(taps.weight) * load(u + (taps.index[0] - low) * lanes);
      for (int64_t t = 1; t < taps.count; ++t)
        acc = fma(load1(taps.weight + t), load(u + (taps.index[t] - low) * lanes), acc);
      store(turned + i * lanes, acc);
    }
    if (n == lanes && rows == lanes && !bypass) {
      transpose(turned, lanes, y + j, ld);
      continue;
    }
    transpose(turned, lanes, back, lanes);
    if (n == lanes && bypass) {
      for (int64_t r = 0; r < rows; ++r) stream(y + r * ld + j, load(back + r * lanes));
      continue;
    }
    for (int64_t r = 0; r < rows; ++r) store_n(y + r * ld + j, load(back + r * lanes), static_cast<int>(n));
  }
  if (bypass) stream_fence();
}

// ---- a task: rows row0 .. row1 of (outer, oh), columns begin .. end ----

// The columns of x that columns begin .. end of y read.
template <class T>
void read_columns(const Resample<T>& q, int64_t begin, int64_t end, int64_t& low, int64_t& high) {
  low = 0, high = q.w;
  if (end - begin == q.ow) return;
  low = begin, high = end;
  if (!q.columns.begin) return;
  low = q.w, high = 0;
  for (int64_t t = q.columns.begin[begin]; t < q.columns.begin[end]; ++t)
    low = at_most(low, q.columns.index[t]), high = at_least(high, q.columns.index[t] + 1);
  low = at_most(low, high);
}

template <class T>
void resample_task(const Resample<T>& q, int64_t h, int64_t oh, bool turn, int64_t row0, int64_t row1, int64_t begin,
                   int64_t end) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t row_x = q.w * q.inner, row_y = q.ow * q.inner;
  int64_t low, high;
  read_columns(q, begin, end, low, high);
  const int64_t span = (high - low) * q.inner, ld = (span + lanes - 1) / lanes * lanes + lanes;
  T* u = static_cast<T*>(
      runtime::scratch(runtime::Slot::kTask, static_cast<size_t>((turn ? 2 * lanes : 1) * ld) * sizeof(T)));
  T* turned = u + lanes * ld;  // the odd number of lines in ld keeps the rows of u apart in the cache
  // The row in hand: its number in the image, and the image as far as it is read.
  int64_t i = row0 % oh;
  const T* image = q.x + row0 / oh * h * row_x + low * q.inner;
  const auto taps = [&] { return q.rows.begin ? q.rows.taps(i) : Taps<T>{&i, &kOne<T>, 1}; };
  const auto next = [&] {
    if (++i == oh) i = 0, image += h * row_x;
  };
  int64_t r = row0;
  while (turn && row1 - r > lanes / 2) {
    const int64_t rows = at_most(lanes, row1 - r);
    bool empty[lanes];
    for (int64_t k = 0; k < rows; ++k, next()) {
      empty[k] = taps().count == 0;
      apply_run(taps(), image, row_x, span, u + k * ld, q.value, false);
    }
    for (int64_t k = rows; k < lanes; ++k) copy_run(u, span, u + k * ld, false);
    for (int64_t c = 0; c < span; c += lanes) transpose(u + c, ld, turned + c * lanes, lanes);
    apply_turned(q, turned, low, begin, end, rows, q.y + r * row_y, row_y);
    for (int64_t k = 0; k < rows; ++k)
      if (empty[k]) fill_run(q.y + (r + k) * row_y + begin, end - begin, q.value);
    r += rows;
  }
  for (; r < row1; ++r, next()) {
    T* y = q.y + r * row_y;
    const Taps<T> own = taps();
    // Enlarged to the nearest, a row is that before it again.
    const bool again = q.repeats && r > row0 && i > 0 && own.is_copy() && q.rows.taps(i - 1).is_copy() &&
                       own.index[0] == own.index[-1];
    if (again) {
      copy_run(y + begin * q.inner - row_y, (end - begin) * q.inner, y + begin * q.inner, q.bypass);
    } else if (own.count == 0) {
      fill_run(y + begin * q.inner, (end - begin) * q.inner, q.value);
    } else if (!q.columns.begin) {
      apply_run(own, image, row_x, span, y + begin * q.inner, q.value, q.bypass);
    } else if (own.is_copy()) {
      apply_columns(q, image + *own.index * row_x, low, begin, end, y);
    } else {
      weigh_run(own, image, row_x, span, u);
      apply_columns(q, u, low, begin, end, y);
    }
  }
}

template <class T>
void resample_of(const ResampleArgs& args) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t rows = args.outer * args.oh, size = rows * args.ow * args.inner;
  if (size == 0) return;
  Resample<T> q;
  q.x = static_cast<const T*>(args.x), q.y = static_cast<T*>(args.y);
  q.rows = {args.row_begin, args.row_index, static_cast<const T*>(args.row_weight)};
  q.columns = {args.column_begin, args.column_index, static_cast<const T*>(args.column_weight)};
  q.w = args.w, q.inner = args.inner, q.ow = args.ow, q.first = args.column_first, q.last = args.column_last;
  q.value = static_cast<T>(args.value);
  q.bypass = size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  q.repeats = q.rows.begin && q.columns.begin && 2 * (q.last - q.first) < q.ow;
  // Turning costs each element about a third of what a column of its own does.
  const bool turn = q.inner == 1 && q.columns.begin && 3 * (q.ow - (q.last - q.first)) > q.ow && rows > lanes / 2;
  const int64_t block = at_least(1, kColumns / q.inner), blocks = (q.ow + block - 1) / block;
  const int64_t row_size = at_most(q.ow, block) * q.inner;
  const int64_t per_task = (kChunk / lanes + row_size - 1) / row_size * lanes;
  const int64_t row_tasks = (rows + per_task - 1) / per_task;
  runtime::parallel_for(row_tasks * blocks, size * (turn ? 6 : 3) / 10, [&](int64_t task) {
    const int64_t row0 = task / blocks * per_task, column0 = task % blocks * block;
    resample_task(q, args.h, args.oh, turn, row0, at_most(rows, row0 + per_task), column0,
                  at_most(q.ow, column0 + block));
  });
}

}  // namespace

FASTNN_DEFINE(resample, ResampleArgs)

}  // namespace fastnn::FASTNN_ISA

// max_pool2d and avg_pool2d (legend in pool.hpp). A NaN in a window is its maximum; of equal values the first counts,
// and so does the first NaN; padding never does. Saved for backward: argmax, ki * kw + kj. Sums in T; no aliasing.
// Forward in two steps: along each row of x over kj, once, into a ring of rows; then down the ring over ki. Vectors lie
// along the columns of planes (rows are dealt to phases first, so that strided taps are runs) or along the channels.
// Backward of the average, and of the maximum with vectors along the channels, gathers: each row of dx from the windows
// that hold it. The maximum over planes, or over many taps, scatters by argmax. Both add in the order of the windows.
#include "kernels/pool.hpp"

#include <cstring>

#include "kernels/stream.hpp"
#include "simd/bf16.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kTileBytes = 32768;  // of the ring, channels-last

// ---- what a window does with its taps; `at` is the tap of the best so far ----

template <bool with_at>
struct Max {
  static constexpr bool has_at = with_at, divides = false;
  static constexpr double neutral = -__builtin_inf();
};
struct Sum {
  static constexpr bool has_at = false, divides = true;
  static constexpr double neutral = 0.0;
};

template <class Op, class T>
FASTNN_INLINE void join(Vec<T>& best, Vec<T>& at, Vec<T> v, Vec<T> tap) {
  if constexpr (Op::divides) {
    best = best + v;
  } else {
    const Mask<T> wins = beats(v, best);
    best = select(wins, v, best);
    if constexpr (Op::has_at) at = select(wins, tap, at);
  }
}

// ---- forward ----

// The scratch of a task. `tile` columns at a time: all of them for planes, as many as keep the ring in L1 for
// channels-last; a row of the ring holds tile * c values.
template <class T, class Op>
struct Forward {
  int64_t ring, tile, row;
  T *value, *at;            // the ring: the best of each row, and the kj it came from
  T* divisor;               // of each value of a row
  int64_t* held;            // which row of x each row of the ring holds
  const T **values, **ats;  // the rows of one window
  // Planes: a row of x by phases with `neutral` on both sides, where each tap is in it, and of the windows over the
  // left edge the first kj inside.
  int64_t left = 0, pitch = 0, edge = 0;
  T *split = nullptr, *first = nullptr;
  int64_t* offset = nullptr;
  bool hollow = false;  // some windows have no column inside: the tap they report is 0

  FASTNN_MEMBER_INLINE Forward(Place& place, const Axis& rows, const Axis& cols, int64_t c) {
    ring = power_of_two_from((rows.taps - 1) * rows.dilation + 1);
    const int64_t pixel = ring * c * static_cast<int64_t>(sizeof(T)) * (Op::has_at ? 2 : 1);
    tile = c == 1 ? cols.out : max_of(1, min_of(cols.out, kTileBytes / pixel));
    row = whole_vectors(tile * c) + kMaxLanes;
    value = place.take<T>(ring * row);
    at = place.take<T>(Op::has_at ? ring * row : 0);
    divisor = place.take<T>(Op::divides ? row : 0);
    held = place.take<int64_t>(ring);
    values = place.take<const T*>(rows.taps);
    ats = place.take<const T*>(rows.taps);
    if (c != 1) return;
    left = -shift_of(cols, 0);
    const int64_t reach = max_of(0, shift_of(cols, cols.taps - 1)), dealt = ceil_div(cols.in, cols.stride);
    pitch = left + max_of(cols.out + reach, dealt) + 2 * kMaxLanes;
    edge = min_of(cols.out, ceil_div(cols.pad, cols.stride));
    split = place.take<T>(cols.stride * pitch);
    first = place.take<T>(edge + kMaxLanes);
    offset = place.take<int64_t>(cols.taps);
  }
  FASTNN_MEMBER_INLINE void fill(const Axis& cols, int64_t c) {
    for (int64_t j = 0; Op::has_at && j < cols.out; ++j) hollow = hollow || cols.first(j) == cols.last(j);
    if (c != 1) return;
    for (int64_t i = 0; i < cols.stride * pitch; ++i) split[i] = static_cast<T>(Op::neutral);
    for (int64_t j = 0; j < edge + kMaxLanes; ++j) {
      const int64_t k = j < edge ? cols.first(j) : 0;
      first[j] = static_cast<T>(k < cols.taps ? k : 0);
    }
    for (int64_t k = 0; k < cols.taps; ++k) offset[k] = phase_of(cols, k) * pitch + left + shift_of(cols, k);
  }
};

// Deals a row of x to its phases; what a vector holds beyond the row stays neutral.
template <class T, class Op>
FASTNN_INLINE void split_row(const Forward<T, Op>& f, const Axis& cols, const T* x) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const Vec<T> fill = set1(static_cast<T>(Op::neutral));
  T* y = f.split + f.left;
  if (cols.stride == 1) {
    for (int64_t j = 0; j < cols.in; j += lanes) store(y + j, load_filled(x + j, cols.in - j, fill));
  } else if (cols.stride == 2) {
    for (int64_t j = 0; j < cols.in; j += 2 * lanes) {
      const Vec<T> a = load_filled(x + j, cols.in - j, fill), b = load_filled(x + j + lanes, cols.in - j - lanes, fill);
      store(y + j / 2, even_lanes(a, b));
      store(y + f.pitch + j / 2, odd_lanes(a, b));
    }
  } else {
    for (int64_t p = 0; p < min_of(cols.stride, cols.in); ++p)
      for (int64_t j = p, t = p * f.pitch; j < cols.in; j += cols.stride, ++t) y[t] = x[j];
  }
}

// Over kj along a split row. taps: their number, or 0 for any.
template <class T, class Op, int taps>
FASTNN_INLINE void join_split(const Forward<T, Op>& f, const Axis& cols, T* value, T* at) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const T* tap[taps ? taps : 1];
  for (int64_t k = 0; k < (taps ? taps : 1); ++k) tap[k] = f.split + f.offset[k];
  for (int64_t j = 0; j < cols.out; j += lanes) {
    Vec<T> best = load(tap[0] + j), kj = zero<T>();
    if (Op::has_at && j < f.edge) {  // nothing of the padding may win, not even over -inf
      kj = load(f.first + j);
      best = select(gt(kj, zero<T>()), set1(static_cast<T>(Op::neutral)), best);
    }
    if constexpr (taps > 0) {
#pragma GCC unroll 4
      for (int k = 1; k < taps; ++k) join<Op>(best, kj, load(tap[k] + j), set1(static_cast<T>(k)));
    } else {
      for (int64_t k = 1; k < cols.taps; ++k)
        join<Op>(best, kj, load(f.split + f.offset[k] + j), set1(static_cast<T>(k)));
    }
    store(value + j, best);
    if constexpr (Op::has_at) store(at + j, kj);
  }
}

// Over `count` taps from kj = k on, `step` apart, of one pixel of c channels. taps: count, or 0 for any.
template <class T, class Op, int taps>
FASTNN_INLINE void join_pixel(const T* x, int64_t step, int64_t count, int64_t k, int64_t c, T* value, T* at) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const auto channels = [&](int64_t ch, auto&& load_at) FASTNN_INLINED {
    Vec<T> best = load_at(x + ch), kj = set1(static_cast<T>(k));
#pragma GCC unroll 4
    for (int64_t i = 1; i < (taps ? taps : count); ++i)
      join<Op>(best, kj, load_at(x + i * step + ch), set1(static_cast<T>(k + i)));
    store(value + ch, best);
    if constexpr (Op::has_at) store(at + ch, kj);
  };
  int64_t ch = 0;
  for (; ch + lanes <= c; ch += lanes) channels(ch, [](const T* p) FASTNN_INLINED { return load(p); });
  if (ch < c) channels(ch, [&](const T* p) FASTNN_INLINED { return load_partial(p, static_cast<int>(c - ch)); });
}

// Over kj for columns begin .. end of a row of pixels of c channels.
template <class T, class Op>
FASTNN_INLINE void join_pixels(const Axis& cols, const T* x, int64_t c, int64_t begin, int64_t end, T* value, T* at) {
  for (int64_t j = begin; j < end; ++j, value += c, at += c) {
    const int64_t k = cols.first(j), count = cols.last(j) - k, step = cols.dilation * c;
    const T* p = x + cols.at(j, k) * c;
    if (count == 3) {
      join_pixel<T, Op, 3>(p, step, count, k, c, value, at);
    } else if (count == 2) {
      join_pixel<T, Op, 2>(p, step, count, k, c, value, at);
    } else if (count > 0) {
      join_pixel<T, Op, 0>(p, step, count, k, c, value, at);
    } else {
      for (int64_t ch = 0; ch < c; ++ch) value[ch] = static_cast<T>(Op::neutral);
      for (int64_t ch = 0; Op::has_at && ch < c; ++ch) at[ch] = T(0);
    }
  }
}

// Writes ki * kw + kj for n values.
template <class T>
FASTNN_INLINE void store_argmax(const Pool2dArgs& a, int64_t i, Vec<T> ki, Vec<T> kj, int64_t n) {
  constexpr int64_t lanes = Vec<T>::lanes;
  if (a.argmax_bytes == 1) {
    uint8_t* p = static_cast<uint8_t*>(a.argmax) + i;
    const Vec<T> position = fma(ki, set1(static_cast<T>(a.kw)), kj);
    if (n >= lanes) return store_bytes(p, position);
    uint8_t last[kMaxLanes];
    store_bytes(last, position);
    for (int64_t k = 0; k < n; ++k) p[k] = last[k];
  } else {  // in whole numbers: a window may have more than 2^24 taps
    T row[kMaxLanes], col[kMaxLanes];
    store(row, ki);
    store(col, kj);
    int32_t* p = static_cast<int32_t*>(a.argmax) + i;
    for (int64_t k = 0; k < min_of(n, lanes); ++k)
      p[k] = static_cast<int32_t>(static_cast<int64_t>(row[k]) * a.kw + static_cast<int64_t>(col[k]));
  }
}

// Over `count` rows of the ring, from ki = k on, to `size` values of y from i on. taps: count, or 0 for any.
template <class T, class Op, int taps>
FASTNN_INLINE void join_rows(const Pool2dArgs& a, const Forward<T, Op>& f, int64_t count, int64_t k, int64_t i,
                             int64_t size, T divisor) {
  constexpr int64_t lanes = Vec<T>::lanes;
  T* y = static_cast<T*>(a.y) + i;
  const T *value[taps ? taps : 1], *at[taps ? taps : 1];
  for (int64_t r = 0; r < (taps ? taps : 1); ++r) value[r] = f.values[r], at[r] = f.ats[r];
  for (int64_t j = 0; j < size; j += lanes) {
    Vec<T> best = load(value[0] + j), ki = set1(static_cast<T>(k)), kj = ki;
    if constexpr (Op::has_at) kj = load(at[0] + j);
#pragma GCC unroll 4
    for (int64_t r = 1; r < (taps ? taps : count); ++r) {
      const Vec<T> v = load((taps ? value[taps ? r : 0] : f.values[r]) + j);
      if constexpr (Op::has_at) {
        const Mask<T> wins = beats(v, best);
        best = select(wins, v, best);
        ki = select(wins, set1(static_cast<T>(k + r)), ki);
        kj = select(wins, load((taps ? at[taps ? r : 0] : f.ats[r]) + j), kj);
      } else {
        join<Op>(best, ki, v, ki);
      }
    }
    if constexpr (Op::divides) best = best / (load(f.divisor + j) * set1(divisor));
    store_first(y + j, best, size - j);
    if constexpr (Op::has_at) store_argmax(a, i + j, ki, kj, size - j);
  }
}

// Rows begin .. end of y, columns first .. last, of one image.
template <class T, class Op>
FASTNN_INLINE void pool_image(const Pool2dArgs& a, const Forward<T, Op>& f, int64_t c, int64_t image, int64_t begin,
                              int64_t end, int64_t first, int64_t last) {
  const Axis rows = rows_of(a), cols = cols_of(a);
  const T* x = static_cast<const T*>(a.x) + image * a.h * a.w * c;
  for (int64_t r = 0; r < f.ring; ++r) f.held[r] = -1;
  if constexpr (Op::divides)
    for (int64_t j = first, i = 0; j < last; ++j)
      for (int64_t ch = 0; ch < c; ++ch) f.divisor[i++] = static_cast<T>(divisor_of_col(a, j));
  for (int64_t oi = begin; oi < end; ++oi) {
    const int64_t k = rows.first(oi), count = rows.last(oi) - k;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = rows.at(oi, k + r), slot = row & (f.ring - 1);
      T *value = f.value + slot * f.row, *at = f.at + slot * f.row;
      f.values[r] = value;
      f.ats[r] = at;
      if (f.held[slot] == row) continue;
      f.held[slot] = row;
      if (c != 1) {
        join_pixels<T, Op>(cols, x + row * a.w * c, c, first, last, value, at);
      } else {
        split_row(f, cols, x + row * a.w);
        if (cols.taps == 3)
          join_split<T, Op, 3>(f, cols, value, at);
        else if (cols.taps == 2)
          join_split<T, Op, 2>(f, cols, value, at);
        else
          join_split<T, Op, 0>(f, cols, value, at);
      }
    }
    const int64_t size = (last - first) * c, i = ((image * a.oh + oi) * a.ow + first) * c;
    const T divisor = static_cast<T>(Op::divides ? divisor_of_row(a, oi) : 1);
    if (count == 3) {
      join_rows<T, Op, 3>(a, f, count, k, i, size, divisor);
    } else if (count == 2) {
      join_rows<T, Op, 2>(a, f, count, k, i, size, divisor);
    } else if (count > 0) {
      join_rows<T, Op, 0>(a, f, count, k, i, size, divisor);
    } else {  // windows of padding alone
      for (int64_t j = i; j < i + size; ++j) {
        static_cast<T*>(a.y)[j] = static_cast<T>(Op::neutral);
        if constexpr (Op::has_at) store_argmax(a, j, zero<T>(), zero<T>(), 1);
      }
    }
    for (int64_t j = first; f.hollow && j < last; ++j)
      for (int64_t ch = 0; cols.first(j) == cols.last(j) && ch < c; ++ch)
        store_argmax(a, i + (j - first) * c + ch, zero<T>(), zero<T>(), 1);
  }
}

template <class T, class Op>
static void pool_forward(const Pool2dArgs& a) {
  const Axis rows = rows_of(a), cols = cols_of(a);
  const Images images = images_of(a);
  const int64_t elements = max_of(a.h * a.w, a.oh * a.ow) * images.c;
  for_bands(images.count, a.oh, elements, 400, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    Forward<T, Op> f = buffers_of<Forward<T, Op>>(rows, cols, images.c);
    f.fill(cols, images.c);
    for (; image < last; ++image)
      for (int64_t j = 0; j < a.ow; j += f.tile)
        pool_image<T, Op>(a, f, images.c, image, begin, end, j, min_of(j + f.tile, a.ow));
  });
}

// ---- backward by gathering ----

// A place in dy that may feed an element of dx: it does where its argmax is `code`.
template <class T>
struct Source {
  int64_t i;
  T code;
};

// The windows along one axis that hold position i, ascending: tap k of window o. Returns how many.
FASTNN_INLINE int64_t holders(const Axis& a, int64_t i, int64_t* o, int64_t* k) {
  int64_t count = 0;
  for (int64_t tap = a.taps - 1; tap >= 0; --tap) {
    const int64_t from = i + a.pad - tap * a.dilation;
    if (from < 0 || from % a.stride != 0 || from / a.stride >= a.out) continue;
    o[count] = from / a.stride;
    k[count++] = tap;
  }
  return count;
}

template <class T>
FASTNN_INLINE Vec<T> load_argmax(const Pool2dBackwardArgs& a, int64_t i, int64_t n) {
  constexpr int64_t lanes = Vec<T>::lanes;
  if (a.argmax_bytes == 1) {
    const uint8_t* p = static_cast<const uint8_t*>(a.argmax) + i;
    if (n >= lanes) return load_bytes<T>(p);
    uint8_t last[kMaxLanes] = {};
    for (int64_t k = 0; k < n; ++k) last[k] = p[k];
    return load_bytes<T>(last);
  }
  T r[kMaxLanes] = {};
  for (int64_t k = 0; k < min_of(n, lanes); ++k) r[k] = static_cast<T>(static_cast<const int32_t*>(a.argmax)[i + k]);
  return load(r);
}

// The scratch of a task. For planes, which are averages, the sum of what the windows over a row of dx give stands with
// zeros on both sides, so that shifted loads know no edge.
template <class T, bool has_at>
struct Backward {
  int64_t left, row, pitch;
  T* dy;
  int64_t *row_o, *row_k;
  int64_t *rows_o, *rows_k, *rows_begin;  // the holders of each row of the band
  Source<T>* sources;                     // planes: of a row, by phases; channels-last: of a pixel
  T *row_share, *col_divisor;             // average: 1 / divisor of each of row_o; of each window
  T *split, *band;                        // planes: a row of dx by phases; the rows of an image
  int64_t* phase_begin;                   // planes: where a phase's sources begin
  int64_t *col_o, *col_k, *col_begin;     // channels-last: the holders of each column

  FASTNN_MEMBER_INLINE Backward(Place& place, const Axis& rows, const Axis& cols, int64_t c, int64_t band_rows) {
    const bool planes = c == 1;
    left = planes ? max_of(0, shift_of(cols, cols.taps - 1)) : 0;
    pitch = ceil_div(cols.in, cols.stride) + kMaxLanes;
    row = (planes ? left + max_of(cols.out, pitch - shift_of(cols, 0)) : cols.out * c) + kMaxLanes;
    dy = place.take<T>(has_at ? 0 : row);
    row_o = place.take<int64_t>(rows.taps);
    row_k = place.take<int64_t>(rows.taps);
    rows_o = place.take<int64_t>(min_of(band_rows, rows.out) * rows.taps);
    rows_k = place.take<int64_t>(min_of(band_rows, rows.out) * rows.taps);
    rows_begin = place.take<int64_t>(band_rows + 1);
    sources = place.take<Source<T>>((has_at ? rows.taps : 1) * cols.taps);
    row_share = place.take<T>(has_at ? 0 : rows.taps);
    col_divisor = place.take<T>(has_at ? 0 : cols.out + kMaxLanes);
    split = place.take<T>(planes && cols.stride > 1 ? cols.stride * pitch : 0);
    band = place.take<T>(planes ? band_rows * cols.in + 2 * kMaxLanes : 0);
    phase_begin = place.take<int64_t>(planes ? cols.stride + 1 : 0);
    col_o = place.take<int64_t>(planes ? 0 : cols.out * cols.taps);
    col_k = place.take<int64_t>(planes ? 0 : cols.out * cols.taps);
    col_begin = place.take<int64_t>(planes ? 0 : cols.in + 1);
  }
  FASTNN_MEMBER_INLINE void fill(const Pool2dBackwardArgs& a, int64_t c, int64_t begin, int64_t end) {
    const Axis rows = rows_of(a), cols = cols_of(a);
    rows_begin[0] = 0;
    for (int64_t i = 0; i < end - begin; ++i)
      rows_begin[i + 1] = rows_begin[i] + holders(rows, begin + i, rows_o + rows_begin[i], rows_k + rows_begin[i]);
    for (int64_t j = 0; !has_at && j < cols.out + kMaxLanes; ++j)
      col_divisor[j] = static_cast<T>(j < cols.out ? divisor_of_col(a, j) : 1);
    if (c != 1) {
      col_begin[0] = 0;
      for (int64_t j = 0; j < cols.in; ++j)
        col_begin[j + 1] = col_begin[j] + holders(cols, j, col_o + col_begin[j], col_k + col_begin[j]);
      return;
    }
    for (int64_t i = 0; !has_at && i < row; ++i) dy[i] = T(0);
    int64_t n = 0;
    for (int64_t p = 0; p < cols.stride; ++p) {
      phase_begin[p] = n;
      for (int64_t k = cols.taps - 1; k >= 0; --k)  // later taps are earlier windows
        if (phase_of(cols, k) == p) sources[n++] = {left - shift_of(cols, k), T(0)};
    }
    phase_begin[cols.stride] = n;
  }
};

// f.dy = the sum of dy / divisor over `count` rows of windows, row_o, of one image.
template <class T>
FASTNN_INLINE void sum_shares(const Pool2dBackwardArgs& a, const Backward<T, false>& f, int64_t c, int64_t image,
                              int64_t count) {
  constexpr int64_t lanes = Vec<T>::lanes;
  for (int64_t r = 0; r < count; ++r) f.row_share[r] = T(1) / static_cast<T>(divisor_of_row(a, f.row_o[r]));
  const T* dy = static_cast<const T*>(a.dy) + image * a.oh * a.ow * c;
  const auto total = [&](int64_t j, int64_t n) FASTNN_INLINED {
    Vec<T> acc = zero<T>();
    for (int64_t r = 0; r < count; ++r)
      acc = fma(load_filled(dy + f.row_o[r] * a.ow * c + j, n, zero<T>()), set1(f.row_share[r]), acc);
    return acc;
  };
  if (c == 1) {
    for (int64_t j = 0; j < a.ow; j += lanes) store(f.dy + f.left + j, total(j, a.ow - j) / load(f.col_divisor + j));
  } else {
    for (int64_t j = 0; j < a.ow; ++j)
      for (int64_t ch = 0; ch < c; ch += lanes)
        store(f.dy + j * c + ch, total(j * c + ch, c - ch) / set1(f.col_divisor[j]));
  }
}

// A row of dx of planes, which takes whole vectors: what they write beyond the row the next one does again.
template <class T>
FASTNN_INLINE void gather_row(const Backward<T, false>& f, const Axis& cols, T* dx) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t dealt = ceil_div(cols.in, cols.stride);
  const auto phase_at = [&](int64_t phase, int64_t t) FASTNN_INLINED {
    Vec<T> acc = zero<T>();
    for (const Source<T>*s = f.sources + f.phase_begin[phase], *end = f.sources + f.phase_begin[phase + 1]; s < end;
         ++s)
      acc = acc + load(f.dy + s->i + t);
    return acc;
  };
  if (cols.stride == 1) {
    for (int64_t t = 0; t < cols.in; t += lanes) store(dx + t, phase_at(0, t));
  } else if (cols.stride == 2) {
    for (int64_t t = 0; t < dealt; t += lanes) {
      Vec<T> low, high;
      interleave(phase_at(0, t), phase_at(1, t), low, high);
      store(dx + 2 * t, low);
      if (2 * t + lanes < cols.in) store(dx + 2 * t + lanes, high);
    }
  } else {
    for (int64_t p = 0; p < min_of(cols.stride, cols.in); ++p) {
      T* split = f.split + p * f.pitch;
      for (int64_t t = 0; t < dealt; t += lanes) store(split + t, phase_at(p, t));
      for (int64_t j = p, t = 0; j < cols.in; j += cols.stride, ++t) dx[j] = split[t];
    }
  }
}

// A pixel of dx of c channels, from `count` sources that are offsets in dy and argmax.
template <class T, bool has_at>
FASTNN_INLINE void gather_pixel(const Pool2dBackwardArgs& a, const Source<T>* sources, int64_t count, const T* dy,
                                int64_t c, T* dx) {
  for (int64_t ch = 0; ch < c; ch += Vec<T>::lanes) {
    Vec<T> acc = zero<T>();
    for (const Source<T>* s = sources; s < sources + count; ++s) {
      Vec<T> v = load_filled(dy + s->i + ch, c - ch, zero<T>());
      if constexpr (has_at) v = select(eq(load_argmax<T>(a, s->i + ch, c - ch), load1(&s->code)), v, zero<T>());
      acc = acc + v;
    }
    store_first(dx + ch, acc, c - ch);
  }
}

// y = x, past the caches if streaming; x has whole vectors.
template <class T>
FASTNN_INLINE void copy_out(T* y, const T* x, int64_t n, bool streaming) {
  constexpr int64_t lanes = Vec<T>::lanes;
  int64_t i = 0;
  if (streaming) {
    i = before_aligned(y, n);
    store_partial(y, load(x), static_cast<int>(i));
    for (; i + lanes <= n; i += lanes) stream(y + i, load(x + i));
  }
  for (; i < n; i += lanes) store_first(y + i, load(x + i), n - i);
}

// Row i of dx of one image; of planes to f.band.
template <class T, bool has_at>
FASTNN_INLINE void pool_row_backward(const Pool2dBackwardArgs& a, const Backward<T, has_at>& f, int64_t c,
                                     int64_t image, int64_t begin, int64_t i) {
  const Axis cols = cols_of(a);
  const int64_t from = f.rows_begin[i - begin];
  int64_t count = f.rows_begin[i - begin + 1] - from;
  for (int64_t r = 0; r < count; ++r) f.row_o[r] = f.rows_o[from + r], f.row_k[r] = f.rows_k[from + r];
  if constexpr (!has_at) {  // from here on there is one row, f.dy
    sum_shares(a, f, c, image, count);
    count = 1;
    f.row_o[0] = f.row_k[0] = 0;
  }
  if (c == 1) {
    if constexpr (!has_at) gather_row(f, cols, f.band + (i - begin) * a.w);
  } else {
    T* dx = static_cast<T*>(a.dx) + (image * a.h + i) * a.w * c;
    for (int64_t j = 0; j < a.w; ++j, dx += c) {
      int64_t n = 0;
      for (int64_t r = 0; r < count; ++r)
        for (int64_t k = f.col_begin[j]; k < f.col_begin[j + 1]; ++k) {
          const int64_t row = has_at ? image * a.oh + f.row_o[r] : 0;
          f.sources[n++] = {(row * a.ow + f.col_o[k]) * c, static_cast<T>(f.row_k[r] * a.kw + f.col_k[k])};
        }
      gather_pixel<T, has_at>(a, f.sources, n, has_at ? static_cast<const T*>(a.dy) : f.dy, c, dx);
    }
  }
}

template <class T, bool has_at>
static void pool_gather(const Pool2dBackwardArgs& a) {
  const Axis rows = rows_of(a), cols = cols_of(a);
  const Images images = images_of(a);
  T* dx = static_cast<T*>(a.dx);
  const bool streaming = images.c == 1 && streams(dx, a.n * a.c * a.h * a.w);
  for_bands(images.count, a.h, a.h * a.w * images.c, 400, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    Backward<T, has_at> f = buffers_of<Backward<T, has_at>>(rows, cols, images.c, end - begin);
    f.fill(a, images.c, begin, end);
    for (; image < last; ++image) {
      for (int64_t i = begin; i < end; ++i) pool_row_backward<T, has_at>(a, f, images.c, image, begin, i);
      if (images.c == 1) copy_out(dx + (image * a.h + begin) * a.w, f.band, (end - begin) * a.w, streaming);
    }
    if (streaming) stream_fence();
  });
}

// ---- backward by scattering: some planes at a time, or some channels of an image ----

struct Offsets {
  int64_t *tap, *col;  // from a window's first cell to each tap; of the columns with a tap inside
  FASTNN_MEMBER_INLINE Offsets(Place& place, int64_t taps, int64_t cols)
      : tap(place.take<int64_t>(taps)), col(place.take<int64_t>(cols)) {}
};
template <class T>
struct Scatter : Offsets {
  T* band;  // a plane on its way past the caches
  FASTNN_MEMBER_INLINE Scatter(Place& place, int64_t taps, int64_t cols, int64_t size)
      : Offsets(place, taps, cols), band(place.take<T>(size)) {}
};

template <class T, class Index>
static void pool_scatter(const Pool2dBackwardArgs& a) {
  const Axis rows = rows_of(a), cols = cols_of(a);
  const Images images = images_of(a);
  const int64_t c = images.c, block = min_of(c, 64), blocks = ceil_div(c, block), size = a.h * a.w;
  const int64_t group = c == 1 ? max_of(1, kTaskElements / size) : 1;
  const bool streaming = c == 1 && size <= kTaskElements && streams(static_cast<T*>(a.dx), a.n * a.c * size);
  const int64_t work = a.n * a.c * (a.oh * a.ow * 2 + size / 8);
  runtime::parallel_for(ceil_div(images.count, group) * blocks, work, [&](int64_t task) {
    const int64_t first = task % blocks * block, last = min_of(first + block, c);
    const Scatter<T> f = buffers_of<Scatter<T>>(a.kh * a.kw, a.ow, streaming ? size + kMaxLanes : 0);
    const int64_t *tap = f.tap, *col = f.col;
    for (int64_t ki = 0; ki < a.kh; ++ki)
      for (int64_t kj = 0; kj < a.kw; ++kj) f.tap[ki * a.kw + kj] = (ki * a.dilation_h * a.w + kj * a.dilation_w) * c;
    int64_t count = 0;  // windows of padding alone have no winner
    for (int64_t oj = 0; oj < a.ow; ++oj)
      if (cols.first(oj) < cols.last(oj)) f.col[count++] = oj;
    const int64_t begin = task / blocks * group;
    for (int64_t image = begin; image < min_of(begin + group, images.count); ++image) {
      T *to = static_cast<T*>(a.dx) + image * size * c, *dx = streaming ? f.band : to;
      for (int64_t i = 0; i < (blocks > 1 ? size : 1); ++i)
        std::memset(dx + i * c + first, 0, static_cast<size_t>(blocks > 1 ? last - first : size * c) * sizeof(T));
      for (int64_t oi = 0; oi < a.oh; ++oi) {
        if (rows.first(oi) == rows.last(oi)) continue;
        const int64_t i = (image * a.oh + oi) * a.ow * c;
        const T* dy = static_cast<const T*>(a.dy) + i;
        const Index* argmax = static_cast<const Index*>(a.argmax) + i;
        const int64_t corner = (rows.at(oi, 0) * a.w - a.pad_w) * c;
        if (count == a.ow && c == 1) {
          for (int64_t j = 0; j < a.ow; ++j) dx[corner + j * a.stride_w + tap[argmax[j]]] += dy[j];
          continue;
        }
        for (int64_t k = 0; k < count; ++k)
          for (int64_t ch = first, j = col[k]; ch < last; ++ch)
            dx[corner + j * a.stride_w * c + tap[argmax[j * c + ch]] + ch] += dy[j * c + ch];
      }
      if (streaming) copy_out(to, dx, size, true);
    }
    if (streaming) stream_fence();
  });
}

// ---- exported ----

// The largest of each window of bfloat16, channels-last; window by window, as memory is what it waits for.
static void max_pool2d_of_bf16(const Pool2dArgs& a) {
  constexpr int64_t lanes = Vec<float>::lanes;
  struct Taps {
    int64_t first, count;  // where the first tap inside the image reads, and how many there are
  };
  const auto inside = [](int64_t at, int64_t taps, int64_t dilation, int64_t size) {
    const int64_t before = at < 0 ? ceil_div(-at, dilation) : 0, first = at + before * dilation;
    return Taps{first, first < size ? max_of(0, min_of(taps - before, ceil_div(size - first, dilation))) : 0};
  };
  for_bands(a.n, a.oh, a.h * a.w * a.c, 100, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    for (; image < last; ++image)
      for (int64_t i = begin; i < end; ++i) {
        const Taps rows = inside(i * a.stride_h - a.pad_h, a.kh, a.dilation_h, a.h);
        uint16_t* y = static_cast<uint16_t*>(a.y) + (image * a.oh + i) * a.ow * a.c;
        for (int64_t j = 0; j < a.ow; ++j, y += a.c) {
          const Taps columns = inside(j * a.stride_w - a.pad_w, a.kw, a.dilation_w, a.w);
          const uint16_t* x =
              static_cast<const uint16_t*>(a.x) + ((image * a.h + rows.first) * a.w + columns.first) * a.c;
          for (int64_t c = 0; c < a.c; c += lanes) {
            const int n = static_cast<int>(min_of(lanes, a.c - c));
            Vec<float> best = set1(-__builtin_inff());
            for (int64_t ki = 0; ki < rows.count; ++ki)
              for (int64_t kj = 0; kj < columns.count; ++kj) {
                const uint16_t* from = x + (ki * a.dilation_h * a.w + kj * a.dilation_w) * a.c + c;
                const Vec<float> v = n == lanes ? load_float(from) : load_float_partial(from, n);
                best = select(beats(v, best), v, best);
              }
            n == lanes ? store_float(y + c, best) : store_float_partial(y + c, best, n);
          }
        }
      }
  });
}

template <class T>
static void max_pool2d_forward_of(const Pool2dArgs& a) {
  a.argmax ? pool_forward<T, Max<true>>(a) : pool_forward<T, Max<false>>(a);
}
template <class T>
static void max_pool2d_backward_of(const Pool2dBackwardArgs& a) {
  // A scattered element takes about 4 cycles, a tap of a gathered vector 2-3; but a gathered row of planes takes 60
  // more.
  if (images_of(a).c > 1 && a.kh * a.kw <= 2 * Vec<T>::lanes) return pool_gather<T, true>(a);
  a.argmax_bytes == 1 ? pool_scatter<T, uint8_t>(a) : pool_scatter<T, int32_t>(a);
}
template <class T>
static void avg_pool2d_forward_of(const Pool2dArgs& a) {
  pool_forward<T, Sum>(a);
}
template <class T>
static void avg_pool2d_backward_of(const Pool2dBackwardArgs& a) {
  pool_gather<T, false>(a);
}

}  // namespace

void max_pool2d_forward(const Pool2dArgs& a) {
  if (a.dtype == kBfloat16) return max_pool2d_of_bf16(a);
  a.dtype == kFloat32 ? max_pool2d_forward_of<float>(a) : max_pool2d_forward_of<double>(a);
}
FASTNN_DEFINE(max_pool2d_backward, Pool2dBackwardArgs)
FASTNN_DEFINE(avg_pool2d_forward, Pool2dArgs)
FASTNN_DEFINE(avg_pool2d_backward, Pool2dBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

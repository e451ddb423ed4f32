// adaptive_avg_pool2d and adaptive_max_pool2d: window i of an axis is floor(i in / out) to ceil((i + 1) in / out).
// Legend as in pool.hpp; c channels a pixel: 1 for planes, all of them for channels-last. A NaN in a window is its
// maximum; of equal values, and of NaNs, the first counts. Saved for backward: argmax, i * w + j in the plane. Sums in
// T, no aliasing.
// Forward in two steps: down the rows of a window, with vectors along a whole row of x, then across the columns; there
// vectors lie along the channels, and for planes along some rows of y, which are turned for that: value by value they
// took six times as long. The average backward is the same the other way round, value by value for planes: element i
// lies in the windows floor(i out / in) to ceil((i + 1) out / in), and rows of dx with the same windows are copies. The
// maximum backward scatters.
#include <cstring>

#include "kernels/pool.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Span {
  int64_t begin, end;
};
// The part of `in` elements that is number i of `out` parts.
FASTNN_INLINE Span span_of(int64_t i, int64_t in, int64_t out) { return {i * in / out, ceil_div((i + 1) * in, out)}; }

// The scratch of a task: a row of x's width, and for the maximum the row of x that each value came from; and the parts
// of both axes, in which the divisions of span_of would cost more than the sums.
template <class T>
struct Line {
  T *value, *from;
  Span *rows, *cols;
  FASTNN_MEMBER_INLINE Line(Place& place, int64_t width, bool has_from, int64_t n_rows, int64_t n_cols)
      : value(place.take<T>(whole_vectors(width))),
        from(place.take<T>(has_from ? whole_vectors(width) : 0)),
        rows(place.take<Span>(n_rows)),
        cols(place.take<Span>(n_cols)) {}
  FASTNN_MEMBER_INLINE void fill(int64_t n_rows, int64_t of_rows, int64_t n_cols, int64_t of_cols) {
    for (int64_t i = 0; i < n_rows; ++i) rows[i] = span_of(i, of_rows, n_rows);
    for (int64_t j = 0; j < n_cols; ++j) cols[j] = span_of(j, of_cols, n_cols);
  }
};

// ---- forward ----

// value = the sum over rows begin .. end of x, `width` values each.
template <class T>
FASTNN_INLINE void sum_down(const T* x, Span rows, int64_t width, T* value) {
  for (int64_t j = 0; j < width; j += Vec<T>::lanes) {
    Vec<T> sum = load_filled(x + rows.begin * width + j, width - j, zero<T>());
    for (int64_t i = rows.begin + 1; i < rows.end; ++i)
      sum = sum + load_filled(x + i * width + j, width - j, zero<T>());
    store(value + j, sum);
  }
}

// value = the maximum, and with_at from = the row that it is in.
template <bool with_at, class T>
FASTNN_INLINE void max_down(const T* x, Span rows, int64_t width, T* value, T* from) {
  const Vec<T> low = set1(static_cast<T>(-__builtin_inf()));
  for (int64_t j = 0; j < width; j += Vec<T>::lanes) {
    Vec<T> best = load_filled(x + rows.begin * width + j, width - j, low), at = set1(static_cast<T>(rows.begin));
    for (int64_t i = rows.begin + 1; i < rows.end; ++i) {
      const Vec<T> v = load_filled(x + i * width + j, width - j, low);
      const Mask<T> wins = beats(v, best);
      best = select(wins, v, best);
      if constexpr (with_at) at = select(wins, set1(static_cast<T>(i)), at);
    }
    store(value + j, best);
    if constexpr (with_at) store(from + j, at);
  }
}

// Whether (v, row), further right, comes before (best, at): larger, or equal (or both NaN) and in an earlier row.
template <class T>
FASTNN_INLINE Mask<T> wins_over(Vec<T> v, Vec<T> row, Vec<T> best, Vec<T> at) {
  return beats(v, best) | ((eq(v, best) | (is_nan(v) & is_nan(best))) & lt(row, at));
}

// One pixel of y: the sum of `taps` pixels of the line, divided if `divides`.
template <bool divides, class T>
FASTNN_INLINE void sum_across(const T* value, int64_t taps, int64_t c, T divisor, T* y) {
  if (c == 1) {
    T total = value[0];
    for (int64_t k = 1; k < taps; ++k) total += value[k];
    *y = divides ? total / divisor : total;
    return;
  }
  for (int64_t ch = 0; ch < c; ch += Vec<T>::lanes) {  // a line ends in whole vectors
    Vec<T> total = load_filled(value + ch, c - ch, zero<T>());
    for (int64_t k = 1; k < taps; ++k) total = total + load_filled(value + k * c + ch, c - ch, zero<T>());
    store_first(y + ch, divides ? total / set1(divisor) : total, c - ch);
  }
}

// The same for the maximum; with_at, `w` and `column` make the position of the first pixel.
template <bool with_at, class T>
FASTNN_INLINE void max_across(const T* value, const T* from, int64_t taps, int64_t c, int64_t w, int64_t column, T* y,
                              int64_t* argmax) {
  for (int64_t ch = 0; ch < c; ch += Vec<T>::lanes) {
    Vec<T> best = load_filled(value + ch, c - ch, zero<T>()), at = zero<T>(), tap = zero<T>();
    if constexpr (with_at) at = load_filled(from + ch, c - ch, zero<T>());
    for (int64_t k = 1; k < taps; ++k) {
      const Vec<T> v = load_filled(value + k * c + ch, c - ch, zero<T>());
      if constexpr (with_at) {
        const Vec<T> row = load_filled(from + k * c + ch, c - ch, zero<T>());
        const Mask<T> wins = wins_over(v, row, best, at);
        best = select(wins, v, best);
        at = select(wins, row, at);
        tap = select(wins, set1(static_cast<T>(k)), tap);
      } else {
        best = select(beats(v, best), v, best);
      }
    }
    store_first(y + ch, best, c - ch);
    if (!with_at) continue;
    T rows[kMaxLanes], taps_of[kMaxLanes];
    store(rows, at);
    store(taps_of, tap);
    for (int64_t i = 0; i < min_of(c - ch, Vec<T>::lanes); ++i)
      argmax[ch + i] = static_cast<int64_t>(rows[i]) * w + column + static_cast<int64_t>(taps_of[i]);
  }
}

template <bool maximum, bool with_at, class T>
static void adaptive_pixels(const AdaptivePoolArgs& a) {
  const int64_t c = a.c, width = a.w * c, larger = max_of(a.h * a.w, a.oh * a.ow) * c;
  for_bands(a.n, a.oh, larger, 600, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    Line<T> f = buffers_of<Line<T>>(width, with_at, a.oh, a.ow);
    f.fill(a.oh, a.h, a.ow, a.w);
    for (; image < last; ++image) {
      const T* x = static_cast<const T*>(a.x) + image * a.h * width;
      for (int64_t oi = begin; oi < end; ++oi) {
        const Span rows = f.rows[oi];
        maximum ? max_down<with_at>(x, rows, width, f.value, f.from) : sum_down(x, rows, width, f.value);
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          const Span cols = f.cols[oj];
          const int64_t at = ((image * a.oh + oi) * a.ow + oj) * c, taps = cols.end - cols.begin;
          T* y = static_cast<T*>(a.y) + at;
          if (maximum)
            max_across<with_at>(f.value + cols.begin * c, f.from + cols.begin * c, taps, c, a.w, cols.begin, y,
                                with_at ? a.argmax + at : nullptr);
          else
            sum_across<true>(f.value + cols.begin * c, taps, c, static_cast<T>((rows.end - rows.begin) * taps), y);
        }
      }
    }
  });
}

// Some rows of y of planes, one in each lane: what goes down lies row by row, what goes across column by column.
template <class T>
struct Turned {
  static constexpr int64_t lanes = Vec<T>::lanes;
  int64_t width, out_width;  // of x and of y, in whole vectors
  T *value, *from, *value_turned, *from_turned, *y, *y_turned, *heights;
  int64_t* argmax;

  FASTNN_MEMBER_INLINE Turned(Place& place, int64_t w, int64_t ow, bool has_from)
      : width(ceil_div(w, lanes) * lanes),
        out_width(ceil_div(ow, lanes) * lanes),
        value(place.take<T>(lanes * width)),
        from(place.take<T>(has_from ? lanes * width : 0)),
        value_turned(place.take<T>(lanes * width)),
        from_turned(place.take<T>(has_from ? lanes * width : 0)),
        y(place.take<T>(lanes * out_width)),
        y_turned(place.take<T>(lanes * out_width)),
        heights(place.take<T>(lanes)),
        argmax(place.take<int64_t>(has_from ? lanes * out_width : 0)) {}
};

// to[j * lanes + i] = from[i * width + j], or back
template <class T>
FASTNN_INLINE void turn(const T* from, int64_t width, T* to) {
  for (int64_t j = 0; j < width; j += Vec<T>::lanes) transpose(from + j, width, to + j * Vec<T>::lanes, Vec<T>::lanes);
}
template <class T>
FASTNN_INLINE void turn_back(const T* from, int64_t width, T* to) {
  for (int64_t j = 0; j < width; j += Vec<T>::lanes) transpose(from + j * Vec<T>::lanes, Vec<T>::lanes, to + j, width);
}

template <bool maximum, bool with_at, class T>
static void adaptive_planes(const AdaptivePoolArgs& a) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t planes = a.n * a.c, size = a.h * a.w;
  for_bands(planes, a.oh, max_of(size, a.oh * a.ow), 200, [&](int64_t plane, int64_t last, int64_t begin, int64_t end) {
    struct Buffers {
      Line<T> spans;
      Turned<T> turned;
      FASTNN_MEMBER_INLINE Buffers(Place& place, int64_t h_out, int64_t w, int64_t w_out)
          : spans(place, 0, false, h_out, w_out), turned(place, w, w_out, with_at) {}
    };
    Buffers buffers = buffers_of<Buffers>(a.oh, a.w, a.ow);
    buffers.spans.fill(a.oh, a.h, a.ow, a.w);
    const Turned<T>& t = buffers.turned;
    const int64_t band = end - begin, count = (last - plane) * band;  // rows of y
    for (int64_t first = 0; first < count; first += lanes) {
      const int64_t some = min_of(lanes, count - first);
      const auto plane_of = [&](int64_t i) { return plane + (first + i) / band; };
      const auto row_of = [&](int64_t i) { return begin + (first + i) % band; };
      for (int64_t i = 0; i < lanes; ++i) {  // where rows are too few the last one fills up
        const int64_t line = min_of(i, some - 1);
        const T* x = static_cast<const T*>(a.x) + plane_of(line) * size;
        const Span rows = buffers.spans.rows[row_of(line)];
        t.heights[i] = static_cast<T>(rows.end - rows.begin);
        if constexpr (maximum)
          max_down<with_at>(x, rows, a.w, t.value + i * t.width, t.from + i * t.width);
        else
          sum_down(x, rows, a.w, t.value + i * t.width);
      }
      turn(t.value, t.width, t.value_turned);
      if constexpr (with_at) turn(t.from, t.width, t.from_turned);
      for (int64_t oj = 0; oj < a.ow; ++oj) {
        const Span cols = buffers.spans.cols[oj];
        const int64_t taps = cols.end - cols.begin;
        const T* value = t.value_turned + cols.begin * lanes;
        T* y = t.y_turned + oj * lanes;
        if constexpr (maximum) {
          max_across<with_at>(value, t.from_turned + cols.begin * lanes, taps, lanes, a.w, cols.begin, y,
                              t.argmax + oj * lanes);
        } else {
          sum_across<false>(value, taps, lanes, T(1), y);
          store(y, load(y) / (load(t.heights) * set1(static_cast<T>(taps))));
        }
      }
      turn_back(t.y_turned, t.out_width, t.y);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t at = (plane_of(i) * a.oh + row_of(i)) * a.ow;
        T* y = static_cast<T*>(a.y) + at;
        for (int64_t j = 0; j < a.ow; j += lanes) store_first(y + j, load(t.y + i * t.out_width + j), a.ow - j);
        if constexpr (with_at)
          for (int64_t j = 0; j < a.ow; ++j) a.argmax[at + j] = t.argmax[j * lanes + i];
      }
    }
  });
}

template <bool maximum, bool with_at, class T>
static void adaptive_forward(const AdaptivePoolArgs& a) {
  images_of(a).c == 1 ? adaptive_planes<maximum, with_at, T>(a) : adaptive_pixels<maximum, with_at, T>(a);
}

// ---- backward ----

template <class T>
static void adaptive_avg_pool2d_backward_of(const AdaptivePoolBackwardArgs& a) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const Images images = images_of(a);
  const int64_t c = images.c, width = a.ow * c, larger = max_of(a.h * a.w, a.oh * a.ow) * c;
  for_bands(images.count, a.h, larger, 600, [&](int64_t image, int64_t last, int64_t begin, int64_t end) {
    Line<T> f = buffers_of<Line<T>>(width, true, a.h, a.w);  // from: the columns of each window
    f.fill(a.h, a.oh, a.w, a.ow);
    for (int64_t oj = 0; oj < a.ow; ++oj) {
      const Span cols = span_of(oj, a.w, a.ow);
      f.from[oj] = static_cast<T>(cols.end - cols.begin);
    }
    for (; image < last; ++image) {
      const T* dy = static_cast<const T*>(a.dy) + image * a.oh * width;
      T* dx = static_cast<T*>(a.dx) + image * a.h * a.w * c;
      Span before{-1, -1};
      for (int64_t i = begin; i < end; ++i) {
        const Span windows = f.rows[i];
        T* to = dx + i * a.w * c;
        if (windows.begin == before.begin && windows.end == before.end) {
          std::memcpy(to, to - a.w * c, static_cast<size_t>(a.w * c) * sizeof(T));
          continue;
        }
        before = windows;
        for (int64_t oi = windows.begin; oi < windows.end; ++oi) {
          const Span rows = span_of(oi, a.h, a.oh);
          const Vec<T> taps = set1(static_cast<T>(rows.end - rows.begin));
          for (int64_t j = 0; j < width; j += lanes) {
            const Vec<T> v = load_filled(dy + oi * width + j, width - j, zero<T>()) / taps;
            store(f.value + j, oi == windows.begin ? v : load(f.value + j) + v);
          }
        }
        for (int64_t oj = 0; oj < a.ow; ++oj) {
          for (int64_t ch = 0; ch < c; ++ch) f.value[oj * c + ch] /= f.from[oj];
        }
        for (int64_t j = 0; j < a.w; ++j)
          sum_across<false>(f.value + f.cols[j].begin * c, f.cols[j].end - f.cols[j].begin, c, T(1), to + j * c);
      }
    }
  });
}

template <class T>
static void adaptive_max_pool2d_backward_of(const AdaptivePoolBackwardArgs& a) {
  const Images images = images_of(a);
  const int64_t c = images.c, block = min_of(c, 64), blocks = ceil_div(c, block), size = a.h * a.w, outs = a.oh * a.ow;
  const int64_t group = blocks > 1 ? 1 : max_of(1, kTaskElements / (size * c));
  const int64_t work = images.count * c * (size / 8 + outs * 2);
  runtime::parallel_for(ceil_div(images.count, group) * blocks, work, [&](int64_t task) {
    const int64_t from = task / blocks * group, first = task % blocks * block, last = min_of(first + block, c);
    for (int64_t image = from; image < min_of(from + group, images.count); ++image) {
      const T* dy = static_cast<const T*>(a.dy) + image * outs * c;
      const int64_t* argmax = a.argmax + image * outs * c;
      T* dx = static_cast<T*>(a.dx) + image * size * c;
      for (int64_t i = 0; i < (blocks > 1 ? size : 1); ++i)
        std::memset(dx + i * c + first, 0, static_cast<size_t>(blocks > 1 ? last - first : size * c) * sizeof(T));
      for (int64_t o = 0; o < outs; ++o)
        for (int64_t ch = first; ch < last; ++ch) dx[argmax[o * c + ch] * c + ch] += dy[o * c + ch];
    }
  });
}

// ---- exported ----

template <class T>
static void adaptive_max_pool2d_forward_of(const AdaptivePoolArgs& a) {
  a.argmax ? adaptive_forward<true, true, T>(a) : adaptive_forward<true, false, T>(a);
}
template <class T>
static void adaptive_avg_pool2d_forward_of(const AdaptivePoolArgs& a) {
  adaptive_forward<false, false, T>(a);
}

}  // namespace

FASTNN_DEFINE(adaptive_max_pool2d_forward, AdaptivePoolArgs)
FASTNN_DEFINE(adaptive_max_pool2d_backward, AdaptivePoolBackwardArgs)
FASTNN_DEFINE(adaptive_avg_pool2d_forward, AdaptivePoolArgs)
FASTNN_DEFINE(adaptive_avg_pool2d_backward, AdaptivePoolBackwardArgs)

}  // namespace fastnn::FASTNN_ISA

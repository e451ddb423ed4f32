// Columns of a convolution: the matrix whose rows are (channel, tap) and whose columns are output pixels, never stored
// whole but packed part by part for the products of im2col.cpp and backward.cpp.
//   c, h, w    channels of one group, height and width of the source
//   taps       a grid th x tw; tap (i, j) of output pixel (y, x) reads source row y * move_h + first_h + i * step_h and
//              the column likewise; what lies outside the source is zero
//   pixels     a grid out_h x out_w, counted row by row
// The same description serves the forward pass (step = dilation, move = stride) and, with dy as the source, each stride
// phase of backward-data. Two packers: pack_pixels for NCHW (neighbouring pixels lie together, rows are in the order
// (channel, tap) of the weights) and pack_channels for channels-last (rows are in the order (tap, channel)).
#pragma once
#include "kernels/gemm.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Columns {
  int64_t c, h, w;
  int64_t stride_c, stride_h, stride_w;  // of the source, in elements
  int64_t th, tw, first_h, first_w, step_h, step_w, move_h, move_w;
  int64_t out_h, out_w;

  int64_t taps() const { return th * tw; }
  int64_t rows() const { return c * th * tw; }
  int64_t pixels() const { return out_h * out_w; }
  // A 1x1 convolution without stride or padding: the columns are the source itself.
  bool is_source() const {
    return th == 1 && tw == 1 && first_h == 0 && first_w == 0 && move_h == 1 && move_w == 1 && out_h == h && out_w == w;
  }
};

// ---- NCHW ----

// Lanes of one vector of pixels that lie in one source row: lane l reads source[offset + l * move_w] where bit l is
// set.
struct Piece {
  int64_t offset;
  uint32_t bits;
};

// The pieces of `count` pixels from (y, x) for the tap at (dy, dx); lanes outside the source belong to none.
static int find_pieces(const Columns& q, int64_t y, int64_t x, int64_t count, int64_t dy, int64_t dx, Piece* pieces) {
  int n = 0;
  for (int64_t lane = 0; lane < count; ++y, x = 0) {
    const int64_t run = smaller(q.out_w - x, count - lane);
    const int64_t sy = y * q.move_h + dy, sx = x * q.move_w + dx;
    if (sy >= 0 && sy < q.h && sx < q.w) {
      const int64_t left = q.w - sx;  // source columns from lane 0 of the run to the right edge
      const int64_t low = sx >= 0 ? 0 : q.move_w == 1 ? -sx : ceil_div(-sx, q.move_w);
      const int64_t high = smaller(run, q.move_w == 1 ? left : ceil_div(left, q.move_w));
      if (low < high) pieces[n++] = {sy * q.stride_h + sx - lane * q.move_w, ((1u << high) - (1u << low)) << lane};
    }
    lane += run;
  }
  return n;
}

// Bit l of x to bit 2 l.
FASTNN_INLINE uint32_t spread_bits(uint32_t x) {
  x = (x | x << 8) & 0x00ff00ffu;
  x = (x | x << 4) & 0x0f0f0f0fu;
  x = (x | x << 2) & 0x33333333u;
  return (x | x << 1) & 0x55555555u;
}

// One vector of pixels for `channels` channels, whose rows in dst lie `step` apart. The masks stay in registers while
// the loop walks over the channels: one or two loads and a store a vector.
template <class T, class Store>
FASTNN_INLINE void pack_vector(T* dst, int64_t step, const T* x, int64_t stride_c, int64_t channels, int64_t move,
                               const Piece* pieces, int n, const Store& put) {
  constexpr int lanes = Vec<T>::lanes;
  constexpr uint32_t all = (1u << lanes) - 1u;
  if (n == 0) {
    for (int64_t c = 0; c < channels; ++c) put(dst + c * step, zero<T>());
  } else if (move == 1 && n == 1 && pieces[0].bits == all) {
    const T* p = x + pieces[0].offset;
    for (int64_t c = 0; c < channels; ++c) put(dst + c * step, load(p + c * stride_c));
  } else if (move == 1 && n <= 2) {
    const T *p0 = x + pieces[0].offset, *p1 = n == 2 ? x + pieces[1].offset : p0;
    const uint32_t bits0 = pieces[0].bits, bits1 = n == 2 ? pieces[1].bits : bits0;
    for (int64_t c = 0; c < channels; ++c)
      put(dst + c * step, load_where(load_where(zero<T>(), bits0, p0 + c * stride_c), bits1, p1 + c * stride_c));
  } else if (move == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      Vec<T> v = zero<T>();
      for (int i = 0; i < n; ++i) v = load_where(v, pieces[i].bits, x + pieces[i].offset + c * stride_c);
      put(dst + c * step, v);
    }
  } else if (move == 2) {
    uint32_t low[lanes], high[lanes];
    for (int i = 0; i < n; ++i) {
      low[i] = spread_bits(pieces[i].bits) & all;
      high[i] = spread_bits(pieces[i].bits >> lanes / 2) & all;
    }
    for (int64_t c = 0; c < channels; ++c) {
      Vec<T> a = zero<T>(), b = zero<T>();
      for (int i = 0; i < n; ++i) {
        const T* p = x + pieces[i].offset + c * stride_c;
        a = load_where(a, low[i], p);
        b = load_where(b, high[i], p + lanes);
      }
      put(dst + c * step, even_lanes(a, b));
    }
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      T v[lanes] = {};
      for (int i = 0; i < n; ++i)
        for (int l = 0; l < lanes; ++l)
          if (pieces[i].bits >> l & 1) v[l] = x[pieces[i].offset + l * move + c * stride_c];
      put(dst + c * step, load(v));
    }
  }
}

// dst[r * ld + p] = column (row0 + r, pixel0 + p) for r < rows, p < pixels. The last vector of a row is filled up with
// zeros, or with `exact` written in part.
template <class T>
void pack_pixels(T* dst, int64_t ld, bool exact, const Columns& q, const T* x, int64_t row0, int64_t rows,
                 int64_t pixel0, int64_t pixels) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t taps = q.taps();
  if (rows == 0) return;
  for (int64_t p = 0; p < pixels; p += lanes) {
    const int64_t count = smaller(lanes, pixels - p);
    const int64_t out_y = (pixel0 + p) / q.out_w, out_x = (pixel0 + p) % q.out_w;
    // Rows row0 <= c * taps + tap < row0 + rows: all channels of one tap together, starting in the order of the taps.
    int64_t c = row0 / taps, tap = row0 % taps;
    for (int64_t r = 0; r < smaller(taps, rows); ++r) {
      Piece pieces[lanes];
      const int n = find_pieces(q, out_y, out_x, count, q.first_h + tap / q.tw * q.step_h,
                                q.first_w + tap % q.tw * q.step_w, pieces);
      const int64_t channels = (rows - r - 1) / taps + 1;
      T* first = dst + r * ld + p;
      if (exact && count < lanes)
        pack_vector(first, taps * ld, x + c * q.stride_c, q.stride_c, channels, q.move_w, pieces, n,
                    [count](T* to, Vec<T> v) { store_partial(to, v, static_cast<int>(count)); });
      else
        pack_vector(first, taps * ld, x + c * q.stride_c, q.stride_c, channels, q.move_w, pieces, n,
                    [](T* to, Vec<T> v) { store(to, v); });
      if (++tap == taps) tap = 0, ++c;
    }
  }
}

// ---- channels-last ----

template <class T>
FASTNN_INLINE void copy_run(T* dst, const T* x, int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(dst + i, load(x + i));
  if (i < n) store_partial(dst + i, load_partial(x + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
template <class T>
FASTNN_INLINE void zero_run(T* dst, int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(dst + i, zero<T>());
  if (i < n) store_partial(dst + i, zero<T>(), static_cast<int>(n - i));
}

// dst[p * ld + r] = column (row0 + r, pixel0 + p) for r < rows, p < pixels; pixels count through all images. Where the
// taps of a kernel row are neighbours in memory they are copied as one run.
template <class T>
void pack_channels(T* dst, int64_t ld, const Columns& q, const T* x, int64_t image_stride, int64_t row0, int64_t rows,
                   int64_t pixel0, int64_t pixels) {
  if (rows == 0) return;
  const bool join = q.step_w == 1 && q.stride_w == q.c;
  const int64_t joined = join ? q.tw : 1, run = joined * q.c;  // taps and elements of a run
  int64_t image = pixel0 / q.pixels(), y = pixel0 % q.pixels() / q.out_w, xx = pixel0 % q.out_w;
  for (int64_t p = 0; p < pixels; ++p, dst += ld) {
    const T* source = x + image * image_stride;
    for (int64_t begin = row0, tap = row0 / run * joined; begin < row0 + rows; tap += joined) {
      const int64_t origin = tap * q.c, end = smaller(origin + run, row0 + rows);
      const int64_t sy = y * q.move_h + q.first_h + tap / q.tw * q.step_h;
      const int64_t sx = xx * q.move_w + q.first_w + tap % q.tw * q.step_w;
      T* to = dst - row0;
      // [low, high): the part of [begin, end) that lies inside the source
      int64_t low = end, high = end;
      if (sy >= 0 && sy < q.h && sx < q.w && sx + joined > 0) {
        low = sx >= 0 ? begin : smaller(end, larger(begin, origin - sx * q.c));
        high = larger(low, sx + joined <= q.w ? end : smaller(end, origin + (q.w - sx) * q.c));
      }
      zero_run(to + begin, low - begin);
      copy_run(to + low, source + sy * q.stride_h + sx * q.stride_w + (low - origin), high - low);
      zero_run(to + high, end - high);
      begin = end;
    }
    if (++xx == q.out_w) xx = 0, ++y;
    if (y == q.out_h) y = 0, ++image;
  }
}

// ---- weights ----

// Weights as a matrix (out, column row) of any strides, which may be negative.
template <class T>
struct Weights {
  const T* w;  // tap (0, 0)
  int64_t stride_out, stride_c, stride_th, stride_tw;
};

// dst[r * ld + j] = weight (j, row r) for j < n, rows in the order (tap, channel); lanes from n on are undefined.
template <class T>
void pack_weights_panel(T* dst, int64_t ld, const Columns& q, const Weights<T>& weights, int64_t n) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const bool natural = weights.stride_c == q.taps() && weights.stride_tw == 1 && weights.stride_th == q.tw;
  const int64_t whole_n = natural ? n / lanes * lanes : 0, whole_rows = q.rows() / lanes * lanes;
  // A block of outs x neighbouring weights is turned in registers; its rows then go where their taps belong.
  for (int64_t j = 0; j < whole_n; j += lanes) {
    const T* w = weights.w + j * weights.stride_out;
    int64_t c = 0, tap = 0;
    for (int64_t r = 0; r < whole_rows; r += lanes) {
      if (q.taps() == 1) {
        transpose(w + r, weights.stride_out, dst + r * ld + j, ld);
        continue;
      }
      alignas(64) T block[lanes * lanes];
      transpose(w + r, weights.stride_out, block, lanes);
      for (int64_t i = 0; i < lanes; ++i) {
        store(dst + (tap * q.c + c) * ld + j, load(block + i * lanes));
        if (++tap == q.taps()) tap = 0, ++c;
      }
    }
    for (int64_t r = whole_rows; r < q.rows(); ++r)
      for (int64_t i = 0; i < lanes; ++i)
        dst[(r % q.taps() * q.c + r / q.taps()) * ld + j + i] = w[i * weights.stride_out + r];
  }
  if (whole_n == n) return;
  for (int64_t tap = 0; tap < q.taps(); ++tap) {
    const T* w = weights.w + tap / q.tw * weights.stride_th + tap % q.tw * weights.stride_tw;
    for (int64_t c = 0; c < q.c; ++c)
      for (int64_t j = whole_n; j < n; ++j)
        dst[(tap * q.c + c) * ld + j] = w[j * weights.stride_out + c * weights.stride_c];
  }
}

// dst[j * rows + r] = weight (j, row r) for j < n, rows in the order (channel, tap).
template <class T>
void pack_weights_rows(T* dst, const Columns& q, const Weights<T>& weights, int64_t n) {
  const int64_t taps = q.taps(), rows = q.rows();
  for (int64_t c = 0; c < q.c; ++c)
    for (int64_t i = 0; i < q.th; ++i)
      for (int64_t l = 0; l < q.tw; ++l) {
        const T* w = weights.w + c * weights.stride_c + i * weights.stride_th + l * weights.stride_tw;
        T* to = dst + c * taps + i * q.tw + l;
        for (int64_t j = 0; j < n; ++j) to[j * rows] = w[j * weights.stride_out];
      }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

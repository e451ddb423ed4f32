// Columns of a convolution: the matrix whose rows are (channel, tap) and whose columns are output pixels, never stored
// whole but packed part by part for the products of im2col.cpp and backward.cpp.
//   c, h, w    channels of one group, height and width of the source
//   taps       a grid th x tw; tap (i, j) of output pixel (y, x) reads source row y * move_h + first_h + i * step_h and
//              the column likewise; what lies outside the source is zero
//   pixels     a grid out_h x out_w, counted row by row
// The same description serves the forward pass (step = dilation, move = stride) and, with dy as the source, each stride
// phase of backward-data. Two packers: PixelPacker for NCHW (neighbouring pixels lie together, rows are in the order
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

// Bit l of x to bit 2 l.
FASTNN_INLINE uint32_t spread_bits(uint32_t x) {
  x = (x | x << 8) & 0x00ff00ffu;
  x = (x | x << 4) & 0x0f0f0f0fu;
  x = (x | x << 2) & 0x33333333u;
  return (x | x << 1) & 0x55555555u;
}

// Packs a range of pixels, up to kVectors vectors of them at a time. Which source elements a vector of pixels takes is
// the same for every channel, so it is worked out once (the plan) and then carried out channel by channel: plain copies
// for vectors that lie whole in one source row, the others put together from masked loads, one for each row they touch.
// All taps of a channel follow each other, so that its source lines are read from L1: with image sizes that are powers
// of two, channels evict each other.
template <class T>
class PixelPacker {
  static constexpr int kLanes = Vec<T>::lanes, kVectors = 4, kTaps = 32;

 public:
  static constexpr int64_t kPixels = kVectors * kLanes;  // packed at a time

  // exact: the last vector of a row is written in part; else it is filled up with zeros.
  PixelPacker(const Columns& columns, int64_t pixel0, int64_t pixels, int64_t ld, bool exact)
      : q_(columns), pixel0_(pixel0), pixels_(pixels), ld_(ld), exact_(exact) {
    if (planned_once()) make_plan(0, q_.taps(), pixel0_, pixels_);
  }

  // dst[r * ld + p] = column (c0 * taps + r, pixel0 + p) for r < channels * taps, p < pixels
  void pack(T* dst, const T* x, int64_t c0, int64_t channels) {
    x += c0 * q_.stride_c;
    if (planned_once()) return run(dst, x, channels);
    for (int64_t p = 0; p < pixels_; p += kVectors * kLanes)
      for (int64_t tap = 0; tap < q_.taps(); tap += kTaps) {
        make_plan(tap, smaller(kTaps, q_.taps() - tap), pixel0_ + p, smaller(kVectors * kLanes, pixels_ - p));
        run(dst + tap * ld_ + p, x, channels);
      }
  }

 private:
  struct Segment {  // lanes of a vector that lie in one row of the output
    int64_t lane, length, y, x;
  };
  struct Copy {
    int64_t from, to;
  };
  struct Piece {  // lane l is source[from + l * move_w] where bit l is set; low and high: these lanes as masks
    int64_t from;
    Mask<T> low, high;
    uint32_t bits;
  };
  struct Vector {
    int64_t to;
    int lanes;
  };

  const Columns& q_;
  const int64_t pixel0_, pixels_, ld_;
  const bool exact_;
  int copies_, vectors_, depth_;  // depth: pieces of a vector, some of which may be empty
  Copy copy_[kTaps * kVectors];
  Vector vector_[kTaps * kVectors];
  Piece piece_[kTaps * kVectors * kLanes];

  bool planned_once() const { return q_.taps() > 0 && q_.taps() <= kTaps && pixels_ <= kVectors * kLanes; }

  void make_plan(int64_t tap0, int64_t taps, int64_t pixel0, int64_t pixels) {
    constexpr uint32_t all = (1u << kLanes) - 1u;
    Segment segments[kVectors][kLanes];
    int counts[kVectors];
    depth_ = 1;
    const int64_t n = ceil_div(pixels, kLanes);
    int64_t y = pixel0 / q_.out_w, x = pixel0 % q_.out_w;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t lanes = smaller(kLanes, pixels - i * kLanes);
      int count = 0;
      for (int64_t lane = 0; lane < lanes;) {
        const int64_t length = smaller(q_.out_w - x, lanes - lane);
        segments[i][count++] = {lane, length, y * q_.move_h, x * q_.move_w};
        lane += length;
        x += length;
        if (x == q_.out_w) x = 0, ++y;
      }
      counts[i] = count;
      if (count > depth_) depth_ = count;
    }
    copies_ = vectors_ = 0;
    Piece* piece = piece_;
    int64_t dy = q_.first_h + tap0 / q_.tw * q_.step_h;
    for (int64_t tap = 0, j = tap0 % q_.tw; tap < taps; ++tap) {
      const int64_t dx = q_.first_w + j * q_.step_w;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t to = tap * ld_ + i * kLanes;
        int used = 0;
        for (int k = 0; k < counts[i]; ++k) {
          const Segment& s = segments[i][k];
          const int64_t sy = s.y + dy, sx = s.x + dx, left = q_.w - sx;
          if (sy < 0 || sy >= q_.h) continue;
          const int64_t low = sx >= 0 ? 0 : q_.move_w == 1 ? -sx : ceil_div(-sx, q_.move_w);
          const int64_t high = smaller(s.length, q_.move_w == 1 ? left : ceil_div(larger(left, 0), q_.move_w));
          if (low >= high) continue;
          const uint32_t bits = ((1u << high) - (1u << low)) << s.lane;
          const bool two = q_.move_w == 2;
          piece[used++] = {sy * q_.stride_h + sx - s.lane * q_.move_w,
                           mask_from_bits<T>(two ? spread_bits(bits) & all : bits),
                           mask_from_bits<T>(two ? spread_bits(bits >> kLanes / 2) & all : 0), bits};
        }
        if (used == 1 && piece->bits == all && q_.move_w == 1) {
          copy_[copies_++] = {piece->from, to};
          continue;
        }
        // Empty pieces read nothing, but from a good address: a masked fault is slow.
        for (; used < depth_; ++used) piece[used] = {0, mask_from_bits<T>(0), mask_from_bits<T>(0), 0};
        vector_[vectors_++] = {to, exact_ ? static_cast<int>(smaller(kLanes, pixels - i * kLanes)) : kLanes};
        piece += depth_;
      }
      if (++j == q_.tw) j = 0, dy += q_.step_h;
    }
  }

  // One vector for one channel. depth 0: any depth; move 0: any step.
  template <int move, int depth>
  FASTNN_MEMBER_INLINE Vec<T> read(const T* x, const Piece* pieces) const {
    const int n = depth ? depth : depth_;
    if constexpr (move == 1) {
      Vec<T> v = load_masked(x + pieces->from, pieces->low);
      for (int i = 1; i < n; ++i) v = bit_or(v, load_masked(x + pieces[i].from, pieces[i].low));
      return v;
    } else if constexpr (move == 2) {
      Vec<T> a = load_masked(x + pieces->from, pieces->low), b = load_masked(x + pieces->from + kLanes, pieces->high);
      for (int i = 1; i < n; ++i) {
        a = bit_or(a, load_masked(x + pieces[i].from, pieces[i].low));
        b = bit_or(b, load_masked(x + pieces[i].from + kLanes, pieces[i].high));
      }
      return even_lanes(a, b);
    } else {
      T v[kLanes] = {};
      for (int i = 0; i < n; ++i)
        for (int l = 0; l < kLanes; ++l)
          if (pieces[i].bits >> l & 1) v[l] = x[pieces[i].from + l * q_.move_w];
      return ::fastnn::FASTNN_ISA::load(v);
    }
  }

  template <int move, int depth>
  void run_as(T* dst, const T* x, int64_t channels) const {
    const int step = depth ? depth : depth_;
    for (int64_t c = 0; c < channels; ++c, dst += q_.taps() * ld_, x += q_.stride_c) {
      for (int i = 0; i < copies_; ++i) store(dst + copy_[i].to, ::fastnn::FASTNN_ISA::load(x + copy_[i].from));
      const Piece* pieces = piece_;
      for (int i = 0; i < vectors_; ++i, pieces += step) {
        const Vec<T> v = read<move, depth>(x, pieces);
        if (vector_[i].lanes == kLanes)
          store(dst + vector_[i].to, v);
        else
          store_partial(dst + vector_[i].to, v, vector_[i].lanes);
      }
    }
  }

  void run(T* dst, const T* x, int64_t channels) const {
    if (q_.move_w == 1)
      depth_ == 1   ? run_as<1, 1>(dst, x, channels)
      : depth_ == 2 ? run_as<1, 2>(dst, x, channels)
                    : run_as<1, 0>(dst, x, channels);
    else if (q_.move_w == 2)
      depth_ == 1 ? run_as<2, 1>(dst, x, channels) : run_as<2, 0>(dst, x, channels);
    else
      run_as<0, 0>(dst, x, channels);
  }
};

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

// The same where what lies behind the run may be overwritten, up to a whole vector.
template <class T>
FASTNN_INLINE void copy_run_over(T* dst, const T* x, int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(dst + i, load(x + i));
  if (i < n) store(dst + i, load_partial(x + i, static_cast<int>(n - i)));
}

// dst[p * ld + r] = column (row0 + r, pixel0 + p) for r < rows, p < pixels; pixels count through all images. Where the
// taps of a kernel row are neighbours in memory they are copied as one run. With ld == rows up to a vector behind the
// end of dst is overwritten.
template <class T>
void pack_channels(T* dst, int64_t ld, const Columns& q, const T* x, int64_t image_stride, int64_t row0, int64_t rows,
                   int64_t pixel0, int64_t pixels) {
  if (rows == 0) return;
  const bool join = q.step_w == 1 && q.stride_w == q.c;
  const int64_t joined = join ? q.tw : 1, length = joined * q.c;  // taps and elements of a run
  // The runs of a pixel whose taps all lie inside the source, from the position of tap (0, 0) on.
  struct Run {
    int64_t to, from, length;
  };
  constexpr int max_runs = 128;
  Run runs[max_runs];
  int n_runs = 0;
  for (int64_t begin = row0, tap = row0 / length * joined; begin < row0 + rows && n_runs < max_runs; tap += joined) {
    const int64_t origin = tap * q.c, end = smaller(origin + length, row0 + rows);
    runs[n_runs++] = {begin - row0,
                      tap / q.tw * q.step_h * q.stride_h + tap % q.tw * q.step_w * q.stride_w + (begin - origin),
                      end - begin};
    begin = end;
  }
  const bool planned = n_runs < max_runs;
  int64_t image = pixel0 / q.pixels(), y = pixel0 % q.pixels() / q.out_w, xx = pixel0 % q.out_w;
  for (int64_t p = 0; p < pixels; ++p, dst += ld) {
    const T* source = x + image * image_stride;
    const int64_t y0 = y * q.move_h + q.first_h, x0 = xx * q.move_w + q.first_w;
    if (planned && y0 >= 0 && y0 + (q.th - 1) * q.step_h < q.h && x0 >= 0 && x0 + (q.tw - 1) * q.step_w < q.w) {
      source += y0 * q.stride_h + x0 * q.stride_w;
      if (ld == rows)
        for (int i = 0; i < n_runs; ++i) copy_run_over(dst + runs[i].to, source + runs[i].from, runs[i].length);
      else
        for (int i = 0; i < n_runs; ++i) copy_run(dst + runs[i].to, source + runs[i].from, runs[i].length);
    } else {
      for (int64_t begin = row0, tap = row0 / length * joined; begin < row0 + rows; tap += joined) {
        const int64_t origin = tap * q.c, end = smaller(origin + length, row0 + rows);
        const int64_t sy = y0 + tap / q.tw * q.step_h, sx = x0 + tap % q.tw * q.step_w;
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

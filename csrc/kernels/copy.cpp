// copy: y = x or y += x over four axes with any strides (in elements; x's also 0 and negative, y's elements distinct).
// Bits are kept, of denormals and NaN too; y += x is one addition. x and y do not overlap.
//
//   n, sx, sy     sizes and strides of the axes, brought into the order in which y lies in memory, neighbours merged
//   rows          the last axis is contiguous in x and y: vector copies
//   transposed    it is contiguous in y, the one before it in x (NCHW <-> NHWC): tiles of lanes x lanes
//   strided       neither: one element at a time
// A unit of work is a block of the last two axes; tasks are runs of units.
#include "kernels/elementwise.hpp"
#include "kernels/kernels.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

struct Axes {
  int64_t n[4], sx[4], sy[4];
  int64_t offset_x, offset_y;

  void swap(int i, int j) {
    const int64_t a = n[i], b = sx[i], c = sy[i];
    n[i] = n[j], sx[i] = sx[j], sy[i] = sy[j];
    n[j] = a, sx[j] = b, sy[j] = c;
  }
};

// y's largest stride first and no negative one; axes of size 1 in front; axes that both arrays walk as one merged.
Axes order_axes(const CopyArgs& a) {
  Axes r{};
  for (int i = 0; i < 4; ++i) {
    const bool one = a.shape[i] == 1;
    r.n[i] = a.shape[i], r.sx[i] = one ? 0 : a.x_strides[i], r.sy[i] = one ? INT64_MAX : a.y_strides[i];
    if (r.sy[i] < 0) {
      r.offset_x += (r.n[i] - 1) * r.sx[i], r.offset_y += (r.n[i] - 1) * r.sy[i];
      r.sx[i] = -r.sx[i], r.sy[i] = -r.sy[i];
    }
  }
  for (int i = 1; i < 4; ++i)
    for (int j = i; j > 0 && r.sy[j - 1] < r.sy[j]; --j) r.swap(j - 1, j);
  for (int i = 2; i >= 0 && r.n[i] > 1; --i) {
    while (i < 3 && r.sx[i] == r.n[i + 1] * r.sx[i + 1] && r.sy[i] == r.n[i + 1] * r.sy[i + 1]) {
      r.n[i + 1] *= r.n[i];
      for (int j = i; j > 0; --j) r.n[j] = r.n[j - 1], r.sx[j] = r.sx[j - 1], r.sy[j] = r.sy[j - 1];
      r.n[0] = 1, r.sx[0] = 0, r.sy[0] = INT64_MAX;
      if (r.n[i] == 1) break;
    }
  }
  for (int i = 0; i < 4; ++i) r.sy[i] = r.n[i] == 1 ? 0 : r.sy[i];
  return r;
}

// y[j * ldy + i] (+)= x[i * ldx + j] for i < ni, j < nj, both at most the lanes
template <class T>
FASTNN_INLINE void copy_tile(const T* x, int64_t ldx, T* y, int64_t ldy, int ni, int nj, bool accumulate) {
  constexpr int lanes = Vec<T>::lanes;
  if (ni == lanes && nj == lanes && !accumulate) return transpose(x, ldx, y, ldy);
  T in[lanes * lanes], out[lanes * lanes];
  for (int i = 0; i < lanes; ++i) store(in + i * lanes, i < ni ? load_n(x + i * ldx, nj) : zero<T>());
  transpose(in, lanes, out, lanes);
  for (int j = 0; j < nj; ++j) {
    const Vec<T> v = load(out + j * lanes);
    T* p = y + j * ldy;
    store_n(p, accumulate ? load_n(p, ni) + v : v, ni);
  }
}

enum Kind { kRows, kTransposed, kStrided };

// One block of the last two axes: n2 x n3 elements.
template <class T>
void copy_block(Kind kind, const T* x, T* y, const Axes& a, int64_t n2, int64_t n3, bool accumulate, bool bypass) {
  const int64_t sx2 = a.sx[2], sy2 = a.sy[2], sx3 = a.sx[3], sy3 = a.sy[3];
  constexpr int64_t lanes = Vec<T>::lanes;
  if (kind == kRows) {
    for (int64_t k = 0; k < n2; ++k, x += sx2, y += sy2) {
      if (accumulate) {
        map_range(
            0, n3, false, y, [](Vec<T> a, Vec<T> b) FASTNN_INLINED { return a + b; }, static_cast<const T*>(y), x);
      } else {
        map_range(0, n3, bypass, y, [](Vec<T> a) FASTNN_INLINED { return a; }, x);
      }
    }
    if (bypass) stream_fence();
  } else if (kind == kTransposed) {
    // The tiles go along the array whose lines are farther apart: powers of two there would evict each other.
    const bool along_x = sx3 > sy2;
    const int64_t inner = along_x ? n2 : n3, outer = along_x ? n3 : n2;
    for (int64_t o = 0; o < outer; o += lanes) {
      for (int64_t i = 0; i < inner; i += lanes) {
        const int64_t k = along_x ? i : o, l = along_x ? o : i;
        copy_tile(x + l * sx3 + k, sx3, y + k * sy2 + l, sy2, static_cast<int>(n3 - l < lanes ? n3 - l : lanes),
                  static_cast<int>(n2 - k < lanes ? n2 - k : lanes), accumulate);
      }
    }
  } else {
    for (int64_t k = 0; k < n2; ++k, x += sx2, y += sy2)
      for (int64_t l = 0; l < n3; ++l) y[l * sy3] = accumulate ? y[l * sy3] + x[l * sx3] : x[l * sx3];
  }
}

template <class T>
void copy_of(const CopyArgs& args) {
  const int64_t size = args.shape[0] * args.shape[1] * args.shape[2] * args.shape[3];
  if (size == 0) return;
  Axes a = order_axes(args);
  const T* x = static_cast<const T*>(args.x) + a.offset_x;
  T* y = static_cast<T*>(args.y) + a.offset_y;
  Kind kind = kStrided;
  if (a.n[3] == 1 || (a.sx[3] == 1 && a.sy[3] == 1)) {
    kind = kRows;
  } else if (a.sy[3] == 1) {
    for (int i = 0; i < 3 && kind == kStrided; ++i) {
      if (a.n[i] > 1 && a.sx[i] == 1) a.swap(i, 2), kind = kTransposed;
    }
  }
  // Blocks: whole lines of both arrays when transposing, long runs otherwise.
  const auto at_most = [](int64_t limit, int64_t n) { return n < limit ? n : limit; };
  const int64_t block3 = at_most(kind == kTransposed ? 64 : kChunk, a.n[3]);
  const int64_t block2 = at_most(kind == kTransposed ? 256 : (kChunk + block3 - 1) / block3, a.n[2]);
  const int64_t blocks2 = (a.n[2] + block2 - 1) / block2, blocks3 = (a.n[3] + block3 - 1) / block3;
  const int64_t units = a.n[0] * a.n[1] * blocks2 * blocks3;
  const int64_t per_task = (kChunk + block2 * block3 - 1) / (block2 * block3);
  const bool bypass = size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes && block3 >= 1024;
  runtime::parallel_for((units + per_task - 1) / per_task, size * (kind == kRows ? 4 : 10) / 10, [&](int64_t task) {
    for (int64_t u = task * per_task; u < at_most(units, (task + 1) * per_task); ++u) {
      const int64_t l = u % blocks3 * block3, k = u / blocks3 % blocks2 * block2;
      const int64_t j = u / blocks3 / blocks2 % a.n[1], i = u / blocks3 / blocks2 / a.n[1];
      copy_block(kind, x + i * a.sx[0] + j * a.sx[1] + k * a.sx[2] + l * a.sx[3],
                 y + i * a.sy[0] + j * a.sy[1] + k * a.sy[2] + l * a.sy[3], a, at_most(block2, a.n[2] - k),
                 at_most(block3, a.n[3] - l), args.accumulate != 0, bypass);
    }
  });
}

}  // namespace

FASTNN_DEFINE(copy, CopyArgs)

}  // namespace fastnn::FASTNN_ISA

// conv2d_amx: float32 convolution on bfloat16 tiles (simd/tile.hpp). Every float is the sum of three bfloat16 parts; of
// the nine products the six largest are summed in float32, smallest first (Henry, Tang, Heinecke, arXiv 1904.06376).
//   q        a flat output pixel, row * pitch + column; the planes of x lie alike, so that a tap is one shift
//   step     32 input channels (a channel block) of one tap, block by block and within one tap by tap
//   panel    32 output channels; band: output rows of one task; phase: one of the images that the stride cuts x into
//   planes   [channel block][part][phase][flat pixel][32], zero outside x, packed band by band as x is read
//   weights  [panel][channel block][tap][part][half of the panel][pair of channels][16 output channels][2]
// Error against float64 as part of the rms of y (and of a plain chain of multiply-adds), 3x3, x after ReLU: 16 channels
// 1.2e-7 (1.5e-7), 64 1.8e-7 (2.9e-7), 256 3.8e-7 (6.3e-7). Products below 8e-34 lose low parts, below 1.2e-38 all, as
// denormals are flushed. An image with a sum that is not finite (infinity, NaN, overflow) is done again by im2col, and
// all that has groups, float64 or fewer than 16 channels is done there at once.
#include "kernels/conv/epilogue.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"
#include "simd/tile.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kBlock = 32;                         // pixels, channels in and channels out of one block of products
constexpr int64_t kStepWeights = 3 * kBlock * kBlock;  // bfloat16 of one step of a panel: 6 KB
constexpr int64_t kPlanesBudget = 768 << 10;  // bytes: a band's planes and one panel's weights share 2 MB of L2
constexpr int64_t kKeepAwake = 4;             // steps: a tile store that follows 2000 idle cycles costs 650-870
constexpr int64_t kMaxTasks = 8;              // of a batch of one
constexpr int64_t kImages = 1024;             // at a time: one flag each on the stack
// A step rounds the sum six times whatever it holds, a chain once per channel: with half of x zero the rms error is 1.2
// times the chain's at 8 channels, .97 at 12, .86 at 16 (the worst of 3x3 to 11x11).
constexpr int64_t kLeastChannels = 16;

constexpr int64_t ceil_div(int64_t a, int64_t unit) { return (a + unit - 1) / unit; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How one call is laid out and cut, from its shape alone.
struct Plan {
  int64_t taps, channel_blocks, panels, steps;
  // Tap k reads phase k % period and lies k * dilation / stride whole strides after the first tap, at most `reach`.
  int64_t period_h, period_w, phases_h, phases_w, reach_h, reach_w;
  int64_t columns, pitch;  // of a row with its padding; neighbouring rows share zeros: pitch <= columns
  int64_t band, bands, panels_a_task, groups;  // tasks = images * bands * groups
  int64_t plane, part;                         // pixels of one phase, of one part

  int64_t blocks(int64_t rows, int64_t ow) const { return ceil_div((rows - 1) * pitch + ow, kBlock); }
  int64_t planes_size() const { return channel_blocks * 3 * part * kBlock; }
  int64_t weights_size() const { return panels * steps * kStepWeights; }
};

// The part [begin, end) of a padded row (or column of rows) that lies in the input: column c is x * stride + residue.
struct Span {
  int64_t begin, end;
};
FASTNN_INLINE Span inside(int64_t size, int64_t pad, int64_t residue, int64_t stride, int64_t columns) {
  const int64_t begin = least(columns, ceil_div(most(pad - residue, 0), stride));
  return {begin, most(begin, least(columns, ceil_div(most(size + pad - residue, 0), stride)))};
}

FASTNN_INLINE int64_t period_of(int64_t stride, int64_t dilation) {
  int64_t a = stride, b = dilation;
  while (b != 0) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  return stride / a;
}

void cut_planes(Plan& p, const Conv2dArgs& q) {
  const int64_t rows = p.band + p.reach_h;
  // A block reads whole tiles beyond the last pixel. Odd, so that the parts of a pixel lie in different sets of L1.
  p.plane = most((rows - 1) * p.pitch + p.columns, p.blocks(p.band, q.ow) * kBlock + p.reach_h * p.pitch + p.reach_w);
  p.part = p.phases_h * p.phases_w * p.plane | 1;
}

Plan plan_of(const Conv2dArgs& q) {
  Plan p = {};
  p.taps = q.kh * q.kw;
  p.channel_blocks = ceil_div(q.c, kBlock);
  p.panels = ceil_div(q.o, kBlock);
  p.steps = p.channel_blocks * p.taps;
  p.period_h = period_of(q.stride_h, q.dilation_h), p.period_w = period_of(q.stride_w, q.dilation_w);
  p.phases_h = least(q.kh, p.period_h), p.phases_w = least(q.kw, p.period_w);
  p.reach_h = (q.kh - 1) * q.dilation_h / q.stride_h, p.reach_w = (q.kw - 1) * q.dilation_w / q.stride_w;
  p.columns = q.ow + p.reach_w;
  int64_t shared = p.reach_w;
  for (int64_t i = 0; i < p.phases_w; ++i) {
    const Span s = inside(q.w, q.pad_w, i * q.dilation_w % q.stride_w, q.stride_w, p.columns);
    shared = least(shared, least(s.begin, p.columns - s.end));
  }
  p.pitch = p.columns - shared;

  // Halving bands and panels until there are tasks enough, of the cuts that fit in L2 the one with the least work:
  // products (16 cycles each) and packing (about 40 cycles for 32 channels of a pixel).
  const int64_t cycles = q.n * p.blocks(q.oh, q.ow) * p.panels * p.steps * 24 * 16;
  const int64_t wanted = least(kMaxTasks, cycles / 50000 + 1);
  int64_t best = -1;
  for (int64_t groups = 1; groups <= p.panels; groups *= 2)
    for (int64_t bands = 1; bands < 2 * q.oh; bands *= 2) {
      Plan c = p;
      c.band = ceil_div(q.oh, bands), c.bands = ceil_div(q.oh, c.band);
      c.panels_a_task = ceil_div(p.panels, groups), c.groups = ceil_div(p.panels, c.panels_a_task);
      cut_planes(c, q);
      const int64_t pixels = (c.band + p.reach_h) * p.pitch * p.phases_h * p.phases_w;
      const int64_t work =
          c.bands * (c.blocks(c.band, q.ow) * p.panels * p.steps * 24 * 16 + c.groups * pixels * p.channel_blocks * 40);
      const bool fits = c.planes_size() * 2 <= kPlanesBudget || c.band == 1;
      const bool busy = q.n * c.bands * c.groups >= wanted || (bands >= q.oh && 2 * groups > p.panels);
      if (fits && busy && (best < 0 || work < best)) {
        best = work;
        p.band = c.band, p.bands = c.bands, p.panels_a_task = c.panels_a_task, p.groups = c.groups;
      }
    }
  cut_planes(p, q);
  return p;
}

// Where each step's first pixel lies in the planes, from the block's own.
void fill_offsets(int64_t* offsets, const Plan& p, const Conv2dArgs& q) {
  for (int64_t block = 0; block < p.channel_blocks; ++block)
    for (int64_t i = 0; i < q.kh; ++i)
      for (int64_t j = 0; j < q.kw; ++j) {
        const int64_t phase = i % p.period_h * p.phases_w + j % p.period_w;
        const int64_t shift = i * q.dilation_h / q.stride_h * p.pitch + j * q.dilation_w / q.stride_w;
        *offsets++ = (block * 3 * p.part + phase * p.plane + shift) * kBlock;
      }
}

// ---- packing ----

// to[j * 32 + i] = from[i * stride + j], i and j < 16
FASTNN_INLINE void transpose_16(const float* from, int64_t stride, float* to) {
  constexpr int lanes = Vec<float>::lanes;
  for (int i = 0; i < 16; i += lanes)
    for (int j = 0; j < 16; j += lanes) transpose(from + i * stride + j, stride, to + j * kBlock + i, kBlock);
}

// One channel block of one panel, by way of `rows`: 32 * taps rows (channel, tap) of 32 output channels.
void pack_weights(const Conv2dArgs& q, const Plan& p, int64_t panel, int64_t block, float* rows, uint16_t* packed) {
  const int64_t channels = least(kBlock, q.c - block * kBlock), outs = least(kBlock, q.o - panel * kBlock);
  const int64_t width = kBlock * p.taps, stride = q.c * p.taps;
  const float* w = static_cast<const float*>(q.weight) + panel * kBlock * stride + block * width;
  if (channels == kBlock && outs == kBlock) {
    for (int64_t i = 0; i < width; i += 16)
      for (int64_t o = 0; o < kBlock; o += 16) transpose_16(w + o * stride + i, stride, rows + i * kBlock + o);
  } else {
    std::memset(rows, 0, static_cast<size_t>(width * kBlock) * sizeof(float));
    for (int64_t o = 0; o < outs; ++o)
      for (int64_t i = 0; i < channels * p.taps; ++i) rows[i * kBlock + o] = w[o * stride + i];
  }
  packed += (panel * p.channel_blocks + block) * p.taps * kStepWeights;
  for (int64_t tap = 0; tap < p.taps; ++tap, packed += kStepWeights)
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t pair = 0; pair < 16; ++pair) {
        const float* row = rows + (2 * pair * p.taps + tap) * kBlock + half * 16;
        split_bf16_pairs(row, row + p.taps * kBlock, packed + (half * 16 + pair) * 32, kBlock * kBlock);
      }
}

// 32 channels (of `channels` that there are) of one pixel.
FASTNN_INLINE void pack_pixel(const float* x, int64_t channels, uint16_t* to, int64_t part) {
  if (channels >= kBlock) {
    split_bf16(x, to, part);
  } else {
    alignas(64) float whole[kBlock] = {};
    std::memcpy(whole, x, static_cast<size_t>(channels) * sizeof(float));
    split_bf16(whole, to, part);
  }
}

// Pixels [0, count) of a row of x (n, c, h, w), `stride` apart.
void pack_planar(const Conv2dArgs& q, const float* x, int64_t stride, int64_t channels, int64_t count, uint16_t* to,
                 int64_t part) {
  const int64_t plane = q.h * q.w;
  alignas(64) float pixels[16 * kBlock];
  for (int64_t i = 0; i < count; i += 16, x += 16 * stride) {
    const int64_t n = least(16, count - i);
    for (int64_t c = 0; c < kBlock; c += 16) {
      if (n == 16 && stride == 1 && channels >= c + 16) {
        transpose_16(x + c * plane, plane, pixels + c);
      } else {
        for (int64_t k = c; k < c + 16; ++k)
          for (int64_t j = 0; j < n; ++j) pixels[j * kBlock + k] = k < channels ? x[k * plane + j * stride] : 0.0f;
      }
    }
    for (int64_t j = 0; j < n; ++j) split_bf16(pixels + j * kBlock, to + (i + j) * kBlock, part);
  }
}

void zero_pixels(const Plan& p, uint16_t* to, int64_t count) {
  if (count == 0) return;
  for (int64_t i = 0; i < 3 * p.channel_blocks; ++i)
    std::memset(to + i * p.part * kBlock, 0, static_cast<size_t>(count * kBlock) * sizeof *to);
}

// The planes of output rows [y0, y0 + rows) of one image.
void pack_band(const Conv2dArgs& q, const Plan& p, int64_t image, int64_t y0, int64_t rows, uint16_t* planes) {
  const float* x = static_cast<const float*>(q.x) + image * q.c * q.h * q.w;
  const int64_t part = p.part * kBlock;
  for (int64_t phase = 0; phase < p.phases_h * p.phases_w; ++phase) {
    const int64_t residue_h = phase / p.phases_w * q.dilation_h % q.stride_h;
    const int64_t residue_w = phase % p.phases_w * q.dilation_w % q.stride_w;
    const Span span = inside(q.w, q.pad_w, residue_w, q.stride_w, p.columns);
    const int64_t x0 = span.begin * q.stride_w + residue_w - q.pad_w, count = span.end - span.begin;
    uint16_t* row = planes + phase * p.plane * kBlock;
    for (int64_t j = 0; j < rows + p.reach_h; ++j, row += p.pitch * kBlock) {
      const int64_t y = (y0 + j) * q.stride_h + residue_h - q.pad_h;
      if (y < 0 || y >= q.h || count == 0) {
        zero_pixels(p, row, p.pitch);
        continue;
      }
      zero_pixels(p, row, span.begin);
      zero_pixels(p, row + span.end * kBlock, p.pitch - span.end);
      uint16_t* to = row + span.begin * kBlock;
      if (q.channels_last) {
        const float* pixel = x + (y * q.w + x0) * q.c;
        for (int64_t i = 0; i < count; ++i, pixel += q.stride_w * q.c, to += kBlock)
          for (int64_t block = 0; block < p.channel_blocks; ++block)
            pack_pixel(pixel + block * kBlock, q.c - block * kBlock, to + block * 3 * part, part);
      } else {
        for (int64_t block = 0; block < p.channel_blocks; ++block)
          pack_planar(q, x + (block * kBlock * q.h + y) * q.w + x0, q.stride_w, q.c - block * kBlock, count,
                      to + block * 3 * part, part);
      }
    }
    zero_pixels(p, row, p.plane - (rows + p.reach_h) * p.pitch);
  }
}

// ---- the end of a block, in eight units that fit between its successor's products ----

struct Finish {
  const Conv2dArgs& q;
  const Plan& p;
  const Epilogue<float>& epilogue;
  float *y, *transposed;  // of the image; 32 channels x 32 pixels
  int64_t y0, last;       // of the band: its first row and the end of its flat pixels
  bool finite = true;
  const float* sums = nullptr;   // 32 pixels x 32 channels
  int64_t panel = 0, first = 0;  // of the block; first flat pixel
  int64_t unit = 8;              // the next one; 8 is none

  void start(const float* block, int64_t panel_, int64_t first_) {
    sums = block, panel = panel_, first = first_, unit = 0;
  }
  FASTNN_MEMBER_INLINE bool busy() const { return unit < 8; }
  FASTNN_MEMBER_INLINE void step() {
    if (busy()) run();
  }
  FASTNN_MEMBER_INLINE void drain() {
    while (busy()) run();
  }

 private:
  // Not inlined: multiply_block would hold it six times.
  __attribute__((noinline)) void run() {
    const int64_t channel = panel * kBlock, channels = least(kBlock, q.o - channel), i = unit++;
    if (q.channels_last) {
      rows_of_pixels(first + 4 * i, first + 4 * i + 4, [&](int64_t row, int64_t column, int64_t at, int64_t count) {
        float* to = y + (row * q.ow + column) * q.o + channel;
        copy(sums + at * kBlock, to, q.o, count, channels);
        finish_columns(epilogue, to, q.o, channel, count, channels);
      });
    } else if (i < 4) {
      const int64_t half = i / 2 * 16, other = i % 2 * 16;
      transpose_16(sums + half * kBlock + other, kBlock, transposed + other * kBlock + half);
    } else {
      const int64_t c = (i - 4) * 8, count_c = least(8, channels - c), plane = q.oh * q.ow;
      if (count_c <= 0) return;
      rows_of_pixels(first, first + kBlock, [&](int64_t row, int64_t column, int64_t at, int64_t count) {
        float* to = y + (channel + c) * plane + row * q.ow + column;
        copy(transposed + c * kBlock + at, to, plane, count_c, count);
        finish_rows(epilogue, to, plane, channel + c, count_c, count);
      });
    }
  }

  // body(row, column, place in the block, count) for the pixels of [begin, end) that exist, row by row.
  template <class Body>
  FASTNN_MEMBER_INLINE void rows_of_pixels(int64_t begin, int64_t end, const Body& body) {
    end = least(end, last);
    int64_t row = begin / p.pitch, column = begin % p.pitch;
    for (int64_t at = begin; at < end; at += p.pitch - column, column = 0, ++row)
      if (column < q.ow) body(y0 + row, column, at - first, least(q.ow - column, end - at));
  }

  FASTNN_MEMBER_INLINE void copy(const float* from, float* to, int64_t ld, int64_t m, int64_t n) {
    constexpr int lanes = Vec<float>::lanes;
    const Vec<float> infinity = set1(__builtin_inff());
    for (int64_t i = 0; i < m; ++i, from += kBlock, to += ld)
      for (int64_t j = 0; j < n; j += lanes) {
        const int left = static_cast<int>(least(n - j, lanes));
        const Vec<float> v = left == lanes ? load(from + j) : load_partial(from + j, left);
        finite &= all(lt(abs(v), infinity));
        if (left == lanes)
          store(to + j, v);
        else
          store_partial(to + j, v, left);
      }
  }
};

// ---- products ----

// One step of 32 pixels x 32 channels out: 24 products and 14 tile loads, in an order that reloads least. Between the
// quartets of products `between` does something else, which costs next to nothing there.
template <class Between>
FASTNN_INLINE void multiply_step(Tiles& t, const uint16_t* x1, const uint16_t* x2, const uint16_t* x3,
                                 const uint16_t* w, const Between& between) {
  const auto load_x = [&](const uint16_t* x) __attribute__((always_inline)) {
    t.load<4>(x, 64), t.load<5, 1024>(x, 64);
  };
  const auto products = [&]() __attribute__((always_inline)) {
    t.dot<0, 4, 6>(), t.dot<1, 4, 7>(), t.dot<2, 5, 6>(), t.dot<3, 5, 7>();
    between();
  };
  load_x(x3);
  t.load<6>(w, 64), t.load<7, 1024>(w, 64);
  products();  // x3 w1
  load_x(x2);
  products();  // x2 w1
  t.load<6, 2048>(w, 64), t.load<7, 3072>(w, 64);
  products();  // x2 w2
  load_x(x1);
  products();  // x1 w2
  t.load<6, 4096>(w, 64), t.load<7, 5120>(w, 64);
  products();  // x1 w3
  t.load<6>(w, 64), t.load<7, 1024>(w, 64);
  products();  // x1 w1
}

// Steps of one block, added to tiles 0..3: four accumulators, as a product takes 52 cycles and one can start every 16.
struct Steps {
  const uint16_t* x;  // planes, from the block's first pixel
  int64_t part;
  const int64_t* offsets;
  const uint16_t* w;
  int64_t count;
  void* unread;  // 1 KB

  template <class Between>
  FASTNN_MEMBER_INLINE void next(Tiles& t, int64_t step, const Between& between) {
    const uint16_t* x1 = x + offsets[step];
    multiply_step(t, x1, x1 + part, x1 + 2 * part, w, between);
    w += kStepWeights;
    if (step % kKeepAwake == kKeepAwake - 1) t.store<4>(unread, 64);
  }
};

// A function of its own, on a copy that stays in registers: a step has 24 products, 14 loads, 12 other instructions.
__attribute__((noinline)) void multiply_plain(Tiles& t, const Steps& steps, int64_t step) {
  Steps s = steps;
  for (; step < s.count; ++step) s.next(t, step, [] {});
}

void multiply_block(Tiles& t, Steps s, Finish& shadow) {
  t.zero<0>(), t.zero<1>(), t.zero<2>(), t.zero<3>();
  int64_t step = 0;
  for (; step < s.count && shadow.busy(); ++step) s.next(t, step, [&] { shadow.step(); });
  multiply_plain(t, s, step);
}

// A band of rows of one image, some panels. Returns whether all sums were finite.
bool convolve(const Conv2dArgs& q, const Plan& p, const Epilogue<float>& epilogue, const int64_t* offsets,
              const uint16_t* weights, int64_t task) {
  const int64_t group = task % p.groups, band = task / p.groups % p.bands, image = task / p.groups / p.bands;
  const int64_t y0 = band * p.band, rows = least(p.band, q.oh - y0);
  char* memory = static_cast<char*>(
      runtime::scratch(runtime::Slot::kTask, 4 * 4096 + static_cast<size_t>(p.planes_size()) * sizeof(uint16_t)));
  float *sums = reinterpret_cast<float*>(memory), *transposed = sums + 2048, *unread = sums + 3072;
  uint16_t* planes = reinterpret_cast<uint16_t*>(memory + 4 * 4096);
  pack_band(q, p, image, y0, rows, planes);

  Tiles tiles;
  float* y = static_cast<float*>(q.y) + image * q.o * q.oh * q.ow;
  Finish finish{q, p, epilogue, y, transposed, y0, (rows - 1) * p.pitch + q.ow};
  const int64_t blocks = p.blocks(rows, q.ow);
  const int64_t end = least(p.panels, (group + 1) * p.panels_a_task);
  // A panel's weights come from beyond L2 once and serve all blocks of the band.
  for (int64_t panel = group * p.panels_a_task; panel < end; ++panel)
    for (int64_t block = 0; block < blocks; ++block) {
      const uint16_t *x = planes + block * kBlock * kBlock, *w = weights + panel * p.steps * kStepWeights;
      multiply_block(tiles, {x, p.part * kBlock, offsets, w, p.steps, unread}, finish);
      finish.drain();
      float* to = sums + block % 2 * 1024;
      tiles.store<0>(to, 128), tiles.store<1>(to + 16, 128);
      tiles.store<2>(to + 512, 128), tiles.store<3>(to + 528, 128);
      finish.start(to, panel, block * kBlock);
    }
  finish.drain();
  return finish.finite;
}

void pack_all_weights(const Conv2dArgs& q, const Plan& p, uint16_t* weights) {
  const int64_t pieces = p.panels * p.channel_blocks;
  runtime::parallel_for(pieces, pieces * p.taps * 500, [&](int64_t i) {
    float* rows = static_cast<float*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(p.taps * kBlock * kBlock) * sizeof(float)));
    pack_weights(q, p, i / p.channel_blocks, i % p.channel_blocks, rows, weights);
  });
}

// At most kImages images.
void convolve_images(const Conv2dArgs& q) {
  const Plan p = plan_of(q);
  uint8_t not_finite[kImages] = {};
  {
    const runtime::FlushDenormals flush;
    const int64_t unpacked = q.packed ? 0 : p.weights_size();
    char* memory = static_cast<char*>(
        runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(unpacked) * sizeof(uint16_t) +
                                                     static_cast<size_t>(p.steps) * sizeof(int64_t) +
                                                     static_cast<size_t>(epilogue_size(q)) * sizeof(float)));
    if (!q.packed) pack_all_weights(q, p, reinterpret_cast<uint16_t*>(memory));
    const uint16_t* weights = static_cast<const uint16_t*>(q.packed ? q.packed : memory);
    int64_t* offsets = reinterpret_cast<int64_t*>(reinterpret_cast<uint16_t*>(memory) + unpacked);
    const Epilogue<float> epilogue = prepare_epilogue<float>(q, reinterpret_cast<float*>(offsets + p.steps));
    fill_offsets(offsets, p, q);
    const int64_t tasks = q.n * p.bands * p.groups;
    const int64_t nanoseconds = tasks * p.blocks(p.band, q.ow) * p.panels_a_task * p.steps * 150;
    runtime::parallel_for(tasks, nanoseconds, [&](int64_t task) {
      if (!convolve(q, p, epilogue, offsets, weights, task))
        __atomic_store_n(not_finite + task / p.groups / p.bands, uint8_t{1}, __ATOMIC_RELAXED);
    });
  }
  // An infinite or NaN element, one that rounds to infinity as a part, or a sum that overflows half way makes NaN or
  // infinity where a chain of multiply-adds may give a number or the other. All of them show in the sums.
  for (int64_t i = 0; i < q.n; ++i) {
    if (!not_finite[i]) continue;
    Conv2dArgs again = q;
    again.n = 1;
    again.packed = nullptr;  // these are for the tiles
    again.x = static_cast<const float*>(q.x) + i * q.c * q.h * q.w;
    again.y = static_cast<float*>(q.y) + i * q.o * q.oh * q.ow;
    if (q.residual) again.residual = static_cast<const float*>(q.residual) + i * q.o * q.oh * q.ow;
    conv2d_im2col_forward(again);
  }
}

}  // namespace

// Everything else is done by im2col, which then has packed the weights too.
static bool takes_tiles(const Conv2dArgs& q) {
  return q.dtype == kFloat32 && q.groups == 1 && q.c >= kLeastChannels && q.n * q.o * q.oh * q.ow * q.kh * q.kw != 0;
}

int64_t conv2d_amx_forward_pack(const Conv2dArgs& args, void* packed) {
  if (!takes_tiles(args)) return conv2d_im2col_forward_pack(args, packed);
  const Plan p = plan_of(args);
  if (packed) pack_all_weights(args, p, static_cast<uint16_t*>(packed));
  return p.weights_size() * static_cast<int64_t>(sizeof(uint16_t));
}

const char* conv2d_amx_forward_algorithm(const Conv2dArgs& args) {
  return takes_tiles(args) ? "amx" : conv2d_im2col_forward_algorithm(args);
}

void conv2d_amx_forward(const Conv2dArgs& args) {
  if (!takes_tiles(args)) return conv2d_im2col_forward(args);
  for (int64_t i = 0; i < args.n; i += kImages) {
    Conv2dArgs some = args;
    some.n = least(kImages, args.n - i);
    some.x = static_cast<const float*>(args.x) + i * args.c * args.h * args.w;
    some.y = static_cast<float*>(args.y) + i * args.o * args.oh * args.ow;
    if (args.residual) some.residual = static_cast<const float*>(args.residual) + i * args.o * args.oh * args.ow;
    convolve_images(some);
  }
}

}  // namespace fastnn::FASTNN_ISA

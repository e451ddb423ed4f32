// An inverted residual on tiles: a 1x1 convolution to the hidden channels, a depthwise one of these, a 1x1 convolution
// back (Sandler et al., arXiv 1801.04381), of which the hidden channels never leave the cache of a core. Without the
// first it is a depthwise separable convolution (Howard et al., arXiv 1704.04861).
//   chunk   32 hidden channels of a task's rows; of the floats that the first convolution makes (or x has) and the
//           depthwise one reads a ring of a few rows, with zeros beside them, which stays in L1
//   planes  x, and the output of the depthwise convolution, as bfloat16 parts (amx_planes.hpp), pixel after pixel
// A task has some rows of the output, of one image or several, and all hidden channels, chunk by chunk; then it sums
// the last convolution, block by block. Where there are few pixels at all a task has them all and some of the hidden
// channels: then every task leaves sums of its own (whose number depends on the shape alone), which are added at the
// end, in order.
#pragma once
#include "kernels/conv/amx_planes.hpp"
#include "kernels/conv/amx_products.hpp"
#include "kernels/conv/epilogue.hpp"
#include "simd/opaque.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

using Inverted = InvertedResidualArgs;

constexpr int64_t kFewPixels = 100;  // of the output: up to these, tasks share them and split the hidden channels
constexpr int64_t kMostGroups = 2;   // ways to split these: each packs x anew
constexpr int64_t kBandBudget = 1400 << 10;  // bytes of a task in its core's L2

struct InvertedPlan {
  int64_t parts;
  int64_t blocks;  // of 32 channels of x, where there is a first convolution
  int64_t chunks, panels, taps;
  int64_t columns, ring;                                  // of a row of a chunk, zeros included; rows
  int64_t rows, bands;                                    // rows of the output in a task, and how many such tasks
  int64_t groups, group_chunks;                           // of hidden channels
  int64_t in_rows;                                        // of x, at most, that a band reads
  int64_t x_part, hidden_part;                            // elements of a part of a plane
  int64_t out_blocks;                                     // of 32 pixels in a band, at most
  size_t sums, offsets, table, chunk, x, hidden, memory;  // of a task: where these begin, in bytes

  int64_t step_weights() const { return parts * kBlock * kBlock; }
  int64_t expand_weights() const { return chunks * blocks * step_weights(); }
  int64_t project_weights() const { return panels * chunks * step_weights(); }
  // Floats behind those: (chunk, tap, 32), then the first two biases.
  int64_t floats() const { return chunks * kBlock * (taps + 2); }
  int64_t bytes() const {
    return (expand_weights() + project_weights()) * int64_t{sizeof(uint16_t)} + floats() * int64_t{sizeof(float)};
  }
};

FASTNN_INLINE int64_t odd_lines(int64_t pixels) { return (blocks_of(pixels, kBlock) * kBlock | 1) * kBlock; }

// The rest of a plan with so many rows of the output to a task; its cost in cycles of the slowest thread.
[[maybe_unused]] int64_t cut_rows(InvertedPlan& p, const Inverted& q, int64_t rows, int64_t threads) {
  const int64_t all = q.n * q.oh, images = (rows + q.oh - 2) / q.oh + 1;  // images: that a task can meet
  p.rows = rows, p.bands = blocks_of(all, rows);
  p.in_rows =
      rows % q.oh == 0 ? rows / q.oh * q.h : rows * q.stride_h + least(images, rows) * most(q.kh - q.stride_h, 0);
  const int64_t in = p.in_rows * q.w;
  p.out_blocks = blocks_of(rows * q.ow, kBlock);
  p.x_part = odd_lines(in), p.hidden_part = odd_lines(rows * q.ow);
  const auto next = [&](size_t& at, int64_t bytes) {
    at = p.memory;
    p.memory += static_cast<size_t>((bytes + 63) / 64 * 64);
  };
  p.memory = 0;
  next(p.sums, 4096 + 1024);  // of a block, and what is never read
  next(p.offsets, (p.blocks + p.chunks) * int64_t{sizeof(int64_t)});
  next(p.table, (p.in_rows + 2 * rows) * int64_t{sizeof(int64_t)});
  next(p.chunk, (p.ring + 1) * p.columns * kBlock * int64_t{sizeof(float)});
  next(p.x, p.blocks * p.parts * p.x_part * int64_t{sizeof(uint16_t)});
  next(p.hidden, p.group_chunks * p.parts * p.hidden_part * int64_t{sizeof(uint16_t)});
  const int64_t products = p.parts * (p.parts + 1) / 2 * 64;
  const int64_t expand = blocks_of(in, kBlock) * (p.blocks * products + 200);
  const int64_t task = p.group_chunks * (expand + rows * q.ow * p.taps * 2 + p.out_blocks * p.panels * products) +
                       p.out_blocks * p.panels * 300 + in * p.blocks * 30 + 2000;
  const int64_t beyond = most(0, static_cast<int64_t>(p.memory) - kBandBudget) / 8;
  return blocks_of(p.bands * p.groups, threads) * (task + beyond);
}

[[maybe_unused]] InvertedPlan inverted_plan_of(const Inverted& q) {
  InvertedPlan p = {};
  p.parts = q.parts;
  p.blocks = q.expand_weight ? blocks_of(q.c, kBlock) : 0;
  p.chunks = blocks_of(q.hidden, kBlock), p.panels = blocks_of(q.o, kBlock), p.taps = q.kh * q.kw;
  p.columns = most(q.w + q.pad_w, (q.ow - 1) * q.stride_w + q.kw);
  p.ring = q.kh + (kBlock + q.w - 2) / q.w + 1;  // what a tile reads and what ends a block, or fills a row, writes
  p.groups = 1, p.group_chunks = p.chunks;
  const int64_t threads = runtime::num_threads(), all = q.n * q.oh;
  if (all * q.ow <= kFewPixels && p.chunks > 1) {
    p.group_chunks = blocks_of(p.chunks, kMostGroups), p.groups = blocks_of(p.chunks, p.group_chunks);
    cut_rows(p, q, all, threads);
    return p;
  }
  int64_t best = -1, best_rows = 1;
  const auto consider = [&](int64_t rows) {
    const int64_t cost = cut_rows(p, q, rows, threads);
    if (best < 0 || cost < best) best = cost, best_rows = rows;
    return static_cast<int64_t>(p.memory) < 2 * kBandBudget;
  };
  for (int64_t i = q.oh, before = 0; i > 0; before = blocks_of(q.oh, i--))
    if (blocks_of(q.oh, i) != before) consider(blocks_of(q.oh, i));
  for (int64_t i = 2; i <= q.n && consider(i * q.oh); ++i) continue;
  cut_rows(p, q, best_rows, threads);
  return p;
}

// ---- weights ----

// A 1x1 convolution as the products read it: [panel][channel block], pairs 16 channels apart as split_pairs makes them.
template <int parts>
void pack_points(const void* weight, int64_t c, int64_t o, uint16_t* to) {
  Plan p = {};
  p.parts = parts, p.pixels = p.outs = kBlock, p.taps = 1;
  alignas(64) float rows[kBlock * kBlock];
  for (int64_t i = 0; i < o; i += kBlock)
    for (int64_t j = 0; j < c; j += kBlock, to += p.step_weights()) {
      const float* w = static_cast<const float*>(weight) + i * c + j;
      gather_weights(w, c, kBlock, least(kBlock, c - j), least(kBlock, o - i), kBlock, rows);
      split_weights<parts>(p, 16, rows, to);
    }
}

// [weights of the first][of the last][chunk][tap][32] and the biases of the first two, with zeros for channels that
// are not there.
template <int parts>
void pack_inverted(const Inverted& q, const InvertedPlan& p, uint16_t* to) {
  if (p.blocks) pack_points<parts>(q.expand_weight, q.c, q.hidden, to);
  pack_points<parts>(q.weight, q.hidden, q.o, to + p.expand_weights());
  float* floats = reinterpret_cast<float*>(to + p.expand_weights() + p.project_weights());
  std::memset(floats, 0, static_cast<size_t>(p.floats()) * sizeof(float));
  const float* w = static_cast<const float*>(q.depthwise_weight);
  for (int64_t i = 0; i < q.hidden; ++i)
    for (int64_t tap = 0; tap < p.taps; ++tap)
      floats[(i / kBlock * p.taps + tap) * kBlock + i % kBlock] = w[i * p.taps + tap];
  floats += p.chunks * kBlock * p.taps;
  const size_t bytes = static_cast<size_t>(q.hidden) * sizeof(float);
  if (q.expand_bias) std::memcpy(floats, q.expand_bias, bytes);
  if (q.depthwise_bias) std::memcpy(floats + p.chunks * kBlock, q.depthwise_bias, bytes);
}

// ---- the depthwise convolution of a chunk ----

// `pixels` pixels of a row, all 32 channels, from column `column` of each row that they read. to: their place in the
// planes.
template <int parts, int kernel, int move, int pixels>
__attribute__((noinline)) void depthwise_tile(const float* const* rows, int64_t column, const float* w,
                                              const float* bias, const Then& then, uint16_t* to, int64_t part) {
  constexpr int lanes = Vec<float>::lanes;
#pragma GCC unroll 1
  for (int i = 0; i < 16; i += lanes) {  // channels i .. and i + 16 .., which are pairs in the planes
    const Vec<float> low = load(bias + i), high = load(bias + i + 16);
    Vec<float> acc[2 * pixels];
#pragma GCC unroll 16
    for (int p = 0; p < 2 * pixels; ++p) acc[p] = p % 2 == 0 ? low : high;
    const float* weight = w + i;
    const float* const* row = rows;
#pragma GCC unroll 1
    for (const float* const* end = rows + kernel; row != end; ++row, weight += kernel * kBlock) {
      const float* x = *row + column * kBlock + i;
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        Vec<float> weights[kernel];
#pragma GCC unroll 8
        for (int j = 0; j < kernel; ++j) weights[j] = opaque(load(weight + j * kBlock + half * 16));
        const float* at = opaque(x + half * 16);  // else gcc keeps an address for each load, most of them on the stack
#pragma GCC unroll 64
        for (int s = 0; s < (pixels - 1) * move + kernel; ++s, at = opaque(at + kBlock)) {
          const Vec<float> v = opaque(load(at));
#pragma GCC unroll 8
          for (int j = s % move; j < kernel; j += move)
            if (s >= j && s - j < pixels * move) {
              Vec<float>& sum = acc[(s - j) / move * 2 + half];
              sum = fma(v, weights[j], sum);
            }
        }
      }
    }
    const Parameters<float> a = parameters_of<float>(then);
    with_cheap_activation(
        then.activation, [&](auto tag) __attribute__((always_inline)) {
#pragma GCC unroll 16
          for (int p = 0; p < 2 * pixels; ++p) acc[p] = activate<tag.value>(acc[p], a);
        });
#pragma GCC unroll 16
    for (int p = 0; p < pixels; ++p) split_pairs<parts>(acc[2 * p], acc[2 * p + 1], to + p * kBlock + 2 * i, part);
  }
}

constexpr int kTilePixels = Vec<float>::lanes == 16 ? 7 : 3;  // 14 sums, weights and x in 32 registers, or 6 in 16

// ---- one task ----

// `count` floats, as far as they fit into a vector, and zeros.
FASTNN_INLINE Vec<float> some(const float* from, int64_t count) {
  constexpr int lanes = Vec<float>::lanes;
  return count >= lanes ? load(from) : count > 0 ? load_partial(from, static_cast<int>(count)) : zero<float>();
}

// Between the quartets of products: the end of the block before, the packing of x (for the first chunk), the depthwise
// convolution of rows that are there, and the fetching of the next chunk's weights. Unlike packing, multiply-adds hide
// badly there: with products under way they start once a cycle, not twice (measured), so that 28x28 with 192 hidden
// channels takes as long as both by themselves, 3 to 8 % less than one after the other.
template <int parts>
class InvertedTask {
 public:
  InvertedTask(const Inverted& q, const InvertedPlan& p, const Epilogue<float>& epilogue, const uint16_t* weights,
               uint8_t* not_finite, float* sums, int64_t task, char* memory)
      : q_(q),
        p_(p),
        epilogue_(epilogue),
        expand_(weights),
        project_(weights + p.expand_weights()),
        depthwise_(reinterpret_cast<const float*>(weights + p.expand_weights() + p.project_weights())),
        biases_(depthwise_ + p.chunks * kBlock * p.taps),
        not_finite_(not_finite),
        partial_(sums),
        first_(task % p.bands * p.rows),
        rows_(least(p.rows, q.n * q.oh - first_)),
        chunk0_(task / p.bands * p.group_chunks),
        chunk1_(least(p.chunks, chunk0_ + p.group_chunks)),
        sums_(reinterpret_cast<float*>(memory + p.sums)),
        offsets_(reinterpret_cast<int64_t*>(memory + p.offsets)),
        source_(reinterpret_cast<int64_t*>(memory + p.table)),
        first_row_(source_ + p.in_rows),
        base_(first_row_ + p.rows),
        ring_(reinterpret_cast<float*>(memory + p.chunk)),
        x_(reinterpret_cast<uint16_t*>(memory + p.x)),
        hidden_(reinterpret_cast<uint16_t*>(memory + p.hidden)) {
    with_cheap_activation(q.expand_then.activation, [&](auto tag) { finish_ = finish_pixels<tag.value>; });
    choose_tile();
  }

  void run() {
    find_rows();
    for (int64_t i = 0; i < p_.blocks; ++i) offsets_[i] = i * parts * p_.x_part;
    for (int64_t i = 0; i < chunk1_ - chunk0_; ++i) offsets_[p_.blocks + i] = i * parts * p_.hidden_part;
    if (p_.blocks) {
      pixels_ = in_rows_ * q_.w;
      zero_end(x_, p_.blocks, p_.x_part, pixels_);
      pack(kBlock);
    }
    for (int64_t chunk = chunk0_; chunk < chunk1_; ++chunk) p_.blocks ? expand(chunk) : fill(chunk);
    finish_all();
    while (tile_waits()) depthwise_step();
    zero_end(hidden_, chunk1_ - chunk0_, p_.hidden_part, rows_ * q_.ow);
    project();
  }

 private:
  using TileOf = void (*)(const float* const*, int64_t, const float*, const float*, const Then&, uint16_t*, int64_t);
  static constexpr int64_t kRun = 16;  // pixels to finish at a time

  // Row `row` of the ring, counted on through all chunks.
  float* ring_row(int64_t row) { return ring_ + row % p_.ring * p_.columns * kBlock; }
  const float* zero_row() { return ring_ + p_.ring * p_.columns * kBlock; }

  // The rows of x that the task reads, in order. Of each row of the output the first row that it reads, which may lie
  // above the image, and what is to be added to such a row to count it in that order.
  void find_rows() {
    int64_t out = 0;
    for (int64_t g = first_; g < first_ + rows_;) {
      const int64_t image = g / q_.oh, a = g % q_.oh, b = least(q_.oh, a + first_ + rows_ - g);
      const int64_t top = most(0, a * q_.stride_h - q_.pad_h);
      const int64_t bottom = least(q_.h, (b - 1) * q_.stride_h - q_.pad_h + q_.kh);
      for (int64_t i = a; i < b; ++i, ++out) first_row_[out] = i * q_.stride_h - q_.pad_h, base_[out] = in_rows_ - top;
      for (int64_t y = top; y < bottom; ++y) source_[in_rows_++] = (image * q_.h + y) * q_.w;
      g += b - a;
    }
    std::memset(ring_, 0, static_cast<size_t>((p_.ring + 1) * p_.columns * kBlock) * sizeof(float));
  }

  // The pixels that fill up the last block are not stored, and must only be numbers.
  static void zero_end(uint16_t* planes, int64_t count, int64_t part, int64_t pixels) {
    const size_t bytes = static_cast<size_t>((blocks_of(pixels, kBlock) * kBlock - pixels) * kBlock) * sizeof(uint16_t);
    for (int64_t i = 0; i < count * parts; ++i) std::memset(planes + i * part + pixels * kBlock, 0, bytes);
  }

  // The next pixels of x to the planes.
  __attribute__((noinline)) void pack(int64_t count) {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t whole = q_.c / kBlock, rest = q_.c % kBlock, part = p_.x_part;
    for (int64_t end = least(packed_ + count, pixels_); packed_ < end; ++packed_) {
      const float* x = static_cast<const float*>(q_.x) + (source_[pack_row_] + pack_column_) * q_.c;
      if (++pack_column_ == q_.w) pack_column_ = 0, ++pack_row_;
      uint16_t* to = x_ + packed_ * kBlock;
      for (int64_t b = 0; b < whole; ++b, to += parts * part)
        split_bf16<parts>(x + b * kBlock, x + b * kBlock + 16, to, part);
      if (rest == 0) continue;
      for (int j = 0; j < 16; j += lanes) {
        const float* from = x + whole * kBlock + j;
        split_pairs<parts>(some(from, rest - j), some(from + 16, rest - 16 - j), to + 2 * j, part);
      }
    }
  }

  // ---- between the quartets ----

  FASTNN_MEMBER_INLINE void beside() {
    if (fetched_ < fetches_) fetch();
    if (finish_at_ < finish_end_) return finish_(*this);
    if (packed_ < pixels_) return pack(pack_units_);
    credit_ = least(credit_ + tiles_a_turn_, 8 * kTurn);
    for (; credit_ >= kTurn && tile_waits(); credit_ -= kTurn) depthwise_step();
  }

  // Weights of the next chunk: a tile of them at a time, of the first convolution, then of each panel of the last.
  void fetch() {
    for (int64_t end = least(fetches_, fetched_ + fetches_a_turn_); fetched_ < end; ++fetched_) {
      const int64_t panel_tiles = 2 * parts, own = fetched_ - p_.blocks * panel_tiles;
      const uint16_t* w =
          own < 0 ? fetch_expand_ + fetched_ * 512
                  : fetch_project_ + own / panel_tiles * p_.chunks * p_.step_weights() + own % panel_tiles * 512;
      for (int64_t line = 0; line < 16; ++line) prefetch_l2(reinterpret_cast<const char*>(w) + line * 64);
    }
  }

  // Begins the products of a block, with the rest beside them.
  void multiply(const uint16_t* x, int64_t part, const int64_t* offsets, const uint16_t* w, int64_t count) {
    tiles_.zero<0>(), tiles_.zero<1>(), tiles_.zero<2>(), tiles_.zero<3>();
    Steps<parts, false> s = {x, part, kBlock * 2, offsets, w, count, sums_ + 1024};
    for (int64_t step = 0; step < count; ++step) s.next(tiles_, step, [&] { beside(); });
  }
  void store_sums(float* to) {
    tiles_.store<0>(to, 128), tiles_.store<1>(to + 16, 128), tiles_.store<2>(to + 512, 128),
        tiles_.store<3>(to + 512 + 16, 128);
  }

  // ---- the first convolution ----

  void expand(int64_t chunk) {
    const uint16_t* w = expand_ + chunk * p_.blocks * p_.step_weights();
    const int64_t blocks = blocks_of(pixels_, kBlock), turns = blocks * p_.blocks * products_of_parts();
    start_fetch(chunk + 1, turns);
    pack_units_ = blocks_of(kBlock, p_.blocks * products_of_parts());
    // What ends the blocks takes turns too.
    const int64_t tiles = rows_ * blocks_of(q_.ow, tile_pixels_), left = most(turns / 3 + 1, turns - 3 * blocks);
    tiles_a_turn_ = tiles * kTurn / left + 1;
    for (int64_t block = 0; block < blocks; ++block) {
      if (chunk == chunk0_) pack((block + 1) * kBlock - packed_);
      multiply(x_ + block * kBlock * kBlock, p_.x_part, offsets_, w, p_.blocks);
      finish_all();
      store_sums(sums_);
      start_finish(block * kBlock, pixels_, sums_);
      if (block == 0) bias_ = biases_ + chunk * kBlock, finish_row_ = 0, finish_column_ = 0;
      make_room(done_rows_ + (finish_column_ + finish_end_ - finish_at_ - 1) / q_.w);
    }
  }

  // The end of up to 16 pixels of the block: the bias, the activation, and to their place in the chunk.
  template <Activation kind>
  static __attribute__((noinline)) void finish_pixels(InvertedTask& t) {
    constexpr int lanes = Vec<float>::lanes, vectors = kBlock / lanes;
    const Parameters<float> a = parameters_of<float>(t.q_.expand_then);
    const int64_t left = least(kRun, t.finish_end_ - t.finish_at_), width = t.q_.w;
    const int64_t count = least(left, width - t.finish_column_), row = t.finish_row_;
    const float* from = t.from_ + t.finish_at_ % kBlock * kBlock;
    float* to = t.ring_row(t.done_rows_) + (t.q_.pad_w + t.finish_column_) * kBlock;
    Vec<float> bias[vectors], bad = zero<float>();
    for (int j = 0; j < vectors; ++j) bias[j] = load(t.bias_ + j * lanes);
    for (int64_t i = 0; i < count; ++i, from += kBlock, to += kBlock)
      for (int j = 0; j < vectors; ++j) {
        const Vec<float> sum = load(from + j * lanes);
        bad = fma(sum, zero<float>(), bad);  // 0 times what is not finite is NaN, and stays
        store(to + j * lanes, activate<kind>(sum + bias[j], a));
      }
    if (any(is_nan(bad))) flag(t.not_finite_, t.source_[row] / (t.q_.h * width));
    t.finish_at_ += count, t.finish_column_ += count;
    if (t.finish_column_ == width) t.finish_column_ = 0, ++t.finish_row_, ++t.done_rows_;
  }

  void start_finish(int64_t pixel, int64_t pixels, const float* from) {
    from_ = from, finish_at_ = pixel, finish_end_ = least(pixel + kBlock, pixels);
  }
  void finish_all() {
    while (finish_at_ < finish_end_) finish_(*this);
  }

  // Without a first convolution: the channels of x.
  void fill(int64_t chunk) {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channels = least(kBlock, q_.c - chunk * kBlock);
    for (int64_t k = 0; k < in_rows_; ++k) {
      make_room(done_rows_);
      const float* x = static_cast<const float*>(q_.x) + source_[k] * q_.c + chunk * kBlock;
      float* to = ring_row(done_rows_) + q_.pad_w * kBlock;
      for (int64_t i = 0; i < q_.w; ++i, x += q_.c, to += kBlock)
        for (int j = 0; j < kBlock; j += lanes) store(to + j, some(x + j, channels - j));
      ++done_rows_;
    }
  }

  // Weights of the first and last convolution for a chunk, while so many quartets of products run.
  void start_fetch(int64_t chunk, int64_t turns) {
    fetched_ = 0, fetches_ = chunk < chunk1_ ? (p_.blocks + p_.panels) * parts * 2 : 0;
    fetches_a_turn_ = blocks_of(fetches_, turns);
    fetch_expand_ = expand_ + chunk * p_.blocks * p_.step_weights();
    fetch_project_ = project_ + chunk * p_.step_weights();
  }

  // ---- the depthwise convolution ----

  template <int n>
  struct Number {
    static constexpr int value = n;
  };

  void choose_tile() {
    const auto of_size = [&](auto pixels) {
      constexpr int n = pixels.value;
      tile_pixels_ = n;
      if (q_.kw == 3)
        tile_ = q_.stride_w == 1 ? depthwise_tile<parts, 3, 1, n> : depthwise_tile<parts, 3, 2, n>;
      else
        tile_ = q_.stride_w == 1 ? depthwise_tile<parts, 5, 1, n> : depthwise_tile<parts, 5, 2, n>;
    };
    q_.ow >= kTilePixels ? of_size(Number<kTilePixels>{}) : of_size(Number<1>{});
  }

  // Rows count on through the chunks: row i of x is row turn_ * in_rows_ + i of the ring.
  int64_t first_needed() { return turn_ * in_rows_ + base_[row_] + most(0, first_row_[row_]); }
  // Whether there is a tile whose rows are there.
  bool tile_waits() {
    const int64_t last = least(q_.h, first_row_[row_] + q_.kh);
    return turn_ < chunk1_ - chunk0_ && done_rows_ >= turn_ * in_rows_ + base_[row_] + last;
  }
  // Before row `row` is written: what reads the row whose place it takes.
  void make_room(int64_t row) {
    while (turn_ < chunk1_ - chunk0_ && first_needed() <= row - p_.ring && tile_waits()) depthwise_step();
  }
  // One tile. The last of a row begins early enough to be whole: what it computes again is the same.
  void depthwise_step() {
    const int64_t chunk = chunk0_ + turn_, y = first_row_[row_];
    if (column_ == 0)
      for (int64_t k = 0; k < q_.kh; ++k)
        kernel_rows_[k] = y + k < 0 || y + k >= q_.h ? zero_row() : ring_row(turn_ * in_rows_ + base_[row_] + y + k);
    const int64_t column = least(column_, q_.ow - tile_pixels_);
    tile_(kernel_rows_, column * q_.stride_w, depthwise_ + chunk * p_.taps * kBlock,
          biases_ + (p_.chunks + chunk) * kBlock, q_.depthwise_then,
          hidden_ + turn_ * parts * p_.hidden_part + (row_ * q_.ow + column) * kBlock, p_.hidden_part);
    column_ = column + tile_pixels_;
    if (column_ < q_.ow) return;
    column_ = 0;
    if (++row_ == rows_) row_ = 0, ++turn_;
  }

  // ---- the last convolution ----

  void project() {
    const int64_t count = rows_ * q_.ow, chunks = chunk1_ - chunk0_;
    finish_ = finish_outputs;
    for (int64_t pixel = 0, block = 0; pixel < count; pixel += kBlock)
      for (int64_t panel = 0; panel < p_.panels; ++panel, ++block) {
        multiply(hidden_ + pixel * kBlock, p_.hidden_part, offsets_ + p_.blocks,
                 project_ + (panel * p_.chunks + chunk0_) * p_.step_weights(), chunks);
        finish_all();
        if (p_.groups > 1) {
          store_sums(partial_ + block * 1024);
          continue;
        }
        store_sums(sums_);
        start_finish(pixel, count, sums_);
        panel_ = panel;
      }
    finish_all();
  }
  static __attribute__((noinline)) void finish_outputs(InvertedTask& t) {
    const int64_t count = least(kRun, t.finish_end_ - t.finish_at_);
    finish_out(t.q_, t.epilogue_, t.not_finite_, t.from_ + t.finish_at_ % kBlock * kBlock,
               t.first_ * t.q_.ow + t.finish_at_, count, t.panel_);
    t.finish_at_ += count;
  }
  static void flag(uint8_t* not_finite, int64_t image) {
    __atomic_store_n(not_finite + image, uint8_t{1}, __ATOMIC_RELAXED);
  }

 public:
  // `count` pixels of a panel of the output, from pixel `first` of all images.
  static void finish_out(const Inverted& q, const Epilogue<float>& epilogue, uint8_t* not_finite, const float* from,
                         int64_t first, int64_t count, int64_t panel) {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channel = panel * kBlock, channels = least(kBlock, q.o - channel), image = q.oh * q.ow;
    for (int64_t at = first; at < first + count;) {
      const int64_t run = least(first + count - at, image - at % image);
      Vec<float> bad = zero<float>();
      for (int64_t i = 0; i < run * kBlock; i += lanes) bad = fma(load(from + i), zero<float>(), bad);
      if (any(is_nan(bad))) flag(not_finite, at / image);
      finish<float, false>(epilogue, from, kBlock, static_cast<float*>(q.y) + at * q.o + channel, q.o, channel, run,
                           channels);
      at += run, from += run * kBlock;
    }
  }

 private:
  static constexpr int64_t kTurn = 1024;  // of what a turn may do

  static constexpr int64_t products_of_parts() { return parts * (parts + 1) / 2; }

  const Inverted& q_;
  const InvertedPlan& p_;
  const Epilogue<float>& epilogue_;
  const uint16_t *expand_, *project_;
  const float *depthwise_, *biases_;
  uint8_t* not_finite_;
  float* partial_;
  int64_t first_, rows_, chunk0_, chunk1_, in_rows_ = 0;
  float* sums_;
  int64_t *offsets_, *source_, *first_row_, *base_;
  float* ring_;
  uint16_t *x_, *hidden_;
  // What is packed: pixels of x.
  int64_t pixels_ = 0, packed_ = 0, pack_units_ = 0, pack_row_ = 0, pack_column_ = 0;
  // What is finished: pixels of a block, by row and column of x; rows of the ring that are; the panel of the output.
  void (*finish_)(InvertedTask&) = nullptr;
  int64_t finish_at_ = 0, finish_end_ = 0, finish_row_ = 0, finish_column_ = 0, done_rows_ = 0, panel_ = 0;
  const float *from_ = nullptr, *bias_ = nullptr;
  // The tile of the depthwise convolution that comes next: of which chunk, row and column; how many a turn does.
  TileOf tile_ = nullptr;
  int64_t tile_pixels_ = 1, turn_ = 0, row_ = 0, column_ = 0, tiles_a_turn_ = 0, credit_ = 0;
  const float* kernel_rows_[5] = {};
  int64_t fetched_ = 0, fetches_ = 0, fetches_a_turn_ = 0;
  const uint16_t *fetch_expand_ = nullptr, *fetch_project_ = nullptr;
  Tiles tiles_;
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

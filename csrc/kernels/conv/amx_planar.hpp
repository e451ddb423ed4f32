// conv2d_amx for images of a few channels, as first layers have: pixels are the columns of the tiles, weights the rows.
// A row of a tile holds two numbers for each of 16 pixels that lie side by side: of two channels at one tap, or of the
// channel that is left over at two taps; what other taps read is the same row some pixels further. So rows of x as they
// lie in NCHW become rows of tiles without being gathered pixel by pixel, no row of a tile crosses a line, and steps
// are full: 7x7 with 3 channels has 11 such rows for each of its rows, 77 in all, which is 5 steps; by rows of taps
// (amx_plan.hpp) it has 7, whose overlapping loads cost half as much again. To copy the 147 numbers of each pixel into
// lines instead took as long as all products. 3x3 with 3 channels is one step.
//   tile     16 pixels of a row of y
//   block    2 tiles below each other and 32 channels out, or 4 and 16
//   weights  [panel][step][part][16 channels out][their 32 numbers]
//   planes   [part][16 pixels][row of x, with its padding][row of tiles][pixel][2]: a tile lies in one piece
// Rows of tiles behind the last that the kernel reads are multiplied by zero.
#pragma once
#include "kernels/conv/amx_planes.hpp"
#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/format.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kMostPlanar = 4;              // channels
constexpr int64_t kMostPairs = 32;              // rows of tiles of a row of x
constexpr int64_t kPlanarBudget = 1000 * 1000;  // bytes of L2 for the planes of a task

struct PlanarPlan {
  int64_t parts, tiles;         // of a row of y
  int64_t pairs, steps, reach;  // rows of tiles of a row of x; rows of x that the steps of a row of y read
  int64_t block, outs, panels;  // tiles and channels out of a block
  int64_t phase;                // floats of a row of x, of each stride phase
  int64_t groups, images;       // of images, in a task
  int64_t ranges, rows;         // of rows of y, in a task
  int64_t row, column, part;    // elements: of a tile of a row of x, of all rows of the task, of a part
  int64_t floats, split;        // of rows of x before they are split; elements of a row that is

  int64_t part_weights() const { return kBlock * outs; }
  int64_t weights_size() const { return panels * steps * parts * part_weights(); }
  int64_t tasks() const { return groups * ranges; }
};

FASTNN_INLINE int64_t pairs_of(const Conv2dArgs& q) { return q.c / 2 * q.kw + q.c % 2 * blocks_of(q.kw, 2); }
FASTNN_INLINE int64_t planar_steps_of(const Conv2dArgs& q) { return blocks_of(q.kh * pairs_of(q), 16); }

// Where it can be had; the steps are as full as conv2d_amx wants them, and so are the tiles.
[[maybe_unused]] bool by_planes(const Conv2dArgs& q, int64_t least_elements) {
  return q.c <= kMostPlanar && q.kw <= 16 && q.dilation_h * q.dilation_w == 1 &&
         q.kh * q.kw * q.c >= least_elements * planar_steps_of(q) && blocks_of(q.ow, 16) * 16 <= 2 * q.ow;
}

[[maybe_unused]] PlanarPlan planar_plan_of(const Conv2dArgs& q, int64_t parts) {
  PlanarPlan p = {};
  p.parts = parts;
  p.tiles = blocks_of(q.ow, 16);
  p.pairs = pairs_of(q), p.steps = planar_steps_of(q), p.reach = blocks_of(p.steps * 16, p.pairs);
  // By one image, as packed weights serve batches of any size.
  const int64_t all = q.oh * p.tiles;
  const bool tall = blocks_of(all, 4) * blocks_of(q.o, 16) < blocks_of(all, 2) * blocks_of(q.o, 32);
  p.block = tall ? 4 : 2, p.outs = 64 / p.block, p.panels = blocks_of(q.o, p.outs);
  p.phase = blocks_of((p.tiles + 1) * 16 + q.kw, 16) * 16;
  p.row = p.pairs * kBlock;
  // Tasks are several images, or a part of one: of as many rows as tiles of a block lie below each other.
  const int64_t threads = runtime::num_threads(), fit = kPlanarBudget / (p.tiles * p.row * parts * 2);
  const auto rows_for = [&](int64_t rows) { return (rows - 1) * q.stride_h + p.reach; };
  p.images = 1, p.rows = blocks_of(q.oh, p.block) * p.block;
  if (rows_for(p.rows) <= fit && q.n >= threads) {
    const int64_t tasks = blocks_of(q.n, least(fit / rows_for(p.rows), blocks_of(q.n, threads)));
    p.images = blocks_of(q.n, blocks_of(tasks, threads) * threads);
  } else {
    int64_t best = -1;
    for (int64_t rows = p.block; rows < q.oh + p.block; rows += p.block) {
      if (rows > p.block && rows_for(rows) > fit) break;
      // Rows of y that the slowest thread computes, and a third of those that it packs before it begins.
      const int64_t cost = blocks_of(q.n * blocks_of(q.oh, rows), threads) * (3 * rows * q.stride_h + p.reach);
      if (best < 0 || cost <= best) best = cost, p.rows = rows;
    }
  }
  p.groups = blocks_of(q.n, p.images), p.ranges = blocks_of(q.oh, p.rows);
  p.column = p.images * rows_for(p.rows) * p.row;
  p.column += (p.column / kBlock % 2 == 0) * kBlock;  // an odd number of lines
  p.part = p.tiles * p.column + kBlock;
  p.floats = (q.c * q.stride_w + 1 + (q.stride_w > 1 ? q.stride_w : 0)) * p.phase;
  p.split = (p.tiles + 1) * kBlock;
  return p;
}

// The two numbers that row `pair` of a row of x has of each pixel: channel and tap, a channel of -1 for zero.
struct PlanarPair {
  int64_t channel[2], tap[2];
};
FASTNN_INLINE PlanarPair planar_pair(const Conv2dArgs& q, int64_t pair) {
  const int64_t together = q.c / 2 * q.kw;
  if (pair < together) {
    const int64_t channel = pair / q.kw * 2, tap = pair % q.kw;
    return {{channel, channel + 1}, {tap, tap}};
  }
  const int64_t tap = (pair - together) * 2;
  return {{q.c - 1, tap + 1 < q.kw ? q.c - 1 : -1}, {tap, tap + 1}};
}

template <int parts>
void pack_planar_weights(const Conv2dArgs& q, const PlanarPlan& p, uint16_t* packed) {
  const int64_t pieces = p.panels * p.steps;
  runtime::parallel_for(pieces, pieces * 2000, [&](int64_t piece) {
    const int64_t first = piece / p.steps * p.outs, taps = q.kh * q.kw;
    const float* w = static_cast<const float*>(q.weight) + first * q.c * taps;
    uint16_t* to = packed + piece * parts * p.part_weights();
    for (int64_t o = 0; o < p.outs; ++o, to += kBlock) {
      alignas(64) float row[kBlock] = {};
      for (int64_t i = 0; i < 16 && first + o < q.o; ++i) {
        const int64_t at = piece % p.steps * 16 + i, y = at / p.pairs;
        const PlanarPair pair = planar_pair(q, at % p.pairs);
        for (int half = 0; half < 2 && y < q.kh; ++half)
          if (pair.channel[half] >= 0)
            row[2 * i + half] = w[(o * q.c + pair.channel[half]) * taps + y * q.kw + pair.tap[half]];
      }
      split_bf16_in_order<parts>(row, to, p.part_weights());
    }
  });
}

// The planes of one task, row of x by row of x. A unit is one row of one tile.
template <int parts>
class PlanarInput {
 public:
  // memory: floats(p) of them; first: the row of y; rows: of each image
  PlanarInput(const Conv2dArgs& q, const PlanarPlan& p, int64_t image, int64_t images, int64_t first, int64_t rows,
              float* memory, uint16_t* planes)
      : q_(q), p_(p), image_(image), first_(first * q.stride_h - q.pad_h), source_(memory), planes_(planes) {
    image_rows_ = (rows - 1) * q.stride_h + p.reach, rows_ = images * image_rows_;
    padded_ = q.stride_w == 1 ? source_ : source_ + (q.c * q.stride_w + 1) * p.phase;
    std::memset(memory, 0, static_cast<size_t>(p.floats) * sizeof(float));
    for (int64_t i = 0; i < p.pairs; ++i) {
      const PlanarPair pair = planar_pair(q, i);
      const auto at = [&](int half) {
        const int64_t tap = pair.tap[half];
        if (pair.channel[half] < 0) return q.c * q.stride_w * p.phase;  // zeros
        return (pair.channel[half] * q.stride_w + tap % q.stride_w) * p.phase + tap / q.stride_w;
      };
      // The first that reads the same channels and phases is split for all of them.
      const Split one = {at(0), at(1), i, 1};
      int64_t j = 0, shift = 0;
      for (; j < splits_; ++j) {
        shift = one.low - split_[j].low;
        if (shift >= 0 && shift < 16 && one.low / p.phase == split_[j].low / p.phase &&
            one.high - split_[j].high == (pair.channel[1] < 0 ? 0 : shift))
          break;
      }
      if (j == splits_)
        split_[splits_++] = one, shift = 0;
      else
        ++split_[j].readers;
      of_[i] = j, from_[i] = j * parts * p.split + 2 * shift;
    }
    parts_ = reinterpret_cast<uint16_t*>(memory + p.floats);
    for (int64_t i = 0; i < p.pairs; ++i)
      if (split_[of_[i]].readers > 1) copied_[copies_++] = i;
    for (int64_t j = 0; j < splits_; ++j) units_ += p.tiles + (split_[j].readers > 1);
    units_ += p.tiles * blocks_of(copies_, kCopies);
  }
  static int64_t floats(const PlanarPlan& p) { return p.floats + p.pairs * parts * p.split / 2; }

  // Rows of x of the task; those that are packed; units until `row` of them are.
  int64_t rows() const { return rows_; }
  int64_t image_rows() const { return image_rows_; }
  bool busy() const { return row_ < rows_; }
  int64_t units_until(int64_t row) const { return most(0, (row - row_) * units_ - unit_); }
  void drain(int64_t row) {
    while (row_ < row) run();
  }

  // A tile of a row that is split, or some rows of a tile that are copied from these.
  FASTNN_MEMBER_INLINE void run() {
    if (unit_ == 0 && !start_row()) return;
    ++unit_;
    uint16_t* planes = planes_ + tile_ * p_.column + row_ * p_.row;
    if (split_at_ < splits_) {
      const Split& s = split_[split_at_];
      const float *low = source_ + s.low + tile_ * 16, *high = source_ + s.high + tile_ * 16;
      const bool copied = s.readers > 1;
      if (copied)
        split_bf16<parts>(low, high, parts_ + split_at_ * parts * p_.split + tile_ * kBlock, p_.split);
      else
        split_bf16<parts>(low, high, planes + s.pair * kBlock, p_.part);
      if (++tile_ == p_.tiles + copied) tile_ = 0, ++split_at_;
      if (split_at_ == splits_ && copies_ == 0) end_row();
      return;
    }
    for (const int64_t end = least(copies_, copy_ + kCopies); copy_ < end; ++copy_) {
      const int64_t pair = copied_[copy_];
      const uint16_t* from = parts_ + from_[pair] + tile_ * kBlock;
      uint16_t* to = planes + pair * kBlock;
      for (int i = 0; i < parts; ++i)
        for (int j = 0; j < 16; j += U32::lanes)
          store_u32(reinterpret_cast<uint32_t*>(to + i * p_.part) + j,
                    load_u32(reinterpret_cast<const uint32_t*>(from + i * p_.split) + j));
    }
    if (copy_ < copies_) return;
    copy_ = 0;
    if (++tile_ == p_.tiles) end_row();
  }

 private:
  static constexpr int64_t kCopies = 4;
  struct Split {
    int64_t low, high;  // where the numbers of its pixels lie in source_
    int64_t pair, readers;
  };

  void end_row() { tile_ = split_at_ = unit_ = 0, ++row_; }

  // Brings a row of x to source_, or makes all of a row of padding.
  __attribute__((noinline)) bool start_row() {
    const int64_t image = image_ + row_ / image_rows_, y = first_ + row_ % image_rows_;
    if (y < 0 || y >= q_.h) {
      for (int i = 0; i < parts; ++i)
        for (int64_t tile = 0; tile < p_.tiles; ++tile)
          std::memset(planes_ + i * p_.part + tile * p_.column + row_ * p_.row, 0,
                      static_cast<size_t>(p_.row) * sizeof(uint16_t));
      ++row_;
      return false;
    }
    const int64_t count = most(0, least(q_.w, q_.stride_w * p_.phase - q_.pad_w)), plane = q_.h * q_.w;
    const int64_t first = image * q_.c * plane + y * q_.w * (q_.x_last ? q_.c : 1);
    const float* x = static_cast<const float*>(q_.x) + first;
    for (int64_t c = 0; c < q_.c; ++c) {
      float *phases = source_ + c * q_.stride_w * p_.phase, *padded = q_.stride_w == 1 ? phases : padded_;
      if (q_.x_bf16)
        for (int64_t i = 0; i < count; ++i)
          convert(static_cast<const uint16_t*>(q_.x) + first + i * q_.c + c, padded + q_.pad_w + i, 1);
      else if (q_.x_last)
        for (int64_t i = 0; i < count; ++i) padded[q_.pad_w + i] = x[i * q_.c + c];
      else
        std::memcpy(padded + q_.pad_w, x + c * plane, static_cast<size_t>(count) * sizeof(float));
      constexpr int lanes = Vec<float>::lanes;
      if (q_.stride_w == 2)
        for (int64_t i = 0; i < p_.phase; i += lanes) {
          const Vec<float> a = load(padded + 2 * i), b = load(padded + 2 * i + lanes);
          store(phases + i, even_lanes(a, b)), store(phases + p_.phase + i, odd_lanes(a, b));
        }
      else if (q_.stride_w > 2)
        for (int64_t s = 0; s < q_.stride_w; ++s)
          for (int64_t i = 0; i < p_.phase; ++i) phases[s * p_.phase + i] = padded[i * q_.stride_w + s];
    }
    return true;
  }

  const Conv2dArgs& q_;
  const PlanarPlan& p_;
  int64_t image_, first_, image_rows_, rows_;
  int64_t row_ = 0, unit_ = 0, split_at_ = 0, copy_ = 0, tile_ = 0;
  int64_t splits_ = 0, copies_ = 0, units_ = 0;
  float *source_, *padded_;  // [channel][stride phase][pixel], then zeros; a row of one channel
  uint16_t* planes_;
  uint16_t* parts_;  // of the rows that are split
  Split split_[kMostPairs];
  int64_t copied_[kMostPairs];                 // rows of tiles
  int64_t of_[kMostPairs], from_[kMostPairs];  // the split of each; where the numbers of the first tile lie in parts_
};

// The first tile of a block of a task; the others lie below it.
struct PlanarPlace {
  int64_t image, row, tile;
  void next(const PlanarPlan& p, int64_t rows) {
    if (++tile < p.tiles) return;
    tile = 0, row += p.block;
    if (row >= rows) row = 0, ++image;
  }
};

template <int parts>
class PlanarTask {
 public:
  PlanarTask(const Conv2dArgs& q, const PlanarPlan& p, const Epilogue<float>& epilogue, const uint16_t* weights,
             uint8_t* not_finite, int64_t task, char* memory)
      : q_(q),
        p_(p),
        epilogue_(epilogue),
        weights_(weights),
        not_finite_(not_finite),
        image_(task / p.ranges * p.images),
        images_(least(p.images, q.n - image_)),
        row_(task % p.ranges * p.rows),
        rows_(least(p.rows, q.oh - row_)),
        unread_(memory),
        turned_(reinterpret_cast<float*>(memory + 1024)),
        sums_(reinterpret_cast<float*>(memory + 4096)),
        planes_(reinterpret_cast<uint16_t*>(sums_ + 2048 + PlanarInput<parts>::floats(p))),
        input_(q, p, image_, images_, row_, rows_, sums_ + 2048, planes_) {}

  static size_t memory(const PlanarPlan& p) {
    return 4096 + 8192 + static_cast<size_t>(PlanarInput<parts>::floats(p)) * sizeof(float) +
           static_cast<size_t>(p.part * parts) * sizeof(uint16_t);
  }

  void run() {
    const char* w = reinterpret_cast<const char*>(weights_);
    for (int64_t i = 0; i < p_.weights_size() * 2; i += 64) prefetch_l2(w + i);
    // y is fetched while its sums are made: it may lie in memory (VGG-16's first layer writes 13 MB).
    const int64_t y_pitch = (q_.y_last ? q_.o : q_.oh * q_.ow) * (q_.y_bf16 ? 2 : 4);
    const int64_t bands = blocks_of(rows_, p_.block), blocks = images_ * bands * p_.tiles;
    PlanarPlace place = {0, 0, 0};
    input_.drain(rows_until(place));
    for (int64_t block = 0; block < blocks; ++block) {
      // Where rows are missing the last one stands for them.
      const uint16_t* x[4];
      const int64_t count = least(p_.block, rows_ - place.row);
      for (int64_t i = 0; i < p_.block; ++i)
        x[i] = planes_ + place.tile * p_.column +
               (place.image * input_.image_rows() + (place.row + least(i, count - 1)) * q_.stride_h) * p_.row;
      const Done next = {place, count, 0};
      place.next(p_, rows_);
      // Rows for the next block at least, and as many for each block that is left.
      const int64_t needed = block + 1 < blocks ? rows_until(place) : 0,
                    panel_slots = p_.steps * parts * (parts + 1) / 2;
      const int64_t slots = p_.panels * panel_slots;
      const int64_t units =
          most(input_.units_until(needed), blocks_of(input_.units_until(input_.rows()), blocks - block));
      int64_t due = 0, due_tiles = 0;
      const char* y[4];  // where the tiles of the panel go
      int64_t fetched = 0, due_lines = 0;
      const auto between = [&]() __attribute__((always_inline)) {
        for (due_lines += 16; due_lines >= panel_slots; due_lines -= panel_slots, ++fetched)
          for (int i = 0; i < 4; ++i) prefetch_l2(y[i] + fetched * y_pitch);
        if (finish_left_ > 0 && (due_tiles += 4) >= panel_slots) due_tiles -= panel_slots, finish();
        for (due += units; due >= slots; due -= slots)
          if (input_.busy()) input_.run();
      };
      for (int64_t panel = 0; panel < p_.panels; ++panel, turn_ ^= 1) {
        for (int64_t i = 0; i < 4; ++i)
          y[i] = static_cast<const char*>(q_.y) +
                 y_at(next.place, i % p_.block, panel * p_.outs + i / p_.block * 16) * (q_.y_bf16 ? 2 : 4);
        fetched = due_lines = 0;
        const uint16_t* w_panel = weights_ + panel * p_.steps * parts * p_.part_weights();
        float* sums = sums_ + turn_ * 1024;
        tiles_.template zero<0>(), tiles_.template zero<1>(), tiles_.template zero<2>(), tiles_.template zero<3>();
        for (int64_t step = 0; step < p_.steps; ++step) {
          p_.block == 4 ? tall_step(x, step * 16 * kBlock, w_panel, between)
                        : wide_step(x, step * 16 * kBlock, w_panel, between);
          w_panel += parts * p_.part_weights();
          if (step % 4 == 3) tiles_.template store<4>(unread_, 64);
        }
        while (finish_left_ > 0) finish();
        tiles_.template store<0>(sums, 64), tiles_.template store<1>(sums + 256, 64);
        tiles_.template store<2>(sums + 512, 64), tiles_.template store<3>(sums + 768, 64);
        done_ = next, done_.channel = panel * p_.outs, finished_ = sums;
        finish_left_ = 4;
      }
      input_.drain(needed);
    }
    while (finish_left_ > 0) finish();
  }

 private:
  // Tiles whose sums are to be finished.
  struct Done {
    PlanarPlace place;
    int64_t count, channel;
  };

  // Rows of x that are read up to this block.
  int64_t rows_until(const PlanarPlace& place) const {
    const int64_t last = least(place.row + p_.block, rows_) - 1;
    return place.image * input_.image_rows() + last * q_.stride_h + p_.reach;
  }

  // Where a tile of a block begins in y.
  FASTNN_MEMBER_INLINE int64_t y_at(const PlanarPlace& place, int64_t tile, int64_t channel) const {
    const int64_t image = image_ + place.image, row = row_ + place.row + tile, column = place.tile * 16;
    return q_.y_last ? ((image * q_.oh + row) * q_.ow + column) * q_.o + channel
                     : (image * q_.o + channel) * q_.oh * q_.ow + row * q_.ow + column;
  }

  // One step of 2 tiles and 32 channels out, in the order of multiply_step.
  template <class Between>
  FASTNN_MEMBER_INLINE void wide_step(const uint16_t* const* x, int64_t at, const uint16_t* w, const Between& between) {
    const int64_t pitch = 64, part = p_.part;
    const auto load_x = [&](int64_t i) __attribute__((always_inline)) {
      tiles_.template load<6>(x[0] + at + i * part, pitch), tiles_.template load<7>(x[1] + at + i * part, pitch);
    };
    const auto products = [&]() __attribute__((always_inline)) {
      tiles_.template dot<0, 4, 6>(), tiles_.template dot<1, 4, 7>();
      tiles_.template dot<2, 5, 6>(), tiles_.template dot<3, 5, 7>();
      between();
    };
    if constexpr (parts == 3) {
      load_x(2), tiles_.template load<4>(w, 64), tiles_.template load<5, 1024>(w, 64), products();  // x3 w1
      load_x(1), products();                                                                        // x2 w1
      tiles_.template load<4, 2048>(w, 64), tiles_.template load<5, 3072>(w, 64), products();       // x2 w2
      load_x(0), products();                                                                        // x1 w2
      tiles_.template load<4, 4096>(w, 64), tiles_.template load<5, 5120>(w, 64), products();       // x1 w3
    } else if constexpr (parts == 2) {
      load_x(1), tiles_.template load<4>(w, 64), tiles_.template load<5, 1024>(w, 64), products();        // x2 w1
      load_x(0), tiles_.template load<4, 2048>(w, 64), tiles_.template load<5, 3072>(w, 64), products();  // x1 w2
    } else {
      load_x(0);
    }
    tiles_.template load<4>(w, 64), tiles_.template load<5, 1024>(w, 64), products();  // x1 w1
  }

  // One step of 4 tiles and 16 channels out.
  template <class Between>
  FASTNN_MEMBER_INLINE void tall_step(const uint16_t* const* x, int64_t at, const uint16_t* w, const Between& between) {
    const int64_t pitch = 64, part = p_.part;
    const auto products = [&](int64_t i) __attribute__((always_inline)) {
      tiles_.template load<5>(x[0] + at + i * part, pitch), tiles_.template dot<0, 4, 5>();
      tiles_.template load<6>(x[1] + at + i * part, pitch), tiles_.template dot<1, 4, 6>();
      tiles_.template load<7>(x[2] + at + i * part, pitch), tiles_.template dot<2, 4, 7>();
      tiles_.template load<5>(x[3] + at + i * part, pitch), tiles_.template dot<3, 4, 5>();
      between();
    };
    if constexpr (parts == 3) {
      tiles_.template load<4>(w, 64), products(2), products(1);
      tiles_.template load<4, 1024>(w, 64), products(1), products(0);
      tiles_.template load<4, 2048>(w, 64), products(0);
    } else if constexpr (parts == 2) {
      tiles_.template load<4>(w, 64), products(1);
      tiles_.template load<4, 1024>(w, 64), products(0);
    }
    tiles_.template load<4>(w, 64), products(0);
  }

  // 16 pixels of 16 channels: sums of a wide block lie [half of the channels][tile], of a tall one [tile].
  __attribute__((noinline)) void finish() {
    const int64_t i = 4 - finish_left_--, tile = i % p_.block, channel = done_.channel + i / p_.block * 16;
    const int64_t outs = least(16, q_.o - channel);
    if (tile >= done_.count || outs <= 0) return;
    const int64_t image = image_ + done_.place.image, count = least(16, q_.ow - done_.place.tile * 16);
    const int64_t y = y_at(done_.place, tile, channel);
    const float* from = finished_ + i * 256;
    constexpr int lanes = Vec<float>::lanes;
    Vec<float> bad = zero<float>();  // 0 times what is not finite is NaN, and stays
    for (int64_t j = 0; j < 256; j += lanes) bad = fma(load(from + j), zero<float>(), bad);
    if (any(is_nan(bad))) __atomic_store_n(not_finite_ + image, uint8_t{1}, __ATOMIC_RELAXED);
    if (q_.y_last) {
      transpose_16(from, 16, turned_, 16);
      if (q_.y_bf16 || q_.residual_bf16)
        finish_in_float32(q_, epilogue_, turned_, 16, y, channel, count, outs, turned_ + 256, turned_ + 512, 16);
      else
        FASTNN_ISA::finish<float, false>(epilogue_, turned_, 16, static_cast<float*>(q_.y) + y, q_.o, channel, count,
                                         outs);
    } else {
      FASTNN_ISA::finish<float, true>(epilogue_, from, 16, static_cast<float*>(q_.y) + y, q_.oh * q_.ow, channel, outs,
                                      count);
    }
  }

  const Conv2dArgs& q_;
  const PlanarPlan& p_;
  const Epilogue<float>& epilogue_;
  const uint16_t* weights_;
  uint8_t* not_finite_;
  int64_t image_, images_, row_, rows_;
  void* unread_;
  float *turned_, *sums_;
  uint16_t* planes_;
  PlanarInput<parts> input_;
  Tiles tiles_;
  Done done_ = {};
  const float* finished_ = nullptr;
  int64_t finish_left_ = 0, turn_ = 0;
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

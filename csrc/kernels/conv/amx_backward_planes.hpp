// What the weight gradient multiplies on tiles: planes of dy and of x for a chunk of flat pixels, in three parts.
//   a   [16 channels][16 pairs of pixels][part][channel][pair][2]      of dy; each innermost three axes are a tile
//   b   [16 channels][phase][part][pair of pixels][channel][2]         of x; 16 pairs are a tile
// A pair is two pixels that lie half of a chunk apart, so that a tap at any distance is a move by whole pairs. (Pairs
// of neighbours have to be packed twice, for even and for odd distances.) Where an array has no pixel or no channel the
// planes are zero.
#pragma once
#include "kernels/conv/amx_plan.hpp"
#include "kernels/conv/backward.hpp"
#include "simd/tile.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kHalf = 16;          // channels of a tile; pairs of pixels that are packed at a time
constexpr int64_t kTile = 512;         // bfloat16 of a tile
constexpr int64_t kStepA = 3 * kTile;  // of 16 channels of 32 pixels
constexpr int64_t kLine = 32;          // bfloat16 of a pair of pixels of 16 channels

// An array as the flat pixels see it: pixel (row, column) is element (first_y + row * step_y, first_x + column *
// step_x) of an image, where there is one.
struct Source {
  const float* data;
  int64_t n, channels, h, w;
  int64_t
      window;  // 0, or elements from a pixel on that count as its channels, filled up with what follows; channels-last
  int64_t pixel;  // elements of one; all there are
  int64_t first_y, step_y, first_x, step_x;
  int64_t end_row;  // of those that count
  Span columns;     // likewise
};

// Sixteen flat pixels in a row, and how 16 of their channels are brought together.
class Pixels {
 public:
  struct Run {  // of pixels that exist: those from `lane` on
    int64_t image, pixel, lane, length, column;
  };
  void start(const Source& source) { source_ = &source, count_ = 0; }
  void add(const Run& run) { runs_[count_++] = run; }

  // 16 channels of them, from beyond L2; NCHW.
  FASTNN_MEMBER_INLINE void fetch(int64_t channel) const {
    const Source& s = *source_;
    const int64_t plane = s.h * s.w, channels = least(kHalf, s.channels - channel);
    for (int64_t r = 0; r < count_; ++r) {
      const Run& run = runs_[r];
      const float* from = s.data + run.image + channel * plane + run.pixel + (run.length - 1) * s.step_x;
      for (int64_t i = 0; i < channels; ++i, from += plane) prefetch(from);
    }
  }

  // Where the 16 pixels lie, channels-last; `nowhere` for those that do not exist. edges: 16 of kMostWindow, for
  // windows that leave their row.
  void places(const float* nowhere, float* edges, const float** to) const {
    const Source& s = *source_;
    for (int64_t i = 0; i < kHalf; ++i) to[i] = nowhere;
    for (int64_t r = 0; r < count_; ++r) {
      const Run& run = runs_[r];
      const float* from = s.data + run.image + run.pixel * s.pixel;
      for (int64_t i = 0; i < run.length; ++i, from += s.step_x * s.pixel) to[run.lane + i] = from;
      if (s.window > 0) add_edges(run, edges, to);
    }
  }

  // to[i * pitch + pixel] = channel + i of 16 pixels, from NCHW
  void by_channels(int64_t channel, float* to, int64_t pitch) const {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channels = least(kHalf, source_->channels - channel), plane = source_->h * source_->w;
    const float* from = source_->data + channel * plane;
    if (source_->step_x == 1 && count_ == 1 && runs_[0].length == kHalf) {
      from += runs_[0].image + runs_[0].pixel;
      for (int64_t i = 0; i < channels; ++i, from += plane)
        for (int64_t j = 0; j < kHalf; j += lanes) store(to + i * pitch + j, load(from + j));
    } else if (source_->step_x <= 2) {
      for (int64_t j = 0; j < kHalf; j += lanes) by_masks(from, channels, static_cast<int>(j), to + j, pitch);
    } else {
      for (int64_t i = 0; i < channels; ++i, from += plane) {
        for (int64_t j = 0; j < kHalf; ++j) to[i * pitch + j] = 0.0f;
        for (int64_t r = 0; r < count_; ++r)
          for (int64_t j = 0; j < runs_[r].length; ++j)
            to[i * pitch + runs_[r].lane + j] = from[runs_[r].image + runs_[r].pixel + j * source_->step_x];
      }
    }
    for (int64_t i = channels; i < kHalf; ++i)
      for (int64_t j = 0; j < kHalf; j += lanes) store(to + i * pitch + j, zero<float>());
  }

 private:
  // Windows that leave their row are copied, and those that have not all they are filled up with behind them.
  void add_edges(const Run& run, float* edges, const float** to) const {
    const Source& s = *source_;
    const int64_t row = s.w * s.pixel, columns = s.w - s.window / s.pixel - run.column;
    const int64_t begin = least(run.length, blocks_of(most(-run.column, 0), s.step_x));
    int64_t end = most(begin, least(run.length, columns < 0 ? 0 : columns / s.step_x + 1));
    const float* last = s.data + s.n * s.h * row - s.channels;
    while (end > begin && to[run.lane + end - 1] > last) --end;
    for (int64_t i = 0; i < run.length; ++i) {
      if (i == begin) i = end;
      if (i >= run.length) return;
      const int64_t first = (run.column + i * s.step_x) * s.pixel;
      const float* from = to[run.lane + i];
      float* edge = edges + (run.lane + i) * kMostWindow;
      for (int64_t j = 0; j < s.channels; ++j)
        edge[j] = j < s.window && first + j >= 0 && first + j < row ? from[j] : 0.0f;
      to[run.lane + i] = edge;
    }
  }

  // Vector `lane` of the 16 pixels, of some channels: what each run has of it, masked and put together.
  void by_masks(const float* from, int64_t channels, int lane, float* to, int64_t pitch) const {
    constexpr int lanes = Vec<float>::lanes;
    struct Piece {
      int64_t from;
      Mask<float> low, high;
    };
    Piece pieces[kHalf];
    int64_t count = 0;
    const bool two = source_->step_x == 2;
    for (int64_t r = 0; r < count_; ++r) {
      const int64_t begin = most(runs_[r].lane - lane, 0), end = least(runs_[r].lane + runs_[r].length - lane, lanes);
      if (begin >= end) continue;
      uint64_t bits = ((uint64_t{1} << end) - 1) & ~((uint64_t{1} << begin) - 1);
      if (two) {
        uint64_t spread = 0;
        for (int64_t i = begin; i < end; ++i) spread |= uint64_t{1} << 2 * i;
        bits = spread;
      }
      constexpr uint32_t all = static_cast<uint32_t>((uint64_t{1} << lanes) - 1);
      pieces[count++] = {runs_[r].image + runs_[r].pixel - (runs_[r].lane - lane) * source_->step_x,
                         mask_from_bits<float>(static_cast<uint32_t>(bits) & all),
                         mask_from_bits<float>(static_cast<uint32_t>(bits >> lanes) & all)};
    }
    const int64_t plane = source_->h * source_->w;
    for (int64_t i = 0; i < channels; ++i, from += plane) {
      Vec<float> v = zero<float>();
      for (int64_t p = 0; p < count; ++p) {
        const float* at = from + pieces[p].from;
        const Vec<float> low = load_masked(at, pieces[p].low);
        v = bit_or(v, two ? even_lanes(low, load_masked(at + lanes, pieces[p].high)) : low);
      }
      store(to + i * pitch, v);
    }
  }

  const Source* source_ = nullptr;
  int64_t count_ = 0;
  Run runs_[kHalf];
};

// Flat pixels in their order.
class Cursor {
 public:
  Cursor() = default;
  Cursor(const Source& source, int64_t row_pitch, int64_t image_pitch, int64_t first)
      : s_(&source), row_pitch_(row_pitch), image_pitch_(image_pitch) {
    column_ = first % row_pitch, row_ = first / row_pitch;
    image_ = row_ / image_pitch, row_ %= image_pitch;
  }

  int64_t channels() const { return s_->channels; }
  // The next 16.
  void next(Pixels& pixels) {
    pixels.start(*s_);
    for (int64_t lane = 0; lane < kHalf;) {
      const int64_t length = least(row_pitch_ - column_, kHalf - lane), y = s_->first_y + row_ * s_->step_y;
      const int64_t begin = most(column_, s_->columns.begin), end = least(column_ + length, s_->columns.end);
      if (begin < end && image_ < s_->n && row_ < s_->end_row && y >= 0 && y < s_->h)
        pixels.add({image_ * s_->pixel * s_->h * s_->w, y * s_->w + s_->first_x + begin * s_->step_x,
                    lane + begin - column_, end - begin, s_->first_x + begin * s_->step_x});
      lane += length, column_ += length;
      if (column_ == row_pitch_) {
        column_ = 0, ++row_;
        if (row_ == image_pitch_) row_ = 0, ++image_;
      }
    }
  }

 private:
  const Source* s_ = nullptr;
  int64_t row_pitch_ = 0, image_pitch_ = 0, image_ = 0, row_ = 0, column_ = 0;
};

// y[j * 16 + i] = x[i * ldx + j]; i, j < 16
FASTNN_INLINE void turn_16(const float* x, int64_t ldx, float* y) {
  constexpr int lanes = Vec<float>::lanes;
  for (int i = 0; i < kHalf; i += lanes)
    for (int j = 0; j < kHalf; j += lanes) transpose(x + i * ldx + j, ldx, y + j * kHalf + i, kHalf);
}

// What is packed in one go: sixteens of channels (strips) of the same pixels, `blocks` times 16 pairs.
struct Strips {
  Cursor first, second;    // of a pair
  bool a;                  // or b
  int64_t channel, count;  // the first channel; sixteens
  uint16_t* to;            // of the first sixteen
  int64_t step, part;      // elements from one sixteen to the next, from one part to the next
  int64_t blocks;

  int64_t block_size() const { return a ? kStepA : kTile; }
};

// Packs NCHW bit by bit, between products: one sixteen of channels after the other. A unit is a pair of pixels of 16
// channels (b) or a channel of 16 pairs (a); before some units pixels are brought together.
class PlanesPacker {
 public:
  static constexpr int64_t kUnits = kHalf;  // of 16 pairs of a sixteen

  explicit PlanesPacker(const float*) {}

  void start(const Strips& strips) {
    strips_ = strips, strip_ = 0, left_ = 0;
    begin_strip();
  }
  FASTNN_MEMBER_INLINE bool busy() const { return left_ > 0 || blocks_ > 0; }

  FASTNN_MEMBER_INLINE void run(int64_t units) {
    if (left_ == 0) next();
    const int64_t count = least(units, left_), part = strips_.part;
    left_ -= count;
    for (int64_t i = 0; i < count; ++i, low_ += kHalf, high_ += kHalf, to_ += kLine)
      split_bf16<3>(low_, high_, to_, part);
    if (!busy() && ++strip_ < strips_.count) begin_strip();
  }

 private:
  __attribute__((noinline)) void begin_strip() {
    first_ = strips_.first, second_ = strips_.second, blocks_ = strips_.blocks;
    channel_ = strips_.channel + strip_ * kHalf, to_block_ = strips_.to + strip_ * strips_.step;
    look_ahead();
  }

  // The pixels of the next block, which is fetched while this one is split: 16 pixels lie in 16 lines and more, and to
  // wait for those takes longer than the products last.
  void look_ahead() {
    if (blocks_ == 0) return;
    first_.next(ahead_[0]), second_.next(ahead_[1]);
    for (const Pixels& pixels : ahead_) pixels.fetch(channel_);
  }

  __attribute__((noinline)) void next() {
    --blocks_;
    for (int64_t i = 0; i < 2; ++i) {
      float* rows = rows_ + i * kHalf * kHalf;
      ahead_[i].by_channels(channel_, strips_.a ? rows : block_, kHalf);
      if (!strips_.a) turn_16(block_, kHalf, rows);
    }
    low_ = rows_, high_ = rows_ + kHalf * kHalf, left_ = kUnits;
    to_ = to_block_, to_block_ += strips_.block_size();
    look_ahead();
  }

  Strips strips_ = {};
  Cursor first_, second_;
  Pixels ahead_[2];                                          // the pairs that come next
  int64_t strip_ = 0, channel_ = 0, blocks_ = 0, left_ = 0;  // blocks: to be gathered yet; left: units
  const float *low_ = nullptr, *high_ = nullptr;
  uint16_t *to_block_ = nullptr, *to_ = nullptr;
  alignas(64) float rows_[2 * kHalf * kHalf], block_[kHalf * kHalf];
};

// The same for channels-last: pairs of pixels by sixteens, all channels of them before the next, as they lie in memory.
// A unit is four pairs of pixels of 16 channels (b) or four channels of 16 pairs (a), which are turned in registers on
// their way: no more than 60 cycles, and a quartet of products takes 64.
class PixelsPacker {
 public:
  static constexpr int64_t kUnits = 4;

  // nowhere: zeros, as many as there are channels
  explicit PixelsPacker(const float* nowhere) : nowhere_(nowhere) {}

  void start(const Strips& strips) {
    strips_ = strips, strip_ = 0, blocks_ = strips.blocks, to_block_ = strips.to;
    look_ahead(), look_ahead();
    begin_strip();
  }
  FASTNN_MEMBER_INLINE bool busy() const { return blocks_ > 0; }

  // Not inlined six times into the products, whose loop stays in the cache of instructions so.
  __attribute__((noinline)) void run(int64_t units) {
    for (int64_t i = 0; i < units && busy(); ++i) {
      for (int64_t j = 0; j < kFetched; ++j) prefetch(ahead_[j] + channel_);
      ahead_ += kFetched;
      strips_.a ? run_a() : run_b();
      if (--units_ == 0) next_strip();
    }
  }

 private:
  static constexpr int64_t kFetched = 8;  // pixels of the next block a unit, all of them while a strip is packed

  FASTNN_MEMBER_INLINE void run_a() {
    constexpr int lanes = Vec<float>::lanes;
    const float* const* at = at_;
    const int64_t offset = offset_;
    uint16_t* to = to_;
    for (int i = 0; i < kHalf; i += lanes) {
      Vec<float> low[4], high[4];
      turn_four(at + i, offset, low), turn_four(at + kHalf + i, offset, high);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) split_pairs<3>(low[j], high[j], to + j * kLine + 2 * i, kTile);
    }
    to_ = to + 4 * kLine, offset_ = offset + 4;
  }

  FASTNN_MEMBER_INLINE void run_b() {
    const float* const* at = at_;
    const int64_t offset = offset_, part = strips_.part;
    uint16_t* to = to_;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) split_bf16<3>(at[i] + offset, at[kHalf + i] + offset, to + i * kLine, part);
    at_ = at + 4, to_ = to + 4 * kLine;
  }

  __attribute__((noinline)) void next_strip() {
    if (++strip_ == strips_.count) {
      strip_ = 0, to_block_ += strips_.block_size();
      if (--blocks_ == 0) return;
      look_ahead();
    }
    begin_strip();
  }

  void begin_strip() {
    channel_ = strips_.channel + strip_ * kHalf, to_ = to_block_ + strip_ * strips_.step, units_ = kUnits;
    at_ = places_[turn_], ahead_ = places_[1 - turn_], offset_ = channel_;
    if (const int64_t channels = strips_.first.channels() - channel_; channels < kHalf) copy(channels);
  }

  // The places of the block after the one that begins now.
  void look_ahead() {
    Pixels pixels;
    float* edges = edges_ + turn_ * 2 * kHalf * kMostWindow;
    strips_.first.next(pixels), pixels.places(nowhere_, edges, places_[turn_]);
    strips_.second.next(pixels), pixels.places(nowhere_, edges + kHalf * kMostWindow, places_[turn_] + kHalf);
    turn_ = 1 - turn_;
  }

  // The last strip, filled up with zeros.
  void copy(int64_t channels) {
    for (int64_t i = 0; i < 2 * kHalf; ++i) {
      for (int64_t j = 0; j < kHalf; ++j) copy_[i * kHalf + j] = j < channels ? at_[i][channel_ + j] : 0.0f;
      copied_[i] = copy_ + i * kHalf;
    }
    at_ = copied_, offset_ = 0;
  }

  Strips strips_ = {};
  const float* nowhere_;
  int64_t blocks_ = 0, strip_ = 0, units_ = 0;  // left; which; left of it
  int64_t channel_ = 0, offset_ = 0;            // of the strip, and where it is read
  uint16_t *to_block_ = nullptr, *to_ = nullptr;
  const float *const *at_ = nullptr, *const *ahead_ = nullptr;
  int64_t turn_ = 0;
  const float *places_[2][2 * kHalf], *copied_[2 * kHalf];
  alignas(64) float copy_[2 * kHalf * kHalf], edges_[2 * 2 * kHalf * kMostWindow];
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

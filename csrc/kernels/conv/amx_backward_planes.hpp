// What the weight gradient multiplies on tiles: planes of dy and of x for a chunk of flat pixels, in three parts.
//   a   [16 channels][32 pixels][part][channel][pixel]                 of dy; each innermost pair of axes is a tile
//   b   [16 channels][phase][parity][part][pair of pixels][channel][2]   of x; 16 pairs are a tile
// Parity 0 pairs pixels 2i and 2i + 1 of the chunk, parity 1 pixels 2i - 1 and 2i: what a tap at an even and at an odd
// distance needs. Where an array has no pixel or no channel the planes are zero.
#pragma once
#include "kernels/conv/amx_plan.hpp"
#include "simd/tile.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kHalf = 16;          // channels of a tile; pixels that are packed at a time
constexpr int64_t kTile = 512;         // bfloat16 of a tile
constexpr int64_t kStepA = 3 * kTile;  // of 16 channels of 32 pixels
constexpr int64_t kLine = 32;          // bfloat16 of a pair of pixels of 16 channels

// An array as the flat pixels see it: pixel (row, column) is element (first_y + row * step_y, first_x + column *
// step_x) of an image, where there is one.
struct Source {
  const float* data;
  int64_t n, channels, h, w;
  int64_t first_y, step_y, first_x, step_x;
  int64_t end_row;  // of those that count
  Span columns;     // likewise
  bool last;
};

// Sixteen flat pixels in a row, and how 16 of their channels are brought together.
class Pixels {
 public:
  struct Run {  // of pixels that exist: those from `lane` on
    int64_t image, pixel, lane, length;
  };
  void start(const Source& source) { source_ = &source, count_ = 0; }
  void add(const Run& run) { runs_[count_++] = run; }

  // 16 channels of them, from beyond L2.
  FASTNN_MEMBER_INLINE void fetch(int64_t channel) const {
    const Source& s = *source_;
    const int64_t plane = s.h * s.w, channels = least(kHalf, s.channels - channel);
    for (int64_t r = 0; r < count_; ++r) {
      const Run& run = runs_[r];
      const float* from = s.data + run.image;
      if (s.last) {
        from += run.pixel * s.channels + channel;
        for (int64_t i = 0; i < run.length; ++i, from += s.step_x * s.channels) prefetch(from);
      } else {
        from += channel * plane + run.pixel + (run.length - 1) * s.step_x;
        for (int64_t i = 0; i < channels; ++i, from += plane) prefetch(from);
      }
    }
  }
  // Where channel.. of the first pixel lies, channels-last, if all 16 exist and 16 channels; else null.
  const float* whole(int64_t channel) const {
    const bool all = count_ == 1 && runs_[0].length == kHalf && source_->channels - channel >= kHalf;
    return all ? source_->data + runs_[0].image + runs_[0].pixel * source_->channels + channel : nullptr;
  }

  // to[pixel * pitch + i] = channel + i of 16 pixels, from channels-last
  void by_pixels(int64_t channel, float* to, int64_t pitch) const {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channels = least(kHalf, source_->channels - channel);
    const bool whole = count_ == 1 && runs_[0].length == kHalf;
    if (!whole)
      for (int64_t i = 0; i < kHalf; ++i)
        for (int64_t j = 0; j < kHalf; j += lanes) store(to + i * pitch + j, zero<float>());
    for (int64_t r = 0; r < count_; ++r) {
      const Run& run = runs_[r];
      const float* from = source_->data + run.image + run.pixel * source_->channels + channel;
      float* at = to + run.lane * pitch;
      for (int64_t i = 0; i < run.length; ++i, from += source_->step_x * source_->channels, at += pitch)
        for (int64_t j = 0; j < kHalf; j += lanes) {
          const int64_t some = most(0, least(channels - j, lanes));
          store(at + j, some == lanes ? load(from + j) : load_partial(from + j, static_cast<int>(some)));
        }
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

  // The next 16.
  void next(Pixels& pixels) {
    pixels.start(*s_);
    for (int64_t lane = 0; lane < kHalf;) {
      const int64_t length = least(row_pitch_ - column_, kHalf - lane), y = s_->first_y + row_ * s_->step_y;
      const int64_t begin = most(column_, s_->columns.begin), end = least(column_ + length, s_->columns.end);
      if (begin < end && image_ < s_->n && row_ < s_->end_row && y >= 0 && y < s_->h)
        pixels.add({image_ * s_->channels * s_->h * s_->w, y * s_->w + s_->first_x + begin * s_->step_x,
                    lane + begin - column_, end - begin});
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

// Packs strips of 16 channels bit by bit, between products: a unit is a pair of pixels of 16 channels (b) or a channel
// of 32 pixels (a); before some units pixels are brought together.
class Packer {
 public:
  // `steps` times 32 pixels of a from the cursor on.
  void start_a(const Source& source, const Cursor& cursor, int64_t channel, int64_t steps, uint16_t* a) {
    a_ = true, a_to_ = a, part_ = kTile;
    start(source, cursor, channel, steps);
  }
  // `blocks` times 16 pixels of b; odd, the plane of parity 1, is null where no tap needs it, `part` is from one part
  // to the next.
  void start_b(const Source& source, const Cursor& cursor, int64_t channel, int64_t blocks, uint16_t* even,
               uint16_t* odd, int64_t part) {
    a_ = false, to_ = even, part_ = part, distance_ = odd ? odd - even : 0;
    before_ = nothing_, before_part_ = 0;
    start(source, cursor, channel, blocks);
  }
  FASTNN_MEMBER_INLINE bool busy() const { return left_ > 0 || blocks_ > 0; }

  FASTNN_MEMBER_INLINE void run(int64_t units) {
    if (left_ == 0) next();
    const int64_t count = least(units, left_);
    left_ -= count;
    if (!a_ && distance_ != 0) {
      for (int64_t i = 0; i < count; ++i, low_ += step_, high_ += step_, to_ += kLine) {
        split_bf16_twice(low_, high_, to_, part_, before_, before_part_, to_ + distance_);
        before_ = to_, before_part_ = part_;
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i, low_ += step_, high_ += step_, to_ += kLine)
      split_bf16<3>(low_, high_, to_, part_);
  }

 private:
  void start(const Source& source, const Cursor& cursor, int64_t channel, int64_t blocks) {
    cursor_ = cursor, channel_ = channel, blocks_ = blocks, left_ = 0;
    last_ = source.last, pixel_step_ = source.step_x * source.channels;
    look_ahead();
  }

  // The pixels of the next block, which is fetched while this one is split: 16 pixels lie in 16 lines and more, and to
  // wait for those takes longer than the products last.
  void look_ahead() {
    if (blocks_ == 0) return;
    for (int64_t i = 0; i <= (a_ ? 1 : 0); ++i) cursor_.next(ahead_[i]), ahead_[i].fetch(channel_);
  }

  __attribute__((noinline)) void next() {
    --blocks_;
    a_ ? next_a() : next_b();
    look_ahead();
  }

  void units(const float* low, const float* high, int64_t step, int64_t count) {
    low_ = low, high_ = high, step_ = step, left_ = count;
  }

  void next_a() {
    constexpr int lanes = Vec<float>::lanes;
    const Pixels &first = ahead_[0], &second = ahead_[1];
    float *even = rows_, *odd = rows_ + kHalf * kHalf;
    if (last_) {
      const float *from = first.whole(channel_), *then = second.whole(channel_);
      int64_t step = pixel_step_;
      if (!from || then != from + kHalf * step) {
        first.by_pixels(channel_, block_, kHalf), second.by_pixels(channel_, block_ + kHalf * kHalf, kHalf);
        from = block_, step = kHalf;
      }
      turn_16(from, 2 * step, even), turn_16(from + step, 2 * step, odd);
    } else {
      first.by_channels(channel_, block_, 2 * kHalf), second.by_channels(channel_, block_ + kHalf, 2 * kHalf);
      for (int64_t i = 0; i < kHalf; ++i)
        for (int64_t j = 0; j < kHalf; j += lanes) {
          const float* at = block_ + i * 2 * kHalf + 2 * j;
          const Vec<float> low = load(at), high = load(at + lanes);
          store(even + i * kHalf + j, even_lanes(low, high)), store(odd + i * kHalf + j, odd_lanes(low, high));
        }
    }
    to_ = a_to_, a_to_ += kStepA;
    units(even, odd, kHalf, kHalf);
  }

  void next_b() {
    const Pixels& pixels = ahead_[0];
    const float* from = last_ ? pixels.whole(channel_) : nullptr;
    if (from) return units(from, from + pixel_step_, 2 * pixel_step_, kHalf / 2);
    if (last_) {
      pixels.by_pixels(channel_, rows_, kHalf);
    } else {
      pixels.by_channels(channel_, block_, kHalf);
      turn_16(block_, kHalf, rows_);
    }
    units(rows_, rows_ + kHalf, 2 * kHalf, kHalf / 2);
  }

  Cursor cursor_;
  Pixels ahead_[2];                                                    // 16 pixels that come next, or 32 of a
  int64_t channel_ = 0, blocks_ = 0, left_ = 0, step_ = 0, part_ = 0;  // blocks: to be gathered yet; left: units
  int64_t pixel_step_ = 0, distance_ = 0;                              // in the source, channels-last; even to odd
  bool a_ = false, last_ = false;
  const float *low_ = nullptr, *high_ = nullptr;
  uint16_t *to_ = nullptr, *a_to_ = nullptr;
  const uint16_t* before_ = nullptr;  // the pair of parity 0 before the next
  int64_t before_part_ = 0;
  alignas(64) float rows_[2 * kHalf * kHalf], block_[2 * kHalf * kHalf];
  alignas(64) uint16_t nothing_[kLine] = {};
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

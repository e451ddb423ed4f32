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
  explicit Pixels(const Source& source) : s_(source) {}
  void clear() { count_ = 0; }
  void add(const Run& run) { runs_[count_++] = run; }

  // to[pixel * pitch + i] = channel + i of 16 pixels, from channels-last
  void by_pixels(int64_t channel, float* to, int64_t pitch) const {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channels = least(kHalf, s_.channels - channel);
    const bool whole = count_ == 1 && runs_[0].length == kHalf;
    if (!whole)
      for (int64_t i = 0; i < kHalf; ++i)
        for (int64_t j = 0; j < kHalf; j += lanes) store(to + i * pitch + j, zero<float>());
    for (int64_t r = 0; r < count_; ++r) {
      const Run& run = runs_[r];
      const float* from = s_.data + run.image + run.pixel * s_.channels + channel;
      float* at = to + run.lane * pitch;
      for (int64_t i = 0; i < run.length; ++i, from += s_.step_x * s_.channels, at += pitch)
        for (int64_t j = 0; j < kHalf; j += lanes) {
          const int64_t some = most(0, least(channels - j, lanes));
          store(at + j, some == lanes ? load(from + j) : load_partial(from + j, static_cast<int>(some)));
        }
    }
  }

  // to[i * pitch + pixel] = channel + i of 16 pixels, from NCHW
  void by_channels(int64_t channel, float* to, int64_t pitch) const {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t channels = least(kHalf, s_.channels - channel), plane = s_.h * s_.w;
    const float* from = s_.data + channel * plane;
    if (s_.step_x == 1 && count_ == 1 && runs_[0].length == kHalf) {
      from += runs_[0].image + runs_[0].pixel;
      for (int64_t i = 0; i < channels; ++i, from += plane)
        for (int64_t j = 0; j < kHalf; j += lanes) store(to + i * pitch + j, load(from + j));
    } else if (s_.step_x <= 2) {
      for (int64_t j = 0; j < kHalf; j += lanes) by_masks(from, channels, static_cast<int>(j), to + j, pitch);
    } else {
      for (int64_t i = 0; i < channels; ++i, from += plane) {
        for (int64_t j = 0; j < kHalf; ++j) to[i * pitch + j] = 0.0f;
        for (int64_t r = 0; r < count_; ++r)
          for (int64_t j = 0; j < runs_[r].length; ++j)
            to[i * pitch + runs_[r].lane + j] = from[runs_[r].image + runs_[r].pixel + j * s_.step_x];
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
    const bool two = s_.step_x == 2;
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
      pieces[count++] = {runs_[r].image + runs_[r].pixel - (runs_[r].lane - lane) * s_.step_x,
                         mask_from_bits<float>(static_cast<uint32_t>(bits) & all),
                         mask_from_bits<float>(static_cast<uint32_t>(bits >> lanes) & all)};
    }
    const int64_t plane = s_.h * s_.w;
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

  const Source& s_;
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
    pixels.clear();
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
    start(source, cursor, channel, steps);
    a_ = true, b_[0] = a, part_ = kTile;
  }
  // `blocks` times 16 pixels of b; b[parity] is null where no tap needs it, `part` is from one part to the next.
  void start_b(const Source& source, const Cursor& cursor, int64_t channel, int64_t blocks, uint16_t* const* b,
               int64_t part) {
    start(source, cursor, channel, blocks);
    a_ = false, b_[0] = b[0], b_[1] = b[1], part_ = part;
  }
  FASTNN_MEMBER_INLINE bool busy() const { return left_ > 0 || blocks_ > 0 || odd_; }

  FASTNN_MEMBER_INLINE void run(int64_t units) {
    if (left_ == 0) next();
    const int64_t count = least(units, left_);
    left_ -= count;
    for (int64_t i = 0; i < count; ++i, low_ += step_, high_ += step_, to_ += kLine)
      split_bf16<3>(low_, high_, to_, part_);
  }

 private:
  void start(const Source& source, const Cursor& cursor, int64_t channel, int64_t blocks) {
    source_ = &source, cursor_ = cursor, channel_ = channel, blocks_ = blocks, started_ = false;
    std::memset(rows_, 0, kHalf * sizeof(float));  // before the first pixel
  }

  __attribute__((noinline)) void next() {
    if (odd_) {
      odd_ = false;
      units(rows_, rows_ + kHalf, 2 * kHalf, b_[1], kHalf / 2);
      b_[1] += kHalf / 2 * kLine;
      return;
    }
    --blocks_;
    a_ ? next_a() : next_b();
  }

  void units(const float* low, const float* high, int64_t step, uint16_t* to, int64_t count) {
    low_ = low, high_ = high, step_ = step, to_ = to, left_ = count;
  }

  void next_a() {
    constexpr int lanes = Vec<float>::lanes;
    Pixels first(*source_), second(*source_);
    cursor_.next(first), cursor_.next(second);
    float *even = rows_, *odd = rows_ + kHalf * kHalf;
    if (source_->last) {
      first.by_pixels(channel_, block_, kHalf), second.by_pixels(channel_, block_ + kHalf * kHalf, kHalf);
      turn_16(block_, 2 * kHalf, even), turn_16(block_ + kHalf, 2 * kHalf, odd);
    } else {
      first.by_channels(channel_, block_, 2 * kHalf), second.by_channels(channel_, block_ + kHalf, 2 * kHalf);
      for (int64_t i = 0; i < kHalf; ++i)
        for (int64_t j = 0; j < kHalf; j += lanes) {
          const float* at = block_ + i * 2 * kHalf + 2 * j;
          const Vec<float> low = load(at), high = load(at + lanes);
          store(even + i * kHalf + j, even_lanes(low, high)), store(odd + i * kHalf + j, odd_lanes(low, high));
        }
    }
    units(even, odd, kHalf, b_[0], kHalf);
    b_[0] += kStepA;
  }

  void next_b() {
    Pixels pixels(*source_);
    cursor_.next(pixels);
    if (started_) std::memcpy(rows_, rows_ + kHalf * kHalf, kHalf * sizeof(float));
    float* now = rows_ + kHalf;  // behind the last pixel of the block before
    if (source_->last) {
      pixels.by_pixels(channel_, now, kHalf);
    } else {
      pixels.by_channels(channel_, block_, kHalf);
      turn_16(block_, kHalf, now);
    }
    started_ = true;
    if (b_[0]) {
      units(now, now + kHalf, 2 * kHalf, b_[0], kHalf / 2);
      b_[0] += kHalf / 2 * kLine;
      odd_ = b_[1] != nullptr;
    } else {
      odd_ = true;
      next();
    }
  }

  const Source* source_ = nullptr;
  Cursor cursor_;
  int64_t channel_ = 0, blocks_ = 0, left_ = 0, step_ = 0, part_ = 0;  // blocks: to be gathered yet; left: units
  bool a_ = false, odd_ = false, started_ = false;                     // odd: the block's pairs of parity 1 are left
  const float *low_ = nullptr, *high_ = nullptr;
  uint16_t *to_ = nullptr, *b_[2] = {};
  alignas(64) float rows_[2 * kHalf * kHalf], block_[2 * kHalf * kHalf];
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

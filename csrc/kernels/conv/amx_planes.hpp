// What conv2d_amx multiplies: weights, packed once, and planes of x, packed pixel by pixel as the products need them.
//   weights  [panel][channel block][tap][part][tile of the panel][pair of channels][16 output channels][2]
//   planes   [channel block][part][phase][flat pixel of the ring][pair of channels][2], zero outside x
// A pair is channels i and i + 16 of the block, as split_bf16 puts them side by side; of one part both are in order, as
// arrays of bfloat16 are. Where steps are cut from rows of taps, both are in order too:
//   weights  [panel][row of taps][step of the row][part][tile of the panel][pair of elements][16 output channels][2]
//   planes   [part][phase of rows][flat pixel][stride_w columns][channel]
#pragma once
#include "kernels/conv/amx_plan.hpp"
#include "kernels/conv/backward.hpp"
#include "runtime/scratch.hpp"
#include "simd/bf16.hpp"
#include "simd/tile.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// to[j * pitch + i] = from[i * stride + j], i and j < 16
FASTNN_INLINE void transpose_16(const float* from, int64_t stride, float* to, int64_t pitch = kBlock) {
  constexpr int lanes = Vec<float>::lanes;
  for (int i = 0; i < 16; i += lanes)
    for (int j = 0; j < 16; j += lanes) transpose(from + i * stride + j, stride, to + j * pitch + i, pitch);
}

// rows[i * 32 + o] = w[o * stride + i]: `width` of them, zeros from `count` on and for outputs of a panel beyond
// `outs`.
[[maybe_unused]] void gather_weights(const float* w, int64_t stride, int64_t width, int64_t count, int64_t outs,
                                     int64_t panel, float* rows) {
  if (count == width && outs == panel) {
    for (int64_t i = 0; i < width; i += 16)
      for (int64_t o = 0; o < outs; o += 16) transpose_16(w + o * stride + i, stride, rows + i * kBlock + o);
    return;
  }
  std::memset(rows, 0, static_cast<size_t>(width * kBlock) * sizeof(float));
  for (int64_t o = 0; o < outs; ++o)
    for (int64_t i = 0; i < count; ++i) rows[i * kBlock + o] = w[o * stride + i];
}

// The same rows of the weights of dx: (channel of the block, tap) of all output channels of the panel.
[[maybe_unused]] void gather_turned(const Conv2dArgs& q, const Turned& turned, int64_t block, int64_t panel,
                                    int64_t panel_outs, float* rows) {
  constexpr int lanes = Vec<float>::lanes;
  const int64_t taps = q.kh * q.kw, stride = q.o * turned.taps;
  const int64_t channels = least(kBlock, q.c - block * kBlock), outs = least(panel_outs, q.o - panel * panel_outs);
  const float* w = static_cast<const float*>(q.weight) + block * kBlock * stride + panel * panel_outs * turned.taps;
  if (channels < kBlock || outs < panel_outs)
    std::memset(rows, 0, static_cast<size_t>(kBlock * taps * kBlock) * sizeof(float));
  int64_t to[kMostTurnedTaps];
  for (int64_t i = 0; i < turned.taps; ++i) to[i] = -1;
  for (int64_t i = 0; i < taps; ++i)
    to[turned.first + i / q.kw * turned.step_h + i % q.kw * turned.step_w] = i * kBlock;
  for (int64_t c = 0; c < channels; ++c, w += stride, rows += taps * kBlock) {
    if (turned.taps == 1) {
      std::memcpy(rows, w, static_cast<size_t>(outs) * sizeof(float));
      continue;
    }
    if (outs % lanes != 0 || turned.taps < 4) {
      for (int64_t o = 0; o < outs; ++o)
        for (int64_t i = 0; i < turned.taps; ++i)
          if (to[i] >= 0) rows[to[i] + o] = w[o * turned.taps + i];
      continue;
    }
    for (int64_t o = 0; o < outs; o += lanes) {
      const float* from[lanes];
      for (int64_t i = 0; i < lanes; ++i) from[i] = w + (o + i) * turned.taps;
      for (int64_t i = 0; i < turned.taps; i += 4) {  // the last four overlap with those before
        const int64_t first = least(i, turned.taps - 4);
        Vec<float> r[4];
        turn_four(from, first, r);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          if (to[first + j] >= 0) store(rows + to[first + j] + o, r[j]);
      }
    }
  }
}

// Rows (channel of a block, tap) of a panel as the steps of the block; distance: of the two channels of a pair.
template <int parts>
void split_weights(const Plan& p, int64_t distance, const float* rows, uint16_t* packed) {
  for (int64_t tap = 0; tap < p.taps; ++tap, packed += p.step_weights())
    for (int64_t half = 0; half < p.outs / 16; ++half)
      for (int64_t pair = 0; pair < 16; ++pair) {
        const float* row = rows + ((distance == 1 ? 2 * pair : pair) * p.taps + tap) * kBlock + half * 16;
        split_bf16<parts>(row, row + distance * p.taps * kBlock, packed + (half * 16 + pair) * 32, p.part_weights());
      }
}

// One channel block of one panel, by way of `rows`: 32 * taps rows (channel, tap) of all output channels of a panel.
template <int parts>
void pack_weights(const Conv2dArgs& q, const Plan& p, const Turned& turned, int64_t panel, int64_t block, float* rows,
                  uint16_t* packed) {
  const int64_t channels = least(kBlock, q.c - block * kBlock), outs = least(p.outs, q.o - panel * p.outs);
  const int64_t width = kBlock * p.taps, stride = q.c * p.taps;
  const float* w = static_cast<const float*>(q.weight) + panel * p.outs * stride + block * width;
  if (turned.taps > 0)
    gather_turned(q, turned, block, panel, p.outs, rows);
  else
    gather_weights(w, stride, width, channels * p.taps, outs, p.outs, rows);
  split_weights<parts>(p, parts == 1 ? 1 : 16, rows,
                       packed + (panel * p.channel_blocks + block) * p.taps * p.step_weights());
}

// The same for one step of a row of taps; rows: 32 of 32.
template <int parts>
void pack_row_weights(const Conv2dArgs& q, const Plan& p, int64_t panel, int64_t step, float* rows, uint16_t* packed) {
  const int64_t first = step % p.row_steps * kBlock, outs = least(p.outs, q.o - panel * p.outs);
  const float* w = static_cast<const float*>(q.weight) + panel * p.outs * q.c * p.taps + step / p.row_steps * q.kw;
  std::memset(rows, 0, static_cast<size_t>(kBlock * kBlock) * sizeof(float));
  for (int64_t i = 0; i < least(kBlock, q.kw * q.c - first); ++i) {
    const int64_t column = (first + i) / q.c, channel = (first + i) % q.c;
    for (int64_t o = 0; o < outs; ++o) rows[i * kBlock + o] = w[(o * q.c + channel) * p.taps + column];
  }
  packed += (panel * p.steps + step) * p.step_weights();
  for (int64_t half = 0; half < p.outs / 16; ++half)
    for (int64_t pair = 0; pair < 16; ++pair) {
      const float* row = rows + 2 * pair * kBlock + half * 16;
      split_bf16<parts>(row, row + kBlock, packed + (half * 16 + pair) * 32, p.part_weights());
    }
}

template <int parts>
void pack_all_weights(const Conv2dArgs& q, const Plan& p, const Turned& turned, uint16_t* weights) {
  if (p.by_rows)
    return runtime::parallel_for(p.panels * p.steps, p.panels * p.steps * 2000, [&](int64_t i) {
      alignas(64) float rows[kBlock * kBlock];
      pack_row_weights<parts>(q, p, i / p.steps, i % p.steps, rows, weights);
    });
  const int64_t pieces = p.panels * p.channel_blocks;
  runtime::parallel_for(pieces, pieces * p.taps * 500, [&](int64_t i) {
    float* rows = static_cast<float*>(
        runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(p.taps * kBlock * kBlock) * sizeof(float)));
    pack_weights<parts>(q, p, turned, i / p.channel_blocks, i % p.channel_blocks, rows, weights);
  });
}

// The planes of one task, filled in the order of flat pixels. A unit is 32 channels of a pixel; units come in runs,
// whose pixels lie side by side in x and in the planes, so that next to nothing is to be computed for one. X: float, or
// uint16_t for bfloat16.
template <int parts, class X>
class Planes {
 public:
  // pixels: how many there are from `first` on
  Planes(const Conv2dArgs& q, const Plan& p, int64_t first, int64_t pixels, uint16_t* memory)
      // A block that reads no pixel but its own never wraps around.
      : q_(q), p_(p), memory_(memory), pixels_(pixels), wraps_(p.ring < pixels && p.reach > 0) {
    row_ = first / p.columns.pitch, column_ = first % p.columns.pitch;
    image_ = row_ / p.rows.pitch, row_ %= p.rows.pitch;
  }

  uint16_t* memory() const { return memory_; }
  // From now on there are units until all pixels before `pixel` (of the task) are packed.
  void want(int64_t pixel) { wanted_ = least(pixel, pixels_); }
  FASTNN_MEMBER_INLINE bool busy() const { return left_ > 0 || done_ < wanted_; }
  int64_t units_left() const { return blocks_of((wanted_ - done_) * p_.phases * p_.channel_blocks * p_.width, kBlock); }

  FASTNN_MEMBER_INLINE void run(int64_t units) {
    if (left_ == 0 && !next_run()) return;
    const int64_t count = least(units, left_), part = p_.part;
    left_ -= count;
    // Copies stay in registers, where the stores would have members read again.
    const X* from = from_;
    uint16_t* to = to_;
    if (p_.by_rows) {
      for (int64_t i = 0; i < count; ++i, from += kBlock, to += kBlock) pack_in_order(from, to, part);
    } else {
      const int64_t run_blocks = run_blocks_, to_block = to_block_, to_pixel = to_pixel_, from_pixel = from_pixel_;
      int64_t blocks_left = blocks_left_;
      for (int64_t i = 0; i < count; ++i, from += kBlock) {
        pack(from, to, part);
        to += to_block;
        if (--blocks_left == 0) blocks_left = run_blocks, to += to_pixel, from += from_pixel;
      }
      blocks_left_ = blocks_left;
    }
    from_ = from, to_ = to;
  }
  void drain() {
    while (busy()) run(1 << 10);
  }

 private:
  static FASTNN_MEMBER_INLINE void pack(const X* from, uint16_t* to, int64_t part) {
    if constexpr (parts == 1)
      round_bf16(from, to);
    else
      split_bf16<parts>(from, from + 16, to, part);
  }
  static FASTNN_MEMBER_INLINE void pack_in_order(const X* from, uint16_t* to, int64_t part) {
    if constexpr (parts == 1)
      round_bf16(from, to);
    else
      split_bf16_in_order<parts>(from, to, part);
  }

  // A segment lies in one row of one phase and in one piece in the ring; a run is what of it lies in x: all channel
  // blocks, pixel by pixel, or one of them, where it must be gathered.
  __attribute__((noinline)) bool next_run() {
    for (;;) {
      if (p_.by_rows && at_ < end_) return start_row();
      if (block_ < p_.channel_blocks) return start_run();
      mirror();
      if (phase_ == p_.phases && !next_segment()) return false;
      start_phase();
    }
  }

  // Begins a run, or brings half of its channels together first.
  bool start_run() {
    const bool gathered = !q_.x_last || q_.c % kBlock != 0;
    const int64_t channel = block_ * kBlock, channels = least(kBlock, q_.c - channel);
    if (!gathered) {
      from_ = source_ + begin_ * q_.stride_w * q_.c;
    } else {
      if (q_.x_last)
        gather_pixels(channel, channels);
      else
        gather_planes(channel + half_ * 16, channels - half_ * 16);
      half_ = !q_.x_last && half_ == 0;
      if (half_) return true;
      from_ = gathered_;
    }
    run_blocks_ = blocks_left_ = gathered ? 1 : p_.channel_blocks;
    from_pixel_ = gathered ? 0 : (q_.stride_w - 1) * q_.c;
    to_block_ = parts * p_.part, to_pixel_ = kBlock - run_blocks_ * to_block_;
    to_ = memory_ + block_ * parts * p_.part + (phase_ - 1) * p_.plane + (slot_ + begin_) * kBlock;
    left_ = (end_ - begin_) * run_blocks_;
    block_ += run_blocks_;
    return true;
  }

  // Columns [at_, end_) of a row, or as many as can be gathered: all whole units where they lie in order in x, then the
  // rest, filled up with zeros. What they overwrite behind the row is written after them.
  bool start_row() {
    const int64_t columns = end_ - at_, whole = columns * q_.c / kBlock;
    to_ = memory_ + (phase_ - 1) * p_.plane + slot_ * p_.width + at_ * q_.c + done_of_row_;
    if (q_.x_last && done_of_row_ == 0 && whole > 0) {
      from_ = source_ + at_ * q_.c, left_ = whole, done_of_row_ = whole * kBlock;
      if (done_of_row_ == columns * q_.c) at_ = end_;
      return true;
    }
    int64_t count;
    if (q_.x_last) {
      count = columns * q_.c - done_of_row_, at_ = end_;
      std::memcpy(gathered_, source_ + (end_ * q_.c - count), static_cast<size_t>(count) * sizeof(X));
    } else {
      const int64_t some = least(columns, kRun * kBlock / q_.c), plane = q_.h * q_.w;
      const X* x = source_ + at_;
      for (int64_t c = 0; c < q_.c; ++c, x += plane)
        for (int64_t i = 0; i < some; ++i) gathered_[i * q_.c + c] = x[i];
      count = some * q_.c, at_ += some;
    }
    for (left_ = blocks_of(count, kBlock); count < left_ * kBlock; ++count) gathered_[count] = 0;
    from_ = gathered_;
    return true;
  }

  // 32 channels of pixels that have fewer.
  void gather_pixels(int64_t channel, int64_t channels) {
    const X* x = source_ + begin_ * q_.stride_w * q_.c + channel;
    std::memset(gathered_, 0, sizeof gathered_);
    for (int64_t i = 0; i < end_ - begin_; ++i, x += q_.stride_w * q_.c)
      std::memcpy(gathered_ + i * kBlock, x, static_cast<size_t>(channels) * sizeof(X));
  }

  // 16 channels of NCHW, or as many as there are.
  void gather_planes(int64_t channel, int64_t channels) {
    if constexpr (sizeof(X) == sizeof(float)) gather_floats(channel, channels);  // bfloat16 is channels-last
  }
  void gather_floats(int64_t channel, int64_t channels) {
    constexpr int lanes = Vec<float>::lanes;
    const int64_t plane = q_.h * q_.w, count = end_ - begin_;
    const float* x = source_ + begin_ * q_.stride_w + channel * plane;
    float* to = gathered_ + half_ * 16;
    for (int64_t first = 0; first < count; first += 16, to += 16 * kBlock) {
      if (channels >= 16 && count - first >= 16 && q_.stride_w == 1) {
        transpose_16(x + first, plane, to);
        continue;
      }
      alignas(64) float rows[16 * 16] = {};
      const int64_t some = least(count - first, 16);
      for (int64_t c = 0; c < least(channels, 16); ++c) {
        const float* from = x + c * plane + first * q_.stride_w;
        if (q_.stride_w == 1)
          for (int64_t i = 0; i < 16; i += lanes)
            store(rows + c * 16 + i, load_partial(from + i, static_cast<int>(most(0, least(some - i, lanes)))));
        else
          for (int64_t i = 0; i < some; ++i) rows[c * 16 + i] = from[i * q_.stride_w];
      }
      transpose_16(rows, 16, to);
    }
  }

  bool next_segment() {
    done_ += length_, slot_ += length_, column_ += length_;
    length_ = 0;
    if (done_ >= wanted_) return false;
    if (slot_ == p_.ring) slot_ = 0;
    if (column_ == p_.columns.pitch) {
      column_ = 0, ++row_;
      if (row_ == p_.rows.pitch) row_ = 0, ++image_;
    }
    length_ = least(least(p_.columns.pitch - column_, p_.ring - slot_), wanted_ - done_);
    if (!p_.by_rows && (!q_.x_last || q_.c % kBlock != 0)) length_ = least(length_, kRun);
    phase_ = 0;
    return true;
  }

  void start_phase() {
    const int64_t phase_h = phase_ / p_.columns.phases, phase_w = phase_ % p_.columns.phases;
    const int64_t y = row_ * q_.stride_h + p_.rows.residue(phase_h) - q_.pad_h;
    const int64_t x = column_ * q_.stride_w + p_.columns.residue(phase_w) - q_.pad_w;
    if (p_.by_rows) return start_row_phase(y);
    const Span span = p_.columns.span(phase_w);
    if (image_ < q_.n && y >= 0 && y < q_.h) {
      begin_ = least(most(span.begin - column_, 0), length_), end_ = least(most(span.end - column_, 0), length_);
    } else {
      begin_ = end_ = length_;
    }
    source_ =
        static_cast<const X*>(q_.x) + image_ * q_.c * q_.h * q_.w + (q_.x_last ? (y * q_.w + x) * q_.c : y * q_.w + x);
    fill(0, begin_ * kBlock), fill(end_ * kBlock, length_ * kBlock);
    block_ = begin_ < end_ ? 0 : p_.channel_blocks;
    ++phase_;
  }

  // Row y of x, or zeros; at_ and end_ are columns from the segment's first.
  void start_row_phase(int64_t y) {
    const int64_t first = column_ * q_.stride_w - q_.pad_w, columns = length_ * q_.stride_w;
    const bool exists = image_ < q_.n && y >= 0 && y < q_.h;
    at_ = exists ? least(most(-first, 0), columns) : columns, end_ = most(at_, least(q_.w - first, columns));
    source_ = static_cast<const X*>(q_.x) + image_ * q_.c * q_.h * q_.w + (y * q_.w + first) * (q_.x_last ? q_.c : 1);
    done_of_row_ = 0;
    fill(0, at_ * q_.c), fill(end_ * q_.c, columns * q_.c);
    ++phase_;
  }

  uint16_t* plane(int64_t phase, int64_t piece) { return memory_ + piece * p_.part + phase * p_.plane; }

  // Zeros for elements of the segment.
  void fill(int64_t begin, int64_t end) {
    if (begin == end) return;
    for (int64_t i = 0; i < parts * p_.channel_blocks; ++i)
      std::memset(plane(phase_, i) + slot_ * p_.width + begin, 0, static_cast<size_t>(end - begin) * sizeof(uint16_t));
  }

  // What lies at the begin of the ring lies behind it too.
  void mirror() {
    if (!wraps_ || slot_ >= p_.pixels || phase_ == 0) return;
    const size_t bytes = static_cast<size_t>(least(p_.pixels - slot_, length_) * p_.width) * sizeof(uint16_t);
    for (int64_t i = 0; i < parts * p_.channel_blocks; ++i) {
      uint16_t* at = plane(phase_ - 1, i) + slot_ * p_.width;
      std::memcpy(at + p_.ring * p_.width, at, bytes);
    }
  }

  static constexpr int64_t kRun = 32;  // pixels of a segment that is gathered
  const Conv2dArgs& q_;
  const Plan& p_;
  uint16_t* memory_;
  int64_t pixels_;
  bool wraps_;
  int64_t left_ = 0, blocks_left_ = 0, run_blocks_ = 0;  // units of the run; of its pixel; of each of its pixels
  const X* from_ = nullptr;
  uint16_t* to_ = nullptr;
  int64_t from_pixel_ = 0, to_block_ = 0, to_pixel_ = 0;     // steps
  int64_t half_ = 0;                                         // of the channels, to be gathered
  int64_t wanted_ = 0, done_ = 0;                            // flat pixels of the task
  int64_t image_, row_, column_, slot_ = 0;                  // where pixel done_ lies
  int64_t length_ = 0, phase_ = p_.phases;                   // pixels of the segment; the phase after its
  int64_t begin_ = 0, end_ = 0, block_ = p_.channel_blocks;  // pixels that lie in x; the channel block to come
  const X* source_ = nullptr;                                // pixel 0 of the segment
  int64_t at_ = 0, done_of_row_ = 0;  // by rows: what comes next, elements that are done behind it; begin_ is not used
  alignas(64) X gathered_[kRun * kBlock];
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

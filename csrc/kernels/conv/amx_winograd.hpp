// Winograd's algorithm (winograd.hpp) by products on the matrix unit's tiles: 3x3, stride 1, channels-last. There are
// 2.25 times fewer products than amx.cpp's steps have, and the transforms of x and y, which take as long whatever they
// are used for: 64 -> 64 @56 takes 0.75 of the steps' time, 64 -> 128 @112 0.68. The error is below that of the steps:
// 64 channels 1.4e-7 of the rms of y (1.9e-7; a chain of multiply-adds 3.0e-7).
//   square   2 x 2 pixels of y and the 4 x 4 of x under them; squares count through all images
//   block    32 squares
//   task     some blocks, and all panels of 32 outputs or some
//   planes   [point][channel block][part][square][pair of channels][2] of a block, as amx_planes.hpp has them
//   weights  [panel][point][channel block][part][tile of the panel][pair of channels][16 outputs][2]
//   sums     [panel][point][square][output] of a block
// A block's products go point by point, so that its planes of a point stay in L1 for all panels. In their shadow the
// sums of the block before become y, and x the planes of the next: there are two of each.
#pragma once
#include "kernels/conv/amx_planes.hpp"
#include "kernels/conv/amx_products.hpp"
#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/winograd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kPoints = 16, kStepWeights = 3 * kBlock * kBlock;  // three parts
// From point to point, 5 lines more than what a point takes: multiples of 4 KB lie in one set of L1.
constexpr int64_t kSumsPoint = kBlock * kBlock + 80, kSumsSize = kPoints * kSumsPoint;

struct SquarePlan {
  int64_t rows, columns, all;                            // squares of an image, down and across; of all images
  int64_t channel_blocks, panels, blocks;                // of 32
  int64_t ranges, blocks_a_task, groups, panels_a_task;  // task = group * ranges + range

  int64_t panel_weights() const { return kPoints * channel_blocks * kStepWeights; }
  int64_t weights_size() const { return panels * panel_weights(); }
  int64_t point_planes() const { return channel_blocks * kStepWeights + 160; }
  int64_t block_planes() const { return kPoints * point_planes(); }
};

[[maybe_unused]] SquarePlan square_plan_of(const Conv2dArgs& q) {
  SquarePlan p = {};
  p.rows = blocks_of(q.oh, 2), p.columns = blocks_of(q.ow, 2), p.all = q.n * p.rows * p.columns;
  p.channel_blocks = q.c / kBlock, p.panels = blocks_of(q.o, kBlock), p.blocks = blocks_of(p.all, kBlock);
  const int64_t threads = runtime::num_threads();  // no cut changes a bit
  int64_t best = -1;
  for (int64_t groups = 1; groups < 2 * p.panels; groups *= 2)
    for (int64_t ranges = 1; ranges <= p.blocks; ranges = next_count(ranges)) {
      const int64_t blocks = blocks_of(p.blocks, ranges), panels = blocks_of(p.panels, groups);
      const int64_t tasks = blocks_of(p.blocks, blocks) * blocks_of(p.panels, panels);
      // Cycles: 400 a step of products; 200 for 32 channels of a square to planes, after the first block in the shadow
      // of products as far as these last; weights beyond the cache come from L3 for every block.
      const int64_t products = panels * kPoints * p.channel_blocks * 400;
      const int64_t input = kBlock * p.channel_blocks * 200, weights = panels * p.panel_weights() * 2;
      const int64_t block = most(products + input / 3, input) + (weights > kWeightsBudget ? weights / 8 : 0);
      const int64_t task = blocks * block + input + 4000;
      const int64_t cost = blocks_of(tasks, threads) * task + task / 16;
      if (best >= 0 && cost >= best) continue;
      best = cost, p.blocks_a_task = blocks, p.panels_a_task = panels;
    }
  p.ranges = blocks_of(p.blocks, p.blocks_a_task), p.groups = blocks_of(p.panels, p.panels_a_task);
  return p;
}

// 32 outputs of 32 channels: transformed in double, split into parts.
[[maybe_unused]] void pack_square_weights(const Conv2dArgs& q, const SquarePlan& p, uint16_t* packed) {
  runtime::parallel_for(p.panels * p.channel_blocks, q.c * q.o * 4, [&](int64_t task) {
    const int64_t panel = task / p.channel_blocks, block = task % p.channel_blocks;
    const int64_t outs = least(kBlock, q.o - panel * kBlock), tap = kBlock * kBlock;
    float* rows =
        static_cast<float*>(runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(25 * tap) * sizeof(float)));
    float* points = rows + 9 * tap;  // rows: [channel][tap][output]
    const float* w = static_cast<const float*>(q.weight) + (panel * kBlock * q.c + block * kBlock) * 9;
    gather_weights(w, q.c * 9, kBlock * 9, kBlock * 9, outs, kBlock, rows);
    for (int64_t i = 0; i < kBlock; ++i)
      for (int64_t o = 0; o < kBlock; o += kLanes)
        transform_weights<2>(rows + i * 9 * kBlock + o, kBlock, points + i * kBlock + o, tap);
    for (int64_t point = 0; point < kPoints; ++point) {
      uint16_t* to = packed + ((panel * kPoints + point) * p.channel_blocks + block) * kStepWeights;
      for (int64_t half = 0; half < 2; ++half)
        for (int64_t pair = 0; pair < 16; ++pair) {
          const float* row = points + point * tap + pair * kBlock + half * 16;
          split_bf16<3>(row, row + 16 * kBlock, to + (half * 16 + pair) * 32, tap);
        }
    }
  });
}

// Counts through squares.
struct SquarePlace {
  int64_t image, row, column;
  SquarePlace(const SquarePlan& p, int64_t square)
      : image(square / (p.rows * p.columns)), row(square / p.columns % p.rows), column(square % p.columns) {}
  FASTNN_MEMBER_INLINE void next(const SquarePlan& p) {
    if (++column < p.columns) return;
    column = 0;
    if (++row == p.rows) row = 0, ++image;
  }
};

// x to planes, by sixths of 32 channels of a square: two halves are transformed, four quarters of the points split.
class SquareInput {
 public:
  SquareInput(const Conv2dArgs& q, const SquarePlan& p, int64_t block, float* memory)
      : q_(q),
        p_(p),
        place_(p, block * kBlock),
        left_(least(p.all - block * kBlock, p.blocks_a_task * kBlock)),
        points_(memory),
        zeros_(memory + kPoints * kBlock),
        temporary_(zeros_ + kBlock) {
    for (int64_t i = 0; i < kBlock; i += kLanes) store(zeros_ + i, zero<float>());
  }
  static constexpr int64_t kMemory = (kPoints * 2 + 1) * kBlock;  // floats

  // From now on there is work until the next block is done; planes: its.
  void start(uint16_t* planes) { planes_ = planes, square_ = 0, squares_ = least(left_, kBlock), left_ -= squares_; }
  FASTNN_MEMBER_INLINE bool busy() const { return square_ < squares_; }
  int64_t units() const { return squares_ * p_.channel_blocks * 6; }

  FASTNN_MEMBER_INLINE void run() {
    if (sixth_ < 2) {
      if (block_ == 0 && sixth_ == 0) find();
      transform(block_ * kBlock + sixth_ * 16);
      ++sixth_;
      return;
    }
    const int64_t first = (sixth_ - 2) * 4, stride = p_.point_planes();
    uint16_t* to = planes_ + first * stride + block_ * kStepWeights + square_ * kBlock;
    const float* from = points_ + first * kBlock;
    for (int64_t i = 0; i < 4; ++i) split_bf16<3>(from + i * kBlock, from + i * kBlock + 16, to + i * stride, 1024);
    if (++sixth_ < 6) return;
    sixth_ = 0;
    if (++block_ == p_.channel_blocks) block_ = 0, ++square_, place_.next(p_);
  }
  void drain() {
    while (busy()) run();
  }

 private:
  void find() {
    const int64_t y = place_.row * 2 - q_.pad_h, x = place_.column * 2 - q_.pad_w;
    const float* source = static_cast<const float*>(q_.x) + place_.image * q_.h * q_.w * q_.c;
    inside_ = y >= 0 && x >= 0 && y + 4 <= q_.h && x + 4 <= q_.w;
    for (int i = 0; i < 4; ++i) {
      const bool inside = y + i >= 0 && y + i < q_.h;
      patch_.row[i] = inside ? source + ((y + i) * q_.w + x) * q_.c : zeros_;
      patch_.step[i] = inside;
    }
    patch_.column0 = static_cast<int>(least(4, most(0, -x)));
    patch_.column1 = static_cast<int>(most(0, least(4, q_.w - x)));
  }

  // 16 channels to all points.
  FASTNN_MEMBER_INLINE void transform(int64_t channel) {
    float* to = points_ + channel % kBlock;
    for (int64_t c = 0; c < 16; c += kLanes) {
      if (!inside_) {
        transform_input<2, false>(patch_, channel + c, q_.c, kLanes, temporary_, to + c, kBlock);
        continue;
      }
      Lanes t[4][4];  // column, row
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        Lanes d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) d[i] = load(patch_.row[i] + j * q_.c + channel + c);
        Winograd<2>::input(d, t[j]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Lanes d[4] = {t[0][i], t[1][i], t[2][i], t[3][i]};
        Lanes v[4];
        Winograd<2>::input(d, v);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store(to + c + (i * 4 + j) * kBlock, v[j]);
      }
    }
  }

  const Conv2dArgs& q_;
  const SquarePlan& p_;
  SquarePlace place_;
  int64_t left_;  // squares after those that are started
  float *points_, *zeros_, *temporary_;
  uint16_t* planes_ = nullptr;
  int64_t square_ = 0, squares_ = 0, block_ = 0, sixth_ = 0;
  bool inside_ = false;
  Patch<4> patch_;
};

// Sums to y, by squares.
class SquareOutput {
 public:
  SquareOutput(const Conv2dArgs& q, const SquarePlan& p, const Epilogue<float>& epilogue, uint8_t* not_finite,
               float* memory)
      : q_(q), p_(p), epilogue_(epilogue), not_finite_(not_finite), finished_(memory), temporary_(memory + 4 * kBlock) {
    with_cheap_activation(epilogue.then.activation, [&](auto tag) {
      write_ = epilogue.residual ? write<tag.value, true> : write<tag.value, false>;
    });
  }
  static constexpr int64_t kMemory = 5 * kBlock + kPoints * kLanes;  // floats

  // sums: of `panels` panels of a block
  void start(const float* sums, int64_t panel, int64_t panels, int64_t block) {
    panel_ = panel, panels_left_ = panels, block_ = block, sums_ = sums - kSumsSize;
    next_panel();
  }
  int64_t units() const { return busy() ? (panels_left_ + 1) * squares_ : 0; }
  FASTNN_MEMBER_INLINE bool busy() const { return square_ < squares_; }

  FASTNN_MEMBER_INLINE void run() {
    const int64_t row = place_.row * 2, column = place_.column * 2;
    float* y = static_cast<float*>(q_.y) + ((place_.image * q_.oh + row) * q_.ow + column) * q_.o + channel_;
    const bool whole = row + 2 <= q_.oh && column + 2 <= q_.ow && outs_ == kBlock && write_ != nullptr;
    const bool finite = whole ? write_(*this, sums_ + square_ * kBlock, y)
                              : write_part(y, least(2, q_.oh - row), least(2, q_.ow - column));
    if (!finite) __atomic_store_n(not_finite_ + place_.image, uint8_t{1}, __ATOMIC_RELAXED);
    place_.next(p_);
    if (++square_ == squares_) next_panel();
  }
  void drain() {
    while (busy()) run();
  }

 private:
  void next_panel() {
    square_ = squares_ = 0;
    if (panels_left_-- == 0) return;
    channel_ = panel_++ * kBlock, outs_ = least(kBlock, q_.o - channel_), sums_ += kSumsSize;
    place_ = SquarePlace(p_, block_ * kBlock), squares_ = least(p_.all - block_ * kBlock, kBlock);
  }

  template <Activation kind, bool has_residual>
  static bool write(const SquareOutput& o, const float* sums, float* y) {
    const Epilogue<float>& e = o.epilogue_;
    const Parameters<float> p = parameters_of<float>(e.then);
    const int64_t residual = has_residual ? e.residual - e.y : 0;
    Lanes bad = zero<float>();  // 0 times what is not finite is NaN, and stays
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const Lanes scale = e.scale ? load(e.scale + o.channel_ + c) : set1(1.0f);
      const Lanes shift = e.shift ? load(e.shift + o.channel_ + c) : set1(-0.0f);
      Lanes t[4][2];  // column, row
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        Lanes d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) d[i] = load(sums + c + (i * 4 + j) * kSumsPoint);
        Winograd<2>::output(d, t[j]);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Lanes d[4] = {t[0][i], t[1][i], t[2][i], t[3][i]};
        Lanes v[2];
        Winograd<2>::output(d, v);
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          float* at = y + (i * o.q_.ow + j) * o.q_.o + c;
          bad = fma(v[j], zero<float>(), bad);
          Lanes r = fma(v[j], scale, shift);
          if (has_residual) r = r + load(at + residual);
          store(at, activate<kind>(r, p));
        }
      }
    }
    return !any(is_nan(bad));
  }

  __attribute__((noinline)) bool write_part(float* y, int64_t rows, int64_t columns) {
    Lanes bad = zero<float>();
    for (int64_t c = 0; c < outs_; c += kLanes)
      bad = bad + transform_output<2>(sums_ + square_ * kBlock + c, kSumsPoint, temporary_, finished_ + c, kBlock);
    for (int64_t r = 0; r < rows; ++r)
      finish<float, false>(epilogue_, finished_ + r * 2 * kBlock, kBlock, y + r * q_.ow * q_.o, q_.o, channel_, columns,
                           outs_);
    return !any(is_nan(bad));
  }

  const Conv2dArgs& q_;
  const SquarePlan& p_;
  const Epilogue<float>& epilogue_;
  uint8_t* not_finite_;
  float *finished_, *temporary_;
  bool (*write_)(const SquareOutput&, const float*, float*) = nullptr;
  const float* sums_ = nullptr;
  int64_t panel_ = 0, panels_left_ = 0, block_ = 0, channel_ = 0, outs_ = 0, square_ = 0, squares_ = 0;
  SquarePlace place_{p_, 0};
};

class SquareTask {
 public:
  SquareTask(const Conv2dArgs& q, const SquarePlan& p, const Epilogue<float>& epilogue, const uint16_t* weights,
             uint8_t* not_finite, int64_t task, char* memory)
      : p_(p),
        weights_(weights),
        first_(task % p.ranges * p.blocks_a_task),
        blocks_(least(p.blocks_a_task, p.blocks - first_)),
        panel_(task / p.ranges * p.panels_a_task),
        panels_(least(p.panels_a_task, p.panels - panel_)),
        sums_(reinterpret_cast<float*>(memory)),
        unread_(sums_ + 2 * p.panels_a_task * kSumsSize),
        offsets_(reinterpret_cast<int64_t*>(unread_ + 256)),
        input_(q, p, first_, unread_ + 256 + offsets_size(p)),
        output_(q, p, epilogue, not_finite, unread_ + 256 + offsets_size(p) + SquareInput::kMemory),
        planes_(reinterpret_cast<uint16_t*>(unread_ + 256 + offsets_size(p) + SquareInput::kMemory +
                                            whole<float>(SquareOutput::kMemory))) {
    for (int64_t i = 0; i < p.channel_blocks; ++i) offsets_[i] = i * kStepWeights;
  }

  static size_t memory(const SquarePlan& p) {
    return static_cast<size_t>(2 * p.panels_a_task * kSumsSize + 256 + offsets_size(p) + SquareInput::kMemory +
                               whole<float>(SquareOutput::kMemory)) *
               sizeof(float) +
           static_cast<size_t>(2 * p.block_planes()) * sizeof(uint16_t);
  }

  void run() {
    input_.start(planes_);
    input_.drain();
    const int64_t slots = kPoints * panels_ * p_.channel_blocks * 6, point_weights = p_.channel_blocks * kStepWeights;
    for (int64_t block = 0; block < blocks_; ++block) {
      if (block + 1 < blocks_) input_.start(planes_ + (block + 1) % 2 * p_.block_planes());
      const uint16_t* planes = planes_ + block % 2 * p_.block_planes();
      float* sums = sums_ + block % 2 * p_.panels_a_task * kSumsSize;
      const int64_t work = output_.units() + (input_.busy() ? input_.units() : 0);
      int64_t due = 0;
      const char* fetch = nullptr;
      const auto between = [&]() __attribute__((always_inline)) {
        if (block == 0)
          for (const char* end = fetch + 1024; fetch < end; fetch += 64) prefetch_l2(fetch);
        for (due += work; due >= slots; due -= slots)
          if (output_.busy())
            output_.run();
          else
            input_.run();
      };
      for (int64_t point = 0; point < kPoints; ++point)
        for (int64_t panel = 0; panel < panels_; ++panel) {
          const uint16_t* w = weights_ + ((panel_ + panel) * kPoints + point) * point_weights;
          fetch = reinterpret_cast<const char*>(w + point_weights);
          tiles_.zero<0>(), tiles_.zero<1>(), tiles_.zero<2>(), tiles_.zero<3>();
          Steps<3, false> steps = {
              planes + point * p_.point_planes(), 1024, 64, offsets_, w, p_.channel_blocks, unread_};
          for (int64_t step = 0; step < steps.count; ++step) steps.next(tiles_, step, between);
          float* to = sums + panel * kSumsSize + point * kSumsPoint;
          tiles_.store<0>(to, 128), tiles_.store<1>(to + 16, 128);
          tiles_.store<2>(to + 512, 128), tiles_.store<3>(to + 528, 128);
        }
      output_.drain(), input_.drain();
      output_.start(sums, panel_, panels_, first_ + block);
    }
    output_.drain();
  }

 private:
  static int64_t offsets_size(const SquarePlan& p) { return blocks_of(p.channel_blocks, 8) * 16; }  // floats

  const SquarePlan& p_;
  const uint16_t* weights_;
  int64_t first_, blocks_, panel_, panels_;
  float *sums_, *unread_;
  int64_t* offsets_;
  Tiles tiles_;
  SquareInput input_;
  SquareOutput output_;
  uint16_t* planes_;
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

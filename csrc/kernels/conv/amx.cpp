// conv2d_amx: float32 convolution on bfloat16 tiles (simd/tile.hpp). Every float is the sum of three bfloat16 parts; of
// the nine products the six largest are summed in float32, smallest first (Henry, Tang, Heinecke, arXiv 1904.06376).
// Programs may ask for two parts and three products (float32-fast), or one of each (bfloat16); x, residual and y may
// then be of bfloat16 in memory, and tiles read single pixels of x where they lie (Plan::direct).
//   step     32 input channels (a channel block) of one tap, block by block and within one tap by tap
//   panel    32 output channels, or 16
//   block    32 flat pixels of one panel, or 64: four tiles of sums
// amx_plan.hpp says where a pixel lies and what a task is, amx_planes.hpp packs what is multiplied, amx_products.hpp
// multiplies; amx_winograd.hpp is the same for 3x3 with fewer products, where these pay (by_squares), amx_planar.hpp
// for images of a few channels (by_planes). Between the products of a block its predecessor is finished, pixels of its
// successors are packed and weights fetched: in their shadow. Error against float64 as part of the rms of y (and of a
// plain chain of multiply-adds), 3x3, x after ReLU: 16 channels 1.2e-7 (1.5e-7), 64 1.8e-7 (2.9e-7), 256 3.8e-7
// (6.3e-7). Products below 8e-34 lose low parts, below 1.2e-38 all, as denormals are flushed. An image with a sum that
// is not finite (infinity, NaN, overflow) is done again by im2col, and all that has groups, float64 or too few channels
// is done there at once.
#include <type_traits>

#include "kernels/block.hpp"
#include "kernels/conv/amx_planar.hpp"
#include "kernels/conv/amx_planes.hpp"
#include "kernels/conv/amx_products.hpp"
#include "kernels/conv/amx_winograd.hpp"
#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/format.hpp"
#include "kernels/conv/images.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <int n>
struct Number {
  static constexpr int value = n;
};

// A step rounds the sum six times whatever it holds, a chain once per element: with half of x zero the rms error is 1.2
// times the chain's at 8 elements of a step's 32, .97 at 12, .86 at 16 (the worst of 3x3 to 11x11).
constexpr int64_t kLeastElements = 12;

constexpr int64_t kAhead = 8 << 10;  // bytes of weights
// Bytes of y from which it does not stay in a cache until it is written the next time, nor a residual until it is read:
// both are fetched a block before. 64->256 @56 b8 with a residual takes 0.7 of the time, smaller ones up to 1.2.
constexpr int64_t kLargeOutput = 8 << 20;

// ---- the end of a block: pixel by pixel where all channels of a panel lie side by side in y, else in eight parts ----

class Finish {
 public:
  // transposed: 1024 floats; not_finite: a flag for each image
  Finish(const Conv2dArgs& q, const Plan& p, const Epilogue<float>& epilogue, float* transposed, uint8_t* not_finite)
      : q_(q), p_(p), epilogue_(epilogue), transposed_(transposed), not_finite_(not_finite) {
    fetches_ = q.y_bf16 && q.n * q.oh * q.ow * q.o * 2 >= kLargeOutput;
    with_cheap_activation(epilogue.then.activation,
                          [&](auto tag) { p.tall() ? choose<tag.value, 16>() : choose<tag.value, 32>(); });
  }

  // sums: of a block, pixel by pixel; pixel: the flat pixel of the first
  void start(const float* sums, int64_t panel, int64_t pixel) {
    sums_ = sums, channel_ = panel * p_.outs;
    if (pixel != pixel_) {  // the panels of a block follow each other, and three divisions take 45 cycles
      first_.row = pixel / p_.columns.pitch, first_.column = pixel % p_.columns.pitch;
      first_.image = first_.row / p_.rows.pitch, first_.row %= p_.rows.pitch;
      pixel_ = pixel;
    }
    if (!q_.y_last || q_.o - channel_ < p_.outs || write_ == nullptr) {
      part_ = 0;
      return;
    }
    for (int64_t i = 0; i < p_.outs; ++i) {
      scale_[i] = epilogue_.scale ? epilogue_.scale[channel_ + i] : 1.0f;
      shift_[i] = epilogue_.shift ? epilogue_.shift[channel_ + i] : -0.0f;
    }
    at_ = first_, done_ = 0;
    next_run();
  }
  FASTNN_MEMBER_INLINE bool busy() const { return left_ > 0 || part_ < kParts; }

  FASTNN_MEMBER_INLINE void run(int64_t pixels) {
    if (left_ == 0) return run_part();
    const int64_t count = least(pixels, left_);
    write_(*this, sums_ + done_ * p_.outs, y_, count);
    left_ -= count, done_ += count, y_ += count * q_.o;
    if (left_ == 0) next_run();
  }
  void drain() {
    while (busy()) run(p_.pixels);
  }

 private:
  static constexpr int64_t kParts = 8;
  struct Place {
    int64_t image, row, column;
  };

  // The next pixels of the block that lie side by side in y; left_ is 0 where there are none.
  __attribute__((noinline)) void next_run() {
    const int64_t end = runs_of_pixels(at_, done_, p_.pixels, [&](const Place& place, int64_t at, int64_t count) {
      y_ = ((place.image * q_.oh + place.row) * q_.ow + place.column) * q_.o + channel_;
      image_ = place.image, done_ = at, left_ = count;
      return true;
    });
    if (left_ == 0) done_ = end;
  }

  __attribute__((noinline)) void run_part() {
    const int64_t channels = least(p_.outs, q_.o - channel_), i = part_++;
    Place place = first_;
    if (q_.y_last) {
      const int64_t some = p_.pixels / kParts;
      runs_of_pixels(place, 0, p_.pixels, [&](const Place& run, int64_t at, int64_t count) {
        const int64_t begin = most(at, i * some), end = least(at + count, (i + 1) * some);
        if (begin >= end) return false;
        const int64_t y = ((run.image * q_.oh + run.row) * q_.ow + run.column + begin - at) * q_.o + channel_;
        const float* from = sums_ + begin * p_.outs;
        check(from, p_.outs, run.image, end - begin, channels);
        if (q_.y_bf16 || q_.residual_bf16)
          finish_in_float32(q_, epilogue_, from, p_.outs, y, channel_, end - begin, channels, transposed_,
                            transposed_ + 512, kBlock);  // at most 8 pixels
        else
          finish<float, false>(epilogue_, from, p_.outs, static_cast<float*>(q_.y) + y, q_.o, channel_, end - begin,
                               channels);
        return false;
      });
    } else if (i < 4) {
      const int64_t pixel = i * 16 % p_.pixels, channel = i * 16 / p_.pixels * 16;
      transpose_16(sums_ + pixel * p_.outs + channel, p_.outs, transposed_ + channel * p_.pixels + pixel, p_.pixels);
    } else {
      const int64_t some = p_.outs / 4, c = (i - 4) * some, count_c = least(some, channels - c), plane = q_.oh * q_.ow;
      if (count_c <= 0) return;
      runs_of_pixels(place, 0, p_.pixels, [&](const Place& run, int64_t at, int64_t count) {
        float* y = static_cast<float*>(q_.y) + (run.image * q_.o + channel_ + c) * plane + run.row * q_.ow + run.column;
        const float* from = transposed_ + c * p_.pixels + at;
        check(from, p_.pixels, run.image, count_c, count);
        finish<float, true>(epilogue_, from, p_.pixels, y, plane, channel_ + c, count_c, count);
        return false;
      });
    }
  }

  // body(place, pixel of the block, count) for the pixels [begin, end) of the block that exist, row by row, until it
  // says true; place is that of `begin` and becomes that of the pixel after the last, which is returned.
  template <class Body>
  FASTNN_MEMBER_INLINE int64_t runs_of_pixels(Place& place, int64_t begin, int64_t end, const Body& body) {
    for (bool stop = false; begin < end && !stop;) {
      const bool exists = place.column < q_.ow && place.row < q_.oh && place.image < q_.n;
      const int64_t run = least((exists ? q_.ow : p_.columns.pitch) - place.column, end - begin);
      if (exists) stop = body(static_cast<const Place&>(place), begin, run);
      begin += run, place.column += run;
      if (place.column == p_.columns.pitch) {
        place.column = 0, ++place.row;
        if (place.row == p_.rows.pitch) place.row = 0, ++place.image;
      }
    }
    return begin;
  }

  template <Activation kind, int outs>
  void choose() {
    const auto of = [&](auto* y) {
      using Y = std::remove_pointer_t<decltype(y)>;
      write_ = !q_.residual       ? write<kind, void, Y, outs>
               : q_.residual_bf16 ? write<kind, uint16_t, Y, outs>
                                  : write<kind, float, Y, outs>;
    };
    q_.y_bf16 ? of(static_cast<uint16_t*>(nullptr)) : of(static_cast<float*>(nullptr));
  }

  // R, Y: float, or uint16_t for bfloat16; R is void without a residual. at: of y and of the residual
  template <Activation kind, class R, class Y, int outs>
  static void write(const Finish& f, const float* from, int64_t at, int64_t count) {
    constexpr int lanes = Vec<float>::lanes;
    constexpr bool has_residual = !std::is_void_v<R>;
    const Parameters<float> p = parameters_of<float>(f.epilogue_.then);
    const int64_t pitch = f.q_.o, next = f.p_.pixels * pitch;
    const bool fetches = f.fetches_;
    Y* y = static_cast<Y*>(f.q_.y) + at;
    using Residual = std::conditional_t<has_residual, R, float>;
    const Residual* residual = has_residual ? static_cast<const Residual*>(f.q_.residual) + at : nullptr;
    constexpr int vectors = outs / lanes;
    Vec<float> bad[vectors];  // 0 times what is not finite is NaN, and stays
    for (int j = 0; j < vectors; ++j) bad[j] = zero<float>();
    const auto end = [&](int j) FASTNN_INLINED {
      const Vec<float> sum = load(from + j * lanes);
      bad[j] = fma(sum, zero<float>(), bad[j]);
      Vec<float> v = fma(sum, load(f.scale_ + j * lanes), load(f.shift_ + j * lanes));
      if constexpr (has_residual) v = v + load_float(residual + j * lanes);
      return activate<kind>(v, p);
    };
    for (int64_t i = 0; i < count; ++i, from += outs, y += pitch) {
      if constexpr (vectors == 1) {
        store_float(y, end(0));
      } else {
        for (int j = 0; j < vectors; j += 2) store_twice(y + j * lanes, end(j), end(j + 1));
      }
      if constexpr (has_residual) {
        if (fetches) prefetch_l2(residual + next);
        residual += pitch;
      }
      if (fetches) prefetch_l2(y + next);
    }
    for (int j = 1; j < vectors; ++j) bad[0] = bad[0] + bad[j];
    if (any(is_nan(bad[0]))) f.flag(f.image_);
  }

  void flag(int64_t image) const { __atomic_store_n(not_finite_ + image, uint8_t{1}, __ATOMIC_RELAXED); }

  FASTNN_MEMBER_INLINE void check(const float* from, int64_t ld, int64_t image, int64_t m, int64_t n) {
    constexpr int lanes = Vec<float>::lanes;
    Vec<float> bad = zero<float>();
    for (int64_t i = 0; i < m; ++i, from += ld)
      for (int64_t j = 0; j < n; j += lanes)
        bad =
            fma(n - j >= lanes ? load(from + j) : load_partial(from + j, static_cast<int>(n - j)), zero<float>(), bad);
    if (any(is_nan(bad))) flag(image);
  }

  const Conv2dArgs& q_;
  const Plan& p_;
  const Epilogue<float>& epilogue_;
  float* transposed_;
  uint8_t* not_finite_;
  void (*write_)(const Finish&, const float*, int64_t, int64_t) = nullptr;
  const float* sums_ = nullptr;
  int64_t channel_ = 0, pixel_ = -1, part_ = kParts;  // kParts: nothing to do
  Place first_ = {};
  int64_t done_ = 0, left_ = 0, image_ = 0;  // pixels of the block; of the run
  Place at_ = {};                            // of the pixel after the run
  int64_t y_ = 0;                            // where the run goes, in elements
  bool fetches_ = false;
  alignas(64) float scale_[kBlock], shift_[kBlock];
};

// ---- what is done in the shadow of the products ----

// Memory to be fetched into L2, so many lines at a time.
struct Fetch {
  const char *at = nullptr, *end = nullptr;
  int64_t lines = 1;

  FASTNN_MEMBER_INLINE bool busy() const { return at < end; }
  FASTNN_MEMBER_INLINE void run() {
    if (at < end)
      for (const char* stop = at + lines * 64; at < stop; at += 64) prefetch_l2(at);
  }
};

template <int parts, class X>
struct Shadow {
  Finish finish;
  Planes<parts, X> planes;
  int64_t units = 1, pixels = 1;  // to pack and to finish at a time
  Fetch weights = {}, x = {};

  FASTNN_MEMBER_INLINE bool busy() const { return finish.busy() || planes.busy() || weights.busy() || x.busy(); }
  FASTNN_MEMBER_INLINE void step() {
    weights.run(), x.run();
    if (finish.busy())
      finish.run(pixels);
    else if (planes.busy())
      planes.run(units);
  }
};

template <int parts, class X, bool tall>
void multiply_block(Tiles& t, Steps<parts, tall> s, Shadow<parts, X>& shadow) {
  int64_t step = 0;
  for (; step < s.count && shadow.busy(); ++step) s.next(t, step, [&] { shadow.step(); });
  multiply_plain(t, s, step);
}

// Where each step's first pixel lies in the planes, for a block that begins at flat pixel `pixel` of the task.
void fill_offsets(int64_t* offsets, const Plan& p, const Conv2dArgs& q, int64_t pixel) {
  pixel %= p.ring;
  if (p.by_rows) {
    for (int64_t i = 0; i < q.kh; ++i) {
      const int64_t slot = (pixel + i * q.dilation_h / q.stride_h * p.columns.pitch) % p.ring;
      for (int64_t j = 0; j < p.row_steps; ++j) *offsets++ = i % p.rows.period * p.plane + slot * p.width + j * kBlock;
    }
    return;
  }
  for (int64_t i = 0; i < q.kh; ++i)
    for (int64_t j = 0; j < q.kw; ++j, ++offsets) {
      const int64_t phase = i % p.rows.period * p.columns.phases + j % p.columns.period;
      const int64_t shift = i * q.dilation_h / q.stride_h * p.columns.pitch + j * q.dilation_w / q.stride_w;
      const int64_t slot = pixel + shift < p.ring ? pixel + shift : pixel + shift - p.ring;
      for (int64_t block = 0; block < p.channel_blocks; ++block)
        offsets[block * p.taps] = block * p.parts * p.part + phase * p.plane + slot * kBlock;
    }
}

// ---- one task ----

template <int parts, class X>
class Task {
 public:
  Task(const Conv2dArgs& q, const Plan& p, const Epilogue<float>& epilogue, const uint16_t* weights,
       uint8_t* not_finite, int64_t task, char* memory)
      : q_(q),
        p_(p),
        weights_(weights),
        first_(task % p.ranges * p.blocks_a_task),
        blocks_(least(p.blocks_a_task, p.blocks - first_)),
        panel_(task / p.ranges * p.panels_a_task),
        panels_(least(p.panels_a_task, p.panels - panel_)),
        offsets_(reinterpret_cast<int64_t*>(memory + 8192)),
        sums_(reinterpret_cast<float*>(memory + 8192 + offsets_size(p))),
        unread_(memory + 4096),
        shadow_{{q, p, epilogue, reinterpret_cast<float*>(memory), not_finite},
                {q, p, first_ * p.pixels, p.direct ? 0 : blocks_ * p.pixels + p.reach,
                 reinterpret_cast<uint16_t*>(memory + 8192 + offsets_size(p) + sums_size(p))}} {}

  static size_t memory(const Plan& p) {
    return 8192 + offsets_size(p) + sums_size(p) + static_cast<size_t>(p.planes_size()) * sizeof(uint16_t);
  }

  void run() {
    // Little at a time hides best; 32 pixels and what is to be packed must find room between the products of a block.
    shadow_.pixels = blocks_of(p_.pixels, most(1, p_.steps_a_block * products_of(p_) * 2 / 3));
    p_.direct ? copy_rest() : want(0);
    shadow_.planes.drain();
    fill_offsets(offsets_, p_, q_, 0);
    p_.panels_outside ? run_panels() : run_pixels();
    shadow_.finish.drain();
  }

 private:
  static size_t offsets_size(const Plan& p) { return static_cast<size_t>((p.steps + 7) / 8 * 64); }
  static int64_t sums_kept(const Plan& p) { return p.steps_a_block < p.steps ? most(2, p.blocks_a_task) : 2; }
  static size_t sums_size(const Plan& p) { return static_cast<size_t>(sums_kept(p)) * 4096; }

  void want(int64_t block) { shadow_.planes.want((block + 1) * p_.pixels + p_.reach); }

  // All panels at a block of pixels: their weights stay in L2, the planes are a ring.
  void run_pixels() {
    const bool wraps = p_.ring < blocks_ * p_.pixels + p_.reach;
    for (int64_t block = 0; block < blocks_; ++block) {
      if (wraps && block > 0) fill_offsets(offsets_, p_, q_, block * p_.pixels);
      if (block + 1 < blocks_) want(block + 1), fetch_pixels(block + 1, panels_ * p_.steps);
      // What the end of the block before leaves of the slots between the quartets.
      const int64_t slots = panels_ * most(1, p_.steps * products_of(p_) - p_.pixels / shadow_.pixels);
      shadow_.units = blocks_of(shadow_.planes.units_left(), slots);
      for (int64_t panel = 0; panel < panels_; ++panel, ++turn_) {
        if (block == 0) parts > 1 ? fetch_next(panel) : fetch_ahead(panel);
        multiply(panel, block, wraps ? 0 : block * p_.pixels, 0, p_.steps, sums_ + turn_ % 2 * 1024);
      }
      shadow_.planes.drain();
    }
  }

  // All pixels at some steps of a panel: their planes stay in L2, the weights stream through it once.
  void run_panels() {
    for (int64_t panel = 0; panel < panels_; ++panel)
      for (int64_t step = 0; step < p_.steps; step += p_.steps_a_block) {
        const int64_t count = least(p_.steps_a_block, p_.steps - step);
        const bool last = step + count == p_.steps;
        if (!last || panel + 1 < panels_)
          fetch(last ? panel + 1 : panel, last ? 0 : step + count, last ? p_.steps_a_block : p_.steps - step - count,
                count * blocks_);
        for (int64_t block = 0; block < blocks_; ++block, ++turn_) {
          if (panel == 0 && step == 0 && block + 1 < blocks_) {
            want(block + 1), fetch_pixels(block + 1, count);
            shadow_.units =
                blocks_of(shadow_.planes.units_left(), most(1, count * products_of(p_) - p_.pixels / shadow_.pixels));
          }
          multiply(panel, block, block * p_.pixels, step, count, sums_ + turn_ % sums_kept(p_) * 1024);
          if (panel == 0 && step == 0) shadow_.planes.drain();
        }
        if (p_.steps_a_block < p_.steps) turn_ = 0;
      }
  }

  void fetch_next(int64_t panel) {
    if (panel + 1 < panels_) fetch(panel + 1, 0, p_.steps, p_.steps);
  }
  // A step of one part reads its weights faster than they come from L3 unless they were asked for: 8 KB before, for the
  // next task's too (1x1 2048->512 @7: 1.3 times as fast as a whole panel before; 32 KB are as good, 4 KB and 64 KB are
  // not).
  void fetch_ahead(int64_t panel) {
    fetch(panel, 0, p_.steps, p_.steps);
    shadow_.weights.at += kAhead, shadow_.weights.end += kAhead;
  }

  // Weights of at most a block of steps, while `during` steps are computed.
  void fetch(int64_t panel, int64_t step, int64_t count, int64_t during) {
    count = least(count, p_.steps_a_block);
    const uint16_t* w = weights_ + ((panel_ + panel) * p_.steps + step) * p_.step_weights();
    const int64_t lines = count * p_.step_weights() / kBlock;
    shadow_.weights = {reinterpret_cast<const char*>(w), reinterpret_cast<const char*>(w + lines * kBlock),
                       blocks_of(lines, during * products_of(p_))};
  }

  // Where tiles are loaded from x itself: the pixels of a block, or those that exist of the last one, with zeros after.
  int64_t pixels_before(int64_t block) const { return (first_ + block) * p_.pixels; }
  const X* pixels_of(int64_t block) const { return static_cast<const X*>(q_.x) + pixels_before(block) * p_.width; }
  bool is_whole(int64_t block) const { return pixels_before(block + 1) <= q_.n * q_.w; }
  void copy_rest() {
    if (is_whole(blocks_ - 1)) return;
    const size_t rest = static_cast<size_t>((q_.n * q_.w - pixels_before(blocks_ - 1)) * p_.width) * sizeof(X);
    char* to = reinterpret_cast<char*>(shadow_.planes.memory());
    std::memcpy(to, pixels_of(blocks_ - 1), rest);
    std::memset(to + rest, 0, static_cast<size_t>(p_.planes_size()) * sizeof(X) - rest);
  }
  void fetch_pixels(int64_t block, int64_t during) {
    if (!p_.direct || !is_whole(block)) return;
    const char* x = reinterpret_cast<const char*>(pixels_of(block));
    const int64_t lines = p_.pixels * p_.width / kBlock;
    shadow_.x = {x, x + lines * 64, blocks_of(lines, during)};
  }

  // Steps [step, step + count) of a block; x: where its planes begin, from those that the offsets were made for.
  void multiply(int64_t panel, int64_t block, int64_t x, int64_t step, int64_t count, float* sums) {
    const int64_t row = p_.outs * int64_t{sizeof(float)}, second = p_.tall() ? 256 : 16;
    if (step == 0)
      tiles_.zero<0>(), tiles_.zero<1>(), tiles_.zero<2>(), tiles_.zero<3>();
    else
      tiles_.load<0>(sums, row), tiles_.load<1>(sums + second, row), tiles_.load<2>(sums + 512, row),
          tiles_.load<3>(sums + 512 + second, row);
    const uint16_t* from = shadow_.planes.memory() + x * p_.width;
    if constexpr (sizeof(X) == sizeof(uint16_t))
      if (p_.direct) from = is_whole(block) ? pixels_of(block) : shadow_.planes.memory();
    p_.tall() ? multiply_steps<true>(panel, from, step, count) : multiply_steps<false>(panel, from, step, count);
    shadow_.finish.drain();
    tiles_.store<0>(sums, row), tiles_.store<1>(sums + second, row);
    tiles_.store<2>(sums + 512, row), tiles_.store<3>(sums + 512 + second, row);
    if (step + count == p_.steps) shadow_.finish.start(sums, panel_ + panel, (first_ + block) * p_.pixels);
  }

  template <bool tall>
  void multiply_steps(int64_t panel, const uint16_t* x, int64_t step, int64_t count) {
    const uint16_t* w = weights_ + ((panel_ + panel) * p_.steps + step) * p_.step_weights();
    const int64_t pitch = p_.width * int64_t{sizeof(uint16_t)};
    multiply_block<parts, X, tall>(tiles_, {x, p_.part, pitch, offsets_ + step, w, count, unread_}, shadow_);
  }

  const Conv2dArgs& q_;
  const Plan& p_;
  const uint16_t* weights_;
  int64_t first_, blocks_, panel_, panels_, turn_ = 0;
  int64_t* offsets_;
  float* sums_;
  void* unread_;
  Tiles tiles_;
  Shadow<parts, X> shadow_;
};

// By im2col, which knows no turned weights.
void again_turned(const Conv2dArgs& q, const Turned& turned, const uint8_t* not_finite) {
  bool any = false;
  for (int64_t i = 0; i < q.n; ++i) any |= not_finite[i] != 0;
  if (!any) return;
  const int64_t taps = q.kh * q.kw;
  const PoolBlock weights(q.o * q.c * taps * 4);
  const float* from = static_cast<const float*>(q.weight) + turned.first;
  for (int64_t o = 0; o < q.o; ++o)
    for (int64_t c = 0; c < q.c; ++c)
      for (int64_t i = 0; i < taps; ++i)
        weights.floats()[(o * q.c + c) * taps + i] =
            from[(c * q.o + o) * turned.taps + i / q.kw * turned.step_h + i % q.kw * turned.step_w];
  Conv2dArgs again = q;
  again.weight = weights.data();
  again_by_im2col(again, not_finite);
}

// At most kImages images: packs what is not, and runs task by task what `TaskOf` does for a plan.
template <class TaskOf, class AnyPlan, class Pack>
void convolve_images(const Conv2dArgs& q, const Turned& turned, const AnyPlan& p, int64_t tasks, int64_t nanoseconds,
                     const Pack& pack) {
  uint8_t not_finite[kImages] = {};
  {
    const runtime::FlushDenormals flush;
    const int64_t unpacked = q.packed ? 0 : p.weights_size();
    char* memory = static_cast<char*>(runtime::scratch(
        runtime::Slot::kShared,
        static_cast<size_t>(unpacked) * sizeof(uint16_t) + static_cast<size_t>(epilogue_size(q)) * sizeof(float)));
    if (!q.packed) pack(reinterpret_cast<uint16_t*>(memory));
    const uint16_t* weights = static_cast<const uint16_t*>(q.packed ? q.packed : memory);
    const Epilogue<float> epilogue = prepare_epilogue<float>(
        q, reinterpret_cast<float*>(memory + unpacked * static_cast<int64_t>(sizeof(uint16_t))));
    runtime::parallel_for(tasks, nanoseconds, [&](int64_t task) {
      char* scratch = static_cast<char*>(runtime::scratch(runtime::Slot::kTask, TaskOf::memory(p)));
      TaskOf(q, p, epilogue, weights, not_finite, task, scratch).run();
    });
  }
  // An infinite or NaN element, one that rounds to infinity as a part, or a sum that overflows half way makes NaN or
  // infinity where a chain of multiply-adds may give a number or the other. All of them show in the sums.
  if (turned.taps > 0) return again_turned(q, turned, not_finite);
  again_by_im2col(q, not_finite);
}

template <int parts, class X>
void convolve_steps(const Conv2dArgs& q, const Turned& turned) {
  const Plan p = plan_of(q, parts);
  convolve_images<Task<parts, X>>(q, turned, p, p.tasks(), p.blocks * p.panels * p.steps * products_of(p) * 25,
                                  [&](uint16_t* to) { pack_all_weights<parts>(q, p, turned, to); });
}

void convolve_squares(const Conv2dArgs& q) {
  const SquarePlan p = square_plan_of(q);
  convolve_images<SquareTask>(q, {}, p, p.ranges * p.groups, p.blocks * p.panels * p.channel_blocks * kPoints * 200,
                              [&](uint16_t* to) { pack_square_weights(q, p, to); });
}

template <int parts>
void convolve_planar(const Conv2dArgs& q) {
  const PlanarPlan p = planar_plan_of(q, parts);
  convolve_images<PlanarTask<parts>>(q, {}, p, p.tasks(), q.n * q.oh * p.tiles * p.panels * p.steps * 200,
                                     [&](uint16_t* to) { pack_planar_weights<parts>(q, p, to); });
}

// Where it pays. More channels have more weights, 16 for 9, than stay in L2 beside the planes: 128 -> 128 @28 takes as
// long as by steps, four images of it 0.86; 256 channels @56 1.7 times as long. 64 -> 64 @28, 196 squares, 1.08.
bool by_squares(const Conv2dArgs& q) {
  const int64_t squares = q.n * blocks_of(q.oh, 2) * blocks_of(q.ow, 2);
  return q.parts == 3 && q.x_last && q.y_last && q.kh == 3 && q.kw == 3 && q.stride_h * q.stride_w == 1 &&
         q.dilation_h * q.dilation_w == 1 && q.c % kBlock == 0 && q.c >= 64 && q.c <= 128 && q.o >= 64 &&
         squares >= (q.c <= 96 ? 300 : 700);
}

template <class F>
void in_parts(const Conv2dArgs& q, const F& f) {
  q.parts == 3 ? f(Number<3>{}) : q.parts == 2 ? f(Number<2>{}) : f(Number<1>{});
}

}  // namespace

// Everything else is done by im2col, which then has packed the weights too.
static bool takes_tiles(const Conv2dArgs& q) {
  if (q.dtype != kFloat32 || q.groups != 1 || q.n * q.o * q.oh * q.ow * q.kh * q.kw == 0) return false;
  if (by_planes(q, kLeastElements)) return true;
  const Plan p = steps_of(q, q.parts);
  return q.kh * q.kw * q.c >= kLeastElements * p.steps;
}

// A convolution of single pixels sees an image as one row, which no block of pixels reaches beyond.
static Conv2dArgs as_one_row(Conv2dArgs q) {
  if (q.kh * q.kw * q.stride_h * q.stride_w == 1 && q.pad_h == 0 && q.pad_w == 0 && q.oh == q.h && q.ow == q.w)
    q.w *= q.h, q.ow *= q.oh, q.h = q.oh = 1;
  return q;
}

bool conv2d_amx_turns(const Conv2dArgs& q) {
  return takes_tiles(q) && !by_squares(q) && !by_planes(q, kLeastElements) && !steps_of(q, q.parts).by_rows;
}

int64_t conv2d_amx_forward_turned_pack(const Conv2dArgs& args, const Turned& turned, void* packed) {
  if (!takes_tiles(args)) return conv2d_im2col_forward_pack(args, packed);
  int64_t size = 0;
  if (by_squares(args)) {
    const SquarePlan p = square_plan_of(args);
    if (packed) pack_square_weights(args, p, static_cast<uint16_t*>(packed));
    return p.weights_size() * static_cast<int64_t>(sizeof(uint16_t));
  }
  if (by_planes(args, kLeastElements)) {
    in_parts(args, [&](auto parts) {
      const PlanarPlan p = planar_plan_of(args, parts.value);
      if (packed) pack_planar_weights<parts.value>(args, p, static_cast<uint16_t*>(packed));
      size = p.weights_size() * static_cast<int64_t>(sizeof(uint16_t));
    });
    return size;
  }
  in_parts(args, [&](auto parts) {
    const Plan p = plan_of(as_one_row(args), parts.value);
    if (packed) pack_all_weights<parts.value>(args, p, turned, static_cast<uint16_t*>(packed));
    size = p.weights_size() * static_cast<int64_t>(sizeof(uint16_t));
  });
  return size;
}

int64_t conv2d_amx_forward_pack(const Conv2dArgs& args, void* packed) {
  return conv2d_amx_forward_turned_pack(args, {}, packed);
}

const char* conv2d_amx_forward_algorithm(const Conv2dArgs& args) {
  constexpr const char* names[] = {"amx, one part", "amx, two parts", "amx"};
  if (takes_tiles(args) && by_squares(args)) return "amx, winograd";
  return takes_tiles(args) ? names[args.parts - 1] : conv2d_im2col_forward_algorithm(args);
}

void conv2d_amx_forward_turned(const Conv2dArgs& args, const Turned& turned) {
  if (!takes_tiles(args)) return conv2d_im2col_forward(args);
  if (by_squares(args)) return by_images(args, convolve_squares);
  if (by_planes(args, kLeastElements))
    return by_images(
        args, [](const Conv2dArgs& some) { in_parts(some, [&](auto parts) { convolve_planar<parts.value>(some); }); });
  by_images(as_one_row(args), [&](const Conv2dArgs& some) {
    if (some.x_bf16) return convolve_steps<1, uint16_t>(some, turned);
    in_parts(some, [&](auto parts) { convolve_steps<parts.value, float>(some, turned); });
  });
}

void conv2d_amx_forward(const Conv2dArgs& args) { conv2d_amx_forward_turned(args, {}); }

}  // namespace fastnn::FASTNN_ISA

// conv2d_amx_backward: dx and dweight on bfloat16 tiles (simd/tile.hpp), in float32 from three parts and six products
// as in amx.cpp; dbias is that of backward.cpp.
//   dx       conv2d_amx_forward of dy with the flipped weights. Stride phases are computed side by side in memory, some
//            images at a time, and then put in their places: all in one call where they have as many taps, as channels
//            of its output, so that dy is packed once; else one call for each.
//   dweight  products with the pixels of all images as their inner length, in pairs that lie far apart: A = rows of 16
//            channels of dy, pair beside pair, B = pairs of 16 channels of x, which a tap moves by whole rows
//              half    16 channels of x at one tap; four halves of 16 x 16 sums are a block: two of dy by two of x, or
//                      where dy has an odd 16 left, one by four, or by one where that is all that is left
//                      (a first layer has few channels: there the taps are rows of taps, and a pixel's channels all
//                      that such a row sees of it, as it lies in memory)
//              group   some channels of dy and of x, which are packed for it alone
//              chunk   the pixels whose planes lie in L2 while all blocks take their turns
//              part    the chunks of one task; the parts are summed in order
//            Flat pixels, pitches and phases are those of the forward pass (amx_plan.hpp); dy is zero where there is
//            no output.
// Error against float64 is at most that of chains of multiply-adds. A dweight with a sum that is not finite is done
// again by columns, as are groups, float64 and too few channels or pixels at once.
#include "kernels/block.hpp"
#include "kernels/conv/amx_backward_planes.hpp"
#include "kernels/conv/backward.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"
#include "simd/permute.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// ---- dx ----

constexpr int64_t kLeastOut = 16;  // channels of dy: below, steps of the forward pass are mostly empty
constexpr int64_t kMostStride = 4;
constexpr int64_t kPhaseElements = int64_t{1} << 19;  // of all phases at a time: 2 MB

// weight (o, c, kh, kw) -> (c, o, taps of the two phases), for 16 c; the taps of a small kernel by one permutation.
void flip_weights(const Conv2dBackwardArgs& q, const Phase& ph, const Phase& pw, int64_t block, float* to) {
  constexpr int lanes = Vec<float>::lanes;
  const float* w = static_cast<const float*>(q.weight);
  const int64_t taps = q.kh * q.kw, stride = q.c * taps, count = ph.taps * pw.taps;
  const int64_t c0 = block * kHalf, c1 = least(q.c, c0 + kHalf);
  int64_t o = 0;
  if (taps == 1 && c1 - c0 == kHalf)
    for (; o + lanes <= q.o; o += lanes)
      for (int64_t c = c0; c < c1; c += lanes) transpose(w + o * stride + c, stride, to + c * q.o + o, q.o);
  const int64_t first = ph.first_tap * q.kw + pw.first_tap;
  if (taps <= lanes) {
    alignas(64) uint32_t places[lanes] = {};
    for (int64_t i = 0; i < count; ++i)
      places[i] = static_cast<uint32_t>(first + i / pw.taps * ph.tap_step * q.kw + i % pw.taps * pw.tap_step);
    const U32 from = load_u32(places);
    for (; o < q.o; ++o)
      for (int64_t c = c0; c < c1; ++c) {
        const Vec<float> v = permute(load_partial(w + o * stride + c * taps, static_cast<int>(taps)), from);
        float* at = to + (c * q.o + o) * count;
        if ((q.o - o) * count >= lanes)  // what it writes behind these taps are those of the next o
          store(at, v);
        else
          store_partial(at, v, static_cast<int>(count));
      }
    return;
  }
  for (; o < q.o; ++o)
    for (int64_t c = c0; c < c1; ++c) {
      const float* from = w + o * stride + c * taps + first;
      float* at = to + (c * q.o + o) * count;
      for (int64_t i = 0; i < ph.taps; ++i, from += ph.tap_step * q.kw)
        for (int64_t j = 0; j < pw.taps; ++j) *at++ = from[j * pw.tap_step];
    }
}
void flip_weights(const Conv2dBackwardArgs& q, const Phase& ph, const Phase& pw, float* to) {
  runtime::parallel_for(blocks_of(q.c, kHalf), q.c * q.o * ph.taps * pw.taps / 2,
                        [&](int64_t block) { flip_weights(q, ph, pw, block, to); });
}

// The convolution of all images of dy that makes the pixels of one phase.
Conv2dArgs phase_convolution(const Conv2dBackwardArgs& q, const Phase& ph, const Phase& pw, const float* flipped,
                             const void* bias, Then then) {
  Conv2dArgs r = {};
  r.x = q.dy, r.weight = flipped, r.bias = bias, r.y = q.dx;
  r.n = q.n, r.c = q.o, r.h = q.oh, r.w = q.ow, r.o = q.c, r.kh = ph.taps, r.kw = pw.taps, r.oh = ph.size,
  r.ow = pw.size;
  r.stride_h = r.stride_w = r.groups = 1, r.pad_h = -ph.first, r.pad_w = -pw.first;
  r.dilation_h = ph.step, r.dilation_w = pw.step;
  r.x_last = r.y_last = q.channels_last, r.dtype = kFloat32, r.parts = 3, r.then = then;
  return r;
}

// to[i] = even[i / 2] or odd[i / 2]
FASTNN_INLINE void interleave_row(const float* even, const float* odd, float* to, int64_t size) {
  constexpr int64_t lanes = Vec<float>::lanes;
  int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes, even += lanes, odd += lanes) {
    Vec<float> a, b;
    interleave(load(even), load(odd), a, b);
    store(to + i, a);
    store(to + i + lanes, b);
  }
  if (const int64_t left = size - i; left > 0) {
    const int evens = static_cast<int>(least((left + 1) / 2, lanes)), odds = static_cast<int>(least(left / 2, lanes));
    Vec<float> a, b;
    interleave(load_partial(even, evens), load_partial(odd, odds), a, b);
    store_partial(to + i, a, static_cast<int>(least(left, lanes)));
    if (left > lanes) store_partial(to + i + lanes, b, static_cast<int>(least(left - lanes, lanes)));
  }
}

// Rows `rh`, `rh` + stride_h .. of some images of dx from phases[rw], (n, c, rows, columns of the phase).
void place_phases(const Conv2dBackwardArgs& q, int64_t images, int64_t rh, int64_t rows, float* const* phases,
                  float* dx) {
  const int64_t s = q.stride_w, outer = q.channels_last ? images : images * q.c;
  runtime::parallel_for(outer * rows, outer * rows * q.w * (q.channels_last ? q.c : 1) / 2, [&](int64_t task) {
    const int64_t i = task / rows, row = task % rows;
    if (q.channels_last) {
      float* to = dx + (i * q.h + rh + row * q.stride_h) * q.w * q.c;
      for (int64_t x = 0; x < q.w; ++x) {
        const int64_t count = (q.w - x % s - 1) / s + 1;
        std::memcpy(to + x * q.c, phases[x % s] + ((i * rows + row) * count + x / s) * q.c,
                    static_cast<size_t>(q.c) * sizeof(float));
      }
      return;
    }
    float* to = dx + (i * q.h + rh + row * q.stride_h) * q.w;
    if (s == 2 && q.w > 1) {
      const float *even = phases[0] + (i * rows + row) * ((q.w + 1) / 2),
                  *odd = phases[1] + (i * rows + row) * (q.w / 2);
      return interleave_row(even, odd, to, q.w);
    }
    for (int64_t x = 0; x < q.w; ++x) to[x] = phases[x % s][(i * rows + row) * ((q.w - x % s - 1) / s + 1) + x / s];
  });
}

// The phases of one axis, moved along it so that they read the same elements of dy with their first taps: pixel o of
// phase r is output o + phases[r].first - first.
struct PhaseAxis {
  Phase phases[kMostStride];
  int64_t count, first, size;
};

// False where phases have other taps than the first.
bool phases_alike(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, PhaseAxis& axis) {
  axis.count = stride;
  int64_t end = 0;
  for (int64_t r = 0; r < stride; ++r) {
    const Phase& phase = axis.phases[r] = phase_of(r, size, kernel, stride, pad, dilation);
    if (phase.taps == 0 || phase.size == 0 || phase.taps != axis.phases[0].taps || phase.step != axis.phases[0].step)
      return false;
    axis.first = r == 0 ? phase.first : least(axis.first, phase.first);
    end = r == 0 ? phase.first + phase.size : most(end, phase.first + phase.size);
  }
  axis.size = end - axis.first;
  return true;
}
bool phases_alike(const Conv2dBackwardArgs& q, PhaseAxis& rows, PhaseAxis& columns) {
  return phases_alike(q.h, q.kh, q.stride_h, q.pad_h, q.dilation_h, rows) &&
         phases_alike(q.w, q.kw, q.stride_w, q.pad_w, q.dilation_w, columns);
}

// Row `row` of dx, channels-last or of one plane, from the outputs of the phases.
void place_row(const Conv2dBackwardArgs& q, const PhaseAxis& rows, const PhaseAxis& columns, const float* outputs,
               int64_t row, float* to) {
  const int64_t rh = row % q.stride_h, s = q.stride_w, plane = rows.size * columns.size;
  const int64_t at = (row / q.stride_h + rows.phases[rh].first - rows.first) * columns.size - columns.first;
  if (q.channels_last) {
    constexpr int64_t lanes = Vec<float>::lanes;
    const int64_t all = q.stride_h * s * q.c;
    const float* from[kMostStride];
    for (int64_t rw = 0; rw < s; ++rw) from[rw] = outputs + (at + columns.phases[rw].first) * all + (rh * s + rw) * q.c;
    for (int64_t x = 0, rw = 0; x < q.w; ++x, to += q.c) {
      int64_t j = 0;
      for (; j + lanes <= q.c; j += lanes) store(to + j, load(from[rw] + j));
      for (; j < q.c; ++j) to[j] = from[rw][j];
      from[rw] += all;
      if (++rw == s) rw = 0;
    }
    return;
  }
  const auto phase = [&](int64_t rw) { return outputs + (rh * s + rw) * q.c * plane + at + columns.phases[rw].first; };
  if (s == 2) return interleave_row(phase(0), phase(1), to, q.w);
  for (int64_t rw = 0; rw < s; ++rw) {
    const float* from = phase(rw);
    for (int64_t x = rw; x < q.w; x += s) to[x] = *from++;
  }
}

void all_phases(const Conv2dBackwardArgs& q, const PhaseAxis& rows, const PhaseAxis& columns, const void* bias,
                Then then, float* flipped) {
  const Phase &ph = rows.phases[0], &pw = columns.phases[0];
  const int64_t phases = rows.count * columns.count, all = phases * q.c, outputs = all * rows.size * columns.size;
  Conv2dArgs r = phase_convolution(q, ph, pw, flipped, nullptr, then);
  r.o = all, r.oh = rows.size, r.ow = columns.size, r.pad_h = -rows.first, r.pad_w = -columns.first;
  const int64_t blocks = blocks_of(q.c, kHalf), weights = q.c * q.o * ph.taps * pw.taps;
  runtime::parallel_for(phases * blocks, phases * weights / 2, [&](int64_t task) {
    const int64_t i = task / blocks;
    flip_weights(q, rows.phases[i / columns.count], columns.phases[i % columns.count], task % blocks,
                 flipped + i * weights);
  });
  const int64_t bytes = conv2d_amx_forward_pack(r, nullptr);
  const PoolBlock packed(bytes), biases(bias ? all * 4 : 0);
  if (bytes) {
    conv2d_amx_forward_pack(r, packed.data());
    r.packed = packed.data();
  }
  if (bias) {
    for (int64_t i = 0; i < phases; ++i)
      std::memcpy(biases.floats() + i * q.c, bias, static_cast<size_t>(q.c) * sizeof(float));
    r.bias = biases.data();
  }
  const int64_t pieces = q.channels_last ? q.h : q.c, size = q.h * q.w * q.c;  // a task is a row or a plane
  const auto run = [&](int64_t first, int64_t images) {
    const PoolBlock memory(images * outputs * 4);
    Conv2dArgs some = r;
    some.n = images, some.x = static_cast<const float*>(q.dy) + first * q.o * q.oh * q.ow, some.y = memory.data();
    conv2d_amx_forward(some);
    runtime::parallel_for(images * pieces, images * size / 4, [&](int64_t task) {
      const int64_t piece = task % pieces;
      const float* from = memory.floats() + task / pieces * outputs;
      float* to = static_cast<float*>(q.dx) + first * size + task * (size / pieces);
      if (q.channels_last) return place_row(q, rows, columns, from, piece, to);
      from += piece * rows.size * columns.size;
      for (int64_t row = 0; row < q.h; ++row) place_row(q, rows, columns, from, row, to + row * q.w);
    });
  };
  // An image stays with its thread, and in its L2, where there are enough of them: no bit depends on it.
  if (q.n % runtime::num_threads() == 0 || q.n >= 4 * runtime::num_threads())
    return runtime::parallel_for(q.n, q.n * outputs * q.o * ph.taps * pw.taps / 300,
                                 [&](int64_t image) { run(image, 1); });
  const int64_t images = most(1, least(q.n, kPhaseElements / outputs));
  for (int64_t first = 0; first < q.n; first += images) run(first, least(images, q.n - first));
}

// The weights of a phase's convolution r: those of q as they lie, if tiles pack these, else (taps are 0) turned to
// `copy`.
Turned turn(const Conv2dBackwardArgs& q, const Phase& ph, const Phase& pw, Conv2dArgs& r, float* copy) {
  const Turned turned = {q.kh * q.kw, ph.first_tap * q.kw + pw.first_tap, ph.tap_step * q.kw, pw.tap_step};
  const bool direct = turned.taps <= kMostTurnedTaps && conv2d_amx_turns(r);
  r.weight = direct ? q.weight : copy;
  if (direct) return turned;
  flip_weights(q, ph, pw, copy);
  return {};
}

// A phase of one row of phases.
struct PhaseColumn {
  Conv2dArgs args;
  Turned turned;
  int64_t packed_bytes;
};

// ---- dweight ----

constexpr int64_t kLeastPixels = 32;    // fewer fill no step
constexpr int64_t kPlanes = 800 << 10;  // bytes of planes at a time, of the 2 MB of L2
constexpr int64_t kMostSteps = 32;      // of a chunk: 1024 pixels
constexpr int64_t kTasks = 16;          // to be had where the shape allows
constexpr int64_t kSum = 256;           // floats of the sums of a half
constexpr int64_t kMostUnits = 2;       // to pack after four products: more delays the next ones (1x1: 1.5 -> 1.7 ms)
constexpr int64_t kAwake = 4;           // as in amx.cpp: a tile store that follows 2000 idle cycles costs 650-870

// How dweight is cut, from the shape alone.
struct Cut {
  Axis rows, columns;
  bool windows;                        // taps are rows of taps, channels of x the elements of one
  int64_t taps, phases, reach, steps;  // steps: of 32 flat pixels, all of them
  int64_t all_outs, all_ins;           // sixteens of channels of dy and of x
  int64_t outs, ins;                   // of them, in a group of both; the last have what is left
  int64_t out_groups, in_groups, parts, steps_a_chunk;

  // Blocks of 16 pairs of x that the steps of a chunk read.
  int64_t pairs_of(int64_t a_steps) const { return a_steps + blocks_of(reach, kHalf); }
  int64_t part() const { return pairs_of(steps_a_chunk) * kTile; }
  int64_t size_a() const { return outs * steps_a_chunk * kStepA; }
  int64_t size_b() const { return ins * phases * 3 * part(); }
  int64_t planes() const { return size_a() + size_b(); }
  // Of 16 channels of the group, in the planes of a chunk.
  uint16_t* plane(uint16_t* memory, int64_t in, int64_t phase) const {
    return memory + size_a() + (in * phases + phase) * 3 * part();
  }
  int64_t groups() const { return out_groups * in_groups; }
  int64_t group_of(int64_t out, int64_t in) const { return out / outs * in_groups + in / ins; }
  int64_t outs_of(int64_t group) const { return least(outs, all_outs - group / in_groups * outs); }
  int64_t ins_of(int64_t group) const { return least(ins, all_ins - group % in_groups * ins); }
  int64_t halves() const { return ins * taps; }
  int64_t blocks() const { return outs / 2 * blocks_of(halves(), 2) + outs % 2 * blocks_of(halves(), 4); }
  int64_t sums() const { return blocks() * 4 * kSum; }
  // Where the sums of 16 channels of dy and a half are, among those of a part of a group of `some` outs.
  int64_t sum_at(int64_t some, int64_t out, int64_t half) const {
    if (out < some / 2 * 2)
      return (((out / 2 * blocks_of(halves(), 2) + half / 2) * 2 + out % 2) * 2 + half % 2) * kSum;
    return some / 2 * blocks_of(halves(), 2) * 4 * kSum + half * kSum;
  }
};

// Flat pixels from a pixel to a tap, in the tap's phase.
int64_t shift_of(const Conv2dBackwardArgs& q, const Cut& p, int64_t tap) {
  const int64_t kw = p.windows ? 1 : q.kw;
  return tap / kw * q.dilation_h / q.stride_h * p.columns.pitch + tap % kw * q.dilation_w / q.stride_w;
}
int64_t phase_of_tap(const Conv2dBackwardArgs& q, const Cut& p, int64_t tap) {
  const int64_t kw = p.windows ? 1 : q.kw;
  return tap / kw % p.rows.period * p.columns.phases + tap % kw % p.columns.period;
}

Cut cut_of(const Conv2dBackwardArgs& q) {
  Cut p = {};
  p.rows = axis_of(q.h, q.pad_h, q.stride_h, q.dilation_h, q.kh, q.oh);
  p.windows = weight_by_windows(q);
  p.columns = p.windows ? axis_of(q.ow, 0, 1, 1, 1, q.ow) : axis_of(q.w, q.pad_w, q.stride_w, q.dilation_w, q.kw, q.ow);
  p.taps = p.windows ? q.kh : q.kh * q.kw, p.phases = p.rows.phases * p.columns.phases;
  p.reach = p.rows.reach * p.columns.pitch + p.columns.reach;
  p.steps = blocks_of(((q.n - 1) * p.rows.pitch + q.oh - 1) * p.columns.pitch + q.ow, kBlock);
  p.all_outs = p.outs = blocks_of(q.o, kHalf), p.all_ins = p.ins = blocks_of(p.windows ? q.kw * q.c : q.c, kHalf);
  // Chunks first, each part of them costs a pass over dweight; then groups of channels, as long as their products last
  // three times as long as the packing of their pixels.
  p.parts = most(1, least(kTasks, p.steps / kMostSteps));
  p.out_groups = p.in_groups = 1;
  for (int64_t outs = p.outs, ins = p.ins; p.groups() * p.parts < kTasks;) {
    const bool split_ins = outs <= 2 || (ins > 1 && ins * p.phases >= outs);
    split_ins ? ins = (ins + 1) / 2 : outs = (outs + 3) / 4 * 2;
    if (outs * ins * p.taps < 8 * (outs + ins * p.phases) || (outs == p.outs && ins == p.ins)) break;
    p.outs = outs, p.out_groups = blocks_of(p.all_outs, outs), p.ins = ins, p.in_groups = blocks_of(p.all_ins, ins);
  }
  p.parts = most(1, least(p.parts, blocks_of(kTasks, p.groups())));
  const int64_t step = p.outs * kStepA + p.ins * p.phases * kStepA;
  const int64_t a_part = blocks_of(p.steps, p.parts);
  const int64_t most_steps = least(least(kMostSteps, most(4, kPlanes / 2 / step)), a_part);
  p.steps_a_chunk = blocks_of(a_part, blocks_of(a_part, most_steps));
  return p;
}

template <int n>
struct Part {
  static constexpr int value = n;
};

// Four halves: a0 and a1 with b0 and b1, or a0 with b0 .. b3; or b0 alone.
struct Operands {
  const uint16_t *a0, *a1, *b0, *b1, *b2, *b3;
  int64_t part;  // of b
};

// After each quartet of products `between` does something else.
template <class Between>
FASTNN_INLINE void multiply_two_by_two(Tiles& t, const Operands& o, const Between& between) {
  const auto products = [&]() FASTNN_INLINED {
    t.dot<0, 4, 6>(), t.dot<1, 4, 7>(), t.dot<2, 5, 6>(), t.dot<3, 5, 7>();
    between();
  };
  t.load<4, 2048>(o.a0, 64), t.load<5, 2048>(o.a1, 64), t.load<6>(o.b0, 64), t.load<7>(o.b1, 64);
  products();  // a3 b1
  t.load<4, 1024>(o.a0, 64), t.load<5, 1024>(o.a1, 64);
  products();  // a2 b1
  t.load<6>(o.b0 + o.part, 64), t.load<7>(o.b1 + o.part, 64);
  products();  // a2 b2
  t.load<4>(o.a0, 64), t.load<5>(o.a1, 64);
  products();  // a1 b2
  t.load<6>(o.b0 + 2 * o.part, 64), t.load<7>(o.b1 + 2 * o.part, 64);
  products();  // a1 b3
  t.load<6>(o.b0, 64), t.load<7>(o.b1, 64);
  products();  // a1 b1
}

// Three tiles take turns as b, so that a load need not wait for the product before.
template <class Between>
FASTNN_INLINE void multiply_one_by_four(Tiles& t, const Operands& o, const Between& between) {
  const auto products = [&](int64_t at) FASTNN_INLINED {
    t.load<5>(o.b0 + at, 64), t.dot<0, 4, 5>();
    t.load<6>(o.b1 + at, 64), t.dot<1, 4, 6>();
    t.load<7>(o.b2 + at, 64), t.dot<2, 4, 7>();
    t.load<5>(o.b3 + at, 64), t.dot<3, 4, 5>();
    between();
  };
  t.load<4, 2048>(o.a0, 64);
  products(0);
  t.load<4, 1024>(o.a0, 64);
  products(0), products(o.part);
  t.load<4>(o.a0, 64);
  products(o.part), products(2 * o.part), products(0);
}

// A half that is left over, two steps at a time: four sums, to be added up in the end, as a product must not wait for
// the one before.
template <class Between>
FASTNN_INLINE void multiply_one_by_one(Tiles& t, Operands o, int64_t steps, void* unread, const Between& between) {
  const auto step = [&](auto second) FASTNN_INLINED {
    constexpr bool two = decltype(second)::value;
    const auto load_a = [&](auto part) FASTNN_INLINED {
      t.load<4, part.value * 1024>(o.a0, 64);
      if (two) t.load<6, 3072 + part.value * 1024>(o.a0, 64);
    };
    const auto load_b = [&](int64_t at) FASTNN_INLINED {
      t.load<5>(o.b0 + at, 64);
      if (two) t.load<7, 1024>(o.b0 + at, 64);
    };
    const auto even = [&]() FASTNN_INLINED {
      t.dot<0, 4, 5>();
      if (two) t.dot<1, 6, 7>();
    };
    const auto odd = [&]() FASTNN_INLINED {
      t.dot<2, 4, 5>();
      if (two) t.dot<3, 6, 7>();
      between();
    };
    load_a(Part<2>{}), load_b(0), even();          // a3 b1
    load_a(Part<1>{}), odd();                      // a2 b1
    load_b(o.part), even();                        // a2 b2
    load_a(Part<0>{}), odd();                      // a1 b2
    load_b(2 * o.part), even(), load_b(0), odd();  // a1 b3, a1 b1
  };
  for (int64_t i = 0; i + 2 <= steps; i += 2, o.a0 += 2 * kStepA, o.b0 += 2 * kTile) {
    step(Part<true>{});
    if (i % (2 * kAwake) == kAwake) t.store<4>(unread, 64);
  }
  if (steps % 2 != 0) step(Part<false>{});
}

// On a copy of the operands, which stays in registers.
template <int halves, class Between>
FASTNN_INLINE void multiply_steps(Tiles& t, Operands o, int64_t steps, void* unread, const Between& between) {
  if (halves == 1) return multiply_one_by_one(t, o, steps, unread, between);
  for (int64_t step = 0; step < steps; ++step) {
    halves == 2 ? multiply_two_by_two(t, o, between) : multiply_one_by_four(t, o, between);
    o.a0 += kStepA, o.a1 += kStepA, o.b0 += kTile, o.b1 += kTile, o.b2 += kTile, o.b3 += kTile;
    if (step % kAwake == kAwake - 1) t.store<4>(unread, 64);
  }
}

template <int halves>
__attribute__((noinline)) void multiply_plain(Tiles& t, const Operands& o, int64_t steps, void* unread) {
  multiply_steps<halves>(t, o, steps, unread, [] {});
}

// The planes of one chunk: first all of a, then b phase by phase.
template <class Packer>
class ChunkPacker {
 public:
  ChunkPacker(const Conv2dBackwardArgs& q, const Cut& p, int64_t group, const float* nowhere)
      : q_(q),
        p_(p),
        first_out_(group / p.in_groups * p.outs),
        first_in_(group % p.in_groups * p.ins),
        outs_(p.outs_of(group)),
        ins_(p.ins_of(group)),
        turns_(1 + p.phases),
        turn_(turns_),
        packer_(nowhere) {
    dy_ = {static_cast<const float*>(q.dy), q.n, q.o, q.oh, q.ow, 0, q.o, 0, 1, 0, 1, q.oh, {0, q.ow}};
    const int64_t window = p.windows ? q.kw * q.c : 0;
    x_ = {static_cast<const float*>(q.x),
          q.n,
          window ? p.all_ins * kHalf : q.c,
          q.h,
          q.w,
          window,
          q.c,
          0,
          q.stride_h,
          0,
          q.stride_w,
          p.rows.pitch,
          {}};
  }

  void start(int64_t pixel, int64_t steps, uint16_t* memory) {
    pixel_ = pixel, steps_ = steps, memory_ = memory, turn_ = 0;
    next_turn();
  }
  FASTNN_MEMBER_INLINE bool busy() const { return packer_.busy() || turn_ < turns_; }
  FASTNN_MEMBER_INLINE void run(int64_t units) {
    if (!packer_.busy()) next_turn();
    packer_.run(units);
  }
  void drain() {
    while (busy()) run(kHalf);
  }
  // Turns of run(1) that a chunk of this many steps takes.
  int64_t units(int64_t steps) const {
    return (outs_ * steps + ins_ * p_.phases * p_.pairs_of(steps)) * Packer::kUnits;
  }

 private:
  Cursor cursor(const Source& source, int64_t pixel) const {
    return Cursor(source, p_.columns.pitch, p_.rows.pitch, pixel);
  }

  __attribute__((noinline)) void next_turn() {
    const int64_t phase = turn_++ - 1, column = phase % p_.columns.phases, second = pixel_ + steps_ * kHalf;
    if (phase < 0)
      return packer_.start({cursor(dy_, pixel_), cursor(dy_, second), true, first_out_ * kHalf, outs_, memory_,
                            p_.steps_a_chunk * kStepA, kTile, steps_});
    x_.first_y = p_.rows.residue(phase / p_.columns.phases) - q_.pad_h;
    x_.first_x = p_.columns.residue(column) - q_.pad_w, x_.columns = p_.columns.span(column);
    packer_.start({cursor(x_, pixel_), cursor(x_, second), false, first_in_ * kHalf, ins_, p_.plane(memory_, 0, phase),
                   p_.phases * 3 * p_.part(), p_.part(), p_.pairs_of(steps_)});
  }

  const Conv2dBackwardArgs& q_;
  const Cut& p_;
  int64_t first_out_, first_in_, outs_, ins_, turns_, turn_;
  int64_t pixel_ = 0, steps_ = 0;
  uint16_t* memory_ = nullptr;
  Source dy_, x_;
  Packer packer_;
};

// One part of the pixels for one group of channels. memory: 1 KB, the planes of two chunks, one that is read and
// one that is packed meanwhile, and zeros.
template <class Packer>
class WeightTask {
 public:
  WeightTask(const Conv2dBackwardArgs& q, const Cut& p, int64_t group, int64_t part, uint16_t* memory, float* sums)
      : q_(q),
        p_(p),
        outs_(p.outs_of(group)),
        ins_(p.ins_of(group)),
        first_step_(p.steps * part / p.parts),
        end_step_(p.steps * (part + 1) / p.parts),
        unread_(memory),
        now_(memory + kTile),
        next_(now_ + p.planes()),
        sums_(sums),
        packer_(q, p, group, reinterpret_cast<const float*>(next_ + p.planes())) {
    std::memset(next_ + p.planes(), 0, static_cast<size_t>(zeros_size(p)) * sizeof(uint16_t));
  }

  static int64_t memory(const Cut& p) { return (kTile + 2 * p.planes() + zeros_size(p)) * 2; }

  void run() {
    // The first chunk is packed with no products to hide behind: as short as can hide the second.
    const int64_t slots = 6 * p_.blocks();
    int64_t steps = blocks_of(packer_.units(p_.steps_a_chunk), slots);
    if (steps >= p_.steps_a_chunk || steps >= end_step_ - first_step_) steps = p_.steps_a_chunk;
    steps = least(steps, end_step_ - first_step_);
    packer_.start(first_step_ * kBlock, steps, now_);
    packer_.drain();
    for (int64_t step = first_step_; step < end_step_;) {
      const int64_t after = step + steps, next = least(p_.steps_a_chunk, end_step_ - after);
      if (next > 0) {
        packer_.start(after * kBlock, next, next_);
        units_ = blocks_of(packer_.units(next), steps * slots);
        if (units_ > kMostUnits) packer_.drain();
      }
      multiply(steps, step == first_step_);
      packer_.drain();
      uint16_t* packed = next_;
      next_ = now_, now_ = packed, step = after, steps = next;
    }
    finish();
  }

 private:
  static int64_t zeros_size(const Cut& p) { return most(p.all_outs, p.all_ins) * kHalf * 2; }

  // The planes of a half, from the chunk's first pixel. Halves beyond the last repeat it; nobody reads their sums.
  const uint16_t* half(int64_t i) {
    i = least(i, ins_ * p_.taps - 1);
    const int64_t tap = i % p_.taps, shift = shift_of(q_, p_, tap);
    return p_.plane(now_, i / p_.taps, phase_of_tap(q_, p_, tap)) + shift * kLine;
  }

  void multiply(int64_t steps, bool first) {
    const int64_t halves = ins_ * p_.taps, size = p_.steps_a_chunk * kStepA;
    for (int64_t i = 0; i < halves; i += 2) {
      const uint16_t *b0 = half(i), *b1 = half(i + 1), *a = now_;
      for (int64_t out = 0; out + 2 <= outs_; out += 2, a += 2 * size)
        block<2>({a, a + size, b0, b1, b0, b1, p_.part()}, steps, sums_ + p_.sum_at(outs_, out, i), first);
    }
    if (outs_ % 2 == 0) return;
    const uint16_t* a = now_ + (outs_ - 1) * size;
    for (int64_t i = 0; i < halves; i += 4) {
      const Operands operands = {a, a, half(i), half(i + 1), half(i + 2), half(i + 3), p_.part()};
      float* sums = sums_ + p_.sum_at(outs_, outs_ - 1, i);
      halves - i == 1 ? block<1>(operands, steps, sums, first) : block<4>(operands, steps, sums, first);
    }
  }

  // The four sums of a half that is left over, as one.
  void finish() {
    const int64_t halves = ins_ * p_.taps;
    if (outs_ % 2 == 0 || halves % 4 != 1) return;
    float* sums = sums_ + p_.sum_at(outs_, outs_ - 1, halves - 1);
    for (int64_t i = 0; i < kSum; i += Vec<float>::lanes)
      store(sums + i,
            (load(sums + i) + load(sums + kSum + i)) + (load(sums + 2 * kSum + i) + load(sums + 3 * kSum + i)));
  }

  // sums: four tiles, added to unless this is their first chunk.
  // halves: at a time and sixteen of dy; where it is two, of two sixteens.
  template <int halves>
  void block(const Operands& operands, int64_t steps, float* sums, bool first) {
    Tiles& t = tiles_;
    if (first)
      t.zero<0>(), t.zero<1>(), t.zero<2>(), t.zero<3>();
    else
      t.load<0>(sums, 64), t.load<1, 1024>(sums, 64), t.load<2, 2048>(sums, 64), t.load<3, 3072>(sums, 64);
    if (packer_.busy()) {
      ChunkPacker<Packer>& packer = packer_;
      const int64_t units = units_;
      multiply_steps<halves>(t, operands, steps, unread_, [&] {
        if (packer.busy()) packer.run(units);
      });
    } else {
      multiply_plain<halves>(t, operands, steps, unread_);
    }
    t.store<0>(sums, 64), t.store<1>(sums + kSum, 64), t.store<2>(sums + 2 * kSum, 64), t.store<3>(sums + 3 * kSum, 64);
  }

  const Conv2dBackwardArgs& q_;
  const Cut& p_;
  int64_t outs_, ins_, first_step_, end_step_;
  uint16_t *unread_, *now_, *next_;
  float* sums_;
  int64_t units_ = 1;  // to pack between two quartets of products
  Tiles tiles_;
  ChunkPacker<Packer> packer_;
};

// The parts of `size` floats, added in order to the first; whether all is finite.
bool add_parts(float* sums, int64_t parts, int64_t stride, int64_t size) {
  constexpr int lanes = Vec<float>::lanes;
  Vec<float> bad = zero<float>();  // 0 times what is not finite is NaN, and stays
  for (int64_t i = 0; i < size; i += lanes) {
    Vec<float> sum = load(sums + i);
    for (int64_t part = 1; part < parts; ++part) sum += load(sums + part * stride + i);
    bad = fma(sum, zero<float>(), bad);
    store(sums + i, sum);
  }
  return !any(is_nan(bad));
}

// 16 channels of dy by 16 elements of windows of dweight.
void write_windows(const Conv2dBackwardArgs& q, const Cut& p, const float* sums, int64_t out, int64_t in) {
  const int64_t group = p.group_of(out, in), some = p.outs_of(group);
  sums += group * p.parts * p.sums();
  for (int64_t tap = 0; tap < p.taps; ++tap) {
    const float* from = sums + p.sum_at(some, out % p.outs, in % p.ins * p.taps + tap);
    for (int64_t o = 0; o < least(kHalf, q.o - out * kHalf); ++o)
      for (int64_t i = 0; i < least(kHalf, q.kw * q.c - in * kHalf); ++i) {
        const int64_t element = in * kHalf + i, channel = element % q.c, column = element / q.c;
        float* to = static_cast<float*>(q.dweight) + (((out * kHalf + o) * q.c + channel) * q.kh + tap) * q.kw + column;
        *to = q.accumulate ? *to + from[o * kHalf + i] : from[o * kHalf + i];
      }
  }
}

// 16 channels of dy by 16 of x of dweight, from sums (channel of dy, channel of x) tap by tap.
void write_weights(const Conv2dBackwardArgs& q, const Cut& p, const float* sums, int64_t out, int64_t in) {
  constexpr int lanes = Vec<float>::lanes;
  const int64_t some = p.outs_of(p.group_of(out, in));
  const int64_t outs = least(kHalf, q.o - out * kHalf), ins = least(kHalf, q.c - in * kHalf);
  const auto write = [&](float* to, Vec<float> v, int64_t count) FASTNN_INLINED {
    const int n = static_cast<int>(least(count, lanes));
    store_partial(to, q.accumulate ? load_partial(to, n) + v : v, n);
  };
  if (p.windows) return write_windows(q, p, sums, out, in);
  const float* from[kHalf];
  sums += p.group_of(out, in) * p.parts * p.sums();
  for (int64_t tap = 0; tap < p.taps; tap += kHalf) {
    const int64_t taps = least(kHalf, p.taps - tap);
    for (int64_t i = 0; i < kHalf; ++i)
      from[i] = sums + p.sum_at(some, out % p.outs, in % p.ins * p.taps + tap + least(i, taps - 1));
    for (int64_t o = 0; o < outs; ++o) {
      float* to = static_cast<float*>(q.dweight) + ((out * kHalf + o) * q.c + in * kHalf) * p.taps + tap;
      if (p.taps == 1) {
        for (int64_t i = 0; i < ins; i += lanes) write(to + i, load(from[0] + o * kHalf + i), ins - i);
        continue;
      }
      for (int64_t i = 0; i < ins; i += 4)
        for (int64_t j = 0; j < taps; j += lanes) {
          Vec<float> turned[4];
          turn_four(from + j, o * kHalf + i, turned);
#pragma GCC unroll 4
          for (int64_t k = 0; k < 4; ++k)
            if (i + k < ins) write(to + (i + k) * p.taps + j, turned[k], taps - j);
        }
    }
  }
}

// False where a sum is not finite; then dweight is as it was.
template <class Packer>
bool backward_weight(const Conv2dBackwardArgs& q) {
  const runtime::FlushDenormals flush;
  const Cut p = cut_of(q);
  const int64_t size = p.sums(), tasks = p.groups() * p.parts;
  float* sums =
      static_cast<float*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(tasks * size) * sizeof(float)));
  runtime::parallel_for(tasks, p.steps * p.groups() * p.blocks() * 250, [&](int64_t task) {
    const size_t bytes = static_cast<size_t>(WeightTask<Packer>::memory(p));
    uint16_t* memory = static_cast<uint16_t*>(runtime::scratch(runtime::Slot::kTask, bytes));
    WeightTask<Packer>(q, p, task / p.parts, task % p.parts, memory, sums + task * size).run();
  });
  uint8_t bad = 0;
  const int64_t pieces = blocks_of(size, kSum * 64);
  runtime::parallel_for(p.groups() * pieces, tasks * size / 8, [&](int64_t task) {
    const int64_t first = task % pieces * kSum * 64;
    if (!add_parts(sums + task / pieces * p.parts * size + first, p.parts, size, least(kSum * 64, size - first)))
      __atomic_store_n(&bad, uint8_t{1}, __ATOMIC_RELAXED);
  });
  if (bad) return false;
  runtime::parallel_for(p.all_outs * p.all_ins, q.o * q.c * p.taps / 2,
                        [&](int64_t task) { write_weights(q, p, sums, task / p.all_ins, task % p.all_ins); });
  return true;
}

bool tiles_take_weight(const Conv2dBackwardArgs& q) {
  return q.dtype == kFloat32 && q.groups == 1 && q.n * q.oh * q.ow >= kLeastPixels;
}

}  // namespace

bool tiles_take_data(const Conv2dBackwardArgs& q, bool ends) {
  const bool taps = least(q.stride_h, q.h) <= 1 + (q.kh - 1) * q.dilation_h &&
                    least(q.stride_w, q.w) <= 1 + (q.kw - 1) * q.dilation_w;
  return q.dtype == kFloat32 && q.groups == 1 && q.o >= kLeastOut && q.stride_h <= kMostStride &&
         q.stride_w <= kMostStride && (taps || !ends);
}

void backward_data_by_tiles(const Conv2dBackwardArgs& q, const void* bias, Then then) {
  const PoolBlock flipped(q.o * q.c * q.kh * q.kw * 4);
  if (q.stride_h * q.stride_w == 1) {
    const Phase ph = phase_of(0, q.h, q.kh, 1, q.pad_h, q.dilation_h);
    const Phase pw = phase_of(0, q.w, q.kw, 1, q.pad_w, q.dilation_w);
    Conv2dArgs r = phase_convolution(q, ph, pw, nullptr, bias, then);
    const Turned turned = turn(q, ph, pw, r, flipped.floats());
    return conv2d_amx_forward_turned(r, turned);
  }
  PhaseAxis rows, columns;
  if (phases_alike(q, rows, columns)) return all_phases(q, rows, columns, bias, then, flipped.floats());
  for (int64_t rh = 0; rh < least(q.stride_h, q.h); ++rh) {
    const Phase ph = phase_of(rh, q.h, q.kh, q.stride_h, q.pad_h, q.dilation_h);
    const int64_t images = most(1, least(q.n, kPhaseElements / (q.c * ph.size * q.w)));
    const int64_t phases = least(q.stride_w, q.w);
    PhaseColumn columns[kMostStride];
    float* places[kMostStride];
    int64_t packed_bytes = 0;
    float* weights = flipped.floats();
    for (int64_t rw = 0; rw < phases; ++rw) {
      const Phase pw = phase_of(rw, q.w, q.kw, q.stride_w, q.pad_w, q.dilation_w);
      PhaseColumn& column = columns[rw];
      column = {phase_convolution(q, ph, pw, nullptr, bias, then), {}, 0};
      Conv2dArgs& r = column.args;
      if (r.kh * r.kw == 0) continue;
      column.turned = turn(q, ph, pw, r, weights);
      column.packed_bytes = conv2d_amx_forward_pack(r, nullptr);
      weights += r.o * r.c * r.kh * r.kw;
      packed_bytes += columns[rw].packed_bytes;
    }
    const PoolBlock packed(packed_bytes), memory(images * q.c * ph.size * q.w * 4);
    char* at = static_cast<char*>(packed.data());
    float* y = memory.floats();
    for (int64_t rw = 0; rw < phases; ++rw) {
      PhaseColumn& column = columns[rw];
      if (column.packed_bytes) {
        conv2d_amx_forward_turned_pack(column.args, column.turned, at);
        column.args.packed = at;
        at += column.packed_bytes;
      }
      places[rw] = y;
      y += images * q.c * ph.size * column.args.ow;
    }
    for (int64_t first = 0; first < q.n; first += images) {
      const int64_t some = least(images, q.n - first);
      for (int64_t rw = 0; rw < phases; ++rw) {
        Conv2dArgs r = columns[rw].args;
        r.n = some, r.x = static_cast<const float*>(q.dy) + first * q.o * q.oh * q.ow, r.y = places[rw];
        if (r.kh * r.kw > 0)
          conv2d_amx_forward_turned(r, columns[rw].turned);
        else
          std::memset(r.y, 0, static_cast<size_t>(some * q.c * r.oh * r.ow) * sizeof(float));
      }
      place_phases(q, some, rh, ph.size, places, static_cast<float*>(q.dx) + first * q.c * q.h * q.w);
    }
  }
}

void conv2d_amx_backward(const Conv2dBackwardArgs& args) {
  Conv2dBackwardArgs rest = args;
  if (args.dx && tiles_take_data(args, false)) {
    backward_data_by_tiles(args, nullptr, {});
    rest.dx = nullptr;
  }
  if (args.dweight && tiles_take_weight(args) &&
      (args.channels_last ? backward_weight<PixelsPacker>(args) : backward_weight<PlanesPacker>(args)))
    rest.dweight = nullptr;
  if (rest.dx || rest.dweight || rest.dbias) conv2d_im2col_backward(rest);
}

}  // namespace fastnn::FASTNN_ISA

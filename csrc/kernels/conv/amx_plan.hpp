// How conv2d_amx lays out one call and cuts it into tasks: the geometry of the planes and a model of cycles. From the
// shape, and for the cut the number of threads, which changes no bit: every sum is made by one task, in one order.
//
// The images of a batch lie one below the other as one tall image in one long row of flat pixels: pixel f is column
// f % pitch of plane row f / pitch, rows of neighbouring images share their zeros as columns of neighbouring rows do,
// and a tap is one shift. Flat pixels that no output has (between rows, between images) are computed and not stored.
//
// Where a tap has too few channels for a step, or some for a part of one, steps are cut from whole rows of taps: a row
// of the kernel is kw * c elements that lie side by side in a row of x. 7x7 with 3 channels takes 7 steps instead of
// 49, 3x3 with 16 takes 6 instead of 9. An output pixel is stride_w * c elements wide, so that the rows of a tile
// overlap.
#pragma once
#include "kernels/kernels.hpp"
#include "runtime/team.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kBlock = 32;  // channels in of a step; pixels and channels out of a wide block of products
// Bytes of the 2 MB of L2 that stay there while a task runs: the weights of its panels where all panels take turns at a
// block of pixels, the planes of its pixels where all pixels take turns at a panel.
constexpr int64_t kWeightsBudget = 1 << 20, kPlanesBudget = 1600 << 10;
constexpr int64_t kLongestRow = 512;   // elements of a row of taps from which steps are cut
constexpr int64_t kWeightsBlock = 36;  // steps: weights that all pixels share before the next come, where not all fit

FASTNN_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
FASTNN_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
FASTNN_INLINE int64_t blocks_of(int64_t a, int64_t unit) { return (a + unit - 1) / unit; }

// The part [begin, end) of `count` padded columns (or rows) that lies in the input: column c is x * stride + residue.
struct Span {
  int64_t begin, end;
};
FASTNN_INLINE Span inside(int64_t size, int64_t pad, int64_t residue, int64_t stride, int64_t count) {
  const int64_t begin = least(count, blocks_of(most(pad - residue, 0), stride));
  return {begin, most(begin, least(count, blocks_of(most(size + pad - residue, 0), stride)))};
}

// One axis. Tap k reads phase k % period and lies k * dilation / stride whole strides after the first tap.
struct Axis {
  int64_t size, pad, stride, dilation;
  int64_t period, phases, reach;  // reach: of the last tap
  int64_t count, pitch;           // of a row with its padding; what the next one shares is taken off the pitch

  int64_t residue(int64_t phase) const { return phase * dilation % stride; }
  Span span(int64_t phase) const { return inside(size, pad, residue(phase), stride, count); }
};

FASTNN_INLINE Axis axis_of(int64_t size, int64_t pad, int64_t stride, int64_t dilation, int64_t taps, int64_t out) {
  int64_t a = stride, b = dilation;
  while (b != 0) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  Axis r = {size, pad, stride, dilation, stride / a, 0, (taps - 1) * dilation / stride, 0, 0};
  r.phases = least(taps, r.period);
  r.count = out + r.reach;
  int64_t shared = r.reach;
  for (int64_t i = 0; i < r.phases; ++i) {
    const Span s = r.span(i);
    shared = least(shared, least(s.begin, r.count - s.end));
  }
  r.pitch = r.count - shared;
  return r;
}

// The columns where steps are cut from rows of taps: one phase, whose pixels are `stride` columns.
FASTNN_INLINE Axis row_axis_of(int64_t size, int64_t pad, int64_t stride, int64_t taps, int64_t out) {
  Axis r = {size, pad, stride, 1, 1, 1, blocks_of(taps, stride) - 1, 0, 0};
  r.count = out + r.reach;
  r.pitch = r.count - most(0, least(least(r.reach, pad / stride), r.count - blocks_of(pad + size, stride)));
  return r;
}

struct Plan {
  int64_t parts;
  Axis rows, columns;
  int64_t pixels, outs;  // of one block of products, which has four tiles of sums: wide 32 x 32, or tall 64 x 16
  bool by_rows;          // steps are cut from rows of taps
  bool direct;           // tiles are loaded from x where it lies: single pixels of bfloat16 in whole channel blocks
  int64_t row_steps;     // of a row of taps, with all channels
  int64_t width;         // elements of a flat pixel in its plane
  int64_t taps, channel_blocks, panels, steps, phases;
  int64_t blocks;  // of flat pixels
  int64_t reach;   // flat pixels from a pixel to the last one that its steps read
  // The cut: task = group * ranges + range
  int64_t ranges, blocks_a_task, groups, panels_a_task;
  bool panels_outside;    // all pixels of the task take turns at a panel, not all panels at a block of pixels
  int64_t steps_a_block;  // of weights
  // The planes: flat pixel f of the task lies at f % ring; the first block lies behind the ring once more. In elements:
  int64_t ring;         // flat pixels
  int64_t plane, part;  // elements of a phase, and of all phases

  bool tall() const { return pixels > kBlock; }
  int64_t part_weights() const { return kBlock * outs; }
  int64_t step_weights() const { return parts * part_weights(); }
  int64_t weights_size() const { return panels * steps * step_weights(); }
  // direct: the pixels of a block that is not whole
  int64_t planes_size() const { return direct ? pixels * width : channel_blocks * parts * part; }
  int64_t tasks() const { return ranges * groups; }
};

FASTNN_INLINE int64_t products_of(const Plan& p) { return p.parts * (p.parts + 1) / 2; }  // 6, 3, 1 of a step

// Cycles of the slowest thread where a step is one product of tiles, which then waits for memory: four of them take
// about 90 cycles, the end of a block 450 beyond that, and a core gets 6 bytes a cycle from L3. A task reads its pixels
// anew for every group of panels; its weights stay in L2, or stream through it.
FASTNN_INLINE int64_t cut_of_one_part(Plan& p, int64_t weights, int64_t pixels, int64_t threads) {
  if (p.direct) p.ring = pixels, p.plane = 0, p.part = kBlock;
  const int64_t of_a_pixel = p.direct ? p.width : p.channel_blocks * p.phases * p.width;
  const int64_t unit = p.direct ? 0 : blocks_of(6 * of_a_pixel, kBlock);
  const int64_t start = least(pixels, p.pixels + p.reach) * unit;
  const int64_t task =
      p.blocks_a_task * p.panels_a_task * (p.steps * 90 + 450) + start + (pixels * unit - start) / 2 + 1500;
  const int64_t reads = p.panels_outside ? p.ranges : least(p.ranges, threads);
  const int64_t again = p.groups == 1 ? 1 : 2 * p.groups;  // pixels that another core wrote come at half the speed
  const int64_t bytes = again * p.ranges * pixels * of_a_pixel * 2 + p.groups * reads * weights;
  const int64_t in_l2 = pixels * of_a_pixel * 2;
  const int64_t misfit = p.panels_outside && in_l2 > kPlanesBudget ? p.panels_a_task * in_l2 / 8 : 0;
  return blocks_of(p.tasks(), threads) * (task + misfit) + bytes / threads / 6 + task / 16;
}

// Cycles of the slowest thread, and the rest of the plan that belongs to this cut.
FASTNN_INLINE int64_t cut(Plan& p, int64_t ranges, int64_t groups, int64_t threads) {
  p.blocks_a_task = blocks_of(p.blocks, ranges), p.ranges = blocks_of(p.blocks, p.blocks_a_task);
  p.panels_a_task = blocks_of(p.panels, groups), p.groups = blocks_of(p.panels, p.panels_a_task);
  const int64_t weights = p.panels_a_task * p.steps * p.step_weights() * 2;
  p.panels_outside = p.blocks_a_task > 1 && weights > (p.parts == 1 && p.blocks_a_task == 2 ? 1 << 15 : kWeightsBudget);
  p.steps_a_block = p.panels_outside && p.steps > 2 * kWeightsBlock ? kWeightsBlock : p.steps;
  const int64_t pixels = p.blocks_a_task * p.pixels + p.reach;
  // A window of two blocks, one that is read and one that is packed meanwhile. Rows of taps are few elements.
  p.ring = p.panels_outside || p.by_rows ? pixels : least(pixels, p.reach + 3 * p.pixels);
  p.plane = blocks_of((p.ring + p.pixels) * p.width, kBlock) * kBlock;
  p.part = (p.phases * p.plane / kBlock | 1) * kBlock;  // an odd number of lines: parts lie in different sets of L1
  // 16 cycles a product of tiles. To pack 32 channels of a pixel takes about 30 cycles; most of it, and nearly all of
  // what ends a block, is hidden between products, unless there are too few of them.
  if (p.parts == 1) return cut_of_one_part(p, weights, pixels, threads);
  const int64_t compute = p.blocks_a_task * p.panels_a_task * p.steps * products_of(p) * 64;
  const int64_t unit = blocks_of(10 * p.parts * p.channel_blocks * p.phases * p.width, kBlock);
  const int64_t start = least(pixels, p.pixels + p.reach) * unit;
  const int64_t shadow = (pixels * unit - start) + p.blocks_a_task * p.panels_a_task * 400;
  const int64_t work = compute + start + shadow / 2 + most(0, shadow - compute) / 2 + 1500;
  // Bytes a cycle from L3. Not all of the wait is hidden: 512 -> 512 @7 b8 took 4.4 ms in 8 ranges, in 2 or 4 of 2
  // groups each, which stream a quarter or half as much, 3.4.
  const int64_t stream = weights / 8;
  const int64_t task = most(work, stream) + least(work, stream) / 4;
  const int64_t misfit =
      p.ring == pixels && p.planes_size() * 2 > kPlanesBudget ? p.panels_a_task * p.planes_size() / 8 : 0;
  return blocks_of(p.tasks(), threads) * (task + misfit) +
         task / 16;  // a thread that is disturbed delays by a part of a task
}

FASTNN_INLINE int64_t next_count(int64_t n) {  // 1 2 3 4 6 8 12 16 24 ..
  return n == 1 ? 2 : (n & (n - 1)) == 0 ? n / 2 * 3 : n / 3 * 4;
}

// All but the cut.
[[maybe_unused]] Plan steps_of(const Conv2dArgs& q, int64_t parts) {
  Plan p = {};
  p.parts = parts;
  p.rows = axis_of(q.h, q.pad_h, q.stride_h, q.dilation_h, q.kh, q.oh);
  p.columns = axis_of(q.w, q.pad_w, q.stride_w, q.dilation_w, q.kw, q.ow);
  p.taps = q.kh * q.kw;
  p.channel_blocks = blocks_of(q.c, kBlock);
  p.steps = p.channel_blocks * p.taps;
  p.width = kBlock;
  p.row_steps = blocks_of(q.kw * q.c, kBlock);
  p.by_rows = q.dilation_w == 1 && q.kw > 1 && q.kw * q.c <= kLongestRow && q.kh * p.row_steps * 8 <= p.steps * 7;
  if (p.by_rows) {
    p.columns = row_axis_of(q.w, q.pad_w, q.stride_w, q.kw, q.ow);
    p.steps = q.kh * p.row_steps, p.channel_blocks = 1, p.width = q.stride_w * q.c;
  }
  // h: what is more than one row was not made one by as_one_row
  p.direct = q.x_bf16 && p.taps == 1 && q.h == 1 && q.stride_w == 1 && q.pad_h + q.pad_w == 0 && q.c % kBlock == 0;
  if (p.direct) p.width = q.c;
  p.phases = p.rows.phases * p.columns.phases;
  // By one image, as packed weights serve batches of any size.
  const int64_t image = (q.oh - 1) * p.columns.pitch + q.ow;
  const int64_t wide = blocks_of(image, 32) * blocks_of(q.o, 32), tall = blocks_of(image, 64) * blocks_of(q.o, 16);
  p.pixels = tall < wide ? 64 : 32, p.outs = 1024 / p.pixels;
  p.blocks = blocks_of((q.n - 1) * p.rows.pitch * p.columns.pitch + image, p.pixels);
  p.panels = blocks_of(q.o, p.outs);
  p.reach =
      p.rows.reach * p.columns.pitch + (p.by_rows ? blocks_of(p.row_steps * kBlock, p.width) - 1 : p.columns.reach);
  return p;
}

[[maybe_unused]] Plan plan_of(const Conv2dArgs& q, int64_t parts) {
  Plan p = steps_of(q, parts);
  const int64_t threads = runtime::num_threads();
  int64_t best = -1, best_ranges = 1, best_groups = 1;
  for (int64_t groups = 1; groups < 2 * p.panels; groups *= 2)
    for (int64_t ranges = 1; ranges <= most(p.blocks, 1); ranges = next_count(ranges)) {
      const int64_t cost = cut(p, ranges, groups, threads);
      if (best < 0 || cost < best) best = cost, best_ranges = ranges, best_groups = groups;
    }
  cut(p, best_ranges, best_groups, threads);
  return p;
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// conv2d by Winograd's algorithm: 3x3, stride 1, float32. Everything else is done by im2col.
//   2 x 2    2.25 times fewer products. Each output depends on its own nine pixels only, as it should; from 16 channels
//            on its error is below that of a chain of multiply-adds (0.5 to 0.9, rms and largest, also with twelve
//            decades of range; up to 1.9 where 19 of 20 inputs are zero and the chain is short)
//   4 x 4    4 times fewer, for parts < 3: 1.5e-6 of the output's scale at most, 1.1 to 2.7 of the chain's
//   task     a block of tiles (winograd.hpp; tiles count through all images) and a part of the output channels
//   v        transformed input, (point, tile, channel)
//   sums     for each point v times a panel of weights, (point, tile, output); both stay in L2
// An infinity or NaN spreads over its tile, and a sum may overflow half way: an image with anything that is not finite
// among its results is computed again by im2col. Weights are transformed in double, once where they are packed.
#include "kernels/conv/winograd.hpp"

#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/format.hpp"
#include "kernels/conv/images.hpp"
#include "kernels/conv/product.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kMemory = 1400 << 10;            // bytes of v and sums, of 2 MB of L2
constexpr int64_t kWeightsBudget = 3 << 20;        // bytes of weights that may stay there beside them
constexpr int64_t kPanel = kTileVectors * kLanes;  // outputs, at most

struct Plan {
  int m, points;                                // side of a tile, (m + 2)^2
  int64_t rows, columns, tiles, all;            // tiles of an image, down, across and both; of all images
  int64_t panels;                               // of outputs
  int64_t blocks, parts;                        // tasks: blocks of tiles x parts of the panels
  int64_t v_tile, v_point, sum_point, outputs;  // strides; outputs in whole vectors

  int64_t panel_begin(int64_t i) const { return part_begin(outputs, panels, i, kLanes); }
  int64_t weights_size(const Conv2dArgs& q) const { return points * q.c * outputs; }
  int64_t memory() const { return points * (v_point + sum_point + kLanes) + m * m * kPanel + kLanes; }
};

// An odd number of cache lines: what is read or written side by side lies in different sets.
int64_t odd_lines(int64_t elements) { return (ceil_div(elements, 16) | 1) * 16; }

// 4 x 4 takes fewer products unless too much of its tiles lies beyond the image. Its weights are 4 times the kernel's,
// those of 2 x 2 are 1.8 times: below 40 tiles they are read for too few. 128 channels @28: 49 tiles, 2.6 times as fast
// as im2col, where 2 x 2 is 1.9; 256 @14: 16 tiles, 1.2 and 1.8.
int tile_side(const Conv2dArgs& q) {
  const int64_t large = q.n * ceil_div(q.oh, 4) * ceil_div(q.ow, 4),
                small = q.n * ceil_div(q.oh, 2) * ceil_div(q.ow, 2);
  return q.parts < 3 && large >= 40 && 36 * large < 16 * small ? 4 : 2;
}

Plan plan_of(const Conv2dArgs& q) {
  Plan p;
  p.m = tile_side(q), p.points = (p.m + 2) * (p.m + 2);
  p.rows = ceil_div(q.oh, p.m), p.columns = ceil_div(q.ow, p.m);
  p.tiles = p.rows * p.columns, p.all = p.tiles * q.n;
  p.outputs = whole<float>(q.o), p.panels = ceil_div(p.outputs, kPanel);
  p.v_tile = whole<float>(q.c);
  const int64_t threads = runtime::num_threads();  // no cut changes a bit
  const int64_t bytes_a_tile = p.points * 4 * (p.v_tile + smaller(p.outputs, kPanel));
  p.blocks = ceil_div(p.all, larger(8, smaller(p.m == 4 ? 56 : 128, kMemory / bytes_a_tile)));
  p.parts = 1;
  if (p.blocks >= threads)
    p.blocks = smaller(p.all, p.blocks < 8 * threads ? ceil_div(p.blocks, threads) * threads : p.blocks);
  else if (p.weights_size(q) * 4 > kWeightsBudget || p.all < 16 * threads)
    p.parts = smaller(p.panels, ceil_div(threads, p.blocks));
  else
    p.blocks = threads;
  const int64_t most = ceil_div(p.all, p.blocks);
  p.v_point = odd_lines(most * p.v_tile), p.sum_point = odd_lines(most * smaller(p.outputs, kPanel));
  return p;
}

// ---- weights: (panel, point, channel, outputs of the panel) ----

template <int m>
void pack_weights(const Conv2dArgs& q, const Plan& p, float* dst) {
  const Columns columns = {q.c, q.h, q.w, 1, q.w * q.c, q.c, 3, 3, 0, 0, 1, 1, 1, 1, q.oh, q.ow};
  runtime::parallel_for(p.panels, q.c * p.outputs * p.points / 8, [&](int64_t panel) {
    const int64_t j = p.panel_begin(panel), ld = p.panel_begin(panel + 1) - j, n = smaller(ld, q.o - j);
    float* plain =
        static_cast<float*>(runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(9 * q.c * ld) * sizeof(float)));
    for (int64_t r = 0; r < 9 * q.c && n < ld; ++r) store(plain + r * ld + ld - kLanes, zero<float>());
    pack_weights_panel(plain, ld, columns,
                       Weights<float>{static_cast<const float*>(q.weight) + j * q.c * 9, q.c * 9, 9, 3, 1}, n);
    for (int64_t i = 0; i < q.c * ld; i += kLanes)
      transform_weights<m>(plain + i, q.c * ld, dst + p.points * q.c * j + i, q.c * ld);
  });
}

// ---- one task ----

template <int m>
class Task {
 public:
  Task(const Conv2dArgs& q, const Plan& p, const Epilogue<float>& epilogue, const float* weights, uint8_t* not_finite,
       float* memory)
      : q_(q),
        p_(p),
        epilogue_(epilogue),
        weights_(weights),
        not_finite_(not_finite),
        v_(memory),
        sums_(v_ + p.points * p.v_point),
        temporary_(sums_ + p.points * p.sum_point),
        finished_(temporary_ + p.points * kLanes),
        zeros_(finished_ + m * m * kPanel) {
    store(zeros_, zero<float>());
  }

  void run(int64_t block, int64_t part) {
    const int64_t first = part_begin(p_.all, p_.blocks, block);
    const int64_t tiles = part_begin(p_.all, p_.blocks, block + 1) - first;
    for (int64_t t = 0; t < tiles; ++t) read(first + t, v_ + t * p_.v_tile);
    const int64_t end = part_begin(p_.panels, p_.parts, part + 1);
    for (int64_t panel = part_begin(p_.panels, p_.parts, part); panel < end; ++panel) {
      const int64_t j = p_.panel_begin(panel), ld = p_.panel_begin(panel + 1) - j;
      multiply_points(j, ld, tiles);
      for (int64_t t = 0; t < tiles; ++t) write(first + t, sums_ + t * ld, j, smaller(ld, q_.o - j));
    }
  }

 private:
  struct Place {
    int64_t image, row, column;  // of the tile's first pixel
  };
  Place place(int64_t tile) const {
    const int64_t at = tile % p_.tiles;
    return {tile / p_.tiles, at / p_.columns * m, at % p_.columns * m};
  }

  void read(int64_t tile, float* v) {
    const auto [image, oy, ox] = place(tile);
    const int64_t y = oy - q_.pad_h, x = ox - q_.pad_w;
    const float* source = static_cast<const float*>(q_.x) + image * q_.h * q_.w * q_.c;
    Patch<m + 2> patch;
    for (int i = 0; i < m + 2; ++i) {
      const bool inside = y + i >= 0 && y + i < q_.h;
      patch.row[i] = inside ? source + ((y + i) * q_.w + x) * q_.c : zeros_;
      patch.step[i] = inside;
    }
    patch.column0 = static_cast<int>(smaller(m + 2, larger(0, -x)));
    patch.column1 = static_cast<int>(larger(0, smaller(m + 2, q_.w - x)));
    for (int64_t c = 0; c < q_.c; c += kLanes) {
      const int lanes = static_cast<int>(smaller(kLanes, q_.c - c));
      lanes == kLanes ? transform_input<m, false>(patch, c, q_.c, lanes, temporary_, v + c, p_.v_point)
                      : transform_input<m, true>(patch, c, q_.c, lanes, temporary_, v + c, p_.v_point);
    }
  }

  // Outputs [j, j + ld). Each point's weights are fetched while those before are multiplied.
  void multiply_points(int64_t j, int64_t ld, int64_t tiles) {
    const int64_t size = q_.c * ld, lines = ceil_div(size, 16);
    const float* w = weights_ + p_.points * q_.c * j;
    for (int64_t point = 0; point < p_.points; ++point, w += size) {
      int64_t fetched = 0;
      multiply_tiles(PanelProduct<float>{v_ + point * p_.v_point, w, sums_ + point * p_.sum_point, tiles, ld, q_.c,
                                         p_.v_tile, ld, ld, false, false},
                     [&](int64_t row, int64_t count) {
                       const int64_t wanted = lines * (row + count) / tiles;
                       for (; fetched < wanted; ++fetched) prefetch_l2(w + size + fetched * 16);
                     });
    }
  }

  void write(int64_t tile, const float* sums, int64_t output, int64_t outputs) {
    const auto [image, oy, ox] = place(tile);
    const int64_t rows = smaller(m, q_.oh - oy), columns = smaller(m, q_.ow - ox);
    float* y = static_cast<float*>(q_.y) + ((image * q_.oh + oy) * q_.ow + ox) * q_.o + output;
    Lanes not_finite = zero<float>();
    for (int64_t i = 0; i < outputs; i += kLanes)
      not_finite += transform_output<m>(sums + i, p_.sum_point, temporary_, finished_ + i, kPanel);
    for (int64_t r = 0; r < rows; ++r)
      finish<float, false>(epilogue_, finished_ + r * m * kPanel, kPanel, y + r * q_.ow * q_.o, q_.o, output, columns,
                           outputs);
    if (any(is_nan(not_finite))) __atomic_store_n(not_finite_ + image, uint8_t{1}, __ATOMIC_RELAXED);
  }

  const Conv2dArgs& q_;
  const Plan& p_;
  const Epilogue<float>& epilogue_;
  const float* weights_;
  uint8_t* not_finite_;
  float *v_, *sums_, *temporary_, *finished_, *zeros_;
};

template <class F>
void with_tiles(const Plan& p, const F& f) {
  p.m == 4 ? f.template operator()<4>() : f.template operator()<2>();
}

// At most kImages images.
void convolve_images(const Conv2dArgs& q) {
  const Plan p = plan_of(q);
  uint8_t not_finite[kImages] = {};
  with_tiles(p, [&]<int m>() {
    const runtime::FlushDenormals flush;
    const int64_t unpacked = q.packed ? 0 : p.weights_size(q);
    float* memory = static_cast<float*>(
        runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(unpacked + epilogue_size(q)) * sizeof(float)));
    if (!q.packed) pack_weights<m>(q, p, memory);
    const float* weights = static_cast<const float*>(q.packed ? q.packed : memory);
    const Epilogue<float> epilogue = prepare_epilogue<float>(q, memory + unpacked);
    runtime::parallel_for(p.blocks * p.parts, p.all * p.points * q.c * q.o / 32, [&](int64_t task) {
      float* scratch =
          static_cast<float*>(runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(p.memory()) * sizeof(float)));
      Task<m>(q, p, epilogue, weights, not_finite, scratch).run(task / p.parts, task % p.parts);
    });
  });
  again_by_im2col(q, not_finite);
}

bool takes(const Conv2dArgs& q) {
  return q.dtype == kFloat32 && q.groups == 1 && q.kh == 3 && q.kw == 3 && q.stride_h == 1 && q.stride_w == 1 &&
         q.dilation_h == 1 && q.dilation_w == 1 && q.n * q.c * q.o * q.oh * q.ow != 0;
}

}  // namespace

int64_t conv2d_winograd_forward_pack(const Conv2dArgs& args, void* packed) {
  if (!takes(args)) return conv2d_im2col_forward_pack(args, packed);
  const Plan p = plan_of(args);
  if (packed) with_tiles(p, [&]<int m>() { pack_weights<m>(args, p, static_cast<float*>(packed)); });
  return p.weights_size(args) * static_cast<int64_t>(sizeof(float));
}

const char* conv2d_winograd_forward_algorithm(const Conv2dArgs& args) {
  if (!takes(args)) return conv2d_im2col_forward_algorithm(args);
  return tile_side(args) == 4 ? "winograd, 4x4" : "winograd";
}

void conv2d_winograd_forward(const Conv2dArgs& args) {
  if (!takes(args)) return conv2d_im2col_forward(args);
  in_channels_last(args, [](const Conv2dArgs& all) { by_images(all, convolve_images); });
}

}  // namespace fastnn::FASTNN_ISA

// inverted_residual: three convolutions in one call, 1x1 to the hidden channels (or none), depthwise, 1x1 back. On
// tiles the hidden channels stay in cache (amx_inverted_residual.hpp); elsewhere, and for what the tiles do not take,
// the three run one after the other. An image with a sum on tiles that is not finite is computed again so.
#include "kernels/block.hpp"
#include "kernels/conv/amx_inverted_residual.hpp"
#include "kernels/conv/images.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// Images [first, first + count).
Inverted images_of(const Inverted& q, int64_t first, int64_t count) {
  const int64_t size = q.dtype == kFloat32 ? 4 : 8;
  const auto moved = [&](const void* p, int64_t image) {
    return p ? static_cast<const char*>(p) + first * image * size : nullptr;
  };
  Inverted some = q;
  some.n = count;
  some.x = moved(q.x, q.c * q.h * q.w), some.residual = moved(q.residual, q.o * q.oh * q.ow);
  some.y = const_cast<char*>(moved(q.y, q.o * q.oh * q.ow));
  return some;
}

// One after the other; the arrays between them are channels-last.
template <class Run>
void in_sequence(const Inverted& q, const Run& run) {
  const int64_t size = q.dtype == kFloat32 ? 4 : 8;
  const PoolBlock first(q.expand_weight ? q.n * q.hidden * q.h * q.w * size : 0);
  const PoolBlock second(q.n * q.hidden * q.oh * q.ow * size);
  Conv2dArgs r = {};
  r.n = q.n, r.dtype = q.dtype, r.parts = q.parts;
  r.kh = r.kw = r.stride_h = r.stride_w = r.dilation_h = r.dilation_w = r.groups = 1;
  if (q.expand_weight) {
    Conv2dArgs a = r;
    a.x = q.x, a.weight = q.expand_weight, a.bias = q.expand_bias, a.y = first.data();
    a.c = q.c, a.o = q.hidden, a.h = a.oh = q.h, a.w = a.ow = q.w;
    a.x_last = q.x_last, a.y_last = true, a.then = q.expand_then;
    run(a);
  }
  Conv2dArgs b = r;
  b.x = q.expand_weight ? first.data() : q.x, b.weight = q.depthwise_weight, b.bias = q.depthwise_bias;
  b.y = second.data();
  b.c = b.o = b.groups = q.hidden, b.h = q.h, b.w = q.w, b.oh = q.oh, b.ow = q.ow, b.kh = q.kh, b.kw = q.kw;
  b.stride_h = q.stride_h, b.stride_w = q.stride_w, b.pad_h = q.pad_h, b.pad_w = q.pad_w;
  b.x_last = q.expand_weight ? 1 : q.x_last, b.y_last = true, b.then = q.depthwise_then;
  run(b);
  Conv2dArgs c = r;
  c.x = second.data(), c.weight = q.weight, c.bias = q.bias, c.residual = q.residual, c.y = q.y;
  c.c = q.hidden, c.o = q.o, c.h = c.oh = q.oh, c.w = c.ow = q.ow;
  c.x_last = true, c.y_last = q.y_last, c.then = q.then;
  run(c);
}

bool is_cheap(const Then& then) {
  return with_cheap_activation(then.activation, [](auto) {});
}

// What the tiles can do; a step of the first convolution that has few channels errs more than a chain (amx.cpp).
bool takes_tiles(const Inverted& q) {
  const bool first = !q.expand_weight || q.c >= 12 * blocks_of(q.c, kBlock);
  const bool window = q.kh == q.kw && (q.kw == 3 || q.kw == 5) && q.pad_h < q.kh && q.pad_w < q.kw &&
                      q.stride_h == q.stride_w && q.stride_w <= 2;
  return q.dtype == kFloat32 && q.x_last && q.y_last && window && first &&
         q.hidden >= 12 * blocks_of(q.hidden, kBlock) && is_cheap(q.expand_then) && is_cheap(q.depthwise_then) &&
         q.n * q.o * q.oh * q.ow > 0;
}

template <int parts>
void on_tiles(const Inverted& q) {
  uint8_t not_finite[kImages] = {};
  const InvertedPlan p = inverted_plan_of(q);
  {
    const runtime::FlushDenormals flush;
    Conv2dArgs last = {};
    last.o = q.o, last.bias = q.bias, last.y = q.y, last.residual = q.residual, last.then = q.then;
    const int64_t blocks = blocks_of(q.n * q.oh * q.ow, kBlock), sums = blocks * p.panels * 1024;
    const int64_t bytes = (q.packed ? 0 : p.bytes()) + (epilogue_size(last) + kBlock) * int64_t{sizeof(float)} +
                          (p.groups > 1 ? p.groups * sums * int64_t{sizeof(float)} : 0);
    char* memory = static_cast<char*>(runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(bytes)));
    float* partial = reinterpret_cast<float*>(memory);
    if (p.groups > 1) memory += p.groups * sums * int64_t{sizeof(float)};
    if (!q.packed) pack_inverted<parts>(q, p, reinterpret_cast<uint16_t*>(memory));
    const uint16_t* weights = static_cast<const uint16_t*>(q.packed ? q.packed : memory);
    if (!q.packed) memory += p.bytes();
    const Epilogue<float> epilogue = prepare_epilogue<float>(last, reinterpret_cast<float*>(memory));
    const int64_t products = (q.n * q.h * q.w * p.blocks + q.n * q.oh * q.ow * p.panels) / kBlock * p.chunks;
    runtime::parallel_for(p.bands * p.groups, products * 150, [&](int64_t task) {
      char* scratch = static_cast<char*>(runtime::scratch(runtime::Slot::kTask, p.memory));
      InvertedTask<parts>(q, p, epilogue, weights, not_finite, partial + task * sums, task, scratch).run();
    });
    if (p.groups > 1)
      runtime::parallel_for(blocks * p.panels, blocks * p.panels * p.groups * 60, [&](int64_t turn) {
        constexpr int lanes = Vec<float>::lanes;
        float* total = partial + turn * 1024;
        for (int64_t i = 0; i < 1024; i += lanes) {
          Vec<float> sum = load(total + i);
          for (int64_t group = 1; group < p.groups; ++group) sum = sum + load(total + group * sums + i);
          store(total + i, sum);
        }
        const int64_t pixel = turn / p.panels * kBlock, count = least(kBlock, q.n * q.oh * q.ow - pixel);
        InvertedTask<parts>::finish_out(q, epilogue, not_finite, total, pixel, count, turn % p.panels);
      });
  }
  for (int64_t i = 0; i < q.n; ++i)
    if (not_finite[i]) in_sequence(images_of(q, i, 1), conv2d_im2col_forward);
}

template <int n>
struct Parts {
  static constexpr int value = n;
};

template <class F>
void in_parts(const Inverted& q, const F& f) {
  if (q.parts == 3) return f(Parts<3>{});
  q.parts == 2 ? f(Parts<2>{}) : f(Parts<1>{});
}

// Where it pays: 1.1 to 2 times as fast as in sequence, and slower where a step is mostly zeros (12 -> 48 @64 0.82) or
// where, without the first convolution, the weights of the last do not stay in L2 (1024 -> 1024 @7 0.69).
#if defined(FASTNN_ISA_AMX)
bool by_tiles(const Inverted& q) {
  const int64_t weights = blocks_of(q.hidden, kBlock) * blocks_of(q.o, kBlock) * 6144;
  return takes_tiles(q) && (q.expand_weight ? q.c >= 16 : weights <= kBandBudget / 3);
}
#else
constexpr bool by_tiles(const Inverted&) { return false; }
#endif

}  // namespace

void inverted_residual_amx_forward(const Inverted& args) {
  if (!takes_tiles(args)) return in_sequence(args, conv2d_forward);
  for (int64_t i = 0; i < args.n; i += kImages) {
    const Inverted some = images_of(args, i, least(kImages, args.n - i));
    in_parts(some, [&](auto parts) { on_tiles<parts.value>(some); });
  }
}

int64_t inverted_residual_amx_forward_pack(const Inverted& args, void* packed) {
  if (!takes_tiles(args)) return 0;
  const InvertedPlan p = inverted_plan_of(args);
  if (packed) in_parts(args, [&](auto parts) { pack_inverted<parts.value>(args, p, static_cast<uint16_t*>(packed)); });
  return p.bytes();
}

const char* inverted_residual_amx_forward_algorithm(const Inverted& args) {
  constexpr const char* names[] = {"amx, fused, one part", "amx, fused, two parts", "amx, fused"};
  return takes_tiles(args) ? names[args.parts - 1] : "in sequence";
}

void inverted_residual_forward(const Inverted& args) {
  by_tiles(args) ? inverted_residual_amx_forward(args) : in_sequence(args, conv2d_forward);
}

int64_t inverted_residual_forward_pack(const Inverted& args, void* packed) {
  return by_tiles(args) ? inverted_residual_amx_forward_pack(args, packed) : 0;
}

const char* inverted_residual_forward_algorithm(const Inverted& args) {
  return by_tiles(args) ? inverted_residual_amx_forward_algorithm(args) : "in sequence";
}

}  // namespace fastnn::FASTNN_ISA

// The convolution on tiles: its machine code (on the tile unit, or emulated where there is none) and its portable twins
// give the same bits, and these agree with float64 within the bound that the arithmetic has.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"

#if defined(__x86_64__) && defined(__linux__)

#include <xmmintrin.h>

#include "amx_emulator.hpp"
#include "runtime/cpu.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"

#define TILE_PROBE(isa)                                                  \
  void tile_split_##isa(const float*, uint16_t*, int64_t);               \
  void tile_dot_##isa(float*, const uint16_t*, const uint16_t*, float*); \
  void tile_round_##isa(const float*, uint16_t*, uint16_t*, uint16_t*, float*, int64_t);
TILE_PROBE(scalar)
TILE_PROBE(avx2)
TILE_PROBE(avx512)
TILE_PROBE(amx)
void tile_dot_by_vectors(float*, const uint16_t*, const uint16_t*);

namespace {

using fastnn::Conv2dArgs;
using fastnn::Conv2dBackwardArgs;
using Floats = std::vector<float>;

bool g_vectors;  // VCVTNE2PS2BF16 and VDPBF16PS can be had
bool g_amx;      // the amx set can run, in one way or the other
bool g_emulated;

struct Set {
  const char* isa;
  const fastnn::KernelTable* table;
  void (*split)(const float*, uint16_t*, int64_t);
  void (*dot)(float*, const uint16_t*, const uint16_t*, float*);
  void (*round)(const float*, uint16_t*, uint16_t*, uint16_t*, float*, int64_t);
};
std::vector<Set> g_sets;  // that run here; scalar first, amx last

void find_sets() {
  using fastnn::runtime::cpu_lacks;
  using fastnn::runtime::cpu_supports;
  const char* lacking = cpu_lacks("amx");
  __builtin_cpu_init();
  g_vectors = cpu_supports("avx512") && __builtin_cpu_supports("avx512bf16");
  g_emulated = lacking != nullptr && g_vectors;
  g_amx = lacking == nullptr || g_emulated;
  if (g_emulated) amx_emulator::install();
  const Set sets[] = {{"scalar", nullptr, tile_split_scalar, tile_dot_scalar, tile_round_scalar},
                      {"avx2", nullptr, tile_split_avx2, tile_dot_avx2, tile_round_avx2},
                      {"avx512", nullptr, tile_split_avx512, tile_dot_avx512, tile_round_avx512},
                      {"amx", nullptr, tile_split_amx, tile_dot_amx, tile_round_amx}};
  for (Set set : sets) {
    set.table = fastnn::runtime::table_named(set.isa);
    if (cpu_supports(set.isa) || (std::strcmp(set.isa, "amx") == 0 && g_amx)) g_sets.push_back(set);
  }
  std::printf("       amx: %s%s\n", lacking ? lacking : "on the tile unit",
              g_emulated ? "; its instructions are emulated" : "");
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
// Equal bits; any NaN equals any other.
template <class T>
int64_t differences(const std::vector<T>& a, const std::vector<T>& b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i)
    count += std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(a[i] != a[i] && b[i] != b[i]);
  return count;
}
float normal() {  // a sum of four has tails enough
  double sum = 0.0;
  for (int i = 0; i < 4; ++i) sum += static_cast<double>(test::random() >> 11) * 0x1p-53 - 0.5;
  return static_cast<float>(sum * 1.7320508);
}

// ---- tile.hpp ----

void parts_are_the_float() {
  // Every 4099th bit pattern (a prime: all lower halves occur), and the borders of every kind of number.
  Floats x;
  for (uint64_t u = test::random() % 4099; u < uint64_t{1} << 32; u += 4099)
    x.push_back(float_of(static_cast<uint32_t>(u)));
  for (uint32_t sign : {0u, 0x80000000u})
    for (uint32_t u : {0u, 0x007fffffu, 0x00800000u, 0x00808000u, 0x3f808000u, 0x3f818000u, 0x3f807fffu, 0x7f7f7fffu,
                       0x7f7f8000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fc00000u, 0x7fffffffu})
      x.push_back(float_of(u | sign));
  while (x.size() % 32 != 0) x.push_back(0.0f);
  const int64_t size = static_cast<int64_t>(x.size());
  std::vector<uint16_t> first(x.size() * 3), parts(first.size());
  g_sets[0].split(x.data(), first.data(), size);
  for (const Set& set : g_sets) {
    set.split(x.data(), parts.data(), size);
    CHECK(differences(parts, first) == 0, "%s: %lld parts", set.isa, static_cast<long long>(differences(parts, first)));
  }
  // What is large enough for three parts and small enough to be rounded is their sum; else the sum is not finite
  // either.
  int64_t inexact = 0, finite = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t at = i / 32 * 32 + i % 16 * 2 + i / 16 % 2;  // the halves take turns
    double sum = 0.0;
    for (int64_t part = 0; part < 3; ++part) sum += float_of(static_cast<uint32_t>(first[part * size + at]) << 16);
    if (std::fabs(x[i]) >= 0x1p-100f && std::fabs(x[i]) < 0x1.fep127f) inexact += sum != x[i];
    if (!std::isfinite(x[i])) finite += std::isfinite(sum);
  }
  CHECK(finite == 0, "%lld parts of infinity or NaN have a sum", static_cast<long long>(finite));
  CHECK(inexact == 0, "%lld floats are not the sum of their parts", static_cast<long long>(inexact));
}

// The nearest of the two bfloat16 around x, the even one of two that are as near.
uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t upper = static_cast<uint16_t>(bits >> 16);
  if (x != x) return upper | 0x40;
  if ((bits & 0x7f800000u) == 0) return upper & 0x8000;
  const auto magnitude = [](uint32_t half) {  // 2^128 where that is infinity
    return half == 0x7f80 ? 0x1p128 : static_cast<double>(float_of(half << 16));
  };
  const uint32_t low = upper & 0x7fff;
  if (low == 0x7f80) return upper;
  const double from_low = std::fabs(x) - magnitude(low), from_high = magnitude(low + 1) - std::fabs(x);
  return static_cast<uint16_t>(upper + (from_high < from_low || (from_high == from_low && low % 2 == 1)));
}
float float_of_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

void rounded_to_nearest_even() {
  Floats x;
  for (uint64_t u = test::random() % 4099; u < uint64_t{1} << 32; u += 4099)
    x.push_back(float_of(static_cast<uint32_t>(u)));
  for (uint64_t u = test::random() % 61; u < uint64_t{1} << 16; u += 61)  // ties, and the floats beside them
    for (uint32_t low : {0x7fffu, 0x8000u, 0x8001u}) x.push_back(float_of(static_cast<uint32_t>(u << 16) | low));
  for (uint32_t u : {0x7f7f7fffu, 0x7f7f8000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x00800000u, 0x007fffffu, 1u})
    for (uint32_t sign : {0u, 0x80000000u}) x.push_back(float_of(u | sign));
  while (x.size() % 32 != 0) x.push_back(0.0f);
  std::vector<uint16_t> expected;
  for (float v : x) expected.push_back(bf16_of(v));
  for (const Set& set : g_sets) {
    std::vector<uint16_t> all(x.size()), by_vectors(x.size()), by_parts(x.size());
    Floats back(x.size());
    set.round(x.data(), all.data(), by_vectors.data(), by_parts.data(), back.data(), static_cast<int64_t>(x.size()));
    CHECK(all == expected && by_vectors == expected && by_parts == expected, "%s: %lld, %lld, %lld", set.isa,
          static_cast<long long>(differences(all, expected)), static_cast<long long>(differences(by_vectors, expected)),
          static_cast<long long>(differences(by_parts, expected)));
    int64_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const float wide = float_of_bf16(expected[i]);
      wrong += std::memcmp(&back[i], &wide, sizeof wide) != 0;
    }
    CHECK(wrong == 0, "%s: %lld do not come back", set.isa, static_cast<long long>(wrong));
  }
}

void products_are_the_manual_s() {
  enum Kind { kPlain, kTiny, kDenormal, kAny, kBorder, kKinds };
  for (int i = 0; i < 400; ++i) {
    const int kind = i % kKinds;
    const auto element = [&] {
      const uint64_t r = test::random();
      const uint32_t sign_and_fraction = r & 0x807f, pick = r >> 32 & 0xffff;
      uint32_t exponent = 119 + pick % 16;
      if (kind == kTiny) exponent = 58 + pick % 12;  // products about 2^-126
      if (kind == kDenormal) exponent = pick % 3 == 0 ? 0 : pick % 3 == 1 ? 127 : pick % 20;
      if (kind == kAny) exponent = pick % 255;
      return static_cast<uint16_t>(sign_and_fraction | exponent << 7);
    };
    std::vector<uint16_t> a(512), b(512);
    Floats c(256);
    for (auto& v : a) v = element();
    for (auto& v : b) v = element();
    if (kind == kBorder)  // only 2^-126 and then less some 2^-151: what rounds to 2^-126 and what is tiny
      for (size_t j = 0; j < 512; ++j) {
        const auto element_of_pair = [](size_t pair, int sign) {
          const int small = (50 + static_cast<int>(test::random(0, 2))) << 7 | static_cast<int>(test::random(0, 127));
          return static_cast<uint16_t>(pair == 0 ? 64 << 7 : pair == 1 ? sign | small : 0);
        };
        a[j] = element_of_pair(j % 32 / 2, 0x8000), b[j] = element_of_pair(j / 32, 0);
      }
    for (auto& v : c) {
      uint32_t u = static_cast<uint32_t>(test::random());
      if (kind == kPlain || kind == kAny) u = (u & 0x807fffffu) | 0x3f800000u;
      if (kind == kTiny || kind == kDenormal) u &= 0x83ffffffu;
      v = float_of(kind == kBorder ? 0 : u);
    }
    Floats first = c, first_spaced(512);
    g_sets[0].dot(first.data(), a.data(), b.data(), first_spaced.data());
    for (const Set& set : g_sets) {
      Floats y = c, spaced(512);
      set.dot(y.data(), a.data(), b.data(), spaced.data());
      CHECK(differences(y, first) == 0 && differences(spaced, first_spaced) == 0, "%s, kind %d", set.isa, kind);
    }
    if (g_vectors) {
      Floats y = c;
      tile_dot_by_vectors(y.data(), a.data(), b.data());
      CHECK(differences(y, first) == 0, "by vectors, kind %d", kind);
    }
  }
}

// ---- convolutions ----

struct Shape {
  int64_t n, c, h, w, o, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, channels_last;
};

struct Case {
  Shape s;
  int64_t oh, ow;
  bool bias = false, batch_norm = false, residual = false;
  int64_t activation = fastnn::kIdentity;
  Floats x, w, b, gamma, beta, mean, var, r;

  explicit Case(const Shape& shape) : s(shape) {
    oh = (s.h + 2 * s.pad_h - s.dilation_h * (s.kh - 1) - 1) / s.stride_h + 1;
    ow = (s.w + 2 * s.pad_w - s.dilation_w * (s.kw - 1) - 1) / s.stride_w + 1;
    fill(x, s.n * s.c * s.h * s.w, 1.0f);
    fill(w, s.o * s.c * s.kh * s.kw, std::sqrt(2.0f / static_cast<float>(s.c * s.kh * s.kw)));
    for (Floats* v : {&b, &gamma, &beta, &mean, &var}) fill(*v, s.o, 1.0f);
    for (float& v : var) v = std::fabs(v) + 0.5f;
    fill(r, size(), 1.0f);
  }
  static void fill(Floats& v, int64_t size, float scale) {
    v.resize(static_cast<size_t>(size));
    for (float& e : v) e = scale * normal();
  }
  int64_t size() const { return s.n * s.o * oh * ow; }

  Conv2dArgs args(float* y) const {
    Conv2dArgs q = {};
    q.x = x.data(), q.weight = w.data(), q.y = y;
    if (bias) q.bias = b.data();
    if (batch_norm) q.gamma = gamma.data(), q.beta = beta.data(), q.mean = mean.data(), q.var = var.data();
    if (residual) q.residual = r.data();
    q.n = s.n, q.c = s.c, q.h = s.h, q.w = s.w, q.o = s.o, q.kh = s.kh, q.kw = s.kw, q.oh = oh, q.ow = ow;
    q.stride_h = s.stride_h, q.stride_w = s.stride_w, q.pad_h = s.pad_h, q.pad_w = s.pad_w;
    q.dilation_h = s.dilation_h, q.dilation_w = s.dilation_w, q.groups = 1;
    q.x_last = q.y_last = s.channels_last, q.dtype = fastnn::kFloat32, q.parts = 3;
    q.then = {activation, 0.125, 0.0}, q.eps = 1e-5;
    return q;
  }
  Floats run(const Set& set) const {
    Floats y(static_cast<size_t>(size()), std::numeric_limits<float>::quiet_NaN());
    set.table->conv2d_amx_forward(args(y.data()));
    return y;
  }
  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text, "n%d c%d %dx%d o%d k%dx%d s%dx%d p%dx%d d%dx%d%s%s%s%s act%d", int(s.n), int(s.c),
                  int(s.h), int(s.w), int(s.o), int(s.kh), int(s.kw), int(s.stride_h), int(s.stride_w), int(s.pad_h),
                  int(s.pad_w), int(s.dilation_h), int(s.dilation_w), s.channels_last ? " last" : "",
                  bias ? " bias" : "", batch_norm ? " bn" : "", residual ? " residual" : "", int(activation));
    return text;
  }

  // body(place in y, output channel, sum of products, sum of their magnitudes, plain float32 chain)
  template <class Body>
  void each(const Body& body) const {
    for (int64_t n = 0; n < s.n; ++n)
      for (int64_t o = 0; o < s.o; ++o)
        for (int64_t i = 0; i < oh; ++i)
          for (int64_t j = 0; j < ow; ++j) {
            double sum = 0.0, magnitude = 0.0;
            float chain = 0.0f;
            for (int64_t c = 0; c < s.c; ++c)
              for (int64_t a = 0; a < s.kh; ++a)
                for (int64_t b = 0; b < s.kw; ++b) {
                  const int64_t row = i * s.stride_h + a * s.dilation_h - s.pad_h;
                  const int64_t column = j * s.stride_w + b * s.dilation_w - s.pad_w;
                  if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
                  const float vx = x[static_cast<size_t>(s.channels_last ? ((n * s.h + row) * s.w + column) * s.c + c
                                                                         : ((n * s.c + c) * s.h + row) * s.w + column)];
                  const float vw = w[static_cast<size_t>(((o * s.c + c) * s.kh + a) * s.kw + b)];
                  sum += static_cast<double>(vx) * vw;
                  magnitude += std::fabs(static_cast<double>(vx) * vw);
                  chain = std::fma(vx, vw, chain);
                }
            body(s.channels_last ? ((n * oh + i) * ow + j) * s.o + o : ((n * s.o + o) * oh + i) * ow + j, o, sum,
                 magnitude, chain);
          }
  }

  // How many elements of y are further from float64 than the arithmetic can bring them. With u = 2^-24 and S the sum of
  // the magnitudes of the products: the sum is rounded six times a step, the sum of 32 products inside a tile 18 times
  // (times 1 + 5 / 256 for the smaller parts), and 2^-26 S is dropped: (6 steps + 19) u S. Each of the 204 operations a
  // step and each part may flush up to 2^-126. The end rounds scale, shift and up to three results: 5 u of its terms.
  int64_t outliers(const Floats& y) const {
    const double u = 0x1p-24, steps = static_cast<double>((s.c + 31) / 32 * s.kh * s.kw);
    int64_t count = 0;
    each([&](int64_t at, int64_t o, double sum, double magnitude, float) {
      const size_t i = static_cast<size_t>(at), c = static_cast<size_t>(o);
      double error = (6 * steps + 19) * u * magnitude + 204 * steps * 0x1p-126 + magnitude * 0x1p-100;
      double scale = 1.0, shift = bias ? b[c] : 0.0;
      if (batch_norm) {
        scale = gamma[c] / std::sqrt(static_cast<double>(var[c]) + 1e-5);
        shift = (shift - mean[c]) * scale + beta[c];
      }
      const double add = residual ? r[i] : 0.0;
      error = error * std::fabs(scale) + 5 * u * (std::fabs(sum * scale) + std::fabs(shift) + std::fabs(add));
      double expected = sum * scale + shift + add;
      if (expected < 0.0 && activation == fastnn::k_relu) expected = 0.0;
      if (expected < 0.0 && activation == fastnn::k_leaky_relu) expected *= 0.125;
      count += !(std::fabs(y[i] - expected) <= error);
    });
    return count;
  }
};

// Every set gives the bits of the first, and these are near float64. Scalar has no fused multiply-add, which batch norm
// ends with: there the next set is the first.
void check_case(const Case& q, bool with_amx = true) {
  Floats first;
  for (const Set& set : g_sets) {
    const bool is_scalar = std::strcmp(set.isa, "scalar") == 0, is_amx = std::strcmp(set.isa, "amx") == 0;
    if (is_amx && !with_amx) continue;
    const Floats y = q.run(set);
    CHECK(q.outliers(y) == 0, "%s, %s: %lld elements are too far off", set.isa, q.name().c_str(),
          static_cast<long long>(q.outliers(y)));
    if (is_scalar && q.batch_norm) continue;
    if (first.empty()) first = y;
    CHECK(differences(y, first) == 0, "%s, %s: %lld of %lld elements differ from the first set", set.isa,
          q.name().c_str(), static_cast<long long>(differences(y, first)), static_cast<long long>(q.size()));
  }
}

void shapes_with_edges() {
  const Shape shapes[] = {
      {1, 32, 8, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // nothing left over
      {2, 33, 7, 7, 31, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // blocks of channels not whole
      {1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0},     // one of everything
      {1, 70, 10, 9, 65, 1, 1, 1, 1, 0, 0, 1, 1, 0},   // no padding to share
      {1, 40, 15, 13, 40, 3, 3, 2, 2, 1, 1, 1, 1, 0},  // four phases
      {1, 17, 17, 20, 37, 5, 3, 2, 3, 2, 0, 1, 2, 0},  // everything different in height and width
      {1, 20, 9, 9, 20, 3, 3, 4, 4, 5, 5, 1, 1, 0},    // phases without taps, rows and columns of padding alone
      {1, 16, 12, 40, 8, 2, 4, 3, 2, 1, 2, 3, 3, 0},   // stride and dilation share a factor in one direction
      {1, 20, 12, 12, 20, 3, 3, 1, 1, 2, 2, 2, 2, 0},  // dilated
      {3, 24, 2, 3, 24, 2, 3, 1, 1, 1, 2, 1, 1, 0},    // the kernel as large as the image
      {1, 64, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 0},  // several tasks, shadow work in several steps
      {1, 7, 20, 45, 33, 7, 3, 2, 2, 3, 1, 1, 1, 0},   // steps of rows of taps, a row of 21 elements each
      {2, 9, 23, 40, 8, 11, 4, 4, 4, 2, 2, 1, 1, 0},   // two steps a row
      {2, 1, 9, 70, 5, 3, 40, 1, 1, 1, 20, 2, 1, 0},   // one element wide, dilated rows
      {1, 16, 9, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1, 0},   // two taps a step
      {2, 12, 9, 8, 38, 2, 2, 1, 3, 1, 3, 1, 1, 0},    // whole pixels of padding that no other tap reaches
  };
  for (Shape shape : shapes)
    for (int64_t channels_last : {0, 1}) {
      shape.channels_last = channels_last;
      Case q(shape);
      check_case(q, channels_last == 0 || shape.c < 64);
      q.bias = true, q.residual = channels_last, q.activation = channels_last ? fastnn::k_leaky_relu : fastnn::k_relu;
      check_case(q, shape.c < 40);
      q.batch_norm = true, q.residual = true, q.activation = fastnn::k_relu;
      check_case(q, shape.c < 40);
    }
}

void random_shapes() {
  const auto draw = [](int64_t low, int64_t high) { return test::random(low, high); };
  for (int i = 0; i < 60; ++i) {
    Shape s = {draw(1, 2), draw(4, 72), draw(1, 12), draw(1, 40), draw(1, 70), draw(1, 4), draw(1, 4),
               draw(1, 3), draw(1, 3),  draw(0, 3),  draw(0, 3),  draw(1, 3),  draw(1, 3), draw(0, 1)};
    s.h = std::max(s.h, (s.kh - 1) * s.dilation_h + 1 - 2 * s.pad_h);
    s.w = std::max(s.w, (s.kw - 1) * s.dilation_w + 1 - 2 * s.pad_w);
    if (s.dilation_w > 1 || s.kw * s.c < 12) s.c += 16;  // tiles do not take steps that are nearly empty
    Case q(s);
    q.bias = draw(0, 1), q.batch_norm = draw(0, 1), q.residual = draw(0, 1);
    check_case(q, i % 10 == 0);
  }
}

// One part, and x, residual and y as bfloat16 where a bit of `stored` says so: 1, 2, 4.
struct Bf16Case {
  Case q;
  int64_t stored;
  std::vector<uint16_t> x, r;

  Bf16Case(Case base, int64_t bits) : q(std::move(base)), stored(bits) { round(); }
  void round() {  // what the arrays hold, to be compared with
    x.clear(), r.clear();
    for (float v : q.x) x.push_back(bf16_of(v));
    for (float v : q.r) r.push_back(bf16_of(v));
    for (size_t i = 0; (stored & 1) && i < x.size(); ++i) q.x[i] = float_of_bf16(x[i]);
    for (size_t i = 0; (stored & 2) && i < r.size(); ++i) q.r[i] = float_of_bf16(r[i]);
  }
  Conv2dArgs args(void* y) const {
    Conv2dArgs a = q.args(static_cast<float*>(y));
    a.parts = 1;
    if (stored & 1) a.x = x.data(), a.x_bf16 = 1;
    if ((stored & 2) && q.residual) a.residual = r.data(), a.residual_bf16 = 1;
    a.y_bf16 = (stored & 4) != 0;
    return a;
  }
  template <class Run>
  Floats result(const Run& run) const {
    Floats y(static_cast<size_t>(q.size()), std::numeric_limits<float>::quiet_NaN());
    if (!(stored & 4)) return run(args(y.data())), y;
    std::vector<uint16_t> half(y.size(), 0x7fc0);
    run(args(half.data()));
    for (size_t i = 0; i < y.size(); ++i) y[i] = float_of_bf16(half[i]);
    return y;
  }
  Floats run(const Set& set) const { return result(set.table->conv2d_amx_forward); }

  // As Case::outliers; but each factor that is not stored so is rounded by up to 2^-8 of itself, and so is y.
  int64_t outliers(const Floats& y) const {
    const double u = 0x1p-24, h = 0x1p-8, factors = stored & 1 ? h : 2 * h + h * h;
    const double steps = static_cast<double>((q.s.c + 31) / 32 * q.s.kh * q.s.kw);
    int64_t count = 0;
    q.each([&](int64_t at, int64_t o, double sum, double magnitude, float) {
      const size_t i = static_cast<size_t>(at), c = static_cast<size_t>(o);
      double error = (factors + (steps + 19) * u * (1 + factors)) * magnitude + 204 * steps * 0x1p-126;
      double scale = 1.0, shift = q.bias ? q.b[c] : 0.0;
      if (q.batch_norm) {
        scale = q.gamma[c] / std::sqrt(static_cast<double>(q.var[c]) + 1e-5);
        shift = (shift - q.mean[c]) * scale + q.beta[c];
      }
      const double add = q.residual ? q.r[i] : 0.0;
      error = error * std::fabs(scale) + 5 * u * (std::fabs(sum * scale) + std::fabs(shift) + std::fabs(add));
      double expected = sum * scale + shift + add;
      if (expected < 0.0 && q.activation == fastnn::k_relu) expected = 0.0;
      if (expected < 0.0 && q.activation == fastnn::k_leaky_relu) expected *= 0.125;
      if (q.activation == fastnn::k_silu) {  // its slope is at most 1.1
        expected /= 1.0 + std::exp(-expected), error = 1.1 * error + 4 * u * std::fabs(expected);
      }
      if (stored & 4) error += h * (std::fabs(expected) + error);
      count += !(std::fabs(y[i] - expected) <= error);
    });
    return count;
  }
};

void bfloat16_in_memory() {
  const Shape shapes[] = {
      {1, 32, 8, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1},       // nothing left over
      {2, 33, 7, 7, 31, 3, 3, 1, 1, 1, 1, 1, 1, 1},       // channels that fill no block
      {1, 40, 15, 13, 40, 3, 3, 2, 2, 1, 1, 1, 1, 1},     // four phases
      {3, 16, 9, 12, 48, 3, 3, 1, 1, 1, 1, 1, 1, 1},      // steps of rows of taps
      {2, 3, 15, 37, 40, 7, 7, 2, 2, 3, 3, 1, 1, 1},      // planar
      {3, 64, 7, 7, 96, 1, 1, 1, 1, 0, 0, 1, 1, 1},       // tiles read x itself, but for the last block
      {1, 32, 4, 8, 33, 1, 1, 1, 1, 0, 0, 1, 1, 1},       // one block, and a panel that is not whole
      {1, 96, 6, 10, 16, 1, 1, 1, 1, 0, 0, 1, 1, 1},      // tall
      {2, 64, 9, 9, 64, 1, 1, 2, 2, 0, 0, 1, 1, 1},       // strides between single pixels
      {1, 72, 10, 9, 40, 1, 1, 1, 1, 0, 0, 1, 1, 1},      // single pixels that fill no block of channels
      {2, 160, 20, 21, 1088, 1, 1, 1, 1, 0, 0, 1, 1, 1},  // several tasks
  };
  for (const Shape& shape : shapes)
    for (int64_t stored = 1; stored < 8; ++stored) {
      const bool large = shape.o > 1000;
      if (large && stored != 7) continue;
      Case base(shape);
      base.bias = stored % 2, base.residual = (stored & 2) || stored % 3 == 0, base.batch_norm = stored == 6;
      base.activation = stored == 5   ? fastnn::k_silu
                        : stored == 1 ? fastnn::kIdentity
                        : stored == 3 ? fastnn::k_leaky_relu
                                      : fastnn::k_relu;
      const Bf16Case q(base, stored);
      Floats first;
      for (const Set& set : g_sets) {
        const bool is_scalar = std::strcmp(set.isa, "scalar") == 0, is_amx = std::strcmp(set.isa, "amx") == 0;
        if (large && (is_scalar || (is_amx && g_emulated))) continue;
        if (is_amx && g_emulated && stored != 7 && shape.c > 40) continue;
        const Floats y = q.run(set);
        CHECK(q.outliers(y) == 0, "%s, %s, stored %d: %lld elements are too far off", set.isa, q.q.name().c_str(),
              int(stored), static_cast<long long>(q.outliers(y)));
        // silu is not the same on every set
        if ((is_scalar && base.batch_norm) || base.activation == fastnn::k_silu) continue;
        if (first.empty()) first = y;
        CHECK(differences(y, first) == 0, "%s, %s, stored %d: %lld elements differ from the first set", set.isa,
              q.q.name().c_str(), int(stored), static_cast<long long>(differences(y, first)));
        if (!large) continue;
        const int before = fastnn::runtime::num_threads();
        for (int threads : {1, 3}) {
          fastnn::runtime::set_num_threads(threads);
          CHECK(differences(q.run(set), y) == 0, "%s: %d threads", set.isa, threads);
        }
        fastnn::runtime::set_num_threads(before);
        std::vector<char> packed(static_cast<size_t>(set.table->conv2d_amx_forward_pack(q.args(nullptr), nullptr)));
        set.table->conv2d_amx_forward_pack(q.args(nullptr), packed.data());
        const Floats again = q.result([&](Conv2dArgs a) {
          a.packed = packed.data();
          set.table->conv2d_amx_forward(a);
        });
        CHECK(differences(again, y) == 0, "%s: packed", set.isa);
      }
    }
}

// An image whose sums are not finite is what im2col makes of the same arrays; the others do not notice.
void infinity_nan_and_overflow_of_bfloat16() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Shape shapes[] = {{3, 32, 6, 6, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1}, {3, 64, 5, 7, 40, 1, 1, 1, 1, 0, 0, 1, 1, 1}};
  for (const Shape& shape : shapes)
    for (int64_t stored : {7, 1, 6})
      for (const Set& set : g_sets) {
        Case base(shape);
        base.bias = base.residual = true;
        const Floats clean = Bf16Case(base, stored).run(set);
        const size_t image = static_cast<size_t>(shape.c * shape.h * shape.w), y_image = clean.size() / 3;
        for (float special : {inf, -inf, nan, FLT_MAX}) {
          Case bad = base;
          bad.x[image + 100] = special;
          const Bf16Case q(bad, stored);
          const Floats y = q.run(set), columns = q.result(set.table->conv2d_im2col_forward);
          Floats expected = clean;
          std::copy_n(columns.begin() + static_cast<std::ptrdiff_t>(y_image), y_image,
                      expected.begin() + static_cast<std::ptrdiff_t>(y_image));
          CHECK(differences(y, expected) == 0, "%s, stored %d, x has %g", set.isa, int(stored),
                static_cast<double>(special));
          CHECK(differences(y, clean) > 0, "%s, x has %g and nothing shows it", set.isa, static_cast<double>(special));
        }
        // What is beyond the largest bfloat16 is infinite there, and a float otherwise.
        Case large = base;
        std::fill(large.b.begin(), large.b.end(), FLT_MAX);
        std::fill(large.r.begin(), large.r.end(), 0.0f);
        const Floats y = Bf16Case(large, stored).run(set);
        int64_t finite = 0;
        for (float v : y) finite += std::isfinite(v);
        CHECK(finite == (stored & 4 ? 0 : static_cast<int64_t>(y.size())), "%s, stored %d: %lld are finite", set.isa,
              int(stored), static_cast<long long>(finite));
      }
}

// Large enough for bands, panels in groups and the budget of L2; on the twin alone, an emulated one takes seconds.
void large_shapes() {
  for (const Shape& shape :
       {Shape{1, 64, 56, 56, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, Shape{1, 512, 7, 7, 96, 3, 3, 1, 1, 1, 1, 1, 1, 0},
        Shape{1, 256, 3, 300, 33, 3, 3, 1, 2, 1, 1, 1, 1, 1}}) {
    Case q(shape);
    q.bias = true, q.activation = fastnn::k_relu;
    Floats first;
    for (const Set& set : g_sets) {
      if (set.isa[0] != 'a' || (g_emulated && std::strcmp(set.isa, "amx") == 0)) continue;
      const Floats y = q.run(set);
      if (first.empty()) CHECK(q.outliers(y) == 0, "%s, %s", set.isa, q.name().c_str());
      if (first.empty()) first = y;
      CHECK(differences(y, first) == 0, "%s, %s", set.isa, q.name().c_str());
    }
  }
}

// Winograd's algorithm, which 3x3 takes for so many squares of 2 x 2 pixels.
void squares() {
  const Shape shapes[] = {
      {1, 64, 36, 36, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1},   // nothing left over
      {1, 64, 37, 35, 70, 3, 3, 1, 1, 1, 1, 1, 1, 1},   // rows, columns, blocks and channels out that are not whole
      {4, 96, 22, 20, 96, 3, 3, 1, 1, 0, 0, 1, 1, 1},   // images share blocks; no padding
      {1, 64, 34, 36, 131, 3, 3, 1, 1, 2, 3, 1, 1, 1},  // squares of padding alone
      {4, 128, 28, 27, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1},
  };
  for (const Shape& shape : shapes) {
    Case q(shape);
    q.bias = true, q.batch_norm = shape.n == 1, q.residual = shape.n > 1 || shape.o == 70;
    q.activation = shape.o == 131 ? fastnn::k_gelu : fastnn::k_leaky_relu;  // a pass of its own, and one that is fused
    Floats first;
    for (const Set& set : g_sets) {
      if (set.isa[0] != 'a' || (g_emulated && std::strcmp(set.isa, "amx") == 0)) continue;
      CHECK(std::strcmp(set.table->conv2d_amx_forward_algorithm(q.args(nullptr)), "amx, winograd") == 0, "%s",
            q.name().c_str());
      const Floats y = q.run(set);
      if (first.empty() && shape.o != 131) CHECK(q.outliers(y) == 0, "%s, %s", set.isa, q.name().c_str());
      if (first.empty()) first = y;
      // gelu is not the same on every set
      if (shape.o != 131) CHECK(differences(y, first) == 0, "%s, %s", set.isa, q.name().c_str());
      if (&set != &g_sets.back()) continue;
      fastnn::runtime::set_num_threads(1);
      CHECK(differences(y, q.run(set)) == 0, "%s, %s: on one thread", set.isa, q.name().c_str());
      fastnn::runtime::set_num_threads(3);
      std::vector<char> packed(static_cast<size_t>(set.table->conv2d_amx_forward_pack(q.args(nullptr), nullptr)));
      set.table->conv2d_amx_forward_pack(q.args(nullptr), packed.data());
      Floats again(y.size());
      Conv2dArgs args = q.args(again.data());
      args.packed = packed.data();
      set.table->conv2d_amx_forward(args);
      CHECK(differences(y, again) == 0, "%s, %s: packed, on three threads", set.isa, q.name().c_str());
    }
  }
}

// Images of a few channels: pixels are the columns of the tiles.
void planar() {
  const Shape shapes[] = {
      {1, 3, 20, 64, 32, 7, 7, 2, 2, 3, 3, 1, 1, 0},    // nothing left over; 77 of 80 rows of tiles
      {2, 3, 21, 45, 33, 7, 7, 2, 2, 3, 3, 1, 1, 0},    // tiles, blocks and channels out that are not whole
      {1, 3, 23, 70, 16, 11, 11, 4, 4, 2, 2, 1, 1, 0},  // phases of a stride that is not two, tall blocks
      {7, 3, 9, 17, 8, 3, 3, 1, 1, 1, 1, 1, 1, 0},      // several images in a task
      {2, 4, 11, 30, 40, 3, 3, 2, 2, 0, 2, 1, 1, 0},    // no padding above, more than a tap reaches beside
      {1, 2, 9, 33, 5, 5, 4, 3, 1, 7, 1, 1, 1, 0},      // rows of padding alone
      {3, 1, 12, 12, 20, 5, 5, 1, 3, 2, 8, 1, 1, 0},    // two taps of one channel; columns of padding alone
      {1, 3, 5, 40, 70, 2, 16, 1, 2, 0, 0, 1, 1, 0},    // the widest kernel
  };
  const int threads = fastnn::runtime::num_threads();
  for (Shape shape : shapes)
    for (int64_t channels_last : {0, 1}) {
      shape.channels_last = channels_last;
      Case q(shape);
      q.activation = channels_last ? fastnn::k_leaky_relu : fastnn::k_relu;
      check_case(q, shape.h < 12);
      q.bias = q.batch_norm = true, q.residual = shape.n == 2;
      check_case(q, shape.h < 12);
      const Set& set = g_sets[g_emulated ? g_sets.size() - 2 : g_sets.size() - 1];
      const Floats y = q.run(set);
      for (int count : {1, 3}) {
        fastnn::runtime::set_num_threads(count);
        CHECK(differences(y, q.run(set)) == 0, "%s, %s: on %d threads", set.isa, q.name().c_str(), count);
      }
      fastnn::runtime::set_num_threads(threads);
      // Weights that were packed for a batch serve each of its images.
      std::vector<char> packed(static_cast<size_t>(set.table->conv2d_amx_forward_pack(q.args(nullptr), nullptr)));
      set.table->conv2d_amx_forward_pack(q.args(nullptr), packed.data());
      Floats again(y.size());
      for (int64_t i = 0; i < shape.n; ++i) {
        Conv2dArgs one = q.args(again.data() + i * q.size() / shape.n);
        one.x = q.x.data() + i * shape.c * shape.h * shape.w, one.n = 1, one.packed = packed.data();
        if (one.residual) one.residual = q.r.data() + i * q.size() / shape.n;
        set.table->conv2d_amx_forward(one);
      }
      CHECK(differences(y, again) == 0, "%s, %s: packed, image by image", set.isa, q.name().c_str());
    }
}

// The promise of float32, as root mean square: no worse than a plain chain of fused multiply-adds.
void no_worse_than_a_chain() {
  struct Kind {
    int64_t c, k, stride, side = 14, channels_last = 0;
  };
  for (const Kind& kind :
       {Kind{16, 1, 1}, Kind{16, 3, 1}, Kind{32, 1, 1},  Kind{32, 3, 1},       Kind{33, 1, 1}, Kind{33, 3, 1},
        Kind{64, 1, 1}, Kind{64, 3, 1}, Kind{256, 1, 1}, Kind{256, 3, 1},      Kind{3, 7, 2},  Kind{3, 5, 1},
        Kind{3, 11, 4}, Kind{5, 3, 1},  Kind{8, 3, 1},   Kind{24, 3, 1},       Kind{3, 3, 1},  Kind{3, 3, 2},
        Kind{4, 3, 1},  Kind{2, 3, 1},  Kind{1, 5, 1},   Kind{64, 3, 1, 35, 1}})
    for (bool dense : {true, false}) {
      const int64_t c = kind.c, k = kind.k;
      const int64_t side = kind.side * kind.stride, outs = kind.channels_last ? 64 : 32;
      Case q({1, c, side, side, outs, k, k, kind.stride, kind.stride, k / 2, k / 2, 1, 1, kind.channels_last});
      if (!dense)
        for (float& v : q.x) v = std::max(v, 0.0f);
      const Floats y = q.run(g_sets.back());  // all sets have the same bits
      double six = 0.0, plain = 0.0;
      q.each([&](int64_t at, int64_t, double sum, double, float chain) {
        six += (y[static_cast<size_t>(at)] - sum) * (y[static_cast<size_t>(at)] - sum);
        plain += (chain - sum) * (chain - sum);
      });
      CHECK(six > 0.0 && six <= plain, "%s: %.2f of the chain's error", q.name().c_str(), std::sqrt(six / plain));
    }
}

// An image that has them is what im2col makes of it; the others of the batch do not notice.
void infinity_nan_and_overflow() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Shape shapes[] = {{3, 32, 6, 6, 40, 3, 3, 1, 1, 1, 1, 1, 1, 0},
                          {3, 32, 6, 6, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1},
                          {3, 3, 20, 20, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1},
                          {3, 64, 20, 20, 70, 3, 3, 1, 1, 1, 1, 1, 1, 1}};  // by Winograd's algorithm
  for (const Shape& shape : shapes)
    for (const Set& set : g_sets) {
      const bool slow = std::strcmp(set.isa, "scalar") == 0 || (g_emulated && std::strcmp(set.isa, "amx") == 0);
      if (shape.c == 64 && slow) continue;
      const int64_t image = shape.c * shape.h * shape.w;
      Case q(shape);
      q.bias = q.residual = true;
      const Floats clean = q.run(set);
      const int64_t y_image = q.size() / 3;
      // 3.4e38 rounds to infinity as bfloat16; 2^127 times 1.9 is a number whose largest part, 2^127 * 2, is not.
      for (float special : {inf, -inf, nan, FLT_MAX, -3.4e38f, 0x1.fffp127f}) {
        Case bad = q;
        bad.x[static_cast<size_t>(image + 100)] = special;
        const Floats y = bad.run(set);
        Floats expected = clean;
        Conv2dArgs one = bad.args(expected.data() + y_image);
        one.x = bad.x.data() + image, one.residual = bad.r.data() + y_image, one.n = 1;
        set.table->conv2d_im2col_forward(one);
        CHECK(differences(y, expected) == 0, "%s, x has %g", set.isa, static_cast<double>(special));
        CHECK(differences(y, clean) > 0, "%s, x has %g and nothing shows it", set.isa, static_cast<double>(special));
      }
      for (float special : {inf, nan, FLT_MAX}) {
        Case bad = q;
        bad.w[500] = special;
        const Floats y = bad.run(set);
        Floats expected(y.size());
        for (int64_t i = 0; i < 3; ++i) {  // as the images are done one by one
          Conv2dArgs one = bad.args(expected.data() + i * y_image);
          one.x = bad.x.data() + i * image, one.residual = bad.r.data() + i * y_image, one.n = 1;
          set.table->conv2d_im2col_forward(one);
        }
        CHECK(differences(y, expected) == 0, "%s, w has %g", set.isa, static_cast<double>(special));
      }
    }
}

void numbers_near_the_ends_of_float32() {
  for (const Set& set : g_sets) {
    // One product each, of numbers that round up to infinity or to a product beyond float32: a chain gives the number.
    for (const float x : {FLT_MAX, -FLT_MAX, 0x1.ffp127f, 0x1.fep127f}) {
      for (const float w : {0.5f, 1.0f, 0x1.ffcp-1f}) {
        Case q({1, 16, 3, 3, 16, 1, 1, 1, 1, 0, 0, 1, 1, 0});
        std::fill(q.x.begin(), q.x.end(), 0.0f);
        std::fill(q.w.begin(), q.w.end(), w);
        q.x[0] = x;
        CHECK(std::fabs(q.run(set)[0] / (x * w) - 1.0f) <= 0x1p-22f, "%s: %a * %a", set.isa, static_cast<double>(x),
              static_cast<double>(w));
      }
    }
    // Scaled down until parts, products and sums are flushed: the bound has room for that and no more.
    for (const float scale : {1e-15f, 1e-18f, 1e-19f, 1e-20f}) {
      Case q({1, 32, 5, 5, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1});
      for (float& v : q.x) v *= scale;
      for (float& v : q.w) v *= scale;
      CHECK(q.outliers(q.run(set)) == 0, "%s: scale %g", set.isa, static_cast<double>(scale));
      CHECK(differences(q.run(set), q.run(g_sets[0])) == 0, "%s: scale %g", set.isa, static_cast<double>(scale));
    }
  }
}

void what_tiles_do_not_do_goes_to_im2col() {
  for (const Set& set : g_sets) {
    Case q({2, 1, 6, 6, 8, 3, 3, 1, 1, 1, 1, 1, 1, 0});
    Floats y(static_cast<size_t>(q.size())), expected(y.size());
    set.table->conv2d_amx_forward(q.args(y.data()));
    set.table->conv2d_im2col_forward(q.args(expected.data()));
    CHECK(differences(y, expected) == 0, "%s: few channels", set.isa);
    Case wide({1, 32, 6, 6, 32, 3, 3, 1, 1, 1, 1, 1, 1, 0});
    Floats grouped(static_cast<size_t>(wide.size())), grouped_expected(grouped.size());
    Conv2dArgs a = wide.args(grouped.data()), b = wide.args(grouped_expected.data());
    a.groups = b.groups = 2;
    set.table->conv2d_amx_forward(a);
    set.table->conv2d_im2col_forward(b);
    CHECK(differences(grouped, grouped_expected) == 0, "%s: groups", set.isa);
  }
}

// Workers have tiles of their own, and the bits do not depend on how many there are. The caller's state comes back.
void threads_and_state() {
  const int before = fastnn::runtime::num_threads();
  for (const Set& set : g_sets) {
    Case q({2, 32, 14, 14, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1});
    fastnn::runtime::set_num_threads(1);
    const Floats one = q.run(set);
    for (int threads : {2, 3}) {
      fastnn::runtime::set_num_threads(threads);
      const unsigned state = _mm_getcsr();
      const Floats y = q.run(set);
      CHECK(_mm_getcsr() == state, "%s: the floating-point state changed", set.isa);
      CHECK(differences(y, one) == 0, "%s: %d threads", set.isa, threads);
      CHECK(!amx_emulator::configured(), "%s: tiles are still configured", set.isa);
    }
  }
  fastnn::runtime::set_num_threads(before);
}

// ---- inverted residuals ----

struct InvertedCase {
  int64_t n, c, h, w, hidden, o, k, stride;
  bool expands = true;
  int64_t first = fastnn::k_hardtanh, second = fastnn::k_hardtanh, last = fastnn::kIdentity, parts = 3;
  Floats x = {}, w1 = {}, b1 = {}, w2 = {}, b2 = {}, w3 = {}, b3 = {}, r = {};

  void make() {
    Case::fill(x, n * c * h * w, 1.0f), Case::fill(r, size(), 1.0f);
    Case::fill(w1, hidden * c, std::sqrt(2.0f / static_cast<float>(c)));
    Case::fill(w2, hidden * k * k, 1.0f / static_cast<float>(k));
    Case::fill(w3, o * hidden, std::sqrt(2.0f / static_cast<float>(hidden)));
    Case::fill(b1, hidden, 1.0f), Case::fill(b2, hidden, 1.0f), Case::fill(b3, o, 1.0f);
  }
  int64_t oh() const { return (h + 2 * (k / 2) - k) / stride + 1; }
  int64_t ow() const { return (w + 2 * (k / 2) - k) / stride + 1; }
  int64_t size() const { return n * o * oh() * ow(); }
  fastnn::InvertedResidualArgs args(float* y) const {
    fastnn::InvertedResidualArgs q = {};
    q.x = x.data(), q.depthwise_weight = w2.data(), q.depthwise_bias = b2.data(), q.weight = w3.data();
    if (expands) q.expand_weight = w1.data(), q.expand_bias = b1.data();
    q.bias = b3.data(), q.residual = r.data(), q.y = y;
    q.n = n, q.c = c, q.h = h, q.w = w, q.hidden = hidden, q.o = o, q.kh = q.kw = k, q.oh = oh(), q.ow = ow();
    q.stride_h = q.stride_w = stride, q.pad_h = q.pad_w = k / 2;
    q.x_last = q.y_last = true, q.dtype = fastnn::kFloat32, q.parts = parts;
    q.expand_then = {first, 0.0, 6.0}, q.depthwise_then = {second, 0.0, 6.0}, q.then = {last, 0.125, 0.0};
    return q;
  }
  Floats run(const Set& set) const {
    Floats y(static_cast<size_t>(size()), std::numeric_limits<float>::quiet_NaN());
    set.table->inverted_residual_amx_forward(args(y.data()));
    return y;
  }
  Floats in_sequence() const {
    Floats y(static_cast<size_t>(size()));
    fastnn::runtime::table_named("scalar")->inverted_residual_forward(args(y.data()));
    return y;
  }
  // The same of magnitudes: what an element of y can be at most, of which each rounding is a part.
  Floats magnitudes() const {
    InvertedCase q = *this;
    for (Floats* v : {&q.x, &q.w1, &q.b1, &q.w2, &q.b2, &q.w3, &q.b3, &q.r})
      for (float& e : *v) e = std::fabs(e);
    q.first = q.second = q.last = fastnn::kIdentity;
    return q.in_sequence();
  }
  std::string name() const {
    char text[100];
    std::snprintf(text, sizeof text, "n%d c%d %dx%d hidden %d o%d k%d s%d%s parts %d", int(n), int(c), int(h), int(w),
                  int(hidden), int(o), int(k), int(stride), expands ? "" : " separable", int(parts));
    return text;
  }
};

// Every set gives the same bits (but scalar, which has no fused multiply-add for the depthwise sums), near to three
// convolutions in a row: both round each of the three sums at most (6 steps + 19) times (see outliers) or once an
// element, and slopes are at most 1.5.
void inverted_residuals() {
  InvertedCase cases[] = {
      {1, 32, 6, 8, 64, 32, 3, 1},         {2, 24, 9, 30, 40, 33, 3, 2},  {3, 16, 7, 7, 96, 16, 3, 1},
      {1, 64, 14, 14, 96, 64, 3, 1},       {2, 20, 10, 11, 72, 24, 5, 1}, {1, 40, 13, 13, 36, 70, 5, 2},
      {9, 16, 4, 4, 32, 16, 3, 1},         {1, 32, 5, 40, 48, 40, 3, 1},  {2, 48, 16, 12, 48, 32, 3, 1, false},
      {1, 32, 21, 9, 32, 64, 5, 2, false}, {1, 16, 1, 1, 32, 16, 3, 1},   {40, 16, 2, 3, 16, 16, 3, 1},
  };
  cases[3].first = fastnn::k_hardswish, cases[3].second = fastnn::k_leaky_relu, cases[3].last = fastnn::k_relu;
  cases[4].first = cases[4].second = fastnn::kIdentity, cases[4].last = fastnn::k_leaky_relu;
  const int before = fastnn::runtime::num_threads();
  for (InvertedCase& q : cases)
    for (const int64_t parts : {3, 2, 1}) {
      q.parts = parts, q.make();
      const Floats expected = q.in_sequence(), most = q.magnitudes();
      const double steps = static_cast<double>((q.c + 31) / 32 + (q.hidden + 31) / 32);
      const double cut = parts == 3 ? 0x1p-24 : parts == 2 ? 0x1p-15 : 0x1p-7;  // of each factor
      const double bound =
          2 * 1.5 * 1.5 * 1.5 * ((6 * steps + 60 + static_cast<double>(q.c + q.hidden)) * 0x1p-24 + 4 * cut);
      Floats first;
      for (const Set& set : g_sets) {
        const bool is_scalar = std::strcmp(set.isa, "scalar") == 0;
        if (is_scalar && parts == 2) continue;
        const Floats y = q.run(set);
        int64_t far = 0;
        for (size_t i = 0; i < y.size(); ++i)
          far += !(std::fabs(static_cast<double>(y[i]) - expected[i]) <= bound * most[i]);
        CHECK(far == 0, "%s, %s: %lld of %lld elements are too far off", set.isa, q.name().c_str(),
              static_cast<long long>(far), static_cast<long long>(q.size()));
        if (is_scalar) continue;
        if (first.empty()) first = y;
        CHECK(differences(y, first) == 0, "%s, %s: %lld elements differ from the first set", set.isa, q.name().c_str(),
              static_cast<long long>(differences(y, first)));
        for (const int threads : {1, 3, 8}) {
          fastnn::runtime::set_num_threads(threads);
          CHECK(differences(q.run(set), y) == 0, "%s, %s: %d threads", set.isa, q.name().c_str(), threads);
        }
        fastnn::runtime::set_num_threads(before);
      }
    }
}

// An image that has them is what three convolutions by im2col make of it; the others of the batch do not notice.
void inverted_residuals_not_finite() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool expands : {true, false})
    for (const Set& set : g_sets) {
      InvertedCase q = {3, 32, 6, 6, expands ? 40 : 32, 20, 3, 1, expands};
      q.first = q.second = fastnn::kIdentity;  // ReLU6 makes a number of infinity, as it should
      q.make();
      const Floats clean = q.run(set);
      const size_t image = static_cast<size_t>(q.size()) / 3, x_image = q.x.size() / 3;
      for (const float special : {inf, -inf, nan, FLT_MAX, -3.4e38f}) {
        InvertedCase bad = q;
        bad.x[x_image + 100] = special;
        const Floats y = bad.run(set);
        Floats expected = clean;
        Floats all(y.size());
        bad.parts = 3;
        fastnn::InvertedResidualArgs one = bad.args(all.data());
        one.x = bad.x.data() + x_image, one.residual = bad.r.data() + image, one.n = 1;
        set.table->inverted_residual_forward(one);  // by im2col, or on tiles, which find it too
        std::copy_n(all.begin(), image, expected.begin() + static_cast<std::ptrdiff_t>(image));
        const auto begin = y.begin() + static_cast<std::ptrdiff_t>(image);
        CHECK(differences(Floats(y.begin(), begin), Floats(expected.begin(), expected.begin() + (begin - y.begin()))) ==
                  0,
              "%s: the first image, x has %g", set.isa, static_cast<double>(special));
        int64_t kinds = 0, same = 0;
        for (size_t i = image; i < 2 * image; ++i) {
          kinds += std::isfinite(y[i]) != std::isfinite(expected[i]) || std::isnan(y[i]) != std::isnan(expected[i]);
          same += std::memcmp(&y[i], &clean[i], sizeof(float)) == 0;
        }
        CHECK(kinds == 0, "%s: x has %g, and %lld elements are of another kind", set.isa, static_cast<double>(special),
              static_cast<long long>(kinds));
        CHECK(same < static_cast<int64_t>(image), "%s: x has %g and nothing shows it", set.isa,
              static_cast<double>(special));
        CHECK(std::memcmp(&y[2 * image], &clean[2 * image], image * sizeof(float)) == 0, "%s: the last image", set.isa);
      }
    }
}

// ---- gradients ----

struct Gradients {
  Floats dx, dw, db;
};

// A Case whose y is dy.
struct BackwardCase {
  Case q;
  Floats dy;

  explicit BackwardCase(const Shape& shape) : q(shape) { Case::fill(dy, q.size(), 1.0f); }

  Gradients run(void (*kernel)(const Conv2dBackwardArgs&), float before = 0.0f) const {
    const Shape& s = q.s;
    Gradients g = {Floats(q.x.size(), std::numeric_limits<float>::quiet_NaN()), Floats(q.w.size(), before),
                   Floats(static_cast<size_t>(s.o), before)};
    kernel({dy.data(),
            q.x.data(),
            q.w.data(),
            g.dx.data(),
            g.dw.data(),
            g.db.data(),
            s.n,
            s.c,
            s.h,
            s.w,
            s.o,
            s.kh,
            s.kw,
            q.oh,
            q.ow,
            s.stride_h,
            s.stride_w,
            s.pad_h,
            s.pad_w,
            s.dilation_h,
            s.dilation_w,
            1,
            s.channels_last,
            fastnn::kFloat32,
            before != 0.0f});
    return g;
  }

  // body(places in dy, x, w) for every product of the convolution
  template <class Body>
  void each(const Body& body) const {
    const Shape& s = q.s;
    for (int64_t n = 0; n < s.n; ++n)
      for (int64_t o = 0; o < s.o; ++o)
        for (int64_t i = 0; i < q.oh * q.ow; ++i)
          for (int64_t c = 0; c < s.c; ++c)
            for (int64_t tap = 0; tap < s.kh * s.kw; ++tap) {
              const int64_t row = i / q.ow * s.stride_h + tap / s.kw * s.dilation_h - s.pad_h;
              const int64_t column = i % q.ow * s.stride_w + tap % s.kw * s.dilation_w - s.pad_w;
              if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
              const int64_t at_y = s.channels_last ? (n * q.oh * q.ow + i) * s.o + o : (n * s.o + o) * q.oh * q.ow + i;
              const int64_t at_x = s.channels_last ? ((n * s.h + row) * s.w + column) * s.c + c
                                                   : ((n * s.c + c) * s.h + row) * s.w + column;
              body(static_cast<size_t>(at_y), static_cast<size_t>(at_x),
                   static_cast<size_t>((o * s.c + c) * s.kh * s.kw + tap));
            }
  }

  // How many elements of dx and dw are further from float64 than Case::outliers allows, where dw sums over steps of
  // 32 flat pixels, at most n (h + padding) (w + padding) of them, and at most 16 parts are added up.
  int64_t outliers(const Gradients& g, float before) const {
    const Shape& s = q.s;
    std::vector<double> dx(g.dx.size()), dw(g.dw.size(), before), dx_size(dx), dw_size(g.dw.size());
    each([&](size_t y, size_t x, size_t w) {
      const double a = static_cast<double>(dy[y]) * q.w[w], b = static_cast<double>(dy[y]) * q.x[x];
      dx[x] += a, dx_size[x] += std::fabs(a), dw[w] += b, dw_size[w] += std::fabs(b);
    });
    const double u = 0x1p-24, reach_h = static_cast<double>(2 * s.dilation_h * s.kh + 2 * s.pad_h),
                 reach_w = static_cast<double>(2 * s.dilation_w * s.kw + 2 * s.pad_w);
    const double flat =
        static_cast<double>(s.n) * (static_cast<double>(q.oh) + reach_h) * (static_cast<double>(q.ow) + reach_w);
    const double dx_steps = static_cast<double>((s.o + 31) / 32 * s.kh * s.kw), dw_steps = flat / 32 + 1;
    int64_t count = 0;
    for (size_t i = 0; i < dx.size(); ++i)
      count += !(std::fabs(g.dx[i] - dx[i]) <= (6 * dx_steps + 19) * u * dx_size[i] + dx_steps * 0x1p-118);
    for (size_t i = 0; i < dw.size(); ++i)
      count += !(std::fabs(g.dw[i] - dw[i]) <=
                 (6 * dw_steps + 19 + 17) * u * (dw_size[i] + std::fabs(before)) + dw_steps * 0x1p-118);
    return count;
  }
};

// Every set gives the bits of the first, on tiles; what columns do differs where scalar has no fused multiply-add.
void gradients() {
  const Shape shapes[] = {
      {1, 32, 8, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // nothing left over
      {2, 33, 7, 7, 31, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // sixteens of channels not whole, three and two of them
      {3, 16, 6, 9, 16, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // one by four
      {1, 70, 10, 9, 48, 1, 1, 1, 1, 0, 0, 1, 1, 0},   // one tap, blocks of both kinds
      {1, 40, 15, 13, 40, 3, 3, 2, 2, 1, 1, 1, 1, 0},  // four phases
      {2, 20, 8, 33, 24, 1, 1, 2, 2, 0, 0, 1, 1, 0},   // phases that no tap meets
      {1, 17, 17, 20, 37, 5, 3, 2, 3, 2, 0, 1, 2, 0},  // everything different in height and width
      {1, 20, 9, 40, 20, 3, 3, 1, 4, 5, 5, 1, 1, 0},   // rows and columns of padding alone
      {1, 16, 12, 12, 24, 3, 3, 1, 1, 2, 2, 2, 2, 0},  // dilated
      {4, 3, 20, 20, 32, 7, 7, 2, 2, 3, 3, 1, 1, 0},   // a first layer, more taps than lanes
      {2, 1, 9, 11, 16, 5, 9, 1, 2, 2, 3, 2, 1, 0},    // rows of taps of one channel, dilated from row to row
      {3, 3, 10, 9, 17, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // of three
      {1, 4, 8, 40, 20, 2, 12, 1, 1, 0, 5, 1, 1, 0},   // as many elements as may be
      {1, 90, 6, 6, 75, 3, 3, 1, 1, 1, 1, 1, 1, 0},    // groups of channels of x and of dy, the last with fewer
      {9, 16, 32, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1},  // several parts and chunks
  };
  for (Shape shape : shapes)
    for (int64_t channels_last : {0, 1}) {
      shape.channels_last = channels_last;
      const BackwardCase b(shape);
      const float before = channels_last ? 1.0f : 0.0f;
      Gradients first;
      for (const Set& set : g_sets) {
        const bool slow = shape.n > 8 && (set.isa[0] == 's' || (g_emulated && std::strcmp(set.isa, "amx") == 0));
        if (slow) continue;
        const Gradients g = b.run(set.table->conv2d_amx_backward, before);
        CHECK(b.outliers(g, before) == 0, "%s, %s: %lld elements are too far off", set.isa, b.q.name().c_str(),
              static_cast<long long>(b.outliers(g, before)));
        if (first.dx.empty()) first = g;
        CHECK(differences(g.dx, first.dx) == 0 && differences(g.dw, first.dw) == 0, "%s, %s: %lld and %lld differ",
              set.isa, b.q.name().c_str(), static_cast<long long>(differences(g.dx, first.dx)),
              static_cast<long long>(differences(g.dw, first.dw)));
      }
    }
}

// dw is then what columns make of it; dx is finite, infinite or NaN where theirs is.
void gradients_of_infinity_nan_and_overflow() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const Set& set : g_sets)
    for (int64_t channels_last : {0, 1})
      for (int64_t stride : {1, 2})
        for (float special : {inf, -inf, nan, FLT_MAX, -3.4e38f})
          for (int where = 0; where < 3; ++where) {
            BackwardCase b({2, 32, 7, 7, 32, 3, 3, stride, stride, 1, 1, 1, 1, channels_last});
            (where == 0 ? b.dy : where == 1 ? b.q.x : b.q.w)[100] = special;
            const Gradients g = b.run(set.table->conv2d_amx_backward, 0.5f);
            const Gradients expected = b.run(set.table->conv2d_im2col_backward, 0.5f);
            const char* names[] = {"dy", "x", "w"};
            CHECK(where == 2 || differences(g.dw, expected.dw) == 0, "%s: %s has %g", set.isa, names[where],
                  static_cast<double>(special));
            int64_t wrong = 0;
            for (size_t i = 0; i < g.dx.size(); ++i) {
              const float a = g.dx[i], e = expected.dx[i];
              wrong += std::isfinite(e) ? !(std::fabs(a - e) <= 1e-4f * (std::fabs(e) + 1.0f)) : !(a == e || e != e);
            }
            CHECK(wrong == 0, "%s: %s has %g and %lld of dx are wrong", set.isa, names[where],
                  static_cast<double>(special), static_cast<long long>(wrong));
          }
}

void gradients_on_any_number_of_threads() {
  const int before = fastnn::runtime::num_threads();
  for (const Set& set : g_sets) {
    const BackwardCase b({3, 40, 14, 14, 48, 3, 3, 2, 1, 1, 1, 1, 1, 0});
    fastnn::runtime::set_num_threads(1);
    const Gradients one = b.run(set.table->conv2d_amx_backward);
    for (int threads : {2, 3}) {
      fastnn::runtime::set_num_threads(threads);
      const Gradients g = b.run(set.table->conv2d_amx_backward);
      CHECK(differences(g.dx, one.dx) == 0 && differences(g.dw, one.dw) == 0, "%s: %d threads", set.isa, threads);
      CHECK(!amx_emulator::configured(), "%s: tiles are still configured", set.isa);
    }
  }
  fastnn::runtime::set_num_threads(before);
}

// What is executed for one block of 32 pixels x 32 channels x 18 steps, counted: 24 products and 14 loads a step, four
// stores of results, one of every fourth step to keep the stores awake. A check on the speed that no clock can falsify.
void machine_code_is_the_planned() {
  if (!g_emulated) {
    std::printf("       not counted: amx %s\n", g_amx ? "runs on the unit itself" : "cannot run here");
    return;
  }
  const Case q({1, 64, 2, 15, 32, 3, 3, 1, 1, 1, 1, 1, 1, 0});  // 2 rows of 16 flat pixels less one: one block
  amx_emulator::reset_counts();
  q.run(g_sets.back());
  const amx_emulator::Counts n = amx_emulator::counts();
  CHECK(n.configure == 1 && n.release == 1, "%d, %d", int(n.configure), int(n.release));
  CHECK(n.zero == 4 && n.dot == 18 * 24 && n.load == 18 * 14, "%d %d %d", int(n.zero), int(n.dot), int(n.load));
  CHECK(n.store == 4 + 18 / 4, "%d", int(n.store));
}

}  // namespace

int main() {
  find_sets();
  const int failed = test::run({{"parts_are_the_float", parts_are_the_float},
                                {"rounded_to_nearest_even", rounded_to_nearest_even},
                                {"products_are_the_manual_s", products_are_the_manual_s},
                                {"shapes_with_edges", shapes_with_edges},
                                {"random_shapes", random_shapes},
                                {"bfloat16_in_memory", bfloat16_in_memory},
                                {"infinity_nan_and_overflow_of_bfloat16", infinity_nan_and_overflow_of_bfloat16},
                                {"large_shapes", large_shapes},
                                {"squares", squares},
                                {"planar", planar},
                                {"no_worse_than_a_chain", no_worse_than_a_chain},
                                {"infinity_nan_and_overflow", infinity_nan_and_overflow},
                                {"numbers_near_the_ends_of_float32", numbers_near_the_ends_of_float32},
                                {"what_tiles_do_not_do_goes_to_im2col", what_tiles_do_not_do_goes_to_im2col},
                                {"threads_and_state", threads_and_state},
                                {"inverted_residuals", inverted_residuals},
                                {"inverted_residuals_not_finite", inverted_residuals_not_finite},
                                {"gradients", gradients},
                                {"gradients_of_infinity_nan_and_overflow", gradients_of_infinity_nan_and_overflow},
                                {"gradients_on_any_number_of_threads", gradients_on_any_number_of_threads},
                                {"machine_code_is_the_planned", machine_code_is_the_planned}});
  if (failed) return failed;
  if (!g_amx) {
    std::printf("skipped: amx's machine code ran nowhere: it needs AVX-512 with BF16, with tiles or emulated ones\n");
    return 77;
  }
  return 0;
}

#else

int main() {
  std::printf("skipped: the amx set is compiled for x86-64 Linux alone\n");
  return 77;
}

#endif

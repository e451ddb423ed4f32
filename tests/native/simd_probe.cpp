// csrc/simd for test_simd, compiled once per instruction set as the kernels are: every function of simd.hpp on random
// and special values, lane by lane against plain C++.
#include "simd_probe.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "simd/simd.hpp"

#define SIMD_PROBE_STRING_(x) #x
#define SIMD_PROBE_STRING(x) SIMD_PROBE_STRING_(x)
#define SIMD_PROBE_NAME_(isa) simd_probe_##isa
#define SIMD_PROBE_NAME(isa) SIMD_PROBE_NAME_(isa)
#define CHECK(condition, ...)                   \
  do {                                          \
    if (!(condition)) probe::fail(__VA_ARGS__); \
  } while (0)

namespace fastnn::FASTNN_ISA {
namespace {

constexpr const char* kIsa = SIMD_PROBE_STRING(FASTNN_ISA);
#ifdef FASTNN_ISA_SCALAR
constexpr bool kFused = false;
#else
constexpr bool kFused = true;
#endif

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using Type = uint32_t;
};
template <>
struct BitsOf<double> {
  using Type = uint64_t;
};
template <class T>
using Bits = typename BitsOf<T>::Type;

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

template <class T>
Bits<T> bits_of(T x) {
  Bits<T> r;
  memcpy(&r, &x, sizeof r);
  return r;
}

int64_t random_between(int64_t low, int64_t high) {  // both ends included
  return low + static_cast<int64_t>(probe::random() % static_cast<uint64_t>(high - low + 1));
}

// libm, by the names that are functions of the C library or instructions in any build
float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
template <class T>
T power_of_2(T x, int e) {
  return static_cast<T>(__builtin_ldexpl(static_cast<long double>(x), e));  // rounds once
}

// Any bit pattern, special values, and numbers around 1, a third each.
template <class T>
T draw() {
  constexpr T smallest = std::numeric_limits<T>::min();
  constexpr T special[] = {0, T(-0.0), 1, -1, kInfinity<T>, -kInfinity<T>, kNan<T>, smallest, T(0.5), T(-2.5), T(1.5)};
  switch (probe::random() % 3) {
    case 0: {
      const auto bits = static_cast<Bits<T>>(probe::random());
      T x;
      memcpy(&x, &bits, sizeof x);
      return x;
    }
    case 1:
      return special[probe::random() % (sizeof special / sizeof special[0])];
    default:
      return static_cast<T>(random_between(-1000000, 1000000)) / static_cast<T>(100000);
  }
}
template <class T>
T near_one() {
  return static_cast<T>(random_between(1000000, 4000000)) / static_cast<T>(1500000) * (probe::random() % 2 ? 1 : -1);
}

template <class T>
struct Lanes {
  static constexpr int n = Vec<T>::lanes;
  alignas(64) T v[n];
  Lanes() = default;
  explicit Lanes(Vec<T> x) { store(v, x); }
  Vec<T> vec() const { return load(v); }
};
template <class T, class Draw>
Lanes<T> lanes_of(Draw&& one) {
  Lanes<T> r;
  for (T& x : r.v) x = one();
  return r;
}

// The same value, bit for bit but for the payload of a NaN.
template <class T>
bool same(T a, T b) {
  return __builtin_isnan(a) ? __builtin_isnan(b) : bits_of(a) == bits_of(b);
}

// got is want(i) in every lane
template <class T, class Want>
void expect(const char* what, Vec<T> got, Want&& want) {
  const Lanes<T> g(got);
  for (int i = 0; i < g.n; ++i) {
    const T w = want(i);
    CHECK(same(g.v[i], w), "%s %s<%zu> lane %d: %.17g, not %.17g", kIsa, what, 8 * sizeof(T), i,
          static_cast<double>(g.v[i]), static_cast<double>(w));
  }
}
template <class T, class Want>
void expect_mask(const char* what, Mask<T> got, Want&& want) {
  for (int i = 0; i < Vec<T>::lanes; ++i)
    CHECK((bits(got) >> i & 1) == static_cast<uint32_t>(want(i)), "%s %s<%zu> lane %d", kIsa, what, 8 * sizeof(T), i);
  CHECK(bits(got) >> Vec<T>::lanes == 0, "%s %s: bits beyond the lanes", kIsa, what);
}
template <class Want>
void expect_u32(const char* what, U32 got, Want&& want) {
  uint32_t g[U32::lanes];
  store_u32(g, got);
  for (int i = 0; i < U32::lanes; ++i)
    CHECK(g[i] == want(i), "%s %s lane %d: %u, not %u", kIsa, what, i, g[i], want(i));
}

// ulp of |x|, a normal number
template <class T>
double ulp(double x) {
  return power_of_2(1.0, __builtin_ilogb(x) - (std::numeric_limits<T>::digits - 1));
}

template <class T>
void check_arithmetic() {
  const auto a = lanes_of<T>(draw<T>), b = lanes_of<T>(draw<T>);
  const auto c = lanes_of<T>(near_one<T>), d = lanes_of<T>(near_one<T>), e = lanes_of<T>(near_one<T>);
  const Vec<T> va = a.vec(), vb = b.vec(), vc = c.vec(), vd = d.vec(), ve = e.vec();
  expect("+", va + vb, [&](int i) { return a.v[i] + b.v[i]; });
  expect("-", va - vb, [&](int i) { return a.v[i] - b.v[i]; });
  expect("*", va * vb, [&](int i) { return a.v[i] * b.v[i]; });
  expect("/", va / vb, [&](int i) { return a.v[i] / b.v[i]; });
  expect("unary -", -va, [&](int i) { return -a.v[i]; });
  Vec<T> sum = va;
  sum += vb;
  expect("+=", sum, [&](int i) { return a.v[i] + b.v[i]; });
  const auto multiply_add = [&](T x, T y, T z) { return kFused ? fused(x, y, z) : x * y + z; };
  expect("fma", fma(vc, vd, ve), [&](int i) { return multiply_add(c.v[i], d.v[i], e.v[i]); });
  expect("fnma", fnma(vc, vd, ve), [&](int i) { return multiply_add(-c.v[i], d.v[i], e.v[i]); });
  expect("mul_error", mul_error(vc, vd, vc * vd), [&](int i) { return fused(c.v[i], d.v[i], -(c.v[i] * d.v[i])); });
  expect("max", max(va, vb), [&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  expect("min", min(va, vb), [&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  expect("abs", abs(va), [&](int i) { return __builtin_fabs(a.v[i]); });
  expect("sqrt", sqrt(va), [&](int i) { return static_cast<T>(__builtin_sqrt(a.v[i])); });
  expect("round", round(va), [&](int i) { return static_cast<T>(__builtin_nearbyint(a.v[i])); });
  expect("floor", floor(va), [&](int i) { return static_cast<T>(__builtin_floor(a.v[i])); });
  expect("opaque", opaque(va), [&](int i) { return a.v[i]; });
}

template <class T>
void check_quotients() {
  const auto a = lanes_of<T>(near_one<T>), b = lanes_of<T>(near_one<T>);
  const auto b_low = lanes_of<T>([k = 0, &b]() mutable {
    return static_cast<T>(static_cast<double>(random_between(-8, 8)) / 8 * ulp<T>(static_cast<double>(b.v[k++])));
  });
  const Lanes<T> r(reciprocal(b.vec())), q(divide(a.vec(), b.vec())), q2(divide(a.vec(), b.vec(), b_low.vec()));
  Vec<T> low;
  const Lanes<T> high(divide_parts(a.vec(), b.vec(), b_low.vec(), low)), rest(low);
  using Wide = long double;
  for (int i = 0; i < r.n; ++i) {
    const Wide x = a.v[i], y = b.v[i], y2 = y + static_cast<Wide>(b_low.v[i]);
    const auto error = [](Wide got, Wide want) {
      return static_cast<double>(__builtin_fabs(got - want)) / ulp<T>(static_cast<double>(want));
    };
    CHECK(error(r.v[i], 1 / y) <= 0.6, "%s reciprocal(%.17g)", kIsa, static_cast<double>(y));
    CHECK(error(q.v[i], x / y) <= 0.6, "%s %.17g / %.17g", kIsa, static_cast<double>(x), static_cast<double>(y));
    // The scalar set has no fused multiply-add to take the remainder with: one rounding more.
    CHECK(error(q2.v[i], x / y2) <= (kFused ? 0.6 : 1.1), "%s divide with a rest, %.17g / %.17g: %g", kIsa,
          static_cast<double>(x), static_cast<double>(y), error(q2.v[i], x / y2));
    CHECK(error(static_cast<Wide>(high.v[i]) + static_cast<Wide>(rest.v[i]), x / y2) <= 0.1, "%s divide_parts", kIsa);
  }
  const T special[] = {0, T(-0.0), kInfinity<T>, -kInfinity<T>, kNan<T>};
  for (const T x : special) expect("reciprocal", reciprocal(set1(x)), [&](int) { return 1 / x; });
}

template <class T>
void check_powers() {
  constexpr int low = std::numeric_limits<T>::min_exponent - 1, high = std::numeric_limits<T>::max_exponent - 1;
  const auto e = lanes_of<T>([] { return static_cast<T>(random_between(low, high)); });
  expect("power2", power2(e.vec()), [&](int i) { return power_of_2(T(1), static_cast<int>(e.v[i])); });
  const Lanes<T> below(power2(set1(static_cast<T>(low - 1))));
  CHECK(below.v[0] == 0 || below.v[0] == power_of_2(T(1), low - 1), "%s power2 below its range", kIsa);
  const auto a = lanes_of<T>(near_one<T>);
  const auto f = lanes_of<T>([] { return static_cast<T>(random_between(2 * low, 2 * -low)); });
  expect("scale2", scale2(a.vec(), f.vec()), [&](int i) { return power_of_2(a.v[i], static_cast<int>(f.v[i])); });
  const T special[] = {0, T(-0.0), kInfinity<T>, kNan<T>};
  for (const T x : special) expect("scale2", scale2(set1(x), f.vec()), [&](int) { return x; });
}

template <class T>
void check_masks() {
  const auto a = lanes_of<T>(draw<T>);
  auto b = lanes_of<T>(draw<T>);
  b.v[probe::random() % b.n] = a.v[0];
  b.v[0] = a.v[0];
  const Vec<T> va = a.vec(), vb = b.vec();
  expect_mask("lt", lt(va, vb), [&](int i) { return a.v[i] < b.v[i]; });
  expect_mask("le", le(va, vb), [&](int i) { return a.v[i] <= b.v[i]; });
  expect_mask("gt", gt(va, vb), [&](int i) { return a.v[i] > b.v[i]; });
  expect_mask("ge", ge(va, vb), [&](int i) { return a.v[i] >= b.v[i]; });
  expect_mask("eq", eq(va, vb), [&](int i) { return a.v[i] == b.v[i]; });
  expect_mask("ne", ne(va, vb), [&](int i) { return a.v[i] != b.v[i]; });
  expect_mask("beats", beats(va, vb),
              [&](int i) { return a.v[i] > b.v[i] || (__builtin_isnan(a.v[i]) && !__builtin_isnan(b.v[i])); });
  expect_mask("is_nan", is_nan(va), [&](int i) { return __builtin_isnan(a.v[i]); });
  constexpr uint32_t all_lanes = (1u << Vec<T>::lanes) - 1u;
  const uint32_t p = static_cast<uint32_t>(probe::random()) & all_lanes,
                 q = static_cast<uint32_t>(probe::random()) & all_lanes;
  const Mask<T> mp = mask_from_bits<T>(p), mq = mask_from_bits<T>(q);
  expect_mask("mask_from_bits", mp, [&](int i) { return (p >> i & 1) != 0; });
  expect_mask("mask_from_bits of more bits", mask_from_bits<T>(p | ~all_lanes),
              [&](int i) { return (p >> i & 1) != 0; });
  expect_mask("&", mp & mq, [&](int i) { return (p & q) >> i & 1; });
  expect_mask("|", mp | mq, [&](int i) { return (p | q) >> i & 1; });
  expect_mask("~", ~mp, [&](int i) { return (~p >> i & 1) != 0; });
  const uint32_t patterns[] = {0u, 1u, all_lanes, all_lanes - 1u, 1u << (Vec<T>::lanes - 1), p};
  for (const uint32_t m : patterns) {
    CHECK(any(mask_from_bits<T>(m)) == (m != 0), "%s any %x", kIsa, m);
    CHECK(all(mask_from_bits<T>(m)) == (m == all_lanes), "%s all %x", kIsa, m);
  }
  CHECK(all(~mask_from_bits<T>(0)) && !any(~mask_from_bits<T>(all_lanes)), "%s ~ of all and of none", kIsa);
  expect("select", select(mp, va, vb), [&](int i) { return p >> i & 1 ? a.v[i] : b.v[i]; });
  const auto by_bits = [](T x, T y, auto f) {
    const Bits<T> r = f(bits_of(x), bits_of(y));
    T t;
    memcpy(&t, &r, sizeof t);
    return t;
  };
  expect("bit_and", bit_and(va, vb),
         [&](int i) { return by_bits(a.v[i], b.v[i], [](auto x, auto y) { return x & y; }); });
  expect("bit_or", bit_or(va, vb),
         [&](int i) { return by_bits(a.v[i], b.v[i], [](auto x, auto y) { return x | y; }); });
  expect("bit_xor", bit_xor(va, vb),
         [&](int i) { return by_bits(a.v[i], b.v[i], [](auto x, auto y) { return x ^ y; }); });
  expect("bit_andnot", bit_andnot(va, vb),
         [&](int i) { return by_bits(a.v[i], b.v[i], [](auto x, auto y) { return ~x & y; }); });
}

template <class T>
void check_memory() {
  constexpr int n = Vec<T>::lanes;
  alignas(64) T x[3 * n], y[3 * n];
  for (T& v : x) v = draw<T>();
  const int at = static_cast<int>(random_between(0, n));
  expect("load", load(x + at), [&](int i) { return x[at + i]; });
  expect("load1", load1(x + at), [&](int) { return x[at]; });
  expect("set1", set1(x[0]), [&](int) { return x[0]; });
  expect("zero", zero<T>(), [&](int) { return T(0); });
  for (int k = 0; k <= n; ++k) {
    expect("load_partial", load_partial(x + at, k), [&](int i) { return i < k ? x[at + i] : T(0); });
    for (T& v : y) v = 7;
    store_partial(y + at, load(x + at), k);
    for (int i = 0; i < 3 * n; ++i)
      CHECK(same(y[i], i >= at && i < at + k ? x[i] : T(7)), "%s store_partial of %d at %d: element %d", kIsa, k, at,
            i);
  }
  for (T& v : y) v = 7;
  store(y + at, load(x + at));
  for (int i = 0; i < 3 * n; ++i)
    CHECK(same(y[i], i >= at && i < at + n ? x[i] : T(7)), "%s store: element %d", kIsa, i);
  stream(y + n, load(x));
  stream_fence();
  for (int i = 0; i < n; ++i) CHECK(same(y[n + i], x[i]), "%s stream: element %d", kIsa, i);
  prefetch(x);

  const uint32_t patterns[] = {static_cast<uint32_t>(probe::random()) & ((1u << n) - 1u), 0u, (1u << n) - 1u};
  for (const uint32_t m : patterns)
    expect("load_masked", load_masked(x + at, mask_from_bits<T>(m)),
           [&](int i) { return m >> i & 1 ? x[at + i] : T(0); });

  // What is not asked for is not touched: it lies where nothing may be read or written.
  T* end = reinterpret_cast<T*>(probe::readable_end());
  for (int k = 0; k <= n; ++k) {
    store_partial(end - k, load(x), k);
    expect("load_partial at the end", load_partial(end - k, k), [&](int i) { return i < k ? x[i] : T(0); });
    const Mask<T> first = mask_from_bits<T>((1u << k) - 1u);
    expect("load_masked at the end", load_masked(end - k, first), [&](int i) { return i < k ? x[i] : T(0); });
  }

  uint8_t bytes[n + 1];
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(probe::random());
  expect("load_bytes", load_bytes<T>(bytes), [&](int i) { return static_cast<T>(bytes[i]); });
  uint8_t stored[n + 1] = {};
  stored[n] = 99;
  store_bytes(stored, load_bytes<T>(bytes));
  CHECK(memcmp(stored, bytes, n) == 0 && stored[n] == 99, "%s store_bytes", kIsa);
}

template <class T>
void check_lanes() {
  constexpr int n = Vec<T>::lanes;
  const auto a = lanes_of<T>(draw<T>), b = lanes_of<T>(draw<T>);
  const auto joined = [&](int i) { return i < n ? a.v[i] : b.v[i - n]; };
  expect("even_lanes", even_lanes(a.vec(), b.vec()), [&](int i) { return joined(2 * i); });
  expect("odd_lanes", odd_lanes(a.vec(), b.vec()), [&](int i) { return joined(2 * i + 1); });
  Vec<T> first, second;
  interleave(a.vec(), b.vec(), first, second);
  expect("interleave", first, [&](int i) { return i % 2 ? b.v[i / 2] : a.v[i / 2]; });
  expect("interleave", second, [&](int i) { return i % 2 ? b.v[(n + i) / 2] : a.v[(n + i) / 2]; });

  constexpr int ldx = n + 3, ldy = n + 1;
  T x[n * ldx], y[n * ldy];
  for (T& v : x) v = draw<T>();
  for (T& v : y) v = 7;
  transpose(x, ldx, y, ldy);
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < ldy; ++i)
      CHECK(same(y[j * ldy + i], i < n ? x[i * ldx + j] : T(7)), "%s transpose %d %d", kIsa, i, j);

  if constexpr (sizeof(T) == 4) {
    const float* rows[n];
    for (int i = 0; i < n; ++i) rows[i] = x + (i * 5 % n) * ldx;
    Vec<float> turned[4];
    turn_four(rows, 2, turned);
    for (int j = 0; j < 4; ++j) expect("turn_four", turned[j], [&](int i) { return rows[i][2 + j]; });
  }

  // Reductions: whole numbers add exactly in any order; a NaN or infinity comes through a sum.
  const auto w = lanes_of<T>([] { return static_cast<T>(random_between(-1000, 1000)); });
  T sum = 0, largest = w.v[0], smallest = w.v[0];
  for (const T v : w.v) sum += v, largest = v > largest ? v : largest, smallest = v < smallest ? v : smallest;
  CHECK(reduce_add(w.vec()) == sum, "%s reduce_add", kIsa);
  CHECK(reduce_max(w.vec()) == largest && reduce_min(w.vec()) == smallest, "%s reduce_max or reduce_min", kIsa);
  for (int i = 0; i < n; ++i) {
    Lanes<T> v = w;
    v.v[i] = kNan<T>;
    CHECK(__builtin_isnan(reduce_add(v.vec())), "%s reduce_add of NaN", kIsa);
    v.v[i] = kInfinity<T>;
    CHECK(reduce_add(v.vec()) == v.v[i] && reduce_max(v.vec()) == v.v[i], "%s reductions with infinity", kIsa);
    v.v[i] = -v.v[i];
    CHECK(reduce_add(v.vec()) == v.v[i] && reduce_min(v.vec()) == v.v[i], "%s reductions with -infinity", kIsa);
  }
}

void check_u32() {
  constexpr int n = U32::lanes;
  uint32_t a[n], b[n], c[n], at[n + 1];
  for (int i = 0; i < n; ++i) {
    a[i] = static_cast<uint32_t>(probe::random());
    b[i] = probe::random() % 4 ? static_cast<uint32_t>(probe::random()) : a[i];
    c[i] = static_cast<uint32_t>(probe::random());
  }
  const U32 va = load_u32(a), vb = load_u32(b), vc = load_u32(c);
  expect_u32("load_u32", va, [&](int i) { return a[i]; });
  memcpy(at + 1, a, sizeof a);
  expect_u32("load_u32 misaligned", load_u32(at + 1), [&](int i) { return a[i]; });
  expect_u32("set1_u32", set1_u32(a[0]), [&](int) { return a[0]; });
  expect_u32("+", va + vb, [&](int i) { return a[i] + b[i]; });
  expect_u32("-", va - vb, [&](int i) { return a[i] - b[i]; });
  expect_u32("^", va ^ vb, [&](int i) { return a[i] ^ b[i]; });
  expect_u32("&", va & vb, [&](int i) { return a[i] & b[i]; });
  expect_u32("|", va | vb, [&](int i) { return a[i] | b[i]; });
  expect_u32("xor3", xor3(va, vb, vc), [&](int i) { return a[i] ^ b[i] ^ c[i]; });
  expect_u32("shift_left", shift_left<7>(va), [&](int i) { return a[i] << 7; });
  expect_u32("shift_right", shift_right<9>(va), [&](int i) { return a[i] >> 9; });
  U32 low, high;
  mul_wide(va, vb, low, high);
  const auto product = [&](int i) { return static_cast<uint64_t>(a[i]) * b[i]; };
  expect_u32("mul_wide low", low, [&](int i) { return static_cast<uint32_t>(product(i)); });
  expect_u32("mul_wide high", high, [&](int i) { return static_cast<uint32_t>(product(i) >> 32); });
  expect_u32("mul_even", mul_even(va, vb),
             [&](int i) { return static_cast<uint32_t>(product(i & ~1) >> (i % 2 * 32)); });
  const U32 moved = odd_to_even(va), zipped = zip_even(va, vb);
  uint32_t got[n];
  store_u32(got, moved);
  for (int i = 0; i < n; i += 2) CHECK(got[i] == a[i + 1], "%s odd_to_even lane %d", kIsa, i);
  expect_u32("zip_even", zipped, [&](int i) { return i % 2 ? b[i - 1] : a[i]; });
  uint8_t bytes[2 * n];
  store_even(bytes, va);
  for (int i = 0; i < 2 * n; ++i)
    CHECK(bytes[i] == static_cast<uint8_t>(a[i / 4 * 2] >> (i % 4 * 8)), "%s store_even %d", kIsa, i);
  const uint32_t ge = bits_ge(va, vb);
  for (int i = 0; i < n; ++i)
    CHECK((ge >> i & 1) == static_cast<uint32_t>(a[i] >= b[i]), "%s bits_ge lane %d", kIsa, i);
  const U32 acc = set1_u32(0x00100010), bit = set1_u32(0x04000400);
  expect_u32("or_where_ge", or_where_ge(acc, va, vb, bit),
             [&](int i) { return 0x00100010u | (a[i] >= b[i] ? 0x04000400u : 0u); });
  expect_u32("or_where_ge16", or_where_ge16(acc, va, vb, bit), [&](int i) {
    uint32_t r = 0x00100010;
    if ((a[i] & 0xffff) >= (b[i] & 0xffff)) r |= 0x0400;
    if (a[i] >> 16 >= b[i] >> 16) r |= 0x04000000;
    return r;
  });
  expect_u32("bit_cast_u32", bit_cast_u32(bit_cast_f32(va)), [&](int i) { return a[i]; });
  expect_u32("bit_cast_f64", bit_cast_u32(bit_cast_f64(va)), [&](int i) { return a[i]; });
  const auto x = lanes_of<float>([] { return static_cast<float>(random_between(-40000000, 40000000)) / 16; });
  expect_u32("to_u32", to_u32(x.vec()),
             [&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(__builtin_nearbyint(x.v[i]))); });
  expect("from_u32", from_u32(va), [&](int i) { return static_cast<float>(static_cast<int32_t>(a[i])); });
  const auto f = lanes_of<float>(draw<float>);
  expect_u32("bit_cast_u32 of float", bit_cast_u32(f.vec()), [&](int i) { return bits_of(f.v[i]); });
}

void check_conversions() {
  constexpr int half = Vec<double>::lanes;
  const auto a = lanes_of<float>(draw<float>);
  expect("widen_low", widen_low(a.vec()), [&](int i) { return static_cast<double>(a.v[i]); });
  expect("widen_high", widen_high(a.vec()), [&](int i) { return static_cast<double>(a.v[half + i]); });
  const auto low = lanes_of<double>(draw<double>), high = lanes_of<double>(draw<double>);
  expect("narrow", narrow(low.vec(), high.vec()),
         [&](int i) { return static_cast<float>(i < half ? low.v[i] : high.v[i - half]); });
}

template <class T>
void check_all() {
  check_arithmetic<T>();
  check_quotients<T>();
  check_powers<T>();
  check_masks<T>();
  check_memory<T>();
  check_lanes<T>();
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

void SIMD_PROBE_NAME(FASTNN_ISA)() {
  using namespace fastnn::FASTNN_ISA;
  for (int round = 0; round < 2000; ++round) {
    check_all<float>();
    check_all<double>();
    check_u32();
    check_conversions();
  }
}

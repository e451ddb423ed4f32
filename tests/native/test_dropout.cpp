// The kernels that draw random numbers, on every instruction set that runs here, element by element against the
// convention of runtime/philox.hpp. Buffers have their exact sizes, for the address sanitizer.
#include <cmath>
#include <limits>
#include <vector>

#include "check.hpp"
#include "runtime/cpu.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/philox.hpp"
#include "runtime/team.hpp"

namespace {

using namespace fastnn;
using runtime::philox_block;

template <class Body>
void for_each_set(Body body) {
  for (int i = 0; i < runtime::table_count(); ++i) {
    const KernelTable* table = runtime::table_at(i);
    if (runtime::cpu_supports(table->isa))
      body(*table);
    else
      std::printf("       %s not run: %s\n", table->isa, runtime::cpu_lacks(table->isa));
  }
}

const std::vector<int64_t>& sizes() {
  static const std::vector<int64_t> all = [] {
    std::vector<int64_t> s = {0, 1, 2, 3, 5, 100, 32767, 32768, 32769, 100003};
    for (int64_t power = 4; power <= 1024; power *= 2)
      for (int64_t delta : {-1, 0, 1}) s.push_back(power + delta);
    for (int i = 0; i < 10; ++i) s.push_back(test::random(1, 70000));
    return s;
  }();
  return all;
}

// As in the header: how element i is drawn, and whether it stays.
bool kept(const uint64_t* key, double p, int64_t i) {
  const auto n = static_cast<uint64_t>(i);
  if (p * 65536 == std::floor(p * 65536)) {
    const uint32_t word = philox_block(key[0], key[1], n / 8).word[n % 8 / 2];
    return (n % 2 == 0 ? word & 0xffff : word >> 16) >= p * 65536;
  }
  const double threshold = std::min(std::nearbyint(p * 4294967296.0), 4294967295.0);
  return philox_block(key[0], key[1], n / 4).word[n % 4] >= threshold;
}

void random_bits() {
  for_each_set([](const KernelTable& table) {
    for (int64_t size : sizes()) {
      const uint64_t key[2] = {test::random(), test::random()};
      std::vector<uint32_t> out(static_cast<size_t>(size));
      table.random_bits({key, out.data(), size});
      int64_t wrong = 0;
      for (int64_t i = 0; i < size; ++i)
        wrong += out[static_cast<size_t>(i)] != philox_block(key[0], key[1], static_cast<uint64_t>(i) / 4).word[i % 4];
      CHECK(wrong == 0, "%s: %lld of %lld words", table.isa, static_cast<long long>(wrong),
            static_cast<long long>(size));
    }
  });
}

template <class T>
void dropout_of(const KernelTable& table, int64_t size, double p) {
  const auto n = static_cast<size_t>(size);
  const int64_t dtype = sizeof(T) == 4 ? kFloat32 : kFloat64;
  const uint64_t key[2] = {test::random(), test::random()};
  std::vector<T> x(n), y(n, T(7)), dx(n, T(7));
  std::vector<uint8_t> mask((n + 7) / 8, 0xff);
  for (size_t i = 0; i < n; ++i) x[i] = T(1) + static_cast<T>(i % 1000);
  if (n > 2) x[n / 2] = std::numeric_limits<T>::quiet_NaN(), x[n / 3] = std::numeric_limits<T>::infinity();
  table.dropout_forward({x.data(), key, y.data(), mask.data(), size, dtype, p});
  table.dropout_backward({x.data(), mask.data(), dx.data(), size, dtype, p});
  const T scale = p == 1 ? T(0) : static_cast<T>(1 / (1 - p));
  int64_t wrong_bits = 0, wrong_values = 0;
  for (size_t i = 0; i < n; ++i) {
    const bool keep = p != 1 && kept(key, p, static_cast<int64_t>(i));
    const T expected = keep ? x[i] * scale : T(0);
    const auto same = [&](T got) { return got == expected || (std::isnan(got) && std::isnan(expected)); };
    wrong_bits += (mask[i / 8] >> i % 8 & 1) != keep;
    wrong_values += !same(y[i]) || !same(dx[i]);
  }
  if (n % 8 != 0) wrong_bits += mask.back() >> n % 8 != 0;  // unused bits are 0
  CHECK(wrong_bits == 0 && wrong_values == 0, "%s, float%d, p = %.17g, %zu elements: %lld bits, %lld values", table.isa,
        static_cast<int>(8 * sizeof(T)), p, n, static_cast<long long>(wrong_bits),
        static_cast<long long>(wrong_values));
}

void dropout() {
  for_each_set([](const KernelTable& table) {
    // 16-bit draws, 32-bit draws, the ends, and thresholds that round to none or to the largest word.
    for (double p : {0.0, 0.5, 0.25, 1.0 / 65536, 0.1, 0.9, 1e-12, 1 - 1e-12, 1.0})
      for (int64_t size : sizes()) {
        if (size > 5000 && p != 0.5 && p != 0.1) continue;
        dropout_of<float>(table, size, p);
        dropout_of<double>(table, size, p);
      }
  });
}

}  // namespace

int main() {
  runtime::set_num_threads(3);
  return test::run({{"random_bits", random_bits}, {"dropout", dropout}});
}

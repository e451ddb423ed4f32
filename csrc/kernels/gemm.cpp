// The matrix product: microkernels for every tile height and width, and the blocked driver. See gemm.hpp.
//   rows       height of the tile, 1..kTileRows[vectors]
//   vectors    width of the tile in vectors; the last may be used in its first `last` lanes only
// Vectors run along the columns of B; every product is a broadcast of A times a vector of B. A C tile is written once
// per block of k.
#include "kernels/gemm.hpp"

#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
using Kernel = void (*)(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc, int last,
                        bool accumulate);

// The tile. All loops but the one over k have constant bounds and are unrolled, so that acc lives in registers.
template <class T, int rows, int vectors, bool a_columns>
void tile(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc, int last, bool accumulate) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> acc[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) acc[i][j] = zero<T>();
  for (int64_t p = 0; p < k; ++p) {
    Vec<T> vb[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) vb[j] = load(b + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      // From a register: one broadcast for all vectors, where gcc would repeat the load in each product.
      const Vec<T> va = opaque(load1(a_columns ? a + i : a + i * lda));
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) acc[i][j] = fma(va, vb[j], acc[i][j]);
    }
    a += a_columns ? lda : 1;
    b += ldb;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    T* row = c + i * ldc;
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const bool partial = j == vectors - 1 && last != lanes;
      if (accumulate) acc[i][j] = acc[i][j] + (partial ? load_partial(row + j * lanes, last) : load(row + j * lanes));
      if (partial)
        store_partial(row + j * lanes, acc[i][j], last);
      else
        store(row + j * lanes, acc[i][j]);
    }
  }
}

// kernels[a_columns][rows - 1] for one width
template <class T, int vectors>
struct Kernels {
  static constexpr int count = kTileRows[vectors];
  Kernel<T> of[2][count];
};
template <class T, int vectors, int rows>
constexpr void fill_kernels(Kernels<T, vectors>& kernels) {
  kernels.of[0][rows - 1] = tile<T, rows, vectors, false>;
  kernels.of[1][rows - 1] = tile<T, rows, vectors, true>;
  if constexpr (rows > 1) fill_kernels<T, vectors, rows - 1>(kernels);
}
template <class T, int vectors>
constexpr Kernels<T, vectors> make_kernels() {
  Kernels<T, vectors> kernels{};
  fill_kernels<T, vectors, kTileRows[vectors]>(kernels);
  return kernels;
}
template <class T, int vectors>
constexpr Kernels<T, vectors> kKernels = make_kernels<T, vectors>();

template <class T>
const Kernel<T>* kernels_of(int64_t vectors, bool a_columns) {
  switch (vectors) {
    case 1:
      return kKernels<T, 1>.of[a_columns];
    case 2:
      return kKernels<T, 2>.of[a_columns];
    case 3:
      return kKernels<T, 3>.of[a_columns];
    default:
      return kKernels<T, kTileVectors>.of[a_columns];
  }
}

template <class T>
void multiply_of(const PanelProduct<T>& q) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t vectors = ceil_div(q.n, lanes);
  const int last = static_cast<int>(q.n - (vectors - 1) * lanes);
  const Kernel<T>* kernels = kernels_of<T>(vectors, q.a_columns);
  // Tiles of equal height, give or take one row: 9 rows are 5 + 4 and not 8 + 1.
  const int64_t tiles = ceil_div(q.m, kTileRows[vectors]);
  for (int64_t t = 0, i = 0; t < tiles; ++t) {
    const int64_t rows = ceil_div(q.m - i, tiles - t);
    kernels[rows - 1](q.k, q.a + (q.a_columns ? i : i * q.lda), q.lda, q.b, q.ldb, q.c + i * q.ldc, q.ldc, last,
                      q.accumulate);
    i += rows;
  }
}

// Partial sums of 128 rows in the type itself, then in double: (1 + 128) ulp at worst, memory speed.
template <class T>
void column_sums_of(const T* x, int64_t rows, int64_t columns, T* y, bool accumulate) {
  constexpr int64_t lanes = Vec<T>::lanes, block = 128;
  const int64_t chunks = larger(1, smaller(16, rows * columns / 16384));
  double* sums = static_cast<double*>(
      runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(chunks * columns) * sizeof(double)));
  runtime::parallel_for(chunks, rows * columns / 8, [&](int64_t chunk) {
    double* total = sums + chunk * columns;
    for (int64_t j = 0; j < columns; ++j) total[j] = 0;
    const int64_t end = part_begin(rows, chunks, chunk + 1);
    for (int64_t i = part_begin(rows, chunks, chunk); i < end; i += block) {
      const int64_t stop = smaller(end, i + block);
      for (int64_t j = 0; j < columns; j += lanes) {
        const int n = static_cast<int>(smaller(lanes, columns - j));
        Vec<T> sum = zero<T>();
        if (n == lanes)
          for (int64_t r = i; r < stop; ++r) sum += load(x + r * columns + j);
        else
          for (int64_t r = i; r < stop; ++r) sum += load_partial(x + r * columns + j, n);
        T part[lanes];
        store(part, sum);
        for (int l = 0; l < n; ++l) total[j + l] += static_cast<double>(part[l]);
      }
    }
  });
  for (int64_t j = 0; j < columns; ++j) {
    double total = accumulate ? static_cast<double>(y[j]) : 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * columns + j];
    y[j] = static_cast<T>(total);
  }
}

template <class T>
void gemm_of(const Product<T>& q) {
  if (q.m == 0 || q.n == 0) return;
  const Panels<T> panels(q.n);
  const int64_t row_parts = larger(1, smaller(ceil_div(q.m, 256), ceil_div(16, panels.count)));
  const int64_t blocks = larger(1, ceil_div(q.k, kBlockK));
  runtime::parallel_for(panels.count * row_parts, q.m * q.n * q.k / 32, [&](int64_t task) {
    const int64_t panel = task / row_parts, j = panels.begin(panel), n = panels.size(panel), ld = whole<T>(n);
    const int64_t part = task % row_parts;
    const int64_t i = part_begin(q.m, row_parts, part), m = part_begin(q.m, row_parts, part + 1) - i;
    T* b = static_cast<T*>(runtime::scratch(runtime::Slot::kTask, static_cast<size_t>(kBlockK * ld) * sizeof(T)));
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t p = part_begin(q.k, blocks, block), k = part_begin(q.k, blocks, block + 1) - p;
      pack_b(b, ld, q.b + (q.b_transposed ? j * q.ldb + p : p * q.ldb + j), q.ldb, q.b_transposed, k, n);
      multiply(PanelProduct<T>{q.a + (q.a_columns ? p * q.lda + i : i * q.lda + p), b, q.c + i * q.ldc + j, m, n, k,
                               q.lda, ld, q.ldc, q.a_columns, q.accumulate || block > 0});
    }
    if (q.finish) q.finish(q.context, i, j, m, n);
  });
}

}  // namespace

void multiply(const PanelProduct<float>& q) { multiply_of(q); }
void multiply(const PanelProduct<double>& q) { multiply_of(q); }
void gemm(const Product<float>& q) { gemm_of(q); }
void gemm(const Product<double>& q) { gemm_of(q); }
void column_sums(const float* x, int64_t rows, int64_t columns, float* y, bool accumulate) {
  column_sums_of(x, rows, columns, y, accumulate);
}
void column_sums(const double* x, int64_t rows, int64_t columns, double* y, bool accumulate) {
  column_sums_of(x, rows, columns, y, accumulate);
}

}  // namespace fastnn::FASTNN_ISA

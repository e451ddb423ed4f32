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

// ---- few rows: B is read once where it lies, since packing it would cost more than the product ----

constexpr int64_t kFewRows = 16;
#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
constexpr int kDotRows = 4;
#else
constexpr int kDotRows = 2;
#endif
constexpr int kDotColumns = 4;

// C (rows, columns) = or += A B with rows of A along rows of B^T: vectors run along k, and are added up at the end.
template <class T, int rows, int columns>
void dot_tile(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> acc[rows][columns];
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) acc[i][j] = zero<T>();
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) {
    Vec<T> va[rows];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) va[i] = load(a + i * lda + p);
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) {
      const Vec<T> vb = opaque(load(b + j * ldb + p));
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) acc[i][j] = fma(va[i], vb, acc[i][j]);
    }
  }
  if (p < k) {
    const int rest = static_cast<int>(k - p);
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) {
      const Vec<T> vb = load_partial(b + j * ldb + p, rest);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) acc[i][j] = fma(load_partial(a + i * lda + p, rest), vb, acc[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < columns; ++j) c[i * ldc + j] = reduce_add(acc[i][j]) + (accumulate ? c[i * ldc + j] : T(0));
}

template <class T, int columns>
void dot_rows(const PanelProduct<T>& q, int64_t j) {
  const T* b = q.b + j * q.ldb;
  int64_t i = 0;
  for (; i + kDotRows <= q.m; i += kDotRows)
    dot_tile<T, kDotRows, columns>(q.k, q.a + i * q.lda, q.lda, b, q.ldb, q.c + i * q.ldc + j, q.ldc, q.accumulate);
  if (kDotRows > 2 && i + 2 <= q.m) {
    dot_tile<T, 2, columns>(q.k, q.a + i * q.lda, q.lda, b, q.ldb, q.c + i * q.ldc + j, q.ldc, q.accumulate);
    i += 2;
  }
  if (i < q.m) dot_tile<T, 1, columns>(q.k, q.a + i * q.lda, q.lda, b, q.ldb, q.c + i * q.ldc + j, q.ldc, q.accumulate);
}

template <class T>
void multiply_dots_of(const PanelProduct<T>& q) {
  int64_t j = 0;
  if (q.m == 1)  // one chain a column: twice as many columns hide the latency
    for (; j + 2 * kDotColumns <= q.n; j += 2 * kDotColumns)
      dot_tile<T, 1, 2 * kDotColumns>(q.k, q.a, q.lda, q.b + j * q.ldb, q.ldb, q.c + j, q.ldc, q.accumulate);
  for (; j + kDotColumns <= q.n; j += kDotColumns) dot_rows<T, kDotColumns>(q, j);
  for (; j < q.n; ++j) dot_rows<T, 1>(q, j);
}

template <class T>
void gemm_dots(const Product<T>& q) {
  const int64_t parts = ceil_div(q.n, 32);
  runtime::parallel_for(parts, q.n * q.k * (8 + q.m) / 256, [&](int64_t task) {
    const int64_t j = part_begin(q.n, parts, task, kDotColumns), n = part_begin(q.n, parts, task + 1, kDotColumns) - j;
    multiply_dots_of(
        PanelProduct<T>{q.a, q.b + j * q.ldb, q.c + j, q.m, n, q.k, q.lda, q.ldb, q.ldc, false, q.accumulate});
    if (q.finish) q.finish(q.context, 0, j, q.m, n);
  });
}

// C (rows, n) = or += A (rows, depth) B (depth, n) for a handful of each: B streams by, C stays in L1.
template <class T, int rows, int depth>
void stream_tile(const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t n, bool accumulate) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> va[rows][depth];
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < depth; ++p) va[i][p] = load1(a + i * lda + p);
  const auto column = [&](int64_t j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> vb[depth];
#pragma GCC unroll 4
    for (int p = 0; p < depth; ++p) vb[p] = read(b + p * ldb + j);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      Vec<T> v = accumulate ? read(c + i * ldc + j) : zero<T>();
#pragma GCC unroll 4
      for (int p = 0; p < depth; ++p) v = fma(va[i][p], vb[p], v);
      write(c + i * ldc + j, v);
    }
  };
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) column(j, [](const T* p) { return load(p); }, [](T* p, Vec<T> v) { store(p, v); });
  const int rest = static_cast<int>(n - j);
  if (rest)
    column(
        j, [rest](const T* p) { return load_partial(p, rest); }, [rest](T* p, Vec<T> v) { store_partial(p, v, rest); });
}

template <class T, int rows>
void stream_rows(const Product<T>& q, int64_t row, int64_t j, int64_t n, int64_t p, int64_t end) {
  const T *a = q.a + row * q.lda, *b = q.b + j;
  T* c = q.c + row * q.ldc + j;
  for (; p + 4 <= end; p += 4)
    stream_tile<T, rows, 4>(a + p, q.lda, b + p * q.ldb, q.ldb, c, q.ldc, n, q.accumulate || p > 0);
  for (; p < end; ++p) stream_tile<T, rows, 1>(a + p, q.lda, b + p * q.ldb, q.ldb, c, q.ldc, n, q.accumulate || p > 0);
}

template <class T>
void gemm_streams(const Product<T>& q) {
  constexpr int64_t block = 32;
  // Stretches of 4 to 8 KB: shorter ones leave the prefetcher no time, longer ones drive C out of L1.
  const int64_t bytes = q.n * static_cast<int64_t>(sizeof(T));
  const int64_t parts = larger(1, smaller(16, larger(bytes / 8192, smaller(2, bytes / 4096))));
  runtime::parallel_for(parts, q.n * q.k * (8 + q.m) / 256, [&](int64_t task) {
    const int64_t begin = part_begin(q.n, parts, task, 64), n = part_begin(q.n, parts, task + 1, 64) - begin;
    if (q.k == 0 && !q.accumulate)
      for (int64_t i = 0; i < q.m; ++i)
        for (int64_t j = begin; j < begin + n; ++j) q.c[i * q.ldc + j] = T(0);
    for (int64_t p = 0; p < q.k; p += block) {
      const int64_t end = smaller(q.k, p + block);
      int64_t row = 0;
      for (; row + kDotRows <= q.m; row += kDotRows) stream_rows<T, kDotRows>(q, row, begin, n, p, end);
      if (kDotRows > 2 && row + 2 <= q.m) stream_rows<T, 2>(q, row, begin, n, p, end), row += 2;
      if (row < q.m) stream_rows<T, 1>(q, row, begin, n, p, end);
    }
    if (q.finish) q.finish(q.context, 0, begin, q.m, n);
  });
}

// ---- many rows: a task packs a group of panels of B, block by block of k, and runs over its rows ----

template <class T>
void gemm_panels(const Product<T>& q) {
  constexpr int64_t block_rows = 96;
  const Panels<T> panels(q.n);
  // Columns of A far apart are brought together first, which must pay for itself over more panels. Each part of the
  // rows packs B again: 48 rows pay for that.
  const bool pack_a = q.a_columns && q.lda > block_rows;
  const int64_t groups = larger(ceil_div(panels.count, pack_a ? 8 : 2), smaller(panels.count, 8));
  const int64_t row_parts = larger(1, smaller(q.m / 48, ceil_div(16, groups)));
  const int64_t blocks = larger(1, ceil_div(q.k, kBlockK)), block_k = ceil_div(q.k, blocks);
  runtime::parallel_for(groups * row_parts, q.m * q.n * q.k / 32, [&](int64_t task) {
    const int64_t panel0 = part_begin(panels.count, groups, task / row_parts);
    const int64_t panel1 = part_begin(panels.count, groups, task / row_parts + 1);
    const int64_t j0 = panels.begin(panel0), n = panels.begin(panel1) - j0;
    const int64_t row0 = part_begin(q.m, row_parts, task % row_parts);
    const int64_t row1 = part_begin(q.m, row_parts, task % row_parts + 1);
    T* packed = static_cast<T*>(runtime::scratch(
        runtime::Slot::kTask, static_cast<size_t>(block_k * (whole<T>(n) + (pack_a ? block_rows : 0))) * sizeof(T)));
    T* packed_a = packed + block_k * whole<T>(n);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t p = part_begin(q.k, blocks, block), k = part_begin(q.k, blocks, block + 1) - p;
      for (int64_t panel = panel0; panel < panel1; ++panel) {
        const int64_t j = panels.begin(panel);
        pack_b(packed + (j - j0) * k, whole<T>(panels.size(panel)),
               q.b + (q.b_transposed ? j * q.ldb + p : p * q.ldb + j), q.ldb, q.b_transposed, k, panels.size(panel));
      }
      for (int64_t i = row0; i < row1; i += block_rows) {
        const int64_t m = smaller(block_rows, row1 - i);
        const T* a = q.a + (q.a_columns ? p * q.lda + i : i * q.lda + p);
        if (pack_a) pack_b(packed_a, block_rows, a, q.lda, false, k, m);
        for (int64_t panel = panel0; panel < panel1; ++panel) {
          const int64_t j = panels.begin(panel);
          multiply_of(PanelProduct<T>{pack_a ? packed_a : a, packed + (j - j0) * k, q.c + i * q.ldc + j, m,
                                      panels.size(panel), k, pack_a ? block_rows : q.lda, whole<T>(panels.size(panel)),
                                      q.ldc, q.a_columns, q.accumulate || block > 0});
        }
        if (q.finish && block == blocks - 1) q.finish(q.context, i, j0, m, n);
      }
    }
  });
}

template <class T>
void gemm_of(const Product<T>& q) {
  if (q.m == 0 || q.n == 0) return;
  if (q.m > kFewRows || q.a_columns) return gemm_panels(q);
  if (!q.b_transposed) return gemm_streams(q);
  // Short dot products would spend their time on adding up the lanes.
  q.k >= 4 * Vec<T>::lanes ? gemm_dots(q) : gemm_panels(q);
}

// ---- sums ----

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

}  // namespace

void multiply(const PanelProduct<float>& q) { multiply_of(q); }
void multiply(const PanelProduct<double>& q) { multiply_of(q); }
void multiply_dots(const PanelProduct<float>& q) { multiply_dots_of(q); }
void multiply_dots(const PanelProduct<double>& q) { multiply_dots_of(q); }
void gemm(const Product<float>& q) { gemm_of(q); }
void gemm(const Product<double>& q) { gemm_of(q); }
void column_sums(const float* x, int64_t rows, int64_t columns, float* y, bool accumulate) {
  column_sums_of(x, rows, columns, y, accumulate);
}
void column_sums(const double* x, int64_t rows, int64_t columns, double* y, bool accumulate) {
  column_sums_of(x, rows, columns, y, accumulate);
}

}  // namespace fastnn::FASTNN_ISA

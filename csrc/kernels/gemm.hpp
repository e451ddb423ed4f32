// The matrix product under convolution and linear layers: C (+)= A B on a register tile, and the driver that blocks it.
// Microkernels and driver are compiled in gemm.cpp; a kernel file that brings its own packing (conv/) calls multiply()
// panel by panel.
//   m, n, k    rows of A and C; columns of B and C; columns of A = rows of B
//   panel      up to 4 vectors of neighbouring columns of B; packed, its k rows lie one after another
// A is read where it lies: as rows, a[i * lda + p], or as columns, a[p * lda + i].
// Accuracy: one chain of fused multiply-adds per element and block of k; the blocks are added up.
#pragma once
#include "kernels/kernels.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {

// The largest tile: kTileRows[v] rows of v vectors. The accumulators, one row of B and a broadcast of A fill the
// registers: 32 with AVX-512, 16 elsewhere.
#if defined(FASTNN_ISA_AVX512) || defined(FASTNN_ISA_AMX)
constexpr int kTileVectors = 4, kMainVectors = 3, kTileRows[5] = {0, 10, 10, 8, 6};
#elif defined(FASTNN_ISA_AVX2)
constexpr int kTileVectors = 3, kMainVectors = 3, kTileRows[4] = {0, 8, 6, 4};
#else
constexpr int kTileVectors = 3, kMainVectors = 2, kTileRows[4] = {0, 6, 4, 3};
#endif
// Rows of a panel at a time: 3 x 384 vectors of 64 bytes stay in L2, a tile's rows of A in L1.
constexpr int64_t kBlockK = 384;

// One panel: C (m, n) = or += A (m, k) B (k, n), n at most kTileVectors vectors; every row of B is readable up to a
// whole number of vectors.
template <class T>
struct PanelProduct {
  const T *a, *b;
  T* c;
  int64_t m, n, k, lda, ldb, ldc;
  bool a_columns, accumulate;
};
void multiply(const PanelProduct<float>&);
void multiply(const PanelProduct<double>&);

// The same with B as rows along k, b[j * ldb + p], and A as rows; any n, neither is read beyond its end: for products
// whose C is too narrow for a panel.
void multiply_dots(const PanelProduct<float>&);
void multiply_dots(const PanelProduct<double>&);

// The whole product C (m, n) = or += A B. B is (k, n) with row stride ldb, or with b_transposed (n, k).
// After the last block, finish(context, row, column, rows, columns) is called once for each finished part of C.
template <class T>
struct Product {
  const T *a, *b;
  T* c;
  int64_t m, n, k, lda, ldb, ldc;
  bool a_columns, b_transposed, accumulate;
  void (*finish)(const void* context, int64_t row, int64_t column, int64_t rows, int64_t columns);
  const void* context;
};
void gemm(const Product<float>&);
void gemm(const Product<double>&);

// y (columns) = or += the sum of the rows of x (rows, columns).
void column_sums(const float* x, int64_t rows, int64_t columns, float* y, bool accumulate);
void column_sums(const double* x, int64_t rows, int64_t columns, double* y, bool accumulate);

namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Part i of [0, size) cut into `parts` parts whose lengths differ by at most one `unit`.
FASTNN_INLINE int64_t part_begin(int64_t size, int64_t parts, int64_t i, int64_t unit = 1) {
  return smaller(size, ceil_div(size, unit) * i / parts * unit);
}

// `columns` columns of vectors cut into panels: kMainVectors wide, the last one between 2 and kTileVectors vectors
// (a panel of a single vector would run at a third of the speed).
template <class T>
struct Panels {
  static constexpr int64_t lanes = Vec<T>::lanes;
  int64_t columns, vectors, count;

  explicit Panels(int64_t n)
      : columns(n),
        vectors(ceil_div(n, lanes)),
        count(vectors <= kTileVectors ? 1 : ceil_div(vectors - kTileVectors, kMainVectors) + 1) {}
  int64_t begin(int64_t i) const {
    if (i == count) return columns;
    return (i * kMainVectors - (i > 0 && i == count - 1 && vectors - i * kMainVectors == 1)) * lanes;
  }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};
// Columns in whole vectors: the row stride of a packed panel.
template <class T>
FASTNN_INLINE int64_t whole(int64_t n) {
  return ceil_div(n, Vec<T>::lanes) * Vec<T>::lanes;
}

// multiply() tile by tile; done(row, rows) ends each tile while it is in L1.
template <class T, class Done>
FASTNN_INLINE void multiply_tiles(PanelProduct<T> q, const Done& done) {
  const int64_t m = q.m, tiles = ceil_div(m, kTileRows[ceil_div(q.n, Vec<T>::lanes)]);
  const T* a = q.a;
  T* c = q.c;
  for (int64_t t = 0, row = 0; t < tiles; ++t, row += q.m) {
    q.m = ceil_div(m - row, tiles - t);
    q.a = a + (q.a_columns ? row : row * q.lda);
    q.c = c + row * q.ldc;
    multiply(q);
    done(row, q.m);
  }
}

// dst[p * ld + j] = B[p][j] for a block of k rows and n columns; lanes from n on are undefined.
template <class T>
void pack_b(T* dst, int64_t ld, const T* b, int64_t ldb, bool transposed, int64_t k, int64_t n) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const int64_t whole_n = n / lanes * lanes, whole_k = transposed ? k / lanes * lanes : k;
  if (transposed) {
    for (int64_t j = 0; j < whole_n; j += lanes)
      for (int64_t p = 0; p < whole_k; p += lanes) transpose(b + j * ldb + p, ldb, dst + p * ld + j, ld);
    for (int64_t p = 0; p < k; ++p)
      for (int64_t j = p < whole_k ? whole_n : 0; j < n; ++j) dst[p * ld + j] = b[j * ldb + p];
  } else {
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t j = 0; j < whole_n; j += lanes) store(dst + p * ld + j, load(b + p * ldb + j));
      if (whole_n < n)
        store(dst + p * ld + whole_n, load_partial(b + p * ldb + whole_n, static_cast<int>(n - whole_n)));
    }
  }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA

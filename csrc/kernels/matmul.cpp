// matmul: y[i] (m, n) = a[i] (m, k) b[i] (k, n) for matrices one after the other, either of which may be transposed in
// memory. Each is a product of gemm.cpp. Denormals are flushed. Gradients are products of the same kind.
#include "kernels/gemm.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/team.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

template <class T>
void matmul_forward_of(const MatmulArgs& q) {
  constexpr int64_t many = 8;  // products are tasks, for up to as many threads; of fewer each is cut itself
  const runtime::FlushDenormals flush;
  const T *a = static_cast<const T*>(q.a), *b = static_cast<const T*>(q.b);
  T* y = static_cast<T*>(q.y);
  const bool ta = q.transpose_a, tb = q.transpose_b;
  const auto one = [&](int64_t i) {
    gemm(Product<T>{a + i * q.m * q.k, b + i * q.k * q.n, y + i * q.m * q.n, q.m, q.n, q.k, ta ? q.m : q.k,
                    tb ? q.k : q.n, q.n, ta, tb, false, nullptr, nullptr});
  };
  if (q.count >= many)
    return runtime::parallel_for(q.count, q.count * q.m * q.n * q.k / 32, [&](int64_t i) { one(i); });
  for (int64_t i = 0; i < q.count; ++i) one(i);
}

}  // namespace

FASTNN_DEFINE(matmul_forward, MatmulArgs)

}  // namespace fastnn::FASTNN_ISA

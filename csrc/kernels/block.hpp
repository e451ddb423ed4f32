// A block of the memory pool for the length of a scope: for what is too large for a task's scratch memory, or lives
// while other kernels use theirs.
#pragma once
#include "runtime/pool.hpp"
#include "simd/simd.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

class PoolBlock {
 public:
  explicit PoolBlock(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes)), data_(bytes > 0 ? runtime::pool_allocate(bytes_) : nullptr) {
    if (bytes > 0 && data_ == nullptr) runtime::out_of_memory(bytes_);
  }
  ~PoolBlock() {
    if (data_) runtime::pool_free(data_, bytes_);
  }
  PoolBlock(const PoolBlock&) = delete;
  PoolBlock& operator=(const PoolBlock&) = delete;
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace
}  // namespace fastnn::FASTNN_ISA

// See scratch.hpp.
#include "runtime/scratch.hpp"

#include <cstdlib>

#include "runtime/pool.hpp"

namespace fastnn::runtime {
namespace {

constexpr size_t kPage = 4096;
// From here on a buffer takes at least one huge page: a kernel that goes to and fro between many small ones waits for
// their addresses (the tile convolution of 64 channels @56, planes and weights: 10 % of its time).
constexpr size_t kLarge = size_t{128} << 10, kHuge = size_t{2} << 20;

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;

  void release() {
    if (bytes >= kHuge)
      pool_free(data, bytes);
    else
      std::free(data);
    data = nullptr;
    bytes = 0;
  }
  ~Buffer() { release(); }
};
thread_local Buffer t_buffers[2];

}  // namespace

void* scratch(Slot slot, size_t bytes) {
  Buffer& buffer = t_buffers[static_cast<int>(slot)];
  if (bytes > buffer.bytes || buffer.data == nullptr) {
    // The old contents are undefined anyway, so free first: the peak is one buffer, not two.
    buffer.release();
    const size_t unit = bytes < kLarge ? kPage : kHuge, rounded = bytes / unit * unit + unit;
    buffer.data = unit == kHuge ? pool_allocate(rounded) : std::aligned_alloc(64, rounded);
    if (buffer.data == nullptr) out_of_memory(rounded);
    buffer.bytes = rounded;
  }
  return buffer.data;
}

void release_scratch() {
  for (Buffer& buffer : t_buffers) buffer.release();
}

}  // namespace fastnn::runtime

// See scratch.hpp.
#include "runtime/scratch.hpp"

#include <cstdio>
#include <cstdlib>

namespace fastnn::runtime {
namespace {

constexpr size_t kPage = 4096;

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;

  void release() {
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
    const size_t rounded = (bytes + kPage) / kPage * kPage;
    buffer.data = std::aligned_alloc(64, rounded);
    if (buffer.data == nullptr) {
      std::fprintf(stderr, "fastnn: out of memory: no %zu bytes of scratch for a kernel\n", rounded);
      std::abort();
    }
    buffer.bytes = rounded;
  }
  return buffer.data;
}

void release_scratch() {
  for (Buffer& buffer : t_buffers) buffer.release();
}

}  // namespace fastnn::runtime

// See threads.hpp.
#include "runtime/threads.hpp"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "runtime/cgroup.hpp"

namespace fastnn::runtime {
namespace {

// The whole number that `text` begins with when `end_with` follows it (or the text ends), else 0. At most kMaxThreads.
int parse(const char* text, char end_with) {
  char* end;
  errno = 0;
  const long value = std::strtol(text, &end, 10);
  while (*end == ' ') ++end;
  const bool ends = end != text && (*end == '\0' || *end == end_with);
  return ends && errno == 0 && value >= 1 && value <= kMaxThreads ? static_cast<int>(value) : 0;
}

int affinity() {
#if defined(__linux__)
  // The mask must be as long as the kernel's, which is told by refusing shorter ones.
  for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
    cpu_set_t* mask = CPU_ALLOC(processors);
    if (mask == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(processors);
    const bool known = sched_getaffinity(0, bytes, mask) == 0;
    const bool too_short = !known && errno == EINVAL;
    const int count = known ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (count > 0) return count;
    if (!too_short) break;
  }
#endif
  const int count = static_cast<int>(std::thread::hardware_concurrency());
  return count > 0 ? count : 1;
}

int round_up(double quota) {
  return quota < 1 ? 1 : quota >= kMaxThreads ? kMaxThreads : static_cast<int>(std::ceil(quota));
}

}  // namespace

int choose_threads(const char* fastnn_num_threads, const char* omp_num_threads, int affinity, double quota,
                   const char** reason) {
  static thread_local char text[160];
  *reason = text;
  if (fastnn_num_threads != nullptr && *fastnn_num_threads != '\0') {
    const int count = parse(fastnn_num_threads, '\0');
    if (count > 0)
      std::snprintf(text, sizeof text, "FASTNN_NUM_THREADS=%d", count);
    else
      std::snprintf(text, sizeof text, "FASTNN_NUM_THREADS must be a whole number from 1 to %d, got '%.60s'",
                    kMaxThreads, fastnn_num_threads);
    return count;
  }
  int count = affinity < kMaxThreads ? affinity : kMaxThreads;
  std::snprintf(text, sizeof text, "processors that this process may run on: %d", affinity);
  if (round_up(quota) < count) {
    count = round_up(quota);
    std::snprintf(text, sizeof text, "CPU quota of the container: %.4g", quota);
  }
  // A list ("4,2") is one number per level of nesting; what is not a number was meant for another program's eyes.
  const int omp = omp_num_threads != nullptr ? parse(omp_num_threads, ',') : 0;
  if (omp > 0 && omp < count) {
    count = omp;
    std::snprintf(text, sizeof text, "OMP_NUM_THREADS=%d", omp);
  }
  return count;
}

int default_threads(const char** reason) {
  return choose_threads(std::getenv("FASTNN_NUM_THREADS"), std::getenv("OMP_NUM_THREADS"), affinity(),
                        cgroup_cpu_quota(), reason);
}

int usable_processors() {
  const int quota = round_up(cgroup_cpu_quota()), cores = affinity();
  return quota < cores ? quota : cores;
}

}  // namespace fastnn::runtime

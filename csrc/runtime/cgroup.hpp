// What the container allows this process: control groups, version 1 and 2, as Linux tells them under /proc/self.
// Elsewhere there are none. The folder is a parameter so that tests can show a machine that is not theirs.
#pragma once
#include <cstdint>

namespace fastnn::runtime {

// Processors' worth of time per period, the smallest along the path of groups; infinity when unlimited.
double cgroup_cpu_quota(const char* proc_self = "/proc/self");

// Bytes, the smallest along the path; UINT64_MAX when unlimited.
uint64_t cgroup_memory_limit(const char* proc_self = "/proc/self");

}  // namespace fastnn::runtime

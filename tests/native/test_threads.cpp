// The default number of threads: the decision on stated facts, the limits of containers on made-up machines.
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "check.hpp"
#include "runtime/cgroup.hpp"
#include "runtime/threads.hpp"

namespace {

using namespace fastnn::runtime;
constexpr double kUnlimited = std::numeric_limits<double>::infinity();

void expect(int count, const char* word, const char* fastnn, const char* omp, int affinity, double quota) {
  const char* reason = nullptr;
  const int got = choose_threads(fastnn, omp, affinity, quota, &reason);
  CHECK(got == count && std::strstr(reason, word),
        "FASTNN_NUM_THREADS=%s OMP_NUM_THREADS=%s affinity %d quota %g: %d (%s)", fastnn ? fastnn : "-",
        omp ? omp : "-", affinity, quota, got, reason);
}

void smallest_limit_counts() {
  expect(8, "may run on: 8", nullptr, nullptr, 8, kUnlimited);
  expect(2, "quota of the container: 1.5", nullptr, nullptr, 8, 1.5);
  expect(1, "quota of the container: 0.05", nullptr, nullptr, 8, 0.05);
  expect(4, "quota", nullptr, nullptr, 8, 4.0);
  expect(8, "may run on", nullptr, nullptr, 8, 7.5);
  expect(3, "OMP_NUM_THREADS=3", nullptr, "3", 8, kUnlimited);
  expect(3, "OMP_NUM_THREADS=3", nullptr, "3", 8, 3.5);
  expect(2, "quota", nullptr, "3", 8, 2.0);
  expect(8, "may run on", nullptr, "16", 8, kUnlimited);
  expect(kMaxThreads, "may run on", nullptr, nullptr, 5000, kUnlimited);
}

void omp_that_is_no_number_is_not_ours() {
  expect(4, "OMP_NUM_THREADS=4", nullptr, "4,2", 8, kUnlimited);
  for (const char* omp : {"", "0", "-1", "many", "99999999999999999999", "2x"})
    expect(8, "may run on", nullptr, omp, 8, kUnlimited);
}

void own_variable_wins_or_is_an_error() {
  expect(16, "FASTNN_NUM_THREADS=16", "16", "2", 8, 1.0);
  expect(1, "FASTNN_NUM_THREADS=1", " 1 ", nullptr, 8, kUnlimited);
  expect(kMaxThreads, "FASTNN_NUM_THREADS=1024", "1024", nullptr, 8, kUnlimited);
  expect(8, "may run on", "", nullptr, 8, kUnlimited);  // empty counts as not set
  for (const char* wrong : {"0", "-3", "1025", "2.5", "two", "3,4", "3 4", "99999999999999999999", " "})
    expect(0, "must be a whole number from 1 to 1024, got '", wrong, nullptr, 8, kUnlimited);
}

void this_machine() {
  const char* reason = nullptr;
  unsetenv("FASTNN_NUM_THREADS");
  unsetenv("OMP_NUM_THREADS");
  const int count = default_threads(&reason);
  std::printf("       %d (%s)\n", count, reason);
  CHECK(count >= 1 && count <= sysconf(_SC_NPROCESSORS_CONF), "%d threads", count);
  CHECK(count == usable_processors(), "%d threads, %d processors", count, usable_processors());
  setenv("FASTNN_NUM_THREADS", "7", 1);
  CHECK(default_threads(&reason) == 7, "%s", reason);
}

// A machine made of files. Mount points in mountinfo lead to folders below the machine's own.
struct Machine {
  std::string root;
  Machine() {
    char name[] = "/tmp/fastnn-test-XXXXXX";
    root = mkdtemp(name);
  }
  ~Machine() { std::filesystem::remove_all(root); }
  void file(const std::string& path, const std::string& text) const {
    const std::filesystem::path full = root + "/" + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  double quota() const { return cgroup_cpu_quota(root.c_str()); }
  uint64_t memory() const { return cgroup_memory_limit(root.c_str()); }
};

void version_2() {
  const Machine m;
  m.file("cgroup", "0::/a.slice/b.scope\n");
  m.file("mountinfo",
         "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
         "31 22 0:28 / " +
             m.root + "/fs rw,nosuid shared:9 master:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  CHECK(m.quota() == kUnlimited && m.memory() == UINT64_MAX, "limits without files: %g", m.quota());
  m.file("fs/a.slice/b.scope/cpu.max", "max 100000\n");
  m.file("fs/a.slice/b.scope/memory.max", "max\n");
  CHECK(m.quota() == kUnlimited && m.memory() == UINT64_MAX, "max is no limit: %g", m.quota());
  m.file("fs/a.slice/b.scope/cpu.max", "250000 100000\n");
  m.file("fs/a.slice/b.scope/memory.max", "1073741824\n");
  CHECK(m.quota() == 2.5 && m.memory() == 1073741824, "own limit: %g", m.quota());
  m.file("fs/a.slice/cpu.max", "75000 50000\n");
  m.file("fs/a.slice/memory.max", "1048576\n");
  CHECK(m.quota() == 1.5 && m.memory() == 1048576, "the limit of the group above: %g", m.quota());
  m.file("fs/cpu.max", "100000 200000\n");
  CHECK(m.quota() == 0.5, "the limit at the mount point: %g", m.quota());
  m.file("fs/cpu.max", "nonsense");
  CHECK(m.quota() == 1.5, "a file that is not understood is no limit: %g", m.quota());
}

void version_1_and_hybrid() {
  const Machine m;
  m.file("cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n2:cpuset:/elsewhere\n0::/\n");
  // As inside a container: the path is the host's, the mount shows only the end of it.
  m.file("mountinfo", "31 22 0:28 /docker/abc " + m.root +
                          "/cpu ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
                          "32 22 0:29 /docker/abc " +
                          m.root +
                          "/memory ro,nosuid - cgroup cgroup rw,memory\n"
                          "33 22 0:30 / " +
                          m.root + "/unified ro,nosuid - cgroup2 cgroup2 rw\n");
  m.file("cpu/cpu.cfs_quota_us", "-1\n");
  m.file("cpu/cpu.cfs_period_us", "100000\n");
  CHECK(m.quota() == kUnlimited, "-1 is no limit: %g", m.quota());
  m.file("cpu/cpu.cfs_quota_us", "350000\n");
  m.file("memory/memory.limit_in_bytes", "536870912\n");
  CHECK(m.quota() == 3.5 && m.memory() == 536870912, "own limit: %g", m.quota());
  // As on the host: the whole path below the mount.
  const Machine host;
  host.file("cgroup", "5:cpuacct,cpu:/user/1\n");
  host.file("mountinfo", "31 22 0:28 / " + host.root + "/cpu rw - cgroup cgroup rw,cpuacct,cpu\n");
  host.file("cpu/user/1/cpu.cfs_quota_us", "20000\n");
  host.file("cpu/user/1/cpu.cfs_period_us", "10000\n");
  CHECK(host.quota() == 2.0, "the limit below the mount: %g", host.quota());
}

void no_groups_at_all() {
  CHECK(cgroup_cpu_quota("/nonexistent") == kUnlimited && cgroup_memory_limit("/nonexistent") == UINT64_MAX,
        "limits out of nothing");
}

}  // namespace

int main() {
  return test::run({{"smallest_limit_counts", smallest_limit_counts},
                    {"omp_that_is_no_number_is_not_ours", omp_that_is_no_number_is_not_ours},
                    {"own_variable_wins_or_is_an_error", own_variable_wins_or_is_an_error},
                    {"this_machine", this_machine},
                    {"version_2", version_2},
                    {"version_1_and_hybrid", version_1_and_hybrid},
                    {"no_groups_at_all", no_groups_at_all}});
}

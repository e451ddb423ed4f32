// See cgroup.hpp. The group's path comes from /proc/self/cgroup, where its files are mounted from /proc/self/mountinfo;
// limits of the groups above hold too, so every level up to the mount point is asked.
#include "runtime/cgroup.hpp"

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace fastnn::runtime {
namespace {

std::string read_file(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "re")) {
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
    std::fclose(file);
  }
  return text;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool lists(const std::string& comma_separated, const std::string& word) {
  for (const std::string& part : split(comma_separated, ','))
    if (part == word) return true;
  return false;
}

// The path of this process's group in the hierarchy of `controller` ("" for version 2); "" when there is none.
std::string group_path(const std::string& proc_self, const std::string& controller) {
  for (const std::string& line : split(read_file(proc_self + "/cgroup"), '\n')) {  // id:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : lists(controllers, controller)) return line.substr(second + 1);
  }
  return "";
}

// Calls visit(folder, version) for every group that this process is in, from its own up to the mount point.
template <class Visit>
void visit_groups(const std::string& proc_self, const std::string& controller, Visit visit) {
  for (const std::string& line : split(read_file(proc_self + "/mountinfo"), '\n')) {
    // id parent major:minor root mount-point options [optional ...] - type source super-options
    const std::vector<std::string> fields = split(line, ' ');
    size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 3 >= fields.size()) continue;
    const std::string &root = fields[3], &mount_point = fields[4], &type = fields[dash + 1];
    const bool v2 = type == "cgroup2", v1 = type == "cgroup" && lists(fields[dash + 3], controller);
    if (!v1 && !v2) continue;
    std::string path = group_path(proc_self, v2 ? "" : controller);
    // Inside a container the path may be told as the host sees it, and only its end is mounted here.
    if (root != "/" && path.compare(0, root.size(), root) == 0) path.erase(0, root.size());
    while (true) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      visit(mount_point + path, v2 ? 2 : 1);
      if (path.empty()) break;
      path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
}

}  // namespace

double cgroup_cpu_quota(const char* proc_self) {
  double smallest = std::numeric_limits<double>::infinity();
  visit_groups(proc_self, "cpu", [&](const std::string& folder, int version) {
    double quota = 0, period = 0;  // microseconds; "max" and -1 mean no limit
    if (version == 2) {
      if (std::sscanf(read_file(folder + "/cpu.max").c_str(), "%lf %lf", &quota, &period) != 2) return;
    } else {
      quota = std::atof(read_file(folder + "/cpu.cfs_quota_us").c_str());
      period = std::atof(read_file(folder + "/cpu.cfs_period_us").c_str());
    }
    if (quota > 0 && period > 0 && quota / period < smallest) smallest = quota / period;
  });
  return smallest;
}

uint64_t cgroup_memory_limit(const char* proc_self) {
  uint64_t smallest = std::numeric_limits<uint64_t>::max();
  visit_groups(proc_self, "memory", [&](const std::string& folder, int version) {
    const std::string text = read_file(folder + (version == 2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const uint64_t limit = std::strtoull(text.c_str(), nullptr, 10);  // "max" reads as 0
    if (limit > 0 && limit < smallest) smallest = limit;
  });
  return smallest;
}

}  // namespace fastnn::runtime

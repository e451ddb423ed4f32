// See team.hpp.
#include "runtime/team.hpp"

#include <atomic>

namespace fastnn::runtime {
namespace {

std::atomic<int> g_threads{1};

}  // namespace

int num_threads() { return g_threads.load(std::memory_order_relaxed); }
void set_num_threads(int n) { g_threads.store(n, std::memory_order_relaxed); }

void run_tasks(int64_t tasks, int64_t, void (*fn)(void*, int64_t), void* context) {
  for (int64_t task = 0; task < tasks; ++task) fn(context, task);
}

Session::Session() : owner_(false) {}
Session::~Session() = default;

}  // namespace fastnn::runtime

// A library that uses the team, for test_team to load and unload.
#include <atomic>

#include "runtime/team.hpp"

extern "C" __attribute__((visibility("default"))) int run_on_team() {
  fastnn::runtime::set_num_threads(2);
  std::atomic<int> ran{0};
  fastnn::runtime::parallel_for(100, 1000000000, [&](int64_t) { ++ran; });
  return ran;
}

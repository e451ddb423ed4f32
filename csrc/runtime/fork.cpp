// See fork.hpp. The team comes first: the call that it waits for may still need the pool to end.
#include "runtime/fork.hpp"

#include <pthread.h>

namespace fastnn::runtime {
namespace {

void before() {
  team_before_fork();
  pool_before_fork();
}
void after() {
  pool_after_fork();
  team_after_fork();
}

}  // namespace

bool register_fork_handlers() {
  static const bool registered = pthread_atfork(before, after, after) == 0;
  return registered;
}

}  // namespace fastnn::runtime

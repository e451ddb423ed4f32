// The thread team: runs the numbered tasks of one kernel call on a fixed set of threads.
//
// - Work is cut by shape into tasks, never by thread count, so the bits do not depend on how many threads run them.
// - Each thread starts with its contiguous part of the tasks, the same part in every call of that shape, so that data
//   stays in its cache; when done it takes from the ends of the others' parts, so that a disturbed thread delays
//   nobody.
// - The first Python thread to call gets the team; others meanwhile, and calls from inside a task, run serially.
// - Workers spin briefly for the next call, then sleep. They inherit the caller's floating-point state for each call.
// - Workers are joined before a fork and start again, on either side, when next needed. The fork waits for a call or
//   session that another thread is in, so a Session must not live across waiting for a lock of the forking thread
//   (Python's, say), and a task must not fork.
#pragma once
#include <cstdint>

namespace fastnn::runtime {

// The count in use: what was set, or default_threads() of threads.hpp.
int num_threads();
void set_num_threads(int n);  // 1 <= n <= kMaxThreads; more than the processors is allowed, and then nobody spins

// Runs fn(context, task) for every task in [0, tasks), each exactly once, and returns when all are done.
// `nanoseconds` is a rough estimate of the whole on one thread; below the cost of waking a worker it runs serially.
void run_tasks(int64_t tasks, int64_t nanoseconds, void (*fn)(void*, int64_t), void* context);

// Joins the workers, which gives back their stacks and scratch memory; they start again when next needed. Waits for the
// call or session that another thread is in. Not for use inside a task.
void stop_workers();

// While it lives, the calling thread keeps the team, awake (spinning) between calls: one program run, one session.
// Inside a task, in another Session, or while another thread has the team it does nothing.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  bool owner_;
};

// For lambdas: parallel_for(tasks, nanoseconds, [&](int64_t task) { ... }). Static, so that no instruction set's copy
// can be linked into another's.
template <class Body>
[[maybe_unused]] static inline void parallel_for(int64_t tasks, int64_t nanoseconds, Body&& body) {
  if (tasks == 1) {
    body(int64_t{0});
    return;
  }
  run_tasks(
      tasks, nanoseconds, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace fastnn::runtime

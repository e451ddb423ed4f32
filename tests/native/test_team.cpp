// The thread team: every task once, the same bits for any count, one caller at a time, forks, floating-point state,
// sessions, the end of threads, libraries and processes.
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "check.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/scratch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace {

using namespace fastnn::runtime;
using Clock = std::chrono::steady_clock;
constexpr int64_t kMuch = 1000000000;  // nanoseconds: worth every thread

bool wait_until(const std::atomic<int>& value, int at_least) {
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  while (value.load() < at_least) {
    if (Clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// `count` tasks that wait for each other: they can only end when as many threads run them.
bool all_threads_meet(int count) {
  std::atomic<int> arrived{0}, met{0};
  parallel_for(count, kMuch, [&](int64_t) {
    ++arrived;
    if (wait_until(arrived, count)) ++met;
  });
  return met == count;
}

bool every_task_once(int64_t tasks, int64_t nanoseconds = kMuch) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
  parallel_for(tasks, nanoseconds, [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
  for (const std::atomic<int>& n : runs)
    if (n != 1) return false;
  return true;
}

[[maybe_unused]] int os_threads() {
  int count = -1;
  if (std::FILE* file = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, file)) std::sscanf(line, "Threads: %d", &count);
    std::fclose(file);
  }
  return count;
}

// Runs in a child process, which must end by itself with status 0.
template <class Body>
void in_child(const char* what, Body body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a hang ends the child
    _exit(body() ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child ended with status 0x%x", what, status);
}

void each_task_exactly_once() {
  for (int threads : {1, 2, 3, 8, 33}) {
    set_num_threads(threads);
    CHECK(num_threads() == threads, "%d threads set, %d in use", threads, num_threads());
    for (int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 1000, 20000})
      CHECK(every_task_once(tasks), "%lld tasks on %d threads", static_cast<long long>(tasks), threads);
    for (int i = 0; i < 50; ++i) {
      const int64_t tasks = test::random(0, 300);
      CHECK(every_task_once(tasks), "%lld tasks on %d threads", static_cast<long long>(tasks), threads);
    }
  }
}

// Short rounds, one after the other: a worker that is late for one takes part in the next.
void rounds_do_not_mix() {
  for (int threads : {2, 3, 8}) {
    set_num_threads(threads);
    const Session session;
    std::vector<int64_t> seen(64);
    for (int64_t round = 1; round <= 3000; ++round) {
      const int64_t tasks = round % 63 + 2;
      parallel_for(tasks, kMuch, [&](int64_t task) { seen[static_cast<size_t>(task)] += round; });
      int64_t wrong = 0;
      for (size_t i = 0; i < 64; ++i) wrong += seen[i] != (static_cast<int64_t>(i) < tasks ? round : 0);
      CHECK(wrong == 0, "round %lld on %d threads: %lld tasks", static_cast<long long>(round), threads,
            static_cast<long long>(wrong));
      seen.assign(64, 0);
    }
  }
}

void threads_really_run_together() {
  for (int threads : {2, 3, 8, 20}) {  // 20 are more than most machines of the tests have
    set_num_threads(threads);
    for (int i = 0; i < 10; ++i) CHECK(all_threads_meet(threads), "%d threads did not meet", threads);
  }
}

void little_work_stays_on_the_callers_thread() {
  set_num_threads(4);
  all_threads_meet(4);  // the workers are awake
  std::atomic<int> elsewhere{0};
  const auto self = std::this_thread::get_id();
  for (int i = 0; i < 1000; ++i)
    parallel_for(8, 500, [&](int64_t) { elsewhere += std::this_thread::get_id() != self; });
  CHECK(elsewhere == 0, "%d tasks of 60 ns were sent to other threads", elsewhere.load());
}

// One task holds its thread until all others are done, in every position: someone else must have taken them.
void a_busy_thread_delays_only_its_own_task() {
  set_num_threads(3);
  for (int slow = 0; slow < 12; ++slow) {
    std::atomic<int> others{0};
    bool in_time = false;
    parallel_for(12, kMuch, [&](int64_t task) {
      if (task == slow)
        in_time = wait_until(others, 11);
      else
        ++others;
    });
    CHECK(in_time, "tasks waited behind task %d", slow);
  }
}

// The caller has nothing left to do long before the others: it falls asleep and must be woken.
void a_caller_that_waits_is_woken() {
  for (int threads : {2, 3, 8}) {
    set_num_threads(threads);
    const auto caller = std::this_thread::get_id();
    std::atomic<int> arrived{0}, done{0};
    parallel_for(threads, kMuch, [&](int64_t) {
      ++arrived;
      wait_until(arrived, threads);
      if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ++done;
    });
    CHECK(done == threads, "returned after %d of %d tasks", done.load(), threads);
  }
}

// Partial sums of floats, whose result depends on the order, combined in the order of the tasks.
void same_bits_for_any_count() {
  std::vector<float> x(100000);
  for (float& v : x) v = static_cast<float>(static_cast<double>(test::random()) / 1.8e19 - 0.5);
  const auto sum = [&] {
    std::vector<float> partial(37);
    parallel_for(37, kMuch, [&](int64_t task) {
      float total = 0;
      for (size_t i = static_cast<size_t>(task); i < x.size(); i += 37) total += x[i];
      partial[static_cast<size_t>(task)] = total;
    });
    float total = 0;
    for (float p : partial) total += p;
    return total;
  };
  set_num_threads(1);
  const float expected = sum();
  for (int threads : {2, 3, 8}) {
    set_num_threads(threads);
    for (int i = 0; i < 20; ++i) {
      const float got = sum();
      CHECK(std::memcmp(&got, &expected, sizeof got) == 0, "%d threads: %.9g, one: %.9g", threads,
            static_cast<double>(got), static_cast<double>(expected));
    }
  }
}

void nested_calls_run_on_their_own_thread() {
  for (int threads : {1, 2, 8, -8}) {
    set_num_threads(std::abs(threads));
    std::optional<Session> outer;
    if (threads < 0) outer.emplace();
    std::atomic<int> elsewhere{0}, runs{0};
    parallel_for(16, kMuch, [&](int64_t) {
      const auto self = std::this_thread::get_id();
      const Session session;  // has no effect here
      parallel_for(10, kMuch, [&](int64_t) {
        elsewhere += std::this_thread::get_id() != self;
        ++runs;
      });
    });
    CHECK(runs == 160 && elsewhere == 0, "%d threads: %d runs, %d elsewhere", threads, runs.load(), elsewhere.load());
  }
  set_num_threads(2);
  CHECK(all_threads_meet(2), "the team is lost after nested calls");
}

void several_callers_at_once() {
  set_num_threads(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int id = 0; id < 4; ++id)
    callers.emplace_back([&, id] {
      for (int i = 0; i < 300; ++i) {
        wrong += !every_task_once((i * 7 + id) % 50 + 2, i % 3 == 0 ? 100 : kMuch);
        if (i % 50 == 0) set_num_threads(2 + (i / 50 + id) % 3);
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "%d calls went wrong", wrong.load());
}

void the_first_caller_has_the_team() {
  set_num_threads(2);
  std::atomic<int> inside{0}, elsewhere{0}, runs{0}, go{0};
  std::thread second([&] {
    wait_until(inside, 2);
    const auto self = std::this_thread::get_id();
    const Session session;
    parallel_for(20, kMuch, [&](int64_t) {
      elsewhere += std::this_thread::get_id() != self;
      ++runs;
    });
    go = 1;
  });
  parallel_for(2, kMuch, [&](int64_t) {
    ++inside;
    wait_until(go, 1);
  });
  second.join();
  CHECK(go == 1 && runs == 20, "the second caller waited for the first");
  CHECK(elsewhere == 0, "the second caller used the first one's team");
  std::thread third([&] { CHECK(all_threads_meet(2), "a later caller does not get the team"); });
  third.join();
}

void floating_point_state_is_the_callers() {
#if defined(__x86_64__)
  set_num_threads(4);
  const unsigned before = fp_control();
  const unsigned round_up = (before & ~0x6000u) | 0x4000u;
  for (unsigned control : {before, before | 0x8040u, round_up, before}) {
    set_fp_control(control);
    std::atomic<int> arrived{0}, wrong{0};
    volatile float tiny = 1e-40f, one = 1.0f, three = 3.0f;
    const float expected_tiny = tiny * one, expected_third = one / three;
    parallel_for(4, kMuch, [&](int64_t) {
      ++arrived;
      wait_until(arrived, 4);  // one task on each thread
      const float got_tiny = tiny * one, got_third = one / three;
      wrong += std::memcmp(&got_tiny, &expected_tiny, 4) != 0 || std::memcmp(&got_third, &expected_third, 4) != 0;
      wrong += (fp_control() & ~0x3fu) != (control & ~0x3fu);  // but for the flags of what has happened
      set_fp_control(before ^ 0x8000u);                        // what a task leaves behind stays on its thread
    });
    CHECK(wrong == 0, "control 0x%x: %d threads have another", control, wrong.load());
    set_fp_control(before);
  }
  {
    const FlushDenormals flush;
    CHECK((fp_control() & 0x8040u) == 0x8040u, "denormals are not flushed");
    std::atomic<int> arrived{0}, flushing{0};
    parallel_for(4, kMuch, [&](int64_t) {
      ++arrived;
      wait_until(arrived, 4);
      flushing += (fp_control() & 0x8040u) == 0x8040u;
    });
    CHECK(flushing == 4, "only %d of 4 threads flush denormals", flushing.load());
  }
  CHECK(fp_control() == before, "the caller's state is 0x%x, was 0x%x", fp_control(), before);
#else
  std::printf("       not run: this processor's state is not handled\n");
#endif
}

void sessions() {
  set_num_threads(3);
  {
    const Session session;
    CHECK(all_threads_meet(3), "the team does not work in a session");
    const Session inner;  // has no effect
    CHECK(all_threads_meet(3), "the team does not work in a session inside a session");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(all_threads_meet(3), "the team does not work after a pause in a session");
    std::thread other([&] {
      std::atomic<int> elsewhere{0};
      const auto self = std::this_thread::get_id();
      parallel_for(20, kMuch, [&](int64_t) { elsewhere += std::this_thread::get_id() != self; });
      CHECK(elsewhere == 0, "another thread used the team of a session");
    });
    other.join();
    set_num_threads(5);
    CHECK(all_threads_meet(5), "the count cannot grow in a session");
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(all_threads_meet(5), "the team does not work after a session");
  std::thread other([&] { CHECK(all_threads_meet(5), "the team was not returned after a session"); });
  other.join();
}

void scratch_is_per_thread() {
  set_num_threads(4);
  std::atomic<int> arrived{0}, wrong{0};
  void* shared = scratch(Slot::kShared, 1000);
  parallel_for(4, kMuch, [&](int64_t task) {
    auto* mine = static_cast<int64_t*>(scratch(Slot::kTask, 1 << 16));
    wrong += reinterpret_cast<uintptr_t>(mine) % 64 != 0 || mine == shared;
    for (int i = 0; i < (1 << 16) / 8; ++i) mine[i] = task;
    ++arrived;
    wait_until(arrived, 4);
    for (int i = 0; i < (1 << 16) / 8; ++i) wrong += mine[i] != task;
    wrong += scratch(Slot::kTask, 100) != mine;  // kept between calls
  });
  CHECK(wrong == 0, "%d errors", wrong.load());
  CHECK(scratch(Slot::kShared, 10) == shared, "the shared slot moved");
  CHECK(scratch(Slot::kTask, 0) != nullptr, "no scratch for nothing");
  release_scratch();
}

void stop_and_start_again() {
  set_num_threads(4);
  CHECK(all_threads_meet(4), "4 threads did not meet");
#if defined(__linux__) && !defined(__SANITIZE_THREAD__)  // which has a thread of its own
  CHECK(os_threads() >= 4, "%d threads", os_threads());
  stop_workers();
  // The kernel lets go of a thread a moment after it can be joined.
  for (int i = 0; i < 10000 && os_threads() > 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(os_threads() == 1, "%d threads after the stop", os_threads());
#endif
  stop_workers();
  stop_workers();  // there is nothing to stop
  CHECK(all_threads_meet(4), "4 threads did not meet again");
  const Session session;
  stop_workers();
  CHECK(all_threads_meet(4), "4 threads did not meet in a session after a stop");
}

void fewer_threads_than_asked_for() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::printf("       not run: sanitizers need the address space that is taken away here\n");
#else
  in_child("little address space", [] {
    set_num_threads(2);
    if (!all_threads_meet(2)) return false;
    const rlimit room = {size_t{256} << 20, size_t{256} << 20};  // for about 20 stacks
    if (setrlimit(RLIMIT_AS, &room) != 0) return false;
    set_num_threads(1000);
    const bool once = every_task_once(5000) && every_task_once(5000);
    return once && os_threads() < 1000 && all_threads_meet(2);
  });
#endif
}

void callers_that_come_and_go() {
  set_num_threads(2);
  for (int i = 0; i < 100; ++i) {
    std::thread caller([&] { CHECK(every_task_once(10), "call from thread %d", i); });
    caller.join();
  }
}

void fork_in_parent_and_child() {
  for (int threads : {1, 2, 8}) {
    set_num_threads(threads);
    CHECK(all_threads_meet(threads), "before the fork");
    in_child("after a call", [&] {
      if (!all_threads_meet(threads) || !every_task_once(100)) return false;
      bool grandchild = false;
      in_child("child of a child", [&] { return all_threads_meet(threads); });
      grandchild = test::failures == 0;
      return grandchild && all_threads_meet(threads);
    });
    CHECK(all_threads_meet(threads), "in the parent after the fork, %d threads", threads);
  }
}

void fork_in_a_session() {
  set_num_threads(3);
  const Session session;
  CHECK(all_threads_meet(3), "before the fork");
  in_child("in a session", [] { return all_threads_meet(3) && all_threads_meet(3); });
  CHECK(all_threads_meet(3), "after the fork");
}

void a_fork_waits_for_the_call_of_another_thread() {
#if defined(__SANITIZE_THREAD__)
  std::printf("       not run: the thread sanitizer's own locks do not survive a fork from several threads\n");
#else
  set_num_threads(2);
  std::atomic<int> inside{0}, go{0}, done{0};
  std::thread other([&] {
    const Session session;
    parallel_for(2, kMuch, [&](int64_t) {
      ++inside;
      wait_until(go, 1);
    });
    done = 1;
  });
  std::thread opener([&] {
    wait_until(inside, 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    go = 1;
  });
  wait_until(inside, 2);
  in_child("while another thread is in a call", [&] { return done == 1 && all_threads_meet(2); });
  CHECK(done == 1, "the fork did not wait");
  other.join();
  opener.join();
  CHECK(all_threads_meet(2), "after the fork");
#endif
}

void fork_while_another_thread_runs() {
#if defined(__SANITIZE_THREAD__)
  std::printf("       not run: the thread sanitizer's own locks do not survive a fork from several threads\n");
#else
  set_num_threads(2);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, calls{0};
  std::thread other([&] {
    while (!stop) {
      const Session session;
      for (int i = 0; i < 20; ++i) wrong += !every_task_once(30);
      ++calls;
    }
  });
  wait_until(calls, 1);
  for (int i = 0; i < 50; ++i)
    in_child("while another thread runs", [] { return every_task_once(50) && all_threads_meet(2); });
  stop = true;
  other.join();
  CHECK(wrong == 0, "%d calls went wrong around the forks", wrong.load());
  CHECK(all_threads_meet(2), "after the forks");
#endif
}

// exit() destroys static objects under the feet of threads that spin, sleep or work.
void the_process_may_end_at_any_time() {
  set_num_threads(3);
  for (int pause : {0, 1, 30}) {  // milliseconds: spinning, falling asleep, asleep
    in_child("exit after a call", [&]() -> bool {
      all_threads_meet(3);
      std::this_thread::sleep_for(std::chrono::milliseconds(pause));
      std::exit(0);
    });
    in_child("exit in a session", [&]() -> bool {
      const Session session;
      all_threads_meet(3);
      std::this_thread::sleep_for(std::chrono::milliseconds(pause));
      std::exit(0);
    });
  }
  in_child("exit while another thread is in a call", []() -> bool {
    std::atomic<int> inside{0}, never{0};
    std::thread other([&] {
      parallel_for(2, kMuch, [&](int64_t) {
        ++inside;
        wait_until(never, 1);
      });
    });
    other.detach();
    wait_until(inside, 2);
    std::exit(0);
  });
}

void the_library_may_be_unloaded() {
  in_child("unload", [] {
    for (int i = 0; i < 3; ++i) {
      void* library = dlopen(FASTNN_TEAM_MODULE, RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) return false;
      auto* run = reinterpret_cast<int (*)()>(dlsym(library, "run_on_team"));
      if (run == nullptr || run() != 100) return false;
      dlclose(library);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the workers go on in code that must still be there
    }
    return true;
  });
}

}  // namespace

int main() {
  return test::run({{"each_task_exactly_once", each_task_exactly_once},
                    {"rounds_do_not_mix", rounds_do_not_mix},
                    {"threads_really_run_together", threads_really_run_together},
                    {"little_work_stays_on_the_callers_thread", little_work_stays_on_the_callers_thread},
                    {"a_busy_thread_delays_only_its_own_task", a_busy_thread_delays_only_its_own_task},
                    {"a_caller_that_waits_is_woken", a_caller_that_waits_is_woken},
                    {"same_bits_for_any_count", same_bits_for_any_count},
                    {"nested_calls_run_on_their_own_thread", nested_calls_run_on_their_own_thread},
                    {"several_callers_at_once", several_callers_at_once},
                    {"the_first_caller_has_the_team", the_first_caller_has_the_team},
                    {"floating_point_state_is_the_callers", floating_point_state_is_the_callers},
                    {"sessions", sessions},
                    {"scratch_is_per_thread", scratch_is_per_thread},
                    {"stop_and_start_again", stop_and_start_again},
                    {"fewer_threads_than_asked_for", fewer_threads_than_asked_for},
                    {"callers_that_come_and_go", callers_that_come_and_go},
                    {"fork_in_parent_and_child", fork_in_parent_and_child},
                    {"fork_in_a_session", fork_in_a_session},
                    {"a_fork_waits_for_the_call_of_another_thread", a_fork_waits_for_the_call_of_another_thread},
                    {"fork_while_another_thread_runs", fork_while_another_thread_runs},
                    {"the_process_may_end_at_any_time", the_process_may_end_at_any_time},
                    {"the_library_may_be_unloaded", the_library_may_be_unloaded}});
}

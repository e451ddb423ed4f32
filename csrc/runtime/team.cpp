// See team.hpp.
//
// One seat per thread, seat 0 the caller's. A seat holds its part of the tasks as one 64-bit word, so that taking a
// task is one compare-and-swap that can be right or fail, and never by a thread that is late from the call before:
// whoever takes a task keeps the call from ending until it reports, and only then reads what the task is. So nobody
// ever waits for a worker that has no task: one that sleeps, or was interrupted, is simply not there.
#include "runtime/team.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <new>

#include "runtime/fork.hpp"
#include "runtime/fp_state.hpp"
#include "runtime/threads.hpp"

namespace fastnn::runtime {
namespace {

using Clock = std::chrono::steady_clock;

// A worker is ready to answer within 0.1 us for about as long as it costs to sleep and be woken, and then sleeps, not
// to heat the machine for callers that come once. A caller waits longer for its last tasks, whose length is its own
// choice; when it gives up, a worker that lost its processor to another program can have the caller's.
constexpr auto kWorkerSpins = std::chrono::microseconds(50), kCallerSpins = std::chrono::microseconds(200);
// A thread is worth calling when this much work falls to it: spinning threads join within 0.2 us, sleeping ones must
// be woken, which takes 2-7 us of the caller's time and 5-25 us until they run (the larger on virtual machines).
constexpr int64_t kWorthAwake = 1000, kWorthAsleep = 10000;  // nanoseconds
// So much work that an awake worker would have shared, in calls that come closer together than it stays awake, is worth
// waking it for the calls that follow: 64 KB through mish take 11.8 us alone, 6.9 with a worker that is awake.
constexpr int64_t kWorthWaking = 100000;          // nanoseconds
constexpr int64_t kMostTasks = int64_t{1} << 31;  // in one round; a seat counts in 32 bits

// 128 bytes: processors fetch lines in pairs, and every seat is another thread's.
struct alignas(128) Seat {
  std::atomic<uint64_t> part{0};  // tasks not taken: first in the low half, end in the high half
  void (*fn)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t base = 0;
  unsigned fp = 0;
  std::atomic<int> threads{0};      // seats that have a part in this round
  std::atomic<uint32_t> bell{0};    // counts rounds; the worker waits for it to change
  std::atomic<bool> asleep{false};  // the worker must be woken
  std::atomic<bool> leave{false};   // the worker shall end
  pthread_t worker{};
};

// All of this is plain memory without destructors, and seats are never freed: workers may outlive main() and the
// destruction of static objects, and sleep through the end of the process.
std::mutex g_team;  // held for the length of a call or session
Seat* g_seats[kMaxThreads];
int g_workers;                     // running, at seats 1..g_workers; guarded by g_team
std::atomic<int> g_threads{0};     // 0: not set yet
int g_most_workers = kMaxThreads;  // that the system grants, once it has refused one; guarded by g_team
int g_processors;                  // for the team when its workers were started; guarded by g_team
int64_t g_missed;                  // nanoseconds of such work; guarded by g_team, as is
Clock::time_point g_missed_at;     // when the last of it came
std::atomic<bool> g_may_spin{true}, g_in_session{false};
constexpr std::atomic<bool> kNever{false};

struct alignas(128) Remaining {
  std::atomic<uint32_t> tasks{0};
  std::atomic<bool> caller_asleep{false};
} g_remaining;

[[maybe_unused]] const bool g_fork_handlers = register_fork_handlers();
thread_local bool t_in_task = false, t_owns_team = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins until ready() or the time is up, which it never is when `longer`; true when ready.
template <class Ready>
bool spin(Clock::duration time, const std::atomic<bool>& longer, Ready ready) {
  if (!g_may_spin.load(std::memory_order_relaxed)) return ready();
  const auto deadline = Clock::now() + time;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (longer.load(std::memory_order_relaxed) || Clock::now() < deadline);
  return false;
}

constexpr uint64_t part_of(uint64_t first, uint64_t end) { return end << 32 | first; }

// The owner takes from the front, the others from the back. -1 when nothing is left.
int64_t take(Seat& seat, bool front) {
  uint64_t part = seat.part.load(std::memory_order_relaxed);
  while (true) {
    const uint32_t first = static_cast<uint32_t>(part), end = static_cast<uint32_t>(part >> 32);
    if (first >= end) return -1;
    const uint64_t rest = front ? part_of(first + 1, end) : part_of(first, end - 1);
    if (seat.part.compare_exchange_weak(part, rest, std::memory_order_acquire, std::memory_order_relaxed))
      return front ? first : end - 1;
  }
}

// Runs tasks until none is left to take: the own part first, then the others' in turn.
void work(int self) {
  const int threads = g_seats[self]->threads.load(std::memory_order_acquire);
  uint32_t done = 0;
  void (*fn)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t base = 0;
  for (int k = 0; k < threads; ++k) {
    Seat& seat = *g_seats[self + k < threads ? self + k : self + k - threads];
    for (int64_t task; (task = take(seat, k == 0)) >= 0; ++done) {
      if (done == 0) {  // from here on the round cannot end without us
        fn = seat.fn, context = seat.context, base = seat.base;
        if (self != 0) set_fp_control(seat.fp);
      }
      fn(context, base + task);
    }
  }
  if (done == 0) return;
  // Sequentially consistent with the caller's announcement that it sleeps: one of the two sees the other.
  if (g_remaining.tasks.fetch_sub(done) == done && g_remaining.caller_asleep.load()) g_remaining.tasks.notify_one();
}

struct Start {
  int self;
  uint32_t heard;
};

void* worker_main(void* start) {
  const int self = static_cast<Start*>(start)->self;
  uint32_t heard = static_cast<Start*>(start)->heard;
  delete static_cast<Start*>(start);
  Seat& seat = *g_seats[self];
  t_in_task = true;
  while (!seat.leave.load(std::memory_order_relaxed)) {
    if (!spin(kWorkerSpins, g_in_session, [&] { return seat.bell.load(std::memory_order_acquire) != heard; })) {
      seat.asleep.store(true);
      seat.bell.wait(heard);
      seat.asleep.store(false, std::memory_order_relaxed);
    }
    heard = seat.bell.load(std::memory_order_acquire);
    work(self);
  }
  return nullptr;
}

// Linux may wake a thread on the very processor of the one that wakes it, where it then waits for milliseconds although
// others are idle (measured with two processors: nearly always, 2.4 ms until it ran; 0.03 ms when kept off). So while
// it is being woken a worker may run where its caller may, except on the processor that the caller is on.
void wake(Seat& seat) {
#if defined(__linux__)
  cpu_set_t allowed;  // on a machine with more than 1024 processors the call fails, and the worker is woken anywhere
  const int here = sched_getcpu();
  if (g_may_spin.load(std::memory_order_relaxed) && here >= 0 && here < CPU_SETSIZE &&
      sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 1) {
    cpu_set_t elsewhere = allowed;
    CPU_CLR(here, &elsewhere);
    pthread_setaffinity_np(seat.worker, sizeof elsewhere, &elsewhere);
    seat.bell.notify_one();
    pthread_setaffinity_np(seat.worker, sizeof allowed, &allowed);
    return;
  }
#endif
  seat.bell.notify_one();
}

void ring(Seat& seat) {
  seat.bell.fetch_add(1);
  if (seat.asleep.load()) wake(seat);
}

// Unloading the library under sleeping workers would crash, so the first start keeps it loaded for good.
void stay_loaded() {
#if defined(RTLD_NODELETE)
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&stay_loaded), &info) && info.dli_fname)
    dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

bool take_seat(int self) {
  if (g_seats[self] == nullptr) g_seats[self] = new (std::nothrow) Seat;
  return g_seats[self] != nullptr;
}

// Has `count` workers running, or as many as the system grants; returns how many. The team is held.
int have_workers(int count) {
  if (count > g_most_workers) count = g_most_workers;
  if (g_workers >= count) return count;
  if (!take_seat(0)) return 0;
  stay_loaded();
  g_processors = usable_processors();
  // Signals are for the program's own threads, but for those that an instruction raises: blocked, they would end the
  // process without the handler that is to report them (Python's faulthandler).
  sigset_t others, before;
  sigfillset(&others);
  for (int raised : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&others, raised);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  while (g_workers < count) {
    const int self = g_workers + 1;
    if (!take_seat(self)) break;
    Seat& seat = *g_seats[self];
    seat.leave.store(false, std::memory_order_relaxed);
    seat.asleep.store(false, std::memory_order_relaxed);
    auto* start = new (std::nothrow) Start{self, seat.bell.load(std::memory_order_relaxed)};
    if (start == nullptr) break;
    if (pthread_create(&seat.worker, nullptr, worker_main, start) != 0) {
      delete start;
      break;
    }
#if defined(__linux__)
    char name[16];
    std::snprintf(name, sizeof name, "fastnn-%d", self % kMaxThreads);
    pthread_setname_np(seat.worker, name);
#endif
    g_workers = self;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (g_workers < count) g_most_workers = g_workers;  // not asked for again at every call
  return g_workers;
}

// The team is held.
void join_workers() {
  for (int i = 1; i <= g_workers; ++i) {
    g_seats[i]->leave.store(true, std::memory_order_relaxed);
    ring(*g_seats[i]);
  }
  for (int i = 1; i <= g_workers; ++i) pthread_join(g_seats[i]->worker, nullptr);
  g_workers = 0;
  g_most_workers = kMaxThreads;
}

// One round of at most kMostTasks tasks on `threads` seats. The team is held.
void run_round(int threads, int64_t base, int64_t tasks, void (*fn)(void*, int64_t), void* context) {
  const unsigned fp = fp_control();
  const bool may_spin = num_threads() <= g_processors;
  if (g_may_spin.load(std::memory_order_relaxed) != may_spin) g_may_spin.store(may_spin, std::memory_order_relaxed);
  g_remaining.tasks.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  for (int i = 0; i < threads; ++i) {
    Seat& seat = *g_seats[i];
    seat.fn = fn, seat.context = context, seat.base = base, seat.fp = fp;
    seat.threads.store(threads, std::memory_order_release);  // after the seats themselves
    const uint64_t first = static_cast<uint64_t>(tasks) * i / threads,
                   end = static_cast<uint64_t>(tasks) * (i + 1) / threads;
    seat.part.store(part_of(first, end), std::memory_order_release);
    if (i > 0) ring(seat);
  }
  work(0);
  const auto all_done = [] { return g_remaining.tasks.load(std::memory_order_acquire) == 0; };
  if (spin(kCallerSpins, kNever, all_done)) return;
  g_remaining.caller_asleep.store(true);
  for (uint32_t left; (left = g_remaining.tasks.load()) != 0;) g_remaining.tasks.wait(left);
  g_remaining.caller_asleep.store(false, std::memory_order_relaxed);
}

// How many threads this much work is worth. The team is held.
int worth(int threads, int64_t nanoseconds) {
  const bool awake = g_workers > 0 && !g_seats[1]->asleep.load(std::memory_order_relaxed);
  int64_t most = nanoseconds / (awake || g_in_session.load(std::memory_order_relaxed) ? kWorthAwake : kWorthAsleep);
  if (most < 2 && g_may_spin.load(std::memory_order_relaxed)) {
    const auto now = Clock::now();
    g_missed = now - g_missed_at < kWorkerSpins ? g_missed + nanoseconds : 0;
    g_missed_at = now;
    if (g_missed >= kWorthWaking) {
      g_missed = 0;
      most = nanoseconds / kWorthAwake;
    }
  }
  return most < threads ? static_cast<int>(most) : threads;
}

bool take_team() { return t_owns_team || g_team.try_lock(); }
void return_team() {
  if (!t_owns_team) g_team.unlock();
}

}  // namespace

int num_threads() {
  int n = g_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    const char* reason;
    n = default_threads(&reason);
    if (n == 0) n = usable_processors();  // a wrong FASTNN_NUM_THREADS, which the binding reports
    g_threads.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_num_threads(int n) {
  g_threads.store(n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n, std::memory_order_relaxed);
}

void run_tasks(int64_t tasks, int64_t nanoseconds, void (*fn)(void*, int64_t), void* context) {
  int threads = num_threads();
  if (tasks < threads) threads = static_cast<int>(tasks);
  if (threads > 1 && nanoseconds >= 2 * kWorthAwake && !t_in_task && take_team()) {
    threads = worth(threads, nanoseconds);
    if (threads > 1) threads = 1 + have_workers(threads - 1);
    if (threads > 1) {
      t_in_task = true;
      for (int64_t base = 0; base < tasks; base += kMostTasks)
        run_round(threads, base, tasks - base < kMostTasks ? tasks - base : kMostTasks, fn, context);
      t_in_task = false;
    }
    return_team();
    if (threads > 1) return;
  }
  const bool in_task = t_in_task;
  t_in_task = true;
  for (int64_t task = 0; task < tasks; ++task) fn(context, task);
  t_in_task = in_task;
}

void stop_workers() {
  if (t_in_task) return;
  if (!t_owns_team) g_team.lock();
  join_workers();
  return_team();
}

// A thread that forks inside a session holds the team already; one that forks inside a task can only be left alone.
void team_before_fork() {
  if (t_in_task) return;
  if (!t_owns_team) g_team.lock();
  join_workers();
}
void team_after_fork() {
  if (!t_in_task) return_team();
}

Session::Session() : owner_(!t_in_task && !t_owns_team && g_team.try_lock()) {
  if (!owner_) return;
  t_owns_team = true;
  g_in_session.store(true, std::memory_order_relaxed);
}

Session::~Session() {
  if (!owner_) return;
  g_in_session.store(false, std::memory_order_relaxed);
  t_owns_team = false;
  g_team.unlock();
}

}  // namespace fastnn::runtime

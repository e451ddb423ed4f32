// How many threads to use when the program does not say: FASTNN_NUM_THREADS if set, else the smallest of the processors
// that this process may run on, the container's CPU quota (rounded up) and OMP_NUM_THREADS.
#pragma once

namespace fastnn::runtime {

constexpr int kMaxThreads = 1024;

// At least 1; `reason` gets the words that say why, for show_config(). 0 when FASTNN_NUM_THREADS is no whole number
// from 1 to kMaxThreads: then `reason` is the error, for the caller to raise. The text lasts until this thread asks
// again.
int default_threads(const char** reason);

// Processors that this process may use: affinity and quota alone. More threads than these take turns.
int usable_processors();

// The decision of default_threads on stated facts (texts may be null: not set), so that it can be tested.
int choose_threads(const char* fastnn_num_threads, const char* omp_num_threads, int affinity, double quota,
                   const char** reason);

}  // namespace fastnn::runtime

// The two symbols that the extension exports beside Python's own: with them threadpoolctl, which looks through the
// loaded libraries, reads and limits the team's threads (fastnn/_threadpool.py). Renaming one breaks that file.
#include <algorithm>

#include "runtime/team.hpp"
#include "runtime/threads.hpp"

#if defined(_WIN32)
#define FASTNN_EXPORT extern "C" __declspec(dllexport)
#else
#define FASTNN_EXPORT extern "C" __attribute__((visibility("default")))
#endif

FASTNN_EXPORT int fastnn_get_num_threads() noexcept { return fastnn::runtime::num_threads(); }

// Nobody checks what comes in here: it is moved to the nearest count that the team takes.
FASTNN_EXPORT void fastnn_set_num_threads(int n) noexcept {
  fastnn::runtime::set_num_threads(std::clamp(n, 1, fastnn::runtime::kMaxThreads));
}

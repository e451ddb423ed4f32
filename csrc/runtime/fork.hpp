// What the runtime does around a fork (fork.cpp says in which order): a child gets memory as it was in mid-air, and
// only the thread that forked. Locks are taken before and released on both sides after, so that no child inherits one
// that nobody will open.
#pragma once

namespace fastnn::runtime {

bool register_fork_handlers();  // what has a lock calls this when it is loaded

void team_before_fork();  // waits for another thread's call, joins the workers
void team_after_fork();
void pool_before_fork();
void pool_after_fork();

}  // namespace fastnn::runtime

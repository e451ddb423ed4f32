"""threadpoolctl sees and limits the team, whichever of the two is imported first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("fastnn._core") is None, reason="no compiled extension, so no team"),
    pytest.mark.skipif(importlib.util.find_spec("threadpoolctl") is None, reason="threadpoolctl is not installed"),
]

SHOW = """
def ours():
    return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "fastnn"]
"""


def run(code, *, backend="compiled", arguments=None):
    """Run code in a process of its own with three threads; return what it prints."""
    environment = {**os.environ, "FASTNN_BACKEND": backend, "FASTNN_NUM_THREADS": "3"}
    environment.pop("FASTNN_ISA", None)
    command = [sys.executable, "-P", "-W", "error", *(arguments or ["-c", code])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import fastnn, threadpoolctl",
        "import threadpoolctl, fastnn",
        "import threadpoolctl; threadpoolctl.threadpool_info(); import fastnn",
        "import fastnn; from threadpoolctl import threadpool_info; import threadpoolctl",
        "import importlib.util, fastnn; importlib.util.find_spec('threadpoolctl'); import threadpoolctl",
    ],
)
def test_seen_whatever_is_imported_first(imports):
    code = f"""{imports}
{SHOW}
(info,) = ours()
assert info["num_threads"] == 3 and info["internal_api"] == "fastnn" and info["version"] == fastnn.__version__, info
assert info["filepath"] == __import__("os").path.realpath(fastnn._core.__file__), info
with threadpoolctl.threadpool_limits(1):
    assert fastnn.threads.get_num_threads() == 1 == ours()[0]["num_threads"]
    fastnn.functional.relu([1.0] * 100_000)
assert fastnn.threads.get_num_threads() == 3
with threadpoolctl.threadpool_limits(2, user_api="fastnn"):
    assert fastnn.threads.get_num_threads() == 2
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    assert fastnn.threads.get_num_threads() == 3
with fastnn.num_threads(2):
    assert ours()[0]["num_threads"] == 2
assert not [finder for finder in __import__("sys").meta_path if "fastnn" in type(finder).__module__]
print("done")
"""
    assert run(code) == "done\n"


def test_counts_out_of_range_are_moved_to_the_nearest():
    code = f"""import fastnn, threadpoolctl
{SHOW}
(controller,) = threadpoolctl.ThreadpoolController().select(user_api="fastnn").lib_controllers
for asked, got in ((0, 1), (-5, 1), (10**6, fastnn._core.MAX_THREADS), (2, 2)):
    controller.set_num_threads(asked)
    assert fastnn.threads.get_num_threads() == got
print("done")
"""
    assert run(code) == "done\n"


def test_import_stays_without_threadpoolctl():
    code = """import sys, fastnn
assert "threadpoolctl" not in sys.modules
import threadpoolctl
assert type(threadpoolctl.__loader__).__module__ != "fastnn._threadpool"
assert threadpoolctl.__spec__.loader is threadpoolctl.__loader__
import inspect
assert "class LibController" in inspect.getsource(threadpoolctl)
print("done")
"""
    assert run(code) == "done\n"


def test_an_absent_threadpoolctl_stays_an_import_error():
    code = """import sys, fastnn
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
sys.path_importer_cache.clear()
try:
    import threadpoolctl
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code) == "threadpoolctl\n"


def test_command_line_of_threadpoolctl():
    assert '"user_api": "fastnn"' in run("", arguments=["-m", "threadpoolctl", "-i", "fastnn"])


def test_other_backends_have_no_team():
    code = f"""import fastnn, threadpoolctl
{SHOW}
print(ours())
"""
    assert run(code, backend="numpy") == "[]\n"

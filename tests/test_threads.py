"""Threads, seen from Python: the same bits for any number of them, for every op; several Python threads at once, forks,
nested and excessive counts; and the interpreter lock, which is free while a kernel runs. The team itself is tested in
native/test_team.cpp.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastnn
import fastnn.functional as F
from cases import LAYOUTS, OPS, Array, Op
from engines import COMPILED, ENGINES, Engine

THREADED = [engine for engine in ENGINES if engine.backend != "numpy"]
threaded = pytest.mark.parametrize("engine", THREADED, ids=lambda engine: engine.name)
needs_kernels = pytest.mark.skipif(
    not COMPILED, reason="the compiled kernels are missing, or another backend is forced"
)


def bits(op: Op, arrays: dict[str, Array]) -> list[bytes]:
    return [y.tobytes() for y in op.run(arrays, op.large[1])]


@threaded
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.kernel)
def test_same_bits(op: Op, dtype: str, engine: Engine) -> None:
    """1, 2 and 3 threads on a case that is large enough to be shared, in both memory formats."""
    plain = op.large_case.arrays(dtype)
    layouts = [plain]
    if op.strided and any(x.ndim == 4 for x in plain.values()):
        layouts.append({name: LAYOUTS["channels_last"](x) for name, x in plain.items()})
    with engine.on():
        for arrays in layouts:
            with fastnn.num_threads(1):
                want = bits(op, arrays)
            for threads in (2, 3):
                with fastnn.num_threads(threads):
                    assert bits(op, arrays) == want, f"{threads} threads"


def workload() -> dict[str, Callable[[], Any]]:
    """Some ops that are large enough to be shared, of several kinds."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 32, 28, 28), np.float32)
    w = rng.standard_normal((64, 32, 3, 3), np.float32)
    flat = rng.standard_normal(1 << 19, np.float32)
    return {
        "conv2d": lambda: F.conv2d(x, w, padding=1, activation="relu"),
        "gelu": lambda: F.gelu(flat),
        "dropout": lambda: F.dropout(flat, 0.3, rng=5)[0],
        "batch_norm_train": lambda: F.batch_norm_train(x)[0],
        "max_pool2d": lambda: F.max_pool2d(x, 3, 2, 1),
    }


def all_bits() -> dict[str, bytes]:
    return {name: call().tobytes() for name, call in workload().items()}


@needs_kernels
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads through /proc, which is Linux's")
def test_the_team_works() -> None:
    """The tests of this file prove something: with three threads two more are started, with one they are not."""
    code = """
import os, numpy as np, fastnn, fastnn.functional as F
count = lambda: len(os.listdir("/proc/self/task"))
x = np.zeros(1 << 22, np.float32)
fastnn.set_num_threads(1); F.gelu(x); before = count()
fastnn.set_num_threads(3); F.gelu(x); print(count() - before)
"""
    from test_environment import run

    assert run(code).stdout.split() == ["2"]


@threaded
def test_python_threads_at_once(engine: Engine) -> None:
    """Several Python threads get the bits that one gets, whoever has the team."""
    with engine.on(), fastnn.num_threads(2):
        want = all_bits()
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: all_bits(), range(12)))
    assert all(result == want for result in results)


@threaded
@pytest.mark.parametrize("threads", [1, 2, 7, 3 * (os.cpu_count() or 1)])
def test_any_count(threads: int, engine: Engine) -> None:
    """More threads than processors are allowed."""
    with engine.on():
        with fastnn.num_threads(1):
            want = all_bits()
        with fastnn.num_threads(threads):
            assert fastnn.threads.get_num_threads() == threads
            assert all_bits() == want


@threaded
def test_count_changes_while_working(engine: Engine) -> None:
    with engine.on():
        want = all_bits()
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                for n in (1, 3, 2):
                    fastnn.set_num_threads(n)
                    time.sleep(0.001)

        with fastnn.num_threads(2), ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            try:
                for _ in range(5):
                    assert all_bits() == want
            finally:
                stop.set()
            changing.result()


@threaded
def test_nested_counts(engine: Engine) -> None:
    """num_threads gives back the count that it found, after errors too."""
    get = fastnn.threads.get_num_threads
    with engine.on():
        before = get()
        with fastnn.num_threads(3):
            with fastnn.num_threads(1):
                assert get() == 1
            assert get() == 3
            with pytest.raises(KeyError), fastnn.num_threads(2):
                raise KeyError
            assert get() == 3
        assert get() == before


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, None, 1025, 2**70])
def test_bad_counts(count: Any, engine: Engine) -> None:
    with engine.on():
        before = fastnn.threads.get_num_threads()
        with pytest.raises(ValueError, match=r"set_num_threads: expected a whole number from 1 to 1024, got"):
            fastnn.set_num_threads(count)
        assert fastnn.threads.get_num_threads() == before


def _in_child(queue: Any) -> None:
    queue.put(all_bits())


@threaded
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python warns of forks from processes with threads
def test_fork(engine: Engine) -> None:
    """The team works before a fork, in the child, in the child's child's stead, and in the parent afterwards."""
    context: Any = multiprocessing.get_context("fork")
    with engine.on(), fastnn.num_threads(2):
        want = all_bits()
        for _ in range(3):
            queue = context.SimpleQueue()
            child = context.Process(target=_in_child, args=(queue,))
            child.start()
            assert all_bits() == want
            assert queue.get() == want
            child.join(60)
            assert child.exitcode == 0


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_lock_is_free(threads: int) -> None:
    """Another Python thread gets on while a convolution runs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 64, 112, 112), np.float32)
    w = rng.standard_normal((64, 64, 3, 3), np.float32)
    beats = 0
    stop = threading.Event()

    def beat() -> None:
        nonlocal beats
        while not stop.wait(0.0005):
            beats += 1

    with COMPILED[-1].on(), fastnn.num_threads(threads), ThreadPoolExecutor(1) as pool:
        beating = pool.submit(beat)
        try:
            most = 0
            for _ in range(5):  # one is enough; the machine may be busy with something else
                before = beats
                F.conv2d(x, w, padding=1)
                most = max(most, beats - before)
        finally:
            stop.set()
        beating.result()
    assert most >= 5, "with the lock held there would be none, or one between two statements"

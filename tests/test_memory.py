"""Memory: large outputs are recycled only when nothing refers to them, and nothing grows."""

from __future__ import annotations

import gc
import resource
import sys
import threading
import tracemalloc
from functools import partial

import numpy as np
import pytest

import fastnn
import fastnn.functional as F
from cases import CASES, OPS, Array, Op
from engines import COMPILED, ENGINES, Engine

SIZE = 1 << 18  # float32: 1 MB, which comes from the pool
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
compiled = pytest.mark.parametrize("engine", COMPILED[-1:], ids=lambda engine: engine.name)


def address(x: Array) -> int:
    return int(x.__array_interface__["data"][0])


@compiled
def test_recycled_when_free(engine: Engine) -> None:
    x = np.ones(SIZE, np.float32)
    with engine.on():
        y = F.relu(x)
        first = address(y)
        del y
        assert address(F.relu(x)) == first


@engines
def test_kept_while_referred_to(engine: Engine) -> None:
    """Whatever refers to an output, array, view, buffer or closure, keeps its memory."""
    x = np.arange(SIZE, dtype=np.float32)
    with engine.on():
        y = F.relu(x)
        view, turned, buffer = y[5:10], y.reshape(2, -1).T, memoryview(F.relu(x))  # type: ignore[arg-type]
        shared = np.asarray(F.relu(x))[::-1]
        inside = partial(F.relu(x).item, 1)

        del y
        gc.collect()
        others = [F.relu(np.full(SIZE, -1 - i, np.float32)) for i in range(6)]
        assert all((other == 0).all() for other in others)
    assert view.tolist() == [5, 6, 7, 8, 9]
    assert turned[0].tolist() == [0, SIZE // 2]
    assert buffer[7] == 7
    assert shared[0] == SIZE - 1
    assert inside() == 1


@engines
def test_held_outputs_are_apart(engine: Engine) -> None:
    with engine.on():
        held = [F.relu(np.full(SIZE, i, np.float32)) for i in range(20)]
    assert len({address(y) for y in held}) == 20
    assert [float(y.max()) for y in held] == [float(y.min()) for y in held] == list(range(20))


@engines
@pytest.mark.parametrize("channels_last", [False, True], ids=["rows", "channels_last"])
def test_outputs_belong_to_the_caller(channels_last: bool, engine: Engine) -> None:
    """Outputs are writeable, aligned and no views of inputs; large ones begin at a cache line."""
    x = np.ones((2, 8, 64, 64), np.float32)
    if channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with engine.on():
        outputs = [
            F.relu(x),
            F.max_pool2d(x, 1),
            F.batch_norm_train(x)[0],
            F.conv2d(x, np.ones((8, 8, 1, 1), np.float32)),
        ]
    for y in outputs:
        assert y.flags.writeable
        assert y.flags.aligned
        assert not np.may_share_memory(x, y)
        if engine.backend == "compiled":
            assert address(y) % 64 == 0


# The instruction sets differ below what Python allocates: the best stands for all.
@pytest.mark.parametrize(
    "engine", [e for e in ENGINES if e.backend != "compiled"] + COMPILED[-1:], ids=lambda engine: engine.name
)
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.kernel)
def test_nothing_leaks(op: Op, engine: Engine) -> None:
    """60 calls leave no object and no array behind; an array is more than 100 bytes."""
    case = max(CASES[op.kernel], key=lambda c: min(20, *(x.size for x in c.arrays("f4").values())))
    arrays = case.arrays("float32")
    with engine.on():
        for _ in range(10):
            case.run(arrays)
        gc.collect()
        gc.freeze()  # what is there already need not be looked through five times
        tracemalloc.start()
        try:
            for _ in range(12):  # a leak grows in every round; caches that fill up, and other threads, in some
                before = tracemalloc.get_traced_memory()[0]
                for _ in range(60):
                    case.run(arrays)
                gc.collect()
                grown = tracemalloc.get_traced_memory()[0] - before
                if grown < 60 * 50:
                    break
        finally:
            tracemalloc.stop()
            gc.unfreeze()
    assert grown < 60 * 50


@compiled
def test_pool_does_not_grow(engine: Engine) -> None:
    """1000 calls with pooled outputs and scratch memory: the pool, the process and the dtypes' references stay put."""
    from fastnn import _core

    x = np.ones((4, 32, 32, 32), np.float32)
    w = np.ones((32, 32, 3, 3), np.float32)

    def calls(n: int) -> None:
        for _ in range(n):
            y = F.conv2d(x, w, padding=1, activation="relu")
            F.conv2d_backward(y, x, w, padding=1)
            F.batch_norm_train(y)
            F.dropout(y, 0.5, rng=0)

    with engine.on(), fastnn.num_threads(2):
        calls(50)
        cached, references = _core.cached_bytes(), sys.getrefcount(x.dtype)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        calls(250)
        assert _core.cached_bytes() == cached
        assert abs(sys.getrefcount(x.dtype) - references) < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 8 * 1024  # KB; one output is 0.5 MB


@compiled
def test_release(engine: Engine) -> None:
    from fastnn import _core

    x = np.ones(SIZE, np.float32)
    with engine.on():
        held = F.relu(x)
        del x
        F.relu(held)
        assert _core.cached_bytes() > 0
        fastnn.release_memory()
        assert _core.cached_bytes() == 0
        assert (held == 1).all()
        assert (F.relu(held) == 1).all()


@compiled
def test_freed_by_another_thread(engine: Engine) -> None:
    with engine.on():
        for _ in range(20):
            held = [F.relu(np.ones(SIZE, np.float32))]
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
            assert (F.relu(np.full(SIZE, 2, np.float32)) == 2).all()


@engines
@pytest.mark.parametrize("side", [1 << 24, (1 << 31) + 1, 1 << 31, (1 << 32) - 1])
def test_too_large(side: int, engine: Engine) -> None:
    """What no memory can hold is refused as NumPy refuses it, also where its size in bytes wraps around."""
    shape = (1, 1, side, side)
    with pytest.raises((MemoryError, ValueError)) as refused:
        np.empty(shape, np.float32)
    with engine.on(), pytest.raises(refused.type):
        F.global_avg_pool2d_backward(np.ones((1, 1, 1, 1), np.float32), shape)

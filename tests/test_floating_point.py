"""The floating-point state: a kernel gives it back as it found it, on the caller and on the team; denormals are flushed
by convolution, matrix products and exponentials, and kept by relu, max and copies.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fastnn
import fastnn.functional as F
from cases import CASES, OPS
from engines import COMPILED, ENGINES, Engine

FLUSH = 0x8040  # flush-to-zero and denormals-are-zero of MXCSR
ROUND_UP = 0x4000
compiled = pytest.mark.parametrize("engine", COMPILED, ids=lambda engine: engine.name)
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.libc_ver()[0] != "glibc",
    reason="reads MXCSR through glibc's fegetenv on x86-64",
)
DENORMAL = {np.float32: 1e-40, np.float64: 1e-310}


class State:
    """glibc's fenv_t on x86-64: 28 bytes of the old unit, then MXCSR."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libm.so.6")
        self.buffer = ctypes.create_string_buffer(32)

    def read(self) -> int:
        self.library.fegetenv(self.buffer)
        return int(struct.unpack_from("<I", self.buffer, 28)[0])

    def write(self, mxcsr: int) -> None:
        self.library.fegetenv(self.buffer)
        struct.pack_into("<I", self.buffer, 28, mxcsr)
        self.library.fesetenv(self.buffer)


@contextmanager
def state(change: int) -> Iterator[State]:
    """The floating-point state with these bits set."""
    current = State()
    before = current.read()
    current.write(before | change)
    try:
        yield current
    finally:
        current.write(before)


SETTINGS = 0xFFC0  # without the six flags that arithmetic raises


@x86
@compiled
@pytest.mark.parametrize("change", [0, FLUSH, ROUND_UP], ids=["default", "flushing", "rounding_up"])
def test_state_is_restored(change: int, engine: Engine) -> None:
    """Whatever the caller had set, every kernel leaves it so."""
    inputs = [(op, CASES[op.kernel][0].arrays("float32"), CASES[op.kernel][0].options) for op in OPS.values()]
    inputs += [(op, op.large_case.arrays("float32"), op.large[1]) for op in OPS.values()]
    with engine.on(), fastnn.num_threads(2):
        for op, arrays, options in inputs:
            with state(change) as current:
                before = current.read() & SETTINGS
                op.run(arrays, options)
                after = current.read() & SETTINGS
            assert after == before, f"{op.kernel}: {before:#x} became {after:#x}"


@x86
@compiled
def test_state_reaches_the_team(engine: Engine) -> None:
    """All threads of a call round as the caller does: the same bits for any number."""
    x = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
    with engine.on(), state(ROUND_UP):
        with fastnn.num_threads(1):
            want = F.leaky_relu(x, 0.3).tobytes()
        with fastnn.num_threads(3):
            assert F.leaky_relu(x, 0.3).tobytes() == want
    with engine.on():
        assert F.leaky_relu(x, 0.3).tobytes() != want


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 37, 1 << 17])
def test_kept(size: int, dtype: Any, engine: Engine) -> None:
    """relu, max pooling, copies and dropout's selection change no denormal, on one thread or several."""
    tiny = dtype(DENORMAL[dtype])
    x = np.full((1, 1, size, 2), tiny)
    assert x[0, 0, 0, 0] == tiny != 0
    with engine.on(), fastnn.num_threads(2):
        assert (F.relu(x) == tiny).all()
        assert (F.relu_backward(x, np.ones_like(x)) == tiny).all()
        assert (F.leaky_relu(x) == tiny).all()
        assert (F.max_pool2d(x, (1, 2)) == tiny).all()
        assert (F.dropout(x, 0.0, rng=1)[0] == tiny).all()
        assert (F.concat([x, x]) == tiny).all()
        assert (F.add(x, -x) == 0).all()
        assert (F.im2col(x, 1) == tiny).all()


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flushed(dtype: Any, engine: Engine) -> None:
    """Convolution, matrix products and exponentials give 0 for denormal inputs or results, also on the team's threads.

    Other backends may keep them: they agree within the tolerance of any op.
    """
    tiny = dtype(DENORMAL[dtype])
    low = dtype(-100 if dtype == np.float32 else -740)  # exp of it is denormal
    assert np.exp(low) > 0
    big = 1 << 18
    with engine.on(), fastnn.num_threads(2):
        for n in (1, 37, big):
            assert (F.exp(np.full(n, low)) == 0).all()
            assert (F.sigmoid(np.full(n, low)) == 0).all()
        for rows in (1, 64, 700):
            x = np.full((rows, 64), tiny)
            assert (F.linear(x, np.ones((64, 64), dtype)) == 0).all()
        for size in (1, 9, 60):
            x = np.full((1, 16, size, size), tiny)
            assert (F.conv2d(x, np.ones((16, 16, 1, 1), dtype)) == 0).all()


@engines
def test_no_warnings(engine: Engine) -> None:
    """Infinities, NaN and overflow are results: no backend warns of them, whatever np.errstate says."""
    x = np.array([[np.inf, -np.inf, np.nan, 1e38, -1e38, 0.0]], np.float32)
    with engine.on(), np.errstate(all="raise"):
        F.relu(x)
        F.sigmoid(x)
        F.exp(x)
        F.gelu(x)
        F.softmax(x)
        F.linear(x, np.full((2, 6), 1e38, np.float32))
        F.batch_norm_train(np.full((1, 2, 1, 1), np.inf, np.float32))

"""Grouped convolution with few channels a group, on every instruction set: vectors of several groups, the last of them
in part, every kind of kernel row, and edges. Each sum is one chain of multiply-adds: k of them round by k eps of the
sum of the magnitudes at most.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastnn as fnn
import fastnn.functional as F
import fastnn.layers as L
from cases import Array
from engines import ENGINES, NUMPY, Engine

COMPILED = [engine for engine in ENGINES if engine.isa is not None]
compiled = pytest.mark.parametrize("engine", COMPILED, ids=lambda engine: engine.name)


def last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def draw(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("groups", [2, 5, 8])
def test_grouped(engine: Engine, dtype: str, channels: int, groups: int) -> None:
    """Kernels, strides and dilations over images narrower and wider than a tile of 8, with padding on all sides."""
    c = channels * groups
    for kernel, (stride, dilation), width in itertools.product(
        (1, 3, 5), ((1, 1), (2, 1), (1, 2), (3, 1)), (5, 13, 21)
    ):
        x, w, b = draw(dtype, 2, c, 6, width), draw(dtype, c, channels, kernel, kernel), draw(dtype, c)
        options = {"stride": stride, "padding": 1, "dilation": dilation, "groups": groups}
        if dilation * (kernel - 1) + 1 > 8:
            continue
        with NUMPY.on():
            want = F.conv2d(x.astype("d"), w.astype("d"), b.astype("d"), **options)
            size = F.conv2d(np.abs(x).astype("d"), np.abs(w).astype("d"), np.abs(b).astype("d"), **options)
        with engine.on():
            y = F.conv2d(last(x), w, b, **options)
        bound = np.finfo(dtype).eps * (w[0].size + 1) * size
        assert (np.abs(y - want) <= bound).all(), (kernel, stride, dilation, width)


@compiled
def test_it_is_this_algorithm_that_runs(engine: Engine) -> None:
    with engine.on():
        for channels in (4, 8, 16):
            conv = L.Conv2d(channels * 8, channels * 8, 3, padding=1, groups=8, rng=0)
            assert "grouped" in fnn.compile(conv, (1, channels * 8, 9, 9)).describe()


@compiled
def test_what_is_not_finite(engine: Engine) -> None:
    """An infinity reaches its own group and window, and zeros of the padding make NaN of an infinite weight."""
    x, w = draw("float32", 1, 32, 9, 9), draw("float32", 32, 4, 3, 3)
    x[0, 5, 4, 4] = np.inf
    with engine.on():
        y = F.conv2d(last(x), w, padding=1, groups=8)
    reached = np.zeros(y.shape, bool)
    reached[0, 4:8, 3:6, 3:6] = True
    np.testing.assert_array_equal(~np.isfinite(y), reached)
    x[0, 5, 4, 4], w[9, 1, 0, 0] = 1, np.inf
    with engine.on():
        y = F.conv2d(last(x), w, padding=1, groups=8)
    assert np.isnan(y[0, 9, 0]).all() and np.isnan(y[0, 9, :, 0]).all()
    assert np.isinf(y[0, 9, 1:, 1:]).all() and np.isfinite(np.delete(y, 9, 1)).all()

"""Programs of the bfloat16 tier: between convolutions on tiles their arrays are of bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from engines import ENGINES, NUMPY
from fastnn import layers as L

AMX = [engine for engine in ENGINES if engine.isa == "amx"]
pytestmark = pytest.mark.skipif(not AMX, reason="this processor, or this build, has no tiles")


def network(wide: int = 64, odd: int = 37) -> L.Sequential:
    """Single pixels, strides, odd channels, a padded kernel, residuals that end in bfloat16 and in float32."""

    def conv(c: int, o: int, k: int, stride: int = 1) -> L.Sequential:
        return L.Sequential(L.Conv2d(c, o, k, stride, k // 2, rng=c + o + k), L.BatchNorm2d(o))

    def block(c: int, middle: int, stride: int = 1) -> L.Layer:
        main = L.Sequential(conv(c, middle, 1), L.ReLU(), conv(middle, middle, 3, stride), L.ReLU(), conv(middle, c, 1))
        return L.Sequential(L.Residual(main, conv(c, c, 1, stride) if stride > 1 else L.Identity()), L.ReLU())

    first = L.Sequential(conv(3, wide, 5), L.SiLU(), block(wide, odd), block(wide, 32, 2))
    return L.Sequential(first, L.MaxPool2d(2), block(wide, 32), L.GlobalAvgPool2d(), L.Flatten(), L.Linear(wide, 7))


def test_a_chain_of_layers(tmp_path: Path) -> None:
    """What the tier errs does not grow beyond its roundings; the bits are those of one thread and of a loaded file."""
    model = network()
    x = np.random.default_rng(3).standard_normal((5, 3, 30, 26), np.float32)
    with NUMPY.on():
        exact = model.copy(np.float64)(x.astype(np.float64))
    with AMX[0].on():
        program = fnn.compile(model, x.shape, precision="bfloat16")
        y = program(x)
        # 2^-8 / sqrt(12) at most of each factor and of what is stored, in some twenty roundings one after the other
        error = np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2))
        assert 1e-4 < error < 2e-2
        with fnn.num_threads(1):
            np.testing.assert_array_equal(program(x), y)
        np.testing.assert_array_equal(program(x[:2]), y[:2])  # another plan
        np.testing.assert_array_equal(program(np.asarray(x, order="F")), y)
        last = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(program(last), y)
        program.save(tmp_path / "net.fnn")
        np.testing.assert_array_equal(fnn.load_program(tmp_path / "net.fnn")(x), y)


def test_what_is_bfloat16_moves_half_of_the_bytes() -> None:
    model = L.Sequential(*(L.Conv2d(64, 64, 1, bias=False, rng=i) for i in range(3)))
    shape, array, weight = (1, 64, 14, 14), 64 * 14 * 14, 64 * 64 * 4
    with AMX[0].on():
        steps = fnn.compile(model, shape, precision="bfloat16").steps()
        assert [step.bytes - weight for step in steps] == [6 * array, 4 * array, 6 * array]
        assert [step.by for step in steps] == ["amx, one part"] * 3
        full = fnn.compile(model, shape).steps()
        assert [step.bytes - weight for step in full if step.number] == [8 * array] * 3


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan, 3e38])
def test_what_is_not_finite_stays_in_its_image(special: float) -> None:
    """It comes out where float32 has it, as far as convolutions carry it; the other images keep their bits."""
    model = L.Sequential(
        L.Conv2d(32, 48, 3, padding=1, rng=0), L.ReLU(), L.Conv2d(48, 64, 1, rng=1), L.Conv2d(64, 33, 3, rng=2)
    )
    x = np.random.default_rng(0).standard_normal((3, 32, 9, 9), np.float32)
    bad = x.copy()
    bad[1, 5, 4, 4] = special
    with AMX[0].on():
        program = fnn.compile(model, x.shape, precision="bfloat16")
        clean, y, full = program(x), program(bad), fnn.compile(model, x.shape)(bad)
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
    np.testing.assert_array_equal(np.isfinite(y[1]), np.isfinite(full[1]))
    np.testing.assert_array_equal(np.isnan(y[1]), np.isnan(full[1]))


def test_an_output_that_others_read_stays_float32() -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 12, 12), np.float32)
    model = L.Graph(
        ("a", L.Conv2d(32, 32, 3, padding=1, rng=0), "x"),
        ("b", L.Conv2d(32, 32, 3, padding=1, rng=1), "a"),
        ("c", L.AvgPool2d(2), "b"),
        inputs=["x"],
        outputs=["a", "c"],
    )
    with AMX[0].on():
        program = fnn.compile(model, x.shape, precision="bfloat16")
        a, _ = program(x)
        bits = a.view(np.uint32)
        assert np.any(bits & 0xFFFF)
        array = 2 * 32 * 12 * 12
        (step,) = (s for s in program.steps() if s.name == "b")
        assert step.bytes == 8 * array + 4 * (32 * 32 * 9 + 32)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": (3, 1), "padding": (0, 1), "dilation": (2, 1)},
        {"kernel_size": 2, "ceil_mode": True},
    ],
    ids=["as ResNet's", "all different", "windows beyond the image"],
)
def test_max_pools_between_convolutions(options: dict[str, Any]) -> None:
    """The largest of rounded numbers is the largest one, rounded: the bits are those of the layers one by one."""
    x = np.random.default_rng(0).standard_normal((3, 32, 17, 15), np.float32)
    x[1, 3, 8, 8] = np.nan
    first, last = L.Conv2d(32, 40, 3, padding=1, rng=0), L.Conv2d(40, 33, 1, rng=1)
    pools = [L.MaxPool2d(**options), L.MaxPool2d(2, 1)]
    with AMX[0].on():
        program = fnn.compile(L.Sequential(first, *pools, last), x.shape, precision="bfloat16")
        y = program(x)
        step = program.steps()[1]
        assert step.bytes == 2 * sum(np.prod(shape) for shape in (*step.inputs, *step.outputs))
        between = fnn.compile(first, x.shape, precision="bfloat16")(x)
        for pool in pools:
            between = pool(between)
        expected = fnn.compile(last, between.shape, precision="bfloat16")(between)
    np.testing.assert_array_equal(y[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(np.isnan(y[1]), np.isnan(expected[1]))
    assert np.isnan(y[1]).any() and np.isfinite(y[1]).any()


def test_max_pools_that_others_read_stay_float32() -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 12, 12), np.float32)
    model = L.Sequential(
        L.Conv2d(32, 32, 3, rng=0), L.MaxPool2d(2), L.Conv2d(32, 32, 1, rng=1), L.MaxPool2d(2, 1), L.AvgPool2d(2)
    )
    with AMX[0].on():
        steps = fnn.compile(model, x.shape, precision="bfloat16").steps()
        sizes = [2 * 32 * 10 * 10, 2 * 32 * 5 * 5, 2 * 32 * 5 * 5, 2 * 32 * 4 * 4]
        assert steps[1].bytes == 2 * (sizes[0] + sizes[1])
        assert steps[2].bytes == 2 * sizes[1] + 4 * sizes[2] + 4 * (32 * 32 + 32)
        assert steps[3].bytes == 4 * (sizes[2] + sizes[3])

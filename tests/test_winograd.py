"""Winograd's convolution: both tile sizes on every instruction set, at every edge, as exact as it says, and what is not
finite treated as multiply-adds treat it.

2 x 2 tiles compute float32; 4 x 4 are float32-fast without tiles of AMX, and need 40 tiles to be chosen. Differences
are bounded by the magnitudes of the transforms themselves: every step rounds at most its own terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_accuracy import chain, error

import fastnn as fnn
import fastnn.functional as F
import fastnn.layers as L
from cases import Array
from engines import ENGINES, NUMPY, Engine

EPS = 2.0**-23
COMPILED = [engine for engine in ENGINES if engine.isa is not None]
#: those whose float32-fast is Winograd's, not tiles
WITHOUT_TILES = [engine for engine in COMPILED if engine.isa != "amx"]
compiled = pytest.mark.parametrize("engine", COMPILED, ids=lambda engine: engine.name)
without_tiles = pytest.mark.parametrize("engine", WITHOUT_TILES, ids=lambda engine: engine.name)


def last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def exact(x: Array, w: Array, *more: Any, **options: Any) -> Array:
    wide = [None if a is None else a.astype(np.float64) for a in (x, w, *more)]
    with NUMPY.on(), np.errstate(all="ignore"):
        return F.conv2d(*wide, **options)  # type: ignore[arg-type]


def scale(w: Array, m: int) -> Array:
    """For each output, what the magnitudes of its weights grow to on the way through the transforms, at most.

    A tile's input grows by the row sums of |Bt| (2; 4.92), its weights by those of |G|, its result by those of |At|.
    """
    half, root = 0.5**0.5, 2**0.5
    if m == 2:
        factor = (2 * 1.5 * 3) ** 2
    else:
        bt = max(1 + 2.5 + 1, half + 2 * half + 2 + 1, root + half + 0.5 + 1)
        factor = (bt * 2 / 3 * (1 + half + 0.5) * (2 * half**3 + 2 * root**3 + 1)) ** 2
    return factor * np.abs(w).max((2, 3)).sum(1)


@compiled
@pytest.mark.parametrize("channels", [*range(1, 20), 31, 32, 33, 48, 64, 70])
def test_channels(engine: Engine, channels: int) -> None:
    """Any number of channels, in and out: panels and vectors that are not whole, 2 x 2 tiles."""
    for c, o in ((channels, 20), (20, channels)):
        x, w, b = draw(2, c, 7, 5), draw(o, c, 3, 3), draw(o)
        with engine.on():
            y = F.conv2d(last(x), w, b, padding=1, algorithm="winograd")
        bound = EPS * (c + 12) * np.abs(x).max() * scale(w, 2)[:, None, None]
        assert (np.abs(y - exact(x, w, b, padding=1)) <= bound).all()


@compiled
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 8), (5, 6), (17, 4), (13, 13)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2, 5])
def test_sizes(engine: Engine, size: tuple[int, int], padding: int) -> None:
    """Images that are no multiple of a tile or smaller than one, in both formats; patches wholly in the padding."""
    if min(size) + 2 * padding < 3:
        pytest.skip("no output")
    x, w = draw(3, 17, *size), draw(18, 17, 3, 3)
    want = exact(x, w, padding=padding)
    with engine.on():
        for given in (x, last(x)):
            y = F.conv2d(given, w, padding=padding, algorithm="winograd")
            assert (np.abs(y - want) <= EPS * 30 * np.abs(x).max() * scale(w, 2)[:, None, None]).all()
            assert np.array_equal(y, F.conv2d(x, w, padding=padding, algorithm="winograd"))


@without_tiles
@pytest.mark.parametrize(
    "shape",
    [(12, 16, 7, 7), (3, 17, 13, 15), (1, 33, 30, 22), (45, 48, 3, 4), (7, 20, 5, 40), (2, 70, 21, 19)],
    ids=str,
)
def test_larger_tiles(engine: Engine, shape: tuple[int, ...]) -> None:
    """float32-fast: 4 x 4 tiles, with all that may end a convolution."""
    c = shape[1]
    conv = L.Conv2d(c, 37, 3, padding=1, rng=0)
    x = draw(*shape)
    add = L.Graph(("conv", conv, "x"), ("skip", L.Conv2d(c, 37, 1, rng=1), "x"), ("y", L.Add(), "conv", "skip"))
    model = L.Sequential(add, L.LeakyReLU(0.1))
    with NUMPY.on():
        want = model.copy(np.float64)(x.astype(np.float64))
    with engine.on():
        program = fnn.compile(model, x.shape, precision="float32-fast")
        assert "winograd, 4x4" in program.describe()
        for given in (x, last(x)):
            bound = EPS * (c + 20) * np.abs(x).max() * (scale(conv.weight, 4)[:, None, None] + c)
            assert (np.abs(program(given) - want) <= bound).all()


@compiled
def test_epilogue(engine: Engine) -> None:
    """Bias, batch norm, residual and activation, channels-last and not."""
    x, w, b, residual = draw(2, 20, 9, 11), draw(33, 20, 3, 3), draw(33), draw(2, 33, 9, 11)
    norm = (draw(33), draw(33), draw(33), np.abs(draw(33)) + 1, 1e-5)
    wide = tuple(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in norm)
    for activation in ("relu", "gelu", None):
        options: dict[str, Any] = {"padding": 1, "activation": activation}
        with NUMPY.on():
            want = F.conv2d(
                *(a.astype(np.float64) for a in (x, w, b)), batch_norm=wide, residual=residual.astype("d"), **options
            )
        with engine.on():
            for change in (last, np.ascontiguousarray):
                y = F.conv2d(
                    change(x), w, b, batch_norm=norm, residual=change(residual), algorithm="winograd", **options
                )
                assert (np.abs(y - want) <= EPS * 40 * np.abs(x).max() * 3 * scale(w, 2)[:, None, None]).all()


@compiled
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_not_finite(engine: Engine, what: float, where: str) -> None:
    """Each output is what multiply-adds make of it: an infinity reaches the outputs that it belongs to, no other."""
    x, w = np.abs(draw(3, 18, 9, 8)), draw(20, 18, 3, 3)
    if where == "x":
        x[1, 5, 4, 3] = what
    else:
        w[7, 2, 1, 1] = what
    with engine.on():
        got = F.conv2d(last(x), w, padding=1, algorithm="winograd")
        want = F.conv2d(last(x), w, padding=1, algorithm="im2col")
        finite = F.conv2d(last(x[:1]), w, padding=1, algorithm="winograd")
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[1], want[1])  # the whole image is computed again
    np.testing.assert_array_equal(got[:1], finite)
    if where == "x":
        outside = np.ones(got.shape, bool)
        outside[1, :, 3:6, 2:5] = False
        assert np.isfinite(got[outside]).all()


@without_tiles
def test_not_finite_in_larger_tiles(engine: Engine) -> None:
    x = np.abs(draw(3, 18, 21, 18))
    x[1, 5, 4, 3] = np.inf
    conv = L.Conv2d(18, 20, 3, padding=1, rng=0)
    with engine.on():
        y = fnn.compile(conv, x.shape, precision="float32-fast")(last(x))
        want = F.conv2d(last(x), conv.weight, conv.bias, padding=1, algorithm="im2col")
    np.testing.assert_array_equal(y[1], want[1])
    assert np.isfinite(y[[0, 2]]).all()


def inputs(kind: str, *shape: int) -> Array:
    rng = np.random.default_rng(shape[1])
    x = rng.standard_normal(shape)
    if kind == "decades":
        x = np.sign(x) * 10 ** rng.uniform(-6, 6, shape)
    elif kind == "offset":
        x += 100
    elif kind != "normal":
        x = np.abs(x) if kind == "positive" else np.maximum(x, 0)
    return x.astype(np.float32)


@compiled
@pytest.mark.parametrize("kind", ["normal", "positive", "relu", "offset", "decades"])
@pytest.mark.parametrize("channels", [16, 64, 256])
def test_float32_is_as_exact_as_a_chain(engine: Engine, kind: str, channels: int) -> None:
    """2 x 2 tiles, which float32 may take from 16 channels on: rms and largest error at most those of a chain.

    The ratio of the largest errors is that of two single elements: it scatters, by a factor of 1.5 for 64 channels.
    """
    x, w = inputs(kind, 1, channels, 12, 12), draw(24, channels, 3, 3)
    want = exact(x, w, padding=1)
    with NUMPY.on():
        columns = F.im2col(x, 3, padding=1)[0]
    plain = chain(w.reshape(24, -1), columns.T, fused=engine.isa != "scalar").reshape(want.shape)
    with engine.on():
        y = F.conv2d(last(x), w, padding=1, algorithm="winograd")
    assert error(y, want) <= error(plain, want)
    assert np.abs(y - want).max() <= 1.5 * np.abs(plain - want).max()


@without_tiles
@pytest.mark.parametrize("kind", ["normal", "positive", "relu", "offset", "decades"])
def test_float32_fast_keeps_what_it_promises(engine: Engine, kind: str) -> None:
    """4e-6 of the output's scale, as with tiles; 4 x 4 tiles stay below 2e-6."""
    x = inputs(kind, 1, 256, 28, 28)
    conv = L.Conv2d(256, 24, 3, padding=1, bias=False, rng=0)
    want = exact(x, conv.weight, padding=1)
    with engine.on():
        y = fnn.compile(conv, x.shape, precision="float32-fast")(x)
    assert error(y, want) <= 2e-6 * np.sqrt(np.mean(want**2))


@compiled
def test_any_number_of_threads_gives_the_same_bits(engine: Engine) -> None:
    x, w = last(draw(3, 40, 15, 14)), draw(100, 40, 3, 3)
    before = fnn.threads.get_num_threads()
    with engine.on():
        try:
            results = []
            for count in (1, 2, 3, 7):
                fnn.threads.set_num_threads(count)
                results.append(F.conv2d(x, w, padding=1, algorithm="winograd"))
        finally:
            fnn.threads.set_num_threads(before)
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])

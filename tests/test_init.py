"""Initial weights: their spread, that seeds and dtypes agree, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastnn import init
from fastnn import layers as L
from fastnn.errors import ShapeError

SCALED = ("he_normal", "he_uniform", "xavier_normal", "xavier_uniform")
N = 400_000  # a standard deviation estimated from N normal draws is off by std / sqrt(2 N) = 0.1 %; 5 sigma is 0.6 %
SPREAD = 5 / math.sqrt(2 * N)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 7), (7, 3)), ((64, 3, 7, 7), (147, 3136)), ((8, 1, 3, 3), (9, 72)), ((4, 5, 6), (30, 24)), ((0, 5), (5, 0))],
)
def test_fans(shape, expected):
    assert init.fans(shape) == expected
    assert init.fans(list(shape)) == expected


@pytest.mark.parametrize("shape", [(1000, 400), (100, 40, 10, 10)])
@pytest.mark.parametrize(
    ("name", "options", "std"),
    [
        ("he_normal", {}, lambda i, o: math.sqrt(2 / i)),
        ("he_normal", {"mode": "fan_out"}, lambda i, o: math.sqrt(2 / o)),
        ("he_normal", {"gain": 1.0}, lambda i, o: math.sqrt(1 / i)),
        ("he_uniform", {}, lambda i, o: math.sqrt(2 / i)),
        ("he_uniform", {"mode": "fan_out", "gain": 0.5}, lambda i, o: 0.5 / math.sqrt(o)),
        ("xavier_normal", {}, lambda i, o: math.sqrt(2 / (i + o))),
        ("xavier_uniform", {"gain": 3.0}, lambda i, o: 3 * math.sqrt(2 / (i + o))),
    ],
)
def test_spread(name, options, std, shape):
    w = getattr(init, name)(shape, rng=0, dtype=np.float64, **options)
    expected = std(*init.fans(shape))
    assert w.shape == shape
    assert abs(w.std() / expected - 1) < SPREAD
    assert abs(w.mean()) < 5 * expected / math.sqrt(N)
    if name.endswith("uniform"):
        assert 0.999 < abs(w).max() / (math.sqrt(3) * expected) <= 1


def test_normal_spread():
    w = init.normal((N,), std=0.25, rng=1)
    assert w.dtype == np.float32
    assert abs(w.std(dtype=np.float64) / 0.25 - 1) < SPREAD


@pytest.mark.parametrize("name", [*SCALED, "normal", "small_random", "orthogonal"])
def test_dtypes_and_seeds_agree(name):
    make = getattr(init, name)
    single, double = make((5, 6), rng=7), make((5, 6), rng=7, dtype=np.float64)
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single, double.astype(np.float32))
    np.testing.assert_array_equal(single, make((5, 6), rng=np.random.default_rng(7)))
    assert (single != make((5, 6), rng=8)).any()
    assert (make((5, 6)) != make((5, 6))).any()
    generator = np.random.default_rng(7)
    assert (make((5, 6), rng=generator) != make((5, 6), rng=generator)).any()


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", [(), (5,), (0, 0), (0, 0, 3, 3)])
def test_no_fan(name, shape):
    with pytest.raises(ShapeError, match=name):
        getattr(init, name)(shape, rng=0)


def test_zero_fans():
    assert init.he_normal((0, 5), rng=0).shape == (0, 5)
    with pytest.raises(ShapeError, match="fan_out of shape \\(0, 5\\) is 0"):
        init.he_normal((0, 5), rng=0, mode="fan_out")
    assert init.xavier_uniform((5, 0), rng=0).shape == (5, 0)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 3, 3, 3), (40, 3, 3, 3), (1, 1), (6, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal(shape, dtype):
    w = init.orthogonal(shape, rng=3, dtype=dtype, gain=2.0)
    assert w.shape == shape and w.dtype == dtype
    flat = w.reshape(shape[0], -1).astype(np.float64)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    # columns of at most 40 rounded numbers, of length 2
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=40 * np.finfo(dtype).eps)


def test_orthogonal_is_a_fair_rotation():
    """Without the signs of R, QR gives a first diagonal element of one sign only."""
    first = [init.orthogonal((3, 3), rng=seed)[0, 0] for seed in range(400)]
    assert abs(np.sign(first).mean()) < 5 / math.sqrt(400)
    assert abs(np.mean(first)) < 5 * math.sqrt(1 / 3 / 400)


def test_orthogonal_without_elements():
    assert init.orthogonal((0, 5), rng=0).shape == (0, 5)
    for shape in ((), (5,)):
        with pytest.raises(ShapeError, match="orthogonal"):
            init.orthogonal(shape, rng=0)


def block(*last, shortcut=None):
    return L.Residual(L.Sequential(L.Conv2d(4, 4, 3, padding=1, rng=0), L.ReLU(), *last), shortcut)


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ([L.Conv2d(4, 4, 1, rng=1), L.BatchNorm2d(4)], "main.3"),
        ([L.Conv2d(4, 4, 1, rng=1), L.BatchNorm2d(4, affine=False)], "main.2"),
        ([L.Conv2d(4, 4, 1, rng=1), L.ReLU()], "main.2"),
        ([], "main.0"),
        ([L.Sequential(("conv", L.Conv2d(4, 4, 1, rng=1)))], "main.2.conv"),
    ],
)
def test_zero_residual(last, name):
    model = block(*last)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 5), np.float32)
    for array in model.params.values():
        array += 0.5
    assert (model(x) != x).any()
    assert init.zero_residual(model) == [name]
    np.testing.assert_array_equal(model(x), x)
    assert {k for k, v in model.params.items() if not v.any()} == {k for k in model.params if k.startswith(f"{name}.")}


def test_zero_residual_finds_all_and_keeps_views():
    model = L.Sequential(("a", block()), L.Sequential(("b", block(shortcut=L.Conv2d(4, 4, 1, rng=5)))))
    arrays = dict(model.params)
    assert init.zero_residual(model) == ["a.main.0", "1.b.main.0"]
    assert all(model.params[k] is v for k, v in arrays.items())
    assert model.params["1.b.shortcut.weight"].any()


def test_zero_residual_refuses_and_changes_nothing():
    with pytest.raises(ValueError, match="there is no Residual in Linear 2->2"):
        init.zero_residual(L.Linear(2, 2))
    model = L.Sequential(block(), L.Residual(L.ReLU()))
    with pytest.raises(ValueError, match="main branch of '1' has no parameters"):
        init.zero_residual(model)
    assert model.params["0.main.0.weight"].any()


def test_constants():
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(init.zeros((2, 3), dtype=dtype), np.zeros((2, 3), dtype), strict=True)
        np.testing.assert_array_equal(init.constant((2,), 1.5, dtype=dtype), np.full(2, 1.5, dtype), strict=True)


@pytest.mark.parametrize("name", [*SCALED, "normal", "small_random", "orthogonal", "zeros"])
def test_refuses_dtypes_and_shapes(name):
    make = getattr(init, name)
    for dtype in (np.int32, np.float16, np.complex128):
        with pytest.raises(TypeError, match="float32 or float64"):
            make((2, 3), dtype=dtype)
    for shape in (5, "ab", (2.0, 3)):
        with pytest.raises(TypeError, match="sequence of whole numbers"):
            make(shape)
    with pytest.raises(ShapeError, match="negative"):
        make((2, -3))


def test_refuses_options():
    with pytest.raises(ValueError, match="mode must be"):
        init.he_normal((2, 3), mode="fan_avg")
    for gain in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="gain must be"):
            init.he_normal((2, 3), gain=gain)
        with pytest.raises(ValueError, match="std must be"):
            init.normal((2, 3), std=gain)
    with pytest.raises(ValueError, match="seed"):
        init.he_normal((2, 3), rng=-1)
    with pytest.raises(TypeError, match="seed"):
        init.he_normal((2, 3), rng="0")


def test_gain_of_matches_torch():
    assert init.gain_of(None) == 1.0
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    for activation in ("relu", "tanh", "sigmoid", "leaky_relu", ("leaky_relu", 0.2)):
        arguments = activation if isinstance(activation, tuple) else (activation,)
        assert init.gain_of(activation) == pytest.approx(torch.nn.init.calculate_gain(*arguments), rel=1e-15)
    with pytest.raises(ValueError, match="unknown activation"):
        init.gain_of("swish")

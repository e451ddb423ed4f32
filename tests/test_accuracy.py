"""float32 is never less accurate than a plain chain of fused multiply-adds, measured against float64 (root of the mean
square error over all outputs), for every kind of matrix product, from one product upwards.

The chain is what a simple loop does: acc = fma(a, b, acc), k times. Products of two float32 are exact in float64, so
rounding the float64 sum to float32 at each step is that fma (rounded twice in one case of 2^29). The scalar set is for
processors that may have no such instruction: it is held to the chain of multiplications and additions.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastnn.functional as F
from cases import Array
from engines import ENGINES, NUMPY, Engine

#: Both errors are measured on some hundred outputs, so that their ratio scatters. Short chains round the same values at
#: nearly the same places; at most 1.1 was seen for any order of summation.
SCATTER = 1.15

LENGTHS = (1, 2, 3, 8, 30, 100, 576, 2304)
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def chain(a: Array, b: Array, fused: bool) -> Array:
    """a @ b.T for float32 a (rows, k), b (cols, k), each element by k multiply-adds in order."""
    total = np.zeros((len(a), len(b)), np.float32)
    for x, y in zip(a.T.astype(np.float64), b.T.astype(np.float64), strict=True):
        product = np.outer(x, y)
        total = ((product if fused else product.astype(np.float32)) + total).astype(np.float32)
    return total


def error(got: Array, exact: Array) -> float:
    return float(np.sqrt(np.mean(np.square(got.reshape(exact.shape) - exact))))


def draw(kind: str, k: int, *shape: int) -> Array:
    rng = np.random.default_rng(k)
    x = rng.standard_normal(shape)
    return (np.abs(x) if kind == "positive" else x).astype(np.float32)


def compare(got: Array, a: Array, b: Array, engine: Engine) -> None:
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    plain = error(chain(a, b, fused=engine.name != "scalar"), exact)
    assert got.dtype == np.float32
    assert error(got, exact) <= SCATTER * plain, f"{engine.name}: the chain errs by {plain:.3g}"


@engines
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("k", LENGTHS)
def test_linear(k: int, kind: str, engine: Engine) -> None:
    x, weight = draw(kind, k, 48, k), draw("normal", k + 1, 40, k)
    with engine.on():
        compare(F.linear(x, weight), x, weight, engine)


@engines
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("k", LENGTHS)
def test_linear_backward(k: int, kind: str, engine: Engine) -> None:
    """dx sums over outputs, dweight over rows."""
    with engine.on():
        dy, weight = draw(kind, k, 48, k), draw("normal", k + 1, k, 40)
        dx, _, _ = F.linear_backward(dy, draw("normal", 0, 48, 40), weight)
        assert dx is not None
        compare(dx, dy, weight.T, engine)
        dy, x = draw("normal", k, k, 40), draw(kind, k + 1, k, 48)
        _, dweight, _ = F.linear_backward(dy, x, draw("normal", 0, 40, 48))
        compare(dweight, dy.T, x.T, engine)


@engines
@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize(("channels", "kernel"), [(1, 1), (3, 1), (1, 3), (3, 3), (64, 1), (16, 3), (64, 3), (256, 3)])
@pytest.mark.parametrize("channels_last", [False, True], ids=["rows", "channels_last"])
def test_conv2d(channels: int, kernel: int, kind: str, channels_last: bool, engine: Engine) -> None:
    """The forward pass, and dweight, which sums over pixels: both as products with the columns of x."""
    k = channels * kernel * kernel
    x, weight = draw(kind, k, 1, channels, 8, 8), draw("normal", k + 1, 33, channels, kernel, kernel)
    with NUMPY.on():
        columns = F.im2col(x, kernel)[0]
    if channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with engine.on():
        y = F.conv2d(x, weight)
        compare(np.ascontiguousarray(y), weight.reshape(33, k), columns.T, engine)
        dy = draw("normal", k + 2, *y.shape)
        _, dweight, _ = F.conv2d_backward(dy, x, weight)
        compare(dweight, dy.reshape(33, -1), columns, engine)


@engines
@pytest.mark.parametrize("channels", [1, 8, 64, 256])
def test_conv2d_input_gradient(channels: int, engine: Engine) -> None:
    """dx of a 1 x 1 kernel is a product with the weights."""
    dy, weight = draw("normal", channels, 1, channels, 6, 6), draw("normal", channels + 1, channels, 32, 1, 1)
    with engine.on():
        dx, _, _ = F.conv2d_backward(dy, np.zeros((1, 32, 6, 6), np.float32), weight)
    assert dx is not None
    compare(dx[0].reshape(32, 36).T, dy[0].reshape(channels, 36).T, weight[:, :, 0, 0].T, engine)


@engines
@pytest.mark.parametrize(("images", "size"), [(1, 2), (1, 4), (1, 6), (2, 14), (3, 40), (9, 32)])
@pytest.mark.parametrize("kind", ["normal", "relu", "decades"])
def test_conv2d_weight_gradient(images: int, size: int, kind: str, engine: Engine) -> None:
    """dweight sums over all pixels: of x after ReLU, and of pixels whose sizes lie six decades apart."""
    x, dy = draw("normal", 1, images, 16, size, size), draw("normal", 2, images, 24, size, size)
    if kind == "relu":
        x = np.maximum(x, 0)
    if kind == "decades":
        x *= (10.0 ** np.random.default_rng(3).uniform(-6, 0, (images, 1, size, size))).astype(np.float32)
    with engine.on():
        _, dweight, _ = F.conv2d_backward(dy, x, np.zeros((24, 16, 3, 3), np.float32), padding=1)
    with NUMPY.on():
        columns = F.im2col(x, 3, padding=1)
    a, b = dy.transpose(1, 0, 2, 3).reshape(24, -1), columns.transpose(1, 0, 2).reshape(16 * 9, -1)
    compare(dweight, a, b, engine)


@engines
@pytest.mark.parametrize(("channels", "kernel"), [(16, 3), (33, 3), (64, 3), (256, 3), (24, 5)])
def test_conv2d_input_gradient_of_larger_kernels(channels: int, kernel: int, engine: Engine) -> None:
    """dx is the convolution of dy with the kernels turned by half a turn, inputs and outputs changed about."""
    dy, weight = draw("normal", 1, 1, channels, 9, 9), draw("normal", 2, channels, 20, kernel, kernel)
    with engine.on():
        dx, _, _ = F.conv2d_backward(dy, np.zeros((1, 20, 9, 9), np.float32), weight, padding=kernel // 2)
    with NUMPY.on():
        columns = F.im2col(dy, kernel, padding=kernel // 2)[0]
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(20, -1)
    assert dx is not None
    compare(dx, flipped, columns.T, engine)


@engines
@pytest.mark.parametrize("mean", [0.0, 1e4, -1e6])
@pytest.mark.parametrize(
    ("op", "shape", "options"),
    [
        ("layer_norm", (40, 300), {"normalized_shape": 300}),
        ("layer_norm", (3, 40000), {"normalized_shape": 40000}),
        ("group_norm", (3, 8, 9, 10), {"num_groups": 2}),
        ("group_norm", (1, 4, 150, 150), {"num_groups": 1}),
        ("instance_norm", (3, 20, 9, 10), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True], ids=["rows", "channels_last"])
def test_norms_far_from_zero(
    op: str, shape: tuple[int, ...], options: dict[str, int], channels_last: bool, mean: float, engine: Engine
) -> None:
    """A large mean costs nothing: (x - mean) / sqrt(var + eps) in float32, whatever the mean.

    x less the rounded mean is exact (Sterbenz), the rest of the mean goes into the shift; what is rounded are the
    scale, the shift and the result: half an eps each, of |y| or of the shift, which is at most eps |mean| / 2 times the
    scale. Statistics are float64: their errors, 2 sqrt(m) 2^-52 |mean|, are a millionth of it.
    """
    x = (np.random.default_rng(0).standard_normal(shape) + mean).astype(np.float32)
    axes = (-1,) if op == "layer_norm" else (2, 3, 4)
    grouped = x.astype(np.float64)
    if op != "layer_norm":
        grouped = grouped.reshape(shape[0], options.get("num_groups", shape[1]), -1, *shape[2:])
    inverse = 1 / np.sqrt(grouped.var(axes, keepdims=True) + 1e-5)
    exact = (grouped - grouped.mean(axes, keepdims=True)) * inverse
    if channels_last and x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with engine.on():
        y = getattr(F, op)(x, **options)
    assert y.dtype == np.float32
    eps = 2.0**-23
    shift = eps * abs(mean) * inverse
    assert (np.abs(y.reshape(exact.shape) - exact) <= 2 * eps * (np.abs(exact) + shift)).all()

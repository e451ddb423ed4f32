"""How weights begin: functions that return a new array for a shape.

Numbers are drawn in float64 and rounded once to the dtype asked for, so that float32 and float64 networks of one seed
start from the same point. Fans are those of PyTorch: a weight is (out, in) or (O, C / groups, kh, kw), and the
receptive field kh * kw counts in both fans. To add an initialiser: a function here and a line in ``__all__``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .errors import ShapeError
from .random import as_generator

if TYPE_CHECKING:
    from .layers.base import Layer

__all__ = [
    "constant",
    "fans",
    "gain_of",
    "he_normal",
    "he_uniform",
    "normal",
    "orthogonal",
    "small_random",
    "xavier_normal",
    "xavier_uniform",
    "zero_residual",
    "zeros",
]

Seed: TypeAlias = "int | np.integer | np.random.Generator | None"

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_HE = math.sqrt(2.0)


# ---- checks ----


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(size.__index__() for size in shape)
    except (TypeError, AttributeError):
        raise TypeError(f"{name}: expected shape as a sequence of whole numbers, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ShapeError(f"{name}: sizes cannot be negative, got shape {sizes}")
    return sizes


def _dtype(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    resolved = np.dtype(dtype)
    if resolved not in _DTYPES:
        raise TypeError(f"{name}: weights are float32 or float64, got dtype {resolved}")
    return resolved


def _positive(name: str, what: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: {what} must be a finite number of at least 0, got {value!r}")
    return float(value)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan in, fan out) of a weight: how many numbers one output sums, and how many outputs one input feeds.

    Parameters
    ----------
    shape : (out, in) or (O, C / groups, kh, kw)
        More generally (out, in, ...), where what follows is the receptive field.

    Raises
    ------
    ShapeError
        For fewer than two axes (biases, batch norm): there is nothing to scale by; use `zeros` or `constant`.

    Examples
    --------
    >>> fans((64, 3, 7, 7))
    (147, 3136)
    """
    return _fans("fans", shape)


def _fans(name: str, shape: Sequence[int]) -> tuple[int, int]:
    sizes = _shape(name, shape)
    if len(sizes) < 2:
        raise ShapeError(
            f"{name}: a fan needs a weight of shape (out, in) or (O, C / groups, kh, kw), got {sizes}; "
            f"use zeros, constant or normal here"
        )
    field = math.prod(sizes[2:])
    return sizes[1] * field, sizes[0] * field


# ---- draws ----


def _draw_normal(shape: Sequence[int], std: float, rng: Seed, dtype: np.dtype[Any]) -> np.ndarray:
    return (std * as_generator(rng).standard_normal(shape)).astype(dtype, copy=False)


def _draw_uniform(shape: Sequence[int], std: float, rng: Seed, dtype: np.dtype[Any]) -> np.ndarray:
    """Uniform between +-sqrt(3) std, whose standard deviation is std."""
    bound = math.sqrt(3.0) * std
    return as_generator(rng).uniform(-bound, bound, shape).astype(dtype, copy=False)


def _he_std(name: str, shape: Sequence[int], mode: str, gain: float) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(name, shape)[mode == "fan_out"]
    if fan == 0:
        raise ShapeError(f"{name}: {mode} of shape {tuple(shape)} is 0, which scales nothing")
    return _positive(name, "gain", gain) / math.sqrt(fan)


def _xavier_std(name: str, shape: Sequence[int], gain: float) -> float:
    fan_in, fan_out = _fans(name, shape)
    if fan_in + fan_out == 0:
        raise ShapeError(f"{name}: both fans of shape {tuple(shape)} are 0, which scales nothing")
    return _positive(name, "gain", gain) * math.sqrt(2.0 / (fan_in + fan_out))


def he_normal(
    shape: Sequence[int],
    *,
    rng: Seed = None,
    dtype: DTypeLike = np.float32,
    mode: str = "fan_in",
    gain: float = _HE,
) -> np.ndarray:
    """Normal with standard deviation gain / sqrt(fan): keeps the variance of activations (fan in) through ReLU layers.

    Parameters
    ----------
    shape : sequence of int
        (out, in) or (O, C / groups, kh, kw).
    rng : int or numpy.random.Generator, optional
        A seed or the Generator to draw from; None draws differently every time.
    dtype : float32 or float64
    mode : "fan_in" or "fan_out"
        Keep the variance of activations on the way forward, or of gradients on the way back.
    gain : float
        sqrt(2) for ReLU; `gain_of` gives it for other activations.

    Returns
    -------
    ndarray
        Of the shape and dtype asked for.

    References
    ----------
    He et al., ICCV 2015; CS231n, "Training Neural Networks I".

    Examples
    --------
    >>> w = he_normal((1000, 50), rng=0)
    >>> w.shape, w.dtype, round(float(w.std()), 2)  # sqrt(2 / 50)
    ((1000, 50), dtype('float32'), 0.2)
    """
    resolved = _dtype("he_normal", dtype)
    return _draw_normal(shape, _he_std("he_normal", shape, mode, gain), rng, resolved)


def he_uniform(
    shape: Sequence[int],
    *,
    rng: Seed = None,
    dtype: DTypeLike = np.float32,
    mode: str = "fan_in",
    gain: float = _HE,
) -> np.ndarray:
    """Uniform between +-gain sqrt(3 / fan), of the same standard deviation as `he_normal`, whose arguments it takes.

    Examples
    --------
    >>> float(abs(he_uniform((100, 6), rng=0)).max()) <= 1.0  # sqrt(2) sqrt(3 / 6)
    True
    """
    resolved = _dtype("he_uniform", dtype)
    return _draw_uniform(shape, _he_std("he_uniform", shape, mode, gain), rng, resolved)


def xavier_normal(
    shape: Sequence[int], *, rng: Seed = None, dtype: DTypeLike = np.float32, gain: float = 1.0
) -> np.ndarray:
    """Normal with standard deviation gain sqrt(2 / (fan in + fan out)): for tanh, sigmoid and linear layers.

    Parameters
    ----------
    shape, rng, dtype
        As in `he_normal`.
    gain : float
        1 for linear layers; `gain_of` gives it for activations.

    References
    ----------
    Glorot and Bengio, AISTATS 2010; CS231n, "Training Neural Networks I".

    Examples
    --------
    >>> round(float(xavier_normal((400, 400), rng=0).std()), 2)  # sqrt(2 / 800)
    0.05
    """
    resolved = _dtype("xavier_normal", dtype)
    return _draw_normal(shape, _xavier_std("xavier_normal", shape, gain), rng, resolved)


def xavier_uniform(
    shape: Sequence[int], *, rng: Seed = None, dtype: DTypeLike = np.float32, gain: float = 1.0
) -> np.ndarray:
    """Uniform between +-gain sqrt(6 / (fan in + fan out)); arguments and purpose are those of `xavier_normal`.

    Examples
    --------
    >>> float(abs(xavier_uniform((3, 3), rng=0)).max()) <= 1.0  # sqrt(6 / 6)
    True
    """
    resolved = _dtype("xavier_uniform", dtype)
    return _draw_uniform(shape, _xavier_std("xavier_uniform", shape, gain), rng, resolved)


def normal(shape: Sequence[int], *, std: float = 0.01, rng: Seed = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Normal with mean 0 and standard deviation ``std``, whatever the shape.

    CS231n's "small random numbers": fine for shallow networks, while in deep ones the activations fade to zero.

    Examples
    --------
    >>> round(float(normal((10_000,), std=0.1, rng=0).std()), 2)
    0.1
    """
    resolved = _dtype("normal", dtype)
    return _draw_normal(_shape("normal", shape), _positive("normal", "std", std), rng, resolved)


def small_random(
    shape: Sequence[int], *, std: float = 0.01, rng: Seed = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """CS231n's first idea, 0.01 times a normal number: `normal` under the name that the lecture gives it.

    Examples
    --------
    >>> bool((small_random((3, 2), rng=0) == normal((3, 2), std=0.01, rng=0)).all())
    True
    """
    return normal(shape, std=std, rng=rng, dtype=dtype)


def orthogonal(
    shape: Sequence[int], *, rng: Seed = None, dtype: DTypeLike = np.float32, gain: float = 1.0
) -> np.ndarray:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times ``gain``: keeps lengths exactly.

    Parameters
    ----------
    shape : sequence of int
        (out, in) or (O, C / groups, kh, kw), which counts as (O, the product of the rest).
    rng, dtype
        As in `he_normal`.
    gain : float
        1 for linear layers; `gain_of` gives it for activations.

    References
    ----------
    Saxe, McClelland and Ganguli, ICLR 2014. Q of the QR decomposition of normal numbers, its signs such that every
    rotation is equally likely (Mezzadri, Notices of the AMS 54, 2007).

    Examples
    --------
    >>> w = orthogonal((2, 5), rng=0, dtype=np.float64)
    >>> np.abs(w @ w.T - np.eye(2)).max() < 1e-15
    np.True_
    """
    resolved = _dtype("orthogonal", dtype)
    sizes, factor = _shape("orthogonal", shape), _positive("orthogonal", "gain", gain)
    _fans("orthogonal", sizes)  # at least two axes
    rows, columns = sizes[0], math.prod(sizes[1:])
    drawn = as_generator(rng).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return (factor * (q if rows >= columns else q.T)).reshape(sizes).astype(resolved)


def zero_residual(model: Layer) -> list[str]:
    """Let every `Residual` of a model begin as its shortcut: the last layer of its main branch becomes zero, in place.

    That is the last linear map or normalisation with parameters, and all of these: a batch norm's gamma and beta, a
    convolution's weight and bias. An activation after it that is not 0 at 0 still counts.

    Parameters
    ----------
    model : Layer
        Any model; containers are searched.

    Returns
    -------
    list of str
        The names of the layers that were set to zero.

    Raises
    ------
    ValueError
        When the model has no `Residual`, or one whose main branch has no parameters. Nothing has changed then.

    References
    ----------
    Goyal et al., arXiv 1706.02677; He et al., "Bag of Tricks", CVPR 2019.

    Examples
    --------
    >>> from fastnn.layers import BatchNorm2d, Conv2d, Residual, Sequential
    >>> block = Residual(Sequential(Conv2d(2, 2, 3, padding=1, rng=0), BatchNorm2d(2)))
    >>> zero_residual(block)
    ['main.1']
    >>> x = np.ones((1, 2, 4, 4), np.float32)
    >>> bool((block(x) == x).all())
    True
    """
    found: dict[str, Layer] = {}
    residuals = list(_residuals(model, ""))
    if not residuals:
        raise ValueError(f"zero_residual: there is no Residual in {model.label()}")
    for name, main in residuals:
        # Those with a bias are linear maps and normalisations; an activation's slopes would make nothing zero.
        trained = [(n, leaf) for n, leaf in main.leaves(f"{name}main.") if leaf.params and "bias" in leaf.parameters]
        if not trained:
            where = name.removesuffix(".") or "Residual"
            raise ValueError(f"zero_residual: the main branch of {where!r} has no parameters to set to zero")
        found[trained[-1][0]] = trained[-1][1]
    for leaf in found.values():
        for array in leaf.params.values():
            array[...] = 0
    return list(found)


def _residuals(layer: Layer, prefix: str) -> Iterator[tuple[str, Layer]]:
    """The main branch of every Residual, with the Residual's name and a dot."""
    from .layers.container import Residual

    if isinstance(layer, Residual):
        yield prefix, layer["main"]
    for name, child in layer.children():
        yield from _residuals(child, f"{prefix}{name}.")


def zeros(shape: Sequence[int], *, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Zeros: right for biases, wrong for weights (all units of a layer would stay equal).

    Examples
    --------
    >>> zeros((2,))
    array([0., 0.], dtype=float32)
    """
    resolved = _dtype("zeros", dtype)
    return np.zeros(_shape("zeros", shape), resolved)


def constant(shape: Sequence[int], value: float, *, dtype: DTypeLike = np.float32) -> np.ndarray:
    """One value everywhere.

    Examples
    --------
    >>> constant((2,), 0.5)
    array([0.5, 0.5], dtype=float32)
    """
    resolved = _dtype("constant", dtype)
    return np.full(_shape("constant", shape), value, resolved)


def gain_of(activation: str | tuple[str, float] | None) -> float:
    """Return the gain of weights in front of an activation: its name, (name, parameter) or None, as in ``functional``.

    sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 5/3 for tanh, 3/4 for selu, 1 for sigmoid and None (as
    PyTorch). relu6, elu, celu, gelu, silu, mish, hardswish and softplus take sqrt(2), being close to relu.

    Examples
    --------
    >>> gain_of("tanh")
    1.6666666666666667
    """
    name, parameter = activation if isinstance(activation, tuple) and len(activation) == 2 else (activation, None)
    if name == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if parameter is None else float(parameter)) ** 2))
    if name not in _GAINS:
        raise ValueError(f"gain_of: unknown activation {activation!r}; expected one of {', '.join(map(str, _GAINS))}")
    return _GAINS[name]


_GAINS: dict[str | None, float] = {
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "elu", "celu", "gelu", "gelu_tanh"), _HE),
    **dict.fromkeys(("silu", "mish", "hardswish", "softplus"), _HE),
    "selu": 3.0 / 4.0,
    "tanh": 5.0 / 3.0,
    "sigmoid": 1.0,
    None: 1.0,
}

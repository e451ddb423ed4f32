"""How weights begin: functions that return a new array for a shape.

Numbers are drawn in float64 and rounded once to the dtype asked for, so that float32 and float64 networks of one seed
start from the same point. Fans are those of PyTorch: a weight is (out, in) or (O, C / groups, kh, kw), and the
receptive field kh * kw counts in both fans. To add an initialiser: a function here and a line in ``__all__``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .errors import ShapeError
from .random import as_generator

__all__ = [
    "constant",
    "fans",
    "gain_of",
    "he_normal",
    "he_uniform",
    "normal",
    "xavier_normal",
    "xavier_uniform",
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

    sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 5/3 for tanh, 1 for sigmoid and None (as PyTorch).
    elu and gelu take sqrt(2), being close to relu.

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
    "relu": _HE,
    "leaky_relu": _HE,
    "elu": _HE,
    "gelu": _HE,
    "gelu_tanh": _HE,
    "tanh": 5.0 / 3.0,
    "sigmoid": 1.0,
    None: 1.0,
}

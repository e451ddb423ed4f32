"""Activations as layers: one class each, over the functions of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape
from .linear import _sizes

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "Threshold",
]


class _Activation(Layer):
    """An element-wise function."""

    #: the function and its gradient, whose name is that under which other ops fuse it
    function: ClassVar[Callable[..., Array]]
    derivative: ClassVar[Callable[..., Array]]
    #: the attributes that the function takes after x
    options: ClassVar[tuple[str, ...]] = ()

    def arguments(self) -> tuple[Any, ...]:
        """Return what the function takes after x."""
        return tuple(getattr(self, option) for option in self.options)

    def fused(self) -> F.Activation:
        """Return this activation as the ``activation=`` of another op."""
        name = type(self).function.__name__
        return (name, *self.arguments()) if self.options else name

    def slope(self, x: ArrayLike) -> Array:
        """Return the local gradient, dy/dx of each element: what `fastnn.statistics` finds saturated units by."""
        x = F._array("slope", "x", x)
        return type(self).derivative(np.ones_like(x), x, *self.arguments())

    def __call__(self, x: ArrayLike) -> Array:
        return type(self).function(x, *self.arguments())

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: type(self).derivative(dy, x, *self.arguments())

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def label(self) -> str:
        return " ".join([type(self).__name__, *(f"{value:g}" for value in self.arguments())])


class ReLU(_Activation):
    """max(x, 0); see `fastnn.functional.relu`."""

    function = staticmethod(F.relu)
    derivative = staticmethod(F.relu_backward)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: F.relu_backward(dy, y)  # y, which the next layer keeps too, is positive where x is


class ReLU6(_Activation):
    """min(max(x, 0), 6); see `fastnn.functional.relu6`."""

    function = staticmethod(F.relu6)
    derivative = staticmethod(F.relu6_backward)


class Hardtanh(_Activation):
    """min(max(x, min_val), max_val); see `fastnn.functional.hardtanh`."""

    function = staticmethod(F.hardtanh)
    derivative = staticmethod(F.hardtanh_backward)
    options = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        F._check_range("Hardtanh", min_val, max_val)
        self.min_val = F._real(type(self).__name__, "min_val", min_val)
        self.max_val = F._real(type(self).__name__, "max_val", max_val)


class Threshold(_Activation):
    """x where it is above the threshold, value elsewhere; see `fastnn.functional.threshold`."""

    function = staticmethod(F.threshold)
    derivative = staticmethod(F.threshold_backward)
    options = ("threshold", "value")

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold = F._real(type(self).__name__, "threshold", threshold)
        self.value = F._real(type(self).__name__, "value", value)


class Hardsigmoid(_Activation):
    """min(max(x + 3, 0), 6) / 6; see `fastnn.functional.hardsigmoid`."""

    function = staticmethod(F.hardsigmoid)
    derivative = staticmethod(F.hardsigmoid_backward)


class Hardswish(_Activation):
    """x min(max(x + 3, 0), 6) / 6; see `fastnn.functional.hardswish`."""

    function = staticmethod(F.hardswish)
    derivative = staticmethod(F.hardswish_backward)


class LeakyReLU(_Activation):
    """x for x > 0, negative_slope * x otherwise; see `fastnn.functional.leaky_relu`."""

    function = staticmethod(F.leaky_relu)
    derivative = staticmethod(F.leaky_relu_backward)
    options = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = F._real(type(self).__name__, "negative_slope", negative_slope)


class Softsign(_Activation):
    """x / (1 + |x|); see `fastnn.functional.softsign`."""

    function = staticmethod(F.softsign)
    derivative = staticmethod(F.softsign_backward)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)); see `fastnn.functional.sigmoid`."""

    function = staticmethod(F.sigmoid)
    derivative = staticmethod(F.sigmoid_backward)


class Tanh(_Activation):
    """Hyperbolic tangent; see `fastnn.functional.tanh`."""

    function = staticmethod(F.tanh)
    derivative = staticmethod(F.tanh_backward)


class ELU(_Activation):
    """x for x > 0, alpha (exp(x) - 1) otherwise; see `fastnn.functional.elu`."""

    function = staticmethod(F.elu)
    derivative = staticmethod(F.elu_backward)
    options = ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = F._real(type(self).__name__, "alpha", alpha)


class SELU(_Activation):
    """1.0507 x for x > 0, 1.7581 (exp(x) - 1) otherwise; see `fastnn.functional.selu`."""

    function = staticmethod(F.selu)
    derivative = staticmethod(F.selu_backward)


class CELU(_Activation):
    """x for x > 0, alpha (exp(x / alpha) - 1) otherwise; see `fastnn.functional.celu`."""

    function = staticmethod(F.celu)
    derivative = staticmethod(F.celu_backward)
    options = ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        F._check_scale("CELU", alpha)
        self.alpha = F._real(type(self).__name__, "alpha", alpha)


class GELU(_Activation):
    """x Phi(x), or its tanh form; see `fastnn.functional.gelu`."""

    function = staticmethod(F.gelu)
    derivative = staticmethod(F.gelu_backward)
    options = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def fused(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def label(self) -> str:
        return "GELU" if self.approximate == "none" else "GELU tanh"


class SiLU(_Activation):
    """x / (1 + exp(-x)); see `fastnn.functional.silu`."""

    function = staticmethod(F.silu)
    derivative = staticmethod(F.silu_backward)


class Mish(_Activation):
    """x tanh(log(1 + exp(x))); see `fastnn.functional.mish`."""

    function = staticmethod(F.mish)
    derivative = staticmethod(F.mish_backward)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta, x where beta x is above the threshold; see `fastnn.functional.softplus`."""

    function = staticmethod(F.softplus)
    derivative = staticmethod(F.softplus_backward)
    options = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        F._check_scale("Softplus", beta)
        self.beta = F._real(type(self).__name__, "beta", beta)
        self.threshold = F._real(type(self).__name__, "threshold", threshold)


class PReLU(Layer):
    """x for x > 0, weight * x otherwise, with a trained weight; see `fastnn.functional.prelu`.

    Parameters
    ----------
    num_parameters : int
        One weight for all, or one for each of so many channels.
    init : float
        Where the weights start.

    Attributes
    ----------
    weight : ndarray (num_parameters,)
    """

    parameters = ("weight",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        (n,) = _sizes("PReLU", num_parameters=num_parameters)
        self.weight = np.full(n, init, np.float32)

    def slope(self, x: ArrayLike) -> Array:
        """Return the local gradient, dy/dx of each element."""
        x = F._array("slope", "x", x)
        return F.prelu_backward(np.ones_like(x), x, self.weight)[0]

    def __call__(self, x: ArrayLike) -> Array:
        return F.prelu(x, self.weight)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        w = self.weight
        return self(x), lambda dy: F.prelu_backward(dy, x, w, into=self.gradient("weight"))[0]

    def output_shape(self, shape: Shape) -> Shape:
        n = self.weight.size
        if n != 1 and (len(shape) < 2 or shape[1] != n):
            raise ShapeError(f"expected (N, {n}, ...), got {shape}")
        return shape

    def label(self) -> str:
        return f"PReLU {self.weight.size}"


class Maxout(Layer):
    """The largest of several pieces of the channels; see `fastnn.functional.maxout`.

    Parameters
    ----------
    pieces : int
        The layer before it makes that many times the channels: ``Linear(100, 2 * 50), Maxout(2)``.
    """

    def __init__(self, pieces: int = 2) -> None:
        (self.pieces,) = _sizes("Maxout", pieces=pieces)

    def __call__(self, x: ArrayLike) -> Array:
        return F.maxout(x, self.pieces)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        return self(x), lambda dy: F.maxout_backward(dy, x, self.pieces)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[1] % self.pieces:
            raise ShapeError(f"expected (N, C * {self.pieces}, ...), got {shape}")
        return (shape[0], shape[1] // self.pieces, *shape[2:])

    def label(self) -> str:
        return f"Maxout {self.pieces}"


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along an axis; see `fastnn.functional.softmax`.

    For training use the loss cross_entropy on the scores before it.
    """

    #: the function and its gradient, which takes the result
    function: ClassVar[Callable[..., Array]] = staticmethod(F.softmax)
    derivative: ClassVar[Callable[..., Array]] = staticmethod(F.softmax_backward)

    def __init__(self, axis: int = -1) -> None:
        self.axis = int(axis)

    def __call__(self, x: ArrayLike) -> Array:
        return type(self).function(x, self.axis)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: type(self).derivative(dy, y, self.axis)

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class LogSoftmax(Softmax):
    """x - log(sum(exp(x))) along an axis; see `fastnn.functional.log_softmax`."""

    function = staticmethod(F.log_softmax)
    derivative = staticmethod(F.log_softmax_backward)

"""Activations as layers: one class each, without parameters, over the functions of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from numpy.typing import ArrayLike

from .. import functional as F
from ..random import RNG
from .base import Array, Backward, Layer, Shape

__all__ = ["ELU", "GELU", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class _Activation(Layer):
    """An element-wise function with at most one parameter."""

    #: the function and its gradient, and the name under which other ops fuse it
    function: ClassVar[Callable[..., Array]]
    derivative: ClassVar[Callable[..., Array]]

    def arguments(self) -> tuple[float, ...]:
        """Return what the function takes after x."""
        return ()

    def fused(self) -> tuple[str, float] | str:
        """Return this activation as the ``activation=`` of another op."""
        return type(self).function.__name__

    def __call__(self, x: ArrayLike) -> Array:
        return type(self).function(x, *self.arguments())

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: type(self).derivative(dy, x, *self.arguments())

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class ReLU(_Activation):
    """max(x, 0); see `fastnn.functional.relu`."""

    function = staticmethod(F.relu)
    derivative = staticmethod(F.relu_backward)


class LeakyReLU(_Activation):
    """x for x > 0, negative_slope * x otherwise; see `fastnn.functional.leaky_relu`."""

    function = staticmethod(F.leaky_relu)
    derivative = staticmethod(F.leaky_relu_backward)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = float(negative_slope)

    def arguments(self) -> tuple[float, ...]:
        return (self.negative_slope,)

    def fused(self) -> tuple[str, float]:
        return "leaky_relu", self.negative_slope

    def label(self) -> str:
        return f"LeakyReLU {self.negative_slope:g}"


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

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = float(alpha)

    def arguments(self) -> tuple[float, ...]:
        return (self.alpha,)

    def fused(self) -> tuple[str, float]:
        return "elu", self.alpha

    def label(self) -> str:
        return f"ELU {self.alpha:g}"


class GELU(_Activation):
    """x Phi(x), or its tanh form; see `fastnn.functional.gelu`."""

    function = staticmethod(F.gelu)
    derivative = staticmethod(F.gelu_backward)

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.approximate,)

    def fused(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def label(self) -> str:
        return "GELU" if self.approximate == "none" else "GELU tanh"


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along an axis; see `fastnn.functional.softmax`.

    For training use the loss cross_entropy on the scores before it.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = int(axis)

    def __call__(self, x: ArrayLike) -> Array:
        return F.softmax(x, self.axis)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = F.softmax(x, self.axis)
        return y, lambda dy: F.softmax_backward(dy, y, self.axis)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

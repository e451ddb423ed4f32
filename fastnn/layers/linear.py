"""Layers that are linear maps with weights: Conv2d and Linear."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from .. import init
from ..errors import ShapeError
from ..random import RNG, as_generator
from .base import Array, Backward, Layer, Shape

__all__ = ["Conv2d", "Linear"]


def _sizes(owner: str, **sizes: int) -> tuple[int, ...]:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{owner}: {name} must be a whole number of at least 1, got {size!r}")
    return tuple(int(size) for size in sizes.values())


class Conv2d(Layer):
    """2-D convolution (N, C, H, W) -> (N, O, OH, OW); see `fastnn.functional.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, dilation : int or (int, int)
    groups : int
        Divides both channel counts.
    bias : bool
        Leave it out before a batch normalisation, which subtracts it.
    rng : int or numpy.random.Generator, optional
        For the initial weights: He normal (fan in), zero bias.

    Attributes
    ----------
    weight : ndarray (O, C / groups, kh, kw)
    bias : ndarray (O,) or None

    Examples
    --------
    >>> Conv2d(3, 8, 3, padding=1)(np.zeros((2, 3, 5, 5), np.float32)).shape
    (2, 8, 5, 5)
    """

    parameters = ("weight", "bias")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair = 1,
        padding: F.IntOrPair = 0,
        dilation: F.IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        c, o, groups = _sizes("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if c % groups or o % groups:
            raise ValueError(f"Conv2d: groups must divide the channels; got {groups} groups for {c} in and {o} out")
        kernel = F._pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = F._pair("Conv2d", "stride", stride, 1)
        self.padding = F._pair("Conv2d", "padding", padding, 0)
        self.dilation = F._pair("Conv2d", "dilation", dilation, 1)
        self.groups = groups
        self.weight = init.he_normal((o, c // groups, *kernel), rng=as_generator(rng))
        self.bias: Array | None = np.zeros(o, np.float32) if bias else None

    def __call__(self, x: ArrayLike) -> Array:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: ArrayLike, rng: RNG = None, *, need_dx: bool = True) -> tuple[Array, Backward]:
        w = self.weight
        y = self(x)

        def backward(dy: Array) -> Array | None:
            into = self.gradient("weight"), None if self.bias is None else self.gradient("bias")
            return F.conv2d_backward(
                dy, x, w, self.stride, self.padding, self.dilation, self.groups, need_dx=need_dx, into=into
            )[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        o, c = self.weight.shape[0], self.weight.shape[1] * self.groups
        if len(shape) != 4 or shape[1] != c:
            raise ShapeError(f"expected (N, {c}, H, W), got {shape}")
        kernel = self.weight.shape[2:]
        return (
            shape[0],
            o,
            *F._output_size("conv2d", shape[2:], kernel, self.stride, self.padding, self.dilation),
        )

    def label(self) -> str:
        o, c, kh, kw = self.weight.shape
        parts = [f"Conv2d {c * self.groups}->{o} {kh}x{kw}"]
        parts += [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        parts += [f"groups {self.groups}"] if self.groups != 1 else []
        return ", ".join(parts)


class Linear(Layer):
    """x @ weight.T + bias: (N, in) -> (N, out); see `fastnn.functional.linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    rng : int or numpy.random.Generator, optional
        For the initial weights: He normal (fan in), zero bias.

    Attributes
    ----------
    weight : ndarray (out, in)
    bias : ndarray (out,) or None

    Examples
    --------
    >>> Linear(100, 10)(np.zeros((2, 100), np.float32)).shape
    (2, 10)
    """

    parameters = ("weight", "bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        n_in, n_out = _sizes("Linear", in_features=in_features, out_features=out_features)
        self.weight = init.he_normal((n_out, n_in), rng=as_generator(rng))
        self.bias: Array | None = np.zeros(n_out, np.float32) if bias else None

    def __call__(self, x: ArrayLike) -> Array:
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: ArrayLike, rng: RNG = None, *, need_dx: bool = True) -> tuple[Array, Backward]:
        w = self.weight
        y = self(x)

        def backward(dy: Array) -> Array | None:
            into = self.gradient("weight"), None if self.bias is None else self.gradient("bias")
            return F.linear_backward(dy, x, w, need_dx=need_dx, into=into)[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[-1] != self.weight.shape[1]:
            raise ShapeError(f"expected (N, {self.weight.shape[1]}), got {shape}")
        return (*shape[:-1], self.weight.shape[0])

    def label(self) -> str:
        return f"Linear {self.weight.shape[1]}->{self.weight.shape[0]}"

"""Layers that are linear maps with weights: Conv1d, Conv2d, ConvTranspose2d and Linear.

Their ``forward`` takes ``need_dx=False`` where nobody needs the input's gradient, as in a network's first layer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from .. import init
from ..errors import ShapeError
from ..random import RNG, as_generator
from .base import Array, Backward, Layer, Shape

__all__ = ["Conv1d", "Conv2d", "ConvTranspose2d", "Linear"]


def _sizes(owner: str, **sizes: int) -> tuple[int, ...]:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{owner}: {name} must be a whole number of at least 1, got {size!r}")
        if size > F._MOST:
            raise ValueError(f"{owner}: {name} must be at most {F._MOST}, got {size!r}")
    return tuple(int(size) for size in sizes.values())


def _channels(owner: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, ...]:
    c, o, groups = _sizes(owner, in_channels=in_channels, out_channels=out_channels, groups=groups)
    if c % groups or o % groups:
        raise ValueError(f"{owner}: groups must divide the channels; got {groups} groups for {c} in and {o} out")
    return c, o, groups


class Conv1d(Layer):
    """1-D convolution (N, C, L) -> (N, O, OL); see `fastnn.functional.conv1d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, dilation : int or (int,)
    groups : int
        Divides both channel counts.
    bias : bool
        Leave it out before a batch normalisation, which subtracts it.
    rng : int or numpy.random.Generator, optional
        For the initial weights: He normal (fan in), zero bias.

    Attributes
    ----------
    weight : ndarray (O, C / groups, k)
    bias : ndarray (O,) or None

    Examples
    --------
    >>> Conv1d(3, 8, 5, padding=2)(np.zeros((2, 3, 20), np.float32)).shape
    (2, 8, 20)
    """

    parameters = ("weight", "bias")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: F.IntOrSingle,
        stride: F.IntOrSingle = 1,
        padding: F.IntOrSingle = 0,
        dilation: F.IntOrSingle = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        c, o, self.groups = _channels("Conv1d", in_channels, out_channels, groups)
        kernel = F._single("Conv1d", "kernel_size", kernel_size, 1)
        self.stride = F._single("Conv1d", "stride", stride, 1)
        self.padding = F._single("Conv1d", "padding", padding, 0)
        self.dilation = F._single("Conv1d", "dilation", dilation, 1)
        self.weight = init.he_normal((o, c // self.groups, kernel), rng=as_generator(rng))
        self.bias: Array | None = np.zeros(o, np.float32) if bias else None

    def __call__(self, x: ArrayLike) -> Array:
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: ArrayLike, rng: RNG = None, *, need_dx: bool = True) -> tuple[Array, Backward]:
        w = self.weight
        y = self(x)

        def backward(dy: Array) -> Array | None:
            into = self.gradient("weight"), None if self.bias is None else self.gradient("bias")
            return F.conv1d_backward(
                dy, x, w, self.stride, self.padding, self.dilation, self.groups, need_dx=need_dx, into=into
            )[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        o, c, k = self.weight.shape
        if len(shape) != 3 or shape[1] != c * self.groups:
            raise ShapeError(f"expected (N, {c * self.groups}, L), got {shape}")
        size = F._output_size("conv1d", (1, shape[2]), (1, k), (1, self.stride), (0, self.padding), (1, self.dilation))
        return shape[0], o, size[1]

    def multiply_adds(self, shape: Shape) -> int:  # type: ignore[override]
        return math.prod(self.output_shape(shape)) * self.weight[0].size

    def label(self) -> str:
        o, c, k = self.weight.shape
        parts = [f"Conv1d {c * self.groups}->{o} {k}"]
        parts += [f"stride {self.stride}"] if self.stride != 1 else []
        parts += [f"groups {self.groups}"] if self.groups != 1 else []
        return ", ".join(parts)


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
        c, o, groups = _channels("Conv2d", in_channels, out_channels, groups)
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

    def multiply_adds(self, shape: Shape) -> int:  # type: ignore[override]
        return math.prod(self.output_shape(shape)) * self.weight[0].size

    def label(self) -> str:
        o, c, kh, kw = self.weight.shape
        parts = [f"Conv2d {c * self.groups}->{o} {kh}x{kw}"]
        parts += [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        parts += [f"groups {self.groups}"] if self.groups != 1 else []
        return ", ".join(parts)


class ConvTranspose2d(Layer):
    """Transposed 2-D convolution (N, C, H, W) -> (N, O, OH, OW); see `fastnn.functional.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, output_padding : int or (int, int)
        stride=2 with a kernel of 2, or of 4 and padding 1, doubles the size.
    groups : int
        Divides both channel counts.
    bias : bool
        Leave it out before a batch normalisation, which subtracts it.
    dilation : int or (int, int)
    rng : int or numpy.random.Generator, optional
        For the initial weights: He normal, by the taps that meet in an element of the output; zero bias.

    Attributes
    ----------
    weight : ndarray (C, O / groups, kh, kw)
    bias : ndarray (O,) or None

    Examples
    --------
    >>> ConvTranspose2d(8, 3, 4, stride=2, padding=1)(np.zeros((2, 8, 5, 5), np.float32)).shape
    (2, 3, 10, 10)
    """

    parameters = ("weight", "bias")
    unit_axis = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair = 1,
        padding: F.IntOrPair = 0,
        output_padding: F.IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: F.IntOrPair = 1,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        name = "ConvTranspose2d"
        c, o, groups = _channels(name, in_channels, out_channels, groups)
        kernel = F._pair(name, "kernel_size", kernel_size, 1)
        self.stride = F._pair(name, "stride", stride, 1)
        self.padding = F._pair(name, "padding", padding, 0)
        self.output_padding = F._pair(name, "output_padding", output_padding, 0)
        self.dilation = F._pair(name, "dilation", dilation, 1)
        self.groups = groups
        # Of the kernel's taps one in stride * stride meets an element; those of C / groups channels are summed.
        gain = math.sqrt(2 * min(math.prod(self.stride), math.prod(kernel)))
        drawn = init.he_normal((o, c // groups, *kernel), rng=as_generator(rng), gain=gain)
        self.weight = drawn.reshape(c, o // groups, *kernel)
        self.bias: Array | None = np.zeros(o, np.float32) if bias else None

    def _options(self) -> tuple[F.IntOrPair, F.IntOrPair, F.IntOrPair, int, F.IntOrPair]:
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    def __call__(self, x: ArrayLike) -> Array:
        return F.conv_transpose2d(x, self.weight, self.bias, *self._options())

    def forward(self, x: ArrayLike, rng: RNG = None, *, need_dx: bool = True) -> tuple[Array, Backward]:
        w, options = self.weight, self._options()
        y = self(x)

        def backward(dy: Array) -> Array | None:
            into = self.gradient("weight"), None if self.bias is None else self.gradient("bias")
            return F.conv_transpose2d_backward(dy, x, w, *options, need_dx=need_dx, into=into)[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        c, o = self.weight.shape[0], self.weight.shape[1] * self.groups
        if len(shape) != 4 or shape[1] != c:
            raise ShapeError(f"expected (N, {c}, H, W), got {shape}")
        size = F._conv_transpose_size(
            "conv_transpose2d",
            shape[2:],
            self.weight.shape[2:],
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
        )
        return shape[0], o, *size

    def multiply_adds(self, shape: Shape) -> int:  # type: ignore[override]
        return math.prod(shape) * self.weight[0].size

    def label(self) -> str:
        c, o, kh, kw = self.weight.shape
        parts = [f"ConvTranspose2d {c}->{o * self.groups} {kh}x{kw}"]
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

    def multiply_adds(self, shape: Shape) -> int:  # type: ignore[override]
        return math.prod(self.output_shape(shape)) * self.weight[0].size

    def label(self) -> str:
        return f"Linear {self.weight.shape[1]}->{self.weight.shape[0]}"

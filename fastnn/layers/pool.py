"""Pooling layers: MaxPool2d, AvgPool2d, GlobalAvgPool2d."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape

__all__ = ["AvgPool2d", "GlobalAvgPool2d", "MaxPool2d"]


class _Pool2d(Layer):
    def __init__(
        self,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair | None = None,
        padding: F.IntOrPair = 0,
        *,
        ceil_mode: bool = False,
    ) -> None:
        name = type(self).__name__
        self.kernel_size = F._pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else F._pair(name, "stride", stride, 1)
        self.padding = F._pair(name, "padding", padding, 0)
        self.dilation = (1, 1)
        self.ceil_mode = bool(ceil_mode)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 4:
            raise ShapeError(f"expected (N, C, H, W), got {shape}")
        size = F._output_size(
            type(self).__name__,
            shape[2:],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
        )
        return (*shape[:2], *size)

    def label(self) -> str:
        kh, kw = self.kernel_size
        return f"{type(self).__name__} {kh}x{kw}" + (f", stride {self.stride[0]}" if self.stride != (kh, kw) else "")


class MaxPool2d(_Pool2d):
    """Maximum over windows; see `fastnn.functional.max_pool2d`. stride defaults to kernel_size."""

    def __init__(
        self,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair | None = None,
        padding: F.IntOrPair = 0,
        dilation: F.IntOrPair = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode)
        self.dilation = F._pair("MaxPool2d", "dilation", dilation, 1)

    def __call__(self, x: ArrayLike) -> Array:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        geometry = self.kernel_size, self.stride, self.padding, self.dilation
        shape = np.shape(x)
        y, argmax = F._max_pool2d(x, *geometry, self.ceil_mode)
        assert argmax is not None
        return y, lambda dy: F._max_pool2d_backward(dy, argmax, shape, *geometry)


class AvgPool2d(_Pool2d):
    """Mean over windows; see `fastnn.functional.avg_pool2d`. stride defaults to kernel_size."""

    def __init__(
        self,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair | None = None,
        padding: F.IntOrPair = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def _options(self) -> tuple[F.IntOrPair, F.IntOrPair, F.IntOrPair, bool, bool]:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def __call__(self, x: ArrayLike) -> Array:
        return F.avg_pool2d(x, *self._options())

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        options, shape = self._options(), np.shape(x)
        return self(x), lambda dy: F.avg_pool2d_backward(dy, shape, *options)


class GlobalAvgPool2d(Layer):
    """Mean over height and width: (N, C, H, W) -> (N, C, 1, 1); see `fastnn.functional.global_avg_pool2d`."""

    def __call__(self, x: ArrayLike) -> Array:
        return F.global_avg_pool2d(x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape, channels_last = np.shape(x), F._prefers_channels_last(x)
        return self(x), lambda dy: F.global_avg_pool2d_backward(dy, shape, channels_last=channels_last)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 4:
            raise ShapeError(f"expected (N, C, H, W), got {shape}")
        return (*shape[:2], 1, 1)

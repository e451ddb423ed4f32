"""Pooling layers: over windows, over parts (adaptive), over everything (global)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "MaxPool1d",
    "MaxPool2d",
]


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
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        F._divisor("AvgPool2d", divisor_override)
        self.divisor_override = divisor_override

    def _options(self) -> tuple[F.IntOrPair, F.IntOrPair, F.IntOrPair, bool, bool, int | None]:
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def __call__(self, x: ArrayLike) -> Array:
        return F.avg_pool2d(x, *self._options())

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        options, shape = self._options(), np.shape(x)
        return self(x), lambda dy: F.avg_pool2d_backward(dy, shape, *options)


class _Pool1d(Layer):
    def __init__(
        self,
        kernel_size: F.IntOrPair,
        stride: F.IntOrPair | None = None,
        padding: F.IntOrPair = 0,
        *,
        ceil_mode: bool = False,
    ) -> None:
        self._windows = F._along_windows(type(self).__name__, kernel_size, stride, padding)
        self._dilation = (1, 1)
        self.ceil_mode = bool(ceil_mode)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"expected (N, C, L), got {shape}")
        name, size = type(self).__name__, (1, shape[2])
        return (*shape[:2], F._output_size(name, size, *self._windows, self._dilation, self.ceil_mode)[1])

    def label(self) -> str:
        (_, k), (_, s), _ = self._windows
        return f"{type(self).__name__} {k}" + (f", stride {s}" if s != k else "")


class MaxPool1d(_Pool1d):
    """Maximum over windows of (N, C, L); see `fastnn.functional.max_pool1d`. stride defaults to kernel_size."""

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
        self._dilation = F._along("MaxPool1d", "dilation", dilation, 1)

    def __call__(self, x: ArrayLike) -> Array:
        image = F._line("max_pool1d", "x", x)
        return F.max_pool2d(image, *self._windows, self._dilation, self.ceil_mode)[:, :, 0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        geometry = *self._windows, self._dilation
        image = F._line("max_pool1d", "x", x)
        y, argmax = F._max_pool2d(image, *geometry, self.ceil_mode)
        assert argmax is not None
        shape = image.shape

        def backward(dy: Array) -> Array:
            return F._max_pool2d_backward(F._line("max_pool1d", "dy", dy), argmax, shape, *geometry)[:, :, 0]

        return y[:, :, 0], backward


class AvgPool1d(_Pool1d):
    """Mean over windows of (N, C, L); see `fastnn.functional.avg_pool1d`. stride defaults to kernel_size."""

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

    def __call__(self, x: ArrayLike) -> Array:
        image = F._line("avg_pool1d", "x", x)
        return F.avg_pool2d(image, *self._windows, self.ceil_mode, self.count_include_pad)[:, :, 0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        n, c, length = np.shape(x)

        def backward(dy: Array) -> Array:
            options = *self._windows, self.ceil_mode, self.count_include_pad
            return F.avg_pool2d_backward(F._line("avg_pool1d", "dy", dy), (n, c, 1, length), *options)[:, :, 0]

        return self(x), backward


class _AdaptivePool2d(Layer):
    def __init__(self, output_size: Any) -> None:
        F._adaptive_size(type(self).__name__, output_size, (1, 1, 1, 1))
        self.output_size = tuple(output_size) if isinstance(output_size, (tuple, list)) else output_size

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 4:
            raise ShapeError(f"expected (N, C, H, W), got {shape}")
        return (*shape[:2], *F._adaptive_size(type(self).__name__, self.output_size, shape))

    def label(self) -> str:
        size = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2
        return f"{type(self).__name__} {'x'.join('-' if n is None else str(n) for n in size)}"


class AdaptiveMaxPool2d(_AdaptivePool2d):
    """Maximum over as many parts as the output has elements; see `fastnn.functional.adaptive_max_pool2d`."""

    def __call__(self, x: ArrayLike) -> Array:
        return F.adaptive_max_pool2d(x, self.output_size)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape, channels_last = np.shape(x), F._prefers_channels_last(x)
        y, argmax = F._adaptive_max_pool2d(x, self.output_size)
        assert argmax is not None
        return y, lambda dy: F._adaptive_max_pool2d_backward(dy, argmax, shape, channels_last)


class AdaptiveAvgPool2d(_AdaptivePool2d):
    """Mean over as many parts as the output has elements; see `fastnn.functional.adaptive_avg_pool2d`."""

    def __call__(self, x: ArrayLike) -> Array:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape, channels_last = np.shape(x), F._prefers_channels_last(x)
        return self(x), lambda dy: F.adaptive_avg_pool2d_backward(dy, shape, channels_last=channels_last)


class GlobalMaxPool2d(AdaptiveMaxPool2d):
    """Maximum over height and width: (N, C, H, W) -> (N, C, 1, 1); see `fastnn.functional.adaptive_max_pool2d`."""

    def __init__(self) -> None:
        super().__init__(1)

    def label(self) -> str:
        return "GlobalMaxPool2d"


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

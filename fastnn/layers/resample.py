"""Layers that give images another size, border or order: Upsample, the paddings and the shuffles of torch.nn.

A border that is constant and belongs to a convolution or a pooling is cheaper as that layer's ``padding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape

__all__ = [
    "ChannelShuffle",
    "CircularPad2d",
    "ConstantPad2d",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Upsample",
    "ZeroPad2d",
]


class Upsample(Layer):
    """Images (N, C, ...) of another size; see `fastnn.functional.interpolate`, whose options it takes.

    Parameters
    ----------
    size : int or sequence of int, optional
        Of the output. Either this or scale_factor.
    scale_factor : float or sequence of float, optional
    mode : str
        "nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear".
    align_corners, recompute_scale_factor : bool, optional
    antialias, coordinates, rounding, cubic_coeff_a, exclude_outside
        As there.

    Examples
    --------
    >>> Upsample(scale_factor=2, mode="bilinear")(np.zeros((2, 3, 5, 5), np.float32)).shape
    (2, 3, 10, 10)
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
        *,
        coordinates: str | None = None,
        rounding: str | None = None,
        cubic_coeff_a: float = -0.75,
        exclude_outside: bool = False,
    ) -> None:
        F._interpolation_mode("Upsample", mode, align_corners, antialias, coordinates, rounding, exclude_outside)
        if (size is None) == (scale_factor is None):
            raise ValueError(f"Upsample: expected either size or scale_factor, got {size!r} and {scale_factor!r}")
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self._options = {
            "align_corners": align_corners,
            "recompute_scale_factor": recompute_scale_factor,
            "antialias": antialias,
            "coordinates": coordinates,
            "rounding": rounding,
            "cubic_coeff_a": cubic_coeff_a,
            "exclude_outside": exclude_outside,
        }

    def _arguments(self) -> dict[str, Any]:
        return {"size": self.size, "scale_factor": self.scale_factor, "mode": self.mode, **self._options}

    def __call__(self, x: ArrayLike) -> Array:
        return F.interpolate(x, **self._arguments())

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape, arguments = np.shape(x), self._arguments()
        return self(x), lambda dy: F.interpolate_backward(dy, shape, **arguments)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) not in F._INTERPOLATIONS[self.mode]:
            raise ShapeError(f"expected (N, C, ...) that fits mode {self.mode!r}, got {shape}")
        return *shape[:2], *F._interpolation_size("interpolate", shape, self.size, self.scale_factor)[0]

    def label(self) -> str:
        return f"Upsample {self.mode} {f'x{self.scale_factor}' if self.size is None else f'to {self.size}'}"


class _Pad2d(Layer):
    """A border around images (N, C, H, W); see `fastnn.functional.pad`."""

    mode: ClassVar[str]
    value = 0.0

    def __init__(self, padding: int | Sequence[int]) -> None:
        sizes = tuple(padding) if isinstance(padding, (Sequence, np.ndarray)) else (padding,) * 4
        if len(sizes) != 4 or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in sizes):
            raise TypeError(
                f"{type(self).__name__}: padding must be a whole number or four of them (left, right, top, bottom), "
                f"got {padding!r}"
            )
        self.padding = tuple(int(n) for n in sizes)

    def __call__(self, x: ArrayLike) -> Array:
        return F.pad(x, self.padding, self.mode, self.value)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape, padding, mode = np.shape(x), self.padding, self.mode
        return self(x), lambda dy: F.pad_backward(dy, shape, padding, mode)

    def output_shape(self, shape: Shape) -> Shape:
        return F._padded_shape("pad", shape, self.padding, self.mode)

    def label(self) -> str:
        return f"{type(self).__name__} {self.padding[0] if len(set(self.padding)) == 1 else self.padding}"


class ConstantPad2d(_Pad2d):
    """A border of one value around images (N, C, H, W); negative sizes crop.

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
    value : float

    Examples
    --------
    >>> ConstantPad2d((1, 0, 0, 0), 9.0)(np.float32([[[[1, 2]]]]))
    array([[[[9., 1., 2.]]]], dtype=float32)
    """

    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = F._real(type(self).__name__, "value", value)


class ZeroPad2d(_Pad2d):
    """A border of zeros around images (N, C, H, W), int or (left, right, top, bottom); negative sizes crop.

    Examples
    --------
    >>> ZeroPad2d((1, -1, 0, 0))(np.float32([[[[1, 2]]]]))
    array([[[[0., 1.]]]], dtype=float32)
    """

    mode = "constant"


class ReflectionPad2d(_Pad2d):
    """A border that mirrors images (N, C, H, W) about their edge, int or (left, right, top, bottom).

    Examples
    --------
    >>> ReflectionPad2d((2, 0, 0, 0))(np.float32([[[[1, 2, 3]]]]))
    array([[[[3., 2., 1., 2., 3.]]]], dtype=float32)
    """

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """A border that repeats the edge of images (N, C, H, W), int or (left, right, top, bottom).

    Examples
    --------
    >>> ReplicationPad2d((2, 0, 0, 0))(np.float32([[[[1, 2, 3]]]]))
    array([[[[1., 1., 1., 2., 3.]]]], dtype=float32)
    """

    mode = "replicate"


class CircularPad2d(_Pad2d):
    """A border that goes on at the other end of images (N, C, H, W), int or (left, right, top, bottom).

    Examples
    --------
    >>> CircularPad2d((2, 0, 0, 0))(np.float32([[[[1, 2, 3]]]]))
    array([[[[2., 3., 1., 2., 3.]]]], dtype=float32)
    """

    mode = "circular"


class PixelShuffle(Layer):
    """Channels to pixels, (N, C r r, H, W) -> (N, C, H r, W r); see `fastnn.functional.pixel_shuffle`.

    Examples
    --------
    >>> PixelShuffle(2)(np.zeros((1, 12, 5, 5), np.float32)).shape
    (1, 3, 10, 10)
    """

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = F._factor("PixelShuffle", "upscale_factor", upscale_factor)

    def __call__(self, x: ArrayLike) -> Array:
        return F.pixel_shuffle(x, self.upscale_factor)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        r = self.upscale_factor
        return self(x), lambda dy: F.pixel_unshuffle(dy, r)

    def output_shape(self, shape: Shape) -> Shape:
        r = self.upscale_factor
        if len(shape) != 4 or shape[1] % (r * r):
            raise ShapeError(f"expected (N, C * {r} * {r}, H, W), got {shape}")
        n, c, h, w = shape
        return n, c // (r * r), h * r, w * r

    def label(self) -> str:
        return f"PixelShuffle {self.upscale_factor}"


class PixelUnshuffle(Layer):
    """Pixels to channels, (N, C, H r, W r) -> (N, C r r, H, W); see `fastnn.functional.pixel_unshuffle`.

    Examples
    --------
    >>> PixelUnshuffle(2)(np.zeros((1, 3, 10, 10), np.float32)).shape
    (1, 12, 5, 5)
    """

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = F._factor("PixelUnshuffle", "downscale_factor", downscale_factor)

    def __call__(self, x: ArrayLike) -> Array:
        return F.pixel_unshuffle(x, self.downscale_factor)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        r = self.downscale_factor
        return self(x), lambda dy: F.pixel_shuffle(dy, r)

    def output_shape(self, shape: Shape) -> Shape:
        r = self.downscale_factor
        if len(shape) != 4 or shape[2] % r or shape[3] % r:
            raise ShapeError(f"expected (N, C, H * {r}, W * {r}), got {shape}")
        n, c, h, w = shape
        return n, c * r * r, h // r, w // r

    def label(self) -> str:
        return f"PixelUnshuffle {self.downscale_factor}"


class ChannelShuffle(Layer):
    """The channels of the groups in turn, (N, C, ...) as it is; see `fastnn.functional.channel_shuffle`.

    Examples
    --------
    >>> ChannelShuffle(2)(np.float32([[1, 2, 3, 4]]))
    array([[1., 3., 2., 4.]], dtype=float32)
    """

    def __init__(self, groups: int) -> None:
        self.groups = F._groups("ChannelShuffle", groups)

    def __call__(self, x: ArrayLike) -> Array:
        return F.channel_shuffle(x, self.groups)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        groups = self.groups
        return self(x), lambda dy: F.channel_shuffle(dy, dy.shape[1] // groups)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[1] % self.groups:
            raise ShapeError(f"expected (N, C, ...) with channels that {self.groups} divides, got {shape}")
        return shape

    def label(self) -> str:
        return f"ChannelShuffle {self.groups}"

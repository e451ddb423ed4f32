"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape
from .linear import _sizes

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm"]


class _BatchNorm(Layer):
    """Batch normalisation; see `fastnn.functional.batch_norm` and `batch_norm_train`.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
    momentum : float
        The weight of the NEW batch in the running statistics, as in torch (Keras and cs231n weigh the old).
    affine : bool
        Whether there are weight (gamma) and bias (beta).
    frozen : bool
        Fine-tuning with fixed statistics: `forward` normalises by the running statistics and does not change them.

    Attributes
    ----------
    weight, bias : ndarray (C,) or None
    running_mean, running_var : ndarray (C,)
        running_var gathers the unbiased variance, as in torch.
    """

    parameters = ("weight", "bias")
    statistics = ("running_mean", "running_var")
    penalized = ()
    ranks: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        frozen: bool = False,
    ) -> None:
        (c,) = _sizes(type(self).__name__, num_features=num_features)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"{type(self).__name__}: momentum is the weight of the new batch, from 0 to 1: {momentum}")
        self.eps = F._epsilon(type(self).__name__, eps)
        self.momentum = float(momentum)
        self.frozen = bool(frozen)
        self.weight: Array | None = np.ones(c, np.float32) if affine else None
        self.bias: Array | None = np.zeros(c, np.float32) if affine else None
        self.running_mean = np.zeros(c, np.float32)
        self.running_var = np.ones(c, np.float32)

    def _check(self, shape: Shape) -> Shape:
        c = self.running_mean.size
        if len(shape) not in self.ranks or shape[1] != c:
            forms = {2: f"(N, {c})", 3: f"(N, {c}, L)", 4: f"(N, {c}, H, W)"}
            raise ShapeError(f"expected {' or '.join(forms[r] for r in self.ranks)}, got {shape}")
        return shape

    def __call__(self, x: ArrayLike) -> Array:
        self._check(np.shape(x))
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)

    def forward(
        self, x: ArrayLike, rng: RNG = None, *, residual: Array | None = None, relu: bool = False
    ) -> tuple[Array, Backward]:
        """As of any layer; a recorded step has a residual added and a ReLU applied too, unless the layer is frozen.

        With a residual, ``backward`` returns the gradients of both.
        """
        shape = self._check(np.shape(x))
        frozen, w = self.frozen, self.weight
        if frozen:
            mean, var = self.running_mean, self.running_var
            y = self(x)
        else:
            y, mean, var = F.batch_norm_train(x, w, self.bias, self.eps, residual=residual, relu=relu)
            count = int(np.prod(shape)) // max(shape[1], 1)
            if count:
                unbiased = count / max(count - 1, 1)
                F._move_average(self.running_mean, mean, self.momentum)
                F._move_average(self.running_var, var, self.momentum, unbiased)

        result, joined = y if relu else None, residual is not None

        def backward(dy: Array) -> Any:
            gate = result
            if joined and gate is not None:
                dy, gate = F.relu_backward(dy, gate), None
            into = None if w is None else (self.gradient("weight"), self.gradient("bias"))
            dx = F.batch_norm_backward(dy, x, mean, var, w, self.eps, frozen=frozen, y=gate, into=into)[0]
            return (dx, dy) if joined else dx

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        return self._check(shape)

    def label(self) -> str:
        return f"{type(self).__name__} {self.running_mean.size}{' frozen' if self.frozen else ''}"


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L)."""

    __doc__ = f"{__doc__}\n{(_BatchNorm.__doc__ or '').split(chr(10), 1)[1]}"
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W)."""

    __doc__ = f"{__doc__}\n{(_BatchNorm.__doc__ or '').split(chr(10), 1)[1]}"
    ranks = (4,)


class LayerNorm(Layer):
    """Layer normalisation over the last axes; see `fastnn.functional.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The sizes of those axes.
    eps : float
    elementwise_affine : bool
        Whether there is a weight.
    bias : bool
        Whether there is a bias beside the weight.

    Attributes
    ----------
    weight, bias : ndarray (*normalized_shape,) or None

    Examples
    --------
    >>> LayerNorm(3)(np.float32([[1, 2, 3]])).round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    parameters = ("weight", "bias")
    penalized = ()

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if not sizes:
            raise ValueError("LayerNorm: normalized_shape must have at least one axis")
        self.normalized_shape = tuple(_sizes("LayerNorm", normalized_shape=n)[0] for n in sizes)
        self.eps = F._epsilon(type(self).__name__, eps)
        shape = self.normalized_shape
        self.weight: Array | None = np.ones(shape, np.float32) if elementwise_affine else None
        self.bias: Array | None = np.zeros(shape, np.float32) if elementwise_affine and bias else None

    def __call__(self, x: ArrayLike) -> Array:
        self.output_shape(np.shape(x))
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        self.output_shape(np.shape(x))
        shape, w, eps = self.normalized_shape, self.weight, self.eps
        y, statistics = F._layer_norm("layer_norm", x, shape, w, self.bias, eps)

        def backward(dy: Array) -> Array:
            op = "layer_norm_backward"
            return F._layer_norm_backward(op, dy, x, statistics, shape, w, eps, _gradients(self))[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ShapeError(f"expected (..., {', '.join(map(str, self.normalized_shape))}), got {shape}")
        return shape

    def label(self) -> str:
        return f"LayerNorm {'x'.join(map(str, self.normalized_shape))}"


def _gradients(layer: Layer) -> tuple[Array | None, Array | None] | None:
    """Where the gradients of weight and bias are gathered; None for a layer without."""
    if getattr(layer, "weight", None) is None:
        return None
    return layer.gradient("weight"), None if getattr(layer, "bias", None) is None else layer.gradient("bias")


class _GroupNorm(Layer):
    parameters = ("weight", "bias")
    penalized = ()
    groups: int | None
    ranks: ClassVar[tuple[int, ...]] = ()  # none: any from 2 on

    def __init__(self, num_channels: int, eps: float, affine: bool) -> None:
        self.num_channels = num_channels
        self.eps = F._epsilon(type(self).__name__, eps)
        self.weight: Array | None = np.ones(num_channels, np.float32) if affine else None
        self.bias: Array | None = np.zeros(num_channels, np.float32) if affine else None

    def __call__(self, x: ArrayLike) -> Array:
        return self._normalise(x)[0]

    def _normalise(self, x: ArrayLike) -> tuple[Array, Array]:
        self.output_shape(np.shape(x))
        return F._group_norm_forward("group_norm", x, self.groups, self.weight, self.bias, self.eps)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y, statistics = self._normalise(x)
        groups, w, eps = self.groups, self.weight, self.eps

        def backward(dy: Array) -> Array:
            op = "group_norm_backward"
            return F._group_norm_gradients(op, dy, x, statistics, groups, w, eps, _gradients(self))[0]

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        c = self.num_channels
        if len(shape) < 2 or (self.ranks and len(shape) not in self.ranks) or shape[1] != c:
            forms = {3: f"(N, {c}, L)", 4: f"(N, {c}, H, W)"}
            expected = " or ".join(forms[r] for r in self.ranks) or f"(N, {c}, ...)"
            raise ShapeError(f"expected {expected}, got {shape}")
        return shape


class GroupNorm(_GroupNorm):
    """Group normalisation of (N, C, ...); see `fastnn.functional.group_norm`.

    Parameters
    ----------
    num_groups : int
        Divides num_channels.
    num_channels : int
        C.
    eps : float
    affine : bool
        Whether there are weight and bias.

    Attributes
    ----------
    weight, bias : ndarray (C,) or None

    Examples
    --------
    >>> GroupNorm(2, 4)(np.float32([[1, 3, 10, 30]])).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        groups, c = _sizes("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if c % groups:
            raise ValueError(f"GroupNorm: num_groups must divide num_channels; got {groups} groups for {c} channels")
        super().__init__(c, eps, affine)
        self.groups = groups

    def label(self) -> str:
        return f"GroupNorm {self.num_channels}, groups {self.groups}"


class _InstanceNorm(_GroupNorm):
    """Instance normalisation; see `fastnn.functional.instance_norm`. No running statistics are gathered.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
    affine : bool
        Whether there are weight and bias.

    Attributes
    ----------
    weight, bias : ndarray (C,) or None
    """

    groups = None

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = False) -> None:
        super().__init__(_sizes(type(self).__name__, num_features=num_features)[0], eps, affine)

    def label(self) -> str:
        return f"{type(self).__name__} {self.num_channels}"


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L)."""

    __doc__ = f"{__doc__}\n{(_InstanceNorm.__doc__ or '').split(chr(10), 1)[1]}"
    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W)."""

    __doc__ = f"{__doc__}\n{(_InstanceNorm.__doc__ or '').split(chr(10), 1)[1]}"
    ranks = (4,)

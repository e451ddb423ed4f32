"""Normalisation layers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape
from .linear import _sizes

__all__ = ["BatchNorm1d", "BatchNorm2d"]


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
        self.eps = float(eps)
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

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape = self._check(np.shape(x))
        frozen, w = self.frozen, self.weight
        if frozen:
            mean, var = self.running_mean, self.running_var
            y = self(x)
        else:
            y, mean, var = F.batch_norm_train(x, w, self.bias, self.eps)
            count = int(np.prod(shape)) // max(shape[1], 1)
            if count:
                unbiased = count / max(count - 1, 1)
                F._move_average(self.running_mean, mean, self.momentum)
                F._move_average(self.running_var, var, self.momentum, unbiased)

        def backward(dy: Array) -> Array:
            into = None if w is None else (self.gradient("weight"), self.gradient("bias"))
            return F.batch_norm_backward(dy, x, mean, var, w, self.eps, frozen=frozen, into=into)[0]

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

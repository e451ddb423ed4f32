"""Fixed maps in front of a network: what fitted preprocessors (fastnn.preprocess) become inside a model.

Their arrays are state, saved and loaded with the model, and not trained. The compiler folds them into the first
convolution or linear layer where that leaves the result the same (compiler/passes.py).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG
from .base import Array, Backward, Layer, Shape

__all__ = ["Normalize", "Project"]


class Normalize(Layer):
    """(x - mean) / std, for each channel or for each element of a row; the numbers are fixed.

    Parameters
    ----------
    mean : array_like, (C,) or the shape of a row
        (C,) is for channels (the second axis of x), another shape for every element: (C, H, W).
    std : array_like of that shape, optional
        1 when absent.
    dtype : dtype

    Attributes
    ----------
    mean, var : ndarray
        var is the square of std.

    Examples
    --------
    Images from 0 to 1 as networks trained on ImageNet expect them:

    >>> layer = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    >>> layer(np.full((1, 3, 1, 1), 0.5, np.float32)).round(4).ravel()
    array([0.0655, 0.1964, 0.4178], dtype=float32)
    """

    statistics = ("mean", "var")
    penalized = ()

    def __init__(self, mean: ArrayLike, std: ArrayLike | None = None, *, dtype: DTypeLike = np.float32) -> None:
        self.mean = _fixed("Normalize", "mean", mean, dtype)
        if not self.mean.ndim:
            raise ShapeError("Normalize: mean must have the shape (C,), or that of a row, got a single number")
        deviation = np.ones(self.mean.shape) if std is None else _fixed("Normalize", "std", std, np.float64)
        if deviation.shape != self.mean.shape:
            raise ShapeError(f"Normalize: mean and std must have one shape, got {self.mean.shape}, {deviation.shape}")
        if not (deviation > 0).all():
            raise ValueError("Normalize: std must be above 0 everywhere")
        self.var = np.square(deviation).astype(dtype)

    def _seen(self, x: Array) -> Array:
        """x with the elements that have a mean of their own along axis 1."""
        if self.mean.ndim == 1:
            return x
        rows = F._rowmajor("normalize", "x", x)
        return rows.reshape(len(rows), -1)

    def __call__(self, x: ArrayLike) -> Array:
        return self._apply(x)[0]

    def _apply(self, x: ArrayLike) -> tuple[Array, Array]:
        array = F._array("normalize", "x", x)
        self.output_shape(array.shape)
        seen = self._seen(array)
        y = F.batch_norm(seen, self.mean.reshape(-1), self.var.reshape(-1), eps=0.0)
        return y if seen is array else y.reshape(array.shape), seen

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y, seen = self._apply(x)
        mean, var = self.mean.reshape(-1), self.var.reshape(-1)

        def backward(dy: Array) -> Array:
            dx = F.batch_norm_backward(
                self._seen(F._array("normalize", "dy", dy)), seen, mean, var, None, 0.0, frozen=True
            )[0]
            return dx.reshape(np.shape(dy))

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        if self.mean.ndim == 1:
            c = self.mean.size
            if len(shape) not in (2, 3, 4) or shape[1] != c:
                raise ShapeError(f"expected (N, {c}), (N, {c}, L) or (N, {c}, H, W), got {shape}")
        elif tuple(shape[1:]) != self.mean.shape:
            raise ShapeError(f"expected (N, {', '.join(map(str, self.mean.shape))}), got {shape}")
        return shape

    def label(self) -> str:
        return f"Normalize {'x'.join(map(str, self.mean.shape))}"


class Project(Layer):
    """x @ matrix.T + bias on each row, taken as one vector; the numbers are fixed. What PCA and whitening do.

    Parameters
    ----------
    matrix : array_like (k, D)
        D elements in a row of x, in C order.
    bias : array_like (k,), optional
    shape : sequence of int, optional
        The shape of a row of the output, of k elements; (k,) when absent.
    dtype : dtype

    Attributes
    ----------
    matrix : ndarray (k, D)
    bias : ndarray (k,) or None

    Examples
    --------
    >>> Project([[0, 1], [1, 0]])(np.float32([[3, 4]]))
    array([[4., 3.]], dtype=float32)
    """

    statistics = ("matrix", "bias")

    def __init__(
        self,
        matrix: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        shape: Shape | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.matrix = _fixed("Project", "matrix", matrix, dtype)
        if self.matrix.ndim != 2:
            raise ShapeError(f"Project: matrix must have the shape (k, D), got {self.matrix.shape}")
        k = len(self.matrix)
        self.bias = None if bias is None else _fixed("Project", "bias", bias, dtype)
        if self.bias is not None and self.bias.shape != (k,):
            raise ShapeError(f"Project: bias must have the shape ({k},), got {self.bias.shape}")
        self.shape = (k,) if shape is None else tuple(int(n) for n in shape)
        if math.prod(self.shape) != k:
            raise ShapeError(f"Project: {k} numbers do not have the shape {self.shape}")

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        array = F._rowmajor("project", "x", x)
        shape = self.output_shape(array.shape)
        rows = array.reshape(len(array), -1)
        y = F.linear(rows, self.matrix, self.bias).reshape(shape)

        def backward(dy: Array) -> Array:
            gradient = F._rowmajor("project", "dy", dy).reshape(len(array), -1)
            dx = F.linear_backward(gradient, rows, self.matrix)[0]
            assert dx is not None
            return dx.reshape(array.shape)

        return y, backward

    def output_shape(self, shape: Shape) -> Shape:
        d = self.matrix.shape[1]
        if len(shape) < 2 or math.prod(shape[1:]) != d:
            raise ShapeError(f"expected rows of {d} numbers, got {shape}")
        return (shape[0], *self.shape)

    def label(self) -> str:
        return f"Project {self.matrix.shape[1]}->{self.matrix.shape[0]}"


def _fixed(owner: str, name: str, value: ArrayLike, dtype: DTypeLike) -> Array:
    """A copy in a floating dtype."""
    array = np.array(value, dtype, order="C")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{owner}: dtype must be float32 or float64, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{owner}: {name} has NaN or infinite values")
    return array

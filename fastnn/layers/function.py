"""Layers that are functions of several arrays, or give several: the joints of `Graph`, `Residual` and `Concat`.

A layer of several inputs takes them in order, and its backward pass gives a tuple of as many gradients. A layer of
several outputs gives a tuple of arrays (and of shapes, in ``output_shape``), and its backward pass takes as many
gradients: None for each output that nothing reads.
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

__all__ = ["Add", "Constant", "Join", "Mul", "Parameter", "Reshape", "Split"]


class _Function(Layer):
    """A layer that is traced with as many inputs as it gets."""

    def trace(self, builder: Any, *xs: Any) -> Any:
        return builder.add(self, *xs)


class Add(_Function):
    """The sum of two arrays of one shape; see `fastnn.functional.add`. What `Residual` does with its branches.

    Examples
    --------
    >>> Add()(np.float32([1, 2]), np.float32([3, 4]))
    array([4., 6.], dtype=float32)
    """

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        return F.add(a, b)

    def forward(self, a: ArrayLike, b: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        return F.add(a, b), lambda dy: (dy, dy)

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        if a != b:
            raise ShapeError(f"the branches must give the same shape, got {a} and {b}")
        return a


class Mul(_Function):
    """The product of two arrays of one shape, or (N, C, H, W) times (N, C, 1, 1); see `fastnn.functional.mul`.

    Examples
    --------
    >>> Mul()(np.float32([1, 2]), np.float32([3, 4]))
    array([3., 8.], dtype=float32)
    """

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        return F.mul(a, b)

    def forward(self, a: ArrayLike, b: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        return F.mul(a, b), lambda dy: F.mul_backward(dy, a, b)

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        return F._mul_shape("", a, b)


class Join(_Function):
    """Arrays side by side, along the channels unless ``axis`` says otherwise; see `fastnn.functional.concat`.

    What `Concat` does with its branches.

    Examples
    --------
    >>> Join()(np.float32([[1]]), np.float32([[2, 3]]))
    array([[1., 2., 3.]], dtype=float32)
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = int(axis)

    def __call__(self, *xs: ArrayLike) -> Array:
        return F.concat(xs, self.axis)

    def forward(self, *xs: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        sizes = [np.shape(x)[self.axis] for x in xs]
        return F.concat(xs, self.axis), lambda dy: F.split(dy, sizes, self.axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        first, axis = shapes[0], self.axis
        for shape in shapes[1:]:
            if len(shape) != len(first) or any(
                a != b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != axis
            ):
                raise ShapeError(f"the branches must give equal shapes but for axis {axis}, got {shapes}")
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def label(self) -> str:
        return f"Concat axis {self.axis}"


class Split(_Function):
    """One array into several along an axis, the inverse of `Join`; see `fastnn.functional.split`.

    Parameters
    ----------
    sizes : sequence of int
        How much of the axis each output gets; one output for each.
    axis : int
        From 0.

    Examples
    --------
    >>> Split([1, 2])(np.float32([[1, 2, 3]]))
    (array([[1.]], dtype=float32), array([[2., 3.]], dtype=float32))
    """

    def __init__(self, sizes: Sequence[int], axis: int = 1) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self.axis = int(axis)
        if not self.sizes or min(self.sizes) < 0 or axis < 0:
            raise ValueError(f"Split: expected sizes and an axis of at least 0, got {sizes} and {axis}")

    def __call__(self, x: ArrayLike) -> Any:
        parts = tuple(F.split(x, self.sizes, self.axis))
        return parts if len(parts) > 1 else parts[0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Any, Backward]:
        shape, dtype = np.shape(x), F._array("split", "x", x).dtype

        def backward(*dys: Array | None) -> Array:
            parts = []
            for dy, size in zip(dys, self.sizes, strict=True):
                if dy is None:  # nothing reads that part
                    dy = F._K.empty((*shape[: self.axis], size, *shape[self.axis + 1 :]), dtype)
                    F._K.fill(0.0, dy)
                parts.append(dy)
            return F.concat(parts, self.axis)

        return self(x), backward

    def output_shape(self, shape: Shape) -> Any:
        axis = self.axis
        if axis >= len(shape) or shape[axis] != sum(self.sizes):
            raise ShapeError(f"sizes {list(self.sizes)} do not add up to axis {axis} of {shape}")
        parts = tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in self.sizes)
        return parts if len(parts) > 1 else parts[0]

    def label(self) -> str:
        return f"Split {', '.join(map(str, self.sizes))}, axis {self.axis}"


class Reshape(_Function):
    """(N, ...) -> (N, *shape), in C order.

    Parameters
    ----------
    *shape : int
        The shape of each row; one size may be -1, for what is left.

    Examples
    --------
    >>> Reshape(2, -1)(np.zeros((5, 12), np.float32)).shape
    (5, 2, 6)
    """

    def __init__(self, *shape: int) -> None:
        self.shape = tuple(int(size) for size in shape)
        if self.shape.count(-1) > 1 or any(size < -1 for size in self.shape):
            raise ValueError(f"Reshape: expected sizes of at least 0, one of which may be -1, got {shape}")

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        array = F._rowmajor("reshape", "x", x)
        shape = array.shape
        return array.reshape(self.output_shape(shape)), lambda dy: F._rowmajor("reshape", "dy", dy).reshape(shape)

    def output_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("expected at least one dimension, got ()")
        row, known = 1, 1
        for n in shape[1:]:
            row *= n
        for n in self.shape:
            known *= n if n != -1 else 1
        rest = row // known if known else 0
        sizes = tuple(rest if n == -1 else n for n in self.shape)
        if known * (rest if -1 in self.shape else 1) != row:
            raise ShapeError(
                f"expected rows of {known}{' * n' * (-1 in self.shape)} numbers for {self.shape}, got {shape}"
            )
        return (shape[0], *sizes)

    def label(self) -> str:
        return f"Reshape {'x'.join(map(str, self.shape))}"


class Constant(_Function):
    """An array that does not depend on any input: a node without inputs in a `Graph`. It is state, but not trained.

    Parameters
    ----------
    value : array_like
        Copied. Numbers and lists become float32, arrays keep their dtype.

    Attributes
    ----------
    value : ndarray

    Examples
    --------
    >>> Constant([1, 2])()
    array([1., 2.], dtype=float32)
    """

    statistics: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, value: ArrayLike) -> None:
        keep = isinstance(value, np.ndarray) and value.dtype != np.float16
        self.value = np.array(value, None if keep else np.float32, order="C")

    def __call__(self) -> Array:  # type: ignore[override]
        return self.value

    def forward(self, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        return self.value, lambda dy: ()

    def output_shape(self) -> Shape:  # type: ignore[override]
        return self.value.shape

    def label(self) -> str:
        return f"{type(self).__name__} {self.value.shape}"


class Parameter(Constant):
    """An array that does not depend on any input, and is trained.

    Parameters
    ----------
    value : array_like
        To begin with; as in `Constant`.

    Examples
    --------
    >>> Parameter([1, 2]).params
    {'value': array([1., 2.], dtype=float32)}
    """

    parameters = ("value",)
    statistics: ClassVar[tuple[str, ...]] = ()

    def forward(self, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        def backward(dy: Array) -> tuple[()]:
            gradient = self.gradient("value")
            F._copy_into(gradient, F.add(gradient, dy).astype(gradient.dtype, copy=False))
            return ()

        return self.value, backward

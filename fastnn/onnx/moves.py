"""Layers that move and spread numbers by kernels, so that programs run them: what operators of shaping.py and
elementwise.py become on floating-point data.

Each is the layer of one set of shapes or options; none has parameters. ``host_backward`` are those whose gradient is
computed in NumPy, so that training steps of models with them are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..layers.base import Array, Backward, Shape
from ..layers.function import _Function
from ..random import RNG

__all__ = ["Pad", "Resize", "Shaped", "Spread", "SpreadAdd", "SpreadMul", "Transpose", "Window"]


def _spread(x: ArrayLike, shape: Shape) -> Array:
    array = F._array("expand", "x", x)
    return array if array.shape == shape else F._contiguous(np.broadcast_to(array, shape))


def _together(a: Shape, b: Shape) -> Shape:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise ShapeError(f"shapes do not go together: {a}, {b}") from None


class _Both(_Function):
    """An operation on two arrays of one shape, to which both are spread first."""

    host_backward = True

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        return _together(a, b)


class SpreadAdd(_Both):
    """The sum of two arrays, broadcast as NumPy does."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        shape = _together(np.shape(a), np.shape(b))
        return F.add(_spread(a, shape), _spread(b, shape))

    def label(self) -> str:
        return "Add, broadcast"


class SpreadMul(_Both):
    """The product of two arrays, broadcast as NumPy does."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        shape = _together(np.shape(a), np.shape(b))
        return F.mul(_spread(a, shape), _spread(b, shape))

    def label(self) -> str:
        return "Mul, broadcast"


class Transpose(_Function):
    """The axes in another order, in C order in memory."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = tuple(order)

    def __call__(self, x: ArrayLike) -> Array:
        return F._contiguous(F._array("transpose", "x", x).transpose(self.order))

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        back = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        return self(x), lambda dy: F._contiguous(F._array("transpose", "dy", dy).transpose(back))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != len(self.order):
            raise ShapeError(f"expected {len(self.order)} axes, got {shape}")
        return tuple(shape[i] for i in self.order)

    def label(self) -> str:
        return f"Transpose {' '.join(map(str, self.order))}"


class _Bound(_Function):
    """A layer of one array whose options follow from shapes: of that array, and of others that it reads for no more."""

    def __init__(self, options: Callable[..., Any], name: str) -> None:
        self.options, self.name = options, name

    def label(self) -> str:
        return self.name


class Shaped(_Bound):
    """The same numbers in the same order; ``options`` gives the shape."""

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        array = F._rowmajor("reshape", "x", x)
        return array.reshape(self.options(array.shape, *map(np.shape, others)))

    def forward(  # type: ignore[override]
        self, x: ArrayLike, *others: ArrayLike, rng: RNG = None
    ) -> tuple[Array, Backward]:
        shape = np.shape(x)
        return self(x, *others), lambda dy: (F._rowmajor("reshape", "dy", dy).reshape(shape), *[None] * len(others))

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.options(*shapes)


class Spread(_Bound):
    """An array repeated along axes of size 1; ``options`` gives the shape."""

    host_backward = True

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        return _spread(x, self.options(np.shape(x), *map(np.shape, others)))

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.options(*shapes)


class Window(_Bound):
    """A part of an array; ``options`` gives a slice for each axis, with steps above 0."""

    host_backward = True

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        array = F._array("slice", "x", x)
        return F._contiguous(array[self.options(array.shape, *map(np.shape, others))])

    def output_shape(self, *shapes: Shape) -> Shape:
        return tuple(len(range(n)[s]) for n, s in zip(shapes[0], self.options(*shapes), strict=True))


class Resize(_Bound):
    """Axis by axis another size; ``options`` gives a matrix for each axis."""

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        return F._resample("resize", "x", x, self.options(np.shape(x), *map(np.shape, others)))

    def forward(  # type: ignore[override]
        self, x: ArrayLike, *others: ArrayLike, rng: RNG = None
    ) -> tuple[Array, Backward]:
        matrices = self.options(np.shape(x), *map(np.shape, others))
        back = [m if m is None else m.transposed for m in matrices]
        return self(x, *others), lambda dy: (F._resample("resize", "dy", dy, back), *[None] * len(others))

    def output_shape(self, *shapes: Shape) -> Shape:
        matrices = self.options(*shapes)
        return tuple(n if m is None else m.shape[0] for n, m in zip(shapes[0], matrices, strict=True))


class Pad(Resize):
    """A border; ``options`` gives the matrices, and one number fills what they leave."""

    def __init__(self, options: Callable[..., Any], value: float, name: str = "Pad") -> None:
        super().__init__(options, name)
        self.value = value

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        return F._resample("pad", "x", x, self.options(np.shape(x), *map(np.shape, others)), self.value)

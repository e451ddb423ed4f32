"""Layers that move and spread numbers by kernels, so that programs run them: what operators of shaping.py and
elementwise.py become on floating-point data.

None has parameters. Those whose options are plain values can be stored in files (compiler/saved.py). ``host_backward``
are those whose gradient is computed in NumPy, so that training steps of models with them are not recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError, TooLargeError
from ..layers.base import Array, Backward, Shape
from ..layers.function import _Function
from ..layers.pool import GlobalMaxPool2d
from ..random import RNG

__all__ = [
    "Abs",
    "Affine",
    "Blocks",
    "Border",
    "Bound",
    "Exp",
    "Picked",
    "Products",
    "Quotient",
    "Reciprocal",
    "Reduce",
    "Resize",
    "SameBorder",
    "Shaped",
    "Spread",
    "SpreadAdd",
    "SpreadMul",
    "SpreadProducts",
    "SpreadQuotient",
    "SpreadSub",
    "SpreadTo",
    "Sqrt",
    "Transpose",
    "Window",
]


#: An array that an operator makes out of numbers in the file (Expand, Pad, Resize, ...) is no larger, in bytes of
#: float64, and none of its axes longer where each element of an axis has a weight. What else an operator gives is
#: bounded by what it gets.
MOST_BYTES = 4 << 30
MOST_WEIGHTED = 1 << 22


def check_size(shape: Sequence[int], weighted: bool = False) -> Shape:
    """Return the shape, unless an array of it would be larger than an operator may make."""
    sizes = tuple(int(n) for n in shape)
    if min(sizes, default=0) < 0 or len(sizes) > 32:
        raise ShapeError(f"{sizes} is not the shape of an array")
    if math.prod(sizes) * 8 > MOST_BYTES or (weighted and max(sizes, default=0) > MOST_WEIGHTED):
        raise TooLargeError(f"would give an array of shape {sizes}, which is too large")
    return sizes


def _spread(x: ArrayLike, shape: Shape) -> Array:
    array = F._array("expand", "x", x)
    return array if array.shape == shape else F._contiguous(np.broadcast_to(array, shape))


def _together(a: Shape, b: Shape) -> Shape:
    try:
        return np.broadcast_shapes(a, b)
    except (ValueError, RuntimeError):
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


class SpreadSub(_Both):
    """The difference of two arrays, broadcast as NumPy does."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        shape = _together(np.shape(a), np.shape(b))
        return F.add(_spread(a, shape), _spread(Affine(-1.0)(b), shape))

    def label(self) -> str:
        return "Sub, broadcast"


class Products(_Function):
    """Products of matrices that lie side by side, as in attention; see `fastnn.functional.matmul`."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        return F.matmul(a, b)

    def forward(self, a: ArrayLike, b: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        return F.matmul(a, b), lambda dy: F.matmul_backward(dy, a, b)

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        return F._matmul_shape("", a, b)

    def multiply_adds(self, a: Shape, b: Shape) -> int:  # type: ignore[override]
        return math.prod(self.output_shape(a, b)) * a[-1]

    def label(self) -> str:
        return "MatMul"


class SpreadProducts(Products):
    """Products of matrices whose leading axes are broadcast as NumPy does."""

    host_backward = True

    def _spread_to(self, a: Shape, b: Shape) -> tuple[Shape, Shape]:
        lead = _together(a[:-2], b[:-2])
        return (*lead, *a[-2:]), (*lead, *b[-2:])

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        left, right = self._spread_to(np.shape(a), np.shape(b))
        return F.matmul(_spread(a, left), _spread(b, right))

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        return F._matmul_shape("", *self._spread_to(a, b))

    def label(self) -> str:
        return "MatMul, broadcast"


class Affine(_Function):
    """scale x + shift, both numbers.

    Examples
    --------
    >>> Affine(2.0, -1.0)(np.float32([0, 3]))
    array([-1.,  5.], dtype=float32)
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        self.scale, self.shift = float(scale), float(shift)

    def __call__(self, x: ArrayLike) -> Array:
        array = F._dense("affine", "x", x)
        y = F._K.empty_like(array)
        F._K.fill(self.shift, y)
        F._K.scale_add(array, self.scale, 1.0, y)
        return y

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        scale = self.scale
        return self(x), lambda dy: Affine(scale)(dy)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def label(self) -> str:
        return f"Affine {self.scale:g} {self.shift:+g}"


class Exp(_Function):
    """The exponential function."""

    def __call__(self, x: ArrayLike) -> Array:
        return F.exp(x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: F.mul(dy, y)

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class Sqrt(_Function):
    """The square root."""

    def __call__(self, x: ArrayLike) -> Array:
        return F.sqrt(x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: F.div(dy, F.add(y, y))

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class Quotient(_Function):
    """The quotient of two arrays of one shape."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        return F.div(a, b)

    def forward(self, a: ArrayLike, b: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        return F.div(a, b), lambda dy: F.div_backward(dy, a, b)

    def output_shape(self, a: Shape, b: Shape) -> Shape:  # type: ignore[override]
        if a != b:
            raise ShapeError(f"expected two arrays of one shape, got {a} and {b}")
        return a

    def label(self) -> str:
        return "Div"


class SpreadQuotient(_Both):
    """The quotient of two arrays, broadcast as NumPy does."""

    def __call__(self, a: ArrayLike, b: ArrayLike) -> Array:  # type: ignore[override]
        shape = _together(np.shape(a), np.shape(b))
        return F.div(_spread(a, shape), _spread(b, shape))

    def label(self) -> str:
        return "Div, broadcast"


class Reciprocal(_Function):
    """1 / x."""

    def __call__(self, x: ArrayLike) -> Array:
        array = F._dense("reciprocal", "x", x)
        y = F._K.empty_like(array)
        F._K.fill(1.0, y)
        return F.div(y, array, out=y)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        y = self(x)
        return y, lambda dy: Affine(-1.0)(F.mul(dy, F.mul(y, y)))

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class Abs(_Function):
    """The absolute value: leaky relu whose slope is -1 below 0."""

    host_backward = True  # whose slope at 0 is 0

    def __call__(self, x: ArrayLike) -> Array:
        return F.leaky_relu(x, -1.0)

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class Reduce(_Function):
    """The mean, the largest or the sum along axes, by the kernels of global pooling.

    Parameters
    ----------
    kind : str
        "mean", "max" or "sum"; "square" for the sum of squares, "l2" for its root.
    axes : sequence of int
        Counted from the front, in order.
    keep : bool
        Whether they stay, of size 1.
    """

    host_backward = True

    def __init__(self, kind: str, axes: Sequence[int], keep: bool) -> None:
        self.kind, self.axes, self.keep = kind, tuple(axes), bool(keep)

    def __call__(self, x: ArrayLike) -> Array:
        array = F._rowmajor("reduce", "x", x)
        if self.kind in ("square", "l2"):
            y = Reduce("sum", self.axes, self.keep)(F.mul(array, array))
            return F.sqrt(y) if self.kind == "l2" else y
        others = [i for i in range(array.ndim) if i not in self.axes]
        shape, count = self.output_shape(array.shape), math.prod(array.shape[i] for i in self.axes)
        if others and self.axes[0] < others[-1]:
            array = F._contiguous(array.transpose(*others, *self.axes))
        rows = array.reshape(math.prod(array.shape[: len(others)]), 1, 1, count)
        y = GlobalMaxPool2d()(rows) if self.kind == "max" else F.global_avg_pool2d(rows)
        return (Affine(count)(y) if self.kind == "sum" else y).reshape(shape)

    def output_shape(self, shape: Shape) -> Shape:
        if any(i >= len(shape) or not shape[i] for i in self.axes):
            raise ShapeError(f"expected at least one number along axes {self.axes}, got {shape}")
        return tuple(1 if i in self.axes else n for i, n in enumerate(shape) if self.keep or i not in self.axes)

    def label(self) -> str:
        names = {"square": "Sum of squares", "l2": "L2 norm"}
        return f"{names.get(self.kind, self.kind.capitalize())} along {', '.join(map(str, self.axes))}"


class Blocks(_Function):
    """Blocks of channels to pixels, or pixels to blocks of channels.

    Parameters
    ----------
    size : int
        Of a block, in pixels, along both axes.
    rows : bool
        Whether the channels of a block lie one after the other ("CRD"), or its pixels do.
    up : bool
        From channels to pixels.
    """

    def __init__(self, size: int, rows: bool = False, up: bool = True) -> None:
        self.size, self.rows, self.up = int(size), bool(rows), bool(up)

    def _plan(self, shape: Shape) -> tuple[Shape, tuple[int, ...], Shape]:
        """How the input is seen, the order of its axes in the output, and the output's shape."""
        r = self.size
        if len(shape) == 4 and r >= 1:
            n, c, h, w = shape
            if self.up and c % (r * r) == 0:
                view = (n, c // r // r, r, r, h, w) if self.rows else (n, r, r, c // r // r, h, w)
                return view, (0, 1, 4, 2, 5, 3) if self.rows else (0, 3, 4, 1, 5, 2), (n, c // r // r, h * r, w * r)
            if not self.up and h % r == w % r == 0:
                order = (0, 1, 3, 5, 2, 4) if self.rows else (0, 3, 5, 1, 2, 4)
                return (n, c, h // r, r, w // r, r), order, (n, c * r * r, h // r, w // r)
        raise ShapeError(f"expected (N, {f'C * {r} * {r}, H, W' if self.up else f'C, H * {r}, W * {r}'}), got {shape}")

    def __call__(self, x: ArrayLike) -> Array:
        array = F._rowmajor("blocks", "x", x)
        view, order, shape = self._plan(array.shape)
        return F._contiguous(array.reshape(view).transpose(order)).reshape(shape)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        return self(x), lambda dy: Blocks(self.size, self.rows, not self.up)(dy)

    def output_shape(self, shape: Shape) -> Shape:
        return self._plan(shape)[2]

    def label(self) -> str:
        return f"{'DepthToSpace' if self.up else 'SpaceToDepth'} {self.size}"


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


class Bound(_Function):
    """A layer of one array whose options follow from shapes: its own, and those of others that it reads for no more."""

    def __init__(self, options: Callable[..., Any], name: str) -> None:
        self.options, self.name = options, name

    def label(self) -> str:
        return self.name


class Shaped(Bound):
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


class Spread(_Function):
    """An array repeated along axes of size 1, and along new ones in front: (N, ...) to (N, *shape)."""

    host_backward = True

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __call__(self, x: ArrayLike) -> Array:
        return _spread(x, self.output_shape(np.shape(x)))

    def output_shape(self, shape: Shape) -> Shape:
        return _together(shape, (shape[0], *self.shape))

    def label(self) -> str:
        return "Expand"


class SpreadTo(Bound):
    """An array repeated along axes of size 1 and new ones in front; ``options`` gives the shape."""

    host_backward = True

    def __call__(self, x: ArrayLike, *others: ArrayLike) -> Array:
        return _spread(x, self.options(np.shape(x), *map(np.shape, others)))

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.options(*shapes)


class Window(_Function):
    """A part of an array: of each axis every so many elements from one to another.

    Parameters
    ----------
    parts : sequence of (int, int or None, int)
        Where it begins and ends on each axis, None for the end of the axis, and the step, above 0.
    """

    host_backward = True

    def __init__(self, parts: Sequence[tuple[int, int | None, int]]) -> None:
        self.parts = tuple(parts)

    def __call__(self, x: ArrayLike) -> Array:
        return F._contiguous(F._array("slice", "x", x)[tuple(slice(*part) for part in self.parts)])

    def output_shape(self, shape: Shape) -> Shape:
        return tuple(len(range(n)[slice(*part)]) for n, part in zip(shape, self.parts, strict=True))

    def label(self) -> str:
        return "Slice"


class Picked(_Function):
    """Elements of an axis by their numbers.

    Parameters
    ----------
    axis : int
        Counted from the front.
    runs : sequence of (int, int)
        From which element to which, one run after the other.
    shape : sequence of int
        Of what takes the place of the axis.
    """

    host_backward = True

    def __init__(self, axis: int, runs: Sequence[Sequence[int]], shape: Sequence[int]) -> None:
        self.axis, self.runs, self.shape = axis, tuple(map(tuple, runs)), tuple(shape)

    def __call__(self, x: ArrayLike) -> Array:
        array = F._rowmajor("gather", "x", x)
        lead = (slice(None),) * self.axis
        parts = [F._contiguous(array[(*lead, slice(*run))]) for run in self.runs]
        return (F.concat(parts, self.axis) if len(parts) > 1 else parts[0]).reshape(self.output_shape(array.shape))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) <= self.axis or shape[self.axis] < max(end for _, end in self.runs):
            raise ShapeError(f"expected axis {self.axis} with {max(end for _, end in self.runs)} elements, got {shape}")
        return (*shape[: self.axis], *self.shape, *shape[self.axis + 1 :])

    def label(self) -> str:
        return f"Gather {math.prod(self.shape)} along {self.axis}"


class Resize(Bound):
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


class Border(_Function):
    """A border of one number.

    Parameters
    ----------
    pads : sequence of int
        What is added before and after each axis, the last one first.
    value : float
    """

    def __init__(self, pads: Sequence[int], value: float = 0.0) -> None:
        self.pads, self.value = tuple(pads), float(value)

    def _pads(self, shape: Shape) -> tuple[int, ...]:
        return self.pads

    def __call__(self, x: ArrayLike) -> Array:
        self.output_shape(np.shape(x))
        return F.pad(x, self._pads(np.shape(x)), "constant", self.value)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        shape = np.shape(x)
        return self(x), lambda dy: F.pad_backward(dy, shape, self._pads(shape))

    def output_shape(self, shape: Shape) -> Shape:
        pads = self._pads(shape)
        if len(pads) % 2 or len(pads) > 2 * len(shape):
            raise ShapeError(f"pads {pads} do not fit {shape}")
        more = [before + after for before, after in zip(pads[::2], pads[1::2], strict=True)][::-1]
        lead = len(shape) - len(more)
        sizes = [n + m for n, m in zip(shape[lead:], more, strict=True)]
        return check_size((*shape[:lead], *sizes), weighted=any(more))

    def label(self) -> str:
        return "Pad"


class SameBorder(Border):
    """The border with which there are as many windows as strides fit into the image: auto_pad of ONNX."""

    def __init__(
        self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], upper: bool, value: float = 0.0
    ) -> None:
        super().__init__((), value)
        self.kernel, self.stride, self.dilation, self.upper = tuple(kernel), tuple(stride), tuple(dilation), bool(upper)

    def _pads(self, shape: Shape) -> tuple[int, ...]:
        flat: list[int] = []
        for n, k, s, d in zip(shape[2:], self.kernel, self.stride, self.dilation, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            small, large = total // 2, total - total // 2
            flat = [*((small, large) if self.upper else (large, small)), *flat]
        return tuple(flat)

"""Operators that move numbers and make shapes: Reshape, Transpose, Slice, Gather, Concat, Pad, Resize and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import _resampling
from .. import functional as F
from ..errors import ShapeError
from ..layers.base import Array, Layer, Shape
from ..layers.container import Flatten as FlattenLayer
from ..layers.function import Join
from ..layers.function import Reshape as ReshapeLayer
from ..layers.resample import CircularPad2d, ReflectionPad2d, ReplicationPad2d
from ..layers.resample import Upsample as UpsampleLayer
from .elementwise import broadcast
from .moves import Blocks, Border, Picked, Shaped, Spread, SpreadTo, Transpose, Window, check_size
from .moves import Resize as ResizeLayer
from .operation import Again, Operator, Seen, summed_to

__all__ = ["OPERATORS"]

INT64 = np.dtype(np.int64)


def whole(value: Any, what: str) -> list[int]:
    """Return a small array of whole numbers as a list."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ShapeError(f"{what} must be a row of whole numbers, got shape {array.shape} of {array.dtype}")
    return [int(n) for n in array.reshape(-1)]


def one(value: Any, what: str) -> int:
    """Return an array of one whole number as it."""
    numbers = whole(value, what)
    if len(numbers) != 1:
        raise ShapeError(f"{what} must be one whole number, got {len(numbers)}")
    return numbers[0]


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for {rank} axes")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return several axes, each once, counted from the front."""
    found = tuple(axis_of(a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ShapeError(f"an axis is named twice: {list(axes)}")
    return found


# ---- the same numbers in another shape ----


def _per_row(shape: Shape, seen: list[Seen], twice: list[Seen] | None, shape_of: Callable[..., Shape]) -> bool:
    """Whether an operator gives each row of the batch a shape of its own, that of ``shape``, whatever the batch."""
    if not shape or not seen[0] or shape[0] != seen[0][0]:
        return False
    if twice is None or twice[0] != (2 * seen[0][0], *seen[0][1:]):
        return twice is None
    try:
        return shape_of(*twice) == (2 * shape[0], *shape[1:])
    except ShapeError:  # then the network takes one size of batch only
        return True


class _Reshaping(Operator):
    """The same numbers in the same order; the shape is all that it decides."""

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        seen = [v if v is None or i in self.settings else v.shape for i, v in enumerate(xs)]
        return np.ascontiguousarray(x).reshape(self.shape(*seen))

    def forward(self, *xs: Array) -> Any:
        shape = xs[0].shape
        return self.compute(*xs), lambda dy: (dy.reshape(shape), *[None] * (len(xs) - 1))

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        found = self.shape(*seen)
        if _per_row(found, seen, again.doubled(), self.shape):
            return FlattenLayer() if len(found) == 2 else ReshapeLayer(*found[1:])
        return Shaped(again.rule, self.label())


class Reshape(_Reshaping):
    arity = (2, 2)
    settings = (1,)

    def shape(self, *seen: Seen) -> Shape:
        shape, target = seen
        sizes = whole(target, "shape")
        keep = not self.attributes.get("allowzero", 0)
        if self.batch and shape and sizes:
            sizes[0] = shape[0]
        found = []
        for i, n in enumerate(sizes):
            if n == 0 and keep:
                if i >= len(shape):
                    raise ShapeError(f"size {i} of {sizes} is to stay as it is, and {shape} has none")
                n = shape[i]
            found.append(n)
        if found.count(-1) > 1 or any(n < -1 for n in found):
            raise ShapeError(f"{sizes} is not a shape")
        known, count = math.prod(n for n in found if n != -1), math.prod(shape)
        if -1 in found:
            if not known or count % known:
                raise self._unfilled(shape, sizes)
            found = [count // known if n == -1 else n for n in found]
        elif known != count:
            raise self._unfilled(shape, sizes)
        return tuple(found)

    def _unfilled(self, shape: Shape, sizes: list[int]) -> ShapeError:
        only = f": the file was exported for a batch of {self.exported}, and may take no other" if self.exported else ""
        return ShapeError(f"{math.prod(shape)} numbers of {shape} do not fill {sizes}{only}")


class Flatten(_Reshaping):
    def shape(self, *seen: Seen) -> Shape:
        shape, axis = seen[0], int(self.attributes.get("axis", 1))
        if not -len(shape) <= axis <= len(shape):
            raise ShapeError(f"axis {axis} is out of range for {len(shape)} axes")
        axis += len(shape) if axis < 0 else 0
        return math.prod(shape[:axis]), math.prod(shape[axis:])


class _Axes(_Reshaping):
    arity = (1, 2)
    settings = (1,)

    def _axes(self, seen: Sequence[Seen]) -> list[int] | None:
        if len(seen) > 1 and seen[1] is not None:
            return whole(seen[1], "axes")
        return self.attributes.get("axes")


class Squeeze(_Axes):
    def shape(self, *seen: Seen) -> Shape:
        shape, axes = seen[0], self._axes(seen)
        gone = axes_of(axes, len(shape)) if axes is not None else [i for i, n in enumerate(shape) if n == 1]
        if any(shape[i] != 1 for i in gone):
            raise ShapeError(f"axes {axes} of {shape} are not all of size 1")
        return tuple(n for i, n in enumerate(shape) if i not in gone)


class Unsqueeze(_Axes):
    def shape(self, *seen: Seen) -> Shape:
        shape, axes = seen[0], self._axes(seen) or []
        rank = len(shape) + len(axes)
        new, old = axes_of(axes, rank), iter(shape)
        return tuple(1 if i in new else next(old) for i in range(rank))


class Dropout(Operator):
    """x as it is, at inference; with a mask of ones where one is asked for."""

    arity = (1, 3)
    most_outputs = 2

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (given[0], np.dtype(bool) if self.opset >= 10 else given[0])[: self.outputs]

    def shape(self, *seen: Seen) -> Any:
        return (seen[0],) * self.outputs if self.outputs > 1 else seen[0]

    def compute(self, *xs: Array) -> Any:
        x = xs[0]
        if len(xs) > 2 and xs[2] is not None and bool(np.any(xs[2])):
            raise ValueError("training_mode is set; forward() of a network trains, and a call never does")
        return x if self.outputs == 1 else (x, np.ones(x.shape, bool if self.opset >= 10 else x.dtype))

    def forward(self, *xs: Array) -> Any:
        return self.compute(*xs), lambda dy, *_: (dy, *[None] * (len(xs) - 1))


# ---- numbers in another order ----


class TransposeOperator(Operator):
    def _order(self, rank: int) -> tuple[int, ...]:
        order = self.attributes.get("perm")
        if order is None:
            return tuple(range(rank))[::-1]
        if sorted(order) != list(range(rank)):
            raise ShapeError(f"perm {order} is no order of {rank} axes")
        return tuple(order)

    def shape(self, *seen: Seen) -> Shape:
        return tuple(seen[0][i] for i in self._order(len(seen[0])))

    def compute(self, *xs: Array) -> Array:
        return np.ascontiguousarray(xs[0].transpose(self._order(xs[0].ndim)))

    def forward(self, *xs: Array) -> Any:
        back = np.argsort(self._order(xs[0].ndim))
        return self.compute(*xs), lambda dy: (np.ascontiguousarray(dy.transpose(back)),)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return Transpose(self._order(len(seen[0])))

    def label(self) -> str:
        return "Transpose"


class DepthToSpace(Operator):
    """Blocks of channels to pixels."""

    up = True

    def _layer(self) -> Blocks:
        return Blocks(int(self.attributes.get("blocksize", 0)), self.attributes.get("mode", "DCR") == "CRD", self.up)

    def shape(self, *seen: Seen) -> Shape:
        return self._layer().output_shape(seen[0])

    def compute(self, *xs: Array) -> Array:
        view, order, shape = self._layer()._plan(xs[0].shape)  # of any dtype
        return xs[0].reshape(view).transpose(order).reshape(shape)

    def forward(self, *xs: Array) -> Any:
        y, backward = self._layer().forward(xs[0])
        return y, lambda dy: (backward(dy),)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return self._layer()


class SpaceToDepth(DepthToSpace):
    """Pixels to blocks of channels."""

    up = False


# ---- parts and wholes ----


class Concat(Operator):
    arity = (1, 1 << 16)

    def shape(self, *seen: Seen) -> Shape:
        if "axis" not in self.attributes:
            raise ShapeError("axis is missing")
        axis = axis_of(int(self.attributes["axis"]), len(seen[0]))
        others = {(len(s), *s[:axis], *s[axis + 1 :]) for s in seen}
        if len(others) > 1:
            raise ShapeError(f"shapes must be equal but for axis {axis}, got {', '.join(map(str, seen))}")
        return (*seen[0][:axis], sum(s[axis] for s in seen), *seen[0][axis + 1 :])

    def compute(self, *xs: Array) -> Array:
        return np.concatenate(xs, int(self.attributes["axis"]))

    def forward(self, *xs: Array) -> Any:
        axis = int(self.attributes["axis"])
        ends = np.cumsum([x.shape[axis] for x in xs])[:-1]
        return self.compute(*xs), lambda dy: np.split(dy, ends, axis)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return Join(axis_of(int(self.attributes["axis"]), len(seen[0])))


class Split(Operator):
    """Into parts of given sizes, or of one size, the last of which may be smaller."""

    arity = (1, 2)
    most_outputs = 1 << 16
    settings = (1,)

    def _sizes(self, shape: Shape, given: Any) -> tuple[int, list[int]]:
        axis = axis_of(int(self.attributes.get("axis", 0)), len(shape))
        sizes = self.attributes.get("split") if given is None else whole(given, "split")
        if not sizes:
            size = -(-shape[axis] // self.outputs)
            sizes = [max(0, min(size, shape[axis] - i * size)) for i in range(self.outputs)]
        if sum(sizes) != shape[axis] or min(sizes) < 0 or len(sizes) != self.outputs:
            raise ShapeError(f"sizes {sizes} of {self.outputs} parts do not fit axis {axis} of {shape}")
        return axis, list(sizes)

    def shape(self, *seen: Seen) -> Any:
        shape = seen[0]
        axis, sizes = self._sizes(shape, seen[1] if len(seen) > 1 else None)
        parts = tuple((*shape[:axis], n, *shape[axis + 1 :]) for n in sizes)
        return parts if self.outputs > 1 else parts[0]

    def compute(self, *xs: Array) -> Any:
        axis, sizes = self._sizes(xs[0].shape, xs[1] if len(xs) > 1 else None)
        parts = tuple(map(np.ascontiguousarray, np.split(xs[0], np.cumsum(sizes)[:-1], axis)))
        return parts if self.outputs > 1 else parts[0]

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        y = self.compute(*xs)
        axis, _ = self._sizes(x.shape, xs[1] if len(xs) > 1 else None)
        shapes = [part.shape for part in (y if isinstance(y, tuple) else (y,))]

        def backward(*dys: Array | None) -> tuple[Array | None, ...]:
            parts = [np.zeros(s, x.dtype) if dy is None else dy for dy, s in zip(dys, shapes, strict=True)]
            return (np.concatenate(parts, axis), *[None] * (len(xs) - 1))

        return y, backward

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        from ..layers.function import Split as SplitLayer

        axis, sizes = self._sizes(seen[0], seen[1] if len(seen) > 1 else None)
        return SplitLayer(sizes, axis)


class Slice(Operator):
    """Of some axes every so many elements from one to another; attributes until opset 9, inputs since."""

    arity = (1, 5)
    settings = (1, 2, 3, 4)

    def _slices(self, seen: Sequence[Seen]) -> tuple[slice, ...]:
        shape = seen[0]
        if self.opset < 10:
            given = [self.attributes.get(name) for name in ("starts", "ends", "axes")] + [None]
        else:
            padded = (*seen[1:], None, None, None, None)[:4]
            given = [None if v is None else whole(v, "a limit") for v in padded]
        starts, ends, axes, steps = given
        if starts is None or ends is None:
            raise ShapeError("starts or ends are missing")
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise ShapeError(f"starts, ends, axes and steps differ in length: {starts}, {ends}, {axes}, {steps}")
        slices = [slice(0, n, 1) for n in shape]
        for axis, start, end, step in zip(axes_of(axes, len(shape)), starts, ends, steps, strict=True):
            n = shape[axis]
            if step == 0:
                raise ShapeError("a step is 0")
            start, end = (v + n if v < 0 else v for v in (start, end))
            low, high = (0, n) if step > 0 else (-1, n - 1)
            start, end = min(max(start, 0), n if step > 0 else n - 1), min(max(end, low), high)
            slices[axis] = slice(start, None if end < 0 else end, step)
        return tuple(slices)

    def shape(self, *seen: Seen) -> Shape:
        return tuple(len(range(n)[s]) for n, s in zip(seen[0], self._slices(seen), strict=True))

    def compute(self, *xs: Array) -> Array:
        return np.ascontiguousarray(xs[0][self._slices([xs[0].shape, *xs[1:]])])

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        slices = self._slices([x.shape, *xs[1:]])

        def backward(dy: Array) -> tuple[Array | None, ...]:
            dx = np.zeros(x.shape, dy.dtype)
            dx[slices] = dy
            return (dx, *[None] * (len(xs) - 1))

        return self.compute(*xs), backward

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        def parts(seen: list[Seen]) -> list[tuple[int, int | None, int]]:
            return [
                (s.start, None if s.stop == n else s.stop, s.step)
                for s, n in zip(self._slices(seen), seen[0], strict=True)
            ]

        now, twice = parts(seen), again.doubled()
        if any(step < 0 for _, _, step in now) or (twice is not None and now != parts(twice)):
            return None
        return Window(now)


def _indexed(x: np.dtype[Any] | None, indices: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None]:
    """The dtype of elements of x, whose indices must be whole numbers."""
    if indices is not None and indices.kind not in "iu":
        raise ValueError(f"indices must be whole numbers, got {indices}")
    return (x,)


class Gather(Operator):
    """Elements of an axis by their numbers."""

    arity = (2, 2)
    absorbed = (1,)
    #: the indices, where the file has them and they are few
    few: tuple[int, ...] = ()
    #: the smallest and the largest of them, where the file has any
    limits: tuple[int, int] | None = None

    def know(self, indices: Array) -> None:
        """Take note of indices in the file."""
        if indices.size and indices.dtype.kind in "iu":
            self.limits = int(indices.min()), int(indices.max())
            self.few = tuple(indices.reshape(-1).tolist()) if indices.size <= 1 << 10 else ()

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        shape = seen[0]
        axis = axis_of(int(self.attributes.get("axis", 0)), len(shape))
        twice = again.doubled()
        if not self.few or not all(shape) or (twice is not None and twice[0][axis] != shape[axis]):
            return None
        if twice is None and min(self.few) < 0:  # which may count from the end of what another batch has
            return None
        places = [i % shape[axis] for i in self.few]
        runs = [[places[0], places[0]]]
        for i in places:
            if i == runs[-1][1]:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
        return Picked(axis, runs, seen[1]) if len(runs) <= 64 else None

    def shape(self, *seen: Seen) -> Shape:
        shape, indices = seen
        axis = axis_of(int(self.attributes.get("axis", 0)), len(shape))
        n, (low, high) = shape[axis], self.limits or (0, -1)
        if self.limits and not (-n <= low and high < n):
            raise ShapeError(f"indices from {low} to {high} do not fit axis {axis} of {shape}")
        return (*shape[:axis], *indices, *shape[axis + 1 :])

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return _indexed(*given)

    def _take(self, x: Array, indices: Array, axis: int) -> Array:
        n = x.shape[axis]
        if indices.size and not (indices.min() >= -n and indices.max() < n):
            raise IndexError(f"indices from {indices.min()} to {indices.max()} do not fit axis {axis} of {x.shape}")
        return np.where(indices < 0, indices + n, indices)

    def compute(self, *xs: Array) -> Array:
        x, indices = xs
        axis = axis_of(int(self.attributes.get("axis", 0)), x.ndim)
        return np.take(x, self._take(x, indices, axis), axis)

    def forward(self, *xs: Array) -> Any:
        x, indices = xs
        axis = axis_of(int(self.attributes.get("axis", 0)), x.ndim)
        at = self._take(x, indices, axis)

        def backward(dy: Array) -> tuple[Array | None, ...]:
            dx = np.zeros(x.shape, dy.dtype)
            where: Any = (*[slice(None)] * axis, at)
            np.add.at(dx, where, dy)
            return dx, None

        return self.compute(x, indices), backward


class GatherElements(Operator):
    """Of an axis one element for each place, by its number."""

    arity = (2, 2)

    def shape(self, *seen: Seen) -> Shape:
        axis = axis_of(int(self.attributes.get("axis", 0)), len(seen[0]))
        if any(m > n for i, (m, n) in enumerate(zip(seen[1], seen[0], strict=False)) if i != axis):
            raise ShapeError(f"indices {seen[1]} reach beyond {seen[0]}")
        if len(seen[0]) != len(seen[1]):
            raise ShapeError(f"indices {seen[1]} must have as many axes as {seen[0]}")
        return seen[1]

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return _indexed(*given)

    def _places(self, x: Array, indices: Array) -> tuple[Array, ...]:
        axis = axis_of(int(self.attributes.get("axis", 0)), x.ndim)
        places: list[Any] = list(np.indices(indices.shape, sparse=True))
        places[axis] = Gather._take(self, x, indices, axis)  # type: ignore[arg-type]
        return tuple(places)

    def compute(self, *xs: Array) -> Array:
        return xs[0][self._places(*xs)]

    def forward(self, *xs: Array) -> Any:
        x, places = xs[0], self._places(*xs)

        def backward(dy: Array) -> tuple[Array | None, ...]:
            dx = np.zeros(x.shape, dy.dtype)
            np.add.at(dx, places, dy)
            return dx, None

        return x[places], backward


# ---- more numbers ----


class Expand(Operator):
    arity = (2, 2)
    settings = (1,)

    def shape(self, *seen: Seen) -> Shape:
        return check_size(broadcast(seen[0], tuple(check_size(whole(seen[1], "shape")))))

    def compute(self, *xs: Array) -> Array:
        return np.broadcast_to(xs[0], self.shape(xs[0].shape, xs[1])).copy()

    def forward(self, *xs: Array) -> Any:
        shape = xs[0].shape
        return self.compute(*xs), lambda dy: (summed_to(dy, shape), None)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        found = self.shape(*seen)
        fits = len(found) == len(seen[0]) and _per_row(found, seen, again.doubled(), self.shape)
        return Spread(found[1:]) if fits else SpreadTo(again.rule, self.label())


class Tile(Operator):
    arity = (2, 2)
    settings = (1,)

    def shape(self, *seen: Seen) -> Shape:
        times = whole(seen[1], "repeats")
        if len(times) != len(seen[0]):
            raise ShapeError(f"expected {len(seen[0])} repeats for {seen[0]}, got {times}")
        return check_size([n * t for n, t in zip(seen[0], times, strict=True)])

    def compute(self, *xs: Array) -> Array:
        self.shape(xs[0].shape, xs[1])
        return np.tile(xs[0], whole(xs[1], "repeats"))

    def forward(self, *xs: Array) -> Any:
        shape, times = xs[0].shape, whole(xs[1], "repeats")
        split = [n for pair in zip(times, shape, strict=True) for n in pair]

        def backward(dy: Array) -> tuple[Array | None, ...]:
            return dy.reshape(split).sum(tuple(range(0, len(split), 2))).astype(dy.dtype, copy=False), None

        return self.compute(*xs), backward


class ConstantOfShape(Operator):
    settings = (0,)

    def _value(self) -> Array:
        value = self.attributes.get("value")
        value = np.zeros(1, np.float32) if value is None else value
        if not isinstance(value, np.ndarray) or value.size != 1:
            raise ValueError("value must be one number")
        return value

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (self._value().dtype,)

    def shape(self, *seen: Seen) -> Shape:
        return check_size(whole(seen[0], "shape"))

    def compute(self, *xs: Array) -> Array:
        value = self._value()
        dtype = np.dtype(np.float32) if value.dtype == np.float16 else value.dtype
        return np.full(self.shape(xs[0]), value.reshape(()), dtype)


class Range(Operator):
    arity = (3, 3)
    settings = (0, 1, 2)

    def _count(self, start: Array, limit: Array, step: Array) -> int:
        first, last, by = (np.asarray(v).reshape(-1)[:1].tolist() for v in (start, limit, step))
        if not (first and last and by) or not by[0] or not all(map(math.isfinite, (*first, *last, *by))):
            raise ShapeError("start, limit and delta must be finite numbers, and delta not 0")
        return max(0, math.ceil((last[0] - first[0]) / by[0]))

    def shape(self, *seen: Seen) -> Shape:
        return check_size((self._count(*seen),))

    def compute(self, *xs: Array) -> Array:
        (count,) = self.shape(*xs)
        start, _, step = (x.reshape(()) for x in xs)
        return (start + np.arange(count) * step).astype(xs[0].dtype, copy=False)


class ShapeOperator(Operator):
    """The sizes of an array, from one axis to another."""

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (INT64,)

    def _sizes(self, shape: Shape) -> Shape:
        end = self.attributes.get("end")
        return shape[int(self.attributes.get("start", 0)) : None if end is None else int(end)]

    def shape(self, *seen: Seen) -> Shape:
        return (len(self._sizes(seen[0])),)

    def compute(self, *xs: Array) -> Array:
        return np.array(self._sizes(xs[0].shape), INT64)

    def forward(self, *xs: Array) -> Any:
        return self.compute(*xs), lambda dy: (None,)

    def label(self) -> str:
        return "Shape"


class Size(ShapeOperator):
    """How many numbers an array has."""

    def shape(self, *seen: Seen) -> Shape:
        return ()

    def compute(self, *xs: Array) -> Array:
        return np.array(xs[0].size, INT64)

    def label(self) -> str:
        return "Size"


class Pad(Operator):
    """A border of one number, of mirrored or repeated ones; attributes until opset 10, inputs since."""

    arity = (1, 4)
    settings = (1, 3)
    absorbed = (2,)

    def _sizes(self, seen: Sequence[Seen]) -> list[tuple[int, int]]:
        rank = len(seen[0])
        given = self.attributes.get("pads") if self.opset < 11 else seen[1] if len(seen) > 1 else None
        if given is None:
            raise ShapeError("pads are missing")
        pads = whole(given, "pads") if not isinstance(given, list) else given
        axes = whole(seen[3], "axes") if len(seen) > 3 and seen[3] is not None else list(range(rank))
        if len(pads) != 2 * len(axes):
            raise ShapeError(f"expected {2 * len(axes)} pads for {len(axes)} axes, got {len(pads)}")
        sizes = [(0, 0)] * rank
        for i, axis in enumerate(axes_of(axes, rank)):
            sizes[axis] = pads[i], pads[i + len(axes)]
        return sizes

    def check(self) -> None:
        self._mode()

    def _mode(self) -> str:
        mode = self.attributes.get("mode", "constant")
        if mode not in ("constant", "reflect", "edge", "wrap"):
            raise ValueError(f"unknown mode {mode!r}")
        return str(mode)

    def shape(self, *seen: Seen) -> Shape:
        sizes, mode = self._sizes(seen), self._mode()
        for (before, after), n in zip(sizes, seen[0], strict=True):
            kept = n + min(before, 0) + min(after, 0)
            if kept < 0 or (mode != "constant" and not kept and max(before, after) > 0):
                raise ShapeError(f"pads {before}, {after} do not fit an axis of {seen[0]}")
        return check_size([n + before + after for (before, after), n in zip(sizes, seen[0], strict=True)])

    def _value(self, xs: Sequence[Array | None]) -> Any:
        if self.opset < 11:
            return self.attributes.get("value", 0.0)
        value = xs[2] if len(xs) > 2 else None
        return 0 if value is None or not value.size else value.reshape(-1)[0]

    def _index(self, shape: Shape, sizes: list[tuple[int, int]]) -> list[Array]:
        """For each axis the element that each place of the result has, in all modes but constant."""
        found, mode = [], self._mode()
        for n, (before, after) in zip(shape, sizes, strict=True):
            place = np.arange(-before, n + after)
            if mode == "edge":
                place = np.clip(place, 0, n - 1)
            elif mode == "wrap":
                low, high = max(0, -before), n - max(0, -after)
                place = low + (place - low) % max(high - low, 1)
            elif n > 1:
                place = np.abs((place + n - 1) % (2 * (n - 1)) - (n - 1))
            else:
                place = np.zeros_like(place)
            found.append(place)
        return found

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        sizes = self._sizes([x.shape, *xs[1:]])
        shape = self.shape(x.shape, *xs[1:])
        if self._mode() != "constant":
            return x[np.ix_(*self._index(x.shape, sizes))] if x.ndim else x
        y = np.full(shape, self._value(xs), x.dtype)
        inside, source = self._inside(x.shape, sizes)
        y[inside] = x[source]
        return y

    def _inside(self, shape: Shape, sizes: list[tuple[int, int]]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        inside = tuple(
            slice(max(b, 0), max(b, 0) + n + min(b, 0) + min(a, 0)) for n, (b, a) in zip(shape, sizes, strict=True)
        )
        source = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(shape, sizes, strict=True))
        return inside, source

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        sizes = self._sizes([x.shape, *xs[1:]])

        def backward(dy: Array) -> tuple[Array | None, ...]:
            dx = np.zeros(x.shape, dy.dtype)
            if self._mode() != "constant":
                np.add.at(dx, np.ix_(*self._index(x.shape, sizes)), dy)
            else:
                inside, source = self._inside(x.shape, sizes)
                dx[source] = dy[inside]
            return (dx, *[None] * (len(xs) - 1))

        return self.compute(*xs), backward

    #: what fills a constant border, where the file says it
    value: float | None = None

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        pairs = self._sizes(seen)
        flat = [n for pair in reversed(pairs) for n in pair]
        twice = again.doubled()
        if twice is not None and self._sizes(twice) != pairs:  # what is added depends on the batch
            return None
        if self.value is not None and self._mode() == "constant":
            return Border(flat, self.value)
        layer = {"reflect": ReflectionPad2d, "edge": ReplicationPad2d, "wrap": CircularPad2d}.get(self._mode())
        if layer is None or len(pairs) != 4 or pairs[:2] != [(0, 0), (0, 0)]:
            return None
        made = layer(flat[:4])
        try:
            made.output_shape(seen[0])
        except ShapeError:  # a border that is wider than the image
            return None
        return made


# ---- images of another size ----


class Resize(Operator):
    """Arrays of another size, axis by axis; see `fastnn._resampling` for what the modes mean."""

    arity = (1, 4)
    settings: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def check(self) -> None:
        self._options()

    def _options(self) -> tuple[str, str, str]:
        """The mode, the coordinates and the rounding."""
        attributes, coordinates, rounding = self.attributes, "asymmetric", "floor"
        mode = attributes.get("mode", "nearest")
        if self.opset >= 11:
            coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
            rounding = attributes.get("nearest_mode", "round_prefer_floor")
        if mode not in ("nearest", "linear", "cubic"):
            raise ValueError(f"unknown mode {mode!r}")
        if coordinates not in (*_resampling.COORDINATES, "tf_crop_and_resize"):
            raise ValueError(f"unknown coordinate_transformation_mode {coordinates!r}")
        if rounding not in _resampling.ROUNDINGS:
            raise ValueError(f"unknown nearest_mode {rounding!r}")
        return mode, coordinates, rounding

    def _plan(self, seen: Sequence[Seen]) -> tuple[Shape, list[float | None]]:
        """The output's shape, and its scale on each axis: None where the axis stays, 0 where the sizes say it."""
        shape, attributes = seen[0], self.attributes
        _, scales, sizes = (*seen[1:], None, None, None)[:3]
        if self.opset < 11:
            scales, sizes = (seen[1] if len(seen) > 1 else attributes.get("scales")), None
        scales = None if scales is None or not np.size(scales) else np.asarray(scales, np.float64).reshape(-1)
        sizes = None if sizes is None or not np.size(sizes) else whole(sizes, "sizes")
        if (scales is None) == (sizes is None):
            raise ShapeError("expected either scales or sizes")
        axes = axes_of(attributes.get("axes") or list(range(len(shape))), len(shape))
        given = scales if scales is not None else sizes
        assert given is not None
        if len(given) != len(axes):
            raise ShapeError(f"expected {len(axes)} scales or sizes for {shape}, got {len(given)}")
        out, factors = list(shape), [None] * len(shape)  # type: list[int], list[Any]
        if scales is not None:
            for axis, scale in zip(axes, scales.tolist(), strict=True):
                if not 0 < scale < math.inf:
                    raise ShapeError(f"a scale is {scale}")
                out[axis], factors[axis] = math.floor(shape[axis] * scale), scale
        else:
            assert sizes is not None
            if self.batch and axes[0] == 0:
                sizes[0] = shape[0]
            policy = attributes.get("keep_aspect_ratio_policy", "stretch")
            ratios = [size / max(shape[axis], 1) for axis, size in zip(axes, sizes, strict=True)]
            for axis, size in zip(axes, sizes, strict=True):
                if policy == "stretch":
                    out[axis] = size
                    factors[axis] = 0.0
                else:
                    scale = min(ratios) if policy == "not_larger" else max(ratios)
                    out[axis], factors[axis] = math.floor(scale * shape[axis] + 0.5), scale
        check_size(out, weighted=True)
        if 0 in out and 0 not in shape:
            raise ShapeError(f"leaves nothing of {shape}")
        coordinates = attributes.get(
            "coordinate_transformation_mode", "half_pixel" if self.opset >= 11 else "asymmetric"
        )
        stays = [out[i] == shape[i] and factors[i] in (None, 0.0, 1.0) for i in range(len(shape))]
        if coordinates == "tf_crop_and_resize":
            stays = [factors[i] is None for i in range(len(shape))]
        return tuple(out), [None if stay else f for stay, f in zip(stays, factors, strict=True)]

    def shape(self, *seen: Seen) -> Shape:
        return self._plan(seen)[0]

    def _matrices(self, seen: Sequence[Seen]) -> tuple[list[_resampling.Matrix | None], list[Array | None]]:
        """A matrix for each axis, and, of tf_crop_and_resize, which places lie outside."""
        shape, attributes = seen[0], self.attributes
        out, factors = self._plan(seen)
        mode, coordinates, rounding = self._options()
        matrices: list[_resampling.Matrix | None] = []
        outside: list[Array | None] = []
        roi = (
            None if len(seen) < 2 or seen[1] is None or self.opset < 11 else np.asarray(seen[1], np.float64).reshape(-1)
        )
        axes = axes_of(attributes.get("axes") or list(range(len(shape))), len(shape))
        smooth = mode != "nearest"
        options = (
            float(attributes.get("cubic_coeff_a", -0.75)),
            smooth and bool(attributes.get("exclude_outside", 0)),
            smooth and bool(attributes.get("antialias", 0)),
        )
        for i, (n, m, scale) in enumerate(zip(shape, out, factors, strict=True)):
            if scale is None or not n or not m:
                matrices.append(None)
                outside.append(None)
            elif coordinates == "tf_crop_and_resize":
                if roi is None or roi.size != 2 * len(axes):
                    raise ShapeError(f"expected roi with {2 * len(axes)} numbers")
                k = axes.index(i)
                begin, end = float(roi[k]), float(roi[k + len(axes)])
                step = (end - begin) * (n - 1) / (m - 1) if m > 1 else 0.0
                first = begin * (n - 1) if m > 1 else 0.5 * (begin + end) * (n - 1)
                place = first + np.arange(m) * step
                matrices.append(_resampling.at_places(n, place, mode, rounding, *options[:2]))
                outside.append((place < 0) | (place > n - 1))
            else:
                matrices.append(_resampling.interpolation(n, m, scale or None, mode, coordinates, rounding, *options))
                outside.append(None)
        return matrices, outside

    def _extrapolated(self, y: Array, outside: list[Array | None]) -> Array:
        value = y.dtype.type(self.attributes.get("extrapolation_value", 0.0))
        for axis, places in enumerate(outside):
            if places is not None and places.any():
                where: Any = (*[slice(None)] * axis, places)
                y[where] = value
        return y

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        matrices, outside = self._matrices([x.shape, *xs[1:]])
        y = F._resample("resize", "x", x.astype(np.float64) if x.dtype.kind != "f" else x, matrices)
        if x.dtype.kind in "iu":
            y = np.rint(y) if self.attributes.get("mode", "nearest") != "nearest" else y
        return self._extrapolated(y, outside).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        matrices, outside = self._matrices([x.shape, *xs[1:]])

        def backward(dy: Array) -> tuple[Array | None, ...]:
            kept = dy.copy() if any(places is not None for places in outside) else dy
            for axis, places in enumerate(outside):
                if places is not None:
                    where: Any = (*[slice(None)] * axis, places)
                    kept[where] = 0
            dx = F._resample("resize", "dy", kept, [m if m is None else m.transposed for m in matrices])
            return (dx, *[None] * (len(xs) - 1))

        return self.compute(*xs), backward

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        if self.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            return None
        return self._upsample(seen) or ResizeLayer(again.rule, f"Resize {self.attributes.get('mode', 'nearest')}")

    def follow(self, seen: list[Seen]) -> Any:
        return self._matrices(seen)[0]

    def _upsample(self, seen: list[Seen]) -> UpsampleLayer | None:
        """The layer of the same function, where there is one: of images whose batch and channels stay."""
        out, factors = self._plan(seen)
        kind, rank = self.attributes.get("mode", "nearest"), len(out)
        mode = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear"}.get((kind, rank))
        mode = "bicubic" if (kind, rank) == ("cubic", 4) else "nearest" if kind == "nearest" else mode
        if mode is None or rank not in (3, 4, 5) or any(f is not None for f in factors[:2]) or 0 in seen[0]:
            return None
        given: dict[str, Any] = {"coordinates": self.attributes.get("coordinate_transformation_mode", "half_pixel")}
        given["rounding"] = self.attributes.get("nearest_mode", "round_prefer_floor") if kind == "nearest" else None
        if self.opset < 11:
            given = {"coordinates": "asymmetric", "rounding": "floor" if kind == "nearest" else None}
        if kind != "nearest":
            given["exclude_outside"] = bool(self.attributes.get("exclude_outside", 0))
            given["antialias"] = bool(self.attributes.get("antialias", 0))
            given["cubic_coeff_a"] = float(self.attributes.get("cubic_coeff_a", -0.75))
        if given.get("antialias") and mode not in ("bilinear", "bicubic"):
            return None
        scales = factors[2:]
        if all(f is None or f == 0.0 for f in scales):
            return UpsampleLayer(size=out[2:], mode=mode, **given)
        if any(f == 0.0 for f in scales):
            return None
        return UpsampleLayer(scale_factor=tuple(1.0 if f is None else f for f in scales), mode=mode, **given)


class Upsample(Resize):
    """What Resize was called until opset 9, with scales alone."""

    arity = (1, 2)
    settings = (1,)


OPERATORS: dict[str, type[Operator]] = {
    "Transpose": TransposeOperator,
    "Shape": ShapeOperator,
    **{
        cls.__name__: cls
        for cls in (
            *(Reshape, Flatten, Squeeze, Unsqueeze, Dropout, DepthToSpace, SpaceToDepth, Concat, Split, Slice, Gather),
            *(GatherElements, Expand, Tile, ConstantOfShape, Range, Size, Pad, Resize, Upsample),
        )
    },
}

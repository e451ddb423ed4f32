"""Operators that sum along axes: reductions, ArgMax, softmax, matrix products, and norms with weights that vary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import functional as F
from ..errors import ShapeError
from ..layers.activation import LogSoftmax as LogSoftmaxLayer
from ..layers.activation import Softmax as SoftmaxLayer
from ..layers.base import Array, Layer, Shape
from ..layers.container import Flatten, Sequential
from ..layers.pool import GlobalAvgPool2d, GlobalMaxPool2d
from .elementwise import _always, broadcast
from .moves import Products, Reduce, SpreadProducts
from .operation import Again, Operator, Seen, summed_to
from .shaping import INT64, axes_of, axis_of, whole

__all__ = ["OPERATORS"]


class _Reduction(Operator):
    """Along axes, attributes or an input since some opset; all of them where none is named."""

    arity = (1, 2)
    settings = (1,)

    #: what `Reduce` calls it, where it has it
    kind = ""

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        shape, axes = seen[0], sorted(self._axes(seen))
        if not self.kind or not axes or not all(shape):
            return None
        if axes == [2, 3] and len(shape) == 4 and self.kind in ("mean", "max"):
            pool: Any = GlobalAvgPool2d() if self.kind == "mean" else GlobalMaxPool2d()
            return pool if self._keeps() else Sequential({self.kind: pool, "flatten": Flatten()})
        return Reduce(self.kind, axes, self._keeps())

    def _axes(self, seen: Sequence[Seen]) -> tuple[int, ...]:
        rank = len(seen[0])
        given = seen[1] if len(seen) > 1 else None
        axes = self.attributes.get("axes") if given is None else whole(given, "axes")
        if not axes:
            return () if self.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
        return axes_of(axes, rank)

    def _keeps(self) -> bool:
        return bool(self.attributes.get("keepdims", 1))

    def shape(self, *seen: Seen) -> Shape:
        axes, keep = self._axes(seen), self._keeps()
        return tuple(1 if i in axes else n for i, n in enumerate(seen[0]) if keep or i not in axes)

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        """Reduce with the axes kept."""
        raise NotImplementedError

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        """The derivative of y, which has the axes kept, by x."""
        raise NotImplementedError

    def compute(self, *xs: Array) -> Array:
        x, axes = xs[0], self._axes([xs[0].shape, *xs[1:]])
        y = self.reduce(x, axes).astype(x.dtype, copy=False)
        return y.reshape(self.shape(x.shape, *xs[1:]))

    def forward(self, *xs: Array) -> Any:
        x, axes = xs[0], self._axes([xs[0].shape, *xs[1:]])
        y = self.compute(*xs)
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))

        def backward(dy: Array) -> tuple[Array | None, ...]:
            dx = dy.reshape(kept) * self.slope(x, y.reshape(kept), axes)
            return (np.broadcast_to(dx, x.shape).astype(dy.dtype), *[None] * (len(xs) - 1))

        return y, backward


def _count(x: Array, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[i] for i in axes)


class ReduceSum(_Reduction):
    kind = "sum"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return x.sum(axes, keepdims=True, dtype=x.dtype)

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return np.ones((), x.dtype)


class ReduceMean(_Reduction):
    kind = "mean"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        if x.dtype.kind == "f":
            return x.mean(axes, keepdims=True)
        return np.trunc(x.sum(axes, keepdims=True) / max(_count(x, axes), 1))

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return np.array(1 / max(_count(x, axes), 1), x.dtype)


class _ReduceExtreme(_Reduction):
    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        best = x == y
        return best / np.maximum(best.sum(axes, keepdims=True), 1)


class ReduceMax(_ReduceExtreme):
    kind = "max"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        low = False if x.dtype == bool else np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
        return x.max(axes, keepdims=True, initial=low)


class ReduceMin(_ReduceExtreme):
    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        high = True if x.dtype == bool else np.iinfo(x.dtype).max if x.dtype.kind in "iu" else np.inf
        return x.min(axes, keepdims=True, initial=high)


class ReduceProd(_Reduction):
    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return x.prod(axes, keepdims=True, dtype=x.dtype)

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return y / x


class ReduceL1(_Reduction):
    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.abs(x).sum(axes, keepdims=True)

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return np.sign(x)


class ReduceL2(_Reduction):
    kind = "l2"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.sqrt(np.square(x).sum(axes, keepdims=True))

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return x / y


class ReduceSumSquare(_Reduction):
    kind = "square"

    def reduce(self, x: Array, axes: tuple[int, ...]) -> Array:
        return np.square(x).sum(axes, keepdims=True)

    def slope(self, x: Array, y: Array, axes: tuple[int, ...]) -> Array:
        return 2 * x


class _Arg(Operator):
    """The place of the largest or smallest along an axis: the first of equals, or the last."""

    function: ClassVar[Any]

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (INT64,)

    def shape(self, *seen: Seen) -> Shape:
        shape = seen[0]
        axis = axis_of(int(self.attributes.get("axis", 0)), len(shape))
        if not shape[axis]:
            raise ShapeError(f"axis {axis} of {shape} is empty")
        return (*shape[:axis], *((1,) if self.attributes.get("keepdims", 1) else ()), *shape[axis + 1 :])

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        axis = axis_of(int(self.attributes.get("axis", 0)), x.ndim)
        if self.attributes.get("select_last_index", 0):
            place = x.shape[axis] - 1 - type(self).function(np.flip(x, axis), axis)
        else:
            place = type(self).function(x, axis)
        return place.reshape(self.shape(x.shape)).astype(INT64)

    def forward(self, *xs: Array) -> Any:
        return self.compute(*xs), lambda dy: (None,)


class ArgMax(_Arg):
    function = staticmethod(np.argmax)


class ArgMin(_Arg):
    function = staticmethod(np.argmin)


class CumSum(Operator):
    """The sum of the numbers up to each along an axis; ``exclusive``: of those before it; ``reverse``: from behind."""

    arity = (2, 2)

    def _along(self, x: Array, axis: Array, back: bool = False) -> Array:
        if axis.size != 1 or axis.dtype.kind not in "iu":
            raise ShapeError(f"axis must be one whole number, got {axis.dtype} of shape {axis.shape}")
        along = axis_of(int(axis.reshape(-1)[0]), x.ndim)
        flips = bool(self.attributes.get("reverse", 0)) != back
        x = np.flip(x, along) if flips else x
        y = np.cumsum(x, along, dtype=x.dtype)
        if self.attributes.get("exclusive", 0) and y.shape[along]:
            y = np.roll(y, 1, along)
            first: Any = (*[slice(None)] * along, 0)
            y[first] = 0
        return np.ascontiguousarray(np.flip(y, along) if flips else y)

    def compute(self, *xs: Array) -> Array:
        return self._along(xs[0], xs[1])

    def forward(self, *xs: Array) -> Any:
        return self._along(xs[0], xs[1]), lambda dy: (self._along(dy, xs[1], back=True), None)


class _Softmax(Operator):
    """Along an axis; until opset 12 along it and all that come after."""

    layer: ClassVar[type[SoftmaxLayer]]

    def _rows(self, x: Array) -> tuple[Array, int]:
        if self.opset >= 13:
            return x, axis_of(int(self.attributes.get("axis", -1)), x.ndim)
        axis = axis_of(int(self.attributes.get("axis", 1)), x.ndim) if x.ndim else 0
        return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1

    def compute(self, *xs: Array) -> Array:
        rows, axis = self._rows(xs[0])
        return type(self).layer(axis)(rows).reshape(xs[0].shape)

    def forward(self, *xs: Array) -> Any:
        rows, axis = self._rows(xs[0])
        shape = xs[0].shape
        y, backward = type(self).layer(axis).forward(rows)
        return y.reshape(shape), lambda dy: (backward(dy.reshape(rows.shape)).reshape(shape),)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        rank = len(seen[0])
        axis = axis_of(int(self.attributes.get("axis", -1 if self.opset >= 13 else 1)), rank)
        alone = self.opset >= 13 or all(n == 1 for n in seen[0][axis + 1 :])
        return type(self).layer(axis) if alone else None


class Softmax(_Softmax):
    layer = SoftmaxLayer


class LogSoftmax(_Softmax):
    layer = LogSoftmaxLayer


# ---- matrix products ----


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    if not a or not b:
        raise ShapeError(f"expected at least one axis, got {a} and {b}")
    left, right = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
    if left[-1] != right[-2]:
        raise ShapeError(f"{a} and {b} do not multiply: {left[-1]} columns and {right[-2]} rows")
    shape = (*broadcast(left[:-2], right[:-2]), left[-2], right[-1])
    shape = shape if len(a) > 1 else (*shape[:-2], shape[-1])
    return shape if len(b) > 1 else shape[:-1]


def _by_kernel(a: Shape, b: Shape) -> bool:
    """Whether two arrays hold as many matrices each: of attention, say."""
    return len(a) == len(b) >= 2 and a[:-2] == b[:-2]


class MatMul(Operator):
    arity = (2, 2)
    weights = (0, 1)

    def work(self, given: Sequence[Shape], out: int) -> int:
        return out * given[0][-1]

    def shape(self, *seen: Seen) -> Shape:
        return _matmul_shape(*seen)

    def compute(self, *xs: Array) -> Array:
        a, b = xs
        if _by_kernel(a.shape, b.shape) and a.dtype == b.dtype and a.dtype in (np.float32, np.float64):
            return F.matmul(a, b)
        return np.matmul(a, b).astype(a.dtype, copy=False)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        if _always(_by_kernel, seen, again):
            return Products()
        return SpreadProducts() if min(map(len, seen)) >= 2 else None

    def forward(self, *xs: Array) -> Any:
        a, b = xs
        if _by_kernel(a.shape, b.shape):
            return self.compute(a, b), lambda dy: F.matmul_backward(dy, a, b)

        def backward(dy: Array) -> tuple[Array, Array]:
            left, right = (a[np.newaxis] if a.ndim == 1 else a), (b[:, np.newaxis] if b.ndim == 1 else b)
            shape = _matmul_shape(left.shape, right.shape)
            gradient = dy.reshape(shape)
            da = summed_to(gradient @ right.swapaxes(-1, -2), left.shape)
            db = summed_to(left.swapaxes(-1, -2) @ gradient, right.shape)
            return da.reshape(a.shape), db.reshape(b.shape)

        return self.compute(a, b), backward


class Gemm(Operator):
    """alpha A B + beta C, of which A and B may be transposed."""

    arity = (2, 3)
    weights = (0, 1, 2)

    def work(self, given: Sequence[Shape], out: int) -> int:
        return out * max(given[0])

    def _sides(self, a: Any, b: Any) -> tuple[Any, Any]:
        flip = (lambda x: x[::-1]) if isinstance(a, tuple) else (lambda x: x.T)
        return (flip(a) if self.attributes.get("transA", 0) else a), (
            flip(b) if self.attributes.get("transB", 0) else b
        )

    def shape(self, *seen: Seen) -> Shape:
        a, b = seen[:2]
        if len(a) != 2 or len(b) != 2:
            raise ShapeError(f"expected two matrices, got {a} and {b}")
        shape = _matmul_shape(*self._sides(a, b))
        if len(seen) > 2 and seen[2] is not None and broadcast(shape, seen[2]) != shape:
            raise ShapeError(f"C {seen[2]} does not spread to {shape}")
        return shape

    def compute(self, *xs: Array) -> Array:
        a, b = self._sides(*xs[:2])
        alpha, beta = self.attributes.get("alpha", 1.0), self.attributes.get("beta", 1.0)
        y = a @ b if alpha == 1 else alpha * (a @ b)
        if len(xs) > 2 and xs[2] is not None:
            y = y + beta * xs[2]
        return y.astype(a.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        a, b = self._sides(*xs[:2])
        alpha, beta = self.attributes.get("alpha", 1.0), self.attributes.get("beta", 1.0)

        def backward(dy: Array) -> list[Array | None]:
            da, db = alpha * (dy @ b.T), alpha * (a.T @ dy)
            da = da.T if self.attributes.get("transA", 0) else da
            db = db.T if self.attributes.get("transB", 0) else db
            c = xs[2] if len(xs) > 2 else None
            return [da, db, *([None if c is None else summed_to(beta * dy, c.shape)] if len(xs) > 2 else [])]

        return self.compute(*xs), backward


# ---- norms ----


class LayerNormalization(Operator):
    """Over the axes from one to the last; with the mean and the reciprocal of the deviation on request."""

    arity = (2, 3)
    weights = (1, 2)
    most_outputs = 3

    def _axis(self, shape: Shape) -> int:
        return axis_of(int(self.attributes.get("axis", -1)), len(shape))

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (given[0], np.dtype(np.float32), np.dtype(np.float32))[: self.outputs]

    def shape(self, *seen: Seen) -> Any:
        axis = self._axis(seen[0])
        for other in seen[1:]:
            if other is not None and broadcast(seen[0][axis:], other) != seen[0][axis:]:
                raise ShapeError(f"{other} does not spread to the axes from {axis} of {seen[0]}")
        statistics = (*seen[0][:axis], *[1] * (len(seen[0]) - axis))
        return (seen[0], statistics, statistics)[: self.outputs] if self.outputs > 1 else seen[0]

    def _normal(self, x: Array) -> tuple[Array, Array, Array, tuple[int, ...]]:
        axes = tuple(range(self._axis(x.shape), x.ndim))
        mean = x.mean(axes, keepdims=True, dtype=np.float64)
        centred = x - mean
        factor = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + float(self.attributes.get("epsilon", 1e-5)))
        return centred * factor, mean, factor, axes

    def compute(self, *xs: Array) -> Any:
        x = xs[0]
        normal, mean, factor, _ = self._normal(x)
        y = normal * xs[1] + (xs[2] if len(xs) > 2 and xs[2] is not None else 0)
        found = (y.astype(x.dtype), mean.astype(np.float32), factor.astype(np.float32))
        return found[: self.outputs] if self.outputs > 1 else found[0]

    def forward(self, *xs: Array) -> Any:
        x, w = xs[0], xs[1]
        normal, _, factor, axes = self._normal(x)

        def backward(dy: Array, *_: Any) -> list[Array | None]:
            g = dy * w
            dx = factor * (g - g.mean(axes, keepdims=True) - normal * (g * normal).mean(axes, keepdims=True))
            found: list[Array | None] = [dx.astype(x.dtype), summed_to(dy * normal, w.shape).astype(w.dtype)]
            if len(xs) > 2:
                found.append(None if xs[2] is None else summed_to(dy, xs[2].shape))
            return found

        return self.compute(*xs), backward


class GroupNormalization(Operator):
    """Of groups of channels; until opset 20 with a scale for each group, since for each channel."""

    arity = (3, 3)
    weights = (1, 2)

    def groups(self, shape: Shape) -> int:
        """Return how many groups there are."""
        return int(self.attributes.get("num_groups", 0))

    def shape(self, *seen: Seen) -> Shape:
        shape, groups = seen[0], self.groups(seen[0])
        if len(shape) < 3 or groups < 1 or shape[1] % groups:
            raise ShapeError(f"expected (N, C, ...) with channels that {groups} groups divide, got {shape}")
        if any(math.prod(s) not in (shape[1], groups) for s in seen[1:]):
            raise ShapeError(f"scale {seen[1]} and bias {seen[2]} do not fit {shape[1]} channels")
        return shape

    def _each(self, v: Array, shape: Shape) -> Array:
        return v if v.size == shape[1] else np.repeat(v, shape[1] // v.size)

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        scale, bias = (self._each(v.reshape(-1), x.shape) for v in xs[1:])
        return F.group_norm(x, self.groups(x.shape), scale, bias, float(self.attributes.get("epsilon", 1e-5)))

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        scale, _ = (self._each(v.reshape(-1), x.shape) for v in xs[1:])

        def backward(dy: Array) -> tuple[Array, ...]:
            eps = float(self.attributes.get("epsilon", 1e-5))
            dx, dw, db = F.group_norm_backward(dy, x, self.groups(x.shape), scale, eps)
            assert dw is not None and db is not None
            return dx, *(d.reshape(v.size, -1).sum(1).reshape(v.shape) for d, v in zip((dw, db), xs[1:], strict=True))

        return self.compute(*xs), backward


class InstanceNormalization(GroupNormalization):
    """Of every channel of every image by itself."""

    def groups(self, shape: Shape) -> int:
        return shape[1] if len(shape) > 1 else 1


class BatchNormalization(Operator):
    """By given statistics; with ``training_mode`` by those of the batch, towards which the running ones move."""

    arity = (5, 5)
    most_outputs = 3
    weights = (1, 2)

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (given[0], given[3], given[4])[: self.outputs]

    def shape(self, *seen: Seen) -> Any:
        shape = seen[0]
        if len(shape) < 2 and not (len(shape) == 1 and seen[1] == (1,)):
            raise ShapeError(f"expected (N, C, ...), got {shape}")
        channels = shape[1] if len(shape) > 1 else 1
        if any(s != (channels,) for s in seen[1:]):
            raise ShapeError(
                f"expected scale, bias, mean and variance of shape ({channels},) for {shape}, got {seen[1:]}"
            )
        return (shape, (channels,), (channels,))[: self.outputs] if self.outputs > 1 else shape

    def _spread(self, v: Array, x: Array) -> Array:
        return v.reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else v

    def compute(self, *xs: Array) -> Any:
        return self.forward(*xs)[0]

    def forward(self, *xs: Array) -> Any:
        x, scale, bias, mean, var = xs
        trains = bool(self.attributes.get("training_mode", 0))
        axes = (0, *range(2, x.ndim))
        if trains:
            batch_mean, batch_var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
        else:
            batch_mean, batch_var = mean, var
        factor = 1 / np.sqrt(batch_var + float(self.attributes.get("epsilon", 1e-5)))
        normal = (x - self._spread(batch_mean, x)) * self._spread(factor, x)
        y = (normal * self._spread(scale, x) + self._spread(bias, x)).astype(x.dtype)
        momentum = float(self.attributes.get("momentum", 0.9))
        moved = tuple(
            (old * momentum + new * (1 - momentum)).astype(old.dtype)
            for old, new in ((mean, batch_mean), (var, batch_var))
        )

        def backward(dy: Array, *_: Any) -> tuple[Array | None, ...]:
            g = dy * self._spread(scale, x)
            if trains:
                g = g - g.mean(axes, keepdims=True) - normal * (g * normal).mean(axes, keepdims=True)
            dx = (g * self._spread(factor, x)).astype(x.dtype)
            dscale, dbias = (dy * normal).sum(axes), dy.sum(axes)
            return dx, dscale.astype(scale.dtype), dbias.astype(bias.dtype), None, None

        return (y, *moved)[: self.outputs] if self.outputs > 1 else y, backward


OPERATORS: dict[str, type[Operator]] = {
    cls.__name__: cls
    for cls in (
        *(ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceSumSquare, ArgMax, ArgMin),
        *(CumSum, Softmax, LogSoftmax, MatMul, Gemm, LayerNormalization, GroupNormalization, InstanceNormalization),
        BatchNormalization,
    )
}

"""Operators on windows, of any number of axes: convolutions, pools and LRN, tap by tap in NumPy.

The importer uses fastnn's layers for those of one and two axes whose weights stand in the file; what is here serves the
others: weights that are computed, three axes, indices of maxima, integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..layers.base import Array, Layer, Shape
from ..layers.pool import GlobalAvgPool2d, GlobalMaxPool2d
from .moves import Reduce, check_size
from .operation import Again, Operator, Seen

__all__ = ["OPERATORS", "Geometry", "geometry"]


def check_pads(before: int, after: int, span: int) -> None:
    """Raise where a border is much wider than the windows on it, which would be a way to make arrays of any size."""
    if max(before, after) > max(2 * span, 1024):
        raise ShapeError(f"a border of {max(before, after)} around windows that span {span}")


class Geometry:
    """Where windows lie on images of a size: kernel, stride, dilation, padding before and after, and how many."""

    def __init__(
        self,
        size: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        before: Sequence[int],
        after: Sequence[int],
        ceil: bool = False,
    ) -> None:
        self.size, self.kernel, self.stride, self.dilation = map(tuple, (size, kernel, stride, dilation))
        self.before, self.after = tuple(before), tuple(after)
        out = []
        for n, k, s, d, b, a in zip(size, kernel, stride, dilation, before, after, strict=True):
            check_pads(b, a, d * (k - 1) + 1)
            room = n + b + a - (d * (k - 1) + 1)
            if room < 0 and not (ceil and room > -s):
                raise ShapeError(f"the kernel spans {d * (k - 1) + 1} and the padded image is {n + b + a}")
            count = room // s + 1
            if ceil and room % s and count * s < n + b:  # a last window that begins inside
                count += 1
            out.append(count)
        self.out = tuple(out)

    def padded(self, x: Array, value: Any) -> Array:
        """x with its border, and with as much behind it as the last windows reach."""
        size = [
            max(b + n + a, (o - 1) * s + d * (k - 1) + 1)
            for n, b, a, o, s, d, k in zip(
                self.size, self.before, self.after, self.out, self.stride, self.dilation, self.kernel, strict=True
            )
        ]
        y = np.full(check_size((*x.shape[:2], *size)), value, x.dtype)
        y[self.inside()] = x
        return y

    def inside(self) -> tuple[slice, ...]:
        """Where the image lies in the padded one."""
        return (slice(None), slice(None), *(slice(b, b + n) for b, n in zip(self.before, self.size, strict=True)))

    def taps(self) -> Iterator[tuple[Any, tuple[slice, ...]]]:
        """Yield the place of each tap in weights (..., *kernel), and what it reads of the padded image."""
        for tap in itertools.product(*map(range, self.kernel)):
            yield (
                (..., *tap),
                (
                    slice(None),
                    slice(None),
                    *(
                        slice(t * d, t * d + (o - 1) * s + 1, s)
                        for t, d, o, s in zip(tap, self.dilation, self.out, self.stride, strict=True)
                    ),
                ),
            )


def row(attributes: dict[str, Any], name: str, count: int, default: int, least: int) -> list[int]:
    """Return an attribute of one number for each axis."""
    value = attributes.get(name) or [default] * count
    if not isinstance(value, list) or len(value) != count or any(not isinstance(n, int) or n < least for n in value):
        raise ShapeError(f"expected {name} with {count} whole numbers of at least {least}, got {value}")
    if max(value) >= 1 << 31:
        raise ShapeError(f"{name} must be below 2^31, got {value}")
    return value


def geometry(attributes: dict[str, Any], size: Sequence[int], kernel: Sequence[int], ceil: bool = False) -> Geometry:
    """Return the windows that attributes describe, on images of this size."""
    axes = len(size)
    if not axes:
        raise ShapeError("expected (N, C, ...) with at least one axis for windows")
    stride, dilation = row(attributes, "strides", axes, 1, 1), row(attributes, "dilations", axes, 1, 1)
    auto = attributes.get("auto_pad", "NOTSET") or "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
        ceil = False
    elif auto == "VALID":
        before, after = [0] * axes, [0] * axes
    elif auto == "NOTSET":
        pads = row(attributes, "pads", 2 * axes, 0, 0)
        before, after = pads[:axes], pads[axes:]
    else:
        raise ShapeError(f"unknown auto_pad {auto!r}")
    return Geometry(size, kernel, stride, dilation, before, after, ceil)


# ---- convolutions ----


#: a step of Python for each tap, as so many numbers
_TAP = 1 << 14


class Conv(Operator):
    arity = (2, 3)
    weights = (1, 2)

    def work(self, given: Sequence[Shape], out: int) -> int:
        return out * math.prod(given[1][1:]) + _TAP * math.prod(given[1][2:])

    def _geometry(self, x: Shape, w: Shape) -> Geometry:
        groups = int(self.attributes.get("group", 1))
        if len(x) < 3 or len(w) != len(x) or groups < 1 or x[1] != w[1] * groups or w[0] % groups:
            raise ShapeError(f"weights {w} in {groups} groups do not fit x {x}")
        if not all(w[2:]):
            raise ShapeError(f"weights {w} have no taps")
        return geometry(self.attributes, x[2:], w[2:])

    def shape(self, *seen: Seen) -> Shape:
        x, w = seen[:2]
        if len(seen) > 2 and seen[2] is not None and seen[2] != (w[0],):
            raise ShapeError(f"expected a bias of shape ({w[0]},), got {seen[2]}")
        return (x[0], w[0], *self._geometry(x, w).out)

    def compute(self, *xs: Array) -> Array:
        x, w = xs[:2]
        g, groups = self._geometry(x.shape, w.shape), int(self.attributes.get("group", 1))
        image = g.padded(x, 0)
        weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        y = np.zeros((groups, w.shape[0] // groups, x.shape[0], math.prod(g.out)), x.dtype)
        for tap, reads in g.taps():
            part = image[reads].reshape(x.shape[0], groups, w.shape[1], -1)
            y += np.einsum("goc,ngcp->gonp", weights[tap], part, optimize=True)
        y = y.reshape(w.shape[0], x.shape[0], *g.out).swapaxes(0, 1)
        if len(xs) > 2 and xs[2] is not None:
            y = y + xs[2].reshape(-1, *[1] * (x.ndim - 2))
        return np.ascontiguousarray(y)

    def forward(self, *xs: Array) -> Any:
        x, w = xs[:2]
        g, groups = self._geometry(x.shape, w.shape), int(self.attributes.get("group", 1))
        weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])

        def backward(dy: Array) -> list[Array | None]:
            image = g.padded(x, 0)
            dimage, dw = np.zeros_like(image), np.zeros_like(weights)
            gradient = dy.reshape(x.shape[0], groups, w.shape[0] // groups, -1)
            for tap, reads in g.taps():
                part = image[reads].reshape(x.shape[0], groups, w.shape[1], -1)
                dw[tap] = np.einsum("ngop,ngcp->goc", gradient, part, optimize=True)
                spread = np.einsum("ngop,goc->ngcp", gradient, weights[tap], optimize=True)
                dimage[reads] += spread.reshape(x.shape[0], x.shape[1], *g.out)
            found: list[Array | None] = [dimage[g.inside()], dw.reshape(w.shape)]
            if len(xs) > 2:
                found.append(None if xs[2] is None else dy.sum((0, *range(2, x.ndim))))
            return found

        return self.compute(*xs), backward


def check_strides(stride: Sequence[int], more: Sequence[int], kernel: Sequence[int]) -> None:
    """Raise where a transposed convolution would make an image of any size out of strides."""
    if any(s > max(16 * k, 1024) or m > max(s, 1024) for s, m, k in zip(stride, more, kernel, strict=True)):
        raise ShapeError(
            f"strides {list(stride)} and output_padding {list(more)} are too large for kernels {list(kernel)}"
        )


class ConvTranspose(Operator):
    arity = (2, 3)
    weights = (1, 2)

    def work(self, given: Sequence[Shape], out: int) -> int:
        return out + math.prod(given[0]) * math.prod(given[1][1:]) + _TAP * math.prod(given[1][2:])

    def _pads(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
        """What is cut off before, and the size of the result."""
        attributes, axes = self.attributes, len(size)
        stride, dilation = row(attributes, "strides", axes, 1, 1), row(attributes, "dilations", axes, 1, 1)
        more = row(attributes, "output_padding", axes, 0, 0)
        check_strides(stride, more, kernel)
        auto = attributes.get("auto_pad", "NOTSET") or "NOTSET"
        full = [
            s * (n - 1) + d * (k - 1) + 1 + m
            for n, s, d, k, m in zip(size, stride, dilation, kernel, more, strict=True)
        ]
        wanted = attributes.get("output_shape")
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            out = (
                row(attributes, "output_shape", axes, 0, 0)
                if wanted
                else [n * s for n, s in zip(size, stride, strict=True)]
            )
            cut = [max(f - o, 0) for f, o in zip(full, out, strict=True)]
            before = [c // 2 if auto == "SAME_UPPER" else c - c // 2 for c in cut]
        else:
            pads = [0] * 2 * axes if auto == "VALID" else row(attributes, "pads", 2 * axes, 0, 0)
            before, after = pads[:axes], pads[axes:]
            out = [f - b - a for f, b, a in zip(full, before, after, strict=True)]
        if min(out) < 0:
            raise ShapeError(f"leaves nothing of an image of size {tuple(size)}")
        return before, list(check_size(out))

    def _check(self, x: Shape, w: Shape) -> int:
        groups = int(self.attributes.get("group", 1))
        if len(x) < 3 or len(w) != len(x) or groups < 1 or x[1] != w[0] or w[0] % groups:
            raise ShapeError(f"weights {w} in {groups} groups do not fit x {x}")
        return groups

    def shape(self, *seen: Seen) -> Shape:
        x, w = seen[:2]
        groups = self._check(x, w)
        if len(seen) > 2 and seen[2] is not None and seen[2] != (w[1] * groups,):
            raise ShapeError(f"expected a bias of shape ({w[1] * groups},), got {seen[2]}")
        return (x[0], w[1] * groups, *self._pads(x[2:], w[2:])[1])

    def _geometry(self, x: Shape, w: Shape) -> tuple[Geometry, list[int]]:
        """The windows of the convolution whose transpose this is, on the result before it is cut."""
        axes = len(x) - 2
        stride, dilation = (row(self.attributes, name, axes, 1, 1) for name in ("strides", "dilations"))
        size = [s * (n - 1) + d * (k - 1) + 1 for n, s, d, k in zip(x[2:], stride, dilation, w[2:], strict=True)]
        return Geometry(size, w[2:], stride, dilation, [0] * axes, [0] * axes), self._pads(x[2:], w[2:])[0]

    def _cut(self, full: Array, before: list[int], out: Sequence[int]) -> Array:
        """The part of the whole that is the result; zeros where it reaches further."""
        y = np.zeros((*full.shape[:2], *out), full.dtype)
        low = [max(b, 0) for b in before]
        high = [min(b + o, n) for b, o, n in zip(before, out, full.shape[2:], strict=True)]
        source = (slice(None), slice(None), *map(slice, low, high))
        y[(slice(None), slice(None), *(slice(lo - b, hi - b) for lo, hi, b in zip(low, high, before, strict=True)))] = (
            full[source]
        )
        return y

    def compute(self, *xs: Array) -> Array:
        x, w = xs[:2]
        groups = self._check(x.shape, w.shape)
        g, before = self._geometry(x.shape, w.shape)
        full = np.zeros(check_size((x.shape[0], w.shape[1] * groups, *g.size)), x.dtype)
        weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        parts = x.reshape(x.shape[0], groups, w.shape[0] // groups, -1)
        for tap, reads in g.taps():
            spread = np.einsum("ngcp,gco->ngop", parts, weights[tap], optimize=True)
            full[reads] += spread.reshape(x.shape[0], -1, *x.shape[2:])
        y = self._cut(full, before, self.shape(x.shape, w.shape)[2:])
        if len(xs) > 2 and xs[2] is not None:
            y = y + xs[2].reshape(-1, *[1] * (x.ndim - 2))
        return y

    def forward(self, *xs: Array) -> Any:
        x, w = xs[:2]
        groups = self._check(x.shape, w.shape)
        g, before = self._geometry(x.shape, w.shape)

        def backward(dy: Array) -> list[Array | None]:
            full = self._cut(dy, [-b for b in before], g.size)
            weights = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
            parts = x.reshape(x.shape[0], groups, w.shape[0] // groups, -1)
            dx, dw = np.zeros_like(parts), np.zeros_like(weights)
            for tap, reads in g.taps():
                gradient = full[reads].reshape(x.shape[0], groups, w.shape[1], -1)
                dw[tap] = np.einsum("ngcp,ngop->gco", parts, gradient, optimize=True)
                dx += np.einsum("ngop,gco->ngcp", gradient, weights[tap], optimize=True)
            found: list[Array | None] = [dx.reshape(x.shape), dw.reshape(w.shape)]
            if len(xs) > 2:
                found.append(None if xs[2] is None else dy.sum((0, *range(2, x.ndim))))
            return found

        return self.compute(*xs), backward


# ---- pools ----


class _Pool(Operator):
    def work(self, given: Sequence[Shape], out: int) -> int:
        taps = math.prod(self.attributes.get("kernel_shape") or [])
        return (out + _TAP) * taps + math.prod(given[0])

    def geometry(self, shape: Shape) -> Geometry:
        """Return where the windows lie."""
        if len(shape) < 3:
            raise ShapeError(f"expected (N, C, ...), got {shape}")
        kernel = row(self.attributes, "kernel_shape", len(shape) - 2, 0, 1)
        return geometry(self.attributes, shape[2:], kernel, bool(self.attributes.get("ceil_mode", 0)))

    def shape(self, *seen: Seen) -> Any:
        return (*seen[0][:2], *self.geometry(seen[0]).out)


class MaxPool(_Pool):
    """The largest of each window; with where it lies among all numbers of x, where that is asked for."""

    most_outputs = 2

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (given[0], np.dtype(np.int64))[: self.outputs]

    def shape(self, *seen: Seen) -> Any:
        shape = super().shape(*seen)
        return (shape, shape) if self.outputs > 1 else shape

    def _best(self, x: Array) -> tuple[Geometry, Array, Array]:
        """The largest numbers, and which tap each is."""
        g = self.geometry(x.shape)
        image = g.padded(x, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
        best, at = None, None
        for i, (_, reads) in enumerate(g.taps()):
            part = image[reads]
            if best is None or at is None:
                best, at = part.copy(), np.zeros(part.shape, np.int64)
            else:
                more = (part > best) | (np.isnan(part) & ~np.isnan(best)) if x.dtype.kind == "f" else part > best
                best[more], at[more] = part[more], i
        assert best is not None and at is not None
        return g, best, at

    def compute(self, *xs: Array) -> Any:
        x = xs[0]
        g, best, at = self._best(x)
        if self.outputs == 1:
            return best
        axes = len(g.size)
        taps = np.unravel_index(at, g.kernel)
        place = []
        for i in range(axes):
            start = np.arange(g.out[i]) * g.stride[i] - g.before[i]
            place.append(start.reshape(-1, *[1] * (axes - 1 - i)) + taps[i] * g.dilation[i])
        order = range(axes) if not self.attributes.get("storage_order", 0) else reversed(range(axes))
        index = np.zeros(best.shape, np.int64)
        for i in order:
            index = index * g.size[i] + place[i]
        images = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * axes)
        return best, index + images * math.prod(g.size)

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        g, _, at = self._best(x)

        def backward(dy: Array, *_: Any) -> tuple[Array]:
            image = np.zeros_like(g.padded(x, 0))
            for i, (_tap, reads) in enumerate(g.taps()):
                image[reads] += np.where(at == i, dy, 0)
            return (image[g.inside()],)

        return self.compute(*xs), backward


class AveragePool(_Pool):
    def _counts(self, g: Geometry, dtype: Any) -> Array:
        """How many elements each window counts: those of the image, or of its padding too."""
        with_pad = bool(self.attributes.get("count_include_pad", 0))
        counts = np.ones((1, 1), np.int64)
        for n, k, s, d, b, a, o in zip(g.size, g.kernel, g.stride, g.dilation, g.before, g.after, g.out, strict=True):
            places = np.arange(o)[:, np.newaxis] * s - b + np.arange(k) * d
            inside = (places < n + a) if with_pad else (places >= 0) & (places < n)
            counts = np.multiply.outer(counts, np.maximum(inside.sum(1), 1))
        return counts.astype(dtype)

    def compute(self, *xs: Array) -> Array:
        x = xs[0]
        g = self.geometry(x.shape)
        image = g.padded(x, 0)
        total = sum(image[reads] for _, reads in g.taps())
        return (total / self._counts(g, x.dtype)).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        g = self.geometry(x.shape)

        def backward(dy: Array) -> tuple[Array]:
            image = np.zeros_like(g.padded(x, 0))
            each = dy / self._counts(g, dy.dtype)
            for _, reads in g.taps():
                image[reads] += each
            return (image[g.inside()],)

        return self.compute(*xs), backward


class LpPool(_Pool):
    """The p-norm of each window."""

    def compute(self, *xs: Array) -> Array:
        x, p = xs[0], int(self.attributes.get("p", 2))
        g = self.geometry(x.shape)
        image = g.padded(np.abs(x) ** p, 0)
        return (sum(image[reads] for _, reads in g.taps()) ** (1.0 / p)).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x, p = xs[0], int(self.attributes.get("p", 2))
        g, y = self.geometry(x.shape), self.compute(*xs)

        def backward(dy: Array) -> tuple[Array]:
            image = np.zeros_like(g.padded(x, 0))
            each = dy * np.where(y > 0, y, 1) ** (1 - p)
            for _, reads in g.taps():
                image[reads] += each
            return (image[g.inside()] * np.sign(x) * np.abs(x) ** (p - 1),)

        return y, backward


class _Global(Operator):
    """Over everything but images and channels."""

    def shape(self, *seen: Seen) -> Shape:
        if len(seen[0]) < 3:
            raise ShapeError(f"expected (N, C, ...), got {seen[0]}")
        return (*seen[0][:2], *[1] * (len(seen[0]) - 2))

    def _along(self, kind: str, seen: list[Seen]) -> Layer | None:
        return Reduce(kind, range(2, len(seen[0])), True) if all(seen[0]) else None


class GlobalAveragePool(_Global):
    def compute(self, *xs: Array) -> Array:
        return xs[0].mean(tuple(range(2, xs[0].ndim)), keepdims=True).astype(xs[0].dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        shape = xs[0].shape
        return self.compute(*xs), lambda dy: (
            np.broadcast_to(dy / max(math.prod(shape[2:]), 1), shape).astype(dy.dtype),
        )

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return GlobalAvgPool2d() if len(seen[0]) == 4 else self._along("mean", seen)


class GlobalMaxPool(_Global):
    def compute(self, *xs: Array) -> Array:
        return xs[0].max(tuple(range(2, xs[0].ndim)), keepdims=True)

    def forward(self, *xs: Array) -> Any:
        x, y = xs[0], self.compute(*xs)
        best = x == y
        share = best / best.sum(tuple(range(2, x.ndim)), keepdims=True)
        return y, lambda dy: ((dy * share).astype(dy.dtype, copy=False),)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return GlobalMaxPool2d() if len(seen[0]) == 4 else self._along("max", seen)


class GlobalLpPool(_Global):
    def compute(self, *xs: Array) -> Array:
        x, p = xs[0], int(self.attributes.get("p", 2))
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** p).sum(axes, keepdims=True) ** (1.0 / p)).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x, p = xs[0], int(self.attributes.get("p", 2))
        y = self.compute(*xs)
        return y, lambda dy: (dy * np.where(y > 0, y, 1) ** (1 - p) * np.sign(x) * np.abs(x) ** (p - 1),)


class LRN(Operator):
    """x / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta."""

    def work(self, given: Sequence[Shape], out: int) -> int:
        return out * max(1, min(int(self.attributes.get("size", 1)), 2 * given[0][1]))

    def _scale(self, x: Array) -> Array:
        """What is in the brackets."""
        size, alpha = int(self.attributes.get("size", 1)), float(self.attributes.get("alpha", 1e-4))
        return float(self.attributes.get("bias", 1.0)) + alpha / size * self._summed(np.square(x), False)

    def _summed(self, x: Array, mirrored: bool) -> Array:
        """The sum over the neighbours of each channel: (size - 1) // 2 before it and size // 2 behind it."""
        size = int(self.attributes.get("size", 1))
        before, after = (size - 1) // 2, size // 2
        before, after = (after, before) if mirrored else (before, after)
        c, total = x.shape[1], np.zeros_like(x)
        for shift in range(-min(before, c), min(after, c) + 1):
            low, high = max(0, -shift), min(c, c - shift)
            if low < high:
                total[:, low:high] += x[:, low + shift : high + shift]
        return total

    def shape(self, *seen: Seen) -> Shape:
        if len(seen[0]) < 2 or int(self.attributes.get("size", 0)) < 1:
            raise ShapeError(f"expected (N, C, ...) and a size of at least 1, got {seen[0]}")
        return seen[0]

    def compute(self, *xs: Array) -> Array:
        return (xs[0] / self._scale(xs[0]) ** float(self.attributes.get("beta", 0.75))).astype(xs[0].dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x = xs[0]
        scale, beta = self._scale(x), float(self.attributes.get("beta", 0.75))
        factor = 2 * beta * float(self.attributes.get("alpha", 1e-4)) / int(self.attributes.get("size", 1))
        return self.compute(x), lambda dy: (
            dy * scale**-beta - factor * x * self._summed(dy * x * scale ** (-beta - 1), True),
        )


OPERATORS: dict[str, type[Operator]] = {
    cls.__name__: cls
    for cls in (
        *(Conv, ConvTranspose, MaxPool, AveragePool, LpPool, GlobalAveragePool, GlobalMaxPool, GlobalLpPool, LRN),
    )
}

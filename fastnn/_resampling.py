"""Which elements an output reads and with what weight, axis by axis: the sparse matrices of interpolate and pad.

Both ops are products with one `Matrix` for each axis (the kernel `resample`), and their gradients products with the
transposed ones; what a mode or a coordinate convention means is said here and nowhere else. Matrices depend on
sizes and options alone and are kept for the next call.

To add a mode: the places of its taps and their weights, in `interpolation` or `padding`.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .reference import Array, Table

__all__ = ["COORDINATES", "ROUNDINGS", "Matrix", "at_places", "interpolation", "padding"]

#: from output to input coordinates, by the names of ONNX's Resize
COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
#: nearest neighbour of a coordinate, likewise
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


class Matrix:
    """(out, n), of few taps a row: row i has weight[begin[i] : begin[i + 1]] at columns index[...], each once."""

    def __init__(self, out: int, n: int, row: Array, index: Array, weight: Array) -> None:
        """Gather taps given in any order; what meets in one place is added, and a weight of 0 is no tap."""
        place, inverse = np.unique(row * max(n, 1) + index, return_inverse=True)
        total = np.bincount(inverse, weight, place.size)
        place, total = place[total != 0], total[total != 0]
        row = place // max(n, 1)
        self.shape = out, n
        self._index, self._weight = place % max(n, 1), total
        self._begin = np.searchsorted(row, np.arange(out + 1))
        self._tables: dict[Any, Table] = {}
        self._times: dict[int, Matrix] = {}

    @cached_property
    def is_identity(self) -> bool:
        out, n = self.shape
        return out == n == self._copied[1] - self._copied[0]

    @cached_property
    def _copied(self) -> tuple[int, int]:
        """The longest run of rows that have one tap of weight 1 each, at neighbouring columns."""
        out, n = self.shape
        one = np.diff(self._begin) == 1
        at = np.where(one, self._begin[:-1], 0)
        weight, index = (np.append(a, 0)[at] for a in (self._weight, self._index))
        # Along a diagonal index - row is constant; rows that are no copies make runs of their own.
        diagonal = np.where(one & (weight == 1), index - np.arange(out), n + np.arange(out))
        ends = np.flatnonzero(np.diff(diagonal, append=2 * n + out)) + 1
        begins = np.append(0, ends[:-1])
        if not ends.size:
            return 0, 0
        longest = int(np.argmax(ends - begins))
        begin, end = int(begins[longest]), int(ends[longest])
        return (begin, end) if diagonal[begin] < n else (0, 0)

    @cached_property
    def transposed(self) -> Matrix:
        out, n = self.shape
        row = np.repeat(np.arange(out), np.diff(self._begin))
        return Matrix(n, out, self._index, row, self._weight)

    def times(self, inner: int) -> Matrix:
        """The same for runs of ``inner`` elements that go together, element by element."""
        matrix = self._times.get(inner)
        if matrix is None:
            out, n = self.shape
            row = np.repeat(np.arange(out), np.diff(self._begin))
            row, index = (np.add.outer(a * inner, np.arange(inner)).ravel() for a in (row, self._index))
            matrix = self._times[inner] = Matrix(out * inner, n * inner, row, index, np.repeat(self._weight, inner))
        return matrix

    @property
    def most_taps(self) -> int:
        return int(np.diff(self._begin).max(initial=0))

    def magnitude(self) -> Matrix:
        """The same taps with the sizes of their weights."""
        out, n = self.shape
        row = np.repeat(np.arange(out), np.diff(self._begin))
        return Matrix(out, n, row, self._index, np.abs(self._weight))

    def table(self, dtype: np.dtype[Any]) -> Table:
        """What the kernel takes, in this dtype."""
        table = self._tables.get(dtype)
        if table is None:
            arrays = self._begin.astype(np.int64), self._index.astype(np.int64), self._weight.astype(dtype)
            table = self._tables[dtype] = (*arrays, *self._copied)
        return table


# ---- interpolation --------------------------------------------------------------------------------------------------


def _coordinates(n: int, out: int, given: float | None, coordinates: str) -> Array:
    """Where each element of the output lies in the input, whose element i is the place i."""
    i = np.arange(out, dtype=np.float64)
    scale, length = (out / n, out) if given is None else (given, n * given)
    match coordinates:
        case "align_corners":
            return i * (n - 1) / (length - 1) if out > 1 else i
        case "asymmetric":
            return i / scale
        case "half_pixel_symmetric":  # as half_pixel, about the middle, where n * scale is no whole number
            return n / 2 * (1 - out / length) + (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel" if out == 1:
            return i
        case _:
            return (i + 0.5) / scale - 0.5


def _nearest(x: Array, rounding: str) -> Array:
    match rounding:
        case "floor":
            return np.floor(x)
        case "ceil":
            return np.ceil(x)
        case "round_prefer_floor":
            return np.ceil(x - 0.5)
        case _:
            return np.floor(x + 0.5)


def _hat(distance: Array, a: float) -> Array:
    return np.maximum(1 - distance, 0)


def _cubic(d: Array, a: float) -> Array:
    """Keys' kernel (IEEE ASSP 29, 1981)."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    return np.where(d <= 1, near, np.where(d < 2, ((d - 5) * d + 8) * d * a - 4 * a, 0.0))


@lru_cache(maxsize=64)
def interpolation(
    n: int,
    out: int,
    scale: float | None,
    mode: str,
    coordinates: str | None = None,
    rounding: str | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
) -> Matrix:
    """From an axis of n elements to one of ``out``, n and out at least 1.

    Parameters
    ----------
    scale : float or None
        Output over input where it is not out / n.
    mode : {"nearest", "nearest-exact", "linear", "cubic", "area"}
    coordinates : one of COORDINATES, optional
        None is torch's: half_pixel, and for the nearest modes the places that its float32 arithmetic gives.
    rounding : one of ROUNDINGS, optional
        Of mode "nearest" with coordinates.
    exclude_outside : bool
        Leave out taps outside of the input, and make the sum of the others 1; else the edge repeats.
    antialias : bool
        When shrinking, widen the kernel by as much, so that every element counts.
    """
    i = np.arange(out)
    ones = np.ones(out)
    if mode == "area":
        begin, end = i * n // out, -(-(i + 1) * n // out)
        row = np.repeat(i, end - begin)
        index = np.arange(row.size) - np.repeat(np.cumsum(end - begin) - (end - begin), end - begin) + begin[row]
        return Matrix(out, n, row, index, (1 / (end - begin))[row])
    if mode.startswith("nearest") and coordinates is None:
        step = np.float32(n) / np.float32(out) if scale is None else np.float32(1 / scale)
        if mode == "nearest-exact":  # a fused multiply-add, then a sum
            place = np.maximum(((i + 0.5) * np.float64(step) - 0.5).astype(np.float32), 0) + np.float32(0.5)
        else:
            place = i.astype(np.float32) * step
        index = np.floor(place).astype(np.int64)
        return Matrix(out, n, i, np.minimum(index, n - 1), ones)
    x = _coordinates(n, out, scale, coordinates or "half_pixel")
    widen = max(1.0, n / out if scale is None else 1 / scale) if antialias else 1.0
    return at_places(n, x, mode, rounding, cubic_coeff_a, exclude_outside, widen if antialias else None)


def at_places(
    n: int,
    x: Array,
    mode: str,
    rounding: str | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: float | None = None,
) -> Matrix:
    """From an axis of n elements to one of those at the places x; modes as `interpolation` has them.

    antialias : how much wider than usual the kernel is; None for as usual
    """
    out, i = x.size, np.arange(x.size)
    if mode.startswith("nearest"):
        index = _nearest(x, rounding or "round_prefer_floor").astype(np.int64)
        return Matrix(out, n, i, np.clip(index, 0, n - 1), np.ones(out))
    kernel, radius = (_hat, 1) if mode == "linear" else (_cubic, 2)
    widen = 1.0 if antialias is None else antialias
    reach = int(np.ceil(radius * widen))
    index = np.floor(x).astype(np.int64)[:, np.newaxis] + np.arange(1 - reach, reach + 1)
    weight = kernel(np.abs(index - x[:, np.newaxis]) / widen, cubic_coeff_a)
    if exclude_outside:
        weight = np.where((index >= 0) & (index < n), weight, 0.0)
    if exclude_outside or antialias is not None:
        weight /= weight.sum(1, keepdims=True)
    return Matrix(out, n, np.repeat(i, 2 * reach), np.clip(index, 0, n - 1).ravel(), weight.ravel())


# ---- padding --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def padding(n: int, before: int, after: int, mode: str) -> Matrix:
    """From an axis of n elements to one of before + n + after; negative sizes crop."""
    out = before + n + after
    i = np.arange(out)
    index = i - before
    match mode:
        case "reflect":
            index = np.abs(index)
            index = np.where(index < n, index, 2 * (n - 1) - index)
        case "replicate":
            index = np.clip(index, 0, n - 1)
        case "circular":  # around what is left of the axis
            low, high = max(0, -before), n - max(0, -after)
            index = low + (index - low) % (high - low)
        case _:
            inside = (index >= 0) & (index < n)
            i, index = i[inside], index[inside]
    return Matrix(out, n, i, index, np.ones(i.size))

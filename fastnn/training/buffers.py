"""The flat buffers of a trainer: every parameter it trains, its gradient and its optimizer slots, side by side.

One buffer per dtype, each array once, however many layers share it; the layers' own arrays become views. An optimizer
step is then one kernel call, and so is every other sum over all parameters: `Parameters.update` makes these calls, the
same for a step by closures and for one that is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .. import _backends
from .. import functional as F
from ..layers.base import Array, Layer
from ..optim import Optimizer
from ..regularization import ClipNorm, ClipValue, MaxNorm, Penalty

__all__ = ["Buffer", "Parameters"]

#: where a parameter is found: its name, its layer, the layer's attribute
Place: TypeAlias = tuple[str, Layer, str]
Places: TypeAlias = dict[int, list[Place]]

# Every array starts on a cache line, as kernels like it; the elements between are zero and stay so.
_LINE_BYTES = 64


@dataclass
class Buffer:
    """All parameters of one dtype. segments, penalties, limits: as in F.sgd_step, F.penalty and F.max_norm."""

    params: Array
    grads: Array
    slots: dict[str, Array]
    segments: Array
    penalties: Array
    limits: Array

    def arrays(self) -> list[Array]:
        """Return everything that a step reads or writes here."""
        return [self.params, self.grads, *self.slots.values(), self.segments, self.penalties, self.limits]


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of the longest key that is the name, or one of the containers that it is in; 1 without any."""
    fitting = [key for key in factors if key == name or name.startswith(f"{key}.") or key == ""]
    return float(factors[max(fitting, key=len)]) if fitting else 1.0


class Parameters:
    """Moves the parameters of a model into flat buffers, and knows whether they are still there."""

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        rates: Mapping[str, float],
        decays: Mapping[str, float],
        regularizers: Sequence[Penalty | MaxNorm] = (),
        clip: ClipNorm | ClipValue | None = None,
    ) -> None:
        places: Places = {}
        arrays: dict[int, Array] = {}
        for name, layer in model.leaves():
            for attribute in layer.parameters:
                array = getattr(layer, attribute)
                if array is None:
                    continue
                full = f"{name}.{attribute}" if name else attribute
                if array.dtype not in (np.float32, np.float64):
                    raise TypeError(f"Trainer: parameter {full!r} has dtype {array.dtype}; expected float32 or float64")
                arrays[id(array)] = array
                places.setdefault(id(array), []).append((full, layer, attribute))
        for given in (rates, decays):
            for key in given:
                if not any(_factor(n, {key: 0.0}) == 0.0 for ps in places.values() for n, _, _ in ps):
                    raise ValueError(f"Trainer: {key!r} names no parameter and no layer of the model")

        chosen = [(regularizer, _chosen(regularizer, places, arrays)) for regularizer in regularizers]
        #: what applies to each parameter, by its (first) name
        self.regularized: dict[str, list[Penalty | MaxNorm]] = {}
        #: the (first) names of the parameters that are not frozen, and whether each is a weight
        self.trained: dict[str, bool] = {}
        self._clip = clip
        self._penalty, self._total = np.zeros(1), np.zeros(1)
        self._limit = np.array([0.0 if clip is None else clip.limit])
        #: (layer, attribute, view) of every place: while the layer holds that very view, it is this trainer's
        self._owned: list[tuple[Layer, str, Array]] = []
        self.buffers: list[Buffer] = []
        moved: list[tuple[Layer, str, Array, Array]] = []  # at the end, when nothing can fail any more
        for dtype in sorted({a.dtype for a in arrays.values()}, key=str):
            line = _LINE_BYTES // dtype.itemsize
            mine = [place for place, array in arrays.items() if array.dtype == dtype]
            sizes = [-(-arrays[place].size // line) * line for place in mine]
            starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
            params, grads = (_aligned_zeros(starts[-1], dtype) for _ in range(2))
            for place, start in zip(mine, starts, strict=False):
                array = arrays[place]
                view = params[start : start + array.size].reshape(array.shape)
                grad = grads[start : start + array.size].reshape(array.shape)
                view[...] = array
                for _, layer, attribute in places[place]:
                    moved.append((layer, attribute, view, grad))
            names = [places[place][0][0] for place in mine]
            segments = optimizer.segments(
                sizes, rate=[_factor(n, rates) for n in names], decay=[_factor(n, decays) for n in names]
            )
            penalties, limits = np.concatenate([segments[:, :2], np.zeros((len(mine), 2))], axis=1), []
            for i, place in enumerate(mine):
                own = [] if segments[i, 2] == 0.0 else [r for r, hit in chosen if place in hit]
                if segments[i, 2] != 0.0:
                    self.trained[names[i]] = any(_is_weight(use, arrays[place]) for use in places[place])
                if own:
                    self.regularized[names[i]] = own
                penalties[i, 2:] = [sum(getattr(r, k) for r in own if isinstance(r, Penalty)) for k in ("l1", "l2")]
                bounds = [r.limit for r in own if isinstance(r, MaxNorm)]
                if bounds and arrays[place].size:
                    limits += _units(places[place][0][1], arrays[place].shape, starts[i], min(bounds))
            self.buffers.append(
                Buffer(
                    params,
                    grads,
                    optimizer.slots(starts[-1], dtype),
                    _joined(segments[segments[:, 2] != 0.0]),
                    _joined(penalties[(penalties[:, 2:] != 0.0).any(1)]),
                    np.array(limits, np.float64).reshape(-1, 5),
                )
            )
        for layer, attribute, view, grad in moved:
            setattr(layer, attribute, view)
            layer.__dict__.setdefault("_gradients", {})[attribute] = grad
            self._owned.append((layer, attribute, view))

    def check(self) -> None:
        """Raise when a layer's array is no longer the view that this trainer gave it."""
        for layer, attribute, view in self._owned:
            if getattr(layer, attribute) is not view:
                raise RuntimeError(
                    f"this Trainer no longer owns {attribute!r} of {layer.label()}: a newer Trainer took the layer "
                    "over, or the array was replaced; train with the newer one, or make a new Trainer"
                )

    # ---- what follows the backward pass ----

    def arrays(self) -> list[Array]:
        """Return everything that `update` reads or writes."""
        return [a for buffer in self.buffers for a in buffer.arrays()] + [self._penalty, self._total, self._limit]

    def update(self, optimizer: Optimizer) -> None:
        """Add the penalties to the loss and the gradients, clip these, do the optimizer's step, hold the norms."""
        self._penalize(gradients=True)
        if isinstance(self._clip, ClipNorm):
            _backends.kernels.fill(0.0, self._total)
            for buffer in self.buffers:
                F.square_sum(buffer.grads, buffer.segments, self._total)
            for buffer in self.buffers:
                F.clip_norm(self._total, self._limit, buffer.segments, buffer.grads)
        elif self._clip is not None:
            for buffer in self.buffers:
                F.clip_value(self._limit, buffer.segments, buffer.grads)
        for buffer in self.buffers:
            optimizer.step(buffer.params, buffer.grads, buffer.slots, buffer.segments)
        for buffer in self.buffers:
            if len(buffer.limits):
                F.max_norm(buffer.limits, buffer.params)

    def _penalize(self, gradients: bool) -> None:
        if self.penalizes:
            _backends.kernels.fill(0.0, self._penalty)
            for buffer in self.buffers:
                if len(buffer.penalties):
                    F.penalty(buffer.params, buffer.penalties, buffer.grads if gradients else None, self._penalty)

    @property
    def clipped(self) -> float:
        """How many times larger than the gradients are now they were before the last update clipped their norm."""
        if not isinstance(self._clip, ClipNorm):
            return 1.0
        return max(1.0, (math.sqrt(self._total[0]) + 1e-6) / self._clip.limit)

    @property
    def penalizes(self) -> bool:
        """Whether there are penalties."""
        return any(len(buffer.penalties) for buffer in self.buffers)

    @property
    def penalty(self) -> float:
        """The penalty that entered the last update: of the parameters before it."""
        return float(self._penalty[0])

    def penalty_now(self) -> float:
        """Return the penalty of the parameters as they are."""
        self.check()
        self._penalize(gradients=False)
        return self.penalty


def _chosen(regularizer: Penalty | MaxNorm, places: Places, arrays: dict[int, Array]) -> set[int]:
    """The parameters that a regularizer is on; raise where it is on none, or on what has no incoming vectors."""
    on = regularizer.on
    weights = {place for place, uses in places.items() if any(_is_weight(use, arrays[place]) for use in uses)}
    if on == "weights":
        if not weights:
            raise ValueError(f"Trainer: {regularizer!r} finds no weights in the model; name parameters by on=")
        return weights
    chosen: set[int] = set(places) if on == "all" else set()
    for key in on if isinstance(on, tuple) else ():
        fitting = {
            place
            for place, uses in places.items()
            if any(n == key or (place in weights and n.startswith(f"{key}.")) for n, _, _ in uses)
        }
        if not fitting:
            raise ValueError(f"Trainer: {regularizer!r}: {key!r} names no parameter, and no layer with weights")
        chosen |= fitting
    for place in chosen:
        if isinstance(regularizer, MaxNorm) and arrays[place].ndim < 2:
            name, shape = places[place][0][0], arrays[place].shape
            raise ValueError(f"Trainer: {regularizer!r}: {name!r} of shape {shape} has no incoming vectors")
    return chosen


def _is_weight(use: Place, array: Array) -> bool:
    _, layer, attribute = use
    return array.ndim >= 2 if layer.penalized is None else attribute in layer.penalized


def _units(layer: Layer, shape: tuple[int, ...], start: int, limit: float) -> list[tuple[float, ...]]:
    """Rows (begin, end, outer, inner, limit) of F.max_norm for a layer's weight that starts in the buffer at start."""
    axis = layer.unit_axis
    blocks = getattr(layer, "groups", 1) if axis else 1  # inputs come first there, and a group has its own outputs
    size = math.prod(shape) // blocks
    outer, inner = math.prod(shape[:axis]) // blocks, math.prod(shape[axis + 1 :])
    return [(start + i * size, start + (i + 1) * size, outer, inner, limit) for i in range(blocks)]


def _aligned_zeros(n: int, dtype: np.dtype[Any]) -> Array:
    raw = np.zeros(n * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE_BYTES
    return raw[start : start + n * dtype.itemsize].view(dtype)


def _joined(segments: Array) -> Array:
    """Neighbouring segments with equal settings as one."""
    rows: list[Array] = []
    for row in segments:
        if rows and rows[-1][1] == row[0] and (rows[-1][2:] == row[2:]).all():
            rows[-1][1] = row[1]
        else:
            rows.append(row.copy())
    return np.array(rows).reshape(-1, 4)

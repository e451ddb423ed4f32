"""The flat buffers of a trainer: every parameter it trains, its gradient and its optimizer slots, side by side.

One buffer per dtype, each array once, however many layers share it; the layers' own arrays become views. An optimizer
step is then one kernel call, and so is every other sum over all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..layers.base import Array, Layer
from ..optim import Optimizer

__all__ = ["Buffer", "Parameters"]

# Every array starts on a cache line, as kernels like it; the elements between are zero and stay so.
_LINE_BYTES = 64


@dataclass
class Buffer:
    """All parameters of one dtype."""

    params: Array
    grads: Array
    slots: dict[str, Array]
    segments: Array

    def arrays(self) -> list[Array]:
        """Return everything that a step reads or writes here."""
        return [self.params, self.grads, *self.slots.values(), self.segments]


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of the longest key that is the name, or one of the containers that it is in; 1 without any."""
    fitting = [key for key in factors if key == name or name.startswith(f"{key}.") or key == ""]
    return float(factors[max(fitting, key=len)]) if fitting else 1.0


class Parameters:
    """Moves the parameters of a model into flat buffers, and knows whether they are still there."""

    def __init__(
        self, model: Layer, optimizer: Optimizer, rates: Mapping[str, float], decays: Mapping[str, float]
    ) -> None:
        places: dict[int, list[tuple[str, Layer, str]]] = {}
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

        #: (layer, attribute, view) of every place: while the layer holds that very view, it is this trainer's
        self._owned: list[tuple[Layer, str, Array]] = []
        self.buffers: list[Buffer] = []
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
                    setattr(layer, attribute, view)
                    layer.__dict__.setdefault("_gradients", {})[attribute] = grad
                    self._owned.append((layer, attribute, view))
            names = [places[place][0][0] for place in mine]
            segments = optimizer.segments(
                sizes, rate=[_factor(n, rates) for n in names], decay=[_factor(n, decays) for n in names]
            )
            self.buffers.append(Buffer(params, grads, optimizer.slots(starts[-1], dtype), _joined(segments)))

    def check(self) -> None:
        """Raise when a layer's array is no longer the view that this trainer gave it."""
        for layer, attribute, view in self._owned:
            if getattr(layer, attribute) is not view:
                raise RuntimeError(
                    f"this Trainer no longer owns {attribute!r} of {layer.label()}: a newer Trainer took the layer "
                    "over, or the array was replaced; train with the newer one, or make a new Trainer"
                )


def _aligned_zeros(n: int, dtype: np.dtype[Any]) -> Array:
    raw = np.zeros(n * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE_BYTES
    return raw[start : start + n * dtype.itemsize].view(dtype)


def _joined(segments: Array) -> Array:
    """Neighbouring segments with equal rate and decay as one, and frozen ones left out."""
    rows: list[Array] = []
    for row in segments:
        if row[2] == 0.0:
            continue
        if rows and rows[-1][1] == row[0] and (rows[-1][2:] == row[2:]).all():
            rows[-1][1] = row[1]
        else:
            rows.append(row.copy())
    return np.array(rows).reshape(-1, 4)

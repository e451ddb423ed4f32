"""Operators that exporters write out in others, put together again before the import: GELU, SiLU, layer norm and so on.

A pattern begins at an operator that is rare and follows what reads it; what is put in its place gives the last value of
the pattern, and the rest is dropped where nothing else reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .model import Node

if TYPE_CHECKING:
    from .importer import Item

__all__ = ["fuse"]


class _Wiring:
    """Who gives and who reads each value, and which are constants."""

    def __init__(self, items: list[Item], tensors: Mapping[str, Any], outputs: list[str]) -> None:
        self.makers = {name: item for item in items for name in item.node.outputs if name}
        self.readers: dict[str, list[Item]] = {}
        for item in items:
            for name in item.node.inputs:
                if name:
                    self.readers.setdefault(name, []).append(item)
        self._tensors, self._outputs = tensors, set(outputs)

    def constant(self, name: str) -> np.ndarray | None:
        """The numbers of a value, if they stand in the file."""
        found = self._tensors.get(name)
        maker = self.makers.get(name)
        if maker is not None and maker.node.op == "Constant" and not maker.node.domain:
            found = maker.node.attributes.get("value")
        return found if isinstance(found, np.ndarray) else None

    def is_number(self, name: str, value: float) -> bool:
        """Whether a value is one number, to five digits."""
        array = self.constant(name)
        return array is not None and array.size == 1 and math.isclose(float(array.reshape(-1)[0]), value, rel_tol=1e-5)

    def next(self, item: Item, op: str) -> Item | None:
        """The only reader of an item's only output, if that is such an operator."""
        name = item.node.outputs[0]
        readers = self.readers.get(name, [])
        fits = len(readers) == 1 and readers[0].node.op == op and name not in self._outputs
        return readers[0] if fits else None

    def other(self, item: Item, name: str) -> str:
        """The other input of an operator of two."""
        inputs = item.node.inputs
        return inputs[1] if inputs[0] == name else inputs[0]


def fuse(items: list[Item], tensors: Mapping[str, Any], outputs: list[str]) -> list[Item]:
    """Return the items with what belongs together in one."""
    wiring = _Wiring(items, tensors, outputs)
    made: dict[int, Item] = {}
    for item in items:
        if item.node.domain:
            continue
        found = _PATTERNS.get(item.node.op, _nothing)(item, wiring)
        if found is not None:
            last, node, opset = found
            made[id(last)] = type(item)(node, opset, last.name)
    return [made.get(id(item), item) for item in items]


_Found = tuple["Item", Node, int]


def _nothing(item: Item, wiring: _Wiring) -> _Found | None:
    return None


def _gelu(erf: Item, wiring: _Wiring) -> _Found | None:
    """x (1 + erf(x / sqrt(2))) / 2, with the half anywhere."""
    before = wiring.makers.get(erf.node.inputs[0])
    if before is None or before.node.op not in ("Div", "Mul") or len(before.node.inputs) != 2:
        return None
    x, scale = before.node.inputs
    if before.node.op == "Mul" and wiring.constant(x) is not None:
        x, scale = scale, x
    if not wiring.is_number(scale, math.sqrt(2) if before.node.op == "Div" else math.sqrt(0.5)):
        return None
    plus = wiring.next(erf, "Add")
    if plus is None or not wiring.is_number(wiring.other(plus, erf.node.outputs[0]), 1.0):
        return None
    first = wiring.next(plus, "Mul")
    if first is None:
        return None
    factor = wiring.other(first, plus.node.outputs[0])
    half = wiring.makers.get(factor)
    if factor == x or wiring.is_number(factor, 0.5):
        second = wiring.next(first, "Mul")
        if second is None:
            return None
        last, rest = second, wiring.other(second, first.node.outputs[0])
        if (rest != x and not wiring.is_number(rest, 0.5)) or (rest == x) == (factor == x):
            return None
    elif half is not None and half.node.op == "Mul" and x in half.node.inputs:
        if not wiring.is_number(wiring.other(half, x), 0.5):
            return None
        last = first
    else:
        return None
    return last, Node("Gelu", "", last.node.name, [x], [last.node.outputs[0]]), 20


def _times_itself(item: Item, x: str, wiring: _Wiring) -> Item | None:
    """What multiplies the result of an item, and reads it alone, by x."""
    times = wiring.next(item, "Mul")
    return times if times is not None and wiring.other(times, item.node.outputs[0]) == x else None


def _made(op: str, last: Item, x: str, opset: int) -> _Found:
    return last, Node(op, "", last.node.name, [x], [last.node.outputs[0]]), opset


def _silu(sigmoid: Item, wiring: _Wiring) -> _Found | None:
    """x sigmoid(x)."""
    x = sigmoid.node.inputs[0]
    last = _times_itself(sigmoid, x, wiring)
    return None if last is None else _made("Swish", last, x, 24)


def _mish(softplus: Item, wiring: _Wiring) -> _Found | None:
    """x tanh(log(1 + exp(x)))."""
    x, tanh = softplus.node.inputs[0], wiring.next(softplus, "Tanh")
    last = None if tanh is None else _times_itself(tanh, x, wiring)
    return None if last is None else _made("Mish", last, x, 18)


def _hard_swish(gate: Item, wiring: _Wiring) -> _Found | None:
    """x hardsigmoid(x), where that is max(0, min(1, x / 6 + 1 / 2))."""
    slope, shift = gate.node.attributes.get("alpha", 0.2), gate.node.attributes.get("beta", 0.5)
    x = gate.node.inputs[0]
    last = _times_itself(gate, x, wiring)
    usual = math.isclose(slope, 1 / 6, rel_tol=1e-6) and shift == 0.5
    return _made("HardSwish", last, x, 14) if last is not None and usual else None


def _clipped_swish(clip: Item, wiring: _Wiring) -> _Found | None:
    """x min(max(x + 3, 0), 6) / 6, divided before or after the product."""
    plus = wiring.makers.get(clip.node.inputs[0])
    if plus is None or plus.node.op != "Add" or len(plus.node.inputs) != 2:
        return None
    x, three = plus.node.inputs
    if wiring.constant(x) is not None:
        x, three = three, x
    low, high = clip.node.attributes.get("min"), clip.node.attributes.get("max")
    limits = clip.node.inputs[1:]
    if len(limits) == 2 and clip.opset >= 11:
        fits = wiring.is_number(limits[0], 0.0) and wiring.is_number(limits[1], 6.0)
    else:
        fits = clip.opset < 11 and low == 0.0 and high == 6.0
    if not fits or not wiring.is_number(three, 3.0):
        return None
    for scaled_first in (True, False):
        at: Item | None = clip
        for scales in (scaled_first, not scaled_first):
            if at is not None:
                at = _sixth(at, wiring) if scales else _times_itself(at, x, wiring)
        if at is not None:
            return _made("HardSwish", at, x, 14)
    return None


def _sixth(item: Item, wiring: _Wiring) -> Item | None:
    """What divides the result of an item, and reads it alone, by 6."""
    name = item.node.outputs[0]
    over, times = wiring.next(item, "Div"), wiring.next(item, "Mul")
    if over is not None and over.node.inputs[0] == name and wiring.is_number(over.node.inputs[1], 6.0):
        return over
    return times if times is not None and wiring.is_number(wiring.other(times, name), 1 / 6) else None


def _layer_norm(root: Item, wiring: _Wiring) -> _Found | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) w + b, over the last axis."""
    plus = wiring.makers.get(root.node.inputs[0])
    if plus is None or plus.node.op != "Add":
        return None
    variance, eps = plus.node.inputs
    if wiring.constant(variance) is not None:
        variance, eps = eps, variance
    epsilon, mean = wiring.constant(eps), wiring.makers.get(variance)
    if epsilon is None or epsilon.size != 1 or mean is None or not _over_last(mean, wiring):
        return None
    square = wiring.makers.get(mean.node.inputs[0])
    if square is None or square.node.op not in ("Pow", "Mul"):
        return None
    centred, power = square.node.inputs
    if (power != centred) if square.node.op == "Mul" else not wiring.is_number(power, 2.0):
        return None
    minus, divided = wiring.makers.get(centred), wiring.next(root, "Div")
    if (
        minus is None
        or minus.node.op != "Sub"
        or divided is None
        or divided.node.inputs != [centred, root.node.outputs[0]]
    ):
        return None
    x, average = minus.node.inputs
    first = wiring.makers.get(average)
    if first is None or not _over_last(first, wiring) or first.node.inputs[0] != x:
        return None
    scaled = wiring.next(divided, "Mul")
    shifted = None if scaled is None else wiring.next(scaled, "Add")
    if scaled is None or shifted is None:
        return None
    weight, bias = wiring.other(scaled, divided.node.outputs[0]), wiring.other(shifted, scaled.node.outputs[0])
    arrays = wiring.constant(weight), wiring.constant(bias)
    if any(array is None or array.ndim != 1 for array in arrays) or arrays[0].shape != arrays[1].shape:  # type: ignore[union-attr]
        return None
    attributes = {"axis": -1, "epsilon": float(epsilon.reshape(-1)[0])}
    node = Node("LayerNormalization", "", shifted.node.name, [x, weight, bias], list(shifted.node.outputs), attributes)
    return shifted, node, 17


def _over_last(item: Item, wiring: _Wiring) -> bool:
    """Whether an operator is the mean over the last axis, which it keeps."""
    node = item.node
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1:
        array = wiring.constant(node.inputs[1])
        axes = None if array is None else array.reshape(-1).tolist()
    return node.op == "ReduceMean" and axes == [-1] and bool(node.attributes.get("keepdims", 1))


#: the operator that a pattern begins at -> what finds the rest
_PATTERNS: dict[str, Callable[[Item, _Wiring], _Found | None]] = {
    "Erf": _gelu,
    "Sigmoid": _silu,
    "Softplus": _mish,
    "HardSigmoid": _hard_swish,
    "Clip": _clipped_swish,
    "Sqrt": _layer_norm,
}

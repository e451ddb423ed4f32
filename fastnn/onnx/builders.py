"""Which operators become fastnn's own layers: those whose weights stand in the file, and activations.

A builder gets the importer, the item and its operands; it emits layers and returns True, or does nothing and returns
False, where the operator must be an `Operation`. To add one: a function and a line in `BUILDERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError
from ..layers import activation as A
from ..layers.base import Layer, Shape
from ..layers.container import Identity
from ..layers.dropout import Dropout
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import GroupNorm, LayerNorm, _BatchNorm, _GroupNorm
from ..layers.pool import AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from .elementwise import ACTIVATIONS, activation
from .moves import Affine, Border, SameBorder
from .windows import check_pads, check_strides, row

if TYPE_CHECKING:
    from .importer import Importer, Item, Value

__all__ = ["BUILDERS", "BatchNorm", "InstanceNorm"]

Operands = Sequence["Value | None"]


class BatchNorm(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, ...)."""

    def _check(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[1] != self.running_mean.size:
            raise ShapeError(f"expected (N, {self.running_mean.size}, ...), got {shape}")
        return shape

    def label(self) -> str:
        return f"BatchNorm {self.running_mean.size}{' frozen' if self.frozen else ''}"


class InstanceNorm(_GroupNorm):
    """Instance normalisation of (N, C, ...)."""

    groups = None

    def label(self) -> str:
        return f"InstanceNorm {self.num_channels}"


def _weights(operands: Operands, *places: int) -> bool:
    """Whether what flows is floating, and these operands are constants or absent."""
    first = operands[0]
    return (
        first is not None
        and first.floating
        and first.constant is None
        and all(
            i >= len(operands) or (o := operands[i]) is None or (o.constant is not None and o.floating) for i in places
        )
    )


def _given(operands: Operands, i: int) -> Value | None:
    return operands[i] if i < len(operands) else None


# ---- windows ----


class Windows:
    """The attributes of an operator on windows of one or two axes; ``pads`` as a layer's own where it can have them."""

    def __init__(self, attributes: dict[str, Any], kernel: Sequence[int]) -> None:
        axes = len(kernel)
        self.kernel = list(kernel)
        self.stride, self.dilation = row(attributes, "strides", axes, 1, 1), row(attributes, "dilations", axes, 1, 1)
        auto = attributes.get("auto_pad", "NOTSET") or "NOTSET"
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise ValueError(f"unknown auto_pad {auto!r}")
        pads = row(attributes, "pads", 2 * axes, 0, 0) if auto == "NOTSET" else [0] * 2 * axes
        self.same = auto if auto.startswith("SAME") else ""
        if self.same and self.stride == [1] * axes:  # then they do not depend on the size
            totals = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
            small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
            pads = small + large if self.same == "SAME_UPPER" else large + small
            self.same = ""
        self.before, self.after = pads[:axes], pads[axes:]
        for b, a, d, k in zip(self.before, self.after, self.dilation, kernel, strict=True):
            check_pads(b, a, d * (k - 1) + 1)
        self.even = not self.same and self.before == self.after

    def border(self, value: float) -> Border | None:
        """Return the layer that makes the border, where the layer with the windows cannot."""
        if self.same:
            return SameBorder(self.kernel, self.stride, self.dilation, self.same == "SAME_UPPER", value)
        if not any(self.before) and not any(self.after):
            return None
        return Border([n for pair in reversed(list(zip(self.before, self.after, strict=True))) for n in pair], value)


def _bordered(importer: Importer, item: Item, x: Value, windows: Windows, value: float) -> tuple[Value, list[int]]:
    """x with the border that the layer cannot make, and the padding that it can."""
    if windows.even:
        return x, windows.before
    border = windows.border(value)
    if border is not None:
        name = importer.unique(f"{item.name}.pad")
        x = importer.emit(item, border, [x], name, f"{item.node.outputs[0]}:padded")
    return x, [0] * len(windows.kernel)


def _conv(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or x is None or w is None or w.constant.ndim not in (3, 4) or not w.constant.size:
        return False
    o, _, *kernel = w.constant.shape
    groups = int(attributes.get("group", 1))
    stated = attributes.get("kernel_shape")
    if groups < 1 or o % groups or (stated and list(stated) != kernel) or (b is not None and b.constant.shape != (o,)):
        raise ValueError(f"weights {w.constant.shape}, kernel_shape {stated}, {groups} groups and the bias do not fit")
    windows = Windows(attributes, kernel)
    x, padding = _bordered(importer, item, x, windows, 0.0)
    layer: Any = (Conv1d if len(kernel) == 1 else Conv2d)(
        1, 1, 1, tuple(windows.stride), tuple(padding), tuple(windows.dilation), bias=False, rng=0
    )
    layer.groups = groups
    layer.weight = importer.weight(w)
    layer.bias = None if b is None else importer.weight(b)
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


def _conv_transpose(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or x is None or w is None or w.constant.ndim != 4 or not w.constant.size:
        return False
    if attributes.get("output_shape") or (attributes.get("auto_pad") or "NOTSET") not in ("NOTSET", "VALID"):
        return False
    c, o, *kernel = w.constant.shape
    groups = int(attributes.get("group", 1))
    if groups < 1 or c % groups or (b is not None and b.constant.shape != (o * groups,)):
        raise ValueError(f"weights {w.constant.shape}, {groups} groups and the bias do not fit")
    windows, more = Windows(attributes, kernel), row(attributes, "output_padding", 2, 0, 0)
    check_strides(windows.stride, more, kernel)
    if not windows.even or any(m >= max(s, d) for m, s, d in zip(more, windows.stride, windows.dilation, strict=True)):
        return False
    stride, padding, dilation = tuple(windows.stride), tuple(windows.before), tuple(windows.dilation)
    layer = ConvTranspose2d(1, 1, 1, stride, padding, tuple(more), bias=False, dilation=dilation, rng=0)
    layer.groups = groups
    layer.weight = importer.weight(w)
    layer.bias = None if b is None else importer.weight(b)
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


def _max_pool(importer: Importer, item: Item, operands: Operands) -> bool:
    x, attributes = operands[0], item.node.attributes
    kernel = attributes.get("kernel_shape") or []
    if x is None or not x.floating or len(kernel) not in (1, 2) or len([o for o in item.node.outputs if o]) > 1:
        return False
    kernel = row(attributes, "kernel_shape", len(kernel), 0, 1)
    windows, ceil = Windows(attributes, kernel), bool(attributes.get("ceil_mode", 0))
    halves = all(2 * p <= d * (k - 1) + 1 for p, d, k in zip(windows.before, windows.dilation, kernel, strict=True))
    windows.even = windows.even and halves
    if ceil and not windows.even:
        return False
    x, padding = _bordered(importer, item, x, windows, -math.inf)
    kind: Any = MaxPool1d if len(kernel) == 1 else MaxPool2d
    layer = kind(_single(kernel), _single(windows.stride), _single(padding), _single(windows.dilation), ceil_mode=ceil)
    importer.emit(item, layer, [x])
    return True


def _single(values: Sequence[int]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _average_pool(importer: Importer, item: Item, operands: Operands) -> bool:
    x, attributes = operands[0], item.node.attributes
    kernel = attributes.get("kernel_shape") or []
    if x is None or not x.floating or len(kernel) not in (1, 2):
        return False
    kernel = row(attributes, "kernel_shape", len(kernel), 0, 1)
    windows, ceil = Windows(attributes, kernel), bool(attributes.get("ceil_mode", 0))
    counts = bool(attributes.get("count_include_pad", 0))
    halves = all(2 * p <= k for p, k in zip(windows.before, kernel, strict=True))
    if windows.dilation != [1] * len(kernel) or not (windows.even and halves):
        return False
    kind: Any = AvgPool1d if len(kernel) == 1 else AvgPool2d
    options = {"ceil_mode": ceil, "count_include_pad": counts}
    importer.emit(item, kind(_single(kernel), _single(windows.stride), _single(windows.before), **options), [x])
    return True


# ---- matrix products ----


def _linear(importer: Importer, item: Item, x: Value, w: Value, transposed: bool, alpha: float = 1.0) -> Linear:
    """A linear layer of a constant (in, out), or (out, in) where it is transposed."""

    def change(array: Any) -> Any:
        array = array if transposed else array.T
        return array if alpha == 1.0 else alpha * array

    layer = Linear(1, 1, bias=False, rng=0)
    layer.weight = importer.weight(w, f"linear {transposed} {alpha}", change)
    return layer


def _gemm(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or attributes.get("transA", 0) or x is None or w is None or w.constant.ndim != 2:
        return False
    beta = float(attributes.get("beta", 1.0))
    out = w.constant.shape[0 if attributes.get("transB", 0) else 1]
    if not w.constant.size or (b is not None and b.constant.shape not in ((), (1,), (1, 1), (out,), (1, out))):
        return False
    layer = _linear(importer, item, x, w, bool(attributes.get("transB", 0)), float(attributes.get("alpha", 1.0)))
    if b is not None:
        layer.bias = importer.weight(b, f"bias {out} {beta}", lambda a: np.broadcast_to(beta * a.reshape(-1), (out,)))
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


def _matmul(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w = operands[0], operands[1]
    if not _weights(operands, 1) or x is None or w is None or w.constant.ndim != 2 or not w.constant.size:
        return False
    importer.emit(item, _linear(importer, item, x, w, False), [x], importer.name_of(item, w))
    return True


def _add(importer: Importer, item: Item, operands: Operands) -> bool:
    """A bias that comes after a product that has none."""
    for x, b in (operands, operands[::-1]):
        assert x is not None and b is not None
        if x.data in importer.waiting:  # its layer has that bias already
            importer.waiting.pop(x.data)
            importer.values[item.node.outputs[0]] = x
            return True
        if x.data is None or b.constant is None or not b.floating or not b.constant.size:
            continue
        layer = importer.makers.get(x.data)
        if not isinstance(layer, (Linear, Conv1d, Conv2d)) or layer.bias is not None or not _alone(importer, item, x):
            continue
        out = layer.weight.shape[0]
        shape = b.constant.shape
        if isinstance(layer, Linear):
            fits = shape == (out,) or (shape == (1, out) and importer.rank(x) == 2)
        else:
            axes = layer.weight.ndim - 2
            fits = shape in ((out, *[1] * axes), (1, out, *[1] * axes))
        if fits:
            layer.bias = importer.weight(b, f"bias {out}", lambda a: a.reshape(-1))
            importer.values[item.node.outputs[0]] = x
            importer.makers.pop(x.data)
            return True
    return _affine(importer, item, operands)


def _affine(importer: Importer, item: Item, operands: Operands) -> bool:
    """One number added, subtracted, multiplied or divided by; and numbers for channels, multiplied and then added."""
    op = item.node.op
    for i, (x, c) in enumerate((operands, operands[::-1])):
        if x is None or c is None or x.data is None or not x.floating or c.constant is None or not c.constant.size:
            continue
        if op == "Mul" and _channel_scale(importer, item, x, c):
            return True
        rank = importer.rank(x)
        if c.constant.size != 1 or c.constant.ndim > max(rank or 0, 1) or (op == "Div" and i):
            continue
        number = float(c.constant.reshape(-1)[0])
        if op == "Div" and number == 0:
            continue
        scale, shift = {
            "Add": (1.0, number),
            "Sub": (-1.0, number) if i else (1.0, -number),
            "Mul": (number, 0.0),
            "Div": (1 / number if op == "Div" else 0.0, 0.0),
        }[op]
        layer = importer.makers.get(x.data)
        if (scale, shift) == (1.0, 0.0):
            importer.values[item.node.outputs[0]] = x
        elif isinstance(layer, Affine) and _alone(importer, item, x):
            layer.scale, layer.shift = scale * layer.scale, scale * layer.shift + shift
            importer.values[item.node.outputs[0]] = x
        else:
            importer.emit(item, Affine(scale, shift), [x])
        return True
    return False


def _channels(value: Value, rank: int | None) -> int:
    """Of an array with a number for each channel of (N, C, ...), of so many axes, how many there are; 0 of another."""
    if rank is None or rank < 3 or value.constant is None or not value.floating:
        return 0
    shape = value.constant.shape
    padded = (*[1] * (rank - len(shape)), *shape)
    fits = len(shape) <= rank and padded == (1, value.constant.size, *[1] * (rank - 2))
    return int(value.constant.size) if fits else 0


def _channel_scale(importer: Importer, item: Item, x: Value, w: Value) -> bool:
    """A factor for each channel, to which a bias is added next: what batch norm with fixed statistics does."""
    rank = importer.rank(x)
    c = _channels(w, rank)
    readers = importer.consumers.get(item.node.outputs[0], [])
    if (
        not c
        or c == 1
        or len(readers) != 1
        or readers[0].node.op != "Add"
        or importer.readers[item.node.outputs[0]] != 1
    ):
        return False
    others = [name for name in readers[0].node.inputs if name != item.node.outputs[0]]
    bias = importer.values.get(others[0]) if len(others) == 1 else None
    if bias is None or _channels(bias, rank) != c:
        return False
    layer = BatchNorm(c, 0.0, frozen=True)
    layer.weight = importer.weight(w, "flat", lambda a: a.reshape(-1))
    layer.bias = importer.weight(bias, "flat", lambda a: a.reshape(-1))
    value = importer.emit(item, layer, [x], importer.name_of(item, w, bias))
    importer.waiting[value.data or ""] = layer
    return True


def _alone(importer: Importer, item: Item, x: Value) -> bool:
    """Whether nothing else reads a value."""
    names = [name for name in item.node.inputs if name and importer.values[name] is x]
    return len(names) == 1 and importer.readers[names[0]] == 1


# ---- norms ----


def _batch_norm(importer: Importer, item: Item, operands: Operands) -> bool:
    attributes = item.node.attributes
    x, *given = operands
    if not _weights(operands, 1, 2, 3, 4) or len([o for o in item.node.outputs if o]) > 1:
        return False
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        return False
    c = given[0].constant.size  # type: ignore[union-attr]
    if not c or any(v.constant.shape != (c,) for v in given):  # type: ignore[union-attr]
        return False
    momentum = 1.0 - float(attributes.get("momentum", 0.9))
    layer = BatchNorm(c, float(attributes.get("epsilon", 1e-5)), min(max(momentum, 0.0), 1.0))
    layer.weight, layer.bias, layer.running_mean, layer.running_var = (importer.weight(v) for v in given)  # type: ignore[arg-type]
    importer.emit(item, layer, [x], importer.name_of(item, *given))  # type: ignore[list-item]
    return True


def _instance_norm(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands
    if not _weights(operands, 1, 2) or x is None or w is None or b is None:
        return False
    if w.constant.ndim != 1 or w.constant.shape != b.constant.shape or not w.constant.size:
        return False
    layer = InstanceNorm(w.constant.size, float(item.node.attributes.get("epsilon", 1e-5)), True)
    layer.weight, layer.bias = importer.weight(w), importer.weight(b)
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


def _group_norm(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands
    groups = int(item.node.attributes.get("num_groups", 0))
    if not _weights(operands, 1, 2) or item.opset < 21 or groups < 1 or x is None or w is None or b is None:
        return False
    c = w.constant.size
    if not c or c % groups or w.constant.shape != (c,) or b.constant.shape != (c,):
        return False
    layer = GroupNorm(groups, c, float(item.node.attributes.get("epsilon", 1e-5)))
    layer.weight, layer.bias = importer.weight(w), importer.weight(b)
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


def _layer_norm(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or x is None or w is None or len([o for o in item.node.outputs if o]) > 1:
        return False
    axis, rank, shape = int(attributes.get("axis", -1)), importer.rank(x), w.constant.shape
    count = -axis if axis < 0 else None if rank is None else rank - axis
    if count != len(shape) or not w.constant.size or (b is not None and b.constant.shape != shape):
        return False
    probe = importer.probes.get(x.data or "")
    if probe is None or probe[-len(shape) :] != shape:
        return False
    layer = LayerNorm(shape, float(attributes.get("epsilon", 1e-5)), bias=b is not None)
    layer.weight, layer.bias = importer.weight(w), None if b is None else importer.weight(b)
    importer.emit(item, layer, [x], importer.name_of(item, w, b))
    return True


# ---- activations ----


def _activation(importer: Importer, item: Item, operands: Operands) -> bool:
    x = operands[0]
    layer = activation(item.node.op, item.node.attributes, item.opset) if x is not None and x.floating else None
    if layer is None:
        return False
    importer.emit(item, layer, [x])  # type: ignore[list-item]
    return True


def _clip(importer: Importer, item: Item, operands: Operands) -> bool:
    x, limits = operands[0], []
    if x is None or not x.floating:
        return False
    for i, name in ((1, "min"), (2, "max")):
        value: Any = item.node.attributes.get(name) if item.opset < 11 else None
        operand = _given(operands, i) if item.opset >= 11 else None
        if operand is not None:
            if operand.constant is None or operand.constant.size != 1:
                return False
            value = operand.constant.reshape(-1)[0]
        limits.append(value)
    low, high = (None if v is None else float(v) for v in limits)
    if low == 0 and (high is None or high == math.inf or high > 3e38):
        layer: Layer = A.ReLU()
    elif low is None and high is None:
        layer = Identity()
    elif low == 0 and high == 6:
        layer = A.ReLU6()
    elif low is None or high is None or not low <= high:
        return False
    else:
        layer = A.Hardtanh(low, high)
    importer.emit(item, layer, [x])
    return True


def _prelu(importer: Importer, item: Item, operands: Operands) -> bool:
    x, slope = operands
    if not _weights(operands, 1) or x is None or slope is None:
        return False
    shape, rank = slope.constant.shape, importer.rank(x)
    if item.opset < 7 and rank is not None and rank >= 2 and len(shape) == 1:  # then one for each channel
        shape = (*shape, *[1] * (rank - 2))
    channels = rank is not None and rank >= 2 and len(shape) <= rank and ((1,) * (rank - len(shape)) + shape) == (
        1, slope.constant.size, *[1] * (rank - 2)
    )  # fmt: skip
    if not slope.constant.size or not (slope.constant.size == 1 or channels):
        return False
    layer = A.PReLU(1)
    layer.weight = importer.weight(slope, "flat", lambda a: a.reshape(-1))
    importer.emit(item, layer, [x], importer.name_of(item, slope))
    return True


def _identity(importer: Importer, item: Item, operands: Operands) -> bool:
    x = operands[0]
    assert x is not None
    importer.values[item.node.outputs[0]] = x
    return True


def _dropout(importer: Importer, item: Item, operands: Operands) -> bool:
    x, ratio = operands[0], _given(operands, 1)
    trains = _given(operands, 2)
    if x is None or not x.floating or len([o for o in item.node.outputs if o]) > 1:
        return False
    if trains is not None and (trains.constant is None or np.any(trains.constant)):
        return False
    if ratio is not None and (ratio.constant is None or ratio.constant.size != 1):
        return False
    p = float(item.node.attributes.get("ratio", 0.5) if ratio is None else ratio.constant.reshape(-1)[0])
    importer.emit(item, Dropout(p) if 0 <= p < 1 else Identity(), [x])
    return True


Builder = Callable[["Importer", "Item", Operands], bool]

BUILDERS: dict[str, Builder] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    **dict.fromkeys(("Sub", "Mul", "Div"), _affine),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Clip": _clip,
    "PRelu": _prelu,
    "Identity": _identity,
    "Dropout": _dropout,
    **dict.fromkeys(ACTIVATIONS, _activation),
}

"""Which operators become fastnn's own layers: those whose weights stand in the file, and activations.

A builder gets the importer, the item and its operands; it emits layers and returns True, or does nothing and returns
False, where the operator must be an `Operation`. To add one: a function and a line in `BUILDERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..layers import activation as A
from ..layers.base import Array, Backward, Layer, Shape
from ..layers.container import Identity
from ..layers.dropout import Dropout
from ..layers.function import Mul as Product
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import GroupNorm, LayerNorm, _BatchNorm, _GroupNorm
from ..layers.pool import AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from ..random import RNG
from .elementwise import ACTIVATIONS, Mul, activation, wanted_dtype
from .moves import Affine, Border, SameBorder
from .shaping import Slice, Squeeze
from .windows import check_pads, check_strides, row

if TYPE_CHECKING:
    from .importer import Importer, Item, Value

__all__ = ["BUILDERS", "FINISHERS", "BatchNorm", "ChannelAffine", "InstanceNorm"]

Operands = Sequence["Value | None"]


class BatchNorm(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, ...)."""

    def _check(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[1] != self.running_mean.size:
            raise ShapeError(f"expected (N, {self.running_mean.size}, ...), got {shape}")
        return shape

    def label(self) -> str:
        return f"BatchNorm {self.running_mean.size}{' frozen' if self.frozen else ''}"


class ChannelAffine(BatchNorm):
    """A factor and a shift for each channel of (N, C, ...): batch norm whose statistics are 0 and 1, and not trained.

    Parameters
    ----------
    channels : int
    dtype : dtype
    """

    parameters: ClassVar[tuple[str, ...]] = ()  # type: ignore[assignment]
    statistics: ClassVar[tuple[str, ...]] = ("weight", "bias", "running_mean", "running_var")  # type: ignore[assignment]

    def __init__(self, channels: int, dtype: Any = np.float32) -> None:
        super().__init__(channels, 0.0, frozen=True)
        for name in self.statistics:
            value = getattr(self, name)
            setattr(self, name, value.astype(np.float64 if dtype == np.float64 else np.float32))

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:  # type: ignore[override]
        mean, var, w = self.running_mean, self.running_var, self.weight

        def backward(dy: Array) -> Array:
            return F.batch_norm_backward(dy, x, mean, var, w, self.eps, frozen=True)[0]

        return self(x), backward

    def label(self) -> str:
        return f"Affine by channel {self.running_mean.size}"


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


def _check_groups(groups: int, channels: int, weights: Shape) -> None:
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide the {channels} channels of the weights {weights}")


def _conv(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or x is None or w is None or w.constant.ndim not in (3, 4) or not w.constant.size:
        return False
    o, _, *kernel = w.constant.shape
    groups = int(attributes.get("group", 1))
    stated = attributes.get("kernel_shape")
    _check_groups(groups, o, w.constant.shape)
    if stated and list(stated) != kernel:
        raise ValueError(f"kernel_shape {stated} is not that of the weights {w.constant.shape}")
    if b is not None and b.constant.shape != (o,):
        raise ValueError(f"expected a bias of shape ({o},) for weights {w.constant.shape}, got {b.constant.shape}")
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
    _check_groups(groups, c, w.constant.shape)
    if b is not None and b.constant.shape != (o * groups,):
        raise ValueError(
            f"expected a bias of shape ({o * groups},) for weights {w.constant.shape} of {groups} groups, got "
            f"{b.constant.shape}"
        )
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


def _linear(importer: Importer, item: Item, x: Value, w: Value, transposed: bool) -> Linear:
    """A linear layer of a constant (in, out), or (out, in) where it is transposed."""
    layer = Linear(1, 1, bias=False, rng=0)
    layer.weight = importer.weight(w, f"linear {transposed}", lambda a: a if transposed else a.T)
    return layer


def _gemm(importer: Importer, item: Item, operands: Operands) -> bool:
    x, w, b = operands[0], operands[1], _given(operands, 2)
    attributes = item.node.attributes
    if not _weights(operands, 1, 2) or attributes.get("transA", 0) or x is None or w is None or w.constant.ndim != 2:
        return False
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    b = b if beta else None
    out = w.constant.shape[0 if attributes.get("transB", 0) else 1]
    if not w.constant.size or (b is not None and b.constant.shape not in ((), (1,), (1, 1), (out,), (1, out))):
        return False
    # beta (alpha / beta x W + b): weights and bias stay those of the file, by whose names checkpoints are loaded.
    after = beta if b is not None else 1.0
    if not math.isfinite(alpha / after):
        return False
    if alpha != after:
        name = importer.unique(f"{item.name}.alpha")
        x = importer.emit(item, Affine(alpha / after), [x], name, f"{item.node.outputs[0]}:scaled")
    layer = _linear(importer, item, x, w, bool(attributes.get("transB", 0)))
    if b is not None:
        layer.bias = importer.weight(b, f"bias {out}", lambda a: np.broadcast_to(a.reshape(-1), (out,)))
    name = importer.name_of(item, w, b)
    if after == 1:
        importer.emit(item, layer, [x], name)
    else:
        y = importer.emit(item, layer, [x], name, f"{item.node.outputs[0]}:product")
        importer.emit(item, Affine(after), [y], importer.unique(f"{item.name}.beta"))
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
        if x.data is None or b.constant is None or not b.floating or not b.constant.size:
            continue
        layer = importer.makers.get(x.data)
        if not isinstance(layer, (Linear, Conv1d, Conv2d)) or layer.bias is not None or not _alone(importer, item, x):
            continue
        out = layer.weight.shape[0]
        shape = b.constant.shape
        if isinstance(layer, Linear):
            fits = shape == (*[1] * (len(shape) - 1), out) and len(shape) <= max(importer.rank(x) or 0, 1)
        else:
            axes = layer.weight.ndim - 2
            fits = shape in ((out, *[1] * axes), (1, out, *[1] * axes))
        if fits:
            layer.bias = importer.weight(b, f"bias {out}", lambda a: a.reshape(-1))
            importer.values[item.node.outputs[0]] = x
            importer.makers.pop(x.data)
            return True
    return _norm_ends(importer, item, operands) or _affine(importer, item, operands)


def _affine(importer: Importer, item: Item, operands: Operands) -> bool:
    """A constant added, subtracted, multiplied or divided by: one number, or one for each channel."""
    op = item.node.op
    for i, (x, c) in enumerate((operands, operands[::-1])):
        if x is None or c is None or x.data is None or not x.floating or c.constant is None or not c.constant.size:
            continue
        if (op == "Div" and i) or importer.is_weight(c):
            continue
        one = c.constant.size == 1 and c.constant.ndim <= max(importer.rank(x) or 0, 1)
        if not one and not _channels(importer, x, c):
            if op == "Div" and _reciprocal(c, x.dtype):
                _multiply_by_reciprocal(importer, item, x, c)
                return True
            continue
        numbers = c.constant.reshape(-1).astype(np.float64)
        zero, ones = np.zeros_like(numbers), np.ones_like(numbers)
        with np.errstate(all="ignore"):
            step = {
                "Add": (ones, numbers),
                "Sub": (-ones, numbers) if i else (ones, -numbers),
                "Mul": (numbers, zero),
                "Div": (1 / numbers, zero),
            }[op]
        if op == "Div" and not _reciprocal(c, x.dtype):
            continue
        if (step[0] == 1).all() and (step[1] == 0).all():
            importer.values[item.node.outputs[0]] = x
            return True
        layer: Any = importer.makers.get(x.data)
        joins = isinstance(layer, (Affine, ChannelAffine)) and _alone(importer, item, x)
        both = _merged(layer, step) if joins else None
        if both is not None:
            if isinstance(layer, Affine) and not one:
                layer = importer.given[x.data].layer = importer.makers[x.data] = ChannelAffine(numbers.size, x.dtype)
            _set_affine(layer, both)
            importer.values[item.node.outputs[0]] = x
        elif one:
            importer.emit(item, Affine(float(step[0][0]), float(step[1][0])), [x])
        else:
            layer = ChannelAffine(numbers.size, x.dtype)
            _set_affine(layer, step)
            importer.emit(item, layer, [x], importer.name_of(item, c))
        return True
    return False


def _reciprocal(c: Value, dtype: Any) -> bool:
    """Whether the reciprocals of constants are neither denormal nor infinite."""
    numbers, largest = np.abs(c.constant.astype(np.float64)), 2.0 ** (1022 if dtype == np.float64 else 126)
    return bool(((numbers >= 1 / largest) & (numbers <= largest)).all())


def _multiply_by_reciprocal(importer: Importer, item: Item, x: Value, c: Value) -> None:
    """x / c by the kernel for products, to an ulp more."""
    inverse = replace(c, constant=(1 / c.constant).astype(c.constant.dtype), origin="", moves=0)
    node = replace(item.node, op="Mul")
    importer.operation(replace(item, node=node), Mul({}, item.opset), [x, inverse], node.outputs, [x.dtype])


def _set_affine(layer: Any, step: tuple[np.ndarray, np.ndarray]) -> None:
    if isinstance(layer, Affine):
        layer.scale, layer.shift = float(step[0][0]), float(step[1][0])
    else:
        layer.weight[...], layer.bias[...] = step


def _merged(layer: Any, step: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """A layer and what comes after it in one, where that is as exact: see below; None where it is not."""
    if isinstance(layer, Affine):
        scale, shift = np.array([layer.scale]), np.array([layer.shift])
    else:
        scale, shift = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    factor, more = step
    with np.errstate(all="ignore"):
        both, sum_ = scale * factor, shift * factor + more
    # Nothing may leave the range of float32 on the way that it would not leave step by step, or the other way round;
    numbers = np.abs(np.concatenate([scale, factor, both, shift, sum_, more]))
    if not ((numbers == 0) | ((numbers > 2.0**-40) & (numbers < 2.0**40))).all():
        return None
    # x - mean is exact near the mean, which x s - mean s is not: to 2^-24 of what is added;
    if (factor != 1).any() and (np.abs(shift * factor) > 64).any():
        return None
    # and numbers that cancel each other are kept apart, for they may be meant to round.
    if (np.abs(shift * factor) + np.abs(more) > 1024 * np.maximum(np.abs(sum_), np.abs(both))).any():
        return None
    return both, sum_


def _channels(importer: Importer, x: Value, c: Value) -> int:
    """Of a constant with a number for each channel of x, (N, C, ...), how many there are; 0 of another."""
    rank, probe = importer.rank(x), importer.probes.get(x.data or "")
    if rank is None or rank < 2 or probe is None or c.constant is None or not c.floating:
        return 0
    shape, size = c.constant.shape, int(c.constant.size)
    padded = (*[1] * (rank - len(shape)), *shape)
    fits = len(shape) <= rank and padded == (1, size, *[1] * (rank - 2))
    return size if fits and size > 1 and probe[1] == size else 0


def _norm_ends(importer: Importer, item: Item, operands: Operands) -> bool:
    """The weight or the bias of a norm that exporters write out: for each channel, behind a norm without them."""
    for x, c in (operands, operands[::-1]):
        if x is None or c is None or x.data is None or c.constant is None or not _channels(importer, x, c):
            continue
        layer = importer.makers.get(x.data)
        if not isinstance(layer, GroupNorm) or not _alone(importer, item, x):
            continue
        flat = importer.weight(c, "flat", lambda a: a.reshape(-1))
        if item.node.op == "Mul" and layer.weight is None:
            layer.weight = flat
        elif item.node.op == "Add" and layer.weight is not None and layer.bias is None:
            layer.bias = flat
        else:
            continue
        importer.values[item.node.outputs[0]] = x
        if item.node.op == "Mul":
            importer.rename(x, c)
        return True
    return False


def _multiply(importer: Importer, item: Item, operands: Operands) -> bool:
    return _norm_ends(importer, item, operands) or _affine(importer, item, operands)


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
    # Exported for training it is batch norm as any other: by its statistics at inference, by the batch in forward().
    if not attributes.get("spatial", 1):
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


def _power(importer: Importer, item: Item, operands: Operands) -> bool:
    """The square, by the kernel for products."""
    x, power = operands
    if x is None or power is None or x.data is None or not x.floating or power.constant is None:
        return False
    if power.constant.size != 1 or power.constant.ndim > max(importer.rank(x) or 0, 1) or power.constant.item() != 2:
        return False
    importer.emit(item, Product(), [x, x])
    return True


def _extreme(importer: Importer, item: Item, operands: Operands) -> bool:
    """The larger, or the smaller, of x and one number."""
    if len(operands) != 2:
        return False
    for x, c in (operands, operands[::-1]):
        if x is None or c is None or x.data is None or not x.floating or c.constant is None or c.constant.size != 1:
            continue
        number = float(c.constant.item())
        if c.constant.ndim > max(importer.rank(x) or 0, 1) or math.isnan(number):
            continue
        limits = (number, math.inf) if item.node.op == "Max" else (-math.inf, number)
        importer.emit(item, A.ReLU() if limits == (0.0, math.inf) else A.Hardtanh(*limits), [x])
        return True
    return False


def _gather(importer: Importer, item: Item, operands: Operands) -> bool:
    """One element of an axis, as a part of it: what is sliced is compiled."""
    x, index = operands
    if x is None or index is None or x.data is None or not x.floating or index.constant is None:
        return False
    axis, rank = int(item.node.attributes.get("axis", 0)), importer.rank(x)
    if index.constant.shape != () or index.constant.dtype.kind not in "iu" or not rank or not -rank <= axis < rank:
        return False
    k, axis = int(index.constant), axis % rank
    probe = importer.probes.get(x.data)
    if probe is None or not -probe[axis] <= k < probe[axis]:
        return False
    part = f"{item.node.outputs[0]}:part"
    limits = {"starts": [k], "ends": [k + 1 if k != -1 else 1 << 62], "axes": [axis]}
    node = replace(item.node, op="Slice", outputs=[part])
    importer.operation(replace(item, node=node), Slice(limits, 9), [x], [part], [x.dtype])
    node = replace(item.node, op="Squeeze")
    squeeze = Squeeze({"axes": [axis]}, 11)
    importer.operation(replace(item, node=node), squeeze, [importer.values[part]], item.node.outputs, [x.dtype])
    return True


def _cast(importer: Importer, item: Item, operands: Operands) -> bool:
    """To the dtype that it is."""
    x = operands[0]
    if x is None or not x.floating or x.data is None or wanted_dtype(item.node.attributes.get("to")) != x.dtype:
        return False
    importer.values[item.node.outputs[0]] = x
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
    else:
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        if not low <= high:
            return False
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
    if trains is not None and trains.constant is None:
        return False
    if ratio is not None and (ratio.constant is None or ratio.constant.size != 1):
        return False
    p = float(item.node.attributes.get("ratio", 0.5) if ratio is None else ratio.constant.reshape(-1)[0])
    importer.emit(item, Dropout(p) if 0 <= p < 1 else Identity(), [x])
    return True


def _group_norm_written_out(importer: Importer, item: Item, operands: Operands) -> None:
    """Groups of channels as images of their own, instance norm, and the old shape: what group norm was until opset 18.

    Its weight and bias come next, and are taken by `_norm_ends`.
    """
    x, y = operands[0], importer.values[item.node.outputs[0]]
    node = importer.given.get("" if x is None else x.data or "")
    norm = None if node is None else node.layer
    if x is None or node is None or not isinstance(norm, InstanceNorm) or not _alone(importer, item, x):
        return
    assert norm.weight is not None and norm.bias is not None
    before = importer.given.get(node.inputs[0])
    if before is None or before.layer.label() != "Reshape" or (norm.weight != 1).any() or norm.bias.any():
        return
    image, parts, back = (importer.probes.get(name) for name in (before.inputs[0], node.inputs[0], y.data or ""))
    groups = norm.num_channels
    if not image or not parts or image != back or len(image) < 3 or len(parts) < 3:
        return
    if image[1] % groups or parts[:2] != (image[0], groups):
        return
    layer = GroupNorm(groups, image[1], norm.eps, affine=False)
    made = importer.emit(item, layer, [replace(y, data=before.inputs[0])])
    names = importer.given[made.data or ""], importer.given[y.data or ""]  # the latter is needed no more
    names[0].name, names[1].name = names[1].name, names[0].name


#: called after the operator has become an `Operation`
FINISHERS: dict[str, Callable[[Importer, Item, Operands], None]] = {"Reshape": _group_norm_written_out}

Builder = Callable[["Importer", "Item", Operands], bool]

BUILDERS: dict[str, Builder] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    **dict.fromkeys(("Sub", "Div"), _affine),
    "Mul": _multiply,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Cast": _cast,
    "Pow": _power,
    **dict.fromkeys(("Max", "Min"), _extreme),
    "Gather": _gather,
    "Clip": _clip,
    "PRelu": _prelu,
    "Identity": _identity,
    "Dropout": _dropout,
    **dict.fromkeys(ACTIVATIONS, _activation),
}

"""Rewrites of a graph for inference: each merges nodes into an earlier one and leaves the result the same.

All arithmetic on weights is done in float64. The passes copy what they change, so a program is a snapshot of the model.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from ..layers.activation import _Activation
from ..layers.base import Array, Layer, Shape
from ..layers.container import Flatten, Identity
from ..layers.dropout import Dropout, DropSamples
from ..layers.function import Add
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import _BatchNorm
from ..layers.preprocess import Normalize, Project
from .graph import Fork, Graph, Node, Value

__all__ = ["optimise"]

_WEIGHTED = (Conv1d, Conv2d, ConvTranspose2d, Linear)


def optimise(graph: Graph, dtype: np.dtype[Any]) -> Graph:
    """Drop what does nothing at inference, fold batch norm and preprocessing, fuse residual sums and activations."""
    _snapshot(graph, dtype)
    _drop_identities(graph)
    for merge in (_fold_batch_norm, _fuse_residual, _fuse_activation):
        _merge_all(graph, merge)
    _fold_preprocessing(graph)
    return graph


def _snapshot(graph: Graph, dtype: np.dtype[Any]) -> None:
    """Give every node a layer of its own, with copies of the arrays in the dtype of the program."""
    for node in graph.nodes:
        node.layer = copy.copy(node.layer)
        for attribute in (*node.layer.parameters, *node.layer.statistics):
            value = getattr(node.layer, attribute)
            if value is not None:
                value = np.array(value, dtype if value.dtype.kind == "f" else value.dtype, order="C")
            node.arrays[attribute] = value
            setattr(node.layer, attribute, value)


def _drop_identities(graph: Graph) -> None:
    same: dict[Value, Value] = {}
    kept = []
    for node in graph.nodes:
        node.inputs = [same.get(value, value) for value in node.inputs]
        if isinstance(node.layer, (Fork, Identity, Dropout, DropSamples)) and not node.layer.host:
            same.update(zip(node.outputs, node.inputs, strict=True))
        else:
            kept.append(node)
    graph.nodes = kept
    graph.outputs = [same.get(value, value) for value in graph.outputs]


def _merge_all(graph: Graph, merge: object) -> None:
    """Offer every node with the nodes before it to ``merge``, which returns the node that swallowed it, or None."""
    consumers = graph.consumers()
    before: dict[Value, Node] = {}
    order: dict[Value, int] = dict.fromkeys(graph.inputs, -1)
    kept: list[Node] = []
    for node in graph.nodes:
        # A value that only this node reads may be overwritten by what this node makes of it.
        private = {v: before[v] for v in node.inputs if v in before and consumers[v] == 1}
        into: Node | None = merge(node, private, order)  # type: ignore[operator]
        if into is None:
            kept.append(node)
            into = node
            order.update(dict.fromkeys(node.outputs, len(order)))
        else:
            order[node.output] = order[into.output]
            into.outputs = node.outputs
            into.merged.append(node.layer.label())
        before.update(dict.fromkeys(into.outputs, into))
    graph.nodes = kept


def _fold_batch_norm(node: Node, private: dict[Value, Node], order: dict[Value, int]) -> Node | None:
    """conv or linear, then batch norm: scale = gamma / sqrt(var + eps); w *= scale; b = (b - mean) scale + beta."""
    if not isinstance(node.layer, _BatchNorm):
        return None
    into = private.get(node.inputs[0])
    if into is None or not isinstance(into.layer, _WEIGHTED):
        return None
    weight, bias = into.arrays["weight"], into.arrays["bias"]
    mean, var = node.arrays["running_mean"], node.arrays["running_var"]
    gamma, beta = node.arrays["weight"], node.arrays["bias"]
    assert weight is not None and mean is not None and var is not None
    scale = 1.0 / np.sqrt(var.astype(np.float64) + node.layer.eps)
    if gamma is not None:
        scale *= gamma
    shift = -mean * scale if bias is None else (bias.astype(np.float64) - mean) * scale
    if beta is not None:
        shift += beta
    into.arrays["weight"] = (weight * _per_output(into.layer, scale, weight.shape)).astype(weight.dtype)
    into.arrays["bias"] = shift.astype(weight.dtype)
    return into


def _per_output(layer: Layer, scale: Array, shape: Shape) -> Array:
    """A number for each output as an array that multiplies the weight."""
    if not isinstance(layer, ConvTranspose2d):
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    c, o = shape[:2]  # in each group of the c inputs the same o outputs
    return np.repeat(scale.reshape(layer.groups, o), c // layer.groups, axis=0).reshape(c, o, 1, 1)


def _fuse_residual(node: Node, private: dict[Value, Node], order: dict[Value, int]) -> Node | None:
    """A sum whose one side is a convolution that comes after the other side: the convolution adds it."""
    if not isinstance(node.layer, Add) or node.inputs[0] is node.inputs[1]:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        into = private.get(value)
        if (
            into is not None
            and isinstance(into.layer, Conv2d)
            and into.residual is None
            and order[other] < order[value]
        ):
            into.residual = other
            return into
    return None


def _fuse_activation(node: Node, private: dict[Value, Node], order: dict[Value, int]) -> Node | None:
    """An activation after a node whose kernel ends with one."""
    if not isinstance(node.layer, _Activation):
        return None
    into = private.get(node.inputs[0])
    if into is None or into.activation is not None:
        return None
    if not isinstance(into.layer, (*_WEIGHTED, Add, _BatchNorm)):
        return None
    into.activation = node.layer.fused()
    return into


# ---- preprocessing, which lies before the weights that it goes into ----


def _fold_preprocessing(graph: Graph) -> None:
    """Normalize and Project into the one layer that reads them, through Flatten; from the last to the first."""
    for node in reversed(list(graph.nodes)):
        if not isinstance(node.layer, (Normalize, Project)) or node.activation is not None:
            continue
        reader = _only_reader(graph, node)
        flatten = reader if reader is not None and isinstance(reader.layer, Flatten) else None
        if flatten is not None:
            reader = _only_reader(graph, flatten)
        if reader is None or not _folded(node, reader, flatten):
            continue
        reader.merged.insert(0, node.layer.label())
        given = node.inputs[0]
        if (
            isinstance(node.layer, Project)
            and isinstance(reader.layer, Linear)
            and len(given.shape) > 2
            and not flatten
        ):
            # Of the projection remains that it takes rows of any shape.
            node.layer, node.arrays = Flatten(), {}
            node.outputs = reader.inputs = [Value((given.shape[0], math.prod(given.shape[1:])))]
            continue
        (reader if flatten is None else flatten).inputs = [given]
        graph.nodes.remove(node)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    """The node that alone reads the output of this one, and as its only input."""
    readers = [other for other in graph.nodes if node.output in other.reads()]
    if len(readers) != 1 or node.output in graph.outputs or readers[0].reads().count(node.output) != 1:
        return None
    return readers[0] if readers[0].inputs == [node.output] else None


def _folded(node: Node, reader: Node, flatten: Node | None) -> bool:
    """Put y = matrix (x - mean) / std into the weights of what reads y; False where that is another function."""
    layer = reader.layer
    if not isinstance(layer, (Linear, Project, Conv1d, Conv2d)):
        return False
    name = "matrix" if isinstance(layer, Project) else "weight"
    weight, bias = reader.arrays[name], reader.arrays["bias"]
    assert weight is not None
    if isinstance(layer, Linear) and flatten is None and len(node.output.shape) > 2:
        return False  # it reads the last axis alone
    if isinstance(node.layer, Project):
        matrix, own = node.arrays["matrix"], node.arrays["bias"]
        assert matrix is not None
        (o, k), d = weight.shape[:2], matrix.shape[1]
        # Few directions read by many outputs are cheaper as two products.
        if not isinstance(layer, (Linear, Project)) or o * d > k * d + o * k:
            return False
        changed = weight.astype(np.float64) @ matrix
        shift = None if own is None else weight @ own.astype(np.float64)
        _store(reader, name, changed, bias, shift)
        return True
    mean, var = node.arrays["mean"], node.arrays["var"]
    assert mean is not None and var is not None
    scale = 1.0 / np.sqrt(var.astype(np.float64))
    wide = weight.astype(np.float64)
    if isinstance(layer, (Linear, Project)):
        row = node.inputs[0].shape[1:]
        form = (-1, *[1] * (len(row) - 1)) if mean.ndim == 1 else mean.shape
        scales, means = (np.broadcast_to(a.reshape(form), row).reshape(-1) for a in (scale, mean))
        changed = wide * scales
        _store(reader, name, changed, bias, -(changed @ means))
        return True
    padded = bool(np.any(layer.padding))
    if flatten is not None or mean.ndim != 1 or (padded and mean.any()):
        return False  # zeros around the image are zeros after the mean is subtracted, not before
    per_input = (layer.groups, 1, -1, *[1] * (wide.ndim - 2))  # the C / groups inputs of each group's outputs
    grouped = (layer.groups, -1, *wide.shape[1:])
    changed = (wide.reshape(grouped) * scale.reshape(per_input)).reshape(wide.shape)
    shift = (changed.reshape(grouped) * mean.reshape(per_input)).sum(tuple(range(2, wide.ndim + 1))).reshape(-1)
    _store(reader, name, changed, bias, None if padded else -shift)
    return True


def _store(node: Node, name: str, weight: Array, bias: Array | None, shift: Array | None) -> None:
    """Give a node new weights, and a bias that is shifted."""
    dtype = np.result_type(*(a.dtype for a in node.arrays.values() if a is not None))
    arrays: dict[str, Array | None] = {name: np.ascontiguousarray(weight, dtype)}
    if shift is not None:
        arrays["bias"] = (shift if bias is None else bias + shift).astype(dtype)
    for key, array in arrays.items():
        node.arrays[key] = array
        setattr(node.layer, key, array)

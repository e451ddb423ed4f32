"""Convolutions that one kernel computes together, where the instruction set has it: inverted residuals.

The graph of a program stays as it is; a plan for shapes and an instruction set takes the nodes that are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..layers.base import Layer
from ..layers.linear import Conv2d
from .graph import Graph, Node

if TYPE_CHECKING:
    from ..layers.base import Array, Shape

__all__ = ["InvertedResidual", "fused"]

_ONE = (1, 1)


class InvertedResidual(Layer):
    """Two or three convolutions in a row: 1x1 (or none), depthwise, 1x1; what `fastnn.functional` computes in one."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def depthwise(self) -> Conv2d:
        """The convolution that has stride and padding."""
        layer = self.nodes[-2].layer
        assert isinstance(layer, Conv2d)
        return layer

    def pairs(self) -> list[tuple[Array, Array | None]]:
        """Weight and bias of each."""
        found = []
        for node in self.nodes:
            weight = node.arrays["weight"]
            assert weight is not None
            found.append((weight, node.arrays["bias"]))
        return found

    def activations(self) -> tuple[Any, Any, Any]:
        """What each of three ends in."""
        ends = [node.activation for node in self.nodes]
        return (None, *ends) if len(ends) == 2 else tuple(ends)  # type: ignore[return-value]

    def label(self) -> str:
        """Return the layers, one after the other."""
        return " + ".join(" + ".join([node.layer.label(), *node.merged]) for node in self.nodes)

    def multiply_adds(self, *input_shapes: Shape) -> int:
        """Return the sum over the convolutions."""
        total, (shape,) = 0, input_shapes
        for node in self.nodes:
            total += node.layer.multiply_adds(shape)
            shape = node.layer.output_shape(shape)
        return total


def _is_point(node: Node | None) -> bool:
    """A 1x1 convolution of single pixels."""
    if node is None or not isinstance(node.layer, Conv2d):
        return False
    layer = node.layer
    simple = layer.stride == _ONE and layer.padding == (0, 0) and layer.groups == 1
    return simple and layer.weight.shape[2:] == _ONE


def _is_depthwise(node: Node | None) -> bool:
    if node is None or not isinstance(node.layer, Conv2d) or node.residual is not None:
        return False
    layer = node.layer
    return layer.groups == layer.weight.shape[0] > 1 and layer.weight.shape[1] == 1 and layer.dilation == _ONE


def fused(graph: Graph, taken: Callable[[InvertedResidual, Node, Node], bool]) -> list[Node]:
    """The nodes of the graph, with one for each inverted residual that is ``taken``, given its first and last node."""
    consumers = graph.consumers()
    makers = {value: node for node in graph.nodes for value in node.outputs}

    def before(node: Node) -> Node | None:
        value = node.inputs[0]
        return makers.get(value) if consumers[value] == 1 else None

    gone: set[int] = set()
    made: dict[int, Node] = {}
    for node in graph.nodes:
        if not _is_point(node):
            continue
        depthwise = before(node)
        if depthwise is None or not _is_depthwise(depthwise):
            continue
        first = before(depthwise)
        chain = [depthwise, node]
        # In depthwise separable convolutions in a row it is already the last of those before.
        if first is not None and _is_point(first) and first.residual is None and id(first) not in made:
            chain.insert(0, first)
        layer = InvertedResidual(chain)
        if not taken(layer, chain[0], node):
            continue
        gone.update(map(id, chain[:-1]))
        arrays = {f"{i}.{key}": array for i, one in enumerate(chain) for key, array in one.arrays.items()}
        made[id(node)] = Node(node.name, layer, chain[0].inputs, node.outputs, arrays, residual=node.residual)
    return [made.get(id(node), node) for node in graph.nodes if id(node) not in gone]

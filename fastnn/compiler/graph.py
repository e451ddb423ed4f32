"""A network as data: what layers' ``trace`` builds, what the passes rewrite and programs are planned from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..functional import Activation
    from ..layers.base import Array, Layer, Shape

__all__ = ["Builder", "Graph", "Node", "UntraceableError", "Value", "trace"]


class UntraceableError(TypeError):
    """A layer does not say what it is, so the model runs by its closures only."""


@dataclass(eq=False)
class Value:
    """An array that flows between nodes; compared by identity."""

    shape: Shape


@dataclass(eq=False)
class Node:
    """One leaf layer at one place of the network, and what the passes have merged into it.

    weight and bias are copies that folding may change; arrays of the layer itself are never touched.
    """

    name: str
    layer: Layer
    inputs: list[Value]
    output: Value
    arrays: dict[str, Array | None] = field(default_factory=dict)
    activation: Activation = None
    residual: Value | None = None
    merged: list[str] = field(default_factory=list)

    def reads(self) -> list[Value]:
        """Return every value that the node needs."""
        return self.inputs if self.residual is None else [*self.inputs, self.residual]


@dataclass
class Graph:
    """Nodes in an order in which they can run."""

    input: Value
    output: Value
    nodes: list[Node]

    def consumers(self) -> dict[Value, int]:
        """Return how many times each value is read; the network's output counts once more."""
        counts = {self.input: 0, self.output: 0}
        for node in self.nodes:
            counts.setdefault(node.output, 0)
            for value in node.reads():
                counts[value] = counts.get(value, 0) + 1
        counts[self.output] += 1
        return counts


class Builder:
    """What a layer's ``trace(builder, x)`` talks to."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._names: list[str] = []

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()

    def trace(self, name: str, layer: Layer, x: Value) -> Value:
        """Trace a layer inside a container, under its name."""
        _require_trace(name, layer)
        with self._named(name):
            return layer.trace(self, x)

    def add(self, layer: Layer, *inputs: Value) -> Value:
        """Add a leaf of fastnn's own that reads ``inputs``; return its output."""
        name = ".".join(filter(None, self._names))
        if any(_computes(cls) for cls in type(layer).__mro__):
            raise UntraceableError(
                f"layer {name!r}: {type(layer).__name__} computes in Python; trace() can only combine fastnn's layers"
            )
        output = Value(layer.output_shape(*(value.shape for value in inputs)))
        self.nodes.append(Node(name, layer, list(inputs), output))
        return output


def _computes(cls: type) -> bool:
    """Whether a class that is not fastnn's says itself what it computes."""
    ours = cls.__module__.startswith("fastnn.layers.") or cls is object
    return not ours and ("__call__" in vars(cls) or "forward" in vars(cls))


def _require_trace(name: str, layer: Layer) -> None:
    # A class that computes something else than the class that wrote trace() would be compiled into another network.
    for cls in type(layer).__mro__:
        if "trace" in vars(cls):
            return
        if _computes(cls):
            raise UntraceableError(f"layer {name!r}: {type(layer).__name__} does not define trace()")


def _inside(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    yield name, layer
    for part, child in layer.children():
        yield from _inside(child, f"{name}.{part}" if name else part)


def trace(model: Layer, input_shape: Shape) -> Graph:
    """Return the graph of ``model`` for inputs of ``input_shape``; raise `ShapeError` or `UntraceableError`."""
    for name, layer in _inside(model):  # before the shapes, which a layer that is not traced need not tell
        _require_trace(name, layer)
    builder = Builder()
    x = Value(tuple(input_shape))
    model.output_shape(x.shape)
    output = builder.trace("", model, x)
    return Graph(x, output, builder.nodes)

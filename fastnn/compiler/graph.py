"""A network as data: what layers' ``trace`` builds, what the passes rewrite and programs are planned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ShapeError
from ..layers.base import Layer, shapes

if TYPE_CHECKING:
    from ..functional import Activation
    from ..layers.base import Array, Backward, Shape

__all__ = ["Builder", "Fork", "Graph", "Node", "UntraceableError", "Value", "trace"]


class UntraceableError(TypeError):
    """A layer does not say what it is, so the model runs by its closures only."""


@dataclass(eq=False)
class Value:
    """An array that flows between nodes; compared by identity."""

    shape: Shape
    #: its shape for a batch twice as large, where the network takes such a one
    twice: Shape | None = None


@dataclass(eq=False)
class Node:
    """One leaf layer at one place of the network, and what the passes have merged into it.

    weight and bias are copies that folding may change; arrays of the layer itself are never touched.
    """

    name: str
    layer: Layer
    inputs: list[Value]
    outputs: list[Value]
    arrays: dict[str, Array | None] = field(default_factory=dict)
    activation: Activation = None
    residual: Value | None = None
    merged: list[str] = field(default_factory=list)

    @property
    def output(self) -> Value:
        """The first output; of most layers there is no other."""
        return self.outputs[0]

    def reads(self) -> list[Value]:
        """Return every value that the node needs."""
        return self.inputs if self.residual is None else [*self.inputs, self.residual]


@dataclass
class Graph:
    """Nodes in an order in which they can run."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]

    def consumers(self) -> dict[Value, int]:
        """Return how many times each value is read; to be an output of the network counts once more."""
        counts = dict.fromkeys(self.inputs, 0)
        for node in self.nodes:
            counts |= dict.fromkeys(node.outputs, 0)
            for value in node.reads():
                counts[value] += 1
        for value in self.outputs:
            counts[value] += 1
        return counts


class Fork(Layer):
    """What a container reads, as it is: the place where the gradients of its layers are summed before they leave it.

    Without it a recorded step would add them to what other readers of the same value give, one by one: another order
    of the same sum, and other bits than the closures give.
    """

    def forward(self, *xs: Array, rng: Any = None) -> tuple[Any, Backward]:  # type: ignore[override]
        return xs if len(xs) != 1 else xs[0], lambda *dys: dys


class Builder:
    """What a layer's ``trace(builder, x)`` talks to."""

    def __init__(self, host: bool = False) -> None:
        self.nodes: list[Node] = []
        self._names: list[str] = []
        #: whether layers that compute in Python may be nodes
        self._host = host

    @property
    def inference(self) -> bool:
        """Whether a program for inference is made, not a training step."""
        return self._host

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()

    def trace(self, name: str, layer: Layer, *xs: Value) -> Any:
        """Trace a layer inside a container, under its name; return its output, or a tuple of several."""
        _require_trace(name, layer)
        with self._named(name):
            if next(layer.children(), None) is not None and xs:
                inside = [Value(x.shape, x.twice) for x in xs]
                self.nodes.append(Node(name, Fork(), list(xs), inside))
                xs = tuple(inside)
            return layer.trace(self, *xs)

    def add(self, layer: Layer, *inputs: Value) -> Any:
        """Add a leaf of fastnn's own that reads ``inputs``; return its output, or a tuple of several."""
        name = ".".join(filter(None, self._names))
        if any(_computes(cls) for cls in type(layer).__mro__):
            raise UntraceableError(
                f"layer {name!r}: {type(layer).__name__} computes in Python; trace() can only combine fastnn's layers"
            )
        if (layer.host or layer.host_backward) and not self._host:
            raise UntraceableError(
                f"layer {name!r}: {layer.label()} computes {'' if layer.host else 'its gradient '}in NumPy"
            )
        shape: Any = layer.output_shape(*(value.shape for value in inputs))
        outputs = [Value(one) for one in shapes(shape)]
        twice = [value.twice for value in inputs]
        if self._host and None not in twice:
            with suppress(ShapeError):
                for value, more in zip(outputs, shapes(layer.output_shape(*twice)), strict=True):  # type: ignore[arg-type]
                    value.twice = more
        self.nodes.append(Node(name, layer, list(inputs), outputs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _computes(cls: type) -> bool:
    """Whether a class that is not fastnn's says itself what it computes."""
    ours = cls.__module__.startswith(("fastnn.layers.", "fastnn.onnx.")) or cls is object
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


def trace(model: Layer, input_shapes: Sequence[Shape], *, host: bool = False) -> Graph:
    """Return the graph of ``model`` for inputs of these shapes; raise `ShapeError` or `UntraceableError`.

    host: take layers that compute in Python, of which an inference program runs the rest and no training step is made.
    """
    for name, layer in _inside(model):  # before the shapes, which a layer that is not traced need not tell
        _require_trace(name, layer)
    builder = Builder(host)
    xs = [Value(tuple(shape), (*(2 * n for n in shape[:1]), *shape[1:])) for shape in input_shapes]
    model.output_shape(*(x.shape for x in xs))
    output = builder.trace("", model, *xs)
    return Graph(xs, list(output) if isinstance(output, tuple) else [output], builder.nodes)

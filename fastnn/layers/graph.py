"""`Graph`: layers wired by names into any network without cycles.

The wiring is checked and put into an order that can run once, at construction; a run is one pass over that order, in
which each value is dropped after its last reader. compiler/ sees the same nodes through ``trace``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError, TooLargeError
from ..random import RNG, as_stream
from .base import Backward, Layer, Shape, _some, unchanged_on_error
from .container import _Container

__all__ = ["Graph", "Node"]


class Node:
    """One layer of a `Graph`: its name, what it reads and what it gives.

    Parameters
    ----------
    name : str
        Names the node in errors and its arrays in ``params``: "block1.conv" has "block1.conv.weight".
    layer : Layer
    *inputs : str
        The names of the values that the layer reads, in the order in which it takes them.
    outputs : sequence of str, optional
        The names of the values that it gives; one, called as the node, when absent.

    Examples
    --------
    >>> from fastnn.layers import Split
    >>> Node("halves", Split([4, 4]), "x", outputs=("left", "right"))
    Node('halves', Split 4, 4, axis 1, 'x', outputs=('left', 'right'))
    """

    __slots__ = ("inputs", "layer", "name", "outputs")

    def __init__(self, name: str, layer: Layer, *inputs: str, outputs: Sequence[str] | None = None) -> None:
        self.name = name
        self.layer = layer
        self.inputs = tuple(inputs)
        self.outputs = (name,) if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)

    def __repr__(self) -> str:
        more = "".join(f", {name!r}" for name in self.inputs)
        more += f", outputs={self.outputs!r}" if self.outputs != (self.name,) else ""
        return f"Node({self.name!r}, {self.layer.label()}{more})"


class _Step(NamedTuple):
    """A node with the places of its values in the list of all; ``dead`` are those that nothing reads any more."""

    node: Node
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    dead: tuple[int, ...]


class Graph(_Container):
    """Any network without cycles: each node reads values by name and gives values by name.

    A value may be read by any number of nodes (their gradients are summed), a layer may stand in several nodes (its
    gradients gather), and a node may take and give several values. The layers of `Add`, `Mul`, `Join`, `Split`,
    `Reshape`, `Constant` and `Parameter` are joints without further ado.

    Parameters
    ----------
    *nodes : (str, Layer, str, ...) or Node
        A name, a layer and the names of the values that it reads; what it gives is called as the node. A `Node`
        where it gives several. In any order.
    inputs : str or sequence of str
        Names of the graph's own inputs.
    outputs : str or sequence of str, optional
        The values that the graph gives: an array for one, a tuple of them for several. What the last node gives, when
        absent.

    Raises
    ------
    ValueError
        Where a name is unknown or given twice, nodes form a cycle, or nothing needs what a node gives.

    Examples
    --------
    A network with a skip connection:

    >>> from fastnn.layers import Conv2d, Join, MaxPool2d, ReLU
    >>> net = Graph(
    ...     ("conv", Conv2d(1, 2, 3, padding=1, rng=0), "x"),
    ...     ("act", ReLU(), "conv"),
    ...     ("joined", Join(), "act", "x"),
    ...     ("scores", Conv2d(3, 1, 1, rng=0), "joined"),
    ... )
    >>> net(np.zeros((2, 1, 4, 4), np.float32)).shape
    (2, 1, 4, 4)
    >>> sorted(net.params)
    ['conv.bias', 'conv.weight', 'scores.bias', 'scores.weight']

    Two inputs and two outputs; `forward`, ``backward`` and programs take and give as many:

    >>> from fastnn.layers import Linear
    >>> net = Graph(
    ...     ("body", Join(), "a", "b"),
    ...     ("left", Linear(5, 1, rng=0), "body"),
    ...     ("right", Linear(5, 2, rng=0), "body"),
    ...     inputs=("a", "b"),
    ...     outputs=("left", "right"),
    ... )
    >>> (left, right), backward = net.forward(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    >>> da, db = backward(left, right)
    >>> da.shape, db.shape
    ((4, 3), (4, 2))
    """

    dotted = True

    def __init__(
        self,
        *nodes: Node | tuple[Any, ...],
        inputs: str | Sequence[str] = "x",
        outputs: str | Sequence[str] | None = None,
    ) -> None:
        every = [node if isinstance(node, Node) else Node(*node) for node in nodes]
        if outputs is None and not every:
            raise ValueError("Graph: needs at least one node, or the names of its outputs")
        given = every[-1].outputs if outputs is None else outputs
        self.inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self.outputs = (given,) if isinstance(given, str) else tuple(given)
        _refuse_twice([node.name for node in every], "two nodes are called {}")
        super().__init__({node.name: node.layer for node in every})
        _refuse_twice([name for name, _ in self.leaves()], "two layers have the full name {}")
        self.nodes = tuple(_ordered(every, self.inputs, self.outputs))
        self._plan()

    def _plan(self) -> None:
        """Give every value a place, and find its last reader."""
        places = {name: i for i, name in enumerate(self.inputs)}
        for node in self.nodes:
            for name in node.outputs:
                places[name] = len(places)
        self._size = len(places)
        self._results = tuple(places[name] for name in self.outputs)
        kept = set(self._results)
        steps: list[_Step] = []
        for node in reversed(self.nodes):
            reads, writes = (tuple(places[name] for name in names) for names in (node.inputs, node.outputs))
            dead = tuple({*reads, *writes} - kept)
            kept.update(dead)
            steps.append(_Step(node, reads, writes, dead))
        self._steps = tuple(reversed(steps))
        self._grows = any(node.layer.grows for node in self.nodes)
        #: shapes of inputs that were tried before anything was computed of them
        self._tried: set[tuple[Shape, ...]] = set()

    # ---- one pass over the nodes, whatever flows ----

    def _run(self, xs: Sequence[Any], call: Callable[[Node, list[Any]], Any], shape_of: Callable[[Any], Shape]) -> Any:
        if len(xs) != len(self.inputs):
            raise TypeError(f"Graph: expected {len(self.inputs)} inputs ({_some(self.inputs)}), got {len(xs)}")
        values = [*xs, *[None] * (self._size - len(xs))]
        for step in self._steps:
            given = [values[i] for i in step.reads]
            try:
                y = call(step.node, given)
                if len(step.writes) == 1:
                    values[step.writes[0]] = y
                else:
                    for i, part in zip(step.writes, y, strict=True):
                        values[i] = part
                        del part
            except Exception as error:
                raise self._explained(error, step.node, [shape_of(x) for x in given]) from None
            del y, given
            for i in step.dead:
                values[i] = None
        results = tuple(values[i] for i in self._results)
        return results if len(results) != 1 else results[0]

    def _explained(self, error: Exception, node: Node, shapes: list[Shape]) -> Exception:
        """The error of a node, with its name."""
        if not isinstance(error, ShapeError):
            error.add_note(f"in node {node.name!r} ({node.layer.label()}), which reads {_reads(node, shapes)}")
            return error
        if not error.path:
            try:
                node.layer.output_shape(*shapes)
            except ShapeError as own:  # in the layer's own words, where it has some
                error = own
            except TypeError:
                pass
        return error.located(node.name, node.layer.label(), f"it reads {_reads(node, shapes)}")

    def _foresee(self, xs: Sequence[Any]) -> None:
        """Raise where a layer would make more than it may, before those in front of it have worked up to there."""
        if not self._grows:
            return
        given = tuple(map(np.shape, xs))
        if given in self._tried:
            return

        def shape(node: Node, shapes: list[Any]) -> Any:
            unknown = (None,) * len(node.outputs) if len(node.outputs) > 1 else None
            if None in shapes:
                return unknown
            try:
                return node.layer.output_shape(*shapes)
            except TooLargeError:
                raise
            except Exception:  # it may depend on the numbers, or is an error that the layer itself tells
                return unknown

        self._run(given, shape, tuple)
        if len(self._tried) < 64:
            self._tried.add(given)

    def __call__(self, *xs: ArrayLike) -> Any:
        self._foresee(xs)
        return self._run(xs, lambda node, given: node.layer(*given), np.shape)

    def forward(self, *xs: ArrayLike, rng: RNG = None) -> tuple[Any, Backward]:  # type: ignore[override]
        if len(xs) == len(self.inputs) + 1 and rng is None:  # forward(x, rng), as of any layer
            *xs, rng = xs  # type: ignore[assignment]
        self._foresee(xs)
        stream = as_stream(rng)
        backwards: list[Backward] = []

        def call(node: Node, given: list[Any]) -> Any:
            forward: Callable[..., tuple[Any, Backward]] = node.layer.forward
            y, backward = forward(*given, rng=stream)
            backwards.append(backward)
            return y

        with unchanged_on_error(self, rng):
            y = self._run(xs, call, np.shape)
        shapes = [(np.shape(x), np.result_type(getattr(x, "dtype", np.float32), np.float32)) for x in xs]
        return y, lambda *dys: self._backward(backwards, shapes, dys)

    def _backward(self, backwards: list[Backward], shapes: list[tuple[Shape, Any]], dys: tuple[Any, ...]) -> Any:
        """From the last node to the first; what several nodes read gathers the sum, in that order."""
        if len(dys) != len(self.outputs):
            names = _some(self.outputs)
            raise TypeError(f"Graph: backward expected {len(self.outputs)} gradients ({names}), got {len(dys)}")
        gradients: list[Any] = [None] * self._size
        for i, dy in zip(self._results, dys, strict=True):
            gradients[i] = dy
        for step, backward in zip(reversed(self._steps), reversed(backwards), strict=True):
            parts = [gradients[i] for i in step.writes]
            for i in step.writes:
                gradients[i] = None
            if all(part is None for part in parts):
                continue
            try:
                dxs = backward(*parts)
                dxs = dxs if isinstance(dxs, (tuple, list)) else (dxs,)
                if len(dxs) != len(step.reads):
                    raise TypeError(f"its backward pass gives {len(dxs)} gradients for {len(step.reads)} inputs")
                for i, dx in zip(step.reads, dxs, strict=True):
                    if dx is not None:
                        gradients[i] = dx if gradients[i] is None else F.add(gradients[i], dx)
            except Exception as error:
                error.add_note(f"in the backward pass of node {step.node.name!r} ({step.node.layer.label()})")
                raise
            del parts, dxs
        results = [np.zeros(*s) if dx is None else dx for dx, s in zip(gradients, shapes, strict=False)]
        return tuple(results) if len(results) != 1 else results[0]

    def trace(self, builder: Any, *xs: Any) -> Any:
        return self._run(xs, lambda node, given: builder.trace(node.name, node.layer, *given), lambda x: x.shape)

    def output_shape(self, *shapes: Shape) -> Any:
        return self._run(shapes, lambda node, given: node.layer.output_shape(*given), tuple)

    def _rows(self, name: str, *shapes: Shape) -> Iterator[tuple[str, str, Shape, int]]:
        rows: list[tuple[str, str, Shape, int]] = []

        def call(node: Node, given: list[Shape]) -> Any:
            rows.extend(node.layer._rows(f"{name}.{node.name}" if name else node.name, *given))
            return node.layer.output_shape(*given)

        self._run(shapes, call, tuple)
        return iter(rows)


def _reads(node: Node, shapes: list[Shape]) -> str:
    return _some([f"{name!r} {shape}" for name, shape in zip(node.inputs, shapes, strict=True)]) or "nothing"


# ---- the wiring ----


def _refuse_twice(names: Sequence[str], words: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"Graph: {words.format(repr(name))}")
        seen.add(name)


def _ordered(nodes: list[Node], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> list[Node]:
    """The nodes in an order in which they can run: the given one, as far as it can; raise where there is none."""
    makers: dict[str, Node | None] = dict.fromkeys(inputs)
    _refuse_twice(inputs, "two inputs are called {}")
    if not outputs:
        raise ValueError("Graph: names no output")
    for node in nodes:
        if not node.outputs:
            raise ValueError(f"Graph: node {node.name!r} gives nothing")
        for name in node.outputs:
            if name in makers:
                other = makers[name]
                by = "is an input of the graph too" if other is None else f"comes from node {other.name!r} too"
                raise ValueError(f"Graph: value {name!r} of node {node.name!r} {by}")
            makers[name] = node
    _refuse_twice(outputs, "the output {} is named twice")
    for reader, name in [(f"node {n.name!r} reads", i) for n in nodes for i in n.inputs] + [
        ("its outputs name", name) for name in outputs
    ]:
        if name not in makers:
            raise ValueError(f"Graph: {reader} {name!r}, which nothing gives{_similar(name, makers)}")

    # Depth first, without recursion: networks are deeper than Python's stack.
    order: list[Node] = []
    state: dict[str, bool] = {}  # False: on the path from the first node to here; True: done
    for first in nodes:
        path = [(first, _before(first, makers))] if first.name not in state else []
        while path:
            node, before = path[-1]
            state[node.name] = False
            following = next(before, None)
            if following is None:
                path.pop()
                state[node.name] = True
                order.append(node)
            elif state.get(following.name) is False:
                names = [n.name for n, _ in path]
                circle = [*names[names.index(following.name) :], following.name]
                raise ValueError(f"Graph: the nodes form a cycle: {' <- '.join(map(repr, circle))}")
            elif following.name not in state:
                path.append((following, _before(following, makers)))
    needed = set(outputs)
    dead = []
    for node in reversed(order):
        if needed.isdisjoint(node.outputs):
            dead.append(node.name)
        else:
            needed.update(node.inputs)
    if dead:
        useless = _some([*map(repr, reversed(dead))])
        raise ValueError(f"Graph: no output needs {useless}; leave them out, or name what they give in outputs")
    return order


def _before(node: Node, makers: dict[str, Node | None]) -> Iterator[Node]:
    return iter([maker for name in node.inputs if (maker := makers[name]) is not None])


def _similar(name: str, names: Any) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, names, 1)
    return f"; did you mean {found[0]!r}?" if found else ""

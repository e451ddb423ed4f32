"""A training step as a program: forward, loss, backward and optimizer recorded once over one arena.

The recording calls the layers' own ``forward`` and the closures that they return, in the order in which a container
would: a program computes what the closures compute, bit for bit. A batch norm, the sum of a residual block and a ReLU
that follow each other are one pass over memory there. What varies from step to step stands in memory that
the program reads: batches, the optimizer's settings, and the keys under which dropout draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import functional as F
from ..compiler.graph import Graph, Node, Value
from ..layers.activation import ReLU
from ..layers.base import Array, Layer
from ..layers.function import Add
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import BatchNorm1d, BatchNorm2d, _BatchNorm
from ..losses import Known
from ..optim import Optimizer
from ..random import Stream
from .buffers import Parameters

__all__ = ["StepProgram"]


class _RecordedStream(Stream):
    """A stream whose keys stay where they are, so that the next step can write its own into them."""

    def __init__(self, seed: int, program: Any) -> None:
        super().__init__(seed)
        self._program = program
        self.keys: list[Array] = []

    def key(self) -> Array:
        key = super().key()
        self._program.constant(key)
        self.keys.append(key)
        return key


class StepProgram:
    """One recorded step for one shape of batch."""

    def __init__(
        self,
        core: Any,
        graph: Graph,
        loss: Known,
        parameters: Parameters,
        optimizer: Optimizer,
        seed: int,
        xs: tuple[Array, ...],
        labels: Array,
        sample_weight: Array | None,
    ) -> None:
        program = self._program = core.Program()
        stream = _RecordedStream(seed, program)
        with program:
            for array in (*parameters.arrays(), optimizer.hyper(), *loss.arrays):
                program.constant(array)
            for node in graph.nodes:
                for attribute in node.layer.statistics:
                    program.constant(getattr(node.layer, attribute))
            inputs = [program.input(x.shape, x.dtype, F._prefers_channels_last(x)) for x in xs]
            target = program.input(labels.shape, labels.dtype)
            weights = None if sample_weight is None else program.input(sample_weight.shape, sample_weight.dtype)
            groups = _groups(graph)
            scores, backwards = _forward(graph, groups, inputs, stream)
            value, dscores = loss(scores, target, weights)
            core.copy(value, False, program.output(value.shape, value.dtype))
            core.copy(scores, False, program.output(scores.shape, scores.dtype))
            self.scores_shape, self._dtype = scores.shape, scores.dtype
            del scores, value
            gradients = _Gradients(core, [node.layer for node in graph.nodes])
            try:
                _backward(groups, backwards, {graph.outputs[0]: dscores}, gradients)
            finally:
                gradients.finish()
            del dscores
            parameters.update(optimizer)
        self._keys = stream.keys

    def run(self, step: int, *batch: Array) -> tuple[float, Array]:
        """Run the step numbered ``step`` on a batch of the recorded shapes; return the loss and the scores."""
        for layer, key in enumerate(self._keys):
            key[1] = layer << 32 | (step & 0xFFFFFFFF)
        loss, scores = np.empty(1, np.float64), np.empty(self.scores_shape, self._dtype)
        self._program.run(batch, (loss, scores))
        return float(loss[0]), scores


@dataclass
class _Group:
    """Nodes that run as one: a batch norm, a sum and a ReLU, or two of these in this order; else a node alone."""

    nodes: list[Node]

    @property
    def inputs(self) -> list[Value]:
        """What is read from outside, in order: for a batch norm with a sum its x, then the other addend."""
        made = {value for node in self.nodes for value in node.outputs}
        return [value for node in self.nodes for value in node.inputs if value not in made]

    @property
    def outputs(self) -> list[Value]:
        return self.nodes[-1].outputs

    def forward(self, xs: list[Array], rng: Stream, need_dx: bool) -> tuple[Any, Callable[..., Any]]:
        """What the layers compute one after the other, bit for bit."""
        layer = self.nodes[0].layer
        forward: Callable[..., Any] = layer.forward
        if isinstance(layer, _BatchNorm) and len(self.nodes) > 1:
            residual = xs[1] if len(xs) > 1 else None
            return forward(xs[0], rng, residual=residual, relu=isinstance(self.nodes[-1].layer, ReLU))
        if len(self.nodes) > 1:
            y = F.add(*xs, activation="relu")

            def backward(dy: Array) -> tuple[Array, Array]:
                dx = F.relu_backward(dy, y)
                return dx, dx

            return y, backward
        knows = isinstance(layer, (Conv1d, Conv2d, ConvTranspose2d, Linear))
        return forward(*xs, rng=rng, **({} if need_dx or not knows else {"need_dx": False}))


def _groups(graph: Graph) -> list[_Group]:
    """The nodes of a graph, those that are read once by a follower that can do their work joined with it."""
    left = graph.consumers()
    groups: list[_Group] = []
    made: dict[Value, _Group] = {}  # by the last node
    for node in graph.nodes:
        group = _Group([node])
        before = [made[value] for value in node.inputs if value in made and left[value] == 1]
        if type(node.layer) is ReLU:
            fitting = [b for b in before if type(b.nodes[-1].layer) is Add or _normalises(b)]
        elif type(node.layer) is Add and node.inputs[0] is not node.inputs[1]:
            fitting = [b for b in before if _normalises(b)][:1]
        else:
            fitting = []
        for joined in fitting:
            groups.remove(joined)
            group = _Group([*joined.nodes, node])
        groups.append(group)
        made[group.outputs[0]] = group
    return groups


def _normalises(group: _Group) -> bool:
    layer = group.nodes[-1].layer
    return isinstance(layer, _BatchNorm) and type(layer).forward is _BatchNorm.forward and not layer.frozen


def _forward(
    graph: Graph, groups: list[_Group], xs: list[Array], stream: Stream
) -> tuple[Array, list[Callable[..., Any] | None]]:
    """Every group's outputs as its layers compute them, and the closures; None where no parameter lies upstream."""
    left = graph.consumers()
    values = dict(zip(graph.inputs, xs, strict=True))
    needed: set[Value] = set()
    backwards: list[Callable[..., Any] | None] = []
    for group in groups:
        trained = any(getattr(node.layer, p) is not None for node in group.nodes for p in node.layer.parameters)
        upstream = any(value in needed for value in group.inputs)
        # From here on the layer's forward says what is kept: the closure holds it, and nothing else does.
        y, backward = group.forward([values[v] for v in group.inputs], stream, not trained or upstream)
        values.update(zip(group.outputs, y if isinstance(y, tuple) else (y,), strict=True))
        del y
        if trained or upstream:
            needed.update(group.outputs)
        backwards.append(backward if trained or upstream else None)
        del backward
        for value in {*group.inputs, *group.outputs}:
            left[value] -= group.inputs.count(value)
            if not left[value]:
                del values[value]
    return values[graph.outputs[0]], backwards


class _Gradients:
    """What gathers the parameters' gradients: zeros are written only where the first kernel to come would add."""

    def __init__(self, core: Any, layers: list[Layer]) -> None:
        self._core = core
        self._left: dict[int, Array] = {}
        for layer in layers:
            for array in self._of(layer):
                self._left[F._address(array)] = array
        F._unwritten.update(address for address, array in self._left.items() if array.size)

    @staticmethod
    def _of(layer: Layer) -> list[Array]:
        return [layer.gradient(name) for name in layer.parameters if getattr(layer, name) is not None]

    def before(self, group: _Group) -> None:
        """Write zeros for layers whose kernels do not ask whether they come first."""
        for node in group.nodes:
            if type(node.layer) not in (Conv2d, Linear, BatchNorm1d, BatchNorm2d):
                self._zero(self._of(node.layer))

    def finish(self) -> None:
        """Write zeros for what has no gradient."""
        self._zero(list(self._left.values()))

    def _zero(self, arrays: list[Array]) -> None:
        for array in arrays:
            address = F._address(array)
            if address in F._unwritten:
                F._unwritten.discard(address)
                self._core.fill(0.0, array)


def _backward(
    groups: list[_Group],
    backwards: list[Callable[..., Any] | None],
    gradients: dict[Value, Array],
    parameters: _Gradients,
) -> None:
    """Run the closures from last to first; each is dropped, with what it holds, when it has run."""
    for group in reversed(groups):
        backward = backwards.pop()
        dys = [gradients.pop(value, None) for value in group.outputs]
        if backward is None or all(dy is None for dy in dys):
            continue
        parameters.before(group)
        dxs = backward(*dys)
        del backward, dys
        for value, dx in zip(group.inputs, dxs if isinstance(dxs, (tuple, list)) else (dxs,), strict=True):
            if dx is not None:
                gradients[value] = F.add(gradients[value], dx) if value in gradients else dx
            del dx
        del dxs
    gradients.clear()


def layers_of(model: Layer) -> list[Layer]:
    """Every layer of a model, containers included, in order."""
    return [model, *(layer for _, child in model.children() for layer in layers_of(child))]

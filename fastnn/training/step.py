"""A training step as a program: forward, loss, backward and optimizer recorded once over one arena.

The recording calls the layers' own ``forward`` and the closures that they return, in the order in which a container
would: a program computes what the closures compute, bit for bit. What varies from step to step stands in memory that
the program reads: batches, the optimizer's settings, and the keys under which dropout draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from ..compiler.graph import Graph, Value
from ..layers.base import Array, Layer
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
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
            for buffer in parameters.buffers:
                core.fill(0.0, buffer.grads)
            scores, backwards = _forward(graph, inputs, stream)
            value, dscores = loss(scores, target, weights)
            core.copy(value, False, program.output(value.shape, value.dtype))
            core.copy(scores, False, program.output(scores.shape, scores.dtype))
            self.scores_shape, self._dtype = scores.shape, scores.dtype
            del scores, value
            _backward(graph, backwards, {graph.outputs[0]: dscores})
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


def _forward(graph: Graph, xs: list[Array], stream: Stream) -> tuple[Array, list[Callable[..., Any] | None]]:
    """Every node's outputs as its layer computes them, and the closures; None where no parameter lies upstream."""
    left = graph.consumers()
    values = dict(zip(graph.inputs, xs, strict=True))
    needed: set[Value] = set()
    backwards: list[Callable[..., Any] | None] = []
    for node in graph.nodes:
        trained = any(getattr(node.layer, p) is not None for p in node.layer.parameters)
        upstream = any(value in needed for value in node.inputs)
        knows = isinstance(node.layer, (Conv1d, Conv2d, ConvTranspose2d, Linear))
        options = {"need_dx": False} if trained and not upstream and knows else {}
        # From here on the layer's forward says what is kept: the closure holds it, and nothing else does.
        forward: Callable[..., Any] = node.layer.forward
        y, backward = forward(*(values[v] for v in node.inputs), rng=stream, **options)
        values.update(zip(node.outputs, y if isinstance(y, tuple) else (y,), strict=True))
        del y
        if trained or upstream:
            needed.update(node.outputs)
        backwards.append(backward if trained or upstream else None)
        del backward
        for value in {*node.inputs, *node.outputs}:
            left[value] -= node.inputs.count(value)
            if not left[value]:
                del values[value]
    return values[graph.outputs[0]], backwards


def _backward(graph: Graph, backwards: list[Callable[..., Any] | None], gradients: dict[Value, Array]) -> None:
    """Run the closures from last to first; each is dropped, with what it holds, when it has run."""
    for node in reversed(graph.nodes):
        backward = backwards.pop()
        dys = [gradients.pop(value, None) for value in node.outputs]
        if backward is None or all(dy is None for dy in dys):
            continue
        dxs = backward(*dys)
        del backward, dys
        for value, dx in zip(node.inputs, dxs if isinstance(dxs, (tuple, list)) else (dxs,), strict=True):
            if dx is not None:
                gradients[value] = F.add(gradients[value], dx) if value in gradients else dx
            del dx
        del dxs
    gradients.clear()


def layers_of(model: Layer) -> list[Layer]:
    """Every layer of a model, containers included, in order."""
    return [model, *(layer for _, child in model.children() for layer in layers_of(child))]

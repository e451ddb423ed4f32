"""Programs for inference: a graph, planned for a shape and run in one call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _backends
from .. import functional as F
from ..errors import ShapeError
from ..layers.activation import Softmax
from ..layers.container import Add
from ..layers.linear import Conv2d, Linear
from ..layers.norm import _BatchNorm
from .graph import Graph, Node, Value, trace
from .passes import optimise

if TYPE_CHECKING:
    from ..layers.base import Array, Layer, Shape

__all__ = ["Program", "compile"]

# Plans for this many batch sizes and formats are kept; a plan is a few kilobytes and an arena while it runs.
_MAX_PLANS = 8


def compile(model: Layer, input_shape: Shape, *, precision: str = "float32") -> Program:
    """Compile a model for inference.

    Batch norm is folded into the convolution before it, residual sums and activations are fused, memory is planned,
    and the whole runs in one call without the interpreter lock.

    Parameters
    ----------
    model : Layer
        The program holds copies of its arrays: what is trained afterwards does not change it.
    input_shape : tuple of int
        (N, ...). Other batch sizes are planned when they first come.
    precision : str
        "float32", the only one so far: arrays are computed in the model's own dtype.

    Returns
    -------
    Program

    Raises
    ------
    ShapeError
        When the model does not fit ``input_shape``.
    UntraceableError
        When a layer of the model does not define ``trace``.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear, ReLU, Sequential
    >>> program = fnn.compile(Sequential(Linear(4, 3, rng=0), ReLU()), (2, 4))
    >>> program(np.zeros((2, 4), np.float32)).shape
    (2, 3)
    """
    if precision != "float32":
        raise ValueError(f"compile: unknown precision {precision!r}; expected 'float32'")
    shape = tuple(int(n) for n in input_shape)
    if not shape or min(shape) < 0:
        raise ShapeError(f"compile: expected an input shape (N, ...), got {tuple(input_shape)}")
    arrays = {**model.params, **model.buffers}.values()
    dtype = np.result_type(*arrays) if arrays else np.dtype(np.float32)
    return Program(optimise(trace(model, shape)), shape, dtype)


def _compute(node: Node, inputs: list[Array], residual: Array | None, out: Array | None) -> Array:
    """Run one node; write to ``out`` if it is given and the node's function can."""
    layer, arrays = node.layer, node.arrays
    if isinstance(layer, Conv2d):
        weight, bias = arrays["weight"], arrays["bias"]
        assert weight is not None
        return F.conv2d(
            inputs[0],
            weight,
            bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            residual=residual,
            activation=node.activation,
            out=out,
        )
    if isinstance(layer, Linear):
        weight = arrays["weight"]
        assert weight is not None
        return F.linear(inputs[0], weight, arrays["bias"], activation=node.activation, out=out)
    if isinstance(layer, _BatchNorm):
        mean, var = arrays["running_mean"], arrays["running_var"]
        assert mean is not None and var is not None
        weight, bias = arrays["weight"], arrays["bias"]
        return F.batch_norm(inputs[0], mean, var, weight, bias, layer.eps, activation=node.activation, out=out)
    if isinstance(layer, Add):
        return F.add(*inputs, activation=node.activation, out=out)
    if isinstance(layer, Softmax):
        return F.softmax(inputs[0], layer.axis, out=out)
    return layer(*inputs)


class Program:
    """A compiled model: call it with an array. Made by `fastnn.compile`.

    Several threads may call one program at the same time. The result is the caller's to keep.
    """

    def __init__(self, graph: Graph, input_shape: Shape, dtype: np.dtype[Any]) -> None:
        self._graph = graph
        self._dtype = np.dtype(dtype)
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()
        self.input_shape = input_shape
        self.output_shape = graph.output.shape

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """Return the output for x of shape (N, ...), converted to the model's dtype; any N."""
        array = F._array("program", "x", x)
        if array.shape[1:] != self.input_shape[1:] or array.ndim != len(self.input_shape):
            expected = ", ".join(["N", *map(str, self.input_shape[1:])])
            raise ShapeError(f"program: expected x of shape ({expected}), got {array.shape}")
        array = array.astype(self._dtype, copy=False)
        channels_last = F._prefers_channels_last(array)
        if not channels_last and not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        shape = self._shapes(array.shape)[self._graph.output]
        last = channels_last and len(shape) == 4
        y = F._out("program", out, shape, self._dtype, last, array)
        if not array.size or _backends.core() is None:
            return self._interpret(array, y)
        self._plan(array.shape, channels_last, last).run((array,), (y,))
        return y

    def _shapes(self, input_shape: Shape) -> dict[Value, Shape]:
        """The shape of every value for an input of ``input_shape``."""
        if input_shape == self.input_shape:
            return {v: v.shape for v in (self._graph.input, *(n.output for n in self._graph.nodes))}
        shapes = {self._graph.input: input_shape}
        for node in self._graph.nodes:
            # Merged layers keep the shape of the layer that they are merged into.
            shapes[node.output] = node.layer.output_shape(*(shapes[v] for v in node.inputs))
        return shapes

    def _interpret(self, x: Array, y: Array) -> Array:
        """Run node by node, as the other backends do."""
        values = {self._graph.input: x}
        for node in self._graph.nodes:
            residual = None if node.residual is None else values[node.residual]
            values[node.output] = _compute(node, [values[v] for v in node.inputs], residual, None)
        np.copyto(y, values[self._graph.output])
        return y

    def _plan(self, shape: Shape, channels_last: bool, output_last: bool) -> Any:
        core = _backends.core()
        assert core is not None
        key = (shape, channels_last, core.isa())
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                while len(self._plans) >= _MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                plan = self._plans[key] = self._record(core, shape, channels_last, output_last)
            return plan

    def _record(self, core: Any, shape: Shape, channels_last: bool, output_last: bool) -> Any:
        """Plan by running every node once while the kernels are recorded; arrays that die leave room in the arena."""
        graph = self._graph
        left = graph.consumers()
        shapes = self._shapes(shape)
        program = core.Program()
        with program:
            values = {graph.input: program.input(shape, self._dtype, channels_last)}
            y = program.output(shapes[graph.output], self._dtype, output_last)
            for node in graph.nodes:
                for array in node.arrays.values():
                    if array is not None:
                        program.constant(array)
                residual = None if node.residual is None else values[node.residual]
                target = y if node.output is graph.output else None
                values[node.output] = _compute(node, [values[v] for v in node.inputs], residual, target)
                del residual
                for value in node.reads():
                    left[value] -= 1
                    if not left[value]:
                        del values[value]
            if values[graph.output] is not y:
                core.copy(values[graph.output], False, y)
            values.clear()
        return program

    def describe(self) -> str:
        """Return a table of the steps: what runs, what was merged into it, and the shape that it gives.

        Examples
        --------
        >>> import fastnn as fnn
        >>> from fastnn.layers import Linear, ReLU, Sequential
        >>> print(fnn.compile(Sequential(Linear(4, 3), ReLU()), (2, 4)).describe())
        step  layer  runs         with  output
        --------------------------------------
           1  0      Linear 4->3  ReLU  (2, 3)
        """
        rows = [("step", "layer", "runs", "with", "output")]
        for i, node in enumerate(self._graph.nodes, 1):
            label, merged = node.layer.label(), ", ".join(node.merged)
            rows.append((f"{i:4}", node.name, label, merged, str(self._shapes(self.input_shape)[node.output])))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

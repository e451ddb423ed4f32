"""Programs for inference: a graph, planned for a shape and run in one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _backends
from .. import functional as F
from ..errors import ShapeError
from ..layers.activation import Softmax
from ..layers.base import shapes
from ..layers.function import Add
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import _BatchNorm
from .graph import Graph, Node, Value, trace
from .passes import optimise

if TYPE_CHECKING:
    from ..layers.base import Array, Layer, Shape

__all__ = ["Program", "compile"]

# Plans for this many batch sizes and formats are kept; a plan is a few kilobytes and an arena while it runs.
_MAX_PLANS = 8


def compile(model: Layer, input_shape: Shape | Sequence[Shape], *, precision: str = "float32") -> Program:
    """Compile a model for inference.

    Batch norm is folded into the convolution before it, residual sums and activations are fused, memory is planned,
    and the whole runs in one call without the interpreter lock.

    Parameters
    ----------
    model : Layer
        The program holds copies of its arrays: what is trained afterwards does not change it.
    input_shape : tuple of int, or several
        (N, ...); a sequence of shapes for a model of several inputs. Other batch sizes are planned when they first
        come.
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
    given = tuple(tuple(int(n) for n in shape) for shape in shapes(input_shape))
    if not all(shape and min(shape) >= 0 for shape in given):
        raise ShapeError(f"compile: expected an input shape (N, ...), got {tuple(input_shape)}")
    dtypes = [a.dtype for a in {**model.params, **model.buffers}.values() if a.dtype.kind == "f"]
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float32)
    return Program(optimise(trace(model, given), dtype), dtype)


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
    if isinstance(layer, Conv1d):
        weight, bias = arrays["weight"], arrays["bias"]
        assert weight is not None
        options = layer.stride, layer.padding, layer.dilation, layer.groups
        return F.conv1d(inputs[0], weight, bias, *options, activation=node.activation)
    if isinstance(layer, ConvTranspose2d):
        weight, bias = arrays["weight"], arrays["bias"]
        assert weight is not None
        return F.conv_transpose2d(inputs[0], weight, bias, *layer._options(), activation=node.activation, out=out)
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
        return type(layer).function(inputs[0], layer.axis, out=out)
    return layer(*inputs)


def _one_or_all(found: Sequence[Shape]) -> Any:
    return found[0] if len(found) == 1 else tuple(found)


class Program:
    """A compiled model: call it with an array, or with as many as it has inputs. Made by `fastnn.compile`.

    Several threads may call one program at the same time. The results are the caller's to keep.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        What it was compiled for; a tuple of shapes where there are several inputs or outputs.
    """

    def __init__(self, graph: Graph, dtype: np.dtype[Any]) -> None:
        self._graph = graph
        self._dtype = np.dtype(dtype)
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._known: dict[tuple[Shape, ...], tuple[Shape, ...]] = {}
        self._lock = threading.Lock()
        self._input_shapes = tuple(value.shape for value in graph.inputs)
        self.input_shape = _one_or_all(self._input_shapes)
        self.output_shape = _one_or_all([value.shape for value in graph.outputs])

    def __call__(self, *xs: ArrayLike, out: Array | Sequence[Array] | None = None) -> Any:
        """Return the output for x of shape (N, ...), converted to the model's dtype; any N.

        Of several inputs each is an argument; several outputs, and ``out`` for them, are a tuple.
        """
        arrays, lasts = self._inputs(xs)
        input_shapes = tuple(array.shape for array in arrays)
        output_shapes = self._output_shapes(input_shapes)
        count = len(self._graph.outputs)
        given: Sequence[Array | None] = [None] * count
        if out is not None:
            given = [out] if isinstance(out, np.ndarray) else list(out)
            if len(given) != count:
                raise ShapeError(f"program: expected {count} arrays in out, got {len(given)}")
        # Images go out channels-last where one comes in so.
        image = any(lasts)
        formats = tuple(image and len(shape) == 4 for shape in output_shapes)
        ys: list[Array] = []
        for shape, target, last in zip(output_shapes, given, formats, strict=True):
            ys.append(F._out("program", target, shape, self._dtype, last, *arrays, *ys))
        if not all(array.size for array in arrays) or _backends.core() is None:
            self._interpret(arrays, ys)
        else:
            self._plan(input_shapes, lasts, formats).run(tuple(arrays), tuple(ys))
        return ys[0] if len(ys) == 1 else tuple(ys)

    def _inputs(self, xs: tuple[ArrayLike, ...]) -> tuple[list[Array], tuple[bool, ...]]:
        """The inputs as the plans take them, and which are channels-last."""
        if len(xs) != len(self._input_shapes):
            raise TypeError(f"program: expected {len(self._input_shapes)} inputs, got {len(xs)}")
        arrays, lasts = [], []
        for i, (x, like) in enumerate(zip(xs, self._input_shapes, strict=True)):
            name = "x" if len(xs) == 1 else f"input {i}"
            array = F._array("program", name, x)
            if array.shape[1:] != like[1:] or array.ndim != len(like):
                expected = ", ".join(["N", *map(str, like[1:])])
                raise ShapeError(f"program: expected {name} of shape ({expected}), got {array.shape}")
            array = array.astype(self._dtype, copy=False)
            lasts.append(F._prefers_channels_last(array))
            arrays.append(array if lasts[-1] or array.flags.c_contiguous else np.ascontiguousarray(array))
        return arrays, tuple(lasts)

    def _output_shapes(self, input_shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        found = self._known.get(input_shapes)
        if found is None:
            known = self._shapes(input_shapes)
            found = tuple(known[value] for value in self._graph.outputs)
            if len(self._known) < 64:  # what does not fit is inferred again
                self._known[input_shapes] = found
        return found

    def _shapes(self, input_shapes: tuple[Shape, ...]) -> dict[Value, Shape]:
        """The shape of every value for inputs of these shapes."""
        known = dict(zip(self._graph.inputs, input_shapes, strict=True))
        for node in self._graph.nodes:
            # Merged layers keep the shape of the layer that they are merged into.
            try:
                shape: Any = node.layer.output_shape(*(known[v] for v in node.inputs))
            except ShapeError as error:
                raise error.located(node.name, node.layer.label()) from None
            known.update(zip(node.outputs, shapes(shape), strict=True))
        return known

    def _steps(self, values: dict[Value, Array], targets: dict[Value, Array], constant: Any = None) -> None:
        """Run node by node on the arrays of the inputs; drop each array after its last reader."""
        left = self._graph.consumers()
        for node in self._graph.nodes:
            for array in node.arrays.values():
                if array is not None and constant is not None:
                    constant(array)
            residual = None if node.residual is None else values[node.residual]
            target = targets.get(node.output)
            y = _compute(node, [values[v] for v in node.inputs], residual, target)
            values.update(zip(node.outputs, y if isinstance(y, tuple) else (y,), strict=True))
            del residual, y
            for value in {*node.reads(), *node.outputs}:
                left[value] -= node.reads().count(value)
                if not left[value]:
                    del values[value]

    def _interpret(self, xs: list[Array], ys: list[Array]) -> None:
        """Run as the other backends do."""
        values = dict(zip(self._graph.inputs, xs, strict=True))
        self._steps(values, {})
        for value, y in zip(self._graph.outputs, ys, strict=True):
            np.copyto(y, values[value])

    def _plan(self, input_shapes: tuple[Shape, ...], lasts: tuple[bool, ...], formats: tuple[bool, ...]) -> Any:
        core = _backends.core()
        assert core is not None
        key = (input_shapes, lasts, core.isa())
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                while len(self._plans) >= _MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                plan = self._plans[key] = self._record(core, input_shapes, lasts, formats)
            return plan

    def _record(
        self, core: Any, input_shapes: tuple[Shape, ...], lasts: tuple[bool, ...], formats: tuple[bool, ...]
    ) -> Any:
        """Plan by running every node once while the kernels are recorded; arrays that die leave room in the arena."""
        graph = self._graph
        known = self._shapes(input_shapes)
        program = core.Program()
        with program:
            values = {
                value: program.input(shape, self._dtype, last)
                for value, shape, last in zip(graph.inputs, input_shapes, lasts, strict=True)
            }
            ys = [
                program.output(known[value], self._dtype, last)
                for value, last in zip(graph.outputs, formats, strict=True)
            ]
            inside_last = any(lasts) or any(isinstance(node.layer, Conv2d) for node in graph.nodes)
            for value, last in zip(graph.inputs, lasts, strict=True):
                if inside_last and not last and len(value.shape) == 4:
                    # Channels-last throughout: a product whose columns are channels has no partial vectors at small
                    # images, and its weights are packed once. 3x3 512->512 @7: 1.14 ms, was 1.48; others gain less.
                    image = core.empty(values[value].shape, self._dtype, True)
                    core.copy(values[value], False, image)
                    values[value] = image
                    del image
            targets = {
                value: y for value, y in zip(graph.outputs, ys, strict=True) if y.ndim != 4 or inside_last == any(lasts)
            }
            self._steps(values, targets, partial(program.constant, final=True))
            for value, y in zip(graph.outputs, ys, strict=True):
                if values[value] is not y:
                    flat = y.ndim > 4  # more than the kernel's; then both are C-contiguous
                    core.copy(values[value].reshape(-1) if flat else values[value], False, y.reshape(-1) if flat else y)
            values.clear()
        return program

    def __repr__(self) -> str:
        return f"Program {self.input_shape} -> {self.output_shape}, {len(self._graph.nodes)} steps"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a Program cannot be copied or pickled: save the model's state and compile it again")

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
            shape = str(_one_or_all([value.shape for value in node.outputs]))
            rows.append((f"{i:4}", node.name, label, merged, shape))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

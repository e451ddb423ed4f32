"""Programs for inference: a graph, planned for a shape and run in one call."""

from __future__ import annotations

import inspect
import math
import operator
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from .. import _backends
from .. import functional as F
from ..errors import ShapeError
from ..layers.activation import Softmax
from ..layers.base import Layer, shapes
from ..layers.function import Add
from ..layers.linear import Conv1d, Conv2d, ConvTranspose2d, Linear
from ..layers.norm import _BatchNorm
from ..layers.pool import MaxPool2d
from ..measure import roofline
from ..threads import get_num_threads
from . import report
from .blocks import InvertedResidual, fused
from .graph import Graph, Node, Value, trace
from .passes import optimise

if TYPE_CHECKING:
    from ..layers.base import Array, Shape

__all__ = ["Program", "compile"]

# Plans for this many batch sizes and formats are kept; a plan is a few kilobytes and an arena while it runs.
_MAX_PLANS = 8
#: the bfloat16 parts that make up a float on tiles
PRECISIONS = {"bfloat16": 1, "float32-fast": 2, "float32": 3}
#: NumPy has no bfloat16: arrays of it are kept in those of as many bytes
_BFLOAT16 = np.dtype(np.uint16)


def compile(model: Layer, input_shape: Shape | Sequence[Shape], *, precision: str = "float32") -> Program:
    """Compile a model for inference.

    Batch norm is folded into the convolution before it, residual sums and activations are fused, memory is planned,
    and the whole runs in one call without the interpreter lock.

    Parameters
    ----------
    model : Layer
        The program holds copies of its arrays: what is trained afterwards does not change it.
    input_shape : tuple of int, or several
        (N, ...); a sequence of shapes for a model of several inputs, one that is a number among them: (). Other batch
        sizes are planned when they first come.
    precision : str
        How products of convolutions and linear layers are computed. Sums are of the model's dtype in any case, and
        so are arrays, but for "bfloat16"; for float64 all three are the same.

        - "float32": as exact as a chain of multiply-adds.
        - "float32-fast": an error of about 4e-6 of a layer's scale. Where the processor has tiles (AMX), factors of 16
          bits (ResNet-50: 1.6 times as fast); elsewhere Winograd's larger tiles for 3x3 convolutions (1.5e-6).
        - "bfloat16": factors of 8 bits on tiles; 3e-3 (ResNet-50: 2.7 times as fast). What a convolution on tiles
          writes and only such ones read, also through max pools, is stored so too. Elsewhere as "float32-fast".

        What is not finite is computed by multiply-adds, in all of them.

    Returns
    -------
    Program

    Warns
    -----
    UserWarning
        Where layers compute in NumPy, as some operators of ONNX files do: the program is in pieces, between which those
        run; it names them.

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
    if not isinstance(model, Layer):
        came = repr(model) if isinstance(model, type) else type(model).__name__
        raise TypeError(f"compile: expected a model, which is a layer of fastnn.layers, got {came}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(
            f"compile: unknown precision {precision!r}; expected one of {', '.join(map(repr, PRECISIONS))}"
        )
    try:
        given = tuple(tuple(operator.index(n) for n in shape) for shape in shapes(input_shape))
    except TypeError:
        raise TypeError(f"compile: expected an input shape of whole numbers, (N, ...), got {input_shape!r}") from None
    try:
        inspect.signature(model.output_shape).bind(*given)
    except TypeError:
        text = ", ".join(map(str, given))
        raise ShapeError(
            f"compile: the model does not take {len(given)} input{'s' * (len(given) != 1)}: {text}"
        ) from None
    if not all(min(shape, default=0) >= 0 for shape in given):
        raise ShapeError(f"compile: expected an input shape (N, ...), got {tuple(input_shape)}")
    dtypes = [a.dtype for a in {**model.params, **model.buffers}.values() if a.dtype.kind == "f"]
    if not dtypes:  # a network from a file says of which dtype its inputs are
        declared = [getattr(layer, "dtype", None) for _, layer in model.leaves()]
        dtypes = [d for d in declared if d in (np.float32, np.float64)]
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float32)
    graph = optimise(trace(model, given, host=True), dtype)
    host = [f"{node.name!r} ({node.layer.label()})" for node in graph.nodes if node.layer.host]
    if not host:
        return Program(graph, dtype, precision)
    more = f" and {len(host) - 8} more" if len(host) > 8 else ""
    warnings.warn(f"compile: computed in NumPy, between the compiled pieces: {', '.join(host[:8])}{more}", stacklevel=2)
    from .pieces import PiecedProgram

    return PiecedProgram(graph, dtype, precision)


def _compute(node: Node, inputs: list[Array], residual: Array | None, out: Array | None) -> Array:
    """Run one node; write to ``out`` if it is given and the node's function can."""
    layer, arrays = node.layer, node.arrays
    if isinstance(layer, Conv2d):
        weight, bias = arrays["weight"], arrays["bias"]
        assert weight is not None
        if out is not None and any(a is not None and a.dtype == _BFLOAT16 for a in (inputs[0], residual, out)):
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            return F._conv2d_bfloat16(inputs[0], weight, bias, *geometry, residual, node.activation, out)
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
    if isinstance(layer, MaxPool2d) and out is not None and out.dtype == _BFLOAT16:
        return F._max_pool2d_bfloat16(inputs[0], layer.kernel_size, layer.stride, layer.padding, layer.dilation, out)
    if isinstance(layer, InvertedResidual):
        expand, depthwise, project = [None, *layer.pairs()][-3:]
        assert depthwise is not None and project is not None
        own = layer.depthwise
        return F.inverted_residual(
            inputs[0],
            expand,
            depthwise,
            project,
            own.stride,
            own.padding,
            residual=residual,
            activations=layer.activations(),
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


class _Plan(NamedTuple):
    """A recorded program, and how many of its calls were there after each of its parts.

    A part is a node, or in words what is done around them.
    """

    program: Any
    parts: list[tuple[Node | str, int]]
    bfloat16: set[Value]  # the values that are stored as such


class _Ready(NamedTuple):
    """What a call needs whose inputs need neither checks nor conversion: such inputs have come before."""

    run: Callable[[tuple[Array, ...], tuple[Array, ...]], None]
    outputs: list[tuple[Shape, bool]]  # and whether channels-last
    choice: int  # of the backend and instruction set that it holds for


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

    #: whether inputs have the shapes that it was compiled for, but for the batch
    _fixed = True

    def __init__(self, graph: Graph, dtype: np.dtype[Any], precision: str = "float32") -> None:
        self._graph = graph
        self._dtype = np.dtype(dtype)
        self._precision = precision
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._ready: dict[tuple[tuple[Shape, int], ...], _Ready] = {}
        self._known: dict[tuple[Shape, ...], tuple[Shape, ...]] = {}
        self._lock = threading.Lock()
        self._input_shapes = tuple(value.shape for value in graph.inputs)
        self.input_shape = _one_or_all(self._input_shapes)
        self.output_shape = _one_or_all([value.shape for value in graph.outputs])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its inputs, weights and outputs."""
        return self._dtype

    def input_dtypes(self) -> list[np.dtype[Any]]:
        """Return of which dtype each input is taken; arrays of others are converted."""
        return [self._dtype] * len(self._input_shapes)

    @property
    def precision(self) -> str:
        """What it was compiled for: "float32", "float32-fast" or "bfloat16"; see `fastnn.compile`."""
        return self._precision

    def __call__(self, *xs: ArrayLike, out: Array | Sequence[Array] | None = None) -> Any:
        """Return the output for x of shape (N, ...), converted to the model's dtype; any N.

        Of several inputs each is an argument; several outputs, and ``out`` for them, are a tuple.
        """
        kernels, dtype = _backends.kernels, self._dtype
        layout, given = kernels.layout, cast("tuple[Array, ...]", xs)
        key = tuple([(x.shape, how) for x in given if (how := layout(x)) >= 0 and x.dtype is dtype])
        ready = self._ready.get(key)
        if ready is not None and len(key) == len(xs) and ready.choice == _backends.choice:
            if out is None:
                found = tuple([kernels.empty(shape, dtype, last) for shape, last in ready.outputs])
            else:
                found = tuple(self._targets(out, ready.outputs, given))
            ready.run(given, found)
            return found[0] if len(found) == 1 else found
        arrays, lasts = self._inputs(xs)
        ys, formats = self._outputs(arrays, lasts, out)
        if self._interprets(arrays):
            self._interpret(arrays, ys)
        else:
            choice = _backends.choice
            plan = self._plan(tuple(array.shape for array in arrays), lasts, formats)
            plan.program.run(tuple(arrays), tuple(ys))
            if all(array is x for array, x in zip(arrays, xs, strict=True)):
                outputs = [(y.shape, last) for y, last in zip(ys, formats, strict=True)]
                if len(self._ready) >= 2 * _MAX_PLANS:
                    self._ready.clear()
                self._ready[key] = _Ready(plan.program.run, outputs, choice)
        return ys[0] if len(ys) == 1 else tuple(ys)

    def _interprets(self, arrays: Sequence[Array]) -> bool:
        return not all(array.size for array in arrays) or _backends.core() is None

    def _outputs(
        self, arrays: list[Array], lasts: tuple[bool, ...], out: Array | Sequence[Array] | None
    ) -> tuple[list[Array], tuple[bool, ...]]:
        """The arrays to write, and which are channels-last."""
        output_shapes = self._output_shapes(tuple(array.shape for array in arrays))
        # Images go out channels-last where one comes in so.
        image = any(lasts)
        formats = tuple(image and len(shape) == 4 for shape in output_shapes)
        return self._targets(out, list(zip(output_shapes, formats, strict=True)), arrays), formats

    def _targets(
        self, out: Array | Sequence[Array] | None, outputs: list[tuple[Shape, bool]], arrays: Sequence[Array]
    ) -> list[Array]:
        """``out`` after its checks, or new arrays."""
        given: Sequence[Array | None] = [None] * len(outputs)
        if out is not None:
            given = list(out) if isinstance(out, (list, tuple)) else [out]  # type: ignore[list-item]
            if len(given) != len(outputs):
                raise ShapeError(f"program: expected {len(outputs)} arrays in out, got {len(given)}")
        ys: list[Array] = []
        for target, (shape, last) in zip(given, outputs, strict=True):
            ys.append(F._out("program", target, shape, self._dtype, last, *arrays, *ys))
        return ys

    def _inputs(self, xs: tuple[ArrayLike, ...]) -> tuple[list[Array], tuple[bool, ...]]:
        """The inputs as the plans take them, and which are channels-last."""
        if len(xs) != len(self._input_shapes):
            raise TypeError(f"program: expected {len(self._input_shapes)} inputs, got {len(xs)}")
        arrays, lasts = [], []
        for i, (x, like) in enumerate(zip(xs, self._input_shapes, strict=True)):
            name = "x" if len(xs) == 1 else f"input {i}"
            array = F._array("program", name, x)
            if self._fixed and (array.shape[1:] != like[1:] or array.ndim != len(like)):
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

    def _steps(
        self,
        values: dict[Value, Array],
        targets: dict[Value, Array],
        nodes: Sequence[Node] | None = None,
        constant: Any = None,
        done: Callable[[Node], None] | None = None,
        room: Callable[[Node, Array], Array | None] | None = None,
    ) -> None:
        """Run node by node on the arrays of the inputs; drop each array after its last reader.

        ``nodes`` compute what those of the graph do, which they are when absent.
        ``room`` makes the output of a node for its first input, where it is not left to the node's function.
        """
        left = self._graph.consumers()
        for node in self._graph.nodes if nodes is None else nodes:
            for array in node.arrays.values():
                if array is not None and constant is not None:
                    constant(array)
            residual = None if node.residual is None else values[node.residual]
            target = targets.get(node.output)
            if target is None and room is not None and node.inputs:
                target = room(node, values[node.inputs[0]])
            y = _compute(node, [values[v] for v in node.inputs], residual, target)
            values.update(zip(node.outputs, y if isinstance(y, tuple) else (y,), strict=True))
            del residual, target, y
            if done is not None:
                done(node)
            for value in {*node.reads(), *node.outputs}:
                left[value] -= node.reads().count(value)
                if not left[value]:
                    del values[value]

    def _interpret(self, xs: list[Array], ys: list[Array], done: Callable[[Node], None] | None = None) -> None:
        """Run as the other backends do."""
        values = dict(zip(self._graph.inputs, xs, strict=True))
        self._steps(values, {}, done=done)
        for value, y in zip(self._graph.outputs, ys, strict=True):
            np.copyto(y, values[value])

    def _plan(self, input_shapes: tuple[Shape, ...], lasts: tuple[bool, ...], formats: tuple[bool, ...]) -> _Plan:
        core = _backends.core()
        assert core is not None
        key = (input_shapes, lasts, core.isa())
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                while len(self._plans) >= _MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._ready.clear()  # it holds plans too
                plan = self._plans[key] = self._record(core, input_shapes, lasts, formats)
            return plan

    def _record(
        self, core: Any, input_shapes: tuple[Shape, ...], lasts: tuple[bool, ...], formats: tuple[bool, ...]
    ) -> _Plan:
        """Plan by running every node once while the kernels are recorded; arrays that die leave room in the arena."""
        graph = self._graph
        known = self._shapes(input_shapes)
        program = core.Program(PRECISIONS[self._precision])
        parts: list[tuple[Node | str, int]] = []

        def done(part: Node | str) -> None:
            parts.append((part, program.step_count))

        def algorithm(node: Node) -> str:
            layer = node.layer
            if not isinstance(layer, Conv2d):
                return ""
            images = known[node.inputs[0]], layer.weight.shape, known[node.output]
            options = layer.stride, layer.padding, layer.dilation, layer.groups
            by: str = core.conv2d_algorithm(*images, *options, self._dtype, PRECISIONS[self._precision])
            return by

        def in_one(layer: InvertedResidual, first: Node, last: Node) -> bool:
            """Whether one kernel keeps the hidden channels of an inverted residual in cache."""
            own = layer.depthwise
            ends = tuple(F._activation("compile", end) for end in layer.activations())
            shapes = known[first.inputs[0]], len(layer.nodes) == 3, own.weight.shape, known[last.output]
            options = own.stride, own.padding, ends, self._dtype, PRECISIONS[self._precision]
            by: str = core.inverted_residual_algorithm(*shapes, *options)
            return by.startswith("amx")

        def converts(node: Node | None) -> bool:
            """Whether a node reads and writes any memory format: a convolution on tiles.

            The other algorithms convert one of the two, or compute both in rows where channels-last is faster.
            """
            return node is not None and node.residual is None and algorithm(node).startswith("amx")

        nodes = fused(graph, in_one)
        # What only convolutions of one part on tiles write and read, which round what they read in any case, and max
        # pools between them: the largest is the same number, rounded before or after.
        rounds = {id(node) for node in nodes if algorithm(node) == "amx, one part"}
        bfloat16: set[Value] = set()
        for node in nodes:
            if id(node) in rounds or (isinstance(node.layer, MaxPool2d) and node.inputs[0] in bfloat16):
                bfloat16.update(node.outputs)
        bfloat16 -= set(graph.outputs)
        for node in reversed(nodes):  # whoever reads a value comes after it
            if id(node) not in rounds and node.output not in bfloat16:
                bfloat16.difference_update(node.reads())
        for node in nodes:
            if isinstance(node.layer, MaxPool2d) and node.inputs[0] not in bfloat16:
                bfloat16.discard(node.output)

        def room(node: Node, x: Array) -> Array | None:
            if node.output in bfloat16:
                return core.empty(known[node.output], _BFLOAT16, True)
            if not bfloat16.isdisjoint(node.reads()):
                return core.empty(known[node.output], self._dtype, True)
            if not inside_last or not converts(node) or F._is_channels_last(x):
                return None
            return core.empty(known[node.output], self._dtype, True)

        with program:
            values = {
                value: program.input(shape, self._dtype, last)
                for value, shape, last in zip(graph.inputs, input_shapes, lasts, strict=True)
            }
            ys = [
                program.output(known[value], self._dtype, last)
                for value, last in zip(graph.outputs, formats, strict=True)
            ]
            inside_last = any(lasts) or any(isinstance(node.layer, (Conv2d, InvertedResidual)) for node in nodes)
            # A convolution reads and writes either format, at the borders of the network too.
            planar = {v for v in graph.inputs if all(map(converts, (n for n in nodes if v in n.reads())))}
            for value, last in zip(graph.inputs, lasts, strict=True):
                if inside_last and not last and len(value.shape) == 4 and value not in planar:
                    # Channels-last throughout: a product whose columns are channels has no partial vectors at small
                    # images, and its weights are packed once. 3x3 512->512 @7: 1.14 ms, was 1.48; others gain less.
                    image = core.empty(values[value].shape, self._dtype, True)
                    core.copy(values[value], False, image)
                    values[value] = image
                    del image
            done("input to channels-last")
            makers = {value: node for node in nodes for value in node.outputs}
            targets = {
                value: y
                for value, y in zip(graph.outputs, ys, strict=True)
                if y.ndim != 4 or inside_last == any(lasts) or converts(makers.get(value))
            }
            self._steps(values, targets, nodes, partial(program.constant, final=True), done, room)
            for value, y in zip(graph.outputs, ys, strict=True):
                if values[value] is not y:
                    flat = y.ndim > 4  # more than the kernel's; then both are C-contiguous
                    core.copy(values[value].reshape(-1) if flat else values[value], False, y.reshape(-1) if flat else y)
            values.clear()
            done("copy to the output")
        return _Plan(program, parts, bfloat16)

    def __repr__(self) -> str:
        return f"Program {self.input_shape} -> {self.output_shape}, {len(self._graph.nodes)} steps"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a Program cannot be copied or pickled: save(path) writes it, fastnn.load_program(path) reads it"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the program: its steps and weights, which `fastnn.load_program` reads back without the model's code.

        The file appears whole or not at all: it is written beside, synced to the disk and renamed. Equal programs give
        equal files, on any machine. What is laid out for this machine's kernels is not in it.

        Parameters
        ----------
        path : path
            Ends in .fnn by convention.

        Raises
        ------
        TypeError
            Where a layer holds something else than numbers, text and arrays; naming it.

        Examples
        --------
        >>> import fastnn as fnn
        >>> from fastnn.layers import Linear
        >>> fnn.compile(Linear(4, 3, rng=0), (2, 4)).save("net.fnn")
        >>> fnn.load_program("net.fnn")(np.zeros((5, 4), np.float32)).shape
        (5, 3)
        """
        from .saved import save

        save(self, path)

    def _report(self, input_shapes: tuple[Shape, ...], plan: _Plan | None) -> tuple[list[report.Step], list[slice]]:
        """The steps for inputs of these shapes, and which calls of the plan each is; without one, by the backend."""
        known = self._shapes(input_shapes)
        if plan is None:
            by = [_backends.name]
            size = self._dtype.itemsize
            steps = [report.step_of(i, node, known, by, size) for i, node in enumerate(self._graph.nodes, 1)]
            return steps, [slice(i, i + 1) for i in range(len(steps))]
        named = zip(plan.program.steps, plan.program.algorithms, strict=True)
        kernels = [algorithm or kernel.removesuffix("_forward") for kernel, algorithm in named]
        steps, calls, begin, count = [], [], 0, 0
        for part, end in plan.parts:
            by = kernels[begin:end]
            if isinstance(part, Node):
                count += 1
                steps.append(report.step_of(count, part, known, by, self._dtype.itemsize, plan.bfloat16))
                calls.append(slice(begin, end))
            elif by:
                images = tuple(known[v] for v in (self._graph.outputs if count else self._graph.inputs))
                moved = 2 * self._dtype.itemsize * sum(map(math.prod, images))
                steps.append(report.Step(0, "", part, (), tuple(by), images, images, 0, 0, moved))
                calls.append(slice(begin, end))
            begin = end
        return steps, calls

    def describe(self) -> str:
        """Return a table of the steps for inputs of `input_shape`.

        Of each: the layer, what was folded and fused into it, the kernels that compute it, and the shapes of its
        inputs and outputs. Of a convolution the kernel is the algorithm that was chosen: "amx", "im2col",
        "depthwise" and their like; a step without kernel is a view.

        Examples
        --------
        >>> import fastnn as fnn
        >>> from fastnn.layers import Linear, ReLU, Sequential
        >>> program = fnn.compile(Sequential(Linear(4, 3), ReLU()), (2, 4))
        >>> print(program.describe())
        step  layer  runs         with  by    input   output
        ----------------------------------------------------
           1  0      Linear 4->3  ReLU  gemm  (2, 4)  (2, 3)
        """
        return report.describe(self.steps())

    def steps(self) -> list[report.Step]:
        """Return what `describe` tells, as objects: names, layers, kernels, shapes, and the work of each step.

        Examples
        --------
        >>> import fastnn as fnn
        >>> from fastnn.layers import Linear
        >>> (step,) = fnn.compile(Linear(4, 3), (2, 4)).steps()
        >>> step.layer, step.outputs, step.parameters, step.flops
        ('Linear 4->3', ((2, 3),), 15, 48)
        """
        plan = None
        if _backends.core() is not None and all(map(math.prod, self._input_shapes)):
            rows = (False,) * len(self._input_shapes), (False,) * len(self._graph.outputs)  # C-contiguous
            plan = self._plan(self._input_shapes, *rows)
        return self._report(self._input_shapes, plan)[0]

    def profile(self, x: ArrayLike | Sequence[ArrayLike] | None = None, repeats: int | None = None) -> report.Profile:
        """Measure where the time goes: milliseconds of each step, its speed, and how much of the machine's it is.

        Nothing else should run meanwhile. The fraction of the roofline compares with what this machine does at best,
        which is measured once, in about a second; see `fastnn.measure.roofline`.

        Parameters
        ----------
        x : array_like, or as many as there are inputs, optional
            Normally distributed numbers of the shape `input_shape` when absent.
        repeats : int, optional
            How many runs the medians are of; when absent, as many as take a second, but 5 to 1,000.

        Returns
        -------
        Profile
            Its text is a table; ``steps`` has the numbers.

        Examples
        --------
        >>> import fastnn as fnn
        >>> from fastnn.layers import Linear, ReLU, Sequential
        >>> profile = fnn.compile(Sequential(Linear(4, 3), ReLU()), (2, 4)).profile(repeats=5)
        >>> [timed.step.layer for timed in profile.steps], profile.steps[0].step.flops
        (['Linear 4->3'], 48)
        """
        if repeats is not None and (isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1):
            raise ValueError(f"profile: repeats must be a whole number of at least 1, got {repeats!r}")
        xs: Any = (x,) if len(self._input_shapes) == 1 else x
        if x is None:
            rng = np.random.default_rng(0)
            xs = [rng.standard_normal(shape).astype(self._dtype) for shape in self._input_shapes]
        arrays, lasts = self._inputs(tuple(xs))
        ys, formats = self._outputs(arrays, lasts, None)
        shapes = tuple(array.shape for array in arrays)
        plan = None if self._interprets(arrays) else self._plan(shapes, lasts, formats)
        steps, calls = self._report(shapes, plan)
        best = roofline(self._dtype)

        def run() -> list[float]:
            """Seconds of each call of the plan, or of each node."""
            if plan is not None:
                nanoseconds = np.zeros(plan.program.step_count, np.int64)
                plan.program.run(tuple(arrays), tuple(ys), nanoseconds)
                return (nanoseconds / 1e9).tolist()
            clock = [time.perf_counter()]
            self._interpret(arrays, ys, lambda node: clock.append(time.perf_counter()))
            return np.diff(clock).tolist()

        run()
        began = time.perf_counter()
        self(*arrays)
        count = repeats or min(1000, max(5, int(0.5 / max(time.perf_counter() - began, 1e-6))))
        runs, wholes = [], []
        for _ in range(count):
            runs.append(run())
            began = time.perf_counter()
            self(*arrays)
            wholes.append(time.perf_counter() - began)
        timed = tuple(
            report.StepTime(step, statistics.median(sum(times[part]) for times in runs))
            for step, part in zip(steps, calls, strict=True)
        )
        return report.Profile(timed, statistics.median(wholes), count, best, get_num_threads())

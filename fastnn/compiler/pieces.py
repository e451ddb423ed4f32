"""Programs in pieces: networks some of whose layers compute in NumPy, as operators of ONNX files without a kernel do.

What lies between those layers is compiled, as few pieces as the order of the nodes allows, and they run in between.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ShapeError
from ..layers.function import Constant
from ..measure import roofline
from ..threads import get_num_threads
from . import report
from .graph import Graph, Node, Value
from .program import Program

if TYPE_CHECKING:
    from ..layers.base import Array

__all__ = ["PiecedProgram"]


class _Piece(Program):
    """A part of a network between layers that compute in NumPy, for any shapes that come from those."""

    _fixed = False


class PiecedProgram(Program):
    """A program some of whose layers compute in NumPy: pieces that are compiled, and those layers in between."""

    def __init__(self, graph: Graph, dtype: np.dtype[Any], precision: str = "float32") -> None:
        super().__init__(graph, dtype, precision)
        constant = {node.output: node for node in graph.nodes if isinstance(node.layer, Constant)}
        self._constants = {value: node.arrays["value"] for value, node in constant.items()}
        parts = _parts(graph, constant)
        consumers = {value for part in parts for value in _reads(part)} | set(graph.outputs)
        #: each a layer, or a piece with the values that it takes and gives
        self._order: list[tuple[Node | _Piece, list[Value], list[Value]]] = []
        for part in parts:
            if isinstance(part, Node):
                self._order.append((part, part.reads(), part.outputs))
                continue
            needed = dict.fromkeys(value for node in part for value in node.reads() if value in constant)
            reads = list(dict.fromkeys(v for v in _reads(part) if v not in constant))
            gives = [value for node in part for value in node.outputs if value in consumers]
            nodes = [*(constant[value] for value in needed), *part]
            self._order.append((_Piece(Graph(reads, gives, nodes), dtype, precision), reads, gives))
        #: inputs that are whole numbers or booleans, which a layer checks and converts
        self._whole = {v for n in graph.nodes for v in n.inputs if _declared(n).kind not in "fO"} & set(graph.inputs)
        self._last = {value: i for i, (_, reads, _) in enumerate(self._order) for value in reads}

    def __call__(self, *xs: ArrayLike, out: Array | Sequence[Array] | None = None) -> Any:
        """Return the output for x of shape (N, ...); any N. Of several inputs each is an argument."""
        if len(xs) != len(self._input_shapes):
            raise TypeError(f"program: expected {len(self._input_shapes)} inputs, got {len(xs)}")
        return self._finished(self._run(xs), out)

    def _run(self, xs: Sequence[ArrayLike], watch: Callable[[Any, list[Array]], None] | None = None) -> list[Array]:
        """The outputs; ``watch`` sees each part, before it runs, with what it gets."""
        values: dict[Value, Array] = dict(self._constants)  # type: ignore[arg-type]
        for i, (value, x, like) in enumerate(zip(self._graph.inputs, xs, self._input_shapes, strict=True)):
            array = np.asarray(x)
            if array.dtype.kind not in "biuf":
                raise TypeError(f"program: expected input {i} of numbers, got {array.dtype}")
            if array.shape[1:] != like[1:] or array.ndim != len(like):
                expected = ", ".join(["N", *map(str, like[1:])])
                raise ShapeError(f"program: expected input {i} of shape ({expected}), got {array.shape}")
            values[value] = array if value in self._whole else array.astype(self._dtype, copy=False)
        kept = set(self._graph.outputs)
        for i, (part, reads, gives) in enumerate(self._order):
            given = [values[value] for value in reads]
            if watch is not None:
                watch(part, given)
            try:
                y = part.layer(*given) if isinstance(part, Node) else part(*given)
            except ShapeError as error:
                raise (error.located(part.name, part.layer.label()) if isinstance(part, Node) else error) from None
            except Exception as error:  # of the numbers that came: an index beyond its axis, say
                if isinstance(part, Node):
                    error.add_note(f"in layer {part.name!r} ({part.layer.label()})")
                raise
            values.update(zip(gives, y if isinstance(y, tuple) else (y,), strict=True))
            del given, y
            for value in {*reads, *gives}:
                if self._last.get(value, -1) <= i and value not in kept:
                    values.pop(value, None)
        return [values[value] for value in self._graph.outputs]

    def _finished(self, ys: list[Array], out: Array | Sequence[Array] | None) -> Any:
        if out is not None:
            targets: list[Any] = list(out) if isinstance(out, (list, tuple)) else [out]
            if len(targets) != len(ys):
                raise ShapeError(f"program: expected {len(ys)} arrays in out, got {len(targets)}")
            for y, target in zip(ys, targets, strict=True):
                if not isinstance(target, np.ndarray) or target.shape != y.shape or target.dtype != y.dtype:
                    array = isinstance(target, np.ndarray)
                    came = f"{target.shape} {target.dtype}" if array else type(target).__name__
                    raise ShapeError(f"program: expected out of shape {y.shape} and dtype {y.dtype}, got {came}")
                np.copyto(target, y)
            ys = targets
        return ys[0] if len(ys) == 1 else tuple(ys)

    def steps(self) -> list[report.Step]:
        """Return the steps as `Program.steps` does, with "NumPy" as what computes those that are not compiled."""
        steps: list[report.Step] = []
        self._run(self._example(), lambda part, given: steps.extend(self._steps_of(part, given)))
        return _numbered(steps)

    def _example(self) -> list[Array]:
        """Inputs that fit: ones, but 0 where whole numbers are asked for, for they may be indices."""
        dtypes = self.input_dtypes()
        return [(np.ones if d.kind == "f" else np.zeros)(s, d) for s, d in zip(self._input_shapes, dtypes, strict=True)]

    def input_dtypes(self) -> list[np.dtype[Any]]:
        """Return of which dtype each input is taken."""
        dtypes = {value: _declared(node) for node in self._graph.nodes for value in node.inputs if value in self._whole}
        return [dtypes.get(value, self._dtype) for value in self._graph.inputs]

    def _steps_of(self, part: Node | _Piece, given: list[Array]) -> list[report.Step]:
        known = self._shapes(self._input_shapes)
        if isinstance(part, Node):
            return [report.step_of(1, part, known, ["NumPy"], self._dtype.itemsize)]
        arrays, lasts = part._inputs(tuple(given))
        shapes = tuple(array.shape for array in arrays)
        if part._interprets(arrays):
            return part._report(shapes, None)[0]
        return part._report(shapes, part._plan(shapes, lasts, part._outputs(arrays, lasts, None)[1]))[0]

    def profile(self, x: ArrayLike | Sequence[ArrayLike] | None = None, repeats: int | None = None) -> report.Profile:
        """Measure where the time goes; as `Program.profile`."""
        xs: Any = (x,) if len(self._input_shapes) == 1 else x
        if x is None:
            xs = self._example()
        count = repeats or 20
        timed: list[report.StepTime] = []

        def watch(part: Node | _Piece, given: list[Array]) -> None:
            if isinstance(part, Node):
                (step,) = self._steps_of(part, given)
                timed.append(report.StepTime(step, _median(lambda: part.layer(*given), count)))
            else:
                timed.extend(part.profile(given[0] if len(given) == 1 else given, count).steps)

        self._run(xs, watch)
        steps = _numbered([t.step for t in timed])
        numbered = tuple(replace(t, step=step) for t, step in zip(timed, steps, strict=True))
        call = _median(lambda: self(*xs), count)
        return report.Profile(numbered, call, count, roofline(self._dtype), get_num_threads())


def _declared(node: Node) -> np.dtype[Any]:
    """The dtype that a layer wants of what it reads; of objects where it takes any."""
    return np.dtype(getattr(node.layer, "dtype", object))


def _numbered(steps: list[report.Step]) -> list[report.Step]:
    """The steps of all parts counted through; what is no layer has no number."""
    found: list[report.Step] = []
    count = 0
    for step in steps:
        count += bool(step.number)
        found.append(replace(step, number=step.number and count))
    return found


def _median(run: Callable[[], Any], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _reads(part: Node | list[Node]) -> list[Value]:
    """What a part needs of others."""
    if isinstance(part, Node):
        return part.reads()
    made = {value for node in part for value in node.outputs}
    return [value for node in part for value in node.reads() if value not in made]


def _parts(graph: Graph, constant: dict[Value, Node]) -> list[Node | list[Node]]:
    """The nodes without constants, in an order with few changes between layers in NumPy and compiled pieces."""
    nodes = [node for node in graph.nodes if node.output not in constant]
    makers = {value: node for node in nodes for value in node.outputs}
    waiting = {id(node): len({id(makers[v]) for v in node.reads() if v in makers}) for node in nodes}
    readers: dict[int, list[Node]] = {id(node): [] for node in nodes}
    for node in nodes:
        for maker in {id(makers[v]): makers[v] for v in node.reads() if v in makers}.values():
            readers[id(maker)].append(node)
    ready: dict[bool, list[Node]] = {False: [], True: []}
    for node in nodes:
        if not waiting[id(node)]:
            ready[node.layer.host].append(node)
    parts: list[Node | list[Node]] = []
    host = False
    while ready[False] or ready[True]:
        done: list[Node] = []
        while ready[host]:
            node = ready[host].pop(0)
            done.append(node)
            for reader in readers[id(node)]:
                waiting[id(reader)] -= 1
                if not waiting[id(reader)]:
                    ready[reader.layer.host].append(reader)
        if done:
            parts.extend(done) if host else parts.append(done)
        host = not host
    return parts

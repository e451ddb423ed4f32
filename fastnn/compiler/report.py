"""What a program does, step by step, for people to read: the tables of ``describe`` and ``profile``."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._text import plain
from ..measure import Roofline
from .graph import Node, Value

if TYPE_CHECKING:
    from ..layers.base import Shape

__all__ = ["Profile", "Step", "StepTime", "count", "describe", "step_of", "table"]


@dataclass(frozen=True)
class Step:
    """One step of a program for inputs of a given shape.

    Attributes
    ----------
    number : int
        From 1; 0 for what is no layer, but a copy of an input or output to another order in memory.
    name, layer : str
        The layer's name in the model, and the layer in a few words.
    merged : tuple of str
        What was folded and fused into it.
    kernels : tuple of str
        What computes it: the algorithm, where the kernel has several, else the kernel; the backend's name where nothing
        is compiled; none where the result is a view.
    inputs, outputs : tuple of shapes
    parameters : int
        Numbers in its arrays.
    flops, bytes : int
        Floating-point operations of its products (2 for a multiply-add), and bytes that it has to read and write at
        least: inputs, arrays and outputs.
    """

    number: int
    name: str
    layer: str
    merged: tuple[str, ...]
    kernels: tuple[str, ...]
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    parameters: int
    flops: int
    bytes: int

    @property
    def by(self) -> str:
        """The kernels as text, each once."""
        counts = {kernel: self.kernels.count(kernel) for kernel in self.kernels}
        return ", ".join(f"{kernel} x{n}" if n > 1 else kernel for kernel, n in counts.items())


def step_of(
    number: int,
    node: Node,
    known: dict[Value, Shape],
    kernels: Sequence[str],
    itemsize: int,
    bfloat16: Collection[Value] = (),
) -> Step:
    """The step that a node is, where every value has the shape in ``known``; in ``bfloat16`` are those stored so."""
    inputs, outputs = (tuple(known[value] for value in values) for values in (node.inputs, node.outputs))
    moved = (*node.reads(), *node.outputs)
    bytes = sum((2 if value in bfloat16 else itemsize) * math.prod(known[value]) for value in moved)
    arrays = [array for array in node.arrays.values() if array is not None]
    bytes += sum(array.nbytes for array in arrays)
    parameters, flops = sum(array.size for array in arrays), 2 * node.layer.multiply_adds(*inputs)
    label, merged = node.layer.label(), tuple(node.merged)
    return Step(number, node.name, label, merged, tuple(kernels), inputs, outputs, parameters, flops, bytes)


def _number(step: Step) -> str:
    return f"{step.number:4}" if step.number else ""


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))


def describe(steps: Sequence[Step]) -> str:
    """The table of `Program.describe`."""
    rows = [("step", "layer", "runs", "with", "by", "input", "output")]
    for s in steps:
        rows.append((_number(s), s.name, s.layer, ", ".join(s.merged), s.by, _shapes(s.inputs), _shapes(s.outputs)))
    return table(rows)


def count(steps: Sequence[Step]) -> str:
    """A table of what the steps hold and what work they are: parameters and multiply-adds."""
    rows = [("step", "layer", "runs", "with", "output", "parameters", "multiply-adds")]
    for s in steps:
        if s.number:
            numbers = (f"{s.parameters:,}" if s.parameters else "", f"{s.flops // 2:,}" if s.flops else "")
            rows.append((_number(s), s.name, s.layer, ", ".join(s.merged), _shapes(s.outputs), *numbers))
    totals = (f"{sum(s.parameters for s in steps):,}", f"{sum(s.flops for s in steps) // 2:,}")
    rows.append(("all", "", "", "", "", *totals))
    return table(rows, right=(5, 6), total=True)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), total: bool = False) -> str:
    """Text in columns under a header; ``right`` are the columns of numbers, and a total is set apart at the end."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    aligned = [">" if i in right else "<" for i in range(len(widths))]
    lines = [
        "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, aligned, widths, strict=True)).rstrip() for row in rows
    ]
    rule = "-" * max(map(len, lines))
    lines.insert(1, rule)
    if total:
        lines.insert(-1, rule)
    return "\n".join(lines)


@dataclass(frozen=True)
class StepTime:
    """A step and the median of its times, in seconds."""

    step: Step
    seconds: float

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations a second."""
        return self.step.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """10^9 bytes a second."""
        return self.step.bytes / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of a program goes; print it for a table. Made by `Program.profile`.

    Attributes
    ----------
    steps : tuple of StepTime
    call : float
        Seconds of a whole call, the median as well; what is beyond the sum of the steps is spent in Python.
    repeats : int
    roofline : Roofline
        What the machine can do at best, measured for the same dtype and number of threads.
    threads : int
    """

    steps: tuple[StepTime, ...]
    call: float
    repeats: int
    roofline: Roofline
    threads: int

    def fraction(self, timed: StepTime) -> float:
        """Return how much of the best possible speed a step reaches; what stays in a cache may exceed 1."""
        return self.roofline.fraction(timed.seconds, timed.step.flops, timed.step.bytes) if timed.seconds else 0.0

    def __str__(self) -> str:
        total = sum(t.seconds for t in self.steps)
        flops, least = sum(t.step.flops for t in self.steps), 0.0
        rows = [("step", "layer", "runs", "by", "output", "ms", "share", "GFLOP/s", "GB/s", "roofline")]
        for t in self.steps:
            s = t.step
            least += self.roofline.fraction(1.0, s.flops, s.bytes)
            what = " + ".join([s.layer, *s.merged])
            numbers = (f"{1e3 * t.seconds:.4f}", f"{t.seconds / max(total, 1e-12):.1%}")
            speeds = ("", "", "")
            if s.kernels:
                speeds = (f"{t.gflops:.1f}" if s.flops else "", f"{t.gbytes:.1f}", f"{self.fraction(t):.0%}")
            rows.append((_number(s), s.name, what, s.by, _shapes(s.outputs), *numbers, *speeds))
        speed = f"{flops / total / 1e9:.1f}" if flops and total else ""
        reached = f"{least / total:.0%}" if total else ""
        rows.append(("all", "", "", "", "", f"{1e3 * total:.4f}", "100.0%", speed, "", reached))
        best = self.roofline
        return (
            f"{table(rows, right=range(5, 10), total=True)}\n"
            f"a call takes {1e3 * self.call:.4f} ms, the median of {self.repeats}, on {self.threads} "
            f"thread{'s' * (self.threads != 1)}: the steps, and around them what it takes to call them from Python "
            f"and to make the outputs; at best this machine does {best.flops / 1e9:.0f} GFLOP/s and "
            f"{best.bytes / 1e9:.0f} GB/s from memory, as measured"
        )

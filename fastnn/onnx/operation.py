"""`Operation`: an ONNX operator as a layer of a `Graph`, computed in NumPy; and `Operator`, what such operators are.

An operator says what it computes on arrays, in NumPy, which shape it gives, and its gradient. An `Operation` binds its
operands: arrays that flow in the graph, constants, and numbers that follow from shapes alone (`Derived`). Where fastnn
has a kernel for what an operator does on given shapes, `Operator.lower` says so, and programs run that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ShapeError
from ..layers.base import Array, Backward, Layer, Shape, shapes
from ..layers.function import Constant
from ..random import RNG
from .moves import Bound, check_size

__all__ = ["Again", "Budget", "Data", "Derived", "Operation", "Operator", "Rule", "summed_to"]

#: what `Operator.shape` sees of an operand: its shape, its numbers where the operator asks for them, None for none
Seen = Any


class Rule:
    """What a layer of a program asks of shapes: the operator that it stands for, with what its operation sees."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def __call__(self, *shapes: Shape) -> Any:
        return self.operation.operator.follow(self.operation._seen(shapes))


class Again:
    """What an operator sees for other shapes of what its operation reads."""

    def __init__(self, operation: Operation, twice: Sequence[Shape | None]) -> None:
        self._see, self._twice = operation._seen, twice
        #: for the options of a `Bound` layer
        self.rule = Rule(operation)

    def doubled(self) -> list[Seen] | None:
        """Return what is seen for a batch twice as large; None where the network takes one size of batch only."""
        if any(shape is None for shape in self._twice):
            return None
        try:
            return self._see(self._twice)  # type: ignore[arg-type]
        except ShapeError:
            return None


def summed_to(dy: Array, shape: Shape) -> Array:
    """The gradient of what was broadcast from ``shape``."""
    lead = dy.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and dy.shape[lead + i] != 1))
    return dy.sum(axes, keepdims=True).reshape(shape) if axes else dy


class Operator:
    """One ONNX operator with its attributes."""

    #: the inputs whose numbers, and not only shapes, decide the shape of the output
    settings: ClassVar[tuple[int, ...]] = ()
    #: how many inputs it takes, at least and at most
    arity: ClassVar[tuple[int, int]] = (1, 1)
    #: how many outputs it has at most
    most_outputs: ClassVar[int] = 1
    #: the inputs that the layer of `lower` does not read, for it has their numbers
    absorbed: ClassVar[tuple[int, ...]] = ()
    #: the inputs that are weights where they stand in the file
    weights: ClassVar[tuple[int, ...]] = ()
    #: whether the first size of a shape in the file is that of the batch, whatever it is
    batch = False
    #: the one size of batch for which the network was exported, if it was: for errors
    exported: int | None = None

    def __init__(self, attributes: dict[str, Any], opset: int, outputs: int = 1) -> None:
        self.attributes = attributes
        self.opset = opset
        #: how many outputs are asked for
        self.outputs = outputs

    def check(self) -> None:
        """Raise ValueError where the attributes are no such operator's, whatever it reads."""

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        """Return the dtype of each output."""
        return (given[0] if given else None,) * self.outputs

    def shape(self, *seen: Seen) -> Any:
        """Return the shape of the output, or a tuple of them; ``settings`` come as arrays, others as shapes."""
        return seen[0]

    def compute(self, *xs: Array) -> Any:
        """Return the output, or a tuple of them."""
        raise NotImplementedError

    def forward(self, *xs: Array) -> tuple[Any, Callable[..., Sequence[Array | None]]]:
        """Return the output, and the function from its gradient to those of all operands."""
        name, y = type(self).__name__, self.compute(*xs)

        def backward(*dys: Array) -> Sequence[Array | None]:
            floats = [x is not None and x.dtype.kind == "f" for x in xs]
            made = [np.asarray(part).dtype.kind == "f" for part in (y if isinstance(y, tuple) else (y,))]
            if any(floats) and any(made):
                raise TypeError(f"{name} has no gradient here; what is trained must lie behind it")
            return [None] * len(xs)

        return y, backward

    def work(self, given: Sequence[Shape], out: int) -> int:
        """Return how many numbers are read and written, or multiplied and added, for ``out`` of the outputs."""
        return out * max(len(given), 1) + sum(map(math.prod, given))

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        """Return a layer of fastnn's that does the same on floating-point data of these shapes, if there is one.

        It reads the operands that are data; or, a `Bound`, all that the operation reads, so that ``again`` tells what
        is seen for other shapes.
        """
        return None

    def follow(self, seen: list[Seen]) -> Any:
        """Return what the `Bound` layer that `lower` gave asks for."""
        return self.shape(*seen)

    def label(self) -> str:
        return type(self).__name__


class Budget:
    """What may be computed of numbers that stand in a file, or follow from shapes: so many bytes, and so much work."""

    #: a call of NumPy takes microseconds, in which it computes so many numbers
    CALL: ClassVar[int] = 1 << 12

    def __init__(self, size: int = 1 << 30, work: int = 1 << 32) -> None:
        self._size, self._work = self._bytes, self._left = size, work

    def take(self, size: int) -> None:
        """Take bytes, or raise where they are not left."""
        self._bytes -= size
        if self._bytes < 0:
            raise ShapeError(f"the constants that the file makes take more than {self._size >> 20} MiB")

    def spend(
        self, operator: Operator, operands: Sequence[Array | None], dtypes: Sequence[np.dtype[Any] | None] = ()
    ) -> None:
        """Take what an operator needs, or raise before it computes; its outputs have 8 bytes where nothing is said."""
        counts = [math.prod(shape) for shape in shapes(check_outputs(operator, operands))]
        sizes = [8 if dtype is None else dtype.itemsize for dtype in dtypes] or [8] * len(counts)
        self.take(sum(n * size for n, size in zip(counts, sizes, strict=False)))
        self._left -= operator.work([x.shape for x in operands if x is not None], sum(counts)) + self.CALL
        if self._left < 0:
            raise ShapeError(f"to compute the constants that the file makes takes more than {self._work:,} operations")


class Data:
    """An operand that is the i-th array that the layer reads."""

    def __init__(self, index: int) -> None:
        self.index = index


class Derived:
    """An operand that follows from the shapes of arrays that the layer reads: operators on small arrays of numbers.

    steps : (operator, inputs, outputs), with values by number; the last output of the last step is the result
    sources : value -> which of the arrays that the layer reads gives its shape
    """

    def __init__(
        self,
        steps: list[tuple[Operator, tuple[int, ...], tuple[int, ...]]],
        constants: dict[int, Array | None],
        sources: dict[int, int],
        result: int,
        trying: list[Budget] | None = None,
    ) -> None:
        self._steps, self._constants, self._sources, self._result = steps, constants, sources, result
        self._known: dict[tuple[Shape, ...], Array] = {}
        #: what all of a network may take together while it is loaded; later each call has a budget of its own
        self._trying = trying

    #: what is not stored in files
    remembered: ClassVar[tuple[str, ...]] = ("_known", "_trying")

    def __call__(self, shapes: Sequence[Shape]) -> Array:
        key = tuple(tuple(shapes[i]) for i in self._sources.values())
        value = self._known.get(key)
        if value is None:
            try:
                value = self._evaluate(key)
            except ShapeError:
                raise
            except (
                ValueError,
                IndexError,
                TypeError,
                OverflowError,
            ) as error:
                raise ShapeError(f"of {', '.join(map(str, key))} follow numbers that do not fit: {error}") from error
            if len(self._known) < 8 and value.size < 1 << 12:
                self._known[key] = value
        return value

    def _evaluate(self, shapes: tuple[Shape, ...]) -> Array:
        budget = self._trying[0] if self._trying else Budget()
        values: dict[int, Any] = dict(self._constants)
        for value, shape in zip(self._sources, shapes, strict=True):
            values[value] = np.broadcast_to(np.float32(0), shape)  # of this shape, and without memory
        with np.errstate(all="ignore"):
            for operator, inputs, outputs in self._steps:
                given = [values[i] for i in inputs]
                budget.spend(operator, given)
                y = operator.compute(*given)
                for i, part in zip(outputs, y if isinstance(y, tuple) else (y,), strict=False):
                    values[i] = np.asarray(part)
        return values[self._result]

    def __deepcopy__(self, memo: Any) -> Derived:
        return self  # it has no state

    def __reduce__(self) -> Any:
        return type(self), (self._steps, self._constants, self._sources, self._result)


def seen_of(operator: Operator, operands: Sequence[Array | None]) -> list[Seen]:
    """What `Operator.shape` sees of arrays."""
    return [x if x is None or i in operator.settings else x.shape for i, x in enumerate(operands)]


def check_outputs(operator: Operator, operands: Sequence[Array | None]) -> Any:
    """Return the shape of the output, or of several; raise where the operator would give more than it may."""
    shape = operator.shape(*seen_of(operator, operands))
    for one in shape if shape and isinstance(shape[0], tuple) else (shape,):
        check_size(one)
    return shape


Operand = Data | Derived | np.ndarray | None


class Operation(Layer):
    """An ONNX operator at one place of a graph, computed in NumPy where programs have no kernel for it.

    Parameters
    ----------
    operator : Operator
    operands : sequence
        Of each input of the operator what it is.
    """

    host = grows = True

    def __init__(self, operator: Operator, operands: Sequence[Operand]) -> None:
        self.operator = operator
        self.operands = tuple(operands)

    def _values(self, xs: Sequence[ArrayLike]) -> list[Array | None]:
        arrays = [np.asarray(x) for x in xs]
        shapes = [x.shape for x in arrays]
        return [
            arrays[o.index] if isinstance(o, Data) else o(shapes) if isinstance(o, Derived) else o
            for o in self.operands
        ]

    def _seen(self, shapes: Sequence[Shape]) -> list[Seen]:
        seen: list[Seen] = []
        for i, operand in enumerate(self.operands):
            setting = i in self.operator.settings
            if isinstance(operand, Data):
                if setting:
                    raise ShapeError(
                        f"the shape that it gives depends on the numbers of its input {i}, and is known only as it runs"
                    )
                seen.append(tuple(shapes[operand.index]))
            else:
                value = operand(shapes) if isinstance(operand, Derived) else operand
                seen.append(value if setting or value is None else value.shape)
        return seen

    def __call__(self, *xs: ArrayLike) -> Any:
        values = self._values(xs)
        check_outputs(self.operator, values)
        with np.errstate(all="ignore"):
            y = self.operator.compute(*values)  # type: ignore[arg-type]
        return tuple(map(np.asarray, y)) if isinstance(y, tuple) else np.asarray(y)

    def forward(self, *xs: ArrayLike, rng: RNG = None) -> tuple[Any, Backward]:  # type: ignore[override]
        values = self._values(xs)
        check_outputs(self.operator, values)
        with np.errstate(all="ignore"):
            y, behind = self.operator.forward(*values)  # type: ignore[arg-type]
        y = tuple(map(np.asarray, y)) if isinstance(y, tuple) else np.asarray(y)

        def backward(*dys: Array | None) -> tuple[Array | None, ...]:
            with np.errstate(all="ignore"):
                gradients = behind(*dys)
            dxs: list[Array | None] = [None] * len(xs)
            for operand, dx in zip(self.operands, gradients, strict=True):
                if isinstance(operand, Data) and dx is not None:
                    at = operand.index
                    dxs[at] = dx if dxs[at] is None else dxs[at] + dx
            return tuple(dxs)

        return y, backward

    def output_shape(self, *shapes: Shape) -> Any:
        found = self.operator.shape(*self._seen(shapes))
        several = bool(found) and isinstance(found[0], tuple)
        return tuple(check_size(s) for s in found) if several else check_size(found)

    def trace(self, builder: Any, *xs: Any) -> Any:
        """Be the layer that the operator knows for these shapes, or compute in NumPy between compiled pieces."""
        shapes, twice = [x.shape for x in xs], [x.twice for x in xs]
        inside = (*self.operator.settings, *self.operator.absorbed)
        plain = [o for i, o in enumerate(self.operands) if i not in inside and o is not None]
        if any(isinstance(o, Data) for i, o in enumerate(self.operands) if i in self.operator.absorbed):
            return builder.add(self, *xs)
        fixed = {id(o): self._fixed(o, shapes, twice) for o in plain if not isinstance(o, Data)}
        if any(value is None for value in fixed.values()):
            return builder.add(self, *xs)
        if len(fixed) == len(plain) == len(self.operands) == self.operator.outputs == 1:
            y = self.operator.compute(*fixed.values())  # type: ignore[arg-type]
            return builder.trace("constant", Constant(y))
        layer = self._lowered(shapes, twice)
        if layer is None or (fixed and isinstance(layer, Bound)):
            return builder.add(self, *xs)
        if isinstance(layer, Bound):
            return layer.trace(builder, *xs)
        given = [
            xs[o.index] if isinstance(o, Data) else builder.trace(f"constant{i}", Constant(fixed[id(o)]))  # type: ignore[arg-type]
            for i, o in enumerate(plain)
        ]
        return layer.trace(builder, *given)

    @staticmethod
    def _fixed(operand: Any, shapes: list[Shape], twice: list[Shape | None]) -> Array | None:
        """The numbers of an operand that are the same for any batch, where they are floating; None of others."""
        value = operand
        if isinstance(operand, Derived):
            if None in twice:
                return None
            try:
                value, other = operand(shapes), operand(twice)  # type: ignore[arg-type]
            except ShapeError:  # of a network that takes one size of batch only
                return None
            if not np.array_equal(value, other):
                return None
        return value if isinstance(value, np.ndarray) and value.dtype.kind == "f" else None

    def _lowered(self, shapes: list[Shape], twice: list[Shape | None]) -> Layer | None:
        if not self.floating:
            return None
        try:
            seen = self._seen(shapes)
        except ShapeError:
            return None
        return self.operator.lower(seen, Again(self, twice))

    #: whether all that flows through it are floating-point numbers
    floating = True

    def label(self) -> str:
        return self.operator.label()

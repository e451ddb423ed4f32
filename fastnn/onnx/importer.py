"""From an ONNX model to a `Graph`: values are followed in order, each known as data that flows, as a constant, or as
numbers that follow from shapes alone; what is constant is computed once, and what follows from shapes is computed from
the shapes of the arrays that come. `builders` says which operators become fastnn's own layers; the others become
`Operation`s.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ShapeError, TooLargeError, UnsupportedOperatorError
from ..layers.base import Array, Layer, Shape, _some, shapes
from ..layers.container import Identity
from ..layers.function import Constant, Parameter
from ..layers.graph import Graph
from ..layers.graph import Node as GraphNode
from . import elementwise, reducing, shaping, windows
from .fusions import fuse
from .model import MAX_NODES, Foreign, Function, Model, Node, Port, Reference
from .moves import check_size
from .operation import Budget, Data, Derived, Operand, Operation, Operator

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "Importer", "Input", "Value", "operators"]

OLDEST_OPSET, NEWEST_OPSET = 6, 28

#: What is computed at load may take so many bytes in all: networks are passed on whose weights are made by
#: ConstantOfShape, VGG-19's 575 MB in a file of 9 kB.
_MOST_FOLDED = 1 << 30
#: How many numbers may be read, written, and multiplied and added for it; each call of NumPy counts as some thousand.
#: Seconds: sums of 2^28 numbers take 0.2 s, products of matrices less, convolutions in NumPy five times as long.
_MOST_WORK = 1 << 32
#: so many operators may stand between a shape and what is made of it, for each and for all that ask
_MOST_DERIVED, _MOST_ASKED = 10_000, 50_000
#: what functions stand for may have so many inputs, outputs and attributes; networks have some ten for each node
_MOST_WRITTEN = 10 * MAX_NODES
#: of a name in a function that becomes part of others
_LONGEST_NAME = 80
#: what stands for a size that a network leaves open, when shapes are tried
_BATCH, _OPEN = 2, 224

_TABLE: dict[str, type[Operator]] = {
    **elementwise.OPERATORS,
    **shaping.OPERATORS,
    **reducing.OPERATORS,
    **windows.OPERATORS,
}
#: operators on small numbers, of which shapes are made
_SHAPELY = frozenset(
    (
        *(
            "Shape",
            "Size",
            "Gather",
            "Slice",
            "Concat",
            "Squeeze",
            "Unsqueeze",
            "Reshape",
            "Flatten",
            "Identity",
            "Transpose",
            "Cast",
        ),
        *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Floor", "Ceil", "Round", "Sqrt", "Neg", "Abs", "Min", "Max"),
        *("Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Not", "And", "Or"),
        *("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Range", "ConstantOfShape", "Expand", "Tile"),
    )
)
#: operators all of whose inputs are of one type
_ALIKE = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Concat"),
        *("PRelu", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"),
    )
)
#: as the largest number of inputs: any
_ANY_NUMBER = 1 << 16
#: operators with a kernel for which numbers in the file are better arrays of the graph
_LOWERED = frozenset({"Add", "Sub", "Mul", "Sum", "Concat", "Expand"})


def operators() -> list[str]:
    """Return the names of the operators that can be imported."""
    return sorted({*_TABLE, "Constant"})


class Input(Identity):
    """An input of a network from a file: checks what comes by what the file says of it.

    Parameters
    ----------
    dtype : dtype
    shape : sequence, optional
        Sizes that the file fixes; a name or None where it does not. The first, that of the batch, may be any.
    name : str
        For errors.
    """

    name = ""  # in files of programs from before there were names

    def __init__(self, dtype: np.dtype[Any], shape: Sequence[int | str | None] | None, name: str = "") -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self.shape = None if shape is None else tuple(shape)
        self.host = self.dtype.kind != "f"  # type: ignore[misc]

    def _check(self, shape: Shape) -> Shape:
        declared = self.shape
        if declared is not None and (
            len(shape) != len(declared)
            or any(isinstance(d, int) and d != n for n, d in zip(shape[1:], declared[1:], strict=True))
        ):
            sizes = ["N" if isinstance(d, int) and not i else str(d or "?") for i, d in enumerate(declared)]
            expected = ", ".join(sizes)
            raise ShapeError(f"expected ({expected}), got {shape}")
        return shape

    def __call__(self, x: ArrayLike) -> Array:
        array = np.asarray(x)
        self._check(array.shape)
        wanted: Any = np.dtype(np.float32) if self.dtype == np.float16 else self.dtype
        who = f"input {self.name!r}: " if self.name else ""
        if wanted.kind == "f":
            if array.dtype.kind not in "biuf":
                raise TypeError(f"{who}expected numbers, got {array.dtype}")
            return array if array.dtype in (np.float64, wanted) else array.astype(wanted)
        if array.dtype == wanted:
            return array
        whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool(np.all(array == np.trunc(array))))
        if not whole or wanted.kind == "b":
            raise TypeError(f"{who}expected {wanted}, got {array.dtype}{' with fractions' if not whole else ''}")
        limits = np.iinfo(wanted)
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        # As Python's numbers, for which there is no limit; infinities and what is beyond them are refused too.
        if not (math.isfinite(low) and math.isfinite(high) and limits.min <= int(low) and int(high) <= limits.max):
            raise ValueError(f"{who}expected {wanted}, got {array.dtype} from {low} to {high}, which does not fit")
        return array.astype(wanted)

    def output_shape(self, shape: Shape) -> Shape:
        return self._check(tuple(shape))

    def label(self) -> str:
        return "Input"


@dataclass
class Value:
    """What is known of a value: its dtype, and its name in the graph, its numbers, or how they follow from shapes."""

    dtype: np.dtype[Any] | None
    #: the name in the graph of data that flows
    data: str | None = None
    constant: Any = None
    #: which step gives it, of those that follow from shapes
    derived: int | None = None
    #: the initializer from which a constant comes, and how it was moved since: the same moves give the same array
    origin: str = ""
    moves: int = 0

    @property
    def floating(self) -> bool:
        return self.dtype is not None and self.dtype.kind == "f"


@dataclass
class Item:
    """A node with the opset that it is written in, and the name that it goes by."""

    node: Node
    opset: int
    name: str


class _Step(NamedTuple):
    """One operator between shapes and numbers that follow from them."""

    item: Item
    operator: Operator
    operands: tuple[Value | None, ...]
    value: Value


class _Program(NamedTuple):
    """How a number follows from shapes: see `Derived`; ``sources`` are values here, and those that were made of it."""

    steps: list[Any]
    constants: dict[int, Any]
    sources: dict[int, Value]
    made: dict[tuple[int, ...], Derived]


class Importer:
    """One import; `graph` is what comes of it."""

    def __init__(self, model: Model, trained: Iterable[str] = ()) -> None:
        assert model.network is not None
        self._chosen = {trained} if isinstance(trained, str) else set(trained)
        constants = (name for node in model.network.nodes if node.op == "Constant" for name in node.outputs)
        known = {*model.network.tensors, *constants} if self._chosen else set()
        if self._chosen - known:
            name = min(self._chosen - known)
            similar = get_close_matches(name, known, 1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(f"load: trained names {name!r}, and the file has no such array{hint}")
        self.network = model.network
        self.model = model
        self.values: dict[str, Value] = {}
        self.nodes: list[GraphNode] = []
        self._names = _Names()
        self._data_names = _Names()
        self._arrays: dict[Any, Array] = {}
        self._emitted: dict[Any, str] = {}
        #: value of the graph -> the layer that gives it, where nothing else has been merged behind it
        self.makers: dict[str, Layer] = {}
        #: value of the graph -> the node that gives it
        self.given: dict[str, GraphNode] = {}
        #: value of the graph -> a shape that it might have, where one was found
        self.probes: dict[str, Shape | None] = {}
        self._budget = Budget(_MOST_FOLDED, _MOST_WORK)
        #: initializers of which there is an array of the network's own
        self._copied: set[str] = set()
        #: how constants were moved -> its number
        self._moves: dict[Any, int] = {}
        #: arrays of the file -> the constant that is made of each
        self._constants: dict[int, Value] = {}
        # Numbers that follow from shapes: how each comes about.
        self._derived: list[_Step] = []
        self._asked = 0
        self._programs: dict[int, _Program] = {}
        #: what they take while shapes are tried; empty once that is over
        self._trying = [Budget(_MOST_FOLDED, _MOST_WORK)]

    # ---- the whole ----

    def graph(self) -> Graph:
        """Return the network as a graph of layers."""
        self._check_opsets()
        results = [port.name for port in self.network.outputs]
        items = self._needed(self._ordered(self._expanded()))
        self._check_operators(items)
        for item in items:
            _check_inputs(item)
        items = self._needed(fuse(items, self.network.tensors, results))
        self.readers = Counter(name for item in items for name in item.node.inputs if name)
        self.readers.update(results)
        self._trained = self._weights(items)
        for name, tensor in self.network.tensors.items():
            if isinstance(tensor, Foreign):
                self.values[name] = Value(None, constant=tensor)
            else:
                self.values[name] = Value(tensor.dtype, constant=kept(tensor), origin=name)
        inputs = [port for port in self.network.inputs if port.name not in self.network.tensors]
        first = {port.shape[0] if port.shape else None for port in inputs}
        #: the one size of batch for which the network was exported, if it was
        self.batch = first.pop() if len(first) == 1 else None
        #: whether the file fixes all sizes
        self.static = all(port.shape is not None and all(isinstance(n, int) for n in port.shape) for port in inputs)
        for port in inputs:
            self._input(port)
        for item in items:
            try:
                self._import(item)
            except (ShapeError, TypeError, ValueError, IndexError, OverflowError) as error:
                if isinstance(error, UnsupportedOperatorError):
                    raise
                raise ValueError(f"node {item.name!r} ({item.node.op}, opset {item.opset}): {error}") from error
        outputs = self._outputs()
        self._drop_dead(outputs)
        self._trying.clear()
        return Graph(*self.nodes, inputs=[port.name for port in inputs], outputs=outputs)

    def _check_opsets(self) -> None:
        version = self.model.opsets.get("")
        if version is not None and not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise UnsupportedOperatorError(
                f"it is written in opset {version}; fastnn reads {OLDEST_OPSET} to {NEWEST_OPSET}"
            )

    def _check_operators(self, items: Iterable[Item]) -> None:
        """Raise one error for all nodes that cannot be imported, before any work."""
        unknown: dict[tuple[str, str, int], list[str]] = {}
        for item in items:
            node = item.node
            if node.domain or not (node.op in _TABLE or node.op == "Constant") or _differs(item):
                unknown.setdefault((node.domain, node.op, item.opset), []).append(item.name)
        if unknown:
            parts = [
                f"{f'{domain}.' if domain else ''}{op} (opset {opset}; node {names[0]!r}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
                for (domain, op, opset), names in unknown.items()
            ]
            more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
            raise UnsupportedOperatorError(f"operators that fastnn does not have: {', '.join(parts[:8])}{more}")

    def _input(self, port: Port) -> None:
        if isinstance(port.dtype, Foreign) or port.dtype is None:
            what = port.dtype.what if isinstance(port.dtype, Foreign) else "of no type"
            if not self.readers[port.name]:
                return
            raise UnsupportedOperatorError(
                f"input {port.name!r} is {what}; fastnn takes tensors of numbers and booleans"
            )
        if not port.name:
            raise ValueError("an input has no name")
        if port.name in self.values:
            raise ValueError(f"two inputs are called {port.name!r}")
        self._data_names.take(port.name)
        probe = None
        if port.shape is not None:
            probe = tuple(d if isinstance(d, int) else _OPEN if i else _BATCH for i, d in enumerate(port.shape))
        layer = Input(port.dtype, port.shape, port.name)
        name = self.unique_value(f"{port.name}:checked")
        self.nodes.append(GraphNode(self.unique(port.name), layer, port.name, outputs=[name]))
        self.values[port.name] = Value(port.dtype, data=name)
        self.probes[name] = probe

    def _outputs(self) -> list[str]:
        """The names of the graph's outputs, which are the model's; what is none of the graph's becomes one."""
        names = [port.name for port in self.network.outputs]
        if not names:
            raise ValueError("the network has no output")
        taken: set[str] = set()
        found = []
        for name in names:
            if name not in self.values:
                raise ValueError(f"output {name!r} is given by no node, input or initializer")
            value = self.values[name]
            data = self.data(value, name)
            if data in taken or data != name:
                new = self.unique_value(name)
                layer = Operation(_TABLE["Identity"]({}, NEWEST_OPSET), [Data(0)])
                if value.floating:
                    layer = Identity()  # type: ignore[assignment]
                self.nodes.append(GraphNode(self.unique(name), layer, data, outputs=[new]))
                data = new
            taken.add(data)
            found.append(data)
        return found

    def _drop_dead(self, outputs: Sequence[str]) -> None:
        needed, kept_nodes = set(outputs), []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
                kept_nodes.append(node)
        self.nodes = kept_nodes[::-1]

    # ---- the nodes in order ----

    def _expanded(self) -> list[Item]:
        """The nodes, with those that the file defines itself replaced by what they stand for."""
        functions, found = self.model.functions, []  # type: dict[Any, Function], list[Item]
        versions, none = self.model.opsets, {}  # type: dict[str, int], dict[str, int]
        pending = [(node, none, 0) for node in reversed(self.network.nodes)]
        steps = written = 0
        while pending:
            node, own, depth = pending.pop()
            steps += 1
            function = functions.get((node.domain, node.op, node.overload))
            if function is None:
                opset = own.get(node.domain, versions.get(node.domain, 0))
                found.append(Item(node, opset, node.name or f"{node.op}_{len(found)}"))
                continue
            if depth >= 32 or steps > MAX_NODES or len(pending) + len(function.nodes) > MAX_NODES:
                raise ValueError(f"function {function.name!r} calls itself, or stands for more than {MAX_NODES} nodes")
            inner = _inlined(node, function, steps)
            written += sum(len(n.inputs) + len(n.outputs) + len(n.attributes) for n in inner)
            if written > _MOST_WRITTEN:
                raise ValueError(
                    f"node {node.name!r}: what functions stand for has more than {_MOST_WRITTEN} inputs, outputs and "
                    "attributes"
                )
            pending.extend((n, function.opsets, depth + 1) for n in reversed(inner))
        return found

    def _ordered(self, items: list[Item]) -> list[Item]:
        """The items in an order in which they can run, theirs as far as it can."""
        makers: dict[str, int] = {}
        known = {*self.network.tensors, *(port.name for port in self.network.inputs)}
        for i, item in enumerate(items):
            for name in item.node.outputs:
                if name and (name in makers or name in known):
                    other = items[makers[name]].name if name in makers else "an input or initializer"
                    raise ValueError(f"value {name!r} is given by node {item.name!r} and by {other!r}")
                makers[name] = i
        waiting: list[int] = []
        readers: dict[int, list[int]] = {}
        for i, item in enumerate(items):
            before = set()
            for name in item.node.inputs:
                if not name or name in known:
                    continue
                if name not in makers:
                    raise ValueError(
                        f"node {item.name!r} ({item.node.op}) reads {name!r}, which is no input, no initializer and "
                        "given by no node"
                    )
                before.add(makers[name])
            waiting.append(len(before))
            for j in before:
                readers.setdefault(j, []).append(i)
        ready = [i for i, count in enumerate(waiting) if not count]
        order = []
        while ready:
            i = heapq.heappop(ready)
            order.append(items[i])
            for j in readers.get(i, ()):
                waiting[j] -= 1
                if not waiting[j]:
                    heapq.heappush(ready, j)
        if len(order) < len(items):
            raise ValueError(f"the nodes form a cycle: {_cycle(items, makers, waiting)}")
        return order

    def _needed(self, items: list[Item]) -> list[Item]:
        """Those of the items that an output needs."""
        needed, found = {port.name for port in self.network.outputs}, []
        for item in reversed(items):
            if not needed.isdisjoint(name for name in item.node.outputs if name):
                needed.update(item.node.inputs)
                found.append(item)
        return found[::-1]

    # ---- one node ----

    def _import(self, item: Item) -> None:
        node = item.node
        if node.op == "Constant":
            self._constant(item)
            return
        for name, attribute in node.attributes.items():
            if isinstance(attribute, (Foreign, Reference)):
                what = (
                    attribute.what if isinstance(attribute, Foreign) else "an attribute of a function that it is not in"
                )
                raise ValueError(f"attribute {name!r} is {what}")
        operands = [self.values[name] if name else None for name in node.inputs]
        while operands and operands[-1] is None:
            operands.pop()
        for operand in operands:
            if operand is not None and isinstance(operand.constant, Foreign):
                raise ValueError(f"it reads {operand.constant.what}, which fastnn does not have")
        outputs = node.outputs  # those that something reads
        while len(outputs) > 1 and not self.readers[outputs[-1]]:
            outputs.pop()
        kind = _TABLE[node.op]
        operator = kind(node.attributes, item.opset, max(len(outputs), 1))
        _check_kinds(node.op, operands)
        operator.check()
        dtypes = operator.dtypes(*(None if o is None else o.dtype for o in operands))
        if len(outputs) > kind.most_outputs or len(dtypes) < len(outputs):
            raise ValueError(f"gives {min(kind.most_outputs, len(dtypes))} outputs, and {len(outputs)} are asked for")
        known = operands[:1] if node.op == "CastLike" else operands  # of the other its dtype is enough
        if all(o is None or o.constant is not None for o in known):
            self._fold(item, operator, operands, outputs, dtypes)
            return
        if self._derives(item, operands):
            value = self.values[outputs[0]] = Value(dtypes[0], derived=len(self._derived))
            self._derived.append(_Step(item, operator, tuple(operands), value))
            return
        from .builders import BUILDERS, FINISHERS

        builder = BUILDERS.get(node.op)
        if builder is not None and builder(self, item, operands):
            return
        self.operation(item, operator, operands, outputs, dtypes)
        if node.op in FINISHERS:
            FINISHERS[node.op](self, item, operands)

    def _constant(self, item: Item) -> None:
        (name,) = item.node.outputs or ("",)
        attributes = item.node.attributes
        if len(attributes) != 1:
            raise ValueError("expected one value")
        ((kind, value),) = attributes.items()
        if isinstance(value, (Foreign, Reference)) or kind in ("value_string", "value_strings", "sparse_value"):
            self.values[name] = Value(None, constant=value if isinstance(value, Foreign) else Foreign("a string"))
            return
        if isinstance(value, np.ndarray) and id(value) in self._constants:  # of a function that is called again
            self.values[name] = self._constants[id(value)]
            return
        stored = value
        if kind in ("value_int", "value_ints"):
            value = np.array(value, np.int64)
        elif kind in ("value_float", "value_floats"):
            value = np.array(value, np.float32)
        elif kind != "value" or not isinstance(value, np.ndarray):
            raise ValueError(f"has no value but {kind!r}")
        self.values[name] = self._constants[id(stored)] = Value(value.dtype, constant=kept(value), origin=name)

    def _fold(
        self,
        item: Item,
        operator: Operator,
        operands: Sequence[Value | None],
        outputs: Sequence[str],
        dtypes: Sequence[Any],
    ) -> None:
        """Compute what is constant, once."""
        arrays = [None if o is None else o.constant for o in operands]
        self._budget.spend(operator, arrays, dtypes)
        with np.errstate(all="ignore"):
            y = operator.compute(*arrays)  # type: ignore[arg-type]
        moved = [o for o in operands if o is not None and o.origin]
        origin = moved[0].origin if len(moved) == 1 and isinstance(operator, _MOVES) else ""
        for name, part, dtype in zip(outputs, y if isinstance(y, tuple) else (y,), dtypes, strict=False):
            array = np.asarray(part)
            moves = 0
            if origin:
                move = moved[0].moves, item.node.op, repr(sorted(item.node.attributes.items())), array.shape, dtype
                moves = self._moves.setdefault(move, len(self._moves) + 1)
            self.values[name] = Value(dtype, constant=array, origin=origin, moves=moves)

    def _derives(self, item: Item, operands: Sequence[Value | None]) -> bool:
        """Whether what a node gives follows from shapes alone."""
        op = item.node.op
        if op not in _SHAPELY or len(self._derived) >= _MOST_DERIVED or len(item.node.outputs) != 1:
            return False
        if op in ("Shape", "Size"):
            return True
        first = operands[0]
        if op == "Expand" and first is not None and first.constant is not None and self._is_table(first):
            return False  # a token for each image, say, which programs spread
        return all(o is None or o.constant is not None or o.derived is not None for o in operands)

    @staticmethod
    def _is_table(value: Value) -> bool:
        """Whether a constant is data that flows in the graph: an array of the file with more than one number."""
        return bool(value.floating and value.origin and value.constant.size > 1)

    # ---- what builders use ----

    def unique(self, name: str) -> str:
        """Return a name for a node that no other has."""
        return self._names.take(name or "node")

    def unique_value(self, name: str) -> str:
        """Return a name for a value that no other has."""
        return self._data_names.take(name, self.values)

    def weight(self, value: Value, how: str = "", change: Any = None) -> Array:
        """Return a constant as an array of the network's own; the same for the same initializer."""
        key = (value.origin or id(value), value.moves, how)
        if key not in self._arrays:
            if value.origin in self._copied:  # one for each way in which it is used
                self._budget.take(value.constant.nbytes)
            elif value.origin:
                self._copied.add(value.origin)
            array = value.constant if change is None else change(value.constant)
            dtype = array.dtype if array.dtype.kind == "f" else np.float32
            own = array.dtype == dtype and array.flags.carray and array.flags.owndata  # made here, and by no file
            self._arrays[key] = array if own else np.array(array, dtype, order="C")
        return self._arrays[key]

    def name_of(self, item: Item, *operands: Value | None) -> str:
        """Return a name for a layer: that of its weights without the last part, or else the node's."""
        return self.unique(_owner(operands) or item.name)

    def rename(self, value: Value, *operands: Value | None) -> None:
        """Give the layer that gives a value the name of weights that come after it."""
        owner = _owner(operands)
        if owner:
            self.given[value.data or ""].name = self.unique(owner)

    def is_weight(self, value: Value) -> bool:
        """Whether a constant of more than one number is trained: see `_weights`."""
        return bool(
            value.floating and value.constant is not None and value.constant.size > 1 and value.origin in self._trained
        )

    def _weights(self, items: Iterable[Item]) -> set[str]:
        """The arrays of the file that are trained: what operators take for weights, and biases added to products.

        They are followed through what only moves them. All others are constants: a file does not tell the mean that a
        network takes from its images from a table that was learned.
        """
        origins = {name: name for name in self.network.tensors}
        found: set[str] = set()
        products: set[str] = set()
        for item in items:
            node = item.node
            if node.op == "Constant":
                origins.update((name, name) for name in node.outputs)
                continue
            names = [origins.get(name, "") for name in node.inputs]
            if node.op in _MOVED and names[0]:
                origins[node.outputs[0]] = names[0]
            found.update(name for i, name in enumerate(names) if i in _TABLE[node.op].weights)
            if node.op in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
                products.update(node.outputs)
            elif node.op == "Add" and not products.isdisjoint(node.inputs):
                found.update(names)
        return (found | self._chosen) - {""}

    def data(self, value: Value, name: str) -> str:
        """Return the name in the graph of a value; what is constant becomes a node, trained if it is a weight."""
        if value.data is not None:
            return value.data
        if value.constant is not None:
            key = value.origin or id(value), value.moves
            if key not in self._emitted:
                array = Parameter(value.constant) if self.is_weight(value) else Constant(value.constant)
                new = self._emitted[key] = self.unique_value(value.origin or f"{name}:constant")
                self.nodes.append(GraphNode(self.unique(value.origin or new), array, outputs=[new]))
                self.probes[new] = value.constant.shape
            return self._emitted[key]
        sources: dict[str, int] = {}
        program = self._program(value, sources)
        if program is None:
            self._unroll(value)
            assert value.data is not None
            return value.data
        layer = Operation(_TABLE["Identity"]({}, NEWEST_OPSET), [program])
        layer.floating = False
        value.data = self.unique_value(name)
        self.nodes.append(GraphNode(self.unique(name), layer, *sources, outputs=[value.data]))
        self.probes[value.data] = self._probe(layer, sources)
        return value.data

    def _program(self, value: Value, reads: dict[str, int]) -> Derived | None:
        """How a value follows from shapes; ``reads`` are the arrays that the layer reads, to which those are added.

        None where too many steps were asked for: each value has all of its own, and of a long chain each may be read.
        """
        assert value.derived is not None
        program = self._programs.get(value.derived)
        if program is None:
            needed = self._steps_to(value, lambda steps: self._asked + len(steps) > _MOST_ASKED)
            if needed is None:
                self._asked = _MOST_ASKED
                return None
            self._asked += len(needed)
            program = self._programs[value.derived] = _Program([], {}, {}, {})
            for step in needed:
                numbers = []
                for operand in self._derived[step].operands:
                    number = None if operand is None else operand.derived
                    if number is None:
                        number = -1 - len(program.constants) - len(program.sources)
                        if operand is not None and operand.constant is None:
                            program.sources[number] = operand
                        else:
                            program.constants[number] = None if operand is None else operand.constant
                    numbers.append(number)
                program.steps.append((self._derived[step].operator, tuple(numbers), (step,)))
        places = {
            number: reads.setdefault(self.data(source, "shape"), len(reads))
            for number, source in program.sources.items()
        }
        key = tuple(places.values())
        if key not in program.made:
            program.made[key] = Derived(program.steps, program.constants, places, value.derived, self._trying)
        return program.made[key]

    def _steps_to(self, value: Value, stop: Callable[[set[int]], bool], known: bool = False) -> list[int] | None:
        """The steps that a value needs, in order, or None where there are too many; without those ``known`` as data."""
        assert value.derived is not None
        needed, pending = set(), [value.derived]
        while pending:
            step = pending.pop()
            if step in needed:
                continue
            needed.add(step)
            if stop(needed):
                return None
            pending += [
                o.derived
                for o in self._derived[step].operands
                if o is not None and o.derived is not None and not (known and o.data is not None)
            ]
        return sorted(needed)

    def _unroll(self, value: Value) -> None:
        """Make layers of the steps to a value, each once, so that it and those before are data."""
        for number in self._steps_to(value, lambda needed: False, known=True) or ():
            step = self._derived[number]
            reads: dict[str, int] = {}
            bound: list[Operand] = [
                o if o is None else o.constant if o.constant is not None
                else Data(reads.setdefault(self.data(o, step.item.name), len(reads)))
                for o in step.operands
            ]  # fmt: skip
            layer = Operation(step.operator, bound)
            layer.floating = False
            step.value.data = self.unique_value(step.item.node.outputs[0])
            self.nodes.append(GraphNode(self.unique(step.item.name), layer, *reads, outputs=[step.value.data]))
            self.probes[step.value.data] = self._probe(layer, reads)

    def emit(self, item: Item, layer: Layer, inputs: Sequence[Value], name: str = "", output: str = "") -> Value:
        """Add a layer of one output, which is the item's unless another name is given; return its value."""
        reads = [self.data(value, item.name) for value in inputs]
        given = self.unique_value(output or item.node.outputs[0])
        self.given[given] = GraphNode(name or self.unique(item.name), layer, *reads, outputs=[given])
        self.nodes.append(self.given[given])
        self.probes[given] = self._probe(layer, reads)
        self.makers[given] = layer
        value = Value(inputs[0].dtype, data=given)
        if not output:
            self.values[item.node.outputs[0]] = value
        return value

    def _probe(self, layer: Layer, reads: Iterable[str]) -> Any:
        """The shape that a layer gives for shapes that its inputs might have."""
        given = [self.probes.get(name) for name in reads]
        if any(shape is None for shape in given):
            return None
        try:
            found: Any = layer.output_shape(*given)  # type: ignore[arg-type]
        except TooLargeError:
            if self.static:
                raise
            return None
        except (ShapeError, ValueError, TypeError, IndexError):
            return None
        if self.static:
            for shape in shapes(found):
                check_size(shape)
        return found

    def rank(self, value: Value) -> int | None:
        """Return how many axes a value has, where that is known."""
        if value.constant is not None:
            return int(value.constant.ndim)
        probe = None if value.data is None else self.probes.get(value.data)
        return None if probe is None else len(probe)

    def operation(
        self,
        item: Item,
        operator: Operator,
        operands: Sequence[Value | None],
        outputs: Sequence[str],
        dtypes: Sequence[Any],
    ) -> None:
        """Add an operator as an `Operation`."""
        bound: list[Operand] = []
        reads: dict[str, int] = {}
        settings = operator.settings
        for i, operand in enumerate(operands):
            if operand is None:
                bound.append(None)
            elif operand.constant is not None and (
                i in settings or not operand.floating or not (item.node.op in _LOWERED or self._is_table(operand))
            ):
                bound.append(operand.constant)
            elif operand.data is None and operand.derived is not None and (program := self._program(operand, reads)):
                bound.append(program)
            else:
                bound.append(Data(reads.setdefault(self.data(operand, item.name), len(reads))))
        layer = Operation(operator, bound)
        aside = (*settings, *operator.absorbed)
        flows = [o for i, o in enumerate(operands) if o is not None and i not in aside]
        layer.floating = all(o.floating for o in flows) and all(d is not None and d.kind == "f" for d in dtypes)
        self._follow_batch(operator, bound, list(reads))
        operator.exported = self.batch if isinstance(self.batch, int) else None
        if isinstance(operator, shaping.Pad):
            operator.value = _pad_value(operator, operands)
        if isinstance(operator, shaping.Gather) and isinstance(bound[1], np.ndarray):
            operator.know(bound[1])
        probe = self._probe(layer, reads)
        given = [self.unique_value(name or f"{item.name}:{i}") for i, name in enumerate(outputs)]
        made = GraphNode(self.unique(item.name), layer, *reads, outputs=given)
        self.nodes.append(made)
        several = probe if probe and isinstance(probe[0], tuple) else (probe,) * len(given)
        for name, new, dtype, one in zip(outputs, given, dtypes, several, strict=True):
            self.probes[new], self.given[new] = one, made
            if name:
                self.values[name] = Value(dtype, data=new)

    def _follow_batch(self, operator: Operator, bound: Sequence[Operand], reads: Sequence[str]) -> None:
        """A network for one size of batch may name it where it makes shapes: let it be that of what comes."""
        place = {shaping.Reshape: 1, shaping.Resize: 3}.get(type(operator), len(bound))
        if place >= len(bound) or not isinstance(self.batch, int):
            return
        data, target = bound[0], bound[place]
        if not isinstance(data, Data) or not isinstance(target, np.ndarray) or not target.size:
            return
        shape = self.probes.get(reads[data.index])
        operator.batch = bool(shape and shape[0] == self.batch == target.reshape(-1)[0])


_MOVED = frozenset(("Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Flatten"))
_MOVES = tuple(_TABLE[name] for name in _MOVED)


def _differs(item: Item) -> bool:
    """Whether a node of opset 6 means what it does not since: axes to spread over."""
    return item.opset <= 6 and "broadcast" in item.node.attributes and "axis" in item.node.attributes


def _check_inputs(item: Item) -> None:
    """Raise where a node has more or fewer inputs than its operator takes."""
    node = item.node
    if node.op == "Constant":
        return
    least, most = _TABLE[node.op].arity
    count = max((i + 1 for i, name in enumerate(node.inputs) if name), default=0)
    needed = count if most >= _ANY_NUMBER else least
    if not least <= count <= most or not all(node.inputs[:needed]):
        expected = str(least) if least == most else f"{least} to {most}" if most < _ANY_NUMBER else f"{least} or more"
        expected += " input" if expected == "1" else " inputs"
        came, names = sum(map(bool, node.inputs)), _some([*map(repr, node.inputs)]) or "none"
        raise ValueError(
            f"node {item.name!r} ({node.op}, opset {item.opset}): expected {expected}, got {came}: {names}"
        )


def _check_kinds(op: str, operands: Sequence[Value | None]) -> None:
    """Raise where an operator that takes numbers of one type gets some with a fraction and others without."""
    kinds = {o.dtype.kind == "f": o.dtype for o in operands if o is not None and o.dtype is not None}
    if op in _ALIKE and len(kinds) > 1:
        raise ValueError(f"its inputs are of different types: {kinds[True]} and {kinds[False]}")


def _pad_value(operator: shaping.Pad, operands: Sequence[Value | None]) -> float | None:
    """The number that fills the border, where it is known."""
    if operator.opset < 11:
        return float(operator.attributes.get("value", 0.0))
    value = operands[2] if len(operands) > 2 else None
    if value is None:
        return 0.0
    return None if value.constant is None or value.constant.size != 1 else float(value.constant.reshape(-1)[0])


def kept(array: Array) -> Array:
    """Return an array as fastnn computes with it: float16 as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _owner(operands: Iterable[Value | None]) -> str:
    """The name of the layer that weights belong to, by their own names; "" where those do not say."""
    for operand in operands:
        owner, _, last = ("" if operand is None else operand.origin).rpartition(".")
        if owner and last in ("weight", "bias", "gamma", "beta", "running_mean"):
            return owner
    return ""


class _Names:
    """Names that are given once each; the next of many equal ones is found at once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def take(self, name: str, others: Container[str] = ()) -> str:
        """Return the name, or with a number behind it, so that it is neither taken nor one of ``others``."""
        found, i = name, self._counts.get(name, 2)
        while found in self._taken or found in others:
            found, i = f"{name}_{i}", i + 1
        self._counts[name] = i
        self._taken.add(found)
        return found


def _cycle(items: list[Item], makers: dict[str, int], waiting: list[int]) -> str:
    """Some nodes that read one another."""
    at = next(i for i, count in enumerate(waiting) if count)
    path: dict[int, int] = {}
    while at not in path:
        path[at] = len(path)
        at = next(makers[n] for n in items[at].node.inputs if n in makers and waiting[makers[n]])
    circle = [*list(path)[path[at] :], at]
    return " <- ".join(repr(items[i].name) for i in circle[:12])


def _inlined(node: Node, function: Function, number: int) -> list[Node]:
    """The nodes that a call of a function stands for, with the names of its values and attributes put in."""
    if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
        raise ValueError(f"node {node.name!r} calls {function.name!r} with more inputs or outputs than it has")
    names = dict(zip(function.inputs, node.inputs, strict=False))
    names |= {inner: outer for inner, outer in zip(function.outputs, node.outputs, strict=False) if outer}
    # Cut, for names of names of names would be as long as the file; the numbers keep those of values apart.
    prefix = (node.name or f"{function.name}_{number}")[:_LONGEST_NAME]

    def renamed(name: str) -> str:
        if name and name not in names:
            absent = name in function.parameters
            names[name] = "" if absent else f"{prefix}/{number}.{len(names)}/{name[:_LONGEST_NAME]}"
        return names.get(name, "")

    found = []
    for inner in function.nodes:
        attributes = {}
        for key, value in inner.attributes.items():
            if not isinstance(value, Reference):
                attributes[key] = value
            elif value.name in node.attributes:
                attributes[key] = node.attributes[value.name]
            elif value.name in function.defaults:
                attributes[key] = function.defaults[value.name]
        inputs, outputs = [renamed(n) for n in inner.inputs], [renamed(n) for n in inner.outputs]
        name = f"{prefix}/{(inner.name or inner.op)[:_LONGEST_NAME]}"
        found.append(Node(inner.op, inner.domain, name, inputs, outputs, attributes, inner.overload))
    return found

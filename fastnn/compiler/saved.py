"""Programs in files: the graph of steps as data, before it is planned, and back.

What is stored of a layer is its class, by name, and its attributes, which must be plain values, arrays, or objects of
the classes that are listed here; so a new layer can be stored as soon as it is public. Weights are stored as they were
folded, and packed again when a loaded program is first planned. Loading makes objects of listed classes and nothing
else, infers every shape anew, and refuses what does not fit. A new field of `Node` needs a line here, and a new version
of the format (io/program.py) where old files do not tell it.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional as F
from .. import layers
from ..errors import FileFormatError
from ..io import program as format
from ..io.atomic import replacing
from ..layers.base import Layer
from .graph import Graph, Node, Value

if TYPE_CHECKING:
    from .program import Program

__all__ = ["load_program", "save"]

#: A value of a loaded program for the inputs that it was compiled for is no larger.
_MOST_BYTES = 64 << 30
#: No number of a layer is larger, be it a size, a count or an index.
_MOST = 1 << 63
#: of one node; a file that says more would make values without end
_MOST_OUTPUTS = 1 << 10


@cache
def _classes(imported: bool) -> dict[str, type]:
    """What a file may name: every public layer; or what imported networks have beyond, named "onnx." and so on."""
    if imported:
        from .. import onnx

        return {f"onnx.{name}": cls for name, cls in onnx.parts().items()}
    found = {name: getattr(layers, name) for name in layers.__all__}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, Layer)}


def _class(name: Any) -> type:
    """The class of a name in a file; KeyError for any other."""
    return _classes(isinstance(name, str) and name.startswith("onnx."))[name]


def _name(thing: Any) -> str | None:
    """The name of an object's class; None where there is none. Of a class that a user derived from a layer, its base's.

    Such a class computes what its base does: any other would not have been traced.
    """
    for cls in type(thing).__mro__ if isinstance(thing, Layer) else (type(thing),):
        for name, known in _classes(cls.__module__.startswith("fastnn.onnx.")).items():
            if known is cls:
                return name
    return None


def _attributes(thing: Any, apart: Iterable[str] = ()) -> dict[str, Any]:
    """What an object is, but for what it only remembers."""
    apart = {*apart, *getattr(thing, "remembered", ())}
    return {name: value for name, value in vars(thing).items() if name not in apart}


def _made(cls: Any, attributes: dict[str, Any]) -> Any:
    """An object of a class that may be named, with its attributes set; nothing of it is run."""
    made = cls.__new__(cls)
    for name in getattr(cls, "remembered", ()):
        setattr(made, name, {})
    for name, value in attributes.items():
        if callable(getattr(cls, name, None)) or name.startswith("__"):
            raise ValueError(f"{name[:80]!r} is no option of a {cls.__name__}")
        setattr(made, name, value)
    return made


# ---- values as data ----


class _Writer:
    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._known: dict[int, int] = {}

    def array(self, array: np.ndarray) -> int:
        """The number of an array in the file; each is stored once."""
        if id(array) not in self._known:
            self._known[id(array)] = len(self.arrays)
            self.arrays.append(array)
        return self._known[id(array)]

    def value(self, value: Any) -> Any:
        """A value of a layer as JSON has it; tuples become lists, and all that JSON has not an object with one name."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, float, str)):
            return value
        if isinstance(value, int):
            if abs(value) > _MOST:
                raise ValueError(f"a file holds whole numbers up to {_MOST}, got {value}")
            return value
        if isinstance(value, tuple):
            return [self.value(one) for one in value]
        if isinstance(value, list):
            return {"list": [self.value(one) for one in value]}
        if isinstance(value, dict):
            return {"dict": [[self.value(key), self.value(one)] for key, one in value.items()]}
        if isinstance(value, np.ndarray):
            return {"array": self.array(value)}
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if (name := _name(value)) is not None:
            return {"object": [name, {a: self.value(one) for a, one in _attributes(value).items()}]}
        raise TypeError(f"a file cannot hold a {type(value).__name__}")

    def layer(self, layer: Layer) -> tuple[str, dict[str, Any]]:
        """The name of a layer's class, and its attributes but for parameters and statistics."""
        name = _name(layer)
        if name is None:
            raise TypeError(f"a file cannot hold a layer of class {type(layer).__name__}")
        apart = (*layer.parameters, *layer.statistics, "version", "_gradients")
        return name, {a: self.value(v) for a, v in _attributes(layer, apart).items()}


class _Reader:
    def __init__(self, arrays: list[np.ndarray], dtype: np.dtype[Any]) -> None:
        self._arrays, self._dtype = arrays, dtype

    def array(self, number: Any) -> np.ndarray:
        return self._arrays[_index(number, len(self._arrays))]

    def value(self, data: Any) -> Any:
        if data is None or isinstance(data, (bool, float, str)):
            return data
        if isinstance(data, int):
            if abs(data) > _MOST:
                raise ValueError(f"a number is {data}")
            return data
        if isinstance(data, list):
            return tuple(map(self.value, data))
        ((kind, inner),) = data.items()
        if kind == "list":
            return list(map(self.value, inner))
        if kind == "dict":
            return {self.value(key): self.value(one) for key, one in inner}
        if kind == "array":
            return self.array(inner)
        if kind == "dtype":
            return np.dtype(str(inner))
        if kind == "object":
            name, attributes = inner
            return _made(_class(name), {a: self.value(v) for a, v in attributes.items()})
        raise ValueError(f"a value is of the kind {kind!r}")

    def layer(self, name: Any, attributes: dict[str, Any], arrays: dict[str, np.ndarray | None]) -> Layer:
        try:
            cls = _class(name)
        except (KeyError, TypeError):
            raise ValueError(f"this fastnn has no layer {str(name)[:80]!r}") from None
        if not issubclass(cls, Layer):
            raise ValueError(f"{name!r} is no layer")
        if {*cls.parameters, *cls.statistics} != arrays.keys():
            raise ValueError(f"a {name} has {', '.join([*cls.parameters, *cls.statistics]) or 'no arrays'}")
        for attribute, array in arrays.items():
            floats = array is not None and (array.dtype.kind == "f" or attribute in cls.parameters)
            if array is not None and floats and array.dtype != self._dtype:
                raise ValueError(f"the {attribute} of a {name} is {array.dtype}, and the program {self._dtype}")
        layer: Layer = _made(cls, {**{a: self.value(v) for a, v in attributes.items()}, **arrays})
        return layer


def _index(number: Any, count: int) -> int:
    if type(number) is not int or not 0 <= number < count:
        raise ValueError(f"it refers to number {number} of {count}")
    return number


# ---- graphs as data ----


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """What `Program.save` does."""
    graph = program._graph
    writer = _Writer()
    numbers: dict[Value, int] = {}
    for value in graph.inputs:
        numbers[value] = len(numbers)
    nodes = []
    for node in graph.nodes:
        try:
            name, attributes = writer.layer(node.layer)
            nodes.append(
                {
                    "name": node.name,
                    "layer": name,
                    "options": attributes,
                    "arrays": {a: None if v is None else writer.array(v) for a, v in node.arrays.items()},
                    "inputs": [numbers[value] for value in node.inputs],
                    "outputs": len(node.outputs),
                    "activation": writer.value(node.activation),
                    "residual": None if node.residual is None else numbers[node.residual],
                    "merged": node.merged,
                }
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"save: layer {node.name!r} ({node.layer.label()}): {error}") from None
        for value in node.outputs:
            numbers[value] = len(numbers)
    from .. import __version__

    description = {
        "fastnn": __version__,
        "dtype": program.dtype.name,
        "precision": program.precision,
        "inputs": [list(value.shape) for value in graph.inputs],
        "outputs": [numbers[value] for value in graph.outputs],
        "nodes": nodes,
    }
    with replacing(path) as file:
        format.write(file, description, writer.arrays)


def load_program(path: str | os.PathLike[str]) -> Program:
    """Load a program that `Program.save` wrote; it computes the same bits on the same machine.

    Needs neither the model's code nor anything but NumPy, and runs nothing from the file. Weights are laid out for this
    machine's kernels when the program is first planned for a shape, as by `fastnn.compile`; like any program it takes
    other batch sizes and memory formats.

    Parameters
    ----------
    path : path

    Returns
    -------
    Program

    Raises
    ------
    FileFormatError
        For a file that is cut, damaged, forged or of another format, or that a newer fastnn wrote. No more is allocated
        than the file has bytes; what a program computes when it is called is what its file says.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear, ReLU, Sequential
    >>> program = fnn.compile(Sequential(Linear(4, 3, rng=0), ReLU()), (2, 4))
    >>> program.save("net.fnn")
    >>> fnn.load_program("net.fnn")
    Program (2, 4) -> (2, 3), 1 steps
    """
    path = os.fsdecode(path)  # not a number, which would be an open file's
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a device never end
        raise FileFormatError(f"{os.fspath(path)}: not a regular file")
    with open(path, "rb") as file:
        try:
            description, arrays = format.read(file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error
    try:
        return _program(description, arrays)
    except Exception as error:  # whatever a forged description makes stumble
        raise FileFormatError(f"{os.fspath(path)}: not a program that this fastnn can run: {error}") from error


def _program(description: dict[str, Any], arrays: list[np.ndarray]) -> Program:
    from .pieces import PiecedProgram
    from .program import PRECISIONS, Program

    precision = str(description["precision"])
    if precision not in PRECISIONS:
        raise ValueError(f"its precision is {precision}")
    dtype = np.dtype(str(description["dtype"]))
    reader = _Reader(arrays, dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"its dtype is {dtype}")
    values = [Value(_shape(shape, dtype.itemsize)) for shape in description["inputs"]]
    inputs = list(values)
    nodes = []
    for entry in description["nodes"]:
        node = _node(reader, entry, values)
        nodes.append(node)
        values += node.outputs
    outputs = [values[_index(i, len(values))] for i in description["outputs"]]
    if not inputs or not outputs:
        raise ValueError("it has no input or no output")
    graph = Graph(inputs, outputs, nodes)
    made = PiecedProgram if any(node.layer.host for node in nodes) else Program
    for node in nodes:
        for value, shape in zip(node.outputs, _output_shapes(node), strict=True):
            value.shape = _shape(shape, dtype.itemsize)
        node.layer.multiply_adds(*(value.shape for value in node.inputs))  # and its tables can be printed
        str(node.layer.label())
    return made(graph, dtype, precision)


def _shape(shape: Any, itemsize: int) -> tuple[int, ...]:
    found = tuple(shape)
    if len(found) > 32 or not all(type(n) is int and 0 <= n <= _MOST for n in found):
        raise ValueError(f"{str(shape)[:80]} is not a shape")
    if math.prod(found) * itemsize > _MOST_BYTES:
        raise ValueError(f"it makes an array of shape {found}")
    return found


def _output_shapes(node: Node) -> Any:
    from ..errors import ShapeError
    from ..layers.base import shapes

    try:
        return shapes(node.layer.output_shape(*(value.shape for value in node.inputs)))
    except ShapeError as error:
        raise error.located(node.name, node.layer.label()) from None


def _node(reader: _Reader, entry: dict[str, Any], values: list[Value]) -> Node:
    arrays = {
        str(attribute): None if number is None else reader.array(number)
        for attribute, number in entry["arrays"].items()
    }
    residual = entry["residual"]
    activation = reader.value(entry["activation"])
    F._activation("program", activation)
    return Node(
        name=str(entry["name"]),
        layer=reader.layer(entry["layer"], entry["options"], arrays),
        inputs=[values[_index(i, len(values))] for i in entry["inputs"]],
        outputs=[Value(()) for _ in range(_index(entry["outputs"], _MOST_OUTPUTS))],
        arrays=arrays,
        activation=activation,
        residual=None if residual is None else values[_index(residual, len(values))],
        merged=[str(label) for label in entry["merged"]],
    )

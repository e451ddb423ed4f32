"""What an ONNX file says, as plain Python: a `Model` of nodes by name, with its tensors as NumPy arrays.

The file is not trusted: no array is larger than the data that the file has for it, numbers of a tensor and its shape
must agree, data beside the file must lie in the file's folder. What fastnn cannot use (subgraphs, strings, sparse
tensors) is kept as `Foreign`, and is an error only where it is used. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..io.dtypes import check_booleans
from .wire import fields, message, packed, real, signed, text

__all__ = ["DTYPES", "Foreign", "Function", "Model", "Network", "Node", "Port", "parse"]

#: elem_type -> dtype, of the tensors that fastnn takes
DTYPES = {
    code: np.dtype(name)
    for code, name in {
        1: "f4",
        2: "u1",
        3: "i1",
        4: "u2",
        5: "i2",
        6: "i4",
        7: "i8",
        9: "?",
        10: "f2",
        11: "f8",
        12: "u4",
        13: "u8",
    }.items()
}
_OTHER_TYPES = {8: "string", 14: "complex64", 15: "complex128", 16: "bfloat16", 21: "uint4", 22: "int4"}

#: A node takes some hundred bytes here and may take ten in the file; networks have thousands.
MAX_NODES = 200_000
#: bytes beside the network that may be named again and again
_EQUAL_DATA = 16 << 20
#: as many as NumPy has, less one for what operators add
MAX_RANK = 32


@dataclass(frozen=True)
class Foreign:
    """Something that fastnn cannot use, and what it is."""

    what: str


@dataclass
class Node:
    """One operator at one place; an absent input or output is called ""."""

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    overload: str = ""


@dataclass
class Port:
    """An input or output of the whole: its name, dtype and shape; each None where the file does not say."""

    name: str = ""
    dtype: np.dtype[Any] | Foreign | None = None
    shape: tuple[int | str | None, ...] | None = None


@dataclass
class Network:
    """The main graph."""

    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, np.ndarray | Foreign] = field(default_factory=dict)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


@dataclass
class Function:
    """An operator that the file defines itself by nodes."""

    name: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of its inputs."""
        return frozenset(self.inputs)


@dataclass
class Model:
    """A whole file."""

    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    network: Network | None = None
    functions: dict[tuple[str, str, str], Function] = field(default_factory=dict)


#: where the bytes of a tensor come from that lie beside the file: (location, offset, length or None) -> bytes
External = Callable[[str, int, int | None], memoryview]


def parse(data: bytes | memoryview, folder: str | None) -> Model:
    """Return what the bytes of a file say; ``folder`` is where the file lies, None where it is none."""
    model = Model()
    external = _external(folder)
    for number, kind, value in fields(memoryview(data)):
        match number:
            case 1:
                model.ir_version = signed(kind, value)
            case 2:
                model.producer = text(kind, value)
            case 7:
                if model.network is not None:
                    raise ValueError("it holds two graphs")
                model.network = _network(message(kind, value), external)
            case 8:
                domain, version = _opset(message(kind, value))
                model.opsets[domain] = version
            case 25:
                function = _function(message(kind, value), external)
                model.functions[function.domain, function.name, function.overload] = function
    if model.network is None or not model.ir_version:
        raise ValueError("not an ONNX file: it holds no graph and no version")
    return model


def _opset(data: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, value in fields(data):
        match number:
            case 1:
                domain = text(kind, value)
            case 2:
                version = signed(kind, value)
    return ("" if domain == "ai.onnx" else domain), version


def _network(data: memoryview, external: External) -> Network:
    network = Network()
    for number, kind, value in fields(data):
        match number:
            case 1:
                network.nodes.append(_node(message(kind, value), external))
                if len(network.nodes) > MAX_NODES:
                    raise ValueError(f"it has more than {MAX_NODES} nodes")
            case 2:
                network.name = text(kind, value)
            case 5:
                name, array = _tensor(message(kind, value), external)
                if not name:  # which is how nodes name what is absent
                    raise ValueError("an initializer has no name")
                if name in network.tensors:
                    raise ValueError(f"two initializers are called {name!r}")
                network.tensors[name] = array
            case 11:
                network.inputs.append(_port(message(kind, value)))
            case 12:
                network.outputs.append(_port(message(kind, value)))
            case 15:
                network.tensors[_sparse_name(message(kind, value))] = Foreign("a sparse tensor")
    return network


def _node(data: memoryview, external: External) -> Node:
    node = Node()
    for number, kind, value in fields(data):
        match number:
            case 1:
                node.inputs.append(text(kind, value))
            case 2:
                node.outputs.append(text(kind, value))
            case 3:
                node.name = text(kind, value)
            case 4:
                node.op = text(kind, value)
            case 5:
                name, attribute = _attribute(message(kind, value), external)
                node.attributes[name] = attribute
            case 7:
                node.domain = text(kind, value)
            case 8:
                node.overload = text(kind, value)
    if not node.op:
        raise ValueError(f"node {node.name!r} names no operator")
    if node.domain == "ai.onnx":
        node.domain = ""
    return node


@dataclass(frozen=True)
class Reference:
    """An attribute of a function's node that is one of the function's own."""

    name: str


def _attribute(data: memoryview, external: External) -> tuple[str, Any]:
    """A name and a value: int, float, str, array, or a list of such."""
    name, reference = "", ""
    value: Any = None
    lists: dict[int, list[Any]] = {7: [], 8: [], 9: []}
    stated = 0
    for number, kind, raw in fields(data):
        match number:
            case 1:
                name = text(kind, raw)
            case 2:
                value = real(kind, raw)
            case 3:
                value = signed(kind, raw)
            case 4:
                value = str(message(kind, raw), "utf-8", "replace")
            case 5:
                value = _tensor(message(kind, raw), external)[1]
            case 6 | 10:
                value = Foreign("a subgraph")
            case 7:
                lists[7].extend(packed(kind, raw, "<f4").tolist())
            case 8:
                lists[8].extend(packed(kind, raw, "<i8").tolist())
            case 9:
                lists[9].append(str(message(kind, raw), "utf-8", "replace"))
            case 11 | 22 | 23:
                value = Foreign("a list of tensors or a sparse one")
            case 14 | 15:
                value = Foreign("a type")
            case 20:
                stated = signed(kind, raw)
            case 21:
                reference = text(kind, raw)
    if reference:
        return name, Reference(reference)
    filled = [items for items in lists.values() if items]
    if filled:
        value = filled[0]
    elif value is None:  # a field that is absent is its default, and so is a list without elements
        value = {1: 0.0, 2: 0, 3: ""}.get(stated, [])
    return name, value


def _port(data: memoryview) -> Port:
    port = Port()
    for number, kind, value in fields(data):
        match number:
            case 1:
                port.name = text(kind, value)
            case 2:
                for inner, inner_kind, raw in fields(message(kind, value)):
                    if inner == 1:
                        _tensor_type(message(inner_kind, raw), port)
                    elif inner in (4, 5, 7, 8, 9):
                        names = {4: "sequence", 5: "map", 7: "opaque value", 8: "sparse tensor", 9: "optional value"}
                        port.dtype = Foreign(f"a {names[inner]}")
    return port


def _tensor_type(data: memoryview, port: Port) -> None:
    for number, kind, value in fields(data):
        match number:
            case 1:
                code = signed(kind, value)
                port.dtype = None if not code else DTYPES.get(code, _foreign(code))
            case 2:
                dims = [_dim(message(k, v)) for n, k, v in fields(message(kind, value)) if n == 1]
                if len(dims) > MAX_RANK:
                    raise ValueError(f"{port.name!r} has {len(dims)} axes, more than {MAX_RANK}")
                port.shape = tuple(dims)


def _foreign(code: int) -> Foreign:
    return Foreign(f"a tensor of {_OTHER_TYPES.get(code, f'type {code}')}")


def _dim(data: memoryview) -> int | str | None:
    dim: int | str | None = None
    for number, kind, value in fields(data):
        match number:
            case 1:
                dim = signed(kind, value)
                if dim < 0:  # what some exporters write for a size that varies
                    dim = None
            case 2:
                dim = text(kind, value) or None
    return dim


def _sparse_name(data: memoryview) -> str:
    for number, kind, value in fields(data):
        if number == 1:
            for inner, inner_kind, raw in fields(message(kind, value)):
                if inner == 8:
                    return text(inner_kind, raw)
    return ""


def _function(data: memoryview, external: External) -> Function:
    function = Function()
    for number, kind, value in fields(data):
        match number:
            case 1:
                function.name = text(kind, value)
            case 4:
                function.inputs.append(text(kind, value))
            case 5:
                function.outputs.append(text(kind, value))
            case 6:
                function.attributes.append(text(kind, value))
            case 7:
                function.nodes.append(_node(message(kind, value), external))
                if len(function.nodes) > MAX_NODES:
                    raise ValueError(f"function {function.name!r} has more than {MAX_NODES} nodes")
            case 9:
                domain, version = _opset(message(kind, value))
                function.opsets[domain] = version
            case 10:
                function.domain = text(kind, value)
            case 11:
                name, attribute = _attribute(message(kind, value), external)
                function.defaults[name] = attribute
            case 13:
                function.overload = text(kind, value)
    return function


# ---- tensors ----

#: field -> (how its numbers are written, the dtypes that may lie there)
_FIELDS = {
    4: ("<f4", {1}),
    5: ("<i4", {2, 3, 4, 5, 6, 9, 10}),
    7: ("<i8", {7}),
    10: ("<f8", {11}),
    11: ("<u8", {12, 13}),
}


def _tensor(data: memoryview, external: External) -> tuple[str, np.ndarray | Foreign]:
    """The name and the numbers of a tensor, in the machine's byte order."""
    name, code, dims, raw, outside = "", 0, [], None, False
    numbers: dict[int, list[np.ndarray]] = {}
    where: dict[str, str] = {}
    for number, kind, value in fields(data):
        match number:
            case 1:
                dims.extend(packed(kind, value, "<i8").tolist())
                if len(dims) > MAX_RANK:
                    raise ValueError(f"a tensor has more than {MAX_RANK} axes")
            case 2:
                code = signed(kind, value)
            case 4 | 5 | 7 | 10 | 11:
                numbers.setdefault(number, []).append(packed(kind, value, _FIELDS[number][0]))
            case 8:
                name = text(kind, value)
            case 9:
                raw = message(kind, value)
            case 13:
                pair = {n: text(k, v) for n, k, v in fields(message(kind, value)) if n in (1, 2)}
                where[pair.get(1, "")] = pair.get(2, "")
            case 14:
                outside = signed(kind, value) == 1
    if code not in DTYPES:
        return name, _foreign(code)
    dtype = DTYPES[code]
    shape = tuple(int(n) for n in dims)
    if any(n < 0 for n in shape):
        raise ValueError(f"tensor {name!r} has the shape {shape}")
    count = math.prod(shape)
    if outside:
        raw = _outside(name, where, external, count * dtype.itemsize)
    if raw is not None:
        if len(raw) != count * dtype.itemsize:
            raise ValueError(
                f"tensor {name!r} of shape {shape} and {dtype} takes {count * dtype.itemsize} bytes, and has {len(raw)}"
            )
        flat = np.frombuffer(raw, dtype.newbyteorder("<"))
    else:
        flat = _listed(name, code, numbers)
        if flat.size != count:
            raise ValueError(f"tensor {name!r} of shape {shape} takes {count} numbers, and has {flat.size}")
    check_booleans(name, flat)
    if not count and math.prod(n for n in shape if n) >= 1 << 59:  # of 8 bytes each: what NumPy's sizes can count
        raise ValueError(f"tensor {name!r} has the shape {shape}, which no array has")
    return name, flat.astype(dtype, copy=False).reshape(shape)


def _listed(name: str, code: int, numbers: dict[int, list[np.ndarray]]) -> np.ndarray:
    """The numbers of a tensor that lie one by one in the field for its dtype."""
    dtype = DTYPES[code]
    for number, parts in numbers.items():
        if code not in _FIELDS[number][1]:
            raise ValueError(f"tensor {name!r} of {dtype} has its numbers where those of another type belong")
        flat = np.concatenate(parts)
        if code == 10:
            return flat.astype(np.uint16).view(np.float16)
        if code == 9 and not np.isin(flat, (0, 1)).all():
            raise ValueError(f"tensor {name!r} holds booleans that are neither 0 nor 1")
        return flat.astype(dtype)
    return np.empty(0, dtype)


def _number(text: str) -> int:
    """Digits and nothing else, which Python's own reading is not so strict about: "1_2" is 12."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _outside(name: str, where: dict[str, str], external: External, size: int) -> memoryview:
    try:
        offset, length = _number(where.get("offset") or "0"), where.get("length")
        claimed = None if not length else _number(length)
    except ValueError:
        raise ValueError(f"tensor {name!r} does not say where its data lie: {where}") from None
    if offset < 0 or (claimed is not None and claimed != size):
        raise ValueError(f"tensor {name!r} takes {size} bytes, and has {claimed} at {offset}")
    try:
        return external(where.get("location", ""), offset, size)
    except (ValueError, OSError) as error:
        raise ValueError(f"tensor {name!r}: {error}") from None


def _external(folder: str | None) -> External:
    """A reader of what lies in the folder, and nowhere else; what several tensors name is read once.

    Files tie weights by naming one piece twice, and may put equal numbers into one. As each tensor becomes an array of
    the network's own, they may name a few times as much as there is.
    """
    pieces: dict[tuple[str, int, int], memoryview] = {}
    sizes: dict[str, int] = {}
    named = 0

    def read(location: str, offset: int, size: int | None) -> memoryview:
        nonlocal named
        if folder is None:
            raise ValueError(f"its data lie in the file {location!r}; load the network by its path, not from bytes")
        home = os.path.realpath(folder)
        path = os.path.realpath(os.path.join(home, location)) if location and "\0" not in location else home
        if os.path.isabs(location) or path == home or os.path.commonpath([home, path]) != home:
            raise ValueError(f"its data lie in {location!r}, which is not in the folder of the network")
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"{location!r} is not a regular file")
        if size is None or offset + size > state.st_size:
            raise ValueError(f"it takes {size} bytes at {offset} of {location!r}, which has {state.st_size}")
        sizes[path] = state.st_size
        named += size
        if named > 4 * sum(sizes.values()) + _EQUAL_DATA:
            raise ValueError(f"with those before it {named:,} bytes are named of files of {sum(sizes.values()):,}")
        piece = path, offset, size
        if piece not in pieces:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(size)
            if len(data) != size:
                raise ValueError(f"{location!r} is cut")
            pieces[piece] = memoryview(data)
        return pieces[piece]

    return read

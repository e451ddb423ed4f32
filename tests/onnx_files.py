"""ONNX files for tests, written byte by byte: no package is needed, and what no package would write can be written."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

CODES = {
    **{np.dtype(name): code for name, code in (("f4", 1), ("u1", 2), ("i1", 3), ("u2", 4), ("i2", 5), ("i4", 6))},
    **{np.dtype(name): code for name, code in (("i8", 7), ("?", 9), ("f2", 10), ("f8", 11), ("u4", 12), ("u8", 13))},
}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field: whole numbers as varints, floats in 4 bytes, text and messages by length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, array: Any, **forged: Any) -> bytes:
    """A TensorProto; ``dims``, ``code``, ``raw`` and ``more`` replace what belongs there."""
    array = np.asarray(array)
    dims = forged.get("dims", array.shape)
    data = b"".join(field(1, int(n)) for n in dims) + field(2, forged.get("code", CODES[array.dtype])) + field(8, name)
    raw = forged.get("raw", array.astype(array.dtype.newbyteorder("<")).tobytes())
    return data + (field(9, raw) if raw is not None else b"") + forged.get("more", b"")


def external(name: str, array: Any, location: str, **where: Any) -> bytes:
    """A TensorProto whose numbers lie in another file."""
    pairs = {"location": location, **{key: str(value) for key, value in where.items()}}
    more = b"".join(field(13, field(1, key) + field(2, value)) for key, value in pairs.items()) + field(14, 1)
    return tensor(name, array, raw=None, more=more)


def attribute(name: str, value: Any) -> bytes:
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    if isinstance(value, np.ndarray):
        return field(1, name) + field(5, tensor("", value)) + field(20, 4)
    if isinstance(value, bytes):  # a graph
        return field(1, name) + field(6, value) + field(20, 5)
    if all(isinstance(v, int) for v in value):
        return field(1, name) + b"".join(field(8, v) for v in value) + field(20, 7)
    return field(1, name) + b"".join(field(7, float(v)) for v in value) + field(20, 6)


def node(op: str, inputs: str, outputs: str, *, name: str = "", domain: str = "", **attributes: Any) -> bytes:
    """A NodeProto; inputs and outputs are names with spaces between them, "-" for one that is absent."""

    def names(text: str) -> list[str]:
        return ["" if part == "-" else part for part in text.split()]

    data = b"".join(field(1, n) for n in names(inputs)) + b"".join(field(2, n) for n in names(outputs))
    data += field(4, op) + (field(3, name) if name else b"") + (field(7, domain) if domain else b"")
    return data + b"".join(field(5, attribute(key, value)) for key, value in attributes.items())


def port(name: str, dtype: Any = np.float32, shape: Any = None) -> bytes:
    """A ValueInfoProto."""
    kind = field(1, CODES[np.dtype(dtype)])
    if shape is not None:
        dims = (field(1, n) if isinstance(n, int) else field(2, n) if n else b"" for n in shape)
        kind += field(2, b"".join(field(1, dim) for dim in dims))
    return field(1, name) + field(2, field(1, kind))


def model(
    nodes: list[bytes],
    inputs: list[bytes],
    outputs: list[bytes],
    tensors: list[bytes] | None = None,
    *,
    opset: int = 17,
    more: bytes = b"",
) -> bytes:
    """A whole file."""
    graph = b"".join(field(1, n) for n in nodes) + field(2, "graph")
    graph += b"".join(field(5, t) for t in tensors or []) + b"".join(field(11, i) for i in inputs)
    graph += b"".join(field(12, o) for o in outputs)
    return field(1, 8) + field(8, field(1, "") + field(2, opset)) + field(7, graph) + more


def one(
    op: str, *inputs: Any, outputs: int = 1, opset: int = 17, constants: tuple[int, ...] = (), **attributes: Any
) -> bytes:
    """A network of one node; inputs are examples (None for an absent one), those in ``constants`` stand in the file."""
    names = ["-" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = [np.asarray(x) for x in inputs if x is not None]
    used = [n for n in names if n != "-"]
    ports = [port(n, x.dtype, x.shape) for n, x in zip(used, given, strict=True) if int(n[1:]) not in constants]
    tensors = [tensor(n, x) for n, x in zip(used, given, strict=True) if int(n[1:]) in constants]
    results = [f"y{i}" for i in range(outputs)]
    line = node(op, " ".join(names), " ".join(results), name="it", **attributes)
    return model([line], ports, [port(y) for y in results], tensors, opset=opset)


def small_cnn(batch: int | str = "n") -> bytes:
    """A classifier as exporters write them: shapes computed from shapes, weights by their names."""
    rng = np.random.default_rng(3)
    w = {
        "body.0.weight": rng.standard_normal((6, 3, 3, 3)) / 5,
        "body.0.bias": rng.standard_normal(6),
        **{f"body.1.{k}": rng.uniform(0.5, 1.5, 6) for k in ("weight", "bias", "running_mean", "running_var")},
        "head.weight": rng.standard_normal((5, 6)),
        "head.bias": rng.standard_normal(5),
    }
    tensors = [tensor(k, v.astype(np.float32)) for k, v in w.items()]
    tensors += [tensor("zero", np.array(0)), tensor("axes", np.array([0])), tensor("minus", np.array([-1]))]
    nodes = [
        node("Conv", "x body.0.weight body.0.bias", "c", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", "c body.1.weight body.1.bias body.1.running_mean body.1.running_var", "b"),
        node("Relu", "b", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Shape", "p", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 minus", "target", axis=0),
        node("Reshape", "p target", "f"),
        node("Gemm", "f head.weight head.bias", "y", transB=1),
    ]
    return model(nodes, [port("x", np.float32, (batch, 3, "h", "w"))], [port("y")], tensors)

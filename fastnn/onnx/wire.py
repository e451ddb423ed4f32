"""Protocol buffers' wire format, read without trust: every length is checked against what there is before it is used.

A message is a sequence of fields, each a number and a value; what a value means is the business of model.py. Nothing is
copied: values of bytes are views of the file. Nothing is recursive. Every error is a ValueError with the reason.
See https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["fields", "packed", "real", "signed", "text"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}
_KINDS = {VARINT: "a varint", FIXED64: "8 bytes", BYTES: "bytes", FIXED32: "4 bytes"}

Value = int | memoryview


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, of at most 64 bits, and where it ends."""
    value = shift = 0
    for byte in data[at : at + 10]:
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
    raise ValueError("a number is cut or has more than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, int, Value]]:
    """Yield the number, the wire type and the value of every field of a message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"a field has the number {number}")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in _WIDTH:
            size = _WIDTH[kind]
        else:
            raise ValueError(f"field {number} has the wire type {kind}, which is not in use")
        if size > end - at:
            raise ValueError(f"field {number} claims {size} bytes where {end - at} are left")
        yield number, kind, data[at : at + size]
        at += size


def _expect(kind: int, wanted: int) -> None:
    if kind != wanted:
        raise ValueError(f"a field is {_KINDS[kind]} where {_KINDS[wanted]} should be")


def message(kind: int, value: Value) -> memoryview:
    """Return a field's bytes."""
    _expect(kind, BYTES)
    assert isinstance(value, memoryview)
    return value


def text(kind: int, value: Value) -> str:
    """Return a field as a string."""
    try:
        return str(message(kind, value), "utf-8")
    except UnicodeDecodeError:
        raise ValueError("a name is not UTF-8") from None


def signed(kind: int, value: Value) -> int:
    """Return a field as a whole number of 64 bits."""
    _expect(kind, VARINT)
    assert isinstance(value, int)
    return value - (1 << 64) if value >> 63 else value


def real(kind: int, value: Value) -> float:
    """Return a field as a float32."""
    _expect(kind, FIXED32)
    assert isinstance(value, memoryview)
    return float(np.frombuffer(value, "<f4")[0])


def packed(kind: int, value: Value, dtype: str) -> np.ndarray:
    """Return one number, or many in one field, as an array: varints for integers, else as they lie there."""
    wanted = np.dtype(dtype)
    if wanted.kind in "iu":
        if kind == VARINT:
            return _wrapped(np.array([value], np.uint64), wanted)
        return _wrapped(_varints(message(kind, value)), wanted)
    if kind == BYTES:
        assert isinstance(value, memoryview)
        if len(value) % wanted.itemsize:
            raise ValueError(f"{len(value)} bytes do not make whole numbers of {wanted.itemsize} bytes")
        return np.frombuffer(value, wanted)
    _expect(kind, FIXED32 if wanted.itemsize == 4 else FIXED64)
    assert isinstance(value, memoryview)
    return np.frombuffer(value, wanted)


def _wrapped(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return numbers.view(np.int64 if dtype.kind == "i" else np.uint64).astype(dtype, copy=False)


def _varints(data: memoryview) -> np.ndarray:
    """Many varints, all at once."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if not octets.size:
        return np.empty(0, np.uint64)
    if not ends.size or ends[-1] != octets.size - 1:
        raise ValueError("a number is cut")
    begins = np.append(0, ends[:-1] + 1)
    lengths = ends - begins + 1
    if lengths.max() > 10 or (octets[ends[lengths == 10]] > 1).any():
        raise ValueError("a number has more than 64 bits")
    numbers = np.zeros(ends.size, np.uint64)
    for i in range(int(lengths.max())):
        some = lengths > i
        numbers[some] |= (octets[begins[some] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    return numbers

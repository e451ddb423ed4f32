"""The file of a program: a fixed header, a description in JSON, and arrays as they lie in memory.

    bytes 0..7    magic; its line ends show what a transfer as text did to the file
    8..11         version of the format
    12..15        CRC-32 of everything after these 24 bytes
    16..23        length of the description
    24..          the description, in JSON: ``arrays`` is a list of [dtype, shape]; the rest is the compiler's
    ...           the arrays in this order, C-contiguous, each from a multiple of 64 bytes on, and nothing else

Numbers are little-endian. Version 1 is the first. A reader refuses newer files: raise the version when what is written
cannot be read as before, the compiler's part included.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from .dtypes import DTYPES, check_booleans

__all__ = ["MAGIC", "VERSION", "read", "write"]

MAGIC = b"\x89fnn\r\n\x1a\n"
VERSION = 1

_HEADER = struct.Struct("<8sIIQ")
_ALIGN = 64
#: A network of a thousand layers takes some 300 KB.
_MAX_DESCRIPTION = 32 << 20
_MAX_AXES = 32


def write(file: BinaryIO, description: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a description and its arrays; equal ones give equal bytes. The file can be read and written anywhere."""
    contents = {**description, "arrays": [[array.dtype.name, list(array.shape)] for array in arrays]}
    text = json.dumps(contents, separators=(",", ":")).encode()
    if len(text) > _MAX_DESCRIPTION:
        raise ValueError(f"its description takes {len(text)} bytes, more than a file may have")
    at, total, position = file.tell(), zlib.crc32(text), _HEADER.size + len(text)
    file.write(_HEADER.pack(MAGIC, VERSION, 0, len(text)))
    file.write(text)
    for array in arrays:
        gap = bytes(-position % _ALIGN)
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        for part in (gap, data):
            file.write(part)
            total, position = zlib.crc32(part, total), position + len(part)
    file.seek(at)
    file.write(_HEADER.pack(MAGIC, VERSION, total, len(text)))
    file.seek(0, 2)


def read(file: BinaryIO, size: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a file of ``size`` bytes; ValueError gives the reason why it is refused.

    No more is allocated than the file has bytes, and some ten times its description. The arrays are the caller's own.
    """
    header = file.read(_HEADER.size)
    if header[: len(MAGIC)] != MAGIC:
        raise ValueError("not a program of fastnn" + ("; it is empty" if not header else ""))
    if len(header) < _HEADER.size:
        raise ValueError("it is cut in its header")
    _, version, total, length = _HEADER.unpack(header)
    if version > VERSION:
        raise ValueError(f"its format is version {version}, and this fastnn reads up to {VERSION}: install a newer one")
    if version < 1:
        raise ValueError(f"its header is damaged: there is no version {version}")
    if length > _MAX_DESCRIPTION or length > size - _HEADER.size:
        raise ValueError(f"it is cut, or its header is damaged: a description of {length} bytes in a file of {size}")
    text = file.read(length)
    description = _parse(text)
    places, end = _places(description.pop("arrays", None), _HEADER.size + length)
    if end != size:
        raise ValueError(f"it is cut or damaged: its arrays end at byte {end}, and it has {size}")
    found, position = zlib.crc32(text), _HEADER.size + length
    arrays = []
    for dtype, shape, begin in places:
        gap = file.read(begin - position)
        array = np.empty(shape, dtype)
        data = array.reshape(-1).view(np.uint8)
        if file.readinto(data.data) != data.size:  # type: ignore[attr-defined]
            raise ValueError("it was cut while it was read")
        found, position = zlib.crc32(data.data, zlib.crc32(gap, found)), begin + data.size
        arrays.append(array)
    if found != total:
        raise ValueError("it is damaged: its sum (CRC-32) is another")
    for i, array in enumerate(arrays):
        check_booleans(f"array {i}", array)
    return description, [array.astype(array.dtype.newbyteorder("="), copy=False) for array in arrays]


def _parse(text: bytes) -> dict[str, Any]:
    try:
        description = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is damaged: {type(error).__name__}: {error}"[:200]) from error
    if not isinstance(description, dict):
        raise ValueError("its description is damaged")
    return description


def _places(entries: Any, position: int) -> tuple[list[tuple[np.dtype[Any], tuple[int, ...], int]], int]:
    """(dtype, shape, where it begins) of each array, and where the last ends."""
    if not isinstance(entries, list):
        raise ValueError("its description is damaged: it lists no arrays")
    places = []
    names = {dtype.name for dtype in DTYPES}
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or str(entry[0]) not in names or not _is_shape(entry[1]):
            raise ValueError(f"its description is damaged: an array cannot be {str(entry)[:80]}")
        dtype, shape = np.dtype(str(entry[0])), entry[1]
        position += -position % _ALIGN
        places.append((dtype.newbyteorder("<"), tuple(shape), position))
        position += math.prod(shape) * dtype.itemsize
        if position > 1 << 62:  # beyond what a file can have, whatever comes after it
            break
    return places, position


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list) and len(shape) <= _MAX_AXES and all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
    )

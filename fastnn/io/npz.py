"""NumPy's .npz: a zip archive with one .npy member for each array; read here member by member, sizes first."""

from __future__ import annotations

import math
import re
import zipfile
from typing import Any, BinaryIO

import numpy as np

from .archive import check_members, opened, read_member
from .dtypes import DTYPES, check_booleans

__all__ = ["available", "read", "write"]

#: NumPy's own limit, in bytes
_MAX_HEADER = 10_000

_FIELD = r"""\s*['"](descr|fortran_order|shape)['"]\s*:\s*(['"][<>|=]?[a-z]\d{1,2}['"]|True|False|\([\d\s,L]*\))\s*"""
_HEADER = re.compile(rf"\s*\{{{_FIELD},{_FIELD},{_FIELD},?\s*\}}\s*")


def available() -> None:
    """Raise where the format needs what is not installed; this one needs nothing."""


def write(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays uncompressed; equal arrays give equal bytes, because members are dated 1980."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read an archive of ``size`` bytes; ValueError gives the reason why it is refused."""
    with opened(file, ".npz file") as archive:
        members = archive.infolist()
        for info in members:
            if not info.filename.endswith(".npy"):
                raise ValueError(f"member {info.filename!r} is no .npy array")
        check_members(members, size, ".npz file")
        return {info.filename.removesuffix(".npy"): _read_array(archive, file, info) for info in members}


def _read_array(archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    data = read_member(archive, file, info)
    dtype, fortran_order, shape, begin = _read_header(info.filename, data)
    claimed, held = math.prod(shape) * dtype.itemsize, data.size - begin
    if claimed != held:
        raise ValueError(f"{info.filename!r} claims shape {shape} of {dtype} ({claimed} bytes) but holds {held} bytes")
    flat = np.require(data[begin:].view(dtype), requirements="A")  # other writers do not align
    check_booleans(info.filename, flat)
    array = flat.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(name: str, data: np.ndarray) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """(dtype, Fortran order, shape, where the numbers begin) of an .npy member; nothing of it is evaluated."""
    magic = data[:8].tobytes()
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError(f"{name!r} is no .npy array")
    text = 10 if magic[6] == 1 else 12
    length = int.from_bytes(data[8:text].tobytes(), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"{name!r} has a header of {length} bytes")
    header = _HEADER.fullmatch(data[text : text + length].tobytes().decode("latin-1"))
    fields = dict(zip(header.groups()[::2], header.groups()[1::2], strict=True)) if header else {}
    descr, order, shape = fields.get("descr", ""), fields.get("fortran_order", ""), fields.get("shape", "")
    if descr[:1] not in ("'", '"') or order not in ("True", "False") or shape[:1] != "(":
        raise ValueError(f"{name!r} holds no plain numbers, or its header is damaged")
    try:
        dtype = np.dtype(descr[1:-1])
    except TypeError:
        dtype = np.dtype(np.object_)
    if dtype.newbyteorder("=") not in DTYPES:
        raise ValueError(f"{name!r} has dtype {descr}; a state holds numbers and booleans of at most 64 bits")
    sizes = tuple(int(digits) for digits in re.findall(r"\d+", shape))
    return dtype, order == "True", sizes, text + length

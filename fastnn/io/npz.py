"""NumPy's .npz: a zip archive with one .npy member for each array; read here member by member, sizes first."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from typing import IO, Any, BinaryIO

import numpy as np

from .dtypes import DTYPES, check_booleans

__all__ = ["available", "read", "write"]

#: Deflate can unfold a file a thousandfold. Weights shrink by a tenth or so, masks and zeros further; a file that
#: claims more than a hundredfold, beyond what is small in any case, is taken for a bomb.
_MAX_EXPANSION = 100
_SMALL = 64 << 20
_CHUNK = 1 << 20
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
    # What zipfile raises on forged archives, beyond its own error, depends on where it stumbles.
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_sizes(members, size)
            arrays = {}
            for info in members:
                with archive.open(info) as member:
                    arrays[info.filename.removesuffix(".npy")] = _read_member(info, member)
            return arrays
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError) as error:
        raise ValueError(f"not a whole .npz file ({error})") from error


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """Bound what reading will allocate by what the file holds."""
    seen: set[str] = set()
    unfolded = stored = 0
    for info in members:
        if not info.filename.endswith(".npy"):
            raise ValueError(f"member {info.filename!r} is no .npy array")
        if info.filename in seen:
            raise ValueError(f"two members have the name {info.filename!r}")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise ValueError(f"member {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {info.filename!r} is compressed by a method that .npz files do not use")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"member {info.filename!r} states two sizes, {info.file_size} and {info.compress_size}")
        if not 0 <= info.header_offset <= size:
            raise ValueError(f"member {info.filename!r} begins outside the file")
        stored += info.compress_size
        unfolded += info.file_size
    if stored > size:
        raise ValueError(f"its members claim {stored} bytes of the {size} that it has")
    if unfolded > max(_SMALL, _MAX_EXPANSION * size):
        raise ValueError(
            f"it has {size} bytes and claims to unfold to {unfolded}, more than {_MAX_EXPANSION} times that"
        )


def _read_member(info: zipfile.ZipInfo, member: IO[bytes]) -> np.ndarray:
    dtype, fortran_order, shape, begin = _read_header(info.filename, member)
    claimed, held = math.prod(shape) * dtype.itemsize, info.file_size - begin
    if claimed != held:
        raise ValueError(f"{info.filename!r} claims shape {shape} of {dtype} ({claimed} bytes) but holds {held} bytes")
    flat = np.empty(math.prod(shape), dtype)
    target = flat.view(np.uint8).data
    done = 0
    while done < held:
        chunk = member.read(min(_CHUNK, held - done))
        if not chunk:
            raise ValueError(f"{info.filename!r} is cut after {done} of {held} bytes")
        target[done : done + len(chunk)] = chunk
        done += len(chunk)
    member.read(1)  # at its end the archive checks the sum of what was read
    check_booleans(info.filename, flat)
    array = flat.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(name: str, member: IO[bytes]) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """(dtype, Fortran order, shape, where the data begins) of an .npy member; nothing of it is evaluated."""
    magic = member.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError(f"{name!r} is no .npy array")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(member.read(width), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"{name!r} has a header of {length} bytes")
    header = _HEADER.fullmatch(member.read(length).decode("latin-1"))
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
    return dtype, order == "True", sizes, 8 + width + length

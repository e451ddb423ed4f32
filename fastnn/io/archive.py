"""Zip archives, of which .npz files and PyTorch's checkpoints are made: sizes are checked before anything is read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from .dtypes import check_expansion

__all__ = ["check_members", "opened", "read_member"]

_CHUNK = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@contextmanager
def opened(file: BinaryIO, kind: str) -> Iterator[zipfile.ZipFile]:
    """The archive in a file; what zipfile raises on forged ones, which depends on where it stumbles, as ValueError."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError) as error:
        raise ValueError(f"not a whole {kind} ({error})") from error


def check_members(members: list[zipfile.ZipInfo], size: int, kind: str) -> None:
    """Bound what reading all members would allocate by what the file of ``size`` bytes holds."""
    seen: set[str] = set()
    unfolded = stored = 0
    for info in members:
        if info.filename in seen:
            raise ValueError(f"two members have the name {info.filename!r}")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise ValueError(f"member {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {info.filename!r} is compressed by a method that {kind}s do not use")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"member {info.filename!r} states two sizes, {info.file_size} and {info.compress_size}")
        if not 0 <= info.header_offset <= size:
            raise ValueError(f"member {info.filename!r} begins outside the file")
        stored += info.compress_size
        unfolded += info.file_size
    if stored > size:
        raise ValueError(f"its members claim {stored} bytes of the {size} that it has")
    _check_overlap(members, size)
    check_expansion(unfolded, size)


def _check_overlap(members: list[zipfile.ZipInfo], size: int) -> None:
    in_order = sorted(members, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in in_order[1:]]
    for info, end in zip(in_order, [*ends, size], strict=False):
        if info.header_offset + _LOCAL_HEADER.size + info.compress_size > end:
            raise ValueError(f"member {info.filename!r} overlaps what comes after it")


def read_member(
    archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo, *, unsummed: bool = False
) -> np.ndarray:
    """Return the bytes of a checked member; stored ones go from the file to the array and nowhere else.

    unsummed: take a sum of 0 for one that was not computed, as by ``torch.serialization.set_crc32_options(False)``.
    """
    data = np.empty(info.file_size, np.uint8)
    if info.compress_type == zipfile.ZIP_STORED:
        _read_stored(file, info, data, unsummed)
    else:
        with archive.open(info) as member:
            done = 0
            while done < data.size:
                chunk = member.read(min(_CHUNK, data.size - done))
                if not chunk:
                    raise ValueError(f"member {info.filename!r} is cut after {done} of {data.size} bytes")
                data[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
                done += len(chunk)
            member.read(1)  # at its end the archive checks the sum of what was read
    return data


def _read_stored(file: BinaryIO, info: zipfile.ZipInfo, data: np.ndarray, unsummed: bool) -> None:
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"member {info.filename!r} does not begin where the directory says")
    file.seek(name + extra, 1)
    if file.readinto(data.data) != data.size:  # type: ignore[attr-defined]
        raise ValueError(f"member {info.filename!r} is cut")
    if zlib.crc32(data.data) != info.CRC and not (unsummed and info.CRC == 0):
        raise ValueError(f"member {info.filename!r} is damaged: its sum (CRC-32) is another")

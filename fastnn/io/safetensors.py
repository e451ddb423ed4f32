"""The .safetensors format, through the package of that name, which is imported when it is first used."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np

from ..errors import need
from .dtypes import check_booleans, widen_bfloat16

__all__ = ["available", "read", "write"]

#: name in the file -> dtype; the format is little-endian
_DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    "BOOL": "?",
}


def available() -> Any:
    """Return the package, or raise the error that says how to install it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise need("safetensors", "safetensors", "a .safetensors file") from None
    return safetensors


def write(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays in C order."""
    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    file.write(available().numpy.save(contiguous))


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read a file of ``size`` bytes; ValueError gives the reason why it is refused."""
    safetensors = available()
    data = file.read(size)
    try:
        # Checks that the header's shapes, dtypes and offsets cover the data exactly, before anything is allocated.
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a whole .safetensors file ({error})") from error
    size = int.from_bytes(data[:8], "little")
    json.loads(data[8 : 8 + size], object_pairs_hook=_once)  # of equal names the package keeps one
    return {name: _array(name, entry) for name, entry in entries}


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Raise where a name stands twice in one object of the header."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"two entries are called {name[:80]!r}")
        seen.add(name)


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    kind, shape = entry["dtype"], tuple(entry["shape"])
    if kind == "BF16":
        return widen_bfloat16(np.frombuffer(entry["data"], "<u2")).reshape(shape)
    if kind not in _DTYPES:
        raise ValueError(f"{name!r} has dtype {kind}; a state holds numbers and booleans of at most 64 bits")
    flat = np.frombuffer(entry["data"], _DTYPES[kind])
    check_booleans(name, flat)
    return flat.reshape(shape).astype(flat.dtype.newbyteorder("="), copy=False)

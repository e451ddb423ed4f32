"""The dtypes that files of weights may hold; shared by the formats."""

from __future__ import annotations

import numpy as np

__all__ = ["DTYPES", "check_booleans"]

DTYPES = frozenset(
    np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)


def check_booleans(name: str, array: np.ndarray) -> None:
    """Raise where a boolean array from a file holds a byte that is neither 0 nor 1, which NumPy takes for granted."""
    if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{name!r} holds booleans that are neither 0 nor 1")

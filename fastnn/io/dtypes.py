"""What files of weights may hold: dtypes, and how much for their size; shared by the formats."""

from __future__ import annotations

import numpy as np

__all__ = ["DTYPES", "check_booleans", "check_expansion", "widen_bfloat16"]

DTYPES = frozenset(
    np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)

#: Deflate can unfold a file a thousandfold. Weights shrink by a tenth or so, masks and zeros further; a file that
#: claims more than a hundredfold, beyond what is small in any case, is taken for a bomb.
_MAX_EXPANSION = 100
_SMALL = 64 << 20


def check_expansion(claimed: int, size: int) -> None:
    """Raise where a file of ``size`` bytes claims to hold more than can be meant."""
    if claimed > max(_SMALL, _MAX_EXPANSION * size):
        raise ValueError(
            f"it has {size} bytes and claims to unfold to {claimed}, more than {_MAX_EXPANSION} times that"
        )


def check_booleans(name: str, array: np.ndarray) -> None:
    """Raise where a boolean array from a file holds a byte that is neither 0 nor 1, which NumPy takes for granted."""
    if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{name!r} holds booleans that are neither 0 nor 1")


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given as 16-bit integers, as float32, of which they are the upper half."""
    wide = bits.astype(np.uint32, order="C")
    wide <<= 16
    return wide.view(np.float32)

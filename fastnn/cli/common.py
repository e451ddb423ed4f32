"""What commands share: types of arguments, and printing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

__all__ = ["Commands", "count", "say", "seed"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Type of an argument: how many."""
    return _whole(text, 1, 10_000)


def seed(text: str) -> int:
    """Type of an argument: a seed, such as scikit-learn takes."""
    return _whole(text, 0, 2**32 - 1)


def say(*lines: str) -> None:
    """Print at once, so that a pipe or a log shows how far a long command is."""
    print(*lines, sep="\n", flush=True)

"""What commands share: types of arguments, printing and progress, and networks from files."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import plain

__all__ = [
    "WEIGHTS",
    "Commands",
    "OpenShapeError",
    "Progress",
    "count",
    "exists",
    "file",
    "input_shapes",
    "megabytes",
    "open_network",
    "output",
    "output_shapes",
    "say",
    "seed",
    "shape",
    "warn",
]

if TYPE_CHECKING:
    from ..compiler import Program

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


#: files of weights, by their suffix
WEIGHTS = (".npz", ".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")


# ---- arguments ----


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


def shape(text: str) -> tuple[int, ...]:
    """Type of an argument: the shape of an input, such as 1x3x224x224."""
    if not re.fullmatch(r"[1-9]\d{0,8}([x,][1-9]\d{0,8}){0,7}", text):
        raise argparse.ArgumentTypeError(f"expected sizes such as 1x3x224x224, got {text!r}")
    return tuple(map(int, re.split("[x,]", text)))


# ---- printing ----


def say(*lines: str) -> None:
    """Print at once, so that a pipe or a log shows how far a long command is."""
    _print(plain("\n".join(lines), keep="\n"), sys.stdout)


def warn(command: str, text: str) -> None:
    """Print, in one line, what a person should know beside the results."""
    _print(f"fastnn {command}: {plain(text.strip())}", sys.stderr)


def _print(text: str, stream: Any) -> None:
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:  # a terminal without these letters
        print(text.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)


def megabytes(size: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} KB" if size >= 1e3 else f"{size:.0f} bytes"


class Progress:
    """How many of how many are done, in the last line of the terminal; nothing where nobody is watching."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done = total, what, 0
        self._seen = sys.stderr.isatty()

    def step(self, n: int) -> None:
        """Say that n more are done."""
        self._done += n
        if self._seen:
            print(f"\r{self._done} of {self._total} {self._what}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._seen:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


# ---- networks ----


class OpenShapeError(ValueError):
    """A file leaves the shape of an input open that must be known."""


def open_network(
    command: str, path: Path, given: list[tuple[int, ...]] | None = None, batch: int | None = None
) -> Program:
    """Return the program that a file holds: one of fastnn's, or an ONNX network, compiled for its input's shape.

    given, batch: shapes of the inputs, or the size of the batch alone, where they shall be others than the file says.
    """
    from ..compiler import compile, load_program

    suffix = path.suffix.lower()
    if suffix == ".fnn":
        program = load_program(path)
        if given or batch is not None:
            raise ValueError(f"{path}: a program takes any batch; its other sizes are those that it was compiled for")
        return program
    if suffix != ".onnx":
        raise ValueError(
            f"{path}: expected a network, .onnx or .fnn"
            + ("; this file holds weights, and not the network that they belong to" if suffix in WEIGHTS else "")
        )
    from .. import onnx

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = onnx.load(path)
        if not model.inputs:
            raise ValueError(f"{path}: the network has no input: what it gives is constant")
        program = compile(model, _input_shapes(path, model, given, batch))
    for note in dict.fromkeys(str(note.message) for note in notes):
        warn(command, f"{path}: {note}")
    return program


def input_shapes(program: Program) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that a program was compiled for, of one input or several."""
    from ..layers.base import shapes

    return shapes(program.input_shape)


def output_shapes(program: Program) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that a program gives for those."""
    from ..layers.base import shapes

    return shapes(program.output_shape)


def _input_shapes(path: Path, model: Any, given: list[tuple[int, ...]] | None, batch: int | None) -> list[Any]:
    """The shapes to compile an ONNX network for; what the file leaves open must be given, but for the batch: 1."""
    from ..onnx.importer import Input

    declared = {node.name: node.layer.shape for node in model.nodes if isinstance(node.layer, Input)}
    named = [(name, declared.get(name)) for name in model.inputs]
    if given:
        if len(given) != len(named):
            names = ", ".join(name for name, _ in named)
            raise ValueError(f"{path}: {len(named)} inputs ({names}), and --input gives {len(given)} shapes")
        return list(given)
    found = []
    for name, sizes in named:
        if sizes is None or not sizes or any(not isinstance(n, int) or n < 1 for n in sizes[1:]):
            text = "any" if sizes is None else f"({', '.join(str(n or '?') for n in sizes)})"
            raise OpenShapeError(
                f"{path}: input {name!r} has the shape {text}; say which by --input, such as 1x3x224x224"
            )
        first = sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else 1
        found.append((batch or first, *sizes[1:]))
    return found


def exists(path: Path) -> Path:
    """Return the path of a file that is there; the error names it as it was given."""
    if not path.exists():
        raise FileNotFoundError(f"{os.fspath(path)}: no such file or folder")
    return path


def file(path: Path) -> Path:
    """Return the path of a file that is there and ends; of a pipe or a device nobody knows."""
    if not exists(path).is_file():
        raise ValueError(f"{os.fspath(path)}: not a regular file")
    return path


def output(path: Path, *suffixes: str) -> Path:
    """Return where results are to go, checked before they are computed: the suffix, if given, and the folder."""
    if suffixes and path.suffix.lower() not in suffixes:
        *others, last = suffixes
        raise ValueError(f"--output: expected a path that ends in {', '.join(others)} or {last}, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {path.absolute().parent}")
    return path

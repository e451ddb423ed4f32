"""``fastnn convert``: an ONNX network to a compiled one, or weights from one kind of file to another."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .common import WEIGHTS, Commands, count, exists, input_shapes, megabytes, open_network, output, say, shape

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="compile an ONNX network to a file, or write weights to another kind of file",
        description="Compile an ONNX network (net.onnx) to a file (net.fnn) that fastnn loads without further ado, or "
        "write weights (.pth, .safetensors, .npz, or those of an .onnx) to .npz or .safetensors.",
    )
    parser.add_argument("file", type=Path, help="a network (.onnx) or weights (.pth, .safetensors, .npz)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="net.fnn, weights.npz or weights.safetensors"
    )
    parser.add_argument(
        "--input", type=shape, action="append", metavar="SHAPE",
        help="the shape of the input, such as 1x3x224x224, where the file leaves it open; once for each input",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=count, metavar="N",
        help="the batch to describe it for (default: that of the file, or 1); a program takes batches of any size",
    )  # fmt: skip
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> None:
    source, target = exists(options.file), output(options.output, ".fnn", ".npz", ".safetensors")
    came = source.suffix.lower()
    if target.suffix.lower() == ".fnn":
        _compile(options, source, target)
    else:
        _copy_weights(source, target)
    say(f"{target}: {megabytes(target.stat().st_size)}, from {megabytes(source.stat().st_size)} of {came}")


def _compile(options: argparse.Namespace, source: Path, target: Path) -> None:
    if source.suffix.lower() == ".fnn":
        raise ValueError(f"{source}: is compiled already")
    began = time.perf_counter()
    program = open_network("convert", source, options.input, options.batch)
    steps = [step for step in program.steps() if step.number]
    products = sum(step.flops for step in steps) // 2
    numbers = sum(step.parameters for step in steps)
    say(
        f"{source}: {len(steps)} step{'s' * (len(steps) != 1)}, {numbers:,} parameters, {products:,} multiply-adds for "
        f"{', '.join(map(str, input_shapes(program)))}, compiled in {time.perf_counter() - began:.1f} s"
    )
    try:
        program.save(target)
    except TypeError as error:
        raise ValueError(f"{source}: {error}; it runs from the .onnx file all the same") from None


def _copy_weights(source: Path, target: Path) -> None:
    from ..io import load_state, save_state

    suffix = source.suffix.lower()
    if suffix == ".onnx":
        from .. import onnx

        state = onnx.load(source).state()
    elif suffix in WEIGHTS:
        state = load_state(source)
    else:
        raise ValueError(f"{source}: expected weights (.pth, .safetensors, .npz) or a network (.onnx)")
    say(f"{source}: {len(state)} arrays, {sum(array.size for array in state.values()):,} numbers")
    save_state(target, state)

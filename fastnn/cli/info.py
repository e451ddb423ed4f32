"""``fastnn info``: what fastnn computes with here, or what is in a file."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from .._text import plain
from ..threads import show_config
from .common import (
    WEIGHTS,
    Commands,
    OpenShapeError,
    exists,
    input_shapes,
    megabytes,
    open_network,
    output_shapes,
    say,
    shape,
    warn,
)

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help="what fastnn computes with here, and why; or what is in a file",
        description="Print what fastnn computes with here, and why; or what is in a file: of a network its inputs, "
        "outputs, layers, parameters and multiply-adds, of weights their names and shapes. Ends with 1 where fastnn "
        "cannot run the network.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="a network (.onnx, .fnn) or weights (.pth, .safetensors, .npz)"
    )
    parser.add_argument(
        "--input", type=shape, action="append", metavar="SHAPE",
        help="of an ONNX network the shape of its input, such as 1x3x224x224, where the file leaves it open; "
        "once for each input",
    )  # fmt: skip
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    if options.file is None:
        show_config()
        return 0
    path = exists(options.file)
    suffix = path.suffix.lower()
    if suffix in WEIGHTS:
        say(_weights(path))
    elif suffix == ".onnx":
        return _onnx(path, options.input)
    elif suffix != ".fnn":
        raise ValueError(f"{path}: expected a network (.onnx, .fnn) or weights ({', '.join(WEIGHTS)})")
    else:
        program = open_network("info", path, options.input)
        say(f"{path}: a compiled network, {program.dtype}, {megabytes(path.stat().st_size)}", *_ports(program), "")
        say(*_counted(program))
    return 0


def _weights(path: Path) -> str:
    """The table of a file of weights."""
    from ..compiler.report import table
    from ..io import load_state

    state = load_state(path)
    rows = [("name", "shape", "dtype", "numbers")]
    rows += [(name, str(array.shape), str(array.dtype), f"{array.size:,}") for name, array in state.items()]
    rows.append(("all", "", "", f"{sum(array.size for array in state.values()):,}"))
    size = sum(array.nbytes for array in state.values())
    arrays = f"{len(state)} array{'s' * (len(state) != 1)}"
    return f"{path}: weights, {arrays}, {megabytes(size)}\n\n{table(rows, right=(3,), total=True)}"


def _ports(program: Any) -> list[str]:
    ports = [("input", shape) for shape in input_shapes(program)] + [("output", s) for s in output_shapes(program)]
    return [f"{kind:8}{shape}" for kind, shape in ports]


def _counted(program: Any) -> list[str]:
    from ..compiler.report import count

    return [count(program.steps())]


def _onnx(path: Path, given: list[tuple[int, ...]] | None) -> int:
    """An ONNX file as it is, and, where fastnn can run it, the steps that it becomes; 1 where it cannot."""
    from .. import onnx
    from ..errors import FileFormatError
    from ..onnx.model import parse

    if not path.is_file():  # a pipe would block, a device never end
        raise FileFormatError(f"{path}: not a regular file")
    try:
        model = parse(path.read_bytes(), str(path.parent))
    except ValueError as error:
        raise FileFormatError(f"{path}: not a readable ONNX file: {error}") from None
    network = model.network
    if network is None:
        raise FileFormatError(f"{path}: it has no graph")
    opsets = ", ".join(f"{plain(domain) or 'ai.onnx'} {version}" for domain, version in model.opsets.items())
    by = f", written by {plain(model.producer)}" if model.producer else ""
    say(f"{path}: an ONNX network, opset {opsets}{by}, {megabytes(path.stat().st_size)}")
    for kind, ports in (("input", network.inputs), ("output", network.outputs)):
        for port in ports:
            if port.name not in network.tensors:
                sizes = (
                    "any shape" if port.shape is None else f"({', '.join(plain(str(n or '?')) for n in port.shape)})"
                )
                say(f"{kind:8}{plain(port.name)} {port.dtype or ''} {sizes}")
    counts = Counter(
        f"{node.domain}.{node.op}" if node.domain not in ("", "ai.onnx") else node.op for node in network.nodes
    )
    say("", f"{len(network.nodes)} nodes: {', '.join(f'{n} {plain(op)}' for op, n in counts.most_common())}")
    known = {*onnx.operators(), *(f"{f.domain}.{f.name}" for f in model.functions.values())}
    unknown = sorted(op for op in counts if op not in known)
    if unknown:
        say(f"fastnn cannot run it: it does not have {', '.join(map(plain, unknown))}")
        return 1
    try:
        program = open_network("info", path, given)
    except OpenShapeError as error:
        warn("info", str(error))
        return 0
    except ValueError as error:
        warn("info", f"fastnn cannot run it: {error}")
        return 1
    say("", f"as fastnn runs it, for {', '.join(map(str, input_shapes(program)))}:", "", *_counted(program))
    return 0

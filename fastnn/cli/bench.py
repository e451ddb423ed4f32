"""``fastnn bench``: how fast networks and layers run here, alone or beside other engines that are installed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import Timing, interleave, roofline
from ..threads import get_num_threads
from . import peers
from .common import Commands, count, exists, input_shapes, open_network, output_shapes, say, shape, warn

__all__ = ["add"]

_LAYERS = """\
layers:
  conv C O K @SIZE  C channels to O, kernel K, images of SIZE or HxW; options
                    s2 (stride), p1 (padding, otherwise of "same" size),
                    d2 (dilation), g8 (groups), relu
  linear I O        I features to O; option relu

examples:
  fastnn bench 'conv 64 64 3 @56 relu' --peers
  fastnn bench net.onnx --batch 8 --threads 1,2 --profile
"""

_EXAMPLES = "'conv 64 64 3 @56 relu' or 'linear 1024 1000'"

#: A result is compared with fastnn's: float32 sums in other orders, over some fifty layers.
_TOLERANCE = 1e-4
#: what is put in front of a table's numbers, in order
_PEERS = ("torch", "onnxruntime", "openvino")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="time networks and layers, alone or beside other engines",
        description="Time networks and layers, alone or beside other engines, on the same threads. Contestants take\n"
        "turns, and their results are compared before the clock starts. Nothing else should run meanwhile.",
        epilog=_LAYERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="*", default=["conv 64 64 3 @56 relu", "conv 256 256 3 @14 relu", "linear 1024 1000"],
        help="networks (.onnx, .fnn) and layers, each in quotes (default: three layers)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", action="store_true", help="beside torch, onnxruntime and openvino, those that are installed"
    )
    parser.add_argument("--threads", type=_counts, metavar="N[,N]", help="thread counts (default: what fastnn uses)")
    parser.add_argument("--batch", type=count, metavar="N", help="(default: 1, or that of the file)")
    parser.add_argument(
        "--input", type=shape, action="append", metavar="SHAPE", help="as of 'fastnn convert', for an ONNX network"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="for each row of the table (default: %(default)g)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="show the time of each step of each network or layer too"
    )
    parser.set_defaults(run=_bench)


def _counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


@dataclass
class Case:
    """One row: a name, the program, its inputs, and who else can compute it, each a function that makes the calls."""

    name: str
    program: Any
    xs: list[np.ndarray]
    others: dict[str, Callable[[], dict[str, peers.Call]]]


# ---- what is measured ----


def _normal(*sizes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(sizes, np.float32)


_CONV = re.compile(r"conv (\d+) (\d+) (\d+)((?: [spdg]\d+)*) @(\d+)(?:x(\d+))?((?: [spdg]\d+)*)( relu)?")
_LINEAR = re.compile(r"linear (\d+) (\d+)( relu)?")
_MOST = 1 << 16


def _layer(text: str, batch: int) -> Case | None:
    """The layer that a text means; None where it means none."""
    from ..compiler import compile
    from ..layers import Conv2d, Linear, ReLU, Sequential

    words = " ".join(text.split())
    if conv := _CONV.fullmatch(words):
        c, o, k, h, w = (int(n) for n in (*conv.group(1, 2, 3, 5), conv[6] or conv[5]))
        options = {option[0]: int(option[1:]) for option in f"{conv[4]} {conv[7]}".split()}
        if max(c, o, k, h, w, *options.values(), 1) > _MOST:
            raise ValueError(f"{text!r}: the largest size is {_MOST}")
        dilation, relu = options.get("d", 1), bool(conv[8])
        padding = options.get("p", dilation * (k // 2))
        layer: Any = Conv2d(c, o, k, options.get("s", 1), padding, dilation, options.get("g", 1), rng=0)
        x = _normal(batch, c, h, w)
        attributes = {
            "strides": layer.stride, "pads": layer.padding * 2, "dilations": layer.dilation, "group": layer.groups,
            "kernel_shape": (k, k),
        }  # fmt: skip
        op = "Conv"
    elif linear := _LINEAR.fullmatch(words):
        n_in, n_out, relu = int(linear[1]), int(linear[2]), bool(linear[3])
        if max(n_in, n_out) > _MOST:
            raise ValueError(f"{text!r}: the largest size is {_MOST}")
        layer, x, op, attributes = Linear(n_in, n_out, rng=0), _normal(batch, n_in), "Gemm", {"transB": 1}
    else:
        return None
    layer.bias[...] = _normal(layer.bias.size, seed=1)
    program = compile(Sequential(layer, ReLU()) if relu else layer, x.shape)
    model = peers.onnx_layer(x, op, {"w": layer.weight, "b": layer.bias}, relu, **attributes)
    others: dict[str, Callable[[], dict[str, peers.Call]]] = {
        "torch": lambda: peers.torch(_torch_module(layer, relu), x)
    }
    if model is not None:
        others["onnxruntime"] = lambda: peers.onnxruntime(model, [x])
        others["openvino"] = lambda: peers.openvino(model, [x])
    return Case(f"{words}, batch {batch}", program, [x], others)


def _torch_module(layer: Any, relu: bool) -> Any:
    """A layer as torch has it, with the same weights."""
    import torch

    if hasattr(layer, "stride"):
        o, c, k, _ = layer.weight.shape
        twin: Any = torch.nn.Conv2d(c * layer.groups, o, k, layer.stride, layer.padding, layer.dilation, layer.groups)
    else:
        twin = torch.nn.Linear(*layer.weight.shape[::-1])
    twin.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
    return torch.nn.Sequential(twin, torch.nn.ReLU()) if relu else twin


def _network(path: Path, options: argparse.Namespace) -> Case:
    is_onnx = path.suffix.lower() == ".onnx"
    program = open_network("bench", exists(path), options.input, options.batch if is_onnx else None)
    shapes = [list(sizes) for sizes in input_shapes(program)]
    if options.batch is not None:
        for sizes in shapes:
            sizes[0] = options.batch
    xs = [
        _normal(*sizes, seed=i).astype(dtype) if dtype.kind == "f" else np.zeros(sizes, dtype)  # they may be indices
        for i, (sizes, dtype) in enumerate(zip(shapes, program.input_dtypes(), strict=True))
    ]
    others: dict[str, Callable[[], dict[str, peers.Call]]] = {
        "torch": lambda: _torch_network(program, xs),
        "onnxruntime": lambda: peers.onnxruntime(path if is_onnx else _exported(program, xs), xs),
        "openvino": lambda: peers.openvino(path if is_onnx else _exported(program, xs), xs),
    }
    return Case(f"{path.name} {', '.join('x'.join(map(str, sizes)) for sizes in shapes)}", program, xs, others)


def _torch_network(program: Any, xs: list[np.ndarray]) -> dict[str, peers.Call]:
    from .twins import torch_twin

    return peers.torch(torch_twin(program._graph), *xs)


def _exported(program: Any, xs: list[np.ndarray]) -> bytes:
    """A compiled network as an ONNX model, which torch writes of its twin."""
    for package in ("torch", "onnx"):
        if not peers.installed(package):
            raise ImportError(f"of a .fnn file torch and onnx make what it reads, and {package} is not installed")
    from .twins import torch_twin

    return peers.onnx_network(torch_twin(program._graph), *xs)


# ---- the measurement ----


def _bench(options: argparse.Namespace) -> None:
    from ..compiler.report import table

    cases = []
    for text in options.what:
        case = None if text.lower().endswith((".onnx", ".fnn")) else _layer(text, options.batch or 1)
        if case is None and not text.lower().endswith((".onnx", ".fnn")):
            raise ValueError(f"{text!r}: expected a network (.onnx, .fnn) or a layer such as {_EXAMPLES}")
        cases.append(case or _network(Path(text), options))
    wanted = [name for name in _PEERS if options.peers and peers.installed(name)]
    if options.peers and not wanted:
        warn("bench", f"none of {', '.join(_PEERS)} is installed")
    before = get_num_threads()
    rows = [["", "threads", "fastnn, ms", *(f"{name}, ms" for name in wanted), *(["ratio"] if wanted else [])]]
    rows[0] += ["GFLOP/s", "roofline"]
    profiles = []
    several = len(cases) * len(options.threads or [before]) > 1
    try:
        for n in options.threads or [before]:
            peers.share_threads(n)
            best = roofline()
            threads = f"{n} thread{'s' * (n != 1)}"
            speeds = f"{best.flops / 1e9:.0f} GFLOP/s in products, {best.bytes / 1e9:.0f} GB/s from memory"
            say(f"{threads}: at best {speeds}")
            for case in cases:
                rows.append(_row(case, n, wanted, options.seconds))
                if several:  # for who waits; of one there is the table at once
                    say("  ".join(filter(None, rows[-1])))
                if options.profile:
                    profiles += ["", f"{case.name}, {threads}", "", str(case.program.profile(_argument(case)))]
    finally:
        peers.share_threads(before)
    say("", table(rows, right=range(1, len(rows[0]))), *profiles)
    if profiles:
        say(
            "",
            "the table has the median of calls one after the other; a profile is measured after it, step by step",
        )
    if wanted:
        say("", "ratio: the time of the fastest other engine by fastnn's; above 1 fastnn is faster")


def _argument(case: Case) -> Any:
    return case.xs[0] if len(case.xs) == 1 else case.xs


def _row(case: Case, n: int, wanted: list[str], seconds: float) -> list[str]:
    """One row of the table: who is there computes the same, and then takes turns."""
    calls: dict[str, peers.Call] = {"fastnn": lambda: case.program(*case.xs)}
    if any(x.ndim == 4 for x in case.xs):
        last = [_channels_last(x) for x in case.xs]
        calls["fastnn, channels-last"] = lambda: case.program(*last)
    for name in wanted:
        if name in case.others:
            calls |= _made(name, case)
    timings = interleave(_agreeing(case, calls), seconds)
    steps = [timed.step for timed in case.program.profile(_argument(case), repeats=1).steps]
    mine, cells = _fastest(timings, "fastnn"), []
    for name in wanted:
        theirs = _fastest(timings, name)
        cells.append("" if theirs is None else _ms(theirs))
    if mine is None:
        raise ValueError(f"{case.name}: fastnn's results differ from call to call")
    others = [t.median for name, t in timings.items() if not name.startswith("fastnn")]
    ratio = [f"{min(others) / mine.median:.2f}" if others else ""] if wanted else []
    flops = sum(step.flops for step in steps)
    moved = sum(x.nbytes for x in case.xs) + case.program.dtype.itemsize * (
        sum(step.parameters for step in steps)
        + sum(len(case.xs[0]) * math.prod(s[1:]) for s in output_shapes(case.program))
    )
    fraction = roofline(case.program.dtype).fraction(mine.median / 1e3, flops, moved)
    work = [f"{flops / mine.median / 1e6:.0f}" if flops else "", f"{fraction:.0%}"]
    return [case.name, str(n), _ms(mine), *cells, *ratio, *work]


def _ms(timing: Timing) -> str:
    """Median and spread with as many decimals as three digits of the median have."""
    decimals = max(0, 2 - math.floor(math.log10(max(timing.median, 1e-6))))
    return f"{timing.median:.{decimals}f} ± {timing.spread:.{decimals}f}"


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _made(name: str, case: Case) -> dict[str, peers.Call]:
    """The contestants of one engine; none, and why, where it cannot run the case."""
    try:
        return case.others[name]()
    except Exception as error:  # whatever another package raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warn("bench", f"{name} does not run {case.name}: {first[:200]}")
        return {}


def _fastest(timings: dict[str, Timing], name: str) -> Timing | None:
    """The best of the forms of one engine."""
    forms = [timing for form, timing in timings.items() if form.split(",")[0] == name]
    return min(forms, key=lambda timing: timing.median, default=None)


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest, by the largest number that is wanted; NaN and infinities must be where they are wanted."""
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    largest = max(float(np.abs(want[finite]).max(initial=0)), 1e-30)
    difference = float(np.abs(got[finite] - want[finite]).max(initial=0)) / largest
    return math.inf if math.isnan(difference) else difference


def _agreeing(case: Case, calls: dict[str, peers.Call]) -> dict[str, peers.Call]:
    """The contestants whose results are fastnn's; the others are named, and not timed."""
    several = len(output_shapes(case.program)) > 1
    wants = case.program(*case.xs)
    wants = list(wants) if several else [wants]
    if not all(np.isfinite(want).all() for want in wants):
        warn("bench", f"{case.name}: gives NaN or infinity for normally distributed inputs; it is timed all the same")
    found = {}
    for name, call in calls.items():
        result = call()
        error = 0.0
        for got, want in zip(list(result) if several else [result], wants, strict=True):
            error = max(error, _difference(np.asarray(got, np.float64), np.asarray(want, np.float64)))
        if error <= _TOLERANCE:
            found[name] = call
        else:
            warn("bench", f"{name} is off by {error:.1e} of the largest result in {case.name}, and is not timed")
    return found

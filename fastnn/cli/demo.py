"""``fastnn demo``: the main job on embedded data, and what compiling it gains."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import _backends
from ..errors import need
from ..threads import get_num_threads
from .common import Commands, count, output, say, seed

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    what = "train, compile and time a small network on handwritten digits"
    demo = commands.add_parser(
        "demo", help=what, description=f"{what.capitalize()}; its test accuracy is a five-fold cross-validation."
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("fastnn-demo.png"),
        metavar="PNG",
        help="where the curves of loss and accuracy go (default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=count,
        default=20,
        metavar="N",
        help="for each of the five networks (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="of folds, weights, order and dropout (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)


def digits_network(rng: int | np.random.Generator) -> Any:
    """Return the network of the demo: conv-BN-ReLU twice, pooling, once more, dropout, and ten scores from 8 x 8."""
    from ..layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
    from ..random import as_generator

    rng = as_generator(rng)

    def conv(c: int, o: int) -> list[Any]:
        return [Conv2d(c, o, 3, padding=1, bias=False, rng=rng), BatchNorm2d(o), ReLU()]

    return Sequential(
        *conv(1, 32),
        *conv(32, 32),
        MaxPool2d(2),
        *conv(32, 64),
        Flatten(),
        Dropout(0.5),
        Linear(64 * 4 * 4, 10, rng=rng),
    )


def _demo(options: argparse.Namespace) -> None:
    from .. import plot
    from ..compiler import compile
    from ..optim import Adam
    from ..training import Trainer

    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import StratifiedKFold
    except ImportError:
        raise need("scikit-learn", "train", "the demo") from None
    plot.available()
    output(options.output)
    began = time.perf_counter()
    digits = load_digits()
    x, y = np.asarray(digits.images[:, None] / 16.0, np.float32), digits.target
    say(
        f"{len(x)} handwritten digits of 8 x 8; five networks, each tested on the fifth that it was not trained on",
        "",
        digits_network(0).summary((1, 1, 8, 8)),
        "",
    )

    right, first = 0, None
    folds = StratifiedKFold(5, shuffle=True, random_state=options.seed)
    for number, (train, test) in enumerate(folds.split(x, y)):
        model = digits_network(np.random.default_rng([options.seed, number]))
        trainer = Trainer(model, optimizer=Adam(lr=0.003), rng=np.random.default_rng([options.seed, number, 1]))
        run = trainer.fit(
            (x[train], y[train]),
            validation=(x[test], y[test]),
            epochs=options.epochs,
            batch_size=64,
            schedule=lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
            progress=f"network {number + 1} of 5",
        )
        right += int((trainer.predict(x[test]).argmax(1) == y[test]).sum())
        say(f"network {number + 1}: {len(test)} test images, accuracy {100 * run.val_accuracy[-1]:.2f} %")
        first = first or (model, run, test)
    say(f"test accuracy {100 * right / len(x):.2f} %")
    assert first is not None
    model, run, test = first
    path = plot.history(run, options.output, title="Handwritten digits: the first of five networks")
    say(f"curves of the first network: {path}")

    batch = x[test]
    program = compile(model, batch.shape)
    difference = float(np.abs(program(batch) - model(batch)).max())
    largest = float(np.abs(model(batch)).max())
    say("", "the first network compiled:", program.describe())
    say(f"largest difference to the uncompiled network {difference:.1e}, where the largest score is {largest:.1f}", "")
    say(_layer_table(), "")
    threads = get_num_threads()
    say(f"{time.perf_counter() - began:.1f} s in all on {threads} thread{'s' * (threads > 1)}")


def _median_ms(function: Callable[[], Any], seconds: float = 0.3) -> float:
    """Median time of a call in ms, over as many calls as fit into ``seconds``, after one to warm up."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[len(times) // 2]


def _layer_table() -> str:
    """One fused conv + batch norm + ReLU, 64 -> 64 channels, 3 x 3, 56 x 56, batch 1, on every backend that is here."""
    from .. import functional as F

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 56, 56), np.float32)
    w = rng.standard_normal((64, 64, 3, 3), np.float32) * np.float32(math.sqrt(2 / 576))
    gamma, beta, mean = (rng.standard_normal(64, np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2.0, 64).astype(np.float32)

    def layer() -> np.ndarray:
        return F.conv2d(x, w, padding=1, batch_norm=(gamma, beta, mean, var, 1e-5), activation="relu")

    with _backends.using("numpy"):
        expected = F.conv2d(
            x.astype(np.float64), w, padding=1, batch_norm=(gamma, beta, mean, var, 1e-5), activation="relu"
        )
    rows: list[tuple[str, float, float]] = []
    for backend in ("numpy", "numba", "compiled"):
        if _backends.missing_reason(backend) is None:
            with _backends.using(backend):
                rows.append((f"fastnn, {backend}", _median_ms(layer), float(np.abs(layer() - expected).max())))
    torch_row = _torch_layer(x, w, (gamma, beta, mean, var), expected)
    rows += [torch_row] if torch_row else []
    fastest = min(ms for _, ms, _ in rows)
    lines = ["one layer: 3 x 3 convolution, 64 to 64 channels of 56 x 56, batch norm and ReLU, batch 1"]
    lines += [f"{'':<31}{'ms':>9}{'times the fastest':>20}{'largest error':>16}"]
    lines += [f"{name:<31}{ms:9.3f}{ms / fastest:20.1f}{error:16.1e}" for name, ms, error in rows]
    return "\n".join(lines)


def _torch_layer(
    x: np.ndarray, w: np.ndarray, statistics: tuple[np.ndarray, ...], expected: np.ndarray
) -> tuple[str, float, float] | None:
    """The same layer in torch where it is installed, with as many threads and batch norm folded for it."""
    try:
        import torch
    except ImportError:
        return None
    gamma, beta, mean, var = statistics
    scale = gamma / np.sqrt(var + np.float32(1e-5))
    weight, bias = (torch.from_numpy(a) for a in (w * scale[:, None, None, None], beta - mean * scale))
    before = torch.get_num_threads()
    torch.set_num_threads(get_num_threads())
    try:
        best = None
        for form, memory in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
            xt, wt = torch.from_numpy(x).to(memory_format=memory), weight.to(memory_format=memory)

            def layer(xt: Any = xt, wt: Any = wt) -> Any:
                with torch.inference_mode():
                    return torch.relu_(torch.nn.functional.conv2d(xt, wt, bias, padding=1))

            row = f"torch {torch.__version__}{form}", _median_ms(layer), float(np.abs(layer().numpy() - expected).max())
            best = row if best is None or row[1] < best[1] else best
        return best
    finally:
        torch.set_num_threads(before)

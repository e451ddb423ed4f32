"""``fastnn doctor``: the lectures' checks of a model that is about to be trained."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import need
from .common import Commands, file, output, say, seed

__all__ = ["add"]

_NAMED = ("model", "x", "y")
_OPTIONS = ("validation", "loss", "optimizer", "regularization", "batch_size", "steps")


def add(commands: Commands) -> None:
    """Add the command."""
    what = "check a model before it is trained: loss, gradients, learning rate, labels"
    parser = commands.add_parser(
        "doctor",
        help=what,
        description=f"{what.capitalize()}; see fastnn.checks.doctor. Ends with 1 where a check fails.",
    )
    parser.add_argument(
        "script",
        nargs="?",
        type=Path,
        help="a Python file, which is run, and defines model, x and y, and if need be "
        f"{', '.join(_OPTIONS[:-1])} and {_OPTIONS[-1]}; without it the network of the demo is looked at",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("fastnn-doctor.html"),
        metavar="HTML",
        help="where the report with its pictures goes (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="default: %(default)s")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from .. import checks, plot

    plot.available()
    output(options.output)
    given = _digits(options.seed) if options.script is None else _of(options.script)
    report = checks.doctor(rng=options.seed, **given)
    say(str(report), "", f"with pictures: {report.save(options.output)}")
    return 0 if report.ok else 1


def _of(script: Path) -> dict[str, Any]:
    names = runpy.run_path(str(file(script)))
    missing = [name for name in _NAMED if name not in names]
    if missing:
        raise ValueError(f"{script} does not define {', '.join(missing)}")
    return {name: names[name] for name in (*_NAMED, *_OPTIONS) if name in names}


def _digits(seed: int) -> dict[str, Any]:
    from ..optim import Adam
    from .demo import digits_network

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise need("scikit-learn", "train", "the network of the demo") from None
    digits = load_digits()
    x = np.asarray(digits.images[:, None] / 16.0, np.float32)
    say(f"the network of the demo, and {len(x)} handwritten digits", "")
    return {"model": digits_network(seed), "x": x, "y": digits.target, "optimizer": Adam(lr=0.003)}

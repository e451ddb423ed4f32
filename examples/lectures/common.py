"""What the lectures' scripts share: data, statements and their claims, and arms that compete on equal terms.

A statement of the lectures is a function with the decorator `statement`; it measures something and returns a `Finding`
with one `Claim` for each thing that the statement says. A claim holds, does not hold, or cannot be told here: all three
are results. Where ways to train compete (`compete`), each gets the same rates to choose from, the same epochs and the
same seeds, and what decides the rate (validation data) is not what is reported (test data). One is better than another
where the means of its seeds lie apart by more than the standard error of their difference (`better`).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn.layers import BatchNorm1d, Linear, ReLU, Sequential

SEEDS = (0, 1, 2, 3, 4)


# ---- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Images (N, C, H, W) as numbers from 0 to 1, in three parts."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train[0].shape[1:]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def flat(self, *, normalised: bool = True) -> Data:
        """The images as rows; normalised: less the mean of the training pixels, divided by their deviation."""
        mean, std = (self.train[0].mean(), self.train[0].std()) if normalised else (0.0, 1.0)
        parts = [
            (((x - mean) / std).reshape(len(x), -1).astype(np.float32), y)
            for x, y in (self.train, self.validation, self.test)
        ]
        return Data(self.name, *parts)

    def normalised(self) -> Data:
        """The images less the mean of each channel, divided by its deviation."""
        mean, std = (f(self.train[0], axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
        parts = [(((x - mean) / std).astype(np.float32), y) for x, y in (self.train, self.validation, self.test)]
        return Data(self.name, *parts)


@cache
def load(name: str) -> Data:
    """digits: scikit-learn's. mnist and cifar10: from the folder that FASTNN_DATA names; 6,000 and 5,000 rows to train on."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = (digits.images[:, None] / 16).astype(np.float32), digits.target
        cuts = (1078, 1437)
    else:
        if "FASTNN_DATA" not in os.environ:
            raise SystemExit(f"{name}: FASTNN_DATA names no folder of data sets")
        folder = Path(os.environ["FASTNN_DATA"])
        if name == "mnist":
            with np.load(folder / "mnist.npz") as file:
                x, y = file["x_train"][:13000, None], file["y_train"][:13000]
        else:
            from PIL import Image

            sheet = np.asarray(Image.open(folder / "cifar10" / "train-0.webp").convert("RGB"))
            tiles = sheet.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
            x, y = tiles, np.load(folder / "cifar10" / "train-labels.npy")[: len(tiles)]
        x = (x / 255).astype(np.float32)
        cuts = (6000, 8000) if name == "mnist" else (5000, 6500)
    order = np.random.default_rng(0).permutation(len(x))
    parts = [(x[rows], y[rows].astype(np.int64)) for rows in np.split(order, cuts)]
    return Data(name, *parts)


# ---- statements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One thing that a statement says, what was measured, and whether it holds here; None: it cannot be told."""

    text: str
    measured: str
    holds: bool | None
    #: of which statement, where a script shows several; the first, when absent
    number: int | None = None

    def __post_init__(self) -> None:
        if self.holds is not None:
            object.__setattr__(self, "holds", bool(self.holds))  # NumPy's come in too


@dataclass
class Finding:
    """What a statement's script found: claims, a table or other text, and pictures by name.

    brief: the number that says most, in a few words; by statement where a script shows several.
    """

    claims: list[Claim]
    text: str = ""
    pictures: dict[str, Any] = field(default_factory=dict)
    brief: str | Mapping[int, str] = ""

    @property
    def verdict(self) -> str:
        return verdict([claim.holds for claim in self.claims])


def verdict(holds: Sequence[bool | None]) -> str:
    """Of the claims of one statement, in words."""
    if all(one is None for one in holds):
        return "cannot be told"
    held = sum(one is True for one in holds)
    return "holds" if held == len(holds) else "in part" if held else "does not hold"


def better(first: Sequence[float], second: Sequence[float]) -> bool | None:
    """Whether the first values (a seed each) lie above the second: None where their means are no further apart than the
    standard error of the difference."""
    difference = float(np.mean(first) - np.mean(second))
    if abs(difference) <= error_of(first, second):
        return None
    return difference > 0


def error_of(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard error of the difference of two means."""
    return float(np.hypot(*(np.std(values, ddof=1) / np.sqrt(len(values)) for values in (first, second))))


@dataclass(frozen=True)
class Statement:
    """texts: what the lectures say, by number; several where a script shows neighbours. on_data: depends on the data
    set, and is measured on each."""

    texts: dict[int, str]
    function: Callable[[Data], Finding]
    on_data: bool
    section: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.texts)


STATEMENTS: list[Statement] = []


def statement(*numbers: int, text: str | Sequence[str], on_data: bool = True) -> Callable[[Any], Any]:
    """Register a function of the data as the script of a statement, or of several with a text each."""
    texts = dict(zip(numbers, [text] if isinstance(text, str) else text, strict=True))

    def registered(function: Callable[[Data], Finding]) -> Callable[[Data], Finding]:
        section = Path(function.__code__.co_filename).stem
        STATEMENTS.append(Statement(texts, function, on_data, section))
        return function

    return registered


def show(section: str) -> None:
    """Run the statements of one script on the digits, and print what they find."""
    for one in STATEMENTS:
        if one.section == Path(section).stem:
            began = time.perf_counter()
            finding = one.function(load("digits"))
            print(*(f"{number}. {text}" for number, text in one.texts.items()), sep="\n")
            for claim in finding.claims:
                print(f"   {verdict([claim.holds]).upper()}: {claim.text}: {claim.measured}")
            if finding.text:
                print(*(f"     {line}" for line in finding.text.splitlines()), sep="\n")
            print(f"   {finding.verdict}; {time.perf_counter() - began:.1f} s\n")


# ---- networks and competitions --------------------------------------------------------------------------------------


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], Any] = ReLU,
    *,
    seed: int = 0,
    norm: bool = False,
    std: Callable[[int], float] | None = None,
) -> Sequential:
    """Linear layers of the given sizes with activations between; std: of the weights, by fan in (else He)."""
    rng = np.random.default_rng([seed, 7])
    parts: list[Any] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layer = Linear(a, b, rng=rng)
        if std is not None:
            layer.weight[...] = fnn.init.normal((b, a), std=std(a), rng=rng)
        parts.append(layer)
        if i + 2 < len(sizes):
            parts += [*([BatchNorm1d(b)] if norm else []), activation()]
    return Sequential(*parts)


@dataclass
class Arm:
    """One way to train: its rate, and of each seed the run, accuracies on validation and test data, and the model."""

    rate: float
    runs: list[Any]
    validation: list[float]
    test: list[float]
    models: list[Any]

    def __str__(self) -> str:
        return f"{percent(self.test)}; rate {self.rate:.3g}"

    @property
    def mean(self) -> float:
        return float(np.mean(self.test))

    @property
    def validated(self) -> float:
        """Mean validation accuracy: by which to choose between arms."""
        return float(np.mean(self.validation))


def percent(values: Sequence[float]) -> str:
    """The mean, and each seed."""
    return f"{100 * np.mean(values):.2f} % (seeds: {', '.join(f'{100 * value:.1f}' for value in values)})"


def compete(
    builds: Mapping[str, Callable[[int], Any]],
    data: Data,
    *,
    optimizer: Callable[[float], Any] | Mapping[str, Callable[[float], Any]] = lambda lr: fnn.optim.SGD(
        lr, momentum=0.9
    ),
    rates: Iterable[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    epochs: int = 10,
    batch_size: int = 64,
    seeds: Sequence[int] = SEEDS,
    by: str = "accuracy",
    fit: Mapping[str, Mapping[str, Any]] | None = None,
    **trainer: Any,
) -> dict[str, Arm]:
    """Train every arm: each rate with two seeds of its own, then the best of them with every seed.

    The best by mean validation accuracy, or by training loss where that is what is compared. fit: more options of
    ``Trainer.fit``, by arm.
    """
    arms: dict[str, Arm] = {}
    for name, build in builds.items():
        make = optimizer[name] if isinstance(optimizer, Mapping) else optimizer
        more = (fit or {}).get(name, {})

        def run(seed: int, rate: float, build: Any = build, make: Any = make, more: Any = more) -> tuple[Any, Any]:
            one = fnn.Trainer(build(seed), optimizer=make(rate), rng=seed, **trainer)
            with np.errstate(all="ignore"):
                return one, one.fit(data.train, epochs=epochs, batch_size=batch_size, progress=False, **more)

        def score(one: Any, history: Any) -> float:
            if history.stopped:
                return float("-inf")
            return -history.loss[-1] if by == "loss" else one.evaluate(*data.validation)["accuracy"]

        scores = {rate: float(np.mean([score(*run(seed, rate)) for seed in (100, 101)])) for rate in rates}
        best = max(scores, key=scores.__getitem__)
        runs = [run(seed, best) for seed in seeds]
        with np.errstate(all="ignore"):
            held = [[one.evaluate(*part)["accuracy"] for one, _ in runs] for part in (data.validation, data.test)]
        arms[name] = Arm(best, [history for _, history in runs], *held, [one.model for one, _ in runs])
    return arms


def arms_table(arms: Mapping[str, Arm]) -> str:
    width = max(map(len, arms))
    return "\n".join(f"{name:<{width}}  {arm}" for name, arm in arms.items())


def slowest(arms: Mapping[str, Arm]) -> float:
    """The loss that every arm reached in all of its runs: the target at which to compare how fast they are."""
    return max(
        run.loss[-1] if run.loss and not run.stopped else run.step_loss[0] for arm in arms.values() for run in arm.runs
    )


def epochs_to(run: Any, target: float) -> float:
    """Epochs until the training loss fell to the target, between two epochs in proportion; infinite: it did not.

    An epoch's loss is the mean over it, so it stands for the middle of the epoch.
    """
    values = [run.step_loss[0], *run.loss]
    places = [0.0, *(i + 0.5 for i in range(len(run.loss)))]
    for i, value in enumerate(values):
        if value <= target:
            if not i:
                return 0.0
            before = values[i - 1]
            return places[i - 1] + (places[i] - places[i - 1]) * (before - target) / (before - value)
    return float("inf")


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None) -> tuple[Any, Any]:
    """A figure and its axes, without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=size or (4 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes[0, 0] if rows == columns == 1 else list(axes.flat)


def best_of(function: Callable[[], Any], repeats: int = 30) -> float:
    """The least time of a call in seconds: what other work on the machine adds is left out."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)

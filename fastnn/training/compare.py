"""``fastnn.compare``: which of several trainings is faster, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .._text import table
from .history import History

__all__ = ["Comparison", "Contestant", "compare"]


@dataclass(frozen=True)
class Contestant:
    """One way to train, run once for each seed.

    Attributes
    ----------
    name : str
    runs : tuple of History
    epochs, seconds : tuple of float
        Until the target was reached, of the runs that reached it.
    best : tuple of float
        The best value of each run; NaN where it never was a number.
    """

    name: str
    runs: tuple[History, ...]
    epochs: tuple[float, ...]
    seconds: tuple[float, ...]
    best: tuple[float, ...]

    @property
    def reached(self) -> int:
        """How many runs reached the target."""
        return len(self.epochs)


@dataclass(frozen=True)
class Comparison:
    """What `fastnn.compare` returns: a sequence of `Contestant`; a table when printed.

    Attributes
    ----------
    contestants : tuple of Contestant
    metric : str
    target : float
    """

    contestants: tuple[Contestant, ...]
    metric: str
    target: float

    def __iter__(self) -> Iterator[Contestant]:
        return iter(self.contestants)

    def __len__(self) -> int:
        return len(self.contestants)

    def __getitem__(self, name: str) -> Contestant:
        """The contestant of that name."""
        for one in self.contestants:
            if one.name == name:
                return one
        raise KeyError(f"no {name!r}; there are {', '.join(repr(one.name) for one in self.contestants)}")

    def ratio(self, slow: str, fast: str, what: str = "epochs") -> float:
        """Return how many times fewer epochs (or seconds) ``fast`` needs, by their means; NaN where a run failed."""
        if what not in ("epochs", "seconds"):
            raise ValueError(f"ratio: what must be 'epochs' or 'seconds', got {what!r}")
        means = []
        for one in (self[slow], self[fast]):
            values = getattr(one, what)
            means.append(float(np.mean(values)) if len(values) == len(one.runs) else math.nan)
        return means[0] / means[1] if means[1] else math.nan

    def __str__(self) -> str:
        sign = ">=" if _higher(self.metric) else "<="
        header = ("", "reached", "epochs", "seconds", f"best {self.metric}")
        rows = []
        for one in self.contestants:
            texts = _spread(one.epochs, ".1f"), _spread(one.seconds, ".2f"), _spread(one.best, ".4f")
            rows.append((one.name, f"{one.reached} of {len(one.runs)}", *texts))
        return f"until {self.metric} {sign} {self.target:.4g}, mean ± standard deviation\n{table(header, rows)}"

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Write a picture of the metric over epochs and over seconds: every run, and the target."""
        from .. import plot

        return plot.comparison(self, path, title=title)


def _spread(values: Sequence[float], form: str) -> str:
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return "never"
    mean = format(float(np.mean(values)), form)
    return mean if len(values) == 1 else f"{mean} ± {format(float(np.std(values, ddof=1)), form)}"


def _higher(metric: str) -> bool:
    return "accuracy" in metric


def compare(
    histories: Mapping[str, History | Sequence[History]], *, target: float | None = None, metric: str | None = None
) -> Comparison:
    """Compare trainings by what they need to reach a target: epochs and seconds, mean and spread over seeds.

    Parameters
    ----------
    histories : mapping of str to History, or to a sequence of them
        A name for each way to train, and its runs, one for each seed.
    target : float, optional
        When absent, the best value of the run that came least far: the hardest target that all reach. A run without
        any number, as one that diverged in its first epoch, counts as one that did not reach it.
    metric : str, optional
        One of the history's lists. What has "accuracy" in its name is better when higher, all else when lower. When
        absent, the first of "val_accuracy", "val_loss", "accuracy" and "loss" that all runs have.

    Returns
    -------
    Comparison
        A table when printed; ``.ratio("a", "b")`` says how many times faster b is, ``.plot(path)`` draws the curves.

    References
    ----------
    Krizhevsky et al. 2012, figure 1: epochs to 25 % training error, with ReLU and with tanh.

    Examples
    --------
    >>> slow = History(loss=[1.0, 0.5, 0.3, 0.2], seconds=[1, 1, 1, 1])
    >>> fast = History(loss=[0.4, 0.1], seconds=[2, 2])
    >>> comparison = compare({"slow": slow, "fast": fast}, target=0.25)
    >>> print(comparison)
    until loss <= 0.25, mean ± standard deviation
          reached  epochs  seconds  best loss
    -----------------------------------------
    slow   1 of 1     4.0     4.00     0.2000
    fast   1 of 1     2.0     4.00     0.1000
    >>> comparison.ratio("slow", "fast")
    2.0
    """
    if not isinstance(histories, Mapping) or not histories:
        came = "none" if isinstance(histories, Mapping) else type(histories).__name__
        raise TypeError(f"compare: expected names with a History or several, got {came}")
    runs: dict[str, tuple[History, ...]] = {}
    for name, given in histories.items():
        several = (given,) if isinstance(given, History) else tuple(given) if isinstance(given, Sequence) else ()
        if not several or not all(isinstance(run, History) for run in several):
            raise TypeError(f"compare: {name!r} needs a History, or a sequence of at least one, got {given!r}")
        if not all(len(run.seconds) == len(run) for run in several):
            raise ValueError(f"compare: a run of {name!r} does not have its seconds for every epoch")
        runs[str(name)] = several
    every = [run for several in runs.values() for run in several if len(run)]
    if not every:
        raise ValueError("compare: no run has a finished epoch")
    if metric is None:
        metric = next(m for m in ("val_accuracy", "val_loss", "accuracy", "loss") if all(getattr(r, m) for r in every))
    elif metric not in History.EPOCHS or not all(getattr(run, metric) for run in every):
        known = [m for m in History.EPOCHS if all(getattr(run, m) for run in every)]
        raise ValueError(f"compare: not every run has {metric!r}; all have {', '.join(known)}")
    sign = -1 if _higher(metric) else 1
    bests = {name: tuple(_best(getattr(run, metric), sign) for run in rs) for name, rs in runs.items()}
    if target is not None and not math.isfinite(target):
        raise ValueError(f"compare: target must be a number, got {target!r}")
    if target is None:
        found = [sign * value for values in bests.values() for value in values if math.isfinite(value)]
        if not found:
            raise ValueError(f"compare: {metric!r} is a number in no run")
        target = sign * max(found)
    contestants = []
    for name, several in runs.items():
        reached = [
            (place + 1, list(accumulate(run.seconds))[place])
            for run in several
            if (place := _first(getattr(run, metric), sign, target)) is not None
        ]
        epochs, seconds = (tuple(float(pair[i]) for pair in reached) for i in range(2))
        contestants.append(Contestant(name, several, epochs, seconds, bests[name]))
    return Comparison(tuple(contestants), metric, float(target))


def _best(values: Sequence[float], sign: int) -> float:
    return sign * min((sign * value for value in values if math.isfinite(value)), default=math.nan)


def _first(values: Sequence[float], sign: int, target: float) -> int | None:
    return next((i for i, value in enumerate(values) if math.isfinite(value) and sign * value <= sign * target), None)


def curves(run: History, metric: str) -> tuple[list[int], list[float], Any]:
    """Return epochs, seconds and values of a run, for pictures."""
    values = getattr(run, metric)
    return list(range(1, len(values) + 1)), list(accumulate(run.seconds))[: len(values)], values

"""Search for hyper-parameters: `random`, `grid` and `coarse_to_fine`, on Optuna.

Everything to choose is asked for in one function, ``build(trial)``, which returns a `Trainer`, or a trainer and what
`Trainer.fit` is to be given (``batch_size``, ``schedule``, ``epochs``). What a trial draws is a function of the seed,
the stage and the trial's place in it, so that a search has the same trials on one process, on several, or on many
machines that share an Optuna storage. Every trial has a slot in the plan of its stage; whoever starts the same search
again does the slots that are left (`_claim`). To add a way to search: a function here
that calls `_search` with its stages.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import math
import numbers
import os
import pickle
import secrets
import socket
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ._text import plain
from .errors import ShapeError, need
from .threads import get_num_threads, num_threads
from .training import Trainer
from .training.monitors import Divergence, Monitor, Run

__all__ = ["Result", "Row", "Trial", "coarse_to_fine", "grid", "random"]

#: the best value is at the border of a range when it lies in this share of it (in log space where the range is)
_BORDER = 0.1
#: the share of a stage's trials, best first, around which the next stage looks
_KEEP = 0.25
#: a trial whose process died is tried so many times
_ATTEMPTS = 3
#: a running trial without an owner's name was interrupted between two writes when this old, in seconds
_ORPHAN_SECONDS = 10.0


class Trial:
    """What ``build(trial)`` asks for its hyper-parameters: Optuna's three questions, and a seed.

    Asking twice for the same name gives the same answer. Where the search has moved or narrowed a range, that one
    counts and not the one given.

    Attributes
    ----------
    seed : int
        For weights and trainer: the same for all trials, another for each fold.
    fold : int
        Counts the folds of cross-validation, from 0.
    """

    def __init__(self, source: Any, ranges: Mapping[str, Sequence[Any]], seed: int, fold: int = 0) -> None:
        self._source, self._ranges = source, ranges
        self.fold = fold
        self.seed = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
        #: how far each numeric range may move, by name
        self.within: dict[str, list[float]] = {}

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        log: bool = False,
        step: float | None = None,
        within: tuple[float, float] | None = None,
    ) -> float:
        """Return a number from low to high; with ``log``, drawn evenly in its logarithm.

        ``within`` says how far the range may move when the best value lies at its border. A range in log space moves
        anywhere without it, another one stays.
        """
        for what, value in (("low", low), ("high", high), *([] if step is None else [("step", step)])):
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f"suggest_float: {what} of {name!r} must be a finite number, got {value!r}")
        low, high = self._range("suggest_float", name, low, high, log, step, within)
        return float(self._source.suggest_float(name, low, high, log=log, step=step))

    def suggest_int(
        self,
        name: str,
        low: int,
        high: int,
        *,
        log: bool = False,
        step: int = 1,
        within: tuple[int, int] | None = None,
    ) -> int:
        """Return a whole number from low to high, both included; the rest as for `suggest_float`."""
        for what, value in (("low", low), ("high", high), ("step", step)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                hint = "; numbers with a fraction are asked for by suggest_float" if isinstance(value, float) else ""
                raise ValueError(f"suggest_int: {what} of {name!r} must be a whole number, got {value!r}{hint}")
        low, high = self._range("suggest_int", name, low, high, log, step, within)
        return int(self._source.suggest_int(name, int(low), int(high), log=log, step=int(step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices: numbers, texts, booleans or None."""
        choices = [choice.item() if isinstance(choice, np.generic) else choice for choice in choices]
        for choice in choices:
            if not isinstance(choice, (str, int, float, bool, type(None))):  # what every storage holds
                raise TypeError(
                    f"suggest_categorical: choices of {name!r} must be numbers, texts, booleans or None, got "
                    f"{choice!r}; ask for a name, and look up what it stands for"
                )
        if not choices:
            raise ValueError(f"suggest_categorical: {name!r} has no choices")
        return self._source.suggest_categorical(name, choices)

    def _range(self, op: str, name: str, low: Any, high: Any, log: bool, step: Any, within: Any) -> tuple[Any, Any]:
        if low > high or (log and low <= 0):
            rule = "in log space, from above 0 up" if log else "from low up to high"
            raise ValueError(f"{op}: {name!r} is drawn {rule}, got {low!r} to {high!r}")
        if step is not None and (step <= 0 or (log and step != 1)):
            rule = "be left out in log space" if log else "be above 0"
            raise ValueError(f"{op}: step of {name!r} must {rule}, got {step!r}")
        if within is not None and (len(within) != 2 or not within[0] <= low <= high <= within[1]):
            raise ValueError(f"{op}: within={within!r} of {name!r} must hold its range, {low!r} to {high!r}")
        self.within[name] = list(within) if within else [0.0, math.inf] if log else [low, high]
        return tuple(self._ranges.get(name, (low, high)))


class _Chosen:
    """Answers with given values, in place of an Optuna trial."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        return self._value(name)

    suggest_int = suggest_float

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._value(name)

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise KeyError(f"build asks for {name!r}, which this trial did not draw: it drew {', '.join(self.values)}")
        return self.values[name]


class _Differs(Exception):
    """What build asks for is not what a trial in the storage was drawn from."""


class _Retold(_Chosen):
    """Answers with what a trial in the storage drew, and raises where that was asked for in another way."""

    def __init__(self, trial: Any) -> None:
        super().__init__(trial.params)
        self.distributions = trial.distributions
        self.asked: set[str] = set()

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        return self._checked(name, _optuna().distributions.FloatDistribution(low, high, **options))

    def suggest_int(self, name: str, low: Any, high: Any, **options: Any) -> Any:
        return self._checked(name, _optuna().distributions.IntDistribution(low, high, **options))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._checked(name, _optuna().distributions.CategoricalDistribution(choices))

    def _checked(self, name: str, wanted: Any) -> Any:
        self.asked.add(name)
        if name not in self.distributions:
            raise _Differs(f"build asks for {name!r}, which was not drawn")
        if self.distributions[name] != wanted:
            raise _Differs(f"{name!r} was drawn from {_drawn(self.distributions[name])} and is now {_drawn(wanted)}")
        return self.values[name]


class _BadPoints(ValueError):
    """The points of a grid are wrong, whatever build does with them."""


class _Probe:
    """Notes what is asked for, to lay a grid; answers with a point, the middle one unless ``at`` says otherwise."""

    def __init__(self, points: Any, moved: Mapping[str, Any], at: float) -> None:
        self.points, self.moved, self.at = points, moved, at
        self.axes: dict[str, list[Any]] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float:
        return float(self._numbers(name, low, high, log, step, float))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int:
        return int(self._numbers(name, low, high, log, step, int))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        given = self.points.get(name) if isinstance(self.points, Mapping) else None
        self.axes[name] = list(choices) if given is None or isinstance(given, numbers.Integral) else list(given)
        if unknown := [v for v in self.axes[name] if v not in choices and name not in self.moved]:
            raise _BadPoints(f"search.grid: points of {name!r} must be among {list(choices)}, got {unknown[0]!r}")
        return self.axes[name][-1 if self.at == 1.0 else 0]

    def _numbers(self, name: str, low: Any, high: Any, log: bool, step: Any, kind: type) -> Any:
        given = self.points.get(name, 3) if isinstance(self.points, Mapping) else self.points
        if not isinstance(given, numbers.Integral):
            wrong = [v for v in given if isinstance(v, bool) or not isinstance(v, numbers.Real) or kind(v) != v]
            if wrong:
                rule = "whole numbers" if kind is int else "numbers"
                raise _BadPoints(f"search.grid: points of {name!r} must be {rule}, got {wrong[0]!r}")
            values = [kind(value) for value in given]
            # As far off as a rounding they are taken for the ends.
            outside = [v for v in values if not low - 1e-9 * abs(low) <= v <= high + 1e-9 * abs(high)]
            if outside and name not in self.moved:
                raise _BadPoints(f"search.grid: points of {name!r} lie from {low:g} to {high:g}, got {outside[0]:g}")
        else:
            middle = math.sqrt(low * high) if log else (low + high) / 2
            line = [middle] if given == 1 else np.geomspace(low, high, given) if log else np.linspace(low, high, given)
            values = [kind(round(v)) if kind is int else kind(v) for v in line]
            if step:
                values = [kind(low + step * round((v - low) / step)) for v in values]
        # geomspace's ends are off by a rounding, and a value outside of its range is refused.
        self.axes[name] = list(dict.fromkeys(min(max(v, low), high) for v in values))
        line = self.axes[name]
        return line[min(int(self.at * len(line)), len(line) - 1)]


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes
    ----------
    number : int
        Its number in the Optuna study.
    stage : str
    params : dict
        What was drawn, by name.
    value : float
        The score, mean over folds; NaN where it came to none.
    folds : list of float
        The score on each fold; one entry without cross-validation.
    epochs : int
        What it was given.
    seconds : float
    state : str
        "done", "pruned" or "failed".
    reason : str
        Why it was pruned or failed.
    curves : list of list of float
        The training loss after each epoch, for each fold.
    ranges : dict of str to (low, high) or list
        From what each parameter was drawn.
    logs : list of str
        Which parameters were drawn in log space.
    """

    number: int
    stage: str
    params: dict[str, Any]
    value: float
    folds: list[float]
    epochs: int
    seconds: float
    state: str
    reason: str = ""
    curves: list[list[float]] = field(default_factory=list)
    ranges: dict[str, Any] = field(default_factory=dict)
    logs: list[str] = field(default_factory=list)


class Result:
    """What a search found; prints as a table, best first.

    Attributes
    ----------
    rows : list of Row
        Every trial of every stage, in order.
    best : Row
        The best of the last stage: stages of fewer epochs do not compare with it.
    metric : str
        "accuracy" or "loss": what ``value`` is.
    moved : list of str
        Which ranges were moved because the best value lay at the border, in words.
    study : optuna.Study
    """

    def __init__(self, study: Any, trials: list[Any], task: _Task, moved: list[str]) -> None:
        self.study, self.metric, self.moved = study, task.metric, moved
        self._build, self._seed = task.build, task.seed
        self.rows = [_row(trial) for trial in trials]

    @property
    def best(self) -> Row:
        """The best trial of the last stage."""
        done = [row for row in self.rows if row.state == "done"]
        if not done:
            raise RuntimeError(self._none_done())
        kinds = [_kind(row.stage) for row in done]
        last = [row for row, kind in zip(done, kinds, strict=True) if kind == kinds[-1]]
        return self._sorted(last)[0]

    @property
    def best_params(self) -> dict[str, Any]:
        """What the best trial drew."""
        return self.best.params

    def build(self, *, fold: int = 0) -> Any:
        """Return what ``build`` returns for the best trial's values: a fresh trainer, to train on all of the data."""
        return self._build(Trial(_Chosen(self.best_params), {}, self._seed, fold))

    def _none_done(self) -> str:
        reasons = list(dict.fromkeys(row.reason for row in self.rows))
        more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
        return f"search: no trial came to an end: {'; '.join(reasons[:3])}{more}"

    def _sorted(self, rows: list[Row]) -> list[Row]:
        sign = -1.0 if self.metric == "accuracy" else 1.0
        return sorted(rows, key=lambda row: (math.isnan(row.value), sign * row.value, row.number))

    def table(self, rows: int | None = None) -> str:
        """Return the trials as text, the last stage first and in it the best; ``rows`` limits them."""
        stages = list(dict.fromkeys(row.stage for row in self.rows))
        ordered = [r for stage in reversed(stages) for r in self._sorted([r for r in self.rows if r.stage == stage])]
        names = list(dict.fromkeys(name for row in ordered for name in row.params))
        spread = any(len(row.folds) > 1 for row in ordered)
        header = ["trial", "stage", *names, self.metric, *(["spread"] if spread else []), "epochs", "seconds", ""]
        cells = [header]
        told: dict[str, int] = {}  # a reason is written once: what is wrong with the data is wrong in every trial
        for row in ordered[:rows]:
            value = "" if math.isnan(row.value) else _score(row.value, self.metric)
            std = _score(float(np.std(row.folds)), self.metric) if len(row.folds) > 1 else ""
            first = told.setdefault(row.reason, row.number)
            reason = plain(row.reason.partition("\n")[0]) if first == row.number else f"as trial {first}"
            note = "" if row.state == "done" else f"{row.state}: {reason}"
            params = [_short(row.params.get(name, "")) for name in names]
            numbers = [value, *([std] if spread else []), str(row.epochs), f"{row.seconds:.1f}"]
            cells.append([str(row.number), row.stage, *params, *numbers, note])
        widths = [max(len(line[i]) for line in cells) for i in range(len(header) - 1)]
        return "\n".join(
            "  ".join([*(c.rjust(w) for c, w in zip(line, widths, strict=False)), line[-1]]).rstrip() for line in cells
        )

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Write the pictures of the search as a PNG: each parameter against the score, and two against each other."""
        from . import plot

        return plot.search(self, path, title=title)

    def __str__(self) -> str:
        done = any(row.state == "done" for row in self.rows)
        return "\n".join([self.table(), *self.moved, *([] if done else [self._none_done()])])


def _drawn(distribution: Any) -> str:
    """From what a parameter is drawn, in words."""
    if not hasattr(distribution, "low"):
        return ", ".join(map(repr, distribution.choices))
    log = " in log space" if distribution.log else ""
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    whole = "whole numbers " if "Int" in type(distribution).__name__ else ""
    return f"{whole}{distribution.low:g} to {distribution.high:g}{log}{step}"


def _kind(stage: str) -> str:
    """The stage without the count of its moves."""
    return stage.partition(",")[0]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: float, metric: str) -> str:
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4f}"


# ---- the ways to search ----


def random(
    build: Callable[[Trial], Any],
    data: tuple[Any, Any],
    *,
    trials: int = 20,
    epochs: int = 10,
    moves: int = 0,
    **options: Any,
) -> Result:
    """Random search: ``trials`` draws, each trained for ``epochs``.

    Parameters
    ----------
    build : callable
        ``build(trial)`` returns a new `Trainer`, or ``(trainer, options of Trainer.fit)``; `Trial` says what it asks.
        ``epochs`` among the options counts instead of the search's.
    data : (x, y)
        x of shape (N, ...), y as `Trainer.fit` takes it.
    trials, epochs : int
    moves : int
        How often at most the ranges move, and as many trials again are drawn, because the best value lies at the
        border of its range.
    validation : (x, y), or folds : int
        What is scored: given data, or by cross-validation the k parts that were left out (stratified by class, where y
        holds classes; needs scikit-learn). One of the two.
    metric : str
        "accuracy", the default, or "loss".
    seed : int
        Of what is drawn and of the folds; ``trial.seed`` comes from it. Default 0.
    jobs : int
        Processes, by joblib; they share this process's threads. ``build`` and data must be what joblib can send.
    storage : str or Path, optional
        Where the trials are kept: a file (Optuna's journal) or a database's URL ("sqlite:///search.db"). The same
        search started again goes on where it was interrupted; started at several places at once, they share the work.
    name : str
        Of the study in the storage. Default "search".
    pruner : optuna.pruners.BasePruner, optional
        Is told the score after each epoch, fold after fold. Without it only what explodes is stopped: a loss above 3
        times the first, or none.
    sampler : optuna.samplers.BaseSampler, optional
        Draws instead of the seed, such as ``optuna.samplers.TPESampler()``.
    progress : bool, optional
        Show a bar; None: where tqdm is there and somebody watches.

    Returns
    -------
    Result
        A trial that fails is a row that says why, and the rest goes on.

    References
    ----------
    CS231n, "Training Neural Networks": random search in log space, from coarse to fine, stopped above 3 times the
    original cost. Bergstra and Bengio, JMLR 2012.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear
    >>> def build(trial):
    ...     lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    ...     return fnn.Trainer(Linear(2, 2, rng=trial.seed), optimizer=fnn.optim.SGD(lr), rng=trial.seed)
    >>> x = np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)
    >>> y = (x[:, 0] > x[:, 1]).astype(int)
    >>> found = random(build, (x[:150], y[:150]), validation=(x[150:], y[150:]), trials=4, epochs=3)
    >>> len(found.rows), found.best.value > 0.8
    (4, True)
    """
    return _search("random", build, data, [_Stage("random", trials, epochs, moves)], options)


def grid(
    build: Callable[[Trial], Any],
    data: tuple[Any, Any],
    *,
    points: int | Mapping[str, int | Sequence[Any]] = 3,
    epochs: int = 10,
    moves: int = 0,
    **options: Any,
) -> Result:
    """Every combination of ``points`` values of each parameter, both ends included, evenly in log space where it is.

    Parameters
    ----------
    points : int or mapping
        For all numeric parameters, or by name: a number of points, or the values themselves (3 for those not named).
    build, data, epochs, moves and others
        As for `random`. ``build`` is called once to see what it asks for, which may not depend on the answers.
    """
    return _search("grid", build, data, [_Stage("grid", None, epochs, moves)], options, points)


def coarse_to_fine(
    build: Callable[[Trial], Any],
    data: tuple[Any, Any],
    *,
    trials: Sequence[int] = (20, 10),
    epochs: Sequence[int] = (2, 10),
    moves: int = 1,
    **options: Any,
) -> Result:
    """Random search in stages: many trials of few epochs in wide ranges, then longer ones in narrow ranges.

    Between two stages every range narrows to where the best quarter of the trials lies, and choices to those that
    it made. Where the best value lies at the border of a range, the range moves there, and the stage is searched
    again, ``moves`` times at most for each.

    Parameters
    ----------
    trials, epochs : sequence of int
        For each stage; two stages, coarse and fine, as they come.
    build, data and others
        As for `random`.
    """
    if not isinstance(trials, Sequence) or not isinstance(epochs, Sequence):
        came = f"{trials!r} and {epochs!r}"
        raise TypeError(f"search.coarse_to_fine: trials and epochs have a number for each stage, got {came}")
    if len(trials) != len(epochs) or not trials:
        raise ValueError(f"search.coarse_to_fine: as many trials as epochs, got {list(trials)} and {list(epochs)}")
    middle = [f"middle {i}" if len(trials) > 3 else "middle" for i in range(1, len(trials) - 1)]
    names = ["coarse", *middle, "fine"] if len(trials) > 1 else ["coarse"]
    stages = [_Stage(n, t, e, moves) for n, t, e in zip(names, trials, epochs, strict=True)]
    return _search("coarse to fine", build, data, stages, options)


# ---- the plan ----


@dataclass(frozen=True)
class _Stage:
    """trials: None on a grid, whose points are counted."""

    name: str
    trials: int | None
    epochs: int
    moves: int


@dataclass(frozen=True)
class _Options:
    """What every way to search takes; see `random`."""

    validation: tuple[Any, Any] | None = None
    folds: int | None = None
    metric: str = "accuracy"
    seed: int = 0
    jobs: int = 1
    storage: str | Path | None = None
    name: str = "search"
    pruner: Any = None
    sampler: Any = None
    progress: bool | None = None


@dataclass(frozen=True)
class _Task:
    """What every trial of a search shares; sent to the processes."""

    build: Callable[[Trial], Any]
    data: tuple[Any, Any]
    validation: tuple[Any, Any] | None
    folds: int
    metric: str
    seed: int
    pruner: Any
    sampler: Any


def _search(
    kind: str,
    build: Callable[[Trial], Any],
    data: tuple[Any, Any],
    stages: list[_Stage],
    options: Mapping[str, Any],
    points: Any = None,
) -> Result:
    optuna = _optuna()
    op = f"search.{kind.replace(' ', '_')}"
    known = [each.name for each in fields(_Options)]
    if unknown := [name for name in options if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise TypeError(f"{op}: no option {unknown[0]!r}{hint}")
    given = _Options(**options)
    _check_options(op, given, stages)
    if kind == "grid":
        _check_points(op, points)
    rows = _check_rows(op, "data", data)
    if given.validation is not None:
        _check_rows(op, "validation", given.validation)
    if given.folds is not None:
        if given.folds > rows:
            raise ValueError(f"{op}: folds must be at most the {rows} rows, got {given.folds}")
        _check_classes(op, data[1], given.folds)
        _splits(data, given.folds, given.seed)
    if not callable(build):
        raise TypeError(f"{op}: build must be a function of a trial that returns a Trainer, got {build!r}")
    folds, metric, seed, storage = given.folds or 0, given.metric, given.seed, given.storage
    task = _Task(build, data, given.validation, folds, metric, seed, given.pruner, given.sampler)
    with _quiet(optuna), tempfile.TemporaryDirectory() as folder:
        if storage is None and given.jobs > 1:
            storage = Path(folder) / "search.journal"
        study = _opened(op, storage, given.name, task)
        epochs = [stage.epochs for stage in stages]
        names = {k: v and type(v).__name__ for k, v in (("pruner", given.pruner), ("sampler", given.sampler))}
        settings = {"kind": kind, "seed": seed, "metric": metric, "folds": folds, "epochs": epochs, **names}
        if given.storage is not None:
            settings |= {"data": _fingerprint(data), "validation": _fingerprint(given.validation)}
        _agree(op, study, settings, task)
        ranges: dict[str, Any] = {}
        moved: list[str] = []
        jobs: list[_Job] = []
        with _bar(given.progress) as bar:
            for i, stage in enumerate(stages):
                for move in range(stage.moves + 1):
                    label = stage.name + (f", moved {move}x" if move else "")
                    jobs.append(_Job(label, stage.epochs, ranges, _plan(op, task, stage, ranges, points)))
                    _continues(op, study, jobs[-1])
                    _run(study, storage, given.name, task, jobs[-1], given.jobs, bar)
                    here = [row for row in map(_row, _wanted(study, jobs[-1:])) if row.state == "done"]
                    if not here:
                        break
                    wanted, words = _moved(study, here, metric, ends=kind == "grid")
                    if not words or move == stage.moves:
                        break
                    ranges = {**ranges, **wanted}
                    moved += [f"after {label}: {text}" for text in words]
                if not here:
                    break
                if i + 1 < len(stages):
                    same = [job for job in jobs if _kind(job.stage) == stage.name]
                    done = [row for row in map(_row, _wanted(study, same)) if row.state == "done"]
                    ranges = _narrowed(study, done, metric)
        result = Result(study, _wanted(study, jobs), task, moved)
        if given.storage is None and storage is not None:
            result.study = _in_memory(study)  # the file goes
        return result


def _check_options(op: str, given: _Options, stages: list[_Stage]) -> None:
    if (given.validation is None) == (given.folds is None):
        raise ValueError(f"{op}: give either validation=(x, y) or folds=k")
    if given.metric not in ("accuracy", "loss"):
        raise ValueError(f"{op}: metric must be 'accuracy' or 'loss', got {given.metric!r}")
    whole: list[tuple[str, Any, int]] = [("jobs", given.jobs, 1), ("seed", given.seed, 0)]
    whole += [] if given.folds is None else [("folds", given.folds, 2)]
    for s in stages:
        whole += [(f"epochs of the {s.name} stage", s.epochs, 1), ("moves", s.moves, 0)]
        whole += [] if s.trials is None else [(f"trials of the {s.name} stage", s.trials, 1)]
    for what, value, least in whole:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{op}: {what} must be a whole number of at least {least}, got {value!r}")
    optuna = _optuna()
    for what, value, kind in (
        ("pruner", given.pruner, optuna.pruners.BasePruner),
        ("sampler", given.sampler, optuna.samplers.BaseSampler),
    ):
        if not isinstance(value, (kind, type(None))):
            raise TypeError(f"{op}: {what} must be one of optuna.{what}s, got {value!r}")
    if given.progress not in (True, False, None):
        raise TypeError(f"{op}: progress must be True, False or None, got {given.progress!r}")
    if not isinstance(given.name, str) or not given.name:
        raise ValueError(f"{op}: name must be a text, got {given.name!r}")


def _check_points(op: str, points: Any) -> None:
    """Raise where the points of a grid are neither a number of them nor some values, each by name or for all."""
    for name, given in points.items() if isinstance(points, Mapping) else [("", points)]:
        whose = f"points of {name!r}" if name else "points"
        if isinstance(given, numbers.Integral) and not isinstance(given, bool):
            if given < 1:
                raise ValueError(f"{op}: {whose} must be at least 1, got {given}")
        elif not name or not isinstance(given, (list, tuple, range, np.ndarray)) or not len(given):
            rule = "a whole number, or a list of values" if name else "a whole number, or a mapping of names to points"
            raise TypeError(f"{op}: {whose} must be {rule}, got {given!r}")


def _fingerprint(data: tuple[Any, Any] | None) -> str | None:
    """A few letters that are others for other data."""
    if data is None:
        return None
    found = hashlib.blake2b(digest_size=8)
    for part in (*(data[0] if isinstance(data[0], tuple) else (data[0],)), data[1]):
        array = np.asarray(part)
        found.update(f"{array.shape} {array.dtype.str}".encode())
        # The elements of an array of objects are addresses, others at every start.
        found.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return found.hexdigest()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise need("optuna", "train", "a search") from None
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's line for each trial: its table comes at the end."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _study(storage: str | Path | None, name: str, task: _Task) -> Any:
    optuna = _optuna()
    where: Any = storage
    if "://" in str(storage):
        where = _database(optuna, str(storage))
    elif storage is not None:
        where = optuna.storages.JournalStorage(_journal(str(storage)))
    return optuna.create_study(
        study_name=name,
        storage=where,
        direction="maximize" if task.metric == "accuracy" else "minimize",
        load_if_exists=True,
        sampler=task.sampler or _sampler(task.seed),
        pruner=task.pruner or optuna.pruners.NopPruner(),
    )


#: how every line of a journal begins
_LINE = b'{"op_code":'


def _journal(path: str) -> Any:
    """The file of a journal, whose errors name it, and that a process may leave at any time.

    One that is killed, or whose disk is full, leaves half a line; the next one would be glued to it, and the file
    could not be read again. Who has the lock is alone with the file, so that a last line without an end is no longer
    being written: it is cut off. The lock is the system's, on the file itself, and ends with the process that has it:
    Optuna's own, a file, is waited for half a minute when that was killed.
    """
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    try:
        import fcntl
    except ImportError:  # not a Unix
        fcntl = None  # type: ignore[assignment]

    class Whole(JournalFileSymlinkLock):
        def acquire(self) -> bool:
            if fcntl is None:
                super().acquire()
            else:
                self._file = open(path, "rb+")  # noqa: SIM115 (closed by release)
            try:
                if fcntl is not None:
                    fcntl.flock(self._file, fcntl.LOCK_EX)
                _cut_half_line(path)
            except BaseException:
                self.release()
                raise
            return True

        def release(self) -> None:
            if fcntl is None:
                super().release()
            else:
                self._file.close()

    class Named(JournalFileBackend):
        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            with _naming(path):
                yield from super().read_logs(log_number_from)

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with _naming(path):
                super().append_logs(logs)

    with _naming(path):
        return Named(path, Whole(path))


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        why = error.strerror or "cannot be used"
        raise OSError(error.errno, f"the storage of the search: {why}", path) from error


def _cut_half_line(path: str) -> None:
    with open(path, "rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        half = b""
        while end and b"\n" not in half:
            start = max(0, end - 65536)
            file.seek(start)
            half = file.read(end - start) + half
            end = start
        half = half[half.rfind(b"\n") + 1 :]
        written = half.rstrip(b"\0")  # as a machine that went down may leave behind
        if not half:
            return
        if not (written.startswith(_LINE) or _LINE.startswith(written)):
            raise ValueError(f"it ends in {written[:40]!r}, which is no line of a journal")
        file.truncate(size - len(half))


def _opened(op: str, storage: str | Path | None, name: str, task: _Task) -> Any:
    """The study; what keeps its storage from being opened is said in words."""
    file = None if storage is None or "://" in str(storage) else Path(storage)
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"{op}: storage: there is no folder {file.parent}")
    if file is not None and file.is_dir():
        raise IsADirectoryError(f"{op}: storage: {file} is a folder; give a file in it")
    try:
        return _study(storage, name, task)
    except OSError as error:
        raise OSError(error.errno, f"{op}: {error.strerror}", error.filename) from error
    except Exception as error:
        # Of Optuna, of SQLAlchemy and its drivers, of JSON: each has its own for a file that is no storage.
        if storage is None:
            raise
        told = f"{type(error).__name__}: {error}".partition("\n")[0]
        kind = {cls.__name__ for cls in type(error).__mro__}
        if kind & {"NoSuchModuleError", "ArgumentError"}:
            why = "no URL of a database that SQLAlchemy knows, such as sqlite:///search.db"
        elif "ImportError" in kind:
            why = "its database needs a package that is not installed"
        elif "OperationalError" in kind or "OperationalError" in told:
            why = "the database cannot be reached, or written to"
        else:
            why = "it is damaged, or not that of a search: move it away and start anew"
        raise ValueError(f"{op}: storage {str(storage)!r} cannot be opened ({told}); {why}") from error


def _database(optuna: Any, url: str) -> Any:
    """Open it, or make it: of several processes that make its tables at once, all but one fail at first."""
    from sqlalchemy.exc import DBAPIError

    for left in range(9, -1, -1):
        try:
            return optuna.storages.RDBStorage(url)
        except (DBAPIError, optuna.exceptions.StorageInternalError):
            if not left:
                raise
            time.sleep(0.1 * (10 - left))
    raise AssertionError


def _in_memory(study: Any) -> Any:
    optuna = _optuna()
    copied = optuna.create_study(study_name=study.study_name, direction=study.direction)
    copied.add_trials(study.get_trials())
    return copied


def _agree(op: str, study: Any, settings: dict[str, Any], task: _Task) -> None:
    """Raise where the storage holds another search under this name: its trials would be returned for this one's."""
    before = study.user_attrs.get("fastnn")
    if before is None:
        study.set_user_attr("fastnn", settings)
        return
    differing = [
        f"{k} are others" if k in ("data", "validation") else f"{k} was {before.get(k)!r} and is {v!r}"
        for k, v in settings.items()
        if before.get(k) != v
    ]
    done = next((t for t in _own(study) if t.state.name == "COMPLETE"), None)
    if done is not None and not differing:
        retold = _Retold(done)
        try:
            task.build(Trial(retold, _place(done)["ranges"], task.seed))
            # Another fold than the first may ask for more.
            if not task.folds and (left := [name for name in done.params if name not in retold.asked]):
                differing = [f"{left[0]!r} was drawn, and build does not ask for it"]
        except _Differs as found:
            differing = [str(found)]
        except Exception:  # as each of the trials that are left will say
            pass
    if differing:
        raise ValueError(
            f"{op}: the storage holds another search named {study.study_name!r}: {', '.join(differing)}; use name="
        )


def _continues(op: str, study: Any, job: _Job) -> None:
    """Raise where a stage in the storage was drawn from other ranges or points than this search would."""
    for trial in study.get_trials(deepcopy=False):
        place = _place(trial)
        if place.get("stage") != job.stage or place["slot"] >= len(job.plan):
            continue
        for what, before, now in (
            ("ranges", place["ranges"], job.ranges),
            ("points", place["point"], job.plan[place["slot"]]),
        ):
            if before != now:
                raise ValueError(
                    f"{op}: the storage holds another search named {study.study_name!r}: the {what} of its stage "
                    f"{job.stage!r} were {before} and are {now}; use name="
                )


def _sampler(seed: int) -> Any:
    """Draws that are a function of (seed, stage, slot, name), whoever draws them and in whatever order."""
    optuna = _optuna()

    class Counted(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            given = _place(trial)
            key = zlib.crc32(f"{given['stage']}/{name}".encode())
            rng = np.random.default_rng([seed, key, given["slot"]])
            if name in given["point"]:
                return given["point"][name]
            d = distribution
            if isinstance(d, optuna.distributions.CategoricalDistribution):
                choices = given["ranges"].get(name, d.choices)
                return choices[int(rng.integers(len(choices)))]
            u = rng.random()
            if isinstance(d, optuna.distributions.IntDistribution):
                # Each whole number is the middle of an interval of its own, in log space too.
                low, high = (d.low - 0.5, d.high + 0.5) if d.log else (0, (d.high - d.low) // d.step + 1)
                v = round(low * (high / low) ** u) if d.log else d.low + d.step * int(u * high)
                return int(min(max(v, d.low), d.high))
            if d.step is not None:
                return float(d.low + d.step * int(u * (round((d.high - d.low) / d.step) + 1)))
            v = d.low * (d.high / d.low) ** u if d.log else d.low + u * (d.high - d.low)
            return float(min(max(v, d.low), d.high))

    return Counted()


def _plan(op: str, task: _Task, stage: _Stage, ranges: dict[str, Any], points: Any) -> list[dict[str, Any]]:
    """For each trial of a stage the values that are fixed beforehand: those of a grid, or none."""
    if stage.trials is not None:
        return [{}] * stage.trials
    # What build cannot make of the middle of all ranges it may make of their ends.
    for at in (0.5, 0.0, 1.0):
        probe = _Probe(points, ranges, at)
        try:
            task.build(Trial(probe, ranges, task.seed))
        except _BadPoints as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            failed = error
        else:
            break
    else:
        raise RuntimeError(
            f"{op}: what build asks for is not known, for it fails in the middle and at both ends of all ranges: "
            f"{type(failed).__name__}: {failed}"
        ) from failed
    if unknown := set(points if isinstance(points, Mapping) else ()) - set(probe.axes):
        known = ", ".join(probe.axes) or "nothing"
        raise ValueError(f"{op}: points of {', '.join(map(repr, sorted(unknown)))}, but build asks for {known}")
    return [dict(zip(probe.axes, values, strict=True)) for values in itertools.product(*probe.axes.values())]


def _moved(study: Any, rows: list[Row], metric: str, *, ends: bool) -> tuple[dict[str, Any], list[str]]:
    """Ranges whose best value lies at the border, moved so that it lies in the middle; and why, in words.

    At the border means in the outer tenth (or as near to the end as one and a half gaps between trials), with the
    middle one of the best quarter in the outer third on that side, so that a parameter without effect seldom moves by
    luck; on a grid it is the outermost point.
    """
    top = _top(rows, metric)
    wanted, words = {}, []
    border = 1e-9 if ends else max(_BORDER, 1.5 / (len(rows) + 1))
    trial = next(t for t in study.get_trials(deepcopy=False) if t.number == top[0].number)
    for name, d in trial.distributions.items():
        if not hasattr(d, "low") or d.low == d.high:
            continue
        forth, back = (math.log, math.exp) if d.log else (float, float)
        a, b = forth(d.low), forth(d.high)
        places = [(forth(row.params[name]) - a) / (b - a) for row in top if name in row.params]
        side = 0 if places[0] < 0.5 else 1
        far = [abs(side - place) for place in places]
        if far[0] > border or (not ends and float(np.median(far)) > 1 / 3):
            continue
        low_limit, high_limit = trial.user_attrs["within"][name]
        middle = forth(trial.params[name])
        low, high = back(middle - (b - a) / 2), back(middle + (b - a) / 2)
        low, high = max(low, low_limit), min(high, high_limit)
        if isinstance(trial.params[name], int):
            low, high = max(round(low), 1 if d.log else round(low)), round(high)
        if (low >= d.low) if side == 0 else (high <= d.high):
            continue  # it may not move further
        wanted[name] = [low, high]
        words.append(
            f"the best {name}, {_short(trial.params[name])}, lies at the border of {_short(d.low)} to "
            f"{_short(d.high)}: moved to {_short(low)} to {_short(high)}"
        )
    return wanted, words


def _narrowed(study: Any, rows: list[Row], metric: str) -> dict[str, Any]:
    """Ranges around the best quarter, a tenth wider on either side, at least a quarter as wide as before."""
    top = _top(rows, metric)
    trials = {t.number: t for t in study.get_trials(deepcopy=False)}
    ranges: dict[str, Any] = {}
    for name, d in trials[top[0].number].distributions.items():
        values = [row.params[name] for row in top if name in row.params]
        if not hasattr(d, "low"):
            ranges[name] = [choice for choice in d.choices if choice in values]
            continue
        if d.low == d.high:
            continue
        forth, back = (math.log, math.exp) if d.log else (float, float)
        a, b = forth(d.low), forth(d.high)
        low, high = forth(min(values)) - 0.1 * (b - a), forth(max(values)) + 0.1 * (b - a)
        lack = max(0.0, (b - a) / 4 - (high - low)) / 2
        limits = trials[top[0].number].user_attrs["within"][name]
        low, high = max(back(low - lack), limits[0]), min(back(high + lack), limits[1])
        whole = isinstance(values[0], int)
        if not d.log:
            low, high = max(low, d.low), min(high, d.high)
        if whole:
            low, high = max(math.floor(low), 1 if d.log else math.floor(low)), math.ceil(high)
        if getattr(d, "step", None) not in (None, 1):
            low, high = d.low + d.step * math.floor((low - d.low) / d.step), d.high
        ranges[name] = [low, high]
    return ranges


def _top(rows: list[Row], metric: str) -> list[Row]:
    sign = -1.0 if metric == "accuracy" else 1.0
    ordered = sorted(rows, key=lambda row: (sign * row.value, row.number))
    return ordered[: max(1, math.ceil(_KEEP * len(ordered)))]


# ---- running it ----


#: what this process has in hand: a trial that it could not close, for want of a storage, is not among them
_IN_HAND: set[str] = set()


def _me() -> list[Any]:
    token = secrets.token_hex(8)
    _IN_HAND.add(token)
    return [socket.gethostname(), os.getpid(), _started(os.getpid()), token]


def _started(pid: int) -> str:
    """When a process began, where the system tells: a number may be given to another process later."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # one that ended and was not yet waited for is gone


def _dead(trial: Any) -> bool:
    """Whether a running trial's process is known to be gone; of another machine's nothing is known."""
    owner = _place(trial).get("owner")
    if owner is None:
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > _ORPHAN_SECONDS
    host, pid, started, token = owner
    if host != socket.gethostname():
        return False
    if pid == os.getpid():
        return bool(started != _started(pid)) or token not in _IN_HAND
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(started != _started(pid))


def _place(trial: Any) -> dict[str, Any]:
    """What `_claim` wrote on a trial: which place of the plan it has, and whose it is."""
    return trial.user_attrs.get("fastnn", {})


def _own(study: Any) -> list[Any]:
    """The finished trials that count: not those whose process was interrupted or came second."""
    trials = study.get_trials(deepcopy=False)
    return [
        t for t in trials if t.state.is_finished() and _place(t) and (t.state.name != "FAIL" or "error" in t.user_attrs)
    ]


def _wanted(study: Any, jobs: list[_Job]) -> list[Any]:
    """The finished trials of these stages: a storage may hold more, of a search that had more trials."""
    slots = {job.stage: len(job.plan) for job in jobs}
    return [t for t in _own(study) if _place(t)["slot"] < slots.get(_place(t)["stage"], 0)]


@dataclass(frozen=True)
class _Job:
    """A stage, as everyone who works on it knows it. plan: for each slot the values that are fixed beforehand."""

    stage: str
    epochs: int
    ranges: dict[str, Any]
    plan: list[dict[str, Any]]


def _open(study: Any, job: _Job) -> tuple[list[int], int]:
    """Which slots of a stage nobody has in hand, and how many are in hand; closes what died."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,), deepcopy=False):
        if _dead(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    trials = [t for t in study.get_trials(deepcopy=False) if _place(t).get("stage") == job.stage]
    taken = {_place(t)["slot"] for t in trials if t.state == TrialState.RUNNING}
    done = {_place(t)["slot"] for t in _own(study) if _place(t)["stage"] == job.stage}
    left = [slot for slot in range(len(job.plan)) if slot not in done and slot not in taken]
    died = [t for t in trials if t.state == TrialState.FAIL and not {"error", "stopped"} & t.user_attrs.keys()]
    for slot in list(left):
        tried = [t for t in died if _place(t)["slot"] == slot]
        if len(tried) >= _ATTEMPTS:
            last, said = tried[-1], f"its process died {_ATTEMPTS} times"
            study.add_trial(
                _optuna().trial.create_trial(
                    state=TrialState.FAIL,
                    params=last.params,
                    distributions=last.distributions,
                    user_attrs={**last.user_attrs, "error": said},
                )
            )
            left.remove(slot)
    return left, len(taken - done)


def _claim(study: Any, job: _Job, owner: list[Any]) -> Any:
    """Take a slot for an owner: a running trial that holds it, or None when none is open.

    What Optuna promises on every storage is that numbers of trials are unique; that a waiting trial is handed out once
    it does not (on SQLite it is not). So everyone makes a trial, writes a slot on it, and looks: of several that took
    the same one, the lowest number has it.
    """
    from optuna.trial import TrialState

    while True:
        left, _ = _open(study, job)
        if not left:
            return None
        trial = study.ask()
        place = {"stage": job.stage, "slot": left[0], "epochs": job.epochs, "ranges": job.ranges, "owner": owner}
        trial.set_user_attr("fastnn", {**place, "point": job.plan[left[0]]})
        while True:
            before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
            if not any(t.state == TrialState.RUNNING and not _place(t) and not _dead(t) for t in before):
                break
            time.sleep(0.02)  # one of them is about to write which slot it takes
        same = [t for t in before if (_place(t).get("stage"), _place(t).get("slot")) == (job.stage, left[0])]
        if not any(t.state != TrialState.FAIL or "error" in t.user_attrs for t in same):
            return trial
        trial.set_user_attr("stopped", True)
        study.tell(trial, state=TrialState.FAIL)


def _run(study: Any, storage: Any, name: str, task: _Task, job: _Job, jobs: int, bar: Any) -> None:
    """Bring a stage to its end: work on it, and wait for others that do."""
    while True:
        left, pending = _open(study, job)
        bar(f"{job.stage}: {len(job.plan) - len(left) - pending} of {len(job.plan)}")
        if not left and not pending:
            return
        if left and jobs == 1:
            _work(study, task, job, bar)
        elif left:
            _in_parallel(storage, name, task, job, jobs)
        else:
            time.sleep(0.2)  # the rest is in other hands


def _in_parallel(storage: Any, name: str, task: _Task, job: _Job, jobs: int) -> None:
    try:
        import joblib
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError:
        raise need("joblib", "train", "a search on several processes") from None
    threads = max(1, get_num_threads() // jobs)
    try:
        run = joblib.Parallel(n_jobs=jobs, backend="loky", max_nbytes="1M")
        run(joblib.delayed(_process)(storage, name, task, job, threads) for _ in range(jobs))
    except TerminatedWorkerError:
        pass  # its trial is found dead, and the rest goes on
    except (pickle.PicklingError, TypeError) as error:
        if not isinstance(error, pickle.PicklingError) and "pickle" not in str(error):
            raise
        lines = str(error.__cause__ or error).replace('"""', "").strip().splitlines()
        reason = lines[-1] if lines else "no reason given"
        raise TypeError(
            f"search: build or the data cannot be sent to other processes ({reason}); let build make what it needs "
            "itself, or search with jobs=1"
        ) from error


def _process(storage: Any, name: str, task: _Task, job: _Job, threads: int) -> None:
    with _quiet(_optuna()), num_threads(threads):
        _work(_study(storage, name, task), task, job)


def _work(study: Any, task: _Task, job: _Job, bar: Any = None) -> None:
    """Do trials of a stage until all are done or in other hands."""
    owner = _me()
    try:
        while (trial := _claim(study, job, owner)) is not None:
            _try(study, task, trial)
            if bar is not None:
                bar("", 1)
    finally:
        _IN_HAND.discard(owner[-1])


def _try(study: Any, task: _Task, trial: Any) -> None:
    """Do one trial, and write down what came of it."""
    from optuna.trial import TrialState

    began = time.perf_counter()
    try:
        value = _score_of(trial, task)
    except _optuna().TrialPruned as stop:
        trial.set_user_attr("reason", str(stop))
        trial.set_user_attr("seconds", time.perf_counter() - began)
        study.tell(trial, state=TrialState.PRUNED)
    except Exception as error:
        # What one build gets wrong says nothing about the others.
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        trial.set_user_attr("traceback", traceback.format_exc())
        trial.set_user_attr("seconds", time.perf_counter() - began)
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        trial.set_user_attr("stopped", True)  # by hand: done again when the search goes on
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        trial.set_user_attr("seconds", time.perf_counter() - began)
        study.tell(trial, value)


def _check_rows(op: str, name: str, data: Any) -> int:
    """How many rows of inputs and labels there are; every trial would fail where they do not fit."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{op}: {name} must be (x, y), got {type(data).__name__}")
    x, y = data[0], np.asarray(data[1])
    parts = [np.asarray(part) for part in (x if isinstance(x, tuple) else (x,))]
    shapes = ", ".join(str(part.shape) for part in parts)
    if not y.ndim or any(not part.ndim or len(part) != len(y) for part in parts):
        raise ShapeError(f"{op}: {name}: one label for each row of x, got x {shapes} and y {y.shape}")
    if not len(y):
        raise ShapeError(f"{op}: {name} has no rows, got x {shapes}")
    return len(y)


def _check_classes(op: str, y: Any, folds: int) -> None:
    """Raise where no class has a row for each part; scikit-learn says so of the labels, in words of its own."""
    y = np.asarray(y)
    if y.ndim == 1 and y.dtype.kind in "iub":
        most = int(np.unique(y, return_counts=True)[1].max())
        if most < folds:
            raise ValueError(f"{op}: folds must be at most {most}, the rows of the largest class, got {folds}")


def _splits(data: tuple[Any, Any], folds: int, seed: int) -> list[tuple[Any, Any]]:
    try:
        from sklearn.model_selection import KFold, StratifiedKFold
    except ImportError:
        raise need("scikit-learn", "train", "cross-validation") from None
    y = np.asarray(data[1])
    kind = StratifiedKFold if y.ndim == 1 and y.dtype.kind in "iub" else KFold
    with warnings.catch_warnings():
        # A class of fewer rows than parts is missing in some, which does not keep the others from being scored.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(kind(folds, shuffle=True, random_state=seed % 2**32).split(np.zeros(len(y)), y))


def _score_of(source: Any, task: _Task) -> float:
    """Train and score one trial on every fold; return the mean."""
    given = _place(source)
    x, y = _arrays(task.data[0]), np.asarray(task.data[1])
    if task.folds:
        splits = [
            ((_rows(x, train), y[train]), (_rows(x, test), y[test]))
            for train, test in _splits(task.data, task.folds, task.seed)
        ]
    else:
        assert task.validation is not None
        splits = [((x, y), task.validation)]
    scores: list[float] = []
    curves: list[list[float]] = []
    within: dict[str, list[float]] = {}
    for fold, (train, test) in enumerate(splits):
        trial = Trial(source, given["ranges"], task.seed, fold)
        built = task.build(trial)
        within |= trial.within  # a fold may ask for what the others do not
        source.set_user_attr("within", within)
        trainer, options = built if isinstance(built, tuple) else (built, {})
        if not isinstance(trainer, Trainer):
            raise TypeError(f"search: build must return a Trainer or (Trainer, options of fit), got {built!r}")
        curves.append([])
        try:
            scores.append(_fit(source, trainer, dict(options), train, test, given["epochs"], fold, task.metric, curves))
        finally:
            source.set_user_attr("curves", curves)
        source.set_user_attr("folds", scores)
    return float(np.mean(scores))


class _Told(Monitor):
    """Tells the study the score after each epoch, and asks its pruner."""

    def __init__(self, source: Any, fold: int, metric: str) -> None:
        self.source, self.fold, self.metric = source, fold, metric
        self.pruned = ""

    def after_epoch(self, run: Run) -> None:
        values = run.history.val_accuracy if self.metric == "accuracy" else run.history.val_loss
        if not values:
            raise ValueError("search: the trainer's loss has no accuracy; use metric='loss'")
        self.source.report(values[-1], self.fold * run.epochs + run.epoch - 1)
        if self.source.should_prune():
            self.pruned = f"by the pruner, after {run.epoch} epochs of fold {self.fold}"
            run.stop(self.pruned)


def _fit(
    source: Any,
    trainer: Trainer,
    options: dict[str, Any],
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    epochs: int,
    fold: int,
    metric: str,
    curves: list[list[float]],
) -> float:
    """Train on one fold and return the score; raise `optuna.TrialPruned` where it was stopped."""
    told, divergence = _Told(source, fold, metric), Divergence()
    options = {"epochs": epochs, "progress": False, **options}
    options["monitors"] = [*options.get("monitors", ()), divergence, told]
    run = trainer.fit(train, validation=test, **options)
    curves[-1].extend(run.loss)
    # What is not a number stops without the monitor, and leaves the epoch unfinished.
    if told.pruned or divergence.diverged or not math.isfinite(run.val_loss[-1]):
        raise _optuna().TrialPruned(run.stopped)
    if run.stopped:
        return trainer.evaluate(*test)[metric]  # a monitor of the user's may have put other weights back
    return (run.val_accuracy if metric == "accuracy" else run.val_loss)[-1]


def _arrays(x: Any) -> Any:
    return x if isinstance(x, tuple) else np.asarray(x)


def _rows(x: Any, rows: Any) -> Any:
    return tuple(part[rows] for part in x) if isinstance(x, tuple) else x[rows]


def _row(trial: Any) -> Row:
    given, place = trial.user_attrs, _place(trial)
    state = {"COMPLETE": "done", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    ranges = {
        name: place["ranges"].get(name, list(d.choices)) if not hasattr(d, "low") else (d.low, d.high)
        for name, d in trial.distributions.items()
    }
    return Row(
        number=trial.number,
        stage=place["stage"],
        params=dict(trial.params),
        value=float(trial.value) if state == "done" else math.nan,
        folds=list(given.get("folds", [])),
        epochs=place["epochs"],
        seconds=float(given.get("seconds", math.nan)),
        state=state,
        reason=given.get("error", given.get("reason", "")),
        curves=given.get("curves", []),
        ranges=ranges,
        logs=[name for name, d in trial.distributions.items() if getattr(d, "log", False)],
    )


@contextlib.contextmanager
def _bar(progress: bool | None) -> Iterator[Callable[..., None]]:
    def nothing(text: str, done: int = 0) -> None: ...

    if progress is False:
        yield nothing
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress:
            raise need("tqdm", "train", "a progress bar") from None
        yield nothing
        return
    with tqdm(unit="trial", disable=False if progress else None, leave=False) as bar:

        def show(text: str, done: int = 0) -> None:
            if text:
                bar.set_description_str(text)
            bar.update(done)

        yield show

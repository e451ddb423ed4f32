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
import itertools
import math
import os
import pickle
import socket
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
        low, high = self._range(name, low, high, log, within)
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
        low, high = self._range(name, low, high, log, within)
        return int(self._source.suggest_int(name, int(low), int(high), log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices: numbers, texts, booleans or None."""
        return self._source.suggest_categorical(name, list(choices))

    def _range(self, name: str, low: Any, high: Any, log: bool, within: Any) -> tuple[Any, Any]:
        self.within[name] = list(within) if within else [0.0, math.inf] if log else [low, high]
        return tuple(self._ranges.get(name, (low, high)))


class _Chosen:
    """Answers with given values, in place of an Optuna trial."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        return self.values[name]

    suggest_int = suggest_float

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.values[name]


class _Probe:
    """Notes what is asked for, to lay a grid; answers with the middle."""

    def __init__(self, points: int | Mapping[str, int | Sequence[Any]], moved: Mapping[str, Any]) -> None:
        self.points, self.moved = points, moved
        self.axes: dict[str, list[Any]] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool, step: float | None) -> float:
        return float(self._numbers(name, low, high, log, step, float))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool, step: int) -> int:
        return int(self._numbers(name, low, high, log, step, int))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        given = self.points.get(name) if isinstance(self.points, Mapping) else None
        self.axes[name] = list(choices) if given is None or isinstance(given, int) else list(given)
        return self.axes[name][0]

    def _numbers(self, name: str, low: Any, high: Any, log: bool, step: Any, kind: type) -> Any:
        given = self.points.get(name, 3) if isinstance(self.points, Mapping) else self.points
        if not isinstance(given, int):
            values = [kind(value) for value in given]
            # As far off as a rounding they are taken for the ends.
            outside = [v for v in values if not low - 1e-9 * abs(low) <= v <= high + 1e-9 * abs(high)]
            if outside and name not in self.moved:
                raise ValueError(f"search.grid: points of {name!r} lie from {low:g} to {high:g}, got {outside[0]:g}")
        else:
            if given < 1:
                raise ValueError(f"search.grid: points of {name!r} must be at least 1, got {given}")
            middle = math.sqrt(low * high) if log else (low + high) / 2
            line = [middle] if given == 1 else np.geomspace(low, high, given) if log else np.linspace(low, high, given)
            values = [kind(round(v)) if kind is int else kind(v) for v in line]
            if step:
                values = [kind(low + step * round((v - low) / step)) for v in values]
        # geomspace's ends are off by a rounding, and a value outside of its range is refused.
        self.axes[name] = list(dict.fromkeys(min(max(v, low), high) for v in values))
        return self.axes[name][len(self.axes[name]) // 2]


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

    def __init__(self, study: Any, build: Callable[[Trial], Any], metric: str, seed: int, moved: list[str]) -> None:
        self.study, self.metric, self.moved = study, metric, moved
        self._build, self._seed = build, seed
        self.rows = [_row(trial) for trial in _own(study)]

    @property
    def best(self) -> Row:
        """The best trial of the last stage."""
        done = [row for row in self.rows if row.state == "done"]
        if not done:
            reasons = {row.reason for row in self.rows}
            raise RuntimeError(f"search: no trial came to an end: {'; '.join(sorted(reasons)[:3])}")
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
        for row in ordered[:rows]:
            value = "" if math.isnan(row.value) else _score(row.value, self.metric)
            std = _score(float(np.std(row.folds)), self.metric) if len(row.folds) > 1 else ""
            note = "" if row.state == "done" else f"{row.state}: {row.reason}"
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
        return "\n".join([self.table(), *self.moved])


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
    return _search("random", build, data, [_Stage("random", trials, epochs, moves)], **options)


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
    return _search("grid", build, data, [_Stage("grid", 0, epochs, moves)], points=points, **options)


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
    return _search("coarse to fine", build, data, stages, **options)


# ---- the plan ----


@dataclass(frozen=True)
class _Stage:
    name: str
    trials: int
    epochs: int
    moves: int


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
    *,
    points: int | Mapping[str, int | Sequence[Any]] = 3,
    validation: tuple[Any, Any] | None = None,
    folds: int | None = None,
    metric: str = "accuracy",
    seed: int = 0,
    jobs: int = 1,
    storage: str | Path | None = None,
    name: str = "search",
    pruner: Any = None,
    sampler: Any = None,
    progress: bool | None = None,
) -> Result:
    optuna = _optuna()
    op = f"search.{kind.replace(' ', '_')}"
    if (validation is None) == (folds is None):
        raise ValueError(f"{op}: give either validation=(x, y) or folds=k")
    if metric not in ("accuracy", "loss"):
        raise ValueError(f"{op}: metric must be 'accuracy' or 'loss', got {metric!r}")
    whole = {"jobs": jobs, **({} if folds is None else {"folds": folds - 1})}
    whole |= {f"{what} of the {s.name} stage": getattr(s, what) for s in stages for what in ("epochs", "trials")}
    for what, value in whole.items():
        if value < (0 if what == "trials of the grid stage" else 1):
            raise ValueError(f"{op}: {what.replace('folds', 'folds, less one,')} must be at least 1, got {value}")
    rows = _check_rows(op, "data", data)
    if validation is not None:
        _check_rows(op, "validation", validation)
    if folds is not None:
        if folds > rows:
            raise ValueError(f"{op}: folds must be at most the {rows} rows, got {folds}")
        _splits(data, folds, seed)
    if not callable(build):
        raise TypeError(f"{op}: build must be a function of a trial that returns a Trainer, got {build!r}")
    task = _Task(build, data, validation, folds or 0, metric, seed, pruner, sampler)
    with _quiet(optuna), tempfile.TemporaryDirectory() as folder:
        if storage is None and jobs > 1:
            storage = Path(folder) / "search.journal"
        study = _opened(op, storage, name, task)
        _agree(op, study, {"kind": kind, "seed": seed, "metric": metric, "folds": folds or 0})
        ranges: dict[str, Any] = {}
        moved: list[str] = []
        with _bar(progress) as bar:
            for i, stage in enumerate(stages):
                for move in range(stage.moves + 1):
                    label = stage.name + (f", moved {move}x" if move else "")
                    plan = _plan(op, task, stage, ranges, points if kind == "grid" else None)
                    _run(study, storage, name, task, _Job(label, stage.epochs, ranges, plan), jobs, bar)
                    here = [row for row in map(_row, _own(study)) if row.stage == label and row.state == "done"]
                    if not here:
                        return Result(study, build, metric, seed, moved)
                    wanted, words = _moved(study, here, metric, ends=kind == "grid")
                    if not words or move == stage.moves:
                        break
                    ranges = {**ranges, **wanted}
                    moved += [f"after {label}: {text}" for text in words]
                if i + 1 < len(stages):
                    same = [r for r in map(_row, _own(study)) if _kind(r.stage) == stage.name and r.state == "done"]
                    ranges = _narrowed(study, same, metric)
        result = Result(study, build, metric, seed, moved)
        if storage is not None and Path(folder) in Path(str(storage)).parents:
            result.study = _in_memory(study)  # the file goes
        return result


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
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        where = JournalStorage(JournalFileBackend(str(storage)))
    return optuna.create_study(
        study_name=name,
        storage=where,
        direction="maximize" if task.metric == "accuracy" else "minimize",
        load_if_exists=True,
        sampler=task.sampler or _sampler(task.seed),
        pruner=task.pruner or optuna.pruners.NopPruner(),
    )


def _opened(op: str, storage: str | Path | None, name: str, task: _Task) -> Any:
    """The study; what keeps its storage from being opened is said in words."""
    file = None if storage is None or "://" in str(storage) else Path(storage)
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"{op}: storage: there is no folder {file.parent}")
    if file is not None and file.is_dir():
        raise IsADirectoryError(f"{op}: storage: {file} is a folder; give a file in it")
    try:
        return _study(storage, name, task)
    except PermissionError as error:
        raise PermissionError(f"{op}: storage {str(storage)!r} cannot be written: {error}") from error
    except Exception as error:
        # Of Optuna, of SQLAlchemy and its drivers, of JSON: each has its own for a file that is no storage.
        if storage is None:
            raise
        told = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{op}: storage {str(storage)!r} cannot be opened ({told}); it is damaged, or not that of a search: "
            "move it away and start anew"
        ) from error


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


def _agree(op: str, study: Any, settings: dict[str, Any]) -> None:
    """Raise where the storage holds a search of another kind under this name."""
    before = study.user_attrs.get("fastnn")
    if before is None:
        study.set_user_attr("fastnn", settings)
    elif before != settings:
        differing = ", ".join(
            f"{k} was {before.get(k)!r} and is {v!r}" for k, v in settings.items() if before.get(k) != v
        )
        raise ValueError(f"{op}: the storage holds another search named {study.study_name!r}: {differing}; use name=")


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
    if points is None:
        return [{}] * stage.trials
    probe = _Probe(points, ranges)
    task.build(Trial(probe, ranges, task.seed))
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


def _me() -> list[Any]:
    return [socket.gethostname(), os.getpid(), _started(os.getpid())]


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
    host, pid, started = owner
    if host != socket.gethostname():
        return False
    if pid == os.getpid():
        return bool(started != _started(pid))
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


def _claim(study: Any, job: _Job) -> Any:
    """Take a slot: a running trial that holds it, or None when none is open.

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
        place = {"stage": job.stage, "slot": left[0], "epochs": job.epochs, "ranges": job.ranges, "owner": _me()}
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
    from optuna.trial import TrialState

    while (trial := _claim(study, job)) is not None:
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
        if bar is not None:
            bar("", 1)


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


def _splits(data: tuple[Any, Any], folds: int, seed: int) -> list[tuple[Any, Any]]:
    try:
        from sklearn.model_selection import KFold, StratifiedKFold
    except ImportError:
        raise need("scikit-learn", "train", "cross-validation") from None
    y = np.asarray(data[1])
    kind = StratifiedKFold if y.ndim == 1 and y.dtype.kind in "iub" else KFold
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
    for fold, (train, test) in enumerate(splits):
        trial = Trial(source, given["ranges"], task.seed, fold)
        built = task.build(trial)
        source.set_user_attr("within", trial.within)
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
    if told.pruned or divergence.diverged:
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

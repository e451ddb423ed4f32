"""The doctor: what the lectures check before and during training, each as a call, and `doctor`, which calls them all.

A check is a function of a `_Patient` (copies of the model, and the runs that several checks look at) and is made
public by ``_check``, which also says which checks must pass first: a net whose rate is too high also has large updates,
and the one finding that explains the others is the one to report. To add one: a function with that decorator; its
place in the file is its place in the report. How the report looks as HTML stands in ``_report.py``.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import losses
from ._gradcheck import WRONG, gradcheck
from ._statistics import LayerStatistics, Statistics, statistics
from ._text import table
from .errors import ShapeError
from .layers.activation import Hardsigmoid, Hardtanh, Sigmoid, Softsign, Tanh
from .layers.base import Array, Layer
from .layers.container import Flatten, Identity
from .layers.dropout import DropConnect, Dropout, StochasticDepth
from .layers.preprocess import Normalize, Project
from .optim import SGD, Adam, Optimizer
from .random import draw_seed
from .regularization import L2, MaxNorm, Penalty
from .training import Trainer
from .training.monitors import Monitor, Run, UpdateRatios

__all__ = ["Check", "Report", "doctor", "names"]

#: so many rows are looked at where whole passes are made
_ROWS = 512
#: the lecture's rule for exploding: more than 3 times the first loss
_EXPLODED = 3.0


@dataclass(frozen=True)
class Check:
    """What one check found; true when it passed.

    Attributes
    ----------
    name : str
    ok : bool or None
        None: not judged, and the verdict says why.
    value : float
        The number that was judged; NaN where there is none.
    verdict : str
        What was found, in words.
    hint : str
        What to do about it; empty where nothing is to be done.
    numbers : dict of str to float
        More numbers, by name.
    curves : dict of str to (x, y)
        What a picture of it shows, by label.
    """

    name: str
    ok: bool | None
    value: float
    verdict: str
    hint: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return self.ok is True

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.name}: {_WORD[self.ok]}: {self.verdict}{hint}"

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Write the curves of the check as a PNG; `ValueError` where it has none."""
        from . import plot

        return plot.check(self, path, title=title)


_WORD = {True: "ok", False: "FAILS", None: "not judged"}


@dataclass(frozen=True)
class Report:
    """What `doctor` found; true when nothing failed, a table when printed.

    Attributes
    ----------
    checks : list of Check
        In the order of the lectures.
    model : str
        The summary of the model.
    statistics : Statistics
        Of the model as it was given, layer by layer.
    """

    checks: list[Check]
    model: str
    statistics: Statistics

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.ok is False]

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are {', '.join(check.name for check in self.checks)}")

    def __str__(self) -> str:
        rows = [(check.name, _WORD[check.ok], check.verdict) for check in self.checks]
        lines = [table(("check", "", "what was found"), rows, 3)]
        judged = [check for check in self.checks if check.ok is not None]
        passed = f"{sum(check.ok is True for check in judged)} of {len(judged)} checks pass"
        lines += ["", passed + (f", {n} not judged" if (n := len(self.checks) - len(judged)) else "")]
        lines += [f"  {check.name}: {check.hint}" for check in self.failed]
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write the report as one HTML page that holds its pictures; needs matplotlib."""
        from ._report import write

        return write(self, path)


class _Patient:
    """The model that is looked at, and the runs that several checks share; the model itself is never touched.

    Its parameters are those of `doctor` and of every check. Rows of x are an array, or a tuple of arrays for a model of
    several inputs.
    """

    def __init__(
        self,
        model: Layer,
        x: Any,
        y: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        loss: str | losses.Loss = "cross_entropy",
        optimizer: Optimizer | None = None,
        regularization: Penalty | MaxNorm | Sequence[Penalty | MaxNorm] | None = None,
        batch_size: int = 64,
        steps: int = 200,
        rng: int | np.random.Generator = 0,
    ) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"checks: expected a model, got {type(model).__name__}")
        for name, value in (("batch_size", batch_size), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 2:
                raise ValueError(f"checks: {name} must be a whole number of at least 2, got {value!r}")
        self._model = model
        self.x, self.y = _rows_of("x", x, y)
        if len(self.y) < 20:
            raise ShapeError(f"checks: expected 20 rows or more, got {len(self.y)}")
        self.seed = draw_seed(rng)
        if validation is None:
            # A quarter is kept out; who has validation data of his own loses none.
            order = np.random.default_rng(self.seed % 2**32).permutation(len(self.y))
            cut = max(1, len(order) // 4)
            self.validation = (_take(self.x, order[:cut]), self.y[order[:cut]])
            self.train = (_take(self.x, order[cut:]), self.y[order[cut:]])
        else:
            self.validation = _rows_of("validation data", *validation)
            self.train = (self.x, self.y)
        self.loss = loss
        self.optimizer = SGD(lr=0.01, momentum=0.9) if optimizer is None else optimizer
        given = [] if regularization is None else regularization
        self.regularization = list(given) if isinstance(given, Sequence) else [given]
        self.batch_size, self.steps = min(int(batch_size), len(self.train[1])), int(steps)
        # What does not fit is said before any work is done.
        trainer = self.trainer()
        trainer._check_labels("checks", self.x, self.y)
        trainer._check_labels("checks: validation data", *self.validation)
        if isinstance(self.some_scores, tuple):
            raise TypeError("checks: a model of several outputs is not looked at; give one whose output the loss takes")

    def model(self) -> Any:
        """Return a copy of the model."""
        return self._model.copy()

    def trainer(self, model: Layer | None = None, optimizer: Optimizer | None = None, plain: bool = False) -> Trainer:
        """Return a trainer of a copy; ``plain`` leaves the penalties away."""
        return Trainer(
            self.model() if model is None else model,
            loss=self.loss,
            optimizer=self.optimizer if optimizer is None else optimizer,
            rng=self.seed,
            regularization=[] if plain else self.regularization,
        )

    @property
    def classes(self) -> int | None:
        """How many classes are scored; None for losses of values."""
        kind = self.kind
        if kind in ("cross_entropy", "hinge"):
            return int(self.some_scores.shape[-1])
        return None

    @functools.cached_property
    def kind(self) -> str:
        """The name of the loss, or "" where it is a function of the user's."""
        function: Any = losses.get(self.loss)
        function = getattr(function, "func", function)
        return next((name for name in losses.names() if losses.get(name) is function), "")

    @functools.cached_property
    def some_scores(self) -> Any:
        return self._model(*_parts(_take(self.some[0], slice(2))))

    @functools.cached_property
    def some(self) -> tuple[Any, Array]:
        """Some rows of the training data, drawn at random, in the dtype of the model."""
        rows = np.random.default_rng([self.seed % 2**32, 1]).permutation(len(self.train[1]))[:_ROWS]
        dtypes = [a.dtype for a in self._model.params.values()]
        dtype = np.result_type(*dtypes) if dtypes else None
        x = _take(self.train[0], rows)
        return x if dtype is None else _each(x, lambda part: part.astype(dtype, copy=False)), self.train[1][rows]

    @functools.cached_property
    def flow(self) -> Statistics:
        """Layer by layer, what flows through the model as it was given."""
        with np.errstate(all="ignore"):
            return statistics(self._model, *self.some, loss=self.loss, rng=self.seed)

    @functools.cached_property
    def run(self) -> _Run:
        """A short training run with the optimizer and the penalties that were given."""
        return _Run(self, self.optimizer)

    @functools.cached_property
    def rates(self) -> tuple[list[float], list[float]]:
        """The learning-rate range test: rates that grow from step to step, and the smoothed losses at them."""
        trainer = self.trainer(optimizer=_with_rate(self.optimizer, 1.0))
        steps, low, high = 100, 1e-7, 10.0
        rates, seen, smooth, weight = [], [], 0.0, 0.0
        for i, (x, y) in enumerate(_batches(self, steps)):
            rate = low * (high / low) ** (i / (steps - 1))
            with np.errstate(all="ignore"):
                loss, _, _ = trainer._step(x, y, rate=rate)
            smooth, weight = 0.9 * smooth + 0.1 * loss, 0.9 * weight + 0.1
            if not math.isfinite(loss):
                break
            rates.append(rate)
            seen.append(smooth / weight)
            if seen[-1] > 4 * seen[0]:
                break
        return rates, seen

    @functools.cached_property
    def suggestion(self) -> float:
        """The rate at which the loss falls fastest per decade; NaN where it falls at none."""
        rates, seen = self.rates
        if len(seen) < 5:
            return math.nan
        lowest = int(np.argmin(seen))
        before = float(np.mean(seen[: max(1, min(10, lowest))]))
        if lowest < 4 or seen[lowest] > 0.95 * before:
            return math.nan
        # At rates too low to change anything batches differ by chance, and the first means, of few of them, most:
        # what counts is the slope from where a tenth of the fall is done.
        level = before - 0.1 * (before - seen[lowest])
        start = max(i for i in range(lowest) if seen[i] > level) if any(v > level for v in seen[:lowest]) else 0
        slope = np.gradient(np.array(seen[: lowest + 1]), np.log(rates[: lowest + 1]))
        return rates[start + int(np.argmin(slope[start:]))]


class _Until(Monitor):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def after_step(self, run: Run) -> None:
        if run.step >= self.steps:
            run.stop(f"{self.steps} steps are done")


class _Run:
    """A short run of training steps: losses, sizes of updates beside weights, and the model that came out."""

    def __init__(self, patient: _Patient, optimizer: Optimizer) -> None:
        self.model = patient.model()
        self.trainer = patient.trainer(self.model, optimizer)
        # A last batch of few rows would make updates that are no measure of the others.
        whole = len(patient.train[1]) // patient.batch_size
        data = tuple(_take(part, slice(whole * patient.batch_size)) for part in patient.train)
        with np.errstate(all="ignore"):
            self.accuracy = [self._accuracy(patient)]
            run = self.trainer.fit(
                (data[0], data[1]),
                epochs=math.ceil(patient.steps / whole),
                batch_size=patient.batch_size,
                monitors=[UpdateRatios(every=1), _Until(patient.steps)],
                progress=False,
            )
            self.accuracy.append(self._accuracy(patient))
        self.losses = run.step_loss
        what = "update ratio/"
        self.ratios = {n.removeprefix(what): s.values for n, s in run.series.items() if n.startswith(what)}

    def _accuracy(self, patient: _Patient) -> float:
        return self.trainer.evaluate(*patient.some).get("accuracy", math.nan)

    @property
    def first(self) -> float:
        return self.losses[0]

    @property
    def last(self) -> float:
        """The mean of the last tenth; infinite where the run broke down."""
        if not all(map(math.isfinite, self.losses)):
            return math.inf
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))


def _parts(x: Any) -> tuple[Array, ...]:
    """The arrays of one input or several."""
    return x if isinstance(x, tuple) else (x,)


def _each(x: Any, function: Callable[[Array], Array]) -> Any:
    return tuple(map(function, x)) if isinstance(x, tuple) else function(x)


def _take(x: Any, rows: Any) -> Any:
    """These rows of one input or several."""
    return _each(x, lambda part: part[rows])


def _rows_of(what: str, x: Any, y: Any) -> tuple[Any, Array]:
    """x and y as arrays of equally many rows; a tuple of arrays is several inputs, as for `Trainer`."""
    several = isinstance(x, tuple) and len(x) > 1 and all(isinstance(part, np.ndarray) for part in x)
    x = x if several else np.asarray(x)
    if isinstance(y, tuple) and len(y) != 1:
        raise TypeError(f"checks: one array of labels, got {len(y)}: a model of several outputs is not looked at")
    y = np.asarray(y[0] if isinstance(y, tuple) else y)
    if not y.ndim or any(not part.ndim or len(part) != len(y) for part in _parts(x)):
        shapes = ", ".join(str(part.shape) for part in _parts(x))
        raise ShapeError(f"checks: one label for each row of {what}, got x {shapes} and y {y.shape}")
    return x, y


def _batches(patient: _Patient, steps: int) -> Iterator[tuple[Any, Array]]:
    x, y = patient.train
    rng = np.random.default_rng([patient.seed % 2**32, 2])
    size = patient.batch_size
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(len(y)).tolist()
        rows, order = order[:size], order[size:]
        yield _take(x, rows), y[rows]


def _with_rate(optimizer: Optimizer, lr: float) -> Optimizer:
    copied = optimizer.copy()
    copied.lr = lr
    return copied


def _without_dropout(model: Layer) -> Any:
    for _, layer in model.leaves():
        if isinstance(layer, (Dropout, DropConnect, StochasticDepth)):
            layer.p = 0.0
    return model


# ---- the checks, in the order of the lectures ----

#: name -> (the function of a patient, the names of the checks that must not have failed)
_CHECKS: dict[str, tuple[Callable[[_Patient], Check], tuple[str, ...]]] = {}


def _check(*needs: str) -> Callable[[Callable[[_Patient], Check]], Callable[..., Check]]:
    """Register a check, and make it callable with a model and data."""

    def made(function: Callable[[_Patient], Check]) -> Callable[..., Check]:
        name = function.__name__
        _CHECKS[name] = (function, needs)
        __all__.append(name)

        @functools.wraps(function)
        def public(model: Layer, x: Any, y: Any, **options: Any) -> Check:
            return function(_Patient(model, x, y, **options))

        return _takes_patient(public)

    return made


def _takes_patient(function: Any) -> Any:
    """Let help() show the parameters of `_Patient`, which stand there alone, for what makes one of its arguments."""
    vars(function).pop("__wrapped__", None)
    returned = inspect.signature(function).return_annotation
    function.__signature__ = inspect.signature(_Patient).replace(return_annotation=returned)
    return function


def names() -> list[str]:
    """Return the names of the checks, in order.

    Examples
    --------
    >>> names()[:3]
    ['inputs', 'shuffled_labels', 'gradients']
    """
    return list(_CHECKS)


@_check()
def inputs(p: _Patient) -> Check:
    """Whether the input is finite, and of a size that weights are made for: standard deviation 0.01 to 10.

    CS231n: zero-centre, and scale to unit variance. Input that is all of one sign passes, and is told. Of a model that
    begins with its preprocessing (`fastnn.preprocess`) what that gives is judged.
    """
    several = isinstance(p.x, tuple)
    found = []
    for i, (x, own, other) in enumerate(zip(*map(_parts, (p.train[0], p.x, p.validation[0])), strict=True)):
        check = _input(p, x, {"x": own, "validation data": other}, f"input {i}: " if several else "")
        if check.ok is False:
            return check
        found.append(check)
    # Of several good ones that which is furthest from size 1 is told; one that is not judged hides none that is.
    judged = [check for check in found if check.ok] or found
    return max(judged, key=lambda check: abs(math.log(check.value)) if check.value > 0 else 0.0)


def _prepared(p: _Patient) -> LayerStatistics | None:
    """What the preprocessing gives that a model begins with: what its weights see."""
    first = itertools.takewhile(
        lambda pair: isinstance(pair[1], (Normalize, Project, Flatten, Identity)), p._model.leaves()
    )
    names = [name for name, layer in first if isinstance(layer, (Normalize, Project))]
    return p.flow[names[-1]] if names and not isinstance(p.x, tuple) else None


def _input(p: _Patient, x: Array, parts: dict[str, Array], name: str) -> Check:
    if x.dtype.kind not in "fiub":
        return Check("inputs", None, math.nan, f"{name}x has dtype {x.dtype}")
    for what, part in parts.items():
        bad = int((~np.isfinite(part)).any(axis=tuple(range(1, part.ndim))).sum())
        if bad:
            told = f"{name}{bad} of {len(part)} rows of {what} hold NaN or infinite values"
            return Check("inputs", False, float(bad), told, "remove or fill them")
    mean, std = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    low, high = float(x.min()), float(x.max())
    if (given := _prepared(p)) is not None:
        name = f"{name}behind layer {given.name!r} ({given.label}): "
        mean, std, low, high = given.output.mean, given.output.std, given.output.low, given.output.high
    numbers = {"mean": mean, "std": std, "lowest": low, "highest": high}
    sized = f"mean {mean:.3g}, standard deviation {std:.3g}, from {low:.4g} to {high:.4g}"
    size = math.hypot(mean, std)
    if not 0.01 <= size <= 10:
        what = "large" if size > 10 else "small"
        return Check(
            "inputs",
            False,
            size,
            f"{name}too {what}: {sized}",
            "normalise: subtract the mean of the training data and divide by its deviation (fastnn.preprocess)",
            numbers,
        )
    centred = "" if abs(mean) < 2 * std and low < 0 else "; not zero-centred, which slows training a little"
    return Check("inputs", True, size, f"{name}{sized}{centred}", numbers=numbers)


@_check("inputs")
def shuffled_labels(p: _Patient) -> Check:
    """Whether labels have anything to do with the input: do nearest neighbours share their class more than by chance?

    The share of rows whose nearest neighbour (Euclid, features scaled to unit variance) has the same label, against
    what pairing at random gives. Where neighbours tell nothing, the short training run is asked: does it predict
    validation data better than chance?
    """
    x, y = p.train
    y = y if y.ndim == 1 else y.argmax(-1) if p.kind in ("cross_entropy", "hinge") else y
    if p.classes is None or y.dtype.kind not in "iub":
        return Check("shuffled_labels", None, math.nan, "only labels that are classes are judged")
    rows = np.random.default_rng([p.seed % 2**32, 3]).permutation(len(y))[:1000]
    flat = np.concatenate([part[rows].reshape(len(rows), -1).astype(np.float64) for part in _parts(x)], axis=1)
    labels = y[rows]
    std = flat.std(0)
    flat = (flat - flat.mean(0))[:, std > 0] / std[std > 0]
    square = (flat**2).sum(1)
    distance = square[:, None] + square - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    agree = float((labels[distance.argmin(1)] == labels).mean())
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    chance = float((shares**2).sum())
    # Of n independent pairs; neighbours that choose each other count twice, so the deviation is up to sqrt(2) larger.
    deviation = math.sqrt(2 * chance * (1 - chance) / len(labels))
    z = (agree - chance) / deviation if deviation else 0.0
    numbers = {"neighbours agree": agree, "by chance": chance, "standard deviations": z}
    if z > 4:
        said = f"nearest neighbours share their label in {agree:.1%}, {chance:.1%} would be chance"
        return Check("shuffled_labels", True, agree, said, numbers=numbers)
    if deviation == 0:
        return Check("shuffled_labels", False, agree, "all labels are equal", "look at how labels are read", numbers)
    vx, vy = p.validation
    vy = vy if vy.ndim == 1 else vy.argmax(-1)
    with np.errstate(all="ignore"):
        right = float((p.run.trainer.predict(vx).argmax(-1) == vy).mean())
    guess = float(np.unique(vy, return_counts=True)[1].max() / len(vy))
    learned = (right - guess) / math.sqrt(max(guess * (1 - guess), 1e-12) / len(vy))
    numbers |= {"validation accuracy": right, "the most frequent class": guess}
    told = f"neighbours share their label in {agree:.1%} (chance {chance:.1%}), {p.steps} steps of training reach"
    told = f"{told} {right:.1%}"
    if learned > 4:
        return Check("shuffled_labels", True, agree, f"{told} of validation data", numbers=numbers)
    return Check(
        "shuffled_labels",
        False,
        agree,
        f"labels look shuffled: {told} of validation data, {guess:.1%} is the most frequent class",
        "look at some rows beside their labels; shuffle x and y by the same order",
        numbers,
    )


@_check("inputs")
def gradients(p: _Patient) -> Check:
    """Whether analytic gradients agree with differences, in float64, on a few rows; see `fastnn.gradcheck`."""
    rows = _each(_take(p.some[0], slice(6)), lambda part: part.astype(np.float64))
    try:
        with np.errstate(all="ignore"):
            found = gradcheck(p.model(), rows, max_checks=10, rng=p.seed)
    except (TypeError, ShapeError, ValueError) as error:
        return Check("gradients", None, math.nan, f"not compared: {error}")
    value = found.max_error
    if found.reason:
        return Check("gradients", None, value, f"inconclusive: {found.reason}")
    told = f"largest relative error {value:.1e} over {found.checked} coordinates"
    if value > WRONG:
        worst = f", at {found.worst}" if found.worst is not None else ""
        return Check(
            "gradients", False, value, f"wrong gradient: {told}{worst}", "look at the backward pass of that layer"
        )
    return Check("gradients", True, value, told)


@_check("inputs")
def symmetry(p: _Patient) -> Check:
    """Whether units differ: with equal weights and equal gradients all units of a layer stay the same for ever.

    A layer that starts at zero passes where its gradient differs from unit to unit, as for the last convolution of a
    residual branch.
    """
    model = p.model()
    model.zero_grad()
    with np.errstate(all="ignore"):
        scores, backward = model.forward(*_parts(p.some[0]), rng=p.seed)
        _, dscores = losses.get(p.loss)(scores, p.some[1])
        backward(dscores)
    same, judged = [], 0
    grads = model.grads
    for name, w in model.params.items():
        if w.ndim < 2 or len(w) < 2:
            continue
        judged += 1
        rows, drows = w.reshape(len(w), -1), grads[name].reshape(len(w), -1)
        alike = np.abs(rows - rows[0]).max() == 0
        dalike = np.abs(drows - drows[0]).max() <= 1e-6 * np.abs(drows).max()
        if alike and dalike:
            same.append(name)
    if same:
        return Check(
            "symmetry",
            False,
            float(len(same)),
            f"all units of {', '.join(same[:3])} are equal, and so are their gradients: they learn the same",
            "start weights at random: fastnn.init.he_normal for ReLU, xavier_normal for tanh",
        )
    return Check("symmetry", True, 0.0, f"the units of all {judged} weights differ")


#: activations that saturate on both sides; of the others only units that are silent on all rows are ill
_TWO_SIDED = tuple(c.__name__ for c in (Sigmoid, Tanh, Hardsigmoid, Hardtanh, Softsign))


@_check("inputs", "symmetry")
def dead_units(p: _Patient) -> Check:
    """Whether rectified units are silent on every row: more than a quarter of a layer is ill.

    Of a network as it is before training; a high rate kills units later, which `fastnn.monitors` shows.
    """
    return _silent(
        p,
        "dead_units",
        [one for one in p.flow.activations if not one.label.startswith(_TWO_SIDED)],
        lambda one: one.dead or 0.0,
        0.25,
        "of its units are silent on all rows",
        "biases and weights are too low or too large; a bias of 0.01, leaky ReLU, or batch norm before it",
    )


@_check("inputs", "symmetry")
def saturated_units(p: _Patient) -> Check:
    """Whether sigmoid and tanh sit in their flat parts: more than 30 % of the elements of a layer is ill."""
    return _silent(
        p,
        "saturated_units",
        [one for one in p.flow.activations if one.label.startswith(_TWO_SIDED)],
        lambda one: one.saturated or 0.0,
        0.30,
        "of its elements are saturated",
        "smaller weights (Xavier: standard deviation 1 / sqrt(fan in)), batch norm before it, or ReLU in its place",
    )


def _silent(
    p: _Patient, name: str, layers: list[Any], share: Callable[[Any], float], limit: float, words: str, hint: str
) -> Check:
    if not layers:
        return Check(name, None, math.nan, "there are no such activations")
    worst = max(layers, key=share)
    depth: tuple[list[float], list[float]] = (
        [float(i) for i in range(len(layers))],
        [100 * share(one) for one in layers],
    )
    value, place = share(worst), f"layer {worst.name!r} ({worst.label})"
    curves = {"before training": depth} if len(layers) > 1 else {}
    if value > limit:
        return Check(name, False, value, f"{place}: {value:.0%} {words}, before training", hint, curves=curves)
    return Check(name, True, value, f"at most {value:.1%} {words} ({place})", curves=curves)


@_check("inputs", "gradients", "symmetry", "dead_units", "saturated_units")
def vanishing_gradients(p: _Patient) -> Check:
    """Whether gradients reach the first layers: a thousandth of what they are at the last is too little."""
    norms, labels = _gradient_norms(p)
    if len(norms) < 2:
        return Check("vanishing_gradients", None, math.nan, "there are fewer than two layers")
    ratio = norms[0] / norms[-1] if norms[-1] else math.nan
    numbers, curves = {"ratio": ratio}, {"norm of the gradient": ([float(i) for i in range(len(norms))], norms)}
    if not ratio >= 1e-3:
        return Check(
            "vanishing_gradients",
            False,
            ratio,
            f"gradients vanish: at {labels[0]} they are {ratio:.1e} of those at {labels[-1]}",
            "He or Xavier initialisation, batch norm, residual connections, ReLU instead of sigmoid",
            numbers,
            curves,
        )
    told = f"at {labels[0]} gradients have {ratio:.2g} times the norm at {labels[-1]}"
    return Check("vanishing_gradients", True, ratio, told, numbers=numbers, curves=curves)


@_check("inputs", "gradients", "symmetry", "dead_units", "saturated_units")
def exploding_gradients(p: _Patient) -> Check:
    """Whether gradients or activations grow out of hand on their way: a thousandfold, or beyond all numbers."""
    norms, _ = _gradient_norms(p)
    if len(norms) < 2:
        return Check("exploding_gradients", None, math.nan, "there are fewer than two layers")
    sizes = [math.hypot(one.output.mean, one.output.std) for one in p.flow]
    forth = max(sizes) / max(sizes[0], 1e-30)
    back = norms[0] / norms[-1] if norms[-1] else math.nan
    value = max(forth, back)
    curves = {
        "size of the output": ([float(i) for i in range(len(sizes))], sizes),
        "norm of its gradient": ([float(i) for i in range(len(norms))], norms),
    }
    numbers = {"activations grow": forth, "gradients grow": back}
    if not all(map(math.isfinite, [*norms, *sizes])) or value > 1e3:
        what = "activations" if forth > back or not math.isfinite(back) else "gradients"
        return Check(
            "exploding_gradients",
            False,
            value,
            f"{what} explode: they grow {value:.1e} fold through the network",
            "He or Xavier initialisation, batch norm; zero the last layer of residual branches; clip gradients",
            numbers,
            curves,
        )
    told = f"activations grow {forth:.2g} fold on the way there, gradients {back:.2g} fold on the way back"
    return Check("exploding_gradients", True, value, told, numbers=numbers, curves=curves)


def _gradient_norms(p: _Patient) -> tuple[list[float], list[str]]:
    """Norms of the gradients of the layers' outputs, first layer first.

    Where something starts at zero on purpose (the last layer, a residual branch) nothing passes at the very first
    step, so what is looked at then is the model after a few.
    """
    report = p.flow
    found = [one for one in report if one.gradient is not None]
    if any(one.gradient.norm == 0 for one in found if one.gradient is not None):
        model = p.model()
        trainer = p.trainer(model, Adam(lr=1e-2), plain=True)
        with np.errstate(all="ignore"):
            for x, y in _batches(p, 5):
                trainer._step(x, y)
            report = statistics(model, *p.some, loss=p.loss, rng=p.seed)
        found = [one for one in report if one.gradient is not None]
    norms = [one.gradient.norm for one in found if one.gradient is not None]
    return norms, [f"layer {one.name!r} ({one.label})" for one in found]


@_check("inputs", "symmetry", "vanishing_gradients", "exploding_gradients")
def initial_loss(p: _Patient) -> Check:
    """Whether the loss before training, without penalties, is that of a guess: log C for the softmax of C classes.

    C - 1 for the hinge loss, log 2 for answers of yes or no. Up to twice that is how random scores come out.
    """
    assert p.flow.loss is not None
    value = float(p.flow.loss)
    classes = p.classes
    expected = {
        "cross_entropy": math.log(classes) if classes and classes > 1 else math.nan,
        "hinge": classes - 1.0 if classes else math.nan,
        "binary_cross_entropy_with_logits": math.log(2),
    }.get(p.kind, math.nan)
    if math.isnan(expected):
        return Check("initial_loss", None, value, f"the loss is {value:.4g}; of this one no guess is known")
    guess = f"log {classes}" if p.kind == "cross_entropy" else f"{classes} - 1" if p.kind == "hinge" else "log 2"
    numbers = {"expected": expected, "loss": value}
    told = f"{value:.4g}, where a guess among equals has {guess} = {expected:.4g}"
    if value > 2 * expected:
        hint = "the first scores are too large: smaller weights in the last layer, and normalised input"
        return Check("initial_loss", False, value / expected, f"too high: {told}", hint, numbers)
    if value < expected / 2:
        hint = "before training that is too good: is the model trained already, or are labels part of the input?"
        return Check("initial_loss", False, value / expected, f"too low: {told}", hint, numbers)
    return Check("initial_loss", True, value / expected, told, numbers=numbers)


@_check("inputs", "symmetry", "initial_loss")
def regularization_raises_loss(p: _Patient) -> Check:
    """Whether a penalty adds to the loss, and does not outweigh it: at most ten times the loss of the data.

    Without penalties, that of ``L2(1e-3)`` is looked at.
    """
    given = [r for r in p.regularization if isinstance(r, Penalty)]
    trainer = Trainer(p.model(), loss=p.loss, rng=p.seed, regularization=given or [L2(1e-3)])
    assert p.flow.loss is not None
    added, data = trainer._parameters.penalty_now(), float(p.flow.loss)
    numbers = {"loss of the data": data, "penalty": added}
    what = ", ".join(map(repr, given)) if given else "L2(0.001), to try"
    told = f"{what}: the loss goes from {data:.4g} to {data + added:.4g}"
    if not added > 0:
        hint = "its strength is zero, or so are the weights that it is on"
        return Check("regularization_raises_loss", False, added, f"the loss does not go up: {told}", hint, numbers)
    if given and added > 10 * data:
        hint = f"lower its strength about {added / max(data, 1e-12):.0f} fold"
        return Check("regularization_raises_loss", False, added, f"it outweighs the data: {told}", hint, numbers)
    return Check("regularization_raises_loss", True, added, told, numbers=numbers)


_LEARNS = ("inputs", "gradients", "symmetry", "dead_units", "saturated_units", "vanishing_gradients")


@_check(*_LEARNS, "exploding_gradients")
def overfits(p: _Patient) -> Check:
    """Whether the model learns twenty samples by heart, without penalties and dropout: the loss nearly reaches zero.

    Adam, 300 steps, at four rates; one that gets there is enough.
    """
    rows = np.random.default_rng([p.seed % 2**32, 4]).permutation(len(p.train[1]))[:20]
    x, y = _take(p.train[0], rows), p.train[1][rows]
    best: tuple[float, float, list[float]] = (math.inf, 0.0, [])
    for lr in (3e-3, 1e-3, 1e-2, 3e-2):
        trainer = p.trainer(_without_dropout(p.model()), Adam(lr=lr), plain=True)
        seen: list[float] = []
        with np.errstate(all="ignore"):
            while len(seen) < 300 and (not seen or (math.isfinite(seen[-1]) and seen[-1] > 0.01 * seen[0])):
                seen.append(trainer.step(x, y))
        if seen[-1] < best[0]:
            best = (seen[-1], lr, seen)
        if seen[-1] <= 0.05 * seen[0]:
            break
    last, lr, seen = best
    first = seen[0] if seen else math.nan
    curves = {f"twenty samples, Adam({lr:g})": ([float(i) for i in range(len(seen))], seen)}
    numbers = {"first loss": first, "last loss": last, "steps": float(len(seen))}
    if not last <= 0.05 * first:
        return Check(
            "overfits",
            False,
            last,
            f"twenty samples cannot be learned by heart: the loss goes from {first:.3g} to {last:.3g}",
            "too little capacity, a layer through which nothing passes, or equal rows with different labels",
            numbers,
            curves,
        )
    told = f"twenty samples are learned by heart: the loss goes from {first:.3g} to {last:.2g} in {len(seen)} steps"
    return Check("overfits", True, last, told, numbers=numbers, curves=curves)


_TRAINS = ("overfits", "regularization_raises_loss", "shuffled_labels", "initial_loss")


def _rate_numbers(p: _Patient) -> tuple[dict[str, float], dict[str, Any], str]:
    run, lr = p.run, p.optimizer.lr
    numbers = {"rate": lr, "suggestion": p.suggestion, "first loss": run.first, "last loss": run.last}
    numbers |= {"first accuracy": run.accuracy[0], "last accuracy": run.accuracy[1]}
    curves = {"range test": p.rates, "this rate": ([lr, lr], [min(p.rates[1], default=0), max(p.rates[1], default=1)])}
    fit = "" if math.isnan(p.suggestion) else f"; the range test suggests {p.suggestion:.1g}"
    accuracy = (
        "" if math.isnan(run.accuracy[0]) else f", the accuracy from {run.accuracy[0]:.0%} to {run.accuracy[1]:.0%}"
    )
    told = f"at {lr:g} the loss goes from {run.first:.3g} to {run.last:.3g} in {len(run.losses)} steps{accuracy}{fit}"
    return numbers, curves, told


@_check(*_TRAINS)
def rate_too_low(p: _Patient) -> Check:
    """Whether the given rate makes the loss go down: by less than a tenth in the short run is barely changing.

    The picture is the range test: the loss while the rate grows from step to step.
    """
    numbers, curves, told = _rate_numbers(p)
    run = p.run
    value = (run.first - run.last) / run.first if run.first else 0.0
    if 0.9 * run.first < run.last <= 1.1 * run.first and not p.optimizer.lr > p.suggestion:
        hint = (
            f"raise the learning rate, to about {p.suggestion:.1g}" if p.suggestion > 0 else "raise the learning rate"
        )
        return Check("rate_too_low", False, value, f"the loss barely changes: {told}", hint, numbers, curves)
    return Check("rate_too_low", True, value, told, numbers=numbers, curves=curves)


@_check(*_TRAINS)
def rate_too_high(p: _Patient) -> Check:
    """Whether the loss stays below 3 times the first one, and ends below it."""
    numbers, _, told = _rate_numbers(p)
    run = p.run
    curves = {f"at {p.optimizer.lr:g}": ([float(i) for i in range(len(run.losses))], run.losses)}
    # A single batch may be hard; the lecture's rule is about the cost, so what is judged is a mean over ten steps.
    smooth = np.convolve(run.losses, np.full(10, 0.1), "valid") if len(run.losses) >= 10 else np.array(run.losses)
    peak = float(smooth.max()) if np.isfinite(smooth).all() and len(smooth) else math.inf
    value = peak / run.first if run.first else math.inf
    stuck = run.last > 1.1 * run.first or (run.last > 0.9 * run.first and p.optimizer.lr > p.suggestion)
    if not value <= _EXPLODED or stuck:
        hint = (
            f"lower the learning rate, to about {p.suggestion:.1g}" if p.suggestion > 0 else "lower the learning rate"
        )
        # It may have come down again: what is told is how high it was.
        high = f", to {peak:.3g} on its way" if math.isfinite(peak) else ""
        what = f"the loss explodes{high}" if not value <= _EXPLODED else "the loss does not go down"
        return Check("rate_too_high", False, value, f"{what}: {told}", hint, numbers, curves)
    return Check("rate_too_high", True, value, told, numbers=numbers, curves=curves)


@_check(*_TRAINS, "rate_too_low", "rate_too_high")
def update_ratio(p: _Patient) -> Check:
    """How large updates are beside the weights: near 1e-3 is right; a weight below 1e-6 or above 0.1 is ill."""
    medians = {name: float(np.median(values[1:] or values)) for name, values in p.run.ratios.items()}
    if not medians:
        return Check("update_ratio", None, math.nan, "there are no weights")
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    middle = float(np.median(list(medians.values())))
    curves = {
        name: ([float(i) for i in range(len(values))], values)
        for name, values in ((n, p.run.ratios[n]) for n in dict.fromkeys((low, high)))
    }
    spread = f"from {medians[low]:.1e} ({low}) to {medians[high]:.1e} ({high}), the middle one {middle:.1e}"
    if medians[low] < 1e-6:
        return Check(
            "update_ratio",
            False,
            medians[low],
            f"{low} barely changes: updates are {medians[low]:.1e} of it",
            "its weights are too large or its rate is too low; about 1e-3 is right",
            medians,
            curves,
        )
    if medians[high] > 0.1:
        return Check(
            "update_ratio",
            False,
            medians[high],
            f"{high} changes too fast: updates are {medians[high]:.1e} of it",
            "its weights are too small or its rate is too high; about 1e-3 is right",
            medians,
            curves,
        )
    return Check("update_ratio", True, middle, spread, numbers=medians, curves=curves)


@_check(*_TRAINS, "rate_too_low", "rate_too_high", "update_ratio")
def inference_differs(p: _Patient) -> Check:
    """Whether the trained model is as good in inference as in training, on the same rows.

    "Behaves differently during training and testing: a very common source of bugs." Running statistics of batch norm
    that lag behind (a small momentum) show here.
    """
    x, y = p.some
    with np.errstate(all="ignore"):
        scores, _ = _without_dropout(p.run.model.copy()).forward(*_parts(x), rng=p.seed)
        trained = float(losses.get(p.loss)(scores, y)[0])
        tested = p.run.trainer.evaluate(x, y)["loss"]
    numbers = {"training": trained, "inference": tested}
    told = f"on the same rows the loss is {trained:.3g} as in training and {tested:.3g} in inference"
    if not tested <= 2 * trained + 0.25 * p.run.first:
        hint = (
            "batch norm's running statistics are off: raise its momentum (the weight of the new batch), or train longer"
        )
        return Check("inference_differs", False, tested - trained, told, hint, numbers)
    return Check("inference_differs", True, tested - trained, told, numbers=numbers)


@_check(*_TRAINS, "rate_too_low", "rate_too_high", "inference_differs")
def gap(p: _Patient) -> Check:
    """How far validation falls behind training after the short run: 15 points of accuracy are overfitting.

    Of losses without accuracy, a validation loss of more than three times the training loss, and above it by more than
    a tenth of the first loss.
    """
    with np.errstate(all="ignore"):
        here = p.run.trainer.evaluate(*p.some)
        there = p.run.trainer.evaluate(*p.validation)
    hint = "more data or augmentation, L2 or dropout, a smaller model; or is validation data prepared in another way?"
    numbers = {"training loss": here["loss"], "validation loss": there["loss"]}
    if "accuracy" in here:
        value = here["accuracy"] - there["accuracy"]
        numbers |= {"training accuracy": here["accuracy"], "validation accuracy": there["accuracy"]}
        told = f"accuracy {here['accuracy']:.1%} on training data and {there['accuracy']:.1%} on validation data"
        wide = value > 0.15
    else:
        value = there["loss"] / max(here["loss"], 1e-12)
        told = f"loss {here['loss']:.3g} on training data and {there['loss']:.3g} on validation data"
        wide = value > 3 and there["loss"] - here["loss"] > 0.1 * p.run.first
    return Check("gap", not wide, value, told + (": a large gap" if wide else ""), hint if wide else "", numbers)


# ---- all of them ----


@_takes_patient
def doctor(model: Layer, x: Any, y: Any, **options: Any) -> Report:
    """Do all the lectures' checks of a model that is about to be trained; everything happens on copies.

    A check is not judged where another one that explains it has failed. Each is a function of this module too, with
    the same arguments: ``fastnn.checks.overfits(model, x, y)``.

    Parameters
    ----------
    model : Layer
        As it is before training.
    x, y : array_like (N, ...), (N, ...)
        Training data, 20 rows or more; x is a tuple of arrays for a model of several inputs. A few thousand rows are
        enough.
    validation : (x, y), optional
        Without it a quarter of the data is kept out.
    loss, optimizer, regularization
        As for `Trainer`: what training is meant to use. The optimizer's rate is what is judged.
    batch_size : int
    steps : int
        Length of the short training run.
    rng : int or numpy.random.Generator

    Returns
    -------
    Report
        ``report.checks`` with name, ok, value, verdict and hint of each; ``report.save("report.html")``.

    References
    ----------
    CS231n, "Training Neural Networks": babysitting the learning process.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear, ReLU, Sequential
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((400, 2)).astype(np.float32)
    >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
    >>> model = Sequential(Linear(2, 32, rng=0), ReLU(), Linear(32, 2, rng=1))
    >>> report = doctor(model, x, y, optimizer=fnn.optim.Adam(1e-9))
    >>> [check.name for check in report.failed]
    ['rate_too_low']
    """
    patient = _Patient(model, x, y, **options)
    found: dict[str, Check] = {}
    waiting: dict[str, str] = {}  # what is not judged, and the failed check that it comes down to
    for name, (function, needs) in _CHECKS.items():
        ill = [waiting.get(need, need) for need in needs if found[need].ok is False or need in waiting]
        if ill:
            waiting[name] = ill[0]
            found[name] = Check(name, None, math.nan, f"not looked at, for {ill[0]} fails")
            continue
        found[name] = function(patient)
    try:
        one = [(1, *part.shape[1:]) for part in _parts(patient.x)]
        summary = model.summary(one if len(one) > 1 else one[0])
    except (ShapeError, TypeError, ValueError):
        summary = repr(model)
    if found["inputs"].ok is False and "rows" in found["inputs"].verdict:
        x_some, y_some = _each(patient.some[0], np.nan_to_num), patient.some[1]
        shown = statistics(model, x_some, y_some, loss=patient.loss, rng=patient.seed)
        return Report(list(found.values()), summary, shown)
    return Report(list(found.values()), summary, patient.flow)

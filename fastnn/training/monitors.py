"""Monitors: what watches a run of `Trainer.fit`, keeps its records and stops it in time.

    history = trainer.fit((x, y), validation=(xv, yv), epochs=50, monitors=[
        monitors.EarlyStopping(patience=5), monitors.Divergence(), monitors.UpdateRatios(), monitors.Live("run.png"),
    ])

Numbers go to ``history.series``, from where pictures and logs take them. A monitor of one's own derives from
`Monitor`; a function ``f(run)`` is called after each epoch.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _statistics
from ..errors import need
from ..io import _SAVED, _format, save_state
from ..io.atomic import replacing
from ..layers.base import Array, Layer
from ..random import draw_seed
from .history import History

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = [
    "CSVLog",
    "Checkpoint",
    "DeadUnits",
    "Divergence",
    "EarlyStopping",
    "GradientNorms",
    "Live",
    "Monitor",
    "Run",
    "Statistics",
    "TensorBoard",
    "UpdateRatios",
]


class Run:
    """A run of `Trainer.fit` while it goes on.

    Attributes
    ----------
    trainer : Trainer
    history : History
    data : (tuple of ndarray, tuple of ndarray)
        The training data: inputs and labels.
    validation : (x, y) or None
    epochs, batch_size : int
    loss, penalty : float
        Of the last step.
    rate : float
        The learning rate of the last step.
    """

    def __init__(
        self,
        trainer: Trainer,
        history: History,
        data: tuple[tuple[Array, ...], tuple[Array, ...]],
        validation: Any,
        epochs: int,
        batch_size: int,
    ) -> None:
        self.trainer, self.history, self.data, self.validation = trainer, history, data, validation
        self.epochs, self.batch_size = epochs, batch_size
        self.loss = self.penalty = self.rate = math.nan
        #: steps that the trainer had done before
        self.first = trainer.steps

    @property
    def model(self) -> Layer:
        """The model that is trained."""
        return self.trainer.model

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.history)

    @property
    def step(self) -> int:
        """How many steps of this run are done."""
        return len(self.history.step_loss)

    def record(self, name: str, value: float) -> None:
        """Add a number to ``history.series[name]``, for the step that was done last."""
        self.history.record(name, self.step, value)

    def stop(self, reason: str = "") -> None:
        """End the training after this step or epoch; the first reason stays, where none is given a few words."""
        self.history.stopped = self.history.stopped or str(reason) or "a monitor ended it"

    def latest(self, name: str) -> float:
        """Return the last number of one of the history's lists ("val_loss"), or of a series.

        Raises
        ------
        ValueError
            Where there is no such number, with the names of those that there are.
        """
        epochs = {k: getattr(self.history, k) for k in History.EPOCHS if getattr(self.history, k)}
        known = epochs | {k: s.values for k, s in self.history.series.items()}
        if name not in known:
            raise ValueError(f"no {name!r} is recorded in this run; there are {', '.join(known) or 'none yet'}")
        return float(known[name][-1])

    def some(self, rows: int) -> tuple[Any, Any]:
        """Return so many rows of the training data and their labels, evenly spaced: x and y may come in classes."""
        xs, ys = self.data
        chosen = np.unique(np.linspace(0, len(xs[0]) - 1, min(rows, len(xs[0]))).astype(int))
        x, y = (tuple(part[chosen] for part in parts) for parts in (xs, ys))
        return x if len(x) > 1 else x[0], y if len(y) > 1 else y[0]


class Monitor:
    """Base of all monitors: each method does nothing until it is overridden.

    Examples
    --------
    >>> import fastnn as fnn
    >>> class Enough(Monitor):
    ...     def after_epoch(self, run):
    ...         if run.history.accuracy[-1] == 1.0:
    ...             run.stop("everything is right")
    >>> trainer = fnn.Trainer(fnn.layers.Linear(2, 2, rng=0), optimizer=fnn.optim.SGD(lr=1.0), rng=0)
    >>> data = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> trainer.fit(data, epochs=100, monitors=[Enough()]).stopped
    'everything is right'
    """

    def begin(self, run: Run) -> None:
        """Before the first step; what cannot work raises here."""

    def before_step(self, run: Run) -> None:
        """Before each step."""

    def after_step(self, run: Run) -> None:
        """After each step, with its loss in ``run.loss``."""

    def after_epoch(self, run: Run) -> None:
        """After each epoch, with its validation."""

    def end(self, run: Run) -> None:
        """At the end, also where an exception ended the training."""


class _Function(Monitor):
    def __init__(self, function: Callable[[Run], Any]) -> None:
        self._function = function

    def after_epoch(self, run: Run) -> None:
        self._function(run)


def monitoring(given: Any) -> list[Monitor]:
    """Return monitors as `Trainer.fit` uses them, functions among them; raise TypeError for anything else."""
    several = [given] if isinstance(given, Monitor) or callable(given) else list(given)
    found = []
    for one in several:
        if isinstance(one, type) and issubclass(one, Monitor):
            raise TypeError(f"Trainer.fit: monitors: {one.__name__} is a class; write {one.__name__}()")
        if not isinstance(one, Monitor) and not callable(one):
            raise TypeError(f"Trainer.fit: monitors must be Monitors or functions of the run, got {one!r}")
        found.append(one if isinstance(one, Monitor) else _Function(one))
    return found


def _count(owner: str, name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{owner}: {name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


# ---- what keeps the best weights ----


class _Best:
    """The state of a model, and of its optimizer, when it was best."""

    def __init__(self) -> None:
        self.value, self.epoch = math.inf, 0
        self._state: Any = None

    def offer(self, value: float, epoch: int, trainer: Trainer, margin: float = 0.0) -> bool:
        """Keep the state where the value is lower than the lowest by more than a margin."""
        if not value < self.value - margin:  # NaN is no better than anything
            return False
        self.value, self.epoch = value, epoch
        self.keep(trainer)
        return True

    def keep(self, trainer: Trainer) -> None:
        """Keep the state for as long as there is no better."""
        self._state = trainer._state()

    def restore(self, trainer: Trainer) -> None:
        """Put the state back, bit for bit."""
        if self._state is not None:
            trainer._restore(self._state)


class EarlyStopping(Monitor):
    """Stop when the model has not become better for too long; the weights of its best epoch come back at the end.

    They come back also where the run ends for another reason, and with them what the optimizer remembers (its momentum,
    the moments of Adam): another `Trainer.fit` goes on from that epoch.

    Parameters
    ----------
    patience : int
        Epochs without improvement that are borne; at one more the training stops.
    metric : str
        One of the history's lists, or a series: "val_loss", "val_accuracy", "loss". What has "accuracy" in its name
        is better when higher, all else when lower.
    threshold : float
        By how much it must improve to count.
    restore : bool
        False leaves the last weights.

    Attributes
    ----------
    best_epoch : int
        From 1; 0 before there is one.
    best : float

    Examples
    --------
    >>> import fastnn as fnn
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> trainer = fnn.Trainer(fnn.layers.Linear(2, 2, rng=0), optimizer=fnn.optim.SGD(lr=1.0), rng=0)
    >>> stopping = EarlyStopping(patience=2, metric="val_accuracy")
    >>> history = trainer.fit((x, y), validation=(x, y), epochs=100, monitors=[stopping])
    >>> history.stopped, len(history) == stopping.best_epoch + 3
    ('val_accuracy has not improved for 3 epochs; the weights are those of epoch 1, with 1', True)
    """

    def __init__(
        self, patience: int = 10, metric: str = "val_loss", *, threshold: float = 0.0, restore: bool = True
    ) -> None:
        self.patience = _count("EarlyStopping", "patience", patience, 0)
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"EarlyStopping: threshold must be a number of at least 0, got {threshold!r}")
        self.metric, self.threshold, self.restore = str(metric), float(threshold), bool(restore)
        self._sign = -1.0 if "accuracy" in self.metric else 1.0
        self._best, self._bad = _Best(), 0

    @property
    def best_epoch(self) -> int:
        return self._best.epoch

    @property
    def best(self) -> float:
        return self._sign * self._best.value

    def begin(self, run: Run) -> None:
        if self.metric.startswith("val_") and run.validation is None:
            raise ValueError(f"EarlyStopping: {self.metric!r} needs validation=(x, y) in Trainer.fit")
        self._best, self._bad = _Best(), 0

    def after_epoch(self, run: Run) -> None:
        value = self._sign * run.latest(self.metric)
        better = self._best.offer(value, run.epoch, run.trainer, self.threshold)
        self._bad = 0 if better else self._bad + 1
        if self._bad > self.patience:
            whose = f"; the weights are those of epoch {self.best_epoch}, with {self.best:.4g}" if self.restore else ""
            if not self.best_epoch:
                whose = "; it was never a number"
            run.stop(f"{self.metric} has not improved for {self._bad} epoch{'s' * (self._bad > 1)}{whose}")

    def end(self, run: Run) -> None:
        if self.restore:
            self._best.restore(run.trainer)


class Divergence(Monitor):
    """Stop when the loss is above a multiple of the first, or no number; the best weights come back.

    These are the weights of the epoch with the lowest validation loss (without validation, training loss), or those
    from before the run when no epoch was finished; what the optimizer remembers comes back with them.

    Parameters
    ----------
    factor : float
    rows : int
        The first loss is that of so many rows of the training data before the run; later ones are means over at least
        so many: that of a single row says little.

    Attributes
    ----------
    diverged : bool
        Whether it stopped the last run.

    References
    ----------
    CS231n: "if the cost is ever > 3 * original cost, break out early".
    """

    def __init__(self, factor: float = 3.0, rows: int = 64) -> None:
        if not (math.isfinite(factor) and factor > 1):
            raise ValueError(f"Divergence: factor must be above 1, got {factor!r}")
        self.factor, self.rows = float(factor), _count("Divergence", "rows", rows)
        self.diverged = False

    def begin(self, run: Run) -> None:
        self._costs: deque[float] = deque(maxlen=-(-self.rows // run.batch_size))
        self._first = run.trainer.training_cost(*run.some(self.rows))
        self._best = _Best()
        self._best.keep(run.trainer)
        self.diverged = False

    def after_step(self, run: Run) -> None:
        self._costs.append(run.loss + run.penalty)
        cost = sum(self._costs) / len(self._costs)
        self.diverged = not math.isfinite(cost)
        if len(self._costs) < (self._costs.maxlen or 1) or self.diverged:
            return
        if cost > self.factor * self._first:
            self.diverged = True
            since = f"of epoch {self._best.epoch}" if self._best.epoch else "from before the run"
            run.stop(
                f"the loss is {cost:.4g} at step {run.step}, above {self.factor:g} times the first, {self._first:.4g}: "
                f"try a lower learning rate; the weights are those {since}"
            )

    def after_epoch(self, run: Run) -> None:
        losses = run.history.val_loss or run.history.loss
        self._best.offer(losses[-1], run.epoch, run.trainer)

    def end(self, run: Run) -> None:
        if self.diverged:
            self._best.restore(run.trainer)


# ---- what measures ----


class UpdateRatios(Monitor):
    """Record the size of each update relative to its parameter: |w after - w before| / |w before|, about 1e-3 is good.

    As ``history.series["update ratio/0.weight"]``, for weights that are trained (biases begin at zero).

    Parameters
    ----------
    every : int
        Steps from one measurement to the next; the first step is measured.

    References
    ----------
    CS231n, "Neural Networks 3: Ratio of weights:updates".
    """

    def __init__(self, every: int = 10) -> None:
        self.every = _count("UpdateRatios", "every", every)
        self._before: dict[str, Array] = {}

    def before_step(self, run: Run) -> None:
        if run.step % self.every == 0:
            params = run.model.params
            trained = run.trainer._parameters.trained
            self._before = {name: params[name].copy() for name, is_weight in trained.items() if is_weight}

    def after_step(self, run: Run) -> None:
        if self._before:
            params = run.model.params
            for name, before in self._before.items():
                size = _norm(before)
                if size > 0:
                    run.record(f"update ratio/{name}", _norm(params[name].astype(np.float64) - before) / size)
            self._before = {}


class GradientNorms(Monitor):
    """Record the norm of the gradient, of each trained parameter and of all together.

    As ``history.series["gradient norm"]`` and ``["gradient norm/0.weight"]``: of the loss with its penalties, before
    clipping by norm (a clip by value has been done).

    Parameters
    ----------
    every : int
        Steps from one measurement to the next; the first step is measured.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = _count("GradientNorms", "every", every)

    def after_step(self, run: Run) -> None:
        if (run.step - 1) % self.every:
            return
        grads, parameters = run.model.grads, run.trainer._parameters
        norms = {name: parameters.clipped * _norm(grads[name]) for name in parameters.trained}
        run.record("gradient norm", math.hypot(*norms.values()))
        for name, norm in norms.items():
            run.record(f"gradient norm/{name}", norm)


def _norm(x: Array) -> float:
    with np.errstate(all="ignore"):
        flat = np.ravel(x).astype(np.float64, copy=False)
        return math.sqrt(float(flat @ flat))


class Statistics(Monitor):
    """Look at every layer as `fastnn.statistics` does: before the run and after each epoch, on the same rows.

    Records "output std/NAME" and "gradient std/NAME" of each layer, "saturated/NAME" and "dead/NAME" of each activation
    in ``history.series``, and keeps the reports.

    Parameters
    ----------
    x, y : array_like, optional
        What to look at; of the training data ``rows`` evenly spaced ones when absent.
    every : int
        Epochs from one look to the next.
    rows : int
    rng : int or numpy.random.Generator
        Seeds dropout, alike at each look.

    Attributes
    ----------
    reports : dict of int to Statistics
        By the number of epochs done; 0 is before the run.
    """

    def __init__(
        self, x: Any = None, y: Any = None, *, every: int = 1, rows: int = 256, rng: int | np.random.Generator = 0
    ) -> None:
        if x is None and y is not None:
            raise ValueError(f"{type(self).__name__}: y without x")
        self._x, self._y = x, y
        self.every, self.rows = (_count(type(self).__name__, k, v) for k, v in (("every", every), ("rows", rows)))
        self._seed = draw_seed(rng)
        self.reports: dict[int, _statistics.Statistics] = {}

    def begin(self, run: Run) -> None:
        self.reports = {}
        self._look(run)

    def after_epoch(self, run: Run) -> None:
        if run.epoch % self.every == 0:
            self._look(run)

    def _look(self, run: Run) -> None:
        x, y = (self._x, self._y) if self._x is not None else run.some(self.rows)
        report = _statistics.statistics(run.model, x, y, loss=run.trainer.loss, rng=self._seed)
        self.reports[run.epoch] = report
        for layer in report:
            values = {"output std": layer.output.std, "saturated": layer.saturated, "dead": layer.dead}
            values["gradient std"] = layer.gradient.std if layer.gradient is not None else None
            self._note(run, layer.name, values)

    def _note(self, run: Run, layer: str, values: dict[str, float | None]) -> None:
        for what, value in values.items():
            if value is not None:
                run.record(f"{what}/{layer}", value)


class DeadUnits(Statistics):
    """Record the share of dead units of each activation, before the run and after each epoch.

    As ``history.series["dead/1"]``: units that are active on no row. Parameters as of `Statistics`; more rows find
    fewer dead units.

    Parameters
    ----------
    x : array_like, optional
        What to look at; of the training data ``rows`` evenly spaced ones when absent.
    every : int
        Epochs from one look to the next.
    rows : int

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear, ReLU, Sequential
    >>> model = Sequential(Linear(2, 4, rng=0), ReLU(), Linear(4, 2, rng=1))
    >>> model["0"].bias[:2] = -10
    >>> trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(lr=0.1), rng=0)
    >>> data = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> trainer.fit(data, epochs=2, monitors=[DeadUnits()]).series["dead/1"].values
    [0.5, 0.5, 0.5]
    """

    def __init__(self, x: Any = None, *, every: int = 1, rows: int = 1000) -> None:
        super().__init__(x, every=every, rows=rows)

    def _look(self, run: Run) -> None:
        x = self._x if self._x is not None else run.some(self.rows)[0]
        report = _statistics.statistics(run.model, x, rng=self._seed)
        self.reports[run.epoch] = report
        for layer in report.activations:
            self._note(run, layer.name, {"dead": layer.dead})


# ---- what writes ----


class Checkpoint(Monitor):
    """Save the model's state after epochs, each file whole or not at all.

    Parameters
    ----------
    path : path
        Ends in .npz or .safetensors. With ``{epoch}`` in it, as in "run-{epoch:03d}.npz", every file is kept; without,
        the newest replaces the last.
    every : int
        Epochs from one file to the next.
    best : str, optional
        Save only when this is better than ever in the run: "val_loss", "val_accuracy", ...

    Attributes
    ----------
    saved : Path or None
        The last file.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastnn as fnn
    >>> trainer = fnn.Trainer(fnn.layers.Linear(2, 2, rng=0), rng=0)
    >>> data = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> checkpoint = Checkpoint(os.path.join(tempfile.mkdtemp(), "run-{epoch}.npz"))
    >>> history = trainer.fit(data, epochs=2, monitors=[checkpoint])
    >>> checkpoint.saved.name, sorted(fnn.load_state(checkpoint.saved))
    ('run-2.npz', ['bias', 'weight'])
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1, best: str | None = None) -> None:
        self._path = os.fspath(path)
        _format("Checkpoint", self._path, _SAVED).available()
        self._target(1)
        if not isinstance(best, (str, type(None))):
            raise TypeError(f"Checkpoint: best must be the name of a metric, such as 'val_loss', got {best!r}")
        self.every, self._metric = _count("Checkpoint", "every", every), best
        self.saved: Path | None = None
        self._lowest = math.inf

    def _target(self, epoch: int) -> Path:
        try:
            return Path(self._path.format(epoch=epoch))
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"Checkpoint: a path may have {{epoch}} in it and no other braces: {self._path}"
            ) from error

    def begin(self, run: Run) -> None:
        _need_folder("Checkpoint", self._target(1))
        if self._metric is not None and self._metric.startswith("val_") and run.validation is None:
            raise ValueError(f"Checkpoint: best={self._metric!r} needs validation=(x, y) in Trainer.fit")
        self._lowest = math.inf

    def after_epoch(self, run: Run) -> None:
        if run.epoch % self.every:
            return
        if self._metric is not None:
            value = run.latest(self._metric) * (-1 if "accuracy" in self._metric else 1)
            if not value < self._lowest:
                return
            self._lowest = value
        self.saved = self._target(run.epoch)
        save_state(self.saved, run.model.state())


def _need_folder(owner: str, path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{owner}: there is no folder {path.absolute().parent}")


class CSVLog(Monitor):
    """Write a table of the epochs as CSV after each one: the history's lists, and the last value of every series.

    Parameters
    ----------
    path : path
        Replaced whole after each epoch, so that a reader never sees half a line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import fastnn as fnn
    >>> trainer = fnn.Trainer(fnn.layers.Linear(2, 2, rng=0), rng=0)
    >>> data = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.csv"
    >>> history = trainer.fit(data, epochs=2, monitors=[CSVLog(path)])
    >>> path.read_text().splitlines()[0]
    'epoch,step,rate,loss,accuracy,seconds'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def begin(self, run: Run) -> None:
        _need_folder("CSVLog", self.path)
        self._rows: list[dict[str, float]] = []

    def after_epoch(self, run: Run) -> None:
        row: dict[str, float] = {"epoch": run.epoch, "step": run.step, "rate": run.rate}
        row |= {name: values[-1] for name in History.EPOCHS if (values := getattr(run.history, name))}
        row |= {name: series.values[-1] for name, series in run.history.series.items()}
        self._rows.append(row)
        names = list(dict.fromkeys(name for each in self._rows for name in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())


class TensorBoard(Monitor):
    """Log to TensorBoard: the loss of each step, what each epoch gives, and every series.

    Needs tensorboardX (the extra "tensorboard"), or torch with its tensorboard.

    Parameters
    ----------
    folder : path
        One for each run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._open = _summary_writer()

    def begin(self, run: Run) -> None:
        self._writer = self._open(str(self.folder))
        self._written: dict[str, int] = {}

    def after_step(self, run: Run) -> None:
        self._writer.add_scalar("step/loss", run.loss, run.first + run.step)

    def after_epoch(self, run: Run) -> None:
        now = run.first + run.step
        for name in History.EPOCHS:
            if values := getattr(run.history, name):
                self._writer.add_scalar(f"epoch/{name}", values[-1], now)
        self._writer.add_scalar("epoch/rate", run.rate, now)
        self._series(run)
        self._writer.flush()

    def _series(self, run: Run) -> None:
        for name, series in run.history.series.items():
            for i in range(self._written.get(name, 0), len(series)):
                self._writer.add_scalar(name.replace(" ", "_"), series.values[i], run.first + series.steps[i])
            self._written[name] = len(series)

    def end(self, run: Run) -> None:
        self._series(run)
        self._writer.close()


def _summary_writer() -> Callable[[str], Any]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise need("tensorboardX", "tensorboard", "a log for TensorBoard") from None
    writer: Callable[[str], Any] = SummaryWriter
    return writer


class Live(Monitor):
    """Draw the curves while the run goes on: below the cell of a notebook, else as a PNG that is replaced.

    Loss and accuracy, and a panel for each kind of series ("update ratio", "gradient norm", "dead").

    Parameters
    ----------
    path : path
        Where the picture goes; in a notebook only if given.
    seconds : float
        At least so many from one picture to the next, and ten times what a picture takes; 0 draws after each step. The
        last is drawn in any case.
    title : str
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, seconds: float = 5.0, title: str = "") -> None:
        from .. import plot

        plot.available()
        self._path = None if path is None else Path(path)
        self.seconds, self.title = float(seconds), str(title)

    def begin(self, run: Run) -> None:
        self._notebook = _in_notebook()
        self.path = self._path or (None if self._notebook else Path("fastnn-live.png"))
        if self.path is not None:
            _need_folder("Live", self.path)
        self._handle: Any = None
        self._next = time.monotonic() + self.seconds

    def after_step(self, run: Run) -> None:
        if time.monotonic() >= self._next:
            self._draw(run)

    def end(self, run: Run) -> None:
        if run.history.step_loss:
            self._draw(run)

    def _draw(self, run: Run) -> None:
        from .. import plot

        began = time.monotonic()
        picture = plot.png(plot.history_figure(run.history, title=self.title))
        if self.path is not None:
            with replacing(self.path) as file:
                file.write(picture)
        if self._notebook:
            from IPython.display import Image, display

            if self._handle is None:
                self._handle = display(Image(data=picture), display_id=True)
            else:
                self._handle.update(Image(data=picture))
        now = time.monotonic()
        self._next = now + max(self.seconds, 10 * (now - began) if self.seconds else 0.0)


def _in_notebook() -> bool:
    """Whether this runs in a kernel whose cells can show pictures."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})

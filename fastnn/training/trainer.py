"""The trainer: owns the optimisation of a model, runs its steps, records how it went."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .. import _backends, losses, optim
from .. import functional as F
from ..compiler.graph import UntraceableError, trace
from ..compiler.program import compile
from ..errors import ShapeError, need
from ..layers.base import Array, Layer
from ..random import Stream, draw_seed
from ..regularization import ClipNorm, ClipValue, MaxNorm, Penalty
from .buffers import Parameters
from .history import History
from .monitors import Monitor, Run, monitoring
from .step import StepProgram, layers_of

__all__ = ["Trainer"]

#: one array of N rows, or a tuple of several
Rows: TypeAlias = "ArrayLike | tuple[Array, ...]"

# Recorded steps that are kept: the usual batch, the last one of an epoch, and two more.
_MAX_PROGRAMS = 4


class Trainer:
    """Trains a model.

    The parameters move into one flat buffer, of which the layers' arrays become views; the newest trainer of a layer
    owns it, and an older one raises at its next step. A step of a model whose layers can be traced runs as a program,
    any other by its closures; both compute the same. Images are brought into channels-last first (with the compiled
    kernels), which makes the scores of a step channels-last where they are images.

    Parameters
    ----------
    model : Layer
    loss : str or callable
        A name out of `fastnn.losses`, or ``loss(scores, labels) -> (float, dscores)``. With options of a loss:
        ``functools.partial(fastnn.functional.cross_entropy, label_smoothing=0.1)``; arrays in it are copied.
    optimizer : Optimizer, optional
        From `fastnn.optim`; SGD with lr 0.01 and momentum 0.9 when absent. The trainer takes a copy.
    rng : int or numpy.random.Generator, optional
        Seed of everything random here: shuffling and dropout. Drawn from the system when absent.
    rates, decays : mapping of str to float, optional
        Factors of the learning rate and of the weight decay for parameters ("0.weight") or whole layers ("0") by name;
        0 freezes. The longest name that fits counts.
    regularization : Penalty or MaxNorm, or a sequence of them, optional
        Penalties (`L1`, `L2`, `ElasticNet`) and norm limits (`MaxNorm`) of `fastnn.regularization`, on weights unless
        they say otherwise; `regularized` shows on which.
    clip : ClipNorm or ClipValue, optional
        Clips the gradients of the loss, penalties included; the optimizer's weight decay comes after.
    program : bool
        False runs every step by the closures.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.layers import Linear
    >>> trainer = fnn.Trainer(Linear(2, 2, rng=0), optimizer=fnn.optim.SGD(lr=0.5), rng=0)
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> losses = [trainer.step(x, y) for _ in range(20)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        model: Layer,
        loss: str | losses.Loss = "cross_entropy",
        optimizer: optim.Optimizer | None = None,
        *,
        rng: int | np.random.Generator | None = None,
        rates: Mapping[str, float] | None = None,
        decays: Mapping[str, float] | None = None,
        regularization: Penalty | MaxNorm | Sequence[Penalty | MaxNorm] | None = None,
        clip: ClipNorm | ClipValue | None = None,
        program: bool = True,
    ) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"Trainer: expected a layer to train, got {type(model).__name__}")
        if not isinstance(optimizer, (optim.Optimizer, type(None))):
            raise TypeError(f"Trainer: optimizer must be an Optimizer, such as fastnn.optim.Adam(), got {optimizer!r}")
        for name, factors in (("rates", rates), ("decays", decays)):
            if not isinstance(factors, (Mapping, type(None))):
                raise TypeError(f"Trainer: {name} must map names of parameters or layers to factors, got {factors!r}")
        losses.get(loss)  # before the model is touched
        self.model = model
        self.optimizer = optim.SGD(lr=0.01, momentum=0.9) if optimizer is None else optimizer.copy()
        self.seed = draw_seed(np.random.default_rng() if rng is None else rng)
        #: optimisation steps done
        self.steps = 0
        #: of the last run of `fit`, or of one that goes on: also where an exception ended it
        self.history: History | None = None
        #: steps that the optimizer's slots have seen: fewer after they were put back
        self._seen = 0
        regularizers = _regularizers(regularization)
        if not isinstance(clip, (ClipNorm, ClipValue, type(None))):
            raise TypeError(f"Trainer: clip must be a ClipNorm or a ClipValue, got {clip!r}")
        self._parameters = Parameters(model, self.optimizer, rates or {}, decays or {}, regularizers, clip)
        self._layers = layers_of(model)
        self._dtype = np.result_type(*(b.params.dtype for b in self._parameters.buffers), np.float32)
        self._wants_program = bool(program)
        self._programs: dict[Any, StepProgram | None] = {}
        self.loss = loss

    @property
    def loss(self) -> losses.Loss:
        """The loss, as a function; it may be replaced between steps."""
        return self._loss

    @loss.setter
    def loss(self, loss: str | losses.Loss) -> None:
        self._loss = losses.get(loss)
        self._known = losses.known(self._loss, self._dtype)
        self._programs.clear()

    @property
    def regularized(self) -> dict[str, list[str]]:
        """Which penalties and norm limits apply to each parameter that has any, by its name.

        Examples
        --------
        >>> from fastnn.layers import Linear
        >>> from fastnn.regularization import L2, MaxNorm
        >>> Trainer(Linear(3, 2), regularization=[L2(1e-4), MaxNorm(3)]).regularized
        {'weight': ['L2(0.0001)', 'MaxNorm(3)']}
        """
        return {name: [repr(r) for r in several] for name, several in self._parameters.regularized.items()}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy of the buffers and a copy of the layers' views of them would not be the same memory any more.
        raise TypeError(
            "a Trainer cannot be copied or pickled: copy or save its model, and make a new Trainer for that"
        )

    # ---- one step ----

    def step(self, x: Rows, y: Rows, *, sample_weight: ArrayLike | None = None) -> float:
        """Do one optimisation step on one batch; return its loss, penalties included: what the step lowers.

        Parameters
        ----------
        x : array_like, (N, ...), or a tuple of arrays
            A tuple for a model of several inputs, such as a `Graph`.
        y : array_like, (N,) classes or (N, C) probabilities, or (N, ...) values
            What the loss takes as its labels or targets. A model of several outputs needs a loss of your own,
            ``loss((y1, y2), labels) -> (float, (dy1, dy2))``, which gets a tuple of arrays as it is given here; such
            steps run by the closures.
        sample_weight : array_like (N,), optional

        Raises
        ------
        ShapeError, ValueError, TypeError
            Before anything has changed.
        """
        return sum(self._step(x, y, sample_weight)[:2])

    def _step(
        self, x: Rows, y: Rows, sample_weight: ArrayLike | None = None, *, rate: float = 1.0
    ) -> tuple[float, float, Any]:
        """Do one step at a factor of the learning rate; return the loss of the data, the penalty and the scores."""
        self._parameters.check()
        batch = self._batch(x, y, sample_weight)
        program = self._program(*batch)
        self.optimizer.hyper(lr=self.optimizer.lr * rate, step=self._seen + 1)
        if program is not None:
            xs, labels, weights = batch
            loss, scores = program.run(self.steps, *xs, labels, *([] if weights is None else [weights]))
        else:
            loss, scores = self._step_by_closures(*batch)
        self.steps += 1
        self._seen += 1
        return loss, self._parameters.penalty, scores

    def _state(self) -> tuple[dict[str, Array], list[dict[str, Array]], int]:
        """Copies of the model's state and of what the optimizer remembers, for `_restore`."""
        slots = [{name: slot.copy() for name, slot in b.slots.items()} for b in self._parameters.buffers]
        return self.model.state(), slots, self._seen

    def _restore(self, state: tuple[dict[str, Array], list[dict[str, Array]], int]) -> None:
        """Put back what `_state` returned, bit for bit. Steps are counted on: what is random is drawn anew."""
        weights, slots, self._seen = state
        self.model.load_state(weights)
        for buffer, kept in zip(self._parameters.buffers, slots, strict=True):
            for name, slot in kept.items():
                buffer.slots[name][...] = slot  # in place: programs hold the addresses

    def _batch(self, x: Rows, y: Rows, sample_weight: ArrayLike | None) -> tuple[tuple[Array, ...], Any, Array | None]:
        """The batch in the model's dtype; labels as the loss takes them, else as int64 classes or probabilities."""
        xs, parts = self._inputs(x), _parts(y)
        n = _rows("Trainer.step", xs, parts)
        if not n:
            raise ShapeError("Trainer.step: the batch is empty")
        labels = tuple(self._labels(part) for part in parts)
        weights = F._vector("Trainer.step", "sample_weight", sample_weight, n, "row")
        if _backends.core() is not None:  # what follows keeps this format, in which a step takes 10 to 15 % less time
            xs = tuple(F._image("Trainer.step", "x", part, True)[0] if part.ndim == 4 else part for part in xs)
        return xs, _alone(labels), None if weights is None else weights.astype(self._dtype, copy=False)

    def _labels(self, labels: Array) -> Array:
        if self._known is not None:
            return self._known.prepare(labels, self._dtype)
        if labels.ndim == 2:
            return F._rowmajor("Trainer.step", "y", labels).astype(self._dtype, copy=False)
        return np.ascontiguousarray(labels, np.int64) if labels.dtype.kind in "iu" else labels

    def _inputs(self, x: Rows) -> tuple[Array, ...]:
        """The arrays of one input or several, as a program takes them."""
        arrays = [F._array("Trainer", "x", part).astype(self._dtype, copy=False) for part in _parts(x)]
        return tuple(
            array if array.flags.c_contiguous or F._prefers_channels_last(array) else np.ascontiguousarray(array)
            for array in arrays
        )

    def _program(self, xs: tuple[Array, ...], labels: Any, sample_weight: Array | None) -> StepProgram | None:
        """The recorded step for a batch like this one, or None where only the closures can do it."""
        core = _backends.core()
        # Between layers of two dtypes arrays are converted, which is not recorded.
        mixed = len(self._parameters.buffers) > 1
        if core is None or not self._wants_program or self._known is None or isinstance(labels, tuple) or mixed:
            return None
        key = (
            tuple((x.shape, F._prefers_channels_last(x)) for x in xs),
            labels.shape,
            labels.dtype,
            sample_weight is None,
            core.isa(),
            # What a layer does may have been changed since: frozen, p, another array of statistics.
            tuple(layer.__dict__.get("version", 0) for layer in self._layers),
        )
        if key not in self._programs:
            while len(self._programs) >= _MAX_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            try:
                graph = trace(self.model, [x.shape for x in xs])
            except UntraceableError:
                self._programs[key] = None
            else:
                if len(graph.outputs) != 1:
                    raise _one_output()
                self._programs[key] = StepProgram(
                    core, graph, self._known, self._parameters, self.optimizer, self.seed, xs, labels, sample_weight
                )
        program = self._programs[key]
        if program is not None:
            self._known.check(labels, program.scores_shape)
        return program

    def _step_by_closures(self, xs: tuple[Array, ...], labels: Any, sample_weight: Array | None) -> tuple[float, Any]:
        before = {name: array.copy() for name, array in self.model.buffers.items()}
        try:
            for buffer in self._parameters.buffers:
                buffer.grads[...] = 0
            forward: Callable[..., Any] = self.model.forward
            scores, backward = forward(*xs, Stream(self.seed, self.steps))
            loss, dscores = self._loss_of(scores, labels, sample_weight)
            backward(*(dscores if isinstance(scores, tuple) else (dscores,)))
        except Exception:
            for name, array in self.model.buffers.items():
                array[...] = before[name]
            raise
        self._parameters.update(self.optimizer)
        return loss, scores

    def _loss_of(self, scores: Any, labels: Any, sample_weight: Array | None = None) -> tuple[float, Any]:
        if self._known is not None:
            if isinstance(scores, tuple) or isinstance(labels, tuple):
                raise _one_output()
            loss, dscores = self._known(scores, labels, sample_weight)
            return float(loss[0]), dscores
        return self.loss(scores, labels, **({} if sample_weight is None else {"sample_weight": sample_weight}))

    def training_cost(self, x: Rows, y: Rows) -> float:
        """Return what `step` would on this batch, penalties included, and change nothing."""
        xs, labels, _ = self._batch(x, y, None)
        forward: Callable[..., Any] = self.model.copy().forward
        scores, _ = forward(*xs, rng=Stream(self.seed, self.steps))
        loss, _ = self._loss_of(scores, labels)
        return float(loss) + (self._parameters.penalty_now() if self._parameters.penalizes else 0.0)

    # ---- many steps ----

    def fit(
        self,
        data: tuple[Rows, Rows],
        *,
        validation: tuple[Rows, Rows] | None = None,
        epochs: int = 1,
        batch_size: int = 128,
        shuffle: bool = True,
        augment: Callable[..., Any] | None = None,
        schedule: Callable[[float], float] | None = None,
        monitors: Sequence[Monitor | Callable[[Run], Any]] | None = (),
        progress: bool | str | None = None,
    ) -> History:
        """Train for a number of epochs.

        Parameters
        ----------
        data : (x, y)
            As in `step`, with N rows.
        validation : (x, y), optional
            Evaluated after each epoch.
        epochs, batch_size : int
            The last batch of an epoch is smaller where N is no multiple.
        shuffle : bool
            Go through the rows in a new order in each epoch.
        augment : callable, optional
            ``augment(x, y, rng=generator) -> (x, y)`` makes the batch of each step out of its rows: `fastnn.augment`.
            The generator is a function of the trainer's seed and of the step. Accuracy is that on what it makes, by
            the most probable of mixed labels.
        schedule : callable, optional
            The factor of the learning rate as a function of the share of the training that is done, from 0 to 1; see
            `fastnn.schedules`. One with a method ``observe`` is told the validation loss after each epoch.
        monitors : sequence of Monitor or callable
            What watches and steers the run: `fastnn.monitors`, or functions ``f(run)`` that are called after each
            epoch with the `Run`; ``run.stop("why")`` ends the training.
        progress : bool or str, optional
            Show a progress bar. None, or a text to put in front of it: where tqdm is installed and the output is a
            terminal or a notebook.

        Returns
        -------
        History
            Training stops early, and ``history.stopped`` says why, when the loss of a step or of the validation data is
            no longer a finite number or a monitor stops it. Where it is interrupted (Ctrl-C), or an exception ends it,
            monitors are ended as usual, and what was recorded is in ``trainer.history``.
        """
        x, y = _pair("data", data)
        xs, ys = self._inputs(x), _parts(y)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"Trainer.fit: {name} must be a whole number of at least 1, got {value!r}")
        if not isinstance(shuffle, (bool, np.bool_)):
            raise TypeError(f"Trainer.fit: shuffle must be True or False, got {shuffle!r}")
        if not isinstance(progress, (bool, str, type(None))):
            raise TypeError(f"Trainer.fit: progress must be True, False, None or a text, got {progress!r}")
        n = _rows("Trainer.fit", xs, ys)
        if not n:
            raise ShapeError("Trainer.fit: there are no rows to train on")
        if not callable(schedule) and schedule is not None:
            raise TypeError(f"Trainer.fit: schedule must be a function, such as those of schedules, got {schedule!r}")
        if not callable(augment) and augment is not None:
            raise TypeError(f"Trainer.fit: augment must be a function, such as those of augment, got {augment!r}")
        if augment is None:  # which may make other images and labels of these
            self._check_labels("Trainer.fit", x, y)
        if validation is not None:
            validation = _pair("validation", validation)
            self._check_labels("Trainer.fit: validation", *validation)
        if getattr(schedule, "needs_validation", False) and validation is None:
            raise ValueError(f"Trainer.fit: the schedule {schedule!r} needs validation=(x, y), whose loss drives it")
        starts = range(0, n, batch_size)
        history = self.history = History(steps_per_epoch=len(starts))
        run = Run(self, history, (xs, ys), validation, int(epochs), int(batch_size))
        watching, watched = monitoring(() if monitors is None else monitors), 0.0

        def tell(what: str) -> None:
            nonlocal watched
            now = time.perf_counter()
            for monitor in watching:
                getattr(monitor, what)(run)
            watched += time.perf_counter() - now

        with contextlib.ExitStack() as stack:
            for monitor in watching:
                monitor.begin(run)
                stack.callback(monitor.end, run)  # what has begun is ended, whatever happens
            bar = stack.enter_context(_progress_bar(progress, epochs * len(starts)))
            for epoch in range(epochs):
                began, watched = time.perf_counter(), 0.0
                order = self._order(n) if shuffle else np.arange(n)
                total, penalties, right = 0.0, 0.0, np.zeros(2)
                for start in starts:
                    rows = order[start : start + batch_size]
                    batch, labels = _alone([x[rows] for x in xs]), _alone([y[rows] for y in ys])
                    if augment is not None:
                        made = augment(batch, labels, rng=np.random.default_rng([self.seed, self.steps, 1]))
                        if not isinstance(made, tuple) or len(made) != 2:
                            raise TypeError(f"Trainer.fit: augment must return (x, y), got {type(made).__name__}")
                        batch, labels = made
                    factor = 1.0 if schedule is None else _factor(schedule, run.step / (epochs * len(starts)))
                    tell("before_step")
                    loss, penalty, scores = self._step(batch, labels, rate=factor)
                    history.step_loss.append(loss)
                    run.loss, run.penalty, run.rate = loss, penalty, self.optimizer.lr * factor
                    if not math.isfinite(loss + penalty):
                        hint = _ill("", [x[rows] for x in xs], [y[rows] for y in ys]) or "try a lower learning rate"
                        run.stop(f"the loss is {loss + penalty} at step {self.steps}: {hint}")
                    tell("after_step")
                    if history.stopped:
                        return history
                    total += loss * len(rows)
                    penalties += penalty * len(rows)
                    right += self._right(scores, labels)
                    bar.update(1)
                history.loss.append(total / n)
                if self._parameters.penalizes:
                    history.regularization.append(penalties / n)
                if right[1] > 0:
                    history.accuracy.append(float(right[0] / right[1]))
                bar.set_postfix_str(f"epoch {epoch + 1}, loss {total / n:.4f}", refresh=False)
                if validation is not None:
                    result = self.evaluate(*validation, batch_size=batch_size)
                    history.val_loss.append(result["loss"])
                    if not math.isfinite(result["loss"]):
                        found = _ill("validation ", self._inputs(validation[0]), _parts(validation[1]))
                        hint = found or "try a lower learning rate"
                        run.stop(f"the validation loss is {result['loss']} after epoch {epoch + 1}: {hint}")
                    if (observe := getattr(schedule, "observe", None)) is not None:
                        observe(result["loss"])
                    if "accuracy" in result:
                        history.val_accuracy.append(result["accuracy"])
                history.seconds.append(time.perf_counter() - began - watched)
                tell("after_epoch")
                if history.stopped:
                    return history
        return history

    def _check_labels(self, op: str, x: Rows, y: Rows) -> None:
        """Raise where `evaluate` would, without computing more than one row."""
        xs, ys = self._inputs(x), _parts(y)
        n = _rows(op, xs, ys)
        if not n:
            raise ShapeError(f"{op}: there are no rows")
        model: Any = self.model
        try:
            row = model(*(part[:1] for part in xs))
        except ShapeError as error:
            told: Exception = error
            try:
                model.output_shape(*(part.shape for part in xs))  # which speaks of all rows, and not of one
            except ShapeError as whole:
                told = whole
            except Exception:  # of a layer of the user's, which need not tell
                pass
            raise ShapeError(f"{op}: {told}") from None
        if self._known is not None and not isinstance(row, tuple) and len(ys) == 1:
            self._known.check(self._known.prepare(ys[0], self._dtype, op), (n, *row.shape[1:]), op)

    def _order(self, n: int) -> Array:
        """The order of the rows in the epoch that begins now: a function of the seed and of the steps done."""
        return np.random.default_rng([self.seed, self.steps]).permutation(n)

    # ---- the trained model ----

    def predict(self, x: Rows, *, batch_size: int = 256) -> Any:
        """Return the model's output for x (N, ...), batch by batch; inference, with the weights as they are now.

        Several inputs come as a tuple of arrays, and several outputs are a tuple.
        """
        xs = self._inputs(x)
        n = _rows("Trainer.predict", xs)
        model: Any = self.model
        if n <= batch_size:
            return model(*xs)
        with contextlib.suppress(UntraceableError):
            model = compile(model, [(batch_size, *part.shape[1:]) for part in xs])
        results = [model(*(part[i : i + batch_size] for part in xs)) for i in range(0, n, batch_size)]
        if isinstance(results[0], tuple):
            return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
        return np.concatenate(results)

    def evaluate(self, x: Rows, y: Rows, *, batch_size: int = 256) -> dict[str, float]:
        """Return ``{"loss": ..., "accuracy": ...}`` of the model on x (N, ...) and its labels.

        The loss is that of the data alone. Where the trainer has penalties, that of the weights as they are is
        returned beside it, as "regularization"; the loss that training lowers is their sum.
        Accuracy is the share of rows whose highest score is at their label, without the rows that are ignored; of
        answers that are right for "binary_cross_entropy_with_logits"; and it is left out for losses of values, such as
        "mse".
        """
        self._check_labels("Trainer.evaluate", x, y)
        labels = _alone(_parts(y))
        scores = self.predict(x, batch_size=batch_size)
        loss, _ = self._loss_of(scores, labels)
        result = {"loss": loss}
        right, counted = self._right(scores, labels)
        if counted > 0:
            result["accuracy"] = float(right / counted)
        if self._parameters.penalizes:
            result["regularization"] = self._parameters.penalty_now()
        return result

    def _right(self, scores: Any, labels: Any) -> Array:
        """How many rows are right, and how many count; NaN where that has no meaning."""
        if isinstance(scores, tuple) or isinstance(labels, tuple):
            return np.array((math.nan, math.nan))
        right = losses.right(scores, labels) if self._known is None else self._known.right(scores, labels)
        return np.array((math.nan, math.nan) if right is None else right)


def _regularizers(given: Any) -> list[Penalty | MaxNorm]:
    several = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
    for one in several:
        if not isinstance(one, (Penalty, MaxNorm)):
            raise TypeError(f"Trainer: regularization must be L1, L2, ElasticNet or MaxNorm objects, got {one!r}")
    return several


def _parts(x: Rows) -> tuple[Array, ...]:
    """What a batch gives as one array, or as a tuple of several."""
    several = isinstance(x, tuple) and len(x) > 0 and all(isinstance(part, np.ndarray) for part in x)
    return x if several else (np.asarray(x),)  # type: ignore[return-value]


def _pair(name: str, data: Any) -> tuple[Any, Any]:
    """Inputs and labels, as they come in a tuple or list of two."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        came = f"{len(data)} parts" if isinstance(data, (tuple, list)) else type(data).__name__
        raise TypeError(f"Trainer.fit: {name} must be (x, y), got {came}")
    return data[0], data[1]


def _factor(schedule: Callable[[float], float], share: float) -> float:
    """What a schedule says, where it is a factor of a rate."""
    factor = schedule(share)
    if not isinstance(factor, (int, float, np.number)) or not 0 <= factor < math.inf:
        raise ValueError(f"Trainer.fit: the schedule must give a number of at least 0, got {factor!r} at {share:.3g}")
    return float(factor)


def _ill(whose: str, xs: Sequence[Array], ys: Sequence[Array]) -> str:
    """Where inputs or targets hold what is no finite number; empty where they do not."""
    for name, parts in (("x", xs), ("y", ys)):
        for part in parts:
            ill = ~np.isfinite(part).reshape(len(part), -1).all(1) if part.dtype.kind == "f" else np.zeros(1)
            if ill.any():
                return f"{whose}{name} has NaN or infinite values there" + f", in row {ill.argmax()}" * bool(whose)
    return ""


def _alone(parts: Sequence[Array]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)


def _rows(op: str, xs: Sequence[Array], ys: Sequence[Array] = ()) -> int:
    """The number of rows, which all arrays must share."""
    if any(not part.ndim or len(part) != len(xs[0]) for part in (*xs, *ys)):
        came = [", ".join(str(part.shape) for part in parts) for parts in (xs, ys)]
        raise ShapeError(f"{op}: one label for each row of x, got x {came[0]} and y {came[1] or 'nothing'}")
    return len(xs[0])


def _one_output() -> TypeError:
    return TypeError(
        "Trainer: a loss by name takes one output and one array of labels; give a function "
        "loss((y1, y2), labels) -> (float, (dy1, dy2)) for a model of several outputs"
    )


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def update(self, n: int) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool = True) -> None: ...


def _progress_bar(progress: bool | str | None, total: int) -> Any:
    if progress is False:
        return _NoBar()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress is True:
            raise need("tqdm", "train", "a progress bar") from None
        return _NoBar()
    # disable=None: tqdm itself looks whether anybody is watching.
    text = progress if isinstance(progress, str) else None
    return tqdm(total=total, unit="step", desc=text, disable=False if progress is True else None, leave=False)

"""Ensembles: several networks that answer together, snapshots of one run, and running averages of its weights.

`Ensemble` averages what its members answer; `Augmented` what one network answers to several versions of an image;
`snapshots` trains one network through cycles of the learning rate and keeps it at the end of each; `Average` keeps a
running average of a model's weights while it trains, and `refresh` counts the statistics of batch norm anew for weights
that no batch has gone through. An ensemble is a layer: it predicts and saves like one. To add a way to combine: a word
in `_mean`; a set of versions: a line in `_VERSIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import functional as F
from .compiler.graph import UntraceableError, Value
from .errors import ShapeError
from .layers import Add, BatchNorm1d, BatchNorm2d, LogSoftmax, Softplus
from .layers.base import Array, Layer, Shape
from .random import RNG
from .schedules import cosine
from .training import History, Trainer

__all__ = ["Augmented", "Average", "Ensemble", "refresh", "snapshots"]


def _combine(owner: str, word: str) -> str:
    if word not in ("probabilities", "scores"):
        raise ValueError(f"{owner}: combine must be 'probabilities' or 'scores', got {word!r}")
    return word


def _mean(answers: Iterable[Array], combine: str) -> Array:
    """Mean of scores, or logarithm of the mean of their probabilities; in kernels it is `_traced_mean`."""
    total: Array | None = None
    count = 0
    for y in answers:
        if combine == "scores":
            total = y if total is None else F.add(total, y)
        else:
            # In logarithms: a probability that is zero in every answer has none.
            y = F.log_softmax(y)
            with np.errstate(invalid="ignore"):  # of NaN that a member answers
                total = y if total is None else np.logaddexp(total, y)
        count += 1
    assert total is not None
    dtype = total.dtype.type
    return total * dtype(1 / count) if combine == "scores" else total - dtype(math.log(count))


def _traced_mean(builder: Any, answers: Sequence[Value], combine: str) -> Value:
    """The same of values of a program, by kernels that there are: log(e^a + e^b) = a + softplus(b - a)."""
    shape, count = answers[0].shape, len(answers)

    def affine(x: Value, factor: float, shift: float = 0.0) -> Value:
        norm: Any = (BatchNorm2d if len(shape) == 4 else BatchNorm1d)(shape[1], eps=0.0)
        norm = norm.copy(dtype=np.float64)  # the program has it in its own
        norm.weight[...], norm.bias[...] = factor, shift
        made: Value = builder.add(norm, x)
        return made

    if combine == "scores":
        total = answers[0]
        for y in answers[1:]:
            total = builder.add(Add(), total, y)
        return affine(total, 1 / count)
    total, *others = [builder.add(LogSoftmax(), y) for y in answers]
    for y in others:
        more = builder.add(Softplus(threshold=40.0), builder.add(Add(), y, affine(total, -1.0)))
        total = builder.add(Add(), total, more)
    return affine(total, 1.0, -math.log(count))


class Ensemble(Layer):
    """The mean of what several networks answer; for inference.

    Parameters
    ----------
    models : sequence of Layer
        Of equal inputs and outputs; not copied.
    combine : str
        "probabilities", the default: the logarithm of the mean of the softmax probabilities, which serves where scores
        do (its softmax is that mean). "scores": the mean of the outputs as they are, for regression too.

    ``fnn.compile(team, shape)`` makes one program of all members and their mean.

    References
    ----------
    CS231n, "Training Neural Networks II": model ensembles, about 2 % extra performance.

    Examples
    --------
    >>> from fastnn.layers import Linear
    >>> team = Ensemble([Linear(3, 2, rng=seed) for seed in range(5)])
    >>> x = np.ones((4, 3), np.float32)
    >>> np.allclose(np.exp(team(x)).sum(axis=1), 1, atol=1e-6)
    True
    """

    def __init__(self, models: Sequence[Layer], *, combine: str = "probabilities") -> None:
        if isinstance(models, Layer):  # whose own layers would be taken for members
            raise TypeError(f"Ensemble: expected a list of models, got one, a {models.label()}; write [model]")
        models = list(models)
        if not models or not all(isinstance(model, Layer) for model in models):
            raise TypeError(f"Ensemble: expected one model or more, got {models!r}")
        self.models, self.combine = models, _combine("Ensemble", combine)

    def children(self) -> Iterator[tuple[str, Layer]]:
        return ((str(i), model) for i, model in enumerate(self.models))

    def __call__(self, x: ArrayLike) -> Array:
        """Return the combined answer for x (N, ...)."""
        return _mean(self._answers(x), self.combine)

    def _answers(self, x: ArrayLike) -> Iterator[Array]:
        shapes: list[Shape] = []
        for model in self.models:
            y = model(x)
            shapes.append(y.shape)
            self._check(shapes)
            yield y

    def forward(self, x: ArrayLike, rng: RNG = None) -> Any:
        raise TypeError("Ensemble: the members are trained one by one, each with a Trainer of its own")

    def trace(self, builder: Any, x: Value) -> Value:
        if not builder.inference:  # a step would train all members at once, for their mean
            raise UntraceableError("Ensemble: the members are trained one by one")
        answers = [builder.trace(name, model, x) for name, model in self.children()]
        self._check([answer.shape for answer in answers])
        if not 2 <= len(answers[0].shape) <= 4:
            raise UntraceableError(f"Ensemble: compiled for answers (N, C) to (N, C, H, W), not {answers[0].shape}")
        return _traced_mean(builder, answers, self.combine)

    def _check(self, shapes: Sequence[Shape]) -> None:
        if len(shapes) > 1 and shapes[-1] != shapes[-2]:
            raise ShapeError(f"Ensemble: model {len(shapes) - 1} answers {shapes[-1]}, the ones before it {shapes[-2]}")

    def output_shape(self, shape: Shape) -> Shape:
        found: list[Shape] = []
        for name, model in self.children():
            try:
                found.append(model.output_shape(shape))
            except ShapeError as error:
                raise error.located(name, model.label()) from None
            self._check(found)
        return found[0]

    def label(self) -> str:
        return f"Ensemble of {len(self.models)}"


def _shifted(dy: int, dx: int) -> Callable[[Array], Array]:
    def version(x: Array) -> Array:
        h, w = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        return padded[:, :, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]

    return version


def _mirrored(x: Array) -> Array:
    return x[..., ::-1]


_SHIFTS = [_shifted(dy, dx) for dy, dx in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))]
#: name: versions of a batch
_VERSIONS: dict[str, list[Callable[[Array], Array]]] = {
    "mirror": [_SHIFTS[0], _mirrored],
    "shifts": _SHIFTS,
    "both": [*_SHIFTS, *[lambda x, shift=shift: _mirrored(shift(x)) for shift in _SHIFTS]],
}


class Augmented(Layer):
    """Test-time augmentation: the mean of what a model answers to several versions of an image; for inference.

    Versions help that training has seen: train with the augmentation of which these are the means.

    Parameters
    ----------
    model : Layer
        Of images (N, C, H, W); not copied.
    versions : str or sequence of callable
        "mirror": the image and its mirror image. "shifts": the image, and moved by a pixel in each direction with the
        border repeated. "both": these five and their mirror images. Or functions from a batch to a batch of the same
        shape (``lambda x: x`` for the images as they are), fixed ones: equal images must have equal answers.
    combine : str
        As of `Ensemble`.

    References
    ----------
    CS231n, "Training Neural Networks II": average over fixed versions (crops, mirror images) at test time.

    Examples
    --------
    >>> from fastnn.layers import Flatten, Linear, Sequential
    >>> model = Sequential(Flatten(), Linear(48, 2, rng=0))
    >>> x = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    >>> often = Augmented(model, "mirror")
    >>> np.allclose(often(x), often(x[..., ::-1]), atol=1e-6)
    True
    """

    def __init__(
        self,
        model: Layer,
        versions: str | Sequence[Callable[[Array], Any]] = "mirror",
        *,
        combine: str = "probabilities",
    ) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"Augmented: expected a model, got {type(model).__name__}")
        if isinstance(versions, str):
            if versions not in _VERSIONS:
                known = ", ".join(map(repr, _VERSIONS))
                raise ValueError(f"Augmented: versions must be {known} or functions, got {versions!r}")
            versions = _VERSIONS[versions]
        versions = list(versions)
        if not versions or not all(callable(one) for one in versions):
            raise TypeError(f"Augmented: expected a function for each version, got {versions!r}")
        self.model, self.versions, self.combine = model, versions, _combine("Augmented", combine)

    def children(self) -> Iterator[tuple[str, Layer]]:
        return iter([("model", self.model)])

    def __call__(self, x: ArrayLike) -> Array:
        """Return the combined answer for images x (N, C, H, W)."""
        images = F._array("Augmented", "x", x)
        if images.ndim != 4:
            raise ShapeError(f"Augmented: expected images (N, C, H, W), got {images.shape}")

        def answers() -> Iterator[Array]:
            for i, version in enumerate(self.versions):
                given = np.asarray(version(images))
                if given.shape != images.shape:
                    raise ShapeError(f"Augmented: version {i} made {given.shape} of images {images.shape}")
                yield self.model(given)

        return _mean(answers(), self.combine)

    def trace(self, builder: Any, x: Value) -> Value:
        raise UntraceableError(
            "Augmented: its versions are functions in Python; compile the model within, fnn.compile(often.model, shape)"
        )

    def forward(self, x: ArrayLike, rng: RNG = None) -> Any:
        raise TypeError("Augmented: train the model within, with Trainer.fit(augment=...)")

    def output_shape(self, shape: Shape) -> Shape:
        return self.model.output_shape(shape)

    def label(self) -> str:
        return f"Augmented, {len(self.versions)} versions"


class Average:
    """A running average of a model's weights, to be updated as it trains.

    Parameters
    ----------
    model : Layer
        What is trained.
    decay : float, optional
        How much of the average is kept at an update: 0.99 looks back about 100 updates. The average starts as the mean
        of what it has seen, and forgets only when there is more. None: the plain mean of all updates.

    Attributes
    ----------
    count : int
        Updates so far.

    References
    ----------
    CS231n, "Training Neural Networks II": keep track of a second copy of the weights, a running average. Polyak and
    Juditsky 1992; Izmailov et al., UAI 2018.

    Examples
    --------
    >>> from fastnn.layers import Linear
    >>> model = Linear(1, 1, rng=0)
    >>> average = Average(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     model.weight[...] = value
    ...     average.update()
    >>> average.model().weight
    array([[3.]], dtype=float32)
    """

    def __init__(self, model: Layer, decay: float | None = None) -> None:
        if not isinstance(model, Layer):
            raise TypeError(f"Average: expected a model, got {type(model).__name__}")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"Average: decay must be at least 0 and below 1, got {decay!r}")
        self._model, self.decay = model, decay
        self.count = 0
        self._mean: dict[str, Array] = {}

    def update(self) -> None:
        """Take the weights and statistics as they are now into the average."""
        state = {**self._model.params, **self._model.buffers}
        self.count += 1
        share = max(1 / self.count, 0.0 if self.decay is None else 1 - self.decay)
        for name, array in state.items():
            # In float64: of a million updates each would be lost in float32.
            mean = self._mean.setdefault(name, np.zeros(array.shape, np.float64))
            mean += share * (array - mean)

    def model(self) -> Any:
        """Return a copy of the model with the averaged weights and statistics; `refresh` counts the statistics anew."""
        if not self.count:
            raise RuntimeError("Average: there was no update yet")
        twin = self._model.copy()
        twin.load_state(self._mean)
        return twin


def refresh(model: Layer, x: ArrayLike, *, batch_size: int = 128) -> None:
    """Count the running statistics of batch norm anew, as plain means over the batches of x, in place.

    For averaged weights, whose activations no batch has gone through. Frozen layers keep theirs.

    Parameters
    ----------
    model : Layer
    x : array_like (N, ...)
        Training data, as the model takes it.
    batch_size : int
        As in training. What is left over at the end is not counted.
    """
    x = np.asarray(x)
    dtypes = [array.dtype for array in model.params.values()]
    x = x.astype(np.result_type(*dtypes), copy=False) if dtypes else x
    norms = [layer for _, layer in model.leaves() if layer.statistics and hasattr(layer, "momentum")]
    before = [layer.momentum for layer in norms]
    size = min(batch_size, len(x))
    if not size:
        raise ValueError("refresh: x has no rows")
    try:
        for k, start in enumerate(range(0, len(x) - size + 1, size)):
            for layer in norms:
                layer.momentum = 1 / (k + 1)
            model.forward(x[start : start + size], 0)
    finally:
        for layer, momentum in zip(norms, before, strict=True):
            layer.momentum = momentum


def snapshots(
    trainer: Trainer, data: tuple[Any, Any], *, cycles: int = 5, epochs: int = 10, **options: Any
) -> tuple[Ensemble, list[History]]:
    """Train one network through cycles of the learning rate, and keep it at the end of each.

    In each cycle the rate falls from the optimizer's to zero along a cosine, and the network comes to rest in a
    minimum; the next cycle throws it out again. The ensemble costs one training run.

    Parameters
    ----------
    trainer : Trainer
    data : (x, y)
        As for `Trainer.fit`.
    cycles, epochs : int
        Cycles, and epochs of each.
    **options
        Of `Trainer.fit`: ``batch_size``, ``validation``; not ``schedule``.

    Returns
    -------
    Ensemble, list of History
        One copy of the model and one history for each cycle, in order.

    References
    ----------
    CS231n, "Training Neural Networks II": multiple snapshots of a single model during training, with a cyclic rate.
    Huang et al., ICLR 2017.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, (int, np.integer)) or cycles < 1:
        raise ValueError(f"snapshots: cycles must be a whole number of at least 1, got {cycles!r}")
    if "schedule" in options:
        raise TypeError("snapshots: the schedule is that of the cycles, a cosine in each; it cannot be given")
    if not isinstance(trainer, Trainer):
        raise TypeError(f"snapshots: expected a Trainer, got {type(trainer).__name__}")
    kept, runs = [], []
    for _ in range(cycles):
        runs.append(trainer.fit(data, epochs=epochs, schedule=cosine(), **options))
        if runs[-1].stopped:
            raise RuntimeError(f"snapshots: {runs[-1].stopped}")
        kept.append(trainer.model.copy())
    return Ensemble(kept), runs

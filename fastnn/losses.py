"""Losses by name, for ``Trainer(loss="cross_entropy")``.

A loss is a function ``loss(scores, labels, **weights) -> (float, dscores)``: the mean over the batch and its gradient
with respect to the scores, of their shape and dtype. The functions live in ``functional.py``, and beside each one that
returns the loss as an array of one float64, which a program can hold. To add one, write both there and its line in
``_LOSSES``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import functional as F

__all__ = ["Loss", "get", "names"]


class Loss(Protocol):
    """What a trainer calls: the mean loss of a batch, and its gradient with respect to the scores."""

    def __call__(self, scores: ArrayLike, labels: ArrayLike, **weights: Any) -> tuple[float, np.ndarray]: ...


@dataclass(frozen=True)
class _Entry:
    """One loss: its function, the one that a program can record, and what its labels are.

    labels: "classes" (whole numbers), "classes or probabilities", "yes or no" (0 to 1 for each score), "values".
    """

    function: Callable[..., tuple[float, np.ndarray]]
    recorded: Callable[..., tuple[np.ndarray, np.ndarray]]
    labels: str
    options: tuple[str, ...] = ()


_LOSSES: dict[str, _Entry] = {
    "cross_entropy": _Entry(
        F.cross_entropy,
        F._cross_entropy,
        "classes or probabilities",
        ("weight", "label_smoothing", "ignore_index"),
    ),
    "hinge": _Entry(F.hinge, F._hinge, "classes", ("margin", "weight", "ignore_index")),
    "binary_cross_entropy_with_logits": _Entry(
        F.binary_cross_entropy_with_logits, F._binary_cross_entropy_with_logits, "yes or no", ("weight", "pos_weight")
    ),
    "mse": _Entry(F.mse, F._mse, "values"),
    "l1": _Entry(F.l1, F._l1, "values"),
    "huber": _Entry(F.huber, F._huber, "values", ("delta",)),
}


def names() -> list[str]:
    """Return the names that `get` knows.

    Examples
    --------
    >>> names()
    ['cross_entropy', 'hinge', 'binary_cross_entropy_with_logits', 'mse', 'l1', 'huber']
    """
    return list(_LOSSES)


def get(loss: str | Loss) -> Loss:
    """Return the loss of that name; a function is returned as it is.

    Parameters
    ----------
    loss : str or callable
        A name out of `names`, or ``loss(scores, labels, **weights) -> (float, dscores)``. A loss with options is
        ``functools.partial(fastnn.functional.cross_entropy, label_smoothing=0.1)``.

    Raises
    ------
    ValueError
        For a name that is not known.
    TypeError
        For what is neither a name nor callable.

    Examples
    --------
    >>> value, dscores = get("cross_entropy")(np.zeros((1, 2), np.float32), [0])
    >>> round(value, 4)
    0.6931
    """
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise ValueError(f"unknown loss {loss!r}; expected one of {', '.join(_LOSSES)}, or a function")
        return _LOSSES[loss].function
    if not callable(loss):
        raise TypeError(f"loss: expected a name ({', '.join(_LOSSES)}) or a function, got {type(loss).__name__}")
    return loss


class Known:
    """A loss of this module with its options, as a trainer uses it; arrays among the options are copied."""

    def __init__(self, entry: _Entry, options: dict[str, Any], dtype: DTypeLike) -> None:
        self.entry = entry
        self.options: dict[str, Any] = {
            name: np.array(value, dtype, order="C") if name.endswith("weight") and value is not None else value
            for name, value in options.items()
        }
        #: what a program refers to
        self.arrays = [value for value in self.options.values() if isinstance(value, np.ndarray)]

    def __call__(
        self, scores: np.ndarray, labels: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss, an array of one float64, and dscores."""
        return self.entry.recorded(scores, labels, sample_weight=sample_weight, **self.options)

    def prepare(self, labels: np.ndarray, dtype: np.dtype[Any], op: str = "Trainer.step") -> np.ndarray:
        """Labels in the form in which the kernel reads them; ``op`` is what a message names."""
        soft = self.entry.labels in ("yes or no", "values") or (self.entry.labels != "classes" and labels.ndim == 2)
        if soft:
            return F._rowmajor(op, "y", labels).astype(dtype, copy=False)
        return np.ascontiguousarray(labels, np.int64) if labels.dtype.kind in "iu" else labels

    def check(self, labels: np.ndarray, scores_shape: tuple[int, ...], op: str = "Trainer.step") -> None:
        """Raise for labels that the loss refuses; a program, once recorded, does not look at values."""
        if self.entry.labels in ("yes or no", "values"):
            if scores_shape != (*labels.shape, 1):
                F._same_shape(op, "targets", labels.shape, scores_shape)
        elif self.entry.labels != "classes" and labels.ndim == 2:
            F._same_shape(op, "probabilities", labels.shape, scores_shape)
        if self.entry.labels == "yes or no":
            F._probabilities(op, labels)
        elif self.entry.labels != "values" and (labels.ndim != 2 or self.entry.labels == "classes"):
            ignored = self.options.get("ignore_index", -100)
            F._class_labels(op, labels, len(labels), scores_shape[-1], ignored)

    def right(self, scores: np.ndarray, labels: np.ndarray) -> tuple[float, int] | None:
        """How many rows are right, parts of rows where a row has several answers, and how many count; None where none
        is right or wrong."""
        if self.entry.labels == "values":
            return None
        if self.entry.labels == "yes or no":
            answers = (scores > 0) == (labels.reshape(scores.shape) > 0.5)
            return float(answers.reshape(len(scores), -1).mean(axis=1).sum()), len(scores)
        return right(scores, labels, self.options.get("ignore_index", -100))


def known(loss: Loss, dtype: DTypeLike) -> Known | None:
    """Return a loss of this module, or a ``functools.partial`` of one by keywords, as `Known`; None for any other."""
    given: Any = loss
    options: dict[str, Any] = {}
    if isinstance(given, functools.partial) and not given.args:
        given, options = given.func, given.keywords
    for entry in _LOSSES.values():
        if entry.function is given and set(options) <= set(entry.options):
            return Known(entry, options, dtype)
    return None


def right(scores: np.ndarray, labels: np.ndarray, ignore_index: int = -100) -> tuple[int, int]:
    """How many rows have their highest score at their label (or at their most probable class), and how many count."""
    classes = labels if labels.ndim == 1 else labels.argmax(-1)
    counted = len(scores) if labels.ndim > 1 else int((labels != ignore_index).sum())
    return int((scores.argmax(-1) == classes).sum()), counted

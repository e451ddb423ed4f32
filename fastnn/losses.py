"""Losses by name, for ``Trainer(loss="cross_entropy")``.

A loss is a function ``loss(scores, labels, **weights) -> (float, dscores)``: the mean over the batch and its gradient
with respect to the scores, of their shape and dtype. The functions live in ``functional.py``; to add one, write it
there and add its name to ``_LOSSES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from . import functional as F

__all__ = ["Loss", "get", "names"]


class Loss(Protocol):
    """What a trainer calls: the mean loss of a batch, and its gradient with respect to the scores."""

    def __call__(self, scores: ArrayLike, labels: ArrayLike, **weights: Any) -> tuple[float, np.ndarray]: ...


_LOSSES: dict[str, Callable[..., tuple[float, np.ndarray]]] = {
    "cross_entropy": F.cross_entropy,
}


def names() -> list[str]:
    """Return the names that `get` knows.

    Examples
    --------
    >>> names()
    ['cross_entropy']
    """
    return list(_LOSSES)


def get(loss: str | Loss) -> Loss:
    """Return the loss of that name; a function is returned as it is.

    Parameters
    ----------
    loss : str or callable
        A name out of `names`, or ``loss(scores, labels, **weights) -> (float, dscores)``.

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
        return _LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss: expected a name ({', '.join(_LOSSES)}) or a function, got {type(loss).__name__}")
    return loss

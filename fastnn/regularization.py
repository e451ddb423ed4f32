"""Penalties on weights, limits on their norms, and clipping of gradients.

For ``Trainer(regularization=..., clip=...)``, which does all of them over flat buffers, in programs too; and to call on
plain arrays in a loop of one's own. The sums and products are kernels (``penalty``, ``max_norm``, ``clip_norm``,
``clip_value`` of ``functional.py``). To add one: a class here, and what it does in ``Parameters.update``
(``training/buffers.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import functional as F
from .errors import ShapeError

__all__ = ["L1", "L2", "ClipNorm", "ClipValue", "ElasticNet", "MaxNorm", "Penalty"]

Array = np.ndarray


def _number(where: str, name: str, value: Any, rule: str = "finite and at least 0") -> float:
    try:
        number = float(value) if not isinstance(value, str) else None
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{where}: {name} must be a number, got {value!r}")
    if not 0 <= number < math.inf or (number == 0 and rule.endswith("above 0")):
        raise ValueError(f"{where}: {name} must be {rule}, got {value!r}")
    return number


def _names(where: str, on: Any) -> str | tuple[str, ...]:
    if isinstance(on, str):
        if on not in ("weights", "all"):
            raise ValueError(f"{where}: on must be 'weights', 'all' or a sequence of names, got {on!r}")
        return on
    names = tuple(on) if isinstance(on, Iterable) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: on must be 'weights', 'all' or a sequence of names, got {on!r}")
    return names


def _whole(array: Array, *columns: float) -> Array:
    """Segments of one row over all of an array."""
    return np.array([[0, array.size, *columns]], np.float64)


class _Regularizer:
    """What applies to some parameters of a model: those of ``on``."""

    def __init__(self, settings: dict[str, float], on: str | Sequence[str]) -> None:
        where = type(self).__name__
        self._settings = settings
        self._on = _names(where, on)

    @property
    def on(self) -> str | tuple[str, ...]:
        """Which parameters: "weights", "all" or names."""
        return self._on

    def __repr__(self) -> str:
        texts = [f"{value:g}" if len(self._settings) == 1 else f"{k}={value:g}" for k, value in self._settings.items()]
        return f"{type(self).__name__}({', '.join(texts + ([] if self.on == 'weights' else [f'on={self.on!r}']))})"


class Penalty(_Regularizer):
    """l1 * sum |w| + l2 / 2 * sum w^2, added to the loss; base of `L1`, `L2` and `ElasticNet`.

    Parameters
    ----------
    on : str or sequence of str
        Which parameters it counts: "weights" (those that multiply inputs: neither biases nor the parameters of
        normalisation), "all", or names of parameters ("0.weight", "0.bias") and layers ("0": its weights).
        ``Trainer.regularized`` shows what was chosen. Frozen parameters (rate 0) do not count.

    Raises
    ------
    ValueError, TypeError
        For a strength that is negative, NaN, infinite or no number; by a trainer, for names that it does not find.
    """

    def __init__(self, l1: float, l2: float, settings: dict[str, float], on: str | Sequence[str]) -> None:
        super().__init__(settings, on)
        self._l1, self._l2 = l1, l2

    @property
    def l1(self) -> float:
        """The factor of sum |w|."""
        return self._l1

    @property
    def l2(self) -> float:
        """The factor of sum w^2 / 2."""
        return self._l2

    def __call__(self, w: ArrayLike) -> tuple[float, Array]:
        """Return the penalty of an array of any shape, and its gradient, of that shape; the sum is double."""
        array = F._array(type(self).__name__, "w", w)
        flat = np.ascontiguousarray(array).reshape(-1)
        grad, loss = np.zeros_like(flat), np.zeros(1)
        F.penalty(flat, _whole(flat, self.l1, self.l2), grad, loss)
        return float(loss[0]), grad.reshape(array.shape)


class L2(Penalty):
    """strength / 2 * sum w^2: prefers many small weights to few large ones; the gradient gains strength * w.

    With SGD the same as its ``weight_decay``, which stands in no loss and follows clipping; not the same as that of
    AdamW.

    Parameters
    ----------
    strength : float, at least 0
    on : str or sequence of str
        As in `Penalty`.

    References
    ----------
    CS231n, "Neural Networks Part 2": L2 regularization.

    Examples
    --------
    >>> loss, dw = L2(0.1)(np.array([[3.0, -4.0]]))
    >>> loss, dw
    (1.25, array([[ 0.3, -0.4]]))
    """

    def __init__(self, strength: float, on: str | Sequence[str] = "weights") -> None:
        strength = _number("L2", "strength", strength)
        super().__init__(0.0, strength, {"strength": strength}, on)


class L1(Penalty):
    """strength * sum |w|: drives weights to zero; the gradient gains strength * sign(w), 0 at 0.

    Parameters
    ----------
    strength : float, at least 0
    on : str or sequence of str
        As in `Penalty`.

    References
    ----------
    CS231n, "Neural Networks Part 2": L1 regularization.

    Examples
    --------
    >>> L1(0.5)(np.array([3.0, -4.0, 0.0]))
    (3.5, array([ 0.5, -0.5,  0. ]))
    """

    def __init__(self, strength: float, on: str | Sequence[str] = "weights") -> None:
        strength = _number("L1", "strength", strength)
        super().__init__(strength, 0.0, {"strength": strength}, on)


class ElasticNet(Penalty):
    """l1 * sum |w| + l2 / 2 * sum w^2.

    Parameters
    ----------
    l1, l2 : float, at least 0
    on : str or sequence of str
        As in `Penalty`.

    References
    ----------
    Zou and Hastie, JRSS B 67, 2005; CS231n, "Neural Networks Part 2".

    Examples
    --------
    >>> ElasticNet(l1=1, l2=2)(np.array([3.0, -4.0]))
    (32.0, array([ 7., -9.]))
    """

    def __init__(self, l1: float, l2: float, on: str | Sequence[str] = "weights") -> None:
        l1, l2 = _number("ElasticNet", "l1", l1), _number("ElasticNet", "l2", l2)
        super().__init__(l1, l2, {"l1": l1, "l2": l2}, on)


class MaxNorm(_Regularizer):
    """Weights are scaled back, after each step, where the incoming vector of a unit is longer than ``limit``.

    A unit is an output: its vector is a row of a linear weight (out, in), a filter of a convolution (O, C, kh, kw).

    Parameters
    ----------
    limit : float, above 0
        The largest Euclidean norm; 3 or 4 are typical.
    on : str or sequence of str
        As in `Penalty`; parameters of one axis have no incoming vectors and are refused.

    References
    ----------
    Srebro, Rennie and Jaakkola, NeurIPS 2004; CS231n, "Neural Networks Part 2": max norm constraints.

    Examples
    --------
    >>> MaxNorm(1.0)(np.array([[3.0, 4.0], [0.3, 0.4]])).round(6)
    array([[0.6, 0.8],
           [0.3, 0.4]])
    """

    def __init__(self, limit: float, on: str | Sequence[str] = "weights") -> None:
        self._limit = _number("MaxNorm", "limit", limit, "finite and above 0")
        super().__init__({"limit": self._limit}, on)

    @property
    def limit(self) -> float:
        """The largest norm."""
        return self._limit

    def __call__(self, w: ArrayLike, axis: int = 0) -> Array:
        """Return a copy of w, of two axes or more, with its units, counted by ``axis``, inside the limit."""
        array = F._array("MaxNorm", "w", w)
        if array.ndim < 2 or not -array.ndim <= axis < array.ndim:
            raise ShapeError(f"MaxNorm: expected w of two axes or more and one of them, got {array.shape}, axis {axis}")
        flat = np.array(array, order="C").reshape(-1)
        axis %= array.ndim
        outer, inner = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
        if flat.size:
            F.max_norm(_whole(flat, outer, inner, self.limit), flat)
        return flat.reshape(array.shape)


class _Clip:
    """What is done to all gradients before a step."""

    def __init__(self, limit: float) -> None:
        self._limit = _number(type(self).__name__, "limit", limit, "finite and above 0")

    @property
    def limit(self) -> float:
        """The largest norm, or the largest magnitude."""
        return self._limit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit:g})"

    def _flat(self, grads: Iterable[Array]) -> list[tuple[Array, Array]]:
        """Each gradient, checked, and its elements as one row: a view where it lies in C order."""
        arrays = list(grads)
        for array in arrays:
            if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
                came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"{type(self).__name__}: expected float32 or float64 arrays, got {came}")
            if not array.flags.writeable:
                raise ValueError(f"{type(self).__name__}: a gradient of shape {array.shape} is read-only")
        return [(array, np.require(array, None, ["C", "A"]).reshape(-1)) for array in arrays]


class ClipNorm(_Clip):
    """Scale all gradients by one factor where their global norm is above ``limit``, as torch's clip_grad_norm_.

    The direction stays. The norm is over all gradients of the model together; the factor is limit / (norm + 1e-6).
    Where a gradient is NaN or infinite the norm is none to scale by, and NaN comes out.

    Parameters
    ----------
    limit : float, above 0

    References
    ----------
    Pascanu, Mikolov and Bengio, ICML 2013.

    Examples
    --------
    >>> grads = {"weight": np.array([[3.0]]), "bias": np.array([4.0])}
    >>> ClipNorm(1.0)(grads.values())  # the norm that it was
    5.0
    >>> grads["weight"].round(6), grads["bias"].round(6)
    (array([[0.6]]), array([0.8]))
    """

    def __call__(self, grads: Iterable[Array]) -> float:
        """Scale arrays of any shape in place; return their norm before."""
        pairs, total, limit = self._flat(grads), np.zeros(1), np.array([self.limit])
        for _, flat in pairs:
            F.square_sum(flat, _whole(flat, 1, 0), total)
        for array, flat in pairs:
            F.clip_norm(total, limit, _whole(flat, 1, 0), flat)
            if not np.may_share_memory(array, flat):
                array[...] = flat.reshape(array.shape)
        return math.sqrt(total[0])


class ClipValue(_Clip):
    """Clamp every element of the gradients to [-limit, limit], as torch's clip_grad_value_; NaN stays NaN.

    Parameters
    ----------
    limit : float, above 0

    Examples
    --------
    >>> grad = np.array([3.0, -0.5])
    >>> ClipValue(1.0)([grad])
    >>> grad
    array([ 1. , -0.5])
    """

    def __call__(self, grads: Iterable[Array]) -> None:
        """Clamp arrays of any shape in place."""
        limit = np.array([self.limit])
        for array, flat in self._flat(grads):
            F.clip_value(limit, _whole(flat, 1, 0), flat)
            if not np.may_share_memory(array, flat):
                array[...] = flat.reshape(array.shape)

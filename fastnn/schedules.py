"""Learning-rate schedules, for ``Trainer.fit(schedule=...)``.

A schedule is a function of the share of the training that is done, from 0 (first step) to just below 1 (last step); it
returns the factor by which the optimizer's learning rate is multiplied. It knows neither steps nor epochs, so the same
schedule fits a run of any length, and any function of that kind is one. A schedule with a method ``observe(loss)`` is
told the validation loss after each epoch: `plateau`. Settings that are negative, NaN, infinite or out of their range
raise `ValueError`, and what is no number `TypeError`. To add one: a function here that returns a `Schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "Plateau",
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "one_over_t",
    "plateau",
    "step",
    "warm_up",
]


class Schedule:
    """A factor of the learning rate as a function of the share done; made by the functions of this module."""

    def __init__(self, text: str, factor: Callable[[float], float], inner: Any = None) -> None:
        self._text = text
        self._factor = factor
        self._inner = inner

    def __call__(self, done: float) -> float:
        """Return the factor at the share ``done``, from 0 to 1."""
        return self._factor(_share(self._text, "done", done))

    @property
    def needs_validation(self) -> bool:
        """Whether the schedule, or one inside it, is driven by the validation loss."""
        return bool(getattr(self._inner, "needs_validation", False))

    def observe(self, loss: float) -> None:
        """Take the validation loss after an epoch; passed on to the schedule inside, if that wants it."""
        if hasattr(self._inner, "observe"):
            self._inner.observe(loss)

    def __repr__(self) -> str:
        return self._text


def _number(where: str, name: str, value: Any, low: float, high: float, rule: str) -> float:
    try:
        number = float(value) if not isinstance(value, str) else None
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{where}: {name} must be a number, got {value!r}")
    if not low <= number <= high or not math.isfinite(number):
        raise ValueError(f"{where}: {name} must be {rule}, got {value!r}")
    return number


def _share(where: str, name: str, value: Any) -> float:
    return _number(where, name, value, 0.0, 1.0, "a share of the training, from 0 to 1")


def _factor(where: str, name: str, value: Any) -> float:
    return _number(where, name, value, 0.0, math.inf, "finite and at least 0")


def constant() -> Schedule:
    """1 throughout; with `warm_up`, a plain warm-up.

    Examples
    --------
    >>> constant()(0.5)
    1.0
    """
    return Schedule("constant()", lambda done: 1.0)


def step(at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Multiply by ``factor`` at each of the shares ``at``: He et al. (CVPR 2016) drop by 10 at 1/2 and 3/4.

    Parameters
    ----------
    at : sequence of float
        Shares of the training, from 0 to 1.
    factor : float

    References
    ----------
    CS231n, "Training Neural Networks II": step decay.

    Examples
    --------
    >>> schedule = step(at=(0.5, 0.75), factor=0.5)
    >>> [schedule(done) for done in (0.0, 0.5, 0.9)]
    [1.0, 0.5, 0.25]
    """
    text = f"step(at={tuple(at)}, factor={factor:g})"
    places = [_share("step", "at", place) for place in at]
    drop = _factor("step", "factor", factor)
    return Schedule(text, lambda done: drop ** sum(done >= place for place in places))


def exponential(to: float = 0.01) -> Schedule:
    """to^done, from 1 down to ``to``: CS231n's exp(-k t), with k = log(1 / to).

    Examples
    --------
    >>> round(exponential(to=0.01)(0.5), 12)
    0.1
    """
    end = _number("exponential", "to", to, 5e-324, math.inf, "finite and above 0")
    return Schedule(f"exponential(to={end:g})", lambda done: end**done)


def one_over_t(k: float = 10.0) -> Schedule:
    """1 / (1 + k done): CS231n's 1/t decay; 1 / (1 + k) at the end.

    Examples
    --------
    >>> one_over_t(k=3)(1.0)
    0.25
    """
    rate = _factor("one_over_t", "k", k)
    return Schedule(f"one_over_t(k={rate:g})", lambda done: 1 / (1 + rate * done))


def inverse_sqrt(k: float = 99.0) -> Schedule:
    """1 / sqrt(1 + k done): with k = epochs - 1 the lecture's lr / sqrt(t), t being the epoch from 1.

    References
    ----------
    CS231n, "Training Neural Networks II"; Vaswani et al., NeurIPS 2017 (with `warm_up`).

    Examples
    --------
    >>> inverse_sqrt(k=3)(1.0)
    0.5
    """
    rate = _factor("inverse_sqrt", "k", k)
    return Schedule(f"inverse_sqrt(k={rate:g})", lambda done: 1 / math.sqrt(1 + rate * done))


def cosine(to: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to ``to``: slow, fast, slow.

    References
    ----------
    Loshchilov and Hutter, "SGDR", ICLR 2017; CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> round(cosine()(0.5), 12), cosine(to=0.1)(1.0)
    (0.5, 0.1)
    """
    end = _factor("cosine", "to", to)
    return Schedule(f"cosine(to={end:g})", lambda done: _anneal(1.0, end, done))


def _anneal(start: float, end: float, done: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def linear(to: float = 0.0) -> Schedule:
    """A straight line from 1 down to ``to``.

    Examples
    --------
    >>> linear()(0.25)
    0.75
    """
    end = _factor("linear", "to", to)
    return Schedule(f"linear(to={end:g})", lambda done: 1 + (end - 1) * done)


def warm_up(then: Callable[[float], float] | None = None, over: float = 0.05, start: float = 0.0) -> Schedule:
    """A straight line from ``start`` to where ``then`` begins, over the share ``over``; then ``then``, from its start.

    Parameters
    ----------
    then : schedule, optional
        Runs over what is left of the training; `constant` when absent.
    over : float, at least 0 and below 1
    start : float
        The first factor, relative to that with which ``then`` begins.

    References
    ----------
    Goyal et al., arXiv 1706.02677; CS231n: "high initial learning rates can make loss explode; linearly increasing
    learning rate from 0".

    Examples
    --------
    >>> schedule = warm_up(cosine(), over=0.1)
    >>> [round(schedule(done), 12) for done in (0.0, 0.05, 0.1, 0.55)]
    [0.0, 0.5, 1.0, 0.5]
    """
    rest = constant() if then is None else then
    if not callable(rest):
        raise TypeError(f"warm_up: then must be a schedule, a function of the share done, got {then!r}")
    length = _share("warm_up", "over", over)
    if length == 1.0:
        raise ValueError("warm_up: over must be below 1, or nothing is left for what follows")
    first = _factor("warm_up", "start", start)

    def factor(done: float) -> float:
        if done < length:
            return rest(0.0) * (first + (1 - first) * done / length)
        return rest((done - length) / (1 - length))

    return Schedule(f"warm_up({rest!r}, over={length:g}, start={first:g})", factor, rest)


def one_cycle(peak_at: float = 0.3, start: float = 0.04, end: float = 4e-6) -> Schedule:
    """Up from ``start`` to 1 at the share ``peak_at``, then down to ``end``, each along half a cosine.

    The optimizer's learning rate is the highest one. The defaults are those of torch's OneCycleLR: from 1/25 of it, to
    1e-4 of where it began; momentum stays as it is.

    References
    ----------
    Smith and Topin, "Super-convergence", arXiv 1708.07120.

    Examples
    --------
    >>> schedule = one_cycle()
    >>> [round(schedule(done), 6) for done in (0.0, 0.15, 0.3, 1.0)]
    [0.04, 0.52, 1.0, 4e-06]
    """
    peak = _share("one_cycle", "peak_at", peak_at)
    low, last = _factor("one_cycle", "start", start), _factor("one_cycle", "end", end)

    def factor(done: float) -> float:
        if done < peak:
            return _anneal(low, 1.0, done / peak)
        return _anneal(1.0, last, (done - peak) / (1 - peak)) if peak < 1 else 1.0

    return Schedule(f"one_cycle(peak_at={peak:g}, start={low:g}, end={last:g})", factor)


class Plateau(Schedule):
    """What `plateau` returns. It remembers what it has seen, from one ``fit`` to the next; make a new one to forget.

    Attributes
    ----------
    factor : float
        The factor now.
    best : float
        The lowest validation loss so far.
    """

    def __init__(self, drop: float, patience: int, threshold: float, cooldown: int, least: float) -> None:
        text = f"plateau(factor={drop:g}, patience={patience}, threshold={threshold:g}, cooldown={cooldown}"
        super().__init__(f"{text}, least={least:g})", lambda done: self.factor)
        self._drop, self._patience, self._threshold = drop, patience, threshold
        self._cooldown, self._least = cooldown, least
        self.factor = 1.0
        self.best = math.inf
        self._bad = self._cooling = 0

    @property
    def needs_validation(self) -> bool:
        """True."""
        return True

    def observe(self, loss: float) -> None:
        """Take the validation loss after an epoch; lower the factor when it has not improved for too long."""
        goal = self.best * (1 - self._threshold) if self.best < math.inf else math.inf
        if loss < goal:  # False for NaN
            self.best, self._bad = float(loss), 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self._patience:
            self.factor = max(self.factor * self._drop, self._least)
            self._cooling, self._bad = self._cooldown, 0


def plateau(
    factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, cooldown: int = 0, least: float = 0.0
) -> Plateau:
    """Multiply by ``factor`` when the validation loss has not improved for more than ``patience`` epochs.

    Needs ``Trainer.fit(validation=...)``. As torch's ReduceLROnPlateau for a loss.

    Parameters
    ----------
    factor : float, from 0 to 1
    patience : int
        Epochs without improvement that are borne.
    threshold : float
        What counts: a loss below (1 - threshold) times the best.
    cooldown : int
        Epochs after a drop that do not count.
    least : float
        The factor never falls below it.

    Examples
    --------
    >>> schedule = plateau(factor=0.5, patience=1)
    >>> for loss in (1.0, 0.9, 0.95, 0.92):
    ...     schedule.observe(loss)
    >>> schedule(0.4)
    0.5
    """
    whole = {"patience": patience, "cooldown": cooldown}
    for name, value in whole.items():
        if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 0:
            raise ValueError(f"plateau: {name} must be a whole number of at least 0, got {value!r}")
    return Plateau(
        _share("plateau", "factor", factor),
        patience,
        _number("plateau", "threshold", threshold, 0.0, 1.0, "from 0 to 1"),
        cooldown,
        _factor("plateau", "least", least),
    )

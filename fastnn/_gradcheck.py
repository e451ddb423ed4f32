"""``fastnn.gradcheck``: compare the gradients of a layer or a function with differences, in float64.

The file has an underscore because ``fastnn.gradcheck`` is the function, and importing a module of that name would put
the module in its place.

How a coordinate is judged: four outputs at -2h, -h, h, 2h around it give the slope on either side at two distances.
Where the function is smooth these agree (up to h^2), whatever the analytic gradient says; where they disagree there is
a kink within 2h. Then h shrinks, tenfold and hundredfold, to step past kinks beside the point; a coordinate where the
slopes still disagree lies on a kink, has no derivative, and is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import losses
from .errors import ShapeError
from .random import draw_seed

__all__ = ["Coordinate", "Report", "gradcheck"]

#: CS231n's thresholds of the relative error
GREAT, FINE, WRONG = 1e-7, 1e-4, 1e-2
#: where no kink was met nothing excuses 1e-4; deep smooth networks stay below this
SMOOTH = 1e-6
#: how far the slopes at h and 2h may differ, relative to the gradient, for their mean to be trusted
_TRUSTED = 1e-6
_SHRINK = (1.0, 0.1, 0.01)
#: A gradient counts as large when it is so many times the rounding noise of its difference; below that the error is
#: taken relative to this size, or zero gradients would be "wrong" by their noise.
_OVER_NOISE = 1e8


@dataclass(frozen=True)
class Coordinate:
    """One number out of x or a parameter, with both its gradients."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float

    def __str__(self) -> str:
        place = f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name
        return f"{place}: analytic {self.analytic:.8g}, numeric {self.numeric:.8g}"


@dataclass(frozen=True)
class Report:
    """What a gradient check found; true when it passed, and a sentence when printed.

    Attributes
    ----------
    ok : bool
        Whether the largest error is within the tolerance, and most coordinates could be judged.
    max_error : float
        The largest relative error; NaN when nothing could be judged.
    checked : int
        How many coordinates were compared.
    kinks : int
        How many lie on a kink and were left out.
    total : int
        How many there are; with more than ``max_checks`` in an array, a random sample is checked.
    worst : Coordinate or None
        The coordinate with the largest error.
    errors : dict of float
        The largest error by array: "x", and each parameter by name.
    reason : str
        Why nothing can be concluded, or empty.
    hint : str
        What the wrong gradients look like: a factor, a sign, a transpose; or empty.
    """

    ok: bool
    max_error: float
    checked: int
    kinks: int
    total: int
    worst: Coordinate | None
    errors: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    hint: str = ""

    @property
    def verdict(self) -> str:
        """In one word or two: great, fine, suspicious, wrong or inconclusive."""
        if self.reason:
            return "inconclusive"
        if self.max_error <= GREAT:
            return "great"
        if self.ok:
            return "fine"
        return "suspicious" if self.max_error <= WRONG else "wrong"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = f"gradient check {'passed' if self.ok else 'failed'}: {self.verdict}"
        if self.reason:
            head += f", {self.reason}"
        counts = f"{self.checked} of {self.total} coordinates compared"
        if self.kinks:
            counts += f", {self.kinks} on kinks left out"
        if self.worst is None:
            return f"{head}; {counts}"
        hint = f"; hint: {self.hint}" if self.hint else ""
        return f"{head}; largest relative error {self.max_error:.1e} at {self.worst}; {counts}{hint}"


def gradcheck(
    layer_or_function: Any,
    x: ArrayLike | tuple[np.ndarray, ...],
    y: Any = None,
    *,
    loss: str | losses.Loss = "cross_entropy",
    rng: int | np.random.Generator = 0,
    max_checks: int | None = 100,
    step: float = 1e-5,
    tolerance: float | None = None,
) -> Report:
    """Check the gradients of a layer, model, loss or function against central differences, in float64.

    Every gradient is that of sum(dy * output) with a random dy, or with labels of the loss. Parameters are those of a
    float64 copy of the layer; the layer itself is not touched.

    Parameters
    ----------
    layer_or_function : layer, callable or str
        A layer or model: dx and the gradient of every parameter are checked. A function ``f(x) -> (loss, dx)`` or
        ``f(x) -> (y, backward)``: dx is checked. The name of a loss: its gradient by the scores x, for the labels y.
    x : array_like, or a tuple of arrays
        Where to check; becomes float64. A tuple for a layer of several inputs, which the report calls "x0", "x1", ...
        Values of size 1 that avoid kinks are best: draw them from a normal
        distribution.
    y : array_like, optional
        Labels. With a model they check the gradients of ``loss`` at its output.
    loss : str or callable
        As of `Trainer`; for a model with labels.
    rng : int or numpy.random.Generator
        Seeds dy, the choice of coordinates, and each forward pass: all passes draw the same dropout masks.
    max_checks : int, optional
        How many coordinates to check of each array, chosen at random; None checks all. Each costs four forward passes.
    step : float
        The distance h of the differences, times the size of the number where that is above 1.
    tolerance : float, optional
        The largest relative error |a - n| / max(|a|, |n|, noise) that passes. Default 1e-4 where kinks were met, else
        1e-6. (CS231n: above 1e-2 the gradient is probably wrong, 1e-4 is fine with kinks and too high without, be happy
        at 1e-7.)

    Returns
    -------
    Report
        True when the check passed; prints as a sentence.

    Raises
    ------
    TypeError, ShapeError
        Where there is nothing to compare: an output that is not float64, a gradient of another shape than its array.

    References
    ----------
    CS231n, "Neural Networks 3: Gradient checks".

    Examples
    --------
    >>> from fastnn.layers import Linear
    >>> report = gradcheck(Linear(3, 2, rng=0), np.random.default_rng(0).standard_normal((4, 3)))
    >>> report.ok, report.verdict, report.checked
    (True, 'great', 20)
    >>> print(gradcheck(lambda x: ((x**2).sum(), x), [3.0]))
    gradient check failed: wrong; largest relative error 5.0e-01 at x[0]: analytic 3, numeric 6; 1 of 1 coordinates compared

    A loss by its name, and a model with its loss:

    >>> gradcheck("hinge", np.random.default_rng(0).standard_normal((4, 3)), [0, 1, 2, 0]).verdict
    'great'
    >>> gradcheck(Linear(3, 2, rng=0), np.random.default_rng(0).standard_normal((4, 3)), [0, 1, 1, 0]).verdict
    'great'
    """  # noqa: E501
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"gradcheck: step must be above 0, got {step!r}")
    if max_checks is not None and max_checks < 1:
        raise ValueError(f"gradcheck: max_checks must be at least 1, or None for all, got {max_checks!r}")
    seed = draw_seed(rng)
    generator = np.random.default_rng(seed)
    problem = _Problem(_with_loss(layer_or_function, y, loss), x, seed, generator)
    return _judge(problem, generator, max_checks, step, tolerance)


# ---- what is differentiated ----


def _with_loss(target: Any, y: Any, loss: str | losses.Loss) -> Any:
    """What is checked where labels are given."""
    if isinstance(target, str):
        if y is None:
            raise TypeError(f"gradcheck: the loss {target!r} needs labels: gradcheck({target!r}, scores, labels)")
        function = losses.get(target)
        return lambda scores: function(scores, y)
    if y is None:
        return target
    if not hasattr(target, "forward"):
        raise TypeError("gradcheck: labels go with a model or with the name of a loss; a function closes over its own")
    return _Judged(target, losses.get(loss), y)


class _Judged:
    """A model and the loss of its output, as a layer whose output is one number."""

    def __init__(self, model: Any, loss: losses.Loss, y: Any) -> None:
        self._model, self._loss, self._y = model, loss, y

    def copy(self, dtype: Any) -> _Judged:
        return _Judged(self._model.copy(dtype=dtype), self._loss, self._y)

    def forward(self, *xs: Any, rng: Any = None) -> tuple[Any, Callable[[Any], Any]]:
        scores, backward = self._model.forward(*xs, rng=rng)
        value, dscores = self._loss(scores, self._y)
        return value, lambda dy: backward(*(dscores if isinstance(dscores, tuple) else (dscores,)))

    @property
    def params(self) -> Any:
        return self._model.params

    @property
    def grads(self) -> Any:
        return self._model.grads

    def zero_grad(self) -> None:
        self._model.zero_grad()


class _Problem:
    """A scalar function of several arrays, its value's parts, and its analytic gradients."""

    def __init__(self, target: Any, x: Any, seed: int, generator: np.random.Generator) -> None:
        several = isinstance(x, tuple) and len(x) > 0 and all(isinstance(part, np.ndarray) for part in x)
        self.xs: dict[str, np.ndarray] = {}
        for name, part in ((f"x{i}", part) for i, part in enumerate(x)) if several else (("x", x),):
            given = np.asarray(part)
            if given.dtype.kind not in "fiub":
                raise TypeError(f"gradcheck: {name} has dtype {given.dtype}; expected real numbers")
            if not given.size:
                raise ShapeError(f"gradcheck: {name} of shape {given.shape} is empty: there is nothing to compare")
            self.xs[name] = np.array(given, np.float64, order="C")
        self.forward = self._forward_of(target, seed)
        made: Any = self._run()
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(
                f"gradcheck: the function must return (loss, dx) or (y, backward), got {type(made).__name__}"
            )
        result, way_back = made
        self.y = _output(result)
        if callable(way_back):
            self.dy = generator.standard_normal(self.y.shape) if self.y.ndim else np.ones(())
            if self.layer is not None:
                self.layer.zero_grad()
            dx = way_back(*_parted(self.dy, result))
        elif self.y.ndim == 0:
            self.dy, dx = np.ones(()), way_back
        else:
            raise TypeError(
                f"gradcheck: expected (loss, dx) with a number for the loss, or (y, backward) with a function; got "
                f"y of shape {self.y.shape} and {type(way_back).__name__}"
            )
        #: (name, array to change in place, its analytic gradient)
        dxs = dx if several else (dx,)
        if len(dxs) != len(self.xs):
            raise TypeError(f"gradcheck: {len(dxs)} gradients came for {len(self.xs)} inputs")
        self.rows = len(next(iter(self.xs.values()))) if all(x.ndim for x in self.xs.values()) else 1
        self.arrays = [(name, x, _gradient(name, x, dx)) for (name, x), dx in zip(self.xs.items(), dxs, strict=True)]
        if self.layer is not None:
            self.arrays += _parameters(self.layer)

    def _run(self) -> tuple[Any, Any]:
        return self.forward(*(x.copy() for x in self.xs.values()))

    def _forward_of(self, target: Any, seed: int) -> Callable[..., tuple[Any, Any]]:
        self.layer = None
        if hasattr(target, "forward"):
            if not hasattr(target, "copy"):
                raise TypeError(
                    f"gradcheck: {type(target).__name__} has no copy(dtype=...), so it cannot be in float64"
                )
            self.layer = layer = target.copy(dtype=np.float64)
            return lambda *xs: layer.forward(*xs, rng=seed)
        if not callable(target):
            raise TypeError(f"gradcheck: expected a layer or a function, got {type(target).__name__}")
        return target

    def output(self) -> np.ndarray:
        """The output for the arrays as they are now."""
        return _output(self._run()[0])


def _parted(dy: np.ndarray, y: Any) -> list[np.ndarray]:
    """The gradient of an output as the function takes it: in as many parts as it gave."""
    if not isinstance(y, tuple):
        return [dy.copy()]
    ends = np.cumsum([np.size(part) for part in y])
    return [part.reshape(np.shape(like)) for part, like in zip(np.split(dy.copy(), ends[:-1]), y, strict=True)]


def _output(y: Any) -> np.ndarray:
    array = np.concatenate([np.ravel(part) for part in y]) if isinstance(y, tuple) else np.array(y)
    if array.dtype != np.float64:
        raise TypeError(
            f"gradcheck: the output has dtype {array.dtype} for float64 input; nothing finer can be compared"
        )
    return array


def _gradient(name: str, array: np.ndarray, gradient: Any) -> np.ndarray:
    if gradient is None:
        raise TypeError(f"gradcheck: no gradient came for {name!r}")
    result = np.array(gradient, np.float64)
    if result.shape != array.shape:
        raise ShapeError(f"gradcheck: {name!r} has shape {array.shape} and its gradient {result.shape}")
    return result


def _parameters(layer: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each parameter once, under its first name; what several names share is summed."""
    params, grads = layer.params, layer.grads
    found: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
    seen: set[int] = set()
    for name, array in params.items():
        if name not in grads:
            raise TypeError(f"gradcheck: the layer has no gradient for {name!r}")
        gradient = _gradient(name, array, grads[name])
        if id(array) not in found:
            found[id(array)] = name, array, gradient
        elif id(grads[name]) not in seen:
            found[id(array)][2].__iadd__(gradient)
        seen.add(id(grads[name]))
    return list(found.values())


# ---- differences ----


class _Slope(NamedTuple):
    numeric: float
    size: float  # what errors are relative to, for an analytic gradient that is no larger
    doubt: float  # how much the differences at h and 2h disagree, relative to size


def _slope(problem: _Problem, array: np.ndarray, index: tuple[int, ...], step: float) -> _Slope:
    """The derivative by one coordinate, from the distance at which the differences agree best."""
    value = float(array[index])
    best = _Slope(math.nan, math.nan, math.inf)
    for shrink in _SHRINK:
        slope = _slope_at(problem, array, index, shrink * step * max(1.0, abs(value)))
        if slope.doubt < best.doubt:
            best = slope
        if best.doubt <= _TRUSTED:
            break
    return best


def _slope_at(problem: _Problem, array: np.ndarray, index: tuple[int, ...], h: float) -> _Slope:
    value = array[index].copy()
    offsets, outputs = [], []
    try:
        for k in (-2, -1, 1, 2):
            array[index] = value + k * h
            offsets.append(float(array[index] - value))
            outputs.append(problem.output())
    finally:
        array[index] = value
    # Differences are taken element by element, so that what does not depend on the coordinate adds no rounding noise.
    with np.errstate(all="ignore"):
        dy, y = problem.dy, problem.y
        rises = [float(np.vdot(dy, output - y)) for output in outputs]
        terms = dy * y
        moved = float(np.linalg.norm(terms[outputs[1] != outputs[2]]))
        # An output may stay where it is because it moves by less than its last bit: the largest one bounds that.
        noise = np.finfo(np.float64).eps * max(moved, float(np.abs(terms).max(initial=0.0))) / h
        left2, left, right, right2 = (rise / offset for rise, offset in zip(rises, offsets, strict=True))
        near = (rises[2] - rises[1]) / (offsets[2] - offsets[1])
        far = (rises[3] - rises[0]) / (offsets[3] - offsets[0])
        numeric = (4 * near - far) / 3  # four points: the error falls by h^4
        size = max(*map(abs, (left2, left, right, right2)), _OVER_NOISE * noise)
        # The odd part of a smooth function gives far = near; the even part gives a bend in proportion to h.
        doubt = max(abs(far - near), abs((right2 - left2) - 2 * (right - left)))
    if doubt == 0 or not math.isfinite(doubt + size):
        return _Slope(numeric, size, doubt if doubt == 0 else math.inf)
    return _Slope(numeric, size, doubt / size)


# ---- the verdict ----


def _sample(size: int, most: int | None, generator: np.random.Generator) -> Sequence[int]:
    if most is None or size <= most:
        return range(size)
    return sorted(generator.choice(size, most, replace=False).tolist())


def _judge(
    problem: _Problem, generator: np.random.Generator, most: int | None, step: float, tolerance: float | None
) -> Report:
    checked = kinks = 0
    errors: dict[str, float] = {}
    unjudged = []
    largest, worst = math.nan, None
    total = sum(array.size for _, array, _ in problem.arrays)
    reason = _cannot(problem)
    pairs_of: dict[str, list[tuple[tuple[int, ...], _Slope, float]]] = {}
    for name, array, analytic in problem.arrays if not reason else ():
        compared = 0
        pairs = pairs_of.setdefault(name, [])
        for flat in _sample(array.size, most, generator):
            index = tuple(int(i) for i in np.unravel_index(flat, array.shape))
            slope = _slope(problem, array, index, step)
            if not slope.doubt <= _TRUSTED:
                kinks += 1
                continue
            compared += 1
            a = float(analytic[index])
            error = float(_relative(a, slope))
            errors[name] = max(errors.get(name, 0.0), error)
            pairs.append((index, slope, error))
            if not error <= largest:
                largest, worst = error, Coordinate(name, index, a, float(slope.numeric))
        checked += compared
        if array.size and not compared:
            unjudged.append(name)
    if not reason and kinks > checked:
        reason = f"{kinks} of {kinks + checked} coordinates lie on kinks; move x away from them"
    elif unjudged:
        reason = f"every coordinate of {', '.join(unjudged)} lies on a kink; move x away from it"
    limit = tolerance if tolerance is not None else FINE if kinks else SMOOTH
    hint = ""
    if worst is not None and not largest <= limit:
        analytic = next(gradient for name, _, gradient in problem.arrays if name == worst.name)
        hint = _hint(worst.name, analytic, pairs_of[worst.name], limit, problem.rows)
    return Report(not reason and bool(largest <= limit), largest, checked, kinks, total, worst, errors, reason, hint)


def _hint(
    name: str, analytic: np.ndarray, pairs: list[tuple[tuple[int, ...], _Slope, float]], limit: float, rows: int
) -> str:
    """What the wrong gradients of an array have in common, where three elements or more say so."""
    numeric = np.array([slope.numeric for _, slope, _ in pairs])
    given = np.array([analytic[index] for index, _, _ in pairs])
    # Elements that are as good as zero say nothing about a factor.
    clear = np.array([abs(slope.numeric) > 1e-3 * slope.size and slope.numeric != 0 for _, slope, _ in pairs])
    if clear.sum() >= 3:
        if not given.any():
            return f"no gradient arrives at {name}: it is zero everywhere"
        ratios = given[clear] / numeric[clear]
        factor = float(np.median(ratios))
        if np.isfinite(ratios).all() and np.abs(ratios - factor).max() <= 1e-3 * abs(factor):
            if abs(factor + 1) < 1e-3:
                return f"the gradient of {name} has the wrong sign"
            text = f"the gradient of {name} is {factor:.4g} times what it should be, everywhere"
            for count, words in ((rows, f"the number of rows is {rows}"), (1 / rows, f"1 / {rows} rows")):
                if rows > 1 and abs(factor / count - 1) < 1e-3:
                    text += f": {words}, so a sum and a mean were mixed up"
            return text
        square = analytic.ndim == 2 and analytic.shape[0] == analytic.shape[1] > 1
        if square:
            turned = np.array([analytic.T[index] for index, _, _ in pairs])
            if (np.abs(turned - numeric) <= limit * np.maximum(np.abs(numeric), 1e-300)).all():
                return f"the gradient of {name} is transposed"
    wrong = [index for index, _, error in pairs if not error <= limit]
    if len(wrong) == len(pairs):
        return ""
    text = f"{len(wrong)} of the {len(pairs)} compared elements of {name} are wrong"
    for axis in range(analytic.ndim):
        places = {index[axis] for index in wrong}
        if len(wrong) > 1 and len(places) == 1 and analytic.shape[axis] > 1:
            text += f", all at index {places.pop()} of axis {axis}"
    return text


def _cannot(problem: _Problem) -> str:
    """Why differences would say nothing, or an empty string."""
    if not np.isfinite(problem.y).all():
        return "the output holds NaN or infinity"
    if not np.array_equal(problem.output(), problem.y):
        return "two forward passes with the same input and rng differ"
    return ""


def _relative(analytic: float, slope: _Slope) -> float:
    if not math.isfinite(analytic):
        return math.inf
    difference = abs(analytic - slope.numeric)
    return difference / max(abs(analytic), abs(slope.numeric), slope.size) if difference else 0.0

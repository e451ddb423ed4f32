"""``fastnn.statistics``: what flows through a network, layer by layer, there and back.

The file has an underscore because ``fastnn.statistics`` is the function. It runs one training pass on a copy of the
model whose layers note what they give and what comes back to them: nothing of the model itself is touched, and layers
that users wrote are looked at like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import functional as F
from . import losses
from ._text import table
from .errors import ShapeError
from .layers.base import Array, Layer
from .random import Stream, draw_seed

__all__ = ["LayerStatistics", "ParameterStatistics", "Spread", "Statistics", "statistics"]

#: an element is saturated where the activation's slope is below this share of its steepest
SATURATED = 0.01
_BINS = 40


@dataclass(frozen=True)
class Spread:
    """How the numbers of an array are spread; NaN where the array holds one.

    Attributes
    ----------
    mean, std, low, high : float
    norm : float
        The root of the sum of squares.
    counts : ndarray (40,)
        The histogram between low and high, in equal bins; all zero where these are not finite.
    """

    mean: float
    std: float
    low: float
    high: float
    norm: float
    counts: Array = field(repr=False, compare=False)

    @classmethod
    def of(cls, *arrays: Array) -> Spread:
        """Return the spread of all numbers in the arrays, summed in float64."""
        x = np.concatenate([np.ravel(array) for array in arrays]) if len(arrays) != 1 else np.ravel(arrays[0])
        if not x.size:
            return cls(math.nan, math.nan, math.nan, math.nan, 0.0, np.zeros(_BINS, np.int64))
        with np.errstate(all="ignore"):
            low, high = float(x.min()), float(x.max())
            mean = float(x.mean(dtype=np.float64))
            std = float(x.std(dtype=np.float64))
            norm = math.sqrt(x.size) * math.hypot(mean, std)
        counts = np.zeros(_BINS, np.int64)
        if math.isfinite(high - low):
            # In float64, and around a single value: bins of float32 numbers can be narrower than their last bit.
            span = (low, high) if high - low > 1e-6 * max(abs(low), abs(high)) else (low - 0.5, low + 0.5)
            counts = np.histogram(x.astype(np.float64, copy=False), _BINS, span)[0]
        return cls(mean, std, low, high, norm, counts)


@dataclass(frozen=True)
class LayerStatistics:
    """One layer at one place of the network.

    Attributes
    ----------
    name, label : str
        As in ``model.summary``; the model itself is called "".
    shape : tuple of int
        Of its output.
    output : Spread
    gradient : Spread or None
        Of the loss by the output; None without labels, or where no gradient came.
    saturated : float or None
        Of an activation: the share of elements where its slope is below 1 % of its steepest. Of ReLU these are the
        elements that are zero.
    dead : float or None
        Of an activation: the share of units (features, or channels) that are saturated on every row and at every
        position.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    output: Spread
    gradient: Spread | None = None
    saturated: float | None = None
    dead: float | None = None


@dataclass(frozen=True)
class ParameterStatistics:
    """One parameter: its values, and the gradient of the loss by them (None without labels)."""

    name: str
    shape: tuple[int, ...]
    value: Spread
    gradient: Spread | None = None


@dataclass(frozen=True)
class Statistics:
    """What `fastnn.statistics` returns: a sequence of `LayerStatistics`, in order; a table when printed.

    Attributes
    ----------
    layers : tuple of LayerStatistics
    parameters : dict of str to ParameterStatistics
    loss : float or None
        Of the data, in the training pass; None without labels.
    """

    layers: tuple[LayerStatistics, ...]
    parameters: dict[str, ParameterStatistics]
    loss: float | None = None

    def __iter__(self) -> Iterator[LayerStatistics]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, key: str | int) -> LayerStatistics:
        """The layer of that name, or at that place."""
        if not isinstance(key, str):
            return self.layers[key]
        for layer in self.layers:
            if layer.name == key:
                return layer
        raise KeyError(f"no layer {key!r}; there are {', '.join(repr(layer.name) for layer in self.layers)}")

    @property
    def activations(self) -> tuple[LayerStatistics, ...]:
        """The layers that can saturate: activations."""
        return tuple(layer for layer in self.layers if layer.saturated is not None)

    def __str__(self) -> str:
        header = ("layer", "kind", "output", "mean", "std", "saturated", "dead", "gradient mean", "gradient std")
        rows = []
        for one in self.layers:
            gradient = ("", "") if one.gradient is None else (f"{one.gradient.mean:.1e}", f"{one.gradient.std:.1e}")
            shares = ["" if share is None else f"{share:.1%}" for share in (one.saturated, one.dead)]
            row = (one.name, one.label, str(one.shape), f"{one.output.mean:.3g}", f"{one.output.std:.3g}")
            rows.append((*row, *shares, *gradient))
        return table(header, rows, 3)

    def parameter_table(self) -> str:
        """Return a table of the parameters: their size, and the size of their gradient beside it."""
        header = ("parameter", "shape", "mean", "std", "norm", "gradient norm", "ratio")
        rows = []
        for one in self.parameters.values():
            row = (one.name, str(one.shape), f"{one.value.mean:.3g}", f"{one.value.std:.3g}", f"{one.value.norm:.3g}")
            more = ("", "")
            if one.gradient is not None:
                ratio = f"{one.gradient.norm / one.value.norm:.1e}" if one.value.norm else ""
                more = f"{one.gradient.norm:.1e}", ratio
            rows.append((*row, *more))
        return table(header, rows, 2)

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Write a picture: mean and std of outputs and gradients over the layers, and histograms of the outputs."""
        from . import plot

        return plot.statistics(self, path, title=title)


def statistics(
    model: Layer,
    x: ArrayLike | tuple[Array, ...],
    y: Any = None,
    *,
    loss: str | losses.Loss = "cross_entropy",
    rng: int | np.random.Generator | Stream = 0,
) -> Statistics:
    """Return mean, std, saturated and dead share of every layer's output, and of its gradient where labels are given.

    One training pass (batch statistics, dropout and all) on a copy of the model: nothing of it changes, so this may be
    called before, during and after training. `fastnn.monitors.Statistics` calls it while `Trainer.fit` runs.

    Parameters
    ----------
    model : Layer
        Layers that users wrote count too: where such a layer has a method ``slope(x)``, the local gradient of each
        element, it has saturated and dead shares.
    x : array_like (N, ...), or a tuple of arrays
        Some rows: the share of dead units needs enough of them to be meaningful, a few hundred.
    y : array_like, optional
        Labels, as the loss takes them; gradients are those of the mean loss. None looks at the way there only.
    loss : str or callable
        As of `Trainer`.
    rng : int or numpy.random.Generator
        Seeds dropout.

    Returns
    -------
    Statistics
        A table when printed, a picture by ``.plot(path)``, ``[name]`` for one layer; a joint of branches (a residual
        sum) counts as a layer, under the name of its container.

    References
    ----------
    CS231n, "Neural Networks 2 and 3": "activation / gradient distributions per layer"; a unit is dead that is active
    on no row.

    Examples
    --------
    Ten units, five of which never see a positive sum:

    >>> from fastnn.layers import Linear, ReLU, Sequential
    >>> model = Sequential(Linear(4, 10, rng=0), ReLU(), Linear(10, 2, rng=1))
    >>> model["0"].bias[:5] = -100
    >>> x = np.random.default_rng(0).standard_normal((200, 4))
    >>> report = statistics(model, x, np.arange(200) % 2)
    >>> report["1"].dead
    0.5
    >>> report.parameters["0.weight"].gradient.norm > 0
    True
    """
    if not isinstance(model, Layer):
        raise TypeError(f"statistics: expected a model, got {type(model).__name__}")
    function = losses.get(loss)
    several = isinstance(x, tuple) and len(x) > 0 and all(isinstance(part, np.ndarray) for part in x)
    xs: tuple[Any, ...] = x if several else (x,)  # type: ignore[assignment]
    xs = tuple(F._array("statistics", "x", part) for part in xs)
    if not all(part.ndim and len(part) for part in xs):
        raise ShapeError(f"statistics: x has no rows, its shape is {', '.join(str(part.shape) for part in xs)}")
    dtypes = [array.dtype for array in model.params.values() if array.dtype.kind == "f"]
    if dtypes:
        xs = tuple(part.astype(np.result_type(*dtypes), copy=False) for part in xs)
    twin: Layer = model.copy()
    twin.zero_grad()
    watch = _Watch(twin)
    forward: Callable[..., Any] = twin.forward
    stream = rng if isinstance(rng, Stream) else Stream(draw_seed(rng))
    scores, backward = forward(*xs, rng=stream)
    value = None
    if y is not None:
        value, dscores = function(scores, y)
        backward(*(dscores if isinstance(dscores, tuple) else (dscores,)))
    parameters, grads = {}, twin.grads
    for name, array in twin.params.items():
        gradient = Spread.of(grads[name]) if y is not None else None
        parameters[name] = ParameterStatistics(name, array.shape, Spread.of(array), gradient)
    return Statistics(tuple(watch.finished()), parameters, value)


class _Watch:
    """Puts a note-taker before ``forward`` of every layer inside a model."""

    def __init__(self, model: Layer) -> None:
        self._records: list[dict[str, Any]] = []
        #: outputs so far, so that a container that hands on a layer's output is not noted beside the layer
        self._seen: list[Any] = []
        self._names: dict[int, list[str]] = {}
        layers: dict[int, Layer] = {}
        for name, layer in _inside(model):
            self._names.setdefault(id(layer), []).append(name)
            layers[id(layer)] = layer
        for layer in layers.values():
            layer.__dict__["forward"] = self._noting(layer, layer.forward)

    def _noting(self, layer: Layer, forward: Callable[..., Any]) -> Callable[..., Any]:
        names, calls = self._names[id(layer)], 0

        def noted(*xs: Any, **options: Any) -> Any:
            nonlocal calls
            y, backward = forward(*xs, **options)
            parts = y if isinstance(y, tuple) else (y,)
            if any(part is seen for part in parts for seen in self._seen):
                return y, backward
            self._seen.extend(parts)
            # A layer in several places is run once for each; run oftener, it is counted.
            name = names[calls] if calls < len(names) else f"{names[-1]} ({calls + 1})"
            calls += 1
            record: dict[str, Any] = {"name": name, "label": layer.label(), "output": Spread.of(*parts)}
            record["shape"] = np.shape(parts[0]) if len(parts) == 1 else tuple(map(np.shape, parts))
            slope = getattr(layer, "slope", None)
            if slope is not None and xs:
                record["saturated"], record["dead"] = _saturation(slope, xs[0])
            self._records.append(record)

            def noted_backward(*dys: Any) -> Any:
                came = [np.asarray(dy) for dy in dys if dy is not None]
                if came:
                    record["gradient"] = Spread.of(*came)
                return backward(*dys)

            return y, noted_backward

        return noted

    def finished(self) -> list[LayerStatistics]:
        """Return what was noted, in the order in which the outputs were made."""
        return [LayerStatistics(**record) for record in self._records]


def _inside(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    for part, child in layer.children():
        yield from _inside(child, f"{name}.{part}" if name else part)
    yield name, layer


def _saturation(slope: Callable[[Any], Array], x: Any) -> tuple[float, float]:
    """The shares of saturated elements and of units that are saturated throughout."""
    x = np.asarray(x)
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    if not x.size:
        return math.nan, math.nan
    steepest = _steepest(slope, x)
    # Not below: NaN counts as saturated, for nothing passes there either.
    low = ~(np.abs(slope(x)) >= SATURATED * steepest)
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    return float(low.mean()), float(low.all(axis=axes).mean())


def _steepest(slope: Callable[[Any], Array], x: Array) -> float:
    """The largest slope from -8 to 8, in as many channels as x has: some layers have a slope for each."""
    grid = np.linspace(-8, 8, 401, dtype=x.dtype)
    if x.ndim > 1:
        grid = np.repeat(grid[:, None], x.shape[1], axis=1)
    return float(np.abs(slope(grid)).max())

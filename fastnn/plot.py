"""Pictures of training, with matplotlib, loaded when first used."""

from __future__ import annotations

import copy
import io
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ._statistics import LayerStatistics, Statistics
from .errors import ShapeError, need
from .io.atomic import replacing
from .random import as_generator
from .training.compare import Comparison, curves
from .training.history import History, Series

if TYPE_CHECKING:
    from .augment import Augmentation
    from .checks import Check
    from .search import Result

__all__ = ["augmented", "available", "comparison", "history", "history_figure", "png", "search", "statistics"]

# Blue for training and orange for validation throughout; distinguishable without colour by line style too.
_TRAIN, _VALIDATION = "#1f6fb4", "#e07b1a"
# For several things side by side, by colour and by marker.
_COLOURS = (_TRAIN, _VALIDATION, "#2a9d5c", "#8a4fbf", "#b03030", "#666666")
_MARKERS = "osD^vP"


def available() -> None:
    """Raise `MissingDependencyError` where matplotlib is missing: for those who draw only after long work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise need("matplotlib", "train", "a picture") from None


def _figure(rows: int, columns: int, size: tuple[float, float], *, squeeze: bool = True) -> tuple[Any, Any]:
    """A figure and its axes, without touching the global state or needing a screen."""
    available()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def history(run: History, path: str | Path, *, title: str = "") -> Path:
    """Write the loss and accuracy curves of a training run as a PNG; losses of values have no accuracy.

    What monitors recorded gets a panel for each kind: update ratios, gradient norms, shares of dead units.

    Parameters
    ----------
    run : History
        As `Trainer.fit` returned it, or while it runs.
    path : str or Path
        The file to write.
    title : str

    Returns
    -------
    Path
    """
    return _saved(history_figure(run), path, title)


def history_figure(run: History, *, title: str = "") -> Any:
    """Return the picture of `history` as a matplotlib figure."""
    kinds: dict[str, dict[str, Series]] = {}
    for name, series in run.series.items():
        kind, _, layer = name.partition("/")
        kinds.setdefault(kind, {})[layer] = series
    classified = bool(run.accuracy)
    panels = 1 + classified + len(kinds)
    columns = min(panels, 3 if panels != 4 else 2)
    rows = -(-panels // columns)
    figure, axes = _figure(rows, columns, (5 * columns, 4 * rows))
    flat = list(axes.flat) if panels > 1 else [axes]
    for unused in flat[panels:]:
        unused.set_visible(False)
    left = flat[0]
    epochs = range(1, len(run) + 1)
    style: dict[str, Any] = {"linewidth": 2, "markersize": 4, "marker": "o" if len(run) <= 30 else ""}
    train = {**style, "color": _TRAIN, "label": "training"}
    validation = {**style, "color": _VALIDATION, "linestyle": "--", "label": "validation"}
    steps = run.steps_per_epoch or len(run.step_loss) / max(len(run), 1)
    at = [(i + 1) / steps for i in range(len(run.step_loss))] if steps else []
    left.plot(at, run.step_loss, color=_TRAIN, alpha=0.25, linewidth=1, label="each step")
    left.plot(epochs, run.loss, **train)
    if run.val_loss:
        left.plot(epochs, run.val_loss, **validation)
    # The loss falls by orders of magnitude; on a linear axis the end of training would be a flat line.
    positive = [loss for loss in (*run.step_loss, *run.loss, *run.val_loss) if 0 < loss < math.inf]
    if positive:
        _log_axis(left, "y", positive)
    left.set_ylabel("loss")
    left.legend(frameon=False)
    if classified:
        right = flat[1]
        right.plot(epochs, [100 * a for a in run.accuracy], **train)
        if run.val_accuracy:
            right.plot(epochs, [100 * a for a in run.val_accuracy], **validation)
        right.set_ylim(max(0.0, 100 * min([*run.accuracy, *run.val_accuracy]) - 2), 100.5)
        right.set_ylabel("accuracy, %")
        right.legend(frameon=False)
    for panel, (kind, layers) in zip(flat[1 + classified :], kinds.items(), strict=False):
        _series(panel, kind, layers, steps or 1)
    for panel in flat[:panels]:
        panel.set_xlabel("epoch")
        panel.locator_params(axis="x", integer=True)
        _tidy(panel)
    if title:
        figure.suptitle(title)
    return figure


def _series(axes: Any, kind: str, layers: dict[str, Series], steps: float) -> None:
    """One kind of series, the layers from dark to light in their order."""
    from matplotlib import colormaps

    share = kind in ("dead", "saturated")
    colours = colormaps["viridis"]
    for i, (layer, series) in enumerate(layers.items()):
        at = [step / steps for step in series.steps]
        values = [100 * v if share else v for v in series.values]
        colour = colours(0.9 * i / max(len(layers) - 1, 1)) if layer else "black"
        style: dict[str, Any] = {"color": colour, "label": layer or "all"}
        style |= {"marker": "o" if len(values) <= 30 else "", "markersize": 3}
        axes.plot(at, values, linewidth=2.5 if not layer and len(layers) > 1 else 1.2, **style)
    if share:
        axes.set_ylim(-2, 102)
    elif any(v > 0 for series in layers.values() for v in series.values):
        axes.set_yscale("log")
    if kind == "update ratio":
        axes.axhline(1e-3, color="0.4", linewidth=1, linestyle=":", zorder=0)
    axes.set_ylabel(f"{kind}, %" if share else kind)
    if len(layers) > 8:  # the first and the last say which colour is which end
        handles, labels = axes.get_legend_handles_labels()
        ends = [i for i, layer in enumerate(layers) if layer][:: max(1, sum(map(bool, layers)) - 1)]
        kept = sorted({*ends, *(i for i, layer in enumerate(layers) if not layer)})
        texts = [f"{labels[i]}, the {'first' if i == ends[0] else 'last'}" if i in ends else labels[i] for i in kept]
        axes.legend([handles[i] for i in kept], texts, frameon=False, fontsize=8)
    else:
        axes.legend(frameon=False, fontsize=8)


def png(figure: Any) -> bytes:
    """Return a figure as the bytes of a PNG."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _saved(figure: Any, path: Any, title: str) -> Any:
    if title:
        figure.suptitle(title)
    if hasattr(path, "write"):
        figure.savefig(path, dpi=120)
        return path
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".") or "png"
    if kind not in (known := figure.canvas.get_supported_filetypes()):
        raise ValueError(f"plot: expected a path that ends in .png (or {', '.join(sorted(known))}), got {str(path)!r}")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=kind)
    with replacing(target) as file:
        file.write(picture.getbuffer())
    return target


# ---- checks ----


def check(found: Check, path: str | Path | BinaryIO, *, title: str = "") -> Any:
    """Write the curves of a check as a PNG; several curves share the axes.

    Parameters
    ----------
    found : fastnn.checks.Check
    path : str, Path, or a file opened for writing bytes
    title : str

    Returns
    -------
    Path, or the file

    Raises
    ------
    ValueError
        Where the check has no curves.
    """
    if not found.curves:
        raise ValueError(f"plot.check: the check {found.name!r} has no curves")
    figure, axes = _figure(1, 1, (5, 3.2))
    for i, (label, (x, y)) in enumerate(found.curves.items()):
        marker = "o" if len(x) <= 30 and "rate" not in label else ""
        dashed = ":" if label.startswith("this ") else "-"
        axes.plot(
            x, y, dashed, color=_COLOURS[i % len(_COLOURS)], marker=marker, markersize=4, label=label, linewidth=1.6
        )
    values = [v for _, y in found.curves.values() for v in y if math.isfinite(v)]
    if "range test" in found.curves:
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, smoothed")
        seen = found.curves["range test"][1]
        if seen and max(seen) > 4 * seen[0]:  # where it explodes, what went before would be a flat line
            axes.set_ylim(0, 4 * seen[0])
        suggested = found.numbers.get("suggestion", math.nan)
        if math.isfinite(suggested):
            axes.axvline(suggested, color=_COLOURS[2], linestyle="--", linewidth=1, label=f"suggested: {suggested:.1g}")
    else:
        inside = found.name.endswith(("gradients", "units"))
        axes.set_xlabel("layer, first to last" if inside else "step")
        axes.set_ylabel(_AXES.get(found.name, "loss"))
        axes.locator_params(axis="x", integer=True)
        if found.name.endswith("units"):
            top = max(10.0, 1.1 * max(values, default=0.0))
            axes.set_ylim(-0.03 * top, top)  # what lies at zero is seen whole
        elif values and min(values) > 0 and (inside or max(values) > 20 * min(values)):
            _log_axis(axes, "y", values)
    if found.name == "update_ratio":
        axes.axhline(1e-3, color="#666666", linewidth=1, linestyle="--", label="about right: 1e-3")
    _tidy(axes)
    axes.legend(frameon=False, fontsize=8)
    return _saved(figure, path, title)


_AXES = {
    "update_ratio": "size of update / size of weight",
    "dead_units": "dead units, %",
    "saturated_units": "saturated, %",
    "vanishing_gradients": "norm of the gradient",
    "exploding_gradients": "size",
}


# ---- search ----


def search(result: Result, path: str | Path, *, title: str = "") -> Path:
    """Write the pictures of a search as a PNG: each parameter against the score, and two parameters against each other.

    Parameters
    ----------
    result : fastnn.search.Result
    path : str or Path
        The file to write.
    title : str

    Returns
    -------
    Path
    """
    done = [row for row in result.rows if row.state == "done"]
    lost = [row for row in result.rows if row.state != "done"]
    names = list(dict.fromkeys(name for row in result.rows for name in row.params))
    numeric = [n for n in names if all(isinstance(row.ranges[n], tuple) for row in result.rows if n in row.ranges)]
    logs = {name for row in result.rows for name in row.logs}
    pairs = itertools.combinations(sorted(numeric, key=lambda n: n not in logs), 2)
    # One name may be asked for only where another is not.
    pair = next((p for p in pairs if any(set(p) <= row.params.keys() for row in done)), ())
    count = len(names) + bool(pair)
    columns = min(3, max(count, 1))
    lines = -(-max(count, 1) // columns)
    figure, panels = _figure(lines, columns, (4.3 * columns, 3.6 * lines))
    axes = list(panels.flat) if count > 1 else [panels]
    for unused in axes[count:]:
        unused.set_axis_off()
    stages = list(dict.fromkeys(row.stage for row in result.rows))
    words = {n: sorted({str(row.params[n]) for row in done if n in row.params}) for n in names if n not in numeric}
    whole = {n for n in numeric if all(isinstance(row.params[n], int) for row in result.rows if n in row.params)}
    percent = 100.0 if result.metric == "accuracy" else 1.0
    for name, panel in zip(names, axes, strict=False):
        for i, stage in enumerate(stages):
            rows = [row for row in done if row.stage == stage and name in row.params]
            # Words stand in their order, the stages beside each other.
            aside = 0.15 * (i - (len(stages) - 1) / 2)
            values = [
                row.params[name] if name in numeric else words[name].index(str(row.params[name])) + aside
                for row in rows
            ]
            panel.plot(
                values,
                [percent * row.value for row in rows],
                linestyle="",
                marker=_MARKERS[i % len(_MARKERS)],
                color=_COLOURS[i % len(_COLOURS)],
                alpha=0.8,
                label=stage,
            )
        if name in words:
            panel.set_xticks(range(len(words[name])), words[name])
            panel.set_xlim(-0.5, len(words[name]) - 0.5)
        if name in logs:
            _log_axis(panel, "x", [row.params[name] for row in done if name in row.params])
        elif name in whole:
            panel.xaxis.get_major_locator().set_params(integer=True)
        if done and name in numeric and name in result.best.params:
            panel.axvline(result.best.params[name], color="#666666", linewidth=1, linestyle=":")
        panel.set_xlabel(name)
        panel.set_ylabel("accuracy, %" if result.metric == "accuracy" else "loss")
        _tidy(panel)
    if len(stages) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    if pair:
        panel = axes[len(names)]
        rows = [row for row in done if all(n in row.params for n in pair)]
        points = panel.scatter(
            *([row.params[n] for row in rows] for n in pair), c=[percent * row.value for row in rows], cmap="viridis"
        )
        cut = [row for row in lost if all(n in row.params for n in pair)]
        panel.plot(*([row.params[n] for row in cut] for n in pair), "x", color="#b03030", label="pruned or failed")
        figure.colorbar(points, ax=panel, label="accuracy, %" if result.metric == "accuracy" else "loss")
        for axis, n in zip("xy", pair, strict=True):
            getattr(panel, f"set_{axis}label")(n)
            if n in logs:
                _log_axis(panel, axis, [row.params[n] for row in rows])
            elif n in whole:
                getattr(panel, f"{axis}axis").get_major_locator().set_params(integer=True)
        _tidy(panel)
        if cut:
            panel.legend(frameon=False, fontsize=8)
    return _saved(figure, path, title)


def _log_axis(panel: Any, axis: str, values: list[float]) -> None:
    """A logarithmic axis, labelled at 1, 2 and 5, or 1 and 3, where a decade or two alone would leave it bare."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not any(value > 0 for value in values):
        return  # such an axis has no place for them
    getattr(panel, f"set_{axis}scale")("log")
    line = getattr(panel, f"{axis}axis")
    if max(values) < 100 * min(values):
        # As many as there is room for.
        line.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(values) < 20 * min(values) else (1.0, 3.0)))
        line.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    line.set_minor_formatter(NullFormatter())


# ---- statistics of layers ----


def statistics(report: Statistics, path: str | Path, *, title: str = "", most: int = 12) -> Path:
    """Write mean and standard deviation of outputs and gradients over the layers, and histograms of the outputs.

    The lines go through the activations; other layers are grey dots beside them.

    Parameters
    ----------
    report : Statistics
        As `fastnn.statistics` returned it.
    path : str or Path
        The file to write.
    title : str
    most : int
        Of so many layers there is a histogram, spread over the depth: of activations where there are any, else of all.

    Returns
    -------
    Path
    """
    chosen = report.activations or report.layers
    if not chosen:
        raise ValueError("plot.statistics: the report has no layers")
    shown = [chosen[i] for i in sorted({round(k * (len(chosen) - 1) / max(most - 1, 1)) for k in range(most)})]
    columns = min(len(shown), 6)
    rows = -(-len(shown) // columns)
    available()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6 + 1.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.6, 1.9 * rows))
    top, bottom = parts
    means, stds, gradients = top.subplots(1, 3)
    lined = [i for i, layer in enumerate(report) if layer in chosen]
    outputs = [layer.output for layer in report]
    _over_depth(means, [spread.mean for spread in outputs], lined, _TRAIN)
    means.axhline(0, color="0.6", linewidth=1, zorder=0)
    means.set_title("outputs: mean", fontsize=10)
    _over_depth(stds, [spread.std for spread in outputs], lined, _TRAIN, log=True)
    stds.set_title("outputs: standard deviation", fontsize=10)
    _over_depth(gradients, [g.std if (g := one.gradient) else 0.0 for one in report], lined, _VALIDATION, log=True)
    gradients.set_title("gradients: standard deviation", fontsize=10)
    for axes in (means, stds, gradients):
        kept = lined[:: -(-len(lined) // 14)]  # as many labels as there is room for
        axes.set_xticks(kept, [_kind(report[i]) for i in kept], rotation=60, ha="right", fontsize=8)
        axes.set_xlim(-0.5, len(report) - 0.5)
        _tidy(axes)
    panels = bottom.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, layer in zip(panels.flat, shown, strict=False):
        _histogram(axes, layer)
    return _saved(figure, path, title)


def _kind(layer: LayerStatistics) -> str:
    return f"{layer.name} {layer.label.split()[0]}".strip()


def _over_depth(axes: Any, values: list[float], lined: list[int], color: str, *, log: bool = False) -> None:
    """A line through some of the layers, and the others as grey dots; on a log axis what is zero leaves a gap."""
    points = {i: v for i, v in enumerate(values) if math.isfinite(v) and (v > 0 or not log)}
    if not points:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes, color="0.5")
        return
    others = [i for i in points if i not in lined]
    axes.plot(others, [points[i] for i in others], ".", color="0.65", markersize=5, label="other layers")
    line = [points.get(i, math.nan) for i in lined]
    axes.plot(lined, line, "o-", color=color, markersize=4, linewidth=2, label="activations")
    if others:
        axes.legend(frameon=False, fontsize=7)
    if log:
        axes.set_yscale("log")
        # Two decades at least: what differs by little should look so.
        low, high = min(points.values()), max(points.values())
        axes.set_ylim(min(low / 2, high / 100), max(high * 2, low * 100))


def _histogram(axes: Any, layer: LayerStatistics) -> None:
    spread = layer.output
    low, high = (spread.low, spread.high) if spread.high > spread.low else (spread.low - 0.5, spread.low + 0.5)
    if spread.counts.any():
        width = (high - low) / len(spread.counts)
        lefts = [low + i * width for i in range(len(spread.counts))]
        axes.bar(lefts, spread.counts / spread.counts.sum(), width, align="edge", color=_TRAIN)
    else:
        axes.text(0.5, 0.5, "not finite", ha="center", transform=axes.transAxes, color="0.5")
    found = [(share or 0.0, what) for share, what in ((layer.saturated, "saturated"), (layer.dead, "dead"))]
    shares = [f"{share:.0%} {what}" for share, what in found if share >= 0.005]
    axes.set_title("\n".join([_kind(layer), ", ".join(shares)]), fontsize=8)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right", "left"]].set_visible(False)


# ---- comparisons ----


def comparison(found: Comparison, path: str | Path, *, title: str = "") -> Path:
    """Write the metric of every run over epochs and over seconds, a colour for each contestant, and the target.

    Parameters
    ----------
    found : Comparison
        As `fastnn.compare` returned it.
    path : str or Path
        The file to write.
    title : str

    Returns
    -------
    Path
    """
    figure, panels = _figure(1, 2, (10, 4))
    share = "accuracy" in found.metric
    factor = 100 if share else 1
    for i, one in enumerate(found):
        for k, run in enumerate(one.runs):
            epochs, seconds, values = curves(run, found.metric)
            style: dict[str, Any] = {"color": f"C{i}", "linewidth": 1.5, "alpha": 1 if len(one.runs) == 1 else 0.6}
            style |= {"linestyle": ("-", "--", "-.", ":")[i // 10 % 4], "label": one.name if k == 0 else None}
            for axes, at in zip(panels, (epochs, seconds), strict=True):
                axes.plot(at, [factor * v for v in values], marker="o" if len(values) == 1 else "", **style)
    for axes, what in zip(panels, ("epoch", "seconds"), strict=True):
        axes.axhline(factor * found.target, color="0.4", linewidth=1, linestyle=":")
        axes.set_xlabel(what)
        axes.set_ylabel(found.metric.replace("val_", "validation ") + ", %" * share)
        shown = [v for one in found for run in one.runs for v in curves(run, found.metric)[2] if 0 < v < math.inf]
        if not share and found.target > 0:
            _log_axis(axes, "y", [*shown, found.target])
        _tidy(axes)
    panels[0].locator_params(axis="x", integer=True)
    panels[0].legend(frameon=False)
    return _saved(figure, path, title)


# ---- augmentation ----


def _of_any_classes(augmentation: Any) -> Any:
    """A copy for which every image is a class of its own, whatever number of classes it is for."""
    augmentation = copy.copy(augmentation)
    if getattr(augmentation, "classes", None) is not None:
        augmentation.classes = None
    if hasattr(augmentation, "augmentations"):
        augmentation.augmentations = tuple(map(_of_any_classes, augmentation.augmentations))
    return augmentation


def augmented(
    augmentation: Augmentation,
    x: Any,
    path: str | Path,
    *,
    rng: int | np.random.Generator = 0,
    samples: int = 8,
    title: str = "",
) -> Path:
    """Write a picture of images and, beside each, what an augmentation makes of it.

    Parameters
    ----------
    augmentation : Augmentation
    x : array_like (N, C, H, W)
        A few images, of one channel or three.
    path : str or Path
        The file to write.
    rng : int or numpy.random.Generator
    samples : int
        How many times it is applied.
    title : str

    Returns
    -------
    Path
    """
    images = np.asarray(x)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ShapeError(f"plot.augmented: expected images (N, 1, H, W) or (N, 3, H, W), got {images.shape}")
    generator, n = as_generator(rng), len(images)
    augmentation = _of_any_classes(augmentation)
    columns: list[tuple[Any, Any]] = [(images, None)]
    for _ in range(samples):
        made = augmentation(images, np.eye(n) if augmentation.mixes else None, rng=generator)
        columns.append(made if augmentation.mixes else (made, None))
    figure, panels = _figure(n, samples + 1, (1.2 * (samples + 1), 1.2 * n + 0.4), squeeze=False)
    # One scale for all: what makes an image brighter should look brighter.
    low, high = float(images.min()), float(images.max())
    for column, (made, shares) in enumerate(columns):
        for row, axes in enumerate(panels[:, column]):
            image = np.clip((made[row] - low) / max(high - low, 1e-12), 0, 1).transpose(1, 2, 0)
            axes.imshow(image.squeeze(-1) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            if shares is not None:
                parts = [f"{shares[row, k]:.0%} {k + 1}" for k in np.argsort(-shares[row]) if shares[row, k] > 0.005]
                axes.set_xlabel(", ".join(parts), fontsize=7)
            elif augmentation.mixes:
                axes.set_ylabel(str(row + 1), rotation=0, labelpad=8)
    panels[0, 0].set_title("original", fontsize=9)
    return _saved(figure, path, title)

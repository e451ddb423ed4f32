"""Pictures of training, with matplotlib, loaded when first used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import need
from .training.history import History

__all__ = ["available", "history"]

# Blue for training and orange for validation throughout; distinguishable without colour by line style too.
_TRAIN, _VALIDATION = "#1f6fb4", "#e07b1a"


def available() -> None:
    """Raise `MissingDependencyError` where matplotlib is missing: for those who draw only after long work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise need("matplotlib", "train", "a picture") from None


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its axes, without touching the global state or needing a screen."""
    available()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def history(run: History, path: str | Path, *, title: str = "") -> Path:
    """Write the loss and accuracy curves of a training run as a PNG; losses of values have no accuracy.

    Parameters
    ----------
    run : History
        As `Trainer.fit` returned it.
    path : str or Path
        The file to write.
    title : str

    Returns
    -------
    Path
    """
    classified = bool(run.accuracy)
    figure, panels = _figure(1, 1 + classified, (10 if classified else 5, 4))
    left = panels[0] if classified else panels
    epochs = range(1, len(run) + 1)
    style: dict[str, Any] = {"linewidth": 2, "markersize": 4, "marker": "o" if len(run) <= 30 else ""}
    train = {**style, "color": _TRAIN, "label": "training"}
    validation = {**style, "color": _VALIDATION, "linestyle": "--", "label": "validation"}
    steps = len(run.step_loss) / max(len(run), 1)
    at = [(i + 1) / steps for i in range(len(run.step_loss))] if steps else []
    left.plot(at, run.step_loss, color=_TRAIN, alpha=0.25, linewidth=1, label="each step")
    left.plot(epochs, run.loss, **train)
    if run.val_loss:
        left.plot(epochs, run.val_loss, **validation)
    # The loss falls by orders of magnitude; on a linear axis the end of training would be a flat line.
    left.set_yscale("log")
    if classified:
        right = panels[1]
        right.plot(epochs, [100 * a for a in run.accuracy], **train)
        if run.val_accuracy:
            right.plot(epochs, [100 * a for a in run.val_accuracy], **validation)
        right.set_ylim(max(0.0, 100 * min([*run.accuracy, *run.val_accuracy]) - 2), 100.5)
    for axes, what in zip(figure.axes, ("loss", "accuracy, %"), strict=False):
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    if title:
        figure.suptitle(title)
    target = Path(path)
    figure.savefig(target, dpi=120)
    return target

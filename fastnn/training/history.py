"""What a training run was like, epoch by epoch, and what monitors measured besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

__all__ = ["History", "Series"]


@dataclass
class Series:
    """Numbers that a monitor recorded, each with the step after which it was measured (1 is the run's first)."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class History:
    """One entry per finished epoch in each list.

    Attributes
    ----------
    loss, accuracy : list of float
        Mean over the epoch's batches, of the training forward pass (dropout and all) as the weights change. The loss is
        that of the data alone, as val_loss is.
    regularization : list of float
        What penalties added to it, mean over the epoch's batches; empty without penalties.
    val_loss, val_accuracy : list of float
        On the validation data after each epoch; empty without.
    seconds : list of float
        Wall time of each epoch, validation included, without that of monitors.
    step_loss : list of float
        The loss of every single step, of the data alone.
    series : dict of str to Series
        What monitors recorded, by name: "gradient norm", or "update ratio/0.weight" for one of several.
    steps_per_epoch : int
    stopped : str
        Why training ended before its last epoch; empty when it did not.
    """

    loss: list[float] = field(default_factory=list)
    regularization: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    step_loss: list[float] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)
    steps_per_epoch: int = 0
    stopped: str = ""

    #: the lists with one entry for each epoch
    EPOCHS: ClassVar[tuple[str, ...]] = ("loss", "regularization", "accuracy", "val_loss", "val_accuracy", "seconds")

    def __len__(self) -> int:
        return len(self.loss)

    def record(self, name: str, step: int, value: float) -> None:
        """Add a number to the series of that name, which may not be that of one of the lists.

        Raises
        ------
        ValueError, TypeError
            For a name that is taken, and for what is no number.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"record: a series has a text for a name, got {name!r}")
        if name in (taken := (*self.EPOCHS, "epoch", "step", "rate", "step_loss")):
            raise ValueError(
                f"record: {name!r} is a name of the history's own, as are {', '.join(taken)}; choose another"
            )
        number = np.asarray(value)
        if number.size != 1 or number.dtype.kind not in "biuf":
            raise TypeError(f"record: {name!r} takes a number, got {value!r}")
        series = self.series.setdefault(name, Series())
        series.steps.append(int(step))
        series.values.append(float(number.reshape(())))

    def __str__(self) -> str:
        columns = {
            "epoch": [f"{i + 1}" for i in range(len(self))],
            "loss": [f"{v:.4f}" for v in self.loss],
            "regularization": [f"{v:.4f}" for v in self.regularization],
            "accuracy": [f"{v:.2%}" for v in self.accuracy],
            "val loss": [f"{v:.4f}" for v in self.val_loss],
            "val accuracy": [f"{v:.2%}" for v in self.val_accuracy],
            "seconds": [f"{v:.2f}" for v in self.seconds],
        }
        columns = {name: values for name, values in columns.items() if values}
        widths = {name: max(len(name), *map(len, values)) for name, values in columns.items()}
        rows = [
            list(columns),
            *([values[i] for values in columns.values()] for i in range(len(self))),
        ]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths.values(), strict=True)) for row in rows]
        return "\n".join(lines + ([f"stopped: {self.stopped}"] if self.stopped else []))

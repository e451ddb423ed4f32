"""What a training run was like, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["History"]


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
        Wall time of each epoch, validation included.
    step_loss : list of float
        The loss of every single step, of the data alone.
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
    stopped: str = ""

    def __len__(self) -> int:
        return len(self.loss)

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

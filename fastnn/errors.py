"""The exceptions of fastnn. Raised in functional.py and the layers; containers add where in the network it happened."""

from __future__ import annotations

__all__ = ["FileFormatError", "MissingDependencyError", "ShapeError", "UnsupportedOperatorError", "need"]


class ShapeError(ValueError):
    """An array has a shape that the operation cannot take.

    The message gives the rule, what came and, where there is one, the likely fix. On its way out of a network every
    container adds its part of the layer's name (`located`).
    """

    def __init__(self, message: str, path: tuple[str, ...] = (), label: str = "", hint: str = "") -> None:
        self.message, self.path, self.label, self.hint = message, path, label, hint
        where = f"layer {'.'.join(path)!r} ({label}): " if path else ""
        super().__init__(f"{where}{message}{f'; {hint}' if hint else ''}")

    def __reduce__(self) -> tuple[type[ShapeError], tuple[str, tuple[str, ...], str, str]]:
        return type(self), (self.message, self.path, self.label, self.hint)

    def located(self, name: str, label: str, hint: str = "") -> ShapeError:
        """Return the error as it looks one container further out, where the layer is called ``name``."""
        return ShapeError(self.message, (name, *self.path), self.label or label, self.hint or hint)


class TooLargeError(ShapeError):
    """What an operator of a file would make is larger than it may; a `ShapeError` to everybody else."""


class FileFormatError(ValueError):
    """A file is cut, forged, or not of the format that its name says; the message names the file and the reason."""


class UnsupportedOperatorError(ValueError):
    """A network from elsewhere has operators, types or a version that fastnn does not have; the message names them."""


class MissingDependencyError(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def need(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """Return the error that says which extra to install for ``purpose``."""
    return MissingDependencyError(f"{purpose} needs {package}; install it with: pip install 'fastnn[{extra}]'")

"""The exceptions of fastnn. Raised in functional.py and the layers; containers add where in the network it happened."""

from __future__ import annotations


class ShapeError(ValueError):
    """An array has a shape that the operation cannot take.

    The message gives the rule, what came and, where there is one, the likely fix. Containers put the name of the layer
    in front (`located`) as the error passes through them.
    """

    def located(self, where: str, hint: str = "") -> ShapeError:
        """Return the same error with ``where`` in front of the message and ``hint`` behind it."""
        return ShapeError(f"{where}: {self.args[0]}{f'; {hint}' if hint else ''}")


class MissingDependencyError(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def need(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """Return the error that says which extra to install for ``purpose``."""
    return MissingDependencyError(f"{purpose} needs {package}; install it with: pip install 'fastnn[{extra}]'")

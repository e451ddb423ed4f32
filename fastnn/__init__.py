"""fastnn: neural-network layers for NumPy at the speed of the processor.

The public names are re-exported here; each lives in the module that its heading names. Importing loads NumPy and the
compiled core only; everything else is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _backends, _threadpool, functional
from .errors import FileFormatError, MissingDependencyError, ShapeError, UnsupportedOperatorError
from .threads import num_threads, release_memory, set_num_threads, show_config

__version__ = "0.1.0"

_backends.choose()
_threadpool.install()

#: module attributes that are loaded when first used: name -> (module, attribute or None for the module itself)
_LAZY: dict[str, tuple[str, str | None]] = {
    "layers": ("fastnn.layers", None),
    "init": ("fastnn.init", None),
    "losses": ("fastnn.losses", None),
    "optim": ("fastnn.optim", None),
    "augment": ("fastnn.augment", None),
    "preprocess": ("fastnn.preprocess", None),
    "onnx": ("fastnn.onnx", None),
    "regularization": ("fastnn.regularization", None),
    "schedules": ("fastnn.schedules", None),
    "checks": ("fastnn.checks", None),
    "ensemble": ("fastnn.ensemble", None),
    "search": ("fastnn.search", None),
    "plot": ("fastnn.plot", None),
    "compile": ("fastnn.compiler", "compile"),
    "Trainer": ("fastnn.training", "Trainer"),
    "monitors": ("fastnn.training.monitors", None),
    "compare": ("fastnn.training.compare", "compare"),
    "gradcheck": ("fastnn._gradcheck", "gradcheck"),
    "statistics": ("fastnn._statistics", "statistics"),
    "load_program": ("fastnn.compiler", "load_program"),
    "load_state": ("fastnn.io", "load_state"),
    "save_state": ("fastnn.io", "save_state"),
}

__all__ = [
    "FileFormatError",
    "MissingDependencyError",
    "ShapeError",
    "Trainer",
    "UnsupportedOperatorError",
    "augment",
    "checks",
    "compare",
    "compile",
    "ensemble",
    "functional",
    "gradcheck",
    "init",
    "layers",
    "load_program",
    "load_state",
    "losses",
    "monitors",
    "num_threads",
    "onnx",
    "optim",
    "plot",
    "preprocess",
    "regularization",
    "release_memory",
    "save_state",
    "schedules",
    "search",
    "set_num_threads",
    "show_config",
    "statistics",
]

if TYPE_CHECKING:
    from . import (
        augment,
        checks,
        ensemble,
        init,
        layers,
        losses,
        onnx,
        optim,
        plot,
        preprocess,
        regularization,
        schedules,
        search,
    )
    from ._gradcheck import gradcheck
    from ._statistics import statistics
    from .compiler import compile, load_program
    from .io import load_state, save_state
    from .training import Trainer, monitors
    from .training.compare import compare


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

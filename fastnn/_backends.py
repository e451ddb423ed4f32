"""Which code computes: the compiled kernels, Numba or plain NumPy; chosen at import, forced by ``FASTNN_BACKEND``.

A backend is a set of functions with the names of ``OUTPUTS`` below, called with inputs and options, then output arrays.
``functional.py`` is their only caller and reaches them through ``kernels``. To add an op: its line in ``OUTPUTS``, a
function in ``reference.py`` that returns the outputs, the kernel and its binding, and, where it pays,
one in ``_numba.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import reference

__all__ = ["BACKENDS", "OUTPUTS", "kernels", "use"]

BACKENDS = ("compiled", "numba", "numpy")

#: Element-wise functions with kernels of their own, which other ops can end in; their parameters' usual values.
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "relu": (),
    "hardtanh": (-1.0, 1.0),
    "threshold": (0.0, 0.0),
    "hardsigmoid": (),
    "hardswish": (),
    "leaky_relu": (0.01,),
    "softsign": (),
    "sigmoid": (),
    "tanh": (),
    "elu": (1.0,),
    "selu": (),
    "celu": (1.0,),
    "gelu": (),
    "gelu_tanh": (),
    "silu": (),
    "mish": (),
    "softplus": (1.0, 20.0),
}

#: Every op of a backend and the outputs that it writes, in order. No outputs: it works in place. An output whose name
#: begins with "d" and is a parameter's gradient is added to, not written, when the op is called with accumulate.
OUTPUTS: dict[str, tuple[str, ...]] = {
    **{
        f"{op}_{direction}": (output,)
        for op in ACTIVATIONS
        for direction, output in (("forward", "y"), ("backward", "dx"))
    },
    "prelu_forward": ("y",),
    "prelu_backward": ("dx", "dweight"),
    "maxout_forward": ("y",),
    "maxout_backward": ("dx",),
    "exp_forward": ("y",),
    "sqrt_forward": ("y",),
    "add_forward": ("y",),
    "mul_forward": ("y",),
    "div_forward": ("y",),
    "scale_add": (),
    "fill": (),
    "copy": (),
    "softmax_forward": ("y",),
    "softmax_backward": ("dx",),
    "log_softmax_forward": ("y",),
    "log_softmax_backward": ("dx",),
    "cross_entropy": ("loss", "dscores"),
    "hinge": ("loss", "dscores"),
    "mse": ("loss", "dscores"),
    "l1": ("loss", "dscores"),
    "huber": ("loss", "dscores"),
    "binary_cross_entropy_with_logits": ("loss", "dscores"),
    "dropout_forward": ("y", "mask"),
    "dropout_backward": ("dx",),
    "stochastic_depth_forward": ("y", "mask"),
    "stochastic_depth_backward": ("dx",),
    "random_bits": ("out",),
    "batch_norm_forward": ("y",),
    "batch_norm_train_forward": ("y", "mean", "var"),
    "batch_norm_backward": ("dx", "dweight", "dbias"),
    "group_norm_forward": ("y", "statistics"),
    "group_norm_backward": ("dx", "dweight", "dbias"),
    "max_pool2d_forward": ("y", "argmax"),
    "max_pool2d_backward": ("dx",),
    "avg_pool2d_forward": ("y",),
    "avg_pool2d_backward": ("dx",),
    "adaptive_max_pool2d_forward": ("y", "argmax"),
    "adaptive_max_pool2d_backward": ("dx",),
    "adaptive_avg_pool2d_forward": ("y",),
    "adaptive_avg_pool2d_backward": ("dx",),
    "global_avg_pool2d_forward": ("y",),
    "global_avg_pool2d_backward": ("dx",),
    "conv2d_forward": ("y",),
    "conv2d_backward": ("dx", "dweight", "dbias"),
    "inverted_residual_forward": ("y",),
    "conv_transpose2d_forward": ("y",),
    "im2col_forward": ("y",),
    "col2im_forward": ("x",),
    "resample": ("y",),
    "matmul_forward": ("y",),
    "linear_forward": ("y",),
    "linear_backward": ("dx", "dweight", "dbias"),
    "sgd_step": (),
    "adam_step": (),
    "adagrad_step": (),
    "rmsprop_step": (),
    "penalty": (),
    "square_sum": (),
    "clip_norm": (),
    "clip_value": (),
    "max_norm": (),
}

#: Further algorithms of an op that the compiled backend has; what they compute is specified by the op on the right.
ALGORITHMS = {
    "conv2d_im2col_forward": "conv2d_forward",
    "conv2d_amx_forward": "conv2d_forward",
    "conv2d_winograd_forward": "conv2d_forward",
    "inverted_residual_amx_forward": "inverted_residual_forward",
    "conv2d_im2col_backward": "conv2d_backward",
    "conv2d_amx_backward": "conv2d_backward",
}

#: The functions of the backend in use, by name, with empty, empty_like, layout and fits; filled by `use`.
kernels = SimpleNamespace()

name: str = ""
why: str = ""
#: counts how often backend or instruction set were chosen: what was prepared for another choice does not hold
choice = 0
_core: ModuleType | None = None
_SOURCE = os.path.join(os.path.dirname(__file__), "_core.pyx")  # no installation has this file


def _writing(function: Callable[..., Any], outputs: tuple[str, ...]) -> Callable[..., None]:
    """Turn a function that returns its outputs into one that writes them into its trailing arguments."""
    accumulates = "dweight" in outputs

    def kernel(*args: Any) -> None:
        inputs, targets = args[: len(args) - len(outputs)], args[len(args) - len(outputs) :]
        accumulate = False
        if accumulates:
            *inputs, accumulate = inputs  # type: ignore[assignment]
        with np.errstate(all="ignore"):  # infinities and NaN are results here, as in the compiled kernels
            results = function(*inputs)
        for output, target, result in zip(outputs, targets, results if len(outputs) > 1 else (results,), strict=True):
            if target is None:
                continue
            if accumulate and output != "dx":
                target += result
            else:
                target[...] = result

    return kernel


def _in_place(function: Callable[..., None]) -> Callable[..., None]:
    def kernel(*args: Any) -> None:
        with np.errstate(all="ignore"):
            function(*args)

    return kernel


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], channels_last: bool = False) -> np.ndarray:
    if channels_last:
        n, c, h, w = shape
        return np.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)
    return np.empty(shape, dtype)


def _layout(x: Any) -> int:
    """The twin of _core.layout."""
    if type(x) is not np.ndarray or x.dtype not in (np.float32, np.float64):
        return -1
    if not (x.flags.aligned and x.dtype.isnative):
        return -1
    if x.flags.c_contiguous:
        return 0
    if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return 1
    return 2 if x.flags.f_contiguous else 3


def _fits(x: Any, out: Any) -> bool:
    """The twin of _core.fits."""
    same = 0 <= _layout(x) < 2 and _layout(x) == _layout(out) and x.shape == out.shape and x.dtype == out.dtype
    if not same or not out.flags.writeable:
        return False
    first, second = (a.__array_interface__["data"][0] for a in (x, out))
    return bool(first == second or abs(first - second) >= x.nbytes)


def _python_kernels(module: ModuleType | None) -> dict[str, Any]:
    """The functions of Numba's module where it has them, else the reference."""
    functions: dict[str, Any] = {"empty": _empty, "empty_like": np.empty_like, "layout": _layout, "fits": _fits}
    for op, outputs in OUTPUTS.items():
        if module is not None and hasattr(module, op):
            functions[op] = getattr(module, op)
        else:
            function = getattr(reference, op)
            functions[op] = _writing(function, outputs) if outputs else _in_place(function)
    return functions


def missing_reason(backend: str) -> str | None:
    """Why this backend cannot run here, or None."""
    if backend == "compiled" and importlib.util.find_spec("fastnn._core") is None:
        return "fastnn was installed without a C++ compiler, so it has no compiled kernels"
    if backend == "numba" and importlib.util.find_spec("numba") is None:
        return "numba is not installed (pip install 'fastnn[numba]')"
    return None


def _up_to_date(core: ModuleType) -> ModuleType:
    """The extension, unless it was built from other sources than those that lie beside these files.

    Functions of the one called by the other compute anything: their arguments have another order or meaning.
    """
    if os.path.exists(_SOURCE):
        from ._sources import stamp

        expected = stamp()
        if expected is not None and expected != getattr(core, "SOURCES", None):
            raise ImportError(
                f"the compiled kernels are out of date: {core.__file__} was built from another _core.pyx or "
                f"kernels.hpp than those of {os.path.dirname(_SOURCE)}. Build them again, by: pip install "
                "--no-build-isolation -e . (CONTRIBUTING.md), or set FASTNN_BACKEND=numpy to do without"
            )
    return core


def use(backend: str, reason: str = "chosen by the caller") -> None:
    """Compute with ``backend`` ("compiled", "numba" or "numpy") from now on; raise where it cannot run."""
    global name, why, choice, _core
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    missing = missing_reason(backend)
    if missing:
        raise RuntimeError(f"backend {backend!r} cannot run: {missing}")
    if backend == "compiled":
        core = _up_to_date(importlib.import_module("fastnn._core"))
        functions = {op: getattr(core, op) for op in (*OUTPUTS, *ALGORITHMS, "empty", "empty_like", "layout", "fits")}
    else:
        module = importlib.import_module("fastnn._numba") if backend == "numba" else None
        functions = _python_kernels(module)
    kernels.__dict__.clear()
    kernels.__dict__.update(functions)
    name, why, choice = backend, reason, choice + 1
    _core = core if backend == "compiled" else None


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Compute with ``backend`` inside the block (for tests and comparisons; not for several threads at once)."""
    before = name, why
    use(backend)
    try:
        yield
    finally:
        use(*before)


def core() -> ModuleType | None:
    """The compiled module if it is the backend in use, else None."""
    return _core


# ---- the first choice ----


def choose() -> None:
    """Choose backend, instruction set and thread count from the environment; called once, at import."""
    forced = os.environ.get("FASTNN_BACKEND")
    if forced:
        use(forced, "FASTNN_BACKEND")
    elif missing_reason("compiled") is None:
        use("compiled", "the compiled kernels are installed")
    else:
        fallback = "numba" if missing_reason("numba") is None else "numpy"
        use(fallback, f"{missing_reason('compiled')}")
        help = "Install a C++ compiler and reinstall fastnn"
        if os.path.exists(_SOURCE):
            folder = os.path.dirname(_SOURCE)
            help = f"These are the sources, in {folder}: where fastnn is installed, run Python in another folder"
        warnings.warn(
            f"{why}; computing with {fallback}, which is slower. {help}, or set FASTNN_BACKEND to choose in silence.",
            RuntimeWarning,
            stacklevel=3,
        )
    module = core()
    if module is not None and module.default_threads()[0] == 0:
        raise ValueError(module.default_threads()[1])
    isa = os.environ.get("FASTNN_ISA")
    if name == "compiled":
        set_isa(isa, "FASTNN_ISA") if isa else set_isa(_best_isa(), "the best that this processor runs")
    elif isa:
        raise RuntimeError(f"FASTNN_ISA={isa} asks for compiled kernels, but the backend is {name!r} ({why})")


isa_why = ""


def _best_isa() -> str:
    module = core()
    assert module is not None
    return [isa for isa, lacks in module.isas().items() if lacks is None][-1]


def set_isa(isa: str, reason: str = "chosen by the caller") -> None:
    """Use the kernels compiled for ``isa``; raise when it is unknown or cannot run here."""
    global isa_why, choice
    module = core()
    if module is None:
        raise RuntimeError(f"instruction sets belong to the compiled backend; the backend is {name!r}")
    isas = module.isas()
    if isa not in isas:
        raise ValueError(f"unknown instruction set {isa!r} ({reason}); fastnn was compiled for {', '.join(isas)}")
    if isas[isa] is not None:
        raise RuntimeError(f"instruction set {isa!r} ({reason}) cannot run here: {isas[isa]}")
    module.set_isa(isa)
    isa_why, choice = reason, choice + 1

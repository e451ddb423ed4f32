"""Files of weights: a flat dict name -> array in, the same out; one module per format.

Files are not trusted: loading runs no code from a file, bounds every size by what the file holds before allocating,
and refuses what is cut, forged or foreign with `FileFormatError`. To add a format: a module with ``read(file, size)``,
which raises ValueError with the reason, and ``write(file, arrays)`` if it is one to save in, and a line below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FileFormatError
from . import npz, pytorch, safetensors
from .atomic import replacing
from .dtypes import DTYPES

__all__ = ["load_state", "save_state"]

_SAVED: dict[str, ModuleType] = {".npz": npz, ".safetensors": safetensors}
#: .tar as in "checkpoint.pth.tar", which is no tar archive
_LOADED = {**_SAVED, **dict.fromkeys((".pt", ".pth", ".th", ".ckpt", ".bin", ".tar"), pytorch)}

#: What a name may be long in the formats: a zip archive counts its bytes in 16 bits.
_MAX_NAME = 65_000


def _format(caller: str, path: str | os.PathLike[str], formats: dict[str, ModuleType]) -> ModuleType:
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    if suffix not in formats:
        *others, last = formats
        expected = f"{', '.join(others)} or {last}"
        raise ValueError(f"{caller}: expected a path that ends in {expected}, got {os.fspath(path)!r}")
    return formats[suffix]


def _arrays(state: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The arrays of a state, checked and in native byte order."""
    if not isinstance(state, Mapping):
        raise TypeError(f"save_state: expected a dict of arrays by name, got {type(state).__name__}")
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"save_state: names must be strings, got {name!r}")
        try:
            encoded = name.encode()
        except UnicodeEncodeError:
            encoded = b""
        if not 0 < len(encoded) <= _MAX_NAME or b"\0" in encoded or name == "__metadata__":
            raise ValueError(f"save_state: {name[:80]!r} cannot be the name of an array in a file")
        array = np.asarray(value)
        if array.dtype.newbyteorder("=") not in DTYPES:
            raise TypeError(
                f"save_state: {name!r} has dtype {array.dtype}; a state holds numbers and booleans of at most 64 bits"
            )
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


def save_state(path: str | os.PathLike[str], state: Mapping[str, ArrayLike]) -> None:
    """Save arrays by name, as ``.npz`` or ``.safetensors``, whichever the path ends in.

    The file appears whole or not at all: it is written beside, synced to the disk and renamed, so that an existing file
    survives a save that fails. Equal states give equal files.

    Parameters
    ----------
    path : path
        Ends in .npz (NumPy reads it) or .safetensors (needs the extra "safetensors").
    state : dict of array_like
        Floating-point numbers, integers or booleans by name, such as ``model.state()``.

    Raises
    ------
    TypeError
        For an array of another dtype, complex numbers and objects among them.
    MissingDependencyError
        For .safetensors where the package is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")
    >>> save_state(path, {"0.weight": np.eye(2, dtype=np.float32)})
    >>> load_state(path)
    {'0.weight': array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    module = _format("save_state", path, _SAVED)
    arrays = _arrays(state)
    module.available()
    with replacing(path) as file:
        module.write(file, arrays)


def load_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Load arrays by name from ``.npz``, ``.safetensors`` or a checkpoint of PyTorch's; nothing in the file is run.

    Of a checkpoint, which needs no PyTorch, the tensors come by name: those in the first of the entries
    ``state_dict``, ``model_state_dict``, ``model_state``, ``model``, ``net``, ``network``, ``module``, ``weights`` and
    ``params`` that holds any; where there is no such entry, all there are, with the names of nested dicts joined by
    dots, and without optimizers, schedulers and scalers. Parts of names that come of wrappers go: ``module.`` where all
    begin with it (DataParallel), ``_orig_mod`` and its like anywhere (torch.compile). What is no tensor is left out:
    epochs, scores, settings.

    Parameters
    ----------
    path : path
        Ends in .npz, .safetensors, or, for either form of PyTorch's checkpoints (the zip archive since 1.6, and the
        stream before it), in .pt, .pth, .th, .ckpt, .bin or .tar.

    Returns
    -------
    dict of ndarray
        In the order of the file and in native byte order; bfloat16 becomes float32. Each array is the caller's own,
        also where tensors share their numbers in the file.

    Raises
    ------
    FileFormatError
        For a file that is cut, forged, or of another format; for a checkpoint that holds more than tensors and plain
        values, such as a whole model, naming what it wants to call; and for a file that would unfold to more than a
        hundred times its size.
    MissingDependencyError
        For .safetensors where the package is not installed.

    Examples
    --------
    A checkpoint into a model whose layers have the same names; what does not fit is named:

    >>> import os, tempfile
    >>> from fastnn.layers import Linear, Sequential
    >>> path = os.path.join(tempfile.mkdtemp(), "net.npz")  # or "net.pth", from torch.save(model.state_dict(), ...)
    >>> save_state(path, {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)})
    >>> model = Sequential({"fc": Linear(3, 2)})
    >>> model.load_state(load_state(path))
    >>> model(np.ones((1, 3), np.float32))
    array([[3., 3.]], dtype=float32)
    """
    module = _format("load_state", path, _LOADED)
    module.available()
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a device never end
        raise FileFormatError(f"{os.fspath(path)}: not a regular file")
    with open(path, "rb") as file:
        try:
            result: dict[str, np.ndarray] = module.read(file, os.fstat(file.fileno()).st_size)
            if "" in result:
                raise ValueError("an array in it has no name")
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error
    return result

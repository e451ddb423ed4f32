"""ONNX files: `load` reads one into a `fastnn.layers.Graph`, which runs, compiles and trains as any other.

Nothing but NumPy is needed. wire.py reads the format, model.py what a file says, importer.py makes layers of it
(builders.py: which operators become fastnn's own), and elementwise.py, shaping.py, reducing.py and windows.py hold the
operators that compute in NumPy (moves.py: the layers that programs run instead). backend.py, which needs the package
"onnx", is that package's interface for test suites.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, UnsupportedOperatorError
from ..layers.base import Layer
from .importer import Importer, operators
from .model import parse

if TYPE_CHECKING:
    from ..layers.graph import Graph
    from . import backend

__all__ = ["backend", "load", "operators"]


def load(source: str | os.PathLike[str] | bytes, *, trained: Iterable[str] = ()) -> Graph:
    """Load a trained network from an ONNX file, of opset 6 to 28.

    Convolutions, linear layers, norms, pools and activations become fastnn's own layers, whose weights are the
    ``params`` of the graph, by the names that they have in the file where those say so: "conv1.weight". So the network
    predicts, compiles (`fastnn.compile`) and trains (`fastnn.Trainer`) as any other. Operators without a kernel compute
    in NumPy: `fastnn.compile` warns of those that it cannot make part of a program. What follows from shapes, such as
    the target of a Reshape, is computed when arrays come, so that batches of any size do; a network that was exported
    for one size of batch takes others too, as far as its operators do.

    Batch normalisation is that of the file at inference, and by the batch in ``forward``, whether the file was
    exported for training or not; set ``frozen`` of its layers to keep it. float16 is computed as float32.

    What is trained are the weights of convolutions, matrix products, norms and PRelu, and the biases added to products.
    Other arrays of the file are constants, among the ``buffers`` of the graph.

    Parameters
    ----------
    source : path or bytes
        The file, or what is in it. Data that the file keeps in others beside it must lie in its folder.
    trained : names, optional
        Arrays of the file that are trained too: tokens, tables of embeddings, scales of layers.

    Returns
    -------
    Graph
        With the inputs and outputs of the file, by their names and in their order.

    Raises
    ------
    FileFormatError
        For a file that is cut, forged or no ONNX file, whose nodes do not fit together, or that would unfold to much
        more than its size.
    UnsupportedOperatorError
        Naming the operators that fastnn does not have, with opset and node; `operators` are those that it has.

    Examples
    --------
    ``net = fnn.onnx.load("resnet18.onnx")``, then ``net(x)``, or ``fnn.compile(net, (1, 3, 224, 224))(x)``.

    >>> import fastnn as fnn
    >>> fnn.onnx.load(b"no network")
    Traceback (most recent call last):
        ...
    fastnn.errors.FileFormatError: not a readable ONNX file: field 13 has the wire type 6, which is not in use
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _load(bytes(source), None, "", trained)
    path = os.fspath(source)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, a device never end
        raise FileFormatError(f"{path}: not a regular file")
    with open(path, "rb") as file:
        data = file.read()
    return _load(data, os.path.dirname(path) or ".", f"{path}: ", trained)


def _load(data: bytes, folder: str | None, where: str, trained: Iterable[str]) -> Graph:
    try:
        model = parse(data, folder)
    except ValueError as error:
        raise FileFormatError(f"{where}not a readable ONNX file: {error}") from error
    importer = Importer(model, trained)
    try:
        return importer.graph()
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(f"{where}{error}") from None
    except ValueError as error:
        raise FileFormatError(f"{where}{error}") from error


def parts() -> dict[str, type]:
    """Return what files of programs may name beside fastnn's own layers, by name: layers, operators, operands."""
    from . import builders, importer, moves, operation
    from .importer import _TABLE

    layers = {
        name: cls
        for module in (builders, importer, moves, operation)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Layer) and cls.__module__ == module.__name__
    }
    operators = {f"operator.{name}": cls for name, cls in _TABLE.items()}
    others = {cls.__name__: cls for cls in (operation.Data, operation.Derived, operation.Rule)}
    return {**layers, **operators, **others}


def __getattr__(name: str) -> Any:
    if name != "backend":
        raise AttributeError(f"module 'fastnn.onnx' has no attribute {name!r}")
    return importlib.import_module("fastnn.onnx.backend")

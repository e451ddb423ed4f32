"""Other engines beside fastnn, for ``fastnn bench`` and the benchmarks: each in the form in which it is fastest.

Weights folded and packed and threads started before the clock does, float32 throughout, and as many threads as fastnn
computes with when the contestant is made. Results are arrays, or something that `numpy.asarray` takes; of a network of
several outputs a list of them. An engine that is not installed takes no part.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..threads import get_num_threads, set_num_threads

__all__ = ["Call", "installed", "onnx_layer", "onnx_network", "onnxruntime", "openvino", "share_threads", "torch"]

Call = Callable[[], Any]


def installed(name: str) -> bool:
    """Whether a package is there; it is not imported."""
    return importlib.util.find_spec(name) is not None


def share_threads(n: int) -> None:
    """Let everybody compute with n threads; contestants that are made before must be made anew."""
    set_num_threads(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
    if installed("threadpoolctl"):
        importlib.import_module("threadpoolctl").threadpool_limits(n)


def torch(module: Any, *xs: np.ndarray) -> dict[str, Call]:
    """A module of torch for inference, in both memory formats, as it is and frozen."""
    package = importlib.import_module("torch")
    package.set_num_threads(get_num_threads())
    calls: dict[str, Call] = {}
    for name, memory in (("torch", package.contiguous_format), ("torch, channels-last", package.channels_last)):
        if memory is package.channels_last and not any(x.ndim == 4 for x in xs):
            continue
        given = [package.from_numpy(x) for x in xs]
        given = [x.contiguous(memory_format=memory) if x.ndim == 4 else x for x in given]
        own = copy.deepcopy(module).eval().to(memory_format=memory)
        with package.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tracing is deprecated; nothing else freezes and fuses as well
            frozen = package.jit.optimize_for_inference(package.jit.freeze(package.jit.trace(own, tuple(given))))
        calls[name] = _inferring(package, own, given)
        calls[f"{name}, frozen"] = _inferring(package, frozen, given)
    return calls


def onnx_network(module: Any, *xs: np.ndarray) -> bytes:
    """A module of torch as an ONNX model for arrays of these shapes; needs the package onnx."""
    package = importlib.import_module("torch")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one; it needs no further package
        package.onnx.export(module.eval(), tuple(map(package.from_numpy, xs)), file, dynamo=False)
    return file.getvalue()


def _inferring(package: Any, net: Any, xs: list[Any]) -> Call:
    def run() -> Any:
        with package.inference_mode():
            return net(*xs)

    return run


def _one_or_all(outputs: Sequence[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else list(outputs)


def onnxruntime(model: Path | bytes, xs: Sequence[np.ndarray]) -> dict[str, Call]:
    """An ONNX model, from a file or as it would be in one."""
    package = importlib.import_module("onnxruntime")
    options = package.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    session = package.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    feed = {port.name: x for port, x in zip(session.get_inputs(), xs, strict=True)}
    return {"onnxruntime": lambda: _one_or_all(session.run(None, feed))}


def openvino(model: Path | bytes, xs: Sequence[np.ndarray], precision: str = "f32") -> dict[str, Call]:
    """An ONNX model in OpenVINO, on arrays that are shared with it; precision: that of its products, f32 or bf16."""
    package = importlib.import_module("openvino")
    core = package.Core()
    network = core.read_model(model if isinstance(model, bytes) else str(model))
    network.reshape({port: list(x.shape) for port, x in zip(network.inputs, xs, strict=True)})
    settings = {
        "INFERENCE_PRECISION_HINT": precision,  # else it computes in bfloat16 where the processor can
        "INFERENCE_NUM_THREADS": get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    for i, x in enumerate(xs):
        request.set_input_tensor(i, package.Tensor(np.ascontiguousarray(x), shared_memory=True))
    count = len(network.outputs)

    def run() -> Any:
        request.infer()
        return _one_or_all([request.get_output_tensor(i).data for i in range(count)])

    return {"openvino": run}


def onnx_layer(x: np.ndarray, op: str, arrays: dict[str, np.ndarray], relu: bool, **attributes: Any) -> bytes | None:
    """One operator, then ReLU, as an ONNX model; None where the package that writes it is not installed."""
    if not installed("onnx"):
        return None
    onnx = importlib.import_module("onnx")
    nodes = [onnx.helper.make_node(op, ["x", *arrays], ["c" if relu else "y"], **attributes)]
    nodes += [onnx.helper.make_node("Relu", ["c"], ["y"])] if relu else []
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    output = info("y", kind, [None] * (4 if op == "Conv" else 2))
    graph = onnx.helper.make_graph(nodes, "layer", [info("x", kind, x.shape)], [output], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data

"""The onnx package's own interface for what runs its models, `onnx.backend.base.Backend`: its test suite runs by it.

    import fastnn.onnx.backend as backend
    y, = backend.run_model(onnx.load("net.onnx"), [x])

For work use `fastnn.onnx.load`, which needs no other package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import need
from ..layers.base import Array
from ..layers.graph import Graph
from . import load

try:
    import onnx
    from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict
except ImportError:
    raise need("onnx", "onnx", "fastnn.onnx.backend") from None

__all__ = [
    "FastnnBackend",
    "FastnnBackendRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]


class FastnnBackendRep(BackendRep):
    """A model, ready to run."""

    def __init__(self, graph: Graph, names: Sequence[str], dtypes: Sequence[np.dtype[Any] | None]) -> None:
        self.graph = graph
        self._names = list(names)
        self._dtypes = list(dtypes)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the outputs for inputs in order, or by name; an array alone is the first input."""
        if isinstance(inputs, Mapping):
            inputs = [inputs[name] for name in self.graph.inputs]
        elif isinstance(inputs, np.ndarray):
            inputs = [inputs]
        y = self.graph(*inputs)
        ys = y if isinstance(y, tuple) else (y,)
        # The graph computes float16 as float32.
        given = [a if d is None else np.asarray(a).astype(d, copy=False) for a, d in zip(ys, self._dtypes, strict=True)]
        return namedtupledict("Outputs", self._names)(*given)


class FastnnBackend(Backend):
    """fastnn on the CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Return whether the model's operators and types are among those that fastnn has."""
        try:
            load(model.SerializeToString())
        except ValueError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> FastnnBackendRep:
        """Return the model, ready to run."""
        if not cls.supports_device(device):
            raise ValueError(f"prepare: fastnn runs on the CPU, not on {device!r}")
        super().prepare(model, device, **kwargs)
        types = [output.type.tensor_type.elem_type for output in model.graph.output]
        dtypes = [onnx.helper.tensor_dtype_to_np_dtype(t) if t else None for t in types]
        names = [output.name for output in model.graph.output]
        return FastnnBackendRep(load(model.SerializeToString()), names, dtypes)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return what one node gives for these arrays; ``opset_version`` says of which opset it is."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        arrays: list[Array] = [np.asarray(x) for x in inputs]
        info = onnx.helper.make_tensor_value_info
        kind = onnx.helper.np_dtype_to_tensor_dtype
        given = [info(n, kind(x.dtype), x.shape) for n, x in zip(filter(None, node.input), arrays, strict=True)]
        gives = [
            onnx.helper.make_empty_tensor_value_info(name) if outputs_info is None
            else info(name, kind(np.dtype(outputs_info[i][0])), outputs_info[i][1])
            for i, name in enumerate(node.output)
        ]  # fmt: skip
        version = kwargs.get("opset_version") or onnx.defs.onnx_opset_version()
        opsets = [onnx.helper.make_opsetid(node.domain, version)]
        graph = onnx.helper.make_graph([node], "node", given, gives)
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        names = list(node.output)
        dtypes = [None] * len(names) if outputs_info is None else [np.dtype(d) for d, _ in outputs_info]
        return FastnnBackendRep(load(model.SerializeToString()), names, dtypes).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether a device is the CPU."""
        return Device(device).type == DeviceType.CPU


is_compatible = FastnnBackend.is_compatible
prepare = FastnnBackend.prepare
run_model = FastnnBackend.run_model
run_node = FastnnBackend.run_node
supports_device = FastnnBackend.supports_device

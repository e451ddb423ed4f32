"""A compiled network as a module of torch, with the same weights, so that torch is timed on files that it cannot read.

Of the layers that programs have, those that convolutional networks are made of; any other raises. To add one: a line in
`_FUNCTIONS`, or a case in `_function`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import layers as L
from ..layers.activation import _Activation
from ..layers.norm import _BatchNorm

if TYPE_CHECKING:
    from ..compiler.graph import Graph, Node

__all__ = ["torch_twin"]


def torch_twin(graph: Graph) -> Any:
    """Return the module; raise NotImplementedError for a layer that has no twin here."""
    import torch

    places = {value: i for i, value in enumerate(graph.inputs)}
    for node in graph.nodes:
        for value in node.outputs:
            places[value] = len(places)
    outputs = [places[value] for value in graph.outputs]

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = []
            for i, node in enumerate(graph.nodes):
                names = {a: None if array is None else f"{a}{i}" for a, array in node.arrays.items()}
                for attribute, array in node.arrays.items():
                    if array is not None:
                        self.register_buffer(f"{attribute}{i}", torch.from_numpy(np.array(array)))
                reads = [places[value] for value in node.inputs]
                residual = None if node.residual is None else places[node.residual]
                self.steps.append((_function(torch, node), names, reads, residual, _activation(torch, node)))

        def forward(self, *xs: Any) -> Any:
            values = list(xs)
            for function, names, reads, residual, activation in self.steps:
                arrays = {a: None if name is None else getattr(self, name) for a, name in names.items()}
                y = function(*(values[i] for i in reads), **arrays)
                y = activation(y if residual is None else y + values[residual])
                values.extend(y if isinstance(y, (tuple, list)) else (y,))
            ys = [values[i] for i in outputs]
            return ys[0] if len(ys) == 1 else tuple(ys)

    return Twin()


def _activation(torch: Any, node: Node) -> Callable[[Any], Any]:
    if node.activation is None:
        return lambda y: y
    name, *parameters = node.activation if isinstance(node.activation, tuple) else (node.activation,)
    if name == "gelu_tanh":
        return lambda y: torch.nn.functional.gelu(y, approximate="tanh")
    function = getattr(torch.nn.functional, name)
    return lambda y: function(y, *parameters)


#: layers that hold no arrays: class -> (torch, layer) -> function of the inputs
_FUNCTIONS: dict[type, Callable[[Any, Any], Callable[..., Any]]] = {
    L.Add: lambda t, layer: t.add,
    L.Mul: lambda t, layer: t.mul,
    L.Join: lambda t, layer: lambda *xs: t.cat(xs, layer.axis),
    L.Split: lambda t, layer: lambda x: t.split(x, layer.sizes, layer.axis),
    L.Flatten: lambda t, layer: lambda x: x.flatten(1),
    L.Reshape: lambda t, layer: lambda x: x.reshape(x.shape[0], *layer.shape),
    L.Softmax: lambda t, layer: lambda x: t.softmax(x, layer.axis),
    L.LogSoftmax: lambda t, layer: lambda x: t.log_softmax(x, layer.axis),
    L.GlobalAvgPool2d: lambda t, layer: lambda x: x.mean((2, 3), keepdim=True),
    L.GlobalMaxPool2d: lambda t, layer: lambda x: x.amax((2, 3), keepdim=True),
    L.AdaptiveAvgPool2d: lambda t, layer: lambda x: t.nn.functional.adaptive_avg_pool2d(x, layer.output_size),
    L.AdaptiveMaxPool2d: lambda t, layer: lambda x: t.nn.functional.adaptive_max_pool2d(x, layer.output_size),
    L.MaxPool2d: lambda t, layer: (
        lambda x: t.nn.functional.max_pool2d(
            x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        )
    ),
    L.AvgPool2d: lambda t, layer: lambda x: t.nn.functional.avg_pool2d(x, *layer._options()),
    L.ZeroPad2d: lambda t, layer: lambda x: t.nn.functional.pad(x, layer.padding),
}


def _function(torch: Any, node: Node) -> Callable[..., Any]:
    """What a step computes before its residual sum and activation, from its inputs and its arrays by name."""
    f, layer = torch.nn.functional, node.layer
    match layer:
        case L.Conv1d() | L.Conv2d():
            conv = f.conv1d if isinstance(layer, L.Conv1d) else f.conv2d
            options = layer.stride, layer.padding, layer.dilation, layer.groups
            return lambda x, weight, bias: conv(x, weight, bias, *options)
        case L.ConvTranspose2d():
            return lambda x, weight, bias: f.conv_transpose2d(x, weight, bias, *layer._options())
        case L.Linear():
            return lambda x, weight, bias: f.linear(x, weight, bias)
        case _BatchNorm():
            return lambda x, weight, bias, running_mean, running_var: f.batch_norm(
                x, running_mean, running_var, weight, bias, eps=layer.eps
            )
        case L.PReLU():
            return lambda x, weight: f.prelu(x, weight)
        case L.Constant():
            return lambda value: value
        case _Activation() if not isinstance(layer, L.GELU):
            function = getattr(f, type(layer).function.__name__)
            return lambda x: function(x, *layer.arguments())
        case L.GELU():
            return lambda x: f.gelu(x, approximate=layer.approximate)
    for cls in type(layer).__mro__:
        if cls in _FUNCTIONS:
            return _FUNCTIONS[cls](torch, layer)
    raise NotImplementedError(f"layer {node.name!r} ({layer.label()}) has no twin in torch here")

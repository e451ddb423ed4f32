"""What is measured, in one table: for each workload its arrays, who computes it and how, and what the work is.

`pytest bench` and `compare.py` both read WORKLOADS. To add one: a function that makes the arrays and returns the
contestants, and a line in WORKLOADS. Every contestant gets its arrays in the form that it likes best before the clock
starts (weights packed, batch norm folded, channels-last), and its result is checked before it is timed.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
import fastnn.functional as F
from fastnn import _backends, threads
from fastnn import layers as L
from fastnn.cli import peers

Call = Callable[[], Any]
MIB = 2**20
#: elements of the large element-wise arrays: 25.7 MB of float32, the activations of ResNet-18's first block at batch 32
LARGE = (32, 64, 56, 56)


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    make(shape...) -> {contestant: call}; every call returns the result as something that np.asarray takes.
    """

    name: str
    op: str
    make: Callable[[], dict[str, Call]]
    flops: float = 0.0
    bytes: float = 0.0
    tolerance: float = 1e-5  # of the largest result: float32 sums in another order
    kernels: tuple[str, ...] = ()  # those of the list of kernels that it measures; each has a row


def _torch() -> Any:
    return importlib.import_module("torch") if importlib.util.find_spec("torch") else None


def on(backend: str, call: Call) -> Call:
    """The call on another backend."""

    def run() -> Any:
        with _backends.using(backend):
            return call()

    return run


def everywhere(call: Call) -> dict[str, Call]:
    """The same call on each backend that is here; the compiled one first, as it is, without a detour."""
    calls = {"compiled": call}
    for backend in ("numba", "numpy"):
        if _backends.missing_reason(backend) is None:
            calls[backend] = on(backend, call)
    return calls


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _channels_last(x: np.ndarray) -> np.ndarray:
    """The same images with their channels last in memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# ---- element-wise ----

_TORCH_ACTIVATIONS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "relu": lambda t: t.relu,
    "leaky_relu": lambda t: t.nn.functional.leaky_relu,
    "sigmoid": lambda t: t.sigmoid,
    "tanh": lambda t: t.tanh,
    "elu": lambda t: t.nn.functional.elu,
    "gelu": lambda t: t.nn.functional.gelu,
    "relu6": lambda t: t.nn.functional.relu6,
    "hardtanh": lambda t: t.nn.functional.hardtanh,
    "hardsigmoid": lambda t: t.nn.functional.hardsigmoid,
    "hardswish": lambda t: t.nn.functional.hardswish,
    "softsign": lambda t: t.nn.functional.softsign,
    "selu": lambda t: t.nn.functional.selu,
    "celu": lambda t: t.nn.functional.celu,
    "silu": lambda t: t.nn.functional.silu,
    "mish": lambda t: t.nn.functional.mish,
    "softplus": lambda t: t.nn.functional.softplus,
    "threshold": lambda t: lambda x: t.nn.functional.threshold(x, 0.5, 0.0),
    "prelu": lambda t: lambda x: t.nn.functional.prelu(x, t.full((x.shape[1],), 0.25)),
    "maxout": lambda t: lambda x: t.maximum(*x.chunk(2, 1)),
}
#: what a function takes after x
_MORE: dict[str, tuple[Any, ...]] = {
    "threshold": (0.5, 0.0),
    "prelu": (np.full(64, 0.25, np.float32),),
}


def activation(name: str, shape: tuple[int, ...], in_place_output: bool) -> dict[str, Call]:
    x = _normal(*shape)
    function = partial(getattr(F, name), x, *_MORE.get(name, ()))
    if in_place_output:
        function = partial(function, out=np.empty_like(x))
    calls = everywhere(function)
    if torch := _torch():
        peer, xt = _TORCH_ACTIVATIONS[name](torch), torch.from_numpy(x)
        calls["torch"] = lambda: peer(xt)
    return calls


def dropout() -> dict[str, Call]:
    x = _normal(*LARGE)
    rng = np.random.default_rng(0)

    def numpy_best() -> np.ndarray:
        mask = rng.random(x.shape, np.float32) >= 0.5
        return np.multiply(x, mask, dtype=np.float32) * np.float32(2)

    calls = everywhere(lambda: F.dropout(x, 0.5, rng=1)[0])
    calls["numpy, its own generator"] = numpy_best
    if torch := _torch():
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: torch.nn.functional.dropout(xt, 0.5)
    return calls


def softmax() -> dict[str, Call]:
    x = _normal(4096, 1000)
    calls = everywhere(lambda: F.softmax(x))
    if torch := _torch():
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: torch.softmax(xt, 1)
    return calls


def batch_norm_train() -> dict[str, Call]:
    x, w, b = _normal(*LARGE), _normal(64, seed=1), _normal(64, seed=2)
    calls = everywhere(lambda: F.batch_norm_train(x, w, b)[0])
    if torch := _torch():
        xt, wt, bt = map(torch.from_numpy, (x, w, b))
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            xm = xt.contiguous(memory_format=memory)
            calls[name] = lambda xm=xm: torch.nn.functional.batch_norm(xm, None, None, wt, bt, training=True)
    return calls


def _both_formats(x: np.ndarray, call: Callable[[Any], Any]) -> dict[str, Call]:
    """torch on x in either memory format; call takes torch's tensor."""
    calls: dict[str, Call] = {}
    if torch := _torch():
        xt = torch.from_numpy(x)
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            xm = xt.contiguous(memory_format=memory)
            calls[name] = lambda xm=xm: call(xm)
    return calls


def normalise(op: str) -> dict[str, Call]:
    """layer_norm of rows of 768, group_norm in 32 groups and instance_norm of 64 channels; 25.7 MB."""
    shape = (LARGE[0] * LARGE[1] * LARGE[2] * LARGE[3] // 768, 768) if op == "layer_norm" else LARGE
    x, width = _normal(*shape), shape[1]
    w, b = _normal(width, seed=1), _normal(width, seed=2)
    options: dict[str, Any] = {"layer_norm": {"normalized_shape": 768}, "group_norm": {"num_groups": 32}}.get(op, {})
    calls = everywhere(lambda: getattr(F, op)(x, **options, weight=w, bias=b))
    if torch := _torch():
        wt, bt = map(torch.from_numpy, (w, b))
        peer = getattr(torch.nn.functional, op)
        options = {"normalized_shape": (768,)} if op == "layer_norm" else options
        if op == "layer_norm":
            xt = torch.from_numpy(x)
            calls["torch"] = lambda: peer(xt, **options, weight=wt, bias=bt)
        else:
            calls |= _both_formats(x, lambda xm: peer(xm, **options, weight=wt, bias=bt))
    return calls


def normalise_train(op: str) -> dict[str, Call]:
    """Forward and backward through the layer, as a training step runs them; dx is compared."""
    shape = (LARGE[0] * LARGE[1] * LARGE[2] * LARGE[3] // 768, 768) if op == "layer_norm" else LARGE
    x, dy = _normal(*shape), _normal(*shape, seed=3)
    layer = L.LayerNorm(768) if op == "layer_norm" else L.GroupNorm(32, shape[1])
    calls = everywhere(lambda: layer.forward(x)[1](dy))
    if torch := _torch():
        peer = torch.nn.LayerNorm(768) if op == "layer_norm" else torch.nn.GroupNorm(32, shape[1])
        xt, dyt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
        arrays = [xt, *peer.parameters()]
        calls["torch"] = lambda: torch.autograd.grad(peer(xt), arrays, dyt)[0]
    return calls


def max_pool2d_train() -> dict[str, Call]:
    x, dy = _normal(*LARGE), _normal(*LARGE[:2], 28, 28, seed=1)
    layer = L.MaxPool2d(3, 2, 1)
    calls = everywhere(lambda: layer.forward(x)[1](dy))
    if torch := _torch():
        dyt = torch.from_numpy(dy)
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            xm = torch.from_numpy(x).contiguous(memory_format=memory).requires_grad_()
            dm = dyt.contiguous(memory_format=memory)
            calls[name] = lambda xm=xm, dm=dm: torch.autograd.grad(torch.nn.functional.max_pool2d(xm, 3, 2, 1), xm, dm)[
                0
            ]
    return calls


def adaptive_pool2d(op: str) -> dict[str, Call]:
    """To 7 x 7 from 32 x 32, windows of 5 or 6, 16.8 MB."""
    x = _normal(64, 64, 32, 32)
    pool, x_last = getattr(F, f"adaptive_{op}_pool2d"), _channels_last(x)
    calls = everywhere(lambda: pool(x, 7))
    calls["compiled, channels-last"] = lambda: pool(x_last, 7)
    if torch := _torch():
        peer = getattr(torch.nn.functional, f"adaptive_{op}_pool2d")
        calls |= _both_formats(x, lambda xm: peer(xm, 7))
    return calls


def max_pool2d() -> dict[str, Call]:
    x = _normal(*LARGE)
    calls = everywhere(lambda: F.max_pool2d(x, 3, 2, 1))
    if torch := _torch():
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: torch.nn.functional.max_pool2d(xt, 3, 2, 1)
    return calls


def linear(rows: int, n_in: int, n_out: int) -> dict[str, Call]:
    x, w = _normal(rows, n_in), _normal(n_out, n_in, seed=1) / np.float32(math.sqrt(n_in))
    b = _normal(n_out, seed=2)
    layer = L.Linear(n_in, n_out)
    layer.load_state({"weight": w, "bias": b})
    program = fnn.compile(layer, x.shape)
    calls: dict[str, Call] = {"compiled, program": lambda: program(x)}
    calls |= everywhere(lambda: F.linear(x, w, b))
    calls["BLAS of NumPy"] = lambda: x @ w.T + b
    if torch := _torch():
        xt, wt, bt = map(torch.from_numpy, (x, w, b))
        calls["torch"] = lambda: torch.nn.functional.linear(xt, wt, bt)
    return calls


# ---- convolution ----


def conv2d(n: int, c: int, size: int, o: int, k: int, stride: int = 1, groups: int = 1) -> dict[str, Call]:
    """conv + batch norm + ReLU; peers get the norm folded, torch in its frozen, fused form too."""
    ins = c // groups
    x, w = _normal(n, c, size, size), _normal(o, ins, k, k, seed=1) * np.float32(math.sqrt(2 / (ins * k * k)))
    gamma, beta, mean = (_normal(o, seed=s) for s in (2, 3, 4))
    var = np.random.default_rng(5).uniform(0.5, 2.0, o).astype(np.float32)
    padding = k // 2
    statistics = (gamma, beta, mean, var, 1e-5)
    call = partial(
        F.conv2d, weight=w, stride=stride, padding=padding, groups=groups, batch_norm=statistics, activation="relu"
    )
    calls = everywhere(lambda: call(x))
    conv, norm = L.Conv2d(c, o, k, stride, padding, groups=groups, bias=False), L.BatchNorm2d(o)
    conv.weight[...] = w
    norm.load_state({"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var})
    program = fnn.compile(L.Sequential(conv, norm, L.ReLU()), x.shape)
    x_last = _channels_last(x)
    ours = {"compiled, program": lambda: program(x), "compiled, program channels-last": lambda: program(x_last)}
    calls = {**ours, **calls}
    if threads.config().get("isa") == "amx" and groups == 1:  # splits and packs its weights at every call
        calls["compiled, amx"] = lambda: call(x, algorithm="amx")
    scale = gamma / np.sqrt(var + np.float32(1e-5))
    folded, bias = w * scale[:, None, None, None], beta - mean * scale
    if torch := _torch():
        module = torch.nn.Sequential(torch.nn.Conv2d(c, o, k, stride, padding, groups=groups), torch.nn.ReLU())
        module[0].load_state_dict({"weight": torch.from_numpy(folded), "bias": torch.from_numpy(bias)})
        calls |= peers.torch(module, x)
    options = {"strides": [stride] * 2, "pads": [padding] * 4, "kernel_shape": [k, k], "group": groups}
    model = peers.onnx_layer(x, "Conv", {"w": folded, "b": bias}, True, **options)
    return calls | (_by_onnx(model, x) if model is not None else {})


def inverted_residual(n: int, c: int, size: int, hidden: int, stride: int = 1) -> dict[str, Call]:
    """1x1, depthwise 3x3, 1x1, each with a bias and but for the last ReLU6, and the sum with x where that fits."""
    x = _normal(n, c, size, size)
    rng = np.random.default_rng(1)
    block = L.Sequential(
        L.Conv2d(c, hidden, 1, rng=rng), L.ReLU6(),
        L.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, rng=rng), L.ReLU6(), L.Conv2d(hidden, c, 1, rng=rng),
    )  # fmt: skip
    pairs = [(block[i].weight, block[i].bias) for i in (0, 2, 4)]
    residual, ends = x if stride == 1 else None, ("relu6", "relu6", None)
    x_last = _channels_last(x)
    skip = None if residual is None else x_last
    calls = everywhere(lambda: F.inverted_residual(x, *pairs, stride, 1, residual=residual, activations=ends))
    program = fnn.compile(L.Residual(block) if stride == 1 else block, x.shape)
    calls = {
        "compiled, program": lambda: program(x),
        "compiled, program channels-last": lambda: program(x_last),
    } | calls
    if threads.config().get("isa") == "amx":
        calls["compiled, amx"] = lambda: F.inverted_residual(
            x_last, *pairs, stride, 1, residual=skip, activations=ends, algorithm="amx"
        )
    if torch := _torch():
        module = torch.nn.Sequential(
            torch.nn.Conv2d(c, hidden, 1), torch.nn.ReLU6(),
            torch.nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden), torch.nn.ReLU6(),
            torch.nn.Conv2d(hidden, c, 1),
        )  # fmt: skip
        for i, (weight, bias) in zip((0, 2, 4), pairs, strict=True):
            module[i].load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})

        class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.block = module

            def forward(self, x: Any) -> Any:
                return x + self.block(x) if stride == 1 else self.block(x)

        calls |= peers.torch(Block(), x)
        if peers.installed("onnx"):
            calls |= _by_onnx(peers.onnx_network(Block(), x), x)
    return calls


def _by_onnx(model: bytes, x: np.ndarray) -> dict[str, Call]:
    """An ONNX model in each engine for such that is installed."""
    calls: dict[str, Call] = {}
    for make in (peers.onnxruntime, peers.openvino):
        if peers.installed(make.__name__):
            calls |= make(model, [x])
    return calls


def network(name: str, n: int, precision: str = "float32") -> dict[str, Call]:
    """A whole network for inference: ours compiled, its twin of torch's modules, and that twin as an ONNX model.

    In bfloat16 the peer is OpenVINO, which computes in it too.
    """
    import models  # beside this file, for those who run it

    model = models.build(name, 0)
    x = _normal(n, *models.MODELS[name][1])
    program = fnn.compile(model, x.shape, precision=precision)
    calls: dict[str, Call] = {"compiled, program": lambda: program(x)}
    if _torch():
        twin = models.torch_twin(name, model)
        if precision == "bfloat16":
            if peers.installed("onnx") and peers.installed("openvino"):
                calls |= peers.openvino(peers.onnx_network(twin, x), [x], "bf16")
            return calls
        calls |= peers.torch(twin, x)
        if peers.installed("onnx"):
            calls |= _by_onnx(peers.onnx_network(twin, x), x)
    return calls


def conv2d_train(n: int, c: int, size: int, o: int, k: int) -> dict[str, Call]:
    """Forward and backward of one convolution, all three gradients."""
    x, w = _normal(n, c, size, size), _normal(o, c, k, k, seed=1) * np.float32(math.sqrt(2 / (c * k * k)))
    b, dy = _normal(o, seed=2), _normal(n, o, size, size, seed=3)
    padding = k // 2

    def ours(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        F.conv2d(x, w, b, 1, padding)
        return F.conv2d_backward(dy, x, w, 1, padding)[1]

    x_last, dy_last = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, dy))
    calls = {"compiled": partial(ours, x, dy), "compiled, channels-last": partial(ours, x_last, dy_last)}
    if torch := _torch():
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            xt, dyt = (torch.from_numpy(a).contiguous(memory_format=memory) for a in (x, dy))
            wt = torch.from_numpy(w).contiguous(memory_format=memory).requires_grad_()
            bt = torch.from_numpy(b).requires_grad_()
            xt.requires_grad_()

            def step(xt: Any = xt, wt: Any = wt, bt: Any = bt, dyt: Any = dyt) -> Any:
                for t in (xt, wt, bt):
                    t.grad = None
                torch.nn.functional.conv2d(xt, wt, bt, padding=padding).backward(dyt)
                return wt.grad

            calls[name] = step
    return calls


def conv_transpose2d(n: int, c: int, size: int, o: int, k: int, stride: int) -> dict[str, Call]:
    """What doubles the size in a decoder, with bias and ReLU."""
    x, w = _normal(n, c, size, size), _normal(c, o, k, k, seed=1) * np.float32(stride * math.sqrt(2 / (c * k * k)))
    b, padding = _normal(o, seed=2), (k - stride) // 2
    calls = everywhere(lambda: F.conv_transpose2d(x, w, b, stride, padding, activation="relu"))
    x_last = _channels_last(x)
    calls["compiled, channels-last"] = lambda: F.conv_transpose2d(x_last, w, b, stride, padding, activation="relu")
    if torch := _torch():
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            xt, wt = (torch.from_numpy(a).contiguous(memory_format=memory) for a in (x, w))
            bt = torch.from_numpy(b)

            def peer(xt: Any = xt, wt: Any = wt, bt: Any = bt) -> Any:
                return torch.nn.functional.conv_transpose2d(xt, wt, bt, stride, padding).relu_()

            calls[name] = peer
    return calls


def _images_by_torch(call: Call, x: np.ndarray, peer: Callable[[Any], Any]) -> dict[str, Call]:
    """A function of images on every backend and in torch."""
    calls = everywhere(call)
    if torch := _torch():
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: peer(xt)
    return calls


def interpolate(mode: str, scale: float) -> dict[str, Call]:
    x = _normal(8, 64, 56, 56)
    options: dict[str, Any] = {"scale_factor": scale, "mode": mode}
    call = partial(F.interpolate, x, **options)
    return _images_by_torch(call, x, lambda xt: _torch().nn.functional.interpolate(xt, **options))


def interpolate_backward(mode: str) -> dict[str, Call]:
    dy, shape = _normal(8, 64, 112, 112), (8, 64, 56, 56)
    options: dict[str, Any] = {"scale_factor": 2, "mode": mode}
    calls = everywhere(partial(F.interpolate_backward, dy, shape, **options))
    if torch := _torch():
        xt = torch.zeros(shape, requires_grad=True)
        y, dyt = torch.nn.functional.interpolate(xt, **options), torch.from_numpy(dy)
        calls["torch"] = lambda: torch.autograd.grad(y, xt, dyt, retain_graph=True)[0]
    return calls


def pad(mode: str) -> dict[str, Call]:
    x, border = _normal(8, 64, 56, 56), (1, 1, 1, 1)
    return _images_by_torch(partial(F.pad, x, border, mode), x, lambda xt: _torch().nn.functional.pad(xt, border, mode))


def pixel_shuffle() -> dict[str, Call]:
    x = _normal(8, 256, 28, 28)
    return _images_by_torch(partial(F.pixel_shuffle, x, 2), x, lambda xt: _torch().nn.functional.pixel_shuffle(xt, 2))


def concat() -> dict[str, Call]:
    a, b = _normal(8, 64, 56, 56), _normal(8, 64, 56, 56, seed=1)
    bt = torch.from_numpy(b) if (torch := _torch()) else None
    return _images_by_torch(partial(F.concat, [a, b]), a, lambda at: _torch().cat([at, bt], 1))


def conv1d(n: int, c: int, size: int, o: int, k: int) -> dict[str, Call]:
    x, w = _normal(n, c, size), _normal(o, c, k, seed=1) * np.float32(math.sqrt(2 / (c * k)))
    calls = everywhere(partial(F.conv1d, x, w, padding=k // 2))
    if torch := _torch():
        xt, wt = torch.from_numpy(x), torch.from_numpy(w)
        calls["torch"] = lambda: torch.nn.functional.conv1d(xt, wt, padding=k // 2)
    return calls


def _steps(model: L.Layer, x: np.ndarray, twin: Callable[[Any], Any]) -> dict[str, Call]:
    """A training step with momentum on x and ten classes, which leaves the weights as they are; twin(torch's nn)."""
    y = np.random.default_rng(0).integers(0, 10, len(x))
    state = {k: v.copy() for k, v in model.state().items()}
    trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(lr=0.0, momentum=0.9), rng=0)
    calls: dict[str, Call] = {"compiled": lambda: trainer.step(x, y)}
    if x.ndim == 4:
        x_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        calls["compiled, channels-last"] = lambda: trainer.step(x_last, y)
    if torch := _torch():
        for name, memory in (("torch", torch.contiguous_format), ("torch, channels-last", torch.channels_last)):
            if x.ndim != 4 and memory is torch.channels_last:
                continue
            net = twin(torch.nn)
            own = net.state_dict()
            net.load_state_dict({k: torch.from_numpy(state[k].copy()) if k in state else v for k, v in own.items()})
            net = net.to(memory_format=memory).train()
            optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)
            xt, yt = torch.from_numpy(x).contiguous(memory_format=memory), torch.from_numpy(y)

            def step(net: Any = net, optimizer: Any = optimizer, xt: Any = xt, yt: Any = yt) -> float:
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(xt), yt)
                loss.backward()
                optimizer.step()
                return loss.item()

            calls[name] = step
    return calls


def small_cnn_step() -> dict[str, Call]:
    """A training step of a small convolutional net at batch 64, 32 x 32."""
    rng = np.random.default_rng(0)
    model = L.Sequential(
        L.Conv2d(3, 32, 3, padding=1, bias=False, rng=rng), L.BatchNorm2d(32), L.ReLU(),
        L.Conv2d(32, 64, 3, padding=1, bias=False, rng=rng), L.BatchNorm2d(64), L.ReLU(), L.MaxPool2d(2),
        L.Conv2d(64, 128, 3, padding=1, bias=False, rng=rng), L.BatchNorm2d(128), L.ReLU(),
        L.GlobalAvgPool2d(), L.Flatten(), L.Linear(128, 10, rng=rng),
    )  # fmt: skip

    def twin(nn: Any) -> Any:
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    return _steps(model, _normal(64, 3, 32, 32), twin)


def mlp_step() -> dict[str, Call]:
    """A training step of a 784-100-10 network on one image."""
    rng = np.random.default_rng(0)
    model = L.Sequential(L.Linear(784, 100, rng=rng), L.ReLU(), L.Linear(100, 10, rng=rng))
    return _steps(model, _normal(1, 784), lambda nn: nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)))


def network_step(name: str, n: int) -> dict[str, Call]:
    """A training step of a whole network."""
    import models  # beside this file, for those who run it

    model = models.build(name, 0)
    twin = models.torch_twin(name, model) if _torch() else None
    return _steps(model, _normal(n, *models.MODELS[name][1]), lambda nn: copy.deepcopy(twin))


def _activation_row(name: str, kind: str) -> Workload:
    shape, reuse = (LARGE, False) if kind == "25.7 MB" else ((4, 64, 8, 8), True)
    bytes = (6.0 if name == "maxout" else 8.0) * math.prod(shape)
    return Workload(f"{name} {kind}", name, lambda: activation(name, shape, reuse), 0.0, bytes,
                    kernels=(f"{name}_forward",))  # fmt: skip


def _conv_row(n: int, c: int, size: int, o: int, k: int, stride: int = 1) -> Workload:
    out = (size + 2 * (k // 2) - k) // stride + 1
    label = f"conv2d+BN+ReLU {k}x{k}{f's{stride}' if stride > 1 else ''} {c}->{o} @{size} b{n}"
    return Workload(
        label, "conv2d", lambda: conv2d(n, c, size, o, k, stride), flops=2.0 * n * o * c * k * k * out * out,
        kernels=("conv2d_forward", "conv2d_im2col_forward", "conv2d_amx_forward", "conv2d_winograd_forward"),
    )  # fmt: skip


def _depthwise_row(c: int, size: int, k: int, stride: int = 1) -> Workload:
    label, out = f"conv2d+BN+ReLU depthwise {k}x{k}{f's{stride}' if stride > 1 else ''} {c} @{size} b1", size // stride
    return Workload(label, "conv2d", lambda: conv2d(1, c, size, c, k, stride, c), flops=2.0 * c * k * k * out * out,
                    kernels=("conv2d_forward", "conv2d_im2col_forward"))  # fmt: skip


_MULTIPLY_ADDS = {"resnet18": 1_814_073_344, "resnet50": 4_089_184_256, "vgg16_bn": 15_470_264_320,
                  "mobilenet_v2": 300_774_272, "resnet20": 40_551_040}  # fmt: skip


def _network_row(name: str, n: int, precision: str = "float32") -> Workload:
    label = f"network {name} b{n}{'' if precision == 'float32' else f' {precision}'}"
    flops = 2.0 * n * _MULTIPLY_ADDS[name]
    if precision == "float32":
        return Workload(label, "network", partial(network, name, n), flops=flops)
    # Of the largest score: two engines that round each product's factors to 8 bits in 50 layers.
    return Workload(label, "network", partial(network, name, n, precision), flops=flops, tolerance=0.05)


def _inverted_row(n: int, c: int, size: int, hidden: int, stride: int = 1) -> Workload:
    label = f"inverted residual {c}->{hidden}->{c} @{size}{f' stride {stride}' if stride > 1 else ''} b{n}"
    out = size // stride
    flops = 2.0 * n * hidden * (c * size * size + (9 + c) * out * out)
    return Workload(label, "inverted_residual", lambda: inverted_residual(n, c, size, hidden, stride), flops=flops,
                    kernels=("inverted_residual_forward", "inverted_residual_amx_forward"))  # fmt: skip


def _train_row(n: int, c: int, size: int, o: int, k: int) -> Workload:
    label = f"conv2d forward+backward {k}x{k} {c}->{o} @{size} b{n}"
    return Workload(
        label, "conv2d_backward", lambda: conv2d_train(n, c, size, o, k), flops=6.0 * n * o * c * k * k * size * size,
        kernels=("conv2d_backward", "conv2d_im2col_backward", "conv2d_amx_backward"),
    )  # fmt: skip


def _transpose_row(n: int, c: int, size: int, o: int, k: int, stride: int) -> Workload:
    label = f"conv_transpose2d+ReLU {k}x{k}s{stride} {c}->{o} @{size} b{n}"
    return Workload(
        label, "conv_transpose2d", lambda: conv_transpose2d(n, c, size, o, k, stride),
        flops=2.0 * n * o * c * k * k * size * size, kernels=("conv_transpose2d_forward",),
    )  # fmt: skip


def _linear_row(rows: int, n_in: int, n_out: int) -> Workload:
    label = f"linear {rows} x {n_in} -> {n_out}"
    return Workload(label, "linear", lambda: linear(rows, n_in, n_out), flops=2.0 * rows * n_in * n_out,
                    kernels=("linear_forward",))  # fmt: skip


# ---- what has no row of its own above: once each, on 4 MB, our backends alone ----


def _flat(i: int) -> np.ndarray:
    return _normal(MIB, seed=i)


def _images(i: int, size: int = 32) -> np.ndarray:
    return _normal(16, 64, size, size, seed=i)


def _matrix(i: int) -> np.ndarray:
    return _normal(1024, 1024, seed=i)


def _classes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1024, 1024)


def _in_place(kernel: str, *inputs: Any, last: np.ndarray) -> np.ndarray:
    """A kernel without a public function; ``last`` is what it writes."""
    getattr(_backends.kernels, kernel)(*inputs, last)
    return last


def _random_bits(key: np.ndarray, out: np.ndarray) -> np.ndarray:
    _backends.kernels.random_bits(key, out.size, out)
    return out


def _step(function: Callable[..., None], hyper: list[float], slots: int) -> Callable[[], np.ndarray]:
    """An optimizer step with a learning rate of 0, so that every call starts from the same parameters."""
    grad, param, segments = _flat(0), _flat(1), np.array([[0, MIB, 1, 0]], np.float64)
    state = [np.zeros_like(param) for _ in range(slots)]
    given = np.array(hyper)

    def step() -> np.ndarray:
        function(grad, given, segments, param, *state)
        return param

    return step


def _sum(function: Callable[[np.ndarray], None]) -> Call:
    """A function that adds to its last argument, from 0 in each call."""
    total = np.zeros(1)

    def run() -> np.ndarray:
        total[0] = 0
        function(total)
        return total

    return run


def _written(function: Callable[..., None], *arrays: np.ndarray) -> np.ndarray:
    """Call a function that writes its last argument."""
    function(*arrays)
    return arrays[-1]


_STATISTICS = (np.zeros(64, np.float32), np.ones(64, np.float32))
_POOL = (3, 2, 1)
#: kernel -> a function that makes the arrays and returns the call
_SMALL: dict[str, Callable[[], Call]] = {
    **{
        f"{name}_backward": partial(
            lambda f, more: partial(f, _flat(0), _flat(1), *more), getattr(F, f"{name}_backward"), _MORE.get(name, ())
        )
        for name in _TORCH_ACTIVATIONS
        if name not in ("prelu", "maxout", "relu6")
    },
    "prelu_backward": lambda: partial(_first, partial(F.prelu_backward, _images(0), _images(1), *_MORE["prelu"])),
    "maxout_backward": lambda: partial(F.maxout_backward, _normal(16, 32, 32, 32), _images(0), 2),
    "gelu_tanh_forward": lambda: partial(F.gelu, _flat(0), "tanh"),
    "gelu_tanh_backward": lambda: partial(F.gelu_backward, _flat(0), _flat(1), "tanh"),
    "exp_forward": lambda: partial(F.exp, _flat(0)),
    "sqrt_forward": lambda: partial(F.sqrt, np.abs(_flat(0))),
    "div_forward": lambda: partial(F.div, _flat(0), _flat(1)),
    "add_forward": lambda: partial(F.add, _flat(0), _flat(1), activation="relu"),
    "mul_forward": lambda: partial(F.mul, _flat(0), _flat(1)),
    "matmul_forward": lambda: partial(F.matmul, _normal(96, 197, 64), _normal(96, 64, 197)),  # attention, 8 images
    "scale_add": lambda: partial(_in_place, "scale_add", _flat(0), 0.5, 0.0, last=_flat(1)),
    "fill": lambda: partial(_in_place, "fill", 1.5, last=_flat(0)),
    "copy": lambda: partial(_in_place, "copy", _images(0).transpose(0, 2, 3, 1), False, last=_normal(16, 32, 32, 64)),
    "softmax_backward": lambda: partial(F.softmax_backward, _matrix(0), F.softmax(_matrix(1))),
    "log_softmax_forward": lambda: partial(F.log_softmax, _matrix(0)),
    "log_softmax_backward": lambda: partial(F.log_softmax_backward, _matrix(0), F.log_softmax(_matrix(1))),
    "cross_entropy": lambda: partial(_gradient, partial(F.cross_entropy, _matrix(0), _classes())),
    "hinge": lambda: partial(_gradient, partial(F.hinge, _matrix(0), _classes())),
    **{
        name: partial(lambda f: partial(_gradient, partial(f, _matrix(0), _matrix(1))), getattr(F, name))
        for name in ("mse", "l1", "huber")
    },
    "binary_cross_entropy_with_logits": lambda: partial(
        _gradient, partial(F.binary_cross_entropy_with_logits, _matrix(0), (_matrix(1) > 0).astype(np.float32))
    ),
    "dropout_backward": lambda: partial(F.dropout_backward, _flat(0), F.dropout(_flat(1), 0.5, rng=0)[1], 0.5),
    "stochastic_depth_forward": lambda: partial(_first, partial(F.stochastic_depth, _images(0), 0.5, rng=0)),
    "stochastic_depth_backward": lambda: partial(
        F.stochastic_depth_backward, _images(0), np.uint8([0b01100101, 0b11001010]), 0.5
    ),
    "random_bits": lambda: partial(_random_bits, np.array([1, 2], np.uint64), np.empty(MIB, np.uint32)),
    "batch_norm_forward": lambda: partial(F.batch_norm, _images(0), *_STATISTICS, activation="relu"),
    "batch_norm_backward": lambda: partial(
        _first, partial(F.batch_norm_backward, _images(0), _images(1), *_STATISTICS)
    ),
    "group_norm_backward": lambda: partial(_first, partial(F.group_norm_backward, _images(0), _images(1), 32)),
    "max_pool2d_backward": lambda: partial(F.max_pool2d_backward, _images(0, 16), _images(1), *_POOL),
    "adaptive_max_pool2d_backward": lambda: partial(F.adaptive_max_pool2d_backward, _images(0, 7), _images(1), 7),
    "adaptive_avg_pool2d_backward": lambda: partial(F.adaptive_avg_pool2d_backward, _images(0, 7), (16, 64, 32, 32)),
    "avg_pool2d_forward": lambda: partial(F.avg_pool2d, _images(0), *_POOL),
    "avg_pool2d_backward": lambda: partial(F.avg_pool2d_backward, _images(0, 16), (16, 64, 32, 32), *_POOL),
    "global_avg_pool2d_forward": lambda: partial(F.global_avg_pool2d, _images(0)),
    "global_avg_pool2d_backward": lambda: partial(
        F.global_avg_pool2d_backward, _normal(16, 64, 1, 1), (16, 64, 32, 32)
    ),
    "im2col_forward": lambda: partial(F.im2col, _images(0), 3, 1, 1),
    "col2im_forward": lambda: partial(F.col2im, _normal(16, 64 * 9, 1024), 32, 3, 1, 1),
    "linear_backward": lambda: partial(_first, partial(F.linear_backward, _matrix(0), _matrix(1), _matrix(2))),
    "sgd_step": lambda: _step(F.sgd_step, [0.0, 0.9, 0, 1], 1),
    "adam_step": lambda: _step(F.adam_step, [0.0, 0.9, 0.999, 1e-8, 1, 0], 2),
    "adagrad_step": lambda: _step(F.adagrad_step, [0.0, 1e-10], 1),
    "rmsprop_step": lambda: _step(F.rmsprop_step, [0.0, 0.99, 1e-8, 0.9], 2),
    # Strengths and factors that round away, so that every call finds the same arrays.
    "penalty": lambda: _sum(partial(F.penalty, _flat(0), np.array([[0, MIB, 0, 1e-30]]), _flat(1))),
    "square_sum": lambda: _sum(partial(F.square_sum, _flat(0), np.array([[0, MIB, 1, 0.0]]))),
    "clip_norm": lambda: partial(
        _written, F.clip_norm, np.ones(1), np.full(1, 1 + 1e-6 - 1e-9), np.array([[0, MIB, 1, 0.0]]), _flat(0)
    ),
    "clip_value": lambda: partial(_written, F.clip_value, np.ones(1), np.array([[0, MIB, 1, 0.0]]), _flat(0)),
    "max_norm": lambda: partial(_written, F.max_norm, np.array([[0, MIB, 1, 1024, 30.0]]), _flat(0)),
}


def _gradient(loss: Call) -> np.ndarray:
    return loss()[1]


def _first(call: Call) -> np.ndarray:
    return call()[0]


def _small(kernel: str) -> dict[str, Call]:
    return everywhere(_SMALL[kernel]())


WORKLOADS: tuple[Workload, ...] = (
    _conv_row(1, 64, 56, 64, 3),
    _conv_row(1, 128, 28, 128, 3),
    _conv_row(1, 256, 14, 256, 3),
    _conv_row(1, 512, 7, 512, 3),
    _conv_row(1, 3, 224, 64, 7, 2),
    _conv_row(1, 64, 56, 256, 1),
    _conv_row(1, 1024, 14, 256, 1),
    _conv_row(1, 128, 56, 128, 3, 2),
    _conv_row(1, 64, 224, 64, 3),
    _conv_row(64, 64, 32, 64, 3),
    _conv_row(16, 256, 56, 64, 1),
    _depthwise_row(144, 56, 3),
    _depthwise_row(192, 28, 3, 2),
    _depthwise_row(144, 28, 5),
    _depthwise_row(96, 28, 7),
    _inverted_row(1, 24, 56, 144),
    _inverted_row(1, 64, 14, 384),
    _inverted_row(8, 32, 28, 192),
    _inverted_row(1, 96, 14, 576, 2),
    _train_row(64, 64, 32, 64, 3),
    _train_row(16, 128, 28, 128, 3),
    _train_row(16, 256, 28, 64, 1),
    _transpose_row(8, 64, 28, 32, 2, 2),
    _transpose_row(8, 64, 28, 32, 4, 2),
    _transpose_row(1, 256, 14, 128, 3, 1),
    Workload("conv1d 5 32->64 @1024 b16", "conv1d", lambda: conv1d(16, 32, 1024, 64, 5),
             flops=2.0 * 16 * 32 * 64 * 5 * 1024, kernels=("conv2d_forward",)),
    *(
        Workload(f"interpolate {mode} x{scale} 64 @56 b8", "interpolate", partial(interpolate, mode, scale),
                 bytes=4.0 * 8 * 64 * 56 * 56 * (1 + scale * scale), kernels=("resample",))
        for mode, scale in (("nearest", 2), ("bilinear", 2), ("bilinear", 0.5), ("bicubic", 2))
    ),
    *(
        Workload(f"interpolate backward {mode} x2 64 @56 b8", "interpolate_backward",
                 partial(interpolate_backward, mode), bytes=20.0 * 8 * 64 * 56 * 56, kernels=("resample",))
        for mode in ("nearest", "bilinear")
    ),
    *(
        Workload(f"pad {mode} 1 64 @56 b8", "pad", partial(pad, mode), bytes=4.0 * 8 * 64 * (56 * 56 + 58 * 58),
                 kernels=("resample",))
        for mode in ("constant", "reflect", "circular")
    ),
    Workload("pixel_shuffle 2 256 @28 b8", "pixel_shuffle", pixel_shuffle, bytes=8.0 * 8 * 256 * 28 * 28,
             kernels=("copy",)),
    Workload("concat 64 + 64 @56 b8", "concat", concat, bytes=16.0 * 8 * 64 * 56 * 56, kernels=("copy",)),
    *(_network_row(name, n) for name, n in (("resnet18", 1), ("resnet18", 8), ("resnet50", 1), ("resnet50", 8),
      ("vgg16_bn", 1), ("mobilenet_v2", 1), ("mobilenet_v2", 8), ("resnet20", 1), ("resnet20", 64))),
    *(_network_row(name, n, "bfloat16") for name, n in (("resnet18", 1), ("resnet50", 1), ("resnet50", 8))),
    Workload("training step, small CNN b64 @32", "training", small_cnn_step, tolerance=1e-4),
    Workload("training step, ResNet-20 b128", "training", partial(network_step, "resnet20", 128), tolerance=1e-4),
    Workload("training step, ResNet-18 b8", "training", partial(network_step, "resnet18", 8), tolerance=1e-4),
    Workload("training step, 784-100-10 b1", "training", mlp_step, tolerance=1e-4),
    _linear_row(1024, 1024, 1024),
    _linear_row(256, 2048, 1000),
    _linear_row(1, 784, 100),
    *(
        _activation_row(name, kind)
        for kind in ("25.7 MB", "64 KB")
        for name in _TORCH_ACTIVATIONS
        if (name, kind) != ("maxout", "64 KB")  # it has no out=
    ),
    Workload("dropout 25.7 MB", "dropout", dropout, 0.0, 8.0 * math.prod(LARGE), math.inf, ("dropout_forward",)),
    Workload("softmax 4096 x 1000", "softmax", softmax, bytes=8.0 * 4096 * 1000, kernels=("softmax_forward",)),
    Workload("batch norm training 25.7 MB", "batch_norm", batch_norm_train, bytes=12.0 * math.prod(LARGE),
             kernels=("batch_norm_train_forward",)),
    *(
        Workload(f"{op.replace('_', ' ')} 25.7 MB", op, partial(normalise, op), bytes=8.0 * math.prod(LARGE),
                 kernels=("group_norm_forward",))
        for op in ("layer_norm", "group_norm", "instance_norm")
    ),
    *(
        Workload(f"{op.replace('_', ' ')} forward+backward 25.7 MB", op, partial(normalise_train, op),
                 bytes=20.0 * math.prod(LARGE), kernels=("group_norm_forward", "group_norm_backward"))
        for op in ("layer_norm", "group_norm")
    ),
    Workload("max pool 3x3s2 25.7 MB", "max_pool2d", max_pool2d, bytes=5.0 * math.prod(LARGE),
             kernels=("max_pool2d_forward",)),
    Workload("max pool 3x3s2 forward+backward 25.7 MB", "max_pool2d", max_pool2d_train, bytes=10.0 * math.prod(LARGE),
             kernels=("max_pool2d_forward", "max_pool2d_backward")),
    *(
        Workload(f"adaptive {op} pool to 7x7 16.8 MB", f"adaptive_{op}_pool2d", partial(adaptive_pool2d, op),
                 bytes=4.0 * 64 * 64 * 32 * 32, kernels=(f"adaptive_{op}_pool2d_forward",))
        for op in ("max", "avg")
    ),
    *(Workload(f"{kernel} 4 MB", kernel, partial(_small, kernel), kernels=(kernel,)) for kernel in _SMALL),
)  # fmt: skip


def check(workload: Workload, calls: dict[str, Call]) -> None:
    """Raise when a contestant's result is not that of the NumPy backend (or of the first contestant)."""
    # Dropout draws its own numbers in each contestant: there the share of zeros is compared, not the values.
    reference = calls.get("numpy", next(iter(calls.values())))
    want = np.asarray(reference(), np.float64)
    for name, call in calls.items():
        got = _array(call())
        if math.isinf(workload.tolerance):
            assert abs(float((got == 0).mean()) - 0.5) < 0.01, f"{workload.name}: {name} drops another share"
            continue
        error = np.abs(got - want).max() / np.abs(want).max()
        assert error <= workload.tolerance, f"{workload.name}: {name} is off by {error:.1e} of the largest result"


def _array(result: Any) -> np.ndarray:
    return np.asarray(result.detach().numpy() if hasattr(result, "detach") else result, np.float64)

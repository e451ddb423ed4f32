"""Kinds of networks as torch exports them: equal to ONNX Runtime, by layers and compiled; what NumPy computes."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from onnx_files import model as file_of
from onnx_files import node, port, tensor

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
runtime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
nn, T = torch.nn, torch.nn.functional

Array = np.ndarray


def conv(n_in: int, n: int, k: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> Any:
    layers = [nn.Conv2d(n_in, n, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(n)]
    return nn.Sequential(*layers, *([act()] if act else []))


class SqueezeExcite(nn.Module):
    def __init__(self, n: int, act: Any = nn.ReLU, gate: Any = nn.Sigmoid) -> None:
        super().__init__()
        self.down, self.act, self.up, self.gate = nn.Conv2d(n, n // 4, 1), act(), nn.Conv2d(n // 4, n, 1), gate()

    def forward(self, x: Any) -> Any:
        return x * self.gate(self.up(self.act(self.down(T.adaptive_avg_pool2d(x, 1)))))


class MobileNetV3(nn.Module):
    """Inverted bottlenecks with hard-swish, squeeze and excite with hard-sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2, act=nn.Hardswish)
        self.expand, self.depthwise = conv(16, 48, 1, act=nn.Hardswish), conv(48, 48, 5, 1, 48, nn.Hardswish)
        self.se, self.project = SqueezeExcite(48, gate=nn.Hardsigmoid), conv(48, 16, 1, act=None)
        self.head = nn.Sequential(nn.Linear(16, 20), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(20, 5))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = x + self.project(self.se(self.depthwise(self.expand(x))))
        return self.head(x.mean((2, 3)))


class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = conv(3, 16, 3, 2, act=nn.SiLU), conv(16, 16, 3, 1, 16, nn.SiLU)
        self.se, self.project, self.fc = SqueezeExcite(16, nn.SiLU), conv(16, 16, 1, act=None), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = x + self.project(self.se(self.depthwise(x)))
        return self.fc(T.adaptive_avg_pool2d(x, 1).flatten(1))


class ShuffleNet(nn.Module):
    """Channels are split, and shuffled by Reshape, Transpose, Reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.branch = nn.Sequential(conv(8, 8, 1), conv(8, 8, 3, 1, 8, None), conv(8, 8, 1))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3))


class DenseNet(nn.Module):
    """What comes before the convolution is norm and activation; everything is kept by Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 8, 3, padding=1, bias=False)) for n in (8, 16, 24)
        )
        self.end = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.AvgPool2d(2))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.end(x)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8, 1), nn.Sequential(conv(3, 8, 1), conv(8, 8, 5))
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(3, 8, 1))
        self.d = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(3, 8, 1))
        self.e = nn.Sequential(nn.Conv2d(32, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 8, (7, 1), padding=(3, 0)))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Any) -> Any:
        return self.pool(self.e(torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)))


class ConvNeXt(nn.Module):
    """Layer norm over channels, which come last for it; a scale for each channel that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16, eps=1e-6)
        self.depthwise, self.norm = nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.LayerNorm(16, eps=1e-6)
        self.up, self.down, self.scale = nn.Linear(16, 64), nn.Linear(64, 16), nn.Parameter(torch.rand(16))

    def forward(self, x: Any) -> Any:
        x = self.first(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(T.gelu(self.up(y)))
        return (x + y.permute(0, 3, 1, 2)).mean((2, 3))


class ESPCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shuffle = (
            nn.Conv2d(1, 16, 5, padding=2),
            nn.Conv2d(16, 9, 3, padding=1),
            nn.PixelShuffle(3),
        )

    def forward(self, x: Any) -> Any:
        return torch.sigmoid(self.shuffle(self.b(torch.tanh(self.a(x)))))


class Siamese(nn.Module):
    """Two inputs by the same weights, and their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 1)

    def forward(self, a: Any, b: Any) -> Any:
        a, b = self.body(a), self.body(b)
        return torch.sigmoid(self.head((a - b).abs())), T.normalize(a, dim=1)


class Attention(nn.Module):
    """By hand: three products, softmax, heads by Reshape and Transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)
        self.position = nn.Parameter(torch.randn(1, 10, 32))

    def forward(self, x: Any) -> Any:
        x = x + self.position
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) / 8**0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(n, t, c))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(conv(3, 8), conv(8, 8)), conv(8, 16, act=nn.LeakyReLU)
        self.up, self.c, self.out = nn.Upsample(scale_factor=2, mode="bilinear"), conv(24, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        a = self.a(x)
        b = self.up(self.b(T.max_pool2d(a, 2)))
        b = T.pad(b, [0, a.shape[3] - b.shape[3], 0, a.shape[2] - b.shape[2]])
        return self.out(self.c(torch.cat([a, b], 1))).softmax(1)


class Yolo(nn.Module):
    """SPPF, nearest upsampling, and the grid that boxes are relative to, as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, 3, 2, act=nn.SiLU), conv(16, 16, 3, 2, act=nn.SiLU)
        self.pool, self.c = nn.MaxPool2d(5, 1, 2), conv(64, 16, 1, act=nn.SiLU)
        self.h1, self.h2 = nn.Conv2d(32, 12, 1), nn.Conv2d(16, 12, 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [30.0, 61.0]]).view(1, 2, 1, 1, 2))

    def forward(self, x: Any) -> Any:
        a = self.a(x)
        b = self.b(a)
        p = self.pool(b)
        q = self.pool(p)
        b = self.c(torch.cat([b, p, q, self.pool(q)], 1))
        found = []
        for y, stride in ((self.h1(torch.cat([a, T.interpolate(b, scale_factor=2.0)], 1)), 2), (self.h2(b), 4)):
            n, _, h, w = y.shape
            y = y.view(n, 2, 6, h, w).permute(0, 1, 3, 4, 2)
            gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([gx, gy], -1).float()
            xy, wh, rest = y.sigmoid().split((2, 2, 2), 4)
            y = torch.cat([(xy * 2 - 0.5 + grid) * stride, (wh * 2) ** 2 * self.anchors, rest], 4)
            found.append(y.reshape(n, -1, 6))
        return torch.cat(found, 1)


class GroupNormed(nn.Module):
    """Norms of all kinds; group norm is written out before opset 18."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3, padding=1)
        self.i, self.j, self.k = (
            nn.InstanceNorm2d(8, affine=True),
            nn.InstanceNorm2d(8),
            nn.GroupNorm(1, 8, affine=False),
        )

    def forward(self, x: Any) -> Any:
        x = self.b(T.silu(self.g(self.a(x))))
        return self.i(x) + self.j(x) * self.k(x)


class Preprocessed(nn.Module):
    """Mean and deviation are numbers of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.body = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(32, 5))

    def forward(self, x: Any) -> Any:
        return self.body((x / 255 - self.mean) / self.std).log_softmax(1)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ELU(), nn.Conv2d(8, 16, 3, 2, 1), nn.PReLU(16))
        self.code, self.back = nn.Linear(16 * 64, 12), nn.Linear(12, 16 * 64)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.ReLU6(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()
        )

    def forward(self, x: Any) -> Any:
        return self.up(self.back(T.softplus(self.code(self.down(x).flatten(1)))).view(-1, 16, 8, 8))


class Temporal(nn.Module):
    """Convolutions of one axis, dilated and causal, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=d) for d in (1, 2, 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(3))

    def forward(self, x: Any) -> Any:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            a, b = layer(T.pad(x, [layer.dilation[0], 0])).chunk(2, 1)
            x = norm(x + torch.tanh(a) * torch.sigmoid(b))
        return x.max(2).values


#: name -> (class, shapes of an image for each input, what is left to NumPy)
NETWORKS: dict[str, tuple[Any, list[tuple[int, ...]], set[str]]] = {
    "mobilenet_v3": (MobileNetV3, [(3, 32, 32)], set()),
    "efficientnet": (EfficientNet, [(3, 32, 32)], set()),
    "shufflenet": (ShuffleNet, [(3, 32, 32)], set()),
    "densenet": (DenseNet, [(3, 16, 16)], set()),
    "inception": (Inception, [(3, 17, 17)], set()),
    "convnext": (ConvNeXt, [(3, 32, 32)], set()),
    "espcn": (ESPCN, [(1, 12, 14)], set()),
    "siamese": (Siamese, [(3, 16, 16), (3, 16, 16)], set()),
    "attention": (Attention, [(10, 32)], set()),
    "unet": (UNet, [(3, 17, 19)], set()),
    "yolo": (Yolo, [(3, 32, 32)], set()),
    "norms": (GroupNormed, [(3, 12, 12)], set()),
    "preprocessed": (Preprocessed, [(3, 16, 16)], set()),
    "autoencoder": (Autoencoder, [(3, 32, 32)], set()),
    "temporal": (Temporal, [(8, 20)], set()),
}


def module_of(name: str) -> tuple[Any, list[tuple[int, ...]]]:
    torch.manual_seed(0)
    make, shapes, _ = NETWORKS[name]
    module = make()
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.5, 1.5)
        if isinstance(layer, nn.GroupNorm) and layer.affine:
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_()
    return module.eval(), shapes


def exported(module: Any, shapes: list[tuple[int, ...]]) -> bytes:
    """The file of a network whose batch is left open."""
    names = [f"x{i}" for i in range(len(shapes))]
    xs, file = tuple(torch.randn(2, *shape) for shape in shapes), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will change
        axes = {name: {0: "n"} for name in names}
        torch.onnx.export(module, xs, file, dynamo=False, input_names=names, dynamic_axes=axes)
    return file.getvalue()


def in_numpy(program: Any) -> set[str]:
    """The operators of a program that compute in NumPy."""
    return {step.layer for step in program.steps() if "NumPy" in step.kernels}


def agrees(data: bytes, shapes: list[tuple[int, ...]]) -> Any:
    """The program of a network, whose results are those of ONNX Runtime, as are the network's own."""
    net = fnn.onnx.load(data)
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile: computed in NumPy")
        program = fnn.compile(net, [(1, *shape) for shape in shapes])
    rng = np.random.default_rng(0)
    for n in (1, 3):
        xs = [rng.standard_normal((n, *shape)).astype(np.float32) for shape in shapes]
        expected = session.run(None, dict(zip(names, xs, strict=True)))
        for run in (net, program):
            y = run(*xs)
            for part, other in zip(y if isinstance(y, tuple) else (y,), expected, strict=True):
                assert part.shape == other.shape and part.dtype == other.dtype
                assert np.abs(part - other).max() <= 1e-5 * np.abs(other).max()
    return program


@pytest.mark.parametrize("name", NETWORKS)
def test_exports(name: str) -> None:
    """The other exporter, which takes many seconds for each, gives what test_onnx.py tries."""
    module, shapes = module_of(name)
    assert in_numpy(agrees(exported(module, shapes), shapes)) == NETWORKS[name][2]


def test_weights_of_norms_and_no_buffers() -> None:
    """What torch has as parameters is trained, and what it has as buffers is not."""
    for name in ("norms", "preprocessed"):
        module, shapes = module_of(name)
        net = fnn.onnx.load(exported(module, shapes))
        folded = sum(m.weight.numel() * 2 for m in module.modules() if isinstance(m, nn.BatchNorm2d))
        biases = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.BatchNorm2d))  # of convolutions
        made = 2 * 8 if name == "norms" else 0  # ones and zeros of the instance norm without weights
        count = sum(p.numel() for p in module.parameters()) - folded + biases + made
        assert sum(array.size for array in net.params.values()) == count


def test_channels_last() -> None:
    """As Keras's networks are converted: images with channels last, a Transpose before and behind convolutions."""
    rng = np.random.default_rng(0)
    w = {
        "k1": rng.standard_normal((3, 3, 3, 8)) / 5, "k2": rng.standard_normal((3, 3, 8, 1)) / 3,
        "mean": rng.standard_normal(3), "var": rng.uniform(0.5, 2, 3), "scale": rng.uniform(0.5, 2, 8),
        "shift": rng.standard_normal(8), "dense": rng.standard_normal((8, 5)), "bias": rng.standard_normal(5),
    }  # fmt: skip
    nodes = [node("Sub", "x mean", "a"), node("Div", "a var", "b"), node("Transpose", "b", "c", perm=[0, 3, 1, 2])]
    nodes += [
        node("Transpose", "k1", "k1t", perm=[3, 2, 0, 1]),
        node("Conv", "c k1t", "d", auto_pad="SAME_UPPER", strides=[2, 2]),
    ]
    nodes += [node("Transpose", "d", "e", perm=[0, 2, 3, 1]), node("Mul", "e scale", "f"), node("Add", "f shift", "g")]
    nodes += [node("Max", "g zero", "h"), node("Min", "h six", "i"), node("Transpose", "i", "j", perm=[0, 3, 1, 2])]
    nodes += [node("Transpose", "k2", "k2t", perm=[2, 3, 0, 1]), node("Conv", "j k2t", "k", group=8, pads=[1, 1, 1, 1])]
    nodes += [node("Transpose", "k", "l", perm=[0, 2, 3, 1]), node("ReduceMean", "l", "m", axes=[1, 2], keepdims=0)]
    nodes += [node("MatMul", "m dense", "n"), node("Add", "n bias", "o"), node("Softmax", "o", "y")]
    tensors = [tensor(name, array.astype(np.float32)) for name, array in w.items()]
    tensors += [tensor("zero", np.float32(0)), tensor("six", np.float32(6))]
    data = file_of(nodes, [port("x", np.float32, ("n", 15, 17, 3))], [port("y", np.float32)], tensors)
    program = agrees(data, [(15, 17, 3)])
    assert in_numpy(program) == set()

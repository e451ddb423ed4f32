"""The networks that are measured: each a function that returns a fastnn model, and its twin made of torch's modules.

Names of parameters are those of torchvision (of akamaster/pytorch_resnet_cifar10 for `resnet20`), so that their
checkpoints load as they are. An architecture is written once, in the terms of `Parts`, and built from either library's.
To add a network: a function of parts that returns one of them, and a line in `MODELS`.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastnn import layers as L

Part = Any  # a layer of fastnn's, or a module of torch's
Named = Mapping[str, Part]


@dataclass(frozen=True)
class Parts:
    """What networks are made of, in one library."""

    conv: Callable[..., Part]  # (in, out, kernel, stride=1, padding=0, groups=1, bias=False)
    norm: Callable[[int], Part]
    linear: Callable[[int, int], Part]
    relu: Callable[[], Part]
    relu6: Callable[[], Part]
    dropout: Callable[[float], Part]
    max_pool: Callable[..., Part]
    mean: Callable[[], Part]  # over height and width
    flatten: Callable[[], Part]
    chain: Callable[[Named], Part]
    residual: Callable[[Named, Part | None], Part]  # the layers of the main branch, and the shortcut "downsample"
    subsample: Callable[[int, int], Part]  # every other pixel, with channels of zeros on both sides


# ---- architectures ----


def _stages(
    parts: Parts, block: Callable[..., Part], widths: list[int], depths: list[int], n_in: int
) -> Iterator[Part]:
    """Stages of residual blocks, each after the first half as high and wide as the one before."""
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        layers: dict[str, Part] = {}
        for j in range(depth):
            layers[str(j)], n_in = block(parts, n_in, width, 2 if i and not j else 1)
            layers[f"{j}-relu"] = parts.relu()
        yield parts.chain(layers)


def _basic(parts: Parts, n_in: int, n: int, stride: int, *, option: str = "B") -> tuple[Part, int]:
    main = {
        "conv1": parts.conv(n_in, n, 3, stride, 1),
        "bn1": parts.norm(n),
        "relu": parts.relu(),
        "conv2": parts.conv(n, n, 3, 1, 1),
        "bn2": parts.norm(n),
    }
    if option == "A" and stride != 1:
        return parts.residual(main, parts.subsample(n_in, n)), n
    return parts.residual(main, _projection(parts, n_in, n, stride)), n


def _bottleneck(parts: Parts, n_in: int, width: int, stride: int) -> tuple[Part, int]:
    n = 4 * width
    main = {
        "conv1": parts.conv(n_in, width, 1),
        "bn1": parts.norm(width),
        "relu1": parts.relu(),
        "conv2": parts.conv(width, width, 3, stride, 1),
        "bn2": parts.norm(width),
        "relu2": parts.relu(),
        "conv3": parts.conv(width, n, 1),
        "bn3": parts.norm(n),
    }
    return parts.residual(main, _projection(parts, n_in, n, stride)), n


def _projection(parts: Parts, n_in: int, n: int, stride: int) -> Part | None:
    return None if n_in == n and stride == 1 else parts.chain({"0": parts.conv(n_in, n, 1, stride), "1": parts.norm(n)})


def _resnet(
    parts: Parts, block: Callable[..., tuple[Part, int]], depths: list[int], features: int, classes: int
) -> Part:
    first, second, third, fourth = _stages(parts, block, [64, 128, 256, 512], depths, 64)
    return parts.chain(
        {
            "conv1": parts.conv(3, 64, 7, 2, 3),
            "bn1": parts.norm(64),
            "relu": parts.relu(),
            "maxpool": parts.max_pool(3, 2, 1),
            "layer1": first,
            "layer2": second,
            "layer3": third,
            "layer4": fourth,
            "avgpool": parts.mean(),
            "flatten": parts.flatten(),
            "fc": parts.linear(features, classes),
        }
    )


def resnet18(parts: Parts, classes: int = 1000) -> Part:
    """He et al., "Deep Residual Learning", for ImageNet."""
    return _resnet(parts, _basic, [2, 2, 2, 2], 512, classes)


def resnet50(parts: Parts, classes: int = 1000) -> Part:
    """The same with bottlenecks that halve the size in their 3 x 3, as torchvision has them."""
    return _resnet(parts, _bottleneck, [3, 4, 6, 3], 2048, classes)


def resnet20(parts: Parts, classes: int = 10) -> Part:
    """He et al. for CIFAR-10, with shortcuts that have no weights (their option A)."""
    first, second, third = _stages(parts, partial(_basic, option="A"), [16, 32, 64], [3, 3, 3], 16)
    return parts.chain(
        {
            "conv1": parts.conv(3, 16, 3, 1, 1),
            "bn1": parts.norm(16),
            "relu": parts.relu(),
            "layer1": first,
            "layer2": second,
            "layer3": third,
            "avgpool": parts.mean(),
            "flatten": parts.flatten(),
            "linear": parts.linear(64, classes),
        }
    )


def vgg16_bn(parts: Parts, classes: int = 1000, hidden: int = 4096) -> Part:
    """Simonyan and Zisserman's configuration D with batch norm, for images of 224 x 224."""
    features: list[Part] = []
    n_in = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            features += [parts.conv(n_in, width, 3, 1, 1, 1, True), parts.norm(width), parts.relu()]
            n_in = width
        features.append(parts.max_pool(2, 2))
    classifier = [
        *(parts.linear(512 * 7 * 7, hidden), parts.relu(), parts.dropout(0.5)),
        *(parts.linear(hidden, hidden), parts.relu(), parts.dropout(0.5)),
        parts.linear(hidden, classes),
    ]
    return parts.chain(
        {"features": _numbered(parts, features), "flatten": parts.flatten(), "classifier": _numbered(parts, classifier)}
    )


def mobilenet_v2(parts: Parts, classes: int = 1000) -> Part:
    """Sandler et al., "Inverted Residuals and Linear Bottlenecks"."""

    def conv(n_in: int, n: int, kernel: int, stride: int = 1, groups: int = 1) -> Part:
        return _numbered(
            parts, [parts.conv(n_in, n, kernel, stride, kernel // 2, groups), parts.norm(n), parts.relu6()]
        )

    features = [conv(3, 32, 3, 2)]
    n_in = 32
    for expansion, n, repeats, first_stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for stride in [first_stride] + [1] * (repeats - 1):
            wide = expansion * n_in
            main = [conv(n_in, wide, 1)] if expansion > 1 else []
            main += [conv(wide, wide, 3, stride, wide), parts.conv(wide, n, 1), parts.norm(n)]
            block = {"conv": _numbered(parts, main)}
            features.append(parts.residual(block, None) if stride == 1 and n_in == n else parts.chain(block))
            n_in = n
    features.append(conv(320, 1280, 1))
    return parts.chain(
        {
            "features": _numbered(parts, features),
            "avgpool": parts.mean(),
            "flatten": parts.flatten(),
            "classifier": _numbered(parts, [parts.dropout(0.2), parts.linear(1280, classes)]),
        }
    )


def _numbered(parts: Parts, layers: list[Part]) -> Part:
    return parts.chain({str(i): layer for i, layer in enumerate(layers)})


#: name -> (architecture, the shape of one image, trained numbers in its usual size)
MODELS: dict[str, tuple[Callable[..., Part], tuple[int, int, int], int]] = {
    "resnet18": (resnet18, (3, 224, 224), 11_689_512),
    "resnet50": (resnet50, (3, 224, 224), 25_557_032),
    "vgg16_bn": (vgg16_bn, (3, 224, 224), 138_365_992),
    "mobilenet_v2": (mobilenet_v2, (3, 224, 224), 3_504_872),
    "resnet20": (resnet20, (3, 32, 32), 269_722),
}


def build(name: str, rng: int | np.random.Generator | None = None, **sizes: int) -> L.Layer:
    """The network in fastnn's layers, He-initialised."""
    return MODELS[name][0](_fastnn(np.random.default_rng(rng)), **sizes)


def torch_twin(name: str, model: L.Layer, **sizes: int) -> Any:
    """The network in torch's modules, for inference, with the numbers of ``model``."""
    torch = importlib.import_module("torch")
    twin = MODELS[name][0](_torch(), **sizes)
    twin.load_state_dict({key: torch.from_numpy(array) for key, array in model.state().items()})
    return twin.eval()


# ---- from fastnn's layers ----


class Block(L.Residual):
    """A sum whose main branch gives its layers' names without "main", as in torchvision."""

    def __init__(self, main: Named, shortcut: L.Layer | None) -> None:
        super().__init__(L.Sequential(main), shortcut)

    def children(self) -> Iterator[tuple[str, L.Layer]]:
        yield from self["main"].children()
        yield "downsample", self["shortcut"]


class ChannelPad(L.ZeroPad2d):
    """Channels of zeros on both sides."""

    def __init__(self, width: int) -> None:
        super().__init__(0)
        self.padding = (0, 0, 0, 0, width, width)

    def label(self) -> str:
        return f"ChannelPad {self.padding[4]}"


def subsample(n_in: int, n_out: int) -> L.Layer:
    """Every other pixel, a maximum of one, with (out - in) / 2 channels of zeros on both sides."""
    return L.Sequential(L.MaxPool2d(1, 2), ChannelPad((n_out - n_in) // 2))


def _fastnn(rng: np.random.Generator) -> Parts:
    return Parts(
        conv=lambda n_in, n, kernel, stride=1, padding=0, groups=1, bias=False: L.Conv2d(
            n_in, n, kernel, stride, padding, groups=groups, bias=bias, rng=rng
        ),
        norm=L.BatchNorm2d,
        linear=lambda n_in, n: L.Linear(n_in, n, rng=rng),
        relu=L.ReLU,
        relu6=L.ReLU6,
        dropout=L.Dropout,
        max_pool=L.MaxPool2d,
        mean=L.GlobalAvgPool2d,
        flatten=L.Flatten,
        chain=L.Sequential,
        residual=Block,
        subsample=subsample,
    )


# ---- from torch's modules ----


def _torch() -> Parts:
    nn = importlib.import_module("torch").nn

    class Sum(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, main: Named, shortcut: Part | None) -> None:
            super().__init__()
            self.main = list(main)
            for name, layer in main.items():
                self.add_module(name, layer)
            self.downsample = shortcut or nn.Identity()

        def forward(self, x: Any) -> Any:
            y = x
            for name in self.main:
                y = getattr(self, name)(y)
            return y + self.downsample(x)

    class Pad(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self.width = (n_out - n_in) // 2

        def forward(self, x: Any) -> Any:
            return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.width, self.width))

    return Parts(
        conv=lambda n_in, n, kernel, stride=1, padding=0, groups=1, bias=False: nn.Conv2d(
            n_in, n, kernel, stride, padding, groups=groups, bias=bias
        ),
        norm=nn.BatchNorm2d,
        linear=nn.Linear,
        relu=nn.ReLU,
        relu6=nn.ReLU6,
        dropout=nn.Dropout,
        max_pool=nn.MaxPool2d,
        mean=lambda: nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten,
        chain=lambda layers: nn.Sequential(OrderedDict(layers)),
        residual=Sum,
        subsample=Pad,
    )

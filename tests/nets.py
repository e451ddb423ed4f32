"""Small networks that between them use every layer, for the tests of layers, programs and training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastnn.layers import (
    CELU,
    ELU,
    GELU,
    SELU,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Add,
    AvgPool1d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    ChannelShuffle,
    CircularPad2d,
    Concat,
    Constant,
    ConstantPad2d,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    DropConnect,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Graph,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Identity,
    InstanceNorm1d,
    InstanceNorm2d,
    Join,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    Maxout,
    MaxPool1d,
    MaxPool2d,
    Mish,
    Mul,
    Node,
    Normalize,
    Parameter,
    PixelShuffle,
    PixelUnshuffle,
    PReLU,
    Project,
    ReflectionPad2d,
    ReLU,
    ReLU6,
    ReplicationPad2d,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Split,
    StochasticDepth,
    Tanh,
    Threshold,
    Upsample,
    ZeroPad2d,
)

Shape = tuple[int, ...]


def residual_net() -> Layer:
    """Conv-BN-ReLU, residual blocks with and without a shortcut of their own, concat, every pooling, dropout."""
    rng = np.random.default_rng(1)

    def conv(c: int, o: int, k: int = 3, **options: object) -> list[Layer]:
        return [Conv2d(c, o, k, padding=k // 2, bias=False, rng=rng, **options), BatchNorm2d(o)]  # type: ignore[arg-type]

    return Sequential(
        *conv(3, 8),
        ReLU(),
        Residual(Sequential(*conv(8, 8), ReLU(), *conv(8, 8))),
        LeakyReLU(0.1),
        MaxPool2d(3, 2, 1),
        Residual(Sequential(*conv(8, 12, stride=1), Tanh(), *conv(12, 12)), Sequential(*conv(8, 12, 1))),
        ReLU(),
        Concat(Identity(), Conv2d(12, 4, 1, rng=rng)),
        AvgPool2d(2),
        BatchNorm2d(16),
        GELU(),
        Conv2d(16, 16, 3, padding=1, groups=4, rng=rng),
        ELU(0.7),
        GlobalAvgPool2d(),
        Flatten(),
        Dropout(0.3),
        ("scores", Linear(16, 5, rng=rng)),
    )


def mlp() -> Layer:
    """Linear layers with batch norm, dropout twice, and activations that the convolutional net lacks."""
    rng = np.random.default_rng(2)
    return Sequential(
        Linear(12, 16, bias=False, rng=rng),
        BatchNorm1d(16),
        Sigmoid(),
        Dropout(0.5),
        Linear(16, 16, rng=rng),
        GELU("tanh"),
        Dropout(0.2),
        Linear(16, 5, rng=rng),
    )


def shared_net() -> Layer:
    """One layer in two places."""
    rng = np.random.default_rng(3)
    twice = Linear(12, 12, rng=rng)
    return Sequential(twice, Tanh(), twice, ReLU(), Linear(12, 5, rng=rng))


def odd_geometry() -> Layer:
    """Strides, dilations, paddings and windows that are not square; ceil mode; softmax inside."""
    rng = np.random.default_rng(4)
    return Sequential(
        Conv2d(3, 6, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), rng=rng),
        MaxPool2d((2, 3), (1, 2), ceil_mode=True),
        AvgPool2d(2, ceil_mode=True, count_include_pad=False),
        Conv2d(6, 6, 1, groups=6, rng=rng),
        Softmax(1),
        Flatten(),
        Linear(6 * 3 * 3, 5, rng=rng),
    )


def stochastic_net() -> Layer:
    """Weights and whole branches that are dropped, for each sample and for all."""
    rng = np.random.default_rng(6)

    def main(p: float, mode: str) -> Layer:
        inner = Sequential(Conv2d(4, 4, 3, padding=1, rng=rng), BatchNorm2d(4), ReLU())
        return Residual(StochasticDepth(inner, p, mode))

    return Sequential(
        Conv2d(3, 4, 3, padding=1, rng=rng),
        main(0.5, "row"),
        main(0.3, "row"),
        main(0.4, "batch"),
        Flatten(),
        DropConnect(4 * 36, 8, 0.5, bias=False, rng=rng),
        Tanh(),
        DropConnect(8, 5, 0.2, rng=rng),
    )


def wired() -> Layer:
    """A graph: values read several times, a layer in two nodes, a value that nothing reads, every joint, containers."""
    rng = np.random.default_rng(8)

    def conv(c: int, o: int, k: int = 3) -> Conv2d:
        return Conv2d(c, o, k, padding=k // 2, rng=rng)

    twice = conv(4, 4)
    inner = Graph(
        ("a", conv(4, 4), "x"),
        ("b", conv(4, 4), "y"),
        ("sum", Add(), "a", "y"),
        inputs=("x", "y"),
        outputs=("sum", "b"),
    )
    return Graph(
        ("scores", Linear(6, 5, rng=rng), "features"),  # in any order
        ("stem.conv", conv(3, 8), "image"),
        ("stem.norm", BatchNorm2d(8), "stem.conv"),
        ("stem", ReLU(), "stem.norm"),
        Node("parts", Split([4, 2, 2]), "stem", outputs=("left", "right", "nothing")),
        ("first", twice, "left"),
        ("second", twice, "first"),
        Node("inner", inner, "second", "left", outputs=("p", "q")),
        ("block", Residual(Sequential(conv(4, 4), BatchNorm2d(4), ReLU(), Dropout(0.2), conv(4, 4))), "p"),
        ("tower", Concat(Identity(), conv(4, 2, 1)), "p"),
        ("joined", Join(), "block", "q", "tower", "right"),
        ("pooled", GlobalAvgPool2d(), "joined"),
        ("gate", Sigmoid(), "pooled"),
        ("gated", Mul(), "joined", "gate"),
        ("bounded", Tanh(), "gated"),
        ("squared", Mul(), "bounded", "bounded"),
        ("again", Add(), "squared", "gated"),
        ("small", AvgPool2d(6), "again"),
        ("mixed", conv(16, 6, 1), "small"),
        ("rows", Reshape(-1, 4), "mixed"),
        ("flat", Reshape(4, -1), "rows"),
        ("shift", Constant(rng.standard_normal((3, 4, 6), np.float32))),
        ("weight", Parameter(rng.standard_normal((3, 4, 6), np.float32))),
        ("weighted", Mul(), "flat", "weight"),
        ("shifted", Add(), "weighted", "shift"),
        ("matrix", Reshape(24), "shifted"),
        ("features", Linear(24, 6, rng=rng), "matrix"),
        inputs="image",
        outputs="scores",
    )


def normalised_net() -> Layer:
    """Norms that need no batch, frozen batch norm, pooling to given sizes."""
    rng = np.random.default_rng(7)
    return Sequential(
        Conv2d(3, 8, 3, padding=1, rng=rng),
        GroupNorm(2, 8),
        ReLU(),
        Residual(Sequential(Conv2d(8, 8, 3, padding=1, rng=rng), InstanceNorm2d(8, affine=True), Tanh())),
        AdaptiveAvgPool2d((5, None)),
        BatchNorm2d(8, frozen=True),
        InstanceNorm2d(8),
        Concat(AdaptiveMaxPool2d(2), AdaptiveAvgPool2d(2)),
        GroupNorm(16, 16, affine=False),
        LayerNorm((16, 2, 2)),
        Concat(GlobalMaxPool2d(), AdaptiveAvgPool2d(1)),
        Flatten(),
        LayerNorm(32, bias=False),
        Linear(32, 5, rng=rng),
    )


def sequence_net() -> Layer:
    """Rows of numbers (N, C, L)."""
    rng = np.random.default_rng(8)
    return Sequential(
        InstanceNorm1d(4, affine=True),
        MaxPool1d(3, 2, 1, ceil_mode=True),
        BatchNorm1d(4, frozen=True),
        AvgPool1d(2, ceil_mode=True, count_include_pad=False),
        GroupNorm(2, 4),
        LayerNorm(6, elementwise_affine=False),
        Flatten(),
        Linear(24, 5, rng=rng),
    )


def generator() -> Layer:
    """Everything that changes the size of images or the order of their elements, and transposed convolution."""
    rng = np.random.default_rng(6)
    return Sequential(
        ReflectionPad2d(1),
        Conv2d(4, 8, 3, rng=rng),
        Tanh(),
        ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False, rng=rng),
        BatchNorm2d(6),
        LeakyReLU(0.1),
        ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1, groups=2, rng=rng),
        BatchNorm2d(8),
        GELU(),
        PixelUnshuffle(2),
        ChannelShuffle(4),
        Conv2d(32, 8, 1, rng=rng),
        PixelShuffle(2),
        Upsample(size=(9, 10), mode="bilinear"),
        ReplicationPad2d((1, 0, 0, 2)),
        CircularPad2d(1),
        ConstantPad2d((-1, 0, 0, 1), 0.5),
        ZeroPad2d((0, 1, 0, 0)),
        Upsample(scale_factor=0.5, mode="bicubic"),
        Flatten(),
        Linear(84, 5, rng=rng),
    )


def signal_net() -> Layer:
    """Convolutions of one dimension."""
    rng = np.random.default_rng(7)
    return Sequential(
        Conv1d(3, 8, 5, padding=2, bias=False, rng=rng),
        BatchNorm1d(8),
        Tanh(),
        Conv1d(8, 8, 3, stride=2, padding=2, dilation=2, groups=2, rng=rng),
        Sigmoid(),
        Upsample(scale_factor=1.5, mode="linear"),
        Flatten(),
        Linear(120, 5, rng=rng),
    )


def activations() -> Layer:
    """The other activations, behind a convolution, batch norm, a sum, a linear layer and one another."""
    rng = np.random.default_rng(6)
    return Sequential(
        Conv2d(3, 8, 3, rng=rng),
        PReLU(8),
        Conv2d(8, 12, 1, rng=rng),
        ReLU6(),
        BatchNorm2d(12),
        Hardswish(),
        Residual(Sequential(Conv2d(12, 12, 1, rng=rng), SiLU())),
        Mish(),
        Maxout(3),
        Conv2d(4, 4, 1, rng=rng),
        CELU(0.5),
        PReLU(init=-0.3),
        Flatten(),
        Linear(4 * 9, 16, rng=rng),
        Softplus(2.0),
        Linear(16, 16, rng=rng),
        SELU(),
        Maxout(),
        BatchNorm1d(8),
        Softsign(),
        Linear(8, 8, rng=rng),
        Hardtanh(-0.7, 0.9),
        Hardsigmoid(),
        Linear(8, 5, rng=rng),
        Threshold(-0.5, -0.5),
        LogSoftmax(),
    )


def preprocessed() -> Layer:
    """Fixed maps in front: some that go into what follows when compiled, some that cannot."""
    rng = np.random.default_rng(9)

    def matrix(k: int, d: int) -> np.ndarray:
        return rng.standard_normal((k, d)).astype(np.float32) / np.float32(np.sqrt(d))

    return Sequential(
        Normalize(np.zeros((3, 6, 6), np.float32)),  # a mean for each element
        Normalize(np.zeros(3, np.float32)),
        Conv2d(3, 6, 3, stride=(2, 1), rng=rng),
        ReLU(),
        Normalize(np.zeros(6, np.float32)),
        Conv2d(6, 4, 3, padding=1, groups=2, rng=rng),
        Tanh(),
        Project(matrix(32, 32), np.ones(32, np.float32), shape=(4, 2, 4)),
        Conv2d(4, 4, 1, rng=rng),
        Project(matrix(20, 32), shape=(5, 4)),
        Normalize(np.zeros((5, 4), np.float32)),
        Flatten(),
        Linear(20, 5, rng=rng),
    )


#: name -> (how to build it, the shape of its input)
NETS: dict[str, tuple[Callable[[], Layer], Shape]] = {
    "residual": (residual_net, (4, 3, 12, 12)),
    "mlp": (mlp, (6, 12)),
    "shared": (shared_net, (6, 12)),
    "stochastic": (stochastic_net, (4, 3, 6, 6)),
    "activations": (activations, (4, 3, 5, 5)),
    "odd_geometry": (odd_geometry, (3, 3, 14, 14)),
    "wired": (wired, (3, 3, 12, 12)),
    "normalised": (normalised_net, (3, 3, 7, 6)),
    "sequence": (sequence_net, (3, 4, 22)),
    "generator": (generator, (2, 4, 6, 6)),
    "preprocessed": (preprocessed, (4, 3, 6, 6)),
    "signal": (signal_net, (4, 3, 20)),
}


def build(name: str, dtype: type = np.float32) -> tuple[Layer, np.ndarray, np.ndarray]:
    """The net with statistics that are not trivial, an input for it, and labels."""
    make, shape = NETS[name]
    rng = np.random.default_rng(5)
    model = make().copy(dtype=dtype)
    for key, array in model.buffers.items():
        array[...] = rng.uniform(0.5, 2.0, array.shape) if key.endswith("var") else rng.normal(0.0, 0.5, array.shape)
    x = rng.standard_normal(shape).astype(dtype)
    labels = rng.integers(0, 5, shape[0])
    return model, x, labels

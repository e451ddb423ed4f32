"""The networks of bench/models.py: their names and sizes, their twins in torch, and a trained one on its test set."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn.layers import Layer

BENCH = Path(__file__).parents[1] / "bench"


def module(name: str) -> ModuleType:
    path = BENCH / f"{name}.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside these tests")
    if f"bench_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[f"bench_{name}"] = loaded  # dataclasses look themselves up there
        spec.loader.exec_module(loaded)
    return sys.modules[f"bench_{name}"]


NAMES = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "resnet20")
every_model = pytest.mark.parametrize("name", NAMES)
#: for one image; the literature has 1.8, 4.1 and 0.3 * 10^9, and 41 * 10^6
MULTIPLY_ADDS = {
    "resnet18": 1_814_073_344,
    "resnet50": 4_089_184_256,
    "mobilenet_v2": 300_774_272,
    "resnet20": 40_551_040,
}
#: the linear layers of VGG-16 hold 124 of its 138 million numbers; here narrow ones stand for them
SIZES: dict[str, dict[str, int]] = {"vgg16_bn": {"hidden": 32, "classes": 10}}


def trained(name: str) -> Layer:
    """The network with statistics, scales and shifts of batch norm as training leaves them: none is 0 or 1."""
    rng = np.random.default_rng(1)
    model: Layer = module("models").build(name, 0, **SIZES.get(name, {}))
    for key, array in {**model.params, **model.buffers}.items():
        if array.ndim == 1:
            near = 1.0 if key.endswith(("running_var", "weight")) else 0.0
            array[...] = near + rng.uniform(-0.3, 0.3, array.shape)
    return model


@every_model
def test_sizes(name: str) -> None:
    models = module("models")
    _, image, count = models.MODELS[name]
    model = models.build(name, 0, **SIZES.get(name, {}))
    if name == "vgg16_bn":
        count += -(25088 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000)
        count += (25088 * 32 + 32) + (32 * 32 + 32) + (32 * 10 + 10)
    assert sum(array.size for array in model.params.values()) == count
    classes = 10 if name in ("resnet20", "vgg16_bn") else 1000
    assert model.output_shape((2, *image)) == (2, classes)
    if name != "vgg16_bn":
        work = sum(step.flops for step in fnn.compile(model, (2, *image)).steps())
        assert work == 2 * 2 * MULTIPLY_ADDS[name]
    assert f"{count:,}" in model.summary((2, *image))


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("resnet18", ["conv1.weight", "layer1.1.bn2.running_var", "layer4.0.downsample.1.bias", "fc.bias"]),
        ("resnet50", ["layer1.0.downsample.0.weight", "layer3.5.conv3.weight", "layer4.2.bn3.weight"]),
        ("vgg16_bn", ["features.0.bias", "features.41.running_mean", "classifier.6.weight"]),
        ("mobilenet_v2", ["features.0.0.weight", "features.1.conv.0.0.weight", "features.17.conv.3.bias",
                          "features.18.1.running_mean", "classifier.1.weight"]),
        ("resnet20", ["conv1.weight", "layer2.0.conv1.weight", "layer3.2.bn2.bias", "linear.weight"]),
    ],
)  # fmt: skip
def test_names_are_those_of_published_checkpoints(name: str, some: list[str]) -> None:
    state = module("models").build(name, 0, **SIZES.get(name, {})).state()
    assert set(some) <= set(state)
    assert not any("main" in key or "shortcut" in key for key in state)


@every_model
def test_twin_in_torch(name: str) -> None:
    """Within 1e-5 of the output's scale: sums of at most 25,088 products in another order, through up to 53 layers."""
    torch = pytest.importorskip("torch", reason="torch, of which the twins are made, is not installed")
    models, model = module("models"), trained(name)
    x = np.random.default_rng(2).standard_normal((2, *models.MODELS[name][1]), np.float32)
    with torch.inference_mode():
        want = models.torch_twin(name, model, **SIZES.get(name, {}))(torch.from_numpy(x)).numpy()
    scale = float(np.abs(want).max())
    assert scale > 0
    for got in (model(x), fnn.compile(model, x.shape)(x)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale)


def test_gradients_of_the_shortcut_without_weights() -> None:
    models = module("models")
    layer = models.subsample(2, 6)
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4))
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y[:, 2:4], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 4:].any()
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = np.zeros_like(x)
    dx[:, :, ::2, ::2] = dy[:, 2:4]
    np.testing.assert_array_equal(backward(dy), dx)
    assert not layer.params and not layer.grads


def test_resnet20_trains() -> None:
    """A step by program and by closures, whose losses are the same bits."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3, 32, 32), np.float32), rng.integers(0, 10, 4)
    losses = []
    for program in (True, False):
        model = module("models").build("resnet20", 0)
        trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(lr=0.01), rng=0, program=program)
        losses.append([trainer.step(x, y) for _ in range(3)])
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_resnet20_on_cifar10(data_folder: Path, monkeypatch: Any) -> None:
    """91.73 % of the 10,000 test images, which is what its authors give (8.27 % errors)."""
    pytest.importorskip("PIL", reason="Pillow, which reads the images, is not installed")
    monkeypatch.syspath_prepend(str(BENCH))
    result = module("accuracy").resnet20_on_cifar10(data_folder)
    assert result.images == 10_000
    assert f"{result.layers:.2f}" == f"{result.compiled:.2f}" == "91.73"
    assert result.difference < 5e-6  # folded batch norm rounds weights once more, over 20 layers

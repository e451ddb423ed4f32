"""The trained networks to hand on their test sets: accuracy by layers and compiled, how far the two are apart, and
accuracy in the faster precisions.

    FASTNN_DATA=folder python bench/accuracy.py

In the folder: models/resnet20-12fca82f.th (github.com/akamaster/pytorch_resnet_cifar10; its authors give 8.27 % errors)
and cifar10/test-0.webp, a lossless sheet of 100 x 100 images of 32 x 32, row by row, with cifar10/test-labels.npy;
models/mnist.onnx (github.com/microsoft/onnxruntime-inference-examples) and mnist.npz with x_test and y_test.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastnn as fnn

sys.path.insert(0, str(Path(__file__).parent))
import models

#: of the images between 0 and 1, by channel: those that the network was trained with
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 500


@dataclass(frozen=True)
class Result:
    """Percentages of the test images, and the largest difference of scores as a part of the largest score."""

    images: int
    layers: float
    compiled: float
    difference: float
    faster: dict[str, float]  # compiled for the other precisions, where there are tiles


def cifar10_test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images, (N, 3, 32, 32) float32 and normalised, and their labels."""
    from PIL import Image

    with Image.open(folder / "cifar10" / "test-0.webp") as image:
        sheet = np.asarray(image.convert("RGB"))
    images = sheet.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    scale = (1 / (255 * np.array(STD))).reshape(-1, 1, 1)
    shift = (np.array(MEAN) / STD).reshape(-1, 1, 1)
    return (images * scale - shift).astype(np.float32), np.load(folder / "cifar10" / "test-labels.npy")


def resnet20_on_cifar10(folder: Path) -> Result:
    """The ResNet-20, read from its checkpoint."""
    model = models.build("resnet20", 0)
    model.load_state(fnn.load_state(folder / "models" / "resnet20-12fca82f.th"))
    return measure(model, *cifar10_test(folder))


def mnist(folder: Path) -> Result:
    """The network for handwritten digits, read from its ONNX file."""
    net = fnn.onnx.load(folder / "models" / "mnist.onnx")
    with np.load(folder / "mnist.npz") as data:
        x, labels = data["x_test"].reshape(-1, 1, 28, 28).astype(np.float32), data["y_test"]
    return measure(net, x, labels)


def measure(model: fnn.layers.Layer, x: np.ndarray, labels: np.ndarray) -> Result:
    """Accuracies on all images, by layers and compiled."""
    program = fnn.compile(model, (BATCH, *x.shape[1:]))
    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    by_layers = np.concatenate([model(batch) for batch in batches])
    by_program = np.concatenate([program(batch) for batch in batches])
    layers, compiled = (100.0 * float(np.mean(y.argmax(1) == labels)) for y in (by_layers, by_program))
    difference = float(np.abs(by_layers - by_program).max() / np.abs(by_layers).max())
    faster = {}
    for precision in ("float32-fast", "bfloat16"):
        program = fnn.compile(model, (BATCH, *x.shape[1:]), precision=precision)
        found = np.concatenate([program(batch).argmax(1) for batch in batches])
        faster[precision] = 100.0 * float(np.mean(found == labels))
    return Result(len(x), layers, compiled, difference, faster)


def main() -> None:
    folder = os.environ.get("FASTNN_DATA")
    if not folder:
        sys.exit("FASTNN_DATA is not set; it names the folder of data sets and trained networks")
    for title, run in (
        ("ResNet-20 on the {:,} test images of CIFAR-10", resnet20_on_cifar10),
        ("mnist.onnx on the {:,} test images of MNIST", mnist),
    ):
        result = run(Path(folder))
        print(title.format(result.images))
        print(f"  layers    {result.layers:.2f} %")
        print(f"  compiled  {result.compiled:.2f} %")
        print(f"  largest difference of scores {result.difference:.1e} of the largest score")
        for precision, accuracy in result.faster.items():
            print(f"  {precision:<12} {accuracy:.2f} %")


if __name__ == "__main__":
    main()

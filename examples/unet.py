"""A U-Net: which pixels are the rim of a disc, beside a square, under noise? Skip connections carry what pooling loses.

`Graph` wires the layers by names; the same network without its skips is trained beside it. Needs NumPy alone. Runs in
about ten seconds.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from fastnn.layers import BatchNorm2d, Conv2d, Graph, Join, Layer, MaxPool2d, ReLU, Sequential, Upsample

SIZE = 24


def scenes(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images (count, 1, SIZE, SIZE) of a disc and a square, with noise, and the pixels of the discs' rims."""
    row, column = np.mgrid[:SIZE, :SIZE]
    x, y = np.zeros((2, count, 1, SIZE, SIZE), np.float32)
    for image, mask in zip(x[:, 0], y[:, 0], strict=True):
        radius, half = rng.uniform(3, 5), int(rng.integers(3, 5))
        (top, left), (up, across) = rng.uniform(4, SIZE - 5, (2, 2))
        image[(abs(row - up) <= half) & (abs(column - across) <= half)] = 1
        distance = np.hypot(row - top, column - left)
        image[distance <= radius] = 1
        mask[abs(distance - radius) <= 0.7] = 1
    return x + rng.normal(0, 0.3, x.shape).astype(np.float32), y


def block(channels: int, outputs: int, rng: np.random.Generator) -> Layer:
    """Two convolutions with batch norm and ReLU."""
    return Sequential(
        ("conv1", Conv2d(channels, outputs, 3, padding=1, bias=False, rng=rng)),
        ("norm1", BatchNorm2d(outputs)),
        ("act1", ReLU()),
        ("conv2", Conv2d(outputs, outputs, 3, padding=1, bias=False, rng=rng)),
        ("norm2", BatchNorm2d(outputs)),
        ("act2", ReLU()),
    )


def unet(skips: bool) -> Graph:
    """Down twice and up twice; with skips each way up sees what the way down saw at its resolution."""
    rng = np.random.default_rng(0)
    a, b, c = 8, 12, 16
    return Graph(
        ("down1", block(1, a, rng), "image"),
        ("half", MaxPool2d(2), "down1"),
        ("down2", block(a, b, rng), "half"),
        ("quarter", MaxPool2d(2), "down2"),
        ("bottom", block(b, c, rng), "quarter"),
        ("grow2", Upsample(scale_factor=2), "bottom"),
        ("joined2", Join(), "grow2", *["down2"] * skips),
        ("up2", block(c + b * skips, b, rng), "joined2"),
        ("grow1", Upsample(scale_factor=2), "up2"),
        ("joined1", Join(), "grow1", *["down1"] * skips),
        ("up1", block(b + a * skips, a, rng), "joined1"),
        ("rim", Conv2d(a, 1, 1, rng=rng), "up1"),
        inputs="image",
    )


def overlap(scores: np.ndarray, masks: np.ndarray) -> float:
    """Pixels that are found and right, of those that are found or right."""
    found, right = scores > 0, masks == 1
    return float((found & right).sum() / (found | right).sum())


def main() -> tuple[float, float]:
    """Return the overlap on new scenes, without and with skip connections."""
    x, y = scenes(512, np.random.default_rng(1))
    test, masks = scenes(64, np.random.default_rng(2))
    results = []
    for skips in (False, True):
        model = unet(skips)
        trainer = fnn.Trainer(model, "binary_cross_entropy_with_logits", fnn.optim.Adam(lr=0.01), rng=0)
        history = trainer.fit((x, y), epochs=12, batch_size=16, progress=False)
        program = fnn.compile(model, test.shape)
        results.append(overlap(program(test), masks))
        print(f"{'with' if skips else 'without'} skips: loss {history.loss[-1]:.3f}, overlap {results[-1]:.1%}")
    print(model.summary(test.shape))
    return results[0], results[1]


if __name__ == "__main__":
    main()

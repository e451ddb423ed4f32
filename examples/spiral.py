"""Three spirals that no straight line can tell apart: a linear classifier against one hidden layer (CS231n's example).

Needs NumPy alone. Runs in about a second.
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from fastnn.layers import Layer, Linear, ReLU, Sequential


def spirals(points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (3 * points, 2) coordinates and their classes: three arms, with noise in the angle."""
    classes = np.repeat(np.arange(3), points)
    radius = np.tile(np.linspace(0, 1, points), 3)
    angle = 4 * (classes + radius) + rng.normal(0, 0.2, 3 * points)
    x = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return x.astype(np.float32), classes


def accuracy_of(name: str, model: Layer, epochs: int) -> float:
    """Train the model on 300 points; return its accuracy on 3,000 others."""
    train, test = spirals(100, np.random.default_rng(0)), spirals(1000, np.random.default_rng(1))
    optimizer = fnn.optim.SGD(lr=1.0, momentum=0.9, weight_decay=1e-3)
    trainer = fnn.Trainer(model, optimizer=optimizer, rng=0)
    history = trainer.fit(train, epochs=epochs, batch_size=300, progress=False)
    result = trainer.evaluate(*test)
    print(f"{name}: loss {history.loss[0]:.2f} -> {history.loss[-1]:.2f}, test accuracy {result['accuracy']:.1%}")
    return result["accuracy"]


def main() -> tuple[float, float]:
    """Return the accuracy without and with a hidden layer."""
    hidden = Sequential(Linear(2, 100, rng=0), ReLU(), Linear(100, 3, rng=1))
    return accuracy_of("linear", Linear(2, 3, rng=0), 200), accuracy_of("one hidden layer of 100", hidden, 1000)


if __name__ == "__main__":
    main()

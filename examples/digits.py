"""Train a small convolutional network on handwritten digits, save it, load it elsewhere, compile it, predict.

Needs the extra "train" (scikit-learn has the digits). Runs in a few seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastnn as fnn
from fastnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential


def network(rng: int) -> Sequential:
    weights = np.random.default_rng(rng)
    return Sequential(
        Conv2d(1, 16, 3, padding=1, bias=False, rng=weights),
        BatchNorm2d(16),
        ReLU(),
        MaxPool2d(2),
        Conv2d(16, 32, 3, padding=1, bias=False, rng=weights),
        BatchNorm2d(32),
        ReLU(),
        Flatten(),
        Dropout(0.3),
        ("scores", Linear(32 * 4 * 4, 10, rng=weights)),
    )


def main() -> float:
    """Return the accuracy on the images that were not trained on."""
    digits = load_digits()
    images = np.asarray(digits.images[:, None] / 16, np.float32)  # (N, 1, 8, 8), from 0 to 1
    x, x_test, y, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )

    model = network(rng=0)
    print(model.summary(x[:1].shape))
    trainer = fnn.Trainer(model, optimizer=fnn.optim.Adam(lr=0.003), rng=0)
    print(trainer.fit((x, y), validation=(x_test, y_test), epochs=8, batch_size=64))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        fnn.save_state(path, model.state())
        print(f"\nsaved {path.name}, {path.stat().st_size / 1024:.0f} KB: {', '.join(model.state())}")

        # Somewhere else, where only fastnn and NumPy are: the same network, its weights from the file.
        twin = network(rng=1)
        twin.load_state(fnn.load_state(path))

    program = fnn.compile(twin, (1, 1, 8, 8))  # any other batch size works too
    print(f"\n{program.describe()}")
    scores = program(x_test)
    assert np.allclose(scores, model(x_test), atol=1e-4)

    accuracy = float((scores.argmax(1) == y_test).mean())
    print(f"\ntest accuracy {accuracy:.2%}; the first five are {scores[:5].argmax(1)}, and should be {y_test[:5]}")
    return accuracy


if __name__ == "__main__":
    main()

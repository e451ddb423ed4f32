"""A layer of one's own in NumPy, its gradients checked, trained inside a network.

``Swish`` is x * sigmoid(beta x) with one trained beta for each feature. A layer needs no more than ``__call__``
(inference), ``forward`` (training: the output and the function that takes its gradient back) and the names of its
trained arrays. Needs NumPy alone. Runs in about a second.
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from fastnn.layers import Layer, Linear, Sequential
from fastnn.layers.base import Array, Backward


class Swish(Layer):
    """y = x s(beta x), where s is the logistic function; x (N, features)."""

    parameters = ("beta",)

    def __init__(self, features: int) -> None:
        self.beta = np.ones(features, np.float32)

    def __call__(self, x: Array) -> Array:
        return self.forward(x)[0]

    def forward(self, x: Array, rng: object = None) -> tuple[Array, Backward]:
        beta = self.beta
        s = 1 / (1 + np.exp(-beta * x))
        y = x * s

        def backward(dy: Array) -> Array:
            slope = dy * x * s * (1 - s)  # dy times dy/d(beta x)
            self.gradient("beta")[...] += (slope * x).sum(0)  # add: several passes may come by before a step
            return dy * s + slope * beta

        return y, backward

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


def main() -> tuple[bool, float]:
    """Return whether the gradients are right, and the accuracy after training."""
    rng = np.random.default_rng(0)
    report = fnn.gradcheck(Swish(7), rng.standard_normal((5, 7)))
    print(f"Swish alone: {report}")

    model = Sequential(Linear(2, 32, rng=rng), Swish(32), Linear(32, 2, rng=rng))
    print(model.summary((1, 2)))
    x = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    inside = (np.hypot(*x.T) < 0.7).astype(int)  # a disc: no line separates it
    trainer = fnn.Trainer(model, optimizer=fnn.optim.Adam(lr=0.02), rng=0)
    history = trainer.fit((x[:1000], inside[:1000]), epochs=20, batch_size=50, progress=False)
    accuracy = trainer.evaluate(x[1000:], inside[1000:])["accuracy"]
    print(f"loss {history.loss[0]:.3f} -> {history.loss[-1]:.3f}, test accuracy {accuracy:.1%}")
    print(f"beta went from 1 to {model.params['1.beta'].min():.2f} .. {model.params['1.beta'].max():.2f}")
    return bool(report), accuracy


if __name__ == "__main__":
    main()

"""Dropout."""

from __future__ import annotations

from numpy.typing import ArrayLike

from .. import functional as F
from ..random import RNG, as_stream
from .base import Array, Backward, Layer, Shape

__all__ = ["Dropout"]


class Dropout(Layer):
    """In training, 0 with probability p, else x / (1 - p); in inference, x. See `fastnn.functional.dropout`.

    Parameters
    ----------
    p : float
        The probability to DROP an element (cs231n's own code uses the probability to keep it).

    Examples
    --------
    >>> layer = Dropout(0.5)
    >>> layer(np.ones(2, np.float32))
    array([1., 1.], dtype=float32)
    >>> y, backward = layer.forward(np.ones(2, np.float32), rng=0)
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = F._probability("Dropout", p)

    def __call__(self, x: ArrayLike) -> Array:
        return F._array("dropout", "x", x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        if rng is None:
            raise TypeError("Dropout.forward needs rng=, a seed or a numpy.random.Generator")
        p = self.p
        y, mask = F.dropout(x, p, rng=as_stream(rng))
        return y, lambda dy: F.dropout_backward(dy, mask, p)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def label(self) -> str:
        return f"Dropout {self.p:g}"

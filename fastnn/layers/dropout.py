"""Layers that drop at random in training, and nothing in inference: Dropout, DropConnect, StochasticDepth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG, as_stream
from .base import Array, Backward, Layer, Shape
from .container import _Container
from .linear import Linear

__all__ = ["DropConnect", "Dropout", "StochasticDepth"]


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


class DropConnect(Linear):
    """A linear layer whose weights are dropped in training: x @ dropped(weight).T + bias.

    In training each weight is 0 with probability p, else weight / (1 - p), the same for all rows of the batch; in
    inference the weights are used as they are, which is the expectation. It can be recorded and compiled.

    Parameters
    ----------
    in_features, out_features : int
    p : float
        The probability to DROP a weight.
    bias : bool
        The bias is never dropped.
    rng : int or numpy.random.Generator, optional
        For the initial weights, as in `Linear`.

    Attributes
    ----------
    weight : ndarray (out, in)
    bias : ndarray (out,) or None

    References
    ----------
    Wan et al., ICML 2013 (who draw for each row, and sample at test time); CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> layer = DropConnect(3, 2, p=0.5, rng=0)
    >>> layer(np.zeros((4, 3), np.float32)).shape
    (4, 2)
    >>> y, backward = layer.forward(np.ones((4, 3), np.float32), rng=0)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        p: float = 0.5,
        bias: bool = True,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.p = F._probability("DropConnect", p)
        super().__init__(in_features, out_features, bias, rng=rng)

    def forward(self, x: ArrayLike, rng: RNG = None, *, need_dx: bool = True) -> tuple[Array, Backward]:
        if rng is None:
            raise TypeError("DropConnect.forward needs rng=, a seed or a numpy.random.Generator")
        p = self.p
        w, mask = F.dropout(self.weight, p, rng=as_stream(rng))

        def backward(dy: Array) -> Array | None:
            dx, dw, db = F.linear_backward(dy, x, w, need_dx=need_dx)
            _add(F.dropout_backward(dw, mask, p), self.gradient("weight"))
            if self.bias is not None and db is not None:
                _add(db, self.gradient("bias"))
            return dx

        return F.linear(x, w, self.bias), backward

    def label(self) -> str:
        return f"DropConnect {self.weight.shape[1]}->{self.weight.shape[0]}, {self.p:g}"


def _add(part: Array, gradient: Array) -> None:
    F._K.copy(part.astype(gradient.dtype, copy=False), True, gradient)


class DropSamples(Layer):
    """What `StochasticDepth` does with the output of its layer."""

    def __init__(self, p: float, mode: str) -> None:
        self.p, self.mode = p, mode

    def __call__(self, x: ArrayLike) -> Array:
        return F._array("stochastic_depth", "x", x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        if rng is None:
            raise TypeError("StochasticDepth.forward needs rng=, a seed or a numpy.random.Generator")
        p, mode = self.p, self.mode
        y, mask = F.stochastic_depth(x, p, mode, rng=as_stream(rng))
        return y, lambda dy: F.stochastic_depth_backward(dy, mask, p, mode)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def label(self) -> str:
        return f"StochasticDepth {self.p:g} {self.mode}"


class StochasticDepth(_Container):
    """A layer whose output is dropped in training: the main branch of a `Residual`, which then is its shortcut alone.

    In training the output is 0 with probability p, else divided by 1 - p; in inference it is as it is. What is dropped
    is computed all the same. It can be recorded and compiled, where nothing of it is left.

    Parameters
    ----------
    main : Layer
    p : float
        The probability to DROP; usually it grows with depth, from 0 to 0.5 at the last block.
    mode : str
        "row" draws for each sample, "batch" once for the whole batch, as in the paper.

    References
    ----------
    Huang et al., ECCV 2016; CS231n, "Training Neural Networks II".

    Examples
    --------
    >>> from fastnn.layers import Conv2d, Residual
    >>> block = Residual(StochasticDepth(Conv2d(2, 2, 3, padding=1, rng=0), p=0.2))
    >>> block(np.zeros((1, 2, 4, 4), np.float32)).shape
    (1, 2, 4, 4)
    """

    def __init__(self, main: Layer, p: float = 0.5, mode: str = "row") -> None:
        super().__init__({"main": main})
        if mode not in ("row", "batch"):
            raise ValueError(f"StochasticDepth: mode must be 'row' or 'batch', got {mode!r}")
        self.drop = DropSamples(F._probability("StochasticDepth", p), mode)

    @property
    def p(self) -> float:
        """The probability to drop."""
        return self.drop.p

    @p.setter
    def p(self, p: float) -> None:
        # A new layer: whoever recorded the old one sees by this layer's version that it is gone.
        self.drop = DropSamples(F._probability("StochasticDepth", p), self.drop.mode)

    def _inside(self, call: Callable[[Layer], Any], shape: Shape) -> Any:
        try:
            return call(self["main"])
        except ShapeError as error:
            raise self._located(error, "main", shape) from None

    def __call__(self, x: ArrayLike) -> Array:
        return self._inside(lambda main: main(x), np.shape(x))

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        stream = as_stream(rng)
        y, inner = self._inside(lambda main: main.forward(x, stream), np.shape(x))
        y, outer = self.drop.forward(y, stream)
        return y, lambda dy: inner(outer(dy))

    def trace(self, builder: Any, x: Any) -> Any:
        return builder.add(self.drop, builder.trace("main", self["main"], x))

    def output_shape(self, shape: Shape) -> Shape:
        return self._inside(lambda main: main.output_shape(shape), shape)

    def _rows(  # type: ignore[override]
        self, name: str, shape: Shape
    ) -> Iterator[tuple[str, str, Shape, int]]:
        yield from self["main"]._rows(f"{name}.main" if name else "main", shape)
        yield name, self.label(), self.output_shape(shape), 0

    def label(self) -> str:
        return self.drop.label()

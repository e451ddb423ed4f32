"""Layers made of layers, and those that only move data: Sequential, Residual, Concat, Flatten, Identity.

Containers pass ``rng`` on as one `Stream`, so that every layer that draws gets its own number, and put the layer's
name in front of shape errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import functional as F
from ..errors import ShapeError
from ..random import RNG, as_stream
from .base import Array, Backward, Layer, Shape, unchanged_on_error
from .function import Add, Join

__all__ = ["Concat", "Flatten", "Identity", "Residual", "Sequential"]


class _Container(Layer):
    """Layers by name. The set of layers is fixed when it is built."""

    #: whether a name may have dots, as the names of arrays in other people's files do
    dotted: ClassVar[bool] = False

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                hint = "; put a * before a list of layers" if isinstance(layer, (list, tuple)) else ""
                raise TypeError(f"{type(self).__name__}: {name!r} is {type(layer).__name__}, not a layer{hint}")
            if not name or ("." in name and not self.dotted):
                rule = "at least one character" + (" and no dot" * (not self.dotted))
                raise ValueError(f"{type(self).__name__}: a layer's name has {rule}: {name!r}")
        self._layers = dict(layers)

    def children(self) -> Iterator[tuple[str, Layer]]:
        return iter(self._layers.items())

    def __getitem__(self, key: int | str) -> Layer:
        return self._layers[key] if isinstance(key, str) else list(self._layers.values())[key]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def label(self) -> str:
        return f"{type(self).__name__} of {len(self._layers)}"

    def __repr__(self) -> str:
        inner = "\n".join(f"({name}): {layer!r}" for name, layer in self.children()).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {inner}\n)"

    def _located(self, error: ShapeError, name: str, shape: Shape, before: str = "") -> ShapeError:
        """The error of layer ``name`` on an input of ``shape``, in the layer's own words where it has some."""
        layer = self._layers[name]
        hint = f"the layer before, {before!r}, gives {shape[1] if len(shape) == 2 else shape}" if before else ""
        if not error.path:
            try:
                layer.output_shape(shape)
            except ShapeError as own:
                error = own
        return error.located(name, layer.label(), hint)


class Sequential(_Container):
    """One layer after another.

    Parameters
    ----------
    *layers : Layer or (str, Layer)
        Named "0", "1", ... or as given; a single mapping of names to layers works too.

    Examples
    --------
    >>> from fastnn.layers import Linear, ReLU
    >>> model = Sequential(Linear(4, 8), ReLU(), ("scores", Linear(8, 3)))
    >>> sorted(model.params)
    ['0.bias', '0.weight', 'scores.bias', 'scores.weight']
    """

    def __init__(self, *layers: Layer | tuple[str, Layer] | Mapping[str, Layer]) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = dict(layers[0])
        else:
            pairs = [layer if isinstance(layer, tuple) else (str(i), layer) for i, layer in enumerate(layers)]
            named = dict(pairs)  # type: ignore[arg-type]
            if len(named) != len(pairs):
                raise ValueError("Sequential: two layers have the same name")
        super().__init__(named)

    def _run(self, x: Any, call: Callable[[Layer, Any], Any], shape_of: Callable[[Any], Shape]) -> Any:
        before = ""
        for name, layer in self._layers.items():
            try:
                y = call(layer, x)
            except ShapeError as error:
                raise self._located(error, name, shape_of(x), before) from None
            x, before = y, name
        return x

    def __call__(self, x: ArrayLike) -> Array:
        return self._run(x, lambda layer, x: layer(x), np.shape)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        stream = as_stream(rng)
        backwards: list[Backward] = []

        def call(layer: Layer, x: Array) -> Array:
            y, backward = layer.forward(x, stream)
            backwards.append(backward)
            return y

        with unchanged_on_error(self, rng):
            y = self._run(x, call, np.shape)

        def backward(dy: Array) -> Array:
            for step in reversed(backwards):
                dy = step(dy)
            return dy

        return y, backward

    def trace(self, builder: Any, x: Any) -> Any:
        for name, layer in self._layers.items():
            x = builder.trace(name, layer, x)
        return x

    def output_shape(self, shape: Shape) -> Shape:
        return self._run(shape, lambda layer, s: layer.output_shape(s), tuple)

    def _rows(  # type: ignore[override]
        self, name: str, shape: Shape
    ) -> Iterator[tuple[str, str, Shape, int]]:
        before = ""
        for child, layer in self._layers.items():
            try:
                yield from layer._rows(f"{name}.{child}" if name else child, shape)
                shape, before = layer.output_shape(shape), child
            except ShapeError as error:
                raise self._located(error, child, shape, before) from None


class _Branches(_Container):
    """Layers that all take the same input; what they give is joined."""

    join: Layer

    def _each(self, x: Any, call: Callable[[Layer], Any], shape: Shape) -> list[Any]:
        results = []
        for name, layer in self._layers.items():
            try:
                results.append(call(layer))
            except ShapeError as error:
                raise self._located(error, name, shape) from None
        return results

    def __call__(self, x: ArrayLike) -> Array:
        return self.join(*self._each(x, lambda layer: layer(x), np.shape(x)))

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        stream = as_stream(rng)
        with unchanged_on_error(self, rng):
            passes = self._each(x, lambda layer: layer.forward(x, stream), np.shape(x))
            y, split = self.join.forward(*(y for y, _ in passes))

        def backward(dy: Array) -> Array:
            # From the last branch to the first, as a program does: the same sums in the same order.
            parts = [step(part) for (_, step), part in zip(reversed(passes), reversed(split(dy)), strict=True)]
            dx = parts[0]
            for part in parts[1:]:
                dx = F.add(dx, part)
            return dx

        return y, backward

    def trace(self, builder: Any, x: Any) -> Any:
        return builder.add(self.join, *(builder.trace(name, layer, x) for name, layer in self._layers.items()))

    def output_shape(self, shape: Shape) -> Shape:
        shapes = self._each(shape, lambda layer: layer.output_shape(shape), shape)
        return self.join.output_shape(*shapes)

    def _rows(  # type: ignore[override]
        self, name: str, shape: Shape
    ) -> Iterator[tuple[str, str, Shape, int]]:
        for child, layer in self._layers.items():
            try:
                yield from layer._rows(f"{name}.{child}" if name else child, shape)
            except ShapeError as error:
                raise self._located(error, child, shape) from None
        yield f"{name}", self.join.label(), self.output_shape(shape), 0


class Residual(_Branches):
    """main(x) + shortcut(x), and nothing else: an activation after it is a layer of its own.

    Parameters
    ----------
    main : Layer
    shortcut : Layer, optional
        The identity when absent.

    Examples
    --------
    >>> from fastnn.layers import ReLU
    >>> Residual(ReLU())(np.float32([1, -1]))
    array([ 2., -1.], dtype=float32)
    """

    def __init__(self, main: Layer, shortcut: Layer | None = None) -> None:
        super().__init__({"main": main, "shortcut": Identity() if shortcut is None else shortcut})
        self.join = Add()

    def label(self) -> str:
        return "Residual"


class Concat(_Branches):
    """The outputs of several branches side by side, along the channels unless ``axis`` says otherwise.

    Examples
    --------
    >>> from fastnn.layers import ReLU
    >>> Concat(Identity(), ReLU())(np.float32([[1, -1]]))
    array([[ 1., -1.,  1.,  0.]], dtype=float32)
    """

    def __init__(self, *branches: Layer, axis: int = 1) -> None:
        if not branches:
            raise ValueError("Concat: needs at least one branch")
        if axis < 0:
            raise ValueError(f"Concat: axis must be at least 0, got {axis}")
        super().__init__({str(i): layer for i, layer in enumerate(branches)})
        self.join = Join(int(axis))

    def label(self) -> str:
        return f"Concat of {len(self)}"


class Identity(Layer):
    """x as it is."""

    def __call__(self, x: ArrayLike) -> Array:
        return F._array("identity", "x", x)

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        return self(x), lambda dy: dy

    def output_shape(self, shape: Shape) -> Shape:
        return shape


class Flatten(Layer):
    """(N, ...) -> (N, the product of the rest), in C order.

    Examples
    --------
    >>> Flatten()(np.zeros((2, 3, 4, 4), np.float32)).shape
    (2, 48)
    """

    def __call__(self, x: ArrayLike) -> Array:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        array = F._rowmajor("flatten", "x", x)
        shape = array.shape
        return array.reshape(self.output_shape(shape)), lambda dy: F._rowmajor("flatten", "dy", dy).reshape(shape)

    def output_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("expected at least one dimension, got ()")
        size = 1
        for n in shape[1:]:
            size *= n
        return shape[0], size

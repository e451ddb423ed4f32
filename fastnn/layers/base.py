"""What a layer is: arrays by name, and two calls.

- ``layer(x)`` is inference, always: fixed statistics, nothing random, nothing kept.
- ``y, backward = layer.forward(x, rng=None)`` is training, always; ``dx = backward(dy)`` adds to the layer's gradients.

There is no train() or eval() to forget. The closure holds exactly what the backward pass needs, so a layer may appear
twice in a network and serve many threads at inference.

To write a layer, derive from `Layer`, list the attributes that are trained in ``parameters`` (and fixed statistics in
``statistics``), and define ``__call__`` and ``forward``. With ``output_shape`` it takes part in `summary`; with
``trace`` it can be compiled. A model without ``trace`` trains and predicts all the same, by its closures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import ShapeError
from ..random import RNG, Stream

if TYPE_CHECKING:
    from ..compiler.graph import Builder, Value

Array = np.ndarray
Shape = tuple[int, ...]
Backward = Callable[[Array], Any]

__all__ = ["Array", "Backward", "Layer", "Shape"]


class Layer:
    """Base class of all layers; see the module's text for the protocol."""

    #: attributes that hold trained arrays; one that is None is absent (a layer without bias)
    parameters: ClassVar[tuple[str, ...]] = ()
    #: attributes that hold arrays which are state, but not trained (running statistics)
    statistics: ClassVar[tuple[str, ...]] = ()
    #: which of ``parameters`` are weights, to which `fastnn.regularization` applies unless told otherwise; None: those
    #: of two axes or more
    penalized: ClassVar[tuple[str, ...] | None] = None
    #: the axis of the weights that counts the layer's outputs
    unit_axis: ClassVar[int] = 0
    #: whether it computes in Python, so that programs run it between their pieces; and whether its gradient does
    host: ClassVar[bool] = False
    host_backward: ClassVar[bool] = False
    #: whether it may make much of little, so that a `Graph` asks for all shapes before it computes
    grows: ClassVar[bool] = False

    def __setattr__(self, name: str, value: Any) -> None:
        # Whoever keeps something derived from the layer's configuration (a trainer its programs) compares versions.
        self.__dict__["version"] = self.__dict__.get("version", 0) + 1
        object.__setattr__(self, name, value)

    # ---- the two calls ----

    def __call__(self, x: ArrayLike) -> Array:
        """Inference: return the output for x."""
        raise TypeError(f"{type(self).__name__} does not define __call__(x), which is inference")

    def forward(self, x: ArrayLike, rng: RNG = None) -> tuple[Array, Backward]:
        """Training: return the output for x, and the function that takes its gradient to that of x."""
        raise TypeError(f"{type(self).__name__} does not define forward(x, rng), which is training")

    def trace(self, builder: Builder, x: Value) -> Value:
        """Add this layer to a graph; a leaf adds itself."""
        return builder.add(self, x)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of ``shape``, without computing; raise `ShapeError`."""
        raise ShapeError(f"{type(self).__name__} does not tell its output's shape")

    def multiply_adds(self, *shapes: Shape) -> int:
        """Return how many multiply-adds of products inference takes for inputs of these shapes.

        Those of convolutions and linear layers, which make up the work of a network; 0 for all other layers.
        """
        return 0

    def label(self) -> str:
        """Return the layer in a few words, for errors and tables: ``Linear 100->10``."""
        return type(self).__name__

    # ---- arrays by name ----

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers inside this one, with their names."""
        return iter(())

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield every layer that holds arrays of its own or none at all, with its full name, in order."""
        inside = False
        for name, child in self.children():
            inside = True
            yield from child.leaves(f"{prefix}{name}.")
        if not inside or self.parameters or self.statistics:
            yield prefix.removesuffix("."), self

    def _named(self, kind: str) -> dict[str, Array]:
        arrays = {}
        for name, layer in self.leaves():
            for attribute in getattr(layer, kind):
                value = getattr(layer, attribute)
                if value is not None:
                    arrays[f"{name}.{attribute}" if name else attribute] = value
        return arrays

    @property
    def params(self) -> dict[str, Array]:
        """The trained arrays by name: "weight" for a layer's own, "0.weight" inside containers."""
        return self._named("parameters")

    @property
    def buffers(self) -> dict[str, Array]:
        """The arrays that are state but not trained, by name."""
        return self._named("statistics")

    @property
    def grads(self) -> dict[str, Array]:
        """The gradient of each array of `params`, by the same names; zero where no backward pass came by."""
        arrays = {}
        for name, layer in self.leaves():
            for attribute in layer.parameters:
                if getattr(layer, attribute) is not None:
                    arrays[f"{name}.{attribute}" if name else attribute] = layer.gradient(attribute)
        return arrays

    def gradient(self, attribute: str) -> Array:
        """Return the array that gathers the gradient of one of this layer's own parameters."""
        value = getattr(self, attribute)
        held: dict[str, Array] = self.__dict__.setdefault("_gradients", {})
        gradient = held.get(attribute)
        if gradient is None or gradient.shape != value.shape or gradient.dtype != value.dtype:
            gradient = held[attribute] = np.zeros(value.shape, value.dtype)
        return gradient

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for gradient in self.grads.values():
            gradient[...] = 0

    def state(self) -> dict[str, Array]:
        """Return copies of all parameters and statistics, by name: what `load_state` takes and files hold."""
        return {name: np.array(array) for name, array in {**self.params, **self.buffers}.items()}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Copy ``state`` into the layer's arrays; change nothing when a name or a shape does not fit.

        Names that begin with what PyTorch's wrappers put there (``module.``) fit without it, and counts of batches
        (``num_batches_tracked``), which no layer here keeps, are passed over.

        Parameters
        ----------
        state : dict of array_like
            Floating-point numbers, integers or booleans by name, as `state` returns and `fastnn.load_state` reads them;
            converted to the dtype of the layer's arrays.

        Raises
        ------
        ValueError
            Naming what is missing, what is unexpected and what has another shape, and what the unexpected may be; or
            an array with numbers that the layer's dtype does not have.

        Examples
        --------
        >>> from fastnn.layers import Linear
        >>> Linear(3, 2).load_state({"weight": np.zeros((2, 4)), "scale": np.ones(2)})
        Traceback (most recent call last):
            ...
        ValueError: load_state: the state does not fit the model: missing bias; unexpected scale; weight has shape \
(2, 4), expected (2, 3)
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state: expected a dict of arrays by name, got {type(state).__name__}; "
                "fastnn.load_state(path) reads one from a file"
            )
        for name in state:
            if not isinstance(name, str):
                raise TypeError(f"load_state: names must be strings, got {name!r}")
        own = {**self.params, **self.buffers}
        arrays = {}
        for name, array in _fitting(state, own).items():
            try:
                arrays[name] = np.asanyarray(array)
            except ValueError as error:
                raise ValueError(f"load_state: {name} is not an array: {error}") from None
        missing, unexpected = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
        problems = []
        if missing:
            problems.append(f"missing {_some(missing)}")
        if unexpected:
            problems.append(f"unexpected {_some(unexpected)}")
        differing = []
        for name in sorted(own.keys() & arrays.keys()):
            array = arrays[name]
            if array.shape != own[name].shape:
                differing.append(f"{name} has shape {array.shape}, expected {own[name].shape}")
            elif array.dtype.kind not in "biuf":
                differing.append(f"{name} has dtype {array.dtype}, expected numbers")
        if differing:
            problems.append(_some(differing, "; "))
        if problems:
            problems += _hints(missing, unexpected, own, arrays)
            raise ValueError(f"load_state: the state does not fit the model: {'; '.join(problems)}")
        converted = {name: _converted(name, array, own[name].dtype) for name, array in arrays.items()}
        for name, array in converted.items():
            own[name][...] = array

    def copy(self, dtype: DTypeLike | None = None) -> Any:
        """Return a copy that shares nothing with this layer, its floating arrays converted to ``dtype`` if given."""
        twin = copy.deepcopy(self)
        done: set[int] = set()
        for _, layer in twin.leaves():
            if id(layer) in done:
                continue
            done.add(id(layer))
            layer.__dict__.pop("_gradients", None)
            for attribute in (*layer.parameters, *layer.statistics):
                value = getattr(layer, attribute)
                if value is not None:
                    wanted = dtype if dtype is not None and value.dtype.kind == "f" else value.dtype
                    setattr(layer, attribute, np.array(value, wanted))
        return twin

    def summary(self, input_shape: Shape | Sequence[Shape]) -> str:
        """Return a table of the layers, their output shapes and parameter counts, for an input of ``input_shape``.

        Of a layer of several inputs, such as a `Graph`, that is a sequence of shapes.

        Examples
        --------
        >>> from fastnn.layers import Linear
        >>> print(Linear(4, 2).summary((1, 4)))
        layer  kind         output  parameters
        --------------------------------------
               Linear 4->2  (1, 2)          10
        --------------------------------------
        total                               10
        """
        rows = [(name, label, str(shape), count) for name, label, shape, count in self._rows("", *shapes(input_shape))]
        total = sum({id(a): a.size for a in self.params.values()}.values())
        return _table(rows, total)

    def _rows(self, name: str, *shapes: Shape) -> Iterator[tuple[str, str, Shape, int]]:
        count = sum(getattr(self, p).size for p in self.parameters if getattr(self, p) is not None)
        yield name, self.label(), self.output_shape(*shapes), count

    def __repr__(self) -> str:
        return self.label()


@contextmanager
def unchanged_on_error(layer: Layer, rng: Any) -> Iterator[None]:
    """Put the statistics of the layers inside back where they were when a forward pass fails half way.

    With a Stream for ``rng`` the caller is a container or a trainer, which does that itself.
    """
    if isinstance(rng, Stream):
        yield
        return
    before = [(array, array.copy()) for array in layer.buffers.values()]
    try:
        yield
    except BaseException:
        for array, copied in before:
            array[...] = copied
        raise


def _converted(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers as a layer keeps them; raise where it cannot: beyond the largest, or with fractions where it has none."""
    if np.ma.is_masked(array):
        raise ValueError(f"load_state: {name} is masked in places; fill it, by filled(0) say")
    values = np.asarray(array)
    with np.errstate(all="ignore"):
        found = values.astype(dtype)
    lost = np.isfinite(values) & ~np.isfinite(found) if dtype.kind == "f" else found != values
    if lost.any():
        raise ValueError(f"load_state: {name} holds {values[lost][0]}, which {dtype} does not have")
    return found


def _fitting(state: Mapping[str, ArrayLike], own: Mapping[str, Array]) -> dict[str, ArrayLike]:
    """The state by the names that the layer may know it by."""
    counts = {name for name in state if name.rpartition(".")[2] == "num_batches_tracked"} - own.keys()
    given = {name: state[name] for name in state if name not in counts}
    if given.keys() == own.keys():
        return given
    from ..io.names import without_wrappers

    # Both sides, for a layer may be called "module"; and only where more names fit then.
    known = {clean: name for name, clean in without_wrappers(own).items()}
    renamed = {known.get(clean, clean): given[name] for name, clean in without_wrappers(given).items()}
    return renamed if len(own.keys() & renamed.keys()) > len(own.keys() & given.keys()) else given


def _hints(
    missing: list[str], unexpected: list[str], own: Mapping[str, Array], arrays: Mapping[str, Array]
) -> list[str]:
    """What the unexpected arrays probably are: those that are missing, of the same shape and with much the same name,
    or batch norms that were folded."""
    import difflib

    hints = []
    left = [name for name in unexpected if len(name) <= 200][:200]  # comparing names costs their product
    for name in (name for name in missing[:10] if len(name) <= 200):
        shape = own[name].shape
        for how, like in (("", shape), (", transposed", shape[::-1])):
            fits = [other for other in left if arrays[other].shape == like]
            kind = name.rpartition(".")[2]
            alone = len(fits) == 1 and (len(shape) > 1 or fits[0].rpartition(".")[2] == kind)  # vectors are many
            best = fits if alone else difflib.get_close_matches(name, fits, 1)
            if best:
                hints.append(f"{best[0]} may be {name}{how}")
                left.remove(best[0])
                break
    found = [f"{'; '.join(hints[:5])}; rename what is the same"] if hints else []
    ends = {other.rpartition(".")[2] for other in unexpected}
    if {"running_mean", "running_var"} <= ends and not any(name.endswith("running_mean") for name in missing):
        found.append("the model has no such batch norms: from an ONNX file they come folded, if it was exported so")
    return found


def _some(texts: Sequence[str], separator: str = ", ") -> str:
    """The first ten, and how many there are beyond."""
    rest = len(texts) - 10
    return separator.join(texts[:10]) + (f"{separator}and {rest} more" if rest > 0 else "")


def shapes(shape: Shape | Sequence[Shape]) -> tuple[Shape, ...]:
    """One shape, or a sequence of them, as several."""
    given = tuple(shape)
    if given and not isinstance(given[0], (int, np.integer)):
        return tuple(tuple(one) for one in given)  # type: ignore[arg-type]
    return (given,)  # type: ignore[return-value]


def _table(rows: list[tuple[str, str, str, int]], total: int) -> str:
    header = ("layer", "kind", "output", "parameters")
    cells = [header, *((n, k, s, f"{c:,}") for n, k, s, c in rows), ("total", "", "", f"{total:,}")]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = [f"{n:<{widths[0]}}  {k:<{widths[1]}}  {s:<{widths[2]}}  {c:>{widths[3]}}".rstrip() for n, k, s, c in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

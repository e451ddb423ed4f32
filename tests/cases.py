"""The registry of ops: what each kernel of the list is tested with. Parity, layout and thread tests run over it, and
test_registry.py fails where an op of fastnn is missing here.

An `Op` names a kernel, the function through which it is reached (``call(**arrays, **options)``), a bound for its error
(bounds.py) and its cases; or it is a public function that is made of other ops' kernels. A `Case` is arrays and
options, made from a seed that is its own name. Arrays are float64 and are cast to the dtype under test; labels, masks
and keys stay as they are.

To add an op: a line in OPS with a list of cases, each (label, arrays, options); an array is written as its shape
(normal numbers), as an ndarray, or as a function of a random generator. And, in DRAWS, how hypothesis draws shapes and
options that fit together.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt

import bounds
import fastnn.functional as F
from engines import NUMPY
from fastnn._backends import ACTIVATIONS
from fastnn._backends import kernels as K
from fastnn._resampling import COORDINATES, Matrix

Array = npt.NDArray[Any]
Spec = tuple[str, dict[str, Any], dict[str, Any]]
Geometries = list[tuple[str, tuple[int, ...], dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Case:
    """One call: arrays and options for an op."""

    op: Op
    label: str
    specs: dict[str, Any]
    options: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.op.kernel}-{self.label}"

    def arrays(self, dtype: npt.DTypeLike) -> dict[str, Array]:
        """The arrays, floating ones in ``dtype``; the same at every call."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return {name: _cast(make(spec, rng), dtype) for name, spec in self.specs.items()}

    def run(self, arrays: dict[str, Array]) -> tuple[Array, ...]:
        return self.op.run(arrays, self.options)


@dataclass(frozen=True, eq=False)
class Op:
    """A kernel, or a function made of several, and how it is tested.

    large : a case with work enough for several threads, for the tests of threads and memory
    strided : whether any strides are accepted, so that the layouts apply
    """

    kernel: str
    call: Callable[..., Any]
    bound: Callable[..., tuple[Any, ...]]
    specs: list[Spec]
    large: tuple[dict[str, Any], dict[str, Any]]
    strided: bool = True

    @property
    def large_case(self) -> Case:
        return Case(self, "large", *self.large)

    @property
    def elementwise(self) -> bool:
        """Whether each number of the result comes from one number of each array: they may have any one shape."""
        sized = [arrays for label, arrays, _ in self.specs if label == "n17"]
        return self.strided and bool(sized) and all(spec == (17,) for spec in sized[0].values())

    def run(self, arrays: dict[str, Array], options: dict[str, Any]) -> tuple[Array, ...]:
        result = self.call(**arrays, **options)
        return tuple(np.asarray(y) for y in (result if isinstance(result, tuple) else (result,)))


def make(spec: Any, rng: np.random.Generator) -> Array:
    """The array that a spec stands for."""
    if isinstance(spec, tuple):
        return rng.standard_normal(spec)
    return spec(rng) if callable(spec) else np.array(spec)


def _cast(x: Array, dtype: npt.DTypeLike) -> Array:
    return x.astype(dtype) if x.dtype == np.float64 else x


# ---- what arrays are made of ----------------------------------------------------------------------------------------

#: 0, 1, and around powers of two: vectors of 4 to 16 elements, unrolled four times
SIZES = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 1000)

#: where functions saturate, overflow, underflow and stop being numbers; 1e-40 is denormal in float32, 1e-310 in float64
SPECIAL = np.array(
    [0.0, -0.0, 1e-310, 1e-40, -1e-40, 1e-30, -1e-30, 1e-4, -1e-4, 0.5, -0.5, 1.0, -1.0, 5.0, -5.0, 8.5, -8.5, 9.1,
     -13.0, 20.0, -20.0, 87.0, -87.0, 88.5, -88.5, 89.0, -89.0, 103.0, -103.0, 105.0, -105.0, 700.0, -700.0, 710.0,
     -710.0, 750.0, -750.0, 1e4, -1e4, 1e9, -1e9, np.inf, -np.inf, np.nan]
)  # fmt: skip


def positive(*shape: int) -> Callable[[np.random.Generator], Array]:
    """Numbers from 0.5 to 1.5, for variances and weights."""
    return lambda rng: rng.uniform(0.5, 1.5, shape)


def uniform(*shape: int) -> Callable[[np.random.Generator], Array]:
    """Numbers from 0 to 1: probabilities."""
    return lambda rng: rng.uniform(0, 1, shape)


def shifted(by: float, *shape: int) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.standard_normal(shape) + by


def spread(*shape: int) -> Callable[[np.random.Generator], Array]:
    """Distinct numbers 0.05 apart, so that a maximum is one for its neighbourhood; none is within 0.02 of 0."""

    def draw(rng: np.random.Generator) -> Array:
        size = int(np.prod(shape))
        return ((rng.permutation(size) - size // 2) * 0.05 + 0.025).reshape(shape)

    return draw


def clear_of_zero(*shape: int) -> Callable[[np.random.Generator], Array]:
    """Normal numbers moved away from 0 by 0.1."""

    def draw(rng: np.random.Generator) -> Array:
        x = rng.standard_normal(shape)
        return x + np.copysign(0.1, x)

    return draw


def with_values(values: Sequence[float], *shape: int) -> Callable[[np.random.Generator], Array]:
    """Normal numbers with some places, far from each other, holding values."""

    def draw(rng: np.random.Generator) -> Array:
        x = rng.standard_normal(shape)
        x.flat[:: max(1, x.size // len(values))][: len(values)] = values
        return x

    return draw


def rounded(*shape: int) -> Callable[[np.random.Generator], Array]:
    """Small whole numbers: many ties."""
    return lambda rng: np.round(rng.standard_normal(shape))


def integers(low: int, high: int, *shape: int) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.integers(low, high, shape)


def row_softmax(log: bool, axis: int, *shape: int) -> Callable[[np.random.Generator], Array]:
    """What softmax or log_softmax would return."""

    def draw(rng: np.random.Generator) -> Array:
        e = np.exp(rng.standard_normal(shape))
        y = e / e.sum(axis, keepdims=True)
        return np.log(y) if log else y

    return draw


def mask_bytes(size: int) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.packbits(rng.integers(0, 2, size).astype(bool), bitorder="little")


# ---- memory layouts -------------------------------------------------------------------------------------------------


def _misaligned(x: Array) -> Array:
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    y = buffer[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def _offset(x: Array) -> Array:
    buffer = np.zeros(x.size + 1, x.dtype)
    y = buffer[1:].reshape(x.shape)
    y[...] = x
    return y


def _strided(x: Array) -> Array:
    buffer = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan if x.dtype.kind == "f" else 0, x.dtype)
    buffer[..., ::2] = x
    return buffer[..., ::2]


def _negative(x: Array) -> Array:
    reverse = (slice(None, None, -1),) * x.ndim
    return x[reverse].copy()[reverse]


def _read_only(x: Array) -> Array:
    y = x.copy()
    y.flags.writeable = False
    return y


def _memory_order(*axes: int) -> Callable[[Array], Array]:
    """The same array with its axes in this order in memory, outermost first."""

    def change(x: Array) -> Array:
        if x.ndim != len(axes):
            return x
        return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))

    return change


#: ways in which an array of given shape can lie in memory; ``channels_last`` is a fast path, the others are copied
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "channels_last": _memory_order(0, 2, 3, 1),
    "fortran": np.asfortranarray,
    "permuted": _memory_order(1, 0, 3, 2),
    "strided": _strided,
    "negative": _negative,
    "misaligned": _misaligned,
    "offset": _offset,
    "read_only": _read_only,
    "swapped": lambda x: x.astype(x.dtype.newbyteorder("S")),
}


# ---- ops without a public function: straight to the kernel, on copies of what they change ---------------------------


def scale_add(x: Array, y: Array, scale_x: float, scale_y: float) -> Array:
    y = y.copy()
    K.scale_add(x, scale_x, scale_y, y)
    return y


def fill(y: Array, value: float) -> Array:
    y = y.copy()
    K.fill(value, y)
    return y


def copy(x: Array, y: Array, accumulate: bool) -> Array:
    y = y.copy(order="K")
    K.copy(x, accumulate, y)
    return y


def random_bits(key: Array, size: int) -> Array:
    out = np.empty(size, np.uint32)
    K.random_bits(key, size, out)
    return out


def sgd_step(grad: Array, param: Array, hyper: Any, segments: Any, velocity: Array | None = None) -> tuple[Array, ...]:
    param, velocity = param.copy(), None if velocity is None else velocity.copy()
    F.sgd_step(grad, np.array(hyper, np.float64), np.array(segments, np.float64), param, velocity)
    return (param,) if velocity is None else (param, velocity)


def adam_step(grad: Array, param: Array, m: Array, v: Array, hyper: Any, segments: Any) -> tuple[Array, ...]:
    param, m, v = param.copy(), m.copy(), v.copy()
    F.adam_step(grad, np.array(hyper, np.float64), np.array(segments, np.float64), param, m, v)
    return param, m, v


def adagrad_step(grad: Array, param: Array, sum: Array, hyper: Any, segments: Any) -> tuple[Array, ...]:
    param, sum = param.copy(), sum.copy()
    F.adagrad_step(grad, np.array(hyper, np.float64), np.array(segments, np.float64), param, sum)
    return param, sum


def rmsprop_step(
    grad: Array, param: Array, square: Array, hyper: Any, segments: Any, velocity: Array | None = None
) -> tuple[Array, ...]:
    param, square, velocity = param.copy(), square.copy(), None if velocity is None else velocity.copy()
    F.rmsprop_step(grad, np.array(hyper, np.float64), np.array(segments, np.float64), param, square, velocity)
    return (param, square) if velocity is None else (param, square, velocity)


def penalty(param: Array, segments: Any, grad: Array | None = None) -> tuple[Array, ...]:
    loss, grad = np.array([0.5]), None if grad is None else grad.copy()
    F.penalty(param, np.array(segments, np.float64), grad, loss)
    return (loss,) if grad is None else (loss, grad)


def square_sum(x: Array, segments: Any) -> Array:
    total = np.array([0.5])
    F.square_sum(x, np.array(segments, np.float64), total)
    return total


def clip_norm(x: Array, total: float, limit: float, segments: Any) -> Array:
    x = x.copy()
    F.clip_norm(np.array([total]), np.array([limit]), np.array(segments, np.float64), x)
    return x


def clip_value(x: Array, limit: float, segments: Any) -> Array:
    x = x.copy()
    F.clip_value(np.array([limit]), np.array(segments, np.float64), x)
    return x


def max_norm(param: Array, segments: Any) -> Array:
    param = param.copy()
    F.max_norm(np.array(segments, np.float64), param)
    return param


def conv2d(x: Array, weight: Array, bias: Array | None = None, **more: Any) -> Array:
    """F.conv2d with the arrays of batch_norm by name."""
    if "mean" in more:
        parts = (more.pop(name, None) for name in ("gamma", "beta", "mean", "var", "eps"))
        more["batch_norm"] = tuple(parts)
    return F.conv2d(x, weight, bias, **more)


def inverted_residual(x: Array, depthwise: Array, project: Array, **more: Any) -> Array:
    """F.inverted_residual with its weights and biases by name."""
    biases = {part: more.pop(f"{part}_bias", None) for part in ("expand", "depthwise", "project")}
    expand = (more.pop("expand"), biases["expand"]) if "expand" in more else None
    return F.inverted_residual(x, expand, (depthwise, biases["depthwise"]), (project, biases["project"]), **more)


def resample(x: Array, rows: Matrix | None, columns: Matrix | None, value: float) -> Array:
    outer, h, w, inner = x.shape
    y = np.empty(
        (outer, h if rows is None else rows.shape[0], w if columns is None else columns.shape[0], inner), x.dtype
    )
    tables = (() if m is None else m.table(x.dtype) for m in (rows, columns))
    K.resample(x, *tables, value, y)
    return y


def max_pool2d(x: Array, **options: Any) -> tuple[Array, Array]:
    return F.max_pool2d(x, **options, return_indices=True)


def adaptive_max_pool2d(x: Array, **options: Any) -> tuple[Array, Array]:
    return F.adaptive_max_pool2d(x, **options, return_indices=True)


def normalise(x: Array, op: str = "group_norm", **more: Any) -> Array:
    """One of the three ops that have the kernel of group_norm."""
    return getattr(F, op)(x, **more)


def normalise_backward(dy: Array, x: Array, op: str = "group_norm", **more: Any) -> Any:
    return getattr(F, f"{op}_backward")(dy, x, **more)


# ---- the cases of each family ---------------------------------------------------------------------------------------


def _activations() -> list[Op]:
    functions: list[tuple[str, Any, list[dict[str, Any]]]] = [
        ("relu", F.relu, [{}]),
        ("leaky_relu", F.leaky_relu, [{}, *({"negative_slope": s} for s in (0.0, 0.3, 1.5, -0.5))]),
        ("sigmoid", F.sigmoid, [{}]),
        ("tanh", F.tanh, [{}]),
        ("elu", F.elu, [{}, {"alpha": 0.5}, {"alpha": 2.0}]),
        ("gelu", F.gelu, [{}]),
        ("gelu_tanh", F.gelu, [{"approximate": "tanh"}]),
        ("hardtanh", F.hardtanh, [{}, {"min_val": 0.0, "max_val": 6.0}, {"min_val": -np.inf, "max_val": 0.5}]),
        ("threshold", F.threshold, [{"threshold": 0.5, "value": -7.0}, {"threshold": -0.3, "value": 0.0}]),
        ("hardsigmoid", F.hardsigmoid, [{}]),
        ("hardswish", F.hardswish, [{}]),
        ("softsign", F.softsign, [{}]),
        ("selu", F.selu, [{}]),
        ("celu", F.celu, [{}, {"alpha": 0.5}, {"alpha": 2.0}]),
        ("silu", F.silu, [{}]),
        ("mish", F.mish, [{}]),
        ("softplus", F.softplus, [{}, {"beta": 0.5}, {"beta": 2.5, "threshold": 1.5}]),
    ]
    ops = []
    for name, function, variants in functions:
        options = variants[0]

        def forward_bound(a: Any, o: Any, y: Any, name: str = name) -> Any:
            return (bounds.activation(name, a["x"], y[0], o.get("alpha", o.get("beta", 1.0))),)

        def backward_bound(a: Any, o: Any, y: Any, name: str = name) -> Any:
            alpha = o.get("alpha", o.get("beta", 1.0))
            return (bounds.activation_backward(name, a["dy"], a["x"], y[0], alpha),)

        forward: list[Spec] = [(f"n{n}", {"x": (n,)}, options) for n in SIZES]
        forward += [
            ("special", {"x": SPECIAL}, options),
            ("wide", {"x": lambda rng: rng.uniform(-30, 30, 2000)}, options),
        ]
        forward += [("scalar", {"x": ()}, options), ("shape4", {"x": (2, 3, 5, 7)}, options)]
        forward += [(f"option{i}", {"x": (100,)}, o) for i, o in enumerate(variants[1:])]
        ops.append(Op(f"{name}_forward", function, forward_bound, forward, ({"x": (1 << 18,)}, options)))

        backward: list[Spec] = [(f"n{n}", {"dy": (n,), "x": (n,)}, options) for n in SIZES]
        backward += [
            ("special", {"dy": np.ones(SPECIAL.size), "x": SPECIAL}, options),
            ("special_dy", {"dy": [0.0, 1.0, np.inf, -np.inf, np.nan] * 2, "x": [1.0] * 5 + [-1.0] * 5}, options),
            ("wide", {"dy": (2000,), "x": lambda rng: rng.uniform(-12, 12, 2000)}, options),
            ("shape4", {"dy": (2, 3, 5, 7), "x": (2, 3, 5, 7)}, options),
        ]
        backward += [(f"option{i}", {"dy": (100,), "x": (100,)}, o) for i, o in enumerate(variants[1:])]
        gradient = getattr(F, f"{function.__name__}_backward")
        large: Any = ({"dy": (1 << 18,), "x": (1 << 18,)}, options)
        ops.append(Op(f"{name}_backward", gradient, backward_bound, backward, large))
    return ops


#: what other ops can end in, each once
ENDS: list[Any] = [
    *ACTIVATIONS,
    "relu6",
    ("leaky_relu", 0.1),
    ("elu", 0.7),
    ("softplus", 2.0),
    ("hardtanh", -0.5, 0.25),
]


def _pieces() -> list[Op]:
    """prelu and maxout: something for each channel, or channels that belong together."""
    shapes = [(3, 1), (2, 5), (7, 33), (3, 4, 50), (2, 3, 5, 7), (2, 19, 3, 3), (1, 40, 7, 9), (2, 2, 3, 2, 5)]
    empty = [(0, 3, 4, 4), (3, 0), (2, 3, 0, 4)]

    def given(x: tuple[int, ...], c: int, *names: str) -> dict[str, Any]:
        return {name: {"weight": (c,)}.get(name, x) for name in (*names, "x", "weight")}

    prelu: list[Spec] = [(_word(s), given(s, s[1]), {}) for s in shapes + empty]
    prelu += [(f"one_{_word(s)}", given(s, 1), {}) for s in [(), (0,), (70,), (5, 33), (2, 3, 5, 7)]]
    prelu += [
        ("special", {"x": SPECIAL.reshape(2, 22), "weight": (22,)}, {}),
        ("special_weight", {"x": (4, 5), "weight": [0.0, -0.0, np.inf, np.nan, -1e30]}, {}),
    ]
    prelu_backward: list[Spec] = [(_word(s), given(s, s[1], "dy"), {}) for s in shapes + empty]
    prelu_backward += [(f"one_{_word(s)}", given(s, 1, "dy"), {}) for s in [(0,), (70,), (5, 33), (2, 3, 5, 7)]]
    prelu_backward += [("special", {"dy": np.ones((2, 22)), "x": SPECIAL.reshape(2, 22), "weight": (22,)}, {})]
    prelu_backward += [
        ("many", given((40, 70, 3), 70, "dy"), {}),
        ("nan", {**given((4, 5), 5, "dy"), "dy": with_values([np.nan, np.inf], 4, 5)}, {}),
    ]

    widths = [(shape, pieces) for shape in shapes + empty for pieces in (1, 2, 3)]

    def wide(shape: tuple[int, ...], pieces: int) -> tuple[int, ...]:
        return (shape[0], shape[1] * pieces, *shape[2:])

    maxout: list[Spec] = [(f"{_word(s)}_{k}", {"x": wide(s, k)}, {"pieces": k}) for s, k in widths]
    ties = {"x": rounded(3, 12, 5)}
    maxout += [("ties", ties, {"pieces": 4}), ("special", {"x": SPECIAL.reshape(1, 44)}, {"pieces": 2})]
    maxout_backward: list[Spec] = [(f"{_word(s)}_{k}", {"dy": s, "x": wide(s, k)}, {"pieces": k}) for s, k in widths]
    maxout_backward += [
        ("ties", {"dy": (3, 3, 5), **ties}, {"pieces": 4}),
        ("special", {"dy": np.ones((1, 22)), "x": SPECIAL.reshape(1, 44)}, {"pieces": 2}),
    ]
    big = (16, 32, 32, 32)
    return [
        Op("prelu_forward", F.prelu, bounds.one_product, prelu, ({"x": big, "weight": (32,)}, {})),
        Op("prelu_backward", F.prelu_backward, bounds.prelu_backward, prelu_backward,
            ({"dy": big, "x": big, "weight": (32,)}, {})),
        Op("maxout_forward", F.maxout, bounds.exact, maxout, ({"x": big}, {"pieces": 2})),
        Op("maxout_backward", F.maxout_backward, bounds.exact, maxout_backward,
            ({"dy": (16, 16, 32, 32), "x": big}, {"pieces": 2})),
    ]  # fmt: skip


def _arithmetic() -> list[Op]:
    exp: list[Spec] = [(f"n{n}", {"x": (n,)}, {}) for n in SIZES]
    exp += [("special", {"x": SPECIAL}, {}), ("wide", {"x": lambda rng: rng.uniform(-80, 80, 2000)}, {})]
    add: list[Spec] = [(f"n{n}", {"a": (n,), "b": (n,)}, {}) for n in SIZES]
    add += [("special", {"a": SPECIAL, "b": SPECIAL[::-1].copy()}, {})]
    add += [(_word(f), {"a": (3, 50), "b": (3, 50)}, {"activation": f}) for f in ENDS]
    mul: list[Spec] = [(f"n{n}", {"a": (n,), "b": (n,)}, {}) for n in SIZES]
    mul += [("special", {"a": SPECIAL, "b": SPECIAL[::-1].copy()}, {})]
    mul += [(_word(s), {"a": s, "b": (*s[:2], 1, 1)}, {}) for s in ((2, 3, 4, 5), (1, 17, 3, 3), (2, 0, 3, 3))]
    roots: list[Spec] = [(f"n{n}", {"x": positive(n)}, {}) for n in SIZES]
    roots += [("special", {"x": SPECIAL}, {}), ("below", {"x": (40,)}, {})]
    div: list[Spec] = [(f"n{n}", {"a": (n,), "b": (n,)}, {}) for n in SIZES]
    div += [
        ("special", {"a": SPECIAL, "b": SPECIAL[::-1].copy()}, {}),
        ("zeros", {"a": [1, 0, -1], "b": [0, 0, 0]}, {}),
    ]
    scales = [(1.0, 1.0), (-0.5, 0.9), (2.0, 0.0), (0.0, 1.0)]
    scaled: list[Spec] = [(f"n{n}", {"x": (n,), "y": (n,)}, {"scale_x": 0.1, "scale_y": 0.9}) for n in SIZES]
    scaled += [
        (f"scales{i}", {"x": (70,), "y": (70,)}, {"scale_x": a, "scale_y": b}) for i, (a, b) in enumerate(scales)
    ]
    nothing_read = {"x": (5,), "y": [np.nan, np.inf, 1.0, 2.0, -np.inf]}
    scaled += [("y_not_read", nothing_read, {"scale_x": 1.0, "scale_y": 0.0})]
    filled: list[Spec] = [(f"n{n}", {"y": (n,)}, {"value": 1.5}) for n in SIZES]
    filled += [(f"value{v}", {"y": (40,)}, {"value": v}) for v in (0.0, -0.0, np.inf, np.nan, 1e-40)]
    shapes = [(0,), (1,), (33,), (3, 0, 2), (4, 5), (2, 3, 17), (2, 16, 5, 5), (3, 17, 1, 9)]
    copies: list[Spec] = [
        (f"{_word(s)}{'_add' * plus}", {"x": s, "y": s}, {"accumulate": bool(plus)}) for s in shapes for plus in (0, 1)
    ]
    copies += [("special", {"x": SPECIAL, "y": (SPECIAL.size,)}, {"accumulate": False})]
    for name in ("channels_last", "fortran", "permuted", "strided", "negative"):
        change = LAYOUTS[name]
        copies.append((f"from_{name}", {"x": _laid(change, 2, 19, 6, 7), "y": (2, 19, 6, 7)}, {"accumulate": False}))
        copies.append((f"to_{name}", {"x": (2, 19, 6, 7), "y": _laid(change, 2, 19, 6, 7)}, {"accumulate": True}))
    big = (1 << 18,)
    return [
        Op("exp_forward", F.exp, bounds.exp, exp, ({"x": big}, {})),
        Op("sqrt_forward", F.sqrt, bounds.mul, roots, ({"x": positive(1 << 18)}, {})),
        Op("add_forward", F.add, bounds.add, add, ({"a": big, "b": big}, {"activation": "relu"})),
        Op("mul_forward", F.mul, bounds.mul, mul, ({"a": big, "b": big}, {})),
        Op("div_forward", F.div, bounds.mul, div, ({"a": big, "b": big}, {})),
        Op("scale_add", scale_add, bounds.scale_add, scaled, ({"x": big, "y": big}, scaled[0][2]), strided=False),
        Op("fill", fill, bounds.exact, filled, ({"y": big}, {"value": 1.5}), strided=False),
        Op("copy", copy, bounds.copy, copies,
            ({"x": _laid(LAYOUTS["channels_last"], 8, 64, 48, 48), "y": (8, 64, 48, 48)}, {"accumulate": False}),
            strided=False),
    ]  # fmt: skip


def _laid(change: Callable[[Array], Array], *shape: int) -> Callable[[np.random.Generator], Array]:
    return lambda rng: change(rng.standard_normal(shape))


def _word(x: Any) -> str:
    """An option as part of a test's name."""
    return "x".join(str(part) for part in x) if isinstance(x, tuple) else str(x)


def _softmax() -> list[Op]:
    shapes = [(0, 5), (1, 1), (3, 0), (5, 1), (4, 7), (3, 16), (2, 17), (7, 33), (2, 1000), (130, 10)]
    hard = np.array(
        [[0.0, 1e4, -1e4], [1.0, -np.inf, 0.5], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-800.0, -801, -802]]
    )
    ops = []
    for name in ("softmax", "log_softmax"):
        log = name == "log_softmax"
        forward: list[Spec] = [(_word(s), {"x": s}, {}) for s in shapes]
        forward += [("hard", {"x": hard}, {}), ("vector", {"x": (9,)}, {}), ("wide", {"x": shifted(50, 5, 40)}, {})]
        forward += [(f"axis{axis}", {"x": (2, 3, 4, 5)}, {"axis": axis}) for axis in (0, 1, 2, -1)]
        large: Any = ({"x": (256, 1000)}, {})
        ops.append(Op(f"{name}_forward", getattr(F, name), getattr(bounds, name), forward, large))
        backward: list[Spec] = [(_word(s), {"dy": s, "y": row_softmax(log, -1, *s)}, {}) for s in shapes]
        backward += [
            (f"axis{axis}", {"dy": (2, 3, 4, 5), "y": row_softmax(log, axis, 2, 3, 4, 5)}, {"axis": axis})
            for axis in (0, 1, 2, -1)
        ]
        backward += [("nan", {"dy": with_values([np.nan, np.inf], 6, 5), "y": row_softmax(log, -1, 6, 5)}, {})]
        large = ({"dy": (256, 1000), "y": row_softmax(log, -1, 256, 1000)}, {})
        function, bound = getattr(F, f"{name}_backward"), getattr(bounds, f"{name}_backward")
        ops.append(Op(f"{name}_backward", function, bound, backward, large))

    def labels(*shape: int) -> Any:
        return integers(0, shape[1], shape[0])

    loss: list[Spec] = [(_word(s), {"scores": s, "labels": labels(*s)}, {}) for s in shapes if s[1]]
    base = {"scores": (6, 5), "labels": labels(6, 5)}
    soft = {"scores": (6, 5), "labels": row_softmax(False, -1, 6, 5)}
    some = np.array([0, 3, -100, 4, -100, 1])
    loss += [
        ("smooth", base, {"label_smoothing": 0.1}),
        ("smooth1", base, {"label_smoothing": 1.0}),
        ("weight", {**base, "weight": positive(5)}, {}),
        ("sample_weight", {**base, "sample_weight": positive(6)}, {}),
        ("both_weights", {**base, "weight": positive(5), "sample_weight": positive(6)}, {"label_smoothing": 0.2}),
        ("ignored", {**base, "labels": some}, {}),
        ("ignored_class", {**base, "weight": positive(5)}, {"ignore_index": 2}),
        ("all_ignored", {**base, "labels": np.full(6, -100)}, {}),
        ("int32_labels", {**base, "labels": np.arange(6, dtype=np.int32) % 5}, {}),
        ("uint8_labels", {**base, "labels": np.arange(6, dtype=np.uint8) % 5}, {}),
        ("probabilities", soft, {}),
        ("probabilities_weighted", {**soft, "weight": positive(5), "sample_weight": positive(6)}, {}),
        ("probabilities_smooth", soft, {"label_smoothing": 0.3}),
        ("zero_weight", {**base, "weight": np.array([0.0, 1, 2, 0, 1])}, {}),
        ("hard", {"scores": hard, "labels": np.array([1, 0, 2, 0, 0, 2])}, {}),
        ("hard_ignored", {"scores": hard, "labels": np.array([1, 0, -100, -100, -100, 2])}, {}),
    ]
    large = ({"scores": (256, 1000), "labels": labels(256, 1000)}, {"label_smoothing": 0.1})
    ops.append(Op("cross_entropy", F.cross_entropy, bounds.cross_entropy, loss, large))
    return ops


def _losses() -> list[Op]:
    shapes = [(0, 5), (1, 1), (5, 1), (4, 7), (3, 16), (2, 17), (7, 33), (2, 1000), (130, 10), (3, 20000)]
    element_shapes: list[tuple[int, ...]] = [*shapes, (3, 0), (9,), (2, 3, 4, 5), (1, 17, 7, 7), (40000, 1)]

    def target(name: str, *shape: int) -> Any:
        return uniform(*shape) if name == "binary_cross_entropy_with_logits" else shape

    ops = []
    for name, options in (
        ("mse", [{}]), ("l1", [{}]), ("huber", [{}, {"delta": 0.3}, {"delta": 1e-3}, {"delta": 1e6}]),
        ("binary_cross_entropy_with_logits", [{}]),
    ):  # fmt: skip
        binary = name == "binary_cross_entropy_with_logits"
        specs: list[Spec] = [(_word(s), {"scores": s, "targets": target(name, *s)}, {}) for s in element_shapes]
        specs += [
            (f"weighted_{_word(s)}", {"scores": s, "targets": target(name, *s), "sample_weight": positive(s[0])}, {})
            for s in element_shapes
        ]
        base: dict[str, Any] = {"scores": (6, 5), "targets": target(name, 6, 5)}
        specs += [
            ("column_of_targets", {"scores": (6, 1), "targets": target(name, 6)}, {}),
            ("zero_weights", {**base, "sample_weight": np.zeros(6)}, {}),
            ("some_zero_weights", {**base, "sample_weight": np.array([0.0, 1, 2, 0, 1, 0])}, {}),
            ("equal", {"scores": [[0.5, 1.0]], "targets": [[0.5, 1.0]]}, {}),
            *((f"nan{v}", {"scores": with_values([v], 9, 9), "targets": target(name, 9, 9)}, {})
              for v in (np.nan, np.inf, -np.inf)),
        ]  # fmt: skip
        specs += [(f"options{i}", {"scores": (9, 70), "targets": (9, 70)}, o) for i, o in enumerate(options[1:])]
        if binary:
            # Whole numbers, which the test of dtypes leaves as they are: floats it would take out of [0, 1].
            specs.insert(0, ("whole", {"scores": (2, 19, 5, 6), "targets": integers(0, 2, 2, 19, 5, 6)}, {}))
            hard = np.stack([SPECIAL[np.isfinite(SPECIAL)]] * 3)
            sides = np.stack([np.full(hard.shape[1], t) for t in (0.0, 0.25, 1.0)])
            specs += [
                ("hard", {"scores": hard, "targets": sides}, {}),
                ("pos_weight", {**base, "pos_weight": positive(5)}, {}),
                ("weight", {**base, "weight": positive(5)}, {}),
                ("weight1", {"scores": (9, 1), "targets": target(name, 9, 1), "weight": positive(1)}, {}),
                ("three_weights", {"scores": (9, 33), "targets": target(name, 9, 33), "weight": positive(33),
                                   "pos_weight": positive(33), "sample_weight": positive(9)}, {}),
                ("pos_weight1", {"scores": (9, 1), "targets": target(name, 9, 1), "pos_weight": positive(1)}, {}),
                ("both_weights", {"scores": (9, 33), "targets": target(name, 9, 33), "pos_weight": positive(33),
                                  "sample_weight": positive(9)}, {}),
                ("both_weights1", {"scores": (9, 1), "targets": target(name, 9, 1), "pos_weight": positive(1),
                                   "sample_weight": positive(9)}, {}),
            ]  # fmt: skip
        large: Any = ({"scores": (256, 3000), "targets": target(name, 256, 3000), "sample_weight": positive(256)}, {})
        ops.append(Op(name, getattr(F, name), bounds.element_loss(name), specs, large))

    def given(n: int, c: int) -> dict[str, Any]:
        return {"scores": (n, c), "labels": integers(0, c, n)}

    odd = with_values([np.nan, np.inf, -np.inf], 6, 5)
    hinge: list[Spec] = [(_word(s), given(*s), {}) for s in shapes]
    hinge += [
        ("margin", given(6, 5), {"margin": 0.25}),
        ("margin0", given(6, 5), {"margin": 0.0}),
        ("weight", {**given(6, 5), "weight": positive(5)}, {}),
        ("sample_weight", {**given(6, 5), "sample_weight": positive(6)}, {}),
        ("both_weights", {**given(6, 40), "weight": positive(40), "sample_weight": positive(6)}, {"margin": 2.0}),
        ("zero_weights", {**given(6, 5), "sample_weight": np.zeros(6)}, {}),
        ("first_and_last", {"scores": (2, 33), "labels": np.array([0, 32])}, {}),
        ("satisfied", {"scores": 10 * np.eye(5), "labels": np.arange(5)}, {}),
        ("just_kept", {"scores": [[1.0, 0.0, 3.0]], "labels": np.array([0])}, {}),
        ("uint8_labels", {"scores": (6, 5), "labels": np.arange(6, dtype=np.uint8) % 5}, {}),
        ("ignored", {"scores": (6, 5), "labels": np.array([0, 3, -100, 4, -100, 1])}, {}),
        ("ignored_class", {**given(6, 5), "weight": positive(5), "sample_weight": positive(6)}, {"ignore_index": 2}),
        ("all_ignored", {"scores": (6, 5), "labels": np.full(6, -100)}, {}),
        (
            "odd_ignored",
            {"scores": with_values([np.nan], 6, 1), "labels": np.array([-1] + [0] * 5)},
            {"ignore_index": -1},
        ),
        *((f"odd_label{i}", {"scores": odd, "labels": np.full(6, i)}, {}) for i in range(5)),
    ]
    ops.append(Op("hinge", F.hinge, bounds.hinge, hinge, (given(1024, 1000), {})))
    return ops


def _dropout() -> list[Op]:
    probabilities = (0.0, 0.25, 0.1, 1 / 3, 0.9999, 1.0, 2.0**-40, 1 - 2.0**-40)
    forward: list[Spec] = [(f"n{n}", {"x": (n,)}, {"p": 0.5, "rng": n}) for n in SIZES]
    forward += [(f"n{n}_p0.3", {"x": (n,)}, {"p": 0.3, "rng": n}) for n in SIZES]
    forward += [(f"p{p}", {"x": (501,)}, {"p": p, "rng": 2**64 - 1}) for p in probabilities]
    forward += [("special", {"x": SPECIAL}, {"p": 0.5, "rng": 5}), ("shape4", {"x": (2, 3, 5, 7)}, {"rng": 6})]
    backward: list[Spec] = [(f"n{n}", {"dy": (n,), "mask": mask_bytes(n)}, {"p": 0.5}) for n in SIZES]
    backward += [(f"p{p}", {"dy": (501,), "mask": mask_bytes(501)}, {"p": p}) for p in probabilities]
    backward += [("special", {"dy": SPECIAL, "mask": mask_bytes(SPECIAL.size)}, {"p": 0.5})]
    backward += [("shape4", {"dy": (2, 3, 5, 7), "mask": mask_bytes(210)}, {"p": 0.2})]
    shapes: list[tuple[int, ...]] = [(0, 3), (3, 0), (1, 1), (2, 33), (9, 7), (17, 1), (130, 5), (3, 20000), (5,)]
    shapes += [(2, 3, 4, 5), (9, 3, 5, 7), (2, 3, 2, 2, 2)]
    depth: list[Spec] = [(f"row{s}", {"x": s}, {"rng": len(s)}) for s in shapes]
    depth += [(f"batch{s}_{seed}", {"x": s}, {"mode": "batch", "rng": seed}) for s in shapes for seed in (0, 1)]
    depth += [(f"p{p}", {"x": (50, 3)}, {"p": p, "rng": 2**64 - 1}) for p in probabilities]
    depth += [("special", {"x": np.stack([SPECIAL] * 9)}, {"p": 0.5, "rng": 5})]
    depth_back: list[Spec] = [(f"row{s}", {"dy": s, "mask": mask_bytes(s[0])}, {}) for s in shapes]
    depth_back += [
        (f"batch{s}{bit}", {"dy": s, "mask": np.uint8([bit])}, {"mode": "batch"}) for s in shapes for bit in (0, 1)
    ]
    depth_back += [(f"p{p}", {"dy": (50, 3), "mask": mask_bytes(50)}, {"p": p}) for p in probabilities]
    depth_back += [("special", {"dy": np.stack([SPECIAL] * 9), "mask": mask_bytes(9)}, {})]
    keys = {"zero": [0, 0], "ones": [2**64 - 1, 2**64 - 1], "mixed": [0x0123456789ABCDEF, 0xFEDCBA9876543210]}
    bits: list[Spec] = [(f"n{n}", {"key": np.array([n, 7], np.uint64)}, {"size": n}) for n in SIZES]
    bits += [(name, {"key": np.array(key, np.uint64)}, {"size": 100}) for name, key in keys.items()]
    n = 1 << 18
    return [
        Op("dropout_forward", F.dropout, bounds.dropout, forward, ({"x": (n,)}, {"p": 0.3, "rng": 1})),
        Op("dropout_backward", F.dropout_backward, bounds.dropout, backward,
            ({"dy": (n,), "mask": mask_bytes(n)}, {"p": 0.3})),
        Op("stochastic_depth_forward", F.stochastic_depth, bounds.dropout, depth,
            ({"x": (64, 12000)}, {"p": 0.3, "rng": 1})),
        Op("stochastic_depth_backward", F.stochastic_depth_backward, bounds.dropout, depth_back,
            ({"dy": (64, 12000), "mask": mask_bytes(64)}, {"p": 0.3})),
        Op("random_bits", random_bits, bounds.exact, bits,
            ({"key": np.array([1, 2], np.uint64)}, {"size": n}), strided=False),
    ]  # fmt: skip


def _batch_norm() -> list[Op]:
    shapes = [(4, 3), (2, 3, 5), (2, 3, 4, 5), (1, 16, 7, 7), (3, 17, 3, 3), (2, 33, 1, 1), (1, 1, 1, 1), (5, 64, 8, 9)]
    empty = [(0, 3, 2, 2), (2, 3, 0, 2), (2, 0, 3, 3)]

    def given(s: tuple[int, ...], *names: str) -> dict[str, Any]:
        c = s[1]
        all_names: dict[str, Any] = {"x": s, "mean": (c,), "var": positive(c), "weight": (c,), "bias": (c,)}
        return {name: all_names[name] for name in ("x", *names)}

    every = ("mean", "var", "weight", "bias")
    forward: list[Spec] = [(_word(s), given(s, *every), {}) for s in shapes + empty]
    s = (2, 19, 5, 6)
    forward += [
        ("plain", given(s, "mean", "var"), {"eps": 1e-3}),
        ("weight", given(s, "mean", "var", "weight"), {}),
        ("bias", given(s, "mean", "var", "bias"), {}),
        ("far", {**given(s, *every), "x": shifted(100, *s), "mean": shifted(100, 19)}, {}),
        ("special", {**given((2, 22), *every), "x": SPECIAL.reshape(2, 22)}, {}),
        ("bad_statistics", {**given(s, *every), "var": with_values([0.0, np.nan, -1.0, np.inf], 19)}, {}),
    ]
    for f in ENDS:
        forward.append((_word(f), given(s, *every), {"activation": f}))

    train: list[Spec] = [(_word(s), given(s, "weight", "bias"), {}) for s in shapes + empty]
    train += [
        ("plain", given(s), {"eps": 1e-3}),
        ("weight", given(s, "weight"), {}),
        ("bias", given(s, "bias"), {}),
        ("far", {**given(s, "weight", "bias"), "x": shifted(100, *s)}, {}),
        ("constant", {"x": np.full(s, 3.0)}, {}),
        ("many", given((64, 3, 9, 9), "weight", "bias"), {}),
        ("nan", {**given(s, "weight", "bias"), "x": with_values([np.nan, np.inf, -np.inf], *s)}, {}),
    ]
    for o in shapes[1:] + empty:  # x, residual and ReLU; few channels, planes in several tasks
        train.append((f"relu_{_word(o)}", given(o, "weight", "bias"), {"relu": True}))
        train.append((f"residual_{_word(o)}", {**given(o, "weight", "bias"), "residual": o}, {"relu": len(o) > 2}))
    train += [
        ("relu_many", {**given((64, 3, 9, 9), "weight", "bias"), "residual": (64, 3, 9, 9)}, {"relu": True}),
        ("relu_nan", {**given(s, "bias"), "residual": with_values([np.nan, np.inf, -np.inf], *s)}, {"relu": True}),
    ]

    def consistent(s: tuple[int, ...], weight: bool = True, by: float = 0.0) -> dict[str, Any]:
        """dy, x, weight, and x's own statistics."""
        x = np.random.default_rng(len(s)).standard_normal(s).astype(np.float32).astype(np.float64) + by
        axes = (0, *range(2, len(s)))
        mean, var = (x.mean(axes), x.var(axes)) if x.size else (np.zeros(s[1]), np.ones(s[1]))
        return {"dy": s, "x": x, "mean": mean, "var": var, **({"weight": (s[1],)} if weight else {})}

    backward: list[Spec] = [(_word(s), consistent(s), {}) for s in shapes + empty]
    backward += [
        ("plain", consistent(s, weight=False), {"eps": 1e-3}),
        ("far", consistent(s, by=100), {}),
        ("many", consistent((64, 3, 9, 9)), {}),
        ("frozen", consistent(s), {"frozen": True}),
        ("frozen_plain", consistent(s, weight=False), {"frozen": True}),
        ("nan", {**consistent(s), "dy": with_values([np.nan, np.inf], *s)}, {}),
    ]
    for o in shapes + empty:
        backward.append((f"relu_{_word(o)}", {**consistent(o), "y": o}, {}))
    backward += [
        ("relu_many", {**consistent((64, 3, 9, 9)), "y": (64, 3, 9, 9)}, {}),
        ("relu_frozen", {**consistent(s), "y": s}, {"frozen": True}),
        ("relu_special", {**consistent(s), "y": with_values([np.nan, np.inf, -np.inf, 0.0, -0.0], *s)}, {}),
        ("relu_nan", {**consistent(s), "dy": with_values([np.nan, np.inf], *s), "y": with_values([-1.0, 0.0], *s)}, {}),
    ]
    big = (8, 33, 32, 32)
    return [
        Op("batch_norm_forward", F.batch_norm, bounds.batch_norm, forward,
            (given(big, *every), {"activation": "relu"})),
        Op("batch_norm_train_forward", F.batch_norm_train, bounds.batch_norm_train, train,
            ({**given(big, "weight", "bias"), "residual": big}, {"relu": True})),
        Op("batch_norm_backward", F.batch_norm_backward, bounds.batch_norm_backward, backward,
            ({**consistent(big), "y": big}, {})),
    ]  # fmt: skip


def _group_norm() -> list[Op]:
    # (x, options): the three forms of the kernel, each in one task and in several
    geometry: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 4, 3, 5), {"num_groups": 2}), ((1, 16, 7, 7), {"num_groups": 4}), ((3, 17, 3, 3), {"num_groups": 17}),
        ((2, 33, 1, 1), {"num_groups": 3}), ((2, 6, 5), {"num_groups": 3}), ((4, 8), {"num_groups": 2}),
        ((1, 1, 1, 1), {"num_groups": 1}), ((5, 64, 8, 9), {"num_groups": 8}), ((2, 6, 2, 3, 4), {"num_groups": 2}),
        ((2, 130, 6, 6), {"num_groups": 1}), ((1, 2, 300, 300), {"num_groups": 1}), ((70, 12), {"num_groups": 3}),
        ((0, 4, 3, 3), {"num_groups": 2}), ((2, 4, 0, 3), {"num_groups": 2}),
        ((2, 19, 5, 6), {"op": "instance_norm"}), ((3, 5, 40), {"op": "instance_norm"}),
        ((1, 3, 260, 260), {"op": "instance_norm"}), ((2, 0, 3, 3), {"op": "instance_norm"}),
    ]  # fmt: skip
    for x, axes in (
        ((4, 7), 1), ((3, 16), 1), ((2, 17), 1), ((5, 1), 1), ((130, 10), 1), ((7, 1000), 1), ((2, 3, 4, 5), 2),
        ((2, 3, 4, 5), 3), ((6,), 1), ((2, 5000), 1), ((3, 30000), 1), ((1100, 130), 1), ((0, 5), 1), ((3, 0), 1),
        ((2, 3, 0, 4), 2),
    ):  # fmt: skip
        geometry.append((x, {"op": "layer_norm", "normalized_shape": x[-axes:]}))

    def given(x: tuple[int, ...], o: dict[str, Any], *names: str) -> dict[str, Any]:
        vector = o.get("normalized_shape", x[1:2])
        return {"x": x, **dict.fromkeys(names, (vector,) if isinstance(vector, int) else vector)}

    def label(x: tuple[int, ...], o: dict[str, Any]) -> str:
        return f"{o.get('op', 'group_norm')}_{_word(x)}_{o.get('num_groups', len(o.get('normalized_shape', ())))}"

    forward: list[Spec] = [(label(x, o), given(x, o, "weight", "bias"), o) for x, o in geometry]
    backward: list[Spec] = [(label(x, o), {"dy": x, **given(x, o, "weight")}, o) for x, o in geometry]
    last = LAYOUTS["channels_last"]
    for x, o in ((2, 19, 5, 6), {"op": "instance_norm"}), ((9, 11), {"op": "layer_norm", "normalized_shape": 11}):
        both = given(x, o, "weight", "bias")
        forward += [
            (f"{o['op']}_plain", {"x": x}, {**o, "eps": 1e-3}),
            (f"{o['op']}_weight", given(x, o, "weight"), o),
            (f"{o['op']}_bias", given(x, o, "bias"), o),
            (f"{o['op']}_far", {**both, "x": shifted(100, *x)}, o),
            (f"{o['op']}_constant", {**both, "x": np.full(x, 3.0)}, o),
            (f"{o['op']}_nan", {**both, "x": with_values([np.nan, np.inf, -np.inf], *x)}, o),
        ]
        backward += [
            (f"{o['op']}_plain", {"dy": x, "x": x}, {**o, "eps": 1e-3}),
            (f"{o['op']}_far", {"dy": x, **given(x, o, "weight"), "x": shifted(100, *x)}, o),
            (f"{o['op']}_nan", {"dy": with_values([np.nan, np.inf], *x), **given(x, o, "weight")}, o),
        ]
    for x, o in (((1, 24, 60, 60), {"num_groups": 3}), ((2, 3, 9, 7), {"op": "instance_norm"})):
        both = {**given(x, o, "weight", "bias"), "x": _laid(last, *x)}
        forward.append((f"{label(x, o)}_last", both, o))
        backward.append(
            (f"{label(x, o)}_last", {"dy": _laid(last, *x), **given(x, o, "weight"), "x": _laid(last, *x)}, o)
        )
    big, rows = (8, 32, 32, 32), (1024, 300)
    options: dict[str, Any] = {"op": "layer_norm", "normalized_shape": 300}
    return [
        Op("group_norm_forward", normalise, bounds.group_norm, forward,
            (given(big, {}, "weight", "bias"), {"num_groups": 4})),
        Op("group_norm_backward", normalise_backward, bounds.group_norm_backward, backward,
            ({"dy": rows, **given(rows, options, "weight")}, options)),
    ]  # fmt: skip


def _pools() -> list[Op]:
    geometry: Geometries = [
        ("2x2", (2, 3, 6, 8), {"kernel_size": 2}),
        ("2x2_odd", (1, 17, 7, 9), {"kernel_size": 2}),
        ("3x3s2p1", (2, 5, 9, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("3x3s1p1", (1, 33, 6, 5), {"kernel_size": 3, "stride": 1, "padding": 1}),
        ("3x3s2", (1, 16, 12, 12), {"kernel_size": 3, "stride": 2}),
        ("2x3", (2, 4, 9, 10), {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)}),
        ("5x4s3", (1, 2, 13, 14), {"kernel_size": (5, 4), "stride": 3, "padding": (2, 1)}),
        ("1x1", (1, 3, 4, 4), {"kernel_size": 1}),
        ("1x1s2", (1, 3, 5, 5), {"kernel_size": 1, "stride": 2}),
        ("whole", (3, 7, 4, 5), {"kernel_size": (4, 5)}),
        ("ceil", (1, 3, 6, 7), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
        ("ceil_pad", (1, 3, 7, 6), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
        ("ceil_pad2", (2, 4, 8, 5), {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True}),
        ("ceil_beyond", (2, 17, 4, 3), {"kernel_size": (5, 6), "stride": (2, 4), "ceil_mode": True}),
        (
            "ceil_beyond_pad",
            (1, 3, 2, 9),
            {"kernel_size": (7, 3), "stride": (4, 2), "padding": (1, 1), "ceil_mode": True},
        ),
        ("wide", (1, 1, 3, 130), {"kernel_size": 2, "stride": 1}),
        ("16x16", (1, 2, 20, 20), {"kernel_size": 16, "stride": 2}),  # more than 255 taps
        ("no_images", (0, 3, 6, 6), {"kernel_size": 2}),
        ("no_channels", (2, 0, 6, 6), {"kernel_size": 2}),
    ]
    dilated: Geometries = [("dilated", (2, 3, 9, 9), {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2})]
    dilated += [("dilated2", (1, 18, 12, 10), {"kernel_size": (2, 3), "dilation": (3, 2)})]
    without_pad: Geometries = [
        (f"{label}_excluded", shape, {**o, "count_include_pad": False})
        for label, shape, o in geometry
        if "padding" in o or "ceil_mode" in o
    ]

    def grad(function: Any, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[int, ...]:
        with NUMPY.on():
            return (*shape[:2], *function(np.zeros((1, 1, *shape[2:])), **o).shape[2:])

    odd = [np.nan, np.inf, -np.inf]
    maximum: list[Spec] = [(label, {"x": shape}, o) for label, shape, o in geometry + dilated]
    maximum += [
        ("ties", {"x": rounded(2, 5, 9, 9)}, {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("nan", {"x": with_values(odd, 2, 5, 9, 9)}, {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("all_nan", {"x": np.full((1, 2, 4, 4), np.nan)}, {"kernel_size": 2}),
        ("all_minus_inf", {"x": np.full((1, 2, 4, 4), -np.inf)}, {"kernel_size": 2, "padding": 1}),
        ("denormal", {"x": np.full((1, 2, 4, 4), 1e-40)}, {"kernel_size": 2}),
    ]
    max_back: list[Spec] = [
        (label, {"dy": grad(F.max_pool2d, shape, o), "x": shape}, o) for label, shape, o in geometry + dilated
    ]
    max_back += [
        ("ties", {"dy": (2, 5, 5, 5), "x": rounded(2, 5, 9, 9)}, {"kernel_size": 3, "stride": 2, "padding": 1})
    ]
    max_back += [("nan", {"dy": (1, 2, 2, 2), "x": with_values([np.nan], 1, 2, 4, 4)}, {"kernel_size": 2})]
    without_pad += [
        ("divisor", (2, 5, 9, 11), {"kernel_size": 3, "stride": 2, "padding": 1, "divisor_override": 4}),
        ("divisor1", (1, 17, 7, 9), {"kernel_size": (2, 3), "ceil_mode": True, "divisor_override": 1}),
        ("divisor_negative", (1, 3, 4, 4), {"kernel_size": 2, "divisor_override": -2}),
    ]
    average: list[Spec] = [(label, {"x": shape}, o) for label, shape, o in geometry + without_pad]
    average += [("nan", {"x": with_values(odd, 2, 5, 9, 9)}, {"kernel_size": 3, "stride": 2, "padding": 1})]
    avg_back: list[Spec] = [
        (label, {"dy": grad(F.avg_pool2d, shape, o)}, {"in_shape": shape, **o})
        for label, shape, o in geometry + without_pad
    ]
    shapes = [(2, 3, 4, 5), (1, 1, 1, 1), (3, 17, 7, 7), (2, 64, 1, 9), (0, 3, 2, 2), (2, 0, 2, 2), (1, 33, 16, 16)]
    whole: list[Spec] = [(_word(s), {"x": s}, {}) for s in shapes]
    whole += [("nan", {"x": with_values(odd, 6, 3, 4, 4)}, {})]
    whole_back: list[Spec] = [(_word(s), {"dy": (*s[:2], 1, 1)}, {"in_shape": s}) for s in shapes]
    whole_back += [("last", {"dy": (2, 17, 1, 1)}, {"in_shape": (2, 17, 3, 4), "channels_last": True})]
    parts: Geometries = [
        (f"{_word(x)}_to_{_word(size)}", x, {"output_size": size})
        for x, size in (
            ((2, 3, 7, 9), (3, 4)), ((1, 17, 6, 6), 3), ((1, 5, 5, 4), (7, 9)), ((2, 33, 8, 8), 1),
            ((2, 4, 5, 6), None), ((1, 2, 5, 6), (None, 4)), ((1, 2, 6, 5), (2, None)), ((1, 1, 40, 130), (3, 5)),
            ((3, 4, 1, 1), 1), ((2, 16, 13, 13), 7), ((1, 65, 3, 2), (1, 2)), ((0, 3, 5, 5), 2), ((2, 0, 5, 5), 2),
        )
    ]  # fmt: skip
    last = LAYOUTS["channels_last"]
    adaptive_max: list[Spec] = [(label, {"x": shape}, o) for label, shape, o in parts]
    adaptive_max += [
        ("last", {"x": _laid(last, 2, 19, 9, 7)}, {"output_size": (4, 3)}),
        ("ties", {"x": rounded(2, 5, 9, 9)}, {"output_size": 4}),
        ("ties_last", {"x": lambda rng: last(np.round(rng.standard_normal((2, 5, 9, 9))))}, {"output_size": 4}),
        ("nan", {"x": with_values(odd, 2, 5, 9, 9)}, {"output_size": 4}),
        ("nan_last", {"x": lambda rng: last(with_values(odd, 2, 5, 9, 9)(rng))}, {"output_size": 4}),
        ("all_nan", {"x": np.full((1, 2, 4, 4), np.nan)}, {"output_size": 2}),
        ("all_minus_inf", {"x": np.full((1, 2, 4, 4), -np.inf)}, {"output_size": 3}),
    ]
    adaptive_max_back: list[Spec] = [
        (label, {"dy": grad(F.adaptive_max_pool2d, shape, o), "x": shape}, o) for label, shape, o in parts
    ]
    adaptive_max_back += [
        ("ties", {"dy": (2, 5, 4, 4), "x": rounded(2, 5, 9, 9)}, {"output_size": 4}),
        ("last", {"dy": (2, 70, 4, 4), "x": _laid(last, 2, 70, 9, 7)}, {"output_size": 4}),
    ]
    adaptive_avg: list[Spec] = [(label, {"x": shape}, o) for label, shape, o in parts]
    adaptive_avg += [("nan", {"x": with_values(odd, 2, 5, 9, 9)}, {"output_size": 4})]
    adaptive_avg += [("last", {"x": _laid(last, 2, 19, 9, 7)}, {"output_size": (4, 3)})]
    adaptive_avg_back: list[Spec] = [
        (label, {"dy": grad(F.adaptive_avg_pool2d, shape, o)}, {"in_shape": shape}) for label, shape, o in parts
    ]
    adaptive_avg_back += [("last", {"dy": (2, 17, 1, 1)}, {"in_shape": (2, 17, 3, 4), "channels_last": True})]
    big, o = (4, 33, 56, 56), {"kernel_size": 3, "stride": 2, "padding": 1}
    small = (4, 33, 28, 28)
    third: dict[str, Any] = {"output_size": 19}
    return [
        Op("max_pool2d_forward", max_pool2d, bounds.exact, maximum, ({"x": big}, o)),
        Op("max_pool2d_backward", F.max_pool2d_backward, bounds.max_pool2d_backward, max_back,
            ({"dy": small, "x": big}, o)),
        Op("avg_pool2d_forward", F.avg_pool2d, bounds.avg_pool2d, average, ({"x": big}, o)),
        Op("avg_pool2d_backward", F.avg_pool2d_backward, bounds.avg_pool2d_backward, avg_back,
            ({"dy": small}, {"in_shape": big, **o})),
        Op("adaptive_max_pool2d_forward", adaptive_max_pool2d, bounds.exact, adaptive_max, ({"x": big}, third)),
        Op("adaptive_max_pool2d_backward", F.adaptive_max_pool2d_backward, bounds.adaptive_max_pool2d_backward,
            adaptive_max_back, ({"dy": (4, 33, 19, 19), "x": big}, third)),
        Op("adaptive_avg_pool2d_forward", F.adaptive_avg_pool2d, bounds.adaptive_avg_pool2d, adaptive_avg,
            ({"x": big}, third)),
        Op("adaptive_avg_pool2d_backward", F.adaptive_avg_pool2d_backward, bounds.adaptive_avg_pool2d_backward,
            adaptive_avg_back, ({"dy": (4, 33, 19, 19)}, {"in_shape": big})),
        Op("global_avg_pool2d_forward", F.global_avg_pool2d, bounds.global_avg_pool2d, whole, ({"x": big}, {})),
        Op("global_avg_pool2d_backward", F.global_avg_pool2d_backward, bounds.one_product, whole_back,
            ({"dy": (4, 33, 1, 1)}, {"in_shape": big})),
    ]  # fmt: skip


#: (label, x, weight, geometry): every way in which a convolution differs from its neighbours
CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("1x1", (2, 3, 4, 5), (4, 3, 1, 1), {}),
    ("1x1s2", (1, 16, 5, 6), (17, 16, 1, 1), {"stride": 2}),
    ("1x1p1", (1, 5, 3, 3), (2, 5, 1, 1), {"padding": 1}),
    ("3x3", (2, 3, 7, 8), (5, 3, 3, 3), {}),
    ("3x3p1", (2, 16, 9, 10), (16, 16, 3, 3), {"padding": 1}),
    ("3x3p1_odd", (1, 17, 7, 7), (33, 17, 3, 3), {"padding": 1}),
    ("3x3s2p1", (2, 8, 9, 9), (12, 8, 3, 3), {"stride": 2, "padding": 1}),
    ("3x3d2", (1, 4, 11, 10), (6, 4, 3, 3), {"dilation": 2, "padding": 2}),
    ("5x3", (1, 2, 9, 12), (3, 2, 5, 3), {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 3)}),
    ("7x7s2p3", (1, 3, 20, 21), (9, 3, 7, 7), {"stride": 2, "padding": 3}),
    ("stride_over_kernel", (1, 3, 11, 10), (4, 3, 2, 2), {"stride": 3}),
    ("groups2", (2, 6, 6, 6), (8, 3, 3, 3), {"groups": 2, "padding": 1}),
    ("groups4s2", (1, 8, 9, 7), (4, 2, 3, 2), {"groups": 4, "stride": 2}),
    ("depthwise", (2, 19, 8, 7), (19, 1, 3, 3), {"groups": 19, "padding": 1}),
    ("depthwise2", (1, 5, 8, 7), (10, 1, 3, 3), {"groups": 5, "stride": 2, "padding": 1}),
    # tiles of 14, 8, 6, 4 and 1 pixels, inside and at the edges
    ("depthwise_3", (2, 19, 5, 33), (19, 1, 3, 3), {"groups": 19, "padding": 1}),
    ("depthwise_3s2", (1, 35, 5, 41), (35, 1, 3, 3), {"groups": 35, "stride": 2, "padding": 1}),
    ("depthwise_5", (1, 17, 6, 26), (17, 1, 5, 5), {"groups": 17, "padding": 2}),
    ("depthwise_5s2", (1, 16, 6, 38), (16, 1, 5, 5), {"groups": 16, "stride": 2, "padding": (2, 1)}),
    ("depthwise_7", (1, 20, 5, 23), (20, 1, 7, 7), {"groups": 20, "padding": 3}),
    ("depthwise_7s2", (1, 18, 8, 45), (18, 1, 7, 7), {"groups": 18, "stride": 2, "padding": 3}),
    ("depthwise_wider", (2, 16, 3, 2), (16, 1, 7, 7), {"groups": 16, "padding": 3}),
    ("depthwise_d2", (1, 21, 9, 12), (21, 1, 3, 3), {"groups": 21, "padding": 2, "dilation": 2}),
    ("depthwise_2x4s3", (1, 16, 9, 34), (16, 1, 2, 4), {"groups": 16, "stride": 3, "padding": 1}),
    ("one_pixel", (1, 32, 1, 1), (16, 32, 1, 1), {}),
    ("kernel_is_image", (3, 4, 5, 6), (7, 4, 5, 6), {}),
    ("all_padding", (1, 2, 1, 1), (3, 2, 3, 3), {"padding": 3}),
    ("one_channel", (1, 1, 6, 40), (1, 1, 3, 3), {"padding": 1}),
    ("deep", (1, 130, 4, 4), (8, 130, 3, 3), {"padding": 1}),
    ("wide", (1, 3, 2, 260), (2, 3, 1, 5), {"padding": (0, 2)}),
    ("many_outputs", (1, 3, 5, 5), (129, 3, 3, 3), {"padding": 1}),
    ("no_images", (0, 3, 5, 5), (4, 3, 3, 3), {}),
    ("no_inputs", (2, 0, 5, 5), (4, 0, 3, 3), {}),
    ("no_outputs", (2, 3, 5, 5), (0, 3, 3, 3), {}),
]


def output_shape(x: tuple[int, ...], w: tuple[int, ...], o: dict[str, Any]) -> tuple[int, ...]:
    def pair(name: str, default: int) -> tuple[int, int]:
        value = o.get(name, default)
        return value if isinstance(value, tuple) else (value, value)

    s, p, d = pair("stride", 1), pair("padding", 0), pair("dilation", 1)
    size = ((x[2 + i] + 2 * p[i] - d[i] * (w[2 + i] - 1) - 1) // s[i] + 1 for i in (0, 1))
    return (x[0], w[0], *size)


def _convolutions() -> list[Op]:
    forward: list[Spec] = [(label, {"x": x, "weight": w, "bias": (w[0],)}, o) for label, x, w, o in CONVOLUTIONS]
    x, w, o = (2, 5, 7, 8), (18, 5, 3, 3), {"padding": 1}
    y = output_shape(x, w, o)
    norm = {"gamma": (18,), "beta": (18,), "mean": (18,), "var": positive(18)}
    plain, full = {"x": x, "weight": w}, {"x": x, "weight": w, "bias": (18,), **norm, "residual": y}
    forward += [
        ("no_bias", plain, o),
        ("batch_norm", {**plain, **norm}, {**o, "eps": 1e-5}),
        ("batch_norm_bare", {**plain, "mean": (18,), "var": positive(18)}, {**o, "eps": 1e-3}),
        ("residual", {**plain, "residual": y}, o),
        ("full", full, {**o, "eps": 1e-5, "activation": "relu"}),
        ("groups_full", {**full, "x": (2, 6, 7, 8), "weight": (18, 2, 3, 3)},
         {**o, "groups": 3, "eps": 1e-5, "activation": "gelu"}),
        ("no_inputs_full", {**full, "x": (2, 0, 7, 8), "weight": (18, 0, 3, 3)},
         {**o, "eps": 1e-5, "activation": "sigmoid"}),
        ("nan", {**plain, "x": with_values([np.nan, np.inf, -np.inf], *x)}, o),
        ("inf_weight", {**plain, "weight": with_values([np.inf, np.nan], *w)}, o),
        ("nan_relu", {**plain, "x": with_values([np.nan, np.inf, -np.inf], *x)}, {**o, "activation": "relu"}),
    ]  # fmt: skip
    for f in ENDS:
        forward.append((_word(f), {**plain, "bias": (18,)}, {**o, "activation": f}))
    backward: list[Spec] = [
        (label, {"dy": output_shape(x, w, o), "x": x, "weight": w}, o) for label, x, w, o in CONVOLUTIONS
    ]
    backward += [("nan", {"dy": with_values([np.nan, np.inf], *y), "x": x, "weight": w}, o)]

    def columns(x: tuple[int, ...], w: tuple[int, ...], o: dict[str, Any]) -> dict[str, Any]:
        return {"kernel_size": w[2:], **{name: v for name, v in o.items() if name != "groups"}}

    unfold: list[Spec] = [(label, {"x": x}, columns(x, w, o)) for label, x, w, o in CONVOLUTIONS]
    unfold += [("special", {"x": SPECIAL.reshape(1, 1, 4, 11)}, {"kernel_size": 2})]
    fold: list[Spec] = []
    for label, x, w, o in CONVOLUTIONS:
        n, _, oh, ow = output_shape(x, w, o)
        shape = (n, x[1] * w[2] * w[3], oh * ow)
        fold.append((label, {"cols": shape}, {"output_size": x[2:], **columns(x, w, o)}))
    bx, bw = (4, 32, 28, 28), (64, 32, 3, 3)
    return [
        Op("conv2d_forward", conv2d, bounds.conv2d, forward,
            ({"x": bx, "weight": bw, "bias": (64,)}, {"padding": 1, "activation": "relu"})),
        Op("conv2d_backward", F.conv2d_backward, bounds.conv2d_backward, backward,
            ({"dy": (4, 64, 28, 28), "x": bx, "weight": bw}, {"padding": 1})),
        Op("im2col_forward", F.im2col, bounds.exact, unfold, ({"x": bx}, {"kernel_size": 3, "padding": 1})),
        Op("col2im_forward", F.col2im, bounds.col2im, fold,
            ({"cols": (4, 32 * 9, 28 * 28)}, {"output_size": (28, 28), "kernel_size": 3, "padding": 1})),
    ]  # fmt: skip


#: (label, x, hidden channels or None, outputs, kernel, options) of inverted_residual
INVERTED: list[tuple[str, tuple[int, ...], int | None, int, int, dict[str, Any]]] = [
    ("plain", (1, 16, 6, 7), 32, 16, 3, {"padding": 1}),
    ("stride2", (2, 24, 9, 11), 40, 33, 3, {"padding": 1, "stride": 2}),
    ("5x5", (1, 32, 8, 8), 48, 24, 5, {"padding": 2}),
    ("5x5s2", (3, 20, 7, 9), 33, 8, 5, {"padding": 2, "stride": 2}),
    ("separable", (2, 40, 12, 10), None, 32, 3, {"padding": 1}),
    ("separable_s2", (1, 32, 15, 15), None, 64, 3, {"padding": 1, "stride": 2}),
    ("one_pixel", (1, 32, 1, 1), 32, 16, 3, {"padding": 1}),
    ("no_padding", (2, 16, 5, 9), 32, 16, 3, {}),
    ("wide", (1, 16, 3, 70), 32, 16, 3, {"padding": 1}),
    ("many_rows", (9, 16, 8, 4), 64, 16, 3, {"padding": 1}),
    ("few_channels", (1, 3, 6, 6), 6, 4, 3, {"padding": 1}),
    ("2x4s3", (1, 16, 9, 34), 16, 16, 2, {"stride": 3, "padding": 1}),
    ("more_padding", (1, 16, 5, 5), 16, 16, 3, {"padding": 3}),
    ("no_images", (0, 16, 6, 7), 32, 16, 3, {"padding": 1}),
    ("no_inputs", (2, 0, 6, 7), 32, 16, 3, {"padding": 1}),
]


def _inverted_residuals() -> list[Op]:
    forward: list[Spec] = []
    for label, x, hidden, outputs, kernel, options in INVERTED:
        m = x[1] if hidden is None else hidden
        given: dict[str, Any] = {"x": x, "depthwise": (m, 1, kernel, kernel), "project": (outputs, m, 1, 1)}
        given |= {} if hidden is None else {"expand": (m, x[1], 1, 1)}
        forward.append((label, given, options))
        y = output_shape(x, (outputs, m, kernel, kernel), options)
        biases = {
            "depthwise_bias": (m,),
            "project_bias": (outputs,),
            **({} if hidden is None else {"expand_bias": (m,)}),
        }
        forward.append((f"{label}_full", {**given, **biases, "residual": y},
                        {**options, "activations": ("relu6", "relu", ("leaky_relu", 0.1))}))  # fmt: skip
    label, given, options = forward[0]
    for f in ("hardswish", "silu", "gelu"):
        forward.append((f, given, {**options, "activations": (f, f, f)}))
        forward.append((f"relu6_{f}", given, {**options, "activations": ("relu6", "relu6", f)}))
    forward += [
        ("nan", {**given, "x": with_values([np.nan, np.inf, -np.inf], *given["x"])}, options),
        ("inf_weight", {**given, "depthwise": with_values([np.inf, np.nan], *given["depthwise"])}, options),
    ]
    large = {"x": (4, 32, 28, 28), "expand": (64, 32, 1, 1), "depthwise": (64, 1, 3, 3), "project": (32, 64, 1, 1)}
    return [
        Op("inverted_residual_forward", inverted_residual, bounds.inverted_residual, forward,
            (large, {"padding": 1, "activations": ("relu6", "relu6", None)})),
    ]  # fmt: skip


#: (label, x, weight, options) of conv_transpose2d
TRANSPOSED: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("1x1", (2, 3, 4, 5), (3, 4, 1, 1), {}),
    ("2x2s2", (2, 17, 5, 6), (17, 9, 2, 2), {"stride": 2}),
    ("3x3p1", (1, 16, 7, 8), (16, 33, 3, 3), {"padding": 1}),
    ("4x4s2p1", (2, 8, 7, 9), (8, 16, 4, 4), {"stride": 2, "padding": 1}),
    ("3x3s2p1o1", (1, 5, 6, 5), (5, 18, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("5x3", (2, 4, 5, 7), (4, 3, 5, 3), {"stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2)}),
    ("dilated", (1, 3, 6, 7), (3, 4, 3, 2), {"dilation": (2, 3), "padding": 2, "output_padding": 1}),
    ("dilated_s3", (1, 3, 4, 4), (3, 2, 2, 3), {"stride": 3, "dilation": 2, "output_padding": 2}),
    ("stride_over_kernel", (1, 3, 4, 5), (3, 4, 2, 1), {"stride": 3}),
    ("groups2", (2, 6, 5, 5), (6, 4, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),
    ("depthwise", (1, 19, 5, 6), (19, 1, 3, 3), {"groups": 19, "stride": 2, "padding": 1, "output_padding": 1}),
    ("depthwise_plain", (2, 19, 5, 6), (19, 1, 3, 3), {"groups": 19}),
    # all phases in one product, and beside it: shapes of tiles
    ("2x2s2_tiles", (2, 32, 5, 7), (32, 17, 2, 2), {"stride": 2}),
    ("4x4s2_tiles", (3, 24, 5, 6), (24, 32, 4, 4), {"stride": 2, "padding": 1}),
    ("4x4s2_tiles_odd", (1, 16, 6, 5), (16, 20, 4, 4), {"stride": 2, "padding": (0, 3), "output_padding": (1, 0)}),
    ("6x3s3_tiles", (1, 20, 5, 4), (20, 19, 6, 3), {"stride": 3, "padding": (2, 0), "output_padding": (0, 2)}),
    ("4x3s2_1_tiles", (1, 16, 6, 6), (16, 16, 4, 3), {"stride": (2, 1), "padding": 1}),
    ("3x3s2_tiles", (1, 16, 6, 7), (16, 17, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("one_pixel", (1, 33, 1, 1), (33, 8, 4, 4), {}),
    ("cropped", (1, 2, 3, 3), (2, 3, 3, 3), {"padding": 2}),
    ("deep", (1, 130, 4, 4), (130, 7, 3, 3), {"stride": 2, "padding": 1}),
    ("no_images", (0, 3, 5, 5), (3, 4, 3, 3), {"stride": 2}),
    ("no_inputs", (2, 0, 5, 5), (0, 4, 3, 3), {}),
    ("no_outputs", (2, 3, 5, 5), (3, 0, 3, 3), {}),
]


def _transposed() -> list[Op]:
    def output(x: tuple[int, ...], w: tuple[int, ...], o: dict[str, Any]) -> tuple[int, ...]:
        with NUMPY.on():
            return F.conv_transpose2d(np.zeros(x), np.zeros(w), **o).shape

    forward: list[Spec] = [
        (label, {"x": x, "weight": w, "bias": (w[1] * o.get("groups", 1),)}, o) for label, x, w, o in TRANSPOSED
    ]
    plain: dict[str, Any] = {"x": (2, 5, 6, 7), "weight": (5, 18, 4, 4)}
    o = {"stride": 2, "padding": 1}
    forward += [("no_bias", plain, o), ("special", {**plain, "x": with_values([np.nan, np.inf], 2, 5, 6, 7)}, o)]
    for f in ENDS:
        forward.append((_word(f), {**plain, "bias": (18,)}, {**o, "activation": f}))
    backward: list[Spec] = [(label, {"dy": output(x, w, o), "x": x, "weight": w}, o) for label, x, w, o in TRANSPOSED]
    backward += [("nan", {**plain, "dy": with_values([np.nan, np.inf], 2, 18, 12, 14)}, o)]
    bx, bw = (4, 64, 14, 14), (64, 32, 4, 4)
    return [
        Op("conv_transpose2d_forward", F.conv_transpose2d, bounds.conv_transpose2d, forward,
            ({"x": bx, "weight": bw, "bias": (32,)}, {**o, "activation": "relu"})),
        Op("conv_transpose2d_backward", F.conv_transpose2d_backward, bounds.conv_transpose2d_backward, backward,
            ({"dy": (4, 32, 28, 28), "x": bx, "weight": bw}, o)),
    ]  # fmt: skip


def _conv1d() -> list[Op]:
    geometry: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ("1", (2, 3, 5), (4, 3, 1), {}),
        ("3p1", (2, 17, 20), (9, 17, 3), {"padding": 1}),
        ("5s2", (1, 4, 33), (18, 4, 5), {"stride": 2, "padding": (2,)}),
        ("3d4", (2, 8, 40), (3, 8, 3), {"dilation": 4}),
        ("groups", (1, 6, 19), (4, 3, 4), {"groups": 2, "stride": (3,)}),
        ("depthwise", (2, 19, 12), (19, 1, 3), {"groups": 19, "padding": 1}),
        ("long", (1, 2, 500), (3, 2, 7), {"padding": 3}),
        ("no_images", (0, 3, 5), (4, 3, 3), {}),
    ]

    def output(x: tuple[int, ...], w: tuple[int, ...], o: dict[str, Any]) -> tuple[int, ...]:
        with NUMPY.on():
            return F.conv1d(np.zeros(x), np.zeros(w), **o).shape

    forward: list[Spec] = [(label, {"x": x, "weight": w, "bias": (w[0],)}, o) for label, x, w, o in geometry]
    forward += [("relu", {"x": (2, 3, 20), "weight": (5, 3, 3)}, {"activation": "relu"})]
    backward: list[Spec] = [(label, {"dy": output(x, w, o), "x": x, "weight": w}, o) for label, x, w, o in geometry]
    bx, bw, o = (8, 32, 512), (64, 32, 5), {"padding": 2}
    return [
        Op("conv1d", F.conv1d, bounds.conv2d, forward, ({"x": bx, "weight": bw, "bias": (64,)}, o)),
        Op("conv1d_backward", F.conv1d_backward, bounds.conv2d_backward, backward,
            ({"dy": (8, 64, 512), "x": bx, "weight": bw}, o)),
    ]  # fmt: skip


#: (label, x, options) of interpolate: every mode, larger and smaller, by size and by scale
INTERPOLATIONS: Geometries = [
    ("nearest", (2, 3, 5, 6), {"scale_factor": 2}),
    ("nearest_size", (1, 17, 7, 9), {"size": (11, 4)}),
    ("nearest_3d", (2, 3, 17), {"size": 40}),
    ("nearest_exact", (1, 4, 7, 9), {"scale_factor": 1.7, "mode": "nearest-exact"}),
    ("area", (1, 4, 7, 40), {"size": (3, 7), "mode": "area"}),
    ("area_larger", (1, 4, 3, 4), {"size": 9, "mode": "area"}),
    ("linear", (2, 9, 17), {"scale_factor": 2.5, "mode": "linear"}),
    ("linear_rows", (3, 20, 9), {"size": 70, "mode": "linear"}),
    ("bilinear", (2, 3, 5, 6), {"scale_factor": 2, "mode": "bilinear"}),
    ("bilinear_corners", (2, 19, 5, 6), {"size": (9, 21), "mode": "bilinear", "align_corners": True}),
    ("bilinear_smaller", (1, 33, 14, 15), {"scale_factor": 0.4, "mode": "bilinear"}),
    ("bilinear_recomputed", (1, 2, 7, 9),
     {"scale_factor": 1.3, "mode": "bilinear", "recompute_scale_factor": True}),
    ("bilinear_height", (2, 3, 5, 40), {"size": (12, 40), "mode": "bilinear"}),
    ("bilinear_width", (2, 3, 20, 5), {"size": (20, 12), "mode": "bilinear"}),
    ("bilinear_same", (2, 3, 5, 6), {"scale_factor": 1, "mode": "bilinear"}),
    ("bilinear_one", (1, 3, 5, 6), {"size": 1, "mode": "bilinear", "align_corners": True}),
    ("bilinear_from_one", (1, 3, 1, 1), {"size": 4, "mode": "bilinear"}),
    ("bilinear_antialias", (1, 3, 20, 33), {"size": (5, 8), "mode": "bilinear", "antialias": True}),
    ("bilinear_wide", (1, 1, 20, 1500), {"size": (19, 2100), "mode": "bilinear"}),
    ("bicubic", (2, 3, 5, 6), {"scale_factor": 2, "mode": "bicubic"}),
    ("bicubic_corners", (2, 17, 7, 6), {"size": (9, 21), "mode": "bicubic", "align_corners": True}),
    ("bicubic_antialias", (1, 3, 20, 33), {"size": (5, 8), "mode": "bicubic", "antialias": True}),
    ("bicubic_inside", (1, 3, 5, 6), {"scale_factor": 2, "mode": "bicubic", "exclude_outside": True}),
    ("trilinear", (1, 2, 3, 4, 5), {"size": (5, 4, 9), "mode": "trilinear"}),
    ("nearest_5d", (1, 2, 3, 4, 5), {"scale_factor": (2, 1, 3)}),
    *((f"{c}_{m}", (1, 3, 4, 5), {"size": (7, 3), "mode": m, "coordinates": c})
      for c in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
      for m in ("nearest", "bilinear", "bicubic")),
    *((f"asymmetric_{r}", (1, 3, 4, 5), {"size": (10, 2), "coordinates": "asymmetric", "rounding": r})
      for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    ("no_images", (0, 3, 5, 6), {"scale_factor": 2}),
]  # fmt: skip

#: (label, x, options) of pad
PADS: Geometries = [
    *((f"{m}_{_label}", _x, {"pad": _pad, "mode": m})
      for m in ("constant", "reflect", "replicate", "circular")
      for _label, _x, _pad in (
          ("4d", (2, 3, 5, 20), (1, 2, 2, 1)), ("wide", (1, 2, 4, 700), (3, 1, 0, 2)),
          ("crop", (1, 17, 7, 9), (-2, 3, 1, -1)), ("3d", (2, 9, 17), (2, 1)), ("vector", (9,), (3, 4)),
          ("5d", (2, 2, 3, 4, 5), (1, 1, 0, 2, 2, -1)), ("channels", (2, 4, 3, 5), (1, 0, 0, 1, 2, 3)),
          ("outer", (3, 4, 5, 6), (0, 0, 0, 0, 0, 0, 1, 2)), ("nothing", (2, 3, 4, 5), (0, 0, 0, 0)),
          ("narrow", (20, 20, 3, 2), (1, 1, 1, 1)), ("no_images", (0, 3, 4, 5), (1, 1)),
      )),
    ("empty", (2, 0, 3), {"pad": (1, 1, 2, 0)}),
    ("all_gone", (2, 3, 4), {"pad": (-2, -2)}),
    ("most", (1, 2, 4, 5), {"pad": (4, 4, 3, 3), "mode": "reflect"}),
    ("around", (1, 2, 4, 5), {"pad": (5, 5, 4, 4), "mode": "circular"}),
    ("far", (1, 2, 4, 5), {"pad": (9, 8, 7, 6), "mode": "replicate"}),
]  # fmt: skip


def _resampling() -> list[Op]:
    def random_matrix(out: int, n: int, most: int) -> Matrix:
        """Rows of 0 to ``most`` taps, every fourth a copy."""
        rng = np.random.default_rng(out * 1000 + n)
        counts = np.where(np.arange(out) % 4 == 3, 1, rng.integers(0, most + 1, out))
        row = np.repeat(np.arange(out), counts)
        weight = np.where(row % 4 == 3, 1.0, rng.standard_normal(row.size))
        return Matrix(out, n, row, rng.integers(0, n, row.size), weight)

    def shape_of(function: Any, shape: tuple[int, ...], o: dict[str, Any]) -> tuple[int, ...]:
        with NUMPY.on():
            return function(np.zeros(shape), **o).shape

    sizes = [
        (outer, h, w, inner) for outer, h, w in ((1, 1, 1), (1, 5, 7), (3, 9, 8), (2, 17, 33), (1, 3, 70))
        for inner in (1, 3, 16, 17, 70)
    ]  # fmt: skip
    raw: list[Spec] = []
    for shape in sizes:
        _, h, w, _ = shape
        rows, columns = random_matrix(h + 3, h, 3), random_matrix(w + 8, w, 5)
        for label, r, c in (("both", rows, columns), ("rows", rows, None), ("columns", None, columns)):
            raw.append((f"{label}_{_word(shape)}", {"x": shape}, {"rows": r, "columns": c, "value": 0.5}))
    raw += [
        ("neither", {"x": (2, 3, 4, 5)}, {"rows": None, "columns": None, "value": 0.0}),
        ("far_apart", {"x": (20, 2, 3000, 1)},
         {"rows": None, "columns": random_matrix(2500, 3000, 3), "value": 0.0}),
        ("special", {"x": with_values([np.nan, np.inf, -np.inf], 2, 17, 18, 1)},
         {"rows": random_matrix(20, 17, 2), "columns": random_matrix(30, 18, 2), "value": np.inf}),
    ]  # fmt: skip
    last = LAYOUTS["channels_last"]
    forward: list[Spec] = [(label, {"x": x}, o) for label, x, o in INTERPOLATIONS]
    forward += [(f"{label}_last", {"x": _laid(last, *x)}, o) for label, x, o in INTERPOLATIONS if len(x) == 4]
    forward += [
        ("special", {"x": with_values([np.nan, np.inf, -np.inf], 2, 3, 9, 9)}, {"size": 13, "mode": "bilinear"}),
        ("special_nearest", {"x": SPECIAL.reshape(1, 1, 4, 11)}, {"scale_factor": 2}),
    ]
    backward: list[Spec] = [
        (label, {"dy": shape_of(F.interpolate, x, o)}, {"in_shape": x, **o}) for label, x, o in INTERPOLATIONS
    ]
    backward += [
        (f"{label}_last", {"dy": _laid(last, *shape_of(F.interpolate, x, o))}, {"in_shape": x, **o})
        for label, x, o in INTERPOLATIONS if len(x) == 4
    ]  # fmt: skip
    padded: list[Spec] = [(label, {"x": x}, o) for label, x, o in PADS]
    padded += [(f"{label}_last", {"x": _laid(last, *x)}, o) for label, x, o in PADS if len(x) == 4]
    padded += [
        ("value", {"x": (2, 3, 4, 5)}, {"pad": (1, 2, 3, 4), "value": -7.5}),
        ("special", {"x": SPECIAL.reshape(1, 1, 4, 11)}, {"pad": (1, 1, 1, 1), "value": np.nan}),
    ]
    padded_back: list[Spec] = [(label, {"dy": shape_of(F.pad, x, o)}, {"in_shape": x, **o}) for label, x, o in PADS]
    padded_back += [
        (f"{label}_last", {"dy": _laid(last, *shape_of(F.pad, x, o))}, {"in_shape": x, **o})
        for label, x, o in PADS if len(x) == 4
    ]  # fmt: skip
    big, double = (4, 32, 28, 28), (4, 32, 56, 56)
    o, around = {"scale_factor": 2, "mode": "bilinear"}, {"pad": (2, 2, 2, 2), "mode": "circular"}
    matrix = random_matrix(56, 28, 4)
    return [
        Op("resample", resample, bounds.resample, raw,
            ({"x": (128, 28, 28, 1)}, {"rows": matrix, "columns": matrix, "value": 0.0}), strided=False),
        Op("interpolate", F.interpolate, bounds.interpolate, forward, ({"x": big}, o)),
        Op("interpolate_backward", F.interpolate_backward, bounds.interpolate_backward, backward,
            ({"dy": double}, {"in_shape": big, **o})),
        Op("pad", F.pad, bounds.exact, padded, ({"x": double}, around)),
        Op("pad_backward", F.pad_backward, bounds.pad_backward, padded_back,
            ({"dy": (4, 32, 60, 60)}, {"in_shape": double, **around})),
    ]  # fmt: skip


def _moves() -> list[Op]:
    """What only moves elements."""

    def concat(axis: int, **arrays: Array) -> Array:
        return F.concat(list(arrays.values()), axis)

    def split(x: Array, sizes: Any, axis: int) -> tuple[Array, ...]:
        return tuple(F.split(x, sizes, axis))

    joined: list[Spec] = [
        ("axis1", {"a": (2, 3, 4, 5), "b": (2, 1, 4, 5)}, {"axis": 1}),
        ("axis0", {"a": (2, 3), "b": (4, 3), "c": (1, 3)}, {"axis": 0}),
        ("last", {"a": (2, 3, 17), "b": (2, 3, 5)}, {"axis": -1}),
        ("vector", {"a": (9,), "b": (30,)}, {"axis": 0}),
        ("one", {"a": (2, 3, 4)}, {"axis": 1}),
        ("empty_part", {"a": (2, 0, 4), "b": (2, 3, 4)}, {"axis": 1}),
        ("five", {"a": (2, 3, 4, 5, 6), "b": (2, 3, 2, 5, 6)}, {"axis": 2}),
        ("special", {"a": SPECIAL, "b": SPECIAL[::-1].copy()}, {"axis": 0}),
    ]
    parts: list[Spec] = [
        ("axis1", {"x": (2, 5, 4, 5)}, {"sizes": [1, 3, 1], "axis": 1}),
        ("axis0", {"x": (5, 3)}, {"sizes": [2, 3], "axis": 0}),
        ("last", {"x": (2, 3, 17)}, {"sizes": (16, 1), "axis": -1}),
        ("chunks", {"x": (2, 7, 4)}, {"sizes": 3, "axis": 1}),
        ("nothing", {"x": (2, 0, 4)}, {"sizes": 3, "axis": 1}),
        ("empty_part", {"x": (2, 3)}, {"sizes": [0, 3, 0], "axis": 1}),
        ("five", {"x": (2, 3, 4, 5, 6)}, {"sizes": [1, 3], "axis": 2}),
        ("special", {"x": SPECIAL}, {"sizes": 20, "axis": 0}),
    ]
    ops = []
    for name, factor, shapes in (
        ("pixel_shuffle", "upscale_factor", ((2, 12, 3, 5), (1, 4, 17, 16), (2, 4, 1, 1), (0, 4, 3, 3))),
        ("pixel_unshuffle", "downscale_factor", ((2, 3, 6, 10), (1, 17, 4, 34), (2, 1, 2, 2), (0, 4, 2, 2))),
        ("channel_shuffle", "groups", ((2, 12, 3, 5), (3, 6), (2, 4, 17), (1, 34, 1, 1), (2, 4, 2, 3, 2))),
    ):
        specs: list[Spec] = [(_word(s), {"x": s}, {factor: 2}) for s in shapes]
        specs += [("one", {"x": shapes[0]}, {factor: 1})]
        specs += [("three", {"x": (2, 18, 6, 9)}, {factor: 3})]
        ops.append(Op(name, getattr(F, name), bounds.exact, specs, ({"x": (8, 64, 32, 32)}, {factor: 2})))
    big = (8, 32, 32, 32)
    return [
        *ops,
        Op("concat", concat, bounds.exact, joined, ({"a": big, "b": big}, {"axis": 1})),
        Op("split", split, bounds.exact, parts, ({"x": (8, 64, 32, 32)}, {"sizes": 32, "axis": 1})),
    ]


def _matmul_arrays(
    lead: tuple[int, ...], m: int, n: int, k: int, transpose_a: bool = False, transpose_b: bool = False
) -> dict[str, Any]:
    return {
        "a": (*lead, k, m) if transpose_a else (*lead, m, k),
        "b": (*lead, n, k) if transpose_b else (*lead, k, n),
    }


def _matmul() -> list[Op]:
    """Sizes around those of tiles; single matrices, few and many; each transposed or not."""
    sizes = [(1, 1, 1), (2, 3, 4), (17, 33, 5), (16, 64, 70), (5, 9, 130), (50, 50, 16), (3, 19, 1), (33, 1, 40)]
    empty = [(0, 3, 4), (3, 0, 4), (3, 4, 0)]
    specs: list[Spec] = []
    for lead in ((), (3,), (2, 5), (0,)):
        for ta in (False, True):
            for tb in (False, True):
                for i, size in enumerate(sizes + empty):
                    if lead in ((2, 5), (0,)) and i % 4 != ta + 2 * tb:  # fewer: another number of the same products
                        continue
                    label = f"{_word(lead) or 'one'}_{_word(size)}{'_ta' * ta}{'_tb' * tb}"
                    specs.append((label, _matmul_arrays(lead, *size, ta, tb), {"transpose_a": ta, "transpose_b": tb}))
    nan = {**_matmul_arrays((2,), 6, 4, 5), "a": with_values([np.nan, np.inf, -np.inf], 2, 6, 5)}
    specs += [("nan", nan, {}), ("four_axes", _matmul_arrays((2, 3), 7, 5, 9), {})]
    large: Any = (_matmul_arrays((24,), 65, 65, 64), {})
    return [Op("matmul_forward", F.matmul, bounds.matmul, specs, large)]


def _linear() -> list[Op]:
    sizes = [(1, 1, 1), (2, 3, 4), (1, 17, 33), (7, 64, 16), (5, 130, 9), (33, 31, 15), (16, 16, 129), (65, 8, 5)]
    empty = [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)]

    def given(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
        return {"x": (rows, inputs), "weight": (outputs, inputs), "bias": (outputs,)}

    def gradient(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
        return {"dy": (rows, outputs), "x": (rows, inputs), "weight": (outputs, inputs)}

    forward: list[Spec] = [(_word(s), given(*s), {}) for s in sizes + empty]
    forward += [
        ("no_bias", {"x": (5, 7), "weight": (3, 7)}, {}),
        ("vector", {"x": (7,), "weight": (3, 7), "bias": (3,)}, {}),
        ("three", {"x": (2, 5, 7), "weight": (3, 7), "bias": (3,)}, {}),
        ("nan", {**given(6, 5, 4), "x": with_values([np.nan, np.inf, -np.inf], 6, 5)}, {}),
    ]
    for f in ENDS:
        forward.append((_word(f), given(9, 20, 19), {"activation": f}))
    backward: list[Spec] = [(_word(s), gradient(*s), {}) for s in sizes + empty]
    backward += [("three", {"dy": (2, 5, 3), "x": (2, 5, 7), "weight": (3, 7)}, {})]
    backward += [("nan", {**gradient(6, 5, 4), "dy": with_values([np.nan, np.inf], 6, 4)}, {})]
    return [
        Op("linear_forward", F.linear, bounds.linear, forward, (given(256, 300, 200), {"activation": "relu"})),
        Op("linear_backward", F.linear_backward, bounds.linear_backward, backward, (gradient(256, 300, 200), {})),
    ]


def _optimizers() -> list[Op]:
    def flat(n: int, *names: str) -> dict[str, Any]:
        makers: dict[str, Any] = {name: positive(n) for name in ("v", "sum", "square")}
        return {name: makers.get(name, (n,)) for name in ("grad", "param", *names)}

    whole = [n for n in SIZES if n]
    three = [(0, 10, 1.0, 0.01), (10, 37, 0.0, 0.5), (40, 100, 0.1, 0.0)]  # the middle frozen, 37..40 in no segment
    plain = (0.1, 0.9, 0.0, 1.0)
    sgd: list[Spec] = [(f"n{n}", flat(n, "velocity"), {"hyper": plain, "segments": [(0, n, 1.0, 0.01)]}) for n in whole]
    sgd += [
        ("segments", flat(100, "velocity"), {"hyper": plain, "segments": three}),
        ("nesterov", flat(100, "velocity"), {"hyper": (0.1, 0.9, 1.0, 1.0), "segments": three}),
        ("decay_factor", flat(100, "velocity"), {"hyper": (0.1, 0.5, 0.0, 0.25), "segments": three}),
        ("no_momentum", flat(100), {"hyper": (0.3, 0.0, 0.0, 1.0), "segments": three}),
        ("no_segments", flat(10, "velocity"), {"hyper": plain, "segments": np.zeros((0, 4))}),
        ("nan", {**flat(44, "velocity"), "grad": SPECIAL}, {"hyper": plain, "segments": [(0, 44, 1.0, 0.0)]}),
    ]
    first, later = (1e-3, 0.9, 0.999, 1e-8, 1.0, 0.0), (1e-2, 0.8, 0.99, 1e-6, 1000.0, 0.0)
    adam: list[Spec] = [(f"n{n}", flat(n, "m", "v"), {"hyper": later, "segments": [(0, n, 1.0, 0.01)]}) for n in whole]
    zeros = {"m": np.zeros(100), "v": np.zeros(100)}
    adam += [
        ("first", {**flat(100), **zeros}, {"hyper": first, "segments": three}),
        ("segments", flat(100, "m", "v"), {"hyper": later, "segments": three}),
        ("decoupled", flat(100, "m", "v"), {"hyper": (*later[:5], 1.0), "segments": three}),
        ("decoupled_nan", {**flat(44, "m", "v"), "param": SPECIAL},
         {"hyper": (*later[:5], 1.0), "segments": [(0, 44, 1.0, 0.5)]}),
        ("no_segments", flat(10, "m", "v"), {"hyper": later, "segments": np.zeros((0, 4))}),
    ]  # fmt: skip
    adagrad: list[Spec] = [
        (f"n{n}", flat(n, "sum"), {"hyper": (0.1, 1e-10), "segments": [(0, n, 1.0, 0.01)]}) for n in whole
    ]
    adagrad += [
        ("segments", flat(100, "sum"), {"hyper": (0.1, 1e-3), "segments": three}),
        ("first", {**flat(100), "sum": np.zeros(100)}, {"hyper": (0.1, 1e-10), "segments": three}),
        ("no_segments", flat(10, "sum"), {"hyper": (0.1, 1e-10), "segments": np.zeros((0, 4))}),
        ("still", {**flat(10), "grad": np.zeros(10), "sum": np.zeros(10)},
         {"hyper": (0.1, 1e-10), "segments": [(0, 10, 1.0, 0.0)]}),
    ]  # fmt: skip
    rms = (0.01, 0.9, 1e-8, 0.9)
    rmsprop: list[Spec] = [
        (f"n{n}", flat(n, "square", "velocity"), {"hyper": rms, "segments": [(0, n, 1.0, 0.01)]}) for n in whole
    ]
    rmsprop += [
        ("segments", flat(100, "square", "velocity"), {"hyper": rms, "segments": three}),
        ("no_momentum", flat(100, "square"), {"hyper": (0.01, 0.99, 1e-3, 0.0), "segments": three}),
        ("first", {**flat(100, "velocity"), "square": np.zeros(100)}, {"hyper": rms, "segments": three}),
        ("no_segments", flat(10, "square", "velocity"), {"hyper": rms, "segments": np.zeros((0, 4))}),
    ]
    n = 1 << 18
    parts = [(0, n // 3, 1.0, 0.01), (n // 3, n, 0.5, 0.0)]
    return [
        Op("sgd_step", sgd_step, bounds.sgd, sgd,
            (flat(n, "velocity"), {"hyper": plain, "segments": parts}), strided=False),
        Op("adam_step", adam_step, bounds.adam, adam,
            (flat(n, "m", "v"), {"hyper": later, "segments": parts}), strided=False),
        Op("adagrad_step", adagrad_step, bounds.adagrad, adagrad,
            (flat(n, "sum"), {"hyper": (0.1, 1e-10), "segments": parts}), strided=False),
        Op("rmsprop_step", rmsprop_step, bounds.rmsprop, rmsprop,
            (flat(n, "square", "velocity"), {"hyper": rms, "segments": parts}), strided=False),
    ]  # fmt: skip


def _regularization() -> list[Op]:
    whole = [n for n in SIZES if n]
    three = [(0, 10, 0.25, 0.5), (10, 37, 0.0, 0.0), (40, 100, 1.0, 0.0)]  # the middle, and 37..40, are left alone
    both = {"param": (100,), "grad": (100,)}
    nothing = np.zeros((0, 4))
    odd = {"param": SPECIAL, "grad": (44,)}
    penalties: list[Spec] = [(f"n{n}", {"param": (n,), "grad": (n,)}, {"segments": [(0, n, 0.1, 0.01)]}) for n in whole]
    penalties += [
        ("segments", both, {"segments": three}),
        ("l1", both, {"segments": [(3, 99, 0.5, 0.0)]}),
        ("l2", both, {"segments": [(3, 99, 0.0, 0.5)]}),
        ("loss_alone", {"param": (100,)}, {"segments": three}),
        ("no_segments", both, {"segments": nothing}),
        ("zeros", {"param": [0.0, -0.0, 1.0, -1.0], "grad": (4,)}, {"segments": [(0, 4, 1.0, 1.0)]}),
        ("special", odd, {"segments": [(0, 44, 1.0, 1.0)]}),
        ("special_l1", odd, {"segments": [(0, 44, 1.0, 0.0)]}),
        ("special_l2", odd, {"segments": [(0, 44, 0.0, 1.0)]}),
        ("several_chunks", {"param": (40000,), "grad": (40000,)}, {"segments": [(5, 39999, 0.1, 0.2)]}),
    ]
    live = [(0, 10, 1.0, 0.0), (10, 37, 0.0, 0.0), (40, 100, 0.1, 0.3)]
    squares: list[Spec] = [(f"n{n}", {"x": (n,)}, {"segments": [(0, n, 1.0, 0.0)]}) for n in whole]
    squares += [
        ("segments", {"x": (100,)}, {"segments": live}),
        ("no_segments", {"x": (100,)}, {"segments": nothing}),
        ("special", {"x": SPECIAL}, {"segments": [(0, 44, 1.0, 0.0)]}),
        ("several_chunks", {"x": (40000,)}, {"segments": [(5, 39999, 1.0, 0.0)]}),
    ]
    scaled: list[Spec] = [
        (f"n{n}", {"x": (n,)}, {"total": 4.0, "limit": 0.7, "segments": [(0, n, 1.0, 0.0)]}) for n in whole
    ]
    scaled += [
        (f"total{t}_limit{c}", {"x": (100,)}, {"total": t, "limit": c, "segments": live})
        for t, c in ((0.0, 1.0), (4.0, 2.0), (4.0, 3.0), (4.0, 0.0), (np.inf, 1.0), (np.nan, 1.0), (np.inf, np.inf))
    ]
    scaled += [("special", {"x": SPECIAL}, {"total": 9.0, "limit": 1.5, "segments": [(0, 44, 1.0, 0.0)]})]
    clamped: list[Spec] = [(f"n{n}", {"x": (n,)}, {"limit": 0.7, "segments": [(0, n, 1.0, 0.0)]}) for n in whole]
    clamped += [(f"limit{c}", {"x": (100,)}, {"limit": c, "segments": live}) for c in (0.0, 0.5, 100.0, np.inf)]
    clamped += [("special", {"x": SPECIAL}, {"limit": 2.0, "segments": [(0, 44, 1.0, 0.0)]})]
    norms: list[Spec] = [(f"n{n}", {"param": (3 * n,)}, {"segments": [(0, 3 * n, 1, n, 0.5)]}) for n in whole]
    norms += [(f"units{n}", {"param": (n * 5,)}, {"segments": [(0, n * 5, 1, 5, 2.0)]}) for n in (1, 7, 64, 1000)]
    norms += [
        ("segments", {"param": (100,)}, {"segments": [(0, 10, 1, 5, 1.0), (10, 10, 1, 1, 0.0), (40, 100, 1, 60, 3.0)]}),
        ("outer", {"param": (2 * 3 * 4 * 9,)}, {"segments": [(0, 108, 3, 9, 4.0), (108, 216, 3, 9, 5.0)]}),
        ("inside", {"param": (60,)}, {"segments": [(0, 60, 1, 6, 100.0)]}),
        ("limit0", {"param": (60,)}, {"segments": [(0, 60, 2, 3, 0.0)]}),
        ("special", {"param": SPECIAL}, {"segments": [(0, 44, 1, 4, 2.0)]}),
        ("no_segments", {"param": (9,)}, {"segments": np.zeros((0, 5))}),
    ]
    n = 1 << 18
    parts = [(0, n // 3, 1.0, 0.01), (n // 3, n, 0.5, 0.0)]
    return [
        Op("penalty", penalty, bounds.penalty, penalties,
            ({"param": (n,), "grad": (n,)}, {"segments": parts}), strided=False),
        Op("square_sum", square_sum, bounds.square_sum, squares, ({"x": (n,)}, {"segments": parts}), strided=False),
        Op("clip_norm", clip_norm, bounds.clip_norm, scaled,
            ({"x": (n,)}, {"total": 9.0, "limit": 1.0, "segments": parts}), strided=False),
        Op("clip_value", clip_value, bounds.clip_value, clamped,
            ({"x": (n,)}, {"limit": 1.0, "segments": parts}), strided=False),
        Op("max_norm", max_norm, bounds.max_norm, norms,
            ({"param": (1 << 20,)}, {"segments": [(0, 1 << 20, 16, 32, 20.0)]}), strided=False),
    ]  # fmt: skip


OPS: dict[str, Op] = {
    op.kernel: op
    for family in (
        _activations, _pieces, _arithmetic, _softmax, _losses, _dropout, _batch_norm, _group_norm, _pools,
        _convolutions, _conv1d, _transposed, _resampling, _moves, _matmul, _linear, _optimizers, _regularization,
        _inverted_residuals,
    )
    for op in family()
}  # fmt: skip
CASES: dict[str, list[Case]] = {kernel: [Case(op, *spec) for spec in op.specs] for kernel, op in OPS.items()}


# ---- arguments drawn at random (test_drawn.py) ----------------------------------------------------------------------

Drawn = tuple[dict[str, Any], dict[str, Any]]

#: shapes of up to five dimensions, of no elements too
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)


def _options(draw: st.DrawFn, op: Op) -> dict[str, Any]:
    return dict(draw(st.sampled_from([options for _, _, options in op.specs])))


def _draw_case(draw: st.DrawFn, op: Op) -> Drawn:
    """What an op gets for which nothing is declared: one of its own cases."""
    rng = np.random.default_rng(0)
    small = [(a, o) for _, a, o in op.specs if sum(make(spec, rng).size for spec in a.values()) <= 4000]
    arrays, options = draw(st.sampled_from(small))
    return dict(arrays), dict(options)


def _draw_shape(draw: st.DrawFn, op: Op) -> Drawn:
    """Arrays of one shape."""
    shape = draw(SHAPES)
    return dict.fromkeys(op.specs[0][1], shape), _options(draw, op)


def _draw_axis(draw: st.DrawFn, op: Op) -> Drawn:
    """Arrays of one shape, and one of its axes."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    if op.kernel.endswith("backward"):
        return {"dy": shape, "y": row_softmax(op.kernel.startswith("log"), axis, *shape)}, {"axis": axis}
    return {"x": shape}, {"axis": axis}


def _draw_scores(draw: st.DrawFn, op: Op) -> Drawn:
    """Scores (n, c) and whatever the loss takes beside them."""
    n, c = draw(st.integers(0, 6)), draw(st.integers(1, 20))
    given: dict[str, Any] = {"scores": (n, c)}
    if op.kernel in ("cross_entropy", "hinge"):
        given["labels"] = integers(0, c, n)
        weights = {"weight": positive(c), "sample_weight": positive(n)}
        if op.kernel == "cross_entropy" and draw(st.booleans()):
            given["labels"] = row_softmax(False, -1, n, c)
    else:
        given["targets"] = uniform(n, c) if "binary" in op.kernel else (n, c)
        weights = {"sample_weight": positive(n)}
    for name, spec in weights.items():
        if draw(st.booleans()):
            given[name] = spec
    smooth = op.kernel == "cross_entropy" and draw(st.booleans())
    return given, {"label_smoothing": draw(st.floats(0, 1))} if smooth else {}


def _draw_dropout(draw: st.DrawFn, op: Op) -> Drawn:
    shape = draw(SHAPES)
    p = draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1))
    if op.kernel == "dropout_backward":
        return {"dy": shape, "mask": mask_bytes(int(np.prod(shape)))}, {"p": p}
    return {"x": shape}, {"p": p, "rng": draw(st.integers(0, 2**64 - 1))}


def _draw_channels(draw: st.DrawFn, op: Op) -> Drawn:
    """x of two to four dimensions, and vectors with a number for each channel."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    vectors: dict[str, Any] = {name: shape[1:2] for name in ("weight", "bias") if draw(st.booleans())}
    options: dict[str, Any] = {"eps": draw(st.sampled_from([0.01, 0.5]))}
    if op.kernel == "batch_norm_train_forward":
        skip = {"residual": shape} if draw(st.booleans()) else {}
        return {"x": shape, **vectors, **skip}, options | {"relu": draw(st.booleans())}
    statistics = {"mean": shape[1:2], "var": positive(*shape[1:2])}
    if op.kernel == "batch_norm_forward":
        return {"x": shape, **statistics, **vectors}, options
    vectors.pop("bias", None)
    result = {"y": shape} if draw(st.booleans()) else {}
    return {"dy": shape, "x": shape, **statistics, **vectors, **result}, options | {"frozen": draw(st.booleans())}


def _draw_groups(draw: st.DrawFn, op: Op) -> Drawn:
    """x for layer, group or instance norm, all of which have the kernel of group_norm."""
    kind = draw(st.sampled_from(["layer_norm", "group_norm", "instance_norm"]))
    groups = draw(st.integers(1, 3))
    least = {"layer_norm": 1, "group_norm": 2, "instance_norm": 3}[kind]
    x = tuple(draw(st.lists(st.integers(1, 6), min_size=least, max_size=5)))
    options: dict[str, Any] = {"op": kind, "eps": draw(st.sampled_from([0.01, 0.5]))}
    affine = x[1:2]
    if kind == "layer_norm":
        affine = options["normalized_shape"] = x[-draw(st.integers(1, len(x))) :]
    elif kind == "group_norm":
        options["num_groups"] = groups
        x = (x[0], x[1] * groups, *x[2:])
        affine = x[1:2]
    given: dict[str, Any] = {"x": x, **{name: affine for name in ("weight", "bias") if draw(st.booleans())}}
    if op.kernel.endswith("forward"):
        return given, options
    given.pop("bias", None)
    return {"dy": x, **given}, options


def _draw_adaptive(draw: st.DrawFn, op: Op) -> Drawn:
    x = draw(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9)))
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    if op.kernel.endswith("forward"):
        return {"x": x}, {"output_size": size}
    dy = (*x[:2], *size)
    return ({"dy": dy, "x": x}, {"output_size": size}) if "max" in op.kernel else ({"dy": dy}, {"in_shape": x})


def _draw_window(draw: st.DrawFn, half: bool, dilated: bool) -> tuple[tuple[int, ...], dict[str, Any], tuple[int, int]]:
    """The size of an image, the options of a window that fits it, and the window; padding at most half of it."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2 if half else 3)) for k in kernel)
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if dilated else (1, 1)
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    spans = (d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    least = [max(1, span - 2 * p) for span, p in zip(spans, padding, strict=True)]
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    if dilated:
        options["dilation"] = dilation
    return tuple(draw(st.integers(n, n + 9)) for n in least), options, kernel


def _draw_pool(draw: st.DrawFn, op: Op) -> Drawn:
    maximum = op.kernel.startswith("max")
    size, options, kernel = _draw_window(draw, half=True, dilated=maximum)
    options |= {"kernel_size": kernel, "ceil_mode": draw(st.booleans())}
    if not maximum:
        options["count_include_pad"] = draw(st.booleans())
    x = (draw(st.integers(0, 3)), draw(st.integers(0, 9)), *size)
    if op.kernel.endswith("forward"):
        return {"x": x}, options
    with NUMPY.on():
        dy = (*x[:2], *(F.max_pool2d if maximum else F.avg_pool2d)(np.zeros((1, 1, *size)), **options).shape[2:])
    return ({"dy": dy, "x": x}, options) if maximum else ({"dy": dy}, {"in_shape": x, **options})


def _draw_whole(draw: st.DrawFn, op: Op) -> Drawn:
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 6), st.integers(1, 6)))
    if op.kernel.endswith("forward"):
        return {"x": shape}, {}
    return {"dy": (*shape[:2], 1, 1)}, {"in_shape": shape, "channels_last": draw(st.booleans())}


def _draw_convolution(draw: st.DrawFn, op: Op) -> Drawn:
    size, options, kernel = _draw_window(draw, half=False, dilated=True)
    n, c = draw(st.integers(0, 3)), draw(st.integers(0, 6))
    if op.kernel == "im2col_forward":
        return {"x": (n, c, *size)}, options | {"kernel_size": kernel}
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    x, weight = (n, c * groups, *size), (draw(st.integers(0, 6)) * groups, c, *kernel)
    options["groups"] = groups
    y = output_shape(x, weight, options)
    if op.kernel == "conv2d_backward":
        return {"dy": y, "x": x, "weight": weight}, options
    if op.kernel == "col2im_forward":
        del options["groups"]
        return {"cols": (n, c * kernel[0] * kernel[1], y[2] * y[3])}, options | {
            "output_size": size, "kernel_size": kernel}  # fmt: skip
    given: dict[str, Any] = {"x": x, "weight": weight}
    given |= {"bias": weight[:1]} if draw(st.booleans()) else {}
    given |= {"residual": y} if draw(st.booleans()) else {}
    return given, options | {"activation": draw(st.sampled_from([None, "relu", ("leaky_relu", 0.1)]))}


def _draw_transposed(draw: st.DrawFn, op: Op) -> Drawn:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride, dilation, padding, groups = pair(1, 4), pair(1, 4), pair(1, 3), pair(0, 3), draw(st.integers(1, 3))
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    fixed = [d * (k - 1) + 1 - 2 * p + m for k, d, p, m in zip(kernel, dilation, padding, more, strict=True)]
    # the least size of x of which something is left, and up to five more
    size = [max(1, 1 + -(-(1 - f) // s)) + draw(st.integers(0, 5)) for f, s in zip(fixed, stride, strict=True)]
    n, c, o = draw(st.integers(0, 3)), groups * draw(st.integers(1, 4)), draw(st.integers(1, 9))
    geometry = {"stride": stride, "padding": padding, "output_padding": more, "groups": groups, "dilation": dilation}
    given: dict[str, Any] = {"x": (n, c, *size), "weight": (c, o, *kernel)}
    if op.kernel == "conv_transpose2d_backward":
        out = ((m - 1) * s + f for m, s, f in zip(size, stride, fixed, strict=True))
        given["dy"] = (n, o * groups, *out)
    elif draw(st.booleans()):
        given["bias"] = (o * groups,)
    return given, geometry


def _draw_resized(draw: st.DrawFn, op: Op) -> Drawn:
    """Interpolations and paddings of any sizes; of the options those that change what is computed."""
    shape = draw(st.tuples(st.integers(0, 3), *(st.integers(1, 9) for _ in range(draw(st.integers(2, 3))))))
    if op.kernel.startswith("pad"):
        mode = draw(st.sampled_from(("constant", "reflect", "replicate", "circular")))
        sizes = [
            draw(st.integers(1 - n if n else 0, {"reflect": n - 1, "circular": n}.get(mode, 5)))
            for n in reversed(shape[1:]) for _ in "ba"
        ]  # fmt: skip
        pads = [
            (b, a) if b >= 0 or a >= 0 else (b, 0) for b, a in zip(sizes[::2], sizes[1::2], strict=True)
        ]  # fmt: skip
        pads = [(max(b, 0), max(a, 0)) if mode == "circular" else (b, a) for b, a in pads]
        options: dict[str, Any] = {"pad": [n for pair in pads for n in pair], "mode": mode}
        out: tuple[int, ...] = (shape[0], *(n + b + a for n, (b, a) in zip(shape[1:], reversed(pads), strict=True)))
    else:
        size = [draw(st.integers(1, 12)) for _ in shape[2:]]
        smooth = {3: ("linear",), 4: ("bilinear", "bicubic")}[len(shape)]
        mode = draw(st.sampled_from(("nearest", "nearest-exact", "area", *smooth)))
        options = {"size": size, "mode": mode}
        if mode in smooth and draw(st.booleans()):
            options["align_corners"] = draw(st.booleans())
        elif mode in ("nearest", *smooth) and draw(st.booleans()):
            options["coordinates"] = draw(st.sampled_from(COORDINATES))
        out = (*shape[:2], *size)
    return ({"dy": out}, {"in_shape": shape, **options}) if op.kernel.endswith("backward") else ({"x": shape}, options)


def _draw_matmul(draw: st.DrawFn, op: Op) -> Drawn:
    lead = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    m, n, k = (draw(st.integers(0, 20)) for _ in range(3))
    ta, tb = draw(st.booleans()), draw(st.booleans())
    return _matmul_arrays(lead, m, n, k, ta, tb), {"transpose_a": ta, "transpose_b": tb}


def _draw_linear(draw: st.DrawFn, op: Op) -> Drawn:
    rows = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    inputs, outputs = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    x, weight = (*rows, inputs), (outputs, inputs)
    if op.kernel == "linear_backward":
        return {"dy": (*rows, outputs), "x": x, "weight": weight}, {}
    return {"x": x, "weight": weight, **({"bias": (outputs,)} if draw(st.booleans()) else {})}, {}


def _draw_buffer(draw: st.DrawFn, op: Op) -> Drawn:
    """Flat buffers of any size, cut anywhere into segments; some of them frozen. Slots and sums are positive."""
    if op.kernel == "max_norm":
        outer, units, inner, begin = draw(
            st.tuples(*(st.integers(*ends) for ends in ((1, 4), (0, 9), (1, 70), (0, 9))))
        )
        size = outer * units * inner
        return {"param": (begin + size + 3,)}, {
            "segments": [(begin, begin + size, outer, inner, draw(st.floats(0, 20)))]
        }
    size = draw(st.integers(1, 200))
    cuts = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=8)))
    factors = st.sampled_from((0.0, 0.1, 1.0))
    segments = [(a, b, draw(factors), draw(factors)) for a, b in pairwise(cuts)][::2]
    options: dict[str, Any] = {
        "sgd_step": {"hyper": (0.1, 0.9, draw(st.sampled_from((0.0, 1.0))), 1.0)},
        "adagrad_step": {"hyper": (0.1, 1e-3)},
        "clip_norm": {"total": draw(st.floats(0, 100)), "limit": draw(st.floats(0, 10))},
        "clip_value": {"limit": draw(st.floats(0, 4))},
    }.get(op.kernel, {})
    names = {"sgd_step": ("grad", "param", "velocity"), "adagrad_step": ("grad", "param", "sum"),
             "penalty": ("param", "grad")}  # fmt: skip
    given: dict[str, Any] = dict.fromkeys(names.get(op.kernel, ("x",)), (size,))
    given |= {"sum": positive(size)} if "sum" in given else {}
    return given, options | {"segments": np.array(segments)}


def _draw_pieces(draw: st.DrawFn, op: Op) -> Drawn:
    """prelu, with a slope for each channel or one for all; maxout, with several channels for one."""
    shape = tuple(draw(st.lists(st.integers(0, 6), min_size=2, max_size=5)))
    gradient = op.kernel.endswith("backward")
    if op.kernel.startswith("prelu"):
        given: dict[str, Any] = {"x": shape, "weight": (draw(st.sampled_from((1, shape[1]))),)}
        return {"dy": shape, **given} if gradient else given, {}
    pieces = draw(st.integers(1, 4))
    x = (shape[0], shape[1] * pieces, *shape[2:])
    return {"dy": shape, "x": x} if gradient else {"x": x}, {"pieces": pieces}


def _draw_conv1d(draw: st.DrawFn, op: Op) -> Drawn:
    kernel, stride, padding, dilation = draw(st.tuples(*(st.integers(*e) for e in ((1, 4), (1, 4), (0, 3), (1, 3)))))
    groups, c = draw(st.integers(1, 3)), draw(st.integers(0, 6))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x = (draw(st.integers(0, 3)), c * groups, draw(st.integers(least, least + 20)))
    weight = (draw(st.integers(0, 6)) * groups, c, kernel)
    given: dict[str, Any] = {"x": x, "weight": weight}
    if op.kernel.endswith("backward"):
        size = (x[2] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        return {"dy": (x[0], weight[0], size), **given}, options
    return given | ({"bias": weight[:1]} if draw(st.booleans()) else {}), options


def _draw_parts(draw: st.DrawFn, op: Op) -> Drawn:
    """Arrays to be joined along an axis, or one to be split along it."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5)))
    axis, sizes = draw(st.integers(0, len(shape) - 1)), draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    back = draw(st.sampled_from((0, len(shape))))
    if op.kernel == "split":
        return {"x": (*shape[:axis], sum(sizes), *shape[axis + 1 :])}, {"sizes": sizes, "axis": axis - back}
    parts = {name: (*shape[:axis], n, *shape[axis + 1 :]) for name, n in zip("abc", sizes, strict=False)}
    return parts, {"axis": axis - back}


#: kernel -> how to draw arrays (as in a spec) and options that fit together. An op that is not here draws one of its
#: cases, an element-wise one any shape.
DRAWS: dict[str, Callable[[st.DrawFn, Op], Drawn]] = {
    **dict.fromkeys(("softmax_forward", "log_softmax_forward", "softmax_backward", "log_softmax_backward"), _draw_axis),
    **dict.fromkeys(("cross_entropy", "hinge", "mse", "l1", "huber"), _draw_scores),
    "binary_cross_entropy_with_logits": _draw_scores,
    **dict.fromkeys(("dropout_forward", "dropout_backward"), _draw_dropout),
    **dict.fromkeys(("batch_norm_forward", "batch_norm_train_forward", "batch_norm_backward"), _draw_channels),
    **dict.fromkeys((f"{m}_pool2d_{d}" for m in ("max", "avg") for d in ("forward", "backward")), _draw_pool),
    **dict.fromkeys(("global_avg_pool2d_forward", "global_avg_pool2d_backward"), _draw_whole),
    **dict.fromkeys(("conv2d_forward", "conv2d_backward", "im2col_forward", "col2im_forward"), _draw_convolution),
    **dict.fromkeys(("group_norm_forward", "group_norm_backward"), _draw_groups),
    **dict.fromkeys(("adaptive_max_pool2d_forward", "adaptive_max_pool2d_backward"), _draw_adaptive),
    **dict.fromkeys(("adaptive_avg_pool2d_forward", "adaptive_avg_pool2d_backward"), _draw_adaptive),
    **dict.fromkeys(("sgd_step", "adagrad_step", "penalty", "square_sum"), _draw_buffer),
    **dict.fromkeys(("clip_norm", "clip_value", "max_norm"), _draw_buffer),
    **dict.fromkeys(("conv_transpose2d_forward", "conv_transpose2d_backward"), _draw_transposed),
    **dict.fromkeys(("interpolate", "interpolate_backward", "pad", "pad_backward"), _draw_resized),
    **dict.fromkeys((f"{f}_{d}" for f in ("prelu", "maxout") for d in ("forward", "backward")), _draw_pieces),
    **dict.fromkeys(("conv1d", "conv1d_backward"), _draw_conv1d),
    **dict.fromkeys(("concat", "split"), _draw_parts),
    "matmul_forward": _draw_matmul,
    **dict.fromkeys(("linear_forward", "linear_backward"), _draw_linear),
}


def draw_arguments(draw: st.DrawFn, op: Op) -> Drawn:
    """Arrays (as specs) and options that fit an op."""
    return DRAWS.get(op.kernel, _draw_shape if op.elementwise else _draw_case)(draw, op)

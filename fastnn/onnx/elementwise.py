"""Operators that compute element by element, with broadcasting as NumPy's: activations, arithmetic, comparisons, Where.

To add one of an argument: a line in `UNARY`, the function and its slope. Of two: a line in `BINARY`, with both slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import functional as F
from ..errors import ShapeError
from ..layers import activation as A
from ..layers.base import Array, Layer, Shape
from ..layers.container import Identity as IdentityLayer
from ..layers.function import Add as AddLayer
from ..layers.function import Mul as MulLayer
from .model import DTYPES, Foreign
from .moves import Abs, Affine, Exp, Quotient, Reciprocal, SpreadAdd, SpreadMul, SpreadQuotient, SpreadSub, Sqrt
from .operation import Again, Operator, Seen, summed_to

__all__ = ["ACTIVATIONS", "OPERATORS", "activation", "erf"]

Slope = Callable[[Array, Array], Array]


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that these make together."""
    try:
        return np.broadcast_shapes(*shapes)
    except (ValueError, RuntimeError):  # the latter for more axes than NumPy has
        raise ShapeError(f"shapes do not go together: {', '.join(map(str, shapes))}") from None


# ---- of one argument ----


def erf(x: Array) -> Array:
    """The error function, of x's dtype: a series near 0, and elsewhere 2 Phi - 1 with gelu(t) = t Phi(t)."""
    z = x.astype(np.float64)
    near = np.abs(z) < 0.5
    t = np.where(near, 1.0, z) * math.sqrt(2.0)
    far = np.sign(z) * (2 * F.gelu(np.abs(t)) / np.abs(t) - 1)
    far = np.where(np.isinf(z), np.sign(z), far)
    small, term, total = np.where(near, z, 0.0), np.where(near, z, 0.0), np.where(near, z, 0.0)
    for n in range(1, 14):  # 0.5^27 / (13! 27) < 1e-19
        term = -term * small * small / n
        total = total + term / (2 * n + 1)
    return np.where(near, 2 / math.sqrt(math.pi) * total, far).astype(x.dtype)


def _round_half_even(x: Array) -> Array:
    return np.rint(x)


def _none(x: Array, y: Array) -> Array:
    return np.zeros_like(x)


def Negative() -> Layer:
    """Return the layer of the numbers with the other sign."""
    return Affine(-1.0)


#: operator -> (function, its slope from x and y)
UNARY: dict[str, tuple[Callable[[Array], Array], Slope]] = {
    "Sqrt": (np.sqrt, lambda x, y: 0.5 / y),
    "Exp": (np.exp, lambda x, y: y),
    "Log": (np.log, lambda x, y: 1 / x),
    "Abs": (np.abs, lambda x, y: np.sign(x)),
    "Neg": (np.negative, lambda x, y: np.full_like(x, -1)),
    "Reciprocal": (lambda x: 1 / x, lambda x, y: -y * y),
    "Floor": (np.floor, _none),
    "Ceil": (np.ceil, _none),
    "Round": (_round_half_even, _none),
    "Sign": (np.sign, _none),
    "Erf": (erf, lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x)),
    "Sin": (np.sin, lambda x, y: np.cos(x)),
    "Cos": (np.cos, lambda x, y: -np.sin(x)),
}


class Unary(Operator):
    """A function of one argument."""

    function: ClassVar[Callable[[Array], Array]]
    slope: ClassVar[Slope]

    def compute(self, *xs: Array) -> Array:
        return type(self).function(xs[0]).astype(xs[0].dtype, copy=False)

    def work(self, given: Sequence[Shape], out: int) -> int:
        return 100 * out if type(self).function is erf else 2 * out  # which takes some hundred steps, in float64

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        layers: dict[str, Callable[[], Layer]] = {
            "Abs": Abs, "Exp": Exp, "Neg": Negative, "Reciprocal": Reciprocal, "Sqrt": Sqrt
        }  # fmt: skip
        make = layers.get(type(self).__name__)
        return None if make is None else make()

    def forward(self, *xs: Array) -> Any:
        x, y = xs[0], self.compute(*xs)
        return y, lambda dy: (dy * type(self).slope(x, y),)


#: ONNX's names of the activations for which `activation` may have a layer
ACTIVATIONS = (
    *(
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Sigmoid",
        "HardSigmoid",
        "Tanh",
        "Gelu",
        "HardSwish",
        "Swish",
        "Mish",
    ),
    *("Softplus", "Softsign", "ThresholdedRelu"),
)


def activation(op: str, attributes: dict[str, Any], opset: int) -> Layer | None:
    """Return fastnn's layer of an activation with these options, if it has one."""

    def real(name: str, default: float) -> float:
        return float(attributes.get(name, default))

    match op:
        case "Relu":
            return A.ReLU()
        case "LeakyRelu":
            return A.LeakyReLU(real("alpha", 0.01))
        case "Elu":
            return A.ELU(real("alpha", 1.0))
        case "Selu":
            # The defaults are these numbers as float32.
            usual = abs(real("alpha", 1.6732632) - 1.6732632) < 1e-6 and abs(real("gamma", 1.050701) - 1.050701) < 1e-6
            return A.SELU() if usual else None
        case "Celu":
            return A.CELU(real("alpha", 1.0)) if real("alpha", 1.0) > 0 else None
        case "Sigmoid":
            return A.Sigmoid()
        case "HardSigmoid":
            usual = abs(real("alpha", 0.2) - 1 / 6) < 1e-7 and real("beta", 0.5) == 0.5
            return A.Hardsigmoid() if usual else None
        case "Tanh":
            return A.Tanh()
        case "Gelu":
            return A.GELU(str(attributes.get("approximate", "none")))
        case "HardSwish":
            return A.Hardswish()
        case "Swish":
            return A.SiLU() if real("alpha", 1.0) == 1.0 else None
        case "Mish":
            return A.Mish()
        case "Softplus":
            return A.Softplus(1.0, 40.0)  # beyond, the difference to x is below half an ulp of float64
        case "Softsign":
            return A.Softsign()
        case "ThresholdedRelu":
            return A.Threshold(real("alpha", 1.0), 0.0)
    return None


class Activation(Operator):
    """An activation that fastnn has under other names or for some options, else in NumPy: ``plain``."""

    def layer(self) -> Layer | None:
        """Return fastnn's layer of the same function, if there is one."""
        return activation(type(self).__name__, self.attributes, self.opset)

    def plain(self, x: Array) -> tuple[Array, Array]:
        """Return the function and its slope at x."""
        raise TypeError(f"takes floating-point numbers with these options, got {x.dtype} and {self.attributes}")

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        if type(self).plain is Activation.plain and given[0] is not None and given[0].kind != "f":
            raise ValueError(f"takes floating-point numbers, got {given[0]}")
        return super().dtypes(*given)

    def compute(self, *xs: Array) -> Array:
        layer = self.layer() if xs[0].dtype.kind == "f" else None
        return layer(xs[0]) if layer is not None else self.plain(xs[0])[0].astype(xs[0].dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        layer = self.layer()
        if layer is not None:
            y, backward = layer.forward(xs[0])
            return y, lambda dy: (backward(dy),)
        y, slope = self.plain(xs[0])
        return y.astype(xs[0].dtype, copy=False), lambda dy: (dy * slope,)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return self.layer()

    def real(self, name: str, default: float) -> float:
        """Return an attribute as a number."""
        return float(self.attributes.get(name, default))


class Relu(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        return np.maximum(x, 0), (x > 0).astype(x.dtype)


class Elu(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha = self.real("alpha", 1.0)
        low = alpha * np.expm1(np.minimum(x, 0))
        return np.where(x > 0, x, low), np.where(x > 0, 1, low + alpha)


class Selu(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha, gamma = self.real("alpha", 1.6732632423543772), self.real("gamma", 1.0507009873554805)
        low = gamma * alpha * np.expm1(np.minimum(x, 0))
        return np.where(x > 0, gamma * x, low), np.where(x > 0, gamma, low + gamma * alpha)


class HardSigmoid(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha, beta = self.real("alpha", 0.2), self.real("beta", 0.5)
        line = alpha * x + beta
        return np.clip(line, 0, 1), np.where((line > 0) & (line < 1), alpha, 0)


class ThresholdedRelu(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha = self.real("alpha", 1.0)
        return np.where(x > alpha, x, 0), (x > alpha).astype(x.dtype)


class Celu(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha = self.real("alpha", 1.0)
        low = alpha * np.expm1(np.minimum(x, 0) / alpha)
        return np.where(x > 0, x, low), np.where(x > 0, 1, low / alpha + 1)


class Swish(Activation):
    def plain(self, x: Array) -> tuple[Array, Array]:
        alpha = self.real("alpha", 1.0)
        s = F.sigmoid(alpha * x)
        return x * s, s + alpha * x * s * (1 - s)


class PRelu(Operator):
    """x where it is not negative, slope x elsewhere; the slope is broadcast to x."""

    arity = (2, 2)
    weights = (1,)

    def shape(self, *seen: Seen) -> Shape:
        if broadcast(*seen) != seen[0]:
            raise ShapeError(f"slope {seen[1]} does not spread to x {seen[0]}")
        return seen[0]

    def compute(self, *xs: Array) -> Array:
        x, slope = xs
        return np.where(x < 0, slope * x, x).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x, slope = xs
        return self.compute(*xs), lambda dy: (
            np.where(x < 0, slope * dy, dy),
            summed_to(np.where(x < 0, x * dy, 0).astype(dy.dtype, copy=False), slope.shape),
        )


class Clip(Operator):
    """x between two limits, each of which may be absent; attributes until opset 10, inputs since."""

    arity = (1, 3)

    def shape(self, *seen: Seen) -> Shape:
        for name, limit in zip(("min", "max"), seen[1:], strict=False):
            if limit is not None and math.prod(limit) != 1:
                raise ShapeError(f"{name} must be one number, got shape {limit}")
        return seen[0]

    def _limits(self, xs: Sequence[Array | None]) -> tuple[Any, Any]:
        if self.opset < 11:
            return self.attributes.get("min"), self.attributes.get("max")
        low, high = (None if limit is None else limit.reshape(()) for limit in (*xs[1:], None, None)[:2])
        return low, high

    def compute(self, *xs: Array) -> Array:
        x, (low, high) = xs[0], self._limits(xs)
        y = x if low is None else np.maximum(x, low)
        return (y if high is None else np.minimum(y, high)).astype(x.dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        x, (low, high) = xs[0], self._limits(xs)
        inside = (x >= (-np.inf if low is None else low)) & (x <= (np.inf if high is None else high))
        return self.compute(*xs), lambda dy: (np.where(inside, dy, 0), *[None] * (len(xs) - 1))


class Cast(Operator):
    """Another dtype. float16 is kept as float32 of float16's numbers."""

    def _to(self) -> np.dtype[Any]:
        return wanted_dtype(self.attributes.get("to"))

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (self._to(),)

    def compute(self, *xs: Array) -> Array:
        return cast(xs[0], self._to())

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return None if self._to() == np.float16 else IdentityLayer()  # programs have one dtype for what is floating

    def forward(self, *xs: Array) -> Any:
        kind = xs[0].dtype
        y = self.compute(*xs)
        both = y.dtype.kind == kind.kind == "f"
        return y, lambda dy: (dy.astype(kind) if both else None, *[None] * (len(xs) - 1))


class CastLike(Cast):
    """The dtype of another array."""

    arity = (2, 2)
    target: np.dtype[Any] | None = None

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        self.target = given[1]
        return (given[1],)

    def _to(self) -> np.dtype[Any]:
        assert self.target is not None
        return self.target

    def shape(self, *seen: Seen) -> Shape:
        return seen[0]


def wanted_dtype(code: Any) -> np.dtype[Any]:
    """Return the dtype that an attribute names."""
    if code not in DTYPES:
        raise ValueError(f"to tensors of type {code}, which fastnn does not have")
    return DTYPES[code]


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return x in an ONNX dtype, as fastnn keeps it."""
    if dtype == np.float16:
        return x.astype(np.float16).astype(np.float32)
    if x.dtype.kind == "f" and dtype.kind in "iu":  # what does not fit wraps around, as other runtimes do
        return x.astype(np.int64).astype(dtype) if dtype != np.uint64 else x.astype(dtype)
    return x.astype(dtype)


# ---- of several arguments ----


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return a / b
    quotient = a // b
    if a.dtype.kind == "i":  # towards zero
        quotient = quotient + ((a % b != 0) & ((a < 0) != (b < 0)))
    return quotient


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and (b.dtype.kind == "f" or (b < 0).any()):
        return np.power(a.astype(np.float64), b)
    return np.power(a, b)


def _power_slopes(a: Array, b: Array, y: Array) -> tuple[Array, Array]:
    safe = np.where(a > 0, a, 1)
    return b * np.power(a, b - 1), np.where(a > 0, y * np.log(safe), 0)


#: operator -> (function, its slopes from a, b and y)
BINARY: dict[str, tuple[Callable[..., Array], Callable[..., tuple[Any, Any]]]] = {
    "Pow": (_power, _power_slopes),
}


class Binary(Operator):
    """A function of two arguments."""

    arity = (2, 2)
    function: ClassVar[Callable[..., Array]]
    slopes: ClassVar[Callable[..., tuple[Any, Any]]]

    def shape(self, *seen: Seen) -> Shape:
        return broadcast(*seen)

    def compute(self, *xs: Array) -> Array:
        a, b = xs
        dtype = np.result_type(a, b) if a.dtype.kind == b.dtype.kind == "f" else a.dtype
        return type(self).function(a, b).astype(dtype, copy=False)

    def forward(self, *xs: Array) -> Any:
        a, b = xs
        y = self.compute(a, b)

        def backward(dy: Array) -> Any:
            slopes = type(self).slopes(a, b, y)
            return tuple(
                summed_to(dy * s, x.shape).astype(x.dtype, copy=False) if x.dtype.kind == "f" else None
                for s, x in zip(slopes, xs, strict=True)
            )

        return y, backward


def _always(fits: Callable[[Seen, Seen], bool], seen: list[Seen], again: Again) -> bool:
    """Whether two shapes fit, at other sizes of the batch too: at one image (1, C, H, W) of the file looks like x."""
    other = again.doubled()
    return fits(*seen) and (other is None or fits(*other))


def _same(a: Seen, b: Seen) -> bool:
    return a == b


def _scales(a: Seen, b: Seen) -> bool:
    """Whether b is a number for each channel of each image of a."""
    return len(a) == len(b) == 4 and b == (*a[:2], 1, 1) and a[2] * a[3] != 0


class Add(Binary):
    function = staticmethod(np.add)
    slopes = staticmethod(lambda a, b, y: (1.0, 1.0))

    def compute(self, *xs: Array) -> Array:
        a, b = xs
        if a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f":
            return F.add(a, b)
        return super().compute(*xs)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return AddLayer() if _always(_same, seen, again) else SpreadAdd()


class Mul(Binary):
    function = staticmethod(np.multiply)
    slopes = staticmethod(lambda a, b, y: (b, a))

    def compute(self, *xs: Array) -> Array:
        a, b = xs
        if a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f":
            return F.mul(a, b)
        return super().compute(*xs)

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return MulLayer() if _always(_same, seen, again) or _always(_scales, seen, again) else SpreadMul()


class Sub(Binary):
    function = staticmethod(np.subtract)
    slopes = staticmethod(lambda a, b, y: (1.0, -1.0))

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return SpreadSub()


class Div(Binary):
    function = staticmethod(_divide)
    slopes = staticmethod(lambda a, b, y: (1 / b, -y / b))

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return Quotient() if _always(_same, seen, again) else SpreadQuotient()


class Mod(Binary):
    """The remainder, of the divisor's sign; of the dividend's with fmod."""

    def compute(self, *xs: Array) -> Array:
        a, b = xs
        whole = np.fmod if self.attributes.get("fmod") else np.mod
        return whole(a, b).astype(a.dtype, copy=False)

    slopes = staticmethod(lambda a, b, y: (1.0, -np.round((a - y) / b)))


class Sum(Operator):
    """The sum of any number of arrays."""

    arity = (1, 1 << 16)

    def shape(self, *seen: Seen) -> Shape:
        return broadcast(*seen)

    def compute(self, *xs: Array) -> Array:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total

    def forward(self, *xs: Array) -> Any:
        shapes = [x.shape for x in xs]
        return self.compute(*xs), lambda dy: [summed_to(dy, shape) for shape in shapes]

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return AddLayer() if len(seen) == 2 and _always(_same, seen, again) else None


class Mean(Sum):
    """The mean of any number of arrays."""

    def compute(self, *xs: Array) -> Array:
        return (super().compute(*xs) / len(xs)).astype(np.result_type(*xs), copy=False)

    def forward(self, *xs: Array) -> Any:
        shapes = [x.shape for x in xs]
        return self.compute(*xs), lambda dy: [summed_to(dy / len(xs), shape) for shape in shapes]

    def lower(self, seen: list[Seen], again: Again) -> Layer | None:
        return None


class _Extreme(Operator):
    arity = (1, 1 << 16)
    function: ClassVar[Callable[..., Array]]

    def shape(self, *seen: Seen) -> Shape:
        return broadcast(*seen)

    def compute(self, *xs: Array) -> Array:
        best = xs[0]
        for x in xs[1:]:
            best = type(self).function(best, x)
        return best

    def forward(self, *xs: Array) -> Any:
        y = self.compute(*xs)

        def backward(dy: Array) -> list[Array]:
            free, parts = np.ones(y.shape, bool), []
            for x in xs:  # ties go to the first
                mine = free & (x == y)
                free &= ~mine
                parts.append(summed_to(np.where(mine, dy, 0).astype(dy.dtype, copy=False), x.shape))
            return parts

        return y, backward


class Max(_Extreme):
    function = staticmethod(np.maximum)


class Min(_Extreme):
    function = staticmethod(np.minimum)


class _Logical(Operator):
    """Booleans out, and no gradient."""

    function: ClassVar[Callable[..., Array]]

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (np.dtype(bool),)

    def shape(self, *seen: Seen) -> Shape:
        return broadcast(*seen)

    def compute(self, *xs: Array) -> Array:
        return type(self).function(*xs)

    def forward(self, *xs: Array) -> Any:
        return self.compute(*xs), lambda dy: [None] * len(xs)


_LOGICAL: dict[str, tuple[Callable[..., Array], int]] = {
    **{name: (f, 2) for name, f in {"Equal": np.equal, "Greater": np.greater, "Less": np.less}.items()},
    "GreaterOrEqual": (np.greater_equal, 2),
    "LessOrEqual": (np.less_equal, 2),
    "And": (np.logical_and, 2),
    "Or": (np.logical_or, 2),
    "Xor": (np.logical_xor, 2),
    "Not": (np.logical_not, 1),
    "IsNaN": (np.isnan, 1),
}


class Where(Operator):
    """a where the condition holds, b elsewhere."""

    arity = (3, 3)

    def dtypes(self, *given: np.dtype[Any] | None) -> tuple[np.dtype[Any] | None, ...]:
        return (given[1],)

    def shape(self, *seen: Seen) -> Shape:
        return broadcast(*seen)

    def compute(self, *xs: Array) -> Array:
        return np.where(xs[0], xs[1], xs[2])

    def forward(self, *xs: Array) -> Any:
        condition, a, b = xs

        def backward(dy: Array) -> tuple[Array | None, ...]:
            zero = dy.dtype.type(0)
            return (
                None,
                summed_to(np.where(condition, dy, zero), a.shape),
                summed_to(np.where(condition, zero, dy), b.shape),
            )

        return self.compute(*xs), backward


class Identity(Operator):
    """x as it is."""

    def compute(self, *xs: Array) -> Array:
        if isinstance(xs[0], Foreign):
            raise ValueError(f"{xs[0].what} cannot be used")
        return xs[0]

    def forward(self, *xs: Array) -> Any:
        return xs[0], lambda dy: (dy,)


def _made(name: str, base: type[Operator], **members: Any) -> type[Operator]:
    return type(name, (base,), {"__module__": __name__, **members})


OPERATORS: dict[str, type[Operator]] = {
    **{
        name: _made(name, Unary, function=staticmethod(f), slope=staticmethod(slope))
        for name, (f, slope) in UNARY.items()
    },
    **{
        name: _made(name, Binary, function=staticmethod(f), slopes=staticmethod(slopes))
        for name, (f, slopes) in BINARY.items()
    },
    **{
        name: _made(name, _Logical, function=staticmethod(f), arity=(count, count))
        for name, (f, count) in _LOGICAL.items()
    },
    **{name: _made(name, Activation) for name in ACTIVATIONS},
    **{
        cls.__name__: cls
        for cls in (
            *(
                Relu,
                Elu,
                Selu,
                HardSigmoid,
                ThresholdedRelu,
                Celu,
                Swish,
                PRelu,
                Clip,
                Cast,
                CastLike,
                Add,
                Sub,
                Mul,
                Div,
                Mod,
            ),
            *(Sum, Mean, Max, Min, Where, Identity),
        )
    },
}

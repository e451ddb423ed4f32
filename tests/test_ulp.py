"""How many units of the last place (ulp) the vector functions of the compiled sets err, over their whole range.

float32: four million arguments, one from each run of 1024 neighbouring bit patterns, and a fine grid where the function
bends, against float64. float64: some thousand arguments against 50 decimal digits. The bounds are what simd/math.hpp
states; they hold where the result is a normal number. What is smaller may be flushed, and x itself before that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt
import pytest

import fastnn.functional as F
from engines import COMPILED, Engine

Array = npt.NDArray[np.floating]

#: name -> ulp with fused multiply-add, ulp without (the scalar set), both dtypes
BOUNDS = {
    "exp": (1.1, 1.1),
    "sigmoid": (1.7, 2.0),
    "tanh": (1.7, 2.0),
    "elu": (1.1, 1.1),
    "gelu": (2.0, 2.7),
    "gelu_tanh": (1.7, 2.5),
    "silu": (1.9, 2.7),
    "mish": (2.1, 3.2),
    "softplus": (1.8, 1.8),
    "selu": (1.9, 2.0),
    "celu": (1.1, 1.1),
    "softsign": (1.6, 1.6),
    "hardsigmoid": (1.1, 1.8),
    "hardswish": (2.0, 2.6),
}
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": F.exp,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "elu": lambda x: F.elu(x, alpha=1.0),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, threshold=800.0),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, alpha=1.0),
    "softsign": F.softsign,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
}
#: Beyond this the function is 0, 1, x or infinite in both dtypes' precision; in float64, then in float32.
RANGE = {
    "exp": (745, 104),
    "sigmoid": (745, 104),
    "tanh": (22, 10),
    "elu": (40, 20),
    "gelu": (39, 14),
    "gelu_tanh": (22, 11),
    "silu": (750, 110),
    "mish": (750, 110),
    "softplus": (745, 104),
    "selu": (40, 20),
    "celu": (40, 20),
    "softsign": (1000, 1000),
    "hardsigmoid": (4, 4),
    "hardswish": (4, 4),
}
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
functions = pytest.mark.parametrize("name", FUNCTIONS)
engines = pytest.mark.parametrize("engine", COMPILED, ids=lambda engine: engine.name)


def bound(name: str, engine: Engine) -> float:
    return BOUNDS[name][engine.name == "scalar"]


# ---- float32 against float64 ----------------------------------------------------------------------------------------


@functools.cache
def arguments32(name: str) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    bits = np.arange(1 << 22, dtype=np.uint32) * np.uint32(1024) + rng.integers(0, 1024, 1 << 22, dtype=np.uint32)
    end = RANGE[name][1]
    x = np.concatenate([bits.view(np.float32), np.linspace(-end, end, 1 << 20, dtype=np.float32)])
    return x[np.isfinite(x) & (np.abs(x) >= np.finfo(np.float32).tiny)]


def _exact32(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The function in float64, without a cancellation; 1e-15 is far below a float32 ulp."""
    match name:
        case "exp":
            return np.exp(x)
        case "sigmoid":
            return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
        case "tanh":
            return np.tanh(x)
        case "elu" | "celu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        case "selu":
            return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))
        case "silu":
            return x * np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
        case "mish":
            n = np.exp(np.minimum(x, 40)) * (np.exp(np.minimum(x, 40)) + 2)
            return x * (n / (n + 2))
        case "softplus":
            return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        case "softsign":
            return x / (1 + np.abs(x))
        case "hardsigmoid":
            return np.clip(x + 3, 0, 6) / 6
        case "hardswish":
            return x * (np.clip(x + 3, 0, 6) / 6)
        case "gelu":
            erfc = np.frompyfunc(math.erfc, 1, 1)
            return 0.5 * x * np.asarray(erfc(-x / math.sqrt(2)), np.float64)
        case _:
            w = np.abs(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
            return x * np.exp(np.where(x < 0, -w, 0)) / (1 + np.exp(-w))


@functools.cache
def exact32(name: str) -> npt.NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return _exact32(name, arguments32(name).astype(np.float64))


@functions
@engines
def test_float32(name: str, engine: Engine) -> None:
    x, exact = arguments32(name), exact32(name)
    with engine.on():
        y = FUNCTIONS[name](x).astype(np.float64)
    info = np.finfo(np.float32)
    normal = (np.abs(exact) >= float(info.tiny)) & (np.abs(exact) <= float(info.max))
    ulp = np.ldexp(1.0, np.frexp(np.where(normal, exact, 1))[1] - 24)
    error = np.abs(np.where(normal, y, 0) - np.where(normal, exact, 0)) / ulp
    worst = int(error.argmax())
    assert error[worst] <= bound(name, engine), f"{error[worst]:.3f} ulp at {x[worst]!r}"
    small = np.abs(exact) < float(info.tiny)
    assert np.all(np.abs(y[small] - exact[small]) <= 2 * float(info.tiny))
    assert np.all(np.abs(y[np.abs(exact) > float(info.max)]) >= float(info.max))


# ---- float64 against decimals ---------------------------------------------------------------------------------------

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")


def _normal_cdf(x: Decimal) -> Decimal:
    """Phi(x): its series around 0, and from 8 on the continued fraction of the tail."""
    density = (-x * x / 2).exp() / (2 * PI).sqrt()
    t = abs(x)
    if t < 8:
        term = total = x
        for n in range(3, 1000, 2):
            term = term * x * x / n
            total += term
            if abs(term) < abs(total) * Decimal("1e-55"):
                break
        return Decimal("0.5") + density * total
    fraction = t
    for n in range(150, 0, -1):
        fraction = t + n / fraction
    return density / fraction if x < 0 else 1 - density / fraction


def _exact64(name: str, x: Decimal) -> Decimal:
    match name:
        case "exp":
            return x.exp()
        case "sigmoid":
            return 1 / (1 + (-x).exp())
        case "tanh":
            return 1 - 2 / ((2 * x).exp() + 1)
        case "elu" | "celu":
            return x if x > 0 else x.exp() - 1
        case "selu":
            return Decimal(SELU_SCALE) * (x if x > 0 else Decimal(SELU_ALPHA) * (x.exp() - 1))
        case "silu":
            return x / (1 + (-x).exp())
        case "mish":
            n = x.exp() * (x.exp() + 2)
            return x * n / (n + 2)
        case "softplus":
            return (1 + x.exp()).ln() if x > -80 else x.exp() - (2 * x).exp() / 2
        case "softsign":
            return x / (1 + abs(x))
        case "hardsigmoid":
            return min(max(x + 3, Decimal(0)), Decimal(6)) / 6
        case "hardswish":
            return x * min(max(x + 3, Decimal(0)), Decimal(6)) / 6
        case "gelu":
            return x * _normal_cdf(x)
        case _:
            return x / (1 + (-2 * (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)).exp())


@functools.cache
def cases64(name: str) -> tuple[npt.NDArray[np.float64], list[Decimal]]:
    rng = np.random.default_rng(0)
    end = RANGE[name][0]
    sign = rng.choice([-1.0, 1.0], 400)
    x = np.concatenate([rng.uniform(-end, end, 500), rng.uniform(-3, 3, 800), sign * np.exp2(rng.uniform(-60, 5, 400))])
    x = x[np.abs(x) <= end]
    # 1 - exp(-2^-60) loses 18 digits, the tail of the series 15: 75 digits leave 50 and more.
    with localcontext(Context(prec=75)):
        return x, [_exact64(name, Decimal(float(v))) for v in x]


@functions
@engines
def test_float64(name: str, engine: Engine) -> None:
    x, exact = cases64(name)
    with engine.on():
        y = FUNCTIONS[name](x)
    worst, at = 0.0, 0.0
    with localcontext(Context(prec=75)):
        for argument, got, want in zip(x.tolist(), y.tolist(), exact, strict=True):
            if not np.finfo(np.float64).tiny <= abs(want) <= np.finfo(np.float64).max:
                continue
            error = float(abs(Decimal(got) - want) / Decimal(math.ulp(float(want))))
            worst, at = max((worst, at), (error, argument))
    assert worst <= bound(name, engine), f"{worst:.3f} ulp at {at!r}"


# ---- what must be exact ---------------------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_values(dtype: type[np.floating], engine: Engine) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    want = {
        "exp": [1, 1, np.inf, 0, np.nan],
        "sigmoid": [0.5, 0.5, 1, 0, np.nan],
        "tanh": [0.0, -0.0, 1, -1, np.nan],
        "elu": [0.0, -0.0, np.inf, -1, np.nan],
        "gelu": [0.0, -0.0, np.inf, np.nan, np.nan],  # -inf * 0
        "gelu_tanh": [0.0, -0.0, np.inf, np.nan, np.nan],
        "silu": [0.0, -0.0, np.inf, np.nan, np.nan],
        "mish": [0.0, -0.0, np.inf, np.nan, np.nan],
        "softplus": [np.log(dtype(2)), np.log(dtype(2)), np.inf, 0, np.nan],
        "celu": [0.0, -0.0, np.inf, -1, np.nan],
        "softsign": [0.0, -0.0, np.nan, np.nan, np.nan],
        "hardsigmoid": [0.5, 0.5, 1, 0, np.nan],
        "hardswish": [0.0, -0.0, np.inf, np.nan, np.nan],
    }
    for name, values in want.items():
        with engine.on():
            y = FUNCTIONS[name](np.tile(x, 20))[: len(x)]
        np.testing.assert_array_equal(y, np.array(values, dtype), err_msg=name)
        if name not in ("elu", "celu"):  # alpha * (e^-0 - 1) is 0
            np.testing.assert_array_equal(np.signbit(y[:2]), np.signbit(np.array(values[:2])), err_msg=name)


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_odd(dtype: type[np.floating], engine: Engine) -> None:
    x = np.random.default_rng(0).normal(0, 3, 10000).astype(dtype)
    with engine.on():
        np.testing.assert_array_equal(F.tanh(-x), -F.tanh(x))


@engines
@functions
def test_no_lane_depends_on_its_neighbours(name: str, engine: Engine) -> None:
    """Where a table ends, the whole formula steps in, for the lanes beyond it alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 6, 4096).astype(np.float32)
    x[::97] = np.nan
    order = rng.permutation(x.size)
    with engine.on():
        np.testing.assert_array_equal(FUNCTIONS[name](x)[order], FUNCTIONS[name](x[order]))

"""Write tables.hpp: functions of t >= 0 by 32 polynomials each, for sets that look 32 floats up in one instruction.

Interval n lies around n * width. Its polynomial is in u = t - centre, where the centre is a float near the middle at
which the function is a float to 2^-32, so that the first coefficient brings no error of its own. Needs mpmath and NumPy

    python csrc/simd/tables.py > csrc/simd/tables.hpp
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.prec = 160
Function = Callable[[Any], Any]


def nearly_a_float(f: Function, middle: float, reach: float) -> tuple[np.float32, np.float32]:
    """A float near the middle, and the function there: a float as well to 2^-32 of it, or, where the function is too
    flat to have one, as nearly as it gets."""
    best: tuple[Any, np.float32, np.float32] | None = None
    for i in range(4000):
        centre = np.float32(middle + reach * (i / 4000) * (-1) ** i)
        value = f(mp.mpf(float(centre)))
        rounded = np.float32(float(value))
        error = abs(value - mp.mpf(float(rounded))) / abs(value)
        if best is None or error < best[0]:
            best = error, centre, rounded
        if error < mp.mpf(2) ** -32:
            break
    assert best is not None
    return best[1], best[2]


def polynomial(f: Function, low: float, high: float, centre: float, first: np.float32, degree: int) -> list[np.float32]:
    """Coefficients of u^1, u^2 ..., close to minimax of the relative error: least squares over Chebyshev's points.
    They are rounded one by one, the later ones making up for the earlier."""
    turns = [mp.cos(mp.pi * (2 * i + 1) / 64) for i in range(32)]
    points = [(low + high) / 2 + (high - low) / 2 * turn for turn in turns]
    values = [f(t) for t in points]
    scale = (high - low) / 2
    coefficients: list[np.float32] = []
    rest = [value - mp.mpf(float(first)) for value in values]
    for k in range(1, degree + 1):
        us = [t - mp.mpf(centre) for t in points]
        rows = [[float((u / scale) ** j / v) for j in range(k, degree + 1)] for u, v in zip(us, values, strict=True)]
        right = [float(r / v) for r, v in zip(rest, values, strict=True)]
        solution = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
        c = np.float32(float(mp.mpf(solution[0]) / scale**k))
        coefficients.append(c)
        rest = [r - mp.mpf(float(c)) * u**k for r, u in zip(rest, us, strict=True)]
    return coefficients


def literal(v: Any) -> str:
    text = f"{float(v):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def table(name: str, what: str, f: Function, width: float, degree: int) -> str:
    """The table of one function in C++, and its largest error before rounding."""
    centres, columns, worst = [], [], mp.mpf(0)
    for n in range(32):
        low, high = mp.mpf(max(n - 0.5, 0) * width), mp.mpf((n + 0.5) * width)
        exact = n == 0 and f(mp.mpf(0)) in (0, mp.mpf("0.5"))
        centre, first = (
            (np.float32(0), np.float32(float(f(0)))) if exact else nearly_a_float(f, n * width or width / 4, width / 16)
        )
        rest = polynomial(f, low, high, float(centre), first, degree)
        centres.append(centre)
        columns.append([first, *rest])
        for i in range(65):
            t = low + (high - low) * i / 64
            if not t:
                continue
            u = t - mp.mpf(float(centre))
            got = sum(mp.mpf(float(c)) * u**j for j, c in enumerate(columns[-1]))
            worst = max(worst, abs(got / f(t) - 1))
    rows = ["{" + ", ".join(map(literal, row)) + "}" for row in (centres, *zip(*columns, strict=True))]
    text = ",\n".join(f"      {row}" for row in rows[1:])
    return (
        f"// {what}; relative error 2^{float(mp.log(worst, 2)):.1f}\n"
        f"constexpr Pieces<{degree + 1}> {name} = {{\n    {literal(31.49 * width)}, {literal(1 / width)},\n"
        f"    {rows[0]},\n    {{\n{text}}}}};\n"
    )


HEADER = """\
// Written by tables.py. Functions of t >= 0 by a polynomial for each of 32 intervals; see tabled() in math.hpp.
#pragma once
#include "simd/simd.hpp"

// clang-format off
namespace fastnn::FASTNN_ISA {
namespace {

template <size_t n>
struct Pieces {
  float limit, inverse_width;
  float centre[32], c[n][32];
};

"""


def normal_tail(t: Any) -> Any:
    return mp.erfc(t / mp.sqrt(2)) / 2


def logistic_tail(t: Any) -> Any:
    return 1 / (1 + mp.exp(t))


def gelu_tanh_tail(t: Any) -> Any:
    return logistic_tail(2 * mp.sqrt(2 / mp.pi) * (t + mp.mpf("0.044715") * mp.mpf(t) ** 3))


def softplus_tail(t: Any) -> Any:
    return mp.log1p(mp.exp(-t))


if __name__ == "__main__":
    parts = [
        table("kNormalTail", "1 - Phi(t)", normal_tail, 0.171875, 6),
        table("kGeluTanhTail", "1 / (1 + e^w), w = 2 sqrt(2 / pi) (t + 0.044715 t^3)", gelu_tanh_tail, 0.15625, 6),
        table("kLogisticTail", "1 / (1 + e^t)", logistic_tail, 0.5, 5),
        table("kSoftplusTail", "log(1 + e^-t)", softplus_tail, 0.5, 5),
        table("kTanh", "tanh t", mp.tanh, 0.296875, 6),
    ]
    print(HEADER + "\n".join(parts) + "\n}  // namespace\n}  // namespace fastnn::FASTNN_ISA\n// clang-format on")

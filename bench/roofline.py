"""What this machine can do at best, measured: multiply-adds a second in a large product, bytes a second in a copy.

The best of fastnn's own kernels and NumPy's, lest we measure ourselves by ourselves: a floor of the true roofline, in
the same noise as the rest. fastnn runs at the thread count in use; NumPy's copy has one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import fastnn.functional as F


@dataclass(frozen=True)
class Roofline:
    """flops and bytes per second."""

    flops: float
    bytes: float

    def fraction(self, seconds: float, flops: float, bytes: float) -> float:
        """How much of the best possible speed a work of so many flops and bytes reaches."""
        return max(flops / self.flops, bytes / self.bytes) / seconds


def _best(call: object, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()  # type: ignore[operator]
        times.append(time.perf_counter() - began)
    return min(times)


def measure() -> Roofline:
    """Measure for about a second."""
    a, b = np.random.default_rng(0).standard_normal((2, 768, 768), np.float32)  # for a @ a.T NumPy computes one half
    x = np.ones(8 * 2**20, np.float32)
    y = np.empty_like(x)
    product = min(_best(lambda: F.linear(a, b), 30), _best(lambda: a @ b.T, 30))
    copy = min(_best(lambda: F.leaky_relu(x, 1.0), 20), _best(lambda: np.copyto(y, x), 20))
    return Roofline(2 * 768**3 / product, 8 * x.size / copy)

"""Time on this machine: calls taken in turns, and what the machine can do at best.

`Program.profile`, ``fastnn bench`` and the benchmarks measure with these. Nothing else may run meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import _backends
from . import functional as F
from .threads import get_num_threads

__all__ = ["Roofline", "Timing", "interleave", "rest", "roofline"]


@dataclass(frozen=True)
class Timing:
    """Median time of a call and its spread, half of the distance between the quartiles; in ms."""

    median: float
    spread: float


def rest() -> None:
    """Wait until no thread of this process computes: torch's spin for some 9 ms after a call, OpenBLAS's for 105."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return


def interleave(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time the contestants in turns for about ``seconds`` together; a turn is a few calls, of which the mean counts.

    A turn begins with a pause, in which the threads of the one before stop spinning on the processors that the next one
    needs, and with a call that is not timed, which wakes the own threads and brings the own data back into the caches.

    Parameters
    ----------
    calls : dict of callable
        By the names of the contestants.
    seconds : float
        Of all together; every contestant gets nine turns even so.

    Returns
    -------
    dict of Timing

    Examples
    --------
    >>> timings = interleave({"short": lambda: sum(range(10)), "long": lambda: sum(range(10_000))}, seconds=0.1)
    >>> sorted(timings)
    ['long', 'short']
    """
    repeats = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        once = time.perf_counter() - began
        repeats[name] = max(1, min(1000, int(0.01 / max(once, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < 9:
        for name in order:
            call, n = calls[name], repeats[name]
            rest()
            call()
            began = time.perf_counter()
            for _ in range(n):
                call()
            times[name].append(1e3 * (time.perf_counter() - began) / n)
        order = order[1:] + order[:1]  # nobody always follows the same neighbour
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = Timing(median, (high - low) / 2)
    return result


@dataclass(frozen=True)
class Roofline:
    """What this machine can do at best, as measured: floating-point operations and bytes per second."""

    flops: float
    bytes: float

    def fraction(self, seconds: float, flops: float, bytes: float) -> float:
        """Return how much of the best possible speed a work of so many flops and bytes reaches in ``seconds``."""
        return max(flops / self.flops, bytes / self.bytes) / seconds


def roofline(dtype: Any = np.float32) -> Roofline:
    """Measure the multiply-adds a second in a large product and the bytes a second in a copy; takes about a second.

    The best of fastnn's own kernels and NumPy's, lest we measure ourselves by ourselves: a floor of the true roofline,
    in the same noise as the rest. fastnn runs at the thread count in use; NumPy's copy has one thread. Measured once in
    a process for each dtype, thread count and instruction set.

    Returns
    -------
    Roofline
    """
    core = _backends.core()
    return _measured(np.dtype(dtype).name, _backends.name, core and core.isa(), get_num_threads())


@cache
def _measured(dtype: str, backend: str, isa: str | None, threads: int) -> Roofline:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 768, 768)).astype(dtype)  # for a @ a.T NumPy computes one half
    x = np.ones(32 * 2**20 // a.itemsize, dtype)
    y = np.empty_like(x)
    if backend == "compiled":
        products = {"linear": lambda: F.linear(a, b), "BLAS": lambda: a @ b.T}
        copies = {"relu": lambda: F.relu(x), "copy": lambda: np.copyto(y, x)}
    else:  # the fallbacks are far from it
        products, copies = {"BLAS": lambda: a @ b.T}, {"copy": lambda: np.copyto(y, x)}
    flops = max(2 * 768**3 / _best(call, 30) for call in products.values())
    if isa == "amx" and dtype == "float32":  # tiles, which only convolutions use, do more than multiply-adds can
        flops = max(flops, _convolution(rng))
    return Roofline(flops, 2 * x.nbytes / min(_best(call, 20) for call in copies.values()))


def _convolution(rng: np.random.Generator) -> float:
    """Operations a second in a convolution of a program, whose weights are packed."""
    from .compiler import compile
    from .layers import Conv2d

    program = compile(Conv2d(128, 128, 3, padding=1, rng=rng), (1, 128, 56, 56))
    x = rng.standard_normal((1, 56, 56, 128), np.float32).transpose(0, 3, 1, 2)
    return 2 * 128 * 128 * 9 * 56 * 56 / _best(lambda: program(x), 60)


def _best(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)

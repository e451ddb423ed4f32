"""`pytest bench`: every workload as a group of pytest-benchmark, one contestant after another.

`pytest bench -k gelu` finds all of one op. For ratios that are quoted use compare.py, where contestants take turns.
"""

from __future__ import annotations

import math

import pytest
from workloads import WORKLOADS, check

import fastnn as fnn
from fastnn import _backends, measure

_calls: dict[str, dict] = {}
_CONTESTANTS = (
    "compiled, program",
    "compiled",
    "compiled, amx",
    "compiled, amx channels-last",
    "numba",
    "numpy",
    "numpy, its own generator",
    "BLAS of NumPy",
    "torch",
    "torch, frozen",
    "torch, channels-last",
    "torch, channels-last, frozen",
    "onnxruntime",
    "openvino",
)


@pytest.fixture(scope="session")
def roofline() -> measure.Roofline:
    return measure.roofline()


@pytest.mark.parametrize("contestant", _CONTESTANTS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: f"{w.op}: {w.name}")
def test_workload(workload, contestant, benchmark, roofline):
    if workload.name not in _calls:
        _calls.clear()  # arrays of one workload at a time
        calls = workload.make()
        check(workload, calls)
        assert set(calls) <= set(_CONTESTANTS), "a contestant that is not listed above would not be timed"
        _calls[workload.name] = calls
    if contestant not in _calls[workload.name]:
        pytest.skip(f"{contestant} does not run {workload.name}, or is not installed")
    benchmark.group = workload.name
    core = _backends.core()
    benchmark.extra_info |= {
        "isa": core.isa() if core is not None else _backends.name,
        "threads": fnn.threads.get_num_threads(),
    }
    benchmark(_calls[workload.name][contestant])
    seconds = benchmark.stats.stats.median
    if workload.flops:
        benchmark.extra_info["GFLOP/s"] = round(workload.flops / seconds / 1e9, 1)
    if workload.bytes:
        benchmark.extra_info["GB/s"] = round(workload.bytes / seconds / 1e9, 1)
    fraction = roofline.fraction(seconds, workload.flops, workload.bytes)
    if not math.isclose(fraction, 0.0):
        benchmark.extra_info["fraction of the roofline"] = round(fraction, 3)

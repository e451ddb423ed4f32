"""No kernel of the list is missing anywhere: reference, binding, fallback, tests, gradients, benchmarks, docs."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_gradients import GRADIENTS

import fastnn.functional as F
from cases import CASES, OPS
from fastnn import reference
from fastnn._backends import ACTIVATIONS, ALGORITHMS, OUTPUTS

every_kernel = pytest.mark.parametrize("kernel", OUTPUTS)
every_function = pytest.mark.parametrize("name", F.__all__)


@pytest.fixture(scope="module")
def core() -> ModuleType:
    return pytest.importorskip("fastnn._core", reason="fastnn was installed without compiled kernels")


@pytest.fixture(scope="module")
def numba_module() -> ModuleType:
    pytest.importorskip("numba", reason="numba is not installed")
    return importlib.import_module("fastnn._numba")


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def expected_parameters(kernel: str) -> list[str]:
    """Those of the reference, `accumulate` where weights have gradients, then the outputs."""
    inputs, outputs = parameters(getattr(reference, kernel)), OUTPUTS[kernel]
    return [*inputs, *(["accumulate"] if "dweight" in outputs else []), *outputs]


def test_list_is_the_compiled_list(core: ModuleType) -> None:
    assert set(core.KERNELS) == {*OUTPUTS, *ALGORITHMS}


@every_kernel
def test_reference_twin(kernel: str) -> None:
    function = getattr(reference, kernel)
    assert function.__doc__, "the reference says what the op computes"


@pytest.mark.parametrize("kernel", [*OUTPUTS, *ALGORITHMS])
def test_binding(kernel: str, core: ModuleType) -> None:
    assert parameters(getattr(core, kernel)) == expected_parameters(ALGORITHMS.get(kernel, kernel))


@every_kernel
def test_numba_signature(kernel: str, numba_module: ModuleType) -> None:
    """Numba may leave an op to the reference, but not give it another signature."""
    function = getattr(numba_module, kernel, None)
    if function is not None:
        assert parameters(function) == expected_parameters(kernel)


def test_numba_covers(numba_module: ModuleType) -> None:
    """What the fallback must have itself: convolution, activations, dropout, batch norm, pooling."""
    families = (*ACTIVATIONS, "prelu", "dropout", "batch_norm", "pool2d", "conv")
    must = [kernel for kernel in OUTPUTS if any(family in kernel for family in families)]
    assert not [kernel for kernel in must if not hasattr(numba_module, kernel)]


@every_kernel
def test_parity_cases(kernel: str) -> None:
    assert len(CASES[kernel]) >= 5
    assert len({case.label for case in CASES[kernel]}) == len(CASES[kernel]), "labels are names, each once"


def test_no_case_without_kernel() -> None:
    """What has cases is a kernel, or a public function of the same name that is made of others' kernels."""
    assert set(OUTPUTS) <= set(OPS) <= set(OUTPUTS) | set(F.__all__)


#: functions whose cases and gradients are among those of a kernel of another name
SHARED = {
    "relu6": "hardtanh_forward",
    "relu6_backward": "hardtanh_backward",
    "gelu": "gelu_forward",
    "conv2d": "conv2d_forward",
    "mul_backward": "mul_forward",
    "matmul_backward": "matmul_forward",
    "div_backward": "div_forward",
    **{
        f"{name}{backward}": f"{kernel}{backward or '_forward'}"
        for name, kernel in (
            ("layer_norm", "group_norm"),
            ("instance_norm", "group_norm"),
            ("max_pool1d", "max_pool2d"),
            ("avg_pool1d", "avg_pool2d"),
        )
        for backward in ("", "_backward")
    },
}


@every_function
def test_function_has_cases(name: str) -> None:
    """Also those that have no kernel of their own."""
    assert {name, f"{name}_forward", SHARED.get(name)} & set(OPS)


@pytest.mark.parametrize("name", [name for name in F.__all__ if name.endswith("_backward")])
def test_function_has_gradient_check(name: str) -> None:
    assert {name, SHARED.get(name)} & set(GRADIENTS)


@pytest.mark.parametrize(
    "kernel",
    [k for k, outputs in OUTPUTS.items() if k.endswith("_backward") or "loss" in outputs or k == "im2col_forward"],
)
def test_gradient_check(kernel: str) -> None:
    assert kernel in GRADIENTS


@pytest.mark.parametrize("kernel", [*OUTPUTS, *ALGORITHMS])
def test_benchmark(kernel: str) -> None:
    path = Path(__file__).parents[1] / "bench" / "workloads.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside these tests")
    spec = importlib.util.spec_from_file_location("bench_workloads", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    assert any(kernel in workload.kernels for workload in module.WORKLOADS)


@every_kernel
def test_reached_through_functional(kernel: str) -> None:
    """An op is one noun: its public function has the kernel's name. The others are machinery of layers and trainers."""
    internal = {"scale_add", "fill", "copy", "random_bits", "resample"}
    noun = kernel.removesuffix("_forward").replace("gelu_tanh", "gelu")
    assert noun in F.__all__ or kernel in internal


@every_function
def test_docstring(name: str) -> None:
    """A first line, shapes (its own, or those of the op whose gradient it is) and an example."""
    doc = inspect.getdoc(getattr(F, name)) or ""
    assert re.match(r"\S.*[.:,)]", doc)
    assert ">>>" in doc, f"{name} has no example"
    shapes = r"any shape|one shape|\((\w+|\.\.\.),[\w., /*]*\)"
    named = re.search(r"(?:Gradients? of|transpose of) `(\w+)`", doc)
    base = inspect.getdoc(getattr(F, named[1])) or "" if named else ""
    assert re.search(shapes, doc) or re.search(shapes, base), f"{name} does not tell the shapes of its arrays"


def test_everything_public_is_listed() -> None:
    """__all__ is every function of the module without an underscore."""
    defined = {n for n, f in vars(F).items() if inspect.isfunction(f) and f.__module__ == F.__name__ and n[0] != "_"}
    assert set(F.__all__) == defined

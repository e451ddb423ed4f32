"""FASTNN_BACKEND, FASTNN_ISA and FASTNN_NUM_THREADS: each value in a process of its own. What cannot run raises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn
from engines import ALL, MISSING

SHOW = "import fastnn; c = fastnn.threads.config(); print(c['backend'], c.get('isa'), c['threads'])"
WITHOUT_CORE = "import sys; sys.modules['fastnn._core'] = None\n"
WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None\n"
WITHOUT_KERNELS = next((e.name for e in ALL if e.backend == "compiled"), None) is None
needs_kernels = pytest.mark.skipif(WITHOUT_KERNELS, reason="fastnn was installed without compiled kernels")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that sees this fastnn and of the variables FASTNN_* these alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTNN_", "OMP_", "PYTHON"))}
    path = {"PYTHONPATH": str(Path(fastnn.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**kept, **path, **environment},
        text=True,
        capture_output=True,
        timeout=300,
    )


def fails(code: str, *words: str, **environment: str) -> None:
    """The process ends with an error that says these words."""
    result = run(code, **environment)
    assert result.returncode != 0, result.stdout
    for word in words:
        assert word in result.stderr.splitlines()[-1], result.stderr


@pytest.mark.parametrize("engine", ALL, ids=lambda engine: engine.name)
def test_forced(engine: object) -> None:
    """What was forced is what runs."""
    isa = getattr(engine, "isa", None)
    result = run(SHOW, FASTNN_BACKEND=engine.backend, **({"FASTNN_ISA": isa} if isa else {}))  # type: ignore[attr-defined]
    assert result.stdout.split()[:2] == [engine.backend, str(isa)], result.stderr  # type: ignore[attr-defined]


@needs_kernels
def test_unforced() -> None:
    """The compiled backend and the best set of the processor."""
    assert run(SHOW).stdout.split()[:2] == ["compiled", [e.isa for e in ALL if e.isa][-1]]


def test_empty_means_unset() -> None:
    assert run(SHOW, FASTNN_BACKEND="", FASTNN_ISA="", FASTNN_NUM_THREADS="").stdout == run(SHOW).stdout


def test_unknown_backend() -> None:
    fails("import fastnn", "unknown backend 'cuda'", "compiled, numba, numpy", FASTNN_BACKEND="cuda")


def test_backend_that_cannot_run() -> None:
    fails(WITHOUT_CORE + "import fastnn", "'compiled' cannot run", "without a C++ compiler", FASTNN_BACKEND="compiled")
    fails(WITHOUT_NUMBA + "import fastnn", "'numba' cannot run", "not installed", FASTNN_BACKEND="numba")


@needs_kernels
def test_unknown_instruction_set() -> None:
    fails("import fastnn", "unknown instruction set 'sse9'", "FASTNN_ISA", "scalar", FASTNN_ISA="sse9")


@needs_kernels
def test_instruction_set_that_cannot_run() -> None:
    from fastnn import _core

    lacking = [name for name, lacks in _core.isas().items() if lacks is not None]
    if not lacking:
        pytest.skip("this processor runs every instruction set that was compiled")
    for name in lacking:
        fails("import fastnn", f"'{name}'", "cannot run here", MISSING[name], FASTNN_ISA=name)


def test_instruction_set_without_kernels() -> None:
    fails("import fastnn", "FASTNN_ISA=avx2", "'numpy'", FASTNN_ISA="avx2", FASTNN_BACKEND="numpy")


def test_fallback_says_so_once() -> None:
    """Without kernels the next backend computes, after one sentence that says so."""
    for missing, backend in ((WITHOUT_CORE, "numba"), (WITHOUT_CORE + WITHOUT_NUMBA, "numpy")):
        if backend == "numba" and "numba" in MISSING:
            continue
        result = run(missing + SHOW)
        assert result.stdout.split()[0] == backend, result.stderr
        assert result.stderr.count("RuntimeWarning") == 1
        assert f"computing with {backend}, which is slower" in result.stderr


@pytest.mark.parametrize("backend", [pytest.param("compiled", marks=needs_kernels), "numba"])
def test_threads(backend: str) -> None:
    if backend in MISSING:
        pytest.skip(MISSING[backend])
    for count in ("1", "3", " 2 "):
        result = run(SHOW, FASTNN_BACKEND=backend, FASTNN_NUM_THREADS=count)
        assert result.stdout.split()[2:] == [count.strip()], result.stderr
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= int(run(SHOW, FASTNN_BACKEND=backend).stdout.split()[2]) <= affinity
    assert run(SHOW, FASTNN_BACKEND=backend, OMP_NUM_THREADS="1").stdout.split()[2:] == ["1"]
    assert run(SHOW, FASTNN_BACKEND=backend, OMP_NUM_THREADS="1", FASTNN_NUM_THREADS="2").stdout.split()[2:] == ["2"]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1000000", "2 2"])
@pytest.mark.parametrize("backend", [pytest.param("compiled", marks=needs_kernels), "numba"])
def test_bad_threads(value: str, backend: str) -> None:
    if backend in MISSING:
        pytest.skip(MISSING[backend])
    fails(
        SHOW, "FASTNN_NUM_THREADS must be a whole number from 1 to", f"got {value!r}",
        FASTNN_BACKEND=backend, FASTNN_NUM_THREADS=value,
    )  # fmt: skip


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be taken from a process here")
def test_affinity() -> None:
    """A process that may use one processor starts one thread."""
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert run(one + SHOW).stdout.split()[2:] == ["1"]


@needs_kernels
def test_kernels_out_of_date(tmp_path: Path) -> None:
    """A tree of sources does not compute with an extension that was built from others; an installation never asks."""
    from fastnn import _core

    sources = Path(__file__).parents[1]
    package = tmp_path / "fastnn"
    shutil.copytree(Path(fastnn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "_core.*"))
    shutil.copy(_core.__file__, package)
    here = {"PYTHONPATH": str(tmp_path)}
    code = "import fastnn; print(fastnn.__file__)"
    assert str(tmp_path) in run(code, **here).stdout  # no sources: nothing to compare with
    shutil.copy(sources / "fastnn" / "_core.pyx", package)
    assert run(code, **here).returncode == 0
    kernels = tmp_path / "csrc" / "kernels" / "kernels.hpp"
    kernels.parent.mkdir(parents=True)
    shutil.copy(sources / "csrc" / "kernels" / "kernels.hpp", kernels)
    result = run(code, **here)
    assert result.returncode == 0, result.stderr
    for path in (kernels, package / "_core.pyx"):
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        fails(code, "ImportError: the compiled kernels are out of date", "pip install", "FASTNN_BACKEND=numpy", **here)
        fails(code, "ImportError: the compiled kernels are out of date", FASTNN_BACKEND="compiled", **here)
        assert run(code, FASTNN_BACKEND="numpy", **here).returncode == 0
        path.write_bytes(before)

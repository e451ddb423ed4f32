"""Importing fastnn loads NumPy and the compiled core only; every example in the documentation is true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_environment import run

import fastnn
from engines import ALL, ENGINES, Engine

LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def modules(code: str, **environment: str) -> set[str]:
    """Top-level modules loaded after running the code, without those of Python itself."""
    result = run(f"{code}; {LOADED}", **environment)
    assert result.returncode == 0, result.stderr
    names = {name.partition(".")[0] for name in json.loads(result.stdout)}
    # Cython keeps what its modules share under such names.
    return {
        name
        for name in names - set(sys.stdlib_module_names)
        if not name.startswith(("_cython", "cython_runtime", "_cyutility"))
    }


@pytest.mark.parametrize("backend", [e.backend for e in ALL if e.backend != "numba"][:2])
def test_loads_numpy_alone(backend: str) -> None:
    beyond = modules("import fastnn", FASTNN_BACKEND=backend) - modules("import numpy")
    assert beyond == {"fastnn"}


def test_loads_no_more_of_itself() -> None:
    """Layers, trainer, compiler, files and the fallback wait until they are used."""
    result = run(f"import fastnn; {LOADED}", FASTNN_BACKEND="numpy")
    own = {name for name in json.loads(result.stdout) if name.startswith("fastnn.")}
    lazy = {
        f"fastnn.{name}"
        for name in ("layers", "training", "compiler", "io", "_numba", "cli", "plot", "optim", "losses")
    }
    assert not own & lazy


def test_every_public_name_exists() -> None:
    for name in dir(fastnn):
        getattr(fastnn, name)
    for name in fastnn.__all__:
        assert getattr(fastnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fastnn.nonsense  # noqa: B018


def _module_names() -> list[str]:
    found = [
        m.name for m in pkgutil.walk_packages(fastnn.__path__, "fastnn.") if not m.name.endswith(("_core", "__main__"))
    ]
    return ["fastnn", *found]


def _examples() -> Iterator[Any]:
    """Every docstring of fastnn that has an example; np and fnn are taken as imported there."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in _module_names():
        if name == "fastnn._numba" and "numba" not in {e.backend for e in ALL}:
            continue
        module = importlib.import_module(name)
        for test in finder.find(module, module.__name__, extraglobs={"np": np, "fnn": fastnn}):
            if test.examples:
                yield pytest.param(test, id=test.name.removeprefix("fastnn."))


def check_example(test: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


EXAMPLES = list(_examples())


@pytest.mark.parametrize("test", EXAMPLES)
def test_example(test: doctest.DocTest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_example(test)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("test", [p for p in EXAMPLES if p.id.startswith("functional.")])
def test_example_on_every_engine(test: doctest.DocTest, engine: Engine) -> None:
    with engine.on():
        check_example(test)


@pytest.mark.parametrize("name", [n for n in _module_names() if "._" not in n and n not in ("fastnn.cli",)])
def test_public_functions_are_documented(name: str) -> None:
    """A module, and what it lists as public, says what it is."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__.startswith("fastnn"):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"

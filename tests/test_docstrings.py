"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import fastnn

#: modules whose import needs what may not be here, or that compute when imported
_NOT_IMPORTED = {"fastnn._core", "fastnn._numba", "fastnn.__main__"}


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(fastnn.__path__, "fastnn.")]
    found = []
    for name in ["fastnn", *(n for n in names if n not in _NOT_IMPORTED)]:
        module = importlib.import_module(name)
        found += [test for test in finder.find(module, name, extraglobs={"np": np, "fnn": fastnn}) if test.examples]
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name.removeprefix("fastnn."))
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    report: list[str] = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


def test_there_are_examples() -> None:
    names = {test.name for test in EXAMPLES}
    assert {f"fastnn.functional.{name}" for name in fastnn.functional.__all__} <= names

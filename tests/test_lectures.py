"""The lectures' statements: all fifty have a script, the pages say what was measured, and the quick ones run here."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FOLDER, DOCS = ROOT / "examples" / "lectures", ROOT / "docs"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are not beside these tests")
for package in ("sklearn", "optuna", "matplotlib"):
    pytest.importorskip(package, reason=f"the lectures' scripts need {package}")

#: statements that take a second or less, and how many of their claims fail; what these claim does not hang by a hair
QUICK = {1: 0, 4: 0, 7: 0, 9: 0, 14: 0, 16: 0, 17: 0, 22: 0, 23: 0, 24: 0, 27: 0, 34: 0, 35: 0, 36: 0}


@pytest.fixture(scope="module")
def run() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("run")
    finally:
        sys.path.remove(str(FOLDER))


def test_every_statement_has_one_script(run: Any) -> None:
    numbers = sorted(number for one in run.STATEMENTS for number in one.numbers)
    assert numbers == list(range(1, 51))
    assert {one.section for one in run.STATEMENTS} == set(run.SECTIONS)


@pytest.mark.parametrize("number", QUICK)
def test_a_quick_statement(run: Any, number: int) -> None:
    one = next(one for one in run.STATEMENTS if number in one.numbers)
    finding = one.function(run.load("digits"))
    failed = [f"{claim.text}: {claim.measured}" for claim in finding.claims if not claim.holds]
    assert finding.claims and len(failed) == QUICK[number], failed


def test_the_pages_are_what_was_measured(run: Any, tmp_path: Path) -> None:
    shutil.copytree(DOCS / "lectures" / "results", tmp_path / "lectures" / "results")
    run.write(tmp_path)
    for name in ["statements.md", *(f"lectures/{section}.md" for section in run.SECTIONS)]:
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), f"{name}: run.py --pages writes it anew"


def test_every_statement_was_measured(run: Any) -> None:
    for path in (DOCS / "lectures" / "results").glob("*.json"):
        statements = json.loads(path.read_text())["statements"]
        wanted = {run.key(one) for one in run.STATEMENTS if one.on_data or path.stem == "digits"}
        assert statements.keys() <= wanted and (path.stem != "digits" or statements.keys() == wanted), path.name
        found = {claim["number"] for entry in statements.values() for claim in entry["claims"]}
        assert path.stem != "digits" or found == set(range(1, 51))
        for entry in statements.values():
            assert entry["claims"] and {claim["number"] for claim in entry["claims"]} <= set(range(1, 51))
            for name in entry.get("pictures", []):
                assert (DOCS / "lectures" / "pictures" / f"{path.stem}-{name}.png").is_file()
    assert (DOCS / "lectures" / "results" / "digits.json").is_file()


def test_the_search_for_a_digits_classifier(run: Any) -> None:
    """In small; at its size it takes minutes, and what it found stands in the results."""
    digits_99 = importlib.import_module("digits_99")
    found = digits_99.run(trials=(2, 1), epochs=(1, 2), folds=2, progress=False)
    assert [row.state for row in found.rows] == ["done"] * 3
    assert found.best.stage == "fine" and found.best.value > 0.5
    measured = json.loads((DOCS / "lectures" / "results" / "digits.json").read_text())["search"]
    assert measured["value"] >= 0.99


def test_arms_have_equal_budgets_and_are_chosen_on_validation_data(run: Any) -> None:
    import fastnn as fnn

    common = importlib.import_module("common")
    seen: list[tuple[str, int]] = []

    def build(name: str) -> Any:
        def made(seed: int) -> Any:
            seen.append((name, seed))
            return common.mlp([64, 8, 10], seed=seed)

        return made

    data = run.load("digits").flat()
    arms = common.compete({"a": build("a"), "b": build("b")}, data, rates=(1e-9, 0.1), epochs=2, seeds=(0, 1))
    assert [s for n, s in seen if n == "a"] == [s for n, s in seen if n == "b"] == [100, 101] * 2 + [0, 1]
    assert arms["a"].rate == 0.1 and arms["a"].test == arms["b"].test
    again = fnn.Trainer(arms["a"].models[0]).evaluate(*data.test)["accuracy"]
    assert again == arms["a"].test[0]
    assert not {x.tobytes() for x in data.test[0]} & {x.tobytes() for x in data.validation[0]}
    assert len(np.concatenate([y for _, y in (data.train, data.validation, data.test)])) == 1797

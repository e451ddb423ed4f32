"""The lectures' statements: all fifty have a script, the pages say what was measured, and the quick ones run here."""

from __future__ import annotations

import functools
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
    failed = [f"{claim.text}: {claim.measured}" for claim in finding.claims if claim.holds is not True]
    assert finding.claims and finding.brief and len(failed) == QUICK[number], failed


def test_the_pages_are_what_was_measured(run: Any, tmp_path: Path) -> None:
    shutil.copytree(DOCS / "lectures" / "results", tmp_path / "lectures" / "results")
    run.write(tmp_path)
    for name in ["statements.md", *(f"lectures/{section}.md" for section in run.SECTIONS)]:
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), f"{name}: run.py --pages writes it anew"


@pytest.mark.parametrize("data", ["digits", "mnist", "cifar10"])
def test_every_statement_was_measured_by_one_run(run: Any, data: str) -> None:
    result = json.loads((DOCS / "lectures" / "results" / f"{data}.json").read_text())
    statements = result["statements"]
    assert statements.keys() == {run.key(one) for one in run.STATEMENTS if one.on_data or data == "digits"}
    assert len(result["rows"]) == 3 and result["by"] and result["on"]
    assert "changed" not in result["by"], "the scripts had changes that no commit tells"
    for number, one in run.numbered():
        if one.on_data or data == "digits":
            claims = run.of(number, one, result)
            assert claims and all(claim["measured"] for claim in claims), number
            assert run.brief(number, one, result), number
    for entry in statements.values():
        for name in entry.get("pictures", []):
            assert (DOCS / "lectures" / "pictures" / f"{data}-{name}.png").is_file()


def test_no_picture_is_left_over() -> None:
    shown = "".join(path.read_text() for path in (DOCS / "lectures").glob("*.md"))
    for path in (DOCS / "lectures" / "pictures").iterdir():
        assert f"pictures/{path.name}" in shown, path.name


def test_what_does_it_in_fastnn_can_be_called(run: Any) -> None:
    import fastnn as fnn

    called = importlib.import_module("called").CALLED
    assert sorted(called) == list(range(1, 51))
    for number, names in called.items():
        assert names, number
        for name in names:
            assert callable(functools.reduce(getattr, name.split("."), fnn)) or name == "statistics", name


def test_a_difference_within_its_standard_error_is_not_told(run: Any) -> None:
    common = importlib.import_module("common")
    assert common.better([1.0, 1.1, 0.9], [0.0, 0.1, -0.1]) is True
    assert common.better([0.0, 0.1, -0.1], [1.0, 1.1, 0.9]) is False
    assert common.better([0.0, 1.0, 2.0], [0.1, 1.1, 2.1]) is None and common.better([1.0, 1.0], [1.0, 1.0]) is None
    # Var of a mean of n is var / n, and variances add: sqrt(1 / 3 + 1 / 3).
    assert common.error_of([0.0, 1.0, 2.0], [5.0, 6.0, 7.0]) == pytest.approx((2 / 3) ** 0.5)
    verdicts = {
        (True, True): "holds",
        (True, None): "in part",
        (False, None): "does not hold",
        (None,): "cannot be told",
    }
    assert {holds: common.verdict(list(holds)) for holds in verdicts} == verdicts


def test_epochs_to_a_target_are_counted_between_epochs(run: Any) -> None:
    from fastnn.training import History

    common = importlib.import_module("common")
    one = History(loss=[2.0, 1.0, 0.5])
    one.step_loss[:] = [4.0, 3.0]
    # An epoch's mean stands for its middle: 2.0 at 0.5, 1.0 at 1.5.
    assert [common.epochs_to(one, t) for t in (4.0, 3.0, 2.0, 1.5, 0.5, 0.4)] == [0.0, 0.25, 0.5, 1.0, 2.5, np.inf]


def test_claims_that_fail_somewhere_are_told_of_all_data_sets(run: Any) -> None:
    one = next(one for one in run.STATEMENTS if one.numbers == (33,))
    claims = {
        "digits": [("crops help (300 rows)", None), ("mixup helps (300 rows)", True)],
        "mnist": [("crops help (800 rows)", True), ("mixup helps (800 rows)", True)],
    }
    found = {
        data: {"statements": {"33": {"claims": [{"number": 33, "text": t, "holds": h} for t, h in some]}}}
        for data, some in claims.items()
    }
    assert run.differing(33, one, found) == [("crops help", {"digits": None, "mnist": True})]


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

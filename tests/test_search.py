"""Searches: what they draw, how ranges narrow and move, what happens to trials that fail, and sharing a storage."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn.errors import ShapeError
from fastnn.layers import Linear, ReLU, Sequential

optuna = pytest.importorskip("optuna", reason="a search needs Optuna")
pytest.importorskip("joblib", reason="a search on several processes needs joblib")

from fastnn import search  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 4)).astype(np.float32)
Y = (X @ np.array([1, -1, 2, 0.5]) > 0).astype(int)
DATA, VALIDATION = (X[:200], Y[:200]), (X[200:], Y[200:])
SHORT: dict[str, Any] = {"validation": VALIDATION, "epochs": 1, "progress": False}

BUILD = """
import os, sys, time
import numpy as np
import fastnn as fnn
from fastnn import search
from fastnn.layers import Linear, ReLU, Sequential

rng = np.random.default_rng(0)
x = rng.standard_normal((300, 4)).astype(np.float32)
y = (x @ np.array([1, -1, 2, 0.5]) > 0).astype(int)

def build(trial):
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    hidden = trial.suggest_int("hidden", 2, 32, log=True)
    time.sleep(float(os.environ.get("SLOW", "0")))
    model = Sequential(Linear(4, hidden, rng=trial.seed), ReLU(), Linear(hidden, 2, rng=trial.seed + 1))
    return fnn.Trainer(model, optimizer=fnn.optim.SGD(lr), rng=trial.seed)
"""


def build(trial: search.Trial) -> fnn.Trainer:
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    hidden = trial.suggest_int("hidden", 2, 32, log=True)
    model = Sequential(Linear(4, hidden, rng=trial.seed), ReLU(), Linear(hidden, 2, rng=trial.seed + 1))
    return fnn.Trainer(model, optimizer=fnn.optim.SGD(lr), rng=trial.seed)


def linear(trial: search.Trial, lr: float = 0.1) -> fnn.Trainer:
    return fnn.Trainer(Linear(4, 2, rng=trial.seed), optimizer=fnn.optim.SGD(lr), rng=trial.seed)


def told(result: search.Result) -> list[Any]:
    """What must not depend on who did the work: drawn values and scores, by place in the plan."""
    return sorted((row.stage, sorted(row.params.items()), row.value, row.state) for row in result.rows)


# ---- what is drawn ----


def test_random_draws_evenly_in_log_space() -> None:
    seen: list[float] = []

    def noting(trial: search.Trial) -> fnn.Trainer:
        seen.append(trial.suggest_float("lr", 1e-5, 1e-1, log=True))
        assert trial.suggest_float("lr", 1e-5, 1e-1, log=True) == seen[-1]
        return linear(trial)

    result = search.random(noting, (X[:8], Y[:8]), trials=120, **{**SHORT, "validation": (X[:4], Y[:4])})
    decades = np.floor(np.log10(seen)).astype(int)
    # A uniform draw puts 30 of 120 into each of four decades, with a standard deviation of 4.7.
    assert all(30 - 15 <= (decades == d).sum() <= 30 + 15 for d in (-5, -4, -3, -2))
    drawn = {row.params["lr"] for row in result.rows}
    assert [row.params["lr"] for row in result.rows] == seen
    again = search.random(noting, (X[:8], Y[:8]), trials=3, seed=1, **{**SHORT, "validation": (X[:4], Y[:4])})
    assert not {row.params["lr"] for row in again.rows} & drawn


def test_whole_numbers_steps_and_choices_stay_in_their_ranges() -> None:
    drawn: dict[str, set[Any]] = {"n": set(), "even": set(), "half": set(), "kind": set()}

    def noting(trial: search.Trial) -> fnn.Trainer:
        drawn["n"].add(trial.suggest_int("n", 1, 4, log=True))
        drawn["even"].add(trial.suggest_int("even", 2, 8, step=2))
        drawn["half"].add(trial.suggest_float("half", 0.0, 1.0, step=0.5))
        drawn["kind"].add(trial.suggest_categorical("kind", ["a", None, 3]))
        return linear(trial)

    search.random(noting, (X[:8], Y[:8]), trials=80, **{**SHORT, "validation": (X[:4], Y[:4])})
    assert drawn == {"n": {1, 2, 3, 4}, "even": {2, 4, 6, 8}, "half": {0.0, 0.5, 1.0}, "kind": {"a", None, 3}}


def test_grid_is_every_combination_with_both_ends() -> None:
    result = search.grid(build, DATA, points={"lr": 4, "hidden": [2, 8]}, **SHORT)
    places = [(row.params["lr"], row.params["hidden"]) for row in result.rows]
    expected = [(lr, h) for lr in (1e-4, 10 ** (-8 / 3), 10 ** (-4 / 3), 1.0) for h in (2, 8)]
    np.testing.assert_allclose(sorted(places), sorted(expected), rtol=1e-12)
    assert result.best.value == max(row.value for row in result.rows)


def test_each_fold_has_its_own_weights_and_every_row_is_scored_once() -> None:
    seeds, folds = [], []

    def noting(trial: search.Trial) -> fnn.Trainer:
        seeds.append(trial.seed)
        folds.append(trial.fold)
        return linear(trial)

    result = search.random(noting, DATA, trials=2, epochs=2, folds=4, progress=False)
    assert folds == [0, 1, 2, 3] * 2 and seeds[:4] == seeds[4:] and len(set(seeds)) == 4
    assert [len(row.folds) for row in result.rows] == [4, 4]
    assert result.best.value == pytest.approx(np.mean(result.best.folds), rel=1e-12)
    splits = search._splits(DATA, 4, 0)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(200))


# ---- coarse to fine, and ranges that move ----


def peaked(where: float, **within: Any) -> Any:
    """A build whose score falls with the distance of log10(lr) from ``where``."""

    class Scored(fnn.Trainer):
        def fit(self, *arguments: Any, **options: Any) -> Any:
            distance = abs(math.log10(self.lr_given) - where)
            run = fnn.training.History(loss=[distance], step_loss=[1.0], seconds=[0.0])
            run.val_accuracy, run.val_loss = [1.0 - distance / 10], [distance]
            return run

    def build(trial: search.Trial) -> fnn.Trainer:
        trainer = Scored(Linear(4, 2, rng=0), rng=0)
        trainer.lr_given = trial.suggest_float("lr", 1e-3, 1e-1, log=True, **within)
        return trainer

    return build


@pytest.mark.parametrize("kind", [search.random, search.grid])
def test_a_best_value_at_the_border_moves_the_range(kind: Any) -> None:
    options = {"trials": 20} if kind is search.random else {"points": 5}
    result = kind(peaked(-4.5), DATA, moves=3, **options, **SHORT)
    assert abs(math.log10(result.best_params["lr"]) + 4.5) < 0.3
    assert result.moved and "lr" in result.moved[0] and "border" in result.moved[0]
    low, high = result.best.ranges["lr"]
    assert low < 10**-4.5 < high < 0.1
    still = kind(peaked(-2.0), DATA, moves=3, **options, **SHORT)
    assert not still.moved and len(still.rows) == (20 if kind is search.random else 5)


def test_a_range_moves_no_further_than_it_may() -> None:
    result = search.grid(peaked(-6, within=(1e-4, 1)), DATA, points=5, moves=9, **SHORT)
    assert result.best_params["lr"] == 1e-4
    assert min(row.params["lr"] for row in result.rows) == 1e-4

    def fixed(trial: search.Trial) -> fnn.Trainer:
        return linear(trial, trial.suggest_float("lr", 0.0, 1e-3))

    assert not search.random(fixed, DATA, trials=8, moves=2, **SHORT).moved


def test_fine_looks_around_the_best_of_coarse() -> None:
    result = search.coarse_to_fine(
        peaked(-1.7), DATA, trials=(24, 8), epochs=(1, 3), validation=VALIDATION, progress=False
    )
    fine = [row for row in result.rows if row.stage.startswith("fine")]
    coarse = [row for row in result.rows if row.stage.startswith("coarse")]
    widths = [math.log10(r.ranges["lr"][1] / r.ranges["lr"][0]) for r in (coarse[0], fine[0])]
    assert widths[0] == pytest.approx(2) and 0.5 - 1e-9 <= widths[1] <= 1.0
    assert {row.epochs for row in coarse} == {1} and {row.epochs for row in fine} == {3}
    assert result.best in fine and abs(math.log10(result.best_params["lr"]) + 1.7) < 0.15
    text = str(result)
    assert text.splitlines()[1].split()[1] == "fine" and "coarse" in text


# ---- trials that go wrong ----


def test_what_explodes_is_pruned_and_what_crashes_does_not_stop_the_rest() -> None:
    def mixed(trial: search.Trial) -> fnn.Trainer:
        kind = trial.suggest_categorical("kind", ["good", "explodes", "infinite", "crashes"])
        if kind == "crashes":
            raise RuntimeError("out of luck")
        return linear(trial, {"good": 0.1, "explodes": 3e3, "infinite": 1e38}[kind])

    result = search.grid(mixed, DATA, **{**SHORT, "epochs": 4})
    rows = {row.params["kind"]: row for row in result.rows}
    assert [rows[k].state for k in ("good", "explodes", "infinite", "crashes")] == [
        "done",
        "pruned",
        "pruned",
        "failed",
    ]
    assert "3 times the first" in rows["explodes"].reason
    assert rows["crashes"].reason == "RuntimeError: out of luck" and math.isnan(rows["crashes"].value)
    assert result.best is rows["good"]
    assert "out of luck" in result.table()


def test_a_pruner_is_heard_between_epochs() -> None:
    result = search.grid(
        build,
        DATA,
        points={"lr": [1.0, 1e-4], "hidden": [8]},
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        **{**SHORT, "epochs": 6},
    )
    assert [row.state for row in result.rows] == ["done", "pruned"]
    assert len(result.rows[1].curves[0]) < 6


def test_nothing_came_to_an_end() -> None:
    def never(trial: search.Trial) -> fnn.Trainer:
        raise KeyError("none")

    result = search.random(never, DATA, trials=2, **SHORT)
    with pytest.raises(RuntimeError, match="KeyError: 'none'"):
        _ = result.best


def test_arguments_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either validation"):
        search.random(build, DATA)
    with pytest.raises(ValueError, match="either validation"):
        search.random(build, DATA, validation=VALIDATION, folds=3)
    with pytest.raises(ValueError, match="metric must be"):
        search.random(build, DATA, metric="f1", **SHORT)
    with pytest.raises(ValueError, match="trials of the random stage"):
        search.random(build, DATA, trials=0, **SHORT)
    with pytest.raises(TypeError, match="build must be a function"):
        search.random(None, DATA, **SHORT)  # type: ignore[arg-type]
    path = tmp_path / "one.journal"
    search.random(build, DATA, trials=1, storage=path, **SHORT)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        search.random(build, DATA, trials=1, storage=path, seed=1, **SHORT)
    failed = search.random(lambda trial: 3, DATA, trials=1, **SHORT)
    assert "must return a Trainer" in failed.rows[0].reason


# ---- several processes ----


def test_joblib_draws_and_scores_the_same() -> None:
    options: dict[str, Any] = {"trials": (4, 2), "epochs": (1, 2), "folds": 2, "progress": False}
    alone = search.coarse_to_fine(build, DATA, **options)
    shared = search.coarse_to_fine(build, DATA, jobs=2, **options)
    assert told(alone) == told(shared)
    assert shared.study.best_value  # the study outlives the file that the processes shared


def script(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BUILD + code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_several_processes_share_one_storage(kind: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "s.journal") if kind == "journal" else f"sqlite:///{tmp_path / 's.db'}"
    code = f"""
found = search.random(build, (x[:200], y[:200]), validation=(x[200:], y[200:]), trials=12, epochs=1,
                      storage={storage!r}, progress=False)
print(len(found.rows), found.best.number, repr(found.best.value))
"""
    processes = [script(code, SLOW="0.2") for _ in range(3)]
    out = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(e for _, e in out)
    assert len({text for text, _ in out}) == 1
    shared = search.random(build, DATA, trials=12, storage=storage, **SHORT)  # all is there already
    assert told(shared) == told(search.random(build, DATA, trials=12, **SHORT))
    trials = [t for t in shared.study.get_trials() if t.state.name == "COMPLETE"]
    assert len(trials) == 12
    assert len({t.user_attrs["fastnn"]["owner"][1] for t in trials}) == 3  # each had its share


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    code = f"""
search.random(build, (x[:200], y[:200]), validation=(x[200:], y[200:]), trials=6, epochs=1,
              storage={str(path)!r}, progress=False)
"""
    process = script(code, SLOW="0.3")
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count('"seconds"') >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.15)  # into the next one
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = search.random(build, DATA, trials=6, storage=path, **SHORT)
    assert told(result) == told(search.random(build, DATA, trials=6, **SHORT))
    owners = {t.user_attrs["fastnn"]["owner"][1] for t in result.study.get_trials() if t.state.name == "COMPLETE"}
    assert owners == {process.pid, os.getpid()}
    assert list(tmp_path.iterdir()) == [path]  # no lock is left to wait for


def test_a_process_that_dies_does_not_stop_the_rest() -> None:
    # A trial that kills its process is tried three times, and then given up.
    def deadly(trial: search.Trial) -> fnn.Trainer:
        if trial.suggest_categorical("kind", ["lives", "dies", "lives too"]) == "dies" and trial.seed:
            os._exit(1)
        return linear(trial)

    kinds = {"points": {"kind": ["lives", "dies", "lives too"]}}
    result = search.grid(deadly, DATA, jobs=2, **kinds, **SHORT)
    rows = {row.params.get("kind"): row for row in result.rows}
    assert rows["lives"].state == rows["lives too"].state == "done"
    assert rows["dies"].state == "failed" and "died 3 times" in rows["dies"].reason


def test_the_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = search.coarse_to_fine(build, DATA, trials=(4, 3), epochs=(1, 2), validation=VALIDATION, progress=False)
    assert result.plot(tmp_path / "search.png", title="A search").stat().st_size > 20_000


def test_the_best_is_built_again() -> None:
    result = search.random(build, DATA, trials=3, **SHORT)
    trainer = result.build()
    assert trainer.optimizer.lr == result.best_params["lr"]
    trainer.fit(DATA, epochs=1, progress=False)
    assert trainer.evaluate(*VALIDATION)["accuracy"] == result.best.value


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(fnn.MissingDependencyError, match=r"fastnn\[train\]"):
        search.random(build, DATA, **SHORT)


# ---- what does not fit is said before the first trial ----

ROWS = np.zeros((30, 4), np.float32), np.arange(30) % 3


def simple(trial: Any) -> Any:
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    return fnn.Trainer(fnn.layers.Linear(4, 3, rng=0), optimizer=fnn.optim.SGD(lr), rng=trial.seed)


def one_trial(build: Any = simple, data: Any = ROWS, **options: Any) -> Any:
    options = {"trials": 1, "epochs": 1, "moves": 0, "progress": False, "validation": ROWS, **options}
    return search.random(build, data, **options)


def on_grid(points: Any) -> Any:
    return search.grid(simple, ROWS, validation=ROWS, points=points, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one_trial(data=(ROWS[0][:0], ROWS[1][:0])), ShapeError, "data has no rows"),
        (lambda: one_trial(data=(ROWS[0], ROWS[1][:-1])), ShapeError, r"got x \(30, 4\) and y \(29,\)"),
        (lambda: one_trial(validation=(ROWS[0], ROWS[1][:-1])), ShapeError, "validation: one label for each row"),
        (lambda: one_trial(data=ROWS[0]), TypeError, r"data must be \(x, y\), got ndarray"),
        (lambda: one_trial(validation=None, folds=31), ValueError, "folds must be at most the 30 rows, got 31"),
        (lambda: on_grid({"rate": [1]}), ValueError, "points of 'rate', but build asks for lr"),
        (lambda: on_grid({"lr": [0.1, 5.0]}), ValueError, "points of 'lr' lie from 0.001 to 1, got 5"),
        (lambda: search.coarse_to_fine(simple, ROWS, validation=ROWS, trials=3), TypeError, "number for each stage"),
    ],
)
def test_what_does_not_fit(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "noise.journal").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"noise.journal' cannot be opened.*start anew"):
        one_trial(storage=tmp_path / "noise.journal")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        one_trial(storage=tmp_path / "no" / "search.journal")
    with pytest.raises(IsADirectoryError, match="give a file in it"):
        one_trial(storage=tmp_path)
    with pytest.raises(ValueError, match="cannot be opened"):
        one_trial(storage="bogus://search")


def test_a_database_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    (tmp_path / "noise.db").write_bytes(b"SQLite format 3\0" + bytes(range(128, 256)) * 40)
    with pytest.raises(ValueError, match=r"noise.db' cannot be opened.*DatabaseError"):
        one_trial(storage=f"sqlite:///{tmp_path}/noise.db")


def test_what_cannot_be_sent_to_other_processes() -> None:
    pytest.importorskip("joblib")
    lock = threading.Lock()

    def build(trial: Any) -> Any:
        with lock:
            return simple(trial)

    assert len(one_trial(build).rows) == 1  # here it can
    with pytest.raises(TypeError, match=r"cannot be sent to other processes.*jobs=1"):
        one_trial(build, jobs=2)


# ---- a storage that was cut, is full, or is that of another search ----


def stored(path: Any, build: Any = build, data: Any = DATA, **options: Any) -> search.Result:
    return search.random(build, data, storage=path, **{"trials": 3, **SHORT, **options})


def test_a_journal_that_was_cut_anywhere_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    whole = told(stored(path))
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    places = {1, 12, 20, len(content) - 1, *(end + k for end in ends[::12] for k in (-1, 0, 1, 30))}
    for place in sorted(places):
        if place >= len(content):
            continue
        path.write_bytes(content[:place])
        assert told(stored(path)) == whole
        assert told(stored(path)) == whole  # and the file is whole again
        assert path.read_bytes().endswith(b"\n")
    path.write_bytes(content + b"\0" * 700)  # as after a loss of power
    assert told(stored(path, trials=4))[:3] and path.read_bytes().count(b"\0") == 0


def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for content in (b"my notes, without an end", b"one line\nand another", b'{"a": 1}', b"{"):
        path.write_bytes(content)
        if content == b"{":  # how a journal of one byte looks
            stored(path)
            continue
        with pytest.raises(ValueError, match=r"notes.txt' cannot be opened.*move it away"):
            stored(path)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2}, r"epochs was \[1\] and is \[2\]"),
        ({"data": (X[:200] + 1, Y[:200])}, "data are others"),
        ({"validation": (X[200:], 1 - Y[200:])}, "validation are others"),
        ({"pruner": optuna.pruners.MedianPruner()}, "pruner was None and is 'MedianPruner'"),
    ],
)
def test_a_storage_of_another_search(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    before = told(stored(path))
    with pytest.raises(ValueError, match=f"holds another search named 'search': {message}; use name="):
        stored(path, **options)
    assert len(stored(path, name="another", **options).rows) == 3
    assert told(stored(path)) == before


def test_a_build_that_asks_for_something_else(tmp_path: Path) -> None:
    def wider(trial: search.Trial) -> fnn.Trainer:
        trial.suggest_int("hidden", 2, 32, log=True)
        return linear(trial, trial.suggest_float("lr", 1e-4, 10.0, log=True))

    def renamed(trial: search.Trial) -> fnn.Trainer:
        return linear(trial, trial.suggest_float("rate", 1e-4, 1.0, log=True))

    def fewer(trial: search.Trial) -> fnn.Trainer:
        return linear(trial, trial.suggest_float("lr", 1e-4, 1.0, log=True))

    path = tmp_path / "s.journal"
    stored(path)
    with pytest.raises(
        ValueError, match=r"'lr' was drawn from 0\.0001 to 1 in log space and is now 0\.0001 to 10 in log"
    ):
        stored(path, wider)
    with pytest.raises(ValueError, match="build asks for 'rate', which was not drawn"):
        stored(path, renamed)
    with pytest.raises(ValueError, match="'hidden' was drawn, and build does not ask for it"):
        stored(path, fewer)


def test_more_trials_and_fewer(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    stored(path)
    assert told(stored(path, trials=5)) == told(search.random(build, DATA, trials=5, **SHORT))
    assert told(stored(path, trials=2)) == told(search.random(build, DATA, trials=2, **SHORT))
    staged: dict[str, Any] = {"validation": VALIDATION, "epochs": (1, 2), "progress": False, "storage": path}
    search.coarse_to_fine(build, DATA, trials=(4, 2), moves=0, name="staged", **staged)
    with pytest.raises(ValueError, match="the ranges of its stage 'fine' were"):
        search.coarse_to_fine(build, DATA, trials=(9, 2), moves=0, name="staged", **staged)
    grid: dict[str, Any] = {"storage": path, "name": "grid", **SHORT}
    search.grid(build, DATA, points={"lr": [0.1, 1.0], "hidden": [8]}, **grid)
    with pytest.raises(ValueError, match="the points of its stage 'grid' were"):
        search.grid(build, DATA, points={"lr": [0.2, 1.0], "hidden": [8]}, **grid)


def test_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path / "s.journal"
    append, left = JournalFileBackend.append_logs, [25]

    def full(self: Any, logs: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            with open(path, "ab") as file:  # as much of the line as there was room for
                file.write(b'{"op_code":8,"wor')
            raise OSError(28, "No space left on device")
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(OSError, match=r"the storage of the search: No space left on device: .*s\.journal"):
        stored(path)
    with pytest.raises(OSError, match=r"search\.random: the storage of the search: No space left"):
        stored(path, name="another")
    monkeypatch.undo()
    assert told(stored(path)) == told(search.random(build, DATA, trials=3, **SHORT))


def test_what_keeps_a_database_from_being_opened_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    for url, why in (
        ("bogus://search", "no URL of a database that SQLAlchemy knows"),
        ("sqlite://", "no URL|cannot be"),
        ("postgresql+pg8000://host/search", "needs a package that is not installed"),
    ):
        if url == "sqlite://":  # a database in memory is one
            assert len(one_trial(storage=url).rows) == 1
            continue
        with pytest.raises(ValueError, match=why) as caught:
            one_trial(storage=url)
        assert "damaged" not in str(caught.value)


# ---- names that vary, and what is asked for in a wrong way ----


def varying(trial: search.Trial) -> fnn.Trainer:
    if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
        return linear(trial, trial.suggest_float("sgd lr", 1e-3, 1.0, log=True))
    if trial.fold == 1:
        trial.suggest_float("only in fold 1", 1.0, 2.0, within=(0.0, 9.0))
    return linear(trial, trial.suggest_float("adam lr", 1e-4, 0.1, log=True))


def test_names_may_vary_from_trial_to_trial(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options: dict[str, Any] = {"folds": 2, "moves": 2, "progress": False}
    found = search.coarse_to_fine(varying, DATA, trials=(6, 3), epochs=(1, 1), **options)
    assert {"sgd lr", "adam lr"} <= {name for row in found.rows for name in row.params}
    assert found.plot(tmp_path / "all.png").stat().st_size > 10_000
    one = search.random(varying, DATA, trials=1, epochs=1, **options)  # names without a single score
    assert one.plot(tmp_path / "one.png").stat().st_size > 5_000
    assert isinstance(found.build(fold=0)[0] if isinstance(found.build(), tuple) else found.build(), fnn.Trainer)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (
            lambda t: t.suggest_float("a", 0.0, math.inf),
            "ValueError: suggest_float: high of 'a' must be a finite number",
        ),
        (lambda t: t.suggest_float("a", math.nan, 1.0), "low of 'a' must be a finite number, got nan"),
        (lambda t: t.suggest_float("a", "0", 1.0), "low of 'a' must be a finite number, got '0'"),
        (
            lambda t: t.suggest_float("a", 0.0, 1.0, log=True),
            "'a' is drawn in log space, from above 0 up, got 0.0 to 1.0",
        ),
        (lambda t: t.suggest_float("a", 2.0, 1.0), "'a' is drawn from low up to high, got 2.0 to 1.0"),
        (lambda t: t.suggest_float("a", 0.0, 1.0, step=0), "step of 'a' must be above 0, got 0"),
        (lambda t: t.suggest_float("a", 0.0, 1.0, within=(0.5, 2.0)), "must hold its range"),
        (lambda t: t.suggest_int("a", 1, 2.5), "high of 'a' must be a whole number, got 2.5; numbers with a fraction"),
        (lambda t: t.suggest_int("a", True, 2), "low of 'a' must be a whole number, got True"),
        (
            lambda t: t.suggest_categorical("a", [(1, 2), (3, 4)]),
            "choices of 'a' must be numbers, texts, booleans or None",
        ),
        (lambda t: t.suggest_categorical("a", []), "'a' has no choices"),
    ],
)
def test_what_is_asked_for_in_a_wrong_way(ask: Any, reason: str) -> None:
    def asking(trial: search.Trial) -> fnn.Trainer:
        ask(trial)
        return linear(trial)

    found = search.random(asking, DATA, trials=2, **SHORT)
    assert [row.state for row in found.rows] == ["failed"] * 2 and reason in found.rows[0].reason
    assert str(found).count(reason) == 2 and "failed: as trial 0" in str(found)  # in the table, and at its end


def test_numbers_of_numpy_may_be_asked_for() -> None:
    def asking(trial: search.Trial) -> fnn.Trainer:
        assert trial.suggest_int("n", np.int64(1), np.int64(3)) in (1, 2, 3)
        assert type(trial.suggest_categorical("c", np.array([16, 32]))) is int
        return linear(trial, trial.suggest_float("lr", np.float32(0.1), np.float64(0.2)))

    assert search.random(asking, DATA, trials=1, **SHORT).rows[0].state == "done"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one_trial(fold=3), TypeError, "search.random: no option 'fold'; did you mean folds"),
        (lambda: one_trial(points=3), TypeError, "search.random: no option 'points'; there are validation, folds"),
        (lambda: one_trial(validation=None, folds=1), ValueError, "folds must be a whole number of at least 2, got 1"),
        (
            lambda: one_trial(validation=None, folds=2.5),
            ValueError,
            "folds must be a whole number of at least 2, got 2.5",
        ),
        (lambda: one_trial(validation=None, folds=11), ValueError, "folds must be at most 10, the rows of the largest"),
        (lambda: one_trial(trials=2.5), ValueError, "trials of the random stage must be a whole number of at least 1"),
        (lambda: one_trial(epochs="3"), ValueError, "epochs of the random stage must be a whole number"),
        (lambda: one_trial(moves=-1), ValueError, "moves must be a whole number of at least 0"),
        (lambda: one_trial(seed=-1), ValueError, "seed must be a whole number of at least 0"),
        (lambda: one_trial(pruner="median"), TypeError, "pruner must be one of optuna.pruners, got 'median'"),
        (lambda: one_trial(progress=7), TypeError, "progress must be True, False or None, got 7"),
        (lambda: one_trial(name=""), ValueError, "name must be a text"),
        (lambda: on_grid(0), ValueError, "search.grid: points must be at least 1, got 0"),
        (lambda: on_grid({"lr": 0}), ValueError, "search.grid: points of 'lr' must be at least 1, got 0"),
        (lambda: on_grid(2.5), TypeError, "points must be a whole number, or a mapping of names to points, got 2.5"),
        (lambda: on_grid({"lr": "abc"}), TypeError, "points of 'lr' must be a whole number, or a list of values"),
        (lambda: on_grid({"lr": []}), TypeError, "points of 'lr' must be a whole number, or a list of values"),
        (lambda: on_grid({"lr": ["a"]}), ValueError, "points of 'lr' must be numbers, got 'a'"),
    ],
)
def test_options_that_do_not_fit(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_class_of_fewer_rows_than_folds_is_scored_where_it_is() -> None:
    y = np.zeros(30, int)
    y[:2] = 1
    assert one_trial(data=(ROWS[0], y), validation=None, folds=5).rows[0].state == "done"


def test_points_of_choices_are_among_them() -> None:
    def choosing(trial: search.Trial) -> fnn.Trainer:
        trial.suggest_categorical("kind", ["a", "b"])
        return linear(trial)

    assert len(search.grid(choosing, DATA, points={"kind": ["b"]}, **SHORT).rows) == 1
    assert len(search.grid(choosing, DATA, points=np.int64(2), **SHORT).rows) == 2
    with pytest.raises(ValueError, match=r"points of 'kind' must be among \['a', 'b'\], got 'c'"):
        search.grid(choosing, DATA, points={"kind": ["b", "c"]}, **SHORT)


def test_a_grid_goes_on_where_build_fails() -> None:
    def sometimes(trial: search.Trial) -> fnn.Trainer:
        width = trial.suggest_int("width", 1, 3)
        if width == 2:
            raise MemoryError("too wide\nby far")
        return linear(trial, trial.suggest_float("lr", 0.1, 0.2))

    found = search.grid(sometimes, DATA, points={"width": 3, "lr": 2}, **SHORT)
    assert [(row.params["width"], row.state) for row in found.rows if row.state == "done"] == [
        (width, "done") for width in (1, 1, 3, 3)
    ]
    assert sum("MemoryError: too wide" in row.reason for row in found.rows) == 2
    assert all("by far" not in line or "too wide" in line for line in found.table().splitlines())

    def never(trial: search.Trial) -> fnn.Trainer:
        raise KeyError("width")

    with pytest.raises(RuntimeError, match=r"search\.grid: what build asks for is not known.*KeyError: 'width'"):
        search.grid(never, DATA, **SHORT)

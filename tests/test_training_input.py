"""What training and its tools say to data that does not fit: the rule, what came, a fix, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn import augment, checks, ensemble
from fastnn.errors import ShapeError
from fastnn.layers import BatchNorm1d, Linear, ReLU, Sequential
from fastnn.optim import SGD

RNG = np.random.default_rng(0)
X = RNG.standard_normal((100, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 100)
LATE = np.where(np.arange(100) == 70, 3, Y)
NAMES = np.array(["cat", "dog", "eel"])[Y]


def net() -> Sequential:
    return Sequential(Linear(6, 8, rng=0), BatchNorm1d(8), ReLU(), Linear(8, 3, rng=1))


def trainer() -> fnn.Trainer:
    return fnn.Trainer(net(), optimizer=SGD(lr=0.1, momentum=0.9), rng=0)


def fit(x: Any = X, y: Any = Y, **options: Any) -> Callable[[fnn.Trainer], Any]:
    return lambda one: one.fit((x, y), batch_size=10, progress=False, **options)


REFUSED: dict[str, tuple[Callable[[fnn.Trainer], Any], type[Exception], str]] = {
    "no rows": (fit(X[:0], Y[:0]), ShapeError, "there are no rows to train on"),
    "one label too few": (fit(X, Y[:-1]), ShapeError, r"one label for each row of x, got x \(100, 6\) and y \(99,\)"),
    "a class too high, in row 70": (fit(y=LATE), ValueError, "label 3 of row 70 is out of range"),
    "a class below 0": (fit(y=-Y), ValueError, "label -"),
    "float classes": (fit(y=Y.astype(float)), TypeError, r"labels have dtype float64.*labels.astype\(int\)"),
    "names": (fit(y=NAMES), TypeError, r"labels have dtype <U3.*numpy.unique\(labels, return_inverse=True\)"),
    "a column of classes": (fit(y=Y[:, None]), ShapeError, r"of classes give labels.ravel\(\)"),
    "a class too high to validate": (fit(validation=(X, LATE)), ValueError, "label 3 of row 70"),
    "validation that is no pair": (fit(validation=X), TypeError, r"validation must be \(x, y\), got ndarray"),
    "validation of three": (fit(validation=(X, Y, Y)), TypeError, r"validation must be \(x, y\), got 3 parts"),
    "data that is no pair": (lambda one: one.fit(X), TypeError, r"data must be \(x, y\), got ndarray"),
    "data of three": (lambda one: one.fit((X, Y, Y)), TypeError, r"data must be \(x, y\), got 3 parts"),
    "a schedule without a number": (fit(schedule=lambda share: None), ValueError, "schedule must give a number.*None"),
    "a schedule that gives NaN": (fit(schedule=lambda share: np.nan), ValueError, "schedule must give a number.*nan"),
    "augment without labels": (fit(augment=lambda x, y, rng: x), TypeError, r"augment must return \(x, y\)"),
    "augment of another width": (fit(augment=lambda x, y, rng: (x[:, :3], y)), ShapeError, r"expected \(N, 6\)"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_changes_nothing(
    call: Callable[[fnn.Trainer], Any], error: type[Exception], message: str
) -> None:
    one = trainer()
    before = {name: array.copy() for name, array in one.model.state().items()}
    with pytest.raises(error, match=message):
        call(one)
    assert one.steps == 0
    for name, array in one.model.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_the_same_data_in_other_clothes_trains_alike() -> None:
    """Read-only, Fortran order, lists, reversed views: the same bits. float16 holds fewer bits of x to begin with."""
    locked, labels = X.copy(), Y.astype(np.uint8)
    locked.flags.writeable = labels.flags.writeable = False
    want = fit()(trainer()).loss
    for x, y in (
        (locked, labels),
        (np.asfortranarray(X), Y.astype(">i4")),
        (X.tolist(), Y.tolist()),
        (X[::-1].copy()[::-1], Y[::-1].copy()[::-1]),
    ):
        assert fit(x, y)(trainer()).loss == want
    half = X.astype(np.float16)
    assert fit(half)(trainer()).loss == fit(half.astype(np.float32))(trainer()).loss
    # One-hot rows are probabilities: the same mean, summed in another way.
    np.testing.assert_allclose(fit(y=np.eye(3)[Y])(trainer()).loss, want, rtol=1e-6)


def test_one_row_and_one_class_train() -> None:
    model = Sequential(Linear(6, 8, rng=0), ReLU(), Linear(8, 3, rng=1))
    assert np.isfinite(fnn.Trainer(model, rng=0).fit((X[:1], Y[:1]), progress=False).loss).all()
    assert np.isfinite(fit(y=0 * Y)(trainer()).loss).all()


def test_monitors_may_be_none() -> None:
    assert len(fit(monitors=None)(trainer())) == 1


def test_an_augmentation_may_take_other_images_than_the_model() -> None:
    """So the data are not tried on the model beforehand."""
    half = lambda x, y, rng: (x[:, :6], y)  # noqa: E731
    assert len(fit(np.tile(X, 2), augment=half)(trainer())) == 1


def test_an_interrupted_run_leaves_a_trainer_that_goes_on(tmp_path: Any) -> None:
    def interrupt(run: Any) -> None:
        if run.epoch == 2:
            raise KeyboardInterrupt

    one, stopping = trainer(), fnn.monitors.EarlyStopping(metric="loss")
    watching = [stopping, fnn.monitors.CSVLog(tmp_path / "run.csv"), fnn.monitors.Checkpoint(tmp_path / "run.npz")]
    with pytest.raises(KeyboardInterrupt):
        one.fit((X, Y), epochs=9, batch_size=10, monitors=[*watching, interrupt], progress=False)
    assert len((tmp_path / "run.csv").read_text().splitlines()) >= 2
    kept = fnn.load_state(tmp_path / "run.npz")
    assert kept.keys() == one.model.state().keys()
    shorter = trainer()
    fit(epochs=stopping.best_epoch)(shorter)
    for name, array in shorter.model.state().items():
        np.testing.assert_array_equal(one.model.state()[name], array)
    assert np.isfinite(fit()(one).loss).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": (X, Y + 5)}, ValueError, "Trainer.fit: validation: label .* is out of range for scores with"),
        ({"validation": (X[:, :5], Y)}, ShapeError, r"Trainer.fit: validation: layer .* got \(100, 5\)"),
        ({"validation": (X, np.eye(5)[Y])}, ShapeError, r"validation: probabilities must have the shape of scores"),
        ({"validation": (X, Y.astype(float))}, TypeError, "Trainer.fit: validation: labels have dtype float64"),
        ({"shuffle": "no"}, TypeError, "shuffle must be True or False, got 'no'"),
        ({"progress": 7}, TypeError, "progress must be True, False, None or a text, got 7"),
    ],
)
def test_validation_that_does_not_fit_is_named_before_any_step(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    one = trainer()
    with pytest.raises(error, match=message):
        one.fit((X, Y), **{"progress": False, **options})
    assert one.steps == 0


OTHERS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "statistics of no rows": (lambda: fnn.statistics(net(), X[:0]), ShapeError, r"no rows, its shape is \(0, 6\)"),
    "statistics of words": (lambda: fnn.statistics(net(), X.astype(str)), TypeError, "statistics: x has dtype <U32"),
    "statistics of complex numbers": (lambda: fnn.statistics(net(), X + 1j), TypeError, "x has dtype complex64"),
    "gradcheck of no rows": (lambda: fnn.gradcheck(net(), X[:0]), ShapeError, "empty: there is nothing to compare"),
    "gradcheck of a number": (lambda: fnn.gradcheck(lambda x: x.sum(), X), TypeError, r"must return \(loss, dx\)"),
    "compare with nothing": (lambda: fnn.compare({"a": None}), TypeError, "'a' needs a History"),  # type: ignore[dict-item]
    "a target that is no number": (
        lambda: fnn.compare({"a": fit()(trainer())}, target=np.nan),
        ValueError,
        "target must be a number",
    ),
    "an ensemble of other classes": (
        lambda: ensemble.Ensemble([Linear(6, 3, rng=0), Linear(6, 4, rng=0)])(X),
        ShapeError,
        r"model 1 answers \(100, 4\), the ones before it \(100, 3\)",
    ),
    "Mixup of other classes": (
        lambda: augment.Mixup(0.2, classes=3)(np.ones((4, 1, 2, 2)), np.eye(5)[:4], rng=0),
        ShapeError,
        r"probabilities \(4, 5\) for 3 classes",
    ),
    "the doctor with names": (lambda: checks.doctor(net(), X, NAMES), TypeError, "labels have dtype <U3"),
    "the doctor with one row": (lambda: checks.doctor(net(), X[:1], Y[:1]), ShapeError, "20 rows or more, got 1"),
}


@pytest.mark.parametrize(("call", "error", "message"), OTHERS.values(), ids=OTHERS)
def test_what_the_tools_refuse(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()

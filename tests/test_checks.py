"""The doctor: a healthy net passes every check, and of one planted illness the check that names it fails alone."""

from __future__ import annotations

import html.parser
import inspect
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn import checks, init, preprocess
from fastnn.errors import ShapeError
from fastnn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Graph,
    Identity,
    Join,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from fastnn.optim import SGD, Adam
from fastnn.regularization import L2

datasets = pytest.importorskip("sklearn.datasets", reason="the patients learn scikit-learn's digits")
DIGITS = datasets.load_digits()
X = (DIGITS.data / 16).astype(np.float32)
Y = DIGITS.target
IMAGES = X.reshape(-1, 1, 8, 8)

Patient = tuple[Layer, Any, Any, dict[str, Any]]


def mlp(*, act: type[Layer] = ReLU, depth: int = 2, width: int = 64, **options: Any) -> Sequential:
    rng = np.random.default_rng(0)
    sizes = [64] + [width] * depth
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (Linear(a, b, rng=rng), act())]
    return Sequential(*hidden, Linear(width, 10, rng=rng))


def scaled(model: Sequential, factor: float, *names: str) -> Sequential:
    for name, array in model.params.items():
        if name in names or (not names and array.ndim > 1):
            array *= factor
    return model


def small_init(model: Sequential, std: float) -> Sequential:
    rng = np.random.default_rng(1)
    for array in model.params.values():
        if array.ndim > 1:
            array[...] = init.normal(array.shape, std=std, rng=rng)
    return model


def plain(model: Layer, **options: Any) -> Patient:
    return model, X, Y, {"optimizer": SGD(0.05, momentum=0.9), **options}


# ---- healthy ----


def conv_net() -> Layer:
    rng = np.random.default_rng(0)
    return Sequential(
        Conv2d(1, 16, 3, padding=1, bias=False, rng=rng),
        BatchNorm2d(16),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.3),
        Linear(256, 10, rng=rng),
    )


def residual_net() -> Layer:
    rng = np.random.default_rng(0)

    def block() -> Residual:
        last = Conv2d(12, 12, 3, padding=1, rng=rng)
        last.weight[...] = 0
        return Residual(Sequential(Conv2d(12, 12, 3, padding=1, rng=rng), ReLU(), last), Identity())

    head = Linear(12, 10, rng=rng)
    return Sequential(
        Conv2d(1, 12, 3, padding=1, rng=rng), block(), ReLU(), block(), ReLU(), GlobalAvgPool2d(), Flatten(), head
    )


def regression() -> Patient:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 5)).astype(np.float32)
    y = np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    model = Sequential(Linear(5, 32, rng=0), Tanh(), Linear(32, 1, rng=1))
    return model, x, y.astype(np.float32), {"loss": "mse", "optimizer": SGD(0.05, momentum=0.9)}


HEALTHY: dict[str, Callable[[], Patient]] = {
    "relu": lambda: plain(mlp()),
    "tanh, Xavier": lambda: plain(scaled(mlp(act=Tanh), math.sqrt(0.5))),
    "Adam, L2": lambda: plain(mlp(), optimizer=Adam(1e-3), regularization=L2(1e-4)),
    "hinge": lambda: plain(mlp(), loss="hinge", optimizer=SGD(0.01, momentum=0.9)),
    "convolutions": lambda: (conv_net(), IMAGES, Y, {"optimizer": Adam(3e-3)}),
    "residual, last layers zero": lambda: (residual_net(), IMAGES, Y, {"optimizer": Adam(3e-3)}),
    "last layer zero": lambda: plain(scaled(mlp(), 0.0, "4.weight")),
    "regression": regression,
    "float64": lambda: (mlp().copy(np.float64), X.astype(np.float64), Y, {"optimizer": SGD(0.05, momentum=0.9)}),
    "probabilities as labels": lambda: (mlp(), X, np.eye(10, dtype=np.float32)[Y], {"optimizer": Adam(1e-3)}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_net_passes(name: str) -> None:
    model, x, y, options = HEALTHY[name]()
    before = model.state()
    report = checks.doctor(model, x, y, **options)
    assert report.ok, str(report)
    assert bool(report) and "FAILS" not in str(report)
    assert [check.name for check in report.checks] == checks.names()
    for check in report:
        assert check.verdict and (check.ok is None or math.isfinite(check.value) or check.name == "inputs"), check
    for key, array in model.state().items():
        np.testing.assert_array_equal(array, before[key])


# ---- one planted illness each ----


class WrongSign(Layer):
    """A layer whose author forgot a sign."""

    def __call__(self, x: Any) -> Any:
        return -x

    def forward(self, x: Any, rng: Any = None) -> Any:
        return -x, lambda dy: dy

    def output_shape(self, shape: Any) -> Any:
        return shape


def wrong_gradient() -> Patient:
    model = Sequential(Linear(64, 32, rng=0), WrongSign(), ReLU(), Linear(32, 10, rng=1))
    return plain(model)


def with_nan() -> Patient:
    x = X.copy()
    x[5, 3] = np.nan
    return mlp(), x, Y, {}


def dying() -> Patient:
    model = mlp()
    model["0"].bias[...] = -10
    return plain(model)


def twice_the_same() -> Patient:
    x = np.repeat(X[:60], 4, axis=0) * 0 + X[:1]  # one image, many labels
    rng = np.random.default_rng(0)
    return mlp(), x + 0 * rng.random(1).astype(np.float32), Y[:240], {"validation": (X[240:], Y[240:])}


def lagging() -> Patient:
    model = Sequential(Linear(64, 64, rng=0), BatchNorm1d(64, momentum=1e-5), ReLU(), Linear(64, 10, rng=1))
    scaled(model, 5.0, "0.weight")
    return plain(model)


def frozen_by_size() -> Patient:
    model = Sequential(Linear(64, 64, rng=0), BatchNorm1d(64), ReLU(), Linear(64, 10, rng=1))
    return plain(scaled(model, 300.0, "0.weight"))


def few_rows() -> Patient:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(X), 200)).astype(np.float32)
    x = np.concatenate([X, 2 * noise], axis=1)
    model = Sequential(Linear(264, 64, rng=0), ReLU(), Linear(64, 10, rng=1))
    return model, x[:300], Y[:300], {"validation": (x[300:900], Y[300:900]), "optimizer": SGD(0.05, momentum=0.9)}


def other_validation() -> Patient:
    return plain(mlp(), validation=(16 * X[:400, ::-1], Y[:400]))


def shuffled() -> Patient:
    return mlp(), X, np.random.default_rng(0).permutation(Y), {"optimizer": SGD(0.05, momentum=0.9)}


def bottleneck() -> Patient:
    rng = np.random.default_rng(0)
    return plain(Sequential(Linear(64, 1, rng=rng), Tanh(), Linear(1, 10, rng=rng)), optimizer=SGD(0.02))


def leaked() -> Patient:
    """The label is part of the input, and the weights know it."""
    model = Linear(10, 10, rng=0)
    model.weight[...] = 10 * np.eye(10)
    return model, np.eye(10, dtype=np.float32)[Y] + 0.05 * X[:, :10], Y, {"optimizer": SGD(0.05)}


def cancelled() -> Patient:
    """A penalty that finds only zeros."""
    model = mlp()
    return plain(model, regularization=L2(0.1, on=("0.bias",)))


ILL: dict[str, tuple[str, Callable[[], Patient]]] = {
    "raw pixels": ("inputs", lambda: (mlp(), 255 * X, Y, {})),
    "tiny input": ("inputs", lambda: (mlp(), 1e-4 * X, Y, {})),
    "NaN in x": ("inputs", with_nan),
    "shuffled labels": ("shuffled_labels", shuffled),
    "a wrong sign in a backward pass": ("gradients", wrong_gradient),
    "all weights zero": ("symmetry", lambda: plain(scaled(mlp(), 0.0))),
    "all weights equal": ("symmetry", lambda: plain(scaled(mlp(), 0.0, "0.weight", "2.weight"))),
    "negative biases": ("dead_units", dying),
    "tanh with weights of 1.0": ("saturated_units", lambda: plain(small_init(mlp(act=Tanh, depth=4), 1.0))),
    "ten layers of tanh at 0.01": ("vanishing_gradients", lambda: plain(small_init(mlp(act=Tanh, depth=10), 0.01))),
    "eight layers of sigmoid": ("vanishing_gradients", lambda: plain(mlp(act=Sigmoid, depth=8))),
    "ten layers of relu at 1.0": ("exploding_gradients", lambda: plain(small_init(mlp(depth=10), 1.0))),
    "a large last layer": ("initial_loss", lambda: plain(scaled(mlp(), 30.0, "4.weight"))),
    "a leaked label": ("initial_loss", leaked),
    "a penalty on nothing": ("regularization_raises_loss", cancelled),
    "a penalty of 10": ("regularization_raises_loss", lambda: plain(mlp(), regularization=L2(10.0))),
    "one unit wide": ("overfits", bottleneck),
    "rate 1e-7": ("rate_too_low", lambda: plain(mlp(), optimizer=SGD(1e-7, momentum=0.9))),
    "rate 1e-8, Adam": ("rate_too_low", lambda: plain(mlp(), optimizer=Adam(1e-8))),
    "rate 10": ("rate_too_high", lambda: plain(mlp(), optimizer=SGD(10.0, momentum=0.9))),
    "rate 1, Adam": ("rate_too_high", lambda: plain(mlp(), optimizer=Adam(1.0))),
    "huge weights before batch norm": ("update_ratio", frozen_by_size),
    "running statistics that lag": ("inference_differs", lagging),
    "few rows and much noise": ("gap", few_rows),
    "validation prepared otherwise": ("gap", other_validation),
}


@pytest.mark.parametrize("illness", ILL)
def test_the_failing_check_is_the_one_that_names_the_illness(illness: str) -> None:
    name, make = ILL[illness]
    model, x, y, options = make()
    report = checks.doctor(model, x, y, **options)
    assert [check.name for check in report.failed] == [name], str(report)
    failed = report[name]
    assert not report and failed.hint and failed.verdict
    assert failed.hint in str(report)


def test_every_check_has_an_illness() -> None:
    assert {name for name, _ in ILL.values()} == set(checks.names())


# ---- the numbers ----


def test_initial_loss_is_that_of_a_guess() -> None:
    for classes in (2, 7):
        model = Linear(64, classes, rng=0)
        model.weight[...] = 0
        check = checks.initial_loss(model, X, Y % classes)
        assert check.numbers["loss"] == pytest.approx(math.log(classes), rel=1e-6)
        assert check.numbers["expected"] == pytest.approx(math.log(classes), rel=1e-12)
        check = checks.initial_loss(model, X, Y % classes, loss="hinge")
        assert check.ok and check.numbers["expected"] == classes - 1


def test_the_penalty_is_what_it_adds() -> None:
    model = mlp()
    check = checks.regularization_raises_loss(model, X, Y, regularization=L2(0.02))
    expected = 0.01 * sum(float((a.astype(np.float64) ** 2).sum()) for a in model.params.values() if a.ndim > 1)
    assert check.value == pytest.approx(expected, rel=1e-6)


def test_the_range_test_suggests_a_rate_that_trains() -> None:
    found = checks.rate_too_low(mlp(), X, Y, optimizer=SGD(1e-6))
    suggestion = found.numbers["suggestion"]
    assert found.ok is False and 1e-3 < suggestion < 1
    assert checks.rate_too_low(mlp(), X, Y, optimizer=SGD(suggestion)).ok
    assert checks.rate_too_high(mlp(), X, Y, optimizer=SGD(suggestion)).ok
    rates, seen = found.curves["range test"]
    assert rates == sorted(rates) and min(seen) < seen[0]


def test_an_explosion_is_told_by_its_height() -> None:
    # At a rate far too high the loss may explode and come back: "from 2.5 to 2.3" would be no explosion.
    found = [checks.rate_too_high(mlp(depth=1), X, Y, optimizer=SGD(lr, momentum=0.9)) for lr in (1, 2, 4, 8, 16)]
    told = [check for check in found if "explodes" in check.verdict and math.isfinite(check.value)]
    assert told
    for check in told:
        peak = float(check.verdict.partition("explodes, to ")[2].partition(" on its way")[0])
        assert peak == pytest.approx(check.value * check.numbers["first loss"], rel=1e-2)
        assert peak > 3 * check.numbers["first loss"]


def test_update_ratios_are_those_of_the_step() -> None:
    model = mlp(depth=1)
    check = checks.update_ratio(model, X, Y, optimizer=SGD(0.01), steps=3)
    _, values = next(iter(check.curves.values()))
    name = next(iter(check.curves))
    twin = model.copy()
    trainer = fnn.Trainer(twin, optimizer=SGD(0.01), rng=0)
    x, y = checks._Patient(model, X, Y).train
    rows = trainer._order(len(x) // 64 * 64)[:64]
    before = twin.params[name].copy()
    trainer.step(x[rows], y[rows])
    change = np.linalg.norm(twin.params[name] - before) / np.linalg.norm(before)
    assert values[0] == pytest.approx(change, rel=1e-5)


def test_bad_arguments_are_said_before_any_work() -> None:
    with pytest.raises(fnn.ShapeError, match="one label for each row"):
        checks.doctor(mlp(), X, Y[:5])
    with pytest.raises(fnn.ShapeError, match="20 rows"):
        checks.doctor(mlp(), X[:5], Y[:5])
    with pytest.raises(fnn.ShapeError, match="Linear 64->64"):
        checks.doctor(mlp(), X[:, :5], Y)
    with pytest.raises(TypeError, match="expected a model"):
        checks.doctor("net", X, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        checks.doctor(mlp(), X, Y, steps=0)
    with pytest.raises(ValueError, match="label"):
        checks.doctor(mlp(), X, Y + 5)


# ---- the page and the command ----


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_everything_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, x, y, options = ILL["rate 10"][1]()
    report = checks.doctor(model, x, y, **options)
    text = report.save(tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    pictures = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 5 and all(src.startswith("data:image/png;base64,") for src in pictures)
    assert not any(
        key in ("href", "src") and not (value or "").startswith("data:")
        for _, a in page.tags
        for key, value in a.items()
    )
    for check in report:
        assert check.name in text
    assert "1 of" in text and "rate_too_high" in text and report["rate_too_high"].hint in text
    assert report["overfits"].plot(tmp_path / "one.png").stat().st_size > 5000


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    script = tmp_path / "patient.py"
    script.write_text(
        "import numpy as np, fastnn as fnn\nfrom fastnn.layers import *\nfrom sklearn.datasets import load_digits\n"
        "d = load_digits()\nx, y = (d.data / 16).astype(np.float32), d.target\n"
        "model = Sequential(Linear(64, 32, rng=0), ReLU(), Linear(32, 10, rng=1))\n"
        "optimizer = fnn.optim.SGD(1e-8)\n"
    )
    command = [sys.executable, "-P", "-m", "fastnn", "doctor", str(script), "--output", str(tmp_path / "r.html")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and re.search(r"rate_too_low +FAILS", result.stdout), result.stderr
    assert (tmp_path / "r.html").stat().st_size > 50_000
    script.write_text("x = 3\n")
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "does not define model, y" in result.stderr


# ---- models of several inputs ----


def two_inputs() -> Graph:
    """The upper half of a digit as an image, the lower half as a row."""
    rng = np.random.default_rng(0)
    return Graph(
        ("conv", Conv2d(1, 8, 3, padding=1, rng=rng), "upper"),
        ("act", ReLU(), "conv"),
        ("flat", Flatten(), "act"),
        ("joined", Join(), "flat", "lower"),
        ("hidden", Linear(8 * 32 + 32, 64, rng=rng), "joined"),
        ("relu", ReLU(), "hidden"),
        ("scores", Linear(64, 10, rng=rng), "relu"),
        inputs=("upper", "lower"),
    )


def halves(x: Any = X) -> tuple[Any, Any]:
    return x[:, :32].reshape(-1, 1, 4, 8) - np.float32(0.3), x[:, 32:] - np.float32(0.3)


def test_a_model_of_several_inputs_is_looked_at(tmp_path: Path) -> None:
    model = two_inputs()
    before = model.state()
    report = checks.doctor(model, halves(), Y, optimizer=Adam(0.003), steps=60)
    assert report.ok and all(check.ok for check in report if check.name not in ("saturated_units",)), str(report)
    assert report["inputs"].verdict.startswith(("input 0: ", "input 1: "))
    assert "Conv2d" in report.model and "(1, 8, 4, 8)" in report.model
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_ill_one_of_several_inputs_is_named() -> None:
    upper, lower = halves()
    found = checks.inputs(two_inputs(), (upper, 255 * lower), Y)
    assert found.ok is False and found.verdict.startswith("input 1: too large")
    spoiled = upper.copy()
    spoiled[3, 0, 0, 0] = np.nan
    report = checks.doctor(two_inputs(), (spoiled, lower), Y, steps=20)
    assert [check.name for check in report.failed] == ["inputs"]
    assert report["inputs"].verdict.startswith("input 0: 1 of ")


def test_what_does_not_fit_is_said_before_any_work() -> None:
    upper, lower = halves()
    with pytest.raises(ShapeError, match=r"got x \(1797, 1, 4, 8\), \(1796, 32\) and y \(1797,\)"):
        checks.doctor(two_inputs(), (upper, lower[:-1]), Y)
    with pytest.raises(TypeError, match="a model of several outputs is not looked at"):
        checks.doctor(two_inputs(), (upper, lower), (Y, Y))
    split = Graph(("a", Linear(64, 10, rng=0), "x"), ("b", Linear(64, 2, rng=0), "x"), outputs=("a", "b"))
    with pytest.raises(TypeError, match="a model of several outputs is not looked at"):
        checks.doctor(split, X, Y)
    late = Y.copy()
    late[-1] = 10
    with pytest.raises(ValueError, match="10"):
        checks.doctor(mlp(), X, late)
    with pytest.raises(ValueError, match="10"):
        checks.doctor(mlp(), X, Y, validation=(X, late))
    with pytest.raises(ShapeError, match="validation data"):
        checks.doctor(mlp(), X, Y, validation=(X, Y[:-1]))


def test_every_check_shows_the_parameters_of_the_doctor() -> None:
    wanted = inspect.signature(checks.doctor).parameters
    assert list(wanted)[:4] == ["model", "x", "y", "validation"] and "rng" in wanted
    for name in checks.names():
        assert inspect.signature(getattr(checks, name)).parameters == wanted, name


# ---- models that begin with their preprocessing ----


@pytest.mark.parametrize(
    "pre", [preprocess.Standardize(), preprocess.ChannelMeanStd(), preprocess.ZCA(eps=0.1)], ids=str
)
def test_of_a_model_with_its_preprocessing_what_that_gives_is_judged(pre: Any) -> None:
    raw = (255 * IMAGES).astype(np.uint8)
    rng = np.random.default_rng(0)
    rest = (Flatten(), Linear(64, 64, rng=rng), ReLU(), Linear(64, 10, rng=rng))
    assert "too large" in checks.inputs(Sequential(*rest), raw, Y).verdict
    model = Sequential(pre.fit(raw).as_layer(), *rest)
    report = checks.doctor(model, raw, Y, optimizer=Adam(0.003), steps=60)
    assert report.ok, str(report)
    assert report["inputs"].verdict.startswith("behind layer '0")
    # Fitted on other numbers it gives what no weights are made for, and NaN is found before it.
    other = Sequential(pre.fit(raw / 255).as_layer(), *rest)
    assert checks.inputs(other, raw, Y).verdict.partition(": ")[2].startswith("too large")
    spoiled = IMAGES.copy()
    spoiled[5] = np.nan
    assert "hold NaN" in checks.inputs(model, spoiled, Y).verdict


def test_the_range_test_is_not_taken_in_by_the_first_batches() -> None:
    """Of twenty draws of batches none suggests a rate at which nothing changes: below 1e-5 the loss is flat here."""
    for seed in range(20):
        patient = checks._Patient(mlp(), X, Y, optimizer=Adam(0.003), rng=seed, batch_size=8)
        assert 1e-4 < patient.suggestion < 0.3, (seed, patient.suggestion)

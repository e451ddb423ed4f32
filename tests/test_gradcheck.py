"""The gradient check itself: right gradients pass, planted errors do not, kinks are seen and not blamed."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn import functional as F
from fastnn._gradcheck import Coordinate, Report
from fastnn.errors import ShapeError


class Fake:
    """A layer y = function(x, params) with any backward pass: backward(dy, x, params) -> dx, gradients by name."""

    def __init__(self, function, backward, **params):
        self.function, self.back = function, backward
        self.params = {name: np.asarray(value, np.float32) for name, value in params.items()}
        self.grads = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.calls = 0

    def copy(self, dtype=None):
        twin = copy.deepcopy(self)
        twin.params = {name: value.astype(dtype) for name, value in self.params.items()}
        twin.grads = {name: np.ones_like(value) for name, value in twin.params.items()}  # zero_grad has work to do
        return twin

    def zero_grad(self):
        for gradient in self.grads.values():
            gradient[...] = 0

    def forward(self, x, rng=None):
        self.calls += 1
        x = x.copy()

        def backward(dy):
            dx, gradients = self.back(dy, x, self.params)
            for name, gradient in gradients.items():
                self.grads[name] += gradient
            return dx

        return self.function(x, self.params), backward


RNG = np.random.default_rng(5)
X = RNG.standard_normal((6, 4))
W = RNG.standard_normal((3, 4))


def affine(x, p):
    return x @ p["w"].T + p["b"]


def affine_backward(dy, x, p):
    return dy @ p["w"], {"w": dy.T @ x, "b": dy.sum(0)}


def fake_affine(backward=affine_backward):
    return Fake(affine, backward, w=W, b=[0.1, 0.2, 0.3])


def test_a_right_layer_passes():
    layer = fake_affine()
    report = fnn.gradcheck(layer, X)
    assert report
    assert report.ok
    assert report.verdict == "great"
    assert report.max_error < 1e-7
    assert report.checked == report.total == X.size + W.size + 3
    assert report.kinks == 0
    assert set(report.errors) == {"x", "w", "b"}
    assert str(report).startswith("gradient check passed: great; largest relative error")
    assert str(report).endswith(f"{report.total} of {report.total} coordinates compared")
    assert layer.calls == 0  # all of it happened on a copy
    np.testing.assert_array_equal(layer.params["w"], W.astype(np.float32))
    assert not layer.grads["w"].any()


def spoiled(**errors):
    def backward(dy, x, p):
        dx, gradients = affine_backward(dy, x, p)
        gradients = {name: errors.get(name, lambda g: g)(g) for name, g in gradients.items()}
        return errors.get("x", lambda g: g)(dx), gradients

    return fake_affine(backward)


def one_wrong(gradient):
    gradient[1, 2] += 1.0
    return gradient


@pytest.mark.parametrize(
    ("errors", "where", "verdict"),
    [
        ({"x": lambda g: -g}, "x", "wrong"),
        ({"w": lambda g: 2 * g}, "w", "wrong"),
        ({"b": lambda g: g / 6}, "b", "wrong"),
        ({"w": lambda g: 0 * g}, "w", "wrong"),
        ({"w": one_wrong}, "w", "wrong"),
        ({"x": one_wrong}, "x", "wrong"),
        ({"b": lambda g: g * (1 + 1e-3)}, "b", "suspicious"),
        ({"w": lambda g: g * (1 + 1e-5)}, "w", "suspicious"),
        ({"x": lambda g: g * math.nan}, "x", "wrong"),
        ({"w": lambda g: g + math.inf}, "w", "wrong"),
    ],
)
def test_planted_errors_are_found_where_they_are(errors, where, verdict):
    report = fnn.gradcheck(spoiled(**errors), X)
    assert not report
    assert report.verdict == verdict
    assert report.worst.name == where
    assert report.max_error == report.errors[where]
    assert all(error < 1e-7 for name, error in report.errors.items() if name != where)
    assert f"gradient check failed: {verdict}" in str(report)
    if errors.get(where) is one_wrong:
        assert report.worst.index == (1, 2)
        assert report.worst.analytic == pytest.approx(report.worst.numeric + 1, rel=1e-6)
        assert f"{where}[1, 2]: analytic " in str(report)


def test_tolerance_decides():
    assert fnn.gradcheck(spoiled(w=lambda g: g * (1 + 1e-5)), X, tolerance=1e-4)
    assert not fnn.gradcheck(fake_affine(), X, tolerance=0.0)


# ---- kinks ----


def relu_backward_at(zero):
    return lambda dy, x, p: (dy * np.where(x == 0, zero, x > 0), {})


@pytest.mark.parametrize("zero", [0.0, 0.5, 1.0])
def test_kinks_at_zero_are_left_out(zero):
    """At 0 every slope from 0 to 1 is right, so none is blamed."""
    x = X.copy()
    x[0, :] = 0.0
    report = fnn.gradcheck(Fake(lambda x, p: np.maximum(x, 0), relu_backward_at(zero)), x)
    assert report
    assert report.kinks == 4
    assert report.checked == 20
    assert "4 on kinks left out" in str(report)


def test_errors_beside_kinks_are_found():
    x = X.copy()
    x[0, :] = 0.0
    report = fnn.gradcheck(Fake(lambda x, p: np.maximum(x, 0), lambda dy, x, p: (dy * (x >= -0.5), {})), x)
    assert report.verdict == "wrong"
    assert -0.5 <= x[report.worst.index] < 0


@pytest.mark.parametrize("distance", [3e-5, 1.5e-5, 1e-5, 6.7e-6, 2e-6, -1e-6, -7e-6, -2e-5])
def test_kinks_within_the_step_are_stepped_around(distance):
    """Differences at 1e-5 reach over these; at a hundredth of it they do not."""
    x = np.array([distance, 1.0, -1.0])
    report = fnn.gradcheck(Fake(lambda x, p: np.maximum(x, 0), relu_backward_at(0)), x)
    assert report.verdict == "great"
    assert report.kinks == 0
    wrong = fnn.gradcheck(Fake(lambda x, p: np.maximum(x, 0), lambda dy, x, p: (dy * (x > 1e-3), {})), x)
    assert wrong.ok == (distance < 0)


def test_jumps_are_left_out():
    x = np.array([0.0, 1.0, 2.0])
    report = fnn.gradcheck(Fake(lambda x, p: x + (x > 0), lambda dy, x, p: (dy, {})), x)
    assert report.ok
    assert report.kinks == 1


def test_max_pool_ties_are_kinks():
    x = RNG.standard_normal((1, 1, 4, 4))
    x[0, 0, 0, :2] = 9.0  # the two largest of one window
    report = fnn.gradcheck(fnn.layers.MaxPool2d(2), x)
    assert report.ok
    assert report.kinks == 2
    assert report.checked == 14


def test_mostly_kinks_is_inconclusive():
    report = fnn.gradcheck(fnn.layers.ReLU(), np.zeros((3, 4)))
    assert not report
    assert report.verdict == "inconclusive"
    assert "12 of 12 coordinates lie on kinks; move x away from them" in str(report)
    assert math.isnan(report.max_error)
    assert report.worst is None


def test_an_array_that_is_all_kinks_is_inconclusive():
    layer = Fake(
        lambda x, p: x + np.abs(p["b"]), lambda dy, x, p: (dy, {"b": (dy * np.sign(p["b"])).sum(keepdims=True)}), b=[0]
    )
    report = fnn.gradcheck(layer, X[0])
    assert not report
    assert "every coordinate of b lies on a kink" in str(report)


def test_sharp_but_smooth_is_no_kink():
    """tanh(1000 x) bends within 1e-3; its differences at 1e-5 disagree by 1e-4, those at 1e-7 do not."""
    report = fnn.gradcheck(lambda x: (np.tanh(1e3 * x), lambda dy: dy * 1e3 / np.cosh(1e3 * x) ** 2), 1e-3 * X)
    assert report.ok
    assert report.kinks == 0


# ---- functions ----


def test_function_with_loss():
    labels = np.arange(6) % 4
    assert fnn.gradcheck(lambda s: F.cross_entropy(s, labels), X).verdict == "great"
    report = fnn.gradcheck(lambda s: (F.cross_entropy(s, labels)[0], 6 * F.cross_entropy(s, labels)[1]), X)
    assert report.verdict == "wrong"
    assert set(report.errors) == {"x"}


def test_function_with_backward():
    assert fnn.gradcheck(lambda x: (x**3, lambda dy: 3 * dy * x**2), X).verdict == "great"
    assert fnn.gradcheck(lambda x: (x**3, lambda dy: dy * x**2), X).verdict == "wrong"


def test_saturated_scores_are_not_blamed_for_rounding():
    """A probability of 1e-32 moves no bit of the loss, so its gradient cannot be seen in it."""
    labels = np.arange(6) % 4
    report = fnn.gradcheck(lambda s: F.cross_entropy(s, labels), 30 * X)
    assert report.ok
    assert report.checked == X.size


def test_zero_gradients_are_not_blamed_for_rounding():
    """Adding a constant does nothing in front of batch normalisation; its difference is nothing but rounding."""

    def centred(x, p):
        return (x + p["b"]) - (x + p["b"]).mean(0)

    def backward(dy, x, p):
        return dy - dy.mean(0), {"b": (dy - dy.mean(0)).sum(0)}

    report = fnn.gradcheck(Fake(centred, backward, b=np.ones(4)), X)
    assert report.ok
    assert report.kinks == 0


# ---- sampling and randomness ----


def test_large_arrays_are_sampled():
    x = RNG.standard_normal((50, 4))
    layer = fake_affine()
    report = fnn.gradcheck(layer, x, max_checks=10)
    assert report.checked == 10 + 10 + 3
    assert report.total == 200 + 12 + 3
    everything = fnn.gradcheck(layer, x, max_checks=None)
    assert everything.checked == everything.total == 215
    other = fnn.gradcheck(layer, x, max_checks=10, rng=1)
    assert other.worst != report.worst
    assert fnn.gradcheck(layer, x, max_checks=10) == report


def test_dropout_masks_are_fixed():
    for rng in (0, 7, np.random.default_rng(3)):
        assert fnn.gradcheck(fnn.layers.Dropout(0.5), X, rng=rng).verdict == "great"


def test_randomness_of_its_own_is_inconclusive():
    noise = np.random.default_rng(0)
    report = fnn.gradcheck(lambda x: (x + noise.standard_normal(x.shape), lambda dy: dy), X)
    assert not report
    assert "two forward passes with the same input and rng differ" in str(report)


def test_nan_is_inconclusive():
    x = X.copy()
    x[2, 2] = math.nan
    report = fnn.gradcheck(fake_affine(), x)
    assert not report
    assert "NaN or infinity" in str(report)


def test_edge_of_the_domain_is_a_kink():
    """log is not a number beside 0."""
    with np.errstate(all="ignore"):
        report = fnn.gradcheck(lambda x: (np.log(x), lambda dy: dy / x), [1e-9, 1.0, 2.0])
    assert report.ok
    assert report.kinks == 1


def test_nothing_to_check():
    """Without rows every gradient is zero, analytic and numeric: that would pass whatever the layer does."""
    for layer in (fnn.layers.ReLU(), fnn.layers.Linear(3, 2, rng=0)):
        with pytest.raises(ShapeError, match=r"x of shape \(0, 3\) is empty"):
            fnn.gradcheck(layer, np.zeros((0, 3)))


def test_shared_parameters_are_checked_once():
    """Two names of one array: its gradient is the sum over both places."""

    class Twice(Fake):
        def copy(self, dtype=None):
            twin = super().copy(dtype)
            twin.params["second"] = twin.params["first"]
            return twin

    def backward(dy, x, p):
        return dy * p["first"] * p["second"], {
            "first": (dy * x * p["second"]).sum(),
            "second": (dy * x * p["first"]).sum(),
        }

    layer = Twice(lambda x, p: x * p["first"] * p["second"], backward, first=1.5, second=1.5)
    report = fnn.gradcheck(layer, X)
    assert report.verdict == "great"
    assert report.total == X.size + 1


def test_integer_input_and_scalars():
    assert fnn.gradcheck(lambda x: (x**2, lambda dy: 2 * x * dy), [1, 2, 3]).verdict == "great"
    report = fnn.gradcheck(lambda x: (float(x**2), 3 * x), 2.0)
    assert report.worst == Coordinate("x", (), 6.0, pytest.approx(4.0, rel=1e-9))
    assert "at x: analytic 6, numeric 4" in str(report)


# ---- real layers, and reports by hand ----


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: fnn.layers.Linear(5, 3, rng=0), (4, 5)),
        (lambda: fnn.layers.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, rng=0), (2, 2, 5, 5)),
        (lambda: fnn.layers.BatchNorm2d(3), (4, 3, 3, 3)),
        (lambda: fnn.layers.GELU(), (4, 5)),
    ],
)
def test_layers_of_fastnn(make, shape):
    report = fnn.gradcheck(make(), RNG.standard_normal(shape))
    assert report.verdict == "great", str(report)


@pytest.mark.parametrize(
    ("error", "kinks", "ok", "verdict"),
    [(1e-8, 0, True, "great"), (1e-5, 3, True, "fine"), (1e-3, 0, False, "suspicious"), (0.1, 0, False, "wrong")],
)
def test_verdicts(error, kinks, ok, verdict):
    report = Report(ok, error, 10, kinks, 20, Coordinate("w", (0, 1), 1.0, 2.0))
    assert report.verdict == verdict
    assert bool(report) is ok
    assert ("left out" in str(report)) == bool(kinks)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("target", "x", "error", "message"),
    [
        (3, X, TypeError, "expected a layer or a function, got int"),
        (fnn.layers.ReLU(), ["a"], TypeError, "x has dtype"),
        (fnn.layers.ReLU(), X + 1j, TypeError, "x has dtype complex128"),
        (lambda x: (x.astype(np.float32), lambda dy: dy), X, TypeError, "output has dtype float32"),
        (lambda x: (x, x), X, TypeError, r"expected \(loss, dx\).*\(6, 4\)"),
        (lambda x: (x, lambda dy: None), X, TypeError, "no gradient came for 'x'"),
        (lambda x: (x, lambda dy: dy[0]), X, ShapeError, r"'x' has shape \(6, 4\) and its gradient \(4,\)"),
    ],
)
def test_refuses(target, x, error, message):
    with pytest.raises(error, match=message):
        fnn.gradcheck(target, x)


def test_several_inputs_and_outputs():
    def product(a, b):
        return (a * b, a + b), lambda dp, ds: (dp * b + ds, dp * a + ds)

    x = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    report = fnn.gradcheck(product, x)
    assert report.ok and report.checked == 4 and set(report.errors) == {"x0", "x1"}
    wrong = fnn.gradcheck(lambda a, b: ((a * b, a + b), lambda dp, ds: (dp * b + ds, dp * a)), x)
    assert not wrong.ok and wrong.worst is not None and wrong.worst.name == "x1"
    with pytest.raises(TypeError, match="1 gradients came for 2 inputs"):
        fnn.gradcheck(lambda a, b: (a * b, lambda dy: (dy * b,)), x)


def test_refuses_layers_that_do_not_keep_the_protocol():
    class NoGradient(Fake):
        def copy(self, dtype=None):
            twin = super().copy(dtype)
            del twin.grads["w"]
            return twin

    with pytest.raises(TypeError, match="no gradient for 'w'"):
        fnn.gradcheck(NoGradient(affine, lambda dy, x, p: (dy @ p["w"], {}), w=W, b=[0, 0, 0]), X)

    class NoCopy:
        def forward(self, x, rng=None):
            return x, lambda dy: dy

    with pytest.raises(TypeError, match=r"NoCopy has no copy\(dtype=...\)"):
        fnn.gradcheck(NoCopy(), X)


@pytest.mark.parametrize(
    "options", [{"step": 0.0}, {"step": math.nan}, {"step": -1e-5}, {"max_checks": 0}, {"rng": -1}]
)
def test_refuses_options(options):
    with pytest.raises(ValueError, match=r"must be|seed"):
        fnn.gradcheck(fnn.layers.ReLU(), X, **options)


def test_the_name_stays_the_function():
    import fastnn._gradcheck

    assert callable(fnn.gradcheck)
    assert fnn.gradcheck is fastnn._gradcheck.gradcheck


# ---- losses and models with their loss ----


@pytest.mark.parametrize("name", fnn.losses.names())
def test_losses_by_name(name):
    scores = RNG.standard_normal((6, 5))
    y = np.arange(6) % 5 if name in ("cross_entropy", "hinge") else RNG.uniform(0, 1, scores.shape)
    report = fnn.gradcheck(name, scores, y)
    assert report.verdict == "great" and report.checked == 30, str(report)


def test_the_kinks_of_losses_are_left_out():
    """Scores exactly at the margin, and an error of exactly zero."""
    scores = np.array([[1.0, 0.0, 3.0], [0.5, -0.3, 0.2]])
    report = fnn.gradcheck("hinge", scores, [0, 0])
    assert report.ok and report.kinks == 2  # 1 - 1 + 0 = 0 turns by either score
    report = fnn.gradcheck("l1", scores, np.where(scores == 3.0, 3.0, 7.0))
    assert report.ok and report.kinks == 1


@pytest.mark.parametrize("name", ["residual", "mlp", "wired", "normalised"])
def test_models_with_their_loss(name):
    """Every gradient of the training loss of a whole network, dropout and batch statistics included."""
    from nets import build

    model, x, y = build(name)
    before = model.state()
    report = fnn.gradcheck(model, x, y, max_checks=3)
    assert bool(report) is report.ok is True and type(report.max_error) is float
    assert report.max_error < 1e-4, str(report)
    assert set(report.errors) <= {"x", *model.params} and len(report.errors) > 3
    for key, value in model.state().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_model_with_a_wrong_layer_is_caught_by_its_loss():
    model = fnn.layers.Sequential(fnn.layers.Linear(4, 4, rng=0), fnn.layers.Tanh(), fnn.layers.Linear(4, 3, rng=1))
    assert fnn.gradcheck(model, X, np.arange(6) % 3).verdict == "great"

    class Wrong(fnn.layers.Tanh):
        def forward(self, x, rng=None):
            y, backward = super().forward(x)
            return y, lambda dy: 2 * backward(dy)

    model = fnn.layers.Sequential(fnn.layers.Linear(4, 4, rng=0), Wrong(), fnn.layers.Linear(4, 3, rng=1))
    report = fnn.gradcheck(model, X, np.arange(6) % 3)
    assert report.verdict == "wrong" and report.worst.name in ("x", "0.weight", "0.bias")
    assert "is 2 times what it should be, everywhere" in report.hint
    assert report.errors["2.weight"] < 1e-7


def test_refuses_labels_that_go_with_nothing():
    with pytest.raises(TypeError, match=r"needs labels: gradcheck\('hinge', scores, labels\)"):
        fnn.gradcheck("hinge", X)
    with pytest.raises(TypeError, match="labels go with a model"):
        fnn.gradcheck(lambda x: (x, lambda dy: dy), X, [0] * 6)
    with pytest.raises(ValueError, match="unknown loss 'hinges'"):
        fnn.gradcheck("hinges", X, [0] * 6)


# ---- hints ----


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (lambda g: -g, "the gradient of w has the wrong sign"),
        (lambda g: 3 * g, "the gradient of w is 3 times what it should be, everywhere"),
        (lambda g: 6 * g, "is 6 times what it should be, everywhere: the number of rows is 6, so a sum and a mean"),
        (lambda g: g / 6, "everywhere: 1 / 6 rows, so a sum and a mean were mixed up"),
        (lambda g: 0 * g, "no gradient arrives at w"),
        (one_wrong, "1 of the 12 compared elements of w are wrong"),
        (lambda g: g * np.array([[1], [2], [1]]), "4 of the 12 compared elements of w are wrong, all at index 1"),
        (lambda g: g + RNG.standard_normal(g.shape), ""),
    ],
)  # fmt: skip
def test_hints(spoil, hint):
    report = fnn.gradcheck(spoiled(w=spoil), X)
    assert report.worst.name == "w"
    assert hint in report.hint if hint else not report.hint
    assert ("hint: " in str(report)) == bool(hint)


def test_a_transposed_gradient_is_told():
    w = RNG.standard_normal((4, 4))
    layer = Fake(lambda x, p: x @ p["w"].T, lambda dy, x, p: (dy @ p["w"], {"w": x.T @ dy}), w=w)
    assert fnn.gradcheck(layer, X).hint == "the gradient of w is transposed"


def test_no_hint_where_all_is_well():
    assert fnn.gradcheck(fake_affine(), X).hint == ""

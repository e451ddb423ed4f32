"""fastnn.statistics: numbers as by hand, planted dead units found, nothing of the model touched."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn import functional as F
from fastnn import layers as L
from fastnn._statistics import Spread
from nets import NETS, build

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", NETS)
def test_nothing_of_the_model_changes(name):
    model, x, y = build(name)
    trainer = fnn.Trainer(model, rng=0)
    trainer.step(x, y)
    before, grads = model.state(), {k: g.copy() for k, g in model.grads.items()}
    report = fnn.statistics(model, x, y, rng=3)
    assert len(report) > 3 and report.loss is not None
    for key, value in model.state().items():
        np.testing.assert_array_equal(value, before[key])
    for key, value in model.grads.items():
        np.testing.assert_array_equal(value, grads[key])
    assert not any("forward" in layer.__dict__ for _, layer in model.leaves())
    trainer.step(x, y)  # it still owns the arrays
    # Every leaf that computes something is there; identities hand on what another layer gave.
    passed = {n for n, layer in model.leaves() if isinstance(layer, (L.Identity, L.StochasticDepth))}
    assert {n for n, _ in model.leaves()} - passed <= {layer.name for layer in report}


def test_numbers_are_those_by_hand():
    model = L.Sequential(L.Linear(6, 8, rng=0), L.Tanh(), ("scores", L.Linear(8, 3, rng=1))).copy(np.float64)
    x, y = RNG.standard_normal((50, 6)), RNG.integers(0, 3, 50)
    report = fnn.statistics(model, x, y)
    h = x @ model["0"].weight.T
    a = np.tanh(h)
    scores = a @ model["scores"].weight.T
    loss, ds = F.cross_entropy(scores, y)
    da = ds @ model["scores"].weight
    dh = da * (1 - a**2)
    assert report.loss == pytest.approx(loss, rel=1e-12)
    for name, out, gradient in (("0", h, dh), ("1", a, da), ("scores", scores, ds)):
        layer = report[name]
        assert layer.shape == out.shape
        for spread, array in ((layer.output, out), (layer.gradient, gradient)):
            got = spread.mean, spread.std, spread.low, spread.high, spread.norm
            want = array.mean(), array.std(), array.min(), array.max(), np.linalg.norm(array)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-15)
            assert spread.counts.sum() == array.size
    np.testing.assert_allclose(report.parameters["0.weight"].gradient.norm, np.linalg.norm(dh.T @ x), rtol=1e-9)
    assert report.parameters["scores.bias"].value.norm == 0
    np.testing.assert_array_equal(report["1"].output.counts, np.histogram(a, 40, (a.min(), a.max()))[0])


def test_without_labels_there_are_no_gradients():
    model, x, _ = build("mlp")
    report = fnn.statistics(model, x)
    assert report.loss is None
    assert all(layer.gradient is None for layer in report)
    assert all(p.gradient is None for p in report.parameters.values())
    assert "gradient" in str(report)


@pytest.mark.parametrize("dead", [0, 1, 7, 16])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_planted_dead_units_are_counted(kind, dead):
    if kind == "linear":
        model, x = L.Sequential(L.Linear(12, 16, rng=0), L.ReLU()), RNG.standard_normal((200, 12))
    else:
        model, x = L.Sequential(L.Conv2d(3, 16, 3, rng=0), L.ReLU()), RNG.standard_normal((20, 3, 8, 8))
    model["0"].bias[:dead] = -1e3
    report = fnn.statistics(model, x)
    assert report["1"].dead == dead / 16
    assert report["1"].saturated == pytest.approx((model(x.astype(np.float32)) == 0).mean())


def test_shares_of_saturated_elements():
    """Below 1 % of the steepest slope: of tanh 1 - y^2, of sigmoid y (1 - y) with 1/4 at its steepest."""
    x = np.linspace(-12, 12, 4800)[:, None]
    t, s = np.tanh(x), 1 / (1 + np.exp(-x))
    expected = {
        "Tanh": (1 - t**2 < 0.01).mean(),
        "Sigmoid": (s * (1 - s) < 0.0025).mean(),
        "ReLU": (x <= 0).mean(),
        "LeakyReLU": 0.0,
        "PReLU": 0.0,
        "ELU": (np.exp(x) < 0.01).mean(),
        "Softsign": ((1 + np.abs(x)) ** -2 < 0.01).mean(),
    }
    for name, share in expected.items():
        layer = getattr(L, name)().copy(np.float64)
        (only,) = fnn.statistics(layer, x)
        assert only.saturated == pytest.approx(share, abs=2 / len(x)), name
        assert only.dead == 0.0


def test_leaky_units_never_die():
    for dtype in (np.float32, np.float64):  # the slope 0.01 lies right at the limit, in either rounding
        x = -np.abs(RNG.standard_normal((30, 4))).astype(dtype)
        model = L.Sequential(L.Linear(4, 4, rng=0).copy(dtype), L.LeakyReLU(0.01), L.PReLU(4).copy(dtype))
        assert all(a.saturated == a.dead == 0 for a in fnn.statistics(model, x).activations)


def test_a_shared_layer_is_told_apart_by_its_places():
    model, x, y = build("shared")
    assert [layer.name for layer in fnn.statistics(model, x, y)] == ["0", "1", "2", "3", "4"]
    twice = L.Graph(("a", L.Linear(3, 3, rng=0), "x"), ("b", L.ReLU(), "a"))
    assert [layer.name for layer in fnn.statistics(twice, np.ones((2, 3)))] == ["a", "b"]


def test_a_residual_sum_is_a_layer_with_twice_the_variance():
    main = L.Sequential(L.Linear(200, 200, rng=0))
    main["0"].weight[...] = RNG.standard_normal((200, 200)) / math.sqrt(200)
    report = fnn.statistics(L.Residual(main), RNG.standard_normal((2000, 200)))
    assert [layer.name for layer in report] == ["main.0", "shortcut", ""]
    # 400,000 samples that depend on each other through 40,000 weights: 2 % is several standard errors
    assert report[""].output.std ** 2 == pytest.approx(2, rel=0.02)


class Doubling(L.Layer):
    def __call__(self, x):
        return 2 * x

    def forward(self, x, rng=None):
        return 2 * x, lambda dy: 2 * dy


class Step(Doubling):
    def slope(self, x):
        return (x > 1).astype(x.dtype)


def test_layers_that_users_wrote():
    model = L.Sequential(L.Linear(3, 3, rng=0), Doubling(), Step())
    report = fnn.statistics(model, RNG.standard_normal((100, 3)), RNG.integers(0, 3, 100))
    assert report["1"].output.std == pytest.approx(2 * report["0"].output.std)
    assert report["0"].gradient.std == pytest.approx(2 * report["1"].gradient.std)
    assert report["1"].saturated is None
    assert 0.3 < report["2"].saturated < 1


def test_several_inputs_and_a_loss_of_ones_own():
    net = L.Graph(
        ("joined", L.Join(), "a", "b"), ("y", L.Linear(5, 1, rng=0), "joined"), inputs=("a", "b"), outputs="y"
    )
    xs = RNG.standard_normal((4, 2)), RNG.standard_normal((4, 3))
    report = fnn.statistics(net, xs, np.zeros((4, 1)), loss="mse")
    assert report.loss == pytest.approx(float((net(*xs) ** 2).mean()), rel=1e-5)
    assert report["y"].gradient.norm > 0


def test_numbers_that_are_not_finite():
    model = L.Sequential(L.Linear(3, 4, rng=0), L.ReLU())
    model["0"].weight[0, 0] = math.nan
    report = fnn.statistics(model, np.ones((5, 3)))
    assert math.isnan(report["0"].output.mean) and not report["0"].output.counts.any()
    assert report["1"].dead >= 0.25  # nothing passes where there is NaN
    assert math.isinf(Spread.of(np.array([1.0, np.inf])).high)


def test_layers_are_found_by_name():
    model, x, _ = build("mlp")
    report = fnn.statistics(model, x)
    assert report["1"] is report[1]
    with pytest.raises(KeyError, match="no layer 'nowhere'; there are '0', '1'"):
        report["nowhere"]
    with pytest.raises(TypeError, match="expected a model, got ufunc"):
        fnn.statistics(np.tanh, x)


def test_tables_name_every_layer_and_parameter():
    model, x, y = build("residual")
    report = fnn.statistics(model, x, y, rng=0)
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(report)
    assert [line.split()[0] for line in lines[2:]] == [layer.name for layer in report]
    rows = report.parameter_table().splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(model.params)


@pytest.mark.parametrize("name", ["residual", "wired", "deep"])
def test_picture(name, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    if name == "deep":
        rng = np.random.default_rng(0)  # 8 units wide it would die on the way, for some draws of x
        parts = [part for i in range(40) for part in (L.Linear(32, 32, rng=i), L.ReLU())]
        model, x, y = L.Sequential(*parts), rng.standard_normal((30, 32)), rng.integers(0, 32, 30)
    else:
        model, x, y = build(name)
    path = fnn.statistics(model, x, y, rng=0).plot(tmp_path / "layers.png", title="layers")
    picture = imread(path)
    assert picture.shape[1] == 1440
    # Blue for outputs and orange for gradients, beside the white of the paper.
    for colour in ((0x1F, 0x6F, 0xB4), (0xE0, 0x7B, 0x1A)):
        assert (np.abs(picture[..., :3] * 255 - colour).max(-1) < 2).sum() > 200

"""Layers: the two calls, arrays by name, copies, state, errors that name the layer."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fastnn as fnn
from fastnn import functional as F
from fastnn import layers as L
from nets import NETS, build

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_whole_networks(name):
    model, x, _ = build(name)
    report = fnn.gradcheck(model, x, rng=0)
    assert report.ok, str(report)


@pytest.mark.parametrize("name", NETS)
def test_shapes_are_what_output_shape_and_summary_say(name):
    model, x, _ = build(name)
    assert model(x).shape == model.output_shape(x.shape) == model.forward(x, 0)[0].shape
    table = model.summary(x.shape)
    assert str(model.output_shape(x.shape)) in table
    unique = {id(a): a.size for a in model.params.values()}
    assert table.splitlines()[-1].split() == ["total", f"{sum(unique.values()):,}"]


@pytest.mark.parametrize("name", NETS)
def test_float64_input_to_float32_weights(name):
    """NumPy's own dtype, as users hand it in: computed in float64; weights, statistics and gradients stay float32."""
    model, x, _ = build(name)
    twin = model.copy(np.float64)
    wide = x.astype(np.float64)
    y, backward = model.forward(wide, 0)
    expected, twin_backward = twin.forward(wide, 0)
    assert y.dtype == np.float64
    tolerance = 10 * EPS[np.float32]  # a few roundings to float32: gradients, and the masked weights of DropConnect
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    dx, wanted = backward(dy), twin_backward(dy)
    np.testing.assert_allclose(dx, wanted, rtol=tolerance, atol=tolerance * abs(wanted).max())
    for key, gradient in model.grads.items():
        assert gradient.dtype == np.float32
        wanted = twin.grads[key]
        # where batch norm follows, the gradient of a bias is a difference that vanishes but for rounding
        np.testing.assert_allclose(gradient, wanted, rtol=tolerance, atol=tolerance * max(abs(wanted).max(), 1.0))


def test_summary_counts_a_shared_layer_once_in_its_total():
    model, x, _ = build("shared")
    assert model.summary(x.shape).splitlines()[-1].split() == ["total", str(12 * 12 + 12 + 12 * 5 + 5)]


@pytest.mark.parametrize("name", NETS)
def test_inference_has_no_memory(name):
    """model(x) changes neither statistics nor gradients, and gives the same bits again after a training pass."""
    model, x, _ = build(name)
    before = model.state()
    y = model(x)
    assert all((before[k] == v).all() for k, v in model.state().items())
    assert not any(g.any() for g in model.grads.values())
    np.testing.assert_array_equal(model(x), y)


def test_forward_leaves_inference_statistics_to_batch_norm_only():
    model, x, _ = build("residual")
    params = {k: v.copy() for k, v in model.params.items()}
    buffers = {k: v.copy() for k, v in model.buffers.items()}
    model.forward(x, 0)
    assert all((params[k] == v).all() for k, v in model.params.items())
    assert all((buffers[k] != v).any() for k, v in model.buffers.items())


def test_backward_adds_to_gradients_and_may_be_called_twice():
    model, x, _ = build("residual")
    y, backward = model.forward(x, 0)
    dy = np.ones_like(y)
    dx = backward(dy)
    once = {k: g.copy() for k, g in model.grads.items()}
    np.testing.assert_array_equal(backward(dy), dx)
    for key, gradient in model.grads.items():
        np.testing.assert_array_equal(gradient, 2 * once[key])
    model.zero_grad()
    assert not any(g.any() for g in model.grads.values())


def test_a_layer_in_two_places_gathers_both_gradients():
    rng = np.random.default_rng(0)
    layer = L.Linear(4, 4, rng=0)
    x = rng.standard_normal((3, 4))
    model = L.Sequential(layer, layer).copy(dtype=np.float64)
    y, backward = model.forward(x)
    backward(np.ones_like(y))
    w = model.params["0.weight"]
    assert w is model.params["1.weight"]
    hidden = x @ w.T
    expected = np.ones((4, 3)) @ hidden + (np.ones((3, 4)) @ w).T @ x
    # sums of 3 and 4 products of numbers of order one, in another order
    np.testing.assert_allclose(model.grads["0.weight"], expected, rtol=64 * EPS[np.float64])


def test_one_layer_serves_many_threads_at_inference():
    model, x, _ = build("residual")
    expected = model(x)
    results: list[np.ndarray] = []

    def work() -> None:
        results.extend(model(x) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for y in results:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", NETS)
def test_copy_shares_nothing_and_converts(name):
    model, x, _ = build(name)
    twin = model.copy()
    np.testing.assert_array_equal(twin(x), model(x))
    for array in {**twin.params, **twin.buffers}.values():
        array[...] = 0
    assert all(v.any() for k, v in model.params.items() if k.endswith("weight"))
    wide = model.copy(dtype=np.float64)
    assert {a.dtype for a in {**wide.params, **wide.buffers}.values()} == {np.dtype(np.float64)}
    # a network of a few layers of at most 200 terms each: errors of float32 add up to some hundred units
    np.testing.assert_allclose(model(x), wide(x), rtol=0, atol=200 * EPS[np.float32] * np.abs(wide(x)).max())


def test_copy_keeps_sharing():
    model, _, _ = build("shared")
    twin = model.copy()
    assert twin.params["0.weight"] is twin.params["2.weight"]


def test_state_round_trip_and_mismatch_changes_nothing():
    model, x, _ = build("residual")
    state = model.state()
    other = NETS["residual"][0]()
    other.load_state(state)
    np.testing.assert_array_equal(other(x), model(x))
    bad = {**state, "scores.weight": np.zeros((2, 2)), "surplus": np.zeros(1)}
    del bad["0.weight"]
    before = other.state()
    with pytest.raises(ValueError, match=r"missing 0\.weight; unexpected surplus; scores\.weight has shape \(2, 2\)"):
        other.load_state(bad)
    assert all((before[k] == v).all() for k, v in other.state().items())


def test_batch_norm_running_statistics_are_those_of_the_convention():
    """momentum weighs the new batch; the running variance is the unbiased one."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (8, 4, 5, 5))
    layer = L.BatchNorm2d(4, momentum=0.25).copy(dtype=np.float64)
    layer.forward(x)
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var((0, 2, 3), ddof=1), rtol=1e-14)


def test_frozen_batch_norm_trains_as_it_infers():
    layer = L.BatchNorm2d(3, frozen=True)
    layer.running_mean[...] = [1, 2, 3]
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, layer(x))
    np.testing.assert_array_equal(layer.running_mean, [1, 2, 3])
    np.testing.assert_allclose(backward(np.ones_like(y)), np.ones_like(y) / np.sqrt(np.float32(1 + 1e-5)), rtol=1e-6)


def test_dropout_is_a_function_of_seed_and_layer():
    x = np.ones((4, 100), np.float32)
    model = L.Sequential(L.Dropout(0.5), L.Dropout(0.5))
    np.testing.assert_array_equal(model.forward(x, 7)[0], model.forward(x, 7)[0])
    assert (model.forward(x, 7)[0] != model.forward(x, 8)[0]).any()
    first, _ = L.Dropout(0.5).forward(x, 7)
    # were the two masks equal, the second layer would drop nothing that the first kept
    assert (model.forward(x, 7)[0] != 2 * first).any()
    with pytest.raises(TypeError, match="needs rng="):
        model.forward(x)


def test_channels_last_passes_through():
    model, x, _ = build("residual")
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    head = L.Sequential(*list(model)[:14])
    y = head(last)
    assert F._is_channels_last(y) and not y.flags.c_contiguous
    # the same sums of at most 150 terms, in another order
    np.testing.assert_allclose(y, head(x), rtol=0, atol=100 * EPS[np.float32] * np.abs(y).max())


def test_shape_errors_name_the_layer_and_the_one_before():
    model = L.Sequential(("flatten", L.Flatten()), ("fc1", L.Linear(100, 10)))
    message = (
        r"^layer 'fc1' \(Linear 100->10\): expected \(N, 100\), got \(2, 288\); "
        r"the layer before, 'flatten', gives 288$"
    )
    x = np.zeros((2, 8, 6, 6), np.float32)
    for call in (model, model.forward, lambda x: model.output_shape(x.shape), lambda x: model.summary(x.shape)):
        with pytest.raises(fnn.ShapeError, match=message):
            call(x)
    nested = L.Sequential(("body", model), ("end", L.ReLU()))
    with pytest.raises(fnn.ShapeError, match=r"^layer 'body\.fc1' \(Linear 100->10\): expected \(N, 100\)"):
        nested(x)
    with pytest.raises(fnn.ShapeError, match=r"layer 'body\.fc1'"):
        fnn.compile(nested, x.shape)


def test_residual_and_concat_refuse_branches_that_do_not_fit():
    x = np.zeros((1, 2, 4, 4), np.float32)
    with pytest.raises(fnn.ShapeError, match=r"same shape"):
        L.Residual(L.Conv2d(2, 3, 1))(x)
    with pytest.raises(fnn.ShapeError, match=r"concat|branches"):
        L.Concat(L.Identity(), L.MaxPool2d(2))(x)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: L.Conv2d(0, 4, 3), "in_channels must be a whole number of at least 1"),
        (lambda: L.Conv2d(4, 6, 3, groups=4), "groups must divide"),
        (lambda: L.Conv2d(4, 4, (3, 3, 3)), "kernel_size must be a whole number or a pair"),
        (lambda: L.Linear(4, -1), "out_features must be a whole number of at least 1"),
        (lambda: L.Dropout(1.5), "probability to drop, between 0 and 1"),
        (lambda: L.BatchNorm2d(4, momentum=2), "momentum is the weight of the new batch"),
        (lambda: L.Sequential(("a.b", L.ReLU())), "no dot"),
        (lambda: L.Sequential(("a", L.ReLU()), ("a", L.ReLU())), "same name"),
        (lambda: L.Concat(), "at least one branch"),
        (lambda: L.GELU("exact"), "'none' or 'tanh'"),
        (lambda: L.CELU(0.0), "CELU: the scale \\(alpha\\) must be above 0"),
        (lambda: L.Softplus(-1.0), "Softplus: the scale \\(beta\\) must be above 0"),
        (lambda: L.Hardtanh(2.0, 1.0), "min_val must not be above max_val"),
        (lambda: L.PReLU(0), "num_parameters must be a whole number of at least 1"),
        (lambda: L.Maxout(0), "pieces must be a whole number of at least 1"),
    ],
)
def test_constructors_say_what_is_wrong(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()


def test_a_container_takes_layers_only():
    with pytest.raises(TypeError, match="not a layer"):
        L.Sequential(np.tanh)  # type: ignore[arg-type]


def test_every_layer_class_is_in_some_network_here():
    used = {type(layer) for name in NETS for layer in _all(build(name)[0])}
    public = {c for c in (getattr(L, name) for name in L.__all__) if issubclass(c, L.Layer)} - {L.Layer}
    assert public <= used


def _all(layer):
    yield layer
    for _, child in layer.children():
        yield from _all(child)


def test_drop_connect_drops_weights_as_dropout_does():
    x = np.random.default_rng(0).standard_normal((5, 6))
    layer = L.DropConnect(6, 4, 0.3, rng=0).copy(dtype=np.float64)
    y, backward = layer.forward(x, 7)
    w, mask = F.dropout(layer.weight, 0.3, rng=7)
    np.testing.assert_array_equal(y, F.linear(x, w, layer.bias))
    dy = np.random.default_rng(1).standard_normal(y.shape)
    for times in (1, 2):
        dx = backward(dy)
        expected, dw, db = F.linear_backward(dy, x, w)
        np.testing.assert_array_equal(layer.gradient("weight"), times * F.dropout_backward(dw, mask, 0.3))
        np.testing.assert_array_equal(layer.gradient("bias"), times * db)
        np.testing.assert_array_equal(dx, expected)
    np.testing.assert_array_equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert L.DropConnect(6, 4, 1.0, rng=0).forward(x, 0)[0].any() == 0
    with pytest.raises(TypeError, match=r"DropConnect.forward needs rng="):
        layer.forward(x)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_leaves_the_shortcut(mode):
    x = np.random.default_rng(0).standard_normal((64, 3, 2, 2))
    block = L.Residual(L.StochasticDepth(L.ELU(), 0.25, mode))
    np.testing.assert_array_equal(block(x), F.add(x, F.elu(x)))
    kept = []
    for seed in range(40):
        y, _ = block.forward(x, seed)
        whole = F.add(x, F.elu(x) * (1 / 0.75))
        rows = [bool((y[i] == whole[i]).all()) for i in range(64)]
        assert all(r or (y[i] == x[i]).all() for i, r in enumerate(rows))
        assert mode == "row" or len(set(rows)) == 1
        kept += rows if mode == "row" else rows[:1]
    # 5 standard deviations of a share of n draws of probability 3 / 4
    assert abs(np.mean(kept) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / len(kept))
    with pytest.raises(TypeError, match=r"StochasticDepth.forward needs rng="):
        block.forward(x)


def test_stochastic_depth_says_what_is_wrong():
    with pytest.raises(ValueError, match="mode must be 'row' or 'batch'"):
        L.StochasticDepth(L.ReLU(), 0.5, "image")
    with pytest.raises(ValueError, match="between 0 and 1"):
        L.StochasticDepth(L.ReLU(), 1.5)
    block = L.Sequential(L.StochasticDepth(L.Linear(3, 3), 0.5))
    for call in (lambda: block(np.zeros((2, 4))), lambda: block.forward(np.zeros((2, 4)), 0)):
        with pytest.raises(fnn.ShapeError, match=r"layer '0.main' .*expected \(N, 3\), got \(2, 4\)"):
            call()

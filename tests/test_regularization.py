"""Penalties, norm limits and clipping: against plain formulas and torch, in a trainer by programs and by closures."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn import _backends, optim
from fastnn import functional as F
from fastnn import layers as L
from fastnn.errors import ShapeError
from fastnn.regularization import L1, L2, ClipNorm, ClipValue, ElasticNet, MaxNorm
from nets import NETS, build

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PENALTIES = [L1(0.3), L2(0.7), ElasticNet(0.2, 0.5)]
#: what is put on a trainer, at strengths that show within a few steps
SETUPS = {
    "l2": {"regularization": L2(0.1)},
    "l1_all": {"regularization": L1(0.01, on="all")},
    "elastic_and_max_norm": {"regularization": [ElasticNet(0.01, 0.1), MaxNorm(0.8)], "clip": ClipNorm(0.1)},
    "clip_value": {"clip": ClipValue(0.01)},
    "clip_norm": {"clip": ClipNorm(0.05)},
    "max_norm": {"regularization": MaxNorm(0.5)},
}


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# ---- on plain arrays ----


@DTYPES
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_penalty_is_its_formula(penalty, dtype):
    w = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(dtype)
    w[0, 0] = 0
    loss, dw = penalty(w)
    wide = w.astype(np.float64)
    # a product and a sum for each of 30 terms, in double; for the gradient two products and a sum in dtype
    assert loss == pytest.approx((penalty.l1 * abs(wide) + penalty.l2 / 2 * wide**2).sum(), rel=30 * EPS[np.float64])
    assert dw.shape == w.shape and dw.dtype == dtype
    expected = penalty.l1 * np.sign(wide) + penalty.l2 * wide
    np.testing.assert_allclose(dw, expected, rtol=3 * EPS[dtype], atol=EPS[dtype])
    np.testing.assert_array_equal(penalty(w.transpose())[1], dw.transpose())
    assert penalty(w[:0])[0] == 0.0


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_gradient_of_the_penalty(penalty):
    """Central differences of the loss, away from the kink at 0."""
    w = np.random.default_rng(1).uniform(0.5, 2, 12) * np.array([1, -1] * 6)
    h = 1e-5
    for i, dw in enumerate(penalty(w)[1]):
        step = h * (np.arange(12) == i)
        slope = (penalty(w + step)[0] - penalty(w - step)[0]) / (2 * h)
        assert slope == pytest.approx(dw, rel=1e-9)  # a sum near 10 in double: 1e-15 / 1e-5 of slopes near 1


def test_sums_are_double():
    """A million equal terms, and squares beyond float32; a sum in float32 would be off by hundreds of units."""
    w = np.full(10**6, 0.7, np.float32)
    assert L2(2.0)(w)[0] == pytest.approx(1e6 * float(w[0]) ** 2, rel=1e-13)
    assert L1(1.0)(w)[0] == pytest.approx(1e6 * float(w[0]), rel=1e-13)
    assert ClipNorm(1.0)([np.float32([3e30, 4e30])]) == pytest.approx(5e30, rel=2 * EPS[np.float32])
    np.testing.assert_allclose(MaxNorm(1.0)(np.float32([[3e30, 4e30]])), [[0.6, 0.8]], rtol=2 * EPS[np.float32])


@DTYPES
@pytest.mark.parametrize(("shape", "axis"), [((4, 6), 0), ((5, 3, 3, 3), 0), ((4, 6, 3, 3), 1), ((4, 3, 2), -1)])
def test_max_norm_is_its_formula(shape, axis, dtype):
    w = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    before = w.copy()
    norms = np.sqrt(np.square(w.astype(np.float64)).sum(others, keepdims=True))
    limit = float(np.median(norms))
    got = MaxNorm(limit)(w, axis)
    np.testing.assert_array_equal(w, before)
    np.testing.assert_allclose(got, w * np.minimum(1, limit / norms), rtol=2 * EPS[dtype])
    inside = np.broadcast_to(norms < limit, shape)
    np.testing.assert_array_equal(got[inside], w[inside])
    assert (np.sqrt(np.square(got.astype(np.float64)).sum(others)) <= limit * (1 + EPS[dtype])).all()
    assert got.dtype == dtype


@DTYPES
def test_clip_norm_keeps_the_direction(dtype):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal((4, 5)).astype(dtype).T, dtype([1, 2])]
    before = [g.copy() for g in grads]
    norm = math.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in grads))
    for limit in (2 * norm, 0.25):
        assert ClipNorm(limit)(grads) == pytest.approx(norm, rel=1e-14)
        factor = min(1.0, limit / (norm + 1e-6))
        for got, was in zip(grads, before, strict=True):
            np.testing.assert_allclose(got, factor * was, rtol=2 * EPS[dtype])
    assert ClipNorm(1.0)([]) == 0.0


def test_clipping_of_what_is_no_number():
    grads = [np.array([1.0, math.nan]), np.array([2.0])]
    assert math.isnan(ClipNorm(1.0)(grads))
    assert np.isnan(np.concatenate(grads)).all()
    grads = [np.array([math.inf, -math.inf, math.nan, 0.1])]
    ClipValue(0.5)(grads)
    np.testing.assert_array_equal(grads[0], [0.5, -0.5, math.nan, 0.1])


def test_clip_value():
    grad = np.array([[3.0, -0.25], [-7.0, 0.5]]).T
    ClipValue(0.5)([grad])
    np.testing.assert_array_equal(grad, [[0.5, -0.5], [-0.25, 0.5]])


# ---- torch as the oracle ----


@DTYPES
@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_penalty_equals_torch(penalty, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    w = np.random.default_rng(0).standard_normal((6, 7)).astype(dtype)
    w[2] = 0
    tensor = torch.tensor(w, requires_grad=True)
    expected = penalty.l1 * tensor.abs().sum() + penalty.l2 / 2 * (tensor**2).sum()
    expected.backward()
    loss, dw = penalty(w)
    assert loss == pytest.approx(expected.item(), rel=20 * EPS[dtype])  # torch adds 42 terms in dtype
    np.testing.assert_allclose(dw, tensor.grad.numpy(), rtol=4 * EPS[dtype], atol=EPS[dtype])


@DTYPES
@pytest.mark.parametrize("limit", [0.1, 3.0, 100.0])
def test_clipping_equals_torch(limit, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    shapes = [(6, 7), (6,), (2, 3, 2, 2)]
    grads = [np.random.default_rng(i).standard_normal(s).astype(dtype) for i, s in enumerate(shapes)]

    def tensors():
        made = [torch.zeros(shape, dtype=torch.tensor(grads[0]).dtype) for shape in shapes]
        for tensor, grad in zip(made, grads, strict=True):
            tensor.grad = torch.tensor(grad)
        return made

    theirs, ours = tensors(), [g.copy() for g in grads]
    norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    # torch's norm rounds 72 squares in dtype, and then its factor
    assert ClipNorm(limit)(ours) == pytest.approx(norm.item(), rel=20 * EPS[dtype])
    for mine, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, tensor.grad.numpy(), rtol=20 * EPS[dtype])
    theirs, ours = tensors(), [g.copy() for g in grads]
    torch.nn.utils.clip_grad_value_(theirs, limit)
    ClipValue(limit)(ours)
    for mine, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, tensor.grad.numpy())


@DTYPES
@pytest.mark.parametrize(("shape", "axis"), [((4, 6), 0), ((5, 3, 3, 3), 0), ((4, 6, 3, 3), 1)])
def test_max_norm_equals_torch(shape, axis, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    w = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    limit = math.sqrt(w.size / shape[axis])
    expected = torch.renorm(torch.tensor(w), 2, axis, limit).numpy()
    # torch divides by the norm + 1e-7, and the norm is at least 2
    np.testing.assert_allclose(MaxNorm(limit)(w, axis), expected, rtol=1e-7 + 20 * EPS[dtype])


@pytest.mark.parametrize("program", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSProp", "AdaGrad"])
def test_a_whole_run_equals_torch(name, program):
    """Elastic net on the weights, clipping by norm, a schedule, max-norm: ten steps with each optimizer, in float64."""
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    model = L.Sequential(L.Linear(6, 8, rng=0), L.Tanh(), L.Linear(8, 3, rng=1)).copy(np.float64)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    theirs.load_state_dict({key: torch.tensor(value) for key, value in model.state().items()})
    spelled = {"RMSProp": "RMSprop", "AdaGrad": "Adagrad"}.get(name, name)
    optimizer = getattr(torch.optim, spelled)(theirs.parameters(), lr=0.1, weight_decay=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    trainer = fnn.Trainer(
        model,
        optimizer=getattr(optim, name)(lr=0.1, weight_decay=0.02),
        regularization=[ElasticNet(0.01, 0.1), MaxNorm(0.8)],
        clip=ClipNorm(0.3),
        rng=0,
        program=program,
    )
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 6)), rng.integers(0, 3, 5)
    history = trainer.fit((x, y), epochs=10, shuffle=False, schedule=fnn.schedules.cosine(), progress=False)
    weights, binding = [theirs[0].weight, theirs[2].weight], []
    for data, penalty in zip(history.step_loss, history.regularization, strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        terms = sum(0.01 * w.abs().sum() + 0.05 * (w**2).sum() for w in weights)
        # sums of a hundred terms in another order, and ten steps of them; Adam divides by roots of small sums
        assert data == pytest.approx(loss.item(), rel=1e-9)
        assert penalty == pytest.approx(terms.item(), rel=1e-9)
        (loss + terms).backward()
        binding.append(torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3).item() > 0.3)
        optimizer.step()
        decay.step()
        with torch.no_grad():
            for w in weights:
                binding.append(w.norm(dim=1).max().item() > 0.8)
                w *= (0.8 / w.norm(dim=1, keepdim=True)).clamp(max=1)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(model.params[key], value.numpy(), rtol=1e-9, atol=1e-10)
    for each in range(3):  # gradients, first and second weight: limits that do nothing would prove nothing
        assert any(binding[each::3])


# ---- in a trainer ----


def train(name, setup, *, steps=4, program=True, dtype=np.float32, threads=None, optimizer=None):
    model, x, y = build(name, dtype)
    optimizer = optimizer or optim.SGD(lr=0.05, momentum=0.9)
    trainer = fnn.Trainer(model, optimizer=optimizer, rng=3, program=program, **SETUPS[setup])
    with fnn.num_threads(threads or fnn.threads.get_num_threads()):
        losses = [trainer.step(x, y) for _ in range(steps)]
    return losses, model.state(), trainer


@DTYPES
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("name", NETS)
def test_programs_and_closures_agree_bit_for_bit(name, setup, dtype):
    losses, state, trainer = train(name, setup, dtype=dtype)
    if _backends.name == "compiled":
        assert any(p is not None for p in trainer._programs.values())
    expected, expected_state, _ = train(name, setup, dtype=dtype, program=False)
    assert losses == expected
    same(state, expected_state)
    plain = fnn.Trainer(build(name, dtype)[0], optimizer=optim.SGD(lr=0.05, momentum=0.9), rng=3)
    _, x, y = build(name, dtype)
    without = [plain.step(x, y) for _ in range(4)]
    assert without != losses, "the setup does nothing here, so that the test could not fail"


@pytest.mark.parametrize("setup", SETUPS)
def test_same_bits_for_any_number_of_threads(setup):
    """A net of 200,000 weights, so that several chunks are cut."""
    results = []
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 400), np.float32), rng.integers(0, 5, 16)
    for threads in (1, 2, 3):
        model = L.Sequential(L.Linear(400, 500, rng=0), L.ReLU(), L.Linear(500, 5, rng=1))
        trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.05), rng=0, **SETUPS[setup])
        with fnn.num_threads(threads):
            results.append(([trainer.step(x, y) for _ in range(3)], model.state()))
    for losses, state in results[1:]:
        assert losses == results[0][0]
        same(state, results[0][1])


@pytest.mark.parametrize("program", [True, False])
def test_a_step_is_what_its_parts_are(program):
    """Penalty, clipping, step and norm limit of SGD by hand, in that order."""
    model, x, y = build("mlp", np.float64)
    twin = model.copy()
    l2, limit, most = L2(0.1), ClipNorm(0.2), MaxNorm(0.9)
    trainer = fnn.Trainer(
        model, optimizer=optim.SGD(lr=0.5, weight_decay=0.01), rng=3, program=program, regularization=(l2, most),
        clip=limit,
    )  # fmt: skip
    loss = trainer.step(x, y)
    scores, backward = twin.forward(x, fnn.random.Stream(3, 0))
    data, dscores = F.cross_entropy(scores, y)
    backward(dscores)
    weights = [name for name, w in twin.params.items() if w.ndim == 2]
    assert list(trainer.regularized) == weights == ["0.weight", "4.weight", "7.weight"]
    assert trainer.regularized["0.weight"] == ["L2(0.1)", "MaxNorm(0.9)"]
    grads = {name: g.copy() for name, g in twin.grads.items()}
    for name in weights:
        grads[name] += l2(twin.params[name])[1]
    norm = limit(grads.values())
    assert norm > 0.2
    assert loss == pytest.approx(data + sum(l2(twin.params[name])[0] for name in weights), rel=1e-14)
    for name, w in twin.params.items():
        stepped = w - 0.5 * (grads[name] + 0.01 * w)
        expected = most(stepped) if name in weights else stepped
        # a dozen roundings; sums of a few hundred squares in another order
        np.testing.assert_allclose(model.params[name], expected, rtol=1e-13, atol=1e-15)
    assert any((most(twin.params[name]) != twin.params[name]).any() for name in weights)


def test_l2_with_sgd_is_weight_decay():
    """lr * l2 * w either way; the two round differently."""
    states = []
    for options in ({"regularization": L2(0.1, on="all")}, {"decay": 0.1}):
        model, x, y = build("residual", np.float64)
        sgd = optim.SGD(lr=0.05, momentum=0.9, weight_decay=options.pop("decay", 0.0))
        trainer = fnn.Trainer(model, optimizer=sgd, rng=3, **options)
        for _ in range(5):
            trainer.step(x, y)
        states.append(model.state())
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-9, atol=1e-11)  # batch norm magnifies 1e-16


def test_which_parameters():
    def chosen(on, model=None, **options):
        trainer = fnn.Trainer(model or build("residual")[0], regularization=L2(0.1, on=on), **options)
        return set(trainer.regularized)

    model = build("residual")[0]
    params = model.params
    weights = {name for name, array in params.items() if array.ndim >= 2}
    assert chosen("weights") == weights
    assert {name for name in params if name.endswith("bias")}.isdisjoint(weights)
    assert chosen("all") == set(params)
    assert chosen(["scores", "0.weight"]) == {"scores.weight", "0.weight"}
    assert chosen(["scores.bias"]) == {"scores.bias"}
    assert chosen("weights", rates={"scores": 0.0}) == weights - {"scores.weight"}
    assert chosen("weights", build("shared")[0]) == {"0.weight", "4.weight"}
    assert chosen(["2"], build("shared")[0]) == {"0.weight"}  # by its other name


def test_a_norm_limit_counts_units_as_the_layer_does():
    """Rows of a linear weight, filters of a convolution in groups; a transposed one's outputs are its second axis."""
    for layer, axes in ((L.Linear(6, 4, rng=0), 1), (L.Conv2d(4, 6, 3, groups=2, rng=0), (1, 2, 3))):
        layer.weight *= 3
        trainer = fnn.Trainer(layer, "mse", optim.SGD(lr=0.0), regularization=MaxNorm(1.5), rng=0, program=False)
        x = np.ones((2, 6) if layer.weight.ndim == 2 else (2, 4, 3, 3), np.float32)
        trainer.step(x, np.zeros_like(layer(x)))
        norms = np.sqrt(np.square(layer.weight).sum(axes))
        np.testing.assert_allclose(norms, 1.5, rtol=1e-6)  # 9 to 18 squares in float32
    layer = L.ConvTranspose2d(6, 4, 2, groups=2, rng=0)
    layer.weight *= 3
    before = layer.weight.copy()
    trainer = fnn.Trainer(layer, "mse", optim.SGD(lr=0.0), regularization=MaxNorm(0.5), rng=0)
    trainer.step(np.ones((2, 6, 3, 3), np.float32), np.zeros((2, 4, 4, 4), np.float32))
    for channels in (slice(0, 3), slice(3, 6)):  # the inputs of each group
        norms = np.sqrt(np.square(before[channels]).sum((0, 2, 3)))
        expected = before[channels] * (0.5 / norms)[:, None, None]
        assert (norms > 0.5).all()
        np.testing.assert_allclose(layer.weight[channels], expected, rtol=1e-6)  # a dozen squares in float32


def test_frozen_weights_keep_their_bits():
    model, x, y = build("mlp")
    before = model.params["0.weight"].copy()
    trainer = fnn.Trainer(
        model, optimizer=optim.SGD(lr=0.1), rng=0, rates={"0": 0.0}, regularization=[L2(1.0), MaxNorm(0.1)],
        clip=ClipNorm(1e-3),
    )  # fmt: skip
    trainer.step(x, y)
    np.testing.assert_array_equal(model.params["0.weight"], before)


def test_two_dtypes_have_one_norm():
    """A buffer for each dtype: the penalties are added up, and the norm is over all gradients."""
    single, double = L.Linear(4, 3, rng=0), L.Linear(3, 2, rng=1).copy(np.float64)
    model = L.Sequential(single, double)
    twin = model.copy()
    clip, l2 = ClipNorm(0.1), L2(0.1)
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=1.0), regularization=l2, clip=clip, rng=0)
    x, y = np.random.default_rng(0).standard_normal((5, 4), np.float32), np.arange(5) % 2
    loss = trainer.step(x, y)
    scores, backward = twin.forward(x.astype(np.float64))
    data, dscores = F.cross_entropy(scores, y)
    backward(dscores)
    grads = twin.grads
    for name in ("0.weight", "1.weight"):
        penalty, dw = l2(twin.params[name])
        data += penalty
        grads[name] += dw
    assert clip(grads.values()) > 0.1
    assert loss == pytest.approx(data, rel=1e-6)  # products of a float32 layer
    for name, value in twin.params.items():
        np.testing.assert_allclose(model.params[name], value - grads[name], rtol=1e-5, atol=1e-6)


def test_parameters_of_normalisation_are_no_weights():
    """Whatever their shape: layer norm's have that of what is normalised."""
    norms = {name: cls for name, cls in vars(L).items() if "Norm" in name and isinstance(cls, type)}
    assert {"BatchNorm1d", "BatchNorm2d"} <= set(norms)
    for name, cls in norms.items():
        assert cls.penalized == (), f"{name} needs penalized = (), or penalties shrink its weight"
    for name, cls in vars(L).items():
        if "Transpose" in name and isinstance(cls, type):
            assert cls.unit_axis == 1, f"{name} has a weight (in, out, ...), so max-norm needs unit_axis = 1"


def blobs():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    return rng.standard_normal((90, 4), np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[y], y


def test_history_tells_data_from_penalty():
    x, y = blobs()
    model = L.Linear(4, 3, rng=0)
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.0), rng=0, regularization=L2(0.5))
    history = trainer.fit((x, y), validation=(x, y), epochs=2, batch_size=40, progress=False)
    data, penalty = F.cross_entropy(model(x), y)[0], L2(0.5)(model.weight)[0]
    np.testing.assert_allclose(history.loss, data, rtol=1e-6)  # float32 scores, by batches
    assert history.val_loss == [trainer.evaluate(x, y)["loss"]] * 2
    # the mean of three equal numbers; sums in another order
    assert history.regularization == pytest.approx([penalty] * 2, rel=1e-14)
    assert trainer.evaluate(x, y)["regularization"] == pytest.approx(penalty, rel=1e-14)
    assert list(trainer.evaluate(x, y)) == ["loss", "accuracy", "regularization"]
    first = history.step_loss[0]
    trainer.steps = 0
    assert trainer.step(x[trainer._order(90)[:40]], y[trainer._order(90)[:40]]) == pytest.approx(first + penalty)
    assert "regularization" in str(history).splitlines()[0]
    plain = fnn.Trainer(L.Linear(4, 3, rng=0), rng=0)
    assert plain.fit((x, y), progress=False).regularization == []
    assert list(plain.evaluate(x, y)) == ["loss", "accuracy"]
    assert plain.regularized == {}


def test_l2_shrinks_and_l1_empties():
    x, y = blobs()
    weights = {}
    for name, regularization in (("none", None), ("l2", L2(0.3)), ("l1", L1(0.1))):
        trainer = fnn.Trainer(L.Linear(4, 3, rng=0), optimizer=optim.SGD(lr=0.05), rng=0, regularization=regularization)
        trainer.fit((x, y), epochs=400, batch_size=90, progress=False)
        weights[name] = abs(trainer.model.weight)
    assert np.square(weights["l2"]).sum() < 0.5 * np.square(weights["none"]).sum()
    # the fourth feature says nothing; a step of lr * strength = 0.005 goes to and fro across 0
    assert weights["l1"][:, 3].max() < 0.01 < weights["none"][:, 3].max()


def test_clipping_tames_a_loss_that_explodes():
    x, y = blobs()
    runs = {}
    for clip in (None, ClipNorm(1.0)):
        trainer = fnn.Trainer(L.Linear(4, 1, rng=0), "mse", optim.SGD(lr=1.0), rng=0, clip=clip)
        target = 1000 * y[:, None].astype(np.float32)
        runs[clip is None] = trainer.fit((100 * x, target), epochs=20, progress=False)
    assert "the loss is" in runs[True].stopped
    assert not runs[False].stopped


def test_an_infinite_penalty_stops_a_run():
    x, y = blobs()
    model = L.Linear(4, 3, rng=0)
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=1.0), rng=0, regularization=L2(1e308))
    assert "the loss is" in trainer.fit((x, y), epochs=3, progress=False).stopped


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: L2(-1), ValueError, "L2: strength must be finite and at least 0, got -1"),
        (lambda: L2(math.nan), ValueError, "L2: strength"),
        (lambda: L1(math.inf), ValueError, "L1: strength"),
        (lambda: L1("0.1"), TypeError, "L1: strength must be a number"),
        (lambda: L1(None), TypeError, "L1: strength must be a number"),
        (lambda: ElasticNet(0.1, -0.1), ValueError, "ElasticNet: l2"),
        (lambda: MaxNorm(0.0), ValueError, "MaxNorm: limit must be finite and above 0"),
        (lambda: MaxNorm(math.nan), ValueError, "MaxNorm: limit"),
        (lambda: ClipNorm(0), ValueError, "ClipNorm: limit must be finite and above 0"),
        (lambda: ClipNorm(math.nan), ValueError, "ClipNorm: limit"),
        (lambda: ClipValue(-2), ValueError, "ClipValue: limit"),
        (lambda: L2(0.1, on="biases"), ValueError, "L2: on must be 'weights', 'all' or a sequence of names"),
        (lambda: L2(0.1, on=[]), ValueError, "on must be"),
        (lambda: L2(0.1, on=[3]), ValueError, "on must be"),
        (lambda: L2(0.1, on=None), ValueError, "on must be"),
        (lambda: L2(0.1)(np.ones(3, complex)), TypeError, "L2: w has dtype complex128"),
        (lambda: MaxNorm(1.0)(np.ones(3)), ShapeError, "MaxNorm: expected w of two axes or more"),
        (lambda: MaxNorm(1.0)(np.ones((3, 2)), 2), ShapeError, "axis 2"),
        (lambda: ClipNorm(1.0)([[1.0, 2.0]]), TypeError, "ClipNorm: expected float32 or float64 arrays, got list"),
        (lambda: ClipNorm(1.0)([np.arange(3)]), TypeError, "got int64"),
        (lambda: ClipValue(1.0)([np.broadcast_to(1.0, (2, 2))]), ValueError, "read-only"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"regularization": 0.1}, TypeError, "regularization must be L1, L2, ElasticNet or MaxNorm objects, got 0.1"),
        ({"regularization": [L2(0.1), ClipNorm(1.0)]}, TypeError, r"got ClipNorm\(1\)"),
        ({"clip": 1.0}, TypeError, "clip must be a ClipNorm or a ClipValue, got 1.0"),
        ({"clip": L2(1.0)}, TypeError, "clip must be"),
        ({"regularization": L2(0.1, on=["nowhere"])}, ValueError, "'nowhere' names no parameter"),
        ({"regularization": L2(0.1, on=["1"])}, ValueError, "'1' names no parameter, and no layer with weights"),
        (
            {"regularization": MaxNorm(1.0, on="all")},
            ValueError,
            r"'1.weight' of shape \(16,\) has no incoming vectors",
        ),
    ],
)
def test_a_trainer_refuses_before_it_takes_the_model(options, error, message):
    model, x, y = build("mlp")
    old = fnn.Trainer(model, rng=0)
    with pytest.raises(error, match=message):
        fnn.Trainer(model, **options)
    old.step(x, y)  # it still owns the layers


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"L2\(0.1\) finds no weights"):
        fnn.Trainer(L.Sequential(L.BatchNorm1d(3)), regularization=L2(0.1))

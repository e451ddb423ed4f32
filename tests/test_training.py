"""The trainer: programs and closures agree bit for bit, seeds mean something, nothing changes in a failed step."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import numpy as np
import pytest

import fastnn as fnn
from fastnn import _backends, optim
from fastnn import functional as F
from fastnn import layers as L
from fastnn.errors import ShapeError
from fastnn.regularization import L2
from nets import NETS, build
from test_compiler import Doubling, Overriding

OPTIMIZERS = {
    "sgd": lambda: optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda: optim.SGD(lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optim.Adam(lr=0.01),
    "adamw": lambda: optim.AdamW(lr=0.01),
    "adagrad": lambda: optim.AdaGrad(lr=0.01, lr_decay=0.1),
    "rmsprop": lambda: optim.RMSProp(lr=0.001, momentum=0.9),
}


def run(name, steps=5, *, optimizer="sgd", program=True, dtype=np.float32, threads=None, **options):
    """Train one of the nets; return the losses and the final state."""
    model, x, y = build(name, dtype)
    trainer = fnn.Trainer(model, optimizer=OPTIMIZERS[optimizer](), rng=3, program=program, **options)
    with fnn.num_threads(threads or fnn.threads.get_num_threads()):
        losses = [trainer.step(x, y) for _ in range(steps)]
    return losses, model.state(), trainer


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
def test_programs_and_closures_agree_bit_for_bit(name, optimizer, dtype):
    losses, state, trainer = run(name, optimizer=optimizer, dtype=dtype)
    expected, expected_state, _ = run(name, optimizer=optimizer, dtype=dtype, program=False)
    if _backends.name == "compiled":
        assert any(p is not None for p in trainer._programs.values())
    assert losses == expected
    same(state, expected_state)


@pytest.mark.skipif(_backends.name != "compiled", reason="only the compiled backend records programs")
def test_batch_norm_sum_and_relu_are_recorded_as_one():
    def conv_norm(c):
        return [L.Conv2d(c, 4, 3, padding=1, bias=False, rng=c), L.BatchNorm2d(4)]

    def model(frozen=False):
        block = L.Sequential(*conv_norm(4), L.ReLU(), *conv_norm(4))
        net = L.Sequential(*conv_norm(3), L.ReLU(), L.Residual(block), L.ReLU(), L.Residual(L.ReLU()), L.ReLU(),
                           L.Flatten(), L.Linear(64, 3, rng=0))  # fmt: skip
        for _, layer in net.leaves():
            if isinstance(layer, L.BatchNorm2d):
                layer.frozen = frozen
        return net

    x, y = np.random.default_rng(0).standard_normal((5, 3, 4, 4), np.float32), np.arange(5) % 3
    for frozen, alone in ((False, 1), (True, 3)):  # the ReLU that is a branch, and those behind a frozen norm
        results = []
        for program in (True, False):
            trainer = fnn.Trainer(model(frozen), optimizer=optim.SGD(lr=0.1), rng=0, program=program)
            results.append([trainer.step(x, y) for _ in range(3)])
            if program:
                (recorded,) = trainer._programs.values()
                steps = recorded._program.steps
        assert results[0] == results[1]
        assert steps.count("relu_forward") == alone
        assert steps.count("add_forward") == (1 if not frozen else 2) + 2  # forward, and gradients of two inputs


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_programs_and_closures_agree(name):
    """Also of layers that stand in two places or get none: what a program does not write first it sets to zero."""
    (_, _, trainer), (_, _, twin) = (run(name, steps=3, program=program) for program in (True, False))
    for mine, other in zip(trainer._parameters.buffers, twin._parameters.buffers, strict=True):
        np.testing.assert_array_equal(mine.grads, other.grads)
    assert not F._unwritten


@pytest.mark.skipif(_backends.name != "compiled", reason="the others keep the format of x")
def test_a_step_computes_in_one_memory_format():
    """Images in either format, by a program or by closures: the same bits."""
    model, x, y = build("residual", np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert last.strides != x.strides
    results = []
    for images, program in ((x, True), (last, True), (x, False), (last, False)):
        trainer = fnn.Trainer(model.copy(), optimizer=optim.SGD(lr=0.05), rng=3, program=program)
        results.append([trainer.step(images, y) for _ in range(3)])
    assert results[0] == results[1] == results[2] == results[3]


def labels_for(loss, scores, rng, dtype):
    """Labels that fit a loss."""
    if loss in ("cross_entropy", "hinge"):
        return rng.integers(0, scores.shape[1], len(scores))
    return rng.uniform(0, 1, scores.shape).astype(dtype)


LOSSES = {
    **{name: name for name in fnn.losses.names()},
    "smooth": functools.partial(F.cross_entropy, label_smoothing=0.2, weight=[1, 2, 3, 4, 5]),
    "ignoring": functools.partial(F.cross_entropy, ignore_index=2),
    "hinge_ignoring": functools.partial(F.hinge, ignore_index=2),
    "columns": functools.partial(F.binary_cross_entropy_with_logits, weight=[3.0, 1, 1, 2, 0.5]),
    "margin": functools.partial(F.hinge, margin=0.3, weight=np.arange(1, 6)),
    "huber2": functools.partial(F.huber, delta=0.1),
    "positive": functools.partial(F.binary_cross_entropy_with_logits, pos_weight=[3.0, 1, 1, 2, 0.5]),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_recorded(loss, dtype, weighted):
    """A program for each loss, with its options, equals the closures bit for bit, and the loss is that function's."""
    results = []
    for program in (True, False):
        model, x, _ = build("mlp", dtype)
        y = labels_for(loss if loss in fnn.losses.names() else LOSSES[loss].func.__name__, model(x),
                       np.random.default_rng(0), dtype)  # fmt: skip
        sample_weight = np.linspace(0.5, 2, 6).astype(dtype) if weighted else None
        trainer = fnn.Trainer(model, LOSSES[loss], optim.SGD(lr=0.01), rng=3, program=program)
        twin = model.copy()
        values = [trainer.step(x, y, sample_weight=sample_weight) for _ in range(4)]
        if program and _backends.name == "compiled":
            assert any(p is not None for p in trainer._programs.values())
        scores, _ = twin.forward(x, fnn.random.Stream(3, 0))
        expected, _ = fnn.losses.get(LOSSES[loss])(scores, y, sample_weight=sample_weight)
        # the arrays of a partial are float64 there, which changes the roundings of some 30 scores
        assert values[0] == pytest.approx(expected, rel=30 * float(np.finfo(dtype).eps))
        results.append((values, model.state()))
    assert results[0][0] == results[1][0]
    same(results[0][1], results[1][1])


def test_images_as_targets():
    """An autoencoder: the output is an image, in either memory format."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 6, 6), np.float32)
    for image in (x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        results = []
        for program in (True, False):
            model = L.Sequential(L.Conv2d(3, 4, 3, padding=1, rng=0), L.ReLU(), L.Conv2d(4, 3, 3, padding=1, rng=1))
            trainer = fnn.Trainer(model, "mse", optim.SGD(lr=0.1, momentum=0.9), rng=0, program=program)
            results.append([trainer.step(image, image, sample_weight=[1, 2, 3, 4]) for _ in range(20)])
        assert results[0] == results[1]
        assert results[0][-1] < 0.5 * results[0][0]


def test_regression_has_no_accuracy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4), np.float32)
    y = x @ np.float32([1, -2, 3, 0.5]) + 1
    trainer = fnn.Trainer(L.Linear(4, 1, rng=0), "huber", optim.SGD(lr=0.1, momentum=0.9), rng=0)
    history = trainer.fit((x, y), validation=(x, y), epochs=30, batch_size=20, progress=False)
    assert history.loss[-1] < 1e-6 and history.val_loss[-1] < 1e-6
    assert history.accuracy == [] and history.val_accuracy == []
    assert list(trainer.evaluate(x, y)) == ["loss"]
    assert "accuracy" not in str(history)
    np.testing.assert_allclose(trainer.model.weight, [[1, -2, 3, 0.5]], atol=1e-3)  # the loss is 1e-6 at most


def test_accuracy_of_yes_and_no():
    x = np.eye(4, dtype=np.float32)
    y = np.array([0, 1, 1, 0])
    trainer = fnn.Trainer(L.Linear(4, 1, rng=0), "binary_cross_entropy_with_logits", optim.SGD(lr=1.0), rng=0)
    assert trainer.fit((x, y), epochs=50, progress=False).accuracy[-1] == 1.0
    assert trainer.evaluate(x, y)["accuracy"] == 1.0
    assert trainer.evaluate(x, 1 - y)["accuracy"] == 0.0
    several = fnn.Trainer(L.Linear(4, 2, rng=0), "binary_cross_entropy_with_logits", optim.SGD(lr=1.0), rng=0)
    several.fit((x, np.stack([y, 1 - y], 1)), epochs=50, progress=False)
    assert several.evaluate(x, np.stack([y, y], 1))["accuracy"] == 0.5


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_ignored_rows_count_in_no_accuracy(loss):
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, -100, -100])
    trainer = fnn.Trainer(L.Linear(4, 3, rng=0), loss, optim.SGD(lr=1.0), rng=0)
    assert trainer.fit((x, y), epochs=50, progress=False).accuracy[-1] == 1.0
    assert trainer.evaluate(x, y)["accuracy"] == 1.0
    assert trainer.evaluate(x, np.array([1, 1, -100, -100]))["accuracy"] == 0.5
    assert "accuracy" not in trainer.evaluate(x, np.full(4, -100))


def test_the_loss_may_be_replaced():
    model, x, y = build("mlp")
    trainer = fnn.Trainer(model, "cross_entropy", optim.SGD(lr=0.0), rng=0)
    trainer.step(x, y)
    trainer.loss = "hinge"
    trainer.steps = 0
    scores, _ = model.copy().forward(x, fnn.random.Stream(0, 0))
    assert trainer.step(x, y) == F.hinge(scores, y)[0]
    with pytest.raises(ValueError, match="unknown loss"):
        trainer.loss = "nothing"


@pytest.mark.parametrize("name", NETS)
def test_same_bits_for_any_number_of_threads(name):
    results = [run(name, threads=n) for n in (1, 2, 3)]
    for losses, state, _ in results[1:]:
        assert losses == results[0][0]
        same(state, results[0][1])


@pytest.mark.parametrize("name", NETS)
def test_training_learns(name):
    losses, _, _ = run(name, 60, optimizer="adam")
    assert losses[-1] < 0.7 * losses[0]


def test_a_step_is_what_its_parts_are():
    """One step of SGD by hand, from the layers and the loss."""
    model, x, y = build("mlp", np.float64)
    twin = model.copy()
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.1), rng=3)
    loss = trainer.step(x, y)
    scores, backward = twin.forward(x, fnn.random.Stream(3, 0))
    expected, dscores = F.cross_entropy(scores, y)
    backward(dscores)
    assert loss == expected
    for key, value in twin.params.items():
        np.testing.assert_allclose(model.params[key], value - 0.1 * twin.grads[key], rtol=1e-13, atol=1e-15)
    same(model.buffers, twin.buffers)


def test_layers_arrays_become_views_and_sharing_is_kept():
    model, x, y = build("shared")
    values = {k: v.copy() for k, v in model.params.items()}
    trainer = fnn.Trainer(model, rng=0)
    (buffer,) = trainer._parameters.buffers
    for key, array in model.params.items():
        assert np.shares_memory(array, buffer.params) and np.shares_memory(model.grads[key], buffer.grads)
        np.testing.assert_array_equal(array, values[key])
        assert array.__array_interface__["data"][0] % 64 == 0
    assert model.params["0.weight"] is model.params["2.weight"]
    before = model.params["0.weight"].copy()
    trainer.step(x, y)
    assert (model.params["0.weight"] != before).any()


def test_the_newest_trainer_owns_the_layers():
    model, x, y = build("mlp")
    old = fnn.Trainer(model, rng=0)
    old.step(x, y)
    new = fnn.Trainer(model, rng=0)
    new.step(x, y)
    state = model.state()
    with pytest.raises(RuntimeError, match="no longer owns 'weight' of Linear"):
        old.step(x, y)
    same(model.state(), state)
    new.step(x, y)
    model[0].weight = np.zeros_like(model[0].weight)
    with pytest.raises(RuntimeError, match="no longer owns"):
        new.step(x, y)


def test_rates_freeze_and_decays_spare():
    model, x, y = build("mlp")
    before = model.state()
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.1), rng=0, rates={"4": 0.0, "4.bias": 1.0})
    trainer.step(x, y)
    np.testing.assert_array_equal(model.params["4.weight"], before["4.weight"])
    assert (model.params["4.bias"] != before["4.bias"]).any()
    assert (model.params["0.weight"] != before["0.weight"]).any()
    with pytest.raises(ValueError, match="'nowhere' names no parameter"):
        fnn.Trainer(model, rates={"nowhere": 0.0})
    shrunk = fnn.Trainer(build("mlp")[0], optimizer=optim.SGD(lr=0.1, weight_decay=0.5), rng=0, decays={"0": 0.0})
    shrunk.step(x, y)
    plain = fnn.Trainer(build("mlp")[0], optimizer=optim.SGD(lr=0.1), rng=0)
    plain.step(x, y)
    np.testing.assert_array_equal(shrunk.model.params["0.weight"], plain.model.params["0.weight"])
    assert (shrunk.model.params["4.weight"] != plain.model.params["4.weight"]).any()


@pytest.mark.parametrize("change", ["frozen", "p"])
def test_a_change_of_the_model_is_seen_by_the_next_step(change):
    """A recorded step must not outlive the configuration that it was recorded from."""
    model, x, y = build("mlp")
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.0), rng=0)
    trainer.step(x, y)
    if change == "frozen":
        model[1].frozen = True
        before = model[1].running_mean.copy()
        trainer.step(x, y)
        np.testing.assert_array_equal(model[1].running_mean, before)
    else:
        for layer in (model[3], model[6]):
            layer.p = 0.0
        model[1].frozen = True
        loss = trainer.step(x, y)
        assert loss == pytest.approx(F.cross_entropy(model(x), y)[0], rel=1e-6)


def test_a_changed_survival_rate_is_seen_by_the_next_step():
    model, x, y = build("stochastic")
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.0), rng=0)
    trainer.step(x, y)
    for i in (1, 2, 3):
        model[i]["main"].p = 0.0
        model[i]["main"]["main"][1].frozen = True
    for i in (5, 7):
        model[i].p = 0.0
    assert trainer.step(x, y) == pytest.approx(F.cross_entropy(model(x), y)[0], rel=1e-6)


def test_the_learning_rate_may_change_between_steps():
    model, x, y = build("mlp")
    trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.1), rng=0)
    trainer.step(x, y)
    trainer.optimizer.lr = 0.0
    before = {k: v.copy() for k, v in model.params.items()}
    trainer.step(x, y)
    same(model.params, before)


def test_layers_that_users_wrote_train_by_their_closures():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3), np.float32), rng.integers(0, 3, 8)
    for layer in (Doubling(), Overriding(3, 3, rng=0)):
        model = L.Sequential(L.Linear(3, 3, rng=0), layer)
        trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.1), rng=0)
        losses = [trainer.step(x, y) for _ in range(30)]
        assert losses[-1] < losses[0]


def test_soft_labels_and_sample_weights():
    for program in (True, False):
        model, x, y = build("mlp", np.float64)
        trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.0), rng=0, program=program)
        hard = trainer.step(x, y)
        trainer.steps = 0  # the same masks
        assert trainer.step(x, np.eye(5)[y]) == pytest.approx(hard, rel=1e-13)
        trainer.steps = 0
        weights = np.array([1.0, 0, 0, 0, 0, 0])
        weighted = trainer.step(x, y, sample_weight=weights)
        trainer.steps = 0
        assert weighted != hard
        assert trainer.step(x, y, sample_weight=3 * weights) == pytest.approx(weighted, rel=1e-13)


@pytest.mark.parametrize("program", [True, False])
@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (lambda x, y: (x, y + 5), "out of range for scores with 5 classes"),
        (lambda x, y: (x, y[:3]), "one label for each row"),
        (lambda x, y: (x[:, :7], y), r"layer '0' .*expected \(N, 12\), got \(6, 7\)"),
        (lambda x, y: (x, y.astype(str)), "labels have dtype"),
        (lambda x, y: (x, np.eye(4)[y % 4]), "must have the shape of scores"),
        (lambda x, y: (x[:0], y[:0]), "the batch is empty"),
        (lambda x, y: (x, y - 10, "hinge"), "label -.* of row 0 is out of range for scores with 5 classes"),
        (lambda x, y: (x, y.astype(float), "hinge"), "labels have dtype"),
        (lambda x, y: (x, np.eye(5)[y], "hinge"), "one label for each"),
        (lambda x, y: (x, y, "mse"), "targets must have the shape of scores"),
        (lambda x, y: (x, np.eye(5)[y] * 2, "binary_cross_entropy_with_logits"), "must lie between 0 and 1"),
    ],
)
def test_a_failed_step_changes_nothing(program, batch, error):
    model, x, y = build("mlp")
    x, y, *loss = batch(x, y)
    good = {"mse": np.zeros((6, 5)), "binary_cross_entropy_with_logits": np.zeros((6, 5))}
    model, right, labels = build("mlp")
    trainer = fnn.Trainer(model, *loss, rng=0, program=program)
    trainer.step(right, good.get(loss[0], labels) if loss else labels)
    state = model.state()
    slots = [s.copy() for b in trainer._parameters.buffers for s in b.slots.values()]
    with pytest.raises((ValueError, TypeError), match=error):
        trainer.step(x, y)
    same(model.state(), state)
    for before, after in zip(slots, (s for b in trainer._parameters.buffers for s in b.slots.values()), strict=True):
        np.testing.assert_array_equal(before, after)
    assert trainer.steps == 1


def test_training_cost_is_what_a_step_returns():
    for name in ("mlp", "residual", "stochastic"):
        model, x, y = build(name)
        trainer = fnn.Trainer(model, rng=3, regularization=L2(0.1))
        for _ in range(2):
            before = model.state()
            cost = trainer.training_cost(x, y)
            same(model.state(), before)
            # The penalty is summed in another order after the program's own pass over the buffer.
            assert cost == pytest.approx(trainer.step(x, y), rel=1e-6)


def blobs(n=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    # means that lie 5.7 standard deviations apart: the best classifier errs in 0.5 % of the cases
    x = rng.standard_normal((n, 4), np.float32) + 4 * np.eye(3, 4, dtype=np.float32)[y]
    return x, y


def small_net():
    return L.Sequential(L.Linear(4, 16, rng=0), L.ReLU(), L.Dropout(0.1), L.Linear(16, 3, rng=1))


def test_fit_learns_and_records():
    x, y = blobs()
    trainer = fnn.Trainer(small_net(), optimizer=optim.Adam(lr=0.01), rng=0)
    history = trainer.fit((x[:200], y[:200]), validation=(x[200:], y[200:]), epochs=15, batch_size=32, progress=False)
    assert len(history) == 15 and len(history.step_loss) == 15 * 7
    assert history.val_accuracy[-1] > 0.95 and history.loss[-1] < 0.5 * history.loss[0]
    assert history.val_loss[-1] == pytest.approx(trainer.evaluate(x[200:], y[200:])["loss"])
    lines = str(history).splitlines()
    assert len(lines) == 16 and "val accuracy" in lines[0]
    np.testing.assert_array_equal(trainer.predict(x[:10]), trainer.model(x[:10]))


def test_a_seed_fixes_the_whole_run():
    x, y = blobs()
    states = []
    for seed in (1, 1, 2):
        trainer = fnn.Trainer(small_net(), optimizer=optim.Adam(lr=0.01), rng=seed)
        trainer.fit((x, y), epochs=2, progress=False)
        states.append(trainer.model.state())
    same(states[0], states[1])
    assert any((states[0][k] != states[2][k]).any() for k in states[0])


def test_fit_stops_when_the_loss_is_no_number():
    x, y = blobs()
    trainer = fnn.Trainer(small_net(), optimizer=optim.SGD(lr=1e30), rng=0)
    history = trainer.fit((x, y), epochs=50, progress=False)
    assert "the loss is" in history.stopped and len(history) < 50
    assert not math.isfinite(history.step_loss[-1])
    assert "stopped: the loss is" in str(history)


def test_schedule_scales_the_rate():
    x, y = blobs(64)
    seen = []

    def schedule(done):
        seen.append(done)
        return 0.0

    trainer = fnn.Trainer(small_net(), optimizer=optim.SGD(lr=0.1), rng=0)
    before = trainer.model.state()
    trainer.fit((x, y), epochs=2, batch_size=32, schedule=schedule, progress=False)
    same(trainer.model.state(), before)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_predict_batches_like_one():
    model, _, _ = build("residual")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((11, 3, 12, 12), np.float32)
    trainer = fnn.Trainer(model, rng=0)
    whole = trainer.predict(images)
    parts = trainer.predict(images, batch_size=4)
    # the second way runs a compiled copy, with batch norm folded: see test_compiler.FOLDED
    np.testing.assert_allclose(parts, whole, rtol=0, atol=300 * np.finfo(np.float32).eps * np.abs(whole).max())
    weight = model.params["scores.weight"]
    weight *= 2
    assert (trainer.predict(images, batch_size=4) != parts).any()


def test_constructor_and_fit_say_what_is_wrong():
    x, y = blobs(8)
    with pytest.raises(TypeError, match="expected a layer"):
        fnn.Trainer(np.tanh)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown loss 'l3'"):
        fnn.Trainer(small_net(), loss="l3")
    trainer = fnn.Trainer(small_net())
    for options in ({"epochs": 0}, {"batch_size": 2.5}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            trainer.fit((x, y), progress=False, **options)
    with pytest.raises(fnn.ShapeError, match="one label for each row"):
        trainer.fit((x, y[:3]), progress=False)


# ---- what cannot be done leaves everything as it was ----


def _linear():
    return L.Linear(4, 3, rng=0), np.random.default_rng(0).standard_normal((6, 4), np.float32), np.arange(6) % 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loss": "crossentropy"}, ValueError, "crossentropy"),
        ({"decays": {"weight": -1}}, ValueError, "decay"),
        ({"rates": {"weight": np.nan}}, ValueError, "rate"),
        ({"rates": 3}, TypeError, "rates must map names"),
        ({"optimizer": "adam"}, TypeError, "fastnn.optim"),
    ],
)
def test_a_trainer_that_cannot_be_made_leaves_the_model_to_the_one_before(options, error, words):
    model, x, y = _linear()
    trainer = fnn.Trainer(model, rng=0)
    with pytest.raises(error, match=words):
        fnn.Trainer(model, **options)
    trainer.step(x, y)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_trainer_is_not_copied(copied):
    trainer = fnn.Trainer(_linear()[0])
    with pytest.raises(TypeError, match="copy or save its model"):
        copied(trainer)
    with pytest.raises(TypeError, match=r"fastnn\.load_program"):
        copied(fnn.compile(trainer.model, (6, 4)))


@pytest.mark.parametrize(
    ("validation", "error", "words"),
    [
        ((np.zeros((2, 4), np.float32), np.array([0, 3])), ValueError, "3"),
        ((np.zeros((0, 4), np.float32), np.zeros(0, int)), ShapeError, "there are no rows"),
        ((np.zeros((2, 5), np.float32), np.zeros(2, int)), ShapeError, "5"),
    ],
)
def test_validation_is_checked_before_training(validation, error, words):
    model, x, y = _linear()
    trainer, before = fnn.Trainer(model, rng=0), model.state()
    with pytest.raises(error, match=words):
        trainer.fit((x, y), validation=validation)
    with pytest.raises(error, match=words):
        trainer.evaluate(*validation)
    with pytest.raises(TypeError, match="schedule must be a function"):
        trainer.fit((x, y), schedule="cosine")
    assert all((before[name] == array).all() for name, array in model.state().items())


def test_nan_in_the_data_is_not_blamed_on_the_rate():
    model, x, y = _linear()
    x[3, 1] = np.nan
    assert "x has NaN" in fnn.Trainer(model, rng=0).fit((x, y), progress=False).stopped


def test_a_forward_pass_that_fails_half_way_moves_no_statistics():
    norm = L.BatchNorm1d(4)
    x = np.random.default_rng(0).standard_normal((6, 4), np.float32)
    nets = [
        L.Sequential(norm, L.Linear(5, 3)),
        L.Sequential(norm, L.Dropout(0.5)),
        L.Residual(L.Sequential(norm, L.Linear(4, 3))),
        L.Sequential(L.Sequential(norm), L.Linear(5, 3)),
    ]
    for net in nets:
        with pytest.raises((ShapeError, ValueError, TypeError)):
            net.forward(x)
        assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()

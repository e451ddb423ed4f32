"""Monitors of Trainer.fit, and compare: what they record is right, what they keep is kept bit for bit."""

from __future__ import annotations

import csv
import math
import os
import struct
import sys
import types

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers as L
from fastnn import monitors, optim, regularization
from fastnn.training import History, Trainer
from fastnn.training.compare import compare

RNG = np.random.default_rng(0)


def blobs(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, 4), np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[y]
    return x, y


X, Y = blobs()
TRAIN, VALIDATION = (X[:200], Y[:200]), (X[200:], Y[200:])


def net(seed=0):
    return L.Sequential(L.Linear(4, 16, rng=seed), L.BatchNorm1d(16), L.ReLU(), L.Linear(16, 3, rng=seed + 1))


def fit(*watching, model=None, lr=0.05, epochs=6, batch_size=50, validation=VALIDATION, data=TRAIN, **options):
    trainer = Trainer(model or net(), optimizer=optim.SGD(lr=lr, momentum=0.9), rng=0, **options)
    history = trainer.fit(
        data, validation=validation, epochs=epochs, batch_size=batch_size, monitors=watching, progress=False
    )
    return trainer, history


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


# ---- the protocol ----


class Noting(monitors.Monitor):
    def __init__(self):
        self.calls = []

    def begin(self, run):
        self.calls.append(("begin", run.epoch, run.step))

    def before_step(self, run):
        self.calls.append(("before_step", run.epoch, run.step))

    def after_step(self, run):
        self.calls.append(("after_step", run.epoch, run.step))
        assert run.loss == run.history.step_loss[-1]

    def after_epoch(self, run):
        self.calls.append(("after_epoch", run.epoch, run.step))

    def end(self, run):
        self.calls.append(("end", run.epoch, run.step))


def test_monitors_are_called_in_order():
    noting, epochs = Noting(), []
    fit(noting, lambda run: epochs.append(run.epoch), epochs=2, batch_size=100)
    steps = [("before_step", 0, 0), ("after_step", 0, 1), ("before_step", 0, 1), ("after_step", 0, 2)]
    more = [("before_step", 1, 2), ("after_step", 1, 3), ("before_step", 1, 3), ("after_step", 1, 4)]
    assert noting.calls == [
        ("begin", 0, 0), *steps, ("after_epoch", 1, 2), *more, ("after_epoch", 2, 4), ("end", 2, 4)
    ]  # fmt: skip
    assert epochs == [1, 2]


def test_watching_changes_no_bit_of_the_training(tmp_path):
    watching = [monitors.UpdateRatios(1), monitors.GradientNorms(1), monitors.Statistics(), monitors.DeadUnits()]
    watching += [monitors.CSVLog(tmp_path / "a.csv"), monitors.Checkpoint(tmp_path / "a.npz"), Noting()]
    watched, history = fit(*watching)
    alone, expected = fit()
    same(watched.model.state(), alone.model.state())
    assert history.step_loss == expected.step_loss
    assert history.val_loss == expected.val_loss


def test_what_began_is_ended_when_something_fails():
    noting = Noting()

    def fails(run):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(noting, fails)
    assert noting.calls[-1][0] == "end"
    late = Noting()
    with pytest.raises(ValueError, match="EarlyStopping: 'val_loss' needs validation"):
        fit(noting, monitors.EarlyStopping(), late, validation=None)
    assert noting.calls[-2:] == [("begin", 0, 0), ("end", 0, 0)] and late.calls == []


def test_stopping_from_a_step_and_from_an_epoch():
    class Third(monitors.Monitor):
        def after_step(self, run):
            if run.step == 3:
                run.stop("enough")
                run.stop("another reason")

    _, history = fit(Third())
    assert (history.stopped, len(history.step_loss), len(history)) == ("enough", 3, 0)
    _, history = fit(lambda run: run.stop("one epoch"))
    assert (history.stopped, len(history)) == ("one epoch", 1)


@pytest.mark.parametrize(
    ("given", "message"), [([3], "must be Monitors or functions"), ([monitors.Divergence], r"write Divergence\(\)")]
)
def test_what_is_no_monitor(given, message):
    trainer = Trainer(net(), rng=0)
    before = trainer.model.state()
    with pytest.raises(TypeError, match=message):
        trainer.fit(TRAIN, monitors=given)
    same(trainer.model.state(), before)


# ---- the best weights ----


def test_early_stopping_keeps_the_best_weights_bit_for_bit():
    """The weights after it equal those of a run that ends at the best epoch."""
    stopping = monitors.EarlyStopping(patience=3)
    trainer, history = fit(stopping, lr=0.5, epochs=60)
    assert history.stopped and len(history) == stopping.best_epoch + 4
    assert history.val_loss[stopping.best_epoch - 1] == min(history.val_loss) == stopping.best
    shorter, _ = fit(lr=0.5, epochs=stopping.best_epoch)
    same(trainer.model.state(), shorter.model.state())
    assert trainer.evaluate(*VALIDATION, batch_size=50)["loss"] == stopping.best
    assert f"the weights are those of epoch {stopping.best_epoch}" in history.stopped


@pytest.mark.parametrize("program", [True, False])
@pytest.mark.parametrize(
    "optimizer", [optim.SGD(lr=0.5, momentum=0.9, nesterov=True), optim.Adam(lr=0.2), optim.RMSProp(lr=0.1)], ids=str
)
def test_what_the_optimizer_remembers_comes_back_with_the_best_weights(optimizer, program):
    """The next step has the bits of that of a run which ended at the best epoch: Adam counts from there too."""
    stopping = monitors.EarlyStopping(patience=3)
    trainer = Trainer(net(), optimizer=optimizer, rng=0, program=program)
    history = trainer.fit(TRAIN, validation=VALIDATION, epochs=60, batch_size=50, monitors=[stopping], progress=False)
    assert stopping.best_epoch < len(history)
    shorter = Trainer(net(), optimizer=optimizer, rng=0, program=program)
    shorter.fit(TRAIN, epochs=stopping.best_epoch, batch_size=50, progress=False)
    assert trainer.steps > shorter.steps  # and so other rows and masks are drawn from here on
    for _ in range(2):
        assert trainer.step(X[:50], Y[:50]) == shorter.step(X[:50], Y[:50])
        same(trainer.model.state(), shorter.model.state())


def test_divergence_brings_back_what_the_optimizer_remembered():
    """Momentum of 1e30 would throw the restored weights away with the next step, at any rate."""
    trainer, history = fit(monitors.Divergence(factor=1e300), model=linear(), lr=1e38, epochs=40)
    assert history.stopped
    trainer.optimizer.lr = 0.01
    assert all(math.isfinite(loss) for loss in trainer.fit(TRAIN, epochs=2, progress=False).step_loss)


def test_early_stopping_restores_at_the_end_of_a_whole_run_too():
    stopping = monitors.EarlyStopping(patience=100, metric="val_accuracy")
    trainer, history = fit(stopping, lr=0.5, epochs=12)
    assert not history.stopped and stopping.best == max(history.val_accuracy)
    assert stopping.best_epoch == history.val_accuracy.index(stopping.best) + 1  # the first of equals
    assert trainer.evaluate(*VALIDATION)["accuracy"] == stopping.best


def test_early_stopping_may_leave_the_last_weights():
    trainer, history = fit(monitors.EarlyStopping(patience=0, restore=False), lr=0.5, epochs=60)
    last, _ = fit(lr=0.5, epochs=len(history))
    same(trainer.model.state(), last.model.state())


def test_the_threshold_decides_what_counts():
    _, history = fit(monitors.EarlyStopping(patience=0, threshold=10.0))
    assert len(history) == 2  # nothing improves by 10
    with pytest.raises(ValueError, match=r"no 'f1' is recorded in this run; there are loss, accuracy, val_loss"):
        fit(monitors.EarlyStopping(metric="f1"))
    _, history = fit(monitors.GradientNorms(), monitors.EarlyStopping(metric="gradient norm", patience=50))
    assert len(history) == 6


def linear():
    return L.Linear(4, 3, rng=0)


def test_divergence_stops_above_three_times_the_first_loss_and_restores():
    """With a rate far too high the loss of a linear classifier grows by orders of magnitude."""
    for lr, epochs in ((1e3, 0), (30.0, None)):
        trainer, history = fit(monitors.Divergence(), model=linear(), lr=lr, epochs=40, batch_size=100)
        assert "above 3 times the first" in history.stopped
        assert history.step_loss[-1] > 3 * history.step_loss[0]
        assert max(history.step_loss[:-1]) <= 3 * history.step_loss[0]
        if epochs == 0:
            same(trainer.model.state(), linear().state())
            assert "before the run" in history.stopped
        assert trainer.evaluate(*VALIDATION)["loss"] < 3 * history.step_loss[0]


def test_divergence_restores_the_best_epoch():
    class Explode(monitors.Monitor):
        def after_epoch(self, run):
            if run.epoch == 3:
                run.trainer.optimizer.lr = 1e4

    trainer, history = fit(Explode(), monitors.Divergence(), model=linear(), lr=0.05, epochs=10)
    assert len(history) == 3 and "those of epoch 3" in history.stopped
    expected, _ = fit(model=linear(), lr=0.05, epochs=3)
    same(trainer.model.state(), expected.model.state())


def test_divergence_restores_after_nan():
    trainer, history = fit(monitors.Divergence(factor=1e300), model=linear(), lr=1e38, epochs=40)
    assert "the loss is" in history.stopped and not math.isfinite(history.step_loss[-1])
    assert all(np.isfinite(a).all() for a in trainer.model.state().values())


def test_divergence_takes_means_over_rows():
    """Single rows: the first loss is tiny, later ones are not, and nothing diverges."""
    x = np.float32([[8.0], *[[-0.01]] * 199])
    model = L.Linear(1, 2, rng=0)
    model.weight[...] = [[1], [0]]
    y = np.r_[0, np.tile([0, 1], 100)[:199]]
    trainer = Trainer(model, optimizer=optim.SGD(lr=1e-6), rng=0)
    options = {"batch_size": 1, "shuffle": False, "progress": False}
    history = trainer.fit((x, y), monitors=[monitors.Divergence(rows=1)], **options)
    assert history.stopped and len(history.step_loss) == 2
    assert not trainer.fit((x, y), monitors=[monitors.Divergence()], **options).stopped


def test_the_penalty_counts_as_loss():
    _trainer, history = fit(
        monitors.Divergence(), model=linear(), lr=5.0, epochs=50, regularization=regularization.L2(2.0)
    )
    assert "above 3 times the first" in history.stopped


# ---- what is measured ----


@pytest.mark.parametrize("clip", [None, regularization.ClipNorm(0.05)])
@pytest.mark.parametrize("program", [True, False])
def test_ratios_and_norms_are_those_by_hand(program, clip):
    """SGD without momentum: the update is the rate times the (clipped) gradient."""
    model = net().copy(np.float64)
    twin = model.copy()
    trainer = Trainer(model, optimizer=optim.SGD(lr=0.1), rng=0, clip=clip, program=program)
    history = trainer.fit(
        TRAIN, epochs=1, batch_size=200, shuffle=False, progress=False,
        monitors=[monitors.UpdateRatios(), monitors.GradientNorms()],
    )  # fmt: skip
    scores, backward = twin.forward(TRAIN[0].astype(np.float64))
    backward(fnn.functional.cross_entropy(scores, TRAIN[1])[1])
    norms = {name: np.linalg.norm(g) for name, g in twin.grads.items()}
    total = math.hypot(*norms.values())
    scale = 1.0 if clip is None else 0.05 / (total + 1e-6)
    for name, norm in norms.items():
        series = history.series[f"gradient norm/{name}"]
        # The bias before batch norm has no gradient but rounding.
        assert series.steps == [1] and series.values[0] == pytest.approx(norm, rel=1e-9, abs=1e-12)
    assert history.series["gradient norm"].values[0] == pytest.approx(total, rel=1e-9)
    ratios = {name for name in history.series if name.startswith("update ratio/")}
    assert ratios == {"update ratio/0.weight", "update ratio/3.weight"}
    for name in ("0.weight", "3.weight"):
        ratio = 0.1 * scale * norms[name] / np.linalg.norm(net().params[name])
        assert history.series[f"update ratio/{name}"].values[0] == pytest.approx(ratio, rel=1e-6)


def test_measurements_come_every_so_many_steps():
    _, history = fit(monitors.UpdateRatios(3), monitors.GradientNorms(4), epochs=2)
    assert history.series["update ratio/0.weight"].steps == [1, 4, 7]
    assert history.series["gradient norm"].steps == [1, 5]


def test_frozen_parameters_are_left_out():
    _, history = fit(monitors.UpdateRatios(), monitors.GradientNorms(), rates={"0": 0.0})
    assert "update ratio/3.weight" in history.series and "update ratio/0.weight" not in history.series
    assert "gradient norm/0.weight" not in history.series


def test_statistics_are_those_of_the_function():
    watch = monitors.Statistics(every=2)
    _trainer, history = fit(watch, epochs=5)
    assert sorted(watch.reports) == [0, 2, 4]
    assert history.series["dead/2"].steps == [0, 8, 16]
    chosen = np.unique(np.linspace(0, 199, 256).astype(int))
    assert str(watch.reports[0]) == str(fnn.statistics(net(), TRAIN[0][chosen], TRAIN[1][chosen]))
    assert history.series["output std/0"].values[0] == watch.reports[0]["0"].output.std
    assert history.series["gradient std/3"].values[-1] == watch.reports[4]["3"].gradient.std
    own = monitors.Statistics(X[:5], Y[:5])
    fit(own, epochs=1)
    assert own.reports[1]["0"].shape == (5, 16)
    with pytest.raises(ValueError, match="y without x"):
        monitors.Statistics(y=Y)


def test_rows_are_taken_from_all_of_the_data():
    y = np.repeat(np.arange(3), 100)
    seen = []
    trainer = Trainer(linear(), rng=0)
    trainer.fit((X, y), progress=False, monitors=[lambda run: seen.append(run.some(30)[1])])
    assert (np.bincount(seen[0]) == 10).all()


def test_dead_units_are_followed():
    """A rate so high that the first step kills every unit (CS231n: careful with the learning rate)."""
    model = L.Sequential(L.Linear(4, 16, rng=0), L.ReLU(), L.Linear(16, 3, rng=1))
    x = np.abs(TRAIN[0])
    trainer = Trainer(model, optimizer=optim.SGD(lr=0.0), rng=0)

    class Kill(monitors.Monitor):
        def after_epoch(self, run):
            model["0"].bias[: 4 * run.epoch] = -1e6

    history = trainer.fit((x, TRAIN[1]), epochs=3, progress=False, monitors=[Kill(), monitors.DeadUnits()])
    before, *after = history.series["dead/1"].values
    assert before < 0.5 and after[-1] >= 0.75
    assert [v >= n / 4 for v, n in zip(after, (1, 2, 3), strict=True)] == [True] * 3


# ---- what is written ----


def test_checkpoints(tmp_path):
    every = monitors.Checkpoint(tmp_path / "run-{epoch:02d}.npz", every=2)
    best = monitors.Checkpoint(tmp_path / "best.npz", best="val_loss")
    _trainer, history = fit(every, best, lr=0.5, epochs=9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.npz", *(f"run-{e:02d}.npz" for e in (2, 4, 6, 8))]
    twin = net(7)
    twin.load_state(fnn.load_state(tmp_path / "best.npz"))
    lowest = history.val_loss.index(min(history.val_loss)) + 1
    expected, _ = fit(lr=0.5, epochs=lowest)
    same(twin.state(), expected.model.state())
    assert every.saved == tmp_path / "run-08.npz"


@pytest.mark.parametrize(
    ("path", "message"), [("a.txt", "ends in .npz or .safetensors"), ("{step}.npz", "may have {epoch} in it")]
)
def test_checkpoints_say_what_is_wrong(path, message):
    with pytest.raises(ValueError, match=message):
        monitors.Checkpoint(path)


def test_folders_that_are_missing_are_told_before_training(tmp_path):
    for watch in (monitors.Checkpoint(tmp_path / "no/a.npz"), monitors.CSVLog(tmp_path / "no/a.csv")):
        trainer = Trainer(net(), rng=0)
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*no"):
            trainer.fit(TRAIN, monitors=[watch], progress=False)
        assert trainer.steps == 0


def test_csv_holds_the_history(tmp_path):
    _, history = fit(monitors.UpdateRatios(), monitors.CSVLog(tmp_path / "run.csv"))
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds"):
        assert [float(row[name]) for row in rows] == getattr(history, name)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["update ratio/0.weight"]) == history.series["update ratio/0.weight"].values[-1]
    assert {row["rate"] for row in rows} == {"0.05"}


def events(folder):
    """(tag, step, value) of every scalar in a folder of TensorBoard's."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    (path,) = folder.iterdir()
    data, at = path.read_bytes(), 0
    while at < len(data):  # length, its checksum, the event, its checksum
        (size,) = struct.unpack_from("<Q", data, at)
        event = proto.Event.FromString(data[at + 12 : at + 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += 12 + size + 4
    return found


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    trainer, history = fit(monitors.GradientNorms(3), monitors.TensorBoard(tmp_path / "log"))
    found = events(tmp_path / "log")
    losses = [(step, value) for tag, step, value in found if tag == "step/loss"]
    assert [step for step, _ in losses] == list(range(1, 25))
    np.testing.assert_array_equal([value for _, value in losses], np.float32(history.step_loss))
    values = [(step, value) for tag, step, value in found if tag == "epoch/val_loss"]
    assert [step for step, _ in values] == [4, 8, 12, 16, 20, 24]
    np.testing.assert_array_equal([value for _, value in values], np.float32(history.val_loss))
    norms = [(step, value) for tag, step, value in found if tag == "gradient_norm"]
    assert [step for step, _ in norms] == history.series["gradient norm"].steps
    assert trainer.steps == 24
    # A second run goes on where the first ended.
    trainer.fit(TRAIN, epochs=1, progress=False, monitors=[monitors.TensorBoard(tmp_path / "second")])
    assert next(step for tag, step, _ in events(tmp_path / "second") if tag == "step/loss") == 25


def test_tensorboard_names_its_extra(monkeypatch):
    for name in ("tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(fnn.MissingDependencyError, match=r"pip install 'fastnn\[tensorboard\]'"):
        monitors.TensorBoard("log")


def test_live_writes_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    seen = []
    path = tmp_path / "live.png"
    watching = [monitors.UpdateRatios(), monitors.GradientNorms(), monitors.DeadUnits()]
    fit(
        monitors.Live(path, seconds=0.0, title="a run"),
        lambda run: seen.append(path.exists()),
        *watching,
        epochs=3,
        batch_size=200,
    )
    assert seen == [True] * 3
    assert imread(path).shape == (960, 1800, 4)  # five panels in two rows of three
    path.unlink()
    fit(monitors.Live(path, seconds=1e9), epochs=2)  # the last is drawn in any case
    assert imread(path).shape == (480, 1200, 4)


def test_live_in_a_notebook(monkeypatch, tmp_path):
    """As in a kernel: one display, updated."""
    pytest.importorskip("matplotlib")
    shown = []

    class Handle:
        def update(self, image):
            shown.append(image)

    def display(image, display_id):
        shown.append(image)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})
    inner = types.ModuleType("IPython.display")
    inner.display, inner.Image = display, lambda data: data
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    monkeypatch.chdir(tmp_path)
    fit(monitors.Live(seconds=0.0), epochs=1)
    assert len(shown) == 5 and all(image.startswith(b"\x89PNG") for image in shown)
    assert not list(tmp_path.iterdir())


# ---- compare ----


def run(values, seconds=1.0, metric="val_accuracy"):
    history = History(loss=[1.0] * len(values), seconds=[seconds] * len(values))
    getattr(history, metric)[:] = values
    return history


def test_compare_counts_epochs_and_seconds():
    slow = [run([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), run([0.1, 0.2, 0.3, 0.5, 0.5, 0.6])]
    fast = [run([0.5, 0.9], 1.5), run([0.2, 0.7], 1.5)]
    found = compare({"slow": slow, "fast": fast}, target=0.5)
    assert found["slow"].epochs == (5, 4) and found["slow"].seconds == (5, 4)
    assert found["fast"].epochs == (1, 2) and found["fast"].seconds == (1.5, 3.0)
    assert found.ratio("slow", "fast") == 3.0 and found.ratio("slow", "fast", "seconds") == 2.0
    assert found["slow"].best == (0.6, 0.6)
    text = str(found)
    assert "until val_accuracy >= 0.5" in text and "4.5 ± 0.7" in text and "2 of 2" in text
    assert [one.name for one in found] == ["slow", "fast"]


def test_compare_says_what_never_came():
    found = compare({"a": [run([0.1, 0.2]), run([0.9])], "b": run([0.3])}, target=0.5)
    assert found["a"].reached == 1 and found["b"].epochs == ()
    assert "1 of 2" in str(found) and "never" in str(found)
    assert math.isnan(found.ratio("a", "b"))


def test_compare_chooses_metric_and_target():
    found = compare({"a": [run([0.1, 0.8]), run([0.6, 0.5])], "b": run([0.3, 0.7])})
    assert found.metric == "val_accuracy" and found.target == 0.6  # what all reach
    assert all(one.reached == len(one.runs) for one in found)
    losses = compare({"a": run([3.0, 1.0], metric="val_loss"), "b": run([2.0, 0.5], metric="val_loss")})
    assert losses.metric == "val_loss" and losses.target == 1.0 and losses["b"].epochs == (2,)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ([run([1.0])], {}, TypeError, "expected names"),
        ({"a": []}, {}, TypeError, "'a' needs a History"),
        ({}, {}, TypeError, "a History or several, got none"),
        ({"a": History()}, {}, ValueError, "no run has a finished epoch"),
        ({"a": run([math.nan, math.inf])}, {}, ValueError, "'val_accuracy' is a number in no run"),
        ({"a": History(loss=[1.0, 2.0], seconds=[1.0])}, {}, ValueError, "seconds for every epoch"),
        ({"a": run([1.0])}, {"metric": "val_loss"}, ValueError, "all have loss, val_accuracy, seconds"),
    ],
)
def test_compare_says_what_is_wrong(given, options, error, message):
    with pytest.raises(error, match=message):
        compare(given, **options)


def test_compare_draws(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    path = compare({"slow": [run([0.1, 0.5]), run([0.2, 0.4])], "fast": run([0.6, 0.9])}).plot(tmp_path / "a.png")
    assert imread(path).shape == (480, 1200, 4)


def test_relu_is_faster_than_sigmoid():
    """CS231n: ReLU converges faster than sigmoid; on blobs, with the same rates, over three seeds."""

    def histories(activation):
        found = []
        for seed in range(3):
            parts = [L.Linear(4, 32, rng=seed), activation(), L.Linear(32, 32, rng=seed + 9), activation()]
            model = L.Sequential(*parts, L.Linear(32, 3, rng=seed + 18))
            trainer = Trainer(model, optimizer=optim.SGD(lr=0.1), rng=seed)
            found.append(trainer.fit(TRAIN, epochs=40, batch_size=20, progress=False))
        return found

    found = fnn.compare({"sigmoid": histories(L.Sigmoid), "relu": histories(L.ReLU)}, target=0.6, metric="loss")
    assert found.ratio("sigmoid", "relu") > 1.5


# ---- what went wrong is told, and spoils nothing ----


@pytest.mark.parametrize(("reason", "told"), [((), "a monitor ended it"), (("",), "a monitor ended it"), ((7,), "7")])
def test_a_run_stops_whatever_the_reason(reason, told):
    _, history = fit(lambda run: run.stop(*reason))
    assert len(history) == 1 and history.stopped == told


def test_what_is_recorded_has_a_name_of_its_own_and_is_a_number(tmp_path):
    history = History()
    for name in (*History.EPOCHS, "epoch", "step", "rate"):
        with pytest.raises(ValueError, match=f"record: '{name}' is a name of the history's own"):
            history.record(name, 1, 0.5)
    for value in ("b", None, [1, 2], np.zeros(2), 1j):
        with pytest.raises(TypeError, match="record: 'a' takes a number"):
            history.record("a", 1, value)
    with pytest.raises(TypeError, match="a text for a name"):
        history.record(3, 1, 0.5)
    assert not history.series  # a call that failed has left nothing
    for value in (1, True, 0.5, np.float32(2), np.array([3.0])):
        history.record("a", 1, value)
    assert history.series["a"].values == [1.0, 1.0, 0.5, 2.0, 3.0]
    with pytest.raises(ValueError, match="'val_loss' is a name"):
        fit(lambda run: run.record("val_loss", 0.0), monitors.CSVLog(tmp_path / "run.csv"))


def ill_rows(what):
    x, y = VALIDATION[0].copy(), VALIDATION[1]
    if what == "x":
        x[7, 2] = np.nan
        return x, y
    y = np.eye(3, dtype=np.float32)[y]
    y[7, 2] = np.nan
    return x, y


@pytest.mark.parametrize("what", ["x", "y"])
def test_validation_that_is_no_number_ends_the_run_and_names_the_row(what, tmp_path):
    loss = "cross_entropy" if what == "x" else "mse"
    data = TRAIN if what == "x" else (TRAIN[0], np.eye(3, dtype=np.float32)[TRAIN[1]])
    checkpoint, stopping = monitors.Checkpoint(tmp_path / "best.npz", best="val_loss"), monitors.EarlyStopping(3)
    _, history = fit(checkpoint, stopping, data=data, validation=ill_rows(what), loss=loss)
    assert (
        history.stopped
        == f"the validation loss is nan after epoch 1: validation {what} has NaN or infinite values there, in row 7"
    )
    assert len(history) == 1 and checkpoint.saved is None


def test_targets_that_are_no_numbers_are_not_blamed_on_the_rate():
    y = np.eye(3, dtype=np.float32)[TRAIN[1]]
    y[:] = np.nan
    _, history = fit(data=(TRAIN[0], y), validation=None, loss="mse")
    assert history.stopped == "the loss is nan at step 1: y has NaN or infinite values there"


def test_a_metric_that_never_was_a_number_is_told():
    def never(run):
        run.record("odd", math.nan)

    _, history = fit(never, monitors.EarlyStopping(2, "odd"))
    assert history.stopped == "odd has not improved for 3 epochs; it was never a number"


def test_the_history_of_a_run_that_was_interrupted():
    def interrupt(run):
        if run.epoch == 2:
            raise KeyboardInterrupt

    trainer = Trainer(net(), rng=0)
    assert trainer.history is None
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TRAIN, epochs=5, monitors=[interrupt], progress=False)
    assert len(trainer.history.loss) == len(trainer.history.seconds) == 2
    assert trainer.fit(TRAIN, epochs=1, progress=False) is trainer.history


def test_compare_takes_runs_that_diverged(tmp_path):
    def run(loss):
        return History(loss=loss, seconds=[1.0] * len(loss))

    good, late = run([1.0, 0.5, 0.2]), run([math.nan, 0.4, math.inf])
    found = compare({"a": [good, late, History(stopped="the loss is nan")], "b": run([0.9, 0.3])}, metric="loss")
    assert found.target == 0.4 and [one.reached for one in found] == [2, 1]
    assert found["a"].best[:2] == (0.2, 0.4) and math.isnan(found["a"].best[2])
    assert found["a"].epochs == (3.0, 2.0) and math.isnan(found.ratio("a", "b"))
    assert "2 of 3" in str(found) and "nan" not in str(found)
    alone = compare({"a": good, "b": History()})
    assert alone.target == 0.2 and "0 of 1" in str(alone) and "never" in str(alone)
    pytest.importorskip("matplotlib")
    assert found.plot(tmp_path / "compare.png").stat().st_size > 10_000


class Full:
    """A file on a disk with no room."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("what", ["npz", "safetensors", "csv", "png", "program", "html", "plot"])
def test_a_full_disk_names_the_file(what, tmp_path, monkeypatch):
    if what in ("png", "html", "plot"):
        pytest.importorskip("matplotlib")
    if what == "safetensors":
        pytest.importorskip("safetensors")
    from fastnn.io import atomic

    path = tmp_path / f"file.{what}"
    report = fnn.checks.doctor(net(), X, Y, steps=2) if what == "html" else None
    monkeypatch.setattr(atomic, "open", lambda *arguments: Full(os.fdopen(*arguments)), raising=False)
    path = path.with_suffix(".png") if what == "plot" else path
    calls = {
        "npz": lambda: fit(monitors.Checkpoint(path)),
        "safetensors": lambda: fnn.save_state(path, net().state()),
        "csv": lambda: fit(monitors.CSVLog(path)),
        "png": lambda: fit(monitors.Live(path)),
        "program": lambda: fnn.compile(net(), (1, 4)).save(path),
        "html": lambda: report.save(path),
        "plot": lambda: fnn.plot.history(History(loss=[1.0], step_loss=[1.0], seconds=[1.0], steps_per_epoch=1), path),
    }
    with pytest.raises(OSError, match=f"No space left on device: .*{path.name}'"):
        calls[what]()
    assert not list(tmp_path.iterdir())  # and nothing is left half written

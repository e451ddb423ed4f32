"""Schedules: their values, torch's where it has them, and what drives them in fit."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers as L
from fastnn import optim, schedules

EVERY = {
    "constant": schedules.constant(),
    "step": schedules.step(),
    "exponential": schedules.exponential(),
    "one_over_t": schedules.one_over_t(),
    "inverse_sqrt": schedules.inverse_sqrt(),
    "cosine": schedules.cosine(),
    "linear": schedules.linear(),
    "warm_up": schedules.warm_up(),
    "one_cycle": schedules.one_cycle(),
    "plateau": schedules.plateau(),
}
SHARES = np.linspace(0, 1, 101)


def test_every_schedule_is_tested():
    functions = {name for name in schedules.__all__ if name[0].islower()}
    assert set(EVERY) == functions


@pytest.mark.parametrize("name", EVERY)
def test_factors_are_finite_and_at_most_1(name):
    values = [EVERY[name](done) for done in SHARES]
    assert all(0 <= v <= 1 and math.isfinite(v) for v in values)
    assert repr(EVERY[name]).startswith(f"{name}(")
    assert getattr(EVERY[name], "needs_validation", False) == (name == "plateau")
    for outside in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="done must be a share of the training, from 0 to 1"):
            EVERY[name](outside)


@pytest.mark.parametrize("name", ["step", "exponential", "one_over_t", "inverse_sqrt", "cosine", "linear"])
def test_decays_begin_at_1_and_never_rise(name):
    values = [EVERY[name](done) for done in SHARES]
    assert values[0] == 1
    assert all(b <= a for a, b in pairwise(values))
    assert values[-1] < 0.2


def torch_rates(make, steps):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs", "last"),
    [
        (schedules.step(at=(0.5, 0.75)), lambda s, o: s.MultiStepLR(o, [50, 75]), 100),
        (schedules.exponential(to=0.9**100), lambda s, o: s.ExponentialLR(o, 0.9), 100),
        (schedules.cosine(to=0.1), lambda s, o: s.CosineAnnealingLR(o, 100, eta_min=0.1), 100),
        (schedules.linear(to=0.25), lambda s, o: s.LinearLR(o, 1.0, 0.25, 100), 100),
        (schedules.step(at=(0.25, 0.5, 0.75), factor=0.3), lambda s, o: s.StepLR(o, 25, 0.3), 100),
        (
            schedules.warm_up(schedules.cosine(), over=0.2, start=0.1),
            lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 20), s.CosineAnnealingLR(o, 80)], [20]),
            100,
        ),
        (schedules.one_over_t(k=10), lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + 0.1 * t)), 100),
        (schedules.inverse_sqrt(k=99), lambda s, o: s.LambdaLR(o, lambda t: (1 + 0.99 * t) ** -0.5), 100),
        # its last step is at the end of the cycle, so that 101 steps are 100 intervals
        (schedules.one_cycle(0.5), lambda s, o: s.OneCycleLR(o, 1.0, total_steps=101, pct_start=51 / 101), 100),
    ],
    ids=lambda value: repr(value) if isinstance(value, schedules.Schedule) else "",
)
def test_equals_torch(ours, theirs, last):
    rates = torch_rates(theirs, last)
    # torch multiplies step by step: a hundred roundings
    np.testing.assert_allclose([ours(i / last) for i in range(last)], rates, rtol=1e-13, atol=1e-14)


def test_values_by_hand():
    """One of each along the way, from the formulas of the lecture; needs no peer."""
    epochs = 50
    assert [schedules.inverse_sqrt(k=epochs - 1)((t - 1) / (epochs - 1)) for t in (1, 4, 25)] == pytest.approx(
        [1, 1 / 2, 1 / 5], rel=1e-15
    )
    k = 0.7
    for t in (0, 3, 20):  # lr_0 / (1 + k t) and lr_0 exp(-k t), t in epochs
        assert schedules.one_over_t(k * epochs)(t / epochs) == pytest.approx(1 / (1 + k * t), rel=1e-14)
        assert schedules.exponential(math.exp(-k * epochs))(t / epochs) == pytest.approx(math.exp(-k * t), rel=1e-13)
        assert schedules.cosine()(t / epochs) == pytest.approx(0.5 * (1 + math.cos(math.pi * t / epochs)), rel=1e-14)
        assert schedules.linear()(t / epochs) == pytest.approx(1 - t / epochs, rel=1e-14)
    assert [schedules.step((0.3, 0.6), 0.1)(t) for t in (0.29, 0.3, 0.59, 0.6)] == pytest.approx([1, 0.1, 0.1, 0.01])
    cycle = schedules.one_cycle(peak_at=0.25, start=0.2, end=0.1)
    assert [cycle(t) for t in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0.2, 0.6, 1, 0.55, 0.1], rel=1e-14)


def test_warm_up_wraps_any_function():
    schedule = schedules.warm_up(lambda done: 2 - done, over=0.5, start=0.5)
    assert [schedule(d) for d in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 1.5, 1.0]
    assert schedules.warm_up(over=0.0)(0.0) == 1.0
    assert not schedule.needs_validation
    schedule.observe(1.0)  # a plain function inside does not want to know


@pytest.mark.parametrize("options", [{}, {"cooldown": 2}, {"least": 0.3}, {"threshold": 0.05}, {"patience": 0}])
def test_plateau_equals_torch(options):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    given = {"factor": 0.5, "patience": 2, **options}
    ours = schedules.plateau(**given)
    given |= {"min_lr": given.pop("least", 0.0), "eps": 0.0}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **given)
    rng = np.random.default_rng(1)
    losses = 1 / np.sqrt(1 + np.arange(60)) + 0.1 * rng.standard_normal(60)
    losses[[10, 40]] = math.inf, math.nan
    dropped = False
    for loss in np.abs(losses):
        ours.observe(loss)
        theirs.step(loss)
        assert ours(0.5) == optimizer.param_groups[0]["lr"]
        dropped |= ours(0.5) < 1
    assert dropped


def test_plateau_that_begins_without_a_number():
    schedule = schedules.plateau(patience=0)
    schedule.observe(math.nan)
    schedule.observe(0.5)
    assert schedule.best == 0.5
    assert schedule(0.0) == pytest.approx(0.1)


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: schedules.warm_up(p, over=0.1)])
def test_fit_drives_plateau(wrap):
    """With a learning rate of 0 nothing improves after the first epoch."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3), np.float32), rng.integers(0, 2, 20)
    inner = schedules.plateau(factor=0.5, patience=1)
    trainer = fnn.Trainer(L.Linear(3, 2, rng=0), optimizer=optim.SGD(lr=0.0), rng=0)
    with pytest.raises(ValueError, match=r"the schedule .*plateau.* needs validation="):
        trainer.fit((x, y), schedule=wrap(inner), progress=False)
    assert trainer.steps == 0
    trainer.fit((x, y), validation=(x, y), epochs=7, schedule=wrap(inner), progress=False)
    assert inner.factor == 0.5**3  # epochs 3, 5 and 7
    assert inner.best == trainer.evaluate(x, y)["loss"]


def test_fit_applies_the_factor():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3), np.float32), rng.integers(0, 2, 8)
    weights = []
    for schedule, rate in ((schedules.step(at=(0.0,), factor=0.5), 0.2), (None, 0.1)):
        trainer = fnn.Trainer(L.Linear(3, 2, rng=0), optimizer=optim.SGD(lr=rate), rng=0)
        trainer.fit((x, y), epochs=3, schedule=schedule, progress=False)
        weights.append(trainer.model.weight.copy())
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.step(at=(1.5,)), ValueError, "step: at must be a share"),
        (lambda: schedules.step(factor=-1), ValueError, "step: factor must be finite and at least 0"),
        (lambda: schedules.exponential(to=0), ValueError, "exponential: to must be finite and above 0"),
        (lambda: schedules.cosine(to="a"), TypeError, "cosine: to must be a number"),
        (lambda: schedules.linear(to=math.inf), ValueError, "linear: to"),
        (lambda: schedules.one_over_t(-1), ValueError, "one_over_t: k"),
        (lambda: schedules.warm_up(3), TypeError, "warm_up: then must be a schedule"),
        (lambda: schedules.warm_up(over=1.0), ValueError, "over must be below 1"),
        (lambda: schedules.one_cycle(peak_at=2), ValueError, "one_cycle: peak_at"),
        (lambda: schedules.plateau(patience=-1), ValueError, "plateau: patience must be a whole number"),
        (lambda: schedules.plateau(cooldown=1.5), ValueError, "plateau: cooldown"),
        (lambda: schedules.plateau(factor=2), ValueError, "plateau: factor"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()

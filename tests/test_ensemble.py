"""Ensembles, snapshots of one run, and averages of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn as fnn
import fastnn.functional as F
from fastnn import ensemble
from fastnn.ensemble import Average, Ensemble, refresh, snapshots
from fastnn.errors import ShapeError
from fastnn.layers import BatchNorm1d, Conv2d, Flatten, Linear, ReLU, Sequential

RNG = np.random.default_rng(0)
X = RNG.standard_normal((256, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


def net(seed: int) -> Sequential:
    return Sequential(
        Linear(6, 16, rng=seed), BatchNorm1d(16), ReLU(), Linear(16, 2, rng=np.random.default_rng([seed, 1]))
    )


def test_an_ensemble_is_the_mean_of_probabilities_or_of_scores() -> None:
    models = [net(seed) for seed in range(4)]
    scores = np.stack([model(X) for model in models]).astype(np.float64)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    # Means of four float32 numbers, each within a few roundings.
    np.testing.assert_allclose(Ensemble(models)(X), np.log(shares.mean(0)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Ensemble(models, combine="scores")(X), scores.mean(0), rtol=1e-5, atol=1e-6)
    assert Ensemble(models).params.keys() == {f"{i}.{n}" for i in range(4) for n in models[0].params}


def test_an_ensemble_saves_and_summarises_like_a_layer() -> None:
    team, other = Ensemble([net(0), net(1)]), Ensemble([net(2), net(3)])
    other.load_state(team.state())
    np.testing.assert_array_equal(other(X), team(X))
    assert "Ensemble" in repr(team) and str(2 * (6 * 16 + 16 + 32 + 34)) in team.summary((1, 6))
    with pytest.raises(TypeError, match="trained one by one"):
        team.forward(X)


def test_a_probability_of_zero_stays_finite() -> None:
    model = Linear(1, 2, rng=0)
    model.weight[...] = [[1000], [-1000]]
    assert np.isfinite(Ensemble([model])(np.ones((1, 1), np.float32))).all()


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("combine", ["probabilities", "scores"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_ensemble_compiles_into_one_program(count: int, combine: str, dtype: type, tmp_path: Any) -> None:
    team = Ensemble([net(seed).copy(dtype=dtype) for seed in range(count)], combine=combine)
    for model in team.models:
        fnn.Trainer(model, rng=0).fit((X, Y), epochs=1, progress=False)  # running statistics that are none of 0 and 1
    x = 20 * X.astype(dtype)  # sure of most
    program = fnn.compile(team, (1, 6))
    # Some tens of roundings of scores of up to 60.
    np.testing.assert_allclose(program(x), team(x), rtol=0, atol=60 * 32 * np.finfo(dtype).eps)
    assert not [step for step in program.steps() if step.by == "NumPy"]
    program.save(tmp_path / "team.fnn")
    np.testing.assert_array_equal(fnn.load_program(tmp_path / "team.fnn")(x), program(x))
    with pytest.raises(TypeError, match="trained one by one"):
        fnn.Trainer(team, rng=0).step(X, Y)
    np.testing.assert_allclose(fnn.Trainer(team, rng=0).predict(X), team(X), rtol=1e-5, atol=1e-5)


def test_an_ensemble_of_maps_compiles() -> None:
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    for combine in ("probabilities", "scores"):
        team = Ensemble([Conv2d(3, 4, 3, padding=1, rng=seed) for seed in range(3)], combine=combine)
        np.testing.assert_allclose(fnn.compile(team, x.shape)(x), team(x), rtol=0, atol=1e-5)


def test_what_of_ensembles_does_not_compile_says_why() -> None:
    with pytest.raises(ShapeError, match=r"model 1 answers \(1, 3\), the ones before it \(1, 2\)"):
        fnn.compile(Ensemble([net(0), Linear(6, 3, rng=0)]), (1, 6))
    with pytest.raises(ShapeError, match=r"layer '0.0' \(Linear 6->16\): expected \(N, 6\)"):
        fnn.compile(Ensemble([net(0)]), (1, 7))
    with pytest.raises(fnn.compiler.graph.UntraceableError, match="compile the model within"):
        fnn.compile(ensemble.Augmented(Conv2d(3, 4, 3, rng=0)), (1, 3, 8, 8))


def test_a_member_that_answers_nan_makes_the_row_nan() -> None:
    x = X.copy()
    x[3, 0] = np.nan
    assert np.flatnonzero(np.isnan(Ensemble([net(0), net(1)])(x)).any(1)).tolist() == [3]


def test_wrong_members_are_refused() -> None:
    with pytest.raises(TypeError, match="expected a list of models, got one, a Sequential of 4"):
        Ensemble(net(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one model or more"):
        Ensemble([])
    with pytest.raises(ValueError, match="combine"):
        Ensemble([net(0)], combine="median")


def test_snapshots_are_copies_at_the_end_of_each_cycle() -> None:
    trainer = fnn.Trainer(net(0), optimizer=fnn.optim.SGD(0.2, momentum=0.9), rng=0)
    team, runs = snapshots(trainer, (X, Y), cycles=3, epochs=5, batch_size=32, progress=False)
    assert len(team.models) == len(runs) == 3 and all(len(run) == 5 for run in runs)
    states = [model.state() for model in team.models]
    assert all((states[0][k] != states[2][k]).any() for k in ("0.weight", "1.running_mean"))
    for name, array in trainer.model.state().items():
        np.testing.assert_array_equal(states[2][name], array)
    with pytest.raises(ValueError, match="cycles"):
        snapshots(trainer, (X, Y), cycles=0)
    with pytest.raises(TypeError, match="snapshots: the schedule is that of the cycles"):
        snapshots(trainer, (X, Y), schedule=fnn.schedules.cosine())
    with pytest.raises(TypeError, match="snapshots: expected a Trainer, got Sequential"):
        snapshots(net(0), (X, Y))  # type: ignore[arg-type]
    wild = fnn.Trainer(net(0), optimizer=fnn.optim.SGD(1e38), rng=0)
    with pytest.raises(RuntimeError, match="learning rate"):
        snapshots(wild, (X, Y), epochs=3, progress=False)


def test_the_average_follows_its_formula() -> None:
    model = net(0)
    plain, running = Average(model), Average(model, decay=0.5)
    seen = []
    for k in range(5):
        model.params["0.weight"][...] = k * k
        seen.append(float(k * k))
        plain.update()
        running.update()
    assert plain.model().params["0.weight"][0, 0] == np.float32(np.mean(seen))
    mean = seen[0]
    for k, value in enumerate(seen[1:], 2):
        mean += max(1 / k, 0.5) * (value - mean)
    assert running.model().params["0.weight"][0, 0] == np.float32(mean)
    assert model.params["0.weight"][0, 0] == 16
    with pytest.raises(RuntimeError, match="no update"):
        Average(model).model()
    with pytest.raises(ValueError, match="decay"):
        Average(model, decay=1.0)


def test_refresh_counts_statistics_as_the_mean_over_batches() -> None:
    model = net(0)
    model.buffers["1.running_mean"][...] = 100
    refresh(model, X, batch_size=64)
    inside = X.astype(np.float64) @ model.params["0.weight"].T.astype(np.float64) + model.params["0.bias"]
    np.testing.assert_allclose(model.buffers["1.running_mean"], inside.mean(0), atol=1e-5)
    each = np.mean([inside[i : i + 64].var(0, ddof=1) for i in range(0, 256, 64)], axis=0)
    np.testing.assert_allclose(model.buffers["1.running_var"], each, rtol=1e-4)
    assert model["1"].momentum == 0.1


def test_augmented_is_the_mean_over_versions() -> None:
    rng = np.random.default_rng(0)
    model = Sequential(Flatten(), Linear(27, 4, rng=rng))
    x = rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    scores = ensemble.Augmented(model, "mirror", combine="scores")
    np.testing.assert_allclose(scores(x), (model(x) + model(x[..., ::-1])) / 2, rtol=1e-6, atol=1e-6)
    # Five places: as it is, and moved by a pixel each way, where what comes in repeats the border.
    moved = [
        x,
        np.concatenate([x[..., 1:], x[..., -1:]], -1),
        np.concatenate([x[..., :1], x[..., :-1]], -1),
        np.concatenate([x[:, :, 1:], x[:, :, -1:]], 2),
        np.concatenate([x[:, :, :1], x[:, :, :-1]], 2),
    ]
    shifted = np.mean([F.softmax(model(one)) for one in moved], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.Augmented(model, "shifts")(x)), shifted, rtol=1e-5)
    both = np.mean([F.softmax(model(v)) for one in moved for v in (one, one[..., ::-1])], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.Augmented(model, "both")(x)), both, rtol=1e-5)
    own = ensemble.Augmented(model, [lambda x: x, lambda x: 2 * x], combine="scores")
    np.testing.assert_allclose(own(x), (model(x) + model(2 * x)) / 2, rtol=1e-6, atol=1e-6)
    assert own.params.keys() == {"model.1.weight", "model.1.bias"}


def test_augmented_says_what_is_wrong() -> None:
    model = Sequential(Flatten(), Linear(9, 2, rng=0))
    with pytest.raises(ValueError, match="'mirror', 'shifts', 'both' or functions"):
        ensemble.Augmented(model, "flips")
    with pytest.raises(TypeError, match="a function for each version"):
        ensemble.Augmented(model, [])
    with pytest.raises(ShapeError, match="images"):
        ensemble.Augmented(model)(np.ones((2, 9)))
    with pytest.raises(ShapeError, match="version 1 made"):
        ensemble.Augmented(model, [lambda x: x, lambda x: x[:, :, :2]])(np.ones((2, 1, 3, 3), np.float32))
    with pytest.raises(TypeError, match=r"fit\(augment="):
        ensemble.Augmented(model).forward(np.ones((2, 1, 3, 3)))

"""Hyper-parameter optimisation: statements 42 to 47.

`fastnn.search` searches through one function, ``build(trial)``, which asks for what is to be chosen and returns a
trainer: `random`, `grid`, and `coarse_to_fine` in one call. Ranges in log space, k-fold cross-validation, runs stopped
above three times their first loss, ranges that move when the best value lies at their border; on one process, on
several, or on many machines that share an Optuna storage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn as fnn
from common import SEEDS, Claim, Data, Finding, better, figure, mlp, show, statement
from fastnn import optim, schedules, search
from fastnn.layers import Dropout, ReLU, Sequential, Tanh
from fastnn.regularization import L2


def two(
    data: Data, low: float = 1e-5, high: float = 10.0, l2: tuple[float, float] = (1e-6, 1.0)
) -> Callable[[Any], Any]:
    """Rate and L2 of a small network."""

    def build(trial: search.Trial) -> tuple[fnn.Trainer, dict[str, Any]]:
        lr = trial.suggest_float("lr", low, high, log=True)
        strength = trial.suggest_float("l2", *l2, log=True)
        model = mlp([data.size, 32, 10], seed=trial.seed)
        return fnn.Trainer(model, optimizer=optim.SGD(lr), rng=trial.seed, regularization=L2(strength)), {
            "batch_size": 64
        }

    return build


def rows_of(data: Data) -> tuple[Any, dict[str, Any]]:
    rows = data.flat()
    limit = 600 if data.name == "digits" else 2000
    return (rows.train[0][:limit], rows.train[1][:limit]), {"validation": rows.validation, "progress": False}


def quiet(function: Callable[..., search.Result], *arguments: Any, **options: Any) -> search.Result:
    with np.errstate(all="ignore"):
        return function(*arguments, **options)


@statement(42, text="Cross-validation: coarse with few epochs, then fine with more")
def coarse_to_fine(data: Data) -> Finding:
    rows, options = rows_of(data)
    # Both spend the same number of epochs: 16 x 2 + 6 x 8 = 80 and 10 x 8.
    pairs = []
    for seed in SEEDS:
        staged = quiet(
            search.coarse_to_fine, two(data), rows, trials=(16, 6), epochs=(2, 8), moves=0, seed=seed, **options
        )
        flat = quiet(search.random, two(data), rows, trials=10, epochs=8, seed=seed, **options)
        pairs.append((staged.best.value, flat.best.value))
    mean = np.mean(pairs, axis=0)
    folds = quiet(search.random, two(data), rows, trials=4, epochs=4, folds=5, progress=False)
    picture_source = quiet(search.coarse_to_fine, two(data), rows, trials=(16, 6), epochs=(2, 8), moves=0, **options)
    picture, axes = figure(1, 2, (10, 3.8))
    for panel, name in zip(axes, ("lr", "l2"), strict=True):
        for stage, colour in (("coarse", "#1f6fb4"), ("fine", "#e07b1a")):
            found = [row for row in picture_source.rows if row.stage == stage and row.state == "done"]
            panel.plot([r.params[name] for r in found], [100 * r.value for r in found], "o", color=colour, label=stage)
        panel.set_xscale("log")
        panel.set(xlabel=name, ylabel="validation accuracy, %")
    axes[0].legend(frameon=False)
    return Finding(
        [
            Claim(
                "coarse to fine finds more than one stage of as many epochs",
                f"best validation accuracy, mean of 5 searches: {mean[0]:.2%} and {mean[1]:.2%} "
                f"({', '.join(f'{a:.1%}/{b:.1%}' for a, b in pairs)})",
                better(*np.transpose(pairs).tolist()),
            ),
            Claim(
                "cross-validation tells how far one number can be trusted",
                f"the best of four trials has {folds.best.value:.1%}, and {min(folds.best.folds):.1%} to {max(folds.best.folds):.1%} on its folds",
                len(folds.best.folds) == 5,
            ),
        ],
        picture_source.table(8),
        {"coarse-to-fine": picture},
        f"{mean[0]:.1%}, one stage {mean[1]:.1%}",
    )


@statement(43, text="Search in log space")
def log_space(data: Data) -> Finding:
    rows, options = rows_of(data)

    def build(log: bool) -> Any:
        def made(trial: search.Trial) -> Any:
            lr = trial.suggest_float("lr", 1e-5, 10.0, log=log)
            return fnn.Trainer(mlp([data.size, 32, 10], seed=trial.seed), optimizer=optim.SGD(lr), rng=trial.seed), {
                "batch_size": 64
            }

        return made

    best: dict[str, list[float]] = {"log": [], "linear": []}
    for seed in range(8):
        for name in best:
            found = quiet(search.random, build(name == "log"), rows, trials=6, epochs=4, seed=seed, **options)
            best[name].append(max((r.value for r in found.rows if r.state == "done"), default=0.0))
    mean = {name: float(np.mean(v)) for name, v in best.items()}
    return Finding(
        [
            Claim(
                "6 trials in log space find more than 6 in linear space",
                f"best validation accuracy, mean of 8 searches: {mean['log']:.1%} and {mean['linear']:.1%} "
                f"({', '.join(f'{a:.0%}/{b:.0%}' for a, b in zip(best['log'], best['linear'], strict=True))})",
                better(best["log"], best["linear"]),
            )
        ],
        brief=f"{mean['log']:.0%}, linear {mean['linear']:.0%}",
    )


@statement(44, text="Random search beats grid search")
def random_or_grid(data: Data) -> Finding:
    rows, options = rows_of(data)
    best: dict[str, list[float]] = {"random": [], "grid": []}
    shown: dict[str, search.Result] = {}
    # A grid has no seed; what varies is where its ends lie, which nobody knows before: they move by up to the whole
    # distance between two of its points, so that no rate is favoured by the ends that were chosen.
    searches = 12
    for seed in range(searches):
        shift = float(1e3 ** np.random.default_rng(seed).uniform(-0.5, 0.5))
        build = two(data, 1e-5 * shift, 10 * shift)
        found = {
            "random": quiet(search.random, build, rows, trials=9, epochs=4, seed=seed, **options),
            "grid": quiet(search.grid, build, rows, points=3, epochs=4, seed=seed, **options),
        }
        for name, result in found.items():
            best[name].append(max((r.value for r in result.rows if r.state == "done"), default=0.0))
        shown = shown or found
    mean = {name: float(np.mean(v)) for name, v in best.items()}
    picture, axes = figure(1, 2, (9, 4))
    for panel, (name, result) in zip(axes, shown.items(), strict=True):
        done = [r for r in result.rows if r.state == "done"]
        points = panel.scatter(
            [r.params["lr"] for r in done],
            [r.params["l2"] for r in done],
            c=[100 * r.value for r in done],
            s=60,
            vmin=10,
            vmax=95,
        )
        lost = [r for r in result.rows if r.state != "done"]
        panel.plot([r.params["lr"] for r in lost], [r.params["l2"] for r in lost], "x", color="#b03030")
        panel.set(xscale="log", yscale="log", xlabel="lr", ylabel="l2")
        panel.set(xlim=(1e-7, 1e3), ylim=(3e-7, 3))  # the same for both
        panel.set_title(f"{name}: {len({r.params['lr'] for r in result.rows})} rates tried", fontsize=10)
    picture.colorbar(points, ax=axes, label="validation accuracy, %")
    return Finding(
        [
            Claim(
                "9 random trials find more than a grid of 3 x 3",
                f"best validation accuracy, mean of {searches} searches: {mean['random']:.1%} and {mean['grid']:.1%} "
                f"({', '.join(f'{a:.0%}/{b:.0%}' for a, b in zip(best['random'], best['grid'], strict=True))})",
                better(best["random"], best["grid"]),
            )
        ],
        pictures={"random-or-grid": picture},
        brief=f"{mean['random']:.0%}, grid {mean['grid']:.0%}",
    )


@statement(45, text="Stop early when the cost exceeds 3 times the original")
def stop_early(data: Data) -> Finding:
    rows, options = rows_of(data)
    build = two(data, 1e-2, 1e4)
    began = time.perf_counter()
    found = quiet(search.random, build, rows, trials=24, epochs=10, **options)
    stopped = [row for row in found.rows if row.state == "pruned"]
    spent = sum(len(row.curves[0]) if row.curves else 0 for row in found.rows)
    seconds = time.perf_counter() - began
    # What was stopped, trained to the end: was anything lost?
    saved, late = 0, []
    for row in stopped:
        trainer, fit = build(search.Trial(search._Chosen(row.params), {}, 0))
        with np.errstate(all="ignore"):
            run = trainer.fit(rows, validation=options["validation"], epochs=10, progress=False, **fit)
        late.append(0.0 if run.stopped else run.val_accuracy[-1])
        saved += 10 - len(row.curves[0])
    return Finding(
        [
            Claim(
                "it saves work",
                f"{len(stopped)} of 24 trials were stopped, {saved} of {spent + saved} epochs saved ({seconds:.1f} s spent)",
                saved > 0,
            ),
            Claim(
                "and loses nothing",
                f"trained to the end, the best of those comes to {max(late, default=0):.1%}; the search's best {found.best.value:.1%}",
                max(late, default=0.0) < found.best.value,
            ),
        ],
        brief=f"{saved} of {spent + saved} epochs saved",
    )


@statement(46, text="Adjust the ranges and try again: a best value at the border moves the range")
def moving(data: Data) -> Finding:
    rows, options = rows_of(data)
    build = two(data, 1e-6, 1e-3, (1e-6, 1e-4))
    fixed = quiet(search.random, build, rows, trials=8, epochs=4, moves=0, **options)
    moved = quiet(search.random, build, rows, trials=8, epochs=4, moves=3, **options)
    return Finding(
        [
            Claim(
                "from a range that is too low the search finds its way",
                f"rates from 1e-6 to 1e-3: best {fixed.best.params['lr']:.2g} with {fixed.best.value:.1%}; moved "
                f"{len([m for m in moved.moved if ' lr,' in m])} times: {moved.best.params['lr']:.2g} with {moved.best.value:.1%}",
                moved.best.value > fixed.best.value + 0.1,
            )
        ],
        "\n".join(moved.moved),
        brief=f"{fixed.best.value:.0%}, moved {moved.best.value:.0%}",
    )


@statement(47, text="What to play with: architecture, rate, decay schedule, update type, L2, dropout")
def what_to_play_with(data: Data) -> Finding:
    rows, options = rows_of(data)

    def build(trial: search.Trial) -> tuple[fnn.Trainer, dict[str, Any]]:
        sizes = [trial.suggest_int("width", 16, 128, log=True)] * trial.suggest_int("depth", 1, 3)
        kind = trial.suggest_categorical("activation", ["relu", "tanh"])
        inner = [
            p for _, p in mlp([data.size, *sizes, 10], ReLU if kind == "relu" else Tanh, seed=trial.seed).children()
        ]
        model = Sequential(*inner[:-1], Dropout(trial.suggest_float("dropout", 0.0, 0.5)), inner[-1])
        lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        update = trial.suggest_categorical("update", ["sgd", "nesterov", "adam"])
        optimizer = {
            "sgd": lambda: optim.SGD(lr),
            "nesterov": lambda: optim.SGD(lr / 3, momentum=0.9, nesterov=True),
            "adam": lambda: optim.Adam(lr / 30),
        }[update]()
        decay = trial.suggest_categorical("decay", ["constant", "cosine", "step"])
        strength = trial.suggest_float("l2", 1e-6, 1e-2, log=True)
        trainer = fnn.Trainer(model, optimizer=optimizer, rng=trial.seed, regularization=L2(strength))
        return trainer, {"batch_size": 32, "schedule": getattr(schedules, decay)()}

    found = quiet(search.coarse_to_fine, build, rows, trials=(20, 8), epochs=(3, 12), moves=0, **options)
    return Finding(
        [
            Claim(
                "all of it is searched through one build(trial)",
                f"{len(found.best_params)} hyper-parameters, {len(found.rows)} trials; best {found.best.value:.2%}: "
                + ", ".join(
                    f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.best_params.items()
                ),
                found.best.value > (0.9 if data.name != "cifar10" else 0.3),
            )
        ],
        found.table(6),
        brief=f"{len(found.best_params)} at once: {found.best.value:.1%}",
    )


if __name__ == "__main__":
    show(__file__)

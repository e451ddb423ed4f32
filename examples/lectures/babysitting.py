"""Gradient checking and babysitting: statements 34 to 40.

The lectures' list before a long run: check gradients, check the first loss, turn regularisation on and see the loss
rise, learn twenty samples by heart, then find the rate at which the loss falls, and watch updates beside weights and
training beside validation. Each is a function of `fastnn.checks`, and ``fnn.checks.doctor(model, x, y)`` or
``fastnn doctor`` does all of them and writes a page. `fastnn.monitors` watches a run while it goes on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import fastnn as fnn
from common import SEEDS, Claim, Data, Finding, better, compete, error_of, figure, mlp, show, statement
from fastnn import checks, monitors
from fastnn.layers import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from fastnn.regularization import L2


@statement(34, text="Numeric against analytic gradient: central differences, relative error", on_data=False)
def gradient_check(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    conv = Conv2d(2, 4, 3, padding=1, rng=rng)
    model = Sequential(conv, BatchNorm2d(4), ReLU(), MaxPool2d(2), Flatten(), Linear(4 * 3 * 3, 5, rng=rng))
    x = rng.standard_normal((4, 2, 6, 6))
    good = fnn.gradcheck(model, x, max_checks=30)
    bad = fnn.gradcheck(lambda x: ((x**2).sum(), 1.9 * x), x)
    w, h = 1.3, 1e-5
    exact = math.cos(w)
    one_sided = abs((math.sin(w + h) - math.sin(w)) / h - exact) / exact
    central = abs((math.sin(w + h) - math.sin(w - h)) / (2 * h) - exact) / exact
    return Finding(
        [
            Claim(
                "right gradients pass",
                f"conv, batch norm, ReLU, pooling, linear: {good.max_error:.1e}; {good.verdict}",
                good.ok,
            ),
            Claim("a gradient that is 5 % off is found", f"{bad.max_error:.1e}; {bad.verdict}", not bad.ok),
            Claim(
                "central differences are better than one-sided ones",
                f"relative error of sin' at 1.3, h = 1e-5: {central:.0e} and {one_sided:.0e}",
                central < one_sided / 100,
            ),
        ],
        brief=f"right {good.max_error:.0e}, 5 % off {bad.max_error:.0e}",
    )


@statement(35, text="The initial loss is reasonable (log C) without regularisation; with it, it goes up")
def initial_loss(data: Data) -> Finding:
    rows = data.flat()
    model = mlp([data.size, 64, 10])
    model["2"].weight *= np.float32(0.01)
    first = checks.initial_loss(model, *rows.train)
    up = [checks.regularization_raises_loss(model, *rows.train, regularization=L2(s)).value for s in (1e-3, 1e-1)]
    return Finding(
        [
            Claim("the initial loss is log C", first.verdict, abs(first.numbers["loss"] - math.log(10)) < 0.05),
            Claim(
                "regularisation raises it",
                f"by {up[0]:.3g} with L2(0.001), by {up[1]:.3g} with L2(0.1)",
                0 < up[0] < up[1],
            ),
        ],
        brief=f"{first.numbers['loss']:.3f} for {math.log(10):.3f}; with L2(0.1) {up[1]:.2g} more",
    )


@statement(36, text="Make sure that you can overfit a tiny subset to zero loss")
def overfit(data: Data) -> Finding:
    rows = data.flat()
    found = checks.overfits(mlp([data.size, 64, 10]), *rows.train)
    picture, panel = figure(size=(5, 3.4))
    for label, (x, y) in found.curves.items():
        panel.plot(x, y, label=label)
    panel.set_yscale("log")
    panel.set(xlabel="step", ylabel="loss")
    panel.legend(frameon=False)
    return Finding(
        [Claim("twenty samples are learned by heart", found.verdict, found.ok is True)],
        pictures={"overfit": picture},
        brief=f"loss {found.value:.2g}",
    )


@statement(
    37,
    38,
    text=(
        "Find the rate that makes the loss go down: barely changing is too low (the accuracy may still jump), NaN or exploding "
        "too high; rough range 1e-3 to 1e-5",
        "What the shapes of loss curves mean; accuracy curves, and the gap between training and validation",
    ),
)
def rates(data: Data) -> Finding:
    # As the lectures have it: pixels from 0 to 255 less the mean image, and small weights.
    mean = data.train[0].mean(0)
    parts = [((255 * (x - mean)).reshape(len(x), -1).astype(np.float32), y) for x, y in (data.train, data.validation)]
    rows = Data(data.name, *parts, parts[1])

    def small() -> Sequential:
        return mlp([data.size, 50, 10], std=lambda fan: 1e-3)

    epochs = 10 if data.name == "digits" else 4
    lines = [f"{'rate':>8}{'first loss':>12}{'last loss':>12}{'accuracy before':>17}{'after':>8}"]
    runs, jumps, falls = {}, [], []
    for rate in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        trainer = fnn.Trainer(small(), optimizer=fnn.optim.SGD(rate), rng=0)
        before = trainer.evaluate(*rows.validation)["accuracy"]
        with np.errstate(all="ignore"):
            run = trainer.fit(rows.train, validation=rows.validation, epochs=epochs, batch_size=64, progress=False)
        last = run.loss[-1] if run.loss and not run.stopped else math.nan
        after = run.val_accuracy[-1] if run.val_accuracy else math.nan
        lines.append(f"{rate:8g}{run.step_loss[0]:12.3f}{last:12.3g}{before:17.1%}{after:8.1%}")
        runs[rate] = run
        if not run.stopped and last > 0.9 * run.step_loss[0]:
            jumps.append((rate, before, after, last))
        if not run.stopped and last < 0.8 * run.step_loss[0]:
            falls.append(rate)
    broken = [rate for rate, run in runs.items() if run.stopped or run.loss[-1] > 3 * run.step_loss[0]]
    best = min((r for r in runs if r not in broken), key=lambda r: runs[r].loss[-1])
    jump = max(jumps, key=lambda j: j[2] - j[1])
    # Shapes of curves: normalised rows and weights of the usual size, where nothing but the rate shapes them.
    normal, curves = data.flat(), {}
    for rate in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        with np.errstate(all="ignore"):
            curves[rate] = fnn.Trainer(mlp([data.size, 64, 10]), optimizer=fnn.optim.SGD(rate), rng=0).fit(
                normal.train, epochs=epochs, batch_size=64, progress=False
            )
    good = min((r for r, run in curves.items() if not run.stopped), key=lambda r: curves[r].loss[-1])
    smoothed = {r: np.convolve(run.step_loss, np.full(9, 1 / 9), "valid") for r, run in curves.items()}
    # Too low, and yet with a fall that can be seen among the differences of batches: 3 % of the first loss.
    low = min(r for r in curves if not curves[r].stopped and smoothed[r][-1] < 0.97 * smoothed[r][0])
    shape = {}
    for rate in (low, good):
        smooth = smoothed[rate]
        shape[rate] = float((smooth[0] - smooth[len(smooth) // 3]) / (smooth[0] - smooth[-1]))
    picture, axes = figure(1, 2, (11, 3.8))
    for rate, smooth in smoothed.items():
        axes[0].plot(smooth, label=f"{rate:g}", linewidth=1.2)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-2, 20)
    axes[0].set(xlabel="step", ylabel="loss, mean of 9 steps")
    axes[0].legend(frameon=False, fontsize=8, title="rate")
    # The gap: few rows and a wide net overfit; all rows do not.
    gaps = {}
    for label, limit in (("all rows", len(normal.train[0])), ("60 rows", 60)):
        some = tuple(part[:limit] for part in normal.train)
        trainer = fnn.Trainer(mlp([data.size, 256, 10]), optimizer=fnn.optim.SGD(0.01, momentum=0.9), rng=0)
        run = trainer.fit(
            some,
            validation=normal.validation,
            epochs=20 if len(some[0]) == 60 or data.name == "digits" else 5,
            batch_size=32,
            progress=False,
        )
        gaps[label] = run.accuracy[-1] - run.val_accuracy[-1]
        counted = range(1, len(run) + 1)
        (line,) = axes[1].plot(counted, run.accuracy, label=f"training, {label}")
        axes[1].plot(counted, run.val_accuracy, "--", color=line.get_color(), label=f"validation, {label}")
    axes[1].set(xlabel="epoch", ylabel="accuracy", xticks=range(0, 21, 5))
    axes[1].legend(frameon=False, fontsize=8)
    return Finding(
        [
            Claim(
                "too low: the loss barely changes",
                f"{jumps[0][3]:.3f} at {jumps[0][0]:g}, from {math.log(10):.3f}",
                bool(jumps) and jumps[0][3] > 2.2,
            ),
            Claim(
                "and yet the accuracy may jump",
                f"at {jump[0]:g} from {jump[1]:.1%} to {jump[2]:.1%}, at a loss of {jump[3]:.3f}",
                jump[2] > jump[1] + 0.1,
            ),
            Claim("too high: NaN or exploding", f"at {', '.join(f'{r:g}' for r in broken)}", bool(broken)),
            Claim(
                "the rate to look for lies in 1e-5 to 1e-3",
                f"the loss falls by a fifth or more at {', '.join(f'{r:g}' for r in falls)}, and is lowest at {best:g} (SGD, {epochs} "
                "epochs; centred pixels of 0 to 255)",
                1e-5 <= best <= 1e-3,
            ),
            Claim(
                "the curve tells the rate: too low is a straight line, good falls steeply and flattens, too high never falls",
                f"share of the whole fall that the first third of the steps makes: {shape[low]:.0%} at {low:g}, {shape[good]:.0%} at "
                f"{good:g}",
                abs(shape[low] - 1 / 3) < 0.15 and shape[good] > 0.5,
                38,
            ),
            Claim(
                "a large gap between training and validation is overfitting",
                f"{100 * gaps['60 rows']:.1f} points with 60 rows, {100 * gaps['all rows']:.1f} with all",
                gaps["60 rows"] > gaps["all rows"] + 0.03,
                38,
            ),
        ],
        "\n".join(lines),
        {"rates": picture},
        {
            37: f"best {best:g}; too high from {min(broken, default=math.inf):g}; at {jump[0]:g} loss {jump[3]:.2f}, accuracy {jump[2]:.0%}",
            38: f"gap {100 * gaps['60 rows']:.0f} points with 60 rows, {100 * gaps['all rows']:.0f} with all",
        },
    )


@statement(39, text="The ratio of updates to weights is near 1e-3")
def update_ratio(data: Data) -> Finding:
    rows = data.flat()
    # A run of a thousand steps or more: where a run is short, the rate that wins is the one that moves the weights
    # furthest in each.
    epochs, batch = (20, 16) if data.name == "digits" else (6, 32)
    arms = compete(
        {"sgd": lambda seed: mlp([data.size, 64, 64, 10], seed=seed)}, rows, optimizer=fnn.optim.SGD, epochs=epochs,
        batch_size=batch, rates=(1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), seeds=(0,),
    )  # fmt: skip
    best = arms["sgd"].rate
    ratios = {}
    for rate in (best / 100, best):
        watch = monitors.UpdateRatios(every=5)
        run = fnn.Trainer(mlp([data.size, 64, 64, 10]), optimizer=fnn.optim.SGD(rate), rng=0).fit(
            rows.train, epochs=epochs, batch_size=batch, progress=False, monitors=[watch]
        )
        weights = [s.values for name, s in run.series.items() if "weight" in name]
        ratios[rate] = float(np.median(np.concatenate(weights)))
    return Finding(
        [
            Claim(
                "at the rate that validates best it is 1e-3 within a factor of ten (0.01 is about okay)",
                f"median {ratios[best]:.1e} at {best:g}, {ratios[best / 100]:.1e} at a hundredth of it; {len(run.step_loss)} steps",
                1e-4 < ratios[best] <= 1e-2,
            ),
            Claim(
                "and within a factor of three",
                f"{ratios[best] / 1e-3:.2g} times 1e-3",
                1e-3 / 3 < ratios[best] < 3e-3,
            ),
        ],
        brief=f"{ratios[best]:.1e} at the best rate, {best:g}",
    )


@statement(40, text="How to judge that training is faster: epochs and seconds to a target, over seeds")
def faster(data: Data) -> Finding:
    rows = data.flat()
    some = tuple(part[:1500] for part in rows.train)  # epochs short enough to count

    def run(seed: int, norm: bool) -> Any:
        model = mlp([data.size, 64, 64, 10], seed=seed, norm=norm)
        return fnn.Trainer(model, optimizer=fnn.optim.SGD(0.1 if data.name == "digits" else 0.03), rng=seed).fit(
            some, validation=rows.validation, epochs=15, batch_size=64, progress=False
        )

    run(0, False)  # the first run of all waits for pages of memory and the like
    ways = {"plain": False, "batch norm": True}
    turns = [{name: run(seed, norm) for name, norm in ways.items()} for seed in SEEDS]
    histories = {name: [turn[name] for turn in turns] for name in ways}
    comparison = fnn.compare(histories, metric="val_loss")
    ratio = comparison.ratio("plain", "batch norm")
    seconds = comparison.ratio("plain", "batch norm", "seconds")
    epochs = {one.name: list(one.epochs) for one in comparison}
    difference = float(np.mean(epochs["plain"]) - np.mean(epochs["batch norm"]))
    return Finding(
        [
            Claim(
                "over seeds, a difference in epochs can be told from their spread",
                f"to a validation loss that all reach, batch norm needs {abs(difference):.1f} epochs {'less' if difference > 0 else 'more'} "
                f"(standard error {error_of(epochs['plain'], epochs['batch norm']):.1f}, 5 seeds): {1 / ratio:.2f} times the epochs, and "
                f"{1 / seconds:.2f} times the seconds",
                better(epochs["plain"], epochs["batch norm"]) is not None,
            )
        ],
        str(comparison),
        brief=f"{1 / ratio:.2f} times the epochs, {1 / seconds:.2f} times the seconds with batch norm",
    )


if __name__ == "__main__":
    show(__file__)

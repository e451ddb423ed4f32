"""Batch normalisation and its kin: statements 24 to 29.

"You want zero-mean unit-variance activations? Just make them so." In training `BatchNorm1d` and `BatchNorm2d` use the
statistics of the batch, and in inference running ones; there is no switch to forget, for ``layer(x)`` is inference and
``layer.forward(x)`` is training. After a convolution, `fastnn.compile` folds it into the weights. Layer, instance and
group norm take their statistics from a single row, and so do not depend on the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastnn as fnn
from common import (
    SEEDS,
    Claim,
    Data,
    Finding,
    arms_table,
    best_of,
    better,
    compete,
    epochs_to,
    error_of,
    figure,
    mlp,
    show,
    slowest,
    statement,
)
from fastnn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
)


def quick(data: Data, epochs: int) -> int:
    """Epochs on the digits; a larger set has more steps in each."""
    return epochs if data.name == "digits" else max(2, epochs // 4)


@statement(24, text="Mean 0 and variance 1 for each feature, for each map after a convolution; gamma = std and beta = mean "
           "give the identity", on_data=False)  # fmt: skip
def normalises(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    flat = (5 + 3 * rng.standard_normal((256, 20))).astype(np.float32)
    maps = (5 + 3 * rng.standard_normal((32, 8, 10, 10))).astype(np.float32)
    errors = {}
    for name, layer, x, axes in (
        ("features", BatchNorm1d(20), flat, (0,)),
        ("maps", BatchNorm2d(8), maps, (0, 2, 3)),
    ):
        y, _ = layer.forward(x)
        errors[name] = max(float(np.abs(y.mean(axes)).max()), float(np.abs(y.var(axes) - 1).max()))
        layer.weight[...], layer.bias[...] = np.sqrt(x.var(axes) + layer.eps), x.mean(axes)
        back, _ = layer.forward(x)
        errors[f"identity of {name}"] = float(np.abs(back - x).max())
    return Finding(
        [
            Claim(
                "mean 0, variance 1 for each feature",
                f"largest deviation {errors['features']:.1e}",
                errors["features"] < 1e-4,
            ),
            Claim("for each map after a convolution", f"largest deviation {errors['maps']:.1e}", errors["maps"] < 1e-4),
            Claim(
                "gamma = std, beta = mean is the identity",
                f"largest difference {max(errors['identity of features'], errors['identity of maps']):.1e}, of values to 18",
                max(errors["identity of features"], errors["identity of maps"]) < 1e-4,
            ),
        ],
        brief=f"off by {max(errors['features'], errors['maps']):.0e}",
    )


@statement(25, text="It stands after the linear or convolutional layer, and before the nonlinearity")
def place(data: Data) -> Finding:
    def build(after: bool) -> Any:
        def made(seed: int) -> Sequential:
            rng = np.random.default_rng([seed, 7])
            parts: list[Any] = []
            for a, b in ((data.size, 64), (64, 64), (64, 64)):
                middle = [ReLU(), BatchNorm1d(b)] if after else [BatchNorm1d(b), ReLU()]
                parts += [Linear(a, b, rng=rng), *middle]
            return Sequential(*parts, Linear(64, 10, rng=rng))

        return made

    arms = compete({"before": build(False), "after": build(True)}, data.flat(), epochs=quick(data, 10), seeds=SEEDS)
    difference = arms["before"].mean - arms["after"].mean
    noise = error_of(arms["before"].test, arms["after"].test)
    return Finding(
        [
            Claim(
                "before the nonlinearity is no worse than after it, within two standard errors",
                f"{100 * arms['before'].mean:.2f} % and {100 * arms['after'].mean:.2f} %; standard error of the difference {100 * noise:.2f}",
                difference > -2 * noise,
            )
        ],
        arms_table(arms),
        brief=f"before {100 * arms['before'].mean:.1f}, after {100 * arms['after'].mean:.1f} %",
    )


@statement(26, text="Deep nets become easier to train: higher rates, faster, less sensitive to initialisation, better gradient "
           "flow, more activations viable")  # fmt: skip
def easier(data: Data) -> Finding:
    rows = data.flat()
    sizes = [data.size, *[64] * 5, 10]
    epochs = quick(data, 10)
    nets = {"without": False, "with": True}
    sgd = fnn.optim.SGD

    def build(norm: bool, kind: Any = ReLU, std: Any = None, sizes: Any = sizes) -> Any:
        return lambda seed: mlp(sizes, kind, seed=seed, norm=norm, std=std)

    arms = compete(
        {name: build(norm) for name, norm in nets.items()}, rows, epochs=epochs, optimizer=sgd, by="loss",
        rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    )  # fmt: skip
    target = slowest(arms)
    needed = {name: [-epochs_to(r, target) for r in arm.runs] for name, arm in arms.items()}
    # A rate works where the loss falls at least half as far as it can.
    reached = min(run.loss[-1] for arm in arms.values() for run in arm.runs)
    half = 0.5 * (np.log(10) + reached)
    highest = {}
    for name, norm in nets.items():
        works = []
        for rate in (0.1, 0.3, 1.0, 3.0, 10.0):
            model = mlp(sizes, norm=norm)
            with np.errstate(all="ignore"):
                one = fnn.Trainer(model, optimizer=sgd(rate), rng=0)
                run = one.fit(rows.train, epochs=epochs, batch_size=64, progress=False)
            if not run.stopped and run.loss[-1] < half:
                works.append(rate)
        highest[name] = max(works, default=0.0)
    scales = (1e-3, 1e-2, 0.1, 0.3, 1.0)
    grid: dict[str, list[float]] = {}
    for name, norm in nets.items():
        grid[name] = []
        for scale in scales:
            arm = compete(
                {"": build(norm, std=lambda fan, s=scale: s)}, rows, epochs=epochs, optimizer=sgd, rates=(0.03, 0.1, 0.3), seeds=SEEDS[:2]
            )[""]  # fmt: skip
            grid[name].append(arm.mean)
    spread = {name: max(values) - min(values) for name, values in grid.items()}
    flow = {}
    for name, norm in nets.items():
        model = mlp([data.size, *[64] * 10, 10], norm=norm, std=lambda fan: 0.05)
        found = fnn.statistics(model, rows.train[0][:256], rows.train[1][:256]).activations
        norms = [one.gradient.norm for one in found if one.gradient]
        flow[name] = norms[0] / norms[-1]
    deep = {
        name: compete({"": build(norm, Sigmoid, lambda fan: fan**-0.5, [data.size, *[64] * 6, 10])}, rows, epochs=2 * epochs,
                      optimizer=sgd, rates=(0.1, 0.3, 1.0, 3.0), seeds=SEEDS[:2])[""].mean
        for name, norm in nets.items()
    }  # fmt: skip
    table = [f"{'scale of weights':<18}" + "".join(f"{s:>9g}" for s in scales)]
    table += [f"{name + ' batch norm':<18}" + "".join(f"{v:9.1%}" for v in values) for name, values in grid.items()]
    picture, axes = figure(1, 2, (10, 3.6))
    left, right = axes
    for (name, arm), colour in zip(arms.items(), ("#e07b1a", "#1f6fb4"), strict=True):
        for i, run in enumerate(arm.runs):
            label = f"{name}, rate {arm.rate:g}" if not i else None
            left.plot(range(1, len(run) + 1), run.loss, color=colour, label=label)
        right.plot(scales, [100 * v for v in grid[name]], "-o", color=colour, label=f"{name} batch norm")
    left.set_yscale("log")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set_xscale("log")
    right.set(xlabel="standard deviation of the first weights", ylabel="test accuracy, %")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    return Finding(
        [
            Claim(
                "higher rates work",
                f"the loss falls at least half as far as it can up to a rate of {highest['with']:g} with, {highest['without']:g} without",
                highest["with"] > highest["without"],
            ),
            Claim(
                "it trains faster",
                f"epochs to a loss of {target:.3g}, which all reach, each at its best rate: {-np.mean(needed['with']):.1f} with, "
                f"{-np.mean(needed['without']):.1f} without",
                better(needed["with"], needed["without"]),
            ),
            Claim(
                "it is less sensitive to initialisation",
                f"the accuracy varies by {100 * spread['with']:.1f} points over scales 1e-3 to 1, without by {100 * spread['without']:.1f}",
                spread["with"] < spread["without"],
            ),
            Claim(
                "gradients flow better",
                f"norm at the first of ten layers over that at the last: {flow['with']:.2g} with, {flow['without']:.1e} without",
                abs(np.log(flow["with"])) < abs(np.log(flow["without"])),
            ),
            Claim(
                "a deep sigmoid network trains (above 20 %, and half as much again as without)",
                f"six hidden layers: {deep['with']:.1%} with, {deep['without']:.1%} without",
                deep["with"] > 0.2 and deep["with"] > 1.5 * deep["without"],
            ),
        ],
        "\n".join([*table, arms_table(arms)]),
        {"batch-norm": picture},
        f"rates to {highest['with']:g} for {highest['without']:g}; over scales {100 * spread['with']:.0f} points for "
        f"{100 * spread['without']:.0f}; deep sigmoid {deep['with']:.0%} for {deep['without']:.0%}",
    )


@statement(27, text="At test time it differs: fixed running statistics; the batch's own are a common bug")
def test_time(data: Data) -> Finding:
    rows = data.flat()
    model = mlp([data.size, 64, 64, 10], norm=True)
    trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(0.05 if data.name == "digits" else 0.01, momentum=0.9), rng=0)
    trainer.fit(rows.train, epochs=quick(data, 10), batch_size=64, progress=False)
    x, y = rows.test
    right = trainer.evaluate(x, y)["accuracy"]
    order = np.argsort(y, kind="stable")

    def with_batch_statistics(batches: list[np.ndarray]) -> float:
        hits = 0
        for batch in batches:
            scores, _ = model.copy().forward(x[batch], 0)
            hits += int((scores.argmax(1) == y[batch]).sum())
        return hits / len(x)

    sorted_batches = with_batch_statistics(np.array_split(order, len(x) // 32))
    pairs = with_batch_statistics(np.array_split(np.arange(len(x)), len(x) // 2))
    one = model(x[:1])
    alone = float(np.abs(one - model(x)[:1]).max())
    return Finding(
        [
            Claim(
                "a row's answer does not depend on its batch",
                f"largest difference alone and among {len(x)}: {alone:.1e}",
                alone < 1e-4,
            ),
            Claim(
                "with the batch's statistics at test time it does: the bug",
                f"accuracy {right:.1%} with running statistics; with those of the batch {sorted_batches:.1%} where rows come "
                f"sorted by class, {pairs:.1%} in batches of two",
                sorted_batches < right - 0.05 and pairs < right - 0.05,
            ),
        ],
        brief=f"{right:.0%}; with the batch's own {sorted_batches:.0%} (sorted rows), {pairs:.0%} (pairs)",
    )


@statement(28, text="Zero overhead at test time when fused with the convolution (at most 1.02 times)", on_data=False)
def overhead(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 56, 56)).astype(np.float32)
    conv, norm = Conv2d(64, 64, 3, padding=1, rng=rng), BatchNorm2d(64)
    norm.running_mean[...], norm.running_var[...] = rng.standard_normal(64), rng.uniform(0.5, 2, 64)
    alone, both = fnn.compile(conv, x.shape), fnn.compile(Sequential(conv, norm), x.shape)
    unfused = best_of(lambda: norm(conv(x)), 50)
    times: dict[str, float] = {"alone": np.inf, "both": np.inf}
    for _ in range(5):  # in turns, so that a busy machine is busy for both
        times["alone"] = min(times["alone"], best_of(lambda: alone(x), 60))
        times["both"] = min(times["both"], best_of(lambda: both(x), 60))
    ratio = times["both"] / times["alone"]
    error = float(np.abs(both(x) - norm(conv(x))).max())
    return Finding(
        [
            Claim(
                "fused, it costs at most 1.02 times the convolution alone",
                f"{ratio:.3f} times ({1e3 * times['both']:.3f} and {1e3 * times['alone']:.3f} ms, the least of 300 calls each; "
                f"as two layers {1e3 * unfused:.3f} ms; largest difference {error:.1e})",
                ratio <= 1.02,
            )
        ],
        brief=f"{ratio:.3f} times",
    )


@statement(29, text="Layer, instance and group norm: what each normalises; small batches")
def kin(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.standard_normal((6, 8, 5, 5))).astype(np.float32)
    checks = {
        "batch": (BatchNorm2d(8), (0, 2, 3)),
        "layer": (LayerNorm((8, 5, 5)), (1, 2, 3)),
        "instance": (InstanceNorm2d(8), (2, 3)),
    }
    errors = {name: float(np.abs(layer.forward(x)[0].mean(axes)).max()) for name, (layer, axes) in checks.items()}
    groups = GroupNorm(2, 8).forward(x)[0].reshape(6, 2, -1)
    errors["group"] = float(np.abs(groups.mean(2)).max())

    channels = 16
    half = (data.shape[1] // 2, data.shape[2] // 2)
    kinds: dict[str, Any] = {
        "none": None,
        "batch": lambda: BatchNorm2d(channels),
        "layer": lambda: GroupNorm(1, channels),
        "instance": lambda: InstanceNorm2d(channels),
        "group": lambda: GroupNorm(4, channels),
    }

    def build(kind: Any) -> Any:
        def made(seed: int) -> Sequential:
            rng = np.random.default_rng([seed, 7])
            norms = [] if kind is None else [kind()]
            head = Linear(channels * half[0] * half[1], 10, rng=rng)
            conv = Conv2d(data.shape[0], channels, 3, padding=1, rng=rng)
            return Sequential(conv, *norms, ReLU(), MaxPool2d(2), Flatten(), head)

        return made

    small = data.normalised()
    limit = 400 if data.name == "digits" else 800
    small = Data(small.name, tuple(part[:limit] for part in small.train), small.validation, small.test)  # type: ignore[arg-type]
    result = {}
    for batch in (2, 32):
        result[batch] = compete(
            {name: build(kind) for name, kind in kinds.items()}, small, epochs=3, batch_size=batch, seeds=SEEDS,
            optimizer=fnn.optim.SGD, rates=(0.003, 0.01, 0.03, 0.1),
        )  # fmt: skip
    table = [f"{'':<10}{'batches of 2':>14}{'of 32':>10}"]
    table += [f"{name:<10}{result[2][name].mean:14.2%}{result[32][name].mean:10.2%}" for name in kinds]
    kept = {name: result[2][name].mean for name in kinds}
    return Finding(
        [
            Claim(
                "each normalises its own axes",
                "largest mean over them: " + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
                max(errors.values()) < 1e-5,
            ),
            Claim(
                "in batches of two, group norm is better than batch norm",
                f"{kept['group']:.1%} and {kept['batch']:.1%} ({limit} rows, 3 epochs, {len(result[2]['group'].test)} seeds; standard "
                f"error of the difference {100 * error_of(result[2]['group'].test, result[2]['batch'].test):.1f} points)",
                better(result[2]["group"].test, result[2]["batch"].test),
            ),
        ],
        "\n".join(table),
        brief=f"pairs: group {kept['group']:.1%}, batch {kept['batch']:.1%}",
    )


if __name__ == "__main__":
    show(__file__)

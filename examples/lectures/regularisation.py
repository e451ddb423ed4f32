"""Regularisation: statements 30 to 33.

What closes the gap between training and test data: penalties on weights (`fastnn.regularization`), dropout
(`fastnn.layers.Dropout`, whose p is the probability to drop, with inverted scaling), batch norm as a side effect, and
more data out of the data that there is (`fastnn.augment`, given to ``Trainer.fit(augment=...)``). Few rows are used
here, since regularisation shows where there is something to overfit.
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
    better,
    compete,
    error_of,
    figure,
    mlp,
    percent,
    show,
    statement,
)
from fastnn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from fastnn.regularization import L2


def few(data: Data, rows: int) -> Data:
    """The first rows of the training part: where regularisation has something to do."""
    return Data(data.name, (data.train[0][:rows], data.train[1][:rows]), data.validation, data.test)


def network(p: float, width: int, seed: int, size: int, norm: bool = False) -> Sequential:
    base = [part for _, part in mlp([size, width, width, 10], seed=seed, norm=norm).children()]
    drop = [Dropout(p)] if p else []
    cut = 3 if norm else 2
    return Sequential(*base[:cut], *drop, *base[cut : 2 * cut], *drop, *base[2 * cut :])


@statement(30, text="L2 (weight decay); adding it raises the loss at first")
def l2(data: Data) -> Finding:
    rows = few(data.flat(), 200)
    seeds = SEEDS
    model = mlp([data.size, 64, 10])
    weights = [array for array in model.params.values() if array.ndim == 2]
    by_hand = 0.5 * 0.01 * sum(float((w.astype(np.float64) ** 2).sum()) for w in weights)
    trainer = fnn.Trainer(model, rng=0, regularization=L2(0.01))
    added = trainer.evaluate(*rows.train)["regularization"]
    strengths = (0.0, 1e-3, 1e-2, 1e-1)
    arms, norms = {}, {}
    for strength in strengths:
        name = f"L2({strength:g})" if strength else "none"
        arms[name] = compete(
            {"": lambda seed: mlp([data.size, 256, 10], seed=seed)}, rows, epochs=60, batch_size=32, seeds=seeds,
            rates=(0.003, 0.01, 0.03, 0.1), **({"regularization": L2(strength)} if strength else {}),
        )[""]  # fmt: skip
        norms[name] = float(np.mean([np.linalg.norm(m["0"].weight) for m in arms[name].models]))
    best = max((name for name in arms if name != "none"), key=lambda name: arms[name].validated)
    return Finding(
        [
            Claim(
                "it adds strength / 2 times the sum of squares to the loss",
                f"{added:.6f}, by hand {by_hand:.6f}",
                abs(added / by_hand - 1) < 1e-5,
            ),
            Claim(
                "weights become smaller",
                ", ".join(f"{name}: norm {norm:.1f}" for name, norm in norms.items()),
                list(norms.values()) == sorted(norms.values(), reverse=True),
            ),
            Claim(
                "with few rows (200) it generalises better than none",
                f"{best}, the best of three by validation: {arms[best].mean:.2%}, none {arms['none'].mean:.2%} (standard error of the "
                f"difference {100 * error_of(arms[best].test, arms['none'].test):.2f} points)",
                better(arms[best].test, arms["none"].test),
            ),
        ],
        arms_table(arms),
        brief=f"raises the loss by {added:.2g}; {arms[best].mean:.1%}, without {arms['none'].mean:.1%}",
    )


@statement(
    31,
    text="Dropout: an ensemble of nets that share weights; less co-adaptation; equal expected output in training and test",
)
def dropout(data: Data) -> Finding:
    rows = few(data.flat(), 400)
    epochs = 40
    arms = compete(
        {name: lambda seed, p=p: network(p, 200, seed, data.size) for name, p in (("none", 0.0), ("dropout 0.5", 0.5))},
        rows, epochs=epochs, batch_size=32, rates=(0.003, 0.01, 0.03, 0.1), seeds=SEEDS,
    )  # fmt: skip
    model = arms["dropout 0.5"].models[0]
    x = rows.test[0][:200]
    tested = model(x).astype(np.float64)
    total = np.zeros_like(tested)
    shares = np.zeros_like(tested)
    errors = {}
    for count in range(1, 1001):
        scores = model.forward(x, count)[0].astype(np.float64)
        total += scores
        e = np.exp(scores - scores.max(1, keepdims=True))
        shares += e / e.sum(1, keepdims=True)
        if count in (1, 10, 100, 1000):
            errors[count] = float(np.abs(total / count - tested).mean() / np.abs(tested).mean())
    agree = float((shares.argmax(1) == tested.argmax(1)).mean())
    h = np.abs(np.random.default_rng(0).standard_normal((1, 1000)))
    layer = Dropout(0.5)
    inverted = np.mean([layer.forward(h, seed)[0].mean() for seed in range(400)])
    scaled = np.mean([0.5 * layer.forward(h, seed)[0].mean() for seed in range(400)])
    correlation: dict[str, list[float]] = {}
    for name, arm in arms.items():
        values = []
        for one in arm.models:
            hidden = Sequential(*[part for _, part in one.children()][:2])(rows.test[0])
            alive = hidden[:, hidden.std(0) > 0]
            c = np.corrcoef(alive, rowvar=False)
            values.append(float(np.abs(c[np.triu_indices(len(c), 1)]).mean()))
        correlation[name] = values
    return Finding(
        [
            Claim(
                "the mean of many masked nets approaches the test-time net",
                "mean difference of the scores "
                + ", ".join(f"{v:.1%} with {k}" for k, v in errors.items())
                + f"; same answer on {agree:.1%} of rows",
                errors[1000] < 0.15 and errors[1000] < errors[10] < errors[1],
            ),
            Claim(
                "features are less correlated (less co-adaptation)",
                f"mean |correlation| of hidden units {np.mean(correlation['dropout 0.5']):.3f}, without "
                f"{np.mean(correlation['none']):.3f}",
                better(correlation["none"], correlation["dropout 0.5"]),
            ),
            Claim(
                "the expected output is equal in training and testing",
                f"inverted: training mean {inverted:.4f}, test {layer(h).mean():.4f}; scaling at test time: {scaled:.4f}, {0.5 * h.mean():.4f}",
                abs(inverted / h.mean() - 1) < 0.01 and abs(scaled / (0.5 * h.mean()) - 1) < 0.01,
            ),
            Claim(
                "on fully connected layers it generalises better (400 rows)",
                f"{arms['dropout 0.5'].mean:.2%} with, {arms['none'].mean:.2%} without (standard error of the difference "
                f"{100 * error_of(arms['dropout 0.5'].test, arms['none'].test):.2f} points)",
                better(arms["dropout 0.5"].test, arms["none"].test),
            ),
        ],
        arms_table(arms),
        brief=f"{errors[1000]:.0%} from the mean of 1,000 nets; {arms['dropout 0.5'].mean:.1%}, without {arms['none'].mean:.1%}",
    )


@statement(32, text="Batch norm regularises")
def norm(data: Data) -> Finding:
    rows = few(data.flat(), 400)
    arms = compete(
        {name: lambda seed, n=n: network(0.0, 200, seed, data.size, n) for name, n in (("none", False), ("batch norm", True))},
        rows, epochs=40, batch_size=32, rates=(0.003, 0.01, 0.03, 0.1), seeds=SEEDS,
    )  # fmt: skip
    gaps = {
        name: [fnn.Trainer(m).evaluate(*rows.train)["accuracy"] - t for m, t in zip(arm.models, arm.test, strict=True)]
        for name, arm in arms.items()
    }
    mean = {name: float(np.mean(values)) for name, values in gaps.items()}
    return Finding(
        [
            Claim(
                "the gap between training and test is smaller with it (400 rows)",
                f"{100 * mean['batch norm']:.2f} points with, {100 * mean['none']:.2f} without (standard error of the difference "
                f"{100 * error_of(gaps['none'], gaps['batch norm']):.2f})",
                better(gaps["none"], gaps["batch norm"]),
            )
        ],
        arms_table(arms),
        brief=f"gap {100 * mean['batch norm']:.1f} points, without {100 * mean['none']:.1f}",
    )


def conv_net(data: Data, seed: int) -> Sequential:
    rng = np.random.default_rng([seed, 7])
    c, h, w = data.shape
    hidden = 32 * (h // 4) * (w // 4)
    return Sequential(
        Conv2d(c, 16, 3, padding=1, rng=rng), ReLU(), MaxPool2d(2), Conv2d(16, 32, 3, padding=1, rng=rng), ReLU(), MaxPool2d(2),
        Flatten(), Linear(hidden, 10, rng=rng),
    )  # fmt: skip


@statement(33, text="Augmentation: flips, random crops and scales, colour; cutout and mixup for small sets")
def augmentation(data: Data) -> Finding:
    from fastnn import augment

    rows = few(data.normalised(), 300 if data.name == "digits" else 800)
    size, epochs = data.shape[1], 40 if data.name == "digits" else 15
    seeds = SEEDS
    ways: dict[str, Any] = {
        "none": None,
        "crops": augment.RandomCrop(size, padding=max(1, size // 8)),
        "scales": augment.RandomResizedCrop(size, scale=(0.7, 1.0)),
        "cutout": augment.Cutout(max(2, size // 4)),
        "mixup": augment.Mixup(0.2, classes=10),
        "flips": augment.HorizontalFlip(),
    }
    if data.shape[0] == 3:
        ways["colour"] = augment.ColorJitter(0.2, 0.2, 0.2)
        ways["crops and flips"] = augment.Compose(ways["crops"], ways["flips"])
    accuracy: dict[str, list[float]] = {}
    for name, way in ways.items():
        scores = {}

        def run(seed: int, rate: float, way: Any = way) -> fnn.Trainer:
            trainer = fnn.Trainer(conv_net(data, seed), optimizer=fnn.optim.Adam(rate), rng=seed)
            more = {} if way is None else {"augment": way}
            trainer.fit(
                rows.train, epochs=epochs, batch_size=32, progress=False, schedule=fnn.schedules.cosine(), **more
            )
            return trainer

        for rate in (1e-3, 3e-3):
            scores[rate] = run(100, rate).evaluate(*rows.validation)["accuracy"]
        best = max(scores, key=scores.__getitem__)
        accuracy[name] = [run(seed, best).evaluate(*rows.test)["accuracy"] for seed in seeds]
    mean = {name: float(np.mean(v)) for name, v in accuracy.items()}
    table = "\n".join(f"{name:<16} {percent(values)}" for name, values in accuracy.items())
    picture, axes = figure(len(ways), 8, (8, len(ways)))
    sample = data.train[0][:8]
    for i, (name, way) in enumerate(ways.items()):
        axes[8 * i].text(-0.15, 0.5, name, transform=axes[8 * i].transAxes, ha="right", va="center")
        shown = sample
        if isinstance(way, augment.Mixup):
            shown, _ = way(sample, data.train[1][:8], rng=0)
        elif way is not None:
            shown = way(sample, rng=0)
        for j in range(8):
            panel = axes[8 * i + j]
            panel.imshow(np.clip(shown[j].transpose(1, 2, 0), 0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set_axis_off()
    claims = [
        Claim(
            f"{name} help{'' if name.endswith('s') else 's'} ({len(rows.train[0])} rows)",
            f"{mean[name]:.2%}, without {mean['none']:.2%}",
            better(accuracy[name], accuracy["none"]),
        )
        for name in ways
        if name not in ("none", "flips")
    ]
    flips = better(accuracy["flips"], accuracy["none"])
    claims.append(
        Claim("flips help", f"{mean['flips']:.2%}, without {mean['none']:.2%}", flips)
        if data.shape[0] == 3
        else Claim(
            "flips do not, where a mirrored image is another thing (digits)",
            f"{mean['flips']:.2%}, without {mean['none']:.2%}",
            flips is not True,
        )
    )
    top = max(mean, key=mean.__getitem__)
    return Finding(claims, table, {"augmentation": picture}, f"{top} {mean[top]:.1%}, none {mean['none']:.1%}")


if __name__ == "__main__":
    show(__file__)

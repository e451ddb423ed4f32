"""Evaluation: ensembles, test-time augmentation, transfer: statements 48 to 50.

What can be had after training. `fastnn.ensemble` has `Ensemble` of several models, `snapshots` of one run with a cyclic
rate, and `Average`, a running average of the weights. Test-time augmentation is the mean of the answers to several
versions of an image. Fine-tuning is training a loaded network on, all of it or only its last layers
(``Trainer(rates={"0": 0.0})`` freezes).
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from common import SEEDS, Claim, Data, Finding, mlp, show, statement
from fastnn import ensemble, schedules
from fastnn.layers import Sequential
from regularisation import conv_net, few


def accuracy(model: object, part: tuple[np.ndarray, np.ndarray]) -> float:
    x, y = part
    return float(np.mean(np.concatenate([model(x[i : i + 500]).argmax(1) for i in range(0, len(x), 500)]) == y))


@statement(48, text="Model ensembles: several models, snapshots of one run, a running average of the weights")
def ensembles(data: Data) -> Finding:
    rows = few(data.flat(), 500 if data.name == "digits" else 3000)
    result: dict[str, list[float]] = {
        name: [] for name in ("one", "five", "snapshots", "of one cycle", "average", "last")
    }
    for seed in SEEDS:
        members = []
        for i in range(5):
            model = mlp([data.size, 64, 64, 10], seed=10 * seed + i)
            fnn.Trainer(model, optimizer=fnn.optim.SGD(0.05, momentum=0.9), rng=10 * seed + i).fit(
                rows.train, epochs=15, batch_size=32, schedule=schedules.cosine(), progress=False
            )
            members.append(model)
        result["one"].append(float(np.mean([accuracy(m, rows.test) for m in members])))
        result["five"].append(accuracy(ensemble.Ensemble(members), rows.test))
        # One run as long as one of the five, in five cycles.
        trainer = fnn.Trainer(
            mlp([data.size, 64, 64, 10], seed=10 * seed), optimizer=fnn.optim.SGD(0.05, momentum=0.9), rng=seed
        )
        team, _ = ensemble.snapshots(trainer, rows.train, cycles=5, epochs=3, batch_size=32, progress=False)
        result["snapshots"].append(accuracy(team, rows.test))
        result["of one cycle"].append(accuracy(team.models[-1], rows.test))
        # A constant rate: the weights wander, their average does not.
        model = mlp([data.size, 64, 64, 10], seed=10 * seed)
        trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(0.05), rng=seed)
        trainer.fit(rows.train, epochs=10, batch_size=16, progress=False)
        mean = ensemble.Average(model)
        trainer.fit(
            rows.train, epochs=5, batch_size=16, progress=False, monitors=[lambda run, mean=mean: mean.update()]
        )
        result["average"].append(accuracy(mean.model(), rows.test))
        result["last"].append(accuracy(model, rows.test))
    mean_of = {name: float(np.mean(v)) for name, v in result.items()}
    table = "\n".join(
        f"{name:<14} {100 * mean_of[name]:.2f} % (seeds: {', '.join(f'{100 * a:.1f}' for a in v)})"
        for name, v in result.items()
    )
    gain = mean_of["five"] - mean_of["one"]
    return Finding(
        [
            Claim(
                "five models together are better than one", f"{mean_of['five']:.2%} and {mean_of['one']:.2%}", gain > 0
            ),
            Claim("by about 2 points (1 to 3)", f"{100 * gain:.2f} points", 0.01 <= gain <= 0.03),
            Claim(
                "snapshots of one run are better than its end",
                f"{mean_of['snapshots']:.2%} and {mean_of['of one cycle']:.2%}",
                mean_of["snapshots"] > mean_of["of one cycle"],
            ),
            Claim(
                "the running average of the weights is better than the last weights",
                f"{mean_of['average']:.2%} and {mean_of['last']:.2%}",
                mean_of["average"] > mean_of["last"],
            ),
        ],
        table,
    )


def shifted(x: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Images moved by whole pixels, with the border repeated."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    h, w = x.shape[2:]
    return padded[:, :, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]


@statement(49, text="Test-time augmentation: the mean of the answers to several versions of an image")
def test_time(data: Data) -> Finding:
    rows = few(data.normalised(), 500 if data.name == "digits" else 3000)
    places = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    once, often, flips = [], [], []
    for seed in SEEDS:
        model = conv_net(data, seed)
        fnn.Trainer(model, optimizer=fnn.optim.Adam(3e-3), rng=seed).fit(
            rows.train,
            epochs=20 if data.name == "digits" else 10,
            batch_size=32,
            schedule=schedules.cosine(),
            progress=False,
        )

        def team(x: np.ndarray, model: Sequential = model) -> np.ndarray:
            return sum(fnn.functional.softmax(model(np.ascontiguousarray(shifted(x, *place)))) for place in places)

        def mirrored(x: np.ndarray, model: Sequential = model) -> np.ndarray:
            return fnn.functional.softmax(model(x)) + fnn.functional.softmax(model(np.ascontiguousarray(x[..., ::-1])))

        once.append(accuracy(model, rows.test))
        often.append(accuracy(team, rows.test))
        flips.append(accuracy(mirrored, rows.test))

    def seeds(values: list[float]) -> str:
        return f"{np.mean(values):.2%} (seeds: {', '.join(f'{100 * v:.1f}' for v in values)})"

    claims = [
        Claim(
            "the mean over five shifts is better than one answer",
            f"{seeds(often)}; once {seeds(once)}",
            np.mean(often) > np.mean(once),
        )
    ]
    if data.shape[0] == 3:
        claims.append(
            Claim("and so is the mean over an image and its mirror image", seeds(flips), np.mean(flips) > np.mean(once))
        )
    return Finding(claims)


@statement(50, text="Transfer: fine-tuning a network that was trained on other classes")
def transfer(data: Data) -> Finding:
    images = data.normalised()
    epochs = 15 if data.name == "digits" else 6

    def classes(part: tuple[np.ndarray, np.ndarray], low: bool) -> tuple[np.ndarray, np.ndarray]:
        keep = (part[1] < 5) == low
        return part[0][keep], part[1][keep] % 5

    first = classes(images.train, True)
    second, test = classes(images.train, False), classes(images.test, False)
    some = (second[0][:50], second[1][:50])  # ten of each of the new classes
    result: dict[str, list[float]] = {"from scratch": [], "fine-tuned": [], "only the last layer": []}
    for seed in SEEDS:
        base = conv_net(data, seed)
        fnn.Trainer(base, optimizer=fnn.optim.Adam(3e-3), rng=seed).fit(
            first, epochs=epochs, batch_size=32, schedule=schedules.cosine(), progress=False
        )
        last = str(len(list(base.children())) - 1)
        for name in result:
            model = conv_net(data, seed + 50)
            options = {}
            if name != "from scratch":
                head = {k: v for k, v in model.state().items() if k.startswith(f"{last}.")}
                model.load_state({**base.state(), **head})  # everything but the scores
            if name == "only the last layer":
                options = {"rates": {str(i): 0.0 for i in (0, 3)}}
            best = 0.0
            for rate in (1e-3, 3e-3, 1e-2):
                twin = model.copy()
                fnn.Trainer(twin, optimizer=fnn.optim.Adam(rate), rng=seed, **options).fit(
                    some, epochs=40, batch_size=10, schedule=schedules.cosine(), progress=False
                )
                valid = classes(images.validation, False)
                score = accuracy(twin, valid)
                if score > best:
                    best, chosen = score, twin
            result[name].append(accuracy(chosen, test))
    mean = {name: float(np.mean(v)) for name, v in result.items()}
    table = "\n".join(
        f"{name:<20} {100 * mean[name]:.2f} % (seeds: {', '.join(f'{100 * a:.1f}' for a in v)})"
        for name, v in result.items()
    )
    return Finding(
        [
            Claim(
                "with 50 images of five new classes, fine-tuning beats training from scratch",
                f"{mean['fine-tuned']:.2%} and {mean['from scratch']:.2%}; the last layer alone {mean['only the last layer']:.2%}",
                max(mean["fine-tuned"], mean["only the last layer"]) > mean["from scratch"],
            )
        ],
        table,
    )


if __name__ == "__main__":
    show(__file__)

"""Evaluation: ensembles, test-time augmentation, transfer: statements 48 to 50.

What can be had after training. `fastnn.ensemble` has `Ensemble` of several models, `snapshots` of one run with a cyclic
rate, `Average`, a running average of the weights, and `Augmented`, the mean of the answers to several versions of an
image (test-time augmentation). Fine-tuning is training a loaded network on, all of it or only its last layers
(``Trainer(rates={"0": 0.0})`` freezes).
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from common import SEEDS, Claim, Data, Finding, better, compete, error_of, mlp, percent, show, statement
from fastnn import augment, ensemble, schedules
from regularisation import conv_net, few


def accuracy(model: object, part: tuple[np.ndarray, np.ndarray]) -> float:
    x, y = part
    return float(np.mean(np.concatenate([model(x[i : i + 500]).argmax(1) for i in range(0, len(x), 500)]) == y))


@statement(48, text="Model ensembles: several models, snapshots of one run, a running average of the weights")
def ensembles(data: Data) -> Finding:
    rows = few(data.flat(), 500 if data.name == "digits" else 2000)
    rate = compete(
        {"": lambda seed: mlp([data.size, 64, 64, 10], seed=seed)}, rows, rates=(0.003, 0.01, 0.03, 0.1), epochs=15, batch_size=32,
        seeds=(0,), fit={"": {"schedule": schedules.cosine()}},
    )[""].rate  # fmt: skip
    result: dict[str, list[float]] = {
        name: [] for name in ("one", "five", "snapshots", "of one cycle", "average", "last")
    }
    for seed in SEEDS:
        members = []
        for i in range(5):
            model = mlp([data.size, 64, 64, 10], seed=10 * seed + i)
            fnn.Trainer(model, optimizer=fnn.optim.SGD(rate, momentum=0.9), rng=10 * seed + i).fit(
                rows.train, epochs=15, batch_size=32, schedule=schedules.cosine(), progress=False
            )
            members.append(model)
        result["one"].append(float(np.mean([accuracy(m, rows.test) for m in members])))
        result["five"].append(accuracy(ensemble.Ensemble(members), rows.test))
        # One run as long as one of the five, in five cycles.
        trainer = fnn.Trainer(
            mlp([data.size, 64, 64, 10], seed=10 * seed), optimizer=fnn.optim.SGD(rate, momentum=0.9), rng=seed
        )
        team, _ = ensemble.snapshots(trainer, rows.train, cycles=5, epochs=3, batch_size=32, progress=False)
        result["snapshots"].append(accuracy(team, rows.test))
        result["of one cycle"].append(accuracy(team.models[-1], rows.test))
        # A constant rate: the weights wander, their average does not.
        model = mlp([data.size, 64, 64, 10], seed=10 * seed)
        trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(3 * rate), rng=seed)
        trainer.fit(rows.train, epochs=10, batch_size=16, progress=False)
        mean = ensemble.Average(model)
        trainer.fit(
            rows.train, epochs=5, batch_size=16, progress=False, monitors=[lambda run, mean=mean: mean.update()]
        )
        result["average"].append(accuracy(mean.model(), rows.test))
        result["last"].append(accuracy(model, rows.test))
    mean_of = {name: float(np.mean(v)) for name, v in result.items()}
    table = "\n".join(f"{name:<14} {percent(values)}" for name, values in result.items())
    table += f"\n\nat the rate of one model that validates best, {rate:g}"
    gain = mean_of["five"] - mean_of["one"]
    return Finding(
        [
            Claim(
                "five models together are better than one",
                f"{mean_of['five']:.2%} and {mean_of['one']:.2%}",
                better(result["five"], result["one"]),
            ),
            Claim("by about 2 points (1 to 3)", f"{100 * gain:.2f} points", 0.01 <= gain <= 0.03),
            Claim(
                "snapshots of one run are better than its end",
                f"{mean_of['snapshots']:.2%} and {mean_of['of one cycle']:.2%}",
                better(result["snapshots"], result["of one cycle"]),
            ),
            Claim(
                "the running average of the weights is better than the last weights",
                f"{mean_of['average']:.2%} and {mean_of['last']:.2%}",
                better(result["average"], result["last"]),
            ),
        ],
        table,
        brief=f"five {mean_of['five']:.1%}, one {mean_of['one']:.1%}",
    )


@statement(49, text="Test-time augmentation: the mean of the answers to several versions of an image")
def test_time(data: Data) -> Finding:
    rows = few(data.normalised(), 500 if data.name == "digits" else 2500)
    # Versions at test time are versions that training saw: random crops of one pixel around, and mirror images in colour.
    crops = augment.RandomCrop(data.shape[1], padding=1)
    way = augment.Compose(crops, augment.HorizontalFlip()) if data.shape[0] == 3 else crops
    seeds = SEEDS
    once, often, flips = [], [], []
    for seed in seeds:
        model = conv_net(data, seed)
        fnn.Trainer(model, optimizer=fnn.optim.Adam(3e-3), rng=seed).fit(
            rows.train,
            augment=way,
            epochs=40 if data.name == "digits" else 12,
            batch_size=32,
            schedule=schedules.cosine(),
            progress=False,
        )

        once.append(accuracy(model, rows.test))
        often.append(accuracy(ensemble.Augmented(model, "shifts"), rows.test))
        flips.append(accuracy(ensemble.Augmented(model, "mirror"), rows.test))

    claims = [
        Claim(
            "the mean over five shifts is better than one answer",
            f"{percent(often)}; once {percent(once)}",
            better(often, once),
        )
    ]
    brief = f"{np.mean(often):.1%}, once {np.mean(once):.1%}"
    if data.shape[0] == 3:
        claims.append(
            Claim("and so is the mean over an image and its mirror image", percent(flips), better(flips, once))
        )
        brief = f"shifts {np.mean(often):.1%}, mirrored {np.mean(flips):.1%}, once {np.mean(once):.1%}"
    return Finding(claims, brief=brief)


@statement(50, text="Transfer: fine-tuning a network that was trained on other classes")
def transfer(data: Data) -> Finding:
    images = data.normalised()
    epochs = 15 if data.name == "digits" else 6
    seeds = range(8) if data.name == "digits" else SEEDS

    def classes(part: tuple[np.ndarray, np.ndarray], low: bool) -> tuple[np.ndarray, np.ndarray]:
        keep = (part[1] < 5) == low
        return part[0][keep], part[1][keep] % 5

    first = classes(images.train, True)
    second, test = classes(images.train, False), classes(images.test, False)
    valid = classes(images.validation, False)
    ways = ("from scratch", "fine-tuned", "only the last layer")
    counts = (20, 50)
    result: dict[tuple[int, str], list[float]] = {(count, way): [] for count in counts for way in ways}
    validated: dict[tuple[int, str], list[float]] = {key: [] for key in result}
    for seed in seeds:
        base = conv_net(data, seed)
        fnn.Trainer(base, optimizer=fnn.optim.Adam(3e-3), rng=seed).fit(
            first, epochs=epochs, batch_size=32, schedule=schedules.cosine(), progress=False
        )
        last = str(len(list(base.children())) - 1)
        for count, way in result:
            some = tuple(part[50 * seed : 50 * seed + count] for part in second)  # other images for each seed
            model = conv_net(data, seed + 50)
            options = {}
            if way != "from scratch":
                head = {k: v for k, v in model.state().items() if k.startswith(f"{last}.")}
                model.load_state({**base.state(), **head})  # everything but the scores
            if way == "only the last layer":
                options = {"rates": {str(i): 0.0 for i in (0, 3)}}
            best = -1.0
            for rate in (1e-3, 3e-3, 1e-2):
                twin = model.copy()
                fnn.Trainer(twin, optimizer=fnn.optim.Adam(rate), rng=seed, **options).fit(
                    some, epochs=40, batch_size=10, schedule=schedules.cosine(), progress=False
                )
                score = accuracy(twin, valid)
                if score > best:
                    best, chosen = score, twin
            result[count, way].append(accuracy(chosen, test))
            validated[count, way].append(best)
    table = "\n".join(f"{count} images, {way:<20} {percent(values)}" for (count, way), values in result.items())
    claims, said = [], []
    for count in counts:
        scratch = result[count, ways[0]]
        way = max(ways[1:], key=lambda way, count=count: float(np.mean(validated[count, way])))
        said.append(f"{count} images {np.mean(result[count, way]):.1%}, from scratch {np.mean(scratch):.1%}")
        claims.append(
            Claim(
                f"with {count} images of five new classes, fine-tuning (all, or the last layer, by validation) beats training from "
                "scratch",
                f"{way} {np.mean(result[count, way]):.2%}, from scratch {np.mean(scratch):.2%} (standard error of the difference "
                f"{100 * error_of(result[count, way], scratch):.2f} points)",
                better(result[count, way], scratch),
            )
        )
    return Finding(claims, table, brief="; ".join(said))


if __name__ == "__main__":
    show(__file__)

"""Parameter updates: statement 41.

`fastnn.optim` has SGD, with momentum and Nesterov's, AdaGrad, RMSProp and Adam, and `fastnn.schedules` the decays of
the rate, as factors for ``Trainer.fit(schedule=...)``. Each update here has seven rates to choose from.
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from common import Claim, Data, Finding, arms_table, compete, epochs_to, figure, mlp, show, statement
from fastnn import optim, schedules

UPDATES = {
    "SGD": optim.SGD,
    "momentum": lambda lr: optim.SGD(lr, momentum=0.9),
    "Nesterov": lambda lr: optim.SGD(lr, momentum=0.9, nesterov=True),
    "AdaGrad": optim.AdaGrad,
    "RMSProp": optim.RMSProp,
    "Adam": optim.Adam,
}


@statement(41, text="SGD, momentum, Nesterov, AdaGrad, RMSProp, Adam; decay schedules")
def updates(data: Data) -> Finding:
    rows = data.flat()
    epochs = 10 if data.name == "digits" else 5
    build = lambda seed: mlp([data.size, 64, 64, 10], seed=seed)  # noqa: E731
    arms = compete(
        dict.fromkeys(UPDATES, build), rows, optimizer=UPDATES, rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), epochs=epochs,
        by="loss",
    )  # fmt: skip
    losses = {name: float(np.mean([run.loss[-1] for run in arm.runs])) for name, arm in arms.items()}
    target = 0.1 if data.name != "cifar10" else 1.6
    needed = {name: float(np.mean([epochs_to(run, target) for run in arm.runs])) for name, arm in arms.items()}
    decays = {}
    for name, schedule in {
        "constant": schedules.constant(),
        "step": schedules.step(),
        "exponential": schedules.exponential(),
        "1/t": schedules.one_over_t(),
        "cosine": schedules.cosine(),
    }.items():
        final = []
        for seed in range(3):
            trainer = fnn.Trainer(build(seed), optimizer=optim.SGD(0.3), rng=seed)
            trainer.fit(rows.train, epochs=2 * epochs, batch_size=16, schedule=schedule, progress=False)
            final.append(trainer.evaluate(*rows.test)["accuracy"])
        decays[name] = final
    table = "\n".join(
        f"{name:<12} {100 * np.mean(v):.2f} % (seeds: {', '.join(f'{100 * a:.1f}' for a in v)})"
        for name, v in decays.items()
    )
    picture, panel = figure(size=(6.5, 4))
    for name, arm in arms.items():
        panel.plot(range(1, epochs + 1), np.mean([run.loss for run in arm.runs], axis=0), label=f"{name}, {arm.rate:g}")
    panel.set_yscale("log")
    panel.set(xlabel="epoch", ylabel="training loss, mean of 3 seeds")
    panel.legend(frameon=False, fontsize=8)
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    others = [float(np.mean(v)) for name, v in decays.items() if name != "constant"]
    return Finding(
        [
            Claim(
                "momentum is faster than plain SGD",
                f"epochs to a loss of {target}, each at the best of 7 rates: {needed['momentum']:.1f} and {needed['SGD']:.1f}",
                needed["momentum"] < needed["SGD"],
            ),
            Claim(
                "Adam is the best default: lowest loss, or within a tenth",
                said,
                losses["Adam"] <= 1.1 * min(losses.values()),
            ),
            Claim(
                "decaying the rate helps",
                f"test accuracy at a rate of 0.3, batches of 16: constant {np.mean(decays['constant']):.2%}, the four decays "
                f"{', '.join(f'{v:.2%}' for v in others)}",
                min(others) > float(np.mean(decays["constant"])),
            ),
        ],
        f"{arms_table(arms)}\n\n{table}",
        {"updates": picture},
    )


if __name__ == "__main__":
    show(__file__)

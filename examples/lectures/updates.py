"""Parameter updates: statement 41.

`fastnn.optim` has SGD, with momentum and Nesterov's, AdaGrad, RMSProp and Adam, and `fastnn.schedules` the decays of
the rate, as factors for ``Trainer.fit(schedule=...)``. Each update here has seven rates to choose from.
"""

from __future__ import annotations

import numpy as np

from common import (
    Claim,
    Data,
    Finding,
    arms_table,
    better,
    compete,
    epochs_to,
    figure,
    mlp,
    show,
    slowest,
    statement,
)
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
    target = slowest({name: arms[name] for name in ("SGD", "momentum")})
    needed = {name: [-epochs_to(run, target) for run in arms[name].runs] for name in ("SGD", "momentum")}
    kinds = {
        "constant": schedules.constant(),
        "step": schedules.step(),
        "exponential": schedules.exponential(),
        "1/t": schedules.one_over_t(),
        "cosine": schedules.cosine(),
    }
    decays = compete(
        dict.fromkeys(kinds, build), rows, optimizer=optim.SGD, rates=(0.03, 0.1, 0.3), epochs=epochs,
        batch_size=16 if data.name == "digits" else 64, fit={name: {"schedule": one} for name, one in kinds.items()},
    )  # fmt: skip
    constant = decays["constant"]
    decayed = max((arm for name, arm in decays.items() if name != "constant"), key=lambda arm: arm.validated)
    which = next(name for name, arm in decays.items() if arm is decayed)
    picture, panel = figure(size=(6.5, 4))
    for name, arm in arms.items():
        panel.plot(range(1, epochs + 1), np.mean([run.loss for run in arm.runs], axis=0), label=f"{name}, {arm.rate:g}")
    panel.set_yscale("log")
    panel.set(xlabel="epoch", ylabel="training loss, mean of 5 seeds")
    panel.legend(frameon=False, fontsize=8)
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return Finding(
        [
            Claim(
                "momentum is faster than plain SGD",
                f"epochs to a loss of {target:.3g}, which both reach, each at the best of 7 rates: {-np.mean(needed['momentum']):.1f} and "
                f"{-np.mean(needed['SGD']):.1f}",
                better(needed["momentum"], needed["SGD"]),
            ),
            Claim(
                "Adam is the best default: lowest loss, or within a tenth",
                said,
                losses["Adam"] <= 1.1 * min(losses.values()),
            ),
            Claim(
                "decaying the rate helps",
                f"test accuracy, each at the best of 3 rates: constant {constant.mean:.2%}; {which}, the best of four decays "
                f"by validation, {decayed.mean:.2%}",
                better(decayed.test, constant.test),
            ),
        ],
        f"{arms_table(arms)}\n\n{arms_table(decays)}",
        {"updates": picture},
        f"loss: SGD {losses['SGD']:.2g}, momentum {losses['momentum']:.2g}, Adam {losses['Adam']:.2g}",
    )


if __name__ == "__main__":
    show(__file__)

"""A classifier of scikit-learn's digits with 99 % accuracy, the mean of five folds, by a search that fastnn runs.

    python examples/lectures/digits_99.py [--jobs 2] [--storage search.journal]

Coarse: 12 trials of 6 epochs in wide ranges. Fine: 4 trials of 40 epochs around the best of them. Every trial is
scored by five-fold cross-validation, so what is printed is what the search saw: choosing the best of a few trials by
the same folds flatters it a little, which the last lines measure by five folds of another seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn import optim, schedules, search
from fastnn.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential


def build(trial: search.Trial) -> tuple[fnn.Trainer, dict[str, Any]]:
    """Everything to choose, in one function: architecture, rate, decay, update, L2, dropout, batch size."""
    rng = np.random.default_rng(trial.seed)
    width = trial.suggest_int("width", 16, 48, log=True)
    depth = trial.suggest_categorical("convolutions", [3, 4])
    lr = trial.suggest_float("lr", 3e-4, 3e-2, log=True)
    l2 = trial.suggest_float("l2", 1e-6, 1e-3, log=True)
    p = trial.suggest_float("dropout", 0.1, 0.6)
    update = trial.suggest_categorical("update", ["adam", "nesterov"])
    batch = trial.suggest_categorical("batch_size", [32, 64])

    parts: list[Any] = []
    channels = 1
    for i in range(depth):
        out = width if i < 2 else 2 * width
        parts += [Conv2d(channels, out, 3, padding=1, bias=False, rng=rng), BatchNorm2d(out), ReLU()]
        parts += [MaxPool2d(2)] if i == 1 else []
        channels = out
    model = Sequential(*parts, Flatten(), Dropout(p), Linear(channels * 16, 10, rng=rng))
    optimizer = optim.Adam(lr) if update == "adam" else optim.SGD(10 * lr, momentum=0.9, nesterov=True)
    trainer = fnn.Trainer(model, optimizer=optimizer, rng=trial.seed, regularization=fnn.regularization.L2(l2))
    return trainer, {"batch_size": batch, "schedule": schedules.cosine()}


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.asarray(found.images[:, None] / 16.0, np.float32), found.target


def run(jobs: int = 1, storage: Path | None = None, **options: Any) -> search.Result:
    """The search."""
    options = {"trials": (12, 4), "epochs": (6, 40), "folds": 5, "moves": 0, **options}
    return search.coarse_to_fine(build, digits(), jobs=jobs, storage=storage, **options)


def again(result: search.Result, seed: int = 1) -> float:
    """The best trial's accuracy on five folds that the search has not seen."""
    trial = {name: [value] for name, value in result.best_params.items()}
    other = search.grid(build, digits(), points=trial, epochs=result.best.epochs, folds=5, seed=seed, progress=False)
    return other.best.value


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--storage", type=Path)
    options = parser.parse_args()
    result = run(options.jobs, options.storage)
    print(result)
    best = result.best
    print(f"mean of five folds: {best.value:.2%} ({', '.join(f'{v:.2%}' for v in best.folds)})")
    print(f"the same settings on five other folds: {again(result):.2%}")
    return best.value


if __name__ == "__main__":
    main()

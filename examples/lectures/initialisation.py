"""Weight initialisation: statements 17 to 23.

A layer multiplies the variance of its input by (fan in) x (variance of the weights). Through many layers anything but
1 vanishes or explodes, and gradients on the way back do the same. `fastnn.init` has the initialisers; layers start with
He's. `fastnn.statistics(model, x, y)` shows mean and deviation of activations and gradients layer by layer, as a table
or a picture; `fnn.checks.symmetry`, `vanishing_gradients` and `exploding_gradients` judge them.
"""

from __future__ import annotations

import itertools

import numpy as np

import fastnn as fnn
from common import Claim, Data, Finding, compete, figure, mlp, show, statement
from fastnn.layers import Conv2d, Linear, ReLU, Residual, Sequential, Tanh


def depths(
    model: Sequential, data: Data | None = None, rows: int = 256
) -> tuple[list[float], list[float], list[float]]:
    """Means and deviations of the activations, and deviations of their gradients, layer by layer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, model["0"].weight.shape[1])).astype(np.float32)
    y = rng.integers(0, model.params[list(model.params)[-2]].shape[0], rows)
    with np.errstate(all="ignore"):
        found = fnn.statistics(model, x, y).activations
    return (
        [one.output.mean for one in found],
        [one.output.std for one in found],
        [one.gradient.std if one.gradient else float("nan") for one in found],
    )


def lines(models: dict[str, Sequential], rows: int = 256) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """A table of activations and gradients through the depth of several networks."""
    text, numbers = [], {}
    for name, model in models.items():
        means, stds, gradients = depths(model, rows=rows)
        numbers[name] = (stds, gradients)
        for what, values in (("mean", means), ("std", stds), ("gradient std", gradients)):
            text.append(f"{name:<14} {what:<13}" + " ".join(f"{value:8.1e}" for value in values))
    return "\n".join(text), numbers


def depth_picture(numbers: dict[str, tuple[list[float], list[float]]]) -> object:
    picture, axes = figure(1, 2, (10, 3.6))
    for panel, i, what in zip(axes, (0, 1), ("deviation of activations", "deviation of gradients"), strict=True):
        for name, pair in numbers.items():
            panel.plot(range(1, len(pair[i]) + 1), np.maximum(pair[i], 1e-40), "-o", markersize=3, label=name)
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        if high < 100 * low:  # two decades at least: marks within one are hard to read
            panel.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        panel.set_xlabel("layer")
        panel.set_ylabel(what)
    axes[0].legend(frameon=False, fontsize=8)
    return picture


def ten(activation: type, std: float) -> Sequential:
    """The lecture's ten layers of 500 units."""
    return mlp([500] * 11 + [10], activation, std=lambda fan: std)


@statement(17, text="All zero weights: every neuron computes the same, and learns the same")
def zeros(data: Data) -> Finding:
    rows = data.flat()
    model = mlp([data.size, 32, 32, 10])
    for array in model.params.values():
        array[...] = 0
    trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(0.02, momentum=0.9), rng=0)
    trainer.fit(rows.train, epochs=5, batch_size=64, progress=False)
    w = model["0"].weight
    spread, accuracy = float(np.abs(w - w[0]).max()), trainer.evaluate(*rows.test)["accuracy"]
    # Equal but not zero: then they do learn, all the same thing.
    equal = mlp([data.size, 32, 10])
    for name in ("0", "2"):
        equal[name].weight[...] = 0.01
    other = fnn.Trainer(equal, optimizer=fnn.optim.SGD(0.02, momentum=0.9), rng=0)
    other.fit(rows.train, epochs=5, batch_size=64, progress=False)
    drift = float(np.abs(equal["0"].weight - equal["0"].weight[0]).max())
    moved = float(np.abs(equal["0"].weight - 0.01).max())
    return Finding(
        [
            Claim(
                "at zero, nothing but the last bias learns",
                f"largest weight after 5 epochs {float(np.abs(w).max()):.1g}, accuracy {accuracy:.1%}",
                spread == 0 and float(np.abs(w).max()) == 0,
            ),
            Claim(
                "from equal weights, all neurons stay equal while they learn",
                f"they move by {moved:.2f}, and differ by at most {drift:.1g}; accuracy "
                f"{other.evaluate(*rows.test)['accuracy']:.1%}",
                drift == 0 and moved > 0.01,
            ),
        ],
        brief=f"neurons differ by {drift:.1g} after 5 epochs",
    )


@statement(
    18,
    19,
    text=(
        "0.01 x normal works for small nets and collapses in deep ones: activations and gradients",
        "1.0 x normal: tanh saturates, gradients vanish; ReLU explodes",
    ),
)
def scales(data: Data) -> Finding:
    rows = data.flat()
    small = compete(
        {"0.01": lambda seed: mlp([data.size, 64, 10], Tanh, seed=seed, std=lambda fan: 0.01)},
        rows,
        epochs=6,
        seeds=(0,),
    )["0.01"]
    own = compete(
        {"He": lambda seed: mlp([data.size, 64, 10], Tanh, seed=seed)},
        rows,
        epochs=6,
        seeds=(0,),
    )["He"]
    deep = compete(
        {"0.01": lambda seed: mlp([data.size] + [100] * 9 + [10], Tanh, seed=seed, std=lambda fan: 0.01)},
        rows,
        epochs=6,
        seeds=(0,),
    )["0.01"]
    text, numbers = lines({"tanh, 0.01": ten(Tanh, 0.01), "tanh, 1.0": ten(Tanh, 1.0), "relu, 1.0": ten(ReLU, 1.0)})
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 500)).astype(np.float32)
    wild = ten(Tanh, 1.0)
    saturated = fnn.statistics(wild, x).activations[-1].saturated
    local = float(np.mean(1 - np.asarray(Sequential(*(part for _, part in list(wild.children())[:2]))(x)) ** 2 < 0.01))
    stds, gradients = numbers["tanh, 0.01"]
    wide = numbers["tanh, 1.0"]
    relu = numbers["relu, 1.0"][0]
    assert saturated is not None
    return Finding(
        [
            Claim(
                "0.01 is fine in a network of one hidden layer",
                f"accuracy {small.mean:.1%}, {own.mean:.1%} with He's",
                small.mean > own.mean - 0.03,
            ),
            Claim(
                "in ten layers of 500 tanh the activations collapse",
                f"deviation {stds[0]:.2f} in the first and {stds[-1]:.1e} in the last; a net of ten layers reaches {deep.mean:.1%}",
                stds[-1] < 1e-3 * stds[0],
            ),
            Claim(
                "and so do the gradients",
                f"{gradients[-1]:.1e} in the last, {gradients[0]:.1e} in the first",
                gradients[0] < 1e-3 * gradients[-1],
            ),
            Claim(
                "1.0: almost all tanh units are saturated", f"{saturated:.1%} of the last layer", saturated > 0.8, 19
            ),
            Claim(
                "so their local gradients are all but zero",
                f"below 0.01 in {local:.1%} of the first layer",
                local > 0.8,
                19,
            ),
            Claim(
                "and the gradients that come back through the layers vanish",
                f"deviation {wide[1][-1]:.1e} in the last layer, {wide[1][0]:.1e} in the first: what saturation takes, "
                "weights of 1.0 give back, and more",
                wide[1][0] < wide[1][-1],
                19,
            ),
            Claim(
                "1.0: ReLU explodes",
                f"deviation {relu[0]:.1f} in the first layer, {relu[-1]:.1e} in the tenth",
                relu[-1] > 1e6 * relu[0],
                19,
            ),
        ],
        text,
        {"scales": depth_picture(numbers)},
        {
            18: f"one hidden layer {small.mean:.0%}; ten: deviation {stds[-1]:.0e}, {deep.mean:.0%}",
            19: f"{saturated:.0%} of tanh saturated; ReLU {relu[-1]:.0e}",
        },
    )


@statement(
    20,
    21,
    text=(
        "Xavier, 1 / sqrt(fan in), keeps the spread with tanh, and collapses with ReLU",
        "He, sqrt(2 / fan in), holds with ReLU",
    ),
    on_data=False,
)
def xavier_and_he(data: Data) -> Finding:
    width = [4096] * 7 + [10]
    models = {
        "tanh, Xavier": mlp(width, Tanh, std=lambda fan: fan**-0.5),
        "relu, Xavier": mlp(width, ReLU, std=lambda fan: fan**-0.5),
        "relu, He": mlp(width, ReLU, std=lambda fan: (2 / fan) ** 0.5),
    }
    text, numbers = lines(models, rows=16)
    tanh, relu, he = (numbers[name][0] for name in models)

    def said(values: list[float]) -> str:
        return f"deviation {values[0]:.3f} after the first of {len(values)} layers of 4096, {values[-1]:.3f} after the last"

    return Finding(
        [
            Claim("Xavier keeps the spread with tanh (more than a third of it)", said(tanh), tanh[-1] > tanh[0] / 3),
            Claim("Xavier collapses with ReLU (below a quarter)", said(relu), relu[-1] < relu[0] / 4),
            Claim("He holds with ReLU (within 20 %)", said(he), 0.8 < he[-1] / he[0] < 1.25, 21),
        ],
        text,
        {"xavier-and-he": depth_picture(numbers)},
        {
            20: f"deviation {tanh[0]:.2f} to {tanh[-1]:.2f} with tanh, {relu[0]:.2f} to {relu[-1]:.2f} with ReLU",
            21: f"deviation {he[0]:.2f} to {he[-1]:.2f}",
        },
    )


@statement(22, text="Var(y) = Din Var(x) Var(w) for independent x and w of zero mean", on_data=False)
def variance(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    ratios, biased = [], []
    for fan in (16, 256, 1024):
        layer = Linear(fan, 512, rng=rng)
        layer.weight[...] = fnn.init.normal((512, fan), std=0.3, rng=rng)
        x = rng.standard_normal((2048, fan)).astype(np.float32) * 2
        product = fan * float(x.var()) * float(layer.weight.var())
        ratios.append(float(layer(x).var()) / product)
        biased.append(float(layer(np.abs(x)).var()) / (fan * float(np.abs(x).var()) * float(layer.weight.var())))
    return Finding(
        [
            Claim(
                "the variance is the product",
                "measured over predicted: " + ", ".join(f"{r:.3f}" for r in ratios) + " (fan in 16, 256, 1024)",
                all(abs(r - 1) < 0.05 for r in ratios),
            ),
            Claim(
                "without zero mean (|x| in place of x) it is not",
                ", ".join(f"{r:.2f}" for r in biased),
                all(r > 1.5 for r in biased),
            ),
        ],
        brief=f"measured over predicted {min(ratios):.3f} to {max(ratios):.3f}",
    )


@statement(23, text="A residual block doubles the variance; first conv He, last conv zero fixes it", on_data=False)
def residual(data: Data) -> Finding:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 16, 12, 12)).astype(np.float32)
    growth = {}
    for name in ("He", "last zero"):
        blocks = []
        for _ in range(6):
            first, last = (Conv2d(16, 16, 3, padding=1, rng=rng) for _ in range(2))
            # He's factor of 2 is for the ReLU before it: the block's input here has none, so the first is Xavier's.
            first.weight *= np.float32(0.5**0.5)
            blocks.append(Residual(Sequential(first, ReLU(), last)))
        model = Sequential(*blocks)
        if name == "last zero":
            fnn.init.zero_residual(model)
        inner = x[:, :, 2:-2, 2:-2]
        values, y = [float(inner.var())], x
        for block in blocks:
            y = block(y)
            values.append(float(y[:, :, 2:-2, 2:-2].var()))
        growth[name] = [b / a for a, b in itertools.pairwise(values)]
    return Finding(
        [
            Claim(
                "each block doubles the variance",
                "factors of six blocks: " + ", ".join(f"{g:.2f}" for g in growth["He"]),
                bool(abs(np.mean(growth["He"]) - 2) < 0.3),
            ),
            Claim(
                "with the last convolution at zero it stays",
                "factors: " + ", ".join(f"{g:.2f}" for g in growth["last zero"]),
                all(abs(g - 1) < 1e-6 for g in growth["last zero"]),
            ),
        ],
        brief=f"{np.mean(growth['He']):.2f} times a block; {np.mean(growth['last zero']):.2f} with the last at zero",
    )


if __name__ == "__main__":
    show(__file__)

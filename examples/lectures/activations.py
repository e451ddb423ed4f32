"""Activation functions: statements 1 to 11.

Without a nonlinearity a deep network is one linear map. Which one to take is decided by the gradient that it lets
through: sigmoid and tanh are flat for large inputs, ReLU is flat on one side, and what is flat for every row of the
data learns no more. Every function here has a layer in `fastnn.layers` and a slope that `fastnn.statistics` uses to
count saturated and dead units; `fnn.checks.dead_units` and `fnn.checks.saturated_units` judge them before training.

``python examples/lectures/activations.py`` shows the statements on the digits.
"""

from __future__ import annotations

import functools

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
    CELU,
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    Linear,
    Maxout,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sequential,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
)

ALL = {
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky relu": LeakyReLU,
    "prelu": PReLU,
    "elu": ELU,
    "maxout": Maxout,
    "relu6": ReLU6,
    "selu": SELU,
    "celu": CELU,
    "gelu": GELU,
    "silu": SiLU,
    "mish": Mish,
    "softplus": Softplus,
    "softsign": Softsign,
    "hardsigmoid": Hardsigmoid,
    "hardtanh": Hardtanh,
    "hardswish": Hardswish,
}


def slope(layer: object, x: np.ndarray) -> np.ndarray:
    """The local gradient of each element."""
    column = x.astype(np.float64).reshape(-1, 1)
    if isinstance(layer, Maxout):  # of the pieces x and -x, which make |x|
        y, backward = layer.forward(np.concatenate([column, -column], axis=1))
        dx = backward(np.ones_like(y))
        return dx[:, 0] - dx[:, 1]
    y, backward = layer.forward(column)
    return backward(np.ones_like(y))[:, 0]


def value(layer: object, x: np.ndarray) -> np.ndarray:
    column = x.astype(np.float64).reshape(-1, 1)
    return layer(np.concatenate([column, -column], axis=1) if isinstance(layer, Maxout) else column)[:, 0]


@statement(1, text="Sigmoid and tanh saturate: for large |x| the local gradient dies", on_data=False)
def saturation(data: Data) -> Finding:
    far = np.array([-10.0, 10.0])
    claims, left = [], []
    for name in ("sigmoid", "tanh"):
        layer = ALL[name]()
        share = np.abs(slope(layer, far)).max() / np.abs(slope(layer, np.array([0.0]))).max()
        left.append(f"{name} {share:.1e}")
        claims.append(
            Claim(f"the gradient of {name} dies", f"at |x| = 10 it is {share:.1e} of that at 0", share < 1e-3)
        )
    x = np.linspace(-5, 5, 401)
    picture, axes = figure(3, 6, (15, 7))
    for (name, kind), panel in zip(ALL.items(), axes, strict=False):
        layer = kind()
        panel.plot(x, value(layer, x), label="function", color="#1f6fb4")
        panel.plot(x, slope(layer, x), "--", label="gradient", color="#e07b1a")
        panel.set_title(name + (" of x and -x" if name == "maxout" else ""), fontsize=10)
        panel.set_ylim(-2, 3)
    axes[0].legend(frameon=False, fontsize=8)
    return Finding(claims, pictures={"activations": picture}, brief=f"gradient at 10, of that at 0: {', '.join(left)}")


@statement(
    2,
    11,
    text=(
        "Sigmoid's output is not zero-centred; with all-positive input the gradients of a neuron's weights share one sign, "
        "and the path to the optimum zigzags",
        "All-positive data makes all gradients of a weight vector share a sign",
    ),
)
def one_sign(data: Data) -> Finding:
    raw = data.flat(normalised=False)
    x, y = raw.train[0][:500], raw.train[1][:500]
    centred = x - x.mean(0)
    shares, means = {}, {}
    for name, (kind, inputs) in {
        "sigmoid": (Sigmoid, centred),
        "tanh": (Tanh, centred),
        "first layer, raw pixels": (None, x),
        "first layer, centred pixels": (None, centred),
    }.items():
        # The gradient of each row by the weights of each of ten neurons: dy of the neuron times its input.
        hidden = inputs if kind is None else kind()(Linear(data.size, 50, rng=0)(inputs))
        _, dscores = fnn.functional.cross_entropy(Linear(hidden.shape[1], 10, rng=1)(hidden), y)
        gradients = dscores[:, :, None] * hidden[:, None, :]
        alike = ((gradients >= 0).all(2) | (gradients <= 0).all(2)).mean()
        shares[name], means[name] = float(alike), float(hidden.mean())
    claims = [
        Claim("sigmoid's output is not zero-centred", f"mean {means['sigmoid']:.2f}", abs(means["sigmoid"]) > 0.25),
        Claim(
            "behind a sigmoid, all gradients of a neuron's weights share one sign",
            f"for {shares['sigmoid']:.0%} of rows and neurons; behind a tanh for {shares['tanh']:.0%}",
            shares["sigmoid"] == 1 and shares["tanh"] < 0.5,
        ),
        Claim(
            "all-positive pixels do the same to the first layer",
            f"{shares['first layer, raw pixels']:.0%}; centred {shares['first layer, centred pixels']:.0%}",
            shares["first layer, raw pixels"] == 1 and shares["first layer, centred pixels"] < 0.5,
            11,
        ),
    ]
    # Two weights, one of which should grow while the other shrinks, by steps on single rows, from 20 drawn sets of rows.
    rates, sets = (0.1, 0.3, 1.0, 3.0), 20
    start, optimum = np.array([-1.0, -0.5]), np.array([1.0, -1.0])
    steps: dict[str, list[int]] = {"all positive": [], "centred": []}
    alike = dict.fromkeys(steps, 0.0)
    paths: dict[str, np.ndarray] = {}
    for draw in range(sets):
        points = np.random.default_rng(draw).uniform(0, 1, (200, 2))
        for name, inputs in {"all positive": points, "centred": points - points.mean(0)}.items():
            goal = inputs @ optimum
            tries = []
            for rate in rates:
                path = [start]
                while len(path) <= 2000 and np.linalg.norm(path[-1] - optimum) >= 0.05:
                    a, b = inputs[(len(path) - 1) % 200], goal[(len(path) - 1) % 200]
                    path.append(path[-1] - rate * (a @ path[-1] - b) * a)
                    if np.abs(path[-1]).max() > 1e6:
                        break
                if np.linalg.norm(path[-1] - optimum) < 0.05:
                    tries.append(path)
            best = np.array(min(tries, key=len))
            steps[name].append(len(best) - 1)
            alike[name] += float((np.diff(best, axis=0).prod(1) >= 0).mean()) / sets
            paths.setdefault(name, best)
    needed = {name: float(np.mean(values)) for name, values in steps.items()}
    claims += [
        Claim(
            "with all-positive input no step goes towards such an optimum: both weights grow, or both shrink",
            f"in {alike['all positive']:.0%} of steps; centred in {alike['centred']:.0%}",
            alike["all positive"] > 0.9999 and alike["centred"] < 0.9,
        ),
        Claim(
            "so the path zigzags, and takes more steps",
            f"mean of {sets} sets of rows, each with the best of 4 rates: {needed['all positive']:.0f} steps, centred "
            f"{needed['centred']:.0f}",
            better(steps["all positive"], steps["centred"]),
        ),
    ]
    picture, axes = figure(1, 2, (8, 3.6))
    for panel, (name, path) in zip(axes, paths.items(), strict=True):
        panel.plot(*path.T, "-o", markersize=3, linewidth=1, color="#1f6fb4")
        panel.plot(*optimum, "*", markersize=14, color="#e07b1a")
        panel.set_title(f"{name}: {len(path) - 1} steps", fontsize=10)
        panel.set(xlabel="first weight", ylabel="second weight")
        panel.set_aspect("equal", adjustable="datalim")
    brief = {
        2: f"one sign in {shares['sigmoid']:.0%} behind sigmoid, {shares['tanh']:.0%} behind tanh; "
        f"{needed['all positive']:.0f} steps for {needed['centred']:.0f}",
        11: f"one sign in {shares['first layer, raw pixels']:.0%}, centred {shares['first layer, centred pixels']:.0%}",
    }
    return Finding(claims, pictures={"zigzag": picture}, brief=brief)


@statement(3, text="exp() is a bit expensive to compute", on_data=False)
def cost(data: Data) -> Finding:
    x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    lines, forth = [f"{'':<12}{'forward':>9}{'backward':>10}   ns per element"], {}
    with fnn.num_threads(1):
        for name, kind in ALL.items():
            layer = kind()
            _, backward = layer.forward(x)
            dy = np.ones_like(layer(x))
            forth[name], back = (
                1e9 * best_of(f) / x.size for f in (lambda f=layer: f(x), lambda f=backward, dy=dy: f(dy))
            )
            lines.append(f"{name:<12}{forth[name]:9.3f}{back:10.3f}")
        # What an exponential costs in plain NumPy, for comparison: here it is a polynomial on vectors.
        plain = 1e9 * best_of(lambda: 1 / (1 + np.exp(-x))) / x.size
    lines.append(f"{'NumPy sigmoid':<12}{plain:8.3f}")
    ratio = min(forth["sigmoid"], forth["elu"]) / forth["relu"]
    claim = Claim(
        "functions with exp() cost more than ReLU",
        f"sigmoid {forth['sigmoid']:.2f}, tanh {forth['tanh']:.2f}, ELU {forth['elu']:.2f}, ReLU {forth['relu']:.2f} ns "
        f"per element forward; sigmoid in plain NumPy {plain:.2f}",
        ratio > 1.2,
    )
    brief = f"sigmoid {forth['sigmoid']:.2f}, tanh {forth['tanh']:.2f}, ReLU {forth['relu']:.2f} ns per element"
    return Finding([claim], "\n".join(lines), brief=brief)


@statement(4, text="tanh is zero-centred, and still saturates", on_data=False)
def tanh(data: Data) -> Finding:
    x = np.random.default_rng(0).standard_normal(100_000)
    means = {kind.__name__: float(kind()(x).mean()) for kind in (Tanh, Sigmoid)}
    far = float(slope(Tanh(), np.array([5.0]))[0])
    return Finding(
        [
            Claim(
                "tanh is zero-centred",
                f"mean output {means['Tanh']:.4f} of normal input; sigmoid {means['Sigmoid']:.2f}",
                abs(means["Tanh"]) < 0.01,
            ),
            Claim("tanh saturates", f"its gradient at 5 is {far:.1e} of that at 0", far < 1e-3),
        ],
        brief=f"mean {means['Tanh']:.4f}, sigmoid's {means['Sigmoid']:.2f}; gradient at 5: {far:.1e}",
    )


@statement(
    5, text="ReLU does not saturate for x > 0, is cheap, and converges several times faster than sigmoid and tanh (six)"
)
def convergence(data: Data) -> Finding:
    rows = data.flat()
    sizes = [data.size, 64, 64, 64, 10]
    fixed = float(slope(ReLU(), np.array([1e6]))[0])
    epochs = 30 if data.name == "digits" else 6
    builds = {
        name: lambda seed, kind=kind: mlp(
            sizes, kind, seed=seed, std=lambda fan, kind=kind: np.sqrt((2 if kind is ReLU else 1) / fan)
        )
        for name, kind in {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}.items()
    }
    arms = compete(
        builds, rows, epochs=epochs, by="loss", optimizer=lambda lr: fnn.optim.SGD(lr), rates=np.geomspace(0.01, 3, 6)
    )
    target = slowest(arms)
    needed = {name: [epochs_to(run, target) for run in arm.runs] for name, arm in arms.items()}
    mean = {name: float(np.mean(values)) for name, values in needed.items()}
    ratios = {name: mean[name] / mean["relu"] for name in ("tanh", "sigmoid")}

    def said(name: str) -> str:
        each = "; ".join(f"{who} {', '.join(f'{v:.1f}' for v in needed[who])}" for who in ("relu", name))
        return f"{ratios[name]:.1f} times the epochs of ReLU to a loss of {target:.3g}, which all reach ({each})"

    picture, panel = figure(size=(6, 3.6))
    for (name, arm), colour in zip(arms.items(), ("#1f6fb4", "#e07b1a", "#2a9d5c"), strict=True):
        for i, run in enumerate(arm.runs):
            panel.plot(
                range(1, epochs + 1), run.loss, color=colour, label=f"{name}, rate {arm.rate:.2g}" if not i else None
            )
    panel.set_yscale("log")
    panel.axhline(target, color="#666666", linewidth=1, linestyle=":")
    panel.set_xlabel("epoch")
    panel.set_ylabel("training loss")
    panel.legend(frameon=False)
    claims = [Claim("ReLU does not saturate for x > 0", f"its gradient at 1e6 is {fixed:g}", fixed == 1)]
    if data.name == "digits":  # does not depend on the data: once is enough
        x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
        with fnn.num_threads(1):
            times = {
                kind.__name__: 1e9 * best_of(functools.partial(kind(), x)) / x.size for kind in (ReLU, Tanh, Sigmoid)
            }
        claims.append(
            Claim(
                "ReLU is cheap",
                ", ".join(f"{name} {ns:.2f} ns" for name, ns in times.items()),
                times["ReLU"] < min(times["Tanh"], times["Sigmoid"]),
            )
        )
    claims += [
        Claim("ReLU converges several times (2 or more) faster than sigmoid", said("sigmoid"), ratios["sigmoid"] >= 2),
        Claim("ReLU converges several times (2 or more) faster than tanh", said("tanh"), ratios["tanh"] >= 2),
        Claim("it is about six times (4 to 9) faster than tanh", said("tanh"), 4 <= ratios["tanh"] <= 9),
    ]
    brief = f"{ratios['sigmoid']:.1f} times as fast as sigmoid, {ratios['tanh']:.1f} as tanh"
    return Finding(claims, arms_table(arms), {"convergence": picture}, brief)


@statement(6, text="ReLU dies: be careful with the rate; slightly positive biases (0.01) are an option")
def dying(data: Data) -> Finding:
    rows = data.flat()
    rates = (0.01, 0.1, 0.3, 1.0, 3.0)
    shares: dict[float, list[float]] = {0.0: [], 0.01: []}
    each: dict[float, list[float]] = {0.0: [], 0.01: []}
    for bias in shares:
        for rate in rates:
            dead = []
            for seed in SEEDS:
                model = mlp([data.size, 100, 100, 10], seed=seed)
                for name in ("0", "2"):
                    model[name].bias[...] = bias
                trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(rate), rng=seed)
                with np.errstate(all="ignore"):
                    trainer.fit(rows.train, epochs=5 if data.name == "digits" else 1, batch_size=32, progress=False)
                    found = fnn.statistics(model, rows.train[0][:1000])
                dead.append(float(np.mean([layer.dead for layer in found.activations])))
            shares[bias].append(float(np.mean(dead)))
            each[bias] += dead
    lines = ["dead units after training, mean of 5 seeds", f"{'rate':<12}" + "".join(f"{rate:>8g}" for rate in rates)]
    lines += [f"bias {bias:<7g}" + "".join(f"{share:8.1%}" for share in row) for bias, row in shares.items()]
    low, high = shares[0.0][0], shares[0.0][-1]
    # The same seeds and rates with and without: what counts is the spread of their differences.
    apart = np.subtract(each[0.0], each[0.01])
    error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    less = None if abs(apart.mean()) <= error else bool(apart.mean() > 0)
    return Finding(
        [
            Claim("a high rate kills ReLU units", f"{low:.1%} at rate 0.01, {high:.1%} at rate 3", high > low + 0.1),
            Claim(
                "a bias of 0.01 keeps more of them alive",
                f"mean over the rates {np.mean(shares[0.01]):.1%} dead with it, {np.mean(shares[0.0]):.1%} without (standard error "
                f"of the difference {error:.1%})",
                less,
            ),
        ],
        "\n".join(lines),
        brief=f"dead: {low:.0%} at rate 0.01, {high:.0%} at rate 3",
    )


@statement(7, text="Leaky ReLU does not die; PReLU learns its slope")
def leaky(data: Data) -> Finding:
    rows = data.flat()
    dead, slopes = {}, []
    for name, kind in {"relu": ReLU, "leaky relu": LeakyReLU}.items():
        shares = []
        for seed in SEEDS:
            model = mlp([data.size, 100, 100, 10], kind, seed=seed)
            with np.errstate(all="ignore"):
                fnn.Trainer(model, optimizer=fnn.optim.SGD(1.0), rng=seed).fit(
                    rows.train, epochs=5 if data.name == "digits" else 1, batch_size=32, progress=False
                )
                # Dead is a unit through which no gradient comes back, whatever the row.
                layer = model["3"]
                inside = Sequential(model["0"], model["1"], model["2"])(rows.train[0][:1000])
                passed = layer.slope(np.nan_to_num(inside))
            shares.append(float((passed == 0).all(0).mean()))
        dead[name] = float(np.mean(shares))
    for seed in SEEDS:
        model = mlp([data.size, 100, 100, 10], PReLU, seed=seed)
        trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(0.01, momentum=0.9), rng=seed)
        trainer.fit(rows.train, epochs=10 if data.name == "digits" else 2, batch_size=64, progress=False)
        slopes.append([float(model[i].weight[0]) for i in ("1", "3")])
    moved = np.abs(np.array(slopes) - 0.25)
    return Finding(
        [
            Claim(
                "Leaky ReLU does not die",
                f"at a rate of 1, {dead['leaky relu']:.0%} of units pass no gradient; of ReLU {dead['relu']:.0%}",
                dead["leaky relu"] == 0,
            ),
            Claim(
                "PReLU learns its slope",
                "from 0.25 to " + ", ".join(f"{a:.3f} and {b:.3f}" for a, b in slopes) + " (2 layers, 5 seeds)",
                bool((moved.mean(0) > 0.005).all()),
            ),
        ],
        brief=f"dead at rate 1: leaky {dead['leaky relu']:.0%}, ReLU {dead['relu']:.0%}; slopes move by {moved.mean():.2f}",
    )


@statement(8, text="ELU: outputs closer to zero mean, and some robustness to noise")
def elu(data: Data) -> Finding:
    rows = data.flat()
    kinds = {"relu": ReLU, "elu": ELU}
    arms = compete(
        {name: lambda seed, kind=kind: mlp([data.size, 100, 100, 10], kind, seed=seed) for name, kind in kinds.items()},
        rows,
        epochs=10 if data.name == "digits" else 4,
        seeds=SEEDS,
    )
    x, y = rows.test
    means = {
        name: float(
            np.mean([abs(one.output.mean) for model in arm.models for one in fnn.statistics(model, x).activations])
        )
        for name, arm in arms.items()
    }
    rng = np.random.default_rng(0)
    lost: dict[str, list[list[float]]] = {name: [] for name in arms}  # by level and seed
    levels = (0.5, 1.0, 1.5)
    for level in levels:
        noisy = x + level * rng.standard_normal(x.shape).astype(np.float32)
        for name, arm in arms.items():
            lost[name].append(
                [float(t - (m(noisy).argmax(1) == y).mean()) for m, t in zip(arm.models, arm.test, strict=True)]
            )
    loses = {name: np.mean(values, axis=0).tolist() for name, values in lost.items()}
    table = "\n".join(
        f"{name:<5} loses " + ", ".join(f"{100 * np.mean(v):.1f}" for v in values) + f" points at noise {levels}"
        for name, values in lost.items()
    )
    return Finding(
        [
            Claim(
                "the mean output is closer to zero",
                f"ELU {means['elu']:.3f}, ReLU {means['relu']:.3f}",
                means["elu"] < means["relu"],
            ),
            Claim(
                "ELU loses less accuracy to noise",
                f"mean over 3 levels and 5 seeds: ELU {100 * np.mean(loses['elu']):.1f}, ReLU {100 * np.mean(loses['relu']):.1f} points "
                f"(standard error of the difference {100 * error_of(loses['elu'], loses['relu']):.1f})",
                better(loses["relu"], loses["elu"]),
            ),
        ],
        f"{table}\n{arms_table(arms)}",
        brief=f"|mean output| {means['elu']:.2f}, ReLU {means['relu']:.2f}; lost to noise {100 * np.mean(loses['elu']):.1f}, "
        f"ReLU {100 * np.mean(loses['relu']):.1f} points",
    )


@statement(9, text="Maxout generalises ReLU and leaky ReLU, does not saturate or die, and doubles the parameters")
def maxout(data: Data) -> Finding:
    rows = data.flat()
    x = rows.train[0][:500]
    one = Linear(data.size, 20, rng=0)
    errors = {}
    for name, factor, kind in (("ReLU", 0.0, ReLU()), ("leaky ReLU", 0.01, LeakyReLU(0.01))):
        # F.maxout takes the pieces of a channel as neighbours or as halves: the weights say which by what they give.
        two = Linear(data.size, 40, rng=0)
        best = np.inf
        for order in (np.arange(40).reshape(2, 20), np.arange(40).reshape(20, 2).T):
            for rows_of, scale in zip(order, (1.0, factor), strict=True):
                two.weight[rows_of], two.bias[rows_of] = scale * one.weight, scale * one.bias
            best = min(best, float(np.abs(Maxout(2)(two(x)) - kind(one(x))).max()))
        errors[name] = best
    counts = {}
    for name, model in {
        "relu": Sequential(Linear(data.size, 100, rng=0), ReLU()),
        "maxout": Sequential(Linear(data.size, 200, rng=0), Maxout(2)),
    }.items():
        counts[name] = sum(array.size for array in model.params.values())
    rng = np.random.default_rng(0)
    model = Sequential(Linear(data.size, 200, rng=rng), Maxout(2), Linear(100, 10, rng=rng))
    with np.errstate(all="ignore"):
        fnn.Trainer(model, optimizer=fnn.optim.SGD(0.5), rng=0).fit(rows.train, epochs=3, batch_size=32, progress=False)
    inside = np.nan_to_num(model["0"](x))
    y, backward = model["1"].forward(inside)
    dx = backward(np.ones_like(y))
    passed = float(dx.sum() / y.size)
    return Finding(
        [
            Claim(
                "there are weights with which it is ReLU, and leaky ReLU",
                ", ".join(f"largest difference to {name} {error:.1e}" for name, error in errors.items()),
                max(errors.values()) < 1e-5,
            ),
            Claim(
                "it is linear, and neither saturates nor dies",
                f"after training at a rate of 0.5, {passed:.0%} of outputs pass their whole gradient on",
                passed == 1,
            ),
            Claim(
                "it doubles the parameters",
                f"{counts['maxout']} for {counts['relu']}",
                counts["maxout"] == 2 * counts["relu"],
            ),
        ],
        brief=f"off by {max(errors.values()):.0e}; {counts['maxout']:,} parameters for {counts['relu']:,}",
    )


@statement(10, text="In practice: ReLU; try leaky ReLU, maxout, ELU; tanh without much hope; no sigmoid")
def in_practice(data: Data) -> Finding:
    rows = data.flat()

    def build(kind: type) -> object:
        def made(seed: int) -> Sequential:
            if kind is not Maxout:
                return mlp([data.size, 64, 64, 64, 10], kind, seed=seed)
            rng = np.random.default_rng([seed, 7])
            sizes = [(data.size, 64), (64, 64), (64, 64)]
            hidden = [part for a, b in sizes for part in (Linear(a, 2 * b, rng=rng), Maxout(2))]
            return Sequential(*hidden, Linear(64, 10, rng=rng))

        return made

    # All of them on the digits; on more data those that the lectures name.
    named = ("relu", "leaky relu", "maxout", "elu", "tanh", "sigmoid")
    arms = compete(
        {name: build(kind) for name, kind in ALL.items() if data.name == "digits" or name in named},
        rows,
        epochs=6 if data.name == "digits" else 3,
        rates=(0.003, 0.01, 0.03, 0.1, 0.3),
        seeds=SEEDS,
    )
    ordered = dict(sorted(arms.items(), key=lambda pair: -pair[1].mean))
    group = {name: arms[name].mean for name in named}
    said = ", ".join(f"{name} {100 * value:.2f}" for name, value in sorted(group.items(), key=lambda pair: -pair[1]))
    error = error_of(arms["relu"].test, arms["tanh"].test)
    return Finding(
        [
            Claim("sigmoid is the worst of the six", f"{said} %", min(group, key=group.__getitem__) == "sigmoid"),
            Claim(
                "tanh is behind ReLU",
                f"ReLU {100 * group['relu']:.2f} %, tanh {100 * group['tanh']:.2f} % (standard error of the difference {100 * error:.2f})",
                better(arms["relu"].test, arms["tanh"].test),
            ),
            Claim(
                "leaky ReLU, maxout and ELU are as good as ReLU, within one point",
                f"{said} %",
                all(
                    abs(group[name] - group["relu"]) < 0.01 or group[name] > group["relu"]
                    for name in ("leaky relu", "maxout", "elu")
                ),
            ),
        ],
        arms_table(ordered),
        brief=f"ReLU {100 * group['relu']:.1f}, tanh {100 * group['tanh']:.1f}, sigmoid {100 * group['sigmoid']:.1f} %",
    )


if __name__ == "__main__":
    show(__file__)

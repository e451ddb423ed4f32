"""Data preprocessing: statements 12 to 16 (11 is shown with 2, among the activations).

Input of mean zero gives gradients of both signs, and input of unit size fits the size of weights that initialisation
chooses. Images are usually only centred, by the mean image or the mean of each channel. `fastnn.preprocess` has these
as scikit-learn transformers; ``pre.as_layer()`` makes the fitted transformer a layer of the model, so that the same is
done at test time, saved with the weights, and folded into the first convolution when the model is compiled.
"""

from __future__ import annotations

import numpy as np

import fastnn as fnn
from common import SEEDS, Claim, Data, Finding, arms_table, better, compete, error_of, mlp, show, statement
from fastnn import preprocess
from fastnn.layers import Linear, Sequential


def flat(data: Data, transformer: preprocess.Transformer | None, scale: float = 255.0) -> Data:
    """The pixels from 0 to ``scale``, through a transformer that is fitted on the training part."""
    parts = [((scale * x).reshape(len(x), -1), y) for x, y in (data.train, data.validation, data.test)]
    if transformer is not None:
        transformer.fit(parts[0][0])
        parts = [(transformer.transform(x), y) for x, y in parts]
    return Data(data.name, *[(x.astype(np.float32), y) for x, y in parts])


@statement(12, text="Zero-centre the data, scale it to unit variance (not usual for images)")
def standardise(data: Data) -> Finding:
    rows = flat(data, preprocess.Standardize())
    x = rows.train[0][:, rows.train[0].std(0) > 0]
    mean, std = float(np.abs(x.mean(0)).max()), float(np.abs(x.std(0) - 1).max())
    epochs = 10 if data.name == "digits" else 4

    def linear(seed: int) -> Sequential:
        """Scores that are linear in the pixels: convex, so that how fast it trains depends on the data alone."""
        layer = Linear(data.size, 10, rng=seed)
        layer.weight[...] = 0
        return Sequential(layer)

    ways = {
        "pixels 0 to 255": flat(data, None),
        "zero-centred": flat(data, preprocess.MeanImage()),
        "standardised": rows,
    }
    arms = {
        name: compete(
            {"": linear}, way, epochs=epochs, by="loss", rates=np.geomspace(1e-8, 1, 17), optimizer=fnn.optim.SGD
        )[""]
        for name, way in ways.items()
    }
    losses = {name: [-run.loss[-1] for run in arm.runs] for name, arm in arms.items()}
    said = ", ".join(f"{name} {-np.mean(loss):.3f}" for name, loss in losses.items())
    return Finding(
        [
            Claim(
                "mean 0 and variance 1 for each feature",
                f"largest mean {mean:.1e}, deviation off by {std:.1e}",
                max(mean, std) < 1e-3,
            ),
            Claim(
                "training goes faster zero-centred",
                f"training loss of a linear classifier after {epochs} epochs, each at the best of 17 rates: {said}",
                better(losses["zero-centred"], losses["pixels 0 to 255"]),
            ),
            Claim("and again with unit variance", said, better(losses["standardised"], losses["zero-centred"])),
        ],
        arms_table(arms),
        brief=f"loss {-np.mean(losses['pixels 0 to 255']):.3g} raw, {-np.mean(losses['zero-centred']):.3g} centred, "
        f"{-np.mean(losses['standardised']):.3g} scaled too",
    )


@statement(
    13, text="Images: the mean image (AlexNet), the mean of each channel (VGG), mean and std of each channel (ResNet)"
)
def images(data: Data) -> Finding:
    epochs = 8 if data.name == "digits" else 3
    arms, left = {}, {}
    for name, transformer in {
        "raw, 0 to 1": None,
        "mean image": preprocess.MeanImage(),
        "channel mean": preprocess.ChannelMean(),
        "channel mean, std": preprocess.ChannelMeanStd(),
    }.items():
        parts = [data.train, data.validation, data.test]
        if transformer is not None:
            transformer.fit(data.train[0])
            parts = [(transformer.transform(x), y) for x, y in parts]
            left[name] = float(np.abs(parts[0][0].mean((0, 2, 3))).max())
        rows = Data(data.name, *[(x.reshape(len(x), -1).astype(np.float32), y) for x, y in parts])
        arms[name] = compete({"": lambda seed: mlp([data.size, 64, 64, 10], seed=seed)}, rows, epochs=epochs)[""]
    best = max((arm for name, arm in arms.items() if name in left), key=lambda arm: arm.validated)
    raw = arms["raw, 0 to 1"]
    return Finding(
        [
            Claim(
                "each leaves a mean of zero in every channel",
                ", ".join(f"{name} {value:.1e}" for name, value in left.items()),
                max(left.values()) < 1e-4,
            ),
            Claim(
                "the best of the three (by validation) is no worse than raw pixels",
                f"{100 * best.mean:.2f} % and {100 * raw.mean:.2f} % (standard error of the difference "
                f"{100 * error_of(best.test, raw.test):.2f})",
                better(best.test, raw.test) is not False,
            ),
        ],
        arms_table(arms),
        brief=f"{100 * best.mean:.1f} %, raw {100 * raw.mean:.1f} %",
    )


@statement(14, text="PCA decorrelates; whitening makes the covariance the identity")
def whitening(data: Data) -> Finding:
    # In colour the middle of the images: an eigenvalue problem of 768, not of 3,072.
    part = data if data.size < 1000 else Data(data.name, *[(x[:, :, 8:24, 8:24], y) for x, y in (data.train,) * 3])
    x = flat(part, None, 1.0).train[0][:4000].astype(np.float64)
    count = 40
    claims, left = [], 0.0
    for name, pre in (("PCA", preprocess.PCA(count)), ("PCA, whitened", preprocess.PCA(count, whiten=True, eps=0.0))):
        z = pre.fit_transform(x)
        covariance = np.cov(z.astype(np.float64), rowvar=False)
        off = float(np.abs(covariance - np.diag(np.diag(covariance))).max() / np.diag(covariance).max())
        if name == "PCA":
            claims.append(
                Claim("PCA decorrelates", f"largest covariance {off:.1e} of the largest variance", off < 1e-4)
            )
        else:
            error = left = float(np.abs(covariance - np.eye(count)).max())
            claims.append(
                Claim(
                    "whitened, the covariance is the identity",
                    f"largest deviation {error:.1e} over {count} components",
                    error < 1e-2,
                )
            )
    z = preprocess.ZCA(eps=1e-8).fit_transform(x)
    values = np.linalg.eigvalsh(np.cov(z.astype(np.float64), rowvar=False))
    ones = float((np.abs(values - 1) < 0.05).mean())
    return Finding(
        claims,
        f"ZCA: {ones:.0%} of the eigenvalues of the covariance are 1 within 5 %; pixels that never change have none",
        brief=f"covariance is the identity within {left:.0e}",
    )


@statement(15, text="Not normalised, the loss is very sensitive to small changes of the weights; normalised, less")
def sensitivity(data: Data) -> Finding:
    centred = flat(data, preprocess.MeanImage())
    scale = np.float32(1 / centred.train[0].std())
    normalised = Data(data.name, *[(x * scale, y) for x, y in (centred.train, centred.validation, centred.test)])
    changes: dict[str, list[float]] = {}
    for name, rows, rates in (
        ("raw", flat(data, None), np.geomspace(1e-7, 1e-3, 6)),
        ("normalised", normalised, np.geomspace(1e-3, 1, 6)),
    ):
        changes[name] = []
        for seed in SEEDS:
            best = None
            for rate in rates:
                model = Linear(data.size, 10, rng=seed)
                model.weight *= np.float32(0.01)
                trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(float(rate)), rng=seed)
                run = trainer.fit(rows.train, epochs=5, batch_size=64, progress=False)
                if not run.stopped and (best is None or run.loss[-1] < best[0]):
                    best = (run.loss[-1], model)
            assert best is not None
            model = best[1]
            x, y = rows.train
            loss, _ = fnn.functional.cross_entropy(model(x), y)
            rng = np.random.default_rng(seed)
            shifts = []
            for _ in range(20):
                twin = model.copy()
                noise = rng.standard_normal(twin.weight.shape).astype(np.float32)
                twin.weight += 0.01 * noise * np.linalg.norm(twin.weight) / np.linalg.norm(noise)
                shifts.append(abs(fnn.functional.cross_entropy(twin(x), y)[0] - loss) / loss)
            changes[name].append(float(np.mean(shifts)))
    mean = {name: float(np.mean(values)) for name, values in changes.items()}
    return Finding(
        [
            Claim(
                "a change of 1 % of the weights changes the loss more on raw pixels",
                f"by {mean['raw']:.3%} raw, by {mean['normalised']:.3%} normalised (a trained linear classifier, best of 6 rates; "
                f"seeds {', '.join(f'{v:.3%}' for v in changes['raw'])} and {', '.join(f'{v:.3%}' for v in changes['normalised'])})",
                better(changes["raw"], changes["normalised"]),
            )
        ],
        brief=f"by {mean['raw']:.2%} raw, {mean['normalised']:.2%} normalised",
    )


@statement(16, text="Do the same thing at test time: the preprocessing is a layer of the model")
def same_at_test_time(data: Data) -> Finding:
    pre = preprocess.Standardize().fit(flat(data, None).train[0])
    raw = flat(data, None)
    model = Sequential(pre.as_layer(), *(part for _, part in mlp([data.size, 64, 10]).children()))
    trainer = fnn.Trainer(model, optimizer=fnn.optim.SGD(0.05 if data.name == "digits" else 0.01, momentum=0.9), rng=0)
    trainer.fit(raw.train, epochs=8 if data.name == "digits" else 3, batch_size=64, progress=False)
    x, y = raw.test
    right = float((model(x).argmax(1) == y).mean())
    forgotten = Sequential(*(part for name, part in model.children() if name != "0"))
    wrong = float((forgotten(x).argmax(1) == y).mean())
    own = preprocess.Standardize().fit(x[:50])
    other = float((forgotten(own.transform(x).astype(np.float32)).argmax(1) == y).mean())
    # A new model of the same layers, with other numbers in all of them, takes everything from the saved state.
    empty = preprocess.Standardize().fit(np.stack([np.zeros(data.size), np.ones(data.size)])).as_layer()
    twin = Sequential(empty, *(part for _, part in mlp([data.size, 64, 10], seed=9).children()))
    twin.load_state(model.state())
    program = fnn.compile(model, (64, data.size))
    scores = model(x)
    error = float(np.abs(program(x) - scores).max() / np.abs(scores).max())
    return Finding(
        [
            Claim(
                "forgotten at test time, the accuracy falls",
                f"{right:.1%} with it, {wrong:.1%} without, {other:.1%} with statistics of 50 test rows",
                wrong < right - 0.02,
            ),
            Claim(
                "as a layer it is saved with the model",
                f"largest difference after loading {float(np.abs(twin(x) - scores).max()):.1g}",
                bool((twin(x) == scores).all()),
            ),
            Claim("and compiled with it", f"largest difference {error:.1e} of the largest score", error < 1e-4),
        ],
        brief=f"{right:.1%} with it, {wrong:.1%} without",
    )


if __name__ == "__main__":
    show(__file__)

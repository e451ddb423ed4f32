"""fastnn.preprocess: what is fitted is what the layer does, alone, in a model, compiled, saved, and in scikit-learn."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers as L
from fastnn import optim, preprocess
from fastnn.errors import ShapeError

RNG = np.random.default_rng(0)
IMAGES = (RNG.standard_normal((200, 3, 5, 4)) * [[[2.0]], [[0.5]], [[7.0]]] + [[[5.0]], [[-1.0]], [[100.0]]]).astype(
    "f4"
)
MIX = RNG.standard_normal((6, 6))
ROWS = RNG.standard_normal((500, 6)) @ MIX + np.arange(6)

#: transformer, data that it takes
EACH = {
    "MeanImage": (preprocess.MeanImage, IMAGES),
    "ChannelMean": (preprocess.ChannelMean, IMAGES),
    "ChannelMeanStd": (preprocess.ChannelMeanStd, IMAGES),
    "Standardize": (preprocess.Standardize, IMAGES),
    "PCA": (preprocess.PCA, ROWS),
    "PCA whitened": (lambda: preprocess.PCA(4, whiten=True), ROWS),
    "PCA of images": (lambda: preprocess.PCA(0.9), IMAGES),
    "ZCA": (preprocess.ZCA, ROWS),
    "ZCA of images": (lambda: preprocess.ZCA(eps=0.1), IMAGES),
}
each = pytest.mark.parametrize(("make", "x"), EACH.values(), ids=EACH)


# ---- what they compute ----


def test_means_and_deviations_are_those_of_numpy():
    x = IMAGES.astype(np.float64)
    image, channel = x.mean(0), x.mean((0, 2, 3), keepdims=True)
    expected = {
        "MeanImage": x - image,
        "ChannelMean": x - channel,
        "ChannelMeanStd": (x - channel) / x.std((0, 2, 3), keepdims=True),
        "Standardize": (x - image) / x.std(0),
    }
    for name, y in expected.items():
        pre = getattr(preprocess, name)().fit(IMAGES)
        # In float64 but for the input, whose rounding is the same for both.
        np.testing.assert_allclose(pre.transform(x), y, rtol=0, atol=1e-12)
        # In float32: the mean of the third channel, 100, is rounded to 4e-6 and x as far.
        np.testing.assert_allclose(pre.transform(IMAGES), y, rtol=0, atol=2e-5)
        assert pre.transform(IMAGES).dtype == np.float32 and pre.transform(x).dtype == np.float64


@pytest.mark.parametrize("make", [preprocess.ZCA, lambda eps: preprocess.PCA(whiten=True, eps=eps)])
def test_whitened_data_has_the_identity_as_covariance(make):
    """Exactly, with eps=0: the covariance was 3,000 times larger in one direction than in another."""
    y = make(eps=0).fit_transform(ROWS)
    assert np.linalg.cond(np.cov(ROWS.T)) > 100
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(6), rtol=0, atol=1e-10)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)
    # With eps what had the variance v has v / (v + eps).
    y = make(eps=0.5).fit_transform(ROWS)
    values = np.sort(np.linalg.eigvalsh(np.cov(ROWS.T, bias=True)))
    found = np.sort(np.linalg.eigvalsh(np.cov(y.T, bias=True)))
    np.testing.assert_allclose(found, values / (values + 0.5), rtol=1e-9)


def test_pca_decorrelates_and_orders():
    pre = preprocess.PCA().fit(ROWS)
    covariance = np.cov(pre.transform(ROWS).T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(pre.explained_variance_), atol=1e-9 * covariance.max())
    assert (np.diff(pre.explained_variance_) <= 0).all()
    assert pre.explained_variance_.sum() == pytest.approx(ROWS.var(0).sum())
    assert pre.explained_variance_ratio_.sum() == pytest.approx(1)


def test_pca_agrees_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    theirs = decomposition.PCA(4).fit(ROWS)
    ours = preprocess.PCA(4).fit(ROWS)
    # Theirs divides by N - 1; the sign of a vector means nothing.
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_ * 499 / 500, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(ours.components_ * theirs.components_, 1)), 1, rtol=1e-10)
    np.testing.assert_allclose(np.abs(ours.transform(ROWS)), np.abs(theirs.transform(ROWS)), atol=1e-9)


def test_zca_stays_nearest_to_the_data():
    """Of all whitenings it moves the (centred) data least: its matrix is symmetric and positive."""
    pre = preprocess.ZCA(eps=0).fit(ROWS)
    matrix = pre.as_layer(np.float64)["rotate"].matrix
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0
    centred = ROWS - ROWS.mean(0)
    zca, pca = pre.transform(ROWS), preprocess.PCA(whiten=True, eps=0).fit_transform(ROWS)
    assert np.square(zca - centred).sum() < np.square(pca - centred).sum()


@pytest.mark.parametrize("n", [1, 3, 0.5, 0.99, None])
def test_how_many_components_are_kept(n):
    pre = preprocess.PCA(n).fit(ROWS)
    shares = np.sort(np.linalg.eigvalsh(np.cov(ROWS.T)))[::-1] / np.trace(np.cov(ROWS.T))
    least = next(k for k in range(1, 7) if shares[:k].sum() >= min(n or 1, 0.999999))
    expected = n if isinstance(n, int) else least
    assert len(pre.components_) == expected == pre.transform(ROWS).shape[1]


def test_fewer_rows_than_elements():
    """Singular vectors of the rows; eps fills the directions that they do not span."""
    x = RNG.standard_normal((20, 50))
    pre = preprocess.ZCA(eps=0.1).fit(x)
    covariance = np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    direct = (vectors / np.sqrt(values.clip(0) + 0.1)) @ vectors.T
    np.testing.assert_allclose(pre.as_layer(np.float64)["rotate"].matrix, direct, atol=1e-10)
    np.testing.assert_allclose(pre.inverse_transform(pre.transform(x)), x, atol=1e-10)
    assert len(preprocess.PCA().fit(x).components_) == 20


@each
def test_inverse(make, x):
    pre = make().fit(x)
    y = pre.transform(x.astype(np.float64))
    back = pre.inverse_transform(y)
    if len(getattr(pre, "components_", np.empty((x[0].size, 0)))) == x[0].size:
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-10 * np.abs(x).max())
    else:  # the nearest that the kept axes can give: what is lost lies across them
        lost = (x - back).reshape(len(x), -1)
        scale = np.abs(x).max() * x[0].size
        np.testing.assert_allclose(lost @ pre.components_.T, 0, atol=1e-9 * scale)


def test_sums_in_chunks_are_exact(monkeypatch):
    whole = {name: make().fit(x) for name, (make, x) in EACH.items()}
    monkeypatch.setattr(preprocess, "_CHUNK", 70)
    for name, (make, x) in EACH.items():
        chunked = make().fit(x)
        for attribute in ("mean_", "scale_", "explained_variance_"):
            if getattr(chunked, attribute, None) is not None:
                expected = getattr(whole[name], attribute)
                np.testing.assert_allclose(getattr(chunked, attribute), expected, rtol=1e-9, atol=1e-12)


def test_large_values_lose_no_digits():
    """Bytes of a million rows, as float32 sums would: 1e6 * 200 > 2^24."""
    x = np.full((1_000_000, 1), 201, np.uint8)
    x[::2] = 199
    pre = preprocess.Standardize().fit(x)
    assert pre.mean_.tolist() == [200.0] and pre.scale_.tolist() == [1.0]
    assert pre.transform(x[:2]).ravel().tolist() == [-1.0, 1.0]


def test_what_does_not_vary_is_only_shifted():
    x = np.stack([np.full(100, 0.1, np.float32), RNG.standard_normal(100).astype("f4")], 1)
    y = preprocess.Standardize().fit_transform(x)
    assert np.abs(y[:, 0]).max() < 1e-7 and y[:, 1].std() == pytest.approx(1, rel=1e-5)


# ---- as a layer ----


@each
def test_the_layer_is_the_transformer(make, x):
    pre = make().fit(x)
    for dtype in (np.float32, np.float64):
        layer = pre.as_layer(dtype)
        given = x.astype(dtype)
        np.testing.assert_array_equal(layer(given), pre.transform(given))
        assert layer.output_shape(x.shape) == pre.transform(given).shape
        assert not layer.params and {a.dtype for a in layer.buffers.values()} == {np.dtype(dtype)}


@each
def test_gradients(make, x):
    layer = make().fit(x).as_layer()
    report = fnn.gradcheck(layer, RNG.standard_normal((3, *x.shape[1:])))
    assert report.verdict == "great", str(report)


def test_layers_refuse_what_does_not_fit():
    for layer, shape in ((L.Normalize([1.0, 2.0]), (3, 3)), (L.Normalize(np.ones((2, 2))), (3, 4))):
        with pytest.raises(ShapeError, match="expected"):
            L.Sequential(layer)(np.zeros(shape, np.float32))
    for make, message in (
        (lambda: L.Normalize(1.0), "got a single number"),
        (lambda: L.Normalize([1.0], [0.0]), "std must be above 0"),
        (lambda: L.Normalize([1.0], [1.0, 2.0]), "one shape"),
        (lambda: L.Normalize([np.nan]), "NaN or infinite"),
        (lambda: L.Project([1.0]), r"shape \(k, D\)"),
        (lambda: L.Project(np.eye(2), np.ones(3)), r"bias must have the shape \(2,\)"),
        (lambda: L.Project(np.eye(4), shape=(3,)), "4 numbers do not have the shape"),
    ):
        with pytest.raises((ShapeError, ValueError), match=message):
            make()


def conv(padding=0, groups=1, **options):
    layer = L.Conv2d(3, 6, 3, padding=padding, groups=groups, rng=0, **options)
    if layer.bias is not None:
        layer.bias[...] = RNG.standard_normal(6)
    return layer


#: preprocessor, what follows, whether it goes into that
MODELS = {
    "channels, conv": (preprocess.ChannelMeanStd, lambda: [conv()], True),
    "channels, conv without bias": (preprocess.ChannelMeanStd, lambda: [conv(bias=False)], True),
    "channels, grouped conv": (preprocess.ChannelMeanStd, lambda: [conv(groups=3)], True),
    "channels, conv with norm": (preprocess.ChannelMean, lambda: [conv(), L.BatchNorm2d(6), L.ReLU()], True),
    "channels, padded conv": (preprocess.ChannelMeanStd, lambda: [conv(padding=1)], False),
    "channels, linear": (preprocess.ChannelMeanStd, lambda: [L.Flatten(), L.Linear(60, 4, rng=0)], True),
    "image, linear": (preprocess.MeanImage, lambda: [L.Flatten(), L.Linear(60, 4, rng=0)], True),
    "standardised, linear": (preprocess.Standardize, lambda: [L.Flatten(), L.Linear(60, 4, rng=0)], True),
    "image, conv": (preprocess.MeanImage, lambda: [conv()], False),
    "ZCA, linear": (lambda: preprocess.ZCA(eps=0.1), lambda: [L.Flatten(), L.Linear(60, 4, rng=0)], True),
    "PCA, linear": (lambda: preprocess.PCA(40), lambda: [L.Linear(40, 4, rng=0), L.ReLU()], True),
    "whitened PCA, linear": (lambda: preprocess.PCA(40, whiten=True), lambda: [L.Linear(40, 4, rng=0)], True),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("make", "rest", "folds"), MODELS.values(), ids=MODELS)
def test_compiled_equals_transform_then_model(make, rest, folds, dtype):
    pre = make().fit(IMAGES)
    parts = rest()
    model = L.Sequential(pre.as_layer(dtype), *(layer.copy(dtype) for layer in parts))
    for key, array in model.buffers.items():
        if "running_var" in key:
            array[...] = RNG.uniform(0.5, 2, array.shape)
    x = IMAGES[:7].astype(dtype)
    expected = x
    for layer in [pre.as_layer(np.float64), *list(model)[1:]]:
        expected = (layer.copy(np.float64))(expected.astype(np.float64))
    program = fnn.compile(model, x.shape)
    names = [node.layer.label().split()[0] for node in program._graph.nodes]
    assert ("Normalize" not in names and "Project" not in names) == folds, program.describe()
    # The mean of the third channel is 14 of its deviations: folding subtracts sums that are so much larger than
    # what is left. Products of some 60 terms, each rounded; whitening multiplies the rounding of x too.
    worst = np.abs(expected).max() * 100 * 60 * np.finfo(dtype).eps
    np.testing.assert_allclose(program(x), expected, rtol=0, atol=worst)
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=worst)
    assert "Normalize" in program.describe()


def test_what_is_read_twice_is_not_folded():
    pre = preprocess.ChannelMean().fit(IMAGES).as_layer()
    inner = L.Conv2d(3, 3, 1, rng=0)
    both = L.Sequential(pre, L.Residual(inner))
    alone = L.Graph(("pre", pre, "x"), ("y", L.Conv2d(3, 6, 3, rng=0), "pre"), outputs=("pre", "y"))
    for model in (both, alone):
        program = fnn.compile(model, IMAGES.shape)
        assert any(isinstance(node.layer, L.Normalize) for node in program._graph.nodes)
        found, expected = program(IMAGES), model(IMAGES)
        for y, z in zip(*((v if isinstance(v, tuple) else (v,)) for v in (found, expected)), strict=True):
            np.testing.assert_allclose(y, z, rtol=0, atol=1e-4)


def test_few_directions_stay_a_product_of_their_own():
    """60 -> 2 -> 500 costs 1,120 products a row, folded 30,000."""
    pre = preprocess.PCA(2).fit(IMAGES)
    program = fnn.compile(L.Sequential(pre.as_layer(), L.Linear(2, 500, rng=0)), IMAGES.shape)
    assert [node.layer.label() for node in program._graph.nodes] == ["Project 60->2", "Linear 2->500"]


def test_linear_layers_on_the_last_axis_are_left_alone():
    x = RNG.standard_normal((4, 5, 6)).astype(np.float32)
    pre = preprocess.Standardize().fit(x)
    zca = preprocess.ZCA(eps=1.0).fit(x)
    for layer in (pre.as_layer(), zca.as_layer()):
        model = L.Sequential(layer, L.Linear(6, 2, rng=0))
        np.testing.assert_allclose(fnn.compile(model, x.shape)(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_program_leaves_the_model_as_it_is():
    model = L.Sequential(preprocess.ChannelMeanStd().fit(IMAGES).as_layer(), conv())
    before = model.state()
    fnn.compile(model, IMAGES.shape)
    for key, value in model.state().items():
        np.testing.assert_array_equal(value, before[key])


def chain(rng, shape):
    """Layers at random, each of which fits onto the one before."""
    layers, now = [], shape
    for _ in range(rng.integers(2, 6)):
        size = int(np.prod(now[1:]))
        rows = now[1:2] if rng.random() < 0.5 else now[1:]
        made = [
            L.Normalize(rng.standard_normal(rows), rng.uniform(0.5, 2, rows)),
            L.Project(rng.standard_normal((size, size)) / size**0.5, shape=now[1:]),
            L.Project(rng.standard_normal((5, size)) / size**0.5, rng.standard_normal(5)),
            L.Flatten(),
            L.Linear(now[-1], 4, bias=bool(rng.random() < 0.5), rng=rng),
            L.ReLU(),
        ]
        if len(now) == 4 and min(now[2:]) > 1:
            groups, padding = (int(now[1]), 0) if rng.random() < 0.5 else (1, int(rng.integers(0, 2)))
            made.append(L.Conv2d(now[1], 2 * now[1], 2, padding=padding, groups=groups, rng=rng))
        layers.append(made[rng.choice(len(made), p=[0.4, *[0.6 / (len(made) - 1)] * (len(made) - 1)])].copy(np.float64))
        now = layers[-1].output_shape(now)
    return layers


def test_random_chains_compile_to_what_they_are():
    folded = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(1, 4)), 3, *rng.integers(3, 6, 2).tolist())
        layers = chain(rng, shape)
        model, x = L.Sequential(*layers), rng.standard_normal(shape)
        if not model.state():
            continue
        program, expected = fnn.compile(model, shape), model(x)
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(program(x), expected, rtol=0, atol=1e-10 * scale, err_msg=f"seed {seed}: {layers}")
        folded += any("Normalize" in label or "Project" in label for n in program._graph.nodes for label in n.merged)
    assert folded > 40


def test_it_is_saved_with_the_model(tmp_path):
    pre = preprocess.ChannelMeanStd().fit(IMAGES)
    model = L.Sequential(("pre", pre.as_layer()), conv())
    fnn.save_state(tmp_path / "net.npz", model.state())
    twin = L.Sequential(("pre", L.Normalize(np.zeros(3), np.ones(3))), conv())
    twin.load_state(fnn.load_state(tmp_path / "net.npz"))
    np.testing.assert_array_equal(twin(IMAGES), model(IMAGES))
    assert {"pre.mean", "pre.var"} <= set(model.state())


def test_training_leaves_it_alone_and_programs_agree():
    y = RNG.integers(0, 4, len(IMAGES))
    results = []
    for program in (True, False):
        model = L.Sequential(preprocess.ZCA(eps=0.1).fit(IMAGES).as_layer(), L.Flatten(), L.Linear(60, 4, rng=0))
        before = {k: v.copy() for k, v in model.buffers.items()}
        trainer = fnn.Trainer(model, optimizer=optim.SGD(lr=0.1), rng=0, program=program)
        trainer.fit((IMAGES, y), epochs=2, batch_size=50, progress=False)
        for key, value in model.buffers.items():
            np.testing.assert_array_equal(value, before[key])
        results.append(model.state())
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key])


# ---- scikit-learn ----


@each
def test_clone_and_pickle(make, x):
    base = pytest.importorskip("sklearn.base")
    pre = make().fit(x)
    twin = base.clone(pre)
    assert twin.get_params() == pre.get_params() and not hasattr(twin, "shape_")
    again = pickle.loads(pickle.dumps(pre))
    np.testing.assert_array_equal(again.transform(x), pre.transform(x))
    assert repr(twin) == repr(pre)


def test_pipelines_and_searches():
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    y = (ROWS[:, 0] > 0).astype(int)
    pipeline = make_pipeline(preprocess.Standardize(), preprocess.PCA(), LogisticRegression())
    search = GridSearchCV(pipeline, {"pca__n_components": [1, 6], "pca__whiten": [False, True]}, cv=3).fit(ROWS, y)
    assert search.best_params_["pca__n_components"] == 6 and search.best_score_ > 0.95
    np.testing.assert_array_equal(
        pipeline.fit(ROWS, y)[:-1].transform(ROWS),
        preprocess.PCA().fit_transform(preprocess.Standardize().fit_transform(ROWS)),
    )


@pytest.mark.parametrize(
    "pre", [preprocess.Standardize(), preprocess.MeanImage(), preprocess.PCA(whiten=True), preprocess.ZCA()], ids=repr
)
def test_the_checks_of_scikit_learn(pre):
    """What scikit-learn asks of a transformer; warnings there are of its own."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks.check_estimator(pre)


def test_options():
    pre = preprocess.PCA(3, whiten=True)
    assert repr(pre) == "PCA(n_components=3, whiten=True)"
    assert pre.set_params(eps=0.5).get_params() == {"n_components": 3, "whiten": True, "eps": 0.5}
    with pytest.raises(ValueError, match="PCA has no option 'k'; there are n_components, whiten, eps"):
        pre.set_params(k=1)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("pre", "x", "error", "message"),
    [
        (preprocess.Standardize(), np.ones(3), ShapeError, r"Standardize.fit: expected rows .* Reshape your data"),
        (preprocess.Standardize(), np.ones((0, 3)), ShapeError, r"0 sample\(s\) \(shape=\(0, 3\)\)"),
        (preprocess.Standardize(), [["a"]], TypeError, "expected numbers"),
        (preprocess.MeanImage(), [[np.nan, 1.0]], ValueError, "NaN or infinite"),
        (preprocess.ChannelMean(), ROWS, ShapeError, r"expected images \(N, C, H, W\)"),
        (preprocess.PCA(7), ROWS, ValueError, "whole number from 1 to 6"),
        (preprocess.PCA(0), ROWS, ValueError, "n_components"),
        (preprocess.PCA(1.5), ROWS, ValueError, "n_components"),
        (preprocess.PCA(eps=-1.0), ROWS, ValueError, "eps must be"),
        (preprocess.ZCA(eps=0), ROWS[:4], ValueError, "4 rows do not span 6 dimensions; give eps"),
        (preprocess.ZCA(eps=0), np.repeat(ROWS[:, :1], 3, 1), ValueError, "2 of 3 directions have no variance"),
        (preprocess.PCA(whiten=True, eps=0), ROWS[:4], ValueError, "1 of 4 directions have no variance"),
    ],
)
def test_refuses(pre, x, error, message):
    with pytest.raises(error, match=message):
        pre.fit(x)
    with pytest.raises(ValueError, match="has not been fitted"):
        pre.transform(x)
    for call in (pre.inverse_transform, lambda _: pre.as_layer()):
        with pytest.raises(ValueError, match="has not been fitted"):
            call(x)


def test_refuses_rows_of_another_shape():
    with pytest.raises(ShapeError, match=r"fitted on rows of shape \(3, 5, 4\), got \(3, 5, 3\)"):
        preprocess.MeanImage().fit(IMAGES).transform(IMAGES[..., :3])
    with pytest.raises(ShapeError, match="X has 5 features, but PCA is expecting 6"):
        preprocess.PCA().fit(ROWS).transform(ROWS[:, :5])
    with pytest.raises(ShapeError, match=r"got \(2, 5, 4\)"):
        preprocess.ChannelMean().fit(IMAGES).transform(IMAGES[:, :2])
    with pytest.raises(ValueError, match="NaN or infinite"):
        preprocess.PCA().fit(ROWS).transform(np.full((1, 6), np.inf))
    wide = np.concatenate([IMAGES, IMAGES], 3)
    assert preprocess.ChannelMean().fit(IMAGES).transform(wide).shape == wide.shape

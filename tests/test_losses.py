"""The table of losses: every entry keeps the protocol and equals torch's; names, functions and options are found."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from engines import ENGINES, Engine
from fastnn import functional as F
from fastnn import losses
from fastnn.errors import ShapeError

engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((6, 4))
CLASSES = np.arange(6) % 4
VALUES = RNG.uniform(0, 1, (6, 4))
LABELS = {"cross_entropy": CLASSES, "hinge": CLASSES}


def labels_of(name, dtype=np.float64):
    labels = LABELS.get(name, VALUES)
    return labels if labels.dtype.kind == "i" else labels.astype(dtype)


def test_get():
    assert losses.get("cross_entropy") is F.cross_entropy
    assert [losses.get(name) for name in losses.names()] == [getattr(F, name) for name in losses.names()]

    def own(scores, labels, **weights):
        return 0.0, np.zeros_like(scores)

    assert losses.get(own) is own
    with pytest.raises(ValueError, match=r"unknown loss 'hinges'; expected one of cross_entropy, hinge"):
        losses.get("hinges")
    with pytest.raises(TypeError, match="got int"):
        losses.get(3)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_protocol(name, dtype):
    scores, labels = SCORES.astype(dtype), labels_of(name, dtype)
    loss, dscores = losses.get(name)(scores, labels)
    assert type(loss) is float
    assert dscores.shape == scores.shape
    assert dscores.dtype == dtype
    weighted, _ = losses.get(name)(scores, labels, sample_weight=np.array([1, 0, 0, 0, 0, 0], dtype))
    alone, _ = losses.get(name)(scores[:1], labels[:1])
    assert weighted == pytest.approx(alone, rel=4 * EPS[dtype])
    twice, d_twice = losses.get(name)(scores, labels, sample_weight=np.full(6, 2, dtype))
    assert twice == pytest.approx(loss, rel=4 * EPS[dtype])
    np.testing.assert_allclose(d_twice, dscores, rtol=4 * EPS[dtype], atol=EPS[dtype])


TORCH = {
    "hinge": [({}, lambda t, s, y: 4 * t.multi_margin_loss(s, y)),
              ({"margin": 0.5, "weight": np.arange(1.0, 5)},
               lambda t, s, y: 4 * t.multi_margin_loss(s, y, margin=0.5, weight=s.new_tensor([1, 2, 3, 4])))],
    "mse": [({}, lambda t, s, y: t.mse_loss(s, y))],
    "l1": [({}, lambda t, s, y: t.l1_loss(s, y))],
    "huber": [({}, lambda t, s, y: t.huber_loss(s, y)),
              ({"delta": 0.2}, lambda t, s, y: t.huber_loss(s, y, delta=0.2))],
    "binary_cross_entropy_with_logits": [
        ({}, lambda t, s, y: t.binary_cross_entropy_with_logits(s, y)),
        ({"pos_weight": np.arange(1.0, 5)},
         lambda t, s, y: t.binary_cross_entropy_with_logits(s, y, pos_weight=s.new_tensor([1, 2, 3, 4]))),
        ({"pos_weight": np.arange(1.0, 5), "weight": [2.0, 0, 1, 3]},
         lambda t, s, y: t.binary_cross_entropy_with_logits(s, y, s.new_tensor([2, 0, 1, 3]),
                                                            pos_weight=s.new_tensor([1, 2, 3, 4]))),
    ],
    "cross_entropy": [({}, lambda t, s, y: t.cross_entropy(s, y)),
                      ({"ignore_index": 2}, lambda t, s, y: t.cross_entropy(s, y, ignore_index=2)),
                      ({"label_smoothing": 0.1, "weight": np.arange(1.0, 5)},
                       lambda t, s, y: t.cross_entropy(s, y, label_smoothing=0.1, weight=s.new_tensor([1, 2, 3, 4])))],
}  # fmt: skip


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(name, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    for options, theirs in TORCH[name]:
        for shift in (0.0, 30.0):  # where exponentials are 1e-13, too
            scores, labels = (SCORES + shift * np.sign(SCORES)).astype(dtype), labels_of(name, dtype)
            loss, dscores = losses.get(name)(scores, labels, **options)
            tensor = torch.tensor(scores, requires_grad=True)
            expected = theirs(torch.nn.functional, tensor, torch.tensor(labels))
            expected.backward()
            # 24 terms, of which each side rounds the sum and a dozen operations; torch cancels in s(x) - t
            atol = 30 * EPS[dtype]
            np.testing.assert_allclose(loss, expected.item(), rtol=30 * EPS[dtype], atol=atol)
            np.testing.assert_allclose(dscores, tensor.grad.numpy(), rtol=30 * EPS[dtype], atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "soft"), [*((name, False) for name in losses.names()), ("cross_entropy", True)])
def test_sample_weights_equal_torch(name, soft, dtype):
    """torch has none: its loss of each row, weighted by hand."""
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    functions = {"hinge": "multi_margin_loss", "mse": "mse_loss", "l1": "l1_loss", "huber": "huber_loss"}
    labels = VALUES / VALUES.sum(1, keepdims=True) if soft else labels_of(name)
    labels = labels if labels.dtype.kind == "i" else labels.astype(dtype)
    scores, weights = SCORES.astype(dtype), np.linspace(0, 2, 6).astype(dtype)
    tensor = torch.tensor(scores, requires_grad=True)
    each = getattr(torch.nn.functional, functions.get(name, name))(tensor, torch.tensor(labels), reduction="none")
    each = 4 * each if name == "hinge" else each.mean(1) if each.ndim == 2 else each
    expected = (each * torch.tensor(weights)).sum() / weights.sum()
    expected.backward()
    loss, dscores = losses.get(name)(scores, labels, sample_weight=weights)
    np.testing.assert_allclose(loss, expected.item(), rtol=30 * EPS[dtype])  # as above
    np.testing.assert_allclose(dscores, tensor.grad.numpy(), rtol=30 * EPS[dtype], atol=30 * EPS[dtype])


@engines
@pytest.mark.parametrize("weight", [None, [2, 0, 1]])
def test_cross_entropy_of_scores_near_the_largest(engine: Engine, weight):
    """Where a float would overflow, the loss does not; and infinity times a weight of 0 would be NaN."""
    scores, targets = np.array([[3e38, -3e38, 2e38], [1e38, -1e38, 0]]), np.array([[0.5, 0.25, 0.25], [0, 0, 1]])
    with engine.on():
        loss, dscores = F.cross_entropy(scores.astype(np.float32), targets.astype(np.float32), weight=weight)
    want, dwant = F.cross_entropy(scores, targets, weight=weight)
    assert np.isfinite(want)
    assert loss == pytest.approx(want, rel=4 * EPS[np.float32])
    np.testing.assert_allclose(dscores, dwant, rtol=0, atol=4 * EPS[np.float32])


@pytest.mark.parametrize("name", ["cross_entropy", "hinge"])
def test_ignored_rows_are_as_if_they_were_not_there(name):
    labels = np.where(np.arange(6) % 3 == 1, -100, CLASSES)
    kept, weights = labels != -100, np.arange(1.0, 7)
    scores = np.where(kept[:, None], SCORES, np.nan)
    for options in ({}, {"weight": np.arange(1.0, 5)}):
        loss, dscores = losses.get(name)(scores, labels, sample_weight=weights, **options)
        expected, of_kept = losses.get(name)(SCORES[kept], labels[kept], sample_weight=weights[kept], **options)
        assert loss == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(dscores[kept], of_kept, rtol=1e-14)
        assert not dscores[~kept].any()
    assert math.isnan(losses.get(name)(SCORES, np.full(6, -100))[0])


def test_uniform_scores_cost_log_c():
    loss, dscores = losses.get("cross_entropy")(np.zeros((2, 10)), [3, 4])
    assert loss == pytest.approx(math.log(10), rel=1e-15)
    assert dscores[0, 3] == pytest.approx(-0.45, rel=1e-14)


def test_hinge_of_the_lecture():
    """CS231n's example: cat 3.2 5.1 -1.7, car 1.3 4.9 2.0, frog 2.2 2.5 -3.1 cost 2.9, 0 and 12.9."""
    scores = np.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    each = [F.hinge(scores[i : i + 1], [i])[0] for i in range(3)]
    np.testing.assert_allclose(each, [2.9, 0.0, 12.9], rtol=1e-14)
    loss, dscores = F.hinge(scores, [0, 1, 2])
    assert loss == pytest.approx(15.8 / 3, rel=1e-14)
    np.testing.assert_allclose(3 * dscores, [[-1, 1, 0], [0, 0, 0], [1, 1, -2]], rtol=1e-15)
    assert F.hinge(np.zeros((5, 10)), [1] * 5)[0] == 9.0  # C - 1 at initialisation


def test_hinge_of_an_infinite_score():
    assert F.hinge([[np.inf, 1.0, 2.0]], [0])[0] == 0.0
    assert F.hinge([[0.0, np.inf, 2.0]], [0])[0] == np.inf
    assert math.isnan(F.hinge([[np.nan, 0.0]], [0])[0])


def test_confident_answers_cost_what_they_cost():
    """Tiny losses and gradients keep their digits: nothing is lost in 1 - s(x) or log(1 + e)."""
    loss, dscores = F.binary_cross_entropy_with_logits(np.float32([[40.0], [-40.0]]), np.float32([[1], [0]]))
    assert loss == pytest.approx(math.exp(-40), rel=4 * EPS[np.float32])
    np.testing.assert_allclose(dscores.ravel(), [-math.exp(-40) / 2, math.exp(-40) / 2], rtol=4 * EPS[np.float32])


def test_huber_is_half_of_mse_and_then_l1():
    near, far = np.array([[0.1, -0.2]]), np.array([[50.0, -70.0]])
    assert F.huber(near, np.zeros((1, 2)))[0] == pytest.approx(F.mse(near, np.zeros((1, 2)))[0] / 2, rel=1e-15)
    assert F.huber(far, np.zeros((1, 2)))[0] == pytest.approx(F.l1(far, np.zeros((1, 2)))[0] - 0.5, rel=1e-15)


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "binary_cross_entropy_with_logits", "hinge"])
def test_sums_are_double(name):
    """The mean of a million equal terms is that term; a sum in float32 would be off by hundreds of units."""
    scores = np.full((1000, 1000), 0.7, np.float32)
    labels = np.zeros(1000, int) if name == "hinge" else np.zeros((1000, 1000), np.float32)
    loss, _ = losses.get(name)(scores, labels)
    single, _ = losses.get(name)(scores[:1, :2], labels[:1, ...] if name == "hinge" else labels[:1, :2])
    assert loss == pytest.approx(999 * single if name == "hinge" else single, rel=1e-13)


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "binary_cross_entropy_with_logits"])
def test_images_keep_their_memory_format(name):
    rng = np.random.default_rng(1)
    scores, targets = rng.standard_normal((2, 3, 4, 5)), rng.uniform(0, 1, (2, 3, 4, 5))
    last = np.ascontiguousarray(scores.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weights = np.array([1.0, 3.0])
    loss, dscores = losses.get(name)(scores, targets, sample_weight=weights)
    loss_last, dscores_last = losses.get(name)(last, targets, sample_weight=weights)
    assert dscores_last.strides == last.strides
    assert loss_last == pytest.approx(loss, rel=1e-14)  # the same sum in another order
    np.testing.assert_array_equal(dscores_last, dscores)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.mse(np.zeros((3, 2)), np.zeros((2, 3))), ShapeError, "must have the shape of scores .3, 2."),
        (lambda: F.mse(np.zeros((3, 2)), np.zeros(3)), ShapeError, "shape of scores"),
        (lambda: F.mse(1.0, 1.0), ShapeError, r"expected scores of shape \(N, ...\)"),
        (lambda: F.l1(np.zeros(3), np.zeros(3), sample_weight=np.ones(2)), ShapeError, "one for each row"),
        (lambda: F.l1(np.zeros(3), np.array(["a"] * 3)), TypeError, "targets has dtype"),
        (lambda: F.huber(np.zeros(3), np.zeros(3), delta=0.0), ValueError, "delta must be finite and above 0"),
        (lambda: F.huber(np.zeros(3), np.zeros(3), delta=np.inf), ValueError, "delta must be finite"),
        (lambda: F.hinge(np.zeros((3, 2)), [0, 1, 2]), ValueError, "label 2 of row 2 is out of range"),
        (lambda: F.hinge(np.zeros((3, 2)), [0, 1, -1]), ValueError, "label -1 of row 2 is out of range"),
        (lambda: F.hinge(np.zeros((3, 2)), [0, 1, 1], ignore_index=1.5), TypeError, "ignore_index must be a whole"),
        (lambda: F.cross_entropy(np.zeros((3, 2)), [0, 1, 1], ignore_index="0"), TypeError, "ignore_index must be"),
        (lambda: F.hinge(np.zeros((3, 2)), [0.0, 1, 1]), TypeError, "classes are whole numbers"),
        (lambda: F.hinge(np.zeros((3, 2)), np.eye(2)), ShapeError, "one label for each of the 3 rows"),
        (lambda: F.hinge(np.zeros((3, 2)), [0, 0, 0], weight=[1.0]), ShapeError, "one for each class"),
        (lambda: F.hinge(np.zeros((3, 0)), [0, 0, 0]), ShapeError, "at least one class"),
        (lambda: F.hinge(np.zeros((3, 2)), [0, 0, 0], margin=np.nan), ValueError, "margin must be finite"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros(2), [-1, 1]), ValueError, "between 0 and 1, got -1 to 1"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros(2), [np.nan, 1]), ValueError, "between 0 and 1"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros((2, 3)), np.zeros((2, 3)), pos_weight=[1, 2]), ShapeError,
         r"pos_weight of shape \(3,\), one for each column"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), pos_weight=[1, 2, 3]),
         ShapeError, r"pos_weight goes with scores of shape \(N, C\)"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros((2, 3)), np.zeros((2, 3)), weight=[1, 2]), ShapeError,
         r"weight of shape \(3,\), one for each column"),
        (lambda: F.binary_cross_entropy_with_logits(np.zeros(3), np.zeros(3), weight=[1, 2, 3]),
         ShapeError, r"weight goes with scores of shape \(N, C\)"),
    ],
)  # fmt: skip
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_known_takes_options_by_keyword_only():
    entry = losses.known(functools.partial(F.huber, delta=2.0), np.float32)
    assert entry is not None and entry.options == {"delta": 2.0} and not entry.arrays
    weighted = losses.known(functools.partial(F.cross_entropy, weight=[1, 2]), np.float32)
    assert weighted is not None and weighted.arrays[0].dtype == np.float32
    assert losses.known(functools.partial(F.huber, np.zeros(3)), np.float32) is None
    assert losses.known(functools.partial(F.mse, sample_weight=[1]), np.float32) is None
    assert losses.known(lambda s, y: (0.0, s), np.float32) is None

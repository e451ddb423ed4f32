"""The table of losses: every entry keeps the protocol, and names and functions are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastnn import functional as F
from fastnn import losses


def test_get():
    assert losses.get("cross_entropy") is F.cross_entropy

    def own(scores, labels, **weights):
        return 0.0, np.zeros_like(scores)

    assert losses.get(own) is own
    with pytest.raises(ValueError, match=r"unknown loss 'hinges'; expected one of cross_entropy"):
        losses.get("hinges")
    with pytest.raises(TypeError, match="got int"):
        losses.get(3)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_protocol(name, dtype):
    scores = np.random.default_rng(0).standard_normal((6, 4)).astype(dtype)
    labels = np.arange(6) % 4
    loss, dscores = losses.get(name)(scores, labels)
    assert type(loss) is float
    assert dscores.shape == scores.shape
    assert dscores.dtype == dtype
    weighted, _ = losses.get(name)(scores, labels, sample_weight=np.array([1, 0, 0, 0, 0, 0], dtype))
    alone, _ = losses.get(name)(scores[:1], labels[:1])
    assert weighted == pytest.approx(alone, rel=4 * float(np.finfo(dtype).eps))


def test_uniform_scores_cost_log_c():
    loss, dscores = losses.get("cross_entropy")(np.zeros((2, 10)), [3, 4])
    assert loss == pytest.approx(math.log(10), rel=1e-15)
    assert dscores[0, 3] == pytest.approx(-0.45, rel=1e-14)

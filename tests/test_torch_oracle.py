"""torch as a second opinion on the functions, forward and backward, and on optimizers step by step, in float64.

Never the only oracle: test_reference.py and test_gradients.py need no peer. Both sides compute in float64 and differ by
the order of sums: 1e-12 of the largest value is 4500 eps, for sums of at most 600 terms near 1. That one comes of
another definition (padding, divisors, biased variance) is off by far more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastnn.functional as F
from cases import CONVOLUTIONS, Array, output_shape
from engines import ENGINES, Engine

torch = pytest.importorskip("torch", reason="torch, the oracle of these tests, is not installed")
T = torch.nn.functional
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def leaf(x: Array) -> Any:
    return torch.from_numpy(x.copy()).requires_grad_()


def same(got: Any, want: Any) -> None:
    want = want.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * max(1.0, float(np.abs(want).max(initial=0))))


@engines
@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if min(*c[1], *c[2])], ids=lambda c: c[0])
def test_conv2d(case: Any, engine: Engine) -> None:
    _, x_shape, w_shape, options = case
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)
    dy = draw(*output_shape(x_shape, w_shape, options), seed=3)
    leaves = [leaf(array) for array in (x, w, b)]
    y = T.conv2d(*leaves, **options)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.conv2d(x, w, b, **options), y)
        for got, want in zip(F.conv2d_backward(dy, x, w, **options), leaves, strict=True):
            same(got, want.grad)


@engines
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "gelu_tanh"])
def test_activation(name: str, engine: Engine) -> None:
    options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    name = name.removesuffix("_tanh")
    x, dy = draw(6, 50) * 3, draw(6, 50, seed=1)
    given = leaf(x)
    y = getattr(T, name, getattr(torch, name, None))(given, **options)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(getattr(F, name)(x, **options), y)
        same(getattr(F, f"{name}_backward")(dy, x, **options), given.grad)


POOLS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 1), "ceil_mode": True},
    {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
]


@engines
@pytest.mark.parametrize("options", [*POOLS, {"kernel_size": 3, "dilation": 2, "padding": 1}], ids=str)
def test_max_pool2d(options: dict[str, Any], engine: Engine) -> None:
    x = draw(2, 5, 11, 13)
    given = leaf(x)
    y, indices = T.max_pool2d(given, **options, return_indices=True)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        got, where = F.max_pool2d(x, **options, return_indices=True)
        np.testing.assert_array_equal(where, indices.numpy())
        same(got, y)
        same(F.max_pool2d_backward(dy, x, **options), given.grad)


@engines
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("options", POOLS, ids=str)
def test_avg_pool2d(options: dict[str, Any], count_include_pad: bool, engine: Engine) -> None:
    options = {**options, "count_include_pad": count_include_pad}
    x = draw(2, 5, 11, 13)
    given = leaf(x)
    y = T.avg_pool2d(given, **options)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.avg_pool2d(x, **options), y)
        same(F.avg_pool2d_backward(dy, x.shape, **options), given.grad)


@engines
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)], ids=str)
def test_batch_norm(shape: tuple[int, ...], engine: Engine) -> None:
    """Training and evaluation; torch's running variance is the unbiased one, with a momentum of 1 the batch's own."""
    x, w, b, dy = draw(*shape), draw(3, seed=1), draw(3, seed=2), draw(*shape, seed=3)
    leaves = [leaf(array) for array in (x, w, b)]
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    y = T.batch_norm(leaves[0], mean, var, leaves[1], leaves[2], training=True, momentum=1.0)
    y.backward(torch.from_numpy(dy))
    count = x.size // 3
    with engine.on():
        got, batch_mean, batch_var = F.batch_norm_train(x, w, b)
        same(got, y)
        same(batch_mean, mean)
        same(batch_var * count / (count - 1), var)
        for gradient, want in zip(F.batch_norm_backward(dy, x, batch_mean, batch_var, w), leaves, strict=True):
            same(gradient, want.grad)
        same(F.batch_norm(x, mean.numpy(), var.numpy(), w, b), T.batch_norm(leaves[0], mean, var, leaves[1], leaves[2]))


@engines
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted: bool, smoothing: float, probabilities: bool, engine: Engine) -> None:
    scores = draw(8, 5) * 3
    weight = np.abs(draw(5, seed=1)) if weighted else None
    soft = np.exp(draw(8, 5, seed=2))
    labels = soft / soft.sum(1, keepdims=True) if probabilities else np.array([0, 1, 2, 3, 4, -100, 2, 0])
    given = leaf(scores)
    loss = T.cross_entropy(
        given, torch.from_numpy(labels), None if weight is None else torch.from_numpy(weight), label_smoothing=smoothing
    )
    loss.backward()
    with engine.on():
        got, dscores = F.cross_entropy(scores, labels, weight=weight, label_smoothing=smoothing)
    same(got, loss)
    same(dscores, given.grad)


@engines
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int, name: str, engine: Engine) -> None:
    x, dy = draw(3, 4, 5) * 4, draw(3, 4, 5, seed=1)
    given = leaf(x)
    y = getattr(T, name)(given, dim=axis)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        got = getattr(F, name)(x, axis)
        same(got, y)
        same(getattr(F, f"{name}_backward")(dy, got, axis), given.grad)


@engines
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.0}),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"weight_decay": 0.1}),
        ("AdamW", {"weight_decay": 0.1}),
        ("Adagrad", {"weight_decay": 0.1}),
        ("RMSprop", {"weight_decay": 0.1, "momentum": 0.0}),
        ("RMSprop", {"momentum": 0.9}),
    ],
    ids=str,
)
def test_optimizer(name: str, options: dict[str, Any], engine: Engine) -> None:
    """Twenty steps, compared at each."""
    param, lr = draw(40), 0.05
    theirs = leaf(param)
    optimizer = getattr(torch.optim, name)([theirs], lr=lr, **options)
    segments = np.array([[0, 40, 1, options.get("weight_decay", 0.0)]], np.float64)
    slots = np.zeros((2, 40))
    for step in range(1, 21):
        grad = draw(40, seed=step)
        theirs.grad = torch.from_numpy(grad)
        optimizer.step()
        with engine.on():
            if name == "SGD":
                hyper = np.array([lr, options["momentum"], float(options.get("nesterov", False)), 1.0])
                F.sgd_step(grad, hyper, segments, param, slots[0])
            elif name == "Adagrad":
                F.adagrad_step(grad, np.array([lr, 1e-10]), segments, param, slots[0])
            elif name == "RMSprop":
                hyper = np.array([lr, 0.99, 1e-8, options["momentum"]])
                F.rmsprop_step(grad, hyper, segments, param, slots[0], slots[1] if options["momentum"] else None)
            else:
                hyper = np.array([lr, 0.9, 0.999, 1e-8, step, float(name == "AdamW")])
                F.adam_step(grad, hyper, segments, param, slots[0], slots[1])
        same(param, theirs)

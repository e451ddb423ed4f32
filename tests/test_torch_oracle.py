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
from cases import CONVOLUTIONS, INTERPOLATIONS, LAYOUTS, PADS, TRANSPOSED, Array, output_shape
from engines import ENGINES, Engine
from fastnn._backends import ACTIVATIONS

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
@pytest.mark.parametrize("case", [c for c in TRANSPOSED if min(*c[1], *c[2])], ids=lambda c: c[0])
def test_conv_transpose2d(case: Any, engine: Engine) -> None:
    _, x_shape, w_shape, options = case
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[1] * options.get("groups", 1), seed=2)
    leaves = [leaf(array) for array in (x, w, b)]
    y = T.conv_transpose2d(*leaves, **options)
    dy = draw(*y.shape, seed=3)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.conv_transpose2d(x, w, b, **options), y)
        for got, want in zip(F.conv_transpose2d_backward(dy, x, w, **options), leaves, strict=True):
            same(got, want.grad)


@engines
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 3}, {"dilation": (3,), "groups": 2}], ids=str)
def test_conv1d(options: dict[str, Any], engine: Engine) -> None:
    x, w, b = draw(2, 4, 30), draw(6, 4 // options.get("groups", 1), 5, seed=1), draw(6, seed=2)
    leaves = [leaf(array) for array in (x, w, b)]
    y = T.conv1d(*leaves, **options)
    dy = draw(*y.shape, seed=3)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.conv1d(x, w, b, **options), y)
        for got, want in zip(F.conv1d_backward(dy, x, w, **options), leaves, strict=True):
            same(got, want.grad)


#: those that torch has
TORCH_INTERPOLATIONS = [c for c in INTERPOLATIONS if c[1][0] and not {"coordinates", "exclude_outside"} & {*c[2]}]


@engines
@pytest.mark.parametrize("case", TORCH_INTERPOLATIONS, ids=lambda c: c[0])
def test_interpolate(case: Any, engine: Engine) -> None:
    _, shape, options = case
    x = draw(*shape)
    given = leaf(x)
    y = T.interpolate(given, **options)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        for change in (np.ascontiguousarray, LAYOUTS["channels_last"]):
            same(F.interpolate(change(x), **options), y)
            same(F.interpolate_backward(change(dy), shape, **options), given.grad)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_index(mode: str) -> None:
    """torch finds neighbours in float32 arithmetic, which decides where a place lies between two of them."""
    for n in range(1, 40):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
        given = torch.from_numpy(x)
        for size in (*range(1, 80), 97, 250, 1001):
            want = T.interpolate(given, size, mode=mode).numpy()
            np.testing.assert_array_equal(F.interpolate(x, size, mode=mode), want, f"{n} -> {size}")
        for scale in (0.1, 0.3, 0.6, 0.9, 1.1, 1.2, 1.7, 2.0, 2.3, 3.0, 3.7):
            if int(n * scale):
                want = T.interpolate(given, scale_factor=scale, mode=mode).numpy()
                np.testing.assert_array_equal(F.interpolate(x, scale_factor=scale, mode=mode), want, f"{n} * {scale}")


#: torch pads as many axes as an array has beyond N and C, but a constant any, and crops to nothing in no other mode
TORCH_PADS = [c for c in PADS if c[2].get("mode", "constant") == "constant" or len(c[2]["pad"]) == 2 * (len(c[1]) - 2)]


@engines
@pytest.mark.parametrize("case", TORCH_PADS, ids=lambda c: c[0])
def test_pad(case: Any, engine: Engine) -> None:
    _, shape, options = case
    x = draw(*shape)
    given = leaf(x)
    y = T.pad(given, options["pad"], options.get("mode", "constant"))
    dy = draw(*y.shape, seed=1)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        for change in (np.ascontiguousarray, LAYOUTS["channels_last"]):
            same(F.pad(change(x), **options), y)
            same(F.pad_backward(change(dy), shape, **options), given.grad)


@engines
def test_shuffles(engine: Engine) -> None:
    x = draw(2, 18, 6, 9)
    given = torch.from_numpy(x)
    with engine.on():
        for change in (np.ascontiguousarray, LAYOUTS["channels_last"]):
            same(F.pixel_shuffle(change(x), 3), T.pixel_shuffle(given, 3))
            same(F.pixel_unshuffle(change(x), 3), T.pixel_unshuffle(given, 3))
            same(F.channel_shuffle(change(x), 6), T.channel_shuffle(given, 6))


@engines
@pytest.mark.parametrize("name", [*ACTIVATIONS, "relu6"])
def test_activation(name: str, engine: Engine) -> None:
    options: dict[str, Any] = {"gelu_tanh": {"approximate": "tanh"}, "threshold": {"threshold": 0.5, "value": 2}}.get(
        name, {}
    )
    name = name.removesuffix("_tanh")
    x, dy = draw(6, 50) * 3, draw(6, 50, seed=1)
    given = leaf(x)
    y = getattr(T, name, getattr(torch, name, None))(given, **options)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(getattr(F, name)(x, **options), y)
        dx = getattr(F, f"{name}_backward")(dy, x, **options)
    if name == "hardsigmoid":  # torch keeps the slope 1/6 in float32
        np.testing.assert_allclose(dx, given.grad.numpy(), rtol=2.0**-24)
    else:
        same(dx, given.grad)


@engines
@pytest.mark.parametrize("c", [1, 7])
def test_prelu(c: int, engine: Engine) -> None:
    x, dy, weight = draw(3, 7, 5, 6) * 3, draw(3, 7, 5, 6, seed=1), draw(c, seed=2)
    given, slopes = leaf(x), leaf(weight)
    y = T.prelu(given, slopes)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.prelu(x, weight), y)
        for got, want in zip(F.prelu_backward(dy, x, weight), (given, slopes), strict=True):
            same(got, want.grad)


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
@pytest.mark.parametrize("more", [{"count_include_pad": False}, {}, {"divisor_override": 3}], ids=str)
@pytest.mark.parametrize("options", POOLS, ids=str)
def test_avg_pool2d(options: dict[str, Any], more: dict[str, Any], engine: Engine) -> None:
    options = {**options, **more}
    x = draw(2, 5, 11, 13)
    given = leaf(x)
    y = T.avg_pool2d(given, **options)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.avg_pool2d(x, **options), y)
        same(F.avg_pool2d_backward(dy, x.shape, **options), given.grad)


@engines
@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels_last"])
@pytest.mark.parametrize("size", [1, 3, (5, 7), (13, None), (12, 20), (11, 13)], ids=str)
def test_adaptive_pool2d(size: Any, last: bool, engine: Engine) -> None:
    """Sizes that divide the input and that do not, larger ones too; indices as torch's."""
    x = draw(2, 5, 11, 13)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else x
    given = leaf(x)
    mean = T.adaptive_avg_pool2d(given, size)
    dy = draw(*mean.shape, seed=1)
    mean.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.adaptive_avg_pool2d(x, size), mean)
        same(F.adaptive_avg_pool2d_backward(dy, x.shape), given.grad)
    given = leaf(x)
    y, indices = T.adaptive_max_pool2d(given, size, return_indices=True)
    y.backward(torch.from_numpy(dy))
    with engine.on():
        got, where = F.adaptive_max_pool2d(x, size, return_indices=True)
        np.testing.assert_array_equal(where, indices.numpy())
        same(got, y)
        same(F.adaptive_max_pool2d_backward(dy, x, size), given.grad)


@engines
@pytest.mark.parametrize(
    "options", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}], ids=str
)
def test_pool1d(options: dict[str, Any], engine: Engine) -> None:
    x = draw(2, 5, 12)
    for name, more in (("max", {}), ("max", {"dilation": 2}), ("avg", {}), ("avg", {"count_include_pad": False})):
        given = leaf(x)
        y = getattr(T, f"{name}_pool1d")(given, **options, **more)
        dy = draw(*y.shape, seed=1)
        y.backward(torch.from_numpy(dy))
        with engine.on():
            same(getattr(F, f"{name}_pool1d")(x, **options, **more), y)
            backward = getattr(F, f"{name}_pool1d_backward")
            same(backward(dy, x if name == "max" else x.shape, **options, **more), given.grad)
    _, indices = T.max_pool1d(leaf(x), **options, return_indices=True)
    with engine.on():
        np.testing.assert_array_equal(F.max_pool1d(x, **options, return_indices=True)[1], indices.numpy())


@engines
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("layer_norm", (6, 5), {"normalized_shape": (5,)}),
        ("layer_norm", (2, 3, 4, 5), {"normalized_shape": (4, 5)}),
        ("layer_norm", (2, 3, 4, 5), {"normalized_shape": (3, 4, 5)}),
        ("group_norm", (4, 6), {"num_groups": 3}),
        ("group_norm", (2, 6, 5), {"num_groups": 2}),
        ("group_norm", (2, 6, 4, 5), {"num_groups": 3}),
        ("group_norm", (2, 6, 2, 3, 4), {"num_groups": 1}),
        ("instance_norm", (2, 3, 5), {}),
        ("instance_norm", (2, 3, 4, 5), {}),
    ],
    ids=str,
)
def test_norm(name: str, shape: tuple[int, ...], options: dict[str, Any], affine: bool, engine: Engine) -> None:
    vector = options.get("normalized_shape", shape[1:2])
    x, w, b, dy = draw(*shape) + 3, draw(*vector, seed=1), draw(*vector, seed=2), draw(*shape, seed=3)
    leaves = [leaf(array) for array in ((x, w, b) if affine else (x,))]
    y = getattr(T, name)(leaves[0], **options, **dict(zip(("weight", "bias"), leaves[1:], strict=False)))
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(getattr(F, name)(x, **options, **({"weight": w, "bias": b} if affine else {})), y)
        gradients = getattr(F, f"{name}_backward")(dy, x, **options, **({"weight": w} if affine else {}))
        for gradient, want in zip(gradients, leaves, strict=affine):
            same(gradient, want.grad)


@engines
def test_instance_norm_by_given_statistics(engine: Engine) -> None:
    x, mean, var, w, b = draw(2, 3, 4, 5), draw(3), np.abs(draw(3, seed=1)), draw(3, seed=2), draw(3, seed=3)
    want = T.instance_norm(*map(torch.from_numpy, (x, mean, var, w, b)), use_input_stats=False)
    with engine.on():
        same(F.instance_norm(x, mean, var, w, b, False), want)


@engines
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)], ids=str)
def test_frozen_batch_norm(shape: tuple[int, ...], engine: Engine) -> None:
    """Fixed statistics: constants to the gradient."""
    x, w, b, dy = draw(*shape), draw(3, seed=1), draw(3, seed=2), draw(*shape, seed=3)
    mean, var = draw(3, seed=4), np.abs(draw(3, seed=5))
    leaves = [leaf(array) for array in (x, w, b)]
    y = T.batch_norm(leaves[0], torch.from_numpy(mean), torch.from_numpy(var), leaves[1], leaves[2])
    y.backward(torch.from_numpy(dy))
    with engine.on():
        same(F.batch_norm(x, mean, var, w, b), y)
        for got, want in zip(F.batch_norm_backward(dy, x, mean, var, w, frozen=True), leaves, strict=True):
            same(got, want.grad)


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

"""Optimizers against torch.optim step by step, against values worked by hand, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastnn import functional as F
from fastnn import optim
from fastnn.errors import ShapeError

CASES = {
    "SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.02},
    ],
    "Adam": [{}, {"betas": (0.5, 0.8), "eps": 1e-3}, {"betas": (0.0, 0.0)}, {"weight_decay": 0.1}],
    "AdamW": [{}, {"betas": (0.5, 0.8), "weight_decay": 0.3}],
    "AdaGrad": [{}, {"lr_decay": 0.1, "initial_sum": 0.5}, {"eps": 1e-3, "weight_decay": 0.1}],
    "RMSProp": [{}, {"alpha": 0.5, "eps": 1e-3}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.1}],
}
#: what torch calls them
TORCH = {"AdaGrad": "Adagrad", "RMSProp": "RMSprop", "initial_sum": "initial_accumulator_value"}
EACH = [(name, options) for name, several in CASES.items() for options in several]
SIZES = (5, 1, 12)


def run(optimizer, params, grads, rates, dtype, segments=None):
    """Steps over one flat buffer, a row of grads and a learning rate for each; return the parameters after each."""
    param = np.concatenate(params).astype(dtype)
    slots = optimizer.slots(param.size, dtype)
    segments = optimizer.segments([p.size for p in params]) if segments is None else segments
    history = []
    for count, (grad, lr) in enumerate(zip(grads, rates, strict=True), 1):
        optimizer.lr = lr
        optimizer.step(param, grad.astype(dtype), slots, segments, count=count)
        history.append(param.copy())
    return np.array(history)


def problem(steps=20):
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(n) for n in SIZES]
    grads = rng.standard_normal((steps, sum(SIZES))) * 10.0 ** rng.integers(-4, 2, (steps, 1))
    return params, grads, 0.1 / np.arange(1, steps + 1)


@pytest.mark.parametrize(("name", "options"), EACH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(name, options, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    params, grads, rates = problem()
    ours = run(getattr(optim, name)(lr=1.0, **options), params, grads, rates, dtype)
    tensors = [torch.tensor(p.astype(dtype), requires_grad=True) for p in params]
    given = {TORCH.get(option, option): value for option, value in options.items()}
    theirs = getattr(torch.optim, TORCH.get(name, name))(tensors, lr=1.0, foreach=False, **given)
    ends = np.cumsum(SIZES)[:-1]
    for mine, grad, lr in zip(ours, grads.astype(dtype), rates, strict=True):
        theirs.param_groups[0]["lr"] = lr
        for tensor, part in zip(tensors, np.split(grad, ends), strict=True):
            tensor.grad = torch.tensor(part)
        theirs.step()
        expected = np.concatenate([tensor.detach().numpy() for tensor in tensors])
        # Both round a dozen operations a step, each by half a unit at most, and parameters and steps are of size 1 to
        # 10 (lr * |g|): 20 steps * 12 / 2 units, and once more for the larger steps.
        bound = 240 * np.finfo(dtype).eps
        np.testing.assert_allclose(mine, expected, rtol=bound, atol=bound)


def plain_formulas(name, params, grads, rates, **options):
    """The updates as the lectures and papers write them, one number at a time, in double."""
    given = {
        "momentum": 0.0,
        "nesterov": False,
        "initial_sum": 0.0,
        "betas": (0.9, 0.999),
        "alpha": 0.99,
        "lr_decay": 0.0,
        "weight_decay": 1e-2 if name == "AdamW" else 0.0,
        "eps": 1e-10 if name == "AdaGrad" else 1e-8,
    }
    given |= options
    decay, mu, eps, alpha = (given[k] for k in ("weight_decay", "momentum", "eps", "alpha"))
    history = []
    for column, w in enumerate(np.concatenate(params).tolist()):
        v = s = 0.0
        if name == "AdaGrad":
            s = given["initial_sum"]
        trace = []
        for t, (g, lr) in enumerate(zip(grads[:, column].tolist(), rates.tolist(), strict=True), 1):
            if name == "AdamW":
                w -= lr * decay * w
            else:
                g += decay * w
            if name == "SGD":
                v = mu * v + g
                w -= lr * (g + mu * v if given["nesterov"] else v)
            elif name in ("Adam", "AdamW"):
                b1, b2 = given["betas"]
                v, s = b1 * v + (1 - b1) * g, b2 * s + (1 - b2) * g * g
                w -= lr * (v / (1 - b1**t)) / (math.sqrt(s / (1 - b2**t)) + eps)
            elif name == "AdaGrad":
                s += g * g
                w -= lr / (1 + (t - 1) * given["lr_decay"]) * g / (math.sqrt(s) + eps)
            else:
                s = alpha * s + (1 - alpha) * g * g
                v = mu * v + g / (math.sqrt(s) + eps)
                w -= lr * v
            trace.append(w)
        history.append(trace)
    return np.array(history).T


@pytest.mark.parametrize(("name", "options"), EACH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_plain_formulas(name, options, dtype):
    """Step by step, from gradients that are exact in dtype; needs no peer."""
    params, grads, rates = problem()
    params, grads = [p.astype(np.float32).astype(float) for p in params], grads.astype(np.float32).astype(float)
    ours = run(getattr(optim, name)(lr=1.0, **options), params, grads, rates, dtype)
    bound = 240 * np.finfo(dtype).eps  # as for torch, above
    np.testing.assert_allclose(ours, plain_formulas(name, params, grads, rates, **options), rtol=bound, atol=bound)


def test_sgd_by_hand():
    params, one = [np.array([1.0])], np.ones((3, 1))
    plain = run(optim.SGD(0.1), params, one, [0.1] * 3, np.float64)
    np.testing.assert_allclose(plain[:, 0], [0.9, 0.8, 0.7], rtol=1e-15)
    momentum = run(optim.SGD(0.1, momentum=0.5), params, one, [0.1] * 3, np.float64)  # velocities 1, 1.5, 1.75
    np.testing.assert_allclose(momentum[:, 0], [0.9, 0.75, 0.575], rtol=1e-15)
    nesterov = run(optim.SGD(0.1, momentum=0.5, nesterov=True), params, one, [0.1] * 3, np.float64)
    np.testing.assert_allclose(nesterov[:, 0], [1 - 0.15, 1 - 0.15 - 0.175, 1 - 0.15 - 0.175 - 0.1875], rtol=1e-15)
    decay = run(optim.SGD(0.1, weight_decay=0.5), params, 0 * one, [0.1] * 3, np.float64)
    np.testing.assert_allclose(decay[:, 0], [0.95, 0.95**2, 0.95**3], rtol=1e-15)


def test_adam_by_hand():
    params = [np.array([1.0])]
    # A constant gradient gives m / (1 - beta1^t) = g and v / (1 - beta2^t) = g^2: every step is lr * g / (|g| + eps).
    steady = run(optim.Adam(0.1, eps=1.0), params, np.full((4, 1), 3.0), [0.1] * 4, np.float64)
    np.testing.assert_allclose(steady[:, 0], 1 - 0.075 * np.arange(1, 5), rtol=1e-14)
    # Gradients 1 then 0: m = 0.09, v = 0.000999, divided by 0.19 and 0.001999.
    two = run(optim.Adam(0.1, eps=0.0), params, np.array([[1.0], [0.0]]), [0.1, 0.2], np.float64)
    step = 0.2 * (0.09 / 0.19) / math.sqrt(0.000999 / 0.001999)
    np.testing.assert_allclose(two[:, 0], [0.9, 0.9 - step], rtol=1e-12)  # 1 - 0.999^t cancels three digits
    decoupled = run(optim.AdamW(0.1, weight_decay=0.5), params, np.zeros((2, 1)), [0.1] * 2, np.float64)
    np.testing.assert_allclose(decoupled[:, 0], [0.95, 0.95**2], rtol=1e-15)


def test_adagrad_and_rmsprop_by_hand():
    params, three = [np.array([1.0])], np.full((3, 1), 3.0)
    # A constant gradient g adds g^2 each time: the steps are lr / sqrt(1), lr / sqrt(2), ...
    adagrad = run(optim.AdaGrad(0.1, eps=0.0), params, three, [0.1] * 3, np.float64)
    np.testing.assert_allclose(adagrad[:, 0], 1 - 0.1 * np.cumsum(1 / np.sqrt([1, 2, 3])), rtol=1e-14)
    slower = run(optim.AdaGrad(0.1, lr_decay=1.0, eps=0.0), params, three, [0.1] * 3, np.float64)
    np.testing.assert_allclose(slower[:, 0], 1 - 0.1 * np.cumsum(1 / np.sqrt([1, 2, 3]) / [1, 2, 3]), rtol=1e-14)
    # Its mean square is g^2 (1 - alpha^t).
    root = np.sqrt(1 - 0.75 ** np.arange(1, 4))
    rmsprop = run(optim.RMSProp(0.1, alpha=0.75, eps=0.0), params, three, [0.1] * 3, np.float64)
    np.testing.assert_allclose(rmsprop[:, 0], 1 - 0.1 * np.cumsum(1 / root), rtol=1e-14)
    velocity = np.array([1 / root[0], 0.5 / root[0] + 1 / root[1]])
    moving = run(optim.RMSProp(0.1, 0.75, 0.0, momentum=0.5), params, three[:2], [0.1] * 2, np.float64)
    np.testing.assert_allclose(moving[:, 0], 1 - 0.1 * np.cumsum(velocity), rtol=1e-14)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_segments(name, options):
    """A frozen segment keeps its bits, a factor of the rate is a rate, and a factor of the decay is a decay."""
    params, grads, rates = problem(5)
    make = getattr(optim, name)
    optimizer = make(lr=1.0, **options)
    segments = optimizer.segments(SIZES, rate=[1, 0, 0.25], decay=[1, 1, 0])
    mixed = run(optimizer, params, grads, rates, np.float64, segments)
    cut = np.cumsum(SIZES)[:-1]
    first, second, third = np.split(mixed, cut, axis=1)
    np.testing.assert_array_equal(second, np.broadcast_to(params[1], (5, 1)))
    whole = np.split(run(make(lr=1.0, **options), params, grads, rates, np.float64), cut, axis=1)
    np.testing.assert_array_equal(first, whole[0])
    slower = run(make(lr=1.0, **{**options, "weight_decay": 0.0}), params, grads, 0.25 * rates, np.float64)
    np.testing.assert_allclose(third, np.split(slower, cut, axis=1)[2], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_frozen_slots_stay(name, options):
    optimizer = getattr(optim, name)(lr=0.1, **options)
    slots = optimizer.slots(2, np.float64)
    optimizer.step(np.ones(2), np.ones(2), slots, optimizer.segments([1, 1], rate=[1, 0]), count=1)
    for name, start in optimizer.slots(2, np.float64).items():
        assert slots[name][0] != start[0]
        assert slots[name][1] == start[1]


@pytest.mark.parametrize(("name", "options"), EACH)
def test_state_restores_a_run(name, options):
    params, grads, _ = problem(6)
    optimizer = getattr(optim, name)(lr=0.3, **options)
    param, slots = np.concatenate(params), optimizer.slots(sum(SIZES), np.float64)
    segments = optimizer.segments(SIZES)
    for count in (1, 2, 3):
        optimizer.step(param, grads[count - 1], slots, segments, count=count)
    again = getattr(optim, name)(lr=1.0)
    hyper = again.hyper(step=1)
    again.load_state(optimizer.state())
    assert repr(again) == repr(optimizer)
    assert again.slot_names == optimizer.slot_names
    param2, slots2 = param.copy(), {name: slot.copy() for name, slot in slots.items()}
    for count in (4, 5, 6):
        optimizer.step(param, grads[count - 1], slots, segments, count=count)
        again.step(param2, grads[count - 1], slots2, again.segments(SIZES), count=count)
    np.testing.assert_array_equal(param, param2)
    assert again.hyper(step=7) is hyper  # its address is in programs


def test_load_state_refuses_and_keeps():
    sgd = optim.SGD(0.5, momentum=0.9)
    for wrong in (
        {},
        {**sgd.state(), "betas": np.zeros(2)},
        {**sgd.state(), "momentum": np.float64(1.5)},
        {**sgd.state(), "lr": np.float64(math.nan)},
    ):
        with pytest.raises(ValueError, match="SGD"):
            sgd.load_state(wrong)
    with pytest.raises(TypeError, match="lr must be a number"):
        sgd.load_state({**sgd.state(), "lr": np.zeros(3)})
    assert repr(sgd) == "SGD(lr=0.5, momentum=0.9, nesterov=False, weight_decay=0.0)"


def test_hyper_is_persistent_and_in_the_kernels_layout():
    sgd = optim.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    hyper = sgd.hyper(step=1)
    assert hyper.dtype == np.float64
    assert hyper.tolist() == [0.5, 0.9, 1.0, 1.0]
    assert sgd.hyper(0.25, step=2) is hyper
    assert hyper[0] == 0.25
    sgd.lr = 0.125
    assert sgd.hyper(step=3)[0] == 0.125
    assert sgd.copy().hyper(step=3) is not hyper
    assert repr(sgd.copy()) == repr(sgd)
    assert optim.Adam().hyper(step=3).tolist() == [1e-3, 0.9, 0.999, 1e-8, 3.0, 0.0]
    assert optim.AdamW(0.5).hyper(step=4).tolist() == [0.5, 0.9, 0.999, 1e-8, 4.0, 1.0]


def test_step_after_hyper_or_with_count():
    param, other = np.ones(3), np.ones(3)
    adam = optim.Adam(0.1)
    slots, slots2, segments = adam.slots(3, np.float64), adam.slots(3, np.float64), adam.segments([3])
    with pytest.raises(RuntimeError, match="count="):
        adam.step(param, np.ones(3), slots, segments)
    for count in (1, 2):
        adam.hyper(0.2, step=count)
        adam.step(param, np.full(3, float(count)), slots, segments)
    adam.lr = 0.2
    for count in (1, 2):
        adam.step(other, np.full(3, float(count)), slots2, segments, count=count)
    np.testing.assert_array_equal(param, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD(-0.1), "SGD: lr must be finite and at least 0, got -0.1"),
        (lambda: optim.SGD(math.nan), "lr"),
        (lambda: optim.SGD(math.inf), "lr"),
        (lambda: optim.SGD(0.1, momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda: optim.SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: optim.SGD(0.1, weight_decay=-1), "weight_decay"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), r"Adam: betas\[1\]"),
        (lambda: optim.Adam(betas=(-0.1, 0.9)), r"betas\[0\]"),
        (lambda: optim.AdamW(eps=-1e-8), "AdamW: eps"),
        (lambda: optim.AdaGrad(lr_decay=-1), "AdaGrad: lr_decay"),
        (lambda: optim.AdaGrad(initial_sum=-1), "AdaGrad: initial_sum"),
        (lambda: optim.RMSProp(alpha=1.0), "RMSProp: alpha must be at least 0 and below 1"),
        (lambda: optim.RMSProp(momentum=1.0), "RMSProp: momentum"),
        (lambda: optim.SGD(0.1).hyper(step=0), "step must be a whole number from 1"),
        (lambda: optim.SGD(0.1).hyper(-1.0), "lr"),
        (lambda: setattr(optim.SGD(0.1), "lr", -1), "lr"),
        (lambda: optim.SGD(0.1).segments([3], rate=[1, 1]), "2 factors of rate for 1 parameters"),
        (lambda: optim.SGD(0.1).segments([3], decay=[-1]), "decay of a segment"),
        (
            lambda: optim.SGD(0.1).step(np.ones(1), np.ones(1), {"m": np.ones(1)}, np.zeros((0, 4)), count=1),
            r"keeps slots \[\], got \['m'\]",
        ),
    ],
)
def test_refuses_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: optim.SGD("0.1"), lambda: optim.SGD(None), lambda: optim.Adam(betas=0.9), lambda: optim.Adam(betas="ab")],
)
def test_refuses_types(make):
    with pytest.raises(TypeError, match=r"must be a (pair of )?number"):
        make()


def test_optimizer_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        optim.Optimizer(0.1, 0.0)


# ---- the checked functions ----


def sgd_arguments():
    return {
        "grad": np.ones(4),
        "hyper": np.array([0.1, 0.9, 0, 1]),
        "segments": np.array([[0, 2, 1, 0], [2, 4, 1, 0.0]]),
        "param": np.ones(4),
        "velocity": np.ones(4),
    }


def read_only(array):
    array.flags.writeable = False
    return array


BUFFER = np.ones(8)
BAD = [
    ("grad", [1.0] * 4, ShapeError, "expected grad as a contiguous"),
    ("grad", np.ones(4, np.int64), ShapeError, "grad as a contiguous float32 or float64"),
    ("grad", np.ones((2, 2)), ShapeError, "grad"),
    ("grad", np.ones(8)[::2], ShapeError, "grad"),
    ("grad", np.ones(4, ">f8"), ShapeError, "grad"),
    ("param", np.ones(3), ShapeError, r"param must have grad's shape .4,."),
    ("param", np.ones(4, np.float32), ShapeError, "param must have"),
    ("param", read_only(np.ones(4)), ValueError, "param is read-only"),
    ("velocity", np.ones(5), ShapeError, "velocity must have"),
    ("velocity", read_only(np.ones(4)), ValueError, "velocity is read-only"),
    ("hyper", np.ones(3), ShapeError, r"hyper as a contiguous float64 array of shape \(4,\)"),
    ("hyper", np.ones(4, np.float32), ShapeError, "hyper"),
    ("hyper", [0.1, 0, 0, 1], ShapeError, "hyper"),
    ("segments", np.ones((2, 3)), ShapeError, r"shape \(n, 4\)"),
    ("segments", np.ones((4, 2)).T, ShapeError, "segments"),
    ("segments", np.ones((1, 4), np.float32), ShapeError, "segments"),
    ("segments", np.array([[0, 5, 1, 0.0]]), ValueError, "within 0 and 4"),
    ("segments", np.array([[-1, 4, 1, 0.0]]), ValueError, "within 0 and 4"),
    ("segments", np.array([[2, 1, 1, 0.0]]), ValueError, "follow one another"),
    ("segments", np.array([[0, 3, 1, 0], [2, 4, 1, 0.0]]), ValueError, "follow one another"),
    ("segments", np.array([[0, 1.5, 1, 0.0]]), ValueError, "whole numbers"),
    ("segments", np.array([[0, np.nan, 1, 0.0]]), ValueError, "finite"),
    ("segments", np.array([[0, 4, np.inf, 0.0]]), ValueError, "finite"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_checked_steps_refuse_and_change_nothing(name, value, error, message):
    arguments = {**sgd_arguments(), name: value}
    with pytest.raises(error, match=message):
        F.sgd_step(**arguments)
    adam = {**sgd_arguments(), "hyper": np.array([0.1, 0.9, 0.9, 1e-8, 1, 0]), name: value}
    adam["m"] = adam.pop("velocity")
    with pytest.raises(error, match=message.replace("velocity", "m").replace("shape \\(4", "shape \\(6")):
        F.adam_step(**adam, v=np.ones(4))
    adagrad = {**sgd_arguments(), "hyper": np.array([0.1, 1e-10]), name: value}
    adagrad["sum"] = adagrad.pop("velocity")
    with pytest.raises(error, match=message.replace("velocity", "sum").replace("shape \\(4", "shape \\(2")):
        F.adagrad_step(**adagrad)
    with pytest.raises(error, match=message):
        F.rmsprop_step(**{**arguments, "square": np.ones(4)})
    for key in ("param", "velocity"):
        if key != name:
            np.testing.assert_array_equal(arguments[key], 1.0)


def test_checked_steps_refuse_overlap():
    arguments = sgd_arguments()
    with pytest.raises(ValueError, match="param overlaps grad"):
        F.sgd_step(**{**arguments, "param": arguments["grad"]})
    with pytest.raises(ValueError, match="velocity overlaps param"):
        F.sgd_step(**{**arguments, "param": BUFFER[:4], "velocity": BUFFER[3:7]})
    F.sgd_step(**{**arguments, "param": np.ones(8)[:4], "velocity": np.ones(8)[4:]})


def test_adam_counts_from_one():
    with pytest.raises(ValueError, match="number of the step, from 1"):
        F.adam_step(
            np.ones(1), np.array([0.1, 0.9, 0.9, 0, 0, 0]), np.zeros((0, 4)), np.ones(1), np.ones(1), np.ones(1)
        )


def test_empty_buffers():
    empty = np.zeros(0, np.float32)
    F.sgd_step(empty, np.zeros(4), np.zeros((0, 4)), np.zeros(0, np.float32))
    for optimizer in (optim.SGD(0.1, momentum=0.9), optim.Adam(), optim.AdaGrad(), optim.RMSProp()):
        slots = optimizer.slots(0)
        optimizer.step(np.zeros(0, np.float32), empty, slots, optimizer.segments([]), count=1)

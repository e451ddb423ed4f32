"""The specification itself: reference.py against definitions by hand, numeric derivatives, published vectors and torch.

Other backends are tested against reference.py (test_parity.py); here nothing of theirs is trusted.
"""

import math
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from fastnn import reference as ref

EPS = np.finfo(np.float64).eps
NAN, INF = math.nan, math.inf
KEY = np.array([0x299F31D0A4093822, 7], np.uint64)


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="torch, the oracle of this test, is not installed")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def assert_near(actual, expected, units, what=""):
    """Within `units` epsilons of the largest expected number: sums of some hundred terms in another order."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, what
    bound = units * np.finfo(actual.dtype).eps * np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)


def pairs(kernel_size, stride, padding, dilation=(1, 1)):
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}


# --- Gradients: every backward pass against four-point differences ----------------------------------------------------


def numeric_gradient(f, x, h=1e-3):
    """d f / d x element by element, with error h^4 / 30 * f^(5) + 1.5 eps * |f| / h: about 1e-12 for f near 1."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        centre, values = x[i], []
        for step in (-2, -1, 1, 2):
            x[i] = centre + step * h
            values.append(f())
        x[i] = centre
        gradient[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return gradient


def check_gradients(forward, arrays, gradients):
    """forward(*arrays) -> y; gradients(dy, *arrays) -> one gradient for each of the first arrays."""
    y = forward(*arrays)
    dy = draw(*y.shape, seed=99)
    for i, gradient in enumerate(gradients(dy, *arrays)):
        numeric = numeric_gradient(lambda: float((dy * forward(*arrays)).sum()), arrays[i])
        scale = max(1.0, np.abs(numeric).max(initial=0))  # 1e-10: a hundred times the error of the differences
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-10 * scale, err_msg=f"gradient {i}")


ACTIVATIONS = {  # the parameters, and torch's function
    "relu": ((), lambda F, x: F.relu(x)),
    "leaky_relu": ((0.1,), lambda F, x: F.leaky_relu(x, 0.1)),
    "sigmoid": ((), lambda F, x: F.sigmoid(x)),
    "tanh": ((), lambda F, x: F.tanh(x)),
    "elu": ((0.7,), lambda F, x: F.elu(x, 0.7)),
    "gelu": ((), lambda F, x: F.gelu(x)),
    "gelu_tanh": ((), lambda F, x: F.gelu(x, approximate="tanh")),
    "hardtanh": ((-0.7, 1.3), lambda F, x: F.hardtanh(x, -0.7, 1.3)),
    "threshold": ((0.3, -2.0), lambda F, x: F.threshold(x, 0.3, -2.0)),
    "hardsigmoid": ((), lambda F, x: F.hardsigmoid(x)),
    "hardswish": ((), lambda F, x: F.hardswish(x)),
    "softsign": ((), lambda F, x: F.softsign(x)),
    "selu": ((), lambda F, x: F.selu(x)),
    "celu": ((0.5,), lambda F, x: F.celu(x, 0.5)),  # torch rounds 1 / alpha to float32 on the way back
    "silu": ((), lambda F, x: F.silu(x)),
    "mish": ((), lambda F, x: F.mish(x)),
    "softplus": ((1.5, 4.0), lambda F, x: F.softplus(x, 1.5, 4.0)),
}

KINKS = (0.0, -0.7, 0.3, 1.3, 3.0, -3.0, 4 / 1.5)  # of these functions; the last is where softplus jumps


def away_from_kinks(x):
    """Two steps of the differences away from where an activation has a kink or a jump."""
    near = np.abs(x[:, np.newaxis] - KINKS).min(1) < 0.01
    return np.where(near, 0.5, x)


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation_gradient(op):
    options, _ = ACTIVATIONS[op]
    forward, backward = getattr(ref, f"{op}_forward"), getattr(ref, f"{op}_backward")
    check_gradients(
        lambda x: forward(x, *options), [away_from_kinks(2 * draw(40))], lambda dy, x: [backward(dy, x, *options)]
    )


def test_prelu_gradient():
    x, weight = away_from_kinks(2 * draw(40)).reshape(2, 4, 5), np.array([0.25, -0.5, 0.0, 1.5])
    check_gradients(ref.prelu_forward, [x, weight], lambda dy, x, w: ref.prelu_backward(dy, x, w))


def test_maxout_gradient():
    x = np.random.default_rng(0).permutation(24).reshape(2, 3, 4) * 0.1  # no two within two steps of each other
    check_gradients(ref.maxout_forward, [x], lambda dy, x: [ref.maxout_backward(dy, x)])


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_gradient(op):
    forward, backward = getattr(ref, f"{op}_forward"), getattr(ref, f"{op}_backward")
    check_gradients(forward, [draw(3, 5)], lambda dy, x: [backward(dy, forward(x))])


LABELS = np.array([2, 0, 3, 0, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 1.0, 0.25])], ids=["", "weight"])
@pytest.mark.parametrize("sample_weight", [None, np.array([1.0, 0.0, 2.0, 0.5, 3.0])], ids=["", "sample_weight"])
@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_cross_entropy_gradient(kind, weight, sample_weight, smoothing):
    targets = ref.softmax_forward(draw(5, 4, seed=3))
    given = (LABELS, None) if kind == "labels" else (None, targets)

    def both(scores):
        return ref.cross_entropy(scores, *given, weight, sample_weight, 1, smoothing)

    scores = draw(5, 4)
    dscores = both(scores)[1]
    np.testing.assert_allclose(dscores, numeric_gradient(lambda: float(both(scores)[0][0]), scores), rtol=0, atol=1e-10)


def test_dropout_gradient():
    _, mask = ref.dropout_forward(np.zeros(30), KEY, 0.3)
    check_gradients(
        lambda x: ref.dropout_forward(x, KEY, 0.3)[0], [draw(30)], lambda dy, x: [ref.dropout_backward(dy, mask, 0.3)]
    )


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_gradient(affine):
    x, weight, bias = draw(3, 2, 2, 3), draw(2, seed=1), draw(2, seed=2)
    arrays = [x, weight, bias] if affine else [x]

    def train(x, weight=None, bias=None):
        return ref.batch_norm_train_forward(x, weight, bias, 1e-2, None, False)[0]

    def train_backward(dy, x, weight=None, bias=None):
        _, mean, var = ref.batch_norm_train_forward(x, weight, bias, 1e-2, None, False)
        return ref.batch_norm_backward(dy, x, mean, var, weight, 1e-2, False, None)[: len(arrays)]

    check_gradients(train, arrays, train_backward)

    mean, var = draw(2, seed=3), draw(2, seed=4) ** 2

    def frozen(x, weight=None, bias=None):
        return ref.batch_norm_forward(x, mean, var, weight, bias, 1e-2, None)

    def frozen_backward(dy, x, weight=None, bias=None):
        return ref.batch_norm_backward(dy, x, mean, var, weight, 1e-2, True, None)[: len(arrays)]

    check_gradients(frozen, arrays, frozen_backward)


WINDOWS = [
    pairs((2, 2), (2, 2), (0, 0)),
    pairs((3, 2), (1, 2), (1, 1)),
    pairs((2, 3), (2, 1), (0, 1), (2, 1)),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool_gradient(window):
    out_size = ref._out_size((5, 6), *window.values())
    x = np.random.default_rng(0).permutation(60).reshape(1, 2, 5, 6) * 0.1  # no two closer than the steps

    def backward(dy, x):
        _, argmax = ref.max_pool2d_forward(x, **window, out_size=out_size)
        return [ref.max_pool2d_backward(dy, argmax, **window, in_size=(5, 6))]

    check_gradients(lambda x: ref.max_pool2d_forward(x, **window, out_size=out_size)[0], [x], backward)


@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("window", WINDOWS[:2])
def test_avg_pool_gradient(window, include_pad):
    out_size = tuple(n + 1 for n in ref._out_size((5, 6), *window.values()))  # as ceil_mode gives where it can
    args = window["kernel_size"], window["stride"], window["padding"]
    check_gradients(
        lambda x: ref.avg_pool2d_forward(x, *args, out_size, include_pad, 0),
        [draw(1, 2, 5, 6)],
        lambda dy, x: [ref.avg_pool2d_backward(dy, *args, include_pad, 0, (5, 6))],
    )


def test_global_avg_pool_gradient():
    check_gradients(
        ref.global_avg_pool2d_forward, [draw(2, 3, 2, 4)], lambda dy, x: [ref.global_avg_pool2d_backward(dy, (2, 4))]
    )


CONVOLUTIONS = [  # x, weight, stride, padding, dilation, groups
    ((2, 2, 5, 4), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 4, 6, 5), (4, 2, 2, 3), (2, 1), (0, 2), (1, 2), 2),
    ((2, 3, 4, 4), (6, 1, 3, 2), (1, 2), (3, 0), (2, 1), 3),  # the padding is wider than the window reaches
    ((2, 3, 4, 4), (2, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d_gradient(x_shape, w_shape, stride, padding, dilation, groups):
    rule = (stride, padding, dilation, groups)
    check_gradients(
        lambda x, w, b: ref.conv2d_forward(x, w, b, *rule, None, None, None),
        [draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)],
        lambda dy, x, w, b: ref.conv2d_backward(dy, x, w, *rule),
    )


def test_linear_gradient():
    check_gradients(
        lambda x, w, b: ref.linear_forward(x, w, b, None),
        [draw(3, 4), draw(5, 4, seed=1), draw(5, seed=2)],
        lambda dy, x, w, b: ref.linear_backward(dy, x, w),
    )


# --- Convolution and its windows from their definition ----------------------------------------------------------------


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d_is_its_sum(x_shape, w_shape, stride, padding, dilation, groups):
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)
    y = ref.conv2d_forward(x, w, b, stride, padding, dilation, groups, None, None, None)
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
    expected = np.empty_like(y)
    for n, o, oh, ow in np.ndindex(y.shape):
        expected[n, o, oh, ow] = b[o]
        for c, kh, kw in np.ndindex(w.shape[1:]):
            channel = o // (w_shape[0] // groups) * w_shape[1] + c
            h, v = oh * stride[0] + kh * dilation[0], ow * stride[1] + kw * dilation[1]
            expected[n, o, oh, ow] += w[o, c, kh, kw] * padded[n, channel, h, v]
    assert_near(y, expected, 100)


def test_conv2d_epilogue_order():
    """activation(batch_norm(conv + bias) + residual), each step seen in the numbers."""
    x, one = np.array([[[[1.0, 2.0]]]]), np.ones((1, 1, 1, 1))
    norm = (np.array([3.0]), np.array([0.5]), np.array([1.0]), np.array([4.0]), 0.0)  # (v - 1) / 2 * 3 + 0.5
    rule = ((1, 1), (0, 0), (1, 1), 1)
    y = ref.conv2d_forward(x, one, np.array([2.0]), *rule, norm, np.array([[[[1.0, -9.0]]]]), ("leaky_relu", 0.1))
    np.testing.assert_allclose(y.ravel(), [3.5 + 1, 0.1 * (5 - 9)], rtol=4 * EPS)  # conv + bias is 3, 4


def test_im2col_layout():
    x = np.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    cols = ref.im2col_forward(x, (2, 1), (1, 1), (0, 1), (1, 1))
    np.testing.assert_array_equal(cols, [[[0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 6, 0], [0, 7, 8, 0]]])
    back = ref.col2im_forward(cols, (2, 2), (2, 1), (1, 1), (0, 1), (1, 1))
    np.testing.assert_array_equal(back, x)  # each element is in one column only
    np.testing.assert_array_equal(
        ref.col2im_forward(np.ones((1, 4, 4)), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1))[0, 0],
        [[1, 2, 1], [2, 4, 2], [1, 2, 1]],
    )


def test_col2im_is_the_transpose_of_im2col():
    for window in WINDOWS:
        x = draw(2, 3, 5, 6)
        cols = ref.im2col_forward(x, **window)
        other = draw(*cols.shape, seed=1)
        left, right = (cols * other).sum(), (x * ref.col2im_forward(other, (5, 6), **window)).sum()
        assert abs(left - right) <= cols.size * EPS * np.abs(other).max() * np.abs(x).max()


# --- Pooling by hand --------------------------------------------------------------------------------------------------


def pool(x, kernel_size, stride, padding=(0, 0), out_size=None, dilation=(1, 1)):
    x = np.array(x, np.float32)[np.newaxis, np.newaxis]
    window = pairs(kernel_size, stride, padding, dilation)
    y, argmax = ref.max_pool2d_forward(x, **window, out_size=out_size or ref._out_size(x.shape[2:], *window.values()))
    return y[0, 0].tolist(), argmax[0, 0].tolist()


def test_max_pool_by_hand():
    assert pool([[1, 5, 2, 2], [3, 4, 2, 2]], (2, 2), (2, 2)) == ([[5, 2]], [[1, 0]])  # the first of equal ones
    assert pool([[-INF, -INF]], (1, 2), (1, 1)) == ([[-INF]], [[0]])
    assert pool([[-3.0]], (3, 3), (1, 1), (1, 1)) == ([[-3.0]], [[4]])  # padding never wins
    assert pool([[-INF]], (3, 3), (1, 1), (1, 1)) == ([[-INF]], [[4]])
    assert pool([[1.0, 2.0]], (1, 2), (1, 1), (0, 1)) == ([[1, 2, 2]], [[1, 1, 0]])
    assert pool([[4.0]], (1, 2), (1, 1), (0, 1), dilation=(1, 2), out_size=(1, 1)) == ([[-INF]], [[0]])  # padding only


def test_max_pool_nan_wins():
    y, argmax = pool([[INF, NAN, NAN, 1]], (1, 3), (1, 1))
    assert np.isnan(y).all()
    assert argmax == [[1, 0]]


@pytest.mark.parametrize(("kernel_size", "dtype"), [((15, 17), np.uint8), ((16, 16), np.int32)])
def test_max_pool_argmax_dtype(kernel_size, dtype):
    x = np.arange(400.0).reshape(1, 1, 20, 20)
    window = pairs(kernel_size, (1, 1), (0, 0))
    y, argmax = ref.max_pool2d_forward(x, **window, out_size=(1, 1))
    assert argmax.dtype == dtype
    assert argmax.item() == math.prod(kernel_size) - 1  # ascending numbers: the last of the window
    assert y.item() == x[0, 0, kernel_size[0] - 1, kernel_size[1] - 1]
    dx = ref.max_pool2d_backward(np.ones((1, 1, 1, 1)), argmax, **window, in_size=(20, 20))
    assert np.argmax(dx) == np.ravel_multi_index((kernel_size[0] - 1, kernel_size[1] - 1), (20, 20))
    assert dx.sum() == 1


def test_avg_pool_divisor():
    x = np.ones((1, 1, 1, 4))
    args = ((1, 3), (1, 2), (0, 1))
    # Windows over [pad 1 1], [1 1 1], [1 pad -]: the last hangs over the padding, as ceil_mode makes it.
    np.testing.assert_array_equal(ref.avg_pool2d_forward(x, *args, (1, 3), True, 0).ravel(), [2 / 3, 1, 1 / 2])
    np.testing.assert_array_equal(ref.avg_pool2d_forward(x, *args, (1, 3), False, 0).ravel(), [1, 1, 1])


# --- Activations, softmax, cross-entropy: special values and tails ----------------------------------------------------


def test_nan_and_infinity():
    x = np.array([-INF, -1, 0, 1, INF, NAN])
    one = np.ones(6)
    equal = np.testing.assert_array_equal
    equal(ref.relu_forward(x), [0, 0, 0, 1, INF, NAN])
    equal(ref.relu_backward(one, x), [0, 0, 0, 1, 1, 0])
    equal(ref.relu_backward(np.full(6, NAN), x), [0, 0, 0, NAN, NAN, 0])
    equal(ref.leaky_relu_forward(x, 0.5), [-INF, -0.5, 0, 1, INF, NAN])
    equal(ref.leaky_relu_backward(one, x, 0.5), [0.5, 0.5, 0.5, 1, 1, 0.5])
    equal(ref.elu_forward(x, 2.0)[[0, 2, 3, 4, 5]], [-2, 0, 1, INF, NAN])
    equal(ref.elu_backward(one, x, 2.0)[[0, 2, 3, 4, 5]], [0, 2, 1, 1, NAN])
    equal(ref.sigmoid_forward(x)[[0, 2, 4, 5]], [0, 0.5, 1, NAN])
    equal(ref.sigmoid_backward(one, x)[[0, 2, 4, 5]], [0, 0.25, 0, NAN])
    equal(ref.tanh_forward(x)[[0, 2, 4, 5]], [-1, 0, 1, NAN])
    equal(ref.tanh_backward(one, x)[[0, 2, 4, 5]], [0, 1, 0, NAN])
    equal(ref.exp_forward(x)[[0, 2, 4, 5]], [0, 1, INF, NAN])
    equal(ref.sqrt_forward(x), [NAN, NAN, 0, 1, INF, NAN])
    equal(ref.div_forward(one, x)[[0, 2, 4, 5]], [-0.0, INF, 0, NAN])
    equal(ref.div_forward(x, x)[[0, 2, 4, 5]], [NAN, NAN, NAN, NAN])
    for forward in ref.gelu_forward, ref.gelu_tanh_forward:
        equal(forward(x)[[0, 2, 4, 5]], [NAN, 0, INF, NAN])
    for forward in ref.silu_forward, ref.mish_forward, ref.hardswish_forward:  # x * 0 at -inf
        equal(forward(x)[[0, 2, 4, 5]], [NAN, 0, INF, NAN])
    equal(ref.hardtanh_forward(x, -0.5, INF), [-0.5, -0.5, 0, 1, INF, NAN])
    equal(ref.hardtanh_backward(np.full(6, NAN), x, -0.5, 1.0), [0, 0, NAN, 0, 0, 0])
    equal(ref.threshold_forward(x, 0.0, 7.0), [7, 7, 7, 1, INF, NAN])
    equal(ref.threshold_backward(one, x, 0.0, 7.0), [0, 0, 0, 1, 1, 0])
    equal(ref.hardsigmoid_forward(x)[[0, 2, 4, 5]], [0, 0.5, 1, NAN])
    equal(ref.hardsigmoid_backward(6 * one, x), [0, 1, 1, 1, 0, 0])
    equal(ref.hardswish_backward(one, x)[[0, 2, 4, 5]], [0, 0.5, 1, 0])
    equal(ref.softsign_forward(x), [NAN, -0.5, 0, 0.5, NAN, NAN])
    equal(ref.selu_backward(one, x)[[0, 5]], [0, NAN])
    equal(ref.celu_forward(x, 2.0)[[0, 2, 3, 4, 5]], [-2, 0, 1, INF, NAN])
    equal(ref.softplus_forward(x, 1.0, 20.0)[[0, 4, 5]], [0, INF, NAN])
    equal(ref.softplus_backward(one, x, 1.0, 20.0)[[0, 2, 4, 5]], [0, 0.5, 1, NAN])
    equal(ref.prelu_forward(x.reshape(1, 2, 3), np.array([0.5, 0.25])), [[[-INF, -0.5, 0], [1, INF, NAN]]])
    equal(ref.prelu_backward(one.reshape(1, 2, 3), x.reshape(1, 2, 3), np.array([0.5, 0.25]))[1], [-INF, NAN])
    equal(ref.maxout_forward(np.array([[[1.0, NAN], [2, 3]]])), [[2, NAN]])
    equal(ref.maxout_backward(one[:2].reshape(1, 2), np.array([[[2.0, 1], [2, NAN]]])), [[[1, 0], [0, 1]]])
    equal(ref.softmax_forward(np.array([[0, -INF], [-INF, -INF], [INF, 0]])), [[1, 0], [NAN, NAN], [NAN, NAN]])
    equal(ref.log_softmax_forward(np.array([[0, -INF]])), [[0, -INF]])


def test_tails_keep_their_digits():
    """Far from 0, where the textbook forms cancel to nothing; values to 16 digits from tables of Phi and of exp."""
    x = np.array([-10.0])
    tail = 4.5397868702434395e-05  # s(-10) = 1 / (1 + exp(10))
    np.testing.assert_allclose(
        ref.gelu_forward(x), -10 * 7.619853024160527e-24, rtol=1e-14
    )  # Phi(-10); x^2 / 2 = 50 ulp
    np.testing.assert_allclose(ref.silu_forward(x), -10 * tail, rtol=4 * EPS)
    np.testing.assert_allclose(ref.softplus_forward(x, 1.0, 20.0), 4.539889921686465e-05, rtol=4 * EPS)
    np.testing.assert_allclose(ref.mish_forward(x), -4.5398899185674697e-04, rtol=8 * EPS)
    np.testing.assert_allclose(ref.sigmoid_forward(x), tail, rtol=4 * EPS)
    np.testing.assert_allclose(ref.sigmoid_backward(np.ones(1), -x), tail * (1 - tail), rtol=8 * EPS)
    u = math.exp(-20.0)  # 1 - tanh(10)^2 = 4 u / (1 + u)^2
    np.testing.assert_allclose(ref.tanh_backward(np.ones(1), -x), 4 * u / (1 + u) ** 2, rtol=8 * EPS)
    u2 = 2 * math.sqrt(2 / math.pi) * (10 + 44.715)  # gelu_tanh(-10) = -10 * exp(-u2), and u2 carries 88 ulp into exp
    np.testing.assert_allclose(ref.gelu_tanh_forward(x), -10 * math.exp(-u2), rtol=200 * EPS)


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_softmax_does_not_overflow(shift):
    x = np.array([[shift, shift + math.log(3.0), -3e4]])
    np.testing.assert_allclose(ref.softmax_forward(x), [[0.25, 0.75, 0]], rtol=1e4 * EPS)  # x is rounded to 1e4 * eps
    np.testing.assert_allclose(ref.log_softmax_forward(x)[0, :2], np.log([0.25, 0.75]), rtol=0, atol=1e4 * EPS)


def entropy(scores, labels=None, targets=None, weight=None, sample_weight=None, ignore_index=-100, label_smoothing=0.0):
    loss, dscores = ref.cross_entropy(
        np.asarray(scores), labels, targets, weight, sample_weight, ignore_index, label_smoothing
    )
    assert loss.shape == (1,)
    assert loss.dtype == np.float64
    return loss[0], dscores


def test_cross_entropy_by_hand():
    loss, dscores = entropy(np.zeros((2, 4)), np.array([1, 3]))
    assert loss == pytest.approx(math.log(4), rel=4 * EPS)
    np.testing.assert_allclose(dscores[0], [0.125, -0.375, 0.125, 0.125], rtol=4 * EPS)
    # Row 0 says 3/4 for its label, row 1 says 1/2; class weights 1 and 3, sample weights 2 and 1.
    scores, labels = np.log([[3.0, 1.0], [1.0, 1.0]]), np.array([0, 1])
    loss, _ = entropy(scores, labels, weight=np.array([1.0, 3.0]), sample_weight=np.array([2.0, 1.0]))
    assert loss == pytest.approx((2 * 1 * math.log(4 / 3) + 1 * 3 * math.log(2)) / (2 * 1 + 1 * 3), rel=8 * EPS)


def test_cross_entropy_ignores():
    """An ignored row neither counts nor spoils: its scores may be NaN and its label may lie outside."""
    scores = draw(3, 4)
    spoilt = scores.copy()
    spoilt[1] = NAN
    kept = [0, 2]
    for smoothing in 0.0, 0.1:
        loss, dscores = entropy(spoilt, np.array([1, -100, 2]), label_smoothing=smoothing)
        expected = entropy(scores[kept], np.array([1, 2]), label_smoothing=smoothing)
        assert loss == pytest.approx(expected[0], rel=4 * EPS)
        np.testing.assert_allclose(dscores[kept], expected[1], rtol=8 * EPS)
        np.testing.assert_array_equal(dscores[1], 0)
    loss, dscores = entropy(scores, np.full(3, 2), ignore_index=2)
    assert math.isnan(loss)
    np.testing.assert_array_equal(dscores, 0)
    assert math.isnan(entropy(np.zeros((0, 4)), np.zeros(0, np.int64))[0])


def test_cross_entropy_infinite_scores():
    loss, dscores = entropy(np.array([[0.0, -INF, 0.0]]), np.array([0]))  # a class that is ruled out costs nothing
    assert loss == pytest.approx(math.log(2), rel=4 * EPS)
    np.testing.assert_allclose(dscores, [[-0.5, 0, 0.5]], rtol=4 * EPS)
    assert entropy(np.array([[0.0, -INF]]), np.array([1]))[0] == INF
    assert entropy(np.array([[0.0, -INF]]), np.array([0]), label_smoothing=0.1)[0] == INF


# --- Philox and dropout -----------------------------------------------------------------------------------------------

PUBLISHED = """
00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1
"""  # Random123, kat_vectors: philox4x32 with 10 rounds; counter, key, result


@pytest.mark.parametrize("line", PUBLISHED.strip().splitlines())
def test_philox_published_vectors(line):
    words = np.array([int(word, 16) for word in line.split()], np.uint32)
    np.testing.assert_array_equal(ref.philox4x32(words[:4], words[4:6]), words[6:])


def test_random_bits_counts_blocks():
    """Seed and stream go in as halves, the block number counts, and the last block is cut."""
    seed, stream = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    bits = ref.random_bits(np.array([seed, stream], np.uint64), 7)
    assert bits.dtype == np.uint32
    counters = np.array([[block, 0, 0x76543210, 0xFEDCBA98] for block in (0, 1)], np.uint32)
    expected = ref.philox4x32(counters, np.array([0x89ABCDEF, 0x01234567], np.uint32))
    np.testing.assert_array_equal(bits, expected.ravel()[:7])
    assert ref.random_bits(KEY, 0).shape == (0,)


@pytest.mark.parametrize("p", [0.0, 2**-16, 0.25, 0.5, 0.3, 1 - 2**-33, 1.0])
def test_dropout_element_by_element(p):
    """The rule in Python's integers, one element at a time; 1 - 2^-33 has the threshold 2^32, and that is clamped."""
    words = [int(word) for word in ref.random_bits(KEY, 101)]
    x = draw(101)
    y, mask = ref.dropout_forward(x, KEY, p)
    assert mask.shape == (13,)
    assert mask[-1] >> 5 == 0  # 101 = 12 * 8 + 5: the other bits are 0
    for i in range(101):
        if p * 65536 == int(p * 65536):
            keep = (words[i // 2] >> 16 * (i % 2)) % 65536 >= p * 65536
        else:
            keep = words[i] >= min(round(p * 2**32), 2**32 - 1)
        assert (mask[i // 8] >> i % 8) & 1 == keep
        assert y[i] == (x[i] * (1 / (1 - p)) if keep else 0)
    np.testing.assert_array_equal(ref.dropout_backward(x, mask, p), y)


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_dropout_rate(p):
    n = 100_000
    _, mask = ref.dropout_forward(np.ones(n, np.float32), KEY, p)
    kept = np.unpackbits(mask, count=n).sum()
    assert abs(kept - n * (1 - p)) < 5 * math.sqrt(n * p * (1 - p))  # five standard deviations; the key is fixed


def test_dropout_drops_infinity():
    y, _ = ref.dropout_forward(np.full(64, INF), KEY, 0.5)
    assert set(y) == {0.0, INF}
    np.testing.assert_array_equal(ref.dropout_forward(np.full(8, NAN), KEY, 1.0)[0], 0)


# --- In place: arithmetic and optimizer steps -------------------------------------------------------------------------


def test_arithmetic_in_place():
    x, y = np.array([1.0, 2.0]), np.array([NAN, 5.0])
    ref.scale_add(x, 3.0, 0.0, y)
    np.testing.assert_array_equal(y, [3, 6])
    ref.scale_add(x, 2.0, -1.0, y)
    np.testing.assert_array_equal(y, [-1, -2])
    ref.copy(x[::-1], True, y)
    np.testing.assert_array_equal(y, [1, -1])
    ref.copy(x, False, y)
    np.testing.assert_array_equal(y, x)
    ref.fill(7.0, y)
    np.testing.assert_array_equal(y, 7)
    np.testing.assert_array_equal(ref.add_forward(x, np.array([-3.0, 1.0]), ("relu",)), [0, 3])
    np.testing.assert_array_equal(ref.add_forward(x, x, None), [2, 4])


def test_sgd_by_hand():
    segments = np.array([[0, 1, 1, 0], [1, 2, 0.5, 0.1], [2, 3, 0, 9]], np.float64)
    param, velocity, grad = np.array([1.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0]), np.array([2.0, 2.0, NAN])
    ref.sgd_step(grad, np.array([0.1, 0.5, 0, 2]), segments, param, velocity)
    np.testing.assert_allclose(velocity, [4, 2 + 2 + 0.2, 4], rtol=4 * EPS)  # the frozen segment does not move
    np.testing.assert_allclose(param, [1 - 0.1 * 4, 1 - 0.05 * 4.2, 1], rtol=4 * EPS)
    param = np.array([1.0])
    ref.sgd_step(np.array([2.0]), np.array([0.1, 0, 0, 1]), segments[:1], param, None)
    np.testing.assert_allclose(param, [0.8], rtol=4 * EPS)


def test_adam_first_step_is_the_rate():
    """Whatever the gradient's size, the corrected first step is lr * sign(grad): Kingma & Ba, section 2.1."""
    param, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
    hyper, segments = np.array([0.01, 0.9, 0.999, 0, 1, 0]), np.array([[0, 3, 1, 0], [3, 4, 0, 0]], np.float64)
    ref.adam_step(np.array([1e-3, -5.0, 1e6, 1.0]), hyper, segments, param, m, v)
    np.testing.assert_allclose(param[:3], [-0.01, 0.01, -0.01], rtol=1000 * EPS)  # 1 - 0.999 has lost 3 digits
    assert param[3] == m[3] == v[3] == 0


OPTIMIZERS = {
    "sgd": ("SGD", {"momentum": 0.9, "weight_decay": 0.05}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    "plain": ("SGD", {}),
    "adam": ("Adam", {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}),
    "adamw": ("AdamW", {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizers_as_torch(case, torch):
    kind, options = OPTIMIZERS[case]
    param, slots = draw(6), [np.zeros(6), np.zeros(6)]
    theirs = torch.nn.Parameter(torch.tensor(param))
    optimizer = getattr(torch.optim, kind)([theirs], lr=0.1, **options)
    segments = np.array([[0, 6, 1, options.get("weight_decay", 0)]], np.float64)
    for step in range(1, 5):
        grad = draw(6, seed=step)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        if kind == "SGD":
            hyper = np.array([0.1, options.get("momentum", 0), options.get("nesterov", 0), 1])
            ref.sgd_step(grad, hyper, segments, param, slots[0] if "momentum" in options else None)
        else:
            hyper = np.array([0.1, *options["betas"], options["eps"], step, kind == "AdamW"])
            ref.adam_step(grad, hyper, segments, param, *slots)
        assert_near(param, theirs.detach().numpy(), 50, f"step {step}")


# --- torch as an oracle -----------------------------------------------------------------------------------------------


def oracle(torch, function, *arrays, seed=99):
    """y and the gradients of sum(dy * y) by each array, from torch in float64."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = function(*tensors)
    dy = draw(*y.shape, seed=seed)
    y.backward(torch.tensor(dy))
    return SimpleNamespace(y=y.detach().numpy(), dy=dy, gradients=[t.grad.numpy() for t in tensors])


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_as_torch(op, torch):
    options, function = ACTIVATIONS[op]
    x = np.concatenate([3 * draw(200), [0.0, -0.0, 30.0, -30.0]])
    torch_ = oracle(torch, lambda x: function(torch.nn.functional, x), x)
    # Near 0 and in the tails torch cancels (1 + erf, 1 - tanh^2): compared on the scale of 1, which it keeps.
    for ours, theirs in (
        (getattr(ref, f"{op}_forward")(x, *options), torch_.y),
        (getattr(ref, f"{op}_backward")(torch_.dy, x, *options), torch_.gradients[0]),
    ):
        sixth = 2.0**-24 if op == "hardsigmoid" else 0.0  # torch keeps the slope 1/6 in float32
        np.testing.assert_allclose(ours, theirs, rtol=20 * EPS + sixth, atol=20 * EPS)


def test_prelu_as_torch(torch):
    x, weight = 3 * draw(2, 4, 5), draw(4, seed=1)
    torch_ = oracle(torch, torch.nn.functional.prelu, x, weight)
    assert_near(ref.prelu_forward(x, weight), torch_.y, 2)
    for ours, theirs in zip(ref.prelu_backward(torch_.dy, x, weight), torch_.gradients, strict=True):
        assert_near(ours, theirs, 20)


def test_maxout_as_torch(torch):
    x = draw(2, 3, 4)
    torch_ = oracle(torch, lambda x: x.amax(1), x)
    np.testing.assert_array_equal(ref.maxout_forward(x), torch_.y)
    np.testing.assert_array_equal(ref.maxout_backward(torch_.dy, x), torch_.gradients[0])


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_as_torch(op, torch):
    x = 3 * draw(20, 11)
    torch_ = oracle(torch, lambda x: getattr(torch.nn.functional, op)(x, 1), x)
    y = getattr(ref, f"{op}_forward")(x)
    assert_near(y, torch_.y, 20)
    assert_near(getattr(ref, f"{op}_backward")(torch_.dy, y), torch_.gradients[0], 50)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["labels", "targets", "ignore"])
def test_cross_entropy_as_torch(weighted, smoothing, kind, torch):
    rng = np.random.default_rng(1)
    scores, weight = 3 * draw(12, 5), rng.random(5) if weighted else None
    labels, targets = rng.integers(0, 5, 12), rng.dirichlet(np.ones(5), 12)
    ignore = 2 if kind == "ignore" else -100
    if kind == "ignore":
        labels[3] = 2
    given = (None, targets) if kind == "targets" else (labels, None)
    options = {
        "weight": None if weight is None else torch.tensor(weight),
        "label_smoothing": smoothing,
        "ignore_index": ignore,
    }
    tensor = torch.tensor(scores, requires_grad=True)
    goal = torch.tensor(targets if kind == "targets" else labels)
    expected = torch.nn.functional.cross_entropy(tensor, goal, **options)
    expected.backward()
    loss, dscores = ref.cross_entropy(scores, *given, weight, None, ignore, smoothing)
    assert_near(loss, expected.detach().numpy()[np.newaxis], 20)
    assert_near(dscores, tensor.grad.numpy(), 20)

    # Sample weights: torch's loss of each row, and the weighted mean by hand.
    sample_weight = rng.random(12)
    rows = torch.nn.functional.cross_entropy(torch.tensor(scores), goal, reduction="none", **options).numpy()
    share = np.ones(12) if kind == "targets" or weight is None else weight[labels]
    counts = labels != ignore if kind == "ignore" else np.ones(12, bool)
    loss, _ = ref.cross_entropy(scores, *given, weight, sample_weight, ignore, smoothing)
    assert_near(loss, [(sample_weight * rows).sum() / (sample_weight * share * counts).sum()], 20)


def test_batch_norm_as_torch(torch):
    x, weight, bias = 3 * draw(4, 5, 6, 7) + 10, draw(5, seed=1), draw(5, seed=2)
    mean, var = draw(5, seed=3), draw(5, seed=4) ** 2
    normalise = torch.nn.functional.batch_norm

    torch_ = oracle(torch, lambda x, w, b: normalise(x, None, None, w, b, True, eps=1e-3), x, weight, bias)
    y, batch_mean, batch_var = ref.batch_norm_train_forward(x, weight, bias, 1e-3, None, False)
    assert_near(y, torch_.y, 100)
    assert_near(batch_mean, x.mean(axis=(0, 2, 3)), 20)
    assert_near(batch_var, x.var(axis=(0, 2, 3)), 20)
    ours = ref.batch_norm_backward(torch_.dy, x, batch_mean, batch_var, weight, 1e-3, False, None)
    for gradient, theirs, what in zip(ours, torch_.gradients, ("dx", "dweight", "dbias"), strict=True):
        assert_near(gradient, theirs, 1000, what)  # 840 terms a channel

    running = (torch.tensor(mean), torch.tensor(var))
    torch_ = oracle(torch, lambda x, w, b: normalise(x, *running, w, b, False, eps=1e-3), x, weight, bias)
    assert_near(ref.batch_norm_forward(x, mean, var, weight, bias, 1e-3, None), torch_.y, 100)
    ours = ref.batch_norm_backward(torch_.dy, x, mean, var, weight, 1e-3, True, None)
    for gradient, theirs, what in zip(ours, torch_.gradients, ("dx", "dweight", "dbias"), strict=True):
        assert_near(gradient, theirs, 1000, what)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("window", [*WINDOWS, pairs((3, 3), (2, 2), (1, 1)), pairs((2, 4), (3, 3), (1, 2))])
def test_pooling_as_torch(window, ceil_mode, torch):
    F = torch.nn.functional
    x = draw(2, 3, 9, 10)
    torch_ = oracle(torch, lambda x: F.max_pool2d(x, *window.values(), ceil_mode), x)
    out_size = torch_.y.shape[2:]
    y, argmax = ref.max_pool2d_forward(x, **window, out_size=out_size)
    np.testing.assert_array_equal(y, torch_.y)
    assert_near(ref.max_pool2d_backward(torch_.dy, argmax, **window, in_size=(9, 10)), torch_.gradients[0], 10)

    kernel_size, stride, padding, _ = window.values()
    for include_pad in True, False:
        torch_ = oracle(torch, lambda x: F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, include_pad), x)  # noqa: B023
        y = ref.avg_pool2d_forward(x, kernel_size, stride, padding, torch_.y.shape[2:], include_pad, 0)
        assert_near(y, torch_.y, 20)
        dx = ref.avg_pool2d_backward(torch_.dy, kernel_size, stride, padding, include_pad, 0, (9, 10))
        assert_near(dx, torch_.gradients[0], 20)


def test_global_avg_pool_as_torch(torch):
    x = draw(2, 3, 9, 10)
    torch_ = oracle(torch, lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 1), x)
    assert_near(ref.global_avg_pool2d_forward(x), torch_.y, 50)
    assert_near(ref.global_avg_pool2d_backward(torch_.dy, (9, 10)), torch_.gradients[0], 4)


@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d_as_torch(x_shape, w_shape, stride, padding, dilation, groups, torch):
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)
    rule = (stride, padding, dilation, groups)
    torch_ = oracle(torch, lambda x, w, b: torch.nn.functional.conv2d(x, w, b, *rule), x, w, b)
    assert_near(ref.conv2d_forward(x, w, b, *rule, None, None, None), torch_.y, 50)
    ours = ref.conv2d_backward(torch_.dy, x, w, *rule)
    for gradient, theirs, what in zip(ours, torch_.gradients, ("dx", "dweight", "dbias"), strict=True):
        assert_near(gradient, theirs, 100, what)

    window = pairs(w_shape[2:], stride, padding, dilation)
    torch_ = oracle(torch, lambda x: torch.nn.functional.unfold(x, w_shape[2:], dilation, padding, stride), x)
    np.testing.assert_array_equal(ref.im2col_forward(x, **window), torch_.y)
    assert_near(ref.col2im_forward(torch_.dy, x_shape[2:], **window), torch_.gradients[0], 10)


def test_linear_as_torch(torch):
    x, w, b = draw(7, 9), draw(4, 9, seed=1), draw(4, seed=2)
    torch_ = oracle(torch, torch.nn.functional.linear, x, w, b)
    assert_near(ref.linear_forward(x, w, b, None), torch_.y, 20)
    assert_near(ref.linear_forward(x, w, None, ("relu",)), np.maximum(torch_.y - b, 0), 20)
    for gradient, theirs in zip(ref.linear_backward(torch_.dy, x, w), torch_.gradients, strict=True):
        assert_near(gradient, theirs, 20)


# --- float32 ----------------------------------------------------------------------------------------------------------


def test_float32_stays_float32():
    """float32 in, float32 out (a backend's writing into float32 would hide the rest), near the float64 result."""
    x, w = draw(2, 3, 5, 4).astype(np.float32), draw(4, 3, 3, 3, seed=1).astype(np.float32)
    y, rows = draw(2, 4, 5, 4, seed=2).astype(np.float32), draw(6, 5, seed=3).astype(np.float32)
    v, u = np.abs(draw(3, seed=4)).astype(np.float32), np.abs(draw(6, seed=5)).astype(np.float32)
    rule, window = ((1, 1), (1, 1), (1, 1), 1), ((2, 2), (2, 2), (0, 0))
    argmax = ref.max_pool2d_forward(x, *window, (1, 1), (2, 2))[1]
    mask = ref.dropout_forward(x, KEY, 0.3)[1]
    _, statistics = ref.group_norm_forward(x, None, None, 3, 1e-5)
    places = ref.adaptive_max_pool2d_forward(x, (3, 2))[1]
    calls = [
        ("relu_forward", x), ("relu_backward", x, x), ("leaky_relu_forward", x, 0.1),
        ("leaky_relu_backward", x, x, 0.1), ("sigmoid_forward", x), ("sigmoid_backward", x, x), ("tanh_forward", x),
        ("tanh_backward", x, x), ("elu_forward", x, 0.7), ("elu_backward", x, x, 0.7), ("gelu_forward", x),
        ("gelu_backward", x, x), ("gelu_tanh_forward", x), ("gelu_tanh_backward", x, x), ("exp_forward", x),
        ("sqrt_forward", u), ("div_forward", x, x + 9), ("matmul_forward", x[:, 0], x[:, 1], False, True),
        *((f"{op}_forward", x, *options) for op, (options, _) in ACTIVATIONS.items()),
        *((f"{op}_backward", x, x, *options) for op, (options, _) in ACTIVATIONS.items()),
        ("prelu_forward", x[0], np.ones(5, np.float32)), ("prelu_backward", x[0], x[1], np.ones(5, np.float32)),
        ("maxout_forward", x[0]), ("maxout_backward", x[0, :, 0], x[0]),
        ("add_forward", x, x, ("elu", 0.7)), ("softmax_forward", rows), ("softmax_backward", rows, rows),
        ("log_softmax_forward", rows), ("log_softmax_backward", rows, rows),
        ("cross_entropy", rows, np.arange(6) % 5, None, None, u, -100, 0.1),
        ("dropout_forward", x, KEY, 0.3), ("dropout_backward", x, mask, 0.3),
        ("batch_norm_forward", x, v, v, v, v, 1e-5, ("gelu",)), ("batch_norm_train_forward", x, v, v, 1e-5, x, True),
        ("batch_norm_backward", x, x[::-1], v, v, v, 1e-5, False, x),
        ("group_norm_forward", x, v, v, 3, 1e-5), ("group_norm_backward", x, x[::-1], statistics, v, 3, 1e-5),
        ("adaptive_max_pool2d_forward", x, (3, 2)), ("adaptive_max_pool2d_backward", x[:, :, :3, :2], places, (5, 4)),
        ("adaptive_avg_pool2d_forward", x, (3, 2)), ("adaptive_avg_pool2d_backward", x[:, :, :3, :2], (5, 4)),
        ("max_pool2d_forward", x, *window, (1, 1), (2, 2)),
        ("max_pool2d_backward", x[:, :, :2, :2], argmax, *window, (1, 1), (5, 4)),
        ("avg_pool2d_forward", x, *window, (2, 2), True, 0), ("avg_pool2d_backward", x, *window, True, 0, (10, 8)),
        ("global_avg_pool2d_forward", x), ("global_avg_pool2d_backward", x[:, :, :1, :1], (3, 3)),
        ("im2col_forward", x, (2, 2), (1, 1), (1, 1), (1, 1)),
        ("col2im_forward", np.concatenate([x] * 2, axis=2).reshape(2, 12, 10), (6, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
        ("conv2d_forward", x, w, w[:, 0, 0, 0], *rule, None, y, ("relu",)),
        ("conv2d_backward", y, x, w, *rule), ("linear_forward", rows, rows, None, ("tanh",)),
        ("linear_backward", rows, rows, rows[:5]),
    ]  # fmt: skip
    for op, *args in calls:
        wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in args]
        narrow, exact = getattr(ref, op)(*args), getattr(ref, op)(*wide)
        if not isinstance(narrow, tuple):
            narrow, exact = (narrow,), (exact,)
        for ours, truth in zip(narrow, exact, strict=True):
            if ours.shape not in {
                (1,),
                (2, 3, 2),
            }:  # a loss and statistics: float64 always
                assert ours.dtype == (np.float32 if truth.dtype == np.float64 else truth.dtype), op
            assert_near(ours.astype(np.float32), truth, 100, op)

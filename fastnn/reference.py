"""Every op in plain NumPy: the specification, and the last fallback.

Here a formula stands as one would write it on the blackboard; the other backends must give the same. Nothing is checked
(fastnn.functional has done so), nothing is cached, no array passed in is changed except where a docstring says so.

The dtype of the result is that of the input, float32 or float64; sums that decide a statistic run in float64. NaN and
infinity travel as IEEE arithmetic carries them, without warnings. Arrays of any strides come in.

Dimensions
----------
n, c, h, w      images, channels, rows and columns of x (n, c, h, w)
o, oh, ow       channels, rows and columns of y (n, o, oh, ow)
kh, kw          rows and columns of a window; kernel_size, stride, padding, dilation, *_size are pairs (rows, columns)
k, l            k = c * kh * kw rows and l = oh * ow columns of the im2col matrix
g               groups of a convolution
rows, cols      of a matrix; for `linear`, x is (rows, in) and weight (out, in)
dy, dx, dw, db  gradients of the loss by y, x, weight, bias

To add an op: one function per pass, `<op>_<pass>`, beside its kin.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = tuple[int, ...]  # (rows, columns)
Table: TypeAlias = tuple[()] | tuple[Array, Array, Array, int, int]  # see `resample`
Activation: TypeAlias = tuple[Any, ...] | None  # its name and its parameters
Pair: TypeAlias = tuple[Array, Array | None]  # a convolution's weight and bias
BatchNorm: TypeAlias = tuple[Array | None, Array | None, Array, Array, float]  # gamma, beta, mean, var, eps

_ieee = np.errstate(all="ignore")  # a decorator: infinity and NaN are results here, not accidents


# --- Activations: y = f(x), dx = dy * f'(x), element by element -------------------------------------------------------


@_ieee
def relu_forward(x: Array) -> Array:
    """y = max(x, 0); NaN stays NaN."""
    return np.maximum(x, 0)


@_ieee
def relu_backward(dy: Array, x: Array) -> Array:
    """dx = dy where x > 0, else 0 (also where x is NaN)."""
    return np.where(x > 0, dy, np.zeros((), dy.dtype))


@_ieee
def hardtanh_forward(x: Array, alpha: float, beta: float) -> Array:
    """y = min(max(x, alpha), beta)."""
    return np.minimum(np.maximum(x, alpha), beta)


@_ieee
def hardtanh_backward(dy: Array, x: Array, alpha: float, beta: float) -> Array:
    """dx = dy where alpha < x < beta, else 0."""
    return np.where((x > alpha) & (x < beta), dy, np.zeros((), dy.dtype))


@_ieee
def threshold_forward(x: Array, alpha: float, beta: float) -> Array:
    """y = beta where x <= alpha, else x."""
    return np.where(x <= alpha, x.dtype.type(beta), x)


@_ieee
def threshold_backward(dy: Array, x: Array, alpha: float, beta: float) -> Array:
    """dx = dy where x > alpha, else 0."""
    return np.where(x > alpha, dy, np.zeros((), dy.dtype))


@_ieee
def hardsigmoid_forward(x: Array) -> Array:
    """y = min(max(x + 3, 0), 6) / 6."""
    return np.minimum(np.maximum(x + 3, 0), 6) / 6


@_ieee
def hardsigmoid_backward(dy: Array, x: Array) -> Array:
    """dx = dy / 6 where -3 < x < 3, else 0."""
    return np.where((x > -3) & (x < 3), dy / 6, np.zeros((), dy.dtype))


@_ieee
def hardswish_forward(x: Array) -> Array:
    """y = x * hardsigmoid(x); -inf gives NaN (-inf * 0), as in torch."""
    return x * hardsigmoid_forward(x)


@_ieee
def hardswish_backward(dy: Array, x: Array) -> Array:
    """dx = dy * (x / 3 + 1/2) where -3 < x < 3, dy from there on, else 0."""
    return np.where(x > -3, dy * np.where(x < 3, x / 3 + 0.5, 1), np.zeros((), dy.dtype))


@_ieee
def leaky_relu_forward(x: Array, alpha: float) -> Array:
    """y = x where x > 0, else alpha * x."""
    return np.where(x > 0, x, alpha * x)


@_ieee
def leaky_relu_backward(dy: Array, x: Array, alpha: float) -> Array:
    """dx = dy where x > 0, else alpha * dy."""
    return np.where(x > 0, dy, alpha * dy)


@_ieee
def softsign_forward(x: Array) -> Array:
    """y = x / (1 + |x|); infinities give NaN."""
    return x / (1 + np.abs(x))


@_ieee
def softsign_backward(dy: Array, x: Array) -> Array:
    """dx = dy / (1 + |x|)^2."""
    return dy * np.square(1 / (1 + np.abs(x)))


@_ieee
def sigmoid_forward(x: Array) -> Array:
    """y = s(x) = 1 / (1 + exp(-x)). One branch will do: exp(-x) is infinite only where y is below the normal range."""
    return 1 / (1 + np.exp(-x))


@_ieee
def sigmoid_backward(dy: Array, x: Array) -> Array:
    """dx = dy * s(x) * s(-x); s(-x) is 1 - s(x) without the cancellation."""
    return dy * (sigmoid_forward(x) * sigmoid_forward(-x))


@_ieee
def tanh_forward(x: Array) -> Array:
    """y = tanh(x)."""
    return np.tanh(x)


@_ieee
def tanh_backward(dy: Array, x: Array) -> Array:
    """dx = dy * 4 s(2 x) s(-2 x), which is dy * (1 - tanh(x)^2) without the cancellation."""
    return dy * (4 * (sigmoid_forward(2 * x) * sigmoid_forward(-2 * x)))


@_ieee
def elu_forward(x: Array, alpha: float) -> Array:
    """y = x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x))


@_ieee
def elu_backward(dy: Array, x: Array, alpha: float) -> Array:
    """dx = dy where x > 0, else dy * alpha * exp(x)."""
    return np.where(x > 0, dy, dy * (alpha * np.exp(x)))


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


@_ieee
def selu_forward(x: Array) -> Array:
    """y = scale * elu(x, alpha), with the scale and the alpha that keep mean 0 and variance 1."""
    return _SELU_SCALE * elu_forward(x, _SELU_ALPHA)


@_ieee
def selu_backward(dy: Array, x: Array) -> Array:
    """dx = scale * dy where x > 0, else scale * dy * alpha * exp(x)."""
    return _SELU_SCALE * elu_backward(dy, x, _SELU_ALPHA)


@_ieee
def celu_forward(x: Array, alpha: float) -> Array:
    """y = x where x > 0, else alpha * (exp(x / alpha) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


@_ieee
def celu_backward(dy: Array, x: Array, alpha: float) -> Array:
    """dx = dy where x > 0, else dy * exp(x / alpha)."""
    return np.where(x > 0, dy, dy * np.exp(x / alpha))


def _normal_cdf(x: Array) -> Array:
    """Phi(x) = erfc(-x / sqrt(2)) / 2 in float64, element by element through the C library (erfc: below 1 ulp there).

    Never 1 + erf, which cancels: at x = -6 it would keep 8 of 16 digits. Rounding x / sqrt(2) costs x^2 / 2 ulp.
    """
    z = (x.astype(np.float64) / -math.sqrt(2)).ravel()
    return 0.5 * np.fromiter(map(math.erfc, z.tolist()), np.float64, z.size).reshape(x.shape)


@_ieee
def gelu_forward(x: Array) -> Array:
    """y = x * Phi(x) with Phi the normal distribution function; -inf gives NaN (-inf * 0), as in torch."""
    return (x * _normal_cdf(x)).astype(x.dtype)


@_ieee
def gelu_backward(dy: Array, x: Array) -> Array:
    """dx = dy * (Phi(x) + x * phi(x)) with phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    z = x.astype(np.float64)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return (dy * (_normal_cdf(x) + z * density)).astype(x.dtype)


# (1 + tanh(u)) / 2 = s(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3); these give 2 u.
_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR


@_ieee
def gelu_tanh_forward(x: Array) -> Array:
    """y = x * s(2 u), u = sqrt(2 / pi) * (x + 0.044715 x^3): x * (1 + tanh(u)) / 2 without the cancellation."""
    return x * sigmoid_forward(x * (_GELU_LINEAR + _GELU_CUBIC * (x * x)))


@_ieee
def gelu_tanh_backward(dy: Array, x: Array) -> Array:
    """dx = dy * (s(2 u) + x * s(2 u) * s(-2 u) * 2 u'), u as in gelu_tanh_forward."""
    square = x * x
    u2 = x * (_GELU_LINEAR + _GELU_CUBIC * square)
    slope = _GELU_LINEAR + 3 * _GELU_CUBIC * square
    s = sigmoid_forward(u2)
    return dy * (s + x * (s * sigmoid_forward(-u2)) * slope)


@_ieee
def silu_forward(x: Array) -> Array:
    """y = x * s(x) with s the logistic function; -inf gives NaN (-inf * 0), as in torch."""
    return x * sigmoid_forward(x)


@_ieee
def silu_backward(dy: Array, x: Array) -> Array:
    """dx = dy * s(x) * (1 + x * s(-x))."""
    s = sigmoid_forward(x)
    return dy * (s + x * (s * sigmoid_forward(-x)))


@_ieee
def mish_forward(x: Array) -> Array:
    """y = x * tanh(log(1 + exp(x))); -inf gives NaN (-inf * 0), as in torch."""
    return x * np.tanh(np.logaddexp(x, 0, dtype=x.dtype))


@_ieee
def mish_backward(dy: Array, x: Array) -> Array:
    """dx = dy * (t + x * (1 - t^2) * s(x)), t = tanh(p), p = log(1 + exp(x)); 1 - t^2 is 4 s(2 p) s(-2 p)."""
    p = np.logaddexp(x, 0, dtype=x.dtype)
    return dy * (np.tanh(p) + x * (tanh_backward(sigmoid_forward(x), p)))


@_ieee
def softplus_forward(x: Array, alpha: float, beta: float) -> Array:
    """y = x where alpha * x > beta, else log(1 + exp(alpha * x)) / alpha."""
    z = alpha * x
    return np.where(z > beta, x, np.logaddexp(z, 0, dtype=x.dtype) / alpha)


@_ieee
def softplus_backward(dy: Array, x: Array, alpha: float, beta: float) -> Array:
    """dx = dy where alpha * x > beta, else dy * s(alpha * x)."""
    z = alpha * x
    return np.where(z > beta, dy, dy * sigmoid_forward(z))


@_ieee
def prelu_forward(x: Array, weight: Array) -> Array:
    """y = x where x > 0, else weight * x; x is (n, c, s), weight (c,)."""
    return np.where(x > 0, x, weight[:, np.newaxis] * x)


@_ieee
def prelu_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """dx = dy where x > 0, else weight * dy; dweight (c,) sums dy * x where x is not above 0, in float64."""
    dx = np.where(x > 0, dy, weight[:, np.newaxis] * dy)
    return dx, np.where(x > 0, 0, dy * x).sum((0, 2), dtype=np.float64).astype(x.dtype)


@_ieee
def maxout_forward(x: Array) -> Array:
    """y (n, s) = the largest of the pieces of x (n, pieces, s); NaN if one is NaN."""
    return np.max(x, axis=1)


@_ieee
def maxout_backward(dy: Array, x: Array) -> Array:
    """dx (n, pieces, s) = dy where x is the first of the largest, else 0."""
    dx = np.zeros_like(x)
    np.put_along_axis(dx, np.argmax(x, axis=1, keepdims=True), dy[:, np.newaxis], axis=1)
    return dx


@_ieee
def exp_forward(x: Array) -> Array:
    """y = exp(x)."""
    return np.exp(x)


@_ieee
def sqrt_forward(x: Array) -> Array:
    """y = sqrt(x), NaN below 0."""
    return np.sqrt(x)


def _activate(x: Array, activation: Activation) -> Array:
    """The end of a fused op: the activation of that name and parameters, or x itself."""
    if activation is None:
        return x
    name, *parameters = activation
    return globals()[f"{name}_forward"](x, *parameters)


# --- Element-wise arithmetic ------------------------------------------------------------------------------------------


@_ieee
def add_forward(a: Array, b: Array, activation: Activation) -> Array:
    """y = activation(a + b), all of one shape."""
    return _activate(a + b, activation)


@_ieee
def mul_forward(a: Array, b: Array) -> Array:
    """y = a b, both of one shape."""
    return a * b


@_ieee
def div_forward(a: Array, b: Array) -> Array:
    """y = a / b, both of one shape."""
    return a / b


@_ieee
def scale_add(x: Array, scale_x: float, scale_y: float, y: Array) -> None:
    """y = scale_x * x + scale_y * y in place; scale_y = 0 does not read y (NaN in it does not survive)."""
    y[...] = scale_x * x if scale_y == 0 else scale_x * x + scale_y * y


def fill(value: float, y: Array) -> None:
    """y = value in place."""
    y[...] = value


@_ieee
def copy(x: Array, accumulate: bool, y: Array) -> None:
    """y = x, or with `accumulate` y = y + x, in place; any strides on either side."""
    y[...] = y + x if accumulate else x


# --- Softmax and cross-entropy along the rows of a matrix -------------------------------------------------------------


def _shifted(x: Array) -> Array:
    """x minus the maximum of its row: exp cannot overflow, the quotient does not change."""
    return x - np.max(x, axis=1, keepdims=True, initial=-np.inf)


@_ieee
def softmax_forward(x: Array) -> Array:
    """y = exp(x) / sum(exp(x)) along each row of x (rows, cols). +inf, or nothing but -inf, makes the row NaN."""
    e = np.exp(_shifted(x))
    return e / e.sum(axis=1, keepdims=True)


@_ieee
def softmax_backward(dy: Array, y: Array) -> Array:
    """dx = y * (dy - sum(dy * y)) along each row, from the output y of the forward pass."""
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))


@_ieee
def log_softmax_forward(x: Array) -> Array:
    """y = x - log(sum(exp(x))) along each row of x (rows, cols)."""
    z = _shifted(x)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


@_ieee
def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dx = dy - exp(y) * sum(dy) along each row, from the output y of the forward pass."""
    return dy - np.exp(y) * dy.sum(axis=1, keepdims=True)


@_ieee
def cross_entropy(
    scores: Array,
    labels: Array | None,
    targets: Array | None,
    weight: Array | None,
    sample_weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    """Mean cross-entropy of softmax(scores) and its gradient, as torch defines it, with sample weights added.

    With e = label_smoothing, lp = log_softmax(scores), row i and class j:

    - labels: loss_i = sum_j weight_ij * -lp_ij where weight_ij = (1 - e) * weight_j [j = label_i] + e / cols * weight_j
      and share_i = weight[label_i]. A row whose label is ignore_index has loss, share and gradient 0, whatever its
      scores are. Without smoothing the other classes are no terms, not zero times something.
    - targets: loss_i = sum_j weight_ij * -lp_ij where weight_ij = weight_j * ((1 - e) * targets_ij + e / cols)
      and share_i = 1.
    - loss = sum_i sample_weight_i * loss_i / sum_i sample_weight_i * share_i; NaN where the denominator is 0.
    - dscores_ij = (softmax(scores)_ij * sum_j weight_ij - weight_ij) * sample_weight_i / (the same denominator).

    Parameters
    ----------
    scores : (rows, cols)
    labels : (rows,) int64, or None
    targets : (rows, cols) probabilities, or None; exactly one of labels and targets is given
    weight : (cols,), or None for ones
    sample_weight : (rows,), or None for ones
    ignore_index : a label that does not count, inside [0, cols) or not
    label_smoothing : e in [0, 1]

    Returns
    -------
    loss : (1,) float64
    dscores : (rows, cols)
    """
    rows, cols = scores.shape
    lp = log_softmax_forward(scores.astype(np.float64))  # float32 overflows near its end, and inf times 0 is NaN
    class_weight = np.ones(cols) if weight is None else weight.astype(np.float64)
    row_weight = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)

    if labels is not None:
        counts = labels != ignore_index
        label = np.where(counts, labels, 0)
        hot = label[:, np.newaxis] == np.arange(cols)
        weights = np.where(hot, (1 - label_smoothing) * class_weight, 0) + label_smoothing / cols * class_weight
        share = np.where(counts, class_weight[label], 0)
        terms = np.where(hot | (label_smoothing > 0), weights * -lp, 0)
    else:
        assert targets is not None
        counts = share = np.ones(rows, bool)
        weights = class_weight * ((1 - label_smoothing) * targets + label_smoothing / cols)
        terms = weights * -lp

    row_weight = np.where(counts, row_weight, 0)
    total = (row_weight * share).sum()
    total = total if total != 0 else np.nan
    loss = (row_weight * np.where(counts, terms.sum(axis=1), 0)).sum() / total
    slope = np.exp(lp) * weights.sum(axis=1, keepdims=True) - weights
    dscores = np.where(counts[:, np.newaxis], slope * (row_weight / total)[:, np.newaxis], 0)
    return np.array([loss]), dscores.astype(scores.dtype)


@_ieee
def hinge(
    scores: Array, labels: Array, weight: Array | None, sample_weight: Array | None, margin: float, ignore_index: int
) -> tuple[Array, Array]:
    """Multi-class SVM loss of Weston and Watkins, as CS231n teaches it, and its gradient.

    With z_ij = (scores_ij - scores_iy) + margin and y = labels_i: loss_i = weight_y * sum_{j != y} max(0, z_ij);
    loss = sum_i sample_weight_i * loss_i / sum_i sample_weight_i; each z_ij > 0, j != y, has the gradient
    sample_weight_i * weight_y / sum_i sample_weight_i by scores_ij, and the opposite by scores_iy. Rows whose label is
    ignore_index count in no sum, and have the gradient 0.

    Parameters
    ----------
    scores : (rows, cols)
    labels : (rows,) int64
    weight : (cols,), or None for ones
    sample_weight : (rows,), or None for ones
    margin : the distance that costs nothing

    Returns
    -------
    loss : (1,) float64
    dscores : (rows, cols)
    """
    rows, cols = scores.shape
    counts = labels != ignore_index
    labels = np.where(counts, labels, 0)
    others = (labels[:, np.newaxis] != np.arange(cols)) & counts[:, np.newaxis]
    z = (scores - scores[np.arange(rows), labels][:, np.newaxis]) + scores.dtype.type(margin)
    row_weight = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    total = row_weight[counts].sum()
    row_weight = np.where(counts, row_weight if weight is None else row_weight * weight[labels], 0)
    terms = np.where(others, np.maximum(z, 0), 0).sum(axis=1, dtype=np.float64)
    dscores = np.where(others & (z > 0), (row_weight / total)[:, np.newaxis], 0)
    dscores[np.arange(rows), labels] = -dscores.sum(axis=1)
    return np.array([(row_weight * terms).sum() / total]), dscores.astype(scores.dtype)


# --- Losses element by element: the mean of l(scores, targets) over all of (rows, cols), and its gradient -------------


def _mean_loss(terms: Array, slope: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """sum_i sample_weight_i * terms_ij / (cols * sum_i sample_weight_i), and what that makes of the slope."""
    rows, cols = terms.shape
    row_weight = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    total = row_weight.sum() * cols
    loss = (row_weight * terms.sum(axis=1, dtype=np.float64)).sum() / total
    return np.array([loss]), (slope * (row_weight / total)[:, np.newaxis]).astype(terms.dtype)


@_ieee
def mse(scores: Array, targets: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """l = d^2 with d = scores - targets, both (rows, cols); sample_weight (rows,) or None; loss is (1,) float64."""
    d = scores - targets
    return _mean_loss(d * d, 2 * d, sample_weight)


@_ieee
def l1(scores: Array, targets: Array, sample_weight: Array | None) -> tuple[Array, Array]:
    """l = |d| with the slope sign(d), 0 at 0; else as `mse`."""
    d = scores - targets
    return _mean_loss(np.abs(d), np.sign(d), sample_weight)


@_ieee
def huber(scores: Array, targets: Array, sample_weight: Array | None, delta: float) -> tuple[Array, Array]:
    """l = d^2 / 2 where |d| <= delta, else delta * (|d| - delta / 2); else as `mse`."""
    d = scores - targets
    q = np.minimum(np.abs(d), d.dtype.type(delta))
    return _mean_loss(q * (np.abs(d) - q / 2), np.clip(d, -delta, delta), sample_weight)


@_ieee
def binary_cross_entropy_with_logits(
    scores: Array, targets: Array, weight: Array | None, pos_weight: Array | None, sample_weight: Array | None
) -> tuple[Array, Array]:
    """l = -(1 - t) log s(-x) - pos_weight * t log s(x), x = scores, t = targets, s(x) = 1 / (1 + exp(-x)).

    -log s(-x) = max(x, 0) + log(1 + exp(-|x|)), and the slope is (1 - t) s(x) - pos_weight * t s(-x): of terms of one
    sign where t is 0 or 1, so that nothing cancels. Both are multiplied by weight. weight and pos_weight (cols,) or
    None for ones; else as `mse`.
    """
    negative, positive = 1 - targets, targets if pos_weight is None else pos_weight * targets
    rest = np.log1p(np.exp(-np.abs(scores)))
    terms = negative * (np.maximum(scores, 0) + rest) + positive * (np.maximum(-scores, 0) + rest)
    slope = negative * sigmoid_forward(scores) - positive * sigmoid_forward(-scores)
    if weight is not None:
        terms, slope = terms * weight, slope * weight
    return _mean_loss(terms, slope, sample_weight)


# --- Random bits and dropout ------------------------------------------------------------------------------------------

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: Array, key: Array) -> Array:
    """Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    Parameters
    ----------
    counter : (..., 4) uint32
    key : (2,) uint32

    Returns
    -------
    words : (..., 4) uint32
    """
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = (int(k) for k in key)
    for _ in range(10):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> _32) ^ c1 ^ np.uint64(k0), b & _LOW, (a >> _32) ^ c3 ^ np.uint64(k1), a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_bits(key: Array, size: int) -> Array:
    """Word i of the stream: word i % 4 of Philox block i // 4, under the counter (block, stream) and the key seed.

    Parameters
    ----------
    key : (2,) uint64, [seed, stream]; each of these and the block number goes in as (low, high) half
    size : int

    Returns
    -------
    out : (size,) uint32
    """
    seed, stream = key.astype(np.uint64)
    block = np.arange((size + 3) // 4, dtype=np.uint64)
    halves = [block & _LOW, block >> _32, np.full_like(block, stream & _LOW), np.full_like(block, stream >> _32)]
    words = philox4x32(np.stack(halves, axis=-1), np.stack([seed & _LOW, seed >> _32]))
    return words.ravel()[:size]


def _keep(key: Array, size: int, p: float) -> Array:
    """(size,) bool, where dropout keeps: draw >= p, in 16 bits if p is a multiple of 2^-16, else in 32."""
    if (p * 2**16).is_integer():
        words = random_bits(key, (size + 1) // 2)
        draws = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1).ravel()[:size]
        return draws >= int(p * 2**16)
    return random_bits(key, size) >= min(round(p * 2**32), 2**32 - 1)


def _dropout(x: Array, keep: Array, p: float) -> Array:
    """x / (1 - p) where kept, else 0."""
    scale = x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return np.where(keep.reshape(x.shape), x * scale, np.zeros((), x.dtype))


@_ieee
def dropout_forward(x: Array, key: Array, p: float) -> tuple[Array, Array]:
    """y = x / (1 - p) where the mask bit is 1, else 0; p is the probability to drop, p = 1 gives zeros.

    Draw i belongs to element i in C order. If p is a multiple of 2^-16 it has 16 bits, half i % 2 (the low half first)
    of word i // 2 of `random_bits`, and keeps from p * 2^16 on. Otherwise it is word i and keeps from p * 2^32 on,
    rounded half to even and at most 2^32 - 1.

    Parameters
    ----------
    x : any shape
    key : (2,) uint64, [seed, stream]
    p : in [0, 1]

    Returns
    -------
    y : the shape of x
    mask : (ceil(size / 8),) uint8; element i is bit i % 8 of byte i // 8, unused bits are 0. Saved for backward.
    """
    keep = _keep(key, x.size, float(p))
    return _dropout(x, keep, p), np.packbits(keep, bitorder="little")


@_ieee
def dropout_backward(dy: Array, mask: Array, p: float) -> Array:
    """dx = dy / (1 - p) where the mask bit is 1, else 0."""
    return _dropout(dy, np.unpackbits(mask, count=dy.size, bitorder="little").astype(bool), p)


def _drop_rows(x: Array, keep: Array, p: float) -> Array:
    """x / (1 - p) in the rows that are kept, else 0."""
    return _dropout(x, np.broadcast_to(keep[:, np.newaxis], x.shape), p)


@_ieee
def stochastic_depth_forward(x: Array, key: Array, p: float) -> tuple[Array, Array]:
    """Row i of y is that of x / (1 - p) where the mask bit is 1, else 0; x (rows, cols), p the probability to drop.

    The mask (ceil(rows / 8),) uint8 is what `dropout_forward` would draw for one element of each row.
    """
    keep = _keep(key, len(x), float(p))
    return _drop_rows(x, keep, p), np.packbits(keep, bitorder="little")


@_ieee
def stochastic_depth_backward(dy: Array, mask: Array, p: float) -> Array:
    """Row i of dx is that of dy / (1 - p) where the mask bit is 1, else 0."""
    return _drop_rows(dy, np.unpackbits(mask, count=len(dy), bitorder="little").astype(bool), p)


# --- Batch normalisation over n, h, w ---------------------------------------------------------------------------------


def _per_channel(v: Array) -> Array:
    """(c,) -> (c, 1, 1), to broadcast against (n, c, h, w)."""
    return v[:, np.newaxis, np.newaxis]


def _channel_sum(x: Array) -> Array:
    """(n, c, h, w) -> (c,), summed in float64."""
    return x.sum(axis=(0, 2, 3), dtype=np.float64)


@_ieee
def batch_norm_forward(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    activation: Activation,
) -> Array:
    """y = activation((x - mean) / sqrt(var + eps) * weight + bias); x and y are (n, c, h, w), the vectors (c,)."""
    scale = (1 if weight is None else weight) / np.sqrt(var + eps)
    y = (x - _per_channel(mean)) * _per_channel(scale)
    if bias is not None:
        y = y + _per_channel(bias)
    return _activate(y, activation)


@_ieee
def batch_norm_train_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float, residual: Array | None, relu: bool
) -> tuple[Array, Array, Array]:
    """batch_norm_forward by the batch's own statistics, plus a residual, and max(.., 0) of that with `relu`.

    Returns
    -------
    y : (n, c, h, w)
    mean, var : (c,), var the biased one, divided by n * h * w. Saved for backward.
    """
    n, _, h, w = x.shape
    count = np.float64(n * h * w)
    mean64 = _channel_sum(x) / count
    var64 = _channel_sum(np.square(x - _per_channel(mean64))) / count
    mean, var = mean64.astype(x.dtype), var64.astype(x.dtype)
    # By the statistics in float64: rounded to float32, the variance of values beyond 1e19 is infinite.
    y = batch_norm_forward(x, mean64, var64, weight, bias, eps, None).astype(x.dtype)
    if residual is not None:
        y = y + residual
    return relu_forward(y) if relu else y, mean, var


@_ieee
def batch_norm_backward(
    dy: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, frozen: bool, y: Array | None
) -> tuple[Array, Array, Array]:
    """With xhat = (x - mean) / sqrt(var + eps), m = n * h * w and sums per channel: db = sum(dy), dw = sum(dy * xhat);

    - mean and var of the batch itself: dx = weight / sqrt(var + eps) * (dy - db / m - xhat * dw / m);
    - mean and var constants (`frozen`): dx = weight / sqrt(var + eps) * dy.

    Where `y`, the result of a forward pass that ended in ReLU, is not positive, dy counts as 0.

    Returns
    -------
    dx : (n, c, h, w)
    dweight, dbias : (c,)
    """
    n, _, h, w = x.shape
    if y is not None:
        dy = relu_backward(dy, y)
    inverse = 1 / np.sqrt(var + eps)
    xhat = (x - _per_channel(mean)) * _per_channel(inverse)
    db, dw = _channel_sum(dy), _channel_sum(dy * xhat)
    dx = dy
    if not frozen:
        count = np.float64(n * h * w)
        dx = dy - _per_channel((db / count).astype(x.dtype)) - xhat * _per_channel((dw / count).astype(x.dtype))
    scale = inverse if weight is None else weight * inverse
    return dx * _per_channel(scale), dw.astype(x.dtype), db.astype(x.dtype)


# --- Group normalisation: layer norm is h = w = 1 with one group, instance norm c groups ------------------------------


def _by_groups(x: Array, groups: int) -> Array:
    """(n, c, h, w) -> (n, groups, c / groups, h, w) in float64."""
    n, c, h, w = x.shape
    return x.astype(np.float64).reshape(n, groups, c // groups, h, w)


def _normalised(x: Array, statistics: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """(x - mean) / sqrt(var + eps) and 1 / sqrt(var + eps), grouped, in float64."""
    mean, var = (statistics[..., i, np.newaxis, np.newaxis, np.newaxis] for i in (0, 1))
    inverse = 1 / np.sqrt(var + eps)
    return (_by_groups(x, groups) - mean) * inverse, inverse


@_ieee
def group_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float
) -> tuple[Array, Array]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias, by the mean and biased variance of each group of channels.

    Parameters
    ----------
    x : (n, c, h, w)
    weight, bias : (c,) or None

    Returns
    -------
    y : (n, c, h, w)
    statistics : (n, groups, 2) float64, mean and var. Saved for backward.
    """
    grouped = _by_groups(x, groups)
    mean = grouped.mean((2, 3, 4), keepdims=True)
    var = np.square(grouped - mean).mean((2, 3, 4))
    statistics = np.stack([mean[..., 0, 0, 0], var], -1)
    y = _normalised(x, statistics, groups, eps)[0].reshape(x.shape)
    if weight is not None:
        y = y * _per_channel(weight)
    if bias is not None:
        y = y + _per_channel(bias)
    return y.astype(x.dtype), statistics


@_ieee
def group_norm_backward(
    dy: Array, x: Array, statistics: Array, weight: Array | None, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """With xhat = (x - mean) / sqrt(var + eps), g = dy * weight and means over each group:

    dx = (g - mean(g) - xhat * mean(g * xhat)) / sqrt(var + eps); db = sum(dy), dw = sum(dy * xhat) over n, h, w.

    Returns
    -------
    dx : (n, c, h, w)
    dweight, dbias : (c,)
    """
    xhat, inverse = _normalised(x, statistics, groups, eps)
    g = _by_groups(dy if weight is None else dy * _per_channel(weight).astype(np.float64), groups)
    means = (v.mean((2, 3, 4), keepdims=True) for v in (g, g * xhat))
    dx = (g - next(means) - xhat * next(means)) * inverse
    dw, db = _channel_sum(dy * xhat.reshape(x.shape)), _channel_sum(dy)
    return dx.reshape(x.shape).astype(x.dtype), dw.astype(x.dtype), db.astype(x.dtype)


# --- Windows: pooling, im2col, convolution ----------------------------------------------------------------------------

Window: TypeAlias = tuple[Any, slice, slice]


def _taps(
    in_size: Size, out_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Iterator[tuple[int, Window, Window]]:
    """Tap by tap of a window: its number kh * KW + kw, and the parts of y and of x that it joins.

    Window i meets x at i * stride - padding + tap * dilation. What would meet the padding is left out, so y[out] and
    x[inside] have one shape, which may be empty.
    """

    def joined(axis: int, tap: int) -> tuple[slice, slice]:
        step, offset = stride[axis], tap * dilation[axis] - padding[axis]
        first = max(0, -(offset // step))  # ceil(-offset / step)
        last = min(out_size[axis] - 1, (in_size[axis] - 1 - offset) // step)
        if last < first:
            return slice(0, 0), slice(0, 0)
        return slice(first, last + 1), slice(first * step + offset, last * step + offset + 1, step)

    for kh in range(kernel_size[0]):
        for kw in range(kernel_size[1]):
            (out_h, in_h), (out_w, in_w) = joined(0, kh), joined(1, kw)
            yield kh * kernel_size[1] + kw, (..., out_h, out_w), (..., in_h, in_w)


@_ieee
def max_pool2d_forward(
    x: Array, kernel_size: Size, stride: Size, padding: Size, dilation: Size, out_size: Size
) -> tuple[Array, Array]:
    """Maximum of each window. Padding never wins; NaN wins over all numbers; of equal ones the first.

    Returns
    -------
    y : (n, c, oh, ow); -inf where a window lies in the padding altogether
    argmax : (n, c, oh, ow), position kh * KW + kw inside the window; uint8 for windows up to 255, else int32.
        Saved for backward.
    """
    shape = (*x.shape[:2], *out_size)
    y = np.full(shape, -np.inf, x.dtype)
    argmax = np.full(shape, -1, np.int32)
    for tap, out, inside in _taps(x.shape[2:], out_size, kernel_size, stride, padding, dilation):
        best, new = y[out], x[inside]
        wins = (new > best) | (np.isnan(new) & ~np.isnan(best)) | (argmax[out] < 0)
        y[out] = np.where(wins, new, best)
        argmax[out] = np.where(wins, tap, argmax[out])
    return y, np.maximum(argmax, 0).astype(np.uint8 if kernel_size[0] * kernel_size[1] <= 255 else np.int32)


@_ieee
def max_pool2d_backward(
    dy: Array, argmax: Array, kernel_size: Size, stride: Size, padding: Size, dilation: Size, in_size: Size
) -> Array:
    """dx (n, c, h, w): each element of x gets the sum of dy over the windows that it won."""
    dx = np.zeros((*dy.shape[:2], *in_size), dy.dtype)
    for tap, out, inside in _taps(in_size, dy.shape[2:], kernel_size, stride, padding, dilation):
        dx[inside] += np.where(argmax[out] == tap, dy[out], np.zeros((), dy.dtype))
    return dx


def _divisor(
    in_size: Size, out_size: Size, kernel_size: Size, stride: Size, padding: Size, count_include_pad: bool, divisor: int
) -> Array:
    """(oh, ow) float64: `divisor`, or with 0 the elements of each window, as torch counts them.

    With count_include_pad the window reaches to the end of the padding (ceil_mode may let it hang over even that), else
    it is cut to x itself. At least 1: an average over nothing is 0.
    """
    if divisor:
        return np.full(out_size, divisor, np.float64)

    def lengths(axis: int) -> Array:
        begin = np.arange(out_size[axis]) * stride[axis] - padding[axis]
        end = np.minimum(begin + kernel_size[axis], in_size[axis] + padding[axis])
        return end - begin if count_include_pad else np.minimum(end, in_size[axis]) - np.maximum(begin, 0)

    return np.maximum(np.maximum(lengths(0), 0)[:, np.newaxis] * np.maximum(lengths(1), 0), 1.0)


@_ieee
def avg_pool2d_forward(
    x: Array, kernel_size: Size, stride: Size, padding: Size, out_size: Size, count_include_pad: bool, divisor: int
) -> Array:
    """y (n, c, oh, ow) = sum over the window / divisor, or with 0 / its number of elements.

    Padding counts as elements only with count_include_pad.
    """
    total = np.zeros((*x.shape[:2], *out_size), x.dtype)
    for _, out, inside in _taps(x.shape[2:], out_size, kernel_size, stride, padding, (1, 1)):
        total[out] += x[inside]
    count = _divisor(x.shape[2:], out_size, kernel_size, stride, padding, count_include_pad, divisor)
    return total / count.astype(x.dtype)


@_ieee
def avg_pool2d_backward(
    dy: Array, kernel_size: Size, stride: Size, padding: Size, count_include_pad: bool, divisor: int, in_size: Size
) -> Array:
    """dx (n, c, h, w): each element of x gets the sum of dy / divisor over the windows that hold it."""
    dx = np.zeros((*dy.shape[:2], *in_size), dy.dtype)
    out_size = dy.shape[2:]
    count = _divisor(in_size, out_size, kernel_size, stride, padding, count_include_pad, divisor)
    share = dy / count.astype(dy.dtype)
    for _, out, inside in _taps(in_size, out_size, kernel_size, stride, padding, (1, 1)):
        dx[inside] += share[out]
    return dx


def _spans(in_size: Size, out_size: Size) -> Iterator[tuple[Window, Window]]:
    """Window by window: its place in y and its part of x, floor(i in / out) to ceil((i + 1) in / out) on each axis."""
    for i, j in np.ndindex(*out_size):
        rows, cols = (
            slice(k * size // out, -(-(k + 1) * size // out))
            for k, size, out in zip((i, j), in_size, out_size, strict=True)
        )
        yield (..., slice(i, i + 1), slice(j, j + 1)), (..., rows, cols)


@_ieee
def adaptive_max_pool2d_forward(x: Array, out_size: Size) -> tuple[Array, Array]:
    """Maximum of each of oh * ow parts of x; NaN wins over all numbers; of equal ones, and of NaNs, the first.

    Returns
    -------
    y : (n, c, oh, ow)
    argmax : (n, c, oh, ow) int64, position h * W + w in the plane. Saved for backward.
    """
    shape = (*x.shape[:2], *out_size)
    y, argmax = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    position = np.arange(x.shape[2] * x.shape[3]).reshape(x.shape[2:])
    for out, inside in _spans(x.shape[2:], out_size):
        part = x[inside].reshape(*x.shape[:2], -1)
        first = np.argmax(part, -1)[..., np.newaxis]  # of NumPy's too the first NaN, or the first of equal ones
        y[out] = np.take_along_axis(part, first, -1)[..., np.newaxis]
        argmax[out] = position[inside[1:]].ravel()[first][..., np.newaxis]
    return y, argmax


@_ieee
def adaptive_max_pool2d_backward(dy: Array, argmax: Array, in_size: Size) -> Array:
    """dx (n, c, h, w): each element of x gets the sum of dy over the windows that it won."""
    n, c = dy.shape[:2]
    dx = np.zeros((n, c, in_size[0] * in_size[1]), dy.dtype)
    image, channel = np.arange(n)[:, np.newaxis, np.newaxis], np.arange(c)[:, np.newaxis]
    np.add.at(dx, (image, channel, argmax.reshape(n, c, -1)), dy.reshape(n, c, -1))
    return dx.reshape(n, c, *in_size)


@_ieee
def adaptive_avg_pool2d_forward(x: Array, out_size: Size) -> Array:
    """y (n, c, oh, ow) = the mean of each of oh * ow parts of x, which overlap where they do not divide it evenly."""
    y = np.empty((*x.shape[:2], *out_size), x.dtype)
    for out, inside in _spans(x.shape[2:], out_size):
        y[out] = x[inside].mean((2, 3), keepdims=True)
    return y


@_ieee
def adaptive_avg_pool2d_backward(dy: Array, in_size: Size) -> Array:
    """dx (n, c, h, w): each element of x gets the sum of dy / elements over the windows that hold it."""
    dx = np.zeros((*dy.shape[:2], *in_size), dy.dtype)
    for out, inside in _spans(in_size, dy.shape[2:]):
        part = dx[inside]
        part += dy[out] / dy.dtype.type(part.shape[2] * part.shape[3])
    return dx


@_ieee
def global_avg_pool2d_forward(x: Array) -> Array:
    """y (n, c, 1, 1) = sum of x (n, c, h, w) over h and w / (h * w), summed in float64."""
    h, w = x.shape[2:]
    return (x.sum(axis=(2, 3), keepdims=True, dtype=np.float64) / np.float64(h * w)).astype(x.dtype)


@_ieee
def global_avg_pool2d_backward(dy: Array, in_size: Size) -> Array:
    """dx (n, c, h, w) = dy (n, c, 1, 1) / (h * w), everywhere."""
    h, w = in_size
    return np.broadcast_to(dy / dy.dtype.type(h * w), (*dy.shape[:2], h, w)).copy()


def _out_size(in_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size) -> Size:
    """(oh, ow) of a convolution: floor((h + 2 * padding - dilation * (kh - 1) - 1) / stride) + 1, and so for w."""
    rule = zip(in_size, kernel_size, stride, padding, dilation, strict=True)
    return tuple((size + 2 * pad - apart * (taps - 1) - 1) // step + 1 for size, taps, step, pad, apart in rule)


def im2col_forward(x: Array, kernel_size: Size, stride: Size, padding: Size, dilation: Size) -> Array:
    """The windows of x (n, c, h, w) as columns: y (n, k, l), row (c * KH + kh) * KW + kw, column oh * OW + ow.

    Zero where a window meets the padding. As torch.nn.functional.unfold.
    """
    n, c = x.shape[:2]
    oh, ow = _out_size(x.shape[2:], kernel_size, stride, padding, dilation)
    kh, kw = kernel_size
    cols = np.zeros((n, c, kh * kw, oh, ow), x.dtype)
    for tap, out, inside in _taps(x.shape[2:], (oh, ow), kernel_size, stride, padding, dilation):
        cols[:, :, tap][out] = x[inside]
    return cols.reshape(n, c * kh * kw, oh * ow)


@_ieee
def col2im_forward(
    cols: Array, out_size: Size, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> Array:
    """The transpose of im2col: x (n, c, h, w) of out_size (h, w), each element the sum of its places in cols (n, k, l).

    As torch.nn.functional.fold.
    """
    kh, kw = kernel_size
    oh, ow = _out_size(out_size, kernel_size, stride, padding, dilation)
    n, c = cols.shape[0], cols.shape[1] // (kh * kw)
    windows = cols.reshape(n, c, kh * kw, oh, ow)
    x = np.zeros((n, c, *out_size), cols.dtype)
    for tap, out, inside in _taps(out_size, (oh, ow), kernel_size, stride, padding, dilation):
        x[inside] += windows[:, :, tap][out]
    return x


def _grouped(matrix: Array, groups: int) -> Array:
    """(n, g * rows, cols) -> (n, g, rows, cols)."""
    n, rows, cols = matrix.shape
    return matrix.reshape(n, groups, rows // groups, cols)


@_ieee
def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    batch_norm: BatchNorm | None,
    residual: Array | None,
    activation: Activation,
) -> Array:
    """y = activation(batch_norm(conv(x, weight) + bias) + residual), every part but conv optional.

    conv is the cross-correlation y[n, o, l] = sum_k weight[o, k] * im2col(x)[n, k, l], group by group. Padding is zeros
    that take part: an infinite weight makes NaN of them.

    Parameters
    ----------
    x : (n, c, h, w)
    weight : (o, c / g, kh, kw)
    bias : (o,), or None
    batch_norm : (gamma, beta, mean, var, eps) with vectors (o,), gamma and beta or None; or None
    residual : (n, o, oh, ow), or None

    Returns
    -------
    y : (n, o, oh, ow)
    """
    n, (o, _, kh, kw) = x.shape[0], weight.shape
    out_size = _out_size(x.shape[2:], (kh, kw), stride, padding, dilation)
    cols = _grouped(im2col_forward(x, (kh, kw), stride, padding, dilation), groups)
    y = (_grouped(weight.reshape(1, o, cols.shape[2]), groups) @ cols).reshape(n, o, *out_size)
    if bias is not None:
        y = y + _per_channel(bias)
    if batch_norm is not None:
        gamma, beta, mean, var, eps = batch_norm
        y = batch_norm_forward(y, mean, var, gamma, beta, eps, None)
    if residual is not None:
        y = y + residual
    return _activate(y, activation)


@_ieee
def inverted_residual_forward(
    x: Array,
    expand: Pair | None,
    depthwise: Pair,
    project: Pair,
    stride: Size,
    padding: Size,
    residual: Array | None,
    activations: tuple[Activation, Activation, Activation],
) -> Array:
    """Three convolutions: 1x1 to the hidden channels (where ``expand`` is given), depthwise, 1x1.

    Each of ``expand``, ``depthwise`` and ``project`` is (weight, bias or None), and ends in its activation; the
    residual is added before the last.

    Parameters
    ----------
    x : (n, c, h, w)
    expand : weight (m, c, 1, 1), or None: then m == c
    depthwise : weight (m, 1, kh, kw)
    project : weight (o, m, 1, 1)

    Returns
    -------
    y : (n, o, oh, ow)
    """
    one, none = (1, 1), (0, 0)
    if expand is not None:
        x = conv2d_forward(x, *expand, one, none, one, 1, None, None, activations[0])
    x = conv2d_forward(x, *depthwise, stride, padding, one, x.shape[1], None, None, activations[1])
    return conv2d_forward(x, *project, one, none, one, 1, None, residual, activations[2])


def conv2d_backward(
    dy: Array, x: Array, weight: Array, stride: Size, padding: Size, dilation: Size, groups: int
) -> tuple[Array, Array, Array]:
    """Gradients of conv(x, weight) + bias, group by group:

    dx = col2im(weight^T @ dy), dweight = sum over n of dy @ im2col(x)^T, dbias = sum of dy over n, oh, ow.

    Returns
    -------
    dx : (n, c, h, w)
    dweight : (o, c / g, kh, kw)
    dbias : (o,)
    """
    n, (o, _, kh, kw) = x.shape[0], weight.shape
    cols = _grouped(im2col_forward(x, (kh, kw), stride, padding, dilation), groups)
    dy_rows = _grouped(dy.reshape(n, o, cols.shape[3]), groups)
    dweight = (dy_rows @ cols.swapaxes(2, 3)).sum(axis=0).reshape(weight.shape)
    dcols = _grouped(weight.reshape(1, o, cols.shape[2]), groups).swapaxes(2, 3) @ dy_rows
    dx = col2im_forward(
        dcols.reshape(n, groups * cols.shape[2], cols.shape[3]), x.shape[2:], (kh, kw), stride, padding, dilation
    )
    return dx, dweight, _channel_sum(dy).astype(dy.dtype)


@_ieee
def conv_transpose2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    out_size: Size,
    activation: Activation,
) -> Array:
    """y = activation(col2im(weight^T @ x) + bias), group by group: what conv2d_backward gives as dx when x is dy.

    Parameters
    ----------
    x : (n, c, h, w)
    weight : (c, o / g, kh, kw)
    bias : (o,), or None
    out_size : (oh, ow), of which the convolution with this stride, padding and dilation makes (h, w)

    Returns
    -------
    y : (n, o, oh, ow)
    """
    n, (c, o, kh, kw) = x.shape[0], weight.shape
    pixels = _grouped(x.reshape(n, c, x.shape[2] * x.shape[3]), groups)
    cols = weight.reshape(1, groups, c // groups, o * kh * kw).swapaxes(2, 3) @ pixels
    cols = cols.reshape(n, groups * cols.shape[2], cols.shape[3])
    y = col2im_forward(cols, out_size, (kh, kw), stride, padding, dilation)
    return _activate(y if bias is None else y + _per_channel(bias), activation)


# --- Interpolation and padding: a sparse matrix for each axis ---------------------------------------------------------


@_ieee
def resample(x: Array, rows: Table, columns: Table, value: float) -> Array:
    """y[o, i, j, k] = sum over s, t of columns[j, t] rows[i, s] x[o, s, t, k], rows first.

    A table is (begin, index, weight, first, last): row i of the matrix has weight[begin[i] : begin[i + 1]] in the
    columns index[...] and nothing elsewhere, not even zeros that would make NaN of infinities. Where it has nothing at
    all the output is `value`. (From first to last its rows are those of an identity, for who can use that.) An empty
    table is the identity.

    Parameters
    ----------
    x : (outer, h, w, inner)

    Returns
    -------
    y : (outer, oh, ow, inner)
    """
    y = _sparse_product(columns, _sparse_product(rows, x, 1, value), 2, value)
    if rows:  # a row without taps is `value`, whatever the columns' weights
        y[:, np.diff(rows[0]) == 0] = value
    return y


def _sparse_product(table: Table, x: Array, axis: int, value: float) -> Array:
    if not table:
        return x.copy()
    begin, index, weight, _, _ = table
    y = np.full((*x.shape[:axis], begin.size - 1, *x.shape[axis + 1 :]), value, x.dtype)
    counts = np.diff(begin)
    before: Any = (slice(None),) * axis
    for tap in range(counts.max(initial=0)):
        rows = np.flatnonzero(counts > tap)
        taps = begin[rows] + tap
        terms = weight[taps].reshape(-1, *[1] * (x.ndim - axis - 1)) * x[(*before, index[taps])]
        y[(*before, rows)] = terms if tap == 0 else y[(*before, rows)] + terms
    return y


# --- Linear -----------------------------------------------------------------------------------------------------------


@_ieee
def matmul_forward(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array:
    """y[i] (m, n) = a[i] (m, k) @ b[i] (k, n) for every i; what is transposed comes as (k, m), (n, k)."""
    return (a.swapaxes(1, 2) if transpose_a else a) @ (b.swapaxes(1, 2) if transpose_b else b)


@_ieee
def linear_forward(x: Array, weight: Array, bias: Array | None, activation: Activation) -> Array:
    """y (rows, out) = activation(x (rows, in) @ weight (out, in)^T + bias (out,)); bias may be None."""
    y = x @ weight.T
    return _activate(y if bias is None else y + bias, activation)


@_ieee
def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """dx (rows, in) = dy @ weight, dweight (out, in) = dy^T @ x, dbias (out,) = sum of dy over rows (in float64)."""
    return dy @ weight, dy.T @ x, dy.sum(axis=0, dtype=np.float64).astype(dy.dtype)


# --- Optimizer steps over a flat buffer -------------------------------------------------------------------------------


def _live_segments(segments: Array) -> Iterator[tuple[slice, float, float]]:
    """(slice, rate factor, weight decay) of each row (begin, end, rate factor, weight decay) that is not frozen."""
    for begin, end, rate, decay in segments.tolist():
        if rate != 0:
            yield slice(int(begin), int(end)), rate, decay


@_ieee
def sgd_step(grad: Array, hyper: Array, segments: Array, param: Array, velocity: Array | None) -> None:
    """Stochastic gradient descent with momentum, as torch.optim.SGD without dampening; param and velocity in place.

    g = grad + decay * factor * param;  v = momentum * v + g;  param -= lr * rate * v, or with nesterov
    param -= lr * rate * (g + momentum * v).
    Without velocity the step is lr * rate * g. A segment with rate 0 is frozen: nothing of it changes.

    Parameters
    ----------
    grad, param, velocity : (size,); velocity may be None where momentum is 0
    hyper : (4,) float64, [lr, momentum, nesterov, weight-decay factor]
    segments : (n_segments, 4) float64, rows (begin, end, rate, decay)
    """
    lr, momentum, nesterov, factor = hyper.tolist()
    for part, rate, decay in _live_segments(segments):
        step = g = grad[part] + (decay * factor) * param[part]
        if velocity is not None:
            velocity[part] = momentum * velocity[part] + g
            step = g + momentum * velocity[part] if nesterov else velocity[part]
        param[part] -= (lr * rate) * step


@_ieee
def adam_step(grad: Array, hyper: Array, segments: Array, param: Array, m: Array, v: Array) -> None:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) where `decoupled`; param, m and v in place.

    g = grad + decay * param, or decoupled: g = grad and first param -= lr * rate * decay * param;
    m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g^2;
    param -= lr * rate * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps).
    A segment with rate 0 is frozen: nothing of it changes.

    Parameters
    ----------
    grad, param, m, v : (size,)
    hyper : (6,) float64, [lr, beta1, beta2, eps, step (from 1), decoupled]
    segments : (n_segments, 4) float64, rows (begin, end, rate, decay)
    """
    lr, beta1, beta2, eps, step, decoupled = hyper.tolist()
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    for part, rate, decay in _live_segments(segments):
        g = grad[part]
        if decoupled:
            param[part] *= 1 - lr * rate * decay  # as torch: an infinity stays one
        else:
            g = g + decay * param[part]
        m[part] += (1 - beta1) * (g - m[part])
        v[part] = beta2 * v[part] + (1 - beta2) * (g * g)
        param[part] -= (lr * rate / correction1) * m[part] / (np.sqrt(v[part] / correction2) + eps)


@_ieee
def adagrad_step(grad: Array, hyper: Array, segments: Array, param: Array, sum: Array) -> None:
    """Adagrad (Duchi, Hazan & Singer 2011), as torch.optim.Adagrad; param and sum in place.

    g = grad + decay * param;  sum += g^2;  param -= lr * rate * g / (sqrt(sum) + eps).

    Parameters
    ----------
    grad, param, sum : (size,)
    hyper : (2,) float64, [lr, eps]
    segments : (n_segments, 4) float64, rows (begin, end, rate, decay); rate 0 is frozen
    """
    lr, eps = hyper.tolist()
    for part, rate, decay in _live_segments(segments):
        g = grad[part] + decay * param[part]
        sum[part] += g * g
        param[part] -= (lr * rate) * g / (np.sqrt(sum[part]) + eps)


@_ieee
def rmsprop_step(
    grad: Array, hyper: Array, segments: Array, param: Array, square: Array, velocity: Array | None
) -> None:
    """RMSProp (Tieleman & Hinton 2012), as torch.optim.RMSprop; param, square and velocity in place.

    g = grad + decay * param;  square = alpha * square + (1 - alpha) * g^2;  d = g / (sqrt(square) + eps);
    velocity = momentum * velocity + d;  param -= lr * rate * velocity, or without velocity lr * rate * d.

    Parameters
    ----------
    grad, param, square, velocity : (size,); velocity may be None where momentum is 0
    hyper : (4,) float64, [lr, alpha, eps, momentum]
    segments : (n_segments, 4) float64, rows (begin, end, rate, decay); rate 0 is frozen
    """
    lr, alpha, eps, momentum = hyper.tolist()
    for part, rate, decay in _live_segments(segments):
        g = grad[part] + decay * param[part]
        square[part] = alpha * square[part] + (1 - alpha) * (g * g)
        step = g / (np.sqrt(square[part]) + eps)
        if velocity is not None:
            step = velocity[part] = momentum * velocity[part] + step
        param[part] -= (lr * rate) * step


# --- What else is done to a flat buffer, in place ---------------------------------------------------------------------


@_ieee
def penalty(param: Array, segments: Array, grad: Array | None, loss: Array) -> None:
    """L1 and L2 penalties: loss += sum(l1 * |param| + l2 / 2 * param^2) and grad += l1 * sign(param) + l2 * param.

    Parameters
    ----------
    param, grad : (size,); grad may be None
    segments : (n_segments, 4) float64, rows (begin, end, l1, l2); a row of two zeros does nothing
    loss : (1,) float64
    """
    for begin, end, l1, l2 in segments.tolist():
        if l1 or l2:
            p = param[int(begin) : int(end)]
            wide = p.astype(np.float64)
            loss += l1 * np.abs(wide).sum() + l2 / 2 * (wide * wide).sum()
            if grad is not None:
                grad[int(begin) : int(end)] += l1 * np.sign(p) + l2 * p


@_ieee
def square_sum(x: Array, segments: Array, total: Array) -> None:
    """total (1,) float64 += the sum of x^2 over the segments that are not frozen."""
    for part, _, _ in _live_segments(segments):
        total += np.square(x[part].astype(np.float64)).sum()


@_ieee
def clip_norm(total: Array, limit: Array, segments: Array, x: Array) -> None:
    """x *= min(1, limit / (sqrt(total) + 1e-6)) where it is not frozen, as torch's clip_grad_norm_; NaN stays NaN."""
    ratio = limit[0] / (np.sqrt(total[0]) + 1e-6)
    if not ratio >= 1:
        for part, _, _ in _live_segments(segments):
            x[part] *= x.dtype.type(ratio)


@_ieee
def clip_value(limit: Array, segments: Array, x: Array) -> None:
    """x = x clamped to [-limit, limit] where it is not frozen; NaN stays NaN."""
    for part, _, _ in _live_segments(segments):
        x[part] = np.clip(x[part], -limit[0], limit[0])


@_ieee
def max_norm(segments: Array, param: Array) -> None:
    """Units whose norm is above limit are scaled to it; segments rows (begin, end, outer, inner, limit).

    A row is an array (outer, units, inner), of which each [:, unit, :] is a unit.
    """
    for begin, end, outer, inner, limit in segments.tolist():
        if begin < end:
            units = param[int(begin) : int(end)].reshape(int(outer), -1, int(inner))
            norm = np.sqrt(np.square(units.astype(np.float64)).sum(axis=(0, 2), keepdims=True))
            units[...] = np.where(norm > limit, units * (limit / norm).astype(param.dtype), units)

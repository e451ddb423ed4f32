"""How far a result may be from the float64 reference: a bound for each op, computed from the case itself.

A bound is an absolute error for each element in units of eps, the spacing of the dtype at 1 (one rounding costs at most
half of it); ``allowed`` makes the tolerance. EXACT asks for the reference's value, rounded once. Functions named after
an op take its arrays a and options o (as in cases.py, float64) and its outputs y, and give a bound for each output.
The ingredients:

- chain(k), a sum of k products in any order: its error is at most k / 2 eps times the sum of |a b|, and with roundings
  of random sign 2 sqrt(k) eps is not exceeded (Higham and Mary, SIAM J. Sci. Comput. 41, 2019, with lambda = 4). How
  much smaller errors are on average is test_accuracy.py's affair.
- FUNCTION, an exp, tanh or erf: NumPy's float32 exp errs by 2.5 ulp, the goal of the kernels is 2, and the float64
  reference, by which float64 is judged, errs as well. 4 covers each.
- The condition: where an argument was rounded, the result moves by |f'| times that.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnn.functional as F
from engines import NUMPY
from fastnn._resampling import Matrix

Array = npt.NDArray[Any]
Arrays = dict[str, Any]
Bounds = tuple[Any, ...]

FUNCTION = 4.0
EXACT = None

#: What is below the smallest normal number may be flushed to zero, and then be multiplied by |x| or dy. Where
#: intermediates are that small, |x| is below 128 in float32 and 1024 in float64, and |dy| below 8.
FLUSH = 8 * 1024


def allowed(bound: Any, dtype: np.dtype[Any]) -> Any:
    """The tolerance for results of ``dtype``, None for EXACT; where the bound is not finite, that of flushing alone."""
    if bound is EXACT:
        return None
    info = np.finfo(dtype)
    scaled = np.nan_to_num(np.asarray(bound, np.float64), nan=0.0, posinf=0.0) * float(info.eps)
    return scaled + FLUSH * float(info.tiny)


def chain(k: Any) -> Any:
    """A sum of k terms, in eps of the sum of their magnitudes."""
    return 1.0 + 2.0 * np.sqrt(k)


def exact(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (EXACT,) * len(y)


# ---- activations ----------------------------------------------------------------------------------------------------

#: the steepest slope of each, where it is not 1 (of leaky_relu, elu, celu also |alpha|)
SLOPES = {
    "sigmoid": 0.25,
    "hardsigmoid": 0.17,
    "hardswish": 1.5,
    "selu": 1.76,
    "mish": 1.1,
    "silu": 1.1,
} | dict.fromkeys(("gelu", "gelu_tanh"), 1.13)

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _gelu_tanh_parts(x: Array) -> tuple[Array, Array, Array]:
    """2 u and s(2 u), s(-2 u): gelu_tanh is x s(2 u)."""
    u2 = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return u2, F.sigmoid(u2), F.sigmoid(-u2)


def activation(name: str | None, x: Array, y: Array, alpha: float = 1.0) -> Any:
    """Error of y = f(x), x being exact."""
    with np.errstate(all="ignore"), NUMPY.on():
        match name:
            case None | "relu":
                return EXACT
            case "leaky_relu" | "hardtanh" | "threshold":  # alpha is rounded to the dtype, then the product
                factor: Any = 2.0
            case "hardsigmoid" | "hardswish" | "softsign":  # a sum, a quotient of two roundings, a product
                factor = 4.0
            case "elu" | "selu":
                factor = FUNCTION + 2
            case "celu" | "softplus":  # a rounded parameter, a product and a quotient more: exp moves by that times x
                factor = FUNCTION + 4 + 2 * np.abs(np.where(x > 0, 0, alpha * x if name == "softplus" else x / alpha))
            case "silu":  # the reference's quotient too
                factor = FUNCTION + 2
            case "mish":  # two functions
                factor = 2 * FUNCTION
            case "gelu":  # rounding 1 / sqrt 2 and x / sqrt 2 moves erfc in its tail by x^2; the reference does so too
                factor = FUNCTION + 2 * np.square(x)
            case "gelu_tanh":  # rounding 2 u three times moves exp by 2 |2 u|
                factor = FUNCTION + 2 + 2 * np.abs(_gelu_tanh_parts(x)[0])
            case _:
                factor = FUNCTION
        return factor * np.abs(y)


def activation_backward(name: str, dy: Array, x: Array, dx: Array, alpha: float = 1.0) -> Any:
    """Error of dx = dy f'(x)."""
    with np.errstate(all="ignore"), NUMPY.on():
        match name:
            case "relu" | "hardtanh" | "threshold":
                return EXACT
            case "leaky_relu":
                return 2 * np.abs(dx)
            case "selu":  # as below; a positive x that is flushed to 0 gets the other slope, for the slope jumps there
                flushed = (x > 0) & (x < float(np.finfo(np.float32).tiny))
                return (2 * FUNCTION + 2) * np.abs(dx) + np.where(flushed, 2.0**52 * np.abs(dy), 0)
            case "hardsigmoid":  # dy / 6
                return np.abs(dx)
            case "hardswish":  # dy (x / 3 + 1/2), terms of opposite sign for x < 0
                return 2 * np.abs(dy) * (np.abs(np.clip(x, -3, 3)) / 3 + 1)
            case "softsign":  # a sum and a quotient, squared
                return 6 * np.abs(dx)
            case "celu" | "softplus":
                z = np.where(x > 0, 0, alpha * x if name == "softplus" else x / alpha)
                return (2 * FUNCTION + 2 + 2 * np.abs(z)) * np.abs(dx)
            case "silu":  # dy (s + x s(x) s(-x))
                return np.abs(dy) * (F.sigmoid(x) + np.abs(x) * F.sigmoid(x) * F.sigmoid(-x)) * (2 * FUNCTION + 4)
            case "mish":  # dy (t + x (1 - t^2) s(x)), all of them quotients of sums of one exponential
                t = np.tanh(np.logaddexp(x, 0))
                terms = t + np.abs(x) * F.tanh_backward(F.sigmoid(x), np.logaddexp(x, 0))
                return np.abs(dy) * terms * (3 * FUNCTION)
            case "gelu":  # dy (Phi + x phi), terms of opposite sign for x < 0
                terms = _erfc(-x / math.sqrt(2)) / 2 + np.abs(x) * np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)
                return np.abs(dy) * terms * 2 * (FUNCTION + np.square(x))
            case "gelu_tanh":  # dy (s + x s(2u) s(-2u) 2u')
                u2, s, t = _gelu_tanh_parts(x)
                slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * np.square(x))
                return np.abs(dy) * (s + np.abs(x) * s * t * slope) * (2 * FUNCTION + 6 + 4 * np.abs(u2))
            case _:  # two functions and up to four products
                return (2 * FUNCTION + 2) * np.abs(dx)


def activated(o: Arrays, z: Array, z_error: Any, y: Array) -> Any:
    """Error of y = activation(z), z being off by z_error."""
    given = o.get("activation")
    name, alpha = given[:2] if isinstance(given, tuple) else (given, 1.0)
    own = activation("hardtanh" if name == "relu6" else name, z, y, alpha)
    steepest = abs(alpha) if name in ("leaky_relu", "elu") else 0.0
    return (0.0 if own is EXACT else own) + max(SLOPES.get(name, 1.0), steepest) * z_error


def prelu_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """dx is a product; dweight sums products over all but the channels."""
    x, n = a["x"], a["weight"].size
    terms = np.where(x > 0, 0, np.abs(a["dy"] * x))
    axes = tuple(i for i in range(x.ndim) if n == 1 or i != 1)
    return 2 * np.abs(y[0]), (1 + chain(x.size / max(n, 1))) * terms.sum(axes).reshape(n)


def exp(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (FUNCTION * np.abs(y[0]),)


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def add(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    z = a["a"] + a["b"]
    return (activated(o, z, np.abs(z), y[0]),)


def mul(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (np.abs(y[0]),)  # one rounding


def scale_add(a: Arrays, o: Arrays, y: Bounds) -> Bounds:  # factors rounded to the dtype, two products, a sum
    terms = abs(o["scale_x"]) * np.abs(a["x"])
    return (2 * (terms if o["scale_y"] == 0 else terms + abs(o["scale_y"]) * np.abs(a["y"])),)


def copy(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (np.abs(y[0]) if o["accumulate"] else EXACT,)


# ---- softmax --------------------------------------------------------------------------------------------------------


def _shift(x: Array, axis: int) -> tuple[Array, Any]:
    """|x - max(x)|, whose rounding moves exp by as much, and its largest finite value where exp is not 0."""
    z = np.abs(x - x.max(axis, keepdims=True, initial=-np.inf))
    counts = np.where(z < 800, z, 0.0)
    return counts, counts.max(axis, keepdims=True, initial=0.0)


def softmax(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    x, axis = a["x"], o.get("axis", -1)
    with np.errstate(invalid="ignore"):
        z, most = _shift(x, axis)
    return (np.abs(y[0]) * (2 * FUNCTION + z + most + chain(x.shape[axis])),)


def softmax_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    dy, out, axis = np.abs(a["dy"]), np.abs(a["y"]), o.get("axis", -1)
    return (out * (2 * dy + (chain(out.shape[axis]) + 2) * (dy * out).sum(axis, keepdims=True)),)


def log_softmax(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    x, axis = a["x"], o.get("axis", -1)
    with np.errstate(invalid="ignore"):
        _, most = _shift(x, axis)
    return (np.abs(y[0]) + FUNCTION + most + chain(x.shape[axis]) + FUNCTION * math.log(x.shape[axis] + 1),)


def log_softmax_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    dy, out, axis = np.abs(a["dy"]), a["y"], o.get("axis", -1)
    return (dy + np.exp(out) * (2 * FUNCTION + chain(out.shape[axis])) * dy.sum(axis, keepdims=True),)


def cross_entropy(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """Both outputs are sums over classes of weight times log-probability, or probability, over a sum of weights."""
    scores, labels = a["scores"], a["labels"]
    rows, cols = scores.shape
    with np.errstate(all="ignore"), NUMPY.on():
        lp = F.log_softmax(scores)
        lp_error = log_softmax({"x": scores}, {}, (lp,))[0]
        z = _shift(scores, 1)[0]
    class_weight = np.abs(a.get("weight", np.ones(cols)))
    sample_weight = np.abs(a.get("sample_weight", np.ones(rows)))
    smooth = o.get("label_smoothing", 0.0)
    if labels.ndim == 1:
        counts = labels != o.get("ignore_index", -100)
        hot = np.where(counts, labels, 0)[:, None] == np.arange(cols)
        share = (hot * class_weight).sum(1) * counts
        target = (1 - smooth) * hot + smooth / cols
    else:
        share, counts = np.ones(rows), np.ones(rows, bool)
        target = np.abs((1 - smooth) * labels + smooth / cols)
    weights = class_weight * target
    per_row = sample_weight * counts / (sample_weight * share).sum()
    factor = lp_error + chain(cols) + chain(rows) + 4
    with np.errstate(invalid="ignore"):
        terms = np.where((weights > 0) & counts[:, None], weights * factor * (1 + np.abs(lp)), 0)
    loss = (per_row * terms.sum(1)).sum()
    slope = np.exp(lp) * weights.sum(1, keepdims=True) + weights
    return loss, per_row[:, None] * slope * (factor + z)


def _sample_weights(a: Arrays, rows: int) -> tuple[Array, Any]:
    """Sample weights as magnitudes, and the denominator that they make: a sum over the rows, in float64."""
    weights = a.get("sample_weight", np.ones(rows))
    return np.abs(weights), np.abs(weights.sum())


def element_loss(name: str) -> Callable[[Arrays, Arrays, Bounds], Bounds]:
    """For mean(l(x - t)): d = x - t is rounded, then a few products; the sums count in float64."""

    def bound(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
        x = a["scores"]
        if not x.size:
            return 0.0, np.zeros(x.shape)
        t = a["targets"].reshape(x.shape)
        with np.errstate(all="ignore"), NUMPY.on():
            d = np.abs(x - t)
            if name == "mse":
                loss, slope = 3 * d * d, 4 * d
            elif name == "l1":
                loss, slope = 2 * d, np.ones_like(d)
            elif name == "huber":  # delta is rounded too; the slope at |d| = delta is continuous
                q = np.minimum(d, o.get("delta", 1.0))
                loss, slope = 6 * q * d, 3 * q
            else:  # e^-|x|, its logarithm and 1 - t, each times at most three weights
                p = np.abs(a.get("pos_weight", np.ones(1)))
                u, v, rest = np.abs(1 - t), p * np.abs(t), np.log1p(np.exp(-np.abs(x)))
                softplus = np.maximum(x, 0) + rest, np.maximum(-x, 0) + rest
                w = np.abs(a.get("weight", np.ones(1)))
                loss = (2 * FUNCTION + 5) * w * (u * softplus[0] + v * softplus[1])
                slope = (2 * FUNCTION + 5) * w * (u * F.sigmoid(x) + v * F.sigmoid(-x))
        weights, total = _sample_weights(a, len(x))
        share = (weights / (total * (x.size // len(x)))).reshape(-1, *[1] * (x.ndim - 1))
        return (2 + chain(x.size)) * (share * loss).sum(), (4 + chain(len(x))) * share * slope

    return bound


def hinge(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """z = (s_j - s_y) + margin, each rounded; a gradient is a whole number times a weight."""
    s, labels, margin = a["scores"], a["labels"], o.get("margin", 1.0)
    if not s.size:
        return 0.0, np.zeros(s.shape)
    counts = labels != o.get("ignore_index", -100)
    labels = np.where(counts, labels, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        d = s - s[np.arange(len(s)), labels][:, np.newaxis]
        terms = np.where(d + margin > 0, 2 * (np.abs(d) + abs(margin)), 0)
        weights = np.where(counts, _sample_weights(a, len(s))[0], 0.0)
        share = weights * np.abs(a.get("weight", np.ones(s.shape[1])))[labels] / weights.sum()
        return (2 + chain(s.size)) * (share * terms.sum(1)).sum(), (3 + chain(len(s))) * np.abs(y[1])


# ---- dropout and optimizers -----------------------------------------------------------------------------------------


def dropout(a: Arrays, o: Arrays, y: Bounds) -> Bounds:  # the scale is rounded, then the product; masks are exact
    return (np.abs(y[0]), *(EXACT for _ in y[1:]))


def sgd(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """g, velocity and step: four products and sums each, of these terms."""
    lr, momentum, nesterov, factor = o["hyper"]
    rate, decay = _per_element(o, a["param"].size)
    g = np.abs(a["grad"]) + decay * factor * np.abs(a["param"])
    v = momentum * np.abs(a["velocity"]) + g if "velocity" in a else g
    step = g + momentum * v if nesterov else v
    live = rate != 0
    return (live * (np.abs(a["param"]) + 6 * lr * rate * step), *([live * 4 * v] if "velocity" in a else []))


def adam(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """The step m / (sqrt(v) + eps) errs by a dozen roundings of itself, and by those of a sum in m that cancels."""
    lr, beta1, beta2, eps, t, decoupled = o["hyper"]
    rate, decay = _per_element(o, a["param"].size)
    g = np.abs(a["grad"]) + (0 if decoupled else decay * np.abs(a["param"]))
    m, v = beta1 * np.abs(a["m"]) + (1 - beta1) * g, beta2 * a["v"] + (1 - beta2) * g * g
    # y's second moment is in the denominator; g itself may have cancelled there, so its error counts relative to v.
    root = np.sqrt(y[2] / (1 - beta2**t)) + eps
    step = m / (1 - beta1**t) / root
    relative = 12 + 4 * v / np.where(y[2] > 0, y[2], 1)
    live = rate != 0
    return live * (2 * np.abs(a["param"]) + lr * rate * step * relative), live * 4 * m, live * 6 * v


def adagrad(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """The step g / (sqrt(s) + eps) errs by half a dozen roundings of itself, and where g = grad + decay p cancels."""
    lr, _ = o["hyper"]
    rate, decay = _per_element(o, a["param"].size)
    g = np.abs(a["grad"]) + decay * np.abs(a["param"])
    s = a["sum"] + g * g
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(g > 0, g / np.sqrt(y[1]), 0.0)
        relative = 8 + 4 * s / np.where(y[1] > 0, y[1], 1)
    live = rate != 0
    return live * (2 * np.abs(a["param"]) + lr * rate * step * relative), live * 6 * s


def rmsprop(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """As adagrad, with the mean square, and a product and a sum more for the velocity."""
    lr, alpha, _, momentum = o["hyper"]
    rate, decay = _per_element(o, a["param"].size)
    g = np.abs(a["grad"]) + decay * np.abs(a["param"])
    s = alpha * a["square"] + (1 - alpha) * g * g
    live = rate != 0
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(live & (g > 0), g / np.sqrt(y[1]) * (8 + 4 * s / y[1]), 0.0)
    if "velocity" not in a:
        return live * (2 * np.abs(a["param"]) + lr * rate * step), live * 6 * s
    v = step + 3 * (momentum * np.abs(a["velocity"]) + np.abs(y[2]))
    return live * (2 * np.abs(a["param"]) + lr * rate * v), live * 6 * s, live * v


def _per_element(o: Arrays, size: int) -> tuple[Array, Array]:
    """Rate factor and decay of each element, from the segments."""
    rate, decay = np.zeros(size), np.zeros(size)
    for begin, end, r, d in o["segments"]:
        rate[int(begin) : int(end)], decay[int(begin) : int(end)] = r, d
    return rate, decay


# ---- regularisation over flat buffers -------------------------------------------------------------------------------


def penalty(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """The loss is a sum of products, in float64 as test_regularization.py sees; the gradient two products and sums."""
    l1, l2 = _per_element(o, a["param"].size)
    with np.errstate(all="ignore"):
        terms = np.where(l1 + l2 > 0, l1 * np.abs(a["param"]) + l2 * np.square(a["param"]), 0.0)
        loss = (chain(a["param"].size) + 3) * (0.5 + terms.sum())
        return (loss, *([3 * (np.abs(a["grad"]) + l1 + l2 * np.abs(a["param"]))] if "grad" in a else []))


def square_sum(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return ((chain(a["x"].size) + 1) * np.abs(y[0]),)


def clip_norm(a: Arrays, o: Arrays, y: Bounds) -> Bounds:  # the factor is rounded, then the product
    return (np.abs(y[0]),)


def clip_value(a: Arrays, o: Arrays, y: Bounds) -> Bounds:  # the limit is rounded
    return (0.5 * np.abs(y[0]),)


def max_norm(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """As clip_norm, and half of the error of the sum of squares. Next to the limit scaling or not is within it too."""
    longest = max((outer * inner for _, _, outer, inner, _ in o["segments"]), default=0)
    return ((2 + chain(longest) / 2) * np.abs(y[0]),)


# ---- batch normalisation --------------------------------------------------------------------------------------------


def _channels(v: Array, like: Array) -> Array:
    return v.reshape(-1, *(1,) * (like.ndim - 2))


def _normalised(x: Array, mean: Array, var: Array, weight: Any, bias: Any, eps: float, mean_e: Any, var_e: Any) -> Any:
    """Error of (x - mean) / sqrt(var + eps) * weight + bias; a folded x * scale + shift rounds x and mean apart."""
    scale = np.abs(1.0 if weight is None else weight) / np.sqrt(var + eps)
    apart = 3 * (np.abs(x) + np.abs(_channels(mean, x))) + _channels(mean_e, x)
    own = np.abs(x - _channels(mean, x)) * _channels(var_e / (var + eps), x)
    return _channels(scale, x) * (apart + own) + (0.0 if bias is None else 2 * _channels(np.abs(bias), x))


def batch_norm(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    x, mean, var, weight, bias, eps = a["x"], a["mean"], a["var"], a.get("weight"), a.get("bias"), o.get("eps", 1e-5)
    with np.errstate(all="ignore"), NUMPY.on():
        z = F.batch_norm(x, mean, var, weight, bias, eps)
        error = _normalised(x, mean, var, weight, bias, eps, np.zeros_like(mean), 2 * var)
    return (activated(o, z, error, y[0]),)


def _statistics(x: Array) -> tuple[Array, Array]:
    """Errors of the mean and the variance over all axes but the second."""
    axes = (0, *range(2, x.ndim))
    m = x.size // max(x.shape[1], 1)
    if m == 0:
        return np.zeros(x.shape[1]), np.zeros(x.shape[1])
    var = x.var(axes)
    mean_e = chain(m) * np.abs(x).mean(axes)
    # The sum of squares about a mean that was rounded gains the square of that error (here with eps of float32).
    return mean_e, 2 * chain(m) * var + 2.0**-23 * np.square(mean_e)


def batch_norm_train(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    x, eps = a["x"], o.get("eps", 1e-5)
    mean_e, var_e = _statistics(x)
    error = _normalised(x, y[1], y[2], a.get("weight"), a.get("bias"), eps, mean_e, var_e)
    if "residual" in a:  # the sum is rounded once more; ReLU never enlarges an error
        error = error + np.abs(a["residual"])
    return error, mean_e, var_e


def batch_norm_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    dy, x, mean, var, eps = np.abs(a["dy"]), a["x"], a["mean"], a["var"], o.get("eps", 1e-5)
    if "y" in a:
        dy = np.where(a["y"] > 0, dy, 0.0)
    axes = (0, *range(2, x.ndim))
    m = x.size // max(x.shape[1], 1)
    inverse = _channels(1 / np.sqrt(var + eps), x)
    xhat = np.abs(x - _channels(mean, x)) * inverse
    xhat_e = 4 * (np.abs(x) + np.abs(_channels(mean, x))) * inverse
    db, dw = dy.sum(axes), (dy * xhat).sum(axes)
    dw_e = chain(m) * dw + (dy * xhat_e).sum(axes)
    scale = inverse if "weight" not in a else inverse * _channels(np.abs(a["weight"]), x)
    dx_e = 6 * dy
    if not o.get("frozen", False):
        mean_dy, mean_dw = _channels(db / m, x), _channels(dw / m, x)
        dx_e = dx_e + (chain(m) + 4) * mean_dy + 6 * xhat * mean_dw + xhat_e * mean_dw + xhat * _channels(dw_e / m, x)
    return scale * dx_e, dw_e, chain(m) * db


# ---- layer, group and instance normalisation ------------------------------------------------------------------------


def _groups(x: Array, o: Arrays) -> tuple[int, Callable[[Array], Array], Callable[[Any], Any]]:
    """The size of a group; the mean over each group, in x's shape; a vector of the affine map in x's rank."""
    if "normalized_shape" in o:
        shape = o["normalized_shape"]
        m, affine = int(np.prod(shape)), lambda v: v
    else:
        m = x.size // max(1, len(x) * (o.get("num_groups") or x.shape[1]))
        affine = lambda v: _channels(v, x)  # noqa: E731

    def mean(v: Array) -> Array:
        rows = np.broadcast_to(v, x.shape).reshape(-1, max(m, 1))
        return np.broadcast_to(rows.mean(1, keepdims=True), rows.shape).reshape(x.shape)

    return max(m, 1), mean, affine


def _group_statistics(a: Arrays, o: Arrays) -> Any:
    """inverse = 1 / sqrt(var + eps), its relative error, |xhat| and its error; then what _groups returns."""
    x, eps = a["x"], o.get("eps", 1e-5)
    m, mean, affine = _groups(x, o)
    mean_e = chain(m) * mean(np.abs(x))
    d = x - mean(x)
    var = mean(np.square(d))
    inverse = 1 / np.sqrt(var + eps)
    # As in _statistics: the mean's own error enters the variance by its square.
    inverse_e = 2 + (chain(m) * var + 2.0**-23 * np.square(mean_e)) / (var + eps)
    xhat = np.abs(d) * inverse
    return inverse, inverse_e, xhat, xhat * (2 + inverse_e) + mean_e * inverse, m, mean, affine


def group_norm(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with np.errstate(all="ignore"):
        _, _, xhat, xhat_e, _, _, affine = _group_statistics(a, o)
        weight = affine(np.abs(a["weight"])) if "weight" in a else 1.0
        bias = affine(np.abs(a["bias"])) if "bias" in a else 0.0
        return (weight * (xhat_e + xhat) + 2 * bias,)


def group_norm_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """dx = inverse (g - mean(g) - xhat mean(g xhat)), g = dy weight; each of the three terms with its own error."""
    with np.errstate(all="ignore"):
        inverse, inverse_e, xhat, xhat_e, m, mean, affine = _group_statistics(a, o)
        dy = np.abs(a["dy"])
        g = dy * (affine(np.abs(a["weight"])) if "weight" in a else 1.0)
        mean_g, mean_gx = mean(g), mean(g * xhat)
        terms = g + mean_g + xhat * mean_gx
        third = xhat * (chain(m) * mean_gx + mean(g * xhat_e)) + xhat_e * mean_gx
        dx_e = inverse * ((6 + inverse_e) * terms + chain(m) * mean_g + third)
        axes = tuple(range(a["x"].ndim - y[1].ndim)) if "normalized_shape" in o else (0, *range(2, a["x"].ndim))
        many = chain(a["x"].size // max(y[1].size, 1))
        return dx_e, many * (dy * xhat).sum(axes) + (dy * xhat_e).sum(axes), many * dy.sum(axes)


# ---- windows --------------------------------------------------------------------------------------------------------


def _magnitudes(a: Arrays) -> Arrays:
    return {name: np.abs(x) for name, x in a.items()}


def _taps(o: Arrays) -> int:
    k = o["kernel_size"]
    return k * k if isinstance(k, int) else k[0] * k[1]


def avg_pool2d(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        return ((chain(_taps(o)) + 1) * np.abs(F.avg_pool2d(np.abs(a["x"]), **o)),)


def avg_pool2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        return ((chain(_taps(o)) + 1) * np.abs(F.avg_pool2d_backward(np.abs(a["dy"]), **o)),)


def max_pool2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        return (chain(_taps(o)) * F.max_pool2d_backward(np.abs(a["dy"]), a["x"], **o),)


def _parts(size: tuple[int, ...], parts: tuple[int, ...]) -> int:
    """How many elements a part of an image of ``size`` has at most; a part of ceil(n) may begin within an element."""
    return math.prod(-(-n // p) + 1 for n, p in zip(size, parts, strict=True))


def adaptive_avg_pool2d(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        taps = _parts(a["x"].shape[2:], y[0].shape[2:])
        return ((chain(taps) + 1) * F.adaptive_avg_pool2d(np.abs(a["x"]), **o),)


def adaptive_avg_pool2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """A sum over the windows that hold an element, of dy divided by rows and by columns."""
    with NUMPY.on():
        windows = _parts(a["dy"].shape[2:], y[0].shape[2:])
        return ((chain(windows) + 2) * F.adaptive_avg_pool2d_backward(np.abs(a["dy"]), **o),)


def adaptive_max_pool2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        windows = _parts(a["dy"].shape[2:], y[0].shape[2:])
        return (chain(windows) * F.adaptive_max_pool2d_backward(np.abs(a["dy"]), a["x"], **o),)


def global_avg_pool2d(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (chain(math.prod(a["x"].shape[2:])) * np.abs(a["x"]).mean((2, 3), keepdims=True),)


def one_product(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (2 * np.abs(y[0]),)


def col2im(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with NUMPY.on():
        return (chain(_taps(o)) * F.col2im(np.abs(a["cols"]), **o),)


def conv2d(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """chain(k) for k = C / groups * kh * kw, then the epilogue's roundings of each of its terms."""
    geometry = {name: o[name] for name in ("stride", "padding", "dilation", "groups") if name in o}
    plain = {name: a[name] for name in ("x", "weight", "bias") if name in a}
    conv = F.conv2d if a["x"].ndim == 4 else F.conv1d
    with np.errstate(all="ignore"), NUMPY.on():
        size = conv(**_magnitudes(plain), **geometry)
        error = chain(math.prod(a["weight"].shape[1:])) * size
        z = conv(**plain, **geometry)
        if "mean" in a:
            scale = _channels(np.abs(a.get("gamma", 1.0)) / np.sqrt(a["var"] + o["eps"]), z)
            error = scale * (error + 4 * (size + _channels(np.abs(a["mean"]), z)))
            z = F.batch_norm(z, a["mean"], a["var"], a.get("gamma"), a.get("beta"), o["eps"])
            if "beta" in a:
                error = error + 2 * _channels(np.abs(a["beta"]), z)
        if "residual" in a:
            z = z + a["residual"]
            error = error + np.abs(a["residual"])
    return (activated(o, z, error + np.abs(z), y[0]),)


def inverted_residual(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """Three chains; what the first two err by goes through the weights of the next, and activations, of slope 1.5.

    What is not finite before an activation is so for everybody, and errs no more behind it.
    """
    with np.errstate(all="ignore"), NUMPY.on():
        z, error = a["x"], np.zeros_like(a["x"])
        for part, activation in zip(("expand", "depthwise", "project"), o.get("activations", (None,) * 3), strict=True):
            if part not in a:
                continue
            w, bias = a[part], a.get(f"{part}_bias")
            geometry = {name: o[name] for name in ("stride", "padding") if name in o} if part == "depthwise" else {}
            geometry["groups"] = len(w) if part == "depthwise" else 1
            skip = a.get("residual") if part == "project" else None
            size = F.conv2d(np.abs(z), np.abs(w), None if bias is None else np.abs(bias), **geometry)
            size = size if skip is None else size + np.abs(skip)
            error = 1.5 * (F.conv2d(error, np.abs(w), **geometry) + (chain(math.prod(w.shape[1:])) + 4) * size)
            finite = np.isfinite(F.conv2d(z, w, bias, **geometry, residual=skip))
            z = F.conv2d(z, w, bias, **geometry, residual=skip, activation=activation)
            error = np.where(finite, error, 0.0)
    return (error,)


def conv2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """dx sums over output channels and taps, dweight and dbias over images and pixels."""
    backward = F.conv2d_backward if a["x"].ndim == 4 else F.conv1d_backward
    with np.errstate(all="ignore"), NUMPY.on():
        dx, dweight, dbias = backward(**_magnitudes(a), **o)
    n, out, *size = a["dy"].shape
    taps = math.prod(a["weight"].shape[2:])
    pixels = chain(n * math.prod(size))
    return chain(out // o.get("groups", 1) * taps) * dx, pixels * dweight, pixels * dbias


def conv_transpose2d(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """At most all taps of all channels of a group meet in an element; then bias and activation."""
    geometry = {name: v for name, v in o.items() if name != "activation"}
    with np.errstate(all="ignore"), NUMPY.on():
        size, z = F.conv_transpose2d(**_magnitudes(a), **geometry), F.conv_transpose2d(**a, **geometry)
    c, _, kh, kw = a["weight"].shape
    return (activated(o, z, (chain(c // o.get("groups", 1) * kh * kw) + 1) * size, y[0]),)


def conv_transpose2d_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    """dx sums over output channels and taps, dweight over images and pixels of x, dbias over those of dy."""
    with np.errstate(all="ignore"), NUMPY.on():
        dx, dweight, dbias = F.conv_transpose2d_backward(**_magnitudes(a), **o)
    n, _, h, w = a["x"].shape
    taps = chain(math.prod(a["weight"].shape[1:]))
    return taps * dx, chain(n * h * w) * dweight, chain(n * math.prod(a["dy"].shape[2:])) * dbias


# ---- interpolation and padding --------------------------------------------------------------------------------------


def _resampled(x: Array, matrices: list[Matrix | None], value: float = 0.0) -> Any:
    """A chain for each axis, and the rounding of its weights, of the sum of the terms' magnitudes."""
    sizes = [m if m is None else m.magnitude() for m in matrices]
    factor = sum(chain(m.most_taps) + 1 for m in matrices if m is not None)
    with np.errstate(all="ignore"), NUMPY.on():
        return factor * F._resample("bound", "x", np.abs(x), sizes, abs(value))


def resample(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (_resampled(a["x"], [None, o["rows"], o["columns"], None], o["value"]),)


def _matrices(shape: tuple[int, ...], o: Arrays) -> list[Matrix | None]:
    given = inspect.signature(F.interpolate).bind(None, **{name: v for name, v in o.items() if name != "in_shape"})
    given.apply_defaults()
    del given.arguments["x"]
    return F._interpolation(shape, "bound", *given.arguments.values())


def interpolate(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    if o.get("mode", "nearest").startswith("nearest"):
        return (EXACT,)
    return (_resampled(a["x"], _matrices(a["x"].shape, o)),)


def interpolate_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    return (_resampled(a["dy"], [m and m.transposed for m in _matrices(o["in_shape"], o)]),)


def pad_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    matrices = F._padding(o["in_shape"], "bound", o.get("mode", "constant"), o["pad"])
    return (_resampled(a["dy"], [m and m.transposed for m in matrices]),)


def matmul(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with np.errstate(all="ignore"), NUMPY.on():
        size = F.matmul(**_magnitudes(a), **o)
    return (chain(a["a"].shape[-2 if o.get("transpose_a") else -1]) * size,)


def linear(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with np.errstate(all="ignore"), NUMPY.on():
        z, size = F.linear(**a), F.linear(**_magnitudes(a))
    return (activated(o, z, (chain(a["weight"].shape[1]) + 1) * size, y[0]),)


def linear_backward(a: Arrays, o: Arrays, y: Bounds) -> Bounds:
    with np.errstate(all="ignore"), NUMPY.on():
        dx, dweight, dbias = F.linear_backward(**_magnitudes(a))
    rows = chain(math.prod(a["dy"].shape[:-1]))
    return chain(a["weight"].shape[0]) * dx, rows * dweight, rows * dbias

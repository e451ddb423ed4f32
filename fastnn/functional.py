"""Every op as a function: arrays in, arrays out. This is the one place that checks and allocates.

Shapes are (N, C, H, W), weights (O, C / groups, kh, kw), linear weights (out, in); names and argument order are
those of ``torch.nn.functional``. Any array-like works: float32 and float64 are computed as they are, integers, booleans
and float16 as float32, mixtures as NumPy promotes them. Channels-last memory (the strides of an n h w c array seen as
n c h w) is a fast path and outputs keep it; arrays with gaps, negative strides or Fortran order are copied first where
the docstring does not say otherwise. Shapes that do not fit raise `ShapeError`, dtypes that are no numbers TypeError.

To add an op: a function here that checks, allocates with ``_K.empty`` and calls its kernel through ``_K``.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from . import _resampling, reference
from ._backends import ACTIVATIONS
from ._backends import kernels as _K
from ._resampling import COORDINATES, ROUNDINGS, Matrix
from .errors import ShapeError
from .random import RNG, Stream, draw_seed

Array: TypeAlias = np.ndarray
IntOrPair: TypeAlias = "int | Sequence[int]"
IntOrSingle: TypeAlias = "int | Sequence[int]"
Activation: TypeAlias = "str | tuple[str, float] | tuple[str, float, float] | None"
BatchNormStatistics: TypeAlias = "tuple[ArrayLike | None, ArrayLike | None, ArrayLike, ArrayLike, float]"

__all__ = [
    "adagrad_step",
    "adam_step",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "add",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_train",
    "binary_cross_entropy_with_logits",
    "celu",
    "celu_backward",
    "channel_shuffle",
    "clip_norm",
    "clip_value",
    "col2im",
    "concat",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "cross_entropy",
    "div",
    "div_backward",
    "dropout",
    "dropout_backward",
    "elu",
    "elu_backward",
    "exp",
    "gelu",
    "gelu_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "group_norm",
    "group_norm_backward",
    "hardsigmoid",
    "hardsigmoid_backward",
    "hardswish",
    "hardswish_backward",
    "hardtanh",
    "hardtanh_backward",
    "hinge",
    "huber",
    "im2col",
    "instance_norm",
    "instance_norm_backward",
    "interpolate",
    "interpolate_backward",
    "inverted_residual",
    "l1",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "matmul",
    "matmul_backward",
    "max_norm",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "maxout",
    "maxout_backward",
    "mish",
    "mish_backward",
    "mse",
    "mul",
    "mul_backward",
    "pad",
    "pad_backward",
    "penalty",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "prelu_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "rmsprop_step",
    "selu",
    "selu_backward",
    "sgd_step",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_backward",
    "softsign",
    "softsign_backward",
    "split",
    "sqrt",
    "square_sum",
    "stochastic_depth",
    "stochastic_depth_backward",
    "tanh",
    "tanh_backward",
    "threshold",
    "threshold_backward",
]

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_UINT8 = np.dtype(np.uint8)
_INT32 = np.dtype(np.int32)
_INT64 = np.dtype(np.int64)
#: of strides, paddings and the like, so that no product of two of them overflows
_MOST = 2**31 - 1


# ---- checks ---------------------------------------------------------------------------------------------------------

_Plan = TypeVar("_Plan", bound=Callable[..., Any])
_SIMPLE = frozenset((int, float, str, bool, type(None)))
_WHOLE = frozenset((int,))


def _remembered(plan: _Plan) -> _Plan:
    """The function of sizes and options, whose results are kept for the next call; sizes are shapes of arrays.

    Kept by options that are what they equal: 2.0 in a pair would find what 2 has left, so it is checked every time.
    """
    kept = lru_cache(maxsize=1024, typed=True)(plan)

    @wraps(plan)
    def remembered(sizes: Any, *options: Any) -> Any:
        if not _SIMPLE.issuperset(map(type, options)):
            for value in options:
                kind = type(value)
                if kind not in _SIMPLE and not (kind is tuple and _WHOLE.issuperset(map(type, value))):
                    return plan(sizes, *options)
        return kept(sizes, *options)

    return cast(_Plan, remembered)


def _array(op: str, name: str, x: ArrayLike) -> Array:
    """x as a float32 or float64 ndarray, native and aligned, of any strides."""
    if _K.layout(x) >= 0:
        return x  # type: ignore[return-value]
    if np.ma.is_masked(x):
        raise TypeError(f"{op}: {name} is masked in places; fill those, by {name}.filled(0) say")
    array = np.asarray(x)
    kind = array.dtype.kind
    if kind in "biu" or array.dtype == np.float16:
        dtype = _FLOAT32
    elif array.dtype == _FLOAT32 or array.dtype == _FLOAT64 or array.dtype.newbyteorder("=") in (_FLOAT32, _FLOAT64):
        dtype = array.dtype.newbyteorder("=")
    else:
        raise TypeError(
            f"{op}: {name} has dtype {array.dtype}; expected float32 or float64 (float16, integers and booleans are "
            f"converted to float32)"
        )
    return np.require(array, dtype, ["ALIGNED"])


def _dense(op: str, name: str, x: ArrayLike) -> Array:
    """x without gaps, in any order of its axes."""
    array = _array(op, name, x)
    return array if _K.layout(array) < 3 else _contiguous(array)


def _rowmajor(op: str, name: str, x: ArrayLike) -> Array:
    """x C-contiguous."""
    array = _array(op, name, x)
    return array if array.flags.c_contiguous else _contiguous(array)


def _contiguous(x: Array) -> Array:
    """A C-contiguous copy of a ready array."""
    if x.ndim <= 4:
        return _in_format(x, False)
    y = _K.empty(x.shape, x.dtype)
    if y.size:
        _copy_axes(x, y)
    return y


def _copy_axes(x: Array, y: Array) -> None:
    """y[...] = x for any number of axes: the kernel takes four, once those that lie as one in both are merged."""
    axes: list[tuple[int, int, int]] = []
    for n, sx, sy in zip(x.shape, x.strides, y.strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == n * sx and axes[-1][2] == n * sy:
            axes[-1] = axes[-1][0] * n, sx, sy
        else:
            axes.append((n, sx, sy))
    if len(axes) > 4:  # one call for each element of the shortest
        at = min(range(len(axes)), key=lambda i: axes[i][0])
        count, sx, sy = axes.pop(at)
    else:
        count = 1
    shape, x_strides, y_strides = ([axis[i] for axis in axes] for i in range(3))
    source = np.lib.stride_tricks.as_strided(x, (count, *shape), (sx if count > 1 else 0, *x_strides))
    target = np.lib.stride_tricks.as_strided(y, (count, *shape), (sy if count > 1 else 0, *y_strides))
    for part, into in zip(source, target, strict=True):
        if len(shape) > 4:
            _copy_axes(part, into)
        else:
            _K.copy(part, False, into)


def _image(op: str, name: str, x: ArrayLike, channels_last: bool | None = None) -> tuple[Array, bool]:
    """x of four dimensions in either memory format (or in the one asked for), and whether that is channels-last."""
    array = _array(op, name, x)
    if array.ndim != 4:
        raise ShapeError(f"{op}: expected {name} of shape (N, C, H, W), got {array.shape}")
    layout = _K.layout(array)
    if channels_last is None:
        if layout < 2:
            return array, layout == 1
        return _contiguous(array), False
    fits = _is_channels_last(array) if channels_last else layout == 0
    return array if fits else _in_format(array, channels_last), channels_last


def _is_channels_last(x: Array) -> bool:
    return x.transpose(0, 2, 3, 1).flags.c_contiguous


def _in_format(x: Array, channels_last: bool) -> Array:
    """A copy of x in the memory format asked for."""
    y = _K.empty(x.shape, x.dtype, channels_last)
    _K.copy(x, False, y)
    return y


def _prefers_channels_last(x: ArrayLike) -> bool:
    """Whether the output for x is channels-last."""
    return isinstance(x, np.ndarray) and x.ndim == 4 and not x.flags.c_contiguous and _is_channels_last(x)


def _same_dtype(*arrays: Array | None) -> tuple[Any, ...]:
    """The arrays in their common dtype, C-contiguous where they had to be converted; None stays None."""
    first = arrays[0].dtype  # type: ignore[union-attr]
    for a in arrays:
        if a is not None and a.dtype is not first and a.dtype != first:
            break
    else:
        return arrays
    return tuple(None if a is None else a.astype(_FLOAT64, copy=False) for a in arrays)


def _vector(op: str, name: str, x: ArrayLike | None, length: int, what: str) -> Array | None:
    """x of shape (length,), C-contiguous; None stays None."""
    if x is None:
        return None
    array = _rowmajor(op, name, x)
    if array.shape != (length,):
        raise ShapeError(f"{op}: expected {name} of shape ({length},), one for each {what}, got {array.shape}")
    return array


def _pair(op: str, name: str, value: IntOrPair, least: int) -> tuple[int, int]:
    """value as (height, width)."""
    try:
        if isinstance(value, (int, np.integer)):
            pair = (int(value), int(value))
        else:
            height, width = value
            pair = (height.__index__(), width.__index__())
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"{op}: {name} must be a whole number or a pair of them, got {value!r}") from None
    if min(pair) < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    if max(pair) > _MOST:
        raise ValueError(f"{op}: {name} must be at most {_MOST}, got {value!r}")
    return pair


def _real(op: str, name: str, value: Any) -> float:
    """value as a float."""
    if isinstance(value, (int, float)) or (np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{op}: {name} must be at most 1.8e308, got a longer whole number") from None
    raise TypeError(f"{op}: {name} must be a number, got {value!r}")


def _whole(op: str, name: str, value: Any) -> int:
    """value as an int."""
    try:
        if not isinstance(value, bool):
            return value.__index__()
        raise TypeError
    except (AttributeError, TypeError):
        raise TypeError(f"{op}: {name} must be a whole number, got {value!r}") from None


def _shape_of(op: str, name: str, value: Any, axes: str = "N, C, H, W") -> tuple[int, ...]:
    """value as the shape of an array with these axes."""
    try:
        shape = tuple(size.__index__() for size in value)
    except (AttributeError, TypeError):
        raise TypeError(f"{op}: {name} must be a shape ({axes}), got {value!r}") from None
    if len(shape) != axes.count(",") + 1 or min(shape) < 0:
        raise ShapeError(f"{op}: expected {name} ({axes}), got {shape}")
    return shape


def _within(
    stride: tuple[int, int], in_size: tuple[int, int], padding: tuple[int, int], out_size: tuple[int, int]
) -> tuple[int, int]:
    """The stride, shortened where there is no second window: kernels hold what lies between two of them."""
    h, w = (s if n > 1 else min(s, i + 2 * p) for s, i, p, n in zip(stride, in_size, padding, out_size, strict=True))
    return h, w


def _single(op: str, name: str, value: IntOrSingle, least: int) -> int:
    """value, or the only one of a sequence."""
    single = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    number = _whole(op, name, single)
    if number < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return number


def _output_size(
    op: str,
    in_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool = False,
) -> tuple[int, int]:
    """floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1, for height and width."""
    out = []
    for size, k, s, p, d, axis in zip(in_size, kernel, stride, padding, dilation, ("height", "width"), strict=True):
        span = d * (k - 1) + 1
        room = size + 2 * p - span
        if room < 0 and not (ceil_mode and room > -s):  # then the one window is a partial one
            raise ShapeError(
                f"{op}: the kernel spans {span} in {axis} but the padded input is {size + 2 * p} "
                f"({size} + 2 * {p}); use a smaller kernel or dilation, or more padding"
            )
        steps = room // s
        # A last, partial window counts only if it starts inside the input or its left padding (as in torch).
        if ceil_mode and room % s and (steps + 1) * s < size + p:
            steps += 1
        out.append(steps + 1)
    return out[0], out[1]


def _activation(op: str, activation: Activation) -> tuple[Any, ...] | None:
    """The name and all parameters of a fused activation."""
    if activation is None:
        return None
    name, *given = activation if isinstance(activation, tuple) and activation else (activation,)
    if name == "relu6" and not given:
        return "hardtanh", 0.0, 6.0
    if name not in ACTIVATIONS or len(given) > len(ACTIVATIONS[name]):
        raise ValueError(f"{op}: unknown activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}, relu6")
    parameters = (
        *(_real(op, "the activation's parameter", value) for value in given),
        *ACTIVATIONS[name][len(given) :],
    )
    check = _PARAMETER_CHECKS.get(name)
    if check is not None:
        check(op, *parameters)
    return name, *parameters


def _check_range(op: str, low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"{op}: min_val must not be above max_val, got {low} and {high}")


def _check_scale(op: str, scale: float, threshold: float = 0.0) -> None:
    if not scale > 0:
        raise ValueError(
            f"{op}: the scale ({'beta' if 'softplus' in op.lower() else 'alpha'}) must be above 0, got {scale}"
        )


#: activations that are not defined for all values of their parameters
_PARAMETER_CHECKS: dict[str, Callable[..., None]] = {
    "hardtanh": _check_range,
    "celu": _check_scale,
    "softplus": _check_scale,
}


def _out(
    op: str, out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], channels_last: bool, *inputs: Array | None
) -> Array:
    """A new array, or ``out`` after its checks; the inputs are those that out must not overlap."""
    if out is None:
        return _K.empty(shape, dtype, channels_last)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        came = f"{out.shape} {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeError(f"{op}: expected out of shape {shape} and dtype {dtype}, got {came}")
    out = np.asarray(out)  # of a subclass, whose reshape may do something else, the plain array
    layout = _K.layout(out)
    fits = layout == 1 or (layout == 0 and _is_channels_last(out)) if channels_last else layout == 0
    if not (fits and out.flags.writeable):
        order = "channels-last, as the input is" if channels_last else "C-contiguous"
        raise ValueError(f"{op}: out must be writeable and {order}, aligned, and of no subclass of ndarray")
    for x in inputs:
        if x is not None and np.may_share_memory(out, x):
            raise ValueError(f"{op}: out overlaps an input")
    return out


def _elementwise(op: str, x: ArrayLike, out: Array | None) -> tuple[Array, Array]:
    """x dense and an output in its layout; out may be x itself."""
    if out is not None and _K.fits(x, out):
        return x, out  # type: ignore[return-value]
    array = x if 0 <= _K.layout(x) < 3 else _dense(op, "x", x)
    if out is None:
        return array, _K.empty_like(array)  # type: ignore[return-value]
    assert isinstance(array, np.ndarray)
    if not isinstance(out, np.ndarray) or out.shape != array.shape or out.dtype != array.dtype:
        came = f"{out.shape} {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeError(f"{op}: expected out of shape {array.shape} and dtype {array.dtype}, got {came}")
    out = np.asarray(out)  # of a subclass, whose reshape may do something else, the plain array
    if not out.flags.writeable or not 0 <= _K.layout(out) < 3:
        raise ValueError(f"{op}: out must be writeable and without gaps")
    if _same_layout(array, out):
        if np.may_share_memory(array, out) and _address(array) != _address(out):
            raise ValueError(f"{op}: out overlaps x without being x")
        return array, out
    if np.may_share_memory(array, out):
        raise ValueError(f"{op}: out overlaps x in another memory order")
    y = np.empty_like(out)
    np.copyto(y, array)
    return y, out


def _address(x: Array) -> int:
    return x.__array_interface__["data"][0]


def _same_layout(a: Array, b: Array) -> bool:
    """Whether dense arrays of one shape lie in memory in the same order."""
    if a.flags.c_contiguous and b.flags.c_contiguous:
        return True
    return all(s == t for s, t, n in zip(a.strides, b.strides, a.shape, strict=True) if n != 1)


def _copy_into(y: Array, x: Array) -> None:
    """y[...] = x, as a kernel call where there is one for so many dimensions."""
    if x.ndim <= 4:
        _K.copy(x, False, y)
    else:
        np.copyto(y, x)


def _laid_out_as(x: Array, like: Array) -> Array:
    """A copy of x in the memory order of the dense array ``like``, which has its shape."""
    y = _K.empty_like(like)
    _copy_into(y, x)
    return y


def _elementwise_backward(op: str, dy: ArrayLike, x: ArrayLike) -> tuple[Array, Array, Array]:
    """dy and x in one dtype and layout, and dx like them."""
    array, gradient = _dense(op, "x", x), _dense(op, "dy", dy)
    if gradient.shape != array.shape:
        raise ShapeError(f"{op}: dy and x must have the same shape, got {gradient.shape} and {array.shape}")
    gradient, array = _same_dtype(gradient, array)
    if not _same_layout(gradient, array):
        gradient = _laid_out_as(gradient, array)
    return gradient, array, _K.empty_like(array)


def _takes(op: str, into: Sequence[Array | None], dtype: np.dtype[Any], *shapes: tuple[int, ...]) -> bool:
    """Whether a kernel can add gradients of ``dtype`` to these arrays; where not (a float32 layer whose input is
    float64, arrays with gaps), `_added` does it. Raises where they are not arrays of those shapes."""
    fits = True
    for target, shape in zip(into, shapes, strict=True):
        if target is None:
            continue
        if not isinstance(target, np.ndarray) or target.shape != shape:
            came = target.shape if isinstance(target, np.ndarray) else type(target).__name__
            raise ShapeError(f"{op}: expected in into an array of shape {shape}, got {came}")
        fits = fits and target.dtype == dtype and target.flags.carray
    return fits


#: Addresses of gradients that no recorded call has written yet: the first to gather one there writes it, where a step
#: by closures adds to zeros. A step of an MLP on one image spends a fifth of its time on zeros otherwise.
_unwritten: set[int] = set()


def _gathers(into: Sequence[Array | None] | None) -> bool:
    """Whether a kernel adds to the arrays of ``into``, if there are any; for the kernels of linear, conv and norm."""
    if into is None:
        return False
    if not _unwritten:
        return True
    arrays = [array for array in into if array is not None]
    fresh = [array for array in arrays if _address(array) in _unwritten]
    for array in fresh:
        _unwritten.discard(_address(array))
        if len(fresh) < len(arrays):
            _K.fill(0.0, array)
    return len(fresh) < len(arrays)


def _added(into: Sequence[Array | None], gradients: Sequence[Array | None]) -> Any:
    """The arrays of into, after the gradients were added to them."""
    for target, gradient in zip(into, gradients, strict=True):
        if target is not None and gradient is not None:
            target[...] = target + gradient
    return tuple(into)


# ---- activations ----------------------------------------------------------------------------------------------------


def relu(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Rectified linear unit, max(x, 0).

    Parameters
    ----------
    x : array_like, any shape
        NaN stays NaN.
    out : ndarray, optional
        Where to write the result; of x's shape and dtype, may be x itself.

    Returns
    -------
    ndarray
        Of x's shape, dtype and memory format.

    References
    ----------
    Nair and Hinton, ICML 2010; CS231n, "Training Neural Networks I": does not saturate for x > 0, may die for x < 0.

    Examples
    --------
    >>> relu(np.float32([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """
    x, y = _elementwise("relu", x, out)
    _K.relu_forward(x, y)
    return y


def relu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `relu`: dy where x > 0, else 0 (at 0 too).

    Examples
    --------
    >>> relu_backward(np.float32([1, 1, 1]), np.float32([-1, 0, 2]))
    array([0., 0., 1.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("relu_backward", dy, x)
    _K.relu_backward(dy, x, dx)
    return dx


def relu6(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Rectified linear unit up to 6, min(max(x, 0), 6); any shape.

    Its range suits arithmetic of few bits (Howard et al., MobileNets, arXiv 1704.04861).

    Examples
    --------
    >>> relu6(np.float32([-1, 2, 9]))
    array([0., 2., 6.], dtype=float32)
    """
    x, y = _elementwise("relu6", x, out)
    _K.hardtanh_forward(x, 0.0, 6.0, y)
    return y


def relu6_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `relu6`: dy where 0 < x < 6, else 0.

    Examples
    --------
    >>> relu6_backward(np.float32([1, 1, 1]), np.float32([-1, 2, 9]))
    array([0., 1., 0.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("relu6_backward", dy, x)
    _K.hardtanh_backward(dy, x, 0.0, 6.0, dx)
    return dx


def hardtanh(x: ArrayLike, min_val: float = -1.0, max_val: float = 1.0, *, out: Array | None = None) -> Array:
    """Clip, min(max(x, min_val), max_val); any shape. The bounds may be infinite.

    Raises ValueError where min_val is above max_val.

    Examples
    --------
    >>> hardtanh(np.float32([-3, 0.5, 3]))
    array([-1. ,  0.5,  1. ], dtype=float32)
    """
    low, high = _real("hardtanh", "min_val", min_val), _real("hardtanh", "max_val", max_val)
    _check_range("hardtanh", low, high)
    x, y = _elementwise("hardtanh", x, out)
    _K.hardtanh_forward(x, low, high, y)
    return y


def hardtanh_backward(dy: ArrayLike, x: ArrayLike, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Gradient of `hardtanh`: dy where min_val < x < max_val, else 0.

    Examples
    --------
    >>> hardtanh_backward(np.float32([1, 1]), np.float32([-3, 0.5]))
    array([0., 1.], dtype=float32)
    """
    low, high = _real("hardtanh_backward", "min_val", min_val), _real("hardtanh_backward", "max_val", max_val)
    _check_range("hardtanh_backward", low, high)
    dy, x, dx = _elementwise_backward("hardtanh_backward", dy, x)
    _K.hardtanh_backward(dy, x, low, high, dx)
    return dx


def threshold(x: ArrayLike, threshold: float, value: float, *, out: Array | None = None) -> Array:
    """x where it is above the threshold, value elsewhere; any shape. NaN stays NaN.

    Examples
    --------
    >>> threshold(np.float32([0.5, 2]), 1, -7)
    array([-7.,  2.], dtype=float32)
    """
    x, y = _elementwise("threshold", x, out)
    _K.threshold_forward(x, _real("threshold", "threshold", threshold), _real("threshold", "value", value), y)
    return y


def threshold_backward(dy: ArrayLike, x: ArrayLike, threshold: float, value: float) -> Array:
    """Gradient of `threshold`: dy where x is above the threshold, else 0.

    Examples
    --------
    >>> threshold_backward(np.float32([1, 1]), np.float32([0.5, 2]), 1, -7)
    array([0., 1.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("threshold_backward", dy, x)
    _K.threshold_backward(
        dy, x, _real("threshold_backward", "threshold", threshold), _real("threshold_backward", "value", value), dx
    )
    return dx


def hardsigmoid(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Piecewise linear sigmoid, min(max(x + 3, 0), 6) / 6; any shape.

    Examples
    --------
    >>> hardsigmoid(np.float32([-9, 0, 9]))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    x, y = _elementwise("hardsigmoid", x, out)
    _K.hardsigmoid_forward(x, y)
    return y


def hardsigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `hardsigmoid`: dy / 6 where -3 < x < 3, else 0.

    Examples
    --------
    >>> hardsigmoid_backward(np.float32([6, 6]), np.float32([0, 9]))
    array([1., 0.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("hardsigmoid_backward", dy, x)
    _K.hardsigmoid_backward(dy, x, dx)
    return dx


def hardswish(x: ArrayLike, *, out: Array | None = None) -> Array:
    """x hardsigmoid(x); any shape (Howard et al., MobileNetV3, ICCV 2019). -inf gives NaN, as the formula does.

    Examples
    --------
    >>> hardswish(np.float32([-9, 0, 9]))
    array([-0.,  0.,  9.], dtype=float32)
    """
    x, y = _elementwise("hardswish", x, out)
    _K.hardswish_forward(x, y)
    return y


def hardswish_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `hardswish`: dy (x / 3 + 1/2) where -3 < x < 3, dy from there on, else 0.

    Examples
    --------
    >>> hardswish_backward(np.float32([1, 1, 1]), np.float32([-9, 0, 9]))
    array([0. , 0.5, 1. ], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("hardswish_backward", dy, x)
    _K.hardswish_backward(dy, x, dx)
    return dx


def leaky_relu(x: ArrayLike, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """Leaky rectified linear unit: x for x > 0, negative_slope * x otherwise; any shape.

    Does not die (Maas et al., ICML 2013; CS231n).

    Examples
    --------
    >>> leaky_relu(np.float32([-1, 0, 2]), 0.5)
    array([-0.5,  0. ,  2. ], dtype=float32)
    """
    x, y = _elementwise("leaky_relu", x, out)
    _K.leaky_relu_forward(x, _real("leaky_relu", "negative_slope", negative_slope), y)
    return y


def leaky_relu_backward(dy: ArrayLike, x: ArrayLike, negative_slope: float = 0.01) -> Array:
    """Gradient of `leaky_relu`: dy for x > 0, negative_slope * dy otherwise.

    Examples
    --------
    >>> leaky_relu_backward(np.float32([1, 1]), np.float32([-1, 2]), 0.5)
    array([0.5, 1. ], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("leaky_relu_backward", dy, x)
    _K.leaky_relu_backward(dy, x, _real("leaky_relu_backward", "negative_slope", negative_slope), dx)
    return dx


def softsign(x: ArrayLike, *, out: Array | None = None) -> Array:
    """x / (1 + |x|); any shape. Saturates more slowly than tanh; infinities give NaN, as the formula does.

    Examples
    --------
    >>> softsign(np.float32([-1, 0, 3]))
    array([-0.5 ,  0.  ,  0.75], dtype=float32)
    """
    x, y = _elementwise("softsign", x, out)
    _K.softsign_forward(x, y)
    return y


def softsign_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `softsign`: dy / (1 + |x|)^2.

    Examples
    --------
    >>> softsign_backward(np.float32([1]), np.float32([-1]))
    array([0.25], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("softsign_backward", dy, x)
    _K.softsign_backward(dy, x, dx)
    return dx


def sigmoid(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Logistic function 1 / (1 + exp(-x)); any shape. Saturates and is not zero-centred (CS231n).

    Examples
    --------
    >>> sigmoid(np.float32([0]))
    array([0.5], dtype=float32)
    """
    x, y = _elementwise("sigmoid", x, out)
    _K.sigmoid_forward(x, y)
    return y


def sigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `sigmoid`: dy s (1 - s) with s = sigmoid(x).

    Examples
    --------
    >>> sigmoid_backward(np.float32([1]), np.float32([0]))
    array([0.25], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("sigmoid_backward", dy, x)
    _K.sigmoid_backward(dy, x, dx)
    return dx


def tanh(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent; any shape. Zero-centred, still saturates (CS231n).

    Examples
    --------
    >>> tanh(np.float32([0, 100]))
    array([0., 1.], dtype=float32)
    """
    x, y = _elementwise("tanh", x, out)
    _K.tanh_forward(x, y)
    return y


def tanh_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `tanh`: dy (1 - tanh(x)^2).

    Examples
    --------
    >>> tanh_backward(np.float32([3]), np.float32([0]))
    array([3.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("tanh_backward", dy, x)
    _K.tanh_backward(dy, x, dx)
    return dx


def elu(x: ArrayLike, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """Exponential linear unit: x for x > 0, alpha (exp(x) - 1) otherwise; any shape.

    Mean output closer to zero (Clevert et al., ICLR 2016; CS231n).

    Examples
    --------
    >>> elu(np.float32([-1e9, 0, 2]))
    array([-1.,  0.,  2.], dtype=float32)
    """
    x, y = _elementwise("elu", x, out)
    _K.elu_forward(x, _real("elu", "alpha", alpha), y)
    return y


def elu_backward(dy: ArrayLike, x: ArrayLike, alpha: float = 1.0) -> Array:
    """Gradient of `elu`: dy for x > 0, dy alpha exp(x) otherwise.

    Examples
    --------
    >>> elu_backward(np.float32([1, 1]), np.float32([-1e9, 2]))
    array([0., 1.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("elu_backward", dy, x)
    _K.elu_backward(dy, x, _real("elu_backward", "alpha", alpha), dx)
    return dx


def selu(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Scaled exponential linear unit, 1.0507 elu(x, 1.6733); any shape.

    The constants keep mean 0 and variance 1 from layer to layer (Klambauer et al., NeurIPS 2017).

    Examples
    --------
    >>> selu(np.float32([-1e9, 0, 1]))
    array([-1.7580993,  0.       ,  1.050701 ], dtype=float32)
    """
    x, y = _elementwise("selu", x, out)
    _K.selu_forward(x, y)
    return y


def selu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `selu`: 1.0507 dy for x > 0, 1.7581 dy exp(x) otherwise.

    Examples
    --------
    >>> selu_backward(np.float32([1, 1]), np.float32([-1e9, 1]))
    array([0.      , 1.050701], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("selu_backward", dy, x)
    _K.selu_backward(dy, x, dx)
    return dx


def celu(x: ArrayLike, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """Continuously differentiable `elu`: x for x > 0, alpha (exp(x / alpha) - 1) otherwise; any shape.

    alpha is above 0, or ValueError is raised (Barron, arXiv 1704.07483).

    Examples
    --------
    >>> celu(np.float32([-1e9, 0, 2]), 0.5)
    array([-0.5,  0. ,  2. ], dtype=float32)
    """
    a = _real("celu", "alpha", alpha)
    _check_scale("celu", a)
    x, y = _elementwise("celu", x, out)
    _K.celu_forward(x, a, y)
    return y


def celu_backward(dy: ArrayLike, x: ArrayLike, alpha: float = 1.0) -> Array:
    """Gradient of `celu`: dy for x > 0, dy exp(x / alpha) otherwise.

    Examples
    --------
    >>> celu_backward(np.float32([1, 1]), np.float32([-1e9, 2]), 0.5)
    array([0., 1.], dtype=float32)
    """
    a = _real("celu_backward", "alpha", alpha)
    _check_scale("celu_backward", a)
    dy, x, dx = _elementwise_backward("celu_backward", dy, x)
    _K.celu_backward(dy, x, a, dx)
    return dx


def _gelu_kernel(op: str, approximate: str) -> str:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"{op}: approximate must be 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh"


def gelu(x: ArrayLike, approximate: str = "none", *, out: Array | None = None) -> Array:
    """Gaussian error linear unit x Phi(x); any shape (Hendrycks and Gimpel, arXiv 1606.08415).

    ``approximate="tanh"`` is 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Examples
    --------
    >>> gelu(np.float32([-100, 0, 100]))
    array([ -0.,   0., 100.], dtype=float32)
    """
    kernel = _gelu_kernel("gelu", approximate)
    x, y = _elementwise("gelu", x, out)
    getattr(_K, f"{kernel}_forward")(x, y)
    return y


def gelu_backward(dy: ArrayLike, x: ArrayLike, approximate: str = "none") -> Array:
    """Gradient of `gelu`: dy (Phi(x) + x phi(x)), or that of the tanh form.

    Examples
    --------
    >>> gelu_backward(np.float32([1]), np.float32([0]))
    array([0.5], dtype=float32)
    """
    kernel = _gelu_kernel("gelu_backward", approximate)
    dy, x, dx = _elementwise_backward("gelu_backward", dy, x)
    getattr(_K, f"{kernel}_backward")(dy, x, dx)
    return dx


def silu(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Sigmoid linear unit or swish, x sigmoid(x); any shape (Elfwing et al., arXiv 1702.03118).

    -inf gives NaN, as the formula does.

    Examples
    --------
    >>> silu(np.float32([-200, 0, 100]))
    array([ -0.,   0., 100.], dtype=float32)
    """
    x, y = _elementwise("silu", x, out)
    _K.silu_forward(x, y)
    return y


def silu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `silu`: dy s (1 + x (1 - s)) with s = sigmoid(x).

    Examples
    --------
    >>> silu_backward(np.float32([1]), np.float32([0]))
    array([0.5], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("silu_backward", dy, x)
    _K.silu_backward(dy, x, dx)
    return dx


def mish(x: ArrayLike, *, out: Array | None = None) -> Array:
    """x tanh(softplus(x)); any shape (Misra, arXiv 1908.08681). -inf gives NaN, as the formula does.

    Examples
    --------
    >>> mish(np.float32([-200, 0, 100]))
    array([ -0.,   0., 100.], dtype=float32)
    """
    x, y = _elementwise("mish", x, out)
    _K.mish_forward(x, y)
    return y


def mish_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of `mish`: dy (t + x (1 - t^2) sigmoid(x)) with t = tanh(softplus(x)).

    Examples
    --------
    >>> mish_backward(np.float32([5]), np.float32([0])).round(5)
    array([3.], dtype=float32)
    """
    dy, x, dx = _elementwise_backward("mish_backward", dy, x)
    _K.mish_backward(dy, x, dx)
    return dx


def softplus(x: ArrayLike, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None) -> Array:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold; any shape.

    beta is above 0, or ValueError is raised. The smooth `relu` (Glorot et al., AISTATS 2011).

    Examples
    --------
    >>> softplus(np.float32([-1e9, 0, 50]))
    array([ 0.       ,  0.6931472, 50.       ], dtype=float32)
    """
    scale = _real("softplus", "beta", beta)
    _check_scale("softplus", scale)
    x, y = _elementwise("softplus", x, out)
    _K.softplus_forward(x, scale, _real("softplus", "threshold", threshold), y)
    return y


def softplus_backward(dy: ArrayLike, x: ArrayLike, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Gradient of `softplus`: dy sigmoid(beta x), and dy where beta x is above the threshold.

    Examples
    --------
    >>> softplus_backward(np.float32([1, 1]), np.float32([0, 50]))
    array([0.5, 1. ], dtype=float32)
    """
    scale = _real("softplus_backward", "beta", beta)
    _check_scale("softplus_backward", scale)
    dy, x, dx = _elementwise_backward("softplus_backward", dy, x)
    _K.softplus_backward(dy, x, scale, _real("softplus_backward", "threshold", threshold), dx)
    return dx


def _prelu_arrays(op: str, x: ArrayLike, weight: ArrayLike) -> tuple[Array, Array, bool]:
    """x in either memory format, the weights in its dtype, and whether x is channels-last."""
    array, w = _array(op, "x", x), _rowmajor(op, "weight", weight)
    channels = array.shape[1] if array.ndim > 1 else 1
    if w.shape not in ((1,), (channels,)):
        raise ShapeError(f"{op}: expected weight of shape (1,) or ({channels},), one for each channel, got {w.shape}")
    array, w = _same_dtype(array, w)
    layout = _K.layout(array)
    return (array, w, layout == 1) if layout < 2 else (_contiguous(array), w, False)


def _planes(x: Array, channels: int, channels_last: bool) -> Array:
    """A view of x, which is not empty, as (n, channels, s) in memory order; one channel stands for all."""
    if channels_last:
        return x.transpose(0, 2, 3, 1).reshape((-1, channels, 1) if channels > 1 else (1, 1, -1))
    return x.reshape(x.shape[0] if channels > 1 else 1, channels, -1)


def prelu(x: ArrayLike, weight: ArrayLike, *, out: Array | None = None) -> Array:
    """Parametric rectified linear unit: x for x > 0, weight * x otherwise.

    Parameters
    ----------
    x : array_like, (N, C, ...)
        C-contiguous and channels-last memory are both fast; anything else is copied first.
    weight : array_like, (1,) or (C,)
        One slope, or one for each channel.
    out : ndarray, optional
        Of x's shape, dtype and memory format; may be x itself.

    References
    ----------
    He et al., "Delving Deep into Rectifiers", ICCV 2015; CS231n.

    Examples
    --------
    >>> prelu(np.float32([[-1, -1], [3, 4]]), np.float32([0.5, 0.25]))
    array([[-0.5 , -0.25],
           [ 3.  ,  4.  ]], dtype=float32)
    """
    op = "prelu"
    array, w, channels_last = _prelu_arrays(op, x, weight)
    y = _out(op, out, array.shape, array.dtype, channels_last, w, *(() if out is x else (array,)))
    if y.size:
        _K.prelu_forward(_planes(array, w.size, channels_last), w, _planes(y, w.size, channels_last))
    return y


def prelu_backward(dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, into: Array | None = None) -> tuple[Array, Array]:
    """Gradients of `prelu`: dx is dy for x > 0, weight * dy otherwise; dweight sums dy * x over the other x.

    Parameters
    ----------
    dy, x : array_like, (N, C, ...)
    weight : array_like, (1,) or (C,)
    into : ndarray, optional
        The array to which dweight is added, instead of a new one.

    Returns
    -------
    dx : ndarray
        Of x's shape and memory format.
    dweight : ndarray (1,) or (C,)

    Examples
    --------
    >>> prelu_backward(np.float32([[1, 1]]), np.float32([[-3, 4]]), np.float32([0.5]))
    (array([[0.5, 1. ]], dtype=float32), array([-3.], dtype=float32))
    """
    op = "prelu_backward"
    array, w, channels_last = _prelu_arrays(op, x, weight)
    gradient = _array(op, "dy", dy)
    if gradient.shape != array.shape:
        raise ShapeError(f"{op}: dy and x must have the same shape, got {gradient.shape} and {array.shape}")
    gradient, array, w = _same_dtype(gradient, array, w)
    if not (_is_channels_last(gradient) if channels_last else gradient.flags.c_contiguous):
        gradient = _in_format(gradient, channels_last) if gradient.ndim <= 4 else np.ascontiguousarray(gradient)
    if into is not None and not _takes(op, (into,), w.dtype, w.shape):
        dx, found = prelu_backward(gradient, array, w)
        return dx, *_added((into,), (found,))
    dx = _K.empty(array.shape, array.dtype, channels_last)
    dweight = _K.empty(w.shape, w.dtype) if into is None else into
    if dx.size:
        planes = (_planes(a, w.size, channels_last) for a in (gradient, array))
        _K.prelu_backward(*planes, w, into is not None, _planes(dx, w.size, channels_last), dweight)
    elif into is None:
        dweight[...] = 0.0
    return dx, dweight


def _maxout_arrays(op: str, x: ArrayLike, pieces: int) -> tuple[Array, tuple[int, ...], bool]:
    """x in either memory format, the shape of the result, and whether they are channels-last."""
    array = _array(op, "x", x)
    if _whole(op, "pieces", pieces) < 1:
        raise ValueError(f"{op}: pieces must be at least 1, got {pieces!r}")
    if array.ndim < 2 or array.shape[1] % pieces:
        raise ShapeError(f"{op}: expected x of shape (N, C * {pieces}, ...), got {array.shape}")
    shape = (array.shape[0], array.shape[1] // int(pieces), *array.shape[2:])
    layout = _K.layout(array)
    return (array, shape, layout == 1) if layout < 2 else (_contiguous(array), shape, False)


def _pieces(x: Array, pieces: int, channels_last: bool) -> Array:
    """A view of x, which is not empty, as (n, pieces, s) in memory order."""
    if channels_last:
        return x.transpose(0, 2, 3, 1).reshape(-1, pieces, x.shape[1] // pieces)
    return x.reshape(x.shape[0], pieces, -1)


def _piece(y: Array, channels_last: bool) -> Array:
    """A view of the result, likewise, as (n, s)."""
    return _pieces(y, 1, channels_last).reshape(-1, y.shape[1] if channels_last else y.size // y.shape[0])


def maxout(x: ArrayLike, pieces: int = 2) -> Array:
    """The largest of several pieces of the channels, max(x1, x2, ...): (N, C * pieces, ...) -> (N, C, ...).

    Channel c of the result is the largest of the channels c, C + c, 2 C + c, ...: after a linear layer whose weights
    are those of several layers one after another, max(w1 x + b1, w2 x + b2) (Goodfellow et al., ICML 2013; CS231n). It
    generalises `relu` and `leaky_relu`, neither saturates nor dies, and takes that many times the parameters.

    Parameters
    ----------
    x : array_like, (N, C * pieces, ...)
        C-contiguous and channels-last memory are both fast; anything else is copied first. NaN stays NaN.
    pieces : int

    Returns
    -------
    ndarray (N, C, ...)
        Of x's memory format.

    Examples
    --------
    >>> maxout(np.float32([[1, 5, 3, 4]]))
    array([[3., 5.]], dtype=float32)
    """
    op = "maxout"
    array, shape, channels_last = _maxout_arrays(op, x, pieces)
    y = _K.empty(shape, array.dtype, channels_last)
    if y.size:
        _K.maxout_forward(_pieces(array, int(pieces), channels_last), _piece(y, channels_last))
    return y


def maxout_backward(dy: ArrayLike, x: ArrayLike, pieces: int = 2) -> Array:
    """Gradient of `maxout`: dy where x is the (first) largest of its pieces, else 0.

    Examples
    --------
    >>> maxout_backward(np.float32([[1, 2]]), np.float32([[1, 5, 3, 4]]))
    array([[0., 2., 1., 0.]], dtype=float32)
    """
    op = "maxout_backward"
    array, shape, channels_last = _maxout_arrays(op, x, pieces)
    gradient = _array(op, "dy", dy)
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of the output's shape {shape}, got {gradient.shape}")
    gradient, array = _same_dtype(gradient, array)
    if not (_is_channels_last(gradient) if channels_last else gradient.flags.c_contiguous):
        gradient = _in_format(gradient, channels_last) if gradient.ndim <= 4 else np.ascontiguousarray(gradient)
    dx = _K.empty(array.shape, array.dtype, channels_last)
    if dx.size:
        views = _piece(gradient, channels_last), _pieces(array, int(pieces), channels_last)
        _K.maxout_backward(*views, _pieces(dx, int(pieces), channels_last))
    return dx


def exp(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Exponential function; any shape. Results below the smallest normal number are 0.

    Examples
    --------
    >>> exp(np.float32([0, -np.inf]))
    array([1., 0.], dtype=float32)
    """
    x, y = _elementwise("exp", x, out)
    _K.exp_forward(x, y)
    return y


def sqrt(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Square root; any shape. NaN for what is below 0.

    Examples
    --------
    >>> sqrt(np.float32([4, 0]))
    array([2., 0.], dtype=float32)
    """
    x, y = _elementwise("sqrt", x, out)
    _K.sqrt_forward(x, y)
    return y


def _operands(op: str, a: Array, b: Array, out: Array | None) -> tuple[Array, Array, Array]:
    """Dense a and b as a kernel of two arrays reads them, b spread to a's shape where it is of another, and its y."""
    first, second = _same_dtype(a, b)
    first, y = _elementwise(op, first, out)
    if second.shape != first.shape:
        second = np.broadcast_to(second, first.shape)
    if not _same_layout(second, first):
        second = _laid_out_as(second, first)
    if out is not None and np.may_share_memory(y, second) and _address(y) != _address(second):
        raise ValueError(f"{op}: out overlaps b without being b")
    return first, second, y


def add(a: ArrayLike, b: ArrayLike, *, activation: Activation = None, out: Array | None = None) -> Array:
    """Sum of two arrays of one shape, activation(a + b): the end of a residual block.

    Examples
    --------
    >>> add(np.float32([1, -5]), np.float32([2, 1]), activation="relu")
    array([3., 0.], dtype=float32)
    """
    then = _activation("add", activation)
    first, second = _dense("add", "a", a), _dense("add", "b", b)
    if first.shape != second.shape:
        raise ShapeError(f"add: a and b must have the same shape, got {first.shape} and {second.shape}")
    first, second, y = _operands("add", first, second, out)
    _K.add_forward(first, second, then, y)
    return y


def mul(a: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """Product of two arrays of one shape; or of a (N, C, H, W) and a factor for each channel, b (N, C, 1, 1).

    The factors are spread to a's shape first, which takes a copy of that size.

    Examples
    --------
    >>> mul(np.float32([1, -5]), np.float32([2, 3]))
    array([  2., -15.], dtype=float32)
    """
    first, second = _dense("mul", "a", a), _dense("mul", "b", b)
    _mul_shape("mul: ", first.shape, second.shape)
    first, second, y = _operands("mul", first, second, out)
    _K.mul_forward(first, second, y)
    return y


def mul_backward(dy: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Gradients of `mul`: da = dy b and db = dy a, summed over height and width where b is (N, C, 1, 1).

    Examples
    --------
    >>> mul_backward(np.float32([1, 1]), np.float32([1, -5]), np.float32([2, 3]))
    (array([2., 3.], dtype=float32), array([ 1., -5.], dtype=float32))
    """
    op = "mul_backward"
    gradient, first, second = _dense(op, "dy", dy), _dense(op, "a", a), _dense(op, "b", b)
    _mul_shape(f"{op}: ", first.shape, second.shape)
    if gradient.shape != first.shape:
        raise ShapeError(f"{op}: dy and a must have the same shape, got {gradient.shape} and {first.shape}")
    db = mul(gradient, first)
    if second.shape != first.shape:
        db = _K.empty(second.shape, db.dtype)
        if db.size:
            mean = global_avg_pool2d(mul(gradient, first))
            _K.scale_add(mean, float(first.shape[2] * first.shape[3]), 0.0, db)
    return mul(gradient, second), db


def div(a: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """Quotient of two arrays of one shape, a / b.

    Examples
    --------
    >>> div(np.float32([1, -6]), np.float32([2, 3]))
    array([ 0.5, -2. ], dtype=float32)
    """
    first, second = _dense("div", "a", a), _dense("div", "b", b)
    if first.shape != second.shape:
        raise ShapeError(f"div: a and b must have the same shape, got {first.shape} and {second.shape}")
    first, second, y = _operands("div", first, second, out)
    _K.div_forward(first, second, y)
    return y


def div_backward(dy: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Gradients of `div`: da = dy / b and db = -dy a / b^2.

    Examples
    --------
    >>> div_backward(np.float32([1, 1]), np.float32([1, -6]), np.float32([2, 2]))
    (array([0.5, 0.5], dtype=float32), array([-0.25,  1.5 ], dtype=float32))
    """
    op = "div_backward"
    gradient, first, second = _dense(op, "dy", dy), _dense(op, "a", a), _dense(op, "b", b)
    if not gradient.shape == first.shape == second.shape:
        raise ShapeError(
            f"{op}: dy, a and b must have the same shape, got {gradient.shape}, {first.shape} and {second.shape}"
        )
    da = div(gradient, second)
    minus = mul(da, div(first, second))
    db = _K.empty_like(minus)
    _K.scale_add(minus, -1.0, 0.0, db)
    return da, db


def _mul_shape(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if a != b and not (len(a) == len(b) == 4 and b == (*a[:2], 1, 1) and a[2] * a[3]):
        raise ShapeError(f"{op}expected b of a's shape, or (N, C, 1, 1) for a (N, C, H, W); got {a} and {b}")
    return a


def _axis(op: str, axis: int, shape: tuple[int, ...]) -> int:
    """axis counted from the front."""
    axis = _whole(op, "axis", axis)
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"{op}: axis {axis} is out of range for an array of shape {shape}")
    return axis % len(shape)


def _three_axes(x: Array, axis: int) -> Array:
    """x of more than four dimensions, for which there is no kernel, as (before, axis, behind)."""
    if x.ndim <= 4:
        return x
    before, behind = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    return (x if x.flags.c_contiguous else np.ascontiguousarray(x)).reshape(before, x.shape[axis], behind)


def concat(xs: Sequence[ArrayLike], axis: int = 1) -> Array:
    """Arrays side by side along ``axis``: (N, C1, ...) and (N, C2, ...) give (N, C1 + C2, ...).

    Its gradient is `split`. The result is channels-last where the first array is; any strides are read as they are, up
    to four dimensions, and beyond copied first.

    Examples
    --------
    >>> concat([np.float32([[1]]), np.float32([[2, 3]])])
    array([[1., 2., 3.]], dtype=float32)
    """
    op = "concat"
    if not np.iterable(xs):
        raise TypeError(f"{op}: expected a sequence of arrays, got {type(xs).__name__}")
    xs = list(xs)
    if not xs:
        raise ShapeError(f"{op}: expected at least one array, got none")
    arrays = _same_dtype(*(_array(op, f"xs[{i}]", x) for i, x in enumerate(xs)))
    first = arrays[0]
    axis = _axis(op, axis, first.shape)
    shapes = [a.shape for a in arrays]
    others = [(len(s), *s[:axis], *s[axis + 1 :]) for s in shapes]
    if any(other != others[0] for other in others):
        raise ShapeError(f"{op}: shapes must be equal but for axis {axis}, got {shapes}")
    sizes = [s[axis] for s in shapes]
    y = _K.empty((*shapes[0][:axis], sum(sizes), *shapes[0][axis + 1 :]), first.dtype, _prefers_channels_last(first))
    parts = _slices(_three_axes(y, axis), sizes, axis if y.ndim <= 4 else 1)
    for part, array in zip(parts, arrays, strict=True):
        _K.copy(_three_axes(array, axis), False, part)
    return y


def split(x: ArrayLike, sizes: int | Sequence[int], axis: int = 1) -> list[Array]:
    """The inverse of `concat`, and its gradient: (N, C, ...) into new arrays (N, size, ...) along ``axis``.

    sizes are those of the parts, or one number for all, of which the last part is what remains. The gradient of split
    is `concat`.

    Examples
    --------
    >>> split(np.float32([[1, 2, 3]]), [1, 2])
    [array([[1.]], dtype=float32), array([[2., 3.]], dtype=float32)]
    """
    op = "split"
    array = _array(op, "x", x)
    axis = _axis(op, axis, array.shape)
    n = array.shape[axis]
    if isinstance(sizes, (int, np.integer)) and not isinstance(sizes, bool):
        if sizes < 1:
            raise ValueError(f"{op}: sizes must be at least 1, or a list of sizes, got {sizes}")
        sizes = [min(int(sizes), n - begin) for begin in range(0, n, int(sizes))] or [0]
    whole = isinstance(sizes, (list, tuple, np.ndarray)) and all(isinstance(m, (int, np.integer)) for m in sizes)
    if not whole:
        raise TypeError(f"{op}: sizes must be a whole number or several, got {sizes!r}")
    assert not isinstance(sizes, (int, np.integer))
    if any(m < 0 for m in sizes) or sum(sizes) != n:
        raise ShapeError(f"{op}: sizes {list(sizes)} do not add up to axis {axis} of {array.shape}")
    channels_last = _prefers_channels_last(array)
    parts = _slices(_three_axes(array, axis), sizes, axis if array.ndim <= 4 else 1)
    shapes = [(*array.shape[:axis], int(m), *array.shape[axis + 1 :]) for m in sizes]
    return [_in_format(part, channels_last).reshape(s) for part, s in zip(parts, shapes, strict=True)]


def _slices(x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
    """Views of x that share it out along ``axis``."""
    ends = itertools.accumulate(sizes)
    before = (slice(None),) * axis
    return [x[(*before, slice(end - size, end))] for end, size in zip(ends, sizes, strict=True)]


def _factor(op: str, name: str, value: int) -> int:
    factor = _whole(op, name, value)
    if factor < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {value}")
    return factor


def pixel_shuffle(x: ArrayLike, upscale_factor: int) -> Array:
    """Channels to pixels: (N, C r r, H, W) to (N, C, H r, W r); the end of a sub-pixel convolution.

    Element (c, h, w) of a result lies in channel c r r + (h mod r) r + w mod r of x, at (h / r, w / r). Its gradient is
    `pixel_unshuffle`. ONNX calls it DepthToSpace in mode CRD.

    Parameters
    ----------
    x : array_like, (N, C r r, H, W)
        Of any strides.
    upscale_factor : int
        r.

    Returns
    -------
    ndarray (N, C, H r, W r)
        Of x's memory format.

    References
    ----------
    Shi et al., CVPR 2016.

    Examples
    --------
    >>> pixel_shuffle(np.float32([[[[1]], [[2]], [[3]], [[4]]]]), 2)[0, 0]
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """
    op = "pixel_shuffle"
    array, r = _array(op, "x", x), _factor(op, "upscale_factor", upscale_factor)
    if array.ndim != 4 or array.shape[1] % (r * r):
        raise ShapeError(f"{op}: expected x of shape (N, C * {r} * {r}, H, W), got {array.shape}")
    n, c, h, w = array.shape
    y = _K.empty((n, c // (r * r), h * r, w * r), array.dtype, _prefers_channels_last(array))
    for i in range(r * r):
        _K.copy(array[:, i :: r * r], False, y[:, :, i // r :: r, i % r :: r])
    return y


def pixel_unshuffle(x: ArrayLike, downscale_factor: int) -> Array:
    """Pixels to channels: (N, C, H r, W r) to (N, C r r, H, W); the inverse of `pixel_shuffle`, and its gradient.

    Examples
    --------
    >>> pixel_unshuffle(np.float32([[[[1, 2], [3, 4]]]]), 2).ravel()
    array([1., 2., 3., 4.], dtype=float32)
    """
    op = "pixel_unshuffle"
    array, r = _array(op, "x", x), _factor(op, "downscale_factor", downscale_factor)
    if array.ndim != 4 or array.shape[2] % r or array.shape[3] % r:
        raise ShapeError(f"{op}: expected x of shape (N, C, H * {r}, W * {r}), got {array.shape}")
    n, c, h, w = array.shape
    y = _K.empty((n, c * r * r, h // r, w // r), array.dtype, _prefers_channels_last(array))
    for i in range(r * r):
        _K.copy(array[:, :, i // r :: r, i % r :: r], False, y[:, i :: r * r])
    return y


def channel_shuffle(x: ArrayLike, groups: int) -> Array:
    """Channels of the groups in turn: (N, C, ...) of the same shape, channel i of group g at i groups + g.

    What lies between grouped convolutions, so that information crosses groups. Its gradient is the shuffle by
    C / groups.

    References
    ----------
    Zhang et al., CVPR 2018 (ShuffleNet).

    Examples
    --------
    >>> channel_shuffle(np.float32([[1, 2, 3, 4, 5, 6]]), 2)
    array([[1., 4., 2., 5., 3., 6.]], dtype=float32)
    """
    op = "channel_shuffle"
    array = _array(op, "x", x)
    if array.ndim < 2:
        raise ShapeError(f"{op}: expected x of shape (N, C, ...), got {array.shape}")
    g, c = _groups(op, groups), array.shape[1]
    if c % g:
        raise ShapeError(f"{op}: groups must divide the channels; got {g} groups for {c} in")
    y = _K.empty(array.shape, array.dtype, _prefers_channels_last(array))
    source, target = _three_axes(array, 1), _three_axes(y, 1)
    for i in range(g):
        _K.copy(source[:, i * (c // g) : (i + 1) * (c // g)], False, target[:, i::g])
    return y


# ---- softmax and its loss -------------------------------------------------------------------------------------------


def _to_rows(op: str, x: Array, axis: int) -> tuple[Array, int]:
    """x as (rows, cols) with ``axis`` along the columns."""
    axis = _whole(op, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{op}: axis {axis} is out of range for an array of shape {x.shape}")
    axis %= x.ndim
    moved = x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)
    if not x.size:
        return np.empty((0, x.shape[axis]), x.dtype), axis
    return (moved if moved.flags.c_contiguous else _contiguous(moved)).reshape(-1, x.shape[axis]), axis


def _from_rows(rows: Array, x: Array, axis: int) -> Array:
    """The result for x, of its shape and memory format, from its rows along ``axis``."""
    shape = x.shape
    if axis == x.ndim - 1 and x.flags.c_contiguous:
        return rows.reshape(shape)
    moved = np.moveaxis(rows.reshape((*shape[:axis], *shape[axis + 1 :], shape[axis])), -1, axis)
    channels_last = _prefers_channels_last(x)
    fits = _is_channels_last(moved) if channels_last else moved.flags.c_contiguous
    if fits:
        return moved
    return _in_format(moved, channels_last) if moved.ndim <= 4 else np.ascontiguousarray(moved)


def _softmax_like(op: str, kernel: str, x: ArrayLike, axis: int, out: Array | None) -> Array:
    array = _array(op, "x", x)
    rows, axis = _to_rows(op, array, axis)
    if out is not None:
        out = _out(op, out, array.shape, array.dtype, _prefers_channels_last(array), array)
    direct = out is not None and axis == array.ndim - 1 and out.flags.c_contiguous
    y = out.reshape(rows.shape) if direct else _K.empty(rows.shape, rows.dtype)  # type: ignore[union-attr]
    getattr(_K, f"{kernel}_forward")(rows, y)
    if out is None:
        return _from_rows(y, array, axis)
    if not direct:
        _copy_into(out, _from_rows(y, array, axis))
    return out


def _softmax_like_backward(op: str, kernel: str, dy: ArrayLike, y: ArrayLike, axis: int) -> Array:
    gradient, output = _array(op, "dy", dy), _array(op, "y", y)
    if gradient.shape != output.shape:
        raise ShapeError(f"{op}: dy and y must have the same shape, got {gradient.shape} and {output.shape}")
    gradient, output = _same_dtype(gradient, output)
    rows_dy, positive = _to_rows(op, gradient, axis)
    rows_y, _ = _to_rows(op, output, axis)
    dx = _K.empty(rows_y.shape, rows_y.dtype)
    getattr(_K, f"{kernel}_backward")(rows_dy, rows_y, dx)
    return _from_rows(dx, output, positive)


def softmax(x: ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    """exp(x) / sum(exp(x)) along ``axis``, computed from x - max(x); any shape of at least one dimension.

    Along the last axis of a C-contiguous array it runs in place of memory; other axes are moved there by a copy.

    Examples
    --------
    >>> softmax(np.float32([[0, 0], [1000, 0]]))
    array([[0.5, 0.5],
           [1. , 0. ]], dtype=float32)
    """
    return _softmax_like("softmax", "softmax", x, axis, out)


def softmax_backward(dy: ArrayLike, y: ArrayLike, axis: int = -1) -> Array:
    """Gradient of `softmax` from its output y: y (dy - sum(dy y)).

    Examples
    --------
    >>> softmax_backward(np.float32([[1, 0]]), np.float32([[0.5, 0.5]]))
    array([[ 0.25, -0.25]], dtype=float32)
    """
    return _softmax_like_backward("softmax_backward", "softmax", dy, y, axis)


def log_softmax(x: ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    """x - max(x) - log(sum(exp(x - max(x)))) along ``axis``; any shape of at least one dimension.

    Examples
    --------
    >>> log_softmax(np.float32([[0, 0]]))
    array([[-0.6931472, -0.6931472]], dtype=float32)
    """
    return _softmax_like("log_softmax", "log_softmax", x, axis, out)


def log_softmax_backward(dy: ArrayLike, y: ArrayLike, axis: int = -1) -> Array:
    """Gradient of `log_softmax` from its output y: dy - exp(y) sum(dy).

    Examples
    --------
    >>> log_softmax_backward(np.float32([[1, 1]]), np.log(np.float32([[0.5, 0.5]])))
    array([[0., 0.]], dtype=float32)
    """
    return _softmax_like_backward("log_softmax_backward", "log_softmax", dy, y, axis)


def _same_shape(op: str, name: str, shape: tuple[int, ...], scores: tuple[int, ...]) -> None:
    if shape != scores:
        hint = "; of classes give labels.ravel()" if name == "probabilities" and shape == (scores[0], 1) else ""
        raise ShapeError(f"{op}: {name} must have the shape of scores {scores}, got {shape}{hint}")


def _class_labels(op: str, labels: ArrayLike, rows: int, classes: int, ignore_index: int) -> Array:
    """Labels as int64 of shape (rows,), each a class or ignore_index."""
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"{op}: ignore_index must be a whole number, got {ignore_index!r}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"{op}: ignore_index must be a number of 64 bits, as labels are, got {ignore_index}")
    array = np.asarray(labels)
    if array.shape != (rows,):
        raise ShapeError(f"{op}: expected one label for each of the {rows} rows of scores, got labels {array.shape}")
    if array.dtype.kind not in "iu":
        hint = "labels.astype(int)" if array.dtype.kind in "fb" else "numpy.unique(labels, return_inverse=True)[1]"
        raise TypeError(f"{op}: labels have dtype {array.dtype}; classes are whole numbers, such as {hint}")
    bad = ((array < 0) | (array >= classes)) & (array != ignore_index)  # before uint64 beyond 2^63 becomes negative
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{op}: label {array[row]} of row {row} is out of range for scores with {classes} classes")
    return np.ascontiguousarray(array, _INT64)


def cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[float, Array]:
    """Mean cross-entropy of softmax(scores), and its gradient.

    Parameters
    ----------
    scores : array_like, (N, C)
        Unnormalised log-probabilities.
    labels : array_like, (N,) integers or (N, C) probabilities
        The class of each row, or the probability of each class in each row.
    weight : array_like (C,), optional
        Weight of each class.
    sample_weight : array_like (N,), optional
        Weight of each row.
    label_smoothing : float in [0, 1]
        This share of the target is spread evenly over the classes.
    ignore_index : int
        Rows with this label do not count.

    Returns
    -------
    loss : float
        The weighted mean: with class labels divided by the sum of the weights (class times sample) of the rows that
        count, with probabilities by the sum of the sample weights. NaN when that sum is 0.
    dscores : ndarray (N, C)

    Examples
    --------
    >>> loss, dscores = cross_entropy(np.zeros((2, 4), np.float32), [0, 3])
    >>> round(loss, 4)  # log C for uniform scores
    1.3863
    """
    loss, dscores = _cross_entropy(scores, labels, weight, sample_weight, label_smoothing, ignore_index)
    return float(loss[0]), dscores


def _cross_entropy(
    scores: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Array, Array]:
    """The loss as an array of one float64, which a program can hold, and dscores."""
    op = "cross_entropy"
    array = _rowmajor(op, "scores", scores)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ShapeError(f"{op}: expected scores of shape (N, C) with at least one class, got {array.shape}")
    label_smoothing = _real(op, "label_smoothing", label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing must be between 0 and 1, got {label_smoothing}")
    n, c = array.shape
    hard = soft = None
    given = np.asarray(labels)
    if given.ndim == 2:
        soft = _rowmajor(op, "labels", given)
        _same_shape(op, "probabilities", soft.shape, array.shape)
    else:
        hard = _class_labels(op, given, n, c, ignore_index)
    weights = _vector(op, "weight", weight, c, "class")
    samples = _vector(op, "sample_weight", sample_weight, n, "row")
    array, soft, weights, samples = _same_dtype(array, soft, weights, samples)
    loss, dscores = _K.empty((1,), _FLOAT64), _K.empty(array.shape, array.dtype)
    _K.cross_entropy(
        array, hard, soft, weights, samples, _whole(op, "ignore_index", ignore_index), label_smoothing, loss, dscores
    )
    return loss, dscores


def hinge(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
) -> tuple[float, Array]:
    """Multi-class SVM loss, and its gradient: what the other classes' scores lack to be ``margin`` below the label's.

    loss_i = weight_y sum_{j != y} max(0, s_ij - s_iy + margin), y = labels_i; the loss is the mean over the rows.

    Parameters
    ----------
    scores : array_like, (N, C)
    labels : array_like, (N,) integers
    margin : float
    weight : array_like (C,), optional
        Weight of the rows of each class. The mean is not divided by it, as in torch.
    sample_weight : array_like (N,), optional
        Weight of each row in the mean.
    ignore_index : int
        Rows with this label do not count.

    Returns
    -------
    loss : float
        C times torch's ``multi_margin_loss``, which divides by the number of classes too; NaN where no row counts.
    dscores : ndarray (N, C)
        A margin that is just kept, or NaN, has gradient 0.

    References
    ----------
    Weston and Watkins, ESANN 1999; CS231n, "Linear Classification".

    Examples
    --------
    >>> loss, dscores = hinge(np.float32([[3.2, 5.1, -1.7]]), [0])
    >>> round(loss, 4)  # max(0, 5.1 - 3.2 + 1) + max(0, -1.7 - 3.2 + 1)
    2.9
    >>> dscores
    array([[-1.,  1.,  0.]], dtype=float32)
    """
    loss, dscores = _hinge(
        scores, labels, margin=margin, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index
    )
    return float(loss[0]), dscores


def _hinge(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
) -> tuple[Array, Array]:
    op = "hinge"
    array = _rowmajor(op, "scores", scores)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ShapeError(f"{op}: expected scores of shape (N, C) with at least one class, got {array.shape}")
    margin = _real(op, "margin", margin)
    if not np.isfinite(margin):
        raise ValueError(f"{op}: margin must be finite, got {margin}")
    n, c = array.shape
    classes = _class_labels(op, labels, n, c, ignore_index)
    weights, samples = _vector(op, "weight", weight, c, "class"), _vector(op, "sample_weight", sample_weight, n, "row")
    array, weights, samples = _same_dtype(array, weights, samples)
    loss, dscores = _K.empty((1,), _FLOAT64), _K.empty(array.shape, array.dtype)
    _K.hinge(array, classes, weights, samples, margin, ignore_index, loss, dscores)
    return loss, dscores


def _element_loss(
    op: str,
    scores: ArrayLike,
    targets: ArrayLike,
    sample_weight: ArrayLike | None,
    *options: float,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """The mean of a loss of each element, as an array of one float64, and dscores."""
    array, target = _array(op, "scores", scores), _array(op, "targets", targets)
    if not array.ndim:
        raise ShapeError(f"{op}: expected scores of shape (N, ...), got ()")
    if target.shape != array.shape and array.shape == (*target.shape, 1):
        target = target[..., np.newaxis]
    _same_shape(op, "targets", target.shape, array.shape)
    n, cols = array.shape[0], int(np.prod(array.shape[1:]))
    samples = _vector(op, "sample_weight", sample_weight, n, "row")
    column, positive = (_vector(op, k, v, cols, "column") for k, v in (("weight", weight), ("pos_weight", pos_weight)))
    array, target, samples, column, positive = _same_dtype(array, target, samples, column, positive)
    # Where every row has its columns in the same place, a row may lie in any order; weights count them in C order.
    last = weight is None and pos_weight is None and _prefers_channels_last(array)
    rows = []
    for x in (array, target):
        fits = _is_channels_last(x) if last else x.flags.c_contiguous
        x = x if fits else _in_format(x, last) if x.ndim <= 4 else np.ascontiguousarray(x)
        rows.append((x.transpose(0, 2, 3, 1) if last else x).reshape(n, cols))
    loss, dscores = _K.empty((1,), _FLOAT64), _K.empty(array.shape, array.dtype, last)
    drows = (dscores.transpose(0, 2, 3, 1) if last else dscores).reshape(n, cols)
    weights = (column, positive) if op == "binary_cross_entropy_with_logits" else ()
    getattr(_K, op)(*rows, *weights, samples, *options, loss, drows)
    return loss, dscores


def mse(scores: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean squared error (scores - targets)^2, and its gradient, 2 (scores - targets) / size.

    Parameters
    ----------
    scores : array_like, (N, ...)
        Channels-last arrays are computed as they lie; others that are not C-contiguous are copied.
    targets : array_like, (N, ...)
        Of the shape of scores; (N,) for scores (N, 1) will do.
    sample_weight : array_like (N,), optional
        Weight of each row in the mean.

    Returns
    -------
    loss : float
        The mean over all elements, as torch's ``mse_loss``; NaN where there are none.
    dscores : ndarray (N, ...)

    References
    ----------
    CS231n, "Neural Networks Part 2": harder to optimise than a classification; outliers weigh by their square.

    Examples
    --------
    >>> loss, dscores = mse(np.float32([[1, 2]]), np.float32([[0, 4]]))
    >>> loss, dscores  # (1 + 4) / 2
    (2.5, array([[ 1., -2.]], dtype=float32))
    """
    loss, dscores = _mse(scores, targets, sample_weight=sample_weight)
    return float(loss[0]), dscores


def _mse(scores: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
    return _element_loss("mse", scores, targets, sample_weight)


def l1(scores: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean absolute error |scores - targets|, and its gradient, sign(scores - targets) / size (0 where they are equal).

    Parameters and results are those of `mse`, shapes (N, ...); equal to torch's ``l1_loss``.

    Examples
    --------
    >>> loss, dscores = l1(np.float32([[1, 2]]), np.float32([[0, 4]]))
    >>> loss, dscores
    (1.5, array([[ 0.5, -0.5]], dtype=float32))
    """
    loss, dscores = _l1(scores, targets, sample_weight=sample_weight)
    return float(loss[0]), dscores


def _l1(scores: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
    return _element_loss("l1", scores, targets, sample_weight)


def huber(
    scores: ArrayLike, targets: ArrayLike, *, delta: float = 1.0, sample_weight: ArrayLike | None = None
) -> tuple[float, Array]:
    """Mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = scores - targets; and its gradient.

    Near 0 half of `mse`, far out delta times `l1`: one outlier does not decide. Parameters and results are those of
    `mse`, shapes (N, ...); equal to torch's ``huber_loss``.

    Parameters
    ----------
    delta : float
        Where the parabola ends and the line begins; finite and above 0.

    References
    ----------
    Huber, The Annals of Mathematical Statistics 35, 1964.

    Examples
    --------
    >>> loss, dscores = huber(np.float32([[1, 2]]), np.float32([[0, 4]]))
    >>> loss, dscores  # (0.5 + 1.5) / 2
    (1.0, array([[ 0.5, -0.5]], dtype=float32))
    """
    loss, dscores = _huber(scores, targets, delta=delta, sample_weight=sample_weight)
    return float(loss[0]), dscores


def _huber(
    scores: ArrayLike, targets: ArrayLike, *, delta: float = 1.0, sample_weight: ArrayLike | None = None
) -> tuple[Array, Array]:
    delta = _real("huber", "delta", delta)
    if not 0.0 < delta < np.inf:
        raise ValueError(f"huber: delta must be finite and above 0, got {delta}")
    return _element_loss("huber", scores, targets, sample_weight, delta)


def binary_cross_entropy_with_logits(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Array]:
    """Mean of -(1 - t) log s(-x) - pos_weight t log s(x), x = scores, t = targets, s = sigmoid; and its gradient.

    Each column is a question of its own: several may be true of one row.

    Parameters
    ----------
    scores : array_like, (N, ...)
        Logits, before any sigmoid.
    targets : array_like, (N, ...)
        0, 1 or probabilities, of the shape of scores; (N,) for scores (N, 1) will do.
    weight : array_like (C,), optional
        For scores (N, C), weight of each column. The mean is not divided by it, as in torch.
    pos_weight : array_like (C,), optional
        For scores (N, C), how much more a 1 counts than a 0 in each column.
    sample_weight : array_like (N,), optional
        Weight of each row in the mean.

    Returns
    -------
    loss : float
        The mean over all elements, as torch's function of that name.
    dscores : ndarray (N, ...)
        (1 - t) s(x) - pos_weight t s(-x), times the weights, over the number of elements.

    Examples
    --------
    >>> loss, dscores = binary_cross_entropy_with_logits(np.float32([[0, 0]]), [[1, 0]])
    >>> round(loss, 4), dscores
    (0.6931, array([[-0.25,  0.25]], dtype=float32))
    """
    loss, dscores = _binary_cross_entropy_with_logits(
        scores, targets, weight=weight, pos_weight=pos_weight, sample_weight=sample_weight
    )
    return float(loss[0]), dscores


def _binary_cross_entropy_with_logits(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[Array, Array]:
    op = "binary_cross_entropy_with_logits"
    target = _array(op, "targets", targets)
    _probabilities(op, target)
    for name, given in (("weight", weight), ("pos_weight", pos_weight)):
        if given is not None and np.ndim(scores) != 2:
            raise ShapeError(f"{op}: {name} goes with scores of shape (N, C), got {np.shape(scores)}")
    return _element_loss(op, scores, target, sample_weight, weight=weight, pos_weight=pos_weight)


def _probabilities(op: str, targets: Array) -> None:
    """Raise unless every target lies between 0 and 1."""
    if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
        raise ValueError(f"{op}: targets must lie between 0 and 1, got {targets.min():g} to {targets.max():g}")


# ---- dropout --------------------------------------------------------------------------------------------------------


def _dropout_key(rng: Any, op: str = "dropout") -> Array:
    if isinstance(rng, Stream):
        return rng.key()
    if rng is None:
        raise TypeError(f"{op}: needs rng=, a seed or a numpy.random.Generator")
    return np.array([draw_seed(rng), 0], np.uint64)


def _probability(op: str, p: float) -> float:
    p = _real(op, "p", p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{op}: p is the probability to drop, between 0 and 1, got {p}")
    return p


def dropout(x: ArrayLike, p: float = 0.5, *, rng: RNG) -> tuple[Array, Array]:
    """Inverted dropout: each element is 0 with probability p, else x / (1 - p).

    Parameters
    ----------
    x : array_like, any shape
    p : float
        The probability to DROP an element (cs231n's own code uses the probability to keep it).
    rng : int or numpy.random.Generator
        A seed, or a generator of which one 64-bit draw is taken. The mask is a function of that number and of the
        position of the element in C order: the same on every backend and for any number of threads.

    Returns
    -------
    y : ndarray
        Of x's shape, dtype and memory format (arrays that are not C-contiguous take the detour of a copy).
    mask : ndarray of uint8
        One bit for each element in C order, set where it was kept:
        ``np.unpackbits(mask, count=x.size, bitorder="little").reshape(x.shape)``.

    References
    ----------
    Srivastava et al., JMLR 2014; Philox4x32-10: Salmon et al., SC 2011.

    Examples
    --------
    >>> y, mask = dropout(np.ones(1000, np.float32), 0.5, rng=0)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    p = _probability("dropout", p)
    key = _dropout_key(rng)
    array = _array("dropout", "x", x)
    flat = array if array.flags.c_contiguous else _contiguous(array)
    y = _K.empty(flat.shape, flat.dtype)
    mask = _K.empty(((flat.size + 7) // 8,), _UINT8)
    _K.dropout_forward(flat, key, p, y, mask)
    return (y if flat is array else _like(array, y)), mask


def _like(x: Array, y: Array) -> Array:
    """y in x's memory format where that is channels-last."""
    return _in_format(y, True) if x.ndim == 4 and _is_channels_last(x) else y


def dropout_backward(dy: ArrayLike, mask: Array, p: float = 0.5) -> Array:
    """Gradient of `dropout`: dy / (1 - p) where the mask bit is set, else 0.

    Examples
    --------
    >>> dropout_backward(np.float32([1, 1]), np.uint8([0b10]), 0.5)
    array([0., 2.], dtype=float32)
    """
    p = _probability("dropout_backward", p)
    array = _array("dropout_backward", "dy", dy)
    flat = array if array.flags.c_contiguous else _contiguous(array)
    if not isinstance(mask, np.ndarray) or mask.dtype != _UINT8 or mask.shape != ((flat.size + 7) // 8,):
        raise ShapeError(f"dropout_backward: expected the mask of {flat.size} elements as dropout returned it")
    dx = _K.empty(flat.shape, flat.dtype)
    _K.dropout_backward(flat, np.ascontiguousarray(mask), p, dx)
    return dx if flat is array else _like(array, dx)


def _depth_rows(op: str, x: Array, mode: str) -> tuple[Array, Array, int, bool]:
    """x dense with its samples outermost, the same as (rows, cols), the rows, and whether x is channels-last."""
    if mode not in ("row", "batch"):
        raise ValueError(f"{op}: mode must be 'row' or 'batch', got {mode!r}")
    if not x.ndim:
        raise ShapeError(f"{op}: expected an array of shape (N, ...), got ()")
    last = _prefers_channels_last(x)
    array = x if last or x.flags.c_contiguous else _contiguous(x)
    rows = array.shape[0] if mode == "row" else 1
    cols = array.size // rows if rows else 0
    return array, (array.transpose(0, 2, 3, 1) if last else array).reshape(rows, cols), rows, last


def stochastic_depth(x: ArrayLike, p: float = 0.5, mode: str = "row", *, rng: RNG) -> tuple[Array, Array]:
    """Drop whole samples: 0 with probability p, else x / (1 - p). On the main branch of a residual block, its layers.

    Parameters
    ----------
    x : array_like, (N, ...)
        Channels-last arrays are computed as they lie; others that are not C-contiguous are copied.
    p : float
        The probability to DROP; the paper's survival probability is 1 - p.
    mode : str
        "row" draws for each sample, "batch" once for all, as in torchvision.
    rng : int or numpy.random.Generator
        As in `dropout`.

    Returns
    -------
    y : ndarray (N, ...)
        Of x's dtype and memory format. The expectation is x.
    mask : ndarray of uint8
        One bit for each draw, set where it was kept.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (which scales at test time instead).

    Examples
    --------
    >>> y, mask = stochastic_depth(np.ones((1000, 2), np.float32), 0.5, rng=0)
    >>> sorted(map(tuple, set(map(tuple, y.tolist()))))
    [(0.0, 0.0), (2.0, 2.0)]
    """
    op = "stochastic_depth"
    p = _probability(op, p)
    key = _dropout_key(rng, op)
    array, flat, rows, last = _depth_rows(op, _array(op, "x", x), mode)
    y, mask = _K.empty(array.shape, array.dtype, last), _K.empty(((rows + 7) // 8,), _UINT8)
    _K.stochastic_depth_forward(flat, key, p, _depth_rows(op, y, mode)[1], mask)
    return y, mask


def stochastic_depth_backward(dy: ArrayLike, mask: Array, p: float = 0.5, mode: str = "row") -> Array:
    """Gradient of `stochastic_depth`: dy / (1 - p) for the samples that were kept, else 0.

    Examples
    --------
    >>> stochastic_depth_backward(np.float32([[1, 1], [1, 1]]), np.uint8([0b10]), 0.5)
    array([[0., 0.],
           [2., 2.]], dtype=float32)
    """
    op = "stochastic_depth_backward"
    p = _probability(op, p)
    array, flat, rows, last = _depth_rows(op, _array(op, "dy", dy), mode)
    if not isinstance(mask, np.ndarray) or mask.dtype != _UINT8 or mask.shape != ((rows + 7) // 8,):
        raise ShapeError(f"{op}: expected the mask of {rows} draws as stochastic_depth returned it")
    dx = _K.empty(array.shape, array.dtype, last)
    _K.stochastic_depth_backward(flat, np.ascontiguousarray(mask), p, _depth_rows(op, dx, mode)[1])
    return dx


# ---- batch normalisation --------------------------------------------------------------------------------------------


def _features(op: str, name: str, x: ArrayLike, channels_last: bool | None = None) -> tuple[Array, tuple[int, ...]]:
    """x as (N, C, H, W), and the shape that it had: (N, C), (N, C, L), (N, C, H, W) or of more axes."""
    array = _array(op, name, x)
    if array.ndim == 4:
        return _image(op, name, array, channels_last)[0], array.shape
    if array.ndim < 2:
        raise ShapeError(f"{op}: expected {name} of shape (N, C), (N, C, L) or (N, C, H, W), got {array.shape}")
    array = array if array.flags.c_contiguous else _contiguous(array)
    shape = array.shape
    return array.reshape(*shape[:2], math.prod(shape[2:]), 1), shape


def _as_features(op: str, name: str, a: ArrayLike, x: Array, shape: tuple[int, ...]) -> Array:
    """What must have x's shape, in x's memory format; x as `_features` gave it."""
    array, own = _features(op, name, a, not x.flags.c_contiguous if len(shape) == 4 else None)
    if own != shape:
        raise ShapeError(f"{op}: {name} and x must have the same shape, got {own} and {shape}")
    return array


def _affine(op: str, weight: ArrayLike | None, bias: ArrayLike | None, c: int) -> tuple[Array | None, Array | None]:
    return _vector(op, "weight", weight, c, "channel"), _vector(op, "bias", bias, c, "channel")


def _restore(y: Array, shape: tuple[int, ...]) -> Array:
    return y if y.shape == shape else y.reshape(shape)


def batch_norm(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    out: Array | None = None,
) -> Array:
    """Batch normalisation with given statistics (as at test time), and optionally an activation in the same pass.

    y = activation((x - mean) / sqrt(var + eps) * weight + bias), for each channel.

    Parameters
    ----------
    x : array_like, (N, C), (N, C, L), (N, C, H, W) or of more axes
    mean, var : array_like (C,)
    weight, bias : array_like (C,), optional
        gamma and beta; 1 and 0 when absent.
    eps : float
    activation : str or (str, float), optional

    References
    ----------
    Ioffe and Szegedy, ICML 2015; CS231n: "Behaves differently during training and testing".

    Examples
    --------
    >>> batch_norm(np.float32([[3.0]]), np.float32([1]), np.float32([4]), eps=0.0)
    array([[1.]], dtype=float32)
    """
    op = "batch_norm"
    then = _activation(op, activation)
    array, shape = _features(op, "x", x)
    c = array.shape[1]
    means, variances = _vector(op, "mean", mean, c, "channel"), _vector(op, "var", var, c, "channel")
    weights, biases = _affine(op, weight, bias, c)
    array, means, variances, weights, biases = _same_dtype(array, means, variances, weights, biases)
    channels_last = not array.flags.c_contiguous
    target = out
    if isinstance(out, np.ndarray) and out.shape == shape:
        if out.ndim != 4 and not out.flags.c_contiguous:  # reshape would make another array of it
            raise ValueError(f"{op}: out must be writeable and C-contiguous")
        target = np.asarray(out).reshape(array.shape)
    in_place = isinstance(target, np.ndarray) and _address(target) == _address(array)
    inputs = means, variances, weights, biases, None if in_place else array
    y = _out(op, target, array.shape, array.dtype, channels_last, *inputs)
    if y.size:
        _K.batch_norm_forward(array, means, variances, weights, biases, _epsilon(op, eps), then, y)
    return _restore(y, shape) if out is None else out


def batch_norm_train(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    residual: ArrayLike | None = None,
    relu: bool = False,
) -> tuple[Array, Array, Array]:
    """Batch normalisation with the statistics of this batch.

    Parameters
    ----------
    x : array_like, (N, C), (N, C, L), (N, C, H, W) or of more axes
    weight, bias : array_like (C,), optional
    eps : float
    residual : array_like, optional
        Of x's shape; it is added to y.
    relu : bool
        Whether y is the larger of that and 0.

    Returns
    -------
    y : ndarray
        Of x's shape and memory format.
    mean, var : ndarray (C,)
        Mean and biased variance over all axes but C. Note that running statistics conventionally take the unbiased
        variance (torch), and that a momentum of 0.1 weighs the new batch.

    Examples
    --------
    >>> y, mean, var = batch_norm_train(np.float32([[1.0], [3.0]]), eps=0.0)
    >>> y.ravel(), mean, var
    (array([-1.,  1.], dtype=float32), array([2.], dtype=float32), array([1.], dtype=float32))
    """
    op = "batch_norm_train"
    array, shape = _features(op, "x", x)
    c = array.shape[1]
    weights, biases = _affine(op, weight, bias, c)
    skip = None if residual is None else _as_features(op, "residual", residual, array, shape)
    array, weights, biases, skip = _same_dtype(array, weights, biases, skip)
    y = _K.empty(array.shape, array.dtype, not array.flags.c_contiguous)
    mean, var = _K.empty((c,), array.dtype), _K.empty((c,), array.dtype)
    if y.size:
        _K.batch_norm_train_forward(array, weights, biases, _epsilon(op, eps), skip, bool(relu), y, mean, var)
    else:
        mean[...] = var[...] = np.nan  # the mean of nothing, as in NumPy
    return _restore(y, shape), mean, var


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    frozen: bool = False,
    y: ArrayLike | None = None,
    into: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradient of `batch_norm_train`, or with ``frozen`` of `batch_norm`.

    Parameters
    ----------
    dy, x : array_like, (N, C), (N, C, L) or (N, C, H, W)
    mean, var : array_like (C,)
        As `batch_norm_train` returned them, or with ``frozen`` the constants.
    weight : array_like (C,), optional
    y : array_like, optional
        What forward returned, where it ended in a ReLU. The gradient of its residual is ``relu_backward(dy, y)``.
    into : (dweight, dbias), optional
        Arrays to which the gradients are added, instead of new ones.

    Returns
    -------
    dx : ndarray
        Of x's shape and memory format.
    dweight, dbias : ndarray (C,)

    Examples
    --------
    >>> x = np.float32([[1.0], [3.0]])
    >>> dx, dweight, dbias = batch_norm_backward(np.float32([[1], [1]]), x, np.float32([2]), np.float32([1]), eps=0.0)
    >>> dx.ravel(), dbias  # a constant shift of y changes nothing before the normalisation
    (array([0., 0.], dtype=float32), array([2.], dtype=float32))
    """
    op = "batch_norm_backward"
    array, shape = _features(op, "x", x)
    channels_last = not array.flags.c_contiguous
    gradient = _as_features(op, "dy", dy, array, shape)
    result = None if y is None else _as_features(op, "y", y, array, shape)
    c = array.shape[1]
    means, variances = _vector(op, "mean", mean, c, "channel"), _vector(op, "var", var, c, "channel")
    weights = _vector(op, "weight", weight, c, "channel")
    gradient, array, means, variances, weights, result = _same_dtype(gradient, array, means, variances, weights, result)
    if into is not None and not _takes(op, into, array.dtype, (c,), (c,)):
        dx, *found = batch_norm_backward(dy, x, mean, var, weight, eps, frozen=frozen, y=y)
        return dx, *_added(into, found)
    dx = _K.empty(array.shape, array.dtype, channels_last)
    dweight, dbias = into or (_K.empty((c,), array.dtype), _K.empty((c,), array.dtype))
    if dx.size:
        _K.batch_norm_backward(
            gradient,
            array,
            means,
            variances,
            weights,
            _epsilon(op, eps),
            bool(frozen),
            result,
            _gathers(into),
            dx,
            dweight,
            dbias,
        )
    elif into is None and dweight is not None and dbias is not None:
        dweight[...] = dbias[...] = 0.0
    return _restore(dx, shape), dweight, dbias


def _epsilon(op: str, eps: Any) -> float:
    number = _real(op, "eps", eps)
    if not 0.0 <= number < np.inf:
        raise ValueError(f"{op}: eps must be finite and at least 0, got {eps}")
    return number


def _move_average(running: Array, batch: Array, momentum: float, factor: float = 1.0) -> None:
    """running = (1 - momentum) running + momentum factor batch, in place; momentum weighs the new batch."""
    batch = batch.astype(running.dtype, copy=False)
    _K.scale_add(batch, momentum * factor, 1.0 - momentum, running)


# ---- layer, group and instance normalisation: one kernel, that of groups --------------------------------------------


def _channels(op: str, name: str, x: ArrayLike, least: int, channels_last: bool | None = None) -> tuple[Array, Any]:
    """x (N, C, ...) of at least so many dimensions as (N, C, H, W), and the shape that it had."""
    array = _array(op, name, x)
    if array.ndim < least:
        rest = ", ..." if least == 2 else ", L, ..."
        raise ShapeError(f"{op}: expected {name} of shape (N, C{rest}), got {array.shape}")
    if array.ndim == 4:
        return _image(op, name, array, channels_last)[0], array.shape
    array = array if array.flags.c_contiguous else _contiguous(array)
    shape = array.shape
    return array.reshape(*shape[:2], math.prod(shape[2:]), 1), shape


def _group_norm(
    op: str, x: Array, groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array]:
    """y and the statistics (N, groups, 2), in float64, of x (N, C, H, W)."""
    x, weight, bias = _same_dtype(x, weight, bias)
    y = _K.empty(x.shape, x.dtype, not x.flags.c_contiguous)
    statistics = _K.empty((x.shape[0], groups, 2), _FLOAT64)
    if y.size:
        _K.group_norm_forward(x, weight, bias, groups, _epsilon(op, eps), y, statistics)
    return y, statistics


def _group_norm_backward(
    op: str,
    dy: Array,
    x: Array,
    statistics: Array | None,
    groups: int,
    weight: Array | None,
    eps: float,
    into: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]:
    """dx, dweight, dbias for x (N, C, H, W); statistics None: computed again."""
    dy, x, weight = _same_dtype(dy, x, weight)
    if statistics is None:
        statistics = _group_norm(op, x, groups, None, None, eps)[1]
    c = x.shape[1]
    if into is not None and not _takes(op, into, x.dtype, (c,), (c,)):
        dx, *found = _group_norm_backward(op, dy, x, statistics, groups, weight, eps, None)
        return dx, *_added(into, found)
    dx = _K.empty(x.shape, x.dtype, not x.flags.c_contiguous)
    dweight, dbias = into or (_K.empty((c,), x.dtype), _K.empty((c,), x.dtype))
    if dx.size:
        _K.group_norm_backward(
            dy, x, statistics, weight, groups, _epsilon(op, eps), into is not None, dx, dweight, dbias
        )
    elif into is None and dweight is not None and dbias is not None:
        dweight[...] = dbias[...] = 0.0
    return dx, dweight, dbias


def _group_norm_arrays(
    op: str, x: ArrayLike, groups: int | None, weight: ArrayLike | None, bias: ArrayLike | None
) -> tuple[Array, Any, int, Array | None, Array | None]:
    """x (N, C, H, W), its own shape, the number of groups (None: one for each channel), weight and bias."""
    array, shape = _channels(op, "x", x, 3 if groups is None else 2)
    c = array.shape[1]
    if groups is not None and not isinstance(groups, (int, np.integer)):
        raise TypeError(f"{op}: num_groups must be a whole number, got {groups!r}")
    count = c if groups is None else int(groups)
    if groups is not None and (count < 1 or c % count):
        raise ShapeError(f"{op}: num_groups must divide the channels; got {groups} groups for {c} channels")
    return array, shape, count, *_affine(op, weight, bias, c)


def _group_norm_forward(
    op: str, x: ArrayLike, groups: int | None, weight: ArrayLike | None, bias: ArrayLike | None, eps: float
) -> tuple[Array, Array]:
    array, shape, count, weights, biases = _group_norm_arrays(op, x, groups, weight, bias)
    y, statistics = _group_norm(op, array, count, weights, biases, eps)
    return _restore(y, shape), statistics


def _group_norm_gradients(
    op: str,
    dy: ArrayLike,
    x: ArrayLike,
    statistics: Array | None,
    groups: int | None,
    weight: ArrayLike | None,
    eps: float,
    into: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]:
    array, shape, count, weights, _ = _group_norm_arrays(op, x, groups, weight, None)
    gradient, dy_shape = _channels(op, "dy", dy, 2, not array.flags.c_contiguous)
    if dy_shape != shape:
        raise ShapeError(f"{op}: dy and x must have the same shape, got {dy_shape} and {shape}")
    dx, dweight, dbias = _group_norm_backward(op, gradient, array, statistics, count, weights, eps, into)
    return _restore(dx, shape), dweight, dbias


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    """Group normalisation: y = (x - mean) / sqrt(var + eps) * weight + bias, by the statistics of groups of channels.

    Each image has its own: training and inference are the same, and a batch of one will do.

    Parameters
    ----------
    x : array_like, (N, C, ...)
        Images (N, C, H, W) may be channels-last, which is a fast path.
    num_groups : int
        Divides C; a group is C / num_groups neighbouring channels and all that follows them.
    weight, bias : array_like (C,), optional
        1 and 0 when absent.
    eps : float

    Returns
    -------
    ndarray
        Of x's shape and memory format.

    References
    ----------
    Wu and He, ECCV 2018.

    Examples
    --------
    >>> group_norm(np.float32([[1, 3, 10, 30]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    return _group_norm_forward("group_norm", x, num_groups, weight, bias, eps)[0]


def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    into: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradient of `group_norm`.

    Computes the statistics again; the layer keeps them from its forward pass.

    Parameters
    ----------
    dy, x : array_like, (N, C, ...)
    into : (dweight, dbias), optional
        Arrays to which the gradients are added, instead of new ones.

    Returns
    -------
    dx : ndarray
        Of x's shape and memory format.
    dweight, dbias : ndarray (C,)

    Examples
    --------
    >>> dx, dweight, dbias = group_norm_backward(np.float32([[1, 1]]), np.float32([[1, 3]]), 1, eps=0.0)
    >>> dx, dweight, dbias  # a constant shift of y changes nothing before the normalisation
    (array([[0., 0.]], dtype=float32), array([-1.,  1.], dtype=float32), array([1., 1.], dtype=float32))
    """
    return _group_norm_gradients("group_norm_backward", dy, x, None, num_groups, weight, eps, into)


def instance_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    *,
    eps: float = 1e-5,
) -> Array:
    """Instance normalisation: `group_norm` with a group for each channel.

    Parameters
    ----------
    x : array_like, (N, C, L, ...)
        Images (N, C, H, W) may be channels-last, which is a fast path.
    running_mean, running_var : array_like (C,), optional
        The statistics to use without ``use_input_stats``: then this is `batch_norm`. A function gathers none, so it
        takes no momentum either.
    weight, bias : array_like (C,), optional
        1 and 0 when absent.
    use_input_stats : bool
        Normalise by the statistics of each channel of each image.
    eps : float

    Returns
    -------
    ndarray
        Of x's shape and memory format.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022.

    Examples
    --------
    >>> instance_norm(np.float32([[[1, 3], [10, 30]]]), eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    op = "instance_norm"
    if use_input_stats:
        if running_mean is not None or running_var is not None:
            raise ValueError(f"{op}: running statistics are read with use_input_stats=False only; leave them out")
        return _group_norm_forward(op, x, None, weight, bias, eps)[0]
    if running_mean is None or running_var is None:
        raise ValueError(f"{op}: use_input_stats=False needs running_mean and running_var")
    return batch_norm(x, running_mean, running_var, weight, bias, eps)


def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    into: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradient of `instance_norm` by the input's statistics; see `group_norm_backward`.

    Examples
    --------
    >>> instance_norm_backward(np.float32([[[1, 1]]]), np.float32([[[1, 3]]]), eps=0.0)[0]
    array([[[0., 0.]]], dtype=float32)
    """
    return _group_norm_gradients("instance_norm_backward", dy, x, None, None, weight, eps, into)


def _normalized(
    op: str, x: ArrayLike, normalized_shape: int | Sequence[int], weight: ArrayLike | None, bias: ArrayLike | None
) -> tuple[Array, Array, tuple[int, ...], Array | None, Array | None]:
    """x as an array, as (rows, cols, 1, 1) in C order, the normalised shape, and weight and bias as (cols,)."""
    array = _array(op, "x", x)
    try:
        sizes = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else normalized_shape
        shape = tuple(map(operator.index, sizes))
    except TypeError:
        raise TypeError(f"{op}: normalized_shape must be whole numbers, got {normalized_shape!r}") from None
    if not shape or array.shape[-len(shape) :] != shape:
        raise ShapeError(f"{op}: expected x of shape (..., {', '.join(map(str, shape))}), got {array.shape}")
    cols = math.prod(shape)
    flat = _affine_of(op, "weight", weight, shape, cols), _affine_of(op, "bias", bias, shape, cols)
    rows = array if array.flags.c_contiguous else _contiguous(array)
    return array, rows.reshape(math.prod(array.shape[: -len(shape)]), cols, 1, 1), shape, *flat


def _affine_of(op: str, name: str, v: ArrayLike | None, shape: tuple[int, ...], cols: int) -> Array | None:
    if v is None:
        return None
    array = _rowmajor(op, name, v)
    if array.shape != shape:
        raise ShapeError(f"{op}: expected {name} of shape {shape}, the normalised shape, got {array.shape}")
    return array if array.ndim == 1 else array.reshape(cols)


def _layer_norm(
    op: str,
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    eps: float,
) -> tuple[Array, Array]:
    array, rows, _, weights, biases = _normalized(op, x, normalized_shape, weight, bias)
    y, statistics = _group_norm(op, rows, 1, weights, biases, eps)
    return _like(array, y.reshape(array.shape)), statistics


def _layer_norm_backward(
    op: str,
    dy: ArrayLike,
    x: ArrayLike,
    statistics: Array | None,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None,
    eps: float,
    into: tuple[Array | None, Array | None] | None,
) -> tuple[Array, Array | None, Array | None]:
    array, rows, shape, weights, _ = _normalized(op, x, normalized_shape, weight, None)
    gradient = _rowmajor(op, "dy", dy)
    if gradient.shape != array.shape:
        raise ShapeError(f"{op}: dy and x must have the same shape, got {gradient.shape} and {array.shape}")
    gradient, rows, weights = _same_dtype(gradient, rows, weights)
    flat: Any = None
    if into is not None and _takes(op, into, rows.dtype, shape, shape):
        flat = tuple(None if d is None else d.reshape(-1) for d in into)
    dx, *found = _group_norm_backward(op, gradient.reshape(rows.shape), rows, statistics, 1, weights, eps, flat)
    gradients: Any = [None if d is None else d.reshape(shape) for d in found]
    if into is not None:
        gradients = into if flat else _added(into, gradients)
    return _like(array, dx.reshape(array.shape)), gradients[0], gradients[1]


def layer_norm(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    """Layer normalisation: y = (x - mean) / sqrt(var + eps) * weight + bias, by the statistics of the last axes.

    Parameters
    ----------
    x : array_like, (..., *normalized_shape)
        C order is the fast path; channels-last and strided arrays are copied on the way, and the result is in x's
        memory format.
    normalized_shape : int or sequence of int
        The sizes of the axes over which mean and variance are taken.
    weight, bias : array_like (*normalized_shape,), optional
        1 and 0 when absent.
    eps : float

    Returns
    -------
    ndarray
        Of x's shape.

    References
    ----------
    Ba, Kiros and Hinton, arXiv 1607.06450.

    Examples
    --------
    >>> layer_norm(np.float32([[1, 3], [10, 30]]), 2, eps=0.0)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    return _layer_norm("layer_norm", x, normalized_shape, weight, bias, eps)[0]


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    into: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradient of `layer_norm`.

    Computes the statistics again; the layer keeps them from its forward pass.

    Parameters
    ----------
    dy, x : array_like, (..., *normalized_shape)
    into : (dweight, dbias), optional
        Arrays to which the gradients are added, instead of new ones.

    Returns
    -------
    dx : ndarray
        Of x's shape.
    dweight, dbias : ndarray (*normalized_shape,)

    Examples
    --------
    >>> dx, dweight, dbias = layer_norm_backward(np.float32([[1, 1]]), np.float32([[1, 3]]), 2, eps=0.0)
    >>> dx, dweight, dbias  # a constant shift of y changes nothing before the normalisation
    (array([[0., 0.]], dtype=float32), array([-1.,  1.], dtype=float32), array([1., 1.], dtype=float32))
    """
    return _layer_norm_backward("layer_norm_backward", dy, x, None, normalized_shape, weight, eps, into)


# ---- pooling --------------------------------------------------------------------------------------------------------


def _pool_geometry(
    op: str,
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    ceil_mode: bool,
) -> tuple[Array, bool, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    array, channels_last = _image(op, "x", x)
    return array, channels_last, *_pool_plan(array.shape, op, kernel_size, stride, padding, dilation, ceil_mode)


@_remembered
def _pool_plan(
    shape: tuple[int, ...],
    op: str,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    ceil_mode: bool,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding and dilation as pairs, and the output's height and width."""
    k = _pair(op, "kernel_size", kernel_size, 1)
    s = k if stride is None else _pair(op, "stride", stride, 1)
    p = _pair(op, "padding", padding, 0)
    d = _pair(op, "dilation", dilation, 1)
    if 2 * p[0] > d[0] * (k[0] - 1) + 1 or 2 * p[1] > d[1] * (k[1] - 1) + 1:
        raise ValueError(f"{op}: padding must be at most half of the kernel, got padding {p} and kernel {k}")
    if 0 in shape[2:]:
        raise ShapeError(f"{op}: expected x with a height and a width of at least 1, got {shape}")
    in_size = shape[2], shape[3]
    out_size = _output_size(op, in_size, k, s, p, d, ceil_mode)
    return k, _within(s, in_size, p, out_size), p, d, out_size


def _max_pool2d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    ceil_mode: bool,
    with_argmax: bool = True,
    op: str = "max_pool2d",
) -> tuple[Array, Array | None]:
    """y and the position of each maximum in its window (kh * KW + kw), one byte or, for large windows, int32."""
    array, channels_last, k, s, p, d, out_size = _pool_geometry(
        op, x, kernel_size, stride, padding, dilation, ceil_mode
    )
    shape = (*array.shape[:2], *out_size)
    y = _K.empty(shape, array.dtype, channels_last)
    argmax = _K.empty(shape, _UINT8 if k[0] * k[1] <= 255 else _INT32, channels_last) if with_argmax else None
    if y.size:
        _K.max_pool2d_forward(array, k, s, p, d, out_size, y, argmax)
    return y, argmax


def _max_pool2d_backward(
    dy: ArrayLike,
    argmax: Array,
    in_shape: tuple[int, ...],
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    op: str = "max_pool2d_backward",
) -> Array:
    channels_last = not argmax.flags.c_contiguous
    gradient, _ = _image(op, "dy", dy, channels_last)
    if gradient.shape != argmax.shape:
        raise ShapeError(f"{op}: expected dy of shape {argmax.shape}, that of the output, got {gradient.shape}")
    k, p = _pair(op, "kernel_size", kernel_size, 1), _pair(op, "padding", padding, 0)
    s = k if stride is None else _pair(op, "stride", stride, 1)
    s = _within(s, in_shape[2:], p, argmax.shape[2:])  # type: ignore[arg-type]
    dx = _K.empty(in_shape, gradient.dtype, channels_last)
    if dx.size:
        _K.max_pool2d_backward(
            gradient, argmax, k, s, p, _pair(op, "dilation", dilation, 1),
            in_shape[2:], dx,
        )  # fmt: skip
    return dx


def max_pool2d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows; padding never wins, NaN does.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
    kernel_size, stride, padding, dilation : int or (int, int)
        stride defaults to kernel_size; padding is at most half of the kernel.
    ceil_mode : bool
        Keep a last partial window, if it starts inside the input or its leading padding.
    return_indices : bool
        Also return where each maximum was, as h * W + w (int64), the first one on ties.

    Returns
    -------
    y : ndarray (N, C, OH, OW)
        Of x's memory format; with ``return_indices`` the pair (y, indices).

    Examples
    --------
    >>> max_pool2d(np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    y, argmax = _max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if argmax is None:
        return y
    op = "max_pool2d"
    return y, _indices(op, argmax, np.shape(x)[3], kernel_size, stride, padding, dilation)


def _indices(
    op: str,
    argmax: Array,
    width: int,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
) -> Array:
    """Positions h * W + w in the plane from positions in the windows."""
    k = _pair(op, "kernel_size", kernel_size, 1)
    s = k if stride is None else _pair(op, "stride", stride, 1)
    p, d = _pair(op, "padding", padding, 0), _pair(op, "dilation", dilation, 1)
    where = argmax.astype(_INT64)
    row = np.arange(where.shape[2])[:, None] * s[0] - p[0] + where // k[1] * d[0]
    column = np.arange(where.shape[3]) * s[1] - p[1] + where % k[1] * d[1]
    return row * width + column


def max_pool2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Array:
    """Gradient of `max_pool2d` with respect to x: each dy goes to its maximum's place, summed where shared.

    Finds the maxima again; the layer keeps them from its forward pass.

    Examples
    --------
    >>> max_pool2d_backward(np.float32([[[[5]]]]), np.float32([[[[1, 2], [0, 1]]]]), 2)[0, 0]
    array([[0., 5.],
           [0., 0.]], dtype=float32)
    """
    array, gradient = _same_dtype(_array("max_pool2d_backward", "x", x), _array("max_pool2d_backward", "dy", dy))
    _, argmax = _max_pool2d(array, kernel_size, stride, padding, dilation, ceil_mode)
    assert argmax is not None
    return _max_pool2d_backward(gradient, argmax, array.shape, kernel_size, stride, padding, dilation)


def _divisor(op: str, divisor_override: int | None) -> int:
    """The divisor as the kernels take it, 0 for None."""
    if divisor_override is None:
        return 0
    if not isinstance(divisor_override, (int, np.integer)) or divisor_override == 0:
        raise ValueError(f"{op}: divisor_override must be a whole number other than 0, got {divisor_override!r}")
    if abs(divisor_override) > _MOST:
        raise ValueError(f"{op}: divisor_override must be at most {_MOST}, got {divisor_override!r}")
    return int(divisor_override)


def _avg_pool2d(
    op: str,
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    divisor = _divisor(op, divisor_override)
    array, channels_last, k, s, p, _, out_size = _pool_geometry(op, x, kernel_size, stride, padding, 1, ceil_mode)
    y = _K.empty((*array.shape[:2], *out_size), array.dtype, channels_last)
    if y.size:
        _K.avg_pool2d_forward(array, k, s, p, out_size, bool(count_include_pad), divisor, y)
    return y


def _avg_pool2d_backward(
    op: str,
    dy: ArrayLike,
    in_shape: tuple[int, ...],
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    divisor = _divisor(op, divisor_override)
    in_shape = _shape_of(op, "in_shape", in_shape)
    gradient, channels_last = _image(op, "dy", dy)
    k = _pair(op, "kernel_size", kernel_size, 1)
    s = k if stride is None else _pair(op, "stride", stride, 1)
    p = _pair(op, "padding", padding, 0)
    shape = (*in_shape[:2], *_output_size(op, in_shape[2:], k, s, p, (1, 1), ceil_mode))  # type: ignore[arg-type]
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of shape {shape} for an input of shape {in_shape}, got {gradient.shape}")
    s = _within(s, in_shape[2:], p, shape[2:])  # type: ignore[arg-type]
    dx = _K.empty(tuple(in_shape), gradient.dtype, channels_last)
    if dx.size:
        _K.avg_pool2d_backward(gradient, k, s, p, bool(count_include_pad), divisor, tuple(in_shape[2:]), dx)
    return dx


def avg_pool2d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Mean over windows.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
    kernel_size, stride, padding : int or (int, int)
        stride defaults to kernel_size; padding is at most half of the kernel.
    ceil_mode : bool
        As in `max_pool2d`.
    count_include_pad : bool
        Whether padding counts as zeros in the mean or not at all.
    divisor_override : int, optional
        What the sums are divided by, instead of the number of elements; 1 gives the sums.

    Returns
    -------
    ndarray (N, C, OH, OW)
        Of x's memory format.

    Examples
    --------
    >>> avg_pool2d(np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    return _avg_pool2d("avg_pool2d", x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool2d_backward(
    dy: ArrayLike,
    in_shape: tuple[int, ...],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Gradient of `avg_pool2d` for an input of shape ``in_shape`` (N, C, H, W).

    Examples
    --------
    >>> avg_pool2d_backward(np.float32([[[[4]]]]), (1, 1, 2, 2), 2)[0, 0]
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    return _avg_pool2d_backward(
        "avg_pool2d_backward", dy, in_shape, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip


# One dimension: images of one row.


def _line(op: str, name: str, x: ArrayLike) -> Array:
    """x (N, C, L) as (N, C, 1, L)."""
    array = _rowmajor(op, name, x)
    if array.ndim != 3:
        raise ShapeError(f"{op}: expected {name} of shape (N, C, L), got {array.shape}")
    return array.reshape(*array.shape[:2], 1, array.shape[2])


def _along(op: str, name: str, value: IntOrPair, across: int, least: int = 1) -> tuple[int, int]:
    """The size of one dimension (a number, or a sequence of one) as that of an image; ``across`` for its one row."""
    size = value[0] if isinstance(value, Sequence) and len(value) == 1 else value
    if not isinstance(size, (int, np.integer)):
        raise TypeError(f"{op}: {name} must be a whole number, got {value!r}")
    if size < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return across, int(size)


def _along_windows(
    op: str, kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    k = _along(op, "kernel_size", kernel_size, 1)
    s = k if stride is None else _along(op, "stride", stride, 1)
    return k, s, _along(op, "padding", padding, 0, 0)


def max_pool1d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of (N, C, L): `max_pool2d` of images of one row.

    Examples
    --------
    >>> max_pool1d(np.float32([[[1, 5, 2, 3]]]), 2)
    array([[[5., 3.]]], dtype=float32)
    """
    op = "max_pool1d"
    options = (*_along_windows(op, kernel_size, stride, padding), _along(op, "dilation", dilation, 1))
    array = _line(op, "x", x)
    y, argmax = _max_pool2d(array, *options, ceil_mode, return_indices, op)
    if argmax is None:
        return y[:, :, 0]
    return y[:, :, 0], _indices(op, argmax, array.shape[3], *options)[:, :, 0]


def max_pool1d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Array:
    """Gradient of `max_pool1d` with respect to x.

    Examples
    --------
    >>> max_pool1d_backward(np.float32([[[7, 9]]]), np.float32([[[1, 5, 2, 3]]]), 2)
    array([[[0., 7., 0., 9.]]], dtype=float32)
    """
    op = "max_pool1d_backward"
    options = (*_along_windows(op, kernel_size, stride, padding), _along(op, "dilation", dilation, 1))
    array, gradient = _same_dtype(_line(op, "x", x), _line(op, "dy", dy))
    _, argmax = _max_pool2d(array, *options, ceil_mode, True, op)
    assert argmax is not None
    return _max_pool2d_backward(gradient, argmax, array.shape, *options, op)[:, :, 0]


def avg_pool1d(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Mean over windows of (N, C, L): `avg_pool2d` of images of one row.

    Examples
    --------
    >>> avg_pool1d(np.float32([[[1, 5, 2, 3]]]), 2)
    array([[[3. , 2.5]]], dtype=float32)
    """
    op = "avg_pool1d"
    k, s, p = _along_windows(op, kernel_size, stride, padding)
    return _avg_pool2d(op, _line(op, "x", x), k, s, p, ceil_mode, count_include_pad, None)[:, :, 0]


def avg_pool1d_backward(
    dy: ArrayLike,
    in_shape: tuple[int, ...],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Gradient of `avg_pool1d` for an input of shape ``in_shape`` (N, C, L).

    Examples
    --------
    >>> avg_pool1d_backward(np.float32([[[4, 6]]]), (1, 1, 4), 2)
    array([[[2., 2., 3., 3.]]], dtype=float32)
    """
    op = "avg_pool1d_backward"
    k, s, p = _along_windows(op, kernel_size, stride, padding)
    n, c, length = _shape_of(op, "in_shape", in_shape, "N, C, L")
    dx = _avg_pool2d_backward(op, _line(op, "dy", dy), (n, c, 1, length), k, s, p, ceil_mode, count_include_pad, None)
    return dx[:, :, 0]


# Adaptive: the output's size is given, and the windows follow.


def _adaptive_size(op: str, output_size: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """output_size as (height, width); None keeps that of the input of ``shape`` (N, C, H, W)."""
    if 0 in shape[2:]:
        raise ShapeError(f"{op}: expected x with a height and a width of at least 1, got {shape}")
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(sizes) != 2:
        raise TypeError(f"{op}: output_size must be a whole number or a pair of them, or None, got {output_size!r}")
    return _pair(op, "output_size", tuple(n if o is None else o for n, o in zip(shape[2:], sizes, strict=True)), 1)


def _adaptive_max_pool2d(
    x: ArrayLike, output_size: Any, with_argmax: bool = True, op: str = "adaptive_max_pool2d"
) -> tuple[Array, Array | None]:
    """y and the position of each maximum in its plane, h * W + w in int64."""
    array, channels_last = _image(op, "x", x)
    out_size = _adaptive_size(op, output_size, array.shape)
    shape = (*array.shape[:2], *out_size)
    y = _K.empty(shape, array.dtype, channels_last)
    argmax = _K.empty(shape, _INT64, channels_last) if with_argmax else None
    if y.size:
        _K.adaptive_max_pool2d_forward(array, out_size, y, argmax)
    return y, argmax


def _adaptive_max_pool2d_backward(
    dy: ArrayLike,
    argmax: Array,
    in_shape: tuple[int, ...],
    channels_last: bool,
    op: str = "adaptive_max_pool2d_backward",
) -> Array:
    gradient, _ = _image(op, "dy", dy, not argmax.flags.c_contiguous)
    if gradient.shape != argmax.shape:
        raise ShapeError(f"{op}: expected dy of shape {argmax.shape}, that of the output, got {gradient.shape}")
    dx = _K.empty(in_shape, gradient.dtype, channels_last)
    if dx.size:
        _K.adaptive_max_pool2d_backward(gradient, argmax, in_shape[2:], dx)
    return dx


def adaptive_max_pool2d(x: ArrayLike, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over as many parts as the output has elements; part i of n is floor(i H / n) to ceil((i + 1) H / n).

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        NaN wins over all numbers.
    output_size : int or (int, int)
        OH and OW, at least 1; None keeps the input's. 1 is global max pooling.
    return_indices : bool
        Also return where each maximum was, as h * W + w (int64), the first one on ties.

    Returns
    -------
    y : ndarray (N, C, OH, OW)
        Of x's memory format; with ``return_indices`` the pair (y, indices).

    Examples
    --------
    >>> adaptive_max_pool2d(np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4), (1, 3))[0, 0]
    array([[13., 14., 15.]], dtype=float32)
    """
    y, argmax = _adaptive_max_pool2d(x, output_size, return_indices)
    return y if argmax is None else (y, argmax)


def adaptive_max_pool2d_backward(dy: ArrayLike, x: ArrayLike, output_size: Any) -> Array:
    """Gradient of `adaptive_max_pool2d` with respect to x: each dy goes to its maximum's place, summed where shared.

    Finds the maxima again; the layer keeps them from its forward pass.

    Examples
    --------
    >>> adaptive_max_pool2d_backward(np.float32([[[[5]]]]), np.float32([[[[1, 2], [0, 1]]]]), 1)[0, 0]
    array([[0., 5.],
           [0., 0.]], dtype=float32)
    """
    op = "adaptive_max_pool2d_backward"
    array, gradient = _same_dtype(_array(op, "x", x), _array(op, "dy", dy))
    array, channels_last = _image(op, "x", array)
    _, argmax = _adaptive_max_pool2d(array, output_size, op=op)
    assert argmax is not None
    return _adaptive_max_pool2d_backward(gradient, argmax, array.shape, channels_last)


def adaptive_avg_pool2d(x: ArrayLike, output_size: Any) -> Array:
    """Mean over as many parts as the output has elements; part i of n is floor(i H / n) to ceil((i + 1) H / n).

    Parameters
    ----------
    x : array_like, (N, C, H, W)
    output_size : int or (int, int)
        OH and OW, at least 1; None keeps the input's. 1 is `global_avg_pool2d`.

    Returns
    -------
    ndarray (N, C, OH, OW)
        Of x's memory format.

    Examples
    --------
    >>> adaptive_avg_pool2d(np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4), (2, None))[0, 0]
    array([[ 2.,  3.,  4.,  5.],
           [10., 11., 12., 13.]], dtype=float32)
    """
    op = "adaptive_avg_pool2d"
    array, channels_last = _image(op, "x", x)
    out_size = _adaptive_size(op, output_size, array.shape)
    y = _K.empty((*array.shape[:2], *out_size), array.dtype, channels_last)
    if y.size and out_size == (1, 1):
        _K.global_avg_pool2d_forward(array, y)
    elif y.size:
        _K.adaptive_avg_pool2d_forward(array, out_size, y)
    return y


def adaptive_avg_pool2d_backward(
    dy: ArrayLike, in_shape: tuple[int, ...], *, channels_last: bool | None = None
) -> Array:
    """Gradient of `adaptive_avg_pool2d` for an input of shape ``in_shape`` (N, C, H, W), in dy's memory format.

    Examples
    --------
    >>> adaptive_avg_pool2d_backward(np.float32([[[[4]]]]), (1, 1, 2, 2))[0, 0]
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    op = "adaptive_avg_pool2d_backward"
    in_shape = _shape_of(op, "in_shape", in_shape)
    gradient, last = _image(op, "dy", dy, channels_last)
    if len(in_shape) != 4 or gradient.shape[:2] != tuple(in_shape[:2]) or (0 in gradient.shape[2:]):
        expected = ", ".join(map(str, (*in_shape[:2], "OH", "OW")))
        raise ShapeError(f"{op}: expected dy of shape ({expected}), got {gradient.shape}")
    if 0 in in_shape[2:]:
        raise ShapeError(f"{op}: expected in_shape with a height and a width of at least 1, got {tuple(in_shape)}")
    dx = _K.empty(tuple(in_shape), gradient.dtype, last)
    if dx.size and gradient.shape[2:] == (1, 1):
        _K.global_avg_pool2d_backward(gradient, tuple(in_shape[2:]), dx)
    elif dx.size:
        _K.adaptive_avg_pool2d_backward(gradient, tuple(in_shape[2:]), dx)
    return dx


def global_avg_pool2d(x: ArrayLike) -> Array:
    """Mean over height and width: (N, C, H, W) -> (N, C, 1, 1).

    Examples
    --------
    >>> global_avg_pool2d(np.ones((1, 2, 5, 5), np.float32)).ravel()
    array([1., 1.], dtype=float32)
    """
    array, _ = _image("global_avg_pool2d", "x", x)
    if 0 in array.shape[2:]:
        raise ShapeError(f"global_avg_pool2d: expected x with a height and a width of at least 1, got {array.shape}")
    y = _K.empty((*array.shape[:2], 1, 1), array.dtype)
    if y.size:
        _K.global_avg_pool2d_forward(array, y)
    return y


def global_avg_pool2d_backward(dy: ArrayLike, in_shape: tuple[int, ...], *, channels_last: bool = False) -> Array:
    """Gradient of `global_avg_pool2d` for an input of shape ``in_shape``: dy / (H W) everywhere.

    Examples
    --------
    >>> global_avg_pool2d_backward(np.float32([[[[4]]]]), (1, 1, 2, 2))[0, 0]
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    op = "global_avg_pool2d_backward"
    in_shape = _shape_of(op, "in_shape", in_shape)
    gradient = _rowmajor(op, "dy", dy)
    if gradient.shape != (*in_shape[:2], 1, 1):
        raise ShapeError(f"{op}: expected dy of shape {(*in_shape[:2], 1, 1)}, got {gradient.shape}")
    dx = _K.empty(tuple(in_shape), gradient.dtype, channels_last)
    if dx.size:
        _K.global_avg_pool2d_backward(gradient, tuple(in_shape[2:]), dx)
    return dx


# ---- convolution ----------------------------------------------------------------------------------------------------

#: algorithm= of conv2d and conv2d_backward, and the dtypes that it takes; conv2d_<algorithm>_<pass> runs it
_ALGORITHMS: dict[str, tuple[np.dtype[Any], ...]] = {
    "im2col": (_FLOAT32, _FLOAT64),
    "winograd": (_FLOAT32,),
    "amx": (_FLOAT32,),
}


def _conv_kernel(op: str, pass_: str, algorithm: str | None, dtype: np.dtype[Any], noun: str = "conv2d") -> Any:
    """The kernel for ``algorithm``; None leaves the choice to the kernels."""
    if algorithm is None:
        return getattr(_K, f"{noun}_{pass_}")
    names = [name for name in _ALGORITHMS if pass_ == "forward" or name != "winograd"]
    if noun != "conv2d":
        names = ["amx"]
    if algorithm not in names:
        raise ValueError(f"{op}: unknown algorithm {algorithm!r}; expected one of {', '.join(names)}")
    dtypes = _ALGORITHMS[algorithm]
    if dtype not in dtypes:
        raise ValueError(f"{op}: algorithm {algorithm!r} computes {dtypes[0]}, not {dtype}")
    from . import _backends

    module = _backends.core()
    if algorithm == "amx" and (module is None or module.isa() != "amx"):
        here = _backends.name if module is None else module.isa()
        raise RuntimeError(f"{op}: algorithm {algorithm!r} needs the compiled kernels for amx; in use: {here!r}")
    # The other backends have one algorithm, which is im2col.
    return getattr(_K, f"{noun}_{algorithm}_{pass_}" if module is not None else f"{noun}_{pass_}")


def _groups(op: str, groups: int) -> int:
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"{op}: groups must be a whole number of at least 1, got {groups!r}")
    return int(groups)


def _conv_channels(op: str, x: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    """Raise unless the shapes of x and weight go together."""
    groups, c, o = _groups(op, groups), x[1], weight[0]
    if c % groups or o % groups:
        raise ShapeError(f"{op}: groups must divide the channels; got {groups} groups for {c} in and {o} out")
    if weight[1] * groups != c:
        expects = f"{weight[1]} * {groups} groups = {weight[1] * groups}" if groups != 1 else f"{weight[1]}"
        raise ShapeError(f"{op}: x has {c} channels (shape {x}) but weight {weight} expects {expects}")


def _conv_geometry(
    op: str, x: Array, weight: ArrayLike, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair, groups: int
) -> tuple[Array, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The weight, (stride, padding, dilation) as pairs, and the output's height and width."""
    w = _rowmajor(op, "weight", weight)
    if w.ndim != 4:
        raise ShapeError(f"{op}: expected weight of shape (O, C / groups, kh, kw), got {w.shape}")
    return w, *_conv_plan((x.shape, w.shape), op, stride, padding, dilation, groups)


@_remembered
def _conv_plan(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    op: str,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Stride, padding and dilation as pairs, and the output's height and width."""
    shape, weight = sizes
    _conv_channels(op, shape, weight, groups)
    if 0 in weight[2:]:
        raise ShapeError(f"{op}: expected a kernel of at least 1 x 1, got weight {weight}")
    s, p, d = _pair(op, "stride", stride, 1), _pair(op, "padding", padding, 0), _pair(op, "dilation", dilation, 1)
    return s, p, d, _output_size(op, (shape[2], shape[3]), (weight[2], weight[3]), s, p, d)


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    batch_norm: BatchNormStatistics | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    """2-D convolution (cross-correlation) with everything that may follow it, in one pass.

    y = activation(batch_norm(conv(x, weight) + bias) + residual)

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        C-contiguous and channels-last memory are both fast; anything else is copied first.
    weight : array_like, (O, C / groups, kh, kw)
    bias : array_like (O,), optional
    stride, padding, dilation : int or (int, int)
        padding is of zeros, on both sides.
    groups : int
        Divides C and O.
    batch_norm : (gamma, beta, mean, var, eps), optional
        Each an array (O,), gamma and beta may be None; as at test time.
    residual : array_like, (N, O, OH, OW), optional
    activation : str or (str, float), optional
        The name of an element-wise function, with its parameters if they are not the usual ones: "relu",
        ("leaky_relu", 0.1), ("hardtanh", 0.0, 6.0); "gelu_tanh" is gelu with ``approximate="tanh"``.
    algorithm : str, optional
        None chooses; "im2col", "winograd" or "amx" forces, or raises where it cannot run. "winograd" computes 3x3
        kernels of stride 1 with 2.25 times fewer products, others as im2col does.
    out : ndarray (N, O, OH, OW), optional; in either memory format
        Must not overlap an input.

    Returns
    -------
    ndarray (N, O, OH, OW)
        OH = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1; of x's memory format.

    Examples
    --------
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2), np.float32), activation="relu")[0, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    return _conv2d(
        "conv2d", x, weight, bias, stride, padding, dilation, groups,
        batch_norm=batch_norm, residual=residual, activation=activation, algorithm=algorithm, out=out,
    )  # fmt: skip


def _conv2d(
    op: str,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
    *,
    batch_norm: BatchNormStatistics | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    then = _activation(op, activation)
    array, channels_last = _image(op, "x", x)
    w, s, p, d, (oh, ow) = _conv_geometry(op, array, weight, stride, padding, dilation, groups)
    o = w.shape[0]
    shape = (array.shape[0], o, oh, ow)
    biases = _vector(op, "bias", bias, o, "output channel")
    gamma = beta = mean = var = None
    eps = 0.0
    if batch_norm is not None:
        if not isinstance(batch_norm, (tuple, list)) or len(batch_norm) != 5:
            raise TypeError(f"{op}: batch_norm must be (gamma, beta, mean, var, eps)")
        gamma, beta, mean, var = (
            _vector(op, f"batch_norm's {part}", value, o, "output channel")
            for part, value in zip(("gamma", "beta", "mean", "var"), batch_norm[:4], strict=True)
        )
        if mean is None or var is None:
            raise TypeError(f"{op}: batch_norm needs mean and var")
        eps = _epsilon(op, batch_norm[4])
    skip = None if residual is None else _image(op, "residual", residual)[0]
    if skip is not None and skip.shape != shape:
        raise ShapeError(f"{op}: expected residual of the output's shape {shape}, got {skip.shape}")
    array, w, biases, gamma, beta, mean, var, skip = _same_dtype(array, w, biases, gamma, beta, mean, var, skip)
    # The output has the memory format of x, or the one that `out` has.
    y_last = channels_last if not isinstance(out, np.ndarray) or out.shape != shape else _prefers_channels_last(out)
    if skip is not None:
        skip, _ = _image(op, "residual", skip, y_last)
    kernel = _K.conv2d_forward if algorithm is None else _conv_kernel(op, "forward", algorithm, array.dtype)
    y = _out(op, out, shape, array.dtype, y_last, array, w, biases, skip)
    statistics = None if batch_norm is None else (gamma, beta, mean, var, eps)
    if not y.size:
        return y
    if not array.size or not w.size:  # no channels to sum over: the specification does it
        y[...] = reference.conv2d_forward(array, w, biases, s, p, d, groups, statistics, skip, then)
        return y
    kernel(array, w, biases, s, p, d, int(groups), statistics, skip, then, y)
    return y


def _max_pool2d_bfloat16(
    x: Array, kernel_size: IntOrPair, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair, out: Array
) -> Array:
    """`max_pool2d` in programs, of bfloat16: channels-last arrays of uint16."""
    op = "max_pool2d"
    k, s, p = _pair(op, "kernel_size", kernel_size, 1), _pair(op, "stride", stride, 1), _pair(op, "padding", padding, 0)
    _K.max_pool2d_forward(x, k, s, p, _pair(op, "dilation", dilation, 1), out.shape[2:], out, None)
    return out


def _conv2d_bfloat16(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
    residual: Array | None,
    activation: Activation,
    out: Array,
) -> Array:
    """`conv2d` in programs, where some of x, residual and out are of bfloat16: channels-last arrays of uint16."""
    op = "conv2d"
    array = x if x.dtype == np.uint16 else _image(op, "x", x)[0]
    w, s, p, d, _ = _conv_geometry(op, array, weight, stride, padding, dilation, groups)
    skip = residual if residual is None or residual.dtype == np.uint16 else _image(op, "residual", residual, True)[0]
    _K.conv2d_forward(array, w, bias, s, p, d, groups, None, skip, _activation(op, activation), out)
    return out


def inverted_residual(
    x: ArrayLike,
    expand: tuple[ArrayLike, ArrayLike | None] | None,
    depthwise: tuple[ArrayLike, ArrayLike | None],
    project: tuple[ArrayLike, ArrayLike | None],
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    *,
    residual: ArrayLike | None = None,
    activations: tuple[Activation, Activation, Activation] = (None, None, None),
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    """Three convolutions in one: 1x1 to M hidden channels, depthwise, 1x1 to O channels.

    y = a3(conv(a2(depthwise_conv(a1(conv(x))))) + residual), the block of MobileNetV2 [1]_; without ``expand`` the
    depthwise separable convolution of MobileNet [2]_. On tiles (AMX), from channels-last memory, the hidden channels
    never leave the cache; compiled programs find such convolutions by themselves.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
    expand : (weight (M, C, 1, 1), bias (M,) or None), or None
        None leaves the first convolution and a1 out; then M is C.
    depthwise : (weight (M, 1, kh, kw), bias (M,) or None)
    project : (weight (O, M, 1, 1), bias (O,) or None)
    stride, padding : int or (int, int)
        Of the depthwise convolution; padding is of zeros, on both sides.
    residual : array_like, (N, O, OH, OW), optional
    activations : (a1, a2, a3)
        Each as ``activation`` of `conv2d`.
    algorithm : str, optional
        None chooses; "amx" forces tiles, or raises where there are none. What these do not take (float64, other kernels
        than 3x3 and 5x5, costly a1 and a2) is three convolutions in a row in any case.
    out : ndarray (N, O, OH, OW), optional; in either memory format
        Must not overlap an input.

    Returns
    -------
    ndarray (N, O, OH, OW)
        Of x's memory format.

    References
    ----------
    .. [1] Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv 1801.04381
    .. [2] Howard et al., "MobileNets", arXiv 1704.04861

    Examples
    --------
    >>> x, ones = np.ones((1, 2, 3, 3), np.float32), np.ones((4, 2, 1, 1), np.float32)
    >>> depthwise, project = np.ones((4, 1, 3, 3), np.float32), np.ones((1, 4, 1, 1), np.float32)
    >>> inverted_residual(x, (ones, None), (depthwise, None), (project, None), padding=1)[0, 0]
    array([[32., 48., 32.],
           [48., 72., 48.],
           [32., 48., 32.]], dtype=float32)
    """
    op = "inverted_residual"
    array, channels_last = _image(op, "x", x)
    if not isinstance(activations, (tuple, list)) or len(activations) != 3:
        raise TypeError(f"{op}: activations must be three, of expand, depthwise and project, got {activations!r}")
    first, second, last = (_activation(op, one) for one in activations)
    n = array.shape[0]
    weights: list[Array] = []
    biases: list[Array | None] = []
    hidden: tuple[int, ...] = array.shape
    one, none = (1, 1), (0, 0)
    s, p = one, none
    for part, given in (("expand", expand), ("depthwise", depthwise), ("project", project)):
        if given is None and part == "expand":
            continue
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise TypeError(f"{op}: {part} must be (weight, bias or None), got {type(given).__name__}")
        w = _rowmajor(op, f"{part}'s weight", given[0])
        if w.ndim != 4 or (part != "depthwise" and w.shape[2:] != one):
            kind = "(M, 1, kh, kw)" if part == "depthwise" else "(outputs, inputs, 1, 1)"
            raise ShapeError(f"{op}: expected {part}'s weight of shape {kind}, got {w.shape}")
        if part == "depthwise":
            if w.shape[:2] != (hidden[1], 1) or not hidden[1]:
                raise ShapeError(
                    f"{op}: expected depthwise's weight of shape ({hidden[1] or 'M'}, 1, kh, kw), one kernel for each "
                    f"hidden channel, of which there is at least one, got {w.shape}"
                )
            s, p, _, size = _conv_plan((hidden, w.shape), op, stride, padding, 1, hidden[1])
        else:
            size = hidden[2], hidden[3]
            _conv_plan((hidden, w.shape), f"{op}: {part}", 1, 0, 1, 1)
        hidden = (n, w.shape[0], *size)
        weights.append(w)
        biases.append(_vector(op, f"{part}'s bias", given[1], w.shape[0], "output channel"))
    skip = None if residual is None else _image(op, "residual", residual)[0]
    if skip is not None and skip.shape != hidden:
        raise ShapeError(f"{op}: expected residual of the output's shape {hidden}, got {skip.shape}")
    count = len(weights)
    array, *rest = _same_dtype(array, *weights, *biases, skip)
    skip = rest.pop()
    pairs: list[Any] = list(zip(rest[:count], rest[count:], strict=True))
    y_last = channels_last if not isinstance(out, np.ndarray) or out.shape != hidden else _prefers_channels_last(out)
    if skip is not None:
        skip, _ = _image(op, "residual", skip, y_last)
    kernel = _conv_kernel(op, "forward", algorithm, array.dtype, "inverted_residual")
    y = _out(op, out, hidden, array.dtype, y_last, array, *rest, skip)
    if not y.size:
        return y
    ends = first, second, last
    widened, narrow, back = [None, *pairs][-3:]
    if not array.size or not all(w.size for w, _ in pairs):  # no channels to sum over: the specification does it
        y[...] = reference.inverted_residual_forward(array, widened, narrow, back, s, p, skip, ends)
        return y
    kernel(array, widened, narrow, back, s, p, skip, ends, y)
    return y


def conv2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    need_dx: bool = True,
    algorithm: str | None = None,
    into: tuple[Array, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """Gradients of conv(x, weight) + bias.

    Parameters
    ----------
    dy : array_like, (N, O, OH, OW)
    x : array_like, (N, C, H, W)
    weight : array_like, (O, C / groups, kh, kw)
    need_dx : bool
        False leaves out dx (None), as in the first layer of a network.
    algorithm : str, optional
        As in `conv2d`.
    into : (dweight, dbias), optional
        Arrays to which the gradients are added, instead of new ones; dbias may be None.

    Returns
    -------
    dx : ndarray (N, C, H, W)
        Of x's memory format.
    dweight : ndarray (O, C / groups, kh, kw)
    dbias : ndarray (O,)

    Examples
    --------
    >>> x, w = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 1, 1), np.float32)
    >>> dx, dweight, dbias = conv2d_backward(np.full((1, 1, 2, 2), 0.5, np.float32), x, w)
    >>> dweight.item(), dbias.item()
    (2.0, 2.0)
    """
    return _conv2d_backward(
        "conv2d_backward", dy, x, weight, stride, padding, dilation, groups,
        need_dx=need_dx, algorithm=algorithm, into=into,
    )  # fmt: skip


def _conv2d_backward(
    op: str,
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
    groups: int,
    *,
    need_dx: bool,
    algorithm: str | None = None,
    into: tuple[Array, Array | None] | None,
) -> tuple[Array | None, Array, Array | None]:
    array, channels_last = _image(op, "x", x)
    w, s, p, d, (oh, ow) = _conv_geometry(op, array, weight, stride, padding, dilation, groups)
    gradient, _ = _image(op, "dy", dy)
    shape = (array.shape[0], w.shape[0], oh, ow)
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of the output's shape {shape}, got {gradient.shape}")
    gradient, array, w = _same_dtype(gradient, array, w)
    gradient, _ = _image(op, "dy", gradient, channels_last)
    if into is not None and not _takes(op, into, w.dtype, w.shape, w.shape[:1]):
        dx, *found = conv2d_backward(gradient, array, w, s, p, d, groups, need_dx=need_dx, algorithm=algorithm)
        return dx, *_added(into, found)
    kernel = _conv_kernel(op, "backward", algorithm, array.dtype)
    dx = _K.empty(array.shape, array.dtype, channels_last) if need_dx else None
    dweight, dbias = into or (_K.empty(w.shape, w.dtype), _K.empty((w.shape[0],), w.dtype))
    accumulate = _gathers(into)
    if not gradient.size or not array.size or not w.size:  # sums over nothing: the specification does it
        results = reference.conv2d_backward(gradient, array, w, s, p, d, groups)
        for target, result in zip((dx, dweight, dbias), results, strict=True):
            if target is not None:
                target[...] = result + target if accumulate and target is not dx else result
        return dx, dweight, dbias
    kernel(gradient, array, w, s, p, d, int(groups), accumulate, dx, dweight, dbias)
    return dx, dweight, dbias


def _conv1d_geometry(
    op: str,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrSingle,
    padding: IntOrSingle,
    dilation: IntOrSingle,
    groups: int,
) -> tuple[Array, Array, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The arrays as images of one row, and (stride, padding, dilation) as pairs."""
    array, w = _rowmajor(op, "x", x), _rowmajor(op, "weight", weight)
    if array.ndim != 3:
        raise ShapeError(f"{op}: expected x of shape (N, C, L), got {array.shape}")
    if w.ndim != 3:
        raise ShapeError(f"{op}: expected weight of shape (O, C / groups, k), got {w.shape}")
    _conv_channels(op, array.shape, w.shape, groups)
    if w.shape[2] == 0:
        raise ShapeError(f"{op}: expected a kernel of at least 1, got weight {w.shape}")
    s, p, d = (
        _single(op, name, value, least)
        for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
    )
    return array[:, :, np.newaxis], w[:, :, np.newaxis], (1, s), (0, p), (1, d)


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrSingle = 1,
    padding: IntOrSingle = 0,
    dilation: IntOrSingle = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
) -> Array:
    """1-D convolution: `conv2d` of images of one row.

    Parameters
    ----------
    x : array_like, (N, C, L)
    weight : array_like, (O, C / groups, k)
    bias : array_like (O,), optional
    stride, padding, dilation : int or (int,)
    groups : int
    activation : str or (str, float), optional
        As in `conv2d`.

    Returns
    -------
    ndarray (N, O, OL)
        OL = floor((L + 2 padding - dilation (k - 1) - 1) / stride) + 1.

    Examples
    --------
    >>> conv1d(np.float32([[[1, 2, 4, 8]]]), np.float32([[[-1, 1]]]))
    array([[[1., 2., 4.]]], dtype=float32)
    """
    op = "conv1d"
    array, w, s, p, d = _conv1d_geometry(op, x, weight, stride, padding, dilation, groups)
    return _conv2d(op, array, w, bias, s, p, d, groups, activation=activation)[:, :, 0]


def conv1d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrSingle = 1,
    padding: IntOrSingle = 0,
    dilation: IntOrSingle = 1,
    groups: int = 1,
    *,
    need_dx: bool = True,
    into: tuple[Array, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `conv1d`: dx (N, C, L), dweight (O, C / groups, k), dbias (O,) for dy (N, O, OL).

    ``need_dx`` and ``into`` are those of `conv2d_backward`.

    Examples
    --------
    >>> dx, dweight, dbias = conv1d_backward(np.float32([[[1, 1]]]), np.float32([[[1, 2, 4]]]), np.float32([[[-1, 1]]]))
    >>> dx, dweight
    (array([[[-1.,  0.,  1.]]], dtype=float32), array([[[3., 6.]]], dtype=float32))
    """
    op = "conv1d_backward"
    array, w, s, p, d = _conv1d_geometry(op, x, weight, stride, padding, dilation, groups)
    gradient = _rowmajor(op, "dy", dy)
    shape = (array.shape[0], w.shape[0], _output_size(op, array.shape[2:], w.shape[2:], s, p, d)[1])
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of the output's shape {shape}, got {gradient.shape}")
    rows = into and (into[0][:, :, np.newaxis], into[1])
    dx, dweight, dbias = _conv2d_backward(
        op, gradient[:, :, np.newaxis], array, w, s, p, d, groups, need_dx=need_dx, into=rows
    )
    return None if dx is None else dx[:, :, 0], dweight[:, :, 0], dbias


def _conv_transpose_geometry(
    op: str,
    x: Array,
    weight: ArrayLike,
    stride: IntOrPair,
    padding: IntOrPair,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
) -> tuple[Array, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The weight, (stride, padding, dilation) as pairs, and the output's height and width."""
    w = _rowmajor(op, "weight", weight)
    if w.ndim != 4:
        raise ShapeError(f"{op}: expected weight of shape (C, O / groups, kh, kw), got {w.shape}")
    return w, *_conv_transpose_plan((x.shape, w.shape), op, stride, padding, output_padding, groups, dilation)


@_remembered
def _conv_transpose_plan(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    op: str,
    stride: IntOrPair,
    padding: IntOrPair,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Stride, padding and dilation as pairs, and the output's height and width."""
    shape, weight = sizes
    groups, c = _groups(op, groups), shape[1]
    if weight[0] != c:
        raise ShapeError(f"{op}: x has {c} channels (shape {shape}) but weight {weight} expects {weight[0]}")
    if c % groups:
        raise ShapeError(f"{op}: groups must divide the channels; got {groups} groups for {c} in")
    if 0 in weight[2:]:
        raise ShapeError(f"{op}: expected a kernel of at least 1 x 1, got weight {weight}")
    s, p, d = _pair(op, "stride", stride, 1), _pair(op, "padding", padding, 0), _pair(op, "dilation", dilation, 1)
    return s, p, d, _conv_transpose_size(op, shape[2:], weight[2:], s, p, output_padding, d)


def _conv_transpose_size(
    op: str,
    in_size: Sequence[int],
    kernel: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: IntOrPair,
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1, for height and width."""
    more = _pair(op, "output_padding", output_padding, 0)
    out = []
    for size, k, s, p, m, d, axis in zip(
        in_size, kernel, stride, padding, more, dilation, ("height", "width"), strict=True
    ):
        if m >= max(s, d):  # (as in torch): from there on, the convolution makes another size of it
            raise ValueError(
                f"{op}: output_padding must be smaller than stride or dilation, got {m} in {axis} for stride {s} and "
                f"dilation {d}"
            )
        if size < 1:
            raise ShapeError(f"{op}: expected x with a height and a width of at least 1, got {size} in {axis}")
        n = (size - 1) * s - 2 * p + d * (k - 1) + m + 1
        if n < 1:
            raise ShapeError(f"{op}: the output would have {n} in {axis}; use less padding or a larger kernel")
        out.append(n)
    return out[0], out[1]


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    activation: Activation = None,
    out: Array | None = None,
) -> Array:
    """Transposed 2-D convolution: the gradient of a convolution by its input, as a layer that enlarges.

    y = activation(conv_transpose(x, weight) + bias): each element of x adds weight times itself to a window of y; the
    windows are those with which a convolution (same weight, stride, padding, dilation) would read y.

    Parameters
    ----------
    x : array_like, (N, C, H, W)
        C-contiguous and channels-last memory are both fast; anything else is copied first.
    weight : array_like, (C, O / groups, kh, kw)
        The channels in come first, unlike in `conv2d`.
    bias : array_like (O,), optional
    stride, padding, dilation : int or (int, int)
        Those of the convolution that is transposed: padding makes the output smaller.
    output_padding : int or (int, int)
        Rows and columns that the output has more at its end, of the sizes that the convolution would make (H, W) of.
    groups : int
        Divides C and O.
    activation : str or (str, float), optional
        As in `conv2d`.
    out : ndarray (N, O, OH, OW), optional
        Must not overlap an input.

    Returns
    -------
    ndarray (N, O, OH, OW)
        OH = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1; of x's memory format.

    References
    ----------
    Zeiler et al., CVPR 2010; Dumoulin and Visin, arXiv 1603.07285, draw it.

    Examples
    --------
    >>> conv_transpose2d(np.float32([[[[1, 2]]]]), np.ones((1, 1, 1, 2), np.float32), stride=2)[0, 0]
    array([[1., 1., 2., 2.]], dtype=float32)
    """
    op = "conv_transpose2d"
    then = _activation(op, activation)
    array, channels_last = _image(op, "x", x)
    w, s, p, d, size = _conv_transpose_geometry(op, array, weight, stride, padding, output_padding, groups, dilation)
    array = _conv_transpose_source(op, array, w.shape[2:], s, p, d, size)
    o = w.shape[1] * groups
    biases = _vector(op, "bias", bias, o, "output channel")
    array, w, biases = _same_dtype(array, w, biases)
    shape = (array.shape[0], o, *size)
    y = _out(op, out, shape, array.dtype, channels_last, array, w, biases)
    if not y.size:
        return y
    if not array.size or not w.size:  # no channels to sum over: the specification does it
        y[...] = reference.conv_transpose2d_forward(array, w, biases, s, p, d, int(groups), size, then)
        return y
    _K.conv_transpose2d_forward(array, w, biases, s, p, d, int(groups), size, then, y)
    return y


def conv_transpose2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    need_dx: bool = True,
    into: tuple[Array, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """Gradients of `conv_transpose2d`: dx is the convolution of dy, dweight that of a convolution from dy to x.

    Parameters
    ----------
    dy : array_like, (N, O, OH, OW)
    x : array_like, (N, C, H, W)
    weight : array_like, (C, O / groups, kh, kw)
    need_dx, into
        As in `conv2d_backward`.

    Returns
    -------
    dx : ndarray (N, C, H, W)
        Of x's memory format.
    dweight : ndarray (C, O / groups, kh, kw)
    dbias : ndarray (O,)

    Examples
    --------
    >>> x, w = np.float32([[[[1, 2]]]]), np.ones((1, 1, 1, 2), np.float32)
    >>> dx, dweight, dbias = conv_transpose2d_backward(np.float32([[[[1, 1, 2, 2]]]]), x, w, stride=2)
    >>> dx, dweight, dbias
    (array([[[[2., 4.]]]], dtype=float32), array([[[[5., 5.]]]], dtype=float32), array([6.], dtype=float32))
    """
    op = "conv_transpose2d_backward"
    array, channels_last = _image(op, "x", x)
    w, s, p, d, size = _conv_transpose_geometry(op, array, weight, stride, padding, output_padding, groups, dilation)
    o = w.shape[1] * groups
    gradient, _ = _image(op, "dy", dy)
    shape = (array.shape[0], o, *size)
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of the output's shape {shape}, got {gradient.shape}")
    gradient, array, w = _same_dtype(gradient, array, w)
    gradient, _ = _image(op, "dy", gradient, channels_last)
    if into is not None and not _takes(op, into, w.dtype, w.shape, (o,)):
        dx, *found = conv_transpose2d_backward(gradient, array, w, s, p, output_padding, groups, d, need_dx=need_dx)
        return dx, *_added(into, found)
    in_size = array.shape[2:]
    array = _conv_transpose_source(op, _image(op, "x", array, channels_last)[0], w.shape[2:], s, p, d, size)
    dx = _K.empty(array.shape, array.dtype, channels_last) if need_dx else None
    dweight, dbias = into or (_K.empty(w.shape, w.dtype), _K.empty((o,), w.dtype))
    accumulate, groups = into is not None, int(groups)
    if not gradient.size or not array.size or not w.size:  # sums over nothing: the specification does it
        if dx is not None and dx.size:
            dx[...] = reference.conv2d_forward(gradient, w, None, s, p, d, groups, None, None, None)
        results = reference.conv2d_backward(array, gradient, w, s, p, d, groups)[1], gradient.sum((0, 2, 3))
        for target, result in zip((dweight, dbias), results, strict=True):
            if target is not None:
                target[...] = result + target if accumulate else result
    else:
        if dx is not None:
            _K.conv2d_forward(gradient, w, None, s, p, d, groups, None, None, None, dx)
        _K.conv2d_backward(array, gradient, w, s, p, d, groups, accumulate, None, dweight, None)
        if dbias is not None:  # of a convolution of one tap a channel, which has dy for its dy
            like = dbias.reshape(o, 1, 1, 1)  # not read: it tells the number of outputs
            _K.conv2d_backward(gradient, gradient, like, (1, 1), (0, 0), (1, 1), o, accumulate, None, None, dbias)
    if dx is not None and dx.shape[2:] != in_size:
        dx = _in_format(dx[:, :, : in_size[0], : in_size[1]], channels_last)
    return dx, dweight, dbias


def _conv_transpose_source(
    op: str,
    x: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> Array:
    """x, with zeros at its end where the convolution would make more of an output of ``size``: output_padding may be
    stride or more (if dilation is)."""
    height, width = _source_size((size, kernel, stride, padding, dilation), op)
    if (height, width) == x.shape[2:]:
        return x
    return pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


@_remembered
def _source_size(sizes: tuple[Any, ...], op: str) -> tuple[int, int]:
    return _output_size(op, *sizes)


def _columns_geometry(
    op: str, shape: Sequence[int], kernel_size: IntOrPair, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair
) -> tuple[tuple[int, int], ...]:
    k, s = _pair(op, "kernel_size", kernel_size, 1), _pair(op, "stride", stride, 1)
    p, d = _pair(op, "padding", padding, 0), _pair(op, "dilation", dilation, 1)
    return k, s, p, d, _output_size(op, (shape[-2], shape[-1]), k, s, p, d)


def im2col(
    x: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair = 1, padding: IntOrPair = 0, dilation: IntOrPair = 1
) -> Array:
    """The patches of x as columns: (N, C, H, W) -> (N, C kh kw, OH OW), as torch's ``unfold``.

    A convolution is weight.reshape(O, -1) @ im2col(x). Channels-last input is copied first.

    Examples
    --------
    >>> im2col(np.arange(4.0).reshape(1, 1, 2, 2), 2)[0].ravel()
    array([0., 1., 2., 3.])
    """
    op = "im2col"
    array, _ = _image(op, "x", x, channels_last=False)
    k, s, p, d, (oh, ow) = _columns_geometry(op, array.shape, kernel_size, stride, padding, dilation)
    n, c = array.shape[:2]
    y = _K.empty((n, c * k[0] * k[1], oh * ow), array.dtype)
    if y.size:
        _K.im2col_forward(array, k, s, p, d, y)
    return y


def col2im(
    cols: ArrayLike,
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """The transpose of `im2col`: columns (N, C kh kw, OH OW) are summed into images (N, C, *output_size).

    Examples
    --------
    >>> col2im(np.ones((1, 4, 4)), 3, 2)[0, 0]  # how many 2 x 2 windows hold each pixel
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    op = "col2im"
    array = _rowmajor(op, "cols", cols)
    size = _pair(op, "output_size", output_size, 0)
    k, s, p, d, (oh, ow) = _columns_geometry(op, size, kernel_size, stride, padding, dilation)
    taps = k[0] * k[1]
    if array.ndim != 3 or array.shape[1] % taps or array.shape[2] != oh * ow:
        raise ShapeError(f"{op}: expected cols of shape (N, C * {taps}, {oh} * {ow}), got {array.shape}")
    x = _K.empty((array.shape[0], array.shape[1] // taps, *size), array.dtype)
    if x.size:
        _K.col2im_forward(array, size, k, s, p, d, x)
    return x


# ---- interpolation and padding --------------------------------------------------------------------------------------

Matrices: TypeAlias = "list[Matrix | None]"


@lru_cache(maxsize=256)
def _resample_steps(
    shape: tuple[int, ...], channels_last: bool, dtype: np.dtype[Any], matrices: tuple[Matrix | None, ...]
) -> tuple[tuple[int, ...], list[tuple[Any, ...]]]:
    """The shape of the result, and for each call of the kernel: the shapes as which it sees source and target, both
    tables, and the target's shape in memory order."""
    order = (0, 2, 3, 1) if channels_last else tuple(range(len(shape)))
    in_memory, sizes = [matrices[axis] for axis in order], [shape[axis] for axis in order]
    axes = [axis for axis, matrix in enumerate(in_memory) if matrix is not None and not matrix.is_identity]
    steps = []
    while axes:
        axis = axes.pop(0)
        rows, columns = in_memory[axis], None
        assert rows is not None
        h, oh, w, ow, end = sizes[axis], rows.shape[0], 1, 1, axis + 1
        if axes and axes[0] == end:  # two neighbours in one pass
            columns = in_memory[axes.pop(0)]
            assert columns is not None
            w, ow, end = sizes[end], columns.shape[0], end + 1
        outer, inner = math.prod(sizes[:axis]), math.prod(sizes[end:])
        if columns is not None and 1 < inner < 4:  # channels-last of few channels: they fill no vector of their own
            columns = columns.times(inner)
            w, ow, inner = w * inner, ow * inner, 1
        elif columns is None and inner == 1:  # the last axis
            rows, columns = None, rows
            outer, h, oh, w, ow = 1, outer, outer, h, oh
        elif columns is None:  # whole rows
            w, ow, inner = inner, inner, 1
        sizes[axis:end] = [m.shape[0] for m in in_memory[axis:end] if m is not None]
        tables = (() if m is None else m.table(dtype) for m in (rows, columns))
        steps.append(((outer, h, w, inner), *tables, (outer, oh, ow, inner), tuple(sizes)))
    return tuple(n if m is None else m.shape[0] for n, m in zip(shape, matrices, strict=True)), steps


def _resample(op: str, name: str, x: ArrayLike, matrices: Matrices, value: float = 0.0) -> Array:
    """A matrix for each axis of x, None where it stays as it is, one after the other; of x's memory format."""
    array = _array(op, name, x)
    channels_last = _prefers_channels_last(array)
    if not channels_last and not array.flags.c_contiguous:
        array = _contiguous(array)
    shape, steps = _resample_steps(array.shape, channels_last, array.dtype, tuple(matrices))
    y = _K.empty(shape, array.dtype, channels_last)
    if not y.size:
        return y
    if not steps:
        _copy_into(y, array)
        return y
    source, target = array, y
    if channels_last:
        source, target = array.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1)
    for i, (view, rows, columns, out_view, out) in enumerate(steps):
        to = target if i == len(steps) - 1 else _K.empty(out, array.dtype)
        _K.resample(source.reshape(view), rows, columns, value, to.reshape(out_view))
        source = to
    return y


_INTERPOLATIONS = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "area": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "trilinear": (5,),
}


def _interpolation_size(
    op: str,
    shape: tuple[int, ...],
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The output's size and the scale of each axis, None where it is what the sizes say."""
    if len(shape) not in (3, 4, 5) or 0 in shape[2:]:
        raise ShapeError(
            f"{op}: expected x of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W) with at least one element along "
            f"each but N and C, got {shape}"
        )
    axes = len(shape) - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: expected either size or scale_factor, got {size!r} and {scale_factor!r}")
    if size is not None:
        sizes: Any = tuple(size) if isinstance(size, (list, tuple, np.ndarray)) else (size,) * axes
        if len(sizes) != axes or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in sizes):
            raise TypeError(f"{op}: size must be a whole number or {axes} of them, got {size!r}")
        if min(sizes) < 1:
            raise ValueError(f"{op}: size must be at least 1, got {size!r}")
        return tuple([int(n) for n in sizes]), (None,) * axes
    scales: Any = tuple(scale_factor) if isinstance(scale_factor, (list, tuple, np.ndarray)) else (scale_factor,) * axes
    if len(scales) != axes or any(not isinstance(f, (int, float, np.number)) for f in scales):
        raise TypeError(f"{op}: scale_factor must be a number or {axes} of them, got {scale_factor!r}")
    factors = tuple(_real(op, "scale_factor", f) for f in scales)
    if not all(0 < f < np.inf for f in factors):
        raise ValueError(f"{op}: scale_factor must be finite and above 0, got {scale_factor!r}")
    sizes = tuple(math.floor(n * f) for n, f in zip(shape[2:], factors, strict=True))
    if min(sizes) < 1:
        raise ShapeError(f"{op}: scale_factor {scale_factor!r} leaves nothing of {shape}")
    return sizes, factors


def _interpolation_mode(
    op: str,
    mode: str,
    align_corners: bool | None,
    antialias: bool,
    coordinates: str | None,
    rounding: str | None,
    exclude_outside: bool,
) -> None:
    """Raise where options do not go together."""
    if not isinstance(mode, str) or mode not in _INTERPOLATIONS:
        raise ValueError(f"{op}: unknown mode {mode!r}; expected one of {', '.join(_INTERPOLATIONS)}")
    if mode == "nearest" and not (align_corners is not None or antialias or coordinates or rounding or exclude_outside):
        return  # as most calls are
    smooth = "linear, bilinear, bicubic and trilinear"
    is_smooth = mode.endswith(("linear", "cubic"))
    if align_corners is not None and not is_smooth:
        raise ValueError(f"{op}: align_corners goes with {smooth}, not with {mode!r}")
    if align_corners and (coordinates is not None or antialias):
        raise ValueError(f"{op}: align_corners goes neither with coordinates nor with antialias")
    if coordinates is not None and (coordinates not in COORDINATES or mode in ("nearest-exact", "area")):
        raise ValueError(
            f"{op}: coordinates must be one of {', '.join(COORDINATES)}, with nearest, {smooth}; "
            f"got {coordinates!r} with {mode!r}"
        )
    if rounding is not None and (rounding not in ROUNDINGS or mode != "nearest" or coordinates is None):
        raise ValueError(
            f"{op}: rounding must be one of {', '.join(ROUNDINGS)}, with nearest and coordinates; "
            f"got {rounding!r} with {mode!r} and {coordinates!r}"
        )
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"{op}: antialias goes with bilinear and bicubic, not with {mode!r}")
    if exclude_outside and not is_smooth:
        raise ValueError(f"{op}: exclude_outside goes with {smooth}, not with {mode!r}")


@_remembered
def _interpolation(
    shape: tuple[int, ...],
    op: str,
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    mode: str,
    align_corners: bool | None,
    recompute_scale_factor: bool | None,
    antialias: bool,
    coordinates: str | None,
    rounding: str | None,
    cubic_coeff_a: float,
    exclude_outside: bool,
) -> Matrices:
    """The matrices of an interpolation of arrays of ``shape``."""
    _interpolation_mode(op, mode, align_corners, antialias, coordinates, rounding, exclude_outside)
    sizes, scales = _interpolation_size(op, shape, size, scale_factor)
    if len(shape) not in _INTERPOLATIONS[mode]:
        fits = ", ".join(name for name, ranks in _INTERPOLATIONS.items() if len(shape) in ranks)
        raise ShapeError(f"{op}: mode {mode!r} does not fit x of shape {shape}; for {len(shape)} dimensions: {fits}")
    if recompute_scale_factor or align_corners:
        scales = (None,) * len(sizes)
    if antialias and coordinates is None:  # as torch and Pillow have it
        exclude_outside, cubic_coeff_a = True, -0.5 if cubic_coeff_a == -0.75 else cubic_coeff_a
    kind = next((name for name in ("linear", "cubic") if mode.endswith(name)), mode)
    return [
        None,
        None,
        *(
            _resampling.interpolation(
                n, out, scale, kind, "align_corners" if align_corners else coordinates, rounding,
                _real(op, "cubic_coeff_a", cubic_coeff_a), bool(exclude_outside), bool(antialias),
            )
            for n, out, scale in zip(shape[2:], sizes, scales, strict=True)
        ),
    ]  # fmt: skip


def interpolate(
    x: ArrayLike,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    coordinates: str | None = None,
    rounding: str | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
) -> Array:
    """Images of another size: each element of the output is a weighted sum of its neighbours in the input.

    Parameters
    ----------
    x : array_like, (N, C, L), (N, C, H, W) or (N, C, D, H, W)
        C-contiguous and channels-last memory are both fast; anything else is copied first.
    size : int or sequence of int, optional
        Of the output, for each axis from the third on. Either this or scale_factor.
    scale_factor : float or sequence of float, optional
        The output has floor(factor * size) elements, which lie in the input as the factor says, not as the sizes do.
    mode : str
        "nearest", "nearest-exact", "area" for any of the shapes; "linear" for (N, C, L), "bilinear" and "bicubic" for
        (N, C, H, W), "trilinear" for (N, C, D, H, W).
    align_corners : bool, optional
        Whether first and last elements are points that map on one another, or the elements are areas (None, False).
    recompute_scale_factor : bool, optional
        True takes the scale from the sizes even if scale_factor is given.
    antialias : bool
        With bilinear and bicubic: when shrinking, weigh as many more elements, as Pillow does.
    coordinates : str, optional
        The conventions of ONNX's Resize instead of torch's: "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric",
        "align_corners", "asymmetric".
    rounding : str, optional
        With mode "nearest" and coordinates: "round_prefer_floor" (the default then), "round_prefer_ceil", "floor",
        "ceil".
    cubic_coeff_a : float
        Of bicubic: -0.75 as in torch, ONNX and OpenCV; Keys' own is -0.5, and that of torch's antialias.
    exclude_outside : bool
        Of the linear and cubic modes: leave out what lies outside instead of repeating the edge.

    Returns
    -------
    ndarray (N, C, ...)
        Of x's memory format. An element whose weight is 0 is not read: infinities spread no further than weights do.

    Examples
    --------
    >>> interpolate(np.float32([[[[1, 2]]]]), scale_factor=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    >>> interpolate(np.float32([[[1, 2]]]), 4, mode="linear")
    array([[[1.  , 1.25, 1.75, 2.  ]]], dtype=float32)
    """
    op = "interpolate"
    array = _array(op, "x", x)
    matrices = _interpolation(
        array.shape, op, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias,
        coordinates, rounding, cubic_coeff_a, exclude_outside,
    )  # fmt: skip
    return _resample(op, "x", array, matrices)


def interpolate_backward(
    dy: ArrayLike,
    in_shape: tuple[int, ...],
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    coordinates: str | None = None,
    rounding: str | None = None,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
) -> Array:
    """Gradient of `interpolate` for an input of shape ``in_shape``: the same weights, transposed.

    Examples
    --------
    >>> interpolate_backward(np.ones((1, 1, 4)), (1, 1, 2), 4)
    array([[[2., 2.]]])
    """
    op = "interpolate_backward"
    shape = _any_shape(op, in_shape)
    matrices = _interpolation(
        shape, op, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias,
        coordinates, rounding, cubic_coeff_a, exclude_outside,
    )  # fmt: skip
    return _resample_backward(op, dy, shape, matrices)


def _any_shape(op: str, value: Any) -> tuple[int, ...]:
    try:
        shape = tuple(size.__index__() for size in value)
    except (AttributeError, TypeError):
        raise TypeError(f"{op}: in_shape must be a shape, got {value!r}") from None
    if min(shape, default=0) < 0:
        raise ShapeError(f"{op}: expected in_shape without negative sizes, got {shape}")
    return shape


def _resample_backward(op: str, dy: ArrayLike, in_shape: tuple[int, ...], matrices: Matrices) -> Array:
    gradient = _array(op, "dy", dy)
    shape = tuple(n if m is None else m.shape[0] for n, m in zip(in_shape, matrices, strict=True))
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of shape {shape} for an input of shape {in_shape}, got {gradient.shape}")
    return _resample(op, "dy", gradient, [m if m is None else m.transposed for m in matrices])


_PADDINGS = ("constant", "reflect", "replicate", "circular")


def _padded_shape(op: str, shape: tuple[int, ...], pad: Sequence[int], mode: str) -> tuple[int, ...]:
    """The shape of arrays of ``shape`` with a border."""
    if not isinstance(mode, str) or mode not in _PADDINGS:
        raise ValueError(f"{op}: unknown mode {mode!r}; expected one of {', '.join(_PADDINGS)}")
    whole = isinstance(pad, (list, tuple, np.ndarray)) and all(isinstance(n, (int, np.integer)) for n in pad)
    if not whole or len(pad) % 2:
        raise TypeError(f"{op}: pad must be pairs of whole numbers (before, after), the last axis first, got {pad!r}")
    if len(pad) > 2 * len(shape):
        raise ShapeError(f"{op}: pad has {len(pad) // 2} pairs, more than there are axes in x of shape {shape}")
    padded = list(shape)
    for axis, before, after in zip(reversed(range(len(shape))), pad[::2], pad[1::2], strict=False):
        n, before, after = shape[axis], int(before), int(after)
        if n + before + after < 0:
            raise ShapeError(f"{op}: pad {before}, {after} takes more than there is of axis {axis} of {shape}")
        if mode != "constant":
            kept = n + min(before, 0) + min(after, 0)
            most = {"reflect": n - 1, "replicate": np.inf if n else 0, "circular": kept}[mode]
            if max(before, after) > max(most, 0):
                raise ShapeError(
                    f"{op}: mode {mode!r} has only {max(most, 0)} elements to pad with along axis {axis} of {shape}, "
                    f"got {before}, {after}"
                )
        padded[axis] = n + before + after
    return tuple(padded)


@_remembered
def _padding(shape: tuple[int, ...], op: str, mode: str, pad: Sequence[int]) -> Matrices:
    """The matrices of a padding of arrays of ``shape``."""
    _padded_shape(op, shape, pad, mode)
    matrices: Matrices = [None] * len(shape)
    for axis, before, after in zip(reversed(range(len(shape))), pad[::2], pad[1::2], strict=False):
        matrices[axis] = _resampling.padding(shape[axis], int(before), int(after), mode)
    return matrices


def pad(x: ArrayLike, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Array:
    """Arrays with a border, or with less of one.

    Parameters
    ----------
    x : array_like, any shape
        C-contiguous and channels-last memory are both fast; anything else is copied first.
    pad : sequence of int
        Pairs (before, after), the last axis first: (left, right, top, bottom) for (N, C, H, W). Negative numbers crop.
    mode : str
        "constant"; "reflect" (about the edge, which is not repeated: less than the axis has), "replicate" (the edge),
        "circular" (from the other end, at most as much as the axis has). All for any axes.
    value : float
        Of mode "constant".

    Returns
    -------
    ndarray
        Of x's memory format.

    Examples
    --------
    >>> pad(np.float32([[1, 2, 3]]), (1, 2))
    array([[0., 1., 2., 3., 0., 0.]], dtype=float32)
    >>> pad(np.float32([[1, 2, 3]]), (2, -1), "reflect")
    array([[3., 2., 1., 2.]], dtype=float32)
    """
    op = "pad"
    array = _array(op, "x", x)
    border = tuple(pad) if isinstance(pad, list) else pad
    return _resample(op, "x", array, _padding(array.shape, op, mode, border), _real(op, "value", value))


def pad_backward(dy: ArrayLike, in_shape: tuple[int, ...], pad: Sequence[int], mode: str = "constant") -> Array:
    """Gradient of `pad` for an input of shape ``in_shape``: what was copied is added up, what was cropped is 0.

    Examples
    --------
    >>> pad_backward(np.float32([[1, 2, 4, 8, 16, 32]]), (1, 3), (1, 2), "circular")
    array([[18., 36.,  9.]], dtype=float32)
    """
    op = "pad_backward"
    shape = _any_shape(op, in_shape)
    return _resample_backward(op, dy, shape, _padding(shape, op, mode, pad))


# ---- linear ---------------------------------------------------------------------------------------------------------


def _matmul_shape(
    op: str, a: tuple[int, ...], b: tuple[int, ...], transpose_a: bool = False, transpose_b: bool = False
) -> tuple[int, ...]:
    """The shape of a product of matrices; ``op`` is how an error begins."""
    if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2]:
        raise ShapeError(f"{op}expected a (..., m, k) and b (..., k, n), equal but for these axes, got {a} and {b}")
    (m, k), (inner, n) = (a[-2:][::-1] if transpose_a else a[-2:]), (b[-2:][::-1] if transpose_b else b[-2:])
    if k != inner:
        flipped = ", ".join(name for name, flag in (("a", transpose_a), ("b", transpose_b)) if flag)
        how = f", {flipped} transposed" * bool(flipped)
        raise ShapeError(f"{op}{k} columns of a do not meet {inner} rows of b, of shapes {a} and {b}{how}")
    return (*a[:-2], m, n)


def matmul(
    a: ArrayLike, b: ArrayLike, *, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None
) -> Array:
    """Products of matrices that lie side by side: a @ b, as in attention.

    Parameters
    ----------
    a : array_like, (..., m, k), or (..., k, m) with ``transpose_a``
    b : array_like, (..., k, n), or (..., n, k) with ``transpose_b``
        The leading axes are a's.
    transpose_a, transpose_b : bool
    out : ndarray (..., m, n), optional

    Returns
    -------
    ndarray (..., m, n)

    Examples
    --------
    >>> matmul(np.float32([[[1, 2]]]), np.float32([[[3, 4]]]), transpose_b=True)
    array([[[11.]]], dtype=float32)
    """
    op = "matmul"
    first, second = _rowmajor(op, "a", a), _rowmajor(op, "b", b)
    ta, tb = bool(transpose_a), bool(transpose_b)
    shape = _matmul_shape(f"{op}: ", first.shape, second.shape, ta, tb)
    first, second = _same_dtype(first, second)
    y = _out(op, out, shape, first.dtype, False, first, second)
    if not y.size:
        return y
    count = math.prod(shape[:-2])
    if not first.size:  # sums of nothing
        _K.fill(0.0, y)
        return y
    views = (array.reshape(count, *array.shape[-2:]) for array in (first, second))
    _K.matmul_forward(*views, ta, tb, y.reshape(count, *shape[-2:]))
    return y


def matmul_backward(
    dy: ArrayLike, a: ArrayLike, b: ArrayLike, *, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array]:
    """Gradients of `matmul`: da = dy b^T and db = a^T dy; of what was transposed, transposed.

    Examples
    --------
    >>> matmul_backward(np.float32([[1]]), np.float32([[2, 3]]), np.float32([[4], [5]]))
    (array([[4., 5.]], dtype=float32), array([[2.],
           [3.]], dtype=float32))
    """
    op = "matmul_backward"
    gradient, first, second = (_rowmajor(op, name, x) for name, x in (("dy", dy), ("a", a), ("b", b)))
    ta, tb = bool(transpose_a), bool(transpose_b)
    shape = _matmul_shape(f"{op}: ", first.shape, second.shape, ta, tb)
    if gradient.shape != shape:
        raise ShapeError(f"{op}: expected dy of shape {shape}, got {gradient.shape}")
    da = (
        matmul(second, gradient, transpose_a=tb, transpose_b=True)
        if ta
        else matmul(gradient, second, transpose_b=not tb)
    )
    db = (
        matmul(gradient, first, transpose_a=True, transpose_b=ta) if tb else matmul(first, gradient, transpose_a=not ta)
    )
    return da, db


def _linear_arrays(op: str, x: ArrayLike, weight: ArrayLike) -> tuple[Array, Array]:
    array, w = _rowmajor(op, "x", x), _rowmajor(op, "weight", weight)
    if w.ndim != 2:
        raise ShapeError(f"{op}: expected weight of shape (out, in), got {w.shape}")
    if array.ndim < 1 or array.shape[-1] != w.shape[1]:
        raise ShapeError(f"{op}: expected x of shape (N, {w.shape[1]}) for weight {w.shape}, got {array.shape}")
    return array, w


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: Activation = None,
    out: Array | None = None,
) -> Array:
    """activation(x @ weight.T + bias).

    Parameters
    ----------
    x : array_like, (..., in)
    weight : array_like, (out, in)
    bias : array_like (out,), optional
    activation : str or (str, float), optional
    out : ndarray (..., out), optional

    Returns
    -------
    ndarray (..., out)

    Examples
    --------
    >>> linear(np.float32([[1, 2]]), np.float32([[1, 1], [0, -1]]), activation="relu")
    array([[3., 0.]], dtype=float32)
    """
    op = "linear"
    then = _activation(op, activation)
    array, w = _linear_arrays(op, x, weight)
    biases = _vector(op, "bias", bias, w.shape[0], "output")
    array, w, biases = _same_dtype(array, w, biases)
    shape = (*array.shape[:-1], w.shape[0])
    y = _out(op, out, shape, array.dtype, False, array, w, biases)
    if not y.size:
        return y
    rows = array.reshape(y.size // w.shape[0], w.shape[1])
    if not rows.size:
        y[...] = reference.linear_forward(rows, w, biases, then).reshape(shape)
        return y
    _K.linear_forward(rows, w, biases, then, y.reshape(rows.shape[0], w.shape[0]))
    return y


def linear_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    need_dx: bool = True,
    into: tuple[Array, Array | None] | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """Gradients of x @ weight.T + bias: dy @ weight, dy.T @ x, and the column sums of dy.

    Parameters
    ----------
    dy : array_like, (..., out)
    x : array_like, (..., in)
    weight : array_like, (out, in)
    need_dx : bool
        False leaves out dx (None).
    into : (dweight, dbias), optional
        Arrays to which the gradients are added, instead of new ones; dbias may be None.

    Returns
    -------
    dx : ndarray (..., in)
    dweight : ndarray (out, in)
    dbias : ndarray (out,)

    Examples
    --------
    >>> dx, dweight, dbias = linear_backward(np.float32([[1]]), np.float32([[2, 3]]), np.float32([[4, 5]]))
    >>> dx, dweight, dbias
    (array([[4., 5.]], dtype=float32), array([[2., 3.]], dtype=float32), array([1.], dtype=float32))
    """
    op = "linear_backward"
    array, w = _linear_arrays(op, x, weight)
    gradient = _rowmajor(op, "dy", dy)
    if gradient.shape != (*array.shape[:-1], w.shape[0]):
        raise ShapeError(f"{op}: expected dy of shape {(*array.shape[:-1], w.shape[0])}, got {gradient.shape}")
    gradient, array, w = _same_dtype(gradient, array, w)
    if into is not None and not _takes(op, into, w.dtype, w.shape, w.shape[:1]):
        dx, *found = linear_backward(gradient, array, w, need_dx=need_dx)
        return dx, *_added(into, found)
    dx = _K.empty(array.shape, array.dtype) if need_dx else None
    dweight, dbias = into or (_K.empty(w.shape, w.dtype), _K.empty((w.shape[0],), w.dtype))
    accumulate = _gathers(into)
    n = math.prod(array.shape[:-1])
    rows, drows = array.reshape(n, w.shape[1]), gradient.reshape(n, w.shape[0])
    if not rows.size or not drows.size:  # sums over nothing
        for target in (dx, None if accumulate else dweight, None if accumulate else dbias):
            if target is not None:
                target[...] = 0.0
        if drows.size and dbias is not None:
            dbias[...] = drows.sum(0) + (dbias if accumulate else 0.0)
        return dx, dweight, dbias
    dx_rows = None if dx is None else dx.reshape(n, w.shape[1])
    _K.linear_backward(drows, rows, w, accumulate, dx_rows, dweight, dbias)
    return dx, dweight, dbias


# ---- optimizer steps ------------------------------------------------------------------------------------------------


def _flat_arrays(
    op: str, segments: Array, read: dict[str, Array], written: dict[str, Array | None], columns: int = 4
) -> int:
    """Check flat buffers of one shape and dtype, none of which may be copied; return the number of their elements."""
    given = [(name, array) for name, array in (*read.items(), *written.items()) if array is not None]
    first_name, first = given[0]
    for name, array in given:
        if _K.layout(array) != 0 or array.ndim != 1:
            came = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ShapeError(
                f"{op}: expected {name} as a contiguous float32 or float64 array of shape (size,), got {came}"
            )
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ShapeError(
                f"{op}: {name} must have {first_name}'s shape {first.shape} and dtype {first.dtype}, "
                f"got {array.shape} and {array.dtype}"
            )
        if name in written and not array.flags.writeable:
            raise ValueError(f"{op}: {name} is read-only, and the step writes it")
    for i, (name, array) in enumerate(given):
        for other_name, other in given[:i]:
            if np.may_share_memory(array, other):
                raise ValueError(f"{op}: {name} overlaps {other_name}")
    _settings(op, "segments", segments, ("n", columns))
    bounds = segments[:, :2].ravel()
    if not np.isfinite(segments).all() or (bounds != np.floor(bounds)).any():
        raise ValueError(f"{op}: segments must be finite, and begin and end whole numbers")
    if bounds.size and (bounds[0] < 0 or bounds[-1] > first.size or (np.diff(bounds) < 0).any()):
        raise ValueError(
            f"{op}: segments must follow one another within 0 and {first.size}, got {segments[:, :2].tolist()}"
        )
    return first.size


def _settings(op: str, name: str, array: Array, shape: tuple[Any, ...], written: bool = False) -> None:
    """Check a float64 array whose address programs keep; "n" in its shape is any number."""
    ready = isinstance(array, np.ndarray) and array.dtype == _FLOAT64 and _K.layout(array) == 0
    if not ready or array.ndim != len(shape) or array.shape[-1] != shape[-1]:
        came = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        expected = str(shape).replace("'", "")
        raise ShapeError(f"{op}: expected {name} as a contiguous float64 array of shape {expected}, got {came}")
    if written and not array.flags.writeable:
        raise ValueError(f"{op}: {name} is read-only, and the step writes it")


def _limit(op: str, limit: Array) -> None:
    _settings(op, "limit", limit, (1,))
    if not limit[0] >= 0:
        raise ValueError(f"{op}: limit must be at least 0, got {limit[0]}")


def _step_arrays(op: str, grad: Array, hyper: Array, n_hyper: int, segments: Array, **written: Array | None) -> int:
    """Check the arrays of an optimizer step; return the number of parameters."""
    size = _flat_arrays(op, segments, {"grad": grad}, written)
    _settings(op, "hyper", hyper, (n_hyper,))
    return size


def sgd_step(grad: Array, hyper: Array, segments: Array, param: Array, velocity: Array | None = None) -> None:
    """One step of stochastic gradient descent over a flat buffer; param and velocity change in place.

    g = grad + decay * param;  velocity = momentum * velocity + g;  param -= lr * rate * velocity, or with Nesterov's
    momentum param -= lr * rate * (g + momentum * velocity). Equal to torch.optim.SGD without dampening.

    Parameters
    ----------
    grad, param : ndarray (size,)
        float32 or float64, contiguous; neither these nor the following are converted, because they are written or kept.
    hyper : ndarray (4,) of float64
        [lr, momentum, nesterov (0 or 1), weight-decay factor].
    segments : ndarray (n, 4) of float64
        Rows (begin, end, rate, decay), in order; a rate of 0 freezes the segment. The decay of a segment is its own
        times the weight-decay factor.
    velocity : ndarray (size,), optional
        None leaves out momentum.

    Raises
    ------
    ShapeError, ValueError
        For arrays that would have to be converted or copied, overlap, or do not fit, and for segments that are not in
        order, not whole or not finite; nothing has changed then.

    Examples
    --------
    >>> param, grad = np.float32([1, 2]), np.float32([1, 1])
    >>> sgd_step(grad, np.array([0.5, 0, 0, 1]), np.array([[0, 1, 1, 0], [1, 2, 0, 0.0]]), param)
    >>> param  # the second is frozen
    array([0.5, 2. ], dtype=float32)
    """
    if _step_arrays("sgd_step", grad, hyper, 4, segments, param=param, velocity=velocity):
        _K.sgd_step(grad, hyper, segments, param, velocity)


def adam_step(grad: Array, hyper: Array, segments: Array, param: Array, m: Array, v: Array) -> None:
    """One step of Adam or AdamW over a flat buffer; param, m and v change in place.

    g = grad + decay * param, or decoupled: g = grad and param -= lr * rate * decay * param;
    m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;
    param -= lr * rate * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps).

    Parameters
    ----------
    grad, param, m, v : ndarray (size,)
        float32 or float64, contiguous; not converted, as in `sgd_step`.
    hyper : ndarray (6,) of float64
        [lr, beta1, beta2, eps, step (from 1), decoupled (0 or 1)].
    segments : ndarray (n, 4) of float64
        As in `sgd_step`.

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    References
    ----------
    Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019.

    Examples
    --------
    >>> param, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    >>> adam_step(np.array([3.0]), np.array([0.1, 0.9, 0.999, 0, 1, 0]), np.array([[0, 1, 1, 0.0]]), param, m, v)
    >>> param.round(6)  # the first step is lr long, whatever the gradient
    array([0.9])
    """
    size = _step_arrays("adam_step", grad, hyper, 6, segments, param=param, m=m, v=v)
    if not hyper[4] >= 1:
        raise ValueError(f"adam_step: hyper[4] is the number of the step, from 1, got {hyper[4]}")
    if size:
        _K.adam_step(grad, hyper, segments, param, m, v)


def adagrad_step(grad: Array, hyper: Array, segments: Array, param: Array, sum: Array) -> None:
    """One step of AdaGrad over a flat buffer; param and sum change in place.

    g = grad + decay * param;  sum += g^2;  param -= lr * rate * g / (sqrt(sum) + eps).

    Parameters
    ----------
    grad, param, sum : ndarray (size,)
        float32 or float64, contiguous; not converted, as in `sgd_step`.
    hyper : ndarray (2,) of float64
        [lr, eps].
    segments : ndarray (n, 4) of float64
        As in `sgd_step`.

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    References
    ----------
    Duchi, Hazan and Singer, JMLR 2011.

    Examples
    --------
    >>> param, sum = np.array([1.0]), np.array([7.0])
    >>> adagrad_step(np.array([3.0]), np.array([0.5, 0.0]), np.array([[0, 1, 1, 0.0]]), param, sum)
    >>> param, sum  # 1 - 0.5 * 3 / sqrt(7 + 9)
    (array([0.625]), array([16.]))
    """
    if _step_arrays("adagrad_step", grad, hyper, 2, segments, param=param, sum=sum):
        _K.adagrad_step(grad, hyper, segments, param, sum)


def rmsprop_step(
    grad: Array, hyper: Array, segments: Array, param: Array, square: Array, velocity: Array | None = None
) -> None:
    """One step of RMSProp over a flat buffer; param, square and velocity change in place.

    g = grad + decay * param;  square = alpha square + (1 - alpha) g^2;  d = g / (sqrt(square) + eps);
    velocity = momentum velocity + d;  param -= lr * rate * velocity, or without velocity lr * rate * d.

    Parameters
    ----------
    grad, param, square : ndarray (size,)
        float32 or float64, contiguous; not converted, as in `sgd_step`.
    hyper : ndarray (4,) of float64
        [lr, alpha, eps, momentum].
    segments : ndarray (n, 4) of float64
        As in `sgd_step`.
    velocity : ndarray (size,), optional
        None leaves out momentum.

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    References
    ----------
    Tieleman and Hinton, Coursera "Neural Networks for Machine Learning", lecture 6.5, 2012.

    Examples
    --------
    >>> param, square = np.array([1.0]), np.array([7.0])
    >>> rmsprop_step(np.array([3.0]), np.array([0.5, 0.5, 0, 0]), np.array([[0, 1, 1, 0.0]]), param, square)
    >>> square  # (7 + 9) / 2
    array([8.])
    """
    if _step_arrays("rmsprop_step", grad, hyper, 4, segments, param=param, square=square, velocity=velocity):
        _K.rmsprop_step(grad, hyper, segments, param, square, velocity)


# ---- regularisation over flat buffers -------------------------------------------------------------------------------


def penalty(param: Array, segments: Array, grad: Array | None, loss: Array) -> None:
    """L1 and L2 penalties on parts of a flat buffer; their gradient is added to grad, their sum to loss, in place.

    loss += sum(l1 |param| + l2 / 2 param^2);  grad += l1 sign(param) + l2 param, with sign(0) = 0.

    Parameters
    ----------
    param : ndarray (size,)
        float32 or float64, contiguous; not converted, as in `sgd_step`.
    segments : ndarray (n, 4) of float64
        Rows (begin, end, l1, l2), in order, with strengths of at least 0.
    grad : ndarray (size,), optional
        None computes the loss alone.
    loss : ndarray (1,) of float64

    Raises
    ------
    ShapeError, ValueError
        For arrays that would have to be converted or copied, overlap, or do not fit, and for segments that are not in
        order, not whole or not finite; nothing has changed then.

    References
    ----------
    CS231n, "Linear Classification": regularisation; Zou and Hastie, JRSS B 67, 2005 (elastic net).

    Examples
    --------
    >>> param, grad, loss = np.array([3.0, -4.0]), np.zeros(2), np.zeros(1)
    >>> penalty(param, np.array([[0, 1, 0, 1], [1, 2, 1, 0.0]]), grad, loss)
    >>> loss, grad  # 3^2 / 2 and |-4|
    (array([8.5]), array([ 3., -1.]))
    """
    size = _flat_arrays("penalty", segments, {"param": param}, {"grad": grad})
    if (segments[:, 2:] < 0).any():
        raise ValueError(f"penalty: strengths must be at least 0, got {segments[:, 2:].tolist()}")
    _settings("penalty", "loss", loss, (1,), written=True)
    if size:
        _K.penalty(param, segments, grad, loss)


def square_sum(x: Array, segments: Array, total: Array) -> None:
    """Add the sum of x^2 over parts of a flat buffer to total, in place: the same bits for any number of threads.

    Parameters
    ----------
    x : ndarray (size,)
        float32 or float64, contiguous.
    segments : ndarray (n, 4) of float64
        As in `sgd_step`; those with rate 0 do not count.
    total : ndarray (1,) of float64

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    Examples
    --------
    >>> total = np.zeros(1)
    >>> square_sum(np.array([3.0, 4.0, 5.0]), np.array([[0, 2, 1, 0], [2, 3, 0, 0.0]]), total)
    >>> total
    array([25.])
    """
    _settings("square_sum", "total", total, (1,), written=True)
    if _flat_arrays("square_sum", segments, {"x": x}, {}):
        _K.square_sum(x, segments, total)


def clip_norm(total: Array, limit: Array, segments: Array, x: Array) -> None:
    """Scale x so that the norm whose square is total becomes at most limit, in place, as torch's clip_grad_norm_.

    x *= min(1, limit / (sqrt(total) + 1e-6)). With `square_sum` before it: gradient clipping by the global norm.

    Parameters
    ----------
    total, limit : ndarray (1,) of float64
    segments : ndarray (n, 4) of float64
        As in `sgd_step`; those with rate 0 are left alone.
    x : ndarray (size,)
        float32 or float64, contiguous.

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    References
    ----------
    Pascanu, Mikolov and Bengio, ICML 2013.

    Examples
    --------
    >>> x = np.array([3.0, 4.0])
    >>> clip_norm(np.array([25.0]), np.array([1.0]), np.array([[0, 2, 1, 0.0]]), x)
    >>> x.round(6)
    array([0.6, 0.8])
    """
    _settings("clip_norm", "total", total, (1,))
    _limit("clip_norm", limit)
    if _flat_arrays("clip_norm", segments, {}, {"x": x}):
        _K.clip_norm(total, limit, segments, x)


def clip_value(limit: Array, segments: Array, x: Array) -> None:
    """Clamp x to [-limit, limit], in place; NaN stays NaN. Changes the direction of a gradient, unlike `clip_norm`.

    Parameters
    ----------
    limit : ndarray (1,) of float64
    segments : ndarray (n, 4) of float64
        As in `sgd_step`; those with rate 0 are left alone.
    x : ndarray (size,)
        float32 or float64, contiguous.

    Raises
    ------
    ShapeError, ValueError
        As `sgd_step`.

    Examples
    --------
    >>> x = np.array([3.0, -0.5])
    >>> clip_value(np.array([1.0]), np.array([[0, 2, 1, 0.0]]), x)
    >>> x
    array([ 1. , -0.5])
    """
    _limit("clip_value", limit)
    if _flat_arrays("clip_value", segments, {}, {"x": x}):
        _K.clip_value(limit, segments, x)


def max_norm(segments: Array, param: Array) -> None:
    """Scale each unit of a flat buffer whose Euclidean norm is above its limit back to it, in place; NaN stays.

    Parameters
    ----------
    segments : ndarray (n, 5) of float64
        Rows (begin, end, outer, inner, limit), in order: the elements of a row are an array (outer, units, inner), and
        [:, u, :] is what is scaled together. For a weight (out, in) outer is 1 and inner is in.
    param : ndarray (size,)
        float32 or float64, contiguous; not converted, as in `sgd_step`.

    Raises
    ------
    ShapeError, ValueError
        For arrays that would have to be converted or copied, overlap, or do not fit, and for segments that are not in
        order, not whole or not finite; nothing has changed then.

    References
    ----------
    Srebro, Rennie and Jaakkola, NeurIPS 2004; CS231n, "Neural Networks Part 2": max norm constraints.

    Examples
    --------
    >>> param = np.array([3.0, 4.0, 0.3, 0.4])
    >>> max_norm(np.array([[0, 4, 1, 2, 1.0]]), param)
    >>> param.round(6)
    array([0.6, 0.8, 0.3, 0.4])
    """
    size = _flat_arrays("max_norm", segments, {}, {"param": param}, columns=5)
    outer, inner, limit = segments[:, 2:].T
    if (segments[:, 2:4] != np.floor(segments[:, 2:4])).any() or (segments[:, 2:4] < 1).any() or (limit < 0).any():
        raise ValueError(
            f"max_norm: outer and inner must be whole numbers from 1 and a limit at least 0, got {segments.tolist()}"
        )
    if ((segments[:, 1] - segments[:, 0]) % (outer * inner) != 0).any():
        raise ValueError(f"max_norm: each segment must be a whole number of units, got {segments.tolist()}")
    if size:
        _K.max_norm(segments, param)

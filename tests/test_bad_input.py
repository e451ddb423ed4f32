"""What does not fit raises the same error with the same words on every backend, before any work is done, and changes
nothing. These are the rules one by one; test_drawn.py draws what fits and what does not at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastnn.functional as F
from cases import LAYOUTS, Array
from engines import ENGINES, NUMPY, Engine
from fastnn import ShapeError, schedules
from fastnn import layers as L
from fastnn._backends import ACTIVATIONS
from fastnn.optim import SGD
from fastnn.regularization import ClipNorm

engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    return np.ones(shape, dtype)


@dataclass(frozen=True, eq=False)
class Bad:
    """A call that must raise ``error`` with a message that begins with the op's name and holds ``words``."""

    words: str
    error: type[Exception]
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        return getattr(F, self.op)(*self.args, **self.kwargs)

    @property
    def arrays(self) -> list[Array]:
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, np.ndarray)]


def shape(words: str, op: str, *args: Any, **kwargs: Any) -> Bad:
    return Bad(words, ShapeError, op, args, kwargs)


def value(words: str, op: str, *args: Any, **kwargs: Any) -> Bad:
    return Bad(words, ValueError, op, args, kwargs)


def kind(words: str, op: str, *args: Any, **kwargs: Any) -> Bad:
    return Bad(words, TypeError, op, args, kwargs)


X, W, ONE = ones(2, 4, 6, 6), ones(8, 4, 3, 3), np.ones(1)
POINTWISE = (*(name for name in ACTIVATIONS if name not in ("threshold", "gelu_tanh")), "relu6", "exp", "sqrt")
HYPER, ADAM, SEGMENTS = np.array([0.1, 0.9, 0, 1]), np.array([1e-3, 0.9, 0.999, 1e-8, 1, 0]), np.array([[0.0, 4, 1, 0]])
EXPAND, DEPTHWISE, PROJECT = (ones(8, 4, 1, 1), None), (ones(8, 1, 3, 3), None), (ones(5, 8, 1, 1), None)

BAD = [
    # dtypes that are no numbers to compute with
    *(kind("x has dtype complex128; expected float32 or float64", op, ones(3, dtype=complex)) for op in POINTWISE),
    *(kind("x has dtype <U1", op, np.array(["a"])) for op in POINTWISE),
    *(kind("x has dtype object", op, np.array([None, 1.0])) for op in POINTWISE),
    kind("x has dtype datetime64[D]", "relu", np.array(["2020-01-01"], "M8[D]")),
    kind(f"x has dtype {np.dtype(np.longdouble)}", "relu", ones(3, dtype=np.longdouble)),
    kind("x has dtype complex128", "softmax", ones(3, 3, dtype=complex)),
    kind("x has dtype complex128", "conv2d", ones(1, 4, 6, 6, dtype=complex), W),
    kind("weight has dtype object", "conv2d", X, W.astype(object)),
    kind("weight has dtype <U1", "linear", ones(2, 3), np.array([["a"] * 3])),
    kind("x has dtype complex128", "batch_norm_train", ones(2, 3, dtype=complex)),
    kind("x has dtype complex128", "max_pool2d", X.astype(complex), 2),
    kind("x has dtype complex128", "dropout", ones(3, dtype=complex), rng=0),
    # ranks
    *(
        shape("expected x of shape (N, C, H, W), got (4, 6, 6)", op, ones(4, 6, 6), 2)
        for op in ("max_pool2d", "avg_pool2d", "im2col")
    ),
    shape("expected x of shape (N, C, H, W), got (4, 6)", "global_avg_pool2d", ones(4, 6)),
    shape("expected x of shape (N, C, H, W), got (4, 6, 6)", "conv2d", ones(4, 6, 6), W),
    shape("expected weight of shape (O, C / groups, kh, kw), got (8, 4, 3)", "conv2d", X, ones(8, 4, 3)),
    shape("expected dy of shape (N, C, H, W), got (8, 4, 4)", "conv2d_backward", ones(8, 4, 4), X, W),
    shape("expected weight of shape (out, in), got (3,)", "linear", ones(2, 3), ones(3)),
    shape("expected x of shape (N, 1) for weight (3, 1), got ()", "linear", np.float32(1), ones(3, 1)),
    shape("expected x of shape (N, C), (N, C, L) or (N, C, H, W), got (5,)", "batch_norm_train", ones(5)),
    shape("expected x of shape (N, C), (N, C, L) or (N, C, H, W), got (2,)", "batch_norm", ones(2), ones(3), ones(3)),
    shape("expected scores of shape (N, C) with at least one class, got (3,)", "cross_entropy", ones(3), [0, 1, 2]),
    shape("expected one label for each of the 2 rows of scores, got labels ()", "cross_entropy", ones(2, 3), 1),
    shape("axis -1 is out of range for an array of shape ()", "softmax", np.float32(1)),
    shape("expected cols of shape (N, C * 4, 2 * 2), got (4, 4)", "col2im", ones(4, 4), 3, 2),
    # shapes that do not go together
    shape("x has 4 channels (shape (2, 4, 6, 6)) but weight (8, 3, 3, 3) expects 3", "conv2d", X, ones(8, 3, 3, 3)),
    shape("groups must divide the channels; got 3 groups for 4 in and 8 out", "conv2d", X, W, groups=3),
    shape("expects 4 * 2 groups = 8", "conv2d", X, W, groups=2),
    shape("expected bias of shape (8,), one for each output channel, got (7,)", "conv2d", X, W, ones(7)),
    shape(
        "expected residual of the output's shape (2, 8, 4, 4), got (2, 8, 6, 6)",
        "conv2d",
        X,
        W,
        residual=ones(2, 8, 6, 6),
    ),
    shape("expected batch_norm's mean of shape (8,)", "conv2d", X, W, batch_norm=(None, None, ones(4), ones(8), 0)),
    shape(
        "expected dy of the output's shape (2, 8, 4, 4), got (2, 8, 6, 6)", "conv2d_backward", ones(2, 8, 6, 6), X, W
    ),
    kind("expand must be (weight, bias or None), got ndarray", "inverted_residual", X, EXPAND[0], DEPTHWISE, PROJECT),
    shape(
        "expected depthwise's weight of shape (4, 1, kh, kw), one kernel for each hidden channel",
        "inverted_residual",
        X,
        None,
        DEPTHWISE,
        PROJECT,
    ),
    shape(
        "expected expand's weight of shape (outputs, inputs, 1, 1), got (8, 1, 3, 3)",
        "inverted_residual",
        X,
        DEPTHWISE,
        DEPTHWISE,
        PROJECT,
    ),
    shape("project: x has 8 channels", "inverted_residual", X, EXPAND, DEPTHWISE, (PROJECT[0][:, :6], None)),
    shape(
        "expected residual of the output's shape (2, 5, 4, 4)",
        "inverted_residual",
        X,
        EXPAND,
        DEPTHWISE,
        PROJECT,
        residual=X,
    ),
    kind("activations must be three", "inverted_residual", X, EXPAND, DEPTHWISE, PROJECT, activations="relu"),
    value(
        "unknown algorithm 'im2col'; expected one of amx",
        "inverted_residual",
        X,
        EXPAND,
        DEPTHWISE,
        PROJECT,
        algorithm="im2col",
    ),
    shape("expected x of shape (N, 100) for weight (10, 100), got (2, 288)", "linear", ones(2, 288), ones(10, 100)),
    shape("expected bias of shape (4,), one for each output, got (3,)", "linear", ones(2, 3), ones(4, 3), ones(3)),
    shape("expected dy of shape (2, 4), got (2, 5)", "linear_backward", ones(2, 5), ones(2, 3), ones(4, 3)),
    *(
        shape("dy and x must have the same shape, got (3,) and (4,)", f"{op}_backward", ones(3), ones(4))
        for op in POINTWISE[:-2]
    ),
    *(
        shape("dy and y must have the same shape", f"{op}_backward", ones(1, 3), ones(3, 1))
        for op in ("softmax", "log_softmax")
    ),
    shape("a and b must have the same shape, got (3,) and (1,)", "add", ones(3), ones(1)),
    shape("expected b of a's shape, or (N, C, 1, 1) for a (N, C, H, W); got (3,) and (1,)", "mul", ones(3), ones(1)),
    shape("a and b must have the same shape, got (3,) and (1,)", "div", ones(3), ones(1)),
    shape("dy, a and b must have the same shape", "div_backward", ones(3), ones(3), ones(1)),
    shape("5 columns of a do not meet 4 rows of b", "matmul", ones(2, 3, 5), ones(2, 4, 3)),
    shape("of shapes (2, 3, 5) and (2, 5, 3), b transposed", "matmul", ones(2, 3, 5), ones(2, 5, 3), transpose_b=True),
    shape("equal but for these axes, got (2, 3, 5) and (5, 4)", "matmul", ones(2, 3, 5), ones(5, 4)),
    shape("expected a (..., m, k) and b (..., k, n)", "matmul", ones(5), ones(5)),
    shape(
        "expected dy of shape (2, 3, 4), got (2, 3, 3)", "matmul_backward", ones(2, 3, 3), ones(2, 3, 5), ones(2, 5, 4)
    ),
    shape("expected b of a's shape", "mul_backward", X, X, ones(2, 3, 1, 1)),
    shape("dy and a must have the same shape", "mul_backward", ones(2, 4, 1, 1), X, ones(2, 4, 1, 1)),
    shape("expected mean of shape (4,), one for each channel, got (3,)", "batch_norm", X, ones(3), ones(4)),
    shape("expected weight of shape (4,), one for each channel, got (4, 1)", "batch_norm_train", X, ones(4, 1)),
    shape("dy and x must have the same shape", "batch_norm_backward", ones(2, 4), X, ones(4), ones(4)),
    shape("y and x must have the same shape", "batch_norm_backward", X, X, ones(4), ones(4), y=ones(2, 4)),
    shape("residual and x must have the same shape", "batch_norm_train", X, residual=ones(2, 4)),
    shape("expected dy of shape (2, 4, 3, 3), that of the output", "max_pool2d_backward", ones(2, 4, 2, 2), X, 2),
    shape("expected dy of shape (2, 4, 3, 3)", "avg_pool2d_backward", ones(2, 4, 2, 2), X.shape, 2),
    shape("expected dy of shape (2, 4, 1, 1), got (2, 4)", "global_avg_pool2d_backward", ones(2, 4), X.shape),
    shape("expected x of shape (N, C, ...), got (5,)", "group_norm", ones(5), 1),
    shape("expected x of shape (N, C, L, ...), got (2, 4)", "instance_norm", ones(2, 4)),
    shape("num_groups must divide the channels; got 3 groups for 4 channels", "group_norm", X, 3),
    shape("num_groups must divide the channels; got 0 groups for 4 channels", "group_norm", X, 0),
    kind("num_groups must be a whole number, got 2.0", "group_norm", X, 2.0),
    shape("expected weight of shape (4,), one for each channel, got (2,)", "group_norm", X, 2, ones(2)),
    kind("x has dtype complex128", "group_norm", X.astype(complex), 2),
    value("running statistics are read with use_input_stats=False only", "instance_norm", X, ones(4), ones(4)),
    value("needs running_mean and running_var", "instance_norm", X, use_input_stats=False),
    shape("expected x of shape (..., 5, 6), got (2, 4, 6, 6)", "layer_norm", X, (5, 6)),
    shape("expected x of shape (..., ), got (2, 4, 6, 6)", "layer_norm", X, ()),
    kind("normalized_shape must be whole numbers, got (6.0,)", "layer_norm", X, (6.0,)),
    shape("expected bias of shape (6, 6), the normalised shape, got (6,)", "layer_norm", X, (6, 6), None, ones(6)),
    shape("dy and x must have the same shape", "layer_norm_backward", ones(2, 4), ones(2, 5), 5),
    shape("dy and x must have the same shape", "group_norm_backward", ones(2, 4), X, 2),
    shape("dy and x must have the same shape", "instance_norm_backward", ones(2, 4, 6), X),
    shape("expected in into an array of shape (4,), got (3,)", "group_norm_backward", X, X, 2, into=(ones(3), ones(4))),
    shape("expected in into an array of shape (6,), got list", "layer_norm_backward", X, X, 6, into=([0], ones(6))),
    shape(
        "expected in into an array of shape (4,), got (5,)",
        "batch_norm_backward",
        X,
        X,
        ones(4),
        ones(4),
        into=(ones(4), ones(5)),
    ),
    shape("expected in into an array of shape (8, 4, 3, 3)", "conv2d_backward", ones(2, 8, 4, 4), X, W, into=(X, None)),
    shape(
        "expected in into an array of shape (4, 3)", "linear_backward", ones(2, 4), ones(2, 3), ones(4, 3), into=(X, X)
    ),
    *(
        shape("expected x of shape (N, C, H, W), got (4, 6)", f"adaptive_{op}_pool2d", ones(4, 6), 2)
        for op in ("max", "avg")
    ),
    *(
        value("output_size must be at least 1, got (0, 6)", f"adaptive_{op}_pool2d", X, (0, None))
        for op in ("max", "avg")
    ),
    *(
        shape("a height and a width of at least 1", f"adaptive_{op}_pool2d", ones(2, 4, 0, 6), 2)
        for op in ("max", "avg")
    ),
    kind("output_size must be a whole number or a pair of them", "adaptive_avg_pool2d", X, (1, 2, 3)),
    kind("output_size must be a whole number", "adaptive_max_pool2d", X, 2.5),
    shape("expected dy of shape (2, 4, 3, 3), that of the output", "adaptive_max_pool2d_backward", X, X, 3),
    shape(
        "expected dy of shape (2, 4, OH, OW), got (2, 3, 1, 1)",
        "adaptive_avg_pool2d_backward",
        ones(2, 3, 1, 1),
        X.shape,
    ),
    value("divisor_override must be a whole number other than 0, got 0", "avg_pool2d", X, 2, divisor_override=0),
    *(shape("expected x of shape (N, C, L), got (2, 4, 6, 6)", f"{op}_pool1d", X, 2) for op in ("max", "avg")),
    kind("kernel_size must be a whole number, got (2, 2)", "max_pool1d", ones(2, 4, 6), (2, 2)),
    value("stride must be at least 1, got 0", "avg_pool1d", ones(2, 4, 6), 2, 0),
    shape("expected in_shape (N, C, L), got (2, 4, 6, 6)", "avg_pool1d_backward", ones(2, 4, 3), X.shape, 2),
    shape("expected the mask of 9 elements as dropout returned it", "dropout_backward", ones(9), np.zeros(1, np.uint8)),
    shape("expected the mask of 9 elements as dropout returned it", "dropout_backward", ones(9), np.zeros(2, np.int64)),
    shape("expected at least one array", "concat", []),
    shape("shapes must be equal but for axis 1", "concat", [ones(2, 3), ones(3, 3)]),
    shape("sizes [1, 1] do not add up to axis 1 of (2, 3)", "split", ones(2, 3), [1, 1]),
    kind("expected a sequence of arrays", "concat", np.float32(1).reshape(())),
    shape("axis 2 is out of range for an array of shape (2, 3)", "concat", [ones(2, 3)], axis=2),
    shape("axis -3 is out of range for an array of shape (2, 3)", "concat", [ones(2, 3)], axis=-3),
    shape("axis 0 is out of range for an array of shape ()", "concat", [np.float32(1)], axis=0),
    shape("shapes must be equal but for axis 0", "concat", [ones(2, 3), ones(2, 3, 1)], axis=0),
    shape("shapes must be equal but for axis 1", "concat", [ones(2, 3), ones(2)]),
    kind("xs[1] has dtype complex128", "concat", [ones(2, 3), ones(2, 3, dtype=complex)]),
    shape("axis 2 is out of range", "split", ones(2, 3), [3], axis=2),
    shape("sizes [4, -1] do not add up to axis 1 of (2, 3)", "split", ones(2, 3), [4, -1]),
    shape("sizes [] do not add up to axis 1 of (2, 3)", "split", ones(2, 3), []),
    kind("sizes must be a whole number or several, got [1.5, 1.5]", "split", ones(2, 3), [1.5, 1.5]),
    kind("sizes must be a whole number or several, got '3'", "split", ones(2, 3), "3"),
    value("sizes must be at least 1, or a list of sizes, got 0", "split", ones(2, 3), 0),
    shape("expected x of shape (N, C * 2 * 2, H, W), got (1, 6, 2, 2)", "pixel_shuffle", ones(1, 6, 2, 2), 2),
    shape("expected x of shape (N, C * 2 * 2, H, W), got (4, 2, 2)", "pixel_shuffle", ones(4, 2, 2), 2),
    value("upscale_factor must be at least 1, got 0", "pixel_shuffle", X, 0),
    kind("upscale_factor must be a whole number, got 2.0", "pixel_shuffle", X, 2.0),
    shape("expected x of shape (N, C, H * 4, W * 4), got (2, 4, 6, 6)", "pixel_unshuffle", X, 4),
    shape("groups must divide the channels; got 3 groups for 4 in", "channel_shuffle", X, 3),
    shape("expected x of shape (N, C, ...), got (4,)", "channel_shuffle", ones(4), 2),
    value("groups must be a whole number of at least 1, got 0", "channel_shuffle", X, 0),
    # convolutions of one dimension and transposed ones
    shape("expected x of shape (N, C, L), got (2, 4, 6, 6)", "conv1d", X, ones(8, 4, 3)),
    shape("expected weight of shape (O, C / groups, k), got (8, 4, 3, 3)", "conv1d", ones(2, 4, 6), W),
    shape("x has 4 channels (shape (2, 4, 6)) but weight (8, 3, 3) expects 3", "conv1d", ones(2, 4, 6), ones(8, 3, 3)),
    shape("expected a kernel of at least 1, got weight (8, 4, 0)", "conv1d", ones(2, 4, 6), ones(8, 4, 0)),
    shape("the kernel spans 7 in width", "conv1d", ones(2, 4, 6), ones(8, 4, 7)),
    shape("expected bias of shape (8,)", "conv1d", ones(2, 4, 6), ones(8, 4, 3), ones(7)),
    kind("stride must be a whole number, got (1, 2)", "conv1d", ones(2, 4, 6), ones(8, 4, 3), stride=(1, 2)),
    value("padding must be at least 0, got -1", "conv1d", ones(2, 4, 6), ones(8, 4, 3), padding=-1),
    shape(
        "expected dy of the output's shape (2, 8, 4), got (2, 8, 5)",
        "conv1d_backward",
        ones(2, 8, 5),
        ones(2, 4, 6),
        ones(8, 4, 3),
    ),
    shape("x has 4 channels (shape (2, 4, 6, 6)) but weight (8, 4, 3, 3) expects 8", "conv_transpose2d", X, W),
    shape("expected weight of shape (C, O / groups, kh, kw), got (4, 8)", "conv_transpose2d", X, ones(4, 8)),
    shape("expected x of shape (N, C, H, W), got (4, 6, 6)", "conv_transpose2d", ones(4, 6, 6), ones(4, 8, 3, 3)),
    shape("groups must divide the channels; got 3", "conv_transpose2d", X, ones(4, 8, 3, 3), groups=3),
    shape("expected a kernel of at least 1 x 1", "conv_transpose2d", X, ones(4, 8, 3, 0)),
    shape("expected bias of shape (8,)", "conv_transpose2d", X, ones(4, 8, 3, 3), ones(4)),
    shape("the output would have 0 in height", "conv_transpose2d", ones(1, 4, 2, 6), ones(4, 8, 1, 3), padding=1),
    shape("expected x with a height and a width of at least 1", "conv_transpose2d", ones(1, 4, 0, 6), ones(4, 8, 3, 3)),
    value(
        "output_padding must be smaller than stride or dilation, got 1 in height for stride 1 and dilation 1",
        "conv_transpose2d",
        X,
        ones(4, 8, 3, 3),
        output_padding=1,
    ),
    value("groups must be a whole number", "conv_transpose2d", X, ones(4, 8, 3, 3), groups=0),
    shape("expected out of shape (2, 8, 8, 8)", "conv_transpose2d", X, ones(4, 8, 3, 3), out=ones(2, 8, 6, 6)),
    shape(
        "expected dy of the output's shape (2, 8, 8, 8), got (2, 8, 6, 6)",
        "conv_transpose2d_backward",
        ones(2, 8, 6, 6),
        X,
        ones(4, 8, 3, 3),
    ),
    # interpolation and padding
    value("expected either size or scale_factor, got None and None", "interpolate", X),
    value("expected either size or scale_factor, got 3 and 2", "interpolate", X, 3, 2),
    value("unknown mode 'lanczos'; expected one of nearest", "interpolate", X, 3, mode="lanczos"),
    shape("mode 'bilinear' does not fit x of shape (2, 4, 6)", "interpolate", ones(2, 4, 6), 3, mode="bilinear"),
    shape("expected x of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W)", "interpolate", ones(2, 4), 3),
    shape("with at least one element along each but N and C, got (1, 4, 0, 6)", "interpolate", ones(1, 4, 0, 6), 3),
    kind("size must be a whole number or 2 of them, got (3, 3, 3)", "interpolate", X, (3, 3, 3)),
    kind("size must be a whole number or 2 of them, got 1.5", "interpolate", X, 1.5),
    value("size must be at least 1, got 0", "interpolate", X, 0),
    kind("scale_factor must be a number or 2 of them, got '2'", "interpolate", X, scale_factor="2"),
    *(
        value("scale_factor must be finite and above 0, got", "interpolate", X, scale_factor=f)
        for f in (0, -1.0, np.nan, np.inf)
    ),
    shape("scale_factor 0.1 leaves nothing of (2, 4, 6, 6)", "interpolate", X, scale_factor=0.1),
    value("align_corners goes with linear", "interpolate", X, 3, align_corners=False),
    value("neither with coordinates nor", "interpolate", X, 3, None, "bilinear", True, coordinates="asymmetric"),
    value("neither with coordinates nor", "interpolate", X, 3, None, "bilinear", True, antialias=True),
    value("coordinates must be one of half_pixel", "interpolate", X, 3, coordinates="corners"),
    value("coordinates must be one of half_pixel", "interpolate", X, 3, mode="area", coordinates="asymmetric"),
    value("rounding must be one of round_prefer_floor", "interpolate", X, 3, rounding="floor"),
    value("rounding must be one of", "interpolate", X, 3, coordinates="asymmetric", rounding="up"),
    value("antialias goes with bilinear and bicubic, not with 'nearest'", "interpolate", X, 3, antialias=True),
    value("exclude_outside goes with linear", "interpolate", X, 3, exclude_outside=True),
    shape("expected dy of shape (2, 4, 3, 3) for an input of shape", "interpolate_backward", X, X.shape, 3),
    value("unknown mode 'wrap'; expected one of constant, reflect", "pad", X, (1, 1), "wrap"),
    *(kind("pad must be pairs of whole numbers", "pad", X, p) for p in (1, (1,), (1.0, 1), "11", (1, 1, 1))),
    shape("pad has 3 pairs, more than there are axes in x of shape (2, 3)", "pad", ones(2, 3), (1,) * 6),
    shape("pad -2, -2 takes more than there is of axis 1 of (2, 3)", "pad", ones(2, 3), (-2, -2)),
    shape("mode 'reflect' has only 2 elements to pad with along axis 1", "pad", ones(2, 3), (3, 0), "reflect"),
    shape("mode 'circular' has only 3 elements to pad with along axis 1", "pad", ones(2, 3), (0, 4), "circular"),
    shape("mode 'circular' has only 1 elements to pad with", "pad", ones(2, 3), (-2, 2), "circular"),
    shape("mode 'replicate' has only 0 elements to pad with", "pad", ones(2, 0), (0, 1), "replicate"),
    kind("x has dtype complex128", "pad", ones(2, 3, dtype=complex), (1, 1)),
    shape("expected dy of shape (2, 5) for an input of shape (2, 3)", "pad_backward", ones(2, 3), (2, 3), (1, 1)),
    # windows that do not fit
    shape("the kernel spans 3 in height but the padded input is 2 (2 + 2 * 0)", "conv2d", ones(1, 4, 2, 6), W),
    shape(
        "the kernel spans 9 in width but the padded input is 7", "conv2d", ones(1, 4, 9, 5), W, dilation=4, padding=1
    ),
    shape("the kernel spans 3", "conv2d_backward", X, ones(1, 4, 2, 2), W),
    shape("the kernel spans 3 in height but the padded input is 0", "conv2d", ones(1, 4, 0, 6), W),
    shape("expected a kernel of at least 1 x 1, got weight (8, 4, 0, 3)", "conv2d", X, ones(8, 4, 0, 3)),
    shape("the kernel spans 7", "im2col", X, 7),
    *(shape("the kernel spans 7 in height but the padded input is 6", op, X, 7) for op in ("max_pool2d", "avg_pool2d")),
    *(
        shape("expected x with a height and a width of at least 1", op, ones(1, 2, 0, 3), 1)
        for op in ("max_pool2d", "avg_pool2d")
    ),
    shape(
        "expected x with a height and a width of at least 1, got (1, 2, 3, 0)", "global_avg_pool2d", ones(1, 2, 3, 0)
    ),
    value("padding must be at most half of the kernel", "max_pool2d", X, 2, padding=2),
    # options
    *(value(f"{name} must be at least 1, got 0", "conv2d", X, W, **{name: 0}) for name in ("stride", "dilation")),
    value("padding must be at least 0, got -1", "conv2d", X, W, padding=-1),
    kind("stride must be a whole number or a pair of them, got 1.5", "conv2d", X, W, stride=1.5),
    kind("stride must be a whole number or a pair of them, got (1, 2, 3)", "conv2d", X, W, stride=(1, 2, 3)),
    kind("padding must be a whole number or a pair of them, got 'same'", "conv2d", X, W, padding="same"),
    *(value("groups must be a whole number of at least 1", "conv2d", X, W, groups=g) for g in (0, -1, 1.5, True)),
    value("unknown activation 'swish'", "conv2d", X, W, activation="swish"),
    value("unknown algorithm 'fft'; expected one of im2col", "conv2d", X, W, algorithm="fft"),
    kind("batch_norm must be (gamma, beta, mean, var, eps)", "conv2d", X, W, batch_norm=(None, None)),
    kind("batch_norm needs mean and var", "conv2d", X, W, batch_norm=(None, None, None, None, 0.0)),
    value("kernel_size must be at least 1, got 0", "max_pool2d", X, 0),
    kind("kernel_size must be a whole number or a pair of them, got '2'", "max_pool2d", X, "2"),
    value("approximate must be 'none' or 'tanh', got 'erf'", "gelu", ones(3), approximate="erf"),
    value("unknown activation ('relu', 1, 2)", "linear", ones(2, 3), ones(4, 3), activation=("relu", 1, 2)),
    value("unknown activation ()", "linear", ones(2, 3), ones(4, 3), activation=()),
    value("the scale (alpha) must be above 0, got 0.0", "linear", ones(2, 3), ones(4, 3), activation=("celu", 0)),
    value("min_val must not be above max_val", "add", ones(3), ones(3), activation=("hardtanh", 2)),
    *(value("the scale (alpha) must be above 0, got", "celu", ones(3), alpha) for alpha in (0, -1, np.nan)),
    value("the scale (beta) must be above 0, got 0.0", "softplus", ones(3), 0),
    value("min_val must not be above max_val, got 1.0 and -1.0", "hardtanh_backward", ones(3), ones(3), 1, -1),
    value("pieces must be at least 1, got 0", "maxout", ones(3, 4), 0),
    kind("pieces must be a whole number, got 1.5", "maxout", ones(3, 4), 1.5),
    kind("threshold must be a number, got 'a'", "threshold", ones(3), "a", 1),
    value("negative_slope must be at most 1.8e308", "leaky_relu", ones(3), 10**400),
    value("scale_factor must be at most 1.8e308", "interpolate", X, scale_factor=10**400),
    value("divisor_override must be at most 2147483647", "avg_pool2d", X, 2, divisor_override=10**400),
    kind("the activation's parameter must be a number, got '1'", "add", ones(3), ones(3), activation=("celu", "1")),
    shape("expected x of shape (N, C * 3, ...), got (3, 4)", "maxout", ones(3, 4), 3),
    shape("expected x of shape (N, C * 1, ...), got (3,)", "maxout", ones(3), 1),
    shape("expected dy of the output's shape (3, 2), got (3, 4)", "maxout_backward", ones(3, 4), ones(3, 4), 2),
    shape("expected weight of shape (1,) or (4,), one for each channel, got (3,)", "prelu", X, ones(3)),
    shape("expected weight of shape (1,) or (4,)", "prelu_backward", X, X, ones(4, 1)),
    shape("dy and x must have the same shape", "prelu_backward", ones(2, 4), X, ones(4)),
    *(
        value("p is the probability to drop, between 0 and 1, got", "dropout", ones(3), p, rng=0)
        for p in (-0.1, 1.5, np.nan)
    ),
    kind("needs rng=, a seed or a numpy.random.Generator", "dropout", ones(3), rng=None),
    kind("expected a seed or a numpy.random.Generator, got str", "dropout", ones(3), rng="7"),
    value("a seed is a whole number from 0 to 2**64 - 1, got -1", "dropout", ones(3), rng=-1),
    *(shape(f"axis {a} is out of range", "softmax", ones(2, 3), axis=a) for a in (2, -3)),
    # labels
    value("label 3 of row 1 is out of range for scores with 3 classes", "cross_entropy", ones(2, 3), [0, 3]),
    value("label -1 of row 0 is out of range", "cross_entropy", ones(2, 3), [-1, 0]),
    kind("labels have dtype float64; classes are whole numbers", "cross_entropy", ones(2, 3), np.array([0.0, 1.0])),
    kind("labels have dtype bool; classes are whole numbers", "cross_entropy", ones(2, 3), [True, False]),
    shape(
        "expected one label for each of the 2 rows of scores, got labels (3,)", "cross_entropy", ones(2, 3), [0, 1, 2]
    ),
    shape("probabilities must have the shape of scores (2, 3), got (2, 4)", "cross_entropy", ones(2, 3), ones(2, 4)),
    shape("at least one class, got (2, 0)", "cross_entropy", ones(2, 0), [0, 0]),
    shape("expected weight of shape (3,), one for each class", "cross_entropy", ones(2, 3), [0, 1], weight=ones(2)),
    shape("expected sample_weight of shape (2,)", "cross_entropy", ones(2, 3), [0, 1], sample_weight=ones(3)),
    value("label_smoothing must be between 0 and 1", "cross_entropy", ones(2, 3), [0, 1], label_smoothing=1.5),
    shape("expected one label for each of the 2 rows", "hinge", ones(2, 3), [0, 1, 2]),
    value("label -1 of row 1 is out of range", "hinge", ones(2, 3), [0, -1]),
    kind("labels have dtype float64; classes are whole numbers", "hinge", ones(2, 3), np.array([0.0, 1.0])),
    *(
        shape("targets must have the shape of scores (2, 3), got (3, 2)", op, ones(2, 3), ones(3, 2))
        for op in ("mse", "l1", "huber", "binary_cross_entropy_with_logits")
    ),
    kind("targets has dtype complex128", "mse", ones(3), ones(3, dtype=complex)),
    value("delta must be finite and above 0", "huber", ones(3), ones(3), delta=-1.0),
    value("targets must lie between 0 and 1, got 2 to 2", "binary_cross_entropy_with_logits", ones(3), 2 * ones(3)),
    # dropping
    value("mode must be 'row' or 'batch', got 'all'", "stochastic_depth", X, 0.5, "all", rng=0),
    value("p is the probability to drop, between 0 and 1, got 2", "stochastic_depth", X, 2, rng=0),
    kind("needs rng=, a seed or a numpy.random.Generator", "stochastic_depth", X, rng=None),
    shape("expected an array of shape (N, ...), got ()", "stochastic_depth", np.float32(1), rng=0),
    shape("expected the mask of 2 draws", "stochastic_depth_backward", X, np.zeros(2, np.uint8)),
    # out=: of the right shape, dtype, order, writeable, and apart from the input
    *(
        shape("expected out of shape (3,) and dtype float32, got (4,) float32", op, ones(3), out=ones(4))
        for op in POINTWISE
    ),
    shape("got (3,) float64", "relu", ones(3), out=ones(3, dtype=np.float64)),
    shape("got list", "relu", ones(3), out=[0, 0, 0]),
    value("out must be writeable and without gaps", "relu", ones(3), out=ones(6)[::2]),
    shape("expected out of shape (2, 4)", "linear", ones(2, 3), ones(4, 3), out=ones(4, 2)),
    value(
        "out must be writeable and C-contiguous", "linear", ones(2, 3), ones(4, 3), out=np.asfortranarray(ones(2, 4))
    ),
    value("out must be writeable and C-contiguous", "conv2d", X, W, out=ones(2, 8, 4, 8)[..., ::2]),
    # optimizers: nothing is converted, because it is written or kept
    shape("param must have grad's shape (4,)", "sgd_step", ones(4), HYPER, SEGMENTS, ones(5)),
    shape("float32, got (4,) and float64", "sgd_step", ones(4), HYPER, SEGMENTS, ones(4, dtype=np.float64)),
    value("", "sgd_step", ones(4), HYPER, np.array([[0.0, 9, 1, 0]]), ones(4)),
    shape("expected hyper as", "adam_step", ones(4), HYPER, SEGMENTS, ones(4), ones(4), ones(4)),
    shape("", "adam_step", ones(4), ADAM, SEGMENTS, ones(4), ones(3), ones(4)),
    # and what else is done to flat buffers
    shape("grad must have param's shape (4,) and dtype float32", "penalty", ones(4), SEGMENTS, ones(5), ONE),
    shape("expected loss as a contiguous float64 array of shape (1,)", "penalty", ones(4), SEGMENTS, ones(4), ones(1)),
    shape("expected segments as", "penalty", ones(4), np.zeros((1, 5)), ones(4), ONE),
    value("strengths must be at least 0", "penalty", ones(4), np.array([[0, 4, -1, 0.0]]), ones(4), ONE),
    value("segments must be finite", "penalty", ones(4), np.array([[0, 4, np.nan, 0.0]]), ones(4), ONE),
    value("segments must follow one another within 0 and 4", "penalty", ones(4), np.array([[0, 5.0, 0, 1]]), None, ONE),
    shape("expected x as a contiguous float32 or float64 array", "square_sum", ones(2, 2), SEGMENTS, ONE),
    shape("expected total as", "square_sum", ones(4), SEGMENTS, np.ones(2)),
    value("total is read-only", "square_sum", ones(4), SEGMENTS, LAYOUTS["read_only"](ONE)),
    value("limit must be at least 0, got -1.0", "clip_norm", ONE, -ONE, SEGMENTS, ones(4)),
    value("limit must be at least 0, got nan", "clip_norm", ONE, ONE * np.nan, SEGMENTS, ones(4)),
    value("x is read-only", "clip_norm", ONE, ONE, SEGMENTS, LAYOUTS["read_only"](ones(4))),
    shape("expected total as", "clip_norm", np.float64(1), ONE, SEGMENTS, ones(4)),
    value("limit must be at least 0, got -1.0", "clip_value", -ONE, SEGMENTS, ones(4)),
    shape("expected x as", "clip_value", ONE, SEGMENTS, np.ones(4, int)),
    shape("expected segments as a contiguous float64 array of shape (n, 5)", "max_norm", SEGMENTS, ones(4)),
    *(
        value("outer and inner must be whole numbers from 1", "max_norm", np.array([[0, 4, *row]]), ones(4))
        for row in ((0, 2, 1.0), (1, 0, 1.0), (1, 1.5, 1.0), (1, 2, -1.0))
    ),
    value("each segment must be a whole number of units", "max_norm", np.array([[0, 4, 1, 3, 1.0]]), ones(4)),
]


def raised(bad: Bad, engine: Engine) -> Exception:
    """The error of the call, which left its arrays as they were."""
    before = [x.copy() for x in bad.arrays]
    with engine.on(), pytest.raises(bad.error) as caught:
        bad()
    for x, y in zip(bad.arrays, before, strict=True):
        np.testing.assert_array_equal(x, y)
    return caught.value


@engines
@pytest.mark.parametrize("bad", BAD, ids=[f"{i}-{bad.op}" for i, bad in enumerate(BAD)])
def test_error(bad: Bad, engine: Engine) -> None:
    error, reference = raised(bad, engine), raised(bad, NUMPY)
    assert type(error) is type(reference) is bad.error
    assert str(error) == str(reference)
    assert bad.words in str(error)
    assert str(error).startswith((f"{bad.op}: ", "rng: ")), "the message names the op"


@engines
def test_out_that_overlaps(engine: Engine) -> None:
    """An output that lies over part of an input is refused; x itself is allowed where the docs say so."""
    buffer = np.arange(40, dtype=np.float32)
    before = buffer.copy()
    x, shifted = buffer[:32], buffer[1:33]
    with engine.on():
        for name in POINTWISE:
            with pytest.raises(ValueError, match="out overlaps x"):
                getattr(F, name)(x, out=shifted)
        with pytest.raises(ValueError, match="out overlaps b"):
            F.add(ones(32), x, out=shifted)
        with pytest.raises(ValueError, match="out overlaps an input"):
            F.linear(x[:16].reshape(4, 4), ones(4, 4), out=buffer[8:24].reshape(4, 4))
        with pytest.raises(ValueError, match="out overlaps an input"):
            F.conv2d(x[:16].reshape(1, 1, 4, 4), ones(1, 1, 1, 1), out=buffer[8:24].reshape(1, 1, 4, 4))
        with pytest.raises(ValueError, match="out must be writeable"):
            F.relu(x, out=LAYOUTS["read_only"](x))
    np.testing.assert_array_equal(buffer, before)


@engines
def test_strides_far_beyond_the_image(engine: Engine) -> None:
    """One window, at once, however long the step would be to the next."""
    dy = ones(2, 8, 1, 1)
    with engine.on():
        expected = F.conv2d_backward(dy, X, W, stride=8)
        for got, want in zip(F.conv2d_backward(dy, X, W, stride=2**31 - 1), expected, strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(F.conv2d(X, W, stride=2**31 - 1), F.conv2d(X, W, stride=8))
        for pool, back in ((F.max_pool2d, F.max_pool2d_backward), (F.avg_pool2d, F.avg_pool2d_backward)):
            y = pool(X, 2, stride=2**31 - 1)
            np.testing.assert_array_equal(y, pool(X, 2, stride=6))
            x = X if back is F.max_pool2d_backward else X.shape
            np.testing.assert_array_equal(back(y, x, 2, stride=2**31 - 1), back(y, x, 2, stride=6))
        for call in (F.conv2d, lambda x, w, stride: F.max_pool2d(x, 2, stride)):
            with pytest.raises(ValueError, match="stride must be at most 2147483647"):
                call(X, W, stride=2**31)


@engines
def test_gradients_stay_as_they_are(engine: Engine) -> None:
    """A failed backward pass adds nothing to the gradients that it was given."""
    dweight, dbias = ones(8, 4, 3, 3), ones(8)
    with engine.on():
        with pytest.raises(ShapeError):
            F.conv2d_backward(ones(2, 8, 5, 5), X, W, into=(dweight, dbias))
        with pytest.raises(ShapeError):
            F.linear_backward(ones(2, 8), ones(2, 3), ones(8, 4), into=(ones(8, 4), dbias))
        with pytest.raises(ShapeError):
            F.batch_norm_backward(ones(2, 8, 5, 5), ones(2, 8, 6, 6), ones(8), ones(8), into=(dbias, dbias))
    assert (dweight == 1).all()
    assert (dbias == 1).all()


@engines
def test_gradients_are_added_in_another_dtype(engine: Engine) -> None:
    """float64 gradients for the float32 arrays of a layer, or arrays with gaps, take a detour, and the same numbers."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 4, 5, 6))
    weight = rng.standard_normal(4)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (F.batch_norm_backward, (dy, x, weight, weight**2)),
        (F.group_norm_backward, (dy, x, 2)),
        (F.instance_norm_backward, (dy, x)),
        (F.layer_norm_backward, (dy, x, 6)),
        (F.conv2d_backward, (dy[:, :, :4, :4], x, rng.standard_normal((4, 4, 2, 3)))),
        (F.linear_backward, (dy[..., :3], x, rng.standard_normal((3, 6)))),
    ]
    with engine.on():
        for function, args in calls:
            dx, *gradients = function(*args)
            into = [np.ones((2, *g.shape), np.float32)[::2][0] for g in gradients]
            gaps = [np.ones((*g.shape, 2))[..., 0] for g in gradients]
            for targets in (into, gaps):
                got, *same = function(*args, into=tuple(targets))
                np.testing.assert_array_equal(got, dx)
                for target, result, gradient in zip(targets, same, gradients, strict=True):
                    assert result is target
                    np.testing.assert_array_equal(target, (1 + gradient).astype(target.dtype))


@engines
def test_out_of_a_subclass(engine: Engine) -> None:
    """A matrix stays of two dimensions when it is flattened: the kernels must not see it as one. A memmap is usual."""

    class Own(np.ndarray):
        pass

    x = np.linspace(-3, 3, 40, dtype=np.float32).reshape(4, 10)
    with engine.on(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        for kind in (np.matrix, Own):
            for function in (F.relu, F.gelu, F.softmax, lambda x, out: F.batch_norm(x, ones(10), ones(10), out=out)):
                out = np.zeros((4, 10), np.float32).view(kind)
                want = function(x, out=np.zeros((4, 10), np.float32))
                np.testing.assert_array_equal(function(x, out=out), want)
                np.testing.assert_array_equal(np.asarray(out), want)


@engines
def test_batch_norm_writes_out_or_refuses(engine: Engine) -> None:
    """Beyond four dimensions the array is seen in another shape: out must not become a copy of itself on the way."""
    memory = ones(49)
    x, gaps = memory[:48].reshape(2, 3, 2, 2, 2), np.full((2, 3, 2, 2, 4), 9, np.float32)
    with engine.on():
        with pytest.raises(ValueError, match="writeable and C-contiguous"):
            F.batch_norm(x, ones(3), ones(3), out=gaps[..., ::2])
        with pytest.raises(ValueError, match="overlaps an input"):
            F.batch_norm(x, ones(3), ones(3), out=memory[1:].reshape(x.shape))
        assert F.batch_norm(x, ones(3), ones(3), out=x) is x
    assert (gaps == 9).all()
    np.testing.assert_array_equal(memory, np.append(np.zeros(48, np.float32), 1))


def test_what_equals_a_whole_number_is_none() -> None:
    """Geometry is kept for the next call; what a call with 2 has left must not serve one with 2.0."""
    w = ones(4, 4, 3, 3)
    for good, bad in (((2, 2), (2, 2.0)), (2, 2.0)):
        for call in (
            lambda s: F.conv2d(X, w, None, s),
            lambda s: F.conv_transpose2d(X, w, None, s),
            lambda s: F.max_pool2d(X, s),
            lambda s: F.pad(X, s if isinstance(s, tuple) else (s, s)),
        ):
            call(good)
            with pytest.raises(TypeError):
                call(bad)
    F.interpolate(X, (2, 2))
    with pytest.raises(TypeError):
        F.interpolate(X, (2, 2.0))  # type: ignore[arg-type]


@engines
@pytest.mark.parametrize("function", [F.cross_entropy, F.hinge])
def test_labels_beyond_64_bits(function: Any, engine: Engine) -> None:
    """-100 is what 2^64 - 100 becomes in int64; it must not be ignored for that."""
    with engine.on():
        with pytest.raises(ValueError, match="out of range"):
            function(ones(1, 3), np.array([2**64 - 100], np.uint64))
        with pytest.raises(ValueError, match="64 bits"):
            function(ones(1, 3), np.array([1]), ignore_index=2**70)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.LeakyReLU(10**400),
        lambda: L.Linear(10**400, 2),
        lambda: L.Conv2d(2, 10**400, 3),
        lambda: SGD(10**400),
        lambda: schedules.one_cycle(10**400),
        lambda: ClipNorm(10**400),
    ],
)
def test_options_beyond_every_number(make: Callable[[], Any]) -> None:
    """A whole number that no float holds is a wrong value, like infinity; not an OverflowError."""
    with pytest.raises(ValueError, match="must be"):
        make()

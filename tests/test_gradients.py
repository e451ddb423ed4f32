"""Every backward pass is the derivative of its forward pass: by four-point differences in float64, for each element of
each input on the reference, and along one random direction on every backend and instruction set.

f'(0) = (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h has the error h^4 f^(5) / 30 and loses eps |f| / h to rounding. With
h = 1e-3 and values near 1 both are about 1e-13; sums over n elements and fifth derivatives of up to 100 leave 1e-9
relative to the sizes that go in. Inputs keep 2h clear of kinks.

To add an op: a `Gradient` in GRADIENTS: forward(**arrays, **options) -> y, gradients(dy, y, **arrays, **options) ->
{name: gradient}, and the arrays, written as in cases.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastnn.functional as F
from cases import Array, clear_of_zero, integers, make, positive, row_softmax, spread, uniform
from engines import ENGINES, NUMPY, Engine

H = 1e-3
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Gradient:
    """One op with its backward pass; ``arrays`` that the backward gives no gradient for are constants."""

    forward: Callable[..., Any]
    gradients: Callable[..., dict[str, Array]]
    arrays: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def _activation(function: Callable[..., Array], backward: Callable[..., Array], **options: Any) -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array) -> dict[str, Array]:
        return {"x": backward(dy, x, **options)}

    return [Gradient(lambda x: function(x, **options), gradients, {"x": clear_of_zero(5, 7)})]


def _softmax(function: Callable[..., Array], backward: Callable[..., Array]) -> list[Gradient]:
    return [
        Gradient(
            lambda x, axis=axis: function(x, axis),
            lambda dy, y, x, axis=axis: {"x": backward(dy, y, axis)},
            {"x": (3, 4, 5)},
        )
        for axis in (-1, 0, 1)
    ]


def _cross_entropy() -> list[Gradient]:
    variants: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"labels": integers(0, 5, 6)}, {}),
        ({"labels": integers(0, 5, 6), "weight": positive(5), "sample_weight": positive(6)}, {"label_smoothing": 0.2}),
        ({"labels": np.array([0, 3, -100, 4, -100, 1])}, {}),
        ({"labels": row_softmax(False, -1, 6, 5), "weight": positive(5)}, {"label_smoothing": 0.1}),
    ]
    return _loss(F.cross_entropy, *(({"scores": (6, 5), **arrays}, o) for arrays, o in variants))


def _loss(function: Callable[..., Any], *variants: tuple[dict[str, Any], dict[str, Any]]) -> list[Gradient]:
    """A loss returns its gradient by the scores; the other arrays are constants."""
    return [
        Gradient(
            lambda scores, o=o, **more: np.asarray(function(scores, **more, **o)[0]),
            lambda dy, y, scores, o=o, **more: {"scores": dy * function(scores, **more, **o)[1]},
            arrays,
        )
        for arrays, o in variants
    ]


def _dropout() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, p: float) -> dict[str, Array]:
        return {"x": F.dropout_backward(dy, F.dropout(x, p, rng=3)[1], p)}

    return [
        Gradient(lambda x, p: F.dropout(x, p, rng=3)[0], gradients, {"x": (5, 7)}, {"p": p}) for p in (0.5, 0.3, 1.0)
    ]


def _stochastic_depth() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, p: float, mode: str) -> dict[str, Array]:
        mask = F.stochastic_depth(x, p, mode, rng=3)[1]
        return {"x": F.stochastic_depth_backward(dy, mask, p, mode)}

    return [
        Gradient(
            lambda x, p, mode: F.stochastic_depth(x, p, mode, rng=3)[0],
            gradients,
            {"x": (6, 2, 3)},
            {"p": p, "mode": mode},
        )
        for p in (0.5, 0.3, 1.0)
        for mode in ("row", "batch")
    ]


def _batch_norm() -> list[Gradient]:
    def train(
        dy: Array, y: Array, x: Array, weight: Array | None = None, bias: Array | None = None
    ) -> dict[str, Array]:
        _, mean, var = F.batch_norm_train(x, weight, bias)
        dx, dweight, dbias = F.batch_norm_backward(dy, x, mean, var, weight)
        return {"x": dx} if weight is None else {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    def frozen(dy: Array, y: Array, x: Array, mean: Array, var: Array, weight: Array, bias: Array) -> dict[str, Array]:
        dx, dweight, dbias = F.batch_norm_backward(dy, x, mean, var, weight, frozen=True)
        return {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    def joined(dy: Array, y: Array, x: Array, residual: Array, weight: Array, bias: Array) -> dict[str, Array]:
        _, mean, var = F.batch_norm_train(x, weight, bias)
        dx, dweight, dbias = F.batch_norm_backward(dy, x, mean, var, weight, y=y)
        return {"x": dx, "residual": F.relu_backward(dy, y), "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    affine: dict[str, Any] = {"weight": (3,), "bias": (3,)}
    found = [
        Gradient(lambda x, weight, bias: F.batch_norm_train(x, weight, bias)[0], train, {"x": shape, **affine})
        for shape in ((4, 3), (2, 3, 5), (3, 3, 2, 4))
    ]
    found.append(Gradient(lambda x: F.batch_norm_train(x)[0], train, {"x": (3, 3, 2, 4)}))
    found.append(
        Gradient(
            lambda x, residual, weight, bias: F.batch_norm_train(x, weight, bias, residual=residual, relu=True)[0],
            joined,
            {"x": (3, 3, 2, 4), "residual": lambda rng: 9 * np.sign(rng.standard_normal((3, 3, 2, 4))), **affine},
        )
    )
    fixed: dict[str, Any] = {"x": (3, 3, 2, 4), "mean": (3,), "var": positive(3), **affine}
    return [*found, Gradient(F.batch_norm, frozen, fixed)]


def _group_norm() -> list[Gradient]:
    def gradients(
        function: Callable[..., Any],
        dy: Array,
        y: Array,
        x: Array,
        weight: Array | None = None,
        bias: Any = None,
        **o: Any,
    ) -> dict[str, Array]:
        dx, dweight, dbias = function(dy, x, **o, weight=weight)
        return {"x": dx} if weight is None else {"x": dx, "weight": dweight, "bias": dbias}

    found = []
    for op, shape, vector, options in (
        ("group_norm", (2, 6, 2, 3), (6,), {"num_groups": 2}),
        ("group_norm", (3, 6), (6,), {"num_groups": 3}),
        ("instance_norm", (2, 3, 3, 4), (3,), {}),
        ("layer_norm", (4, 7), (7,), {"normalized_shape": 7}),
        ("layer_norm", (3, 2, 5), (2, 5), {"normalized_shape": (2, 5)}),
    ):
        backward = partial(gradients, getattr(F, f"{op}_backward"))
        for affine in ({"weight": vector, "bias": vector}, {}):
            found.append(Gradient(getattr(F, op), backward, {"x": shape, **affine}, options))  # type: ignore[arg-type]
    return found


def _adaptive(function: Callable[..., Array], backward: Callable[..., Array], whole: bool) -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, output_size: Any) -> dict[str, Array]:
        return {"x": backward(dy, x, output_size) if whole else backward(dy, x.shape)}

    sizes: list[Any] = [1, 3, (2, 5), (None, 9)]
    return [Gradient(function, gradients, {"x": spread(2, 2, 6, 7)}, {"output_size": size}) for size in sizes]


def _pool(function: Callable[..., Array], backward: Callable[..., Array], whole: bool) -> list[Gradient]:
    """For average pooling the backward pass takes the shape of x, for max pooling x itself."""
    geometry: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": 1, "padding": (1, 0), "ceil_mode": True},
    ]
    geometry.append(
        {"kernel_size": 3, "stride": 2, "padding": 1, **({"dilation": 1} if whole else {"count_include_pad": False})}
    )
    geometry.append({"kernel_size": 2, **({"dilation": (3, 2)} if whole else {"divisor_override": 3})})
    return [
        Gradient(
            function,
            lambda dy, y, x, **o: {"x": backward(dy, x if whole else x.shape, **o)},
            {"x": spread(2, 2, 6, 7)},
            o,
        )
        for o in geometry
    ]


def _conv2d() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, weight: Array, bias: Array, **o: Any) -> dict[str, Array]:
        dx, dweight, dbias = F.conv2d_backward(dy, x, weight, **o)
        return {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    geometry: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 5, 6), (4, 3, 3, 3), {"padding": 1}),
        ((1, 4, 7, 6), (6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
        ((2, 5, 4, 4), (5, 1, 3, 3), {"groups": 5, "stride": 2, "padding": 2}),
        ((2, 3, 4, 4), (2, 3, 1, 1), {}),
    ]
    return [Gradient(F.conv2d, gradients, {"x": x, "weight": w, "bias": (w[0],)}, o) for x, w, o in geometry]


def _conv1d() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, weight: Array, bias: Array, **o: Any) -> dict[str, Array]:
        dx, dweight, dbias = F.conv1d_backward(dy, x, weight, **o)
        return {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    geometry: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 9), (4, 3, 3), {"padding": 1}),
        ((1, 4, 12), (6, 2, 3), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
    ]
    return [Gradient(F.conv1d, gradients, {"x": x, "weight": w, "bias": (w[0],)}, o) for x, w, o in geometry]


def _conv_transpose2d() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, weight: Array, bias: Array, **o: Any) -> dict[str, Array]:
        dx, dweight, dbias = F.conv_transpose2d_backward(dy, x, weight, **o)
        return {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    geometry: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 4, 3), (3, 2, 3, 3), {}),
        ((1, 3, 4, 3), (3, 4, 4, 4), {"stride": 2, "padding": 1}),
        ((2, 4, 3, 4), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0), "groups": 2}),
        ((1, 2, 3, 4), (2, 2, 2, 2), {"dilation": 3, "output_padding": 2, "stride": (1, 2)}),
        ((1, 4, 3, 3), (4, 1, 3, 3), {"groups": 4, "stride": 2}),
    ]
    return [
        Gradient(F.conv_transpose2d, gradients, {"x": x, "weight": w, "bias": (w[1] * o.get("groups", 1),)}, o)
        for x, w, o in geometry
    ]


def _resampled(
    function: Callable[..., Array], backward: Callable[..., Array], *cases: tuple[tuple[int, ...], dict[str, Any]]
) -> list[Gradient]:
    return [
        Gradient(function, lambda dy, y, x, **o: {"x": backward(dy, x.shape, **o)}, {"x": shape}, o)
        for shape, o in cases
    ]


def _matmul() -> list[Gradient]:
    found = []
    for ta in (False, True):
        for tb in (False, True):
            options = {"transpose_a": ta, "transpose_b": tb}

            def gradients(dy: Array, y: Array, a: Array, b: Array, **options: bool) -> dict[str, Array]:
                return dict(zip("ab", F.matmul_backward(dy, a, b, **options), strict=True))

            arrays = {"a": (2, 5, 3) if ta else (2, 3, 5), "b": (2, 4, 5) if tb else (2, 5, 4)}
            found.append(Gradient(partial(F.matmul, **options), partial(gradients, **options), arrays))
    return found


def _linear() -> list[Gradient]:
    def gradients(dy: Array, y: Array, x: Array, weight: Array, bias: Array) -> dict[str, Array]:
        dx, dweight, dbias = F.linear_backward(dy, x, weight)
        return {"x": dx, "weight": dweight, "bias": dbias}  # type: ignore[dict-item]

    shapes: list[tuple[int, ...]] = [(5, 7), (7,), (2, 3, 7)]
    return [Gradient(F.linear, gradients, {"x": x, "weight": (4, 7), "bias": (4,)}) for x in shapes]


def _values(options: dict[str, Any] | None = None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Scores whose distance from the targets is no multiple of 0.05: clear of 0 and of delta."""
    o = options or {}
    zeros = {"scores": spread(2, 3, 4), "targets": np.zeros((2, 3, 4))}
    return [(zeros, o), ({**zeros, "sample_weight": positive(2)}, o)]


_COLUMNS = {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}

GRADIENTS: dict[str, list[Gradient]] = {
    "relu_backward": _activation(F.relu, F.relu_backward),
    "leaky_relu_backward": _activation(F.leaky_relu, F.leaky_relu_backward, negative_slope=0.3),
    "sigmoid_backward": _activation(F.sigmoid, F.sigmoid_backward),
    "tanh_backward": _activation(F.tanh, F.tanh_backward),
    "elu_backward": _activation(F.elu, F.elu_backward, alpha=0.7),
    "gelu_backward": _activation(F.gelu, F.gelu_backward),
    "gelu_tanh_backward": _activation(F.gelu, F.gelu_backward, approximate="tanh"),
    "hardtanh_backward": _activation(F.hardtanh, F.hardtanh_backward, min_val=-1.003, max_val=1.503),
    "threshold_backward": _activation(F.threshold, F.threshold_backward, threshold=0.003, value=0.0),
    "hardsigmoid_backward": _activation(F.hardsigmoid, F.hardsigmoid_backward),
    "hardswish_backward": _activation(F.hardswish, F.hardswish_backward),
    "softsign_backward": _activation(F.softsign, F.softsign_backward),
    "selu_backward": _activation(F.selu, F.selu_backward),
    "celu_backward": _activation(F.celu, F.celu_backward, alpha=0.7),
    "silu_backward": _activation(F.silu, F.silu_backward),
    "mish_backward": _activation(F.mish, F.mish_backward),
    "softplus_backward": _activation(F.softplus, F.softplus_backward, beta=1.5, threshold=100.0),
    "relu6_backward": _activation(lambda x: F.relu6(5 * x), lambda dy, x: 5 * F.relu6_backward(dy, 5 * x)),
    "prelu_backward": [
        Gradient(
            F.prelu,
            lambda dy, y, x, weight: dict(zip(("x", "weight"), F.prelu_backward(dy, x, weight), strict=True)),
            {"x": clear_of_zero(*shape), "weight": (c,)},
        )
        for shape, c in (((5, 7), 7), ((2, 3, 4, 2), 3), ((2, 3, 35), 3), ((9,), 1), ((2, 3, 4), 1))
    ],
    "maxout_backward": [
        Gradient(F.maxout, lambda dy, y, x, **o: {"x": F.maxout_backward(dy, x, **o)}, {"x": spread(*shape)}, o)
        for shape, o in (((5, 8), {}), ((2, 6, 3, 2), {"pieces": 3}), ((2, 6, 20), {"pieces": 2}))
    ],
    "softmax_backward": _softmax(F.softmax, F.softmax_backward),
    "log_softmax_backward": _softmax(F.log_softmax, F.log_softmax_backward),
    "cross_entropy": _cross_entropy(),
    # multiples of 0.05 shifted by 0.025: margins of 1 and 0.5 are neither just kept nor just missed
    "hinge": _loss(
        F.hinge,
        ({"scores": spread(6, 5), "labels": integers(0, 5, 6)}, {"margin": 0.51}),
        (
            {"scores": spread(6, 5), "labels": integers(0, 5, 6), "weight": positive(5), "sample_weight": positive(6)},
            {"margin": 1.01},
        ),
        ({"scores": spread(6, 5), "labels": integers(0, 5, 6)}, {"margin": 0.51, "ignore_index": 2}),
    ),
    "mse": _loss(F.mse, *_values()),
    "l1": _loss(F.l1, *_values()),
    "huber": _loss(F.huber, *_values({"delta": 0.31}), *_values({"delta": 100.0})),
    "binary_cross_entropy_with_logits": _loss(
        F.binary_cross_entropy_with_logits,
        ({"scores": (3, 4), "targets": uniform(3, 4)}, {}),
        ({"scores": (3, 4), "targets": uniform(3, 4), "pos_weight": positive(4), "sample_weight": positive(3)}, {}),
        ({"scores": (3, 4), "targets": uniform(3, 4), "weight": positive(4), "pos_weight": positive(4)}, {}),
    ),
    "dropout_backward": _dropout(),
    "stochastic_depth_backward": _stochastic_depth(),
    "batch_norm_backward": _batch_norm(),
    "group_norm_backward": _group_norm(),
    "max_pool2d_backward": _pool(F.max_pool2d, F.max_pool2d_backward, whole=True),
    "avg_pool2d_backward": _pool(F.avg_pool2d, F.avg_pool2d_backward, whole=False),
    "adaptive_max_pool2d_backward": _adaptive(F.adaptive_max_pool2d, F.adaptive_max_pool2d_backward, whole=True),
    "adaptive_avg_pool2d_backward": _adaptive(F.adaptive_avg_pool2d, F.adaptive_avg_pool2d_backward, whole=False),
    "global_avg_pool2d_backward": [
        Gradient(
            F.global_avg_pool2d,
            lambda dy, y, x: {"x": F.global_avg_pool2d_backward(dy, x.shape)},
            {"x": (2, 3, 4, 5)},
        )
    ],
    "conv2d_backward": _conv2d(),
    "mul_backward": [
        Gradient(F.mul, lambda dy, y, a, b: dict(zip("ab", F.mul_backward(dy, a, b), strict=True)), {"a": x, "b": b})
        for x, b in (((3, 5), (3, 5)), ((2, 3, 4, 2), (2, 3, 1, 1)))
    ],
    "div_backward": [
        Gradient(
            F.div,
            lambda dy, y, a, b: dict(zip("ab", F.div_backward(dy, a, b), strict=True)),
            {"a": (3, 5), "b": positive(3, 5)},
        )
    ],
    "conv1d_backward": _conv1d(),
    "conv_transpose2d_backward": _conv_transpose2d(),
    "interpolate_backward": _resampled(
        F.interpolate,
        F.interpolate_backward,
        ((2, 2, 3, 4), {"scale_factor": 2}),
        ((1, 3, 5), {"size": 8, "mode": "linear"}),
        ((2, 2, 3, 4), {"size": (7, 3), "mode": "bilinear"}),
        ((1, 2, 3, 4), {"size": (7, 3), "mode": "bilinear", "align_corners": True}),
        ((1, 2, 5, 7), {"size": 3, "mode": "bilinear", "antialias": True}),
        ((1, 2, 3, 4), {"scale_factor": 1.7, "mode": "bicubic"}),
        ((1, 2, 5, 4), {"size": (2, 6), "mode": "area"}),
        ((1, 2, 2, 3, 2), {"size": (3, 2, 4), "mode": "trilinear"}),
    ),
    "pad_backward": _resampled(
        F.pad,
        F.pad_backward,
        *(((2, 2, 3, 4), {"pad": (2, 1, -1, 2), "mode": mode}) for mode in ("constant", "reflect", "replicate")),
        ((2, 2, 3, 4), {"pad": (2, 1, 3, 2), "mode": "circular"}),
        ((2, 3, 2, 2, 2), {"pad": (1, 0, 0, 0, 1, -1, 0, 1), "mode": "replicate"}),
    ),
    "concat": [
        Gradient(
            lambda a, b, axis: F.concat([a, b], axis),
            lambda dy, y, a, b, axis: dict(zip("ab", F.split(dy, [a.shape[axis], b.shape[axis]], axis), strict=True)),
            {"a": (2, 3, 4), "b": (2, 3, 4)},
            {"axis": axis},
        )
        for axis in (0, 1, -1)
    ],
    "split": [
        Gradient(
            lambda x: F.split(x, [1, 3])[1],
            lambda dy, y, x: {"x": F.concat([np.zeros((2, 1, 3)), dy])},
            {"x": (2, 4, 3)},
        )
    ],
    "pixel_shuffle": [
        Gradient(lambda x: F.pixel_shuffle(x, 2), lambda dy, y, x: {"x": F.pixel_unshuffle(dy, 2)}, {"x": (2, 8, 2, 3)})
    ],
    "pixel_unshuffle": [
        Gradient(lambda x: F.pixel_unshuffle(x, 3), lambda dy, y, x: {"x": F.pixel_shuffle(dy, 3)}, {"x": (1, 2, 3, 6)})
    ],
    "channel_shuffle": [
        Gradient(
            lambda x: F.channel_shuffle(x, 2), lambda dy, y, x: {"x": F.channel_shuffle(dy, 3)}, {"x": (2, 6, 2, 3)}
        )
    ],
    "im2col_forward": [
        Gradient(F.im2col, lambda dy, y, x, **o: {"x": F.col2im(dy, x.shape[2:], **o)}, {"x": (2, 3, 5, 7)}, _COLUMNS)
    ],
    "col2im_forward": [
        Gradient(
            lambda cols, **o: F.col2im(cols, (5, 7), **o),
            lambda dy, y, cols, **o: {"cols": F.im2col(dy, **o)},
            {"cols": (2, 18, 9)},
            _COLUMNS,
        )
    ],
    "matmul_backward": _matmul(),
    "linear_backward": _linear(),
}


class Problem:
    """The scalar function sum(dy * forward(arrays)) for a random dy, with the gradients of the backward pass."""

    def __init__(self, op: str, gradient: Gradient) -> None:
        self.gradient = gradient
        self.rng = np.random.default_rng(zlib.crc32(op.encode()))
        self.arrays = {name: make(spec, self.rng) for name, spec in gradient.arrays.items()}
        y = gradient.forward(**self.arrays, **gradient.options)
        self.dy = self.rng.standard_normal(y.shape)
        self.gradients = gradient.gradients(self.dy, y, **self.arrays, **gradient.options)
        self.tolerance = TOLERANCE * (1 + sum(float(np.abs(g).max(initial=0)) for g in self.gradients.values()))

    def derivative(self, **direction: Array) -> float:
        """The numeric derivative along a direction given for some of the arrays."""

        def f(t: float) -> float:
            moved = {name: self.arrays[name] + t * d for name, d in direction.items()}
            return float((self.dy * self.gradient.forward(**(self.arrays | moved), **self.gradient.options)).sum())

        return (f(-2 * H) - 8 * f(-H) + 8 * f(H) - f(2 * H)) / (12 * H)


@pytest.mark.parametrize("op", GRADIENTS)
def test_each_element(op: str) -> None:
    """The reference, element by element."""
    with NUMPY.on():
        for gradient in GRADIENTS[op]:
            problem = Problem(op, gradient)
            for name, analytic in problem.gradients.items():
                assert analytic.shape == problem.arrays[name].shape
                units = np.eye(analytic.size).reshape(analytic.size, *analytic.shape)
                numeric = [problem.derivative(**{name: unit}) for unit in units]
                np.testing.assert_allclose(analytic.ravel(), numeric, rtol=0, atol=problem.tolerance, err_msg=name)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("op", GRADIENTS)
def test_direction(op: str, engine: Engine) -> None:
    """Every engine, all inputs moved at once: the error adds up over at most 250 elements of random sign."""
    with engine.on():
        for gradient in GRADIENTS[op]:
            problem = Problem(op, gradient)
            direction = {name: problem.rng.uniform(-1, 1, problem.arrays[name].shape) for name in problem.gradients}
            analytic = sum(float((problem.gradients[name] * d).sum()) for name, d in direction.items())
            assert abs(analytic - problem.derivative(**direction)) <= problem.tolerance * np.sqrt(250)


def test_the_check_can_fail() -> None:
    """A gradient that is off by a millionth part is seen."""
    wrong = Gradient(F.tanh, lambda dy, y, x: {"x": F.tanh_backward(dy, x) * (1 + 1e-6)}, {"x": (3,)})
    with NUMPY.on():
        problem = Problem("wrong", wrong)
        error = problem.gradients["x"].sum() - problem.derivative(x=np.ones(3))
    assert abs(error) > 10 * problem.tolerance

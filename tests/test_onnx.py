"""ONNX files: networks and their values, gradients of every operator, exports of torch's, files that are no good."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastnn as fnn
from fastnn.onnx import builders, importer, model, moves, operators, wire
from onnx_files import external, field, node, one, port, small_cnn, tensor, varint
from onnx_files import model as file_of

Array = np.ndarray
BENCH = Path(__file__).parent.parent / "bench"
RNG = np.random.default_rng(0)


def draw(*shape: int, low: float | None = None, dtype: Any = np.float64) -> Array:
    x = RNG.standard_normal(shape)
    return (np.abs(x) + low if low is not None else x).astype(dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Without compile's warning of what it computes in NumPy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile: computed in NumPy")
        yield


# ---- every operator: gradients, programs, float32 ----

X4 = draw(2, 4, 5, 6)
I64 = np.int64
#: (operator, its inputs, options). Floats are differentiated; the inputs that "constants" names stand in the file.
OPERATORS: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((op, [draw(2, 3) + 0.1], {}) for op in ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid")),
    *((op, [draw(2, 3) + 0.1], {}) for op in ("Tanh", "HardSwish", "Mish", "Softplus", "Softsign", "Neg", "Abs")),
    *((op, [draw(2, 3) + 0.1], {}) for op in ("Exp", "Erf", "Sin", "Cos", "Identity", "Dropout")),
    *((op, [draw(2, 3, low=0.5)], {}) for op in ("Sqrt", "Log", "Reciprocal")),
    ("Gelu", [draw(2, 3)], {"opset": 20}),
    ("Gelu", [draw(2, 3)], {"opset": 20, "approximate": "tanh"}),
    ("Swish", [draw(2, 3)], {"opset": 24}),
    ("Swish", [draw(2, 3)], {"opset": 24, "alpha": 1.7}),
    ("Elu", [draw(2, 3) + 0.1], {"alpha": 0.4}),
    ("Selu", [draw(2, 3) + 0.1], {"alpha": 1.1, "gamma": 1.3}),
    ("Celu", [draw(2, 3) + 0.1], {"alpha": 0.4}),
    ("HardSigmoid", [draw(2, 3)], {"alpha": 0.3, "beta": 0.4}),
    ("ThresholdedRelu", [draw(2, 3)], {"alpha": 0.33}),
    ("PRelu", [X4, draw(4, 1, 1)], {}),
    ("PRelu", [X4, draw(4, 1, 1)], {"constants": (1,)}),
    ("PRelu", [X4, draw(5, 6)], {}),
    ("Clip", [draw(4, 5), np.array(-0.5), np.array(0.7)], {"constants": (1, 2)}),
    ("Clip", [draw(4, 5), None, np.array(0.7)], {"constants": (2,)}),
    ("Clip", [draw(4, 5)], {"opset": 7, "min": -0.31, "max": 0.62}),
    ("Cast", [draw(2, 3)], {"to": 11}),
    *((op, [X4, draw(4, 1, 6, low=0.5)], {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *((op, [X4, draw(2, 4, 5, 6)], {}) for op in ("Add", "Sub", "Mul", "Sum")),
    *((op, [X4, draw(2, 4, 1, 1)], {"constants": (1,)}) for op in ("Add", "Mul")),
    ("Mul", [X4, draw(2, 4, 1, 1)], {}),
    ("Pow", [draw(2, 3, low=0.5), draw(3)], {}),
    ("Where", [RNG.random((2, 3)) > 0.5, draw(2, 3), draw(3)], {}),
    ("Concat", [draw(2, 1, 3), draw(2, 2, 3)], {"axis": -2}),
    ("Split", [draw(2, 6)], {"axis": 1, "outputs": 3, "opset": 18, "num_outputs": 3}),
    ("Split", [draw(2, 6), np.array([2, 4])], {"axis": 1, "outputs": 2, "constants": (1,)}),
    (
        "Slice",
        [X4, np.array([1, 4]), np.array([3, 0]), np.array([1, -1]), np.array([1, -2])],
        {"constants": (1, 2, 3, 4)},
    ),
    (
        "Slice",
        [X4, np.array([0, 1]), np.array([9, 6]), np.array([2, 3]), np.array([2, 3])],
        {"constants": (1, 2, 3, 4)},
    ),
    ("Slice", [X4], {"opset": 9, "starts": [1], "ends": [-1], "axes": [3]}),
    *(
        ("Pad", [X4, np.array([0, 0, 1, 2, 0, 0, 2, 1])], {"mode": mode, "constants": (1,)})
        for mode in ("constant", "reflect", "edge")
    ),
    ("Pad", [X4, np.array([0, 1, -1, 2, 0, 0, 2, 1]), np.array(0.5)], {"constants": (1, 2)}),
    ("Pad", [X4, np.array([1, 2, 2, 1]), None, np.array([3, 2])], {"mode": "wrap", "opset": 19, "constants": (1, 3)}),
    *(
        ("Resize", [X4, None, np.array([1.0, 1.0, 2.0, 1.5], np.float32)], {"mode": mode, "constants": (2,)})
        for mode in ("nearest", "linear", "cubic")
    ),
    ("Resize", [X4, None, None, np.array([2, 4, 3, 9])], {"mode": "linear", "constants": (3,)}),
    (
        "Resize",
        [X4, np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 1.3], np.float32), None, np.array([2, 4, 3, 9])],
        {"mode": "linear", "constants": (1, 3), "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
    ("Upsample", [X4, np.array([1.0, 1.0, 2.0, 3.0], np.float32)], {"opset": 9, "constants": (1,), "mode": "nearest"}),
    ("Reshape", [X4, np.array([0, -1, 5])], {"constants": (1,)}),
    ("Flatten", [X4], {"axis": 2}),
    ("Transpose", [X4], {"perm": [2, 0, 3, 1]}),
    ("Transpose", [draw(2, 3, 2, 2, 3)], {"perm": [4, 0, 3, 1, 2]}),
    ("Squeeze", [draw(2, 1, 3), np.array([1])], {"constants": (1,)}),
    ("Unsqueeze", [draw(2, 3), np.array([-1, 0])], {"constants": (1,)}),
    ("Gather", [X4, np.array([[0, -1], [2, 2]])], {"axis": 1, "constants": (1,)}),
    ("GatherElements", [draw(2, 3), np.array([[0, 1, 1]])], {"axis": 0, "constants": (1,)}),
    *(
        ("CumSum", [draw(2, 3, 4), np.array(axis)], {"constants": (1,), "exclusive": e, "reverse": r})
        for axis, e, r in ((0, 0, 0), (-1, 1, 0), (1, 0, 1), (2, 1, 1))
    ),
    ("MatMul", [draw(2, 3, 4, 5), draw(2, 3, 5, 6)], {}),
    ("MatMul", [draw(3, 4, 5), draw(2, 1, 5, 2)], {}),
    ("MatMul", [draw(3, 4, 5), draw(3, 5, 2)], {"constants": (1,)}),
    ("Div", [draw(2, 3, low=0.5), draw(2, 3, low=0.5)], {}),
    ("Expand", [draw(3, 1), np.array([2, 1, 4])], {"constants": (1,)}),
    ("Expand", [draw(3, 1), np.array([3, 4])], {"constants": (1,)}),
    ("Expand", [draw(3, 1), np.array([1, 4])], {"constants": (1,)}),
    ("Tile", [draw(2, 3), np.array([2, 3])], {"constants": (1,)}),
    *((op, [X4], {"axes": [1, -1], "keepdims": k}) for op in ("ReduceMean", "ReduceMax", "ReduceMin") for k in (0, 1)),
    ("ReduceMean", [X4], {"axes": [2, 3]}),
    ("ReduceMean", [X4], {"axes": [-1, -2], "keepdims": 0}),
    ("ReduceSum", [X4, np.array([0, 2])], {"constants": (1,)}),
    ("ReduceSum", [X4], {"keepdims": 0}),
    *((op, [draw(3, 4, low=0.5)], {"axes": [1]}) for op in ("ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")),
    *((op, [X4], {"axis": 1, "opset": opset}) for op in ("Softmax", "LogSoftmax") for opset in (11, 13)),
    ("DepthToSpace", [draw(2, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [draw(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [draw(2, 2, 4, 6)], {"blocksize": 2}),
    ("MatMul", [draw(2, 3, 4), draw(4, 5)], {}),
    ("MatMul", [draw(2, 3, 4), draw(4, 5)], {"constants": (1,)}),
    ("MatMul", [draw(4), draw(2, 4, 5)], {}),
    ("MatMul", [draw(3, 4), draw(4)], {}),
    ("Gemm", [draw(4, 3), draw(5, 4), draw(5)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [draw(3, 4), draw(4, 5), draw(1, 5)], {"alpha": 0.5, "beta": 2.0, "constants": (1, 2)}),
    ("Gemm", [draw(3, 4), draw(4, 5), draw(3, 1)], {"constants": (1, 2)}),
    ("Gemm", [draw(3, 4), draw(4, 5)], {}),
    ("LRN", [X4], {"size": 3, "alpha": 0.3, "bias": 1.5}),
    ("LRN", [X4], {"size": 4, "alpha": 0.3}),
    ("LayerNormalization", [draw(2, 3, 4), draw(4), draw(4)], {}),
    ("LayerNormalization", [draw(2, 3, 4), draw(3, 4)], {"axis": 1}),
    ("LayerNormalization", [draw(2, 3, 4), draw(4), draw(4)], {"constants": (1, 2)}),
    ("GroupNormalization", [X4, draw(4), draw(4)], {"num_groups": 2, "opset": 21}),
    ("GroupNormalization", [X4, draw(4), draw(4)], {"num_groups": 2, "opset": 21, "constants": (1, 2)}),
    ("GroupNormalization", [X4, draw(2), draw(2)], {"num_groups": 2, "opset": 18, "constants": (1, 2)}),
    ("InstanceNormalization", [X4, draw(4), draw(4)], {}),
    ("InstanceNormalization", [X4, draw(4), draw(4)], {"constants": (1, 2)}),
    *(
        ("BatchNormalization", [x, draw(4), draw(4), draw(4), draw(4, low=0.5)], {"constants": constants})
        for x in (X4, draw(3, 4), draw(2, 4, 3), draw(2, 4, 2, 2, 3))
        for constants in ((3, 4), (1, 2, 3, 4))
    ),
    *(
        ("Conv", [draw(2, 4, *size), draw(6, 2, *kernel), draw(6)], {"group": 2, "constants": constants, **options})
        for size, kernel, options in (
            ((7,), (3,), {"pads": [1, 2], "strides": [2]}),
            ((7,), (3,), {"pads": [1, 1], "dilations": [2]}),
            ((7, 6), (3, 2), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
            ((7, 6), (3, 2), {"pads": [0, 1, 2, 0]}),
            ((7, 6), (3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
            ((7, 6), (3, 2), {"auto_pad": "SAME_LOWER"}),
            ((3, 4, 3), (2, 2, 2), {"pads": [1, 0, 0, 0, 1, 1]}),
        )
        for constants in ((), (1, 2))
        if len(size) < 3 or not constants
    ),
    *(
        (
            "ConvTranspose",
            [draw(2, 4, *size), draw(4, 3, *kernel), draw(6)],
            {"group": 2, "constants": constants, **options},
        )
        for size, kernel, options in (
            ((4,), (3,), {"strides": [2], "pads": [1, 1]}),
            ((4, 3), (3, 2), {"strides": [2, 1], "pads": [1, 0, 1, 0], "output_padding": [1, 0]}),
            ((4, 3), (3, 2), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            ((4, 3), (3, 2), {"strides": [3, 2], "output_shape": [13, 6]}),
            ((4, 3), (3, 2), {"dilations": [2, 1], "pads": [1, 0, 0, 1]}),
        )
        for constants in ((), (1, 2))
    ),
    *(
        (op, [draw(2, 2, *size)], {"kernel_shape": kernel, **options})
        for op in ("MaxPool", "AveragePool", "LpPool")
        for size, kernel, options in (
            ((7,), [3], {"strides": [2], "pads": [1, 1]}),
            ((7, 6), [3, 2], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
            ((7, 6), [3, 2], {"strides": [2, 2], "pads": [0, 1, 2, 0]}),
            ((7, 6), [3, 2], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
            ((3, 4, 3), [2, 2, 2], {}),
        )
    ),
    *(
        (
            "AveragePool",
            [X4],
            {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": pads, "count_include_pad": c},
        )
        for pads in ([1, 1, 1, 1], [0, 1, 1, 0])
        for c in (0, 1)
    ),
    ("AveragePool", [X4], {"kernel_shape": [2, 2], "dilations": [2, 3], "opset": 19}),
    ("MaxPool", [X4], {"kernel_shape": [2, 2], "dilations": [2, 3], "strides": [2, 2], "ceil_mode": 1, "opset": 12}),
    ("MaxPool", [X4], {"kernel_shape": [2, 2], "outputs": 2}),
    *((op, [x], {}) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool") for x in (X4, draw(2, 3, 4))),
]
IDS = [f"{i}-{op}" for i, (op, _, _) in enumerate(OPERATORS)]


def network(case: tuple[str, list[Any], dict[str, Any]], dtype: Any) -> tuple[Any, list[Array]]:
    """The graph of a case with its floats in a dtype, and the arrays for its inputs."""
    op, inputs, options = case
    given = [x if x is None or x.dtype != np.float64 else x.astype(dtype) for x in inputs]
    if op == "Cast":
        options = {**options, "to": {np.float32: 1, np.float64: 11}[dtype]}
    graph = fnn.onnx.load(one(op, *given, **options))
    constants = options.get("constants", ())
    return graph, [x for i, x in enumerate(given) if x is not None and i not in constants]


@pytest.mark.parametrize("case", OPERATORS, ids=IDS)
def test_gradient(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    """Of every operator, by all floating inputs and parameters, against central differences in float64."""
    graph, xs = network(case, np.float64)
    rng = np.random.default_rng(1)
    for layer in graph:  # what gathers statistics, and masks at random, is not what is checked here
        if hasattr(layer, "frozen"):
            layer.frozen = True
        if hasattr(layer, "p"):
            layer.p = 0.0
    y, backward = graph.forward(*xs, rng=0)
    ys = y if isinstance(y, tuple) else (y,)
    dys = [rng.standard_normal(part.shape) if part.dtype.kind == "f" else None for part in ys]
    dxs = backward(*dys)
    dxs = dxs if isinstance(dxs, tuple) else (dxs,)
    arrays = [(x, dx) for x, dx in zip(xs, dxs, strict=True) if x.dtype.kind == "f"]
    arrays += [(graph.params[name], gradient) for name, gradient in graph.grads.items()]

    def value() -> float:
        found = graph(*xs)
        parts = found if isinstance(found, tuple) else (found,)
        return sum(float(np.sum(part * dy)) for part, dy in zip(parts, dys, strict=True) if dy is not None)

    assert arrays
    step = 1e-6
    for array, gradient in arrays:
        direction = rng.standard_normal(array.shape)
        before = array.copy()
        array[...] = before + step * direction
        high = value()
        array[...] = before - step * direction
        low = value()
        array[...] = before
        slope, expected = (high - low) / (2 * step), float(np.sum(gradient * direction))
        # Rounding: some hundred terms of size 1 with errors of 1e-16, over the step; truncation: step^2 times a third
        # derivative, which is below 1e3 here.
        assert abs(slope - expected) <= 1e-6 * max(1.0, abs(slope)), case


@pytest.mark.parametrize("case", OPERATORS, ids=IDS)
def test_program(case: tuple[str, list[Any], dict[str, Any]], tmp_path: Path) -> None:
    """Compiled, the network gives the same, also out of a file; shapes are known before it runs."""
    graph, xs = network(case, np.float32)
    y = graph(*xs)
    ys = y if isinstance(y, tuple) else (y,)
    shapes = graph.output_shape(*(x.shape for x in xs))
    assert (shapes if isinstance(y, tuple) else (shapes,)) == tuple(part.shape for part in ys)
    if not all(x.ndim for x in xs):
        return
    with quiet():
        program = fnn.compile(graph, [x.shape for x in xs])
    found = program(*xs)
    program.save(tmp_path / "it.fnn")
    again = fnn.load_program(tmp_path / "it.fnn")
    assert type(again) is type(program) and again.describe() == program.describe()
    for part, other in zip(*(p if isinstance(p, tuple) else (p,) for p in (found, again(*xs))), strict=True):
        np.testing.assert_array_equal(part, other)
    for part, other in zip(ys, found if isinstance(found, tuple) else (found,), strict=True):
        assert part.shape == other.shape and part.dtype == other.dtype
        # float32 sums of up to some hundred terms in another order
        np.testing.assert_allclose(part, other, rtol=2e-5, atol=2e-6 * float(np.abs(part).max(initial=1)))


def test_all_operators_are_tested() -> None:
    no_gradient = {"ArgMax", "ArgMin", "Shape", "Size", "Range", "ConstantOfShape", "Constant", "CastLike", "Mod"}
    no_gradient |= {"Floor", "Ceil", "Round", "Sign", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
    no_gradient |= {"And", "Or", "Xor", "Not", "IsNaN"}
    assert set(operators()) - {op for op, _, _ in OPERATORS} == no_gradient
    assert set(builders.BUILDERS) <= set(operators())


# ---- networks ----


def test_names_and_programs(tmp_path: Path) -> None:
    net = fnn.onnx.load(small_cnn())
    assert sorted(net.params) == sorted(
        ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight", "head.bias"]
    )
    assert net.inputs == ("x",) and net.outputs == ("y",)
    x = draw(2, 3, 8, 9, dtype=np.float32)
    program = fnn.compile(net, (2, 3, 8, 9))  # a warning, of operators in NumPy, would be an error
    labels = [node.layer.label() for node in program._graph.nodes]  # norm and activation went into the convolution
    assert [label.split()[0] for label in labels] == ["Conv2d", "GlobalAvgPool2d", "Flatten", "Linear"]
    for n in (1, 2, 5):
        batch = draw(n, 3, 8, 9, dtype=np.float32)
        np.testing.assert_allclose(program(batch), net(batch), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net))(x), net(x))
    np.testing.assert_array_equal(net.copy()(x), net(x))
    program.save(tmp_path / "net.fnn")
    np.testing.assert_array_equal(fnn.load_program(tmp_path / "net.fnn")(x), program(x))
    assert "head" in net.summary((2, 3, 8, 9))


@pytest.mark.parametrize("program", [True, False])
def test_fine_tunes(program: bool) -> None:
    """An imported classifier trains, by a recorded step and by its closures, to the same weights."""
    net = fnn.onnx.load(small_cnn())
    x, labels = draw(20, 3, 6, 6, dtype=np.float32), np.arange(20) % 5
    trainer = fnn.Trainer(net, optimizer=fnn.optim.Adam(lr=0.01), rng=0, program=program)
    losses = [trainer.step(x, labels) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    if program and fnn._backends.core() is not None:
        assert any(step is not None for step in trainer._programs.values())


def test_fixed_batch_takes_others() -> None:
    """A network that was exported for one size of batch, which stands in the target of a Reshape."""
    nodes = [node("Reshape", "x target", "f"), node("Gemm", "f w", "y", transB=1)]
    tensors = [tensor("target", np.array([1, 12])), tensor("w", draw(4, 12, dtype=np.float32))]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, (1, 3, 4))], [port("y")], tensors))
    x = draw(5, 3, 4, dtype=np.float32)
    y = net(x)
    assert y.shape == (5, 4)
    np.testing.assert_allclose(np.concatenate([net(row[np.newaxis]) for row in x]), y, rtol=1e-6, atol=1e-6)
    with pytest.raises(fnn.ShapeError, match=r"expected \(N, 3, 4\), got \(5, 4, 3\)"):
        net(draw(5, 4, 3, dtype=np.float32))


def test_shared_weights_are_one_array() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r w", "y")]
    net = fnn.onnx.load(file_of(nodes, [port("x")], [port("y")], [tensor("w", draw(3, 3, dtype=np.float32))]))
    first, second = net.params.values()
    assert first is second


def test_types() -> None:
    """float16 is computed as float32; integers and booleans keep their types."""
    x = draw(2, 3, dtype=np.float16)
    y = fnn.onnx.load(one("Exp", x))(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.exp(x.astype(np.float32)), rtol=1e-6)
    for dtype in (np.int8, np.uint16, np.int64, np.uint64):
        a = np.array([[7, 9], [100, 3]], dtype)
        y = fnn.onnx.load(one("Div", a, np.array(2, dtype)))(a, np.array(2, dtype))
        assert y.dtype == dtype and y.tolist() == [[3, 4], [50, 1]]
    a = np.array([-7, 7], np.int32)
    assert fnn.onnx.load(one("Div", a, np.array([2, -2], np.int32)))(a, np.array([2, -2], np.int32)).tolist() == [
        -3,
        -3,
    ]
    with pytest.raises(TypeError, match="expected int32"):
        fnn.onnx.load(one("Neg", a))(np.array([0.5, 1]))


def test_functions_in_the_file() -> None:
    """An operator that the file defines by others, with an attribute and one that is absent."""
    inner = node("LeakyRelu", "a", "b")
    inner += field(5, field(1, "alpha") + field(21, "slope") + field(20, 1))
    body = field(1, "Twice") + field(4, "a") + field(5, "c") + field(6, "slope") + field(10, "mine")
    body += field(7, inner) + field(7, node("Add", "b b", "c")) + field(9, field(1, "") + field(2, 17))
    nodes = [node("Twice", "x", "t", domain="mine", slope=0.5), node("Twice", "t", "y", domain="mine", slope=0.25)]
    more = field(25, body) + field(8, field(1, "mine") + field(2, 1))
    net = fnn.onnx.load(file_of(nodes, [port("x")], [port("y")], more=more))
    np.testing.assert_allclose(net(np.float32([-2, 3])), [2 * 0.25 * -2, 12])


def gelu(order: int) -> list[bytes]:
    """x (1 + erf(x / sqrt 2)) / 2 in one of the ways in which exporters write it."""
    nodes = [node("Div", "x root", "a"), node("Mul", "x inverse", "a")][order % 2 : order % 2 + 1]
    nodes += [node("Erf", "a", "e"), node("Add", "e one", "p")]
    match order // 2:
        case 0:
            return [*nodes, node("Mul", "x p", "m"), node("Mul", "m half", "y")]
        case 1:
            return [*nodes, node("Mul", "p half", "m"), node("Mul", "x m", "y")]
        case _:
            return [node("Mul", "x half", "h"), *nodes, node("Mul", "h p", "y")]


NUMBERS = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1, "half": 0.5, "two": 2, "eps": 1e-5}


def labels(nodes: list[bytes], arrays: dict[str, Array], outputs: str = "y") -> tuple[list[str], Any]:
    """The layers that a network becomes, and the network."""
    tensors = [tensor(name, np.float32(number)) for name, number in NUMBERS.items()]
    tensors += [tensor(name, array) for name, array in arrays.items()]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", 4, 5, 6))], [port(o) for o in outputs], tensors))
    return [n.layer.label() for n in net.nodes if n.layer.label() not in ("Input", "Identity")], net


@pytest.mark.parametrize("order", range(6))
def test_gelu_is_put_together(order: int) -> None:
    found, net = labels(gelu(order), {})
    assert found == ["GELU"]
    x = draw(2, 4, 5, 6, dtype=np.float32)
    np.testing.assert_allclose(net(x), fnn.functional.gelu(x), rtol=1e-6, atol=1e-6)
    assert "GELU" not in labels(gelu(order), {}, "ye")[0]  # where the rest is needed too


def test_layer_norm_is_put_together() -> None:
    nodes = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d"), node("Pow", "d two", "s")]
    nodes += [node("ReduceMean", "s", "v", axes=[-1]), node("Add", "v eps", "t"), node("Sqrt", "t", "r")]
    nodes += [node("Div", "d r", "q"), node("Mul", "q w", "u"), node("Add", "u b", "y")]
    w, b, x = draw(6, dtype=np.float32), draw(6, dtype=np.float32), draw(2, 4, 5, 6, dtype=np.float32)
    found, net = labels(nodes, {"w": w, "b": b})
    assert found == ["LayerNorm 6"]
    np.testing.assert_allclose(net(x), fnn.functional.layer_norm(x, 6, w, b), rtol=1e-6, atol=1e-6)


def test_numbers_and_channels_are_put_together() -> None:
    """One number added to or multiplied with all, and one for each channel: kernels, and merged."""
    x = draw(2, 4, 5, 6, dtype=np.float32)
    nodes = [node("Sub", "half x", "a"), node("Div", "a two", "b"), node("Add", "b one", "y")]
    found, net = labels(nodes, {})
    assert found == ["Affine -0.5 +1.25"]
    np.testing.assert_allclose(net(x), 1.25 - x / 2, rtol=1e-6, atol=1e-6)
    y, backward = net.forward(x)
    np.testing.assert_array_equal(backward(y), -0.5 * y)
    w, b = draw(4, 1, 1, dtype=np.float32), draw(1, 4, 1, 1, dtype=np.float32)
    found, net = labels([node("Mul", "x w", "m"), node("Add", "b m", "y")], {"w": w, "b": b})
    assert found == ["Affine by channel 4"] and not net.params and len(net.buffers) == 4
    np.testing.assert_allclose(net(x), x * w + b, rtol=1e-6, atol=1e-6)
    conv = [node("Conv", "x k", "c"), node("Mul", "c w", "m"), node("Add", "m b", "y")]
    k = draw(4, 4, 1, 1, dtype=np.float32)
    _, net = labels(conv, {"w": w, "b": b, "k": k})
    program = fnn.compile(net, (2, 4, 5, 6))
    assert len(program.steps()) <= 3  # all in one convolution, and copies to and from its order in memory
    np.testing.assert_allclose(program(x), net(x), rtol=1e-5, atol=1e-5)
    assert labels([node("Div", "one x", "y")], {})[0] == ["Div"]


def test_mnist(data_folder: Path) -> None:
    """The trained network to hand, on all test images: 98.91 %, by layers and compiled."""
    sys.path.insert(0, str(BENCH))
    import accuracy

    result = accuracy.mnist(data_folder)
    assert (result.images, f"{result.layers:.2f}", f"{result.compiled:.2f}") == (10_000, "98.91", "98.91")
    assert result.difference < 1e-6  # four layers


# ---- exports of torch's ----


def _torch_networks() -> dict[str, Callable[[], tuple[Any, tuple[int, ...]]]]:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn, T = torch.nn, torch.nn.functional
    sys.path.insert(0, str(BENCH))
    import models

    def block(n_in: int, n: int) -> Any:
        return nn.Sequential(nn.Conv2d(n_in, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU())

    class UNet(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = block(3, 8), block(8, 16), block(16, 16)
            self.up, self.d, self.e, self.out = (
                nn.ConvTranspose2d(16, 16, 2, 2),
                block(32, 8),
                block(16, 8),
                nn.Conv2d(8, 2, 1),
            )

        def forward(self, x: Any) -> Any:
            a = self.a(x)
            b = self.b(T.max_pool2d(a, 2))
            y = self.d(torch.cat([self.up(self.c(T.max_pool2d(b, 2))), b], 1))
            y = T.interpolate(y, size=a.shape[2:], mode="bilinear", align_corners=False)
            return self.out(self.e(torch.cat([y, a], 1)))

    class Detector(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h1, self.h2 = block(3, 8), block(8, 16), nn.Conv2d(24, 21, 1), nn.Conv2d(16, 21, 1)

        def forward(self, x: Any) -> Any:
            a = T.silu(self.a(T.max_pool2d(x, 2)))
            b = T.silu(self.b(T.max_pool2d(a, 2)))
            up = T.interpolate(b, scale_factor=2.0, mode="nearest")
            found = []
            for y, stride in ((self.h1(torch.cat([up, a], 1)), 2), (self.h2(b), 4)):
                n, _, h, w = y.shape
                y = y.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2).sigmoid()
                gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
                xy = (y[..., :2] * 2 - 0.5 + torch.stack([gx, gy], -1).float()) * stride
                found.append(torch.cat([xy, (y[..., 2:4] * 2) ** 2 * 10, y[..., 4:]], -1).reshape(n, -1, 7))
            return torch.cat(found, 1)

    class Transformer(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 5)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
            self.token = nn.Parameter(torch.randn(1, 1, 32))

        def forward(self, x: Any) -> Any:
            y = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.layer(torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1))[:, 0])

    def twin(name: str, **sizes: int) -> Any:
        return models.torch_twin(name, models.build(name, 0, **sizes), **sizes)

    return {
        "resnet18": lambda: (twin("resnet18"), (3, 64, 64)),
        "resnet50": lambda: (twin("resnet50"), (3, 64, 64)),
        "mobilenet_v2": lambda: (twin("mobilenet_v2"), (3, 64, 64)),
        "vgg16_bn": lambda: (twin("vgg16_bn", hidden=64), (3, 224, 224)),
        "unet": lambda: (UNet(), (3, 32, 40)),
        "detector": lambda: (Detector(), (3, 32, 40)),
        "transformer": lambda: (Transformer(), (3, 32, 32)),
    }


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "unet", "detector", "transformer"]
)
def test_exports_of_torch(name: str, exporter: str) -> None:
    """Both exporters, with the batch left open and with it fixed: equal to ONNX Runtime, by layers and compiled."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    module, shape = _torch_networks()[name]()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    module.eval()
    for opened in (True, False)[: 1 if name == "vgg16_bn" else 2]:  # its exports take long
        x = torch.randn(2 if opened else 1, *shape)
        data = _export(torch, module, x, exporter, opened)
        net = fnn.onnx.load(data)
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        with quiet():
            program = fnn.compile(net, tuple(x.shape))
        for n in (1, 3) if opened else (1,):
            batch = draw(n, *shape, dtype=np.float32)
            expected = session.run(None, {session.get_inputs()[0].name: batch})[0]
            bound = 1e-5 * np.abs(expected).max()
            assert np.abs(net(batch) - expected).max() <= bound
            assert np.abs(program(batch) - expected).max() <= bound


def _export(torch: Any, module: Any, x: Any, exporter: str, opened: bool) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will change
        if exporter == "torchscript":
            names = {"input_names": ["x"], "output_names": ["y"]}
            axes = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}} if opened else {}
            torch.onnx.export(module, (x,), file, dynamo=False, **names, **axes)
        else:
            shapes = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1, max=64)},)} if opened else {}
            torch.onnx.export(module, (x,), dynamo=True, verbose=False, **shapes).save(file)
    return file.getvalue()


# ---- files that are no good ----


def damaged(data: bytes, match: str, error: type[Exception] = fnn.FileFormatError) -> None:
    with pytest.raises(error, match=match):
        fnn.onnx.load(data)


X = [port("x", np.float32, ("n", 3))]
Y = [port("y")]


def test_unknown_operators_are_named_all_at_once() -> None:
    nodes = [node("Loop", "x", "a", name="first"), node("Magic", "a", "b", domain="com.me"), node("Loop", "b", "y")]
    with pytest.raises(fnn.UnsupportedOperatorError, match=r"Loop \(opset 17; node 'first' and 1 more\), com.me.Magic"):
        fnn.onnx.load(file_of(nodes, X, Y))
    damaged(
        file_of([node("Relu", "x", "y")], X, Y, opset=5), "opset 5; fastnn reads 6 to", fnn.UnsupportedOperatorError
    )
    damaged(file_of([node("Relu", "x", "y")], X, Y, opset=999), "opset 999", fnn.UnsupportedOperatorError)
    damaged(file_of([node("Cast", "x", "y", to=8, name="c")], X, Y), "node 'c' .*type 8")
    text = field(1, "x") + field(2, field(1, field(1, 8)))
    damaged(file_of([node("Relu", "x", "y")], [text], Y), "'x' is a tensor of string", fnn.UnsupportedOperatorError)


def test_wiring() -> None:
    relu = node("Relu", "x", "y", name="r")
    damaged(file_of([node("Relu", "z", "y", name="r")], X, Y), "node 'r' .* reads 'z', which is no input")
    damaged(file_of([relu, node("Tanh", "x", "y", name="t")], X, Y), "'y' is given by node 't' and by 'r'")
    damaged(file_of([node("Relu", "x", "x")], X, Y), "'x' is given by node")
    cycle = [node("Add", "x b", "a", name="one"), node("Relu", "a", "b", name="two"), node("Tanh", "b", "y")]
    damaged(file_of(cycle, X, Y), "cycle: 'one' <- 'two' <- 'one'|cycle: 'two' <- 'one' <- 'two'")
    damaged(file_of([relu], X, [port("z")]), "output 'z' is given by no node")
    damaged(file_of([relu], X, []), "no output")
    damaged(file_of([node("Conv", "x w", "y", name="c")], X, Y), "node 'c' .* reads 'w'")
    damaged(file_of([node("Add", "x", "y", name="a")], X, Y), "node 'a' .* expected 2 inputs, got 1")
    damaged(file_of([node("Relu", "x", "y z", name="a")], X, [port("z")]), "node 'a' .* gives 1 outputs, and 2")
    damaged(file_of([relu], [*X, *X], Y), "two inputs are called 'x'")
    w = tensor("w", np.ones((2, 3, 3), np.float32))
    damaged(
        file_of([node("Conv", "x w", "y", group=5, name="c")], X, Y, [w]), "node 'c' .*5 groups do not divide the 2 "
    )
    damaged(file_of([relu], X, Y, [w, w]), "two initializers are called 'w'")
    nodes = [node("Tanh", "r", "y"), node("Relu", "x", "r"), node("Relu", "x", "unused")]  # in another order
    np.testing.assert_allclose(fnn.onnx.load(file_of(nodes, X, Y))(np.float32([[1, -1, 2]])), [np.tanh([1, 0, 2])])


def test_a_function_that_calls_itself() -> None:
    body = (
        field(1, "F") + field(4, "a") + field(5, "b") + field(10, "mine") + field(7, node("F", "a", "b", domain="mine"))
    )
    data = file_of([node("F", "x", "y", domain="mine")], X, Y, more=field(25, body))
    damaged(data, "calls itself")
    # Each of thirty functions calls the next twice: 2^30 nodes.
    more = b""
    for i in range(30):
        calls = field(7, node(f"F{i + 1}", "a", "b", domain="m")) + field(7, node(f"F{i + 1}", "b", "c", domain="m"))
        more += field(25, field(1, f"F{i}") + field(4, "a") + field(5, "c") + field(10, "m") + calls)
    damaged(file_of([node("F0", "x", "y", domain="m")], X, Y, more=more), "more than 200000 nodes")


TENSORS = {
    "cut": (tensor("w", np.ones(6, np.float32), raw=b"\0" * 23), "takes 24 bytes, and has 23"),
    "enormous": (tensor("w", np.ones(2, np.float32), dims=[1 << 40, 1 << 40]), "takes .* bytes, and has 8"),
    "enormous beside none": (tensor("w", np.ones(0, np.float32), dims=[0, 1 << 62]), "'w' .*which no array has"),
    "negative": (tensor("w", np.ones(2, np.float32), dims=[-2, -1]), "shape"),
    "many axes": (tensor("w", np.ones(2, np.float32), dims=[1] * 70), "axes"),
    "nothing": (tensor("w", np.ones(2, np.float32), raw=None), "takes 2 numbers, and has 0"),
    "other field": (tensor("w", np.ones(2, np.float32), raw=None, more=field(7, 5)), "another type"),
    "booleans": (tensor("w", np.ones(2, bool), raw=b"\1\7"), "neither 0 nor 1"),
    "not UTF-8": (field(8, b"\xff"), "UTF-8"),
    "long number": (field(1, b"\xff" * 11), "64 bits|cut"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors(kind: str) -> None:
    data, match = TENSORS[kind]
    damaged(file_of([node("Add", "x w", "y")], X, Y, [data]), match)


def test_wire() -> None:
    damaged(b"", "no graph")
    damaged(b"\x89PNG\r\n", "not a readable ONNX file")
    damaged(b"PK\x03\x04" + b"\0" * 40, "not a readable ONNX file")
    damaged(b"\x08", "cut")
    damaged(b"\x08" + b"\xff" * 10, "64 bits")
    damaged(b"\x3a\xff\xff\xff\xff\x0f", "claims 4294967295 bytes where 0 are left")
    damaged(b"\x0b", "wire type 3")
    damaged(b"\x00\x00", "number 0")
    whole = small_cnn()
    for size in range(0, len(whole) - 1, 7):  # cut anywhere
        with pytest.raises(fnn.FileFormatError):
            fnn.onnx.load(whole[:size])
    assert wire._varints(memoryview(varint(300) + varint(5) + varint(-1))).tolist() == [300, 5, (1 << 64) - 1]


def test_numbers_one_by_one() -> None:
    """Tensors that keep their numbers in fields of their type, packed and not."""
    for array, number, pack in (
        (np.float32([1.5, -2]), 4, "<2f"),
        (np.float64([1.5, -2]), 10, "<2d"),
    ):
        packed = field(number, pack and __import__("struct").pack(pack, *array))
        net = fnn.onnx.load(one_constant(tensor("c", array, raw=None, more=packed)))
        np.testing.assert_array_equal(net(np.float32([0])), array)
    for dtype, number in ((np.int32, 5), (np.int8, 5), (np.bool_, 5), (np.int64, 7), (np.uint64, 11), (np.float16, 5)):
        array = np.array([1, 0, 1], dtype)
        numbers = array.view(np.uint16) if dtype is np.float16 else array
        for more in (
            b"".join(field(number, int(n)) for n in numbers),
            field(number, b"".join(varint(int(n)) for n in numbers)),
        ):
            net = fnn.onnx.load(one_constant(tensor("c", array, raw=None, more=more)))
            np.testing.assert_array_equal(net(np.float32([0])), array)


def one_constant(data: bytes) -> bytes:
    """A network that gives a constant."""
    return file_of([node("Identity", "c", "y")], [port("x", np.float32, (1,))], Y, [data])


def test_data_in_other_files(tmp_path: Path) -> None:
    """They are read from the folder of the network, and from nowhere else."""
    array = np.float32([[1, 2, 3]])
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 4 + array.tobytes())
    (tmp_path / "secret.bin").write_bytes(array.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.mkfifo(folder / "pipe")

    def load(location: str, **where: Any) -> Any:
        data = file_of([node("Add", "x w", "y")], X, Y, [external("w", array, location, **where)])
        (folder / "net.onnx").write_bytes(data)
        return fnn.onnx.load(folder / "net.onnx")

    np.testing.assert_array_equal(load("w.bin", offset=4, length=12)(array), 2 * array)
    np.testing.assert_array_equal(load("w.bin", offset=4)(array), 2 * array)
    for location in (
        "../secret.bin",
        str(tmp_path / "secret.bin"),
        "link.bin",
        "",
        ".",
        "..",
        "a\0b",
        "../net/../secret.bin",
    ):
        with pytest.raises(fnn.FileFormatError, match="not in the folder"):
            load(location)
    with pytest.raises(fnn.FileFormatError, match="regular file"):
        load("pipe")
    with pytest.raises(fnn.FileFormatError, match="No such file"):
        load("absent.bin")
    with pytest.raises(fnn.FileFormatError, match="takes 12 bytes at 8"):
        load("w.bin", offset=8)
    with pytest.raises(fnn.FileFormatError, match="takes 12 bytes, and has 100"):
        load("w.bin", length=100)
    for where in ({"offset": -4}, {"offset": "four"}, {"offset": "0_0"}, {"length": 1 << 70}):
        with pytest.raises(fnn.FileFormatError):
            load("w.bin", **where)
    with pytest.raises(fnn.FileFormatError, match="load the network by its path"):
        fnn.onnx.load(file_of([node("Add", "x w", "y")], X, Y, [external("w", array, "w.bin")]))
    with pytest.raises(fnn.FileFormatError, match="regular file"):
        fnn.onnx.load(folder / "pipe")
    with pytest.raises(FileNotFoundError):
        fnn.onnx.load(folder / "absent.onnx")


def peak(run: Callable[[], Any]) -> int:
    """The most memory that Python and NumPy had at once, in bytes."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS = {
    "shape": one("ConstantOfShape", np.array([1 << 20, 1 << 20]), constants=(0,)),
    "expand": one("Expand", np.float32([1]), np.array([1 << 40]), constants=(0, 1)),
    "tile": one("Tile", np.float32([1]), np.array([1 << 40]), constants=(0, 1)),
    "range": one("Range", np.array(0), np.array(1 << 50), np.array(1), constants=(0, 1, 2)),
    "pad": one("Pad", np.float32([1]), np.array([1 << 40, 1 << 40]), constants=(0, 1)),
    "resize": one("Resize", np.ones((1, 1, 2, 2), np.float32), None, np.float32([1, 1, 1e9, 1e9]), constants=(0, 2)),
    "negative": one("ConstantOfShape", np.array([-5]), constants=(0,)),
    "upsample": one(
        "Upsample", np.ones((1, 1, 2, 2), np.float32), np.float32([1, 1, 1e9, 1e9]), opset=9, constants=(0, 1)
    ),
    "many": file_of(
        [node("ConstantOfShape", "s", f"c{i}") for i in range(30)]
        + [node("Sum", " ".join(f"c{i}" for i in range(30)), "y")],
        [],
        Y,
        [tensor("s", np.array([1000, 2000]))],
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unfolds_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "_MOST_FOLDED", 128 << 20)

    def load() -> None:
        with pytest.raises(fnn.FileFormatError):
            fnn.onnx.load(BOMBS[kind])

    assert peak(load) < 200 << 20


def test_what_unfolds_as_it_runs_is_bounded() -> None:
    x = np.float32([[1, 2, 3]])
    for op, sizes in (
        ("Expand", [1 << 20, 1 << 20, 3]),
        ("Tile", [1 << 20, 1 << 20]),
        ("Pad", [0, 0, 1 << 40, 1 << 40]),
    ):
        data = one(op, x, np.array(sizes), constants=(1,))
        with pytest.raises(fnn.FileFormatError, match=r"'it'.*too large"):
            fnn.onnx.load(data)
        net = fnn.onnx.load(file_of([node(op, "x s", "y", name="it")], X, Y, [tensor("s", np.array(sizes))]))
        with pytest.raises(fnn.ShapeError, match=r"'it'.*too large"):
            net(x)
    conv = one(
        "Conv", np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 1, 1), np.float32), constants=(1,), pads=[1 << 30] * 4
    )
    with pytest.raises((fnn.ShapeError, fnn.FileFormatError, MemoryError)):
        fnn.onnx.load(conv)(np.ones((1, 1, 4, 4), np.float32))


def test_wrong_shapes_as_it_runs() -> None:
    net = fnn.onnx.load(small_cnn())
    with pytest.raises(fnn.ShapeError, match=r"'x' \(Input\): expected \(n, 3, h, w\), got \(2, 4, 8, 8\)"):
        net(np.zeros((2, 4, 8, 8), np.float32))
    with pytest.raises(fnn.ShapeError, match="Input"):
        net(np.zeros((3, 8, 8), np.float32))
    add = fnn.onnx.load(file_of([node("Add", "x z", "y", name="sum")], [port("x"), port("z")], Y))
    with pytest.raises(fnn.ShapeError, match=r"'sum' \(Add\): shapes do not go together: \(2, 3\), \(4,\)"):
        add(np.zeros((2, 3), np.float32), np.zeros(4, np.float32))
    gather = fnn.onnx.load(one("Gather", np.zeros((3, 2), np.float32), np.array([0])))
    with pytest.raises(IndexError, match="from 0 to 5 do not fit axis 0"):
        gather(np.zeros((3, 2), np.float32), np.array([0, 5]))
    with pytest.raises(TypeError, match="expected 2 inputs"):
        gather(np.zeros((3, 2), np.float32))


def test_shapes_that_depend_on_numbers() -> None:
    """They run, and say why they do not compile."""
    x, target = np.zeros((2, 6), np.float32), np.array([3, 4])
    net = fnn.onnx.load(one("Reshape", x, target))
    assert net(x, target).shape == (3, 4)
    with pytest.raises(fnn.ShapeError, match="depends on the numbers of its input 1"):
        fnn.compile(net, [x.shape, target.shape])


def test_compile_says_what_it_does_not_compile() -> None:
    net = fnn.onnx.load(one("LRN", np.zeros((1, 4, 3, 3), np.float32), size=3))
    with pytest.warns(UserWarning, match=r"computed in NumPy, between the compiled pieces: 'it' \(LRN\)"):
        program = fnn.compile(net, (1, 4, 3, 3))
    assert "NumPy" in program.describe() and "NumPy" in str(program.profile(repeats=2))


def test_nothing_but_numpy_is_needed(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(small_cnn())
    code = (
        "import sys; sys.modules['onnx'] = None; import fastnn as fnn; import numpy as np;"
        "net = fnn.onnx.load('net.onnx'); print(net(np.zeros((1, 3, 8, 8), np.float32)).shape)\n"
        "try: fnn.onnx.backend\nexcept fnn.MissingDependencyError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "(1, 5)",
        "fastnn.onnx.backend needs onnx; install it with: pip install 'fastnn[onnx]'",
    ]


# ---- mutations of whole files ----

SEEDS = [small_cnn(1), *(one(op, *xs, **options) for op, xs, options in OPERATORS[:: len(OPERATORS) // 24])]


@hypothesis.settings(max_examples=400)
@hypothesis.given(
    st.sampled_from(range(len(SEEDS))),
    st.lists(
        st.tuples(
            st.integers(0, 1 << 30), st.sampled_from(["set", "cut", "drop", "double", "swap"]), st.integers(0, 255)
        ),
        max_size=6,
    ),
)
def test_mutations(which: int, changes: list[tuple[int, str, int]]) -> None:
    """Of a file with some bytes changed: it is refused with an error of ours, or what it gives is computed."""
    data = bytearray(SEEDS[which])
    for place, what, value in changes:
        at = place % max(len(data), 1)
        if what == "set" and data:
            data[at] = value
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + value % 16]
        elif what == "double":
            data[at:at] = data[at : at + value]
        elif data:
            data[at], data[-1 - at] = data[-1 - at], data[at]
    check_mutation(bytes(data))


def check_mutation(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "MOST_BYTES", 32 << 20)  # what is allowed takes time and memory too
        run_mutation(data)


def run_mutation(data: bytes) -> None:
    try:
        net = fnn.onnx.load(data)
    except (fnn.FileFormatError, fnn.UnsupportedOperatorError):
        return
    layers = [node.layer for node in net.nodes if isinstance(node.layer, importer.Input)]
    shapes = [tuple(n if isinstance(n, int) else 2 for n in layer.shape or (2, 3)) for layer in layers]
    if len(layers) != len(net.inputs) or any(np.prod(shape, dtype=float) > 1e5 for shape in shapes):
        return
    xs = [np.ones(shape, layer.dtype) for shape, layer in zip(shapes, layers, strict=True)]
    try:
        net(*xs)
    except (fnn.ShapeError, ValueError, TypeError, IndexError, MemoryError, OverflowError):
        return


#: files that broke something once: what the mutations found
FOUND: dict[str, bytes] = {
    "activation of whole numbers": one("Sigmoid", np.array([[1, 2]])),
    "more axes than NumPy has": one("Expand", np.float32([[1]]), np.ones(35, np.int64), constants=(1,)),
    "norm of one axis": one("BatchNormalization", *(np.ones(4, np.float32) for _ in range(5)), constants=(1, 2, 3, 4)),
    "border to eat the memory": one(
        "Conv", *(np.ones((1, 1, 4, 4), np.float32) for _ in range(2)), constants=(1,), pads=[0, 0, 1 << 30, 1]
    ),
    "strides to eat the memory": one(
        "ConvTranspose", *(np.ones((1, 1, 4, 4), np.float32) for _ in range(2)), constants=(1,), strides=[1 << 30, 1]
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    check_mutation(FOUND[name])


def plain(value: Any) -> Any:
    """Bytes as text, and lists of them."""
    if isinstance(value, bytes):
        return value.decode()
    return [plain(part) for part in value] if isinstance(value, list) else value


def test_agrees_with_the_package_on_every_file() -> None:
    """What is read is what the official package reads, of the files that it has for its own tests."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    count = 0
    for path in sorted(folder.rglob("*.onnx")):
        data = path.read_bytes()
        theirs, ours = onnx.load_from_string(data), model.parse(data, None)
        assert ours.network is not None and ours.ir_version == theirs.ir_version
        mine = [(n.op, n.name, n.inputs, n.outputs) for n in ours.network.nodes]
        assert mine == [(n.op_type, n.name, list(n.input), list(n.output)) for n in theirs.graph.node]
        assert [p.name for p in ours.network.inputs] == [p.name for p in theirs.graph.input]
        for tensor_ in theirs.graph.initializer:
            np.testing.assert_array_equal(ours.network.tensors[tensor_.name], onnx.numpy_helper.to_array(tensor_))
        for n, other in zip(ours.network.nodes, theirs.graph.node, strict=True):
            for a in other.attribute:
                expected = onnx.helper.get_attribute_value(a)
                found = n.attributes[a.name]
                if isinstance(found, model.Foreign):
                    continue
                if isinstance(found, np.ndarray):
                    np.testing.assert_array_equal(found, onnx.numpy_helper.to_array(expected))
                else:
                    assert found == plain(expected), (path, a.name)
        count += 1
    assert count > 100


# ---- what one file says of one weight, twice ----


def loaded(nodes: list[bytes], shape: tuple[Any, ...], weight: Array) -> Any:
    """A network of float32 x of ``shape``, y and the weight W."""
    return fnn.onnx.load(file_of(nodes, [port("x", np.float32, shape)], [port("y")], [tensor("W", weight)]))


def test_a_weight_and_itself_transposed() -> None:
    weight, x = draw(3, 3, dtype=np.float32), draw(2, 3, dtype=np.float32)
    transposed = node("Transpose", "W", "Wt", perm=[1, 0])
    net = loaded([node("MatMul", "x W", "h"), transposed, node("MatMul", "h Wt", "y")], (2, 3), weight)
    np.testing.assert_allclose(net(x), x @ weight @ weight.T, rtol=1e-5, atol=1e-6)
    net = loaded([node("Add", "x W", "h"), transposed, node("Add", "h Wt", "y")], (3, 3), weight)
    square = draw(3, 3, dtype=np.float32)
    np.testing.assert_allclose(net(square), square + weight + weight.T, rtol=1e-5, atol=1e-6)


def test_equal_moves_of_a_weight_are_one_weight() -> None:
    moved = [node("Transpose", "W", name, perm=[1, 0]) for name in ("a", "b")]
    nodes = [*moved, node("MatMul", "x a", "h"), node("MatMul", "h b", "y")]
    net = loaded(nodes, (2, 3), draw(3, 3, dtype=np.float32))
    assert len({id(array) for array in net.params.values()}) == 1


@pytest.mark.parametrize(("op", "shape"), [("Add", (1, 5, 4, 3)), ("Mul", (1, 5, 4, 3)), ("Mul", (1, 5, 1, 1))])
def test_what_looks_like_an_image_of_a_batch_of_one(op: str, shape: tuple[int, ...]) -> None:
    weight = draw(*shape, dtype=np.float32)
    net = loaded([node(op, "x W", "y")], ("batch", 5, 4, 3), weight)
    with quiet():
        program = fnn.compile(net, (1, 5, 4, 3))
    for n in (1, 3):
        x = draw(n, 5, 4, 3, dtype=np.float32)
        for y in (net(x), program(x)):
            np.testing.assert_allclose(y, x + weight if op == "Add" else x * weight, rtol=1e-6)


# ---- dtypes, and what else a call gives ----


def both(graph: Any, *shapes: tuple[int, ...]) -> tuple[Any, Any]:
    """A network, and it compiled."""
    with quiet():
        return graph, fnn.compile(graph, shapes)


def test_double_without_weights_compiles_to_double() -> None:
    """The file says of its input which dtype it is; there are no weights that would."""
    x = draw(2, 3)
    for op, xs, options in (("Tanh", [x], {}), ("Mul", [x, np.array(1 / 3)], {"constants": (1,)})):
        net, program = both(fnn.onnx.load(one(op, *xs, **options)), (2, 3))
        assert program.dtype == np.float64 and program(x).dtype == np.float64
        np.testing.assert_allclose(program(x), net(x), rtol=1e-15)


def test_whole_numbers_that_do_not_fit_are_refused() -> None:
    """An array of another dtype than the file declares is converted where it fits, and named where it does not."""
    net, program = both(fnn.onnx.load(one("Add", np.ones((2, 3), np.uint8), np.uint8(100), constants=(1,))), (2, 3))
    for run in (net, program):
        for fits in (np.full((2, 3), 7, np.int64), np.full((2, 3), 7.0), np.full((2, 3), 7, np.uint8)):
            y = run(fits)
            assert y.dtype == np.uint8 and (y == 107).all()
        assert (run(np.full((2, 3), 200, np.uint8)) == 44).all()  # in the file's own dtype sums wrap, as elsewhere
        for value in (300, -1, np.inf, -np.inf, 256.0, 1 << 40):
            with pytest.raises(ValueError, match=r"input 'x0': expected uint8, got .* does not fit"):
                run(np.full((2, 3), value))
        for value in (2.5, np.nan):
            with pytest.raises(TypeError, match="input 'x0': expected uint8, got float64 with fractions"):
                run(np.full((2, 3), value))
    net = fnn.onnx.load(one("Neg", np.ones((2, 3), np.int64)))
    with pytest.raises(ValueError, match="does not fit"):
        net(np.full((2, 3), 1 << 63, np.uint64))


def test_bytes_for_floats() -> None:
    """An image of bytes, given to a network of floats whose first operators compute in NumPy, does not wrap."""
    image = np.full((2, 3), 200, np.uint8)
    net, program = both(fnn.onnx.load(one("Pow", np.ones((2, 3), np.float32), np.float32(3), constants=(1,))), (2, 3))
    for run in (net, program):
        y = run(image)
        assert y.dtype == np.float32 and (y == 8_000_000).all()
    with pytest.raises(TypeError, match="expected input 0 of numbers, got <U1"):
        program(np.full((2, 3), "a"))


def test_a_number_as_an_input() -> None:
    data = file_of([node("Mul", "x k", "y")], [port("x", shape=("n", 3)), port("k", shape=())], Y)
    net, program = both(fnn.onnx.load(data), (2, 3), ())
    for n in (2, 5):
        x = draw(n, 3, dtype=np.float32)
        for run in (net, program):
            np.testing.assert_array_equal(run(x, np.float32(1.5)), np.float32(1.5) * x)


def test_what_is_gathered_by_an_input_can_be_described(tmp_path: Path) -> None:
    """To tell the kernels a program runs once, on inputs that are made up: 0 is an index of any axis."""
    _, program = both(fnn.onnx.load(one("Gather", draw(1, 3, dtype=np.float32), np.array([0, 0]))), (1, 3), (2,))
    assert "Gather" in program.describe() and "Gather" in str(program.profile(repeats=2))
    table = one("Gather", draw(1, 4, dtype=np.float32), np.array([[0, 0]]), constants=(0,))
    _, program = both(fnn.onnx.load(table), (1, 2))
    program.save(tmp_path / "it.fnn")
    assert "Gather" in fnn.load_program(tmp_path / "it.fnn").describe()


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_windows_beyond_the_image(op: str) -> None:
    """With ceil_mode there is a window where less than a stride is missing; ONNX Runtime and torch give the same."""
    x = np.abs(draw(1, 2, 4, 3, dtype=np.float32))
    for kernel, strides, pads in (([5, 3], [2, 2], [0, 0]), ([7, 3], [2, 2], [1, 0]), ([9, 4], [6, 2], [0, 0])):
        options = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "opset": 18}
        net, program = both(fnn.onnx.load(one(op, x, ceil_mode=1, **options)), x.shape)
        expected = {"MaxPool": np.max, "AveragePool": np.mean, "LpPool": lambda a, axis: np.sqrt((a * a).sum(axis))}
        y = expected[op](x, axis=(2, 3)).reshape(1, 2, 1, 1)
        for run in (net, program):
            np.testing.assert_allclose(run(x), y, rtol=1e-6)
        with pytest.raises(fnn.ShapeError, match="the kernel spans"):
            fnn.onnx.load(one(op, x, **options))(x)
    with pytest.raises(fnn.ShapeError, match="the kernel spans 6"):  # nothing is left: a whole stride is missing
        fnn.onnx.load(one(op, x, ceil_mode=1, kernel_shape=[6, 3], strides=[2, 2], opset=18))(x)


def test_names_that_are_none() -> None:
    damaged(file_of([node("Relu", "x", "y")], X, Y, [tensor("", np.ones(2, np.float32))]), "an initializer has no name")
    damaged(file_of([node("Relu", "x", "y")], [*X, port("", np.float32, (2,))], Y), "an input has no name")


# ---- numbers of the file: folded where that is exact, trained where they are weights ----


def test_numbers_are_folded_where_that_is_exact() -> None:
    """What overflows, or rounds, step by step does so in the network as well; what does not is one step."""
    x = np.float32([[1e-30, 1.0, -3.5]])
    steps: list[tuple[list[tuple[str, float]], int]] = [
        ([("Mul", 1e30), ("Mul", 1e30)], 2),
        ([("Mul", 1e30), ("Mul", 1e-30)], 2),
        ([("Div", 1e-30), ("Div", 1e-30)], 2),
        ([("Div", 1e-40)], 1),
        ([("Add", 1e8), ("Sub", 1e8)], 2),
        ([("Sub", 3000.0), ("Div", 0.5)], 2),
        ([("Div", 255.0), ("Sub", 0.5), ("Mul", 2.0)], 1),
    ]
    function = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract}
    for operators_, count in steps:
        expected = x
        with np.errstate(all="ignore"):
            for op, number in operators_:
                expected = function[op](expected, np.float32(number))
        nodes = [node(op, f"a{i} c{i}", f"a{i + 1}") for i, (op, _) in enumerate(operators_)]
        tensors = [tensor(f"c{i}", np.float32(number)) for i, (_, number) in enumerate(operators_)]
        last = f"a{len(operators_)}"
        net = fnn.onnx.load(file_of(nodes, [port("a0", np.float32, ("n", 3))], [port(last)], tensors))
        assert len([n for n in net.nodes if n.layer.label() not in ("Input", "Identity")]) == count, operators_
        _, program = both(net, (1, 3))
        for run in (net, program):
            np.testing.assert_allclose(run(x), expected, rtol=4e-7)


def test_channels_that_broadcast() -> None:
    """An image of one channel times a factor for each of three is an image of three channels."""
    x, w, b = draw(2, 1, 4, 4, dtype=np.float32), draw(3, 1, 1, dtype=np.float32), draw(3, 1, 1, dtype=np.float32)
    nodes = [node("Mul", "x w", "m"), node("Add", "m b", "y")]
    data = file_of(nodes, [port("x", np.float32, ("n", 1, 4, 4))], Y, [tensor("w", w), tensor("b", b)])
    net, program = both(fnn.onnx.load(data), (1, 1, 4, 4))
    for run in (net, program):
        np.testing.assert_allclose(run(x), x * w + b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (3, 5, 6), (6,), (1, 1, 1, 6)])
def test_preprocessing_is_compiled(shape: tuple[int, ...]) -> None:
    """(x - mean) / deviation, for each channel in one step, else by kernels too; neither is trained."""
    x, mean, std = (
        draw(2, 3, 5, 6, dtype=np.float32),
        draw(*shape, dtype=np.float32),
        draw(*shape, low=0.3, dtype=np.float32),
    )
    nodes = [node("Div", "x scale", "s"), node("Sub", "s mean", "d"), node("Div", "d std", "y")]
    tensors = [tensor("mean", mean), tensor("std", std), tensor("scale", np.float32(4))]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", 3, 5, 6))], Y, tensors))
    assert not net.params
    program = fnn.compile(net, (1, 3, 5, 6))  # a warning, of operators in NumPy, would be an error
    if shape[-1] == 1:
        assert [n.layer.label() for n in program._graph.nodes] == ["Affine by channel 3"]
    for run in (net, program):
        np.testing.assert_allclose(run(x), (x / 4 - mean) / std, rtol=2e-6, atol=2e-6)
    y, backward = net.forward(x)
    np.testing.assert_allclose(backward(np.ones_like(y)), np.broadcast_to(0.25 / std, x.shape), rtol=2e-6)


def test_a_zero_like_another() -> None:
    """Biases that exporters make: a zero of the dtype of what flows, spread to the outputs."""
    k = draw(4, 3, 3, 3, dtype=np.float32)
    nodes = [node("CastLike", "zero x", "z"), node("Expand", "z four", "b"), node("Conv", "x k b", "y")]
    tensors = [tensor("zero", np.int64(0)), tensor("four", np.array([4])), tensor("k", k)]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", 3, 8, 8))], Y, tensors))
    assert [n.layer.label() for n in net.nodes if n.layer.label() not in ("Input", "Identity")] == ["Conv2d 3->4 3x3"]
    x = draw(1, 3, 8, 8, dtype=np.float32)
    np.testing.assert_allclose(net(x), fnn.functional.conv2d(x, k), rtol=1e-5, atol=1e-5)


def written_out(shape: tuple[int, ...], groups: int, target: Any, back: Any, w: Array, b: Array) -> bytes:
    """Group norm as exporters write it until opset 18."""
    nodes = [node("Reshape", "x target", "g"), node("InstanceNormalization", "g ones zeros", "i", epsilon=1e-4)]
    nodes += [node("Shape", "x", "back")] if back is None else []
    nodes += [node("Reshape", "i back", "r"), node("Mul", "r norm.weight", "m"), node("Add", "m norm.bias", "y")]
    tensors = [tensor("target", np.array(target)), tensor("ones", np.ones(groups, np.float32))]
    tensors += [tensor("zeros", np.zeros(groups, np.float32)), tensor("norm.weight", w), tensor("norm.bias", b)]
    tensors += [] if back is None else [tensor("back", np.array(back))]
    return file_of(nodes, [port("x", np.float32, ("n", *shape[1:]))], Y, tensors)


def test_group_norm_is_put_together() -> None:
    x = draw(2, 6, 4, 5, dtype=np.float32)
    w, b = draw(6, 1, 1, dtype=np.float32), draw(6, 1, 1, dtype=np.float32)
    expected = fnn.functional.group_norm(x, 3, w.reshape(-1), b.reshape(-1), 1e-4)
    for back in (None, [-1, 6, 4, 5]):
        net, program = both(fnn.onnx.load(written_out(x.shape, 3, [0, 3, -1], back, w, b)), (1, 6, 4, 5))
        assert [n.layer.label() for n in net.nodes][1:] == ["GroupNorm 6, groups 3", "Identity"]
        assert sorted(net.params) == ["norm.bias", "norm.weight"]
        for run in (net, program):
            np.testing.assert_allclose(run(x), expected, rtol=1e-5, atol=1e-5)
    # Into another shape it is no group norm: height and width are exchanged.
    net = fnn.onnx.load(written_out(x.shape, 3, [0, 3, -1], [-1, 6, 5, 4], w, b))
    assert "GroupNorm 6, groups 3" not in [n.layer.label() for n in net.nodes]
    plain = fnn.functional.group_norm(x, 3, None, None, 1e-4).reshape(2, 6, 5, 4)
    np.testing.assert_allclose(net(x), plain * w + b, rtol=1e-5, atol=1e-5)


def test_what_is_trained() -> None:
    """Weights of operators, through what moves them, and biases added to products; constants are not, unless named."""
    arrays = {
        "mean": draw(3, 1, 1), "k": draw(4, 3, 3, 3), "k.bias": draw(1, 4, 1, 1), "grid": draw(1, 4, 6, 6),
        "slope": draw(4, 1, 1), "head": draw(5, 144), "head.bias": draw(5), "token": draw(1, 5), "cube": draw(2, 5, 5),
    }  # fmt: skip
    nodes = [node("Sub", "x mean", "a"), node("Conv", "a k", "b"), node("Add", "b k.bias", "c")]
    nodes += [node("Mul", "c grid", "d"), node("PRelu", "d slope", "e"), node("Flatten", "e", "f")]
    nodes += [node("Transpose", "head", "t", perm=[1, 0]), node("MatMul", "f t", "g"), node("Add", "g head.bias", "h")]
    nodes += [node("Add", "h token", "i"), node("MatMul", "i cube", "y")]
    tensors = [tensor(name, array.astype(np.float32)) for name, array in arrays.items()]
    data = file_of(nodes, [port("x", np.float32, ("n", 3, 8, 8))], Y, tensors)
    net = fnn.onnx.load(data)

    def found(state: dict[str, Array]) -> set[str]:
        return {name for name, a in arrays.items() if any(a.size == s.size for s in state.values())}

    weights = {"k", "k.bias", "slope", "head", "head.bias", "cube"}
    assert found(net.params) >= weights and found(net.params) & {"grid"} == set()
    assert len(net.params) == 6 and found(net.buffers) >= {"mean", "grid"}
    x = draw(2, 3, 8, 8, dtype=np.float32)
    more = fnn.onnx.load(data, trained=["token", "grid", "mean"])
    assert len(more.params) == 9 and {"grid.value", "token.value", "mean.value"} <= set(more.params)
    np.testing.assert_allclose(more(x), net(x), rtol=1e-5, atol=1e-5)
    y, backward = more.forward(x)
    backward(y)
    assert all(np.abs(gradient).max() > 0 for gradient in more.grads.values())
    with pytest.raises(ValueError, match="trained names 'tokn', and the file has no such array; did you mean 'token'"):
        fnn.onnx.load(data, trained=["tokn"])


def test_exported_for_training() -> None:
    """Batch norm and dropout of a file in training mode: a call is inference, as of any network; forward() trains."""
    c, x = 3, draw(8, 3, 4, 4, dtype=np.float32)
    given = {"scale": draw(c, low=0.5), "shift": draw(c), "mean": draw(c), "var": draw(c, low=0.5)}
    tensors = [tensor(name, array.astype(np.float32)) for name, array in given.items()]
    tensors += [tensor("half", np.float32(0.5)), tensor("yes", np.array(True))]
    norm = node("BatchNormalization", "x scale shift mean var", "b new_mean new_var", training_mode=1)
    nodes = [norm, node("Dropout", "b half yes", "y mask")]
    images = [port("x", np.float32, ("n", c, 4, 4))]
    net, program = both(fnn.onnx.load(file_of(nodes, images, Y, tensors)), (1, c, 4, 4))
    mean, var = (given[name].reshape(-1, 1, 1) for name in ("mean", "var"))
    expected = (x - mean) / np.sqrt(var + 1e-5) * given["scale"].reshape(-1, 1, 1) + given["shift"].reshape(-1, 1, 1)
    for run in (net, program):
        np.testing.assert_allclose(run(x), expected, rtol=1e-5, atol=1e-5)
    held = {name: array.copy() for name, array in net.buffers.items()}
    y, _ = net.forward(x, rng=0)
    assert 0.3 < (y == 0).mean() < 0.7
    assert all((net.buffers[name] != held[name]).all() for name in held)
    # Where the new statistics are asked for, the node is what the file says.
    data = file_of(nodes[:1], images, [port("b"), port("new_mean")], tensors)
    y, new = fnn.onnx.load(data)(x)
    np.testing.assert_allclose(new, 0.9 * given["mean"] + 0.1 * x.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    # opset 6 says it by is_test, whose default is training
    old = file_of([node("BatchNormalization", "x scale shift mean var", "y")], images, Y, tensors, opset=6)
    np.testing.assert_allclose(fnn.onnx.load(old)(x), expected, rtol=1e-5, atol=1e-5)


# ---- what programs run by kernels ----


CLIPPED = [node("Add", "three x", "a"), node("Clip", "a zero six", "c")]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("SiLU", [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")]),
        ("Mish", [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "t x", "y")]),
        ("Hardswish", [node("HardSigmoid", "x", "s", alpha=1 / 6), node("Mul", "s x", "y")]),
        ("Hardswish", [*CLIPPED, node("Mul", "x c", "m"), node("Div", "m six", "y")]),
        ("Hardswish", [*CLIPPED, node("Mul", "c sixth", "m"), node("Mul", "m x", "y")]),
    ],
)
def test_activations_are_put_together(name: str, nodes: list[bytes]) -> None:
    numbers = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}
    found, net = labels(nodes, numbers)
    assert found == [name]
    x = draw(2, 4, 5, 6, dtype=np.float32)
    np.testing.assert_allclose(net(x), getattr(fnn.layers, name)()(x), rtol=1e-6, atol=1e-6)
    assert name not in labels([*nodes, node("Neg", nodes_output(nodes), "e")], numbers, "ye")[0]


def nodes_output(nodes: list[bytes]) -> str:
    """What the node before the last gives."""
    return model._node(memoryview(nodes[-2]), None).outputs[0]  # type: ignore[arg-type]


def test_activations_with_other_numbers_are_not() -> None:
    for numbers in ({"three": 2.0}, {"six": 5.0}, {"zero": -1.0}):
        given = {"three": 3.0, "zero": 0.0, "six": 6.0, **numbers}
        arrays = {name: np.float32(number) for name, number in given.items()} | {"by": np.float32(6)}
        found, net = labels([*CLIPPED, node("Mul", "x c", "m"), node("Div", "m by", "y")], arrays)
        x = draw(2, 4, 5, 6, dtype=np.float32)
        expected = x * np.clip(x + given["three"], given["zero"], given["six"]) / 6
        assert "Hardswish" not in found
        np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-5)
    found, _ = labels([node("HardSigmoid", "x", "s", alpha=0.2), node("Mul", "x s", "y")], {})
    assert "Hardswish" not in found


X32, SIX, LINE = X4.astype(np.float32), np.float32([[1, 2, 3, 4, 5, 6]]), X4[0, :, :, :1].astype(np.float32)


def blocks(x: Array, view: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    return x.reshape(-1, *view).transpose(order).reshape(-1, *shape)


KERNELS: dict[str, tuple[bytes, Callable[[Array], Array]]] = {
    **{
        f"{op} {axes} {keep}": (
            one(op, X32, axes=list(axes), keepdims=keep, opset=11),
            lambda x, f=f, axes=axes, keep=keep: f(x, axis=axes, keepdims=bool(keep)),  # type: ignore[misc]
        )
        for op, f in (("ReduceMean", np.mean), ("ReduceSum", np.sum), ("ReduceMax", np.max))
        for axes in ((1,), (-1,), (2, 3), (1, 3))
        for keep in (0, 1)
    },
    "Abs": (one("Abs", X32), np.abs),
    "Exp": (one("Exp", X32), np.exp),
    "Neg": (one("Neg", X32), np.negative),
    "Pow": (one("Pow", X32, np.float32(2), constants=(1,)), np.square),
    "Max": (one("Max", np.float32(0.3), X32, constants=(0,)), lambda x: np.maximum(x, 0.3)),
    "Min": (one("Min", X32, np.float32(0.3), constants=(1,)), lambda x: np.minimum(x, 0.3)),
    "Clip low": (one("Clip", X32, np.float32(-0.2), constants=(1,)), lambda x: np.maximum(x, -0.2)),
    "Clip high": (one("Clip", X32, None, np.float32(0.2), constants=(2,)), lambda x: np.minimum(x, 0.2)),
    "Sub": (one("Sub", LINE, X32, constants=(0,)), lambda x: LINE - x),
    "Div": (one("Div", X32, SIX, constants=(1,)), lambda x: x / SIX),
    "Gather": (one("Gather", X32, np.array(2), axis=1, constants=(1,)), lambda x: x[:, 2]),
    "Gather last": (one("Gather", X32, np.array(-1), axis=-1, constants=(1,)), lambda x: x[..., -1]),
    "Cast": (one("Cast", X32, to=1), lambda x: x),
    "DepthToSpace": (
        one("DepthToSpace", X32, blocksize=2),
        lambda x: blocks(x, (2, 2, 1, 5, 6), (0, 3, 4, 1, 5, 2), (1, 10, 12)),
    ),
    "SpaceToDepth": (
        one("SpaceToDepth", np.ascontiguousarray(X32[:, :, :4]), blocksize=2),
        lambda x: blocks(x, (4, 2, 2, 3, 2), (0, 3, 5, 1, 2, 4), (16, 2, 3)),
    ),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_run_it(kind: str) -> None:
    """Compiled without a word of NumPy, which would be a warning, and so an error; for batches of other sizes too."""
    data, function = KERNELS[kind]
    net = fnn.onnx.load(data)
    height = 4 if kind == "SpaceToDepth" else 5
    program = fnn.compile(net, (1, 4, height, 6))
    for n in (1, 2):
        x = draw(n, 4, height, 6, dtype=np.float32)
        for run in (net, program):
            np.testing.assert_allclose(run(x), function(x), rtol=1e-6, atol=1e-5)


def test_grids_that_follow_from_shapes_are_compiled() -> None:
    """What follows from the sizes of an image, and not of the batch, is a constant of its program."""
    nodes = [node("Shape", "x", "s"), node("Gather", "s three", "w"), node("Range", "zero w one", "r")]
    nodes += [node("Cast", "r", "grid", to=1), node("Add", "x grid", "y")]
    tensors = [tensor("three", np.array(3)), tensor("zero", np.array(0)), tensor("one", np.array(1))]
    net = fnn.onnx.load(file_of(nodes, [port("x", np.float32, ("n", 4, 5, "w"))], Y, tensors))
    for width in (6, 9):
        program = fnn.compile(net, (1, 4, 5, width))
        x = draw(3, 4, 5, width, dtype=np.float32)
        for run in (net, program):
            np.testing.assert_allclose(run(x), x + np.arange(width, dtype=np.float32), rtol=1e-6)
    # What follows from the size of the batch is not.
    nodes[1] = node("Gather", "s zero", "w")
    nodes += [node("ReduceMax", "grid", "top", keepdims=0), node("Add", "x top", "z")]
    net = fnn.onnx.load(
        file_of([*nodes[:4], *nodes[5:]], [port("x", np.float32, ("n", 4, 5, 6))], [port("z")], tensors)
    )
    _, program = both(net, (1, 4, 5, 6))
    for n in (1, 3):
        x = draw(n, 4, 5, 6, dtype=np.float32)
        for run in (net, program):
            np.testing.assert_allclose(run(x), x + (n - 1), rtol=1e-6)


def test_grids_of_networks_for_one_size_of_batch() -> None:
    """Numbers that cannot be computed for a batch twice as large: they stay in NumPy, and the network compiles."""
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Gather", "table n", "row")]
    nodes += [node("Reshape", "row one", "r"), node("Cast", "r", "number", to=1), node("Add", "x number", "y")]
    tensors = [tensor("zero", np.array(0)), tensor("one", np.array([1])), tensor("table", np.array([5, 6, 7]))]
    net, program = both(fnn.onnx.load(file_of(nodes, [port("x", np.float32, (2, 3))], Y, tensors)), (2, 3))
    x = draw(2, 3, dtype=np.float32)
    for run in (net, program):
        np.testing.assert_allclose(run(x), x + 7)


def test_what_is_wrong_with_a_convolution_is_said() -> None:
    x, w = port("x", np.float32, ("n", 3, 8, 8)), np.zeros((4, 3, 3, 3), np.float32)

    def load(b: int | None = None, **attributes: Any) -> None:
        tensors = [tensor("w", w), *([] if b is None else [tensor("b", np.zeros(b, np.float32))])]
        data = file_of([node("Conv", "x w" + " b" * (b is not None), "y", name="c", **attributes)], [x], Y, tensors)
        fnn.onnx.load(data)

    for given, match in (
        ({"b": 5}, r"'c' .*expected a bias of shape \(4,\) for weights \(4, 3, 3, 3\), got \(5,\)$"),
        ({"kernel_shape": [5, 5]}, r"'c' .*kernel_shape \[5, 5\] is not that of the weights \(4, 3, 3, 3\)$"),
        ({"group": 3}, r"'c' .*3 groups do not divide the 4 channels of the weights \(4, 3, 3, 3\)$"),
    ):
        with pytest.raises(fnn.FileFormatError, match=match):
            load(**given)
    load()
    load(b=4, kernel_shape=[3, 3])


def test_indices_in_the_file_are_checked_before_anything_is_computed() -> None:
    x = np.ones((2, 4, 5), np.float32)
    for indices in ([0, 9], [1, -5]):
        net = fnn.onnx.load(one("Gather", x, np.array(indices), constants=(1,), axis=1))
        for run in (lambda net=net: net(x), lambda net=net: fnn.compile(net, x.shape)):
            with pytest.raises(fnn.ShapeError, match=r"'it' \(Gather\): indices from -?\d to \d do not fit axis 1"):
                run()
    net = fnn.onnx.load(one("Gather", x, np.array([3, -4]), constants=(1,), axis=1))
    assert net(x).shape == (2, 2, 5)


def test_indices_that_come_are_named_with_the_layer() -> None:
    x, index = np.ones((2, 4, 5), np.float32), np.array([0, 9])
    net = fnn.onnx.load(one("Gather", x, index, axis=1))
    with quiet():
        program = fnn.compile(net, [x.shape, index.shape])
    for run in (net, program):
        with pytest.raises(IndexError) as caught:
            run(x, index)
        assert any("'it' (Gather)" in note for note in caught.value.__notes__)


def test_factors_of_gemm_are_no_part_of_its_weights() -> None:
    """So that a checkpoint, whose names they have, can be loaded into them."""
    w, b, x = draw(3, 4, dtype=np.float32), draw(4, dtype=np.float32), draw(2, 3, dtype=np.float32)
    tensors = [tensor("fc.weight", w.T.copy()), tensor("fc.bias", b)]
    for factors in ({"alpha": 0.5}, {"beta": 0.25}, {"alpha": 3.0, "beta": -2.0}, {"alpha": 2.0, "beta": 0.0}):
        gemm = node("Gemm", "x fc.weight fc.bias", "y", transB=1, **factors)
        net = fnn.onnx.load(file_of([gemm], X, Y, tensors))
        alpha, beta = factors.get("alpha", 1.0), factors.get("beta", 1.0)
        expected = alpha * (x @ w) + beta * b
        for run in (net, fnn.compile(net, x.shape)):
            np.testing.assert_allclose(run(x), expected, rtol=0, atol=4e-7 * np.abs(expected).max() + 1e-6)
        np.testing.assert_array_equal(net.params["fc.weight"], w.T)
        if beta:
            np.testing.assert_array_equal(net.params["fc.bias"], b)


def test_running_sums() -> None:
    x = np.int64([[1, 2, 3], [4, 5, 6]])
    for axis, exclusive, reverse, expected in (
        (0, 0, 0, [[1, 2, 3], [5, 7, 9]]),
        (-1, 1, 0, [[0, 1, 3], [0, 4, 9]]),
        (1, 0, 1, [[6, 5, 3], [15, 11, 6]]),
        (1, 1, 1, [[5, 3, 0], [11, 6, 0]]),
    ):
        net = fnn.onnx.load(one("CumSum", x, np.array(axis), constants=(1,), exclusive=exclusive, reverse=reverse))
        np.testing.assert_array_equal(net(x), expected)
    with pytest.raises(fnn.ShapeError, match=r"'it' \(CumSum\): axis 2 is out of range"):
        fnn.onnx.load(one("CumSum", x, np.array(2), constants=(1,)))(x)


def test_tokens_are_spread_over_the_batch_in_programs() -> None:
    """As vision transformers do: the token is as often there as there are images."""
    token = draw(1, 1, 3, dtype=np.float32)
    tensors = [tensor("token", token), tensor("zero", np.array([0])), tensor("rest", np.array([1, 1]))]
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n rest", "target", axis=0),
        node("Expand", "token target", "tokens"),
        node("Concat", "tokens x", "y", axis=1),
    ]
    data = file_of(nodes, [port("x", np.float32, ("n", 4, 3))], Y, tensors)
    net = fnn.onnx.load(data)
    program = fnn.compile(net, (1, 4, 3))
    assert not [step for step in program.steps() if "NumPy" in step.kernels]
    for n in (1, 3):
        x = draw(n, 4, 3, dtype=np.float32)
        expected = np.concatenate([np.broadcast_to(token, (n, 1, 3)), x], 1)
        np.testing.assert_array_equal(net(x), expected)
        np.testing.assert_array_equal(program(x), expected)
    trained = fnn.onnx.load(data, trained=["token"])
    _, backward = trained.forward(draw(3, 4, 3, dtype=np.float32))
    backward(np.ones((3, 5, 3), np.float32))
    (gradient,) = trained.grads.values()
    np.testing.assert_array_equal(gradient, np.full((1, 1, 3), 3.0))


def test_a_network_for_one_size_of_batch_says_so() -> None:
    """Where its operators take no other: heads of attention beside images, [5, 2 * 4, 4] of (5, n, 16)."""
    nodes = [node("Reshape", "x heads", "h", name="heads of all"), node("Relu", "h", "y")]
    data = file_of(nodes, [port("x", np.float32, (2, 5, 16))], Y, [tensor("heads", np.array([5, 8, 4]))])
    net = fnn.onnx.load(data)
    assert fnn.compile(net, (2, 5, 16)).output_shape == (5, 8, 4)
    match = r"'heads of all' \(Reshape\): 80 numbers of \(1, 5, 16\) do not fill .*for a batch of 2, and"
    for run in (lambda: fnn.compile(net, (1, 5, 16)), lambda: net(np.ones((1, 5, 16), np.float32))):
        with pytest.raises(fnn.ShapeError, match=match):
            run()


#: what files that were changed at random were found to do: nodes, and what is said of them
MISFITS: dict[str, tuple[list[bytes], str]] = {
    # The exporter's patterns were sought in nodes that lack inputs.
    **{
        f"{op} without inputs": ([node(op, "", "a", name="bare"), node("Mul", "a x", "y")], f"'bare' .{op}, .* got 0")
        for op in ("Erf", "Sigmoid", "Softplus", "HardSigmoid", "Clip", "Sqrt", "Transpose", "Reshape")
    },
    "half a product": (
        [node("Sigmoid", "x", "s"), node("Mul", "s", "y", name="half")],
        "'half' .* expected 2 inputs, got 1",
    ),
    "three summands": (
        [node("Add", "x x x", "a", name="sum"), node("Sqrt", "a", "r"), node("Div", "x r", "y")],
        "'sum' .* expected 2 inputs, got 3: 'x', 'x', 'x'",
    ),
    "a part that is absent": (
        [node("Concat", "x - x", "y", name="c", axis=0)],
        "'c' .* 1 or more inputs, got 2: 'x', '', 'x'",
    ),
    "an unknown border": ([node("Pad", "x eight", "y", name="p", mode="none")], "'p' .*unknown mode 'none'"),
    "an unknown rounding": (
        [node("Resize", "x - scales", "y", name="r", nearest_mode="cubic")],
        "'r' .*unknown nearest_mode 'cubic'",
    ),
    "whole weights": ([node("Conv", "x whole", "y", name="c")], "'c' .*different types: float32 and int64"),
    "a whole factor": ([node("Mul", "x eight", "y", name="m")], "'m' .*different types: float32 and int64"),
    "an index with a fraction": (
        [node("Gather", "x x", "y", name="g")],
        "'g' .*indices must be whole numbers, got float32",
    ),
    "gelu of whole numbers": (
        [node("Cast", "x", "i", to=7), node("Gelu", "i", "y", name="g")],
        "'g' .*takes floating-point numbers, got int64",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_misfits_that_were_found(kind: str) -> None:
    nodes, match = MISFITS[kind]
    tensors = [tensor("eight", np.zeros(8, np.int64)), tensor("scales", np.ones(4, np.float32))]
    tensors += [tensor("whole", np.ones((1, 1, 1, 1), np.int64))]
    damaged(file_of(nodes, [port("x", np.float32, (1, 1, 2, 2))], Y, tensors, opset=20), match)


def test_limits_of_clip_are_numbers() -> None:
    x = np.float32([[-2, 0.5], [3, 0]])
    net = fnn.onnx.load(one("Clip", x, np.zeros(2, np.float32), constants=(1,)))
    with pytest.raises(fnn.ShapeError, match=r"'it' \(Clip\): min must be one number, got shape \(2,\)"):
        net(x)
    low = np.full((1, 1, 1), -1, np.float32)  # which other runtimes take too
    net = fnn.onnx.load(one("Clip", x, low, np.float32(1)))
    assert net(x, low, np.float32(1)).tolist() == [[-1, 0.5], [1, 0]]


def test_elements_by_their_numbers_are_compiled() -> None:
    """Several at once, in any order, of an axis that is not that of the batch."""
    x = draw(2, 6, 3, dtype=np.float32)
    for indices in (np.array([0, 1, 2, 5]), np.array([[3, -1], [-6, 2]]), np.array([4])):
        net = fnn.onnx.load(one("Gather", x, indices, constants=(1,), axis=1))
        program = fnn.compile(net, x.shape)
        assert not [step for step in program.steps() if "NumPy" in step.kernels]
        for n in (2, 5):
            more = draw(n, 6, 3, dtype=np.float32)
            np.testing.assert_array_equal(program(more), more[:, indices])
            np.testing.assert_array_equal(net(more), more[:, indices])


def test_a_bias_that_does_not_fit_a_transposed_convolution() -> None:
    bias, match = np.ones(2, np.float32), r"'it' .*expected a bias of shape \(3,\) ?.*got \(2,\)"
    for axes in (1, 2, 3):
        x, w = np.ones((2, 4, *[5] * axes), np.float32), np.ones((4, 3, *[2] * axes), np.float32)
        with pytest.raises(fnn.ShapeError, match=match):
            fnn.onnx.load(one("ConvTranspose", x, w, bias))(x, w, bias)
        with pytest.raises((fnn.ShapeError, fnn.FileFormatError), match=match):
            fnn.onnx.load(one("ConvTranspose", x, w, bias, constants=(1, 2)))(x)

"""The onnx package's own test suite, run by `fastnn.onnx.backend`: operators, converted networks, nine architectures.

A case of which every operator and tensor type is one of those that fastnn promises must pass. Of the others, those run
that can be loaded; what fastnn does not have is skipped, each with the reason. Nothing passes by raising.
"""

from __future__ import annotations

import os
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cases of other operators divide by zero where they are made
    from onnx.backend.test.loader import load_model_tests
    from onnx.backend.test.runner import Runner

    import fastnn.onnx.backend as backend

    CASES = {
        case.name: case
        for kind in ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
        for case in load_model_tests(kind=kind)
    }
    RUNNER = Runner(backend.FastnnBackend, __name__)

#: what the project promises: ONNX's names of the operators, and of the types of tensors
_PROMISED = """
    Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LRN
    Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid Tanh Gelu HardSwish Swish Mish Softplus Softsign
    ThresholdedRelu Clip MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool Add Sub Mul Div Pow
    Sqrt Exp Log Abs Neg Reciprocal Floor Ceil Erf Max Min Sum Mean Equal Greater Less Where Not And Or Concat Split
    Slice Pad Resize Upsample Reshape Flatten Transpose Squeeze Unsqueeze Gather Expand Tile Shape Range ReduceMean
    ReduceSum ReduceMax ReduceMin Softmax LogSoftmax ArgMax ArgMin Dropout Identity Constant ConstantOfShape Cast
    DepthToSpace SpaceToDepth
"""
PROMISED = frozenset(_PROMISED.split())
TYPES = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13})


def foreign(case: Any, model: Any) -> str:
    """Why a case is none of those that fastnn promises, or nothing."""
    operators = sorted({node.op_type for node in model.graph.node} - PROMISED)
    domains = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if domains:
        return f"operators of {', '.join(domains)}"
    if operators:
        return f"operator {', '.join(operators)}"
    for port in (*model.graph.input, *model.graph.output):
        if not port.type.HasField("tensor_type"):
            return f"a {port.type.WhichOneof('value').removesuffix('_type')} instead of a tensor"
        if port.type.tensor_type.elem_type not in TYPES:
            return f"tensors of {onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type).lower()}"
    for node in model.graph.node:
        to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
        if to and to[0] not in TYPES:
            return f"tensors of {onnx.TensorProto.DataType.Name(to[0]).lower()}"
    versions = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    if versions and min(versions) < 6:
        return "an opset before 6"
    if min(versions, default=7) < 7 and any(
        a.name == "axis" for n in model.graph.node for a in n.attribute if n.op_type == "Add"
    ):
        return "a sum that spreads along an axis of opset 6"
    return "dropout in training mode" if "dropout" in case.name and trains(model, case) else ""


def trains(model: Any, case: Any) -> bool:
    """Whether the third input of a Dropout is true."""
    for node in model.graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2:
            names = [port.name for port in model.graph.input]
            if node.input[2] in names and case.data_sets:
                value = case.data_sets[0][0][names.index(node.input[2])]
                return bool(np.all(onnx.numpy_helper.to_array(value) if hasattr(value, "dims") else value))
            return any(
                bool(onnx.numpy_helper.to_array(t).all()) for t in model.graph.initializer if t.name == node.input[2]
            )
    return False


#: not promised for other reasons, and with expected values that are rounded to float16 after each operator
ROUNDED = frozenset({"test_attention_4d_causal_fp16_expanded"})


@cache
def model_of(name: str) -> Any:
    case = CASES[name]
    if case.model is not None:
        return case.model
    if case.model_dir is not None:
        return onnx.load(Path(case.model_dir) / "model.onnx")
    return onnx.load(Path(onnx.__file__).parent.parent / case.url)


def reason(name: str) -> str:
    """Why a case is not run, or nothing."""
    model = model_of(name)
    other = foreign(CASES[name], model)
    if not other:
        return ""
    if other == "dropout in training mode" or name in ROUNDED:  # a call of a graph is inference
        return other
    try:
        fnn.onnx.load(model.SerializeToString())
    except fnn.UnsupportedOperatorError:
        return other
    except fnn.FileFormatError:
        return other
    return ""


def skipped(names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        why = reason(name)
        if why:
            yield name, why


REASONS = dict(skipped(sorted(CASES)))


def whole(function: Any) -> Any:
    """The same, but for that it fails where the runner would skip it, as for what the backend calls incompatible."""

    @wraps(function)
    def run(*arguments: Any) -> None:
        try:
            function(*arguments)
        except unittest.SkipTest as skip:
            raise AssertionError(f"skipped: {skip}") from None

    return run


for _class in RUNNER.test_cases.values():
    for _name in [n for n in vars(_class) if n.startswith("test_")]:
        _why = REASONS.get(_name.removesuffix("_cpu"))
        if _name.endswith("_cuda"):  # the same again on another device
            delattr(_class, _name)
        elif _why is not None:
            setattr(_class, _name, unittest.skip(_why)(getattr(_class, _name)))
        else:
            setattr(_class, _name, whole(getattr(_class, _name)))
    globals()[_class.__name__] = _class
del _class


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the runner puts what it makes."""
    before = os.environ.get("ONNX_HOME")
    os.environ["ONNX_HOME"] = str(tmp_path_factory.mktemp("onnx"))
    yield
    os.environ.pop("ONNX_HOME")
    if before is not None:
        os.environ["ONNX_HOME"] = before


def test_what_is_promised_runs() -> None:
    """No case whose operators and types are promised is skipped, but for dropout in training mode."""
    left = [n for n, why in REASONS.items() if not foreign(CASES[n], model_of(n)) or why == "dropout in training mode"]
    assert all("dropout" in name for name in left) and len(left) <= 12
    promised = [name for name in CASES if not foreign(CASES[name], model_of(name))]
    print(f"{len(promised)} cases are promised, {len(CASES) - len(REASONS)} run, {len(REASONS)} are skipped:")
    for why, count in Counter(REASONS.values()).most_common():
        print(f"{count:5} {why}")
    assert len(promised) >= 690

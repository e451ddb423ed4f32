"""Every case of the registry, on every backend and instruction set of this machine, against the float64 reference:
values within the bound of the op, dtype, memory format, layouts and dtypes of the input, out=.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from inspect import signature
from typing import Any

import numpy as np
import pytest

import bounds
import fastnn.functional as F
from cases import CASES, LAYOUTS, OPS, Array, Case, Op
from engines import ENGINES, INSTRUCTION_SETS, MISSING, NUMPY, Engine
from fastnn._backends import ACTIVATIONS, ALGORITHMS

DTYPES = ("float32", "float64")


def kernel_name(op: Op) -> str:
    return op.kernel


engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
ops = pytest.mark.parametrize("op", OPS.values(), ids=kernel_name)
strided_ops = pytest.mark.parametrize("op", [op for op in OPS.values() if op.strided], ids=kernel_name)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@cache
def expected(case: Case, dtype: str) -> tuple[tuple[Array, ...], tuple[Array | None, ...]]:
    """The reference's float64 outputs for the case's arrays in ``dtype``, and how far a result may be from each."""
    exact = {name: x.astype(np.float64) if x.dtype == dtype else x for name, x in case.arrays(dtype).items()}
    with NUMPY.on(), np.errstate(all="ignore"):
        outputs = case.run(exact)
        errors = case.op.bound(exact, case.options, outputs)
    assert len(errors) == len(outputs)
    return outputs, tuple(bounds.allowed(error, np.dtype(dtype)) for error in errors)


def assert_close(got: Array, want: Array, tolerance: Array | None, dtype: str) -> None:
    """Finite values within the tolerance; infinities and NaN exactly where the reference, rounded, has them."""
    assert got.shape == want.shape
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(over="ignore"):
        rounded = want.astype(dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, rounded), "infinities and NaN")
    assert np.isfinite(got[finite]).all(), f"not finite where the reference is {want[finite & ~np.isfinite(got)]}"
    got, want, rounded = got[finite], want[finite], rounded[finite]
    limit = np.broadcast_to(0.0 if tolerance is None else tolerance, finite.shape)[finite]
    error = np.abs(got - (rounded if tolerance is None else want))
    if (error > limit).any():
        worst = np.argmax(error - limit)
        raise AssertionError(
            f"{(error > limit).sum()} of {error.size} are off; the worst is {got[worst]!r} for {want[worst]!r}: "
            f"error {error[worst]:.3g}, allowed {limit[worst]:.3g}"
        )


def element_strides(x: Array) -> tuple[int, ...]:
    """Strides that matter: of axes longer than one, in elements."""
    return tuple(s // x.itemsize for s, n in zip(x.strides, x.shape, strict=True) if n > 1) if x.size else ()


def check(
    case: Case, engine: Engine, dtype: str, arrays: dict[str, Array], options: dict[str, Any] | None = None
) -> None:
    """Run the case with these arrays and compare values, dtypes and memory formats with the reference."""
    want, tolerances = expected(case, dtype)
    with NUMPY.on(), np.errstate(all="ignore"):
        formats = case.run(arrays)
    before = {name: x.copy() for name, x in arrays.items()}
    with engine.on():
        got = case.op.run(arrays, options or case.options)
    assert len(got) == len(want)
    for output, reference, like, tolerance in zip(got, want, formats, tolerances, strict=True):
        assert output.dtype == like.dtype
        assert element_strides(output) == element_strides(like)
        assert_close(output, reference, tolerance, dtype)
    for name, x in arrays.items():
        np.testing.assert_array_equal(x, before[name], f"{name} was changed")


def check_all(calls: Sequence[tuple[str, Callable[[], None]]]) -> None:
    """Run all of them; fail with every failure, by its label."""
    failures = []
    for label, call in calls:
        try:
            call()
        except Exception as error:  # whatever is raised belongs to the report
            failures.append(f"{label}: {type(error).__name__}: {error}")
    assert not failures, "\n".join([f"{len(failures)} of {len(calls)} cases fail", *failures])


@engines
@dtypes
@ops
def test_parity(op: Op, dtype: str, engine: Engine) -> None:
    check_all([(case.label, partial(check, case, engine, dtype, case.arrays(dtype))) for case in CASES[op.kernel]])


def fullest(op: Op) -> Case:
    """The case of most dimensions, of these the first with elements enough for a vector and a rest."""
    return max(CASES[op.kernel], key=lambda c: next((x.ndim, min(x.size, 100)) for x in c.arrays("f4").values()))


@engines
@dtypes
@strided_ops
def test_layout(op: Op, dtype: str, engine: Engine) -> None:
    case = fullest(op)
    calls = []
    for layout, change in LAYOUTS.items():
        arrays = {name: change(x) if x.dtype == dtype and x.ndim else x for name, x in case.arrays(dtype).items()}
        calls.append((f"{case.label} {layout}", partial(check, case, engine, dtype, arrays)))
    check_all(calls)


@engines
@pytest.mark.parametrize("given", ["float16", "int8", "int64", "uint16", "bool", "mixed"])
@strided_ops
def test_input_dtype(op: Op, given: str, engine: Engine) -> None:
    """float16, integers and booleans are computed as float32; float32 beside float64 as float64."""
    case = fullest(op)
    arrays = {name: x * 4 if x.dtype == np.float64 else x for name, x in case.arrays("float64").items()}
    floating = [name for name, x in arrays.items() if x.dtype == np.float64]
    if given == "mixed":
        dtype = "float64"
        arrays[floating[0]] = arrays[floating[0]].astype("float32")
    else:
        dtype = "float32"
        with np.errstate(invalid="ignore"):
            arrays |= {name: np.abs(arrays[name]).astype(given) for name in floating}
    plain = {
        name: x.astype(dtype if len(floating) > 1 else "float32") if name in floating else x
        for name, x in arrays.items()
    }
    with engine.on():
        got, want = case.run(arrays), case.run(plain)
    for output, same in zip(got, want, strict=True):
        assert output.dtype == same.dtype
        np.testing.assert_array_equal(output, same)


@engines
@dtypes
@pytest.mark.parametrize("layout", ["rows", "channels_last"])
@pytest.mark.parametrize("op", [op for op in OPS.values() if "out" in signature(op.call).parameters], ids=kernel_name)
def test_out(op: Op, layout: str, dtype: str, engine: Engine) -> None:
    """out= gives the same bits in the array that was given, for any dimensions."""
    for case in {len(c.specs): c for c in CASES[op.kernel]}.values():
        arrays = {
            n: LAYOUTS.get(layout, np.ascontiguousarray)(x) if x.ndim else x for n, x in case.arrays(dtype).items()
        }
        with engine.on():
            (want,) = case.run(arrays)
            out = np.full_like(want, np.nan)
            result = op.call(**arrays, **case.options, out=out)
        assert result is out
        np.testing.assert_array_equal(out, want)


@engines
@dtypes
@pytest.mark.parametrize(
    "name", [*(name for name in ACTIVATIONS if name in F.__all__), "exp", "sqrt", "add", "mul", "div", "prelu"]
)
@pytest.mark.parametrize("size", [1, 37, 70000])
def test_in_place(name: str, size: int, dtype: str, engine: Engine) -> None:
    """An element-wise function may write over its input."""
    x, other = np.random.default_rng(size).standard_normal((2, size)).astype(dtype)
    more = {"add": [other], "mul": [other], "div": [other], "prelu": [other[:1]], "threshold": [0.5, 2.0]}.get(name, [])
    with engine.on():
        want = getattr(F, name)(x, *more)
        result = getattr(F, name)(x, *more, out=x)
    assert result is x
    np.testing.assert_array_equal(x, want)


@engines
@pytest.mark.parametrize("offset", [0, 1, 3, 7])
def test_nothing_outside(offset: int, engine: Engine) -> None:
    """A kernel writes its output and not one element before or behind it, wherever it begins."""
    with engine.on():
        for size in (*range(36), 63, 64, 65, 130):
            buffer = np.full(offset + size + 20, 7, np.float32)
            x = np.linspace(-3, 3, size, dtype=np.float32)
            for function in (F.relu, F.sigmoid, F.gelu, F.exp):
                function(x, out=buffer[offset : offset + size])
                assert (buffer[:offset] == 7).all()
                assert (buffer[offset + size :] == 7).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithm(algorithm: str) -> None:
    """A forced algorithm computes every float32 case of the op that it implements."""
    engine = next((engine for engine in ENGINES if engine.isa == "amx"), None)
    if engine is None:
        pytest.skip(f"{algorithm} needs amx: {MISSING.get('amx', 'another engine is forced')}")
    calls = []
    for case in CASES[ALGORITHMS[algorithm]]:
        options = {**case.options, "algorithm": algorithm.split("_")[-2]}
        calls.append((case.label, partial(check, case, engine, "float32", case.arrays("float32"), options)))
    check_all(calls)


@pytest.mark.parametrize("name", ["numba", *INSTRUCTION_SETS])
def test_engine_is_tested(name: str) -> None:
    """What this machine cannot run is skipped here, where one can see it; everything else runs above."""
    if name in MISSING:
        pytest.skip(f"{name}: {MISSING[name]}")
    if name not in {engine.name for engine in ENGINES}:
        pytest.skip(f"{name}: the environment forces {', '.join(engine.name for engine in ENGINES)}")
    with next(engine for engine in ENGINES if engine.name == name).on():
        import fastnn.threads

        config = fastnn.threads.config()
    assert name in (config["backend"], config.get("isa"))


@engines
@dtypes
@pytest.mark.parametrize(
    "shapes", [((2, 24, 9, 11), (40, 24, 3, 3)), ((3, 5, 8, 7), (9, 5, 3, 3))], ids=["wide", "few"]
)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
def test_convolution_between_the_memory_formats(engine: Engine, dtype: str, shapes: Any, residual: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    y = np.empty((x.shape[0], weight.shape[0], *x.shape[2:]), dtype)
    added = rng.standard_normal(y.shape).astype(dtype) if residual else None
    last = LAYOUTS["channels_last"]
    options: dict[str, Any] = {"padding": 1, "residual": added, "activation": "relu"}
    with NUMPY.on():
        want = F.conv2d(x.astype(np.float64), weight.astype(np.float64), **options)
    with engine.on():
        for given, out in ((x, last(y)), (last(x), y.copy())):
            assert F.conv2d(given, weight, out=out, **options) is out
            # Partial sums below 64, rounded 216 times on either side: 2 * sqrt(216) * 32 eps
            np.testing.assert_allclose(out, want, rtol=0, atol=940 * np.finfo(dtype).eps)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_batch_norm_of_large_values(engine: Engine) -> None:
    """Beyond 1e19 the variance is infinite in float32; the values are normalised by what it was."""
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 6)).astype(np.float32)
    with engine.on():
        y, _, var = F.batch_norm_train(x * np.float32(1e25), eps=0.0)
        want = F.batch_norm_train(x, eps=0.0)[0]
    assert np.isinf(var).all()
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)  # x * 1e25 is rounded: 2^-24 of at most 4, and 30 sums

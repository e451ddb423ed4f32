"""Arguments drawn at random for every op of the registry: shapes, strides, memory orders, dtypes, odd values, and what
does not fit together. All engines give what the reference gives, or raise what it raises, and leave their inputs alone.

How an op's arguments are drawn stands in cases.py (DRAWS); this file draws what is done to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from test_parity import assert_close

import bounds
from cases import OPS, Array, Op, draw_arguments, make
from engines import ENGINES, NUMPY

DTYPES = ("float32", "float32", "float64", "float16", "int8", "int32", "uint16", "bool", ">f4", ">f8")
LABELS = ("int64", "int32", "uint8")
#: what no op computes with
STRANGE = ("complex64", "complex128", "object", "U4", "S3", "M8[s]", "m8[s]", "V8", "longdouble")
#: one kind at a time: a denormal that is flushed times infinity is another matter than a denormal kept
SPECIAL = {
    "nan": (np.nan,),
    "infinite": (np.inf, -np.inf),
    "zero": (0.0, -0.0),
    "denormal": (1e-40, -1e-40),
    # whose square, and product with another such number, is still a float32
    "huge": (1e18, -1e18),
}
#: options that are no sizes of anything sensible
ODD: tuple[Any, ...] = (0, -1, 1.5, "2", None, (1, 2, 3), (2,), (1, -1), [], np.nan, True, 37, object)


@st.composite
def laid_out(draw: st.DrawFn, x: Array) -> Array:
    """x with any order of its axes in memory, steps between its elements, alignment and flags."""
    order = draw(st.permutations(range(x.ndim)))
    steps = draw(st.tuples(*(st.sampled_from((1, 1, 1, 2, -1, -3)) for _ in x.shape)))
    shape = [x.shape[axis] * abs(steps[axis]) for axis in order]
    size = int(np.prod(shape)) * x.itemsize
    shift = draw(st.sampled_from((0, 0, 0, x.itemsize, 1)))
    memory = np.zeros(size + shift, np.uint8)[shift:].view(x.dtype).reshape(shape)
    view = memory.transpose(np.argsort(order))[(*(slice(None, None, step) for step in steps), ...)]
    view[...] = x
    view.flags.writeable = draw(st.booleans())
    return view


@dataclass
class Call:
    """What an op is called with; ``fits`` where nothing was done to it that an op may refuse."""

    arrays: dict[str, Any]
    options: dict[str, Any]
    fits: bool


@st.composite
def calls(draw: st.DrawFn, kernel: str) -> Call:
    op = OPS[kernel]
    specs, options = draw_arguments(draw, op)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    arrays = {name: make(spec, rng) for name, spec in specs.items()}
    # Optimizer steps and the like write to arrays that are not converted; they take them as they are.
    special = draw(st.sampled_from((None, None, *SPECIAL)))
    plain = [name for name, spec in specs.items() if isinstance(spec, tuple) and arrays[name].size]
    if special in ("nan", "infinite"):  # a weight meets padding, which is 0: where, is the algorithm's affair
        plain = [name for name in plain if name != "weight"]
    if special and plain:
        x = arrays[draw(st.sampled_from(plain))]
        for place in draw(st.lists(st.integers(0, x.size - 1), min_size=1, max_size=4)):
            x.flat[place] = draw(st.sampled_from(SPECIAL[special]))
    spoil = draw(st.sampled_from((None, None, "dtype", "axis", "size", "option"))) if op.strided else None
    odd = draw(st.sampled_from(sorted(arrays)))
    if spoil == "axis":
        x = arrays[odd]
        arrays[odd] = x[0] if draw(st.booleans()) and x.ndim and len(x) else x[np.newaxis]
    elif spoil == "size" and arrays[odd].ndim:
        axis = draw(st.integers(0, arrays[odd].ndim - 1))
        arrays[odd] = np.concatenate([arrays[odd]] * 2, axis)
    elif spoil == "option" and (names := sorted(options.keys() - {"op"})):
        options[draw(st.sampled_from(names))] = draw(st.sampled_from(ODD))
    common = draw(st.sampled_from(("float32", "float64")))
    for name, x in arrays.items():
        if x.dtype == np.float64:
            dtype = draw(st.sampled_from(DTYPES)) if op.strided else common
            whole = np.dtype(dtype).kind in "iub"
            with np.errstate(all="ignore"):
                x = np.abs(np.nan_to_num(x, posinf=1, neginf=1) % 6).astype(dtype) if whole else x.astype(dtype)
        elif x.dtype == np.int64 and op.strided and (x >= 0).all():
            x = x.astype(draw(st.sampled_from(LABELS)))
        if spoil == "dtype" and name == odd:
            x = np.zeros(x.shape, draw(st.sampled_from(STRANGE)))
        as_it_is = not op.strided or name in ("mask", "key") or x.dtype.hasobject
        arrays[name] = x if as_it_is else draw(laid_out(x))
    return Call(arrays, options, spoil is None and special not in ("nan", "infinite", "huge"))


def assert_agrees(op: Op, got: Array, want: Array, limit: Any, dtype: np.dtype[Any]) -> None:
    """As in the parity tests; but where several numbers make a result, their order decides between inf and NaN."""
    if want.dtype.kind == "f" and not op.elementwise:
        with np.errstate(over="ignore"):
            odd = ~np.isfinite(want.astype(dtype))
        np.testing.assert_array_equal(~np.isfinite(got) & odd, odd, "not finite in the reference")
        got, want = np.where(odd, 0, got), np.where(odd, 0, want)
    assert_close(got, want, bounds.allowed(limit, dtype), str(dtype))


def outcome(op: Op, call: Call) -> tuple[tuple[Array, ...] | None, tuple[type, str] | None]:
    """What comes out of a call, or what it raises; that it changed none of its inputs."""
    before = {name: x.copy() for name, x in call.arrays.items()}
    result = error = None
    try:
        result = op.run(call.arrays, call.options)
    except (TypeError, ValueError) as raised:
        error = type(raised), str(raised)
    for name, x in call.arrays.items():
        assert x.tobytes() == before[name].tobytes(), f"{name} was changed"
    return result, error


def computed(op: Op, call: Call) -> tuple[np.dtype[Any], tuple[Array, ...], tuple[Any, ...]]:
    """The dtype in which engines compute this, the float64 reference, and the bounds of the errors."""
    floats = [x.dtype.newbyteorder("=") for x in call.arrays.values() if x.dtype.kind == "f"]
    dtype = np.dtype(np.float64 if np.dtype(np.float64) in floats else np.float32)
    exact = {
        name: x if name in ("mask", "key") or (name == "labels" and x.dtype.kind in "iu") else np.array(x, np.float64)
        for name, x in call.arrays.items()
    }
    with NUMPY.on(), np.errstate(all="ignore"):
        want = op.run(exact, call.options)
        return dtype, want, op.bound(exact, call.options, want)


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("kernel", OPS)
def test_any_arguments(kernel: str, data: st.DataObject) -> None:
    op, call = OPS[kernel], data.draw(calls(kernel), label="call")
    with NUMPY.on(), np.errstate(all="ignore"):
        result, error = outcome(op, call)
    assert error is None or not call.fits, error
    if error is not None:
        assert ": " in error[1], f"the message names the op: {error[1]}"
    limits: Any = None
    if result is not None:
        dtype, want, limits = computed(op, call)
    for engine in ENGINES:
        with engine.on():
            got, raised = outcome(op, call)
        assert raised == error, engine.name
        if got is None or result is None:
            continue
        for output, like, exact, limit in zip(got, result, want, limits, strict=True):
            assert output.shape == like.shape and output.dtype == like.dtype, engine.name
            try:
                assert_agrees(op, output, exact, limit, dtype)
            except AssertionError as difference:
                difference.add_note(f"on {engine.name}")
                raise

"""Programs: the same results as the layers, folded and fused, for any batch, from any thread, never out of date."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_environment import run

import fastnn as fnn
import fastnn.functional as F
from engines import COMPILED, ENGINES, NUMPY, Engine
from fastnn import _backends
from fastnn import layers as L
from nets import NETS, build

# Folding batch norm rounds each weight once more, and moves the rounding of the scale from the output to the input of
# sums of at most 150 terms; over the four folded layers in a row of these nets that is at most some hundred units.
FOLDED = 300


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=FOLDED * np.finfo(a.dtype).eps * np.abs(b).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_program_computes_what_the_model_computes(name, dtype):
    model, x, _ = build(name, dtype)
    program = fnn.compile(model, x.shape)
    y = program(x)
    assert y.dtype == dtype and y.shape == program.output_shape
    close(y, model(x))
    out = np.full_like(y, np.nan)
    assert program(x, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_other_backends_run_the_same_graph(name, backend):
    if _backends.missing_reason(backend):
        pytest.skip(str(_backends.missing_reason(backend)))
    model, x, _ = build(name)
    expected = model(x)
    with _backends.using(backend):
        close(fnn.compile(model, x.shape)(x), expected)


def test_what_is_folded_and_fused():
    model, x, _ = build("residual")
    rows = [line.split("  ") for line in fnn.compile(model, x.shape).describe().splitlines()[2:]]
    text = "\n".join(" | ".join(filter(None, map(str.strip, row))) for row in rows)
    by = "{} | " + ("im2col" if _backends.name == "compiled" else _backends.name) + " | {}"
    core = _backends.core()
    # an image of three channels, planar on tiles
    first = by.replace("im2col", "amx") if core is not None and core.isa() == "amx" else by
    assert first.format("1 | 0 | Conv2d 3->8 3x3 | BatchNorm2d 8, ReLU", "(4, 3, 12, 12) | (4, 8, 12, 12)") in text
    # the residual sum goes into the convolution that ends its main branch, with the activation behind it
    assert "Conv2d 8->8 3x3 | BatchNorm2d 8, Add, LeakyReLU 0.1" in text
    # with a shortcut that computes, into the branch that comes later
    assert "6.shortcut.0 | Conv2d 8->12 1x1 | BatchNorm2d 12, Add, ReLU" in text
    assert "BatchNorm2d 16 | GELU" in text
    assert "Dropout" not in text and "Identity" not in text


def test_any_batch_size_and_memory_format():
    model, x, _ = build("residual")
    program = fnn.compile(model, x.shape)
    for n in (1, 3, 4, 9, 0):
        batch = np.resize(x, (n, *x.shape[1:]))
        y = program(batch)
        assert y.shape == (n, 5)
        if n:
            close(y, model(batch))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    close(program(last), model(x))
    close(program(x[:, :, ::-1, ::-1]), model(x[:, :, ::-1, ::-1]))


def test_images_out_keep_the_memory_format():
    model = L.Sequential(L.Conv2d(3, 4, 3, padding=1, rng=0), L.ReLU(), L.MaxPool2d(2))
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3), np.float32).transpose(0, 3, 1, 2)
    program = fnn.compile(model, x.shape)
    assert program(x).transpose(0, 2, 3, 1).flags.c_contiguous
    assert program(np.ascontiguousarray(x)).flags.c_contiguous
    close(program(x), model(x))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_softmax_at_the_end(axis):
    model = L.Sequential(L.MaxPool2d(2), L.Softmax(axis))
    x = np.random.default_rng(0).standard_normal((2, 6, 8, 4), np.float32)
    for image in (x, np.ascontiguousarray(x.transpose(0, 3, 1, 2)), x.transpose(0, 3, 1, 2)):
        y = fnn.compile(model, image.shape)(image)
        np.testing.assert_array_equal(y, model(image))
        assert y.strides == model(image).strides


def test_a_program_is_a_snapshot():
    model, x, _ = build("residual")
    program = fnn.compile(model, x.shape)
    before = program(x)
    for array in {**model.params, **model.buffers}.values():
        array *= 1.5
    np.testing.assert_array_equal(program(x), before)
    np.testing.assert_array_equal(program(x[:2]), before[:2])  # planned after the change
    close(fnn.compile(model, x.shape)(x), model(x))


@pytest.mark.parametrize("geometry", [(64, 48, 3, 1), (24, 24, 3, 24), (40, 33, 1, 1), (5, 7, 5, 1)])
@pytest.mark.parametrize("isa", [e.isa for e in COMPILED])
def test_packed_weights_compute_the_same_bits(isa, geometry):
    """A program lays its weights out once, for all its plans; a function at every call."""
    c, o, k, groups = geometry
    conv = L.Conv2d(c, o, k, padding=1, groups=groups, rng=0)
    with Engine("compiled", isa).on():
        program = fnn.compile(conv, (2, c, 9, 8))
        for n in (2, 1, 3):
            x = np.random.default_rng(n).standard_normal((n, c, 9, 8), np.float32)
            expected = conv(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
            for _ in range(2):
                np.testing.assert_array_equal(program(x), expected)
        del program
        conv.weight[...] *= 2  # at the same address
        np.testing.assert_array_equal(
            fnn.compile(conv, x.shape)(x), conv(x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2))
        )


def test_compiling_does_not_touch_the_model():
    model, x, _ = build("residual")
    state, y = model.state(), model(x)
    fnn.compile(model, x.shape)(x)
    assert all((state[k] == v).all() for k, v in model.state().items())
    np.testing.assert_array_equal(model(x), y)


def test_results_are_the_callers_to_keep():
    model, x, _ = build("residual")
    program = fnn.compile(model, x.shape)
    first = program(x)
    kept = first.copy()
    for _ in range(3):
        program(2 * x)
    np.testing.assert_array_equal(first, kept)


def test_many_threads_run_one_program():
    model, x, _ = build("residual")
    program = fnn.compile(model, x.shape)
    inputs = [x * (i + 1) for i in range(4)]
    expected = [program(a) for a in inputs]
    failures: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            if (program(inputs[i]) != expected[i]).any():
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_python_goes_on_during_a_call():
    """A thread of Python's counts while a program runs: the call gives the interpreter lock away.

    With a switch interval of a minute nothing but the call itself lets the other thread in.
    """
    if _backends.name != "compiled":
        pytest.skip("the other backends compute in Python")
    program = fnn.compile(L.Conv2d(64, 64, 3, padding=1, rng=0), (1, 64, 56, 56))
    n, seconds = 1, 0.0
    while seconds < 0.03:
        n *= 2
        x = np.ones((n, 64, 56, 56), np.float32)
        program(x)
        began = time.perf_counter()
        program(x)
        seconds = time.perf_counter() - began
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    before = sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(60.0)
        advanced = []
        for _ in range(20):  # the system may give the processor to others meanwhile
            first = counted[0]
            program(x)
            advanced.append(counted[0] - first)
            if advanced[-1] > 1:
                break
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()
    assert advanced[-1] > 1


@pytest.mark.parametrize("isa", [e.isa for e in COMPILED])
def test_the_algorithms_that_are_described_are_those_that_run(isa):
    """A function forced to the algorithm gives the same bits; what it names cannot be another's work."""
    convs = {
        "wide": (L.Conv2d(32, 40, 3, padding=1, rng=0), 14),
        "first": (L.Conv2d(3, 24, 7, stride=2, padding=3, rng=0), 20),
        "tiny": (L.Conv2d(32, 32, 3, padding=1, rng=0), 3),
        "grouped": (L.Conv2d(32, 32, 3, padding=1, groups=2, rng=0), 9),
        "depthwise": (L.Conv2d(32, 32, 3, padding=1, groups=32, rng=0), 9),
    }
    with Engine("compiled", isa).on():
        chosen = {}
        for name, (conv, size) in convs.items():
            c = conv.weight.shape[1] * conv.groups
            x = np.random.default_rng(0).standard_normal((2, size, size, c), np.float32).transpose(0, 3, 1, 2)
            program = fnn.compile(conv, x.shape)
            (timed,) = (t for t in program.profile(x, repeats=1).steps if t.step.number)
            (chosen[name],) = timed.step.kernels
            # Depthwise and grouped have no names of their own as options: they are what im2col leaves to them.
            algorithm = "im2col" if chosen[name] in ("depthwise", "grouped") else chosen[name]
            geometry = conv.stride, conv.padding, conv.dilation, conv.groups
            forced = F.conv2d(x, conv.weight, conv.bias, *geometry, algorithm=algorithm)
            np.testing.assert_array_equal(program(x), forced)
        assert chosen["depthwise"] == "depthwise"
        assert chosen["grouped"] == "grouped"
        assert chosen["wide"] == ("amx" if isa == "amx" else "winograd")


def inverted(c: int = 16, hidden: int = 48, **more: int) -> L.Sequential:
    return L.Sequential(
        L.Conv2d(c, hidden, 1, rng=0), L.ReLU6(),
        L.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, rng=1, **more), L.ReLU6(), L.Conv2d(hidden, c, 1, rng=2),
    )  # fmt: skip


def separable(c: int, o: int, seed: int) -> tuple[L.Layer, ...]:
    depthwise = L.Conv2d(c, c, 3, padding=1, groups=c, rng=seed)
    return depthwise, L.ReLU(), L.Conv2d(c, o, 1, rng=seed + 9), L.ReLU()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_inverted_residuals_are_one_step_on_tiles(engine: Engine, tmp_path: Path) -> None:
    """With residual, stride, norms and activations, and without the first convolution; saved programs find them too."""
    norms = L.Sequential(
        L.Conv2d(32, 32, 3, padding=1, groups=32, bias=False, rng=0), L.BatchNorm2d(32), L.ReLU(),
        L.Conv2d(32, 24, 1, rng=1), L.BatchNorm2d(24), L.Hardswish(),
    )  # fmt: skip
    nets = {
        "residual": (L.Residual(inverted()), 16),
        "stride": (inverted(stride=2), 16),
        "norms": (norms, 32),
        "two": (L.Sequential(L.Residual(inverted()), inverted(), L.ReLU()), 16),
        "in a row": (L.Sequential(*separable(32, 24, 0), *separable(24, 40, 1)), 32),
    }
    with engine.on():
        for name, (net, c) in nets.items():
            x = np.random.default_rng(0).standard_normal((3, c, 9, 10), np.float32)
            program = fnn.compile(net, x.shape)
            with NUMPY.on():
                exact = net.copy(np.float64)
                expected = exact(x.astype(np.float64))
            scale = np.sqrt(np.mean(expected**2))
            assert np.abs(program(x) - expected).max() < 4e-6 * scale, name  # three layers of 5e-7 at most, of the rms
            assert np.abs(program(x[:1]) - expected[:1]).max() < 4e-6 * scale, name
            program.save(tmp_path / "net.fnn")
            np.testing.assert_array_equal(fnn.load_program(tmp_path / "net.fnn")(x), program(x))
            kernels = [step.kernels for step in program.steps() if step.number]
            if engine.isa == "amx":
                assert kernels == [("amx, fused",)] * (2 if name in ("two", "in a row") else 1)
                (first, *_) = (step for step in program.steps() if step.number)
                layers = [layer for layer in net.leaves() if isinstance(layer[1], L.Conv2d)]
                assert first.layer.count("Conv2d") == {"two": 3, "in a row": 2}.get(name, len(layers))
            else:
                assert "amx" not in str(kernels)
            with fnn.num_threads(1):
                one = program(x)
            np.testing.assert_array_equal(one, program(x))


def test_hidden_channels_that_something_else_reads_stay_an_array():
    """The output of the first convolution is read twice, or is an output of the network: three steps."""
    names = ("expand", "r", "depthwise", "s", "project")
    chain = [(name, layer, before) for name, (_, layer), before in
             zip(names, inverted().leaves(), ("x", *names), strict=False)]  # fmt: skip
    for more in ((("sum", L.Add(), "r", "s"),), ()):
        graph = L.Graph(*chain, *more, inputs=("x",), outputs=("project", "sum" if more else "s"))
        program = fnn.compile(graph, (2, 16, 6, 7))
        x = np.random.default_rng(0).standard_normal((2, 16, 6, 7), np.float32)
        for y, expected in zip(program(x), graph(x), strict=True):
            close(y, expected)
        separate = [step for step in program.steps() if "Conv2d" in step.layer]
        assert [step.layer.count("Conv2d") for step in separate] == [1, 1, 1]


@pytest.mark.parametrize("isa", [e.isa for e in COMPILED])
@pytest.mark.parametrize("precision", ["float32-fast", "bfloat16"])
def test_inverted_residuals_in_faster_precisions(isa: str, precision: str) -> None:
    net = L.Residual(inverted(64, 192))
    x = np.random.default_rng(0).standard_normal((2, 64, 14, 14), np.float32)
    with NUMPY.on():
        expected = net.copy(np.float64)(x.astype(np.float64))
    with Engine("compiled", isa).on():
        y = fnn.compile(net, x.shape, precision=precision)(x)
    error = np.sqrt(np.mean((y - expected) ** 2) / np.mean(expected**2))
    if isa == "amx":  # two layers on tiles, as test_precisions has it for one
        assert (1e-6 if precision == "float32-fast" else 5e-4) < error < (1e-5 if precision == "float32-fast" else 6e-3)
    else:
        assert error < 4e-7


def test_a_profile_accounts_for_every_call():
    model, x, _ = build("wired")
    program = fnn.compile(model, x.shape)
    profile = program.profile(x, repeats=3)
    assert profile.repeats == 3 and profile.call > 0
    steps = [timed.step for timed in profile.steps]
    assert [s.number for s in steps if s.number] == list(range(1, len(program._graph.nodes) + 1))
    assert all(timed.seconds > 0 for timed in profile.steps if timed.step.kernels)
    if _backends.name == "compiled":
        (plan,) = program._plans.values()
        assert sum(len(s.kernels) for s in steps) == len(plan.program.steps)
    first = next(s for s in steps if s.name == "stem.conv")
    assert first.flops == 2 * 3 * 8 * 12 * 12 * 3 * 9  # images, outputs, pixels, channels, taps
    assert first.bytes == 4 * (3 * 12 * 12 * (3 + 8) + 8 * 3 * 9 + 8)
    lines = str(profile).splitlines()
    assert lines[0].split() == ["step", "layer", "runs", "by", "output", "ms", "share", "GFLOP/s", "GB/s", "roofline"]
    assert len(lines) == len(steps) + 5 and "median of 3" in lines[-1]


def test_a_profile_of_another_batch_and_of_several_inputs():
    both = L.Graph(("sum", L.Add(), "a", "b"), ("y", L.Linear(3, 2, rng=0), "sum"), inputs=("a", "b"))
    program = fnn.compile(both, [(4, 3), (4, 3)])
    assert program.profile(repeats=1).steps[-1].step.outputs == ((4, 2),)
    a = np.ones((7, 3), np.float32)
    assert program.profile((a, a), repeats=1).steps[-1].step.outputs == ((7, 2),)
    with pytest.raises(ValueError, match="repeats must be a whole number of at least 1, got 0"):
        program.profile(repeats=0)
    with pytest.raises(fnn.ShapeError, match="input 1"):
        program.profile((a, a[:, :2]))


@pytest.mark.parametrize(
    "layer", [L.Conv1d(4, 6, 3, groups=2), L.Conv2d(4, 6, 3), L.ConvTranspose2d(4, 6, 3), L.Linear(8, 5)]
)
def test_multiply_adds_are_counted(layer):
    """As many as there are products of an input and a weight: what a layer of ones without padding sums up to."""
    shape = {"Conv1d": (2, 4, 9), "Linear": (3, 8)}.get(type(layer).__name__, (2, 4, 7, 6))
    layer.weight[...] = 1
    assert layer.multiply_adds(shape) == layer(np.ones(shape, np.float32)).sum()


@pytest.mark.parametrize("name", NETS)
def test_same_bits_for_any_number_of_threads(name):
    model, x, _ = build(name)
    program = fnn.compile(model, x.shape)
    results = []
    for n in (1, 2, 3):
        with fnn.num_threads(n):
            results.append(program(x))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_the_arena_holds_less_than_all_arrays_together():
    """Arrays that are dead leave their place: a chain of ten layers needs room for two."""
    if _backends.name != "compiled":
        pytest.skip("arenas belong to the compiled backend")
    model = L.Sequential(*(L.MaxPool2d(1) for _ in range(10)))
    program = fnn.compile(model, (1, 1, 64, 64))
    program(np.zeros((1, 1, 64, 64), np.float32))
    (plan,) = program._plans.values()
    assert plan.program.arena_bytes <= 2 * 64 * 64 * 4


def test_trivial_models():
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    for model in (L.Sequential(), L.Identity(), L.Dropout(0.5)):
        y = fnn.compile(model, x.shape)(x)
        np.testing.assert_array_equal(y, x)
        assert not np.shares_memory(y, x)


def test_bad_input():
    model, x, _ = build("mlp")
    program = fnn.compile(model, x.shape)
    with pytest.raises(fnn.ShapeError, match=r"program: expected x of shape \(N, 12\), got \(6, 13\)"):
        program(np.zeros((6, 13), np.float32))
    with pytest.raises(TypeError, match="dtype object"):
        program(np.array([[None] * 12]))
    with pytest.raises(fnn.ShapeError, match="expected out of shape"):
        program(x, out=np.zeros((1, 1), np.float32))
    with pytest.raises(fnn.ShapeError, match=r"layer '0' \(Linear 12->16\): expected \(N, 12\), got \(6, 7\)"):
        fnn.compile(model, (6, 7))
    with pytest.raises(ValueError, match="unknown precision 'float8'"):
        fnn.compile(model, x.shape, precision="float8")


class Doubling(L.Layer):
    """The least that a layer can be: in NumPy, without trace and output_shape."""

    def __call__(self, x):
        return x * 2

    def forward(self, x, rng=None):
        return x * 2, lambda dy: dy * 2


class Tracing(Doubling):
    """The same with a trace that claims it as a leaf."""

    def output_shape(self, shape):
        return shape

    def trace(self, builder, x):
        return builder.add(self, x)


class Overriding(L.Linear):
    """A layer of ours whose call a user replaced."""

    def __call__(self, x):
        return super().__call__(x) + 1


class Plain(L.Linear):
    """A layer of ours under another name."""


class Twice(L.Layer):
    """A container that a user wrote, with its trace."""

    def __init__(self, inner):
        self.inner = inner

    def children(self):
        yield "inner", self.inner

    def __call__(self, x):
        return self.inner(self.inner(x))

    def output_shape(self, shape):
        return self.inner.output_shape(self.inner.output_shape(shape))

    def trace(self, builder, x):
        return builder.trace("b", self.inner, builder.trace("a", self.inner, x))


@pytest.mark.parametrize("layer", [Doubling(), Tracing(), Overriding(3, 3)])
def test_what_computes_in_python_is_not_compiled_into_something_else(layer):
    from fastnn.compiler import UntraceableError

    with pytest.raises(UntraceableError, match="layer '1'"):
        fnn.compile(L.Sequential(L.ReLU(), layer), (2, 3))


def test_users_containers_and_subclasses_compile():
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    model = L.Sequential(Twice(Plain(3, 3, rng=0)), L.ReLU())
    program = fnn.compile(model, x.shape)
    close(program(x), model(x))
    assert "ReLU" in program.describe()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("layer", ["Conv2d", "Linear"])
def test_precisions(engine: Engine, layer: str, tmp_path: Path) -> None:
    """Where there are tiles each tier errs as much as its parts make it, of the output's rms.

    Elsewhere the faster ones have 4 x 4 tiles of Winograd's for a convolution (8e-7 for 48 channels) and are otherwise
    as float32.
    """
    shape = (2, 48, 17, 13) if layer == "Conv2d" else (40, 300)
    model = L.Conv2d(48, 40, 3, padding=1, rng=0) if layer == "Conv2d" else L.Linear(300, 50, rng=0)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    with NUMPY.on():
        exact = model.copy(np.float64)(x.astype(np.float64))
    errors, outputs = {}, {}
    with engine.on():
        for precision in ("float32", "float32-fast", "bfloat16"):
            program = fnn.compile(model, shape, precision=precision)
            outputs[precision] = program(x)
            errors[precision] = np.sqrt(np.mean((outputs[precision] - exact) ** 2) / np.mean(exact**2))
            program.save(tmp_path / "net.fnn")
            loaded = fnn.load_program(tmp_path / "net.fnn")
            assert loaded.precision == program.precision == precision
            np.testing.assert_array_equal(loaded(x), outputs[precision])
    assert errors["float32"] < 4e-7
    if engine.isa == "amx":
        # 2^-16 and 2^-8 of each factor at most, a sixth of that twice in the mean square: 2.4e-6 or 6e-4 and more
        assert 1e-6 < errors["float32-fast"] < 1e-5
        assert 5e-4 < errors["bfloat16"] < 4e-3
    else:
        np.testing.assert_array_equal(outputs["bfloat16"], outputs["float32-fast"])
        if layer == "Conv2d" and engine.isa is not None:
            assert 3e-7 < errors["float32-fast"] < 1.6e-6
        else:
            np.testing.assert_array_equal(outputs["float32-fast"], outputs["float32"])


def test_many_inputs_and_outputs():
    """A program takes and gives as many arrays as its network does."""
    count = 40
    names = [f"x{i}" for i in range(count)]
    nodes = [(f"y{i}", L.ReLU() if i % 2 else L.LeakyReLU(0.5), name) for i, name in enumerate(names)]
    model = L.Graph(*nodes, inputs=names, outputs=[f"y{i}" for i in range(count)])
    program = fnn.compile(model, [(2, 3)] * count)
    xs = np.random.default_rng(0).standard_normal((count, 2, 3)).astype(np.float32)
    for _ in range(2):
        ys = program(*xs)
        assert len(ys) == count
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            np.testing.assert_array_equal(y, np.maximum(x, 0 if i % 2 else 0.5 * x))


ADDRESS_SPACE = """
import resource, numpy as np, fastnn as fnn
from fastnn.layers import Conv2d, Linear, Sequential, ReLU, Flatten

def mapped():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def make():
    return Sequential(Conv2d(3, 16, 3, padding=1, rng=0), ReLU(), Flatten(), Linear(16 * 16 * 16, 10, rng=0))

fnn.set_num_threads(1)
x = np.ones((8, 3, 16, 16), np.float32)
keep = [fnn.compile(make(), (1, 3, 16, 16))]
first = keep[0](x)
before = mapped()
{limit}
for _ in range(10):
    keep.append(fnn.compile(make(), (1, 3, 16, 16)))
    for n in range(1, 9):
        assert np.abs(keep[-1](x[:n]) - first[:n]).max() < 1e-4 * np.abs(first).max()
trainer = fnn.Trainer(make(), rng=0)
trainer.step(x, np.zeros(8, np.int64))
print(mapped() - before)
"""


@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
def test_plans_take_the_address_space_that_they_need(limited):
    """Ten networks of eight plans and a training step fit where address space is bounded, as containers have it.

    80 plans of 0.7 MB of arena at most, and ten times the weights (0.2 MB): less than 100 MB; 256 MB are given.
    """
    if _backends.name != "compiled":
        pytest.skip("plans belong to the compiled backend")
    limit = "resource.setrlimit(resource.RLIMIT_AS, (before + (256 << 20),) * 2)" if limited else ""
    result = run(ADDRESS_SPACE.format(limit=limit), FASTNN_BACKEND="compiled", FASTNN_ISA=_backends.core().isa())
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 256 << 20


def test_a_call_that_is_known_is_checked_as_the_first_was():
    """What spares a second call its checks is bound to shape, dtype, memory format, backend and instruction set."""
    model, x, _ = build("wired")
    program = fnn.compile(model, x.shape)
    expected = program(x)
    np.testing.assert_array_equal(program(x), expected)
    np.testing.assert_array_equal(program(x.astype(np.float64)), expected)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.float32)
    wide[..., ::2] = x
    np.testing.assert_array_equal(program(wide[..., ::2]), expected)  # strided, of the same shape
    np.testing.assert_array_equal(program(x.astype(">f4")), expected)
    last = F._in_format(x, True) if _backends.name == "compiled" else x
    y = program(last)
    np.testing.assert_array_equal(program(last), y)
    out = np.empty_like(expected)
    for _ in range(2):
        assert program(x, out=out) is out
        np.testing.assert_array_equal(out, expected)
        with pytest.raises(fnn.ShapeError, match="expected out of shape"):
            program(x, out=out[:1])
        with pytest.raises(ValueError, match="writeable"):
            frozen = out.copy()
            frozen.flags.writeable = False
            program(x, out=frozen)
        with pytest.raises(TypeError, match="expected 1 inputs, got 2"):
            program(x, x)
        with pytest.raises(TypeError, match="expected 1 inputs, got 2"):
            program(x, None)
        with pytest.raises(fnn.ShapeError, match="expected x of shape"):
            program(x[0])
    with _backends.using("numpy"):
        np.testing.assert_allclose(program(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(program(x), expected)


def test_convolutions_off_tiles_read_rows_as_they_come():
    """Which convolution reads any memory format is what the chooser of kernels says, of its shape and dtype."""
    core = _backends.core()
    if core is None:
        pytest.skip("algorithms belong to the compiled backend")
    options = (1, 1), (1, 1), (1, 1)
    shapes = (1, 32, 16, 16), (32, 32, 3, 3), (1, 32, 16, 16)
    by = core.conv2d_algorithm(*shapes, *options, 1, np.dtype(np.float32), 3)
    assert by == ("amx" if core.isa() == "amx" else "im2col")
    assert core.conv2d_algorithm(*shapes, *options, 1, np.dtype(np.float64), 3) == "im2col"
    groups = (1, 32, 16, 16), (32, 1, 3, 3), (1, 32, 16, 16)
    assert not core.conv2d_algorithm(*groups, *options, 32, np.dtype(np.float32), 3).startswith("amx")
    for dtype in (np.float32, np.float64):  # described as it runs
        program = fnn.compile(L.Conv2d(32, 32, 3, padding=1, rng=0).copy(dtype=dtype), (1, 32, 16, 16))
        (step,) = [s for s in program.steps() if s.layer.startswith("Conv2d")]
        (by,) = step.kernels  # off tiles the rows of a program, channels-last, may take another than C order
        assert (by == "amx") == (core.conv2d_algorithm(*shapes, *options, 1, np.dtype(dtype), 3) == "amx")
        assert by != "winograd" or dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((None, (1, 3)), TypeError, "expected a model, which is a layer of fastnn.layers, got NoneType"),
        ((L.Linear, (1, 3)), TypeError, "expected a model, .* got <class 'fastnn.layers.linear.Linear'>"),
        ((lambda x: x, (1, 3)), TypeError, "expected a model, .* got function"),
        ((L.Linear(3, 2), "13"), TypeError, "expected an input shape of whole numbers"),
        ((L.Linear(3, 2), None), TypeError, "expected an input shape of whole numbers"),
        (
            (L.Linear(3, 2), (1, 3.5)),
            TypeError,
            r"expected an input shape of whole numbers, \(N, ...\), got \(1, 3.5\)",
        ),
        ((L.Linear(3, 2), [(1, 3), (1, 3)]), fnn.ShapeError, r"does not take 2 inputs: \(1, 3\), \(1, 3\)"),
    ],
)
def test_what_cannot_be_compiled_is_told(arguments, error, said):
    with pytest.raises(error, match=said):
        fnn.compile(*arguments)


def test_bad_options_and_outputs_are_told():
    program = fnn.compile(L.Linear(3, 2, rng=0), (1, 3))
    x = np.ones((4, 3), np.float32)
    expected = program(x)
    with pytest.raises(ValueError, match="unknown precision"):
        fnn.compile(L.Linear(3, 2), (1, 3), precision=["float32"])
    for repeats in (1.5, "3", True):
        with pytest.raises(ValueError, match="repeats must be a whole number"):
            program.profile(x, repeats=repeats)
    for _ in range(2):  # the second call is a known one
        with pytest.raises(fnn.ShapeError, match=r"expected out of shape \(4, 2\) and dtype float32, got int"):
            program(x, out=3)
        with pytest.raises(fnn.ShapeError, match="got str"):
            program(x, out="ab")
        with pytest.raises(fnn.ShapeError, match="expected 1 arrays in out, got 2"):
            program(x, out=[None, None])
        np.testing.assert_array_equal(program(x), expected)


def test_sizes_beyond_all_memory():
    """Such a program can be made and says what it lacks; others go on."""
    if _backends.name != "compiled":
        pytest.skip("plans belong to the compiled backend")
    small = fnn.compile(L.Sequential(L.ReLU()), (2, 3))
    x = np.ones((2, 3), np.float32)
    for batch in (2**45, 2**62):
        huge = fnn.compile(L.Sequential(L.Linear(3, 4, rng=0), L.ReLU()), (batch, 3))
        with pytest.raises(MemoryError, match=f"no address space for an array of shape .{batch}, 3. and dtype float32"):
            huge.describe()
        np.testing.assert_array_equal(small(x), x)
        with pytest.raises(fnn.ShapeError):
            huge(x[:, :2])
        assert huge(x).shape == (2, 4)

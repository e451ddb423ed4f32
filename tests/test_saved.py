"""Programs in files: the same bits back, whole files or none, and nothing from a file but what was checked."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastnn as fnn
from engines import ENGINES
from fastnn import FileFormatError, _backends
from fastnn import layers as L
from fastnn.compiler import saved
from fastnn.compiler.graph import Node
from fastnn.io.program import MAGIC, VERSION
from nets import NETS, build
from onnx_files import model, node, port, tensor
from test_compiler import Plain, Twice

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_a_loaded_program_computes_the_same_bits(name, dtype, tmp_path):
    net, x, _ = build(name, dtype)
    program = fnn.compile(net, x.shape)
    program.save(tmp_path / "net.fnn")
    loaded = fnn.load_program(tmp_path / "net.fnn")
    assert (loaded.input_shape, loaded.output_shape) == (program.input_shape, program.output_shape)
    assert loaded.describe() == program.describe()
    np.testing.assert_array_equal(loaded(x), program(x), strict=True)
    for n in (1, 2, 7) if name != "wired" else ():  # whose constants have the batch's size
        batch = np.resize(x, (n, *x.shape[1:]))
        np.testing.assert_array_equal(loaded(batch), program(batch), strict=True)
    if x.ndim == 4:
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(loaded(last), program(last), strict=True)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_file_of_one_engine_runs_on_another(engine, tmp_path):
    net, x, _ = build("residual")
    fnn.compile(net, x.shape).save(tmp_path / "net.fnn")
    with engine.on():
        program = fnn.compile(net, x.shape)
        np.testing.assert_array_equal(fnn.load_program(tmp_path / "net.fnn")(x), program(x), strict=True)
        program.save(tmp_path / "other.fnn")
    assert (tmp_path / "other.fnn").read_bytes() == (tmp_path / "net.fnn").read_bytes()


def test_every_public_layer_can_be_stored(tmp_path):
    """A new layer that programs can have must keep what files can hold."""
    stored = {type(node.layer) for name in NETS for node in fnn.compile(build(name)[0], NETS[name][1])._graph.nodes}
    combining = {"Concat", "Graph", "Residual", "Sequential", "StochasticDepth"}  # which are never a step
    folded = {"BatchNorm1d", "BatchNorm2d", "Dropout", "Identity"}
    layers = {getattr(L, name) for name in L.__all__ if isinstance(getattr(L, name), type)}
    layers = {cls for cls in layers if issubclass(cls, L.Layer) and cls.__name__ not in combining | folded | {"Layer"}}
    fused = {cls for cls in layers if cls.__module__.endswith("activation")} - stored
    assert layers - stored - fused == set()
    assert {"relu", "gelu_tanh", ("leaky_relu", 0.1)} & {  # as an option of another step
        node.activation for name in NETS for node in fnn.compile(build(name)[0], NETS[name][1])._graph.nodes
    }


def test_the_format_has_every_field_of_a_node():
    assert {field.name for field in fields(Node)} == {
        *("name", "layer", "inputs", "outputs", "arrays", "activation", "residual", "merged")
    }, "store the new field in compiler/saved.py, and think about files without it"


def test_several_inputs_and_outputs_and_layers_of_users(tmp_path):
    model = L.Graph(
        ("both", L.Add(), "a", "b"),
        ("twice", Twice(Plain(3, 3, rng=0)), "both"),
        ("same", L.Identity(), "a"),
        inputs=("a", "b"),
        outputs=("twice", "same", "both"),
    )
    program = fnn.compile(model, [(2, 3), (2, 3)])
    program.save(tmp_path / "net.fnn")
    a, b = np.random.default_rng(0).standard_normal((2, 5, 3), np.float32)
    for found, expected in zip(fnn.load_program(tmp_path / "net.fnn")(a, b), program(a, b), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_a_weight_is_stored_once(tmp_path):
    program = fnn.compile(L.Sequential(L.Linear(300, 300, rng=0), L.ReLU()), (1, 300))
    program.save(tmp_path / "net.fnn")
    size = (tmp_path / "net.fnn").stat().st_size
    assert 300 * 300 * 4 < size < 300 * 300 * 4 + 3000


def test_loading_needs_numpy_alone(tmp_path):
    net, x, _ = build("residual")
    fnn.compile(net, x.shape).save(tmp_path / "net.fnn")
    code = (
        "import sys, numpy as np, fastnn as fnn\n"
        f"y = fnn.load_program({str(tmp_path / 'net.fnn')!r})(np.ones({x.shape}, np.float32))\n"
        "print(sorted({'sklearn', 'torch', 'onnx', 'safetensors', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.returncode) == ("[]\n", 0), result.stderr


def test_what_cannot_be_stored_is_named_and_leaves_the_file(tmp_path):
    path = tmp_path / "net.fnn"
    path.write_bytes(b"before")
    layer = L.Linear(3, 3, rng=0)
    layer.note = lambda: None
    with pytest.raises(TypeError, match=r"save: layer '0' \(Linear 3->3\): a file cannot hold a function"):
        fnn.compile(L.Sequential(layer), (1, 3)).save(path)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["net.fnn"]
    with pytest.raises(FileNotFoundError):
        fnn.compile(L.Linear(3, 3), (1, 3)).save(tmp_path / "none" / "net.fnn")


# ---- files that are not to be trusted ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A small program that has one of everything."""
    model = L.Sequential(
        L.ZeroPad2d(1),
        L.Residual(L.Sequential(L.Conv2d(2, 2, 3, padding=1, rng=0), L.BatchNorm2d(2), L.LeakyReLU(0.1))),
        L.GroupNorm(2, 2),
        L.Upsample(scale_factor=2.0),
        L.MaxPool2d(2),
        L.Flatten(),
        L.Linear(2 * 36, 3, rng=0),
        L.Softmax(),
    )
    path = tmp_path_factory.mktemp("programs") / "net.fnn"
    fnn.compile(model, (1, 2, 4, 4)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> bytes:
    """A program of an ONNX network: shapes that follow from shapes, sizes of the batch, an operator in NumPy."""
    nodes = [
        node("Conv", "x w", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], auto_pad="NOTSET"),
        node("LRN", "a", "b", size=3),
        node("Slice", "b begins ends", "c"),
        node("Shape", "c", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "minus n", "t", axis=0),
        node("Reshape", "c t", "d"),
        node("Transpose", "d", "y", perm=[1, 0]),
    ]
    numbers = {"begins": [0, 0, 0, 1], "ends": [9, 2, 9, 1 << 62], "zero": [0], "minus": [-1]}
    tensors = [tensor(name, np.array(values, np.int64)) for name, values in numbers.items()]
    tensors.append(tensor("w", np.random.default_rng(0).standard_normal((4, 2, 3, 3), np.float32)))
    data = model(nodes, [port("x", np.float32, ("n", 2, 6, 6))], [port("y")], tensors)
    path = tmp_path_factory.mktemp("programs") / "net.fnn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part computes in NumPy
        program = fnn.compile(fnn.onnx.load(data), (2, 2, 6, 6))
    program.save(path)
    x = np.random.default_rng(1).standard_normal((5, 2, 6, 6), np.float32)
    np.testing.assert_array_equal(fnn.load_program(path)(x), program(x))
    return path.read_bytes()


def parts(data: bytes) -> tuple[dict, bytes]:
    """The description, and what comes after it."""
    (length,) = struct.unpack("<Q", data[16:24])
    return json.loads(data[24 : 24 + length]), data[24 + length :]


def forged(description: dict, rest: bytes, before: bytes) -> bytes:
    """A file with another description, and all sums right."""
    (length,) = struct.unpack("<Q", before[16:24])
    text = json.dumps(description).encode()
    # the arrays begin at multiples of 64: as many spaces as it takes
    text += b" " * ((length - len(text)) % 64)
    body = text + rest
    return MAGIC + struct.pack("<IIQ", VERSION, zlib.crc32(body), len(text)) + body


def refuse(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=reason) as raised:
            fnn.load_program(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{path}: ")
    assert peak < 16 << 20, f"refusing took {peak} bytes"


def test_foreign_and_newer_files(tmp_path, whole):
    path = tmp_path / "net.fnn"
    refuse(path, b"", "not a program of fastnn; it is empty")
    refuse(path, b"PK\x03\x04" + bytes(100), "not a program of fastnn")
    refuse(path, whole.replace(b"\r\n", b"\n", 1), "not a program of fastnn")
    refuse(path, whole[:8] + struct.pack("<I", VERSION + 1) + whole[12:], "version 2, and this fastnn reads up to 1")
    refuse(path, whole[:8] + bytes(4) + whole[12:], "no version 0")
    refuse(path, whole[:16] + struct.pack("<Q", 1 << 60) + whole[24:], "a description of 1152921504606846976 bytes")
    refuse(path, whole + b"\0", "it is cut or damaged: its arrays end")
    (tmp_path / "folder.fnn").mkdir()
    with pytest.raises(FileFormatError, match="not a regular file"):
        fnn.load_program(tmp_path / "folder.fnn")
    with pytest.raises(FileNotFoundError):
        fnn.load_program(tmp_path / "none.fnn")


def test_programs_of_imported_networks_name_what_they_need(imported):
    named = json.dumps(parts(imported)[0])
    assert all(f'"onnx.{name}"' in named for name in ("Operation", "operator.LRN", "Rule", "Derived", "Window"))


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path, whole):
    path = tmp_path / "net.fnn"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            fnn.load_program(path)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(FileFormatError):
            fnn.load_program(path)


def node_of(description: dict, layer: str) -> dict:
    return next(node for node in description["nodes"] if node["layer"] == layer)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["arrays"][0].__setitem__(1, [1 << 40]), "its arrays end"),
        (lambda d: d["arrays"][0].__setitem__(1, [1 << 61, 1 << 61]), "its arrays end"),
        (lambda d: d["arrays"][0].__setitem__(1, [0, 1 << 70]), "an array cannot be"),
        (lambda d: d["arrays"][0].__setitem__(1, [-1]), "an array cannot be"),
        (lambda d: d["arrays"][0].__setitem__(0, "object"), "an array cannot be"),
        (lambda d: d["arrays"][0].__setitem__(0, "int32"), "the weight of a Conv2d is int32"),
        (lambda d: d.pop("arrays"), "it lists no arrays"),
        (lambda d: d.__setitem__("dtype", "float64"), "the weight of a Conv2d is float32, and the program float64"),
        (lambda d: d.__setitem__("dtype", "O"), "its dtype is object"),
        (lambda d: d.__setitem__("nodes", None), "this fastnn can run"),
        (lambda d: d.__setitem__("outputs", [99]), "it refers to number 99 of"),
        (lambda d: d.__setitem__("outputs", []), "no input or no output"),
        (lambda d: d.__setitem__("inputs", [[1, 2, 1 << 64, 4]]), "is not a shape"),
        (lambda d: d.__setitem__("inputs", [[1, 2, 1 << 39, 4]]), "it makes an array of shape"),
        (lambda d: d.__setitem__("inputs", [[1, 3, 4, 4]]), "layer '1.main.0' .* expected"),
        (lambda d: d["nodes"][0].__setitem__("layer", "Sequential"), "this fastnn can run"),
        (lambda d: d["nodes"][0].__setitem__("layer", "os.system"), "this fastnn has no layer 'os.system'"),
        (lambda d: d["nodes"][0].__setitem__("inputs", [5]), "it refers to number 5 of 1"),
        (lambda d: d["nodes"][0].__setitem__("residual", -1), "it refers to number -1"),
        (lambda d: d["nodes"][0].__setitem__("outputs", 1 << 40), "it refers to number"),
        (lambda d: d["nodes"][0]["options"].__setitem__("label", 1), "'label' is no option of a ZeroPad2d"),
        (lambda d: d["nodes"][0]["options"].__setitem__("__class__", "x"), "'__class__' is no option"),
        (lambda d: d["nodes"][0]["options"].__setitem__("padding", [1 << 64, 0, 0, 0]), "a number is"),
        (lambda d: d["nodes"][0]["options"].__setitem__("padding", [1 << 39, 0, 0, 0]), "it makes an array of shape"),
        (lambda d: d["nodes"][0]["options"].__setitem__("padding", {"code": "x"}), "of the kind 'code'"),
        (lambda d: node_of(d, "Conv2d")["options"].__setitem__("groups", 0), "expected"),
        (lambda d: node_of(d, "Conv2d")["options"].pop("stride"), "stride"),
        (lambda d: node_of(d, "Conv2d")["arrays"].pop("bias"), "a Conv2d has weight, bias"),
        (lambda d: node_of(d, "Conv2d")["arrays"].__setitem__("weight", 99), "it refers to number 99"),
        (lambda d: node_of(d, "Conv2d")["arrays"].__setitem__("weight", None), "this fastnn can run"),
        (lambda d: node_of(d, "Conv2d").__setitem__("activation", ["os.system", 1]), "unknown activation"),
        (lambda d: node_of(d, "Upsample")["options"].__setitem__("scale_factor", 1e10), "it makes an array of shape"),
        (lambda d: node_of(d, "Upsample")["options"].__setitem__("mode", "x"), "this fastnn can run"),
    ],
)  # fmt: skip
def test_forged_descriptions(tmp_path, whole, change, reason):
    description, rest = parts(whole)
    change(description)
    refuse(tmp_path / "net.fnn", forged(description, rest, whole), reason)


def test_deep_and_large_descriptions(tmp_path, whole):
    _, rest = parts(whole)
    for text, reason in (
        (b"[" * 100_000, "its description is damaged"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "its description is damaged"),
        (b"[]", "its description is damaged"),
        (b'{"arrays": ' + b"9" * 5000 + b"}", "damaged"),
        (b'{"arrays": [], "nodes": ' + b"[" * 500 + b"]" * 500 + b"}", "."),
    ):
        header = MAGIC + struct.pack("<IIQ", VERSION, zlib.crc32(text), len(text))
        refuse(tmp_path / "net.fnn", header + text, reason)
        refuse(tmp_path / "net.fnn", header + text + rest, reason)


def replaced(tree, path, value):
    """The tree with the leaf (or branch) at a path of positions replaced."""
    if not path:
        return value
    if isinstance(tree, dict):
        keys = list(tree)
        key = keys[path[0] % len(keys)] if keys else None
        return {**tree, key: replaced(tree[key], path[1:], value)} if keys else value
    if isinstance(tree, list) and tree:
        at = path[0] % len(tree)
        return [*tree[:at], replaced(tree[at], path[1:], value), *tree[at + 1 :]]
    return value


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9),
    st.sampled_from([1 << 33, -(1 << 62), 1e30, float("nan"), float("inf")]),
    st.sampled_from(["", "Conv2d", "Linear", "GroupNorm", "relu", "float32", "onnx.Rule", "onnx.operator.Tile"]),
    st.lists(st.integers(-2, 5), max_size=4),
)  # fmt: skip


@settings(shared_folder, max_examples=400)
@given(
    st.booleans(),
    st.lists(st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=9), values), min_size=1, max_size=3),
)
def test_forged_values_are_refused_or_run_within_bounds(tmp_path, whole, imported, ours, changes):
    """Whatever a description says, the file is refused, the call raises, or it computes; the process stays alive."""
    before = whole if ours else imported
    description, rest = parts(before)
    for path, value in changes:
        description = replaced(description, path, value)
    if not isinstance(description, dict):
        return
    path = tmp_path / "net.fnn"
    path.write_bytes(forged(description, rest, before))
    try:
        program = fnn.load_program(path)
    except FileFormatError:
        return
    if any(np.prod(value.shape, dtype=float) > 1e6 for node in program._graph.nodes for value in node.outputs):
        return  # allowed, but not here
    shapes = program._input_shapes
    if any(np.prod(shape, dtype=float) > 1e6 for shape in shapes):
        return
    try:
        program(*(np.ones(shape, np.float32) for shape in shapes))
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, ZeroDivisionError, OverflowError, MemoryError):
        return


@pytest.mark.parametrize("weights", ["short bias", "short statistics"])
def test_arrays_of_another_shape_than_the_layer_needs(tmp_path, weights):
    """Kernels trust shapes: what comes from a file is checked by the functions all the same."""
    path = tmp_path / "net.fnn"
    model = L.Sequential(L.Conv2d(2, 4, 1, rng=0), L.ReLU(), L.BatchNorm2d(4))
    program = fnn.compile(model, (1, 2, 3, 3))
    conv, norm = program._graph.nodes
    if weights == "short bias":
        conv.arrays["bias"] = np.zeros(1, np.float32)
    else:
        norm.arrays["running_var"] = np.zeros(1, np.float32)
    program.save(path)
    with pytest.raises((fnn.ShapeError, FileFormatError)):
        fnn.load_program(path)(np.ones((1, 2, 3, 3), np.float32))


def test_nothing_is_run_from_a_file(tmp_path, whole, monkeypatch):
    """No import and no call is made for a name in a file."""
    description, rest = parts(whole)
    description["nodes"][0]["layer"] = "fastnn.layers.ZeroPad2d"
    refuse(tmp_path / "net.fnn", forged(description, rest, whole), "this fastnn has no layer")
    assert all(issubclass(cls, L.Layer) for cls in saved._classes(False).values())
    assert all(cls.__module__.startswith("fastnn.onnx.") for cls in saved._classes(True).values())
    assert _backends.name  # unchanged


def test_a_path_is_no_number_and_may_be_bytes(tmp_path: Path) -> None:
    """A number would be a file that somebody has open: it would be read, and closed."""
    program = fnn.compile(L.Linear(4, 3, rng=0), (2, 4))
    path = os.fsencode(tmp_path / "net.fnn")
    program.save(path)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(fnn.load_program(path)(x), program(x))
    fnn.save_state(os.fsencode(tmp_path / "w.npz"), {"a": x})
    np.testing.assert_array_equal(fnn.load_state(os.fsencode(tmp_path / "w.npz"))["a"], x)
    with open(path, "rb") as file:
        with pytest.raises(TypeError):
            fnn.load_program(file.fileno())
        assert file.read(4)  # it is still open


def test_names_of_a_state_are_strings() -> None:
    layer = L.Linear(3, 2, rng=0)
    before = layer.state()
    for strange in (1, None, ("a",), b"weight"):
        with pytest.raises(TypeError, match="load_state: names must be strings, got"):
            layer.load_state({**before, strange: np.ones(2)})
    with pytest.raises(ValueError, match="load_state: weight is not an array: setting an array element"):
        layer.load_state({"weight": [[1, 2, 3], [4, 5]], "bias": [1, 2]})
    assert all((layer.state()[name] == array).all() for name, array in before.items())

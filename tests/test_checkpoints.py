"""PyTorch's checkpoints: read whole in both forms, without PyTorch and without running what they name.

data/make_checkpoints.py made the files in data/; where PyTorch is installed, it writes more and is compared with.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastnn as fnn
from fastnn import layers as L
from fastnn.errors import FileFormatError
from fastnn.io.names import without_wrappers
from fastnn.io.unpickle import MAX_BYTES, MAX_STEPS, Ignored, Unpickler
from test_io import load_or_refuse, refuse

DATA = Path(__file__).parent / "data"
both = pytest.mark.parametrize("suffix", ["pt", "pth"])
shared_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300, derandomize=True
)


def expected(name, drop=()):
    with np.load(DATA / name) as file:
        return {key: file[key] for key in file if key not in drop}


def assert_same(loaded, arrays):
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True, err_msg=name)
        assert loaded[name].flags.writeable and loaded[name].dtype.isnative


# ---- what PyTorch wrote ----


@both
def test_every_dtype_and_layout(suffix):
    loaded = fnn.load_state(DATA / f"all.{suffix}")
    assert_same(loaded, expected("expected.npz", () if suffix == "pt" else ("unsigned",)))
    assert loaded["dtype.bfloat16"].dtype == np.float32
    assert np.signbit(loaded["infinite"][2])


@both
def test_arrays_that_share_numbers_in_the_file_are_apart(suffix):
    loaded = fnn.load_state(DATA / f"all.{suffix}")
    before = loaded["whole"].copy()
    for name in ("tied", "part", "transposed"):
        loaded[name][...] = 0
    np.testing.assert_array_equal(loaded["whole"], before)
    loaded["expanded"][0, 0] = 1
    assert loaded["expanded"].sum() == 1 + 5 * 2.5


@both
def test_a_training_script_s_checkpoint_gives_the_weights_without_wrappers(suffix):
    loaded = fnn.load_state(DATA / f"training.{suffix}")
    arrays = expected("training.npz")
    assert all(name.startswith("module.") for name in arrays)
    assert_same(loaded, {name.removeprefix("module."): array for name, array in arrays.items()})


def network():
    return L.Sequential(
        {"conv": L.Conv2d(2, 3, 3), "bn": L.BatchNorm2d(3), "pool": L.GlobalAvgPool2d(), "flat": L.Flatten(),
         "fc": L.Linear(3, 2, bias=False)}
    )  # fmt: skip


def test_into_a_model_that_counts_no_batches():
    model = network()
    model.load_state(fnn.load_state(DATA / "training.pt"))
    arrays = expected("training.npz")
    assert "module.bn.num_batches_tracked" in arrays
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, arrays[f"module.{name}"])
    other = network()
    other.load_state(arrays)  # with the prefix, from a file that keeps names as they are
    np.testing.assert_array_equal(other.params["conv.weight"], model.params["conv.weight"])


def test_big_endian():
    assert_same(fnn.load_state(DATA / "big_endian.pt"), {"w": np.arange(3, dtype=np.float32)})


def test_sums_that_were_not_computed():
    """torch.serialization.set_crc32_options(False) writes 0 for them."""
    assert_same(fnn.load_state(DATA / "unsummed.pt"), {"w": np.arange(3, dtype=np.float32)})


def test_a_flipped_bit_of_data_is_noticed(tmp_path):
    raw = bytearray((DATA / "small.pt").read_bytes())
    at = raw.index(np.float32([5, 6, 7]).tobytes())
    raw[at] ^= 1
    (tmp_path / "a.pt").write_bytes(raw)
    refuse(tmp_path / "a.pt", "its sum")


@both
@pytest.mark.parametrize("name", ["net.PT", "net.th", "net.ckpt", "pytorch_model.bin", "checkpoint.pth.tar"])
def test_names_of_checkpoints(tmp_path, name, suffix):
    (tmp_path / name).write_bytes((DATA / f"small.{suffix}").read_bytes())
    assert fnn.load_state(tmp_path / name)["w"].shape == (3, 4)


def test_a_whole_model_is_refused_by_the_name_of_its_class():
    refuse(DATA / "model.pt", r"it wants torch\.nn\.modules\.container\.Sequential, .* save the model's state_dict")


def test_the_trained_resnet(data_folder):
    state = fnn.load_state(data_folder / "models" / "resnet20-12fca82f.th")
    assert list(state)[:2] == ["conv1.weight", "bn1.weight"] and len(state) == 97
    assert state["linear.weight"].shape == (10, 64) and state["linear.weight"].dtype == np.float32
    weights = sum(a.size for name, a in state.items() if not name.endswith(("running_mean", "running_var")))
    assert weights == 269_722  # what its authors give: 0.27M


# ---- beside PyTorch ----


def test_random_states_beside_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, which writes these files, is not installed")
    rng = np.random.default_rng(0)
    dtypes = [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    for _ in range(40):
        tensors = {}
        for i in range(rng.integers(1, 5)):
            shape = tuple(int(n) for n in rng.integers(0, 5, rng.integers(0, 5)))
            tensor = (torch.from_numpy(rng.standard_normal(shape)) * 2).to(dtypes[rng.integers(len(dtypes))])
            tensors[f"t{i}"] = tensor
            if shape:
                tensors[f"p{i}"] = tensor.permute(*(int(d) for d in rng.permutation(len(shape))))
                tensors[f"s{i}"] = tensor[rng.integers(0, shape[0] + 1) :: 2]
        for zipped in (True, False):
            torch.save(tensors, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
            wide = {k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in tensors.items()}
            assert_same(fnn.load_state(tmp_path / "t.pt"), wide)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_else_checkpoints_hold_beside_torch(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch", reason="PyTorch, which writes these files, is not installed")
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "an attribute"
    content = {
        "model": {"a": torch.ones(2, 3), "b": tagged, "c": np.arange(6.0).reshape(2, 3).T, "n": np.array([True])},
        "size": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float16, "half": np.float16(3),
        "counts": collections.Counter("aab"), "lists": collections.defaultdict(list, a=[1]), "path": Path("a"),
        "plain": [1, -1, 2**40, -(2**40), 2.5, None, True, b"\xff", "ä", (1,), (1, 2, 3, 4), {1: 2}, {1}],
        "frozen": frozenset([1]),
    }  # fmt: skip
    torch.save(content, tmp_path / "t.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    ones = {"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}
    arrays = {"c": np.arange(6.0).reshape(2, 3).T, "n": np.array([True])}
    assert_same(fnn.load_state(tmp_path / "t.pt"), ones | arrays)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda torch: {"a": torch.ones(2, dtype=torch.complex64)}, "'a' has dtype complex64"),
        (lambda torch: {"a": torch.ones(2, 2).to_sparse()}, "it wants torch._utils._rebuild_sparse_tensor"),
        (lambda torch: {"a": torch.zeros(2, device="meta")}, "it wants torch._utils._rebuild_meta_tensor_no_storage"),
        (lambda torch: {"a": torch.complex(torch.ones(2), torch.ones(2)).conj().imag}, "conjugated or negated"),
        (lambda torch: torch.ones(2), "it holds one tensor, not tensors by name"),
        (lambda torch: [torch.ones(2)], "it holds a list"),
        (lambda torch: {"epoch": 3, "lr": 0.1}, "holds no tensors by name, only 'epoch', 'lr'"),
        (lambda torch: torch.nn.Linear(2, 2), "it wants torch.nn.modules.linear.Linear"),
    ],
)
def test_what_no_state_holds_beside_torch(tmp_path, make, reason, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch, which writes these files, is not installed")
    torch.save(make(torch), tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    refuse(tmp_path / "t.pt", reason)


def test_float8_is_refused_only_where_it_is_part_of_the_state(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, which writes these files, is not installed")
    tensors = {"model": {"a": torch.ones(2)}, "b": torch.ones(2).to(torch.float8_e4m3fn)}
    torch.save(tensors, tmp_path / "t.pt")
    assert_same(fnn.load_state(tmp_path / "t.pt"), {"a": np.ones(2, np.float32)})
    torch.save({"b": tensors["b"]}, tmp_path / "t.pt")
    refuse(tmp_path / "t.pt", "'b' has dtype float8_e4m3fn")


# ---- which entries are the state ----

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Float:
    """Pickled as a tensor of float32 that lies in the storage of its name."""

    def __init__(self, key="0", size=(2,), stride=(1,), offset=0, count=2):
        self.id, self.window = ("storage", _FLOATS, key, "cpu", count, None), (offset, size, stride)


class _Name:
    """Pickled as the name of something that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


_FLOATS = _Name("torch", "FloatStorage")
_REBUILD = _Name("torch._utils", "_rebuild_tensor_v2")


class _Pickler(pickle._Pickler):
    """Writes `Float` and `_Name` as PyTorch would write what they stand for."""

    def save(self, value, *args, **kwargs):
        if isinstance(value, _Name):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Float):
            self.save(_REBUILD)
            self.write(b"(")
            super().save(value.id)
            self.write(b"Q")
            for argument in (*value.window, False, {}):
                super().save(argument)
            self.write(b"tR")
        else:
            super().save(value, *args, **kwargs)


def pickled(value, protocol=2):
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return out.getvalue()


def stream(content, storages=(("0", 2),), tail=b""):
    """A checkpoint in the older form; ``content`` is a value or a pickle."""
    content = content if isinstance(content, bytes) else pickled(content)
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, INFO))
    keys = pickle.dumps([key for key, _ in storages], 2)
    data = b"".join(struct.pack("<q", n) + np.arange(n, dtype="<f4").tobytes() for _, n in storages)
    return head + content + keys + data + tail


def archive(content, storages=(("0", 2),), byteorder=b"little", method=zipfile.ZIP_STORED, **others):
    content = content if isinstance(content, bytes) else pickled(content)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("net/data.pkl", content)
        file.writestr("net/byteorder", byteorder)
        for key, count in storages:
            file.writestr(f"net/data/{key}", np.arange(count, dtype="<f4").tobytes())
        for name, data in others.items():
            file.writestr(f"net/{name}", data)
    return out.getvalue()


@pytest.fixture(params=[stream, archive], ids=["stream", "zip"])
def form(request):
    return request.param


def load(folder, content):
    (folder / "net.pt").write_bytes(content)
    return fnn.load_state(folder / "net.pt")


def refuse_content(folder, content, reason):
    (folder / "net.pt").write_bytes(content)
    refuse(folder / "net.pt", reason)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"a": Float(), "b.c": Float()}, ["a", "b.c"]),
        ({"state_dict": {"a": Float()}, "b": Float()}, ["a"]),
        ({"model": {"a": Float()}, "ema": {"b": Float()}}, ["a"]),
        ({"model_state_dict": {"a": Float()}, "model": {"b": Float()}}, ["a"]),
        ({"model": {"state_dict": {"a": Float()}}}, ["a"]),
        ({"model": {"depth": 50}, "weights": {"a": Float()}}, ["a"]),
        ({"state_dict": None, "net": {"a": Float()}}, ["a"]),
        ({"G": {"a": Float()}, "D": {"a": Float()}, "optimizer_G": {"a": Float()}, "n": 3}, ["G.a", "D.a"]),
        ({"G": {"a": Float()}, "LRScheduler": {"b": Float()}, "amp_scaler": {"c": Float()}}, ["G.a"]),
        ({"module.a": Float(), "module.b": Float()}, ["a", "b"]),
        ({"module.module.a": Float()}, ["a"]),
        ({"module.a": Float(), "head": Float()}, ["module.a", "head"]),
        ({"_orig_mod.module.a": Float()}, ["a"]),
        ({"module._orig_mod.a": Float(), "module.b._orig_mod.c": Float()}, ["a", "b.c"]),
        ({"_orig_mod.a": Float(), "a": Float()}, ["_orig_mod.a", "a"]),
        ({"a": Float(), 7: Float(), None: Float(), "epoch": 3}, ["a"]),
    ],
    ids=str,
)
def test_which_entries_are_the_state(tmp_path, form, content, names):
    assert list(load(tmp_path, form(content))) == names


def test_an_empty_state(tmp_path):
    assert load(tmp_path, archive({})) == load(tmp_path, stream({}, [])) == {}


def test_cycles_and_repeated_dicts(tmp_path, form):
    cycle = {"a": Float()}
    cycle["self"] = cycle
    cycle["other"] = {"back": cycle, "b": Float()}
    assert list(load(tmp_path, form(cycle))) == ["a", "other.b"]


def test_a_dict_of_pairs_as_python_2_wrote_it(tmp_path, form):
    content = pickled([[b"a", Float()], ["b", Float()]]).replace(b"]q\x00", b"ccollections\nOrderedDict\n]q\x00", 1)
    assert list(load(tmp_path, form(content[:-1] + b"\x85R."))) == ["a", "b"]


def test_views_of_storages_as_older_versions_wrote_them(tmp_path):
    view = Float(size=(3,), offset=1, count=8)
    view.id = (*view.id[:5], ("view", 2, 4))
    np.testing.assert_array_equal(load(tmp_path, stream({"a": view}, [("0", 8)]))["a"], np.float32([3, 4, 5]))
    view.window = (2, (3,), (1,))
    refuse_content(tmp_path, stream({"a": view}, [("0", 8)]), "'a' claims shape .* beyond the end of its storage")
    for begin, count in ((-1, 2), (7, 2), (2**70, 1)):
        view.id = (*view.id[:5], ("view", begin, count))
        refuse_content(tmp_path, stream({"a": view}, [("0", 8)]), "a view of")


def test_names_without_wrappers():
    assert without_wrappers([]) == {}
    assert without_wrappers(["module"]) == {"module": "module"}
    assert without_wrappers(["module.a", "module.module.a"]) == {"module.a": "a", "module.module.a": "module.a"}
    assert without_wrappers(["a._orig_mod.b", "a.b"]) == {"a._orig_mod.b": "a._orig_mod.b", "a.b": "a.b"}


# ---- what does not fit ----


def test_mismatches_name_what_is_missing_unexpected_and_of_another_shape():
    model = network()
    state = {f"module.{name}": array for name, array in model.state().items()}
    before = model.state()
    state["module.fc.weight"] = np.zeros((3, 2))
    state["module.fc.bias"] = state.pop("module.conv.bias")
    with pytest.raises(ValueError) as raised:
        model.load_state(state)
    assert str(raised.value) == (
        "load_state: the state does not fit the model: missing conv.bias; unexpected fc.bias; "
        "fc.weight has shape (3, 2), expected (2, 3); fc.bias may be conv.bias; rename what is the same"
    )
    assert all((before[name] == array).all() for name, array in model.state().items())


def test_long_lists_of_mismatches_are_cut():
    with pytest.raises(ValueError, match=r"unexpected x00, .*, x09, and 15 more$"):
        L.ReLU().load_state({f"x{i:02d}": np.zeros(1) for i in range(25)})


def test_a_layer_that_is_called_module_keeps_its_name():
    model = L.Sequential({"module": L.Linear(3, 2, rng=0)})
    other = L.Sequential({"module": L.Linear(3, 2, rng=1)})
    other.load_state(model.state())
    np.testing.assert_array_equal(other.params["module.weight"], model.params["module.weight"])
    other.load_state({f"module.{name}": array for name, array in model.state().items()})
    other.load_state({name.removeprefix("module."): array for name, array in model.state().items()})


# ---- files that are not to be trusted ----


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (Float(size=(3,)), r"'a' claims shape \(3\) of float32 beyond the end of its storage"),
        (Float(size=(1 << 40,)), "beyond the end"),
        (Float(size=(1 << 47, 1 << 47), stride=(1, 1)), "beyond the end"),
        (Float(size=(2, 2), stride=(1, 1)), "beyond the end"),
        (Float(offset=1), "beyond the end"),
        (Float(offset=-1), "sizes that are no sizes"),
        (Float(size=(-1,)), "sizes that are no sizes"),
        (Float(size=(2,), stride=(-1,)), "sizes that are no sizes"),
        (Float(size=(0, 1 << 50), stride=(1, 1)), "sizes that are no sizes"),
        (Float(size=(1 << 2000,)), "sizes that are no sizes: .int, 1, 0"),
        (Float(size=(True,)), "sizes that are no sizes"),
        (Float(size=("2",)), "sizes that are no sizes"),
        (Float(size=(2.0,)), "sizes that are no sizes"),
        (Float(size=(2, 1)), "2 dimensions and 1 strides"),
        (Float(size=(1,) * 40, stride=(1,) * 40), "40 dimensions"),
        (Float(size=(1 << 40,), stride=(0,)), "more than 100 times"),
        (Float(size=(1 << 20, 1 << 20), stride=(0, 0)), "more than 100 times"),
        (Float(size=2), "calls torch._utils._rebuild_tensor_v2 with other things than PyTorch does"),
        (Float(key="1"), "there is no storage '1'"),
        (Float(count=-1), "a storage of .-1. torch.FloatStorage"),
        (Float(count=1 << 70), "a storage of"),
        (Float(count=3), "claims"),
        (Float(key="../../../etc/passwd"), "there is no storage"),
    ],
)
def test_forged_tensors(tmp_path, form, tensor, reason):
    if form is stream and tensor.id[2] != "0":
        reason = "is described nowhere"  # the list of storages in the stream comes first
    refuse_content(tmp_path, form({"a": tensor}), reason)


def test_many_names_for_large_views(tmp_path, form):
    """A thousand arrays of one storage would cost a thousand times the file."""
    content = {f"a{i}": Float(size=(100_000,), count=100_000) for i in range(1000)}
    refuse_content(tmp_path, form(content, [("0", 100_000)]), "more than 100 times")


def test_booleans_that_are_none(tmp_path):
    raw = (DATA / "small.pth").read_bytes()
    at = raw.index(struct.pack("<q", 2) + b"\1\0")
    refuse_content(tmp_path, raw[: at + 8] + b"\2" + raw[at + 9 :], "'b' holds booleans that are neither 0 nor 1")


class _Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (_Call(os.mkdir, "{folder}"), "(posix|nt).mkdir"),
        (_Call(os.system, "mkdir {folder}"), "(posix|nt).system"),
        (_Call(eval, "__import__('os').mkdir('{folder}')"), "(builtins|__builtin__).eval"),
        (_Call(exec, "import os; os.mkdir('{folder}')"), "(builtins|__builtin__).exec"),
        (_Call(getattr, {}, "clear"), "(builtins|__builtin__).getattr"),
        (_Call(pickle.loads, b"cos\nsystem\n."), r"(pickle|_pickle|cPickle).loads"),
        (_Call(__import__, "this"), "(builtins|__builtin__).__import__"),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_runs(tmp_path, form, call, name, protocol):
    made = tmp_path / "made"
    function, arguments = call.call
    filled = _Call(function, *(a.format(folder=made) if isinstance(a, str) else a for a in arguments))
    for value in ({"a": Float(), "b": filled}, filled, {"state_dict": {"a": Float()}, "optimizer": [filled]}):
        refuse_content(tmp_path, form(pickled(value, protocol)), f"it wants {name}, ")
        assert not made.exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b".", "takes more values than there are"),
        (b"(.", "takes more values than there are"),
        (b"N(q\x00.", "takes more values than there are"),
        (b"t.", "a mark that is not there"),
        (b"]u.", "a mark that is not there"),
        (b"](Nu.", "a key without a value"),
        (b"}Na.", "appends to dict"),
        (b"]NNs.", "sets entries of list"),
        (b"]Nb.", "sets attributes of list"),
        (b"N)R.", "calls NoneType"),
        (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"ccollections\nOrderedDict\nNR.", "calls collections.OrderedDict"),
        (b"ccollections\nOrderedDict\n]Na\x85R.", "with other things than pairs"),
        (b"ctorch\nSize\n)R.", "calls torch.Size with other things"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "_rebuild_tensor_v2 with other things"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(NNNNNNNtR.", "_rebuild_tensor_v3 with other things"),
        (b"ctorch._utils\n_rebuild_parameter\n(N\x88}tR.", "_rebuild_parameter with other things"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(2ctorch\nTensor\n)}tR.", "takes more values"),
        (
            b"(ctorch._tensor\n_rebuild_from_type_v2\nq\x000h\x00(h\x00ctorch\nTensor\n)}tR.",
            "calls torch._tensor._rebuild_from_type_v2 for itself",
        ),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nTensor\nctorch\nTensor\n)}tR.", "calls torch.Tensor"),
        (b"h\x00.", "repeats a value that was not there"),
        (b"j\xff\xff\xff\xff.", "repeats a value that was not there"),
        (b"NQ.", "refers to something that is no storage"),
        (b"U\x07storage\x85Q.", "a storage with other things"),
        (b"(U\x07storageNNNNtQ.", "a storage with other things"),
        (b"(U\x06moduleNNNtQ.", "refers to something that is no storage"),
        (b"(U\x07storagectorch\nfloat32\nU\x010U\x03cpuK\x02tQ.", r"a storage of \(2\) torch.float32"),
        (b"cos\nsystem\n.", "it wants os.system"),
        (b"c\x1b[31m\n\n.", r"it wants \\x1b\[31m\."),
        (b"c" + b"a" * 5000 + b"\nb\n.", "more characters than a name has"),
        (b"cos\nsystem", "is cut"),
        (b"c\xff\xff\nb\n.", "utf-8"),
        (b"U\x02osU\x06system\x93.", "it wants os.system"),
        (b"NN\x93.", "it wants None.None"),
        (b"X\x01\x00\x00\x00\xff.", "utf-8"),
        (b"I1\n.", "the instruction INT"),
        (b"\x8b\x01\x00\x00\x00\x01.", "the instruction LONG4"),
        (b"\x97.", "the instruction NEXT_BUFFER"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"(ios\nsystem\n.", "the instruction INST"),
        (b"(cos\nsystem\no.", "it wants os.system"),
        (b"Pa\n.", "the instruction PERSID"),
        (b"\xff.", "the instruction 0xff, which there is not"),
    ],
)
def test_forged_pickles(tmp_path, form, body, reason):
    refuse_content(tmp_path, form(body), reason)


@pytest.mark.parametrize(
    "body", [b"", b"\x80", b"\x80\x02", b"\x80\x02}", b"X\x05\x00\x00\x00abc", b"ctorch\n", b"J\x00"]
)
def test_cut_pickles(tmp_path, body):
    refuse_content(tmp_path, archive(body), "its pickle is cut")
    refuse_content(tmp_path, stream({"a": Float()}).split(b"}", 2)[0] + body, "its pickle is cut")


def bombs():
    """Pickles of at most some megabytes that would cost more memory or time than the machine has."""
    far = struct.pack("<I", 0xFFFFFFFF)
    long = struct.pack("<Q", 1 << 60)
    text = b"X" + struct.pack("<I", 4 << 20) + b"a" * (4 << 20) + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01"
    pairs = b"ccollections\nOrderedDict\nq\x01](" + b"U\x01aN\x86" * 100_000 + b"e\x85q\x00"
    doubling = b"}q\x00" + b"".join(b"}q\x01(U\x01ah\x00U\x01bh\x00uq\x00" for _ in range(10_000))
    return {
        "string": b"X" + far + b"a.",
        "string of 64 bits": b"\x8d" + long + b"a.",
        "bytes": b"B" + far + b"a.",
        "bytes of 64 bits": b"\x8e" + long + b"a.",
        "bytearray": b"\x96" + long + b"a.",
        "byte string": b"T" + far + b"a.",
        "place in the memo": b"}r" + far + b".",
        "frame": b"\x95" + long + b"}.",
        "dicts": b"}" * (MAX_STEPS + 1) + b".",
        "dicts in the memo": b"}\x94" * MAX_STEPS + b".",
        "ignored values": b"\x8f\x94" * MAX_STEPS + b".",
        "marks": b"(" * (MAX_STEPS + 1) + b".",
        "deep lists": b"]" * 400_000 + b"a" * 399_999 + b".",
        "deep tuples": b")" + b"\x85" * 900_000 + b".",
        "tuples of themselves": b")" + b"2\x86" * 400_000 + b".",
        "tuples of themselves as keys": b"}" + b")" + b"2\x86" * 1000 + b"Ns.",
        "lists of themselves": b"](" + b"]q\x00h\x00ah\x00h\x00" * 100_000 + b"e.",
        "text encoded again and again": encode + b"0" + text + b"0" + b"h\x01h\x00\x85R" * 200_000 + b".",
        "dicts of one list again and again": pairs + b"0" + b"h\x01h\x00R" * 200_000 + b".",
        "dicts of dicts of dicts": doubling + b"h\x00.",
        "tensors of one long shape": b"ctorch._utils\n_rebuild_tensor_v2\nq\x00("
        + b"K\x01" * 100_000
        + b"tq\x01"
        + b"0h\x00((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQK\x00h\x01h\x01\x89}tR" * 1000
        + b".",
        "long names": b"}q\x00" + b"}q\x01(U\x01bh\x00uX" + struct.pack("<I", 1 << 20) + b"k" * (1 << 20) + b"h\x01s.",
        "numbers": b"](" + b"\x8a\xff" + b"\x7f" * 255 + b"e.",
        "longer than a pickle may be": b"X" + struct.pack("<I", MAX_BYTES) + b"a" * MAX_BYTES + b".",
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on memory are a matter of POSIX")
def test_bombs_cost_little(tmp_path):
    """All of them, in a process that may have 300 MB more than after its imports, and a minute."""
    for name, body in bombs().items():
        (tmp_path / f"{name}.pth").write_bytes(stream(body, []))
    with zipfile.ZipFile(tmp_path / "unfolding.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(400 << 20))
    np.savez(tmp_path / "claiming.npz", a=np.zeros(3))
    claiming = (tmp_path / "claiming.npz").read_bytes().replace(b"(3,), }          ", b"(1099511627776,), }")
    (tmp_path / "claiming.npz").write_bytes(claiming)
    claim = b'{"a":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,1099511627776]}}'
    (tmp_path / "claiming.safetensors").write_bytes(struct.pack("<Q", len(claim)) + claim)
    for name in ("dicts", "longer than a pickle may be"):
        (tmp_path / f"{name}.pt").write_bytes(archive(bombs()[name], method=zipfile.ZIP_DEFLATED))
    code = (
        "import pathlib, resource, sys, fastnn as fnn\n"
        "import safetensors.numpy\n"
        "fnn.load_state(sys.argv[2])\n"
        "used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try:\n        print(path.name, 'loaded', list(fnn.load_state(path)))\n"
        "    except fnn.errors.FileFormatError as error:\n        print(path.name, 'refused', str(error)[-90:])\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("how much memory a process has is read from /proc, which is not here")
    pytest.importorskip("safetensors", reason="its files are among those that are refused")
    command = [sys.executable, "-P", "-c", code, tmp_path, DATA / "small.pt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    lines = done.stdout.splitlines()
    assert len(lines) == 5 + len(bombs())
    assert all(" refused " in line or line.endswith(" loaded []") for line in lines), done.stdout


def test_compressed_checkpoints_are_read_and_bounded(tmp_path):
    content = archive({"a": Float(size=(1000,), count=1000)}, [("0", 1000)], method=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(load(tmp_path, content)["a"], np.arange(1000, dtype=np.float32))
    content = archive({"a": Float()}, others=bytes(70 << 20), method=zipfile.ZIP_DEFLATED)
    refuse_content(tmp_path, content, "more than 100 times")
    content = archive({"a": Float()}, method=zipfile.ZIP_BZIP2)
    refuse_content(tmp_path, content, "compressed by a method")


def test_archives_that_are_no_checkpoints(tmp_path):
    refuse_content(tmp_path, archive({"a": Float()}, byteorder=b"middle"), "neither little nor big")
    refuse_content(tmp_path, archive({"a": Float()}, **{"constants.pkl": b""}), "TorchScript")
    refuse_content(
        tmp_path, archive({"a": Float(count=2)}, [("0", 3)]), "storage '0' has 12 bytes and claims to hold 2"
    )
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    refuse_content(tmp_path, out.getvalue(), "there is no data.pkl")
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", pickled({}))
        file.writestr("b/data.pkl", pickled({}))
    refuse_content(tmp_path, out.getvalue(), "there is no data.pkl in its only folder")


def test_members_that_overlap(tmp_path):
    raw = archive({"a": Float("0"), "b": Float("1")}, [("0", 2), ("1", 2)])
    directory = raw.index(b"PK\x01\x02")
    entry = raw.index(b"net/data/1", directory) - 46
    moved = bytearray(raw)
    moved[entry + 42 : entry + 46] = struct.pack("<I", raw.index(b"net/data/0") - 30 + 10)
    refuse_content(tmp_path, bytes(moved), "overlaps what comes after it")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"<html>not found</html>", "not a PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": [1.0]}), "not a PyTorch checkpoint"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2), r"a stream of version \(1002\); this reads version 1001"),
        (pickle.dumps(MAGIC, 2), "is cut"),
        (b"storages".ljust(257, b"\0") + b"ustar".ljust(400, b"\0"), "a tar archive"),
        (stream({"a": Float()}, tail=b"\0"), "1 bytes come after its last storage"),
        (stream({"a": Float()})[:-1], "storage '0' is cut"),
        (stream({"a": Float()})[:-9], "claims 2"),
        (stream({"a": Float()}, [("0", 2), ("0", 2)]), "storage '0' is there twice"),
        (stream({"a": Float()}, [("0", 2), ("9", 2)]), "storage '9' is described nowhere"),
        (stream({"a": Float()}, []), "."),
        (stream({"a": Float(), "b": Float(count=1)}), "storage '0' is described in two ways"),
    ],
)
def test_streams_that_are_no_checkpoints(tmp_path, content, reason):
    refuse_content(tmp_path, content, reason)


def test_forged_numpy_arrays(tmp_path, form):
    def array(shape, code="f4", data=b"12345678"):
        body = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        body += pickled(shape)[2:-1] + b"cnumpy\ndtype\nU" + bytes([len(code)]) + code.encode() + b"K\x00K\x01\x87R"
        body += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C" + bytes([len(data)]) + data + b"tb"
        return b"}U\x01a" + body + b"s."

    np.testing.assert_array_equal(load(tmp_path, form(array((2,)), []))["a"], np.frombuffer(b"12345678", "<f4"))
    for bad, reason in (
        (array((3,)), r"'a' claims shape \(3\) of f4 but holds 8 bytes"),
        (array((1 << 40, 1 << 40)), "claims shape"),
        (array((-1, -2)), "a shape that is none"),
        (array([2]), "a shape that is none"),
        (array((1,) * 40), "a shape that is none"),
        (array((1,), "O8"), "no plain numbers"),
        (array((1,), "c8"), "no plain numbers"),
        (array((2,), "f9"), "no plain numbers"),
        (array((8,), "b1"), "neither 0 nor 1"),
        (b"}U\x01acnumpy.core.multiarray\n_reconstruct\n)Rs.", "no plain numbers"),
        (b"}U\x01acnumpy.core.multiarray\n_reconstruct\n)R)bs.", "no plain numbers"),
    ):
        refuse_content(tmp_path, form(bad, []), reason)


# ---- any pickle at all ----


def run(content):
    return Unpickler(io.BytesIO(content), len(content), {}, lambda identifier: None, lambda value, state: None).load()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=20,
)


def as_read(value):
    """What becomes of a plain value: bytes are str, sets are ignored."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_read, value))
    if isinstance(value, dict):
        return {key: as_read(item) for key, item in value.items()}
    return "ignored" if isinstance(value, (set, Ignored)) else value


@shared_folder
@given(plain, st.sampled_from([4, 5]))
def test_plain_values_are_read_as_python_reads_them(value, protocol):
    assert as_read(run(pickle.dumps(value, protocol))) == as_read(value)


FRAGMENTS = [
    *(bytes([code]) for code in b".N()t\x85\x86\x87]ae}su012R\x81bQ\x88\x89\x8f\x90\x93\x94"),
    *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"K\x00", b"K\x02", b"J\xff\xff\xff\xff", b"U\x010", b"U\x07storage"),
    *(
        b"U\x03cpu",
        b"X\x01\x00\x00\x00a",
        b"G?\xf0\x00\x00\x00\x00\x00\x00",
        b"\x8a\x01\xff",
        b"ctorch\nFloatStorage\n",
    ),
    *(b"ctorch\nTensor\n", b"ctorch\nSize\n", b"ctorch\nbfloat16\n", b"ccollections\nOrderedDict\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n"),
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"c_codecs\nencode\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"cargparse\nNamespace\n", b"cos\nsystem\n"),
    b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02NtQ",
    b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02NtQK\x00K\x02\x85K\x01\x85\x89}tR",
]


@pytest.mark.parametrize("make", [stream, archive], ids=["stream", "zip"])
@settings(shared_folder, max_examples=600)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_spliced_pickles(tmp_path, make, parts):
    path = tmp_path / "spliced.pt"
    path.write_bytes(make(b"".join(parts) + b"."))
    load_or_refuse(path)


@pytest.mark.parametrize("name", ["all.pt", "all.pth", "training.pt", "training.pth"])
@settings(shared_folder, max_examples=300)
@given(st.data())
def test_damaged_pickles(tmp_path, name, data):
    """Pieces taken out of the pickle, put in elsewhere, or replaced; in an archive the sums are put right."""
    whole = (DATA / name).read_bytes()
    if name.endswith(".pt"):
        with zipfile.ZipFile(io.BytesIO(whole)) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
        pickle_name = next(member for member in members if member.endswith("data.pkl"))
        content, begin = bytearray(members[pickle_name]), 0
    else:
        content, begin = bytearray(whole), 120  # beyond the magic number and what describes the machine
    end = len(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at, other = data.draw(st.integers(begin, end - 1)), data.draw(st.integers(begin, end - 1))
        length = data.draw(st.integers(0, 40))
        piece = data.draw(st.sampled_from([bytes(content[other : other + length]), b"", b"\xff", b"\x00", *FRAGMENTS]))
        content[at : at + data.draw(st.integers(0, 20))] = piece
        end = max(len(content), begin + 1)
    path = tmp_path / f"damaged-{name}"
    if name.endswith(".pt"):
        with zipfile.ZipFile(path, "w") as file:
            for member, value in members.items():
                file.writestr(member, bytes(content) if member == pickle_name else value)
    else:
        path.write_bytes(content)
    load_or_refuse(path)


def test_reading_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fastnn as fnn, pickle; pickle.Unpickler = pickle.loads = pickle.load = None\n"
        "print(len(fnn.load_state(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, DATA / "all.pth"], capture_output=True, text=True)
    assert done.stdout.strip() == str(len(expected("expected.npz")) - 1), done.stderr


def test_a_file_that_is_shorter_than_it_was(tmp_path, monkeypatch):
    """Cut between the check and the reading."""
    path = tmp_path / "net.pth"
    path.write_bytes((DATA / "small.pth").read_bytes())
    size = path.stat().st_size
    real = os.fstat

    def before(descriptor):
        status = real(descriptor)
        os.truncate(path, size - 30)
        return status

    monkeypatch.setattr(os, "fstat", before)
    with pytest.raises(FileFormatError, match=r"cut|claims"):
        fnn.load_state(path)

"""Files of weights: what goes in comes out, saves are whole or nothing, and forged files are refused cheaply."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastnn as fnn
from fastnn import layers as L
from fastnn.errors import FileFormatError, MissingDependencyError
from fastnn.io.atomic import replacing
from fastnn.io.dtypes import DTYPES

SUFFIXES = (".npz", ".safetensors")
each_format = pytest.mark.parametrize("suffix", SUFFIXES)
# tmp_path is shared by the examples of one test; each writes its file anew.
shared_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200, derandomize=True
)


def state():
    rng = np.random.default_rng(0)
    return {
        "0.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "0.bias": np.zeros(4),
        "1.num_batches": np.array(7),
        "empty": np.zeros((0, 3), np.float16),
        "Gewicht/ü.npy": np.array([True, False]),
    }


def assert_equal_states(loaded, expected):
    assert set(loaded) == set(expected)
    for name, array in expected.items():
        got = loaded[name]
        assert got.dtype == np.asarray(array).dtype.newbyteorder("=")
        assert got.flags.writeable
        np.testing.assert_array_equal(got, array, strict=True)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- round trips ----


@each_format
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    fnn.save_state(path, state())
    assert_equal_states(fnn.load_state(path), state())
    assert_equal_states(fnn.load_state(str(path)), state())
    assert entries(tmp_path) == [path.name]


@each_format
@settings(shared_folder, max_examples=60)  # each waits for the disk
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
            lambda name: name != "__metadata__"
        ),
        hnp.arrays(st.sampled_from(sorted(DTYPES, key=str)), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)),
        max_size=3,
    )
)
def test_round_trip_of_anything(tmp_path, suffix, arrays):
    path = tmp_path / f"any{suffix}"
    fnn.save_state(path, arrays)
    assert_equal_states(fnn.load_state(path), arrays)


@each_format
def test_any_layout(tmp_path, suffix):
    base = np.arange(24.0).reshape(2, 3, 4)
    arrays = {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[:, ::2, ::-1],
        "swapped": base.astype(">f8"),
        "read-only": np.broadcast_to(np.float32(2), (3, 2)),
        "list": [1.5, 2.5],
        "scalar": 3.5,
    }
    path = tmp_path / f"net{suffix}"
    fnn.save_state(path, arrays)
    loaded = fnn.load_state(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype.isnative


@each_format
def test_equal_states_give_equal_files(tmp_path, suffix):
    fnn.save_state(tmp_path / f"a{suffix}", state())
    fnn.save_state(tmp_path / f"b{suffix}", state())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_numpy_reads_and_writes_the_same_npz(tmp_path):
    path = tmp_path / "net.npz"
    fnn.save_state(path, state())
    with np.load(path, allow_pickle=False) as file:
        assert_equal_states(dict(file), state())
    np.savez(path, **state())
    assert_equal_states(fnn.load_state(path), state())
    np.savez_compressed(path, **state())
    assert_equal_states(fnn.load_state(path), state())


def test_safetensors_reads_and_writes_the_same(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="the format's own package is the oracle here")
    path = tmp_path / "net.safetensors"
    fnn.save_state(path, state())
    assert_equal_states({name: array.copy() for name, array in numpy.load_file(path).items()}, state())
    numpy.save_file(state(), path, metadata={"format": "np"})
    assert_equal_states(fnn.load_state(path), state())


def test_a_suffix_may_be_upper_case(tmp_path):
    fnn.save_state(tmp_path / "NET.NPZ", state())
    assert_equal_states(fnn.load_state(tmp_path / "NET.NPZ"), state())


def test_model_state_goes_through_a_file(tmp_path):
    rng = np.random.default_rng(1)
    make = fnn.layers.Sequential
    model = make(fnn.layers.Linear(4, 3, rng=0), fnn.layers.ReLU(), fnn.layers.Linear(3, 2, rng=1))
    other = make(fnn.layers.Linear(4, 3, rng=2), fnn.layers.ReLU(), fnn.layers.Linear(3, 2, rng=3))
    x = rng.standard_normal((5, 4)).astype(np.float32)
    assert (model(x) != other(x)).any()
    fnn.save_state(tmp_path / "net.npz", model.state())
    other.load_state(fnn.load_state(tmp_path / "net.npz"))
    np.testing.assert_array_equal(model(x), other(x))


# ---- what is not saved ----


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0], TypeError, "dict of arrays by name, got list"),
        ({1: np.zeros(2)}, TypeError, "names must be strings, got 1"),
        ({"a": np.zeros(2, complex)}, TypeError, "'a' has dtype complex128"),
        ({"a": np.array([None])}, TypeError, "'a' has dtype object"),
        ({"a": "text"}, TypeError, "'a' has dtype <U4"),
        ({"a": np.zeros(2, "f4,i4")}, TypeError, "'a' has dtype"),
        ({"a": np.zeros(2, "M8[s]")}, TypeError, "'a' has dtype"),
        ({"a": np.zeros(2, np.longdouble)}, TypeError, "'a' has dtype"),
        ({"": np.zeros(2)}, ValueError, "cannot be the name"),
        ({"a\0b": np.zeros(2)}, ValueError, "cannot be the name"),
        ({"\ud800": np.zeros(2)}, ValueError, "cannot be the name"),
        ({"a" * 70_000: np.zeros(2)}, ValueError, "cannot be the name"),
        ({"__metadata__": np.zeros(2)}, ValueError, "cannot be the name"),
    ],
)
@each_format
def test_refuses_states(tmp_path, suffix, value, error, message):
    path = tmp_path / f"net{suffix}"
    fnn.save_state(path, state())
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        fnn.save_state(path, value)
    assert path.read_bytes() == before
    assert entries(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["net", "net.npz.gz", ".npz"])
def test_refuses_suffixes(tmp_path, name):
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors, got"):
        fnn.save_state(tmp_path / name, state())
    with pytest.raises(ValueError, match=r"ends in \.npz, \.safetensors, \.pt, .* or \.tar, got"):
        fnn.load_state(tmp_path / name)
    assert entries(tmp_path) == []


def test_does_not_save_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors, got"):
        fnn.save_state(tmp_path / "net.pt", state())
    assert entries(tmp_path) == []


def test_names_the_missing_package(tmp_path, monkeypatch):
    fnn.save_state(tmp_path / "net.safetensors", state())
    before = (tmp_path / "net.safetensors").read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda path: fnn.save_state(path, {}), fnn.load_state):
        with pytest.raises(MissingDependencyError, match=r"pip install 'fastnn\[safetensors\]'"):
            call(tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_imports_safetensors_only_when_used():
    code = "import sys, fastnn.io; print('safetensors' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- whole or nothing, and on the disk ----


@each_format
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch, suffix, call, exists):
    path = tmp_path / f"net{suffix}"
    if exists:
        fnn.save_state(path, {"a": np.ones(3)})

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, call, fail)
        fnn.save_state(path, state())
    assert entries(tmp_path) == ([path.name] if exists else [])
    if exists:
        assert_equal_states(fnn.load_state(path), {"a": np.ones(3)})


@each_format
@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are a matter of POSIX")
def test_full_disk_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    fnn.save_state(path, {"a": np.ones(3)})
    code = (
        "import resource, sys, numpy as np, fastnn as fnn\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    fnn.save_state(sys.argv[1], {'a': np.zeros(100_000)})\n"
        "except OSError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, path], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert entries(tmp_path) == [path.name]
    assert_equal_states(fnn.load_state(path), {"a": np.ones(3)})


def test_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["a"]


def test_order_of_syncs(tmp_path, monkeypatch):
    """The content is on the disk before it gets its name, and the name after."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def spy_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    path = tmp_path / "net.npz"
    fnn.save_state(path, state())
    assert calls == [path.stat().st_size, "replace", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are a matter of POSIX")
@each_format
def test_permissions(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    before = os.umask(0o027)
    try:
        fnn.save_state(path, state())
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)  # a file that was made private stays private
        fnn.save_state(path, state())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="links and devices are a matter of POSIX")
def test_links_and_what_is_no_file(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "net.npz"
    link.symlink_to(tmp_path / "real" / "weights.npz")
    fnn.save_state(link, {"a": np.ones(2)})
    assert link.is_symlink()
    assert entries(tmp_path / "real") == ["weights.npz"]
    assert_equal_states(fnn.load_state(link), {"a": np.ones(2)})

    null = tmp_path / "null.npz"
    null.symlink_to(os.devnull)
    with pytest.raises(OSError, match="not a regular file"):
        fnn.save_state(null, {})
    with pytest.raises(FileFormatError, match="not a regular file"):
        fnn.load_state(null)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        fnn.save_state(tmp_path / "folder.npz", {})
    with pytest.raises(FileFormatError, match="not a regular file"):
        fnn.load_state(tmp_path / "folder.npz")
    with pytest.raises(FileNotFoundError):
        fnn.load_state(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        fnn.save_state(tmp_path / "none" / "net.npz", {})


def test_write_protected_files_stay(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    fnn.save_state(path, {"a": np.ones(2)})
    path.chmod(0o400)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs this may be allowed everything
    with pytest.raises(PermissionError, match="write-protected"):
        fnn.save_state(path, {})
    assert entries(tmp_path) == [path.name]
    assert_equal_states(fnn.load_state(path), {"a": np.ones(2)})


# ---- files that are not to be trusted ----

_MEMORY = 64 << 20  # what a refusal may allocate at most; every forged file below claims far more


def refuse(path, reason):
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=reason) as raised:
            fnn.load_state(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{path}: ")
    assert peak < _MEMORY, f"refusing took {peak} bytes"


def npy(header, data=b"", version=(1, 0), length=None):
    text = header.encode() if isinstance(header, str) else header
    width = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(width, len(text) if length is None else length) + text + data


def header_of(shape, descr="'<f4'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (npy(header_of("(1099511627776,)")), r"claims shape \(1099511627776,\) of float32 .* but holds 0 bytes"),
        (npy(header_of("(4, 2)"), bytes(16)), r"claims shape \(4, 2\) .*\(32 bytes\) but holds 16 bytes"),
        (npy(header_of("(2,)"), bytes(16)), "but holds 16 bytes"),
        (npy(header_of("(9223372036854775807, 9223372036854775807)")), "claims shape"),
        (npy(header_of("(0, 9223372036854775807)")), "."),
        (npy(header_of("(" + "1, " * 100 + ")"), bytes(4)), "."),
        (npy(header_of("(" + "9" * 5000 + ",)")), "."),
        (npy(header_of("(-1,)")), "damaged"),
        (npy(header_of("(1,)", "'|O'"), bytes(8)), "no plain numbers"),
        (npy(header_of("(1,)", "'<c8'"), bytes(8)), "dtype '<c8'"),
        (npy(header_of("(1,)", "'<f3'"), bytes(3)), "dtype '<f3'"),
        (npy(header_of("(1,)", "[('a', '<f4')]"), bytes(4)), "no plain numbers"),
        (npy(header_of("(1,)", "'<U1'"), bytes(4)), "no plain numbers"),
        (npy(header_of("True"), bytes(4)), "damaged"),
        (npy(header_of("(1,)", order="0"), bytes(4)), "damaged"),
        (npy("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", bytes(4)), "damaged"),
        (npy("__import__('os')"), "damaged"),
        (npy("(" * 9000), "damaged"),
        (npy("", version=(2, 0), length=1 << 31), "header of 2147483648 bytes"),
        (npy(header_of("(1,)"), version=(9, 0)), "is no .npy array"),
        (npy(header_of("(3,)", "'|b1'"), b"\0\1\2"), "neither 0 nor 1"),
        (b"", "is no .npy array"),
        (b"\x93NUMPY", "is no .npy array"),
        (b"\x80\x04\x95 pickled, perhaps", "is no .npy array"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_forged_npy_members(tmp_path, member, reason, method):
    archive(tmp_path / "net.npz", [("a.npy", member)], method)
    refuse(tmp_path / "net.npz", reason)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "header",
    [
        header_of("(2, 3)"),
        '{"shape":(2,3),"fortran_order":False,"descr":"<f4"}',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }      \n",
    ],
)
def test_what_other_writers_write(tmp_path, header, version):
    data = np.arange(6, dtype="<f4")
    archive(tmp_path / "net.npz", [("a.npy", npy(header, data.tobytes(), version))])
    np.testing.assert_array_equal(fnn.load_state(tmp_path / "net.npz")["a"], data.reshape(2, 3), strict=True)


def test_refuses_pickles(tmp_path):
    np.savez(tmp_path / "net.npz", a=np.array([{}, None], object))
    refuse(tmp_path / "net.npz", "no plain numbers")


def test_zip_bombs(tmp_path):
    path = tmp_path / "net.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open("a.npy", "w") as member:
        member.write(npy(header_of(f"({64 << 20},)")))
        for _ in range(256):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 2 << 20
    refuse(path, "more than 100 times")


def test_members_that_share_their_data(tmp_path):
    """Stored members laid over each other would cost more memory than the file has bytes."""
    path = tmp_path / "net.npz"
    content = npy(header_of("(1000000,)"), bytes(4_000_000))
    archive(path, [("0000.npy", content)])
    raw = path.read_bytes()
    directory, end = raw.rindex(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    entry, tail = raw[directory:end], bytearray(raw[end:])
    entries = b"".join(entry.replace(b"0000.npy", b"%04d.npy" % i) for i in range(500))
    struct.pack_into("<HHI", tail, 8, 500, 500, len(entries))
    path.write_bytes(raw[:directory] + entries + tail)
    refuse(path, "its members claim 20000")


def test_foreign_archives(tmp_path):
    path = tmp_path / "net.npz"
    archive(path, [("readme.txt", b"hello")])
    refuse(path, "'readme.txt' is no .npy array")
    good = npy(header_of("(1,)"), bytes(4))
    archive(path, [("a.npy", good)], zipfile.ZIP_BZIP2)
    refuse(path, "compressed by a method")
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, [("a.npy", good), ("a.npy", good)])
    refuse(path, "two members")
    archive(path, [("a.npy", good)])
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    refuse(path, "encrypted")


def test_a_flipped_bit_of_data_is_noticed_by_npz(tmp_path):
    path = tmp_path / "net.npz"
    fnn.save_state(path, {"a": np.ones(1000)})
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    refuse(path, "member 'a.npy' is damaged: its sum")


def st_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, dtype="F32", offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a whole"),
        (b"abc", "not a whole"),
        (b"PK\x03\x04" + bytes(60), "not a whole"),
        (b"\xff" * 8 + b"{}", "not a whole"),
        (st_bytes(entry([1]), b"1234", length=1 << 40), "not a whole"),
        (st_bytes(entry([1 << 40]), b"1234"), "not a whole"),
        (st_bytes(entry([1 << 62, 8]), b"1234"), "not a whole"),
        (st_bytes(entry([1 << 38], offsets=(0, 1 << 40)), b"1234"), "not a whole"),
        (st_bytes(entry([1]), b"12"), "not a whole"),
        (st_bytes(entry([1]), b"12345"), "not a whole"),
        (st_bytes(b"{]", b"1234"), "not a whole"),
        (st_bytes(b"[" * 5000, b"1234"), "not a whole"),
        (st_bytes(entry([1] * 100), b"1234"), "."),
        (st_bytes(entry([1], "C64", (0, 8)), b"12345678"), "dtype C64"),
        (st_bytes(entry([4], "F8_E4M3"), b"1234"), "dtype F8_E4M3"),
        (st_bytes(entry([4], "BOOL"), b"\0\1\2\3"), "neither 0 nor 1"),
        (st_bytes(entry([1], "STRING"), b"1234"), "not a whole"),
    ],
)
def test_forged_safetensors(tmp_path, content, reason):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    refuse(path, reason)


def test_bfloat16_becomes_float32(tmp_path):
    path = tmp_path / "net.safetensors"
    values = np.array([[1.0, -2.5], [np.inf, 2.0**-120]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    path.write_bytes(st_bytes(entry([2, 2], "BF16", (0, 8)), upper.tobytes()))
    np.testing.assert_array_equal(fnn.load_state(path)["a"], values, strict=True)


def saved(suffix, compressed=False):
    """The bytes of a small file."""
    arrays = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([True, False]), "n": np.array(3)}
    if suffix == ".npz":
        file = io.BytesIO()
        (np.savez_compressed if compressed else np.savez)(file, **arrays)
        return file.getvalue()
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors files need its package")
    return numpy.save(arrays)


CHECKPOINTS = Path(__file__).parent / "data"
FILES = {
    ".npz": saved(".npz"),
    ".npz, compressed": saved(".npz", True),
    ".safetensors": saved(".safetensors"),
    ".pt": (CHECKPOINTS / "small.pt").read_bytes(),
    ".pth": (CHECKPOINTS / "small.pth").read_bytes(),
}


def load_or_refuse(path):
    """A damaged file loads (where the damage did not matter or cannot be seen) or is refused; nothing else."""
    try:
        loaded = fnn.load_state(path)
    except FileFormatError as error:
        assert str(error).startswith(str(path))
        return None
    assert sum(array.nbytes for array in loaded.values()) <= 100 * len(path.read_bytes())
    assert all(array.dtype in DTYPES for array in loaded.values())
    return loaded


@pytest.mark.parametrize("kind", FILES)
def test_every_cut_is_refused(tmp_path, kind):
    path = tmp_path / f"cut{kind.split(',')[0]}"
    whole = FILES[kind]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert load_or_refuse(path) is None, length


@pytest.mark.parametrize("kind", FILES)
@settings(shared_folder, max_examples=600)
@given(st.data())
def test_flipped_bytes(tmp_path, kind, data):
    raw = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"flipped{kind.split(',')[0]}"
    path.write_bytes(raw)
    load_or_refuse(path)


@pytest.mark.parametrize("kind", FILES)
def test_every_byte_set_to_extremes(tmp_path, kind):
    path = tmp_path / f"flipped{kind.split(',')[0]}"
    for position in range(len(FILES[kind])):
        for value in (0x00, 0xFF):
            raw = bytearray(FILES[kind])
            raw[position] = value
            path.write_bytes(raw)
            load_or_refuse(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pt"])
@settings(shared_folder, max_examples=100)
@given(st.binary(max_size=300))
def test_noise(tmp_path, suffix, noise):
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(noise)
    assert not load_or_refuse(path)


@settings(shared_folder, max_examples=100)
@given(st.text(max_size=200))
def test_noise_as_npy_header(tmp_path, header):
    path = tmp_path / "noise.npz"
    archive(path, [("a.npy", npy(header.encode("utf-8", "replace"), bytes(8)))])
    assert load_or_refuse(path) is None


def test_a_damaged_compressed_stream_is_refused(tmp_path):
    path = tmp_path / "net.npz"
    content = npy(header_of("(1000,)"), np.arange(1000, dtype="<f4").tobytes())
    archive(path, [("a.npy", content)], zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    raw[200:220] = bytes(20)  # the stream begins after a local header of 35 bytes and is a few thousand long
    path.write_bytes(raw)
    refuse(path, "not a whole .npz file")


def test_an_array_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as file:
        array = io.BytesIO()
        np.save(array, np.zeros(2))
        file.writestr(".npy", array.getvalue())
    with pytest.raises(FileFormatError, match="has no name"):
        fnn.load_state(tmp_path / "net.npz")


def test_safetensors_that_name_an_array_twice_are_refused(tmp_path):
    """Of two entries of one name that lie in the same place, the package keeps one without a word."""
    pytest.importorskip("safetensors", reason="the format needs it")
    entry = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    for names, match in (((entry, entry), "two entries are called 'a'"), ((entry.replace(b'"a"', b'""'),), "no name")):
        header = b"{" + b",".join(names) + b"}"
        (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        with pytest.raises(FileFormatError, match=match):
            fnn.load_state(tmp_path / "net.safetensors")


def test_a_state_by_other_names_is_told_which_they_may_be():
    """Of the same shape, and the nearest in name where there are several; 2-d weights also the other way round."""
    model = L.Sequential({"body": L.Sequential(L.Linear(3, 4), L.Linear(4, 4)), "head": L.Linear(4, 2)})
    state = model.state()
    names = {"body.0.weight": "onnx::Conv_17", "body.1.weight": "backbone.1.weight", "head.bias": "classifier.bias"}
    renamed = {names.get(name, name): array for name, array in state.items()}
    with pytest.raises(ValueError, match=r"missing body\.0.weight, body.1.weight, head.bias; unexpected") as caught:
        model.load_state(renamed)
    for name, other in names.items():
        assert f"{other} may be {name}" in str(caught.value)
    flipped = {("fc" if name == "head.weight" else name): array for name, array in state.items()}
    flipped["fc"] = flipped["fc"].T
    with pytest.raises(ValueError, match=r"fc may be head\.weight, transposed; rename what is the same"):
        model.load_state(flipped)
    with pytest.raises(ValueError, match=r"unexpected other$"):  # of no shape that is missing
        model.load_state({**state, "other": np.zeros((7, 7))})
    folded = L.Sequential({"conv": L.Conv2d(3, 4, 3)})
    norm = {f"bn.{name}": np.ones(4) for name in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(
        ValueError, match=r"bn\.weight; the model has no such batch norms: from an ONNX file they come fold"
    ):
        folded.load_state({**folded.state(), **norm})
    many = {f"{i}" * 100: np.zeros(9) for i in range(2000)} | {"x" * 100_000: np.zeros(2)}
    with pytest.raises(ValueError, match="and 1991 more"):  # and soon
        model.load_state({**many, **{n: a for n, a in state.items() if n != "head.bias"}})


def test_numbers_that_the_model_s_dtype_does_not_have_are_refused():
    layer = L.Linear(2, 1, rng=0)
    before = layer.weight.copy()
    for value, reason in ((1e39, r"weight holds 1e\+39, which float32 does not have"), (-1e300, r"holds -1e\+300")):
        with pytest.raises(ValueError, match=reason):
            layer.load_state({"weight": np.array([[1.0, value]]), "bias": np.zeros(1)})
        np.testing.assert_array_equal(layer.weight, before)
    layer.load_state({"weight": np.array([[np.inf, np.nan]]), "bias": np.array([1e-300])})  # what it has
    assert np.isinf(layer.weight[0, 0]) and np.isnan(layer.weight[0, 1]) and layer.bias[0] == 0


def test_masks_are_not_dropped_in_silence():
    masked = np.ma.masked_array(np.ones((1, 2)), mask=[[False, True]])
    layer = L.Linear(2, 1, rng=0)
    with pytest.raises(ValueError, match="load_state: weight is masked in places"):
        layer.load_state({"weight": masked, "bias": np.zeros(1)})
    with pytest.raises(TypeError, match="linear: x is masked in places"):
        layer(masked)
    layer.load_state({"weight": np.ma.masked_array(np.ones((1, 2))), "bias": np.zeros(1)})  # nothing is masked
    assert layer(np.ma.masked_array(np.ones((1, 2), np.float32))).tolist() == [[2.0]]

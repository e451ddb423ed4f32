"""PyTorch's checkpoints, read without PyTorch and without running them: zip archives, and the streams before 1.6.

Both are a pickle that tells shapes, beside storages that hold the numbers. unpickle.py reads the pickle with the table
of names below; what comes out are descriptions (`Tensor`), all of which are checked against the file before the first
byte of a storage is read. Add a name to `_TABLE` only with a builder that does no more than note its arguments.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, Literal

import numpy as np

from .archive import check_members, opened, read_member
from .dtypes import DTYPES, check_booleans, check_expansion, widen_bfloat16
from .names import without_wrappers
from .unpickle import MAX_BYTES, Callables, Global, Ignored, Unpickler, named

__all__ = ["available", "read"]

Order = Literal["<", ">"]

#: PyTorch's names of dtypes -> bytes; those that no state holds are here for their size, and refused when asked for
_SIZES = {
    name: size
    for size, names in {
        1: "bool uint8 int8 qint8 quint8 quint4x2 quint2x4 float8_e4m3fn float8_e5m2 bytes",
        2: "float16 bfloat16 int16 uint16",
        4: "float32 int32 uint32 qint32 complex32",
        8: "float64 int64 uint64 complex64",
        16: "complex128",
    }.items()
    for name in names.split()
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "bytes",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
#: names under which training scripts keep the weights, the likeliest first, and what lies beside them
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
_OTHERS = re.compile("optim|sched|scaler", re.IGNORECASE)

_MAX_DIMS = 32
_MAX_SIZE = 1 << 48
_MAX_DEPTH = 8  # of dicts in dicts
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def available() -> None:
    """Raise where the format needs what is not installed; this one needs nothing."""


def read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Read a checkpoint of ``size`` bytes; ValueError gives the reason why it is refused."""
    head = file.read(512)
    file.seek(0)
    if head[:4] == b"PK\x03\x04":
        return _read_zip(file, size)
    if head[257:262] == b"ustar":
        raise ValueError(
            "a checkpoint of PyTorch before 0.1.10 (a tar archive); load it with PyTorch and save it again"
        )
    return _read_stream(file, size)


# ---- what the pickles describe ----


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Numbers in the file: ``count`` of them, of which a view begins at ``begin``."""

    key: str
    dtype: str
    count: int
    begin: int = 0
    end: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A window on a storage; offset and strides count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]

    def check(self, name: str, stored: Callable[[Storage], None]) -> int:
        """Raise where the window leaves its storage, or the storage the file; return the bytes of the array."""
        if self.dtype != "bfloat16" and _numpy(self.dtype) is None:
            raise ValueError(f"{name!r} has dtype {self.dtype}; a state holds numbers and booleans of at most 64 bits")
        if len(self.shape) != len(self.strides) or len(self.shape) > _MAX_DIMS:
            raise ValueError(f"{name!r} has {len(self.shape)} dimensions and {len(self.strides)} strides")
        sizes = (*self.shape, *self.strides, self.offset)
        if not _are_sizes(sizes):
            raise ValueError(f"{name!r} has sizes that are no sizes: {_short(sizes)}")
        stored(self.storage)
        item, size = _SIZES[self.dtype], math.prod(self.shape)
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if (
            size
            and (self.offset + last + 1) * item > (self.storage.end - self.storage.begin) * _SIZES[self.storage.dtype]
        ):
            raise ValueError(
                f"{name!r} claims shape {_short(self.shape)} of {self.dtype} beyond the end of its storage"
            )
        return size * (4 if self.dtype == "bfloat16" else item)

    def array(self, name: str, data: np.ndarray, order: Order, *, alone: bool) -> np.ndarray:
        """The array, in C order; made of ``data``, the bytes of the storage, itself where nobody else uses it."""
        item = _SIZES[self.dtype]
        dtype = _numpy("uint16" if self.dtype == "bfloat16" else self.dtype)
        assert dtype is not None
        if 0 in self.shape:  # the offset may be anything
            return np.empty(self.shape, np.float32 if self.dtype == "bfloat16" else dtype)
        begin = self.storage.begin * _SIZES[self.storage.dtype] + self.offset * item
        flat = data[begin : data.size - (data.size - begin) % item].view(dtype.newbyteorder(order))
        window = np.lib.stride_tricks.as_strided(flat, self.shape, [item * step for step in self.strides])
        if self.dtype == "bfloat16":
            return widen_bfloat16(window)
        if dtype == np.bool_:
            check_booleans(name, window)
        whole = alone and window.flags.c_contiguous and window.dtype.isnative and window.nbytes == data.size
        return window if whole else np.array(window, dtype, order="C")


@dataclass(eq=False, slots=True)
class NumpyDtype:
    """A dtype of NumPy's by its code, such as f4, and byte order."""

    code: str
    order: Order = "<"


@dataclass(eq=False, slots=True)
class NumpyArray:
    """An array that lies in the pickle itself; `_build` fills it in."""

    state: tuple[Any, ...] = field(default=())

    def check(self, name: str, stored: Callable[[Storage], None]) -> int:
        """Raise where it does not hold what it claims; return its bytes."""
        shape, dtype, _, data = self.state[-4:] if len(self.state) in (4, 5) else ((), None, False, None)
        code = dtype.code if isinstance(dtype, NumpyDtype) and re.fullmatch(r"[biuf]\d", dtype.code) else ""
        if not code or _numpy(code) is None or not isinstance(data, str):
            raise ValueError(f"{name!r} holds no plain numbers")
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMS or not _are_sizes(shape):
            raise ValueError(f"{name!r} has a shape that is none: {_short(shape)}")
        if math.prod(shape) * int(code[1]) != len(data):
            raise ValueError(f"{name!r} claims shape {_short(shape)} of {code} but holds {len(data)} bytes")
        return len(data)

    def array(self, name: str) -> np.ndarray:
        """The array, in native byte order."""
        shape, dtype, fortran_order, data = self.state[-4:]
        flat = np.frombuffer(bytearray(data.encode("latin-1")), np.dtype(dtype.code).newbyteorder(dtype.order))
        check_booleans(name, flat)
        array = flat.reshape(shape, order="F" if fortran_order is True else "C")
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _numpy(name: str) -> np.dtype[Any] | None:
    """NumPy's dtype of that name, if a state may hold it."""
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype in DTYPES else None


def _are_sizes(values: tuple[Any, ...]) -> bool:
    """Whether all are whole numbers that count what could lie in a file."""
    return all(type(n) is int and 0 <= n < _MAX_SIZE for n in values)


def _short(value: Any) -> str:
    """A value from a file in few words, for an error."""
    parts = value if isinstance(value, tuple) else (value,)
    text = ", ".join(str(n) if isinstance(n, int) and abs(n) < 1 << 64 else type(n).__name__ for n in parts[:8])
    return f"({text}{', ...' if len(parts) > 8 else ''})"


# ---- the names that a checkpoint may use ----


def _take(name: str, arguments: tuple[Any, ...], *kinds: Any) -> tuple[Any, ...]:
    """The first arguments, checked to be of ``kinds``."""
    taken = arguments[: len(kinds)]
    if len(taken) < len(kinds) or not all(map(isinstance, taken, kinds)):
        raise ValueError(f"its pickle is damaged: it calls {name} with other things than PyTorch does")
    return taken


def _tensor(name: str, arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = _take(name, arguments, Storage, int, tuple, tuple)
    if name.endswith("_v3"):
        dtype = _take(name, arguments[6:], Global)[0].name.removeprefix("torch.")
        flags = arguments[7:]
    else:
        dtype, flags = storage.dtype, arguments[6:]
    if any(isinstance(flag, dict) and any(flag.values()) for flag in flags):
        raise ValueError("it holds a tensor that is to be conjugated or negated when it is used")
    return Tensor(storage, dtype, offset, shape, strides)


def _parameter(name: str, arguments: tuple[Any, ...]) -> Any:
    return _take(name, arguments, (Tensor, NumpyArray))[0]


def _with_attributes(name: str, arguments: tuple[Any, ...]) -> Any:
    rebuild, _, inner = _take(name, arguments, Global, Global, tuple)
    if rebuild.make is None:
        raise ValueError(f"its pickle is damaged: it calls {rebuild.name}")
    if rebuild.name == name:
        raise ValueError(f"its pickle is damaged: it calls {name} for itself")
    return rebuild.make(inner)


def _dict(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """An empty dict, or one of a list of pairs, as Python 2 wrote it."""
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"its pickle is damaged: it calls {name} with other things than pairs")
    return named(pairs)


def _first(name: str, arguments: tuple[Any, ...]) -> Any:
    return _take(name, arguments, object)[0]


def _dtype(name: str, arguments: tuple[Any, ...]) -> NumpyDtype:
    return NumpyDtype(*_take(name, arguments, str))


def _ignore(name: str, arguments: tuple[Any, ...]) -> Ignored:
    return Ignored()


def _reconstruct(name: str, arguments: tuple[Any, ...]) -> NumpyArray:
    return NumpyArray()


def _from_buffer(name: str, arguments: tuple[Any, ...]) -> NumpyArray:
    data, dtype, shape, order = _take(name, arguments, str, NumpyDtype, tuple, str)
    return NumpyArray((shape, dtype, order == "F", data))


def _table() -> Callables:
    table: Callables = {}

    def add(make: Callable[[str, tuple[Any, ...]], Any] | None, *names: str) -> None:
        for name in names:
            module, _, attribute = name.rpartition(".")
            table[module, attribute] = Global(name, None if make is None else partial(make, name))

    add(_tensor, *(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")))
    add(_parameter, "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
    add(_parameter, "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    add(_with_attributes, "torch._tensor._rebuild_from_type_v2")
    add(None, "torch.Tensor", "torch._tensor.Tensor")  # the class of a tensor with attributes
    add(None, *(f"torch.{dtype}" for dtype in _SIZES if dtype != "bytes"))
    add(None, *(f"{module}.{name}" for module in ("torch", "torch.cuda", "torch.storage") for name in _STORAGES))
    add(_dict, "collections.OrderedDict", "collections.defaultdict")
    add(_first, "torch.Size", "_codecs.encode")  # a tuple; a byte string that is written as text
    for core in ("numpy.core", "numpy._core"):
        add(_reconstruct, f"{core}.multiarray._reconstruct")
        add(_from_buffer, f"{core}.numeric._frombuffer")
        add(_ignore, f"{core}.multiarray.scalar")
    add(_dtype, "numpy.dtype")
    add(None, "numpy.ndarray")
    add(
        _ignore, "torch.device", "argparse.Namespace", "collections.Counter", "pathlib.PosixPath", "pathlib.WindowsPath"
    )
    for builtins in ("builtins", "__builtin__"):
        add(_ignore, *(f"{builtins}.{name}" for name in ("set", "frozenset", "complex", "slice", "range", "bytearray")))
        add(None, *(f"{builtins}.{name}" for name in ("int", "float", "list", "dict", "str", "bool")))
    return table


_TABLE = _table()


def _build(value: Any, state: Any) -> None:
    """What a pickle sets after a call: of NumPy's values their content; attributes of the others are dropped."""
    if isinstance(value, NumpyArray) and isinstance(state, tuple):
        value.state = state
    elif isinstance(value, NumpyDtype) and isinstance(state, tuple):
        value.order = ">" if state[1:2] == (">",) else "<"
    elif not isinstance(value, (dict, Ignored, Tensor)):
        raise ValueError(f"its pickle is damaged: it sets attributes of {type(value).__name__}")


def _storage(identifier: Any, noted: dict[str, Storage]) -> Storage:
    """The storage that a persistent id stands for: ("storage", type, key, device, count[, view])."""
    if not isinstance(identifier, tuple) or identifier[:1] != ("storage",):
        raise ValueError("its pickle refers to something that is no storage")
    kind, key, _, count = _take("a storage", identifier[1:], Global, (str, int), object, int)
    attribute = kind.name.rpartition(".")[2]
    if attribute not in _STORAGES or not 0 <= count < _MAX_SIZE:
        raise ValueError(f"its pickle is damaged: a storage of {_short(count)} {kind.name}")
    begin, end = 0, count
    if len(identifier) > 5 and identifier[5] is not None:  # (key, begin, count) of a view, until PyTorch 0.4
        _, begin, length = _take("a view of a storage", _take("a storage", identifier[5:], tuple)[0], object, int, int)
        end = begin + length
        if not 0 <= begin <= end <= count:
            raise ValueError(f"its pickle is damaged: a view of {length} from {begin} on in a storage of {count}")
    storage = Storage(str(key), _STORAGES[attribute], count, begin, end)
    noted.setdefault(storage.key, storage)
    return storage


# ---- which of its entries are the state ----


def _state(content: Any) -> dict[str, Tensor | NumpyArray]:
    """The tensors of a checkpoint by name: those under the first of `_WEIGHTS` that holds any, else all there are.

    Dicts in dicts give names joined by dots; numbers, texts and lists are left out, and so are optimizers.
    """
    if not isinstance(content, dict):
        what = "one tensor" if isinstance(content, (Tensor, NumpyArray)) else f"a {type(content).__name__}"
        raise ValueError(f"it holds {what}, not tensors by name; save a model's state_dict()")
    found: dict[str, Tensor | NumpyArray] = {}
    inner: Any = content
    for _ in range(_MAX_DEPTH):
        holding = (inner[name] for name in _WEIGHTS if isinstance(inner.get(name), dict) and _any(inner[name]))
        following = next(holding, None)
        if following is None:
            break
        inner = following
    length = 0
    for name, value in _entries(inner, "", {id(inner)}, 0):
        found[name] = value
        length += len(name)
        if length > MAX_BYTES:
            raise ValueError("the names of its tensors are longer than names are")
    if content and not found:
        raise ValueError(f"it holds no tensors by name, only {', '.join(map(repr, sorted(content)[:8]))[:500]}")
    clean = without_wrappers(found)
    return {clean[name]: value for name, value in found.items()}


def _any(values: dict[str, Any]) -> bool:
    return next(_entries(values, "", {id(values)}, 0), None) is not None


def _entries(
    values: dict[str, Any], prefix: str, seen: set[int], depth: int
) -> Iterator[tuple[str, Tensor | NumpyArray]]:
    """The tensors in a dict and the dicts in it, each of which is entered once."""
    for name, value in values.items():
        if isinstance(value, (Tensor, NumpyArray)):
            yield prefix + name, value
        elif isinstance(value, dict) and depth < _MAX_DEPTH and id(value) not in seen and not _OTHERS.search(name):
            seen.add(id(value))
            if len(prefix) + len(name) < MAX_BYTES:
                yield from _entries(value, f"{prefix}{name}.", seen, depth + 1)


# ---- the two forms ----


def _arrays(
    state: dict[str, Tensor | NumpyArray],
    stored: Callable[[Storage], None],
    fetch: Callable[[Storage], np.ndarray],
    order: Order,
    size: int,
) -> dict[str, np.ndarray]:
    """Check everything, then read: each storage once, and no more than one of them held beside the arrays."""
    claimed = 0
    for name, value in state.items():
        claimed += value.check(name, stored)
        check_expansion(claimed, size)
    users: dict[str, list[str]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            users.setdefault(value.storage.key, []).append(name)
        else:
            arrays[name] = value.array(name)
    for names in users.values():
        data = None
        for name in names:
            tensor = state[name]
            assert isinstance(tensor, Tensor)
            if data is None:
                data = fetch(tensor.storage)
            arrays[name] = tensor.array(name, data, order, alone=len(names) == 1)
    return {name: arrays[name] for name in state}  # in the order of the file


def _read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """A folder in an archive: data.pkl, data/KEY for each storage, and byteorder."""
    with opened(file, "PyTorch checkpoint") as archive:
        members = archive.infolist()
        check_members(members, size, "PyTorch checkpoint")
        by_name = {info.filename: info for info in members}
        pickles = [name for name in by_name if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("a zip archive, but no PyTorch checkpoint: there is no data.pkl in its only folder")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in by_name:
            raise ValueError("a TorchScript archive, which is code; save the model's state_dict() with PyTorch")

        def member(name: str) -> np.ndarray:
            return read_member(archive, file, by_name[root + name], unsummed=True)

        order = _byte_order(member("byteorder").tobytes() if f"{root}byteorder" in by_name else b"little")
        if by_name[pickles[0]].file_size > MAX_BYTES:
            raise ValueError(f"its pickle is longer than {MAX_BYTES:,} bytes")
        pickle = member("data.pkl").tobytes()
        noted: dict[str, Storage] = {}
        reader = Unpickler(BytesIO(pickle), len(pickle), _TABLE, lambda identifier: _storage(identifier, noted), _build)

        def stored(storage: Storage) -> None:
            info = by_name.get(f"{root}data/{storage.key}")
            if info is None:
                raise ValueError(f"there is no storage {_quoted(storage.key)}")
            if info.file_size != storage.count * _SIZES[storage.dtype]:
                raise ValueError(
                    f"storage {_quoted(storage.key)} has {info.file_size} bytes and claims to hold {storage.count} "
                    f"{storage.dtype}"
                )

        state = _state(reader.load())
        return _arrays(state, stored, lambda storage: member(f"data/{storage.key}"), order, size)


def _byte_order(mark: bytes) -> Order:
    if mark not in (b"little", b"big"):
        raise ValueError("its mark of the byte order is neither little nor big")
    return "<" if mark == b"little" else ">"


def _quoted(key: str) -> str:
    return repr(key[:80])


def _read_stream(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, a description, the object, and keys; then for each key count and numbers.

    Always little-endian, whatever the machine that wrote it.
    """
    noted: dict[str, Storage] = {}
    reader = Unpickler(file, size, _TABLE, lambda identifier: _storage(identifier, noted), _build)
    try:
        magic = reader.load()
    except ValueError:
        magic = None
    if magic != _MAGIC:
        raise ValueError("not a PyTorch checkpoint: neither its zip archive nor the stream of older versions")
    protocol = reader.load()
    if protocol != _PROTOCOL:
        raise ValueError(f"a stream of version {_short(protocol)}; this reads version {_PROTOCOL}")
    reader.load()  # sizes of C types where it was written
    content = reader.load()
    keys = reader.load()
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise ValueError("its list of storages is damaged")
    places = _places(file, size, [str(key) for key in keys], noted)

    def stored(storage: Storage) -> None:
        if storage.key not in places:
            raise ValueError(f"there is no storage {_quoted(storage.key)}")
        first = noted[storage.key]
        if (storage.count, storage.dtype) != (first.count, first.dtype):
            raise ValueError(f"storage {_quoted(storage.key)} is described in two ways")

    def fetch(storage: Storage) -> np.ndarray:
        data = np.empty(storage.count * _SIZES[storage.dtype], np.uint8)
        file.seek(places[storage.key])
        if file.readinto(data.data) != data.size:  # type: ignore[attr-defined]
            raise ValueError(f"storage {_quoted(storage.key)} is cut")
        return data

    return _arrays(_state(content), stored, fetch, "<", size)


def _places(file: BinaryIO, size: int, keys: list[str], noted: dict[str, Storage]) -> dict[str, int]:
    """Where the numbers of each storage begin; the last must end where the file does."""
    places: dict[str, int] = {}
    position = file.tell()
    for key in keys:
        storage = noted.get(key)
        if storage is None or key in places:
            raise ValueError(f"storage {_quoted(key)} is {'there twice' if key in places else 'described nowhere'}")
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))  # -1 at the end
        if count != storage.count:
            raise ValueError(f"storage {_quoted(key)} has {count} numbers and claims {storage.count}")
        places[key] = position + 8
        position += 8 + count * _SIZES[storage.dtype]
        if position > size:
            raise ValueError(f"storage {_quoted(key)} is cut")
    if position != size:
        raise ValueError(f"{size - position} bytes come after its last storage")
    return places

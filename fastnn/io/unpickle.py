"""Read a pickle without running it: plain values come out, and of callables only those of a table given by the caller.

A machine of our own for the instructions that checkpoints are written with (protocol 2, and what 3 to 5 add of the same
kind): Python's runs what a file names, and a few bytes make it allocate gigabytes. Every size is checked against what
is left to read, no instruction costs more than the bytes that it reads or the values it takes off the stack, and
values are neither hashed nor compared nor walked. Tuples of tuples that share their parts are therefore harmless.

Dicts keep the entries whose keys are strings of a name's length, nothing else. Byte strings become str (latin-1), as
in files of Python 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["Callables", "Global", "Ignored", "Unpickler", "named"]

#: Of all pickles in a file together. A large network with its optimizer takes some 200,000 instructions of 3 bytes; an
#: instruction costs about 100 bytes of memory. Tensors are not part of the pickle.
MAX_STEPS = 1_000_000
MAX_BYTES = 16 << 20
_MAX_LINE = 300  # of the two that name a global
_MAX_NAME = 1_000  # of an entry: joined names of nested dicts would grow beyond measure


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """What a name in a pickle stands for; ``make`` takes the arguments of the call."""

    name: str
    make: Callable[[tuple[Any, ...]], Any] | None = None


class Ignored:
    """A value that is none of our business, such as a command line's arguments: whatever is put in disappears."""

    __slots__ = ()


Callables = dict[tuple[str, str], Global]


class Unpickler:
    """Pickles one after another from a file.

    Parameters
    ----------
    file : binary file
        Buffered, for it is read in small pieces.
    size : int
        How many bytes may be read from it.
    table : dict
        (module, name) -> Global. A name that is not in it is an error.
    persistent : callable
        Gives the value for a persistent id.
    build : callable
        ``build(value, state)`` takes what a pickle calls the state of a value.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        table: Callables,
        persistent: Callable[[Any], Any],
        build: Callable[[Any, Any], None],
    ) -> None:
        self._file = file
        self._left = min(size, MAX_BYTES)
        self._whole = size <= MAX_BYTES
        self._steps = 0
        self._table, self._persistent, self._build = table, persistent, build

    def load(self) -> Any:
        """Return the next value; ValueError gives the reason why it is refused."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        while True:
            code = self._read(1)
            if code == b".":
                return self._pop()
            run = _INSTRUCTIONS.get(code)
            if run is None:
                raise ValueError(f"its pickle uses the instruction {_name(code)}, which checkpoints do not")
            self._charge(1)
            run(self)

    # ---- what is read, and what it costs ----

    def _charge(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ValueError(f"its pickle has more than {MAX_STEPS:,} instructions")

    def _read(self, size: int) -> bytes:
        if size > self._left and not self._whole:
            raise ValueError(f"its pickle is longer than {MAX_BYTES:,} bytes")
        data = self._file.read(size) if size <= self._left else b""
        if len(data) < size:
            raise ValueError("its pickle is cut")
        self._left -= size
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def _line(self) -> str:
        data = self._file.readline(min(_MAX_LINE, self._left))
        if not data.endswith(b"\n"):
            raise ValueError("its pickle is cut, or names something by more characters than a name has")
        self._left -= len(data)
        return data[:-1].decode()

    # ---- the stack ----

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle is damaged: it takes more values than there are")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("its pickle is damaged: it goes back to a mark that is not there")
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    # ---- the instructions ----

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _drop_to_mark(self) -> None:
        self._pop_to_mark()

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def _frozen_set(self) -> None:
        self._pop_to_mark()
        self._stack.append(Ignored())

    def _put(self, key: int) -> None:
        self._memo[key] = self._top()

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError("its pickle is damaged: it repeats a value that was not there")
        self._stack.append(self._memo[key])

    def _extend(self, values: list[Any]) -> None:
        into = self._top()
        if isinstance(into, list):
            into.extend(values)
        elif not isinstance(into, Ignored):
            raise ValueError(f"its pickle is damaged: it appends to {_kind(into)}")

    def _set(self, values: list[Any]) -> None:
        into = self._top()
        if len(values) % 2:
            raise ValueError("its pickle is damaged: a key without a value")
        if isinstance(into, dict):
            into.update(named(zip(values[::2], values[1::2], strict=True)))
        elif not isinstance(into, Ignored):
            raise ValueError(f"its pickle is damaged: it sets entries of {_kind(into)}")

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _global(self, module: Any, name: Any) -> None:
        found = self._table.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            what = f"{module}.{name}"[:_MAX_LINE].encode("unicode_escape").decode()
            raise ValueError(
                f"it wants {what}, and of a checkpoint only tensors and plain values are read, for anything else may "
                "run code; if you trust it, load it with PyTorch and save the model's state_dict() alone"
            )
        self._stack.append(found)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or function.make is None or not isinstance(arguments, tuple):
            what = function.name if isinstance(function, Global) else _kind(function)
            raise ValueError(f"its pickle is damaged: it calls {what}")
        # Copies of a list or tuple are the one cost that the instructions before have not paid.
        self._charge(sum(len(a) for a in arguments if isinstance(a, (list, tuple))))
        self._stack.append(function.make(arguments))

    def _state(self) -> None:
        state = self._pop()
        self._build(self._top(), state)


def named(pairs: Iterable[Any]) -> dict[str, Any]:
    """A dict of the pairs whose key can be a name."""
    return {key: value for key, value in pairs if isinstance(key, str) and len(key) <= _MAX_NAME}


def _kind(value: Any) -> str:
    return type(value).__name__


def _name(code: bytes) -> str:
    import pickletools

    known = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    return known.get(code.decode("latin-1"), f"{code[0]:#x}, which there is not")


def _text(form: str, encoding: str) -> Callable[[Unpickler], None]:
    def run(machine: Unpickler) -> None:
        try:
            machine._stack.append(machine._read(machine._number(form)).decode(encoding))
        except UnicodeDecodeError:
            raise ValueError(f"its pickle is damaged: a text that is not {encoding}") from None

    return run


def _value(form: str) -> Callable[[Unpickler], None]:
    return lambda machine: machine._stack.append(machine._number(form))


def _constant(make: Callable[[], Any]) -> Callable[[Unpickler], None]:
    return lambda machine: machine._stack.append(make())


def _integer(machine: Unpickler) -> None:
    machine._stack.append(int.from_bytes(machine._read(machine._number("<B")), "little", signed=True))


_INSTRUCTIONS: dict[bytes, Callable[[Unpickler], None]] = {
    b"\x80": lambda machine: machine._number("<B"),  # PROTO
    b"\x95": lambda machine: machine._number("<Q"),  # FRAME, a hint for readers
    b"N": _constant(lambda: None),
    b"\x88": _constant(lambda: True),
    b"\x89": _constant(lambda: False),
    b"K": _value("<B"),
    b"M": _value("<H"),
    b"J": _value("<i"),
    b"G": _value(">d"),
    b"\x8a": _integer,
    b"X": _text("<I", "utf-8"),
    b"\x8c": _text("<B", "utf-8"),
    b"\x8d": _text("<Q", "utf-8"),
    b"T": _text("<I", "latin-1"),
    b"U": _text("<B", "latin-1"),
    b"B": _text("<I", "latin-1"),
    b"C": _text("<B", "latin-1"),
    b"\x8e": _text("<Q", "latin-1"),
    b"\x96": _text("<Q", "latin-1"),
    b")": _constant(tuple),
    b"t": lambda machine: machine._stack.append(tuple(machine._pop_to_mark())),
    b"\x85": lambda machine: machine._tuple(1),
    b"\x86": lambda machine: machine._tuple(2),
    b"\x87": lambda machine: machine._tuple(3),
    b"]": _constant(list),
    b"a": lambda machine: machine._extend([machine._pop()]),
    b"e": lambda machine: machine._extend(machine._pop_to_mark()),
    b"}": _constant(dict),
    b"s": lambda machine: machine._set_one(),
    b"u": lambda machine: machine._set(machine._pop_to_mark()),
    b"\x8f": _constant(Ignored),  # a set: of no use to us, and its values would have to be hashed
    b"\x90": lambda machine: machine._extend(machine._pop_to_mark()),
    b"\x91": lambda machine: machine._frozen_set(),
    b"(": lambda machine: machine._mark(),
    b"0": lambda machine: machine._drop(),
    b"1": lambda machine: machine._drop_to_mark(),
    b"2": lambda machine: machine._stack.append(machine._top()),
    b"q": lambda machine: machine._put(machine._number("<B")),
    b"r": lambda machine: machine._put(machine._number("<I")),
    b"\x94": lambda machine: machine._put(len(machine._memo)),
    b"h": lambda machine: machine._get(machine._number("<B")),
    b"j": lambda machine: machine._get(machine._number("<I")),
    b"c": lambda machine: machine._global(machine._line(), machine._line()),
    b"\x93": lambda machine: machine._stack_global(),
    b"R": lambda machine: machine._call(),
    b"\x81": lambda machine: machine._call(),  # NEWOBJ: a class and its arguments
    b"b": lambda machine: machine._state(),
    b"Q": lambda machine: machine._stack.append(machine._persistent(machine._pop())),
}

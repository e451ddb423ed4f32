"""Replace a file whole or not at all, and only once it is on the disk."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``path`` when the block ends, and vanishes when it raises.

    A new file gets the permissions of the umask; an existing one keeps its own, and a symbolic link its target.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_bytes()
    b'whole'
    """
    target = os.path.realpath(os.fsdecode(path))
    mode = _mode(target)
    folder = os.path.dirname(target)
    beside = os.path.join(folder, f".fastnn-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(beside, flags, 0o666)  # less the umask
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode is not None and sys.platform != "win32":
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(beside, target)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, beside):
            # Of a full disk: which file was not written is what one has to know.
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
        raise
    _sync_folder(folder)


def _mode(target: str) -> int | None:
    """The permissions of an existing file that may be replaced; None when there is none."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(f"{target} is not a regular file, so it is not replaced by one")
    if not os.access(target, os.W_OK):  # a rename would not ask
        raise PermissionError(f"{target} is write-protected")
    return stat.S_IMODE(status.st_mode)


def _sync_folder(folder: str) -> None:
    """Put the new name on the disk; without it a crash may bring back the old file."""
    if sys.platform == "win32":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

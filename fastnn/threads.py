"""The machine as users see it: thread count, memory held for reuse, and what was chosen and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import _backends

__all__ = ["config", "get_num_threads", "num_threads", "release_memory", "set_num_threads", "show_config"]


#: the most that any backend takes; that of runtime/threads.hpp
MAX_THREADS = 1024


def get_num_threads() -> int:
    """Return how many threads the backend in use computes with."""
    core = _backends.core()
    if core is not None:
        return int(core.num_threads())
    if _backends.name == "numba":
        from . import _numba

        return _numba.num_threads()
    return 1


def set_num_threads(n: int) -> None:
    """Compute with n threads from now on.

    Results do not depend on n. More threads than cores are allowed, and slower. NumPy's own thread count (that of its
    BLAS) is not fastnn's to change.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= MAX_THREADS:
        raise ValueError(f"set_num_threads: expected a whole number from 1 to {MAX_THREADS}, got {n!r}")
    n = int(n)
    global _why
    core = _backends.core()
    if core is not None:
        core.set_num_threads(n)
        _why = "set by the program"
    elif _backends.name == "numba":
        from . import _numba

        _numba.set_num_threads(n)
        _why = "set by the program"


_why = ""


def _threads_why() -> str:
    core = _backends.core()
    if _backends.name == "numba":
        from . import _numba

        return _why or _numba.default_threads_why
    if core is None:
        return f"{_backends.name} decides"
    return _why or str(core.default_threads()[1])


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Compute with n threads inside the block.

    Examples
    --------
    >>> import fastnn as fnn
    >>> with fnn.num_threads(1):
    ...     y = fnn.functional.relu([1.0, -1.0])
    """
    global _why
    before, why = get_num_threads(), _why
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
        _why = why


def release_memory() -> None:
    """Give memory that is held for reuse back to the system."""
    core = _backends.core()
    if core is not None:
        core.release_memory()


def config() -> dict[str, Any]:
    """Return what fastnn computes with and why, as a dictionary."""
    core = _backends.core()
    result: dict[str, Any] = {
        "backend": _backends.name,
        "backend_why": _backends.why,
        "threads": get_num_threads(),
        "threads_why": _threads_why(),
    }
    if core is not None:
        result["isa"] = core.isa()
        result["isa_why"] = _backends.isa_why
        result["isas"] = core.isas()
    return result


def show_config() -> None:
    """Print version, backend, instruction set and threads, and why each was chosen."""
    from . import __version__

    c = config()
    print(f"fastnn           {__version__} (NumPy {np.__version__}, Python {sys.version.split()[0]})")
    print(f"backend          {c['backend']}: {c['backend_why']}")
    if "isa" in c:
        print(f"instruction set  {c['isa']}: {c['isa_why']}")
        for isa, lacks in c["isas"].items():
            print(f"                   {isa}: {'runs here' if lacks is None else lacks}")
    print(f"threads          {c['threads']}: {c['threads_why']}")

"""What can compute here: the backends and, for the compiled one, its instruction sets. Every test that says "on every
backend" runs over ENGINES; what this machine lacks is in MISSING, and test_parity.py skips it where one can see it.

With FASTNN_BACKEND or FASTNN_ISA in the environment only that engine runs, as .ci/run does for each of them.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

with warnings.catch_warnings():
    # An installation without kernels says so at import; these tests say it as MISSING.
    warnings.filterwarnings("ignore", "fastnn was installed without", RuntimeWarning)
    import fastnn._backends as backends

INSTRUCTION_SETS = ("scalar", "avx2", "avx512", "amx", "neon")


@dataclass(frozen=True)
class Engine:
    """A backend and, if compiled, an instruction set; its name is that of the set or of the backend."""

    backend: str
    isa: str | None = None

    @property
    def name(self) -> str:
        return self.isa or self.backend

    @contextmanager
    def on(self) -> Iterator[None]:
        """Compute with this engine inside the block."""
        with backends.using(self.backend):
            module = backends.core()
            before = module.isa() if module is not None else None
            if self.isa is not None:
                backends.set_isa(self.isa)
            try:
                yield
            finally:
                if module is not None:
                    module.set_isa(before)


def _find() -> tuple[list[Engine], dict[str, str]]:
    """The engines of this machine, and why each other one is missing."""
    engines, missing = [Engine("numpy")], {}
    if importlib.util.find_spec("numba") is None:
        missing["numba"] = "numba is not installed"
    else:
        engines.append(Engine("numba"))
    if importlib.util.find_spec("fastnn._core") is None:
        missing |= dict.fromkeys(INSTRUCTION_SETS, "fastnn was installed without compiled kernels")
    else:
        from fastnn import _core

        for isa in INSTRUCTION_SETS:
            lacks = _core.isas().get(isa, "not compiled for this architecture")
            if lacks is None:
                engines.append(Engine("compiled", isa))
            else:
                missing[isa] = lacks
    return engines, missing


ALL, MISSING = _find()
_forced_backend, _forced_isa = os.environ.get("FASTNN_BACKEND"), os.environ.get("FASTNN_ISA")
ENGINES = [e for e in ALL if _forced_backend in (None, e.backend) and _forced_isa in (None, e.isa)]
NUMPY = Engine("numpy")
COMPILED = [e for e in ENGINES if e.backend == "compiled"]

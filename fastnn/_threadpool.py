"""Makes the team of threads visible to threadpoolctl, so that ``threadpool_limits(1)`` limits fastnn too.

threadpoolctl knows a library by a controller that is registered with it. fastnn does not import threadpoolctl for that:
where it is imported already, the controller is registered at once; else a finder at the head of ``sys.meta_path`` waits
for its import, registers the controller when its module has run, and leaves. Nothing else passes through the finder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install"]

_NAME = "threadpoolctl"


def install() -> None:
    """Register with threadpoolctl now, or as soon as it is imported; called once, when fastnn is."""
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) == _NAME:  # python -m threadpoolctl -i fastnn
        _register(main)
    module = sys.modules.get(_NAME)
    if module is not None:
        _register(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(module: Any) -> None:
    """Register the controller of the compiled extension; versions before 3.2 cannot take one."""
    if not hasattr(module, "register"):
        return

    class FastnnController(module.LibController):
        """The team of threads of fastnn's compiled extension."""

        user_api = "fastnn"
        internal_api = "fastnn"
        filename_prefixes = ("_core.",)  # and many another; the symbols tell ours
        check_symbols = ("fastnn_get_num_threads", "fastnn_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.fastnn_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fastnn_set_num_threads(num_threads)

        def get_version(self) -> str | None:
            return getattr(sys.modules.get("fastnn"), "__version__", None)

    module.register(FastnnController)


# ---- waiting for an import ----


class _Finder:
    """Finds threadpoolctl as the finders behind this one do, with a loader that registers."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _NAME:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The loader that was found, and the registration after it."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register(module)

"""Names of arrays without what PyTorch's wrappers put into them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["without_wrappers"]

#: parts of a name that torch.compile, fully sharded training and checkpointing leave, wherever they stand
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
#: what DataParallel and DistributedDataParallel put in front of all names
_PARALLEL = "module."


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Return each name with its clean form; as it is where two names would become one.

    Examples
    --------
    >>> without_wrappers(["module.conv.weight", "module._orig_mod.fc.bias"])
    {'module.conv.weight': 'conv.weight', 'module._orig_mod.fc.bias': 'fc.bias'}
    >>> without_wrappers(["module.weight", "head.weight"])  # a layer that is called so
    {'module.weight': 'module.weight', 'head.weight': 'head.weight'}
    """
    given = list(names)
    clean = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in given]
    for _ in range(2):  # one inside the other does occur
        if all(name.startswith(_PARALLEL) for name in clean):
            clean = [name.removeprefix(_PARALLEL) for name in clean]
    if len(set(clean)) != len(given):
        clean = given
    return dict(zip(given, clean, strict=True))

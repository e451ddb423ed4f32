"""The stamp of the sources that the Python package and the extension must have in common.

The build runs this file to write the stamp into the extension; at import ``_backends.py`` compares, in a tree of
sources alone. No installation has those files, and none loads this one.
"""

from __future__ import annotations

import hashlib
import os
import sys

__all__ = ["stamp"]

#: relative to this file: the functions that Python calls, and the lists and structs that they pass on
_FILES = "_core.pyx", "../csrc/kernels/kernels.hpp"


def stamp() -> str | None:
    """Return what tells these sources from others; None where they are not there."""
    digest = hashlib.sha256()
    for name in _FILES:
        try:
            with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
                digest.update(file.read())
        except OSError:
            return None
    return digest.hexdigest()


if __name__ == "__main__":
    with open(sys.argv[1], "w") as header:
        header.write(f'#define FASTNN_SOURCES "{stamp()}"\n')

"""The command line, ``fastnn``. A command is a module here, in which ``add`` names its arguments and its function.

A command's function takes the parsed arguments, prints what it finds, and returns an exit code or nothing; what it
raises and a person can act on becomes one line without traceback in ``main``. What commands load beyond NumPy they load
when they run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import MissingDependencyError
from . import bench, convert, demo, doctor, info, predict
from .common import warn

__all__ = ["main"]

#: in the order of the help
_COMMANDS = (demo, convert, predict, bench, doctor, info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        code = options.run(options)
    except BrokenPipeError:  # who reads has seen enough, as in "fastnn info net.onnx | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor can it be flushed at the end
        return 141
    except (MissingDependencyError, MemoryError, OSError, ValueError) as error:
        warn(options.command, str(error) or type(error).__name__)
        return 1
    except (TypeError, IndexError) as error:  # what an operator makes of numbers that it was not meant for
        where = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        warn(options.command, f"{type(error).__name__}: {error}{where}")
        return 1
    except KeyboardInterrupt:
        print(f"\nfastnn {options.command}: interrupted", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastnn",
        description="Neural-network layers for NumPy at the speed of the processor.",
        epilog="'fastnn COMMAND --help' tells the arguments of one. FASTNN_BACKEND, FASTNN_ISA and FASTNN_NUM_THREADS "
        "choose what computes; 'fastnn info' tells what does.",
    )
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser

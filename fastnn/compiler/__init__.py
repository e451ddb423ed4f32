"""compile(): from layers to a program.

graph.py is what a network is as data, passes.py rewrites it, program.py plans and runs it, report.py tells of it,
saved.py puts it into a file.
"""

from .graph import UntraceableError
from .program import Program, compile
from .report import Profile
from .saved import load_program

__all__ = ["Profile", "Program", "UntraceableError", "compile", "load_program"]

"""compile(): from layers to a program.

graph.py is what a network is as data, passes.py rewrites it, program.py plans and runs it.
"""

from .graph import UntraceableError
from .program import Program, compile

__all__ = ["Program", "UntraceableError", "compile"]

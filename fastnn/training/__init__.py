"""Training: `Trainer` runs the steps.

buffers.py holds a model's arrays together, step.py compiles a step, history.py records how it went, monitors.py has
what watches and steers a run, compare.py says which of several runs was faster.
"""

from .history import History
from .trainer import Trainer

__all__ = ["History", "Trainer"]

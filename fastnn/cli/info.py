"""``fastnn info``: what fastnn computes with here."""

from __future__ import annotations

from ..threads import show_config
from .common import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    what = "what fastnn computes with here, and why"
    parser = commands.add_parser("info", help=what, description=f"Print {what}.")
    parser.set_defaults(run=lambda options: show_config())

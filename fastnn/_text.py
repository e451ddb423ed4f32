"""Tables as text, and text from files without what a terminal would act on, for everything that prints them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plain", "table"]


def plain(text: str, keep: str = "") -> str:
    r"""Return the text with every character that does not print, but those to keep, written as Python writes it.

    So a name in a file cannot move the cursor, turn the direction of writing or begin a line of its own.

    Examples
    --------
    >>> print(plain("caf\u00e9 \x1b[2J\n"))
    café \x1b[2J\n
    """
    if text.isprintable():
        return text
    joiners = "\u200c\u200d\u3000\u00a0"  # which scripts and pictures are written with
    return "".join(c if c.isprintable() or c in keep or c in joiners else repr(c)[1:-1] for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return columns of equal width under a rule: the first ``words`` to the left, the others to the right.

    Examples
    --------
    >>> print(table(["layer", "size"], [["conv", "12"]]))
    layer  size
    -----------
    conv     12
    """
    cells = [[plain(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(f"{c:<{w}}" if i < words else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * max(map(len, lines)), *lines[1:]])

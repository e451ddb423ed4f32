"""The doctor's report as one HTML page that holds its pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import functools
import html
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, plot
from .io.atomic import replacing

if TYPE_CHECKING:
    from .checks import Check, Report

__all__ = ["write"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #2a9d5c; --bad: #c03a2b; --none: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr { border-top: 1px solid var(--line); } th { font-weight: 600; }
td:first-child, td:last-child { white-space: nowrap; }
.mark { font-weight: 600; white-space: nowrap; } .ok { color: var(--ok); } .bad { color: var(--bad); }
.none { color: var(--none); }
.hint { display: block; } .hint::before { content: "→ "; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; } img { width: 100%; background: white; border-radius: 4px; }
@media (max-width: 40rem) {  /* a phone: what was found below the name, not in a column beside it */
  table, tbody, tr, td { display: block; } th { display: none; } td { padding: .1rem 0; } tr { padding: .5rem 0; }
  td:first-child { font-weight: 600; } .pictures { grid-template-columns: 1fr; }
}
pre { overflow-x: auto; font-size: .85rem; line-height: 1.35; border: 1px solid var(--line); padding: .6rem; }
"""

_MARKS = {True: ("ok", "passes"), False: ("bad", "FAILS"), None: ("none", "not judged")}


def write(report: Report, path: str | Path) -> Path:
    """Write the page; needs matplotlib."""
    plot.available()
    failed = report.failed
    judged = sum(check.ok is not None for check in report)
    head = (
        f"{len(failed)} of {judged} checks fail: {', '.join(c.name for c in failed)}"
        if failed
        else (f"all {judged} checks that were judged pass")
    )
    pictures = [
        _figure(f"{check.name}: {check.verdict}", functools.partial(plot.check, check))
        for check in report
        if check.curves
    ]
    depth = _figure("what flows through the layers before training", lambda f: plot.statistics(report.statistics, f))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastnn doctor</title><style>{_STYLE}</style></head><body>
<h1>fastnn doctor</h1>
<p class="mark {"bad" if failed else "ok"}">{html.escape(head)}</p>
<table><tr><th>check</th><th></th><th>what was found</th><th>value</th></tr>
{"".join(map(_row, report))}</table>
<h2>Pictures</h2><div class="pictures">{"".join(pictures)}</div>
<h2>Layer by layer</h2>{depth}<pre>{html.escape(str(report.statistics))}</pre>
<h2>The model</h2><pre>{html.escape(report.model)}</pre>
<p class="none">fastnn {__version__}. The checks are those of CS231n, "Training Neural Networks".</p>
</body></html>
"""
    target = Path(path)
    with replacing(target) as file:
        file.write(page.encode())
    return target


def _row(check: Check) -> str:
    kind, word = _MARKS[check.ok]
    value = "" if math.isnan(check.value) else f"{check.value:.3g}"
    hint = f'<span class="hint">{html.escape(check.hint)}</span>' if check.hint else ""
    return (
        f'<tr><td>{html.escape(check.name)}</td><td class="mark {kind}">{word}</td>'
        f"<td>{html.escape(check.verdict)}{hint}</td><td>{value}</td></tr>\n"
    )


def _figure(caption: str, draw: Callable[[Any], Any]) -> str:
    file = io.BytesIO()
    draw(file)
    data = base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>\n'

"""Every statement of the lectures, measured: the command that writes docs/statements.md and docs/lectures/.

    python examples/lectures/run.py                       # the digits, all of it
    python examples/lectures/run.py --data mnist          # needs FASTNN_DATA, the folder of the data sets
    python examples/lectures/run.py --data cifar10
    python examples/lectures/run.py --only 6 26           # some of them
    python examples/lectures/run.py --search              # the search for a digits classifier of 99 %

What was measured is kept in docs/lectures/results/, a file for each data set, and the pages are written from all of
these files: a run renews its own numbers and leaves the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fastnn as fnn
from common import STATEMENTS, Finding, Statement, load

#: section: its title; the order of the pages
SECTIONS = {
    "activations": "Activation functions",
    "preprocessing": "Data preprocessing",
    "initialisation": "Weight initialisation",
    "batch_norm": "Batch normalisation and its kin",
    "regularisation": "Regularisation",
    "babysitting": "Gradient checking and babysitting",
    "updates": "Parameter updates",
    "hyperparameters": "Hyper-parameter optimisation",
    "evaluation": "Evaluation",
}
DATA = ("digits", "mnist", "cifar10")
DOCS = Path(__file__).parents[2] / "docs"

for section in SECTIONS:
    importlib.import_module(section)


def key(one: Statement) -> str:
    return ", ".join(map(str, one.numbers))


def measure(one: Statement, data: str) -> tuple[dict[str, Any], Finding]:
    """Run one script; what it found as JSON takes it, and the finding with its pictures."""
    began = time.perf_counter()
    finding = one.function(load(data))
    claims = [
        {"number": c.number or one.numbers[0], "text": c.text, "measured": c.measured, "holds": bool(c.holds)}
        for c in finding.claims
    ]
    seconds = round(time.perf_counter() - began, 1)
    return {"claims": claims, "text": finding.text, "seconds": seconds}, finding


def results(docs: Path) -> dict[str, Any]:
    """What was measured so far, by data set."""
    folder = docs / "lectures" / "results"
    return {
        name: json.loads((folder / f"{name}.json").read_text()) for name in DATA if (folder / f"{name}.json").is_file()
    }


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def verdict(claims: list[dict[str, Any]]) -> str:
    """In words, of the claims of one statement."""
    held = sum(claim["holds"] for claim in claims)
    return "holds" if held == len(claims) else "in part" if held else "does not hold"


def of(number: int, one: Statement, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims of one statement, out of what its script found."""
    entry = result["statements"].get(key(one), {"claims": []})
    return [claim for claim in entry["claims"] if claim["number"] == number]


def numbered() -> list[tuple[int, Statement]]:
    return sorted(((number, one) for one in STATEMENTS for number in one.numbers), key=lambda pair: pair[0])


def verdicts(found: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How many statements have which verdict, by data set."""
    counts: dict[str, dict[str, int]] = {}
    for data, result in found.items():
        count = counts.setdefault(data, {"holds": 0, "in part": 0, "does not hold": 0})
        for number, one in numbered():
            if claims := of(number, one, result):
                count[verdict(claims)] += 1
    return counts


def write(docs: Path) -> None:
    """Write the pages from what was measured."""
    found = results(docs)
    lines = [
        "# The lectures' statements, measured",
        "",
        'Every statement of CS231n\'s lectures "Training Neural Networks" has a script in `examples/lectures/`, and here its',
        "numbers and its verdict. A statement that says several things is several claims; it holds, holds in part, or does not",
        "hold *here*. Where ways to train compete, each has the same rates to choose from, the same epochs and the same seeds,",
        "fixed before running; the rate is chosen on validation data, and what is reported is measured on test data. A claim",
        "that fails on small data may hold on large data: what stands here is what was measured, not what was hoped.",
        "",
        "This page is made by `python examples/lectures/run.py` (scikit-learn's digits, a few minutes), and with",
        "`--data mnist` and `--data cifar10` (12,000 and 5,000 training images; `FASTNN_DATA` names the folder of the data).",
        "",
        "| data | holds | in part | does not hold | minutes | computed by |",
        "|---|---|---|---|---|---|",
    ]
    for data, count in verdicts(found).items():
        minutes = sum(entry["seconds"] for entry in found[data]["statements"].values()) / 60
        lines.append(f"| {data} | {' | '.join(map(str, count.values()))} | {minutes:.0f} | {found[data]['by']} |")
    lines += ["", "## Verdicts", "", f"| | statement | {' | '.join(found)} |", f"|---|---|{'---|' * len(found)}"]
    for number, one in numbered():
        cells = []
        for result in found.values():
            claims = of(number, one, result)
            cells.append(verdict(claims) if claims else "" if one.on_data else "(any data)")
        title = f"[{cell(one.texts[number])}](lectures/{one.section}.md)"
        lines.append(f"| {number} | {title} | {' | '.join(cells)} |")
    lines += ["", "## Numbers", ""]
    for number, one in numbered():
        lines += [f"**{number}. {one.texts[number]}**", ""]
        for data, result in found.items():
            claims = of(number, one, result)
            if claims:
                lines.append(f"- {data if one.on_data else 'any data'}: **{verdict(claims)}**")
            for claim in claims:
                mark = "" if claim["holds"] else " **Does not hold here.**"
                lines.append(f"  - {claim['text']}: {claim['measured']}.{mark}")
        lines.append("")
    (docs / "statements.md").write_text("\n".join(lines).rstrip() + "\n")
    for section, title in SECTIONS.items():
        (docs / "lectures" / f"{section}.md").write_text(page(docs, section, title, found))


def page(docs: Path, section: str, title: str, found: dict[str, Any]) -> str:
    """One section of the lectures: its text is the docstring of its script."""
    doc = (importlib.import_module(section).__doc__ or "").partition("\n")[2].strip()
    lines = [f"# {title}", "", doc, "", f"The script: [`{section}.py`](../../examples/lectures/{section}.py)."]
    for one in STATEMENTS:
        if one.section != section:
            continue
        lines += ["", f"## {key(one)}. {'; '.join(one.texts.values())}"]
        for data, result in found.items():
            entry = result["statements"].get(key(one))
            if entry is None:
                continue
            lines += ["", f"On {data if one.on_data else 'any data'}:", ""]
            for claim in entry["claims"]:
                mark = "" if claim["holds"] else " **Does not hold here.**"
                lines.append(f"- {claim['text']}: {claim['measured']}.{mark}")
            if entry["text"]:
                lines += ["", "```text", entry["text"].rstrip(), "```"]
            for name in entry.get("pictures", []):
                lines += ["", f"![{name.replace('-', ' ')}, {data}](pictures/{data}-{name}.png)"]
    if section == "hyperparameters" and (search := found.get("digits", {}).get("search")):
        lines += ["", "## A digits classifier by search", "", search["said"], "", "```text", search["table"], "```"]
        lines += ["", "![the search](pictures/digits-search.png)"]
    return "\n".join(lines) + "\n"


def save(docs: Path, data: str, result: dict[str, Any]) -> None:
    folder = docs / "lectures" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (docs / "lectures" / "pictures").mkdir(exist_ok=True)
    (folder / f"{data}.json").write_text(json.dumps(result, indent=1) + "\n")


def search(docs: Path, result: dict[str, Any], jobs: int, storage: Path | None) -> None:
    """Run the search of digits_99.py, or go on with it, and keep what it found."""
    import digits_99

    found = digits_99.run(jobs, storage)
    other = digits_99.again(found)
    best = found.best
    folds = ", ".join(f"{v:.2%}" for v in best.folds)
    said = (
        f"`python examples/lectures/digits_99.py` searches architecture, rate, L2, dropout, update and batch size in "
        f"{len(found.rows)} trials of five folds each. The best reaches **{best.value:.2%}**, the mean of five folds ({folds}); the "
        f"same settings on five other folds {other:.2%}. {sum(row.seconds for row in found.rows):.0f} s of training."
    )
    result["search"] = {"said": said, "value": best.value, "again": other, "table": found.table()}
    save(docs, "digits", result)
    found.plot(docs / "lectures" / "pictures" / "digits-search.png")
    print(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of statements")
    parser.add_argument("--search", action="store_true", help="search for a digits classifier of 99 %% too")
    parser.add_argument("--storage", type=Path, help="file of that search, which goes on where it was interrupted")
    parser.add_argument("--jobs", type=int, default=1, help="processes of that search")
    parser.add_argument(
        "--pages", action="store_true", help="write the pages from what was measured before, and nothing else"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the pages go (default: docs/)")
    options = parser.parse_args()
    if options.pages:
        write(options.docs)
        return 0
    before = results(options.docs).get(options.data, {})
    config = fnn.threads.config()
    by = f"fastnn {fnn.__version__}, {config['backend']} {config.get('isa', '')}, {config['threads']} threads"
    result: dict[str, Any] = {**before, "by": by, "statements": before.get("statements", {})}
    failed = 0
    for one in STATEMENTS:
        skipped = options.only and not set(options.only) & set(one.numbers)
        if skipped or (not one.on_data and options.data != "digits"):
            continue
        try:
            entry, finding = measure(one, options.data)
        except Exception:
            # One script that breaks does not take the others' results with it.
            traceback.print_exc()
            failed += 1
            continue
        (options.docs / "lectures" / "pictures").mkdir(parents=True, exist_ok=True)
        if options.data == "digits" or "augmentation" in finding.pictures:
            entry["pictures"] = list(finding.pictures)
            for name, picture in finding.pictures.items():
                picture.savefig(options.docs / "lectures" / "pictures" / f"{options.data}-{name}.png", dpi=90)
        result["statements"][key(one)] = entry
        save(options.docs, options.data, result)
        print(
            f"{key(one):>8}  {entry['seconds']:6.1f} s  {finding.verdict:<24}  {'; '.join(one.texts.values())}",
            flush=True,
        )
    if options.search:
        search(options.docs, result, options.jobs, options.storage)
    write(options.docs)
    for data, count in verdicts(results(options.docs)).items():
        print(f"{data}: " + ", ".join(f"{n} {verdict}" for verdict, n in count.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

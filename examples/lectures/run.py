"""Every statement of the lectures, measured: the command that writes docs/statements.md and docs/lectures/.

    python examples/lectures/run.py                       # the digits, all of it
    python examples/lectures/run.py --data mnist          # needs FASTNN_DATA, the folder of the data sets
    python examples/lectures/run.py --data cifar10
    python examples/lectures/run.py --only 6 26           # some of them
    python examples/lectures/run.py --search              # the search for a digits classifier of 99 %

A run of all of them starts anew, so that a data set's numbers are those of one run of one version; one with ``--only``
renews some, and the pages say so. What was measured is kept in docs/lectures/results/, a file for each data set.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from called import CALLED

import fastnn as fnn
from common import STATEMENTS, Finding, Statement, load, verdict

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
VERDICTS = ("holds", "in part", "does not hold", "cannot be told")
#: of a claim
MARKS = {True: "", False: " **Does not hold here.**", None: " **Cannot be told here.**"}
SHORT = {True: "holds", False: "**no**", None: "?"}
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
        {"number": c.number or one.numbers[0], "text": c.text, "measured": c.measured, "holds": c.holds}
        for c in finding.claims
    ]
    brief = finding.brief if not isinstance(finding.brief, str) else {one.numbers[0]: finding.brief}
    seconds = round(time.perf_counter() - began, 1)
    return {
        "claims": claims,
        "brief": {str(number): text for number, text in brief.items()},
        "text": finding.text,
        "seconds": seconds,
    }, finding


def results(docs: Path) -> dict[str, Any]:
    """What was measured so far, by data set."""
    folder = docs / "lectures" / "results"
    return {
        name: json.loads((folder / f"{name}.json").read_text()) for name in DATA if (folder / f"{name}.json").is_file()
    }


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def of(number: int, one: Statement, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The claims of one statement, out of what its script found."""
    entry = result["statements"].get(key(one), {"claims": []})
    return [claim for claim in entry["claims"] if claim["number"] == number]


def numbered() -> list[tuple[int, Statement]]:
    return sorted(((number, one) for one in STATEMENTS for number in one.numbers), key=lambda pair: pair[0])


def judged(claims: list[dict[str, Any]]) -> str:
    """The verdict on the claims of one statement."""
    return verdict([claim["holds"] for claim in claims])


def brief(number: int, one: Statement, result: dict[str, Any]) -> str:
    """What to say of one statement in a few words."""
    return result["statements"].get(key(one), {}).get("brief", {}).get(str(number), "")


def version() -> dict[str, str]:
    """What computes: the version of fastnn, of the sources where they are known, and the machine's share in it."""
    config = fnn.threads.config()
    threads = config["threads"]
    by = (
        f"fastnn {fnn.__version__}, {config['backend']} {config.get('isa', '')}, {threads} thread{'s' * (threads != 1)}"
    )
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=, changed"], cwd=DOCS, capture_output=True, text=True, check=True
        )
        by += f", sources {told.stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        pass
    return {"by": by, "on": datetime.date.today().isoformat()}


def verdicts(found: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How many statements have which verdict, by data set."""
    counts: dict[str, dict[str, int]] = {}
    for data, result in found.items():
        count = counts.setdefault(data, dict.fromkeys(VERDICTS, 0))
        for number, one in numbered():
            if claims := of(number, one, result):
                count[judged(claims)] += 1
    return counts


def write(docs: Path) -> None:
    """Write the pages from what was measured."""
    found = results(docs)
    lines = [
        "# The lectures' statements, measured",
        "",
        'CS231n\'s lectures "Training Neural Networks" say fifty things about how networks are trained. Each has a script in',
        "`examples/lectures/` that measures it, on scikit-learn's digits, on MNIST and on CIFAR-10. A statement that says several",
        "things is several claims: it **holds** where all of them do, and **in part** where some do. A claim that fails is written",
        "down as failed; one that fails on small data may hold on large data, and the other way round.",
        "",
        "- Where ways to train compete, each has the same rates to choose from, the same epochs and the same seeds, fixed before",
        "  running. Validation data choose the rate; what is reported is measured on test data.",
        "- One way is better than another where the means of their seeds (five, if nothing else is said) lie further apart than the",
        "  standard error of their difference. Where they do not, it **cannot be told** here.",
        "- The networks are small and the runs short, as the sizes below allow. These are not the accuracies that the data sets",
        "  admit: what is compared is one way with another.",
        "",
        "`python examples/lectures/run.py` makes this page and the pages it links to, with `--data mnist` and `--data cifar10` for",
        "those data sets, out of the folder that `FASTNN_DATA` names.",
        "",
        f"| data | rows: training, validation, test | {' | '.join(VERDICTS)} | minutes | measured on | computed by |",
        f"|---|---|{'---|' * len(VERDICTS)}---|---|---|",
    ]
    for data, count in verdicts(found).items():
        result = found[data]
        minutes = sum(entry["seconds"] for entry in result["statements"].values()) / 60
        rows = ", ".join(f"{n:,}" for n in result["rows"])
        cells = [data, rows, *count.values(), f"{minutes:.1f}", result["on"], result["by"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for data, result in found.items():
        for name, entry in result["statements"].items():
            if again := entry.get("again"):
                lines += ["", f"Statement {name} was measured anew on {data}, on {again['on']}, by {again['by']}."]
    lines += [
        "",
        "## One row for each statement",
        "",
        f"| | statement | {' | '.join(found)} | in fastnn |",
        f"|---|---|{'---|' * len(found)}---|",
    ]
    for number, one in numbered():
        cells = []
        for data, result in found.items():
            claims = of(number, one, result)
            text = f"**{judged(claims)}**: {cell(brief(number, one, result))}" if claims else ""
            cells.append(text if text or one.on_data or data == "digits" else "any data")
        title = f"[{cell(one.texts[number])}](lectures/{one.section}.md#statement-{one.numbers[0]})"
        names = ", ".join(f"`{name}`" for name in CALLED[number])
        lines.append(f"| {number} | {title} | {' | '.join(cells)} | {names} |")
    lines += ["", "## What does not hold everywhere", ""]
    lines += [
        "Every claim that failed, or could not be told, on one of the data sets, and what the others say to it.",
        "",
    ]
    lines += [f"| | claim | {' | '.join(found)} |", f"|---|---|{'---|' * len(found)}"]
    for number, one in numbered():
        for text, said in differing(number, one, found):
            cells = [SHORT[said[data]] if data in said else "" for data in found]
            lines.append(f"| {number} | {cell(text)} | {' | '.join(cells)} |")
    (docs / "statements.md").write_text("\n".join(lines).rstrip() + "\n")
    for section, title in SECTIONS.items():
        (docs / "lectures" / f"{section}.md").write_text(page(docs, section, title, found))


def differing(number: int, one: Statement, found: dict[str, Any]) -> list[tuple[str, dict[str, bool | None]]]:
    """The claims of a statement that do not hold on every data set: text, and by data set whether they hold."""
    claims: dict[str, dict[str, bool | None]] = {}
    for data, result in found.items():
        for claim in of(number, one, result):
            text = re.sub(r" \([^()]*\)", "", claim["text"])  # numbers of rows and the like differ
            claims.setdefault(text, {})[data] = claim["holds"]
    return [(text, said) for text, said in claims.items() if any(holds is not True for holds in said.values())]


def page(docs: Path, section: str, title: str, found: dict[str, Any]) -> str:
    """One section of the lectures: its text is the docstring of its script."""
    doc = (importlib.import_module(section).__doc__ or "").partition("\n")[2].strip()
    lines = [f"# {title}", "", doc, "", f"The script: [`{section}.py`](../../examples/lectures/{section}.py)."]
    for one in STATEMENTS:
        if one.section != section:
            continue
        lines += ["", f'<a id="statement-{one.numbers[0]}"></a>', ""]
        lines += [f"## {key(one)}. {'; '.join(one.texts.values())}"]
        for data, result in found.items():
            entry = result["statements"].get(key(one))
            if entry is None:
                continue
            lines += ["", f"On {data if one.on_data else 'any data'}:", ""]
            for claim in entry["claims"]:
                lines.append(f"- {claim['text']}: {claim['measured']}.{MARKS[claim['holds']]}")
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
    now = version()
    found = load(options.data)
    rows = [len(part[0]) for part in (found.train, found.validation, found.test)]
    result: dict[str, Any] = {**now, "rows": rows, "statements": {}}
    if "search" in before:
        result["search"] = before["search"]
    if options.only:
        if not before:
            parser.error(f"--only renews statements, and there are none of {options.data} yet: run all of them first")
        result = {**before}
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
        if options.only:
            entry["again"] = now
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

"""Compare fastnn with its peers: contestants take turns in one process, each result is checked before it is timed.

    python bench/compare.py [--filter WORD] [--threads 1,2] [--seconds 2] [--markdown]

For each workload and thread count: the median time of the best of ours and of the best peer, the spread (half of the
distance between the quartiles), the ratio (above 1: fastnn is faster), and our fraction of the roofline that is
measured in the same run. Nothing else may run meanwhile; quote ratios and fractions, not times.
"""

from __future__ import annotations

import argparse
import sys
import warnings

from workloads import WORKLOADS, Workload, check

from fastnn import threads
from fastnn.cli.peers import share_threads
from fastnn.measure import Roofline, interleave, roofline

#: contestants that are ours to be quoted; the rest are peers, but for our own fallbacks
OURS = ("compiled, program", "compiled, program channels-last", "compiled", "compiled, channels-last", "compiled, amx")
FALLBACKS = ("numba", "numpy")


def run(workload: Workload, n: int, best: Roofline, seconds: float, fallbacks: bool) -> tuple[str, ...]:
    """One row of the table, on ``n`` threads."""
    calls = workload.make()
    share_threads(n)  # now that the peers are imported
    check(workload, calls)
    # Our slow backends are checked, and timed only when asked for: they would take most of the time.
    contestants = {n: c for n, c in calls.items() if fallbacks or n not in FALLBACKS}
    timings = interleave(contestants, seconds)
    ours = min((n for n in timings if n in OURS), key=lambda n: timings[n].median)
    peers = [n for n in timings if n not in (*OURS, *FALLBACKS)]
    mine = timings[ours]
    cells = [workload.name, str(n), f"{mine.median:.3g} ± {mine.spread:.2g}"]
    if peers:
        peer = min(peers, key=lambda n: timings[n].median)
        theirs = timings[peer]
        cells += [f"{theirs.median:.3g} ± {theirs.spread:.2g}", peer, f"{theirs.median / mine.median:.2f}"]
    else:
        cells += ["", "", ""]
    fraction = best.fraction(mine.median / 1e3, workload.flops, workload.bytes)
    cells.append(f"{fraction:.0%}" if workload.flops or workload.bytes else "")
    if fallbacks:
        cells.append(", ".join(f"{n} {timings[n].median:.3g}" for n in FALLBACKS if n in timings))
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--filter", default="", help="only workloads whose name contains this")
    parser.add_argument("--threads", default=str(threads.get_num_threads()), help="thread counts, with commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each workload (default: %(default)s)")
    parser.add_argument("--fallbacks", action="store_true", help="time the Numba and NumPy backends too")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")

    header = ["workload", "threads", "fastnn, ms", "best peer, ms", "peer", "ratio", "roofline"]
    header += ["fallbacks, ms"] if options.fallbacks else []
    rows = []
    for n in map(int, options.threads.split(",")):
        share_threads(n)
        best = roofline()
        print(f"{n} threads: {best.flops / 1e9:.0f} GFLOP/s in a product, {best.bytes / 1e9:.1f} GB/s in a copy")
        for workload in WORKLOADS:
            named = options.filter.lower() in workload.name.lower() or options.filter == workload.op
            if named and (options.filter or workload.flops or workload.bytes or workload.op == "training"):
                rows.append(run(workload, n, best, options.seconds, options.fallbacks))
                print("  ".join(rows[-1]), flush=True)
    if not rows:
        sys.exit(f"no workload has {options.filter!r} in its name: {', '.join(w.name for w in WORKLOADS)}")
    print()
    if options.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in [tuple(header), ("---",) * len(header), *rows]))
    else:
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        for row in [header, *rows]:
            print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()

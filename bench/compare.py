"""Compare fastnn with its peers: contestants take turns in one process, each result is checked before it is timed.

    python bench/compare.py [--filter WORD] [--threads 1,2] [--seconds 2] [--markdown]

For each workload and thread count: the median time of the best of ours and of the best peer, the spread (half of the
distance between the quartiles), the ratio (above 1: fastnn is faster), and our fraction of the roofline that is
measured in the same run. Nothing else may run meanwhile; quote ratios and fractions, not times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from dataclasses import dataclass

import roofline as rooflines
from workloads import WORKLOADS, Call, Workload, check

import fastnn as fnn
from fastnn import threads

#: contestants that are ours to be quoted; the rest are peers, but for our own fallbacks
OURS = ("compiled, program", "compiled", "compiled, amx", "compiled, amx channels-last")
FALLBACKS = ("numba", "numpy")


@dataclass(frozen=True)
class Timing:
    """Median and spread in ms."""

    median: float
    spread: float


def rest() -> None:
    """Wait until no thread of this process computes: torch's spin for some 9 ms after a call, OpenBLAS's for 105."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return


def interleave(calls: dict[str, Call], seconds: float) -> dict[str, Timing]:
    """Time the contestants in turns for about ``seconds`` together; a turn is a few calls, of which the mean counts.

    A turn begins with a pause, in which the threads of the one before stop spinning on the processors that the next one
    needs, and with a call that is not timed, which wakes the own threads and brings the own data back into the caches.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        once = time.perf_counter() - began
        repeats[name] = max(1, min(1000, int(0.01 / max(once, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < 9:
        for name in order:
            call, n = calls[name], repeats[name]
            rest()
            call()
            began = time.perf_counter()
            for _ in range(n):
                call()
            times[name].append(1e3 * (time.perf_counter() - began) / n)
        order = order[1:] + order[:1]  # nobody always follows the same neighbour
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = Timing(median, (high - low) / 2)
    return result


def set_threads(n: int) -> None:
    """The same thread count for everybody."""
    fnn.set_num_threads(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
    try:
        import threadpoolctl

        threadpoolctl.threadpool_limits(n)
    except ImportError:
        pass


def run(workload: Workload, n: int, roofline: rooflines.Roofline, seconds: float, fallbacks: bool) -> tuple[str, ...]:
    """One row of the table, on ``n`` threads."""
    calls = workload.make()
    set_threads(n)  # now that the peers are imported
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
        best = timings[peer]
        cells += [f"{best.median:.3g} ± {best.spread:.2g}", peer, f"{best.median / mine.median:.2f}"]
    else:
        cells += ["", "", ""]
    fraction = roofline.fraction(mine.median / 1e3, workload.flops, workload.bytes)
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
        set_threads(n)
        best = rooflines.measure()
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

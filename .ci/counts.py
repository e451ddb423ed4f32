"""Compare how many tests ran on each engine and op with the committed counts; a drop is an error.

    python .ci/counts.py NEW COMMITTED [--write]

An engine that the machine lacks is said, and no error. --write replaces the committed counts.
"""

import json
import sys
from pathlib import Path

new_path, committed_path = Path(sys.argv[1]), Path(sys.argv[2])
new = json.loads(new_path.read_text())
if "--write" in sys.argv:
    committed_path.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
committed = json.loads(committed_path.read_text())
problems = []
print(f"{'engine':10} {'ops':>5} {'tests':>7}")
for engine, ops in sorted(new.items()):
    print(f"{engine:10} {len(ops):5} {sum(ops.values()):7}")
for engine, ops in committed.items():
    if engine not in new:
        print(f"{engine:10}     - not on this machine")
        continue
    problems += [
        f"{engine}: {op} passed {new[engine].get(op, 0)} tests, {count} are expected"
        for op, count in ops.items()
        if new[engine].get(op, 0) < count
    ]
print(f"{len(new)} engines, {sum(len(ops) for ops in new.values())} pairs of engine and op")
if problems:
    sys.exit("\n".join(["fewer tests than before:", *problems]))

#!/usr/bin/env python3
"""Look at the kernel objects of a release build: what they export, and what their hot loops spill.

    python tests/native/check_objects.py BUILD_FOLDER [--function REGEX] [--fma N] [--list]

The same sources are compiled once per instruction set and linked together. If an object exported a weak symbol (an
inline function, a template of the standard library), the linker would keep one set's copy for all, and the program
would die on a processor without it. So, for every object of every set:

- no weak or unique symbol, defined or not (letters W V w v u of nm);
- nothing of std:: is defined, however local: it says that an inline function was not inlined and is one flag from weak;
- every global definition is inside fastnn::<set>, or is the set's table.

A hot loop keeps its accumulators in registers; gcc gives that up in silence, and the kernel then runs at a third of its
speed. A hot loop is here an innermost loop (the range of a backward jump in which no other backward jump lies) with at
least N multiply-adds on vectors, in a function whose demangled name matches REGEX; the scalar set has no fused ones and
its multiplications count. Counted as spills are stores of vector registers to the stack, relative to the stack pointer
or to the frame pointer where the function has one. Loads are not: a constant that is read again each time around is
cheap. Loops of EXCUSED may spill, each for its reason.

A register tile (a function `tile<T, rows, vectors, ...>`) must also have a loop with rows x vectors multiply-adds: one
that has less has left its accumulators in an array.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

# (instruction set, function) as regular expressions -> reason
EXCUSED: dict[tuple[str, str], str] = {
    ("scalar", r"^(?!.*::tile<)"): "16 registers without fused multiply-add hold no polynomial; tiles fit",
    ("avx2", r"::(sigmoid|tanh|elu|exp)_forward\("): "float64: 16 registers hold no two polynomials",
    ("avx2", r"::Finish::write<.*, unsigned short, "): "the tiles' twin, which only tests run, rounds to bfloat16",
    ("avx2", r"::add_forward_of<"): "bound by exp: with a sum before them its activations are short of a few registers",
    ("scalar", r"::GroupedRow<.*::tile<"): "lanes are permuted one by one",
    ("scalar", r"::DepthwiseRow<.*::tile<"): "parts of vectors are read lane by lane; no fused multiply-add",
    ("avx2", r"::GroupedRow<\w+, true, 3.*::tile<8, true>"): "edges alone: at most 2 stores in 24 multiply-adds",
    (r"avx512|amx", r"::(gelu_forward\(|add_forward_of<)|\(fastnn::Activation\)13\b"): (
        "gelu: its tables take 8 of 32 registers; one store in 8 multiply-adds, and memory at the speed of relu"
    ),
    (r"avx2|avx512|amx", r"::sgd_step\("): "bound by memory, 20 bytes an element; stores a segment's settings",
    (r"avx2|avx512|amx", r"::log_softmax_row<"): "bound by exp: one store for every 8 multiply-adds",
    (r"avx2|avx512|amx", r"::mean_loss<.*binary_cross"): "bound by exp: at most 3 stores in 14",
}
TILE = re.compile(r"::tile<\w+, (\d+), (\d+)\b")

FMA = re.compile(r"^vf(n?)m(add|sub)\w*p[sd]\s|^vdpbf16ps\s|^tdpbf16ps\s")
MULTIPLY = re.compile(r"^v?mulp[sd]\s")
VECTOR_STORE = re.compile(r"^v?mov\w+\s+%[xyz]mm\d+,(?:-?0x[0-9a-f]+)?\((%r[sb]p)[,)]")
JUMP = re.compile(r"^(?:j\w+|loop)\s+([0-9a-f]+)\b")


@dataclass
class Function:
    name: str
    code: list[tuple[int, str]] = field(default_factory=list)  # address, instruction

    def innermost_loops(self) -> list[list[str]]:
        """Return the instructions of every innermost loop."""
        begin, end = self.code[0][0], self.code[-1][0]
        loops = set()
        for address, text in self.code:
            jump = JUMP.match(text)
            if jump and begin <= int(jump[1], 16) <= address <= end:
                loops.add((int(jump[1], 16), address))
        inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
        return [[text for address, text in self.code if first <= address <= last] for first, last in sorted(inner)]

    def spills(self, loop: list[str]) -> list[str]:
        """Return the stores of vector registers to the stack."""
        has_frame = any(re.match(r"mov\s+%rsp,%rbp", text) for _, text in self.code)
        stores = [(text, VECTOR_STORE.match(text)) for text in loop]
        return [text for text, store in stores if store and (store[1] == "%rsp" or has_frame)]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(path: Path) -> list[Function]:
    """Disassemble an object."""
    found: list[Function] = []
    for line in run("objdump", "-d", "-C", "--no-show-raw-insn", str(path)).splitlines():
        if header := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            found.append(Function(header[1]))
        elif instruction := re.match(r"^\s*([0-9a-f]+):\t(.*)$", line):
            found[-1].code.append((int(instruction[1], 16), instruction[2].strip()))
    return [f for f in found if f.code]


def without_arguments(name: str) -> str:
    """Strip template arguments and parameters from a demangled name."""
    name = name.replace("(anonymous namespace)", "{anonymous}").replace("operator()", "operator_call")
    kept, depth = "", 0
    for c in name:
        depth += c in "<(" and 1
        kept += c if depth == 0 else ""
        depth -= c in ">)" and 1
    return kept


def check_symbols(isa: str, path: Path) -> tuple[list[str], int]:
    """Return what is wrong with the symbols of an object, and how many it defines."""
    wrong, defined = [], 0
    for line in run("nm", "-C", str(path)).splitlines():
        letter, name = line[17], line[19:]
        if letter in "WVwvu":
            wrong.append(f"weak symbol: {name}")
        if letter == "U":
            continue
        defined += 1
        short = without_arguments(name)
        if re.search(r"\bstd::", short):
            wrong.append(f"a piece of the standard library is compiled for this set: {name}")
        elif letter.isupper() and not re.search(rf"\bfastnn::{isa}::|\bfastnn::table_{isa}$", short):
            wrong.append(f"global symbol outside fastnn::{isa}: {name}")
    return wrong, defined


def main() -> int:
    """Check every kernel object of the build folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--function", default="", help="only hot loops of functions whose demangled name matches")
    parser.add_argument("--fma", type=int, default=8, help="multiply-adds that make a loop hot (default 8)")
    parser.add_argument("--list", action="store_true", help="print every hot loop")
    options = parser.parse_args()

    failures = 0
    folders = sorted(options.build.glob("CMakeFiles/fastnn_kernels_*.dir"))
    for folder in folders:
        isa = folder.name.removeprefix("fastnn_kernels_").removesuffix(".dir")
        counts = {"objects": 0, "symbols": 0, "hot loops": 0, "excused": 0, "tiles": 0}
        for path in sorted([*folder.rglob("*.o"), *folder.rglob("*.obj")]):
            source = path.relative_to(folder)
            wrong, defined = check_symbols(isa, path)
            counts["objects"] += 1
            counts["symbols"] += defined
            for function in functions(path):
                if not re.search(options.function, function.name):
                    continue
                largest = 0
                for loop in function.innermost_loops():
                    fmas = sum(bool((MULTIPLY if isa == "scalar" else FMA).match(text)) for text in loop)
                    largest = max(largest, fmas)
                    if fmas < options.fma:
                        continue
                    spills = function.spills(loop)
                    excused = any(re.search(key[0], isa) and re.search(key[1], function.name) for key in EXCUSED)
                    counts["hot loops"] += 1
                    counts["excused"] += bool(spills) and excused
                    if options.list:
                        print(f"{isa}: {fmas} multiply-adds, {len(spills)} spills, {len(loop)} long: {function.name}")
                    if spills and not excused:
                        wrong.append(f"{len(spills)} spills among {fmas} multiply-adds in {function.name}: {spills[0]}")
                if tile := TILE.search(function.name):
                    counts["tiles"] += 1
                    if largest < int(tile[1]) * int(tile[2]):
                        wrong.append(f"at most {largest} multiply-adds in a loop of {function.name}")
            for problem in wrong:
                print(f"{isa}: {source}: {problem}")
            failures += len(wrong)
        print(f"{isa}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
        if not options.function and 0 in (counts["symbols"], counts["hot loops"], counts["tiles"]):
            print(f"{isa}: nothing to look at; is this a release build?")
            failures += 1
    if not folders:
        print(f"{options.build}: no kernel objects")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

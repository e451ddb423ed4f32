"""The documents tell the truth: README's code runs as printed and prints what it says, CONTRIBUTING's quotations are
lines of the files that it names, and its tree is the tree."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fastnn
from fastnn import _backends
from onnx_files import small_cnn

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\S*) *(.*?)\n(.*?)^```$", re.M | re.S)
ALGORITHM = re.compile(r"\b(amx|direct|gemm|im2col|winograd)\b")
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the documents are not beside these tests")


def blocks(document: str) -> list[tuple[str, str, str]]:
    """(language, the rest of the fence's line, text) of every block of code."""
    return FENCE.findall((ROOT / document).read_text())


def assert_printed(printed: str, promised: str) -> None:
    """Equal, but for what depends on the instruction set: the algorithms that were chosen, and 2 in percentages.

    Other instruction sets round differently, and 2 % are 8 test images.
    """
    printed, promised = (
        re.sub(r"  +", "  ", re.sub(r"-{3,}", "---", ALGORITHM.sub("chosen", text))) for text in (printed, promised)
    )
    percent = re.compile(r"(\d+\.\d+)%")
    assert percent.sub("%", printed).strip() == percent.sub("%", promised).strip()
    for got, want in zip(percent.findall(printed), percent.findall(promised), strict=True):
        assert float(got) == pytest.approx(float(want), abs=2)


def run_code(document: str) -> tuple[int, int]:
    """Run every python block, in one session, and compare the text block right after one with what it prints."""
    session: dict[str, Any] = {}
    ran = compared = 0
    found = blocks(document)
    for (language, _, text), (following, _, promised) in zip(found, [*found[1:], ("", "", "")], strict=True):
        if language != "python":
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, document, "exec"), session)
        ran += 1
        if following == "text":
            assert_printed(output.getvalue(), promised)
            compared += 1
    return ran, compared


@pytest.mark.skipif(
    _backends.missing_reason("compiled") is not None, reason="README shows programs, which are compiled"
)
def test_readme_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)  # for the files that they write
    (tmp_path / "net.onnx").write_bytes(small_cnn())
    with _backends.using("compiled"):  # what it prints is of programs, whichever backend is asked for
        assert run_code("README.md") == (4, 4)


GUIDES = {
    "preprocess": 2,
    "augment": 2,
    "statistics": 1,
    "monitors": 3,
    "gradcheck": 1,
    "onnx": 5,
    "doctor": 1,
    "search": 1,
    "ensemble": 1,
}


@pytest.mark.parametrize("name", GUIDES)
def test_guides(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    if name == "search":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    if name == "onnx":
        (tmp_path / "net.onnx").write_bytes(small_cnn())
    assert run_code(f"docs/{name}.md") == (GUIDES[name],) * 2


def test_readme_table() -> None:
    """Every row of the measured table has every column."""
    text = (ROOT / "README.md").read_text()
    assert not re.search(r"TODO|FIXME|XXX|coming soon", text, re.I)
    before, rest = text.split("<!-- table -->")
    table, after = rest.split("<!-- /table -->")
    assert before and after
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) <= 1


def test_links_lead_somewhere() -> None:
    for document in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(f"docs/{name}.md" for name in (*GUIDES, "statements")),
    ):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            here = (ROOT / document).parent / target
            assert target.startswith("https://") or here.exists(), f"{document}: {target}"


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fastnn.__version__
    assert re.search(rf"^## \[?{re.escape(fastnn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_commands_of_the_readme() -> None:
    """The extras that it names exist, and each has what the commands after it need."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r'"\.\[(\w+)\]"', (ROOT / "README.md").read_text()))
    assert named == {"train", "test", "bench"} and named <= set(extras)
    assert {"tqdm", "scikit-learn", "matplotlib"} <= set(extras["train"])
    assert any(package.startswith("numba") for package in extras["test"])


QUOTES = [
    (path, text) for _, path, text in (blocks("CONTRIBUTING.md") if (ROOT / "CONTRIBUTING.md").exists() else []) if path
]


@pytest.mark.parametrize(("path", "text"), QUOTES, ids=lambda value: value if "\n" not in value else "")
def test_contributing_quotes_the_code(path: str, text: str) -> None:
    """Every line of a quotation is a line of the file, in the file's order; ... leaves lines out."""
    lines = iter([" ".join(line.split()) for line in (ROOT / path).read_text().splitlines()])
    for quoted in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        assert quoted == "..." or quoted in lines, f"not in {path}, or in another order: {quoted}"


def test_contributing_adds_an_op_through_every_file_that_names_it() -> None:
    """A file that must name the op and is not in the walk is a step that a reader would miss."""
    noun = "leaky_relu"
    folders = [(ROOT / "csrc/kernels", "*.hpp"), (ROOT / "fastnn", "*.py"), (ROOT / "fastnn", "*.pyx")]
    listing = ROOT.joinpath("csrc/kernels/kernels.hpp").read_text()
    assert noun in listing
    naming = {
        str(path.relative_to(ROOT))
        for folder, pattern in folders
        for path in folder.rglob(pattern)
        if re.search(rf"\b{noun}(_forward|_backward)?\b", path.read_text())
    }
    # a gain for it, a faster end of a convolution, and |x| as one whose slope is -1
    others = {"fastnn/init.py", "csrc/kernels/conv/epilogue.hpp", "fastnn/onnx/moves.py"}
    assert naming - others <= {path for path, _ in QUOTES}


def test_contributing_shows_the_tree() -> None:
    """Each folder of the sources is a line of the tree, and each line is a folder or a file."""
    tree = next(text for language, _, text in blocks("CONTRIBUTING.md") if language == "text")
    shown, stack = set(), [""]
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith(" " * 20):  # the text of the line before goes on
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        stack[depth + 1 :] = [f"{stack[depth]}{name}"]
        shown.add(stack[-1])
    folders = {
        f"{path.relative_to(ROOT)}/"
        for top in ("csrc", "fastnn", "tests", "bench", "examples")
        for path in [ROOT / top, *(ROOT / top).rglob("*/")]
        if path.is_dir() and "__pycache__" not in path.parts and any(p.is_file() for p in path.iterdir())
    }
    assert folders <= shown, "folders without a line"
    for entry in shown - {".ci/"}:  # the archive of the sources leaves .ci out
        assert (ROOT / entry).exists(), f"{entry} is not there"

"""The command line, as a person meets it: what it prints, what it writes, and what it says when something is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn
from fastnn import cli, threads


def run(*arguments: str, blocked: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``fastnn arguments`` in a process of its own, in which the packages ``blocked`` cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        f"from fastnn.cli import main; sys.exit(main({arguments!r}))"
    )
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_info_tells_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    c = threads.config()
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in printed.splitlines() if not line.startswith(" "))
    assert rows["fastnn"].startswith(fastnn.__version__)
    assert rows["backend"] == f"{c['backend']}: {c['backend_why']}"
    assert rows["threads"] == f"{c['threads']}: {c['threads_why']}"
    if c["backend"] == "compiled":
        assert rows["instruction set"] == f"{c['isa']}: {c['isa_why']}"


def test_info_names_the_variable_that_chose() -> None:
    result = run("info", FASTNN_BACKEND="numpy", FASTNN_ISA="")
    assert result.returncode == 0 and not result.stderr
    assert re.search(r"^backend +numpy: FASTNN_BACKEND$", result.stdout, re.M)


@pytest.mark.parametrize(
    ("variable", "value"), [("FASTNN_BACKEND", "fortran"), ("FASTNN_ISA", "sse9"), ("FASTNN_NUM_THREADS", "many")]
)
def test_a_wrong_variable_is_an_error(variable: str, value: str) -> None:
    if variable != "FASTNN_BACKEND" and threads.config()["backend"] != "compiled":
        pytest.skip("only the compiled backend reads this variable")
    result = run("info", **{variable: value})
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert variable in last or value in last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"fastnn {fastnn.__version__}\n"


def test_python_m_fastnn() -> None:
    command = [sys.executable, "-P", "-m", "fastnn", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"fastnn {fastnn.__version__}\n")


def test_without_a_command_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    printed = capsys.readouterr().out
    assert all(
        re.search(rf"^ +{command} ", printed, re.M)
        for command in ("demo", "convert", "predict", "bench", "doctor", "info")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demmo"], "invalid choice: 'demmo'"),
        (["demo", "--epochs", "0"], "expected a whole number from 1 to"),
        (["demo", "--seed", "-1"], "expected a whole number from 0 to"),
        (["info", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2
    assert said in capsys.readouterr().err


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    assert cli.main(["demo", "--epochs", "1", "--output", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()

    accuracy = [float(m[1]) for line in lines if (m := re.fullmatch(r"test accuracy (\d+\.\d\d) %", line))]
    # Chance is 10 %; one epoch of the twenty gives 90 to 97 % over seeds, backends and instruction sets.
    assert len(accuracy) == 1 and 80 < accuracy[0] <= 100
    each = [float(m[1]) for line in lines if (m := re.fullmatch(r"network \d: \d+ test images, accuracy (.+) %", line))]
    assert len(each) == 5 and min(each) <= accuracy[0] <= max(each)

    differences = [m for line in lines if (m := re.search(r"uncompiled network (\S+), where .* score is (\S+)$", line))]
    difference, largest = map(float, differences[0].groups())
    # Folding batch norm rounds each weight once more: a few float32 steps of the largest score after three layers.
    assert difference <= 50 * 2**-24 * largest

    rows = {line.split("  ")[0]: line.split()[-3:] for line in lines if line.startswith(("fastnn, ", "torch "))}
    assert f"fastnn, {threads.config()['backend']}" in rows and "fastnn, numpy" in rows
    assert all(float(ms) > 0 and float(error) < 1e-3 for ms, _, error in rows.values())

    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    assert width > 800 and height > 300


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("sklearn", "the demo needs scikit-learn; install it with: pip install 'fastnn[train]'"),
        ("matplotlib", "a picture needs matplotlib; install it with: pip install 'fastnn[train]'"),
    ],
)
def test_a_missing_extra_is_named_before_any_work(package: str, said: str, tmp_path: Path) -> None:
    result = run("demo", "--output", str(tmp_path / "curves.png"), blocked=(package,))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"fastnn demo: {said}\n")


def test_a_missing_folder_is_named_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    assert cli.main(["demo", "--output", str(tmp_path / "none" / "curves.png")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "there is no folder" in err and str(tmp_path / "none") in err
    assert not any(tmp_path.iterdir())

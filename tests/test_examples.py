"""The examples run as they are and come to what they promise."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are not beside these tests")

#: what main() returns. Seeds are fixed: only rounding differs between backends and instruction sets.
PROMISES: dict[str, Callable[[Any], bool]] = {
    "digits": lambda accuracy: accuracy > 0.97,  # 98.3 %; one image of the test set is 0.3 %
    "spiral": lambda accuracies: accuracies[0] < 0.6 and accuracies[1] > 0.97,  # 52.9 and 98.6 %
    "unet": lambda overlaps: overlaps[1] > max(0.55, overlaps[0] + 0.04),  # 51.6 and 70.5 %
    "custom_layer": lambda result: result[0] and result[1] > 0.95,  # 97.8 %
}


def test_every_example_promises_something() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", PROMISES)
def test_example(name: str) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert PROMISES[name](module.main())


def test_an_example_runs_as_a_script() -> None:
    command = [sys.executable, "-P", "-W", "error", str(FOLDER / "custom_layer.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "gradient check passed" in result.stdout

"""For all tests: what they run on, stated at the top; hypothesis made repeatable; and the counts that .ci/run compares.

``--counts FILE`` writes how many tests passed on each engine (engines.py), by op, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from engines import ENGINES, MISSING  # before fastnn, whose import may warn

import fastnn  # isort: skip

# Processes started by tests run `python -P`: without it they import the sources in the working folder, not what is
# installed.
# No deadlines: machines are shared. In CI the same examples at every run; a failure elsewhere prints how to repeat it.
# Without the phase that explains failures, which runs a failing test hundreds of times more.
_settings: Any = {"deadline": None, "max_examples": 30, "phases": set(hypothesis.Phase) - {hypothesis.Phase.explain}}
hypothesis.settings.register_profile("default", print_blob=True, **_settings)
hypothesis.settings.register_profile("ci", derandomize=True, **_settings)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

_passed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--counts", type=Path, help="write the number of passed tests for each engine and op to this file")


def pytest_configure(config: pytest.Config) -> None:
    folder = Path(fastnn.__file__).parent
    # An editable install has the sources here and the extension elsewhere.
    kernels = importlib.util.find_spec("fastnn._core") or os.environ.get("FASTNN_BACKEND")
    if folder.parent == config.rootpath and not kernels:
        pytest.exit(
            f"these tests would run on the sources in {folder}, without kernels, and not on what is installed: after "
            "`pip install '.[test]'` use `pytest`, not `python -m pytest`",
            returncode=4,
        )


def pytest_report_header() -> list[str]:
    config = fastnn.threads.config()
    lines = [f"fastnn {fastnn.__version__} from {Path(fastnn.__file__).parent}, {config['threads']} threads"]
    lines += [f"engines: {', '.join(engine.name for engine in ENGINES)}"]
    return lines + [f"missing: {name}: {why}" for name, why in MISSING.items()]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    noted = dict(report.user_properties).get("engine")
    if noted and report.when == "call" and report.passed:
        engine, what = noted
        _passed[engine][what] += 1


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data and trained networks, which are not part of the project: the folder that FASTNN_DATA names."""
    folder = os.environ.get("FASTNN_DATA")
    if not folder:
        pytest.skip("FASTNN_DATA, the folder of data sets and trained networks, is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def _note_engine(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Note on which engine a test runs, and for which op (or else, of which name it is)."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if "engine" in parameters:
        op = parameters.get("op", parameters.get("kernel", request.function.__name__))
        record_property("engine", (parameters["engine"].name, str(getattr(op, "kernel", op))))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for engine, what in _passed.items():
        ops = len(set(what) & set(fastnn._backends.OUTPUTS))
        terminalreporter.write_line(f"{engine:8} {sum(what.values()):5} tests passed, of {ops} ops and more")
    if config.getoption("--counts"):
        config.getoption("--counts").write_text(json.dumps(_passed, indent=1, sort_keys=True))

"""For `pytest bench`: this folder's files are bench_*.py, and torch warns of what it will change one day."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("python_files", "bench_*.py")

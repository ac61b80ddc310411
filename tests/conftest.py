"""What every test shares: one thread a process, and the data beside the repository where there is any."""

import os
import signal
from pathlib import Path

import pytest

# Before any import of torch: two workers with a thread pool each would fight over the cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# `nohup make test` ignores it, and so would the commands that tests send it to.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and facts beside the repository; a test that asks for it is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder ../shared beside the repository")
    return folder


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that the test starts are not measured by coverage, which slows Python down by half.

    For tests whose commands run code that others measure.
    """
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)

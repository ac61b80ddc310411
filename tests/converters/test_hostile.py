"""The hostile set (hostile.py): 200 files, each ends with status 2 and one line, in time and memory, without traces."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.converters import layouts
from tests.converters.hostile import Generator, Result, complaint, run_here, run_process

SECONDS = 10
MEMORY = 2e9
# One file of each kind that needs a process of its own to be believed.
SAMPLE = ("truncated", "bomb", "command", "unreadable")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    folder = tmp_path_factory.mktemp("hostile")
    generator = Generator(folder)
    generator.all()
    yield generator
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def results(generator: Generator) -> list[Result]:
    before = sorted(path.name for path in generator.folder.iterdir())
    found = list(run_here(generator.cases, generator.folder / "output" / "out.pkl"))
    assert sorted(path.name for path in generator.folder.iterdir()) == before, "a file was written"
    return found


def test_there_are_200(generator: Generator) -> None:
    assert len(generator.cases) == 200
    assert len({case.path.name for case in generator.cases}) == 200


def test_each_ends_with_one_line_and_status_2(results: list[Result]) -> None:
    assert [text for text in map(complaint, results) if text] == []


def test_each_in_time_and_memory(results: list[Result]) -> None:
    assert max(result.seconds for result in results) < SECONDS
    assert max(result.peak for result in results) < MEMORY


def test_nothing_was_run_or_written(generator: Generator, results: list[Result]) -> None:
    assert not generator.marker.exists()
    assert not (generator.folder / "output").exists()


def test_messages_name_the_file_and_a_remedy(results: list[Result]) -> None:
    for result in results:
        assert result.case.path.name in result.err, result.err
        assert ";" in result.err or "check the path" in result.err, result.err
        assert len(result.err) < 700, result.err


@pytest.mark.parametrize("kind", SAMPLE)
def test_as_a_command_of_its_own(kind: str, generator: Generator) -> None:
    """The same in a fresh process, whose time and peak memory are its own."""
    case = max((case for case in generator.cases if case.kind == kind), key=lambda case: case.path.stat().st_size)
    result = run_process(case, generator.folder / "output" / "out.pkl")
    assert complaint(result) == ""
    assert result.seconds < SECONDS * 3, "three times, for a machine that runs other tests beside this one"
    assert result.peak < MEMORY
    assert not generator.marker.exists() and not (generator.folder / "output").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read the file")
def test_a_file_of_another_user(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, layouts.trained("resnet18x0.125"))
    path.chmod(0o600)
    code = f"""
import os, pathlib
from converters.untrusted_files import check_regular
from runs.app import cli
os.seteuid(65534)
cli(lambda: check_regular(pathlib.Path({str(path)!r})))()
"""
    # The other user cannot write coverage's data file here, and coverage would say so on standard error.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=layouts.ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "permission" in done.stderr.lower() and done.stderr.count("\n") == 1

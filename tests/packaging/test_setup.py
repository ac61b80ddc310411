"""packaging/setup.sh: what a newcomer can put right is one line and exit status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def setup(root: Path, venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "packaging/setup.sh", str(venv)],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def fake_python(folder: Path, version: str) -> Path:
    """A program that answers as a Python of that version would."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} && exit 0\nexit 1\n')
    program.chmod(0o755)
    return program


def test_a_python_that_is_too_old(root: Path, tmp_path: Path) -> None:
    done = setup(root, tmp_path / "venv", PYTHON=str(fake_python(tmp_path / "old", "3.9.1")))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "no Python 3.11 or later found" in done.stderr and "make setup PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_environment_that_is_too_old(root: Path, tmp_path: Path) -> None:
    fake_python(tmp_path / "venv/bin", "3.9.1")
    done = setup(root, tmp_path / "venv")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has Python 3.9.1, Python 3.11 or later is needed" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("data")
    done = setup(root, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "is no Python environment" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.slow
def test_an_unfinished_environment_is_built_anew(root: Path, tmp_path: Path) -> None:
    """Killed halfway: the folder holds a marker, a stray file and no working Python."""
    venv = tmp_path / "venv"
    fake_python(venv / "bin", "3.11.0")
    (venv / ".unfinished").touch()
    (venv / "stray").touch()
    # No index: the set-up gets as far as a fresh environment with pip, and stops where uv is downloaded.
    done = setup(root, venv, PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode != 0
    assert "was left unfinished: building it anew" in done.stderr
    assert not (venv / "stray").exists()
    assert (venv / ".unfinished").exists(), "the next call must start again"
    version = subprocess.run([venv / "bin/python", "-m", "pip", "--version"], capture_output=True, text=True)
    assert version.returncode == 0

"""The wheel, installed into an environment of its own."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[[list[str], Path], str]


@pytest.fixture(scope="session")
def call() -> Call:
    """Run a command in a folder and return what it prints."""

    def run(command: list[str], folder: Path) -> str:
        # None of the variables by which these tests reach the clone.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def console(root: Path, call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`siamese-transfer` of the wheel in a fresh environment, with the packages of this one but not the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools would take what an earlier build left in the clone's build/.
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a Git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        if not name.startswith(("docs/", "results/", "tests/")) and (root / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((root / name).read_bytes())
    build = "-m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir . ./source"
    call([sys.executable, *build.split()], folder)
    venv = folder / "venv"
    call([sys.executable, "-m", "venv", "--without-pip", str(venv)], folder)
    python = venv / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    install = f"-m uv pip install --quiet --no-deps --offline --python {python} {wheel}"
    call([sys.executable, *install.split()], folder)
    [packages] = venv.glob("lib/python*/site-packages")
    # A path alone: .pth files in that folder, the clone's editable install among them, are not read.
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "siamese-transfer"

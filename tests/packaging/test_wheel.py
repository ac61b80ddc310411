"""The wheel in an environment of its own: it works outside the clone, and nothing in the current folder shadows it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import torchvision

from runs import __version__

HOSTILE = ("benchmarks", "converters", "pretrain", "runs", "siamese_transfer", "torch", "transfer")


@pytest.fixture(scope="module")
def console(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            "./source",
        ],
        folder,
    )
    venv = folder / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], folder)
    python = venv / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--offline",
            "--python",
            str(python),
            str(wheel),
        ],
        folder,
    )
    [packages] = venv.glob("lib/python*/site-packages")
    # A path alone: .pth files in that folder, the clone's editable install among them, are not read.
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "siamese-transfer"


def run(command: list[str], folder: Path) -> str:
    # None of the variables by which these tests reach the clone.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=["empty", "hostile"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if request.param == "hostile":
        for name in HOSTILE:
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the current folder was started')\n")
    return tmp_path


@pytest.mark.slow
def test_plan_convert_and_gate_work_in_any_folder(console: Path, folder: Path) -> None:
    assert run([str(console), "--version"], folder) == f"siamese-transfer {__version__}\n"
    assert "SimSiam" in run([str(console), "show", "table5"], folder)
    commands = run([str(console), "plan", "table4", "--scale", "mini", "--commands"], folder)
    assert "python -m pretrain " in commands and "python -m pretrain.knn " in commands
    assert "--baseline" in run([str(console), "gate", "--help"], folder)
    network = torchvision.models.resnet18()
    network(torch.randn(2, 3, 64, 64))  # batch norms at their initial values would be refused as untrained
    torch.save(network.state_dict(), folder / "resnet18.pth")
    run([str(console), "convert", "detectron2", "resnet18.pth", "backbone.pkl"], folder)
    assert (folder / "backbone.pkl").stat().st_size > 2**20
    assert "recipe" in run([str(console), "transfer", "--cfg", "job", "data.root=x"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["hostile"], indirect=True)
def test_a_run_starts_its_children_from_the_wheel(console: Path, folder: Path) -> None:
    words = ["table4", "--scale", "mini", "--rows", "scratch", "--columns", "knn200", "--trials", "1"]
    assert "n = 1" in run([str(console), "run", *words], folder)


@pytest.mark.slow
def test_the_wheel_names_the_builder_of_detectron2(console: Path, tmp_path: Path) -> None:
    builder = Path(run([str(console), "detectron2"], tmp_path).strip())
    assert builder.is_relative_to(console.parents[1])
    assert sorted(path.name for path in builder.iterdir()) == ["backend.py", "pyproject.toml"]

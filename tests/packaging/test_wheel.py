"""The wheel in an environment of its own: it works outside the clone, and nothing in the current folder shadows it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runs import __version__
from tests.converters import layouts

Call = Callable[[list[str], Path], str]
HOSTILE = ("benchmarks", "converters", "pretrain", "runs", "siamese_transfer", "torch", "transfer")


@pytest.fixture(params=["empty", "hostile"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if request.param == "hostile":
        for name in HOSTILE:
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the current folder was started')\n")
    return tmp_path


@pytest.mark.slow
def test_plan_convert_and_gate_work_in_any_folder(console: Path, call: Call, folder: Path) -> None:
    assert call([str(console), "--version"], folder) == f"siamese-transfer {__version__}\n"
    assert "SimSiam" in call([str(console), "show", "table5"], folder)
    commands = call([str(console), "plan", "table4", "--scale", "mini", "--commands"], folder)
    assert "python -m pretrain " in commands and "python -m pretrain.knn " in commands
    assert "--baseline" in call([str(console), "gate", "--help"], folder)
    torch.save(layouts.trained("resnet18").state_dict(), folder / "resnet18.pth")
    call([str(console), "convert", "detectron2", "resnet18.pth", "backbone.pkl"], folder)
    assert (folder / "backbone.pkl").stat().st_size > 2**20
    assert "recipe" in call([str(console), "transfer", "--cfg", "job", "data.root=x"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("safe", [False, True])
def test_python_m_notices_a_file_of_the_same_name(console: Path, tmp_path: Path, safe: bool) -> None:
    (tmp_path / "pretrain.py").write_text("print('mine')\n")
    words = [console.parent / "python", *(["-P"] if safe else []), "-m", "pretrain", "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == (f"siamese-transfer {__version__}\n" if safe else "mine\n")
    assert done.stderr.startswith("warning: pretrain.py of the current folder ") != safe, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["hostile"], indirect=True)
def test_a_run_starts_its_children_from_the_wheel(console: Path, call: Call, folder: Path, root: Path) -> None:
    scale = root / "examples/notebooks/tiny.yaml"
    words = ["table4", "--scale", str(scale), "--rows", "scratch", "--columns", "knn200", "--trials", "1"]
    assert "n = 1" in call([str(console), "run", *words], folder)


@pytest.mark.slow
def test_the_wheel_names_the_builder_of_detectron2(console: Path, call: Call, tmp_path: Path) -> None:
    builder = Path(call([str(console), "detectron2"], tmp_path).strip())
    assert builder.is_relative_to(console.parents[1])
    assert sorted(path.name for path in builder.iterdir()) == ["backend.py", "pyproject.toml"]

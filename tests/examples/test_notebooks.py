"""The notebooks run from the first cell to the last, in a folder that has nothing but them and a checkpoint."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.converters.layouts import trained

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parents[2] / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# A detector needs bottlenecks.
ARCHS = {"guard_a_code_base": "resnet50x0.125"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untraced: None) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copy(FOLDER / "tiny.yaml", tmp_path)
    torch.save(trained(ARCHS.get(path.stem, "resnet18")).state_dict(), tmp_path / "checkpoint.pth")
    # `python` of a cell is this one, and the packages are this clone's.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(root))
    notebook = nbformat.read(path, 4)
    nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3").execute(cwd=tmp_path)

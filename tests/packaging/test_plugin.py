"""Somebody else's package adds one thing of each kind, from a method to a scale, and nothing of ours is touched."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from siamese_transfer import validate_plugin
from tests.converters import layouts

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A command in a folder of its own, where tests/plugin is installed and found by its entry point."""
    target = tmp_path_factory.mktemp("site")
    install = "-m pip install --quiet --no-deps --no-build-isolation --no-index --target"
    done = subprocess.run(
        [sys.executable, *install.split(), str(target), str(root / "tests/plugin")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    def run(module: str, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{root}", **variables}
        command = [sys.executable, "-m", module, *map(str, words)]
        return subprocess.run(command, cwd=target, env=environment, capture_output=True, text=True)

    run.folder = target
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_table_with_its_method_runs_at_a_scale_of_the_plugin(installed: Run, root: Path) -> None:
    assert "brightness" in installed("pretrain", "--help").stdout
    assert "starlight/table1" in installed("benchmarks", "list").stdout
    done = installed("benchmarks", "run", "starlight/table1", "--scale", "dusk", "--output", "out")
    assert done.returncode == 0 and "Brightness" in done.stdout, done.stdout + done.stderr
    [checkpoint] = installed.folder.glob("out/pretrain/*/checkpoint_0000.pth.tar")
    report = json.loads(installed("converters", "inspect", checkpoint, "--json", "--unchecked").stdout)
    assert report["format"] == "this-project"
    [record] = installed.folder.glob("out/knn/*brightness*/result.json")
    assert json.loads(record.read_text())["dataset"]["name"] == "night"
    # The same table as a file, without a plug-in.
    table = root / "tests/plugin/starlight/papers/starlight/table1.yaml"
    done = installed("benchmarks", "run", table, "--scale", "dusk", "--output", "out", "--rows", "untrained")
    assert done.returncode == 0 and "n = 1" in done.stdout, done.stdout + done.stderr


def test_a_format_is_recognised(installed: Run, tmp_path: Path) -> None:
    names = layouts.trained("resnet18").state_dict()
    renamed = {name.replace("layer", "ring"): tensor for name, tensor in names.items() if not name.startswith("fc.")}
    torch.save({"network": renamed}, tmp_path / "x.pth")
    report = json.loads(installed("converters", "inspect", tmp_path / "x.pth", "--json").stdout)
    assert (report["format"], report["arch"], report["prefix"]) == ("telescope", "resnet18", "network")


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_validate_says_what_is_wrong(
    installed: Run, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = root / "tests/plugin/starlight"
    for name in (
        "data/night.py",
        "data/night.yaml",
        "formats/telescope.py",
        "papers/starlight/table1.yaml",
        "scales/dusk.yaml",
    ):
        with pytest.raises(SystemExit) as done:
            validate_plugin.main([str(plugin / name)])
        assert not done.value.code and ": fine" in capsys.readouterr().out
    (tmp_path / "method").mkdir()
    recipe, method = ((plugin / f"method/brightness{s}").read_text() for s in (".yaml", ".py"))
    for old, new, complaint in (
        ("dim: 8", "dimm: 8", "unknown key 'method.dimm'"),
        ("override /augment: simsiam", "override /augment: none_such", "augment=none_such: choose one of "),
    ):
        (tmp_path / "method/mine.yaml").write_text(recipe.replace("brightness", "mine").replace(old, new))
        (tmp_path / "method/mine.py").write_text(method.replace("brightness", "mine").replace("Brightness", "Mine"))
        done = installed("siamese_transfer.validate_plugin", tmp_path / "method/mine.yaml")
        assert done.returncode == 2 and complaint in done.stderr, done.stderr
    (tmp_path / "method/mine.yaml").write_text(recipe.replace("brightness", "mine"))
    for old, new, complaint in (
        ('"loss": loss', '"loss": loss.detach()', "with a gradient under 'loss'"),
        ("self.encoder", "self.trunk", "call the backbone `encoder`"),
        ("loss = ", "self.n = getattr(self, 'n', 0) + 1\n        loss = self.n * ", "a resumed copy has another"),
    ):
        changed = method.replace("brightness", "mine").replace("Brightness", "Mine").replace(old, new)
        (tmp_path / "method/mine.py").write_text(changed)
        done = installed("siamese_transfer.validate_plugin", tmp_path / "method/mine.yaml")
        assert done.returncode == 2 and complaint in done.stderr and done.stderr.count("\n") == 1, done.stderr
    table = (plugin / "papers/starlight/table1.yaml").read_text()
    (tmp_path / "t.yaml").write_text(table.replace("task: knn", "task: cnn"))
    with pytest.raises(SystemExit) as done:
        validate_plugin.main([str(tmp_path / "t.yaml")])
    assert done.value.code == 2 and "task='cnn': choose one of" in capsys.readouterr().err
    done = installed("pretrain", "--help", SIAMESE_TRANSFER_PATH=str(tmp_path / "gone"))
    assert done.returncode == 2 and "no such folder" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("method", ["barlowtwins", "vicreg"])
def test_the_examples_are_methods(root: Path, method: str) -> None:
    file = root / f"examples/plugin/method/{method}.py"
    assert len(file.read_text().splitlines()) < 120
    done = subprocess.run(
        [sys.executable, "-m", "siamese_transfer.validate_plugin", str(file), "method.dim=32"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

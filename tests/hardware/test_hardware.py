"""`python -m hardware`: the CPU's form, whole; and that a device which computes something else is noticed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hardware import methods, views
from hardware.__main__ import FULL_SIZE, SECTIONS, main
from hardware.page import html_page
from hardware.section import Figure, Options, Section
from pretrain.augment import batched_colour
from pretrain.method.config import SimSiamConfig
from pretrain.method.simsiam import SimSiam


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_passes_on_a_cpu(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "hardware"
    done = subprocess.run(
        [sys.executable, "-m", "hardware", "--device", "cpu", "--output", str(output)],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((output / "hardware.json").read_text())
    assert {section["name"] for section in document["sections"]} == set(SECTIONS) - FULL_SIZE
    assert all(section["verdict"] == "passed" and section["figures"] for section in document["sections"])
    assert not document["plan"], "a CPU at a small size must not say how long a paper's run takes"
    # Pictures and checkpoints are gone.
    assert sorted(path.name for path in output.iterdir()) == ["hardware.html", "hardware.json"]


def options(tmp_path: Path) -> Options:
    return Options("cpu", True, tmp_path)


def test_a_wrong_gradient_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = methods.Reference(SimSiamConfig(), options(tmp_path))
    right = reference.compare("channels_last", "cpu")
    assert max(right[0]) < 1e-5 and sorted(right[1])[2] < 0.05
    plain = SimSiam.after_backward

    def swapped(self: SimSiam, step: int) -> None:
        plain(self, step)
        weight = self.predictor[0].weight
        assert weight.grad is not None
        weight.grad = -weight.grad

    monkeypatch.setattr(SimSiam, "after_backward", swapped)
    loss, gradient, step = reference.compare("channels_last", "cpu")
    assert min(gradient) > 0.05 and min(step) > 0.05
    assert max(loss) < 1e-5  # each step starts from the CPU's weights


def test_a_colour_that_a_device_computes_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[[Tensor, Tensor], Tensor] = batched_colour.adjust_brightness
    monkeypatch.setattr(batched_colour, "adjust_brightness", lambda x, factor: right(x, factor) + 2)
    held = {figure.name: figure.holds for figure in views.measure(options(tmp_path))}
    against = ": batches on cpu against single images"
    assert not held[f"brightness{against}"] and not held[f"SimSiam's views{against}"]
    assert held[f"contrast{against}"] and held["SimSiam's views: fast against reference"]


def test_verdicts() -> None:
    assert Figure("a", 1.0, limit=2.0).holds and not Figure("a", 3.0, limit=2.0).holds
    assert Figure("a", 3.0, limit=2.0, least=True).holds and not Figure("a", float("nan"), limit=2.0).holds
    assert Section("a", "A", [Figure("a", 1.0)]).verdict == "passed"
    assert Section("a", "A", [Figure("a", 3.0, limit=2.0)]).verdict == "FAILED"
    assert Section("a", "A", error="it broke").verdict == "FAILED"


def test_a_section_that_breaks_leaves_the_others_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardware.__main__.TIMEOUT", 0.01)
    with pytest.raises(SystemExit) as end:
        main(["views", "--device", "cpu", "--output", str(tmp_path / "out")])
    assert end.value.code == 1
    section = json.loads((tmp_path / "out" / "hardware.json").read_text())["sections"][0]
    assert section["verdict"] == "FAILED" and "not done within" in section["error"]
    assert "FAILED" in capsys.readouterr().out


def test_the_page_escapes_what_it_shows() -> None:
    machine: dict[str, Any] = {
        "device": "<b>x</b>",
        "processor": "p",
        "cores": 2,
        "python": "3",
        "packages": {},
    }
    section = Section("a", "A", [Figure("<i>", 3.0, limit=2.0)]).as_dict()
    document = {"machine": machine, "sections": [section], "seconds": 1.0, "date": "d", "command": "c"}
    page = html_page(document)
    assert "<b>x</b>" not in page and "<i>" not in page and 'class="bad"' in page


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nothing"], "no such section"), (["--device", "cuda"], "sees no CUDA device")],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available() and "cuda" in words:
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and message in capsys.readouterr().err

"""A checkpoint's row: what is planned for it, what its card says, what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main
from benchmarks.evaluate import model_card, plan_of, slug
from benchmarks.fill import fill
from benchmarks.status import Status

FACTS = {
    "file": "x.pth", "sha256": "ab" * 32, "format": "torchvision", "arch": "resnet50", "parameters": 23_508_032,
    "caveat": "",
    "input": {"format": "RGB", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
              "stride_in_1x1": False},
    "checks": [{"name": "tensors", "passed": True, "figure": "265"}],
}  # fmt: skip


def test_plan_and_card(make: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "my net.v2.pth"
    plan = plan_of(file, FACTS, ["linear", "knn", "voc07", "coco"], "mini", str(tmp_path / "out"), {}, [], None)
    assert sorted(r.task for r in plan.runs.values()) == ["coco", "convert", "data", "knn", "linear", "voc07"]
    linear = next(r for r in plan.runs.values() if r.kind == "linear")
    assert f"checkpoint={file}" in linear.command and not any(w.startswith("arch=") for w in linear.command)
    records = {linear.id: make.record("linear", "my", 61.25)}
    card = model_card(plan, fill(plan, records, Status()), FACTS, file)
    text = card.read_text()
    assert "| **my net.v2.pth** | 61.2 (n = 1) |" in text and "| SimSiam (paper) | 70.0 | – |" in text
    assert "Verified: tensors: 265" in text and "mean 123.675, 116.28, 103.53" in text
    body = json.loads(card.with_suffix(".json").read_text())
    assert body["schema"] == 1 and body["results"] == [
        {"task": "linear", "metric": "top1", "column": "linear top-1 200 ep", "n": 1, "mean": 61.25, "std": None}
    ]


def test_names_of_folders() -> None:
    assert [slug(Path(p)) for p in ("a/b.pth.tar", "my net (2).pth", ".pth")] == ["b", "my-net-2", "checkpoint"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["nowhere.pth"], "no such file"), (["x.pth", "--tasks", "linear,dance"], "--tasks linear,dance"),
     (["x.pth", "--set", "nonsense"], "must be STAGE.KEY=VALUE")],
)  # fmt: skip
def test_bad_input_is_one_line(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *words])
    text = capsys.readouterr().err
    assert stop.value.code == 2 and complaint in text and len(text.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_untrained_network_is_refused_in_the_converters_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from converters.resnet import build_resnet

    torch.save(build_resnet("resnet50x0.25", num_classes=10).state_dict(), tmp_path / "net.pth")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "net.pth"), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2 and "initial mean 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

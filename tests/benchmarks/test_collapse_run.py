"""A pair of rows from the command to the verdicts: one collapses and the other does not, in training and after it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.tables.scale import SCALES

ROOT = Path(__file__).parents[2]


def run(*words: str) -> str:
    result = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_without_stop_gradient_the_output_collapses_and_with_it_not(tmp_path: Path) -> None:
    # The lab scale with an eighth of the images and a third of the steps.
    scale = yaml.safe_load((SCALES / "lab.yaml").read_text())
    few = {"images": 32, "val_images": 8, "voc07": 2, "voc07_test": 1, "voc12": 2, "coco": 1, "coco_val": 1}
    scale["generate"] = {"seed": 0, "objects": 3, **few}
    scale["epochs"] = {100: 8}
    scale["rows"]["*"]["pretrain"] |= {"batch_size": 32, "optimizer.lr": 1.6}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(scale))
    out = tmp_path / "out"
    text = run(
        "benchmarks", "run", "figure2", "--scale", str(tmp_path / "tiny.yaml"), "--trials", "1", "--output", str(out)
    )
    assert "× 0/1" in text and "✓ 1/1" in text and "is as in the paper in every row" in text
    records = {r.parent.name: json.loads(r.read_text()) for r in out.glob("pretrain/*/result.json")}
    by_stop = {r["config"]["method"]["stop_gradient"]: r for r in records.values()}
    assert by_stop[True]["verdict"] == "healthy" and by_stop[False]["verdict"].startswith("collapsed at step")
    assert by_stop[False]["metrics"]["m_o"] > by_stop[True]["metrics"]["m_o"] + 0.3
    # The extra gradient of SimSiam pushes the center away (the second paper, figure 5 a).
    assert by_stop[True]["metrics"]["eta_p"] < 0
    # And again on the checkpoint, from outside.
    data = next(out.glob("data/*/set/imagefolder"))
    for name, record in records.items():
        look = run(
            "pretrain.collapse", f"checkpoint={out}/pretrain/{name}/checkpoint_0007.pth.tar", "data=imagefolder",
            f"data.root={data}", "data.workers=0", f"output={tmp_path}/look-{name}",
        )  # fmt: skip
        found = json.loads((tmp_path / f"look-{name}" / "result.json").read_text())
        healthy = record["verdict"] == "healthy"
        assert found["verdict"].startswith("not collapsed" if healthy else "collapsed"), look
        assert found["details"]["output"] == "the heads' output" and "what it is" in look
        assert (tmp_path / f"look-{name}" / "collapse.png").stat().st_size > 1000

"""Anyone's detections can be measured by command, and a run's own give the run's own figures again."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.speed.coco_cases import make_results
from runs.record import read_record
from tests.transfer.conftest import CLASSES
from transfer import fine_tune
from transfer.detections import Detections
from transfer.settings import TransferConfig


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "transfer.evaluate_detections", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_voc_from_a_run_and_from_text_files(tiny: TransferConfig, generated: Path, tmp_path: Path) -> None:
    # Class-agnostic garbage from an untrained detector is enough: it must be the same garbage.
    fine_tune.run_trials(tiny)
    run, common = Path(tiny.output), ["--root", generated, "--classes", ",".join(CLASSES)]
    done = evaluate("voc", run / "detections.npz", *common, "--output", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "a.json").read_text())
    record = read_record(run)
    assert measured["metrics"] == pytest.approx(record.metrics, abs=1e-9)
    assert measured["per_class"] == record.details["per_class"]

    found = Detections.load(run / "detections.npz")
    texts: dict[str, list[str]] = {name: [] for name in CLASSES}
    for image, category, score, box in zip(
        found.image, found.category, found.score, found.box + np.array([1, 1, 0, 0]), strict=True
    ):
        numbers = " ".join(f"{v:.1f}" for v in np.float32(box))
        texts[CLASSES[category]].append(f"{found.image_ids[image]} {score:.3f} {numbers}")
    for name, lines in texts.items():
        (tmp_path / f"comp4_det_test_{name}.txt").write_text("\n".join(lines))
    done = evaluate("voc", tmp_path, *common, "--output", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "b.json").read_text())["metrics"] == pytest.approx(measured["metrics"], abs=1e-9)

    (tmp_path / f"comp4_det_test_{CLASSES[0]}.txt").write_text("nobody 0.5 1 2 3 4")
    done = evaluate("voc", tmp_path, *common)
    assert done.returncode == 2 and f"comp4_det_test_{CLASSES[0]}.txt:1" in done.stderr and done.stderr.count("\n") == 1


def test_coco_from_a_results_file(generated: Path, tmp_path: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    results = make_results(file, 2, masks=True)
    path = tmp_path / "results.json.gz"
    path.write_bytes(gzip.compress(json.dumps(results).encode()))
    done = evaluate("coco", path, "--annotations", file)
    assert done.returncode == 0 and "segm/AP50" in done.stdout, done.stderr
    results[3]["image_id"] = 10**9
    path.write_bytes(gzip.compress(json.dumps(results).encode()))
    done = evaluate("coco", path, "--annotations", file)
    assert done.returncode == 2 and "detection 3" in done.stderr and done.stderr.count("\n") == 1

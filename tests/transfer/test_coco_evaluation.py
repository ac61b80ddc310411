"""COCO AP must be pycocotools', crowds, ties, tiny objects and crowded images included."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.coco_cases import make_results, pycocotools_evaluate
from transfer.coco_evaluation import evaluate_coco, evaluate_results
from transfer.detections import Detections


def compare(file: Path, results: list[dict[str, object]]) -> dict[str, float]:
    categories = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
    ours, per_class = evaluate_results(results, file, categories)
    for kind in ("bbox", "segm"):
        stats, precision = pycocotools_evaluate(file, results, kind)
        mine = [ours[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75")]
        np.testing.assert_allclose(mine, 100 * stats[:3], rtol=0, atol=1e-9)
        for number, category in enumerate(sorted(categories)):
            points = precision[:, :, number, 0, -1]
            expected = 100 * points[points > -1].mean() if (points > -1).any() else None
            value = per_class[categories[category]].get(kind)
            assert (value is None) == (expected is None)
            assert value is None or value == pytest.approx(expected, abs=1e-9)
    return ours


def test_equals_pycocotools_on_generated_scenes(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    metrics = compare(file, make_results(file, 4, masks=True))
    assert 5 < metrics["bbox/AP"] < 95 and 5 < metrics["segm/AP"] < 95


@pytest.mark.shared
def test_equals_pycocotools_on_coco(shared: Path) -> None:
    file = shared / "data/coco/annotations/instances_val2017.json"
    compare(file, make_results(file, 2, masks=True))


def test_no_detections_is_zero(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    none = Detections(
        [], np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros((0, 4), np.float32),
        np.zeros((0, 2), np.int32), [],
    )  # fmt: skip
    metrics, _ = evaluate_coco(none, file, [1, 2], ["a", "b"], masks=True)
    assert set(metrics.values()) == {0.0} and len(metrics) == 6

"""The drop-in evaluators give Detectron2's and pycocotools' numbers on the same inputs, with intervals around them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2 import evaluation
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.speed.coco_cases import make_results
from experiments.speed.voc_cases import make_detections, make_truth, write_voc
from transfer import evaluators_with_intervals
from transfer.coco_evaluation import COCOeval as OurCOCOeval


def told(evaluator: evaluation.DatasetEvaluator, found: list[tuple[Any, Any, Any, Any]]) -> dict[str, dict[str, float]]:
    """What an evaluator says of (image id, boxes, scores, classes), given as Detectron2's test loop gives them."""
    evaluator.reset()
    for image_id, boxes, scores, classes in found:
        instances = Instances((500, 500))
        instances.pred_boxes = Boxes(torch.as_tensor(np.array(boxes, np.float32).reshape(-1, 4)))
        instances.scores = torch.as_tensor(np.array(scores, np.float32))
        instances.pred_classes = torch.as_tensor(np.array(classes, np.int64))
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def check_ends(ours: dict[str, float]) -> None:
    for name in ("AP", "AP50", "AP75"):
        assert ours[f"{name}-low"] < ours[name] < ours[f"{name}-high"]


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc_is_detectron2s(tmp_path: Path, year: int) -> None:
    rng = np.random.default_rng(0)
    classes, ids = ["a", "b", "c"], [f"{n:06d}" for n in range(40)]
    truth = make_truth(40, 5, rng)
    truth.category %= 3  # each class has objects that count, or 2012 divides 0 by 0
    write_voc(tmp_path, truth, ids, classes)
    found = make_detections(truth, ids, 3, 900, rng)
    found.score = (rng.permutation(len(found)) / 1000).astype(np.float32)  # equal ones have no order in Detectron2
    rows = [(n, found.image == i) for i, n in enumerate(ids)]
    name = f"voc_drop_in_{year}"
    MetadataCatalog.get(name).set(thing_classes=classes, dirname=str(tmp_path), year=year, split="test")
    evaluation.pascal_voc_evaluation.parse_rec.cache_clear()
    inputs = [(image_id, found.box[m], found.score[m], found.category[m]) for image_id, m in rows]
    theirs = told(evaluation.PascalVOCDetectionEvaluator(name), inputs)["bbox"]
    ours = told(evaluators_with_intervals.PascalVOCDetectionEvaluator(name), inputs)["bbox"]
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=1e-9) and 1 < theirs["AP50"] < 95
    check_ends(ours)


def test_coco_is_detectron2s_and_pycocotools(generated: Path, tmp_path: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    document = json.loads(file.read_text())
    categories = sorted(entry["id"] for entry in document["categories"])
    MetadataCatalog.get("coco_drop_in").set(
        json_file=str(file), thing_dataset_id_to_contiguous_id={c: n for n, c in enumerate(categories)}
    )
    results = make_results(file, 3, masks=False)
    inputs = []
    for image in document["images"]:
        mine = [r for r in results if r["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in mine)]
        labels = [categories.index(r["category_id"]) for r in mine]
        inputs.append((image["id"], boxes, [r["score"] for r in mine], labels))
    theirs = told(evaluation.COCOEvaluator("coco_drop_in"), inputs)["bbox"]
    ours = told(evaluators_with_intervals.COCOEvaluator("coco_drop_in"), inputs)["bbox"]
    np.testing.assert_equal({key: ours[key] for key in theirs}, theirs)
    assert 1 < ours["AP"] < ours["AR100"] < 100
    check_ends(ours)

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        found = truth.loadRes(results)
        official, mine = COCOeval(truth, found, "bbox"), OurCOCOeval(truth, found, "bbox")
        for one in (official, mine):
            one.evaluate()
            one.accumulate()
            one.summarize()
    np.testing.assert_allclose(mine.stats, official.stats, rtol=0, atol=1e-12)
    for name, interval in mine.intervals(200).items():
        assert interval.value == pytest.approx(100 * official.stats[("AP", "AP50", "AP75").index(name)], abs=1e-9)
        assert interval.low < interval.value < interval.high

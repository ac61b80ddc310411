"""COCO average precision by pycocotools' definition, through faster-coco-eval."""

import contextlib
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from transfer.detections import Detections


def coco_results(detections: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    """Detections in COCO's results format: `bbox` is x, y, width, height; `segmentation` is run-length coded."""
    corner, extent = detections.box[:, :2], detections.box[:, 2:] - detections.box[:, :2]
    boxes = np.concatenate([corner, extent], axis=1).tolist()
    results = [
        {"image_id": detections.image_ids[i], "category_id": category_ids[c], "bbox": box, "score": score}
        for i, c, box, score in zip(
            detections.image.tolist(), detections.category.tolist(), boxes, detections.score.tolist(), strict=True
        )
    ]
    for result, i, mask in zip(results, detections.image.tolist(), detections.masks or [], strict=False):
        result["segmentation"] = {"size": detections.sizes[i].tolist(), "counts": mask.decode()}
    return results


def evaluate_coco(
    detections: Detections, annotations: Path, category_ids: list[int], classes: list[str], masks: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Box AP, and mask AP if `masks`, on a split.

    Args:
        detections: of every image of the split.
        annotations: the split's instances JSON.
        category_ids: the file's id of each class number.
        classes: names of the same.
        masks: whether the detections have masks to measure.

    Returns:
        (`bbox/AP`, `bbox/AP50`, `bbox/AP75`, `segm/…` in percent; class name -> `bbox`, `segm` AP, left out where the
        split has no object of it)
    """
    from faster_coco_eval import COCO, COCOeval_faster

    kinds = ["bbox", "segm"] if masks else ["bbox"]
    metrics: dict[str, float] = {f"{k}/{m}": 0.0 for k, m in itertools.product(kinds, ("AP", "AP50", "AP75"))}
    per_class: dict[str, dict[str, float]] = {name: {} for name in classes}
    results = coco_results(detections, category_ids)
    if not results:
        return metrics, per_class
    for kind in kinds:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(annotations))
            # With a box in it, areas of masks would be those of the boxes (detectron2/evaluation/coco_evaluation.py).
            entries = [{k: v for k, v in r.items() if kind == "bbox" or k != "bbox"} for r in results]
            evaluation = COCOeval_faster(truth, truth.loadRes(entries), kind)
            evaluation.params.imgIds = sorted(set(truth.getImgIds()) & set(detections.image_ids))
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats[:3], strict=True):
            metrics[f"{kind}/{name}"] = 100 * max(float(value), 0.0)
        precision = np.asarray(evaluation.eval["precision"])  # (IoU 10, recall 101, class, area 4, max detections 3)
        for number, name in enumerate(classes):
            points = precision[:, :, number, 0, -1]
            if (points > -1).any():
                per_class[name][kind] = 100 * float(points[points > -1].mean())
    return metrics, per_class

"""COCO average precision by pycocotools' definition, through faster-coco-eval."""

import contextlib
import io
import itertools
from collections.abc import Sequence
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


def evaluate_results(
    results: list[dict[str, Any]],
    annotations: Path,
    categories: dict[int, str],
    kinds: Sequence[str] = (),
    image_ids: Sequence[int] = (),
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Box AP, mask AP or both.

    Args:
        results: detections in COCO's results format.
        annotations: the split's instances JSON.
        categories: id -> name.
        kinds: `bbox`, `segm`; empty: what the detections have.
        image_ids: images to count; empty: all of the file.

    Returns:
        (`bbox/AP`, `bbox/AP50`, `bbox/AP75`, `segm/…` in percent; class name -> `bbox`, `segm` AP, left out where the
        split has no object of the class)
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # Not at the first detection: a masks-only result has no box.
    kinds = kinds or [k for k, key in (("bbox", "bbox"), ("segm", "segmentation")) if all(key in r for r in results)]
    metrics: dict[str, float] = {f"{k}/{m}": 0.0 for k, m in itertools.product(kinds, ("AP", "AP50", "AP75"))}
    order = sorted(categories)
    per_class: dict[str, dict[str, float]] = {categories[c]: {} for c in order}
    if not results:
        return metrics, per_class
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    for kind in kinds:
        # With a box in it, areas of masks would be those of the boxes (detectron2/evaluation/coco_evaluation.py).
        entries = [{k: v for k, v in r.items() if k != ("segmentation" if kind == "bbox" else "bbox")} for r in results]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval_faster(truth, truth.loadRes(entries), kind)
            if image_ids:
                evaluation.params.imgIds = sorted(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats[:3], strict=True):
            metrics[f"{kind}/{name}"] = 100 * max(float(value), 0.0)
        precision = np.asarray(evaluation.eval["precision"])  # (IoU 10, recall 101, class, area 4, max detections 3)
        for number, category in enumerate(order):
            points = precision[:, :, number, 0, -1]
            if (points > -1).any():
                per_class[categories[category]][kind] = 100 * float(points[points > -1].mean())
    return metrics, per_class


def evaluate_coco(
    detections: Detections, annotations: Path, category_ids: list[int], classes: list[str], masks: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The same for a detector's own detections; `masks`: whether it is one with masks."""
    results = coco_results(detections, category_ids)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    categories = dict(zip(category_ids, classes, strict=True))
    return evaluate_results(results, annotations, categories, kinds, detections.image_ids)

"""COCO average precision and recall: pycocotools' definition, computed by ultrafast-pycocotools where it is installed.

ultrafast-pycocotools has pycocotools' interface, and its matching in Rust. Its curves are pycocotools' to the last bit
(tests/transfer/test_coco_evaluation.py) in a quarter of the time; pycocotools itself serves where it has no wheel.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.detections import Detections
from transfer.matches import FALSE, IGNORED, TRUE, Matches
from transfer.rle import coder

try:
    from ultrafast_pycocotools.coco import COCO
    from ultrafast_pycocotools.cocoeval import COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

# In the order of `COCOeval.stats`; of small, medium and large objects: s, m, l.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_results(detections: Detections) -> list[dict[str, Any]]:
    """Detections in COCO's results format; images and classes by their numbers, masks run-length coded."""
    corner, extent = detections.box[:, :2], detections.box[:, 2:] - detections.box[:, :2]
    boxes = np.concatenate([corner, extent], axis=1).tolist()
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score}
        for i, c, box, score in zip(
            detections.image.tolist(), detections.category.tolist(), boxes, detections.score.tolist(), strict=True
        )
    ]
    for result, i, mask in zip(results, detections.image.tolist(), detections.masks or [], strict=False):
        result["segmentation"] = {"size": detections.sizes[i].tolist(), "counts": mask.decode()}
    return results


def evaluate_coco(
    results: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]], classes: Sequence[str], kinds: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Matches]]:
    """Box AP, mask AP or both.

    Args:
        results: detections in COCO's results format: `image_id` an index into `images`, `category_id` into `classes`,
            `bbox` x, y, width, height, `segmentation` run-length coded.
        images: Detectron2's dicts of the split with `area` (see `transfer.coco`).
        classes: names.
        kinds: `bbox`, `segm`.

    Returns:
        (`METRICS` of each kind in percent, those of a size that no object has left out; class name -> `bbox`, `segm`
        AP, left out where the split has no object of the class; matches by kind)
    """
    truth = [{**a, "image_id": number} for number, image in enumerate(images) for a in image["annotations"]]
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in classes}
    matches = {}
    for kind in kinds:
        key = "bbox" if kind == "bbox" else "segmentation"
        found = [
            {
                "image_id": r["image_id"], "category_id": r["category_id"], "score": r["score"], key: r[key],
                "area": r[key][2] * r[key][3] if kind == "bbox" else int(coder.area(r[key])), "iscrowd": 0,
            }
            for r in results
        ]  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(*(_index(entries, images, classes) for entries in (truth, found)), kind)
            evaluation.store_eval_imgs = True  # what pycocotools does anyway
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics |= {f"{kind}/{m}": 100 * float(v) for m, v in zip(METRICS, evaluation.stats, strict=True) if v >= 0}
        for number, name in enumerate(classes):
            points = evaluation.eval["precision"][:, :, number, 0, -1]  # (10, 101) of all areas, 100 detections
            if (points > -1).any():
                per_class[name][kind] = 100 * float(points[points > -1].mean())
        matches[kind] = _matches(evaluation, truth)
    return metrics, per_class, matches


def _index(entries: list[dict[str, Any]], images: Sequence[dict[str, Any]], classes: Sequence[str]) -> COCO:
    index = COCO()
    index.dataset = {
        "images": [{"id": n, "height": i["height"], "width": i["width"]} for n, i in enumerate(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
        # From 1: pycocotools takes an object whose id is 0 for one that is never found.
        "annotations": [{**entry, "id": n} for n, entry in enumerate(entries, start=1)],
    }
    index.createIndex()
    return index


def _matches(evaluation: COCOeval, truth: list[dict[str, Any]]) -> Matches:
    """What the evaluation has matched, without limits of area."""
    params = evaluation.params
    images, classes = len(params.imgIds), len(params.catIds)
    # One entry for each class, area range and image, None where there is nothing.
    block = len(params.areaRng) * images
    found = [e for k in range(classes) for e in evaluation.evalImgs[k * block : k * block + images] if e]
    counts = [len(e["dtScores"]) for e in found]
    score = np.array([s for e in found for s in e["dtScores"]], np.float64)
    order = np.argsort(-score, kind="stable")
    empty = np.zeros((len(params.iouThrs), 0))
    right, ignored = (np.concatenate([empty, *(e[k] for e in found)], axis=1) for k in ("dtMatches", "dtIgnore"))
    verdict = np.where(ignored > 0, IGNORED, np.where(right > 0, TRUE, FALSE)).astype(np.int8)  # (10, N)
    objects = np.zeros((images, classes), np.int32)
    for annotation in truth:
        objects[annotation["image_id"], annotation["category_id"]] += not annotation["iscrowd"]
    return Matches(
        image=np.repeat([e["image_id"] for e in found], counts).astype(np.int32)[order],
        category=np.repeat([e["category_id"] for e in found], counts).astype(np.int16)[order],
        score=score[order],
        verdict=verdict[:, order].T,
        objects=objects,
    )

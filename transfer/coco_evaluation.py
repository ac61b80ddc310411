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

try:
    from ultrafast_pycocotools import mask as coder
    from ultrafast_pycocotools.coco import COCO
    from ultrafast_pycocotools.cocoeval import COCOeval
except ImportError:
    from pycocotools import mask as coder
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

# In the order of `COCOeval.stats`; of small, medium and large objects: s, m, l.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_results(detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
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
    document: dict[str, Any], results: Sequence[dict[str, Any]], kinds: Sequence[str], image_ids: Sequence[int] = ()
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Matches]]:
    """Box AP, mask AP or both.

    Args:
        document: the split's instances file, as `transfer.coco.read_instances` returns it.
        results: detections in COCO's results format, masks run-length coded.
        kinds: `bbox`, `segm`.
        image_ids: images to count; empty: all of the file.

    Returns:
        (`METRICS` of each kind in percent, those of a size that no object has left out; class name -> `bbox`, `segm`
        AP, left out where the split has no object of the class; matches by kind)
    """
    metrics: dict[str, float] = {}
    names = {c["id"]: str(c["name"]) for c in sorted(document["categories"], key=lambda c: c["id"])}
    per_class: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    matches = {}
    for kind in kinds:
        evaluation = _evaluate(document, results, kind, image_ids)
        metrics |= {f"{kind}/{m}": 100 * float(v) for m, v in zip(METRICS, evaluation.stats, strict=True) if v >= 0}
        for number, name in enumerate(names.values()):
            points = evaluation.eval["precision"][:, :, number, 0, -1]  # (10, 101) of all areas, 100 detections
            if (points > -1).any():
                per_class[name][kind] = 100 * float(points[points > -1].mean())
        matches[kind] = _matches(evaluation, document)
    return metrics, per_class, matches


def _evaluate(
    document: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, image_ids: Sequence[int]
) -> COCOeval:
    key = "bbox" if kind == "bbox" else "segmentation"
    found = [
        {"id": n, "image_id": r["image_id"], "category_id": r["category_id"], "score": r["score"], key: r[key],
         "area": r[key][2] * r[key][3] if kind == "bbox" else int(coder.area(r[key])), "iscrowd": 0}
        for n, r in enumerate(results, start=1)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth, detected = _index(document), _index({**document, "annotations": found})
        evaluation = COCOeval(truth, detected, kind)
        evaluation.store_eval_imgs = True  # what pycocotools does anyway
        if image_ids:
            evaluation.params.imgIds = sorted(set(image_ids))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _index(document: dict[str, Any]) -> COCO:
    index = COCO()
    # pycocotools takes an object whose id is 0 for one that is never found, and writes into its annotations.
    annotations = [{**a, "id": n} for n, a in enumerate(document["annotations"], start=1)]
    index.dataset = {**document, "annotations": annotations}
    index.createIndex()
    return index


def _matches(evaluation: COCOeval, document: dict[str, Any]) -> Matches:
    """What the evaluation has matched, without limits of area."""
    params = evaluation.params
    images = {image_id: number for number, image_id in enumerate(params.imgIds)}
    classes = {category: number for number, category in enumerate(params.catIds)}
    # One entry for each class, area range and image, None where there is nothing.
    block = len(params.areaRng) * len(images)
    found = [e for k in range(len(classes)) for e in evaluation.evalImgs[k * block : k * block + len(images)] if e]
    counts = [len(e["dtScores"]) for e in found]
    score = np.array([s for e in found for s in e["dtScores"]], np.float64)
    order = np.argsort(-score, kind="stable")
    empty = np.zeros((len(params.iouThrs), 0))
    right, ignored = (np.concatenate([empty, *(e[k] for e in found)], axis=1) for k in ("dtMatches", "dtIgnore"))
    verdict = np.where(ignored > 0, IGNORED, np.where(right > 0, TRUE, FALSE)).astype(np.int8)  # (10, N)
    objects = np.zeros((len(images), len(classes)), np.int32)
    for a in document["annotations"]:
        if a["image_id"] in images and not a["iscrowd"]:
            objects[images[a["image_id"]], classes[a["category_id"]]] += 1
    return Matches(
        image=np.repeat([images[e["image_id"]] for e in found], counts).astype(np.int32)[order],
        category=np.repeat([classes[e["category_id"]] for e in found], counts).astype(np.int16)[order],
        score=score[order],
        verdict=verdict[:, order].T,
        objects=objects,
    )

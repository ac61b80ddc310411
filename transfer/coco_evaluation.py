"""COCO average precision by pycocotools' definition: its own code for masks, arrays for everything else."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coder

from runs.errors import UserError
from transfer.coco_matching import Curves, Found, Objects, accumulate, match, order, pairs, summarize
from transfer.detections import Detections

METRICS = ("AP", "AP50", "AP75")


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

    Raises:
        UserError: a segmentation of a detection is not run-length coded.
    """
    # Not at the first detection: a masks-only result has no box.
    kinds = kinds or [k for k, key in (("bbox", "bbox"), ("segm", "segmentation")) if all(key in r for r in results)]
    metrics: dict[str, float] = {f"{k}/{m}": 0.0 for k, m in itertools.product(kinds, METRICS)}
    names = [categories[c] for c in sorted(categories)]
    per_class: dict[str, dict[str, float]] = {name: {} for name in names}
    if not results:
        return metrics, per_class
    truth = read_truth(annotations, categories, image_ids)
    for kind in kinds:
        curves = evaluate(results, truth, kind)
        for name, value in zip(METRICS, summarize(curves), strict=False):
            metrics[f"{kind}/{name}"] = 100 * max(float(value), 0.0)
        for number, name in enumerate(names):
            points = curves.precision[:, :, number, 0]
            if (points > -1).any():
                per_class[name][kind] = 100 * float(points[points > -1].mean())
    return metrics, per_class


def evaluate_coco(
    detections: Detections, annotations: Path, category_ids: list[int], classes: list[str], masks: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The same for a detector's own detections; `masks`: whether it is one with masks."""
    results = coco_results(detections, category_ids)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    categories = dict(zip(category_ids, classes, strict=True))
    return evaluate_results(results, annotations, categories, kinds, detections.image_ids)


@dataclass
class CocoTruth:
    """The objects of a split.

    Attributes:
        objects: by image id and, within one, in the file's order.
        entries: their annotations.
        images: image id -> its number, in the order of ids.
        sizes: image id -> (height, width).
        categories: category id -> its number, in the order of ids.
    """

    objects: Objects
    entries: list[dict[str, Any]]
    images: dict[int, int]
    sizes: dict[int, tuple[int, int]]
    categories: dict[int, int]


def read_truth(annotations: Path, categories: Sequence[int] | dict[int, str], image_ids: Sequence[int]) -> CocoTruth:
    """Read the objects of `image_ids` (empty: all) and `categories` from an instances JSON."""
    document = json.loads(annotations.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    images = {image_id: number for number, image_id in enumerate(sorted(set(image_ids) or sizes))}
    numbers = {category: number for number, category in enumerate(sorted(categories))}
    entries = [a for a in document["annotations"] if a["image_id"] in images and a["category_id"] in numbers]
    entries.sort(key=lambda a: images[a["image_id"]])
    group = [images[a["image_id"]] * len(numbers) + numbers[a["category_id"]] for a in entries]
    area, crowd = [a["area"] for a in entries], [a.get("iscrowd", 0) for a in entries]
    objects = Objects(np.array(group, np.int64), np.array(area, np.float64), np.array(crowd, bool))
    return CocoTruth(objects, entries, images, sizes, numbers)


def evaluate(results: list[dict[str, Any]], truth: CocoTruth, kind: str) -> Curves:
    """Precision and recall of boxes (`bbox`) or masks (`segm`); results of other images and classes do not count.

    Raises:
        UserError: a segmentation that is not run-length coded.
    """
    images, numbers = truth.images, truth.categories
    results = [r for r in results if r["image_id"] in images and r["category_id"] in numbers]
    group = np.array([images[r["image_id"]] * len(numbers) + numbers[r["category_id"]] for r in results], np.int64)
    score = np.array([r["score"] for r in results], np.float64)
    chosen, rank = order(group, score)
    kept = [results[i] for i in chosen.tolist()]
    detection, thing = pairs(group[chosen], truth.objects.group)
    if kind == "bbox":
        boxes = np.array([r["bbox"] for r in kept], np.float64).reshape(-1, 4)
        area = boxes[:, 2] * boxes[:, 3]
        theirs = np.array([a["bbox"] for a in truth.entries], np.float64).reshape(-1, 4)
        iou = _box_iou(boxes[detection], theirs[thing], truth.objects.crowd[thing])
    else:
        masks = [_run_lengths(r) for r in kept]
        area = _mask_areas(masks)
        iou = _mask_iou(masks, truth, detection, thing)
    found = Found(group[chosen], rank, score[chosen], area)
    true, ignored = match(found, truth.objects, detection, thing, iou)
    return accumulate(found, truth.objects, true, ignored, len(numbers))


def _box_iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of P pairs of boxes x, y, width, height, as in bbIou of maskApi.c; of a crowd, the share of `a` inside."""
    ax, ay, aw, ah = a.T
    bx, by, bw, bh = b.T
    width = np.minimum(aw + ax, bw + bx) - np.maximum(ax, bx)
    height = np.minimum(ah + ay, bh + by) - np.maximum(ay, by)
    inside = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = aw * ah
    union = np.where(crowd, area, area + bw * bh - inside)
    # maskApi.c leaves 0 where nothing overlaps and never divides there.
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)


def _mask_iou(masks: list[dict[str, Any]], truth: CocoTruth, detection: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """IoU of P pairs of masks, by pycocotools, which takes all detections and objects of a group in one call."""
    iou = np.zeros(len(detection))
    codes: dict[int, Any] = {}
    for index in np.unique(thing).tolist():
        entry = truth.entries[index]
        codes[index] = _object_code(entry, *truth.sizes[entry["image_id"]])
    crowd = truth.objects.crowd
    group = truth.objects.group[thing]
    bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
    for begin, end in itertools.pairwise(bounds.tolist()):
        first, last = int(detection[begin]), int(detection[end - 1])
        objects = thing[begin : begin + (end - begin) // (last - first + 1)].tolist()
        flags = crowd[objects].tolist()
        part = coder.iou(masks[first : last + 1], [codes[index] for index in objects], flags)  # (d, g)
        iou[begin:end] = np.asarray(part).ravel()
    return iou


def _object_code(entry: dict[str, Any], height: int, width: int) -> Any:
    """An object's run-length code, from polygons or either form of run lengths, as COCO.annToRLE has it."""
    shape = entry["segmentation"]
    if isinstance(shape, list):
        return coder.merge(coder.frPyObjects(shape, height, width))
    return coder.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape


def _mask_areas(masks: list[dict[str, Any]]) -> np.ndarray:
    """Pixels of each mask, (D,)."""
    # pycocotools 2.0.11 takes at most 255 at a time: it squeezes the length of the list into one byte.
    parts = [coder.area(masks[i : i + 255]) for i in range(0, len(masks), 255)]
    return np.concatenate([np.zeros(0), *parts])


def _run_lengths(result: dict[str, Any]) -> dict[str, Any]:
    shape = result["segmentation"]
    if not (isinstance(shape, dict) and isinstance(shape.get("counts"), str | bytes)):
        raise UserError(
            f"a segmentation of image {result['image_id']} is not run-length coded; write what "
            "pycocotools.mask.encode returns, {'size': [height, width], 'counts': …}"
        )
    return shape

"""PASCAL VOC average precision by Detectron2's definition, in one vectorised pass.

The definition is `detectron2/evaluation/pascal_voc_evaluation.py`: detections pass through text files that keep three
decimals of a score and one of a coordinate; a detection belongs to the object of its class with the largest overlap,
also if another detection has taken it; objects marked difficult neither help nor harm; 2007 is measured at eleven
recalls at every IoU threshold, 2012 by the area under the curve. "AP" averages the thresholds .50, .55, ..., .95.

NOTE: Detectron2 sorts equal scores in no defined order. Here the earlier image of the split comes first, and within an
image the detector's order holds, so that a file of detections has one AP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runs.average_precision import class_average_precision
from runs.detection_matches import FALSE, IGNORED, THRESHOLDS, TRUE, Matches
from transfer.detections import Detections, Evaluation


@dataclass
class SplitTruth:
    """The objects of a split.

    Attributes:
        image: (G,) int64, index of the object's image.
        category: (G,) int64, class number.
        box: (G, 4) float64, xmin, ymin, xmax, ymax as in the XML: from 1, inclusive.
        difficult: (G,) bool.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    difficult: np.ndarray

    @classmethod
    def from_images(cls, images: Sequence[dict[str, Any]]) -> "SplitTruth":
        """From Detectron2's dataset dicts with `difficult` (see `transfer.voc_annotations`)."""
        return cls.from_table([
            (i, a["category_id"], a["bbox"][0] + 1.0, a["bbox"][1] + 1.0, *a["bbox"][2:], a.get("difficult", 0))
            for i, image in enumerate(images)
            for a in image["annotations"]
        ])  # fmt: skip

    @classmethod
    def from_table(cls, indexed_rows: Sequence[Sequence[float]]) -> "SplitTruth":
        """From rows of image index, class index, xmin, ymin, xmax, ymax as in the XML, and whether difficult."""
        table = np.array(indexed_rows, np.float64).reshape(-1, 7)
        return cls(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6] > 0)


def evaluate_voc(detections: Detections, truth: SplitTruth, metric: str = "voc_2007") -> Evaluation:
    """AP, AP50 and AP75 of the detections on a split; the arguments are those of `match_voc`."""
    matches = match_voc(detections, truth, metric)
    classes = matches.classes
    once = np.ones((len(matches.image_ids), 1))
    table = 100 * np.concatenate(
        [class_average_precision(matches, number, once) for number in range(len(classes))]
    )  # (K, 10)
    curves = {}
    for number, name in enumerate(classes):
        verdict = matches.verdict[matches.category == number, 0]
        true, false = (np.cumsum(verdict == v, dtype=np.float64) for v in (TRUE, FALSE))
        # A class without objects: 0 / 0, as in the definition.
        recall = true / (matches.objects[:, number].sum() or np.nan)
        points = np.unique(np.linspace(0, max(len(verdict) - 1, 0), 101).round().astype(int))[: len(verdict)]
        curve = np.stack([recall, true / np.maximum(true + false, 1)])[:, points]
        curves[name] = np.nan_to_num(curve).round(4).tolist()
    by_threshold = np.array([np.mean(table[:, t]) for t in range(len(THRESHOLDS))])
    summaries = [
        {"AP": float(np.mean(row)), "AP50": float(row[0]), "AP75": float(row[5])} for row in (*table, by_threshold)
    ]
    metrics = {f"bbox/{name}": value for name, value in summaries.pop().items()}
    return Evaluation(metrics, dict(zip(classes, summaries, strict=True)), {"bbox": matches}, curves)


def match_voc(detections: Detections, truth: SplitTruth, metric: str = "voc_2007") -> Matches:
    """Give each detection its object at every IoU threshold.

    The image numbers of both are the same; `metric` is `voc_2007`, of eleven points, or `voc_area` (2010 and later).
    """
    classes = len(detections.classes)
    # What the text files keep: products with 1000 and 10 of 32-bit numbers are exact in 64 bits, so rounding them is
    # rounding the decimal expansion, as formatting does.
    score = np.rint(detections.score.astype(np.float32).astype(np.float64) * 1000) / 1000
    shifted = detections.box.astype(np.float32) + np.array([1, 1, 0, 0], np.float32)
    box = np.rint(shifted.astype(np.float64) * 10) / 10
    order = np.lexsort((detections.image, -score))
    image, category = detections.image[order].astype(np.int64), detections.category[order].astype(np.int64)
    overlap, best = _best_overlaps(image * classes + category, box[order], truth, classes)
    verdict = np.full((len(order), len(THRESHOLDS)), FALSE, np.int8)
    difficult = truth.difficult[best] if len(truth.difficult) else np.zeros(len(order), bool)
    for t, threshold in enumerate(THRESHOLDS):
        hit = overlap > threshold
        verdict[hit & difficult, t] = IGNORED
        counted = np.flatnonzero(hit & ~difficult)
        # unique() gives the first place of each object, which is its best-scored detection.
        verdict[counted[np.unique(best[counted], return_index=True)[1]], t] = TRUE
    objects = np.zeros((len(detections.image_ids), classes), np.int32)
    np.add.at(objects, (truth.image[~truth.difficult], truth.category[~truth.difficult]), 1)
    return Matches(
        tuple(map(str, detections.image_ids)), tuple(detections.classes), image.astype(np.int32),
        category.astype(np.int16), score[order], verdict, objects, metric,
    )  # fmt: skip


def _best_overlaps(
    group: np.ndarray, box: np.ndarray, truth: SplitTruth, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the largest IoU with an object of its image and class (-inf without one), and which object.

    `group` (N,) is image number * classes + class number, `box` (N, 4).
    """
    overlap, best = np.full(len(group), -np.inf), np.zeros(len(group), np.int64)
    truth_group = truth.image * classes + truth.category
    order = np.argsort(truth_group, kind="stable")
    start = np.searchsorted(truth_group[order], group, "left")
    count = np.searchsorted(truth_group[order], group, "right") - start  # objects of the detection's group, (N,)
    some = np.flatnonzero(count)
    if not len(some):
        return overlap, best
    begin = np.concatenate([[0], np.cumsum(count[some])[:-1]])  # first pair of each detection, (M,)
    rows = np.repeat(some, count[some])  # detection of each pair, (P,)
    columns = order[np.arange(len(rows)) - np.repeat(begin, count[some]) + np.repeat(start[some], count[some])]
    a, b = box[rows].T, truth.box[columns].T  # (4, P), whose last row and column belong to them
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + 1.0, 0.0)
    inside = width * height
    # In the order of Detectron2's sum, so that equal overlaps are equal here too.
    union = (a[2] - a[0] + 1.0) * (a[3] - a[1] + 1.0) + (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0) - inside
    iou = inside / union
    overlap[some] = np.maximum.reduceat(iou, begin)
    # Of equal overlaps the first object wins, as argmax has it.
    at_best = np.where(iou == np.repeat(overlap[some], count[some]), np.arange(len(iou)), len(iou))
    best[some] = columns[np.minimum(np.minimum.reduceat(at_best, begin), len(iou) - 1)]
    return overlap, best

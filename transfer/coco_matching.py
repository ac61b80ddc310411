"""COCO's rules of matching and averaging, for all images, thresholds and area ranges in one pass over arrays.

The rules are those of pycocotools 2.0.11 `cocoeval.py`: `evaluateImg`, `accumulate`, `summarize`. The order of every
sum, tie and comparison is theirs, so the figures are equal, not close.

NOTE: pycocotools takes an object whose id is 0 for one that is never found; here ids mean nothing.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# All, small, medium, large: square pixels, both ends inside.
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
COUNTS = (1, 10, 100)
"""Detections an image and class that count, the best scored first."""


@dataclass
class Objects:
    """The objects of a split, by image and, within one, in the file's order.

    Attributes:
        group: (G,) int64, image number * classes + class number.
        area: (G,) float64, square pixels as the file says.
        crowd: (G,) bool; a crowd may be found many times and counts neither way.
    """

    group: np.ndarray
    area: np.ndarray
    crowd: np.ndarray


@dataclass
class Found:
    """Detections by group and, within one, in falling order of score; at most `COUNTS[-1]` in a group.

    Attributes:
        group: (D,) int64.
        rank: (D,) int64, place in its group from 0.
        score: (D,) float64.
        area: (D,) float64.
    """

    group: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    area: np.ndarray


@dataclass
class Curves:
    """What every figure is computed from; -1 where a class has no object in the area range.

    Attributes:
        precision: (10, 101, K, 4), by IoU threshold, recall, class, area range, for 100 detections.
        recall: (10, K, 4, 3), the recall reached, the last axis by `COUNTS`.
    """

    precision: np.ndarray
    recall: np.ndarray


def order(group: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections count, by group and falling score, and their ranks; equal scores keep their order.

    Args:
        group: (N,).
        score: (N,).

    Returns:
        (indices into the arguments (D,), rank (D,))
    """
    chosen = np.lexsort((-score, group))
    ordered = group[chosen]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    kept = rank < COUNTS[-1]
    return chosen[kept], rank[kept]


def pairs(found: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every detection with every object of its group.

    Args:
        found: (D,) groups, ascending.
        objects: (G,) groups in any order.

    Returns:
        (detection (P,), object (P,)), by detection and, within one, in the objects' order
    """
    by_group = np.argsort(objects, kind="stable")
    start = np.searchsorted(objects[by_group], found)
    count = np.searchsorted(objects[by_group], found, "right") - start  # objects of the detection's group, (D,)
    detection = np.repeat(np.arange(len(found)), count)
    place = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    return detection, by_group[np.repeat(start, count) + place]


def outside(area: np.ndarray) -> np.ndarray:
    """Which areas (N,) lie out of each range, (N, 4); a range's ends belong to it, as in evaluateImg."""
    return (area[:, None] < AREAS[:, 0]) | (area[:, None] > AREAS[:, 1])


def match(
    found: Found, objects: Objects, detection: np.ndarray, thing: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection its object, greedily by score, at every threshold and in every area range.

    A detection takes the free object with the largest IoU, the later one of equals; one that is ignored (a crowd, or
    out of the area range) only if there is no other. A crowd is never used up.

    Args:
        found: the detections.
        objects: the objects.
        detection: (P,), ascending.
        thing: (P,), object of the pair.
        iou: (P,).

    Returns:
        (true (D, 4, 10) bool: it found an object that counts; ignored (D, 4, 10) bool: it counts neither way)
    """
    shape = (len(AREAS), len(THRESHOLDS))
    skipped = objects.crowd[:, None] | outside(objects.area)  # (G, 4)
    taken = np.zeros((len(objects.group), *shape), bool)
    true = np.zeros((len(found.group), *shape), bool)
    ignored = np.repeat(outside(found.area)[:, :, None], len(THRESHOLDS), axis=2)  # (D, 4, 10)

    near = iou >= THRESHOLDS[0]
    detection, thing, iou = detection[near], thing[near], iou[near]
    # Detections of different groups cannot compete: the n-th of every group that is near an object, all at once.
    first = np.flatnonzero(np.diff(detection, prepend=-1))
    groups = found.group[detection[first]]
    turn = np.arange(len(first)) - np.searchsorted(groups, groups)
    turn = np.repeat(turn, np.diff(first, append=len(detection)))
    sequence = np.argsort(turn, kind="stable")
    ends = np.searchsorted(turn[sequence], np.arange(turn.max(initial=-1) + 2))
    for begin, end in pairwise(ends.tolist()):
        part = sequence[begin:end]
        d, g, overlap = detection[part], thing[part], iou[part][:, None, None]
        start = np.flatnonzero(np.diff(d, prepend=-1))
        length = np.diff(start, append=len(d))
        free = (overlap >= THRESHOLDS) & (~taken[g] | objects.crowd[g][:, None, None])  # (p, 4, 10)
        counting = free & ~skipped[g][:, :, None]
        # An object that is ignored is only for those that find no other.
        some = np.repeat(np.logical_or.reduceat(counting, start, axis=0), length, axis=0)
        value = np.where(np.where(some, counting, free), overlap, -1.0)
        best = np.maximum.reduceat(value, start, axis=0)  # (d, 4, 10)
        last = np.where(value == np.repeat(best, length, axis=0), np.arange(len(d))[:, None, None], -1)
        chosen = np.maximum.reduceat(last, start, axis=0)
        rows, areas, thresholds = np.nonzero(best > 0)
        object_ = g[chosen[rows, areas, thresholds]]
        taken[object_, areas, thresholds] = True
        counts = ~skipped[object_, areas]
        true[d[start][rows], areas, thresholds] = counts
        ignored[d[start][rows], areas, thresholds] = ~counts
    return true, ignored


def accumulate(found: Found, objects: Objects, true: np.ndarray, ignored: np.ndarray, classes: int) -> Curves:
    """Precision at 101 recalls for every threshold, class and area range, and the recall reached.

    Args:
        found: the detections.
        objects: the objects.
        true: see `match`.
        ignored: see `match`.
        classes: number of classes, K.
    """
    precision = -np.ones((len(THRESHOLDS), len(RECALLS), classes, len(AREAS)))
    recall = -np.ones((len(THRESHOLDS), classes, len(AREAS), len(COUNTS)))
    counted = ~(objects.crowd[:, None] | outside(objects.area))  # (G, 4)
    positives = np.zeros((classes, len(AREAS)), np.int64)
    np.add.at(positives, objects.group % classes, counted)
    members = np.argsort(found.group % classes, kind="stable")
    bounds = np.searchsorted((found.group % classes)[members], np.arange(classes + 1))
    for k in range(classes):
        mine = members[bounds[k] : bounds[k + 1]]
        mine = mine[np.argsort(-found.score[mine], kind="mergesort")]
        hits = true[mine].transpose(1, 2, 0)  # (4, 10, n)
        misses = (~true[mine] & ~ignored[mine]).transpose(1, 2, 0)
        for a in range(len(AREAS)):
            if not positives[k, a]:
                continue
            for m, count in enumerate(COUNTS):
                recall[:, k, a, m] = hits[a][:, found.rank[mine] < count].sum(axis=1) / positives[k, a]
            precision[:, :, k, a] = _precision(hits[a], misses[a], int(positives[k, a]))
    return Curves(precision, recall)


def _precision(hits: np.ndarray, misses: np.ndarray, positives: int) -> np.ndarray:
    """(10, 101) from the detections of a class in falling order of score, (10, n) each."""
    true, false = np.cumsum(hits, axis=1, dtype=np.float64), np.cumsum(misses, axis=1, dtype=np.float64)
    reached = true / positives
    envelope = np.maximum.accumulate((true / (false + true + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    # Behind the last detection the precision is 0.
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)  # (10, n + 1)
    places = np.stack([np.searchsorted(row, RECALLS, "left") for row in reached])  # (10, 101)
    return np.take_along_axis(envelope, places, axis=1)


def summarize(curves: Curves) -> np.ndarray:
    """The twelve figures that pycocotools prints, 0 to 1, or -1 without any object.

    AP, AP50, AP75, AP of small, medium and large objects; AR with 1, 10 and 100 detections, of the three sizes.
    """

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(np.mean(values)) if values.size else -1.0

    p, r = curves.precision, curves.recall
    average = [p[..., 0], p[0, :, :, 0], p[5, :, :, 0], *(p[..., a] for a in (1, 2, 3))]
    reached = [*(r[..., 0, m] for m in range(3)), *(r[..., a, 2] for a in (1, 2, 3))]
    return np.array([mean(values) for values in (*average, *reached)])

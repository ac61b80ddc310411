"""Average precision from the verdicts on a detector's detections, for any choice of the images."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.detection_matches import FALSE, THRESHOLDS, TRUE, Matches

# Where the precision is read off the curve; `voc_area` takes the area under it.
RECALLS = {"voc_2007": np.arange(0.0, 1.1, 0.1), "coco": np.linspace(0.0, 1.0, 101)}
# Resamples handled at once: bounds the memory at about 100 MB for the whole VOC 2007 test set.
BLOCK = 250


def mean_average_precision(matches: Matches, image_weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """AP, AP50 and AP75 in percent, means over the classes, (R, 3).

    Args:
        matches: a run's detections.
        image_weights: (I, R) how often each image counts, a column a resample; None counts each once (R = 1).

    An image drawn twice counts like two images. A class of which a resample has no object scores 0 on VOC and is left
    out on COCO, as in the definitions of the metrics.
    """
    weights = np.ones((len(matches.image_ids), 1)) if image_weights is None else image_weights
    blocks = [
        _block(matches, np.ascontiguousarray(weights[:, i : i + BLOCK])) for i in range(0, weights.shape[1], BLOCK)
    ]
    return np.concatenate(blocks)


def _block(matches: Matches, weights: NDArray[Any]) -> NDArray[np.float64]:
    table = np.zeros((weights.shape[1], len(THRESHOLDS)))
    counted = np.zeros((weights.shape[1], 1))
    for class_index in range(len(matches.classes)):
        positives = _positives(matches, class_index, weights)
        counted[:, 0] += (positives > 0) if matches.metric == "coco" else 1
        table += class_average_precision(matches, class_index, weights)
    table *= 100 / np.maximum(counted, 1)
    return np.stack([table.mean(axis=1), table[:, 0], table[:, 5]], axis=1)


def class_average_precision(matches: Matches, class_index: int, image_weights: NDArray[Any]) -> NDArray[np.float64]:
    """AP of one class at every IoU threshold, 0 to 1, (R, 10); weights as above. Without an object it is 0."""
    mine = np.flatnonzero(matches.category == class_index)
    image, positives = matches.image[mine], _positives(matches, class_index, image_weights)
    recalls = RECALLS.get(matches.metric)
    columns = [_curve_area(image, verdict, positives, image_weights, recalls) for verdict in matches.verdict[mine].T]
    return np.stack(columns, axis=1)


def _positives(matches: Matches, class_index: int, weights: NDArray[Any]) -> NDArray[Any]:
    positives: NDArray[Any] = matches.objects[:, class_index].astype(weights.dtype) @ weights
    return positives  # (R,)


def _curve_area(
    image: NDArray[Any], verdict: NDArray[Any], positives: NDArray[Any], weights: NDArray[Any],
    recalls: NDArray[Any] | None,
) -> NDArray[np.float64]:  # fmt: skip
    """AP of one class at one threshold for every resample, (R,). Detections in falling order of score."""
    from scipy.sparse import csr_matrix  # an eighth of a second, which `--help` does not wait for

    hits = np.flatnonzero(verdict == TRUE)
    if not len(hits):
        return np.zeros(weights.shape[1])
    # Precision falls between two true detections and is best at them, so only there it has to be known: the false ones
    # are summed segment by segment, which is a product with a sparse table of who is false where.
    wrong = np.flatnonzero(verdict == FALSE)
    segment = np.searchsorted(hits, wrong)
    inside = segment < len(hits)
    count = csr_matrix(
        (np.ones(inside.sum(), weights.dtype), (segment[inside], image[wrong[inside]])), shape=(len(hits), len(weights))
    )
    drawn = weights[image[hits]]  # (H, R)
    true = np.cumsum(drawn, axis=0)  # (H, R)
    false = np.cumsum(count @ weights, axis=0)  # (H, R)
    # Both are whole numbers, or 0 where there is nothing yet.
    precision = true / np.maximum(true + false, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if recalls is not None:
        # In double precision: a recall that equals a level has to fall on the same side of it as in Detectron2.
        recall = true / np.maximum(positives, 1).astype(np.float64)
        reached = np.searchsorted(recalls, recall, side="right")  # (H, R), how many levels
        # The precision at a level is that of the first detection which reaches it, and none where no one does.
        columns = np.arange(reached.shape[1])
        each = np.bincount((reached * len(columns) + columns).ravel(), minlength=(len(recalls) + 1) * len(columns))
        first = each.reshape(-1, len(columns))[: len(recalls)].cumsum(axis=0)  # (levels, R)
        points = np.concatenate([envelope, np.zeros_like(envelope[:1])]).astype(np.float64)[first, columns]
        # Summed in Detectron2's order, for its last bits.
        mean: NDArray[np.float64] = sum(points / len(recalls), np.zeros(len(columns)))
        return mean
    # A true detection raises the recall by how often its image counts.
    area: NDArray[np.float64] = np.einsum("hr,hr->r", drawn, envelope) / np.maximum(positives, 1)
    return area


def class_pooled_average_precision(matches: Matches, image_weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """AP in percent of the detections of all classes ranked together, area under the curve, (R,); weights as above.

    Dave et al., arXiv:2102.01066 (AP-pool). The mean over classes gives a class of few objects, whose
    curve a single detection moves, the same weight as one of many; this number does not, and scatters less.
    """
    together = np.zeros_like(matches.category), matches.objects.sum(axis=1, keepdims=True)
    one = replace(matches, classes=("all",), category=together[0], objects=together[1], metric="voc_area")
    return mean_average_precision(one, image_weights)[:, 0]


def mean_and_pooled_average_precision(
    matches: Matches, image_weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """`mean_average_precision` and, as a fourth column, `class_pooled_average_precision`, (R, 4)."""
    means = mean_average_precision(matches, image_weights)
    return np.column_stack([means, class_pooled_average_precision(matches, image_weights)])

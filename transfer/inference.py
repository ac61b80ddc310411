"""Run a detector over a split, keep what it finds, and measure it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import nn

from runs.distributed import rank, world_size
from runs.matches import FILE, Matches, save_matches
from runs.progress import Progress
from transfer.coco_evaluation import coco_results, evaluate_coco
from transfer.datasets import Split
from transfer.detections import Detections
from transfer.rle import coder
from transfer.voc_evaluation import Truth, evaluate_voc, match_voc


@dataclass
class Evaluation:
    """AP of a split by the definition its benchmark is known for, and what it was measured on.

    Attributes:
        metrics: in percent.
        details: for the record: `per_class`, the files' SHA-256 and, for VOC, `curves` at IoU .50 with at most 101
            points a class.
        detections: of the split.
        matches: by `bbox` and `segm`.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    detections: Detections
    matches: dict[str, Matches]


def evaluate(cfg: Any, detector: nn.Module, split: Split, batches: Iterable[Any]) -> Evaluation | None:
    """Every image of a split through the detector, shared out over the processes, and its AP.

    Writes `detections.npz` and `matches.npz`.

    Args:
        cfg: Detectron2's configuration; its OUTPUT_DIR is the run's folder.
        detector: in any mode; it is in evaluation mode afterwards.
        split: the images.
        batches: this process's share of them, by `build_test_loader`.

    Returns:
        The evaluation on process 0, None on the others.
    """
    detections = detect(cfg, detector, split, batches)
    if detections is None:
        return None
    details: dict[str, Any] = {}
    if split.metric == "coco":
        kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        metrics, per_class, matches = evaluate_coco(coco_results(detections), split.images, split.classes, kinds)
    else:
        matches = {"bbox": match_voc(detections, Truth.of(split.images), split.metric)}
        metrics, per_class, curves = evaluate_voc(matches["bbox"])
        details["curves"] = {name: _thinned(curve) for name, curve in curves.items()}
    details["per_class"] = per_class
    folder = Path(cfg.OUTPUT_DIR)
    details["files"] = {
        "detections.npz": detections.save(folder / "detections.npz"),
        FILE: save_matches(folder / FILE, matches),
    }
    return Evaluation(metrics, details, detections, matches)


def _thinned(curve: np.ndarray) -> Any:
    """At most 101 points of a curve (2, N)."""
    keep = np.unique(np.linspace(0, max(curve.shape[1] - 1, 0), 101).round().astype(int))[: curve.shape[1]]
    return np.nan_to_num(curve[:, keep]).round(4).tolist()


@torch.no_grad()
def detect(cfg: Any, detector: nn.Module, split: Split, batches: Iterable[Any]) -> Detections | None:
    """The detections on process 0, None on the others; the arguments are those of `evaluate`."""
    detector.eval()
    rows: list[tuple[int, Any]] = []
    numbers = range(rank(), len(split.images), world_size())
    title = f"testing on {split.name}"
    with Progress(len(numbers), title, "image", folder=Path(cfg.OUTPUT_DIR), disable=rank() > 0) as bar:
        for number, batch in zip(numbers, batches, strict=True):
            rows.append((number, _plain(detector(batch)[0]["instances"])))
            bar.update()
    # Pickled and gathered on the CPU: a detector's masks would not fit on its device a second time.
    shares = comm.gather(rows)
    if rank():
        return None
    ordered = [found for _, found in sorted((row for share in shares for row in share), key=lambda row: row[0])]
    return _join(split, ordered, cfg.MODEL.MASK_ON)


def _plain(instances: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes] | None]:
    """Box (n, 4), score (n,), class (n,) and run-length codes of one image's instances."""
    instances = instances.to("cpu")
    masks = None
    if instances.has("pred_masks"):
        masks = [
            coder.encode(np.asfortranarray(m[:, :, None], np.uint8))[0]["counts"] for m in instances.pred_masks.numpy()
        ]
    return instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy(), masks


def _join(split: Split, found: list[Any], masks: bool) -> Detections:
    counts = [len(scores) for _, scores, _, _ in found]
    return Detections(
        image_ids=[image["image_id"] for image in split.images],
        classes=split.classes,
        image=np.repeat(np.arange(len(found), dtype=np.int32), counts),
        category=np.concatenate([c for _, _, c, _ in found]).astype(np.int16),
        score=np.concatenate([s for _, s, _, _ in found]).astype(np.float32),
        box=np.concatenate([b for b, _, _, _ in found]).astype(np.float32).reshape(-1, 4),
        sizes=np.array([(image["height"], image["width"]) for image in split.images], np.int32),
        masks=[code for _, _, _, codes in found for code in codes or []] if masks else None,
    )

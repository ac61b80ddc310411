"""Run a detector over a split, keep what it finds, and measure it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import nn

from transfer.coco_evaluation import coco_results, evaluate_coco
from transfer.datasets import Split
from transfer.detections import Detections
from transfer.distributed import shown
from transfer.loading import BrokenImage, one_line, test_loader
from transfer.matches import Matches
from transfer.voc_evaluation import Truth, evaluate_voc, match_voc


@torch.no_grad()
def detect(cfg: Any, detector: nn.Module, split: Split, workers: int, folder: Path | None = None) -> Detections | None:
    """Every image of a split through the detector, shared out over the processes.

    Args:
        cfg: Detectron2's configuration.
        detector: in any mode; it is in evaluation mode afterwards.
        split: the images.
        workers: image-loading processes.
        folder: where `progress.json` goes.

    Returns:
        The detections on process 0, None on the others.
    """
    detector.eval()
    rows: list[tuple[int, Any]] = []
    numbers = range(comm.get_rank(), len(split.images), comm.get_world_size())
    loader = test_loader(cfg, split, workers)
    with shown(len(numbers), f"testing on {split.name}", unit="image", folder=folder) as bar:
        try:
            for number, batch in zip(numbers, loader, strict=True):
                rows.append((number, _plain(detector(batch)[0]["instances"])))
                bar.update()
        except BrokenImage as error:
            raise one_line(error) from error
    shares = comm.gather(rows)
    if not comm.is_main_process():
        return None
    ordered = [found for _, found in sorted((row for share in shares for row in share), key=lambda row: row[0])]
    return _join(split, ordered, cfg.MODEL.MASK_ON)


@dataclass
class Measured:
    """AP of a split by the definition its benchmark is known for.

    Attributes:
        metrics: in percent.
        details: for the record: `per_class` and, for VOC, `curves` at IoU .50 with at most 101 points a class.
        matches: by `bbox` and `segm`.
        metric: see `transfer.matches.save_matches`.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    matches: dict[str, Matches]
    metric: str


def measure(split: Split, detections: Detections, masks: bool) -> Measured:
    """Measure a detector's detections on a split, with masks or without."""
    if not split.voc:
        kinds = ("bbox", "segm") if masks else ("bbox",)
        metrics, per_class, matches = evaluate_coco(coco_results(detections), split.images, split.classes, kinds)
        return Measured(metrics, {"per_class": per_class}, matches, "coco")
    found = match_voc(detections, Truth.of(split.images), len(split.classes))
    use_07 = "2007" in split.source
    metrics, per_class, curves = evaluate_voc(found, split.classes, use_07)
    thinned = {}
    for name, curve in curves.items():
        keep = np.unique(np.linspace(0, max(curve.shape[1] - 1, 0), 101).round().astype(int))[: curve.shape[1]]
        thinned[name] = np.nan_to_num(curve[:, keep]).round(4).tolist()
    details = {"per_class": per_class, "curves": thinned}
    return Measured(metrics, details, {"bbox": found}, "voc_2007" if use_07 else "voc_area")


def _plain(instances: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes] | None]:
    """Box (n, 4), score (n,), class (n,) and run-length codes of one image's instances."""
    instances = instances.to("cpu")
    masks = None
    if instances.has("pred_masks"):
        from pycocotools import mask as coder

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

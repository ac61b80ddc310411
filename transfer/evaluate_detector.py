"""Run a detector over a split, keep what it finds, and measure it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import nn

from runs.detection_matches import FILE, save_matches
from runs.distributed import rank, world_size
from runs.errors import raise_or_yield
from runs.progress import Progress
from transfer.check_rle import coder
from transfer.coco_evaluation import evaluate_coco, to_coco_results_with_indices_as_ids
from transfer.detections import Detections, Evaluation
from transfer.model import as_user_errors
from transfer.read_splits import Split
from transfer.voc_evaluation import SplitTruth, evaluate_voc

# What an evaluation writes.
FILES = ("detections.npz", FILE)


def evaluate_and_save(
    cfg: Any, detector: nn.Module, split: Split, batches: Iterable[Any]
) -> tuple[Evaluation, Detections] | None:
    """Every image of a split through the detector, shared out over the processes, and its AP.

    `batches` are this process's share of the images, by `build_test_loader`. The first process writes `FILES` into
    `cfg.OUTPUT_DIR` and returns the evaluation and what was found, the others None. The detector is left in evaluation
    mode.
    """
    detections = detect(cfg, detector, split, batches)
    if detections is None:
        return None
    if split.metric == "coco":
        kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        evaluation = evaluate_coco(to_coco_results_with_indices_as_ids(detections), split.images, split.classes, kinds)
    else:
        evaluation = evaluate_voc(detections, SplitTruth.from_images(split.images), split.metric)
    folder = Path(cfg.OUTPUT_DIR)
    detections.save(folder / FILES[0])
    save_matches(folder / FILES[1], evaluation.matches)
    return evaluation, detections


@torch.no_grad()
def detect(cfg: Any, detector: nn.Module, split: Split, batches: Iterable[Any]) -> Detections | None:
    """The detections on process 0, None on the others; the arguments are those of `evaluate_and_save`."""
    detector.eval()
    rows: list[tuple[int, Any]] = []
    numbers = range(rank(), len(split.images), world_size())
    title = f"testing on {split.name}"
    with (
        as_user_errors("recipe=, detectron2.…: Detectron2 cannot test this detector"),
        Progress(len(numbers), title, "image", folder=Path(cfg.OUTPUT_DIR), disable=rank() > 0) as bar,
    ):
        for number, batch in zip(numbers, raise_or_yield(batches), strict=True):
            rows.append((number, _plain(detector(batch)[0]["instances"])))
            bar.update()
    # Pickled and gathered on the CPU: a detector's masks would not fit on its device a second time.
    shares = comm.gather(rows)
    if rank():
        return None
    found = [found for _, found in sorted((row for share in shares for row in share), key=lambda row: row[0])]
    boxes, scores, categories, masks = zip(*found, strict=True)
    return Detections(
        image_ids=[image["image_id"] for image in split.images],
        classes=split.classes,
        image=np.repeat(np.arange(len(found), dtype=np.int32), [len(image) for image in scores]),
        category=np.concatenate(categories).astype(np.int16),
        score=np.concatenate(scores).astype(np.float32),
        box=np.concatenate(boxes).astype(np.float32).reshape(-1, 4),
        sizes=np.array([(image["height"], image["width"]) for image in split.images], np.int32),
        masks=[code for codes in masks for code in codes or []] if cfg.MODEL.MASK_ON else None,
    )


def _plain(instances: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes] | None]:
    """Box (n, 4), score (n,), class (n,) and run-length codes of one image's instances."""
    instances = instances.to("cpu")
    masks = None
    if instances.has("pred_masks"):
        masks = [
            coder.encode(np.asfortranarray(m[:, :, None], np.uint8))[0]["counts"] for m in instances.pred_masks.numpy()
        ]
    return instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy(), masks

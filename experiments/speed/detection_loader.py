"""Batches for fine-tuning a detector: this project's loader against Detectron2's own, with MoCo's VOC recipe.

Both run Detectron2's mapper (decoding, resizing to a shorter side of 480 to 800, flip, boxes) on the same photographs,
in this process on one thread, in processor seconds. Ours draws from the seed and the image's place alone, which must
not cost time. `--data DIR` holds VOC2007; without it scenes are generated.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import detectron2
import torch
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from benchmarks.shapes import Settings, generate
from benchmarks.shapes_scenes import CLASSES
from experiments.speed.rows import Row, Skipped, alternate, run_script
from hardware.measure_peak_rates import decode_rate
from transfer.detectron2_config import build_cfg
from transfer.loader import build_data_loaders, images_with_objects
from transfer.read_splits import Split, read_joined_splits
from transfer.settings import VOC_CLASSES, TransferConfig


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """Images a second and core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root, split = arguments.data, "voc_2007_train"
        classes: Sequence[str] = VOC_CLASSES
        if root is None:
            root, split, classes = Path(folder) / "generated", "voc_2007_trainval", CLASSES
            generate(root, Settings(images=2, val_images=2, voc07=48, voc07_test=2, voc12=2, coco=2, coco_val=2))
        yield row(read_joined_splits(str(root), [split], classes), arguments)


def row(split: Split, arguments: argparse.Namespace) -> Row:
    """The same number of batches from both."""
    logging.disable(logging.WARNING)  # Detectron2 prints its augmentations
    config = TransferConfig()
    config.task, config.arch, config.device = "voc07", "resnet50", "cpu"
    cfg = build_cfg(config, None, "cpu")
    images = images_with_objects(cfg, split)
    count, rounds = (1, 2) if arguments.quick else (4, 5)
    mine = iter(build_data_loaders(cfg, split, split, 0).train)
    theirs = iter(
        build_detection_train_loader(
            images,
            mapper=DatasetMapper(cfg, True),
            sampler=TrainingSampler(len(images), seed=0),
            num_workers=0,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        )
    )
    seconds = alternate(take_batches(mine, count), take_batches(theirs, count), rounds, "cpu")
    done = count * cfg.SOLVER.IMS_PER_BATCH
    files = [Path(image["file_name"]).read_bytes() for image in images[:48]]
    return Row(
        "detection_loader/train",
        f"{cfg.SOLVER.IMS_PER_BATCH} images a batch for Faster R-CNN, {split.name}, on one core",
        "images/s", True, [done / s for s in seconds[0]], [done / s for s in seconds[1]],
        f"Detectron2 {detectron2.__version__}", "cpu", decode_rate(files), "decoding alone (Pillow)",
    )  # fmt: skip


def take_batches(batches: Iterator[Any], count: int) -> Callable[[], Any]:
    """Take so many batches."""
    return lambda: [next(batches) for _ in range(count)]


if __name__ == "__main__":
    run_script(measure, __doc__ or "")

"""Named splits of VOC and COCO, read and checked in one place for training, checking and evaluating.

Anything missing or wrong is a `UserError` with the file's name; what `read_split_and_faults` finds wrong, a line of its
list.
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runs.errors import UserError
from runs.record import Dataset
from transfer.coco_annotations import find_coco_split_names, read_coco_split_and_faults
from transfer.settings import DataConfig
from transfer.voc_annotations import find_voc_split_names, read_voc_split_and_faults, suggest_root


@dataclass
class Split:
    """A named split.

    Attributes:
        name: of the split as in the recipe, several joined by `+`, and behind it which part of its images these are.
        images: Detectron2's dataset dicts, boxes and classes included.
        classes: names in the order of `category_id`.
        metric: that of its benchmark, one of `runs.detection_matches.METRICS`.
    """

    name: str
    images: list[dict[str, Any]]
    classes: list[str]
    metric: str

    @functools.cached_property
    def dataset_record(self) -> Dataset:
        """What a record says of it; the fingerprint is the hexadecimal SHA-256 of classes and `image_signatures`."""
        digest = hashlib.sha256("".join([json.dumps(self.classes), *self.image_signatures]).encode()).hexdigest()
        return Dataset("COCO" if self.metric == "coco" else "VOC", self.name, len(self.images), digest)

    @functools.cached_property
    def image_signatures(self) -> list[str]:
        """For each image, a text of its file's name, its size, its boxes and their classes."""
        texts = []
        for image in self.images:
            boxes = [(a["category_id"], a["bbox"], a.get("difficult", 0)) for a in image["annotations"]]
            name = os.path.basename(image["file_name"])
            texts.append(json.dumps((name, image["width"], image["height"], boxes)))
        return texts

    @functools.cached_property
    def evaluated_object_count(self) -> int:
        """Number of objects that an evaluation counts: neither difficult nor crowds."""
        objects = (annotation for image in self.images for annotation in image["annotations"])
        return sum(not (a.get("difficult") or a.get("iscrowd")) for a in objects)

    def overall_faults(self) -> list[str]:
        """What is wrong with all objects together, where each of them is without fault."""
        if not self.evaluated_object_count:
            return [f"{self.name}: no object counts (all are difficult, crowds, or absent); annotate some"]
        if all(max(annotation["bbox"]) <= 1 for image in self.images for annotation in image["annotations"]):
            return [f"{self.name}: all boxes lie within the first pixel, as fractions of the image would; write pixels"]
        return []


def read_split_and_faults(
    root: Path, name: str, classes: Sequence[str], require_masks: bool, require_images: bool = True
) -> tuple[Split, list[str]]:
    """Read a split past every fault.

    Args:
        root: the folder that holds `VOC2007/`, `VOC2012/`, `coco/`.
        name: e.g. `voc_2007_trainval`.
        classes: the VOC class names; COCO's come from its file.
        require_masks: whether COCO's objects need masks.
        require_images: whether VOC's images have to be there.

    Returns:
        (the images and objects without fault; what is wrong, each with its file and the remedy)
    """
    if name.startswith("coco"):
        found, categories, faults = read_coco_split_and_faults(root, name, require_masks)
        split = Split(name, found, list(categories.values()), "coco")
    else:
        found, faults = read_voc_split_and_faults(root, name, classes, require_images)
        split = Split(name, found, list(classes), "voc_2007" if name.startswith("voc_2007") else "voc_area")
    return split, faults or split.overall_faults()


def raise_first_fault(faults: Sequence[str], more: str = "") -> None:
    """Raise the first fault, if there is one; the message says how many more there are and `more` of them."""
    if faults:
        raise UserError(faults[0] + (f" ({len(faults) - 1} more{more})" if faults[1:] else ""))


def find_split_names(root: Path) -> list[str]:
    """Names of all splits whose lists lie under `root`; none is an error."""
    _require_folder(root)
    names = find_voc_split_names(root) + find_coco_split_names(root)
    if not names:
        hint = suggest_root(root)
        raise UserError(
            f"data.root={root}: holds no split of VOC or COCO in Detectron2's layout{'; ' if hint else ''}{hint}"
        )
    return names


def read_joined_splits(
    root: str, names: Sequence[str], classes: Sequence[str], require_masks: bool = False, require_images: bool = True
) -> Split:
    """Read splits and put them behind one another; the arguments are those of `read_split_and_faults`."""
    _require_folder(Path(root))
    if not names:
        raise UserError("data.train=[]: the recipe names no split to train on; name one, data.train=[NAME]")
    if len(set(names)) < len(names):
        raise UserError(f"data: {', '.join(names)}: names a split twice; its images would count twice")
    splits: list[Split] = []
    for name in names:
        split, faults = read_split_and_faults(Path(root), name, classes, require_masks, require_images)
        raise_first_fault(faults, f": python -m transfer.check_data data.root={root}")
        if splits and splits[0].classes != split.classes:
            raise UserError(f"{name}: other classes than {splits[0].name}; use splits of one data set")
        splits.append(split)
    return replace(splits[-1], name="+".join(names), images=[image for split in splits for image in split.images])


def read_train_and_test(data: DataConfig, cfg: Any) -> tuple[Split, Split]:
    """Read the splits to train on and to report on; the second is the first where a part of it is held out for that."""
    train = read_joined_splits(data.root, cfg.DATASETS.TRAIN, data.classes, cfg.MODEL.MASK_ON)
    if data.held_out:
        return train, train
    test = read_joined_splits(data.root, cfg.DATASETS.TEST, data.classes, cfg.MODEL.MASK_ON)
    if test.classes != train.classes:
        raise UserError(f"data.test={test.name}: other classes than {train.name}; use splits of one data set")
    return train, test


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")

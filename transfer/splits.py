"""Named splits of VOC and COCO, read and checked in one place for training, checking and evaluating.

Anything missing or wrong is a `UserError` with the file's name; what `read_split` finds wrong, a line of its list.
"""

import filecmp
import functools
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runs.distributed import rank
from runs.errors import UserError
from runs.printable import printable
from runs.record import Dataset
from transfer.coco_annotations import coco_files, coco_splits, read_coco
from transfer.settings import DataConfig
from transfer.subset import balanced, hold_out
from transfer.voc_annotations import intended_root, read_voc, voc_splits


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

    def to_dataset(self) -> Dataset:
        """What a record says of it."""
        benchmark = "COCO" if self.metric == "coco" else "VOC"
        return Dataset(benchmark, self.name, len(self.images), self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over file names, sizes, boxes and classes, in hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image in self.images:
            digest.update(_line(image).encode())
        return digest.hexdigest()


def read_split(
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
        found, categories, faults = read_coco(*coco_files(root, name), require_masks)
        split = Split(name, found, list(categories.values()), "coco")
    else:
        found, faults = read_voc(root, name, classes, require_images)
        split = Split(name, found, list(classes), "voc_2007" if name.startswith("voc_2007") else "voc_area")
    return split, faults or object_faults(found, name)


def object_faults(images: Sequence[dict[str, Any]], place: object) -> list[str]:
    """What is wrong with all objects together, where each of them is without fault."""
    if not count_evaluated_objects(images):
        return [f"{place}: no object counts (all are difficult, crowds, or absent); annotate some"]
    if all(max(annotation["bbox"]) <= 1 for image in images for annotation in image["annotations"]):
        return [f"{place}: all boxes lie within the first pixel, as fractions of the image would; write pixels"]
    return []


def count_evaluated_objects(images: Iterable[dict[str, Any]]) -> int:
    """Number of objects that an evaluation counts: neither difficult nor crowds."""
    objects = (annotation for image in images for annotation in image["annotations"])
    return sum(not (a.get("difficult") or a.get("iscrowd")) for a in objects)


def refuse(faults: Sequence[str], more: str = "") -> None:
    """Raise the first fault, if there is one; the message says how many more there are and `more` of them."""
    if faults:
        raise UserError(faults[0] + (f" ({len(faults) - 1} more{more})" if faults[1:] else ""))


def find_splits(root: Path) -> list[str]:
    """Names of all splits whose lists lie under `root`; none is an error."""
    _require_folder(root)
    names = voc_splits(root) + coco_splits(root)
    if not names:
        hint = intended_root(root)
        raise UserError(
            f"data.root={root}: holds no split of VOC or COCO in Detectron2's layout{'; ' if hint else ''}{hint}"
        )
    return names


def load_splits(
    root: str, names: Sequence[str], classes: Sequence[str], require_masks: bool = False, require_images: bool = True
) -> Split:
    """Read splits and put them behind one another; the arguments are those of `read_split`."""
    _require_folder(Path(root))
    if len(set(names)) < len(names):
        raise UserError(f"data: {', '.join(names)}: names a split twice; its images would count twice")
    whole: Split | None = None
    for name in names:
        split, faults = read_split(Path(root), name, classes, require_masks, require_images)
        refuse(faults, f": python -m transfer.check_data data.root={root}")
        if whole and whole.classes != split.classes:
            raise UserError(f"{name}: other classes than {whole.name}; use splits of one data set")
        whole = replace(split, name=f"{whole.name}+{name}", images=whole.images + split.images) if whole else split
    assert whole is not None
    return whole


def read_splits(data: DataConfig, cfg: Any) -> tuple[Split, Split]:
    """Read the splits to train on and to report on; the second is the first where a part of it is held out for that."""
    train = load_splits(data.root, cfg.DATASETS.TRAIN, data.classes, cfg.MODEL.MASK_ON)
    if data.held_out:
        return train, train
    test = load_splits(data.root, cfg.DATASETS.TEST, data.classes, cfg.MODEL.MASK_ON)
    if test.classes != train.classes:
        raise UserError(f"data.test={test.name}: other classes than {train.name}; use splits of one data set")
    return train, test


def prepare_splits(data: DataConfig, cfg: Any, splits: tuple[Split, Split] | None = None) -> tuple[Split, Split]:
    """The images to train on and those to report on, as the settings ask for them, of what `read_splits` returns.

    The numbers of classes and INPUT.MASK_FORMAT, which follow from the data set, are set in `cfg`.
    """
    train, test = splits or read_splits(data, cfg)
    if data.held_out:
        images, held = hold_out(train.images, data.held_out, data.seed)
        part = f"{data.held_out:g} held out, seed {data.seed}"
        train, test = _with_images(train, images, f"without {part}"), _with_images(train, held, part)
    for field, split in (("train", train), ("test", test)):
        if not count_evaluated_objects(split.images):
            raise UserError(f"data.{field}={split.name}: no object counts; choose another share or split")
    if data.images:
        chosen = balanced(train.images, len(train.classes), data.images, data.seed)
        train = _with_images(train, chosen, f"{data.images} images, seed {data.seed}")
    _warn_of_overlap(train, test)
    if cfg.MODEL.MASK_ON and train.metric != "coco":
        raise UserError(f"detectron2.MODEL.MASK_ON=True: {train.name} has no masks; use COCO's splits, or False")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(train.classes)
    objects = (a for image in train.images for a in image["annotations"])
    if any(isinstance(a.get("segmentation"), dict) and not a["iscrowd"] for a in objects):
        # Detectron2 cuts polygons alone out of an image, unless all masks are made of pixels.
        cfg.INPUT.MASK_FORMAT = "bitmask"
    return train, test


def _warn_of_overlap(train: Split, test: Split) -> None:
    """Say that images are reported on which are trained on: the same file, or a copy with its name and objects."""
    names = {os.path.basename(image["file_name"]) for image in test.images}
    files, copies = set(), defaultdict(list)
    for image in train.images:
        if os.path.basename(image["file_name"]) in names:
            files.add(image["file_name"])
            if image["annotations"]:
                copies[_line(image)].append(image["file_name"])
    both = []
    for image in test.images:
        file = image["file_name"]
        # Frames of two videos may have one name and one box of the whole frame each: only equal bytes make a copy.
        if file in files or any(filecmp.cmp(file, other, shallow=False) for other in copies.get(_line(image), ())):
            both.append(file)
    if both and rank() == 0:
        print(
            f"warning: data.test={test.name}: {len(both)} of its {len(test.images)} images are trained on, first "
            f"{printable(both[0])}; its AP says nothing of other images",
            file=sys.stderr,
        )


def _line(image: dict[str, Any]) -> str:
    """What tells an image from others: its name, size, boxes and classes."""
    boxes = [(a["category_id"], a["bbox"], a.get("difficult", 0)) for a in image["annotations"]]
    return json.dumps((os.path.basename(image["file_name"]), image["width"], image["height"], boxes))


def _with_images(split: Split, images: list[dict[str, Any]], part: str) -> Split:
    """`voc_2007_train (part)`; of a part of a part, both stand in the brackets."""
    name = f"{split.name[:-1]}, {part})" if split.name.endswith(")") else f"{split.name} ({part})"
    return replace(split, name=name, images=images)


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")

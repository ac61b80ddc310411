"""The images to train on and those to report on: a subset, nested and class-balanced, or a part that is held out."""

import filecmp
import hashlib
import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from runs.distributed import rank
from runs.errors import UserError
from runs.printable import printable
from transfer.read_splits import Split
from transfer.settings import DataConfig

Images = list[dict[str, Any]]


def take_subsets(data: DataConfig, train: Split, test: Split) -> tuple[Split, Split]:
    """The images to train on and those to report on, as the settings ask for them, of what `read_train_and_test` read.

    A warning names a test image that is trained on.
    """
    if data.held_out:
        images, held = hold_out(train.images, data.held_out, data.seed)
        part = f"{data.held_out:g} held out, seed {data.seed}"
        train, test = _with_images(train, images, f"without {part}"), _with_images(train, held, part)
    for field, split in (("train", train), ("test", test)):
        if not split.evaluated_object_count:
            raise UserError(f"data.{field}={split.name}: no object counts; choose another share or split")
    if data.images:
        chosen = balanced_subset(train.images, len(train.classes), data.images, data.seed)
        train = _with_images(train, chosen, f"{data.images} images, seed {data.seed}")
    _warn_of_overlap(train, test)
    return train, test


def balanced_subset(images: Images, classes: int, count: int, seed: int) -> Images:
    """`count` images in which the classes are as even as the images allow.

    Image by image: of the class that the fewest chosen images show, the next in a shuffled list of its images. The
    first n of a larger subset are therefore the subset of n, and a seed gives the same one everywhere.

    Raises:
        UserError: there are not as many images with an object.
    """
    shown = [{a["category_id"] for a in image["annotations"] if not a.get("iscrowd", 0)} for image in images]
    order = np.random.default_rng(seed).permutation(len(images))
    queues: list[list[int]] = [[] for _ in range(classes)]
    for index in order[::-1].tolist():  # reversed: lists are emptied from their end
        for category in shown[index]:
            queues[category].append(index)
    seen = np.zeros(classes, np.int64)
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        # Among equally rare classes the first: a rule that no generator's state enters.
        category = next((int(c) for c in np.argsort(seen, kind="stable") if queues[c]), None)
        if category is None:
            raise UserError(f"data.images={count}: only {len(chosen)} training images show an object; ask for fewer")
        index = queues[category].pop()
        if index not in chosen:
            chosen[index] = None
            for other in shown[index]:
                seen[other] += 1
    return [images[index] for index in chosen]


def hold_out(images: Images, part: float, seed: int) -> tuple[Images, Images]:
    """Split images into those to train on and a `part` from 0 to 1, held out; UserError if one of them is empty.

    By a hash of their file names with the seed, so that an image's side never depends on the others.
    """

    def is_held(image: dict[str, Any]) -> bool:
        name = image["file_name"].rsplit("/", 1)[-1]
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < part

    sides = [i for i in images if not is_held(i)], [i for i in images if is_held(i)]
    if not all(sides):
        raise UserError(f"data.held_out={part}: leaves a side of {len(images)} images empty; choose another share")
    return sides


def _warn_of_overlap(train: Split, test: Split) -> None:
    """Say that images are reported on which are trained on: the same file, or a copy with its name and objects."""
    files, copies = {image["file_name"] for image in train.images}, defaultdict(list)
    for image, key in zip(train.images, train.image_signatures, strict=True):
        if image["annotations"]:
            copies[key].append(image["file_name"])
    # Frames of two videos may have one name and one box of the whole frame each: only equal bytes make a copy.
    both = [
        image["file_name"]
        for image, key in zip(test.images, test.image_signatures, strict=True)
        if image["file_name"] in files
        or any(filecmp.cmp(image["file_name"], other, shallow=False) for other in copies.get(key, ()))
    ]
    if both and rank() == 0:
        print(
            f"warning: data.test={test.name}: {len(both)} of its {len(test.images)} images are trained on, first "
            f"{printable(both[0])}; its AP says nothing of other images",
            file=sys.stderr,
        )


def _with_images(split: Split, images: Images, part: str) -> Split:
    """`voc_2007_train (part)`; of a part of a part, both stand in the brackets."""
    name = f"{split.name[:-1]}, {part})" if split.name.endswith(")") else f"{split.name} ({part})"
    return replace(split, name=name, images=images)

"""Fewer training images: nested, class-balanced, reproducible; and a part of them held out to choose settings on."""

import hashlib
from typing import Any

import numpy as np

from runs.errors import UserError

Images = list[dict[str, Any]]


def balanced(images: Images, classes: int, count: int, seed: int) -> Images:
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

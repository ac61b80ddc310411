"""COCO splits in Detectron2's form, every annotation checked before any work is done."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.errors import UserError
from runs.files import read_json

# Official boxes reach past the edge by rounding, never further than this (pixels).
_SLACK = 1.0


def coco_files(root: Path, name: str) -> tuple[Path, Path]:
    """`coco_2017_val` -> (`root/coco/annotations/instances_val2017.json`, `root/coco/val2017`).

    Raises:
        UserError: the name is no COCO split's, or its files are missing.
    """
    match = re.fullmatch(r"coco_(\d{4})_(\w+)", name)
    if match is None:
        raise UserError(f"data: {name!r} is no COCO split; name it like coco_2017_train")
    folder = root / "coco"
    annotations = folder / "annotations" / f"instances_{match[2]}{match[1]}.json"
    images = folder / f"{match[2]}{match[1]}"
    for path in (folder, annotations, images):
        if not path.exists():
            raise UserError(f"{path}: missing; {name} needs it (data.root={root}, Detectron2's layout)")
    return annotations, images


def read_instances(file: Path) -> dict[str, Any]:
    """An instances file for evaluation, every annotation with `iscrowd`."""
    document: dict[str, Any] = read_json(file)
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(bool(annotation.get("iscrowd")))
    return document


def load_coco(root: Path, name: str) -> tuple[list[dict[str, Any]], list[str], list[int]]:
    """Read a split with Detectron2's own loader after every annotation has been checked.

    Args:
        root: the folder that holds `coco/`.
        name: e.g. `coco_2017_train`.

    Returns:
        (Detectron2's dicts with category ids from 0, class names, the file's category ids in the same order)

    Raises:
        UserError: a file is missing or an annotation is wrong; the message names file and annotation.
    """
    from detectron2.data.datasets import load_coco_json

    annotations, folder = coco_files(root, name)
    document = read_json(annotations)
    categories = check_document(document, annotations, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        images = load_coco_json(str(annotations), str(folder))
    order = {category: i for i, category in enumerate(sorted(categories))}
    for image in images:
        for annotation in image["annotations"]:
            annotation["category_id"] = order[annotation["category_id"]]
    return images, [categories[c] for c in order], list(order)


def check_document(document: Any, file: Path, folder: Path) -> dict[int, str]:
    """Check a COCO instances document against its images' folder.

    Returns:
        category id -> name

    Raises:
        UserError: the first thing that is wrong.
    """
    _, categories, faults = _examine(document, file, folder)
    for fault in faults:
        raise UserError(fault)
    return categories


def document_faults(file: Path, folder: Path) -> tuple[list[dict[str, Any]], int, list[str]]:
    """All that is wrong with an instances file.

    Returns:
        (`file_name`, `width`, `height` of each image, number of annotations, faults)
    """
    document = read_json(file)
    images, _, faults = _examine(document, file, folder)
    listed = [{"file_name": str(folder / name), "width": w, "height": h} for name, w, h in images.values()]
    return listed, len(document["annotations"]), list(faults)


def _examine(
    document: Any, file: Path, folder: Path
) -> tuple[dict[Any, tuple[str, int, int]], dict[int, str], Iterator[str]]:
    """(image id -> name, width, height; category id -> name; faults, found as they are asked for)."""
    try:
        images = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in document["images"]}
        categories = {category["id"]: str(category["name"]) for category in document["categories"]}
        entries = document["annotations"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: no COCO instances file ({error} is missing); restore it") from error
    if not images or not categories:
        raise UserError(f"{file}: lists no images or no categories; restore it")
    return images, categories, _faults(images, categories, entries, file, folder)


def _faults(
    images: dict[Any, tuple[str, int, int]], categories: dict[int, str], entries: Any, file: Path, folder: Path
) -> Iterator[str]:
    present = {path.name for path in folder.iterdir()}
    for name, _, _ in images.values():
        if name not in present:
            yield f"{folder / name}: missing, but listed in {file.name}; restore it or remove it there"
    seen: set[Any] = set()
    for entry in entries:
        problem = _problem(entry, images, categories)
        if problem is None and entry["id"] in seen:
            problem = "its id occurs twice"
        if problem:
            identity = entry.get("id", "?") if isinstance(entry, dict) else "?"
            yield f"{file}: annotation {identity}: {problem}; mend or remove it"
        else:
            seen.add(entry["id"])


def _problem(entry: Any, images: dict[Any, tuple[str, int, int]], categories: dict[Any, str]) -> str | None:
    """What is wrong with one annotation, or None."""
    try:
        image_id, category, (x, y, w, h) = entry["image_id"], entry["category_id"], entry["bbox"]
        segments = entry.get("segmentation") or []
        _ = entry["id"]
    except (KeyError, TypeError, ValueError) as error:
        return f"incomplete ({error})"
    if image_id not in images:
        return f"its image {image_id} is not in the file"
    if category not in categories:
        return f"its category {category} is not in the file"
    name, width, height = images[image_id]
    # A few official boxes have no width or no height; Detectron2 leaves those out of training by itself.
    if not (
        w >= 0 and h >= 0 and x >= -_SLACK and y >= -_SLACK and x + w <= width + _SLACK and y + h <= height + _SLACK
    ):
        return f"its box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside {name} of {width} x {height}"
    if isinstance(segments, dict):
        if list(segments.get("size", [])) != [height, width]:
            return f"its mask has size {segments.get('size')}, its image [{height}, {width}]"
    elif any(len(polygon) % 2 for polygon in segments):
        return "a polygon has an odd number of coordinates"
    return None

"""COCO splits in Detectron2's form."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runs.errors import UserError, user_message
from runs.files import read_json
from transfer.box_formats import CORNERS, FEWEST, SIDES, SLACK, XYWH_ABS, find_better_format
from transfer.check_rle import checked_rle, coder
from transfer.image_files import checked_image_size

# Objects whose boxes are compared with their masks or areas.
SAMPLE = 1000


def find_coco_split_names(root: Path) -> list[str]:
    """Names of the splits under `root`."""
    files = sorted((root / "coco" / "annotations").glob("instances_*[0-9][0-9][0-9][0-9].json"))
    return [f"coco_{split[-4:]}_{split[:-4]}" for split in (path.stem.removeprefix("instances_") for path in files)]


def read_coco_split_and_faults(
    root: Path, name: str, require_masks: bool
) -> tuple[list[dict[str, Any]], dict[Any, str], list[str]]:
    """Read `coco_2017_val` of `root/coco/annotations/instances_val2017.json` and `root/coco/val2017`.

    The return values are those of `read_coco_and_faults`.

    Raises:
        UserError: there is no such split.
    """
    match = re.fullmatch(r"coco_(\d{4})_([\w.+-]+)", name)
    if match is None:
        raise UserError(f"data: {name!r} is no COCO split; name it like coco_2017_train")
    folder = root / "coco"
    annotations = folder / "annotations" / f"instances_{match[2]}{match[1]}.json"
    images = folder / f"{match[2]}{match[1]}"
    for path in (folder, annotations, images):
        if not path.exists():
            raise UserError(f"{path}: missing; {name} needs it (data.root={root}, Detectron2's layout)")
    return read_coco_and_faults(annotations, images, require_masks)


def read_coco_and_faults(
    json_file: Path, image_root: Path | None, require_masks: bool
) -> tuple[list[dict[str, Any]], dict[Any, str], list[str]]:
    """Read an instances file as Detectron2's loader does (detectron2/data/datasets/coco.py).

    Args:
        json_file: the instances.
        image_root: folder of the images; None to do without them.
        require_masks: whether every object needs one.

    Returns:
        (one dict an image, by id: `file_name`, `image_id`, `height`, `width` (0 where nothing tells them) and the
        `annotations` without fault, with `area` besides Detectron2's keys and `category_id` from 0;
        the file's category id -> name, by id; what is wrong, each with its place)

    Raises:
        UserError: it is no instances file.
    """
    document = read_json(json_file, 2**31)  # train2017 has 470 MB
    keys = ("images", "categories", "annotations")
    parts: list[Any] = [document.get(key) if isinstance(document, dict) else None for key in keys]
    if not all(isinstance(part, list) for part in parts):
        raise UserError(f"{json_file}: no COCO instances file (it needs the lists images, categories, annotations)")
    if not parts[0] or not parts[1]:
        raise UserError(f"{json_file}: lists no images or no categories; restore it")
    faults: list[str] = []

    def examine(kind: str, entries: Any, read: Callable[[Any], Any]) -> dict[Any, Any]:
        good: dict[Any, Any] = {}
        for entry in entries:
            try:
                key = checked_int_or_str_id(entry, "id")
                if key in good:
                    raise ValueError("its id occurs twice; remove one")
                good[key] = read(entry)
            except (UserError, OSError, ValueError) as error:
                named = entry.get("id", "?") if isinstance(entry, dict) else "?"
                faults.append(user_message(error) or f"{json_file}: {kind} {named!r}: {error}")
        return good

    categories = examine("category", parts[1], lambda entry: _text(entry, "name"))
    faults += [
        f"{json_file}: category name {n!r} occurs twice" for n, k in Counter(categories.values()).items() if k > 1
    ]
    images = examine("image", parts[0], lambda entry: _image(entry, image_root))
    files = Counter(image["file_name"] for image in images.values())
    faults += [
        f"{json_file}: the file {f} is that of {n} images; remove all but one" for f, n in files.items() if f and n > 1
    ]
    ordered = sorted(categories, key=_order)
    classes = {category: n for n, category in enumerate(ordered)}
    # What belongs to an image with a fault is named with the image.
    faulty = {repr(e.get("id")) for e in parts[0] if isinstance(e, dict)} - set(map(repr, images))
    objects = [a for a in parts[2] if not (faulty and isinstance(a, dict) and repr(a.get("image_id")) in faulty)]
    found = examine("annotation", objects, lambda entry: _annotation(entry, images, classes, require_masks))
    for image_id, annotation in found.values():
        images[image_id]["annotations"].append(annotation)
    faults = faults or [f"{json_file}: {fault}" for fault in _box_faults(images, list(found.values())[:SAMPLE])]
    return [images[i] for i in sorted(images, key=_order)], {c: categories[c] for c in ordered}, faults


def _image(entry: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    size = {}
    for side in ("height", "width"):
        value = entry.get(side)
        if value is not None and not (is_number(value) and 0 < value < 1e6 and value % 1 == 0):
            raise ValueError(f"its {side} is {value!r}; write a whole number of pixels")
        size[side] = int(value or 0)
    if not all(size.values()):
        size = {"height": 0, "width": 0}
    path: Path | str = ""
    if folder is not None:
        name = _text(entry, "file_name")
        path = folder / name if (folder / name).is_file() else folder / name.replace("\\", "/")
        if not path.is_file():
            raise ValueError(f"its file {path} is missing; restore it or remove its entry")
        width, height = checked_image_size(path, (size["width"], size["height"]) if size["width"] else None)
        size = {"height": height, "width": width}
    return {"file_name": str(path), "image_id": checked_int_or_str_id(entry, "id"), **size, "annotations": []}


def _annotation(
    entry: dict[str, Any], images: dict[Any, dict[str, Any]], classes: dict[Any, int], require_masks: bool
) -> tuple[Any, dict[str, Any]]:
    image_id, category = checked_int_or_str_id(entry, "image_id"), checked_int_or_str_id(entry, "category_id")
    if image_id not in images:
        raise ValueError(f"its image {image_id!r} is not in the file; correct or remove it")
    if category not in classes:
        raise ValueError(f"its category {category!r} is not in the file; correct or remove it")
    height, width = images[image_id]["height"], images[image_id]["width"]
    x, y, w, h = box = checked_numbers(entry.get("bbox"), "its bbox", 4)
    # A few official boxes have no width or no height; Detectron2 leaves those out of training by itself.
    inside = x >= -SLACK and y >= -SLACK and x + w <= width + SLACK and y + h <= height + SLACK
    if w < 0 or h < 0 or (width and not inside):
        raise ValueError(
            f"its box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside its image of {width} x {height}; correct it"
        )
    crowd, area = entry.get("iscrowd"), entry.get("area")
    if crowd not in (None, 0, 1):
        raise ValueError(f"its iscrowd is {crowd!r}; write 0 or 1")
    if entry.get("ignore"):
        raise ValueError("ignore means nothing in COCO; mark it with iscrowd, or remove it")
    if area is not None and not (is_number(area) and area >= 0):
        raise ValueError(f"its area is {area!r}; write a number of pixels, or leave it out")
    annotation = {"iscrowd": int(crowd or 0), "bbox": box, "category_id": classes[category], "bbox_mode": XYWH_ABS}
    mask = None
    # Where no masks are needed, one with a fault is none.
    with contextlib.nullcontext() if require_masks else contextlib.suppress(ValueError):
        mask = _mask(entry.get("segmentation"), height, width)
    if mask:
        annotation["segmentation"] = mask
    elif require_masks:
        raise ValueError("it has no mask; draw one, or do without masks: detectron2.MODEL.MASK_ON=False")
    if area is None and mask:
        area = float(coder.area(_code(mask, height, width)))
    annotation["area"] = w * h if area is None else area
    return image_id, annotation


def _box_faults(images: dict[Any, dict[str, Any]], objects: list[tuple[Any, dict[str, Any]]]) -> list[str]:
    """A fault if the masks, or without masks the areas, fit the boxes in another format."""
    shown = [(images[image_id], annotation) for image_id, annotation in objects if not annotation["iscrowd"]]
    masked = [(image, annotation) for image, annotation in shown if "segmentation" in annotation]
    drawn = [coder.toBbox(_code(a["segmentation"], image["height"], image["width"])) for image, a in masked]
    truth = [
        {**image, "annotations": [{"bbox": box, "bbox_mode": XYWH_ABS}]}
        for (image, _), box in zip(masked, drawn, strict=True)
    ]
    boxes = np.array([annotation["bbox"] for _, annotation in masked]).reshape(-1, 4)
    if found := find_better_format(boxes, np.arange(len(boxes)), np.zeros(len(boxes)), truth):
        return [f"its boxes fit their masks as {found}; write {SIDES} in pixels of the image file"]
    rows = [(*annotation["bbox"], annotation["area"]) for _, annotation in shown if "segmentation" not in annotation]
    x, y, width, height, area = np.array(rows, np.float64).reshape(-1, 5).T
    sides, corners = (np.isclose(a, area, rtol=0.1).sum() for a in (width * height, (width - x) * (height - y)))
    if len(rows) >= FEWEST and corners > max(len(rows) / 2, 1.5 * sides):
        return [f"its boxes fit their areas as {CORNERS}; write {SIDES}"]
    return []


def _code(mask: Any, height: int, width: int) -> Any:
    """A mask, run-length coded or of polygons, as one run-length code."""
    return coder.merge(coder.frPyObjects(mask, height, width)) if isinstance(mask, list) else mask


def _mask(shape: Any, height: int, width: int) -> Any:
    if not shape:
        return None
    if not (height and width):
        raise ValueError("its image has no height and width, which masks need; write them")
    if isinstance(shape, dict):
        return checked_rle(shape, height, width)
    if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        raise ValueError("its segmentation is neither run-length coded nor a list of polygons [[x, y, x, y, …], …]")
    for polygon in shape:
        checked_numbers(polygon, "a polygon")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers; it needs three points of two, or remove it")
        # pycocotools draws what lies outside too, and takes memory for it.
        if not all(-side <= v <= 2 * side for start, side in enumerate((width, height)) for v in polygon[start::2]):
            raise ValueError(f"a polygon lies outside its image of {width} x {height}; correct it")
    return shape


def checked_int_or_str_id(entry: Any, key: str) -> Any:
    """The id of an image, a category or an object: a whole number or a text; a ValueError is raised for any other."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"its {key} is {value!r}; write a number or a text")
    return value


def _order(key: Any) -> tuple[bool, Any]:
    return isinstance(key, str), key


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {key} is {value!r}; write a text")
    return value


def checked_numbers(values: Any, what: str, count: int = 0) -> list[float]:
    """A list of finite numbers, `count` of them if that is given; a ValueError for anything else names `what` it is."""
    if not isinstance(values, list) or not all(map(is_number, values)) or (count and len(values) != count):
        raise ValueError(f"{what} is not a list of {count or 'finite'} numbers; correct it")
    return values


def is_number(value: Any) -> bool:
    """Whether it is a finite number, of any use for a place in an image."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9

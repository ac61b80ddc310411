"""Writers of the layouts of PASCAL VOC and COCO 2017, as their development kits and Detectron2 read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from benchmarks.shapes_scenes import CLASSES, Mask, Scene, Thing


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image, (height, width, 3) uint8, as JPEG."""
    Pillow.fromarray(image).save(path, quality=92)


def is_difficult(thing: Thing) -> bool:
    """VOC's flag for what is hard to recognise: less than half is visible, or it is smaller than 1/7 of a side."""
    return thing.visible < 0.5 or thing.area < (thing.mask.shape[0] / 7) ** 2


def write_voc(folder: Path, splits: Mapping[str, tuple[int, Iterable[Scene]]]) -> None:
    """Write one `VOCyyyy` folder, whose name goes into the annotations: `JPEGImages`, `Annotations`, `ImageSets/Main`.

    `splits` are, of `train`, `val` and `test`, the first digit of the names of its images, so that they do not depend
    on the size of another split, and its scenes; crowds are not part of VOC and must not occur.
    """
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    year = folder.name.removeprefix("VOC")
    sets: dict[str, list[tuple[str, dict[str, int]]]] = {}
    for split, (code, scenes) in splits.items():
        for index, scene in enumerate(scenes):
            name = f"{'' if year == '2007' else f'{year}_'}{code * 100000 + index:06d}"
            write_jpeg(folder / "JPEGImages" / f"{name}.jpg", scene.image)
            tree = _annotation(folder.name, f"{name}.jpg", scene)
            ElementTree.indent(tree, "\t")
            tree.write(folder / "Annotations" / f"{name}.xml", encoding="utf-8")
            # The development kit's third value: 1 present, 0 only difficult ones, -1 absent.
            present = dict.fromkeys(CLASSES, -1)
            for thing in scene.things:
                present[thing.name] = max(present[thing.name], 0 if is_difficult(thing) else 1)
            sets.setdefault(split, []).append((name, present))
    sets["trainval"] = sorted(sets["train"] + sets["val"], key=lambda entry: entry[0])
    main = folder / "ImageSets" / "Main"
    for split, entries in sets.items():
        (main / f"{split}.txt").write_text("".join(f"{name}\n" for name, _ in entries))
        for c in CLASSES:
            (main / f"{c}_{split}.txt").write_text("".join(f"{name} {present[c]:2d}\n" for name, present in entries))


def _annotation(folder: str, filename: str, scene: Scene) -> ElementTree.ElementTree[ElementTree.Element]:
    root = ElementTree.Element("annotation")

    def put(parent: ElementTree.Element, **values: object) -> ElementTree.Element:
        for key, value in values.items():
            ElementTree.SubElement(parent, key).text = str(value)
        return parent

    put(root, folder=folder, filename=filename)
    put(ElementTree.SubElement(root, "source"), database="generated", annotation="generated", image="generated")
    height, width, depth = scene.image.shape
    put(ElementTree.SubElement(root, "size"), width=width, height=height, depth=depth)
    put(root, segmented=0)
    for thing in scene.things:
        flags = {"truncated": int(thing.cut > 0.05), "difficult": int(is_difficult(thing))}
        if folder == "VOC2012":
            # VOC 2012 tells occlusion by another thing from truncation by the border.
            flags["occluded"] = int(thing.visible + thing.cut < 0.95)
        item = put(ElementTree.SubElement(root, "object"), name=thing.name, pose="Unspecified", **flags)
        x0, y0, x1, y1 = thing.box
        # VOC counts pixels from 1 and includes the last one.
        put(ElementTree.SubElement(item, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    return ElementTree.ElementTree(root)


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's uncompressed run-length code of a mask, (height, width): lengths of 0 and 1 in turn, by column."""
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0), append=np.int8(1 - flat[-1])))
    return {"counts": np.diff(edges, prepend=0).tolist(), "size": list(mask.shape)}


def write_coco(folder: Path, splits: Mapping[str, tuple[int, Iterable[Scene]]]) -> None:
    """Write a `coco` folder: `train2017`, `val2017`, `annotations/instances_*.json`.

    `splits` are, of `train2017` and `val2017`, the leading digits of its image ids, and its scenes; a crowd becomes a
    run-length coded region with `iscrowd` 1.
    """
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES, 1)]
    for split, (code, scenes) in splits.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for index, scene in enumerate(scenes):
            image_id = code * 100000 + index
            name = f"{image_id:012d}.jpg"
            write_jpeg(folder / split / name, scene.image)
            height, width, _ = scene.image.shape
            images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
            for number, thing in enumerate(scene.things):
                points = np.concatenate(thing.polygons)
                (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
                outline = [np.round(polygon, 2).ravel().tolist() for polygon in thing.polygons]
                annotations.append({
                    "id": image_id * 100 + number, "image_id": image_id, "category_id": CLASSES.index(thing.name) + 1,
                    "segmentation": run_lengths(thing.mask) if thing.crowd else outline,
                    "area": round(thing.area, 2), "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "iscrowd": int(thing.crowd),
                })  # fmt: skip
        content = {
            "info": {"description": "generated shapes", "version": "1.0", "year": 2017},
            "licenses": [{"id": 1, "name": "MIT"}],
            "images": images, "annotations": annotations, "categories": categories,
        }  # fmt: skip
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content) + "\n")

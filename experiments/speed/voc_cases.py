"""Detections that try every corner of the VOC definition, and Detectron2's own evaluator as the judge of them."""

import contextlib
import unittest.mock
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation import pascal_voc_evaluation as official
from detectron2.structures import Boxes, Instances

from transfer.detections import Detections
from transfer.voc_evaluation import SplitTruth

OBJECT = (
    "<object><name>{}</name><pose>x</pose><truncated>0</truncated><difficult>{}</difficult><bndbox><xmin>{}</xmin>"
    "<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write_voc(folder: Path, truth: SplitTruth, ids: Sequence[str], classes: Sequence[str]) -> None:
    """The annotations and the list `test` that Detectron2's evaluator reads; no images."""
    for sub in ("Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(ids))
    texts: list[list[str]] = [[] for _ in ids]
    for i, c, box, difficult in zip(truth.image, truth.category, truth.box.astype(int), truth.difficult, strict=True):
        texts[i].append(OBJECT.format(classes[c], int(difficult), *box))
    for image_id, objects in zip(ids, texts, strict=True):
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")


def detectron2_evaluate(folder: Path, found: Detections, classes: Sequence[str], year: int) -> dict[str, Any]:
    """Detectron2's metrics, and each class's AP at each threshold in `table` (percent)."""
    name = f"voc_case_{id(found)}"
    MetadataCatalog.get(name).set(thing_classes=list(classes), dirname=str(folder), year=year, split="test")
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    inputs, outputs = [], []
    bounds = np.searchsorted(found.image, np.arange(len(found.image_ids) + 1))
    for number, image_id in enumerate(found.image_ids):
        part = slice(bounds[number], bounds[number + 1])
        instances = Instances((1, 1))
        instances.pred_boxes = Boxes(torch.from_numpy(found.box[part]))
        instances.scores = torch.from_numpy(found.score[part])
        instances.pred_classes = torch.from_numpy(found.category[part].astype(np.int64))
        inputs.append({"image_id": image_id})
        outputs.append({"instances": instances})
    evaluator.process(inputs, outputs)
    aps: list[float] = []
    measure = official.voc_eval

    def record(*arguments: Any, **keywords: Any) -> Any:
        recall, precision, ap = measure(*arguments, **keywords)
        aps.append(ap * 100)
        return recall, precision, ap

    official.voc_eval = record
    try:
        box = evaluator.evaluate()["bbox"]
    finally:
        official.voc_eval = measure
        official.parse_rec.cache_clear()
        MetadataCatalog.remove(name)
    return {f"bbox/{k}": float(v) for k, v in box.items()} | {"table": np.array(aps).reshape(len(classes), 10)}


@contextlib.contextmanager
def stable_sort() -> Iterator[None]:
    """Detectron2 leaves the order of tied scores to NumPy's unstable sort; here they keep their order, as in ours."""
    unstable = np.argsort
    with unittest.mock.patch.object(np, "argsort", lambda values, **_: unstable(values, kind="stable")):
        yield


def make_truth(images: int, classes: int, rng: np.random.Generator) -> SplitTruth:
    """Objects at random; the last class has none at all and the one before it only difficult ones."""
    count = images * 3
    corner = rng.integers(1, 300, (count, 2))
    box = np.concatenate([corner, corner + rng.integers(1, 200, (count, 2))], axis=1).astype(np.float64)
    category = rng.integers(0, classes - 1, count)
    difficult = rng.random(count) < 0.15
    difficult[category == classes - 2] = True
    image = np.sort(rng.integers(0, images, count))
    return SplitTruth(image, category, box, difficult)


def make_detections(
    truth: SplitTruth, ids: Sequence[Any], classes: int, count: int, rng: np.random.Generator
) -> Detections:
    """`count` detections: a third random, the rest truth moved by pixels, doubled, mislabelled; scores with many ties.

    Class 1 is never found.
    """
    moved = count * 2 // 3
    chosen = rng.integers(0, len(truth.image), moved)
    box = truth.box[chosen] - [1, 1, 0, 0] + rng.normal(0, 1, (moved, 4)) * rng.choice([0.0, 1, 5, 25], (moved, 1))
    label = np.where(rng.random(moved) < 0.9, truth.category[chosen], rng.integers(0, classes, moved))
    free = rng.uniform(0, 400, (count - moved, 2))
    free_box = np.concatenate([free, free + rng.uniform(1, 200, free.shape)], axis=1)
    image = np.concatenate([truth.image[chosen], rng.integers(0, len(ids), count - moved)])
    category = np.concatenate([label, rng.integers(0, classes, count - moved)])
    order = np.argsort(image, kind="stable")
    order = order[category[order] != 1]
    score = np.where(rng.random(count) < 0.3, rng.choice([0.0, 0.0625, 0.5, 0.9, 1.0], count), rng.random(count))
    return Detections(
        image_ids=list(ids),
        classes=[str(c) for c in range(classes)],
        image=image[order].astype(np.int32),
        category=category[order].astype(np.int16),
        score=score[order].astype(np.float32),
        box=np.concatenate([box, free_box])[order].astype(np.float32),
        sizes=np.full((len(ids), 2), 500, np.int32),
    )

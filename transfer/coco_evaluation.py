"""COCO average precision and recall: pycocotools' definition, computed by ultrafast-pycocotools where it is installed.

ultrafast-pycocotools has pycocotools' interface, and its matching in Rust. Its curves are pycocotools' to the last bit
(tests/transfer/test_coco_evaluation.py) in a quarter of the time; pycocotools itself serves where it has no wheel.
"""

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from runs.bootstrap_intervals import Interval, intervals
from runs.detection_matches import FALSE, IGNORED, TRUE, Matches
from transfer.check_rle import coder
from transfer.detections import Detections, Evaluation

try:
    from ultrafast_pycocotools import coco as pycocotools_coco
    from ultrafast_pycocotools import cocoeval as pycocotools_cocoeval
except ImportError:
    from pycocotools import coco as pycocotools_coco
    from pycocotools import cocoeval as pycocotools_cocoeval

# Classes whose matches are read at a time.
BLOCK = 16
# In the order of `COCOeval.stats`; of small, medium and large objects: s, m, l.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class COCOeval(pycocotools_cocoeval.COCOeval):
    """pycocotools' `COCOeval(cocoGt, cocoDt, iouType)`, whose AP also has an interval.

    With ultrafast-pycocotools `evalImgs` stays empty.
    """

    def __init__(self, cocoGt: Any = None, cocoDt: Any = None, iouType: str = "segm") -> None:
        super().__init__(_convert_index(cocoGt), _convert_index(cocoDt), iouType)

    def matches(self) -> Matches:
        """What was matched, without limits of area; at most the last of `params.maxDets` an image and class."""
        params = self.params
        images = {image_id: number for number, image_id in enumerate(params.imgIds)}
        classes = {category_id: number for number, category_id in enumerate(params.catIds)}
        # pycocotools keeps a dictionary for each image, class and area range, gigabytes for COCO.
        blocks = [self._block_matches(params.catIds[n : n + BLOCK]) for n in range(0, len(classes), BLOCK)]
        image_id, category_id, score = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        verdict = np.concatenate([block[3] for block in blocks], axis=1)  # (10, N)
        order = np.argsort(-score, kind="stable")
        objects = np.zeros((len(images), len(classes)), np.int32)
        for annotation in self.cocoGt.anns.values():
            if annotation["image_id"] in images and annotation["category_id"] in classes:
                place = images[annotation["image_id"]], classes[annotation["category_id"]]
                objects[place] += not annotation.get("iscrowd", 0)
        return Matches(
            image_ids=tuple(map(str, params.imgIds)),
            classes=tuple(self.cocoGt.cats[category_id]["name"] for category_id in params.catIds),
            image=np.array([images[i] for i in image_id[order].tolist()], np.int32),
            category=np.array([classes[c] for c in category_id[order].tolist()], np.int16),
            score=score[order],
            verdict=verdict[:, order].T,
            objects=objects,
            metric="coco",
        )

    def _block_matches(self, catIds: Sequence[int]) -> tuple[Any, Any, Any, Any]:
        """Detections of some classes: ids of the image and the category (n,), score (n,) and verdict (10, n)."""
        block = pycocotools_cocoeval.COCOeval(self.cocoGt, self.cocoDt, self.params.iouType)
        block.params = copy.copy(self.params)
        block.params.catIds = list(catIds)
        block.params.areaRng, block.params.areaRngLbl = self.params.areaRng[:1], ["all"]
        block.store_eval_imgs = True
        with contextlib.redirect_stdout(io.StringIO()):
            block.evaluate()
        found = [entry for entry in block.evalImgs if entry]
        counts = [len(entry["dtScores"]) for entry in found]
        empty = np.zeros((len(self.params.iouThrs), 0))
        right, ignored = (np.concatenate([empty, *(e[k] for e in found)], axis=1) for k in ("dtMatches", "dtIgnore"))
        image_id, category_id = (np.repeat([e[k] for e in found], counts) for k in ("image_id", "category_id"))
        score = np.array([s for e in found for s in e["dtScores"]], np.float64)
        verdict = np.where(ignored > 0, IGNORED, np.where(right > 0, TRUE, FALSE)).astype(np.int8)
        return image_id, category_id, score, verdict

    def intervals(self, resamples: int = 1000) -> dict[str, Interval]:
        """AP, AP50 and AP75 in percent with the 95 % interval that the choice of the images leaves them."""
        return intervals(self.matches(), resamples)


def _convert_index(index: Any) -> Any:
    """The index in the class of the library that computes; pycocotools' own is taken too."""
    if index is None or isinstance(index, pycocotools_coco.COCO):
        return index
    return _build_index(index.dataset)


def _build_index(dataset: dict[str, Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        index = pycocotools_coco.COCO()
        index.dataset = dataset
        index.createIndex()
    return index


def to_coco_results_with_indices_as_ids(detections: Detections) -> list[dict[str, Any]]:
    """Detections in COCO's results format; images and classes by their numbers, masks run-length coded."""
    corner, extent = detections.box[:, :2], detections.box[:, 2:] - detections.box[:, :2]
    boxes = np.concatenate([corner, extent], axis=1).tolist()
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score}
        for i, c, box, score in zip(
            detections.image.tolist(), detections.category.tolist(), boxes, detections.score.tolist(), strict=True
        )
    ]
    for result, i, mask in zip(results, detections.image.tolist(), detections.masks or [], strict=False):
        result["segmentation"] = {"size": detections.sizes[i].tolist(), "counts": mask.decode("latin-1")}
    return results


def evaluate_coco(
    results: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]], classes: Sequence[str], kinds: Sequence[str]
) -> Evaluation:
    """Box AP, mask AP or both: `METRICS` of each kind, those of a size that no object has left out.

    Args:
        results: detections in COCO's results format: `image_id` an index into `images`, `category_id` into `classes`,
            `bbox` x, y, width, height, `segmentation` run-length coded.
        images: Detectron2's dicts of the split with `area` (see `transfer.coco_annotations`).
        classes: names.
        kinds: `bbox`, `segm`.

    Returns:
        The evaluation; per class it has `bbox` and `segm`, left out where the split has no object of the class.
    """
    truth = [{**a, "image_id": number} for number, image in enumerate(images) for a in image["annotations"]]
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in classes}
    matches = {}
    for kind in kinds:
        key = "bbox" if kind == "bbox" else "segmentation"
        found = [
            r | {"area": r[key][2] * r[key][3] if kind == "bbox" else int(coder.area(r[key])), "iscrowd": 0}
            for r in results
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(_index(truth, images, classes), _index(found, images, classes), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics |= {f"{kind}/{m}": 100 * float(v) for m, v in zip(METRICS, evaluation.stats, strict=True) if v >= 0}
        for number, name in enumerate(classes):
            points = evaluation.eval["precision"][:, :, number, 0, -1]  # (10, 101) of all areas, 100 detections
            if (points > -1).any():
                per_class[name][kind] = 100 * float(points[points > -1].mean())
        # The index has numbers for ids.
        matches[kind] = replace(evaluation.matches(), image_ids=tuple(str(image["image_id"]) for image in images))
    return Evaluation(metrics, per_class, matches)


def _index(entries: list[dict[str, Any]], images: Sequence[dict[str, Any]], classes: Sequence[str]) -> Any:
    return _build_index({
        "images": [{"id": n, "height": i["height"], "width": i["width"]} for n, i in enumerate(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
        # From 1: pycocotools takes an object whose id is 0 for one that is never found.
        "annotations": [{**entry, "id": n} for n, entry in enumerate(entries, start=1)],
    })  # fmt: skip

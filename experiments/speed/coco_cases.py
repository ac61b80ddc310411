"""COCO detections near and far from the truth, and pycocotools as the judge of them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def make_results(file: Path, per_object: int, masks: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Detections in COCO's results format: each object found `per_object` times, moved, resized, mislabelled or missed.

    Scores have two decimals in a third of the cases, so many are equal; some images get far more than 100 detections.
    """
    rng = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
    categories = truth.getCatIds()
    results = []
    for entry in truth.dataset["annotations"]:
        image = truth.imgs[entry["image_id"]]
        code = truth.annToRLE(entry) if masks else None
        whole = coder.decode(code) if masks else None
        for _ in range(rng.integers(0, 2 * per_object + 1)):
            x, y, w, h = entry["bbox"]
            scale = rng.choice([0, 0.02, 0.1, 0.5]) * rng.normal(size=4)
            box = [x + scale[0] * w, y + scale[1] * h, w * np.exp(scale[2]), h * np.exp(scale[3])]
            score = rng.random()
            result = {
                "image_id": image["id"],
                "category_id": entry["category_id"] if rng.random() < 0.8 else int(rng.choice(categories)),
                "bbox": [float(v) for v in box],
                "score": round(score, 2) if rng.random() < 0.3 else score,
            }
            if whole is not None:
                moved = np.roll(whole, rng.integers(-6, 7, 2) * rng.integers(0, 2), axis=(0, 1))
                found = coder.encode(np.asfortranarray(moved))
                result["segmentation"] = {"size": found["size"], "counts": found["counts"].decode()}
            results.append(result)
    return results


def pycocotools_evaluate(file: Path, results: list[dict[str, Any]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (the twelve figures of the summary, precision of every threshold, recall, class, area and count)."""
    drop = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        entries = [{k: v for k, v in r.items() if k != drop} for r in results]
        evaluation = COCOeval(truth, truth.loadRes(entries), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


def repeat_annotations(file: Path, copies: int, output: Path) -> None:
    """The same annotations `copies` times over, with new ids: a split of any size from a small one."""
    document = json.loads(file.read_text())
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for copy in range(copies):
        images += [{**i, "id": i["id"] + copy * 10**7} for i in document["images"]]
        entries += [
            {**a, "id": len(entries) + n, "image_id": a["image_id"] + copy * 10**7}
            for n, a in enumerate(document["annotations"], start=1)
        ]
    output.write_text(json.dumps({"images": images, "annotations": entries, "categories": document["categories"]}))

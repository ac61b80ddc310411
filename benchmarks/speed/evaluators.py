"""How fast AP is computed, and that it is the same AP: our evaluators against Detectron2's and pycocotools'.

    python -m benchmarks.speed.evaluators --voc VOC2007_GROUND_TRUTH.json.gz --coco INSTANCES_VAL2017.json

Both sides get the same detections, in memory, one after the other in the same process. Reading the annotations is not
timed for VOC (Detectron2's cache of XML files is filled before) and is for COCO, by both. VOC: half a million
detections on all 4952 images of VOC 2007 test: at random, perturbed truth, tied scores, an empty class. COCO: a small
instances file, repeated to the 5000 images of val2017, boxes and masks.
`voc2007_ground_truth.json.gz` is {id: {split, width, height, objects: [{name, bbox, difficult}]}}.

This folder is no part of the package `benchmarks`, which imports neither torch nor Detectron2.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import pascal_voc_evaluation as official

from tests.transfer.coco_cases import enlarge, make_results, pycocotools_evaluate
from tests.transfer.voc_cases import detectron2_evaluate, make_detections, write_voc
from transfer.coco_evaluation import evaluate_results
from transfer.settings import VOC_CLASSES
from transfer.voc_evaluation import Truth, evaluate_voc


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def voc(truth_file: Path, detections: int) -> None:
    """VOC 2007 test."""
    with gzip.open(truth_file, "rt") as file:
        entries = {k: v for k, v in json.load(file).items() if v["split"] == "test"}
    rows = [
        (i, VOC_CLASSES.index(o["name"]), *o["bbox"], o["difficult"])
        for i, entry in enumerate(entries.values())
        for o in entry["objects"]
    ]
    table = np.array(rows, np.float64)
    truth = Truth(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6] > 0)
    found = make_detections(truth, list(entries), len(VOC_CLASSES), detections, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), truth, list(entries), VOC_CLASSES)
        for image_id in entries:
            official.parse_rec(f"{folder}/Annotations/{image_id}.xml")
        theirs_seconds, theirs = timed(lambda: detectron2_evaluate(Path(folder), found, VOC_CLASSES, 2007))
    ours_seconds, (ours, per_class, _) = timed(lambda: evaluate_voc(found, truth, VOC_CLASSES, use_07=True))
    row = theirs["table"]
    worst = max(abs(ours[name] - theirs[name]) for name in ours)
    for number, name in enumerate(VOC_CLASSES):
        expected = (row[number].mean(), row[number, 0], row[number, 5])
        worst = max(worst, *(abs(a - b) for a, b in zip(per_class[name].values(), expected, strict=True)))
    report(f"VOC, {len(found)} detections, {len(entries)} images", "Detectron2", theirs_seconds, ours_seconds, worst)


def coco(instances: Path, images: int) -> None:
    """COCO at the size of val2017."""
    count = len(json.loads(instances.read_text())["images"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        enlarge(instances, -(-images // count), file)
        categories = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
        results = make_results(file, 3, masks=True)
        kinds = ("bbox", "segm")
        theirs_seconds, theirs = timed(lambda: [pycocotools_evaluate(file, results, kind)[0] for kind in kinds])
        ours_seconds, (ours, _) = timed(lambda: evaluate_results(results, file, categories, kinds))
    figures = [100 * value for stats in theirs for value in stats[:3]]
    names = [f"{kind}/{name}" for kind in kinds for name in ("AP", "AP50", "AP75")]
    worst = max(abs(figure - ours[name]) for figure, name in zip(figures, names, strict=True))
    title = f"COCO boxes and masks, {len(results)} detections, {-(-images // count) * count} images"
    report(title, "pycocotools", theirs_seconds, ours_seconds, worst)


def report(title: str, other: str, theirs: float, ours: float, worst: float) -> None:
    """One line."""
    ratio = theirs / ours
    print(
        f"{title}: {other} {theirs:.2f} s, ours {ours:.2f} s, {ratio:.1f} times faster, largest difference {worst:.1e}"
    )


def main() -> None:
    """Run what files were given for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, metavar="FILE", help="voc2007_ground_truth.json.gz")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="an instances JSON")
    parser.add_argument("--detections", type=int, default=500_000, help="on VOC")
    parser.add_argument("--images", type=int, default=5000, help="on COCO")
    arguments = parser.parse_args()
    if arguments.voc:
        voc(arguments.voc, arguments.detections)
    if arguments.coco:
        coco(arguments.coco, arguments.images)


if __name__ == "__main__":
    main()

"""How fast AP is computed, and that it is the same AP: our evaluators against Detectron2's and pycocotools'.

Both sides get the same detections, in memory. Reading the annotations is not timed for VOC (Detectron2's cache of XML
files is filled before) and is for COCO, by both. VOC: half a million detections on 4952 images: at random, perturbed
truth, tied scores (whose order Detectron2 is made to keep), an empty class. COCO: a small instances file repeated to
the 5000 images of val2017.

`--data DIR` takes the truth from DIR/voc2007_ground_truth.json.gz, which is {id: {split, width, height, objects:
[{name, bbox, difficult}]}}, and DIR/coco/annotations/instances_val2017.json; without it both are generated.
"""

import argparse
import gzip
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
from detectron2.evaluation import pascal_voc_evaluation as official

from benchmarks.shapes import Settings, generate
from experiments.speed.coco_cases import make_results, pycocotools_evaluate, repeat_annotations
from experiments.speed.rows import Row, Skipped, alternate, run_script
from experiments.speed.voc_cases import detectron2_evaluate, make_detections, make_truth, stable_sort, write_voc
from hardware.measure_peak_rates import bandwidth, shortest_time
from transfer.coco_annotations import read_coco_and_faults
from transfer.coco_evaluation import evaluate_coco
from transfer.settings import VOC_CLASSES
from transfer.voc_evaluation import SplitTruth, evaluate_voc

Evaluate = Callable[[Path, list[dict[str, Any]], str], list[float]]


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """VOC, COCO boxes, COCO masks."""
    images, detections = (50, 5000) if arguments.quick else (4952, 500_000)
    yield voc_row(arguments.data, images, detections)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.data
        if source is None:
            source = Path(folder) / "generated"
            generate(source, Settings(images=4, val_images=2, voc07=2, voc07_test=2, voc12=2, coco=2, coco_val=8))
        instances = Path(source) / "coco/annotations/instances_val2017.json"
        count = len(json.loads(instances.read_text())["images"])
        file = Path(folder) / "instances.json"
        copies = 1 if arguments.quick else -(-5000 // count)
        repeat_annotations(instances, copies, file)
        results = make_results(file, 3, masks=True)
        for kind in ("bbox", "segm"):
            rounds = 1 if arguments.quick else 3
            yield coco_row(file, results, kind, copies * count, rounds, "pycocotools", pycocotools_ap)
            if importlib.util.find_spec("faster_coco_eval"):
                yield coco_row(file, results, kind, copies * count, rounds, "faster-coco-eval", faster_coco_eval_ap)
            else:
                name = f"evaluators/coco-{'box' if kind == 'bbox' else 'mask'}-faster-coco-eval"
                yield Skipped(name, "faster-coco-eval is not installed; pip install -e .[peers] brings it")


def voc_row(data: Path | None, images: int, count: int) -> Row:
    """VOC 2007 test."""
    rng = np.random.default_rng(0)
    if data is None:
        ids, truth = [f"{i:06d}" for i in range(images)], make_truth(images, len(VOC_CLASSES), rng)
    else:
        with gzip.open(data / "voc2007_ground_truth.json.gz", "rt") as file:
            entries = {k: v for k, v in json.load(file).items() if v["split"] == "test"}
        ids = list(entries)[:images]
        rows = [
            (i, VOC_CLASSES.index(o["name"]), *o["bbox"], o["difficult"])
            for i, name in enumerate(ids)
            for o in entries[name]["objects"]
        ]
        table = np.array(rows, np.float64)
        truth = SplitTruth(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6] > 0)
    found = make_detections(truth, ids, len(VOC_CLASSES), count, rng)
    with tempfile.TemporaryDirectory() as folder, stable_sort():
        write_voc(Path(folder), truth, ids, VOC_CLASSES)
        for image_id in ids:
            official.parse_rec(f"{folder}/Annotations/{image_id}.xml")
        kept: dict[str, dict[str, float]] = {}
        ours, peer = alternate(
            lambda: kept.update(ours=evaluate_voc(found, truth)[0]),
            lambda: kept.update(peer=detectron2_evaluate(Path(folder), found, VOC_CLASSES, 2007)),
            1, "cpu", warm=False,
        )  # fmt: skip
    worst = max(abs(kept["ours"][name] - kept["peer"][name]) for name in kept["ours"])
    size = sum(a.nbytes for a in (found.image, found.category, found.score, found.box))
    return Row(
        "evaluators/voc", f"VOC AP, {len(found)} detections, {len(ids)} images", "s", False, ours, peer,
        f"Detectron2 {detectron2.__version__}", "cpu", size / bandwidth(), "reading the detections once", 30,
        f"largest difference {worst:.0e} AP",
    )  # fmt: skip


def pycocotools_ap(file: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """AP, AP50, AP75 by pycocotools, 0 to 1."""
    return [float(value) for value in pycocotools_evaluate(file, results, kind)[0][:3]]


def faster_coco_eval_ap(file: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """The same by faster-coco-eval, whose matching is in C++."""
    library: Any = importlib.import_module("faster_coco_eval")
    drop = "bbox" if kind == "segm" else "segmentation"
    truth = library.COCO(str(file))
    found = truth.loadRes([{k: v for k, v in r.items() if k != drop} for r in results])
    evaluation = library.COCOeval_faster(truth, found, kind, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats[:3]]


def coco_row(
    file: Path, results: list[dict[str, Any]], kind: str, images: int, rounds: int, package: str, by_peer: Evaluate
) -> Row:
    """COCO at the size of val2017."""
    kept: dict[str, list[float]] = {}

    def ours_coco() -> list[float]:
        scenes, categories, _ = read_coco_and_faults(file, None, require_masks=kind == "segm")
        places, classes = {i["image_id"]: n for n, i in enumerate(scenes)}, {c: n for n, c in enumerate(categories)}
        found = [r | {"image_id": places[r["image_id"]], "category_id": classes[r["category_id"]]} for r in results]
        return list(evaluate_coco(found, scenes, list(categories.values()), (kind,))[0].values())[:3]

    ours, peer = alternate(
        lambda: kept.update(ours=ours_coco()),
        lambda: kept.update(peer=[100 * value for value in by_peer(file, results, kind)]),
        rounds, "cpu", warm=False,
    )  # fmt: skip
    worst = max(abs(a - b) for a, b in zip(kept["ours"], kept["peer"], strict=True))
    what, usual = "box" if kind == "bbox" else "mask", package == "pycocotools"
    title = f"COCO {what} AP, {len(results)} detections, {images} images"
    return Row(
        f"evaluators/coco-{what}" + ("" if usual else f"-{package}"), title, "s", False, ours, peer,
        f"{package} {version(package)}", "cpu", shortest_time(lambda: json.loads(file.read_text())),
        "parsing the annotations", 3 if usual else None, f"largest difference {worst:.0e} AP",
    )  # fmt: skip


if __name__ == "__main__":
    run_script(measure, __doc__ or "")

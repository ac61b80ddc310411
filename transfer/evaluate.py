"""`python -m transfer.evaluate {voc,coco}`: AP of anybody's detections, without a network.

    python -m transfer.evaluate voc DETECTIONS --root DIR --split voc_2007_test
    python -m transfer.evaluate coco DETECTIONS --annotations instances_val2017.json

DETECTIONS is a run's `detections.npz` or results in the benchmark's own form: for VOC a folder of text files, one a
class (`…_CLASS.txt`, lines of "image score xmin ymin xmax ymax"), for COCO the JSON list.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runs.app import Parser, cli
from runs.errors import UserError, from_os_error
from runs.files import write_json
from transfer.coco import read_instances
from transfer.detections import Detections, read_detections
from transfer.settings import VOC_CLASSES
from transfer.voc_evaluation import Truth, evaluate_voc, match_voc


def parser() -> Parser:
    """The command line."""
    root = Parser(prog="python -m transfer.evaluate", description=__doc__.splitlines()[0])
    kinds = root.add_subparsers(dest="kind", required=True)
    voc = kinds.add_parser("voc", help="PASCAL VOC AP by Detectron2's definition")
    voc.add_argument("detections", type=Path, metavar="DETECTIONS", help="detections.npz, or a folder of text files")
    voc.add_argument("--root", type=Path, required=True, help="folder that holds VOC2007, VOC2012")
    voc.add_argument("--split", default="voc_2007_test")
    voc.add_argument("--classes", help="class names with commas between; the 20 of VOC by default")
    voc.add_argument("--metric", choices=("07", "area"), help="11 points or area; by default the year's own")
    coco = kinds.add_parser("coco", help="COCO box and mask AP by pycocotools' definition")
    coco.add_argument("detections", type=Path, metavar="DETECTIONS", help="detections.npz, or a results JSON (.gz)")
    coco.add_argument("--annotations", type=Path, required=True, help="the split's instances JSON")
    for command in (voc, coco):
        command.add_argument("--output", type=Path, help="write metrics and per-class table to this JSON")
    return root


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Print the metrics and the per-class table."""
    arguments = parser().parse_args(argv)
    metrics, per_class = (_voc if arguments.kind == "voc" else _coco)(arguments)
    width = max(len(name) for name in per_class)
    columns = sorted({key for row in per_class.values() for key in row})
    print(" " * width, *(f"{key:>8}" for key in columns))
    for name, row in per_class.items():
        print(f"{name:{width}}", *(f"{row[key]:8.2f}" if key in row else "       -" for key in columns))
    print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if arguments.output:
        write_json(arguments.output, {"metrics": metrics, "per_class": per_class})
    return 0


def _voc(arguments: Any) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    from transfer.voc import load_voc_truth

    classes = arguments.classes.split(",") if arguments.classes else list(VOC_CLASSES)
    images = load_voc_truth(arguments.root, arguments.split, classes)
    ids = [image["image_id"] for image in images]
    if arguments.detections.is_dir():
        found = read_voc_results(arguments.detections, ids, classes)
    else:
        found = read_detections(arguments.detections)
        if [str(i) for i in found.image_ids] != ids:
            raise UserError(f"{arguments.detections}: of other images than {arguments.split}; name its --split")
        if len(found) and found.category.max() >= len(classes):
            raise UserError(f"{arguments.detections}: more classes than --classes names; give the run's")
    use_07 = arguments.metric == "07" if arguments.metric else "2007" in arguments.split
    metrics, per_class, _ = evaluate_voc(match_voc(found, Truth.of(images), len(classes)), classes, use_07)
    return metrics, per_class


def read_voc_results(folder: Path, ids: list[str], classes: list[str]) -> Detections:
    """The development kit's results: one text file a class, boxes from 1.

    Raises:
        UserError: no file of a class, a line that is not six fields, or an image that is not in the split.
    """
    numbers = {image_id: n for n, image_id in enumerate(ids)}
    rows: list[tuple[float, ...]] = []
    for category, name in enumerate(classes):
        files = sorted(p for p in folder.glob("*.txt") if p.stem == name or p.stem.endswith(f"_{name}"))
        if len(files) != 1:
            raise UserError(
                f"{folder}: {len(files)} files for class {name!r}; write one, named like det_test_{name}.txt"
            )
        for count, line in enumerate(files[0].read_text().splitlines(), start=1):
            try:
                image_id, score, *box = line.split()
                x0, y0, x1, y1 = (float(v) for v in box)
                rows.append((numbers[image_id], category, float(score), x0 - 1, y0 - 1, x1, y1))
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{files[0]}:{count}: {line[:60]!r} is not 'image score xmin ymin xmax ymax' of this split"
                ) from error
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Detections(
        list(ids), table[:, 0].astype(np.int32), table[:, 1].astype(np.int16), table[:, 2].astype(np.float32),
        table[:, 3:].astype(np.float32), np.zeros((len(ids), 2), np.int32),
    )  # fmt: skip


def _coco(arguments: Any) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    from transfer.coco_evaluation import coco_results, evaluate_coco

    document = read_instances(arguments.annotations)
    try:
        categories = {c["id"]: str(c["name"]) for c in document["categories"]}
        images = {image["id"] for image in document["images"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{arguments.annotations}: no COCO instances file ({error} is missing)") from error
    if arguments.detections.suffix == ".npz":
        results = coco_results(read_detections(arguments.detections), sorted(categories))
    else:
        results = _read_results(arguments.detections)
    for number, result in enumerate(results):
        wrong = _wrong(result, images, categories)
        if wrong:
            raise UserError(f"{arguments.detections}: detection {number}: {wrong}")
    # Not at the first detection: a masks-only result has no box.
    kinds = [k for k, key in (("bbox", "bbox"), ("segm", "segmentation")) if all(key in r for r in results)]
    return evaluate_coco(document, results, kinds)[:2]


def _wrong(result: Any, images: set[Any], categories: dict[Any, str]) -> str | None:
    if not isinstance(result, dict) or not {"image_id", "category_id", "score"} <= set(result):
        return "has no image_id, category_id and score"
    if not {"bbox", "segmentation"} & set(result):
        return "has neither bbox nor segmentation"
    if result["image_id"] not in images:
        return f"its image {result['image_id']} is not in the annotations"
    if result["category_id"] not in categories:
        return f"its category {result['category_id']} is not in the annotations"
    mask = result.get("segmentation", {"counts": ""})
    if not (isinstance(mask, dict) and isinstance(mask.get("counts"), str)):
        return "its segmentation is not run-length coded; write what pycocotools.mask.encode returns"
    return None


def _read_results(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
        results = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except OSError as error:
        raise from_os_error(error) from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: not JSON ({error}); give a COCO results file") from error
    if not isinstance(results, list):
        raise UserError(f"{path}: not a list of detections; give a COCO results file")
    return results


if __name__ == "__main__":
    main()

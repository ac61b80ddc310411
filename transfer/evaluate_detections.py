"""`python -m transfer.evaluate_detections {voc,coco}`: AP of anybody's detections, without a network.

    python -m transfer.evaluate_detections voc DETECTIONS --root DIR --split voc_2007_test
    python -m transfer.evaluate_detections coco DETECTIONS --annotations instances_val2017.json

DETECTIONS is a run's `detections.npz` or results in the benchmark's own form: for VOC a folder of text files, one a
class (`…_CLASS.txt`, lines of "image score xmin ymin xmax ymax"), for COCO the JSON list.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.printable import printable
from transfer.coco_annotations import SLACK, identity, is_number, numbers, read_coco
from transfer.detections import Detections, Evaluation, read_detections
from transfer.rle import check_rle, coder
from transfer.settings import VOC_CLASSES
from transfer.splits import load_splits, object_faults, refuse
from transfer.voc_annotations import read_text
from transfer.voc_evaluation import Truth, evaluate_voc, match_voc

# What the four numbers of a box mean to one tool or another.
READINGS = ("x, y, width, height", "x0, y0, x1, y1", "centre x, centre y, width, height", "y, x, height, width",
            "y0, x0, y1, x1")  # fmt: skip


def parser() -> Parser:
    """The command line."""
    root = Parser(prog="python -m transfer.evaluate_detections", description=__doc__.splitlines()[0])
    kinds = root.add_subparsers(dest="kind", required=True)
    voc = kinds.add_parser("voc", help="PASCAL VOC AP by Detectron2's definition")
    voc.add_argument("detections", type=Path, metavar="DETECTIONS", help="detections.npz, or a folder of text files")
    voc.add_argument("--root", type=Path, required=True, help="folder that holds VOC2007, VOC2012")
    voc.add_argument("--split", default="voc_2007_test")
    voc.add_argument("--classes", help="class names with commas between; by default those of detections.npz, or VOC's")
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
    if arguments.kind == "voc":
        classes = [name.strip() for name in arguments.classes.split(",")] if arguments.classes else None
        score = score_voc(arguments.detections, arguments.root, arguments.split, classes, arguments.metric)
    else:
        score = score_coco(arguments.detections, arguments.annotations)
    per_class = {printable(name): row for name, row in score.per_class.items()}
    width = max(len(name) for name in per_class)
    columns = sorted({key for row in per_class.values() for key in row})
    print(" " * width, *(f"{key:>8}" for key in columns))
    for name, row in per_class.items():
        print(f"{name:{width}}", *(f"{row[key]:8.2f}" if key in row else "       -" for key in columns))
    print("  ".join(f"{name} {value:.4f}" for name, value in score.metrics.items()))
    if arguments.output:
        write_json(arguments.output, {"metrics": score.metrics, "per_class": per_class})
    return 0


def score_voc(
    detections: Path, root: Path, split: str, classes: list[str] | None = None, metric: str | None = None
) -> Evaluation:
    """VOC AP of a `detections.npz` or a folder of text files, by `metric` "07" (11 points) or "area".

    Raises:
        UserError: the detections or the data set are wrong.
    """
    found = None if detections.is_dir() else read_detections(detections)
    classes = classes or (found.classes if found else list(VOC_CLASSES))
    truth = load_splits(str(root), [split], classes, require_images=False)
    ids = [image["image_id"] for image in truth.images]
    if found is None:
        found = read_voc_detections(detections, ids, classes)
    elif found.classes != classes:
        raise UserError(f"{detections}: of the classes {', '.join(found.classes)}; leave out --classes")
    elif [str(i) for i in found.image_ids] != ids:
        raise UserError(f"{detections}: of other images than {split}; name its --split")
    chosen = {"07": "voc_2007", "area": "voc_area"}[metric] if metric else truth.metric
    return evaluate_voc(match_voc(found, Truth.of(truth.images), chosen))


def read_voc_detections(folder: Path, ids: list[str], classes: list[str]) -> Detections:
    """The development kit's results: one text file a class, boxes from 1."""
    places = {image_id: n for n, image_id in enumerate(ids)}
    # Of two classes whose names end alike, a file belongs to the longer.
    files: dict[str, list[Path]] = {name: [] for name in classes}
    for path in sorted(folder.glob("*.txt")):
        owners = [name for name in classes if path.stem == name or path.stem.endswith(f"_{name}")]
        if owners:
            files[max(owners, key=len)].append(path)
    rows: list[tuple[float, ...]] = []
    for category, name in enumerate(classes):
        if len(files[name]) != 1:
            raise UserError(
                f"{folder}: {len(files[name])} files for class {name!r}; write one, named like det_test_{name}.txt"
            )
        file = files[name][0]
        for count, line in enumerate(read_text(file).splitlines(), start=1):
            try:
                # The image's name may hold spaces.
                image_id, *values = line.rsplit(maxsplit=5)
                score, x0, y0, x1, y1 = (float(v) for v in values)
                if not (all(map(is_number, (score, x0, y0, x1, y1))) and x0 <= x1 and y0 <= y1):
                    raise ValueError("no box")
                rows.append((places[image_id], category, score, x0 - 1, y0 - 1, x1, y1))
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{file}:{count}: {line[:60]!r} is not 'image score xmin ymin xmax ymax' of this split"
                ) from error
    return detections_from_rows(rows, ids, classes)


def detections_from_rows(rows: Sequence[Sequence[float]], ids: Sequence[str], classes: Sequence[str]) -> Detections:
    """Detections from rows of image number, class number, score and a box from 0."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Detections(
        list(ids), list(classes), table[:, 0].astype(np.int32), table[:, 1].astype(np.int16),
        table[:, 2].astype(np.float32), table[:, 3:].astype(np.float32), np.zeros((len(ids), 2), np.int32),
    )  # fmt: skip


def score_coco(path: Path, annotations: Path) -> Evaluation:
    """COCO AP and AR of a `detections.npz` or a results JSON (`.gz`) by the split's instances JSON.

    Raises:
        UserError: the detections or the annotations are wrong.
    """
    from transfer.coco_evaluation import coco_results, evaluate_coco

    if path.suffix in (".pth", ".pt", ".pkl"):
        raise UserError(
            f"{path}: not a results JSON; Detectron2 writes coco_instances_results.json beside it, mmdetection with "
            "outfile_prefix"
        )
    found = read_detections(path) if path.suffix == ".npz" else None
    results = read_json(path, 2**30) if found is None else coco_results(found)
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UserError(f"{path}: not a list of detections {{image_id, category_id, bbox, score}}")
    # Not at the first detection: a masks-only result has no box.
    kinds = [k for k, key in (("bbox", "bbox"), ("segm", "segmentation")) if all(r.get(key) for r in results)]
    if not kinds:
        raise UserError(f"{path}: neither bbox nor segmentation is there for all detections; write one for all")
    kinds = kinds if results else ["bbox"]
    images, categories, faults = read_coco(annotations, None, "segm" in kinds)
    classes = list(categories.values())
    refuse(faults or object_faults(images, annotations))
    # Some tools write the numbers as texts.
    image_numbers = {str(image["image_id"]): n for n, image in enumerate(images)}
    category_numbers = {str(category): n for n, category in enumerate(categories)}
    if found is not None:
        # Images by id and classes by name: its numbers are those of its own data set.
        image_numbers = {str(n): image_numbers.get(str(i), -1) for n, i in enumerate(found.image_ids)}
        category_numbers = {str(n): classes.index(c) if c in classes else -1 for n, c in enumerate(found.classes)}
    checked = []
    for number, result in enumerate(results):
        try:
            checked.append(_result(result, image_numbers, category_numbers, images, kinds))
        except ValueError as error:
            raise UserError(f"{path}: detection {number}: {error}") from error
    if "bbox" in kinds:
        _check_boxes(path, checked, images)
    return evaluate_coco(checked, images, classes, kinds)


def _check_boxes(path: Path, results: list[dict[str, Any]], images: list[dict[str, Any]]) -> None:
    """Refuse boxes that are not x, y, width, height in pixels: their AP would be low and look like a result."""
    if not results:
        return
    boxes, numbers = np.array([r["bbox"] for r in results], np.float64), np.array([r["image_id"] for r in results])
    sizes = np.array([[image["width"], image["height"]] for image in images])[numbers]
    beyond = (boxes[:, :2] + boxes[:, 2:] > sizes + SLACK).any(axis=1) & (sizes > 0).all(axis=1)
    if (boxes <= 1).all() or beyond.mean() > 0.5:
        raise UserError(f"{path}: its boxes do not lie in their images; write x, y, width, height in pixels")
    # Each image's best detection, by every reading of its four numbers.
    order = np.argsort([-r["score"] for r in results], kind="stable")
    first = order[np.unique(numbers[order], return_index=True)[1]]
    a, b, c, d = boxes[first].T
    readings = np.array(
        [(a, b, c, d), (a, b, c - a, d - b), (a - c / 2, b - d / 2, c, d), (b, a, d, c), (b, a, d - b, c - a)]
    ).transpose(2, 0, 1)  # (images, 5, 4)
    fit = np.zeros(len(READINGS))
    for read, number in zip(readings, numbers[first], strict=True):
        truth = np.array([a["bbox"] for a in images[number]["annotations"]], np.float64)
        if len(truth):
            read[:, 2:] = np.maximum(read[:, 2:], 0)
            fit += coder.iou(read, truth, [0] * len(truth)).max(axis=1) / len(first)
    # Of fewer images, another reading may fit better by chance.
    if len(first) >= 5 and fit.max() > max(0.5, 1.5 * fit[0]):
        raise UserError(f"{path}: its boxes fit the objects as {READINGS[fit.argmax()]}; write x, y, width, height")


def _result(
    result: dict[str, Any], image_numbers: dict[str, int], category_numbers: dict[str, int],
    images: list[dict[str, Any]], kinds: list[str],
) -> dict[str, Any]:  # fmt: skip
    """One detection of anybody's, checked, with numbers for its image and class."""
    entry: dict[str, Any] = {}
    for key, table in (("image_id", image_numbers), ("category_id", category_numbers)):
        entry[key] = table.get(str(identity(result, key)), -1)
        if entry[key] < 0:
            raise ValueError(
                f"its {key} {result[key]!r} is not in the annotations; give the annotations it was made for"
            )
    entry["score"] = result.get("score")
    if not is_number(entry["score"]):
        raise ValueError(f"its score is {entry['score']!r}; write a finite number")
    if "bbox" in kinds:
        entry["bbox"] = numbers(result["bbox"], "its bbox", 4)
        if min(entry["bbox"][2:]) < 0:
            raise ValueError("its bbox has a negative side; COCO's is x, y, width, height")
    if "segm" in kinds:
        if not isinstance(result["segmentation"], dict):
            raise ValueError("its segmentation is not run-length coded; write what pycocotools.mask.encode returns")
        image = images[entry["image_id"]]
        entry["segmentation"] = check_rle(result["segmentation"], image["height"], image["width"])
    return entry


if __name__ == "__main__":
    main()

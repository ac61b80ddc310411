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
from transfer.box_formats import CORNERS, SIDES, check_box_format
from transfer.check_rle import checked_rle
from transfer.coco_annotations import checked_int_or_str_id, checked_numbers, is_number, read_coco_and_faults
from transfer.detections import Detections, Evaluation
from transfer.read_splits import Split, raise_first_fault, read_joined_splits
from transfer.settings import VOC_CLASSES
from transfer.voc_annotations import read_text
from transfer.voc_evaluation import SplitTruth, evaluate_voc


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
    found = None if detections.is_dir() else Detections.load(detections)
    classes = classes or (found.classes if found else list(VOC_CLASSES))
    truth = read_joined_splits(str(root), [split], classes, require_images=False)
    ids = [image["image_id"] for image in truth.images]
    if found is None:
        found = _read_voc_detections(detections, ids, classes)
    elif found.classes != classes:
        raise UserError(f"{detections}: of the classes {', '.join(found.classes)}; leave out --classes")
    elif [str(i) for i in found.image_ids] != ids:
        raise UserError(f"{detections}: of other images than {split}; name its --split")
    chosen = {"07": "voc_2007", "area": "voc_area"}[metric] if metric else truth.metric
    check_box_format(detections, found.box, found.image, found.score, truth.images, CORNERS)
    return evaluate_voc(found, SplitTruth.from_images(truth.images), chosen)


def _read_voc_detections(folder: Path, ids: list[str], classes: list[str]) -> Detections:
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
    return Detections.from_table(rows, ids, classes)


def score_coco(path: Path, annotations: Path) -> Evaluation:
    """COCO AP and AR of a `detections.npz` or a results JSON (`.gz`) by the split's instances JSON.

    Raises:
        UserError: the detections or the annotations are wrong.
    """
    from transfer.coco_evaluation import evaluate_coco, to_coco_results_with_indices_as_ids

    if path.suffix in (".pth", ".pt", ".pkl"):
        raise UserError(
            f"{path}: not a results JSON; Detectron2 writes coco_instances_results.json beside it, mmdetection with "
            "outfile_prefix"
        )
    found = Detections.load(path) if path.suffix == ".npz" else None
    results = read_json(path, 2**30) if found is None else to_coco_results_with_indices_as_ids(found)
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise UserError(f"{path}: not a list of detections {{image_id, category_id, bbox, score}}")
    # Not at the first detection: a masks-only result has no box.
    kinds = [k for k, key in (("bbox", "bbox"), ("segm", "segmentation")) if all(r.get(key) for r in results)]
    if not kinds:
        raise UserError(f"{path}: neither bbox nor segmentation is there for all detections; write one for all")
    kinds = kinds if results else ["bbox"]
    images, categories, faults = read_coco_and_faults(annotations, None, "segm" in kinds)
    truth = Split(str(annotations), images, list(categories.values()), "coco")
    raise_first_fault(faults or truth.overall_faults())
    # Some tools write the numbers as texts.
    image_numbers = {str(image["image_id"]): n for n, image in enumerate(images)}
    category_numbers = {str(category): n for n, category in enumerate(categories)}
    if found is not None:
        # Images by id and classes by name: its numbers are those of its own data set.
        image_numbers = {str(n): image_numbers.get(str(i), -1) for n, i in enumerate(found.image_ids)}
        places = {name: n for n, name in enumerate(truth.classes)}
        category_numbers = {str(n): places.get(name, -1) for n, name in enumerate(found.classes)}
    checked = []
    for number, result in enumerate(results):
        try:
            checked.append(_result(result, image_numbers, category_numbers, images, kinds))
        except ValueError as error:
            raise UserError(f"{path}: detection {number}: {error}") from error
    if "bbox" in kinds:
        boxes, image, score = (np.array([r[key] for r in checked]) for key in ("bbox", "image_id", "score"))
        check_box_format(path, boxes, image, score, images, SIDES)
    return evaluate_coco(checked, images, truth.classes, kinds)


def _result(
    result: dict[str, Any], image_numbers: dict[str, int], category_numbers: dict[str, int],
    images: list[dict[str, Any]], kinds: list[str],
) -> dict[str, Any]:  # fmt: skip
    """One detection of anybody's, checked, with numbers for its image and class."""
    entry: dict[str, Any] = {}
    for key, table in (("image_id", image_numbers), ("category_id", category_numbers)):
        entry[key] = table.get(str(checked_int_or_str_id(result, key)), -1)
        if entry[key] < 0:
            raise ValueError(
                f"its {key} {result[key]!r} is not in the annotations; give the annotations it was made for"
            )
    entry["score"] = result.get("score")
    if not is_number(entry["score"]):
        raise ValueError(f"its score is {entry['score']!r}; write a finite number")
    if "bbox" in kinds:
        entry["bbox"] = checked_numbers(result["bbox"], "its bbox", 4)
        if min(entry["bbox"][2:]) < 0:
            raise ValueError("its bbox has a negative side; COCO's is x, y, width, height")
    if "segm" in kinds:
        if not isinstance(result["segmentation"], dict):
            raise ValueError("its segmentation is not run-length coded; write what pycocotools.mask.encode returns")
        image = images[entry["image_id"]]
        entry["segmentation"] = checked_rle(result["segmentation"], image["height"], image["width"])
    return entry


if __name__ == "__main__":
    main()

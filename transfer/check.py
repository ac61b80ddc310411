"""`python -m transfer.check data.root=DIR`: verify counts, decode every image, validate every box and polygon."""

import concurrent.futures
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from runs.app import hydra_app
from runs.errors import UserError
from runs.progress import progress
from runs.settings import path
from transfer.settings import VOC_CLASSES

# Images and objects of the official splits, difficult ones and crowds included: counted in the VOC 2007 annotations;
# VOC 2012 and COCO 2017 as Detectron2's loaders count them.
OFFICIAL = {
    "voc_2007_train": (2501, 7844), "voc_2007_val": (2510, 7818), "voc_2007_trainval": (5011, 15662),
    "voc_2007_test": (4952, 14976), "voc_2012_train": (5717, 15774), "voc_2012_val": (5823, 15787),
    "voc_2012_trainval": (11540, 31561), "coco_2017_train": (118287, 860001), "coco_2017_val": (5000, 36781),
}  # fmt: skip
SHOWN = 20


@dataclass
class CheckData:
    """Where the images are; see `transfer.settings.DataConfig`."""

    root: str = path()
    classes: list[str] = field(default_factory=lambda: list(VOC_CLASSES))


@dataclass
class CheckConfig:
    """What to verify.

    Attributes:
        data: root folder and VOC class names.
        splits: names such as `voc_2007_train`; empty: every split that is found.
        official: whether counts that are not the official ones are faults.
        workers: processes that decode; 0: one a core.
    """

    data: CheckData = field(default_factory=CheckData)
    splits: list[str] = field(default_factory=list)
    official: bool = False
    workers: int = 0


def find_splits(root: Path) -> list[str]:
    """Names of all splits whose lists lie under `root`.

    Raises:
        UserError: there is no folder, or no split in it.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; give the one that holds VOC2007, VOC2012 or coco")
    names = []
    for folder in sorted(root.glob("VOC[0-9][0-9][0-9][0-9]")):
        lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
        # The kits' `aeroplane_train.txt` and the like are lists of one class for classification.
        names += [f"voc_{folder.name[3:]}_{path.stem}" for path in lists if "_" not in path.stem]
    for file in sorted((root / "coco" / "annotations").glob("instances_*[0-9][0-9][0-9][0-9].json")):
        split = file.stem.removeprefix("instances_")
        names.append(f"coco_{split[-4:]}_{split[:-4]}")
    if not names:
        from transfer.voc import meant

        hint = meant(root)
        raise UserError(
            f"data.root={root}: holds no split of VOC or COCO in Detectron2's layout{'; ' if hint else ''}{hint}"
        )
    return names


def examine(root: Path, name: str, classes: list[str], official: bool = False) -> tuple[str, list[str], list[Path]]:
    """Check one split's annotations.

    Returns:
        (a line of counts, faults with their files, images to decode)
    """
    from transfer.coco import coco_files, document_faults
    from transfer.datasets import check_header
    from transfer.voc import voc_faults

    faults: list[str] = []
    if name.startswith("coco"):
        images, objects, found = document_faults(*coco_files(root, name))
        extra = ""
    else:
        images, found = voc_faults(root, name, classes)
        boxes = [a for image in images for a in image["annotations"]]
        objects, extra = len(boxes), f", {sum(a['difficult'] for a in boxes)} of them difficult"
    faults += found
    for image in images:
        if os.path.exists(image["file_name"]):
            faults += _collect(check_header, image)
    twice = [i for i, n in Counter(image["file_name"] for image in images).items() if n > 1]
    faults += [f"{file}: listed twice in {name}; remove one" for file in twice]
    if official and name in OFFICIAL and (len(images), objects) != OFFICIAL[name]:
        faults.append(f"{name}: {len(images)} images and {objects} objects, officially {OFFICIAL[name]}; complete it")
    return f"{name}: {len(images)} images, {objects} objects{extra}", faults, [Path(i["file_name"]) for i in images]


def decode(path: Path) -> str | None:
    """Decode every pixel; returns what is wrong, None if nothing is."""
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path}: does not decode ({' '.join(str(error).split())}); restore it"
    return None


def _collect(check: Callable[[Any], None], subject: Any) -> Iterator[str]:
    try:
        check(subject)
    except UserError as error:
        yield str(error)


@hydra_app("transfer", "check_config", CheckConfig)
def main(config: CheckConfig) -> None:
    """Print a line a split and every fault; exit 1 if there is one."""
    root = Path(config.data.root)
    faults: list[str] = []
    images: set[Path] = set()
    for name in config.splits or find_splits(root):
        line, found, paths = examine(root, name, config.data.classes, config.official)
        print(line)
        faults += found
        images |= {path for path in paths if path.exists()}
    headless = {fault.partition(": ")[0] for fault in faults}
    ordered = sorted(path for path in images if str(path) not in headless)
    workers = config.workers or os.cpu_count() or 1
    with (
        concurrent.futures.ProcessPoolExecutor(workers) as pool,
        progress(len(ordered), "decoding", unit="image") as bar,
    ):
        for fault in pool.map(decode, ordered, chunksize=64):
            faults += [fault] if fault else []
            bar.update()
    faults = list(dict.fromkeys(faults))
    for fault in faults[:SHOWN]:
        print(f"wrong: {fault}")
    if len(faults) > SHOWN:
        print(f"wrong: … and {len(faults) - SHOWN} more")
    print(f"{len(images)} images decoded, {len(faults)} faults")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()

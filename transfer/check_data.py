"""`python -m transfer.check_data data.root=DIR`: verify counts, decode every image, validate every box and polygon."""

import concurrent.futures
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from runs.app import hydra_app
from runs.printable import printable
from runs.progress import Progress
from runs.settings import number
from transfer.image_files import decoding_fault
from transfer.settings import DataFolder

# Images and objects of the official splits, difficult ones and crowds included: counted in the VOC 2007 annotations;
# VOC 2012 and COCO 2017 as Detectron2's loaders count them.
OFFICIAL = {
    "voc_2007_train": (2501, 7844), "voc_2007_val": (2510, 7818), "voc_2007_trainval": (5011, 15662),
    "voc_2007_test": (4952, 14976), "voc_2012_train": (5717, 15774), "voc_2012_val": (5823, 15787),
    "voc_2012_trainval": (11540, 31561), "coco_2017_train": (118287, 860001), "coco_2017_val": (5000, 36781),
}  # fmt: skip
SHOWN = 20


@dataclass
class CheckConfig:
    """What to verify."""

    data: DataFolder = field(default_factory=DataFolder)
    splits: list[str] = field(default_factory=list)
    """Names such as voc_2007_train; empty: every split that is found."""
    masks: bool = True
    """Whether COCO's objects need masks, as task=coco does."""
    official: bool = False
    """Whether counts that are not the official ones are faults."""
    images: int = number(0, least=0)
    """About so many images are decoded, spread evenly; 0: all."""
    workers: int = 0
    """Processes that decode; 0: one a core."""


def check_data(config: CheckConfig) -> None:
    """Print a line a split and every fault; exit 1 if there is one."""
    from transfer.read_splits import find_split_names, read_split_and_faults

    root = Path(config.data.root)
    faults: list[str] = []
    images: set[Path] = set()
    for name in config.splits or find_split_names(root):
        split, found = read_split_and_faults(root, name, config.data.classes, config.masks)
        objects = sum(len(image["annotations"]) for image in split.images)
        left_out, kind = objects - split.evaluated_object_count, "crowds" if split.metric == "coco" else "difficult"
        print(f"{name}: {len(split.images)} images, {objects} objects, {left_out} of them {kind}")
        faults += found
        if config.official and OFFICIAL.get(name) not in (None, (len(split.images), objects)):
            faults.append(
                f"{name}: {len(split.images)} images and {objects} objects, officially {OFFICIAL[name]}; complete it"
            )
        images |= {Path(image["file_name"]) for image in split.images}
    step = max(1, len(images) // config.images) if config.images else 1
    decoded = sorted(images)[::step]
    with (
        concurrent.futures.ProcessPoolExecutor(config.workers or os.cpu_count() or 1) as pool,
        Progress(len(decoded), "decoding", unit="image") as bar,
    ):
        for fault in pool.map(decoding_fault, decoded, chunksize=64):
            faults += [fault] if fault else []
            bar.update()
    faults = list(dict.fromkeys(faults))
    for fault in faults[:SHOWN]:
        print(f"wrong: {printable(fault)}")
    if len(faults) > SHOWN:
        print(f"wrong: … and {len(faults) - SHOWN} more")
    print(f"{len(decoded)} images decoded, {len(faults)} faults")
    if faults:
        sys.exit(1)


main = hydra_app("transfer", "check_config", CheckConfig, check_data)

if __name__ == "__main__":
    main()

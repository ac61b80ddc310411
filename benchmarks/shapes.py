"""The generated data set: scenes of textured shapes in the three layouts that real data sets use.

    python -m benchmarks.shapes DIR --seed 0

writes `DIR/imagefolder/{train,val}/<class>/*.jpg`, `DIR/VOC2007`, `DIR/VOC2012` (Detectron2's PASCAL VOC layout) and
`DIR/coco` (COCO 2017), with `DIR/manifest.json` last. docs/mini.md says what the images are and why.

Every image comes from a generator of its own, seeded by (seed, split, index): the same settings and library versions
give the same bytes, and a larger set contains the smaller one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.shapes_layouts import write_coco, write_jpeg, write_voc
from benchmarks.shapes_scenes import CLASSES, Rng, Scene, classification_scene, detection_scene
from runs.app import Parser, cli
from runs.errors import UserError
from runs.folder import LOCK, wait_for_folder_lock
from runs.help_text import field_docs
from runs.progress import Progress
from runs.settings import check_values, number

# To be raised whenever the same settings would draw other images, so that an old folder is not taken for a new one.
DESIGN = 4
MANIFEST = "manifest.json"

# The middle entry of every image's seed. Fixed numbers: a changed one changes every image of its split.
SPLITS = {
    "imagefolder/train": 1, "imagefolder/val": 2,
    "VOC2007/train": 3, "VOC2007/val": 4, "VOC2007/test": 5, "VOC2012/train": 6, "VOC2012/val": 7,
    "coco/train2017": 8, "coco/val2017": 9,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How much to draw. The defaults are those of the mini scale (docs/mini.md)."""

    seed: int = number(0, least=0)
    """seed of the whole set, >= 0."""
    images: int = number(512, least=1)
    """training images per class (`imagefolder/train`)."""
    val_images: int = number(64, least=1)
    """validation images per class (`imagefolder/val`)."""
    size: int = number(64, least=32)
    """height and width of the classification images, pixels."""
    voc07: int = number(128, least=2)
    """images of VOC2007 trainval; half are `train`, half `val`."""
    voc07_test: int = number(128, least=1)
    """images of VOC2007 test."""
    voc12: int = number(128, least=2)
    """images of VOC2012 trainval."""
    coco: int = number(128, least=1)
    """images of COCO train2017."""
    coco_val: int = number(128, least=1)
    """images of COCO val2017."""
    scene_size: int = number(128, least=64)
    """height and width of the detection images, pixels."""
    objects: int = number(5, least=1)
    """greatest number of objects in a detection image; the least is 1."""

    def __post_init__(self) -> None:
        check_values(self)


def generator(seed: int, split: str, index: int) -> Rng:
    """The generator of one image of the set of a seed: number `index`, from 0, of a split of `SPLITS`."""
    return np.random.default_rng([seed, SPLITS[split], index])


def generate(folder: Path, settings: Settings) -> bool:
    """Write the data set, or find it written.

    The folder gets its name only when it is whole: until then everything is in a hidden folder beside it, which the
    next start clears.

    Returns:
        True if it was written now, False if it was there with these settings.

    Raises:
        UserError: the folder holds something else or a set with other settings, or the disk refuses.
    """
    folder = folder.absolute()
    if _is_there(folder, settings):
        return False
    partial = folder.with_name(f".{folder.name}.partial")
    with wait_for_folder_lock(partial):
        try:
            # Another process may have written it while this one waited for the lock.
            if _is_there(folder, settings):
                return False
            for entry in partial.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
            _draw(partial, settings)
            manifest = {
                "design": DESIGN, "settings": asdict(settings), "classes": list(CLASSES),
                "fingerprint": fingerprint(partial),
                "versions": {name: version(name) for name in ("numpy", "opencv-python-headless", "pillow")},
            }  # fmt: skip
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            # Thousands of small files: one sync of everything before the rename instead of one for each.
            os.sync()
            os.rename(partial, folder)
            (folder / LOCK).unlink()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def fingerprint(folder: Path) -> str:
    """SHA-256 over the relative names and bytes of the data set's files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, LOCK)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_there(folder: Path, settings: Settings) -> bool:
    if folder.is_file():
        raise UserError(f"{folder}: is a file; choose another folder")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = {"design": manifest["design"], **manifest["settings"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: holds files but no generated data set; choose another folder") from None
    wanted = {"design": DESIGN, **asdict(settings)}
    if other := [f"{k} {found.get(k)} (asked for {v})" for k, v in wanted.items() if found.get(k) != v]:
        listed = ", ".join(other)
        raise UserError(f"{folder}: generated with other settings: {listed}; delete it or choose another folder")
    return True


def _draw(folder: Path, s: Settings) -> None:
    counts = {
        "imagefolder/train": s.images * len(CLASSES), "imagefolder/val": s.val_images * len(CLASSES),
        "VOC2007/train": s.voc07 // 2, "VOC2007/val": s.voc07 - s.voc07 // 2, "VOC2007/test": s.voc07_test,
        "VOC2012/train": s.voc12 // 2, "VOC2012/val": s.voc12 - s.voc12 // 2,
        "coco/train2017": s.coco, "coco/val2017": s.coco_val,
    }  # fmt: skip
    with Progress(sum(counts.values()), "generate", unit="image") as bar:

        def generators(split: str) -> Iterator[Rng]:
            for index in range(counts[split]):
                yield generator(s.seed, split, index)
                bar.update()

        def scenes(layout: str, crowds: float = 0.0) -> dict[str, tuple[int, Iterator[Scene]]]:
            splits = [split for split in counts if split.startswith(f"{layout}/")]
            drawn = [
                (detection_scene(rng, s.scene_size, (1, s.objects), crowds) for rng in generators(split))
                for split in splits
            ]
            return {split.split("/")[1]: (SPLITS[split], d) for split, d in zip(splits, drawn, strict=True)}

        for split in ("imagefolder/train", "imagefolder/val"):
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
            for index, rng in enumerate(generators(split)):
                # The class follows from the index, not from the count, so that a larger set contains the smaller.
                name = CLASSES[index % len(CLASSES)]
                write_jpeg(folder / split / name / f"{index:06d}.jpg", classification_scene(rng, s.size, name).image)
        write_voc(folder / "VOC2007", scenes("VOC2007"))
        write_voc(folder / "VOC2012", scenes("VOC2012"))
        write_coco(folder / "coco", scenes("coco", crowds=0.15))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    summary = "Generate the data set of the mini scale: textured shapes as ImageFolder, VOC and COCO."
    parser = Parser(prog="python -m benchmarks.shapes", description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the data set shall be")
    help_of = field_docs(Settings)
    for item in fields(Settings):
        flag = "--" + item.name.replace("_", "-")
        parser.add_argument(
            flag, type=int, default=item.default, metavar="N", help=f"{help_of[item.name]} Default: {item.default}."
        )
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    written = generate(folder, Settings(**given))
    print(f"{folder}: {'written' if written else 'already there'}")


if __name__ == "__main__":
    cli(main)()

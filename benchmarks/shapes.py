"""The generated data set: scenes of textured shapes in the three layouts that real data sets use.

    python -m benchmarks.shapes DIR --seed 0

writes `DIR/imagefolder/{train,val}/<class>/*.jpg`, `DIR/VOC2007`, `DIR/VOC2012` (Detectron2's PASCAL VOC layout) and
`DIR/coco` (COCO 2017), with `DIR/manifest.json` last. docs/mini.md says what the images are and why.

Every image comes from a generator of its own, seeded by (seed, split, index): the same settings and library versions
give the same bytes, and a larger set contains the smaller one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.shapes_draw import CLASSES, Rng, Scene, portrait, view
from benchmarks.shapes_layouts import CocoWriter, VocWriter, jpeg
from runs.app import Parser, cli
from runs.errors import UserError
from runs.progress import progress

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
    """How much to draw. The defaults are those of the mini scale (docs/mini.md).

    Attributes:
        seed: seed of the whole set, >= 0.
        images: training images per class (`imagefolder/train`).
        val_images: validation images per class (`imagefolder/val`).
        size: height and width of the classification images, pixels.
        voc07: images of VOC2007 trainval; half are `train`, half `val`.
        voc07_test: images of VOC2007 test.
        voc12: images of VOC2012 trainval.
        coco: images of COCO train2017.
        coco_val: images of COCO val2017.
        scene_size: height and width of the detection images, pixels.
        objects: greatest number of objects in a detection image; the least is 1.
    """

    seed: int = 0
    images: int = 512
    val_images: int = 64
    size: int = 64
    voc07: int = 128
    voc07_test: int = 128
    voc12: int = 128
    coco: int = 128
    coco_val: int = 128
    scene_size: int = 128
    objects: int = 5

    def __post_init__(self) -> None:
        least = {"seed": 0, "size": 32, "scene_size": 64, "voc07": 2, "voc12": 2}
        for item in fields(self):
            bound = least.get(item.name, 1)
            if getattr(self, item.name) < bound:
                flag = "--" + item.name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, item.name)}: must be at least {bound}")


def generator(seed: int, split: str, index: int) -> Rng:
    """The generator of one image.

    Args:
        seed: the set's seed.
        split: a key of `SPLITS`.
        index: the image's number in its split, from 0.
    """
    return np.random.default_rng([seed, SPLITS[split], index])


def generate(folder: Path, settings: Settings) -> bool:
    """Write the data set, or find it written.

    The folder gets its name only when it is whole: until then everything is in a hidden folder beside it, which the
    next start clears.

    Args:
        folder: where the data set shall be; absent, empty, or written by an earlier call.
        settings: how much to draw.

    Returns:
        True if it was written now, False if it was there with these settings.

    Raises:
        UserError: the folder holds something else or a set with other settings; another process is writing it; the
            disk refuses.
    """
    folder = folder.absolute()
    if _is_there(folder, settings):
        return False
    with _partial(folder) as partial:
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
    return True


def fingerprint(folder: Path) -> str:
    """SHA-256 over the relative names and bytes of all files but the manifest, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_there(folder: Path, settings: Settings) -> bool:
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder}: is a file; choose another folder")
        return False
    if not any(folder.iterdir()):
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        design, found = manifest["design"], manifest["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: holds files but no generated data set; choose another folder") from None
    if design != DESIGN:
        raise UserError(
            f"{folder}: drawn by design {design}, this program draws {DESIGN}; delete it or choose another folder"
        )
    other = {k: found.get(k) for k, v in asdict(settings).items() if found.get(k) != v}
    if other:
        listed = ", ".join(f"{k} {v} (asked for {getattr(settings, k)})" for k, v in other.items())
        raise UserError(f"{folder}: generated with other settings: {listed}; delete it or choose another folder")
    return True


@contextlib.contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """An empty hidden folder beside `folder`, locked; removed again unless the block renames it."""
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is generating it; wait for it to end") from None
        for entry in partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(descriptor)


def _draw(folder: Path, settings: Settings) -> None:
    s = settings
    scenes = {
        "VOC2007/train": s.voc07 // 2, "VOC2007/val": s.voc07 - s.voc07 // 2, "VOC2007/test": s.voc07_test,
        "VOC2012/train": s.voc12 // 2, "VOC2012/val": s.voc12 - s.voc12 // 2,
        "coco/train2017": s.coco, "coco/val2017": s.coco_val,
    }  # fmt: skip
    portraits = {"imagefolder/train": s.images, "imagefolder/val": s.val_images}
    total = len(CLASSES) * sum(portraits.values()) + sum(scenes.values())
    with progress(total, "generate", unit="image") as bar:
        for split, per_class in portraits.items():
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
            for index in range(per_class * len(CLASSES)):
                # The class follows from the index, not from the count, so that a larger set contains the smaller.
                name = CLASSES[index % len(CLASSES)]
                image = portrait(generator(s.seed, split, index), s.size, name).image
                jpeg(folder / split / name / f"{index:06d}.jpg", image)
                bar.update()
        writers: dict[str, VocWriter | CocoWriter] = {
            "VOC2007": VocWriter(folder / "VOC2007"), "VOC2012": VocWriter(folder / "VOC2012"),
            "coco": CocoWriter(folder / "coco"),
        }  # fmt: skip
        for split, count in scenes.items():
            layout, part = split.split("/")
            draw = _scene_of(s, split, crowds=0.15 if layout == "coco" else 0.0)
            for index in range(count):
                writers[layout].add(part, SPLITS[split], index, draw(index))
                bar.update()
        for writer in writers.values():
            writer.close()


def _scene_of(s: Settings, split: str, crowds: float) -> Callable[[int], Scene]:
    return lambda index: view(generator(s.seed, split, index), s.scene_size, (1, s.objects), crowds)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    summary = "Generate the data set of the mini scale: textured shapes as ImageFolder, VOC and COCO."
    parser = Parser(prog="python -m benchmarks.shapes", description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the data set shall be")
    help_of = dict(
        line.strip().split(": ", 1)
        for line in (Settings.__doc__ or "").split("Attributes:")[1].splitlines()
        if ": " in line
    )
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

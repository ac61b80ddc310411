"""Two augmented views of an image, decoded and collated: the fast pipeline against the official script's and others'.

    python -m experiments.speed.views --data DIR [--official CLONE]

On one thread, in processor seconds: views a second and core. DIR/VOC2007/JPEGImages holds the photographs; without it
scenes are generated. `--official` is a clone of facebookresearch/simsiam@a7bc177; without it, its transforms are those
of this project's reference, which tests/pretrain/test_method_simsiam.py holds to its bits.
"""

import argparse
import importlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import io as torchvision_io
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.shapes import Settings, generate
from experiments.speed.rows import Row, Skipped, alternate, run_script
from hardware.measure_peak_rates import decode_rate
from hardware.section import OFFICIAL
from pretrain import augment
from pretrain.augment import build_view_transforms
from pretrain.augment.views import FastViews, Views
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.loader import collate_or_error

CPU = torch.device("cpu")
BATCH = 32


def read_recipe(name: str) -> AugmentConfig:
    """A recipe of pretrain/augment."""
    settings = yaml.safe_load((Path(augment.__file__).parent / f"{name}.yaml").read_text())
    del settings["defaults"]
    return AugmentConfig(**settings)


def read_files(data: Path | None, count: int) -> list[bytes]:
    """JPEG files, evenly from the photographs, or generated scenes."""
    if data:
        paths = sorted((data / "VOC2007" / "JPEGImages").glob("*.jpg"))
        if not paths:
            raise SystemExit(f"{data}: no VOC2007/JPEGImages/*.jpg; leave --data out to generate scenes")
        return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]
    with tempfile.TemporaryDirectory() as folder:
        root, least = Path(folder) / "generated", {"voc07_test": 2, "voc12": 2, "coco": 2, "coco_val": 2}
        generate(root, Settings(images=2, val_images=2, voc07=count, scene_size=400, **least))
        paths = sorted((root / "VOC2007" / "JPEGImages").glob("*.jpg"))
        return [path.read_bytes() for path in paths[:count]]


def as_images(files: list[bytes]) -> Images:
    """The files as a training split of one class."""
    return Images("speed", "train", [""] * len(files), [0] * len(files), ["a"], files.__getitem__)


def fast_views(files: list[bytes], config: AugmentConfig, colour: bool = True) -> Callable[[], Any]:
    """All files through the fast pipeline; without `colour`, what is left to the processor beside a GPU."""
    views = FastViews(as_images(files), config.for_views(2), 0, False, batched=not colour)

    def work() -> None:
        for first in range(0, len(files), BATCH):
            batch: Any = collate_or_error(
                views.__getitems__([(0, i) for i in range(len(files))[first : first + BATCH]])
            )
            if colour:
                views.to_float_views(batch[0], CPU)

    return work


def reference_views(files: list[bytes], config: AugmentConfig) -> Callable[[], Any]:
    """The same through this project's reference pipeline."""
    views = Views(as_images(files), build_view_transforms(config.for_views(2)), 0, False)

    def work() -> None:
        for first in range(0, len(files), BATCH):
            collate_or_error(views.__getitems__([(0, i) for i in range(len(files))[first : first + BATCH]]))

    return work


def transformed_views(
    files: list[bytes], decode: Callable[[bytes], Any], view: Callable[[Any], Any]
) -> Callable[[], Any]:
    """Decode once, transform twice, collate as torch's DataLoader does."""

    def two(content: bytes) -> list[Any]:
        image = decode(content)
        return [view(image), view(image)]

    def work() -> None:
        for first in range(0, len(files), BATCH):
            default_collate([two(content) for content in files[first : first + BATCH]])

    return work


def decode_all(files: list[bytes], decode: Callable[[bytes], Any]) -> Callable[[], Any]:
    """Decode all files."""
    return lambda: [decode(content) for content in files]


def by_pillow(content: bytes) -> Image.Image:
    """As torchvision's ImageFolder opens a file."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def by_torchvision(content: bytes) -> Tensor:
    """(3, H, W) uint8."""
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return torchvision_io.decode_jpeg(data, torchvision_io.ImageReadMode.RGB)


def by_opencv(content: bytes) -> Any:
    """(H, W, 3) uint8."""
    return cv2.imdecode(numpy.frombuffer(content, numpy.uint8), cv2.IMREAD_COLOR_RGB)


def official_transform(folder: Path) -> Callable[[Any], Any]:
    """The augmentation of main_simsiam.py with the blur of its simsiam/loader.py."""
    path = folder / "simsiam" / "loader.py"
    spec = importlib.util.spec_from_file_location("official_loader", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"{path}: no such file; --official is a clone of {OFFICIAL}")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([module.GaussianBlur([0.1, 2.0])], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def torchvision_v2_transform() -> Callable[[Any], Any]:
    """The same views by torchvision's second interface on 8-bit tensors. Its blur and its hue differ from Pillow's."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def kornia_transform() -> Callable[[Any], Any]:
    """The same views by Kornia on float tensors, an image at a time, since photographs differ in size."""
    K: Any = importlib.import_module("kornia.augmentation")
    chain = K.AugmentationSequential(
        K.RandomResizedCrop((224, 224), scale=(0.2, 1.0)),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
        K.RandomHorizontalFlip(),
        K.Normalize(torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])),
    )
    return lambda image: chain(image[None].float() / 255)[0]


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """The rows, each against the fast pipeline in the same rounds."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    count, rounds = (8, 2) if arguments.quick else (96, 5)
    files = read_files(arguments.data, count)
    place = "VOC 2007 photographs" if arguments.data else "generated scenes of 400 pixels"
    config = read_recipe("simsiam")
    limit = decode_rate(files)
    libraries = f"torchvision {version('torchvision')}, Pillow {version('pillow')}"

    def row(name: str, title: str, mine: Any, other: Any, peer: str, **more: Any) -> Row:
        seconds = alternate(mine, other, rounds, "cpu")
        fast, slow = ([len(files) / value for value in side] for side in seconds)
        return Row(name, title, "images/s", True, fast, slow, peer, "cpu", limit, "decoding alone (Pillow)", **more)

    if arguments.official:
        peer, name = (
            transformed_views(files, by_pillow, official_transform(arguments.official)),
            f"{OFFICIAL} ({libraries})",
        )
    else:
        peer, name = reference_views(files, config), f"its transforms, {libraries}"
    two = f"two SimSiam views of 224 px, {place}"
    yield row("views/cpu", f"{two}, on one core", fast_views(files, config), peer, name, goal=2.5)
    yield row(
        "views/beside-gpu", f"{two}: one core's part when a GPU does the colour", fast_views(files, config, False),
        peer, name, goal=4.0,
    )  # fmt: skip
    for other in () if arguments.quick else ("simclr", "byol", "swav", "supervised"):
        mine, theirs = fast_views(files, read_recipe(other)), reference_views(files, read_recipe(other))
        yield row(
            f"views/{other}", f"two views by the recipe {other}, {place}", mine, theirs, f"reference, {libraries}"
        )
    yield row(
        "views/torchvision-v2", two, fast_views(files, config),
        transformed_views(files, by_torchvision, torchvision_v2_transform()),
        f"torchvision {version('torchvision')} v2 on tensors", note="its blur and hue differ from the official ones",
    )  # fmt: skip
    if importlib.util.find_spec("kornia"):
        chain = transformed_views(files, by_torchvision, kornia_transform())
        yield row("views/kornia", two, fast_views(files, config), chain, f"Kornia {version('kornia')}")
    else:
        yield Skipped("views/kornia", "Kornia is not installed; pip install kornia")
    everyone: dict[str, Callable[[bytes], Any]] = {"pillow": by_pillow, "torchvision": by_torchvision}
    if importlib.util.find_spec("simplejpeg"):
        simplejpeg = importlib.import_module("simplejpeg")
        everyone["simplejpeg"] = lambda content: simplejpeg.decode_jpeg(content, "RGB")
    for other, decode in everyone.items():
        title = f"decoding alone, {place}, by OpenCV {cv2.__version__}"
        yield row(
            f"views/decode-{other}",
            title,
            decode_all(files, by_opencv),
            decode_all(files, decode),
            f"{other} {version(other)}",
        )


if __name__ == "__main__":
    run_script(measure, __doc__ or "")

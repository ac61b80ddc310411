"""Image files as WebDataset shards; `__main__.py` says what is promised of them."""

import io
import random
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from omegaconf import MISSING

from pretrain.config import MAY_DIFFER, DataConfig
from runs.errors import BrokenImage, UserError
from runs.files import atomic_write, sha256, write_json
from runs.folder import claimed_run
from runs.progress import Progress
from runs.settings import number, path

if TYPE_CHECKING:
    from pretrain.data import Images

INDEX = "index.json"


@dataclass
class ShardConfig:
    """Settings of `python -m pretrain.shard`."""

    data: DataConfig = MISSING
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    images: int = number(1000, least=1)
    """Images a shard: some 100 MB of ImageNet."""
    seed: int = number(0, least=0)
    """Seed of the order of the images."""
    output: str = path()

    def check_consistency(self) -> None:  # noqa: D102
        if not self.splits or set(self.splits) - {"train", "val"}:
            raise UserError(f"splits={self.splits}: must be train, val or both")


def write_shards(config: ShardConfig) -> None:
    """Write what is missing, check everything, write the index."""
    # Here, so that `--help` and a mistyped key do not wait for OpenCV.
    from pretrain.data import fingerprints, open_images

    splits = {split: open_images(config.data, split) for split in config.splits}
    with claimed_run("shard", config.output, asdict(config), MAY_DIFFER, fingerprints(*splits.values())) as run:
        index: dict[str, Any] = {"schema": 1}
        for split, images in splits.items():
            print(images.format_summary())
            with Progress(len(images), f"shards of {split}", "image", folder=run.path) as bar:
                shards, broken = _write_missing_shards(images, run.path / split, config, bar)
            # Read back by the reader that training uses: what it cannot index was not written.
            found = open_images(DataConfig(config.data.name, "shards", config.output), split)
            if len(found) + len(broken) != len(images):
                raise UserError(
                    f"{run.path / split}: {len(found)} images, {len(images)} were put in; delete it, run again"
                )
            index[split] = {
                "images": len(found), "broken": broken, "classes": list(images.classes),
                "source": images.metadata_fingerprint, "shards": shards,
            }  # fmt: skip
        write_json(run.path / INDEX, index)
    count = sum(len(index[split]["shards"]) for split in splits)
    print(f"{count} shards, every one checked -> {run.path / INDEX}")


def _write_missing_shards(
    images: "Images", folder: Path, config: ShardConfig, bar: Progress
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the shards of a split that are not there yet.

    Returns:
        (file, images, bytes and SHA-256 of every shard; the names of broken images that were left out)

    Raises:
        UserError: an image cannot be read and `data.skip_broken` is off, or the folder holds a shard too many.
    """
    order = list(range(len(images)))
    random.Random(config.seed).shuffle(order)
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    for place, start in enumerate(range(0, len(order), config.images)):
        path = folder / f"{folder.name}-{place:06d}.tar"
        chosen = order[start : start + config.images]
        if not _whole(path):
            with atomic_write(path) as file:
                missing = _pack(images, chosen, start, config.data.skip_broken, file)
            with atomic_write(_digest_file(path), "w") as file:
                file.writelines([f"{sha256(path)}  {path.name}\n", *(f"# {name}\n" for name in missing)])
        first, *rest = _digest_file(path).read_text(encoding="utf-8").splitlines()
        skipped = [line.removeprefix("# ") for line in rest]
        broken += skipped
        rows.append(
            {
                "file": f"{folder.name}/{path.name}", "images": len(chosen) - len(skipped),
                "bytes": path.stat().st_size, "sha256": first.split()[0],
            }
        )  # fmt: skip
        bar.update(len(chosen))
    extra = {p.name for p in folder.glob("*.tar")} - {Path(row["file"]).name for row in rows}
    if extra:
        raise UserError(f"{folder / min(extra)}: not a shard of this data set; move it away")
    return rows, broken


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _whole(path: Path) -> bool:
    """Whether a shard is there and is what its digest says."""
    try:
        expected = _digest_file(path).read_text(encoding="utf-8").split()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        return False
    return path.is_file() and sha256(path) == expected


def _pack(images: "Images", chosen: list[int], start: int, skip_broken: bool, file: IO[bytes]) -> list[str]:
    """Write a tar of `KEY.<extension>` and `KEY.cls`, the same bytes each time; returns the names of broken images."""
    broken = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place, index in enumerate(chosen, start=start):
            try:
                extension, content = _encoded_image(images, index)
            except BrokenImage:
                if not skip_broken:
                    raise
                broken.append(images.names[index])
                continue
            for name, data in ((extension, content), ("cls", str(images.labels[index]).encode())):
                entry = tarfile.TarInfo(f"{place:09d}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return broken


def _encoded_image(images: "Images", index: int) -> tuple[str, bytes]:
    """Extension and bytes of an image file; an image without a file becomes a PNG, which loses nothing."""
    source = images.open_lazily(index)
    source.to_pil_rgb()  # all of it decodes
    if source.content is None:
        output = io.BytesIO()
        source.image.save(output, "PNG")
        return "png", output.getvalue()
    kind = str(source.image.format).lower()
    return {"jpeg": "jpg", "tiff": "tif", "mpo": "jpg"}.get(kind, kind), source.content

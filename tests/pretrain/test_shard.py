"""A data set in shards is the same data set, whatever interrupted the writing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import DataConfig
from pretrain.data import open_images
from pretrain.shard.write_webdataset import ShardConfig, write_shards
from runs.errors import BrokenImage
from runs.files import sha256


def command(source: Path, output: Path, *more: str) -> list[str]:
    words = ["data=imagefolder", f"data.root={source}", f"output={output}", "images=5", *more]
    return [sys.executable, "-m", "pretrain.shard", *words]


def make(source: Path, output: Path, **changes: Any) -> None:
    data = DataConfig("imagefolder", "folder", str(source), skip_broken=changes.pop("skip_broken", False))
    write_shards(ShardConfig(data=data, output=str(output), images=5, **changes))


def files(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p) for p in sorted(folder.glob("*/*.tar"))}


def content(root: Path, layout: str, split: str) -> list[tuple[int, bytes]]:
    images = open_images(DataConfig("test", layout, str(root)), split)
    return sorted((images.labels[i], bytes(images.read(i))) for i in range(len(images)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "out"
    make(images, folder)
    return folder


def test_shards_hold_every_file_byte_for_byte_with_its_label(whole: Path, images: Path) -> None:
    for split in ("train", "val"):
        assert content(whole, "shards", split) == content(images, "folder", split)
    first = open_images(DataConfig("test", "shards", str(whole)), "train").labels[:16]
    assert len(set(first)) == 4, "the shards are sorted by class"


def test_the_index_counts_and_hashes_every_shard(whole: Path, images: Path) -> None:
    index = json.loads((whole / "index.json").read_text())
    assert [index[s]["images"] for s in ("train", "val")] == [64, 32]
    rows = [row for split in ("train", "val") for row in index[split]["shards"]]
    assert {Path(r["file"]).name: r["sha256"] for r in rows} == files(whole)
    assert sum(r["images"] for r in rows) == 96 and index["train"]["classes"] == [f"class{i}" for i in range(4)]


def test_killed_in_the_middle_it_ends_with_the_same_shards(whole: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(command(images, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(files(output)) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (output / "index.json").exists()
    kept = files(output)
    assert 3 <= len(kept) < len(files(whole))
    # A shard without its digest may be anything; one with another digest is damaged. Both are written again.
    names = sorted(kept)
    (output / "train" / f"{names[0]}.sha256").unlink()
    (output / "train" / names[1]).write_bytes(b"torn")
    done = subprocess.run(command(images, output), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(output) == files(whole)
    assert (output / "index.json").read_bytes() == (whole / "index.json").read_bytes()


def test_a_broken_image_is_named_or_left_out_and_counted(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "train/a").mkdir(parents=True)
    (source / "train/a/0.png").write_bytes(next((images / "train").glob("*/*.png")).read_bytes())
    (source / "train/a/1.jpg").write_bytes(b"no image")
    with pytest.raises(BrokenImage, match=r"a/1\.jpg: not a readable image"):
        make(source, tmp_path / "x", splits=["train"])
    make(source, tmp_path / "y", splits=["train"], skip_broken=True)
    index = json.loads((tmp_path / "y/index.json").read_text())
    assert index["train"]["images"] == 1 and [Path(n).name for n in index["train"]["broken"]] == ["1.jpg"]

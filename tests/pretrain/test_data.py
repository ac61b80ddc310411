"""Data sets in every layout, and batches that depend on (seed, epoch, index) alone."""

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder

from pretrain.augment import build_view_transforms
from pretrain.augment.views import Views
from pretrain.config import AugmentConfig, DataConfig
from pretrain.data import Images, open_images, open_splits
from pretrain.loader import HostBatch, StepSampler, iterate_batches
from runs.errors import BrokenImage, UserError
from runs.settings import check_values

RECIPE = AugmentConfig(name="test", size=16, solarize_p=0.2)


def tree(root: Path) -> DataConfig:
    return DataConfig(name="test", layout="folder", root=str(root))


def batches(root: Path, workers: int, rank: int = 0, world: int = 1, position: int = 0, seed: int = 3) -> list[Any]:
    """The batches of two epochs, the first from a position on."""
    images = open_images(tree(root), "train")
    sampler = StepSampler(len(images), 16, seed, rank, world, range(4 + position, 12))
    return list(
        iterate_batches(Views(images, build_view_transforms(RECIPE.for_views(2)), seed, False), sampler, workers)
    )


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        all(
            torch.equal(v, w)
            for v, w in zip((*x.views, x.labels, x.indices), (*y.views, y.labels, y.indices), strict=True)
        )
        for x, y in zip(a, b, strict=True)
    )


def test_batches_do_not_depend_on_workers_positions_or_what_was_drawn_before(images: Path) -> None:
    whole = batches(images, workers=0)
    assert len(whole) == 8
    assert same(whole, batches(images, workers=2))
    random.seed(99)
    torch.manual_seed(99)
    assert same(whole[2:], batches(images, workers=0, position=2)), "the position inside the epoch"
    assert not same(whole, batches(images, workers=0, seed=4))
    assert not torch.equal(whole[0][0][0], whole[0][0][1]), "an image's two views are alike"
    assert not torch.equal(whole[0][0][0], whole[4][0][0]), "two epochs' views are alike"


class Threads(Views):
    """Not images: how many threads OpenCV would use."""

    def sample(self, place: int, key: tuple[int, int]) -> list[torch.Tensor]:
        return [torch.tensor(cv2.getNumThreads())]


def test_a_loading_process_keeps_to_one_thread(images: Path) -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        split = open_images(tree(images), "train")
        sampler = StepSampler(len(split), 16, 0, steps=range(1))
        (((threads,), *_),) = iterate_batches(Threads(split, (), 0, False), sampler, 1)
        assert threads.unique().tolist() == [1]
    finally:
        cv2.setNumThreads(before)


def test_the_shares_of_two_processes_are_the_batch_of_one(images: Path) -> None:
    first, second = (batches(images, 0, rank, 2) for rank in (0, 1))
    joined = [
        HostBatch(
            [torch.cat(views) for views in zip(a.views, b.views, strict=True)],
            torch.cat([a.labels, b.labels]),
            [],
            torch.cat([a.indices, b.indices]),
        )
        for a, b in zip(first, second, strict=True)
    ]
    assert same(joined, batches(images, 0))


def test_loading_leaves_the_process_s_generators_alone(images: Path) -> None:
    random.seed(5)
    torch.manual_seed(5)
    expected = (random.random(), torch.rand(3))
    random.seed(5)
    torch.manual_seed(5)
    batches(images, workers=0)
    batches(images, workers=1)
    assert random.random() == expected[0] and torch.equal(torch.rand(3), expected[1])


def test_every_image_comes_once_an_epoch() -> None:
    orders = []
    for number in (0, 1):
        sampler = StepSampler(50, 8, 0, steps=range(6 * number, 6 * number + 6))
        keys = [key for batch in sampler for key in batch]
        assert len(keys) == len(set(keys)) == 48 and {epoch for epoch, _ in keys} == {number}
        orders.append([index for _, index in keys])
    assert orders[0] != orders[1]


def test_a_folder_is_read_as_torchvision_reads_it(images: Path) -> None:
    reference = ImageFolder(str(images / "train"))
    ours = open_images(tree(images), "train")
    assert [*zip(ours.names, ours.labels, strict=True)] == reference.samples
    assert ours.classes == reference.classes
    for i in (0, 17, 63):
        assert numpy.array_equal(numpy.asarray(ours.decode_rgb(i)), numpy.asarray(reference[i][0]))
    assert ours.format_summary() == "test train: 64 images, 4 classes, 16 a class"


def test_the_fingerprint_follows_names_and_labels_but_not_the_place(images: Path, tmp_path: Path) -> None:
    first = open_images(tree(images), "train").metadata_fingerprint
    shutil.copytree(images, tmp_path / "copy")
    assert open_images(tree(tmp_path / "copy"), "train").metadata_fingerprint == first
    (tmp_path / "copy" / "train" / "class0" / "000.png").unlink()
    assert open_images(tree(tmp_path / "copy"), "train").metadata_fingerprint != first


def test_the_content_s_fingerprint_sees_other_pictures_of_the_same_names(images: Path, tmp_path: Path) -> None:
    first = open_images(tree(images), "train")
    shutil.copytree(images, tmp_path / "copy")
    copy = open_images(tree(tmp_path / "copy"), "train")
    assert copy.sampled_fingerprint == first.sampled_fingerprint
    shutil.copy(first.names[1], copy.names[0])
    assert (
        copy.sampled_fingerprint != first.sampled_fingerprint
        and copy.metadata_fingerprint == first.metadata_fingerprint
    )


def test_a_file_name_that_is_no_utf_8_has_a_fingerprint(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "copy")
    for split in ("train", "val"):
        folder = tmp_path / "copy" / split / "class0"
        os.rename(folder / "000.png", os.fsencode(folder) + b"/caf\xe9.png")
        os.rename(folder, os.fsencode(folder.parent) + b"/\xe9t\xe9")
    train, _ = open_splits(tree(tmp_path / "copy"))
    assert len(train) == 64 and train.sampled_fingerprint.startswith(train.metadata_fingerprint)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"std": [0.0, 0.2, 0.2]}, "augment.std"), ({"std": [0.2]}, "augment.std"),
        ({"mean": [0.5, 0.5]}, "augment.mean"),
        # Of pixels from 0 to 255.
        ({"mean": [123.675, 116.28, 103.53]}, "augment.mean"), ({"std": [58.4, 57.1, 57.4]}, "augment.std"),
        ({"blur_sigma": [2.0, 0.1]}, "augment.blur_sigma"),
        ({"second": {"std": [0.0, 0.0, 0.0]}}, "augment.second.std"), ({"second": {"size": 32}}, "augment.second.size"),
        ({"jitter": [1.0, 1.0, 1.0, 0.6]}, "augment.jitter"), ({"blur_kernel": 2.0}, "augment.blur_kernel"),
    ],
)  # fmt: skip
def test_views_that_cannot_be_made_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_values(AugmentConfig(name="test", **wrong), "augment.")


def test_gray_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for mode, name in (("L", "0.png"), ("RGBA", "1.png"), ("P", "2.png"), ("I;16", "3.png"), ("CMYK", "4.jpg")):
            Image.new(mode, (9, 7)).save(tmp_path / split / "a" / name)
    found = open_images(tree(tmp_path), "train")
    assert [found.decode_rgb(i).mode for i in range(5)] == ["RGB"] * 5


def store(values: Any, file: Path, **how: Any) -> Any:
    Image.fromarray(values).save(file, **how)
    name, label = [str(file)], [0]
    images = Images("test", "train", name, label, ["x"], lambda i: file.read_bytes())
    assert numpy.array_equal(numpy.asarray(images.decode_rgb(0)), images.open_lazily(0).to_rgb_array()), (
        "both pipelines see the same"
    )
    return numpy.asarray(images.decode_rgb(0))


@pytest.mark.parametrize(
    ("kind", "white", "suffix"),
    [("u2", 65535, "png"), ("u2", 65535, "tif"), (">u2", 65535, "tif"), ("i4", 2**31 - 1, "tif"), ("f4", 1, "tif")],
)
def test_values_of_more_than_8_bits_keep_their_order(kind: str, white: int, suffix: str, tmp_path: Path) -> None:
    ramp = numpy.linspace(0, 1, 48).reshape(6, 8)
    found = store((ramp * white).astype(kind), tmp_path / f"x.{suffix}")
    assert found.shape == (6, 8, 3) and abs(found - 255 * ramp[..., None]).max() <= 1


def test_unsigned_32_bits_reach_white(tmp_path: Path) -> None:
    # Pillow writes none; OpenCV does.
    cv2.imwrite(str(tmp_path / "x.tif"), numpy.array([[0, 2**31, 2**32 - 1]], numpy.uint32))
    images = Images("test", "train", ["x"], [0], ["x"], lambda i: (tmp_path / "x.tif").read_bytes())
    assert numpy.asarray(images.decode_rgb(0))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (numpy.float32([[0, 255]]), "its floats are 0 to 255"), (numpy.float32([[0, numpy.nan]]), "its floats are nan"),
        (numpy.float32([[-1, 1]]), "its floats are -1 to 1"), (numpy.int32([[0, 4095]]), "0 to 4095 in 32 bits"),
        (numpy.int32([[-5, 2**30]]), "its values are -5"), (numpy.uint16([[0, 255]]), "0 to 255 in 16 bits"),
    ],
)  # fmt: skip
def test_values_whose_white_nothing_tells_are_refused(values: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenImage, match=f"{said}.*; store it with 8 bits, or add data.skip_broken=true") as caught:
        store(values, tmp_path / "x.tif")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_image_s_place_is_taken_by_the_next_whole_one(cached: bool, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "copy")
    bad = tmp_path / "copy" / "train" / "class0" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    found = open_images(tree(tmp_path / "copy"), "train")
    if cached:
        with pytest.raises(BrokenImage, match=r"003\.png"):
            found.decode_into_memory(skip_broken=False)
        assert found.decode_into_memory(skip_broken=True) == [str(bad)]
    views = Views(found, build_view_transforms(RECIPE.for_views(2)), 0, skip_broken=True)
    sample = views[0, 3]
    assert sample[2] == [str(bad)] and sample[1] == 0
    assert isinstance(Views(found, build_view_transforms(RECIPE.for_views(2)), 0, skip_broken=False)[0, 3], BrokenImage)


def make_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> numpy.ndarray:
    """Write 10 + 10 random images as the archive of CIFAR-10 unpacks, with checksums of their own."""
    chance = numpy.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = chance.integers(0, 256, (20, 3072), dtype=numpy.uint8)
    parts = {"train": [("data_batch_1", pixels[:10])], "test": [("test_batch", pixels[10:])]}
    sums: dict[str, list[list[str]]] = {}
    for split, files in parts.items():
        for name, data in files:
            content = pickle.dumps({"data": data, "labels": [i % 10 for i in range(len(data))]})
            (folder / name).write_bytes(content)
            sums.setdefault(split, []).append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", sums["train"])
    monkeypatch.setattr(CIFAR10, "test_list", sums["test"])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    return pixels.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar_as_torchvision_unpacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = make_cifar(tmp_path, monkeypatch)
    config = DataConfig(name="cifar10", layout="cifar10", root=str(tmp_path))
    train, val = (open_images(config, split) for split in ("train", "val"))
    assert (len(train), len(val), list(train.labels), len(train.classes)) == (10, 10, list(range(10)), 10)
    assert numpy.array_equal(numpy.asarray(train.decode_rgb(3)), pixels[3])
    assert numpy.array_equal(numpy.asarray(val.decode_rgb(9)), pixels[19])
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"evil")
    with pytest.raises(UserError, match=r"cifar-10-batches-py/ is missing in it or damaged"):
        open_images(config, "val")


def make_shards(images: Path, root: Path, split: str) -> None:
    """Two shards that hold an image tree, every second image each."""
    (root / split).mkdir(parents=True)
    samples = ImageFolder(str(images / split)).samples
    for number in (0, 1):
        with tarfile.open(root / split / f"{number:06d}.tar", "w") as tar:
            for i, (path, label) in list(enumerate(samples))[number::2]:
                for name, content in ((f"{i:05d}.png", Path(path).read_bytes()), (f"{i:05d}.cls", b"%d" % label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def test_shards_hold_what_the_folder_holds(images: Path, tmp_path: Path) -> None:
    make_shards(images, tmp_path, "val")
    config = DataConfig(name="test", layout="shards", root=str(tmp_path))
    shards, folder = open_images(config, "val"), open_images(tree(images), "val")
    key = {int(name.rpartition(":")[2]): place for place, name in enumerate(shards.names)}
    assert sorted(key) == list(range(32))
    for i in range(32):
        assert shards.labels[key[i]] == folder.labels[i]
        assert numpy.array_equal(numpy.asarray(shards.decode_rgb(key[i])), numpy.asarray(folder.decode_rgb(i)))


def test_shards_at_fault_are_named(images: Path, tmp_path: Path) -> None:
    config = DataConfig(name="test", layout="shards", root=str(tmp_path))
    with pytest.raises(UserError, match=r"val: no \*\.tar shards"):
        open_images(config, "val")
    make_shards(images, tmp_path, "val")
    shard = tmp_path / "val" / "000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match=r"000000\.tar: not a readable, uncompressed tar"):
        open_images(config, "val")
    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("7.png"))
    with pytest.raises(UserError, match=r"000000\.tar:7: lacks its \.cls, which other samples have"):
        open_images(config, "val")
    for names, said in (
        (["7.cls"], "sample '7' lacks its image"), (["7.png", "7.jpg", "7.cls"], "sample '7' has two images"),
        (["7.png", "7.cls"], "class 0 has no images; number the classes from 0 without gaps"),
    ):  # fmt: skip
        with tarfile.open(shard, "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 12 * name.endswith(".cls")
                tar.addfile(member, io.BytesIO(b"999999999999"))
        (tmp_path / "val/000001.tar").unlink(missing_ok=True)
        with pytest.raises(UserError, match=said):
            open_images(config, "val")
    shard.write_bytes(whole)
    assert len(open_images(config, "val")) == 16


def test_shards_without_labels_serve_for_pre_training_alone(images: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train/0.tar", "w") as tar:
        tar.add(images / "train/class0", "a")
    found = open_images(DataConfig(name="test", layout="shards", root=str(tmp_path)), "train")
    assert found.format_summary() == "test train: 16 images, without classes" and set(found.labels) == {0}


def make_parquet(images: Path, root: Path, split: str, files: int = 2, rows: int = 5) -> None:
    """Files that hold an image tree as Hugging Face `datasets` writes it, with small row groups."""
    from pyarrow import int64, parquet, table
    from pyarrow import schema as make_schema
    from pyarrow import struct as make_struct

    samples = ImageFolder(str(images / split)).samples
    classes = ImageFolder(str(images / split)).classes
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    kind = make_struct([("bytes", "binary"), ("path", "string")])
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    for number in range(files):
        chosen = samples[number::files]
        columns = {
            "image": [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path, _ in chosen],
            "label": [label for _, label in chosen],
        }
        content = table(columns, schema=make_schema([("image", kind), ("label", int64())], metadata=notes))
        # `datasets` calls the second split so.
        name = {"val": "validation"}.get(split, split)
        parquet.write_table(content, root / f"{name}-{number:05d}-of-{files:05d}.parquet", row_group_size=rows)


def test_parquet_holds_what_the_folder_holds(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    make_parquet(images, tmp_path, "val")
    config = DataConfig(name="test", layout="parquet", root=str(tmp_path))
    found, folder = open_images(config, "val"), open_images(tree(images), "val")
    assert found.classes == folder.classes and found.format_summary() == folder.format_summary()
    # In any order, as a shuffled epoch reads them: row i of file j is image 2 * i + j.
    for i in random.Random(0).sample(range(32), 32):
        place = i // 2 + 16 * (i % 2)
        assert found.labels[place] == folder.labels[i]
        assert found.names[place].endswith(f":{i // 2}:{Path(folder.names[i]).name}")
        assert numpy.array_equal(numpy.asarray(found.decode_rgb(place)), numpy.asarray(folder.decode_rgb(i)))


def test_parquet_is_read_a_row_group_at_a_time(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    make_parquet(images, tmp_path, "val", files=1, rows=4)
    found = open_images(DataConfig(name="test", layout="parquet", root=str(tmp_path)), "val")
    read, groups = parquet.ParquetFile.read_row_groups, []
    monkeypatch.setattr(
        parquet.ParquetFile, "read_row_groups", lambda self, i, *a, **k: groups.extend(i) or read(self, i, *a, **k)
    )
    for i in range(len(found)):
        found.decode_rgb(i)
    assert groups == list(range(8)), "in order, each once"
    found.decode_rgb(0)
    assert groups == [*range(8), 0], "what was read is not all kept"


def test_parquet_in_loading_processes_and_a_broken_image_in_it(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    shutil.copytree(images, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "class0" / "003.png").write_bytes(b"no image")
    make_parquet(tmp_path / "copy", tmp_path, "train")
    found = open_images(DataConfig(name="test", layout="parquet", root=str(tmp_path)), "train")
    bad = found.names[32 + 1]
    assert bad == f"{tmp_path / 'train-00001-of-00002.parquet'}:1:003.png"
    with pytest.raises(BrokenImage, match=r"00002\.parquet:1:003\.png: not a readable image"):
        found.decode_rgb(33)
    epochs = []
    for workers in (0, 2):
        views = Views(found, build_view_transforms(RECIPE.for_views(2)), 0, skip_broken=True)
        epochs.append(list(iterate_batches(views, StepSampler(len(found), 16, 0, steps=range(4)), workers)))
    assert same(*epochs)
    assert {name for batch in epochs[1] for names in batch.broken for name in names} == {bad}


def test_parquet_at_fault_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    config = DataConfig(name="test", layout="parquet", root=str(tmp_path))

    def said() -> str:
        with pytest.raises(UserError) as caught:
            open_images(config, "val")
        return str(caught.value)

    assert "no val*.parquet in it" in said()
    file = tmp_path / "val.parquet"
    file.write_bytes(b"no such thing" * 100)
    assert f"{file}: not a readable parquet file" in said()
    image = pyarrow.array([{"bytes": b"", "path": "a.png"}])
    parquet.write_table(pyarrow.table({"picture": image, "label": [0]}), file)
    assert "its columns are picture, label; it must have image, and label for classes" in said()
    parquet.write_table(pyarrow.table({"image": [b""], "label": [0]}), file)
    assert "column image is binary; it must be struct<bytes, path>" in said()
    parquet.write_table(pyarrow.table({"image": image, "label": [-1]}), file)
    assert f"{file}:0:a.png: its label -1 is no class number" in said()
    # As many classes as the largest number says would fill the memory.
    parquet.write_table(pyarrow.table({"image": image, "label": [2**40]}), file)
    assert "class 0 has no images; number the classes from 0 without gaps" in said()
    for notes in ("{", "[]"):
        table = pyarrow.table({"image": image, "label": [0]}).replace_schema_metadata({"huggingface": notes})
        parquet.write_table(table, file)
        assert f"{file}: its schema's metadata is damaged" in said()
    empty = pyarrow.array([{"bytes": None, "path": "elsewhere/a.png"}], image.type)
    parquet.write_table(pyarrow.table({"image": empty, "label": [0]}), file)
    with pytest.raises(BrokenImage, match="names a file on the machine that wrote it; store the images' bytes"):
        open_images(config, "val").decode_rgb(0)
    parquet.write_table(pyarrow.table({"image": image, "label": [0]}), file)
    assert open_images(config, "val").classes == ["0"]
    parquet.write_table(pyarrow.table({"image": image, "label": ["cat"]}), file)
    assert open_images(config, "val").classes == ["cat"]
    make_parquet(images, tmp_path, "val")
    part = tmp_path / "validation-00000-of-00002.parquet"
    content = part.read_bytes()
    part.unlink()
    assert f"{part}: missing, 1 of 2 parts are there; fetch the others" in said()
    part.write_bytes(content)
    assert "other class names than in val.parquet" in said()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "data.layout=parquet: needs the package pyarrow; pip install pyarrow" in said()


def test_a_folder_of_save_to_disk_holds_what_the_folder_holds(images: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    make_parquet(images, tmp_path, "val")
    (tmp_path / "validation").mkdir()
    for number, file in enumerate(sorted(tmp_path.glob("*.parquet"))):
        table = parquet.read_table(file)
        with pyarrow.ipc.new_stream(tmp_path / f"validation/data-{number:05d}-of-00002.arrow", table.schema) as stream:
            stream.write_table(table, max_chunksize=5)
    saved = DataConfig(name="test", layout="arrow", root=str(tmp_path))
    found = open_images(saved, "val")
    expected = open_images(DataConfig(name="test", layout="parquet", root=str(tmp_path)), "val")
    assert found.format_summary() == expected.format_summary() and found.labels == expected.labels
    assert [name.rpartition(":")[2] for name in found.names] == [name.rpartition(":")[2] for name in expected.names]
    assert [images.sampled_fingerprint[-16:] for images in (found, expected)] == [found.sampled_fingerprint[-16:]] * 2
    with pytest.raises(UserError, match=r"no train/data-\*\.arrow in it, but validation"):
        open_images(saved, "train")
    # A data set without splits and classes serves for pre-training.
    plain = pyarrow.table({"image": table["image"]})
    with pyarrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", plain.schema) as stream:
        stream.write_table(plain)
    assert open_images(saved, "train").format_summary() == "test train: 16 images, without classes"
    with pyarrow.ipc.new_file(tmp_path / "data-00000-of-00001.arrow", plain.schema) as file:
        file.write_table(plain)
    assert open_images(saved, "train").decode_rgb(15).mode == "RGB"
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"no such thing" * 100)
    with pytest.raises(UserError, match="not a readable arrow file"):
        open_images(saved, "train")


def test_splits_whose_classes_differ_are_refused(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path, dirs_exist_ok=True)
    assert [len(part) for part in open_splits(tree(tmp_path))] == [64, 32]
    # Without this class the numbers of those behind it would mean others than in training.
    shutil.rmtree(tmp_path / "val" / "class1")
    with pytest.raises(UserError, match=r"train and val differ in their classes \(class1\)"):
        open_splits(tree(tmp_path))

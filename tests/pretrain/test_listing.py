"""Which files are images, where they may lie, and which classes they have."""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from pretrain.config import DataConfig
from pretrain.data import Images, open_images, open_splits
from pretrain.data.image_files import list_images
from runs.errors import BrokenImage, UserError


def data(root: Path, layout: str = "folder") -> DataConfig:
    return DataConfig(name="test", layout=layout, root=str(root))


def same(found: Images, expected: Images) -> bool:
    pixels = (numpy.array_equal(found.decode_rgb(i), expected.decode_rgb(i)) for i in range(len(expected)))
    names = [[Path(name).name for name in images.names] for images in (found, expected)]
    return names[0] == names[1] and found.labels == expected.labels and all(pixels)


def test_what_is_no_image_is_counted_and_said(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path, dirs_exist_ok=True)
    folder, picture = tmp_path / "train/class1", (tmp_path / "train/class1/000.png").read_bytes()
    for system in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        for place in (tmp_path / "train", folder):
            (place / system).mkdir()
            (place / system / "000-checkpoint.png").write_bytes(picture)
    (folder / "._000.png").write_bytes(b"fork")
    (folder / "notes.txt").write_text("seen")
    (folder / "LICENSE").write_text("none")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    for number, target in enumerate((".", "../..", "../../val", "../class2")):
        (folder / f"link{number}").symlink_to(target)
    (folder / "twice.png").symlink_to("../class2/000.png")
    os.mkfifo(folder / "pipe.png")
    found = open_images(data(tmp_path), "train")
    assert same(found, open_images(data(images), "train"))
    assert found.format_summary() == (
        "test train: 64 images, 4 classes, 16 a class; left out: 7 hidden or of the system, 5 links back "
        "into the data, 2 dead links, 1 .txt, 1 pipes, sockets or devices, 1 without suffix"
    )
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(UserError, match=r"train/empty: a class without images"):
        open_images(data(tmp_path), "train")


def test_images_by_other_names_and_by_links_from_elsewhere(images: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a.JFIF", "b.gif", "c", "d.jpe", "deep/e.PNG")):
        for split in ("train", "val"):
            file = tmp_path / split / "x" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 40 * number).save(file, ("JPEG", "GIF", "PNG", "JPEG", "PNG")[number])
    # As subsets of ImageNet are often made, and as the hub's cache keeps files.
    (tmp_path / "train/y").symlink_to(images / "train/class0")
    (tmp_path / "train/z").mkdir()
    (tmp_path / "train/z/0.png").symlink_to(images / "train/class1/000.png")
    found = open_images(data(tmp_path), "train")
    assert [found.labels.count(number) for number in range(3)] == [5, 16, 1] and not found.left_out
    reference = ImageFolder(str(tmp_path / "train"), is_valid_file=lambda file: True)
    assert [*zip(found.names, found.labels, strict=True)] == reference.samples
    assert [numpy.asarray(found.decode_rgb(i)).max() // 38 for i in range(5)] == [0, 1, 2, 3, 4]


def pack_zip(root: Path, file: Path, top: str = "") -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, top + str(path.relative_to(root)))


def pack_tar(root: Path, file: Path, top: str = "") -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(root, top or ".")


@pytest.mark.parametrize(("pack", "suffix"), [(pack_zip, "zip"), (pack_tar, "tar")])
def test_an_archive_is_a_folder(pack: Callable[..., None], suffix: str, images: Path, tmp_path: Path) -> None:
    expected = open_images(data(images), "train")
    whole, folders = tmp_path / f"whole.{suffix}", tmp_path / "folders"
    pack(images, whole)
    assert same(open_images(data(whole), "train"), expected)
    pack(images, whole, "anything/")
    assert same(open_images(data(whole), "train"), expected)
    folders.mkdir()
    pack(images / "train", folders / f"train.{suffix}", "train/")
    pack(images / "val", folders / f"val.{suffix}")
    found = open_splits(data(folders))
    assert same(found[0], expected) and len(found[1]) == 32
    assert found[0].names[0] == f"{folders}/train.{suffix}:class0/000.png"
    content = (folders / f"train.{suffix}").read_bytes()
    (folders / f"train.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"train\.{suffix}: not a readable zip or uncompressed tar"):
        open_images(data(folders), "train")


def test_a_damaged_member_of_a_zip_is_a_broken_image(images: Path, tmp_path: Path) -> None:
    pack_zip(images, tmp_path / "x.zip")
    found = open_images(data(tmp_path / "x.zip"), "val")
    [entry] = [e for e in zipfile.ZipFile(tmp_path / "x.zip").infolist() if e.filename == "val/class0/000.png"]
    with open(tmp_path / "x.zip", "r+b") as file:
        file.seek(entry.header_offset + 200)
        file.write(b"\0" * 20)
    with pytest.raises(UserError, match=r"x\.zip:class0/000\.png"):
        found.decode_rgb(0)
    assert found.decode_rgb(1)


def ilsvrc(images: Path, root: Path) -> None:
    """The archives as ILSVRC publishes them: a tar of the classes' tars, and one of all validation images."""
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for folder in sorted((images / "train").iterdir()):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.add(file, file.name)
            member = tarfile.TarInfo(f"{folder.name}.tar")
            member.size = len(inner.getvalue())
            outer.addfile(member, io.BytesIO(inner.getvalue()))
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number, file in enumerate(sorted((images / "val").rglob("*.png")), start=1):
            archive.add(file, f"ILSVRC2012_val_{number:08d}.JPEG")


def devkit(file: Path, classes: list[str], images: int) -> None:
    """Class numbers against the order of the names, and an inner node of the tree, as the kit has them."""
    from scipy.io import savemat

    kind = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4")]
    rows = [(len(classes) - i, name, 0) for i, name in enumerate(classes)] + [(len(classes) + 1, "n00", 2)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": numpy.array(rows, kind)})
    each = images // len(classes)
    truth = "".join(f"{len(classes) - number // each}\n" for number in range(images)).encode()
    with tarfile.open(file, "w:gz") as archive:
        for name, content in (("meta.mat", meta.getvalue()), ("ILSVRC2012_validation_ground_truth.txt", truth)):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_ilsvrc_s_archives_as_they_are(images: Path, tmp_path: Path) -> None:
    root = tmp_path / "ilsvrc"
    ilsvrc(images, root)
    with pytest.raises(
        UserError, match=r"val has no classes; .* LOC_val_solution\.csv, ILSVRC2012_devkit_t12\.tar\.gz"
    ):
        open_splits(data(root))
    train, val = open_images(data(images), "train"), open_images(data(images), "val")
    devkit(root / "ILSVRC2012_devkit_t12.tar.gz", list(train.classes), len(val))
    found = open_splits(data(root))
    assert same(found[0], train)
    assert found[1].labels == val.labels and found[1].classes == val.classes
    assert all(numpy.array_equal(found[1].decode_rgb(i), val.decode_rgb(i)) for i in range(len(val)))
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz") as archive:
        archive.extractall(root, filter="data")
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert open_images(data(root), "val").labels == val.labels
    (root / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"ground_truth\.txt: damaged"):
        open_images(data(root), "val")


@pytest.mark.parametrize("kind", ["kaggle", "tiny_imagenet"])
def test_classes_of_a_flat_folder_by_a_file(kind: str, images: Path, tmp_path: Path) -> None:
    expected = open_images(data(images), "val")
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    shutil.copytree(images / "train", root / "train")
    flat = root / "val" if kind == "kaggle" else root / "val/images"
    flat.mkdir(parents=True)
    rows = []
    for number, (name, label) in enumerate(zip(expected.names, expected.labels, strict=True)):
        shutil.copy(name, flat / f"v{number:03d}.png")
        rows.append((f"v{number:03d}", expected.classes[label]))
    if kind == "kaggle":
        # As spreadsheets and other people's scripts write it: a byte order mark, file names in place of ids.
        ids = [stem + ".png" * (number % 2) for number, (stem, _) in enumerate(rows)]
        lines = [f"{stem},{name} 1 2 3 4 \r\n" for stem, (_, name) in zip(ids, rows, strict=True)]
        text = "\ufeffImageId,PredictionString\r\n" + "".join(reversed(lines))
        (tmp_path / "LOC_val_solution.csv").write_text(text, encoding="utf-8")
    else:
        text = "".join(f"{stem}.png\t{name}\t0\t0\t62\t62\n" for stem, name in rows[1:])
        (root / "val/val_annotations.txt").write_text(text + "\n{}.png {} 0 0 62 62\n".format(*rows[0]))
    _, found = open_splits(data(root))
    assert found.labels == expected.labels and found.classes == expected.classes
    Image.new("L", (8, 8)).save(flat / "zz.png")
    assert "1 without a class in val's labels" in open_images(data(root), "val").left_out


def test_images_without_classes_serve_for_pre_training_alone(images: Path, tmp_path: Path) -> None:
    for place in (images / "train/class0", images / "train"):
        found = open_images(data(place), "train")
        assert found.format_summary() == f"test train: {len(found)} images, without classes" and set(found.labels) == {
            0
        }
        with pytest.raises(UserError, match="no val in it"):
            open_splits(data(place))
    pack_zip(images / "train/class0", tmp_path / "photos.zip")
    assert len(open_images(data(tmp_path / "photos.zip"), "train")) == 16
    with pytest.raises(UserError, match="no images in it"):
        (tmp_path / "nothing").mkdir()
        open_images(data(tmp_path / "nothing"), "train")
    shutil.copytree(images / "train", tmp_path / "upper/half/train")
    with pytest.raises(
        UserError, match=r"no train in it, but half/train; it must hold .*; or give the folder of the tr"
    ):
        open_images(data(tmp_path / "upper"), "train")
    with pytest.raises(UserError, match=r"no val in it; .*monitor\.knn_every=0 pre-trains without val"):
        open_splits(data(tmp_path / "upper/half"))


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        (("Train", "Val"), "train", "no train in it, but Train, Val; it must hold"),
        (("training", "testing"), "train", "no train in it, but testing, training; it must"),
        (("train.tar.gz", "val.tar.gz"), "train", r"no train in it, but train\.tar\.gz, val\.tar\.gz; it"),
        (("train", "test"), "val", "no val in it, but test; it must hold"),
        (
            ("in/train2017", "in/val2017"),
            "train",
            "no train in it, but in/train2017, in/val2017; it must hold",
        ),
        (("data_large", "val_large"), "train", "no train in it, but val_large; it must hold"),
        (("my-train", "my-val"), "train", "no train in it, but my-train, my-val; it must hold"),
        (("tench", "test"), "train", "no train in it, but test; .* alone; classes called like a split go into"),
        (("tench", "imagenet-val"), "train", "no train in it, but imagenet-val; it must hold"),
    ],
)
def test_validation_images_are_not_trained_on_because_of_a_name(
    names: tuple[str, str], split: str, said: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name / "a").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "a/0.png")
    with pytest.raises(UserError, match=said):
        open_images(data(tmp_path), split)
    if names == ("tench", "test"):
        (tmp_path / "train").mkdir()
        for name in names:
            (tmp_path / name).rename(tmp_path / "train" / name)
        assert list(open_images(data(tmp_path), split).classes) == ["tench", "test"]


@pytest.mark.parametrize(
    "names",
    [
        ("COCO_train2014_000000000000.jpg", "COCO_val2014_000000000042.jpg"), ("ILSVRC2012_val_00000001.JPEG",),
        ("0.png", "test.txt", "train_list.txt", "val.csv"), ("test.png", "val.png"), ("cat/0.png", "val_large.tar.gz"),
        ("bullet_train/0.png", "train_station/0.png", "test_tube/0.png", "tench/0.png"),
        ("Bus/0.png", "Train/0.png"), ("a/bullet_train/0.png", "b/train2.jpg"),
    ],
)  # fmt: skip
def test_names_of_files_and_of_classes_are_no_splits(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    (tmp_path / "test").symlink_to("test")
    with pytest.raises(UserError, match="no val in it; it must hold"):
        open_images(data(tmp_path), "val")
    pictures = [name for name in names if not name.endswith((".txt", ".csv", ".gz"))]
    assert len(open_images(data(tmp_path), "train")) == len(pictures)


def test_validation_may_be_called_so_and_is_not_train_itself(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / name / "a").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "a/0.png")
    assert [images.names[0].split("/")[-3] for images in open_splits(data(tmp_path))] == ["train", "validation"]
    shutil.rmtree(tmp_path / "validation")
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(UserError, match="train and val are one folder; give val images of its own"):
        open_splits(data(tmp_path))


def test_a_class_called_train_says_what_lies_beside_it_and_accents_are_one_class(tmp_path: Path) -> None:
    for folder in ("bus", "train", "set/train/cafe\u0301", "set/val/caf\u00e9"):  # as macOS writes it, as others do
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / folder / "0.png")
    assert (
        open_images(data(tmp_path), "train").format_summary().endswith("without classes; left out: 2 folders beside it")
    )
    assert [images.classes for images in open_splits(data(tmp_path / "set"))] == [["caf\u00e9"]] * 2


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    """As `tar --update` leaves them, and as unpacking would."""
    for color, mode in ((10, "w"), (200, "a")):
        Image.new("L", (8, 8), color).save(tmp_path / "0.png")
        with tarfile.open(tmp_path / "train.tar", mode) as archive:
            archive.add(tmp_path / "0.png", "a/0.png")
    (tmp_path / "0.png").unlink()
    found = open_images(data(tmp_path), "train")
    assert len(found) == 1 and found.decode_rgb(0).getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run git lfs pull, or add data"),
        (b"<html>", "not a readable image; delete it, or add data"), (None, "has more pixels than Pillow reads"),
    ],
)  # fmt: skip
def test_why_an_image_is_not_read(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    if content:
        (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(BrokenImage, match=said):
        open_images(data(tmp_path), "train").decode_rgb(0)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.7z", "nowhere"])
def test_a_place_that_cannot_be_listed_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name}: no such folder, zip or uncompressed tar; it must"):
        open_images(data(tmp_path / name), "train")


def test_a_webdataset_shard_is_not_taken_for_a_class(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train/000000.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("0.cls"))
    with pytest.raises(UserError, match="a WebDataset shard; read it with data=webdataset"):
        open_images(data(tmp_path), "train")


def test_the_order_is_image_folder_s_whatever_the_names(tmp_path: Path) -> None:
    for name in ("a/x.png", "a-b/0.png", "a/sub/1.png", "a/sub-2/0.png", "a/Z.png"):
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "c" / name)
    assert [file.file for file in list_images(tmp_path).files] == [
        name for name, _ in ImageFolder(str(tmp_path)).samples
    ]

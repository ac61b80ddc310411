"""Splits are read as Detectron2 reads them, and whatever is wrong with them is one line that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances

from runs.errors import UserError
from tests.transfer.conftest import CLASSES
from transfer.check_data import CheckConfig, check_data
from transfer.loader import GroupedBatchSampler
from transfer.read_splits import find_split_names, read_joined_splits, read_split_and_faults
from transfer.settings import DataFolder


def test_voc_is_read_as_detectron2_reads_it(generated: Path) -> None:
    split = read_joined_splits(str(generated), ["voc_2007_trainval", "voc_2012_train"], CLASSES)
    theirs = load_voc_instances(str(generated / "VOC2007"), "trainval", CLASSES)
    theirs += load_voc_instances(str(generated / "VOC2012"), "train", CLASSES)
    for image in split.images:
        for annotation in image["annotations"]:
            assert annotation.pop("difficult") in (0, 1)
    assert split.images == [{**image, "image_id": str(image["image_id"])} for image in theirs]


def test_coco_is_read_as_detectron2_reads_it(generated: Path) -> None:
    split = read_joined_splits(str(generated), ["coco_2017_train"], [])
    file, folder = generated / "coco/annotations/instances_train2017.json", generated / "coco/train2017"
    for image in split.images:
        for annotation in image["annotations"]:
            assert annotation.pop("area") > 0
    assert split.images == load_coco_json(str(file), str(folder), "generated_coco_for_comparison")
    assert split.classes == CLASSES


@pytest.mark.shared
def test_real_splits_pass(shared: Path) -> None:
    from transfer.settings import VOC_CLASSES

    assert len(read_joined_splits(str(shared / "data"), ["voc_2007_train"], VOC_CLASSES).images) == 700
    coco = read_joined_splits(str(shared / "data"), ["coco_2017_val"], [])
    # COCO's ids have gaps: 1 to 90 for 80 classes.
    assert (len(coco.images), coco.classes[0], coco.classes[79], len(coco.classes)) == (158, "person", "toothbrush", 80)


def test_the_fingerprint_sees_every_label(generated: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(generated, tmp_path / "copy")
    before = read_joined_splits(str(generated), ["voc_2007_test"], CLASSES).dataset_record.fingerprint
    assert read_joined_splits(str(copy), ["voc_2007_test"], CLASSES).dataset_record.fingerprint == before
    xml = next(p for p in sorted((copy / "VOC2007/Annotations").iterdir()) if is_in_test(copy, p.stem))
    text = xml.read_text()
    name = text.split("<name>")[1].split("<")[0]
    xml.write_text(text.replace(f"<name>{name}<", f"<name>{next(c for c in CLASSES if c != name)}<", 1))
    assert read_joined_splits(str(copy), ["voc_2007_test"], CLASSES).dataset_record.fingerprint != before


def is_in_test(root: Path, image_id: str) -> bool:
    return image_id in (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()


def edit_xml(root: Path, old: str, new: str) -> Path:
    ids = (root / "VOC2007/ImageSets/Main/trainval.txt").read_text().split()
    for path in (root / f"VOC2007/Annotations/{i}.xml" for i in ids):
        if old in path.read_text():
            path.write_text(path.read_text().replace(old, new, 1))
            return path
    raise AssertionError(old)


def edit_coco(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = root / "coco/annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def first_image(root: Path) -> Path:
    return root / "VOC2007/JPEGImages" / f"{(root / 'VOC2007/ImageSets/Main/trainval.txt').read_text().split()[0]}.jpg"


def box_outside(root: Path) -> Path:
    return edit_xml(root, "<xmax>", "<xmax>9")


def unknown_class(root: Path) -> Path:
    return edit_xml(root, "<name>", "<name>un")


def no_size(root: Path) -> Path:
    return edit_xml(root, "<width>", "<wide>").with_suffix(".xml")


def torn_xml(root: Path) -> Path:
    return edit_xml(root, "</annotation>", "")


def missing_image(root: Path) -> Path:
    path = first_image(root)
    path.unlink()
    return path


def not_an_image(root: Path) -> Path:
    path = first_image(root)
    path.write_text("no image")
    return path


def missing_annotation(root: Path) -> Path:
    path = root / "VOC2007/Annotations" / f"{first_image(root).stem}.xml"
    path.unlink()
    return path


def missing_split(root: Path) -> Path:
    path = root / "VOC2007/ImageSets/Main/trainval.txt"
    path.unlink()
    return path


def empty_split(root: Path) -> Path:
    path = root / "VOC2007/ImageSets/Main/trainval.txt"
    path.write_text("\n")
    return path


def another_size(root: Path) -> Path:
    from PIL import Image

    path = first_image(root)
    Image.new("RGB", (200, 200)).save(path)
    return path


VOC_FAULTS = [
    box_outside, unknown_class, no_size, torn_xml, missing_image, not_an_image, missing_annotation, missing_split,
    empty_split, another_size,
]  # fmt: skip


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_a_voc_fault_names_its_file(generated: Path, tmp_path: Path, fault: Callable[[Path], Path]) -> None:
    root = shutil.copytree(generated, tmp_path / "data")
    path = fault(root)
    with pytest.raises(UserError) as caught:
        read_joined_splits(str(root), ["voc_2007_trainval"], CLASSES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def orphan(document: dict[str, Any]) -> None:
    document["annotations"][3]["image_id"] = 10**9


def orphan_category(document: dict[str, Any]) -> None:
    document["annotations"][3]["category_id"] = 77


def wide_box(document: dict[str, Any]) -> None:
    document["annotations"][3]["bbox"][2] = 500


def odd_polygon(document: dict[str, Any]) -> None:
    next(a for a in document["annotations"] if isinstance(a["segmentation"], list))["segmentation"][0].append(1.0)


def twice(document: dict[str, Any]) -> None:
    document["annotations"].append(document["annotations"][0])


def no_categories(document: dict[str, Any]) -> None:
    document["categories"] = []


def no_annotations(document: dict[str, Any]) -> None:
    del document["annotations"]


COCO_FAULTS = [orphan, orphan_category, wide_box, odd_polygon, twice, no_categories, no_annotations]


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_a_coco_fault_names_its_file(generated: Path, tmp_path: Path, fault: Any) -> None:
    root = shutil.copytree(generated, tmp_path / "data")
    path = edit_coco(root, fault)
    with pytest.raises(UserError) as caught:
        read_joined_splits(str(root), ["coco_2017_train"], [], require_masks=True)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_where_no_masks_are_needed_a_box_counts_without_its_wrong_polygon(generated: Path, tmp_path: Path) -> None:
    root = shutil.copytree(generated, tmp_path / "data")
    whole = read_joined_splits(str(root), ["coco_2017_train"], []).images
    edit_coco(root, odd_polygon)
    records = read_joined_splits(str(root), ["coco_2017_train"], []).images
    before, after = ([a for r in rs for a in r["annotations"]] for rs in (whole, records))
    assert [a["bbox"] for a in after] == [a["bbox"] for a in before]
    assert sum("segmentation" in a for a in after) == sum("segmentation" in a for a in before) - 1


def test_missing_roots_are_named(tmp_path: Path) -> None:
    for names in (["voc_2007_train"], ["coco_2017_train"]):
        with pytest.raises(UserError, match="no such folder"):
            read_joined_splits(str(tmp_path / "none"), names, CLASSES)
        with pytest.raises(UserError, match=r"VOC2007|coco"):
            read_joined_splits(str(tmp_path), names, CLASSES)
    with pytest.raises(UserError, match="no VOC split"):
        read_joined_splits(str(tmp_path), ["imagenet"], CLASSES)


def test_the_folder_that_was_meant_is_named(tmp_path: Path) -> None:
    """The kit unpacks to VOCdevkit/VOC2007; its parent and its child are what people give."""
    kit = tmp_path / "VOCdevkit"
    (kit / "VOC2007" / "ImageSets" / "Main").mkdir(parents=True)
    for look in (find_split_names, lambda root: read_joined_splits(str(root), ["voc_2007_train"], CLASSES)):
        with pytest.raises(UserError, match=f"did you mean data.root={kit}"):
            look(tmp_path)
        with pytest.raises(UserError, match=f"give the folder above, data.root={kit}"):
            look(kit / "VOC2007")


def faults(root: Path, name: str) -> list[str]:
    return read_split_and_faults(root, name, CLASSES, require_masks=True)[1]


def test_the_check_finds_every_fault_at_once(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(generated, tmp_path / "data")
    assert {"voc_2007_test", "voc_2012_trainval", "coco_2017_val"} <= set(find_split_names(root))
    assert all(faults(root, name) == [] for name in find_split_names(root))
    last = root / "VOC2007/JPEGImages" / f"{(root / 'VOC2007/ImageSets/Main/trainval.txt').read_text().split()[-1]}.jpg"
    last.unlink()
    wrong = [box_outside(root), last]
    found = faults(root, "voc_2007_trainval")
    assert len(found) == 2 and all(any(str(path) in text for text in found) for path in wrong)
    edit_coco(root, orphan)
    edit_coco(root, wide_box)
    edit_coco(root, lambda d: d["annotations"][5].pop("bbox"))
    assert len(faults(root, "coco_2017_train")) == 2
    data = DataFolder(str(root), CLASSES)
    with pytest.raises(SystemExit):
        check_data(CheckConfig(data, ["voc_2007_trainval"], official=True, images=1, workers=1))
    *shown, count = [line for line in capsys.readouterr().out.splitlines() if "faults" in line or "wrong: " in line]
    assert "officially (5011" in shown[-1] and count == "1 images decoded, 3 faults"


def test_batches_are_detectron2s_in_one_process() -> None:
    """Against its sampler and its grouping by orientation, batch by batch."""
    from detectron2.data.common import AspectRatioGroupedDataset
    from detectron2.data.samplers import TrainingSampler

    wide = [bool(n % 3) for n in range(17)]
    images = [{"index": n, "width": 2 if w else 1, "height": 1 if w else 2} for n, w in enumerate(wide)]
    theirs = iter(AspectRatioGroupedDataset((images[i] for i in TrainingSampler(17, seed=5)), 4))
    for ours, _ in zip(GroupedBatchSampler(wide, 4, seed=5), range(30), strict=False):
        assert [index for index, _ in ours] == [image["index"] for image in next(theirs)]


@pytest.mark.parametrize("start", [0, 1, 7, 40])
def test_batches_start_anywhere(start: int) -> None:
    wide = [n % 5 == 0 for n in range(23)]
    whole = [batch for batch, _ in zip(GroupedBatchSampler(wide, 4, seed=1), range(60), strict=False)]
    part = [
        batch for batch, _ in zip(GroupedBatchSampler(wide, 4, seed=1, start=start), range(60 - start), strict=False)
    ]
    assert part == whole[start:]

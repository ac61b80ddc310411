"""Data sets and results of strangers: what is unambiguous is read, and the rest is one line that names the remedy.

Training, `transfer.check_data` and `transfer.evaluate_detections` read through the same functions, so one table stands
for all three.
"""

import contextlib
import copy
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coder

from runs.errors import UserError
from transfer.check_rle import checked_rle
from transfer.coco_annotations import read_coco_and_faults
from transfer.detections import Detections
from transfer.detectron2_config import build_cfg, set_classes_and_mask_format
from transfer.evaluate_detections import score_coco, score_voc
from transfer.image_files import checked_image_size
from transfer.read_splits import find_split_names, read_joined_splits, read_split_and_faults, read_train_and_test
from transfer.settings import DataConfig, TransferConfig
from transfer.subsets import take_subsets
from transfer.voc_annotations import read_voc_split_and_faults

WIDTH, HEIGHT = 40, 30
POLYGON = [[5, 5, 15, 5, 15, 15, 5, 15]]
DOCUMENT: dict[str, Any] = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"id": n, "image_id": i, "category_id": c, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0,
         "segmentation": POLYGON}
        for n, i, c in ((1, 1, 3), (2, 1, 7), (3, 2, 3))
    ],
}  # fmt: skip


def first(**changes: Any) -> Callable[[Any], None]:
    """A change of the first annotation; None removes a key."""

    def change(document: Any) -> None:
        for key, value in changes.items():
            document["annotations"][0][key] = value
            if value is REMOVED:
                del document["annotations"][0][key]

    return change


REMOVED = object()
MASK = {"size": [HEIGHT, WIDTH], "counts": [40, 10, 1150]}
COCO: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no area": (first(area=REMOVED), ""),
    "iscrowd null": (first(iscrowd=None), ""),
    "no iscrowd": (first(iscrowd=REMOVED), ""),
    "run lengths of an object that is no crowd": (first(segmentation=MASK), ""),
    "run lengths with a size of floats": (first(segmentation={**MASK, "size": [30.0, 40.0]}), ""),
    "width as a float": (lambda d: d["images"][0].update(width=40.0), ""),
    "no height": (lambda d: d["images"][0].pop("height"), ""),
    "an image in a subfolder": (lambda d: d["images"][0].update(file_name="./sub/1.jpg"), ""),
    "a subfolder as Windows writes it": (lambda d: d["images"][0].update(file_name="sub\\1.jpg"), ""),
    "two images with one file": (lambda d: d["images"][1].update(file_name="1.jpg"), r"1\.jpg is that of 2 images"),
    "boxes as shares of the image": (
        lambda d: [a.update(bbox=[0.1, 0.1, 0.2, 0.5]) for a in d["annotations"]], "all boxes lie within the first"
    ),
    "names as ids": (
        lambda d: (d["images"][0].update(id="a b"), [a.update(image_id="a b") for a in d["annotations"][:2]]), ""
    ),
    "keypoints beside the box": (first(keypoints=[1, 2, 2]), ""),
    "a polygon of two points": (first(segmentation=[[1, 1, 9, 9]]), "a polygon has 4 numbers; it needs three points"),
    "no polygon": (first(segmentation=[]), "annotation 1: it has no mask; .*MASK_ON=False"),
    "segmentation null": (first(segmentation=None), "it has no mask"),
    "no segmentation": (first(segmentation=REMOVED), "it has no mask"),
    "keypoints only": (first(segmentation=REMOVED, keypoints=[1, 2, 2]), "it has no mask"),
    "NaN in a polygon": (first(segmentation=[[1, 1, float("nan"), 9, 9, 9]]), "a polygon is not a list of finite"),
    "a polygon far away": (first(segmentation=[[1, 1, 1e8, 9, 9, 9]]), "a polygon lies outside its image of 40 x 30"),
    "a flat polygon": (first(segmentation=POLYGON[0]), "neither run-length coded nor a list of polygons"),
    "a polygon as a text": (first(segmentation="5 5 15 5 15 15"), "neither run-length coded nor"),
    "run lengths of another image": (first(segmentation={**MASK, "size": [40, 30]}), r"has size \[40, 30\], its image"),
    "run lengths that end early": (first(segmentation={**MASK, "counts": [1, 2]}), "do not add up to its image"),
    "negative run lengths": (first(segmentation={**MASK, "counts": [-1, 1201]}), "do not add up to its image"),
    "run lengths of letters": (first(segmentation={**MASK, "counts": "garbage" * 9999}), "do not add up"),
    "no run lengths": (first(segmentation={"size": [HEIGHT, WIDTH]}), "has no run lengths"),
    "a box of texts": (first(bbox=["5", "5", "10", "10"]), "its bbox is not a list of 4 numbers"),
    "a box of three": (first(bbox=[5, 5, 10]), "its bbox is not a list of 4 numbers"),
    "a box of NaN": (first(bbox=[5, 5, 10, float("nan")]), "its bbox is not a list of 4 numbers"),
    "no box": (first(bbox=REMOVED), "its bbox is not a list of 4 numbers"),
    "no category": (first(category_id=REMOVED), "its category_id is None; write a number or a text"),
    "an area of a text": (first(area="100"), "its area is '100'"),
    "iscrowd as a text": (first(iscrowd="no"), "its iscrowd is 'no'; write 0 or 1"),
    "ignore": (first(ignore=1), "ignore means nothing in COCO"),
    "an annotation twice": (lambda d: d["annotations"].append(d["annotations"][0]), "annotation 1: its id occurs"),
    "an image twice": (lambda d: d["images"].append(d["images"][0]), "image 1: its id occurs twice"),
    "a category twice": (lambda d: d["categories"].append(d["categories"][0]), "category 3: its id occurs twice"),
    "a name twice": (lambda d: d["categories"][1].update(name="cat"), "category name 'cat' occurs twice"),
    "half a pixel": (lambda d: d["images"][0].update(width=40.5), "its width is 40.5; write a whole number"),
    "a missing image": (lambda d: d["images"][0].update(file_name="x.jpg"), r"x\.jpg is missing"),
    "annotations that are texts": (lambda d: d.update(annotations=["a"]), "annotation '\\?': its id is None"),
    "an image's id as a list": (lambda d: d["images"].append(d["images"][1] | {"id": [2]}), r"image \[2\]: its id is"),
    "an image id as a list": (first(image_id=[1]), r"its image_id is \[1\]"),
    "no annotations": (lambda d: d.pop("annotations"), "no COCO instances file"),
    "crowds only": (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "no object counts"),
}  # fmt: skip


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A data root with one split, `coco_2017_val`."""
    (tmp_path / "coco/val2017/sub").mkdir(parents=True)
    (tmp_path / "coco/annotations").mkdir()
    for name in ("1", "2", "sub/1"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"coco/val2017/{name}.jpg")
    return tmp_path


def instances(root: Path, change: Callable[[Any], Any] = lambda _: None) -> Path:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    file = root / "coco/annotations/instances_val2017.json"
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize("case", COCO)
def test_coco_of_strangers(coco: Path, case: str) -> None:
    change, named = COCO[case]
    file = instances(coco, change)
    start = time.monotonic()
    try:
        split, faults = read_split_and_faults(coco, "coco_2017_val", [], require_masks=True)
    except UserError as error:
        faults = [str(error)]
    assert time.monotonic() - start < 5
    if not named:
        assert faults == [] and [len(image["annotations"]) for image in split.images] in ([2, 1], [1, 2])
        annotation = next(i for i in split.images if i["image_id"] in (1, "a b"))["annotations"][0]
        assert annotation["iscrowd"] == 0 and annotation["area"] in (10.0, 100)
        # Evaluation finds the same objects, and perfect detections perfect.
        document = json.loads(file.read_text())
        results = [a | {"score": 0.9, "segmentation": coded(a["segmentation"])} for a in document["annotations"]]
        if "height" in document["images"][0]:
            assert evaluated(coco, results)["segm/AP"] == pytest.approx(100)
    else:
        assert len(faults) == 1 and "\n" not in faults[0]
        assert_matches(named, faults[0])
        assert str(file) in faults[0] or "coco_2017_val" in faults[0]


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(UserError, match=pattern):
        raise UserError(text)


def coded(shape: Any) -> Any:
    if isinstance(shape, list):
        code = coder.merge(coder.frPyObjects(shape, HEIGHT, WIDTH))
        return {"size": code["size"], "counts": code["counts"].decode()}
    return shape


def evaluated(root: Path, results: Any) -> dict[str, float]:
    path = root / "results.json"
    path.write_text(results if isinstance(results, str) else json.dumps(results))
    return evaluated_file(root, path)


def evaluated_file(root: Path, path: Path) -> dict[str, float]:
    return score_coco(path, root / "coco/annotations/instances_val2017.json").metrics


def test_truth_without_sizes_serves_for_boxes(coco: Path) -> None:
    instances(coco, lambda d: [i.pop("height") for i in d["images"]])
    results = [a | {"score": 0.9, "segmentation": None} for a in DOCUMENT["annotations"]]
    assert evaluated(coco, results)["bbox/AP"] == pytest.approx(100)
    with pytest.raises(UserError, match="no height and width, which masks need"):
        evaluated(coco, [r | {"segmentation": coded(POLYGON)} for r in results])


def test_a_mask_of_pixels_is_trained_as_one(coco: Path) -> None:
    """Detectron2's polygons cannot hold it; nobody has to know INPUT.MASK_FORMAT."""
    cfg = build_cfg(TransferConfig(task="coco", weights="scratch"), None, "cpu")
    data = DataConfig(root=str(coco), held_out=0.5, seed=2)
    cfg.DATASETS.TRAIN = ("coco_2017_val",)
    instances(coco)
    set_classes_and_mask_format(cfg, take_subsets(data, *read_train_and_test(data, cfg))[0])
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    instances(coco, lambda d: d["annotations"][0].update(segmentation=MASK, iscrowd=1))
    set_classes_and_mask_format(cfg, take_subsets(data, *read_train_and_test(data, cfg))[0])
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    instances(coco, first(segmentation=MASK))
    set_classes_and_mask_format(cfg, take_subsets(data, *read_train_and_test(data, cfg))[0])
    assert cfg.INPUT.MASK_FORMAT == "bitmask"


# A change of a whole list of results -> what the line says, or the box AP.
RESULTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "as they are": (lambda r: r, 100.0),
    "masks only, with an empty box": (lambda r: [x | {"bbox": []} for x in r], None),
    "boxes of five numbers": (lambda r: [x | {"bbox": [*x["bbox"], 0]} for x in r], "0: its bbox is not a list"),
    "boxes of three numbers": (lambda r: [x | {"bbox": x["bbox"][:3]} for x in r], "its bbox is not a list of 4"),
    "boxes of texts": (lambda r: [x | {"bbox": list("5566")} for x in r], "its bbox is not a list of 4"),
    "a negative side": (lambda r: [x | {"bbox": [5, 5, -1, 5]} for x in r], "a negative side"),
    "a score of NaN": (lambda r: [*r[:-1], r[-1] | {"score": float("nan")}], "detection 2: its score is"),
    "a score of null": (lambda r: [*r[:-1], r[-1] | {"score": None}], "detection 2: its score is"),
    "a score of a text": (lambda r: [r[0] | {"score": "0.9"}], "its score is '0.9'; write"),
    "ids as texts": (lambda r: [x | {k: str(x[k]) for k in ("image_id", "category_id")} for x in r], 100.0),
    "boxes as shares of the image": (lambda r: [x | {"bbox": [0.1, 0.1, 0.2, 0.5]} for x in r], "boxes do not lie in"),
    "boxes as corners": (lambda r: [x | {"bbox": [20, 15, 40, 30]} for x in r], "boxes do not lie in their images"),
    "another image": (lambda r: [r[0] | {"image_id": 9}], "its image_id 9 is not in the annotations"),
    "an image as a list": (lambda r: [r[0] | {"image_id": [1]}], r"its image_id is \[1\]; write"),
    "another category": (lambda r: [r[0] | {"category_id": 4}], "its category_id 4 is not in"),
    "polygons": (lambda r: [x | {"segmentation": POLYGON} for x in r], "not run-length coded; write what"),
    "garbage run lengths": (
        lambda r: [x | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "o" * 10**6}} for x in r], "do not add up"
    ),
    "neither box nor mask": (lambda r: [{"image_id": 1, "category_id": 3, "score": 1}], "neither bbox nor"),
    "no objects": (lambda r: ["a"], "not a list of detections"),
    "a mapping": (lambda r: {"results": r}, "not a list of detections"),
    "no JSON": (lambda r: "[{", "not a JSON file"),
    "nested too deeply": (lambda r: "[" * 100_000, "not a JSON file"),
    "a category of true": (lambda r: [r[0] | {"category_id": True}], "its category_id is True; write"),
}  # fmt: skip


@pytest.mark.parametrize("case", RESULTS)
def test_results_of_strangers(coco: Path, case: str) -> None:
    instances(coco)
    results = [a | {"score": 0.9, "segmentation": coded(a["segmentation"])} for a in DOCUMENT["annotations"]]
    change, expected = RESULTS[case]
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            evaluated(coco, change(results))
    else:
        metrics = evaluated(coco, change(results))
        assert metrics["segm/AP"] == pytest.approx(100) and metrics.get("bbox/AP") == (expected and pytest.approx(100))


def five(document: Any, **changes: Any) -> None:
    """Five images with an object each."""
    for name, key in (("images", "id"), ("annotations", "image_id")):
        document[name] = [document[name][0] | {"id": n, key: n} for n in range(1, 6)]
    document["annotations"] = [annotation | changes for annotation in document["annotations"]]


@pytest.mark.parametrize("masks", [True, False])
def test_corners_in_place_of_sides_are_a_fault_of_the_annotations(coco: Path, masks: bool) -> None:
    """Inside their images, so that only the masks, or the areas, say so."""
    shape = {} if masks else {"segmentation": []}
    file = instances(coco, lambda document: five(document, **shape))
    assert read_coco_and_faults(file, None, require_masks=masks)[2] == []
    file = instances(coco, lambda document: five(document, bbox=[5, 5, 15, 15], **shape))
    [fault] = read_coco_and_faults(file, None, require_masks=masks)[2]
    reading = f"fit their {'masks' if masks else 'areas'} as x0, y0, x1, y1; write x, y, width, height"
    assert fault.startswith(f"{file}: its boxes {reading}")


@pytest.mark.parametrize(
    ("box", "reading"),
    [
        ([5, 5, 15, 15], "x0, y0, x1, y1"),
        ([10, 10, 10, 10], "centre x, centre y, width, height"),
        ([2, 3, 4, 6], "x, y, width, height in pixels of resized images"),
    ],
)
def test_boxes_in_another_reading_are_refused(coco: Path, box: list[int], reading: str) -> None:
    """From five images on."""
    instances(coco, five)
    results = [{"image_id": n, "category_id": 3, "score": 0.9, "bbox": box} for n in range(1, 6)]
    with pytest.raises(UserError, match=f"its boxes fit the objects as {reading}; write x, y, width, height"):
        evaluated(coco, results)
    assert evaluated(coco, results[:4])["bbox/AP50"] < 50


def test_a_poor_detectors_boxes_are_measured(coco: Path, voc: Path) -> None:
    """They fit better in a format that cannot be theirs: it puts them beyond the edge, or is of larger images."""
    instances(coco, lambda document: five(document, bbox=[0, 0, 20, 15], segmentation=[[0, 0, 20, 0, 20, 15, 0, 15]]))
    results = [{"image_id": n, "category_id": 3, "score": 0.9, "bbox": [0, 0, WIDTH, HEIGHT]} for n in range(1, 6)]
    assert evaluated(coco, results)["bbox/AP50"] == 0
    write_five(voc)
    boxes = ("10 5 29 15", "12 7 31 17", "10 5 29 15", "12 7 31 17", "12 7 31 17")
    (voc / "cat.txt").write_text("\n".join(f"{name} 0.9 {box}" for name, box in enumerate(boxes, start=1)))
    assert evaluated_voc(voc, voc, "cat")["bbox/AP50"] == 0


def found(classes: list[str], category: list[int]) -> Detections:
    """The three objects of the split, found with the class numbers of another data set."""
    return Detections(
        [1, 2], classes, np.array([0, 0, 1], np.int32), np.array(category, np.int16), np.full(3, 0.9, np.float32),
        np.array([[5, 5, 15, 15]] * 3, np.float32), np.array([[HEIGHT, WIDTH]] * 2, np.int32),
    )  # fmt: skip


def test_classes_of_detections_go_by_name(coco: Path) -> None:
    """With one more category in the file, the class numbers of a run mean other classes."""
    instances(coco, lambda d: d["categories"].insert(0, {"id": 1, "name": "ape"}))
    found(["cat", "dog"], [0, 1, 0]).save(coco / "detections.npz")
    assert evaluated_file(coco, coco / "detections.npz")["bbox/AP"] == pytest.approx(100)
    found(["cat", "horse"], [0, 1, 0]).save(coco / "detections.npz")
    with pytest.raises(UserError, match="its category_id 1 is not in the annotations"):
        evaluated_file(coco, coco / "detections.npz")


def test_a_pickle_of_another_tool_is_not_read(coco: Path) -> None:
    with pytest.raises(
        UserError, match=r"predictions\.pth: not a results JSON; Detectron2 writes coco_instances_results"
    ):
        evaluated_file(coco, coco / "instances_predictions.pth")


def test_a_test_image_that_is_trained_on_is_named(voc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same file in both splits, or a copy in another folder; neither other objects nor other pixels are one."""
    write_image(voc, "2.jpg")
    (voc / "VOC2007/Annotations/2.xml").write_text(XML)
    (voc / "VOC2007/ImageSets/Main/trainval.txt").write_text("1\n2\n")
    (voc / "VOC2007/ImageSets/Main/val.txt").write_text("2\n")
    shutil.copytree(voc / "VOC2007", voc / "VOC2012")
    train, test, val = (
        read_joined_splits(str(voc), [f"voc_{name}"], ["cat"]) for name in ("2007_val", "2007_test", "2012_val")
    )
    take_subsets(DataConfig(), train, test)
    assert not capfd.readouterr().err
    for other in (train, val):
        take_subsets(DataConfig(), train, other)
        assert re.search(
            r"warning: .* 1 of its 1 images are trained on, first .*2\.jpg; its AP", capfd.readouterr().err
        )
    (voc / "VOC2012/Annotations/2.xml").write_text(XML.replace("<ymin>2<", "<ymin>3<"))
    take_subsets(DataConfig(), train, read_joined_splits(str(voc), ["voc_2012_val"], ["cat"]))
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(voc / "VOC2012/JPEGImages/2.jpg", "PNG")
    take_subsets(DataConfig(), train, val)
    assert not capfd.readouterr().err


def test_a_detector_that_finds_nothing_has_an_ap(coco: Path) -> None:
    instances(coco)
    three = found(["cat", "dog"], [0, 1, 0])
    nothing = {name: getattr(three, name)[:0] for name in ("image", "category", "score", "box")}
    replace(three, **nothing).save(coco / "detections.npz")
    assert evaluated_file(coco, coco / "detections.npz")["bbox/AP"] == 0


def test_annotations_may_be_as_large_as_cocos(coco: Path) -> None:
    """instances_train2017.json has 470 MB; other JSON files of a run have at most 64."""
    with instances(coco).open("a") as file:
        file.write(" " * 2**26)
    assert read_split_and_faults(coco, "coco_2017_val", [], require_masks=True)[1] == []


def test_a_class_or_a_split_that_is_named_twice_is_refused(voc: Path) -> None:
    for classes in ([], ["cat", "dog", "cat"]):
        with pytest.raises(UserError, match=r"data\.classes=.* must name classes, each once"):
            read_voc_split_and_faults(voc, "voc_2007_test", classes)
    with pytest.raises(UserError, match=r"data\.train=\[\]: the recipe names no split"):
        read_joined_splits(str(voc), [], ["cat"])
    with pytest.raises(UserError, match="names a split twice"):
        read_joined_splits(str(voc), ["voc_2007_test", "voc_2007_test"], ["cat"])


def broken_archive(path: Path, **changes: Any) -> None:
    arrays = dict(np.load(path))
    for name, value in changes.items():
        arrays[name] = value
        if value is REMOVED:
            del arrays[name]
    np.savez(path, **arrays)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("score.npy", "w") as member:
        for _ in range(1100):
            member.write(bytes(1 << 20))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)


ARCHIVES: dict[str, Callable[[Path], Any]] = {
    "bytes pasted over": flipped,
    "no classes": lambda p: broken_archive(p, classes=REMOVED),
    "foreign arrays": lambda p: np.savez(p, a=np.zeros(3)),
    "no array in it": lambda p: p.write_bytes(b"PK\x03\x04 no archive"),
    "scores of NaN": lambda p: broken_archive(p, score=np.full(3, np.nan)),
    "too few boxes": lambda p: broken_archive(p, box=np.zeros((2, 4))),
    "boxes of five": lambda p: broken_archive(p, box=np.zeros((3, 5))),
    "texts for scores": lambda p: broken_archive(p, score=np.array(["a", "b", "c"])),
    "objects": lambda p: broken_archive(p, score=np.array([None, 1, 2])),
    "an image beyond": lambda p: broken_archive(p, image=np.array([0, 1, 2])),
    "a class below": lambda p: broken_archive(p, category=np.array([-1, 0, 1])),
    "masks of others": lambda p: broken_archive(p, mask_lengths=np.array([1]), mask_bytes=np.zeros(1, np.uint8)),
    "masks without their bytes": lambda p: broken_archive(p, mask_lengths=np.array([1, 1, 1])),
    "masks longer than their bytes": lambda p: broken_archive(
        p, mask_lengths=np.array([-1, 1, 2]), mask_bytes=np.zeros(1, np.uint8)
    ),
    "a number for scores": lambda p: broken_archive(p, score=np.float32(1)),
    "an image twice": lambda p: broken_archive(p, image_ids=np.array([1, 1])),
    "a gigabyte of zeros": bomb,
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_of_strangers(coco: Path, case: str) -> None:
    instances(coco)
    path = coco / "detections.npz"
    found(["cat", "dog"], [0, 1, 0]).save(path)
    ARCHIVES[case](path)
    with pytest.raises(UserError, match=r"detections\.npz: not a file of detections"):
        evaluated_file(coco, path)


def test_a_code_is_read_as_pycocotools_reads_it() -> None:
    """Random masks of many sizes pass; the same with a character more, less or other is refused or the same mask."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 300, 2).tolist()
        mask = np.asfortranarray(rng.random((height, width)) < rng.choice([0, 0.01, 0.5, 1]), np.uint8)
        code = coder.encode(mask)
        assert checked_rle(code, height, width)["counts"] == code["counts"]
        runs = checked_rle({"size": [height, width], "counts": lengths(mask)}, height, width)
        assert np.array_equal(coder.decode(runs), mask)
        for wrong in (code["counts"][:-1], code["counts"] + b"1", b"\xff" + code["counts"], b""):
            with pytest.raises(ValueError, match="do not add up"):
                checked_rle({"size": [height, width], "counts": wrong}, height, width)


def lengths(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return [int(n) for n in np.diff(np.concatenate([[0], changes, [flat.size]]))]


XML = """<annotation><size><width>40</width><height>30</height></size><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object></annotation>"""
XMLS: dict[str, tuple[str | bytes, str]] = {
    "a mark of the encoding": (b"\xef\xbb\xbf" + XML.encode(), ""),
    "GBK": (b'<?xml version="1.0" encoding="GBK"?>' + XML.replace("<size>", "<a>猫</a><size>").encode("gbk"), ""),
    "a namespace": (XML.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'), ""),
    "difficult is empty": (XML.replace("<difficult>0</difficult>", "<difficult/>"), ""),
    "difficult is False": (XML.replace("<difficult>0<", "<difficult>False<"), ""),
    "no difficult": (XML.replace("<difficult>0</difficult>", ""), ""),
    "sizes as floats": (XML.replace("<width>40<", "<width>40.0<"), ""),
    "difficult is a word": (XML.replace("<difficult>0<", "<difficult>maybe<"), "<difficult> of 'cat' is 'maybe'"),
    "boxes from 0": (XML.replace("<xmin>1<", "<xmin>0<"), "VOC counts pixels from 1: add 1 to all coordinates"),
    "a box of a word": (XML.replace("<xmin>1<", "<xmin>left<"), "<bndbox/xmin> is 'left'; write a number"),
    "a box of NaN": (XML.replace("<xmin>1<", "<xmin>nan<"), "outside its image"),
    "ten as Python has it": (XML.replace("<ymax>20<", "<ymax>2_0<"), "<bndbox/ymax> is '2_0'; write a number"),
    "half a pixel": (XML.replace("<width>40<", "<width>40.5<"), "<size/width> is 40.5; write a whole number"),
    "no name": (XML.replace("<name>cat</name>", ""), "no <name> in it; write one"),
    "two boxes": (XML.replace("</bndbox>", "</bndbox><bndbox><xmin>1</xmin></bndbox>"), "2 <bndbox/xmin> in it"),
    "another class": (XML.replace("cat", "ape"), "unknown class 'ape' .*set data.classes"),
    "an unknown encoding": ('<?xml version="1.0" encoding="none"?>' + XML, "not XML"),
    "bytes of another encoding": (b'<?xml version="1.0" encoding="GBK"?>' + b"\x81" + XML.encode(), "not XML"),
    "nothing": ("", "not XML"),
}  # fmt: skip


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A data root with one split, `voc_2007_test`, of one image."""
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "VOC2007" / sub).mkdir(parents=True)
    write_image(tmp_path, "1.jpg")
    (tmp_path / "VOC2007/Annotations/1.xml").write_text(XML)
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").write_text("1\n")
    return tmp_path


def write_image(root: Path, name: str) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "VOC2007/JPEGImages" / name, "PNG")


@pytest.mark.parametrize("case", XMLS)
def test_xml_of_strangers(voc: Path, case: str) -> None:
    content, named = XMLS[case]
    file = voc / "VOC2007/Annotations/1.xml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    split, faults = read_split_and_faults(voc, "voc_2007_test", ["cat", "dog"], require_masks=False)
    if named:
        assert len(faults) == 1 and faults[0].startswith(f"{file}: ")
        assert_matches(named, faults[0])
    else:
        assert faults == [] and split.images[0]["annotations"][0]["bbox"] == [0, 1, 40, 20]
        assert split.images[0]["annotations"][0]["difficult"] == 0


LISTS: dict[str, tuple[str | bytes, str]] = {
    "a suffix": ("1.jpg\n", ""),
    "a path": ("JPEGImages/1.jpg\n", ""),
    "a path of Windows": ("JPEGImages\\1.jpg\n", ""),
    "a mark of the encoding": (b"\xef\xbb\xbf1\n", ""),
    "UTF-16": ("1\n".encode("utf-16"), ""),
    "one class": ("1 -1\n", "a list of one class"),
    "an image twice": ("1\n1\n", "lists '1' twice"),
    "another encoding": (b"\x81\xff\n", "not UTF-8 text"),
    "nothing": ("\n", "lists no image"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_strangers(voc: Path, case: str) -> None:
    content, named = LISTS[case]
    file = voc / "VOC2007/ImageSets/Main/test.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        images, faults = read_voc_split_and_faults(voc, "voc_2007_test", ["cat"])
    except UserError as error:
        images, faults = [], [str(error)]
    if named:
        assert_matches(named, faults[0])
        assert faults[0].startswith(str(file))
    else:
        assert faults == [] and [image["image_id"] for image in images] == ["1"]


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".JPEG", ".PNG"])
def test_images_with_other_suffixes_and_ids_with_spaces(voc: Path, suffix: str) -> None:
    write_image(voc, f"my cat{suffix}")
    (voc / "VOC2007/Annotations/my cat.xml").write_text(XML)
    (voc / "VOC2007/ImageSets/Main/train-v2.txt").write_text("my cat\n")
    assert find_split_names(voc) == ["voc_2007_test", "voc_2007_train-v2"]
    images, faults = read_voc_split_and_faults(voc, "voc_2007_train-v2", ["cat"])
    assert faults == [] and [i["image_id"] for i in images] == ["my cat"]
    assert Path(images[0]["file_name"]).name == f"my cat{suffix}"


def test_voc_without_an_object_that_counts_is_refused(voc: Path) -> None:
    (voc / "VOC2007/Annotations/1.xml").write_text(XML.replace("<difficult>0<", "<difficult>1<"))
    _, faults = read_split_and_faults(voc, "voc_2007_test", ["cat"], require_masks=False)
    assert faults == ["voc_2007_test: no object counts (all are difficult, crowds, or absent); annotate some"]
    for name in ("light", "traffic_light"):
        (voc / f"{name}.txt").write_text("")
    with pytest.raises(UserError, match="no object counts"):
        evaluated_voc(voc, voc, "cat")


def evaluated_voc(root: Path, detections: Path, classes: str) -> dict[str, float]:
    (root / "cat.txt").touch()
    return score_voc(detections, root, "voc_2007_test", classes.split(",")).metrics


def test_classes_whose_names_end_alike(voc: Path) -> None:
    (voc / "VOC2007/Annotations/1.xml").write_text(XML.replace("cat", "light"))
    (voc / "det_test_light.txt").write_text("1 0.9 1 2 40 20\n")
    (voc / "det_test_traffic_light.txt").write_text("1 0.9 1 2 40 20\n")
    assert evaluated_voc(voc, voc, "light,traffic_light")["bbox/AP"] == pytest.approx(50)
    for line in (
        "1 nan 1 2 40 20",
        "1 1e300 1 2 40 20",
        "1 0.9 1 2 40 inf",
        "1 0.9 40 2 1 20",
        "1 0.9 1 2 40",
        "2 0.9 1 2 40 20",
    ):
        (voc / "det_test_light.txt").write_text(line)
        with pytest.raises(UserError, match=r"det_test_light\.txt:1: .* is not 'image score"):
            evaluated_voc(voc, voc, "light,traffic_light")


def write_five(voc: Path) -> list[str]:
    """Five images of an object that covers nearly all; returns their names."""
    names = [str(number) for number in range(1, 6)]
    for name in names:
        (voc / f"VOC2007/Annotations/{name}.xml").write_text(XML)
    (voc / "VOC2007/ImageSets/Main/test.txt").write_text("\n".join(names))
    return names


def test_voc_boxes_of_resized_images_are_refused(voc: Path) -> None:
    names = write_five(voc)
    for box, reading in (("1 2 40 20", ""), ("1 1 20 10", "x0, y0, x1, y1 in pixels of resized images")):
        (voc / "cat.txt").write_text("\n".join(f"{name} 0.9 {box}" for name in names))
        with pytest.raises(UserError, match=reading) if reading else contextlib.nullcontext():
            assert evaluated_voc(voc, voc, "cat")["bbox/AP"] == pytest.approx(100)


def photograph(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, "JPEG", exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_annotated_as_shown(tmp_path: Path, orientation: int) -> None:
    """As Detectron2 loads it; annotated as stored, its boxes would be those of another picture."""
    from detectron2.data.detection_utils import read_image

    path = photograph(tmp_path / "1.jpg", orientation)
    shown = read_image(str(path), "RGB").shape[1::-1]
    assert checked_image_size(path, shown) == checked_image_size(path) == shown
    if shown != (WIDTH, HEIGHT):
        with pytest.raises(UserError, match=r"shown as 30 x 40 by its EXIF orientation, but annotated as stored"):
            checked_image_size(path, (WIDTH, HEIGHT))


def test_an_image_that_starts_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n")
    with pytest.raises(UserError, match="not a readable image"):
        checked_image_size(path)


def test_images_that_training_would_ruin_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("I;16", "I", "F"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (WIDTH, HEIGHT)).save(path)
        with pytest.raises(UserError, match="more than 8 bits a channel"):
            checked_image_size(path, (WIDTH, HEIGHT))
    path = tmp_path / "line.png"
    Image.new("1", (5000, 1)).save(path)
    with pytest.raises(UserError, match="is 5000 x 1, of which scaling leaves nothing"):
        checked_image_size(path)
    path = tmp_path / "large.png"
    Image.new("1", (WIDTH, HEIGHT)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="more pixels than Pillow decodes"):
        checked_image_size(path)


def test_a_json_may_have_a_mark_of_its_encoding(coco: Path) -> None:
    file = instances(coco)
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text(json.dumps(DOCUMENT), encoding=encoding)
        assert read_coco_and_faults(file, None, require_masks=True)[2] == []

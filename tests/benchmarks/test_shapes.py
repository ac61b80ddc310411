"""The generated data set: same bytes from the same seed, valid layouts, exact annotations, classes told by pattern."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from benchmarks.shapes import MANIFEST, SPLITS, Settings, fingerprint, generate, generator
from benchmarks.shapes_layouts import is_difficult, run_lengths
from benchmarks.shapes_scenes import (
    CLASSES,
    PATTERNS,
    Scene,
    classification_scene,
    detection_scene,
    mask_polygons,
    smooth_outline,
    supersampled_mask,
)
from converters.resnet_model import build_resnet
from runs.errors import UserError

SMALL = Settings(images=24, val_images=8, voc07=24, voc07_test=16, voc12=12, coco=40, coco_val=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "set"
    assert generate(path, SMALL)
    return path


def files(folder: Path, suffix: str = ".jpg") -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob(f"*{suffix}") if p.is_file()}


def scene_of(split: str, index: int, crowds: float = 0.0) -> Scene:
    return detection_scene(generator(0, split, index), SMALL.scene_size, (1, SMALL.objects), crowds)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    tiny = replace(SMALL, images=2, val_images=1, voc07=2, voc07_test=1, voc12=2, coco=1, coco_val=1)
    for name, settings in {"a": tiny, "b": tiny, "c": replace(tiny, seed=1)}.items():
        generate(tmp_path / name, settings)
    assert files(tmp_path / "a", "") == files(tmp_path / "b", "")
    assert fingerprint(tmp_path / "a") == json.loads((tmp_path / "b" / MANIFEST).read_text())["fingerprint"]
    images, other = files(tmp_path / "a"), files(tmp_path / "c")
    assert images.keys() == other.keys()
    assert not any(images[name] == other[name] for name in images)


def test_a_larger_set_contains_the_smaller(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "s", replace(SMALL, images=3, val_images=2, voc07=6, voc07_test=2, voc12=4, coco=3, coco_val=1))
    large, small = files(folder), files(tmp_path / "s")
    assert {name: large[name] for name in small} == small
    # The annotations too, not only the pixels.
    xml = files(tmp_path / "s", ".xml")
    assert {name: files(folder, ".xml")[name] for name in xml} == xml
    boxes, more = (
        {a["id"]: a for a in json.loads((f / "coco/annotations/instances_train2017.json").read_text())["annotations"]}
        for f in (tmp_path / "s", folder)
    )
    assert {key: more[key] for key in boxes} == boxes


def test_splits_share_no_image(folder: Path) -> None:
    assert max(Counter(files(folder).values()).values()) == 1


def test_imagefolder_has_as_many_images_of_each_class_as_asked(folder: Path) -> None:
    for split, count in (("train", SMALL.images), ("val", SMALL.val_images)):
        classes = sorted(p.name for p in (folder / "imagefolder" / split).iterdir())
        assert classes == list(CLASSES)
        for name in classes:
            paths = list((folder / "imagefolder" / split / name).iterdir())
            assert len(paths) == count
            with Image.open(paths[0]) as image:
                assert (image.size, image.mode) == ((SMALL.size, SMALL.size), "RGB")


@pytest.mark.parametrize("year", ["VOC2007", "VOC2012"])
def test_voc_boxes_are_the_extents_of_the_visible_pixels(folder: Path, year: str) -> None:
    root = folder / year
    for split in ("train", "val"):
        for index, name in enumerate((root / f"ImageSets/Main/{split}.txt").read_text().split()):
            scene = scene_of(f"{year}/{split}", index)
            tree = ElementTree.parse(root / f"Annotations/{name}.xml")
            assert tree.findtext("filename") == f"{name}.jpg"
            assert (root / f"JPEGImages/{name}.jpg").is_file()
            assert [tree.findtext(f"size/{k}") for k in ("width", "height", "depth")] == ["128", "128", "3"]
            objects = tree.findall("object")
            assert len(objects) == len(scene.things)
            for item, thing in zip(objects, scene.things, strict=True):
                rows, columns = np.nonzero(thing.mask)
                expected = [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
                box = [int(item.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax")]
                assert box == expected
                assert 1 <= box[0] <= box[2] <= 128 and 1 <= box[1] <= box[3] <= 128
                assert item.findtext("name") == thing.name
                assert item.findtext("pose") == "Unspecified"
                assert item.findtext("difficult") == str(int(is_difficult(thing)))
                assert (item.find("occluded") is not None) == (year == "VOC2012")


def test_voc_image_sets_agree_with_the_annotations(folder: Path) -> None:
    main = folder / "VOC2007/ImageSets/Main"
    names = {split: (main / f"{split}.txt").read_text().split() for split in ("train", "val", "trainval", "test")}
    assert names["trainval"] == sorted(names["train"] + names["val"])
    assert [len(names[split]) for split in ("train", "val", "trainval", "test")] == [12, 12, 24, 16]
    assert not set(names["trainval"]) & set(names["test"])
    assert not (folder / "VOC2012/ImageSets/Main/test.txt").exists()
    seen = Counter()
    for split, listed in names.items():
        for c in CLASSES:
            lines = [line.split() for line in (main / f"{c}_{split}.txt").read_text().splitlines()]
            assert [name for name, _ in lines] == listed
            for name, value in lines:
                objects = ElementTree.parse(folder / f"VOC2007/Annotations/{name}.xml").findall("object")
                flags = [int(o.findtext("difficult") or "") for o in objects if o.findtext("name") == c]
                assert int(value) == (-1 if not flags else 0 if all(flags) else 1)
                seen[value] += 1
    assert set(seen) == {"-1", "0", "1"}


def test_coco_loads_and_its_regions_are_what_is_seen(folder: Path) -> None:
    coco = COCO(folder / "coco/annotations/instances_train2017.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.imgs) == SMALL.coco
    offsets = []
    for image_id, info in coco.imgs.items():
        with Image.open(folder / "coco/train2017" / info["file_name"]) as image:
            assert image.size == (info["width"], info["height"])
        scene = scene_of("coco/train2017", image_id % 100000, crowds=0.15)
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.things)
        for annotation, thing in zip(annotations, scene.things, strict=True):
            drawn = coco.annToMask(annotation).astype(bool)
            overlap = (drawn & thing.mask).sum() / (drawn | thing.mask).sum()
            assert overlap > (0.999 if thing.crowd else 0.88)
            assert annotation["area"] == pytest.approx(thing.mask.sum(), rel=0.06, abs=4)
            assert annotation["iscrowd"] == thing.crowd
            x, y, w, h = annotation["bbox"]
            offsets.append(np.subtract((x, y, x + w, y + h), thing.box))
            if not thing.crowd:
                assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in annotation["segmentation"])
    # Not equal: points and slivers narrow to less than half a pixel, out of the mask, before the polygon ends.
    assert np.abs(offsets).mean() < 0.5 and np.quantile(np.abs(offsets), 0.98) <= 1.5


def test_polygon_areas_have_no_bias() -> None:
    """Tracing pixel centres instead of their edges loses 3 percent of a 30-pixel thing; this would show it."""
    ratios = []
    for index in range(40):
        for thing in scene_of("VOC2012/train", index).things:
            area = 0.0
            for points in thing.polygons:
                (x, y), (x2, y2) = points.T, np.roll(points, -1, axis=0).T
                area += abs((x * y2 - x2 * y).sum()) / 2
            ratios.append(area / thing.area)
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    assert min(ratios) > 0.9 and max(ratios) < 1.1


def test_a_region_with_a_hole_becomes_polygons_without() -> None:
    angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    disc = 32 + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    square = 32 + 8 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    ring = supersampled_mask([disc], 64) & ~supersampled_mask([square], 64)
    parts = mask_polygons(ring)
    assert len(parts) == 2
    codes = coco_mask.merge(coco_mask.frPyObjects([p.ravel().tolist() for p in parts], 64, 64))
    assert int(coco_mask.area(codes)) == pytest.approx(math.pi * 20**2 - 16**2, rel=0.03)
    assert not coco_mask.decode(codes)[30:34, 28:36].any()


@pytest.mark.parametrize("fill", [0, 1])
def test_run_lengths_are_cocos(fill: int) -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) < 0.5, np.full((4, 6), bool(fill))):
        code = run_lengths(mask)
        assert sum(code["counts"]) == mask.size
        decoded = coco_mask.decode(coco_mask.frPyObjects(code, *code["size"]))
        np.testing.assert_array_equal(decoded, mask)


def test_an_outline_has_the_side_and_the_middle_that_were_asked_for() -> None:
    for seed in range(20):
        rows, columns = np.nonzero(supersampled_mask([smooth_outline(np.random.default_rng(seed), 64, (64, 60))], 128))
        spans = np.array([[columns.min(), columns.max() + 1], [rows.min(), rows.max() + 1]]) / 4
        assert np.diff(spans).max() == pytest.approx(64, abs=0.5)
        np.testing.assert_allclose(spans.mean(axis=1), [64, 60], atol=0.5)


def test_difficult_truncated_occluded_and_crowds_occur_but_do_not_prevail() -> None:
    scenes = [scene_of("coco/train2017", index, crowds=0.15) for index in range(150)]
    things = [thing for scene in scenes for thing in scene.things]
    single = [thing for thing in things if not thing.crowd]
    shares = {
        "difficult": np.mean([is_difficult(t) for t in single]),
        "truncated": np.mean([t.cut > 0.05 for t in single]),
        "occluded": np.mean([t.visible + t.cut < 0.95 for t in single]),
    }
    assert all(0.03 < share < 0.35 for share in shares.values()), shares
    assert 0.05 < np.mean([any(t.crowd for t in scene.things) for scene in scenes]) < 0.3
    assert {len([t for t in scene.things if not t.crowd]) for scene in scenes} >= {1, 2, 3, 4}
    # The largest is several times the smallest.
    sides = np.sqrt([thing.area / thing.visible for thing in single])
    assert np.quantile(sides, 0.95) > 2.5 * np.quantile(sides, 0.05)
    assert {thing.name for thing in things} == set(CLASSES)


def knn_accuracy(x: NDArray[Any], y: NDArray[np.int64]) -> float:
    """Top-1 in percent of 20 nearest neighbours by cosine; the first two thirds are the bank."""
    x = x.reshape(len(x), -1).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    bank = len(x) * 2 // 3
    near = np.argsort(-x[bank:] @ x[:bank].T, axis=1)[:, :20]
    votes = np.stack([np.bincount(row, minlength=len(CLASSES)) for row in y[near]])
    return float(100 * (votes.argmax(axis=1) == y[bank:]).mean())


@pytest.fixture(scope="module")
def portraits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Classification images as the mini scale sees them, (1920, 3, 48, 48) in [0, 1], and their classes."""
    y = np.arange(1920) % len(CLASSES)
    images = [classification_scene(generator(0, "imagefolder/train", i), 64, CLASSES[c]).image for i, c in enumerate(y)]
    small = [cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / 255, y


TWICE_CHANCE = 2 * 100 / len(CLASSES)


def test_neither_pixels_nor_colours_tell_the_class(portraits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    x, y = portraits
    assert knn_accuracy(x, y) < TWICE_CHANCE
    means = x.mean(axis=(2, 3))
    colours = (means - means.mean(axis=0)) / means.std(axis=0)
    assert knn_accuracy(colours, y) < TWICE_CHANCE
    # The same test finds a leak where there is one.
    leak = colours + 3 * np.eye(3)[y % 3]
    assert knn_accuracy(leak, y) > TWICE_CHANCE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_network_does_not_tell_the_class(
    portraits: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int
) -> None:
    x, y = portraits
    torch.manual_seed(seed)
    network = build_resnet("resnet50x0.125", None, zero_init_residual=False).eval()
    network.fc = torch.nn.Identity()
    images = (torch.from_numpy(x) - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.225
    with torch.no_grad():
        features = torch.cat([network(part) for part in images.split(256)])
    assert knn_accuracy(features.numpy(), y) < TWICE_CHANCE


def test_patterns_cover_about_as_much_as_their_ground() -> None:
    u, v = np.meshgrid(np.arange(0, 4, 0.02), np.arange(0, 4, 0.02))
    shares = {name: (pattern(u, v) > 0).mean() for name, pattern in PATTERNS.items()}
    assert all(0.38 < share < 0.6 for share in shares.values()), shares


def test_seeds_of_splits_differ() -> None:
    assert len(set(SPLITS.values())) == len(SPLITS)


def test_the_same_settings_are_no_work_and_others_an_error(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not generate(folder, SMALL)
    with pytest.raises(UserError, match=r"other settings: images 24 \(asked for 25\)"):
        generate(folder, replace(SMALL, images=25))
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no generated data set"):
        generate(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.shapes", str(folder), *flags]


def test_a_killed_generation_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path / "set", "--images", "4000"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    # It is killed in the middle of its work, not before the first image.
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    tiny = Settings(images=1, val_images=1, voc07=2, voc07_test=1, voc12=2, coco=1, coco_val=1)
    assert generate(tmp_path / "set", tiny)
    assert len(files(tmp_path / "set" / "imagefolder")) == 16
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--images", "0"], "images=0: must be at least 1"), (["--imges", "3"], "--imges"), (["--size", "x"], "--size")],
)
def test_bad_arguments_are_one_line(tmp_path: Path, flags: list[str], words: str) -> None:
    done = subprocess.run(command(tmp_path / "set", *flags), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

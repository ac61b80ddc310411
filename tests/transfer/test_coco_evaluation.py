"""COCO AP must be pycocotools', crowds, ties, tiny objects and crowded images included."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coder
from pycocotools.cocoeval import COCOeval

from experiments.speed.coco_cases import make_results, pycocotools_evaluate
from runs.detection_matches import FALSE, IGNORED, TRUE, Matches
from transfer import check_rle, coco_evaluation
from transfer.coco_annotations import read_coco_and_faults
from transfer.coco_evaluation import METRICS
from transfer.detections import Evaluation

KINDS = ("bbox", "segm")


def evaluate(file: Path, results: list[dict[str, Any]]) -> Evaluation:
    """Our evaluation of results with the file's own ids."""
    images, categories, faults = read_coco_and_faults(file, None, require_masks=True)
    assert faults == []
    places, classes = {i["image_id"]: n for n, i in enumerate(images)}, {c: n for n, c in enumerate(categories)}
    found = [r | {"image_id": places[r["image_id"]], "category_id": classes[r["category_id"]]} for r in results]
    return coco_evaluation.evaluate_coco(found, images, list(categories.values()), KINDS)


def compare(file: Path, results: list[dict[str, Any]]) -> dict[str, float]:
    ours, per_class, matches, _ = evaluate(file, results)
    categories = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
    for kind in KINDS:
        stats, precision = pycocotools_evaluate(file, results, kind)
        # Not close but equal: the same comparisons and divisions in the same order.
        expected = {f"{kind}/{m}": 100 * v for m, v in zip(METRICS, stats, strict=True) if v >= 0}
        assert {k: v for k, v in ours.items() if k.startswith(kind)} == expected
        for number, category in enumerate(sorted(categories)):
            points = precision[:, :, number, 0, -1]
            value = per_class[categories[category]].get(kind)
            assert (value is None) == bool((points == -1).all())
            assert value is None or value == pytest.approx(100 * points[points > -1].mean(), abs=1e-9)
        assert np.array_equal(curve_of(matches[kind]), precision[..., 0, -1])
    return ours


def curve_of(matches: Matches) -> np.ndarray:
    """(10, 101, K): COCO's interpolated precision from `matches.npz` alone, written as the definition reads."""
    curves = -np.ones((10, 101, matches.objects.shape[1]))
    for k, positives in enumerate(matches.objects.sum(axis=0)):
        for t in range(10 if positives else 0):
            verdict = matches.verdict[matches.category == k, t]
            true, false = np.cumsum(verdict == TRUE), np.cumsum(verdict == FALSE)
            precision = true / (true + false + np.spacing(1))
            places = np.searchsorted(true / positives, np.linspace(0, 1, 101), side="left")
            curves[t, :, k] = [precision[p:].max(initial=0) for p in places]
    return curves


def test_equals_pycocotools_on_generated_scenes(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    metrics = compare(file, make_results(file, 4, masks=True))
    assert 5 < metrics["bbox/AP"] < 95 and 5 < metrics["segm/AP"] < 95


@pytest.mark.shared
def test_equals_pycocotools_on_coco(shared: Path) -> None:
    file = shared / "data/coco/annotations/instances_val2017.json"
    compare(file, make_results(file, 2, masks=True))


def crowded(file: Path, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes on a coarse grid, so that equal overlaps and scores, crowds and all sizes meet in the same image."""
    rng = np.random.default_rng(seed)

    def box() -> list[float]:
        side = rng.choice([8, 32, 96, 160], 2)
        return [float(v) for v in (*rng.integers(0, 4, 2) * 8, *side)]

    images = [{"id": int(i), "height": 200, "width": 200} for i in rng.permutation(30)]
    shapes = [box() for _ in range(200)]
    entries = [
        {
            "id": n, "image_id": int(rng.integers(30)), "category_id": int(rng.choice([3, 7, 5])), "bbox": b,
            "area": b[2] * b[3], "iscrowd": int(rng.random() < 0.2),
            "segmentation": [[b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]],
        }
        for n, b in enumerate(shapes, start=1)
    ]  # fmt: skip
    document = {
        "images": images,
        "annotations": entries,
        "categories": [{"id": i, "name": str(i)} for i in (3, 5, 7, 9)],
    }
    file.write_text(json.dumps(document))
    results = []
    for _ in range(6000):  # more than 100 an image and class in the first images
        image = int(min(rng.integers(30), rng.integers(30), rng.integers(30)))
        found: dict[str, Any] = {"image_id": image, "category_id": int(rng.choice([3, 5, 7, 9])), "bbox": box()}
        results.append(found | {"score": float(rng.choice([0.1, 0.25, 0.5, 0.9]))})
    return document, results


@pytest.mark.parametrize("seed", range(2))
def test_equals_pycocotools_where_everything_is_tied(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "instances.json"
    _, results = crowded(file, seed)
    for result in results:
        code = coder.merge(coder.frPyObjects([_corners(result["bbox"])], 200, 200))
        result["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    compare(file, results)


def _corners(box: object) -> list[float]:
    x, y, w, h = box  # type: ignore[misc]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def test_the_tied_cases_depend_on_crowds(tmp_path: Path) -> None:
    """Otherwise the equality above would say nothing about them."""
    file = tmp_path / "instances.json"
    document, results = crowded(file, 0)
    for result in results:
        result["segmentation"] = {"size": [200, 200], "counts": "PiQ1"}  # no pixel
    right, _, matches, _ = evaluate(file, results)
    assert set(np.unique(matches["bbox"].verdict)) == {FALSE, TRUE, IGNORED}
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 0
    file.write_text(json.dumps(document))
    assert abs(evaluate(file, results)[0]["bbox/AP"] - right["bbox/AP"]) > 1e-3


def test_pycocotools_serves_where_the_other_is_not_installed(generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    results = make_results(file, 2, masks=True)
    fast = compare(file, results)
    # As on a machine without it: the modules that name it are imported anew.
    monkeypatch.setitem(sys.modules, "ultrafast_pycocotools", None)
    for module in (check_rle, coco_evaluation):
        importlib.reload(module)
    try:
        assert issubclass(coco_evaluation.COCOeval, COCOeval) and check_rle.coder is coder
        assert compare(file, results) == fast
    finally:
        monkeypatch.undo()
        for module in (check_rle, coco_evaluation):
            importlib.reload(module)


def test_ids_are_names(generated: Path, tmp_path: Path) -> None:
    """Of images and categories, whatever they are; pycocotools takes whole numbers alone."""
    file = generated / "coco/annotations/instances_val2017.json"
    results = make_results(file, 2, masks=True)
    document = json.loads(file.read_text())
    names = {i["id"]: f"{n:03d}.jpg" for n, i in enumerate(sorted(document["images"], key=lambda i: i["id"]))}
    for entry in document["images"]:
        entry["id"] = names[entry["id"]]
    for entry in (*document["annotations"], *(renamed := [dict(r) for r in results])):
        entry["image_id"] = names[entry["image_id"]]
    other = tmp_path / "names.json"
    other.write_text(json.dumps(document))
    assert evaluate(other, renamed)[0] == evaluate(file, results)[0]


def test_no_detections_is_zero(generated: Path) -> None:
    metrics, _, matches, _ = evaluate(generated / "coco/annotations/instances_val2017.json", [])
    assert set(metrics.values()) == {0.0} and {"bbox/AP", "segm/AP75", "bbox/AR100"} <= set(metrics)
    assert matches["bbox"].verdict.shape == (0, 10) and matches["bbox"].objects.sum() > 0

"""COCO AP must be pycocotools', crowds, ties, tiny objects and crowded images included."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coder

from experiments.speed.coco_cases import make_results, pycocotools_evaluate
from runs.errors import UserError
from transfer.coco_evaluation import evaluate, evaluate_coco, evaluate_results, read_truth
from transfer.coco_matching import summarize
from transfer.detections import Detections


def compare(file: Path, results: list[dict[str, object]]) -> dict[str, float]:
    categories = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
    ours, per_class = evaluate_results(results, file, categories)
    for kind in ("bbox", "segm"):
        stats, precision = pycocotools_evaluate(file, results, kind)
        curves = evaluate(results, read_truth(file, categories, ()), kind)
        # Not close but equal: the same comparisons and divisions in the same order.
        assert np.array_equal(curves.precision, precision[..., -1])
        np.testing.assert_allclose(summarize(curves), stats, rtol=0, atol=1e-12)
        mine = [ours[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75")]
        np.testing.assert_allclose(mine, 100 * stats[:3], rtol=0, atol=1e-9)
        for number, category in enumerate(sorted(categories)):
            points = precision[:, :, number, 0, -1]
            expected = 100 * points[points > -1].mean() if (points > -1).any() else None
            value = per_class[categories[category]].get(kind)
            assert (value is None) == (expected is None)
            assert value is None or value == pytest.approx(expected, abs=1e-9)
    return ours


def test_equals_pycocotools_on_generated_scenes(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    metrics = compare(file, make_results(file, 4, masks=True))
    assert 5 < metrics["bbox/AP"] < 95 and 5 < metrics["segm/AP"] < 95


@pytest.mark.shared
def test_equals_pycocotools_on_coco(shared: Path) -> None:
    file = shared / "data/coco/annotations/instances_val2017.json"
    compare(file, make_results(file, 2, masks=True))


def crowded(file: Path, seed: int) -> tuple[dict[str, object], list[dict[str, object]]]:
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
        found: dict[str, object] = {"image_id": image, "category_id": int(rng.choice([3, 5, 7, 9])), "bbox": box()}
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
    _, results = crowded(file, 0)
    right, _ = evaluate_results(results, file, {3: "a", 5: "b", 7: "c", 9: "d"}, ("bbox",))
    truth = read_truth(file, (3, 5, 7, 9), ())
    truth.objects.crowd[:] = False
    assert abs(100 * summarize(evaluate(results, truth, "bbox"))[0] - right["bbox/AP"]) > 1e-3


def test_some_images_only(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    document = json.loads(file.read_text())
    categories = {c["id"]: c["name"] for c in document["categories"]}
    results, chosen = make_results(file, 3, masks=True), sorted(i["id"] for i in document["images"])[1::2]
    part, _ = evaluate_results(results, file, categories, (), chosen)
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in chosen]
    document["images"] = [i for i in document["images"] if i["id"] in chosen]
    smaller = file.parent / "part.json"
    smaller.write_text(json.dumps(document))
    alone, _ = evaluate_results([r for r in results if r["image_id"] in chosen], smaller, categories)
    assert part == alone


def test_a_polygon_as_a_detection_is_refused_in_one_line(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    result = make_results(file, 2, masks=True)[0] | {"segmentation": [[0, 0, 0, 9, 9, 9]]}
    categories = {c["id"]: c["name"] for c in json.loads(file.read_text())["categories"]}
    with pytest.raises(UserError, match=r"not run-length coded; write what"):
        evaluate_results([result], file, categories)


def test_no_detections_is_zero(generated: Path) -> None:
    file = generated / "coco/annotations/instances_val2017.json"
    none = Detections(
        [], np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32), np.zeros((0, 4), np.float32),
        np.zeros((0, 2), np.int32), [],
    )  # fmt: skip
    metrics, _ = evaluate_coco(none, file, [1, 2], ["a", "b"], masks=True)
    assert set(metrics.values()) == {0.0} and len(metrics) == 6

"""VOC AP must be Detectron2's, to the last digits, in every corner of its definition."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.speed.voc_cases import detectron2_evaluate, make_detections, make_truth, stable_sort, write_voc
from transfer.detections import Detections
from transfer.settings import VOC_CLASSES
from transfer.voc_evaluation import SplitTruth, evaluate_voc, match_voc


def compare(folder: Path, truth: SplitTruth, found: Detections, classes: list[str], year: int) -> dict[str, float]:
    """Against Detectron2's evaluator with a stable sort; `test_only_its_own_sort_makes_detectron2_differ` says why."""
    write_voc(folder, truth, found.image_ids, classes)
    with stable_sort():
        theirs = detectron2_evaluate(folder, found, classes, year)
    table = theirs.pop("table")
    metric = "voc_2007" if year == 2007 else "voc_area"
    ours, per_class, *_ = evaluate_voc(dataclasses.replace(found, classes=classes), truth, metric)
    for row, name in zip(table, classes, strict=True):
        expected = [np.mean(row), row[0], row[5]]
        np.testing.assert_allclose(list(per_class[name].values()), expected, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(list(ours.values()), [theirs[k] for k in ours], rtol=0, atol=1e-9)
    return ours


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("year", [2007, 2012])
def test_equals_detectron2(tmp_path: Path, seed: int, year: int) -> None:
    rng = np.random.default_rng(seed)
    classes = ["a", "b", "c", "only difficult", "no objects"] if year == 2007 else ["a", "b", "c"]
    truth = make_truth(40, 5, rng)
    if year == 2012:
        # Without objects the area is 0 / 0 in Detectron2; the published splits of 2012 have objects of every class.
        kept = truth.category < 3
        truth = SplitTruth(truth.image[kept], truth.category[kept], truth.box[kept], truth.difficult[kept])
    ids = [f"{n:06d}" for n in range(40)]
    found = make_detections(truth, ids, len(classes), 2000, rng)
    metrics = compare(tmp_path, truth, found, classes, year)
    assert 1 < metrics["bbox/AP50"] < 90


def test_a_class_without_objects_counts_as_0_by_both_metrics() -> None:
    """A record of a number that is none would be refused, behind all the training."""
    truth = SplitTruth.from_table([(0, 0, 1, 1, 10, 10, 0), (1, 1, 1, 1, 10, 10, 0)])
    box = np.array([[0, 0, 10, 10]] * 2, np.float32)
    found = Detections(
        [0, 1], ["a", "b"], np.array([0, 1]), np.array([0, 1]), np.ones(2, np.float32), box, np.zeros((2, 2), np.int32)
    )
    for metric in ("voc_2007", "voc_area"):
        for classes, ap in ((["a", "b"], 100), (["a", "b", "absent"], 200 / 3)):
            metrics = evaluate_voc(dataclasses.replace(found, classes=classes), truth, metric)[0]
            assert metrics == {f"bbox/{name}": pytest.approx(ap) for name in ("AP", "AP50", "AP75")}


def test_only_its_own_sort_makes_detectron2_differ(tmp_path: Path) -> None:
    """Without equal scores the two are equal as they are; of equal scores Detectron2's order is arbitrary."""
    rng = np.random.default_rng(5)
    classes, ids = ["a", "b", "c", "d"], [f"{n:06d}" for n in range(40)]
    truth = make_truth(40, 5, rng)
    found = make_detections(truth, ids, 4, 900, rng)
    write_voc(tmp_path, truth, ids, classes)

    def both(found: Detections) -> tuple[float, float]:
        theirs = detectron2_evaluate(tmp_path, found, classes, 2007)["bbox/AP75"]
        return evaluate_voc(found, truth)[0]["bbox/AP75"], theirs

    distinct = dataclasses.replace(found, score=(rng.permutation(len(found)) / 1000).astype(np.float32))
    ours, theirs = both(distinct)
    assert ours == pytest.approx(theirs, abs=1e-9)
    tied = dataclasses.replace(found, score=np.round(found.score, 1))
    ours, theirs = both(tied)
    assert abs(ours - theirs) > 1e-3
    compare(tmp_path, truth, tied, classes, 2007)


def test_equal_scores_come_in_the_order_of_images() -> None:
    """Whatever order a file has them in; within an image its order holds."""
    truth = make_truth(20, 3, np.random.default_rng(1))
    found = make_detections(truth, list(range(20)), 3, 500, np.random.default_rng(1))
    found.score = np.round(found.score, 1)
    shuffled = np.random.default_rng(2).permutation(20)[found.image].argsort(kind="stable")
    columns = {k: getattr(found, k)[shuffled] for k in ("image", "category", "score", "box")}
    other = dataclasses.replace(found, **columns)
    one, two = match_voc(found, truth), match_voc(other, truth)
    assert np.array_equal(one.verdict, two.verdict) and np.array_equal(one.image, two.image)
    places = np.stack([-one.score, one.image])
    assert np.array_equal(np.lexsort(places[::-1]), np.arange(len(one.score)))


def test_no_detections_at_all(tmp_path: Path) -> None:
    truth = make_truth(5, 4, np.random.default_rng(0))
    ids = [f"{n:06d}" for n in range(5)]
    none = Detections(
        ids, list("abcd"), np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32),
        np.zeros((0, 4), np.float32), np.full((5, 2), 9, np.int32),
    )  # fmt: skip
    assert compare(tmp_path, truth, none, list("abcd"), 2007)["bbox/AP"] == 0


def test_perfect_detections_are_100() -> None:
    truth = make_truth(30, 3, np.random.default_rng(0))
    plain = SplitTruth(truth.image, truth.category * 0, truth.box, truth.difficult & False)
    found = Detections(
        list(range(30)), ["a"], plain.image.astype(np.int32), plain.category.astype(np.int16),
        np.linspace(1, 0.5, len(plain.image), dtype=np.float32), (plain.box - [1, 1, 0, 0]).astype(np.float32),
        np.full((30, 2), 500, np.int32),
    )  # fmt: skip
    evaluation = evaluate_voc(found, plain)
    assert evaluation.metrics == pytest.approx({"bbox/AP": 100, "bbox/AP50": 100, "bbox/AP75": 100})
    assert evaluation.curves is not None and min(evaluation.curves["a"][1]) == 1


@pytest.mark.shared
def test_equals_detectron2_on_the_test_annotations(tmp_path: Path, shared: Path) -> None:
    """All 4952 images with fewer detections than experiments/speed/evaluators.py, which times half a million."""
    with gzip.open(shared / "data/voc2007_ground_truth.json.gz", "rt") as file:
        entries = {k: v for k, v in json.load(file).items() if v["split"] == "test"}
    rows = [
        (i, VOC_CLASSES.index(o["name"]), *o["bbox"], o["difficult"])
        for i, entry in enumerate(entries.values())
        for o in entry["objects"]
    ]
    table = np.array(rows, np.float64)
    truth = SplitTruth(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6] > 0)
    assert len(entries) == 4952 and len(table) == 14976
    found = make_detections(truth, list(entries), 20, 5_000, np.random.default_rng(0))
    compare(tmp_path, truth, found, list(VOC_CLASSES), 2007)

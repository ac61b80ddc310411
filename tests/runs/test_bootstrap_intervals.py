"""AP against Detectron2's own evaluator, resampled AP against images really repeated, and the time it takes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs.average_precision import mean_average_precision
from runs.bootstrap_intervals import compare, resample_counts
from runs.detection_matches import Matches
from runs.errors import UserError
from transfer.detections import Detections
from transfer.voc_evaluation import SplitTruth, match_voc


def scene(images: int, classes: int, seed: int, found_per_image: int = 8, skill: float = 4.0) -> dict[str, Any]:
    """Random objects and detections around them."""
    random = np.random.default_rng(seed)
    world = np.random.default_rng(1)
    objects = 3 * images
    truth_image, truth_category = world.integers(images, size=objects), world.integers(classes, size=objects)
    corner = world.uniform(1, 100, size=(objects, 2)).round()
    truth_box = np.concatenate([corner, corner + world.uniform(20, 80, size=(objects, 2)).round()], axis=1)
    difficult = world.random(objects) < 0.1
    found = found_per_image * images
    aim = random.integers(objects, size=found)
    right = random.random(found) < 0.6
    category = np.where(right, truth_category[aim], random.integers(classes, size=found))
    box = truth_box[aim] + random.normal(0, skill, size=(found, 4)) - [1, 1, 0, 0]
    score = np.clip(np.where(right, 0.7, 0.4) + random.normal(0, 0.2, size=found), 0.05, 1)
    return {
        "image_ids": [f"{i:06d}" for i in range(images)], "classes": [f"c{i}" for i in range(classes)],
        "image": truth_image[aim], "category": category, "score": score.astype(np.float32),
        "box": box.astype(np.float32),
        "truth_image": truth_image, "truth_category": truth_category, "truth_box": truth_box, "difficult": difficult,
    }  # fmt: skip


def match(eleven_points: bool = True, **given: Any) -> Matches:
    """What a fine-tuning would write to `matches.npz`."""
    ids, classes = given["image_ids"], given["classes"]
    found = Detections(
        ids, classes, given["image"], given["category"], given["score"], given["box"], np.zeros((len(ids), 2))
    )
    truth = SplitTruth(given["truth_image"], given["truth_category"], given["truth_box"], given["difficult"])
    return match_voc(found, truth, "voc_2007" if eleven_points else "voc_area")


def resampled(matches: Matches, resamples: int) -> np.ndarray:
    return mean_average_precision(matches, resample_counts(len(matches.image_ids), resamples))


def detectron2_ap(given: dict[str, Any], folder: Path, eleven: bool) -> np.ndarray:
    """The numbers of Detectron2's function, from files as it reads them."""
    from detectron2.evaluation.pascal_voc_evaluation import voc_eval

    (folder / "ann").mkdir()
    (folder / "set.txt").write_text("\n".join(given["image_ids"]))
    for number, name in enumerate(given["image_ids"]):
        items = "".join(
            f"<object><name>{given['classes'][c]}</name><pose/><truncated>0</truncated><difficult>{int(d)}</difficult><bndbox>"
            + "".join(f"<{k}>{int(v)}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), b, strict=True))
            + "</bndbox></object>"
            for i, c, b, d in zip(
                given["truth_image"], given["truth_category"], given["truth_box"], given["difficult"], strict=True
            )
            if i == number
        )
        (folder / "ann" / f"{name}.xml").write_text(f"<annotation>{items}</annotation>")
    table = []
    for number, name in enumerate(given["classes"]):
        lines = [
            f"{given['image_ids'][i]} {s:.3f} {b[0] + 1:.1f} {b[1] + 1:.1f} {b[2]:.1f} {b[3]:.1f}"
            for i, c, s, b in zip(given["image"], given["category"], given["score"], given["box"], strict=True)
            if c == number
        ]
        (folder / f"det_{name}.txt").write_text("\n".join(lines))
        files = (str(folder / "det_{:s}.txt"), str(folder / "ann" / "{:s}.xml"), str(folder / "set.txt"))
        table.append([voc_eval(*files, name, ovthresh=t / 100, use_07_metric=eleven)[2] for t in range(50, 100, 5)])
    table = 100 * np.mean(table, axis=0)
    return np.array([table.mean(), table[0], table[5]])


@pytest.mark.slow
@pytest.mark.parametrize("eleven", [True, False])
def test_ap_is_detectron2s(tmp_path: Path, eleven: bool) -> None:
    given = scene(60, 4, seed=3)
    # Detectron2 leaves the order of equal scores to chance: make them different after rounding.
    given["score"] = (
        np.random.default_rng(0).permutation(np.linspace(0.05, 0.95, len(given["score"]))).astype(np.float32)
    )
    ours = mean_average_precision(match(**given, eleven_points=eleven))[0]
    assert 20 < ours[1] < 95
    np.testing.assert_allclose(ours, detectron2_ap(given, tmp_path, eleven), atol=1e-9)


@pytest.mark.parametrize("eleven", [True, False])
def test_a_weighted_image_is_an_image_repeated(eleven: bool) -> None:
    given = scene(30, 3, seed=4)
    given["score"] = (
        np.random.default_rng(0).permutation(np.linspace(0.05, 0.95, len(given["score"]))).astype(np.float32)
    )
    matches = match(**given, eleven_points=eleven)
    weights = resample_counts(30, 1, seed=7)
    repeated = [i for i, count in enumerate(weights[:, 0]) for _ in range(int(count))]
    rows = [np.flatnonzero(matches.image == i) for i in repeated]
    order = np.argsort(-np.concatenate([matches.score[r] for r in rows]), kind="stable")
    place = np.concatenate([np.full(len(r), n) for n, r in enumerate(rows)])
    every = np.concatenate(rows)
    copies = Matches(
        tuple(map(str, range(30))), matches.classes, place[order], matches.category[every][order],
        matches.score[every][order], matches.verdict[every][order], matches.objects[repeated],
        "voc_2007" if eleven else "voc_area",
    )  # fmt: skip
    np.testing.assert_allclose(
        mean_average_precision(matches, weights)[0], mean_average_precision(copies)[0], atol=0.35
    )


def test_the_interval_has_the_spread_of_new_test_sets() -> None:
    """The bootstrap's standard error against the spread over many independent sets of images."""
    whole = match(**scene(3000, 3, seed=5))
    parts = [whole.select_images(list(range(i, i + 150))) for i in range(0, 3000, 150)]
    truth = np.std([mean_average_precision(part)[0] for part in parts], axis=0, ddof=1)
    told = np.mean([resampled(part, 200).std(axis=0, ddof=1) for part in parts[:5]], axis=0)
    assert (np.abs(told / truth - 1) < 0.45).all()


def test_paired_comparison() -> None:
    before, again, worse = (match(**scene(300, 3, seed=s, skill=k)) for s, k in ((5, 4.0), (6, 4.0), (6, 6.0)))
    assert compare([before], [before], 200)["AP"].error == 0
    chance = compare([before], [again], 200)["AP"]
    assert chance.low <= 0 <= chance.high
    difference = compare([before], [worse], 200)["AP"]
    assert difference.value < 0 and difference.high < 0
    mixed = again.select_images(list(np.random.default_rng(0).permutation(300)))
    assert compare([before], [mixed], 200)["AP"].value == pytest.approx(compare([before], [again], 200)["AP"].value)
    with pytest.raises(UserError, match="different images"):
        compare([before], [again.select_images(range(200))], 10)


@pytest.mark.slow
def test_2000_images_and_1000_resamples_take_less_than_a_minute() -> None:
    matches = match(**scene(2000, 20, seed=5, found_per_image=60))
    start = time.process_time()
    resampled(matches, 1000)
    assert time.process_time() - start < 60

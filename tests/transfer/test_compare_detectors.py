"""`compare` of anybody's detections: noise is called noise, a shift of every box is called worse."""

import json
from pathlib import Path

import pytest

from experiments.speed.coco_cases import make_results
from runs.detection_matches import save_matches
from runs.errors import UserError
from transfer.compare_detectors import compare
from transfer.evaluate_detections import score_coco


@pytest.fixture
def files(generated: Path, tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """(annotations, detections, the same a thousandth of a pixel to the right, the same moved by a third)."""
    annotations = generated / "coco/annotations/instances_val2017.json"
    results = make_results(annotations, 3, masks=True)
    paths = []
    for name, share in (("a", 0.0), ("b", 1e-5), ("c", 0.33)):
        for result in results:
            x, y, width, height = result["bbox"]
            moved = result | {"bbox": [x + share * width, y, width, height]}
            paths.append((name, moved))
        (tmp_path / f"{name}.json").write_text(json.dumps([r for n, r in paths if n == name]))
    return annotations, *(tmp_path / f"{name}.json" for name in "abc")


def test_noise_and_a_real_difference(files: tuple[Path, Path, Path, Path], tmp_path: Path) -> None:
    annotations, a, b, c = files
    noise = compare(a, b, annotations=annotations, resamples=200)
    assert noise.same and "bbox/AP50" in noise.difference and "segm/AP" in noise.difference
    worse = compare(a, c, annotations=annotations, resamples=200)
    found = worse.difference["bbox/AP"]
    assert not worse.same and found.high < 0
    # The difference is that of the two evaluations, and the masks, which have not moved, have none.
    one, other = (score_coco(path, annotations) for path in (a, c))
    assert found.value == pytest.approx(other.metrics["bbox/AP"] - one.metrics["bbox/AP"], abs=1e-9)
    assert worse.before["bbox/AP"] == pytest.approx(one.metrics["bbox/AP"], abs=1e-9)
    assert worse.difference["segm/AP"].error == 0
    assert "worse" in repr(worse) and "<td>same within noise</td>" in worse._repr_html_()

    # Two files of matches need no data set.
    for name, score in (("a", one), ("c", other)):
        save_matches(tmp_path / f"{name}-matches.npz", score.matches)
    again = compare(tmp_path / "a-matches.npz", tmp_path / "c-matches.npz", resamples=200)
    assert again.difference == worse.difference
    trials = compare([a, b], [a, b], annotations=annotations, resamples=50)
    assert trials.difference["bbox/AP"].value == 0


def test_what_cannot_be_compared_is_one_line(files: tuple[Path, Path, Path, Path]) -> None:
    annotations, a, b, _ = files
    with pytest.raises(UserError, match="give annotations="):
        compare(a, b)
    with pytest.raises(UserError, match="no-such"):
        compare(a, "no-such.json", annotations=annotations)

"""The gate: what it lets pass, what it stops, what it refuses to judge."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.gate.baseline import read_baseline, write_baseline
from benchmarks.gate.comparison import compare_runs
from benchmarks.gate.trials import Trials, group_trials
from benchmarks.results.records import find_records
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import Status
from experiments.gate_error_rates import CLASSES, draw_image_set, simulate_detector
from runs.average_precision import class_pooled_average_precision, mean_average_precision
from runs.bootstrap_intervals import POOLED, compare
from runs.detection_matches import Matches, to_arrays
from runs.files import sha256
from runs.record import Dataset, Subject, write_record
from tests.benchmarks.test_evaluate import FACTS


@pytest.fixture
def gate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["gate", *map(str, words)])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return call


def runs(make: SimpleNamespace, folder: Path, values: list[float], **changes: object) -> Path:
    for seed, value in enumerate(values):
        write_record(folder / str(seed), make.record(value=value, seed=seed, **changes))
    return folder


def test_verdicts_and_exit_codes(make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]) -> None:
    base = tmp_path / "base.json"
    assert gate("--write-baseline", base, runs(make, tmp_path / "a", [70.0, 70.5, 69.5]))[0] == 0
    same = runs(make, tmp_path / "b", [70.1, 70.2, 69.8])
    assert gate("--baseline", base, same)[0] == 0
    code, text = gate("--baseline", base, runs(make, tmp_path / "c", [66.0, 66.5, 65.5]))
    assert code == 1 and "FAIL" in text and "difference -4.00" in text
    assert gate("--baseline", base, "--tolerance", 5, tmp_path / "c")[0] == 0
    # Three trials of a spread of 0.5 cannot show a drop of 0.2.
    assert gate("--baseline", base, "--detect", 0.2, same)[0] == 3
    # Trials that are known to spread by 10 points cannot show one of 4.
    assert gate("--baseline", base, "--noise", 10, tmp_path / "c")[0] == 0
    code, text = gate("--baseline", base, "--update-baseline", tmp_path / "c")
    assert code == 0 and "70.00 -> 66.00" in text
    assert gate("--baseline", base, tmp_path / "c")[0] == 0


def test_one_seed_a_side_is_judged_by_the_spread_that_is_given(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]
) -> None:
    trusted, other, early = (runs(make, tmp_path / str(v), [v], kind="knn") for v in (60.4, 49.2, 31.3))
    gate("--write-baseline", tmp_path / "images.json", trusted)
    code, text = gate("--baseline", tmp_path / "images.json", other)
    assert code == 1 and "spread over seeds unknown: give several trials or --noise" in text
    gate("--write-baseline", tmp_path / "seeds.json", "--noise", 5.6, trusted)
    assert gate("--baseline", tmp_path / "seeds.json", other)[0] == 0
    code, text = gate("--baseline", tmp_path / "seeds.json", early)
    assert code == 1 and "error from number of test images, known noise of a trial" in text


def test_a_baseline_that_has_learned_nothing_guards_nothing(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]
) -> None:
    base = tmp_path / "base.json"
    gate("--write-baseline", base, results := runs(make, tmp_path / "a", [0.17, 0.18, 0.16]))
    code, text = gate("--baseline", base, results)
    assert code == 0 and "????" in text and "the baseline is smaller than the drop to be detected" in text
    assert gate("--baseline", base, "--detect", 2, results)[0] == 3
    # Whoever cares for a tenth of a point may ask for it.
    assert gate("--baseline", base, "--detect", 0.1, results)[0] == 0


def test_bad_input_is_one_line_and_status_2(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]
) -> None:
    base, good = tmp_path / "base.json", runs(make, tmp_path / "a", [70.0, 70.5])
    gate("--write-baseline", base, good)
    other = runs(make, tmp_path / "other", [70.0, 70.5], method="byol")
    odd = tmp_path / "odd.json"
    odd.write_text("{}")
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({**json.loads(base.read_text()), "schema": 9}))
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps({"kind": "baseline", "schema": 5, "runs": {"x": {}}}))
    elsewhere = runs(make, tmp_path / "elsewhere", [70.0, 70.5], dataset=Dataset("shapes", "val", 640, "other"))
    cases = [
        (("--baseline", tmp_path / "no.json", good), "no such file"),
        (("--baseline", odd, good), "not a baseline"),
        (("--baseline", newer, good), "baseline version 9"),
        (("--baseline", damaged, good), "damaged"),
        (("--baseline", base, tmp_path / "nowhere"), "no such file or folder"),
        (("--baseline", base, other), "(given: linear, byol"),
        (("--baseline", base, elsewhere), "measured on other images or annotations"),
        (("--write-baseline", tmp_path / "base.npz", good), "give FILE.json"),
        (("--write-baseline", good / "0" / "result.json", good), "is there already and no baseline"),
        (("--baseline", base), "give RESULTS"),
        (("--baseline", base, "--tolerance", -1, good), "--tolerance: must be a number of at least 0"),
        (("--baseline", base, "--tasks", "knn", good), "--tasks: is for --checkpoint"),
        (("--write-baseline", base, "--update-baseline", good), "--update-baseline: is for --baseline"),
    ]
    for words, complaint in cases:
        code, text = gate(*words)
        assert code == 2 and complaint in text and len(text.strip().splitlines()) == 1, text


def test_a_checkpoint_is_evaluated_first(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the converter and for the runs: the gate reads those records that the evaluation wrote."""
    output, value = tmp_path / "out", [70.0]

    def work(plan: Plan) -> Status:
        for run in plan.runs.values():
            if run.kind == "knn":
                subject = Subject("net", "resnet50x0.25", 20, "net.pth", FACTS["sha256"])
                write_record(plan.folder(run.id), make.record("knn", value=value[0], subject=subject))
        return Status()

    monkeypatch.setattr("benchmarks.evaluate.inspect_checkpoint", lambda path: FACTS | {"file": path})
    monkeypatch.setattr("benchmarks.evaluate.run_plan", work)
    write_record(output / "knn" / "of-another-checkpoint", make.record("knn", "net", 10.0))
    base, common = tmp_path / "base.json", ("--checkpoint", "net.pth", "--tasks", "knn", "--output", output)
    assert gate("--write-baseline", base, *common)[0] == 0
    assert gate("--baseline", base, *common)[0] == 0
    # Of a baseline of several runs, its own are judged; there have to be some.
    write_record(tmp_path / "linear", make.record("linear", "net", 80.0))
    assert gate("--write-baseline", tmp_path / "both.json", tmp_path / "linear", output / "knn")[0] == 0
    assert gate("--baseline", tmp_path / "both.json", *common)[0] == 0
    assert gate("--write-baseline", tmp_path / "linear.json", tmp_path / "linear")[0] == 0
    code, text = gate("--baseline", tmp_path / "linear.json", *common)
    assert code == 2 and "no number of knn, net" in text and "(there are: linear, net" in text
    code, text = gate("--baseline", tmp_path / "linear.json", "--update-baseline", *common)
    assert code == 0 and "knn, net" in text and gate("--baseline", tmp_path / "linear.json", *common)[0] == 0
    value[0] = 40.0
    code, text = gate("--baseline", base, *common)
    assert code == 1 and "difference -30.00" in text


def test_a_run_of_several_trials_is_counted_once(make: SimpleNamespace, tmp_path: Path) -> None:
    """`transfer trials=3 search.enabled=true` leaves the trials, the rates that were tried, and their mean above."""
    for seed, value in enumerate(values := [20.0, 21.0, 25.0]):
        write_record(tmp_path / f"trial{seed}", make.record("transfer", value=value, seed=seed))
    write_record(tmp_path / "search_lr0.1", make.record("transfer", value=3.0, seed=9))
    trials = [{"seed": i, "metrics": {"bbox/AP": v}} for i, v in enumerate(values)]
    write_record(tmp_path, make.record("transfer", value=22.0, details={"trials": trials}))
    (found,) = group_trials(find_records([tmp_path])).values()
    assert found.values["bbox/AP"] == values and found.deviation["bbox/AP"] == pytest.approx(np.std(values, ddof=1))
    # The mean's record alone stands for its trials.
    (found,) = group_trials(find_records([tmp_path / "result.json"])).values()
    assert found.values["bbox/AP"] == values


def test_summary_and_junit(make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]) -> None:
    base = tmp_path / "base.json"
    gate("--write-baseline", base, runs(make, tmp_path / "a", [70.0, 70.5, 69.5]))
    runs(make, tmp_path / "c", [66.0, 66.5, 65.5])
    gate("--baseline", base, tmp_path / "c", "--summary", tmp_path / "s.md", "--junit", tmp_path / "j.xml")
    assert "a real drop" in (tmp_path / "s.md").read_text() and "| **fail** |" in (tmp_path / "s.md").read_text()
    suite = ET.parse(tmp_path / "j.xml").getroot()
    assert suite.get("failures") == "1" and suite.find("testcase/failure") is not None


def measured(trials: list[Matches]) -> Trials:
    table = np.array([mean_average_precision(m)[0] for m in trials])
    values = {f"bbox/{name}": table[:, i].tolist() for i, name in enumerate(("AP", "AP50", "AP75"))}
    found = Trials(values, 60, "", {"bbox/AP": 0.2, "bbox/AP50": 0.2, "bbox/AP75": 0.4}, False, 4952)
    found.matches = trials
    return found


def test_a_baseline_keeps_the_detections(tmp_path: Path) -> None:
    scene = draw_image_set(60, 1)
    before = {"voc07": measured([simulate_detector(scene, 1.0, 1)])}
    write_baseline(tmp_path / "b.json", before)
    again = read_baseline(tmp_path / "b.json")
    assert compare_runs(again, before, 0.0, 2.0)[0].difference == 0
    np.testing.assert_array_equal(
        mean_average_precision(again["voc07"].matches[0]), mean_average_precision(before["voc07"].matches[0])
    )
    (tmp_path / "b.npz").unlink()
    with pytest.raises(Exception, match="keep both"):
        read_baseline(tmp_path / "b.json")


def test_what_the_images_show_is_not_counted_twice() -> None:
    """Published 0.2 AP on 4952 images: of its 0.28 for a difference, 0.7 on 500 images explain 0.22."""
    before, now = (measured([simulate_detector(draw_image_set(500, 1), 1.0, seed)]) for seed in (1, 2))
    before.images, before.deviation_images = 500, 4952
    images = compare(before.matches, now.matches)["AP"].error
    (error,) = (line.error for line in compare_runs({"k": before}, {"k": now}, 0.0, 2.0) if line.metric == "bbox/AP")
    assert error == pytest.approx(np.sqrt(images**2 + max(0.2**2 * 2 - images**2 * 500 / 4952, 0)))
    # A spread measured on the very images that are compared: nothing of it is news unless it is larger.
    before.deviation, before.deviation_measured, before.deviation_images = dict.fromkeys(before.values, 0.1), True, 500
    (error,) = (line.error for line in compare_runs({"k": before}, {"k": now}, 0.0, 2.0) if line.metric == "bbox/AP")
    assert error == pytest.approx(images)
    before.deviation = dict.fromkeys(before.values, 3.0)
    (error,) = (line.error for line in compare_runs({"k": before}, {"k": now}, 0.0, 2.0) if line.metric == "bbox/AP")
    assert error == pytest.approx(3.0 * np.sqrt(2))


def test_a_drop_of_all_classes_shows_in_their_common_ranking() -> None:
    """One class's objects are too few to tell; and what the ranking says counts only if the AP has dropped as well."""
    scene = draw_image_set(500, 3)
    before, now = measured([simulate_detector(scene, 1.0, 1)]), measured([simulate_detector(scene, 0.95, 2)])
    (line,) = (line for line in compare_runs({"k": before}, {"k": now}, 0.0, 2.0) if line.metric == "bbox/AP")
    assert line.verdict == "fail" and line.pooled is not None and line.how.startswith("paired over test images")
    quantile = 2.4  # of one in two hundred or so
    assert -line.difference < quantile * line.error and -line.pooled.value > quantile * line.pooled.error
    now.values["bbox/AP"] = [before.values["bbox/AP"][0] + 0.1]
    (line,) = (line for line in compare_runs({"k": before}, {"k": now}, 0.0, 2.0) if line.metric == "bbox/AP")
    assert line.verdict != "fail"


def test_the_common_ranking_of_one_class_is_its_ap() -> None:
    matches = simulate_detector(draw_image_set(80, 5), 1.0, 1)
    chosen = matches.category == 0
    one = replace(
        matches, classes=("only",), image=matches.image[chosen], category=matches.category[chosen],
        score=matches.score[chosen], verdict=matches.verdict[chosen], objects=matches.objects[:, :1],
        metric="voc_area",
    )  # fmt: skip
    assert compare([one], [one], 50)[POOLED].error == 0 and len(matches.classes) == CLASSES
    np.testing.assert_allclose(class_pooled_average_precision(one), mean_average_precision(one)[:, 0])
    # Ranked by nothing but their scores: the order of the classes' numbers makes no difference.
    turned = replace(
        matches, category=CLASSES - 1 - matches.category, objects=matches.objects[:, ::-1], metric="voc_2007"
    )
    np.testing.assert_allclose(class_pooled_average_precision(turned), class_pooled_average_precision(matches))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"runs": {}}, "it holds no run"),
        ({"values": {}}, "no trials, no metrics"),
        ({"values": {"top1": []}}, "no trials"),
        ({"values": {"top1": [float("nan")]}}, "a finite number"),
        ({"values": {"top1": ["70"]}}, "a finite number"),
        ({"values": {"top1": [10**400]}}, "a finite number"),
        ({"values": {"top1": [-5.0]}}, "outside 0 to 100"),
        ({"values": {"top1": [650.0]}}, "outside 0 to 100"),
        ({"deviation_images": -3}, "negative"),
        ({"deviation": {"top1": float("inf")}}, "a finite number"),
        ({"deviation": {"top1": -1.0}}, "negative"),
        ({"images": 0}, "no test images"),
        ({"images": "many"}, "whole number"),
        ({"matches": []}, "unknown field 'matches'"),
        ({"extra": 1}, "unknown field"),
    ],
)
def test_a_baseline_with_nothing_to_look_at_is_refused(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]], change: dict, complaint: str
) -> None:
    base, results = tmp_path / "base.json", runs(make, tmp_path / "a", [70.0, 70.5])
    gate("--write-baseline", base, results)
    body = json.loads(base.read_text())
    if "runs" in change:
        body |= change
    else:
        next(iter(body["runs"].values())).update(change)
    base.write_text(json.dumps(body))
    code, text = gate("--baseline", base, results)
    assert code == 2 and complaint in text and len(text.strip().splitlines()) == 1, text


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        ("knn", {"metrics": {}}, "no metrics"),
        ("knn", {"metrics": {"top1": -1.0}}, "outside 0 to 100"),
        ("knn", {"dataset": Dataset("shapes", "val", 0, "abc")}, "no test images"),
        ("transfer", {"details": {"trials": 5}}, "trials must be a list of metrics"),
        ("transfer", {"details": {"trials": [{"seed": 1}]}}, "trials must be a list of metrics"),
        ("transfer", {"details": {"trials": [{"metrics": {}}]}}, "no metrics"),
        ("transfer", {"details": {"trials": [{"metrics": {"bbox/AP": "high"}}]}}, "a finite number"),
    ],
)
def test_a_record_without_a_number_to_compare_is_refused(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]], kind: str, changes: dict,
    complaint: str,
) -> None:  # fmt: skip
    write_record(tmp_path, make.record(kind, **changes))
    code, text = gate("--write-baseline", tmp_path / "base.json", tmp_path)
    assert code == 2 and complaint in text and len(text.strip().splitlines()) == 1, text


def test_what_the_gate_writes_replaces_no_input(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]
) -> None:
    base, results = tmp_path / "base", runs(make, tmp_path / "a", [70.0, 70.5])
    gate("--write-baseline", base, results)
    before, record = base.read_bytes(), results / "0" / "result.json"
    for words in (
        ("--summary", base), ("--junit", base), ("--summary", f"{base.parent}/a/../base"), ("--summary", record),
        ("--junit", "x", "--summary", "./x"),
    ):  # fmt: skip
        code, text = gate("--baseline", base, results, *words)
        assert code == 2 and "would overwrite" in text, text
    assert base.read_bytes() == before and record.stat().st_size


def test_a_defect_is_no_drop(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, results = tmp_path / "base.json", runs(make, tmp_path / "a", [70.0, 70.5])
    gate("--write-baseline", base, results)
    monkeypatch.setattr("benchmarks.gate_command.compare_runs", lambda *_: 1 / 0)
    code, text = gate("--baseline", base, results)
    assert code == 70 and "ZeroDivisionError" in text


def test_matches_belong_to_their_record(
    make: SimpleNamespace, tmp_path: Path, gate: Callable[..., tuple[int, str]]
) -> None:
    """A file that is gone, another run's, or huge when unpacked: bad input, never a comparison by other means."""
    scene = draw_image_set(60, 1)
    data = Dataset("VOC", "voc_2007_test", 60, "f")
    for seed, name in enumerate(("one", "two")):
        file, arrays = tmp_path / name / "matches.npz", to_arrays(simulate_detector(scene, 1.0, seed), "")
        kept = {f"bbox_{k}": arrays.pop(k) for k in ("image", "category", "score", "verdict")}
        file.parent.mkdir()
        np.savez_compressed(file, format=np.array(1), **arrays, **kept)
        details = {"files": {"matches.npz": sha256(file)}}
        write_record(tmp_path / name, make.record("transfer", value=50.0, seed=seed, dataset=data, details=details))
    base = tmp_path / "base.json"
    assert gate("--write-baseline", base, tmp_path / "one")[0] == 0
    assert gate("--baseline", base, tmp_path / "one")[0] == 0
    whole = (tmp_path / "one/matches.npz").read_bytes()
    for content, complaint in (
        (None, "is missing"), ((tmp_path / "two/matches.npz").read_bytes(), "is not the file"), (whole[:-9], "is not"),
    ):  # fmt: skip
        (tmp_path / "one/matches.npz").unlink() if content is None else (tmp_path / "one/matches.npz").write_bytes(
            content
        )
        code, text = gate("--baseline", base, tmp_path / "one")
        assert code == 2 and complaint in text, text
    (tmp_path / "one/matches.npz").write_bytes(whole)
    # And the baseline's own file.
    assert gate("--write-baseline", tmp_path / "other.json", tmp_path / "two")[0] == 0
    base.with_suffix(".npz").write_bytes((tmp_path / "other.npz").read_bytes())
    code, text = gate("--baseline", base, tmp_path / "one")
    assert code == 2 and "is not the file that the record or baseline beside it names; keep both" in text

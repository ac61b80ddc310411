"""The page: whole in one file, quick from many records, honest about what it refuses."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.time_left import clock
from runs.errors import UserError
from runs.metrics_log import MetricsLog
from runs.record import write_record
from tests.benchmarks.conftest import report


def results(make: SimpleNamespace, folder: Path) -> Plan:
    """A finished `run` of Tables 4 and 5 with records made by hand."""
    from PIL import Image

    chosen = [tables.load(t).select(["scratch", "simsiam"], None) for t in ("table4", "table5")]
    plan = expand(chosen, scales.load("mini"), folder)
    plan.command = "python -m benchmarks run table4 table5"
    plan.write()
    drawn = 0
    for number, run in enumerate(plan.runs.values()):
        if run.kind in ("data", "convert"):
            plan.target(run.id).parent.mkdir(parents=True)
            plan.target(run.id).write_bytes(b"{}")
            continue
        plan.folder(run.id).mkdir(parents=True)
        value = 40.0 + number
        changes: dict[str, object] = {"seconds": float(number)}
        if run.kind == "pretrain":
            log = MetricsLog(plan.folder(run.id) / "metrics.jsonl")
            for step in range(50):
                log.write(step, loss=-step / 50, std=0.02, **({"knn_top1": 30.0 + step} if step % 10 == 0 else {}))
            log.close()
            Image.new("RGB", (2000, 100), "red").save(plan.folder(run.id) / "views.png")
            changes |= {"metrics": {"loss": -0.9, "std": 0.02}, "verdict": "healthy"}
        if run.kind == "transfer":
            points = {k + m: value for k in ("bbox/", "segm/") for m in ("AP", "AP50", "AP75")}
            curves = {"disc": [[0.1, 0.5], [1.0, 0.5]], "star": [[0.2], [0.8]]}
            changes |= {"config": {"task": run.task}, "metrics": points, "details": {"curves": curves}}
            # One trial of each is shown; two of those are equal.
            Image.new("RGB", (300, 100), (0, 0, 40 * max(1, drawn))).save(plan.folder(run.id) / "detections.png")
            drawn += run.settings["seed"] == 0
        write_record(plan.folder(run.id), make.record(run.kind, "simsiam", value, run.settings["seed"], **changes))
    return plan


def test_the_page_needs_no_other_file(make: SimpleNamespace, tmp_path: Path) -> None:
    plan = results(make, tmp_path)
    # Given twice, it is shown once.
    page = report([tmp_path, f"{tmp_path}/"], tmp_path)
    assert not re.search(r'(src|href)="(?!data:|#)', page), "something would be loaded from elsewhere"
    assert "url(" not in re.sub(r"url\(#", "", page)
    for text in (
        "Table 4",
        "Table 5",
        "Training loss",
        "kNN accuracy",
        "precision over recall",
        "healthy",
        plan.command,
    ):
        assert text in page, text
    assert (
        page.count('src="data:image/jpeg') == 1 + 5
    )  # the views of one pre-training; six detectors' detections, of which two are equal
    # Data and conversions are in the list of costs, not among the runs.
    runs = [number for number, run in enumerate(plan.runs.values()) if run.kind not in ("data", "convert")]
    assert f"from {len(runs)} runs, {clock(sum(runs))} (" in page
    # A reader without the paper: what the numbers beside are, and that a name keeps its capitals.
    assert "<h1>Tables 4 and 5, measured</h1>" in page and "<i>Exploring Simple Siamese" in page
    assert page.count("A dash: not measured or not published") == 2 and "Linear top-1 accuracy (%) at the mini" in page
    assert "About what was measured here" in page and "About the published table" in page
    assert page.count("<svg") == 3 + 3  # training, and precision over recall a task
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "two pictures share an id"
    for name in ("tables.md", "tables.tex", "tables.csv"):
        assert "SimSiam" in (tmp_path / name).read_text() or name == "tables.csv"
    assert (tmp_path / "tables.csv").read_text().count("table,scale,row") == 1


@pytest.mark.parametrize("name", ["report.html", "tables.tex"])
def test_a_file_of_somebody_elses_is_not_overwritten(make: SimpleNamespace, tmp_path: Path, name: str) -> None:
    write_record(tmp_path / "a", make.record())
    report([tmp_path / "a"], tmp_path / "ours")
    report([tmp_path / "a"], tmp_path / "ours")
    (tmp_path / name).write_text("theirs")
    with pytest.raises(UserError, match=f"{name}: is there already, and not written by"):
        report([tmp_path / "a"], tmp_path)
    assert (tmp_path / name).read_text() == "theirs"


def test_equal_records_give_an_equal_page(make: SimpleNamespace, tmp_path: Path) -> None:
    results(make, tmp_path)
    pages = [re.sub(r"Written [^<]*", "", report([tmp_path], tmp_path)) for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_500_records_take_less_than_20_seconds(make: SimpleNamespace, tmp_path: Path) -> None:
    results(make, tmp_path / "plan")
    for seed in range(500):
        write_record(tmp_path / "loose" / str(seed), make.record(seed=seed, value=50.0))
    start = time.perf_counter()
    page = report([tmp_path / "plan", tmp_path / "loose"], tmp_path / "out")
    assert time.perf_counter() - start < 20
    assert page.count("linear: simsiam, resnet50x0.25") == 500


def test_what_is_refused_is_said(make: SimpleNamespace, tmp_path: Path) -> None:
    plan = results(make, tmp_path / "plan")
    write_record(tmp_path / "loose/a", make.record())
    (tmp_path / "loose/b").mkdir()
    (tmp_path / "loose/b/result.json").write_text('{"schema": 99}')
    page = report([tmp_path / "plan", tmp_path / "loose"], tmp_path)
    assert "schema version 99" in page
    # A table's own record that was changed by hand is no number of the table, and the others stay.
    path = next(plan.folder(r.id) for r in plan.runs.values() if r.kind == "knn") / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 77}))
    page = report([tmp_path / "plan"], tmp_path)
    assert "changed after it was written" in page and "1 of 3 trials refused" in page
    with pytest.raises(UserError, match="nothing to report"):
        (tmp_path / "empty").mkdir()
        report([tmp_path / "empty"], tmp_path)


def test_long_lists_are_folded_and_equal_views_shown_once(make: SimpleNamespace, tmp_path: Path) -> None:
    page = report([results(make, tmp_path).output], tmp_path)
    # Five sheets lie open; of the three dozen runs only the line is seen.
    assert "<details open><summary>5 sheets of detections" in page
    assert re.search(r"<details><summary>3\d runs, data and conversions among them: state, time", page)

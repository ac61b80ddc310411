"""What is kept of a run: enough for the report, nothing of the machine, and what the repository itself keeps."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.report.result_tables import result_table
from benchmarks.report.table_formats import markdown
from benchmarks.results.records import find_records, read_plan_records
from benchmarks.results.table_results import table_results
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import read_plan
from benchmarks.workflow.run_status import status_of
from experiments.keep_results import ABSOLUTE, MAX_BYTES, keep_results
from runs.errors import UserError
from runs.files import write_json
from runs.metrics_log import read_log
from tests.benchmarks.conftest import record, report
from tests.benchmarks.test_report import results


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run, as one in the project's folder: relative."""
    monkeypatch.chdir(tmp_path)
    results(SimpleNamespace(record=record), Path("outputs/demo"))
    return Path("outputs/demo")


def test_the_report_can_be_written_again(run: Path) -> None:
    plan, target = read_plan(run), Path("results/mini")
    written = keep_results(plan, target)
    assert sum(written.values()) < 400_000
    assert {path.suffix for path in written} == {"", ".json", ".jsonl", ".md", ".tex", ".csv"}
    report([run], run)
    page = report([target], Path("again"))
    for name in ("tables.md", "tables.tex", "tables.csv"):
        assert (run / name).read_text() == (target / name).read_text() == Path("again", name).read_text()
    assert "Training loss" in page and "precision over recall" in page
    # A second copy replaces the first, what has gone included.
    (target / "old.txt").write_text("")
    assert keep_results(plan, target) == written and not (target / "old.txt").exists()


def test_a_long_log_is_thinned_and_keeps_its_knn(run: Path) -> None:
    plan = read_plan(run)
    folder = next(plan.folder(r.id) for r in plan.runs.values() if r.kind == "pretrain")
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(10_000):
            more = {"knn_top1": 1.0} if step % 1999 == 0 else {"loss": -0.5, "data_wait": 0.1}
            file.write(json.dumps({"step": step, **more}) + "\n")
    keep_results(plan, Path("kept"))
    rows = list(read_log(Path("kept") / folder.relative_to(run) / "metrics.jsonl"))
    assert [row["step"] for row in rows if "knn_top1" in row] == [0, 1999, 3998, 5997, 7996, 9995]
    assert 200 <= len(rows) <= 410 and not any("data_wait" in row for row in rows)


def test_what_cannot_be_kept_is_one_line(run: Path) -> None:
    plan = read_plan(run)
    Path("letters").mkdir()
    Path("letters/to_mother.txt").write_text("dear")
    with pytest.raises(UserError, match="letters: was not written by"):
        keep_results(plan, Path("letters"))
    with pytest.raises(UserError, match="was not written by"):
        keep_results(plan, run)
    with pytest.raises(UserError, match="holds the run itself or lies in it"):
        keep_results(plan, run / "copy")
    # The arguments exchanged: what was kept is a run too, and the run is nothing that keep has written.
    keep_results(plan, Path("kept"))
    before = sorted(run.rglob("*"))
    for target in (run, run.parent, Path("letters/to_mother.txt")):
        with pytest.raises(UserError, match=r"was not written by|is not a folder"):
            keep_results(read_plan("kept"), target)
    assert sorted(run.rglob("*")) == before
    with pytest.raises(UserError, match="kept: has the records of the mini scale, not of photos"):
        keep_results(dataclasses.replace(plan, scale="photos"), Path("kept"))
    # Other runs at the same scale.
    scratch = expand([tables.load("table4").select(["scratch"], None)], scales.load("mini"), run)
    with pytest.raises(UserError, match=r"kept: has \d+ runs that outputs/demo has not, e\.g\. convert/"):
        keep_results(scratch, Path("kept"))
    shutil.rmtree("kept")
    body = json.loads((run / "plan.json").read_text())
    body["command"] = "python -m benchmarks run table4 --data imagenet=/data/imagenet"
    write_json(run / "plan.json", body)
    with pytest.raises(UserError, match=r"plan\.json: names /data/imagenet, a path of this machine"):
        keep_results(read_plan(run), Path("kept"))
    assert not Path("kept").exists() and not Path(".kept.partial").exists()


@pytest.mark.parametrize(
    ("text", "path"),
    [("/srv/ada/x.pkl", "/srv/ada/x.pkl"), ("weights=/data/x.pkl seed=0", "/data/x.pkl"), ("~/data/x", "~/data/x"),
     ("[/a/b,c]", "/a/b"), ("C:\\data\\x", "C:\\data\\x"), ("bbox/AP50", None), ("https://host/file", None),
     ("outputs/demo/x", None), ("facebookresearch/moco", None), ("1 / 2", None), ("", None)],
)  # fmt: skip
def test_paths_of_a_machine(text: str, path: str | None) -> None:
    found = ABSOLUTE.search(text)
    assert (found[1] if found else None) == path


def test_what_the_repository_keeps(root: Path, tmp_path: Path) -> None:
    """results/: every record is whole, names no machine, and the tables are those that it gives."""
    kept = sorted(path.parent for path in (root / "results").glob("*/plan.json"))
    assert kept, "results/ holds no run"
    for folder in kept:
        records, refused = find_records([folder])
        assert records and not refused
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MAX_BYTES
        for path in folder.rglob("*.json"):
            for value in re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text()):
                assert not ABSOLUTE.search(value), f"{path}: {value}"
        plan = read_plan(folder)
        tables = "\n".join(
            markdown(result_table(table, properties=True))
            for table in table_results(plan, read_plan_records(plan)[0], status_of(plan))
        )
        assert (folder / "tables.md").read_text() == tables, f"keep {folder} again"
        assert folder.name in (root / "results" / "README.md").read_text()

"""Tables that say who collapses: the lab scale, the monitors' verdicts beside the paper's, the curves."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report import table_formats
from benchmarks.report.charts import final_value_curve, metric_charts, published_values, row_logs, row_mean_curves
from benchmarks.report.result_tables import result_table
from benchmarks.results.records import read_plan_records
from benchmarks.results.table_results import table_results
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import status_of
from experiments.pages import fill_page
from runs.errors import UserError
from runs.record import Dataset, Record, Subject, write_record
from tests.benchmarks.conftest import report

LAB = scales.load("lab")


def plan(folder: Path, *names: str) -> Plan:
    scale = scales.load("lab")
    return expand(tables.choose(list(names), None, None, scale.replace, scale.add), scale, folder)


def test_a_group_stands_for_its_tables() -> None:
    chosen = tables.choose(["collapse", "figure2"], None, None)
    names = [t.name for t in chosen]
    assert names == ["figure2", "table1", "table3", *(f"collapse/table{i}" for i in (1, 2, 3, 4))]
    for group in tables.groups().values():
        assert set(group) <= set(tables.names())
    assert not set(tables.groups()) & set(tables.names())


def test_every_row_of_the_group_runs_three_times_by_pretraining_alone(tmp_path: Path) -> None:
    p = plan(tmp_path, "collapse")
    assert {len(c.runs) for c in p.cells} == {3} and not any(c.absent for c in p.cells)
    assert {r.kind for r in p.runs.values()} == {"data", "pretrain"}
    # A row's settings say what it is; the size is the scale's in all of them.
    for run in p.runs.values():
        if run.kind == "pretrain":
            assert (run.settings["batch_size"], run.settings["arch"]) == (64, "resnet18x0.125_cifar")
    variants = {run.settings.get("variant") for run in p.runs.values()}
    assert {"mirror", "naive", "triplet_no_center", "expectation_25", "bn_none"} <= variants


@pytest.mark.parametrize("scale", ["lab", "small", "paper"])
def test_no_row_of_either_group_is_left_out(scale: str, tmp_path: Path) -> None:
    size = scales.load(scale)
    names = [name for group in ("collapse", "collapse-more") for name in tables.groups()[group]]
    p = expand(tables.choose(names, None, None, size.replace, size.add), size, tmp_path)
    assert not [(c.table, c.row, c.column, c.absent) for c in p.cells if c.absent or not c.runs]
    rows = {(c.table, c.row) for c in p.cells}
    assert rows == {(name, row.id) for name in names for row in tables.load(name).rows}
    # The second paper's accuracies are those of an online classifier; the laboratory has kNN instead.
    for run in (p.runs[r] for c in p.cells if c.table.startswith("collapse/") for r in c.runs):
        if run.kind == "pretrain":
            assert run.settings["probe.enabled"] == (scale != "lab")


def test_no_column_asks_a_row_for_what_it_cannot_have() -> None:
    """A record without the metric of its column ends the table: numbers of a predictor need one, to the last step."""
    without = re.compile("naive|no_predictor|moving_average|expectation_|triplet|_only$|infonce|decorrelate")
    for table in (tables.load(name) for group in ("collapse", "collapse-more") for name in tables.groups()[group]):
        asked = [c.metric for c in table.columns if c.metric.startswith(("eta_", "bias_", "p_", "o_e"))]
        for row in table.rows:
            assert not asked or not without.search(str(row.pretrain.get("variant", ""))), (table.name, row.id, asked)


def test_columns_that_a_scale_cannot_measure_have_stand_ins() -> None:
    table = tables.adapt_columns(tables.load("collapse/table2"), LAB.replace, LAB.add)
    assert [c.metric for c in table.columns] == ["knn_top1", "knn_top1_start", "std", "m_o", "m_r"]
    assert table.columns[0].label == "Top-1 (kNN)"
    assert table.rows[0].values == (66.62, None, None, None, None)
    # The paper measures these itself, and a table without the question stays as it is.
    assert [c.id for c in tables.adapt_columns(tables.load("collapse/table3"), LAB.replace, LAB.add).columns].count(
        "std"
    ) == 1
    assert len(tables.adapt_columns(tables.load("table2"), LAB.replace, LAB.add).columns) == 1


def finish(p: Plan, row: str, collapsed: list[bool]) -> None:
    """Write records and logs as the row's pre-trainings would."""
    cell = next(c for c in p.cells if c.row == row)
    for seed, (run, bad) in enumerate(zip(cell.runs, collapsed, strict=True)):
        metrics = {"loss": -1.0 if bad else -0.7, "std": 0.0001 if bad else 0.04, "m_o": float(bad), "m_r": 0.5,
                   "knn_top1": 12.5, "knn_top1_start": 12.5}  # fmt: skip
        subject, data = Subject("siamese", "resnet18x0.125_cifar", 6), Dataset("shapes", "train", 8, "f")
        verdict = "collapsed at step 20" if bad else "healthy"
        write_record(p.folder(run), Record("pretrain", subject, data, metrics, seed, {}, 1.0, 1.0, row, verdict))
        lines = [{"step": i, "epoch": i / 4, "std": 0.04 / (i + 1), "std_healthy": 0.044, "m_o": 0.1, "m_r": 0.9,
                  "covariance": 0.2}
                 for i in range(4)]  # fmt: skip
        (p.folder(run) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_monitors_verdicts_stand_beside_the_papers(tmp_path: Path) -> None:
    p = plan(tmp_path, "collapse/figure7")
    for folder in p.runs:
        p.folder(folder).mkdir(parents=True)
    for row, bad in (("simsiam", [False] * 3), ("naive", [True] * 3), ("mirror", [True, False, True])):
        finish(p, row, bad)
    p.write()
    report([tmp_path], tmp_path)
    [filled] = table_results(p, read_plan_records(p)[0], status_of(p))
    assert [str(v) for v in filled.verdicts] == ["× 0/3", "✓ 3/3", "2/3", "None", "None"]
    assert "Mirror SimSiam: collapsed in 2 of 3 runs; the paper has a collapse." in filled.remarks
    text = table_formats.markdown(result_table(filled, properties=True))
    assert "| × | × 0/3 |" in text and "| ✓ | ✓ 3/3 |" in text
    # Small numbers keep their digits.
    assert "0.0001" in text and "0.0400" in text
    console = Console(record=True, width=200)
    table_formats.print_table(result_table(filled), console)
    assert "✓ 3/3" in console.export_text()
    page = (tmp_path / "report.html").read_text()
    # Three with the table, and the std once more where all pre-trainings are drawn together.
    assert page.count("<svg") == 4 and "collapsed, ours" in page and "<b>2/3</b>" in page


def test_agreement_is_said_once(tmp_path: Path) -> None:
    p = plan(tmp_path, "figure2")
    for folder in p.runs:
        p.folder(folder).mkdir(parents=True)
    finish(p, "stop", [False] * 3)
    finish(p, "no_stop", [True] * 3)
    [filled] = table_results(p, read_plan_records(p)[0], status_of(p))
    assert filled.remarks[0].startswith("Who collapses and who does not is as in the paper")


@pytest.mark.parametrize(("table", "row"), [("figure7", "naive"), ("figure8", "t02")])
def test_the_curves_become_a_picture(table: str, row: str, tmp_path: Path) -> None:
    p = plan(tmp_path, f"collapse/{table}")
    for folder in p.runs:
        p.folder(folder).mkdir(parents=True)
    finish(p, row, [True] * 3)
    p.write()
    text = f"<!-- curves: collapse/{table} -->\n![a](images/a.png)\n<!-- end -->\n"
    assert fill_page(text, tmp_path, tmp_path) == text
    assert (tmp_path / "images" / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="no run of it has curves"):
        fill_page(text.replace(f"collapse/{table}", "figure2"), tmp_path, tmp_path)


def test_the_papers_numbers_are_drawn_with_ours() -> None:
    table = tables.load("collapse/figure5a")
    assert published_values(table, "eta_p") == [("SimSiam", -0.5)]
    assert published_values(table, "eta_z") == [("Mirror SimSiam", 0.2)]
    assert published_values(tables.load("collapse/figure5b"), "m_r") == []
    # A linear accuracy is no curve of a pre-training.
    assert published_values(tables.load("collapse/table2"), "knn_top1") == []
    assert published_values(tables.load("figure2"), "loss") == [("w/o stop-grad", -1.0)]


def test_the_runs_of_a_row_are_one_curve_in_a_band() -> None:
    def log(label: str, y: tuple[float, float], last: int = 1) -> tuple[str, list[dict[str, float]]]:
        return label, [{"step": 0, "loss": y[0]}, {"step": last, "loss": y[1]}]

    x = (0.0, 1.0)
    logs = [log("a", (1.0, 2.0)), log("a", (3.0, 2.0)), log("b", (5.0, 6.0)), log("a", (2.0, 8.0))]
    a, b = row_mean_curves(logs, "loss")
    assert (a.label, a.x, b.label, b.y, b.std, a.number, b.number) == ("a", x, "b", [5.0, 6.0], (), 0, 1)
    # Mean and sample deviation, point by point.
    assert a.y == pytest.approx([2.0, 4.0]) and a.std == pytest.approx([1.0, 12**0.5])
    # A run that was measured at other steps is a curve of its own.
    assert [line.x for line in row_mean_curves([*logs, log("a", (0.0, 0.0), 2)], "loss")] == [x, x, (0.0, 2.0)]


def test_the_ends_of_training_lie_over_the_setting() -> None:
    table = tables.load("collapse/figure8")
    log = {
        label: [[{"step": i, "covariance": v + i} for i in range(3)] for v in (0.1, 0.3)]
        for label in ("τ = 1.0", "τ = 0.05")
    }
    log["τ = 0.05"][1][2]["covariance"] = 4.1
    line = final_value_curve([(label, one) for label, runs in log.items() for one in runs], table, "covariance")
    assert line.x == [0.05, 1.0]
    assert line.y == pytest.approx([3.1, 2.2]) and line.std == pytest.approx([2**0.5, 0.02**0.5])
    assert final_value_curve([], table, "covariance") is None


def test_a_row_without_the_setting_of_its_table_is_refused(tmp_path: Path) -> None:
    text = (tables.PAPERS / "collapse" / "figure8.yaml").read_text(encoding="utf-8")
    (tmp_path / "f.yaml").write_text(text.replace(", method.temperature: 0.1}", "}"), encoding="utf-8")
    with pytest.raises(UserError, match="row t01: the table is drawn over"):
        tables.load(str(tmp_path / "f.yaml"))


def test_a_row_draws_only_the_curves_that_are_its_own(tmp_path: Path) -> None:
    p = plan(tmp_path, "collapse/figure5a")
    for run in p.runs:
        p.folder(run).mkdir(parents=True)
        (p.folder(run) / "metrics.jsonl").write_text('{"step": 7, "epoch": 1.0, "eta_p": -0.5, "eta_z": 0.2}\n')
    logs = row_logs(p, tables.load("collapse/figure5a"))
    assert [line.label for line in row_mean_curves(logs, "eta_p")] == ["SimSiam"]
    assert [line.label for line in row_mean_curves(logs, "eta_z")] == ["Mirror SimSiam"]
    # One row has one colour in all charts.
    assert {c.curves[0].label: c.curves[0].number for c in metric_charts(logs, ("eta_p", "eta_z"))} == {
        "SimSiam": 0,
        "Mirror SimSiam": 1,
    }

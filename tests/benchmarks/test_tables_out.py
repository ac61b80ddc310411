"""TableResult tables: numbers, honest remarks, and the four ways to write them."""

import csv
import io
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from benchmarks.report import table_formats
from benchmarks.report.result_tables import format_difference, format_measured, result_table, results_csv
from benchmarks.results.table_results import TableResult, table_results
from benchmarks.results.trial_statistics import is_above_by_stds, is_outside_noise, summarize
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import Status


def test_summary_is_numpys_and_scipys() -> None:
    import numpy as np
    from scipy import stats

    values = [67.7, 67.6, 67.4, 67.6, 67.3]
    summary = summarize(values)
    assert summary.n == 5
    assert math.isclose(summary.mean, np.mean(values)) and math.isclose(summary.std or 0, np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert math.isclose(summary.half or 0, (high - low) / 2)
    assert summarize([1.0]).std is None
    for bad in ([], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="trials"):
            summarize(bad)


def test_comparisons() -> None:
    assert is_outside_noise(summarize([57.0]), 57.3, 0.2) is False
    assert is_outside_noise(summarize([56.0]), 57.3, 0.2) is True
    assert is_outside_noise(summarize([56.0]), 57.3, None) is None
    # Student's interval of ours, whose quantile is 2.776 at five trials, and the paper's mean of five.
    trials = summarize([57.0, 57.2, 56.8, 57.1, 56.9])
    half = 2.776 * math.sqrt(0.1 / 4 / 5)
    both = math.hypot(half, 1.96 * 0.2 / math.sqrt(5))
    assert is_outside_noise(trials, 57.0 + 0.99 * both, 0.2, 5) is False
    assert is_outside_noise(trials, 57.0 + 1.01 * both, 0.2, 5) is True
    assert is_outside_noise(trials, 57.0 + 1.01 * half, None) is True
    assert is_above_by_stds(summarize([50.0, 51.0, 52.0]), summarize([40.0, 41.0, 42.0])) is True
    assert is_above_by_stds(summarize([50.0, 55.0, 60.0]), summarize([45.0, 50.0, 55.0])) is False
    assert is_above_by_stds(summarize([50.0]), summarize([40.0])) is None


def filled(make: SimpleNamespace, folder: Path, scratch: list[float], simsiam: list[float]) -> TableResult:
    chosen = [tables.load("table4").select(["scratch", "simsiam"], ["ep100", "ep200"])]
    plan: Plan = expand(chosen, scales.load("mini"), folder)
    records = {}
    for cell in plan.cells:
        for run, value in zip(cell.runs, scratch if cell.row == "scratch" else simsiam, strict=False):
            records[run] = make.record("linear", cell.row, value)
    return table_results(plan, records, Status())[0]


@pytest.mark.parametrize(("scale", "ours", "mark"), [("paper", 47.1, " ≈"), ("paper", 45.0, " ≠"), ("mini", 45.0, "")])
def test_a_difference_says_whether_it_is_noise(
    make: SimpleNamespace, tmp_path: Path, scale: str, ours: float, mark: str
) -> None:
    chosen = [tables.load("table5").select(["simsiam"], ["voc07_ap"])]
    plan = expand(chosen, scales.load(scale), tmp_path)
    (cell,) = plan.cells
    values = dict(zip(cell.runs, [ours - 0.1, ours, ours + 0.1, ours - 0.1, ours + 0.1], strict=False))
    records = {run: make.record("transfer", value=value) for run, value in values.items()}
    (table,) = table_results(plan, records, Status())
    assert format_difference(table.entries[0][0]).endswith(mark) and (
        "noise of both" in " ".join(table.remarks)
    ) == bool(mark)
    assert format_difference(table.entries[0][0])[-1].isdigit() == (not mark)


def test_entries_and_remarks(make: SimpleNamespace, tmp_path: Path) -> None:
    table = filled(make, tmp_path, [40.0, 41.0, 42.0], [50.0, 51.0, 52.0])
    entry = table.entries[1][1]
    assert entry.paper == 70.0 and entry.ours is not None and entry.ours.mean == 51.0
    assert entry.difference == pytest.approx(-19.0) and entry.above_scratch is True and not entry.below_scratch
    assert table.entries[1][0].remark == "not at the mini scale"
    assert any("n < 5: entries of 3 trials" in r for r in table.remarks)
    assert any("no verdict" in r for r in table.remarks)

    worse = filled(make, tmp_path, [50.0, 51.0, 52.0], [40.0, 41.0, 42.0])
    assert any("SimSiam does not beat the untrained network in linear top-1 (200 ep)" in r for r in worse.remarks)
    close = filled(make, tmp_path, [50.0, 51.0, 52.0], [51.0, 52.0, 53.0])
    assert any("by less than the standard deviations" in r for r in close.remarks)
    few = filled(make, tmp_path, [50.0, 51.0, 52.0], [51.0])
    assert few.entries[1][1].remark == "2 of 3 trials not run yet"
    assert "(n = 1 of 3)" in format_measured(few.entries[1][1])


def test_a_column_of_equal_trials_says_their_number_in_its_head(make: SimpleNamespace, tmp_path: Path) -> None:
    chosen = [tables.load("table5").select(["scratch", "simsiam"], ["voc07_ap", "coco_ap", "voc0712_ap"])]
    plan = expand(chosen, scales.load("mini"), tmp_path)
    records = {run: make.record("transfer", value=20.0) for cell in plan.cells for run in cell.runs}
    del records[next(cell.runs[0] for cell in plan.cells if cell.column == "voc0712_ap")]
    (table,) = table_results(plan, records, Status())
    text = table_formats.markdown(result_table(table))
    assert "| VOC 07 detection (n = 3) AP |" in text and "| COCO detection (n = 1) AP |" in text
    assert "| scratch | **20.0 ± 0.0** | **20.0 ± 0.0 (n = 2 of 3)** | **20.0** |" in text, text


def test_markdown_latex_and_csv_hold_the_same_numbers(make: SimpleNamespace, tmp_path: Path) -> None:
    table = filled(make, tmp_path, [40.0, 41.0, 42.0], [50.0, 51.5, 52.0])
    text = table_formats.markdown(result_table(table))
    assert "| SimSiam | – | 51.2 ± 1.0 |" in text and "| SimSiam, paper | 68.1 | 70.0 (−18.8) |" in text
    text = table_formats.render_template("table.tex.j2", table=result_table(table))
    assert r"51.2 $\pm$ 1.0 (70.0 ($-$18.8))" in text and r"\bottomrule" in text
    [line] = [r for r in csv.DictReader(io.StringIO(results_csv([table]))) if r["row"] == "simsiam" and r["n"] != "0"]
    assert [float(x) for x in line["trials"].split()] == [50.0, 51.5, 52.0] and float(line["paper"]) == 70.0
    with_text = io.StringIO()
    table_formats.print_table(result_table(table), Console(file=with_text, width=80))
    assert "51.2 ± 1.0" in with_text.getvalue() and max(map(len, with_text.getvalue().splitlines())) <= 80


def test_a_wide_table_fits_every_terminal(tmp_path: Path) -> None:
    plan = expand([tables.load("table5")], scales.load("mini"), tmp_path)
    for width in (60, 80, 200):
        text = io.StringIO()
        table_formats.print_table(result_table(table_results(plan, {}, Status())[0]), Console(file=text, width=width))
        lines = [line for line in text.getvalue().splitlines() if line and not line.startswith("-")]
        assert max(map(len, lines)) <= width
        # Every published number is there, however the columns are divided.
        assert text.getvalue().count("77.1") == 2

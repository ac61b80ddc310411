"""The report: one HTML page that needs no other file, and the tables as Markdown, LaTeX and CSV beside it."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import grid, sections
from benchmarks.report.charts import charts_of, row_logs, run_logs, svg
from benchmarks.report.result_tables import comma_separated, result_grid, title_of
from benchmarks.results.records import Found, find
from benchmarks.results.table_results import Results, TableResult, results_of
from benchmarks.workflow.estimate import clock
from benchmarks.workflow.run_graph import PLAN, read_plan
from runs.errors import UserError
from runs.files import DETECTIONS, VIEWS, atomic_write

PAGE = "report.html"
HERE = Path(__file__).parent
# More methods than this in one chart cannot be told apart.
MOST = 8


def report_folders(folders: Sequence[str | Path], output: Path) -> Path:
    """Report what is there.

    Args:
        folders: outputs of `run`, whose tables are filled from the records that are there; the records of any other
            folder or file are listed below the tables.
        output: the folder to write to.

    Returns:
        The page's path.

    Raises:
        UserError: there is nothing to report, a place does not exist, or the disk refuses.
    """
    others = find(folder for folder in folders if not (Path(folder) / PLAN).exists())
    results = [results_of(read_plan(folder)) for folder in folders if (Path(folder) / PLAN).exists()]
    if not results and not others.records:
        reason = next(iter(others.refused.values()), "no plan.json and no result.json below the given folders")
        raise UserError(f"nothing to report: {reason}")
    return write_report(results, output, others)


def write_report(results: Sequence[Results], output: Path, others: Found | None = None) -> Path:
    """Write `report.html`, `tables.md`, `tables.tex` and `tables.csv`; returns the page's path."""
    with atomic_write(output / PAGE, "w") as file:
        file.write(html(results, others or Found()))
    write_tables([table for result in results for table in result.tables], output)
    return output / PAGE


def write_tables(tables: Sequence[TableResult], output: Path) -> None:
    """Write `tables.md`, `tables.tex` and `tables.csv`."""
    grids = [result_grid(table, properties=True) for table in tables]
    for name, text in (
        ("tables.md", "\n".join(map(grid.markdown, grids))),
        ("tables.tex", "\n".join(map(grid.latex, grids))),
        ("tables.csv", comma_separated(tables)),
    ):
        with atomic_write(output / name, "w") as file:
            file.write(text)


def html(found: Sequence[Results], others: Found) -> str:
    """Return the page.

    Args:
        found: the plans whose tables are shown, with their records.
        others: records without a plan.
    """
    plans = [f.plan for f in found]
    recorded = [record for f in found for record in f.records.values()]
    results = [(result, row_logs(f.plan, result.table)) for f in found for result in f.tables]
    training = [log for f in found for log in run_logs(f, f"{f.plan.output}: " if len(found) > 1 else "")]
    training = training if len({label for label, _ in training}) <= MOST else []
    costs, commands = sections.costs(found)
    return grid.render(
        "page.html.j2",
        title=title_of([result for result, _ in results]) if results else "Run records",
        gains=[result.gain for result, _ in results if result.gain],
        papers=list(dict.fromkeys(result.table.paper for result, _ in results)),
        about=list(dict.fromkeys(f"{p.scale} scale: {p.about}" for p in plans)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        tables=[(result, result_grid(result, properties=True, notes=False),
                 map(svg, charts_of(rows, result.table.curves, result.table))) for result, rows in results],
        training=[svg(chart) for chart in charts_of(training, ("loss", "std", "knn_top1"))],
        recall=[svg(chart) for chart in sections.precision_recall(found)],
        views=sections.pictures(found, "pretrain", VIEWS),
        detections=sections.pictures(found, "transfer", DETECTIONS),
        costs=costs,
        commands=commands,
        ended=len(recorded),
        total=clock(sum(r.seconds for r in recorded)),
        environments=sections.environments([*recorded, *others.records.values()]),
        starts=list(dict.fromkeys(p.command for p in plans if p.command)),
        others=sections.loose(others.records),
        refused=[*(reason for f in found for reason in f.refused), *others.refused.values()],
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "sort.js").read_text(encoding="utf-8"),
    )  # fmt: skip

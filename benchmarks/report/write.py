"""The report: one HTML page that needs no other file, and the tables as Markdown, LaTeX and CSV beside it."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import grid
from benchmarks.report.page import page
from benchmarks.report.tables import comma_separated, result_grid
from benchmarks.results.entries import TableResult, table_results
from benchmarks.results.records import find, records_of
from benchmarks.workflow.plan import PLAN, read_plan
from runs.errors import UserError
from runs.files import atomic_write

PAGE = "report.html"


def write_report(folders: Sequence[str | Path], output: Path) -> Path:
    """Write `report.html`, `tables.md`, `tables.tex` and `tables.csv`.

    Args:
        folders: outputs of `run`, whose tables are filled from the records that are there; the records of any other
            folder or file are listed below the tables.
        output: the folder to write to.

    Returns:
        The page's path.

    Raises:
        UserError: there is nothing to report, a place does not exist, or the disk refuses.
    """
    plans = [read_plan(folder) for folder in folders if (Path(folder) / PLAN).exists()]
    others = find(folder for folder in folders if not (Path(folder) / PLAN).exists())
    found = [(plan, *records_of(plan)) for plan in plans]
    results = [(plan, records, table_results(plan, records)) for plan, records, _ in found]
    refused = [*(reason for _, _, reasons in found for reason in reasons), *others.refused.values()]
    if not plans and not others.records:
        reason = next(iter(refused), "no plan.json and no result.json below the given folders")
        raise UserError(f"nothing to report: {reason}")
    path = output / PAGE
    with atomic_write(path, "w") as file:
        file.write(page(results, others.records, refused))
    write_tables([result for _, _, some in results for result in some], output)
    return path


def write_tables(results: Sequence[TableResult], output: Path) -> None:
    """Write `tables.md`, `tables.tex` and `tables.csv`."""
    grids = [result_grid(result, properties=True) for result in results]
    for name, text in (
        ("tables.md", "\n".join(map(grid.markdown, grids))),
        ("tables.tex", "\n".join(map(grid.latex, grids))),
        ("tables.csv", comma_separated(results)),
    ):
        with atomic_write(output / name, "w") as file:
            file.write(text)

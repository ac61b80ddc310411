"""The report: one HTML page that needs no other file, and the tables as Markdown, LaTeX and CSV beside it."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import grid
from benchmarks.report.page import page
from benchmarks.report.tables import comma_separated, result_grid
from benchmarks.results.entries import Results, TableResult, results_of
from benchmarks.results.records import Found, find
from benchmarks.workflow.plan import PLAN, read_plan
from runs.errors import UserError
from runs.files import atomic_write

PAGE = "report.html"


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
    path = output / PAGE
    with atomic_write(path, "w") as file:
        file.write(page(results, others or Found()))
    write_tables([table for result in results for table in result.tables], output)
    return path


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

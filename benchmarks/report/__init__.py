"""The report: one HTML page that needs no other file, and the tables as Markdown, LaTeX and CSV beside it."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import render
from benchmarks.fill import Filled, fill, read_records
from benchmarks.plan import Plan
from benchmarks.records import find
from benchmarks.report.page import page
from runs.errors import UserError
from runs.files import atomic_write

PAGE = "report.html"


def write_report(plans: Sequence[Plan], output: Path, loose: Sequence[str] = ()) -> Path:
    """Write `report.html`, `tables.md`, `tables.tex` and `tables.csv`.

    Args:
        plans: what `run` did; their tables are filled from the records that are there.
        output: the folder to write to.
        loose: further folders of records without a plan; their numbers are listed below the tables.

    Returns:
        The page's path.

    Raises:
        UserError: there is nothing to report, a place does not exist, or the disk refuses.
    """
    records = {plan.output: read_records(plan) for plan in plans}
    filled = [table for plan in plans for table in fill(plan, records[plan.output])]
    others = find(loose)
    if not filled and not others.records:
        reason = next(iter(others.refused.values()), "no plan.json and no result.json below the given folders")
        raise UserError(f"nothing to report: {reason}")
    path = output / PAGE
    with atomic_write(path, "w") as file:
        file.write(page(plans, records, filled, others))
    write_tables(filled, output)
    return path


def write_tables(filled: Sequence[Filled], output: Path) -> None:
    """Write `tables.md`, `tables.tex` and `tables.csv`."""
    for name, form, between in (
        ("tables.md", render.markdown, "\n"),
        ("tables.tex", render.latex, "\n"),
        ("tables.csv", render.comma_separated, ""),
    ):
        with atomic_write(output / name, "w") as file:
            parts = [form(table) for table in filled]
            # One head line for all tables of a CSV file.
            if name.endswith(".csv"):
                parts = parts[:1] + [part.split("\r\n", 1)[1] for part in parts[1:]]
            file.write(between.join(parts))

"""`python -m benchmarks page FOLDER PAGE.md`: the generated parts of a page, written from run records, never by hand.

A page has blocks between a comment that says what belongs there and `<!-- end -->`:

    <!-- facts -->                         how much was computed, and where
    <!-- table: table5 -->                 a table as measured
    <!-- table: figure2 knn_top1 m_o -->   metrics of its rows' pre-trainings
    <!-- curves: figure2 -->               the picture that the block shows is drawn again
"""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.report.content import environments
from benchmarks.report.curves import panels, row_logs
from benchmarks.report.figures import png
from benchmarks.report.grid import markdown
from benchmarks.report.tables import pretraining_grid, result_grid
from benchmarks.results.entries import results_of
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand import expand
from benchmarks.workflow.plan import Plan, read_plan
from runs.errors import UserError
from runs.files import atomic_write, read_bytes
from runs.record import Record

BLOCK = re.compile(r"(<!-- (table|facts|curves)(?:: ([^\n]*?))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def page(arguments: argparse.Namespace) -> int:
    """The command."""
    path = Path(arguments.page)
    text = filled_page(read_bytes(path).decode("utf-8"), Path(arguments.folder), path.parent, arguments.scale)
    with atomic_write(path, "w") as file:
        file.write(text)
    print(path)
    return 0


def filled_page(text: str, folder: Path, beside: Path, scale: str | None = None) -> str:
    """Return the page with its blocks written anew; draws the pictures that it shows.

    Args:
        text: the page.
        folder: output of `python -m benchmarks run`.
        beside: the page's folder, from which it names its pictures.
        scale: at which the tables were run, where several `run` have filled the folder; None reads its plan.

    Raises:
        UserError: the page has no block, or a block names no table or no metric.
    """
    asked = [(m[2], m[3].split()) for m in BLOCK.finditer(text) if m[3]]
    if not asked:
        raise UserError("the page has no block `<!-- table: NAME METRIC … -->` … `<!-- end -->`")
    plan = _plan(folder, scale, dict.fromkeys(names[0] for kind, names in asked if kind == "table"))
    found = results_of(plan)
    if found.refused:
        raise UserError(found.refused[0])
    results = {result.table.name: result for result in found.tables}

    def write(match: re.Match[str]) -> str:
        begin, kind, words, inside, end = match.groups()
        if kind == "facts":
            inside = facts(found.records.values()) + "\n"
        elif kind == "curves":
            _draw(plan, words.strip(), inside, beside)
        else:
            name, *metrics = words.split()
            if name not in results:
                raise UserError(f"{name}: {folder} has no such table; name the --scale that it was run at")
            result = results[name]
            grid = (
                pretraining_grid(result, plan, found.records, metrics)
                if metrics
                else result_grid(result, notes=False, whole=False)
            )
            inside = markdown(grid)
        return f"{begin}{inside}{end}"

    return BLOCK.sub(write, text)


def facts(records: Iterable[Record]) -> str:
    """How much was computed, on what."""
    records = list(records)
    if not records:
        return "Nothing has run yet."
    places = sorted({_place(record) for record in records})
    commits = sorted({environment["Commit"][:10] for environment in environments(records)})
    minutes = sum(r.seconds for r in records) / 60
    return (
        f"{len(records)} runs, {minutes:.0f} minutes all together ({'; '.join(places)}; commit {', '.join(commits)})."
    )


def _place(record: Record) -> str:
    e = record.environment
    return f"{e.get('processor')}, {e.get('cores')} cores, PyTorch {(e.get('packages') or {}).get('torch')}"


def _plan(folder: Path, scale: str | None, names: Iterable[str]) -> Plan:
    if scale is None:
        return read_plan(folder)
    size = scales.load(scale)
    return expand(tables.choose(list(names), None, None, size.adapt), size, folder)


def _draw(plan: Plan, name: str, inside: str, beside: Path) -> None:
    shown = PICTURE.search(inside)
    if not shown:
        raise UserError(f"the block of {name} shows no picture; put ![{name}](images/FILE.png) into it")
    # As published, not as the scale measures it, where the paper's accuracy stands beside another quantity.
    table = tables.load(name)
    charts = panels(row_logs(plan, table), table.curves, table)
    if not charts:
        raise UserError(f"{name}: no run of it has curves; run it first (python -m benchmarks run {name})")
    with atomic_write(beside / shown[1]) as file:
        file.write(png(charts))

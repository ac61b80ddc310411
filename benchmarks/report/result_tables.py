"""What is shown of a table that was measured: beside the paper's numbers, and as CSV."""

import csv
import io
from collections.abc import Sequence

from benchmarks.formatted_table import ABSENT, Cell, FormattedTable, Line, to_cells
from benchmarks.results.table_results import Entry, TableResult
from benchmarks.results.trial_statistics import Summary
from benchmarks.tables import table as tables


def format_measured(entry: Entry, show_count: bool = True) -> str:
    """Ours: `41.2 ± 0.3 (n = 3)`, or why there is none; where a whole column has the same n, its head says it."""
    if entry.ours is None:
        return entry.remark if entry.remark in ("failed", "refused") else ABSENT
    incomplete = f" of {entry.wanted}" if entry.ours.n < entry.wanted else ""
    count = f" (n = {entry.ours.n}{incomplete})" if show_count or incomplete else ""
    return format_mean_std(entry.ours, entry.digits) + count


def format_mean_std(summary: Summary, digits: int) -> str:
    """`41.2 ± 0.3`."""
    text = f"{summary.mean:.{digits}f}" + (f" ± {summary.std:.{digits}f}" if summary.std is not None else "")
    return text.replace("-", "−")


def format_difference(entry: Entry) -> str:
    """The difference with its sign and a true minus, and whether it lies inside (≈) or outside (≠) the noise."""
    if entry.difference is None:
        return ABSENT
    mark = "" if entry.differs is None else " ≠" if entry.differs else " ≈"
    return f"{entry.difference:+.{entry.digits}f}{mark}".replace("-", "−")


def result_table(
    result: TableResult, properties: bool = False, notes: bool = True, paper: bool = True
) -> FormattedTable:
    """A table as measured: ours, and with `paper` below each number the paper's and the difference.

    `properties` are the paper's descriptive columns, `notes` the remarks on what was measured.
    """
    table, facts = result.table, list(result.table.properties if properties else ())
    counts = _common_counts(result)
    lines = []
    for i, (row, entries) in enumerate(zip(table.rows, result.entries, strict=True)):
        verdict = result.verdicts[i] if result.verdicts else None
        cells = list(to_cells([row.properties.get(p, "") for p in facts]))
        if result.verdicts:
            cells.append(Cell(str(verdict or ABSENT), bold=verdict is not None and not verdict.agrees_with_paper))
        below = [Cell("") for _ in cells]
        if result.verdicts and not properties:
            below[-1] = Cell(str(row.properties.get("collapse", ABSENT)))
        for entry, count in zip(entries, counts, strict=True):
            flag = "≤ untrained" if entry.below_scratch else ""
            value = entry.ours.mean if entry.ours else None
            cells.append(Cell(format_measured(entry, count is None), entry.bold, flag, value, entry.remark))
            published = f"{entry.paper:.{entry.digits}f}" if isinstance(entry.paper, int | float) else entry.paper
            difference = f" ({format_difference(entry)})" if entry.difference is not None else ""
            below.append(Cell((published or ABSENT) + difference, entry.paper_bold))
        known = paper and any(e.paper is not None for e in entries)
        lines.append(Line(row.label, tuple(cells), tuple(below) if known else ()))
    heads = [("", f"{p}, paper" if p == "collapse" and result.verdicts else p) for p in facts]
    heads += [("", "collapsed, ours")] if result.verdicts else []
    said = [f" (n = {count})" if count and not result.trials else "" for count in counts]
    heads += [
        (c.group + n, c.label) if c.group else ("", c.label + n) for c, n in zip(table.columns, said, strict=True)
    ]
    trials = f"; mean ± std, n = {result.trials}" if result.trials else "; mean ± std (n trials)"
    beside = "; paper: its value, and ours minus it in parentheses" if paper else ""
    return FormattedTable(
        tuple(heads), tuple(lines), f"{table.label}: {table.title}",
        f"{table.quantity}, {result.scale} scale{trials}{beside}",
        (*result.remarks, *table.notes) if notes else (), "pre-train", len(heads) - len(counts),
    )  # fmt: skip


def _common_counts(result: TableResult) -> list[int | None]:
    """The number of trials that all entries of a column have; None where they differ."""
    found = [{entry.ours.n for entry in down if entry.ours} for down in zip(*result.entries, strict=True)]
    return [counts.pop() if len(counts) == 1 else None for counts in found]


def checkpoint_vs_paper_table(result: TableResult, checkpoint_name: str) -> FormattedTable:
    """A checkpoint's line above the paper's rows."""
    table = result.table
    whole = tables.load(table.name).select(None, [c.id for c in table.columns])
    ours = Line(checkpoint_name, tuple(Cell(format_measured(e), bold=e.ours is not None) for e in result.entries[0]))
    theirs = [Line(f"{r.label} (paper)", to_cells(r.values)) for r in whole.rows if any(r.values)]
    heads = tuple((c.group, c.label) for c in table.columns)
    return FormattedTable(
        heads, (ours, *theirs), f"{table.label}: {table.title}", f"{table.quantity}, {result.scale} scale"
    )


def results_csv(results: Sequence[TableResult]) -> str:
    """One line an entry: table, row, column, paper, n, mean, std, half of the 95 % interval, the trials."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["table", "scale", "row", "column", "task", "metric", "paper", "n", "mean", "std", "ci95_half",
                     "difference", "trials", "remark"])  # fmt: skip
    for result in results:
        for row, entries in zip(result.table.rows, result.entries, strict=True):
            for column, e in zip(result.table.columns, entries, strict=True):
                ours = [e.ours.n, e.ours.mean, e.ours.std, e.ours.half] if e.ours else [0, None, None, None]
                trials = " ".join(map(repr, e.ours.values)) if e.ours else ""
                writer.writerow([result.table.name, result.scale, row.id, column.id, column.task, column.metric,
                                 e.paper, *ours, e.difference, trials, e.remark])  # fmt: skip
    return out.getvalue()

"""What is shown of a table: as published, as measured, and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

from benchmarks.report.grid import ABSENT, Cell, Grid, Line, plain
from benchmarks.results.entries import Entry, TableResult, pretrainings
from benchmarks.results.trials import summarize
from benchmarks.tables import table as tables
from benchmarks.tables.table import Row, Table
from benchmarks.workflow.plan import Plan
from runs.errors import UserError
from runs.record import Record

CORNER = "pre-train"
# Head and digits of the metrics of a pre-training's record.
METRICS = {
    "knn_top1": ("kNN (%)", 1), "knn_top1_start": ("kNN before", 1), "loss": ("loss", 2), "std": ("std", 4),
    "m_o": ("m_o", 3), "m_r": ("m_r", 3), "covariance": ("covariance", 3), "effective_rank": ("rank", 1),
    "eta_p": ("η_p", 2), "eta_z": ("η_z", 2), "p_m_o": ("m_o of p", 3), "bias_set_cosine": ("cos(bias, o_z)", 2),
    "r_e_cosine": ("cos(r_e, de-corr.)", 2),
}  # fmt: skip


def number(entry: Entry, trials: bool = True) -> str:
    """Ours: `41.2 ± 0.3 (n = 3)`, or why there is none.

    Args:
        entry: the entry.
        trials: say how many; a table whose entries all have the same number says it once.
    """
    if entry.ours is None:
        return entry.remark if entry.remark in ("failed", "refused") else ABSENT
    incomplete = f" of {entry.wanted}" if entry.ours.n < entry.wanted else ""
    count = f" (n = {entry.ours.n}{incomplete})" if trials or incomplete else ""
    return _mean(entry.ours.values, entry.digits) + count


def _mean(values: Sequence[float], digits: int) -> str:
    found = summarize(values)
    text = f"{found.mean:.{digits}f}" + (f" ± {found.std:.{digits}f}" if found.std is not None else "")
    return text.replace("-", "−")


def published(entry: Entry) -> str:
    """The paper's: `68.1`, a word, or a dash."""
    if entry.paper is None:
        return ABSENT
    return entry.paper if isinstance(entry.paper, str) else f"{entry.paper:.{entry.digits}f}"


def signed(entry: Entry) -> str:
    """The difference with its sign and a true minus, and whether it lies inside (≈) or outside (≠) the noise."""
    if entry.difference is None:
        return ABSENT
    mark = "" if entry.differs is None else " ≠" if entry.differs else " ≈"
    return f"{entry.difference:+.{entry.digits}f}{mark}".replace("-", "−")


def paper_grid(table: Table) -> Grid:
    """A table as published, the descriptive columns first."""
    lines = []
    for row in table.rows:
        values = [
            _word(value) + (f" ± {std}" if std is not None else "")
            for value, std in zip(row.values, row.std or (None,) * len(row.values), strict=True)
        ]
        lines.append(Line(row.label, plain([*(row.properties.get(p) for p in table.properties), *values])))
    heads = (*(("", p) for p in table.properties), *((c.group, c.label) for c in table.columns))
    return Grid(
        heads, tuple(lines), f"{table.label}: {table.title}", table.quantity, table.notes, CORNER, len(table.properties)
    )


def _word(value: float | str | None) -> str:
    return ABSENT if value is None else str(value)


def result_grid(result: TableResult, properties: bool = False, notes: bool = True, whole: bool = True) -> Grid:
    """A table as measured: ours, and below each number the paper's with the difference.

    Args:
        result: the table.
        properties: the paper's descriptive columns too.
        notes: the remarks on what was measured.
        whole: the columns too in which nothing was measured.
    """
    if not whole:
        result = result.measured()
    table, facts = result.table, list(result.table.properties if properties else ())
    lines = []
    for i, (row, entries) in enumerate(zip(table.rows, result.entries, strict=True)):
        verdict = result.verdicts[i] if result.verdicts else None
        cells = list(plain([row.properties.get(p, "") for p in facts]))
        if result.verdicts:
            cells.append(Cell(str(verdict or ABSENT), bold=verdict is not None and not verdict.agrees))
        below = [Cell("") for _ in cells]
        if result.verdicts and not properties:
            below[-1] = Cell(str(row.properties.get("collapse", ABSENT)))
        for entry in entries:
            flag = "≤ untrained" if entry.below_scratch else ""
            value = entry.ours.mean if entry.ours else None
            cells.append(Cell(number(entry, result.trials is None), entry.bold, flag, value, entry.remark))
            difference = f" ({signed(entry)})" if entry.difference is not None else ""
            below.append(Cell(published(entry) + difference, entry.paper_bold))
        known = any(e.paper is not None for e in entries)
        lines.append(Line(row.label, tuple(cells), tuple(below) if known else ()))
    heads = [("", f"{p}, paper" if p == "collapse" and result.verdicts else p) for p in facts]
    heads += [("", "collapsed, ours")] if result.verdicts else []
    trials = f"; mean ± std, n = {result.trials}" if result.trials else "; mean ± std (n trials)"
    return Grid(
        (*heads, *((c.group, c.label) for c in table.columns)), tuple(lines), f"{table.label}: {table.title}",
        f"{table.quantity}, {result.scale} scale{trials}; paper: its value, and ours minus it in parentheses",
        (*result.remarks, *table.notes) if notes else (), CORNER, len(heads),
    )  # fmt: skip


def beside_paper(result: TableResult, name: str) -> Grid:
    """A checkpoint's line above the paper's rows."""
    table = result.table
    whole = tables.load(table.name).select(None, [c.id for c in table.columns])
    ours = Line(name, tuple(Cell(number(e), bold=e.ours is not None) for e in result.entries[0]))
    theirs = [Line(f"{r.label} (paper)", plain([_word(v) for v in r.values])) for r in whole.rows if any(r.values)]
    heads = tuple((c.group, c.label) for c in table.columns)
    return Grid(heads, (ours, *theirs), f"{table.label}: {table.title}", f"{table.quantity}, {result.scale} scale")


def pretraining_grid(result: TableResult, plan: Plan, records: Mapping[str, Record], metrics: Sequence[str]) -> Grid:
    """Metrics of a table's pre-trainings: the paper's word and number, our trials, the monitors' verdicts.

    Raises:
        UserError: a metric has no name here.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"{metric}: no such metric; there are {', '.join(METRICS)}")
    published = tables.load(result.table.name)
    # A figure need not print its accuracies.
    printed = [i for i in range(len(published.columns)) if any(row.values[i] is not None for row in published.rows)]
    accuracy = next((i for i in printed if published.columns[i].task in ("linear", "knn")), None)
    asked = "collapse" in published.properties
    lines = []
    for i, row in enumerate(published.rows):
        runs = [records[r] for r in pretrainings(plan, result.table.name, row.id) if r in records]
        said = result.verdicts[i] if result.verdicts else None
        verdict = str(said or ABSENT) + (" in p" if any("prediction" in run.verdict for run in runs) else "")
        cells = [Cell(preset(row))]
        if accuracy is not None:
            cells.append(Cell(_word(row.values[accuracy])))
        if asked:
            cells.append(Cell(str(row.properties.get("collapse", ABSENT))))
            cells.append(Cell(verdict, bold=said is not None and not said.agrees))
        cells.append(Cell(str(len(runs))))
        for metric in metrics:
            values = [run.metrics[metric] for run in runs if metric in run.metrics]
            cells.append(Cell(_mean(values, METRICS[metric][1]) if values else ABSENT))
        lines.append(Line(row.label, tuple(cells)))
    heads = ["preset", *(["paper: top-1 (%)"] if accuracy is not None else [])]
    heads += ["paper: collapse", "ours: collapsed"] if asked else []
    heads += ["n", *(METRICS[m][0] for m in metrics)]
    return Grid(tuple(("", head) for head in heads), tuple(lines), facts=len(heads) - len(metrics))


def preset(row: Row) -> str:
    """The arguments of a command that make the row."""
    settings = row.pretrain
    if "variant" in settings:
        return f"`variant={settings['variant']}`"
    own = [f"{k}={str(v).lower()}" for k, v in settings.items() if k.startswith("method")]
    return f"`{' '.join(own)}`" if own else ABSENT


def comma_separated(results: Sequence[TableResult]) -> str:
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


def title_of(results: Sequence[TableResult]) -> str:
    """`Tables 4 and 5, measured`."""
    labels = list(dict.fromkeys(r.table.label for r in results))
    if len(labels) > 1 and all(label.startswith("Table ") for label in labels):
        labels = ["Tables " + labels[0].removeprefix("Table "), *(label.removeprefix("Table ") for label in labels[1:])]
    return (", ".join(labels[:-1]) + " and " if len(labels) > 1 else "") + labels[-1] + ", measured"

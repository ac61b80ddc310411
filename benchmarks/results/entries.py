"""Tables filled with what was measured: a pure function of a plan and the records of its runs."""

import dataclasses
import math
from dataclasses import dataclass

from benchmarks.results.records import records_of
from benchmarks.results.trials import Summary, clearly_above, outside_noise, summarize
from benchmarks.tables.table import Column, Row, Table, adapt, load
from benchmarks.workflow.plan import Cell, Plan
from benchmarks.workflow.status import Status, status_of
from runs.record import Record

# The metrics that decide; the others of a run are shown beside them. AP averages ten thresholds and is least noisy.
DECISIVE = ("bbox/AP", "segm/AP", "top1")


@dataclass(frozen=True)
class Entry:
    """One entry: the paper's value, ours, and what can be said of the two.

    Attributes:
        paper: the published number or word; None if there is none.
        ours: our trials; None while there are none.
        wanted: trials that the plan has for it.
        remark: why `ours` is missing or incomplete; empty otherwise.
        differs: whether ours lies outside the noise of both sides; None if that cannot be said.
        digits: behind the point, where the numbers are printed.
        bold: whether ours is within the table's bold rule.
        paper_bold: the same for the paper's.
        above_scratch: whether ours lies above the untrained network's by more than the spread; None if unknown.
    """

    paper: float | str | None
    ours: Summary | None
    wanted: int
    remark: str = ""
    differs: bool | None = None
    digits: int = 1
    bold: bool = False
    paper_bold: bool = False
    above_scratch: bool | None = None
    below_scratch: bool = False

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.ours is None or self.paper is None or isinstance(self.paper, str):
            return None
        return self.ours.mean - self.paper


@dataclass(frozen=True)
class Verdict:
    """What the monitors said of a row's pre-trainings, and what the paper says: `✓` for a collapse, `×` for none."""

    collapsed: int
    trials: int
    paper: str = ""

    def __str__(self) -> str:
        sign = {0: "×", self.trials: "✓"}.get(self.collapsed, "")
        return f"{sign} {self.collapsed}/{self.trials}".strip()

    @property
    def agrees(self) -> bool:
        """Whether all trials do as the paper says; True where it says nothing."""
        return not self.paper or str(self)[0] == self.paper


@dataclass(frozen=True)
class TableResult:
    """A table with its entries, one list a row; `verdicts` only where the table has a property `collapse`."""

    table: Table
    entries: tuple[tuple[Entry, ...], ...]
    scale: str
    remarks: tuple[str, ...]
    verdicts: tuple[Verdict | None, ...] = ()

    def measured(self) -> "TableResult":
        """The same without the columns of which nothing was measured."""
        kept = [i for i in range(len(self.table.columns)) if any(line[i].ours for line in self.entries)]
        if not kept:
            return self
        table = self.table.select(None, [self.table.columns[i].id for i in kept])
        entries = tuple(tuple(line[i] for i in kept) for line in self.entries)
        return dataclasses.replace(self, table=table, entries=entries)

    @property
    def trials(self) -> int | None:
        """Number of trials, if it is the same for all entries."""
        counts = {e.ours.n for line in self.entries for e in line if e.ours}
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True)
class Results:
    """A plan, the records of its runs by id, why others were refused, and its tables filled."""

    plan: Plan
    records: dict[str, Record]
    refused: list[str]
    tables: list[TableResult]


def results_of(plan: Plan, status: Status | None = None) -> Results:
    """Read a plan's records once and fill its tables; `status` as for `table_results`."""
    records, refused = records_of(plan)
    return Results(plan, records, refused, table_results(plan, records, status))


def table_results(plan: Plan, records: dict[str, Record], status: Status | None = None) -> list[TableResult]:
    """Fill all tables of a plan.

    Args:
        plan: the plan.
        records: by run id.
        status: the state of the runs, read anew if None.
    """
    status = status or status_of(plan)
    results = []
    for chosen in plan.tables:
        table = adapt(load(chosen.name), plan.replace, plan.add).select(chosen.rows, chosen.columns)
        if plan.checkpoint:
            # In this row stands a checkpoint that the paper does not have, and whose network the row does not describe.
            name = plan.checkpoint.name
            table = dataclasses.replace(table, bold={}, properties=(), rows=tuple(
                dataclasses.replace(r, label=name, values=(None,) * len(table.columns), std=(), properties={})
                for r in table.rows
            ))  # fmt: skip
        cells = {(c.row, c.column): c for c in plan.cells if c.table == table.name}
        entries = tuple(
            tuple(_entry(plan, table, row, column, cells[row.id, column.id], records, status)
                  for column in table.columns)
            for row in table.rows
        )  # fmt: skip
        entries = _with_scratch(table, _with_bold(table, entries))
        verdicts = tuple(_verdict(plan, table, row, records) for row in table.rows)
        verdicts = verdicts if any(verdicts) else ()
        remarks = [*_collapse_remarks(table, verdicts), *_remarks(table, entries, plan.scale)]
        results.append(TableResult(table, entries, plan.scale, tuple(remarks), verdicts))
    return results


def gain(result: TableResult) -> str:
    """What pre-training gave, in one sentence: SimSiam, or the first method, beside the best untrained network."""
    rows = list(zip(result.table.rows, result.entries, strict=True))
    trained = [pair for pair in rows if not pair[0].untrained and any(e.ours for e in pair[1])]
    untrained = [pair for pair in rows if pair[0].untrained]
    if not trained or not untrained:
        return ""
    row, entries = next((pair for pair in trained if pair[0].id == "simsiam"), trained[0])
    parts = []
    for i, column in enumerate(result.table.columns):
        ours = entries[i].ours
        before = max((e[i].ours for _, e in untrained if e[i].ours), key=lambda s: s.mean if s else 0.0, default=None)
        if ours is None or before is None or column.metric not in DECISIVE:
            continue
        known = [s.std for s in (ours, before) if s.std is not None]
        std = f", std {math.hypot(*known):.{column.digits}f}" if len(known) == 2 else ""
        counts = str(ours.n) if ours.n == before.n else f"{ours.n} and {before.n}"
        difference = f"{ours.mean - before.mean:+.{column.digits}f}".replace("-", "−")
        parts.append(f"{difference} points of {full_label(column)} (n = {counts}{std})")
    if not parts:
        return ""
    rival = "the untrained network" if len(untrained) == 1 else "the best untrained network"
    return f"Pre-training ({row.label}) against {rival}: {listed(parts)}."


def pretrainings(plan: Plan, table: str, row: str) -> list[str]:
    """The ids of the pre-trainings behind a row's entries."""
    behind = [run for cell in plan.cells if (cell.table, cell.row) == (table, row) for run in cell.runs]
    found = dict.fromkeys(name for run in behind for name in plan.before(run) if plan.runs[name].kind == "pretrain")
    return list(found)


def _verdict(plan: Plan, table: Table, row: Row, records: dict[str, Record]) -> Verdict | None:
    if "collapse" not in table.properties:
        return None
    said = [records[run].verdict for run in pretrainings(plan, table.name, row.id) if run in records]
    watched = [verdict.startswith("collapsed") for verdict in said if not verdict.startswith("not watched")]
    return Verdict(sum(watched), len(watched), row.properties.get("collapse", "")) if watched else None


def _collapse_remarks(table: Table, verdicts: tuple[Verdict | None, ...]) -> list[str]:
    judged = [(row, v) for row, v in zip(table.rows, verdicts, strict=False) if v is not None and v.paper]
    remarks = [
        f"{row.label}: collapsed in {v.collapsed} of {v.trials} runs; the paper has "
        f"{'a collapse' if v.paper == '✓' else 'none'}."
        for row, v in judged
        if not v.agrees
    ]
    if judged and not remarks:
        remarks.append("Who collapses and who does not is as in the paper in every row that ran.")
    return remarks


def _entry(
    plan: Plan, table: Table, row: Row, column: Column, cell: Cell, records: dict[str, Record], status: Status
) -> Entry:
    paper = table.value(row, column)
    values = [records[run].metrics[column.metric] for run in cell.runs
              if run in records and column.metric in records[run].metrics]  # fmt: skip
    ours = summarize(values) if values else None
    differs = None
    # At other scales the numbers mean something else, and noise explains none of the difference.
    if ours is not None and isinstance(paper, int | float) and plan.scale == "paper":
        differs = outside_noise(ours, paper, column.noise, column.trials)
    remark = cell.absent or _missing(cell, records, status, column.metric)
    return Entry(paper, ours, len(cell.runs), remark, differs, column.digits)


def _missing(cell: Cell, records: dict[str, Record], status: Status, metric: str) -> str:
    without = [run for run in cell.runs if run in records and metric not in records[run].metrics]
    if without:
        return f"{len(without)} of {len(cell.runs)} records have no {metric}"
    absent = [run for run in cell.runs if run not in records]
    if not absent:
        return ""
    failed = sum(run in status.failed or run in status.blocked for run in absent)
    refused = sum(run in status.done for run in absent)
    what = "failed" if failed else "refused" if refused else "not run yet"
    if len(absent) == len(cell.runs):
        return what
    return f"{failed or refused or len(absent)} of {len(cell.runs)} trials {what}"


def _with_bold(table: Table, entries: tuple[tuple[Entry, ...], ...]) -> tuple[tuple[Entry, ...], ...]:
    """Mark what lies within the rule's distance below the column's best; the paper's best is that of all its rows."""
    if "within" not in table.bold:
        return entries
    whole = load(table.name)
    result = [list(line) for line in entries]
    for i, column in enumerate(table.columns):
        place = next(j for j, c in enumerate(whole.columns) if c.id == column.id)
        published = [v for row in whole.rows if isinstance(v := row.values[place], int | float)]
        measured = [line[i].ours.mean for line in entries if line[i].ours is not None]  # type: ignore[union-attr]
        for line in result:
            entry = line[i]
            paper = entry.paper if isinstance(entry.paper, int | float) else None
            ours = entry.ours.mean if entry.ours is not None and len(measured) > 1 else None
            line[i] = dataclasses.replace(
                entry,
                bold=_near(ours, measured, table.bold["within"]),
                paper_bold=_near(paper, published, table.bold["within"]),
            )
    return tuple(map(tuple, result))


def _near(value: float | None, others: list[float], within: float) -> bool:
    # Published numbers have one decimal, and so has what we print: the rule is meant for printed numbers.
    return value is not None and round(max(others), 1) - round(value, 1) <= within + 1e-9


def _with_scratch(table: Table, entries: tuple[tuple[Entry, ...], ...]) -> tuple[tuple[Entry, ...], ...]:
    """Compare every row with the untrained network's."""
    untrained = [line for row, line in zip(table.rows, entries, strict=True) if row.untrained]
    if not untrained:
        return entries
    # Of several untrained networks the best one is the rival.
    reference = [max(column, key=lambda e: e.ours.mean if e.ours else -1.0) for column in zip(*untrained, strict=True)]

    def compared(row: Row, entry: Entry, other: Entry) -> Entry:
        if row.untrained or entry.ours is None or other.ours is None:
            return entry
        return dataclasses.replace(
            entry,
            above_scratch=clearly_above(entry.ours, other.ours),
            below_scratch=entry.ours.mean <= other.ours.mean,
        )

    return tuple(
        tuple(compared(row, e, other) for e, other in zip(line, reference, strict=True))
        for row, line in zip(table.rows, entries, strict=True)
    )


def _remarks(table: Table, entries: tuple[tuple[Entry, ...], ...], scale: str) -> list[str]:
    """What an honest reader has to know about these numbers."""
    remarks = []
    for row, line in zip(table.rows, entries, strict=True):
        for word, test in (
            ("has failed runs in", lambda e: "failed" in e.remark),
            ("does not beat the untrained network in", lambda e: e.below_scratch),
            ("lies above the untrained network by less than the spread of the trials in",
             lambda e: not e.below_scratch and e.above_scratch is False),
        ):  # fmt: skip
            where = [c for c, e in zip(table.columns, line, strict=True) if test(e)]
            if where:
                remarks.append(f"{row.label} {word} {_places(where)}.")
    unplanned = {e.remark for line in entries for e in line if e.remark.startswith(("not at", "needs"))}
    for reason in sorted(unplanned):
        where = [c for c, column in zip(table.columns, zip(*entries, strict=True), strict=True)
                 if all(e.remark == reason for e in column)]  # fmt: skip
        if where:
            remarks.append(f"{reason[0].upper()}{reason[1:]}: {_places(where)}.")
    few = sorted({e.ours.n for line in entries for e in line if e.ours and e.ours.n < 5})
    if few:
        counts = listed([str(n) for n in few])
        remarks.append(
            f"n < 5: entries of {counts} trial{'s' if few != [1] else ''} only; their spread is uncertain or unknown."
        )
    if any(e.differs is not None for line in entries for e in line):
        remarks.append("≈ and ≠ behind a difference: inside and outside the noise of both sides together, at 95 %.")
    if scale != "paper" and any(e.ours for line in entries for e in line):
        remarks.append(
            f"Measured at the {scale} scale: other data, network and length than the paper's, "
            "so the difference is no verdict."
        )
    return remarks


def full_label(column: Column) -> str:
    """`VOC 07 detection AP50`."""
    return f"{column.group} {column.label}".strip()


def _places(columns: list[Column]) -> str:
    """`VOC 07 detection (AP50, AP) and COCO detection (AP)`."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column.label)
    return listed(
        [f"{group} ({', '.join(labels)})" if group else ", ".join(labels) for group, labels in groups.items()]
    )


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"

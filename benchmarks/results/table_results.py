"""Tables filled with what was measured: a pure function of a plan and the records of its runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results.trial_statistics import Summary, is_above_by_stds, is_outside_noise, summarize
from benchmarks.tables.table import Column, Row, Table
from benchmarks.workflow.plan import Plan, PlannedCell
from benchmarks.workflow.run_status import Status
from runs.record import Record

# The metrics that decide; the others of a run are shown beside them. AP averages ten thresholds and is least noisy.
DECISIVE = ("bbox/AP", "segm/AP", "top1")


@dataclass(frozen=True)
class Entry:
    """One entry: the paper's value, ours, and what can be said of the two."""

    paper: float | str | None  # the published number or word; None if there is none
    ours: Summary | None  # our trials; None while there are none
    wanted: int  # trials that the plan has for it
    remark: str  # why `ours` is missing or incomplete; empty otherwise
    digits: int  # behind the point, where the numbers are printed
    bold: bool  # whether ours is within the table's bold rule
    paper_bold: bool  # the same for the paper's
    difference: float | None = None  # ours minus the paper's; None without either
    differs: bool | None = None  # whether ours lies outside the noise of both sides; None if that cannot be said
    above_scratch: bool | None = None  # above the untrained network's by more than both std; None if unknown
    below_scratch: bool = False  # not above the untrained network's


@dataclass(frozen=True)
class CollapseVerdict:
    """What the monitors said of a row's pre-trainings, and what the paper says: `✓` for a collapse, `×` for none."""

    collapsed: int
    trials: int
    paper: str = ""

    def __str__(self) -> str:
        sign = {0: "×", self.trials: "✓"}.get(self.collapsed, "")
        return f"{sign} {self.collapsed}/{self.trials}".strip()

    @property
    def agrees_with_paper(self) -> bool:
        """Whether all trials do as the paper says; True where it says nothing."""
        return not self.paper or str(self)[0] == self.paper


@dataclass(frozen=True)
class TableResult:
    """A table filled with what was measured."""

    table: Table
    entries: tuple[tuple[Entry, ...], ...]  # a line a row
    scale: str
    remarks: tuple[str, ...]
    trials: int | None  # of every entry; None if they differ
    gain: str  # what pre-training gave, a sentence
    verdicts: tuple[CollapseVerdict | None, ...] = ()  # one a row, where the table has a property `collapse`


def table_results(plan: Plan, records: dict[str, Record], status: Status) -> list[TableResult]:
    """Fill all tables of a plan with its records, by run id; `status`: of its runs."""
    results = []
    for table, best in plan.planned_tables:
        columns = [_column(plan, table, place, best[place], records, status) for place in range(len(table.columns))]
        lines = tuple(zip(*columns, strict=True))
        verdicts = tuple(_verdict(plan, table, row, records) for row in table.rows)
        verdicts = verdicts if any(verdicts) else ()
        remarks = (*_collapse_remarks(table, verdicts), *_remarks(table, lines, plan.scale))
        counts = {e.ours.n for line in lines for e in line if e.ours}
        trials = counts.pop() if len(counts) == 1 else None
        results.append(TableResult(table, lines, plan.scale, remarks, trials, _gain_sentence(table, lines), verdicts))
    return results


def _gain_sentence(table: Table, lines: Sequence[Sequence[Entry]]) -> str:
    """What pre-training gave, in one sentence: SimSiam, or the first method, beside the best untrained network."""
    rows = list(zip(table.rows, lines, strict=True))
    trained = [pair for pair in rows if not pair[0].untrained and any(e.ours for e in pair[1])]
    row, entries = next((pair for pair in trained if pair[0].id == "simsiam"), trained[0] if trained else (None, ()))
    parts = []
    for i, (column, entry) in enumerate(zip(table.columns, entries, strict=False)):
        ours, before = entry.ours, _best_untrained(table.rows, [line[i].ours for line in lines])
        if ours is None or before is None or column.metric not in DECISIVE:
            continue
        std = ""
        if ours.std is not None and before.std is not None:
            std = f", std {math.hypot(ours.std, before.std):.{column.digits}f}"
        counts = str(ours.n) if ours.n == before.n else f"{ours.n} and {before.n}"
        difference = f"{ours.mean - before.mean:+.{column.digits}f}".replace("-", "−")
        parts.append(f"{difference} points of {full_label(column)} (n = {counts}{std})")
    if row is None or not parts:
        return ""
    rival = "the untrained network" if sum(r.untrained for r, _ in rows) == 1 else "the best untrained network"
    return f"Pre-training ({row.label}) against {rival}: {join_with_and(parts)}."


def pretrainings(plan: Plan, table: str, row: str) -> list[str]:
    """The ids of the pre-trainings behind a row's entries."""
    behind = [run for cell in plan.cells if (cell.table, cell.row) == (table, row) for run in cell.runs]
    needed = dict.fromkeys(name for run in behind for name in plan.with_needs_by_run[run])
    return [name for name in needed if plan.runs[name].kind == "pretrain"]


def _verdict(plan: Plan, table: Table, row: Row, records: dict[str, Record]) -> CollapseVerdict | None:
    if "collapse" not in table.properties:
        return None
    said = [records[run].verdict for run in pretrainings(plan, table.name, row.id) if run in records]
    watched = [verdict.startswith("collapsed") for verdict in said if not verdict.startswith("not watched")]
    return CollapseVerdict(sum(watched), len(watched), row.properties.get("collapse", "")) if watched else None


def _collapse_remarks(table: Table, verdicts: tuple[CollapseVerdict | None, ...]) -> list[str]:
    reported = [(row, v) for row, v in zip(table.rows, verdicts, strict=False) if v is not None and v.paper]
    remarks = [
        f"{row.label}: collapsed in {v.collapsed} of {v.trials} runs; the paper has "
        f"{'a collapse' if v.paper == '✓' else 'none'}."
        for row, v in reported
        if not v.agrees_with_paper
    ]
    if reported and not remarks:
        remarks.append("Who collapses and who does not is as in the paper in every row that ran.")
    return remarks


def _column(
    plan: Plan, table: Table, place: int, best: float | None, records: dict[str, Record], status: Status
) -> list[Entry]:
    """A column's entries, beside the paper's (of which `best` is the highest), each other and the untrained network."""
    column = table.columns[place]
    cells = {c.row: c for c in plan.cells if (c.table, c.column) == (table.name, column.id)}
    metrics = [[records[run].metrics for run in cells[row.id].runs if run in records] for row in table.rows]
    trials = [[found[column.metric] for found in line if column.metric in found] for line in metrics]
    summaries = [summarize(values) if values else None for values in trials]
    means = [ours.mean for ours in summaries if ours]
    untrained = _best_untrained(table.rows, summaries)

    def near(value: float | str | None, best: float | None) -> bool:
        # Published numbers have one decimal, and so has what we print: the rule is meant for printed numbers.
        if not isinstance(value, int | float) or best is None or "within" not in table.bold:
            return False
        return round(best, 1) - round(value, 1) <= table.bold["within"] + 1e-9

    entries = []
    for row, ours in zip(table.rows, summaries, strict=True):
        cell, paper = cells[row.id], row.values[place]
        bold = ours is not None and len(means) > 1 and near(ours.mean, max(means))
        found: dict[str, Any] = {}
        if ours and isinstance(paper, int | float):
            found["difference"] = ours.mean - paper
            # At other scales the numbers mean something else, and noise explains none of the difference.
            if plan.scale == "paper":
                found["differs"] = is_outside_noise(ours, paper, column.noise, column.trials)
        if ours and untrained and not row.untrained:
            found |= {"above_scratch": is_above_by_stds(ours, untrained), "below_scratch": ours.mean <= untrained.mean}
        remark = _remark(cell, column, records, status)
        entries.append(Entry(paper, ours, len(cell.runs), remark, column.digits, bold, near(paper, best), **found))
    return entries


def _remark(cell: PlannedCell, column: Column, records: dict[str, Record], status: Status) -> str:
    """Why trials of an entry are missing; empty if none is."""
    done = [records[run].metrics for run in cell.runs if run in records]
    if lacking := sum(column.metric not in metrics for metrics in done):
        return f"{lacking} of {len(cell.runs)} records have no {column.metric}"
    absent = [run for run in cell.runs if run not in records]
    if not absent:
        return cell.absent
    failed = sum(run in status.failed or run in status.blocked for run in absent)
    refused = sum(run in status.done for run in absent)
    remark = "failed" if failed else "refused" if refused else "not run yet"
    return f"{failed or refused or len(absent)} of {len(cell.runs)} trials {remark}" if done else remark


def _best_untrained(rows: Sequence[Row], summaries: Sequence[Summary | None]) -> Summary | None:
    found = [ours for row, ours in zip(rows, summaries, strict=True) if row.untrained and ours]
    return max(found, key=lambda ours: ours.mean, default=None)


def _remarks(table: Table, entries: Sequence[Sequence[Entry]], scale: str) -> list[str]:
    """What a reader has to know about these numbers."""
    remarks = []
    tests: dict[str, Callable[[Entry], bool]] = {
        "has failed runs in": lambda e: "failed" in e.remark,
        "does not beat the untrained network in": lambda e: e.below_scratch,
        "lies above the untrained network by less than the standard deviations of the trials in":
            lambda e: not e.below_scratch and e.above_scratch is False,
    }  # fmt: skip
    for row, line in zip(table.rows, entries, strict=True):
        for words, test in tests.items():
            if where := [c for c, e in zip(table.columns, line, strict=True) if test(e)]:
                remarks.append(f"{row.label} {words} {_listed_columns(where)}.")
    absent: dict[str, list[Column]] = {}
    for column, down in zip(table.columns, zip(*entries, strict=True), strict=True):
        reasons = {e.remark for e in down}
        if len(reasons) == 1 and (reason := reasons.pop()).startswith(("not at", "needs")):
            absent.setdefault(reason, []).append(column)
    remarks += [f"{reason[0].upper()}{reason[1:]}: {_listed_columns(absent[reason])}." for reason in sorted(absent)]
    found = [e for line in entries for e in line if e.ours]
    if few := sorted({e.ours.n for e in found if e.ours and e.ours.n < 5}):
        counts = join_with_and([str(n) for n in few])
        remarks.append(
            f"n < 5: entries of {counts} trial{'s' if few != [1] else ''} only; their standard deviation is uncertain "
            "or unknown."
        )
    if any(e.differs is not None for e in found):
        remarks.append("≈ and ≠ behind a difference: inside and outside the noise of both sides together, at 95 %.")
    if scale != "paper" and found:
        remarks.append(
            f"Measured at the {scale} scale: other data, network and length than the paper's, "
            "so the difference is no verdict."
        )
    return remarks


def full_label(column: Column) -> str:
    """`VOC 07 detection AP50`."""
    return f"{column.group} {column.label}".strip()


def _listed_columns(columns: list[Column]) -> str:
    """`VOC 07 detection (AP50, AP) and COCO detection (AP)`."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column.label)
    return join_with_and(
        [f"{group} ({', '.join(labels)})" if group else ", ".join(labels) for group, labels in groups.items()]
    )


def join_with_and(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"

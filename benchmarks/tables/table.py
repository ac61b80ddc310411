"""The papers' tables and figures as data: rows, columns, published values. See docs/benchmarks.md for the format."""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.formatted_table import ABSENT, FormattedTable, Line, to_cells
from runs import plugins
from runs.errors import UserError
from runs.files import read_yaml
from runs.settings import choice, number
from runs.typed import build

PAPERS = Path(__file__).parents[1] / "papers"
TASKS = ("pretrain", "linear", "knn", "voc07", "voc0712", "coco")
VARY = ("pretrain", "finetune")


@dataclass(frozen=True)
class Column:
    """One measured quantity."""

    id: str  # short name for `--columns`
    label: str  # what the paper's head says
    task: str = field(metadata={"choices": TASKS})  # which run yields the number
    metric: str  # its name in that run's record
    epochs: int = number(least=1)  # of pre-training as the paper has them; a scale maps them to its own
    group: str = ""  # the head above several columns
    trials: int = number(1, least=1)  # runs that the paper averages
    vary: str = choice(*VARY)  # what a trial repeats: all of it with another seed, or the fine-tuning only
    noise: float | None = None  # published standard deviation of a single trial, in the metric's unit
    digits: int = number(1, least=0, most=9)  # behind the point, where it is printed
    pretrain: dict[str, Any] = field(default_factory=dict)  # overrides of the pre-training for this column


@dataclass(frozen=True)
class Row:
    """One method or variant."""

    id: str  # short name for `--rows`
    label: str  # what the paper's first column says
    values: tuple[float | str | None, ...]  # as published, one a column; None: no number, a string: a word
    pretrain: dict[str, Any] = field(default_factory=dict)  # overrides that make the variant
    transfer: dict[str, Any] = field(default_factory=dict)  # overrides of the fine-tuning
    untrained: bool = False  # the network at its initialisation, without pre-training
    epochs: int | None = None  # of pre-training, where they differ from the column's
    properties: dict[str, Any] = field(default_factory=dict)  # the paper's descriptive columns
    std: tuple[float | None, ...] = ()  # published standard deviations, one a column
    missing: str = ""  # what it would need to be run and this project lacks; empty if nothing
    curves: tuple[str, ...] = ()  # of the table's `curves`, those that have a meaning for this row; empty for all


@dataclass(frozen=True)
class Paper:
    """A paper, and the settings that all rows of its tables share: `pretrain`, and by method `methods`."""

    title: str = ""
    authors: str = ""
    source: str = ""
    pretrain: dict[str, Any] = field(default_factory=dict, compare=False)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Table:
    """A table or a figure of a paper."""

    name: str  # `table5` for the first paper, `collapse/table1` for the second
    label: str
    title: str
    quantity: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    paper: Paper = Paper()
    dataset: str = "imagenet"
    # One named `collapse` says of each row whether the paper found a collapse: `✓` or `×`; the monitors' verdicts are
    # then shown beside it.
    properties: tuple[str, ...] = ()
    bold: dict[str, float] = field(default_factory=dict)
    curves: tuple[str, ...] = ()  # what the report draws of the rows' pre-trainings
    across: str = ""  # the setting in which the rows differ, where the paper draws the ends of training over it
    notes: tuple[str, ...] = ()
    missing: str = ""
    pretrain: dict[str, Any] = field(default_factory=dict)  # what all rows share

    def published_table(self) -> FormattedTable:
        """The table as the paper has it, the descriptive columns first."""
        lines = []
        for row in self.rows:
            deviations = [f" ± {std}" if std is not None else "" for std in row.std or (None,) * len(row.values)]
            values = [ABSENT if v is None else f"{v}{std}" for v, std in zip(row.values, deviations, strict=True)]
            lines.append(Line(row.label, to_cells([*map(row.properties.get, self.properties), *values])))
        heads = (*(("", name) for name in self.properties), *((c.group, c.label) for c in self.columns))
        title = f"{self.label}: {self.title}"
        return FormattedTable(heads, tuple(lines), title, self.quantity, self.notes, "pre-train", len(self.properties))

    def _repr_html_(self) -> str:
        return self.published_table()._repr_html_()

    def select(self, row_ids: Sequence[str] | None, columns_or_tasks: Sequence[str] | None) -> "Table":
        """Keep the named rows and columns, all where None are named; names of no row or column are passed over."""
        wanted = columns_or_tasks
        kept = [i for i, c in enumerate(self.columns) if not wanted or c.id in wanted or c.task in wanted]
        cut = [
            dataclasses.replace(r, values=tuple(r.values[i] for i in kept), std=tuple(r.std[i] for i in kept if r.std))
            for r in self.rows
            if not row_ids or r.id in row_ids
        ]
        return dataclasses.replace(self, columns=tuple(self.columns[i] for i in kept), rows=tuple(cut))


def adapt_columns(
    table: Table, changes_by_task: dict[str, dict[str, Any]], added_columns: Sequence[dict[str, Any]]
) -> Table:
    """Adapt a table to a scale that measures something else than the paper.

    Args:
        table: as published.
        changes_by_task: the fields that change in a column of that task; its label gets `label` in parentheses.
        added_columns: those that tables with a property `collapse` get besides, without values of the paper.

    Raises:
        UserError: the scale names a field that a column does not have, or a value that it cannot have.
    """
    columns = []
    for column in table.columns:
        change = dict(changes_by_task.get(column.task, {}))
        if "label" in change:
            change["label"] = f"{column.label} ({change['label']})"
        columns.append(build(Column, vars(column) | change, f"replace: {column.task}"))
    there = [c.metric for c in columns if c.task == "pretrain"]
    own = {"task": "pretrain", "epochs": columns[0].epochs}
    extra = enumerate(added_columns if "collapse" in table.properties else ())
    wanted = [c for i, fields in extra if (c := build(Column, own | fields, f"add[{i}]")).metric not in there]
    none = (None,) * len(wanted)
    rows = [dataclasses.replace(r, values=r.values + none, std=r.std and r.std + none) for r in table.rows]
    return dataclasses.replace(table, columns=(*columns, *wanted), rows=tuple(rows))


def choose(
    names: Sequence[str],
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    changes_by_task: dict[str, dict[str, Any]] | None = None,
    added_columns: Sequence[dict[str, Any]] = (),
) -> list[Table]:
    """Load tables and keep the named rows and columns; a table in which nothing is named is left out.

    Args:
        names: tables and groups of tables.
        rows: rows to keep; None for all.
        columns: columns or tasks to keep; None for all.
        changes_by_task: what a scale measures instead, see `adapt_columns`.
        added_columns: what it measures besides.

    Raises:
        UserError: a table is unknown, or a name is in none of them.
    """
    members = dict.fromkeys(member for name in names for member in groups().get(name, [name]))
    tables = [adapt_columns(load(name), changes_by_task or {}, added_columns) for name in members]
    known_rows = {r.id for t in tables for r in t.rows}
    known_columns = {name for t in tables for c in t.columns for name in (c.id, c.task)}
    for wanted, known, what in ((rows, known_rows, "row"), (columns, known_columns, "column")):
        for name in wanted or ():
            if name not in known:
                raise UserError(f"{name}: no {what} of {', '.join(names)}; there are {', '.join(sorted(known))}")
    cut = [table.select(rows, columns) for table in tables]
    if not (chosen := [table for table in cut if table.rows and table.columns]):
        raise UserError("--rows and --columns leave nothing of these tables")
    return chosen


@functools.cache
def _files() -> dict[str, Path]:
    """Every table's file by its name; those of the SimSiam paper come first and need no prefix."""
    found = [p for p in PAPERS.glob("*/*.yaml") if p.name != "paper.yaml"]
    # table10 comes behind table9.
    numbers = {p: [int(digits) for digits in re.findall(r"\d+", p.stem)] for p in found}
    found.sort(key=lambda p: (p.parent.name != "simsiam", p.parent.name, p.stem.rstrip("0123456789_"), numbers[p], p))
    found += [p for p in plugins.find_files("papers/*/*.yaml") if p.name != "paper.yaml"]
    return {p.stem if p.parent == PAPERS / "simsiam" else f"{p.parent.name}/{p.stem}": p for p in found}


def names() -> tuple[str, ...]:
    """All tables and figures."""
    return tuple(_files())


@functools.cache
def groups() -> dict[str, list[str]]:
    """Names that stand for several tables."""
    return {name: list(members) for name, members in read_yaml(PAPERS / "groups.yaml").items()}


@functools.cache
def load(name: str) -> Table:
    """Read and check a table, by its name or from a file of the user's own (`./mytable.yaml`).

    The settings in the `paper.yaml` beside its file go below the table's and its rows'.

    Raises:
        UserError: there is no such table, or a field of its file is wrong: which, and how.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _files().get(name)
    if path is None or not path.is_file():
        raise UserError(f"{name}: no such table; `python -m benchmarks list` shows them, or give a .yaml file")
    beside, folder = path.parent / "paper.yaml", path.parent.absolute()
    # Of a file of the user's own the folder is all that is known.
    paper = build(Paper, read_yaml(beside), str(beside)) if beside.is_file() else Paper(folder.name, "", str(folder))
    table = build(Table, {**read_yaml(path), "name": name}, str(path))
    for settings in (table.pretrain, *(row.pretrain for row in table.rows), *(c.pretrain for c in table.columns)):
        for key in ("method", "variant"):
            if not isinstance(settings.get(key, ""), str):
                raise UserError(f"{path}: pretrain.{key} must be a name, not {settings[key]!r:.60}")
    rows = []
    for row in table.rows:
        own = {**table.pretrain, **row.pretrain}
        shared = {**paper.pretrain, **paper.methods.get(own.get("method", ""), {})}
        rows.append(row if row.untrained else dataclasses.replace(row, pretrain={**shared, **own}))
    table = dataclasses.replace(table, paper=paper, rows=tuple(rows))
    if fault := next(_faults(table), None):
        raise UserError(f"{path}: {fault}")
    return table


def _faults(table: Table) -> Iterator[str]:
    """What is wrong with a table, beyond the types of its fields."""
    if not table.rows or not table.columns:
        yield "a table needs rows and columns"
    if set(table.bold) - {"within"}:
        yield f"bold: unknown field '{min(set(table.bold) - {'within'})}'; there is within"
    for what, ids in (("row", [r.id for r in table.rows]), ("column", [c.id for c in table.columns])):
        yield from (f"{what} '{name}' is there twice" for name, count in Counter(ids).items() if count > 1)
    for r in table.rows:
        for label, given in (("values", r.values), ("std", r.std or r.values)):
            if len(given) != len(table.columns):
                yield f"row {r.id}: {len(given)} {label} for {len(table.columns)} columns"
        if table.across and not isinstance(r.pretrain.get(table.across), int | float):
            yield f"row {r.id}: the table is drawn over {table.across}, for which the row gives no number"
        if unknown := set(r.properties) - set(table.properties):
            yield f"row {r.id}: property '{min(unknown)}' is none of the table's"
        if not (r.untrained or r.missing or table.missing or {"method", "variant"} & set(r.pretrain)):
            yield f"row {r.id}: pretrain.method is missing (or give a variant, `missing:` or `untrained: true`)"

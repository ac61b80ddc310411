"""The papers' tables and figures as data: rows, columns, published values. See docs/benchmarks.md for the format."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import plugins
from runs.errors import UserError
from runs.files import read_yaml
from runs.text import html_table
from runs.typed import build

PAPERS = Path(__file__).parents[1] / "papers"
TASKS = ("pretrain", "linear", "knn", "voc07", "voc0712", "coco")
VARY = ("pretrain", "finetune")


@dataclass(frozen=True)
class Column:
    """One measured quantity.

    Attributes:
        id: short name for `--columns`.
        label: what the paper's head says.
        task: which run yields the number.
        metric: its name in that run's record.
        epochs: pre-training epochs as the paper has them; a scale maps them to its own.
        group: the head above several columns.
        trials: runs that the paper averages.
        vary: what a trial repeats: the whole of it with another pre-training seed, or the fine-tuning only.
        noise: published standard deviation of a single trial, in the metric's unit.
        digits: behind the point, where it is printed.
        pretrain: overrides of the pre-training for this column.
        best: the highest published number, of all rows; set by `read`.
    """

    id: str
    label: str
    task: str
    metric: str
    epochs: int
    group: str = ""
    trials: int = 1
    vary: str = "pretrain"
    noise: float | None = None
    digits: int = 1
    pretrain: dict[str, Any] = field(default_factory=dict)
    best: float | None = None


@dataclass(frozen=True)
class Row:
    """One method or variant.

    Attributes:
        id: short name for `--rows`.
        label: what the paper's first column says.
        values: the published numbers, one a column; None where the paper has none, a string where it has a word.
        pretrain: overrides that make the variant.
        transfer: overrides of the fine-tuning.
        untrained: the network at its initialisation, without pre-training.
        epochs: pre-training epochs of this row where they differ from the column's.
        properties: the paper's descriptive columns.
        std: published standard deviations, one a column.
        missing: what it would need to be run and this project lacks; empty if nothing.
        curves: of the table's `curves`, those that have a meaning for this row; empty for all.
    """

    id: str
    label: str
    values: tuple[float | str | None, ...]
    pretrain: dict[str, Any] = field(default_factory=dict)
    transfer: dict[str, Any] = field(default_factory=dict)
    untrained: bool = False
    epochs: int | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    std: tuple[float | None, ...] = ()
    missing: str = ""
    curves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table or a figure of a paper. `name` is `table5` for the first paper and `collapse/table1` for the second.

    A property named `collapse` says for each row whether the paper found a collapse: `✓` or `×`. The monitors' verdicts
    are then shown beside it. `curves` names what the report draws of the rows' pre-trainings. `across` names the
    setting in which the rows differ, where the paper draws the ends of training over it.
    `pretrain` is what all rows share.
    """

    name: str
    paper: str
    label: str
    title: str
    quantity: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    dataset: str = "imagenet"
    properties: tuple[str, ...] = ()
    bold: dict[str, float] = field(default_factory=dict)
    curves: tuple[str, ...] = ()
    across: str = ""
    notes: tuple[str, ...] = ()
    missing: str = ""
    pretrain: dict[str, Any] = field(default_factory=dict)

    def value(self, row: Row, column: Column) -> float | str | None:
        """The published entry."""
        return row.values[self.columns.index(column)]

    def _repr_html_(self) -> str:
        heads = ["", *self.properties, *(f"{c.group} {c.label}".strip() for c in self.columns)]
        values = [[*map(row.properties.get, self.properties), *row.values] for row in self.rows]
        words = [["–" if value is None else str(value) for value in line] for line in values]
        rows = [[row.label, *line] for row, line in zip(self.rows, words, strict=True)]
        return html_table(f"{self.label}: {self.title}", heads, rows, (self.quantity, *self.notes))

    def select(self, rows: Sequence[str] | None, columns: Sequence[str] | None) -> "Table":
        """Keep the named rows and columns; a column's task or group counts as its name too.

        Raises:
            UserError: nothing is left.
        """
        kept = [i for i, c in enumerate(self.columns) if not columns or c.id in columns or c.task in columns]
        chosen = [r for r in self.rows if not rows or r.id in rows]
        if not kept or not chosen:
            known = [c.id for c in self.columns] if chosen else [r.id for r in self.rows]
            raise UserError(f"{self.name}: nothing is left of it; it has {', '.join(known)}")
        cut = [
            dataclasses.replace(r, values=tuple(r.values[i] for i in kept), std=tuple(r.std[i] for i in kept if r.std))
            for r in chosen
        ]
        return dataclasses.replace(self, columns=tuple(self.columns[i] for i in kept), rows=tuple(cut))


def adapt(table: Table, replace: dict[str, dict[str, Any]], add: Sequence[dict[str, Any]]) -> Table:
    """Adapt a table to a scale that measures something else than the paper.

    Args:
        table: as published.
        replace: by task, the fields that change in a column of that task; its label gets `label` in parentheses.
        add: columns that tables with a property `collapse` get besides, without values of the paper.
    """
    columns = []
    for column in table.columns:
        change = dict(replace.get(column.task, {}))
        if change:
            change["label"] = f"{column.label} ({change['label']})" if "label" in change else column.label
        columns.append(dataclasses.replace(column, **change))
    there = [c.metric for c in columns if c.task == "pretrain"]
    wanted = [w for w in add if "collapse" in table.properties and w["metric"] not in there]
    columns += [Column(task="pretrain", epochs=columns[0].epochs, **w) for w in wanted]
    none = (None,) * len(wanted)
    rows = [dataclasses.replace(r, values=r.values + none, std=r.std and r.std + none) for r in table.rows]
    return dataclasses.replace(table, columns=tuple(columns), rows=tuple(rows))


def choose(
    names: Sequence[str],
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    adapted: Callable[[Table], Table] = lambda table: table,
) -> list[Table]:
    """Load tables and keep the named rows and columns; a table in which nothing is named is left out.

    Args:
        names: tables and groups of tables.
        rows: rows to keep.
        columns: columns or tasks to keep.
        adapted: what a scale makes of a table, see `adapt`.

    Raises:
        UserError: a table is unknown, or a name is in none of them.
    """
    members = dict.fromkeys(member for name in names for member in groups().get(name, [name]))
    tables = [adapted(load(name)) for name in members]
    known_rows = {r.id for t in tables for r in t.rows}
    known_columns = {name for t in tables for c in t.columns for name in (c.id, c.task)}
    for wanted, known, what in ((rows, known_rows, "row"), (columns, known_columns, "column")):
        for name in wanted or ():
            if name not in known:
                raise UserError(f"{name}: no {what} of {', '.join(names)}; there are {', '.join(sorted(known))}")
    chosen = []
    for table in tables:
        with contextlib.suppress(UserError):
            chosen.append(table.select(rows, columns))
    if not chosen:
        raise UserError("--rows and --columns leave nothing of these tables")
    return chosen


@functools.cache
def names() -> tuple[str, ...]:
    """All tables and figures; those of the SimSiam paper come first and need no prefix."""
    return tuple(_files())


@functools.cache
def _files() -> dict[str, Path]:
    found = [p for p in sorted(PAPERS.glob("*/*.yaml")) if p.name != "paper.yaml"]
    order = sorted(found, key=lambda p: (p.parent.name != "simsiam", p.parent.name, _natural(p.stem)))
    order += [p for p in plugins.find("papers/*/*.yaml") if p.name != "paper.yaml"]
    return {p.stem if p.parent.parent == PAPERS and p.parent.name == "simsiam" else f"{p.parent.name}/{p.stem}": p
            for p in order}  # fmt: skip


@functools.cache
def groups() -> dict[str, list[str]]:
    """Names that stand for several tables."""
    return {name: list(members) for name, members in read_yaml(PAPERS / "groups.yaml").items()}


@functools.cache
def load(name: str) -> Table:
    """Read one table, by its name or from a file of the user's own (`./mytable.yaml`).

    Raises:
        UserError: there is no such table, or its file is not as the format says.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _files().get(name)
    if path is None or not path.is_file():
        raise UserError(f"{name}: no such table; `python -m benchmarks list` shows them, or give a .yaml file")
    return read(path, name, paper(_paper_name(path)))


@dataclass(frozen=True)
class Paper:
    """A paper, and the settings that all rows of its tables share: `pretrain`, and by method `methods`."""

    title: str
    authors: str
    source: str
    pretrain: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)


@functools.cache
def paper(name: str) -> Paper:
    """What is known about a paper, by `Table.paper`."""
    path = _paper_folder(name) / "paper.yaml"
    if not path.is_file():
        # Of a file of the user's own.
        return Paper(path.parent.name, "", str(path.parent))
    return build(Paper, read_yaml(path), str(path))


def _paper_name(path: Path) -> str:
    return path.parent.name if path in _files().values() else str(path.parent.absolute())


def _paper_folder(name: str) -> Path:
    known = {path.parent.name: path.parent for path in reversed(_files().values())}
    return known.get(name, Path(name))


def read(path: Path, name: str, paper: Paper | None = None) -> Table:
    """Read and check a table file.

    Args:
        path: the file.
        name: of the table.
        paper: whose shared settings go below those of the table and of its rows.

    Raises:
        UserError: naming the file, the field and what is wrong with it.
    """
    table = build(Table, {**read_yaml(path), "name": name, "paper": _paper_name(path)}, str(path))
    rows = []
    for row in table.rows:
        own = {**table.pretrain, **row.pretrain}
        shared = {**paper.pretrain, **paper.methods.get(own.get("method", ""), {})} if paper else {}
        rows.append(row if row.untrained else dataclasses.replace(row, pretrain={**shared, **own}))
    table = dataclasses.replace(table, rows=tuple(rows))
    _check(table, path)
    columns = []
    for i, column in enumerate(table.columns):
        numbers = [v for row in rows if isinstance(v := row.values[i], int | float)]
        columns.append(dataclasses.replace(column, best=max(numbers, default=None)))
    return dataclasses.replace(table, columns=tuple(columns))


def _check(table: Table, path: Path) -> None:
    if not table.rows or not table.columns:
        raise UserError(f"{path}: a table needs rows and columns")
    for what, ids in (("row", [r.id for r in table.rows]), ("column", [c.id for c in table.columns])):
        for i in ids:
            if ids.count(i) > 1:
                raise UserError(f"{path}: {what} '{i}' is there twice")
    for c in table.columns:
        if c.task not in TASKS:
            raise UserError(f"{path}: column {c.id}: task '{c.task}' is none of {', '.join(TASKS)}")
        if c.vary not in VARY:
            raise UserError(f"{path}: column {c.id}: vary '{c.vary}' is none of {', '.join(VARY)}")
        if c.trials < 1 or c.epochs < 1:
            raise UserError(f"{path}: column {c.id}: trials and epochs must be at least 1")
    for r in table.rows:
        for label, given in (("values", r.values), ("std", r.std or r.values)):
            if len(given) != len(table.columns):
                raise UserError(f"{path}: row {r.id}: {len(given)} {label} for {len(table.columns)} columns")
        if table.across and not isinstance(r.pretrain.get(table.across), int | float):
            raise UserError(f"{path}: row {r.id}: the table lies across {table.across}, of which the row has no number")
        for key in r.properties:
            if key not in table.properties:
                raise UserError(f"{path}: row {r.id}: property '{key}' is none of the table's")
        if not (r.untrained or r.missing or table.missing or {"method", "variant"} & set(r.pretrain)):
            raise UserError(
                f"{path}: row {r.id}: pretrain.method is missing (or give a variant, `missing:` or `untrained: true`)"
            )


def _natural(text: str) -> list[Any]:
    """Sort key that puts table10 behind table9."""
    digits = "".join(ch if ch.isdigit() else " " for ch in text).split()
    return [text.rstrip("0123456789_"), [int(d) for d in digits], text]

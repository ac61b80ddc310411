"""A plan: the commands to run, what each needs, and which cells of which tables their results fill."""

import json
import os
import re
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tables.table import Table, adapt_columns, load
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.folder import RECORD
from runs.typed import build

# An output folder holds these besides the runs: the plan, and the report, by whose mark we know that it is ours.
PLAN = "plan.json"
PAGE, TABLES = "report.html", ("tables.md", "tables.tex", "tables.csv")
GENERATOR = "siamese-transfer report"
# Two names with a slash between them: an id becomes a folder below the output, and never one elsewhere.
ID = re.compile(r"\w[\w.+-]*/\w[\w.+-]*")
# The file that a finished run has written, relative to its folder.
TARGETS = {"data": "set/manifest.json", "convert": "backbone.pkl"}
KINDS = (*TARGETS, "pretrain", "linear", "knn", "transfer")
# The tasks of `transfer`, with the papers' names for them.
DETECTION = {"voc07": "VOC 07", "voc0712": "VOC 07+12", "coco": "COCO"}
# Settings that do not change how long a run takes.
SAME_TIME = ("seed", "weights", "checkpoint", "file", "data.root")
OF_THE_SCALE = (
    "about", "jobs", "threads", "seconds", "seconds_source", "seconds_devices", "gigabytes", "replace", "add",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One command with one result."""

    id: str  # its folder below the output, `<kind>/<readable>-<hash of all that decides its result>`
    kind: str  # one of `KINDS`
    task: str  # the kind, or for `transfer` the task
    command: tuple[str, ...]  # its arguments, as a user would type them
    needs: tuple[str, ...]  # ids of the runs whose results it reads
    settings: dict[str, Any]  # all that decides the result
    gpus: int = 0  # devices of each node
    nodes: int = 1  # machines that work on it together

    @property
    def devices(self) -> int:
        """Of all nodes together."""
        return self.nodes * self.gpus

    @property
    def shell_command(self) -> str:
        """The command for a shell: zsh, unlike bash, refuses a bare `lr=[1.0,10.0]`."""
        return " ".join(map(_quoted, self.command))

    @cached_property
    def duration_key(self) -> str:
        """Equal for runs that take the same time: of one task, with settings that differ in seed or weights only."""
        same = {k: v for k, v in self.settings.items() if k not in SAME_TIME}
        return f"{self.task} {self.devices} {json.dumps(same, sort_keys=True)}"


def _quoted(argument: str) -> str:
    # Hydra's own quotes stand in double ones, which `shlex.quote` would write as five; `$HEAD` is the shell's to fill.
    double = "'" in argument or "$HEAD" in argument
    return f'"{argument}"' if double and not set(argument) & set('"`\\!') else shlex.quote(argument)


@dataclass(frozen=True)
class PlannedCell:
    """One entry of a table: the runs whose `metric` is averaged, or why there are none."""

    table: str
    row: str
    column: str
    runs: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True)
class Selection:
    """The rows and columns of a table that are filled."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]


class PlannedTable(NamedTuple):
    """A table to fill."""

    table: Table  # as the scale measures it, with the rows and columns that are filled
    best: tuple[float | None, ...]  # the highest published number of each column, of all the paper's rows


@dataclass(frozen=True)
class Source:
    """Where an evaluation's weights come from."""

    name: str  # for the names of folders, and of the row where it is somebody's checkpoint
    file: str  # the checkpoint
    needs: tuple[str, ...] = ()  # the run that writes it, if it is one of ours
    sha256: str = ""  # of the file, if it is not


@dataclass
class Plan:
    """Everything that one `run` does; kept as `plan.json` beside the results, so that `report` needs nothing else.

    The fields in `OF_THE_SCALE` are the scale's, see `tables.scale.Scale`. `checkpoint` is one that the user
    gave; it stands in every row in place of what the row would pre-train.
    """

    output: str
    scale: str
    about: str
    tables: list[Selection]
    runs: dict[str, Run]
    cells: list[PlannedCell]
    jobs: int = 1
    threads: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_source: str = ""
    seconds_devices: int = 0
    gigabytes: dict[str, float] = field(default_factory=dict)
    command: str = ""
    replace: dict[str, dict[str, Any]] = field(default_factory=dict)
    add: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Source | None = None

    def __post_init__(self) -> None:
        for run in self.runs.values():
            if not ID.fullmatch(run.id) or run.kind not in KINDS:
                raise ValueError(f"{run.kind} {run.id!r} is not the id of a run; an id is <kind>/<name>")
            if run.task not in (DETECTION if run.kind == "transfer" else (run.kind,)):
                raise ValueError(f"{run.id} has the task {run.task!r}, which is none of {run.kind}")
        asked = [(t.name, row, column) for t in self.tables for row in t.rows for column in t.columns]
        filled = [(c.table, c.row, c.column) for c in self.cells]
        if (
            not all(t.rows and t.columns for t in self.tables)
            or len({*asked}) < len(asked)
            or sorted(asked) != sorted(filled)
        ):
            raise ValueError("its cells are not those of its tables, one for each row and column")
        if any(len({*c.runs}) < len(c.runs) for c in self.cells):
            raise ValueError("a cell counts a run twice")
        named = [n for r in self.runs.values() for n in r.needs] + [n for c in self.cells for n in c.runs]
        lost = next((name for name in named if name not in self.runs), None)
        if lost or any(key != run.id for key, run in self.runs.items()):
            raise ValueError(f"it has no run {lost}" if lost else "the id of a run differs from its key")
        # Computed now, so that a cycle is found out here.
        _ = self.order

    def folder(self, run: str) -> Path:
        """A run's folder."""
        return Path(self.output) / run

    def target(self, run: str) -> Path:
        """The file whose existence means that the run is done."""
        return self.folder(run) / TARGETS.get(self.runs[run].kind, RECORD)

    def write(self) -> Path:
        """Write `plan.json`; returns its path."""
        write_json(path := Path(self.output) / PLAN, asdict(self))
        return path

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Ids so that every run comes behind those it needs; `ValueError` if runs need each other in a cycle."""
        try:
            return tuple(TopologicalSorter({run.id: run.needs for run in self.runs.values()}).static_order())
        except CycleError as error:
            raise ValueError("its runs need each other in a cycle") from error

    @cached_property
    def with_needs_by_run(self) -> dict[str, tuple[str, ...]]:
        """For every run itself and all that it needs, directly or not."""
        found: dict[str, tuple[str, ...]] = {}
        for run in self.order:
            needed = (name for need in self.runs[run].needs for name in found[need])
            found[run] = tuple(dict.fromkeys((run, *needed)))
        return found

    @cached_property
    def _first_cell_by_run(self) -> dict[str, PlannedCell]:
        """For every run the first entry that it serves, directly or through the runs that need it."""
        served = [(name, cell) for cell in self.cells for run in cell.runs for name in self.with_needs_by_run[run]]
        return dict(reversed(served))

    @cached_property
    def name_by_run(self) -> dict[str, str]:
        """A name for every run to read: its id without the hash, and its row where two would be called the same."""
        short = {}
        for run in self.runs:
            kind, _, rest = run.partition("/")
            rest = rest.rsplit("-", 1)[0]
            short[run] = rest if rest.startswith(f"{kind}-") or kind == "transfer" else f"{kind} {rest}"
        rows = {run: f"{short[run]} ({cell.row})" for run, cell in self._first_cell_by_run.items()}
        # Two runs of one row with equal names differ in settings only: there the id has to do.
        found = {run: run for run in self.runs}
        for better in (rows, short):
            counts = Counter(better.values())
            found |= {run: name for run, name in better.items() if counts[name] == 1}
        return found

    @cached_property
    def first_row_label_by_run(self) -> dict[str, str]:
        """For every run the label of the table row that it serves, the first one if there are several."""
        labels = {(table.name, row.id): row.label for table, _ in self.planned_tables for row in table.rows}
        return {run: labels[cell.table, cell.row] for run, cell in self._first_cell_by_run.items()}

    @cached_property
    def planned_tables(self) -> list[PlannedTable]:
        """Its tables; a checkpoint that the user gave stands in its row without the values of the paper.

        Raises:
            UserError: a table has changed since: it lacks a row or a column.
        """
        found = []
        for chosen in self.tables:
            whole = adapt_columns(load(chosen.name), self.replace, self.add)
            table = whole.select(chosen.rows, chosen.columns)
            if (len(table.rows), len(table.columns)) != (len(chosen.rows), len(chosen.columns)):
                raise UserError(
                    f"{self.output}: its plan has rows or columns that {chosen.name} lacks; write it again with "
                    "`python -m benchmarks run`"
                )
            published = [[row.values[whole.columns.index(column)] for row in whole.rows] for column in table.columns]
            best = [max((v for v in down if isinstance(v, int | float)), default=None) for down in published]
            if self.checkpoint:
                # The paper does not have this checkpoint, and the row does not describe its network.
                name, none = self.checkpoint.name, (None,) * len(table.columns)
                rows = [replace(r, label=name, values=none, std=(), properties={}) for r in table.rows]
                table = replace(table, bold={}, properties=(), rows=tuple(rows))
            found.append(PlannedTable(table, tuple(best)))
        return found


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a `plan.json`, or the one in a folder.

    Raises:
        UserError: it is absent or is no plan.
    """
    path = Path(path)
    path = path / PLAN if path.is_dir() else path
    try:
        plan = build(Plan, read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; write the plan again with `python -m benchmarks run`") from error
    # The folder may have been moved since.
    plan.output = str(path.parent)
    return plan


def has_report(folder: Path) -> bool:
    """Whether a page in the folder bears the mark of `report`."""
    page = folder / PAGE
    return page.is_file() and GENERATOR in page.read_text("utf-8", "replace")

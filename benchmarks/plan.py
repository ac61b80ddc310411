"""The graph of runs: which commands fill which cells of which tables."""

import os
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runs.errors import UserError
from runs.files import read_json, write_json

PLAN = "plan.json"


def _quoted(word: str) -> str:
    """A word for a shell; Hydra's own quotes stand in double ones, which `shlex.quote` would write as five."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


@dataclass(frozen=True)
class Run:
    """One command with one result.

    Attributes:
        id: its folder below the output, `<kind>/<readable>-<hash of all that decides its result>`.
        kind: `data`, `pretrain`, `linear`, `knn`, `convert` or `transfer`.
        task: the kind, or for `transfer` the task.
        command: as a user would type it, word by word.
        target: the file, relative to the folder, whose existence means that the run is done.
        needs: ids of the runs whose results it reads.
        settings: all that decides the result.
        gpus: devices it uses.
    """

    id: str
    kind: str
    task: str
    command: tuple[str, ...]
    target: str
    needs: tuple[str, ...]
    settings: dict[str, Any]
    gpus: int = 0

    @property
    def line(self) -> str:
        """The command for a shell: zsh, unlike bash, refuses a bare `lr=[1.0,10.0]`."""
        return " ".join(_quoted(word) for word in self.command)


@dataclass(frozen=True)
class Cell:
    """One entry of a table: the runs whose `metric` is averaged, or why there are none."""

    table: str
    row: str
    column: str
    runs: tuple[str, ...] = ()
    absent: str = ""


@dataclass
class Plan:
    """Everything that one `run` does; kept as `plan.json` beside the results, so that `report` needs nothing else."""

    output: str
    scale: str
    about: str
    tables: list[dict[str, Any]]
    runs: dict[str, Run]
    cells: list[Cell]
    jobs: int = 1
    threads: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    figures: str = ""
    gigabytes: dict[str, float] = field(default_factory=dict)
    command: str = ""
    instead: dict[str, dict[str, Any]] = field(default_factory=dict)
    watch: list[dict[str, Any]] = field(default_factory=list)

    def folder(self, run: str | Run) -> Path:
        """A run's folder."""
        return Path(self.output) / (run if isinstance(run, str) else run.id)

    def target(self, run: str | Run) -> Path:
        """The file that a finished run has written."""
        run = self.runs[run] if isinstance(run, str) else run
        return self.folder(run) / run.target

    def write(self) -> Path:
        """Write `plan.json`."""
        path = Path(self.output) / PLAN
        write_json(path, asdict(self))
        return path


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a `plan.json`, or the one in a folder.

    Raises:
        UserError: it is absent or is no plan.
    """
    path = Path(path)
    path = path / PLAN if path.is_dir() else path
    body = read_json(path)
    try:
        runs = {
            k: Run(**{**v, "command": tuple(v["command"]), "needs": tuple(v["needs"])}) for k, v in body["runs"].items()
        }
        cells = [Cell(**{**c, "runs": tuple(c["runs"])}) for c in body["cells"]]
        plan = Plan(**{**body, "runs": runs, "cells": cells})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a plan ({error}); write it again with `python -m benchmarks run`") from error
    # The folder may have been moved since.
    plan.output = str(path.parent)
    return plan


def order(runs: dict[str, Run]) -> list[str]:
    """Ids so that every run comes behind those it needs."""
    done: dict[str, None] = {}

    def visit(run: str) -> None:
        if run not in done:
            for other in runs[run].needs:
                visit(other)
            done[run] = None

    for run in runs:
        visit(run)
    return list(done)


def serves(plan: Plan) -> dict[str, Cell]:
    """For every run the first entry that it serves, directly or through the runs that need it."""
    found: dict[str, Cell] = {}

    def mark(run: str, cell: Cell) -> None:
        if run not in found:
            found[run] = cell
            for other in plan.runs[run].needs:
                mark(other, cell)

    for cell in plan.cells:
        for run in cell.runs:
            mark(run, cell)
    return found


def names(plan: Plan) -> dict[str, str]:
    """A name for every run to read: its id without the hash, and its row where two would be called the same."""
    short = {run: _without_hash(run) for run in plan.runs}
    rows = {run: f"{short[run]} ({cell.row})" for run, cell in serves(plan).items()}
    short |= {run: rows.get(run, run) for run in _twins(short)}
    # Two runs of one row with equal names differ in settings only: there the id has to do.
    return short | {run: run for run in _twins(short)}


def _without_hash(run: str) -> str:
    kind, _, rest = run.partition("/")
    rest = rest.rsplit("-", 1)[0]
    return rest if rest.startswith(f"{kind}-") or kind == "transfer" else f"{kind} {rest}"


def _twins(named: dict[str, str]) -> list[str]:
    """Runs whose name another run has too."""
    counts = Counter(named.values())
    return [run for run, text in named.items() if counts[text] > 1]


def chains(runs: dict[str, Run], seconds: dict[str, float]) -> dict[str, float]:
    """For every run the seconds from its start to the end of the longest chain of runs behind it."""
    behind: dict[str, list[str]] = {run: [] for run in runs}
    for run in runs.values():
        for other in run.needs:
            behind[other].append(run.id)
    longest: dict[str, float] = {}
    for name in reversed(order(runs)):
        longest[name] = seconds.get(name, 0.0) + max((longest[b] for b in behind[name]), default=0.0)
    return longest

"""From tables to runs: which commands fill which cells, each run once however many tables share it."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scales import Scale
from benchmarks.tables import Column, Row, Table
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.folder import RECORD

PLAN = "plan.json"
DETECTION = ("voc07", "voc0712", "coco")


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
    command: str = ""

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


DEFAULT_ROOTS = {"detection": "datasets"}


def expand(
    tables: Iterable[Table],
    scale: Scale,
    output: str | os.PathLike[str],
    roots: dict[str, str] | None = None,
    overrides: Iterable[tuple[str, str, Any]] = (),
    trials: int | None = None,
) -> Plan:
    """Turn tables into runs.

    Args:
        tables: what to fill, already cut to the wanted rows and columns.
        scale: the size.
        output: the folder below which everything is written.
        roots: the user's folders: `detection` and the names of classification sets (`imagenet`, `cifar10`, …); by
            default `datasets` and `datasets/<name>`. Without effect where the scale generates its own.
        overrides: the user's own settings, `(stage, key, value)`; they come last.
        trials: a bound on the trials of every column, below the scale's.

    Returns:
        The plan; nothing has been written.

    Raises:
        UserError: the output lies where a command line cannot name it.
    """
    builder = _Builder(scale, _relative(Path(output)), roots or {}, list(overrides), trials)
    tables = list(tables)
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                builder.cell(table, row, column)
    return Plan(
        output=builder.output,
        scale=scale.name,
        about=scale.about,
        tables=[{"name": t.name, "rows": [r.id for r in t.rows], "columns": [c.id for c in t.columns]} for t in tables],
        runs=builder.runs,
        cells=builder.cells,
        jobs=scale.jobs,
        threads=scale.threads,
        seconds=scale.seconds,
    )


class _Builder:
    """Adds a cell's runs to the graph; equal settings give the same run."""

    def __init__(
        self,
        scale: Scale,
        output: str,
        roots: dict[str, str],
        overrides: list[tuple[str, str, Any]],
        trials: int | None,
    ) -> None:
        self.scale, self.output, self.roots, self.trials = scale, output, roots, trials
        self.user = overrides
        self.runs: dict[str, Run] = {}
        self.cells: list[Cell] = []

    def cell(self, table: Table, row: Row, column: Column) -> None:
        """Plan one entry."""
        absent = row.needs or table.needs
        epochs = self._epochs(row, column)
        if absent:
            absent = f"needs {absent}"
        elif epochs is None and not row.untrained:
            absent = f"not at the {self.scale.name} scale"
        elif row.untrained and column.task == "pretrain":
            absent = "no pre-training"
        elif row.untrained and epochs is None:
            absent = f"not at the {self.scale.name} scale"
        runs = () if absent else tuple(self._trial(table, row, column, epochs, i) for i in range(self._count(column)))
        self.cells.append(Cell(table.name, row.id, column.id, runs, absent))

    def _epochs(self, row: Row, column: Column) -> int | None:
        epochs = row.epochs or column.epochs
        return epochs if self.scale.epochs is None else self.scale.epochs.get(epochs)

    def _count(self, column: Column) -> int:
        # The paper's number of trials, unless the scale wants more of them (cheap) or the user fewer.
        wanted = self.scale.trials.get(column.vary, column.trials)
        return min(wanted, self.trials) if self.trials else wanted

    def _trial(self, table: Table, row: Row, column: Column, epochs: int | None, trial: int) -> str:
        again = column.vary == "pretrain"
        pretrain_seed, seed = (trial, trial) if again else (0, trial)
        if row.untrained:
            return self._evaluation(table, row, column, None, seed)
        source = self._pretrain(table, row, column, epochs, pretrain_seed)
        if column.task == "pretrain":
            return source.id
        return self._evaluation(table, row, column, source, seed)

    def _pretrain(self, table: Table, row: Row, column: Column, epochs: int | None, seed: int) -> Run:
        settings = self._settings(table, row, {**row.pretrain, **column.pretrain}, "pretrain")
        # A user's epochs win over the column's.
        settings = {"epochs": epochs, **settings, "seed": seed}
        root, needs = self._root(table, False)
        name = f"{settings['method']}-{settings['epochs']}ep-seed{seed}"
        return self._add("pretrain", "pretrain", name, settings, root, needs, gpus=self.scale.gpus)

    def _evaluation(self, table: Table, row: Row, column: Column, source: Run | None, seed: int) -> str:
        """Add the run that evaluates `source`, or the untrained network."""
        detection = column.task in DETECTION
        arch = self._settings(table, row, row.pretrain, "pretrain").get("arch", "resnet50")
        if detection:
            settings = {"task": column.task, **self._settings(table, row, row.transfer, "transfer", column.task)}
            weights = self._convert(source) if source else None
            settings |= self._weights(weights, "weights", "scratch", arch)
        else:
            settings = self._settings(table, row, {}, column.task)
            settings |= self._weights(source, "checkpoint", "random", arch)
            weights = source
        settings["seed"] = seed
        root, needs = self._root(table, detection)
        # "scratch-seed0" or, for a pre-trained network, the pre-training's own name.
        origin = source.id.split("/")[1].rsplit("-", 1)[0] if source else "scratch"
        name = f"{column.task}-{origin}" + (f"-trial{seed}" if detection else "" if source else f"-seed{seed}")
        kind = "transfer" if detection else column.task
        return self._add(
            kind, column.task, name, settings, root, (*needs, *([weights.id] if weights else [])), gpus=self.scale.gpus
        ).id

    def _weights(self, source: Run | None, key: str, without: str, arch: str) -> dict[str, Any]:
        if source is None:
            return {key: without, "arch": arch}
        return {key: str(Path(self.output) / source.id / _product(source))}

    def _convert(self, source: Run) -> Run:
        file = str(Path(self.output) / source.id / _product(source))
        name = source.id.split("/")[1].rsplit("-", 1)[0]
        return self._add("convert", "convert", name, {"file": file}, {}, (source.id,))

    def _settings(self, table: Table, row: Row, own: dict[str, Any], *stages: str) -> dict[str, Any]:
        """The scale's word on all rows < the row's own < the scale's word on this row < the user's."""
        user = {key: value for stage, key, value in self.user if stage in stages}
        data = {} if "transfer" in stages else {"data": self.scale.data.get(table.dataset, table.dataset)}
        return {**data, **self.scale.common(*stages), **own, **self.scale.special(table.name, row.id, *stages), **user}

    def _root(self, table: Table, detection: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The data of a run: the generated set, which is a run itself, or the user's folder."""
        if self.scale.generate is not None:
            data = self._data()
            folder = Path(self.output) / data.id / "set"
            return {"data.root": str(folder if detection else folder / "imagefolder")}, (data.id,)
        name = "detection" if detection else table.dataset
        return {"data.root": self.roots.get(name, DEFAULT_ROOTS.get(name, f"datasets/{name}"))}, ()

    def _data(self) -> Run:
        return self._add("data", "data", "shapes", dict(self.scale.generate or {}), {}, ())

    def _add(
        self,
        kind: str,
        task: str,
        name: str,
        settings: dict[str, Any],
        root: dict[str, Any],
        needs: tuple[str, ...],
        gpus: int = 0,
    ) -> Run:
        identity = {"kind": kind, "settings": settings, "needs": needs, "root": root}
        digest = hashlib.sha256(json.dumps(_portable(identity, self.output), sort_keys=True).encode()).hexdigest()[:8]
        run_id = f"{kind}/{name}-{digest}"
        if run_id not in self.runs:
            folder = str(Path(self.output) / run_id)
            command = _command(kind, {**settings, **root}, folder, gpus)
            target = {"data": "set/manifest.json", "convert": "backbone.pkl"}.get(kind, RECORD)
            self.runs[run_id] = Run(run_id, kind, task, command, target, tuple(needs), {**settings, **root}, gpus)
        return self.runs[run_id]


def _product(run: Run) -> str:
    """The file that the next stage reads. The official code numbers checkpoints by the epoch, from 0."""
    if run.kind == "convert":
        return "backbone.pkl"
    return f"checkpoint_{int(run.settings['epochs']) - 1:04d}.pth.tar"


def _command(kind: str, settings: dict[str, Any], folder: str, gpus: int) -> tuple[str, ...]:
    if kind == "data":
        options = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
        return ("python", "-m", "benchmarks.shapes", f"{folder}/set", *options)
    if kind == "convert":
        return ("python", "-m", "converters", "detectron2", settings["file"], f"{folder}/backbone.pkl")
    module = {"pretrain": "pretrain", "linear": "pretrain.linear", "knn": "pretrain.knn", "transfer": "transfer"}[kind]
    start = ["python", "-m", module]
    if gpus > 1 and kind in ("pretrain", "transfer"):
        start = ["torchrun", "--standalone", f"--nproc_per_node={gpus}", "-m", module]
    return (*start, *(f"{k}={_plain(v)}" for k, v in settings.items()), f"output={folder}")


def _plain(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_plain(v) for v in value) + "]"
    return str(value)


def _portable(value: Any, output: str) -> Any:
    """Settings without the place of the output folder, so that the hash does not depend on it."""
    if isinstance(value, dict):
        return {k: _portable(v, output) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(v, output) for v in value]
    if isinstance(value, str) and value.startswith(output + "/"):
        return value[len(output) + 1 :]
    return value


def _relative(path: Path) -> str:
    """The output as commands name it: relative where it lies below the current folder."""
    if any(ch.isspace() or ch in "=,{}[]()'\"$" for ch in str(path)):
        raise UserError(
            f"--output {path}: spaces and any of = , {{ }} [ ] ( ) $ and quotes cannot stand in a command's setting"
        )
    absolute = Path(os.path.abspath(path))
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(absolute)


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


def parse_override(text: str, stages: Sequence[str]) -> tuple[str, str, Any]:
    """Read the user's `STAGE.KEY=VALUE`.

    Raises:
        UserError: it is not of that form or names no stage.
    """
    import yaml

    key, equals, value = text.partition("=")
    stage, dot, name = key.partition(".")
    if not equals or not dot or not name:
        raise UserError(f"--set {text}: must be STAGE.KEY=VALUE, e.g. pretrain.lr=0.1")
    if stage not in stages:
        raise UserError(f"--set {text}: '{stage}' is no stage; there are {', '.join(stages)}")
    try:
        return stage, name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value cannot be read: {error}") from error

"""From tables to runs: each run once, however many cells and tables share it."""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables.scale import STAGES, Scale
from benchmarks.tables.table import TASKS, Column, Row, Table, load, names
from benchmarks.workflow.plan import DETECTION, OF_THE_SCALE, Plan, PlannedCell, Run, Selection, Source
from runs import plugins
from runs.errors import UserError
from runs.files import RANDOM, SCRATCH, checkpoint_name
from runs.settings import flatten

# Detectron2's own default for the folder of VOC2007, VOC2012 and coco; other sets are `datasets/<name>`.
DETECTION_ROOT = "datasets"
# Images of a step that a device needs at the least. Pre-training: as the papers have it (SimSiam: 256 on 8); below it,
# batch norm over all devices waits for the network at every layer. A detector's batch norm is frozen or sees the boxes.
LEAST = {"pretrain": 32, "linear": 32}
# Settings that a plan counts with.
COUNTS = ("epochs", "batch_size", "detectron2.SOLVER.IMS_PER_BATCH")
# Settings that the plan gives each run, and where a user gives them.
PLANNED = {"seed": "--trials", "output": "--output", "data.root": "--data", "task": "--columns",
           "checkpoint": "evaluate FILE", "weights": "evaluate FILE"}  # fmt: skip
# No published number is the mean of more; a mistyped one would plan runs for hours.
MOST_TRIALS = 1000
KEY = re.compile(r"[\w./@+~-]+")
EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
# Values that Hydra reads without quotes.
PLAIN = re.compile(r"[\w./:@%+-]*")
# What a reader looks for first in a command.
FIRST = ("method", "variant", "task", "checkpoint", "weights", "data", "data.root", "arch", "epochs")


def expand(
    tables: Iterable[Table],
    scale: Scale,
    output: str | os.PathLike[str],
    roots: Mapping[str, str] | None = None,
    overrides: Iterable[tuple[str, str, Any]] = (),
    trials: int | None = None,
    checkpoint: Source | None = None,
) -> Plan:
    """Turn tables into runs; nothing is written.

    Args:
        tables: what to fill, already cut to the wanted rows and columns.
        scale: the size.
        output: the folder below which everything is written.
        roots: the user's folders: `detection` and the names of classification sets (`imagenet`, `cifar10`, …); by
            default `datasets` and `datasets/<name>`.
        overrides: the user's own settings, `(stage, key, value)`; they come last.
        trials: a bound on the trials of every column, below the scale's.
        checkpoint: what to evaluate in every row instead of what the row would pre-train.

    Raises:
        UserError: the output lies where a command line cannot name it, the scale names what no table has, or no run
            would look into one of the `roots`.
    """
    check_roots_used(roots or {}, scale)
    chosen = list(tables)
    _check_scale(scale, chosen)
    expansion = _Expansion(scale, _relative(Path(output)), roots or {}, list(overrides), trials, checkpoint)
    cells = [expansion.cell(t, row, column) for t in chosen for row in t.rows for column in t.columns]
    return Plan(
        output=expansion.output,
        scale=scale.name,
        tables=[Selection(t.name, tuple(r.id for r in t.rows), tuple(c.id for c in t.columns)) for t in chosen],
        runs=expansion.runs,
        cells=cells,
        checkpoint=checkpoint,
        **{name: getattr(scale, name) for name in OF_THE_SCALE},
    )


@dataclass
class _Expansion:
    """The runs behind the entries; equal settings give the same run."""

    scale: Scale
    output: str
    roots: Mapping[str, str]
    overrides: list[tuple[str, str, Any]]
    trials: int | None
    checkpoint: Source | None
    runs: dict[str, Run] = field(default_factory=dict)

    def cell(self, table: Table, row: Row, column: Column) -> PlannedCell:
        """An entry with the runs of its trials, which are added, or why there are none."""
        absent = ""
        count = self.scale.trials.get(column.task, self.scale.trials.get(column.vary, column.trials))
        count = min(count, self.trials or count)
        if self.checkpoint and column.vary == "pretrain":
            # It cannot be pre-trained again, and its features and their classifier hardly depend on a seed.
            count = 1
        if not self.checkpoint:
            wanted = self.scale.tasks is None or column.task in self.scale.tasks
            if missing := row.missing or table.missing:
                absent = f"needs {missing}"
            elif row.untrained and column.task == "pretrain":
                absent = "no pre-training"
            elif not wanted or self._epochs(row, column) is None:
                absent = f"not at the {self.scale.name} scale"
        if not absent and count > MOST_TRIALS:
            raise UserError(f"{table.name}, column {column.id}: {count} trials; at most {MOST_TRIALS}")
        runs = tuple(self._trial(table, row, column, seed).id for seed in range(0 if absent else count))
        return PlannedCell(table.name, row.id, column.id, runs, absent)

    def _epochs(self, row: Row, column: Column) -> int | None:
        epochs = row.epochs or column.epochs
        return epochs if self.scale.epochs is None else self.scale.epochs.get(epochs)

    def _trial(self, table: Table, row: Row, column: Column, seed: int) -> Run:
        """Add the runs of one trial; returns the one whose record has the number."""
        if self.checkpoint or row.untrained:
            return self._evaluation(table, row, column, self.checkpoint, seed)
        settings = self._settings(table, row, {**row.pretrain, **column.pretrain}, "pretrain")
        # A user's epochs win over the column's.
        settings = {"epochs": self._epochs(row, column), **settings, "seed": seed if column.vary == "pretrain" else 0}
        root, needs = self._data_settings(table, False)
        name = f"{settings.get('variant', settings.get('method'))}-{settings['epochs']}ep-seed{settings['seed']}"
        run = self._add("pretrain", name, settings, root, needs)
        if column.task == "pretrain":
            return run
        file = f"{self.output}/{run.id}/{checkpoint_name(int(settings['epochs']) - 1)}"
        return self._evaluation(table, row, column, Source(name, file, (run.id,)), seed)

    def _evaluation(self, table: Table, row: Row, column: Column, source: Source | None, seed: int) -> Run:
        """Add the run that evaluates `source`, or the untrained network."""
        name = f"{column.task}-{source.name if source else SCRATCH}"
        detection = column.task in DETECTION
        root, needs = self._data_settings(table, detection)
        if detection:
            settings = {"task": column.task, **self._settings(table, row, row.transfer, "transfer", column.task)}
            name += f"-trial{seed}"
        else:
            settings = self._settings(table, row, {}, column.task)
            name += "" if source else f"-seed{seed}"
        if source is None:
            arch = self._settings(table, row, row.pretrain, "pretrain").get("arch", "resnet50")
            settings |= {"weights": SCRATCH} if detection else {"checkpoint": RANDOM}
            settings["arch"] = arch
            if not detection:
                # How the untrained network starts is all that its row can say of it.
                settings |= {k: v for k, v in row.pretrain.items() if k == "zero_init_residual"}
        elif detection:
            file = {"file": source.file}
            converted = self._add("convert", source.name, file, {}, source.needs, source.sha256)
            settings["weights"] = f"{self.output}/{converted.id}/backbone.pkl"
            needs += (converted.id,)
        else:
            settings["checkpoint"] = source.file
            needs += source.needs
        return self._add(column.task, name, settings | {"seed": seed}, root, needs, source.sha256 if source else "")

    def _settings(self, table: Table, row: Row, own: dict[str, Any], *stages: str) -> dict[str, Any]:
        """The scale's for all rows < for the data set < the method < `own` < for the row < the user's.

        `own` is what makes the row; `stages` go from the general to the special, e.g. `transfer`, `voc07`.
        """
        scale = self.scale
        method = {"pretrain": scale.methods.get(own.get("method", ""), {})}
        rows = [scale.rows.get(name, {}) for name in ("*", row.id, f"{table.name}/{row.id}")]

        def merged(*layers: dict[str, Any]) -> dict[str, Any]:
            # As dotted keys, so that a later layer replaces a single value.
            parts = [flatten(layer.get(stage) or {}) for layer in layers for stage in stages]
            return {key: value for part in parts for key, value in part.items()}

        data = {} if "transfer" in stages else {"data": scale.data.get(table.dataset, table.dataset)}
        shared = merged(scale.stages, scale.datasets.get(table.dataset, {}), method)
        user = flatten({key: value for stage, key, value in self.overrides if stage in stages})
        given = {**shared, **flatten(own), **merged(*rows), **user}
        for key, option in PLANNED.items():
            if key in given:
                raise UserError(f"{stages[-1]}.{key}: the plan sets it for each run; leave it out (see {option})")
        if changed := {"method", "variant"} & {*shared, *merged(*rows), *user}:
            raise UserError(f"{stages[-1]}.{min(changed)}: is what makes the row; choose rows with --rows")
        settings = data | {key: _setting(f"{stages[-1]}.{key}", value) for key, value in given.items()}
        for key in COUNTS:
            if key in settings and (type(settings[key]) is not int or settings[key] < 1):
                raise UserError(f"{stages[-1]}.{key}={settings[key]}: must be a whole number of at least 1")
        return settings

    def _data_settings(self, table: Table, detection: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The data of a run: the generated set, which is a run itself, or the user's folder."""
        if self.scale.generate is not None:
            data = self._add("data", "shapes", dict(self.scale.generate), {}, ())
            folder = f"{self.output}/{data.id}/set"
            return {"data.root": folder if detection else f"{folder}/imagefolder"}, (data.id,)
        name = "detection" if detection else table.dataset
        return {"data.root": self.roots.get(name, DETECTION_ROOT if detection else f"datasets/{name}")}, ()

    def _add(
        self, task: str, name: str, settings: dict[str, Any], root: dict[str, Any], needs: tuple[str, ...],
        sha256: str = "",
    ) -> Run:  # fmt: skip
        kind = "transfer" if task in DETECTION else task
        identity = {"kind": kind, "settings": settings, "needs": needs, "root": root, "sha256": sha256}
        # Without the place of the output folder, on which the result does not depend.
        portable = json.dumps(identity, sort_keys=True).replace(f"{json.dumps(self.output)[:-1]}/", '"')
        digest = hashlib.sha256(portable.encode()).hexdigest()[:8]
        run_id = f"{kind}/{name}-{digest}"
        if run_id not in self.runs:
            gpus, nodes = gpus_and_nodes(self.scale, kind, batch_of(self.scale, task, settings))
            command = _command(kind, {**settings, **root}, f"{self.output}/{run_id}", gpus, nodes, digest)
            self.runs[run_id] = Run(run_id, kind, task, command, needs, {**settings, **root}, gpus, nodes)
        return self.runs[run_id]


def batch_of(scale: Scale, task: str, settings: dict[str, Any]) -> int | None:
    """Images a step of a run, over all devices; None where the scale does not say."""
    own = settings.get("batch_size", settings.get("detectron2.SOLVER.IMS_PER_BATCH"))
    return own or scale.batch_sizes.get(settings.get("method", ""), scale.batch_sizes.get(task))


def gpus_and_nodes(scale: Scale, kind: str, batch: int | None) -> tuple[int, int]:
    """The devices of each node and the nodes of a run: the scale's, or as many as the batch can be shared out to."""
    if kind in ("data", "convert"):
        return 0, 1
    if batch is None:
        return scale.gpus, scale.nodes
    most = max(1, batch // LEAST.get(kind, 1))
    whole_nodes = [(scale.gpus, n) for n in range(min(scale.nodes, most), 0, -1)]
    parts = [(gpus, 1) for gpus in range(scale.gpus - 1, 0, -1)]
    fitting = ((g, n) for g, n in (*whole_nodes, *parts) if max(g, 1) * n <= most and batch % (max(g, 1) * n) == 0)
    return next(fitting, (min(scale.gpus, 1), 1))


def _command(kind: str, settings: dict[str, Any], folder: str, gpus: int, nodes: int, digest: str) -> tuple[str, ...]:
    if kind == "data":
        options = [argument for k, v in settings.items() for argument in (f"--{k.replace('_', '-')}", str(v))]
        return ("python", "-m", "benchmarks.shapes", f"{folder}/set", *options)
    if kind == "convert":
        return ("python", "-m", "converters", "detectron2", settings["file"], f"{folder}/backbone.pkl")
    module = {"pretrain": "pretrain", "linear": "pretrain.linear", "knn": "pretrain.knn", "transfer": "transfer"}[kind]
    ordered = {k: settings[k] for k in FIRST if k in settings} | settings
    return (*launcher(gpus, nodes, digest), "-m", module, *(f"{k}={_plain(v)}" for k, v in ordered.items()),
            f"output={folder}")  # fmt: skip


def launcher(gpus: int, nodes: int, digest: str) -> tuple[str, ...]:
    """What starts a process a device: the same words on every node, which meet at the first of them, `$HEAD`."""
    if nodes > 1:
        # Runs side by side must not meet each other: a port of its own for each.
        port = 20000 + int(digest, 16) % 10000
        return ("torchrun", f"--nnodes={nodes}", f"--nproc_per_node={max(gpus, 1)}", "--rdzv-backend=c10d",
                f"--rdzv-id={digest}", f"--rdzv-endpoint=$HEAD:{port}")  # fmt: skip
    return ("torchrun", "--standalone", f"--nproc_per_node={gpus}") if gpus > 1 else ("python",)


def _setting(name: str, value: Any) -> Any:
    """A value as Hydra reads it: to YAML 1.1, `1e-3` and `1.5e3` are texts.

    Raises:
        UserError: Hydra cannot read it.
    """
    if isinstance(value, list | tuple):
        return [_setting(name, v) for v in value]
    value = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UserError(f"{name}={value}: must be a number, a text, true, false, null or a list")


def _plain(value: Any) -> str:
    """A value as Hydra writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_plain(v) for v in value) + "]"
    text = str(value)
    # Lightning's `epoch=99-step=1000.ckpt`, a browser's `net (1).pth`: Hydra's grammar wants them in quotes.
    return text if PLAIN.fullmatch(text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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


def parse_stage_setting(text: str) -> tuple[str, str, Any]:
    """Read the user's `--set STAGE.KEY=VALUE`; a `UserError` if it is not of that form or names no stage."""
    key, equals, value = text.partition("=")
    stage, dot, name = key.partition(".")
    if not equals or not dot or not KEY.fullmatch(name):
        raise UserError(f"--set {text}: must be STAGE.KEY=VALUE, e.g. pretrain.lr=0.1")
    if stage not in STAGES:
        raise UserError(f"--set {text}: '{stage}' is no stage; there are {', '.join(STAGES)}")
    try:
        return stage, name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value cannot be read: {error}") from error


def parse_data_root(text: str) -> tuple[str, str]:
    """Read `--data NAME=DIR`; a `UserError` if it is not of that form."""
    name, _, folder = text.partition("=")
    if not folder:
        raise UserError(f"--data {text}: must be NAME=DIR, e.g. imagenet=/data/imagenet")
    return name, os.path.expanduser(folder)


def check_roots_used(roots: Mapping[str, str], scale: Scale) -> None:
    """Raise a `UserError` for a folder into which no run would look: numbers of other data are worse than none."""
    known = ["detection", *sorted({load(t).dataset for t in names()} | set(scale.data))] if roots else []
    for name, folder in roots.items():
        if scale.generate is not None:
            raise UserError(
                f"--data {name}={folder}: the {scale.name} scale makes its own data; add --scale small or --scale "
                "paper, or a scale file of your own (docs/benchmarks.md)"
            )
        if name not in known:
            raise UserError(f"--data {name}={folder}: no table reads '{name}'; there are {', '.join(known)}")


def _check_scale(scale: Scale, chosen: Iterable[Table]) -> None:
    """Refuse a misspelled name in a scale: its settings would have no effect.

    A name unlike all that there are is of a table, method or data set of one's own, which need not be used now.
    """
    tables = [*map(load, names()), *chosen]
    rows = [(t.name, r) for t in tables for r in t.rows]
    methods = {r.pretrain["method"] for _, r in rows if "method" in r.pretrain} | _plugin_names("method")
    data = {t.dataset for t in tables} | _plugin_names("data")
    for field_, given, known in (
        ("rows", scale.rows, {"*"} | {name for t, r in rows for name in (r.id, f"{t}/{r.id}")}),
        ("methods", scale.methods, methods), ("batch_sizes", scale.batch_sizes, methods | {*TASKS}),
        ("datasets", scale.datasets, data), ("data", scale.data, data),
    ):  # fmt: skip
        for name in given:
            near = difflib.get_close_matches(name, known)
            table = name.rpartition("/")[0]
            own = not (difflib.get_close_matches(table, [t.name for t in tables], cutoff=0.8) if table else near)
            if name not in known and not own:
                there = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"
                raise UserError(f"scale {scale.name}: {field_}: no table has '{name}'; {there}")


def _plugin_names(group: str) -> set[str]:
    return {path.stem for path in plugins.find_files(f"{group}/*.yaml")}

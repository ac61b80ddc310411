"""From tables to runs: each run once, however many cells and tables share it."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables.scale import STAGES, Scale
from benchmarks.tables.table import Column, Row, Table, load, names
from benchmarks.workflow.plan import Cell, Checkpoint, Plan, Run, Selection
from runs.errors import UserError
from runs.files import checkpoint_name

DETECTION = ("voc07", "voc0712", "coco")
# Detectron2's own default for the folder of VOC2007, VOC2012 and coco; other sets are `datasets/<name>`.
DETECTION_ROOT = "datasets"
# Images of a step that a device needs at the least. Pre-training: as the papers have it (SimSiam: 256 on 8); below it,
# batch norm over all devices waits for the network at every layer. A detector's batch norm is frozen or sees the boxes.
LEAST = {"pretrain": 32, "linear": 32}
# Values that Hydra reads without quotes.
PLAIN = re.compile(r"[\w./:@%+-]*")
# What a reader looks for first in a command.
FIRST = ("method", "variant", "task", "checkpoint", "weights", "data", "data.root", "arch", "epochs")


@dataclass(frozen=True)
class Source:
    """Where an evaluation's weights come from.

    Attributes:
        name: for the names of folders.
        file: the checkpoint.
        needs: the run that writes it, if it is one of ours.
        sha256: of the file, if it is not.
    """

    name: str
    file: str
    needs: tuple[str, ...] = ()
    sha256: str = ""


def expand(
    tables: Iterable[Table],
    scale: Scale,
    output: str | os.PathLike[str],
    roots: Mapping[str, str] | None = None,
    overrides: Iterable[tuple[str, str, Any]] = (),
    trials: int | None = None,
    checkpoint: Source | None = None,
) -> Plan:
    """Turn tables into runs.

    Args:
        tables: what to fill, already cut to the wanted rows and columns.
        scale: the size.
        output: the folder below which everything is written.
        roots: the user's folders: `detection` and the names of classification sets (`imagenet`, `cifar10`, …); by
            default `datasets` and `datasets/<name>`.
        overrides: the user's own settings, `(stage, key, value)`; they come last.
        trials: a bound on the trials of every column, below the scale's.
        checkpoint: what to evaluate in every row instead of what the row would pre-train.

    Returns:
        The plan; nothing has been written.

    Raises:
        UserError: the output lies where a command line cannot name it, or no run would look into one of the `roots`.
    """
    check_roots(roots or {}, scale)
    graph = _Graph(scale, _relative(Path(output)), roots or {}, list(overrides), checkpoint)
    chosen, cells = list(tables), []
    for table in chosen:
        for row in table.rows:
            for column in table.columns:
                absent = "" if checkpoint else _obstacle(scale, table, row, column)
                count = 0 if absent else _count(scale, column, trials, checkpoint)
                runs = tuple(graph.trial(table, row, column, i) for i in range(count))
                cells.append(Cell(table.name, row.id, column.id, runs, absent))
    return Plan(
        output=graph.output,
        scale=scale.name,
        about=scale.about,
        tables=[Selection(t.name, tuple(r.id for r in t.rows), tuple(c.id for c in t.columns)) for t in chosen],
        runs=graph.runs,
        cells=cells,
        jobs=scale.jobs,
        threads=scale.threads,
        seconds=scale.seconds,
        seconds_source=scale.seconds_source,
        seconds_devices=scale.seconds_devices,
        gigabytes=scale.gigabytes,
        replace=scale.replace,
        add=scale.add,
        checkpoint=Checkpoint(checkpoint.name, checkpoint.sha256) if checkpoint else None,
    )


def _obstacle(scale: Scale, table: Table, row: Row, column: Column) -> str:
    """Why there is nothing to run for an entry; empty if there is."""
    if missing := row.missing or table.missing:
        return f"needs {missing}"
    if row.untrained and column.task == "pretrain":
        return "no pre-training"
    wanted = scale.tasks is None or column.task in scale.tasks
    return "" if wanted and _epochs(scale, row, column) is not None else f"not at the {scale.name} scale"


def _epochs(scale: Scale, row: Row, column: Column) -> int | None:
    epochs = row.epochs or column.epochs
    return epochs if scale.epochs is None else scale.epochs.get(epochs)


def _count(scale: Scale, column: Column, trials: int | None, checkpoint: Source | None) -> int:
    """The paper's number of trials, unless the scale has its own, and at most `trials`."""
    # A given checkpoint cannot be pre-trained again, and its features and their classifier hardly depend on a seed.
    if checkpoint and column.vary == "pretrain":
        return 1
    wanted = scale.trials.get(column.task, scale.trials.get(column.vary, column.trials))
    return min(wanted, trials) if trials else wanted


@dataclass
class _Graph:
    """The runs behind the entries; equal settings give the same run."""

    scale: Scale
    output: str
    roots: Mapping[str, str]
    overrides: list[tuple[str, str, Any]]
    checkpoint: Source | None
    runs: dict[str, Run] = field(default_factory=dict)

    def trial(self, table: Table, row: Row, column: Column, seed: int) -> str:
        """Add the runs of one trial; returns the id of the one whose record has the number."""
        if self.checkpoint or row.untrained:
            return self._evaluation(table, row, column, self.checkpoint, seed).id
        run = self._pretrain(table, row, column, seed if column.vary == "pretrain" else 0)
        if column.task == "pretrain":
            return run.id
        file = f"{self.output}/{run.id}/{checkpoint_name(int(run.settings['epochs']) - 1)}"
        # Its name without kind and hash.
        name = run.id.split("/")[1].rsplit("-", 1)[0]
        return self._evaluation(table, row, column, Source(name, file, (run.id,)), seed).id

    def _pretrain(self, table: Table, row: Row, column: Column, seed: int) -> Run:
        settings = self._settings(table, row, {**row.pretrain, **column.pretrain}, "pretrain")
        # A user's epochs win over the column's.
        settings = {"epochs": _epochs(self.scale, row, column), **settings, "seed": seed}
        root, needs = self._root(table, False)
        name = f"{settings.get('variant', settings.get('method'))}-{settings['epochs']}ep-seed{seed}"
        return self._add("pretrain", "pretrain", name, settings, root, needs)

    def _evaluation(self, table: Table, row: Row, column: Column, source: Source | None, seed: int) -> Run:
        """Add the run that evaluates `source`, or the untrained network."""
        name = f"{column.task}-{source.name if source else 'scratch'}"
        detection = column.task in DETECTION
        root, needs = self._root(table, detection)
        if detection:
            settings = {"task": column.task, **self._settings(table, row, row.transfer, "transfer", column.task)}
            name += f"-trial{seed}"
            weights, untrained = "weights", "scratch"
        else:
            settings = self._settings(table, row, {}, column.task)
            name += "" if source else f"-seed{seed}"
            weights, untrained = "checkpoint", "random"
        if source is None:
            arch = self._settings(table, row, row.pretrain, "pretrain").get("arch", "resnet50")
            settings |= {weights: untrained, "arch": arch}
            if not detection:
                # How the untrained network starts is all that its row can say of it.
                settings |= {k: v for k, v in row.pretrain.items() if k == "zero_init_residual"}
        elif detection:
            converted = self._add(
                "convert", "convert", source.name, {"file": source.file}, {}, source.needs, source.sha256
            )
            settings[weights] = f"{self.output}/{converted.id}/backbone.pkl"
            needs += (converted.id,)
        else:
            settings[weights] = source.file
            needs += source.needs
        settings["seed"] = seed
        kind = "transfer" if detection else column.task
        return self._add(kind, column.task, name, settings, root, needs, source.sha256 if source else "")

    def _settings(self, table: Table, row: Row, own: dict[str, Any], *stages: str) -> dict[str, Any]:
        """The scale's settings with those of the row, below the user's."""
        user = {key: value for stage, key, value in self.overrides if stage in stages}
        data = {} if "transfer" in stages else {"data": self.scale.data.get(table.dataset, table.dataset)}
        return {**data, **self.scale.settings(table, row, own, *stages), **user}

    def _root(self, table: Table, detection: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The data of a run: the generated set, which is a run itself, or the user's folder."""
        if self.scale.generate is not None:
            data = self._add("data", "data", "shapes", dict(self.scale.generate), {}, ())
            folder = f"{self.output}/{data.id}/set"
            return {"data.root": folder if detection else f"{folder}/imagefolder"}, (data.id,)
        name = "detection" if detection else table.dataset
        return {"data.root": self.roots.get(name, DETECTION_ROOT if detection else f"datasets/{name}")}, ()

    def _add(
        self,
        kind: str,
        task: str,
        name: str,
        settings: dict[str, Any],
        root: dict[str, Any],
        needs: tuple[str, ...],
        sha256: str = "",
    ) -> Run:
        identity = {"kind": kind, "settings": settings, "needs": needs, "root": root, "sha256": sha256}
        # Without the place of the output folder, on which the result does not depend.
        portable = json.dumps(identity, sort_keys=True).replace(f"{json.dumps(self.output)[:-1]}/", '"')
        digest = hashlib.sha256(portable.encode()).hexdigest()[:8]
        run_id = f"{kind}/{name}-{digest}"
        if run_id not in self.runs:
            gpus, nodes = devices_of(self.scale, kind, batch_of(self.scale, task, settings))
            command = _command(kind, {**settings, **root}, f"{self.output}/{run_id}", gpus, nodes, digest)
            self.runs[run_id] = Run(run_id, kind, task, command, needs, {**settings, **root}, gpus, nodes)
        return self.runs[run_id]


def batch_of(scale: Scale, task: str, settings: dict[str, Any]) -> int | None:
    """Images a step of a run, over all devices; None where the scale does not say."""
    own = settings.get("batch_size", settings.get("detectron2.SOLVER.IMS_PER_BATCH"))
    return own or scale.batch_sizes.get(settings.get("method", ""), scale.batch_sizes.get(task))


def devices_of(scale: Scale, kind: str, batch: int | None) -> tuple[int, int]:
    """(devices of each node, nodes) of a run: the scale's, or as many as the batch can be shared out to."""
    if kind in ("data", "convert"):
        return 0, 1
    if batch is None:
        return scale.gpus, scale.nodes
    most = max(1, batch // LEAST.get(kind, 1))
    whole_nodes = [(scale.gpus, n) for n in range(scale.nodes, 0, -1)]
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


def _plain(value: Any) -> str:
    """A value as Hydra reads it."""
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


def parse_override(text: str) -> tuple[str, str, Any]:
    """Read the user's `STAGE.KEY=VALUE`.

    Raises:
        UserError: it is not of that form or names no stage.
    """
    key, equals, value = text.partition("=")
    stage, dot, name = key.partition(".")
    if not equals or not dot or not name:
        raise UserError(f"--set {text}: must be STAGE.KEY=VALUE, e.g. pretrain.lr=0.1")
    if stage not in STAGES:
        raise UserError(f"--set {text}: '{stage}' is no stage; there are {', '.join(STAGES)}")
    try:
        return stage, name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value cannot be read: {error}") from error


def parse_root(text: str) -> tuple[str, str]:
    """Read `--data NAME=DIR`.

    Raises:
        UserError: it is not of that form.
    """
    name, _, folder = text.partition("=")
    if not folder:
        raise UserError(f"--data {text}: must be NAME=DIR, e.g. imagenet=/data/imagenet")
    return name, folder


def check_roots(roots: Mapping[str, str], scale: Scale) -> None:
    """Check the user's folders: numbers of other data than the user believes are worse than none.

    Raises:
        UserError: the scale or its tables would not look into one of them.
    """
    known = ["detection", *sorted({load(t).dataset for t in names()} | set(scale.data))] if roots else []
    for name, folder in roots.items():
        if scale.generate is not None:
            raise UserError(
                f"--data {name}={folder}: the {scale.name} scale makes its own data; add --scale small or --scale "
                "paper, or a scale file of your own (docs/benchmarks.md)"
            )
        if name not in known:
            raise UserError(f"--data {name}={folder}: no table reads '{name}'; there are {', '.join(known)}")

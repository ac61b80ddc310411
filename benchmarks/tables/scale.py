"""The sizes at which the tables can be run. A size is data: it only overrides settings of the commands."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables.table import TASKS, Row, Table, adapt
from runs import plugins
from runs.errors import UserError
from runs.files import read_json, read_yaml
from runs.folder import flatten
from runs.typed import build

SCALES = Path(__file__).parents[1] / "scales"
# From small to large.
NAMES = ("lab", "mini", "photos", "small", "paper", *(path.stem for path in plugins.find("scales/*.yaml")))
STAGES = ("pretrain", "linear", "knn", "transfer", "voc07", "voc0712", "coco")


@dataclass(frozen=True)
class Scale:
    """One size.

    Attributes:
        name: `lab`, `mini`, `photos`, `small`, `paper`, or of the user's file.
        about: what it is for, a sentence.
        generate: options of `python -m benchmarks.shapes` where the scale makes its own data, else None.
        data: the paper's data set -> this scale's name for `data=`; what is not here keeps its name.
        tasks: what of the tables is run; None means everything.
        epochs: the paper's epochs -> this scale's; None means the same.
        trials: so many trials a column, by its task or else by what varies.
        stages: overrides by stage; a task's own come after those of `transfer`.
        datasets: further overrides by the paper's data set, `{data set: {stage: {key: value}}}`.
        methods: overrides of the pre-training by `method`; the rows' own win, as over `stages`.
        rows: overrides that win over the rows' own, `{row: {stage: {key: value}}}`, where `*` is every row; of several
            the more special one wins: `*`, `row`, `table/row`.
        jobs: runs at a time.
        threads: threads a run; None leaves them to the libraries.
        gpus: devices of one run on each node.
        nodes: machines of one run.
        seconds: expected duration of a run by kind or task (`pretrain/epoch`: of one epoch) on the scale's own devices,
            until one was measured.
        seconds_devices: the devices of one run that `seconds` are for; 0 where none is used.
        batch_sizes: images a step, by method or task, where no setting says so.
        seconds_source: where `seconds` comes from.
        gigabytes: what a finished run leaves on the disk, by kind or task.
        replace: what is measured in place of a task's metric.
        add: what is measured besides; see `tables.table.adapt`.
    """

    name: str
    about: str
    generate: dict[str, Any] | None = None
    data: dict[str, str] = field(default_factory=dict)
    tasks: list[str] | None = None
    epochs: dict[int, int] | None = None
    trials: dict[str, int] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    replace: dict[str, dict[str, Any]] = field(default_factory=dict)
    add: list[dict[str, Any]] = field(default_factory=list)
    jobs: int = 1
    threads: int | None = None
    gpus: int = 0
    nodes: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_source: str = ""
    seconds_devices: int = 0
    batch_sizes: dict[str, int] = field(default_factory=dict)
    gigabytes: dict[str, float] = field(default_factory=dict)

    def settings(self, table: Table, row: Row, own: dict[str, Any], *stages: str) -> dict[str, Any]:
        """The settings of a row's run: the scale's for all rows < for the data set < the method < `own` < for the row.

        Args:
            table: its data set counts, and its name in `rows`.
            row: the row.
            own: what makes the row.
            stages: from the general to the special, e.g. `transfer`, `voc07`.
        """
        method = {"pretrain": self.methods.get(own.get("method", ""), {})}
        rows = [self.rows.get(name, {}) for name in ("*", row.id, f"{table.name}/{row.id}")]
        return {
            **_merged((self.stages, self.datasets.get(table.dataset, {}), method), stages),
            **own,
            **_merged(rows, stages),
        }

    def adapt(self, table: Table) -> Table:
        """The table with what this scale measures of it."""
        return adapt(table, self.replace, self.add)


def _merged(layers: Iterable[dict[str, Any]], stages: Sequence[str]) -> dict[str, Any]:
    """Settings as dotted keys, so that a later layer replaces a single value."""
    return {
        key: value for layer in layers for stage in stages for key, value in flatten(layer.get(stage) or {}).items()
    }


def load(name: str) -> Scale:
    """Read a scale by its name, or from a file of the user's own (`--scale my.yaml`).

    Raises:
        UserError: there is none, or a field is unknown or of the wrong kind.
    """
    given = [Path(name)] if name.endswith((".yaml", ".yml")) else [p for p in _files() if p.stem == name]
    path = next((p for p in given if p.exists()), None)
    if path is None:
        raise UserError(f"--scale {name}: no such scale; there are {', '.join(NAMES)}, or give a .yaml file")
    scale = build(Scale, {**read_yaml(path), "name": path.stem}, str(path))
    for overrides in (scale.stages, *scale.rows.values(), *scale.datasets.values()):
        for stage in overrides:
            if stage not in STAGES:
                raise UserError(f"{path}: unknown stage '{stage}'; there are {', '.join(STAGES)}")
    for task in scale.tasks or ():
        if task not in TASKS:
            raise UserError(f"{path}: tasks: unknown task '{task}'; there are {', '.join(TASKS)}")
    for where, keys in (("seconds", scale.seconds), ("gigabytes", scale.gigabytes)):
        for key in keys:
            if key.removesuffix("/epoch") not in (*TASKS, "data", "convert"):
                raise UserError(f"{path}: {where}.{key}: no such run; there are data, convert, {', '.join(TASKS)}")
    return scale


def with_measured(scale: Scale, path: Path) -> Scale:
    """The scale with the times that `python -m hardware` measured on one device.

    Raises:
        UserError: the file is none of its, or lacks a time that the scale has.
    """
    body = read_json(path)
    times = body.get("plan") if isinstance(body, dict) else None
    if not isinstance(times, dict) or not all(isinstance(value, int | float) and value > 0 for value in times.values()):
        raise UserError(f"--measured {path}: no hardware.json; python -m hardware writes it")
    # A conversion takes no device.
    lacking = sorted(set(scale.seconds) - set(times) - {"convert"})
    if lacking:
        raise UserError(f"--measured {path}: no time for {', '.join(lacking)}; run python -m hardware whole, on a GPU")
    source = f"measured on one {body.get('machine', {}).get('device', 'device').removeprefix('1 x ')} ({path})"
    return dataclasses.replace(scale, seconds=scale.seconds | times, seconds_devices=1, seconds_source=source)


def _files() -> list[Path]:
    return [*SCALES.glob("*.yaml"), *plugins.find("scales/*.yaml")]

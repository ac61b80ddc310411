"""The sizes at which the tables can be run. A size is data: it only overrides settings of the commands."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables.table import TASKS, VARY
from runs import plugins
from runs.errors import UserError
from runs.files import read_json, read_yaml
from runs.settings import number
from runs.typed import build

SCALES = Path(__file__).parents[1] / "scales"
# From small to large.
NAMES = ("lab", "mini", "photos", "small", "paper", *(path.stem for path in plugins.find_files("scales/*.yaml")))
STAGES = ("pretrain", "linear", "knn", "transfer", "voc07", "voc0712", "coco")


@dataclass(frozen=True)
class Scale:
    """One size. Which settings win over which: docs/benchmarks.md."""

    name: str  # `lab`, `mini`, `photos`, `small`, `paper`, or of the user's file
    about: str  # what it is for, a sentence
    generate: dict[str, Any] | None = None  # options of `python -m benchmarks.shapes`, if it makes its own data
    data: dict[str, str] = field(default_factory=dict)  # the paper's data set -> `data=`; others keep their name
    tasks: list[str] | None = None  # what of the tables is run; None means everything
    epochs: dict[int, int] | None = number(None, least=1)  # the paper's epochs -> this scale's; None means the same
    trials: dict[str, int] = number(dict, least=1)  # so many a column, by its task or else by what varies
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # a task's own come after those of `transfer`
    datasets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # by the paper's data set and stage
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the pre-training, by `method`
    # By row and stage, above the rows' own. Of several the more special wins: `*` (every row), `row`, `table/row`.
    rows: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    replace: dict[str, dict[str, Any]] = field(default_factory=dict)  # what is measured in place of a task's metric
    # What is measured besides, see `tables.table.adapt_columns`.
    add: list[dict[str, Any]] = field(default_factory=list)
    jobs: int = number(1, least=1)  # runs at a time
    threads: int | None = number(None, least=1)  # of a run; None leaves them to the libraries
    gpus: int = number(0, least=0)  # devices of one run on each node
    nodes: int = number(1, least=1)  # machines of one run
    # Expected duration of a run by kind or task (`pretrain/epoch`: of one epoch), until one was measured.
    seconds: dict[str, float] = number(dict, least=0)
    seconds_source: str = ""
    seconds_devices: int = number(0, least=0)  # the devices of one run that `seconds` are for; 0 where none is used
    batch_sizes: dict[str, int] = number(dict, least=1)  # images a step, by method or task, if no setting says so
    gigabytes: dict[str, float] = number(dict, least=0)  # what a finished run leaves on the disk, by kind or task


def load(name: str) -> Scale:
    """Read a scale by its name, or from a file of the user's own (`--scale my.yaml`).

    Raises:
        UserError: there is none, or a field is unknown or of the wrong kind.
    """
    named = {path.stem: path for path in (*plugins.find_files("scales/*.yaml"), *SCALES.glob("*.yaml"))}
    path = Path(name) if name.endswith((".yaml", ".yml")) else named.get(name)
    if path is None or not path.exists():
        raise UserError(f"--scale {name}: no such scale; there are {', '.join(NAMES)}, or give a .yaml file")
    scale = build(Scale, {**read_yaml(path), "name": path.stem}, str(path))
    stages = [stage for layer in (scale.stages, *scale.rows.values(), *scale.datasets.values()) for stage in layer]
    timed = [key.removesuffix("/epoch") for key in (*scale.seconds, *scale.gigabytes)]
    for field_, given, known in (
        ("stage", stages, STAGES), ("task", (*(scale.tasks or ()), *scale.replace), TASKS),
        ("run", timed, ("data", "convert", *TASKS)), ("trials", scale.trials, (*TASKS, *VARY)),
    ):  # fmt: skip
        for name in given:
            if name not in known:
                raise UserError(f"{path}: unknown {field_} '{name}'; there are {', '.join(known)}")
    return scale


def with_measured_times(scale: Scale, path: Path) -> Scale:
    """The scale with the times that `python -m hardware` measured on one device.

    Raises:
        UserError: the file is none of its, or lacks a time that the scale has.
    """
    body = read_json(path)
    body = body if isinstance(body, dict) else {}
    times, machine = body.get("plan"), body.get("machine", {})
    if (
        not isinstance(times, dict)
        or not isinstance(machine, dict)
        or not all(isinstance(value, int | float) and value > 0 for value in times.values())
    ):
        raise UserError(f"--measured {path}: no hardware.json; python -m hardware writes it")
    # A conversion takes no device.
    lacking = sorted(set(scale.seconds) - set(times) - {"convert"})
    if lacking:
        raise UserError(f"--measured {path}: no time for {', '.join(lacking)}; run python -m hardware whole, on a GPU")
    source = f"measured on one {str(machine.get('device', 'device')).removeprefix('1 x ')} ({path})"
    return dataclasses.replace(scale, seconds=scale.seconds | times, seconds_devices=1, seconds_source=source)

"""`python -m benchmarks evaluate FILE`: any ResNet checkpoint to a row of the papers' tables and a model card."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks import scales, tables
from benchmarks.expansion import Source, expand, parse_override
from benchmarks.fill import Filled, fill, full_label, read_records
from benchmarks.plan import Plan
from benchmarks.render import number, print_grid
from runs.children import child_environment
from runs.environment import command_line, describe
from runs.errors import UserError
from runs.files import atomic_write, write_json

SCHEMA = 1
OTHERS = "The published rows are of 200 epochs of pre-training on ImageNet."
# Which columns of the paper a task fills. The 200-epoch column stands for "this checkpoint", whatever its own length.
PLACES = {
    "linear": ("table4", "ep200"),
    "knn": ("table4", "knn200"),
    **dict.fromkeys(("voc07", "voc0712", "coco"), ("table5", "")),
}


def evaluate(arguments: argparse.Namespace) -> int:
    """The command. Exit status 1 if a run failed."""
    from benchmarks.commands import roots_of
    from benchmarks.run import work

    check_tasks(arguments.tasks)
    overrides = [parse_override(text, scales.STAGES) for text in arguments.overrides]
    # Before the checkpoint is fetched.
    roots = roots_of(arguments.data, scale := scales.load(arguments.scale))
    check_places(roots)
    file, facts = inspected(arguments.file)
    output = arguments.output or f"outputs/evaluate/{slug(file)}-{facts['sha256'][:8]}-{scale.name}"
    plan = plan_of(file, facts, arguments.tasks, arguments.scale, output, roots, overrides, arguments.trials)
    if arguments.jobs:
        plan.jobs = arguments.jobs
    print(f"{file}: {facts['format']}, {facts['arch']}, proved", file=sys.stderr)
    status = work(plan)
    filled = fill(plan, read_records(plan), status)
    show(filled, file.name)
    print(f"{plan.scale} scale: {plan.about}")
    card = model_card(plan, filled, facts, file, arguments.file)
    print(f"model card: {card}")
    return 1 if status.failed else 0


def check_tasks(tasks: list[str]) -> None:
    """Refuse a task that there is not, before anything is fetched."""
    unknown = [task for task in tasks if task not in PLACES]
    if unknown or not tasks:
        raise UserError(f"--tasks {','.join(unknown or tasks)}: choose from {', '.join(PLACES)}")


def check_places(roots: dict[str, str]) -> None:
    """Refuse a folder that does not exist; `plan` takes it, asked on another machine than the one that has the data."""
    for name, folder in roots.items():
        if not Path(folder).is_dir():
            raise UserError(f"--data {name}={folder}: no such folder")


def plan_of(
    file: Path, facts: dict[str, Any], tasks: list[str], scale_name: str, output: str, roots: dict[str, str],
    overrides: list[tuple[str, str, Any]], trials: int | None,
) -> Plan:  # fmt: skip
    """The runs that evaluate one checkpoint."""
    scale = scales.load(scale_name)
    chosen = []
    for name in dict.fromkeys(PLACES[t][0] for t in tasks):
        columns = [PLACES[t][1] or t for t in tasks if PLACES[t][0] == name]
        # Any row serves as the place that the checkpoint is put in.
        chosen.append(tables.load(name).select(["simsiam"], columns))
    source = Source(slug(file), str(file), (), facts["sha256"])
    plan = expand(chosen, scale, output, roots, overrides, trials, source)
    plan.command = command_line()
    return plan


def for_gate(arguments: argparse.Namespace) -> list[str]:
    """Evaluate the gate's checkpoint; returns the records of it, and not of others that the folder may hold."""
    from benchmarks.commands import roots_of
    from benchmarks.run import work

    check_tasks(arguments.tasks)
    roots = roots_of(arguments.data, scales.load(arguments.scale))
    check_places(roots)
    file, facts = inspected(arguments.checkpoint)
    output = arguments.output or "outputs/gate"
    plan = plan_of(file, facts, arguments.tasks, arguments.scale, output, roots, [], None)
    status = work(plan)
    if status.failed or status.blocked:
        raise UserError(f"gate: {len(status.failed)} runs on {file} failed; their logs are below {output}")
    return [str(plan.target(run)) for run in dict.fromkeys(run for cell in plan.cells for run in cell.runs)]


def inspected(address: str) -> tuple[Path, dict[str, Any]]:
    """Recognise and prove a checkpoint, fetched first where it is an address.

    Args:
        address: a path, or what else `python -m converters` takes: `https://…`, `hf://…`, `zoo:NAME`.

    Returns:
        (the file, what `python -m converters inspect` says of it)

    Raises:
        SystemExit: the converter refuses; it has said why.
    """
    command = [sys.executable, "-m", "converters", "inspect", address, "--json"]
    # Its standard error is the user's: the progress of a download, and the one line that says what is wrong.
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=child_environment())
    if result.returncode != 0:
        sys.exit(result.returncode)
    facts = json.loads(result.stdout)
    assert isinstance(facts, dict)
    return Path(facts["file"]), facts


def slug(file: Path) -> str:
    """A file's name as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", file.name.split(".")[0]).strip("-") or "checkpoint"


def show(filled: list[Filled], name: str) -> None:
    """Print the checkpoint's row above the paper's."""
    console = Console()
    for f in filled:
        whole = tables.load(f.table.name).select(None, [c.id for c in f.table.columns])
        console.print(f"{f.table.label}: {f.table.title}", style="bold", highlight=False)
        console.print(f"{f.table.quantity}, {f.scale} scale. {OTHERS}", style="dim", highlight=False, soft_wrap=True)
        lines = [(name[:40], [Text(number(e, False)) for e in f.entries[0]], "bold")]
        lines += [
            (r.label, [Text("–" if v is None else str(v)) for v in r.values], "dim")
            for r in whole.rows
            if any(r.values)
        ]
        print_grid(console, [(c.group, c.label) for c in f.table.columns], lines)


def model_card(plan: Plan, filled: list[Filled], facts: dict[str, Any], file: Path, address: str = "") -> Path:
    """Write `model_card.md` and `model_card.json`; returns the former. `address`: where the file was fetched from."""
    fetched, here = "://" in address or address.startswith("zoo:"), describe()
    results = [
        {"task": c.task, "metric": c.metric, "column": full_label(c),
         "n": e.ours.n, "mean": e.ours.mean, "std": e.ours.std}
        for f in filled for c, e in zip(f.table.columns, f.entries[0], strict=True) if e.ours
    ]  # fmt: skip
    keys = ("file", "sha256", "format", "arch", "parameters", "input", "checks", "caveat")
    commands = [run.line for run in plan.runs.values()]
    card = {
        "schema": SCHEMA, "scale": plan.scale,
        "checkpoint": {k: facts.get(k) for k in keys} | {"address": address if fetched else None},
        "results": results, "commands": commands, "environment": here,
    }  # fmt: skip
    write_json(Path(plan.output) / "model_card.json", card)
    lines = [
        f"# {file.name}", "", *([f"- Fetched from: {address}"] if fetched else []), f"- Format: {facts['format']}",
        f"- Network: {facts['arch']}, {facts['parameters']:,} parameters",
        f"- SHA-256: `{facts['sha256']}`", f"- Input: {_input(facts['input'])}",
        *(f"- Verified: {check['name']}: {check['figure']}" for check in facts["checks"]),
        *([f"- Caveat: {facts['caveat']}"] if facts.get("caveat") else []), "",
        f"Measured at the {plan.scale} scale: {plan.about} {OTHERS}", "",
    ]  # fmt: skip
    for f in filled:
        whole = tables.load(f.table.name).select(None, [c.id for c in f.table.columns])
        lines += ["| " + " | ".join([f.table.label, *(full_label(c) for c in f.table.columns)]) + " |"]
        lines += ["|" + " --- |" * (len(f.table.columns) + 1)]
        lines += ["| " + " | ".join([f"**{file.name}**", *(number(e) for e in f.entries[0])]) + " |"]
        for row in (r for r in whole.rows if any(r.values)):
            words = ["–" if v is None else str(v) for v in row.values]
            lines += ["| " + " | ".join([f"{row.label} (paper)", *words]) + " |"]
        lines += [""]
    versions = {name: here["packages"][name] for name in ("torch", "torchvision", "detectron2")}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    lines += [f"Made by: {here['processor']}, device {here['device']}, Python {here['python']}, {packages}, "
              f"commit {here['commit'] or 'unknown'}", "", "## Commands", "", "```", *commands, "```", ""]  # fmt: skip
    path = Path(plan.output) / "model_card.md"
    with atomic_write(path, "w") as handle:
        handle.write("\n".join(lines))
    return path


def _input(convention: dict[str, Any]) -> str:
    mean, std = ([f"{v:g}" for v in convention[k]] for k in ("pixel_mean", "pixel_std"))
    stride = "1x1" if convention["stride_in_1x1"] else "3x3"
    return f"{convention['format']}, mean {', '.join(mean)}, std {', '.join(std)}; stride in the {stride} convolution"

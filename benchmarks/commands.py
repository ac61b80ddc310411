"""The commands `plan`, `run` and `report` of `python -m benchmarks`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import scales, tables
from benchmarks.estimate import clock, durations, is_measured, left
from benchmarks.expansion import expand, parse_override
from benchmarks.fill import fill, read_records
from benchmarks.plan import Plan, chains, names, order
from benchmarks.render import terminal
from benchmarks.scales import Scale
from runs.environment import command_line
from runs.errors import UserError


def build(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments of `plan` and `run` ask for.

    Raises:
        UserError: an argument is unknown, or nothing of these tables can be run at the scale.
    """
    scale = scales.load(arguments.scale)
    changes = {k: v for k, v in (("jobs", arguments.jobs), ("gpus", arguments.gpus)) if v is not None}
    scale = dataclasses.replace(scale, **changes)
    chosen = tables.choose(arguments.tables, arguments.rows, arguments.columns, scale.fit)
    plan = expand(
        chosen,
        scale,
        arguments.output or f"outputs/{scale.name}",
        roots_of(arguments.data, scale),
        [parse_override(text, scales.STAGES) for text in arguments.overrides],
        arguments.trials,
    )
    if not plan.runs:
        fitting = [name for name in scales.names() if expand(chosen, scales.load(name), plan.output).runs]
        remedy = f"add --scale {' or --scale '.join(fitting)}" if fitting else "choose other rows or tables"
        reasons = "; ".join(dict.fromkeys(cell.absent for cell in plan.cells))
        raise UserError(f"{', '.join(arguments.tables)}: {reasons}; {remedy}")
    plan.command = command_line()
    return plan


def roots_of(given: list[str], scale: Scale | None = None) -> dict[str, str]:
    """Read `--data NAME=DIR`.

    Args:
        given: the words.
        scale: what they are for; None for a command that takes any name.

    Raises:
        UserError: not of this form, or nothing that the scale would look at: numbers of other data than the user
            believes are worse than none.
    """
    roots = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise UserError(f"--data {text}: must be NAME=DIR, e.g. imagenet=/data/imagenet")
        if scale and scale.generate is not None:
            raise UserError(
                f"--data {text}: the {scale.name} scale makes its own data; add --scale small or --scale paper, or a "
                "scale file of your own (docs/benchmarks.md)"
            )
        known = ["detection", *sorted({tables.load(t).dataset for t in tables.names()})] if scale else [name]
        if name not in known:
            raise UserError(f"--data {text}: no table reads '{name}'; there are {', '.join(known)}")
        roots[name] = folder
    return roots


def plan(arguments: argparse.Namespace) -> int:
    """Say what a run would do."""
    made = build(arguments)
    expected, known = durations(made), is_measured(made)
    done = {r for r in made.runs if made.target(r).exists()}
    waiting = set(made.runs) - done
    print(f"{made.scale} scale: {made.about}")
    print(f"\n{'':14}{'runs':>5}{'done':>6}{'each':>10}{'GPU-hours':>11}{'GB':>8}  time is")
    for task in dict.fromkeys(run.task for run in made.runs.values()):
        runs = [run for run in made.runs.values() if run.task == task]
        seconds = sum(expected[run.id] for run in runs)
        hours = f"{sum(expected[run.id] * run.gpus for run in runs) / 3600:.1f}" if any(r.gpus for r in runs) else "–"
        space = made.gigabytes.get(task, 0.0) * len(runs)
        origin = "measured here" if all(known[r.id] for r in runs) else "assumed"
        finished = sum(run.id in done for run in runs)
        print(f"{task:14}{len(runs):5}{finished:6}{clock(seconds / len(runs)):>10}{hours:>11}{space:8.1f}  {origin}")
    print()
    if arguments.commands:
        for run_id in order(made.runs):
            print(f"# {'done' if run_id in done else clock(expected[run_id])}")
            print(made.runs[run_id].line)
        print()
    chain = _critical_path(made, expected, waiting)
    print(f"{len(waiting)} of {len(made.runs)} runs to do, about {clock(left(made, expected, {}, waiting))} with "
          f"{made.jobs} at a time")  # fmt: skip
    if chain:
        total, called = sum(expected[r] for r in chain), names(made)
        print(f"critical path, {clock(total)}: " + " -> ".join(called[r] for r in chain))
    space = sum(made.gigabytes.get(made.runs[r].task, 0.0) for r in made.runs)
    print(f"GPU-hours {sum(expected[r] * made.runs[r].gpus for r in waiting) / 3600:.0f}, disk about {space:.1f} GB")
    if made.figures and not all(known.values()):
        print(f"assumed times: {made.figures}")
    for absent in dict.fromkeys(c.absent for c in made.cells if c.absent):
        print(f"{sum(c.absent == absent for c in made.cells)} entries are not planned: {absent}")
    return 0


def _critical_path(made: Plan, expected: dict[str, float], waiting: set[str]) -> list[str]:
    """The longest chain of runs that wait for each other."""
    lengths = chains(made.runs, {r: expected[r] for r in waiting})
    path: list[str] = []
    candidates = waiting
    while candidates:
        path.append(max(candidates, key=lambda r: lengths[r]))
        candidates = {r for r in waiting if path[-1] in made.runs[r].needs}
    return path


def run(arguments: argparse.Namespace) -> int:
    """Do the runs, print the tables, write the report. Exit status 1 if a run failed."""
    from benchmarks.run import work

    made = build(arguments)
    status = work(made, arguments.executor, arguments.snakemake)
    filled = fill(made, read_records(made), status)
    console = Console()
    for table in filled:
        terminal(table, console)
    from benchmarks.report import write_report

    page = write_report([made], Path(made.output))
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if status.failed:
        print(
            f"{len(status.failed)} of {len(made.runs)} runs failed; run the same command again to try them again",
            file=sys.stderr,
        )
    return 1 if status.failed else 0


def report(arguments: argparse.Namespace) -> int:
    """Write the report of what is there."""
    from benchmarks.report import write_report

    plans, loose = collect(arguments.folders)
    page = write_report(plans, Path(arguments.output or arguments.folders[0]), loose)
    print(f"report: {page}")
    return 0


def collect(folders: list[str]) -> tuple[list[Plan], list[str]]:
    """Split folders into those of a `run` and those with records only."""
    from benchmarks.plan import PLAN, read_plan

    plans = [read_plan(f) for f in folders if (Path(f) / PLAN).exists()]
    return plans, [f for f in folders if not (Path(f) / PLAN).exists()]

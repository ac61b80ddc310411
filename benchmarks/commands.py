"""The commands `plan`, `run` and `report` of `python -m benchmarks`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import scales, tables
from benchmarks.estimate import clock, durations, left
from benchmarks.expansion import expand, parse_override
from benchmarks.fill import fill, read_records
from benchmarks.plan import Plan, chains, order
from benchmarks.render import terminal
from runs.environment import command_line
from runs.errors import UserError


def build(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments of `plan` and `run` ask for."""
    scale = scales.load(arguments.scale)
    changes = {k: v for k, v in (("jobs", arguments.jobs), ("gpus", arguments.gpus)) if v is not None}
    scale = dataclasses.replace(scale, **changes)
    chosen = [tables.load(name).select(arguments.rows, arguments.columns) for name in dict.fromkeys(arguments.tables)]
    plan = expand(
        chosen,
        scale,
        arguments.output or f"outputs/{scale.name}",
        roots_of(arguments.data),
        [parse_override(text, scales.STAGES) for text in arguments.overrides],
        arguments.trials,
    )
    plan.command = command_line()
    return plan


def roots_of(given: list[str]) -> dict[str, str]:
    """Read `--data NAME=DIR`."""
    roots = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not folder:
            raise UserError(f"--data {text}: must be NAME=DIR, e.g. imagenet=/data/imagenet")
        roots[name] = folder
    return roots


def plan(arguments: argparse.Namespace) -> int:
    """Say what a run would do."""
    made = build(arguments)
    console = Console()
    expected = durations(made)
    console.print(f"{made.scale} scale: {made.about}", highlight=False, soft_wrap=True)
    kinds: dict[str, int] = {}
    for run in made.runs.values():
        kinds[run.task] = kinds.get(run.task, 0) + 1
    console.print(f"{len(made.runs)} runs: {', '.join(f'{n} {k}' for k, n in kinds.items())}", highlight=False)
    for run_id in order(made.runs):
        run = made.runs[run_id]
        word = " ".join(run.command) if arguments.commands else run_id
        mark = "done" if made.target(run).exists() else clock(expected[run_id])
        console.print(f"{mark:>9}  {word}", highlight=False, soft_wrap=True, markup=False)
    waiting = {r for r in made.runs if not made.target(r).exists()}
    longest = max(chains(made.runs, {r: expected[r] for r in waiting}).values(), default=0.0)
    console.print(
        f"about {clock(left(made, expected, {}, waiting))} with {made.jobs} runs at a time; "
        f"longest chain {clock(longest)}",
        highlight=False,
    )
    return 0


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

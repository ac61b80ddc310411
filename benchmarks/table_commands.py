"""The commands `list`, `show`, `plan`, `run` and `report` of `python -m benchmarks`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.formatted_table import FormattedTable, Line, to_cells
from benchmarks.report import table_formats
from benchmarks.report.page import write_report
from benchmarks.report.result_tables import result_table
from benchmarks.results.read_results import read_plan_results, read_results_and_unplanned
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.device_scaling import device_scaling_table
from benchmarks.workflow.expand_tables import expand, parse_stage_setting
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_plan import run_plan
from benchmarks.workflow.run_status import last_attempts, status_of
from benchmarks.workflow.time_left import clock, critical_path, expected_durations, plan_seconds_left
from runs.environment import command_line
from runs.errors import UserError


def list_tables(arguments: argparse.Namespace) -> int:
    """One line a table."""
    width = max(len(name) for name in tables.names())
    paper = None
    for table in map(tables.load, tables.names()):
        if table.paper != paper:
            paper = table.paper
            print(f"{paper.title} ({paper.source.split(';')[0]})")
        missing = _missing(table)
        size = f"{len(table.rows)} x {len(table.columns)}"
        print(f"  {table.name:{width}}  {size:>6}  {table.label}: {table.title}" + (f" [{missing}]" if missing else ""))
    print("Groups")
    for name, members in tables.groups().items():
        print(f"  {name:{width}}  {', '.join(members)}")
    return 0


def _missing(table: tables.Table) -> str:
    """What a table would need to be run."""
    if table.missing:
        return f"needs {table.missing}"
    rows = [r for r in table.rows if r.missing]
    return f"{len(rows)} of {len(table.rows)} rows need {rows[0].missing}" if rows else ""


def print_published_table(arguments: argparse.Namespace) -> int:
    """A table as published."""
    table = tables.load(arguments.table)
    source = ", ".join(filter(None, (table.paper.title, table.paper.authors, table.paper.source)))
    shown = dataclasses.replace(table.published_table(), notes=(*table.notes, source, *filter(None, [_missing(table)])))
    if arguments.format == "markdown":
        print(table_formats.markdown(shown), end="")
    else:
        table_formats.print_table(shown)
    return 0


def print_plan(arguments: argparse.Namespace) -> int:
    """Print what a run would do; nothing is written."""
    scale = _scale(arguments)
    if arguments.measured:
        scale = scales.with_measured_times(scale, Path(arguments.measured))
    plan = _planned(arguments, scale)
    expected, measured = expected_durations(plan, last_attempts(plan))
    status = status_of(plan, failed={})
    print(f"{plan.scale} scale: {plan.about}\n")
    table_formats.print_table(_costs(plan, expected, measured, set(status.done)))
    if arguments.commands:
        if any(run.nodes > 1 for run in plan.runs.values()):
            print("# with $HEAD: on each of its nodes, behind HEAD=<the name of one of them>")
        for run in plan.order:
            print(f"# {'done' if run in status.done else clock(expected[run])}")
            print(plan.runs[run].shell_command)
        print()
    print(f"{len(status.waiting)} of {len(plan.runs)} runs to do, about "
          f"{clock(plan_seconds_left(plan, expected, status))} with {plan.jobs} at a time")  # fmt: skip
    if chain := critical_path(plan, expected, set(status.waiting)):
        steps = " -> ".join(plan.name_by_run[r] for r in chain)
        print(f"critical path, {clock(sum(expected[r] for r in chain))}: {steps}")
    space = sum(plan.gigabytes.get(run.task, 0.0) for run in plan.runs.values())
    hours = sum(expected[r] * plan.runs[r].devices for r in status.waiting) / 3600
    print(f"GPU-hours {hours:.0f}, disk about {space:.1f} GB")
    if arguments.devices:
        chosen = [table for table, _ in plan.planned_tables]
        table_formats.print_table(device_scaling_table(chosen, scale, arguments.devices))
    if plan.seconds_source and len(measured) < len(plan.runs):
        print(f"assumed times: {plan.seconds_source}")
    for absent in dict.fromkeys(c.absent for c in plan.cells if c.absent):
        print(f"{sum(c.absent == absent for c in plan.cells)} entries are not planned: {absent}")
    return 0


def _scale(arguments: argparse.Namespace) -> scales.Scale:
    """The scale that the arguments of `plan` and `run` name, with what they say of its size."""
    given = {name: value for name in ("jobs", "gpus", "nodes") if (value := getattr(arguments, name)) is not None}
    return dataclasses.replace(scales.load(arguments.scale), **given)


def _planned(arguments: argparse.Namespace, scale: scales.Scale) -> Plan:
    """The plan that the arguments of `plan` and `run` ask for."""
    chosen = tables.choose(arguments.tables, arguments.rows, arguments.columns, scale.replace, scale.add)
    output = arguments.output or f"outputs/{scale.name}"
    overrides = [parse_stage_setting(text) for text in arguments.overrides]
    plan = expand(chosen, scale, output, dict(arguments.data), overrides, arguments.trials)
    if not plan.runs:
        fitting = [name for name in scales.NAMES if expand(chosen, scales.load(name), plan.output).runs]
        remedy = f"add --scale {' or --scale '.join(fitting)}" if fitting else "choose other rows or tables"
        reasons = "; ".join(dict.fromkeys(cell.absent for cell in plan.cells))
        raise UserError(f"{', '.join(arguments.tables)}: {reasons}; {remedy}")
    plan.command = command_line()
    return plan


def _costs(plan: Plan, expected: dict[str, float], measured: set[str], done: set[str]) -> FormattedTable:
    lines = []
    for task in dict.fromkeys(run.task for run in plan.runs.values()):
        runs = [run for run in plan.runs.values() if run.task == task]
        seconds = sum(expected[run.id] for run in runs)
        hours = sum(expected[run.id] * run.devices for run in runs) / 3600
        lines.append(Line(task, to_cells([
            len(runs), str(sum(run.id in done for run in runs)), clock(seconds / len(runs)),
            f"{hours:.1f}" if any(run.devices for run in runs) else None,
            f"{plan.gigabytes.get(task, 0.0) * len(runs):.1f}",
            "measured here" if all(run.id in measured for run in runs) else "assumed",
        ])))  # fmt: skip
    heads = ("runs", "done", "each", "GPU-hours", "GB", "time is")
    return FormattedTable(tuple(("", head) for head in heads), tuple(lines))


def run(arguments: argparse.Namespace) -> int:
    """Do the runs, print the tables, write the report. Exit status 1 if a run failed or its record is refused."""
    scale = _scale(arguments)
    plan = _planned(arguments, scale)
    status = run_plan(plan, arguments.executor, arguments.sbatch, arguments.retries)
    results = read_plan_results(plan, status)
    console = Console()
    for result in results.tables:
        table_formats.print_table(result_table(result), console)
        if result.gain:
            console.print(f"{result.gain}\n", highlight=False, markup=False)
    print(f"report: {write_report([results], Path(plan.output))}")
    if status.failed:
        print(
            f"{len(status.failed)} of {len(plan.runs)} runs failed; run the same command again to try them again",
            file=sys.stderr,
        )
    for reason in results.refused:
        print(f"refused: {reason}", file=sys.stderr)
    return 1 if status.failed or results.refused else 0


def report(arguments: argparse.Namespace) -> int:
    """Write the report of what is there."""
    results, others = read_results_and_unplanned(arguments.folders)
    first = Path(arguments.folders[0])
    output = Path(arguments.output or (first if first.is_dir() else first.parent))
    print(f"report: {write_report(results, output, others)}")
    return 0

"""`python -m benchmarks evaluate FILE`: any ResNet checkpoint to a row of the papers' tables and a model card."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import push_to_hub
from benchmarks.converters_command import inspect_checkpoint
from benchmarks.formatted_table import FormattedTable
from benchmarks.model_card import OTHERS, write_model_card
from benchmarks.report import table_formats
from benchmarks.report.result_tables import checkpoint_vs_paper_table
from benchmarks.results.read_results import read_plan_results
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import check_roots_used, expand, parse_stage_setting
from benchmarks.workflow.plan import DETECTION, Plan, Source
from benchmarks.workflow.run_plan import run_plan
from runs.environment import command_line
from runs.errors import UserError

# Which columns of the paper a task fills. The 200-epoch column stands for "this checkpoint", whatever its own length.
PLACES = {
    "linear": ("table4", "ep200"),
    "knn": ("table4", "knn200"),
    **dict.fromkeys(DETECTION, ("table5", "")),
}


@dataclass(frozen=True)
class CheckpointResult:
    """A checkpoint's row beside the paper's, one table a paper's table; a notebook shows it."""

    tables: tuple[FormattedTable, ...]
    model_card: Path  # the Markdown file; `model_card.json` beside it has the same as data
    plan: Plan  # the runs, in `plan.output`
    refused: tuple[str, ...]  # why records cannot be used
    failed: tuple[str, ...]  # runs that failed

    @property
    def faults(self) -> list[str]:
        """Why the row is not whole; empty if it is."""
        return [*self.refused, *(f"{run} failed; its log is below {self.plan.output}" for run in self.failed)]

    @property
    def record_files(self) -> list[Path]:
        """The records of this evaluation, and not others that the folder may hold."""
        return [self.plan.target(run) for cell in self.plan.cells for run in cell.runs]

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables)


def evaluate(
    checkpoint: str,
    tasks: Sequence[str] = ("linear", "knn"),
    scale: str = "mini",
    data: Mapping[str, str] | None = None,
    output: str | None = None,
    trials: int | None = None,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
) -> CheckpointResult:
    """Measure any ResNet checkpoint: recognised, proved, and a row of the papers' tables.

    Args:
        checkpoint: a path or an address, see `converters.load_backbone`.
        tasks: of linear, knn, voc07, voc0712, coco.
        scale: the name or file of a scale.
        data: folders of data sets by name, for scales without data of their own.
        output: a folder; by default one below `outputs/evaluate`. What is finished there is not done again.
        trials: at most so many a number.
        overrides: settings of a stage, `pretrain.optimizer.lr=0.1`.
        jobs: runs at a time.

    Raises:
        UserError: an argument is wrong.
        SystemExit: the converter refuses the checkpoint; it has said why.
    """
    # Before anything is fetched.
    size, roots, parsed = scales.load(scale), data or {}, [parse_stage_setting(text) for text in overrides]
    chosen = tables_of_tasks(tasks)
    check_roots_used(roots, size)
    for name, folder in roots.items():
        if not Path(folder).is_dir():
            raise UserError(f"--data {name}={folder}: no such folder")
    facts = inspect_checkpoint(checkpoint)
    file = Path(facts["file"])
    print(f"{file}: {facts['format']}, {facts['arch']}, proved", file=sys.stderr)
    source = Source(folder_name(file), str(file), (), facts["sha256"])
    output = output or f"outputs/evaluate/{source.name}-{source.sha256[:8]}-{size.name}"
    plan = expand(chosen, size, output, roots, parsed, trials, source)
    plan.command, plan.jobs = command_line(), jobs or plan.jobs
    status = run_plan(plan)
    results = read_plan_results(plan, status)
    card = write_model_card(plan, results.tables, facts, checkpoint)
    tables = tuple(checkpoint_vs_paper_table(result, file.name[:40]) for result in results.tables)
    return CheckpointResult(tables, card, plan, tuple(results.refused), tuple(status.failed))


def evaluate_command(arguments: argparse.Namespace) -> int:
    """The command. Exit status 1 if a run failed."""
    if arguments.push:
        push_to_hub.check_push(arguments.push)
    elif arguments.yes:
        raise UserError("--yes: is for --push OWNER/NAME; give it, or leave --yes out")
    given = vars(arguments)
    names = ("tasks", "scale", "output", "trials", "overrides", "jobs")
    found = evaluate(arguments.file, data=dict(arguments.data), **{name: given[name] for name in names})
    for table in found.tables:
        table_formats.print_table(table)
    print(f"{found.plan.scale} scale: {found.plan.about} {OTHERS}")
    print(f"model card: {found.model_card}")
    for reason in found.refused:
        print(f"refused: {reason}", file=sys.stderr)
    if found.failed or found.refused:
        return 1
    if arguments.push:
        push_to_hub.push(found.model_card, arguments.push, arguments.yes)
    return 0


def tables_of_tasks(tasks: Sequence[str]) -> list[tables.Table]:
    """The tables with the columns that the tasks fill, and one row, in whose place the checkpoint is put."""
    unknown = [task for task in tasks if task not in PLACES]
    if unknown or not tasks:
        raise UserError(f"--tasks {','.join(unknown or tasks)}: choose from {', '.join(PLACES)}")
    chosen = []
    for name in dict.fromkeys(PLACES[t][0] for t in tasks):
        columns = [PLACES[t][1] or t for t in tasks if PLACES[t][0] == name]
        chosen.append(tables.load(name).select(["simsiam"], columns))
    return chosen


def folder_name(file: Path) -> str:
    """A file's name as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", file.name.split(".")[0]).strip("-") or "checkpoint"

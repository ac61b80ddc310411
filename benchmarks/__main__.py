"""`python -m benchmarks`: the papers' tables, planned, run, reported and guarded."""

import argparse
import contextlib
import math
import os
import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from runs.app import Parser, cli


def parser() -> Parser:
    """The command line."""
    root = Parser(prog="python -m benchmarks", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="COMMAND")

    def add(name: str, function: str, text: str) -> Parser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=_lazy(function))
        return command

    add("list", "table_commands:list_tables", "list the tables and figures")

    command = add("show", "table_commands:print_published_table", "print a table with the paper's values")
    command.add_argument("table")
    command.add_argument("--format", choices=("terminal", "markdown"), default="terminal")

    command = add("plan", "table_commands:print_plan", "what a run would do: runs, commands, time, disk")
    _choose(command)
    command.add_argument("--commands", action="store_true", help="print every command")
    command.add_argument(
        "--devices",
        type=lambda text: [*map(_positive, _names(text))],
        metavar="N,…",
        help="how time and cost change with the number of devices, e.g. 1,8,64",
    )
    command.add_argument(
        "--measured", metavar="FILE", help="hardware.json of `python -m hardware`: times of this machine"
    )

    command = add("run", "table_commands:run", "run what the tables need, print them, write the report")
    _choose(command)
    command.add_argument("--executor", choices=("local", "slurm"), default="local", help="where (default: local)")
    command.add_argument(
        "--retries",
        type=partial(_positive, least=0),
        default=0,
        help="how often a failed run is started again (default: 0)",
    )
    command.epilog = "Options after -- are passed to sbatch, e.g. -- --partition=gpu --mem=64G --time=2-0"

    command = add("report", "table_commands:report", "one HTML page, and the tables as Markdown, LaTeX and CSV")
    command.add_argument(
        "folders", nargs="+", type=_folder, metavar="FOLDER", help="output folders of `run`, or any folders of records"
    )
    command.add_argument("--output", type=_folder, metavar="DIR", help="where to write (default: the first folder)")

    command = add(
        "evaluate", "evaluate:evaluate_command", "measure any ResNet checkpoint: a row of the tables and a model card"
    )
    command.add_argument("file", metavar="FILE_OR_URL")
    command.add_argument("--tasks", type=_names, default=["linear", "knn"], help="of linear, knn, voc07, voc0712, coco")
    command.add_argument(
        "--push", metavar="OWNER/NAME", help="show what would be uploaded to the Hugging Face Hub: card and weights"
    )
    command.add_argument("--yes", action="store_true", help="with --push: upload it")
    _common(command)

    command = add(
        "gate", "gate_command:gate", "compare results with a stored baseline: 0 within, 1 a drop, 2 bad input"
    )
    command.add_argument("results", nargs="*", metavar="RESULT", help="result.json files or folders of them")
    group = command.add_mutually_exclusive_group(required=True)
    group.add_argument("--baseline", metavar="FILE", help="compare with this")
    group.add_argument("--write-baseline", metavar="FILE", help="store these results as the baseline")
    command.add_argument(
        "--tolerance",
        type=_points,
        default=0.0,
        metavar="POINTS",
        help="drops up to this size always pass (default: 0)",
    )
    command.add_argument(
        "--detect", type=_points, metavar="POINTS",
        help="exit with 3 if a drop of this size could go undetected (default: only a remark, for 2 points)",
    )  # fmt: skip
    command.add_argument(
        "--noise", type=_points, metavar="POINTS", help="standard deviation of a trial, if it is known"
    )
    command.add_argument("--update-baseline", action="store_true", help="print what changes and store the new baseline")
    command.add_argument("--summary", metavar="FILE.md", help="write a summary for a pull request")
    command.add_argument("--junit", metavar="FILE.xml", help="write JUnit XML")
    command.add_argument("--checkpoint", metavar="FILE", help="first evaluate this checkpoint, as `evaluate` does")
    command.add_argument("--tasks", type=_names, help="with --checkpoint (default: knn,linear)")
    command.add_argument("--scale", help="with --checkpoint (default: mini)")
    _data(command)
    command.add_argument("--output", type=_folder, metavar="DIR", help="with --checkpoint: default outputs/gate")

    command = add("doctor", "doctor:doctor", "check the installation, the devices and every data set")
    _data(command)
    command.add_argument(
        "--output", default=".", type=os.path.expanduser, metavar="DIR",
        help="the folder whose disk is checked (default: the current one)",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="the findings as JSON")
    return root


def _choose(command: argparse.ArgumentParser) -> None:
    command.add_argument("tables", nargs="+", metavar="TABLE")
    command.add_argument("--rows", type=_names, help="only these rows, comma-separated")
    command.add_argument("--columns", type=_names, help="only these columns or tasks, comma-separated")
    command.add_argument(
        "--gpus",
        type=partial(_positive, least=0),
        help="devices of one run on each of its nodes (default: the scale's)",
    )
    command.add_argument("--nodes", type=_positive, help="machines that work on one run (default: the scale's)")
    _common(command)


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scale", default="mini", help="lab, mini, photos, small, paper, or a .yaml file (default: mini)"
    )
    command.add_argument("--jobs", type=_positive, help="runs at a time (default: the scale's)")
    command.add_argument("--trials", type=_positive, help="the largest number of trials of each column")
    _data(command)
    command.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", dest="overrides",
        help="a setting of a stage, e.g. pretrain.optimizer.lr=0.1",
    )  # fmt: skip
    command.add_argument("--output", type=_folder, metavar="DIR", help="default: below outputs/")


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", action="append", default=[], metavar="NAME=DIR", type=_lazy("workflow.expand_tables:parse_data_root"),
        help="where a data set is, for scales without data of their own: imagenet, cifar10, …, and detection for the "
        "folder of VOC2007, VOC2012 and coco (default: datasets/NAME, and datasets for detection)",
    )  # fmt: skip


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("must name at least one")
    return names


def _folder(text: str) -> str:
    if not text or os.path.abspath(text) == os.path.sep:
        raise argparse.ArgumentTypeError("must be a folder below the root of the file system")
    return os.path.expanduser(text)


def _positive(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}")
    return int(text)


def _points(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError("must be a number of at least 0")


def _lazy(path: str) -> Callable[[Any], Any]:
    """A function, as `module:name`, whose module is imported only when it is called, so that `--help` is immediate."""
    return lambda argument: pkgutil.resolve_name(f"benchmarks.{path}")(argument)


@cli
def main(argv: list[str] | None = None) -> int:
    """Parse and do."""
    given = list(sys.argv[1:] if argv is None else argv)
    # Only `run` has something to hand on; elsewhere `--` keeps its usual meaning.
    place = given.index("--") if given[:1] == ["run"] and "--" in given else len(given)
    arguments = parser().parse_args(given[:place])
    arguments.sbatch = given[place + 1 :]
    return int(arguments.function(arguments))


if __name__ == "__main__":
    main()

"""`siamese-transfer COMMAND …`: start a command of the suite.

As a console script it has its own folder first on `sys.path`, not the current one as `python -m` does. So a file
`pretrain.py` of the user's cannot be started in place of the package of that name, neither here nor in a child.
"""

import difflib
import os
import runpy
import sys
from dataclasses import dataclass
from typing import NoReturn

from runs import __version__
from runs.app import Parser
from runs.errors import user_message

NAME = "siamese-transfer"


@dataclass(frozen=True)
class Command:
    """One command: `python -m MODULE WORDS… <the user's words>`."""

    module: str
    help: str
    words: tuple[str, ...] = ()
    hydra: bool = False
    """Whether it takes Hydra's `key=value` settings."""


COMMANDS = {
    "pretrain": Command("pretrain", "pre-train a ResNet: method=simsiam data=imagenet data.root=DIR", hydra=True),
    "linear": Command("pretrain.linear", "linear evaluation on frozen features: checkpoint=FILE", hydra=True),
    "knn": Command("pretrain.knn", "weighted kNN on frozen features: checkpoint=FILE", hydra=True),
    "collapse": Command("pretrain.collapse", "measure whether a checkpoint's features have collapsed", hydra=True),
    "shard": Command("pretrain.shard", "pack images into tar files for fast reading", hydra=True),
    "images": Command("pretrain.check_data", "check an image data set before pre-training: data.root=DIR", hydra=True),
    "inspect": Command("converters", "say what a checkpoint is; writes nothing", ("inspect",)),
    "convert": Command("converters", "convert a checkpoint with a proof: convert detectron2 FILE OUT.pkl"),
    "transfer": Command("transfer", "fine-tune a detector: task=voc07 weights=FILE.pkl data.root=DIR", hydra=True),
    "check": Command("transfer.check_data", "check VOC and COCO folders before training: data.root=DIR", hydra=True),
    "score": Command("transfer.evaluate_detections", "AP of a file of detections, of any tool"),
    "list": Command("benchmarks", "list the papers' tables and figures", ("list",)),
    "show": Command("benchmarks", "show a table with the paper's values", ("show",)),
    "plan": Command("benchmarks", "what a run would do: runs, commands, time, disk", ("plan",)),
    "run": Command("benchmarks", "run what tables need and print them: run table4 --scale mini", ("run",)),
    "report": Command("benchmarks", "write one HTML page from results", ("report",)),
    "evaluate": Command("benchmarks", "measure any ResNet checkpoint: a row of the tables", ("evaluate",)),
    "gate": Command("benchmarks", "compare results with a baseline: 0 within noise, 1 a drop", ("gate",)),
    "doctor": Command("benchmarks", "check the installation, the devices and the data sets", ("doctor",)),
    "validate": Command(
        "siamese_transfer.validate_plugin", "say what is wrong with a plug-in's file, a table or a scale"
    ),
    "hardware": Command("hardware", "check what this machine computes, against the CPU, and how fast"),
    "completion": Command("siamese_transfer.completion", "print shell completion: bash, zsh or fish"),
    "detectron2": Command("siamese_transfer.detectron2", "print the folder from which pip installs Detectron2"),
}


def main() -> NoReturn:
    """Run the command that the first word names, as `python -m` would."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"{NAME} {__version__}")
        sys.exit(0)
    name, command = words[0], COMMANDS.get(words[0])
    if command is None:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f", did you mean '{close[0]}'?" if close else ""
        stop(f"unknown command '{name}'{hint}; {NAME} --help lists the commands")
    Parser.program = NAME if command.words else f"{NAME} {name}"
    # For the children: data loaders, torchrun's processes, the runs of a table.
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.argv[1:] = [*command.words, *words[1:]]
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        message = user_message(error)
        if message is None:
            raise
        stop(message)
    sys.exit(0)


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {NAME} COMMAND …",
            "",
            *lines,
            "",
            f"{NAME} COMMAND --help explains one. Exit status: 0 done; 2 bad input, one line on stderr says which.",
        ]
    )


def stop(message: str) -> NoReturn:
    """End with one line and exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

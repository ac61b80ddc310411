"""How long each command takes to say `--help`, and to refuse a mistyped setting.

The peer is a Python that imports only what the command cannot do without: a ratio of 1 means that nothing of ours costs
time. Processor seconds of the process, user and system.
"""

import argparse
import sys
from collections.abc import Iterator

from experiments.speed.rows import Row, Skipped, run_process, run_script

# command -> what it needs before it can compose its settings or list its options; a mistake
COMMANDS = {
    "benchmarks": ("argparse, json, pathlib", "shwo"),
    "experiments.speed": ("argparse, json, pathlib, subprocess", "evaluator"),
    "benchmarks.shapes": ("argparse, numpy, PIL.Image", "--sed"),
    "converters": ("argparse, json, pathlib", "inspekt"),
    "pretrain": ("hydra", "metod=simsiam"),
    "pretrain.linear": ("hydra", "lrs=[0.1]"),
    "pretrain.knn": ("hydra", "ks=[20]"),
    "pretrain.collapse": ("hydra", "chekpoint=a"),
    "pretrain.shard": ("hydra", "shards=2"),
    "transfer": ("hydra", "tasks=voc07"),
    "transfer.check_data": ("hydra", "tasks=voc07"),
    "transfer.evaluate_detections": ("argparse, numpy", "--tasks=voc07"),
}


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """Two rows a command."""
    for command in ("benchmarks", "converters") if arguments.quick else COMMANDS:
        needed, mistake = COMMANDS[command]
        peer = [sys.executable, "-c", f"import {needed}"]
        asked = {"help": ([sys.executable, "-m", command, "--help"], 0)}
        asked["mistake"] = ([sys.executable, "-m", command, mistake], 2)
        # Once untimed, which also says whether the part is installed.
        status = {name: run_process(words).status for name, (words, _) in asked.items()}
        times: dict[str, list[float]] = {"help": [], "mistake": [], "peer": []}
        for _ in range(1 if arguments.quick else 3):
            for name, words in (*((name, words) for name, (words, _) in asked.items()), ("peer", peer)):
                times[name].append(run_process(words).seconds)
        for name, (words, expected) in asked.items():
            if status[name] != expected:
                yield Skipped(f"startup/{command}-{name}", f"it ended with status {status[name]}, not {expected}")
                continue
            yield Row(
                f"startup/{command}-{name}", f"python {' '.join(words[1:])}", "s", False, times[name], times["peer"],
                f"import {needed}", "cpu", min(times["peer"]), "these imports",
            )  # fmt: skip


if __name__ == "__main__":
    run_script(measure, __doc__ or "")

"""How long each command takes to say `--help`, against a Python that imports only what the command cannot do without.

That import is the peer and the limit at once: a ratio of 1 means that nothing of ours costs time. Wall seconds, and the
best of each side stands for a machine without other work.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.speed.rows import Row, Skipped, alternate, script

# command -> what it needs before it can compose its settings or list its options
COMMANDS = {
    "benchmarks": "argparse, json, pathlib",
    "benchmarks.speed": "argparse, json, pathlib, subprocess",
    "converters": "argparse, json, pathlib",
    "pretrain": "hydra, torch, torchvision",
    "pretrain.linear": "hydra, torch, torchvision",
    "pretrain.knn": "hydra, torch, torchvision",
    "pretrain.shard": "hydra, torch",
    "transfer": "hydra, torch",
    "transfer.evaluate": "argparse, numpy",
}


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """A row a command."""
    for command in ("benchmarks", "converters") if arguments.quick else COMMANDS:
        needed = COMMANDS[command]
        words = [sys.executable, "-m", command, "--help"]
        if subprocess.run(words, capture_output=True).returncode:
            yield Skipped(f"commands/{command}", "it cannot show its help here: something it imports is not installed")
            continue
        ours, peer = alternate(
            lambda words=words: subprocess.run(words, stdout=subprocess.DEVNULL, check=True),  # type: ignore[misc]
            lambda needed=needed: subprocess.run([sys.executable, "-c", f"import {needed}"], check=True),  # type: ignore[misc]
            2 if arguments.quick else 5,
        )
        yield Row(
            f"commands/{command}", f"python -m {command} --help", "s", False, ours, peer, f"import {needed}",
            limit=min(peer), limit_name="these imports",
        )  # fmt: skip


if __name__ == "__main__":
    script(measure, __doc__ or "")

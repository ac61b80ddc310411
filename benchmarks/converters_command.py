"""`python -m converters` as a child process: this package imports no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from runs.child_environment import child_environment


def inspect_checkpoint(address: str) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's file, fetched first where it is an address, and what `python -m converters inspect` says of it."""
    facts = json.loads(run_converters("inspect", address, "--json"))
    return Path(facts["file"]), facts


def run_converters(*arguments: str) -> str:
    """What `python -m converters` prints; where it refuses, it has said why, and this command ends with its status."""
    command = [sys.executable, "-m", "converters", *arguments]
    # Its standard error is the user's: the progress of a download, and the one line that says what is wrong.
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=child_environment())
    if result.returncode != 0:
        sys.exit(result.returncode)
    return result.stdout

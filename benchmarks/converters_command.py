"""`python -m converters` as a child process: this package imports no PyTorch."""

import json
import subprocess
import sys
from typing import Any

from runs.child_environment import child_environment


def inspect_checkpoint(path_or_url: str) -> dict[str, Any]:
    """What `python -m converters inspect` says of a checkpoint, which is fetched first where it is an address."""
    return json.loads(run_converters("inspect", path_or_url, "--json"))


def run_converters(*arguments: str) -> str:
    """What `python -m converters` prints; where it refuses, it has said why, and this command ends with its status."""
    command = [sys.executable, "-m", "converters", *arguments]
    # Its standard error is the user's: the progress of a download, and the one line that says what is wrong.
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=child_environment())
    if result.returncode != 0:
        sys.exit(result.returncode)
    return result.stdout

"""How one command of this project starts another."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def child_environment() -> dict[str, str]:
    """Return the environment in which `python -m pretrain` means this project's package.

    The current folder is not searched, so that a user's `pretrain.py` there is not started in its place. From a clone
    that is not installed, the child finds the packages through `PYTHONPATH`.
    """
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    # Not where they are installed: `PYTHONPATH` comes before the standard library, which that folder may shadow.
    if (ROOT / "pyproject.toml").exists():
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return environment

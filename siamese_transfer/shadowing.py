"""Warn that `python -m pretrain` takes a file of the current folder for this suite's package.

`python -m` looks into the current folder first. Where it finds `pretrain.py`, nothing of the suite is started, so only
Python's own start can notice: the wheel's `siamese_transfer.pth` imports this module at each `python -m`.
"""

import os
import sys

PACKAGES = ("benchmarks", "converters", "hardware", "pretrain", "runs", "siamese_transfer", "transfer")


def warning(module: str) -> str:
    """One line on the files that `python -m MODULE` takes for packages of the suite; empty for none."""
    if sys.flags.safe_path or module.partition(".")[0] not in PACKAGES:
        return ""
    if os.path.isfile("siamese_transfer/__init__.py"):  # the current folder is a clone
        return ""
    found = [f"{name}/" for name in PACKAGES if os.path.isfile(f"{name}/__init__.py")]
    found += [f"{name}.py" for name in PACKAGES if os.path.isfile(f"{name}.py")]
    if not found:
        return ""
    return (
        f"warning: {', '.join(found)} of the current folder is taken for a package of siamese-transfer; "
        "rename it, or start `siamese-transfer`, which no file shadows\n"
    )


# While Python starts, sys.argv is ["-m", the module's own words…].
if sys.stderr and (_line := warning(sys.orig_argv[-len(sys.argv)].removeprefix("-m"))):
    sys.stderr.write(_line)

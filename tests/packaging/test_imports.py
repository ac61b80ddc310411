"""What import-linter cannot see: whether importing a package loads what it must not load."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    loaded = [part for part in sys.argv[1].split(",") if part in sys.modules]
    if loaded:
        raise SystemExit(f"importing {name} loads {', '.join(loaded)}")
"""


def modules(package: Path) -> list[str]:
    """Every module of the package but the `__main__`s, which run on import where they have no guard."""
    found = [package.name]
    for module in pkgutil.walk_packages([str(package)], f"{package.name}."):
        if not module.name.endswith("__main__"):
            found.append(module.name)
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("benchmarks", "torch,detectron2"),  # `python -m benchmarks show` answers at once, on any machine
        ("pretrain", "detectron2"),  # pre-training needs no Detectron2
        ("converters", "detectron2"),  # nor does reading a checkpoint; the proof imports it when it runs
    ],
)
def test_importing_loads_nothing_forbidden(root: Path, package: str, forbidden: str) -> None:
    names = modules(root / package)
    done = subprocess.run([sys.executable, "-c", CODE, forbidden, *names], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

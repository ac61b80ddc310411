"""Plug-ins: methods, data sets, checkpoint formats, tables and scales of other people's, found without a fork.

A plug-in is a folder with any of

    method/NAME.py, method/NAME.yaml        a method and its recipe
    augment/NAME.yaml, data/NAME.yaml       views and data sets; data/NAME.py, a layout of images
    formats/NAME.py                         checkpoint formats
    papers/PAPER/NAME.yaml                  tables, with a paper.yaml beside them
    scales/NAME.yaml                        sizes

It is found where the environment variable SIAMESE_TRANSFER_PATH lists it, or as an installed package that names itself
in the entry-point group `siamese_transfer`. docs/plugins.md shows one of each.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from runs.errors import UserError

GROUP, VARIABLE = "siamese_transfer", "SIAMESE_TRANSFER_PATH"


@functools.cache
def folders() -> tuple[Path, ...]:
    """The folders of all plug-ins: those of the variable first, then the packages'."""
    found = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for point in importlib.metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.value)
        found += map(Path, spec.submodule_search_locations or ()) if spec else []
    return tuple(dict.fromkeys(folder.absolute() for folder in found))


def check_folders() -> None:
    """Raise UserError unless all of them are there."""
    for folder in folders():
        if not folder.is_dir():
            raise UserError(f"{VARIABLE}: {folder}: no such folder; correct or remove it")


def find_files(glob_pattern: str) -> list[Path]:
    """All plug-ins' files of a pattern such as `method/*.py`."""
    return [path for folder in folders() for path in sorted(folder.glob(glob_pattern))]


def load(path: Path) -> ModuleType:
    """Import a plug-in's Python file, once."""
    name = f"plugin_{path.parent.name}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def search_path_override() -> list[str]:
    """The arguments by which Hydra finds the plug-ins' configuration files; none without plug-ins."""
    quoted = ",".join("'file://" + str(folder).replace("'", r"\'") + "'" for folder in folders())
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []

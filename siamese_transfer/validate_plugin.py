"""`siamese-transfer validate FILE`: say what is wrong with a plug-in's file, or with a table or scale of your own.

FILE is a plug-in's `method/NAME.yaml` or `.py`, `data/NAME.yaml` or `.py`, `augment/NAME.yaml` or `formats/NAME.py`, or
the `.yaml` of a table or a scale, wherever it lies. docs/plugins.md shows one of each.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runs import plugins
from runs.app import Parser, cli
from runs.child_environment import child_environment
from runs.errors import UserError
from runs.files import read_yaml


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what is wrong."""
    parser = Parser(prog="python -m siamese_transfer.validate_plugin", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="settings of `pretrain` to check a method, views or data with"
    )
    arguments = parser.parse_args(argv)
    path = arguments.file.absolute()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    by_folder: dict[str, Callable[..., int]] = {
        "method": _method, "data": _data, "augment": _augment, "formats": _formats
    }  # fmt: skip
    return by_folder.get(path.parent.name, _table_or_scale)(path, *arguments.settings)


def _method(path: Path, *settings: str) -> int:
    recipe = path.with_suffix(".yaml")
    if not recipe.is_file():
        raise UserError(f"{recipe}: is missing; a method has a recipe beside its file")
    return _pretrain(path, "pretrain.smoke_test_method", f"method={path.stem}", "data=cifar10", *settings)


def _data(path: Path, *settings: str) -> int:
    if path.suffix == ".py":
        if not callable(getattr(plugins.load(path), "open_images", None)):
            raise UserError(f"{path}: no function open_images(config, split), which opens a split")
        print(f"layout {path.stem}: fine; has open_images")
        return 0
    return _recipe(path, f"data={path.stem}", *settings)


def _augment(path: Path, *settings: str) -> int:
    return _recipe(path, f"augment={path.stem}", "data=cifar10", *settings)


def _recipe(path: Path, *words: str) -> int:
    """Compose the settings with the file, which checks them."""
    status = _pretrain(path, "pretrain", *words, "--cfg", "job", stdout=subprocess.DEVNULL)
    if not status:
        print(f"{path.parent.name} {path.stem}: fine")
    return status


def _pretrain(path: Path, module: str, *words: str, stdout: int | None = None) -> int:
    """Start a command that finds the file's plug-in."""
    others = os.environ.get(plugins.VARIABLE, "")
    environment = child_environment() | {plugins.VARIABLE: f"{path.parents[1]}{os.pathsep}{others}"}
    command = [sys.executable, "-m", module, "data.root=.", *words]
    return subprocess.run(command, env=environment, stdout=stdout, check=False).returncode


def _formats(path: Path) -> int:
    from converters.checkpoint_layouts import Format
    from converters.naming_schemes import SCHEMES, Scheme

    module = plugins.load(path)
    entries, schemes = getattr(module, "FORMATS", ()), getattr(module, "SCHEMES", ())
    if not entries or not all(isinstance(entry, Format) for entry in entries):
        raise UserError(f"{path}: FORMATS must be a tuple of converters.checkpoint_layouts.Format")
    if not all(isinstance(scheme, Scheme) for scheme in schemes):
        raise UserError(f"{path}: SCHEMES must be a tuple of converters.naming_schemes.Scheme")
    known = {scheme.name for scheme in (*SCHEMES, *schemes)}
    for entry in entries:
        for name in set(entry.schemes) - known:
            raise UserError(f"{path}: format {entry.name}: no scheme {name!r}; there are {', '.join(sorted(known))}")
        print(f"format {entry.name}: fine")
    return 0


def _table_or_scale(path: Path) -> int:
    from benchmarks.tables import scale, table

    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: not in a folder method, data, augment or formats, and not a table or scale (.yaml)")
    if "columns" in read_yaml(path):
        found = table.load(str(path))
        print(f"table {path.stem}: fine; {len(found.rows)} rows, {len(found.columns)} columns: {found.title}")
    else:
        print(f"scale {path.stem}: fine; {scale.load(str(path)).about}")
    return 0


if __name__ == "__main__":
    main()

"""Run records: found, checked, and never mixed up."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runs.errors import UserError
from runs.folder import RECORD
from runs.record import Record, read_record


@dataclass
class Found:
    """Records by the file that holds them, and the files that were refused with the reason."""

    records: dict[Path, Record] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)


def find(places: Iterable[str | os.PathLike[str]]) -> Found:
    """Read every `result.json` in or below the given files and folders.

    A record that is half-written, of another schema version, changed by hand, or the copy of another one is refused;
    the others are returned.

    Raises:
        UserError: a place does not exist.
    """
    found = Found()
    known: dict[str, Path] = {}
    for path in _files(places):
        try:
            record = read_record(path)
        except UserError as error:
            found.refused[path] = str(error)
            continue
        twin = known.setdefault(json.dumps(asdict(record), sort_keys=True), path)
        if twin != path:
            found.refused[path] = f"{path}: the same record as {twin}; a run counts once, remove one of them"
        else:
            found.records[path] = record
    return found


def demand(found: Found) -> dict[Path, Record]:
    """The records, if none was refused.

    Raises:
        UserError: with the first refusal and how many there are.
    """
    if found.refused:
        reasons = list(found.refused.values())
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UserError(reasons[0] + more)
    return found.records


def _files(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    files: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_file():
            files[place] = None
        elif place.is_dir():
            for folder, below, names in os.walk(place):
                below[:] = sorted(b for b in below if not b.startswith("."))
                if RECORD in names:
                    files[Path(folder) / RECORD] = None
        else:
            raise UserError(f"{place}: no such file or folder; give a result.json or a folder of runs")
    return list(files)

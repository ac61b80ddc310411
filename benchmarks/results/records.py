"""Run records: found, checked, and never mixed up."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.workflow.plan import TARGETS, Plan, Run
from runs.errors import UserError
from runs.folder import RECORD, flatten
from runs.record import Record, read_record

# Settings that name a file or a folder, which may have been moved, or what a record does not hold.
PLACES = ("data.root", "checkpoint", "weights", "file", "output")


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


def records_of(plan: Plan) -> tuple[dict[str, Record], list[str]]:
    """The records of a plan's finished runs.

    A record counts if it is what this run writes: its settings are the plan's, its network is that which the plan gives
    it, all runs of a task saw the same test data, and it is no copy of another one.

    Returns:
        (the records by run id, one line for each that was refused)
    """
    records: dict[str, Record] = {}
    refused: list[str] = []
    texts: dict[str, str] = {}
    fingerprints: dict[str, str] = {}
    for name in plan.order():
        run, path = plan.runs[name], plan.target(name)
        if run.kind in TARGETS or not path.exists():
            continue
        try:
            record = read_record(path)
            reason = _misfit(plan, run, record, records)
            twin = texts.setdefault(json.dumps(asdict(record), sort_keys=True), name)
            reason = reason or (f"is a copy of {twin}'s" if twin != name else "")
            data = f"{run.task} {run.settings.get('data')} {run.settings.get('data.root')}"
            fingerprint = record.dataset.fingerprint if record.dataset else ""
            if fingerprints.setdefault(data, fingerprint) != fingerprint:
                reason = reason or "was measured on other data than the other runs of its task"
            if reason:
                raise UserError(f"{path}: {reason}; delete it and run the same command again")
        except UserError as error:
            refused.append(str(error))
        else:
            records[name] = record
    return records, refused


def _misfit(plan: Plan, run: Run, record: Record, records: dict[str, Record]) -> str:
    """Why a record is not this run's; empty if it is."""
    if record.kind != run.kind:
        return f"is a record of {record.kind}, not of {run.kind}"
    config = flatten(record.config) | {"seed": record.seed}
    for key, wanted in run.settings.items():
        given = config.get(key, config.get(f"{key}.name", wanted))
        if key not in PLACES and given != wanted:
            return f"has {key}={given}, where the plan has {wanted}"
    sha256 = record.subject.checkpoint_sha256
    if run.kind == "pretrain":
        return ""
    sources = [name for name in plan.before(run.id) if plan.runs[name].kind == "pretrain"]
    if sources and sources[0] in records:
        wanted = records[sources[0]].subject.checkpoint_sha256
        if sha256 != wanted:
            return f"is of checkpoint {str(sha256)[:12]}, not of {str(wanted)[:12]} that {sources[0]} wrote"
    elif plan.checkpoint and sha256 != plan.checkpoint.sha256:
        return f"is of checkpoint {str(sha256)[:12]}, not of {plan.checkpoint.name}"
    elif not sources and not plan.checkpoint and sha256 is not None:
        return f"is of checkpoint {str(sha256)[:12]}, where the plan has an untrained network"
    return ""


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

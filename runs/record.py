"""The run record `result.json`: what was run, on what, with which result. The only thing tables are made from."""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runs.environment import describe_environment
from runs.errors import UserError
from runs.files import read_json, write_json
from runs.typed import build

RECORD = "result.json"
SCHEMA = 1
KINDS = ("pretrain", "linear", "knn", "collapse", "convert", "transfer")


@dataclass
class Subject:
    """What was measured: a method's checkpoint, or an untrained network.

    `checkpoint_sha256` is that of the file a pre-training wrote, also for runs on weights converted from it, so that
    every number can be followed back to its pre-training.
    """

    method: str
    arch: str
    epochs: int | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None


@dataclass
class Dataset:
    """Where the number comes from. `size` counts images; `fingerprint` changes when any file name or label does."""

    name: str
    split: str
    size: int
    fingerprint: str


@dataclass
class Record:
    """One finished run.

    Metrics in percent are 0 to 100 and named as the field names them (`top1`, `bbox/AP50`, `segm/AP`). `verdict` is a
    sentence (pre-training: the collapse monitor's; conversion: the proof's). `details` holds whatever the kind's own
    pages describe: curves, per-class tables, a search's grid. `command` is the command line that made the run.
    """

    kind: str = field(metadata={"choices": KINDS})
    subject: Subject
    dataset: Dataset | None
    metrics: dict[str, float]
    seed: int
    config: dict[str, Any]
    seconds: float
    peak_memory_mb: float
    command: str = ""
    verdict: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=describe_environment)
    schema: int = SCHEMA


def write_record(folder: str | os.PathLike[str], record: Record) -> Path:
    """Write `folder/result.json`, atomically, and return its path: from then on the run is done.

    Raises:
        UserError: a metric is not a finite number (a run with such a result has failed), or the disk refuses.
    """
    for name, value in record.metrics.items():
        if not math.isfinite(value):
            raise UserError(f"{folder}: metric {name} is {value}; the run has failed, see its metrics.jsonl")
    body = asdict(record)
    body["digest"] = _digest(body)
    path = Path(folder) / RECORD
    write_json(path, body)
    return path


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a `result.json`, by its path or its folder's, and refuse one that is not exactly what a run wrote.

    Raises:
        UserError: absent, no JSON, another schema version, a field missing, unknown or of another type, or changed
            since it was written.
    """
    path = Path(path)
    path = path / RECORD if path.is_dir() else path
    body = read_json(path)
    remedy = "run it again"
    if not isinstance(body, dict) or "schema" not in body:
        raise UserError(f"{path}: not a run record; {remedy}")
    if body["schema"] != SCHEMA:
        raise UserError(f"{path}: schema version {body['schema']}, this program reads {SCHEMA}; {remedy}")
    try:
        intact = body.pop("digest", None) == _digest(body)
    except ValueError:  # NaN or an infinity: no record is written with it
        intact = False
    if not intact:
        raise UserError(f"{path}: changed after it was written (its digest differs); {remedy}")
    return build(Record, body, str(path))


def find_subject_beside(checkpoint: str | os.PathLike[str], sha256: str) -> Subject | None:
    """The subject of the pre-training that wrote a checkpoint, by the record beside it; None without one of its sha256.

    Raises:
        UserError: there is a record and it is damaged.
    """
    file = Path(checkpoint).parent / RECORD
    if not file.is_file():
        return None
    record = read_record(file)
    return record.subject if record.kind == "pretrain" and record.subject.checkpoint_sha256 == sha256 else None


def _digest(body: dict[str, Any]) -> str:
    """A checksum against accidents and hand edits, not against an adversary."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

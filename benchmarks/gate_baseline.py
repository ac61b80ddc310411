"""What the gate compares: the trials of each kind of run, and a baseline file of them.

A baseline is a JSON file; where it holds VOC runs, a file of the same name with `.npz` beside it keeps their
detections, already matched with the objects, so that no data set is needed to compare.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detections import Matches, read_matches
from benchmarks.records import demand, find
from benchmarks.statistics import summarize
from runs.errors import UserError
from runs.files import atomic_write, read_json, write_json
from runs.record import Record

SCHEMA = 3
# Trials whose detections a baseline keeps: as many as the papers average.
TRIALS = 5
# Standard deviation of one trial as published for this fine-tuning code (facebookresearch/moco README: VOC AP50, AP,
# AP75 0.2, 0.2, 0.4; moco issue 39: a gap of 0.3 COCO AP is chance), used where no trials measure it.
VOC_NOISE = {"bbox/AP50": 0.2, "bbox/AP": 0.2, "bbox/AP75": 0.4}
# The test images that those are the deviations on: VOC 2007 test.
VOC_IMAGES = 4952
COCO_NOISE = 0.3


@dataclass
class Measured:
    """The trials of one kind of run.

    Attributes:
        values: by metric, in percent.
        deviation: standard deviation of a single trial by metric.
        deviation_measured: whether it was measured on these trials or is published.
        deviation_images: the number of test images that it is the deviation on.
        images: test images.
        matches: of each VOC run whose detections are there.
        fingerprint: of the test set.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)
    deviation_measured: bool = False
    deviation_images: int = 0
    images: int = 0
    matches: list[Matches] = field(default_factory=list)
    fingerprint: str = ""


def key_of(record: Record) -> str:
    """What makes two records trials of the same thing: all but the seed and the place."""
    subject, data = record.subject, record.dataset
    parts = [str(record.config.get("task") or record.kind), subject.method, subject.arch]
    parts += [f"{subject.epochs} epochs"] if subject.epochs is not None else []
    parts += [f"{data.name}/{data.split}"] if data else []
    return ", ".join(parts)


def measure(places: Iterable[str], noise: float | None = None) -> dict[str, Measured]:
    """Group records of linear, kNN and fine-tuning runs; others have no number to guard.

    Args:
        places: record files and folders of them.
        noise: standard deviation of a trial, in points, instead of a measured or published one.

    Raises:
        UserError: a record is refused, two are of different data under one name, or there is none.
    """
    found: dict[str, Measured] = {}
    records = demand(find(places))
    for path, record in records.items():
        trials = _trials(path, record, records)
        if record.kind not in ("linear", "knn", "transfer") or record.dataset is None or not trials:
            continue
        key = key_of(record)
        measured = found.setdefault(key, Measured(images=record.dataset.size, fingerprint=record.dataset.fingerprint))
        if measured.fingerprint != record.dataset.fingerprint:
            raise UserError(
                f"{path}: measured on another version of {record.dataset.name} than the other runs of {key}"
            )
        for metrics in trials:
            for metric, value in metrics.items():
                measured.values.setdefault(metric, []).append(value)
        if record.dataset.split.startswith("voc_") and (path.parent / "detections.npz").exists():
            measured.matches.append(read_matches(path.parent, record))
    if not found:
        raise UserError("no record of a linear, kNN or fine-tuning run among the given results")
    for key, measured in found.items():
        _spread(key, measured)
        if noise is not None:
            assume(measured, noise)
    return found


def _trials(path: Path, record: Record, records: Mapping[Path, Record]) -> list[dict[str, float]]:
    """The metrics of the trials that a record stands for; none of those that its neighbours tell.

    `transfer trials=3` leaves a record of each trial and one of their mean above them; a search, one of each rate.
    """
    above = next((p for p in records if p.parent in path.parent.parents and _several(records[p])), None)
    if above and not path.parent.name.startswith("trial"):
        return []
    if not _several(record):
        return [record.metrics]
    own = any(path.parent == p.parent.parent and p.parent.name.startswith("trial") for p in records)
    return [] if own else [trial["metrics"] for trial in record.details["trials"]]


def _several(record: Record) -> bool:
    return record.kind == "transfer" and "trials" in record.details


def assume(measured: Measured, noise: float) -> None:
    """Take `noise` points for the standard deviation of a trial on these test images."""
    measured.deviation = dict.fromkeys(measured.values, noise)
    measured.deviation_measured, measured.deviation_images = False, measured.images


def _spread(key: str, measured: Measured) -> None:
    spreads = {m: summarize(v).std for m, v in measured.values.items()}
    measured.deviation_images = measured.images
    if all(s is not None for s in spreads.values()):
        measured.deviation = {m: s for m, s in spreads.items() if s is not None}
        measured.deviation_measured = True
    elif key.startswith("coco"):
        measured.deviation = dict.fromkeys(spreads, COCO_NOISE)
    elif key.startswith("voc"):
        measured.deviation, measured.deviation_images = {m: VOC_NOISE[m] for m in spreads}, VOC_IMAGES


def write(path: Path, measured: dict[str, Measured]) -> None:
    """Store a baseline.

    Raises:
        UserError: the name is that of the file of detections beside it, or the disk refuses.
    """
    if path.suffix == ".npz":
        raise UserError(f"{path}: is the name of the file of detections beside a baseline; give FILE.json")
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict) or found.get("kind") != "baseline":
            raise UserError(f"{path}: is there already and no baseline; choose another name")
    arrays: dict[str, Any] = {}
    for number, (_, m) in enumerate(measured.items()):
        for trial, matches in enumerate(m.matches[:TRIALS]):
            for name in ("image", "category", "score", "verdict", "objects"):
                arrays[f"{number}.{trial}.{name}"] = getattr(matches, name)
            arrays[f"{number}.{trial}.image_ids"] = np.array(matches.image_ids)
            arrays[f"{number}.{trial}.classes"] = np.array(matches.classes)
            arrays[f"{number}.{trial}.eleven_points"] = np.array(matches.eleven_points)
    if arrays:
        with atomic_write(path.with_suffix(".npz")) as file:
            np.savez_compressed(file, **arrays)
    write_json(path, {
        "schema": SCHEMA, "kind": "baseline",
        "runs": [
            {"key": key, "values": m.values, "deviation": m.deviation, "deviation_measured": m.deviation_measured,
             "deviation_images": m.deviation_images, "images": m.images, "matches": min(len(m.matches), TRIALS),
             "fingerprint": m.fingerprint}
            for key, m in measured.items()
        ],
    })  # fmt: skip


def read(path: Path) -> dict[str, Measured]:
    """Read a baseline.

    Raises:
        UserError: absent, damaged, of another version, or not a baseline.
    """
    body = read_json(path)
    if not isinstance(body, dict) or body.get("kind") != "baseline":
        raise UserError(f"{path}: not a baseline; write one with gate --write-baseline FILE.json RESULTS")
    if body.get("schema") != SCHEMA:
        raise UserError(f"{path}: baseline version {body.get('schema')}, this program reads {SCHEMA}; write it again")
    result = {}
    try:
        arrays = _arrays(path.with_suffix(".npz")) if any(run["matches"] for run in body["runs"]) else {}
        for number, run in enumerate(body["runs"]):
            matches = [_matches(arrays, f"{number}.{trial}.") for trial in range(run["matches"])]
            result[run["key"]] = Measured(
                {m: [float(x) for x in v] for m, v in run["values"].items()},
                {m: float(x) for m, x in run["deviation"].items()},
                bool(run["deviation_measured"]), int(run["deviation_images"]), int(run["images"]), matches,
                str(run["fingerprint"]),
            )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); write it again with gate --write-baseline") from error
    return result


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; it belongs to the baseline beside it, keep both") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); write the baseline again") from error


def _matches(arrays: dict[str, Any], prefix: str) -> Matches:
    get = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    return Matches(
        tuple(get["image_ids"].tolist()), tuple(get["classes"].tolist()), get["image"], get["category"], get["score"],
        get["verdict"], get["objects"], bool(get["eleven_points"]),
    )  # fmt: skip

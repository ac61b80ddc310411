"""What the gate compares: the trials of each kind of run, from records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results.records import FoundRecords
from benchmarks.results.table_results import DECISIVE
from benchmarks.results.trial_statistics import summarize
from runs.detection_matches import FILE, Matches, read_matches
from runs.errors import UserError
from runs.files import TRIAL
from runs.record import Record
from runs.typed import build

# Standard deviation of one trial as published for this fine-tuning code (facebookresearch/moco README: VOC AP50, AP,
# AP75 0.2, 0.2, 0.4; moco issue 39: a gap of 0.3 COCO AP is chance), used where no trials measure it.
VOC_NOISE = {"bbox/AP50": 0.2, "bbox/AP": 0.2, "bbox/AP75": 0.4}
# The test images that those are the deviations on: VOC 2007 test.
VOC_IMAGES = 4952
COCO_NOISE = 0.3


@dataclass
class Trials:
    """The trials of one kind of run."""

    values: dict[str, list[float]]  # by metric, in percent
    images: int  # number of test images
    fingerprint: str = ""  # of the test set
    deviation: dict[str, float] = field(default_factory=dict)  # standard deviation of a single trial, by metric
    deviation_measured: bool = False  # whether it was measured on these trials or is published
    deviation_images: int = 0  # the number of test images that it is the deviation on
    matches: list[Matches] = field(default_factory=list, init=False)  # of VOC runs; not part of the JSON file

    def __post_init__(self) -> None:
        if not self.values or not all(self.values.values()) or self.images < 1:
            raise ValueError("no trials, no metrics or no test images")
        if any(not 0 <= value <= 100 for metric in DECISIVE for value in self.values.get(metric, ())):
            raise ValueError(f"a value outside 0 to 100 percent of {', '.join(DECISIVE)}")
        if min([self.deviation_images, *self.deviation.values()]) < 0 or set(self.deviation) - set(self.values):
            raise ValueError("deviations that are negative or of no metric")

    def set_deviation(self, deviation: float) -> None:
        """Take so many points for the standard deviation of a trial of every metric, in place of a measured one too."""
        self.deviation = dict.fromkeys(self.values, deviation)
        self.deviation_measured, self.deviation_images = False, self.images


def _trials_key(record: Record) -> str:
    """What makes two records trials of the same thing: all but the seed and the place."""
    subject, data = record.subject, record.dataset
    parts = [str(record.config.get("task") or record.kind), subject.method, subject.arch]
    parts += [f"{subject.epochs} epochs"] if subject.epochs is not None else []
    parts += [f"{data.name}/{data.split}"] if data else []
    return ", ".join(parts)


def group_trials(found_records: FoundRecords) -> dict[str, Trials]:
    """Group records of linear, kNN and fine-tuning runs by `_trials_key`; others have no number to guard.

    Raises:
        UserError: a record is refused, two are of different data under one name, or there is none.
    """
    found: dict[str, Trials] = {}
    records, refused = found_records
    if refused:
        first, *others = refused.values()
        raise UserError(first + (f" (and {len(others)} more)" if others else ""))
    for path, record in records.items():
        try:
            trials = _trials(path, record, records)
            if record.kind not in ("linear", "knn", "transfer") or record.dataset is None or not trials:
                continue
            values = {m: [t[m] for t in trials if m in t] for m in trials[0]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: details: trials must be a list of metrics; run it again") from error
        key, data = _trials_key(record), record.dataset
        facts = {"values": values, "images": data.size, "fingerprint": data.fingerprint}
        new = build(Trials, facts, f"{path}: cannot be compared: {key}")
        measured = found.setdefault(key, new)
        if measured.fingerprint != new.fingerprint:
            raise UserError(f"{path}: measured on another version of {data.name} than the other runs of {key}")
        if measured is not new:
            for metric, more in new.values.items():
                measured.values.setdefault(metric, []).extend(more)
        if matches := _matches(path.parent, record):
            measured.matches.append(matches)
    if not found:
        raise UserError("no record of a linear, kNN or fine-tuning run among the given results")
    for key, measured in found.items():
        measured.deviation_images = measured.images
        deviations = {m: summarize(v).std for m, v in measured.values.items()}
        if None not in deviations.values():
            measured.deviation = {m: s for m, s in deviations.items() if s is not None}
            measured.deviation_measured = True
        elif key.startswith("coco"):
            measured.deviation = dict.fromkeys(deviations, COCO_NOISE)
        elif key.startswith("voc"):
            measured.deviation = {m: VOC_NOISE[m] for m in deviations if m in VOC_NOISE}
            measured.deviation_images = VOC_IMAGES
    return found


def _trials(path: Path, record: Record, records: Mapping[Path, Record]) -> list[dict[str, float]]:
    """The metrics of the trials that a record stands for; none if other records hold them.

    `transfer trials=3` leaves a record of each trial and one of their mean above them; a search, one of each rate.
    """
    means = {p.parent for p, r in records.items() if r.kind == "transfer" and "trials" in r.details}
    if path.parent in means:
        own = any(path.parent == p.parent.parent and p.parent.name.startswith(TRIAL) for p in records)
        return [] if own else [trial["metrics"] for trial in record.details["trials"]]
    inside = not means.isdisjoint(path.parent.parents)
    return [] if inside and not path.parent.name.startswith(TRIAL) else [record.metrics]


def _matches(folder: Path, record: Record) -> Matches | None:
    """Which boxes of a VOC fine-tuning are right; None where the record names no such file, or for COCO."""
    files = record.details.get("files")
    wanted = files.get(FILE) if isinstance(files, dict) else None
    if record.kind != "transfer" or wanted is None:
        return None
    found = read_matches(folder / FILE, str(wanted)).get("bbox")
    return found if found and found.metric != "coco" else None

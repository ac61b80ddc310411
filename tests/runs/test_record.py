"""Records are refused unless they are exactly what a run wrote."""

import json
from pathlib import Path

import pytest

from runs.errors import UserError
from runs.record import Dataset, Record, Subject, find_subject_beside, read_record, write_record


def make(**changes: object) -> Record:
    values: dict = {
        "kind": "linear",
        "subject": Subject(method="simsiam", arch="resnet50", epochs=100),
        "dataset": Dataset(name="imagenet", split="val", size=50000, fingerprint="f"),
        "metrics": {"top1": 68.1},
        "seed": 0,
        "config": {"lr": 0.1},
        "seconds": 1.0,
        "peak_memory_mb": 1.0,
    }
    return Record(**{**values, **changes})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = make()
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "result.json") == record


def edit(path: Path, **changes: object) -> None:
    body = json.loads(path.read_text())
    body.update(changes)
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"top1": 99.9}}, "changed after it was written"),
        ({"schema": 2}, "schema version 2"),
        ({"extra": 1}, "changed after"),
        ({"subject": {"name": "x"}}, "changed after"),
    ],
)
def test_edited_records_are_refused_by_name(tmp_path: Path, changes: dict, said: str) -> None:
    path = write_record(tmp_path, make())
    edit(path, **changes)
    with pytest.raises(UserError, match=rf"result\.json: .*({said})"):
        read_record(path)


def test_half_a_record_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, make())
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="not a JSON file"):
        read_record(path)


def test_a_run_that_ended_in_nan_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metric top1 is nan"):
        write_record(tmp_path, make(metrics={"top1": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_known_by_the_record_beside_it(tmp_path: Path) -> None:
    subject = Subject("byol", "resnet50", 200, "checkpoint_0199.pth.tar", "ab" * 32)
    write_record(tmp_path, make(kind="pretrain", subject=subject))
    checkpoint = tmp_path / "checkpoint_0199.pth.tar"
    assert find_subject_beside(checkpoint, "ab" * 32) == subject
    assert find_subject_beside(checkpoint, "cd" * 32) is None, "another file under the same name"
    assert find_subject_beside(tmp_path / "elsewhere" / "moco.pth.tar", "ab" * 32) is None
    write_record(tmp_path, make(kind="linear", subject=subject))
    assert find_subject_beside(checkpoint, "ab" * 32) is None, "an evaluation does not make checkpoints"

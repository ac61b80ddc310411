"""A small share of what `python -m experiments.fuzz` tries, and the variants that it found."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.fuzz import RECORD, fuzz
from runs.detection_matches import read_matches
from runs.errors import UserError
from runs.record import read_record, write_record


@pytest.mark.parametrize(
    "reader",
    ["torch", "pickle", "safetensors", "voc", "coco", "record", "plan", "baseline", "config", "detections", "matches"],
)
def test_no_variant_is_a_fault(reader: str) -> None:
    assert fuzz(reader, cases=8, seed=0) == Counter()


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: Path) -> None:
        raise KeyError("a reader's own")

    monkeypatch.setattr("experiments.fuzz.sample_files", lambda folder: {"x": (b"0" * 50, "bytes", broken)})
    [(fault, count)] = fuzz("x", cases=2, seed=0).items()
    assert count == 2 and fault.startswith("KeyError")


def test_a_record_with_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": float("nan")}))
    with pytest.raises(UserError, match="changed after it was written"):
        read_record(path)


def test_matches_whose_header_is_damaged_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.save(header, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("format.npy", header.getvalue().replace(b"}", b"(", 1))
    with pytest.raises(UserError, match="not a file of matches"):
        read_matches(tmp_path / "m.npz")


def test_matches_of_what_is_no_array_or_no_text_are_refused(tmp_path: Path) -> None:
    text = io.BytesIO()
    np.save(text, np.array(["a"]))
    for name, content in (("format", b"4"), ("format.npy", text.getvalue().replace(b"a\x00\x00\x00", b"\xff" * 4))):
        with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(UserError, match="not a file of matches"):
            read_matches(tmp_path / "m.npz")

"""Records that are not what a run wrote are refused by name."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.results.records import demand, find
from runs.errors import UserError
from runs.record import write_record


def test_bad_records_are_refused_by_name_and_good_ones_kept(make: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("good", "edited", "old", "half", "copied"):
        write_record(tmp_path / name, make.record(value=len(name), seconds=len(name)))
    body = json.loads((tmp_path / "edited/result.json").read_text())
    body["metrics"]["top1"] = 99.9
    (tmp_path / "edited/result.json").write_text(json.dumps(body))
    body = json.loads((tmp_path / "old/result.json").read_text())
    (tmp_path / "old/result.json").write_text(json.dumps({**body, "schema": 0}))
    whole = (tmp_path / "half/result.json").read_text()
    (tmp_path / "half/result.json").write_text(whole[: len(whole) // 2])
    shutil.copytree(tmp_path / "good", tmp_path / "twin")

    found = find([tmp_path])
    assert {p.parent.name for p in found.records} == {"copied", "good"}
    reasons = {p.parent.name: r for p, r in found.refused.items()}
    assert set(reasons) == {"edited", "old", "half", "twin"}
    assert "changed after it was written" in reasons["edited"]
    assert "schema version 0" in reasons["old"]
    assert "not a JSON file" in reasons["half"]
    assert "the same record as" in reasons["twin"]
    assert all(str(tmp_path / name) in reason for name, reason in reasons.items())
    with pytest.raises(UserError, match=r"and 3 more"):
        demand(found)
    with pytest.raises(UserError, match="no such file or folder"):
        find([tmp_path / "nowhere"])

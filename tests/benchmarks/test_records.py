"""Records that are not what a run wrote are refused by name."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from benchmarks.gate.trials import group_trials
from benchmarks.report.page import data_uri
from benchmarks.results.records import find_records, read_plan_records
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.plan import Plan, Run, Source, read_plan
from runs.errors import UserError
from runs.record import Dataset, Record, Subject, write_record
from tests.benchmarks.conftest import report


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

    records, refused = find_records([tmp_path])
    assert {p.parent.name for p in records} == {"copied", "good"}
    reasons = {p.parent.name: r for p, r in refused.items()}
    assert set(reasons) == {"edited", "old", "half", "twin"}
    assert "changed after it was written" in reasons["edited"]
    assert "schema version 0" in reasons["old"]
    assert "not a JSON file" in reasons["half"]
    assert "the same record as" in reasons["twin"]
    assert all(str(tmp_path / name) in reason for name, reason in reasons.items())
    with pytest.raises(UserError, match=r"and 3 more"):
        group_trials(find_records([tmp_path]))
    with pytest.raises(UserError, match="no such file or folder"):
        find_records([tmp_path / "nowhere"])


def test_links_to_folders_are_followed_once(make: SimpleNamespace, tmp_path: Path) -> None:
    write_record(tmp_path / "scratch/run", make.record())
    (tmp_path / "all").mkdir()
    for name, target in (("run", "scratch/run"), ("again", "scratch"), ("loop", "all")):
        (tmp_path / "all" / name).symlink_to(tmp_path / target)
    assert len(find_records([tmp_path / "all"])[0]) == 1 and not find_records([tmp_path])[1]


def planned(folder: Path, rows: list[str]) -> Plan:
    chosen = [tables.load("table4").select(rows, ["knn200"])]
    return expand(chosen, scales.load("mini"), folder, trials=1)


def own(make: SimpleNamespace, run: Run, **changes: Any) -> Record:
    """What a run would write: its settings, and the checkpoint of the pre-training that it needs."""
    config = {key: value for key, value in run.settings.items() if key not in ("data.root", "checkpoint")}
    digest = None if run.settings.get("checkpoint") == "random" else "a" * 64
    subject = Subject("simsiam", "resnet50x0.25", 20, None, digest)
    return make.record(
        **{"kind": run.kind, "subject": subject, "config": config, "seed": run.settings["seed"], **changes}
    )


def test_a_record_counts_where_it_belongs(make: SimpleNamespace, tmp_path: Path) -> None:
    plan = planned(tmp_path, ["scratch", "simsiam"])
    runs = [run for run in plan.runs.values() if run.kind in ("pretrain", "knn")]
    for run in runs:
        write_record(plan.folder(run.id), own(make, run, value=50.0))
    records, refused = read_plan_records(plan)
    assert set(records) == {run.id for run in runs} and not refused
    pretrain = next(run for run in runs if run.kind == "pretrain")
    untrained, trained = (next(r for r in runs if (r.settings.get("checkpoint") == "random") == random
                               and r.kind == "knn") for random in (True, False))  # fmt: skip
    strange = Subject("simsiam", "resnet50x0.25", 20, None, "b" * 64)
    cases = [
        (untrained, own(make, trained), "where the plan has random|where the plan has an untrained network"),
        (trained, own(make, trained, subject=strange), "is of checkpoint bbbbbbbbbbbb, not of aaaaaaaaaaaa"),
        (trained, own(make, trained, kind="linear"), "is a record of linear, not of knn"),
        (trained, own(make, trained, config={"k": [200]}), r"has k=\[200\], where the plan has \[20\]"),
        (trained, own(make, trained, seed=7), "has seed=7, where the plan has 0"),
        (trained, own(make, trained, dataset=Dataset("shapes", "val", 640, "other")), "on other data"),
        (pretrain, own(make, pretrain, config={"optimizer": {"lr": 0.1}}), "has optimizer.lr=0.1, where"),
    ]
    for run, record, reason in cases:
        write_record(plan.folder(run.id), record)
        found, (line, *_) = read_plan_records(plan)
        assert run.id not in found and re.search(reason, line) and "\n" not in line, line
        write_record(plan.folder(run.id), own(make, run, value=50.0))
    assert not read_plan_records(plan)[1]


def test_a_checkpoint_of_ones_own_is_no_row_of_the_paper(make: SimpleNamespace, tmp_path: Path) -> None:
    source = Source("mine", "mine.pth", (), "c" * 64)
    chosen = [tables.load("table4").select(["simsiam"], ["knn200"])]
    plan = expand(chosen, scales.load("mini"), tmp_path, checkpoint=source)
    (run,) = (run for run in plan.runs.values() if run.kind == "knn")
    subject = Subject("mine", "resnet50", None, "mine.pth", "c" * 64)
    write_record(plan.folder(run.id), make.record("knn", subject=subject, seed=0))
    plan.write()
    page = report([tmp_path], tmp_path)
    assert ">mine<" in page and "SimSiam" not in page.partition("How it was made")[0].partition("</header>")[2]


def signed(path: Path, change: dict[str, Any]) -> None:
    """A record changed and signed again, as somebody with the code could."""
    body = {**json.loads(path.read_text()), **change}
    body.pop("digest")
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(body | {"digest": hashlib.sha256(canonical.encode()).hexdigest()}))


@pytest.mark.parametrize(
    "change",
    [{"metrics": {"top1": "high"}}, {"metrics": {"top1": True}}, {"metrics": []}, {"seconds": None}, {"seed": "0"},
     {"subject": {"method": 1, "arch": "a"}}, {"subject": "simsiam"}, {"dataset": {"name": "x"}}, {"config": []},
     {"kind": "dance"}, {"verdict": 3}, {"details": "none"}, {"environment": None}, {"command": ["a"]},
     {"dataset": {"name": "x", "split": "val", "size": "8", "fingerprint": "f"}}, {"peak_memory_mb": {}}],
)  # fmt: skip
def test_a_field_of_another_type_is_refused_though_it_is_signed(
    make: SimpleNamespace, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = write_record(tmp_path / "a", make.record())
    write_record(tmp_path / "b", make.record(value=1.0))
    signed(path, change)
    records, refused = find_records([tmp_path])
    assert len(records) == 1 and next(iter(change)) in refused[path], refused
    assert "Refused" in report([tmp_path], tmp_path)


@pytest.mark.parametrize("change", [{"environment": {"packages": 3}}, {"environment": {}}, {"details": {"curves": 7}}])
def test_odd_details_do_not_end_a_report(make: SimpleNamespace, tmp_path: Path, change: dict[str, Any]) -> None:
    signed(write_record(tmp_path / "a", make.record()), change)
    assert "simsiam" in report([tmp_path], tmp_path)


def test_a_pipe_and_a_huge_file_are_no_records(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "result.json")
    (tmp_path / "huge").mkdir()
    with open(tmp_path / "huge" / "result.json", "wb") as file:
        file.truncate(2**33)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "result.json").write_text("[" * 100_000)
    refused = " ".join(find_records([tmp_path])[1].values())
    assert all(words in refused for words in ("not an ordinary file", "more than the", "nested too deeply"))


def test_only_small_pngs_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "good.png")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "other.bmp")
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    shutil.copy(tmp_path / "other.bmp", tmp_path / "bmp.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert data_uri(tmp_path / "good.png").startswith("data:image/jpeg")
    assert [data_uri(tmp_path / f"{n}.png") for n in ("eps", "bmp", "bomb", "pipe", "absent")] == [""] * 5


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "knn/../x", "knn", "knn/a/b", ".x/y", "knn/.x", "knn/", ""])
def test_an_id_is_a_name_and_never_a_path(tmp_path: Path, name: str) -> None:
    plan = planned(tmp_path, ["scratch"])
    body = json.loads(plan.write().read_text())
    (id_, run), *_ = (item for item in body["runs"].items() if item[1]["kind"] == "knn")
    del body["runs"][id_]
    body["runs"][name] = {**run, "id": name}
    body["cells"] = []
    (tmp_path / "plan.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="is not the id of a run"):
        read_plan(tmp_path)


def test_a_plan_of_runs_that_are_not_there_or_form_a_cycle_is_refused(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["scratch"])
    body = json.loads(plan.write().read_text())
    knn = next(id_ for id_, run in body["runs"].items() if run["kind"] == "knn")
    for needs, complaint in (([knn], "cycle"), (["knn/absent"], "knn/absent")):
        body["runs"][knn]["needs"] = needs
        (tmp_path / "plan.json").write_text(json.dumps(body))
        with pytest.raises(UserError, match=complaint):
            read_plan(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plan: plan["tables"][0].update(rows=[]), "cells are not those"),
        (lambda plan: plan["tables"][0]["rows"].append("simsiam"), "cells are not those"),
        (lambda plan: plan["tables"].append(plan["tables"][0]), "cells are not those"),
        (lambda plan: plan["cells"].pop(), "cells are not those"),
        (lambda plan: plan["cells"].append(plan["cells"][0]), "cells are not those"),
        (lambda plan: plan["cells"][0].update(table="tableX"), "cells are not those"),
        (lambda plan: plan["cells"][0].update(runs=[*plan["runs"]][:1] * 2), "counts a run twice"),
        (lambda plan: next(iter(plan["runs"].values())).update(task="voc99"), "task 'voc99'"),
    ],
)
def test_a_plan_whose_cells_or_tasks_do_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], complaint: str
) -> None:
    plan = planned(tmp_path, ["scratch"])
    body = json.loads(plan.write().read_text())
    change(body)
    (tmp_path / "plan.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match=complaint):
        read_plan(tmp_path)

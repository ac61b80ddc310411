"""What `doctor` says of data sets, whole and damaged; the installation itself is asked once."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import doctor
from benchmarks.__main__ import main
from benchmarks.doctor import Finding, data_set_findings, memory_and_disk_findings


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def look(name: str, root: Path) -> Finding:
    [found] = [f for f in data_set_findings({name: str(root)}) if f.name == name]
    return found


def test_an_image_folder(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for kind in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / split / kind / f"{number}.png")
    (tmp_path / "train/@eaDir").mkdir()
    # In the words of pre-training, which lists them itself.
    train = "imagefolder train: 6 images, 2 classes, 3 a class; left out: 1 hidden or of the system; 6 decoded"
    val = "imagefolder val: 2 images, 2 classes, 1 a class; 2 decoded"
    assert look("imagenet", tmp_path) == Finding("ok", "imagenet", f"{tmp_path}: {train}, {val}")
    (tmp_path / "val/cat/0.png").write_bytes(b"no picture")
    found = look("mine", tmp_path)
    assert found.state == "BAD" and "val/cat/0.png: not a readable image" in found.words
    assert look("mine", tmp_path / "nowhere").state == "BAD"
    assert {f.state for f in data_set_findings({}) if f.name == "imagenet"} <= {"--", "ok"}


@pytest.mark.shared
def test_detection_sets(shared: Path) -> None:
    words = {f.name: f for f in data_set_findings({"detection": str(shared / "data")})}
    assert words["detection"].state == "ok"
    assert "voc_2007_train: 700 images, 2255 objects" in words["detection"].words
    assert "coco_2017_train: 207 images, 1847 objects" in words["detection"].words


def test_a_place_that_does_not_exist_yet_is_on_some_disk(tmp_path: Path) -> None:
    [disk] = [f for f in memory_and_disk_findings(tmp_path / "not/yet") if f.name == "disk"]
    assert "GB free" in disk.words


def test_an_import_that_hangs_is_a_fault_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBES", {"PyTorch": "import time; time.sleep(60)"})
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.5)
    [found] = [f for f in doctor.installation_findings() if f.name == "PyTorch"]
    assert found == Finding("BAD", "PyTorch", "no answer within 0.5 seconds; run `make setup`")


@pytest.mark.slow
def test_the_installation_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert stop.value.code == 0, [f for f in findings.values() if f["state"] == "BAD"]
    assert {"PyTorch", "Detectron2", "fvcore", "scale mini"} <= set(findings)

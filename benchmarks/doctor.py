"""`python -m benchmarks doctor`: is the installation whole, which data are here, what can be run and for how long?"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.estimate import clock, durations, left
from benchmarks.workflow.expand import expand
from benchmarks.workflow.status import status_of
from runs.children import child_environment
from runs.environment import describe
from runs.errors import UserError

GOOD, ABSENT, BAD = "ok", "--", "BAD"
# GB that the demo leaves behind, checkpoints above all.
DEMO = 2.0
# What lies in a folder of another layout than an image folder's.
LAYOUTS = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}

# Asked in a process of its own: this package imports neither PyTorch nor Detectron2, and a broken one may crash.
PROBE = """
import json, torch, torchvision
out = {"torch": torch.__version__, "torchvision": torchvision.__version__, "threads": torch.get_num_threads(),
       "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
       "memory_gb": [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(torch.cuda.device_count())]}
print(json.dumps(out))
"""
PROBE_DETECTRON2 = """
import json, detectron2
from detectron2.layers import ROIAlign, nms, paste_masks_in_image
import torch
ROIAlign((2, 2), 1.0, 0, True)(torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))
print(json.dumps({"version": detectron2.__version__, "file": detectron2.__file__}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, absent where that is no fault, or bad with the remedy in the words."""

    state: str
    name: str
    words: str


def doctor(arguments: argparse.Namespace) -> int:
    """The command. Exit status 1 if something is broken."""
    roots = dict(arguments.data)
    findings = [*installation(), *machine(Path(arguments.output or ".")), *data_sets(roots)]
    findings += possible(roots, all(f.state != BAD for f in findings))
    if arguments.json:
        print(json.dumps([vars(f) for f in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:>3}  {finding.name:22} {finding.words}")
    return 1 if any(f.state == BAD for f in findings) else 0


def installation() -> list[Finding]:
    """Python, the packages, and Detectron2 with its compiled or replaced operators."""
    found = [Finding(GOOD, "Python", f"{describe()['python']} at {sys.executable}")]
    torch = _probe(PROBE)
    if isinstance(torch, str):
        found.append(Finding(BAD, "PyTorch", f"cannot be imported: {torch}; run `make setup`"))
    else:
        devices = ", ".join(f"{n} ({m:.0f} GB)" for n, m in zip(torch["cuda"], torch["memory_gb"], strict=True))
        found.append(Finding(GOOD, "PyTorch", f"{torch['torch']}, torchvision {torch['torchvision']}"))
        found.append(Finding(GOOD, "devices", devices or f"no GPU; {torch['threads']} CPU threads"))
    detectron2 = _probe(PROBE_DETECTRON2)
    if isinstance(detectron2, str):
        found.append(Finding(BAD, "Detectron2", f"cannot be used: {detectron2}; run `make setup`"))
    else:
        found.append(Finding(GOOD, "Detectron2", f"{detectron2['version']} in {Path(detectron2['file']).parent}"))
    for name in ("hydra-core", "pycocotools", "fvcore", "matplotlib"):
        try:
            found.append(Finding(GOOD, name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(BAD, name, "not installed; run `make setup`"))
    return found


def machine(place: Path) -> list[Finding]:
    """Processor, memory and free disk where the results go."""
    import psutil

    while not place.exists():
        place = place.absolute().parent
    facts, free = describe(), shutil.disk_usage(place).free / 1e9
    memory = psutil.virtual_memory()
    return [
        Finding(GOOD, "processor", f"{facts['processor']}, {facts['cores']} cores"),
        Finding(GOOD, "memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"),
        Finding(GOOD if free > DEMO else BAD, "disk",
                f"{free:.1f} GB free at {place.resolve()}" + ("" if free > DEMO else f"; the demo needs {DEMO:g} GB")),
    ]  # fmt: skip


def data_sets(roots: dict[str, str]) -> list[Finding]:
    """Every data set in its place: how much there is, and whether a picture of it can be decoded."""
    found = []
    for name in dict.fromkeys(("imagenet", "cifar10", "cifar100", *(n for n in roots if n != "detection"))):
        given = name in roots
        found.append(_look(name, Path(roots.get(name, f"datasets/{name}")), given, _classification))
    detection = Path(roots.get("detection", "datasets"))
    for name, check in (("VOC2007", _voc), ("VOC2012", _voc), ("coco", _coco)):
        found.append(_look(name, detection / name, "detection" in roots and (detection / name).exists(), check))
    return found


def _look(name: str, folder: Path, given: bool, check: Callable[[Path], str]) -> Finding:
    if not folder.exists():
        return Finding(BAD if given else ABSENT, name, f"not at {folder}; give its place with --data")
    try:
        return Finding(GOOD, name, f"{folder}: {check(folder)}")
    except (UserError, OSError, ValueError, KeyError) as error:
        return Finding(BAD, name, f"{folder}: {error}")


def _classification(folder: Path) -> str:
    """What pre-training itself says of it."""
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    layout = next((name for file, name in LAYOUTS.items() if file in inside), "imagefolder")
    command = [sys.executable, "-m", "pretrain.check", f"data={layout}", f"data.root={folder}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if result.returncode:
        lines = result.stderr.splitlines() or [f"it ended with status {result.returncode}"]
        raise UserError(lines[-1].removeprefix("error: "))
    return ", ".join(result.stdout.splitlines())


def _voc(folder: Path) -> str:
    sets = folder / "ImageSets" / "Main"
    lists = {p.stem: len(p.read_text().split("\n")) - 1 for p in sorted(sets.glob("*.txt")) if "_" not in p.stem}
    images, boxes = _count(folder / "JPEGImages", ".jpg"), _count(folder / "Annotations", ".xml")
    if not lists or not images or not boxes:
        raise UserError("needs ImageSets/Main/*.txt, JPEGImages/*.jpg and Annotations/*.xml")
    _decode(next(iter(sorted((folder / "JPEGImages").iterdir()))))
    return f"{images} images, {boxes} annotations; " + ", ".join(f"{k} {v}" for k, v in lists.items())


def _coco(folder: Path) -> str:
    parts = []
    for split in ("train2017", "val2017"):
        file = folder / "annotations" / f"instances_{split}.json"
        body = json.loads(file.read_text(encoding="utf-8"))
        _decode(folder / split / body["images"][0]["file_name"])
        parts.append(f"{split} {len(body['images'])} images, {len(body['annotations'])} objects")
    return "; ".join(parts)


def _count(folder: Path, suffix: str) -> int:
    return sum(entry.name.lower().endswith(suffix) for entry in os.scandir(folder))


def _decode(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").resize((8, 8))


def possible(roots: dict[str, str], whole: bool) -> list[Finding]:
    """For each scale whether it can be run here, and about how long Tables 4 and 5 would take."""
    found = []
    for name in scales.NAMES:
        scale = scales.load(name)
        folders = [Path(roots.get("imagenet", "datasets/imagenet")), Path(roots.get("detection", "datasets"))]
        missing = [str(f) for f in folders if not f.is_dir()] if scale.generate is None else []
        plan = expand([tables.load(t) for t in ("table4", "table5")], scale, f"outputs/{name}")
        time = clock(left(plan, durations(plan)[0], status_of(plan, failed={})))
        words = f"tables 4 and 5: {len(plan.runs)} runs"
        if missing:
            found.append(Finding(ABSENT, f"scale {name}", f"{words}; needs {' and '.join(missing)} (--data)"))
        elif not whole:
            found.append(Finding(ABSENT, f"scale {name}", f"{words}; first repair what is BAD above"))
        else:
            found.append(Finding(GOOD, f"scale {name}", f"{words}, about {time} on {scale.jobs} at a time"))
    return found


def _probe(code: str) -> dict[str, Any] | str:
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        return "no answer within three minutes"
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended with status {result.returncode}"
    body = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(body, dict)
    return body

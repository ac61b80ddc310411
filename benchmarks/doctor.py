"""`python -m benchmarks doctor`: is the installation whole, which data are here, what can be run and for how long?"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand
from benchmarks.workflow.run_status import last_attempts, status_of
from benchmarks.workflow.time_left import clock, expected_durations, plan_seconds_left
from runs.child_environment import child_environment
from runs.environment import describe_environment
from runs.errors import UserError

GOOD, ABSENT, BAD = "ok", "--", "BAD"
# GB that the demo leaves behind, checkpoints above all.
DEMO = 2.0
# Images of each detection data set to decode; `pretrain.check_data` has its own number.
DECODED = 64
# What lies in a folder of another layout than an image folder's.
LAYOUTS = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}

# Asked in a process each: this package imports neither PyTorch nor Detectron2, and a broken one may crash.
PROBES = {
    "PyTorch": """
import torch, torchvision
print(f"{torch.__version__}, torchvision {torchvision.__version__}")
""",
    "devices": """
import torch
cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
words = ", ".join(f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards)
print(words or f"no GPU; {torch.get_num_threads()} CPU threads")
""",
    "Detectron2": """
import detectron2, os, torch
from detectron2.layers import ROIAlign, nms, paste_masks_in_image
ROIAlign((2, 2), 1.0, 0, True)(torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))
print(f"{detectron2.__version__} in {os.path.dirname(detectron2.__file__)}")
""",
}
# A broken driver lets an import hang.
PROBE_SECONDS = 180.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, absent where that is no fault, or bad with the remedy in the words."""

    state: str
    name: str
    words: str


def doctor(arguments: argparse.Namespace) -> int:
    """The command. Exit status 1 if something is broken."""
    roots = dict(arguments.data)
    findings = [*installation_findings(), *memory_and_disk_findings(Path(arguments.output)), *data_set_findings(roots)]
    findings += _scale_findings(roots, all(f.state != BAD for f in findings))
    if arguments.json:
        print(json.dumps([vars(f) for f in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:>3}  {finding.name:22} {finding.words}")
    return 1 if any(f.state == BAD for f in findings) else 0


def installation_findings() -> list[Finding]:
    """Python, the packages, and Detectron2 with its compiled or replaced operators."""
    found = [Finding(GOOD, "Python", f"{describe_environment()['python']} at {sys.executable}")]
    for name, code in PROBES.items():
        found.append(_finding(name, "run `make setup`", partial(_run_python, "-c", code, seconds=PROBE_SECONDS)))
    for name in ("hydra-core", "pycocotools", "fvcore", "matplotlib"):
        found.append(_finding(name, "run `make setup`", partial(metadata.version, name)))
    return found


def _finding(name: str, remedy: str, check: Callable[[], str]) -> Finding:
    """What a check says, or why it fails."""
    try:
        return Finding(GOOD, name, check())
    except (UserError, OSError, ValueError, KeyError, ImportError) as error:
        return Finding(BAD, name, f"{error}; {remedy}" if remedy else str(error))


def _run_python(*arguments: str, seconds: float | None = None) -> str:
    """What a Python process prints, its lines with commas between; a `UserError` if it fails or takes too long."""
    command = [sys.executable, *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=child_environment(), timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no answer within {seconds:g} seconds") from error
    if result.returncode:
        faults = [line for line in result.stdout.splitlines() if line.startswith("wrong: ")]
        said = faults or result.stderr.strip().splitlines()[-1:] or [f"it ended with status {result.returncode}"]
        raise UserError(said[0].removeprefix("wrong: ").removeprefix("error: "))
    return ", ".join(result.stdout.splitlines())


def memory_and_disk_findings(output_folder: Path) -> list[Finding]:
    """Processor, memory and free disk where the results go."""
    import psutil

    place = next(p for p in (output_folder.absolute() / "_").parents if p.exists())
    facts, free = describe_environment(), shutil.disk_usage(place).free / 1e9
    memory = psutil.virtual_memory()
    return [
        Finding(GOOD, "processor", f"{facts['processor']}, {facts['cores']} cores"),
        Finding(GOOD, "memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"),
        Finding(GOOD if free > DEMO else BAD, "disk",
                f"{free:.1f} GB free at {place.resolve()}" + ("" if free > DEMO else f"; the demo needs {DEMO:g} GB")),
    ]  # fmt: skip


def data_set_findings(roots: dict[str, str]) -> list[Finding]:
    """Every data set in its place, in the words of the commands that check one."""
    found = []
    for name in dict.fromkeys(("imagenet", "cifar10", "cifar100", *(n for n in roots if n != "detection"))):
        folder = Path(roots.get(name, f"datasets/{name}"))
        layout = next((layout for file, layout in LAYOUTS.items() if (folder / file).exists()), "imagefolder")
        check = ("pretrain.check_data", f"data={layout}", f"data.root={folder}")
        found.append(_data_set(name, folder, name in roots, folder.exists(), check))
    folder = Path(roots.get("detection", "datasets"))
    there = any((folder / name).exists() for name in ("VOC2007", "VOC2012", "coco"))
    check = ("transfer.check_data", f"data.root={folder}", f"images={DECODED}")
    found.append(_data_set("detection", folder, "detection" in roots, there, check))
    return found


def _data_set(name: str, folder: Path, given: bool, there: bool, check: Sequence[str]) -> Finding:
    if not there:
        return Finding(BAD if given else ABSENT, name, f"not at {folder}; give its place with --data")
    found = _finding(name, "", partial(_run_python, "-m", *check))
    return Finding(found.state, name, f"{folder}: {found.words}")


def _scale_findings(roots: dict[str, str], nothing_bad: bool) -> list[Finding]:
    """For each scale whether it can be run here, and about how long Tables 4 and 5 would take."""
    found = []
    for name in scales.NAMES:
        scale = scales.load(name)
        folders = [Path(roots.get("imagenet", "datasets/imagenet")), Path(roots.get("detection", "datasets"))]
        missing = [str(f) for f in folders if not f.is_dir()] if scale.generate is None else []
        plan = expand([tables.load(t) for t in ("table4", "table5")], scale, f"outputs/{name}")
        expected = expected_durations(plan, last_attempts(plan)).seconds
        time = clock(plan_seconds_left(plan, expected, status_of(plan, failed={})))
        words = f"tables 4 and 5: {len(plan.runs)} runs"
        if missing:
            words += f"; needs {' and '.join(missing)} (--data)"
        else:
            words += f", about {time} on {scale.jobs} at a time" if nothing_bad else "; first repair what is BAD above"
        found.append(Finding(GOOD if nothing_bad and not missing else ABSENT, f"scale {name}", words))
    return found

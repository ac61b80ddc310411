"""`python -m hardware`: does this machine compute what the CPU computes, and how fast is it?

Each section measures one part in a process of its own, so that a failure of one does not stop the others.
"""

import argparse
import concurrent.futures
import datetime
import importlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hardware.page import html_page, section_lines
from hardware.run_commands import describe_machine
from hardware.section import Figure, Options, Section
from runs.app import Parser, cli
from runs.child_environment import child_environment
from runs.environment import command_line
from runs.errors import UserError, user_message
from runs.files import atomic_write, read_json, write_json

# name: (title, whether it is timed, so that nothing may run beside it)
SECTIONS = {
    "methods": ("Every method: losses, gradients and weights against the CPU in float32", False),
    "views": ("The fast views against the CPU, in 8-bit levels", False),
    "resume": ("Killed and resumed", False),
    "collectives": ("Collectives, DDP and synchronized batch norm", False),
    "evaluation": ("Linear evaluation and kNN against the CPU", False),
    "detection": ("A detector's AP against the CPU", False),
    "step_speed": ("Speed of SimSiam's training step in every setting", True),
    "pretraining_speed": ("Speed of whole pre-trainings with their loader", True),
    "evaluation_speed": ("Speed of linear evaluation and kNN", True),
    "finetuning_speed": ("Speed of Faster R-CNN on VOC and Mask R-CNN on COCO", True),
}
# Full width only: minutes an iteration on a CPU.
FULL_SIZE = {"finetuning_speed"}
# Seconds that a section may take.
TIMEOUT = 420


@cli
def main(argv: list[str] | None = None) -> int:
    """Measure every section and write `hardware.json` and `hardware.html`; exit status 1 if a limit was exceeded."""
    parser = Parser(
        prog="python -m hardware", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU, if there is one"
    )
    parser.add_argument(
        "--small", action="store_true", help="sizes for a CPU (default there), under 3 minutes on 2 cores"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="an ImageFolder for the loader (default: generated)")
    parser.add_argument(
        "--official", type=Path, metavar="CLONE", help="a clone of facebookresearch/simsiam, timed beside ours"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/hardware"), metavar="DIR", help="folder for the results"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.sections) - set(SECTIONS))
    if unknown:
        raise UserError(f"{unknown[0]}: no such section; choose from {', '.join(SECTIONS)}")
    if arguments.only:
        return measure_section(arguments)
    began = time.time()
    place = describe_machine()
    if arguments.device == "cuda" and place["device_type"] == "cpu":
        raise UserError("--device cuda: PyTorch sees no CUDA device; use --device cpu")
    arguments.device = place["device_type"] if arguments.device == "auto" else arguments.device
    place["device_type"] = arguments.device
    arguments.small |= arguments.device == "cpu"
    asked = arguments.sections or SECTIONS.keys() - (FULL_SIZE if arguments.small else set())
    chosen = [name for name in SECTIONS if name in asked]
    # What is timed runs alone, after the rest, which shares the machine.
    together = [name for name in chosen if not SECTIONS[name][1]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    document: dict[str, Any] = {
        "schema": 1, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": place,
        "command": command_line(), "small": arguments.small, "sections": [],
    }  # fmt: skip
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = False
    beside = 4 if cores >= 8 else 1
    with concurrent.futures.ThreadPoolExecutor(beside) as pool:
        # Sections that share the cores without dividing them wait for each other's threads: ten times as slow.
        runs = [pool.submit(run_section, name, arguments, cores // beside) for name in together]
        done = (run.result() for run in concurrent.futures.as_completed(runs))
        alone = (run_section(name, arguments, cores) for name in chosen if name not in together)
        for body in itertools.chain(done, alone):
            document["sections"].append(body)
            document["plan"] = {k: v for section in document["sections"] for k, v in section["plan"].items()}
            document["seconds"] = round(time.time() - began, 1)
            failed |= body["verdict"] == "FAILED"
            print("\n".join(section_lines(body)), flush=True)
            # After each section: what was measured stays if the machine goes.
            write_json(arguments.output / "hardware.json", document)
            with atomic_write(arguments.output / "hardware.html", "w") as file:
                file.write(html_page(document))
    verdict = "FAILED" if failed else "passed"
    print(f"{verdict} in {document['seconds']:.0f} s -> {arguments.output}/hardware.json, hardware.html")
    return int(failed)


def run_section(name: str, arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Measure a section in a process of its own on some threads; whatever happens to it, there is an outcome."""
    folder, began = arguments.output / name, time.time()
    result = folder / "section.json"
    if folder.exists():
        if not result.exists():
            raise UserError(f"{folder}: is not of an earlier check; choose another --output")
        shutil.rmtree(folder)
    words = ["--only", name, "--device", arguments.device, "--output", str(arguments.output)]
    words += ["--small"] * arguments.small
    for option in ("images", "official"):
        words += [f"--{option}", str(getattr(arguments, option))] if getattr(arguments, option) else []
    error = ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hardware", *words], capture_output=True, text=True, timeout=TIMEOUT,
            env={"OMP_NUM_THREADS": str(threads)} | child_environment(), errors="replace",
        )  # fmt: skip
        if done.returncode:
            error = f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    except subprocess.TimeoutExpired:
        error = f"not done within {TIMEOUT} s"
    body: dict[str, Any] = read_json(result) if result.exists() else Section(name, SECTIONS[name][0]).as_dict()
    if not error and body["verdict"] != "FAILED":
        shutil.rmtree(folder)  # pictures and checkpoints; of a failure they stay, with the logs
    if error:
        body |= {"error": body["error"] or error, "verdict": "FAILED"}
    return body | {"seconds": round(time.time() - began, 1)}


def measure_section(arguments: argparse.Namespace) -> int:
    """Measure one section here; its outcome is written after every figure."""
    name = arguments.only
    folder = arguments.output / name
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(arguments.device, arguments.small, folder, arguments.images, arguments.official)
    section = Section(name, SECTIONS[name][0])
    try:
        for found in importlib.import_module(f"hardware.{name}").measure(options):
            if isinstance(found, Figure):
                section.figures.append(found)
            else:
                section.plan[found[0]] = found[1]
            write_json(folder / "section.json", section.as_dict())
    except Exception as error:
        section.error = user_message(error) or f"{type(error).__name__}: {error}"
        write_json(folder / "section.json", section.as_dict())
        raise
    write_json(folder / "section.json", section.as_dict())
    return 0


if __name__ == "__main__":
    main()

"""`python -m experiments.speed [NAME …]`: every part against its peers, in turn; `compare` finds regressions.

A part's rows are in the results as soon as it is done; measuring it again into the same folder replaces them.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.speed.page import html_page, markdown_page, replace_block
from experiments.speed.regressions import compare, read_rows
from experiments.speed.rows import Result, Skipped, add_common_arguments, common_words, read_result
from hardware.run_commands import describe_machine
from runs.app import Parser, cli
from runs.environment import command_line
from runs.errors import UserError
from runs.files import atomic_write, read_json, write_json

SCRIPTS = {
    "views": "two augmented views of an image: the official pipeline, decoding alone",
    "official_step": "one training step of SimSiam: the official script's, the rate of matrix products",
    "lightly_solo_learn": "a training step of SimSiam and its two views: lightly's and solo-learn's",
    "linear_sweep": "twelve learning rates of a linear classifier against one",
    "knn": "weighted nearest neighbours against the whole table of similarities at once",
    "detection_loader": "batches for fine-tuning: Detectron2's own loader, decoding alone",
    "evaluators": "VOC and COCO average precision: Detectron2's and pycocotools'",
    "converters": "conversion of a checkpoint to Detectron2: reading and writing alone",
    "startup": "start-up of every command: the imports that it cannot do without",
}


@cli
def main() -> int:
    """Measure, or compare two result files."""
    if sys.argv[1:2] == ["compare"]:
        return _compare(sys.argv[2:])
    if sys.argv[1:2] == ["page"]:
        return _page(sys.argv[2:])
    names = "\n".join(f"  {name:18} {about}" for name, about in SCRIPTS.items())
    parser = Parser(
        prog="python -m experiments.speed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\n\nwhat can be measured:\n{names}",
        epilog="python -m experiments.speed compare A.json B.json: exit status 1 if a row fell behind its peer\n"
        "python -m experiments.speed page A.json PAGE.md: put the table into a page",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/speed"), metavar="DIR", help="folder for the results"
    )
    add_common_arguments(parser)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(SCRIPTS))
    if unknown:
        raise UserError(f"{unknown[0]}: nothing of this name is measured; choose from {', '.join(SCRIPTS)}")
    chosen = [name for name in SCRIPTS if name in arguments.names or not arguments.names]
    place = describe_machine()
    failed = False
    for name in chosen:
        print(f"== {name}: {SCRIPTS[name]}", flush=True)
        started, load = time.time(), os.getloadavg()[0]
        part = run(name, common_words(arguments))
        failed |= part is None
        if part is None:
            part = Result(skipped=[Skipped(name, "the script failed, its error is above the table")])
        # Read only now: another part may have been measured into this folder meanwhile.
        document = _earlier(arguments.output / "speed.json", place, arguments.quick)
        for kind, found in asdict(part).items():
            kept = [entry for entry in document[kind] if entry["name"].split("/")[0] != name]
            document[kind] = sorted(kept + found, key=lambda entry: list(SCRIPTS).index(entry["name"].split("/")[0]))
        document["parts"][name] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "seconds": round(time.time() - started, 1),
            # Other programs' work on the machine: above the number of cores, wall times say little.
            "load": [load, os.getloadavg()[0]],
        }
        write_json(arguments.output / "speed.json", document)
        for file, text in (("speed.md", markdown_page(document)), ("speed.html", html_page(document))):
            with atomic_write(arguments.output / file, "w") as output:
                output.write(text)
    print(f"-> {arguments.output}/speed.json, speed.md, speed.html")
    return int(failed)


def _earlier(file: Path, place: dict[str, Any], quick: bool) -> dict[str, Any]:
    """What was measured before on the same machine with the same packages: what is measured now replaces it by name."""
    fresh = {"schema": 1, "quick": quick, "environment": place, "parts": {}, **asdict(Result())}
    try:
        document = read_json(file)
        same = all(document["environment"][k] == place[k] for k in ("processor", "cores", "device", "packages"))
        # A file of a version whose parts had other names cannot be continued.
        same &= document["parts"].keys() <= SCRIPTS.keys()
        return document | {"environment": place} if same and document["quick"] == quick else fresh
    except (UserError, AttributeError, KeyError, TypeError):
        return fresh


def run(name: str, words: list[str]) -> Result | None:
    """Run one script in a process of its own and return its rows; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        done = subprocess.run([sys.executable, "-m", f"experiments.speed.{name}", "--rows", str(rows), *words])
        return read_result(rows) if done.returncode == 0 else None


def _compare(words: list[str]) -> int:
    parser = Parser(prog="python -m experiments.speed compare", description=compare.__doc__)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--tolerance", type=float, default=0.2, metavar="SHARE", help="a larger fall counts (0.2)")
    arguments = parser.parse_args(words)
    lines, fallen = compare(arguments.before, arguments.after, arguments.tolerance)
    print("\n".join(lines))
    return int(fallen)


def _page(words: list[str]) -> int:
    parser = Parser(prog="python -m experiments.speed page", description=replace_block.__doc__)
    parser.add_argument("result", type=Path, metavar="A.json")
    parser.add_argument(
        "page", type=Path, metavar="PAGE.md", help="with a line for the table's begin and one for its end"
    )
    arguments = parser.parse_args(words)
    read_rows(arguments.result)  # refuses what is not a result
    text = replace_block(arguments.page.read_text(encoding="utf-8"), markdown_page(read_json(arguments.result)))
    with atomic_write(arguments.page, "w") as output:
        output.write(text)
    return 0


if __name__ == "__main__":
    main()

"""A row of the speed table: ours and a peer, measured in turn in one run, with the physical limit of the work.

Every measurement is a script of its own, `python -m experiments.speed.NAME [--quick] [--rows FILE]`, so that none is
timed with what another has loaded. It hands its `measure` function to `script`; `python -m experiments.speed` starts
the scripts one after the other and puts their rows into one file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hardware.section import OFFICIAL
from runs.errors import UserError
from runs.files import write_json

# A peer that is a clone and not an installed package.
SOLO_LEARN = "vturrisi/solo-learn@9187ea3"
Measure = Callable[[argparse.Namespace], Iterable["Row | Skipped"]]


@dataclass
class Row:
    """One line of the table.

    Args:
        name: `script/what`, e.g. `views/cpu`; `compare` joins two files on it.
        title: what is measured, with its sizes, in one line.
        unit: of `ours`, `peer` and `limit`: `images/s`, `s`, `ms`, `GB`, …
        higher: more is better (rates); otherwise less is (times, bytes).
        ours: one figure a round.
        peer: the peer's figure of the same round, measured right beside it.
        peer_name: name and version, e.g. `pycocotools 2.0.10` or `facebookresearch/simsiam@a7bc177`.
        clock: `cpu` counts the process's own processor time, all threads together, which other programs on the machine
            disturb little; `wall` is what a user waits.
        limit: what the hardware allows for this work, in `unit`; None where no such figure exists.
        limit_name: what `limit` is, e.g. `decoding alone`.
        goal: the ratio that is asked for, if one is.
        note: what a reader has to know.
    """

    name: str
    title: str
    unit: str
    higher: bool
    ours: list[float]
    peer: list[float]
    peer_name: str
    clock: Literal["cpu", "wall"] = "wall"
    limit: float | None = None
    limit_name: str = ""
    goal: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.ours) != len(self.peer) or not self.ours:
            raise ValueError(f"{self.name}: ours and peer need the same number of rounds, at least one")

    @property
    def ratios(self) -> list[float]:
        """How many times better ours is, one figure a round."""
        pairs = zip(self.ours, self.peer, strict=True)
        return [ours / peer if self.higher else peer / ours for ours, peer in pairs]

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def share(self) -> float | None:
        """How much of the physical limit is reached, 0 to 1."""
        if self.limit is None:
            return None
        ours = statistics.median(self.ours)
        return ours / self.limit if self.higher else self.limit / ours


@dataclass
class Skipped:
    """A row that could not be measured here.

    Args:
        name: the row's name.
        reason: why, and what would make it possible.
    """

    name: str
    reason: str


@dataclass
class Result:
    """What a script writes: its rows and the rows that it had to leave out."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def alternate(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    rounds: int,
    clock: Literal["cpu", "wall"] = "wall",
    warm: bool = True,
) -> tuple[list[float], list[float]]:
    """Seconds of both, `rounds` times each, in turn: ours, peer, peer, ours, … so that a drift meets both alike.

    With `warm`, both are called once before, untimed.
    """
    if warm:
        ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            times[side].append(seconds((ours, peer)[side], clock))
    return times


def seconds(work: Callable[[], Any], clock: Literal["cpu", "wall"] = "cpu") -> float:
    """Seconds of one call, see `Row.clock`."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    start = now()
    work()
    return now() - start


class Process(NamedTuple):
    """What a process took: processor seconds, user and system, and its peak resident memory in GB."""

    status: int
    seconds: float
    gigabytes: float


def run_process(command: list[str], stderr: int | None = subprocess.DEVNULL, **variables: str) -> Process:
    """Run a command to its end with further environment variables; what it prints is dropped, errors by default too."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=stderr, env=os.environ | variables)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Process(process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9)


def format_row(row: Row) -> str:
    """The row as text: medians, the ratio with its range, the share of the limit."""
    low, high = min(row.ratios), max(row.ratios)
    ours, peer = statistics.median(row.ours), statistics.median(row.peer)
    text = (
        f"{row.name}: ours {ours:.4g} {row.unit}, {row.peer_name} {peer:.4g} {row.unit}: "
        f"{row.ratio:.2f} times ({low:.2f} to {high:.2f}, n = {len(row.ours)})"
    )
    if row.limit is not None and row.share is not None:
        text += f"; {row.limit_name} {row.limit:.4g} {row.unit}, {100 * row.share:.0f} % reached"
    return text


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `python -m experiments.speed` has and hands on to every script, see `common_words`."""
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all?")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with VOC2007/, coco/; default: generated scenes"
    )
    for name, source in (("--official", OFFICIAL), ("--solo-learn", SOLO_LEARN)):
        parser.add_argument(name, type=Path, metavar="CLONE", help=f"a clone of {source}, to measure against")


def common_words(arguments: argparse.Namespace) -> list[str]:
    """The arguments of `add_common_arguments` as words again."""
    folders = {"--data": arguments.data, "--official": arguments.official, "--solo-learn": arguments.solo_learn}
    words = [word for name, folder in folders.items() if folder for word in (name, str(folder))]
    return [*(["--quick"] if arguments.quick else []), *words]


def run_script(
    measure: Measure, description: str, options: Callable[[argparse.ArgumentParser], Any] | None = None
) -> None:
    """The command line of a measurement script.

    Args:
        measure: yields rows; gets the parsed arguments, those of `add_common_arguments` among them.
        description: the script's docstring.
        options: adds arguments of the script's own; each must have a default that works, as they are not passed on.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--rows", type=Path, metavar="FILE", help="write the rows as JSON")
    if options:
        options(parser)
    arguments = parser.parse_args()
    result = Result()
    try:
        for row in measure(arguments):
            if isinstance(row, Row):
                result.rows.append(row)
                print(format_row(row), flush=True)
            else:
                result.skipped.append(row)
                print(f"{row.name}: skipped, {row.reason}", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if arguments.rows:
        write_json(arguments.rows, asdict(result))


def read_result(file: Path) -> Result:
    """Read what `script` wrote."""
    document = json.loads(file.read_text(encoding="utf-8"))
    return Result([Row(**row) for row in document["rows"]], [Skipped(**skipped) for skipped in document["skipped"]])

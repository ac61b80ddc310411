"""`python -m benchmarks.readme outputs/demo`: the README's numbers, written from run records and never by hand."""

import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.fill import Entry, Filled, fill, full_label, read_records
from benchmarks.plan import PLAN, read_plan
from benchmarks.render import number, published
from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import atomic_write
from runs.record import Record

BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"


def numbers(filled: Iterable[Filled], records: Iterable[Record], command: str) -> str:
    """The block between the marks: what was run, where, for how long, and the tables row by row.

    Args:
        filled: the tables.
        records: of all runs behind them.
        command: what made them.
    """
    records = list(records)
    seconds = sum(r.seconds for r in records)
    facts = sorted(
        {(r.environment["processor"], r.environment["cores"], r.environment["packages"]["torch"]) for r in records}
    )
    commits = sorted({(r.environment["commit"] or "unknown")[:10] for r in records})
    hardware = "; ".join(f"{processor}, {cores} cores, PyTorch {torch}" for processor, cores, torch in facts)
    head = (
        f"`{command}` on {hardware}: {len(records)} runs, {seconds / 60:.0f} minutes on one core all together, "
        f"commit {', '.join(commits)}. Generated data and a quarter-width network: the paper's values stand beside "
        "them to show the form of the table, not to be compared."
    )
    return "\n\n".join([head, *(_table(f) for f in filled)])


def _table(filled: Filled) -> str:
    measured = [i for i in range(len(filled.table.columns)) if any(line[i].ours for line in filled.entries)]
    heads = [full_label(filled.table.columns[i]) for i in measured]
    lines = [f"**{filled.table.label}: {filled.table.title}**, {filled.table.quantity}", ""]
    lines += ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for row, line in zip(filled.table.rows, filled.entries, strict=True):
        ours, paper = ([show(line[i]) for i in measured] for show in (_ours, published))
        lines.append(f"| {row.label}, ours | " + " | ".join(ours) + " |")
        lines.append(f"| {row.label}, paper | " + " | ".join(text or "–" for text in paper) + " |")
    return "\n".join(lines)


def _ours(entry: Entry) -> str:
    return number(entry) if entry.ours else "–"


def replace(readme: str, block: str) -> str:
    """Put a block between the marks of a README's text.

    Raises:
        UserError: the marks are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md: the marks {BEGIN} and {END} are missing; put them where the numbers belong")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


@cli
def main() -> int:
    """Write the block of one results folder into a README."""
    parser = Parser("python -m benchmarks.readme", description=__doc__)
    parser.add_argument("folder", help="a folder that `benchmarks run` filled")
    parser.add_argument("--readme", default="README.md")
    parser.add_argument("--command", default="make demo", help="what a reader types to get these numbers")
    arguments = parser.parse_args()
    plan = read_plan(Path(arguments.folder) / PLAN)
    records = read_records(plan)
    text = Path(arguments.readme).read_text(encoding="utf-8")
    with atomic_write(arguments.readme, "w") as file:
        file.write(replace(text, numbers(fill(plan, records), records.values(), arguments.command)))
    print(f"{arguments.readme}: numbers of {len(records)} runs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    main()

"""The tables of docs/collapse.md, written from run records and never by hand.

    python -m benchmarks.laboratory outputs/lab docs/collapse.md

fills every block `<!-- table: NAME METRIC … -->` … `<!-- end -->` of a page with a table of the paper and what the
records below the folder have of it, and `<!-- facts -->` … `<!-- end -->` with how much was computed and where.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import scales, tables
from benchmarks.expansion import expand
from benchmarks.fill import Filled, fill, pretrainings, read_records
from benchmarks.plan import Plan
from benchmarks.statistics import summarize
from benchmarks.tables import Row
from runs.app import Parser, cli
from runs.errors import UserError
from runs.files import atomic_write
from runs.record import Record

BLOCK = re.compile(r"(<!-- (table|facts)(?:: ([^\n]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
# Head and digits of the metrics of a pre-training's record.
METRICS = {
    "knn_top1": ("kNN (%)", 1), "knn_top1_start": ("kNN before", 1), "loss": ("loss", 2), "std": ("std", 4),
    "m_o": ("m_o", 3), "m_r": ("m_r", 3), "covariance": ("covariance", 3), "effective_rank": ("rank", 1),
    "eta_p": ("η_p", 2), "eta_z": ("η_z", 2), "p_m_o": ("m_o of p", 3), "bias_set_cosine": ("cos(bias, o_z)", 2),
    "r_e_cosine": ("cos(r_e, de-corr.)", 2),
}  # fmt: skip
ABSENT = "–"


def preset(row: Row) -> str:
    """The words of a command that make the row."""
    settings = row.pretrain
    if "variant" in settings:
        return f"`variant={settings['variant']}`"
    own = [f"{k}={str(v).lower()}" for k, v in settings.items() if k.startswith("method")]
    return f"`{' '.join(own)}`" if own else ABSENT


def block(filled: Filled, plan: Plan, records: Mapping[str, Record], metrics: Sequence[str]) -> str:
    """One table as Markdown: the paper's word and number, our trials, the monitors' verdicts, the metrics.

    Raises:
        UserError: a metric has no name here.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"{metric}: no such metric; there are {', '.join(METRICS)}")
    published = tables.load(filled.table.name)
    # A figure need not print its accuracies.
    printed = [i for i in range(len(published.columns)) if any(row.values[i] is not None for row in published.rows)]
    accuracy = next((i for i in printed if published.columns[i].task in ("linear", "knn")), None)
    asked = "collapse" in published.properties
    heads = ["", "preset", *(["paper: top-1 (%)"] if accuracy is not None else [])]
    heads += ["paper: collapse", "ours: collapsed"] if asked else []
    heads += ["n", *(METRICS[m][0] for m in metrics)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for i, row in enumerate(published.rows):
        runs = [records[r] for r in pretrainings(plan, filled.table.name, row.id) if r in records]
        said = filled.verdicts[i] if filled.verdicts else None
        verdict = str(said or ABSENT)
        if any("prediction" in run.verdict for run in runs):
            verdict += " in p"
        cells = [row.label, preset(row)]
        if accuracy is not None:
            cells.append(ABSENT if row.values[accuracy] is None else str(row.values[accuracy]))
        if asked:
            cells.append(str(row.properties.get("collapse", ABSENT)))
            cells.append(verdict if said is None or said.agrees else f"**{verdict}**")
        cells.append(str(len(runs)))
        cells += [_mean([r.metrics[m] for r in runs if m in r.metrics], METRICS[m][1]) for m in metrics]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def facts(records: Sequence[Record]) -> str:
    """How much was computed, on what."""
    if not records:
        return "Nothing has run yet."
    places = sorted({(r.environment["processor"], r.environment["packages"]["torch"]) for r in records})
    minutes = sum(r.seconds for r in records) / 60
    where = "; ".join(f"{processor}, PyTorch {torch}" for processor, torch in places)
    return f"{len(records)} runs, {minutes:.0f} minutes all together, one thread each ({where})."


def filled_page(text: str, folder: str, scale_name: str = "lab") -> str:
    """Return the page with its blocks written anew.

    Args:
        text: the page.
        folder: output of `python -m benchmarks run`.
        scale_name: the scale it was run at.

    Raises:
        UserError: the page has no block, or a block names no table or no metric.
    """
    wanted = [m.group(3).split() for m in BLOCK.finditer(text) if m.group(2) == "table"]
    if not wanted:
        raise UserError("the page has no block `<!-- table: NAME METRIC … -->` … `<!-- end -->`")
    scale = scales.load(scale_name)
    plan = expand(tables.choose([words[0] for words in wanted], None, None, scale.fit), scale, folder)
    records = read_records(plan)
    filled = {f.table.name: f for f in fill(plan, records)}

    def write(match: re.Match[str]) -> str:
        if match.group(2) == "facts":
            body = facts(list(records.values()))
        else:
            name, *metrics = match.group(3).split()
            body = block(filled[name], plan, records, metrics)
        return f"{match.group(1)}{body}\n{match.group(4)}"

    return BLOCK.sub(write, text)


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return ABSENT
    found = summarize(values)
    text = f"{found.mean:.{digits}f}" + (f" ± {found.std:.{digits}f}" if found.std is not None else "")
    return text.replace("-", "−")


@cli
def main(argv: list[str] | None = None) -> int:
    """Write a page's tables."""
    parser = Parser(prog="python -m benchmarks.laboratory", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="output of `python -m benchmarks run … --scale lab`")
    parser.add_argument("page", type=Path, metavar="PAGE.md")
    parser.add_argument("--scale", default="lab")
    arguments = parser.parse_args(argv)
    text = filled_page(arguments.page.read_text(encoding="utf-8"), arguments.folder, arguments.scale)
    with atomic_write(arguments.page, "w") as file:
        file.write(text)
    print(arguments.page)
    return 0


if __name__ == "__main__":
    main()

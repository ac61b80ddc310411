"""The page itself: everything that it shows, handed to the template."""

import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from benchmarks import tables
from benchmarks.estimate import clock
from benchmarks.fill import Filled, full_label, listed
from benchmarks.plan import Plan
from benchmarks.records import Found
from benchmarks.render import number, published, signed
from benchmarks.report import content
from runs.record import Record

HERE = Path(__file__).parent


def page(plans: Sequence[Plan], records: dict[str, dict[str, Record]], filled: Sequence[Filled], others: Found) -> str:
    """Return the HTML text.

    Args:
        plans: the plans whose tables are shown.
        records: of each plan (by its output), by run id.
        filled: the tables.
        others: records without a plan.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    recorded = [r for group in records.values() for r in group.values()]
    return environment.get_template("page.html.j2").render(
        title=_title(filled),
        papers=[tables.paper(p) for p in dict.fromkeys(f.table.paper for f in filled)],
        about=list(dict.fromkeys(f"{p.scale} scale: {p.about}" for p in plans)),
        made=time.strftime("%Y-%m-%d %H:%M"),
        filled=filled,
        heads=[_groups(f) for f in filled],
        drawings=_drawings(plans, filled),
        training=content.training(plans),
        recall=content.precision_recall(plans, records),
        views=content.pictures(plans, "pretrain", "views.png"),
        detections=content.pictures(plans, "transfer", "detections.png"),
        costs=content.costs(plans, records),
        ended=len(recorded),
        total=clock(sum(r.seconds for r in recorded)),
        environments=content.environments([*recorded, *others.records.values()]),
        commands=list(dict.fromkeys(p.command for p in plans if p.command)),
        others=[_loose(path, record) for path, record in others.records.items()],
        refused=list(others.refused.values()),
        number=number, published=published, signed=signed, full_label=full_label,
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "sort.js").read_text(encoding="utf-8"),
    )  # fmt: skip


def _title(filled: Sequence[Filled]) -> str:
    if not filled:
        return "Run records"
    labels = list(dict.fromkeys(f.table.label for f in filled))
    if len(labels) > 1 and all(label.startswith("Table ") for label in labels):
        labels = ["Tables " + labels[0].removeprefix("Table "), *(label.removeprefix("Table ") for label in labels[1:])]
    return listed(labels) + ", measured"


def _drawings(plans: Sequence[Plan], filled: Sequence[Filled]) -> list[list[str]]:
    """The pictures of each table, in the order of the tables."""
    owners = [plan for plan in plans for _ in plan.tables]
    return [content.drawings(plan, f.table) for plan, f in zip(owners, filled, strict=True)]


def _groups(filled: Filled) -> list[tuple[str, int]]:
    """The heads above the columns with how many columns each spans."""
    spans: list[tuple[str, int]] = []
    for column in filled.table.columns:
        if spans and spans[-1][0] == column.group:
            spans[-1] = (column.group, spans[-1][1] + 1)
        else:
            spans.append((column.group, 1))
    return spans


def _loose(path: Path, record: Record) -> dict[str, str]:
    data = f"{record.dataset.name} {record.dataset.split}" if record.dataset else ""
    return {
        "path": str(path),
        "what": f"{record.kind}: {record.subject.method}, {record.subject.arch}, seed {record.seed}",
        "data": data,
        "metrics": ", ".join(f"{k} {v:.4g}" for k, v in record.metrics.items()),
        "verdict": record.verdict,
    }

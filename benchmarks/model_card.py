"""A model card: a checkpoint, how it was recognised and proved, and what was measured of it beside the papers."""

from pathlib import Path
from typing import Any

from benchmarks.report import table_formats
from benchmarks.report.result_tables import checkpoint_vs_paper_table
from benchmarks.results.table_results import TableResult, full_label
from benchmarks.workflow.plan import Plan
from runs.environment import describe_environment
from runs.files import atomic_write, write_json

SCHEMA = 1
OTHERS = "The published rows are of 200 epochs of pre-training on ImageNet."


def write_model_card(plan: Plan, results: list[TableResult], facts: dict[str, Any], path_or_url: str = "") -> Path:
    """Write `model_card.md` and `model_card.json` into the plan's folder; returns the former.

    `facts` are what `converters inspect` says of the checkpoint that the user gave as `path_or_url`.
    """
    fetched, name = "://" in path_or_url or path_or_url.startswith("zoo:"), Path(facts["file"]).name
    numbers = [
        {"task": c.task, "metric": c.metric, "column": full_label(c),
         "n": e.ours.n, "mean": e.ours.mean, "std": e.ours.std}
        for r in results for c, e in zip(r.table.columns, r.entries[0], strict=True) if e.ours
    ]  # fmt: skip
    keys = ("file", "sha256", "format", "arch", "parameters", "input", "checks", "caveat")
    card = {
        "schema": SCHEMA, "scale": plan.scale, "generated_data": any(run.kind == "data" for run in plan.runs.values()),
        "checkpoint": {k: facts.get(k) for k in keys}
        | {"address": path_or_url if fetched else None,
           "targets": [name for name, target in facts["targets"].items() if target["possible"]]},
        "results": numbers, "commands": [run.shell_command for run in plan.runs.values()],
        "environment": describe_environment(),
    }  # fmt: skip
    write_json(Path(plan.output) / "model_card.json", card)
    path = Path(plan.output) / "model_card.md"
    tables = [table_formats.markdown(checkpoint_vs_paper_table(result, name)) for result in results]
    with atomic_write(path, "w") as handle:
        handle.write(table_formats.render_template(
            "model_card.md.j2", **card, name=name, about=f"{plan.about} {OTHERS}", tables=tables
        ))  # fmt: skip
    return path

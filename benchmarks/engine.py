"""Snakemake as a child that ends with its parent (see `runs.app`), with the options that our graph needs."""

import sys
from pathlib import Path

from benchmarks.plan import Plan
from runs.app import cli

SNAKEFILE = Path(__file__).parent / "Snakefile"


def options(plan: Plan, plan_file: Path, executor: str, extra: list[str]) -> list[str]:
    """Snakemake's command line.

    Args:
        plan: the plan.
        plan_file: where it is written.
        executor: `local`, or the name of an installed executor plugin.
        extra: the user's own Snakemake options, last.
    """
    local = executor == "local"
    slots = (
        ["--cores", str(plan.jobs * (plan.threads or 1))]
        if local
        else ["--executor", executor, "--jobs", str(plan.jobs)]
    )
    return [
        "--snakefile", str(SNAKEFILE), "--config", f"plan={plan_file.resolve()}", f"start={Path.cwd()}",
        "--directory", plan.output,
        *slots,
        "--keep-going", "--scheduler", "greedy", "--rerun-triggers", "mtime",
        # Results are written whole or not at all, so one that exists is complete even if Snakemake was killed before
        # noting it; and no lock may outlive a kill: the commands lock their own folders.
        "--ignore-incomplete", "--keep-incomplete", "--drop-metadata", "--nolock",
        "--nocolor", *extra,
    ]  # fmt: skip


@cli
def main() -> int:
    """Hand the arguments to Snakemake's own command line."""
    from snakemake.cli import main as snakemake

    snakemake(sys.argv[1:])
    return 0


if __name__ == "__main__":
    main()

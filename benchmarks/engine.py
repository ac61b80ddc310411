"""Snakemake as a child that ends with its parent (see `runs.app`), with the options that our graph needs."""

import os
import sys
from pathlib import Path

from benchmarks.devices import visible
from benchmarks.plan import Plan
from runs.app import cli
from runs.errors import UserError

SNAKEFILE = Path(__file__).parent / "Snakefile"
# Snakemake's options that say what a job of a cluster gets.
RESOURCES = ("--default-resources", "--default-res", "--set-resources", "--profile", "--workflow-profile")


def check(plan: Plan, executor: str, extra: list[str]) -> None:
    """Refuse what would be found out hours later.

    Raises:
        UserError: a run takes more devices than this machine has; or runs with devices go to a cluster without a word
            on memory and cores, of which Snakemake asks 1 GB and one by default.
    """
    most = max((run.gpus for run in plan.runs.values()), default=0)
    if not most:
        return
    if executor == "local":
        there = visible()
        if there and len(there) < most:
            raise UserError(
                f"--gpus: a run takes {most} devices, this machine shows {len(there)}; add --gpus {len(there)}"
            )
    elif "SNAKEMAKE_PROFILE" not in os.environ and not any(word.partition("=")[0] in RESOURCES for word in extra):
        raise UserError(
            f"--executor {executor}: Snakemake would ask for 1 GB and one core a device; add -- --default-resources "
            "mem_mb=64000 cpus_per_gpu=8 runtime=2880 (minutes), as your cluster has them"
        )


def options(plan: Plan, plan_file: Path, executor: str, extra: list[str]) -> list[str]:
    """Snakemake's command line.

    Args:
        plan: the plan.
        plan_file: where it is written.
        executor: `local`, or the name of an installed executor plugin.
        extra: the user's own Snakemake options, last.
    """
    local = executor == "local"
    devices = len(visible()) if local and any(run.gpus for run in plan.runs.values()) else 0
    slots = (
        ["--cores", str(plan.jobs * (plan.threads or 1))]
        if local
        else ["--executor", executor, "--jobs", str(plan.jobs)]
    )
    return [
        "--snakefile", str(SNAKEFILE), "--config", f"plan={plan_file.resolve()}", f"start={Path.cwd()}",
        "--directory", plan.output,
        *slots, *(["--resources", f"gpu={devices}"] if devices else []),
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

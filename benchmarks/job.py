"""One run of a plan, as Snakemake starts it: the command, its log, and how it ended.

python -m benchmarks.job outputs/demo/plan.json knn/knn-scratch-seed0-1a2b3c4d
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.devices import claimed
from benchmarks.plan import Plan, Run, read_plan
from runs.app import PARENT, Parser, cli
from runs.errors import UserError
from runs.files import write_json
from runs.folder import LOG

JOBS = ".jobs"


def state_file(plan: Plan, run: str) -> Path:
    """Where the last attempt at a run is noted. Not in the run's folder, which belongs to its command."""
    return Path(plan.output) / JOBS / f"{run.replace('/', '--')}.json"


def state(plan: Plan, run: str) -> dict[str, Any]:
    """The last attempt: `started`, once over `ended` (seconds since 1970) and `status`; empty if there was none."""
    try:
        body = json.loads(state_file(plan, run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def last_lines(plan: Plan, run: str, count: int = 8) -> list[str]:
    """The end of a run's log, for a person who wants to know why it failed.

    Of several processes the one that failed says why in a line of its own, and torchrun a page about it behind that.
    """
    try:
        text = (plan.folder(run) / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns: what counts is what stood there last.
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    begun = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=0)
    said = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
    end = said + 1 if said > begun else len(lines)
    return [line for line in lines[:end] if line.strip()][-count:]


def execute(plan: Plan, run: Run) -> int:
    """Run a command, its output appended to the run's log.

    Returns:
        Its exit status; 1 also where it ended well without leaving its result.
    """
    folder = plan.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    # On a cluster the scheduler gives a run its devices, elsewhere nobody does.
    wanted = run.gpus if PARENT in os.environ else 0
    with claimed(Path(plan.output) / JOBS, wanted) as devices, open(folder / LOG, "ab") as log:
        began: dict[str, Any] = {"started": time.time(), "pid": os.getpid()}
        write_json(state_file(plan, run.id), began)
        log.write(f"$ {run.line}\n".encode())
        log.flush()
        status = subprocess.run(
            _words(run.command), stdout=log, stderr=subprocess.STDOUT, env=_environment(plan) | devices, check=False
        ).returncode
        if status == 0 and not plan.target(run).exists():
            log.write(f"ended with status 0 but without {run.target}\n".encode())
            status = 1
    write_json(state_file(plan, run.id), {**began, "ended": time.time(), "status": status})
    return status


def _words(command: tuple[str, ...]) -> list[str]:
    """The same interpreter as this one, whatever `python` and `torchrun` mean on the PATH."""
    start = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    return [*start[command[0]], *command[1:]]


def _environment(plan: Plan) -> dict[str, str]:
    """The scale's number of threads. Snakemake puts its own into the same variables, so none has to mean none."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "GOTO_NUM_THREADS")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    return kept | {name: str(plan.threads) for name in names if plan.threads}


@cli
def main(argv: list[str] | None = None) -> int:
    """Read the plan, execute the run; its exit status is 0 or 1."""
    parser = Parser(prog="python -m benchmarks.job", description=__doc__)
    parser.add_argument("plan", metavar="PLAN.json")
    parser.add_argument("run")
    arguments = parser.parse_args(argv)
    plan = read_plan(arguments.plan)
    if arguments.run not in plan.runs:
        raise UserError(f"{arguments.run}: no run of {arguments.plan}")
    return min(1, abs(execute(plan, plan.runs[arguments.run])))


if __name__ == "__main__":
    main()

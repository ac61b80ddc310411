"""On two nodes of a SLURM cluster: the results of one process, and every way in which such a run is cut off.

`tests/slurm/run.sh` starts a cluster on one machine; elsewhere these tests are skipped. The jobs are submitted as
`benchmarks run --nodes 2 --executor slurm` does it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.workflow.expand_tables import launcher
from benchmarks.workflow.plan import Plan, Run
from benchmarks.workflow.run_process import job_name
from runs.folder import LOG
from runs.record import read_record
from tests.pretrain.conftest import images as images  # a fixture of that package
from tests.pretrain.processes import assert_same_run, lines, newest, small, steps_logged
from tests.transfer.conftest import CLASSES, overrides  # fmt: skip
from tests.transfer.conftest import backbone as backbone
from tests.transfer.conftest import generated as generated
from tests.transfer.test_distributed import SETTINGS, write_scenes

WORK = (
    "import sys; from benchmarks.workflow.plan import read_plan; "
    "from benchmarks.workflow.run_plan import run_plan; "
    "sys.exit(len(run_plan(read_plan(sys.argv[1]), 'slurm', retries=int(sys.argv[2])).failed))"
)
LIMIT = 60
"""Seconds within which the processes of a run are gone when one was killed."""


def nodes() -> int:
    try:
        return int(subprocess.run(["sinfo", "-h", "-o", "%D"], capture_output=True, text=True, timeout=20).stdout or 0)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


pytestmark = [
    pytest.mark.skipif(not shutil.which("sbatch") or nodes() < 2, reason="no SLURM cluster of two nodes"),
    pytest.mark.timeout(600),
]


class Job:
    """A command on two nodes, one process each, in a plan of its own; it goes on until `wait`."""

    def __init__(self, output: Path, kind: str, arguments: list[str], retries: int = 0) -> None:
        module = {"linear": "pretrain.linear", "knn": "pretrain.knn"}.get(kind, kind)
        digest = uuid.uuid4().hex[:8]
        self.folder = output / kind / digest
        command = (*launcher(0, 2, digest), "-m", module, *arguments, f"output={self.folder}")
        run = Run(f"{kind}/{digest}", kind, {"transfer": "voc07"}.get(kind, kind), command, (), {}, nodes=2)
        plan = Plan(str(output), "mini", "", [], {run.id: run}, [], threads=1)
        self.name, self.log = job_name(plan, run.id), self.folder / LOG
        words = [sys.executable, "-c", WORK, str(plan.write()), str(retries)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def wait(self, seconds: float = 500) -> str:
        """Wait for its end; returns what the nodes printed."""
        self.process.wait(seconds)
        return self.log.read_text()

    def until(self, step: int) -> None:
        """Wait until the log has reached a step."""
        while steps_logged(self.folder) < step:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    @property
    def number(self) -> str:
        """SLURM's number of the job."""
        return _slurm("squeue", "-h", "-o", "%i", "--name", self.name).strip()

    def processes(self, node: str = "") -> list[psutil.Process]:
        """The agents of `torchrun` and below them the run's processes, on one node or both."""
        found = []
        for process in psutil.process_iter():
            try:
                words, variables = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if f"output={self.folder}" in words and node in (variables.get("SLURMD_NODENAME"), ""):
                found.append(process)
        return [process for process in found if "srun" not in process.name()]


def _slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def here(module: str, arguments: list[str], folder: Path, processes: int = 1) -> Path:
    """Run a command on this machine alone; returns its folder."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    words = [sys.executable, *launch, "-m", module, *arguments, f"output={folder}"]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def pretraining(data: Path, *more: str) -> list[str]:
    return [word for word in small("simsiam", data, Path("unused"), *more) if not word.startswith("output=")]


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training in two processes of one machine that nothing interrupts."""
    return here("pretrain", pretraining(images), tmp_path_factory.mktemp("whole") / "run", processes=2)


def test_pretraining_equals_one_process_and_two_of_one_machine(images: Path, whole: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, "pretrain", pretraining(images))
    assert "2 x 8 images" in job.wait()
    # Which machine a process is on changes no bit; how many there are, the order of sums.
    assert_same_run(job.folder, whole)
    one = here("pretrain", pretraining(images), tmp_path / "one")
    losses = [[line["loss"] for line in lines(folder) if "loss" in line] for folder in (one, job.folder)]
    assert len(losses[0]) == 12 and losses[1] == pytest.approx(losses[0], abs=1e-6)
    weights = [newest(folder)["state_dict"] for folder in (one, job.folder)]
    for name, value in weights[0].items():
        assert (value.double() - weights[1][name].double()).abs().max().item() < 1e-6, name


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("knn", ["k=[5,20]"]), ("linear", ["augment=none", "epochs=5", "batch_size=16", "lr=[1,10]", "optimizer=sgd"]),
     ("linear", ["epochs=2", "batch_size=16"])],
)  # fmt: skip
def test_evaluations_equal_one_process(
    kind: str, settings: list[str], images: Path, whole: Path, tmp_path: Path
) -> None:
    checkpoint = next(whole.glob("checkpoint_0002.pth.tar"))
    common = ["data=imagefolder", "augment.size=32", "augment.eval_resize=32", "data.workers=0", "threads=1"]
    arguments = [f"checkpoint={checkpoint}", f"data.root={images}", *common, *settings]
    job = Job(tmp_path, kind, arguments)
    one = here({"linear": "pretrain.linear", "knn": "pretrain.knn"}[kind], arguments, tmp_path / "one")
    text = job.wait()
    records = [read_record(folder) for folder in (one, job.folder)]
    assert records[1].metrics == records[0].metrics and records[1].details["processes"] == 2, text
    logs = [[line["loss"] for line in lines(folder)] for folder in (one, job.folder)]
    for a, b in zip(*logs, strict=True):
        assert b == pytest.approx(a, abs=1e-6)


def test_fine_tuning_equals_one_process_and_two_of_one_machine(backbone: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path)
    arguments = [
        "task=voc07", f"weights={backbone}", f"data.root={tmp_path}", f"data.classes=[{','.join(CLASSES)}]",
        "official=true", "device=cpu", "data.workers=0", "log_every=1", "pictures=0", *overrides(SETTINGS),
    ]  # fmt: skip
    job = Job(tmp_path, "transfer", arguments)
    text = job.wait()
    folders = [here("transfer", arguments, tmp_path / f"here{count}", count) for count in (1, 2)]
    one, two, nodes = (_losses(folder) for folder in (*folders, job.folder))
    assert len(one) == 3 and nodes == two, text
    for a, b in zip(one, nodes, strict=True):
        assert b == pytest.approx(a, rel=2e-5, abs=1e-6)
    assert read_record(job.folder).metrics == read_record(folders[1]).metrics
    assert (job.folder / "detections.npz").read_bytes() == (folders[1] / "detections.npz").read_bytes()


def _losses(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "loss" in name} for line in found]


def cancel(job: Job) -> None:
    """SIGTERM, and SIGKILL after SLURM's `KillWait`."""
    _slurm("scancel", job.number)


def cancel_step(job: Job) -> None:
    """SIGKILL at once."""
    _slurm("scancel", f"{job.number}.0")


def requeue(job: Job) -> None:
    _slurm("scontrol", "requeue", job.number)


def lose_node(job: Job) -> None:
    """SLURM ends what ran on a node that is down and starts the job again when there are enough nodes."""
    _slurm("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    time.sleep(2)
    # Refused where the node has come back by itself.
    subprocess.run(["scontrol", "update", "NodeName=node2", "State=RESUME"], capture_output=True)


def short_grace(job: Job) -> None:
    """SIGKILL comes long before a checkpoint could be written."""
    _slurm("scancel", "--signal=TERM", f"{job.number}.0")
    _slurm("scancel", "--signal=KILL", f"{job.number}.0")


def kill_process(job: Job) -> None:
    """As the kernel does it when memory runs out."""
    _kill(job, lambda process: "torch.distributed.run" not in process.cmdline())


def kill_node(job: Job) -> None:
    """The process with the agent of torchrun, which may serve the store by which processes find each other."""
    _kill(job, lambda process: True)


def _kill(job: Job, chosen: Callable[[psutil.Process], bool]) -> None:
    before = job.processes()
    victims = [process for process in job.processes("node2") if chosen(process)]
    assert victims and len(before) >= 4, before
    for process in victims:
        os.kill(process.pid, signal.SIGKILL)
    assert not psutil.wait_procs(before, timeout=LIMIT)[1]


@pytest.mark.parametrize(
    ("cut", "said"),
    [(cancel, "stopped by SIGTERM after step"), (cancel_step, ""), (requeue, ""), (lose_node, ""), (short_grace, ""),
     (kill_process, "has lost another"), (kill_node, "has lost another")],
)  # fmt: skip
def test_a_run_that_is_cut_off_ends_bit_for_bit(
    cut: Callable[[Job], None], said: str, images: Path, whole: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, "pretrain", pretraining(images), retries=2)
    job.until(4)
    cut(job)
    text = job.wait()
    assert job.process.returncode == 0 and "continuing after step" in text and said in text, text
    assert text.count("error: process") == text.count("has lost another") == bool(said.startswith("has")), text
    assert_same_run(job.folder, whole)
    assert not list(job.folder.glob(".*.partial"))

"""The monitor tells a collapsed run from a healthy one, on made-up outputs and on real training."""

import json
import re
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from pretrain.config import METHODS
from pretrain.monitor import OutputMonitor
from pretrain.monitor_config import MonitorConfig
from pretrain.output_measures import measure_health
from tests.pretrain.processes import lines, newest, run, small


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d"), [(256, 32), (64, 512)])
def test_the_numbers_of_an_isotropic_output(n: int, d: int) -> None:
    health = measure_health(gaussian(n, d))
    assert health.std == pytest.approx(d**-0.5, rel=0.05) and health.std_healthy == d**-0.5
    assert health.m_o == pytest.approx(n**-0.5, rel=0.3)
    assert health.m_r == pytest.approx(1, abs=0.02)
    assert health.covariance == pytest.approx(1 / n, rel=0.3), "decorrelated, but for the sampling of n images"
    assert 0.85 * min(n - 1, d) < health.effective_rank <= min(n, d)
    assert health.spread == pytest.approx(1, abs=0.05)


def test_the_numbers_against_plain_numpy() -> None:
    raw = gaussian(40, 12) @ gaussian(12, 12, 1) + 0.7
    z = raw.double().numpy()
    z = z / numpy.linalg.norm(z, axis=1, keepdims=True)
    mean = z.mean(0)
    covariance = numpy.cov(z.T)
    off = covariance[~numpy.eye(12, dtype=bool)]
    singular = numpy.linalg.svd(z - mean, compute_uv=False)
    share = singular / singular.sum()
    cosines = numpy.sort([z[i] @ z[j] for i in range(40) for j in range(40) if i != j])
    health = measure_health(raw)
    assert health.std == pytest.approx(z.std(0, ddof=1).mean(), rel=1e-6)
    assert health.m_o == pytest.approx(numpy.linalg.norm(mean), rel=1e-6)
    assert health.m_r == pytest.approx(numpy.linalg.norm(z - mean, axis=1).mean(), rel=1e-6)
    assert health.covariance == pytest.approx((off**2).mean() * 12**2, rel=1e-6)
    assert health.effective_rank == pytest.approx(numpy.exp(-(share * numpy.log(share)).sum()), rel=1e-6)
    assert health.spread == pytest.approx((1 - cosines[len(cosines) // 2 - 1]) ** 0.5, rel=1e-6)


def outlier(n: int, seed: int) -> Tensor:
    """All images alike but one, as a batch norm without scale and offset leaves them."""
    line = torch.ones(n, 1)
    line[0] = 1 - n
    return line * gaussian(1, 64) + 1e-2 * gaussian(n, 64, seed)


HEALTHY = gaussian(64, 128)


@pytest.mark.parametrize(
    ("z", "collapsed"),
    [
        (HEALTHY, False),
        (HEALTHY + 0.3, False),
        (gaussian(64, 4) @ gaussian(4, 128), False),
        (torch.ones(64, 128), True),
        (gaussian(1, 128) + 1e-3 * HEALTHY, True),
        (gaussian(64, 1) * gaussian(1, 128), True),
        (outlier(16, 0), True),
        (outlier(64, 0), True),
    ],
)
def test_collapsed_or_not(z: Tensor, collapsed: bool) -> None:
    monitor = OutputMonitor(MonitorConfig(patience=3))
    monitor.update(5, measure_health(HEALTHY))
    assert monitor.verdict == "healthy"
    for step in (10, 20, 30, 40):
        monitor.update(step, measure_health(z))
        assert monitor.verdict == ("collapsed at step 10" if collapsed and step >= 30 else "healthy")


def test_outputs_that_start_close_together_and_part_are_healthy() -> None:
    monitor = OutputMonitor(MonitorConfig(patience=3))
    for step, part in enumerate((0.1, 0.11, 0.12, 0.15, 0.3, 0.6, 1.0)):
        monitor.update(step, measure_health(gaussian(1, 128, 5) + part * HEALTHY))
        assert monitor.verdict == "healthy"


def test_one_good_look_ends_a_streak_and_a_resume_keeps_it() -> None:
    good, bad = measure_health(HEALTHY), measure_health(torch.ones(64, 128))
    monitor = OutputMonitor(MonitorConfig(patience=3))
    assert monitor.verdict == "not watched"
    for step, health in enumerate([bad, bad, good, bad, bad]):
        monitor.update(step, health)
        assert monitor.verdict == "healthy"
    again = OutputMonitor(MonitorConfig(patience=3))
    again.load_state_dict(monitor.state_dict())
    assert again.verdict == "healthy"
    for step, health in ((5, bad), (6, good), (7, good)):
        again.update(step, health)
        assert again.verdict == "collapsed at step 3"
    again.update(8, good)
    assert again.verdict == "healthy"


# Fast enough to collapse within a test: no stop-gradient collapses at any of these sizes, only later.
QUICK = ("batch_size=32", "optimizer.lr=1", "monitor.every=5", "log_every=5", "data.cache=true",
         "checkpoint.every_steps=0", "checkpoint.every_epochs=1000")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_without_stop_gradient_simsiam_collapses_and_with_it_not(
    stop_gradient: bool, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    more = (*QUICK, "epochs=80", f"method.stop_gradient={stop_gradient}", "on_collapse=stop", "monitor.knn_every=100")
    arguments = small("simsiam", images, folder, *more)
    status, text = run("pretrain", arguments, folder)
    assert status == 0, text
    record = json.loads((folder / "result.json").read_text())
    if stop_gradient:
        assert record["verdict"] == "healthy" and record["details"]["steps"] == 160
        return
    # Which of the two is constant first, the output or its prediction, is chance.
    said = re.fullmatch(r"(collapsed at step (\d+)(?: in the prediction)?), stopped there", record["verdict"])
    assert said is not None, record["verdict"]
    first = int(said[2])
    assert first < 140
    # Three bad looks in a row, the last of which ends the run, with a checkpoint and a last look at the neighbours.
    steps = record["details"]["steps"]
    assert steps == first + 10 == newest(folder)["resume"]["step"] < 160
    assert record["subject"]["epochs"] == steps // 2
    assert f"WARNING: {said[1]}: std" in text and "'When a run collapses'" in text
    assert [line["step"] for line in lines(folder) if "knn_top1" in line] == [0, steps - 1]
    # Killed between the checkpoint and the record, it does not train on.
    (folder / "result.json").unlink()
    assert run("pretrain", arguments, folder)[0] == 0
    again = json.loads((folder / "result.json").read_text())
    assert (again["verdict"], again["details"]["steps"]) == (record["verdict"], steps)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_starts_healthy(method: str, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, text = run("pretrain", small(method, images, folder, "monitor.knn_every=0"), folder)
    assert status == 0, text
    record = json.loads((folder / "result.json").read_text())
    assert record["verdict"] == "healthy", [line.get("spread") for line in lines(folder)]
    assert "knn_top1" not in record["metrics"], "no neighbours were asked for"

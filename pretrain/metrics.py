"""The numbers of a run in training: measured, monitored for collapse, logged. None of this changes a weight."""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from pretrain.collectives import all_gather, all_reduce, mean_over_processes
from pretrain.config import PretrainConfig
from pretrain.method.base import Method, TrainingPlan
from pretrain.monitor import CollapseMonitor
from pretrain.online_evaluation import OnlineEvaluation
from pretrain.output_measures import TEMPERATURE, find_predictor_bias, measure_health, measure_outputs
from runs.errors import UserError
from runs.metrics_log import METRICS_LOG, MetricsLog
from runs.typed import build

T = TypeVar("T")
# Singular values that are logged: the largest ones tell a collapse, and a line of the log stays short.
LOGGED = 32


class Metrics:
    """The numbers of one run; every process has them, the first one writes them.

    Attributes:
        last: the `loss` of the last step that was logged.
        details: its last further numbers (`monitor.measures_every`).
        accuracies: the last ones in percent: `knn_top1`, `knn_top1_start` before the first step, `online_top1`.
        evaluated: the step that each belongs to.
    """

    # What a checkpoint keeps, besides the monitor.
    STATE: ClassVar[dict[str, Any]] = dict.fromkeys(("last", "details", "accuracies"), dict[str, float]) | {
        "evaluated": dict[str, int]
    }

    def __init__(
        self, config: PretrainConfig, plan: TrainingPlan, method: Method, online: OnlineEvaluation | None
    ) -> None:
        self.config, self.plan, self.method, self.online = config, plan, method, online
        self.monitor = CollapseMonitor(
            warmup_steps=method.monitor_warmup, constant_loss=method.constant_loss,
            steps_per_epoch=plan.steps_per_epoch, **asdict(config.monitor),
        )  # fmt: skip
        self.last, self.details = dict[str, float](), dict[str, float]()
        self.accuracies, self.evaluated = dict[str, float](), dict[str, int]()
        self.losses: list[Tensor] = []
        self.log: MetricsLog | None = None
        self.restart_clock(0)

    def open_log(self, step: int) -> None:
        """Open the log after `step`; for the first process only."""
        config, output = self.config, Path(self.config.output)
        events = output / "tensorboard" if config.tensorboard else None
        self.log = MetricsLog(output / METRICS_LOG, step, events, asdict(config) if config.wandb else None)

    def restart_clock(self, step: int) -> None:
        """Measure time from here on; what lies between, evaluating and saving, does not count."""
        self.waited, self.mark, self.mark_step = 0.0, time.time(), step

    def time_waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; the time that each one is waited for is added up."""
        before = time.time()
        for batch in batches:
            self.waited += time.time() - before
            yield batch
            before = time.time()

    def update(self, step: int, output: dict[str, Tensor], lr: float) -> bool:
        """Take a step into account that has been done: `step` counts it, `output` is what the method returned.

        Returns:
            Whether the verdict became "collapsed" with it.

        Raises:
            UserError: a loss is not finite.
        """
        self.losses.append(output["loss"].detach())
        last = step == self.plan.steps
        outputs = {k: v.detach() for k, v in output.items() if k in ("z", "z2", "p")}
        collapsed = False
        if step % self.config.monitor.every == 0 and outputs:
            self.check_finite(step)
            # All processes see all outputs and come to one verdict.
            z, p = (measure_health(all_gather(outputs[k])) if k in outputs else None for k in ("z", "p"))
            assert z is not None
            collapsed = self.monitor.detect_collapse(step, z, p)
            stuck = self.monitor.detect_stuck_loss(mean_over_processes(output["loss"]))
            if self.log and (collapsed or stuck):
                self._warn(collapsed)
        every = self.config.monitor.measures_every
        if every and (step % every == 0 or last) and outputs:
            self.check_finite(step)
            bias = find_predictor_bias(self.method, outputs["z"].shape[1])
            gathered = {k: all_gather(v) for k, v in outputs.items()}
            self.details, singular, _ = measure_outputs(**gathered, bias=bias, temperatures=[TEMPERATURE])
            self._write(step, **self.details, spectrum=[float(f"{s:.4g}") for s in singular[:LOGGED].tolist()])
        if step % self.config.log_every == 0 or last:
            self.check_finite(step)
            # This step's own numbers: a mean since the last line would depend on where a run resumed.
            scalars = {k: mean_over_processes(v) for k, v in output.items() if v.ndim == 0}
            # A method's other numbers may be NaN, which a resume refuses.
            self.last = {"loss": scalars["loss"]}
            elapsed = time.time() - self.mark
            rate = (step - self.mark_step) * self.config.batch_size / elapsed
            times = {"images_per_second": rate, "data_wait": self.waited / elapsed}
            self._write(step, lr=lr, **scalars, **self._last_health(), **times)
            self.restart_clock(step)
        return collapsed

    def _warn(self, collapsed: bool) -> None:
        """Print the verdict, and the numbers that it comes from."""
        where, numbers = "What is monitored", ""
        if collapsed:
            alone = self.monitor.of_z.collapsed_at is None
            bad = self.monitor.prediction if alone else self.monitor.health
            assert bad is not None
            where = "When a run collapses"
            numbers = f": std {bad.std:.2g} of {bad.std_healthy:.2g}, spread {bad.spread:.2g} of 1"
            numbers += f", effective rank {bad.effective_rank:.1f}"
        print(f"\nWARNING: {self.monitor.verdict}{numbers}; see docs/pretrain.md, '{where}'", file=sys.stderr)

    def _last_health(self) -> dict[str, float]:
        """The last numbers of the output."""
        return asdict(self.monitor.health) if self.monitor.health else {}

    def last_values(self) -> dict[str, float]:
        """The metrics of the run's record."""
        return self.last | self._last_health() | self.details | self.accuracies

    def progress_bar_values(self) -> dict[str, float]:
        """The numbers beside the progress bar."""
        found = {"loss": self.last.get("loss"), "kNN": self.accuracies.get("knn_top1")}
        return {name: value for name, value in found.items() if value is not None}

    def check_finite(self, step: int) -> None:
        """Check the losses since the last check. Not at every step: it makes the processor wait for the device.

        Raises:
            UserError: one is not finite, in whichever process.
        """
        if not self.losses:
            return
        # Together, so that all processes end and none waits for another.
        values = all_reduce(torch.stack(self.losses).float())  # steps since the last check
        bad = (~values.isfinite()).nonzero()
        first = step - len(self.losses)
        self.losses = []
        if len(bad):
            raise UserError(
                f"{self.config.output}: the loss is not finite at step {first + int(bad[0])}; lower optimizer.lr, add "
                "optimizer.warmup_epochs or use precision=fp32, and look at the last lines of metrics.jsonl"
            )

    def evaluate(self, step: int, ends: bool) -> None:
        """Classify the validation images where it is due and has not been done: every few epochs, at the end.

        By kNN also before the first epoch. `ends` says that the run ends here, before its last step.
        """
        if self.online is None or self.log is None:
            return
        ends = ends or step == self.plan.steps
        epochs, inside = divmod(step, self.plan.steps_per_epoch)
        probe_every = self.config.probe.every if self.online.probe else 0
        for name, every, first in (("online_top1", probe_every, 1), ("knn_top1", self.config.monitor.knn_every, 0)):
            due = ends or (not inside and epochs >= first and epochs % max(every, 1) == 0)
            if not every or not due or self.evaluated.get(name) == step:
                continue
            top1 = getattr(self.online, name)()
            self.accuracies[name], self.evaluated[name] = top1, step
            if step == 0:
                self.accuracies[f"{name}_start"] = top1
            # Filed under the last step that it has seen, so that a resume keeps it exactly when it keeps that step.
            self._write(max(step, 1), **{"epoch": step / self.plan.steps_per_epoch, name: top1})
            self.restart_clock(step)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {name: getattr(self, name) for name in self.STATE} | {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        for name, kind in self.STATE.items():
            setattr(self, name, build(kind, state[name], name))
        self.monitor.load_state_dict(state["monitor"])

    def _write(self, step: int, **values: Any) -> None:
        if self.log:
            self.log.write(step - 1, **{"epoch": step / self.plan.steps_per_epoch} | values)

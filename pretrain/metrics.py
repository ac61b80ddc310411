"""The numbers of a run in training: measured, monitored for collapse, logged. None of this changes a weight."""

import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.augment import evaluation_view
from pretrain.collapse import measures
from pretrain.collectives import all_gather, all_reduce, mean
from pretrain.config import PretrainConfig
from pretrain.data import Images
from pretrain.method.base import Method, Plan
from pretrain.monitor import Health, RunMonitor, measure
from pretrain.online import OnlineKnn, OnlineProbe
from runs.distributed import worker_count
from runs.errors import UserError
from runs.log import MetricsLog


class Metrics:
    """The numbers of one run; every process has them, the first one writes them.

    Args:
        config: the run's settings.
        plan: its lengths.
        method: what is trained.
        probe: the classifier that learns beside it, where there is one.

    Attributes:
        last: the numbers of the last step that was logged.
        health: the last numbers of the output.
        details: its last further numbers (`monitor.measures_every`).
        knn: the last kNN accuracy in percent, `knn_start` that before the first step, `knn_step` when it was taken.
    """

    # What a checkpoint keeps, besides the monitor and `health`.
    STATE = ("last", "details", "knn", "knn_start", "knn_step")

    def __init__(self, config: PretrainConfig, plan: Plan, method: Method, probe: OnlineProbe | None = None) -> None:
        self.config, self.plan, self.method, self.probe = config, plan, method, probe
        self.monitor = RunMonitor(config.monitor, method.monitor_warmup, method.constant_loss, plan.steps_per_epoch)
        self.health: Health | None = None
        self.last, self.details = {"loss": float("nan")}, dict[str, float]()
        self.knn: float | None = None
        self.knn_start: float | None = None
        self.knn_step = -1
        self.losses: list[Tensor] = []
        self.log: MetricsLog | None = None
        self.online_knn: OnlineKnn | None = None
        self.val: Images | None = None
        self.restart_clock(0)

    def open(self, step: int, train: Images, val: Images | None, device: torch.device) -> None:
        """Open the log behind `step` and draw the images of the kNN evaluation; for the first process only."""
        config, output = self.config, Path(self.config.output)
        events, wandb = (
            (output / "tensorboard" if config.tensorboard else None),
            asdict(config) if config.wandb else None,
        )
        self.log = MetricsLog(output / "metrics.jsonl", step, events, wandb)
        self.val = val
        if val and self.config.monitor.knn_every:
            self.online_knn = OnlineKnn(train, val, self.config, device)

    def close(self) -> None:
        """Close the log."""
        if self.log:
            self.log.close()

    def restart_clock(self, step: int) -> None:
        """Measure time from here on; what lies between two epochs does not count."""
        self.waited, self.mark, self.mark_step = 0.0, time.time(), step

    def update(self, step: int, output: dict[str, Tensor], lr: float) -> bool:
        """Take a step into account that has been done.

        Args:
            step: steps done with it.
            output: what the method returned.
            lr: its learning rate.

        Returns:
            Whether the verdict became "collapsed" with it.

        Raises:
            UserError: a loss is not finite.
        """
        self.losses.append(output["loss"].detach())
        collapsed = False
        if step % self.config.monitor.every == 0 and "z" in output:
            collapsed = self._monitor(step, output["z"], output.get("p"))
            if self.monitor.update_loss(mean(output["loss"])) and self.log:
                print(f"\nWARNING: {self.monitor.verdict}; see docs/pretrain.md, 'What is watched'", file=sys.stderr)
        every, last = self.config.monitor.measures_every, step == self.plan.steps
        if every and (step % every == 0 or last) and "z" in output:
            self._examine(step, output)
        if step % self.config.log_every == 0 or last:
            self.check_finite(step)
            # This step's own numbers: a mean since the last line would depend on where a run resumed.
            self.last = {k: mean(v) for k, v in output.items() if v.ndim == 0}
            elapsed = time.time() - self.mark
            rate = (step - self.mark_step) * self.config.batch_size / elapsed
            health = asdict(self.health) if self.health else {}
            times = {"images_per_second": rate, "data_wait": self.waited / elapsed}
            self._write(step, lr=lr, **self.last, **health, **times)
            self.restart_clock(step)
        return collapsed

    def summary(self) -> dict[str, float]:
        """The metrics of the run's record."""
        accuracies = {
            "knn_top1": self.knn,
            "knn_top1_start": self.knn_start,
            "online_top1": self.probe.top1 if self.probe else None,
        }
        health = asdict(self.health) if self.health else {}
        known = {name: value for name, value in accuracies.items() if value is not None}
        return {"loss": self.last["loss"]} | health | self.details | known

    def shown(self) -> dict[str, float]:
        """The numbers beside the progress bar."""
        loss = {} if math.isnan(self.last["loss"]) else {"loss": self.last["loss"]}
        return loss | ({"kNN": self.knn} if self.knn is not None else {})

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

        By kNN also before the first epoch.

        Args:
            step: steps done.
            ends: whether the run ends here, before its last step.
        """
        ends = ends or step == self.plan.steps
        epochs, inside = divmod(step, self.plan.steps_per_epoch)
        self._evaluate_probe(step, ends or (step > 0 and not inside and epochs % self.config.probe.every == 0))
        due = not inside and epochs % max(self.config.monitor.knn_every, 1) == 0
        if self.online_knn is None or self.knn_step == step or not (due or ends):
            return
        self.knn, self.knn_step = self.online_knn.evaluate(self.method.backbone()), step
        if step == 0:
            self.knn_start = self.knn
        # Filed under the last step that it has seen, so that a resume keeps it exactly when it keeps that step.
        self._write(max(step, 1), epoch=step / self.plan.steps_per_epoch, knn_top1=self.knn)

    def _evaluate_probe(self, step: int, due: bool) -> None:
        if self.probe is None or self.val is None or self.log is None or not due or self.probe.step == step:
            return
        view, data = evaluation_view(self.config.augment), self.config.data
        found = self.probe.evaluate(step, self.val, view, worker_count(data.workers, processes=1), data.skip_broken)
        self._write(step, epoch=step / self.plan.steps_per_epoch, online_top1=found)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: getattr(self, name) for name in self.STATE}
        return kept | {"monitor": self.monitor.state_dict(), "health": asdict(self.health) if self.health else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in self.STATE:
            setattr(self, name, state[name])
        self.monitor.load_state_dict(state["monitor"])
        self.health = Health(**state["health"]) if state["health"] else None

    def _monitor(self, step: int, z: Tensor, p: Tensor | None) -> bool:
        self.check_finite(step)
        # All processes see all outputs and come to one verdict.
        self.health = measure(all_gather(z.detach()))
        prediction = measure(all_gather(p.detach())) if p is not None else None
        if not self.monitor.update(step, self.health, prediction):
            return False
        bad = self.health if prediction is None or self.monitor.output.collapsed_at is not None else prediction
        if self.log:
            print(
                f"\nWARNING: {self.monitor.verdict}: std {bad.std:.2g} of {bad.std_healthy:.2g}, "
                f"spread {bad.spread:.2g} of 1, "
                f"effective rank {bad.effective_rank:.1f}; see docs/pretrain.md, 'When a run collapses'",
                file=sys.stderr,
            )
        return True

    def _examine(self, step: int, output: dict[str, Tensor]) -> None:
        self.check_finite(step)
        # All processes' rows.
        z = all_gather(output["z"].detach())  # n-by-d
        z2, p = (all_gather(output[k].detach()) if k in output else None for k in ("z2", "p"))  # n-by-d
        found = measures.report(z, z2, p, measures.last_bias(getattr(self.method, "predictor", None), z.shape[1]))
        self.details = {k: v for k, v in found.items() if isinstance(v, float)}
        self._write(step, **found)

    def _write(self, step: int, **values: Any) -> None:
        if self.log:
            self.log.write(step - 1, **{"epoch": step / self.plan.steps_per_epoch} | values)

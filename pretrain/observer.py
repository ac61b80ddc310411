"""What is looked at while a run trains, and where it is written: losses, outputs, neighbours. It changes no weight."""

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
from pretrain.logging import Logs
from pretrain.method import Method, Plan
from pretrain.monitor import Health, Watch, look
from pretrain.neighbours import Neighbours
from pretrain.probe import OnlineProbe
from runs.distributed import worker_count
from runs.errors import UserError


class Observer:
    """Everything that a run says about itself; every process has one, the first one writes.

    Args:
        config: the run's settings.
        plan: its lengths.
        method: what is trained.
        online: the classifier that learns beside it, where there is one.

    Attributes:
        last: the numbers of the last step that was logged.
        health: the last look at the output.
        details: the last look through the microscope.
        knn: the last kNN accuracy in percent, `knn_start` that before the first step, `knn_step` when it was taken.
    """

    # What a checkpoint keeps, besides the monitor and `health`.
    STATE = ("last", "details", "knn", "knn_start", "knn_step")

    def __init__(self, config: PretrainConfig, plan: Plan, method: Method, online: OnlineProbe | None = None) -> None:
        self.config, self.plan, self.method, self.online = config, plan, method, online
        self.monitor = Watch(config.monitor, method.settles, method.constant_loss, plan.steps_per_epoch)
        self.health: Health | None = None
        self.last, self.details = {"loss": float("nan")}, dict[str, float]()
        self.knn: float | None = None
        self.knn_start: float | None = None
        self.knn_step = -1
        self.losses: list[Tensor] = []
        self.logs: Logs | None = None
        self.neighbours: Neighbours | None = None
        self.begin(0)

    def open(self, step: int, train: Images, val: Images, device: torch.device) -> None:
        """Open the log behind `step` and draw the images of the kNN evaluation; for the first process only."""
        self.logs = Logs(Path(self.config.output), step, self.config)
        self.val = val
        if self.config.monitor.knn_every:
            self.neighbours = Neighbours(train, val, self.config, device)

    def close(self) -> None:
        """Close the log."""
        if self.logs:
            self.logs.close()

    def begin(self, step: int) -> None:
        """Start the clock of the numbers that depend on time; what lies between two epochs does not count."""
        self.waited, self.mark, self.mark_step = 0.0, time.time(), step

    def see(self, step: int, output: dict[str, Tensor], lr: float, waited: float) -> bool:
        """Look at a step that has been done.

        Args:
            step: steps done with it.
            output: what the method returned.
            lr: its learning rate.
            waited: seconds that it waited for its images.

        Returns:
            Whether the verdict became "collapsed" with it.

        Raises:
            UserError: a loss is not finite.
        """
        self.losses.append(output["loss"].detach())
        self.waited += waited
        collapsed = False
        if step % self.config.monitor.every == 0 and "z" in output:
            collapsed = self._look(step, output["z"], output.get("p"))
            if self.monitor.see_loss(mean(output["loss"])) and self.logs:
                print(f"\nWARNING: {self.monitor.verdict}; see docs/pretrain.md, 'What is watched'", file=sys.stderr)
        every, last = self.config.monitor.microscope_every, step == self.plan.steps
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
            self.begin(step)
        return collapsed

    def shown(self) -> dict[str, float]:
        """The numbers beside the progress bar."""
        return {"loss": self.last["loss"]} | ({"kNN": self.knn} if self.knn is not None else {})

    def check_finite(self, step: int) -> None:
        """Check the losses since the last look. Not at every step: looking makes the processor wait for the device.

        Raises:
            UserError: one is not finite, in whichever process.
        """
        if not self.losses:
            return
        # Together, so that all processes end and none waits for another.
        values = all_reduce(torch.stack(self.losses).float())  # steps since the last look
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

        By neighbours also before the first epoch.

        Args:
            step: steps done.
            ends: whether the run ends here.
        """
        epochs, inside = divmod(step, self.plan.steps_per_epoch)
        self._evaluate_online(step, ends or (step > 0 and not inside and epochs % self.config.probe.every == 0))
        due = not inside and epochs % max(self.config.monitor.knn_every, 1) == 0
        if self.neighbours is None or self.knn_step == step or not (due or ends):
            return
        self.knn, self.knn_step = self.neighbours.accuracy(self.method.backbone()), step
        if step == 0:
            self.knn_start = self.knn
        # Filed under the last step that it has seen, so that a resume keeps it exactly when it keeps that step.
        self._write(max(step, 1), epoch=step / self.plan.steps_per_epoch, knn_top1=self.knn)

    def _evaluate_online(self, step: int, due: bool) -> None:
        if self.online is None or self.logs is None or not due or self.online.step == step:
            return
        view, data = evaluation_view(self.config.augment), self.config.data
        found = self.online.evaluate(step, self.val, view, worker_count(data.workers, processes=1), data.skip_broken)
        self._write(step, epoch=step / self.plan.steps_per_epoch, online_top1=found)

    def state(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: getattr(self, name) for name in self.STATE}
        return kept | {"monitor": self.monitor.state(), "health": asdict(self.health) if self.health else None}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; entries of others are passed over."""
        for name in self.STATE:
            setattr(self, name, state[name])
        self.monitor.load_state(state["monitor"])
        self.health = Health(**state["health"]) if state["health"] else None

    def _look(self, step: int, z: Tensor, p: Tensor | None) -> bool:
        self.check_finite(step)
        # All processes see all outputs and come to one verdict.
        self.health = look(all_gather(z.detach()))
        prediction = look(all_gather(p.detach())) if p is not None else None
        if not self.monitor.see(step, self.health, prediction):
            return False
        bad = self.health if prediction is None or self.monitor.output.collapsed_at is not None else prediction
        if self.logs:
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
        if self.logs:
            self.logs.write(step - 1, **{"epoch": step / self.plan.steps_per_epoch} | values)

"""Is the network learning or collapsing? A verdict in words from the numbers of its outputs."""

from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor

from pretrain.monitor_config import MonitorConfig
from pretrain.output_measures import Health, measure_health
from runs.settings import check_values
from runs.typed import build

# A loss within this fraction of a constant output's, for so many epochs and updates, is stuck there.
FLAT, FLAT_EPOCHS, FLAT_UPDATES = 0.01, 2, 10


class OutputMonitor:
    """Turns the numbers of one output into a verdict; before `warmup_steps` none is bad."""

    STATE: ClassVar[dict[str, Any]] = {
        "bad": bool, "streak": int, "bad_since": int, "collapsed_at": int | None, "updates": int, "best": list[float],
    }  # fmt: skip

    def __init__(self, config: MonitorConfig, warmup_steps: int = 0) -> None:
        self.config, self.warmup_steps = config, warmup_steps
        self.bad, self.streak, self.bad_since = False, 0, 0
        self.collapsed_at: int | None = None
        self.updates = 0
        self.best = [0.0, 0.0]

    def update(self, step: int, health: Health) -> None:
        """Take the numbers of a step into account."""
        self.updates += 1
        # Heads without a batch norm start with outputs close together, which is no collapse: their own best counts.
        now = [min(health.std / health.std_healthy, 1.0), health.spread]
        self.best = [max(pair) for pair in zip(self.best, now, strict=True)]
        limits = [max(self.config.threshold * best, self.config.floor) for best in self.best]
        fallen = any(value < limit for value, limit in zip(now, limits, strict=True))
        bad = (fallen or health.effective_rank < self.config.min_rank) and step > self.warmup_steps
        self.streak = self.streak + 1 if bad == self.bad else 1
        if bad and not self.bad:
            self.bad_since = step
        self.bad = bad
        if self.streak >= self.config.patience:
            if not bad:
                # A network that has left the collapsed state for good is healthy: the present counts.
                self.collapsed_at = None
            elif self.collapsed_at is None:
                self.collapsed_at = self.bad_since

    @property
    def verdict(self) -> str:
        """A sentence: `healthy`, `collapsed at step 412`, or why there is none."""
        if self.collapsed_at is not None:
            return f"collapsed at step {self.collapsed_at}"
        return "healthy" if self.updates else "not watched"

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        for name, kind in self.STATE.items():
            setattr(self, name, build(kind, state[name], name))


class CollapseMonitor:
    """Watches the outputs of a training for collapse, this project's or anybody's own.

        monitor = CollapseMonitor(every=50)
        for x1, x2 in loader:
            ...
            if monitor.update(z) != "healthy": print(monitor.verdict, monitor.health)

    It watches the encoder's output and, where there is a predictor, the predictor's: one on both
    sides belongs to the encoder (Zhang et al., ICLR 2022, section 2.3), and the prediction may be constant while z,
    which then gets no gradient, keeps the spread of its start. It changes no weight and no random number.

    Args:
        every: steps between two measurements; the others cost nothing.
        warmup_steps: steps before which no numbers are bad.
        constant_loss: the loss of a constant output, where that is a trap; None elsewhere.
        steps_per_epoch: of the run.
        settings: others of `MonitorConfig`, of which `patience`, `threshold`, `floor` and `min_rank` count here.

    Attributes:
        health: the last numbers of z, None before the first; `prediction` those of p.
        steps: updates so far.
    """

    def __init__(
        self, every: int = 50, warmup_steps: int = 0, constant_loss: float | None = None, steps_per_epoch: int = 1,
        **settings: Any,
    ) -> None:  # fmt: skip
        config = MonitorConfig(every=every, **settings)
        check_values(config)
        self.of_z, self.of_p = OutputMonitor(config, warmup_steps), OutputMonitor(config, warmup_steps)
        self.every, self.steps = every, 0
        self.health: Health | None = None
        self.prediction: Health | None = None
        self.constant_loss = constant_loss
        self.stays = max(FLAT_UPDATES, -(-FLAT_EPOCHS * steps_per_epoch // every))
        self.flat = 0

    def update(self, z: Tensor, p: Tensor | None = None) -> str:
        """Take a step's outputs into account, those of the own process, and return the verdict so far.

        Args:
            z: (n, d) of any floating dtype and device, what the projector puts out for n different images; n from 2 on.
            p: (n, d), what the predictor makes of it, where there is one.

        Returns:
            `not watched` before the first measurement, `healthy`, `collapsed at step 412`, or `collapsed at step 412 in
            the prediction`; a network that recovers is healthy again.

        Raises:
            ValueError: another shape.
        """
        for outputs in (z,) if p is None else (z, p):
            if outputs.ndim != 2 or len(outputs) < 2:
                raise ValueError(f"outputs must be (n, d) with n at least 2, not {tuple(outputs.shape)}")
        self.steps += 1
        if self.steps % self.every == 0:
            self.detect_collapse(self.steps, measure_health(z), None if p is None else measure_health(p))
        return self.verdict

    def detect_collapse(self, step: int, z_health: Health, p_health: Health | None) -> bool:
        """Take the numbers of a step into account; returns whether the verdict became "collapsed" with it."""
        self.health, self.prediction = z_health, p_health
        before = self.collapsed
        self.of_z.update(step, z_health)
        if p_health is not None:
            self.of_p.update(step, p_health)
        return self.collapsed and not before

    def detect_stuck_loss(self, loss: float) -> bool:
        """Take a loss into account; returns, once, that it has been a constant output's for so long as to be stuck."""
        level = self.constant_loss
        self.flat = self.flat + 1 if level is not None and abs(loss - level) <= FLAT * level else 0
        return self.flat == self.stays

    @property
    def collapsed_at(self) -> int | None:
        """The step at which the output collapsed, else the prediction; None if neither did."""
        return self.of_p.collapsed_at if self.of_z.collapsed_at is None else self.of_z.collapsed_at

    @property
    def collapsed(self) -> bool:
        """Whether the verdict is a collapse."""
        return self.collapsed_at is not None

    @property
    def verdict(self) -> str:
        """See `update`; or `does not learn: …` where losses are given."""
        if self.of_z.collapsed_at is None and self.of_p.collapsed_at is not None:
            return f"{self.of_p.verdict} in the prediction"
        if not self.collapsed and self.flat >= self.stays:
            return f"does not learn: the loss stays at {self.constant_loss:.2f}, that of a constant output"
        return self.of_z.verdict

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        health = asdict(self.health) if self.health else None
        parts = {"of_z": self.of_z.state_dict(), "of_p": self.of_p.state_dict()}
        return {**parts, "flat": self.flat, "steps": self.steps, "health": health}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.of_z.load_state_dict(state["of_z"])
        self.of_p.load_state_dict(state["of_p"])
        self.flat, self.steps = build(int, state["flat"], "flat"), build(int, state["steps"], "steps")
        self.health = build(Health, state["health"], "health") if state["health"] else None

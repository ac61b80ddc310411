"""The collapse monitor as a callback of Lightning, for modules of lightly, solo-learn or one's own."""

import importlib
import sys
from functools import partial
from typing import Any

from torch import Tensor, nn

from pretrain.monitor import CollapseMonitor
from runs.errors import UserError


def collapse_callback(
    output: str, prediction: str | None = None, every: int = 50, stop: bool = False, **settings: Any
) -> Any:
    """Make a callback that watches the outputs of parts of the module, logs `collapse/…`, and warns or stops.

        Trainer(callbacks=[collapse_callback("projection_head", "prediction_head")])

    Args:
        output: name of the part that puts out z, (n, d), e.g. solo-learn's `projector`; its last call in a step counts.
        prediction: name of the part that puts out p, where there is one.
        every: steps between two measurements.
        stop: whether a collapse ends the training.
        settings: as for `CollapseMonitor`.

    Returns:
        A `Callback` of `pytorch_lightning` where the program uses that name, else of `lightning.pytorch`; its `monitor`
        has the verdict. At `fit` it raises `UserError` for a part that the module lacks.
    """
    # The two names' callbacks do not fit each other's trainers.
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    base = importlib.import_module("pytorch_lightning" if old else "lightning.pytorch").Callback

    class CollapseCallback(base):  # type: ignore[misc, valid-type]
        # The name under which Lightning's checkpoints keep the monitor's state.
        __qualname__ = "CollapseCallback"

        def __init__(self) -> None:
            self.monitor = CollapseMonitor(every, **settings)
            self.outputs: dict[str, Tensor] = {}
            self.hooks: list[Any] = []

        def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
            parts = dict(pl_module.named_modules())
            for key, name in (("z", output), ("p", prediction)):
                if name is not None and name not in parts:
                    near = ", ".join(part for part in parts if part and "." not in part)
                    raise UserError(f"collapse_callback: the module has no part {name}; it has {near}")
                if name is not None:
                    self.hooks.append(parts[name].register_forward_hook(partial(self.keep, key)))

        def keep(self, key: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training:
                self.outputs[key] = output.detach()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if "z" not in self.outputs:
                return
            before = self.monitor.collapsed
            verdict = self.monitor.update(self.outputs["z"], self.outputs.get("p"))
            self.outputs.clear()
            if self.monitor.health and self.monitor.steps % self.monitor.every == 0:
                health = self.monitor.health
                pl_module.log_dict(
                    {
                        "collapse/std": health.std / health.std_healthy,
                        "collapse/spread": health.spread,
                        "collapse/effective_rank": health.effective_rank,
                        "collapse/collapsed": float(self.monitor.collapsed),
                    }
                )
            if self.monitor.collapsed and not before:
                print(f"WARNING: {verdict}", file=sys.stderr)
                trainer.should_stop = trainer.should_stop or stop

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            for hook in self.hooks:
                hook.remove()
            self.hooks.clear()

        def state_dict(self) -> dict[str, Any]:
            return self.monitor.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.monitor.load_state_dict(state_dict)

    return CollapseCallback()

"""The monitor as a hook for other people's loops: plain PyTorch, and Lightning where it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.monitor import CollapseMonitor


def even(step: int) -> Tensor:
    return torch.randn(64, 16, generator=torch.Generator().manual_seed(step))


def test_the_verdict_follows_the_outputs() -> None:
    monitor = CollapseMonitor(every=5, patience=2)
    assert [monitor.update(even(i)) for i in range(4)] == ["not watched"] * 4
    assert monitor.update(even(4)) == "healthy"
    constant = torch.ones(1, 16)
    verdicts = [monitor.update(constant + 1e-3 * even(i)) for i in range(10)]
    assert verdicts == ["healthy"] * 9 + ["collapsed at step 10"]
    assert monitor.collapsed and monitor.health is not None and monitor.health.spread < 0.01
    again = CollapseMonitor(every=5, patience=2)
    again.load_state_dict(monitor.state_dict())
    assert again.verdict == monitor.verdict
    assert [again.update(even(i)) for i in range(10)][-1] == "healthy"


def test_a_constant_prediction_is_named() -> None:
    monitor = CollapseMonitor(every=1, patience=2)
    for i in range(2):
        verdict = monitor.update(even(i), torch.ones(64, 16) + 1e-3 * even(i))
    assert verdict == "collapsed at step 1 in the prediction"


@pytest.mark.parametrize("shape", [(1, 16), (64,), (2, 3, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CollapseMonitor().update(torch.zeros(shape))


def test_it_changes_no_random_number_and_no_gradient() -> None:
    z = even(0).requires_grad_()
    state = torch.get_rng_state()
    CollapseMonitor(every=1).update(z.half() if z.is_cuda else z)
    assert torch.equal(state, torch.get_rng_state()) and z.grad is None


def python(root: Path, *words: str) -> str:
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_needs_no_hydra_and_little_more_than_pytorch(root: Path) -> None:
    code = """
import sys, time, torch
begin = time.process_time()
from pretrain.monitor import CollapseMonitor
print(time.process_time() - begin)
loaded = {"hydra", "omegaconf", "detectron2", "cv2", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
"""
    assert float(python(root, "-c", code)) < 1


@pytest.mark.slow
def test_the_example_tells_the_two_apart(root: Path) -> None:
    healthy, collapsed = python(root, "examples/monitor_collapse.py").splitlines()
    assert healthy.startswith("stop_gradient=True: healthy")
    assert collapsed.startswith("stop_gradient=False: collapsed at step ")


@pytest.mark.slow
@pytest.mark.parametrize(("script", "package"), [("monitor_lightly", "lightly"), ("monitor_solo_learn", "solo")])
def test_the_example_in_another_projects_loop_tells_the_two_apart(root: Path, script: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (the extra `integrations`; solo-learn's clone in PYTHONPATH)")
    # Lightning says more than the example.
    lines = python(root, f"examples/{script}.py").splitlines()
    healthy, collapsed = [line for line in lines if line.startswith("stop_gradient")]
    assert healthy.startswith("stop_gradient=True: healthy")
    assert collapsed.startswith("stop_gradient=False: collapsed at step ")


@pytest.mark.slow
@pytest.mark.parametrize("collapses", [False, True])
def test_lightning(collapses: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="the extra `integrations` is not installed")
    from pretrain.lightning_callback import collapse_callback
    from runs.errors import UserError

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(8, 16)
            self.projection_head = nn.Linear(16, 16)

        def training_step(self, batch: Any, index: int) -> Tensor:
            (x,) = batch
            if collapses:
                with torch.no_grad():
                    self.projection_head.weight.zero_()
            return self.projection_head(self.backbone(x)).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(640, 8)), batch_size=32)
    callback = collapse_callback("projection_head", every=2, stop=True)
    assert callback.state_key == "CollapseCallback", "checkpoints name it so"
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, **quiet
    )
    trainer.fit(Module(), data)
    # A measurement every second step, and three bad ones make a collapse.
    assert callback.monitor.verdict == ("collapsed at step 2" if collapses else "healthy")
    assert trainer.global_step == (6 if collapses else 20)
    assert ("WARNING: collapsed at step 2" in capsys.readouterr().err) == collapses
    assert trainer.callback_metrics["collapse/collapsed"] == float(collapses)
    with pytest.raises(UserError, match="has no part projector; it has backbone, projection_head"):
        lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[collapse_callback("projector")], **quiet).fit(
            Module(), data
        )

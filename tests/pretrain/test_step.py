"""Nothing inside a step waits for the device, and what is copied beside it is what the loader gave."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from PIL import Image

from hardware import build_steps as speed_step
from pretrain import augment
from pretrain.augment import batched_colour
from pretrain.augment.views import FastViews, Views
from pretrain.config import AugmentConfig, OptimizerConfig
from pretrain.data import Images
from pretrain.loader import DeviceLoader, StepSampler
from pretrain.method.base import Batch
from pretrain.optim import build_optimizer
from tests.pretrain import tiny

META = torch.device("meta")


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_step_asks_the_device_for_no_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values stand for a device that has not computed them yet: asking for one is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # this device has none
    method = tiny.build(tiny.CONFIGS[name]).to(META)
    # Fused kernels refuse tensors without values, on the processor's side.
    optimizer = build_optimizer(method.param_groups(), OptimizerConfig(fused=False), 0.1)
    views = [torch.empty(tiny.BATCH, 3, tiny.SIDE, tiny.SIDE, dtype=torch.float64, device=META)] * method.views
    labels = torch.zeros(tiny.BATCH, dtype=torch.long, device=META)
    for step in range(2):
        output = tiny.step(method, optimizer, Batch(views, labels, step))
    with pytest.raises(RuntimeError):
        output["loss"].item()


def test_the_timed_step_waits_for_nothing_and_the_official_one_for_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m experiments.speed.official_step --device cuda`, as far as a machine without a GPU can run it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    images = [torch.empty(4, 3, 32, 32, device=META) for _ in range(2)]
    step = speed_step.our_step("resnet18", images, "meta", "bf16", official=True)
    step()
    step()
    official = speed_step.official_step("resnet18", images, "meta", None)
    with pytest.raises(RuntimeError):
        official()


@pytest.mark.parametrize("fused", [False, True])
def test_where_pytorch_can_it_moves_all_weights_in_a_few_kernels(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU; by itself PyTorch goes weight by weight on a CPU.
    module = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(module, "_get_foreach_kernels_supported_devices", lambda: ["cpu"])
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = build_optimizer([{"params": parameters}], OptimizerConfig(fused=fused), 0.1)
    for p in parameters:
        p.grad = torch.ones(3)
    with torch.profiler.profile() as profile:
        optimizer.step()
    together = [event.key for event in profile.key_averages() if "_foreach_" in event.key or "_fused_" in event.key]
    assert any("_fused_" in key for key in together) == fused and together


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_timed_step_refuses_a_missing_gpu_in_one_line(root: Path) -> None:
    command = [sys.executable, "-m", "experiments.speed.official_step", "--device", "cuda"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: --device cuda: no CUDA device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["simsiam", "byol"])
def test_colouring_asks_the_device_for_no_value(name: str) -> None:
    settings = yaml.safe_load((Path(augment.__file__).parent / f"{name}.yaml").read_text())
    del settings["defaults"]
    recipe = AugmentConfig(**settings)
    # One image with everything, one with nothing.
    drawn = torch.tensor([[2.0, 0, 1, 3, 1.2, 0.7, 1.1, 0.05, 1, 1.5, 1, 1], [-1.0] * 4 + [0.0] * 8])
    crops = torch.empty(2, 3, 32, 32, dtype=torch.uint8, device=META)
    assert batched_colour.colour_and_normalize(crops, drawn, recipe).shape == (2, 3, 32, 32)


def loader(views: Views, device: str, channels_last: bool) -> DeviceLoader:
    return DeviceLoader(views, StepSampler(1, 1, 0), 0, torch.device(device), channels_last, set())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_copy_changes_the_layout_alone(channels_last: bool) -> None:
    views = Views(Images("", "train", [], [], [], lambda _: b""), (), 0, False)
    finish_on_device = loader(views, "cpu", channels_last).finish_on_device
    before = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    after, labels = finish_on_device(before, torch.arange(2))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(torch.equal(a, b) and b.is_contiguous(memory_format=layout) for a, b in zip(before, after, strict=True))
    assert labels.tolist() == [0, 1]


def test_views_are_the_same_under_mixed_precision() -> None:
    config = AugmentConfig(name="test", size=32, blur_p=1.0)
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=numpy.uint8))
    views = FastViews(
        Images("", "train", [""], [0], ["a"], lambda _: image), config.for_views(2), 0, False, batched=True
    )
    tensors = [tensor[None] for tensor in views[0, 0][0]]
    finish_on_device = loader(views, "cpu", False).finish_on_device
    plain, _ = finish_on_device(tensors, torch.zeros(1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = finish_on_device(tensors, torch.zeros(1))
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_copies_are_complete_when_they_are_used() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    views = Views(Images("", "train", [], [], [], lambda _: b""), (), 0, False)
    finish_on_device = loader(views, "cuda", True).finish_on_device
    for number in range(20):
        before = [torch.full((64, 3, 224, 224), float(number)).pin_memory()]
        (after,), _ = finish_on_device(before, torch.zeros(64, dtype=torch.long))
        assert (after == number).all()

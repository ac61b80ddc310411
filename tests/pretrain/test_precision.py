"""`precision=bf16` and `tf32`: what is computed shorter, what is not, and that every method learns all the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.method.base import Method, build_method
from runs.distributed import set_precision
from tests.pretrain import tiny
from tests.pretrain.processes import lines, newest, run, small

STEPS = 30
# The mean of the last five losses as a part of the first that counts, as in test_method_learning: MoCo's counts from
# when real keys have replaced the random ones of its queue. SimSiam's goes from 0 to -1.
FALLS = {"simclr": (0, 0.4), "moco": (4, 0.8), "byol": (0, 0.4), "swav": (0, 0.4), "supervised": (0, 0.4)}


def single(name: str) -> Method:
    torch.manual_seed(0)
    return build_method(tiny.CONFIGS[name], tiny.plan())


def first_step(method: Method, bf16: bool) -> tuple[Any, torch.Tensor, set[torch.dtype]]:
    """The output, the backbone's gradient as one vector, and what its convolutions return."""
    seen: set[torch.dtype] = set()
    hooks = [
        module.register_forward_hook(lambda m, i, y: seen.add(y.dtype))
        for module in method.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = method(tiny.batch(method, tiny.images().float(), 0))
    output["loss"].backward()
    for hook in hooks:
        hook.remove()
    gradients = [p.grad.flatten() for p in method.encoder.layer1.parameters() if p.grad is not None]
    return output, torch.cat(gradients), seen


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_bf16_shortens_the_convolutions_and_not_the_loss(name: str) -> None:
    whole, exact, dtypes = first_step(single(name), bf16=False)
    assert dtypes == {torch.float32}
    short, rounded, dtypes = first_step(single(name), bf16=True)
    assert dtypes == {torch.bfloat16}
    assert short["loss"].dtype == torch.float32
    # A loss in bf16 would have 3 digits and be off by up to 0.4 %, on top of what the features have lost.
    assert short["loss"].item() == pytest.approx(whole["loss"].item(), rel=0.02, abs=0.02)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.7
    assert rounded.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_every_method_learns_in_bf16(name: str) -> None:
    method = single(name)
    losses = tiny.train(method, tiny.images().float(), STEPS, bf16=True)
    assert all(torch.tensor(losses).isfinite())
    if name == "simsiam":
        assert losses[0] > -0.1 and losses[-1] < -0.35
    else:
        first, part = FALLS[name]
        assert sum(losses[-5:]) / 5 < part * losses[first]
    floating = [value for value in method.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float32}, "what is kept is kept whole"


def test_the_command_in_bf16(images: Path, tmp_path: Path) -> None:
    runs = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        more = ("epochs=1", "monitor.knn_every=0", f"precision={precision}")
        status, text = run("pretrain", small("simclr", images, folder, *more), folder)
        assert status == 0, text
        runs[precision] = [line["loss"] for line in lines(folder) if "loss" in line]
        assert newest(folder)["state_dict"]["module.encoder.conv1.weight"].dtype == torch.float32
    # The first step; afterwards the weights differ too.
    assert runs["bf16"][0] != runs["fp32"][0] and runs["bf16"][0] == pytest.approx(runs["fp32"][0], rel=0.02)


def test_tf32_is_used_where_it_is_asked_for() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before, search = [flag.allow_tf32 for flag in flags], torch.backends.cudnn.benchmark
    try:
        products_and_convolutions = {
            "tf32": [True, True], "fp32": [False, False], "bf16": [True, True],
            "pytorch": [False, True],  # products, convolutions: what PyTorch starts with
        }  # fmt: skip
        for precision, expected in products_and_convolutions.items():
            set_precision(precision, torch.device("cuda"))
            assert [flag.allow_tf32 for flag in flags] == expected
            assert torch.backends.cudnn.benchmark, "as the releases have it"
        for device, allowed in (("cuda", True), ("cpu", False)):
            set_precision("auto", torch.device(device))
            assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
    finally:
        torch.backends.cudnn.benchmark = search
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value

"""MoCo against facebookresearch/moco@7397dfe and NumPy (arXiv:1911.05722); batch norm in groups of images."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from pretrain.method.base import Batch, TrainingPlan, build_method
from pretrain.method.config import MoCoConfig, SimCLRConfig
from pretrain.method.moco import MoCo
from pretrain.optim import build_optimizer
from runs.errors import UserError
from runs.settings import check_values
from tests.pretrain import tiny, variants
from tests.pretrain.parity import case

RELEASE: Any = json.loads((Path(__file__).parent / "parity" / "moco.json").read_text())


def as_released() -> Any:
    """The small case that `parity/record_moco.py` ran through the official code."""
    torch.manual_seed(case.SEED)
    config = MoCoConfig(
        dim=case.DIM, queue=case.QUEUE, momentum=case.MOCO_M, temperature=case.MOCO_T, symmetrized=False
    )
    return build_method(config, TrainingPlan("resnet18", False, case.STEPS, 1, case.BATCH, 10))


def train(method: Any, steps: int = case.STEPS) -> dict[str, Any]:
    lr, decay = f"optimizer.lr={case.LR}", f"optimizer.weight_decay={case.DECAY}"
    config = variants.settings("method=moco", "official=true", lr, decay).optimizer
    optimizer = build_optimizer(method.param_groups(), config, case.LR)
    result: dict[str, Any] = {"losses": [], "queues": []}
    for step in range(steps):
        output = tiny.step(method, optimizer, Batch(list(case.images(step)), torch.empty(0), step))
        result["losses"].append(output["loss"].item())
        if step == 0:
            result["gradients"] = case.sums(method, gradients=True)
        ramp = torch.linspace(-1, 1, case.QUEUE)
        result["queues"].append([int(method.queue_ptr), *(method.queue * ramp).sum(1)[:4].tolist()])
    return result


def test_one_seed_gives_the_official_initial_weights_and_queue() -> None:
    method = as_released()
    case.assert_equal(case.sums(method), RELEASE["initial"])
    queue = [method.queue.sum().item(), method.queue.abs().sum().item()]
    assert queue == pytest.approx(RELEASE["initial_queue"], rel=1e-5)
    assert list(method.state_dict()) == RELEASE["keys"]


def test_ten_steps_equal_the_official_ones() -> None:
    """Losses, gradients, the queue after each step, both encoders and their statistics after the last."""
    method = as_released().double()
    mine = train(method)
    assert mine["losses"] == pytest.approx(RELEASE["losses"], rel=1e-6)
    case.assert_equal(mine["gradients"], RELEASE["gradients"])
    for got, expected in zip(mine["queues"], RELEASE["queues"], strict=True):
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)
    case.assert_equal(case.sums(method), RELEASE["final"])
    statistics = case.statistics(method)
    for name, values in RELEASE["statistics"].items():
        assert statistics[name] == pytest.approx(values, rel=1e-6, abs=1e-6 * values[1]), name


def test_another_momentum_is_caught() -> None:
    """The comparison can fail: it does at the second step, whose keys are the first that a moved encoder makes."""
    broken = as_released().double()
    broken.config.momentum = 0.5
    losses = train(broken, 2)["losses"]
    assert losses[0] == pytest.approx(RELEASE["losses"][0], rel=1e-6)
    assert losses[1] != pytest.approx(RELEASE["losses"][1], rel=1e-5)


def moco(**settings: object) -> MoCo:
    config = MoCoConfig(**{"dim": 32, "queue": 4 * tiny.BATCH, "momentum": 0.9, **settings})
    method = tiny.build(config)
    assert isinstance(method, MoCo)
    # Apart, as after some training; at first the two encoders are equal, and a mix-up would not show.
    generator = torch.Generator().manual_seed(5)
    for p in method.encoder_k.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return method


def contrast(q: numpy.ndarray, k: numpy.ndarray, queue: numpy.ndarray, t: float) -> float:
    """Equation 1, term by term."""
    losses = []
    for i in range(len(q)):
        scores = numpy.array([q[i] @ k[i], *(q[i] @ queue)]) / t
        losses.append(-numpy.log(numpy.exp(scores[0]) / numpy.exp(scores).sum()))
    return float(numpy.mean(losses))


def unit(x: torch.Tensor) -> numpy.ndarray:
    x = x.detach().numpy()
    return x / numpy.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("symmetrized", [True, False])
def test_loss_queue_and_momentum_update_equal_numpys(symmetrized: bool, reduction: str) -> None:
    method = moco(shuffle=False, symmetrized=symmetrized, reduction=reduction)
    before = copy.deepcopy(method)
    batch = tiny.batch(method, tiny.images(), step=3)
    loss = method(batch)["loss"].item()

    # Equation 2; the buffers of batch norm are the key encoder's own.
    for old, q, new in zip(
        before.encoder_k.parameters(), before.encoder_q.parameters(), method.encoder_k.parameters(), strict=True
    ):
        expected = 0.9 * old.detach().numpy() + 0.1 * q.detach().numpy()
        numpy.testing.assert_allclose(new.detach().numpy(), expected, rtol=1e-12, atol=1e-15)
        old.data.copy_(torch.from_numpy(expected))
    x1, x2 = batch.views
    queue = before.queue.numpy()
    q1, k2 = unit(before.encoder_q(x1)), unit(before.encoder_k(x2))
    expected, keys = contrast(q1, k2, queue, 0.2), k2
    if symmetrized:
        q2, k1 = unit(before.encoder_q(x2)), unit(before.encoder_k(x1))
        expected, keys = expected + contrast(q2, k1, queue, 0.2), numpy.concatenate([k1, k2])
        expected /= 2 if reduction == "mean" else 1
    assert loss == pytest.approx(expected, rel=1e-9)
    # The oldest keys go, the others stay where they are.
    numpy.testing.assert_allclose(method.queue.numpy()[:, : len(keys)], keys.T, rtol=1e-9, atol=1e-12)
    numpy.testing.assert_array_equal(method.queue.numpy()[:, len(keys) :], queue[:, len(keys) :])
    assert method.queue_ptr.item() == len(keys)


def test_the_queue_starts_over_at_its_end() -> None:
    method = moco()
    x = tiny.images()
    seen = []
    for step in range(3):  # 2 * 16 keys a step, 64 in all
        method(tiny.batch(method, x, step))
        seen.append((method.queue_ptr.item(), method.queue.clone()))
    assert [pointer for pointer, _ in seen] == [32, 0, 32]
    assert torch.equal(seen[2][1][:, 32:], seen[1][1][:, 32:])
    assert not torch.equal(seen[2][1][:, :32], seen[1][1][:, :32])
    assert torch.allclose(method.queue.norm(dim=0), torch.ones(64, dtype=torch.float64))


def test_no_gradient_reaches_the_key_encoder() -> None:
    method = moco()
    method(tiny.batch(method, tiny.images(), 0))["loss"].backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is None for p in method.encoder_k.parameters())
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert trained == {id(p) for p in method.encoder_q.parameters()}


def plain_norms(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for m in network.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.__class__ = nn.BatchNorm2d
    return network


def test_groups_of_images_are_normalized_as_on_devices_of_their_own() -> None:
    method = moco(bn_groups=4)
    devices = [plain_norms(method.encoder_q) for _ in range(4)]
    together = plain_norms(method.encoder_q)
    x = tiny.images()
    out = method.encoder_q(x)
    expected = torch.cat([device(part) for device, part in zip(devices, x.chunk(4), strict=True)])
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    assert (out - together(x)).abs().max() > 1e-3  # the groups do matter
    # DistributedDataParallel keeps the buffers of process 0.
    for name, value in devices[0].named_buffers():
        torch.testing.assert_close(method.encoder_q.get_buffer(name), value, rtol=1e-10, atol=1e-12)
    # The gradient is that of the devices' mean.
    out.square().mean().backward()
    sum(device(part).square().mean() / 4 for device, part in zip(devices, x.chunk(4), strict=True)).backward()
    for name, p in method.encoder_q.named_parameters():
        theirs = sum(device.get_parameter(name).grad for device in devices)
        torch.testing.assert_close(p.grad, theirs, rtol=1e-8, atol=1e-12)


def test_shuffling_mixes_the_groups_of_queries_and_keys() -> None:
    """Without it, an image's key is normalized with the same images as its query (section 3.3)."""
    x = tiny.images()
    methods = moco(bn_groups=4, shuffle=False), moco(bn_groups=4)
    # In evaluation no image depends on another, so what is left of the shuffling is the order: restored.
    still, mixed = (method.eval().f_k(x, torch.Generator().manual_seed(1)) for method in methods)
    torch.testing.assert_close(still, mixed, rtol=1e-10, atol=1e-12)
    still, mixed = (method.train().f_k(x, torch.Generator().manual_seed(1)) for method in methods)
    assert (still - mixed).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queue": 100}, "method.queue=100: must be a multiple of the 32 keys a step, e.g. 96"),
        ({"bn_groups": 3}, "method.bn_groups=3: 16 images do not split"),
        ({"bn_groups": 16}, "equal groups of 2 or more"),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        moco(**settings)


@pytest.mark.parametrize("config", [MoCoConfig, SimCLRConfig])
def test_a_setting_that_is_none_is_refused(config: Any) -> None:
    for wrong, said in (("reduction", "max: choose one of sum, mean"), ("temperature", "0.0: must be above 0")):
        with pytest.raises(UserError, match=f"^method.{wrong}={said}"):
            check_values(config(**{wrong: "max" if wrong == "reduction" else 0.0}), "method.")

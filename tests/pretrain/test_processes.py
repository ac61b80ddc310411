"""One process and two compute the same losses, gradients and batch-norm statistics (Gloo, CPU)."""

import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.collectives import mean_over_processes
from pretrain.layers import SyncBatchNorm, synchronize_norms_
from pretrain.method.base import Batch, build_method
from runs.distributed import process_group, rank, world_size
from tests.pretrain import tiny

STEPS = 2
# MoCo's protocol has norms a device: the groups of a step are the same on any number of processes. The supervised
# recipe normalizes each device's images, as its source does, so that there is nothing to be equal.
CONFIGS = {
    **{name: config for name, config in tiny.CONFIGS.items() if name != "supervised"},
    "moco": replace(tiny.CONFIGS["moco"], bn_groups=2),  # type: ignore[call-arg]
    "swav": replace(tiny.CONFIGS["swav"], queue=tiny.BATCH, queue_from_epoch=0),  # type: ignore[call-arg]
}


def steps(name: str, sync: bool, output: str, environment: dict[str, str]) -> None:
    """Two steps on this process's part of the same batches, in double precision; the first process writes."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with process_group("cpu") as device:
        torch.manual_seed(0)
        method = build_method(CONFIGS[name], tiny.plan()).double()
        if method.sync_bn and sync:
            synchronize_norms_(method, device)
        model = DistributedDataParallel(method) if world_size() > 1 else method
        share = slice(rank() * tiny.BATCH // world_size(), (rank() + 1) * tiny.BATCH // world_size())
        losses, gradients = [], {}
        for step in range(STEPS):
            whole = tiny.batch(method, tiny.images(seed=step), step)
            out = model(Batch([view[share] for view in whole.views], whole.labels[share], step))
            method.zero_grad(set_to_none=True)
            out["loss"].backward()
            losses.append(mean_over_processes(out["loss"].double()))
            gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
            method.after_backward(step)
            with torch.no_grad():
                for p in method.parameters():
                    if p.grad is not None:
                        p -= 0.1 * p.grad
            method.after_step(step)
        if rank() == 0:
            torch.save({"losses": losses, "gradients": gradients, "state": method.state_dict()}, output)


def compute(name: str, world: int, folder: Path, sync: bool = True) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for number in range(world):
        found = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
        environment = {**found, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
        # Forked: the children need not import torch again.
        process = multiprocessing.get_context("fork").Process(
            target=steps, args=(name, sync, str(folder / f"{world}.pt"), environment)
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    result: dict[str, Any] = torch.load(folder / f"{world}.pt", weights_only=True)
    return result


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_one_process_equals_two(name: str, tmp_path: Path) -> None:
    one, two = (compute(name, world, tmp_path) for world in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    assert one["gradients"].keys() == two["gradients"].keys()
    # Measured by the largest gradient: that of a bias before a norm is nothing but rounding.
    largest = max(gradient.abs().max().item() for gradient in one["gradients"].values())
    for key, gradient in one["gradients"].items():
        assert (gradient - two["gradients"][key]).abs().max().item() < 1e-6 * largest, key
    statistics = [key for key in one["state"] if key.endswith(("running_mean", "running_var"))]
    assert statistics
    for key in statistics:
        assert torch.allclose(two["state"][key], one["state"][key], rtol=1e-6, atol=1e-9), key
    if "queue" in one["state"]:
        # Within a step's part of the queue, processes stand one behind the other: the content is the same.
        a, b = (state["state"]["queue"].double().flatten().sort().values for state in (one, two))
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)


def test_without_synchronized_norms_two_processes_differ(tmp_path: Path) -> None:
    """The comparison can fail: it does where each process normalizes its own images."""
    one, two = (compute("simsiam", world, tmp_path, sync=False) for world in (1, 2))
    assert abs(two["losses"][-1] - one["losses"][-1]) > 1e-4


def test_synchronized_norm_is_pytorchs_for_one_process() -> None:
    torch.manual_seed(0)
    # A mean far from 0: a variance by E[x^2] - E[x]^2 would lose its digits here.
    x = torch.randn(6, 5, 4, 4, dtype=torch.float64) * 3 + 1e4
    outputs = []
    for norm in (nn.BatchNorm2d(5).double(), SyncBatchNorm(5).double()):
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        (y.square() * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
        assert leaf.grad is not None and norm.running_mean is not None and norm.running_var is not None
        outputs.append((y.detach(), leaf.grad, norm.running_mean, norm.running_var))
    for a, b in zip(*outputs, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_synchronized_norm_in_bf16_is_pytorchs() -> None:
    torch.manual_seed(0)
    x = (torch.randn(64, 5, 4, 4) * 3 + 20).bfloat16()
    outputs = []
    for norm in (nn.BatchNorm2d(5), SyncBatchNorm(5)):
        y = norm(x)
        assert y.dtype == torch.bfloat16 and norm.running_mean is not None and norm.running_var is not None
        outputs.append((y.float(), norm.running_mean, norm.running_var))
    for a, b in zip(*outputs, strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-2)
    # The statistics in bf16 would have 2 to 3 digits.
    assert torch.allclose(outputs[0][2], outputs[1][2], rtol=1e-5)

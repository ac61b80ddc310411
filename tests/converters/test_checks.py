"""Each check fails for the fault that it is there for, and names the tensor as the file calls it."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from converters.loading import load_backbone
from runs.errors import UserError
from tests.converters import layouts


def nan(network: ResNet) -> None:
    network.layer2[1].conv2.weight.data[0, 0, 0, 0] = float("nan")


def infinite(network: ResNet) -> None:
    network.layer2[1].bn2.bias.data[3] = float("inf")


def negative(network: ResNet) -> None:
    network.layer3[0].bn1.running_var[2] = -0.1


def untrained(network: ResNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def reset(network: ResNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()


def partly(network: ResNet) -> None:
    for module in network.layer4.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()


def integers(network: ResNet) -> None:
    network.layer1[0].conv1.weight = nn.Parameter(network.layer1[0].conv1.weight.data.int(), requires_grad=False)


def complex_numbers(network: ResNet) -> None:
    network.layer1[0].conv1.weight = nn.Parameter(network.layer1[0].conv1.weight.data.cfloat())


def copied(network: ResNet) -> None:
    network.layer3[4].conv2.weight.data = network.layer3[3].conv2.weight.data.clone()


def constant(network: ResNet) -> None:
    network.layer3[4].conv2.weight.data.fill_(0)


def huge(network: ResNet) -> None:
    network.double()
    network.layer3[4].conv2.weight.data[0] = 1e300


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (nan, r"finite: 1 tensors with NaN or infinity, first state_dict/module\.encoder\.layer2\.1\.conv2\.weight"),
        (infinite, r"finite: 1 tensors .* first state_dict/module\.encoder\.layer2\.1\.bn2\.bias"),
        (negative, r"running variance: smallest -0\.1 in state_dict/module\.encoder\.layer3\.0\.bn1\.running_var"),
        (untrained, r"trained: 53 of 53 batch norms .*randomly initialised \(a head-only or untrained"),
        (reset, r"trained: 53 of 53 batch norms .*folded into scale and bias, or were reset"),
        (partly, r"trained: 10 of 53 batch norms .*part of the backbone is randomly initialised"),
        (integers, r"dtypes: state_dict/module\.encoder\.layer1\.0\.conv1\.weight is int32"),
        (complex_numbers, r"dtypes: state_dict/module\.encoder\.layer1\.0\.conv1\.weight is complex64"),
        (copied, r"distinct: 1 convolutions that are copies .*layer3\.4\.conv2\.weight of .*layer3\.3\.conv2\.weight"),
        (constant, r"distinct: .*layer3\.4\.conv2\.weight has one single value"),
        (huge, r"finite: "),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_fault(break_it: Callable[[ResNet], None], message: str, tmp_path: Path, backbone: ResNet) -> None:
    network = copy.deepcopy(backbone)
    break_it(network)
    path = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, network)
    with pytest.raises(UserError, match=message), warnings.catch_warnings():
        warnings.simplefilter("error")  # one would be a second line on standard error
        load_backbone(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path, backbone: ResNet) -> None:
    network = copy.deepcopy(backbone).to(dtype)
    found = load_backbone(layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, network))
    for name, tensor in layouts.tensors(network).items():
        assert found.state_dict[name].dtype == torch.float32
        assert torch.equal(found.state_dict[name], tensor.float())
    assert next(check.figure for check in found.checks if check.name == "dtypes") == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta", "expanded", "view"])
def test_tensors_that_are_no_plain_numbers(kind: str, tmp_path: Path, backbone: ResNet) -> None:
    content = layouts.simsiam(backbone)
    name = "module.encoder.layer2.0.conv1.weight"
    tensor = content["state_dict"][name]
    content["state_dict"][name] = {
        "sparse": lambda: tensor.to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": lambda: tensor.to("meta"),
        "expanded": lambda: torch.ones(1).expand(tensor.shape),
        # A view of a larger tensor is plain: lightning and others save slices.
        "view": lambda: torch.stack([tensor, tensor * 2])[0],
    }[kind]()
    torch.save(content, tmp_path / "odd.pth")
    if kind == "view":
        assert torch.equal(load_backbone(tmp_path / "odd.pth").state_dict["layer2.0.conv1.weight"], tensor)
        return
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight: not a plain tensor|claims"):
        load_backbone(tmp_path / "odd.pth")

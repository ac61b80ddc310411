"""A converter that loses one layer is caught, whichever layer it is and however it is lost."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from converters import load_backbone, proof
from converters.architecture import parse_arch
from converters.naming_schemes import to_detectron2
from converters.resnet_model import build_resnet
from runs.errors import UserError
from tests.converters import layouts


def layers(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Layer -> its tensors: 53 convolutions with one, 53 batch norms with four."""
    found: dict[str, list[str]] = {}
    for name in tensors:
        found.setdefault(name.rsplit(".", 1)[0], []).append(name)
    assert [sum(len(names) == count for names in found.values()) for count in (1, 4)] == [53, 53]
    return found


def test_lost_in_the_file(tmp_path: Path, backbone: ResNet) -> None:
    file = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone)
    content = torch.load(file, weights_only=True)
    for layer in layers(layouts.tensors(backbone)):
        prefix = f"module.encoder.{layer}."
        left = {name: tensor for name, tensor in content["state_dict"].items() if not name.startswith(prefix)}
        assert len(left) < len(content["state_dict"])
        torch.save({**content, "state_dict": left}, file)
        with pytest.raises(UserError):
            load_backbone(file)


def test_lost_on_the_way(backbone: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name that Detectron2 does not know: it would warn, and train from random weights."""
    tensors = layouts.tensors(backbone)
    for layer, names in layers(tensors).items():
        lost = {name: f"lost.{name}" for name in names}
        monkeypatch.setattr(proof, "to_detectron2", lambda name, lost=lost: lost.get(name) or to_detectron2(name))
        (check,) = proof.detectron2_feature_checks(backbone, parse_arch(layouts.ARCH))
        assert not check.passed and check.figure.startswith(f"{265 - len(names)} of 265"), layer


def test_left_at_its_start(backbone: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the right name with the values of an untrained layer: nothing is missing, and the features differ."""
    tensors = layouts.tensors(backbone)
    torch.manual_seed(0)
    fresh = {to_detectron2(name): tensor for name, tensor in layouts.tensors(build_resnet(layouts.ARCH)).items()}
    build = proof._c4_network
    for layer, names in layers(tensors).items():
        lost = {to_detectron2(name): fresh[to_detectron2(name)] for name in names}
        monkeypatch.setattr(
            proof, "_c4_network", lambda arch, renamed, stride, lost=lost: build(arch, renamed | lost, stride)
        )
        names_check, *features = proof.detectron2_feature_checks(backbone, parse_arch(layouts.ARCH))
        assert names_check.passed and not features[-1].passed, layer

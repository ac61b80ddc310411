"""`prove_loaded(checkpoint, model)` on networks of torchvision, lightly and Detectron2, C4 and FPN, built by others."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import converters
from converters.naming_schemes import to_detectron2
from runs.errors import UserError


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    network(torch.randn(2, 3, 64, 64))  # batch norms at their initial values would be refused as untrained
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def checkpoint(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "resnet50.pth"
    torch.save(weights, path)
    return path


def classifier(weights: dict[str, torch.Tensor]) -> nn.Module:
    model = torchvision.models.resnet50()
    model.load_state_dict(weights, strict=False)
    return model


def sequential(weights: dict[str, torch.Tensor]) -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Sequential(*list(classifier(weights).children())[:-1])})


def torchvision_fpn(weights: dict[str, torch.Tensor]) -> nn.Module:
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    model.backbone.body.load_state_dict(weights, strict=False)
    return model


def detectron2(recipe: str, prefix: str) -> Callable[[dict[str, torch.Tensor]], nn.Module]:
    def build(weights: dict[str, torch.Tensor]) -> nn.Module:
        from detectron2 import model_zoo
        from detectron2.modeling import build_model

        config = model_zoo.get_config(recipe)
        config.MODEL.DEVICE = "cpu"
        config.MODEL.RESNETS.STRIDE_IN_1X1 = False
        model = build_model(config)
        names = set(model.state_dict())
        renamed = {to_detectron2(name): tensor for name, tensor in weights.items() if "num_batches" not in name}
        placed = {f"{prefix}{name}": tensor for name, tensor in renamed.items() if f"{prefix}{name}" in names}
        placed |= {f"roi_heads.{name}": tensor for name, tensor in renamed.items() if f"roi_heads.{name}" in names}
        assert len(placed) == len(renamed)
        model.load_state_dict(placed, strict=False)
        return model

    return build


BUILDERS = {
    "torchvision": classifier,
    "lightly": sequential,
    "torchvision FPN": torchvision_fpn,
    "Detectron2 C4": detectron2("PascalVOC-Detection/faster_rcnn_R_50_C4.yaml", "backbone."),
    "Detectron2 FPN": detectron2("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "backbone.bottom_up."),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loaded_network_is_proved_and_a_lost_layer_refused(
    name: str, weights: dict[str, torch.Tensor], checkpoint: Path
) -> None:
    model = BUILDERS[name](weights).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    proof = converters.prove_loaded(checkpoint, model)
    assert proof, proof
    assert set(proof.errors) == {"stem", "res2", "res3", "res4", "res5"}
    assert model.training and all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    # One convolution of the last stage was not loaded.
    target = weights["layer4.2.conv3.weight"]
    [lost] = [p for p in model.parameters() if p.shape == target.shape and torch.equal(p, target)]
    nn.init.kaiming_normal_(lost)
    proof = converters.prove_loaded(checkpoint, model)
    assert not proof
    assert proof.errors["res4"] < 1e-5 < proof.errors["res5"]
    assert proof.unchanged == proof.total - 1
    assert "not loaded: 264 of 265 tensors unchanged" in repr(proof)


def test_the_stride_of_msra_is_no_proof(weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """All tensors are there, and the network computes something else."""
    model = classifier(weights)
    model.layer2[0].conv1.stride, model.layer2[0].conv2.stride = (2, 2), (1, 1)
    proof = converters.prove_loaded(checkpoint, model)
    assert not proof and proof.unchanged == proof.total


def test_what_is_no_resnet_or_another_is_one_line(weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no ResNet of torchvision, timm or Detectron2"):
        converters.prove_loaded(checkpoint, torchvision.models.vgg11())
    with pytest.raises(UserError, match="build the architecture of the checkpoint"):
        converters.prove_loaded(checkpoint, torchvision.models.resnet18())
    with pytest.raises(UserError, match="2 ResNets that differ"):
        converters.prove_loaded(checkpoint, nn.ModuleList([classifier(weights), torchvision.models.resnet50()]))
    assert converters.prove_loaded(checkpoint, nn.ModuleList([classifier(weights), classifier(weights)]))


def test_the_example_runs(root: Path, checkpoint: Path) -> None:
    command = [sys.executable, "examples/prove_weights.py", str(checkpoint)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "without one layer: <resnet50.pth (resnet50) is not loaded: 264 of 265" in done.stdout

"""A pre-training that starts from given weights: all of the backbone, or none of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import ResNet

from converters.resnet_model import build_resnet
from pretrain.method.base import build_method
from runs.files import sha256
from tests.pretrain.processes import run, small
from tests.pretrain.tiny import CONFIGS, plan


def write(file: Path, arch: str = "resnet18x0.25", **more: object) -> ResNet:
    torch.manual_seed(0)
    network = build_resnet(arch)
    # A file whose batch norms have seen nothing is refused as untrained.
    network(torch.randn(8, 3, 32, 32))
    torch.save({"model": network.state_dict(), **more}, file)
    return network


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_network_of_a_method_starts_from_it(name: str) -> None:
    drawn = build_resnet("resnet18x0.125").state_dict()
    given = {key: value for key, value in drawn.items() if not key.startswith("fc.")}
    method = build_method(CONFIGS[name], replace(plan(), init=given))
    networks = [module for module in method.modules() if isinstance(module, ResNet)]
    assert len(networks) == (2 if name in ("moco", "byol") else 1)
    for network in networks:
        state = network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in given.items())
    with pytest.raises(ValueError, match=r"do not fit resnet18x0\.125: conv1\.weight"):
        build_method(CONFIGS[name], replace(plan(), init={k: v for k, v in given.items() if k != "conv1.weight"}))


def test_a_run_from_a_file(images: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "epoch=3 (1).pth"
    network = write(file, input={"channels": "BGR", "mean": [0.4, 0.5, 0.6], "std": [0.2] * 3, "range": 1.0})
    # A learning rate that moves no weight.
    words = [*small("simsiam", images, folder, f"init={file}", "epochs=1"), "optimizer.lr=1e-30"]
    status, text = run("pretrain", words, folder)
    assert status == 0, text
    assert "expects augment.mean=[0.6, 0.5, 0.4] augment.std=[0.2, 0.2, 0.2] (written by the pre-training)" in text
    trained = torch.load(folder / "checkpoint_0000.pth.tar", weights_only=True)["state_dict"]
    for name, parameter in network.named_parameters():
        expected = parameter.flip(1) if name == "conv1.weight" else parameter
        assert name.startswith("fc.") or torch.allclose(trained[f"module.encoder.{name}"], expected, 0, 1e-20), name
    record = json.loads((folder / "result.json").read_text())
    assert record["details"]["init"]["sha256"] == sha256(file) and "init: " in (folder / "config.yaml").read_text()
    file.write_bytes(b"")
    write(file)
    status, text = run("pretrain", words, folder)
    assert status == 2 and "belongs to another run (fingerprint.init: " in text, text


def test_a_file_that_cannot_start_the_run_is_refused(images: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "other.pth"
    for arch, said in (("resnet18x0.125", "is a resnet18x0.125; give arch=resnet18x0.125"), ("", "layer4")):
        network = write(file, arch or "resnet18x0.25")
        if not arch:
            torch.save({k: v for k, v in network.state_dict().items() if "layer4.1.conv2" not in k}, file)
        status, text = run("pretrain", small("simsiam", images, folder, f"init={file}"), folder)
        assert status == 2 and text.count("\n") == 1 and said in text, text
        assert not folder.exists()

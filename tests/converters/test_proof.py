"""The proof passes for what is equal and fails for every way in which it is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.resnet import ResNet

from converters import proof
from converters.architecture import parse_arch
from converters.checkpoint_layouts import MSRA_INPUT
from converters.conversion import convert, inspect
from converters.loading import build_network
from converters.naming_schemes import to_detectron2
from runs.errors import UserError
from tests.converters import layouts


def figures(checks: list[Any]) -> dict[str, bool]:
    return {check.name: check.passed for check in checks}


@pytest.mark.parametrize(
    "arch", ["resnet18x0.25", "resnet34x0.25", "resnet101x0.25", "resnet152x0.25", "wide_resnet50_2x0.25"]
)
def test_every_architecture_is_proved(arch: str) -> None:
    network = layouts.trained(arch)
    assert all(figures(proof.detectron2_feature_checks(network, parse_arch(arch))).values())


def test_stride_in_the_wrong_convolution_fails(backbone: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """MSRA's stride: the same tensors, another function. The stem and res2 have no stride and stay equal."""
    build = proof._build_c4
    monkeypatch.setattr(proof, "_build_c4", lambda arch, stride: build(arch, not stride))
    checks = figures(proof.detectron2_feature_checks(backbone, parse_arch(layouts.ARCH)))
    assert checks["features stem"] and checks["features res2"]
    assert not checks["features res3"] and not checks["features res4"] and not checks["features res5"]


def test_msra_stride_is_proved_with_its_own_stride(backbone: ResNet) -> None:
    msra = build_network(layouts.ARCH, layouts.tensors(backbone), MSRA_INPUT)
    assert all(figures(proof.detectron2_feature_checks(msra, parse_arch(layouts.ARCH), stride_in_1x1=True)).values())


def swapped(name: str) -> str:
    pairs = {"res4.1.conv2.weight": "res4.2.conv2.weight"}
    pairs |= {b: a for a, b in pairs.items()}
    return pairs.get(to_detectron2(name), to_detectron2(name))


def test_two_tensors_of_the_same_shape_swapped(backbone: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "to_detectron2", swapped)
    checks = figures(proof.detectron2_feature_checks(backbone, parse_arch(layouts.ARCH)))
    assert checks["Detectron2 names"] and checks["features res3"]
    assert not checks["features res4"]


def test_a_name_that_detectron2_does_not_match(backbone: ResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """MoCo's converter on SimSiam's names: Detectron2 warns and trains from random weights; here it fails."""
    monkeypatch.setattr(proof, "to_detectron2", lambda name: to_detectron2(name).replace("res4.0.", "res4.zero."))
    (names,) = proof.detectron2_feature_checks(backbone, parse_arch(layouts.ARCH))
    assert not names.passed and names.figure.startswith("245 of 265")


def test_res5_serves_as_the_roi_head(backbone: ResNet) -> None:
    """The last stage applied to res4, as Res5ROIHeads applies it to pooled regions, is torchvision's layer4."""
    with torch.inference_mode():
        target, matched = proof._c4_network(
            parse_arch(layouts.ARCH), {to_detectron2(k): v for k, v in layouts.tensors(backbone).items()}, False
        )
        regions = torch.randn(3, backbone.layer4[0].conv1.in_channels, 14, 14)
        assert matched == 265
        assert torch.equal(target.roi_heads.res5(regions), backbone.layer4(regions))


def test_pictures_are_fixed_and_look_real() -> None:
    images = proof.proof_images()
    assert torch.equal(images, proof.proof_images())
    assert images.shape == (2, 3, 128, 160)
    # Neighbouring pixels of photographs agree; noise has correlation 0.
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.9


def test_detectron2_loads_the_file_that_was_written(tmp_path: Path, backbone: ResNet) -> None:
    """Detectron2's own checkpointer, on the network that it builds from the settings in the provenance."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    from converters import load_backbone
    from converters.safe_pickle import parse_pickle

    source = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone)
    convert(source, tmp_path / "out.pkl")
    provenance = parse_pickle((tmp_path / "out.pkl").read_bytes()).content["provenance"]
    assert provenance["sha256"] == load_backbone(source).source_sha256
    assert provenance["arch"] == layouts.ARCH and provenance["format"] == "simsiam"
    assert "encoder.fc.0.weight" in provenance["dropped"] and len(provenance["proof"]["checks"]) == 14
    cfg = get_cfg()
    cfg.MODEL.RESNETS.merge_from_other_cfg(type(cfg)(provenance["resnets"] | {"OUT_FEATURES": ["res5"], "NORM": "BN"}))
    network = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    DetectionCheckpointer(network).load(str(tmp_path / "out.pkl"))
    images = proof.proof_images()
    with torch.inference_mode():
        features = images
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            features = getattr(backbone, part)(features)
        assert torch.allclose(network(images)["res5"], features, rtol=0, atol=1e-5 * features.abs().max().item())


def test_cifar_stem_goes_to_torchvision_only(tmp_path: Path, converters: Callable[..., Any]) -> None:
    network = layouts.trained("resnet18x0.25_cifar")
    source = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, network)
    assert inspect(source).obstacles["detectron2"].startswith("resnet18x0.25_cifar has a 3x3 stem")
    refused = converters("detectron2", source, tmp_path / "out.pkl")
    assert refused.status == 2 and "use the torchvision target" in refused.err and not (tmp_path / "out.pkl").exists()
    assert converters("torchvision", source, tmp_path / "out.safetensors").status == 0


def test_deep_stem_is_refused_with_the_reason(tmp_path: Path, backbone: ResNet) -> None:
    """timm's resnet50d (timm/models/resnet.py@aa4b5850, `_make_layers` of the stem): conv1 is a sequence."""
    state_dict = {k: v for k, v in backbone.state_dict().items() if not k.startswith("conv1.")}
    state_dict |= {f"conv1.{i}.weight": torch.randn(16, 3 if i == 0 else 16, 3, 3) for i in (0, 3, 6)}
    torch.save(state_dict, tmp_path / "resnet50d.pth")
    with pytest.raises(UserError, match="deep stem of several convolutions"):
        inspect(tmp_path / "resnet50d.pth")

"""Every format: recognised without being told, converted without a changed value, proved, and back again."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.resnet import ResNet

from converters.checkpoint_layouts import FORMATS, MSRA_INPUT, UNIT_INPUT, InputConvention
from converters.conversion import convert
from converters.loading import load_backbone
from converters.resnet_model import build_resnet
from runs.errors import UserError
from tests.converters import layouts
from tests.converters.layouts import LAYOUTS, Layout


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_every_format_has_a_layout() -> None:
    assert {layout.format for layout in LAYOUTS} == {entry.name for entry in FORMATS}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_round_trip(layout: Layout, tmp_path: Path, backbone: ResNet) -> None:
    source = layout.write(tmp_path, backbone)
    expected = layouts.tensors(backbone)
    if layout.format == "msra":
        # Folded statistics: mean 0 and variance 1 - 1e-5, so that batch norm's division is by one.
        expected = {
            name: torch.full_like(t, 0.0 if name.endswith("mean") else 1 - 1e-5) if "running" in name else t
            for name, t in expected.items()
        }

    # SimCLR's networks take images as they are, this one was measured on normalised ones.
    report = convert(source, tmp_path / "out.pkl", skip_vital_signs=layout.format == "simclr")
    assert report.backbone.format == layout.format
    assert report.backbone.arch == layouts.ARCH
    assert_same(report.backbone.state_dict, expected)
    assert all(check.passed for check in report.checks)
    assert [check.name for check in report.checks][-7:] == [
        "Detectron2 names", "features stem", "features res2", "features res3", "features res4", "features res5",
        "vital signs",
    ]  # fmt: skip

    again = load_backbone(tmp_path / "out.pkl")
    assert again.format == "detectron2"
    assert again.input.detectron2() == report.backbone.input.detectron2()
    assert_same(again.state_dict, expected)

    if layout.format == "msra":
        with pytest.raises(UserError, match="stride"):
            convert(tmp_path / "out.pkl", tmp_path / "back.safetensors")
        return
    for name in ("back.safetensors", "back.pth"):
        convert(tmp_path / "out.pkl", tmp_path / name, skip_vital_signs=True)
        back = load_backbone(tmp_path / name)
        assert back.format == "torchvision"
        assert back.input.detectron2() == again.input.detectron2()
        assert_same(back.state_dict, expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_naming_the_format_changes_nothing(layout: Layout, tmp_path: Path, backbone: ResNet) -> None:
    source = layout.write(tmp_path, backbone)
    found, told = load_backbone(source), load_backbone(source, layout.format)
    assert_same(told.state_dict, found.state_dict)
    assert told.dropped == found.dropped


@pytest.mark.parametrize(
    ("format", "expected"),
    [("simsiam", InputConvention()), ("simclr", UNIT_INPUT), ("msra", MSRA_INPUT)],
)
def test_input_conventions(format: str, expected: InputConvention, tmp_path: Path, backbone: ResNet) -> None:
    layout = next(layout for layout in LAYOUTS if layout.format == format)
    assert load_backbone(layout.write(tmp_path, backbone)).input == expected


def test_input_convention_in_detectron2_terms() -> None:
    # detectron2/config/defaults.py: PIXEL_MEAN [103.530, 116.280, 123.675], PIXEL_STD [1, 1, 1], BGR, STRIDE_IN_1X1.
    assert MSRA_INPUT.detectron2() == {
        "format": "BGR",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [1.0, 1.0, 1.0],
        "stride_in_1x1": True,
    }
    assert InputConvention().detectron2()["pixel_std"] == [58.395, 57.12, 57.375]
    assert UNIT_INPUT.detectron2()["pixel_mean"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "GRB"}, {"pixel_mean": [0.0, 0.0]}, {"pixel_std": [1.0, 0.0, 1.0]}, {"pixel_mean": [10**400] * 3},
        {"pixel_std": [1.0, float("nan"), 1.0]}, {"pixel_mean": "RGB"}, {"stem_padding": 4}, {"format": []},
    ],
)  # fmt: skip
def test_what_is_no_input_convention(wrong: dict[str, Any]) -> None:
    assert InputConvention.from_detectron2(UNIT_INPUT.detectron2(), "file") == UNIT_INPUT
    with pytest.raises(UserError, match="file: not an input convention"):
        InputConvention.from_detectron2(UNIT_INPUT.detectron2() | wrong, "file")


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def rename(state_dict: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new, 1) if name.startswith(old) else name: t for name, t in state_dict.items()}


def test_the_same_network_twice_is_no_ambiguity(tmp_path: Path, backbone: ResNet) -> None:
    both = layouts.simsiam(backbone) | {"model": layouts.barlowtwins(backbone)["model"]}
    found = load_backbone(save(tmp_path / "both.pth", both))
    assert found.format == "simsiam" and found.others == []


def test_two_different_networks_are_listed_and_one_is_chosen(tmp_path: Path, backbone: ResNet) -> None:
    other = layouts.momentum(backbone)
    path = save(tmp_path / "both.pth", layouts.simsiam(backbone) | {"model": layouts.barlowtwins(other)["model"]})
    with pytest.raises(
        UserError, match=r"2 different networks, state_dict\.encoder \(resnet50x0\.25\), model\.backbone"
    ) as e:
        load_backbone(path)
    assert "choose one with --prefix PATH" in str(e.value)
    assert_same(load_backbone(path, prefix="model/module.backbone").state_dict, layouts.tensors(other))
    assert_same(load_backbone(path, prefix="state_dict.encoder").state_dict, layouts.tensors(backbone))
    with pytest.raises(UserError, match="--prefix nowhere: no complete network there; state_dict"):
        load_backbone(path, prefix="nowhere")


def test_a_file_without_heads(tmp_path: Path, backbone: ResNet) -> None:
    path = save(tmp_path / "bare.pth", {"state_dict": layouts.module(backbone=backbone).state_dict()})
    assert_same(load_backbone(path).state_dict, layouts.tensors(backbone))


def test_simsiam_under_mocos_prefix(tmp_path: Path, backbone: ResNet) -> None:
    """MoCo's converter turned SimSiam's checkpoints into empty files; the network is there under either prefix."""
    content = layouts.simsiam(backbone)
    content["state_dict"] = rename(content["state_dict"], "module.encoder.", "module.encoder_q.")
    assert_same(load_backbone(save(tmp_path / "simsiam.pth", content)).state_dict, layouts.tensors(backbone))


def test_wrappers_are_seen_through(tmp_path: Path, backbone: ResNet) -> None:
    """Files saved from the bare model (facebookresearch/simsiam issue 8), and from torch.compile's wrapper."""
    for wrapper in ("", "module.", "_orig_mod.", "module._orig_mod."):
        content = layouts.simsiam(backbone)
        content["state_dict"] = rename_all(content["state_dict"], "module.", wrapper)
        found = load_backbone(save(tmp_path / "wrapped.pth", content))
        assert_same(found.state_dict, layouts.tensors(backbone))
        assert found.renamed["conv1.weight"] == f"state_dict/{wrapper}encoder.conv1.weight"


def rename_all(state_dict: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new + name.removeprefix(old): tensor for name, tensor in state_dict.items()}


def test_second_copy_that_differs(tmp_path: Path, backbone: ResNet) -> None:
    content = layouts.patrickhua(backbone)
    content["state_dict"]["encoder.0.layer3.1.conv2.weight"] = torch.zeros_like(backbone.layer3[1].conv2.weight)
    with pytest.raises(UserError, match=r"2 different networks.*differ in 1 tensors"):
        load_backbone(save(tmp_path / "copies.pth", content))


def test_only_the_momentum_encoder(tmp_path: Path, backbone: ResNet) -> None:
    content = layouts.moco(backbone)
    content["state_dict"] = {n: t for n, t in content["state_dict"].items() if not n.startswith("module.encoder_q.")}
    path = save(tmp_path / "momentum.pth", content)
    with pytest.raises(
        UserError, match=r"only the momentum encoder .*take it as it is with --prefix state_dict\.encoder_k"
    ):
        load_backbone(path)
    assert_same(
        load_backbone(path, prefix="state_dict.encoder_k").state_dict, layouts.tensors(layouts.momentum(backbone))
    )


def test_copies_are_named(tmp_path: Path, backbone: ResNet) -> None:
    content = {name: layouts.module(encoder=layouts.momentum(backbone)).state_dict() for name in ("model_ema", "key")}
    found = load_backbone(
        save(tmp_path / "ema.pth", content | {"model": layouts.module(encoder=backbone).state_dict()})
    )
    assert_same(found.state_dict, layouts.tensors(backbone))
    assert found.others == [
        "model_ema.encoder (averaged, resnet50x0.25)", "key.encoder (momentum, resnet50x0.25)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mocov9", "unknown format 'mocov9'; known: this-project, patrickhua"),
        ("byol", "--format byol: no network with such names"),
    ],
)
def test_wrong_format_option(
    name: str, message: str, tmp_path: Path, backbone: ResNet, converters: Callable[..., Any]
) -> None:
    path = save(tmp_path / "simsiam.pth", layouts.simsiam(backbone))
    outcome = converters("inspect", path, "--format", name)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_mocos_converter_made_of_simsiam_is_refused(tmp_path: Path) -> None:
    """MoCo's detection/convert-pretrain-to-detectron2.py keeps `module.encoder_q.` only: nothing is left."""
    path = tmp_path / "empty.pkl"
    path.write_bytes(pickle.dumps({"model": {}, "__author__": "MOCO", "matching_heuristics": True}))
    with pytest.raises(UserError, match="holds no tensors"):
        load_backbone(path)


def test_selective_kernel_networks_of_simclr_are_refused(tmp_path: Path, backbone: ResNet) -> None:
    arrays = layouts.simclr(backbone) | {"base_model/conv2d_53/kernel": np.ones((1, 1, 4, 4), np.float32)}
    np.savez(tmp_path / "sk1.npz", **arrays)
    with pytest.raises(UserError, match="54 convolutions are no plain ResNet of SimCLR; its selective-kernel"):
        load_backbone(tmp_path / "sk1.npz")


def test_weights_of_a_file_without_projection_heads(tmp_path: Path, backbone: ResNet) -> None:
    """The documented use in Python: a bare state dict goes into torchvision's network."""
    torch.save(backbone.state_dict(), tmp_path / "bare.pth")
    network = build_resnet(load_backbone(tmp_path / "bare.pth").arch).eval()
    network.load_state_dict(load_backbone(tmp_path / "bare.pth").state_dict, strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(images), backbone(images))

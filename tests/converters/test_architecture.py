"""Names, shapes and recognition, compared with torchvision's own networks."""

import pytest
import torch
import torchvision
from torch import nn

from converters.architecture import Architecture, parse_arch, recognise_arch
from converters.resnet_model import ScaledResNet, build_resnet
from runs.errors import UserError

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"]


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    names = (name for name in network.state_dict() if not name.startswith("fc.") and "tracked" not in name)
    return {name: tuple(network.state_dict()[name].shape) for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        expected = shapes_of(getattr(torchvision.models, name)())
    assert parse_arch(name).shapes == expected
    assert list(parse_arch(name).shapes) == list(expected)
    assert recognise_arch(expected) == parse_arch(name)


def test_resnet50_has_265_tensors() -> None:
    shapes = parse_arch("resnet50").shapes
    assert len(shapes) == 265
    assert sum(len(shape) == 4 for shape in shapes.values()) == 53


@pytest.mark.parametrize("name", [*NAMES, "resnet50x0.25", "resnet50x2", "resnet18_cifar", "resnet34x0.5_cifar"])
def test_names_round_trip(name: str) -> None:
    assert parse_arch(name).name == name
    assert recognise_arch(parse_arch(name).shapes).name == name


@pytest.mark.parametrize(
    "name",
    ["resnet20", "resnet50x", "resnet50x0", "resnet50x0.3", "wide_resnet50", "wide_resnet18_2", "resnet50_2", ""],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="arch: "):
        parse_arch(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_initial_weights_are_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    expected = getattr(torchvision.models, name)(zero_init_residual=True).state_dict()
    for classes in (1000, None):
        torch.manual_seed(3)
        found = build_resnet(name, classes, zero_init_residual=True).state_dict()
        names = [key for key in expected if classes or not key.startswith("fc.")]
        assert list(found) == names
        assert all(torch.equal(found[key], expected[key]) for key in names)


def test_scaled_network_at_width_one_is_torchvisions() -> None:
    """The repeated constructor draws the same weights in the same order and computes the same."""
    torch.manual_seed(4)
    expected = torchvision.models.resnet50(num_classes=7).eval()
    torch.manual_seed(4)
    found = ScaledResNet(Architecture(50), num_classes=7, zero_init_residual=False).eval()
    assert all(
        torch.equal(a, b) for a, b in zip(expected.state_dict().values(), found.state_dict().values(), strict=True)
    )
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found(images), expected(images))


def test_quarter_width_scales_every_channel() -> None:
    full, quarter = parse_arch("resnet50").shapes, parse_arch("resnet50x0.25").shapes
    for name, shape in quarter.items():
        assert shape[0] * 4 == full[name][0], name
    network = build_resnet("resnet50x0.25")
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 512)
    assert parse_arch("resnet50x0.25").num_features == 512


def test_cifar_stem_keeps_the_resolution() -> None:
    network = build_resnet("resnet18x0.25_cifar")
    images = torch.randn(2, 3, 32, 32)
    assert network.maxpool(network.conv1(images)).shape == (2, 16, 32, 32)
    assert network.layer4(network.layer3(network.layer2(network.layer1(network.conv1(images))))).shape[-2:] == (4, 4)


def test_zero_init_residual() -> None:
    assert (build_resnet("resnet50x0.25", zero_init_residual=True).layer1[0].bn3.weight == 0).all()
    assert (build_resnet("resnet18x0.25", zero_init_residual=True).layer1[0].bn2.weight == 0).all()


def variant(**changes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return parse_arch("resnet50").shapes | {name.replace("__", "."): shape for name, shape in changes.items()}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (variant(conv1__0__weight=(32, 3, 3, 3)), "deep stem"),
        (variant(layer1__0__se__fc1__weight=(4, 4, 1, 1)), "channel attention"),
        (variant(layer2__0__downsample__2__weight=(512,)), "average pooling in its shortcuts"),
        (variant(layer1__0__conv2__weight=(64, 2, 3, 3)), "32 groups"),
        (variant(layer3__6__conv1__weight=(256, 1024, 1, 1)), r"3-4-7-3 bottleneck blocks are no ResNet"),
        (variant(layer3__1__bn2__weight=(255,)), r"layer3\.1\.bn2\.weight: shape \(255,\), but resnet50 has \(256,\)"),
        (variant(layer3__1__gate__weight=(256,)), r"layer3\.1\.gate\.weight: no tensor of resnet50"),
        ({k: v for k, v in variant().items() if k != "layer4.2.bn3.bias"}, r"layer4\.2\.bn3\.bias: missing"),
        ({k: v for k, v in variant().items() if k != "conv1.weight"}, r"conv1\.weight: missing"),
    ],
)
def test_networks_that_are_refused_with_the_reason(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recognise_arch(shapes)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50x0.25", "wide_resnet50_2"])
def test_detectron2_builds_the_network_from_the_settings(name: str) -> None:
    """`detectron2_settings` in a configuration gives exactly our tensors."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    from converters.naming_schemes import to_detectron2

    cfg = get_cfg()
    cfg.MODEL.RESNETS.merge_from_other_cfg(type(cfg)(parse_arch(name).detectron2_settings()))
    cfg.MODEL.RESNETS.merge_from_other_cfg(type(cfg)({"OUT_FEATURES": ["res5"], "NORM": "BN"}))
    with torch.device("meta"):
        found = shapes_of(build_resnet_backbone(cfg, ShapeSpec(channels=3)))
    assert found == {to_detectron2(key): shape for key, shape in parse_arch(name).shapes.items()}

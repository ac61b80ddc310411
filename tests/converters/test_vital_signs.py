"""A network is told from a wrong one by its batch-norm statistics; a share of the cases of docs/converters.md."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from converters import vital_signs
from converters.checkpoint_layouts import IMAGENET_MEAN, IMAGENET_STD, MSRA_INPUT, UNIT_INPUT, InputConvention
from converters.loading import build_network, load_backbone
from converters.vital_signs import pictures, vital_signs_check
from experiments import vital_signs_error_rates as cases
from experiments.vital_signs_error_rates import Damage, Weights
from tests.converters import layouts

ARCH = "resnet50x0.25"


@pytest.fixture(autouse=True)
def quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other pictures than the network was measured on."""
    monkeypatch.setattr(vital_signs, "SIZES", {64: 16})


@pytest.fixture(scope="module")
def weights() -> Weights:
    return layouts.tensors(layouts.trained(ARCH))


def signs(weights: Weights, convention: InputConvention = InputConvention(), **more: Any) -> Any:  # noqa: B008
    return vital_signs_check(build_network(ARCH, weights, convention), convention, **more)


def test_a_network_as_it_was_trained(weights: Weights) -> None:
    before = {name: tensor.clone() for name, tensor in weights.items()}
    check = signs(weights)
    assert check.passed and not check.doubtful
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items()), "the network was changed"


@pytest.fixture(scope="module")
def partner() -> Weights:
    return layouts.tensors(layouts.trained(ARCH, 1))


@pytest.mark.parametrize(
    "damage",
    [cases.exchanged_convolutions, cases.shuffled_convolution, cases.foreign_convolution, cases.reinitialized_layer4,
     cases.transposed_channels, cases.means_and_biases, cases.scales_and_variances, cases.tiny_convolutions,
     cases.untrained],
)  # fmt: skip
def test_a_wrong_network_is_refused(damage: Damage, weights: Weights, partner: Weights) -> None:
    wrong = dict(weights)
    damage(wrong, partner)
    check = signs(wrong)
    assert not check.passed, check.figure


@pytest.mark.parametrize(
    ("convolution", "angle", "figure", "passed"),
    [("conv1", 0.9, "0.79 of chance (limit 0.65)", False), ("conv2", 1.3, "0.72 of chance (limit 0.85)", True)],
)
def test_a_1x1_convolution_has_a_limit_of_its_own(
    convolution: str, angle: float, figure: str, passed: bool, weights: Weights, partner: Weights
) -> None:
    """Each is a blend of the network's convolution and another's."""
    name = f"layer2.1.{convolution}.weight"
    check = signs(weights | {name: math.cos(angle) * weights[name] + math.sin(angle) * partner[name]})
    assert check.passed == passed and check.doubtful and f" at {figure}" in check.figure, check.figure


def test_the_layer_is_named(weights: Weights, partner: Weights) -> None:
    wrong = dict(weights)
    cases.foreign_convolution(wrong, partner)
    assert "worst layer2.1.bn2 at " in signs(wrong).figure


@pytest.mark.parametrize(
    "convention",
    [UNIT_INPUT, MSRA_INPUT, InputConvention("RGB", (0,) * 3, (1 / 255,) * 3)],
)
def test_a_wrong_input_is_named(convention: InputConvention, weights: Weights) -> None:
    check = signs(weights, convention)
    assert not check.passed and "its input seems to be ImageNet's mean and std" in check.figure, check.figure


@pytest.mark.parametrize(
    ("damage", "stride_in_1x1", "said"),
    [
        (cases.exchanged_blocks, False, "layer3.1 and layer3.2 exchanged fits better by "),
        (None, True, "the stride in the other convolution fits better by "),
    ],
)
def test_an_alternative_that_fits_better(
    damage: Damage | None, stride_in_1x1: bool, said: str, weights: Weights
) -> None:
    wrong = dict(weights)
    if damage:
        damage(wrong, {})
    network = build_network(ARCH, wrong, InputConvention(stride_in_1x1=stride_in_1x1))
    check = vital_signs_check(network, InputConvention())
    # Neighbouring blocks may be alike in a deep network as it was trained, so that theirs is a doubt.
    assert check.passed == (damage is not None) and check.doubtful and said in check.figure, check.figure
    assert network.layer2[0].conv1.stride == ((2, 2) if stride_in_1x1 else (1, 1)), "the network was changed"


def test_folded_statistics_have_no_signs(weights: Weights) -> None:
    folded = {n: torch.zeros_like(t) if n.endswith("running_mean") else t for n, t in weights.items()}
    assert signs(folded).passed and "folded" in signs(folded).figure


def test_the_pictures_are_fixed_and_natural() -> None:
    images = pictures(8, 64)
    assert torch.equal(images, pictures(8, 64)) and images.min() >= 0 and images.max() <= 1
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(IMAGENET_MEAN), atol=0.05)
    assert torch.allclose(images.std((0, 2, 3)), torch.tensor(IMAGENET_STD), atol=0.06)
    # Amplitudes fall as 1/f: four times the frequency, a quarter (a sixteenth of the power) within a factor of two.
    power = torch.fft.rfft2(images.mean(1)).abs().square().mean(0)
    low, high = power[3:6, 3:6].mean(), power[12:24, 12:24].mean()
    assert 8 < low / high < 64


def test_pictures_of_a_user(tmp_path: Path, weights: Weights, backbone: Any, converters: Callable[..., Any]) -> None:
    for number, image in enumerate(pictures(16, 64)):
        array = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    file = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone)
    assert converters("inspect", file, "--images", tmp_path).status == 0
    (tmp_path / "0.png").write_bytes(b"no picture")
    outcome = converters("inspect", file, "--images", tmp_path)
    assert outcome.status == 2 and "0.png: no readable picture" in outcome.err


def test_unchecked_is_in_the_record(tmp_path: Path, backbone: Any, converters: Callable[..., Any]) -> None:
    wrong = {name: tensor.clone() for name, tensor in layouts.tensors(backbone).items()}
    cases.exchanged_convolutions(wrong, {})
    torch.save(wrong, tmp_path / "wrong.pth")
    refused = converters("inspect", tmp_path / "wrong.pth")
    assert refused.status == 2 and "vital signs: worst layer3." in refused.err
    report = converters("inspect", tmp_path / "wrong.pth", "--unchecked", "--json").report
    assert report["checks"][-1]["figure"] == "not checked, --unchecked"


def test_statistics_of_a_few_batches_are_doubted_and_not_refused(weights: Weights, partner: Weights) -> None:
    wrong = dict(weights)
    cases.foreign_convolution(wrong, partner)
    for batches, passed in ((0, False), (24, True), (vital_signs.FEW_BATCHES, False)):
        check = signs(wrong, trained_batches=batches)
        assert (check.passed, check.doubtful) == (passed, True) and ("too few to tell" in check.figure) == passed
    assert not signs(weights, trained_batches=24).doubtful


def test_the_file_says_how_many_batches_made_its_statistics(tmp_path: Path) -> None:
    network = layouts.trained(ARCH)
    torch.save(network.state_dict(), tmp_path / "one.pth")
    assert load_backbone(tmp_path / "one.pth").batches == 1
    torch.save(layouts.tensors(network), tmp_path / "none.pth")
    assert load_backbone(tmp_path / "none.pth").batches == 0


def test_the_table_of_the_docs_counts_every_case_once_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "DAMAGES", (cases.foreign_convolution, cases.exchanged_blocks))
    monkeypatch.setattr(cases, "INPUTS", {"Input not normalised": cases.INPUTS["Input not normalised"]})
    backbones = []
    for seed in range(2):
        torch.save(layouts.tensors(layouts.trained(ARCH, seed)), tmp_path / f"{seed}.pth")
        backbones.append(load_backbone(tmp_path / f"{seed}.pth"))
    intact, found = cases.count_outcomes(backbones)
    assert len(intact) == 2 and len(found) == 2 + len(cases.INPUTS)
    assert all(outcomes.total() == 2 for outcomes in found.values())
    assert not found["One convolution of another network"]["passed"]

"""The proof that converted weights compute what the source network computed."""

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from converters.architecture import Architecture
from converters.resnet import build_resnet

TOLERANCE = 1e-5
STAGES = ("stem", "res2", "res3", "res4", "res5")


def source_network(arch: Architecture, state_dict: dict[str, Tensor], stride_in_1x1: bool = False) -> ResNet:
    """torchvision's network with ``state_dict`` in it, in eval mode; memory is shared, nothing is copied."""
    with torch.device("meta"):
        network = build_resnet(arch.name)
    network.load_state_dict(state_dict, strict=False, assign=True)
    if stride_in_1x1 and arch.bottleneck:
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return network.eval()


def source_features(network: ResNet, images: Tensor) -> dict[str, Tensor]:
    """(N, 3, H, W) -> the outputs of the stem and the four stages, under Detectron2's names."""
    features = {"stem": network.maxpool(network.relu(network.bn1(network.conv1(images))))}
    for stage, layer in zip(STAGES[1:], (network.layer1, network.layer2, network.layer3, network.layer4), strict=True):
        features[stage] = layer(list(features.values())[-1])
    return features


def proof_images(count: int = 2, height: int = 128, width: int = 160) -> Tensor:
    """Fixed pictures with smooth regions, edges and texture, normalised: (count, 3, height, width) float32."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    images[:, :, height // 4 : height // 2, width // 3 : width // 2] = torch.rand(count, 3, 1, 1, generator=generator)
    images += 0.05 * torch.randn(count, 3, height, width, generator=generator)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.clamp(0, 1) - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def feature_errors(source: ResNet, target: torch.nn.Module) -> dict[str, float]:
    """Stage -> largest absolute difference divided by the largest absolute value of the source's feature."""
    images = proof_images()
    expected, found = source_features(source, images), target(images)
    return {
        stage: ((found[stage] - expected[stage]).abs().max() / expected[stage].abs().max().clamp_min(1e-30)).item()
        for stage in STAGES
    }

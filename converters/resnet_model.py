"""torchvision's ResNet at any width, with the CIFAR stem where asked: one builder for the whole project."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from converters.architecture import Architecture, parse_arch

# torchvision's default, replaced by Identity when no classifier is wanted.
# Building fc anyway keeps the random draws, and so the initial weights, equal to torchvision's for the same seed.
DEFAULT_CLASSES = 1000


class SkipInit(TorchFunctionMode):
    """Leave new tensors as they are, for networks that are filled with a checkpoint's tensors at once."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class ScaledResNet(ResNet):
    """torchvision's ResNet with scaled channels or the CIFAR stem; same modules, names and initialisation.

    NOTE: torchvision fixes the stem at 64 channels inside `ResNet.__init__`, so the constructor is repeated here in
    torchvision's order; everything else is inherited.
    """

    def __init__(self, arch: Architecture, num_classes: int, zero_init_residual: bool) -> None:
        nn.Module.__init__(self)
        block = Bottleneck if arch.bottleneck else BasicBlock
        width = arch.stem_channels
        self._norm_layer = nn.BatchNorm2d
        self.inplanes = width
        self.dilation = 1
        self.groups = 1
        self.base_width = 64 * arch.bottleneck_width
        kernel, stride, padding = (3, 1, 1) if arch.cifar else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, width, kernel_size=kernel, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if arch.cifar else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, arch.block_counts[0])
        self.layer2 = self._make_layer(block, 2 * width, arch.block_counts[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * width, arch.block_counts[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * width, arch.block_counts[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(arch.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)
                elif isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)


def build_resnet(arch_name: str, num_classes: int | None = None, zero_init_residual: bool = False) -> ResNet:
    """The network of that name (see `converters.architecture`), randomly initialised as torchvision does.

    `num_classes=None` gives the features: `fc` is the identity and the output is (N, num_features) float32.
    Raises UserError for an unknown name.
    """
    network: ResNet = ScaledResNet(
        parse_arch(arch_name), DEFAULT_CLASSES if num_classes is None else num_classes, zero_init_residual
    )
    if num_classes is None:
        network.fc = nn.Identity()
    return network

"""The residual networks this project knows: names, tensor shapes, and recognition from the tensors alone.

An architecture is written `resnet50`, `resnet18_cifar`, `resnet50x0.25`, `wide_resnet50_2`:

* depth 18, 34 (basic blocks), 50, 101, 152 (bottlenecks), as in He et al., "Deep Residual Learning", Table 1;
* `xN` multiplies every channel count, the stem included (SimCLR section 4.2: "ResNet (2x), (4x)");
* `wide_resnet50_2` doubles only the inner width of the bottleneck (torchvision/models/resnet.py);
* `_cifar` has a 3x3 stem of stride 1 and no max-pooling (SimCLR appendix B.9).

Everything here is arithmetic on names and shapes: no torch is imported.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from runs.errors import UserError

# depth -> blocks in layer1..layer4; torchvision/models/resnet.py, the functions resnet18() … resnet152().
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BASIC_DEPTHS = (18, 34)
# The four tensors of a batch norm that a conversion carries; num_batches_tracked is not used in inference.
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

_NAME = re.compile(
    r"(?P<wide>wide_)?resnet(?P<depth>18|34|50|101|152)(_2)?(x(?P<width>\d+(\.\d+)?))?(?P<cifar>_cifar)?"
)


@dataclass(frozen=True)
class Architecture:
    """One residual network.

    `width` scales all channels (64 * width must be a whole number); `bottleneck_width` only the inside of a
    bottleneck (2 for the wide networks of Zagoruyko and Komodakis).
    """

    depth: int
    width: float = 1.0
    bottleneck_width: int = 1
    cifar: bool = False

    @property
    def name(self) -> str:
        """The name that `parse_arch` reads."""
        wide, two = ("wide_", "_2") if self.bottleneck_width == 2 else ("", "")
        width = "" if self.width == 1 else f"x{self.width:g}"
        return f"{wide}resnet{self.depth}{two}{width}{'_cifar' if self.cifar else ''}"

    @property
    def block_counts(self) -> tuple[int, int, int, int]:
        """Blocks in layer1 to layer4."""
        return BLOCKS[self.depth]

    @property
    def bottleneck(self) -> bool:
        """Whether the blocks have three convolutions."""
        return self.depth not in BASIC_DEPTHS

    @property
    def expansion(self) -> int:
        """A block's output channels over its stage's base channels."""
        return 4 if self.bottleneck else 1

    @property
    def stem_channels(self) -> int:
        """Output channels of the first convolution: 64 times the width."""
        return round(64 * self.width)

    @property
    def num_features(self) -> int:
        """Channels of the last stage: the dimension of the pooled feature."""
        return 8 * self.stem_channels * self.expansion

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every convolution and batch-norm tensor, in torchvision's names and order.

        265 tensors for depth 50: 53 convolutions and 53 batch norms of four tensors each.
        """
        stem = self.stem_channels
        shapes: dict[str, tuple[int, ...]] = {}

        def unit(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
            shapes[f"{conv}.weight"] = (out, into, kernel, kernel)
            shapes.update({f"{norm}.{tensor}": (out,) for tensor in NORM_TENSORS})

        unit("conv1", "bn1", stem, 3, 3 if self.cifar else 7)
        into = stem
        for stage, count in enumerate(self.block_counts, start=1):
            planes = stem * 2 ** (stage - 1)
            inner, out = planes * self.bottleneck_width, planes * self.expansion
            for index in range(count):
                block = f"layer{stage}.{index}"
                if self.bottleneck:
                    unit(f"{block}.conv1", f"{block}.bn1", inner, into, 1)
                    unit(f"{block}.conv2", f"{block}.bn2", inner, inner, 3)
                    unit(f"{block}.conv3", f"{block}.bn3", out, inner, 1)
                else:
                    unit(f"{block}.conv1", f"{block}.bn1", out, into, 3)
                    unit(f"{block}.conv2", f"{block}.bn2", out, out, 3)
                # a stage's first block needs a projection where the stride or the channels change.
                if index == 0 and (stage > 1 or into != out):
                    unit(f"{block}.downsample.0", f"{block}.downsample.1", out, into, 1)
                into = out
        return shapes

    def detectron2_settings(self, stride_in_1x1: bool = False) -> dict[str, object]:
        """The `cfg.MODEL.RESNETS` keys that make Detectron2 build exactly this network.

        Source: detectron2/modeling/backbone/resnet.py, `build_resnet_backbone`, which builds basic blocks with
        RES2_OUT_CHANNELS 64 only and does not look at their STRIDE_IN_1X1.
        """
        return {
            "DEPTH": self.depth,
            "STEM_OUT_CHANNELS": self.stem_channels,
            "RES2_OUT_CHANNELS": self.stem_channels * self.expansion,
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": self.stem_channels * self.bottleneck_width,
            "STRIDE_IN_1X1": stride_in_1x1,
        }


def parse_arch(name: str) -> Architecture:
    """`"resnet50x0.25"` -> Architecture. Raises UserError for a name outside the grammar above."""
    match = _NAME.fullmatch(name)
    remedy = "use resnet18|34|50|101|152, with xN for a width and _cifar for the 3x3 stem, or wide_resnet50_2"
    if match is None or bool(match["wide"]) != ("_2" in name):
        raise UserError(f"arch: unknown network {name!r}; {remedy}")
    arch = Architecture(
        depth=int(match["depth"]),
        width=float(match["width"] or 1),
        bottleneck_width=2 if match["wide"] else 1,
        cifar=bool(match["cifar"]),
    )
    if arch.width <= 0 or (64 * arch.width) % 1:
        raise UserError(
            f"arch: {name!r} has a fractional stem of {64 * arch.width:g} channels; choose a multiple of 1/64"
        )
    if arch.bottleneck_width == 2 and not arch.bottleneck:
        raise UserError(f"arch: {name!r}: only bottleneck networks (50, 101, 152) have a wide variant; {remedy}")
    return arch


def recognise_arch(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The architecture whose tensors are exactly `shapes` (torchvision's names, without `num_batches_tracked`).

    Raises UserError with the reason: a stem or block that plain ResNet lacks, or the missing, unexpected or
    misshapen tensors.
    """
    _refuse_variants(shapes)
    blocks = [len({n.split(".")[1] for n in shapes if n.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)]
    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    if len(shapes.get("conv1.weight", ())) == 5:
        raise UserError("conv1.weight: a 3D convolution, of videos or volumes; give a network for images")
    if len(shapes.get("conv1.weight", ())) != 4:
        raise UserError(
            "conv1.weight: missing or not a convolution, so this is no complete ResNet; convert the whole file"
        )
    depth = next((d for d, b in BLOCKS.items() if list(b) == blocks and bottleneck == (d not in BASIC_DEPTHS)), None)
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"layer1..layer4: {'-'.join(map(str, blocks))} {kind} blocks are no ResNet-18, 34, 50, 101 or 152; "
            "layers are missing or mixed from several networks"
        )
    stem, colours, kernel, _ = shapes["conv1.weight"]
    if (stem, kernel) == (colours, 3):
        raise UserError("conv1.weight: laid out as height x width x in x out; permute every kernel by (3, 2, 0, 1)")
    if colours != 3:
        raise UserError(f"conv1.weight: takes {colours} channels, colour images have 3; give a network for RGB")
    if kernel not in (3, 7):
        raise UserError(
            f"conv1.weight: shape {tuple(shapes['conv1.weight'])}, where a ResNet has (channels, 3, 7, 7) or "
            "(channels, 3, 3, 3); the checkpoint is damaged or of another kind"
        )
    first = shapes.get("layer1.0.conv1.weight", (0,))[0]
    inner = 2 if bottleneck and first == 2 * stem else 1
    arch = Architecture(depth, width=stem / 64, bottleneck_width=inner, cifar=kernel == 3)
    _compare(arch, shapes)
    return arch


def not_plain_resnet_error(what: str) -> UserError:
    """The error for a network that has the tensors of a plain ResNet, or some of them, and is none."""
    return UserError(f"{what}, which plain ResNet cannot represent; use a plain ResNet")


def norm_of(convolution: str) -> str:
    """`layer1.0.conv2` -> `layer1.0.bn2`, `layer1.0.downsample.0` -> `layer1.0.downsample.1`."""
    return convolution.replace("conv", "bn") if "conv" in convolution else convolution.replace("sample.0", "sample.1")


def folded_norm_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The batch-norm tensors that are folded into others -> their convolution's weight.

    Statistics are missing where scale and bias are there (MSRA), all four where the convolution has a bias (Detectron).
    """
    missing: dict[str, str] = {}
    for name in [name for name, shape in shapes.items() if len(shape) == 4 and name.endswith(".weight")]:
        convolution = name.removesuffix(".weight")
        norm = norm_of(convolution)
        for tensor in NORM_TENSORS:
            folded = f"{convolution}.bias" in shapes or (tensor.startswith("running") and f"{norm}.weight" in shapes)
            if folded and f"{norm}.{tensor}" not in shapes:
                missing[f"{norm}.{tensor}"] = name
    return missing


def is_convolution_bias(name: str) -> bool:
    """Whether `name` is the bias of a convolution, which plain ResNet has not."""
    return re.search(r"(conv\d|downsample\.0)\.bias$", name) is not None


def _compare(arch: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> None:
    expected = arch.shapes
    missing = [name for name in expected if name not in shapes]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}{more}: missing from this {arch.name}; the checkpoint is incomplete")
    unexpected = [name for name in shapes if name not in expected]
    if unexpected:
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        raise UserError(f"{unexpected[0]}{more}: no tensor of {arch.name}; the checkpoint holds another network")
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise UserError(
                f"{name}: shape {tuple(shapes[name])}, but {arch.name} has {shape}; the checkpoint is damaged or mixed"
            )


# Residual networks that look like ResNet but compute something else, by the names of their tensors.
_VARIANTS = {
    r".*\.lora_\w+(\..*)?": "LoRA adapters (merge_and_unload folds them)",
    r"(conv1\.\d+|stem\..*|conv[2-9])\.weight": "a deep stem of several convolutions (ResNet-C, -D, -S, CLIP)",
    r".*\.weight_u": "spectral norm (remove_spectral_norm folds it)",
    r".*\.(weight_g|weight_v|parametrizations\.weight\.original[01])": "weight norm (remove_weight_norm folds it)",
    r".*\.weight_(orig|mask)": "pruning masks (torch.nn.utils.prune.remove applies them)",
    r"layer\d\.\d+\.(se|attn|eca|cbam)\..*": "channel attention in its blocks (SE, ECA or CBAM)",
    r"layer\d\.\d+\.conv2\.\w+\..*": "selective kernels or split attention in its blocks (SK, ResNeSt)",
    r"layer\d\.\d+\.downsample\.2\..*": "average pooling in its shortcuts (ResNet-D)",
    r"(layer\d\.\d+\.)?(gn\d?|norm\d)\..*": "norms under another name than bn (group or layer norm)",
}


def _refuse_variants(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for pattern, reason in _VARIANTS.items():
        found = next((name for name in shapes if re.fullmatch(pattern, name)), None)
        if found:
            raise not_plain_resnet_error(f"{found}: the network has {reason}")
    biased = next(filter(is_convolution_bias, shapes), None)
    if biased:
        folded = f"{norm_of(biased.removesuffix('.bias'))}.weight" not in shapes
        reason = "its batch norms are folded into them; give" if folded else "which plain ResNet lacks; use"
        raise UserError(f"{biased}: convolutions with bias, {reason} the network as it was trained")
    if "bn1.weight" in shapes and not any(name.endswith("running_mean") for name in shapes):
        raise UserError(
            "bn1: no norm has running statistics, so it is group norm, or batch norm that uses each batch's own; "
            "plain ResNet cannot represent it, use a network with batch norm"
        )
    grouped = shapes.get("layer1.0.conv2.weight", ())
    if len(grouped) == 4 and 1 < grouped[1] < grouped[0]:
        groups = grouped[0] // grouped[1]
        raise UserError(
            f"layer1.0.conv2.weight: {groups} groups (ResNeXt), which is outside this project; use a plain ResNet"
        )

"""What a file, or a configuration beside it, says about its network; it must agree with what the tensors say.

Some networks have a ResNet's tensors and compute something else: blur pooling, another activation, dilation and
standardised weights have no tensors of their own. Only settings show it.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.architecture import BLOCKS, Architecture, not_plain_resnet_error
from converters.checkpoint_layouts import IMAGENET_MEAN, MSRA_INPUT, InputConvention
from converters.reading import Contents, arrays_and_settings
from converters.recognition import Network
from converters.safe_pickle import OpaqueTensor
from runs.errors import UserError
from runs.files import read_json

# Hugging Face and timm write these beside the weights.
BESIDE = ("config.json", "preprocessor_config.json")
# Settings whose value is the name of the network.
_NAMES = {"arch", "architecture", "model", "model_name", "backbone", "backbone_name", "encoder", "encoder_name", "name"}
_BLUR, _DILATED = "blur pooling, which has no tensors", "dilated convolutions"
_ACTIVATION = "another activation than ReLU"
# In such a name: what it says that the network computes differently.
_VARIANTS = {
    r"blur|resnetaa|antialias": _BLUR,
    r"deeplab|fcn_|dilated|^drn": _DILATED,
    r"(^|_)ws(_|$)|^bit|resnetv2": "standardised weights or pre-activation",
    r"gelu|silu|swish": _ACTIVATION,
}
# What DeepLab and torchvision's segmentation networks have beside a ResNet that they dilate.
_DILATED_HEADS = re.compile(r"(?i)(^|[/.])(aspp|aux_classifier)[/.]|classifier[/.]0[/.]convs[/.]")
_PLAIN = {None, False, "", "relu", "ReLU", "torch.nn.modules.activation.ReLU"}
# What a setting's name ends with -> which of its values say that the network computes differently, and how. Those with
# a layer before it are attributes of a pickled network.
_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    r"/(hidden_act|act_layer)": (lambda value: value not in _PLAIN, _ACTIVATION),
    r"/(aa_layer|antialias|blurpool)": (lambda value: value not in _PLAIN, _BLUR),
    r"/dilations?": (lambda value: isinstance(value, tuple) and max(value) > 1, _DILATED),
    r"/replace_stride_with_dilation": (lambda v: any(v) if isinstance(v, tuple) else bool(v), _DILATED),
    r"/output_stride": (lambda value: value in (8, 16), _DILATED),
    r"/downsample_in_first_stage": (lambda value: value is True, "a stride in its first stage"),
    r"/bn_eps|(bn\d|downsample[/.]1)[/.]eps": (
        lambda value: value is not None and value != 1e-5, "batch norm with another epsilon than 1e-5",
    ),
    r"(conv\d|downsample[/.]0)[/.]padding_mode": (
        lambda value: value != "zeros", "convolutions that do not pad with zeros",
    ),
}  # fmt: skip
_DILATIONS = "|".join(pattern for pattern, (_, reason) in _REFUSED.items() if reason is _DILATED)
# Parts of a network that a pickle names.
_CLASSES = re.compile(r"(GELU|SiLU|Mish|LeakyReLU|BlurPool\w*|StdConv\w*|GroupNorm)$")


def stated_or_assumed_convention(contents: Contents, network: Network, path: Path) -> tuple[InputConvention, str]:
    """What the network expects at its input, and who says so.

    Raises:
        UserError: the settings describe a network that plain ResNet cannot represent, or another one.
    """
    settings = dict(contents.settings)
    for name in BESIDE:
        if (beside := path.with_name(name)).is_file():
            settings |= {f"{name}/{key}": value for key, value in arrays_and_settings(read_json(beside))[1].items()}
    for key, value in settings.items():
        _check(key, value, network.architecture)
    if odd := next(filter(_CLASSES.search, sorted(contents.names)), None):
        raise not_plain_resnet_error(f"the pickled network has a {odd}")
    if head := next(filter(_DILATED_HEADS.search, contents.tensors), None):
        raise not_plain_resnet_error(f"{head}: of a segmentation network, with {_DILATED}")
    values = contents.provenance.get("input")
    if values is not None:
        return InputConvention.from_detectron2(values, "provenance.input"), "written by the conversion"
    if own := _of_own_checkpoint(settings):
        return own, "written by the pre-training"
    convention, source = _stated(contents, settings, network.container)
    if convention is None:
        own = network.format.input
        convention = own if network.architecture.cifar else replace(own, stem_padding=1)
        known = convention != InputConvention()
        source = f"as {network.format.name} does" if known else "assumed, nothing in the file says it"
    if stride := [key for key, value in settings.items() if _puts_stride_in_1x1(key, value, network.architecture)]:
        convention = replace(convention, stride_in_1x1=True)
        source += f"; the stride by {stride[0]}"
    # It leaves no trace in the tensors: a dilated network has the same statistics on a finer grid.
    if not any(re.search(f"({_DILATIONS})$", f"/{key}") for key in settings):
        source += "; assumed: no dilation"
    return convention, source


def _check(key: str, value: Any, arch: Architecture) -> None:
    said = f"{key} is {str(value)[:60]}"
    for pattern, (differs, reason) in _REFUSED.items():
        if re.search(f"({pattern})$", f"/{key.lower()}") and differs(value):
            raise not_plain_resnet_error(f"{said}: {reason}")
    if not isinstance(value, str):
        return
    if key.rpartition("/")[2].lower() in _NAMES and re.fullmatch(r"[\w./-]{1,60}", value):
        name = value.lower()
        for pattern, reason in _VARIANTS.items():
            if re.search(pattern, name):
                raise not_plain_resnet_error(f"{said}: {reason}")
        depth = re.fullmatch(r"(?:\w+[./])?(?:wide_|tv_)?resnet_?(\d+)(?:[_x.]\S*)?", name)
        if depth and int(depth[1]) in BLOCKS and int(depth[1]) != arch.depth:
            raise UserError(f"{key} says {value}, the tensors are a {arch.name}; the file was put together wrongly")
    if len(value) > 60:
        text = re.sub(r"\s", "", value)  # MMEngine keeps its configuration as text
        if "ConvWS" in text:
            raise not_plain_resnet_error(f"{key} is ConvWS: standardised weights")
        if (found := re.search(r"dilations=\(([\d,]+)\)", text)) and set(found[1]) - set("1,"):
            raise not_plain_resnet_error(f"{key} is {found[0][:60]}: {_DILATED}")


def _puts_stride_in_1x1(key: str, value: Any, arch: Architecture) -> bool:
    if key.rpartition("/")[2] == "downsample_in_bottleneck":
        return value is True
    if re.search(r"layer[2-4][/.]0[/.]conv1[/.]stride$", key):  # of a pickled network
        return arch.bottleneck and value == (2, 2)
    return isinstance(value, str) and re.search(r"style\s*=\s*['\"]caffe['\"]", value) is not None


def _of_own_checkpoint(settings: Mapping[str, Any]) -> InputConvention | None:
    """This project's checkpoints have an entry `input`; see `pretrain.trainer.Trainer.state_dict`."""
    match [settings.get(f"input/{key}") for key in ("channels", "mean", "std", "range")]:
        case ["RGB" | "BGR" as channels, (_, _, _) as mean, (_, _, _) as std, float(high)] if high > 0:
            return InputConvention(channels, tuple(m / high for m in mean), tuple(s / high for s in std))
    return None


def _stated(contents: Contents, settings: Mapping[str, Any], container: str) -> tuple[InputConvention | None, str]:
    """Mean and standard deviation as tensors, as JSON, or in a configuration's text; None where nothing says them."""
    found: dict[str, tuple[Any, str]] = {}
    for kind in ("mean", "std"):
        for path, tensor in contents.tensors.items():
            named = path.startswith(container) and re.search(rf"(^|[/.])((pixel|image|new)_)?{kind}$", path)
            if named and not isinstance(tensor, OpaqueTensor) and math.prod(tensor.shape) == 3:
                found.setdefault(kind, (np.asarray(tensor).reshape(-1).tolist(), path))
        for key, value in settings.items():
            if re.search(rf"(^|/)(image_)?{kind}$", key) and isinstance(value, tuple) and len(value) == 3:
                found.setdefault(kind, (value, key))
            elif isinstance(value, str) and (match := re.search(rf"\b{kind}\s*=\s*(\[[\d., \n]+\])", value)):
                found.setdefault(kind, (ast.literal_eval(match[1]), key))
    if set(found) != {"mean", "std"} or any(len(values) != 3 for values, _ in found.values()):
        return None, ""
    (mean, source), (std, _) = found["mean"], found["std"]
    # Of mean 0 and std 1 a setting speaks of images in [0, 1], what is in the network of pixels.
    unit = isinstance(settings.get(source), tuple) and not any(mean) and set(std) == {1}
    scale = 255 if (max(mean) > 1 or min(std) >= 1) and not unit else 1
    # ImageNet's in reverse; another mean that rises may be that of house numbers.
    known = zip(mean, IMAGENET_MEAN[::-1], strict=True)
    channels = "BGR" if all(abs(value / scale - blue) < 0.02 for value, blue in known) else "RGB"
    texts = [value for value in settings.values() if isinstance(value, str)]
    if any(re.search(r"\bto_rgb\s*=\s*False", text) for text in texts):
        channels = "BGR"
    caffe = channels == "BGR" and set(std) == {1.0} and source in contents.tensors
    values = {
        "format": channels,
        "pixel_mean": [round(255 / scale * value, 3) for value in mean],
        "pixel_std": [round(255 / scale * value, 3) for value in std],
        # Detectron2's models with the Caffe input are MSRA's, with the stride in the 1x1.
        "stride_in_1x1": caffe and MSRA_INPUT.stride_in_1x1,
    }
    return InputConvention.from_detectron2(values, source), f"as {source} says"

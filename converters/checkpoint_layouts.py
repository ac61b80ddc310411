"""The public checkpoint layouts that were tested, one entry each, and what their tensors cannot say.

A network is recognised by its tensors (`recognition.py`); an entry gives it its project's name, the input
convention and what a conversion cannot carry. docs/formats.md lists who writes each
layout, and where its names come from.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from runs import plugins
from runs.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's normalisation of images in [0, 1], RGB
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputConvention:
    """What a network expects at its input.

    Attributes:
        channels: "RGB" or "BGR".
        mean, std: of images in [0, 1], in the order of `channels`.
        stride_in_1x1: a bottleneck's stride lies in its first 1x1 convolution (MSRA), not in the 3x3 (torchvision).
        stem_padding: of a 3x3 stem, in pixels; solo-learn's pads by 2.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    stride_in_1x1: bool = False
    stem_padding: int = 1

    def detectron2(self) -> dict[str, Any]:
        """The same in Detectron2's terms: INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD in 0..255, RESNETS.STRIDE_IN_1X1."""
        return {
            "format": self.channels,
            "pixel_mean": [round(255 * value, 6) for value in self.mean],
            "pixel_std": [round(255 * value, 6) for value in self.std],
            "stride_in_1x1": self.stride_in_1x1,
            **({"stem_padding": self.stem_padding} if self.stem_padding != 1 else {}),
        }

    @classmethod
    def from_detectron2(cls, values: Any, where: str) -> "InputConvention":
        """Read what `detectron2()` wrote, and `where` it stands; raises UserError for anything else."""
        try:
            mean, std = (tuple(float(value) / 255 for value in values[key]) for key in ("pixel_mean", "pixel_std"))
            channels, padding = values["format"], int(values.get("stem_padding", 1))
            sound = channels in ("RGB", "BGR") and padding in range(4) and all(map(math.isfinite, (*mean, *std)))
            if sound and len(mean) == 3 and len(std) == 3 and min(std) > 0:
                return cls(channels, mean, std, bool(values["stride_in_1x1"]), padding)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            pass
        raise UserError(
            f"{where}: not an input convention (mean, deviation, order of colours); convert or export again without it"
        )


# He et al.'s Caffe models: BGR, 0..255 with the mean subtracted and no division.
MSRA_INPUT = InputConvention("BGR", IMAGENET_MEAN[::-1], (1 / 255, 1 / 255, 1 / 255), stride_in_1x1=True)
# google-research/simclr data_util.py@383d4143, `preprocess_image`: images in [0, 1] and nothing else.
UNIT_INPUT = InputConvention("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Format:
    """One public layout. All paths are plain: dictionary keys and module names joined by dots, without wrappers.

    Attributes:
        name: what `--format` takes.
        paths: where the network is in the file; empty for anywhere.
        beside: parts of paths that must each be in the file, to tell projects apart.
        schemes: how the network's parts may be named, see `converters.naming_schemes`.
        preferred: whether this network is meant although its path says that it is a copy.
        input: what the network expects at its input; its `stem_padding` is of those with a 3x3 stem only.
        caveat: what a conversion cannot carry.
    """

    name: str
    paths: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("torchvision",)
    preferred: bool = False
    input: InputConvention = field(default_factory=InputConvention)
    caveat: str = ""


# The first entry that fits gives its name: those with more beside the network come first.
FORMATS: tuple[Format, ...] = (
    Format("this-project", ("state_dict.encoder", "state_dict.encoder_q"), ("resume.",)),
    Format("patrickhua", ("state_dict.backbone",), ("encoder.0.",)),
    Format("pixpro", ("model.encoder",), ("encoder_k.", "projector_instance.")),
    Format("soco", ("model.encoder", "model_ema.encoder"), ("encoder_k.", "predictor.")),
    Format("pycontrast", ("model.encoder", "model_ema.encoder"), ("model.head",)),
    Format("moco", ("state_dict.encoder_q",), ("encoder_k.", "queue")),
    Format("moco-v3", ("state_dict.base_encoder",)),
    Format("barlowtwins-vicreg", ("model.backbone",)),
    Format("swav", ("", "state_dict"), ("prototypes.",)),
    Format("openmmlab", ("state_dict.backbone", "state_dict.encoder_q.0"), ("meta.",)),
    Format(
        "solo-learn",
        ("state_dict.backbone", "state_dict.encoder"),
        ("state_dict.classifier.", "pytorch-lightning_version."),
        input=InputConvention(stem_padding=2),
    ),
    Format("lightly", ("state_dict.backbone",), ("projection_head",), schemes=("torchvision", "sequential")),
    Format("simsiam", ("state_dict.encoder",), ("encoder.fc.", "predictor.")),
    Format(
        "vissl",
        (
            "classy_state_dict.base_model.model.trunk._feature_blocks",
            "model_state_dict._feature_blocks",
            "_feature_blocks",
        ),
    ),
    Format("taoyang1122", ("state_dict.features",), schemes=("sequential",)),
    Format("lightning-bolts", ("state_dict.online_network.encoder",)),
    Format("lightning-bolts-simclr", ("state_dict.encoder",), ("state_dict.projection.",)),
    Format("lightning-bolts-swav", ("state_dict.model",), ("model.prototypes.",)),
    Format("dino", ("teacher.backbone",), ("student.", "teacher."), preferred=True),
    Format("torchvision"),
    Format("sequential", schemes=("sequential",)),
    Format("huggingface", schemes=("huggingface",)),
    Format("huggingface-flax", schemes=("flax",)),
    Format(
        "byol",
        schemes=("haiku",),
        caveat="TensorFlow's SAME padding is one pixel off from torch's for stride 2, in the original network only",
    ),
    Format(
        "simclr",
        schemes=("tensorflow",),
        input=UNIT_INPUT,
        caveat="its max-pooling pads SAME, one pixel off from torch's; selective-kernel networks (sk1) are refused",
    ),
    Format(
        "detectron2",
        schemes=("detectron2",),
        caveat="a pkl without this project's provenance is taken for RGB with the stride in the 3x3 convolution",
    ),
    Format("msra", schemes=("caffe2",), input=MSRA_INPUT, caveat="the torchvision target cannot hold its stride"),
)

_PLUGINS = [plugins.load(path) for path in plugins.find_files("formats/*.py")]
FORMATS = (*(entry for module in _PLUGINS for entry in module.FORMATS), *FORMATS)
# Of names that `converters.naming_schemes` does not know.
PLUGIN_SCHEMES = tuple(scheme for module in _PLUGINS for scheme in getattr(module, "SCHEMES", ()))

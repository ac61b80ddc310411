"""A backbone's file, read safely: its tensors, and what it says of its network and of the images that this expects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.architecture import BASIC_DEPTHS, BLOCKS, Architecture
from converters.checkpoint_layouts import MSRA_INPUT, InputConvention
from converters.naming_schemes import from_caffe2, to_detectron2
from converters.reading import read_checkpoint
from converters.safe_pickle import OpaqueTensor
from runs.errors import UserError
from runs.files import SCRATCH
from runs.record import Subject
from runs.typed import build

# Blocks in res4 -> depth, for bottleneck networks.
_DEPTHS = {blocks[2]: depth for depth, blocks in BLOCKS.items() if depth not in BASIC_DEPTHS}
REMEDY = "make it with python -m converters detectron2 CHECKPOINT OUT.pkl"


@dataclass(frozen=True)
class BackboneFile:
    """A backbone in Detectron2's names (`stem.conv1.weight`, `res2.0.conv1.norm.bias`, ...), as NumPy arrays.

    Attributes:
        path: the file.
        sha256: of the file.
        tensors: arrays by name.
        folded: whether the batch norms' statistics are folded into weight and bias, as in Caffe2's files.
        settings: Detectron2's, by dotted names, that it needs: its size, and what is known of its input.
        input: who says what the network expects at its input: the file (`provenance`), its form (`msra`), or only the
            `recipe`.
        subject: whose weights these are, as far as the file says it.
    """

    path: Path
    sha256: str
    tensors: dict[str, np.ndarray]
    folded: bool
    settings: dict[str, Any]
    input: str
    subject: Subject


def read_backbone(weights: str | Path) -> BackboneFile | None:
    """Read a `.pkl` backbone of Detectron2's form, or of Caffe2's (MSRA's ImageNet weights); nothing in it is run.

    Returns:
        None for `scratch`.

    Raises:
        UserError: absent, truncated, not a pickle of arrays, or without tensors; no bottleneck ResNet of 50, 101 or 152
            layers, the ones a C4 detector can use; or its input convention is none.
    """
    if weights == SCRATCH:
        return None
    path = Path(weights)
    try:
        contents = read_checkpoint(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        raise UserError(f"weights={path}: not a backbone file ({reason}); {REMEDY}") from error
    if contents.reader != "pickle":
        raise UserError(f"weights={path}: not a backbone file (read as {contents.reader}); {REMEDY}")
    # Detectron2 takes a file without an author for Caffe2's (detectron2/checkpoint, _load_file).
    folded = not {"model", "__author__"} <= set(contents.entries)
    container = next((f"{name}/" for name in ("model", "blobs") if name in contents.entries), "")
    tensors = {
        name.removeprefix(container): np.asarray(array)
        for name, array in contents.tensors.items()
        if name.startswith(container) and not isinstance(array, OpaqueTensor)
    }
    if not tensors:
        raise UserError(f"weights={path}: not a backbone file (no tensors in it); {REMEDY}")
    if folded:
        known = from_caffe2(tensors)
        tensors = {to_detectron2(known.get(n, n)): a for n, a in tensors.items() if not n.endswith("_momentum")}
    provenance = contents.provenance
    # What converters wrote says what it expects, Caffe2's files are MSRA's, and of others the recipe has to know.
    said = "provenance" if provenance.get("input") is not None else "msra" if folded else "recipe"
    settings = _architecture(path, tensors)
    subject = _subject(path, contents.sha256, settings, provenance)
    convention = MSRA_INPUT.detectron2() if said == "msra" else provenance.get("input")
    if convention is not None:
        convention = InputConvention.from_detectron2(convention, f"weights={path}: provenance.input").detectron2()
        settings |= {
            "MODEL.RESNETS.STRIDE_IN_1X1": convention["stride_in_1x1"], "INPUT.FORMAT": convention["format"],
            "MODEL.PIXEL_MEAN": convention["pixel_mean"], "MODEL.PIXEL_STD": convention["pixel_std"],
        }  # fmt: skip
    return BackboneFile(path, contents.sha256, tensors, folded, settings, said, subject)


def _architecture(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        stem, inner = (tensors[f"{name}.weight"].shape[0] for name in ("stem.conv1", "res2.0.conv1"))
        grouped, out = tensors["res2.0.conv2.weight"].shape[1], tensors["res2.0.conv3.weight"].shape[0]
        blocks = {name.split(".")[1] for name in tensors if name.startswith("res4.")}
        depth, groups = _DEPTHS[len(blocks)], inner // grouped
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"weights={path}: no bottleneck ResNet of 50, 101 or 152 layers in Detectron2's names; {REMEDY}"
        ) from error
    return {
        "MODEL.RESNETS.DEPTH": depth, "MODEL.RESNETS.NUM_GROUPS": groups, "MODEL.RESNETS.WIDTH_PER_GROUP": grouped,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem, "MODEL.RESNETS.RES2_OUT_CHANNELS": out,
    }  # fmt: skip


def _subject(path: Path, sha256: str, settings: dict[str, Any], provenance: dict[str, Any]) -> Subject:
    arch = Architecture(settings["MODEL.RESNETS.DEPTH"], settings["MODEL.RESNETS.STEM_OUT_CHANNELS"] / 64)
    said = {
        # Of a stranger's checkpoint the file's name is all that is known.
        "method": str(provenance.get("source", path.name)).split(".")[0],
        "checkpoint": provenance.get("source", str(path)),
        "checkpoint_sha256": provenance.get("sha256", sha256),
    }
    known = provenance.get("subject")
    if isinstance(known, dict):
        said |= {name: value for name, value in known.items() if value is not None}
    said["arch"] = provenance.get("arch", arch.name)
    return build(Subject, said, f"weights={path}: provenance.subject")

"""From a checkpoint file to a backbone in torchvision's names: recognise the format, rename, check."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.architecture import recognise
from converters.checks import Check, check_tensors
from converters.fetching import local
from converters.formats import Format, InputConvention
from converters.reading import Array, Contents, read
from converters.recognition import Match, find
from runs.errors import UserError
from runs.files import sha256

# detectron2/layers/batch_norm.py@a59f0563, FrozenBatchNorm2d: folded statistics stand for mean 0 and variance 1 - eps,
# so that the division by sqrt(variance + eps) is exactly by one.
FOLDED_VARIANCE = 1.0 - 1e-5


@dataclass(frozen=True)
class Backbone:
    """A ResNet without its classifier, read from a file and checked.

    Attributes:
        arch: its name, see `converters.architecture`.
        state_dict: torchvision's names -> float32 tensors, in torchvision's order; 265 for ResNet-50.
        format: the entry of `converters.formats` that the file matched.
        source_sha256: of the file.
        dropped: names in the file's container that are not in `state_dict`.
        input: what the network expects at its input.
        renamed: torchvision's name -> name in the file.
        reader, container, entries: how the file was read, where the tensors were, what is at its top level.
        caveat: what a conversion from this format cannot carry.
        checks: all that was verified, with figures.
    """

    arch: str
    state_dict: dict[str, Tensor]
    format: str
    source_sha256: str
    dropped: list[str]
    input: InputConvention
    renamed: dict[str, str] = field(default_factory=dict)
    reader: str = ""
    container: str = ""
    entries: list[str] = field(default_factory=list)
    caveat: str = ""
    checks: list[Check] = field(default_factory=list)


def load_backbone(path: str | Path, format: str | None = None, trust: bool = False) -> Backbone:
    """Read the backbone of any known checkpoint.

    Args:
        path: the checkpoint file, or an address (`https://`, `hf://`, `zoo:`, see `converters.fetching`).
        format: name of an entry of `converters.formats.FORMATS`; None recognises it.
        trust: unpickle a legacy file without restrictions, in a process of its own.

    Raises:
        UserError: the file cannot be read safely, has no or several formats, is no complete ResNet or fails a check.
    """
    path = local(path)
    contents = read(path, trust)
    digest = sha256(path)
    try:
        match = find(contents, format)
        return _assemble(contents, match, digest)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: needs more memory than there is; the file claims impossible sizes") from error
    except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # Tensors of strangers may be of any kind that torch knows, and torch refuses in many ways.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: its tensors cannot be used ({reason}); export them as plain float32") from error


def _assemble(contents: Contents, match: Match, digest: str) -> Backbone:
    entry = match.format
    arrays: dict[str, Array] = {}
    source: dict[str, str] = {}
    dropped = [name for name in match.names if name not in match.mapping]
    for name, renamed in match.mapping.items():
        if renamed.endswith(".num_batches_tracked"):
            dropped.append(name)
        elif renamed in source:
            raise UserError(f"{source[renamed]} and {name}: both stand for {renamed}; the file holds two backbones")
        else:
            source[renamed] = match.path(name)
            arrays[renamed] = contents.tensors[match.path(name)]
    for name, array in arrays.items():
        _check_plain(array, source[name])
    tensors = {name: _layout(array, entry) for name, array in arrays.items()}
    if not entry.statistics:
        _unfold(tensors, source)
    arch = recognise({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    ordered = {name: tensors[name] for name in arch.shapes()}
    checks = check_tensors(arch, ordered, source)
    for check in checks:
        if not check.passed:
            raise UserError(f"{check.name}: {check.figure}; {check.remedy}")
    _check_aliases(contents, match, ordered)
    # A cast may overflow: float64 weights beyond float32's range become infinite.
    state_dict = {name: tensor.float().contiguous() for name, tensor in ordered.items()}
    if not all(
        torch.isfinite(state_dict[name]).all() for name, tensor in ordered.items() if tensor.dtype == torch.float64
    ):
        raise UserError("finite: values beyond the range of float32; the file is damaged")
    return Backbone(
        arch=arch.name,
        state_dict=state_dict,
        format=entry.name,
        source_sha256=digest,
        dropped=dropped,
        input=_input(contents, entry),
        renamed=source,
        reader=contents.reader,
        container=match.container,
        entries=contents.entries,
        caveat=entry.caveat,
        checks=checks,
    )


def _check_plain(array: Array, name: str) -> None:
    """Refuse tensors that are no block of numbers in memory, before anything computes with them."""
    if isinstance(array, np.ndarray):
        return
    if array.layout != torch.strided or array.is_quantized or array.is_nested or array.device.type != "cpu":
        kind = "quantized" if array.is_quantized else f"{array.layout} on {array.device}".replace("torch.", "")
        raise UserError(f"{name}: not a plain tensor ({kind}); export it as plain float32")
    # A stride of zero lets a file of a kilobyte claim terabytes.
    if array.numel() * array.element_size() > array.untyped_storage().nbytes():
        raise UserError(f"{name}: claims {array.numel():,} values, more than the file holds; it is damaged or hostile")


def _layout(array: Array, entry: Format) -> Tensor:
    """As a torch tensor in torch's layout: kernels (out, in, height, width), vectors (channels,)."""
    if isinstance(array, np.ndarray):
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        # WHY: arrays that share the file's bytes are read-only, which torch warns about on every one.
        tensor = torch.from_numpy(native if native.flags.writeable else native.copy())
    else:
        tensor = array.detach()
    if entry.kernels == "HWIO" and tensor.dim() == 4:
        # Haiku keeps batch-norm vectors as (1, 1, 1, channels).
        return tensor.flatten() if tensor.shape[:3] == (1, 1, 1) else tensor.permute(3, 2, 0, 1)
    return tensor


def _unfold(tensors: dict[str, Tensor], source: dict[str, str]) -> None:
    for name in [name for name in tensors if name.endswith(".bias")]:
        norm = name.removesuffix(".bias")
        for part, value in (("running_mean", 0.0), ("running_var", FOLDED_VARIANCE)):
            tensors[f"{norm}.{part}"] = torch.full_like(tensors[name], value)
            source[f"{norm}.{part}"] = f"(folded into {source[name]})"


def _check_aliases(contents: Contents, match: Match, state_dict: dict[str, Tensor]) -> None:
    for alias in match.format.aliases:
        for name in match.names:
            renamed = match.format.rename(name[len(alias) :]) if name.startswith(alias) else None
            if renamed not in state_dict:
                continue
            copy = contents.tensors[match.path(name)]
            if not torch.equal(_layout(copy, match.format), state_dict[renamed]):
                raise UserError(f"{name}: differs from its second copy in the same file; the checkpoint is damaged")


def _input(contents: Contents, entry: Format) -> InputConvention:
    values: Any = contents.provenance.get("input")
    if values is None:
        return entry.input
    try:
        return InputConvention.from_detectron2(values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "provenance.input: not an input convention of this project; convert the original again"
        ) from error

"""From a checkpoint file to a backbone in torchvision's names: recognise the network, rename, check."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from converters.architecture import Architecture
from converters.checkpoint_layouts import InputConvention
from converters.checks import Check, digest_check, require, tensor_checks
from converters.fetching import fetch
from converters.reading import prefix_errors, read_checkpoint
from converters.recognition import find_network
from converters.stated_settings import stated_or_assumed_convention
from converters.without_dynamo import without_dynamo
from runs.errors import UserError

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet


@dataclass(frozen=True)
class Backbone:
    """A ResNet without its classifier, read from a file and checked.

    Attributes:
        path: the file.
        architecture: see `converters.architecture`; `arch` is its name.
        state_dict: torchvision's names -> float32 tensors, in torchvision's order; 265 for ResNet-50.
        format: the entry of `converters.checkpoint_layouts` that the file matched.
        source_sha256: of the file.
        dropped: names in the file's container that are not in `state_dict`.
        input: what the network expects at its input.
        assumed: where `input` comes from: the file, the format, or nothing.
        prefix: the network's path in the file, wrappers left out.
        others: other networks in the file, which `--prefix` reads.
        renamed: torchvision's name -> name in the file.
        reader, container, entries: how the file was read, where the tensors were, what is at its top level.
        caveat: what a conversion from this format cannot carry.
        batches: that made the batch norms' statistics (`num_batches_tracked`); 0 where the file does not say.
        checks: all that was verified, with figures.
    """

    path: Path
    architecture: Architecture
    state_dict: dict[str, Tensor]
    format: str
    source_sha256: str
    dropped: list[str]
    input: InputConvention
    assumed: str
    prefix: str
    others: list[str]
    renamed: dict[str, str]
    reader: str
    container: str
    entries: list[str]
    caveat: str
    batches: int
    checks: list[Check]

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return self.architecture.name

    def facts(self) -> dict[str, Any]:
        """What a report and a converted file's provenance both say, as plain values."""
        return {
            "sha256": self.source_sha256,
            "format": self.format,
            "prefix": self.prefix,
            "arch": self.arch,
            "input": self.input.detectron2(),
            "assumed": self.assumed,
            "dropped": list(self.dropped),
            "caveat": self.caveat,
        }

    def network(self) -> "ResNet":
        """The network itself, in eval mode: torchvision's modules with this one's strides, padding and weights."""
        return build_network(self.arch, self.state_dict, self.input)

    def rgb(self) -> "Backbone":
        """The same for RGB images: where it expects BGR, its first filters, mean and std are turned round."""
        if self.input.channels == "RGB":
            return self
        turned = replace(self.input, channels="RGB", mean=self.input.mean[::-1], std=self.input.std[::-1])
        first = self.state_dict["conv1.weight"].flip(1)
        return replace(self, state_dict={**self.state_dict, "conv1.weight": first}, input=turned)


def build_network(arch_name: str, state_dict: dict[str, Tensor], convention: InputConvention) -> "ResNet":
    """torchvision's network around the tensors, in eval mode; nothing is copied."""
    with without_dynamo():
        from converters.resnet_model import SkipInit, build_resnet

        with torch.device("meta"), SkipInit():
            network = build_resnet(arch_name)
    counts = {
        name: torch.zeros((), dtype=torch.long) for name, _ in network.named_buffers() if name.endswith("tracked")
    }
    network.load_state_dict(state_dict | counts, assign=True)
    if convention.stride_in_1x1 and network.layer1[0].conv1.kernel_size == (1, 1):
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    if network.conv1.kernel_size == (3, 3):
        network.conv1.padding = (convention.stem_padding, convention.stem_padding)
    return network.eval()


def load_backbone(
    path: str | Path, format: str | None = None, prefix: str | None = None, sha256: str | None = None
) -> Backbone:
    """Read the backbone of any checkpoint that holds a complete ResNet.

    Args:
        path: the checkpoint file, or an address (`https://`, `hf://`, `zoo:`, see `converters.fetching`).
        format: name of an entry of `converters.checkpoint_layouts.FORMATS`; None recognises it.
        prefix: the network's path in the file, where it holds several.
        sha256: what the file's must be.

    Raises:
        UserError: the file cannot be read safely, has no or several networks, or fails a check.
    """
    path = fetch(path)
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 {sha256}: not 64 hexadecimal digits; give the whole sum")
    contents = read_checkpoint(path)
    if sha256 and sha256.lower() != contents.sha256:
        raise UserError(f"{path}: sha256 {contents.sha256}, not {sha256.lower()}; fetch the file again")
    # Tensors of strangers may be of any kind that torch knows, and torch refuses in many ways.
    foreign = (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError)
    with prefix_errors(path, "its tensors cannot be used ({}); export them as plain float32", foreign):
        network = find_network(contents, format, prefix)
        ordered = {name: network.tensors[name] for name in network.architecture.shapes}
        checks = tensor_checks(ordered, network.source)
        require(checks, path)
        state_dict = {name: tensor.float().contiguous() for name, tensor in ordered.items()}
        checks.append(digest_check(contents, state_dict))
        require(checks, path)
        convention, assumed = stated_or_assumed_convention(contents, network, path)
    return Backbone(
        path=path,
        architecture=network.architecture,
        state_dict=state_dict,
        format=network.format.name,
        source_sha256=contents.sha256,
        dropped=network.dropped,
        input=convention,
        assumed=assumed,
        prefix=network.path,
        others=network.others,
        renamed={name: network.source[name] for name in ordered},
        reader=contents.reader,
        container=network.container,
        entries=contents.entries,
        caveat=network.format.caveat,
        batches=network.batches,
        checks=checks,
    )

"""Find every complete ResNet in a file, and choose the one that is meant by a short list of rules.

Names and shapes decide what is a network. Its path says whether it is a copy (momentum encoder, moving average); the
table of formats adds what tensors cannot say.
"""

import os
import re
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converters.architecture import Architecture, folded_norm_tensors, is_convolution_bias, norm_of, recognise_arch
from converters.checkpoint_layouts import FORMATS, PLUGIN_SCHEMES, Format
from converters.naming_schemes import SCHEMES, Scheme, path_by_plain_path, plain_path
from converters.reading import Contents
from converters.safe_pickle import OpaqueTensor
from runs.errors import UserError

# detectron2/layers/batch_norm.py@a59f0563, FrozenBatchNorm2d: folded statistics stand for mean 0 and variance 1 - eps,
# so that the division by sqrt(variance + eps) is exactly by one.
FOLDED = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - 1e-5}
# Words of a path: a copy that follows the trained network, and a mean of it over time.
MOMENTUM = {"k", "m", "key", "momentum", "target", "teacher", "slow"}
AVERAGED = {"ema", "swa", "avg", "averaged", "average", "shadow"}
# Lightning's WeightAveraging keeps the mean as `state_dict` and the last weights here.
BEFORE_AVERAGING = {"current"}
_OTHER_KINDS = {
    r"cls_token$|pos_embed$|patch_embed|\.attn\.qkv|\.attention\.": "a transformer",
    r"block1\.unit01\.": "BiT, whose convolutions have standardised weights and group norm",
    r"dwconv|stages\.\d\.\d\.gamma": "a ConvNeXt",
    r"(^|[._])flat_param": "FSDP's flattened parameters; save it with StateDictType.FULL_STATE_DICT",
}


@dataclass(frozen=True, eq=False)
class Network:
    """A complete ResNet in a file.

    Attributes:
        path: before its own names, wrappers left out: "state_dict.encoder", empty for the top level.
        architecture: what it is.
        tensors: torchvision's name -> tensor in torch's layout, in the file's type.
        source: torchvision's name -> path in the file, or what a tensor that is not in it was folded into.
        batches: that made the batch norms' statistics (`num_batches_tracked`); 0 where the file does not say.
        format: the entry of the table that it matches.
        others: other networks in the file.
        container: where in the file its tensors are, empty for the top level.
        dropped: names in the container that are not its own.
    """

    path: str
    architecture: Architecture
    tensors: dict[str, Tensor]
    source: dict[str, str]
    batches: int
    format: Format
    others: list[str] = field(default_factory=list)
    container: str = ""
    dropped: list[str] = field(default_factory=list)

    @property
    def copy_kind(self) -> str:
        """What kind of copy its path names; empty for the trained network."""
        words = set(re.split(r"[._]", self.path))
        for kind, known in (("momentum", MOMENTUM), ("averaged", AVERAGED), ("not averaged", BEFORE_AVERAGING)):
            if words & known:
                return kind
        return ""


def find_network(contents: Contents, format: str | None = None, prefix: str | None = None) -> Network:
    """The network of a file: at the path `prefix` and by the table's entry `format`, where the user says so.

    Raises:
        UserError: there is none, `format` or `prefix` does not fit, or several different ones remain.
    """
    entry = next((entry for entry in FORMATS if entry.name == format), None)
    if format and entry is None:
        raise UserError(f"--format: unknown format {format!r}; known: {', '.join(entry.name for entry in FORMATS)}")
    if not contents.tensors:
        listed = f"only {', '.join(contents.entries[:6])}" if contents.entries else "nothing at all"
        raise UserError(f"holds no tensors ({listed}); give a checkpoint with a state dict")
    found = _complete_networks(contents, entry)
    if prefix is not None:
        wanted = plain_path(f"{prefix}.").strip(".")
        chosen = [network for network in found if network.path == wanted]
        if not chosen:
            raise UserError(f"--prefix {prefix}: no complete network there; {_listed(found)}")
    else:
        chosen = _choose(found, entry)
    distinct = _distinct(chosen)
    if len(distinct) > 1:
        differing = _count_differing(distinct[0], distinct[1])
        raise UserError(
            f"holds {len(distinct)} different networks, {_listed(distinct)}, two differ in {differing} tensors; "
            "choose one with --prefix PATH"
        )
    used = {place for place in distinct[0].source.values() if place in contents.tensors}
    container = "/".join(os.path.commonprefix([place.split("/")[:-1] for place in used]))  # noqa: RUF071
    inside = f"{container}/" if container else ""
    return replace(
        distinct[0],
        others=[f"{o.path} ({o.copy_kind or 'another'}, {o.architecture.name})" for o in found if o not in chosen],
        container=container,
        dropped=[plain_path(p[len(inside) :]) for p in contents.tensors if p.startswith(inside) and p not in used],
    )


def _complete_networks(contents: Contents, entry: Format | None) -> list[Network]:
    names = path_by_plain_path(contents.tensors)
    found: list[Network] = []
    near: list[tuple[int, str]] = []
    for scheme in (*SCHEMES, *PLUGIN_SCHEMES):
        if entry and scheme.name not in entry.schemes:
            continue
        try:
            trees = scheme.networks(names)
        except UserError as error:
            near.append((0, str(error)))
            continue
        for root, mapping in trees.items():
            try:
                found.append(_network(contents, scheme, root.strip("."), mapping, names, entry))
            except UserError as error:
                near.append((len(mapping), str(error)))
    if not found:
        raise UserError(_explain(contents, near, entry))
    return found


def _network(
    contents: Contents, scheme: Scheme, path: str, mapping: dict[str, str], names: dict[str, str], entry: Format | None
) -> Network:  # fmt: skip
    """The network of the tensors that `mapping` names; UserError where they are not those of a ResNet that is known."""
    tensors: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    counts = []
    for old, name in mapping.items():
        place, array = names[old], contents.tensors[names[old]]
        if name.endswith(".num_batches_tracked"):
            counts += [int(array)] if isinstance(array, Tensor) and array.numel() == 1 else []
            continue
        if name in source:
            raise UserError(f"{source[name]} and {place}: both are {name}; the file holds two backbones")
        if isinstance(array, OpaqueTensor):
            raise UserError(f"{place}: not a plain tensor ({array.kind}); export it as plain float32")
        source[name], tensors[name] = place, _in_torchs_layout(array, scheme)
    if scheme.folded:
        _unfold(tensors, source)
    architecture = recognise_arch({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    format = entry or _format(path, scheme, names, contents)
    return Network(path, architecture, tensors, source, min(counts, default=0), format)


def _in_torchs_layout(array: Tensor | np.ndarray[Any, Any], scheme: Scheme) -> Tensor:
    """Kernels (out, in, height, width), vectors (channels,); shares the memory of the file."""
    if isinstance(array, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it is read-only
            array = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if scheme.kernels == "HWIO" and array.dim() == 4:
        # Haiku keeps batch-norm vectors as (1, 1, 1, channels).
        return array.flatten() if array.shape[:3] == (1, 1, 1) else array.permute(3, 2, 0, 1)
    return array


def _unfold(tensors: dict[str, Tensor], source: dict[str, str]) -> None:
    """Add the batch-norm tensors that the file has folded into others, and move biases of convolutions into them."""
    for name, like in folded_norm_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()}).items():
        tensors[name] = torch.full(tensors[like].shape[:1], FOLDED[name.rpartition(".")[2]], dtype=tensors[like].dtype)
        source[name] = f"(folded into {source[like]})"
    for name in [name for name in tensors if is_convolution_bias(name)]:
        mean = f"{norm_of(name.removesuffix('.bias'))}.running_mean"
        bias = tensors.pop(name)
        if bias.any():
            tensors[mean] = tensors[mean] - bias


def _format(path: str, scheme: Scheme, names: dict[str, str], contents: Contents) -> Format:
    """The first entry of the table that has this scheme and path, and whose other names are in the file."""
    known = [*names, *(f"{entry}." for entry in contents.entries)]
    return next(
        entry
        for entry in FORMATS
        if scheme.name in entry.schemes
        and (not entry.paths or path in entry.paths)
        and all(any(other in name for name in known) for other in entry.beside)
    )


def _choose(found: list[Network], entry: Format | None) -> list[Network]:
    """The trained networks: those a format prefers, else those that are no copy, else a mean over time."""
    if entry and entry.paths:
        found = [network for network in found if network.path in entry.paths] or found
    for rule in (
        lambda network: network.format.preferred,
        lambda network: not network.copy_kind,
        lambda network: network.copy_kind == "averaged",
    ):
        if chosen := [network for network in found if rule(network)]:
            return chosen
    paths = ", ".join(network.path for network in found)
    raise UserError(
        f"holds only the momentum encoder ({paths}), not the trained one; give the full checkpoint, or take it "
        f"as it is with --prefix {found[0].path}"
    )


def _count_differing(one: Network, other: Network) -> int:
    return sum(not torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def _distinct(networks: list[Network]) -> list[Network]:
    """Of networks with the same tensors the first."""
    kept: list[Network] = []
    for network in networks:
        if not any(
            other.architecture == network.architecture and not _count_differing(other, network) for other in kept
        ):
            kept.append(network)
    return kept


def _listed(networks: list[Network]) -> str:
    return ", ".join(f"{network.path or 'the top level'} ({network.architecture.name})" for network in networks[:8])


def _explain(contents: Contents, near: list[tuple[int, str]], entry: Format | None) -> str:
    """Why there is no complete network, by the nearest thing to one."""
    if near:
        return max(near)[1]
    if entry:
        return f"--format {entry.name}: no network with such names; leave it out"
    names = list(contents.tensors)
    for pattern, kind in _OTHER_KINDS.items():
        if any(re.search(pattern, plain_path(name)) for name in names):
            return f"no ResNet in it: {kind}; give a ResNet checkpoint, docs/formats.md says which"
    stems = [name for name in names if re.search(r"(^|[./])(conv1|stem\.conv1)\.weight$", name)]
    if stems:
        return f"{stems[0]}: a first convolution, but no layers of a ResNet with it; give the complete checkpoint"
    return f"no ResNet in it (tensors such as {', '.join(names[:3])}); see docs/formats.md for what is known"

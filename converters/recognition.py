"""Which network of a file is meant: every complete ResNet tree in it, and a short list of rules to choose by.

Names and shapes decide what is a network. Its path says whether it is a copy (momentum encoder, moving average); the
table of formats adds what tensors cannot say.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from converters.architecture import Architecture, folded_norms, is_convolution_bias, recognise
from converters.formats import FORMATS, PLUGIN_SCHEMES, Format, by_name
from converters.naming_schemes import SCHEMES, Scheme, fold, folded
from converters.reading import Contents
from converters.safe_pickle import Opaque
from runs.errors import UserError

# Words of a path: a copy that follows the trained network, and a mean of it over time.
MOMENTUM = {"k", "m", "key", "momentum", "target", "teacher", "slow"}
AVERAGED = {"ema", "swa", "avg", "averaged", "average", "shadow"}
# Lightning's WeightAveraging keeps the mean as `state_dict` and the last weights here.
BEFORE_AVERAGING = {"current"}
_OTHER_KINDS = {
    r"cls_token$|pos_embed$|patch_embed|\.attn\.qkv|\.attention\.": "a transformer",
    r"block1\.unit01\.": "BiT, whose convolutions have standardised weights and group norm",
    r"dwconv|stages\.\d\.\d\.gamma": "a ConvNeXt",
    r"_flat_param": "FSDP's flattened parameters; save it with StateDictType.FULL_STATE_DICT",
}


@dataclass(frozen=True)
class Network:
    """A complete ResNet in a file.

    Attributes:
        path: before its own names, wrappers left out: "state_dict.encoder", empty for the top level.
        scheme: how its parts are named.
        arch: what it is.
        tensors: torchvision's name -> path in the file; the scheme's names, before anything is folded or added.
        format: the entry of the table that it matches.
    """

    path: str
    scheme: Scheme
    arch: Architecture
    tensors: dict[str, str]
    format: Format
    others: list[str] = field(default_factory=list)

    @property
    def copy(self) -> str:
        """What kind of copy its path names; empty for the trained network."""
        words = set(re.split(r"[._]", self.path))
        for kind, known in (("momentum", MOMENTUM), ("averaged", AVERAGED), ("not averaged", BEFORE_AVERAGING)):
            if words & known:
                return kind
        return ""


def find(contents: Contents, format: str | None = None, prefix: str | None = None) -> Network:
    """The network of a file.

    Args:
        contents: the file.
        format: the table's entry that the user says it has; None recognises it.
        prefix: the path of the network that the user wants, where there are several.

    Raises:
        UserError: there is none, `format` or `prefix` does not fit, or several different ones remain.
    """
    entry = by_name(format) if format else None
    if format and entry is None:
        raise UserError(f"--format: unknown format {format!r}; known: {', '.join(entry.name for entry in FORMATS)}")
    if not contents.tensors:
        listed = f"only {', '.join(contents.entries[:6])}" if contents.entries else "nothing at all"
        raise UserError(f"holds no tensors ({listed}); give a checkpoint with a state dict")
    found = _complete(contents, entry)
    if prefix is not None:
        wanted = fold(f"{prefix}.").strip(".")
        chosen = [network for network in found if network.path == wanted]
        if not chosen:
            raise UserError(f"--prefix {prefix}: no complete network there; {_listed(found)}")
    else:
        chosen = _choose(found, entry)
    distinct = _distinct(contents, chosen)
    if len(distinct) > 1:
        differing = _differing(contents, distinct[0], distinct[1])
        raise UserError(
            f"holds {len(distinct)} different networks, {_listed(distinct)}, two differ in {differing} tensors; "
            "choose one with --prefix PATH"
        )
    network = distinct[0]
    network.others.extend(
        f"{other.path} ({other.copy or 'another'}, {other.arch.name})" for other in found if other not in chosen
    )
    return network


def _complete(contents: Contents, entry: Format | None) -> list[Network]:
    names = folded(contents.tensors)
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
                path, tensors = root.strip("."), dict[str, str]()
                for old, name in mapping.items():
                    if name in tensors:
                        raise UserError(f"{tensors[name]} and {old}: both are {name}; the file holds two backbones")
                    tensors[name] = names[old]
                arch = _architecture(contents, tensors, scheme)
            except UserError as error:
                near.append((len(mapping), str(error)))
                continue
            found.append(Network(path, scheme, arch, tensors, entry or _format(path, scheme, names, contents)))
    if not found:
        raise UserError(_explain(contents, near, entry))
    return found


def _architecture(contents: Contents, tensors: dict[str, str], scheme: Scheme) -> Architecture:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, path in tensors.items():
        if name.endswith(".num_batches_tracked"):
            continue
        tensor = contents.tensors[path]
        if isinstance(tensor, Opaque):
            raise UserError(f"{path}: not a plain tensor ({tensor.kind}); export it as plain float32")
        shape = tuple(tensor.shape)
        if scheme.kernels == "HWIO" and len(shape) == 4:
            # Haiku keeps batch-norm vectors as (1, 1, 1, channels).
            shape = shape[3:] if shape[:3] == (1, 1, 1) and "conv" not in name else (shape[3], shape[2], *shape[:2])
        shapes[name] = shape
    if scheme.folded:
        shapes |= {name: shapes[like][:1] for name, like in folded_norms(shapes).items()}
        shapes = {name: shape for name, shape in shapes.items() if not is_convolution_bias(name)}
    return recognise(shapes)


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
        lambda network: not network.copy,
        lambda network: network.copy == "averaged",
    ):
        if chosen := [network for network in found if rule(network)]:
            return chosen
    paths = ", ".join(network.path for network in found)
    raise UserError(
        f"holds only the momentum encoder ({paths}), not the trained one; give the full checkpoint, or take it "
        f"as it is with --prefix {found[0].path}"
    )


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.data_ptr() == second.data_ptr() or torch.equal(first, second)
    return first is second or np.array_equal(np.asarray(first), np.asarray(second))


def _differing(contents: Contents, one: Network, other: Network) -> int:
    shared = {name for name in one.tensors if name in other.tensors and not name.endswith("num_batches_tracked")}
    return len(one.arch.shapes()) - sum(
        _same(contents.tensors[one.tensors[name]], contents.tensors[other.tensors[name]]) for name in shared
    )


def _distinct(contents: Contents, networks: list[Network]) -> list[Network]:
    """Of networks with the same tensors the first."""
    kept: list[Network] = []
    for network in networks:
        if not any(other.arch == network.arch and not _differing(contents, other, network) for other in kept):
            kept.append(network)
    return kept


def _listed(networks: list[Network]) -> str:
    return ", ".join(f"{network.path or 'the top level'} ({network.arch.name})" for network in networks[:8])


def _explain(contents: Contents, near: list[tuple[int, str]], entry: Format | None) -> str:
    """Why there is no complete network, by the nearest thing to one."""
    if near:
        return max(near)[1]
    if entry:
        return f"--format {entry.name}: no network with such names; leave it out"
    names = list(contents.tensors)
    for path, tensor in contents.tensors.items():
        if isinstance(tensor, Opaque):
            return f"{path}: not a plain tensor ({tensor.kind}); join or export it as plain float32"
    for pattern, kind in _OTHER_KINDS.items():
        if any(re.search(pattern, fold(name)) for name in names):
            return f"no ResNet in it: {kind}; give a ResNet checkpoint, docs/formats.md says which"
    stems = [name for name in names if re.search(r"(^|[./])(conv1|stem\.conv1)\.weight$", name)]
    if stems:
        return f"{stems[0]}: a first convolution, but no layers of a ResNet with it; give the complete checkpoint"
    return f"no ResNet in it (tensors such as {', '.join(names[:3])}); see docs/formats.md for what is known"

"""Which format a file has: exactly one entry of the table, or an error that says why not."""

import re
from dataclasses import dataclass

from converters.formats import FORMATS, Format, by_name
from converters.reading import Contents
from runs.errors import UserError

# What wrappers put in front of every name: DistributedDataParallel, and torch.compile's OptimizedModule.
WRAPPERS = ("module.", "_orig_mod.")
_MOMENTUM = r"((module\.)?(encoder_k|momentum_\w+|target_\w+|teacher_\w+|key_\w+|\w+_momentum|\w+_ema))\b"


@dataclass(frozen=True)
class Match:
    """A format and where it found the backbone.

    Attributes:
        format: the entry.
        container: where in the file, "" for the top level.
        wrapper: the wrapper's prefix that all names in the container share.
        names: all names in the container, without the wrapper.
        mapping: of these, the backbone's -> torchvision's names.
    """

    format: Format
    container: str
    wrapper: str
    names: list[str]
    mapping: dict[str, str]

    def path(self, name: str) -> str:
        """The tensor's path in the file."""
        return (f"{self.container}/" if self.container else "") + self.wrapper + name

    @property
    def has_required(self) -> bool:
        """Whether everything that the format requires is there."""
        return all(any(re.match(pattern, name) for name in self.names) for pattern in self.format.requires)

    @property
    def has_stem(self) -> bool:
        """Whether the first convolution is among the backbone's tensors."""
        return any(renamed.startswith("conv1.") for renamed in self.mapping.values())


def find(contents: Contents, name: str | None = None) -> Match:
    """The one format of a file.

    Args:
        contents: the file.
        name: the format that the user says it has; None recognises it.

    Raises:
        UserError: `name` is unknown or does not fit, no format fits, or several do.
    """
    if not contents.tensors:
        listed = f"only {', '.join(contents.entries[:6])}" if contents.entries else "nothing at all"
        raise UserError(f"holds no tensors ({listed}); give a checkpoint with a state dict")
    if name is not None:
        return _forced(contents, name)
    matches = [match for entry in FORMATS if (match := _match(contents, entry, strict=True))]
    if not matches:
        # WHY: a file stripped of its heads lacks what tells projects apart; if only one layout fits, it is that one.
        matches = [match for entry in FORMATS if (match := _match(contents, entry, strict=False))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(match.format.name for match in matches)
        raise UserError(f"matches several formats: {names}; choose one with --format")
    raise UserError(_explain(contents))


def _forced(contents: Contents, name: str) -> Match:
    entry = by_name(name)
    if entry is None:
        known = ", ".join(entry.name for entry in FORMATS)
        raise UserError(f"--format: unknown format {name!r}; known: {known}")
    for container in entry.containers:
        match = _in_container(contents, entry, container)
        if match and match.has_stem:
            return match
    where = " or ".join(f"{container or 'the top level'}" for container in entry.containers)
    raise UserError(
        f"--format {name}: no first convolution under {' or '.join(entry.prefixes)!r} in {where}; leave it out"
    )


def _match(contents: Contents, entry: Format, strict: bool) -> Match | None:
    top = set(contents.entries)
    if not top.issuperset(entry.entries) or top.intersection(entry.without):
        return None
    for container in entry.containers:
        match = _in_container(contents, entry, container)
        if match is None or not match.has_stem or entry.unknown(match.names, match.mapping):
            continue
        if match.has_required or not strict:
            return match
    return None


def _in_container(contents: Contents, entry: Format, container: str) -> Match | None:
    start = f"{container}/" if container else ""
    names = [path[len(start) :] for path in contents.tensors if path.startswith(start)]
    if not names:
        return None
    wrapper = ""
    while found := next((prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in names)), None):
        wrapper += found
        names = [name[len(found) :] for name in names]
    return Match(entry, container, wrapper, names, entry.mapping(names))


def _explain(contents: Contents) -> str:
    """Why no format fits, by the nearest one."""
    names = list(contents.tensors)
    online = [name for name in names if not re.search(rf"(^|/){_MOMENTUM}", name)]
    if not any(re.search(r"conv|features|kernel", name) for name in online) and len(online) < len(names):
        prefixes = [found[2] for name in names if (found := re.search(rf"(^|/){_MOMENTUM}", name))]
        return f"holds only the momentum encoder ({prefixes[0]}), not the trained one; give the full checkpoint"
    near: list[tuple[bool, int, str, str]] = []
    for entry in FORMATS:
        for container in entry.containers:
            match = _in_container(contents, entry, container)
            if match and match.has_stem and (unknown := entry.unknown(match.names, match.mapping)):
                near.append((not match.has_required, len(unknown), entry.name, unknown[0]))
    if near:
        _, count, name, first = min(near, key=lambda found: found[:2])
        rest = "is" if count == 1 else f"and {count - 1} more are"
        return f"nearest to the format {name}, but {first} {rest} no part of it; --format {name} drops such tensors"
    stems = [name for name in names if re.search(r"(^|[./])conv1\.weight$", name)]
    if stems:
        prefix = stems[0].removesuffix("conv1.weight")
        return f"a backbone under the unknown prefix {prefix!r}; rename it, or name a --format"
    return f"no ResNet in it (tensors such as {', '.join(names[:3])}); see docs/formats.md for what is known"

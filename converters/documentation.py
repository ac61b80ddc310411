"""The table of formats in docs/formats.md, generated: `python -m converters.documentation` writes it."""

from pathlib import Path

from converters.formats import FORMATS, Format, InputConvention
from runs.files import atomic_write

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"

_HEAD = """\
# Checkpoint formats

<!-- Generated from converters/formats.py by `python -m converters.documentation`; a test keeps it current. -->

A file is recognised by its tensors: the container, the prefix before the backbone's names, and what else lies beside
them. `module.` of DistributedDataParallel and `_orig_mod.` of torch.compile in front of every name are seen through.
Where two formats fit, the command stops and names both; `--format NAME` decides. A tensor that a format does not know
is an error, unless the format was named.

| format | written by | container | prefix | not the backbone (dropped) | names from |
| --- | --- | --- | --- | --- | --- |
"""
_INPUT = """
## Input conventions and caveats

Every network expects RGB images in [0, 1] with ImageNet's mean and standard deviation, and has a bottleneck's stride in
its 3x3 convolution, unless the table says otherwise. The convention travels in the converted file, where `transfer`
reads it.

| format | input | caveat |
| --- | --- | --- |
"""
_ARCHITECTURES = """
## Architectures

ResNet-18, 34, 50, 101 and 152, recognised from the tensors, with any width `xN` (all channels scaled: `resnet50x2`,
`resnet50x0.25`), the wide networks `wide_resnet50_2` and `wide_resnet101_2`, and the 3x3 stem without pooling for small
images (`resnet18_cifar`; torchvision target only, since Detectron2's ResNet has no such stem). Refused with the reason:
deep stems (timm's resnet*d/c/s), channel attention (SE, ECA, SK), average pooling in shortcuts (ResNet-D), grouped
convolutions (ResNeXt), convolutions with bias.
"""


def page() -> str:
    """The text of docs/formats.md."""
    rows = "".join(_row(entry) for entry in FORMATS)
    special = "".join(_special(entry) for entry in FORMATS if entry.caveat or entry.input != InputConvention())
    return _HEAD + rows + _INPUT + special + _ARCHITECTURES


def _row(entry: Format) -> str:
    containers = ", ".join(f"`{container}`" if container else "top level" for container in entry.containers)
    containers += f" (beside {', '.join(f'`{name}`' for name in entry.entries)})" if entry.entries else ""
    prefixes = ", ".join(f"`{prefix}`" if prefix else "none" for prefix in entry.prefixes)
    prefixes += f"; again under {', '.join(f'`{alias}`' for alias in entry.aliases)}" if entry.aliases else ""
    dropped = ", ".join(f"`{_escape(pattern)}`" for pattern in entry.drop) or "nothing"
    cells = (f"`{entry.name}`", entry.title, containers, prefixes, dropped, entry.source)
    return f"| {' | '.join(cells)} |\n"


def _special(entry: Format) -> str:
    convention = entry.input.detectron2()
    usual = InputConvention().detectron2()
    differs = ", ".join(f"{key} {value}" for key, value in convention.items() if value != usual[key])
    return f"| `{entry.name}` | {differs or 'as usual'} | {entry.caveat or '-'} |\n"


def _escape(pattern: str) -> str:
    return pattern.replace("|", "\\|")


if __name__ == "__main__":
    with atomic_write(PAGE, "w") as file:
        file.write(page())

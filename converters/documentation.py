"""The table of formats in docs/formats.md, generated: `python -m converters.documentation` writes it."""

from pathlib import Path

from converters.formats import FORMATS, Format, InputConvention
from runs.files import atomic_write

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"

_HEAD = """\
# Checkpoint formats

<!-- Generated from converters/formats.py by `python -m converters.documentation`; a test keeps it current. -->

A network is recognised by its tensors, under any path in the file: names, shapes and completeness decide. Wrappers
(DistributedDataParallel, torch.compile, FSDP, activation checkpointing, AveragedModel) are seen through wherever they
stand; heads and whatever else lies beside the network are dropped and listed. Of several networks the trained one is
taken before a momentum copy or a mean over time, which the report names; where two different ones remain,
`--prefix PATH` decides. The table lists the projects whose files were tested, and what their tensors do not say. Paths
are without wrappers, dictionary keys and module names joined by dots.

| format | written by | path | beside it | names from |
| --- | --- | --- | --- | --- |
"""
_INPUT = """
## Input conventions and caveats

Every network expects RGB images in [0, 1] with ImageNet's mean and standard deviation, and has a bottleneck's stride in
its 3x3 convolution, unless the file, a `config.json` or `preprocessor_config.json` beside it,
or the table says otherwise. The convention travels in the converted file, where `transfer` reads it.

| format | input | caveat |
| --- | --- | --- |
"""
_ARCHITECTURES = """
## Architectures

ResNet-18, 34, 50, 101 and 152, recognised from the tensors, with any width `xN` (all channels scaled: `resnet50x2`,
`resnet50x0.25`), the wide networks `wide_resnet50_2` and `wide_resnet101_2`, and the 3x3 stem without pooling for small
images (`resnet18_cifar`; torchvision target only, since Detectron2's ResNet has no such stem). Refused with the reason:
deep stems (timm's resnet*d/c/s), channel attention (SE, ECA, SK), average pooling in shortcuts (ResNet-D), grouped
convolutions (ResNeXt), convolutions with bias, group norm, weight norm, pruning masks, and, where the file or a
configuration beside it says so, blur pooling, other activations, dilation and standardised weights, which
have no tensors.
"""


def page() -> str:
    """The text of docs/formats.md."""
    rows = "".join(_row(entry) for entry in FORMATS)
    special = "".join(_special(entry) for entry in FORMATS if entry.caveat or _differs(entry))
    return _HEAD + rows + _INPUT + special + _ARCHITECTURES


def _row(entry: Format) -> str:
    paths = ", ".join(f"`{path}`" if path else "top level" for path in entry.paths) or "anywhere"
    beside = ", ".join(f"`{name}`" for name in entry.beside) or "-"
    return f"| {' | '.join((f'`{entry.name}`', entry.title, paths, beside, entry.source))} |\n"


def _special(entry: Format) -> str:
    return f"| `{entry.name}` | {_differs(entry) or 'as usual'} | {entry.caveat or '-'} |\n"


def _differs(entry: Format) -> str:
    usual = InputConvention().detectron2()
    differing = [f"{key} {value}" for key, value in entry.input.detectron2().items() if value != usual[key]]
    return ", ".join(differing + (["the 3x3 stem pads by 2"] if entry.cifar_padding == 2 else []))


if __name__ == "__main__":
    with atomic_write(PAGE, "w") as file:
        file.write(page())

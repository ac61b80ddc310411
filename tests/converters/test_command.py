"""The command line: exit statuses, the table, the JSON report against its documented schema, no torch for --help."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from torchvision.models.resnet import ResNet

from converters.checkpoint_layouts import FORMATS, InputConvention
from tests.converters import layouts
from tests.converters.layouts import LAYOUTS, Layout

Command = Callable[..., Any]


@pytest.fixture
def checkpoint(tmp_path: Path, backbone: ResNet) -> Path:
    return Layout("simsiam", layouts.simsiam).write(tmp_path, backbone)


@pytest.fixture(scope="session")
def schema(root: Path) -> dict[str, Any]:
    page = (root / "docs" / "converters.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    return json.loads(block)


def test_table_of_formats_is_current(root: Path) -> None:
    page = (root / "docs" / "formats.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    listed = [(row[0], row[2], row[3]) for row in rows if len(row) == 5]
    special = {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}

    def cell(texts: tuple[str, ...], none: str) -> str:
        return ", ".join(f"`{text}`" if text else "top level" for text in texts) or none

    assert listed == [(f"`{e.name}`", cell(e.paths, "anywhere"), cell(e.beside, "-")) for e in FORMATS]
    usual, expected = InputConvention().detectron2(), {}
    for entry in FORMATS:
        differs = [f"{key} {value}" for key, value in entry.input.detectron2().items() if value != usual.get(key)]
        if differs or entry.caveat:
            expected[f"`{entry.name}`"] = (", ".join(differs) or "as usual", entry.caveat or "-")
    assert special == expected


def test_inspect_prints_the_checks_and_writes_nothing(checkpoint: Path, converters: Command) -> None:
    before = sorted(checkpoint.parent.iterdir())
    outcome = converters("inspect", checkpoint)
    assert outcome.status == 0 and outcome.err == ""
    for text in (
        "simsiam", "resnet50x0.25", "265 = 53 convolutions + 53 x 4 of batch norm", "features res5", "encoder.fc (14)",
        "num_batches_tracked (57)", "state_dict/module.encoder.conv1.weight -> conv1.weight", "RGB, mean 0.485",
    ):  # fmt: skip
        assert text in outcome.out, text
    assert sorted(checkpoint.parent.iterdir()) == before


@pytest.mark.parametrize(
    "layout", [L for L in LAYOUTS if L.format in ("simsiam", "msra", "simclr", "byol")], ids=lambda L: L.id
)
def test_json_follows_the_documented_schema(
    layout: Layout, tmp_path: Path, backbone: ResNet, schema: dict[str, Any], converters: Command
) -> None:
    # The statistics were measured on normalised images, which SimCLR's networks do not take.
    more = ["--unchecked"] if layout.format == "simclr" else []
    outcome = converters("inspect", layout.write(tmp_path, backbone), "--json", *more)
    assert outcome.status == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(outcome.report, schema)
    assert outcome.report["output"] is None
    assert len(outcome.report["renamed"]) == outcome.report["tensors"] == 265
    assert outcome.report["targets"]["torchvision"]["possible"] == (layout.format != "msra")
    assert {"epoch": "epoch" in outcome.report["entries"]}["epoch"] == (layout.format == "simsiam")


def test_json_of_a_conversion_names_the_output(
    checkpoint: Path, tmp_path: Path, schema: dict[str, Any], converters: Command
) -> None:
    for command, name in (("detectron2", "a.pkl"), ("torchvision", "a.pth")):
        report = converters(command, checkpoint, tmp_path / name, "--json").report
        jsonschema.validate(report, schema)
        assert report["output"] == str(tmp_path / name) and Path(report["output"]).exists()


def test_parameters_are_torchvisions(checkpoint: Path, backbone: ResNet, converters: Command) -> None:
    report = converters("inspect", checkpoint, "--json").report
    assert report["parameters"] == sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["detectron2", "{file}"], "arguments are required: OUT.pkl"),
        (["explain", "{file}"], "invalid choice: 'explain'"),
        (["inspect", "{file}", "--formats", "x"], "unrecognized arguments"),
        (["inspect", "nowhere.pth"], "nowhere.pth: no such file; check the path"),
        (["inspect", "."], "a folder; give the checkpoint file in it"),
        (["inspect", "{file}", "--format", "timm"], "--format: unknown format 'timm'; known: "),
        (["detectron2", "{file}", "{file}.pth"], "suffix .pkl"),
        (["torchvision", "{file}", "{file}.pkl"], "suffix .safetensors or .pth"),
        (["detectron2", "{file}", "/proc/nowhere/out.pkl"], "/proc/nowhere/out.pkl: "),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str], message: str, checkpoint: Path, converters: Command
) -> None:
    outcome = converters(*(argument.format(file=checkpoint) for argument in arguments))
    assert outcome.status == 2
    assert outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_an_existing_output_survives_a_refused_conversion(
    checkpoint: Path, tmp_path: Path, converters: Command
) -> None:
    output = tmp_path / "out.pkl"
    output.write_bytes(b"before")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    assert converters("detectron2", checkpoint, output).status == 2
    assert output.read_bytes() == b"before"


def test_help_needs_no_torch() -> None:
    """What makes `--help` quick; experiments/speed/converters.py measures how quick."""
    code = (
        "import sys, converters.__main__ as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=layouts.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")


def test_as_a_command(checkpoint: Path, tmp_path: Path) -> None:
    """Without Detectron2's and torch's own chatter, and without loading torch's compiler (three seconds)."""
    output = tmp_path / "out.pkl"
    command = [sys.executable, "-X", "importtime", "-m", "converters", "detectron2", str(checkpoint), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=layouts.ROOT)
    noise = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert noise == []
    assert "torch._dynamo.utils" not in done.stderr
    assert str(output) in done.stdout and output.exists()


def test_a_reader_that_goes_away_is_no_error(checkpoint: Path) -> None:
    command = f"{sys.executable} -m converters inspect {checkpoint} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=layouts.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""

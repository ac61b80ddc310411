"""action.yml and the GitLab template: their shell steps, run as they are with the wheel in somebody else's folder."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.tables.scale import SCALES
from tests.converters import layouts

Steps = Callable[[Path, dict[str, str]], list[tuple[str, dict[str, str]]]]


def action(root: Path, inputs: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The steps of the GitHub action: script and variables."""
    body = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    values = {name: spec.get("default", "") for name, spec in body["inputs"].items()} | inputs

    def filled(text: str) -> str:
        for key, value in values.items():
            text = text.replace("${{ inputs." + key + " }}", value)
        return text.replace("${{ github.action_path }}", "SOURCE")

    steps = [step for step in body["runs"]["steps"] if "run" in step]
    assert [step.get("if") for step in steps] == [None, None, "inputs.baseline != ''"]
    return [
        (step["run"], {name: filled(text) for name, text in step["env"].items()})
        for step in (steps if values["baseline"] else steps[:-1])
    ]


def gitlab(root: Path, inputs: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The GitLab job's script and variables, as one step."""
    head, text = (root / "templates/checkpoint.yml").read_text(encoding="utf-8").split("\n---\n")
    values = {name: spec.get("default", "") for name, spec in yaml.safe_load(head)["spec"]["inputs"].items()} | inputs
    for key, value in values.items():
        text = text.replace(f"$[[ inputs.{key} ]]", value)
    job = yaml.safe_load(text)["checkpoint"]
    return [("\n".join(job["script"]), job["variables"])]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "images"), [(action, None), (gitlab, 32)])
def test_the_steps_evaluate_and_guard_a_checkpoint(
    root: Path, console: Path, call: Callable[[list[str], Path], str], tmp_path: Path, steps: Steps, images: int | None
) -> None:
    """One of them at the mini scale, as it is by default; the other with a sixteenth of its images."""
    [scale] = {variables["SCALE"] for _, variables in steps(root, {}) if "SCALE" in variables}
    assert scale == "mini"
    folder, tools = tmp_path / "folder", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    # What pip is asked for is noted and not done: the wheel is installed already.
    (tools / "python").write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "-m pip install" ] && echo "$4" >> {tools}/installed\n')
    (tools / "python").chmod(0o755)
    torch.save(layouts.trained("resnet18x0.25").state_dict(), folder / "model.pth")

    if images:
        few = {"images": images, "val-images": 8, "voc07": 2, "voc07-test": 1, "voc12": 2, "coco": 1, "coco-val": 1}
        body = yaml.safe_load((SCALES / "mini.yaml").read_text(encoding="utf-8"))
        body["generate"] |= few
        scale = str(tmp_path / "few.yaml")
        Path(scale).write_text(yaml.safe_dump(body))

    def ci(**more: str) -> int:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
        path = os.pathsep.join([str(tools), str(console.parent), os.environ["PATH"]])
        kept |= {"PATH": path, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        for script, variables in steps(
            root, {"checkpoint": "model.pth", "tasks": "knn", "scale": scale, "options": "--trials 1"} | more
        ):
            # As the runners start it: the first command that fails ends the job.
            status = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=kept | variables
            ).returncode
            if status:
                return status
        return 0

    assert ci() == 0
    card = json.loads((folder / "checkpoint-results/model_card.json").read_text())
    assert [(result["task"], result["n"]) for result in card["results"]] == [("knn", 1)]
    project, detectron2 = (tools / "installed").read_text().splitlines()
    assert "[all]" in project and Path(detectron2).name == "detectron2"

    call([str(console), "gate", "--write-baseline", "baseline.json", "checkpoint-results"], folder)
    assert ci(baseline="baseline.json") == 0
    assert (folder / "gate.xml").exists()
    assert "top1" in (folder / "gate.md").read_text()
    # A baseline that was much better: today's number is a real drop.
    baseline = json.loads((folder / "baseline.json").read_text())
    next(iter(baseline["runs"].values()))["values"]["top1"] = [100.0]
    (folder / "better.json").write_text(json.dumps(baseline))
    assert ci(baseline="better.json") == 1
    assert ci(baseline="absent.json") == 2

"""Every script of docs/api.md runs as it stands there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.tables import scale as scales
from experiments.speed.coco_cases import make_results
from tests.converters import layouts

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
OBJECTS = {1: [(1, 10, 12), (2, 30, 30)], 2: [(1, 20, 20)], 3: [(2, 5, 40), (1, 40, 8)]}

BOX = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>60</xmax><ymax>60</ymax></bndbox>"
VOC = f"""<annotation><object><name>one</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
{BOX}</object></annotation>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the scripts name."""
    folder = tmp_path_factory.mktemp("api")
    torch.save(layouts.trained("resnet18x0.125").state_dict(), folder / "resnet18.pth")
    boxes = [(image, category, x, y) for image, found in OBJECTS.items() for category, x, y in found]
    instances = {
        "images": [{"id": image, "width": 96, "height": 96, "file_name": f"{image}.jpg"} for image in OBJECTS],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [x, y, 50, 40], "area": 2000, "iscrowd": 0,
             "segmentation": [[x, y, x + 50, y, x + 50, y + 40, x, y + 40]]}
            for n, (image, category, x, y) in enumerate(boxes, 1)
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(instances))
    for place, text in (("Annotations/1.xml", VOC), ("ImageSets/Main/test.txt", "1\n")):
        (folder / "VOC2007" / place).parent.mkdir(parents=True)
        (folder / "VOC2007" / place).write_text(text)
    for seed, name in enumerate("ab"):
        results = make_results(folder / "instances.json", seed + 2, masks=False)
        (folder / f"{name}.json").write_text(json.dumps(results))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda text: re.findall(r"(\w+)(?:  #.*)?$", text, re.M)[0])
def test_the_script_runs(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, untraced: None) -> None:
    if "lightning import" in script and importlib.util.find_spec("lightning") is None:
        pytest.skip("needs the extra integrations")
    monkeypatch.chdir(folder)
    if "checkpoint.pth.tar" in script:
        # torchvision's detector has a ResNet-50; `evaluate` takes any.
        arch = "resnet50" if "torchvision" in script else "resnet18x0.125"
        torch.save(layouts.trained(arch).state_dict(), "checkpoint.pth.tar")
    # The mini scale draws 4,608 images; test_checkpoint_ci.py runs it whole.
    tiny = scales.load(str(Path(__file__).parents[2] / "examples/notebooks/tiny.yaml"))
    monkeypatch.setattr(scales, "load", lambda name: {"mini": tiny}[name])
    exec(compile(script, "docs/api.md", "exec"), {"__name__": "__main__"})


def test_there_is_a_script_for_each_part() -> None:
    functions = set(re.findall(r"^::: .*\.([a-z_]+)$", TEXT, re.MULTILINE)) - {"evaluators_with_intervals"}
    for name in functions | {"CollapseMonitor", "COCOEvaluator", "PascalVOCDetectionEvaluator", "COCOeval"}:
        assert any(re.search(rf"import .*{name}|\.{name}\(", script) for script in SCRIPTS), name

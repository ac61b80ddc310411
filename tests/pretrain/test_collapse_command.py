"""`pretrain.collapse`: heads come back as they were trained, foreign files give features, words fit the numbers."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from converters.resnet_model import build_resnet
from pretrain.augment import build_view_transforms
from pretrain.augment.views import Views
from pretrain.collapse.measure_checkpoint import compute_outputs, format_metrics, load_method_and_augment, verdict
from pretrain.config import AugmentConfig, CollapseConfig, DataConfig, EvaluationConfig
from pretrain.data import open_images
from pretrain.evaluation import load_feature_extractor, settings_beside
from pretrain.method.base import TrainingPlan, build_method
from pretrain.output_measures import measure_health
from runs.errors import UserError
from runs.settings import check_values
from tests.pretrain.tiny import CONFIGS

CPU = torch.device("cpu")


def checkpoint(
    folder: Path, name: str, images: int, arch: str = "resnet18x0.125_cifar"
) -> tuple[Path, torch.nn.Module]:
    """What `python -m pretrain` leaves, made without training; norms get statistics of their own."""
    torch.manual_seed(0)
    method = build_method(CONFIGS[name], TrainingPlan(arch, False, 1, images // 8, 8, 4, images))
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    folder.mkdir()
    path = folder / "checkpoint_0000.pth.tar"
    state = {f"module.{k}": v for k, v in method.state_dict().items()}
    torch.save({"epoch": 1, "arch": arch, "state_dict": state, "optimizer": {}, "resume": {"generators": []}}, path)
    settings = {
        "kind": "pretrain", "method": asdict(CONFIGS[name]), "augment": asdict(AugmentConfig(size=16)), "arch": arch,
        "zero_init_residual": False, "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return path, method.eval()


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"supervised"}))
def test_heads_come_back_with_their_weights(tmp_path: Path, images: Path, name: str) -> None:
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    path, method = checkpoint(tmp_path / "run", name, len(train))
    again, augment = load_method_and_augment(path, settings_beside(path), train, CPU)
    views = Views(train, build_view_transforms(augment.for_views(2)), 0, False)
    z, z2, p, _ = compute_outputs(again, views, list(range(12)), 8)
    assert z.shape == z2.shape and len(z) == 12 and not torch.equal(z, z2)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.project(x), method.encoder(x))  # type: ignore[operator]
    assert (p is not None) == (name in ("simsiam", "byol"))
    # One seed draws the same views again.
    assert torch.equal(compute_outputs(again, views, list(range(12)), 8).z, z)


def test_a_variant_keeps_its_name(tmp_path: Path, images: Path) -> None:
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    path, _ = checkpoint(tmp_path / "run", "simsiam", len(train))
    file = path.parent / "config.yaml"

    def named() -> str:
        config = EvaluationConfig(output="", checkpoint=str(path), augment=AugmentConfig(size=16))
        return load_feature_extractor(config, CPU).subject.method

    assert named() == "simsiam"
    file.write_text(file.read_text() + "variant: mirror\n")
    assert named() == "mirror"


def test_a_foreign_file_has_no_heads(tmp_path: Path) -> None:
    assert settings_beside(tmp_path / "model.pth") == {}


def test_a_foreign_backbone_is_seen_by_its_features(tmp_path: Path, images: Path) -> None:
    torch.manual_seed(0)
    network = build_resnet("resnet18x0.25")
    # A file whose batch norms have seen nothing is refused as untrained.
    network(torch.randn(8, 3, 32, 32))
    torch.save(network.state_dict(), tmp_path / "model.pth")
    words = [
        sys.executable, "-m", "pretrain.collapse", f"checkpoint={tmp_path}/model.pth", "data=imagefolder",
        f"data.root={images}", "data.workers=0", "augment.size=32", f"output={tmp_path}/out",
    ]  # fmt: skip
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["kind"] == "collapse" and record["details"]["output"] == "the pooled features"
    assert record["details"]["images"] == 32 and record["details"]["dim"] == 128
    assert len(record["details"]["singular_values"]) == 32
    assert "the pooled features, 32 images, d = 128" in done.stdout and "effective_rank" in done.stdout
    assert "eta_p" not in record["metrics"]
    assert (tmp_path / "out" / "collapse.png").read_bytes()[:4] == b"\x89PNG"


def test_the_verdict_follows_the_numbers() -> None:
    torch.manual_seed(0)
    spread, constant = torch.randn(64, 16), torch.randn(1, 16) + 1e-3 * torch.randn(64, 16)
    line = torch.randn(64, 1) * torch.randn(1, 16)
    assert verdict(measure_health(spread), 0.2) == "not collapsed"
    assert verdict(measure_health(constant), 0.2).startswith("collapsed: std")
    assert verdict(measure_health(line), 0.2).startswith("collapsed: the effective rank")


def test_the_table_says_what_is_healthy() -> None:
    lines = format_metrics({"std": 0.25, "std_healthy": 0.25, "m_o": 0.1}).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["std", "0.25"], ["m_o", "0.1"]]
    assert lines[1].split()[2] == "0.25"


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match="images=1: must be at least 2"):
        check_values(CollapseConfig(checkpoint="x", output="x", images=1))
    with pytest.raises(UserError, match=r"threshold=2\.0: must be below 1"):
        check_values(CollapseConfig(checkpoint="x", output="x", threshold=2.0))

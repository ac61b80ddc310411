"""The classifier that learns beside the pre-training: its steps by hand, and a run that does not notice it."""

import json
import random
import signal
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from converters.resnet_model import build_resnet
from pretrain.augment import build_view_transforms
from pretrain.augment.views import Views
from pretrain.collapse.measure_checkpoint import compute_outputs, load_method_and_augment
from pretrain.config import DataConfig, ProbeConfig
from pretrain.data import open_images
from pretrain.evaluation import settings_beside
from pretrain.online_evaluation import OnlineProbe
from runs.errors import UserError
from runs.settings import check_values
from tests.pretrain.processes import (
    Command,
    assert_same_run,
    differences,
    lines,
    newest,
    run,
    small,
    steps_logged,
)

ON = ("probe.enabled=true", "probe.lr=2.0")


def probe(classes: int = 4, batch: int = 256, **changes: float) -> OnlineProbe:
    network = build_resnet("resnet18x0.125_cifar", num_classes=8)
    return OnlineProbe(ProbeConfig(True, **changes), network, classes, batch, torch.device("cpu"))  # type: ignore[arg-type]


def test_a_step_is_a_plain_loop_of_softmax_regression() -> None:
    """NumPy, two views: momentum 0.9, no weight decay, the rate by batch size and schedule."""
    ours = probe(lr=0.4, batch=64)
    chance = numpy.random.default_rng(0)
    W, b, v_W, v_b = numpy.zeros((4, 64)), numpy.zeros(4), numpy.zeros((4, 64)), numpy.zeros(4)
    for share in (1.0, 0.5, 0.25):
        views = [chance.normal(size=(6, 64)).astype(numpy.float32) for _ in range(2)]
        labels = chance.integers(0, 4, 6)
        for view in views:
            ours.network.fc(torch.from_numpy(view))
        ours.update(torch.from_numpy(labels), share)
        x, y = numpy.concatenate(views), numpy.eye(4)[numpy.concatenate([labels, labels])]
        p = numpy.exp(x @ W.T + b)
        error = (p / p.sum(1, keepdims=True) - y) / 12
        v_W, v_b = 0.9 * v_W + error.T @ x, 0.9 * v_b + error.sum(0)
        W, b = W - 0.4 * 64 / 256 * share * v_W, b - 0.4 * 64 / 256 * share * v_b
    numpy.testing.assert_allclose(ours.classifier.weight.detach().numpy(), W, atol=1e-6)
    numpy.testing.assert_allclose(ours.classifier.bias.detach().numpy(), b, atol=1e-6)


def test_it_learns_and_the_network_gets_no_gradient() -> None:
    ours = probe()
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    images += 2 * labels[:, None, None, None] * torch.tensor([1.0, -1.0, 0.5])[:, None, None]
    for _ in range(60):
        ours.network(images)
        ours.update(labels, 1.0)
    assert all(parameter.grad is None for parameter in ours.network.parameters())
    with torch.no_grad():
        ours.network(images)
        assert (ours.classifier(ours.features[0]).argmax(1) == labels).float().mean() > 0.9


def test_features_are_those_before_the_projector_and_of_this_step_alone() -> None:
    ours = probe()
    seen: list[Tensor] = []
    ours.network.avgpool.register_forward_hook(lambda *given: seen.append(given[2].flatten(1)))
    ours.network.fc = nn.Identity()  # a module put in later has no hook: the probe is made when the network is whole
    ours.network(torch.randn(2, 3, 8, 8))
    assert not ours.features
    other = probe()
    other.network.avgpool.register_forward_hook(lambda *given: seen.append(given[2].flatten(1)))
    other.network(torch.randn(2, 3, 8, 8))
    other.update(torch.arange(2), 1.0)
    other.network.eval()(torch.randn(2, 3, 8, 8))  # as a method may hold it in training
    assert len(other.features) == 1 and torch.equal(other.features[0], seen[-1].detach())
    assert not other.features[0].requires_grad


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"lr": 0.0}, {"momentum": 1.0}, {"every": 0}):
        with pytest.raises(UserError, match=f"^probe.{next(iter(wrong))}="):
            check_values(ProbeConfig(**wrong), "probe.")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run of 12 steps with the classifier."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, text = run("pretrain", small("simsiam", images, folder, *ON), folder)
    assert status == 0, text
    return folder


def test_a_run_does_not_notice_it_and_logs_its_accuracy_every_epoch(whole: Path, images: Path, tmp_path: Path) -> None:
    plain = tmp_path / "run"
    assert run("pretrain", small("simsiam", images, plain), plain)[0] == 0
    with_probe, without = newest(whole), newest(plain)
    # Its settings belong to the run's identity.
    assert with_probe["resume"].pop("run") != without["resume"].pop("run")
    assert set(with_probe["resume"].pop("probe")) == {"classifier", "optimizer"}
    assert with_probe["resume"]["metrics"]["accuracies"].pop("online_top1") > 0
    assert with_probe["resume"]["metrics"]["evaluated"].pop("online_top1") == 12
    assert differences(with_probe, without) == []
    found = [(line["step"], line["online_top1"]) for line in lines(whole) if "online_top1" in line]
    assert [step for step, _ in found] == [3, 7, 11]
    # Colours of four classes: chance is 25 %.
    assert found[-1][1] > 60
    assert [line for line in lines(whole) if "online_top1" not in line] == lines(plain)


def test_the_record_has_the_bias_and_the_training_sets_center(whole: Path, images: Path) -> None:
    """Two views of each of the 64 images, in NumPy; the last batch's center is another."""
    metrics = json.loads((whole / "result.json").read_text())["metrics"]
    assert metrics["online_top1"] == [line["online_top1"] for line in lines(whole) if "online_top1" in line][-1]
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    path = whole / "checkpoint_0002.pth.tar"
    method, augment = load_method_and_augment(path, settings_beside(path), train, torch.device("cpu"))
    z, z2, *_ = compute_outputs(
        method, Views(train, build_view_transforms(augment.for_views(2)), 0, False), list(range(64)), 64
    )
    rows = numpy.concatenate([z.numpy(), z2.numpy()]).astype(float)
    o = (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    b = method.predictor[3].bias.detach().numpy().astype(float)  # type: ignore[index, union-attr]
    expected = o @ b / numpy.linalg.norm(o) / numpy.linalg.norm(b)
    assert metrics["bias_set_cosine"] == pytest.approx(expected, abs=1e-4)
    assert metrics["bias_center_cosine"] != pytest.approx(expected, abs=1e-3)


def test_killed_and_resumed_bit_for_bit(whole: Path, images: Path, tmp_path: Path) -> None:
    folder, chance = tmp_path / "run", random.Random(0)
    arguments = small("simsiam", images, folder, *ON)
    for kill in range(2):
        command = Command("pretrain", arguments, tmp_path / f"{kill}.txt")
        goal = steps_logged(folder) + chance.randint(4, 5)
        assert command.until(lambda goal=goal: steps_logged(folder) >= goal), command.log.read_text()  # type: ignore[misc]
        command.signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    status, text = run("pretrain", arguments, folder)
    assert status == 0 and "continuing after step" in text, text
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_two_processes_train_it_as_one(whole: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, text = run("pretrain", small("simsiam", images, folder, *ON), folder, 2)
    assert status == 0, text
    one, two = (newest(path)["resume"]["probe"]["classifier"] for path in (whole, folder))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)

"""Linear and kNN evaluation against independent references."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from converters.resnet import build_resnet
from pretrain import features
from pretrain.augment import AugmentConfig, evaluation_view
from pretrain.classifiers import Classifiers
from pretrain.data import DataConfig, open_images, open_splits
from pretrain.evaluate import Ready
from pretrain.features import Plain, batches, extract, knn_accuracy, nearest_neighbours
from pretrain.frozen import load_frozen
from pretrain.linear import LinearConfig, _cached, _fresh, _stand_ins, build_classifiers, train
from pretrain.loader import EpochSampler
from pretrain.optim import OptimizerConfig, build_optimizer
from tests.pretrain.processes import Command, differences, newest, run, small

CPU = torch.device("cpu")


def blobs(n: int, classes: int = 4, width: int = 32, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features that lie around one point a class; the points are the same for every seed."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return centres[labels] + noise * torch.randn(n, width, generator=generator), labels


def plain_knn(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int, t: float) -> float:
    """Wu et al., arXiv:1805.01978, section 3.4, one query at a time."""
    x = bank.numpy() / numpy.linalg.norm(bank.numpy(), axis=1, keepdims=True)
    right = 0
    for query, label in zip(queries.numpy(), labels.tolist(), strict=True):
        cosine = x @ (query / numpy.linalg.norm(query))
        votes: dict[int, float] = {}
        for i in numpy.argsort(-cosine)[:k]:
            votes[int(bank_labels[i])] = votes.get(int(bank_labels[i]), 0.0) + math.exp(cosine[i] / t)
        right += max(votes, key=lambda c: votes[c]) == label
    return 100 * right / len(labels)


@pytest.mark.parametrize("chunk", [1000, 7])
def test_knn_is_the_plain_loop(chunk: int) -> None:
    bank, bank_labels = blobs(200, noise=2.0)
    queries, labels = blobs(60, noise=2.0, seed=1)
    found = knn_accuracy(bank, bank_labels, queries, labels, 4, [1, 5, 50], [0.07, 0.5], chunk)
    for (k, t), accuracy in found.items():
        assert accuracy == pytest.approx(plain_knn(bank, bank_labels, queries, labels, k, t))
    assert len(set(found.values())) > 1, "the sweep tells nothing apart"


def test_a_bank_in_parts_is_a_bank_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, _ = blobs(300, noise=2.0)
    queries = torch.nn.functional.normalize(blobs(40, noise=2.0, seed=1)[0], dim=1)
    whole = nearest_neighbours(bank, queries, 50)
    similarity = queries @ torch.nn.functional.normalize(bank, dim=1).T
    assert torch.equal(whole[1], similarity.argsort(dim=1, descending=True)[:, :50])
    for size in (299, 64, 20):  # a last part of one row; a part smaller than k
        monkeypatch.setattr(features, "BANK", size)
        parts = nearest_neighbours(bank, queries, 50)
        assert torch.equal(parts[1], whole[1]) and torch.allclose(parts[0], whole[0])


def test_a_table_made_at_once_holds_the_same_features() -> None:
    stream = [(torch.randn(n, 3), torch.arange(n)) for n in (4, 4, 2)]
    apart, together = (extract(lambda x: x * 2, iter(stream), CPU, total=total) for total in (0, 12))
    assert torch.equal(apart[0], together[0]) and torch.equal(apart[1], together[1]) and len(together[0]) == 10
    assert extract(lambda x: x, iter(stream), CPU, bf16=True, total=12)[0].dtype == torch.bfloat16


def test_knn_on_separable_features_and_on_shuffled_labels() -> None:
    bank, labels = blobs(1000)
    queries, targets = blobs(500, seed=1)
    assert knn_accuracy(bank, labels, queries, targets, 4, [20], [0.07])[20, 0.07] > 99
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    assert knn_accuracy(bank, shuffled, queries, targets, 4, [20], [0.07])[20, 0.07] == pytest.approx(25, abs=8)


def config(**changes: object) -> LinearConfig:
    values: dict[str, object] = {
        "data": DataConfig("test", "folder", "x"), "augment": AugmentConfig(name="none", crop_scale=[]),
        "checkpoint": "random", "arch": "resnet18x0.25", "output": "x", "lr": [0.1], "epochs": 6, "batch_size": 50,
    }  # fmt: skip
    return LinearConfig(**{**values, **changes})  # type: ignore[arg-type]


def trained(settings: LinearConfig, features: Tensor, labels: Tensor, val: tuple[Tensor, Tensor]) -> Classifiers:
    """Classifiers on given features instead of a network's."""
    heads = build_classifiers(settings, "resnet18x0.25", 4, CPU)
    assert heads.heads.weight.shape[2] == features.shape[1] == 128
    for heads.epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(heads.epoch))
        for chosen in order.split(settings.batch_size):
            heads.step(features[chosen], labels[chosen])
        heads.judge(*val)
    return heads


@pytest.mark.parametrize("optimizer", ["sgd", "larc"])
def test_many_learning_rates_at_once_are_many_runs(optimizer: str) -> None:
    data, val = blobs(200, width=128, noise=3.0), blobs(200, width=128, noise=3.0, seed=1)
    rates = [0.05, 1.0, 20.0]
    together = trained(config(lr=rates, optimizer=optimizer), *data, val)
    for i, rate in enumerate(rates):
        alone = trained(config(lr=[rate], optimizer=optimizer), *data, val)
        # One product for all sums in another order than a product of its own.
        assert torch.allclose(together.heads.weight[i], alone.heads.weight[0], rtol=1e-4, atol=1e-5)
        assert together.table()[i] == alone.table()[0]
    assert len({row["top1"] for row in together.table()}) > 1


def test_larc_and_sgd_are_their_rules_in_numpy() -> None:
    """Two steps by hand: apex's LARC without clipping in front of SGD with momentum."""
    generator = torch.Generator().manual_seed(0)
    start, slopes = torch.randn(3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    for name, adapt in (("sgd", False), ("larc", True)):
        p = torch.nn.Parameter(start.clone())
        optimizer = build_optimizer([{"params": [p]}], OptimizerConfig(name, 1.0, 0.9, 0.01), 0.5)
        w, v = start.double().numpy(), numpy.zeros((3, 4))
        for slope in slopes:
            p.grad = slope.clone()
            optimizer.step()
            g = slope.double().numpy()
            size, steep = numpy.linalg.norm(w), numpy.linalg.norm(g)
            g = (g + 0.01 * w) * (0.001 * size / (steep + 0.01 * size + 1e-8) if adapt else 1.0)
            v = 0.9 * v + g
            w = w - 0.5 * v
        assert torch.allclose(p.detach().double(), torch.from_numpy(w), rtol=1e-5)


def test_linear_on_separable_features_and_on_shuffled_labels() -> None:
    data, val = blobs(400, width=128), blobs(400, width=128, seed=1)
    settings = config(optimizer="sgd", lr=[1.0])
    assert trained(settings, *data, val).table()[0]["top1"] > 99
    shuffled = data[1][torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert trained(settings, data[0], shuffled, val).table()[0]["top1_last"] == pytest.approx(25, abs=12)


def test_best_and_last_epoch_are_told_apart() -> None:
    heads = build_classifiers(config(), "resnet18x0.25", 4, CPU)
    x, y = torch.randn(100, 128), torch.zeros(100, dtype=torch.int64)
    for heads.epoch, bias in enumerate(([0.0, 9, 0, 0], [9.0, 0, 0, 0], [0.0, 9, 8, 7])):
        heads.heads.weight.zero_()
        heads.heads.bias[0] = torch.tensor(bias)
        heads.judge(x, y)
    assert heads.table() == [{"lr": 0.1, "top1": 100.0, "top5": 100.0, "top1_last": 0.0}]


def test_cached_features_are_those_of_the_stream(images: Path) -> None:
    settings = config(augment=AugmentConfig(name="none", size=32, crop_scale=[]), batch_size=16)
    network = load_frozen("random", "resnet18x0.25", False, settings.augment, 0, CPU)
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    train_features = extract(network, batches(Plain(train, evaluation_view(settings.augment)), 256, 0, False), CPU)
    sampler = EpochSampler(len(train), 16, 0, 0, 1)
    cached = _cached(*train_features, _stand_ins(train, set()), sampler)
    settings.data.workers = 0
    fresh = _fresh(settings, Ready(network, train, train, CPU, Path("x")), sampler, set())
    for (a, x), (b, y) in zip(cached(), fresh(), strict=True):
        assert torch.equal(x, y) and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_broken_images_features_are_the_next_ones(images: Path) -> None:
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    rows = _stand_ins(train, {train.names[3], train.names[4], train.names[63]})
    assert rows[:7] == [0, 1, 2, 3, 3, 3, 4] and rows[62:] == [60, 0]


def test_broken_images_are_still_named_after_a_kill_behind_the_last_epoch(images: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    bad = data / "train" / "class0" / "000.png"
    bad.write_bytes(b"not a picture")
    layout = DataConfig("test", "folder", str(data), workers=0, skip_broken=True)
    settings = config(augment=AugmentConfig(name="crops", size=32), data=layout, epochs=1, batch_size=16)
    network = load_frozen("random", "resnet18x0.25", False, settings.augment, 0, CPU)
    ready = Ready(network, *open_splits(layout), CPU, tmp_path / "run")
    for _ in range(2):
        # The first start ends before its record is written; the second has no epoch left.
        assert train(settings, ready, build_classifiers(settings, "resnet18x0.25", 4, CPU)) == {str(bad)}


def arguments(images: Path, folder: Path, checkpoint: str, *more: str) -> list[str]:
    return ["data=imagefolder", f"data.root={images}", f"checkpoint={checkpoint}", "augment.size=32",
            "data.workers=0", f"output={folder}", *more]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    status, text = run("pretrain", small("simsiam", images, folder, "augment.mean=[0.4,0.5,0.6]"), folder)
    assert status == 0, text
    return folder / "checkpoint_0002.pth.tar"


def test_a_checkpoint_has_the_official_layout(pretrained: Path) -> None:
    state = torch.load(pretrained, weights_only=True)
    assert list(state) == ["epoch", "arch", "state_dict", "optimizer", "resume"]
    assert (state["epoch"], state["arch"]) == (3, "resnet18x0.25")
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in state["state_dict"]} == {
        "module.encoder", "module.predictor",
    }  # fmt: skip
    assert "module.encoder.conv1.weight" in state["state_dict"] and "module.encoder.fc.6.weight" in state["state_dict"]


def test_the_official_linear_script_takes_a_checkpoint_of_ours(pretrained: Path) -> None:
    """What facebookresearch/simsiam@a7bc177 main_lincls.py keeps of a file, and what it asserts of the rest."""
    saved = torch.load(pretrained, map_location="cpu", weights_only=True)["state_dict"]
    inside = "module.encoder."
    kept = {
        name.removeprefix(inside): value
        for name, value in saved.items()
        if name.startswith(inside) and not name.startswith(f"{inside}fc")
    }
    model = build_resnet("resnet18x0.25", num_classes=1000)
    message = model.load_state_dict(kept, strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"} and message.unexpected_keys == []
    assert torch.equal(model.layer4[1].conv2.weight, saved["module.encoder.layer4.1.conv2.weight"])


def test_a_checkpoint_is_evaluated_with_its_own_weights_and_input(images: Path, pretrained: Path) -> None:
    frozen = load_frozen(str(pretrained), "", True, AugmentConfig(name="none", size=32, crop_scale=[]), 0, CPU)
    assert frozen.augment.mean == [0.4, 0.5, 0.6], "the recipe's own mean belongs to the weights"
    assert (frozen.subject.method, frozen.subject.arch, frozen.subject.epochs) == ("simsiam", "resnet18x0.25", 3)
    weights = newest(pretrained.parent)["state_dict"]
    for name, value in frozen.network.state_dict().items():
        # A counter that a network in evaluation does not read; most formats do not carry it.
        assert name.endswith("num_batches_tracked") or torch.equal(value, weights[f"module.encoder.{name}"]), name
    assert not frozen.network.training and not any(p.requires_grad for p in frozen.network.parameters())


@pytest.mark.parametrize("recipe", ["none", "supervised"])
def test_linear_by_command_killed_and_resumed(recipe: str, images: Path, pretrained: Path, tmp_path: Path) -> None:
    more = (f"augment={recipe}", "batch_size=16", "epochs=4", "optimizer=sgd", "lr=[1,10]")
    folders = [tmp_path / "whole", tmp_path / "killed"]
    status, text = run("pretrain.linear", arguments(images, folders[0], str(pretrained), *more), folders[0])
    assert status == 0 and "linear top-1: " in text, text
    killed = arguments(images, folders[1], str(pretrained), *more)
    command = Command("pretrain.linear", killed, tmp_path / "log.txt")
    log = folders[1] / "metrics.jsonl"
    command.until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    command.signal(9)
    command.wait()
    assert run("pretrain.linear", killed, folders[1])[0] == 0
    records = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert records[0]["metrics"] == records[1]["metrics"] and records[0]["details"] == records[1]["details"]
    assert (folders[0] / "metrics.jsonl").read_text() == log.read_text()
    record = records[0]
    assert record["details"]["frozen_weights_unchanged"] and len(record["details"]["learning_rates"]) == 2
    assert record["metrics"]["top1"] > 60, "the classes are colours; chance is 25 %"
    assert differences(newest(pretrained.parent)["epoch"], 3) == []


def test_knn_by_command(images: Path, pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sweep = arguments(images, folder, str(pretrained), "k=[5,10]", "temperature=[0.07,1]")
    status, text = run("pretrain.knn", sweep, folder)
    assert status == 0, text
    record = json.loads((folder / "result.json").read_text())
    assert len(record["details"]["grid"]) == 4 and record["metrics"]["top1"] == record["details"]["grid"][0]["top1"]
    assert record["metrics"]["top1"] > 60 and record["subject"]["method"] == "simsiam"


@pytest.mark.slow
def test_real_images(shared: Path, tmp_path: Path) -> None:
    unpack = [sys.executable, str(shared / "data" / "unpack.py"), "cifar10", str(tmp_path / "d"), "--per-class", "20"]
    subprocess.run(unpack, check=True, capture_output=True)
    root = next(path.parent for path in sorted(tmp_path.rglob("train")))
    folder = tmp_path / "run"
    more = (f"data.root={root}", "augment=cifar", "epochs=2", "batch_size=50", "method.layers=2")
    status, text = run("pretrain", small("simsiam", root, folder, *more), folder)
    assert status == 0, text
    record = json.loads((folder / "result.json").read_text())
    assert record["dataset"]["size"] == 200 and record["verdict"] == "healthy"
    assert 10 < record["metrics"]["knn_top1"] < 60, "ten classes; above chance after two epochs of 200 images"

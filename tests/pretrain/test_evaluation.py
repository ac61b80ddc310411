"""Linear and kNN evaluation against independent references."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from converters.resnet_model import build_resnet
from pretrain.config import AugmentConfig, DataConfig, LinearConfig, OptimizerConfig
from pretrain.data import open_images, open_splits
from pretrain.evaluation import (
    Evaluation,
    EvaluationResult,
    Features,
    evaluate,
    extract_features,
    load_feature_extractor,
)
from pretrain.knn import evaluation as knn_evaluation
from pretrain.knn.evaluation import knn_accuracy, nearest_neighbours
from pretrain.linear import evaluation as heads
from pretrain.linear.evaluation import (
    LinearClassifiers,
    augmented_feature_batches,
    cached_feature_batches,
    few_steps_note,
    train_classifiers,
)
from pretrain.loader import StepSampler
from pretrain.optim import build_optimizer
from runs.errors import UserError
from runs.folder import CONFIG, Run
from tests.pretrain.processes import Command, differences, lines, newest, run, small

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
        monkeypatch.setattr(knn_evaluation, "BANK_ROWS", size)
        parts = nearest_neighbours(bank, queries, 50)
        assert torch.equal(parts[1], whole[1]) and torch.allclose(parts[0], whole[0])


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


def claimed(settings: LinearConfig) -> Run:
    Path(settings.output).mkdir(exist_ok=True)
    return Run("linear", Path(settings.output), asdict(settings), (), None)


def classifiers(settings: LinearConfig) -> LinearClassifiers:
    return LinearClassifiers(settings, 128, 4, CPU)


def trained(settings: LinearConfig, features: Tensor, labels: Tensor, val: tuple[Tensor, Tensor]) -> LinearClassifiers:
    """Classifiers on given features instead of a network's."""
    found = classifiers(settings)
    for found.epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(found.epoch))
        for chosen in order.split(settings.batch_size):
            found.step(features[chosen], labels[chosen])
        found.record_accuracies(*val)
    return found


@pytest.mark.parametrize("small", [0, 2**16])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("optimizer", ("sgd", "lars", "larc"))
def test_each_classifier_is_a_layer_trained_alone(
    optimizer: str, decay: float, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "SMALL", small)
    rates, (x, y) = [0.1, 2.0, 30.0], blobs(40, width=128)
    settings = config(lr=rates, optimizer=optimizer, weight_decay=decay, epochs=4, batch_size=256)
    together = classifiers(settings)
    start = together.layers[0].weight.detach().clone()
    losses = torch.empty(4, 3)
    for together.epoch in range(4):
        losses[together.epoch] = together.step(x, y)
    for i, rate in enumerate(rates):
        layer = torch.nn.Linear(128, 4)
        layer.weight.data.copy_(start)
        layer.bias.data.zero_()
        alone = OptimizerConfig(optimizer, 1.0, 0.9, decay)
        reference = build_optimizer([{"params": list(layer.parameters())}], alone, 1.0)
        for t in range(4):
            reference.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * t / 4)) / 2
            loss = torch.nn.functional.cross_entropy(layer(x), y)
            reference.zero_grad()
            loss.backward()
            reference.step()
            assert losses[t, i].item() == pytest.approx(loss.item(), rel=1e-4)
        torch.testing.assert_close(together.layers[i].weight, layer.weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.layers[i].bias, layer.bias, rtol=1e-4, atol=1e-6)
    weights = [layer.weight for layer in together.layers]
    assert (weights[0] - weights[2]).abs().max() > 1e-4, "the learning rates make no difference"


def test_hits_are_counted() -> None:
    x, y = blobs(100, classes=8, width=128)
    found = LinearClassifiers(config(lr=[1.0, 2.0]), 128, 8, CPU)
    with torch.no_grad():
        found.layers[1].weight *= -1
    found.record_accuracies(x, y)
    for row, layer in zip(found.table, found.layers, strict=True):
        best = layer(x).argsort(dim=1, descending=True)
        assert row["top1"] == pytest.approx(100 * (best[:, 0] == y).double().mean().item())
        assert row["top5"] == pytest.approx(100 * (best[:, :5] == y[:, None]).any(dim=1).double().mean().item())
    assert found.table[0]["top1"] != found.table[1]["top1"]


def test_in_bf16_only_the_products_are_rounded() -> None:
    x, y = blobs(100, width=128)
    exact, rounded = (classifiers(config(optimizer="sgd", precision=p)) for p in ("fp32", "bf16"))
    for _ in range(5):
        a, b = exact.step(x, y), rounded.step(x.bfloat16(), y)
    assert b.dtype == torch.float32 and {p.dtype for p in rounded.parameters()} == {torch.float32}
    # bfloat16 has 8 bits of mantissa, and five steps add the errors up.
    assert 0 < (a - b).abs().item() < 0.1 * a.item()


@pytest.mark.parametrize("optimizer", ("sgd", "lars", "larc"))
def test_a_step_asks_the_device_for_no_value(optimizer: str) -> None:
    """Tensors without values stand for a device that has not computed them yet: asking for one is an error."""
    settings = config(lr=[0.1, 1.0, 10.0], optimizer=optimizer, weight_decay=0.01, precision="bf16")
    with FakeTensorMode():
        losses = classifiers(settings).step(torch.empty(40, 128), torch.empty(40, dtype=torch.long))
        assert losses.shape == (3,)
        with pytest.raises(DataDependentOutputException):
            losses[0].item()


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
    assert trained(settings, *data, val).table[0]["top1"] > 99
    shuffled = data[1][torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert trained(settings, data[0], shuffled, val).table[0]["top1_last"] == pytest.approx(25, abs=12)


def test_best_and_last_epoch_are_told_apart() -> None:
    found = classifiers(config())
    x, y = torch.randn(100, 128), torch.zeros(100, dtype=torch.int64)
    layer = found.layers[0]
    for found.epoch, bias in enumerate(([0.0, 9, 0, 0], [9.0, 0, 0, 0], [0.0, 9, 8, 7])):
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
        found.record_accuracies(x, y)
    assert found.table == [{"lr": 0.1, "top1": 100.0, "top5": 100.0, "top1_last": 0.0}]


def test_cached_features_are_those_of_the_stream(images: Path) -> None:
    settings = config(augment=AugmentConfig(name="none", size=32, crop_scale=[]), batch_size=16)
    extractor = load_feature_extractor(settings, CPU)
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    settings.data.workers = 0
    features = extract_features(extractor.network, train, settings.augment, settings.data, CPU)
    sampler = StepSampler(len(train), 16, 0, steps=range(4))
    cached = cached_feature_batches(features, train, sampler)
    augmented = augmented_feature_batches(
        settings, Evaluation(settings, extractor, train, train, CPU, claimed(settings)), sampler, set()
    )
    for (a, x), (b, y) in zip(cached, augmented, strict=True):
        assert torch.equal(x, y) and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_result_on_other_data_is_not_believed(images: Path, tmp_path: Path) -> None:
    """A copy elsewhere is the same data; one picture more is not, also behind the same `output`."""
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)

    def evaluated(root: Path) -> None:
        data = DataConfig("test", "folder", str(root))
        settings = config(data=data, checkpoint="random", arch="resnet18x0.125", output=str(tmp_path / "run"))
        assert (
            evaluate("knn", settings, lambda it: EvaluationResult({"top1": float(len(it.val))}, {}, "measured")) == 32
        )

    evaluated(images)
    evaluated(copy)
    shutil.copy(copy / "val" / "class0" / "000.png", copy / "val" / "class0" / "999.png")
    with pytest.raises(UserError, match=r"belongs to another run \(fingerprint\.val: "):
        evaluated(copy)


def test_a_broken_images_features_are_the_next_ones(images: Path) -> None:
    train = open_images(DataConfig("test", "folder", str(images)), "train")
    broken = [train.names[3], train.names[4], train.names[63]]
    rows, sampler = torch.arange(61.0)[:, None], StepSampler(64, 64, 0, steps=range(1))
    batches = cached_feature_batches(Features(rows, torch.zeros(61), broken), train, sampler)
    ((values, _),) = batches
    order = torch.tensor([index for _, index in next(iter(sampler))])
    stand_ins = values[order.argsort(), 0].tolist()
    assert stand_ins[:7] == [0, 1, 2, 3, 3, 3, 4] and stand_ins[62:] == [60, 0]


def test_broken_images_are_still_named_after_a_kill_behind_the_last_epoch(images: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    bad = data / "train" / "class0" / "000.png"
    bad.write_bytes(b"not a picture")
    layout = DataConfig("test", "folder", str(data), workers=0, skip_broken=True)
    settings = config(augment=AugmentConfig(name="crops", size=32), data=layout, epochs=1, batch_size=16,
                      output=str(tmp_path / "run"))  # fmt: skip
    network = load_feature_extractor(settings, CPU)
    evaluation = Evaluation(settings, network, *open_splits(layout), CPU, claimed(settings))
    (tmp_path / "run" / CONFIG).touch()
    for _ in range(2):
        # The first start ends before its record is written; the second has no epoch left.
        assert train_classifiers(settings, evaluation, classifiers(settings)) == [str(bad)]
    other = replace(evaluation, run=claimed(replace(settings, seed=1)))
    with pytest.raises(UserError, match=r"linear_state\.pt: of another run, or .*, or choose another output=$"):
        train_classifiers(settings, other, classifiers(settings))
    file = tmp_path / "run" / heads.STATE
    state = torch.load(file, weights_only=True)
    state["classifiers"]["_extra_state"]["table"] = [{"lr": 0.1}]
    torch.save(state, file)
    with pytest.raises(UserError, match=r"linear_state\.pt: another version's or damaged .*; delete it to train"):
        train_classifiers(settings, evaluation, classifiers(settings))


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
    assert list(state) == ["epoch", "arch", "state_dict", "optimizer", "resume", "input", "digest"]
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
    frozen = load_feature_extractor(config(checkpoint=str(pretrained), augment=VIEW), CPU)
    assert (frozen.subject.method, frozen.subject.arch, frozen.subject.epochs) == ("simsiam", "resnet18x0.25", 3)
    weights = newest(pretrained.parent)["state_dict"]
    for name, value in frozen.network.state_dict().items():
        # A counter that a network in evaluation does not read; most formats do not carry it.
        assert name.endswith("num_batches_tracked") or torch.equal(value, weights[f"module.encoder.{name}"]), name
    assert not frozen.network.training and not any(p.requires_grad for p in frozen.network.parameters())


def test_a_recipe_for_more_images_is_named() -> None:
    config = LinearConfig(checkpoint="x", output="x")
    said = few_steps_note(config, 12800)
    assert said.startswith("NOTE: 270 steps are few for optimizer=larc, whose recipe has 28080 on ImageNet; for 12800")
    assert not few_steps_note(config, 1281167) and not few_steps_note(replace(config, optimizer="sgd"), 12800)


VIEW = AugmentConfig(name="none", size=32, crop_scale=[], mean=[], std=[])


def test_the_input_convention_is_part_of_the_checkpoint(pretrained: Path, tmp_path: Path) -> None:
    """Wherever the file lies; what the user gives wins."""
    state = torch.load(pretrained, weights_only=True)
    assert state["input"] == {"channels": "RGB", "mean": [0.4, 0.5, 0.6], "std": [0.229, 0.224, 0.225], "range": 1.0}
    alone = shutil.copy(pretrained, tmp_path)
    torch.save(state | {"input": {"channels": "BGR", "mean": [153, 127.5, 102], "std": [51.0] * 3, "range": 255.0}},
               tmp_path / "bgr.pth")  # fmt: skip
    told = [
        load_feature_extractor(config(checkpoint=str(file), augment=VIEW), CPU)
        for file in (pretrained, alone, tmp_path / "bgr.pth")
    ]
    assert [network.augment.mean for network in told] == [[0.4, 0.5, 0.6]] * 3
    assert [network.augment.std for network in told] == [[0.229, 0.224, 0.225]] * 2 + [[0.2] * 3]
    assert torch.equal(told[2].network.conv1.weight, told[0].network.conv1.weight.flip(1))
    assert {network.convention for network in told} == {"written by the pre-training"}
    mine = load_feature_extractor(config(checkpoint=str(alone), augment=replace(VIEW, std=[0.3] * 3)), CPU)
    assert (mine.augment.mean, mine.augment.std) == ([0.4, 0.5, 0.6], [0.3] * 3)
    assert mine.convention == "augment.std for: written by the pre-training"


@pytest.mark.parametrize(("recipe", "world"), [("none", 1), ("supervised", 1), ("supervised", 3)])
def test_linear_by_command_killed_and_resumed(
    recipe: str, world: int, images: Path, pretrained: Path, tmp_path: Path
) -> None:
    more = (f"augment={recipe}", "batch_size=24", "epochs=4", "optimizer=sgd", "lr=[1,10]")
    folders = [tmp_path / "whole", tmp_path / "killed"]
    status, text = run("pretrain.linear", arguments(images, folders[0], str(pretrained), *more), folders[0], world)
    assert status == 0 and text.count("linear top-1: ") == 1, text
    killed = arguments(images, folders[1], str(pretrained), *more)
    command = Command("pretrain.linear", killed, tmp_path / "log.txt", world)
    log = folders[1] / "metrics.jsonl"
    command.until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    command.signal(9)
    command.wait()
    assert run("pretrain.linear", killed, folders[1], world)[0] == 0
    records = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert records[0]["metrics"] == records[1]["metrics"] and records[0]["details"] == records[1]["details"]
    assert (folders[0] / "metrics.jsonl").read_text() == log.read_text()
    record = records[0]
    assert record["details"]["frozen_weights_unchanged"] and len(record["details"]["learning_rates"]) == 2
    assert record["metrics"]["top1"] > 60, "the classes are colours; chance is 25 %"
    assert differences(newest(pretrained.parent)["epoch"], 3) == []


def evaluated(module: str, images: Path, folder: Path, checkpoint: str, world: int, *more: str) -> dict[str, Any]:
    folder = folder / f"{module}-{world}"
    status, text = run(module, arguments(images, folder, checkpoint, *more), folder, world)
    assert status == 0, text
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert record["details"].pop("processes") == world
    return {"metrics": record["metrics"], "details": record["details"], "lines": lines(folder)}


@pytest.mark.parametrize(
    "more", [("augment=none", "optimizer=larc", "lr=[0.1,10]"), ("augment=supervised", "optimizer=sgd", "lr=[0.1,1]")]
)
def test_linear_in_one_process_two_and_four_is_the_same(
    more: tuple[str, ...], images: Path, pretrained: Path, tmp_path: Path
) -> None:
    settings = (*more, "batch_size=16", "epochs=3")
    one, *others = (
        evaluated("pretrain.linear", images, tmp_path, str(pretrained), world, *settings) for world in (1, 2, 4)
    )
    losses = [line["loss"] for line in one["lines"]]
    assert losses[0] != losses[-1], "nothing was learned"
    for other in others:
        assert [line["loss"] for line in other["lines"]] == [pytest.approx(loss, rel=1e-6) for loss in losses]
        assert (other["metrics"], other["details"]) == (one["metrics"], one["details"])


def test_knn_in_one_process_two_and_four_is_the_same(images: Path, pretrained: Path, tmp_path: Path) -> None:
    bad = images.parent / f"{tmp_path.name}-broken"
    shutil.copytree(images, bad)
    (bad / "val" / "class1" / "003.png").write_bytes(b"not a picture")
    # More batches and chunks than processes, and fewer: 32 validation images.
    settings = ("data.skip_broken=true", "batch_size=12", "chunk=12", "k=[5,10]", "temperature=[0.07,1]")
    one, *others = (evaluated("pretrain.knn", bad, tmp_path, str(pretrained), world, *settings) for world in (1, 2, 4))
    assert one["metrics"]["top1"] > 60 and len(one["details"]["broken_images"]) == 1
    assert others == [one, one]


def test_a_batch_that_does_not_divide_is_refused(images: Path, tmp_path: Path) -> None:
    more = ("arch=resnet18x0.25", "augment=none", "batch_size=15")
    status, text = run("pretrain.linear", arguments(images, tmp_path / "run", "random", *more), tmp_path / "run", 2)
    assert status == 2 and text == "error: batch_size=15: does not divide by 2 processes; choose a multiple of 2\n", (
        text
    )


def test_knn_by_command(images: Path, pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sweep = arguments(images, folder, str(pretrained), "k=[5,10]", "temperature=[0.07,1]")
    status, text = run("pretrain.knn", sweep, folder)
    assert status == 0, text
    record = json.loads((folder / "result.json").read_text())
    assert len(record["details"]["grid"]) == 4 and record["metrics"]["top1"] == record["details"]["grid"][0]["top1"]
    assert record["metrics"]["top1"] > 60 and record["subject"]["method"] == "simsiam"
    assert record["details"]["input"]["mean"] == [0.4, 0.5, 0.6]
    status, text = run("pretrain.knn", [*arguments(images, tmp_path / "other", str(pretrained), "k=[5]"),
                       "augment.mean=[0,0,0]", "augment.std=[0.01,0.01,0.01]"], folder)  # fmt: skip
    assert status == 0, text
    other = json.loads((tmp_path / "other" / "result.json").read_text())
    assert other["details"]["input"]["by"] == "augment.mean and augment.std for: written by the pre-training"
    assert other["metrics"]["top1"] != record["metrics"]["top1"], "what is given has an effect"
    words = [*arguments(images, tmp_path / "third", str(pretrained)), "augment.mean=[0,0,0]"]
    status, text = run("pretrain.collapse", words, tmp_path / "third")
    assert status == 2 and "augment.mean, augment.std: the heads see the views of their training" in text, text


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

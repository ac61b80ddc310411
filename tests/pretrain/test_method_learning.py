"""Every method learns: its loss falls on views of sixteen fixed images, and falls no more when the method is broken."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.method.moco import MoCo
from pretrain.method.simclr import SimCLR
from pretrain.method.supervised import Supervised
from runs import plugins
from tests.pretrain import tiny

STEPS = 30


def progress(losses: list[float], skip: int = 0) -> float:
    """The mean of the last five losses as a part of the first one that counts."""
    return sum(losses[-5:]) / 5 / losses[skip]


@pytest.mark.parametrize("name", ["simclr", "byol", "swav", "supervised"])
def test_the_loss_falls(name: str) -> None:
    assert progress(tiny.train(tiny.build(tiny.CONFIGS[name]), tiny.images(), STEPS)) < 0.4


@pytest.mark.parametrize("name", ["BarlowTwins", "VICReg"])
def test_the_loss_of_an_example_falls(root: Path, name: str) -> None:
    module = plugins.load(root / f"examples/plugin/method/{name.lower()}.py")
    torch.manual_seed(0)
    method = getattr(module, name)(getattr(module, f"{name}Config")(dim=32), tiny.plan()).double()
    assert progress(tiny.train(method, tiny.images(), STEPS)) < 0.4


def test_the_loss_of_simsiam_falls_from_0_towards_minus_1() -> None:
    losses = tiny.train(tiny.build(tiny.CONFIGS["simsiam"]), tiny.images(), STEPS)
    assert losses[0] > -0.1
    assert losses[-1] < -0.35


FULL = 4
"""Steps until real keys have replaced MoCo's random ones, which are easy to tell from any image's."""


def test_the_loss_of_moco_falls_once_its_queue_is_full() -> None:
    assert progress(tiny.train(tiny.build(tiny.CONFIGS["moco"]), tiny.images(), STEPS), skip=FULL) < 0.8


class Unrestored(MoCo):
    """Broken: the keys stay in the shuffled order."""

    @torch.no_grad()
    def f_k(self, x: Tensor, chance: torch.Generator) -> Tensor:
        k = self.encoder_k(x[torch.randperm(len(x), generator=chance)])
        return normalize(k, dim=1)


def test_moco_does_not_learn_if_the_order_of_the_keys_is_not_restored() -> None:
    torch.manual_seed(0)
    broken = Unrestored(tiny.CONFIGS["moco"], tiny.plan()).double()
    assert progress(tiny.train(broken, tiny.images(), STEPS), skip=FULL) > 0.95


class WrongPairs(SimCLR):
    """Broken: each view's positive is the next image's."""

    def forward(self, batch):
        x1, x2 = batch.views
        return super().forward(type(batch)([x1, x2.roll(1, 0)], batch.labels, batch.step))


def test_simclr_learns_the_pairs_that_it_is_given() -> None:
    """Sixteen images can be learnt by heart, wrong pairs too; on new noise the right pairs are then no nearer."""
    x = tiny.images()
    losses = {}
    for method in (SimCLR, WrongPairs):
        torch.manual_seed(0)
        trained = method(tiny.CONFIGS["simclr"], tiny.plan()).double()
        tiny.train(trained, x, STEPS)
        # Both are asked for the right pairs.
        losses[method] = SimCLR.forward(trained, tiny.batch(trained, x, 999))["loss"].item()
    assert losses[SimCLR] < 0.25 * losses[WrongPairs]


def test_supervised_training_learns_the_labels() -> None:
    method = tiny.build(tiny.CONFIGS["supervised"])
    x = tiny.images()
    tiny.train(method, x, STEPS)
    assert isinstance(method, Supervised)
    assert method(tiny.batch(method, x, 999))["top1"].item() > 90


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_training_continued_from_the_weights_alone_is_the_same(name: str) -> None:
    """All that training changes is in `state_dict`, besides the optimizer's state, which is empty without momentum."""

    def steps(method, first: int, count: int) -> None:
        optimizer = torch.optim.SGD(method.param_groups(), 0.05)
        for step in range(first, first + count):
            tiny.step(method, optimizer, tiny.batch(method, x, step))

    x = tiny.images()
    whole = tiny.build(tiny.CONFIGS[name])
    steps(whole, 0, 5)
    half = tiny.build(tiny.CONFIGS[name])
    steps(half, 0, 3)
    other = tiny.build(tiny.CONFIGS[name], seed=1)
    other.load_state_dict(half.state_dict())
    steps(other, 3, 2)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key

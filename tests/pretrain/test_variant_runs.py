"""Every preset as the command runs it: composed, trained, killed, in two processes; and parts that do not fit."""

import math
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.method.config import SiameseConfig
from pretrain.variants import markdown_table, read_variants
from runs.errors import UserError
from runs.settings import check_values
from tests.pretrain import variants
from tests.pretrain.processes import SMALL, Command, assert_same_run, lines, run, steps_logged

HEADS = ("method.dim=64", "method.hidden=16")
# The presets of both papers' tables, by hand: one that is lost is missed.
EXPECTED = """
    simsiam no_stop_gradient decayed_predictor_lr constant_predictor_lr no_predictor fixed_predictor bn_none bn_hidden
    bn_default bn_all cross_entropy asymmetric asymmetric_2x alternate_1 alternate_10 alternate_100 alternate_epoch
    moving_average expectation_10 expectation_25 naive mirror symmetric_predictor inverse_predictor triplet
    triplet_no_residual triplet_no_center without_r_e without_o_e without_both center_only residual_only decorrelate
    bn_after_norm two_fc one_fc one_fc_tanh one_bias infonce infonce_no_r_e simclr_predictor simclr_predictor_stop
    swav_predictor swav_no_stop
"""


def test_no_preset_is_missing() -> None:
    assert sorted(EXPECTED.split()) == variants.NAMES


@pytest.mark.parametrize("name", variants.NAMES)
def test_a_preset_composes_and_takes_finite_steps(name: str) -> None:
    config = variants.settings(f"variant={name}")
    assert config.variant == name and f"/{name}-" in config.output
    assert config.augment.name == config.method.name
    method = variants.build(variants.small(name))
    before = {k: v.clone() for k, v in method.named_parameters()}
    losses = variants.train(method, 2, data=variants.Data(method.views, side=16))
    assert all(math.isfinite(loss) for loss in losses), losses
    moved = [k for k, v in method.named_parameters() if not torch.equal(v, before[k])]
    assert "encoder.conv1.weight" in moved


@pytest.mark.parametrize("name", ["simsiam", "mirror", "one_bias", "inverse_predictor", "moving_average", "asymmetric"])
def test_what_the_measures_read(name: str) -> None:
    """z and z2 are two views' outputs, p is the prediction of z's view, and present where there is a predictor."""
    method: Any = variants.build(variants.small(name))
    batch = variants.Data(2).batch(0)
    output = method(batch)
    assert all(value.ndim == 0 for key, value in output.items() if key not in ("z", "z2", "p"))
    torch.testing.assert_close(output["z"], method.project(batch.views[0]))
    torch.testing.assert_close(output["z2"], method.project(batch.views[1]))
    assert ("p" in output) == (name != "moving_average")
    if "p" in output:
        torch.testing.assert_close(output["p"], method.predictor(output["z"]))


@pytest.mark.parametrize("name", variants.NAMES)
def test_a_preset_is_short_and_says_what_it_is(name: str) -> None:
    entry = read_variants()[name]
    assert len(yaml.safe_dump(entry).splitlines()) <= 15
    assert "Chen, He, CVPR 2021, " in entry["source"] or "Zhang et al., ICLR 2022, " in entry["source"]
    # A sentence.
    assert entry["what"].endswith((".", '."'))
    # The experiment is what it changes: no two are the same, but those that the papers count twice.
    same = [other for other in variants.NAMES if settings_of(other) == settings_of(name)]
    assert set(same) in ({name}, {"simsiam", "constant_predictor_lr"})


def test_the_page_is_the_presets_own_table(root: Path) -> None:
    page = (root / "docs" / "variants.md").read_text()
    assert page.endswith("\n\n" + markdown_table())
    assert markdown_table().count("\n| `") == len(variants.NAMES)
    # Every part that the page offers is a setting.
    for name in ("projector_bn", "tail", "predictor", "arrangement", "target", "similarity", "symmetry", "remove"):
        assert f"`{name}`" in page and hasattr(SiameseConfig(), name)


def settings_of(name: str) -> Any:
    config = variants.settings(f"variant={name}")
    return config.method, config.optimizer


@pytest.mark.parametrize(
    ("name", "similarity", "removed"),
    [
        ("triplet", "triplet", []),
        ("triplet_no_center", "triplet", ["o_e"]),
        ("triplet_no_residual", "triplet", ["r_e"]),
        ("without_o_e", "cosine", ["o_e"]),
        ("without_r_e", "cosine", ["r_e"]),
        ("without_both", "cosine", ["o_e", "r_e"]),
        ("center_only", "self", ["r_e"]),
        ("residual_only", "self", ["o_e"]),
        ("infonce", "infonce", []),
        ("infonce_no_r_e", "infonce", ["r_e"]),
    ],
)
def test_a_preset_removes_what_its_name_says(name: str, similarity: str, removed: list[str]) -> None:
    method = variants.settings(f"variant={name}").method
    assert isinstance(method, SiameseConfig)
    assert (method.similarity, method.remove) == (similarity, removed)


def test_a_users_setting_wins_over_the_preset() -> None:
    config = variants.settings("variant=alternate_10", "method.alternate=7", "augment=cifar", "batch_size=64")
    assert (config.method.alternate, config.augment.name, config.batch_size) == (7, "cifar", 64)  # type: ignore[attr-defined]
    assert variants.settings("method=siamese", "variant=mirror") == variants.settings("variant=mirror")


WRONG = {
    "method.predictor=mlpp": {"predictor": "mlpp"},
    "method.remove=": {"remove": ["o"]},
    "method.remove: no components": {"remove": ["o_e"], "similarity": "cross_entropy"},
    "method.remove: of cosine": {"remove": ["o_e"], "arrangement": "mirror"},
    "method.similarity=triplet": {"similarity": "triplet"},
    "method.stop_gradient=false": {"stop_gradient": False, "target": "cached"},
    "method.target=mean": {"target": "mean"},
    "method.arrangement=inverse": {"arrangement": "inverse", "symmetry": "asymmetric"},
    "method.momentum=": {"momentum": 1.5},
    "method.temperature=": {"temperature": 0.0},
    "method.mean_of=": {"mean_of": 1},
    "method.layers=": {"layers": 1},
    "method.alternate=": {"alternate": -1},
    "method.dim=": {"dim": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_parts_that_do_not_fit_are_refused(message: str) -> None:
    with pytest.raises(UserError, match="^" + message):
        check_values(SiameseConfig(**WRONG[message]), "method.")  # type: ignore[arg-type]


def arguments(name: str, data: Path, output: Path, *more: str) -> list[str]:
    return [f"variant={name}", *SMALL, *HEADS, f"data.root={data}", f"output={output}", *more]


@pytest.mark.parametrize(
    ("name", "more", "world"),
    [
        ("moving_average", (), 1),
        ("alternate_10", ("checkpoint.every_steps=2", "method.alternate=5"), 1),
        pytest.param("alternate_10", ("method.alternate=5",), 2, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_bit_for_bit(
    name: str, more: tuple[str, ...], world: int, images: Path, tmp_path: Path
) -> None:
    """What a variant remembers of earlier steps survives a kill at any step: 12 steps, an alternation of 5."""
    whole, folder = tmp_path / "whole" / "run", tmp_path / "run"
    whole.parent.mkdir()
    status, text = run("pretrain", arguments(name, images, whole, *more), whole, world)
    assert status == 0, text
    chance = random.Random(len(name) + world)
    for kill in range(2 if world == 1 else 1):
        command = Command("pretrain", arguments(name, images, folder, *more), tmp_path / f"{kill}.txt", world)
        # Beyond a checkpoint, or there is nothing to continue from.
        goal = steps_logged(folder) + chance.randint(4, 5)
        assert command.until(lambda goal=goal: steps_logged(folder) >= goal), command.log.read_text()  # type: ignore[misc]
        command.signal(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    status, text = run("pretrain", arguments(name, images, folder, *more), folder, world)
    assert status == 0 and "continuing after step" in text, text
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moving_average", "alternate_10", "infonce_no_r_e"])
def test_two_processes_train_as_one(name: str, images: Path, tmp_path: Path) -> None:
    """Memory, cache, centers and negatives are those of all images, whoever computes them."""
    found = []
    for world in (1, 2):
        folder = tmp_path / str(world) / "run"
        folder.parent.mkdir()
        status, text = run("pretrain", arguments(name, images, folder, "epochs=2", "optimizer.lr=0.5"), folder, world)
        assert status == 0, text
        found.append([line["loss"] for line in lines(folder) if "loss" in line])
    assert len(found[0]) == 8
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-3)

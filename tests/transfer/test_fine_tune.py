"""Trials give mean and deviation; the search chooses without a look at the test split, and says what it tried."""

import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from runs.errors import UserError
from runs.record import read_record
from transfer import fine_tune
from transfer.learning_rate_search import grid_search_learning_rate, with_rate_and_warmup
from transfer.read_splits import read_train_and_test
from transfer.settings import TransferConfig


def test_three_trials(tiny: TransferConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.trials, tiny.seed = 3, 5
    reader = Mock(side_effect=read_train_and_test)
    monkeypatch.setattr(fine_tune, "read_train_and_test", reader)
    metrics = fine_tune.run_trials(tiny)
    assert reader.call_count == 1, "the trials share the images"
    folder = Path(tiny.output)
    single = [read_record(folder / f"trial{n}") for n in range(3)]
    assert [r.seed for r in single] == [5, 6, 7]
    record = read_record(folder)
    values = [r.metrics["bbox/AP50"] for r in single]
    assert record.metrics["bbox/AP50"] == metrics["bbox/AP50"] == pytest.approx(statistics.fmean(values))
    assert record.details["std"]["bbox/AP50"] == pytest.approx(statistics.stdev(values))
    assert [t["seed"] for t in record.details["trials"]] == [5, 6, 7]

    # Done means done: nothing is computed again.
    monkeypatch.setattr(fine_tune, "_fine_tune", lambda *_: pytest.fail("ran again"))
    assert fine_tune.run_trials(tiny) == metrics

    # Another file under the same name is another run.
    other = Path(tiny.output).parent / "other.pkl"
    other.write_bytes(Path(tiny.weights).read_bytes() + b" ")
    tiny.weights = str(other)
    folder.joinpath("config.yaml").write_text(
        folder.joinpath("config.yaml").read_text().replace(record.config["weights"], tiny.weights)
    )
    with pytest.raises(UserError, match=r"belongs to another run .*weights_sha256"):
        fine_tune.run_trials(tiny)


def test_the_search_chooses_on_held_out_training_images(tiny: TransferConfig) -> None:
    tiny.search.enabled, tiny.search.rates, tiny.search.held_out = True, [0.01, 1e30, 0.1], 0.3
    tiny.trials = 2
    # An untrained detector scores 0 everywhere; the choice is tested on figures that are set here.
    scores = {"0.01": 10.0, "0.1": 20.0}
    fine_tune.run_trials(tiny)
    record = read_record(tiny.output)
    search = record.details["search"]
    assert [entry["rate"] for entry in search["grid"]] == [0.01, 1e30, 0.1]
    assert search["grid"][1]["metrics"] is None and "iteration" in search["grid"][1]["diverged"]
    # VISSL's warm-up for high rates, shortened with the schedule; the recipe's for the others.
    assert search["grid"][2]["solver"]["WARMUP_FACTOR"] == 0.3333
    assert "WARMUP_FACTOR" not in search["grid"][0]["solver"]
    for rate in scores:
        tried = read_record(Path(tiny.output) / f"search_lr{rate}")
        assert tried.dataset is not None and tried.dataset.split.startswith("voc_2007_trainval (0.3 held out")
    final = read_record(Path(tiny.output) / "trial1")
    assert final.dataset is not None and final.dataset.split == "voc_2007_test"
    assert final.details["recipe"]["SOLVER"]["BASE_LR"] == search["chosen"]


def test_the_best_held_out_metric_decides(tiny: TransferConfig) -> None:
    tiny.search.enabled, tiny.search.rates = True, [0.01, 0.02, 0.04]
    figures = {0.01: 10.0, 0.02: 30.0, 0.04: 20.0}
    seen: list[tuple[float, float]] = []

    def run_one(config: TransferConfig) -> Any:
        rate = config.detectron2["SOLVER"]["BASE_LR"]
        seen.append((rate, config.data.held_out))
        return SimpleNamespace(metrics={"bbox/AP": figures[rate]})

    result = grid_search_learning_rate(tiny.search, tiny, Path(tiny.output), 100, run_one)
    chosen = with_rate_and_warmup(tiny, result["chosen"], 100)
    assert result["chosen"] == 0.02 == chosen.detectron2["SOLVER"]["BASE_LR"]
    assert seen == [(0.01, 0.2), (0.02, 0.2), (0.04, 0.2)] and chosen.data.held_out == 0


def test_when_every_rate_diverges_the_grid_is_named(tiny: TransferConfig) -> None:
    tiny.search.enabled, tiny.search.rates = True, [1e30, 1e32]
    with pytest.raises(UserError, match=r"1e\+30.*search\.rates"):
        fine_tune.run_trials(tiny)

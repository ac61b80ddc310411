"""From tables to runs: sharing, identity, and what a change touches."""

import dataclasses
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.__main__ import main
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand, parse_stage_setting
from benchmarks.workflow.plan import Plan, Source, read_plan
from benchmarks.workflow.time_left import chain_seconds_by_run
from runs.errors import UserError


def plan(*names: str, scale: str = "mini", rows: list[str] | None = None, overrides: tuple[str, ...] = ()) -> Plan:
    chosen = [tables.load(n).select(rows, None) for n in names]
    parsed = [parse_stage_setting(o) for o in overrides]
    return expand(chosen, scales.load(scale), "outputs/x", {}, parsed)


def kinds(p: Plan) -> dict[str, int]:
    return {k: sum(r.task == k for r in p.runs.values()) for k in dict.fromkeys(r.task for r in p.runs.values())}


def test_the_published_table_5_is_all_there() -> None:
    p = plan("table5", scale="paper")
    # 7 pre-trained rows, scratch and the one without stop-gradient; 5 VOC 07, 5 VOC 07+12 and 1 COCO fine-tuning each.
    assert kinds(p) == {"voc07": 45, "voc0712": 45, "coco": 9, "pretrain": 8, "convert": 8}
    assert all(len(c.runs) == (1 if c.column.startswith(("coco", "mask")) else 5) for c in p.cells)


def test_tables_4_and_5_share_their_pretraining() -> None:
    alone, both = plan("table5", rows=["simsiam"]), plan("table4", "table5", rows=["simsiam"])
    assert kinds(alone)["pretrain"] == 1
    assert kinds(both) == {
        "data": 1,
        "pretrain": 3,
        "linear": 3,
        "knn": 3,
        "voc07": 3,
        "voc0712": 3,
        "coco": 1,
        "convert": 1,
    }
    assert set(alone.runs) <= set(both.runs)


def test_one_fine_tuning_fills_all_its_columns() -> None:
    p = plan("table5", rows=["scratch"])
    coco = [c for c in p.cells if c.column.startswith(("coco", "mask"))]
    assert len(coco) == 6 and len({c.runs for c in coco}) == 1


def test_no_two_runs_share_a_name() -> None:
    """Table 4 has two starts of the untrained network; a list of runs without the hashes has to tell them apart."""
    called = list(plan("table4", "table5").name_by_run.values())
    assert len(set(called)) == len(called)
    assert {"linear-scratch-seed0 (scratch)", "linear-scratch-seed0 (scratch_plain)", "linear-moco-10ep-seed0"} <= set(
        called
    )
    assert "pretrain simsiam-10ep-seed0 (simsiam_optimal)" in called


@pytest.mark.parametrize(
    ("override", "touched"),
    [
        ("pretrain.optimizer.lr=0.1", {"pretrain", "linear", "knn", "convert", "voc07", "voc0712", "coco"}),
        ("knn.seed_of_nothing=1", {"knn"}),
        ("voc07.detectron2.SOLVER.BASE_LR=0.02", {"voc07"}),
        ("transfer.detectron2.SOLVER.BASE_LR=0.02", {"voc07", "voc0712", "coco"}),
    ],
)
def test_a_changed_setting_reruns_exactly_what_it_touches(override: str, touched: set[str]) -> None:
    before = plan("table4", "table5", rows=["simsiam"])
    after = plan("table4", "table5", rows=["simsiam"], overrides=(override,))
    changed = set(after.runs) - set(before.runs)
    assert {after.runs[r].task for r in changed} == touched
    assert all(r in before.runs for r in after.runs if after.runs[r].task not in touched)


def test_ids_do_not_depend_on_the_folder() -> None:
    chosen = [tables.load("table5").select(["scratch", "simsiam"], None)]
    ids = [set(expand(chosen, scales.load("mini"), folder).runs) for folder in ("outputs/a", "/somewhere/else")]
    assert ids[0] == ids[1]


def test_every_run_comes_behind_what_it_needs_and_the_chain_is_the_longest() -> None:
    p = plan("table4", "table5", rows=["simsiam"])
    place = {r: i for i, r in enumerate(p.order)}
    assert all(place[n] < place[r.id] for r in p.runs.values() for n in r.needs)
    seconds = {
        r.id: {"data": 1.0, "pretrain": 10.0, "convert": 2.0, "coco": 20.0}.get(r.task, 3.0) for r in p.runs.values()
    }
    assert max(chain_seconds_by_run(p, seconds).values()) == 1 + 10 + 2 + 20


def test_commands_are_what_a_user_would_type() -> None:
    p = plan("table5", scale="paper", rows=["simsiam_optimal"])
    [pretrain] = [r for r in p.runs.values() if r.kind == "pretrain"]
    words = " ".join(pretrain.command)
    assert words.startswith(
        "torchrun --standalone --nproc_per_node=8 -m pretrain method=simsiam data=imagenet data.root="
    )
    assert "epochs=200" in words and "optimizer.lr=0.5" in words and "optimizer.weight_decay=1e-05" in words
    single = expand([tables.load("table4").select(["simsiam"], ["ep100"])], scales.load("mini"), "outputs/x")
    assert all(r.command[0] == "python" for r in single.runs.values())
    # A shell takes every line apart into the words that are run, and finds no pattern of file names in it.
    for run in single.runs.values():
        assert tuple(shlex.split(run.shell_command)) == run.command and " lr=[" not in run.shell_command
    linear = plan("table4", rows=["simsiam"])
    assert any("'lr=[1.0,10.0,30.0]'" in run.shell_command for run in linear.runs.values())
    odd = expand(
        [tables.load("table4").select(["simsiam"], ["ep200"])], scales.load("small"), "outputs/x",
        checkpoint=Source("net", "runs/epoch=9-step=100 (it's).ckpt"),
    )  # fmt: skip
    (run,) = odd.runs.values()
    assert OverridesParser.create().parse_override(run.command[3]).value() == "runs/epoch=9-step=100 (it's).ckpt"
    assert tuple(shlex.split(run.shell_command)) == run.command
    assert dataclasses.replace(run, command=("python", "a='b=c'")).shell_command == "python \"a='b=c'\""


def test_what_cannot_run_says_why() -> None:
    p = plan("tableC1")
    assert {c.absent for c in p.cells} == {
        "needs no runs, being published numbers only; Table 4 runs the reproductions"
    }
    reasons = {c.absent for c in plan("table4", rows=["simsiam"]).cells}
    assert reasons == {"", "not at the mini scale"}


def test_tables_of_another_scale_are_refused_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ("plan collapse --scale mini", "not at the mini scale; add --scale lab or --scale small or --scale paper"),
        ("run tableC1", "Table 4 runs the reproductions; choose other rows or tables"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words.split())
        error = capsys.readouterr().err
        assert error.endswith(f"{said}\n") and error.count("\n") == 1


def test_a_given_checkpoint_takes_the_rows_place() -> None:
    chosen = [tables.load("table5").select(["simsiam"], ["voc07"])]
    guest = Source("mine", "mine.pth", (), "a" * 64)
    p = expand(chosen, scales.load("mini"), "outputs/x", checkpoint=guest)
    assert kinds(p) == {"data": 1, "convert": 1, "voc07": 3}
    other = expand(chosen, scales.load("mini"), "outputs/x", checkpoint=Source("mine", "mine.pth", (), "b" * 64))
    assert {r for r in p.runs if "voc07" in r}.isdisjoint(other.runs)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    made = expand([tables.load("table5")], scales.load("mini"), tmp_path / "out")
    made.write()
    again = read_plan(tmp_path / "out")
    assert again.runs == made.runs and again.cells == made.cells
    (tmp_path / "out/plan.json").write_text('{"runs": {}}')
    with pytest.raises(UserError, match="field 'output' is missing"):
        read_plan(tmp_path / "out")


@pytest.mark.parametrize("text", ["pretrain", "pretrain=1", "nothing.lr=1", ".a=1"])
def test_a_wrong_override_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_stage_setting(text)


def test_the_mini_scale_knows_the_generated_classes() -> None:
    from benchmarks.shapes_scenes import CLASSES

    for task in ("voc07", "voc0712"):
        assert tuple(scales.load("mini").stages[task]["data.classes"]) == CLASSES


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("jobs: 1", "field 'about' is missing"), ("- a", "must be a mapping"),
     ("about: x\njobs: one", "jobs must be a whole"), ("about: x\nspeed: 1", "unknown field 'speed'"),
     ("about: x\nstages: {dance: {}}", "unknown stage 'dance'"),
     ("about: x\nseconds: {dance: 1}", "unknown run 'dance'")],
)  # fmt: skip
def test_a_wrong_scale_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        scales.load(str(path))


def test_names_that_a_setting_cannot_hold_are_refused() -> None:
    with pytest.raises(UserError, match="--output"):
        expand([tables.load("table5")], scales.load("mini"), "my outputs")

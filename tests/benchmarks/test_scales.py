"""The sizes: what they may say, and that what they say can be run."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.results.table_results import pretrainings
from benchmarks.tables import scale as scales
from benchmarks.tables import table as tables
from benchmarks.workflow.expand_tables import expand, gpus_and_nodes, parse_stage_setting
from benchmarks.workflow.time_left import expected_durations
from converters.architecture import parse_arch
from converters.conversion import detectron2_obstacle
from runs.errors import UserError


def own_scale(tmp_path: Path, text: str) -> scales.Scale:
    """A scale file of one's own with these lines, read."""
    file = tmp_path / "own.yaml"
    file.write_text(f"about: a test\n{text}\n")
    return scales.load(str(file))


@pytest.mark.parametrize("scale", ["mini", "photos", "small", "paper"])
def test_table_5_fine_tunes_networks_that_a_c4_detector_can_hold(scale: str) -> None:
    plan = expand([tables.load("table5")], scales.load(scale), "outputs/x")
    archs = {run.settings["arch"] for run in plan.runs.values() if "arch" in run.settings}
    assert archs
    for name in archs:
        arch = parse_arch(name)
        assert not detectron2_obstacle(arch) and arch.bottleneck, name


def test_every_run_uses_the_devices_of_its_scale() -> None:
    plan = expand([tables.load("table4"), tables.load("table5")], scales.load("paper"), "outputs/x")
    devices = {(run.kind, run.gpus, run.command[0]) for run in plan.runs.values()}
    assert devices == {
        ("pretrain", 8, "torchrun"),
        ("transfer", 8, "torchrun"),
        ("linear", 8, "torchrun"),
        ("knn", 8, "torchrun"),
        ("convert", 0, "python"),
    }


def test_settings_of_a_data_set_reach_its_tables_only(tmp_path: Path) -> None:
    scale = own_scale(
        tmp_path,
        "stages: {pretrain: {arch: resnet18, batch_size: 8}}\n"
        "datasets: {imagenet: {pretrain: {arch: resnet50, augment: {size: 96}}}}",
    )
    chosen = [tables.load(name) for name in ("table2", "figureD1")]
    plan = expand(chosen, scale, "outputs/x")
    given = {
        table.name: [plan.runs[id_].settings for row in table.rows for id_ in pretrainings(plan, table.name, row.id)]
        for table in chosen
    }
    assert all(run["arch"] == "resnet50" and run["augment.size"] == 96 for run in given["table2"])
    # The row's own batch wins over both.
    assert {run["batch_size"] for run in given["table2"]} == {64, 128, 256, 512, 1024, 2048, 4096}
    assert given["figureD1"] and all("augment.size" not in run for run in given["figureD1"])


def test_a_stage_of_a_data_set_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown stage 'pretraining'"):
        own_scale(tmp_path, "datasets: {imagenet: {pretraining: {arch: resnet50}}}")


@pytest.mark.parametrize("scale", scales.NAMES)
def test_every_scale_can_run_something_and_estimates_its_time(scale: str) -> None:
    plan = expand([tables.load(name) for name in tables.names()], scales.load(scale), "outputs/x")
    assert plan.runs
    assert all(seconds > 0 for seconds in expected_durations(plan, {}).seconds.values())


def test_a_scale_runs_the_tasks_that_it_names() -> None:
    plan = expand([tables.load("table4"), tables.load("table5")], scales.load("photos"), "outputs/x")
    assert {run.task for run in plan.runs.values()} == {"pretrain", "convert", "linear", "knn", "voc07"}
    assert {cell.column for cell in plan.cells if cell.table == "table5" and not cell.absent} == {
        "voc07_ap50", "voc07_ap", "voc07_ap75",
    }  # fmt: skip
    assert {cell.absent for cell in plan.cells if cell.column == "coco_ap"} == {"not at the photos scale"}


def test_a_task_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown task 'voc08'"):
        own_scale(tmp_path, "tasks: [knn, voc08]")


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ("replace: {linear: {metrics: x}}", "replace: linear: unknown field 'metrics'"),
        ("replace: {linear: {digits: -2}}", "digits=-2: must be at least 0"),
        ("replace: {linear: {task: voc99}}", "task='voc99': choose one of pretrain, linear"),
        ("add: [{label: x}]", r"add\[0\]: field 'id' is missing"),
    ],
)
def test_columns_that_a_scale_cannot_have_are_refused(tmp_path: Path, own: str, complaint: str) -> None:
    scale = own_scale(tmp_path, own)
    with pytest.raises(UserError, match=complaint):
        tables.choose(["table4", "collapse/table1"], None, None, scale.replace, scale.add)


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ("jobs: 0", "jobs=0: must be at least 1"),
        ("gpus: -2", "gpus=-2: must be at least 0"),
        ("trials: {pretrain: 0}", "trials=.*: must be at least 1"),
        ("epochs: {200: 0}", "epochs=.*: must be at least 1"),
        ("seconds: {knn: -5}", "seconds=.*: must be at least 0"),
        ("trials: {pretraining: 2}", "unknown trials 'pretraining'"),
        ("replace: {voc77: {label: x}}", "unknown task 'voc77'"),
    ],
)
def test_numbers_that_a_scale_cannot_have_are_refused(tmp_path: Path, own: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        own_scale(tmp_path, own)


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ("rows: {simsiamm: {pretrain: {epochs: 2}}}", "rows: no table has 'simsiamm'; did you mean simsiam"),
        ("rows: {table5/moko: {}}", r"rows: no table has 'table5/moko'; did you mean table5/moco"),
        ("methods: {mocov2: {}}", "methods: no table has 'mocov2'; did you mean moco"),
        ("batch_sizes: {voc: 16}", "batch_sizes: no table has 'voc'; did you mean .*voc07"),
        ("datasets: {imagnet: {}}", "datasets: no table has 'imagnet'; did you mean imagenet"),
        ("data: {cifar: imagefolder}", "data: no table has 'cifar'; did you mean cifar10"),
    ],
)
def test_settings_for_what_no_table_has_are_refused(tmp_path: Path, own: str, complaint: str) -> None:
    scale = own_scale(tmp_path, own)
    with pytest.raises(UserError, match=f"scale own: {complaint}"):
        expand([tables.load("table4")], scale, "outputs/x")


@pytest.mark.parametrize(
    "own",
    [
        "rows: {mytable/simsiam: {pretrain: {lr: 1}}}",
        "methods: {vicreg: {lr: 1}}",
        "batch_sizes: {vicreg: 64}",
        "datasets: {birds: {pretrain: {arch: resnet18}}}\ndata: {birds: imagefolder}",
    ],
)
def test_a_scale_may_also_serve_a_table_that_is_not_made_now(tmp_path: Path, own: str) -> None:
    expand([tables.load("table4")], own_scale(tmp_path, own), "outputs/x")


@pytest.mark.parametrize("text", ["pretrain.epochs=x", "pretrain.epochs=1.5", "pretrain.batch_size=0"])
def test_a_setting_that_a_plan_counts_with_is_a_whole_number(text: str) -> None:
    override = parse_stage_setting(text)
    with pytest.raises(UserError, match=f"{text}: must be a whole number"):
        expand([tables.load("table4")], scales.load("mini"), "outputs/x", overrides=[override])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pretrain.seed=5", "pretrain.seed: the plan sets it for each run; leave it out .see --trials"),
        ("knn.checkpoint=x.pth", "knn.checkpoint: the plan sets it"),
        ("pretrain.data.root=DIR", "see --data"),
        ("pretrain.method=byol", "pretrain.method: is what makes the row; choose rows with --rows"),
        ("pretrain.note=2024-01-01", "pretrain.note=2024-01-01: must be a number, a text"),
        ("pretrain.augment.std=[1, .inf]", "must be a number, a text"),
    ],
)
def test_a_setting_that_is_not_the_users_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        expand([tables.load("table4")], scales.load("mini"), "outputs/x", overrides=[parse_stage_setting(text)])


def test_a_number_with_an_exponent_is_the_number_that_the_record_will_hold() -> None:
    given = [parse_stage_setting(text) for text in ("pretrain.optimizer={lr: 1.5e-3}", "linear.lr=[1e-1, .5e1]")]
    plan = expand([tables.load("table4")], scales.load("mini"), "outputs/x", overrides=given)
    assert {run.settings["optimizer.lr"] for run in plan.runs.values() if run.kind == "pretrain"} == {0.0015}
    assert [0.1, 5.0] in [run.settings.get("lr") for run in plan.runs.values()]


def test_an_absurd_number_of_trials_is_refused() -> None:
    scale = dataclasses.replace(scales.load("mini"), trials={"pretrain": 10**9})
    with pytest.raises(UserError, match=r"table4, column ep200: 1000000000 trials; at most 1000"):
        expand([tables.load("table4")], scale, "outputs/x")


def test_an_absurd_number_of_nodes_takes_no_time() -> None:
    assert gpus_and_nodes(dataclasses.replace(scales.load("paper"), gpus=8, nodes=10**12), "linear", 4096) == (8, 16)

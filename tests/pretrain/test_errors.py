"""What a user can put right is one line and exit status 2, and leaves nothing behind that is in the way."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.pretrain.processes import lines, run, small

EVALUATIONS = ("pretrain.linear", "pretrain.knn")


def refused(module: str, arguments: list[str], folder: Path) -> str:
    """Run a command that must refuse; returns its line."""
    status, text = run(module, arguments, folder)
    assert status == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    return text


def evaluation(data: Path, folder: Path, *more: str) -> list[str]:
    """Arguments of a linear or kNN evaluation of the untrained network."""
    return ["data=imagefolder", f"data.root={data}", "checkpoint=random", "arch=resnet18x0.25", "augment.size=32",
            "data.workers=0", f"output={folder}", *more]  # fmt: skip


@pytest.mark.parametrize("module", ["pretrain", *EVALUATIONS])
def test_help_and_settings_are_printed(module: str, images: Path, tmp_path: Path) -> None:
    status, text = run(module, ["--help"], tmp_path / "run")
    assert status == 0 and "batch_size" in text and "Traceback" not in text
    base = small("simsiam", images, tmp_path / "run") if module == "pretrain" else evaluation(images, tmp_path / "run")
    status, text = run(module, [*base, "--cfg", "job"], tmp_path / "run")
    assert status == 0 and "arch: resnet18x0.25" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["pretrain", *EVALUATIONS])
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("batchsize=4", "unknown key 'batchsize', did you mean 'batch_size'?"),
        ("batch_size=many", "batch_size: Value 'many' of type 'str' could not be converted to Integer"),
        ("batch_size=0", "batch_size"),
        ("precision=fp8", "precision=fp8: choose one of auto, fp32, pytorch, tf32, bf16"),
        ("augment.size=4", "augment.size=4: must be at least 8"),
    ],
)
def test_a_wrong_setting(module: str, argument: str, said: str, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    base = small("simsiam", images, folder) if module == "pretrain" else evaluation(images, folder)
    assert said in refused(module, [*base, argument], folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("seed=-1", "seed=-1: must be at least 0"),
        ("device=tpu", "device=tpu: choose one of auto, cpu, cuda"),
        ("data=mnist", "data=mnist: choose one of arrow, cifar10, "),
        ("data.workers=-2", "data.workers=-2: must be at least -1"),
        ("data.layout=zip", "data.layout=zip: choose one of folder"),
        ("augment.jitter=[1]", "augment.jitter=[1.0]: must be brightness"),
        ("arch=resnet49", "resnet49"),
        ("method=dino", "method=dino: choose one of byol, "),
        ("method.layers=4", "method.layers=4"),
        ("variant=null", "Config group override must be a string or a list. Got NoneType; --help lists the settings"),
        ("data.name=../x", "data.name=../x: must not contain a /"),
        ("variant=mirror", "method=simsiam and variant=mirror: do not go together, by method.arrangement; leave one"),
        ("epochs=１０", "epochs=１０: has a character that must be quoted; write "),
        ("epochs=0", "epochs=0: must be at least 1"),
        ("batch_size=65", "batch_size=65: the training set has 64 images"),
        ("batch_size=1", "too few for batch norm"),
        ("seed=9223372036854775808", "seed=9223372036854775808: must be below 2^63"),
        ("optimizer.warmup_epochs=3", "optimizer.warmup_epochs=3: must be fewer than epochs=3"),
        ("optimizer.lr=0", "optimizer.lr=0.0: must be above 0"),
        ("optimizer.name=adam", "optimizer.name=adam: choose one of"),
        ("optimizer.schedule=never", "optimizer.schedule=never: choose one of epoch, step"),
        ("on_collapse=cry", "on_collapse=cry: choose one of warn, stop"),
        ("checkpoint.keep=0", "checkpoint.keep=0: must be at least 1"),
        ("monitor.every=0", "monitor.every=0: must be at least 1"),
        ("augment.second={blurp:1}", "blurp"),
    ],
)
def test_a_wrong_setting_of_the_training(argument: str, said: str, images: Path, tmp_path: Path) -> None:
    assert said in refused("pretrain", [*small("simsiam", images, tmp_path / "run"), argument], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("lr=0.1", "lr: is a list; write lr=[…]"),
        ("lr=[]", "lr=[]: must be a list of different positive numbers"),
        ("lr=[0.1,0.1]", "must be a list of different positive numbers"),
        ("optimizer=adam", "optimizer=adam: choose one of"),
        ("momentum=2", "momentum=2.0: must be at most 1"),
        ("batch_size=100", "batch_size=100: the training set has 64 images"),
        ("checkpoint=nowhere.pth", "nowhere.pth"),
        ("arch=''", "arch: is required with checkpoint=random"),
    ],
)
def test_a_wrong_setting_of_the_linear_evaluation(argument: str, said: str, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert said in refused("pretrain.linear", [*evaluation(images, folder, "batch_size=16"), argument], folder)
    assert not folder.exists()


def test_classes_of_images_that_have_none(images: Path, tmp_path: Path) -> None:
    folder, flat = tmp_path / "run", images / "train" / "class0"
    for method, more in (("supervised", []), ("simsiam", ["probe.enabled=true"])):
        assert "has no classes; put its images into class folders" in refused(
            "pretrain", [*small(method, flat, folder), "batch_size=8", *more], folder
        )
    assert "no val in it" in refused("pretrain.knn", evaluation(flat, folder), folder)
    status, text = run("pretrain", [*small("simsiam", flat, folder), "batch_size=8", "epochs=1"], folder)
    assert status == 0 and "16 images, without classes\nno validation images" in text, text
    assert "fingerprint:\n  train: " in (folder / "config.yaml").read_text()


def test_a_wrong_setting_of_the_knn_evaluation(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    few, none = "the training set has only 64 images", "temperature=[0.0]: must be above 0"
    for argument, said in (("k=[200]", few), ("temperature=[0]", none)):
        assert said in refused("pretrain.knn", [*evaluation(images, folder), argument], folder)
    assert not folder.exists()


@pytest.mark.parametrize("module", ["pretrain", *EVALUATIONS])
def test_faults_of_the_data(module: str, images: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / "run", tmp_path / "data"

    def said(*more: str) -> str:
        base = small("simsiam", data, folder) if module == "pretrain" else evaluation(data, folder)
        extra = () if module == "pretrain" else ("batch_size=16",)
        return refused(module, [*base, *extra, *more, *(["k=[5]"] if module == "pretrain.knn" else [])], folder)

    arguments = small("simsiam", data, folder) if module == "pretrain" else evaluation(data, folder)
    assert "data.root: is required" in refused(module, [a for a in arguments if "data.root" not in a], folder)
    assert f"data.root={data}: no such folder" in said()
    data.mkdir()
    assert f"{data}: no images in it; data.root must hold {{train,val}}/<class>/<image>" in said()
    (data / "train").mkdir()
    assert f"{data / 'train'}: no images in it" in said()
    shutil.copytree(images, data, dirs_exist_ok=True)
    (data / "val" / "empty").mkdir()
    assert f"{data / 'val' / 'empty'}: a class without images" in said()
    (data / "val" / "empty").rmdir()
    assert not folder.exists(), "the data's faults come before the folder is taken"


def test_a_file_that_is_no_image(images: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    bad = data / "train" / "class0" / "000.png"
    bad.write_bytes(b"not a picture")
    (data / "val" / "class1" / "001.png").write_bytes(b"")
    for more in ((), ("data.cache=true",), ("data.workers=1",)):
        status, text = run("pretrain", small("simsiam", data, folder, *more, "monitor.knn_every=0"), folder)
        last = text.strip().splitlines()[-1]
        assert status == 2 and last.count(": not a readable image") == 1 and "Traceback" not in text, text
        assert last.startswith(f"error: {bad}"), last
    for module in EVALUATIONS:
        more = "k=[5]" if module == "pretrain.knn" else "batch_size=16"
        status, text = run(module, evaluation(data, tmp_path / module, more), folder)
        assert status == 2 and ": not a readable image; delete it, or add data.skip_broken=true" in text, text


def test_a_file_that_cannot_be_read(images: Path, tmp_path: Path) -> None:
    """As on a disk that fails; in the process itself and in a loading one."""
    data = tmp_path / "data"
    shutil.copytree(images, data)
    bad = data / "train" / "class2" / "003.png"
    bad.unlink()
    # A file like any other, whose first byte no process may read.
    bad.symlink_to("/proc/self/mem")
    # Left out are images that are none, not files of a disk that fails.
    for number, more in enumerate(("data.workers=0", "data.workers=1", "data.skip_broken=true")):
        folder = tmp_path / str(number)
        status, text = run("pretrain", small("simsiam", data, folder, more, "monitor.knn_every=0"), folder)
        assert status == 2 and "Traceback" not in text, text
        assert text.strip().splitlines()[-1] == f"error: {bad}: Input/output error", text
    for workers in (0, 1):
        folder = tmp_path / f"knn{workers}"
        status, text = run("pretrain.knn", evaluation(data, folder, "k=[5]", f"data.workers={workers}"), folder)
        assert status == 2 and f"{bad}: Input/output error" in text and "Traceback" not in text, text


def test_broken_images_are_left_out_and_counted_by_option_with_and_without_a_cache(
    images: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    bad = data / "train" / "class0" / "000.png"
    bad.write_bytes(b"not a picture")
    (data / "val" / "class1" / "001.png").write_bytes(b"")
    logs = []
    for cache in ("true", "false"):
        folder = tmp_path / cache
        status, text = run("pretrain", small("simsiam", data, folder, f"data.cache={cache}"), folder)
        assert status == 2 and "add data.skip_broken=true to go on" in text, text
        more = ("data.skip_broken=true", f"data.cache={cache}")
        status, text = run("pretrain", small("simsiam", data, folder, *more), folder)
        assert status == 0, text
        assert f'"{bad}"' in (folder / "result.json").read_text()
        logs.append(lines(folder))
    assert logs[0] == logs[1], "the cache must not change what is learned"
    steps = ("batch_size=16", "epochs=2")
    for number, (module, *more) in enumerate(
        (("pretrain.linear", "augment=none", *steps), ("pretrain.linear", *steps), ("pretrain.knn", "k=[5]"))
    ):
        folder = tmp_path / str(number)
        status, text = run(module, evaluation(data, folder, "data.skip_broken=true", *more), folder)
        assert status == 0, text
        record = (folder / "result.json").read_text()
        assert str(bad) in record and "001.png" in record


def test_the_folder_of_another_run(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = small("simsiam", images, folder, "epochs=1", "monitor.knn_every=0")
    assert run("pretrain", arguments, folder)[0] == 0
    before = lines(folder)
    assert "belongs to another run (seed: 0 there, 1 here)" in refused("pretrain", [*arguments, "seed=1"], folder)
    for module in EVALUATIONS:
        more = "k=[5]" if module == "pretrain.knn" else "batch_size=16"
        text = refused(module, evaluation(images, folder, more), folder)
        assert "belongs to another run (kind: pretrain there" in text
    other = tmp_path / "other"
    shutil.copytree(images, other)
    shutil.copy(images / "train" / "class1" / "000.png", other / "train" / "class0" / "000.png")
    text = refused("pretrain", [*arguments, f"data.root={other}"], folder)
    assert "belongs to another run (fingerprint.train: " in text
    assert lines(folder) == before
    (folder / "result.json").unlink()
    checkpoint = folder / "checkpoint_0000.pth.tar"
    state = torch.load(checkpoint, weights_only=True)
    for key, value in (("last", {"loss": "low"}), ("monitor", state["resume"]["metrics"]["monitor"] | {"flat": None})):
        broken = state["resume"] | {"metrics": state["resume"]["metrics"] | {key: value}}
        torch.save(state | {"resume": broken}, checkpoint)
        status, text = run("pretrain", arguments, folder)
        assert status == 2 and text.splitlines()[-1].startswith(f"error: {checkpoint}: ") and "Traceback" not in text
    torch.save(state, checkpoint)
    settings = folder / "config.yaml"
    settings.write_text(settings.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    assert f"{checkpoint}: of another run, or of an" in refused("pretrain", [*arguments, "seed=1"], folder)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_mother.txt").write_text("dear")
    status, text = run("pretrain", small("simsiam", images, tmp_path / "letters"), folder)
    assert status == 2 and "holds files of something else" in text


def test_no_space_left(images: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder = disk / "run"
        status, text = run("pretrain", small("simsiam", images, folder), tmp_path / "log")
        assert status == 2 and "no space left on the device" in text and "Traceback" not in text, text
        assert not list(folder.glob("checkpoint_*")) and not list(folder.glob(".checkpoint*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        status, text = run("pretrain", small("simsiam", images, folder), tmp_path / "log")
        assert status == 0, text
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("first", ["log_every=5", "monitor.measures_every=5"])
def test_a_loss_that_is_not_finite_names_the_step(first: str, images: Path, tmp_path: Path) -> None:
    """Whatever looks first: the log, or the further measures."""
    folder = tmp_path / "run"
    late = ("log_every=50", "monitor.every=50", "checkpoint.every_steps=0", "checkpoint.every_epochs=9")
    more = ("optimizer.lr=1e30", "monitor.knn_every=0", *late, first)
    status, text = run("pretrain", small("simsiam", images, folder, *more), folder)
    assert status == 2 and f"error: {folder}: the loss is not finite at step " in text and "Traceback" not in text, text
    assert not (folder / "result.json").exists()

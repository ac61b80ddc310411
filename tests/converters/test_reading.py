"""Containers, old formats and what projects store beside their tensors; and that nothing in a file is ever run."""

import argparse
import bz2
import collections
import gzip
import io
import lzma
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.models.resnet import ResNet

from converters import safe_pickle
from converters.loading import load_backbone
from converters.reading import flatten, read
from runs.errors import UserError
from tests.converters import layouts


@pytest.fixture
def plain(tmp_path: Path, backbone: ResNet) -> Path:
    return layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone)


def tar(path: Path, *members: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.add(member, member.name)
    return path


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "tar", "tar.gz"])
def test_containers(kind: str, plain: Path, tmp_path: Path, backbone: ResNet) -> None:
    packed = tmp_path / f"packed.{kind}"
    if kind.startswith("tar"):
        tar(packed, plain, mode="w:gz" if kind == "tar.gz" else "w")
    else:
        compress = {
            "gzip": lambda data: gzip.compress(data, 1),
            "bzip2": bz2.compress,
            "xz": lambda d: lzma.compress(d, preset=0),
        }
        packed.write_bytes(compress[kind](plain.read_bytes()))
    found = load_backbone(packed)
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in layouts.tensors(backbone).items())
    assert found.reader == ("gzip, tar, torch zip" if kind == "tar.gz" else f"{kind}, torch zip")


def test_pth_tar_that_is_no_tar(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_0099.pth.tar"
    plain.rename(path)
    assert load_backbone(path).reader == "torch zip"


def test_tar_with_several_files_lists_them(plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "log.txt"
    other.write_text("x")
    with pytest.raises(UserError, match=r"a tar with 2 files \(simsiam\.pth, log\.txt\)"):
        read(tar(tmp_path / "two.tar", plain, other))


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_tensors(zipped: bool, tmp_path: Path, backbone: ResNet) -> None:
    """Settings and counters of the usual kinds, in both of PyTorch's file formats."""
    content = layouts.simsiam(backbone) | {
        "args": argparse.Namespace(lr=0.05, data=Path("images"), nested=argparse.Namespace(a=[1])),
        "cfg": OmegaConf.create({"optimizer": {"name": "sgd", "lr": 0.1}, "list": [1, "two"]}),
        "best_acc1": np.float64(67.7),
        "curve": np.arange(3.0),
        "meters": collections.defaultdict(list, loss=[1.0]),
        "recent": collections.deque([1, 2], maxlen=3),
        "counts": collections.Counter("aab"),
        "set": {1, 2},
    }
    path = tmp_path / "objects.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = load_backbone(path)
    assert found.format == "simsiam"
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in layouts.tensors(backbone).items())


class Command:
    """A pickle that runs a command when it is loaded, as `os.system` or any other callable."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile_pickles(marker: Path) -> dict[str, Any]:
    import builtins
    import os

    return {
        "os.system": Command(os.system, f"touch {marker}"),
        "builtins.eval": Command(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "subprocess.Popen": Command(subprocess.Popen, ["touch", str(marker)]),
        "torch.load": Command(torch.load, str(marker)),
        "operator.attrgetter": Command(__import__("operator").attrgetter, "system"),
        "functools.partial": Command(__import__("functools").partial, os.system, f"touch {marker}"),
    }


@pytest.mark.parametrize("name", list(hostile_pickles(Path("x"))))
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "pickle 0"])
def test_code_is_refused_by_name_and_not_run(name: str, kind: str, tmp_path: Path, backbone: ResNet) -> None:
    marker = tmp_path / "marker"
    content = layouts.simsiam(backbone) | {"extra": hostile_pickles(marker)[name]}
    path = tmp_path / "hostile.pth"
    if kind.startswith("pickle"):
        arrays = {"model": layouts.detectron2_names(backbone), "__author__": content["extra"]}
        path.write_bytes(pickle.dumps(arrays, protocol=0 if kind == "pickle 0" else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UserError, match="wants to import") as caught:
        load_backbone(path)
    shown = name.replace("os.system", "posix.system").replace("operator", "_?operator")
    if name == "torch.load":
        shown = "torch.serialization.load"
    assert __import__("re").search(shown.replace("builtins.eval", "(builtins|__builtin__).eval"), str(caught.value))
    assert not marker.exists()


def test_reading_imports_nothing_that_a_pickle_names(tmp_path: Path, backbone: ResNet) -> None:
    """BYOL's and OmegaConf's classes are stood in for, even where they are installed."""
    path = layouts.Layout("solo-learn", layouts.solo_learn, ".ckpt").write(tmp_path, backbone)
    code = (
        "import sys; from converters.loading import load_backbone; "
        f"found = load_backbone({str(path)!r}); "
        "print(found.format, 'omegaconf' in sys.modules, 'detectron2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=layouts.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["solo-learn", "False", "False"]


def test_trust_runs_in_another_process_and_returns_arrays_alone(tmp_path: Path, backbone: ResNet) -> None:
    """The code of the pickle runs once it is trusted, but not here: it would see this process's id."""
    seen = tmp_path / "pid"
    code = f"open({str(seen)!r}, 'w').write(str(__import__('os').getpid()))"
    content = layouts.simsiam(backbone) | {"extra": Command(eval, code)}
    for zipped in (True, False):
        path = tmp_path / "trusted.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"builtins?_*\.eval"):
            load_backbone(path)
        assert not seen.exists()
        found = load_backbone(path, trust=True)
        assert seen.read_text() != str(__import__("os").getpid())
        assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in layouts.tensors(backbone).items())
        seen.unlink()


def test_trust_names_what_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "missing.pkl"
    path.write_bytes(b"\x80\x02cnot_installed.anywhere\nThing\n)R.")
    with pytest.raises(UserError, match=r"not_installed\.anywhere\.Thing"):
        read(path)
    with pytest.raises(UserError, match="No module named 'not_installed'"):
        read(path, trust=True)


def test_whole_pickled_models_are_refused(tmp_path: Path, backbone: ResNet) -> None:
    torch.save(backbone, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"wants to import converters\.resnet\.ScaledResNet"):
        read(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(UserError, match="TorchScript archive, which holds code"):
        read(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "a single array"),
        (b"hello, world", "of no known kind"),
        (b"PK\x05\x06" + bytes(18), "of no known kind"),
    ],
)
def test_usual_mistakes_have_their_remedy(start: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(start)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "file.pth")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_kind_come_out_as_numpy_makes_them(dtype: str, order: str, protocol: int) -> None:
    """The stand-ins for NumPy's constructors against NumPy's own."""
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype=dtype, order=order)  # type: ignore[call-overload]
    found = flatten(safe_pickle.load(pickle.dumps({"array": array, "scalar": array[0, 0, 0]}, protocol=protocol)))
    assert list(found) == ["array"]
    assert found["array"].dtype == array.dtype
    assert np.array_equal(np.asarray(found["array"]), array)


def test_an_array_that_claims_more_than_it_holds() -> None:
    data = pickle.dumps({"array": np.zeros(4, np.float32)}, protocol=2).replace(b"K\x04\x85", b"K\x05\x85")
    with pytest.raises(pickle.UnpicklingError, match=r"shape \(5,\) has 4 values"):
        flatten(safe_pickle.load(data))


def test_globals_are_found_without_running_anything() -> None:
    assert safe_pickle.globals_of(io.BytesIO(pickle.dumps({"a": argparse.Namespace()}, 0))) >= {"argparse.Namespace"}
    for protocol in range(6):
        names = safe_pickle.globals_of(io.BytesIO(pickle.dumps([subprocess.Popen, np.float32(1)], protocol)))
        assert "subprocess.Popen" in names


def test_pickles_with_too_many_opcodes() -> None:
    with pytest.raises(UserError, match="more than 1,000,000 pickle opcodes"):
        safe_pickle.load(b"\x80\x02" + b"]0" * 600_000 + b"N.")


def test_a_pickle_that_claims_a_memo_of_gigabytes() -> None:
    with pytest.raises(UserError, match="memo of 2,147,483,647 places"):
        safe_pickle.load(b"\x80\x02}r\xff\xff\xff\x7f.")


def test_a_shared_dictionary_is_read_once() -> None:
    """Dictionaries within dictionaries, each twice: 2^40 paths, 41 dictionaries."""
    tree: dict[str, Any] = {"w": np.ones(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    assert len(flatten(tree)) <= 1


def test_temporary_files_are_gone(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    load_backbone(packed)
    assert list(folder.iterdir()) == []

"""Containers, old formats and what projects store beside their tensors; and that nothing in a file is ever run."""

import argparse
import bz2
import collections
import gzip
import json
import lzma
import pickle
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.models.resnet import ResNet

from converters import reading, safe_pickle
from converters.conversion import convert
from converters.loading import load_backbone
from converters.reading import arrays_and_settings, read_checkpoint
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
        read_checkpoint(tar(tmp_path / "two.tar", plain, other))
    parts = [tmp_path / name for name in ("pickle", "storages", "tensors")]
    for part in parts:
        part.write_text("x")
    with pytest.raises(UserError, match="before 2017; load and save it with PyTorch 1"):
        read_checkpoint(tar(tmp_path / "old.tar", *parts))


def test_an_encrypted_archive_asks_for_decryption(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", a=np.zeros(3))
    data = bytearray((tmp_path / "net.npz").read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[6] |= 1  # the flags of the entry and of its line in the directory
    data[directory + 8] |= 1
    (tmp_path / "net.npz").write_bytes(data)
    with pytest.raises(UserError, match="an encrypted archive; decrypt it first"):
        read_checkpoint(tmp_path / "net.npz")


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
    with pytest.raises(UserError, match="wants to run") as caught:
        load_backbone(path)
    shown = name.replace("os.system", "posix.system").replace("functools.partial", "posix.system")
    if name == "torch.load":
        shown = "torch.serialization.load"
    assert __import__("re").search(shown.replace("builtins.eval", "builtins.eval"), str(caught.value))
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


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(UserError, match="TorchScript, which holds code"):
        read_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "a single array"),
        (b"hello, world", "of no known kind"),
        (b'\x20\x03\x00\x00\x00\x00\x00\x00{ "conv1.weight": {', "damaged or truncated"),
        (b"PK\x05\x06" + bytes(18), "of no known kind"),
    ],
)
def test_usual_mistakes_have_their_remedy(start: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(start)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_kind_come_out_as_numpy_makes_them(dtype: str, order: str, protocol: int) -> None:
    """The stand-ins for NumPy's constructors against NumPy's own."""
    array = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype=dtype, order=order)  # type: ignore[call-overload]
    found = arrays_and_settings(
        safe_pickle.parse_pickle(pickle.dumps({"array": array, "scalar": array[0, 0, 0]}, protocol=protocol)).content
    )[0]
    assert list(found) == ["array"]
    assert found["array"].dtype == array.dtype
    assert np.array_equal(np.asarray(found["array"]), array)


def test_an_array_that_claims_more_than_it_holds() -> None:
    data = pickle.dumps({"array": np.zeros(4, np.float32)}, protocol=2).replace(b"K\x04\x85", b"K\x05\x85")
    with pytest.raises(UserError, match=r"shape \(5,\) has 4 values"):
        arrays_and_settings(safe_pickle.parse_pickle(data).content)


def test_every_name_is_found_and_none_is_called() -> None:
    for protocol in range(6):
        for value, name in ((argparse.Namespace(), "argparse.Namespace"), (np.float32(1), "numpy.dtype")):
            assert name in safe_pickle.parse_pickle(pickle.dumps([value], protocol)).names
        with pytest.raises(UserError, match=r"wants to run subprocess\.Popen"):
            safe_pickle.parse_pickle(pickle.dumps([subprocess.Popen], protocol))


def test_pickles_with_too_many_opcodes() -> None:
    with pytest.raises(UserError, match="more than 1,000,000 pickle opcodes"):
        safe_pickle.parse_pickle(b"\x80\x02" + b"]0" * 600_000 + b"N.")


def test_a_shared_dictionary_is_read_once() -> None:
    """Dictionaries within dictionaries, each twice: 2^40 paths, 41 dictionaries."""
    tree: dict[str, Any] = {"w": np.ones(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    assert len(arrays_and_settings(tree)[0]) <= 1


def doubled(use: bytes) -> bytes:
    """A tuple of two that is shared 45 times over, so that hashing it would take 2^45 steps, and what uses it."""
    return b"\x80\x02)" + b"".join(b"q%cN0h%ch%c\x86" % (n, n, n) for n in range(45)) + use


HANGS = {
    "a shared tuple as a key": b"\x80\x02}" + doubled(b"")[2:] + b"Nsb.",
    "a shared tuple in a set": doubled(b"\x85q\xf0cbuiltins\nset\nh\xf0R."),
    "a shared tuple in a frozenset": b"\x80\x04(" + doubled(b"")[2:] + b"\x91.",
    "a shared tuple as an OrderedDict's key": b"\x80\x02ccollections\nOrderedDict\n)R" + doubled(b"")[2:] + b"Ns.",
    "a shared tuple as a type": b"\x80\x02cnumpy\ndtype\n" + doubled(b"")[2:] + b"\x85R.",
    "a tuple nested 400,000 deep": b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.",
    "an integer of 4 MB as a key": b"\x80\x02}\x8b" + (4 << 20).to_bytes(4, "little") + b"\x7f" * (4 << 20) + b"Ns.",
    "a memo of gigabytes": b"\x80\x02}r\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HANGS)
def test_what_hung_or_crashed_ends_at_once(kind: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", HANGS[kind])
    else:
        path.write_bytes(HANGS[kind])
    start = time.process_time()
    with pytest.raises(UserError):
        load_backbone(path)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["names", "tensors"])
def test_headers_of_safetensors_are_bounded(kind: str, tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    name = "n" * 1000 if kind == "names" else ""
    count = 20_000 if kind == "names" else 150_000
    header = ("{" + ",".join(f'"{name}{n}":{entry}' for n in range(count)) + "}").encode()
    (tmp_path / "file.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="far more than a checkpoint's"):
        read_checkpoint(tmp_path / "file.safetensors")


def entry(path: Path, ending: str) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(info for info in archive.infolist() if info.filename.endswith(ending))


@pytest.mark.parametrize("damage", ["bit", "pasted", "short storage", "end record", "directory", "overlap"])
def test_damage_is_seen(damage: str, plain: Path) -> None:
    """What torch.load accepts: it looks at no checksum and no size."""
    data = bytearray(plain.read_bytes())
    begin = data.index(b"PK\x01\x02")
    if damage == "bit":
        data[entry(plain, "data/7").header_offset + 200] ^= 1
    elif damage == "pasted":  # half of one download and half of another
        half = len(data) // 2
        data[half : half + 5000] = bytes(5000)
    elif damage == "end record":
        data[-12:-10] = (3).to_bytes(2, "little")
    elif damage == "directory":
        data[begin + 42 : begin + 46] = (64).to_bytes(4, "little")
    elif damage == "overlap":
        place = data.rindex(b"PK\x01\x02", 0, data.index(b"data/7", begin))
        data[place + 20 : place + 28] = (10**6).to_bytes(4, "little") * 2
    else:
        content = torch.load(plain, weights_only=True)
        with zipfile.ZipFile(plain) as archive:
            parts = {info.filename: archive.read(info) for info in archive.infolist()}
        name = next(name for name in parts if name.endswith("data/7"))
        with zipfile.ZipFile(plain, "w") as archive:
            for part, stored in parts.items():
                archive.writestr(part, stored[:-4] if part == name else stored)
        assert content
        data = bytearray(plain.read_bytes())
    plain.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged|CRC-32|fetch"):
        load_backbone(plain)


def test_a_file_without_checksums_says_so(plain: Path, backbone: ResNet) -> None:
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        torch.save(layouts.simsiam(backbone), plain)
    finally:
        set_crc32_options(True)
    assert load_backbone(plain).checks[-1].figure == "no checksum in this file"


def test_our_own_digest_is_checked(tmp_path: Path, plain: Path) -> None:
    convert(plain, tmp_path / "out.safetensors")
    data = bytearray((tmp_path / "out.safetensors").read_bytes())
    load_backbone(tmp_path / "out.safetensors")
    data[-3] ^= 1
    (tmp_path / "out.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="undamaged: the tensors against the digest in the file; they differ"):
        load_backbone(tmp_path / "out.safetensors")


def test_the_sha256_can_be_asked(plain: Path) -> None:
    found = load_backbone(plain)
    assert load_backbone(plain, sha256=found.source_sha256.upper()).arch == found.arch
    with pytest.raises(UserError, match=f"sha256 {found.source_sha256}, not 00"):
        load_backbone(plain, sha256="0" * 64)
    with pytest.raises(UserError, match="--sha256 00: not 64 hexadecimal digits"):
        load_backbone(plain, sha256="00")


def test_a_file_that_is_replaced_while_it_is_read(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and sha256 are of the same bytes, whatever happens to the name afterwards."""
    before = load_backbone(plain)
    unpacked = reading.unpack_containers

    def replace(data: bytes) -> Any:
        plain.write_bytes(b"")  # truncated under a map, a reader would die of SIGBUS
        return unpacked(data)

    monkeypatch.setattr(reading, "unpack_containers", replace)
    found = load_backbone(plain)
    assert found.source_sha256 == before.source_sha256
    assert all(torch.equal(found.state_dict[name], tensor) for name, tensor in before.state_dict.items())


def test_shards_that_their_index_does_not_describe(tmp_path: Path, backbone: ResNet) -> None:
    names = dict.fromkeys(layouts.tensors(backbone), "part-00001-of-00002.bin")
    torch.save(layouts.tensors(backbone), tmp_path / "part-00001-of-00002.bin")
    index = tmp_path / "part.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert "CRC-32" in load_backbone(index).checks[-1].figure
    for wrong in (names | {"ghost": "part-00001-of-00002.bin"}, {n: f for n, f in names.items() if n != "bn1.bias"}):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(
            UserError, match=r"(ghost|bn1.bias): in part-00001-of-00002.bin or in the index, not in both"
        ):
            load_backbone(index)
    with pytest.raises(UserError, match="one of several files"):
        load_backbone(tmp_path / "part-00001-of-00002.bin")

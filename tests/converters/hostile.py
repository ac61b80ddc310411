"""The hostile set: 200 broken or malicious checkpoints, from a seed.

    python -m tests.converters.hostile FOLDER [--seed N] [--processes]

writes them into FOLDER, runs `converters detectron2` on each, and prints a line per kind: how many, whether each ended
with status 2 and one line, the slowest, and the highest memory of a process. `--processes` starts a process for each
(minutes); without it all run in this one.
"""

import argparse
import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torchvision.models.resnet import ResNet

from converters.architecture import parse_arch
from tests.converters import layouts

ARCH = "resnet18x0.125"
GIGABYTE = 1 << 30


@dataclass
class Case:
    kind: str
    path: Path


@dataclass
class Result:
    case: Case
    status: int
    out: str
    err: str
    seconds: float
    peak: int  # bytes; of the process so far


class Generator:
    """Numbered files of every kind in one folder; the same seed gives the same files."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.backbone: ResNet = layouts.trained(ARCH, seed)
        self.marker = folder / "a command was run"
        self.cases: list[Case] = []

    def new(self, kind: str, suffix: str = ".pth") -> Path:
        path = self.folder / f"{len(self.cases):03d}-{kind.replace(' ', '-')}{suffix}"
        self.cases.append(Case(kind, path))
        return path

    def state_dict(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in layouts.simsiam(self.backbone)["state_dict"].items()}

    def save(self, kind: str, state_dict: dict[str, Any], **more: Any) -> None:
        zipped = self.random.random() < 0.7
        content = {"epoch": 1, "arch": "resnet18", "state_dict": state_dict, **more}
        torch.save(content, self.new(kind), _use_new_zipfile_serialization=zipped)

    def name(self, state_dict: dict[str, Any], kind: str = "") -> str:
        """A random backbone tensor; `kind` "conv" or "bn" narrows the choice."""
        names = [n for n in state_dict if n.startswith("module.encoder.") and ".fc." not in n and "tracked" not in n]
        return self.random.choice([n for n in names if kind in n])

    def all(self) -> list[Case]:
        for make, count in (
            (self.truncated, 26), (self.missing, 20), (self.duplicated, 12), (self.transposed, 12),
            (self.not_finite, 14), (self.wrong_dtype, 10), (self.unknown_names, 12), (self.mixed, 14),
            (self.damaged_index, 10),
        ):  # fmt: skip
            for _ in range(count):
                make()
        self.empty()
        self.momentum_only()
        self.bombs()
        self.commands()
        self.devices()
        self.mistakes()
        return self.cases

    def truncated(self) -> None:
        good = [
            layout for layout in layouts.LAYOUTS if layout.format in ("simsiam", "moco", "torchvision", "swav", "dino")
        ]
        layout = self.random.choice(good)
        path = self.new("truncated", layout.suffix)
        kind = self.random.choice(["torch", "torch", "pkl", "npz", "safetensors", "msgpack", "gzip"])
        arrays = {name: tensor.numpy() for name, tensor in layouts.tensors(self.backbone).items()}
        if kind == "torch":
            data = layout.write(self.folder, self.backbone)
            content = data.read_bytes()
            data.unlink()
        elif kind == "pkl":
            content = pickle.dumps({"model": arrays, "__author__": "x"})
        elif kind == "npz":
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            content = buffer.getvalue()
        elif kind == "safetensors":
            from safetensors.torch import save

            content = save(layouts.tensors(self.backbone))
        elif kind == "msgpack":
            content = layouts.huggingface_flax(self.backbone)
        else:
            content = gzip.compress(pickle.dumps(arrays), 1)
        path.write_bytes(content[: self.random.randrange(1, len(content) - 1)])

    def missing(self) -> None:
        state_dict = self.state_dict()
        del state_dict[self.name(state_dict)]
        self.save("tensor missing", state_dict)

    def duplicated(self) -> None:
        state_dict = self.state_dict()
        way = self.random.randrange(3)
        if way == 0:  # a convolution copied over another
            name = "module.encoder.layer{}.1.conv{}.weight"
            stage = self.random.randrange(1, 5)
            state_dict[name.format(stage, 1)] = state_dict[name.format(stage, 2)].clone()
            self.save("duplicated", state_dict)
        elif way == 1:  # two backbones under one format
            state_dict = layouts.solo_learn(self.backbone)["state_dict"]
            state_dict |= {f"encoder.{name}": tensor * 2 for name, tensor in self.backbone.state_dict().items()}
            self.save("duplicated", state_dict)
        else:  # an entry twice in the archive
            path = self.new("duplicated")
            torch.save(state_dict, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with zipfile.ZipFile(path, "a") as archive:
                    archive.writestr(self.random.choice(archive.namelist()), b"again")

    def transposed(self) -> None:
        state_dict = self.state_dict()
        convolutions = [n for n, t in state_dict.items() if t.dim() == 4 and len(set(t.shape[:2])) == 2]
        name = self.random.choice(convolutions)
        order = self.random.choice([(1, 0, 2, 3), (2, 3, 1, 0), (0, 2, 3, 1)])
        state_dict[name] = state_dict[name].permute(order).contiguous()
        self.save("transposed", state_dict)

    def not_finite(self) -> None:
        state_dict = self.state_dict()
        tensor = state_dict[self.name(state_dict)]
        tensor.view(-1)[self.random.randrange(tensor.numel())] = self.random.choice(
            [float("nan"), float("inf"), -float("inf")]
        )
        self.save("not finite", state_dict)

    def wrong_dtype(self) -> None:
        state_dict = self.state_dict()
        dtype = self.random.choice([torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64])
        names = [self.name(state_dict)] if self.random.random() < 0.5 else list(state_dict)
        for name in names:
            state_dict[name] = state_dict[name].to(dtype)
        self.save("wrong dtype", state_dict)

    def unknown_names(self) -> None:
        stage = self.random.choice(["stage", "block", "res", "layers.", "group_"])
        state_dict = {name.replace("encoder.layer", f"encoder.{stage}"): t for name, t in self.state_dict().items()}
        self.save("unknown names", state_dict)

    def mixed(self) -> None:
        """Half the layers from another network, from another width, or untrained."""
        state_dict = self.state_dict()
        way = self.random.randrange(3)
        if way < 2:
            arch = self.random.choice(["resnet34x0.125", "resnet50x0.125", "resnet18x0.25", "resnet18x0.125_cifar"])
            other = layouts.trained(arch, 1).state_dict()
            stages = ("conv1", "bn1", "layer1", "layer2") if arch.endswith("cifar") else ("layer3", "layer4")
            if arch.endswith("cifar"):
                other = {n: t for n, t in other.items() if n != "conv1.weight"} | {
                    "conv1.0.weight": other["conv1.weight"]
                }
            state_dict = {n: t for n, t in state_dict.items() if n.split(".")[2] not in stages}
            state_dict |= {f"module.encoder.{n}": t for n, t in other.items() if n.split(".")[0] in stages}
        else:
            for name, tensor in state_dict.items():
                if self.random.choice(["layer3", "layer4"]) in name and "running_" in name:
                    tensor.fill_(1.0 if name.endswith("var") else 0.0)
            for name in ("layer4.1.bn2.running_mean", "layer4.1.bn2.running_var"):
                state_dict[f"module.encoder.{name}"].fill_(1.0 if name.endswith("var") else 0.0)
        self.save("half from another network", state_dict)

    def damaged_index(self) -> None:
        path = self.new("damaged index")
        torch.save({"state_dict": self.state_dict()}, path)
        data = bytearray(path.read_bytes())
        place = data.index(b"data.pkl") + 100 + self.random.randrange(400)
        data[place : place + 16] = self.random.randbytes(16)
        path.write_bytes(data)

    def empty(self) -> None:
        self.save("empty", {})
        self.save("empty", {"epoch": 3})
        self.new("empty").write_bytes(b"")
        torch.save({}, self.new("empty"))
        torch.save(torch.zeros(3), self.new("empty"))
        with zipfile.ZipFile(self.new("empty"), "w"):
            pass
        np.savez(self.new("empty", ".npz"))
        self.new("empty", ".msgpack").write_bytes(msgpack.packb({"params": {}}))
        state_dict = {n: t for n, t in self.state_dict().items() if ".fc." in n or "predictor" in n}
        self.save("empty", state_dict)  # the heads alone

    def momentum_only(self) -> None:
        for build, keep in (
            (layouts.moco, "module.encoder_k"), (layouts.moco_v3, "module.momentum_encoder"),
            (layouts.solo_learn_byol, "momentum_"), (layouts.lightly, "teacher_"), (layouts.bolts, "target_network"),
        ):  # fmt: skip
            content = build(layouts.trained(ARCH))
            content["state_dict"] = {n: t for n, t in content["state_dict"].items() if n.startswith(keep)}
            torch.save(content, self.new("momentum encoder only"))

    def bombs(self) -> None:
        """Ten gigabytes claimed by files of at most twelve megabytes."""
        zeros = bytes(1 << 20)
        for compress, suffix in ((gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")):
            self.new("bomb", f".pth{suffix}").write_bytes(compress(zeros) * (10 * 1024))
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as archive:  # a header of ten gigabytes with nothing behind it
            info = tarfile.TarInfo("checkpoint.pth")
            info.size = 10 * GIGABYTE
            archive.addfile(info)
        self.new("bomb", ".tar").write_bytes(inner.getvalue())
        self.new("bomb", ".tar.gz").write_bytes(gzip.compress(inner.getvalue()) + gzip.compress(zeros) * 10_240)
        with zipfile.ZipFile(self.new("bomb", ".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (10 * GIGABYTE // 4,)}
            )
            with archive.open("conv1.weight.npy", "w") as entry:
                entry.write(header.getvalue())
                for _ in range(200):
                    entry.write(zeros)
        with zipfile.ZipFile(self.new("bomb", ".npz"), "w") as archive:  # a sound archive, an array of ten gigabytes
            archive.writestr("conv1.weight.npy", header.getvalue() + bytes(64))
        path = self.new("bomb", ".npz")  # the directory claims ten gigabytes
        np.savez(path, **{"conv1.weight": np.ones((2, 3, 7, 7), np.float32)})
        data = bytearray(path.read_bytes())
        place = data.rindex(b"PK\x01\x02")
        data[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
        path.write_bytes(data)
        header = b'{"conv1.weight":{"dtype":"F32","shape":[50000,50000],"data_offsets":[0,10000000000]}}'
        self.new("bomb", ".safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
        self.new("bomb", ".safetensors").write_bytes(struct.pack("<Q", 10 * GIGABYTE) + b"{" + bytes(64))
        state_dict = self.state_dict()  # views that repeat one number ten thousand million times
        state_dict["module.encoder.conv1.weight"] = torch.ones(1).expand(50_000, 50_000)
        self.save("bomb", state_dict)
        # The same with every shape as it must be, for a network of 700 thousand million weights.
        shapes = parse_arch("resnet18x256").shapes
        self.save("bomb", {f"encoder.{name}": torch.ones(1).expand(shape) for name, shape in shapes.items()})
        with zipfile.ZipFile(self.new("bomb"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02N.")
            with archive.open("archive/data/0", "w", force_zip64=True) as entry:
                for _ in range(300):
                    entry.write(zeros)
        self.new("bomb", ".pkl").write_bytes(b"\x80\x02" + b"]0" * 3_000_000 + b"N.")
        self.new("bomb", ".pkl").write_bytes(b"\x80\x04" + b"\x8e" + struct.pack("<Q", 10 * GIGABYTE) + b"x." * 50)
        self.new("bomb", ".msgpack").write_bytes(b"\x81\xa5conv1\xdd\xff\xff\xff\xff" + b"\x91" * 200)
        self.new("bomb", ".msgpack").write_bytes(b"\x81\xa1x" + b"\x91" * 2_000_000)
        array = msgpack.ExtType(1, msgpack.packb(((50_000, 50_000), "float32", b"1234")))
        self.new("bomb", ".msgpack").write_bytes(msgpack.packb({"params": {"kernel": array}}))

    def commands(self) -> None:
        import functools
        import importlib
        import shutil

        calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (os.system, (f"touch '{self.marker}'",)),
            (subprocess.Popen, (["touch", str(self.marker)],)),
            (eval, (f"open({str(self.marker)!r}, 'w')",)),
            (exec, (f"open({str(self.marker)!r}, 'w')",)),
            (os.remove, (str(self.folder),)),
            (os.mkdir, (str(self.marker),)),
            (importlib.import_module, ("antigravity",)),
            (functools.partial, (os.system, "true")),
            (shutil.copy, ("/etc/hostname", str(self.marker))),
            (torch.hub.load, ("nobody/nothing", "x")),
        ]

        class Call:
            def __init__(self, call: Any) -> None:
                self.call = call

            def __reduce__(self) -> Any:
                return self.call

        for number, call in enumerate(calls):
            self.save("command", self.state_dict(), extra=Call(call))
            arrays: dict[str, Any] = {"model": {"stem.conv1.weight": Call(call)}, "__author__": "x"}
            self.new("command", ".pkl").write_bytes(pickle.dumps(arrays, protocol=number % 5))
        self.new("command", ".pkl").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
        self.new("command", ".pkl").write_bytes(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04true\x85R.")
        self.new("command", ".pkl").write_bytes(b"\x80\x02\x82\x01.")  # an extension code

    def devices(self) -> None:
        for target in ("/dev/zero", "/dev/urandom", "/dev/null", "/dev/full", "/nowhere", "/"):
            self.new("no regular file").symlink_to(target)
        os.mkfifo(self.new("no regular file"))
        path = self.new("no regular file")
        path.symlink_to(path)
        # Root reads every file, so this one is truncated as well.
        path = self.new("unreadable")
        path.write_bytes(b"PK\x03\x04")
        path.chmod(0)

    def mistakes(self) -> None:
        for content in (
            b"<!DOCTYPE html>\n<html><title>404</title>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x93NUMPY\x01\x00v\x00{'descr'",
            self.random.randbytes(5000), bytes(5000),
        ):  # fmt: skip
            self.new("no checkpoint").write_bytes(content)


def run_here(cases: list[Case], output: Path) -> Iterator[Result]:
    """Each case through the command's main function in this process."""
    from converters.__main__ import main

    for case in cases:
        out, err = io.StringIO(), io.StringIO()
        start = time.perf_counter()
        status = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(["detectron2", str(case.path), str(output)])
            except SystemExit as stop:
                status = int(stop.code or 0)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield Result(case, status, out.getvalue(), err.getvalue(), seconds, peak)


def run_process(case: Case, output: Path, **more: Any) -> Result:
    """One case as a command of its own; the peak is that process's."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "converters", "detectron2", str(case.path), str(output)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=layouts.ROOT, **streams, **more)
    assert process.stdout and process.stderr
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    seconds = time.perf_counter() - start
    return Result(case, process.returncode, out, err, seconds, usage.ru_maxrss * 1024)


def complaint(result: Result) -> str:
    """What is wrong with a result; empty for status 2, one line on standard error and nothing else."""
    lines = result.err.splitlines()
    if result.status != 2 or result.out or len(lines) != 1 or not lines[0].startswith("error: "):
        said = result.err[-500:] + result.out[-500:]
        return f"{result.case.path.name}: status {result.status}, {len(lines)} lines: {said}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", action="store_true")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    arguments.folder.mkdir(parents=True)
    generator = Generator(arguments.folder, arguments.seed)
    cases, output = generator.all(), arguments.folder / "output" / "out.pkl"
    results = [run_process(case, output) for case in cases] if arguments.processes else list(run_here(cases, output))
    for kind in dict.fromkeys(case.kind for case in cases):
        mine = [result for result in results if result.case.kind == kind]
        wrong = [text for text in map(complaint, mine) if text]
        slowest, peak = max(r.seconds for r in mine), max(r.peak for r in mine) / 1e9
        print(f"{kind:26} {len(mine):3} files, {len(wrong)} wrong, slowest {slowest:5.2f} s, peak {peak:.2f} GB")
        print("".join(f"    {text}\n" for text in wrong), end="")
    print(f"{len(cases)} files; written: {output.exists()}; a command was run: {generator.marker.exists()}")


if __name__ == "__main__":
    main()

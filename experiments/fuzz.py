"""`python -m experiments.fuzz [READER…] --cases 500`: damaged and hostile variants of every file that a command reads.

A reader may accept a file or refuse it with `UserError`. Each case has a process of its own; a fault is any other
exception, a signal, more than 10 seconds, 2 GB beyond the start, or a file that a pickle made. Status 1: there are
some.
"""

import copy
import io
import json
import multiprocessing
import pickle
import pickletools
import random
import resource
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save as save_safetensors

from benchmarks.gate.baseline import read_baseline, write_baseline
from benchmarks.gate.trials import group_trials
from benchmarks.results.records import find_records
from benchmarks.workflow.plan import read_plan
from converters.reading import read_checkpoint
from runs.app import Parser
from runs.detection_matches import Matches, read_matches, save_matches
from runs.errors import UserError
from runs.folder import claimed_run
from runs.record import Dataset, Record, Subject, _digest, read_record, write_record
from transfer.coco_annotations import read_coco_and_faults
from transfer.detections import Detections
from transfer.voc_annotations import read_voc_split_and_faults

SECONDS, BYTES = 10.0, 2 * 2**30
RLE: dict[str, Any] = {"size": [40, 50], "counts": [100, 20, 1880]}
COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 50} for n in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1.0, 2, 20, 20], "area": 400.0, "iscrowd": 0,
         "segmentation": [[1.0, 2, 21, 2, 21, 22, 1, 22]]},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [2, 20, 1, 20], "area": 20, "iscrowd": 1,
         "segmentation": RLE},
    ],
    "categories": [{"id": 3, "name": "disc"}],
}  # fmt: skip
VOC = """<annotation><filename>1.jpg</filename><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>disc</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>30</ymax>
</bndbox></object></annotation>"""
CONFIG = {"seed": 0, "data": {"root": "x", "classes": ["a", "b"]}, "lr": [0.1, 1.0], "epochs": 3, "name": None}
SUBJECT, DATASET = Subject("simsiam", "resnet50"), Dataset("shapes", "val", 8, "f" * 8)
RECORD = Record("knn", SUBJECT, DATASET, {"top1": 50.0}, 0, dict(CONFIG), 1.0, 2.0)
TOKENS = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-1", b"null", b"[" * 20000, b"{" * 300, b'"', b"\x00", b"\xff\xfe",
    b"<a>" * 20000, b"&b;", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", b"\\ud800", b"\x1b[31m", b"\r\n",
    b"a: &a [x]\nb: &b [*a,*a,*a]\n", b"!!python/object:os.x {}", b"*a", b"0x10", b"1e-400", b"<!--", b"]]>", b"? [",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), "", "x\x1b[31m\n", "../../x", [], {}, [[]], {"": 0}, "9" * 5000,
]  # fmt: skip


def few_weights() -> dict[str, torch.Tensor]:
    """A few tensors with a ResNet's names."""
    return {"module.encoder.conv1.weight": torch.ones(4, 3, 7, 7), "module.encoder.bn1.weight": torch.ones(4)}


def sample_files(folder: Path) -> dict[str, tuple[bytes, str, Callable[[Path], Any]]]:
    """A whole file of every kind, what it is made of, and what reads it once it lies in a folder of its own."""

    def written(write: Callable[[Path], Any], name: str) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    def voc(file: Path) -> None:
        for kind in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (file.parent / "VOC2007" / kind).mkdir(parents=True)
        (file.parent / "VOC2007/ImageSets/Main/test.txt").write_text("1\n")
        file.rename(file.parent / "VOC2007/Annotations/1.xml")
        read_voc_split_and_faults(file.parent, "voc_2007_test", ["disc"], require_images=False)

    def config(file: Path) -> None:
        file.rename(file.with_name("config.yaml"))
        with claimed_run("knn", file.parent, dict(CONFIG)):
            pass

    detections = Detections(
        ["1", "2"], ["disc"], np.array([0, 1], np.int32), np.zeros(2, np.int16), np.array([0.9, 0.5], np.float32),
        np.array([[1, 2, 20, 30], [2, 3, 9, 9]], np.float32), np.array([[40, 50], [40, 50]], np.int32),
    )  # fmt: skip
    two = np.arange(2)
    matches = Matches(("1", "2"), ("disc",), two, two * 0, 0.9 - 0.4 * two, np.ones((2, 10), np.int8), two[:, None])
    archive, plain = io.BytesIO(), pickle.dumps({k: v.numpy() for k, v in few_weights().items()}, protocol=4)
    torch.save({"epoch": 1, "arch": "resnet50", "state_dict": few_weights(), "optimizer": {"lr": 0.1}}, archive)
    write_record(folder, RECORD)
    record = (folder / "result.json").read_bytes()
    measured = group_trials(find_records([folder]))
    results = Path(__file__).parents[1] / "results/mini/plan.json"
    return {
        "torch": (archive.getvalue(), "zip", read_checkpoint),
        "pickle": (plain, "pickle", read_checkpoint),
        "safetensors": (save_safetensors(few_weights()), "bytes", read_checkpoint),
        "voc": (VOC.encode(), "text", voc),
        "coco": (json.dumps(COCO).encode(), "json", lambda file: read_coco_and_faults(file, None, True)),
        "record": (record, "record", read_record),
        "plan": (results.read_bytes(), "json", read_plan),
        "baseline": (written(lambda f: write_baseline(f, measured), "b.json"), "json", read_baseline),
        "config": (yaml.safe_dump({"kind": "knn", **CONFIG}, sort_keys=False).encode(), "text", config),
        "detections": (written(detections.save, "d.npz"), "zip", Detections.load),
        "matches": (written(lambda f: save_matches(f, {"bbox": matches}), "m.npz"), "zip", read_matches),
    }


def mutate(data: bytes, kind: str, chance: random.Random, canary: Path) -> bytes:
    """A variant: of the bytes, or of what they stand for."""
    if kind == "zip" and chance.random() < 0.6:
        return _zip(data, chance, canary)
    if kind == "pickle" and chance.random() < 0.7:
        return _pickle(data, chance, canary)
    if kind in ("json", "record") and chance.random() < 0.7:
        body = json.loads(data)
        for _ in range(chance.randint(1, 3)):
            _replace(body, chance)
        if kind == "record":
            body.pop("digest", None)
            try:
                body["digest"] = _digest(body)
            except ValueError:  # no JSON has NaN, and no digest
                body["digest"] = ""
        return json.dumps(body).encode()
    return _bytes(data, chance, TOKENS if kind in ("json", "record", "text") else [b"\x00" * 8, b"\xff" * 8, b"\x7f"])


def _bytes(data: bytes, chance: random.Random, tokens: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(changed) + 1) for _ in range(2))
        b = min(b, a + chance.choice((1, 8, 64, len(changed))))
        changed[a:b] = chance.choice(
            (b"", bytes(changed[a:b]) * 2, chance.choice(tokens), bytes(changed[a:b][::-1]), chance.randbytes(b - a))
        )
    return bytes(changed)


def _pickle(data: bytes, chance: random.Random, canary: Path) -> bytes:
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    calls = b"cos\nsystem\n(S'touch %s'\ntR" % str(canary).encode()
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    changed = data
    for place in sorted(chance.sample(places, min(3, len(places))), reverse=True):
        new = chance.choice(
            (calls, chance.choice(codes), chance.choice(codes) * 50, b"2" * 2000 + b"0" * 2000, b"(" * 300)
        )
        changed = changed[:place] + new + changed[place + chance.randint(0, 2) :]
    return changed


def _zip(data: bytes, chance: random.Random, canary: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        target = chance.choice(names)
        for name in names:
            content = old.read(name)
            if name == target:
                inside = _pickle if name.endswith(".pkl") and chance.random() < 0.8 else None
                content = (
                    inside(content, chance, canary) if inside else _bytes(content, chance, [b"\x00" * 8, b"\xff" * 8])
                )
                name = chance.choice((name, name, name, "../../x", name + "\x1b[31m", "x" * 5000))
            new.writestr(name, content, chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return out.getvalue()


def _replace(body: Any, chance: random.Random) -> None:
    """Put another value in some place of a nested one, take one away, or add one."""
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(body[key], dict | list) and body[key] and chance.random() < 0.75:
            body = body[key]
            continue
        if isinstance(body, dict) and chance.random() < 0.2:
            body["unknown\u202e"] = body.pop(key)
        else:
            body[key] = copy.deepcopy(chance.choice(VALUES))
        return


def _child(read: Callable[[Path], Any], file: Path, pipe: Any) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    try:
        read(file)
    except UserError as error:
        text = str(error)
        pipe.send("not one printable line" if not text.isprintable() or len(text) > 20000 else "")
    except BaseException as error:  # whatever it is, it is a fault
        last = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send(f"{type(error).__name__}: {str(error)[:80]!r} at {Path(last.filename).name}:{last.lineno}")
    else:
        pipe.send("")


def fuzz(reader: str, cases: int, seed: int, keep: Path | None = None) -> Counter[str]:
    """Faults of one reader by what they are, empty where there is none.

    Args:
        reader: one of `sample_files`.
        cases: variants.
        seed: of the variants.
        keep: where a file of each fault is left.
    """
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "made").mkdir()
        data, kind, read = sample_files(Path(place) / "made")[reader]
        canary = Path(place) / "canary"
        context = multiprocessing.get_context("fork")
        for case in range(cases):
            file = Path(place) / str(case) / "file.json"
            file.parent.mkdir()
            content = mutate(data, kind, random.Random(f"{reader} {seed} {case}"), canary)
            file.write_bytes(content)
            here, there = context.Pipe()
            process = context.Process(target=_child, args=(read, file, there))
            process.start()
            process.join(SECONDS)
            fault = here.recv() if here.poll() else f"ended by {process.exitcode}" if process.exitcode else "too long"
            if process.is_alive():
                process.kill()
                fault = "too long"
            process.join()
            if canary.exists():
                canary.unlink()
                fault = "the file was run"
            if fault:
                found[fault] += 1
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{reader}-{seed}-{case}").write_bytes(content)
    return found


def main() -> int:
    """Try the readers that are named, or all."""
    parser = Parser(prog="python -m experiments.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER")
    parser.add_argument("--cases", type=int, default=500, help="of each reader. Default: 500")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the files of faults there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        known = list(sample_files(Path(place)))
    if unknown := set(arguments.readers) - set(known):
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(known)}")
    total = 0
    for reader in arguments.readers or known:
        found = fuzz(reader, arguments.cases, arguments.seed, arguments.keep)
        total += found.total()
        print(f"{reader}: {arguments.cases} cases, {found.total()} faults")
        for fault, count in found.most_common():
            print(f"  {count} x {fault}")
    return min(total, 1)


if __name__ == "__main__":
    sys.exit(main())

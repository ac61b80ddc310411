"""Files are whole or absent, whatever happens while they are written."""

import contextlib
import gzip
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs.errors import UserError
from runs.files import atomic_write, read_json, read_yaml, sha256, write_json

WRITER = """
import sys
from runs.files import atomic_write
while True:
    for letter in b"ab":
        with atomic_write(sys.argv[1]) as file:
            for _ in range(64):
                file.write(bytes([letter]) * 65536)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    chance = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        try:
            deadline = time.time() + 30
            while not target.exists() and time.time() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        data = target.read_bytes()
        assert len(data) == 64 * 65536
        assert data in (b"a" * len(data), b"b" * len(data)), "two writes are mixed in one file"


def test_an_exception_inside_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target, "w") as file:
        file.write("half of the new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@contextlib.contextmanager
def _small_disk(folder: Path):
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with _small_disk(tmp_path / "disk") as disk:
        with (
            pytest.raises(UserError, match=r"result\.bin: no space left on the device"),
            atomic_write(disk / "result.bin") as f,
        ):
            f.write(bytes(10**6))
        assert list(disk.iterdir()) == []


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {"x": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_json_refuses_what_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_unreadable_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1')
    with pytest.raises(UserError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"x": [{"y": 1, "z": 2, "y": 1}]}')
    with pytest.raises(UserError, match=r"a\.json: gives y twice; remove one$"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize(
    "content", [b"[1]", gzip.compress(b"[1]")[:-9], gzip.compress(b" " * 5000 + b"[1]")], ids=["none", "torn", "bomb"]
)
def test_a_gz_that_is_none_or_too_large_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[1]"))
    assert read_json(tmp_path / "a.json.gz", 4000) == [1]
    (tmp_path / "a.json.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json\.gz: not a JSON file"):
        read_json(tmp_path / "a.json.gz", 4000)


def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    """As under `ulimit -f`: nothing half-written is left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"a\.json: larger than a file may become here; raise the limit \(ulimit"):
            write_json(tmp_path / "a.json", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_yaml_has_twice_is_refused_and_a_merged_one_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}
    (tmp_path / "a.yaml").write_text("a: 1\nb:\n  - {x: 1, x: 2}\n")
    with pytest.raises(UserError, match=r"a\.yaml: not YAML: x is given twice in it, line 3, column 12"):
        read_yaml(tmp_path / "a.yaml")


def test_sha256_is_the_published_digest_of_abc(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

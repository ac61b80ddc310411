"""packaging/detectron2: Detectron2's own files, a correct and reproducible wheel, failures in one line."""

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

# The files of the source wheel that are not commit a59f0563's, with the Git blob ids of the commit and of the wheel.
# `__init__.py`: the version string. `data/common.py`: `random.sample` on a list, which Python 3.11 asks for.
# `utils/testing.py`: a helper of Detectron2's own tests.
DIFFERING = {
    "detectron2/__init__.py": ("bdd994b49294485c27610772f97f177741f5518f", "4b5f26522fa77b2cc8b4585c56aab07a46aa12fd"),
    "detectron2/data/common.py": (
        "38770597093360c46fe72719a8d2ec428874aed4",
        "4e1723b339fe964211d77e05cc0d4d6bd99afe0d",
    ),
    "detectron2/utils/testing.py": (
        "3f5b9dbe4438e1f5c6976b45bafed8966aee2dd9",
        "dc6c80e0d5da5942af36142a535d246bad38ebdd",
    ),
}


def blob_id(content: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(scope="module")
def backend(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("detectron2_backend", root / "packaging/detectron2/backend.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small stand-in for the downloaded wheel, with everything that the backend has to keep or to leave out."""
    wheel = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tools/train_net.py", "raise SystemExit")
        archive.writestr("detectron2/model_zoo/configs/a.yaml", "A: 1\n")
        archive.writestr("detectron2/__init__.py", "__version__ = '0'\n")
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"\x7fELF")
        archive.writestr("detectron2/projects/deeplab/__init__.py", "")
        archive.writestr("sal_detectron2-0.7.2.dist-info/LICENSE", "Apache License\n")
        metadata = "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\nRequires-Dist: numpy<2\n"
        archive.writestr("sal_detectron2-0.7.2.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-none-any\n"
        archive.writestr("sal_detectron2-0.7.2.dist-info/WHEEL", tags)
    return wheel


@pytest.fixture(scope="module")
def installed(backend: ModuleType) -> Path:
    """The installed package's folder; skipped where another Detectron2 is used."""
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown origin"
    if version != backend.PROJECT["version"]:
        pytest.skip(f"this environment uses a Detectron2 of its own ({version})")
    spec = importlib.util.find_spec("detectron2")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def test_installed_files_are_upstreams_but_three(installed: Path, shared: Path) -> None:
    with (shared / "detectron2/upstream-a59f0563.tsv").open(newline="") as file:
        upstream = dict(csv.reader(file, delimiter="\t"))
    assert len(upstream) == 155
    found = {path: blob_id((installed.parent / path).read_bytes()) for path in upstream}
    differing = {path: (upstream[path], found[path]) for path in upstream if found[path] != upstream[path]}
    assert differing == DIFFERING


def test_installed_files_that_differ_are_the_known_three(installed: Path) -> None:
    found = {path: blob_id((installed.parent / path).read_bytes()) for path in DIFFERING}
    assert found == {path: blob for path, (_, blob) in DIFFERING.items()}


def test_installed_package_is_whole_and_has_no_compiled_part(installed: Path) -> None:
    files = importlib.metadata.files("detectron2") or []
    names = {str(file) for file in files}
    assert "detectron2/model_zoo/configs/PascalVOC-Detection/faster_rcnn_R_50_C4.yaml" in names
    assert "detectron2/projects/point_rend/__init__.py" in names
    assert not [name for name in names if name.endswith(".so")]
    for file in files:
        if file.hash:
            digest = hashlib.sha256(file.read_binary()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, file


def test_wheel_keeps_the_package_alone(backend: ModuleType, source: Path, tmp_path: Path) -> None:
    wheel = backend.write_wheel(source, tmp_path)
    assert wheel.name == "detectron2-0.6+a59f0563-py3-none-any.whl"
    info = "detectron2-0.6+a59f0563.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(archive.namelist()) == [
            f"{info}/METADATA",
            f"{info}/RECORD",
            f"{info}/WHEEL",
            f"{info}/licenses/LICENSE",
            "detectron2/__init__.py",
            "detectron2/model_zoo/configs/a.yaml",
            "detectron2/projects/deeplab/__init__.py",
        ]
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "\nName: detectron2\n" in metadata and "\nRequires-Dist: setuptools<81\n" in metadata
        assert "numpy<2" not in metadata
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, size in rows:
            if not name.endswith("/RECORD"):
                content = archive.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={expected}", len(content))


def test_wheel_is_the_same_bytes_whenever_it_is_built(backend: ModuleType, source: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = backend.write_wheel(source, tmp_path).read_bytes()
    os.utime(source, (0, 0))
    with zipfile.ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents, reverse=True):
            archive.writestr(zipfile.ZipInfo(name, (2030, 1, 2, 3, 4, 6)), contents[name])
    assert backend.write_wheel(source, tmp_path / "again").read_bytes() == first


def build(root: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the build hook as pip does, but without a network."""
    code = "import sys, backend; backend.build_wheel(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=root / "packaging/detectron2",
        env=os.environ | {"PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
    )


def test_another_file_of_that_name_is_refused_in_one_line(root: Path, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "built"
    target.mkdir()
    done = build(root, target, PIP_FIND_LINKS=str(source.parent))
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"has sha256 {found}, expected 491af0c7" in done.stderr
    assert not list(target.iterdir())


def test_no_network_is_told_in_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = build(root, tmp_path, PIP_FIND_LINKS=str(tmp_path / "empty"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "cannot download sal-detectron2==0.7.2" in done.stderr
    assert "set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder" in done.stderr

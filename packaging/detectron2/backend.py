"""PEP 517 build backend: Detectron2's Python files as a wheel that fits any Python 3.11+ and any PyTorch.

Detectron2's last release (v0.6, November 2021) has no wheel for a PyTorch after 1.10, and a build from its repository
needs a compiler and a matching CUDA toolkit. The wheel of `sal-detectron2` 0.7.2 on PyPI carries Detectron2's commit
a59f05630a8f205756064244bf5beb8661f96180: of its 155 Python files 152 are the commit's byte for byte (tests/packaging
names the three others). This backend downloads that one wheel, checks its sha256, and writes its `detectron2/` folder
again without the compiled `_C`, which fits CPython 3.10 with PyTorch 2.3 alone. RoIAlign and NMS come from torchvision;
only rotated boxes, deformable convolution and the C++ COCO evaluator need `_C`.

The download is pip's, so the user's own index, proxy, certificate and `find-links` settings apply. Without a network,
put the wheel into a folder and set `PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>`.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NoReturn

SOURCE = "sal-detectron2==0.7.2"
SOURCE_WHEEL = "sal_detectron2-0.7.2-cp310-none-any.whl"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
LEFT_OUT = ("*/_C*.so", "*.pyc")

WHEEL = "Wheel-Version: 1.0\nGenerator: packaging/detectron2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
PYPROJECT = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
DIST = f"{PROJECT['name']}-{PROJECT['version']}"
DESCRIPTION = f"""\
Detectron2 is Copyright (c) Facebook, Inc. and its affiliates, Apache License 2.0.

The files are those of {SOURCE} (sha256 {SOURCE_SHA256}) without its compiled `_C`.
They are Detectron2's commit a59f05630a8f205756064244bf5beb8661f96180 except `__init__.py` (version), `data/common.py`
(Python 3.11) and `utils/testing.py`.
"""


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Download, check and rewrite the wheel (PEP 517 hook); returns the new wheel's file name."""
    with tempfile.TemporaryDirectory() as folder:
        source = download(Path(folder))
        check_sha256(source)
        return write_wheel(source, Path(wheel_directory)).name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Write the metadata alone, without a download (PEP 517 hook); returns the dist-info folder's name."""
    folder = Path(metadata_directory) / f"{DIST}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(metadata(), encoding="utf-8")
    (folder / "WHEEL").write_text(WHEEL, encoding="utf-8")
    return folder.name


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Refuse (PEP 517 hook): a source archive of this package would hold nothing of Detectron2."""
    stop("no source archive is built; install the folder packaging/detectron2 itself")


def download(folder: Path) -> Path:
    """Fetch the source wheel into `folder` with pip and the user's own settings."""
    # The wheel says cp310; its Python files, all that is kept, run on later versions.
    target = ["--only-binary=:all:", "--implementation=cp", "--abi=none", "--platform=any", "--python-version=3.10"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *target, "--dest", str(folder), SOURCE]
    # check_sha256 does what this setting asks for; pip itself would refuse the name without a hash beside it.
    environment = os.environ | {"PIP_REQUIRE_HASHES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    wheel = folder / SOURCE_WHEEL
    if done.returncode or not wheel.is_file():
        lines = done.stderr.splitlines()
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), "ERROR: no message")
        stop(
            f"pip cannot download {SOURCE} ({reason.removeprefix('ERROR:').strip()}); connect to a package index, "
            f"or set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder that holds {SOURCE_WHEEL}"
        )
    sys.stderr.write(done.stderr)  # pip's warnings, seen with `pip install -v`
    return wheel


def check_sha256(wheel: Path) -> None:
    """Stop unless the file is the one wheel that was examined."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        stop(
            f"{wheel.name} has sha256 {found}, expected {SOURCE_SHA256}; the index serves another file: "
            "use an index that mirrors PyPI"
        )


def write_wheel(source: Path, folder: Path) -> Path:
    """Write the wheel: the same input gives the same bytes on every machine.

    Args:
        source: the downloaded wheel.
        folder: where `detectron2-<version>-py3-none-any.whl` goes; appears there whole or not at all.
    """
    info = f"{DIST}.dist-info"
    with zipfile.ZipFile(source) as archive:
        names = [name for name in archive.namelist() if name.startswith("detectron2/") and not name.endswith("/")]
        kept = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT)]
        files = {name: archive.read(name) for name in sorted(kept)}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/LICENSE")]
        for name in licences:
            files[f"{info}/licenses/LICENSE"] = archive.read(name)
    files[f"{info}/METADATA"] = metadata().encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD")

    buffer = io.BytesIO()
    # Stored, not deflated: zlib's output differs between its versions.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on every machine
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    wheel = folder / f"{DIST}-py3-none-any.whl"
    partial = wheel.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(wheel)
    return wheel


def record(files: dict[str, bytes], own_name: str) -> bytes:
    """List every file with its sha256 and size, as the wheel format asks; the list itself has neither."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own_name},,\n"]).encode()


def metadata() -> str:
    """Core metadata 2.4, from this folder's pyproject.toml."""
    head = [
        "Metadata-Version: 2.4",
        f"Name: {PROJECT['name']}",
        f"Version: {PROJECT['version']}",
        f"Summary: {PROJECT['description']}",
        f"License-Expression: {PROJECT['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in PROJECT["dependencies"]),
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(head) + "\n\n" + DESCRIPTION


def stop(message: str) -> NoReturn:
    """End the build with one line instead of a traceback; pip and uv print it as the build's output."""
    raise SystemExit(f"packaging/detectron2: {message}")

"""Dependencies agree: pyproject.toml (bounds), environment.yml (conda names), requirements.txt (pins)."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# PyPI's name -> conda's, where they differ.
CONDA_NAMES = {
    "torch": "pytorch",
    "opencv-python-headless": "py-opencv",
    "matplotlib": "matplotlib-base",  # without the Qt windows
    "msgpack": "msgpack-python",
}
# In environment.yml alone. Detectron2's authors have no package on PyPI: packaging/detectron2 stands in for it.
CONDA_ONLY = {"python", "pip", "detectron2"}
# conda-forge has no build of it, and pycocotools computes the same.
PYPI_ONLY = {"ultrafast-pycocotools"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, list[Version]]:
    """Name -> versions pinned (one for each range of Python versions)."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (root / "requirements.txt").read_text(encoding="utf-8"), re.M
    ):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def needed(project: dict, *extras: str) -> set[str]:
    """The requirements of the base and of these extras."""
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {line for line in lines if Requirement(line).name != project["name"]}


def test_conda_environment_equals_pyproject(root: Path, project: dict) -> None:
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    conda = {}
    for line in environment["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", line).groups()
        conda[name] = bounds
    ours = {}
    for line in needed(project, "pretrain", "transfer", "benchmarks"):
        requirement = Requirement(line)
        if requirement.name in PYPI_ONLY:
            continue
        ours[CONDA_NAMES.get(requirement.name, requirement.name)] = str(requirement.specifier)
    assert {name: bounds for name, bounds in conda.items() if name not in CONDA_ONLY} == ours
    assert set(conda) >= CONDA_ONLY
    assert f">{conda['python']}" == project["requires-python"]


@pytest.mark.parametrize("source", ["pyproject.toml", "packaging/detectron2/pyproject.toml"])
def test_pins_meet_every_bound(root: Path, pins: dict[str, list[Version]], source: str) -> None:
    table = tomllib.loads((root / source).read_text(encoding="utf-8"))["project"]
    extras = (
        ["pretrain", "transfer", "benchmarks", "parquet", "hub", "docs", "dev"]
        if "optional-dependencies" in table
        else []
    )
    for requirement in map(Requirement, needed(table, *extras)):
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"requirements.txt lacks {requirement.name}: run make lock"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement} but {version} is pinned: run make lock"


def test_every_pin_has_a_hash_and_no_line_an_address(root: Path) -> None:
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[\w.-]+==[\w.+]+( ;.*)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", block), block
    assert not re.search(r"://|^-|^--|file:", text, re.M)


def test_torch_is_the_build_of_the_public_index(pins: dict[str, list[Version]]) -> None:
    """A CPU-only torch with the index's torchvision fails: `operator torchvision::nms does not exist`."""
    assert [version.local for name in ("torch", "torchvision") for version in pins[name]] == [None, None]


# Package -> the extras whose users have it; the base comes with each.
EXTRAS = {
    "benchmarks": ("benchmarks", "hub"),
    "converters": ("hub",),
    "experiments": ("pretrain", "transfer", "benchmarks", "peers"),
    "hardware": ("pretrain", "transfer", "benchmarks"),
    "pretrain": ("pretrain", "parquet", "wandb", "integrations"),
    "runs": ("pretrain", "wandb"),  # Hydra, in the start of the commands that take settings; the loggers
    "siamese_transfer": (),
    "transfer": ("transfer",),
}


def third_party_imports(folder: Path) -> dict[str, Path]:
    """Top-level name -> a file that imports it, lazy imports included."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            found |= {name.split(".")[0]: path for name in names}
    ours = (*EXTRAS, "detectron2")
    return {name: path for name, path in found.items() if name not in (*sys.stdlib_module_names, *ours)}


@pytest.mark.parametrize("package", EXTRAS)
def test_every_import_is_declared(root: Path, project: dict, package: str) -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in needed(project, *EXTRAS[package])}
    distributions = importlib.metadata.packages_distributions()
    for name, path in third_party_imports(root / package).items():
        providers = {canonicalize_name(provider) for provider in distributions.get(name, [name])}
        assert providers & declared, f"{path.relative_to(root)} imports {name}: declare {providers} for {package}"

"""What import-linter cannot see: whether importing a package loads what it must not load."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

# They only import, and are many.
pytestmark = pytest.mark.usefixtures("untraced")
CODE = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    loaded = [part for part in sys.argv[1].split(",") if part in sys.modules]
    if loaded:
        raise SystemExit(f"importing {name} loads {', '.join(loaded)}")
"""


def modules(package: Path) -> list[str]:
    """Every module of the package but the `__main__`s, which run on import where they have no guard."""
    found = [package.name]
    for module in pkgutil.walk_packages([str(package)], f"{package.name}."):
        if not module.name.endswith("__main__"):
            found.append(module.name)
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("benchmarks", "torch,detectron2"),  # `python -m benchmarks show` answers at once, on any machine
        ("pretrain", "detectron2"),  # pre-training needs no Detectron2
        ("converters", "detectron2"),  # nor does reading a checkpoint; the proof imports it when it runs
    ],
)
def test_importing_loads_nothing_forbidden(root: Path, package: str, forbidden: str) -> None:
    names = modules(root / package)
    done = subprocess.run([sys.executable, "-c", CODE, forbidden, *names], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "argument"),
    [
        ("pretrain", "--help"), ("pretrain", "metod=simsiam"), ("pretrain", "optimizer.lr=fast"),
        ("pretrain.linear", "--help"), ("pretrain.linear", "lrs=[0.1]"), ("pretrain.knn", "ks=[20]"),
        ("pretrain.collapse", "chekpoint=a"), ("pretrain.shard", "shards=2"), ("pretrain.check_data", "--help"),
        ("pretrain.smoke_test_method", "--help"), ("transfer", "tasks=voc07"), ("transfer.check_data", "--help"),
        ("transfer.evaluate_detections", "--help"), ("converters", "--help"),
    ],
)  # fmt: skip
def test_settings_are_read_without_pytorch_and_opencv(root: Path, module: str, argument: str) -> None:
    code = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    print("loads", *(name for name in ("torch", "cv2") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, module, argument], cwd=root, capture_output=True, text=True)
    assert done.stdout.endswith("loads\n"), done.stdout[-300:] + done.stderr
    assert done.returncode == (0 if argument == "--help" else 2), done.stderr


@pytest.mark.parametrize(
    "module", ["trainer", "linear.evaluation", "knn.evaluation", "collapse.measure_checkpoint", "data"]
)
def test_a_command_does_not_load_the_compiler(root: Path, module: str) -> None:
    # torchvision's own import would (`converters.without_dynamo`), and takes four seconds more for it.
    done = subprocess.run(
        [sys.executable, "-c", CODE, "torch._dynamo", f"pretrain.{module}"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

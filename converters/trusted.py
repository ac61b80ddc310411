"""`--trust`: a pickle that needs its own classes is unpickled in a process of its own, which returns arrays alone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from runs.errors import UserError

# A conversion takes seconds; code that hangs must not.
TIMEOUT = 120


def read_trusted(path: Path) -> dict[str, Any]:
    """Unpickle `path` without restrictions in a child process and return its arrays as nested dictionaries of tensors.

    The child's environment is empty but for what Python needs, its streams are closed, and what comes back is a
    safetensors file: no object of the pickle reaches this process.

    Raises:
        UserError: the child fails, takes longer than two minutes, or finds no array.
    """
    from safetensors import safe_open

    root = str(Path(__file__).resolve().parent.parent)
    keep = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    with tempfile.TemporaryDirectory(prefix="converters-") as folder:
        output = Path(folder) / "arrays.safetensors"
        command = [sys.executable, "-m", "converters.trusted", str(path.resolve()), str(output)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=keep | {"PYTHONPATH": root, "HOME": folder, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"unpickling took longer than {TIMEOUT} seconds; the file is not what it seems") from None
        if done.returncode != 0 or not output.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise UserError(
                f"unpickling with --trust failed ({lines[-1][:200]}); install what it names, or export arrays"
            )
        tree: dict[str, Any] = {}
        with safe_open(output, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                *parents, last = name.split("/")
                place = tree
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[last] = file.get_tensor(name).clone()
    return tree


def _child(source: str, output: str) -> None:
    """Unpickle, keep the arrays, write them; runs in the child only."""
    import pickle
    from collections.abc import Mapping

    import numpy as np
    import torch
    from safetensors.torch import save_file

    try:
        tree = torch.load(source, map_location="cpu", weights_only=False)
    except Exception:
        with open(source, "rb") as file:
            tree = pickle.load(file, encoding="latin1")
    found: dict[str, torch.Tensor] = {}
    todo: list[tuple[str, Any, int]] = [("", tree, 0)]
    while todo:
        path, value, depth = todo.pop()
        if hasattr(value, "state_dict") and callable(value.state_dict):
            value = value.state_dict()
        if hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, torch.Tensor):
            found[path] = value.detach().cpu().clone().contiguous()
        elif hasattr(value, "__array__") and np.asarray(value).dtype.kind in "fiub":
            found[path] = torch.from_numpy(np.array(value, dtype=np.asarray(value).dtype.newbyteorder("=")))
        elif isinstance(value, Mapping) and depth < 16:
            todo += [(f"{path}/{key}".lstrip("/"), value[key], depth + 1) for key in value if isinstance(key, str)]
    save_file({name: tensor for name, tensor in found.items() if name}, output)


if __name__ == "__main__":
    _child(*sys.argv[1:])

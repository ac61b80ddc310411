"""Time and memory of the converters on a full-width ResNet-50: `python -m benchmarks.speed.converters`.

Prints a line per command with its limit, and ends with status 1 if one is exceeded. The limits hold on an idle machine;
the best of `--repeat` runs counts, since another process can only make a run slower.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# command -> (seconds, bytes of peak resident memory)
LIMITS = {"--help": (0.3, 0.1e9), "inspect": (5.0, 1.5e9), "detectron2": (5.0, 1.5e9)}

# In a process of its own: benchmarks import neither torch nor the other parts.
_WRITE = """
import sys, torch
from converters.resnet import build_resnet
network = build_resnet("resnet50")
for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
state_dict = {f"module.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state_dict, "optimizer": {}}, sys.argv[1])
"""


def measure(arguments: list[str]) -> tuple[float, int]:
    """Run `python -m converters` once and return its wall seconds and peak resident memory in bytes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "converters", *arguments], stdout=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise SystemExit(f"converters {' '.join(arguments)} ended with status {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def main() -> int:
    """Measure every command and compare it with its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each command (default 3)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "resnet50.pth.tar"
        subprocess.run([sys.executable, "-c", _WRITE, str(checkpoint)], check=True)
        commands = {
            "--help": ["--help"],
            "inspect": ["inspect", str(checkpoint)],
            "detectron2": ["detectron2", str(checkpoint), str(Path(folder) / "out.pkl")],
        }
        for name, command in commands.items():
            runs = [measure(command) for _ in range(arguments.repeat)]
            figures[name] = {"seconds": min(run[0] for run in runs), "bytes": max(run[1] for run in runs)}
    exceeded = False
    for name, (seconds, size) in LIMITS.items():
        found = figures[name]
        exceeded |= found["seconds"] > seconds or found["bytes"] > size
        if not arguments.json:
            print(
                f"{name:12} {found['seconds']:6.2f} s (limit {seconds:g} s)"
                f"   {found['bytes'] / 1e9:5.2f} GB (limit {size / 1e9:g} GB)"
            )
    if arguments.json:
        print(json.dumps(figures, indent=2))
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())

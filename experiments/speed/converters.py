"""Time and memory of the converters on a full-width ResNet-50: `python -m experiments.speed.converters`.

The peer reads and writes the same tensors and does nothing else, which is what facebookresearch/moco's converter does
beside renaming: neither recognises a format nor proves the result.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.speed.rows import Process, Row, Skipped, run_process, run_script
from hardware.measure_peak_rates import bandwidth

# In a process of its own: benchmarks import neither torch nor the other parts.
_WRITE = """
import sys, torch
from converters.checkpoint_layouts import InputConvention
from converters.resnet_model import build_resnet
from converters.vital_signs import normalised, pictures
network = build_resnet("resnet50").train()
for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = None  # the statistics of this one batch: others are refused as a stranger's
with torch.no_grad():
    network(normalised(pictures(), InputConvention()))
state_dict = {f"module.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state_dict, "optimizer": {}}, sys.argv[1])
"""


_PEER = """
import pickle, sys, torch
state = torch.load(sys.argv[1], weights_only=True)["state_dict"]
with open(sys.argv[2], "wb") as file:
    pickle.dump({"model": {name: tensor.numpy() for name, tensor in state.items()}}, file)
"""


def measure(arguments: argparse.Namespace) -> Iterator[Row | Skipped]:
    """Seconds and memory of a conversion with its proof."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "resnet50.pth.tar"
        subprocess.run([sys.executable, "-c", _WRITE, str(checkpoint)], check=True)
        sides = [
            ["-m", "converters", "detectron2", str(checkpoint), str(Path(folder) / "out.pkl")],
            ["-c", _PEER, str(checkpoint), str(Path(folder) / "peer.pkl")],
        ]
        figures = [[run_python(side) for side in sides] for _ in range(1 if arguments.quick else 3)]
        title, peer = "ResNet-50 to Detectron2, with the proof", "torch.load and pickle.dump alone"
        size = 2 * checkpoint.stat().st_size
        for what, unit, field, limit, name in (
            ("time", "s", "seconds", size / bandwidth(), "reading and writing the bytes in memory"),
            ("memory", "GB", "gigabytes", size / 2e9, "the tensors once"),
        ):
            ours, theirs = ([getattr(figure[side], field) for figure in figures] for side in (0, 1))
            yield Row(
                f"converters/{what}", title, unit, False, ours, theirs, peer, "cpu", limit=limit, limit_name=name,
                note="asked are 5 s and 1.5 GB",
            )  # fmt: skip


def run_python(arguments: list[str]) -> Process:
    """Run Python once."""
    done = run_process([sys.executable, *arguments], stderr=None, OMP_NUM_THREADS="1")
    if done.status:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with status {done.status}")
    return done


if __name__ == "__main__":
    run_script(measure, __doc__ or "")

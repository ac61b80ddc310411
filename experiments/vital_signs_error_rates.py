"""`python -m experiments.vital_signs_error_rates CHECKPOINT…`: which wrong networks the vital signs find.

Each checkpoint holds a ResNet as it was trained. It is checked as it is, then damaged in every way of `DAMAGES` and
under every wrong convention of `INPUTS`; the table of docs/converters.md counts what was refused, doubted and passed. A
layer of another network comes from the next checkpoint of the same architecture.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoint_layouts import UNIT_INPUT, InputConvention
from converters.checks import Check
from converters.loading import Backbone, build_network, load_backbone
from converters.vital_signs import vital_signs_check
from runs.app import Parser, cli
from runs.errors import UserError
from runs.progress import Progress

Weights = dict[str, Tensor]


def _swap(weights: Weights, one: str, other: str) -> None:
    weights[one], weights[other] = weights[other], weights[one]


def _convolutions(weights: Weights) -> list[str]:
    return [name for name, tensor in weights.items() if tensor.dim() == 4]


def exchanged_convolutions(weights: Weights, _: Weights) -> None:
    """Two convolutions of one shape exchanged."""
    _swap(weights, "layer3.0.conv2.weight", "layer3.1.conv2.weight")


def shuffled_convolution(weights: Weights, _: Weights) -> None:
    """One convolution's values shuffled."""
    name = "layer2.1.conv2.weight"
    order = torch.randperm(weights[name].numel(), generator=torch.Generator().manual_seed(0))
    weights[name] = weights[name].flatten()[order].view_as(weights[name])


def foreign_convolution(weights: Weights, partner: Weights) -> None:
    """One convolution of another network."""
    weights["layer2.1.conv2.weight"] = partner["layer2.1.conv2.weight"]


def foreign_layer4(weights: Weights, partner: Weights) -> None:
    """Layer 4 of another network."""
    weights.update({name: partner[name] for name in weights if name.startswith("layer4.")})


def reinitialized_layer4(weights: Weights, _: Weights) -> None:
    """Layer 4's convolutions initialized again."""
    for name in _convolutions(weights):
        if name.startswith("layer4."):
            weights[name] = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(1)) * 0.05


def transposed_channels(weights: Weights, _: Weights) -> None:
    """All square convolutions transposed out/in."""
    square = [name for name in _convolutions(weights) if weights[name].shape[0] == weights[name].shape[1]]
    weights.update({name: weights[name].transpose(0, 1).contiguous() for name in square})


def one_transposed(weights: Weights, _: Weights) -> None:
    """One square convolution transposed out/in."""
    weights["layer3.0.conv2.weight"] = weights["layer3.0.conv2.weight"].transpose(0, 1).contiguous()


def transposed_kernels(weights: Weights, _: Weights) -> None:
    """Kernels transposed height/width."""
    weights.update({name: weights[name].transpose(2, 3).contiguous() for name in _convolutions(weights)})


def rotated_kernels(weights: Weights, _: Weights) -> None:
    """Kernels rotated by 180 degrees."""
    weights.update({name: weights[name].flip(2, 3) for name in _convolutions(weights)})


def means_and_biases(weights: Weights, _: Weights) -> None:
    """Means and biases of all norms exchanged."""
    for name in [name for name in weights if name.endswith("running_mean")]:
        _swap(weights, name, name.replace("running_mean", "bias"))


def one_mean_and_bias(weights: Weights, _: Weights) -> None:
    """Mean and bias of one norm exchanged."""
    _swap(weights, "layer3.0.bn2.running_mean", "layer3.0.bn2.bias")


def scales_and_variances(weights: Weights, _: Weights) -> None:
    """Scales and variances of all norms exchanged."""
    for name in [name for name in weights if name.endswith("running_var")]:
        _swap(weights, name, name.replace("running_var", "weight"))


def tiny_convolutions(weights: Weights, _: Weights) -> None:
    """All convolutions times 1e-8."""
    weights.update({name: weights[name] * 1e-8 for name in _convolutions(weights)})


def untrained(weights: Weights, _: Weights) -> None:
    """Norms at their start, with a running mean of 1e-12."""
    for name, tensor in weights.items():
        if name.endswith("running_mean"):
            weights[name] = torch.full_like(tensor, 1e-12)
        elif tensor.dim() == 1:
            weights[name] = torch.zeros_like(tensor) if name.endswith("bias") else torch.ones_like(tensor)


def blue_and_red(weights: Weights, _: Weights) -> None:
    """Blue and red exchanged in the stem."""
    weights["conv1.weight"] = weights["conv1.weight"].flip(1)


def exchanged_blocks(weights: Weights, _: Weights) -> None:
    """Two blocks of a layer exchanged."""
    for name in [name for name in weights if name.startswith("layer3.1.")]:
        _swap(weights, name, name.replace("layer3.1.", "layer3.2."))


Damage = Callable[[Weights, Weights], None]
DAMAGES: tuple[Damage, ...] = (
    exchanged_convolutions, shuffled_convolution, foreign_convolution, foreign_layer4, reinitialized_layer4,
    transposed_channels, one_transposed, means_and_biases, one_mean_and_bias, scales_and_variances, tiny_convolutions,
    untrained, rotated_kernels, transposed_kernels, blue_and_red, exchanged_blocks,
)  # fmt: skip
INPUTS: dict[str, Callable[[InputConvention], InputConvention]] = {
    "Input not normalised": lambda _: UNIT_INPUT,
    "Input in 0..255": lambda _: InputConvention("RGB", (0.0,) * 3, (1 / 255,) * 3),
    "Mean and deviation of 0.5": lambda _: InputConvention("RGB", (0.5,) * 3, (0.5,) * 3),
    "Blue and red exchanged at the input, with mean and deviation": lambda own: replace(
        own, channels="BGR", mean=own.mean[::-1], std=own.std[::-1]
    ),
    "Stride in the 1x1 for the 3x3 convolution": lambda own: replace(own, stride_in_1x1=not own.stride_in_1x1),
}


def check_weights(backbone: Backbone, weights: Weights, convention: InputConvention) -> Check:
    """The vital signs of these weights, read as `convention` says."""
    return vital_signs_check(build_network(backbone.arch, weights, convention), convention)


def count_outcomes(backbones: list[Backbone]) -> tuple[list[str], dict[str, Counter[str]]]:
    """(the figures of the networks as they are, outcomes by case)."""
    intact = [check_weights(each, dict(each.state_dict), each.input).figure for each in backbones]
    found: dict[str, Counter[str]] = {}

    def count(case: str, outcome: Check) -> None:
        verdict = "refused" if not outcome.passed else "doubtful" if outcome.doubtful else "passed"
        found.setdefault(case, Counter())[verdict] += 1

    with Progress(len(backbones), "vital signs", "network") as bar:
        for number, backbone in enumerate(backbones):
            others = [o for o in backbones[number + 1 :] + backbones[:number] if o.arch == backbone.arch]
            partner = dict(others[0].state_dict) if others else {}
            for damage in DAMAGES:
                weights = dict(backbone.state_dict)
                with contextlib.suppress(KeyError):  # a shallow network lacks the layer, or there is no partner
                    damage(weights, partner)
                    count((damage.__doc__ or "").rstrip("."), check_weights(backbone, weights, backbone.input))
            for name, change in INPUTS.items():
                # A network without bottlenecks has no 1x1 convolution to take the stride.
                if not name.startswith("Stride") or "layer1.0.conv3.weight" in backbone.state_dict:
                    count(name, check_weights(backbone, dict(backbone.state_dict), change(backbone.input)))
            bar.update()
    return intact, found


@cli
def main(arguments: list[str] | None = None) -> int:
    """Print the table as Markdown."""
    parser = Parser(prog="python -m experiments.vital_signs_error_rates", description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="networks as they were trained")
    files = parser.parse_args(arguments).checkpoints
    if len(files) < 2:
        raise UserError("CHECKPOINT: give at least two; each lends layers to another")
    intact, found = count_outcomes([load_backbone(file) for file in files])
    print("\n".join(f"- {file.parent.name or file.name}: {figure}" for file, figure in zip(files, intact, strict=True)))
    print("\n| case | refused | doubtful | passed |\n| --- | --- | --- | --- |")
    for case, outcomes in found.items():
        print(f"| {case} | " + " | ".join(str(outcomes[v]) for v in ("refused", "doubtful", "passed")) + " |")
    return 0


if __name__ == "__main__":
    main()

"""What must hold for the tensors of a trained ResNet, each check with its figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.reading import Contents
from converters.tensor_digest import tensor_digest
from runs.errors import UserError

# What a checkpoint's weights may be; float8 and integers need scales that no plain ResNet has.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Check:
    """A statement about the file: whether it holds, its figure, what to do if not, and whether it is near its limit."""

    name: str
    passed: bool
    figure: str
    remedy: str = ""
    doubtful: bool = False


def require(checks: list[Check], file: Path) -> None:
    """Raise UserError for the first check of a file that does not hold."""
    for check in checks:
        if not check.passed:
            raise UserError(f"{file}: {check.name}: {check.figure}; {check.remedy}")


def tensor_checks(state_dict: Mapping[str, Tensor], source: Mapping[str, str]) -> list[Check]:
    """Check a complete state dict (torchvision's names, source dtypes); `source` has the names in the file.

    Returns all checks in a fixed order; the first that fails is the error to report.
    """
    count = sum(tensor.dim() == 4 for tensor in state_dict.values())
    figure = f"{len(state_dict)} = {count} convolutions + {count} x 4 of batch norm, each used once"
    checks = [Check("tensors", len(state_dict) == 5 * count, figure)]
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state_dict.items()}
    wrong = next((name for name, tensor in state_dict.items() if tensor.dtype not in FLOATS), None)
    figure = f"{source[wrong]} is {kinds[wrong]}" if wrong else ", ".join(sorted(set(kinds.values())))
    remedy = "weights are numbers of 16, 32 or 64 bits with a floating point; export them again"
    checks.append(Check("dtypes", not wrong, figure, remedy))
    if wrong:
        return checks
    broken = [name for name, tensor in state_dict.items() if not torch.isfinite(tensor.float()).all()]
    figure = f"{len(broken)} tensors with NaN or infinity" + (f", first {source[broken[0]]}" if broken else "")
    remedy = "the training diverged or the file is damaged; use an earlier checkpoint"
    checks.append(Check("finite", not broken, figure, remedy))
    return checks if broken else [*checks, *_norm_checks(state_dict, source), _copies_check(state_dict, source)]


def digest_check(contents: Contents, state_dict: dict[str, Tensor]) -> Check:
    """The digest that this project writes into its own files, and what the format's own checksums say."""
    own: dict[str, Any] = state_dict
    stated: Any = contents.provenance.get("digest")
    if "resume" in contents.entries:
        start = "state_dict/"
        own = {path[len(start) :]: array for path, array in contents.tensors.items() if path.startswith(start)}
        stated = contents.settings.get("digest")
    if not isinstance(stated, str):
        return Check("undamaged", True, contents.checksum)
    plain = all(isinstance(array, Tensor) for array in own.values())
    figure = "the tensors against the digest in the file"
    remedy = "they differ, so the file is damaged; fetch or write it again"
    return Check("undamaged", plain and tensor_digest(own) == stated, figure, remedy)


def _norm_checks(state_dict: Mapping[str, Tensor], source: Mapping[str, str]) -> list[Check]:
    suffix = ".running_var"
    variances = {name.removesuffix(suffix): tensor for name, tensor in state_dict.items() if name.endswith(suffix)}
    lowest = min(variances, key=lambda norm: variances[norm].min().item())
    smallest = variances[lowest].min().item()
    figure = f"smallest {smallest:.3g} in {source[lowest + suffix]}"
    remedy = "a variance is never negative; the file is damaged"
    checks = [Check("running variance", smallest >= 0, figure, remedy)]
    untouched = [
        norm
        for norm, variance in variances.items()
        if (variance == 1).all() and (state_dict[f"{norm}.running_mean"] == 0).all()
    ]
    figure = f"{len(untouched)} of {len(variances)} batch norms at their initial mean 0 and variance 1"
    if len(untouched) < len(variances):
        remedy = "part of the backbone is randomly initialised; give the complete checkpoint"
    elif all(_constant(state_dict[f"{norm}.weight"]) for norm in untouched):
        remedy = "the backbone is randomly initialised (a head-only or untrained checkpoint); give a trained one"
    else:
        remedy = "its statistics are folded into scale and bias, or were reset; give the network as it was trained"
    return [*checks, Check("trained", not untouched, figure, remedy)]


def _copies_check(state_dict: Mapping[str, Tensor], source: Mapping[str, str]) -> Check:
    """Equal convolutions under two names are a copying mistake: independent initial values never train to them."""
    seen: dict[tuple[tuple[int, ...], float], str] = {}
    copies: list[tuple[str, str]] = []
    for name, tensor in state_dict.items():
        if tensor.dim() != 4:
            continue
        if _constant(tensor):
            return Check(
                "distinct", False, f"{source[name]} has one single value", "the file is damaged; fetch it again"
            )
        key = (tuple(tensor.shape), tensor.double().sum().item())
        if key in seen and torch.equal(tensor, state_dict[seen[key]]):
            copies.append((name, seen[key]))
        seen.setdefault(key, name)
    figure = f"{len(copies)} convolutions that are copies of another"
    if copies:
        figure += f", first {source[copies[0][0]]} of {source[copies[0][1]]}"
    return Check("distinct", not copies, figure, "the file was put together wrongly; convert the original")


def _constant(tensor: Tensor) -> bool:
    return bool((tensor == tensor.flatten()[0]).all())

"""Find the stem and the four stages of the ResNet in any network, by the names that the libraries give them."""

import torch
from torch import nn

from runs.errors import UserError

STAGES = ("stem", "res2", "res3", "res4", "res5")


def find_stages(model: nn.Module) -> list[nn.Module]:
    """Return the stem (with its activation and pooling) and the four stages of the one ResNet in a model.

    Args:
        model: a module that contains a ResNet of torchvision or timm (`conv1`, `layer1`, …), of Detectron2 (`stem`,
            `res2`, …; `res5` of a C4 detector from its heads), or of lightly (`nn.Sequential(*children)`).

    Raises:
        UserError: there is none, or several that do not hold the same tensors (a teacher and a student).
    """
    for finder in (_torchvision, _detectron2, _sequential):
        found = [stages for stages in map(finder, model.modules()) if stages]
        if len(found) > 1 and any(not _same(found[0], other) for other in found[1:]):
            raise UserError(f"the model holds {len(found)} ResNets that differ; pass the one that is meant")
        if found:
            stages = found[0]
            if len(stages) < len(STAGES):
                stages = [*stages, _res5(model)]
            return stages
    raise UserError("the model has no ResNet of torchvision, timm or Detectron2 in it; pass one that has")


def _named(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    children = dict(module.named_children())
    return [children[name] for name in names] if all(name in children for name in names) else []


def _torchvision(module: nn.Module) -> list[nn.Module]:
    children = dict(module.named_children())
    activation = "act1" if "act1" in children else "relu"
    found = _named(module, ("conv1", "bn1", activation, "maxpool", "layer1", "layer2", "layer3", "layer4"))
    return [nn.Sequential(*found[:4]), *found[4:]] if found else []


def _detectron2(module: nn.Module) -> list[nn.Module]:
    return _named(module, ("stem", *STAGES[1:])) or _named(module, STAGES[:-1])


def _sequential(module: nn.Module) -> list[nn.Module]:
    found = _named(module, tuple(map(str, range(8)))) if isinstance(module, nn.Sequential) else []
    if not found or not isinstance(found[0], nn.Conv2d) or not all(isinstance(s, nn.Sequential) for s in found[4:]):
        return []
    return [nn.Sequential(*found[:4]), *found[4:8]]


def _res5(model: nn.Module) -> nn.Module:
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "res5"]
    if len(found) != 1:
        raise UserError("res5: the model's ResNet ends at res4, and its heads have no res5; pass the whole detector")
    return found[0]


def _same(stages: list[nn.Module], others: list[nn.Module]) -> bool:
    mine, theirs = (nn.ModuleList(each).state_dict().values() for each in (stages, others))
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))

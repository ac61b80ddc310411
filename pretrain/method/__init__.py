"""The methods: each is one file that reads like its paper's algorithm and one YAML file with its recipe.

To add one, write `<name>.py` with a settings dataclass and a class,

    @dataclass
    class MineConfig(MethodConfig):
        name: str = "mine"

    @register("mine", MineConfig)
    class Mine(Method):
        def __init__(self, config: MineConfig, plan: Plan) -> None: ...
        def forward(self, batch: Batch) -> Output: ...

and `<name>.yaml` beside it (see `simsiam.yaml`). Nothing else needs to know of it: every module in this folder is
found by its presence. `pretrain.method.base` documents the hooks.
"""

import importlib
import pkgutil

from pretrain.method.base import METHODS, Batch, Group, Method, MethodConfig, Output, Plan, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def build_method(config: MethodConfig, plan: Plan) -> Method:
    """Build the method that `config` names.

    Raises:
        UserError: an unknown architecture.
    """
    return METHODS[config.name](config, plan)


__all__ = ["METHODS", "Batch", "Group", "Method", "MethodConfig", "Output", "Plan", "build_method", "register"]

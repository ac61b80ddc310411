"""The methods: each is one file that reads like its paper's algorithm and one YAML file with its recipe.

To add one, write its settings into `config.py`,

    @dataclass
    class MineConfig(MethodConfig):
        name: str = "mine"

its class, named like them, into `mine.py`,

    class Mine(Method):
        def __init__(self, config: MineConfig, plan: TrainingPlan) -> None: ...
        def forward(self, batch: Batch) -> Output: ...

and its recipe into `mine.yaml` (see `simsiam.yaml`). Nothing else needs to know of it. `base.py` documents the hooks.
"""

"""Any public ResNet checkpoint in, proven Detectron2 weights out.

`load_backbone` reads a checkpoint of any known project, `prove_loaded` says whether its weights are in a network,
`convert` writes it for Detectron2 or torchvision; `python -m converters` does the same from the shell.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.checkpoint_layouts import InputConvention as InputConvention
    from converters.conversion import convert as convert
    from converters.conversion import inspect as inspect
    from converters.loading import Backbone as Backbone
    from converters.loading import load_backbone as load_backbone
    from converters.proof import Proof as Proof
    from converters.proof import prove_loaded as prove_loaded
    from converters.report import Report as Report

_PLACES = {
    "Backbone": "loading",
    "InputConvention": "checkpoint_layouts",
    "Proof": "proof",
    "Report": "report",
    "convert": "conversion",
    "inspect": "conversion",
    "load_backbone": "loading",
    "prove_loaded": "proof",
}
__all__ = ["Backbone", "InputConvention", "Proof", "Report", "convert", "inspect", "load_backbone", "prove_loaded"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; `--help` and `import converters` must not pay for it.
    if name in _PLACES:
        return getattr(importlib.import_module(f"converters.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'converters' has no attribute {name!r}")

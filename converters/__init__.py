"""Any public ResNet checkpoint in, proven Detectron2 weights out.

`load_backbone` reads a checkpoint of any known project; `python -m converters` inspects and converts it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.formats import InputConvention as InputConvention
    from converters.loading import Backbone as Backbone
    from converters.loading import load_backbone as load_backbone

__all__ = ["Backbone", "InputConvention", "load_backbone"]


def __getattr__(name: str) -> Any:
    # WHY: importing torch takes seconds; `--help` and `import converters` must not pay for it.
    if name in __all__:
        from converters import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'converters' has no attribute {name!r}")

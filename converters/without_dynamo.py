"""Torchvision and Detectron2 without torch._dynamo: three to five seconds less for a command that never compiles."""

import contextlib
import importlib
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """Import and run the networks without loading torch._dynamo, and quietly.

    torchvision/ops/roi_align.py (0.29) imports it for one predicate that only a running RoIAlign calls, and
    detectron2/layers/wrappers.py asks it, in every convolution, whether the code is being compiled. Meanwhile two small
    modules answer those questions: the first by loading the real one when it is asked, the second by the public
    function of the same meaning. Where torch._dynamo is loaded already, nothing is replaced.
    """
    import torch

    def is_compile_supported(device: str) -> Any:
        return importlib.import_module("torch._dynamo.utils").is_compile_supported(device)

    answers: dict[str, Any] = {
        "torch._dynamo": {"is_compiling": torch.compiler.is_compiling},
        "torch._dynamo.utils": {"is_compile_supported": is_compile_supported},
    }
    placed: dict[str, types.ModuleType] = {}
    if not any(name in sys.modules for name in answers):
        for name, functions in answers.items():
            placed[name] = sys.modules[name] = types.ModuleType(name)
            vars(placed[name]).update(functions)
    logger = logging.getLogger("detectron2")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its table of matched names would bury the proof's
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Detectron2 uses torch.jit, which announces its end
            yield
    finally:
        logger.setLevel(level)
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

"""Checkpoints of a project that calls a stage `ring`."""

import re

from converters.checkpoint_layouts import Format
from converters.naming_schemes import Scheme, from_torchvision


def _names(names):
    found = {name: from_torchvision(re.sub(r"^ring(\d)\.", r"layer\1.", name)) for name in names}
    return {name: renamed for name, renamed in found.items() if renamed}


SCHEMES = (Scheme("rings", r"(?P<root>(?:.*?\.)?)ring1\.0\.conv1\.", _names),)
FORMATS = (Format("telescope", schemes=("rings",)),)

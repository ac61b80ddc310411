"""Reading pickles without importing or calling anything that they name.

A pickle is a program: it names functions ("globals") and calls them. Here every name is looked up in a short table of
our own inert stand-ins; nothing is imported, whatever the file says. A name outside the table is an error that lists
all such names, so that the user can judge the file before saying `--trust`.
"""

import io
import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from runs.errors import UserError

# Real checkpoints need some ten thousand opcodes (265 tensors, as many optimiser states, a configuration).
# WHY: one opcode is one byte in the file and up to a hundred in memory, so a small file could fill the machine.
MAX_OPCODES = 1_000_000

# Containers of settings and bookkeeping that projects store beside the tensors. Their content is not needed.
INERT_NAMES = {
    "argparse.Namespace",
    "collections.Counter",
    "types.SimpleNamespace",
    "typing.Any",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "fvcore.common.config.CfgNode",
    "datetime.datetime",
    "datetime.timedelta",
    "copyreg._reconstructor",
}
INERT_PACKAGES = (
    "addict",
    "byol",
    "detectron2.config",
    "easydict",
    "haiku",
    "hydra",
    "lightning",
    "lightning_fabric",
    "mmcv",
    "mmengine",
    "ml_collections",
    "munch",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "vissl.config.attr_dict",
    "yacs",
)
# Types by which configurations describe their fields (OmegaConf); never called with anything but plain values.
INERT_BUILTINS = (
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "set",
    "slice",
    "str",
    "tuple",
)

# deepmind-research byol/byol_experiment.py@4822a455: the fields of a NamedTuple are not in the pickle.
NAMED_TUPLES = {
    "_ByolExperimentState": ("online_params", "target_params", "online_state", "target_state", "opt_state"),
}


class Record:
    """Stands in for an object of a class that is not imported: keeps what the pickle said, does nothing."""

    origin = ""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **_: Any) -> "Record":
        """Keep the arguments of the call that the pickle asks for."""
        record = object.__new__(cls)
        record.args = args
        return record

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)

    def append(self, _: Any) -> None:
        """Ignore an item of a list-like object."""

    def extend(self, _: Any) -> None:
        """Ignore items of a list-like object."""

    def content(self) -> dict[Any, Any]:
        """What the object holds by name, as far as that is known."""
        fields = NAMED_TUPLES.get(self.origin.rsplit(".", 1)[-1])
        if fields and len(fields) == len(self.args):
            return dict(zip(fields, self.args, strict=True))
        for held in (self.state, *self.args):
            if isinstance(held, dict):
                # Haiku's immutable mappings keep their dictionary in one attribute (haiku/_src/data_structures.py).
                return next((held[key] for key in ("_storage", "_mapping") if isinstance(held.get(key), dict)), held)
        return {}


class ArrayData:
    """Stands in for a NumPy array: NumPy's own constructor never sees a value from the file unchecked."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray[Any, Any] | None:
        """The array, sharing the bytes that were read; None if it does not hold plain numbers."""
        if len(self.state) != 5 or not isinstance(self.state[2], DtypeData):
            return None
        _, shape, dtype, fortran, data = self.state
        return _from_bytes(data, dtype, shape, "F" if fortran else "C")


class DtypeData:
    """Stands in for `numpy.dtype`: only the letter, the size and the byte order are kept."""

    order = "<"

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = str(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if len(state) > 1 and state[1] in ("<", ">", "|") else "<"

    def dtype(self) -> np.dtype[Any] | None:
        """The NumPy type of plain numbers, None for any other."""
        return np.dtype(self.order + self.code) if re.fullmatch(r"[fiub][1248]", self.code) else None


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any] | None:
    kind = dtype.dtype() if isinstance(dtype, DtypeData) else None
    if isinstance(data, str):
        data = data.encode("latin1")  # Python 2 wrote bytes as text
    if kind is None or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
        return None
    if not all(isinstance(size, int) and size >= 0 for size in shape) or order not in ("C", "F"):
        return None
    array = np.frombuffer(data, dtype=kind)
    if array.size != int(np.prod(shape, dtype=object)):
        raise pickle.UnpicklingError(f"an array of shape {shape} has {array.size} values")
    return array.reshape(shape, order=order)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> ArrayData:
    array = ArrayData()
    array.state = (1, shape, dtype, order == "F", bytes(data) if isinstance(data, (bytes, bytearray)) else b"")
    return array


def _encode(text: Any, _: Any = "latin1") -> bytes:
    """`_codecs.encode` as NumPy's Python-2-compatible pickles use it: text to bytes, one to one."""
    return text.encode("latin1") if isinstance(text, str) else b""


def _new_array(*_: Any) -> ArrayData:
    return ArrayData()


def _new_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _new_list(*_: Any) -> list[Any]:
    return []


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _new_dict,
    "collections.deque": _new_list,
    "numpy.dtype": DtypeData,
    "numpy.ndarray": type("ndarray", (Record,), {"origin": "numpy.ndarray"}),
}
for _module in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_module}.multiarray._reconstruct"] = _new_array
    _STAND_INS[f"{_module}.numeric._frombuffer"] = _frombuffer


def stand_in(name: str) -> Callable[..., Any] | None:
    """Our inert replacement for the global `module.name`, or None if it has none."""
    if name in _STAND_INS:
        return _STAND_INS[name]
    module, _, attribute = name.rpartition(".")
    inert = (
        name in INERT_NAMES
        or any(module == package or module.startswith(package + ".") for package in INERT_PACKAGES)
        or (module == "builtins" and attribute in INERT_BUILTINS)
        or re.fullmatch(r"numpy\.dtypes\.\w+DType", name) is not None
    )
    if inert:
        _STAND_INS[name] = type(attribute, (Record,), {"origin": name})
        return _STAND_INS[name]
    return None


def modern(module: str, name: str) -> str:
    """`module.name`, with Python 2's names, which protocols 0 to 2 write, replaced as `pickle` itself does."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def globals_of(file: IO[bytes]) -> set[str]:
    """The globals that the pickle at the file's position names; the position moves behind it. Nothing is executed.

    Raises:
        UserError: it has more opcodes than any checkpoint.
        ValueError: it is no pickle.
    """
    names: set[str] = set()
    memo: dict[int, str] = {}
    texts: list[str] = []  # the strings pushed last, for STACK_GLOBAL
    for count, (opcode, argument, _) in enumerate(_opcodes(file)):
        if count > MAX_OPCODES:
            raise UserError(f"more than {MAX_OPCODES:,} pickle opcodes, which no checkpoint has; the file is hostile")
        kind = opcode.name
        if kind in ("GLOBAL", "INST"):
            names.add(modern(*argument.split(" ", 1)))
        elif kind == "STACK_GLOBAL":
            names.add(".".join(texts[-2:]) if len(texts) > 1 else "?")
        elif kind in ("EXT1", "EXT2", "EXT4"):
            names.add(f"extension {argument}")
        elif kind in ("BINGET", "LONG_BINGET", "GET"):
            texts.append(memo.get(int(argument), "?"))
        elif kind in ("BINPUT", "LONG_BINPUT", "PUT"):
            if int(argument) > MAX_OPCODES:
                # The unpickler's memo is an array as long as the largest index: five bytes would claim gigabytes.
                raise UserError(
                    f"a pickle memo of {int(argument):,} places, which no checkpoint has; the file is hostile"
                )
            memo[int(argument)] = texts[-1] if texts else "?"
        elif kind == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else "?"
        elif isinstance(argument, str):
            texts.append(argument)
        if len(texts) > 8:
            del texts[:-4]
    return names


def _opcodes(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    yield from pickletools.genops(file)


class SafeUnpickler(pickle.Unpickler):
    """A `pickle.Unpickler` whose every global is a stand-in of this module."""

    def find_class(self, module: str, name: str) -> Any:
        """Look `module.name` up in the table; nothing is imported."""
        found = stand_in(modern(module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return found


def load(data: bytes) -> Any:
    """The object tree of a plain pickle, with stand-ins for everything but plain values.

    Raises:
        UserError: it names globals that have no stand-in.
    """
    refuse(name for name in globals_of(io.BytesIO(data)) if stand_in(name) is None)
    # latin1: pickles of Python 2, such as the MSRA weights, hold bytes as text (fvcore/common/checkpoint.py).
    return SafeUnpickler(io.BytesIO(data), encoding="latin1").load()


def refuse(names: Any) -> None:
    """Raise UserError if there are names, listing them."""
    listed = sorted(names)
    if listed:
        shown = ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
        raise UserError(
            f"the pickle wants to import {shown}, which could run any command; "
            "ask for a safetensors file, or pass --trust if you trust its author"
        )

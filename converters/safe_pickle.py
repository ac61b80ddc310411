"""Reading pickles without importing or calling anything that they name.

A pickle is a program: it names classes and functions and calls them. This interpreter keeps plain values, builds
tensors and arrays by its own code, and lets an inert `StandIn` stand for every other object. Nothing that a file names
is looked up. A file that would run a command in any other reader is refused, though here nothing would happen.
"""

import io
import math
import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from runs.errors import UserError

# Real checkpoints need some ten thousand opcodes (265 tensors, as many optimiser states, a configuration).
# One opcode is one byte in the file and up to a hundred in memory, so a small file could fill the machine.
MAX_OPCODES = 1_000_000
# Functions that no checkpoint needs and that every attack does.
_COMMANDS = re.compile(
    r"(posix|nt|os|subprocess|sys|importlib|runpy|shutil|socket|pty|ctypes|webbrowser|multiprocessing|pickle)"
    r"\.(?!\w*(Path|path|stat_result|HIGHEST_PROTOCOL)).*|builtins\.(eval|exec|compile|open|__import__|breakpoint|input)"
    r"|torch\.(hub|serialization\.load|load|jit)\b.*|code\.Interactive.*|extension\.\d+"
)
# deepmind-research byol/byol_experiment.py@4822a455: the fields of a NamedTuple are not in the pickle.
NAMED_TUPLES = {
    "_ByolExperimentState": ("online_params", "target_params", "online_state", "target_state", "opt_state"),
}
_ARRAYS = ("numpy.ndarray", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")


class ObjectTree(NamedTuple):
    """What a reader found: nested dictionaries and lists, the file's kind, its checksums, the classes that it names."""

    content: Any
    kind: str
    checksum: str = "no checksum in this format; compare the sha256 with the author's, --sha256 does"
    names: Collection[str] = ()


@dataclass(frozen=True)
class Global:
    """A class or function by its name, `module.name`."""

    name: str

    def __call__(self, *args: Any) -> Any:
        """What stands for the call."""
        try:
            return CALLS[self.name](*args) if self.name in CALLS else StandIn(self.name, args)
        except (AttributeError, TypeError, ValueError, IndexError):
            return StandIn(self.name, args)


@dataclass(eq=False)
class StandIn:
    """Stands in for any object: the class or function that makes it, its arguments, state and items."""

    origin: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def named_contents(self) -> dict[Any, Any]:
        """What the object holds by name, as far as that is known."""
        fields = NAMED_TUPLES.get(self.origin.rsplit(".", 1)[-1])
        if fields and len(fields) == len(self.args):
            return dict(zip(fields, self.args, strict=True))
        # Objects with slots have (dictionary, slots) as state.
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        for held in (*states, *self.args):
            if isinstance(held, dict) and held:
                # Haiku's immutable mappings keep their dictionary in one attribute (haiku/_src/data_structures.py).
                inner: dict[Any, Any] = next(
                    (held[k] for k in ("_storage", "_mapping", "_content") if isinstance(held.get(k), dict)), {}
                )
                # torch/nn/modules/module.py: a pickled network keeps its parts in three dictionaries.
                parts = [held.pop(k) for k in ("_parameters", "_buffers", "_modules") if isinstance(held.get(k), dict)]
                return inner or {**held, **{key: part[key] for part in parts for key in part}}
        return self.items

    def array_or_none(self) -> "np.ndarray[Any, Any] | None":
        """The NumPy array that it stands for, sharing the bytes that were read; None if that is none of plain numbers.

        Raises:
            UserError: it claims another size than it has.
        """
        if self.origin not in _ARRAYS:
            return None
        match self.state:
            case (
                _,
                tuple(shape),
                StandIn("numpy.dtype", (str(code), *_)) as dtype,
                fortran,
                str() | bytes() | bytearray() as data,
            ):
                order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
            case _:
                return None
        if order not in ("<", ">", "|") or not re.fullmatch(r"[fiub][1248]", code):
            return None
        # Python 2 wrote bytes as text.
        found = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=order + code)
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            return None
        if found.size != math.prod(shape):
            raise UserError(f"an array of shape {shape} has {found.size} values; the file is damaged, fetch it again")
        return found.reshape(shape, order="F" if fortran else "C")


@dataclass(eq=False)
class OpaqueTensor:
    """A tensor whose numbers are not plain: quantized, sparse, distributed and their like."""

    kind: str


@dataclass(eq=False)
class Storage:
    """A tensor's memory, in the file under `key`."""

    key: str
    dtype: torch.dtype
    size: int
    source: Mapping[str, Any]


@dataclass(eq=False)
class TensorData:
    """A tensor before its memory is looked up."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> torch.Tensor:
        """The tensor, sharing the file's bytes.

        Raises:
            UserError: its storage is absent or shorter than its size.
        """
        data = self.storage.source.get(self.storage.key)
        dtype, size = self.storage.dtype, self.storage.size
        if data is None or len(data) != size * dtype.itemsize:
            held = "nothing" if data is None else f"{len(data):,} bytes"
            raise UserError(
                f"storage {self.storage.key}: {size:,} values claimed, {held} there; the file is damaged, fetch it"
            )
        plain = all(type(n) is int and n >= 0 for n in (self.offset, *self.shape, *self.stride))
        count = math.prod(self.shape) if plain and len(self.shape) == len(self.stride) <= 8 else size + 1
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=False)) if count else 0
        # A stride of zero lets a file of a kilobyte claim terabytes.
        if count > size or last >= max(size, 1):
            raise UserError(
                f"storage {self.storage.key}: a tensor claims {count:,} values at {self.offset}, more than the file "
                "holds; it is damaged or hostile, fetch it again"
            )
        if not count:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=size).as_strided(self.shape, self.stride, self.offset)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Any:
    dtype = more[2] if len(more) > 2 else None  # _rebuild_tensor_v3 has the type of an untyped storage
    if isinstance(dtype, Global) and isinstance(found := getattr(torch, dtype.name[6:], None), torch.dtype):
        storage = Storage(storage.key, found, storage.size // found.itemsize, storage.source)
    if not isinstance(storage, Storage):
        return OpaqueTensor("without plain storage")
    return TensorData(storage, offset, tuple(shape), tuple(stride))


def _subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    name = kind.name.rsplit(".", 1)[-1] if isinstance(kind, Global) else ""
    if name == "DTensor":
        return OpaqueTensor("a DTensor, one part of a distributed tensor")
    return function(*args)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> StandIn:
    return StandIn("numpy.ndarray", state=(1, shape, dtype, order == "F", bytes(data)))


# Name -> what stands for its call; nothing else is ever called.
CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": lambda text, *_: text.encode("latin1") if isinstance(text, str) else b"",
    "collections.OrderedDict": lambda pairs=(), *_: {k: v for k, v in pairs if isinstance(k, str)},
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": lambda *_: {},
    "collections.deque": lambda *_: [],
    "builtins.set": lambda *_: [],
    "builtins.frozenset": lambda *_: [],
    "builtins.bytearray": lambda text=b"", *_: text.encode("latin1") if isinstance(text, str) else text,
    "torch.Size": lambda sizes=(), *_: tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_qtensor": lambda *_: OpaqueTensor("quantized"),
    "torch._utils._rebuild_sparse_tensor": lambda *_: OpaqueTensor("sparse"),
    "torch._utils._rebuild_nested_tensor": lambda *_: OpaqueTensor("nested"),
    "torch._utils._rebuild_wrapper_subclass": lambda *_: OpaqueTensor("a wrapper around other tensors"),
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: OpaqueTensor("on the meta device, without numbers"),
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}


# The standard library's interpreter in Python, whose operations can be replaced one by one.
_Unpickler: Any = pickle._Unpickler


class StandInUnpickler(_Unpickler):
    """One pickle after another from a file, with stand-ins, for persistent ids too; `names` collects what is named."""

    def __init__(self, file: IO[bytes], persistent: Callable[[Any], Any] = lambda _: None) -> None:
        super().__init__(file, encoding="latin1")  # of texts that Python 2 wrote
        self.file, self.persistent_load, self.names = file, persistent, set[str]()

    def load(self) -> Any:
        """The object of the next pickle.

        Raises:
            UserError: it has more opcodes than any checkpoint, or would run a command.
            ValueError, IndexError, KeyError, UnpicklingError and the like: it is damaged.
        """
        begin = self.file.tell()
        for count, _ in enumerate(pickletools.genops(self.file)):
            if count > MAX_OPCODES:
                raise UserError(
                    f"more than {MAX_OPCODES:,} pickle opcodes, which no checkpoint has; the file is hostile"
                )
        self.file.seek(begin)
        self.memo: dict[int, Any] = {}
        found = super().load()
        commands = sorted(name for name in self.names if _COMMANDS.fullmatch(name))
        if commands:
            raise UserError(
                f"the pickle wants to run {', '.join(commands[:4])[:200]}, as no checkpoint does; nothing was "
                "run, get the file from its author"
            )
        return found

    def find_class(self, module: str, name: str) -> Global:
        """The stand-in for `module.name`; protocols 0 to 2 write Python 2's names."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.names.add(f"{module}.{name}")
        return Global(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        """Push the stand-in for a registered number."""
        self.append(self.find_class("extension", str(code)))

    def _put(self, pairs: list[Any]) -> None:
        items = self.stack[-1].items if isinstance(self.stack[-1], StandIn) else self.stack[-1]
        if isinstance(items, dict):
            # Hashing a tuple of shared tuples takes exponential time; only names and numbers are keys of a checkpoint.
            items.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if _is_key(k))

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _build(self, state: Any) -> None:
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def _dict(self) -> None:
        pairs = self.pop_mark()
        self.append({})
        self._put(pairs)

    def _new(self) -> None:
        self.stack.pop()  # arguments by name
        self.load_reduce()

    # Whatever would hash, make or change an object.
    dispatch = _Unpickler.dispatch | {
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: lambda self: self._put([self.stack.pop(-2), self.stack.pop()]),
        pickle.SETITEMS[0]: lambda self: self._put(self.pop_mark()),
        pickle.EMPTY_SET[0]: lambda self: self.append([]),
        pickle.FROZENSET[0]: lambda self: self.append(self.pop_mark()),
        pickle.ADDITEMS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.APPENDS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.APPEND[0]: lambda self: self._extend([self.stack.pop()]),
        pickle.NEWOBJ[0]: _Unpickler.load_reduce,
        pickle.NEWOBJ_EX[0]: _new,
        pickle.BUILD[0]: lambda self: self._build(self.stack.pop()),
    }


def _is_key(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def parse_pickle(data: bytes) -> ObjectTree:
    """Read a plain pickle; see `StandInUnpickler`."""
    unpickler = StandInUnpickler(io.BytesIO(data))
    return ObjectTree(unpickler.load(), "pickle", names=unpickler.names)

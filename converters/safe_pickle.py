"""Reading pickles without importing or calling anything that they name.

A pickle is a program: it names classes and functions and calls them. This interpreter keeps plain values, builds
tensors and arrays by its own code, and lets an inert `Record` stand for every other object. Nothing that a file names
is looked up. A file that would run a command in any other reader is refused, though here nothing would happen.
"""

import io
import math
import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import torch

from runs.errors import UserError

# Real checkpoints need some ten thousand opcodes (265 tensors, as many optimiser states, a configuration).
# WHY: one opcode is one byte in the file and up to a hundred in memory, so a small file could fill the machine.
MAX_OPCODES = 1_000_000
# Functions that no checkpoint needs and that every attack does.
_COMMANDS = re.compile(
    r"(posix|nt|os|subprocess|sys|importlib|runpy|shutil|socket|pty|ctypes|webbrowser|multiprocessing|pickle)"
    r"\.(?!\w*(Path|path|stat_result|HIGHEST_PROTOCOL)).*|builtins\.(eval|exec|compile|open|__import__|breakpoint|input)"
    r"|torch\.(hub|serialization\.load|load|jit)\b.*|code\.Interactive.*|extension \d+"
)
# deepmind-research byol/byol_experiment.py@4822a455: the fields of a NamedTuple are not in the pickle.
NAMED_TUPLES = {
    "_ByolExperimentState": ("online_params", "target_params", "online_state", "target_state", "opt_state"),
}


@dataclass(frozen=True)
class Global:
    """A class or function by its name, `module.name`."""

    name: str


@dataclass(eq=False)
class Record:
    """Stands in for any object: the class or function that makes it, its arguments, state and items."""

    origin: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def content(self) -> dict[Any, Any]:
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


@dataclass(eq=False)
class Opaque:
    """A tensor whose numbers are not plain: quantized, sparse, distributed and their like."""

    kind: str
    shape: tuple[int, ...] = ()


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


@dataclass(eq=False)
class ArrayData:
    """Stands in for a NumPy array; `state` is (version, shape, dtype, Fortran order, bytes)."""

    state: Any = ()

    def array(self) -> "np.ndarray[Any, Any] | None":
        """The array, sharing the bytes that were read; None if it does not hold plain numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != 5 or not isinstance(self.state[2], DtypeData):
            return None
        _, shape, dtype, fortran, data = self.state
        if isinstance(data, str):
            data = data.encode("latin1")  # Python 2 wrote bytes as text
        kind = dtype.dtype()
        if kind is None or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
            return None
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            return None
        array = np.frombuffer(data, dtype=kind)
        if array.size != math.prod(shape):
            raise UserError(f"an array of shape {shape} has {array.size} values; the file is damaged, fetch it again")
        return array.reshape(shape, order="F" if fortran else "C")


@dataclass(eq=False)
class DtypeData:
    """Stands in for `numpy.dtype`: only the letter, the size and the byte order are kept."""

    code: str
    state: Any = ()

    def dtype(self) -> "np.dtype[Any] | None":
        """The NumPy type of plain numbers, None for any other."""
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "<"
        plain = order in ("<", ">", "|") and re.fullmatch(r"[fiub][1248]", self.code)
        return np.dtype(order + self.code) if plain else None


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Any:
    dtype = more[2] if len(more) > 2 else None  # _rebuild_tensor_v3 has the type of an untyped storage
    if isinstance(dtype, Global) and isinstance(found := getattr(torch, dtype.name[6:], None), torch.dtype):
        storage = Storage(storage.key, found, storage.size // found.itemsize, storage.source)
    if not isinstance(storage, Storage):
        return Opaque("without plain storage")
    return TensorData(storage, offset, tuple(shape), tuple(stride))


def _subclass(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    name = kind.name.rsplit(".", 1)[-1] if isinstance(kind, Global) else ""
    if name == "DTensor":
        return Opaque("a DTensor, one part of a distributed tensor")
    return call(function.name if isinstance(function, Global) else "", args)


def _opaque(kind: str, place: int = -1) -> Callable[..., Opaque]:
    def make(*args: Any) -> Opaque:
        shape = args[place] if 0 <= place < len(args) and isinstance(args[place], tuple) else ()
        return Opaque(kind, tuple(n for n in shape if isinstance(n, int)))

    return make


# Name -> what stands for its call.
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
    "torch._utils._rebuild_qtensor": _opaque("quantized", 2),
    "torch._utils._rebuild_sparse_tensor": _opaque("sparse"),
    "torch._utils._rebuild_nested_tensor": _opaque("nested"),
    "torch._utils._rebuild_wrapper_subclass": _opaque("a wrapper around other tensors", 2),
    "torch._utils._rebuild_meta_tensor_no_storage": _opaque("on the meta device, without numbers", 1),
    "numpy.dtype": lambda code="", *_: DtypeData(str(code)),
    "numpy.ndarray": lambda *_: ArrayData(),
}
for _module in ("numpy.core", "numpy._core"):
    CALLS[f"{_module}.multiarray._reconstruct"] = lambda *_: ArrayData()
    CALLS[f"{_module}.numeric._frombuffer"] = lambda data, dtype, shape, order, *_: ArrayData(
        (1, shape, dtype, order == "F", bytes(data))
    )


def call(name: str, args: Any) -> Any:
    """What the call of `name` stands for; only functions of this module are ever called."""
    args = args if isinstance(args, tuple) else ()
    try:
        return CALLS[name](*args) if name in CALLS else Record(name, args)
    except (AttributeError, TypeError, ValueError, IndexError):
        return Record(name, args)


def _build(target: Any, state: Any) -> None:
    if isinstance(target, (Record, ArrayData, DtypeData)):
        target.state = state


def _put(target: Any, pairs: list[Any]) -> None:
    items = target.items if isinstance(target, Record) else target
    if isinstance(items, dict):
        # WHY: hashing a tuple of shared tuples takes exponential time; only names and numbers are keys of a checkpoint.
        items.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if _is_key(k))


def _is_key(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def modern(module: str, name: str) -> str:
    """`module.name`, with Python 2's names, which protocols 0 to 2 write, replaced as `pickle` itself does."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


class Interpreter:
    """One pickle after another from a file; `globals` collects the names of classes and functions.

    Args:
        file: positioned at a pickle.
        persistent: what a persistent id stands for.
    """

    def __init__(self, file: IO[bytes], persistent: Callable[[Any], Any] = lambda _: None) -> None:
        self.file, self.persistent, self.globals = file, persistent, set[str]()

    def load(self) -> Any:
        """The object of the next pickle.

        Raises:
            UserError: it has more opcodes than any checkpoint, or would run a command.
            ValueError, IndexError, KeyError, UnpicklingError: it is damaged.
        """
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def mark() -> list[Any]:
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
            return items

        def take(count: int) -> list[Any]:
            if len(stack) - (marks[-1] if marks else 0) < count:
                raise pickle.UnpicklingError("its stack is empty")
            items = stack[-count:]
            del stack[-count:]
            return items

        def named(name: str) -> Global:
            self.globals.add(name)
            return Global(name)

        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if count > MAX_OPCODES:
                raise UserError(
                    f"more than {MAX_OPCODES:,} pickle opcodes, which no checkpoint has; the file is hostile"
                )
            match opcode.name:
                case "STOP":
                    self._check_commands()
                    return take(1)[0]
                case "PROTO" | "FRAME":
                    pass
                case "MARK":
                    marks.append(len(stack))
                case "POP":
                    if marks and marks[-1] == len(stack):
                        marks.pop()
                    else:
                        take(1)
                case "POP_MARK":
                    mark()
                case "DUP":
                    stack.append(stack[-1])
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[int(str(argument))] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[int(str(argument))])
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "DICT":
                    items = mark()
                    stack.append({})
                    _put(stack[-1], items)
                case "LIST" | "FROZENSET":
                    stack.append(mark())
                case "TUPLE":
                    stack.append(tuple(mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(take(int(opcode.name[-1]))))
                case "SETITEM":
                    pair = take(2)
                    _put(stack[-1], pair)
                case "SETITEMS":
                    items = mark()
                    _put(stack[-1], items)
                case "APPEND" | "APPENDS" | "ADDITEMS":
                    items = take(1) if opcode.name == "APPEND" else mark()
                    if isinstance(stack[-1], list):
                        stack[-1].extend(items)
                case "GLOBAL":
                    stack.append(named(modern(*str(argument).split(" ", 1))))
                case "STACK_GLOBAL":
                    module, name = take(2)
                    stack.append(named(modern(str(module), str(name))))
                case "EXT1" | "EXT2" | "EXT4":
                    stack.append(named(f"extension {argument}"))
                case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                    function, args, *_ = take(3 if opcode.name == "NEWOBJ_EX" else 2)
                    stack.append(call(function.name if isinstance(function, Global) else "", args))
                case "OBJ":
                    function, *args = mark()
                    stack.append(call(function.name if isinstance(function, Global) else "", tuple(args)))
                case "INST":
                    args = mark()
                    stack.append(call(named(modern(*str(argument).split(" ", 1))).name, tuple(args)))
                case "BUILD":
                    (state,) = take(1)
                    _build(stack[-1], state)
                case "PERSID":
                    stack.append(self.persistent(argument))
                case "BINPERSID":
                    stack.append(self.persistent(take(1)[0]))
                case "NEXT_BUFFER" | "READONLY_BUFFER":
                    raise pickle.UnpicklingError("its arrays lie in another file")
                case _:
                    stack.append(argument)  # numbers, texts and bytes
        raise pickle.UnpicklingError("it has no end")

    def _check_commands(self) -> None:
        commands = sorted(name for name in self.globals if _COMMANDS.fullmatch(name))
        if commands:
            raise UserError(
                f"the pickle wants to run {', '.join(commands[:4])[:200]}, as no checkpoint does; nothing was "
                "run, get the file from its author"
            )


def load(data: bytes) -> tuple[Any, set[str]]:
    """(the object tree of a plain pickle, the names in it); see `Interpreter`."""
    interpreter = Interpreter(io.BytesIO(data))
    return interpreter.load(), interpreter.globals

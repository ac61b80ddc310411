"""Reading a data set past every fault, so that all of them can be named at once."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from runs.errors import UserError, from_os_error

E = TypeVar("E")
R = TypeVar("R")


def read_past_faults(
    entries: Iterable[E], place: Callable[[E], object], reader: Callable[[E], R], faults: list[str]
) -> list[R]:
    """Read each entry, past those that cannot be, of which `faults` takes a line each.

    The reader raises `ValueError` for a fault that the entry's place is to be named with, `UserError` or `OSError` for
    one that names its file itself.
    """
    found = []
    for entry in entries:
        try:
            found.append(reader(entry))
        except UserError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(str(from_os_error(error)))
        except ValueError as error:
            faults.append(f"{place(entry)}: {error}")
    return found

"""What is wrong with a data set: all faults, each with its place and the remedy."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from runs.errors import UserError, from_os_error

E = TypeVar("E")
R = TypeVar("R")


class Faults(list[str]):
    """The faults of a split, a line each; what has one is left out."""

    def read(self, entries: Iterable[E], place: Callable[[E], object], reader: Callable[[E], R]) -> list[R]:
        """Read each entry, past those that cannot be.

        Args:
            entries: such as the ids of images.
            place: of an entry, for the line.
            reader: reads one; it raises `ValueError` for a fault that its place is to be named with, `UserError` or
                `OSError` for one that names its file itself.

        Returns:
            What was read of the entries without fault.
        """
        found = []
        for entry in entries:
            try:
                found.append(reader(entry))
            except UserError as error:
                self.append(str(error))
            except OSError as error:
                self.append(str(from_os_error(error)))
            except ValueError as error:
                self.append(f"{place(entry)}: {error}")
        return found

    def check_objects(self, images: Collection[dict[str, Any]], place: object) -> None:
        """Note what is wrong with all objects together, unless there is a fault that may be the reason."""
        if self:
            return
        if not count_evaluated_objects(images):
            self.append(f"{place}: no object counts (all are difficult, crowds, or absent); annotate some")
        elif all(max(annotation["bbox"]) <= 1 for image in images for annotation in image["annotations"]):
            self.append(f"{place}: all boxes lie within the first pixel, as fractions of the image would; write pixels")

    def refuse(self, more: str = "") -> None:
        """Raise the first fault, if there is one; the message says how many more there are and `more` of them."""
        if self:
            raise UserError(self[0] + (f" ({len(self) - 1} more{more})" if self[1:] else ""))


def count_evaluated_objects(images: Iterable[dict[str, Any]]) -> int:
    """Number of objects that an evaluation counts: neither difficult nor crowds."""
    objects = (annotation for image in images for annotation in image["annotations"])
    return sum(not (a.get("difficult") or a.get("iscrowd")) for a in objects)

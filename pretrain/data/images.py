"""What a data set is here: a list of images that can be opened by number, with labels, names and a fingerprint."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pretrain.data.decoding import DAMAGE, LazyImage, broken_image
from runs.errors import BrokenImage, UserError, from_os_error


def names_of_numbered_classes(labels: Sequence[int], place: str | Path) -> list[str]:
    """The numbers as names, for classes that have no others.

    Raises:
        UserError: they are not 0, 1, … without gaps.
    """
    found = set(labels)
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise UserError(f"{place}: class {missing} has no images; number the classes from 0 without gaps")
    return [str(number) for number in range(len(found))]


SAMPLE = 64
"""Images whose content is part of what binds a run to its data."""


@dataclass
class Images:
    """One split of a data set."""

    name: str
    """The data set's."""
    split: str
    """`train` or `val`."""
    names: Sequence[str]
    """One an image, as errors print it."""
    labels: Sequence[int]
    """Class numbers, 0 to `len(classes) - 1`."""
    classes: Sequence[str]
    """Their names; none of images that only serve for pre-training, whose labels are 0."""
    read: Callable[[int], bytes | Image.Image]
    """Returns an image file's bytes, or an image, by number."""
    left_out: str = ""
    """Files beside them that are no images, counted in words."""

    def __len__(self) -> int:
        return len(self.names)

    def decode_rgb(self, index: int) -> Image.Image:
        """Decode an image as RGB.

        Raises:
            BrokenImage: it cannot be decoded.
            UserError: the file cannot be read at all.
        """
        source = self.open_lazily(index)
        return source.image if source.content is None else source.to_pil_rgb()

    def open_lazily(self, index: int) -> LazyImage:
        """Open an image without decoding it.

        Raises:
            BrokenImage: its header is damaged; damage further on shows when it is decoded.
            UserError: the file cannot be read at all.
        """
        content = self._content(index)
        if isinstance(content, Image.Image):
            return LazyImage(self.names[index], content)
        try:
            return LazyImage(self.names[index], Image.open(io.BytesIO(content)), content)
        except DAMAGE as error:
            raise broken_image(self.names[index], error, content) from error

    def _content(self, index: int) -> bytes | Image.Image:
        """Read an image's bytes, or an image.

        Raises:
            UserError: the operating system refuses; no option passes over that, as the next file may fare no better.
        """
        try:
            return self.read(index)
        except OSError as error:
            error.filename = error.filename or self.names[index]
            raise from_os_error(error) from error

    def decode_into_memory(self, skip_broken: bool) -> list[str]:
        """Decode everything now and keep it; returns the names of broken images, which stay broken.

        Raises:
            BrokenImage: one cannot be decoded and `skip_broken` is off.
        """
        images: list[Image.Image | None] = []
        broken = []
        for i in range(len(self)):
            try:
                images.append(self.decode_rgb(i))
            except BrokenImage as error:
                if not skip_broken:
                    raise
                images.append(None)
                broken.append(error.name)

        def read(index: int) -> Image.Image:
            if (image := images[index]) is None:
                raise broken_image(self.names[index])
            return image

        self.read = read
        return broken

    @property
    def metadata_fingerprint(self) -> str:
        """16 hexadecimal digits that change when any image's name or label does, or a class name."""
        # A file name that is no UTF-8 holds surrogates, which `encode` refuses by itself.
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="backslashreplace"))
        for name, label in zip(self.names, self.labels, strict=True):
            # The root is left out: a copy elsewhere is the same data.
            digest.update(f"{Path(name).name}\t{label}\n".encode(errors="backslashreplace"))
        return digest.hexdigest()[:16]

    @property
    def sampled_fingerprint(self) -> str:
        """The `metadata_fingerprint`, and 16 digits that change with one of `SAMPLE` images, which are spread evenly.

        Numbered file names are alike in many data sets.

        Raises:
            UserError: the operating system refuses to read one.
        """
        digest = hashlib.sha256()
        for index in sorted({i * len(self) // SAMPLE for i in range(SAMPLE)}):
            content = self._content(index)
            digest.update(hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest())
        return f"{self.metadata_fingerprint}-{digest.hexdigest()[:16]}"

    def format_summary(self) -> str:
        """One line: split, images, classes, and what was left out."""
        classes = "without classes"
        if self.classes:
            counter = Counter(self.labels)
            counts = [counter[number] for number in range(len(self.classes))]
            counted = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
            classes = f"{len(self.classes)} classes, {counted} a class"
        left_out = f"; left out: {self.left_out}" if self.left_out else ""
        return f"{self.name} {self.split}: {len(self)} images, {classes}{left_out}"


def fingerprints(*splits: Images | None) -> dict[str, str]:
    """By split, what binds a run to its images: their `sampled_fingerprint`."""
    return {images.split: images.sampled_fingerprint for images in splits if images}

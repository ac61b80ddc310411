"""Image files, opened safely; and what their first bytes say, before any work is done on them."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from runs.errors import UserError

# Pillow reads others too, some by way of another program (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
# How often the shorter side may go into the longer: scaled to 1333 pixels, the shorter one keeps one of them.
NARROWEST = 1000
ORIENTATION = 0x0112  # EXIF; from 5 on the image is shown with its sides exchanged


@contextlib.contextmanager
def _open_image(file: Path) -> Iterator[Image.Image]:
    """Open an image file, which is decoded when its pixels are used.

    Raises:
        UserError: it is no image, too large, or damaged, also where the block decodes it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except Image.DecompressionBombError as error:
        raise UserError(f"{file}: more pixels than Pillow decodes ({error}); scale it down") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: not a readable image ({error}); restore it") from error


def decoding_fault(file: Path) -> str | None:
    """Decode every pixel; returns what is wrong, None if nothing is."""
    try:
        with _open_image(file) as image:
            image.convert("RGB")
    except UserError as error:
        return str(error)
    return None


def checked_image_size(file: Path, annotated_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Check that a file is an image that training can use, of the annotated size; nothing is decoded.

    Detectron2 turns a photograph as its EXIF tag says, so an annotation is one of the photograph as shown. Sizes are
    (width, height) in pixels; returned is that as shown. Without an annotated one, any is accepted.

    Raises:
        UserError: it is no image, too large, too narrow, of more than 8 bits a channel, or of another size.
    """
    with _open_image(file) as opened:
        mode, stored, orientation = opened.mode, opened.size, _orientation(opened)
    if mode.startswith("I") or mode == "F":
        raise UserError(
            f"{file}: has more than 8 bits a channel, which would be clipped to white; convert it to 8 bits"
        )
    if max(stored) > NARROWEST * min(stored):
        raise UserError(f"{file}: is {stored[0]} x {stored[1]}, of which scaling leaves nothing; crop or remove it")
    shown = stored[::-1] if orientation >= 5 else stored
    if annotated_size not in (None, shown):
        if annotated_size == stored:
            raise UserError(
                f"{file}: is shown as {shown[0]} x {shown[1]} by its EXIF orientation, but annotated as stored; "
                "annotate it as shown, or turn its pixels and remove the tag"
            )
        raise UserError(
            f"{file}: is {shown[0]} x {shown[1]}, its annotation says {annotated_size[0]} x {annotated_size[1]}; "
            "correct one"
        )
    return shown


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as in Detectron2, a damaged tag is none
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1

"""An image whose size is known before its pixels are decoded, so that a crop may be drawn first."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# What Pillow raises for a file that is no image, or a damaged one.
DAMAGE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# Scales at which libjpeg decodes for less work, largest first.
REDUCTIONS = (8, 4, 2)


class Source:
    """One image.

    Args:
        image: opened by Pillow; of a file, only the header is read.
        content: the file's bytes; None for an image that is in memory already.
        broken: the error to raise when the pixels cannot be decoded.
    """

    def __init__(self, image: Image.Image, content: bytes | None, broken: Callable[[], Exception]) -> None:
        self.image, self.content, self.broken = image, content, broken

    def pixels(self) -> NDArray[numpy.uint8]:
        """Decode to (H, W, 3), RGB: the same bits as Pillow's `convert("RGB")`.

        Raises:
            BrokenImage: it cannot be decoded.
        """
        if self._by_opencv():
            # Both libraries carry libjpeg-turbo with the same settings; OpenCV spares a copy. It does not know of
            # colour spaces other than these, and turns images round by their EXIF entry unless told not to.
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            decoded = cv2.imdecode(numpy.frombuffer(self.content or b"", numpy.uint8), flags)
            if decoded is not None:
                return decoded  # type: ignore[return-value]
        return numpy.array(self._guarded(lambda: self.image.convert("RGB")))

    def reduction(self, limit: float) -> int:
        """Return the largest scale, up to `limit`, at which the file decodes directly: 8, 4, 2 or 1."""
        if self.content is None or self.image.format != "JPEG" or self.image.mode != "RGB":
            return 1
        return next((scale for scale in REDUCTIONS if scale <= limit), 1)

    def reduced(self, scale: int) -> Image.Image:
        """Decode at 1/`scale` of the size, rounded up.

        Raises:
            BrokenImage: it cannot be decoded.
        """
        width, height = self.image.size

        def decode() -> Image.Image:
            self.image.draft("RGB", (width // scale, height // scale))
            return self.image.convert("RGB")

        return self._guarded(decode)

    def _by_opencv(self) -> bool:
        # OpenCV shows a file that ends too early with a gray rest; Pillow refuses it, and so must this. A file that
        # ends with its end-of-image marker does not end too early.
        return (
            self.content is not None
            and self.image.format == "JPEG"
            and self.image.mode in ("RGB", "L")
            and self.content.endswith(b"\xff\xd9")
        )

    def _guarded(self, decode: Callable[[], Any]) -> Any:
        try:
            return decode()
        except DAMAGE as error:
            raise self.broken() from error

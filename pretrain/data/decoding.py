"""An image whose size is known before its pixels are decoded, so that a crop may be drawn first."""

from dataclasses import dataclass

import cv2
import numpy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from runs.errors import BrokenImage

# What Pillow raises for a file that is no image, or a damaged one.
DAMAGE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# Tags of TIFF.
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339
REMEDY = "store it with 8 bits"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def broken_image(name: str, reason: str | Exception | None = None, content: bytes = b"") -> BrokenImage:
    """Make the error for an image: what is wrong with it, or what Pillow raised, and the option that leaves it out.

    Its bytes, where they are known, may say more.
    """
    if isinstance(reason, Image.DecompressionBombError):
        reason = "has more pixels than Pillow reads (Image.MAX_IMAGE_PIXELS); scale it down"
    elif content.startswith(LFS_POINTER):
        reason = "stands for a file of Git LFS that was not fetched; run git lfs pull"
    elif not isinstance(reason, str):
        reason = "not a readable image; delete it"
    return BrokenImage(name, f"{reason}, or add data.skip_broken=true to go on without such files")


@dataclass
class LazyImage:
    """One image, opened by Pillow, which of a file reads the header only."""

    name: str
    image: Image.Image
    content: bytes | None = None
    """The file's bytes; None for an image that is in memory already."""

    def to_pil_rgb(self, reduction: int = 1) -> Image.Image:
        """Decode by Pillow, at 1/`reduction` of the size, rounded up.

        Raises:
            BrokenImage: it cannot be decoded, or nothing says which of its values is white.
        """
        if reduction > 1:
            width, height = self.image.size
            self.image.draft("RGB", (width // reduction, height // reduction))
        try:
            return _to_rgb(self.image, self.name)
        except DAMAGE as error:
            raise broken_image(self.name, error) from error

    def to_rgb_array(self) -> NDArray[numpy.uint8]:
        """Decode to (H, W, 3), RGB: the same bits as `to_pil_rgb`, which says what is raised."""
        # OpenCV shows a file that ends too early with a gray rest; Pillow refuses it, and so must this. A file that
        # ends with its end-of-image marker does not end too early.
        whole = self.content is not None and self.content.endswith(b"\xff\xd9")
        if whole and self.image.format == "JPEG" and self.image.mode in ("RGB", "L"):
            # Both libraries carry libjpeg-turbo with the same settings; OpenCV spares a copy. It does not know of
            # colour spaces other than these, and turns images round by their EXIF entry unless told not to.
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            decoded = cv2.imdecode(numpy.frombuffer(self.content or b"", numpy.uint8), flags)
            if decoded is not None:
                return decoded  # type: ignore[return-value]
        return numpy.array(self.to_pil_rgb())

    def largest_reduction(self, limit: float) -> int:
        """Return the largest scale, up to `limit`, at which the file decodes directly: 8, 4, 2 or 1."""
        if self.content is None or self.image.format != "JPEG" or self.image.mode != "RGB":
            return 1
        return next((scale for scale in (8, 4, 2) if scale <= limit), 1)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert to RGB with 8 bits.

    Pillow clips integers of more bits at 255, and floats too. Here an integer's largest value is white, as Pillow has
    it for colours of 16 bits, and a float is in 0 to 1.

    Raises:
        BrokenImage: a float outside, a negative integer, or integers so small that all of the image becomes black.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image.convert("RGB")
    values = numpy.asarray(image)
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):
            raise broken_image(name, f"its floats are {values.min():g} to {values.max():g}, not 0 to 1; {REMEDY}")
        return Image.fromarray((values * 255).round().astype(numpy.uint8)).convert("RGB")
    tags = getattr(image, "tag_v2", {})  # of a TIFF; other formats have 16 bits
    bits, signed = tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if bits == 32 and not signed:
        values = values.view(numpy.uint32)
    low, high, shift = int(values.min()), int(values.max()), bits - signed - 8
    if low < 0 or 0 < high < 1 << shift:
        raise broken_image(name, f"its values are {low} to {high} in {bits} bits, which would show nothing; {REMEDY}")
    return Image.fromarray((values >> shift).astype(numpy.uint8)).convert("RGB")

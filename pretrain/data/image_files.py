"""Which files of a folder, a zip or a tar are images. What is left out is counted, and nothing is unpacked.

A zip or tar among the files stands for a folder of its name, so that `train.zip` is `train/` and the class archives in
`ILSVRC2012_img_train.tar` are class folders.
"""

import os
import stat
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from runs.errors import UserError, from_os_error

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
)
ARCHIVES = (".zip", ".tar")
# What the first bytes of a file without a suffix must be.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
# Folders that operating systems, storage boxes and editors make; also every name that begins with a dot.
SYSTEM = {
    "__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
    "lost+found",
}  # fmt: skip


class FileOrMember(NamedTuple):
    """A file, or a member of an archive.

    Attributes:
        path: where it lies in what was listed, `class/name.jpg`.
        file: the file, or the archive that holds it.
        member: in a tar, first byte and size; in a zip, its entry.
    """

    path: str
    file: str
    member: tuple[int, int] | zipfile.ZipInfo | None = None

    @property
    def name(self) -> str:
        """The name that errors print."""
        return self.file if self.member is None else f"{self.file}:{self.path}"

    @property
    def stem(self) -> str:
        """Its file name without folder and suffix."""
        return os.path.splitext(self.path.rpartition("/")[2])[0]

    def read(self, size: int = -1) -> bytes:
        """Read the first `size` bytes, or all.

        Raises:
            OSError: the operating system refuses, or the archive is damaged there.
        """
        with open(self.file, "rb") as file:
            if self.member is None:
                return file.read(size)
            if isinstance(self.member, tuple):
                file.seek(self.member[0])
                return file.read(self.member[1] if size < 0 else min(size, self.member[1]))
            # Not by an open ZipFile: loading processes would share its position in the file.
            file.seek(self.member.header_offset)
            header = file.read(30)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(self.member.header_offset + 30 + lengths)
            try:
                return zipfile.ZipExtFile(file, "r", self.member).read(size)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
                raise OSError(f"{self.name}: {error}") from error


@dataclass
class ImageListing:
    """Images in the order of torchvision's ImageFolder: by folder, then by name.

    Attributes:
        files: the images.
        folders: names of the folders right below, empty ones too.
        left_out: how many of what.
    """

    files: list[FileOrMember] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def add_if_image(self, file: FileOrMember) -> None:
        """Take a file in if it is an image."""
        # macOS writes é as two characters, and one class would be two.
        file = file._replace(path=unicodedata.normalize("NFC", file.path))
        name = file.path.rpartition("/")[2]
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES or (not suffix and file.read(8).startswith(BEGINNINGS)):
            self.files.append(file)
        else:
            self.left_out[suffix or "without suffix"] += 1

    def keep_only(self, predicate: Callable[[FileOrMember], bool], left_out_as: str) -> None:
        """Leave out the other images, counted under the given words."""
        kept = [file for file in self.files if predicate(file)]
        if len(kept) < len(self.files):
            self.left_out[left_out_as] += len(self.files) - len(kept)
        self.files = kept

    def inside(self, folder: str) -> "ImageListing":
        """What lies in one folder."""
        start = f"{folder}/"
        files = [f._replace(path=f.path.removeprefix(start)) for f in self.files if f.path.startswith(start)]
        return ImageListing(files, {f.path.partition("/")[0] for f in files if "/" in f.path}, self.left_out)

    def format_left_out_counts(self) -> str:
        """Half a sentence, empty where nothing is left out."""
        return ", ".join(
            f"{count} {what}" for what, count in sorted(self.left_out.items(), key=lambda c: (-c[1], c[0]))
        )


def list_images(folder_or_archive: Path, skip_links_into: Iterable[Path] = ()) -> ImageListing:
    """List a folder, zip or tar.

    Args:
        folder_or_archive: of the images.
        skip_links_into: folders, of all splits, beside this one. A link to something in one of them, or to what holds
            one, would bring in an image for the second time.

    Raises:
        UserError: it cannot be read.
    """
    listing = ImageListing()
    try:
        if folder_or_archive.is_dir():
            apart = [os.path.realpath(folder) for folder in (folder_or_archive, *skip_links_into)]
            _list_folder(listing, str(folder_or_archive), "", apart)
        else:
            _list_archive(listing, str(folder_or_archive), "")
    except OSError as error:
        error.filename = error.filename or str(folder_or_archive)
        raise from_os_error(error) from error
    listing.files.sort(key=lambda file: file.path.rpartition("/")[::2])
    return listing


def is_system(name: str) -> bool:
    """Whether a file or folder is none of the user's."""
    return name.startswith(".") or name in SYSTEM


def _list_folder(listing: ImageListing, folder: str, inside: str, skip_links_into: list[str]) -> None:
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        path = inside + entry.name
        if is_system(entry.name):
            listing.left_out["hidden or of the system"] += 1
            continue
        try:
            # Costs nothing for what is no link.
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link that leads to itself
            is_folder = is_file = False
        if entry.is_symlink() and not is_folder and not is_file:
            listing.left_out["dead links"] += 1
        elif entry.is_symlink() and _leads_back(os.path.realpath(entry.path), skip_links_into):
            listing.left_out["links back into the data"] += 1
        elif is_folder:
            if inside and entry.is_symlink():
                listing.left_out["linked folders inside a class"] += 1
                continue
            if not inside:
                listing.folders.add(unicodedata.normalize("NFC", entry.name))
            _list_folder(listing, entry.path, f"{path}/", skip_links_into)
        elif not is_file:
            listing.left_out["pipes, sockets or devices"] += 1
        elif entry.name.lower().endswith(ARCHIVES):
            _list_archive(listing, entry.path, f"{path[:-4]}/")
        else:
            listing.add_if_image(FileOrMember(path, entry.path))


def _leads_back(target: str, skip_links_into: list[str]) -> bool:
    return any(
        f"{target}/".startswith(f"{other}/") or f"{other}/".startswith(f"{target}/") for other in skip_links_into
    )


def _list_archive(listing: ImageListing, archive: str, inside: str) -> None:
    kind = _zip_members if archive.lower().endswith(".zip") else walk_tar_members
    try:
        # Of two members of one name unpacking leaves the last.
        members = dict(kind(archive))
    except (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{archive}: not a readable zip or uncompressed tar ({error}); unpack it yourself") from error
    found: list[FileOrMember] = []
    for name, member in members.items():
        if name.endswith(".cls"):
            raise UserError(f"{archive}: a WebDataset shard; read it with data=webdataset")
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if any(is_system(part) for part in parts):
            listing.left_out["hidden or of the system"] += 1
        elif member is None and not name.endswith("/"):
            listing.left_out["links, pipes or devices"] += 1
        elif parts:
            found.append(FileOrMember("/".join(parts) + ("/" if member is None else ""), archive, member))
    # What was packed as a folder has that folder in it once more.
    stem = f"{PurePosixPath(archive).stem}/"
    packed = all(file.path.startswith(stem) for file in found)
    for file in found:
        path = inside + (file.path.removeprefix(stem) if packed else file.path)
        if "/" in path:
            listing.folders.add(unicodedata.normalize("NFC", path.partition("/")[0]))
        if file.member is not None:
            listing.add_if_image(file._replace(path=path))


def _zip_members(archive: str) -> Iterator[tuple[str, zipfile.ZipInfo | None]]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if entry.flag_bits & 1:
                raise UserError(f"{archive}: is encrypted; unpack it yourself")
            link = stat.S_ISLNK(entry.external_attr >> 16)
            yield entry.filename, None if link or entry.is_dir() else entry


def walk_tar_members(archive: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Members and those of tars in it; a folder ends with a slash, what is no file has no place."""
    with open(archive, "rb") as file:
        yield from _members_at(file, 0, os.path.getsize(archive))


def _members_at(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, tuple[int, int] | None]]:
    file.seek(start)
    tar = tarfile.TarFile(fileobj=file)
    # A tar inside another need not end with empty blocks of its own.
    while (member := tar.next()) is not None and member.offset < end:
        tar.members = []  # type: ignore[attr-defined]  # it would keep all of ImageNet's
        if member.offset_data + member.size > end:
            raise tarfile.ReadError("it ends too early")
        place = (member.offset_data, member.size)
        if not member.isfile():
            yield f"{member.name}/" if member.isdir() else member.name, None
        elif member.name.lower().endswith(".tar"):
            for name, inner in _members_at(file, place[0], sum(place)):
                yield f"{member.name[:-4]}/{name}", inner
        else:
            yield member.name, place

"""Checkpoints by address: `https://…`, `hf://OWNER/REPOSITORY/FILE[@REVISION]`, `zoo:NAME`; anything else is a path.

A file is downloaded once and read from a cache ever after: hf:// from that of huggingface_hub, the others from a
folder named after the address. A download that broke off begins again, so no file is put together from two answers.
"""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from filelock import FileLock

from converters.untrusted_files import INDEX, read_weight_map
from runs.errors import UserError
from runs.files import atomic_write, read_json, read_yaml, sha256, write_json
from runs.printable import without_credentials

ZOO = Path(__file__).with_name("zoo.yaml")
# Bytes between two looks at the limits.
CHUNK = 1 << 16
# Far above any ResNet checkpoint with optimiser (ResNet-50x4: 6 GB); a server must not fill the disk.
MAX_BYTES = 16 << 30
# Seconds without a byte after which a download counts as broken.
TIMEOUT = 30
# Bytes a second on average; a slower server would keep a command busy for days.
MIN_RATE = 1024
# They name a file of trusted certificates: requests reads the first two, most other programs the last.
VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
# Plain http only to this machine, where a test or a mirror serves.
ALLOWED = re.compile(r"https://[^/]+/|http://([^/@]*@)?(127\.0\.0\.1|localhost)(:\d+)?/")


def fetch(source: str | Path) -> Path:
    """The file for a path or an address of one of the kinds above, downloaded if it is not in the cache.

    Raises:
        UserError: the address is unknown or not https, the server refuses, the download breaks, or its sha256 is not
            the zoo's or that of the first download.
    """
    text = str(source)
    expected: str | None = None
    if text.startswith("hf://"):
        return _from_hub(text)
    if text.startswith("zoo:"):
        entries, name = zoo(), text.removeprefix("zoo:")
        if name not in entries:
            raise UserError(f"{text}: no such checkpoint; known: {', '.join(entries)}")
        text, expected = entries[name]["url"], entries[name].get("sha256")
    if "://" not in text:
        return Path(source)
    if not ALLOWED.match(text):
        raise UserError(
            f"{text}: not an https address; give a path, or an address that begins with https://, hf:// or zoo:"
        )
    if urlsplit(text).path.endswith(INDEX):
        raise UserError(f"{text}: an index of several files; give it as hf://, or download its folder")
    return _cached(text, expected)


def default_cache() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME/siamese-transfer/checkpoints`, by default in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "siamese-transfer" / "checkpoints"


def zoo() -> dict[str, dict[str, Any]]:
    """The entries of zoo.yaml: name -> url, format, epochs, top1, voc0712, source, perhaps sha256."""
    return read_yaml(ZOO)


def _from_hub(address: str) -> Path:
    """A file of Hugging Face's hub by its own client, with its login, cache, offline switch and HF_ENDPOINT."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)/([^@]+)(?:@([\w./-]+))?", address)
    if match is None:
        raise UserError(f"{address}: not hf://OWNER/REPOSITORY/FILE[@REVISION]; name the file in the repository")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise UserError(f"{address}: needs huggingface_hub; pip install 'siamese-transfer[hub]'") from error
    try:
        file = Path(hf_hub_download(match[1], match[2], revision=match[3]))
        folder = match[2].rpartition("/")[0]
        if match[2].endswith(INDEX):
            for part in set(read_weight_map(file.read_bytes()).values()):
                hf_hub_download(match[1], f"{folder}/{part}".lstrip("/"), revision=match[3])
        # What they say of the network is read, see `converters.stated_settings`.
        for beside in ("config.json", "preprocessor_config.json"):
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(match[1], f"{folder}/{beside}".lstrip("/"), revision=match[3])
        return file
    except (OSError, ValueError) as error:
        reason = " ".join(line for line in str(error).splitlines() if line)[:300]
        raise UserError(
            f"{address}: {reason or type(error).__name__}; check the address, log in with `hf auth login` where the "
            "repository is private, and unset HF_HUB_OFFLINE to download"
        ) from error


def _cached(url: str, expected: str | None) -> Path:
    folder = default_cache() / hashlib.sha256(url.encode()).hexdigest()[:16]
    file = folder / (re.sub(r"[^\w.-]", "_", urlsplit(url).path.rsplit("/", 1)[-1])[-100:] or "checkpoint")
    record = folder / "download.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a writable folder"
        ) from error
    with FileLock(folder / ".lock"):  # two commands, one download
        if not (file.exists() and record.exists()):
            for left in folder.glob(".*.partial"):  # by a command that was killed
                left.unlink()
            with atomic_write(file) as part:
                _download(url, part)
                part.flush()
                digest = _checked_sha256(url, Path(part.name), expected)
            write_json(record, {"url": without_credentials(url), "sha256": digest, "bytes": file.stat().st_size})
        known = read_json(record)["sha256"]
    if sha256(file) != known or (expected and known != expected):
        raise UserError(
            f"{file}: changed since it was downloaded; remove the folder {folder} and run the command again"
        )
    return file


def _checked_sha256(url: str, part: Path, expected: str | None) -> str:
    """The sha256 of what came; UserError where it is text, or has another than published."""
    with open(part, "rb") as begin:
        first = "".join(begin.read(64).decode("utf-8-sig", errors="ignore").split())
    # Text, where it is no pickle of protocol 0.
    if first.isprintable() and not first.startswith(("(", "c", "}", "]")):
        raise UserError(
            f"{url}: the server sent a web page, a message or nothing; give the address that its download link has"
        )
    digest = sha256(part)
    if expected and digest != expected:
        raise UserError(f"{url}: sha256 {digest}, published is {expected}; the download was removed, try again")
    return digest


def _download(url: str, file: IO[bytes]) -> None:
    """Write what `url` answers into `file`, within the limits above."""
    import requests

    from runs.progress import Progress

    answered, address, variable = False, without_credentials(url), _certificates_variable()
    try:
        with requests.get(
            url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT,
            verify=os.environ[variable] if variable else True, hooks={"response": _stays_on_https},
        ) as answer:  # fmt: skip
            answered = True
            if answer.status_code != 200:
                raise UserError(
                    f"{address}: the server answers {answer.status_code} {answer.reason}; check the address"
                )
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise UserError(
                    f"{address}: the server compresses the file although that was not asked for; fetch it another way"
                )
            total, start = int(answer.headers.get("Content-Length", 0)), time.monotonic()
            with Progress(total, "download", "B") as bar:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if max(total, file.tell()) > MAX_BYTES:
                        raise UserError(f"{address}: more than {MAX_BYTES / 1e9:.0f} GB; check the address")
                    seconds = time.monotonic() - start
                    if seconds > 2 * TIMEOUT and file.tell() < MIN_RATE * seconds:
                        raise UserError(f"{address}: less than {MIN_RATE} bytes a second; try again at another time")
    except requests.exceptions.SSLError as error:
        now = f", which says {os.environ[variable]} now" if variable else ""
        raise UserError(
            f"{address}: the server's certificate is not trusted ({_reason(error)}); if it should be, name the file of "
            f"its authority in {variable or VARIABLES[-1]}{now}"
        ) from error
    except requests.TooManyRedirects as error:
        raise UserError(f"{address}: the server redirects without end; check the address") from error
    except (requests.RequestException, ValueError) as error:
        reason = _reason(error)[:200]
        if not answered and isinstance(error, requests.ConnectionError):
            raise UserError(f"{address}: the server cannot be reached ({reason}); check the address") from error
        raise UserError(f"{address}: the download broke ({reason}); run the same command again") from error
    if total and file.tell() != total:
        raise UserError(f"{address}: {file.tell():,} of {total:,} bytes came; run the same command again")


def _stays_on_https(answer: Any, **_: Any) -> None:
    """Check where a server redirects to before the request follows."""
    to = urljoin(answer.url, answer.headers["Location"]) if answer.is_redirect else answer.url
    if not ALLOWED.match(to):
        raise UserError(f"{answer.url}: leads to {to}, which is not https; checkpoints are fetched by https only")


def _certificates_variable() -> str | None:
    """The variable that names a file of trusted certificates; None where none does."""
    name = next((name for name in VARIABLES if os.environ.get(name)), None)
    if name and not Path(os.environ[name]).exists():
        raise UserError(
            f"{name}={os.environ[name]}: no such file; name the file of trusted certificates, or unset the variable"
        )
    return name


def _reason(error: BaseException) -> str:
    """What lies at the bottom of a network error; the layers above it repeat the address."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)

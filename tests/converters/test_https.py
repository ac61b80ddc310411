"""A real https server on this machine: whom we trust, where it may send us, and how every fault reads."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from torchvision.models.resnet import ResNet

from converters import fetching
from tests.converters import layouts

# For this machine, and for another one.
NAMES = {"good": "IP:127.0.0.1", "wrong": "DNS:elsewhere.example"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of self-signed certificates with their keys."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in NAMES.items():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
             "-addext", f"subjectAltName={subject}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
    return folder


class Handler(BaseHTTPRequestHandler):
    data = b""
    to = ""

    def do_GET(self) -> None:
        kind = self.path.strip("/").split("/")[0]
        if kind == "missing":
            self.send_error(404)
            return
        if kind in ("moved", "loop", "downgraded"):
            places = {"moved": "/models/net.pth", "loop": "/loop", "downgraded": "http://example.com/net.pth"}
            self.send_response(302)
            self.send_header("Location", places[kind])
            self.end_headers()
            return
        data = b"\n<!DOCTYPE html><title>Sign in</title>" if kind == "page" else self.data
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if kind == "cut" else data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def serve(certificates: Path, tmp_path: Path, backbone: ResNet) -> Iterator[Callable[[str], str]]:
    """`serve("good")`: the address of a server with that certificate."""
    servers = []

    class Mine(Handler):
        data = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone).read_bytes()

    def start(name: str) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", ["models/net.pth", "moved/net.pth"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_named_authority_is_trusted(
    path: str, variable: str, serve: Callable[[str], str], certificates: Path, monkeypatch: pytest.MonkeyPatch,
    converters: Callable[..., Any],
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, str(certificates / "good.pem"))
    outcome = converters("inspect", f"{serve('good')}/{path}", "--json")
    assert outcome.status == 0 and outcome.report["format"] == "simsiam", outcome.err


@pytest.mark.parametrize(
    ("certificate", "authority", "path", "message"),
    [
        ("good", None, "models/net.pth", "not trusted (self-signed certificate)"),
        ("wrong", "wrong", "models/net.pth", "not trusted (IP address mismatch"),
        ("good", "wrong", "models/net.pth", "not trusted (self-signed certificate)"),
        ("good", "wrong", "models/net.pth", "name the file of its authority in SSL_CERT_FILE, which says /"),
        (
            "good",
            "absent",
            "models/net.pth",
            "absent.pem: no such file; name the file of trusted certificates, or unset",
        ),
        ("good", "good", "missing/net.pth", "answers 404 Not Found; check the address"),
        ("good", "good", "cut/net.pth", "the download broke"),
        ("good", "good", "loop/net.pth", "redirects without end"),
        (
            "good",
            "good",
            "page/net.pth",
            "sent a web page, a message or nothing; give the address that its download link has",
        ),
        ("good", "good", "downgraded/net.pth", "is not https"),
    ],
)
def test_every_fault_is_one_line_and_status_2(
    certificate: str, authority: str | None, path: str, message: str, serve: Callable[[str], str], certificates: Path,
    monkeypatch: pytest.MonkeyPatch, converters: Callable[..., Any],
) -> None:  # fmt: skip
    if authority:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / f"{authority}.pem"))
    outcome = converters("inspect", f"{serve(certificate)}/{path}")
    # Below the bar of a download that had begun.
    lines = [line for line in outcome.err.splitlines() if "B/s" not in line and line.strip()]
    assert outcome.status == 2 and len(lines) == 1 and message in lines[0], outcome.err
    assert not list(fetching.default_cache().glob("*/download.json")), "nothing of it counts as downloaded"

"""Downloads against a server in this process: once, whole or not at all, checked, offline afterwards."""

import http.server
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from torchvision.models.resnet import ResNet

from converters import fetching, load_backbone
from converters.checkpoint_layouts import FORMATS
from runs.errors import UserError
from runs.files import sha256
from tests.converters import layouts

BaseHandler = http.server.BaseHTTPRequestHandler


class Server(http.server.ThreadingHTTPServer):
    """Serves `data`; `breaks` cuts the next answers off after so many bytes."""

    data = b""
    status = 200
    breaks: list[int]
    headers: dict[str, str]
    requests: list[str]
    more: dict[str, bytes]


class Handler(BaseHandler):
    server: Server

    def do_GET(self) -> None:
        if "missing" in self.path:
            self.send_error(404, "Not Found")
            return
        body = self.server.data
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.server.requests.append(self.path)
        if self.server.breaks:
            body = body[: self.server.breaks.pop(0)]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, backbone: ResNet) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.data = layouts.Layout("simsiam", layouts.simsiam).write(tmp_path, backbone).read_bytes()
    server.breaks, server.requests, server.headers = [], [], {}
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def address(server: Server, path: str = "models/checkpoint_0099.pth.tar") -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_paths_are_left_alone(tmp_path: Path) -> None:
    assert fetching.fetch(tmp_path / "a.pth") == tmp_path / "a.pth"


def test_downloaded_once_and_offline_afterwards(server: Server, converters: Callable[..., Any]) -> None:
    first = load_backbone(address(server))
    assert first.format == "simsiam" and len(server.requests) == 1
    server.shutdown()
    server.server_close()
    assert load_backbone(address(server)).source_sha256 == first.source_sha256
    assert converters("inspect", address(server), "--json").report["sha256"] == first.source_sha256


def test_a_broken_download_begins_again(server: Server) -> None:
    """Nothing of an answer that broke off is used: the server's file may have changed meanwhile."""
    server.breaks = [1_000_000]
    with pytest.raises(UserError, match="the download broke"):
        fetching.fetch(address(server))
    server.data = server.data[::-1]
    file = fetching.fetch(address(server))
    assert file.read_bytes() == server.data and len(server.requests) == 2


def test_what_a_killed_download_left_is_removed(server: Server) -> None:
    file = fetching.fetch(address(server))
    left = file.with_name(f".{file.name}.0123abcd.partial")
    left.write_bytes(b"the beginning")
    file.unlink()
    assert fetching.fetch(address(server)).read_bytes() == server.data
    assert {path.name for path in file.parent.iterdir()} == {file.name, "download.json", ".lock"}


def test_a_part_that_nobody_asked_for(server: Server) -> None:
    server.status, server.headers = 206, {"Content-Range": f"bytes 0-{len(server.data) - 1}/{len(server.data)}"}
    with pytest.raises(UserError, match="the server answers 206 Partial Content"):
        fetching.fetch(address(server))


def test_a_server_that_sends_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 1_000_000)
    with pytest.raises(UserError, match="more than 0 GB; check the address"):
        fetching.fetch(address(server))
    monkeypatch.setattr(fetching, "MAX_BYTES", 16 << 30)
    clock = types.SimpleNamespace(monotonic=itertools.count(0, 10_000).__next__)
    monkeypatch.setattr(fetching, "time", clock)
    with pytest.raises(UserError, match="bytes a second; try again at another time"):
        fetching.fetch(address(server))
    assert not list(fetching.default_cache().rglob("*.tar*"))


@pytest.mark.parametrize(
    "body",
    [b"", b'{"error": "no such file"}', b"<?xml version='1.0'?><Error/>", b"\xef\xbb\xbf\n<!doctype html>",
     b"<head><title>Quota</title>", b"error: expired"],
)  # fmt: skip
def test_messages_are_not_kept(body: bytes, server: Server) -> None:
    whole, server.data = server.data, body
    with pytest.raises(UserError, match="a web page, a message or nothing"):
        fetching.fetch(address(server))
    server.data = whole
    assert fetching.fetch(address(server)).read_bytes() == whole


def test_compressed_answers_are_refused(server: Server) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(UserError, match="compresses the file although that was not asked for"):
        fetching.fetch(address(server))


def test_credentials_are_nowhere(server: Server) -> None:
    secret = address(server).replace("http://", "http://user:password@") + "?token=abc"
    file = fetching.fetch(secret)
    assert "password" not in (text := (file.parent / "download.json").read_text()) and "abc" not in text
    with pytest.raises(UserError) as caught:
        fetching.fetch(secret.replace("models", "missing.pth"))
    assert "password" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_file_that_changed_in_the_cache_is_refused(server: Server) -> None:
    file = fetching.fetch(address(server))
    file.write_bytes(server.data[:-1] + b"x")
    with pytest.raises(UserError, match="changed since it was downloaded; remove the folder"):
        fetching.fetch(address(server))


def test_the_zoo_checks_the_published_sha256(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo.yaml"
    monkeypatch.setattr(fetching, "ZOO", zoo)
    zoo.write_text(yaml.safe_dump({"mine": {"url": address(server), "sha256": "0" * 64}}))
    with pytest.raises(UserError, match=r"sha256 \w+, published is 000"):
        fetching.fetch("zoo:mine")
    (tmp_path / "data").write_bytes(server.data)
    zoo.write_text(yaml.safe_dump({"mine": {"url": address(server), "sha256": sha256(tmp_path / "data")}}))
    assert fetching.fetch("zoo:mine").read_bytes() == server.data
    with pytest.raises(UserError, match="zoo:yours: no such checkpoint; known: mine"):
        fetching.fetch("zoo:yours")


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of Hugging Face's hub that its client asks for one file of a repository, which is private."""

    server: Server
    commit = "0" * 40

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.headers.get("Authorization") != "Bearer secret":
            self.send_response(401)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        files = {"model.safetensors": self.server.data, "config.json": b'{"hidden_act": "relu"}', **self.server.more}
        repository, _, name = self.path.rpartition("/")
        found = repository == "/owner/net/resolve/main" and name in files
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(files.get(name, b""))))
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET" and found:
            self.wfile.write(files[name])

    def log_message(self, *_: Any) -> None: ...


def test_hub_addresses_go_through_its_own_client(server: Server, tmp_path: Path, backbone: ResNet) -> None:
    """Its login, cache, offline switch and HF_ENDPOINT hold; it reads them when it is imported, so in processes."""
    pytest.importorskip("huggingface_hub")
    server.RequestHandlerClass, tensors = Hub, layouts.tensors(backbone)
    shards = [dict(list(tensors.items())[half::2]) for half in (0, 1)]
    server.more = {f"model-0000{n + 1}-of-00002.safetensors": safetensors.torch.save(shards[n]) for n in (0, 1)}
    names = {tensor: shard for shard, part in zip(server.more, shards, strict=True) for tensor in part}
    server.more["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()

    def fetch(address: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "converters", "inspect", address, "--json", "--unchecked"]
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
        return subprocess.run(
            command, env=plain | hub | more, cwd=layouts.ROOT, capture_output=True, text=True, check=False
        )

    address = "hf://owner/net/model.safetensors@main"
    refused = fetch(address)
    assert refused.returncode == 2 and "log in with `hf auth login`" in refused.stderr.splitlines()[-1]
    done = fetch(address, HF_TOKEN="secret")
    assert done.returncode == 0, done.stderr
    file = Path(json.loads(done.stdout)["file"])
    assert file.is_relative_to(tmp_path / "hub") and {path.name for path in file.parent.iterdir()} == {
        "model.safetensors", "config.json"
    }  # fmt: skip
    asked = len(server.requests)
    offline = fetch(address, HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout) == json.loads(done.stdout) and len(server.requests) == asked
    index = fetch("hf://owner/net/model.safetensors.index.json", HF_TOKEN="secret")
    assert index.returncode == 0 and json.loads(index.stdout)["reader"] == "2 shards", index.stderr
    absent = fetch("hf://owner/net/other.safetensors", HF_HUB_OFFLINE="1")
    assert absent.returncode == 2 and "unset HF_HUB_OFFLINE" in absent.stderr and absent.stderr.count("\n") == 1


def test_hub_addresses_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub; pip install 'siamese-transfer\[hub\]'"):
        fetching.fetch("hf://owner/net/model.safetensors")
    with pytest.raises(UserError, match="not hf://OWNER/REPOSITORY/FILE"):
        fetching.fetch("hf://resnet-50")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://example.com/a.pth", "not an https address"),
        ("file:///etc/passwd", "not an https address"),
        ("ftp://example.com/a.pth", "not an https address"),
        ("https:/me:secret@host/a.pth?token=secret", "https:/host/a.pth: no such file"),
        ("s3://key:secret@bucket/a.pth", "s3://bucket/a.pth: not an https address"),
        ("hf://me:secret@owner/net/a.pth#secret", "hf://owner/net/a.pth: not hf://OWNER"),
        ("https://host/model.safetensors.index.json?token=secret", "index.json: an index of several files; give it as"),
        ("http://127.0.0.1:9/a.pth", "the server cannot be reached (Connection refused); check the address"),
    ],
)
def test_addresses_that_are_refused(source: str, message: str, converters: Callable[..., Any]) -> None:
    outcome = converters("inspect", source)
    assert outcome.status == 2 and message in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert "secret" not in outcome.err


@pytest.mark.parametrize("name", ["n" * 300 + ".pth", ""])
def test_any_name_of_a_file(name: str, server: Server) -> None:
    assert fetching.fetch(address(server, name)).read_bytes() == server.data


@pytest.mark.parametrize("length", ["many", "-5"])
def test_a_length_that_is_none(length: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def send_header(self: Handler, name: str, value: str) -> None:
        BaseHandler.send_header(self, name, length if name == "Content-Length" else value)

    monkeypatch.setattr(Handler, "send_header", send_header)
    with pytest.raises(UserError, match=r"the download broke|of -5 bytes came"):
        fetching.fetch(address(server))


def test_a_missing_file_is_one_line(server: Server, converters: Callable[..., Any]) -> None:
    outcome = converters("inspect", address(server, "missing.pth"))
    assert outcome.status == 2 and "answers 404 Not Found" in outcome.err and outcome.err.count("\n") == 1


def test_the_zoo_is_well_formed() -> None:
    formats = {entry.name for entry in FORMATS}
    for name, entry in fetching.zoo().items():
        assert set(entry) - {"sha256"} == {"url", "format", "epochs", "top1", "voc0712", "source"}, name
        assert entry["format"] in formats and entry["url"].startswith("https://") and 50 < entry["top1"] < 80
        assert re.search(r"@[0-9a-f]{8}", entry["source"])


def test_the_zoo_is_listed(converters: Callable[..., Any]) -> None:
    outcome = converters("zoo")
    assert outcome.status == 0
    assert all(name in outcome.out for name in fetching.zoo())

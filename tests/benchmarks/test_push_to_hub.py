"""`evaluate --push`: what is shown, what a stand-in for the Hub receives, and its refusals in one line."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.__main__ import main
from benchmarks.workflow.plan import Plan
from benchmarks.workflow.run_status import Status
from converters.resnet_model import build_resnet
from runs.record import Subject, write_record
from tests.converters.layouts import trained

huggingface_hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.slow


class Hub(http.server.BaseHTTPRequestHandler):
    """The Hub's requests for an upload, and what came with them."""

    requests: list[tuple[str, str]]
    files: dict[str, bytes]
    refuse = False

    def answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.requests.append((path, self.headers["Authorization"] or ""))
        address = f"http://{self.headers['Host']}"
        if self.refuse:
            self.answer({"error": "Invalid user token."}, 401)
        elif path == "/api/repos/create":
            self.answer({"url": f"{address}/owner/net", "name": "owner/net"})
        elif path == "/api/models/owner/net/preupload/main":
            names = [file["path"] for file in json.loads(text)["files"]]
            mode = {True: "regular", False: "lfs"}
            self.answer(
                {"files": [{"path": n, "uploadMode": mode[n == "README.md"], "shouldIgnore": False} for n in names]}
            )
        elif path == "/owner/net.git/info/lfs/objects/batch":
            objects = json.loads(text)["objects"]
            links = [o | {"actions": {"upload": {"href": f"{address}/store/{o['oid']}"}}} for o in objects]
            self.answer({"transfer": "basic", "objects": links})
        elif path == "/api/models/owner/net/commit/main":
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.files.pop(line["value"]["oid"])
            self.answer({"commitUrl": f"{address}/owner/net/commit/1", "commitOid": "1" * 40})
        else:
            self.answer({})

    def do_PUT(self) -> None:
        self.files[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[SimpleNamespace]:
    """The stand-in: its address, the requests it had and the files it has; with `refuse` it knows no token."""
    handler: Any = type("Handler", (Hub,), {"requests": [], "files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}", handler=handler)
        server.shutdown()


@pytest.fixture
def arch() -> str:
    return "resnet18"


@pytest.fixture
def evaluated(make: SimpleNamespace, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of an `evaluate` whose runs are stand-ins."""

    def work(plan: Plan) -> Status:
        for run in plan.runs.values():
            if run.kind in ("linear", "knn"):
                subject = Subject("net", arch, None, "x", plan.checkpoint.sha256)
                write_record(plan.folder(run.id), make.record(run.kind, "net", 61.25, subject=subject))
        return Status()

    monkeypatch.setattr("benchmarks.evaluate.run_plan", work)
    torch.save(trained(arch).state_dict(), tmp_path / "net.pth")
    return ["evaluate", str(tmp_path / "net.pth"), "--output", str(tmp_path / "out"), "--push", "owner/net"]


def upload(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """What `--yes` does at the end, in a process of its own, as the Hub's address is read at its start."""
    code = (
        "import os, sys; from pathlib import Path; from runs.app import cli\n"
        "from benchmarks.push_to_hub import upload\n"
        "folder = Path(sys.argv[1])\n"
        "cli(lambda: print(upload(folder, os.listdir(folder), 'owner/net')) or 0)()"
    )
    # Xet's own storage protocol has no stand-in: the large files go by Git LFS, as from systems that lack hf_xet.
    environment = os.environ | {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environment)


# Detectron2's ResNet has no stem for CIFAR: only what can be converted is offered.
@pytest.mark.parametrize(
    ("arch", "weights"),
    [("resnet18_cifar", {"model.safetensors"}), ("resnet18", {"model.safetensors", "detectron2.pkl"})],
)
def test_a_dry_run_shows_card_and_files_and_an_upload_sends_them(
    evaluated: list[str],
    arch: str,
    weights: set[str],
    tmp_path: Path,
    hub: SimpleNamespace,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(evaluated)
    shown = capfd.readouterr().out
    assert stop.value.code == 0 and not hub.handler.requests
    named = {line.split(": ")[0] for line in shown.splitlines() if line.startswith("owner/net/")}
    assert "nothing was sent" in shown and named == {f"owner/net/{name}" for name in {"README.md", *weights}}

    sent = upload(tmp_path / "out/hub", hub.address)
    assert sent.returncode == 0 and sent.stdout.endswith("/owner/net/commit/1\n"), sent.stderr
    order = [path for path, _ in hub.handler.requests]
    steps = ["/api/repos/create", "/api/models/owner/net/preupload/main", "/owner/net.git/info/lfs/objects/batch"]
    assert sorted(map(order.index, steps)) == list(map(order.index, steps)) and order[-1].endswith("/commit/main")
    assert all(token == "Bearer hf_secret" for _, token in hub.handler.requests)
    files = hub.handler.files
    assert files.keys() == {"README.md", *weights}
    for name, content in files.items():
        assert content == (tmp_path / "out/hub" / name).read_bytes()

    # As the Hub reads it, and as anybody loads it.
    results = huggingface_hub.ModelCard(files["README.md"].decode()).data.eval_results
    assert [(r.task_type, r.metric_type, r.metric_value) for r in results] == [
        ("image-classification", "accuracy", 61.25)
    ] * 2
    assert all("generated" in r.dataset_name and "mini scale" in r.dataset_name for r in results)
    assert hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest().encode() in files["README.md"]
    model = build_resnet(arch, num_classes=1000)
    rest = model.load_state_dict(load_file(tmp_path / "out/hub/model.safetensors"), strict=False)
    assert set(rest.missing_keys) == {"fc.weight", "fc.bias"} and not rest.unexpected_keys


def test_a_refusal_and_an_absent_hub_are_one_line(tmp_path: Path, hub: SimpleNamespace) -> None:
    (tmp_path / "README.md").write_text("a card")
    hub.handler.refuse = True
    for address in (hub.address, "http://127.0.0.1:9"):
        sent = upload(tmp_path, address)
        lines = sent.stderr.strip().splitlines()
        assert sent.returncode == 2 and len(lines) == 1 and "--push owner/net: " in lines[0], sent.stderr
    assert not hub.handler.files
